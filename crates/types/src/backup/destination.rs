//! Where backups go, as users write it: restic's own forms, and `node:` for a folder of another node.

use crate::text::{BadText, SecretText, string_schema};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

/// A destination as it was written, known to be one.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupDestination(Box<str>);

/// What a [`BackupDestination`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationKind {
    /// A folder of the server's node.
    Path { path: String },
    /// `s3:https://host[:port]/bucket[/prefix]`
    S3 { endpoint: String, bucket: String, prefix: String },
    /// `sftp:[user@]host:/path` or `sftp://[user@]host[:port]/path`
    Sftp {
        user: Option<String>,
        host: String,
        port: u16,
        path: String,
    },
    /// `rest:https://host[:port]/[path]`
    Rest { url: String },
    /// `node:NODE:/path`
    Node { node: String, path: String },
}

const PORT: &str = "(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
const HOST: &str = "[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?";
const USER: &str = "[a-z_][a-z0-9_.-]{0,31}";
const PATH: &str = "(?:/(?!\\.{1,2}(?:/|$))[^\\x00-\\x1f\\x7f-\\x9f/]+)+";
const PLAIN: &str = "(?!\\.{1,2}(?:/|$))[A-Za-z0-9._-]{1,128}";
const LONGEST: usize = 1024;

impl BackupDestination {
    /// The rule of [`Self::parse`] as a regular expression.
    pub fn pattern() -> String {
        format!(
            "^(?:{PATH}\
             |s3:https?://{HOST}(?::{PORT})?/[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9](?:/{PLAIN}){{0,8}}\
             |sftp:(?:{USER}@)?{HOST}:(?:/{PLAIN}){{1,16}}\
             |sftp://(?:{USER}@)?{HOST}(?::{PORT})?(?:/{PLAIN}){{1,16}}\
             |rest:https?://{HOST}(?::{PORT})?(?:/{PLAIN}){{0,8}}/?\
             |node:[A-Za-z0-9][A-Za-z0-9_.-]{{0,62}}:{PATH})$"
        )
    }

    pub fn parse(text: &str) -> Result<Self, BadText> {
        read(text).map(|_| Self(text.into())).ok_or_else(|| {
            BadText(
                "a destination is a folder (`/backups`), `s3:https://host/bucket/prefix`, `sftp:user@host:/path`, \
                 `rest:https://host/path`, or `node:NODE:/path`"
                    .into(),
            )
        })
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// What it says.
    pub fn kind(&self) -> DestinationKind {
        // Only `parse` makes one, and it has read it already.
        read(&self.0).unwrap_or_else(|| DestinationKind::Path { path: self.0.to_string() })
    }
}

fn read(text: &str) -> Option<DestinationKind> {
    if text.chars().count() > LONGEST {
        return None;
    }
    if text.starts_with('/') {
        return is_path(text).then(|| DestinationKind::Path { path: text.into() });
    }
    let (scheme, rest) = text.split_once(':')?;
    match scheme {
        "s3" => {
            let (url, path) = web(rest)?;
            let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
            let end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            let bytes = bucket.as_bytes();
            let named = (3..=63).contains(&bytes.len()) && bytes.iter().all(|b| inner(*b)) && end(bytes.first()) && end(bytes.last());
            let prefixed = (prefix.is_empty() && !path.ends_with('/')) || plain_parts(prefix).is_some_and(|n| n <= 8);
            (named && prefixed).then(|| DestinationKind::S3 {
                endpoint: url.into(),
                bucket: bucket.into(),
                prefix: prefix.into(),
            })
        }
        "sftp" => {
            let (login, path, port) = if let Some(rest) = rest.strip_prefix("//") {
                let slash = rest.find('/')?;
                let (authority, path) = rest.split_at(slash);
                match authority.split_once(':') {
                    Some((login, number)) => (login, path, port(number)?),
                    None => (authority, path, 22),
                }
            } else {
                let (login, path) = rest.split_once(':')?;
                (login, path, 22)
            };
            let (user, host) = match login.split_once('@') {
                Some((user, host)) => (Some(user), host),
                None => (None, login),
            };
            let parts = plain_parts(path.strip_prefix('/')?)?;
            (user.is_none_or(is_user) && is_host(host) && parts <= 16).then(|| DestinationKind::Sftp {
                user: user.map(str::to_owned),
                host: host.into(),
                port,
                path: path.into(),
            })
        }
        "rest" => {
            let (url, path) = web(rest)?;
            let path = path.strip_suffix('/').unwrap_or(path);
            if path.is_empty() {
                return (!rest.ends_with("//")).then(|| DestinationKind::Rest { url: format!("{url}/") });
            }
            plain_parts(path).is_some_and(|n| n <= 8).then(|| DestinationKind::Rest {
                url: format!("{url}/{path}/"),
            })
        }
        "node" => {
            let (node, path) = rest.split_once(':')?;
            let bytes = node.as_bytes();
            let named = (1..=63).contains(&bytes.len())
                && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b));
            (named && is_path(path)).then(|| DestinationKind::Node {
                node: node.into(),
                path: path.into(),
            })
        }
        _ => None,
    }
}

