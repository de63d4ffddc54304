//! Another executable for this agent.
//!
//! A release is taken only if it is signed by an authority this node trusts, names this node and its kind of machine, and is no
//! older than what runs. Its executable is kept under its hash in `<data-dir>/bin`; the installed one is never written to. The
//! program that runs the agent ([`Upgrades::begun`]) starts it as a trial beside itself and says how that ended.
//!
//! Invariants
//! - Nothing is executed whose hash is not the one that was signed.
//! - `state.json` names what to run. It changes by replacement, so a crash leaves the state before or the one after; a trial that
//!   a crash cut short has failed.

mod receive;
mod state;

use nm_link::agent::IdentityStore;
use nm_link::contract::{AgentError, AgentErrorCode as Code, Release, UpgradeOutcome, UpgradePhase, UpgradeState};
use nm_link::pki::SignedText;
use nm_types::OperationId;
use nm_types::upgrade::ReleaseVersion;
use receive::hash_of;
use state::{Chosen, Kept};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::{OnceCell, watch};

pub use state::UpgradeError;

/// The largest executable that is taken.
const LARGEST: u64 = 1 << 30;

/// How this program is there.
#[derive(Debug, Clone)]
pub struct Running {
    /// The file it was started from.
    pub executable: PathBuf,
    /// What runs, to be read: the file may have been replaced since.
    pub image: PathBuf,
    pub version: ReleaseVersion,
}

/// A new executable to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    pub operation: OperationId,
    pub executable: PathBuf,
    pub version: String,
}

/// The upgrades of one agent. Cheap to clone.
#[derive(Clone)]
pub struct Upgrades(Arc<Inner>);

struct Inner {
    /// `<data-dir>/bin`.
    dir: PathBuf,
    identity: PathBuf,
    running: Running,
    own_hash: OnceCell<String>,
    kept: Mutex<Kept>,
    offered: Mutex<Option<Release>>,
    /// One executable comes in at a time.
    receiving: tokio::sync::Mutex<()>,
    begun: watch::Sender<Option<Trial>>,
}

impl Upgrades {
    /// Reads what is kept in `data_dir`. A trial that was cut short is noted as failed, unless this is the trial itself.
    pub fn open(data_dir: &Path, running: Running, is_trial: bool) -> Result<Self, UpgradeError> {
        let dir = data_dir.join("bin");
        let mut kept = Kept::load(&dir)?;
        if !is_trial && kept.in_trial() {
            kept.roll_back("the agent was ended in the middle of the trial");
            kept.save(&dir)?;
        }
        Ok(Self(Arc::new(Inner {
            dir,
            identity: data_dir.to_owned(),
            running,
            own_hash: OnceCell::new(),
            kept: Mutex::new(kept),
            offered: Mutex::default(),
            receiving: tokio::sync::Mutex::default(),
            begun: watch::Sender::new(None),
        })))
    }

    /// The executable to run in place of the installed one, if this is the installed one: it must be whole, and the installed one
    /// must be the one it was tried beside. An administrator who has installed another since means that one.
    pub async fn instead(&self) -> Result<Option<PathBuf>, UpgradeError> {
        let Some(chosen) = self.kept().chosen.clone() else {
            return Ok(None);
        };
        if self.0.runs_from_here() {
            return Ok(None);
        }
        let path = self.0.dir.join(&chosen.sha256);
        let whole = hash_of(&path).await.is_ok_and(|hash| hash == chosen.sha256);
        if whole && self.own_hash().await? == chosen.installed {
            return Ok(Some(path));
        }
        tracing::warn!(
            version = %chosen.version,
            "the installed executable was replaced, or the one that took its place is damaged: running the installed one"
        );
        self.change(|kept| kept.chosen = None)?;
        Ok(None)
    }

