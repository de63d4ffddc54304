//! What is taken and what is not, and what a restart finds.

use super::*;
use axum::body::Body;
use nm_link::pki::{AGENT_LIFETIME, Authority, Csr, NodeKey, Validity};
use nm_types::NodeId;
use sha2::{Digest, Sha256};

const NODE: &str = "node_1770000000000_abcdefghi";
const NEW: &[u8] = b"a new executable";

/// An agent's folder, with an identity of `authority`.
struct Rig {
    dir: tempfile::TempDir,
    authority: Authority,
    upgrades: Upgrades,
}

fn running(dir: &Path) -> Running {
    let executable = dir.join("installed");
    if !executable.exists() {
        std::fs::write(&executable, "the installed executable").unwrap();
    }
    Running {
        image: executable.clone(),
        executable,
        version: ReleaseVersion::parse("0.5.0").unwrap(),
    }
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::generate(SystemTime::now()).unwrap();
        let key = NodeKey::generate().unwrap();
        let csr = Csr::parse(&key.csr(None).unwrap()).unwrap();
        let validity = Validity::starting(SystemTime::now(), AGENT_LIFETIME);
        let issued = authority.issue_agent(&csr, &NodeId::parse(NODE).unwrap(), validity).unwrap();
        IdentityStore::open(dir.path())
            .unwrap()
            .adopt(key, issued.pem, authority.trust())
            .unwrap();
        let upgrades = Upgrades::open(dir.path(), running(dir.path()), false).unwrap();
        Self { dir, authority, upgrades }
    }

    fn reopened(&self) -> Upgrades {
        Upgrades::open(self.dir.path(), running(self.dir.path()), false).unwrap()
    }

    fn sign(&self, release: &Release) -> SignedText {
        let text = serde_json::to_string(release).unwrap();
        self.authority.sign_release(text, SystemTime::now()).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.dir.path().join("bin")) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn release(bytes: &[u8]) -> Release {
    Release {
        operation: OperationId::parse("op_1770000000000_abcdefghi").unwrap(),
        node: NodeId::parse(NODE).unwrap(),
        version: "0.6.0".into(),
        os: std::env::consts::OS.into(),
        arch: std::env::consts::ARCH.into(),
        sha256: hex::encode(Sha256::digest(bytes)),
        size: bytes.len() as u64,
        force: false,
    }
}

fn body(bytes: &'static [u8]) -> BodyStream {
    Body::from(bytes).into_data_stream()
}
type BodyStream = axum::body::BodyDataStream;

#[tokio::test]
async fn a_release_is_taken_only_as_it_was_signed_and_for_this_node() {
    let rig = Rig::new();
    let with = |change: fn(&mut Release)| {
        let mut changed = release(NEW);
        change(&mut changed);
        rig.sign(&changed)
    };
    let stranger = Authority::generate(SystemTime::now()).unwrap();
    let text = serde_json::to_string(&release(NEW)).unwrap();
    let mut tampered = rig.sign(&release(NEW));
    tampered.text = tampered.text.replace("0.6.0", "0.6.1");
    let cases = [
        (
            "another authority's",
            stranger.sign_release(text, SystemTime::now()).unwrap(),
            Code::Forbidden,
        ),
        ("one that was changed", tampered, Code::Forbidden),
        (
            "another node's",
            with(|r| r.node = NodeId::parse("node_1770000000000_zzzzzzzzz").unwrap()),
            Code::Forbidden,
        ),
        ("another system's", with(|r| r.os = "plan9".into()), Code::Invalid),
        ("another processor's", with(|r| r.arch = "pdp11".into()), Code::Invalid),
        ("an older one", with(|r| r.version = "0.4.9".into()), Code::Invalid),
        ("one before the release", with(|r| r.version = "0.5.0-rc.1".into()), Code::Invalid),
        ("one of no version", with(|r| r.version = "latest".into()), Code::Invalid),
        (
            "one of a path for a hash",
            with(|r| r.sha256 = format!("../../{}", "a".repeat(58))),
            Code::Invalid,
        ),
        ("one too large", with(|r| r.size = LARGEST + 1), Code::Invalid),
        (
            "something else",
            rig.authority.sign_release("{}".into(), SystemTime::now()).unwrap(),
            Code::Invalid,
        ),
    ];
    for (what, signed, wanted) in cases {
        let error = rig.upgrades.offer(signed).await.unwrap_err();
        assert_eq!(error.code, wanted, "{what}: {error}");
        assert_eq!(
            rig.upgrades.receive(body(NEW)).await.unwrap_err().code,
            Code::Invalid,
            "{what}: nothing was offered"
        );
    }
    assert!(rig.files().is_empty(), "{:?}", rig.files());
    for taken in [
        with(|_| ()),
        with(|r| r.version = "0.5.0".into()),
        with(|r| (r.version, r.force) = ("0.4.9".into(), true)),
    ] {
        assert_eq!(rig.upgrades.offer(taken).await.unwrap().staged, None);
    }
}

