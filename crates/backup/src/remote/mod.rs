//! Repositories that are not in a folder of this machine: objects by names, over HTTP or SFTP. Hosts are judged before anything is
//! sent to them, and what was judged is what is connected to.

mod address;
mod s3;
mod sftp;
mod web;

pub(crate) use web::VERSION_2;

use crate::{
    failure::Result,
    store::{Present, Store},
};
use bytes::{Bytes, BytesMut};
use nm_types::backup::job::RepositoryPlace;
use rustic_core::{BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend};
use std::{
    fmt::Debug,
    io::{self, ErrorKind as Io},
    sync::Arc,
};

/// What a place does with objects. `folder` is one of the repository's, or empty for its config.
pub trait Objects: Debug + Send + Sync + 'static {
    fn name(&self) -> String;
    /// All of a folder, with their sizes. A folder that can't be listed is an error, never empty.
    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>>;
    fn get(&self, folder: &str, name: &str, range: Option<(u32, u32)>) -> io::Result<Bytes>;
    fn put(&self, folder: &str, name: &str, bytes: Bytes) -> io::Result<()>;
    fn delete(&self, folder: &str, name: &str) -> io::Result<()>;
    /// Makes what is needed before the first object.
    fn create(&self) -> io::Result<()>;
    /// Whether it takes files that are none of a repository's.
    fn takes_notes(&self) -> bool;
    /// The size of the config; none where there is none, although the place is there.
    fn config(&self) -> io::Result<Option<u64>>;
}

/// The store of a place that is not a folder.
pub fn store(place: &RepositoryPlace, allow: &[String]) -> Result<Arc<dyn Store>> {
    Ok(match place {
        RepositoryPlace::Rest { url, user, password } => {
            Arc::new(Remote(web::Rest::over_network(url, user.as_deref(), password.as_ref(), allow)?))
        }
        RepositoryPlace::Socket { socket, name } => Arc::new(Remote(web::Rest::over_socket(socket, name)?)),
        RepositoryPlace::S3 {
            endpoint,
            bucket,
            prefix,
            region,
            access_key,
            secret_key,
        } => Arc::new(Remote(s3::S3::new(
            endpoint, bucket, prefix, region, access_key, secret_key, allow,
        )?)),
        RepositoryPlace::Sftp {
            host,
            port,
            user,
            path,
            private_key,
            host_key,
        } => Arc::new(Remote(sftp::Sftp::new(
            &sftp::Login {
                host,
                port: *port,
                user,
                private_key: private_key.as_ref(),
                host_key,
            },
            path,
            allow,
        )?)),
        RepositoryPlace::Path { path } => Arc::new(crate::local::LocalFolder::new(path)),
    })
}

/// A note's name beside a repository's files.
pub(crate) const NOTE_NAME: &str = "password.txt";

pub(crate) fn is_name(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[derive(Debug)]
struct Remote<O>(O);

impl<O: Objects> Remote<O> {
    fn place(kind: FileType, id: &Id) -> (&'static str, String) {
        match kind {
            FileType::Config => ("", "config".into()),
            _ => (kind.dirname(), id.to_hex().as_str().to_owned()),
        }
    }

    fn error(&self, doing: &'static str, kind: FileType, id: Option<&Id>, error: io::Error) -> Box<RusticError> {
        let path = id.map_or_else(
            || kind.dirname().to_owned(),
            |id| {
                let (folder, name) = Self::place(kind, id);
                format!("{folder}/{name}")
            },
        );
        RusticError::with_source(ErrorKind::Backend, doing, error)
            .attach_context("path", path)
            .attach_context("place", self.0.name())
    }

    fn try_list(&self, kind: FileType) -> io::Result<Vec<(Id, u32)>> {
        let sized = |size: u64| u32::try_from(size).map_err(|_| io::Error::new(Io::InvalidData, "a file is larger than 4 GiB"));
        if kind == FileType::Config {
            return self.0.config()?.map(|size| Ok((Id::default(), sized(size)?))).into_iter().collect();
        }
        let mut found = Vec::new();
        for (name, size) in self.0.list(kind.dirname())? {
            // A file half written has another name, and is no file of the repository.
            if let Some(id) = Id::parse_some(&name, kind) {
                found.push((id, sized(size)?));
            }
        }
        Ok(found)
    }
}

impl<O: Objects> ReadBackend for Remote<O> {
    fn location(&self) -> String {
        self.0.name()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        self.try_list(kind)
            .map_err(|error| self.error("`{path}` of {place} can't be listed", kind, None, error))
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        let (folder, name) = Self::place(kind, id);
        self.0
            .get(folder, &name, None)
            .map_err(|error| self.error("`{path}` of {place} can't be read", kind, Some(id), error))
    }

    fn read_partial(&self, kind: FileType, id: &Id, _cacheable: bool, offset: u32, length: u32) -> RusticResult<Bytes> {
        let (folder, name) = Self::place(kind, id);
        let read = self.0.get(folder, &name, Some((offset, length))).and_then(|bytes| {
            if bytes.len() == length as usize {
                Ok(bytes)
            } else {
                Err(io::Error::new(Io::UnexpectedEof, "it is shorter than the index says"))
            }
        });
        read.map_err(|error| self.error("`{path}` of {place} can't be read", kind, Some(id), error))
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        let (folder, name) = Self::place(kind, id);
        format!("{folder}/{name}")
    }
}

impl<O: Objects> WriteBackend for Remote<O> {
    fn create(&self) -> RusticResult<()> {
        self.0.create().map_err(|error| {
            self.error(
                "The folders of the repository at {place} can't be made",
                FileType::Config,
                None,
                error,
            )
        })
    }

    fn write_bytes(&self, kind: FileType, id: &Id, _cacheable: bool, content: BytesList) -> RusticResult<()> {
        let (folder, name) = Self::place(kind, id);
        let mut parts = content.into_vec();
        let bytes = if parts.len() == 1 {
            parts.swap_remove(0)
        } else {
            let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
            parts.iter().for_each(|part| all.extend_from_slice(part));
            all.freeze()
        };
        self.0
            .put(folder, &name, bytes)
            .map_err(|error| self.error("`{path}` can't be written to {place}", kind, Some(id), error))
    }

    fn remove(&self, kind: FileType, id: &Id, _cacheable: bool) -> RusticResult<()> {
        let (folder, name) = Self::place(kind, id);
        match self.0.delete(folder, &name) {
            Err(error) if error.kind() == Io::NotFound => Ok(()),
            other => other.map_err(|error| self.error("`{path}` of {place} can't be removed", kind, Some(id), error)),
        }
    }
}

impl<O: Objects> Store for Remote<O> {
    fn look(&self) -> io::Result<Present> {
        Ok(if self.0.config()?.is_some() {
            Present::Repository
        } else {
            Present::Nothing
        })
    }

    fn locks(&self) -> io::Result<Vec<String>> {
        let listed = self.0.list("locks")?;
        Ok(listed.into_iter().map(|(name, _)| name).filter(|name| is_name(name)).collect())
    }

    fn read_lock(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match self.0.get("locks", name, None) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == Io::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write_lock(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.put("locks", name, Bytes::copy_from_slice(bytes))
    }

    fn remove_lock(&self, name: &str) -> io::Result<()> {
        match self.0.delete("locks", name) {
            Err(error) if error.kind() == Io::NotFound => Ok(()),
            other => other,
        }
    }

    fn note(&self, text: &str) -> io::Result<()> {
        if self.0.takes_notes() {
            self.0.put("", NOTE_NAME, Bytes::copy_from_slice(text.as_bytes()))?;
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.0.name()
    }
}
