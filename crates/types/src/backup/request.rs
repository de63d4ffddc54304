//! What is asked about backups that there are.

use super::config::BackupPath;
use crate::text::VolumeName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /api/capabilities/backups/{backupId}/restore`. Without anything: everything, in its place on its own server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewRestore {
    /// Where to: a folder of the server's node, which is made where it is missing. Everything goes below it with its path in the
    /// backup, as restic does. Left out: in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<RestoreTarget>,
    /// Id or name of another node or container. A node with the backup of a container, and no `target`: the container is made there
    /// again from its spec, with its volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128)]
    pub server_id: Option<String>,
    /// The name of a container that is made again; its old one by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<crate::text::ContainerName>,
    /// Paths in the backup, with all that is below; everything where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1000)]
    pub paths: Vec<BackupPath>,
    /// One volume of the backup into a volume of another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
    /// What is at the target and not in the backup goes. False by default for paths, true for volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<bool>,
    /// Of a database cluster: the cluster of type `database` that is made of it. `database.name` and `database.version` are those of the
    /// backup, and so is all else of `database` that is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Box<crate::cluster::ClusterSpec>>,
    /// Of a database cluster: as it was at this moment, every transaction that was committed by then and none after. As new as can be
    /// where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<crate::Timestamp>,
    /// Changes nothing, and answers what would be.
    #[serde(default)]
    pub dry_run: bool,
    /// Reads everything back and compares it with the backup; true by default.
    #[serde(default = "yes")]
    pub verify: bool,
}

impl Default for NewRestore {
    fn default() -> Self {
        Self {
            target: None,
            server_id: None,
            name: None,
            paths: Vec::new(),
            volume: None,
            replace: None,
            cluster: None,
            to: None,
            dry_run: false,
            verify: yes(),
        }
    }
}

pub type RestoreTarget = BackupPath;
/// A path in a backup.
pub type TreePath = BackupPath;

/// `PUT /api/capabilities/backups/{backupId}/pin`: retention does not remove a pinned backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupPin {
    pub pinned: bool,
}

const fn yes() -> bool {
    true
}
