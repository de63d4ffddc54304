//! What is said, in each receiver's own form. Texts come from names that people and programs chose: each form writes them so
//! that they stay texts.

use crate::service::alerts::outbox::Told;
use nm_types::DeliveryId;
use nm_types::alert::channel::{NtfyTopic, TelegramChat};
use nm_types::alert::{AlertEvent, AlertSeverity};
use serde_json::{Value, json};

fn word(told: &Told) -> &'static str {
    match told.event {
        AlertEvent::Firing => "FIRING",
        AlertEvent::Reminder => "STILL FIRING",
        AlertEvent::Resolved => "RESOLVED",
        AlertEvent::Test => "TEST",
    }
}

/// At most `most` characters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// `FIRING critical: Node lost, alder`, on one line.
pub(super) fn headline(told: &Told) -> String {
    let alert = &told.alert;
    let line = format!(
        "{} {}: {}, {}",
        word(told),
        alert.severity.as_str(),
        alert.rule_name,
        alert.server_name
    );
    cut(&line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>(), 200)
}

/// When it began, and when it ended.
fn times(told: &Told) -> String {
    let alert = &told.alert;
    match alert.resolved_at {
        Some(end) => format!("from {} to {end}", alert.since),
        None => format!("since {}", alert.since),
    }
}

/// RGB: red, amber and blue by severity, green where it is over.
fn color(told: &Told) -> u32 {
    match (told.event, told.alert.severity) {
        (AlertEvent::Resolved, _) => 0x2e_a0_43,
        (_, AlertSeverity::Critical) => 0xd7_3a_49,
        (_, AlertSeverity::Warning) => 0xdb_ab_09,
        (_, AlertSeverity::Info) => 0x1f_6f_eb,
    }
}

/// The whole of it, for programs.
pub(super) fn webhook(delivery: &DeliveryId, told: &Told) -> Value {
    json!({ "version": 1, "delivery": delivery, "event": told.event, "time": told.at, "alert": told.alert })
}

/// <https://docs.slack.dev/messaging/formatting-message-text#escaping>
fn slack_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>
pub(super) fn slack(told: &Told) -> Value {
    let headline = headline(told);
    // A section holds 3,000 characters, and escaping makes up to five of one.
    let message = cut(&told.alert.message, 500);
    json!({
        "text": slack_text(&headline),
        "attachments": [{
            "color": format!("#{:06x}", color(told)),
            "blocks": [
                { "type": "header", "text": { "type": "plain_text", "text": cut(&headline, 150), "emoji": false } },
                { "type": "section", "text": { "type": "mrkdwn", "text": slack_text(&message), "verbatim": true } },
                { "type": "context", "elements": [{ "type": "plain_text", "text": times(told), "emoji": false }] },
            ],
        }],
    })
}

/// Markdown's own characters, each with a backslash before it.
fn markdown_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\`*_{}[]()<>#+-.!|~:@".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// <https://discord.com/developers/docs/resources/webhook#execute-webhook>
pub(super) fn discord(told: &Told) -> Value {
    json!({
        "username": "NeuralMesh",
        // Nobody is called by a name that stands in an alert.
        "allowed_mentions": { "parse": [] },
        "embeds": [{
            "title": cut(&headline(told), 256),
            "description": cut(&markdown_text(&told.alert.message), 4096),
            "color": color(told),
            "timestamp": told.at,
            "footer": { "text": times(told) },
        }],
    })
}

/// <https://core.telegram.org/bots/api#html-style>
fn html_text(text: &str) -> String {
    slack_text(text).replace('"', "&quot;")
}

/// <https://core.telegram.org/bots/api#sendmessage>
pub(super) fn telegram(chat: &TelegramChat, told: &Told) -> Value {
    let text = format!(
        "<b>{}</b>\n{}\n<i>{}</i>",
        html_text(&headline(told)),
        html_text(&cut(&told.alert.message, 3000)),
        html_text(&times(told))
    );
    json!({
        "chat_id": chat,
        "text": text,
        "parse_mode": "HTML",
        "link_preview_options": { "is_disabled": true },
        "disable_notification": told.event == AlertEvent::Resolved,
    })
}

/// <https://docs.ntfy.sh/publish/#publish-as-json>
pub(super) fn ntfy(topic: &NtfyTopic, told: &Told) -> Value {
    let (priority, tag) = match (told.event, told.alert.severity) {
        (AlertEvent::Resolved, _) => (3, "white_check_mark"),
        (AlertEvent::Test, _) => (3, "test_tube"),
        (_, AlertSeverity::Critical) => (5, "rotating_light"),
        (_, AlertSeverity::Warning) => (4, "warning"),
        (_, AlertSeverity::Info) => (3, "information_source"),
    };
    json!({
        "topic": topic,
        "title": headline(told),
        // A longer one would become an attachment.
        "message": cut(&format!("{}\n{}", told.alert.message, times(told)), 1000),
        "priority": priority,
        "tags": [tag],
    })
}

/// A mail's text.
pub(super) fn letter(told: &Told) -> String {
    let alert = &told.alert;
    let mut lines = vec![alert.message.clone(), String::new()];
    lines.push(format!("Rule:      {}", alert.rule_name));
    lines.push(format!(
        "Server:    {} {} ({})",
        alert.server_kind.as_str(),
        alert.server_name,
        alert.server_id
    ));
    lines.push(format!("Severity:  {}", alert.severity.as_str()));
    lines.push(format!("State:     {}, {}", alert.state.as_str(), times(told)));
    lines.push(format!("Alert:     {}", alert.id));
    lines.join("\r\n") + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_texts() {
        assert_eq!(slack_text("<!channel> & <@U1>"), "&lt;!channel&gt; &amp; &lt;@U1&gt;");
        assert_eq!(markdown_text("**x** @everyone [a](b)"), r"\*\*x\*\* \@everyone \[a\]\(b\)");
        assert_eq!(html_text("<b>\"&"), "&lt;b&gt;&quot;&amp;");
        assert_eq!((cut("äöü", 3), cut("äöüx", 3)), ("äöü".to_owned(), "äö…".to_owned()));
    }
}
