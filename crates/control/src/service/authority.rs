//! The authority, and how another takes its place.
//!
//! One row holds all of it: in its secret the keys, in its spec how far a succession has come. Each step of a succession is one
//! change of that row, so that a crash leaves the step before or the one after. Every replica rereads it when it changes.
//! [`crate::controller::trust`] takes the steps.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::clock::SharedClock;
use arc_swap::ArcSwap;
use http::StatusCode;
use nm_link::ServerTls;
use nm_link::pki::{Authority, AuthorityPem, CrossCertificate, SERVER_LIFETIME, ServerIdentity, TrustBundle, Validity};
use nm_store::{Kind, NewResource, Patch, Resource, Secret, Store};
use nm_types::Timestamp;
use nm_types::authority::{AuthorityPhase, RotateAuthority};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Where the store keeps the authority.
pub const AUTHORITY: &str = "link.authority";
/// How long nodes have to be told of a new authority before it takes over.
const SWITCH_AFTER_S: i64 = 60;

/// The secret of the row.
#[derive(Serialize, Deserialize)]
struct Sealed {
    certificate: String,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<Pair>,
}

#[derive(Serialize, Deserialize)]
struct Pair {
    certificate: String,
    key: String,
}

/// The spec of the row. One without anything in it is settled.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    rotation: KeptRotation,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "phase")]
enum KeptRotation {
    #[default]
    Settled,
    Introducing {
        since: Timestamp,
        switch_by: Timestamp,
        /// The next one's key, certified by the current one; PEM.
        cross: String,
    },
    Renewing {
        since: Timestamp,
        /// The certificate of the authority before; PEM. Its key is gone.
        previous: String,
        cross: String,
    },
}

/// How far a succession has come.
pub enum Rotation {
    Settled,
    Introducing {
        since: Timestamp,
        switch_by: Timestamp,
        next: Arc<Authority>,
        cross: CrossCertificate,
    },
    Renewing {
        since: Timestamp,
        previous: TrustBundle,
        cross: CrossCertificate,
    },
}

/// The authorities as the row has them.
pub struct Standing {
    revision: i64,
    /// Serves, and issues certificates.
    pub current: Arc<Authority>,
    pub rotation: Rotation,
}

/// The authority of this control plane. Cheap to clone.
#[derive(Clone)]
pub struct Authorities {
    store: Store,
    clock: SharedClock,
    standing: Arc<ArcSwap<Standing>>,
    tls: Arc<ServerTls>,
}

pub fn system_time(t: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(t.0).unwrap_or_default())
}

