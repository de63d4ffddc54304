//! What goes over the wire besides HTTP/2 itself: the bodies of enrolment, refusals, and the verdict that opens a link.
//!
//! Protocols, told apart by ALPN on one port:
//! - `nm-enrol/1`: HTTP/1.1, one request, the dialling machine is the client. `POST /v1/enrol` with a join token's secret;
//!   `POST /v1/renew` with the node's present certificate in the TLS session. Answers are 200 with an [`EnrolReply`], or an
//!   error status with a [`Refusal`].
//! - `nm-link/1`: mutual TLS. The control plane sends one [`Verdict`] (two bytes of length, big-endian, then JSON). After an
//!   admission roles turn: the agent serves HTTP/2 on the connection. TLS 1.3 lets a client finish its handshake before the
//!   server has looked at its certificate, so without the verdict an agent could not tell being connected from being refused.

use nm_types::NodeId;
use serde::{Deserialize, Serialize};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub(crate) const ALPN_LINK: &[u8] = b"nm-link/1";
pub(crate) const ALPN_ENROL: &[u8] = b"nm-enrol/1";
pub(crate) const ENROL_PATH: &str = "/v1/enrol";
pub(crate) const RENEW_PATH: &str = "/v1/renew";
/// The largest body of an enrolment or its answer.
pub(crate) const MAX_BODY: usize = 64 * 1024;
const MAX_VERDICT: usize = 4096;

/// Why a machine was not let in, for a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The join token is not one of this control plane's.
    TokenUnknown,
    /// The join token has let a machine in before.
    TokenUsed,
    TokenExpired,
    /// The certificate request is malformed or asks for what it may not have.
    CsrRefused,
    /// The request itself is malformed.
    InvalidRequest,
    TooLarge,
    /// The TLS session has no agent's certificate.
    CertificateRequired,
    /// The node or its certificate was revoked.
    Revoked,
    /// The control plane does not know the node.
    UnknownNode,
    NotFound,
    /// The control plane cannot answer now; the same request may succeed later.
    Unavailable,
    /// A code of a newer control plane.
    #[serde(other)]
    Other,
}

impl RefusalCode {
    pub(crate) fn status(self) -> http::StatusCode {
        use http::StatusCode as S;
        match self {
            Self::TokenUnknown | Self::TokenUsed | Self::TokenExpired | Self::CertificateRequired => S::UNAUTHORIZED,
            Self::Revoked | Self::UnknownNode => S::FORBIDDEN,
            Self::CsrRefused => S::UNPROCESSABLE_ENTITY,
            Self::InvalidRequest | Self::Other => S::BAD_REQUEST,
            Self::TooLarge => S::PAYLOAD_TOO_LARGE,
            Self::NotFound => S::NOT_FOUND,
            Self::Unavailable => S::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether asking again, unchanged, may succeed.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

/// Why a machine was not let in. The message is for a person and holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub code: RefusalCode,
    #[serde(rename = "error")]
    pub message: String,
}

impl Refusal {
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// What a joining machine says of itself. Claims, not facts: nothing is decided by them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentFacts {
    pub hostname: String,
    pub agent_version: String,
    /// As Rust names it: `linux`.
    pub os: String,
    /// As Rust names it: `x86_64`, `aarch64`.
    pub arch: String,
}

impl AgentFacts {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        for (field, text, max) in [
            ("hostname", &self.hostname, 253),
            ("agentVersion", &self.agent_version, 64),
            ("os", &self.os, 32),
            ("arch", &self.arch, 32),
        ] {
            if text.is_empty() || text.len() > max || text.chars().any(char::is_control) {
                return Err(Refusal::new(
                    RefusalCode::InvalidRequest,
                    format!("`{field}` is one line of 1 to {max} bytes"),
                ));
            }
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EnrolBody {
    pub secret: String,
    pub csr: String,
    pub facts: AgentFacts,
}

impl Drop for EnrolBody {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.secret);
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RenewBody {
    pub csr: String,
}

/// The answer to an enrolment or a renewal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrolReply {
    pub node_id: NodeId,
    /// The node's certificate, PEM.
    pub certificate: String,
    /// The authorities to trust from now on, PEM, one after the other.
    pub ca_certificates: String,
}

/// The first thing on a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Admitted,
    Refused(Refusal),
}

pub(crate) async fn write_verdict(to: &mut (impl AsyncWrite + Unpin), verdict: &Verdict) -> io::Result<()> {
    let json = serde_json::to_vec(verdict)?;
    let length = u16::try_from(json.len()).ok().filter(|n| usize::from(*n) <= MAX_VERDICT);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a verdict is longer than 4096 bytes"))?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(&json);
    to.write_all(&frame).await?;
    to.flush().await
}

/// Reads one verdict and not a byte more: HTTP/2 follows.
pub(crate) async fn read_verdict(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Verdict> {
    let length = usize::from(from.read_u16().await?);
    if length > MAX_VERDICT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the control plane's first words are not a verdict",
        ));
    }
    let mut json = vec![0; length];
    from.read_exact(&mut json).await?;
    Ok(serde_json::from_slice(&json)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_verdict_is_read_whole_and_nothing_after_it() {
        for verdict in [Verdict::Admitted, Verdict::Refused(Refusal::new(RefusalCode::Revoked, "revoked"))] {
            let mut bytes = Vec::new();
            write_verdict(&mut bytes, &verdict).await.unwrap();
            bytes.extend_from_slice(b"PRI *");
            let mut from = bytes.as_slice();
            assert_eq!(read_verdict(&mut from).await.unwrap(), verdict);
            assert_eq!(from, b"PRI *");
        }
        assert!(read_verdict(&mut &b"HTTP/1.1 400 Bad Request"[..]).await.is_err());
        assert!(read_verdict(&mut &b"\0\x02{}"[..]).await.is_err());
    }

    #[test]
    fn a_code_of_a_newer_control_plane_is_still_a_refusal() {
        let refusal: Refusal = serde_json::from_str(r#"{"code":"moon_phase","error":"not today"}"#).unwrap();
        assert_eq!(refusal.code, RefusalCode::Other);
    }
}