#[tokio::test]
async fn an_executable_is_kept_only_when_it_is_the_one_that_was_signed() {
    let rig = Rig::new();
    rig.upgrades.offer(rig.sign(&release(NEW))).await.unwrap();
    for other in [&b""[..], b"a new executabl", b"a new executable!", b"a new execUtable"] {
        let error = rig.upgrades.receive(body(other)).await.unwrap_err();
        assert_eq!(error.code, Code::Invalid, "{error}");
        assert!(rig.files().is_empty(), "{:?}", rig.files());
        let operation = release(NEW).operation;
        assert_eq!(rig.upgrades.begin(&operation).await.unwrap_err().code, Code::Invalid);
    }
    let state = rig.upgrades.receive(body(NEW)).await.unwrap();
    assert_eq!(state.staged, Some(release(NEW).sha256));
    // Damaged since, it is not run.
    let path = rig.dir.path().join("bin").join(release(NEW).sha256);
    std::fs::write(&path, "something else").unwrap();
    assert_eq!(rig.upgrades.begin(&release(NEW).operation).await.unwrap_err().code, Code::Invalid);
    assert!(rig.upgrades.kept().last.is_none());
}

async fn begun(rig: &Rig, upgrades: &Upgrades, release: &Release, bytes: &'static [u8]) -> Trial {
    upgrades.offer(rig.sign(release)).await.unwrap();
    upgrades.receive(body(bytes)).await.unwrap();
    let state = upgrades.begin(&release.operation).await.unwrap();
    assert_eq!(state.last.unwrap().phase, UpgradePhase::Trial);
    upgrades.begun().await
}

