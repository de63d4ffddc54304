//! People, programs, and what they may do.

use crate::text::{SecretText, Title, Username};
use crate::{SessionId, Timestamp, TokenId, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a user may do; each role includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads everything but secrets.
    Viewer,
    /// Also changes containers, images, volumes, networks.
    Operator,
    /// Also users, tokens of others, nodes, registries, audit.
    Admin,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin].into_iter().find(|r| r.as_str() == text)
    }
}

/// What an API token is good for: an area and whether it may change things there, `containers:read`, `containers:write`, `*:read`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope {
    area: Box<str>,
    write: bool,
}

/// The areas of the API that scopes and the policy table name.
pub const AREAS: &[&str] = &[
    "containers",
    "images",
    "volumes",
    "networks",
    "registries",
    "nodes",
    "operations",
    "events",
    "servers",
    "health",
    "users",
    "tokens",
    "audit",
    "system",
    "alerts",
    "clusters",
    "backups",
];

impl Scope {
    pub fn parse(text: &str) -> Option<Self> {
        let (area, verb) = text.split_once(':')?;
        let write = match verb {
            "read" => false,
            "write" => true,
            _ => return None,
        };
        (area == "*" || AREAS.contains(&area)).then(|| Self { area: area.into(), write })
    }
    /// Whether this scope allows `area`, for a change when `write`. Writing includes reading.
    pub fn allows(&self, area: &str, write: bool) -> bool {
        (&*self.area == "*" || &*self.area == area) && (self.write || !write)
    }
}
impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.area, if self.write { "write" } else { "read" })
    }
}
impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
impl TryFrom<String> for Scope {
    type Error = crate::text::BadText;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        Self::parse(&s).ok_or_else(|| {
            crate::text::BadText(format!(
                "a scope is `<area>:read` or `<area>:write`; areas: *, {}",
                AREAS.join(", ")
            ))
        })
    }
}
impl From<Scope> for String {
    fn from(s: Scope) -> String {
        s.to_string()
    }
}
impl utoipa::PartialSchema for Scope {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        crate::text::string_schema(
            &format!("^(?:\\*|{}):(?:read|write)$", AREAS.join("|")),
            None,
            None,
            "`<area>:read` or `<area>:write`; `*` is every area.",
        )
    }
}
impl ToSchema for Scope {}

/// A new password: 10 to 200 characters.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "SecretText")]
pub struct NewPassword(pub SecretText);
impl TryFrom<SecretText> for NewPassword {
    type Error = crate::text::BadText;
    fn try_from(s: SecretText) -> Result<Self, Self::Error> {
        if (10..=200).contains(&s.expose().chars().count()) {
            Ok(Self(s))
        } else {
            Err(crate::text::BadText("a password has 10 to 200 characters".into()))
        }
    }
}
impl utoipa::PartialSchema for NewPassword {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        crate::text::string_schema(
            "^[^\\x00]+$",
            Some(10),
            Some(200),
            "A password of 10 to 200 characters; never given back.",
        )
    }
}
impl ToSchema for NewPassword {}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Login {
    #[schema(min_length = 1, max_length = 64)]
    pub username: String,
    pub password: SecretText,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Refresh {
    pub refresh_token: SecretText,
}

/// What a login or refresh answers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignedIn {
    /// For `Authorization: Bearer …`; 15 minutes.
    pub access_token: String,
    /// For `POST /api/auth/refresh`; 7 days, good once: each refresh gives a new one.
    pub refresh_token: String,
    /// Seconds until the access token ends.
    pub expires_in: u64,
    pub user: UserView,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserView {
    pub id: UserId,
    pub username: Username,
    pub role: Role,
    pub disabled: bool,
    pub created: Timestamp,
    pub updated: Timestamp,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewUser {
    pub username: Username,
    pub password: NewPassword,
    pub role: Role,
}

/// A change to a user by an admin: only what is sent changes.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserUpdate {
    #[serde(default)]
    pub role: Option<Role>,
    #[serde(default)]
    pub disabled: Option<bool>,
    #[serde(default)]
    pub password: Option<NewPassword>,
}

/// `POST /api/auth/password`: one's own password. It ends every other session.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangePassword {
    pub current_password: SecretText,
    pub new_password: NewPassword,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewToken {
    pub name: Title,
    /// At most the maker's own role.
    pub role: Role,
    /// Everything the role may do where none is named.
    #[serde(default)]
    #[schema(max_items = 50)]
    pub scopes: Vec<Scope>,
    /// Days until it ends, 1 to 3650; 90 by default.
    #[serde(default)]
    pub expires_in_days: Option<crate::units::Bounded<1, 3650>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    pub id: TokenId,
    pub name: Title,
    pub user_id: UserId,
    pub role: Role,
    pub scopes: Vec<Scope>,
    pub created: Timestamp,
    pub expires: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

/// A new API token; `token` is shown this once.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedToken {
    pub token: String,
    #[serde(flatten)]
    pub view: TokenView,
}

/// A short, single-use permission for a browser to open one stream, since browsers can't set headers there.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamTicket {
    /// Give it as `?ticket=…`; good once, for 30 seconds.
    pub ticket: String,
    pub expires: Timestamp,
}

/// One entry of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntryView {
    pub sequence: i64,
    pub time: Timestamp,
    /// A username, `token:<name>`, or `system`.
    pub actor: String,
    /// `container.create`, `auth.login`, …
    pub action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `ok`, or the code of the error.
    pub outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
}

/// What checking the whole audit log found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditVerdict {
    /// Whether every entry is as it was written, and none is missing.
    pub intact: bool,
    /// How many entries are as they were written, from the first on.
    pub entries: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_broken: Option<AuditBreak>,
}

/// The first place where the audit log is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditBreak {
    pub sequence: i64,
    pub reason: String,
}

/// A session as its owner sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    pub id: SessionId,
    pub created: Timestamp,
    pub last_used: Timestamp,
    pub expires: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes() {
        let read = Scope::parse("containers:read").unwrap();
        assert!(read.allows("containers", false) && !read.allows("containers", true) && !read.allows("images", false));
        assert!(Scope::parse("*:write").unwrap().allows("images", true));
        for bad in ["", "containers", "containers:admin", "moon:read", "*:", ":read"] {
            assert!(Scope::parse(bad).is_none(), "{bad}");
        }
    }
}
