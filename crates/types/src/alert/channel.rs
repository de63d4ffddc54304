//! Channels: where alerts are told. What opens them is sealed when it comes in and never shown.

use crate::text::{BadText, SecretText, Title, string_schema};
use crate::units::Port;
use crate::{ChannelId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum AlertChannelType {
    /// `POST` of the alert as JSON, signed with HMAC-SHA256.
    Webhook,
    Email,
    Slack,
    Discord,
    Telegram,
    Ntfy,
}

impl AlertChannelType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Email => "email",
            Self::Slack => "slack",
            Self::Discord => "discord",
            Self::Telegram => "telegram",
            Self::Ntfy => "ntfy",
        }
    }
}

/// How a mail server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// In the clear at first, encrypted before anything is said that matters; never without.
    #[default]
    Starttls,
    /// Encrypted from the first byte.
    Tls,
    /// Never encrypted: only to private addresses.
    None,
}

/// `host`, `host:port`, `[address]:port`: what stands between `//` and the path.
fn authority(text: &str) -> bool {
    let port = |p: &str| (1..=5).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|p| p != 0);
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return false;
        };
        return address.parse::<std::net::Ipv6Addr>().is_ok() && (rest.is_empty() || rest.strip_prefix(':').is_some_and(port));
    }
    let (host, rest) = match text.split_once(':') {
        Some((host, p)) => (host, Some(p)),
        None => (text, None),
    };
    host_name(host) && rest.is_none_or(port)
}

fn host_name(host: &str) -> bool {
    (1..=253).contains(&host.len())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && host.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && host.bytes().next_back().is_some_and(|b| b.is_ascii_alphanumeric())
}

crate::text::texts! {
    /// A URL of the web, without a login and without a fragment.
    WebUrl {
        pattern: "^https?://(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\\[[0-9A-Fa-f:.]{2,45}\\])(?::[0-9]{1,5})?(?:[/?][\\x21\\x22\\x24-\\x7e]*)?$",
        max: 2048,
        says: "a URL is https://host/path, or http://host/path within a private network, of at most 2,048 characters, without a login or a fragment",
        ok: |t| {
            let Some(rest) = t.strip_prefix("https://").or_else(|| t.strip_prefix("http://")) else { return false };
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            authority(&rest[..end]) && rest[end..].bytes().all(|b| b.is_ascii_graphic() && b != b'#')
        }
    }
    /// A mail server: a host name or an address.
    MailHost {
        pattern: "^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$", max: 253,
        says: "a mail server is a host name or an IPv4 address",
        ok: |t| host_name(t)
    }
    /// A mail address, without a name beside it.
    MailAddress {
        pattern: "^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,186}[A-Za-z0-9])?$", max: 254,
        says: "a mail address is `name@host`",
        ok: |t| match t.split_once('@') {
            Some((name, host)) => (1..=64).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&b))
                && !name.starts_with('.') && !name.ends_with('.') && !name.contains("..")
                && host_name(host) && host.len() <= 188 && !host.contains('_') && !host.contains("..") && !host.contains(".-") && !host.contains("-."),
            None => false,
        }
    }
    /// A chat of Telegram: its number, or a channel's `@name`.
    TelegramChat {
        pattern: "^(?:-?[0-9]{1,20}|@[A-Za-z][A-Za-z0-9_]{3,63})$", max: 64,
        says: "a chat is its number, `-1001234567890`, or a channel's `@name`",
        ok: |t| match t.strip_prefix('@') {
            Some(name) => (4..=64).contains(&name.len()) && name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
            None => { let digits = t.strip_prefix('-').unwrap_or(t); (1..=20).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) }
        }
    }
    /// A topic of ntfy.
    NtfyTopic {
        pattern: "^[A-Za-z0-9_-]{1,64}$", max: 64,
        says: "a topic has 1 to 64 letters, digits, `_` or `-`",
        ok: |t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    }
}

impl WebUrl {
    /// `hooks.slack.com`, `127.0.0.1:8080`: all of it that may be shown where the rest is a secret.
    pub fn host(&self) -> &str {
        let rest = self.as_str().split_once("://").map_or(self.as_str(), |(_, rest)| rest);
        &rest[..rest.find(['/', '?']).unwrap_or(rest.len())]
    }
    /// Without its query, where people put keys.
    pub fn shown(&self) -> &str {
        self.as_str().split_once('?').map_or(self.as_str(), |(head, _)| head)
    }
    pub fn is_encrypted(&self) -> bool {
        self.as_str().starts_with("https://")
    }
}

