//! What can go wrong, told apart by what a caller can do about it.

use crate::change::Subject;
use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;
use std::fmt;
use std::path::PathBuf;

/// A failure of the store. The variants say what a caller does next; the source stays apart.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something that must be unique is taken. Nothing of the transaction was kept.
    #[error("{what} is already taken")]
    Conflict { what: Unique },
    /// A compare-and-set found another version than the caller expected. The transaction can go on.
    #[error("{kind} {id} changed meanwhile: it is now at generation {generation}, revision {revision}")]
    Stale {
        kind: Subject,
        id: String,
        generation: i64,
        revision: i64,
    },
    /// There is no such row. The transaction can go on.
    #[error("there is no {kind} {id}")]
    NotFound { kind: Subject, id: String },
    /// The disk under the database is full. Reads go on; writes work again by themselves once there is room.
    #[error("{attempt}: the database's disk is full")]
    Full {
        attempt: &'static str,
        #[source]
        source: Source,
    },
    /// Somebody else held the database for too long. Trying again is right.
    #[error("{attempt}: the database is busy")]
    Busy {
        attempt: &'static str,
        #[source]
        source: Source,
    },
    /// The database does not answer. A commit that ends so may or may not have happened.
    #[error("{attempt}: the database is not available")]
    Unavailable {
        attempt: &'static str,
        #[source]
        source: Source,
    },
    /// The disk no longer keeps what it is given, or another control plane has the database. Nothing is acknowledged any more; the process should exit.
    #[error("{reason}")]
    Fatal { reason: String },
    /// What the database holds cannot be right.
    #[error("the database is damaged: {reason}")]
    Corrupt { reason: String },
    /// A sealed value does not open, or the key file is not as it must be.
    #[error(transparent)]
    Sealed(#[from] SealError),
    /// A newer release has changed the schema; this one would damage it.
    #[error("the database has schema {found}, but this release knows schemas up to {known} only: install the newer release again")]
    NewerSchema { found: i64, known: i64 },
    /// Another control plane uses this SQLite file.
    #[error("{} is in use by another process: one control plane runs at a time; stop the other one first", path.display())]
    InUse { path: PathBuf },
    /// Another control plane uses this PostgreSQL database.
    #[error("the database is in use by another control plane: one runs at a time; stop the other one first")]
    Taken,
    /// Changes that old are no longer kept: load everything again, then follow from the present revision.
    #[error("changes up to revision {floor} are no longer kept")]
    Compacted { floor: i64 },
    /// The transaction failed before, or was left in the middle of a statement; it can only be dropped.
    #[error("the transaction failed before and cannot go on")]
    Spoiled,
    /// A value that cannot be stored or an argument that makes no sense: a mistake in the calling code.
    #[error("{reason}")]
    Invalid { reason: String },
    /// A file beside the database.
    #[error("{attempt} {}", path.display())]
    File {
        attempt: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// What an export is written to or read from.
    #[error("{attempt}: {source}")]
    Export { attempt: &'static str, source: std::io::Error },
    /// There is a control plane's data already where one was to be brought back.
    #[error("the database holds a control plane already: name an empty one")]
    Occupied,
    /// Any other answer of the database.
    #[error("{attempt}")]
    Sql {
        attempt: &'static str,
        #[source]
        source: Source,
    },
}

/// The driver's own error.
pub type Source = Box<sqlx::Error>;

/// What must be unique. [`Unique::as_str`] is stable: it may be shown and matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unique {
    /// A resource's id within its kind.
    ResourceId,
    /// A resource's name within its kind and parent.
    ResourceName,
    Username,
    UserId,
    SessionToken,
    ApiToken,
    IdempotencyKey,
    /// A constraint without a name of its own here.
    Other,
}

impl Unique {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ResourceId => "resource.id",
            Self::ResourceName => "resource.name",
            Self::Username => "user.username",
            Self::UserId => "user.id",
            Self::SessionToken => "session.token",
            Self::ApiToken => "token",
            Self::IdempotencyKey => "idempotency.key",
            Self::Other => "value",
        }
    }

    /// From PostgreSQL's constraint name or SQLite's list of `table.column`.
    fn of(constraint: &str) -> Self {
        const KNOWN: [(&str, &str, Unique); 11] = [
            ("resources_by_unique_name", "resources.unique_name", Unique::ResourceName),
            ("resources_pkey", "resources.id", Unique::ResourceId),
            ("users_by_username", "users.username", Unique::Username),
            ("users_pkey", "users.id", Unique::UserId),
            ("sessions_pkey", "sessions.id", Unique::SessionToken),
            ("sessions_by_access", "sessions.access_hash", Unique::SessionToken),
            ("sessions_by_refresh", "sessions.refresh_hash", Unique::SessionToken),
            ("spent_refresh_tokens_pkey", "spent_refresh_tokens.hash", Unique::SessionToken),
            ("api_tokens_pkey", "api_tokens.id", Unique::ApiToken),
            ("api_tokens_by_hash", "api_tokens.hash", Unique::ApiToken),
            ("idempotency_pkey", "idempotency.actor", Unique::IdempotencyKey),
        ];
        KNOWN
            .iter()
            .find(|(pg, sqlite, _)| constraint == *pg || constraint.contains(sqlite))
            .map_or(Self::Other, |k| k.2)
    }
}