#[tokio::test]
async fn a_trial_that_links_takes_over_and_one_that_does_not_leaves_everything() {
    let rig = Rig::new();
    let new = release(NEW);
    let trial = begun(&rig, &rig.upgrades, &new, NEW).await;
    assert_eq!(std::fs::read(&trial.executable).unwrap(), NEW);
    // Asked again it is not begun twice; another's operation has nothing to begin.
    assert_eq!(
        rig.upgrades.begin(&new.operation).await.unwrap().last.unwrap().phase,
        UpgradePhase::Trial
    );
    let other = OperationId::fresh(2);
    assert_eq!(rig.upgrades.begin(&other).await.unwrap_err().code, Code::Invalid);

    rig.upgrades.roll_back("it did not link").unwrap();
    let after = rig.reopened();
    assert_eq!(after.instead().await.unwrap(), None);
    let last = after.state().await.unwrap().last.unwrap();
    assert!(
        matches!(&last.phase, UpgradePhase::RolledBack { reason } if reason == "it did not link"),
        "{last:?}"
    );

    // The same executable by another operation: it is there already.
    let again = Release {
        operation: OperationId::fresh(3),
        ..new.clone()
    };
    assert_eq!(after.offer(rig.sign(&again)).await.unwrap().staged, Some(new.sha256.clone()));
    after.begin(&again.operation).await.unwrap();
    after.confirm().await.unwrap();
    let path = rig.dir.path().join("bin").join(&new.sha256);
    assert_eq!(rig.reopened().instead().await.unwrap(), Some(path.clone()));
    // It runs from there, and does not look for another in its place.
    let chosen = Running {
        executable: path.clone(),
        image: path.clone(),
        version: ReleaseVersion::parse("0.6.0").unwrap(),
    };
    let there = Upgrades::open(rig.dir.path(), chosen.clone(), false).unwrap();
    assert_eq!(there.instead().await.unwrap(), None);
    assert_eq!(there.state().await.unwrap().sha256, new.sha256);

    // A second one on top: the one before stays, the installed one is still the one to begin with.
    let newer: &[u8] = b"a newer executable";
    let second = Release {
        operation: OperationId::fresh(4),
        version: "0.7.0".into(),
        ..release(newer)
    };
    begun(&rig, &there, &second, newer).await;
    there.confirm().await.unwrap();
    let mut wanted = vec![new.sha256.clone(), second.sha256.clone(), state::FILE.to_owned()];
    wanted.sort();
    assert_eq!(rig.files(), wanted);
    assert!(rig.reopened().instead().await.unwrap().unwrap().ends_with(&second.sha256));
}

#[tokio::test]
async fn an_administrators_own_installation_is_the_one_that_counts() {
    let rig = Rig::new();
    begun(&rig, &rig.upgrades, &release(NEW), NEW).await;
    rig.upgrades.confirm().await.unwrap();
    assert!(rig.reopened().instead().await.unwrap().is_some());
    std::fs::write(rig.dir.path().join("installed"), "another installation").unwrap();
    assert_eq!(rig.reopened().instead().await.unwrap(), None);
    // For good: also when the old one were put back.
    std::fs::write(rig.dir.path().join("installed"), "the installed executable").unwrap();
    assert_eq!(rig.reopened().instead().await.unwrap(), None);
}

#[tokio::test]
async fn what_a_crash_or_damage_leaves_is_the_installed_executable() {
    let rig = Rig::new();
    begun(&rig, &rig.upgrades, &release(NEW), NEW).await;
    // The trial itself finds itself in trial; whoever else starts knows that it was cut short.
    let trial = Upgrades::open(rig.dir.path(), running(rig.dir.path()), true).unwrap();
    assert_eq!(trial.state().await.unwrap().last.unwrap().phase, UpgradePhase::Trial);
    let after = rig.reopened();
    assert!(matches!(
        after.state().await.unwrap().last.unwrap().phase,
        UpgradePhase::RolledBack { .. }
    ));

    let again = Release {
        operation: OperationId::fresh(3),
        ..release(NEW)
    };
    begun(&rig, &after, &again, NEW).await;
    after.confirm().await.unwrap();
    let path = rig.dir.path().join("bin").join(release(NEW).sha256);
    std::fs::write(&path, "damaged").unwrap();
    assert_eq!(rig.reopened().instead().await.unwrap(), None);
    std::fs::write(rig.dir.path().join("bin").join(state::FILE), "{\"chosen\":").unwrap();
    assert_eq!(rig.reopened().instead().await.unwrap(), None);
}

#[tokio::test]
async fn what_runs_already_needs_no_trial() {
    let rig = Rig::new();
    let installed = std::fs::read(rig.dir.path().join("installed")).unwrap();
    let same = Release {
        version: "0.5.0".into(),
        ..release(&installed)
    };
    rig.upgrades.offer(rig.sign(&same)).await.unwrap();
    rig.upgrades.receive(Body::from(installed).into_data_stream()).await.unwrap();
    let state = rig.upgrades.begin(&same.operation).await.unwrap();
    assert_eq!(state.last.unwrap().phase, UpgradePhase::Done);
    assert!(rig.upgrades.0.begun.borrow().is_none());
}
