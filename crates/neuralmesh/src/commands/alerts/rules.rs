//! `neuralmesh alerts rules …`

use super::SeverityArg;
use crate::client::Call;
use crate::commands::containers::flags::seconds;
use crate::context::Context;
use crate::output::{human, report::usage, table::Column};
use clap::{Args, Subcommand};
use nm_types::alert::{AlertCondition, AlertOp, AlertRuleView, AlertTarget};
use nm_types::text::Title;
use serde_json::{Value, json};

#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// List rules
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Make a rule
    #[command(visible_alias = "create")]
    Add(Box<AddArgs>),
    /// Let rules make alerts again
    Enable(RulesArgs),
    /// Let rules make no alerts for now; those they made are over
    Disable(RulesArgs),
    /// Set which channels a rule tells; none named: nobody
    Tell(TellArgs),
    /// Remove rules; their alerts are over
    #[command(visible_alias = "remove")]
    Rm(RulesArgs),
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
What to look for is one of:
  'node.cpu > 90'        a value beyond a limit: node.cpu, node.memory, node.disk,
                         node.load, node.temperature, node.swap, container.cpu,
                         container.memory; > or <
  node-lost              a node whose agent is not connected
  container-down         a container that should run and does not, or keeps restarting
  unhealthy              a server's health; not-healthy: or not known
  unhealthy:disk         one check of it: cpu, memory, disk, network, services

Examples:
  neuralmesh alerts rules add Busy 'node.cpu > 90' --all --for 5m --tell ops
  neuralmesh alerts rules add Shop container-down --label app=shop --severity critical --tell ops --repeat 1h
  neuralmesh alerts rules add Full 'node.disk > 90' --resolve-at 80 --on alder")]
pub struct AddArgs {
    /// Every server
    #[arg(long, group = "where")]
    pub all: bool,
    /// One server, by id or name
    #[arg(long = "on", value_name = "SERVER", group = "where")]
    pub server: Option<String>,
    /// Every server with this label: KEY or KEY=VALUE
    #[arg(long, value_name = "LABEL", group = "where")]
    pub label: Option<String>,
    /// Only servers of this kind: node, container or address
    #[arg(long, value_name = "KIND", value_parser = ["node", "container", "address"])]
    pub kind: Option<String>,
    /// Where the value must come back to before the alert is over [default: the limit]
    #[arg(long, value_name = "VALUE")]
    pub resolve_at: Option<f64>,
    /// How long it must be so, as 30s or 5m [default: at once]
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    pub hold: Option<u64>,
    /// How bad it is
    #[arg(long, value_enum, value_name = "SEVERITY", default_value = "warning")]
    pub severity: SeverityArg,
    /// Tell it again after this time, for as long as it goes on [default: never]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub repeat: Option<u64>,
    /// A channel to tell, by name or id; may be repeated
    #[arg(long = "tell", value_name = "CHANNEL")]
    pub channels: Vec<String>,
    /// What to do about it, for whoever is told
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
    /// The rule's name
    #[arg(value_name = "NAME")]
    pub name: Title,
    /// What to look for
    #[arg(value_name = "CONDITION", value_parser = condition)]
    pub condition: Value,
}

