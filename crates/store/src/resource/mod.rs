//! Resources: everything that has a spec (what a user asked for) and a status (what was last seen). What they are stands
//! here, how they are read and written in `rows`.

mod rows;

use crate::change::Kind;
use crate::error::StoreError;
use crate::seal::{Place, Secret};
use nm_types::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// A row of a resource, as it was when it was read.
#[derive(Clone, PartialEq)]
pub struct Resource {
    pub kind: Kind,
    pub id: String,
    pub name: String,
    /// The id of what it belongs to, a container's node say; empty where there is none.
    pub parent: String,
    /// Whether the name is taken for others of the same kind and parent.
    pub unique: bool,
    spec: Box<str>,
    status: Box<str>,
    sealed: Option<Box<str>>,
    /// Grows by one when the spec, the name, the parent or the secret changes. 1 at first.
    pub generation: i64,
    /// The store's revision at the last change of any kind.
    pub revision: i64,
    pub created_at: Timestamp,
    /// When the generation last grew.
    pub updated_at: Timestamp,
}

impl Resource {
    /// What the user asked for.
    pub fn spec<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        self.parse("spec", &self.spec)
    }

    /// What was last seen.
    pub fn status<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        self.parse("status", &self.status)
    }

    pub fn spec_json(&self) -> &str {
        &self.spec
    }

    pub fn status_json(&self) -> &str {
        &self.status
    }

    /// Whether it has a secret, which [`Store::open_sealed`](crate::Store::open_sealed) opens.
    pub fn has_secret(&self) -> bool {
        self.sealed.is_some()
    }

    fn parse<T: DeserializeOwned>(&self, part: &str, json: &str) -> Result<T, StoreError> {
        serde_json::from_str(json).map_err(|e| StoreError::corrupt(format!("the {part} of {} {}: {e}", self.kind, self.id)))
    }

    fn place(&self) -> Place<'_> {
        place(self.kind, &self.id)
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("kind", &self.kind)
            .field("id", &self.id)
            .field("name", &self.name)
            .field("parent", &self.parent)
            .field("spec", &self.spec)
            .field("status", &self.status)
            .field("has_secret", &self.has_secret())
            .field("generation", &self.generation)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

fn place(kind: Kind, id: &str) -> Place<'_> {
    Place {
        table: "resources",
        kind: kind.as_str(),
        id,
    }
}

fn to_json<T: Serialize + ?Sized>(part: &str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::invalid(format!("a {part} does not become JSON: {e}")))
}

/// A resource to be written. Spec and status are `{}` unless given.
#[derive(Debug, Clone)]
pub struct NewResource {
    kind: Kind,
    id: String,
    name: String,
    parent: String,
    unique: bool,
    spec: String,
    status: String,
    secret: Option<Secret>,
}

impl NewResource {
    pub fn new(kind: Kind, id: impl Into<String>) -> Self {
        let empty = || "{}".to_owned();
        Self {
            kind,
            id: id.into(),
            name: String::new(),
            parent: String::new(),
            unique: false,
            spec: empty(),
            status: empty(),
            secret: None,
        }
    }

    /// A name that others may have too, as for things that were merely observed.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            unique: false,
            ..self
        }
    }

    /// A name that nothing else of the same kind and parent may have.
    pub fn uniquely_named(self, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            unique: true,
            ..self
        }
    }

    /// The id of what it belongs to.
    pub fn within(self, parent: impl Into<String>) -> Self {
        Self {
            parent: parent.into(),
            ..self
        }
    }

    pub fn spec<T: Serialize + ?Sized>(self, spec: &T) -> Result<Self, StoreError> {
        Ok(Self {
            spec: to_json("spec", spec)?,
            ..self
        })
    }

    pub fn status<T: Serialize + ?Sized>(self, status: &T) -> Result<Self, StoreError> {
        Ok(Self {
            status: to_json("status", status)?,
            ..self
        })
    }

    /// A secret, sealed when it is written.
    pub fn secret(self, secret: Secret) -> Self {
        Self {
            secret: Some(secret),
            ..self
        }
    }
}

/// What changes on a resource; what is not named stays.
#[derive(Debug, Clone, Default)]
pub struct Patch {
    spec: Option<String>,
    status: Option<String>,
    name: Option<String>,
    parent: Option<String>,
    /// Some(None) removes it.
    secret: Option<Option<Secret>>,
    generation: Option<i64>,
    revision: Option<i64>,
}

impl Patch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn spec<T: Serialize + ?Sized>(self, spec: &T) -> Result<Self, StoreError> {
        Ok(Self {
            spec: Some(to_json("spec", spec)?),
            ..self
        })
    }

    pub fn status<T: Serialize + ?Sized>(self, status: &T) -> Result<Self, StoreError> {
        Ok(Self {
            status: Some(to_json("status", status)?),
            ..self
        })
    }

    pub fn name(self, name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            ..self
        }
    }

    pub fn parent(self, parent: impl Into<String>) -> Self {
        Self {
            parent: Some(parent.into()),
            ..self
        }
    }

    pub fn secret(self, secret: Option<Secret>) -> Self {
        Self {
            secret: Some(secret),
            ..self
        }
    }

    /// Only if it still has this generation; [`StoreError::Stale`] otherwise.
    pub fn if_generation(self, generation: i64) -> Self {
        Self {
            generation: Some(generation),
            ..self
        }
    }

    /// Only if nothing at all has changed since this revision; [`StoreError::Stale`] otherwise.
    pub fn if_revision(self, revision: i64) -> Self {
        Self {
            revision: Some(revision),
            ..self
        }
    }

    fn touches_wish(&self) -> bool {
        self.spec.is_some() || self.name.is_some() || self.parent.is_some() || self.secret.is_some()
    }
}

/// Which resources [`Store::list`](crate::Store::list) gives, in the order of their ids.
#[derive(Debug, Clone, Copy)]
pub struct ListQuery<'a> {
    pub kind: Kind,
    /// Only those that belong to it.
    pub parent: Option<&'a str>,
    /// The last id of the page before.
    pub after: Option<&'a str>,
    pub newest_first: bool,
    pub limit: u32,
}

impl ListQuery<'_> {
    pub fn of(kind: Kind, limit: u32) -> Self {
        Self {
            kind,
            parent: None,
            after: None,
            newest_first: false,
            limit,
        }
    }
}
