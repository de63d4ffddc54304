//! Audit entries, made the same way everywhere: who, what, on what, from where, in which request.
//!
//! An entry goes into the transaction of the change it tells of ([`nm_store::Tx::audit`]), so that there is never one
//! without the other. `detail` names what was asked for and holds no secrets.

use crate::api::extract::Meta;
use crate::service::auth::Actor;
use nm_store::AuditEntry;
use serde_json::Value;

/// What entries say of callers who did not show who they are. No user may have this name.
pub const ANONYMOUS: &str = "anonymous";

/// An entry with outcome `ok`; set [`AuditEntry::outcome`] to an error's code where it failed. `action` is
/// `area.verb`, `container.create`.
pub fn audit(actor: &Actor, meta: &Meta, action: &str, target: Option<&str>, detail: Value) -> AuditEntry {
    entry(actor.label(), meta, action, target, detail)
}

/// As [`audit`], by somebody who is not signed in.
pub fn audit_anonymous(meta: &Meta, action: &str, target: Option<&str>, detail: Value) -> AuditEntry {
    entry(ANONYMOUS.into(), meta, action, target, detail)
}

fn entry(actor: String, meta: &Meta, action: &str, target: Option<&str>, detail: Value) -> AuditEntry {
    AuditEntry {
        target: target.map(str::to_owned),
        detail,
        request_id: Some(meta.request_id.clone()).filter(|id| !id.is_empty()),
        address: meta.address.map(|a| a.to_string()),
        ..AuditEntry::new(actor, action)
    }
}