pub fn timestamp(t: SystemTime) -> Timestamp {
    let since = t.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

pub(super) fn pki(error: impl std::error::Error + 'static) -> ApiError {
    tracing::error!(error = &error as &dyn std::error::Error, "a certificate could not be made");
    ApiError::internal()
}

fn sealed(current: &Authority, next: Option<&Authority>) -> ApiResult<Secret> {
    let (current, next) = (current.to_pem(), next.map(Authority::to_pem));
    Ok(Secret::json(&Sealed {
        certificate: current.certificate,
        key: current.key.to_string(),
        next: next.map(|n| Pair {
            certificate: n.certificate,
            key: n.key.to_string(),
        }),
    })?)
}

fn opened(certificate: String, key: String) -> ApiResult<Arc<Authority>> {
    let pem = AuthorityPem {
        certificate,
        key: key.into(),
    };
    Ok(Arc::new(Authority::from_pem(&pem).map_err(pki)?))
}

impl Standing {
    /// Whom everybody is to trust now.
    pub fn trust(&self) -> TrustBundle {
        match &self.rotation {
            Rotation::Settled => self.current.trust(),
            Rotation::Introducing { next, .. } => self.current.trust().and(&next.trust()),
            Rotation::Renewing { previous, .. } => self.current.trust().and(previous),
        }
    }

    pub fn phase(&self) -> AuthorityPhase {
        match self.rotation {
            Rotation::Settled => AuthorityPhase::Settled,
            Rotation::Introducing { .. } => AuthorityPhase::Introducing,
            Rotation::Renewing { .. } => AuthorityPhase::Renewing,
        }
    }

    fn server_identity(&self, now: Timestamp) -> ApiResult<ServerIdentity> {
        let validity = Validity::starting(system_time(now), SERVER_LIFETIME);
        let identity = self.current.issue_server::<&str>(&[], validity).map_err(pki)?;
        Ok(match &self.rotation {
            Rotation::Settled | Rotation::Introducing { .. } => identity,
            Rotation::Renewing { previous, cross, .. } => identity.following(cross, previous),
        })
    }
}

impl Authorities {
    /// Opens the authority, making it on the first start.
    pub async fn open(store: Store, clock: SharedClock) -> ApiResult<Self> {
        let now = clock.now();
        let row = match store.get(Kind::Setting, AUTHORITY).await? {
            Some(row) => row,
            None => {
                let authority = Authority::generate(system_time(now)).map_err(pki)?;
                let mut tx = store.begin(now).await?;
                // Another replica may have been first.
                let row = match tx.get(Kind::Setting, AUTHORITY).await? {
                    Some(row) => row,
                    None => {
                        let new = NewResource::new(Kind::Setting, AUTHORITY).named(AUTHORITY);
                        tx.insert(new.secret(sealed(&authority, None)?)).await?
                    }
                };
                tx.commit().await?;
                row
            }
        };
        let standing = read(&store, &row).await?;
        let tls = ServerTls::new(&standing.server_identity(now)?, &standing.trust()).map_err(pki)?;
        Ok(Self {
            store,
            clock,
            standing: Arc::new(ArcSwap::from_pointee(standing)),
            tls: Arc::new(tls),
        })
    }

    pub fn tls(&self) -> Arc<ServerTls> {
        self.tls.clone()
    }

    pub fn standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// A fresh server certificate; connections that stand are not touched.
    pub fn renew_server(&self) -> ApiResult<()> {
        self.serve_with(&self.standing())
    }

    fn serve_with(&self, standing: &Standing) -> ApiResult<()> {
        let identity = standing.server_identity(self.clock.now())?;
        self.tls.replace(&identity, &standing.trust()).map_err(pki)
    }

    /// Takes in what the row says, when it has changed.
    pub async fn refresh(&self) -> ApiResult<Arc<Standing>> {
        let row = self.store.get(Kind::Setting, AUTHORITY).await?.ok_or_else(ApiError::internal)?;
        self.take_in(&row).await
    }

    async fn take_in(&self, row: &Resource) -> ApiResult<Arc<Standing>> {
        let present = self.standing();
        if row.revision <= present.revision {
            return Ok(present);
        }
        let standing = Arc::new(read(&self.store, row).await?);
        self.serve_with(&standing)?;
        self.standing.store(standing.clone());
        Ok(standing)
    }

    /// Makes the next authority, or, forced, ends the wait of a succession that is under way.
    pub async fn rotate(&self, actor: &Actor, meta: &Meta, how: RotateAuthority) -> ApiResult<()> {
        let standing = self.refresh().await?;
        let asked = self.go_on(&standing, actor, meta, how).await;
        asked.map_err(|error| match error.status {
            // It went on by itself in the same moment.
            StatusCode::PRECONDITION_FAILED => ApiError::conflict(
                "rotation_under_way",
                "the authority went on to its next stage at this moment: `neuralmesh nodes authority show` says to which; ask again where it is to go on further",
            ),
            _ => error,
        })
    }

    async fn go_on(&self, standing: &Standing, actor: &Actor, meta: &Meta, how: RotateAuthority) -> ApiResult<()> {
        match (&standing.rotation, how.force) {
            (Rotation::Settled, force) => {
                let after = if force {
                    0
                } else {
                    how.switch_after.map_or(SWITCH_AFTER_S, |s| s.get())
                };
                self.introduce(standing, actor, meta, after).await
            }
            (Rotation::Introducing { .. } | Rotation::Renewing { .. }, false) => Err(ApiError::conflict(
                "rotation_under_way",
                "another authority is on its way already: `neuralmesh nodes authority show` says what it waits for, force=true ends the wait",
            )),
            (Rotation::Introducing { .. }, true) => self.switch(standing, Some((actor, meta))).await,
            (Rotation::Renewing { .. }, true) => self.retire(standing, Some((actor, meta))).await,
        }
    }

    async fn introduce(&self, standing: &Standing, actor: &Actor, meta: &Meta, after_s: i64) -> ApiResult<()> {
        let now = self.clock.now();
        let next = Authority::generate(system_time(now)).map_err(pki)?;
        let cross = standing.current.cross_sign(&next, system_time(now)).map_err(pki)?;
        let switch_by = now.plus_millis(after_s.saturating_mul(1000));
        let rotation = KeptRotation::Introducing {
            since: now,
            switch_by,
            cross: cross.to_pem(),
        };
        let detail = serde_json::json!({ "next": next.name(), "switchBy": switch_by });
        let secret = sealed(&standing.current, Some(&next))?;
        self.write(standing, rotation, secret, Some((actor, meta)), "node.authority.rotate", detail)
            .await
    }

    /// The next authority takes over. The key of the one before is gone with this.
    pub async fn switch(&self, standing: &Standing, by: Option<(&Actor, &Meta)>) -> ApiResult<()> {
        let Rotation::Introducing { next, cross, .. } = &standing.rotation else {
            return Ok(());
        };
        let rotation = KeptRotation::Renewing {
            since: self.clock.now(),
            previous: standing.current.trust().to_pem(),
            cross: cross.to_pem(),
        };
        let detail = serde_json::json!({ "previous": standing.current.name(), "current": next.name() });
        self.write(standing, rotation, sealed(next, None)?, by, "node.authority.switch", detail)
            .await
    }

    /// The authority before counts no more.
    pub async fn retire(&self, standing: &Standing, by: Option<(&Actor, &Meta)>) -> ApiResult<()> {
        let Rotation::Renewing { previous, .. } = &standing.rotation else {
            return Ok(());
        };
        let detail =
            serde_json::json!({ "previous": previous.names().first(), "current": standing.current.name(), "forced": by.is_some() });
        let secret = sealed(&standing.current, None)?;
        self.write(standing, KeptRotation::Settled, secret, by, "node.authority.retire", detail)
            .await
    }

    async fn write(
        &self,
        before: &Standing,
        rotation: KeptRotation,
        secret: Secret,
        by: Option<(&Actor, &Meta)>,
        action: &str,
        detail: serde_json::Value,
    ) -> ApiResult<()> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        // Only on what was looked at: of two replicas that decide the same, one writes.
        let patch = Patch::new()
            .spec(&Kept { rotation })?
            .secret(Some(secret))
            .if_revision(before.revision);
        let row = tx.update(Kind::Setting, AUTHORITY, patch).await?;
        let entry = match by {
            Some((actor, meta)) => audit(actor, meta, action, None, detail),
            None => audit(&Actor::system(), &Meta::internal(), action, None, detail),
        };
        tx.audit(entry).await?;
        tx.commit().await?;
        self.take_in(&row).await?;
        Ok(())
    }
}

async fn read(store: &Store, row: &Resource) -> ApiResult<Standing> {
    let secret = store.open_sealed(row).await?.ok_or_else(ApiError::internal)?;
    let sealed: Sealed = secret.parse()?;
    let current = opened(sealed.certificate, sealed.key)?;
    let rotation = match row.spec::<Kept>()?.rotation {
        KeptRotation::Settled => Rotation::Settled,
        KeptRotation::Introducing { since, switch_by, cross } => {
            let next = sealed.next.ok_or_else(ApiError::internal)?;
            Rotation::Introducing {
                since,
                switch_by,
                next: opened(next.certificate, next.key)?,
                cross: CrossCertificate::from_pem(&cross).map_err(pki)?,
            }
        }
        KeptRotation::Renewing { since, previous, cross } => Rotation::Renewing {
            since,
            previous: TrustBundle::from_pem(&previous).map_err(pki)?,
            cross: CrossCertificate::from_pem(&cross).map_err(pki)?,
        },
    };
    Ok(Standing {
        revision: row.revision,
        current,
        rotation,
    })
}
