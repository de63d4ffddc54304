//! Where the database is.

use crate::error::StoreError;
use sqlx::ConnectOptions;
use sqlx::any::AnyConnectOptions;
use sqlx::postgres::PgConnectOptions;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// What [`Store::open`](crate::Store::open) needs.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    pub url: DatabaseUrl,
    /// The file with the master keys. It is made on the first start, mode 0600; it belongs outside the database's backups.
    pub key_file: PathBuf,
}

/// The two databases the store speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Sqlite,
    Postgres,
}

impl Backend {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A database's address: `sqlite:///var/lib/neuralmesh/neuralmesh.db`, a plain path, or `postgres://user:password@host:5432/name`.
/// Printing it never shows the password.
#[derive(Clone)]
pub struct DatabaseUrl(Place);

#[derive(Clone)]
enum Place {
    Sqlite(PathBuf),
    Postgres { url: Box<str>, shown: Box<str> },
}

/// A text that names no database we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadDatabaseUrl(String);

impl DatabaseUrl {
    /// A SQLite file. It is made when it is not there.
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self(Place::Sqlite(path.into()))
    }

    pub fn backend(&self) -> Backend {
        match &self.0 {
            Place::Sqlite(_) => Backend::Sqlite,
            Place::Postgres { .. } => Backend::Postgres,
        }
    }

    pub(crate) fn sqlite_path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Sqlite(path) => Some(path),
            Place::Postgres { .. } => None,
        }
    }

    /// The driver's options. SQLite's path must be absolute and free of `..` by now.
    pub(crate) fn any_options(&self, sqlite_path: Option<&Path>) -> Result<AnyConnectOptions, StoreError> {
        let url = match (&self.0, sqlite_path) {
            (Place::Postgres { url, .. }, _) => url.to_string(),
            (Place::Sqlite(path), found) => {
                let path = found.unwrap_or(path);
                let text = path
                    .to_str()
                    .ok_or_else(|| StoreError::invalid("the path of the SQLite file is not UTF-8"))?;
                format!("sqlite://{}?mode=rw", percent_encode(text))
            }
        };
        let options = AnyConnectOptions::from_str(&url).map_err(|e| StoreError::from_sqlx("read the database URL", e))?;
        Ok(quiet(options))
    }

    pub(crate) fn postgres_options(&self) -> Result<PgConnectOptions, StoreError> {
        match &self.0 {
            Place::Sqlite(_) => Err(StoreError::invalid("not a PostgreSQL URL")),
            Place::Postgres { url, .. } => {
                let options = PgConnectOptions::from_str(url).map_err(|e| StoreError::from_sqlx("read the database URL", e))?;
                Ok(quiet(options))
            }
        }
    }
}

/// No line a statement: only those that take longer than a second are worth a warning.
fn quiet<O: ConnectOptions>(options: O) -> O {
    options
        .log_statements(log::LevelFilter::Off)
        .log_slow_statements(log::LevelFilter::Warn, Duration::from_secs(1))
}

/// Everything but letters, digits, `/`, `-` and `_`, so that no character of a path means anything in a URL.
fn percent_encode(path: &str) -> String {
    use fmt::Write;
    path.bytes().fold(String::with_capacity(path.len()), |mut out, b| {
        if b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.') {
            out.push(char::from(b));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}

impl FromStr for DatabaseUrl {
    type Err = BadDatabaseUrl;

    fn from_str(text: &str) -> Result<Self, BadDatabaseUrl> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            // The parser's own message may repeat the URL, and with it the password.
            let options = PgConnectOptions::from_str(text)
                .map_err(|_| BadDatabaseUrl("the PostgreSQL URL is not of the form postgres://user:password@host:5432/name".into()))?;
            let host = options
                .get_socket()
                .map_or_else(|| options.get_host().to_owned(), |s| s.display().to_string());
            let (user, port, name) = (
                options.get_username(),
                options.get_port(),
                options.get_database().unwrap_or_default(),
            );
            let shown = format!("postgres://{user}@{host}:{port}/{name}");
            return Ok(Self(Place::Postgres {
                url: text.into(),
                shown: shown.into(),
            }));
        }
        let path = match text.strip_prefix("sqlite:") {
            Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
            None => match text.split_once("://") {
                Some((scheme, _)) => {
                    return Err(BadDatabaseUrl(format!(
                        "`{scheme}` is no database we know: use sqlite:///path or postgres://…"
                    )));
                }
                None => text,
            },
        };
        if path.is_empty() || path == ":memory:" || path.contains('\0') {
            return Err(BadDatabaseUrl("a SQLite database is a file: give its path".into()));
        }
        Ok(Self::sqlite(path))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Place::Postgres { shown, .. } => f.write_str(shown),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls_and_hides_passwords() {
        for (text, shown) in [
            ("/var/lib/nm/nm.db", "sqlite:///var/lib/nm/nm.db"),
            ("sqlite:///var/lib/nm/nm.db", "sqlite:///var/lib/nm/nm.db"),
            ("sqlite:nm.db", "sqlite://nm.db"),
            (
                "postgres://nm:s3cret-word@db.example:5433/mesh",
                "postgres://nm@db.example:5433/mesh",
            ),
            (
                "postgresql://nm:s3cret-word@db.example/mesh?sslmode=require",
                "postgres://nm@db.example:5432/mesh",
            ),
        ] {
            let url: DatabaseUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("s3cret"));
        }
        for bad in [
            "",
            "mysql://root@localhost/x",
            "sqlite::memory:",
            "sqlite:",
            "postgres://nm:s3cret-word@[::1/x",
        ] {
            let said = bad.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(!said.contains("s3cret"), "{said}");
        }
    }

    #[test]
    fn odd_paths_survive_the_driver_url() {
        let url = DatabaseUrl::sqlite("/tmp/a b/c?d#e%f/ü.db");
        let options = url.any_options(None).unwrap();
        assert_eq!(options.database_url.as_str(), "sqlite:///tmp/a%20b/c%3Fd%23e%25f/%C3%BC.db?mode=rw");
    }
}
