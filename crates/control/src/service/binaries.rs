//! Executables that nodes can be upgraded to: the control plane's own, and uploaded ones for other kinds of machine.
//!
//! An uploaded one lies under its hash in `<data-dir>/binaries`; a row says which is the one for a platform. The file is there
//! before the row is written, and an old one goes after, so a crash leaves a file too many and never one too few.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::clock::SharedClock;
use axum::body::Body;
use http::StatusCode;
use http_body_util::BodyExt;
use nm_store::{Kind, NewResource, Store, StoreError};
use nm_types::upgrade::{BinaryView, Platform, ReleaseVersion};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::fs;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, OnceCell};

/// The largest executable that is taken.
const LARGEST: u64 = 1 << 30;

/// An executable and where it lies.
#[derive(Debug, Clone)]
pub struct Binary {
    pub view: BinaryView,
    pub path: PathBuf,
}

/// All executables. Cheap to clone.
#[derive(Clone)]
pub struct Binaries {
    store: Store,
    clock: SharedClock,
    dir: PathBuf,
    /// The file that this control plane runs from, and what it is, once that was asked for.
    own: Option<PathBuf>,
    own_view: Arc<OnceCell<Option<BinaryView>>>,
    /// One is taken in at a time.
    receiving: Arc<Mutex<()>>,
}

fn row_id(platform: Platform) -> String {
    format!("binary.{platform}")
}

fn disk(error: io::Error, what: &str) -> ApiError {
    tracing::error!(%error, "an executable could not be {what}");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ApiError::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "disk_full",
            "the control plane's disk is full: free some space and retry",
        ),
        _ => ApiError::internal(),
    }
}

impl Binaries {
    pub fn new(store: Store, clock: SharedClock, data_dir: &Path, own: Option<PathBuf>) -> Self {
        Self {
            store,
            clock,
            dir: data_dir.join("binaries"),
            own,
            own_view: Arc::default(),
            receiving: Arc::default(),
        }
    }

    /// The control plane's own executable.
    async fn own(&self) -> ApiResult<Option<Binary>> {
        let Some(path) = self.own.clone() else { return Ok(None) };
        let view = self.own_view.get_or_try_init(|| look_at(path.clone())).await?;
        Ok(view.clone().map(|view| Binary { view, path }))
    }

    async fn uploaded(&self, platform: Platform) -> ApiResult<Option<Binary>> {
        let Some(row) = self.store.get(Kind::Setting, &row_id(platform)).await? else {
            return Ok(None);
        };
        let view: BinaryView = row.spec()?;
        let path = self.dir.join(&view.sha256);
        if fs::try_exists(&path).await.unwrap_or(false) {
            return Ok(Some(Binary { view, path }));
        }
        tracing::warn!(%platform, "an uploaded executable is not in the data folder: was it uploaded to another replica?");
        Ok(None)
    }

    /// Those there are, by platform; an uploaded one beside the own one where both are there.
    pub async fn list(&self) -> ApiResult<Vec<BinaryView>> {
        let mut all: Vec<BinaryView> = self.own().await?.into_iter().map(|b| b.view).collect();
        for platform in Platform::ALL {
            all.extend(self.uploaded(platform).await?.map(|b| b.view));
        }
        all.sort_by_key(|b| (b.platform, b.uploaded));
        Ok(all)
    }

    /// The one for a platform: the newer of the control plane's own and the uploaded one.
    pub async fn pick(&self, platform: Platform) -> ApiResult<Option<Binary>> {
        let own = self.own().await?.filter(|b| b.view.platform == platform);
        let uploaded = self.uploaded(platform).await?;
        Ok(match (own, uploaded) {
            (Some(own), Some(uploaded)) if uploaded.view.version > own.view.version => Some(uploaded),
            (Some(own), _) => Some(own),
            (None, uploaded) => uploaded,
        })
    }

    /// Takes in an executable for `platform`, in place of the one uploaded before.
    pub async fn put(&self, actor: &Actor, meta: &Meta, platform: Platform, version: ReleaseVersion, body: Body) -> ApiResult<BinaryView> {
        let _alone = self.receiving.lock().await;
        let write = |e| disk(e, "written");
        fs::create_dir_all(&self.dir).await.map_err(write)?;
        let part = self.dir.join("part");
        let (sha256, size) = match receive(body, &part, platform).await {
            Ok(received) => received,
            Err(error) => {
                // Best effort: the next one begins by emptying it.
                drop(fs::remove_file(&part).await);
                return Err(error);
            }
        };
        fs::rename(&part, self.dir.join(&sha256)).await.map_err(write)?;
        let view = BinaryView {
            platform,
            version,
            sha256,
            size,
            uploaded: Some(self.clock.now()),
        };
        let mut tx = self.store.begin(self.clock.now()).await?;
        let id = row_id(platform);
        let before = tx.get(Kind::Setting, &id).await?.and_then(|row| row.spec::<BinaryView>().ok());
        tx.put(NewResource::new(Kind::Setting, &id).named(&id).spec(&view)?).await?;
        let detail = json!({ "version": view.version, "sha256": view.sha256, "size": view.size });
        tx.audit(audit(actor, meta, "node.binary.put", Some(platform.as_str()), detail))
            .await?;
        tx.commit().await?;
        self.drop_file(before.filter(|b| b.sha256 != view.sha256)).await;
        Ok(view)
    }