impl fmt::Display for Unique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why sealing, opening, or the key file failed. No variant holds key material or a secret.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("the key file {} is missing, and the database holds values sealed with it: put the file back from your backup; a new one would not open them", path.display())]
    KeyFileMissing { path: PathBuf },
    #[error("the key file {} can be read by others (mode {mode:03o}): run `chmod 600 {}`", path.display(), path.display())]
    KeyFileOpen { path: PathBuf, mode: u32 },
    #[error("the key file {} belongs to user {owner}, neither to this process's user nor to root", path.display())]
    KeyFileForeign { path: PathBuf, owner: u32 },
    #[error("the key file {} is damaged: {reason}", path.display())]
    KeyFileDamaged { path: PathBuf, reason: &'static str },
    #[error("the key file {} does not hold the key {key} that the database is sealed with", path.display())]
    WrongKey { path: PathBuf, key: String },
    #[error("a sealed value of {place} does not open: it was changed or moved")]
    DoesNotOpen { place: String },
    #[error("the operating system's random generator does not answer")]
    NoRandomness,
}

impl StoreError {
    pub(crate) fn corrupt(reason: impl Into<String>) -> Self {
        Self::Corrupt { reason: reason.into() }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }

    /// Whether the same work may succeed when it is tried again, without anything being repaired first.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unavailable { .. } | Self::Full { .. })
    }

    /// Sorts a driver's error by what can be done about it.
    pub(crate) fn from_sqlx(attempt: &'static str, error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Database(db) => match (db.try_downcast_ref::<SqliteError>(), db.try_downcast_ref::<PgDatabaseError>()) {
                (Some(sqlite), _) => {
                    // The driver gives SQLite's extended result code in decimal.
                    let code = sqlite.code().and_then(|c| c.parse().ok()).unwrap_or(0);
                    let message = sqlite.message().to_owned();
                    Self::from_sqlite(attempt, code, &message, error)
                }
                (_, Some(pg)) => {
                    let (code, constraint, message) = (pg.code().to_owned(), pg.constraint().map(str::to_owned), pg.message().to_owned());
                    Self::from_postgres(attempt, &code, constraint.as_deref(), &message, error)
                }
                (None, None) => Self::Sql {
                    attempt,
                    source: error.into(),
                },
            },
            E::Io(_) | E::Tls(_) | E::Protocol(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => Self::Unavailable {
                attempt,
                source: error.into(),
            },
            E::ColumnDecode { .. } | E::Decode(_) | E::ColumnNotFound(_) | E::ColumnIndexOutOfBounds { .. } => {
                Self::corrupt(format!("{attempt}: {error}"))
            }
            _ => Self::Sql {
                attempt,
                source: error.into(),
            },
        }
    }

    /// Result codes: <https://www.sqlite.org/rescode.html>.
    fn from_sqlite(attempt: &'static str, code: i32, message: &str, error: sqlx::Error) -> Self {
        const IOERR_NOMEM: i32 = 10 | (12 << 8);
        const IOERR_SHMSIZE: i32 = 10 | (19 << 8);
        const READONLY_DBMOVED: i32 = 8 | (4 << 8);
        let source = Box::new(error);
        match code {
            // Growing the shared-memory file is where a full disk shows first when a database is opened.
            IOERR_SHMSIZE => return Self::Full { attempt, source },
            IOERR_NOMEM => return Self::Unavailable { attempt, source },
            // The file was moved or deleted under us: whatever is written now is lost.
            READONLY_DBMOVED => {
                return Self::Fatal {
                    reason: format!("the database's disk fails: {attempt}: {message} (SQLite code {code})"),
                };
            }
            _ => {}
        }
        match code & 0xff {
            5 | 6 => Self::Busy { attempt, source },
            7 | 8 | 14 => Self::Unavailable { attempt, source },
            10 => Self::Fatal {
                reason: format!("the database's disk fails: {attempt}: {message} (SQLite code {code})"),
            },
            11 | 26 => Self::corrupt(format!("{attempt}: {message} (SQLite code {code})")),
            13 => Self::Full { attempt, source },
            19 if matches!(code >> 8, 6 | 8) => Self::Conflict { what: Unique::of(message) },
            _ => Self::Sql { attempt, source },
        }
    }

    /// SQLSTATEs: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
    fn from_postgres(attempt: &'static str, code: &str, constraint: Option<&str>, message: &str, error: sqlx::Error) -> Self {
        let source = Box::new(error);
        match code {
            "23505" => Self::Conflict {
                what: Unique::of(constraint.unwrap_or_default()),
            },
            "53100" => Self::Full { attempt, source },
            // Serialisation, deadlock, lock timeout, statement timeout.
            "40001" | "40P01" | "55P03" | "57014" => Self::Busy { attempt, source },
            // Idle in a transaction for too long, a standby that cannot write, shutting down or starting up.
            "25P03" | "25006" | "57P01" | "57P02" | "57P03" | "57P05" => Self::Unavailable { attempt, source },
            _ if code.starts_with("08") || code.starts_with("53") || code.starts_with("28") => Self::Unavailable { attempt, source },
            "XX001" | "XX002" => Self::corrupt(format!("{attempt}: {message} (SQLSTATE {code})")),
            "22021" => Self::invalid(format!("{attempt}: a text holds the character NUL")),
            _ => Self::Sql { attempt, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_codes_are_sorted() {
        let sort = |code| StoreError::from_sqlite("try", code, "UNIQUE constraint failed: users.username", sqlx::Error::WorkerCrashed);
        for code in [5, 6, 261, 517] {
            assert!(matches!(sort(code), StoreError::Busy { .. }), "{code}");
        }
        // SQLITE_FULL, and SQLITE_IOERR_SHMSIZE.
        for code in [13, 4874] {
            assert!(matches!(sort(code), StoreError::Full { .. }), "{code}");
        }
        // IOERR, _READ, _WRITE, _FSYNC, _DIR_FSYNC, READONLY_DBMOVED.
        for code in [10, 266, 778, 1034, 1290, 1032] {
            assert!(matches!(sort(code), StoreError::Fatal { .. }), "{code}");
        }
        for code in [7, 8, 14, 3082] {
            assert!(matches!(sort(code), StoreError::Unavailable { .. }), "{code}");
        }
        for code in [11, 26, 267] {
            assert!(matches!(sort(code), StoreError::Corrupt { .. }), "{code}");
        }
        for code in [2067, 1555] {
            assert!(matches!(sort(code), StoreError::Conflict { what: Unique::Username }), "{code}");
        }
        // CONSTRAINT_FOREIGNKEY, ERROR.
        for code in [787, 1] {
            assert!(matches!(sort(code), StoreError::Sql { .. }), "{code}");
        }
    }

    #[test]
    fn both_databases_name_constraints_alike() {
        for (postgres, sqlite, what) in [
            (
                "resources_by_unique_name",
                "UNIQUE constraint failed: resources.kind, resources.parent, resources.unique_name",
                Unique::ResourceName,
            ),
            (
                "resources_pkey",
                "UNIQUE constraint failed: resources.kind, resources.id",
                Unique::ResourceId,
            ),
            ("users_by_username", "UNIQUE constraint failed: users.username", Unique::Username),
            ("api_tokens_by_hash", "UNIQUE constraint failed: api_tokens.hash", Unique::ApiToken),
            ("something_else", "UNIQUE constraint failed: something.else", Unique::Other),
        ] {
            assert_eq!((Unique::of(postgres), Unique::of(sqlite)), (what, what));
        }
    }
}
