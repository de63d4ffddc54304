//! Disks that fill up and fail, and processes that are killed. The victim is `tests/child`.

use crate::fixture::Fixture;
use nm_store::{Kind, StoreError};
use nm_waits::{eventually, soon};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

struct Victim {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Victim {
    /// `faults`: the library that makes its disk fail, and the folder with the switches.
    async fn start(f: &Fixture, faults: Option<(&Path, &Path)>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nm-store-test-child"));
        command
            .arg(f.full_url())
            .arg(&f.config.key_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some((library, switches)) = faults {
            command.env("LD_PRELOAD", library).env("NM_FAULT_DIR", switches);
        }
        let mut child = command.spawn().unwrap();
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, commands, answers }
    }

    async fn open(f: &Fixture, faults: Option<(&Path, &Path)>) -> Self {
        let mut victim = Self::start(f, faults).await;
        assert_eq!(victim.answer().await, "open");
        victim
    }

    async fn send(&mut self, command: &str) {
        self.commands.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    async fn answer(&mut self) -> String {
        soon("an answer", self.answers.next_line())
            .await
            .unwrap()
            .expect("the process lives")
    }

    async fn ask(&mut self, command: &str) -> String {
        self.send(command).await;
        self.answer().await
    }

    /// SIGKILL, then whatever it had said by then.
    async fn kill(mut self) -> Vec<String> {
        self.child.start_kill().unwrap();
        let mut said = Vec::new();
        while let Some(line) = soon("its last words", self.answers.next_line()).await.unwrap() {
            said.push(line);
        }
        self.child.wait().await.unwrap();
        said
    }
}

fn fault_library(f: &Fixture) -> (PathBuf, PathBuf) {
    let (library, switches) = (f.dir.path().join("fault.so"), f.dir.path().join("switches"));
    fs::create_dir(&switches).unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store/fault.c");
    // The compiler that built SQLite.
    let built = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .status();
    assert!(built.unwrap().success());
    (library, switches)
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    let f = Fixture::sqlite();
    let (library, switches) = fault_library(&f);
    let mut victim = Victim::open(&f, Some((&library, &switches))).await;
    for _ in 0..5 {
        assert!(victim.ask("insert").await.starts_with("ok "));
    }
    for _ in 0..3 {
        fs::write(switches.join("full"), "").unwrap();
        for _ in 0..10 {
            assert_eq!(victim.ask("insert").await, "full");
        }
        let count = victim.ask("count").await;
        assert!(count.starts_with("count "), "reads go on: {count}");
        fs::remove_file(switches.join("full")).unwrap();
        let back = victim.ask("insert").await;
        assert!(back.starts_with("ok "), "the first write after there is room: {back}");
    }
    assert_eq!(victim.ask("count").await, "count 8");
    victim.kill().await;

    // A start on a full disk says so, and does no harm.
    fs::write(switches.join("full"), "").unwrap();
    let mut refused = Victim::start(&f, Some((&library, &switches))).await;
    let said = refused.answer().await;
    assert!(
        said.starts_with("refused") && said.contains("disk is full") || said == "open",
        "{said}"
    );
    refused.kill().await;
    fs::remove_file(switches.join("full")).unwrap();
    let store = f.open().await;
    assert_eq!(store.count(Kind::Container, None).await.unwrap(), 8);
    assert_eq!(store.verify_audit().await.unwrap().entries, 8);
}

#[tokio::test]
async fn a_failed_sync_ends_all_writing() {
    let f = Fixture::sqlite();
    let (library, switches) = fault_library(&f);
    let mut victim = Victim::open(&f, Some((&library, &switches))).await;
    let mut acknowledged = Vec::new();
    for _ in 0..5 {
        acknowledged.push(victim.ask("insert").await);
    }
    fs::write(switches.join("eio"), "").unwrap();
    victim.send("insert").await;
    let said = [victim.answer().await, victim.answer().await];
    assert!(said.iter().any(|s| s.starts_with("fatal ")), "the process is told: {said:?}");
    assert!(said.contains(&"refused-fatal".to_owned()), "{said:?}");
    // The disk pretends to be well again. What it lost meanwhile nobody knows.
    fs::remove_file(switches.join("eio")).unwrap();
    for _ in 0..5 {
        assert_eq!(victim.ask("insert").await, "refused-fatal");
    }
    assert!(victim.ask("count").await.starts_with("count "), "reads go on");
    victim.kill().await;

    let store = f.open().await;
    for line in acknowledged {
        let id = line.split(' ').nth(1).unwrap();
        assert!(store.get(Kind::Container, id).await.unwrap().is_some(), "{id}");
    }
}

/// The server's own words for a full disk and the like, raised by a trigger.
#[tokio::test]
async fn what_postgresql_says_is_sorted() {
    let Some(f) = Fixture::postgres().await else { return };
    let store = f.open().await;
    f.tamper(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'made to fail' USING ERRCODE = NEW.name; END $$; \
         CREATE TRIGGER fail BEFORE INSERT ON resources FOR EACH ROW WHEN (NEW.kind = 'server') EXECUTE FUNCTION fail()",
    )
    .await;
    for (n, code) in ["53100", "40001", "57P03", "53300", "XX001", "22021", "58030"]
        .into_iter()
        .enumerate()
    {
        let new = nm_store::NewResource::new(Kind::Server, "server_1").named(code);
        let error = crate::fixture::insert(&store, new).await.unwrap_err();
        let sorted = match code {
            "53100" => matches!(error, StoreError::Full { .. }),
            "40001" => matches!(error, StoreError::Busy { .. }),
            "57P03" | "53300" => matches!(error, StoreError::Unavailable { .. }),
            "XX001" => matches!(error, StoreError::Corrupt { .. }),
            "22021" => matches!(error, StoreError::Invalid { .. }),
            _ => matches!(error, StoreError::Sql { .. }),
        };
        assert!(sorted, "{code}: {error:?}");
        crate::fixture::insert(&store, crate::fixture::container(n)).await.unwrap();
    }
}

both!(killed_while_writing, killed_while_rotating, killed_while_migrating);

/// Acknowledged writes are all there, each with its audit entry, its change and its secret; nothing is there by half.
async fn killed_while_writing(f: Fixture) {
    let mut acknowledged = BTreeSet::new();
    for round in 0..10 {
        let mut victim = Victim::open(&f, None).await;
        victim.send("insert-for-ever").await;
        let mut said = Vec::new();
        // Killed after this many acknowledgements, in the middle of the next ones.
        for _ in 0..5 + round * 3 {
            said.push(victim.answer().await);
        }
        said.extend(victim.kill().await);
        for line in said {
            let id = line
                .strip_prefix("ok ")
                .unwrap_or_else(|| panic!("{line}"))
                .split(' ')
                .next()
                .unwrap();
            assert!(acknowledged.insert(id.to_owned()), "{id} twice");
        }

        let store = reopened(&f).await;
        let held = store.all(Kind::Container).await.unwrap();
        let ids: BTreeSet<String> = held.iter().map(|r| r.id.clone()).collect();
        assert!(
            acknowledged.is_subset(&ids),
            "lost: {:?}",
            acknowledged.difference(&ids).collect::<Vec<_>>()
        );
        for resource in &held {
            assert_eq!(store.open_sealed(resource).await.unwrap().unwrap().expose(), resource.id.as_bytes());
        }
        let report = store.verify_audit().await.unwrap();
        assert_eq!((report.entries, report.first_broken), (held.len() as i64, None));
        let changes = store.changes_since(0, 100_000).await.unwrap();
        assert_eq!(changes.iter().map(|c| c.id.to_string()).collect::<BTreeSet<_>>(), ids);
        assert_eq!(changes.len(), held.len());
        store.close().await;
    }
}

async fn killed_while_rotating(f: Fixture) {
    let store = f.open().await;
    for n in 0..300 {
        let new = nm_store::NewResource::new(Kind::Registry, format!("reg_{n}")).secret(nm_store::Secret::new(vec![n as u8; 40]));
        crate::fixture::insert(&store, new).await.unwrap();
    }
    store.close().await;
    drop(store);
    for round in 0..15u64 {
        let mut victim = Victim::open(&f, None).await;
        victim.send("rotate-for-ever").await;
        if round % 3 == 0 {
            assert!(victim.answer().await.starts_with("rotated "));
        }
        // At some point of a rotation, another one each round.
        tokio::time::sleep(Duration::from_millis(round * 7)).await;
        for line in victim.kill().await {
            assert!(line.starts_with("rotated "), "{line}");
        }
        let store = reopened(&f).await;
        for held in store.all(Kind::Registry).await.unwrap() {
            let n: usize = held.id[4..].parse().unwrap();
            assert_eq!(store.open_sealed(&held).await.unwrap().unwrap().expose(), vec![n as u8; 40]);
        }
        store.close().await;
    }
    let store = reopened(&f).await;
    store.rotate_keys(crate::fixture::NOW).await.unwrap();
    assert_eq!(store.key_ids().len(), 1, "no key is left behind for good");
    assert_eq!(fs::read_dir(f.config.key_file.parent().unwrap()).unwrap().count(), 1);
}

/// The first start makes schema, key file and head row; killed anywhere, the next one opens.
async fn killed_while_migrating(f: Fixture) {
    for round in 0..30u64 {
        let mut victim = Victim::start(&f, None).await;
        let opened = tokio::time::timeout(Duration::from_millis(round * 2), victim.answers.next_line())
            .await
            .is_ok();
        victim.kill().await;
        let store = reopened(&f).await;
        crate::fixture::insert(&store, crate::fixture::container(round as usize))
            .await
            .unwrap();
        assert_eq!(
            store.count(Kind::Container, None).await.unwrap(),
            1,
            "opened before the kill: {opened}"
        );
        store.close().await;
        drop(store);
        wipe(&f).await;
    }
}

/// Back to a machine without a database.
async fn wipe(f: &Fixture) {
    fs::remove_dir_all(f.config.key_file.parent().unwrap()).unwrap();
    if f.is_postgres() {
        f.tamper("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
    } else {
        fs::remove_dir_all(f.sqlite_file().parent().unwrap()).unwrap();
    }
}

/// On PostgreSQL the server may still be ending the killed process's transaction.
async fn reopened(f: &Fixture) -> nm_store::Store {
    eventually("the store opens again", async || match f.try_open().await {
        Ok(store) => Some(store),
        Err(StoreError::Busy { .. } | StoreError::Unavailable { .. }) => None,
        Err(error) => panic!("{error:?}"),
    })
    .await
}