/// `http://host[:port]` and what follows the slash after it.
fn web(text: &str) -> Option<(&str, &str)> {
    let after = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let scheme = text.len() - after.len();
    let (authority, path) = after.split_once('/').unwrap_or((after, ""));
    let (host, number) = match authority.split_once(':') {
        Some((host, number)) => (host, Some(number)),
        None => (authority, None),
    };
    if !is_host(host) || number.is_some_and(|n| port(n).is_none()) {
        return None;
    }
    Some((&text[..scheme + authority.len()], path))
}

fn is_path(text: &str) -> bool {
    text.strip_prefix('/').is_some_and(|rest| {
        rest.split('/')
            .all(|part| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control))
    })
}

/// How many plain parts a path without its first slash has; none if one of them is not plain.
fn plain_parts(text: &str) -> Option<usize> {
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..") && part.len() <= 128 && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    text.split('/').all(plain).then(|| text.split('/').count())
}

fn is_host(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=253).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b".-".contains(b))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

fn is_user(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=32).contains(&bytes.len())
        && bytes.first().is_some_and(|b| b.is_ascii_lowercase() || *b == b'_')
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(b))
}

fn port(text: &str) -> Option<u16> {
    if text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

impl fmt::Display for BackupDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for BackupDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}
impl TryFrom<String> for BackupDestination {
    type Error = BadText;
    fn try_from(text: String) -> Result<Self, BadText> {
        Self::parse(&text)
    }
}
impl std::str::FromStr for BackupDestination {
    type Err = BadText;
    fn from_str(text: &str) -> Result<Self, BadText> {
        Self::parse(text)
    }
}
impl From<BackupDestination> for String {
    fn from(destination: BackupDestination) -> Self {
        destination.0.into()
    }
}
impl utoipa::PartialSchema for BackupDestination {
    fn schema() -> RefOr<Schema> {
        string_schema(
            &Self::pattern(),
            None,
            Some(LONGEST),
            "A folder of the server's node, `s3:https://host[:port]/bucket[/prefix]`, `sftp:[user@]host:/path`, \
             `sftp://[user@]host[:port]/path`, `rest:https://host[:port]/[path]`, or `node:NODE:/path`.",
        )
    }
}
impl ToSchema for BackupDestination {}

/// What opens a destination; never given back.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupCredentials {
    /// Of `s3:`.
    pub access_key: Option<SecretText>,
    /// Of `s3:`.
    pub secret_key: Option<SecretText>,
    /// Of `s3:`; `us-east-1` by default.
    pub region: Option<S3Region>,
    /// Of `rest:`.
    pub username: Option<SecretText>,
    /// Of `rest:`.
    pub password: Option<SecretText>,
    /// Of `sftp:`: a private key in OpenSSH's form, without a passphrase.
    pub private_key: Option<SecretText>,
    /// Of `sftp:`: the server's public key as in `known_hosts`, without the host: `ssh-ed25519 AAAA…`. Any other is refused.
    pub host_key: Option<HostKey>,
}

crate::text::texts! {
    S3Region {
        pattern: "^[a-z0-9-]{1,64}$", max: 64,
        says: "a region has 1 to 64 of a-z, 0-9 or `-`",
        ok: |t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }
    HostKey {
        pattern: "^[a-z0-9@.-]{3,64} [A-Za-z0-9+/]{16,8192}={0,2}$", max: 8300,
        says: "a host key has two words: its type and its base64 text, such as `ssh-ed25519 AAAA…`",
        ok: |t| t.split_once(' ').is_some_and(|(kind, key)| {
            let body = key.trim_end_matches('=');
            (3..=64).contains(&kind.len())
                && kind.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"@.-".contains(&b))
                && (16..=8192).contains(&body.len()) && key.len() - body.len() <= 2
                && body.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b))
        })
    }
}

#[cfg(test)]
mod tests;
