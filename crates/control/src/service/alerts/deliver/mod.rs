//! One delivery to one channel: what is written where, and what counts as arrived.
//!
//! Invariants: every address goes through [`Guard`] and is connected to as it was judged; no redirect is followed; each
//! attempt has a deadline; of an answer no more is read than is needed; what goes out unencrypted stays in private networks;
//! no secret is in an error.

mod http;
mod mail;
mod words;

use super::outbox::Told;
use crate::service::outbound::Guard;
use ::http::{HeaderMap, HeaderValue};
use hmac::{Hmac, Mac};
use nm_types::alert::channel::AlertChannelConfig;
use nm_types::{DeliveryId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Sha256;
use std::net::IpAddr;
use std::time::Duration;

/// Why a delivery did not arrive, in a sentence without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    /// What the receiver asked to wait.
    pub retry_after: Option<Duration>,
    /// Trying again is of no use.
    pub is_final: bool,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            retry_after: None,
            is_final: false,
        }
    }
    pub(super) fn last(message: impl Into<String>) -> Self {
        Self {
            is_final: true,
            ..Self::new(message)
        }
    }
}

/// A channel with its secrets in the clear, for as long as something is sent.
pub(super) struct OpenChannel {
    pub config: AlertChannelConfig,
    pub secrets: Secrets,
}

/// What of a channel is sealed.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Secrets {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Secrets {
    /// The names of those that are there.
    pub fn names(&self) -> Vec<String> {
        [
            ("url", &self.url),
            ("secret", &self.secret),
            ("password", &self.password),
            ("token", &self.token),
        ]
        .into_iter()
        .filter(|(_, value)| value.is_some())
        .map(|(name, _)| name.to_owned())
        .collect()
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.names().join(", "))
    }
}

fn missing() -> Failure {
    Failure::new("the channel lacks a secret it needs: send it again")
}

/// Sends it once. Gives what the receiver said.
pub(super) async fn send(
    guard: &Guard,
    channel: &OpenChannel,
    delivery: &DeliveryId,
    told: &Told,
    now: Timestamp,
) -> Result<String, Failure> {
    let OpenChannel { config, secrets } = channel;
    match config {
        AlertChannelConfig::Email {
            host,
            port,
            tls,
            username,
            from,
            to,
        } => {
            let server = mail::Server {
                host: host.as_str(),
                port: port.get(),
                tls: *tls,
                login: username.as_ref().map(|u| u.as_str()).zip(secrets.password.as_deref()),
            };
            mail::send(guard, &server, mail::letter(from, to, delivery, told)?).await
        }
        AlertChannelConfig::Webhook { .. } => {
            let url = secrets.url.as_deref().ok_or_else(missing)?;
            let key = secrets.secret.as_deref().ok_or_else(missing)?;
            let body = bytes(&words::webhook(delivery, told))?;
            let mut headers = common(delivery, told);
            let signature = signature(key, now, &body);
            headers.insert("x-neuralmesh-signature", header(&signature)?);
            http::post(guard, url, headers, body).await?.must_succeed(|_| None)
        }
        AlertChannelConfig::Slack { .. } => {
            let url = secrets.url.as_deref().ok_or_else(missing)?;
            let answer = http::post(guard, url, common(delivery, told), bytes(&words::slack(told))?).await?;
            // Slack says what is wrong as one word: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
            answer.must_succeed(|body| {
                let word = std::str::from_utf8(body).ok()?.trim();
                let is_word = (1..=40).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                is_word.then(|| word.to_owned())
            })
        }
        AlertChannelConfig::Discord { .. } => {
            let url = secrets.url.as_deref().ok_or_else(missing)?;
            let answer = http::post(guard, url, common(delivery, told), bytes(&words::discord(told))?).await?;
            answer.must_succeed(|body| said(body, "message"))
        }
        AlertChannelConfig::Telegram { chat_id, api_base } => {
            let token = secrets.token.as_deref().ok_or_else(missing)?;
            let url = http::below(api_base.as_str(), &[&format!("bot{token}"), "sendMessage"])?;
            let answer = http::post(guard, &url, common(delivery, told), bytes(&words::telegram(chat_id, told))?).await?;
            let answer = answer.telling(|body| {
                let value: Value = serde_json::from_slice(body).ok()?;
                value["parameters"]["retry_after"].as_u64().map(Duration::from_secs)
            });
            // It says `"ok": true` besides the status: https://core.telegram.org/bots/api#making-requests
            let is_ok = |body: &[u8]| serde_json::from_slice::<Value>(body).is_ok_and(|v| v["ok"] == true);
            if answer.is_success() && !is_ok(&answer.body) {
                return Err(Failure::new("the receiver's answer is not Telegram's: check apiBase"));
            }
            answer.must_succeed(|body| said(body, "description"))
        }
        AlertChannelConfig::Ntfy { server, topic } => {
            let mut headers = common(delivery, told);
            if let Some(token) = &secrets.token {
                let mut value = header(&format!("Bearer {token}"))?;
                value.set_sensitive(true);
                headers.insert(::http::header::AUTHORIZATION, value);
            }
            let answer = http::post(guard, server.as_str(), headers, bytes(&words::ntfy(topic, told))?).await?;
            answer.must_succeed(|body| said(body, "error"))
        }
    }
}

/// A text of a JSON answer, where it is short and plain enough to be shown.
fn said(body: &[u8], field: &str) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let text: String = value[field].as_str()?.chars().filter(|c| !c.is_control()).take(200).collect();
    (!text.is_empty()).then_some(text)
}

fn bytes(body: &Value) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(body).map_err(|_| Failure::last("the message could not be written as JSON"))
}

fn header(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text).map_err(|_| Failure::last("a secret of the channel can't stand in a header: send it again"))
}

/// What every receiver gets: the same delivery has the same id in each attempt.
fn common(delivery: &DeliveryId, told: &Told) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(::http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-neuralmesh-event", HeaderValue::from_static(told.event.as_str()));
    if let Ok(value) = HeaderValue::from_str(delivery.as_str()) {
        headers.insert("x-neuralmesh-delivery", value);
    }
    headers
}

/// `t=<unix seconds>,v1=<hex>`: HMAC-SHA256 over `<t>.<body>`. The moment keeps a recorded request from being sent again much
/// later; the version leaves room for another way.
fn signature(key: &str, now: Timestamp, body: &[u8]) -> String {
    let seconds = now.0.div_euclid(1000);
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    format!("t={seconds},v1={}", hex::encode(mac.finalize().into_bytes()))
}

/// Whether what is said to this address stays within networks that are somebody's own.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || shared
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_private(v4.into()),
            None => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_that_receivers_compute() {
        // printf '1770000000.{"a":1}' | openssl dgst -sha256 -hmac 'a key of sixteen'
        assert_eq!(
            signature("a key of sixteen", Timestamp(1_770_000_000_999), b"{\"a\":1}"),
            "t=1770000000,v1=3047e26ae6e7e01e36619199f0dc557c9e9e9a06ad09a01483094ca1e3b76c77"
        );
    }

    #[test]
    fn private_networks() {
        for (ip, private) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("172.31.0.1", true),
            ("172.32.0.1", false),
            ("192.168.0.1", true),
            ("100.64.0.1", true),
            ("100.128.0.1", false),
            ("8.8.8.8", false),
            ("::1", true),
            ("fd00::1", true),
            ("2001:db8::1", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:8.8.8.8", false),
        ] {
            assert_eq!(is_private(ip.parse().unwrap()), private, "{ip}");
        }
    }
}
