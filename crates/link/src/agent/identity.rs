//! What makes this machine a node: its key, its certificate, and whom it trusts.
//!
//! All of it is one file, `<data-dir>/agent-identity.json`, mode 0600, replaced by rename: after a crash there is the old
//! identity or the new one, and never one's key with the other's certificate.

use crate::pki::{NodeCertificate, NodeKey, PkiError, TrustBundle};
use nm_types::NodeId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const FILE: &str = "agent-identity.json";
const NEW_FILE: &str = ".agent-identity.json.new";

/// A node's identity in memory. Immutable; a renewal makes a new one.
pub struct AgentIdentity {
    certificate: NodeCertificate,
    certificate_pem: String,
    key: NodeKey,
    trust: TrustBundle,
}

/// Why an identity cannot be used, read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} can be read by other users (mode {mode:o}); it holds the node's private key. Make it 0600, and have the node join anew if others may have read it"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} is not an agent's identity: {reason}")]
    Malformed { path: PathBuf, reason: String },
    #[error("this identity cannot be used")]
    Pki(#[from] PkiError),
    #[error("this machine is node {0} already; remove its data directory's agent-identity.json to join as another")]
    AlreadyJoined(NodeId),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OnDisk {
    version: u32,
    node_id: NodeId,
    private_key: String,
    certificate: String,
    ca_certificates: String,
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.private_key);
    }
}

impl AgentIdentity {
    /// Puts an identity together. Refuses a key that is not the certificate's.
    pub(super) fn assemble(key: NodeKey, certificate_pem: String, trust: TrustBundle) -> Result<Self, PkiError> {
        let certificate = NodeCertificate::from_pem(&certificate_pem)?;
        if certificate.public_key_sha256 != key.public_key_sha256() {
            return Err(PkiError::KeyMismatch);
        }
        Ok(Self {
            certificate,
            certificate_pem,
            key,
            trust,
        })
    }

    pub fn node(&self) -> &NodeId {
        &self.certificate.node
    }

    pub fn certificate(&self) -> &NodeCertificate {
        &self.certificate
    }

    pub fn trust(&self) -> &TrustBundle {
        &self.trust
    }

    /// The same node with the same certificate, trusting others.
    pub(super) fn trusting(&self, trust: TrustBundle) -> Result<Self, PkiError> {
        Self::assemble(NodeKey::from_pem(&self.key.to_pem())?, self.certificate_pem.clone(), trust)
    }

    pub(super) fn tls(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
        let leaf =
            CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(|e| PkiError::read("the node's certificate", e))?;
        Ok((vec![leaf], PrivateKeyDer::Pkcs8(self.key.to_der())))
    }
}

impl fmt::Debug for AgentIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentIdentity")
            .field("certificate", &self.certificate)
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

/// Where a node's identity is kept. Its functions block on the disk for a moment; asynchronous callers use the `_async` ones.
#[derive(Debug, Clone)]
pub struct IdentityStore {
    dir: PathBuf,
}

