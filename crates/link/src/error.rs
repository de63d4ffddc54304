//! What can go wrong with a request to a node, and whether it may have reached the node.

use nm_types::NodeId;
use std::time::Duration;

/// Whether the node may have seen a request that failed. Only [`Delivery::NotSent`] makes a blind retry safe for a request
/// that is not idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The node's service did not begin to handle it.
    NotSent,
    /// It may have been handled, in part or in full.
    MayHaveBeenSent,
}

/// Why a request over a link has no response.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No link to the node now: the API's 503.
    #[error("node {node} is not connected")]
    NotConnected { node: NodeId },
    /// The link broke or was closed before the response began.
    #[error("the link to node {node} broke before it answered")]
    Closed {
        node: NodeId,
        delivery: Delivery,
        #[source]
        source: hyper::Error,
    },
    /// The link stands, and this one exchange failed: the node ended it, or the request's own body did.
    #[error("node {node} ended the request before it answered")]
    Aborted {
        node: NodeId,
        delivery: Delivery,
        #[source]
        source: hyper::Error,
    },
    /// The response did not begin in time. The node was told that nobody waits any more.
    #[error("node {node} did not answer within {after:?}")]
    Timeout { node: NodeId, after: Duration },
}

impl LinkError {
    pub fn node(&self) -> &NodeId {
        match self {
            Self::NotConnected { node } | Self::Closed { node, .. } | Self::Aborted { node, .. } | Self::Timeout { node, .. } => node,
        }
    }

    pub fn delivery(&self) -> Delivery {
        match self {
            Self::NotConnected { .. } => Delivery::NotSent,
            Self::Closed { delivery, .. } | Self::Aborted { delivery, .. } => *delivery,
            Self::Timeout { .. } => Delivery::MayHaveBeenSent,
        }
    }

    /// Whether the node was not reachable, rather than slow or unwilling.
    pub fn is_offline(&self) -> bool {
        matches!(self, Self::NotConnected { .. } | Self::Closed { .. })
    }

    pub(crate) fn from_hyper(node: NodeId, returned: bool, source: hyper::Error) -> Self {
        let h2 = std::error::Error::source(&source).and_then(|e| e.downcast_ref::<h2::Error>());
        // A remote GOAWAY reaches a stream only when the peer said that it did not process that stream (RFC 9113, 6.8), and
        // REFUSED_STREAM says the same of one (8.7).
        let unprocessed = h2.is_some_and(|e| e.is_remote() && (e.is_go_away() || e.reason() == Some(h2::Reason::REFUSED_STREAM)));
        let delivery = if returned || unprocessed {
            Delivery::NotSent
        } else {
            Delivery::MayHaveBeenSent
        };
        if !returned && h2.is_some_and(h2::Error::is_reset) {
            Self::Aborted { node, delivery, source }
        } else {
            Self::Closed { node, delivery, source }
        }
    }
}
