//! How a call fails, and what a person can do about it.

use super::credentials::CredentialsError;
use nm_types::envelope::{ErrorBody, FieldProblem};
use nm_types::operation::OperationError;
use std::time::Duration;

/// Why a call came to nothing. Each is one sentence; [`hint`](Self::hint) says what to do next where that is known.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered, with a refusal.
    #[error("{}", .body.error)]
    Refused {
        status: u16,
        body: Box<ErrorBody>,
        retry_after: Option<u64>,
        signed_in_by: SignedInBy,
        server: String,
    },
    /// An operation was begun and failed.
    #[error("{}", .error.error)]
    Operation { id: String, error: Box<OperationError> },
    #[error("operation {id} was cancelled")]
    Cancelled { id: String },
    /// Nobody could be reached; nothing was sent.
    #[error("can't reach NeuralMesh at {server}: {reason}")]
    Unreachable { server: String, reason: String, cause: Unreached },
    /// The connection broke after the request was sent: it may have been carried out.
    #[error("the connection to {server} broke off: {reason}")]
    Broken { server: String, reason: String },
    #[error("{server} did not answer within {} seconds", .after.as_secs())]
    Timeout { server: String, after: Duration },
    /// Something answered that does not speak our API.
    #[error("{server} answered {status}, but not as NeuralMesh does")]
    Foreign {
        server: String,
        status: u16,
        redirect: Option<String>,
    },
    /// Our API answered in a shape this version does not know.
    #[error("the answer of {server} could not be read")]
    Shape { server: String, source: serde_json::Error },
    /// The saved login is over.
    #[error("the login at {server} has ended")]
    LoginEnded { server: String },
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Why nobody could be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreached {
    /// Nobody listens there.
    Refused,
    /// Somebody does, but is not trusted.
    Distrusted,
    /// No such host, no way there, no answer.
    Other,
}

/// Where the token of a call came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedInBy {
    Nothing,
    Environment,
    File,
    Login,
}

impl ClientError {
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Operation { error, .. } => Some(error.status),
            _ => None,
        }
    }

    /// The stable code of a refusal: `container_not_found`.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { body, .. } => Some(&body.code),
            Self::Operation { error, .. } => Some(&error.code),
            _ => None,
        }
    }

    /// The fields that were refused.
    pub fn details(&self) -> &[FieldProblem] {
        match self {
            Self::Refused { body, .. } => &body.details,
            Self::Operation { error, .. } => &error.details,
            _ => &[],
        }
    }

    /// The last lines of the container that explain it.
    pub fn logs(&self) -> &[String] {
        match self {
            Self::Refused { body, .. } => &body.logs,
            Self::Operation { error, .. } => &error.logs,
            _ => &[],
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused {
                status: 401,
                signed_in_by,
                server,
                ..
            } => Some(match signed_in_by {
                SignedInBy::Environment => format!("the token in NEURALMESH_TOKEN is not (or no longer) good at {server}"),
                SignedInBy::File => format!("the token in the token file is not (or no longer) good at {server}"),
                SignedInBy::Nothing | SignedInBy::Login => format!("sign in: neuralmesh login --server-url {server}"),
            }),
            Self::Refused { status: 403, body, .. } if body.code == "forbidden" => {
                Some("see who you are signed in as: neuralmesh users whoami".to_owned())
            }
            Self::Refused {
                status: 429,
                retry_after: Some(seconds),
                ..
            } => Some(format!("try again in {seconds} seconds")),
            Self::Refused { status: 500.., body, .. } if body.code == "internal" => {
                Some(format!("the server's log has more under the request id {}", body.request_id))
            }
            Self::Refused { body, .. } => body
                .operation_id
                .as_ref()
                .map(|id| format!("its steps and log: neuralmesh operations get {id}")),
            Self::Operation { id, .. } => Some(format!("its steps and log: neuralmesh operations get {id}")),
            Self::Unreachable {
                cause: Unreached::Refused,
                server,
                ..
            } => Some(format!(
                "is the server up there? Start one with `neuralmesh up`, or name another with --server-url or NEURALMESH_SERVER (now {server}); \
                 `neuralmesh doctor` looks closer"
            )),
            Self::Unreachable {
                cause: Unreached::Distrusted,
                ..
            } => Some("an authority of your own is trusted when --ca-file or NEURALMESH_CA_FILE names its certificate".to_owned()),
            Self::Unreachable {
                cause: Unreached::Other, ..
            } => Some("check the URL (--server-url, NEURALMESH_SERVER) and the network; `neuralmesh doctor` looks closer".to_owned()),
            Self::Foreign { redirect: Some(to), .. } => Some(format!("it sends callers on to {to}; use that as the server's URL")),
            Self::Foreign { server, .. } => Some(format!(
                "is {server} the right URL? A proxy in front of it may be answering in its place"
            )),
            Self::Shape { .. } => Some("the server and this program may be of different versions: compare `neuralmesh doctor`".to_owned()),
            Self::LoginEnded { server } => Some(format!("sign in again: neuralmesh login --server-url {server}")),
            Self::Broken { .. } | Self::Timeout { .. } => Some("it may have been done all the same: look before you repeat it".to_owned()),
            Self::Cancelled { .. } | Self::Credentials(_) => None,
        }
    }
}

/// The causes of a transport error in one line, without the URL, which is told apart.
pub fn reason(error: &reqwest::Error) -> String {
    let mut out = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(e) = cause {
        let text = e.to_string();
        cause = e.source();
        // reqwest's and hyper's outer layers say no more than "error sending request".
        if cause.is_some() && (e.is::<reqwest::Error>() || text == "client error (Connect)" || text == "client error (SendRequest)") {
            continue;
        }
        if !out.is_empty() {
            if out.ends_with(&text) {
                continue;
            }
            out.push_str(": ");
        }
        out.push_str(&text);
    }
    out
}

/// Why a connection could not be made.
pub fn unreached(error: &reqwest::Error) -> Unreached {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            if io.kind() == std::io::ErrorKind::ConnectionRefused {
                return Unreached::Refused;
            }
            if is_distrust(io) {
                return Unreached::Distrusted;
            }
        }
        cause = e.source();
    }
    Unreached::Other
}

/// Whether TLS did not like the other's certificate. What an I/O error wraps is not among its sources, and it may wrap another.
fn is_distrust(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| {
        matches!(inner.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))) || inner.downcast_ref().is_some_and(is_distrust)
    })
}
