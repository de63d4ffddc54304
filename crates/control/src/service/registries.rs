//! Logins of image registries: sealed, and used only on the way to a node that pulls.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::clock::SharedClock;
use crate::service::outbound::Guard;
use nm_link::contract::RegistryLogin;
use nm_store::{Kind, NewResource, Patch, Resource, Secret, Store, StoreError};
use nm_types::RegistryId;
use nm_types::registry::{NewRegistry, RegistryView};
use nm_types::text::{ImageRef, RegistryHost, Title};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RegistrySpec {
    host: RegistryHost,
    username: Title,
}

/// Docker's own registry goes by this name when an image names none.
const DEFAULT_HOST: &str = "docker.io";

#[derive(Clone)]
pub struct Registries {
    store: Store,
    clock: SharedClock,
    guard: Guard,
}

impl Registries {
    pub fn new(store: Store, clock: SharedClock, guard: Guard) -> Self {
        Self { store, clock, guard }
    }

    /// 403 where `image` names a registry at an address that is not allowed; `field` is where the user wrote it.
    pub fn may_ask_for(&self, image: &ImageRef, field: &str) -> ApiResult<()> {
        match image.registry() {
            Some(host) => self.guard.check_image_registry(host).map_err(|e| e.field(field)),
            None => Ok(()),
        }
    }

    pub async fn list(&self) -> ApiResult<Vec<RegistryView>> {
        self.store.all(Kind::Registry).await?.iter().map(view).collect()
    }

    /// The login for the registry an image comes from, where there is one.
    pub async fn login_for(&self, image: &ImageRef) -> ApiResult<Option<RegistryLogin>> {
        let host = image.registry().unwrap_or(DEFAULT_HOST);
        let Some(row) = self.store.named(Kind::Registry, host, None).await?.into_iter().next() else {
            return Ok(None);
        };
        let spec: RegistrySpec = row.spec()?;
        let Some(secret) = self.store.open_sealed(&row).await? else {
            return Ok(None);
        };
        let password = String::from_utf8(secret.expose().to_vec()).map_err(|_| ApiError::internal())?;
        Ok(Some(RegistryLogin {
            host: host.to_owned(),
            username: spec.username.to_string(),
            password,
        }))
    }

    pub async fn create(&self, actor: &Actor, meta: &Meta, new: NewRegistry) -> ApiResult<RegistryView> {
        self.guard.check_registry(new.host.as_str()).map_err(|e| e.field("host"))?;
        let now = self.clock.now();
        let id = RegistryId::fresh(now.0);
        let spec = RegistrySpec {
            host: new.host,
            username: new.username,
        };
        let mut tx = self.store.begin(now).await?;
        let row = NewResource::new(Kind::Registry, id.as_str())
            .uniquely_named(spec.host.as_str())
            .spec(&spec)?
            .secret(Secret::from(&new.password));
        let row = tx.insert(row).await.map_err(|e| match e {
            StoreError::Conflict { .. } => ApiError::conflict(
                "registry_exists",
                format!("there is a login for `{}` already: change that one", spec.host),
            )
            .field("host"),
            e => e.into(),
        })?;
        tx.audit(audit(
            actor,
            meta,
            "registry.create",
            Some(id.as_str()),
            serde_json::json!({ "host": spec.host, "username": spec.username }),
        ))
        .await?;
        tx.commit().await?;
        view(&row)
    }

    pub async fn replace(&self, actor: &Actor, meta: &Meta, key: &str, new: NewRegistry) -> ApiResult<RegistryView> {
        self.guard.check_registry(new.host.as_str()).map_err(|e| e.field("host"))?;
        let id = self.find(key).await?.id;
        let spec = RegistrySpec {
            host: new.host,
            username: new.username,
        };
        let mut patch = Patch::new()
            .spec(&spec)?
            .name(spec.host.as_str())
            .secret(Some(Secret::from(&new.password)));
        if let Some(revision) = meta.if_match {
            patch = patch.if_revision(revision);
        }
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = tx.update(Kind::Registry, &id, patch).await?;
        tx.audit(audit(
            actor,
            meta,
            "registry.replace",
            Some(&id),
            serde_json::json!({ "host": spec.host, "username": spec.username }),
        ))
        .await?;
        tx.commit().await?;
        view(&row)
    }

    pub async fn remove(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<()> {
        let id = self.find(key).await?.id;
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.delete(Kind::Registry, &id).await?;
        tx.audit(audit(actor, meta, "registry.remove", Some(&id), serde_json::json!({})))
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// By id or host.
    async fn find(&self, key: &str) -> ApiResult<Resource> {
        if let Some(row) = self.store.get(Kind::Registry, key).await? {
            return Ok(row);
        }
        self.store
            .named(Kind::Registry, key, None)
            .await?
            .into_iter()
            .next()
            .ok_or_else(|| ApiError::not_found("registry", key))
    }
}

fn view(row: &Resource) -> ApiResult<RegistryView> {
    let spec: RegistrySpec = row.spec()?;
    let id = RegistryId::parse(&row.id).map_err(|_| ApiError::internal())?;
    Ok(RegistryView {
        id,
        host: spec.host,
        username: spec.username,
        created: row.created_at,
        updated: row.updated_at,
    })
}
