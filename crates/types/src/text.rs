//! Checked texts. Each states its rule once, as a regular expression in its schema and as a function here; a test holds
//! the two together.

mod image_ref;

pub use image_ref::ImageRef;

use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use utoipa::openapi::schema::{AdditionalProperties, Schema};
use utoipa::openapi::{ObjectBuilder, RefOr, Type};

/// Why a text was refused, as a sentence that says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadText(pub String);

pub(crate) fn string_schema(pattern: &str, min: Option<usize>, max: Option<usize>, description: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(pattern))
        .min_length(min)
        .max_length(max)
        .description(Some(description))
        .into()
}

/// Declares a checked string: `name, pattern, longest, what it is, |text| rule`.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident { pattern: $pattern:literal, max: $max:literal, says: $says:literal, ok: $ok:expr })*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);
        impl $name {
            pub const PATTERN: &'static str = $pattern;
            pub fn parse(text: &str) -> Result<Self, BadText> {
                let ok: fn(&str) -> bool = $ok;
                if text.chars().count() <= $max && ok(text) { Ok(Self(text.into())) } else { Err(BadText($says.to_owned())) }
            }
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl fmt::Display for $name { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) } }
        impl fmt::Debug for $name { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:?}", &self.0) } }
        impl TryFrom<String> for $name { type Error = BadText; fn try_from(s: String) -> Result<Self, BadText> { Self::parse(&s) } }
        impl std::str::FromStr for $name { type Err = BadText; fn from_str(s: &str) -> Result<Self, BadText> { Self::parse(s) } }
        impl From<$name> for String { fn from(t: $name) -> String { t.0.into() } }
        impl AsRef<str> for $name { fn as_ref(&self) -> &str { &self.0 } }
        impl utoipa::PartialSchema for $name {
            fn schema() -> RefOr<Schema> { string_schema($pattern, None, Some($max), $says) }
        }
        impl utoipa::ToSchema for $name {}
    )*};
}

pub(crate) use texts;

fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'.' || b == b'-'
}
fn docker_name(t: &str) -> bool {
    t.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && t.bytes().all(word)
}
const RESERVED: &[&str] = &["images", "templates", "list", "stats", "events"];
fn is_reserved(t: &str) -> bool {
    RESERVED.contains(&t) || begins_as_an_id(t)
}
fn begins_as_an_id(t: &str) -> bool {
    let with = |p: &&str| t.strip_prefix(p).is_some_and(|rest| rest.starts_with('_'));
    crate::id::PREFIXES.iter().any(with)
}
/// No control characters, NUL among them: such a text goes to Docker or into a log as one line.
fn one_line(t: &str) -> bool {
    !t.is_empty() && !t.chars().any(char::is_control)
}