    /// Forgets the one that was uploaded for `platform`.
    pub async fn remove(&self, actor: &Actor, meta: &Meta, platform: Platform) -> ApiResult<()> {
        let _alone = self.receiving.lock().await;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = match tx.delete(Kind::Setting, &row_id(platform)).await {
            Ok(row) => row,
            Err(StoreError::NotFound { .. }) => return Err(ApiError::not_found("binary", platform.as_str())),
            Err(error) => return Err(error.into()),
        };
        tx.audit(audit(actor, meta, "node.binary.remove", Some(platform.as_str()), json!({})))
            .await?;
        tx.commit().await?;
        self.drop_file(row.spec::<BinaryView>().ok()).await;
        Ok(())
    }

    async fn drop_file(&self, old: Option<BinaryView>) {
        let Some(old) = old else { return };
        // The same file may be another platform's only by a mistake that the ELF head does not allow.
        if let Err(error) = fs::remove_file(self.dir.join(&old.sha256)).await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(sha256 = old.sha256, %error, "an executable that is not needed any more could not be removed");
        }
    }
}

/// The executable that runs; `None` on a platform that nodes do not have.
async fn look_at(path: PathBuf) -> ApiResult<Option<BinaryView>> {
    let Some(platform) = Platform::of(std::env::consts::OS, std::env::consts::ARCH) else {
        return Ok(None);
    };
    let version = ReleaseVersion::parse(env!("CARGO_PKG_VERSION")).map_err(|_| ApiError::internal())?;
    let hashed = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::open(path)?;
        let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok((hex::encode(hash.finalize()), size)),
                n => {
                    hash.update(&buffer[..n]);
                    size += n as u64;
                }
            }
        }
    });
    let (sha256, size) = hashed
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)))
        .map_err(|e| disk(e, "read"))?;
    Ok(Some(BinaryView {
        platform,
        version,
        sha256,
        size,
        uploaded: None,
    }))
}

/// Writes the body to `part`; gives its hash and size.
async fn receive(mut body: Body, part: &Path, platform: Platform) -> ApiResult<(String, u64)> {
    let write = |e| disk(e, "written");
    let too_large = || {
        let text = "an executable has at most 1 GiB";
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", text)
    };
    let mut file = fs::File::create(part).await.map_err(write)?;
    let (mut hash, mut size, mut head) = (Sha256::new(), 0u64, Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::bad_request("body_broken", "the body broke off before its end"))?;
        let Ok(chunk) = frame.into_data() else { continue };
        size += chunk.len() as u64;
        if size > LARGEST {
            return Err(too_large());
        }
        if head.len() < 20 {
            head.extend_from_slice(&chunk[..chunk.len().min(20 - head.len())]);
            if head.len() == 20 {
                fits(&head, platform)?;
            }
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(write)?;
    }
    if head.len() < 20 {
        fits(&head, platform)?;
    }
    file.sync_all().await.map_err(write)?;
    Ok((hex::encode(hash.finalize()), size))
}

/// Whether this is the head of a program of that platform: a mix-up is better found here than on a node.
fn fits(head: &[u8], platform: Platform) -> ApiResult<()> {
    let machine = match head {
        [0x7f, b'E', b'L', b'F', 2, 1, .., low, high] if head.len() == 20 => Some(u16::from_le_bytes([*low, *high])),
        _ => None,
    };
    if machine == Some(platform.elf_machine()) {
        Ok(())
    } else {
        Err(ApiError::conflict(
            "wrong_platform",
            format!("this is not a program for {platform}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_programs() {
        let head = |machine: u16| {
            let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0".to_vec();
            head.extend(machine.to_le_bytes());
            head
        };
        assert!(fits(&head(62), Platform::LinuxX86_64).is_ok() && fits(&head(183), Platform::LinuxAarch64).is_ok());
        for (bad, platform) in [
            (head(183), Platform::LinuxX86_64),
            (head(62), Platform::LinuxAarch64),
            (head(62)[..19].to_vec(), Platform::LinuxX86_64),
            (Vec::new(), Platform::LinuxX86_64),
            (b"#!/bin/true\n        ".to_vec(), Platform::LinuxX86_64),
        ] {
            assert!(fits(&bad, platform).is_err(), "{bad:?}");
        }
    }
}
