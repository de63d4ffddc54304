//! Channels, as admins manage them. Their secrets are sealed when they come in and leave only in what is sent.

use super::deliver::{OpenChannel, Secrets, send};
use super::outbox::Told;
use super::rules::RuleSpec;
use super::{Alerts, rows};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::idempotency;
use crate::service::refusals;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nm_store::{Kind, NewResource, Patch, Resource, Secret};
use nm_types::alert::channel::{
    AlertChannelConfig, AlertChannelTest, AlertChannelType, AlertChannelUpdate, AlertChannelView, ChannelFields, CreatedAlertChannel,
    MailTls, NewAlertChannel, RECEIVERS_AT_MOST, WebUrl,
};
use nm_types::alert::{AlertEvent, AlertSeverity, AlertState, AlertTargetKind, AlertView};
use nm_types::envelope::FieldProblem;
use nm_types::text::Title;
use nm_types::units::Port;
use nm_types::{AlertId, AlertRuleId, ChannelId, DeliveryId};
use serde_json::json;
use std::net::IpAddr;
use std::time::Instant;

const MOST: i64 = 100;
const TELEGRAM: &str = "https://api.telegram.org";
const NTFY: &str = "https://ntfy.sh";

/// A channel, and the revision that `If-Match` can name.
type Versioned<T> = (T, i64);

/// A channel put together out of what was there and what was sent.
struct Built {
    config: AlertChannelConfig,
    secrets: Secrets,
    /// The signing key that was made here.
    made: Option<String>,
}

/// What a set of fields lacks, and what it has too many.
#[derive(Default)]
struct Problems(Vec<FieldProblem>);

impl Problems {
    fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(FieldProblem {
            field: field.into(),
            message: message.into(),
        });
    }
    fn need<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.add(field, format!("missing field `{field}`"));
        }
        value
    }
}

fn fresh_key() -> ApiResult<String> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|_| ApiError::internal())?;
    Ok(format!("whsec_{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Which fields a type takes.
fn takes(kind: AlertChannelType) -> &'static [&'static str] {
    match kind {
        AlertChannelType::Webhook => &["url", "secret"],
        AlertChannelType::Email => &["host", "port", "tls", "username", "password", "from", "to"],
        AlertChannelType::Slack | AlertChannelType::Discord => &["url"],
        AlertChannelType::Telegram => &["token", "chatId", "apiBase"],
        AlertChannelType::Ntfy => &["server", "topic", "token"],
    }
}

fn sent(fields: &ChannelFields) -> Vec<&'static str> {
    [
        ("url", fields.url.is_some()),
        ("secret", fields.secret.is_some()),
        ("host", fields.host.is_some()),
        ("port", fields.port.is_some()),
        ("tls", fields.tls.is_some()),
        ("username", fields.username.is_some()),
        ("password", fields.password.is_some()),
        ("from", fields.from.is_some()),
        ("to", fields.to.is_some()),
        ("token", fields.token.is_some()),
        ("chatId", fields.chat_id.is_some()),
        ("apiBase", fields.api_base.is_some()),
        ("server", fields.server.is_some()),
        ("topic", fields.topic.is_some()),
    ]
    .into_iter()
    .filter(|(_, is_sent)| *is_sent)
    .map(|(name, _)| name)
    .collect()
}

