//! Ids: `<prefix>_<unix ms>_<9 of a-z0-9>`, as the specification shows them. An id is in many tables at once; its copies share
//! their text.

use std::fmt;

/// A text that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id of the form {prefix}_<milliseconds>_<9 letters or digits>")]
pub struct BadId {
    pub prefix: &'static str,
    pub text: String,
}

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

fn fresh(prefix: &str, now_ms: i64) -> String {
    let mut random = [0u8; 9];
    // The operating system's generator does not fail on a machine that can run us at all.
    getrandom::fill(&mut random).expect("the operating system's random generator answers");
    let tail: String = random.iter().map(|b| ALPHABET[usize::from(*b) % ALPHABET.len()] as char).collect();
    format!("{prefix}_{now_ms}_{tail}")
}

/// Whether `text` is `<prefix>_<digits>_<9 of a-z0-9>`.
pub fn is_id(prefix: &str, text: &str) -> bool {
    let Some(rest) = text.strip_prefix(prefix).and_then(|r| r.strip_prefix('_')) else {
        return false;
    };
    let Some((ms, tail)) = rest.split_once('_') else { return false };
    (1..=16).contains(&ms.len())
        && ms.bytes().all(|b| b.is_ascii_digit())
        && tail.len() == 9
        && tail.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Prefixes of all ids. No name may start with one of them and an underscore, so that a name is never taken for an id.
pub const PREFIXES: &[&str] = &[
    "cont",
    "node",
    "server",
    "inst",
    "provider",
    "cluster",
    "backup_cfg",
    "backup",
    "deploy",
    "op",
    "user",
    "token",
    "reg",
    "sess",
    "join",
    "evt",
    "rule",
    "alert",
    "channel",
    "silence",
    "delivery",
    "job",
];

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            pub const PREFIX: &'static str = $prefix;
            /// A new id; `now_ms` is the unix time in milliseconds.
            pub fn fresh(now_ms: i64) -> Self { Self(fresh($prefix, now_ms).into()) }
            pub fn parse(text: &str) -> Result<Self, BadId> {
                if is_id($prefix, text) { Ok(Self(text.into())) } else { Err(BadId { prefix: $prefix, text: text.chars().take(80).collect() }) }
            }
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl fmt::Display for $name { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) } }
        impl fmt::Debug for $name { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) } }
        impl TryFrom<String> for $name { type Error = BadId; fn try_from(s: String) -> Result<Self, BadId> { Self::parse(&s) } }
        impl std::str::FromStr for $name { type Err = BadId; fn from_str(s: &str) -> Result<Self, BadId> { Self::parse(s) } }
        impl From<$name> for String { fn from(id: $name) -> String { id.as_str().into() } }
        impl AsRef<str> for $name { fn as_ref(&self) -> &str { &self.0 } }
        impl std::borrow::Borrow<str> for $name { fn borrow(&self) -> &str { &self.0 } }
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                crate::text::string_schema(concat!("^", $prefix, "_[0-9]{1,16}_[a-z0-9]{9}$"), None, None, concat!("An id: `", $prefix, "_<unix ms>_<9 of a-z0-9>`."))
            }
        }
        impl utoipa::ToSchema for $name {}
    )*};
}

ids! {
    /// A container on some node.
    ContainerId = "cont";
    /// A machine that runs our agent.
    NodeId = "node";
    /// Work that outlasts a request.
    OperationId = "op";
    /// A person or program that signs in.
    UserId = "user";
    /// A hashed API token.
    TokenId = "token";
    /// A signed-in session (one refresh-token family).
    SessionId = "sess";
    /// A registry's sealed login.
    RegistryId = "reg";
    /// A single-use permission for one machine to join.
    JoinTokenId = "join";
    /// An address registered by hand as a server.
    ServerId = "server";
    /// A machine rented from a cloud.
    InstanceId = "inst";
    /// A rule that makes alerts.
    AlertRuleId = "rule";
    /// One alert of a rule.
    AlertId = "alert";
    /// Where alerts are sent.
    ChannelId = "channel";
    /// A time in which alerts are not sent.
    SilenceId = "silence";
    /// One word of an alert on its way to one channel.
    DeliveryId = "delivery";
    /// Servers behind one entry point.
    ClusterId = "cluster";
    /// What is backed up of a server, when and where to.
    BackupConfigId = "backup_cfg";
    /// One backup.
    BackupId = "backup";
    /// Work of a compute cluster's queue.
    JobId = "job";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_ids_parse_and_foreign_ones_do_not() {
        let id = ContainerId::fresh(1_770_000_000_000);
        assert_eq!(ContainerId::parse(id.as_str()).unwrap(), id);
        assert!(NodeId::parse(id.as_str()).is_err());
        for bad in [
            "cont_1_abc",
            "cont__abcdefghi",
            "cont_1_ABCDEFGHI",
            "cont_x_abcdefghi",
            "cont_1_abcdefghi\n",
            "",
        ] {
            assert!(ContainerId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
