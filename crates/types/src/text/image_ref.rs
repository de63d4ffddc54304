//! Names of images, as Docker's registries read them.

use super::{BadText, string_schema, word};
use std::fmt;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

/// An image's name: `nginx`, `postgres:16`, `registry.example.com/team/app:1.2`, `app@sha256:…`.
#[derive(Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef(Box<str>);

impl ImageRef {
    pub const PATTERN: &'static str = "^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]{0,100}[a-zA-Z0-9])?(?::[0-9]{1,5})?/)?[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[a-f0-9]{64})?$";

    pub fn parse(text: &str) -> Result<Self, BadText> {
        let bad = || {
            BadText(
                "an image is `name`, `name:tag`, `registry/name:tag` or `name@sha256:<64 hex digits>`, with the name in lower case".into(),
            )
        };
        if text.len() > 400 || text.is_empty() {
            return Err(bad());
        }
        let (rest, digest) = match text.split_once('@') {
            Some((r, d)) => (r, Some(d)),
            None => (text, None),
        };
        if let Some(d) = digest {
            let hex = d.strip_prefix("sha256:").ok_or_else(bad)?;
            if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
                return Err(bad());
            }
        }
        let (path, tag) = match rest.rfind(':') {
            Some(i) if !rest[i..].contains('/') => (&rest[..i], Some(&rest[i + 1..])),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && (tag.is_empty() || tag.len() > 128 || tag.starts_with(['.', '-']) || !tag.bytes().all(word))
        {
            return Err(bad());
        }
        let mut parts = path.split('/').peekable();
        if let Some(first) = path.split('/').next()
            && path.contains('/')
            && is_registry_host(first)
        {
            parts.next();
        }
        let mut any = false;
        for part in parts {
            any = true;
            if !is_path_component(part) {
                return Err(bad());
            }
        }
        if any { Ok(Self(text.into())) } else { Err(bad()) }
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The registry's host where one is named: the part before the first `/`, when it has a dot, a port or is `localhost`.
    pub fn registry(&self) -> Option<&str> {
        let first = self.0.split_once('/')?.0;
        (first.contains('.') || first.contains(':') || first == "localhost").then_some(first)
    }
    /// The same image with `:latest` where neither tag nor digest is named.
    pub fn with_tag(&self) -> String {
        let last = self.0.rsplit('/').next().unwrap_or(&self.0);
        if last.contains(':') || last.contains('@') {
            self.0.to_string()
        } else {
            format!("{}:latest", self.0)
        }
    }
}

fn is_registry_host(part: &str) -> bool {
    let (host, port) = match part.split_once(':') {
        Some((h, p)) => (h, Some(p)),
        None => (part, None),
    };
    (1..=102).contains(&host.len())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
        && !host.starts_with(['.', '-'])
        && !host.ends_with(['.', '-'])
        && port.is_none_or(|p| (1..=5).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(part: &str) -> bool {
    let b = part.as_bytes();
    let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    if b.is_empty() || !alnum(b[0]) || !alnum(b[b.len() - 1]) {
        return false;
    }
    let mut i = 0;
    while i < b.len() {
        if alnum(b[i]) {
            i += 1;
            continue;
        }
        let start = i;
        while i < b.len() && !alnum(b[i]) {
            i += 1;
        }
        let sep = &part[start..i];
        if !(sep == "." || sep == "_" || sep == "__" || sep.bytes().all(|c| c == b'-')) {
            return false;
        }
    }
    true
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}
impl TryFrom<String> for ImageRef {
    type Error = BadText;
    fn try_from(s: String) -> Result<Self, BadText> {
        Self::parse(&s)
    }
}
impl std::str::FromStr for ImageRef {
    type Err = BadText;
    fn from_str(s: &str) -> Result<Self, BadText> {
        Self::parse(s)
    }
}
impl From<ImageRef> for String {
    fn from(i: ImageRef) -> String {
        i.0.into()
    }
}
impl utoipa::PartialSchema for ImageRef {
    fn schema() -> RefOr<Schema> {
        string_schema(
            Self::PATTERN,
            None,
            Some(400),
            "An image: `name`, `name:tag`, `registry/name:tag` or `name@sha256:…`.",
        )
    }
}
impl utoipa::ToSchema for ImageRef {}