/// Puts a channel together; a problem of each field that does not fit.
fn build(kind: AlertChannelType, fields: ChannelFields, old: Option<(AlertChannelConfig, Secrets)>) -> ApiResult<Result<Built, Problems>> {
    let mut problems = Problems::default();
    for field in sent(&fields).into_iter().filter(|f| !takes(kind).contains(f)) {
        problems.add(
            field,
            format!("unknown field `{field}`: channels of type {} have none", kind.as_str()),
        );
    }
    let (was, mut secrets) = old.map_or((None, Secrets::default()), |(config, secrets)| (Some(config), secrets));
    let sent_again = (fields.password.is_some(), fields.token.is_some());
    if let Some(url) = &fields.url {
        secrets.url = Some(url.to_string());
    }
    let mut made = None;
    if let Some(key) = &fields.secret {
        secrets.secret = Some(key.0.expose().to_owned());
    }
    if let Some(password) = &fields.password {
        secrets.password = Some(password.expose().to_owned());
    }
    if let Some(token) = &fields.token {
        secrets.token = Some(token.0.expose().to_owned());
    }
    // A secret goes to where it was meant for, and not to where somebody points the channel later.
    let kept = |problems: &mut Problems, field: &str, sent: bool, held: bool, moved: bool| {
        if moved && held && !sent {
            problems.add(field, format!("send `{field}` again: where it is sent to has changed"));
        }
    };
    let url = secrets.url.clone().and_then(|u| WebUrl::parse(&u).ok());
    let config = match kind {
        AlertChannelType::Webhook => {
            if secrets.secret.is_none() {
                let key = fresh_key()?;
                secrets.secret = Some(key.clone());
                made = Some(key);
            }
            problems.need("url", url).map(|url| AlertChannelConfig::Webhook {
                url: url.shown().to_owned(),
            })
        }
        AlertChannelType::Slack => problems.need("url", url).map(|url| AlertChannelConfig::Slack {
            host: url.host().to_owned(),
        }),
        AlertChannelType::Discord => problems.need("url", url).map(|url| AlertChannelConfig::Discord {
            host: url.host().to_owned(),
        }),
        AlertChannelType::Email => {
            let old = match was {
                Some(AlertChannelConfig::Email {
                    host,
                    port,
                    tls,
                    username,
                    from,
                    to,
                }) => Some((host, port, tls, username, from, to)),
                Some(_) | None => None,
            };
            let (old_place, old_name, old_from, old_to) = match old {
                Some((host, port, tls, username, from, to)) => (Some((host, port, tls)), username, Some(from), Some(to)),
                None => (None, None, None, None),
            };
            let tls = fields.tls.or(old_place.as_ref().map(|p| p.2)).unwrap_or_default();
            let usual = match tls {
                MailTls::Starttls => 587,
                MailTls::Tls => 465,
                MailTls::None => 25,
            };
            let port = fields.port.or(old_place.as_ref().map(|p| p.1)).or(Port::new(usual));
            let host = problems.need("host", fields.host.or(old_place.as_ref().map(|p| p.0.clone())));
            let username = fields.username.or(old_name);
            let from = problems.need("from", fields.from.or(old_from));
            let to = problems.need("to", fields.to.or(old_to));
            if let Some(to) = &to
                && !(1..=RECEIVERS_AT_MOST).contains(&to.len())
            {
                problems.add("to", format!("a mail has 1 to {RECEIVERS_AT_MOST} receivers"));
            }
            let lonely = match (&username, &secrets.password) {
                (Some(_), None) => Some(("password", "missing field `password`: a username needs one")),
                (None, Some(_)) => Some(("username", "missing field `username`: a password needs one")),
                (Some(_), Some(_)) | (None, None) => None,
            };
            if let Some((field, message)) = lonely
                && problems.0.is_empty()
            {
                return Err(ApiError::clashing_fields(vec![FieldProblem {
                    field: field.into(),
                    message: message.into(),
                }]));
            }
            let is_there = (host.clone(), port, Some(tls));
            let moved = old_place.is_some_and(|(host, port, tls)| is_there != (Some(host), Some(port), Some(tls)));
            kept(&mut problems, "password", sent_again.0, secrets.password.is_some(), moved);
            match (host, port, from, to) {
                (Some(host), Some(port), Some(from), Some(to)) => Some(AlertChannelConfig::Email {
                    host,
                    port,
                    tls,
                    username,
                    from,
                    to,
                }),
                _ => None,
            }
        }
        AlertChannelType::Telegram => {
            let (old_chat, old_base) = match was {
                Some(AlertChannelConfig::Telegram { chat_id, api_base }) => (Some(chat_id), Some(api_base)),
                Some(_) | None => (None, None),
            };
            problems.need("token", secrets.token.as_ref());
            let chat_id = problems.need("chatId", fields.chat_id.or(old_chat));
            let api_base = fields.api_base.or(old_base.clone()).or(WebUrl::parse(TELEGRAM).ok());
            kept(
                &mut problems,
                "token",
                sent_again.1,
                secrets.token.is_some(),
                old_base.is_some() && old_base != api_base,
            );
            chat_id
                .zip(api_base)
                .map(|(chat_id, api_base)| AlertChannelConfig::Telegram { chat_id, api_base })
        }
        AlertChannelType::Ntfy => {
            let (old_server, old_topic) = match was {
                Some(AlertChannelConfig::Ntfy { server, topic }) => (Some(server), Some(topic)),
                Some(_) | None => (None, None),
            };
            let topic = problems.need("topic", fields.topic.or(old_topic));
            let server = fields.server.or(old_server.clone()).or(WebUrl::parse(NTFY).ok());
            kept(
                &mut problems,
                "token",
                sent_again.1,
                secrets.token.is_some(),
                old_server.is_some() && old_server != server,
            );
            topic.zip(server).map(|(topic, server)| AlertChannelConfig::Ntfy { server, topic })
        }
    };
    Ok(match config {
        Some(config) if problems.0.is_empty() => Ok(Built { config, secrets, made }),
        Some(_) | None => Err(problems),
    })
}

