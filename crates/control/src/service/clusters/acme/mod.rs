//! Certificates of entries that an ACME server gives (RFC 8555): what is known of them, and when something is to be done.
//!
//! Invariants: what is under way is in the store before the server hears of the next step, so that a control plane which dies anywhere
//! goes on where it was; the key of a certificate is sealed there before its signature is asked for; an answer to a challenge is held
//! by every entry node that is connected before the server is told to look.

mod attempt;
mod client;
mod judge;
mod rows;
mod view;

pub use rows::Asked;

use super::{ClusterRow, Clusters};
use crate::api::error::ApiResult;
use crate::service::locks::Locks;
use nm_plan::cluster::{Challenges, KeyPair};
use nm_store::{Kind, NewClusterEvent, NewResource, Secret, StoreError, Tx};
use nm_types::{ClusterId, Timestamp};
use rows::{Certificate, CertificateSecrets, CertificateState};
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use tokio::sync::Notify;

/// What ACME servers gave, and how it is asked for.
#[derive(Clone)]
pub struct Acme {
    /// Where they look for answers, on entry nodes: 80, but in tests.
    port: u16,
    table: Arc<RwLock<BTreeMap<ClusterId, Arc<Certificate>>>>,
    /// An account is made once, whoever needs it.
    accounts: Locks<String>,
    /// Told when what is known of clusters has changed.
    changed: Arc<Notify>,
}

impl Acme {
    pub fn new(port: u16) -> Self {
        Self {
            port,
            table: Arc::default(),
            accounts: Locks::default(),
            changed: Arc::default(),
        }
    }
    pub fn cluster_changed(&self) {
        self.changed.notify_one();
    }
    pub fn port(&self) -> u16 {
        self.port
    }
    pub fn get(&self, id: &ClusterId) -> Option<Arc<Certificate>> {
        self.table.read().unwrap_or_else(|e| e.into_inner()).get(id).cloned()
    }
    fn put(&self, id: &ClusterId, certificate: Certificate) -> Arc<Certificate> {
        let certificate = Arc::new(certificate);
        let mut table = self.table.write().unwrap_or_else(|e| e.into_inner());
        table.insert(id.clone(), certificate.clone());
        certificate
    }
    fn forget(&self, id: &ClusterId) {
        self.table.write().unwrap_or_else(|e| e.into_inner()).remove(id);
    }
    fn ids(&self) -> Vec<ClusterId> {
        self.table.read().unwrap_or_else(|e| e.into_inner()).keys().cloned().collect()
    }
}

/// What is taken of a text that others wrote: one line, of at most `most` characters.
pub fn readable(text: &str, most: usize) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(most).map(plain).collect::<String>().trim().to_owned()
}

/// Whether something was written, or there is nobody left that it would be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Yes,
    Unwanted,
}

impl Clusters {
    pub(super) async fn load_certificates(&self) -> ApiResult<()> {
        for row in self.store.all(Kind::Certificate).await? {
            if let Ok(id) = ClusterId::parse(&row.id) {
                self.acme.put(&id, Certificate::read(&self.store, &row).await?);
            }
        }
        Ok(())
    }

    /// What the entry shows: what an ACME server gave where that is asked for, otherwise what stands in the cluster's own row.
    pub(super) fn pair_in_force(&self, row: &ClusterRow) -> Option<KeyPair> {
        let given = self.given(row).and_then(|c| c.pair.clone());
        given.or_else(|| row.pair.clone())
    }

    /// What entry nodes answer an ACME server, while an order is under way.
    pub(super) fn challenges(&self, row: &ClusterRow) -> Challenges {
        let given = self.given(row);
        let order = given.as_ref().and_then(|c| c.state.order.as_ref());
        order.map(|o| o.challenges.clone()).unwrap_or_default()
    }

    fn given(&self, row: &ClusterRow) -> Option<Arc<Certificate>> {
        row.stored.spec.tls.as_ref()?.acme.as_ref()?;
        self.acme.get(&row.id)
    }

    /// Told when another certificate may be due.
    pub fn certificates_wanted(&self) -> &Notify {
        &self.acme.changed
    }

    /// The clusters that an ACME server is asked for, and when. Without an entry node that is connected nobody could answer it:
    /// those wait for one.
    pub fn certificates_due(&self) -> Vec<(ClusterId, Timestamp)> {
        let connected = |row: &ClusterRow| row.stored.entries.iter().any(|node| self.fleet.is_connected(node));
        let rows = self.all().into_iter().filter(|row| connected(row));
        rows.filter_map(|row| {
            let asked = Asked::of(&row)?;
            let due = self.acme.get(&row.id).map_or(Timestamp(0), |c| c.due(&asked));
            Some((row.id.clone(), due))
        })
        .collect()
    }

    /// Forgets certificates of clusters that no longer ask for one.
    pub async fn drop_certificates(&self) -> ApiResult<()> {
        for id in self.acme.ids() {
            if self.row(&id).is_some_and(|row| Asked::of(&row).is_some()) {
                continue;
            }
            let mut tx = self.store.begin(self.clock.now()).await?;
            // As the store has it: whoever changes a cluster writes before it is known here.
            if wanted(&mut tx, &id).await? {
                continue;
            }
            forget(&mut tx, &id).await?;
            tx.commit().await?;
            self.acme.forget(&id);
        }
        Ok(())
    }

    /// Changes a certificate's row, where the cluster still asks for one, and has documents made of it.
    async fn write_certificate(
        &self,
        id: &ClusterId,
        change: impl FnOnce(&mut CertificateState, &mut CertificateSecrets) -> Option<NewClusterEvent> + Send,
    ) -> ApiResult<Written> {
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        if !wanted(&mut tx, id).await? {
            return Ok(Written::Unwanted);
        }
        let held = self.acme.get(id).map(|c| Certificate::clone(&c)).unwrap_or_default();
        let (mut state, mut secrets) = (held.state, held.secrets);
        let event = change(&mut state, &mut secrets);
        let row = NewResource::new(Kind::Certificate, id.as_str())
            .within(id.as_str())
            .status(&state)?
            .secret(Secret::json(&secrets)?);
        tx.put(row).await?;
        if let Some(event) = event {
            tx.cluster_event(&NewClusterEvent { at: now, ..event }).await?;
        }
        tx.commit().await?;
        self.acme.put(id, Certificate::new(state, secrets));
        self.wake.notify_one();
        Ok(Written::Yes)
    }
}

/// Whether a cluster asks an ACME server for its certificate.
async fn wanted(tx: &mut Tx, id: &ClusterId) -> ApiResult<bool> {
    let Some(row) = tx.get(Kind::Cluster, id.as_str()).await? else {
        return Ok(false);
    };
    let stored: super::rows::StoredCluster = row.spec()?;
    Ok(stored.spec.tls.is_some_and(|tls| tls.acme.is_some()))
}

/// Takes a certificate's row away, where there is one.
pub(super) async fn forget(tx: &mut Tx, id: &ClusterId) -> ApiResult<()> {
    match tx.delete(Kind::Certificate, id.as_str()).await {
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