    /// Waits until a trial was asked for.
    pub async fn begun(&self) -> Trial {
        let mut begun = self.0.begun.subscribe();
        match begun.wait_for(Option::is_some).await.map(|trial| trial.clone()) {
            Ok(Some(trial)) => trial,
            // The sender is ours: it is never gone while we are there.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// The trial has linked: from now on its executable is the one to run.
    pub async fn confirm(&self) -> Result<(), UpgradeError> {
        let installed = match (&self.kept().chosen, self.0.runs_from_here()) {
            (Some(chosen), true) => Some(chosen.installed.clone()),
            _ => None,
        };
        let installed = match installed {
            Some(installed) => installed,
            None => self.own_hash().await?,
        };
        self.change(|kept| {
            let Some(last) = kept.last.as_mut() else { return };
            last.phase = UpgradePhase::Done;
            let before = kept.chosen.replace(Chosen {
                version: last.version.clone(),
                sha256: last.sha256.clone(),
                installed,
            });
            kept.before = before.map(|c| c.sha256);
        })?;
        self.sweep();
        Ok(())
    }

    /// The trial has failed; what ran before runs on.
    pub fn roll_back(&self, reason: &str) -> Result<(), UpgradeError> {
        self.change(|kept| kept.roll_back(reason))
    }

    pub(crate) async fn state(&self) -> Result<UpgradeState, AgentError> {
        let sha256 = self.own_hash().await?;
        let offered = self.offered().clone();
        let staged = offered.map(|r| r.sha256).filter(|sha| self.0.dir.join(sha).is_file());
        Ok(UpgradeState {
            version: self.0.running.version.to_string(),
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            sha256,
            staged,
            last: self.kept().last.clone(),
        })
    }

    /// Judges a release. Nothing of it has to be here yet.
    pub(crate) async fn offer(&self, signed: SignedText) -> Result<UpgradeState, AgentError> {
        let (dir, running) = (self.0.identity.clone(), self.0.running.clone());
        let judged = tokio::task::spawn_blocking(move || judge(&dir, &running, &signed)).await;
        let release = judged.map_err(|e| AgentError::new(Code::Internal, format!("The release could not be judged: {e}.")))??;
        tracing::info!(operation.id = %release.operation, version = release.version, "a release of the agent was offered");
        *self.offered() = Some(release);
        self.state().await
    }

    /// Starts the trial of the release that was offered. Asked for again, says how it stands.
    pub(crate) async fn begin(&self, operation: &OperationId) -> Result<UpgradeState, AgentError> {
        if self.kept().last.as_ref().is_some_and(|l| l.operation == *operation) {
            return self.state().await;
        }
        let release = self.offered().clone().filter(|r| r.operation == *operation);
        let Some(release) = release else {
            let text = "No release of this operation was offered since the agent was started: offer it again.";
            return Err(AgentError::new(Code::Invalid, text));
        };
        let executable = self.0.dir.join(&release.sha256);
        let is_there = hash_of(&executable).await.is_ok_and(|hash| hash == release.sha256);
        if !is_there {
            return Err(AgentError::new(
                Code::Invalid,
                "The release's executable is not here yet, or was damaged: send it again.",
            ));
        }
        let runs_it = self.own_hash().await? == release.sha256;
        let outcome = UpgradeOutcome {
            operation: release.operation.clone(),
            version: release.version.clone(),
            sha256: release.sha256.clone(),
            phase: if runs_it { UpgradePhase::Done } else { UpgradePhase::Trial },
        };
        self.change(|kept| kept.last = Some(outcome))?;
        if !runs_it {
            tracing::info!(operation.id = %release.operation, version = release.version, "trying another version of the agent");
            self.0.begun.send_replace(Some(Trial {
                operation: release.operation,
                executable,
                version: release.version,
            }));
        }
        self.state().await
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // No code panics while it holds the lock; were it so, the value would still be whole.
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn offered(&self) -> MutexGuard<'_, Option<Release>> {
        self.0.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On disk first: what is in memory is never newer than what a restart finds.
    fn change(&self, change: impl FnOnce(&mut Kept)) -> Result<(), UpgradeError> {
        let mut kept = self.kept();
        let mut next = kept.clone();
        change(&mut next);
        next.save(&self.0.dir)?;
        *kept = next;
        Ok(())
    }

    async fn own_hash(&self) -> Result<String, UpgradeError> {
        let path = &self.0.running.image;
        let hash = self.0.own_hash.get_or_try_init(|| hash_of(path)).await;
        hash.cloned().map_err(|source| UpgradeError {
            action: "read",
            path: path.clone(),
            source,
        })
    }

    /// Removes executables that are neither in use nor the one before.
    fn sweep(&self) {
        let kept = self.kept().clone();
        let wanted = [kept.chosen.map(|c| c.sha256), kept.before];
        let Ok(entries) = std::fs::read_dir(&self.0.dir) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_wanted = name == state::FILE || wanted.iter().flatten().any(|w| name == w.as_str());
            if !is_wanted && let Err(error) = std::fs::remove_file(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "an old executable could not be removed");
            }
        }
    }
}

impl Inner {
    fn runs_from_here(&self) -> bool {
        let folder = self.running.executable.parent().and_then(|p| p.canonicalize().ok());
        folder.is_some() && folder == self.dir.canonicalize().ok()
    }
}

/// Whether a release may be put in the place of what runs.
fn judge(data_dir: &Path, running: &Running, signed: &SignedText) -> Result<Release, AgentError> {
    let refuse = |code, text: String| Err(AgentError::new(code, text));
    let identity = IdentityStore::open(data_dir)
        .and_then(|store| store.load())
        .map_err(|e| AgentError::new(Code::Internal, format!("Whom this node trusts could not be read: {e}.")))?;
    let Some(identity) = identity else {
        return refuse(Code::Forbidden, "This node has not joined a fleet and trusts nobody.".into());
    };
    let text = match identity.trust().verify_release(signed, SystemTime::now()) {
        Ok(text) => text,
        Err(error) => return refuse(Code::Forbidden, format!("The release is refused: {error}.")),
    };
    let release: Release = match serde_json::from_str(text) {
        Ok(release) => release,
        Err(error) => return refuse(Code::Invalid, format!("The release can't be read: {error}.")),
    };
    if release.node != *identity.node() {
        return refuse(
            Code::Forbidden,
            format!("The release is for the node {}, this one is {}.", release.node, identity.node()),
        );
    }
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if (release.os.as_str(), release.arch.as_str()) != (os, arch) {
        let text = format!("The release is for {}-{}, this machine is {os}-{arch}.", release.os, release.arch);
        return refuse(Code::Invalid, text);
    }
    let Ok(version) = ReleaseVersion::parse(&release.version) else {
        return refuse(Code::Invalid, format!("`{}` is no version of a release.", release.version));
    };
    if version < running.version && !release.force {
        let text = format!(
            "The node runs {}, which is newer than {version}: with force it goes back to that.",
            running.version
        );
        return refuse(Code::Invalid, text);
    }
    let is_hash = release.sha256.len() == 64 && release.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hash || release.size == 0 || release.size > LARGEST {
        return refuse(Code::Invalid, "The release's hash or size is none.".into());
    }
    Ok(release)
}

#[cfg(test)]
mod tests;