fn view(row: &Resource, secrets: &[String]) -> ApiResult<AlertChannelView> {
    Ok(AlertChannelView {
        id: rows::id(ChannelId::parse(&row.id))?,
        name: rows::title(row)?,
        config: row.spec()?,
        secrets: secrets.to_vec(),
        created: row.created_at,
        updated: row.updated_at,
    })
}

impl Alerts {
    async fn secrets_of(&self, row: &Resource) -> ApiResult<Secrets> {
        match self.store.open_sealed(row).await? {
            Some(sealed) => Ok(sealed.parse()?),
            None => Ok(Secrets::default()),
        }
    }

    async fn channel_view(&self, row: &Resource) -> ApiResult<Versioned<AlertChannelView>> {
        let names = self.secrets_of(row).await?.names();
        Ok((view(row, &names)?, row.revision))
    }

    pub async fn channels(&self) -> ApiResult<Vec<AlertChannelView>> {
        let mut out = Vec::new();
        for row in self.store.all(Kind::AlertChannel).await? {
            out.push(self.channel_view(&row).await?.0);
        }
        Ok(out)
    }

    pub(super) async fn find_channel(&self, key: &str) -> ApiResult<Resource> {
        rows::find(&self.store, Kind::AlertChannel, "alert channel", key).await
    }

    /// By id or name.
    pub async fn channel(&self, key: &str) -> ApiResult<Versioned<AlertChannelView>> {
        self.channel_view(&self.find_channel(key).await?).await
    }

    /// A channel as it is now, to send something.
    pub(super) async fn open_channel(&self, id: &ChannelId) -> ApiResult<Option<OpenChannel>> {
        let Some(row) = self.store.get(Kind::AlertChannel, id.as_str()).await? else {
            return Ok(None);
        };
        Ok(Some(OpenChannel {
            secrets: self.secrets_of(&row).await?,
            config: row.spec()?,
        }))
    }

    /// `body` is the request's, to tell a repeated one from another.
    pub async fn create_channel(
        &self,
        actor: &Actor,
        meta: &Meta,
        new: NewAlertChannel,
        body: &[u8],
    ) -> ApiResult<Versioned<CreatedAlertChannel>> {
        let (name, kind, fields) = new.into_parts();
        refusals::not_an_id(&name, ChannelId::PREFIX)?;
        let Built { config, secrets, made } = build(kind, fields, None)?.map_err(|p| ApiError::invalid_fields(p.0))?;
        self.may_reach(&config, &secrets)?;
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        let key = meta.idempotency_key.as_deref();
        if let Some(answer) = idempotency::answered(&mut tx, actor, key, || self.fingerprints.of(meta, &[body])).await? {
            return Ok(answer);
        }
        rows::room(&mut tx, Kind::AlertChannel, MOST, "channels").await?;
        let id = ChannelId::fresh(now.0);
        let row = NewResource::new(Kind::AlertChannel, id.as_str())
            .uniquely_named(name.as_str())
            .spec(&config)?
            .secret(Secret::json(&secrets)?);
        let row = tx.insert(row).await.map_err(|e| rows::taken(e, "a channel", &name))?;
        let detail = json!({ "name": name, "type": kind });
        tx.audit(audit(actor, meta, "alertChannel.create", Some(id.as_str()), detail))
            .await?;
        let created = CreatedAlertChannel {
            secret: made,
            view: view(&row, &secrets.names())?,
        };
        let answer = (created, row.revision);
        idempotency::keep(&mut tx, actor, key, &answer).await?;
        self.settle(tx).await?;
        Ok(answer)
    }

    pub async fn update_channel(
        &self,
        actor: &Actor,
        meta: &Meta,
        key: &str,
        change: AlertChannelUpdate,
    ) -> ApiResult<Versioned<AlertChannelView>> {
        let known = self.find_channel(key).await?;
        refusals::if_match(&known, meta)?;
        let (name, fields) = change.into_parts();
        let mut changed: Vec<&str> = sent(&fields);
        let old: AlertChannelConfig = known.spec()?;
        let old_secrets = self.secrets_of(&known).await?;
        let Built { config, secrets, .. } =
            build(old.kind(), fields, Some((old, old_secrets)))?.map_err(|p| ApiError::clashing_fields(p.0))?;
        self.may_reach(&config, &secrets)?;
        let mut patch = Patch::new()
            .spec(&config)?
            .secret(Some(Secret::json(&secrets)?))
            .if_revision(known.revision);
        if let Some(name) = &name {
            refusals::not_an_id(name, ChannelId::PREFIX)?;
            patch = patch.name(name.as_str());
            changed.push("name");
        }
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        let row = tx.update(Kind::AlertChannel, &known.id, patch).await.map_err(|e| match &name {
            Some(name) => rows::taken(e, "a channel", name),
            None => e.into(),
        })?;
        let detail = json!({ "name": row.name, "changed": changed });
        tx.audit(audit(actor, meta, "alertChannel.update", Some(&known.id), detail)).await?;
        self.settle(tx).await?;
        // What could not be delivered may be now.
        self.outbox.hurry(&rows::id(ChannelId::parse(&row.id))?, now);
        Ok((view(&row, &secrets.names())?, row.revision))
    }