/// Declares a secret whose text has a rule.
macro_rules! secrets {
    ($($(#[$doc:meta])* $name:ident { pattern: $pattern:literal, min: $min:literal, max: $max:literal, says: $says:literal, ok: $ok:expr })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(try_from = "SecretText")]
        pub struct $name(pub SecretText);
        impl TryFrom<SecretText> for $name {
            type Error = BadText;
            fn try_from(s: SecretText) -> Result<Self, BadText> {
                let ok: fn(&str) -> bool = $ok;
                let text = s.expose();
                if ($min..=$max).contains(&text.chars().count()) && ok(text) { Ok(Self(s)) } else { Err(BadText($says.to_owned())) }
            }
        }
        impl utoipa::PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                match string_schema($pattern, Some($min), Some($max), concat!($says, "; never given back")) {
                    RefOr::T(Schema::Object(mut o)) => { o.write_only = Some(true); o.into() }
                    other => other,
                }
            }
        }
        impl ToSchema for $name {}
    )*};
}
secrets! {
    /// The key of a webhook's signature.
    SigningKey {
        pattern: "^[\\x21-\\x7e]+$", min: 16, max: 200,
        says: "a signing key has 16 to 200 visible ASCII characters",
        ok: |t| t.bytes().all(|b| b.is_ascii_graphic())
    }
    /// A bot's or an access token.
    AccessToken {
        pattern: "^[A-Za-z0-9_:.~+/=-]+$", min: 1, max: 500,
        says: "a token has 1 to 500 letters, digits or any of _:.~+/=-",
        ok: |t| t.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:.~+/=-".contains(&b))
    }
}

/// The most receivers of one mail.
pub const RECEIVERS_AT_MOST: usize = 20;

/// Declares the bodies that make and change a channel. Both have the fields of every type; which of them a type takes is
/// checked where they are used.
macro_rules! bodies {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// What of a channel's fields was sent.
        #[derive(Debug, Clone, Default)]
        pub struct ChannelFields {
            $(pub $field: Option<$type>,)*
        }

        /// A channel to be made. Which fields it takes, its type says.
        #[derive(Debug, Clone, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct NewAlertChannel {
            pub name: Title,
            pub r#type: AlertChannelType,
            $($(#[$doc])* #[serde(default)] pub $field: Option<$type>,)*
        }

        /// A change to a channel: only what is sent changes. A secret must be sent again when where it is sent to changes.
        #[derive(Debug, Clone, Deserialize, ToSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct AlertChannelUpdate {
            #[serde(default)]
            pub name: Option<Title>,
            $($(#[$doc])* #[serde(default)] pub $field: Option<$type>,)*
        }

        impl NewAlertChannel {
            pub fn into_parts(self) -> (Title, AlertChannelType, ChannelFields) {
                let Self { name, r#type, $($field,)* } = self;
                (name, r#type, ChannelFields { $($field,)* })
            }
        }

        impl AlertChannelUpdate {
            pub fn into_parts(self) -> (Option<Title>, ChannelFields) {
                let Self { name, $($field,)* } = self;
                (name, ChannelFields { $($field,)* })
            }
        }
    };
}

bodies! {
    /// Webhook, Slack, Discord: where to post. Of Slack and Discord it is a secret.
    url: WebUrl,
    /// Webhook: the key of the signature; made and shown once where none is given.
    secret: SigningKey,
    /// E-mail: the server.
    host: MailHost,
    /// E-mail: 587 by default, 465 with `tls`, 25 without encryption.
    port: Port,
    /// E-mail: `starttls` by default.
    tls: MailTls,
    /// E-mail: to sign in with.
    username: Title,
    /// E-mail: the username's.
    password: SecretText,
    /// E-mail: the sender.
    from: MailAddress,
    /// E-mail: 1 to 20 receivers.
    to: Vec<MailAddress>,
    /// Telegram: the bot's token. Ntfy: an access token, where the server wants one.
    token: AccessToken,
    /// Telegram: the chat.
    chat_id: TelegramChat,
    /// Telegram: a server of one's own in place of https://api.telegram.org.
    api_base: WebUrl,
    /// Ntfy: https://ntfy.sh by default.
    server: WebUrl,
    /// Ntfy: the topic.
    topic: NtfyTopic,
}

/// [`NewAlertChannel`] as the document tells of it: what each type takes and needs.
#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is of use")]
enum NewChannelSchema {
    Webhook {
        name: Title,
        url: WebUrl,
        /// The key of the signature; made and shown once where none is given.
        secret: Option<SigningKey>,
    },
    Email {
        name: Title,
        host: MailHost,
        /// 587 by default, 465 with `tls`, 25 without encryption.
        port: Option<Port>,
        /// `starttls` by default.
        tls: Option<MailTls>,
        /// Needs `password`.
        username: Option<Title>,
        password: Option<SecretText>,
        from: MailAddress,
        #[schema(min_items = 1, max_items = 20)]
        to: Vec<MailAddress>,
    },
    Slack {
        name: Title,
        url: WebUrl,
    },
    Discord {
        name: Title,
        url: WebUrl,
    },
    Telegram {
        name: Title,
        token: AccessToken,
        #[serde(rename = "chatId")]
        chat_id: TelegramChat,
        #[serde(rename = "apiBase")]
        api_base: Option<WebUrl>,
    },
    Ntfy {
        name: Title,
        server: Option<WebUrl>,
        topic: NtfyTopic,
        token: Option<AccessToken>,
    },
}
impl utoipa::PartialSchema for NewAlertChannel {
    fn schema() -> RefOr<Schema> {
        <NewChannelSchema as utoipa::PartialSchema>::schema()
    }
}
impl ToSchema for NewAlertChannel {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        <NewChannelSchema as ToSchema>::schemas(schemas);
    }
}

/// A channel as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertChannelView {
    pub id: ChannelId,
    pub name: Title,
    #[serde(flatten)]
    pub config: AlertChannelConfig,
    /// The names of the secrets it has; what they are is never shown.
    pub secrets: Vec<String>,
    pub created: Timestamp,
    pub updated: Timestamp,
}

/// What of a channel is no secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum AlertChannelConfig {
    Webhook {
        /// Without its query.
        url: String,
    },
    Email {
        host: MailHost,
        port: Port,
        tls: MailTls,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        username: Option<Title>,
        from: MailAddress,
        to: Vec<MailAddress>,
    },
    Slack {
        host: String,
    },
    Discord {
        host: String,
    },
    Telegram {
        #[serde(rename = "chatId")]
        chat_id: TelegramChat,
        #[serde(rename = "apiBase")]
        api_base: WebUrl,
    },
    Ntfy {
        server: WebUrl,
        topic: NtfyTopic,
    },
}

