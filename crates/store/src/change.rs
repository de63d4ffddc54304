//! The words of the change feed: what kind of thing changed, which one, and how.

use nm_types::Timestamp;
use std::fmt;
use std::sync::Arc;

/// The kinds of resources. The texts are stored and sent to clients: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Container,
    Node,
    Operation,
    Registry,
    JoinToken,
    /// A value of the control plane itself, often a sealed one, under a fixed id such as `link.ca`.
    Setting,
    Cluster,
    Server,
    Provider,
    Instance,
    BackupConfig,
    Backup,
    Deployment,
    /// How a server is checked, and how it is; its id is the server's.
    Health,
    /// An older copy of a container, on a node that it was moved off: to be removed there.
    Leftover,
    AlertRule,
    Alert,
    AlertChannel,
    AlertSilence,
    /// One word of an alert on its way to one channel.
    AlertDelivery,
    /// What an ACME server gave to a cluster, and how far an order is; its id is the cluster's.
    Certificate,
    /// Work of a compute cluster's queue; its parent is the cluster.
    Job,
}

impl Kind {
    pub const ALL: [Self; 22] = [
        Self::Container,
        Self::Node,
        Self::Operation,
        Self::Registry,
        Self::JoinToken,
        Self::Setting,
        Self::Cluster,
        Self::Server,
        Self::Provider,
        Self::Instance,
        Self::BackupConfig,
        Self::Backup,
        Self::Deployment,
        Self::Health,
        Self::Leftover,
        Self::AlertRule,
        Self::Alert,
        Self::AlertChannel,
        Self::AlertSilence,
        Self::AlertDelivery,
        Self::Certificate,
        Self::Job,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Node => "node",
            Self::Operation => "operation",
            Self::Registry => "registry",
            Self::JoinToken => "joinToken",
            Self::Setting => "setting",
            Self::Cluster => "cluster",
            Self::Server => "server",
            Self::Provider => "provider",
            Self::Instance => "instance",
            Self::BackupConfig => "backupConfig",
            Self::Backup => "backup",
            Self::Deployment => "deployment",
            Self::Health => "health",
            Self::Leftover => "leftover",
            Self::AlertRule => "alertRule",
            Self::Alert => "alert",
            Self::AlertChannel => "alertChannel",
            Self::AlertSilence => "alertSilence",
            Self::AlertDelivery => "alertDelivery",
            Self::Certificate => "certificate",
            Self::Job => "job",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a change is about: a resource, or one of the rows that sign people in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    Resource(Kind),
    User,
    /// A signed-in session.
    Session,
    /// An API token.
    Token,
    /// What happened on a node, under the node's id.
    NodeEvents,
    /// What happened to a cluster, under the cluster's id.
    ClusterEvents,
}

impl Subject {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resource(kind) => kind.as_str(),
            Self::User => "user",
            Self::Session => "session",
            Self::Token => "token",
            Self::NodeEvents => "nodeEvents",
            Self::ClusterEvents => "clusterEvents",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "user" => Some(Self::User),
            "session" => Some(Self::Session),
            "token" => Some(Self::Token),
            "nodeEvents" => Some(Self::NodeEvents),
            "clusterEvents" => Some(Self::ClusterEvents),
            _ => Kind::parse(text).map(Self::Resource),
        }
    }
}

impl From<Kind> for Subject {
    fn from(kind: Kind) -> Self {
        Self::Resource(kind)
    }
}

impl PartialEq<Kind> for Subject {
    fn eq(&self, kind: &Kind) -> bool {
        *self == Self::Resource(*kind)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    Created,
    /// A user's wish changed: spec, name, secret; of a user, session or token: what it may do, its end included.
    Updated,
    /// Only what was seen changed: a status, a rotated session.
    Status,
    Deleted,
}

impl What {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Status => "status",
            Self::Deleted => "deleted",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Created, Self::Updated, Self::Status, Self::Deleted]
            .into_iter()
            .find(|w| w.as_str() == text)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One committed change. Revisions grow with each change in the order of the commits; some numbers may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub revision: i64,
    pub subject: Subject,
    pub id: Arc<str>,
    /// The name of the thing, where it has one; a deleted thing's last name.
    pub name: Arc<str>,
    pub what: What,
    /// The moment of the transaction.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read_back() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
            assert_eq!(Subject::parse(kind.as_str()), Some(Subject::Resource(kind)));
        }
        for subject in [
            Subject::User,
            Subject::Session,
            Subject::Token,
            Subject::NodeEvents,
            Subject::ClusterEvents,
        ] {
            assert_eq!(Subject::parse(subject.as_str()), Some(subject));
        }
        for what in [What::Created, What::Updated, What::Status, What::Deleted] {
            assert_eq!(What::parse(what.as_str()), Some(what));
        }
        assert_eq!(Kind::parse("user"), None);
    }
}