texts! {
    /// A container's name. Docker's own rule, and one letter is allowed as the specification says. Words that stand in the API's
    /// own paths and beginnings of ids are reserved: a name must never be taken for them.
    ContainerName {
        pattern: "^(?!(?:images|templates|list|stats|events)$)(?!(?:cont|node|server|inst|provider|cluster|backup_cfg|backup|deploy|op|user|token|reg|sess|join|evt|rule|alert|channel|silence|delivery|job)_)[a-zA-Z0-9][a-zA-Z0-9_.-]{0,99}$", max: 100,
        says: "a container name has 1 to 100 letters, digits, `_`, `.` or `-`, starts with a letter or digit, and is neither a word of the API's paths (`images`, `templates`, `list`, `stats`, `events`) nor begins as an id does (`cont_`, `node_`, …): those are reserved",
        ok: |t| docker_name(t) && !is_reserved(t)
    }
    /// A network's name.
    NetworkName {
        pattern: "^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,99}$", max: 100,
        says: "a network name has 1 to 100 letters, digits, `_`, `.` or `-`, and starts with a letter or digit",
        ok: |t| docker_name(t)
    }
    /// A named volume. Docker asks for two characters at least.
    VolumeName {
        pattern: "^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,99}$", max: 100,
        says: "a volume name has 2 to 100 letters, digits, `_`, `.` or `-`, and starts with a letter or digit",
        ok: |t| t.len() >= 2 && docker_name(t)
    }
    /// A node's name, a label of a host name.
    NodeName {
        pattern: "^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$", max: 63,
        says: "a node name has 1 to 63 letters, digits, `_`, `.` or `-`, and starts with a letter or digit",
        ok: |t| docker_name(t)
    }
    /// A name people sign in with.
    Username {
        pattern: "^[a-z0-9][a-z0-9_.@-]{0,63}$", max: 64,
        says: "a username has 1 to 64 of a-z, 0-9, `_`, `.`, `@` or `-`, and starts with a letter or digit",
        ok: |t| t.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.@-".contains(&b))
    }
    /// A title for people: one line, any letters.
    Title {
        pattern: "^[^\\x00-\\x1f\\x7f-\\x9f]{1,100}$", max: 400,
        says: "a name has 1 to 100 characters on one line",
        ok: |t| one_line(t) && t.chars().count() <= 100
    }
    /// An absolute path inside a container.
    ContainerPath {
        pattern: "^/[^\\x00-\\x1f\\x7f-\\x9f:]{1,511}$", max: 512,
        says: "a container path is absolute, not `/` itself, at most 512 characters long, without `:` or control characters",
        ok: |t| t.starts_with('/') && t.len() > 1 && one_line(t) && !t.contains(':')
    }
    /// A device of a node, or a folder of devices.
    DevicePath {
        pattern: "^/dev(?:/(?!\\.{1,2}(?:/|$))[^\\x00-\\x1f\\x7f-\\x9f:/]+)+$", max: 255,
        says: "a device is a path below `/dev`, without `:`, `.` and `..` parts or control characters",
        ok: |t| one_line(t) && !t.contains(':')
            && t.strip_prefix("/dev/").is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
    }
    /// What a container may do with a device: some of read, write and make.
    DeviceAccess {
        pattern: "^(?=.)r?w?m?$", max: 3,
        says: "access to a device is some of `r`, `w` and `m`, in this order",
        ok: |t| { let rest = t.strip_prefix('r').unwrap_or(t); let rest = rest.strip_prefix('w').unwrap_or(rest);
            !t.is_empty() && matches!(rest, "" | "m") }
    }
    /// A Linux capability: `ALL`, `NET_RAW` or `CAP_NET_RAW`.
    Capability {
        pattern: "^(?:ALL|(?:CAP_)?[A-Z][A-Z_]{2,30})$", max: 36,
        says: "a capability is `ALL` or a name such as `NET_RAW`",
        ok: |t| t == "ALL" || { let n = t.strip_prefix("CAP_").unwrap_or(t); (3..=31).contains(&n.len())
            && n.starts_with(|c: char| c.is_ascii_uppercase()) && n.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') }
    }
    /// `user`, `uid`, `user:group` or `uid:gid`, as Docker's `--user`.
    RunAs {
        pattern: "^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,31}(?::[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,31})?$", max: 65,
        says: "a user is `name`, `uid`, `name:group` or `uid:gid`",
        ok: |t| { let part = |p: &str| (1..=32).contains(&p.len()) && p.bytes().all(word) && !p.starts_with(['.', '-']);
            match t.split_once(':') { None => part(t), Some((u, g)) => part(u) && part(g) } }
    }
    /// A host name inside a container.
    HostName {
        pattern: "^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$", max: 63,
        says: "a host name has 1 to 63 letters, digits or `-`, and starts and ends with a letter or digit",
        ok: |t| !t.is_empty() && !t.starts_with('-') && !t.ends_with('-') && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    }
    /// A value of a variable or label. May be empty; never holds NUL, which no process can be given.
    Argument {
        pattern: "^[^\\x00]*$", max: 65536,
        says: "a value has at most 65,536 characters and no NUL character",
        ok: |t| !t.contains('\0')
    }
    /// One word of a command line. With at most 100 of them, the longest command line still fits into a request's body.
    Word {
        pattern: "^[^\\x00]*$", max: 10000,
        says: "a word of a command has at most 10,000 characters and no NUL character",
        ok: |t| !t.contains('\0')
    }
    /// One word of a command line in a query, which a request's head has to hold.
    QueryWord {
        pattern: "^[^\\x00]*$", max: 1000,
        says: "a word of a command in a query has at most 1,000 characters and no NUL character",
        ok: |t| !t.contains('\0')
    }
    /// The name of an environment variable.
    EnvName {
        pattern: "^[A-Za-z_][A-Za-z0-9_.-]{0,254}$", max: 255,
        says: "an environment variable's name starts with a letter or `_` and goes on with letters, digits, `_`, `.` or `-`",
        ok: |t| t.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_') && t.bytes().all(word)
    }
    /// A label's key. The prefix `io.neuralmesh.` is ours.
    LabelKey {
        pattern: "^[a-zA-Z0-9](?:[a-zA-Z0-9_./-]{0,126}[a-zA-Z0-9])?$", max: 128,
        says: "a label key has 1 to 128 letters, digits, `_`, `.`, `/` or `-`, starts and ends with a letter or digit, and does not start with `io.neuralmesh.`",
        ok: |t| !t.is_empty() && !t.starts_with("io.neuralmesh.") && t.bytes().all(|b| word(b) || b == b'/')
            && t.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && t.bytes().next_back().is_some_and(|b| b.is_ascii_alphanumeric())
    }
    /// A hand-registered server's name.
    ServerName {
        pattern: "^(?!settings$)(?!(?:cont|node|server|inst|provider|cluster|backup_cfg|backup|deploy|op|user|token|reg|sess|join|evt|rule|alert|channel|silence|delivery|job)_)[a-zA-Z0-9][a-zA-Z0-9_.-]{0,99}$", max: 100,
        says: "a server name has 1 to 100 letters, digits, `_`, `.` or `-`, starts with a letter or digit, and is neither a word of the API's paths (`settings`) nor begins as an id does (`server_`, `node_`, …): those are reserved",
        ok: |t| docker_name(t) && t != "settings" && !begins_as_an_id(t)
    }
    /// A probe's name, single among those of its server.
    ProbeName {
        pattern: "^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$", max: 63,
        says: "a probe name has 1 to 63 letters, digits, `_`, `.` or `-`, and starts with a letter or digit",
        ok: |t| docker_name(t)
    }
    /// What an HTTP probe asks for: an absolute path with its query, of the characters of RFC 3986, without a fragment.
    ProbePath {
        pattern: "^/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,1023}$", max: 1024,
        says: "a probe's path starts with `/` and has at most 1,024 characters that a URL may hold as they are, without `#`",
        ok: |t| t.starts_with('/') && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~!$&'()*+,;=:@%/?-".contains(&b))
    }
    /// A systemd unit: `nginx.service`, `getty@tty1`.
    UnitName {
        pattern: "^[a-zA-Z0-9:_.\\\\@][a-zA-Z0-9:_.\\\\@-]{0,254}$", max: 255,
        says: "a unit has 1 to 255 letters, digits, `:`, `_`, `.`, `\\`, `@` or `-`, and does not start with `-`",
        ok: |t| !t.is_empty() && !t.starts_with('-') && t.bytes().all(|b| b.is_ascii_alphanumeric() || b":_.\\@-".contains(&b))
    }
    /// What a node must be for a container to run there: `zone=eu-1`, `disk!=hdd`, `gpu`.
    Constraint {
        pattern: "^[a-zA-Z0-9](?:[a-zA-Z0-9_./-]{0,126}[a-zA-Z0-9])?(?:!?=[^=\\x00-\\x1f\\x7f-\\x9f][^\\x00-\\x1f\\x7f-\\x9f]{0,254})?$", max: 385,
        says: "a constraint is `key=value`, `key!=value` or `key`, where the key is a node's label, `node.id`, `node.name`, `node.arch` or `node.os`",
        ok: |t| crate::placement::is_constraint(t)
    }
    /// A registry's host: `registry.example.com`, `10.0.0.5:5000`.
    RegistryHost {
        pattern: "^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[1-9][0-9]{0,4})?$", max: 259,
        says: "a registry is a host name in lower case with an optional port",
        ok: |t| { let (host, port) = match t.split_once(':') { Some((h, p)) => (h, Some(p)), None => (t, None) };
            !host.is_empty() && host.len() <= 253 && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-')
            && !host.starts_with(['.', '-']) && !host.ends_with(['.', '-'])
            && port.is_none_or(|p| p.len() <= 5 && !p.starts_with('0') && p.parse::<u16>().is_ok()) }
    }
}

impl ContainerName {
    /// The name Docker is given: its rule wants two characters at least.
    pub fn docker_name(&self) -> String {
        if self.0.len() < 2 {
            format!("nm_{}", self.0)
        } else {
            self.0.to_string()
        }
    }
}

/// Reads a map and refuses the same key twice, which plain maps would lose in silence.
pub(crate) fn unique_map<'de, D, K, V>(d: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + fmt::Display,
    V: Deserialize<'de>,
{
    struct Visit<K, V>(std::marker::PhantomData<(K, V)>);
    impl<'de, K: Deserialize<'de> + Ord + fmt::Display, V: Deserialize<'de>> serde::de::Visitor<'de> for Visit<K, V> {
        type Value = BTreeMap<K, V>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = BTreeMap::new();
            while let Some(key) = map.next_key::<K>()? {
                if out.contains_key(&key) {
                    return Err(serde::de::Error::custom(format!("the key `{key}` stands here twice")));
                }
                let value = map.next_value()?;
                out.insert(key, value);
            }
            Ok(out)
        }
    }
    d.deserialize_map(Visit(std::marker::PhantomData))
}

