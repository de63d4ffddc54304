//! The process that the tests kill, and whose disk they fill. It takes commands, one a line, and answers each with a line.

use nm_store::{AuditEntry, Kind, NewResource, Secret, Store, StoreConfig, StoreError};
use nm_types::Timestamp;
use std::io::{BufRead, Write};
use std::path::PathBuf;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(key_file)) = (args.next(), args.next()) else {
        return Err("usage: <database url> <key file>".into());
    };
    let store = match Store::open(StoreConfig {
        url: url.parse()?,
        key_file: PathBuf::from(key_file),
    })
    .await
    {
        Ok(store) => store,
        Err(error) => {
            say(&format!("refused {error}"));
            return Ok(());
        }
    };
    say("open");
    let watched = store.clone();
    tokio::spawn(async move {
        let reason = watched.fatal().await;
        say(&format!("fatal {reason}"));
    });
    let (line, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lock().lines().map_while(Result::ok).try_for_each(|l| line.send(l)));
    let mut next = std::process::id() as i64 * 1_000_000;
    while let Some(line) = lines.recv().await {
        match line.as_str() {
            "insert" => {
                next += 1;
                say(&answer(insert(&store, next).await));
            }
            "count" => say(&answer(store.count(Kind::Container, None).await.map(|n| format!("count {n}")))),
            // From here on nothing is read: the parent kills.
            "insert-for-ever" => {
                for lane in 1..=4 {
                    let (store, mut next) = (store.clone(), next + lane * 100_000);
                    tokio::spawn(async move {
                        loop {
                            next += 1;
                            say(&answer(insert(&store, next).await));
                        }
                    });
                }
            }
            "rotate-for-ever" => loop {
                say(&answer(
                    store.rotate_keys(Timestamp(1)).await.map(|r| format!("rotated {}", r.key_id)),
                ));
            },
            other => return Err(format!("unknown command {other}").into()),
        }
    }
    Ok(())
}

async fn insert(store: &Store, n: i64) -> Result<String, StoreError> {
    let id = format!("cont_{n}_abcdefghi");
    let mut tx = store.begin(Timestamp(n)).await?;
    let new = NewResource::new(Kind::Container, id.as_str())
        .named("x")
        .secret(Secret::new(id.clone().into_bytes()));
    tx.insert(new).await?;
    tx.audit(AuditEntry {
        target: Some(id.clone()),
        ..AuditEntry::new("system", "container.create")
    })
    .await?;
    let revision = tx.commit().await?;
    Ok(format!("ok {id} {revision}"))
}

fn answer(result: Result<String, StoreError>) -> String {
    match result {
        Ok(text) => text,
        Err(StoreError::Full { .. }) => "full".into(),
        Err(StoreError::Fatal { .. }) => "refused-fatal".into(),
        Err(error) => format!("error {error:?}"),
    }
}

/// One write a line, so that lines of several tasks never mix and a killed process leaves whole ones.
fn say(line: &str) {
    let written = std::io::stdout()
        .lock()
        .write_all(format!("{line}\n").as_bytes())
        .and_then(|()| std::io::stdout().flush());
    if written.is_err() {
        // The parent is gone.
        std::process::exit(3);
    }
}