impl AlertChannelConfig {
    pub fn kind(&self) -> AlertChannelType {
        match self {
            Self::Webhook { .. } => AlertChannelType::Webhook,
            Self::Email { .. } => AlertChannelType::Email,
            Self::Slack { .. } => AlertChannelType::Slack,
            Self::Discord { .. } => AlertChannelType::Discord,
            Self::Telegram { .. } => AlertChannelType::Telegram,
            Self::Ntfy { .. } => AlertChannelType::Ntfy,
        }
    }
    /// Where it leads, for a list.
    pub fn place(&self) -> String {
        match self {
            Self::Webhook { url } => url.clone(),
            Self::Email { to, .. } => to.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            Self::Slack { host } | Self::Discord { host } => host.clone(),
            Self::Telegram { chat_id, .. } => chat_id.to_string(),
            Self::Ntfy { server, topic } => format!("{server}/{topic}"),
        }
    }
}

/// A new channel. `secret` is the webhook's, shown this once, where it was made here.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedAlertChannel {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    #[serde(flatten)]
    pub view: AlertChannelView,
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertChannelTest {
    pub delivered: bool,
    /// What the receiver said, or what went wrong.
    pub message: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for good in [
            "https://hooks.slack.com/services/T0/B0/x",
            "http://127.0.0.1:8080",
            "https://[::1]:8080/a?b=c",
            "https://example.com?x=1",
            "http://a_b/c",
        ] {
            assert!(WebUrl::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "hooks.slack.com",
            "ftp://a/",
            "https://",
            "https:///a",
            "https://user@host/",
            "https://a:b@host/",
            "https://host:0/",
            "https://host:99999/",
            "https://host/#a",
            "https://host/a b",
            "https://host\\@evil/",
            "https://[::1/",
            "https://host/\n",
            "https://hö/",
        ] {
            assert!(WebUrl::parse(bad).is_err(), "{bad:?}");
        }
        let url = WebUrl::parse("https://a.example:8443/b?key=c").unwrap();
        assert_eq!((url.host(), url.shown()), ("a.example:8443", "https://a.example:8443/b"));
    }

    #[test]
    fn addresses() {
        for good in ["a@b", "first.last+tag@mail.example.com"] {
            assert!(MailAddress::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "@b",
            "a@",
            "a@b@c",
            "a b@c",
            "a@b\r\nRCPT TO:<x@y>",
            "<a@b>",
            "a@-b",
            ".a@b",
            "a..b@c",
            "a@b..c",
        ] {
            assert!(MailAddress::parse(bad).is_err(), "{bad:?}");
        }
        for (chat, good) in [
            ("-1001234567890", true),
            ("@channel", true),
            ("12", true),
            ("", false),
            ("@a", false),
            ("a/b", false),
            ("-", false),
        ] {
            assert_eq!(TelegramChat::parse(chat).is_ok(), good, "{chat}");
        }
    }
}