#[derive(Debug, Clone, Args)]
pub struct RulesArgs {
    /// Names or ids
    #[arg(value_name = "RULE", required = true)]
    pub rules: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct TellArgs {
    /// Name or id of the rule
    #[arg(value_name = "RULE")]
    pub rule: String,
    /// Names or ids of channels
    #[arg(value_name = "CHANNEL")]
    pub channels: Vec<String>,
}

/// `node.cpu > 90`, `node-lost`, `unhealthy:disk`, … as the API's body. What is wrong with a value, the API says.
fn condition(text: &str) -> Result<Value, String> {
    let text = text.trim();
    if let Some((metric, op, value)) = [('>', "above"), ('<', "below")]
        .into_iter()
        .find_map(|(sign, op)| text.split_once(sign).map(|(metric, value)| (metric.trim(), op, value.trim())))
    {
        let value: f64 = value.parse().map_err(|_| format!("`{value}` is no number"))?;
        return Ok(json!({ "type": "metric", "metric": metric, "op": op, "value": value }));
    }
    let (word, check) = match text.split_once(':') {
        Some((word, check)) => (word, Some(check)),
        None => (text, None),
    };
    let mut body = match (word, check) {
        ("node-lost", None) => json!({ "type": "nodeLost" }),
        ("container-down", None) => json!({ "type": "containerDown" }),
        ("backup-trouble", None) => json!({ "type": "backupTrouble" }),
        ("unhealthy", _) => json!({ "type": "health", "status": "unhealthy" }),
        ("not-healthy", _) => json!({ "type": "health", "status": "notHealthy" }),
        _ => return Err("write 'node.cpu > 90', node-lost, container-down, backup-trouble, unhealthy or unhealthy:disk".into()),
    };
    if let Some(check) = check {
        body["check"] = check.into();
    }
    Ok(body)
}

/// A condition as it is written on the command line.
fn condition_text(condition: &AlertCondition) -> String {
    match condition {
        AlertCondition::Metric {
            metric,
            op,
            value,
            resolve_at,
        } => {
            let sign = if *op == AlertOp::Above { '>' } else { '<' };
            let end = resolve_at.map(|end| format!(" until {}", end.get())).unwrap_or_default();
            format!("{} {sign} {}{end}", metric.as_str(), value.get())
        }
        AlertCondition::NodeLost {} => "node-lost".into(),
        AlertCondition::ContainerDown {} => "container-down".into(),
        AlertCondition::BackupTrouble {} => "backup-trouble".into(),
        AlertCondition::Health { status, check } => {
            let word = match status {
                nm_types::alert::AlertHealth::Unhealthy => "unhealthy",
                nm_types::alert::AlertHealth::NotHealthy => "not-healthy",
            };
            check.map_or_else(|| word.to_owned(), |c| format!("{word}:{}", c.as_str()))
        }
    }
}

fn target_text(target: &AlertTarget) -> String {
    let kind = target.kind.map_or("server", |k| k.as_str());
    match (&target.id, &target.label) {
        (Some(id), _) => id.to_string(),
        (None, Some(label)) => format!("{kind}s with {label}"),
        (None, None) => format!("every {kind}"),
    }
}

pub async fn run(command: RulesCommand, cx: &Context) -> anyhow::Result<()> {
    match command {
        RulesCommand::Ls(args) => {
            let list = cx.client.list::<AlertRuleView>(Call::get(&["alerts", "rules"]), None).await?;
            if args.quiet {
                return Ok(cx.out.lines(list.items.iter().map(|r| r.id.as_str()))?);
            }
            let columns = [
                Column::new("NAME", |r: &AlertRuleView| r.name.to_string()),
                Column::new("ENABLED", |r: &AlertRuleView| if r.enabled { "yes" } else { "no" }.to_owned()),
                Column::new("SEVERITY", |r: &AlertRuleView| r.severity.as_str().to_owned()),
                Column::new("WHERE", |r: &AlertRuleView| target_text(&r.target)),
                Column::new("WHAT", |r: &AlertRuleView| condition_text(&r.condition)),
                Column::new(
                    "FOR",
                    |r: &AlertRuleView| {
                        if r.hold == 0 { String::new() } else { human::span(r.hold * 1000) }
                    },
                ),
                Column::new("CHANNELS", |r: &AlertRuleView| r.channels.len().to_string()).right(),
                Column::new("ID", |r: &AlertRuleView| r.id.to_string()).wide(),
            ];
            cx.out.list(&list, &columns, |r| r.name.to_string())?;
        }
        RulesCommand::Add(args) => add(*args, cx).await?,
        RulesCommand::Enable(args) => switch(&args.rules, true, cx).await?,
        RulesCommand::Disable(args) => switch(&args.rules, false, cx).await?,
        RulesCommand::Tell(args) => {
            let call = Call::patch(&["alerts", "rules", &args.rule]).json(&json!({ "channels": args.channels }))?;
            let rule = cx.client.fetch::<AlertRuleView>(call).await?;
            cx.out.result(&rule, rule.value.name.as_str())?;
        }
        RulesCommand::Rm(args) => {
            for named in &args.rules {
                cx.client.done(Call::delete(&["alerts", "rules", named])).await?;
                cx.out.line(named)?;
            }
        }
    }
    Ok(())
}

async fn switch(rules: &[String], enabled: bool, cx: &Context) -> anyhow::Result<()> {
    for named in rules {
        let call = Call::patch(&["alerts", "rules", named]).json(&json!({ "enabled": enabled }))?;
        let rule = cx.client.fetch::<AlertRuleView>(call).await?;
        cx.out.result(&rule, rule.value.name.as_str())?;
    }
    Ok(())
}

async fn add(args: AddArgs, cx: &Context) -> anyhow::Result<()> {
    let mut condition = args.condition;
    if let Some(end) = args.resolve_at {
        if condition["type"] != "metric" {
            return Err(usage("--resolve-at goes with a value's limit, as in 'node.cpu > 90'"));
        }
        condition["resolveAt"] = end.into();
    }
    let mut target = json!({});
    if let Some(kind) = args.kind {
        target["kind"] = kind.into();
    }
    match (args.server, args.label) {
        (Some(server), _) => target["id"] = server.into(),
        (None, Some(label)) => target["label"] = label.into(),
        (None, None) if args.all => target["all"] = true.into(),
        (None, None) => return Err(usage("say where to look: --all, --on SERVER or --label LABEL")),
    }
    let body = json!({
        "name": args.name, "target": target, "condition": condition, "for": args.hold, "severity": args.severity.severity(),
        "repeat": args.repeat, "channels": args.channels, "message": args.message,
    });
    let rule = cx
        .client
        .fetch::<AlertRuleView>(Call::create(&["alerts", "rules"]).json(&body)?)
        .await?;
    cx.out.result(&rule, rule.value.name.as_str())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_written_as_they_are_read() {
        for text in [
            "node.cpu > 90",
            "container.memory < 0.5",
            "node-lost",
            "container-down",
            "unhealthy",
            "not-healthy:disk",
        ] {
            let read: AlertCondition = serde_json::from_value(condition(text).unwrap()).unwrap();
            assert_eq!(condition_text(&read), text);
        }
        for bad in ["", "node.cpu", "node.cpu > much", "node-lost:cpu", "moon"] {
            assert!(condition(bad).is_err(), "{bad}");
        }
        let kept = json!({ "type": "metric", "metric": "node.disk", "op": "above", "value": 90, "resolveAt": 80 });
        assert_eq!(condition_text(&serde_json::from_value(kept).unwrap()), "node.disk > 90 until 80");
    }
}