    /// Removes a channel that no rule tells.
    pub async fn remove_channel(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<Title> {
        let known = self.find_channel(key).await?;
        let id = rows::id(ChannelId::parse(&known.id))?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = rows::held(&mut tx, Kind::AlertChannel, "alert channel", &known.id, meta).await?;
        // In the turn to write, so that no rule takes it up meanwhile.
        let mut used: Vec<String> = Vec::new();
        for rule in self.store.all(Kind::AlertRule).await? {
            if rule.spec::<RuleSpec>()?.channels.contains(&id) {
                used.push(format!("`{}`", rule.name));
            }
        }
        if !used.is_empty() {
            return Err(ApiError::conflict(
                "channel_in_use",
                format!("rules tell it: {}; take it out of them first", used.join(", ")),
            ));
        }
        tx.delete(Kind::AlertChannel, &row.id).await?;
        let detail = json!({ "name": row.name });
        tx.audit(audit(actor, meta, "alertChannel.remove", Some(&row.id), detail)).await?;
        self.settle(tx).await?;
        rows::title(&row)
    }

    /// Sends a word through it now, and tells what came of it.
    pub async fn test_channel(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<AlertChannelTest> {
        let row = self.find_channel(key).await?;
        refusals::if_match(&row, meta)?;
        let channel = OpenChannel {
            secrets: self.secrets_of(&row).await?,
            config: row.spec()?,
        };
        let now = self.clock.now();
        let told = Told {
            event: AlertEvent::Test,
            at: now,
            alert: AlertView {
                id: AlertId::fresh(now.0),
                rule_id: AlertRuleId::fresh(now.0),
                rule_name: rows::title(&row)?,
                server_id: "none".into(),
                server_name: "no server".into(),
                server_kind: AlertTargetKind::Node,
                severity: AlertSeverity::Info,
                state: AlertState::Resolved,
                since: now,
                fired_at: None,
                resolved_at: None,
                value: None,
                message: format!("{} tests this channel. Nothing is wrong.", actor.label()),
                flapping: false,
                silenced_by: None,
                acknowledged_at: None,
                acknowledged_by: None,
            },
        };
        let began = Instant::now();
        let sent = send(&self.guard, &channel, &DeliveryId::fresh(now.0), &told, now).await;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (delivered, message) = match sent {
            Ok(said) => (true, said),
            Err(failure) => (false, failure.message),
        };
        let mut tx = self.store.begin(self.clock.now()).await?;
        let detail = json!({ "name": row.name, "delivered": delivered });
        tx.audit(audit(actor, meta, "alertChannel.test", Some(&row.id), detail)).await?;
        tx.commit().await?;
        Ok(AlertChannelTest {
            delivered,
            message,
            took_ms,
        })
    }

    /// Refuses at once an address that will never be connected to. Names are judged when something is sent.
    fn may_reach(&self, config: &AlertChannelConfig, secrets: &Secrets) -> ApiResult<()> {
        let (field, host) = match config {
            AlertChannelConfig::Webhook { .. } | AlertChannelConfig::Slack { .. } | AlertChannelConfig::Discord { .. } => {
                ("url", url_host("url", secrets.url.as_deref().unwrap_or_default())?)
            }
            AlertChannelConfig::Email { host, .. } => ("host", host.to_string()),
            AlertChannelConfig::Telegram { api_base, .. } => ("apiBase", url_host("apiBase", api_base.as_str())?),
            AlertChannelConfig::Ntfy { server, .. } => ("server", url_host("server", server.as_str())?),
        };
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(&host);
        match bare.parse::<IpAddr>() {
            Ok(ip) => self.guard.check(ip).map_err(|e| e.field(field)),
            Err(_) => Ok(()),
        }
    }
}

/// The host as whoever connects reads it: `127.1` is `127.0.0.1`.
fn url_host(field: &str, url: &str) -> ApiResult<String> {
    let parsed = reqwest::Url::parse(url).ok();
    let host = parsed.as_ref().and_then(|u| u.host_str()).map(str::to_owned);
    host.ok_or_else(|| ApiError::invalid(field, "this URL names no host that can be connected to"))
}
