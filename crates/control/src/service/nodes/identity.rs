//! Who a node is to the link: the certificate it was seen with, and whether it still counts.

use super::{NodeIdentity, NodeSpec, NodeState, Nodes};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use nm_store::{Kind, Patch};
use nm_types::NodeId;
use nm_types::node::NodeView;
use std::time::SystemTime;

impl Nodes {
    /// Whether a certificate of a node still counts; `None` where the node is not known here.
    pub fn accepts(&self, id: &NodeId, not_before: SystemTime) -> Option<bool> {
        self.read().get(id).map(|n| n.spec.accepts(not_before))
    }

    /// Every node with what was last known of its identity.
    pub fn identities(&self) -> Vec<(NodeId, Option<NodeIdentity>)> {
        self.read().iter().map(|(id, n)| (id.clone(), n.state.identity.clone())).collect()
    }
    pub fn identity(&self, id: &NodeId) -> Option<NodeIdentity> {
        self.read().get(id).and_then(|n| n.state.identity.clone())
    }

    /// A node showed its certificate, or said what it holds. Written only when it is news.
    pub async fn identity_seen(&self, id: &NodeId, seen: NodeIdentity) -> ApiResult<()> {
        let state = {
            let known = self.read();
            let Some(node) = known.get(id) else { return Ok(()) };
            if node.state.identity.as_ref() == Some(&seen) {
                return Ok(());
            }
            NodeState {
                identity: Some(seen.clone()),
                ..node.state.clone()
            }
        };
        self.write_state(id, &state).await?;
        if let Some(node) = self.write().get_mut(id) {
            node.state.identity = Some(seen);
        }
        Ok(())
    }

    /// No certificate of the node counts any more, and its link is closed. The node and its containers stay in the fleet, and it
    /// may join again as the same with a token made for it.
    pub async fn revoke(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<(NodeView, i64)> {
        let id = self.find(key)?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = tx
            .get(Kind::Node, id.as_str())
            .await?
            .ok_or_else(|| ApiError::not_found("node", key))?;
        let spec = NodeSpec {
            revoked: true,
            ..row.spec()?
        };
        tx.update(Kind::Node, id.as_str(), Patch::new().spec(&spec)?).await?;
        tx.audit(audit(actor, meta, "node.revoke", Some(id.as_str()), serde_json::json!({})))
            .await?;
        tx.commit().await?;
        self.refresh(id.as_str()).await?;
        self.fleet.links().close(&id);
        self.get(id.as_str())
    }

    /// Ends every connection of the node to this replica. One that may come back does so at once.
    pub fn close_links(&self, id: &NodeId) {
        self.fleet.links().close(id);
    }
}