macro_rules! maps {
    ($($(#[$doc:meta])* $name:ident { key: $key:ty, value: $value:ty, max: $max:literal, says: $says:literal })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(pub BTreeMap<$key, $value>);
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let map = unique_map(d)?;
                if map.len() > $max { return Err(serde::de::Error::custom($says)); }
                Ok(Self(map))
            }
        }
        impl utoipa::PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .property_names(Some(match <$key as utoipa::PartialSchema>::schema() { RefOr::T(s) => s, RefOr::Ref(_) => Schema::default() }))
                    .additional_properties(Some(AdditionalProperties::RefOr(<$value as utoipa::PartialSchema>::schema())))
                    .max_properties(Some($max))
                    .description(Some($says))
                    .into()
            }
        }
        impl utoipa::ToSchema for $name {}
    )*};
}
maps! {
    /// Environment variables.
    Environment { key: EnvName, value: Argument, max: 500, says: "at most 500 variables, name to value" }
    /// Labels.
    Labels { key: LabelKey, value: Argument, max: 100, says: "at most 100 labels, key to value" }
    /// Driver options of a volume or network.
    Options { key: LabelKey, value: Argument, max: 50, says: "at most 50 options, key to value" }
}

/// Whether a variable of this name usually holds a secret; its value is then shown only to those who may change it.
pub fn looks_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let within = [
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "SECRET",
        "TOKEN",
        "KEY",
        "CREDENTIAL",
        "PRIVATE",
        "_PASS",
        "_PWD",
        "_PW",
        "PGPASS",
        "JWT",
        "DSN",
        "DATABASE_URL",
        "CONNECTION_STRING",
        "WEBHOOK",
    ];
    within.iter().any(|w| name.contains(w)) || name.ends_with("_AUTH") || matches!(name.as_str(), "PASS" | "PW" | "AUTH")
}