impl IdentityStore {
    /// Opens `dir`, making it (0700) where it is missing.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, IdentityError> {
        let dir = dir.into();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| IdentityError::Io {
            action: "make the directory",
            path: dir.clone(),
            source,
        })?;
        Ok(Self { dir })
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// The identity, or `None` when this machine has not joined yet.
    pub fn load(&self) -> Result<Option<AgentIdentity>, IdentityError> {
        let path = self.path();
        let io = |action| {
            let path = path.clone();
            move |source| IdentityError::Io { action, path, source }
        };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("open")(error)),
        };
        let mode = file.metadata().map_err(io("look at"))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { path, mode });
        }
        let mut text = Zeroizing::new(String::new());
        file.read_to_string(&mut text).map_err(io("read"))?;
        // Only the place is told: the parser's message may quote the text, and a key is in it.
        let malformed = |reason: String| IdentityError::Malformed {
            path: path.clone(),
            reason,
        };
        let disk: OnDisk =
            serde_json::from_str(&text).map_err(|e| malformed(format!("unreadable at line {}, column {}", e.line(), e.column())))?;
        if disk.version != 1 {
            return Err(malformed(format!(
                "it is of version {}, this program knows version 1",
                disk.version
            )));
        }
        let key = NodeKey::from_pem(&disk.private_key)?;
        let identity = AgentIdentity::assemble(key, disk.certificate.clone(), TrustBundle::from_pem(&disk.ca_certificates)?)?;
        if identity.node() != &disk.node_id {
            return Err(malformed(format!(
                "it is called {}, its certificate {}",
                disk.node_id,
                identity.node()
            )));
        }
        Ok(Some(identity))
    }

    /// Puts an identity together and keeps it; for machines that get theirs in another way than by joining.
    pub fn adopt(&self, key: NodeKey, certificate_pem: String, trust: TrustBundle) -> Result<AgentIdentity, IdentityError> {
        let identity = AgentIdentity::assemble(key, certificate_pem, trust)?;
        self.save(&identity)?;
        Ok(identity)
    }

    /// Replaces the identity, atomically and durably.
    pub fn save(&self, identity: &AgentIdentity) -> Result<(), IdentityError> {
        let disk = OnDisk {
            version: 1,
            node_id: identity.node().clone(),
            private_key: identity.key.to_pem().to_string(),
            certificate: identity.certificate_pem.clone(),
            ca_certificates: identity.trust.to_pem(),
        };
        let text = serde_json::to_string_pretty(&disk).map_err(|e| IdentityError::Io {
            action: "write",
            path: self.path(),
            source: e.into(),
        })?;
        self.replace(Zeroizing::new(text).as_bytes())
    }

    /// Fails when an identity could not be saved here: checked before a join token is spent.
    pub(super) fn check_writable(&self) -> Result<(), IdentityError> {
        let path = self.dir.join(NEW_FILE);
        write_new(&path, b"")
            .and_then(|()| fs::remove_file(&path))
            .map_err(|source| IdentityError::Io {
                action: "write",
                path,
                source,
            })
    }

    fn replace(&self, bytes: &[u8]) -> Result<(), IdentityError> {
        let (new, path) = (self.dir.join(NEW_FILE), self.path());
        write_new(&new, bytes).map_err(|source| IdentityError::Io {
            action: "write",
            path: new.clone(),
            source,
        })?;
        let swapped = fs::rename(&new, &path).and_then(|()| File::open(&self.dir)?.sync_all());
        swapped.map_err(|source| IdentityError::Io {
            action: "replace",
            path,
            source,
        })
    }

    pub(super) async fn load_async(&self) -> Result<Option<AgentIdentity>, IdentityError> {
        let store = self.clone();
        unblock(move || store.load()).await
    }

    pub(super) async fn save_async(&self, identity: std::sync::Arc<AgentIdentity>) -> Result<(), IdentityError> {
        let store = self.clone();
        unblock(move || store.save(&identity)).await
    }
}

/// Writes a file that did not exist, 0600 from its first moment. What a crash left behind under that name is removed.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

async fn unblock<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // Blocking tasks are never aborted here, so it can only have panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{AGENT_LIFETIME, Authority, Csr, Validity};
    use std::time::SystemTime;

    fn identity() -> AgentIdentity {
        let authority = Authority::generate(SystemTime::now()).unwrap();
        let key = NodeKey::generate().unwrap();
        let csr = Csr::parse(&key.csr(None).unwrap()).unwrap();
        let node = NodeId::fresh(1_770_000_000_000);
        let issued = authority
            .issue_agent(&csr, &node, Validity::starting(SystemTime::now(), AGENT_LIFETIME))
            .unwrap();
        AgentIdentity::assemble(key, issued.pem, authority.trust()).unwrap()
    }

    #[test]
    fn an_identity_survives_the_disk_and_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = IdentityStore::open(dir.path().join("a/b")).unwrap();
        assert!(store.load().unwrap().is_none());
        let (one, two) = (identity(), identity());
        store.save(&one).unwrap();
        store.save(&two).unwrap();
        let read = store.load().unwrap().unwrap();
        assert_eq!(read.certificate(), two.certificate());
        assert_eq!(read.trust(), two.trust());
        assert_eq!(fs::metadata(store.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&store.dir).unwrap().count(), 1, "nothing else is left behind");
        assert!(!format!("{read:?}").contains(read.key.to_pem().lines().nth(1).unwrap()));

        fs::set_permissions(store.path(), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(store.load(), Err(IdentityError::Exposed { mode: 0o640, .. })));
    }

    #[test]
    fn what_a_crash_left_is_no_hindrance_and_half_a_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let store = IdentityStore::open(dir.path()).unwrap();
        fs::write(dir.path().join(NEW_FILE), b"half").unwrap();
        store.check_writable().unwrap();
        fs::write(dir.path().join(NEW_FILE), b"half").unwrap();
        store.save(&identity()).unwrap();
        let text = fs::read_to_string(store.path()).unwrap();
        store.replace(&text.as_bytes()[..text.len() / 2]).unwrap();
        let error = store.load().unwrap_err();
        assert!(matches!(error, IdentityError::Malformed { .. }));
        assert!(!error.to_string().contains("PRIVATE"));
    }

    #[test]
    fn one_nodes_key_with_anothers_certificate_is_refused() {
        let (one, two) = (identity(), identity());
        assert!(matches!(
            AgentIdentity::assemble(one.key, two.certificate_pem, two.trust),
            Err(PkiError::KeyMismatch)
        ));
    }
}
