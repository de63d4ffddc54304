//! The address of a control plane's API.

use std::fmt;

/// Where a control plane's API is when nobody says otherwise.
pub const DEFAULT: &str = "http://127.0.0.1:3001";

/// A text that is no address of an API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the URL of a server: {why}")]
pub struct BadUrl {
    text: String,
    why: String,
}

/// `http(s)://host[:port][/prefix]`, without anything behind it; also the key under which a login is saved.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(reqwest::Url);

impl ServerUrl {
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        let bad = |why: &str| BadUrl {
            text: text.to_owned(),
            why: why.to_owned(),
        };
        if !text.contains("://") {
            return Err(bad(&format!("write it with its scheme, as `http://{text}` or `https://{text}`")));
        }
        let mut url = reqwest::Url::parse(text).map_err(|e| bad(&e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("it begins with `http://` or `https://`"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(bad("it names no host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("a name and password do not belong into it; use `neuralmesh login`"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("it ends before any `?` or `#`"));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        // People paste the API's base as often as the server's.
        url.set_path(path.strip_suffix("/api").unwrap_or(&path));
        Ok(Self(url))
    }

    /// The URL of `segments` below the server's own, each one encoded, so that a name never becomes a path.
    pub fn join<S: AsRef<str>>(&self, segments: &[S]) -> reqwest::Url {
        let mut url = self.0.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// Whether it is this very machine.
    pub fn is_loopback(&self) -> bool {
        let host = self.host().trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether what is sent can be read on the way.
    pub fn is_plain(&self) -> bool {
        self.0.scheme() == "http" && !self.is_loopback()
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_brought_into_one_form() {
        for (text, shown) in [
            ("http://127.0.0.1:3001", "http://127.0.0.1:3001"),
            ("http://127.0.0.1:3001/", "http://127.0.0.1:3001"),
            ("https://Mesh.Example.com/api/", "https://mesh.example.com"),
            ("https://example.com/mesh//", "https://example.com/mesh"),
        ] {
            assert_eq!(ServerUrl::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for bad in [
            "localhost:3001",
            "",
            "ftp://x",
            "http://",
            "http://u:p@host",
            "http://host/?a=b",
            "http://host/#x",
        ] {
            assert!(ServerUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_never_becomes_a_path() {
        let url = ServerUrl::parse("https://example.com/mesh").unwrap();
        assert_eq!(
            url.join(&["api", "containers", "a/../b?c#d"]).as_str(),
            "https://example.com/mesh/api/containers/a%2F..%2Fb%3Fc%23d"
        );
        assert_eq!(
            ServerUrl::parse("http://h").unwrap().join(&["healthz"]).as_str(),
            "http://h/healthz"
        );
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (text, loopback) in [
            ("http://localhost:1", true),
            ("http://127.0.0.9", true),
            ("http://[::1]:3001", true),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(ServerUrl::parse(text).unwrap().is_loopback(), loopback, "{text}");
        }
    }
}