/// Whether a variable's value holds a password that its name does not tell of: that of an address, `amqp://user:password@host`.
pub fn holds_secret(value: &str) -> bool {
    value.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    })
}

/// What stands in the place of a secret value in a reply.
pub const MASK: &str = "********";

impl Environment {
    /// The same variables, with the values of those that look secret covered.
    pub fn masked(&self) -> Environment {
        let mask = Argument(MASK.into());
        Environment(
            self.0
                .iter()
                .map(|(k, v)| {
                    (
                        k.clone(),
                        if looks_secret(k.as_str()) || holds_secret(v.as_str()) {
                            mask.clone()
                        } else {
                            v.clone()
                        },
                    )
                })
                .collect(),
        )
    }
}

/// A text that must never be printed: a password or key on its way in. It has neither `Display` nor `Serialize`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Box<str>);

impl SecretText {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }
    /// The secret itself. Each call is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}
impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if text.is_empty() || text.chars().count() > 16_384 || text.contains('\0') {
            return Err(serde::de::Error::custom("a secret has 1 to 16,384 characters and no NUL character"));
        }
        Ok(Self(text.into()))
    }
}
impl utoipa::PartialSchema for SecretText {
    fn schema() -> RefOr<Schema> {
        let mut schema = match string_schema("^[^\\x00]+$", Some(1), Some(16384), "A secret; never given back.") {
            RefOr::T(Schema::Object(o)) => o,
            other => return other,
        };
        schema.write_only = Some(true);
        schema.into()
    }
}
impl utoipa::ToSchema for SecretText {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images() {
        for good in [
            "nginx",
            "nginx:latest",
            "postgres:16",
            "localhost:5000/a/b:1",
            "ghcr.io/a-b/c__d.e",
            "a--b",
            &format!("x@sha256:{}", "a".repeat(64)),
        ] {
            assert!(ImageRef::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "Nginx",
            "nginx:",
            "-nginx",
            "a//b",
            "nginx:la test",
            "a@sha256:zz",
            "a;b",
            "$(x)",
            "../a",
            "a:b:c",
            "nginx\n",
            "/a",
            "a/",
        ] {
            assert!(ImageRef::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(ImageRef::parse("nginx").unwrap().with_tag(), "nginx:latest");
        assert_eq!(ImageRef::parse("localhost:5000/x").unwrap().with_tag(), "localhost:5000/x:latest");
        assert_eq!(ImageRef::parse("localhost:5000/x").unwrap().registry(), Some("localhost:5000"));
        assert_eq!(ImageRef::parse("team/x").unwrap().registry(), None);
    }

    #[test]
    fn devices() {
        for good in ["/dev/fuse", "/dev/dri/card0", "/dev/..x/y", "/dev/disk/by-id/a b"] {
            assert!(DevicePath::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/dev",
            "/dev/",
            "/dev//x",
            "/dev/../etc",
            "/dev/./x",
            "/dev/x/..",
            "/dev/a:b",
            "/dev/a\n",
            "/etc/passwd",
            "dev/x",
            "/devious",
        ] {
            assert!(DevicePath::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["r", "rw", "rwm", "w", "m", "rm"] {
            assert!(DeviceAccess::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "wr", "x", "rwmx", "rr"] {
            assert!(DeviceAccess::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_that_would_be_read_as_something_else_are_refused() {
        for bad in ["", ".", "..", "-x", "a b", "a;b", "a\n", "a/b", "é"] {
            assert!(ContainerName::parse(bad).is_err(), "{bad:?}");
        }
        for reserved in ["list", "cont_1", "backup_cfg_x"] {
            assert!(ContainerName::parse(reserved).is_err(), "{reserved}");
        }
        assert!(ContainerName::parse("container").is_ok() && ContainerName::parse("lists").is_ok());
        // The schemas say the same.
        let words = format!("(?!(?:{})$)", RESERVED.join("|"));
        let prefixes = format!("(?!(?:{})_)", crate::id::PREFIXES.join("|"));
        let after = |words: &str| format!("^{words}{prefixes}[a-zA-Z0-9][a-zA-Z0-9_.-]{{0,99}}$");
        assert_eq!(ContainerName::PATTERN, after(&words));
        assert_eq!(ServerName::PATTERN, after("(?!settings$)"));
        assert_eq!(ContainerName::parse("a").unwrap().docker_name(), "nm_a");
    }

    #[test]
    fn what_looks_secret() {
        for name in [
            "MYSQL_PWD",
            "PGPASS",
            "JWT",
            "AUTH",
            "PASSPHRASE",
            "POSTGRES_PW",
            "SLACK_WEBHOOK_URL",
            "api_key",
        ] {
            assert!(looks_secret(name), "{name}");
        }
        for name in ["PWD", "OLDPWD", "PATH", "AUTHOR", "MAX_CONNECTIONS", "POSTGRES_HOST_AUTH_METHOD"] {
            assert!(!looks_secret(name), "{name}");
        }
        assert!(holds_secret("amqp://user:pw@host:5672/") && holds_secret("redis://:pw@host"));
        assert!(!holds_secret("http://host:80/a@b:c") && !holds_secret("https://user@host/") && !holds_secret("a:b@c"));
    }

    #[test]
    fn a_key_twice_is_refused() {
        assert!(serde_json::from_str::<Environment>(r#"{"A":"1","A":"2"}"#).is_err());
        assert!(serde_json::from_str::<Environment>(r#"{"A=":"1"}"#).is_err());
        let env: Environment = serde_json::from_str(r#"{"DB_PASSWORD":"x","B":"2"}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&env.masked()).unwrap(),
            r#"{"B":"2","DB_PASSWORD":"********"}"#
        );
    }
}
