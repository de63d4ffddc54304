//! Nothing secret is in the logs, not even with everything switched on. Alone in its file: the subscriber is the process's.

mod support;

use nm_link::agent::IdentityStore;
use nm_link::server::{LinkChange, ServerOptions};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::control::{Control, Rules, next_change};
use support::node::{Node, ask, facts, quick};
use support::soon;
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn joining_linking_and_renewing_log_no_secret() {
    let log = Captured::default();
    tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .init();
    let rules = Rules::new();
    *rules.lifetime.lock().unwrap() = Duration::from_secs(120);
    let control = Control::start_with(rules, ServerOptions::default(), None).await;

    let (dir, token) = (Arc::new(tempfile::tempdir().unwrap()), control.rules.token());
    let store = IdentityStore::open(dir.path()).unwrap();
    let url = control.url();
    let identity = nm_link::agent::join(&store, &url.parse().unwrap(), &token, &facts(), &quick().dial)
        .await
        .unwrap();
    let joined_key = key_lines(&dir);
    let mut events = control.links.events();
    let node = Node::resume(dir.clone(), &[url], quick());
    assert_eq!(next_change(&mut events).await, LinkChange::Connected);
    let renewed = async {
        while node.link.identity().certificate().serial == identity.certificate().serial {
            tokio::task::yield_now().await;
        }
    };
    soon("a renewal", renewed).await;
    assert_eq!(ask(&control.linked(&node.id).await, "/who").await, node.id.to_string());
    tracing::error!("{token:?} {identity:?} {:?}", node.link.identity());
    node.stop().await;

    let mut secrets = vec![token.reveal().rsplit('.').next().unwrap().to_owned()];
    secrets.extend(joined_key);
    secrets.extend(key_lines(&dir));
    secrets.extend(control.rules.authority.to_pem().key.lines().skip(1).take(2).map(str::to_owned));
    assert_eq!(secrets.len(), 7);
    control.stop().await;
    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(
        log.contains("a machine has joined") && log.contains("TRACE") && log.contains("rustls"),
        "everything is in the log"
    );
    for secret in secrets {
        assert!(!log.contains(&secret), "a secret is in the log");
    }
}

/// Two lines of the node's private key, as its file has them.
fn key_lines(dir: &tempfile::TempDir) -> Vec<String> {
    let text = std::fs::read_to_string(dir.path().join("agent-identity.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["privateKey"]
        .as_str()
        .unwrap()
        .lines()
        .skip(1)
        .take(2)
        .map(str::to_owned)
        .collect()
}
