//! Who asks.

use nm_types::auth::{Role, Scope};
use nm_types::{SessionId, TokenId, UserId};

/// Somebody who was let in, with what they may do. Only [`Auth`](super::Auth) makes one from a credential.
#[derive(Debug, Clone)]
pub struct Actor {
    pub user: UserId,
    pub username: String,
    pub role: Role,
    pub credential: Credential,
}

/// What they showed.
#[derive(Debug, Clone)]
pub enum Credential {
    Session(SessionId),
    /// No scopes: everything the role may.
    Token {
        id: TokenId,
        name: String,
        scopes: Vec<Scope>,
    },
    /// The control plane itself: schedules, resumed operations, the command line on the same machine.
    System,
}

impl Actor {
    /// The control plane itself.
    pub fn system() -> Self {
        Self {
            user: UserId::parse("user_0_system000").unwrap_or_else(|_| UserId::fresh(0)),
            username: "system".into(),
            role: Role::Admin,
            credential: Credential::System,
        }
    }
    /// As the audit log names it.
    pub fn label(&self) -> String {
        match &self.credential {
            Credential::Session(_) | Credential::System => self.username.clone(),
            Credential::Token { name, .. } => format!("{} (token {name})", self.username),
        }
    }
    /// Whether role and scopes allow it.
    pub fn may(&self, role: Role, area: &str, write: bool) -> bool {
        if self.role < role {
            return false;
        }
        match &self.credential {
            Credential::Session(_) | Credential::System => true,
            Credential::Token { scopes, .. } => scopes.is_empty() || scopes.iter().any(|s| s.allows(area, write)),
        }
    }
    /// Whether values that look secret may be shown.
    pub fn sees_secrets(&self) -> bool {
        self.may(Role::Operator, "containers", true)
    }
}
