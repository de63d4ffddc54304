//! How a made-up agent is upgraded: it takes what it is offered, and the test says what comes of the trial.

use super::world::Answer;
use nm_link::contract::{AgentError, AgentErrorCode, Release, UpgradeOutcome, UpgradePhase, UpgradeState};
use nm_link::pki::SignedText;
use nm_types::OperationId;
use sha2::{Digest, Sha256};
use std::sync::{Mutex, MutexGuard};

#[derive(Debug)]
pub(super) struct Upgrade(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    state: UpgradeState,
    offered: Option<Release>,
    /// Refuses everything, as an agent in the control plane's own process does.
    refuses: Option<AgentError>,
    /// How many executables were sent whole.
    received: usize,
}

impl Default for Upgrade {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            state: UpgradeState {
                version: "0.5.0".into(),
                os: "linux".into(),
                arch: "x86_64".into(),
                sha256: "0".repeat(64),
                staged: None,
                last: None,
            },
            offered: None,
            refuses: None,
            received: 0,
        }))
    }
}

impl Upgrade {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn state(&self) -> Answer<UpgradeState> {
        let inner = self.lock();
        match &inner.refuses {
            Some(error) => Err(error.clone()),
            None => Ok(inner.state.clone()),
        }
    }

    pub(super) fn offer(&self, signed: &SignedText) -> Answer<UpgradeState> {
        let mut inner = self.lock();
        let release: Release = serde_json::from_str(&signed.text).expect("a release");
        inner.state.staged = inner.state.staged.take().filter(|sha| *sha == release.sha256);
        inner.offered = Some(release);
        Ok(inner.state.clone())
    }

    pub(super) fn receive(&self, bytes: &[u8]) -> Answer<UpgradeState> {
        let mut inner = self.lock();
        let release = inner.offered.clone().expect("a release was offered");
        let sha256 = hex::encode(Sha256::digest(bytes));
        if (sha256.as_str(), bytes.len() as u64) != (release.sha256.as_str(), release.size) {
            return Err(AgentError::new(AgentErrorCode::Invalid, "its hash is another"));
        }
        inner.received += 1;
        inner.state.staged = Some(sha256);
        Ok(inner.state.clone())
    }

    pub(super) fn begin(&self, operation: &OperationId) -> Answer<UpgradeState> {
        let mut inner = self.lock();
        let release = inner.offered.clone().expect("a release was offered");
        assert_eq!(release.operation, *operation, "what was offered is what begins");
        let known = inner.state.last.as_ref().is_some_and(|l| l.operation == *operation);
        if !known {
            inner.state.last = Some(UpgradeOutcome {
                operation: release.operation,
                version: release.version,
                sha256: release.sha256,
                phase: UpgradePhase::Trial,
            });
        }
        Ok(inner.state.clone())
    }

    /// What has come of the trial.
    pub(super) fn ended(&self, phase: UpgradePhase) {
        let mut inner = self.lock();
        let last = inner.state.last.as_mut().expect("a trial was begun");
        last.phase = phase.clone();
        let (sha256, version) = (last.sha256.clone(), last.version.clone());
        if phase == UpgradePhase::Done {
            (inner.state.sha256, inner.state.version) = (sha256, version);
        }
    }

    pub(super) fn runs_on(&self, arch: &str) {
        self.lock().state.arch = arch.into();
    }
    pub(super) fn refuse(&self, error: AgentError) {
        self.lock().refuses = Some(error);
    }
    pub(super) fn received(&self) -> usize {
        self.lock().received
    }
    pub(super) fn last(&self) -> Option<UpgradeOutcome> {
        self.lock().state.last.clone()
    }
}
