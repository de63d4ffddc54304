//! Line 16 of the security table at the node: what is secret is in no log of the agent's, at whatever level, in no argument of a
//! process, and in no label that Docker shows.

use crate::streams::Terminal;
use crate::support::{Lines, Rig, docker, key, need_docker};
use nm_link::contract::exec::Frame;
use nm_link::contract::{Exec, Progress, Pull, RegistryLogin, path};
use nm_types::container::ExecResult;
use nm_types::image::ImageView;
use serde_json::{Value, json};
use std::io::Write;
use std::sync::{Arc, Mutex};
use tracing::level_filters::LevelFilter;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A secret for each place, in the form that every place takes.
fn planted(place: usize) -> String {
    format!("planted-{place}-{:08x}", std::process::id() ^ 0x5ec2_e700)
}

#[tokio::test]
async fn no_secret_is_logged_or_labelled() {
    need_docker!();
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let rig = Rig::start().await;
    let environment = json!({ "DB_PASSWORD": planted(0), "API_TOKEN": planted(1), "DATABASE_URL": planted(2), "PLAIN": planted(3) });
    let (request, seen) = rig.sh("silent", "sleep 1000", json!({ "environment": environment })).await;
    let id = request.id.as_str();
    let exec = json!({ "command": ["sh", "-c", format!("echo {} >/dev/null; echo $PGPASSWORD >/dev/null", planted(4))], "environment": { "PGPASSWORD": planted(5) } });
    let exec = Exec {
        command: serde_json::from_value(exec).unwrap(),
    };
    let result: ExecResult = rig.post(&key(path::EXEC, id), &exec).await.unwrap();
    assert_eq!(result.exit_code, Some(0));
    let mut terminal = Terminal::open(&rig, id, &["sh"]).await;
    terminal.until("# ").await;
    terminal.send(Frame::Data(format!(": {}; echo typed\n", planted(6)).into()));
    terminal.until("typed").await;
    terminal.send(Frame::EndOfInput);
    let login = |secret: String| {
        Some(RegistryLogin {
            host: "127.0.0.1:1".into(),
            username: "robot".into(),
            password: secret,
        })
    };
    let pull = Pull {
        image: nm_types::text::ImageRef::parse("127.0.0.1:1/team/app:1").unwrap(),
        registry: login(planted(7)),
    };
    let (_, lines) = rig
        .send(http::Method::POST, path::PULL, serde_json::to_vec(&pull).unwrap().into())
        .await;
    let lines: Vec<Progress<ImageView>> = Lines::new(lines).all().await;
    assert!(matches!(lines.last(), Some(Progress::Failed { .. })), "{lines:?}");
    let mut missing = rig.request(rig.spec("missing", json!({ "image": "127.0.0.1:1/team/app:2" })), true);
    missing.registry = login(planted(8));
    let refused = rig.create(&missing).await.unwrap_err();
    let mut failing = rig.request(rig.spec("failing", json!({ "entrypoint": ["/no-such-program"] })), true);
    failing.spec.environment = serde_json::from_value(json!({ "SECRET": planted(9) })).unwrap();
    let failed = rig.create(&failing).await.unwrap_err();

    let labels: Value = serde_json::from_str(&docker(&["inspect", "--format", "{{json .Config.Labels}}", &seen.docker_id]).await).unwrap();
    let inspect: Value = rig.get(&key(path::INSPECT, id)).await.unwrap();
    let covered = |name: &str| {
        let environment = inspect["Config"]["Env"].as_array().unwrap();
        environment.iter().any(|e| *e == format!("{name}=********"))
    };
    assert!(covered("DB_PASSWORD") && covered("API_TOKEN"), "{}", inspect["Config"]["Env"]);
    let mut arguments = Vec::new();
    for process in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        arguments.extend(std::fs::read(process.path().join("cmdline")).unwrap_or_default());
    }
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(text.contains("TRACE") || text.contains("DEBUG"), "the log was listened to");
    for n in 0..10 {
        let secret = planted(n);
        let found = text.find(&secret).map(|at| {
            let from = text[..at].rfind('\n').map_or(0, |i| i + 1);
            text[from..].chars().take(400).collect::<String>()
        });
        assert_eq!(found, None, "{secret} is in the log");
        for (what, shown) in [
            ("a label", labels.to_string()),
            ("a refusal", format!("{refused:?}{failed:?}")),
            ("an argument", String::from_utf8_lossy(&arguments).into_owned()),
        ] {
            assert!(!shown.contains(&secret), "{secret} is in {what}: {shown}");
        }
    }
}
