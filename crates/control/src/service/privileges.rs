//! Who may ask for more of a node than a container usually gets.
//!
//! It takes two: an admin who asks, and the node's own configuration that allows it, which its agent looks at. An operator gets no
//! such container, and does not enter one that an admin made: whoever is inside is as good as on the node.

use crate::api::error::{ApiError, ApiResult};
use crate::service::auth::Actor;
use crate::service::index::Record;
use nm_types::auth::Role;
use nm_types::container::ContainerSpec;

fn is_admin(actor: &Actor) -> bool {
    actor.may(Role::Admin, "containers", true)
}

/// 403 for a spec that asks for privileges on behalf of somebody else than an admin.
pub fn may_ask(actor: &Actor, spec: &ContainerSpec) -> ApiResult<()> {
    let asked = spec.privileges();
    if asked.is_empty() || is_admin(actor) {
        return Ok(());
    }
    let error = ApiError::forbidden(format!(
        "{} may be asked for by admins only: it opens the node to the container",
        asked.join(", ")
    ));
    Err(asked.into_iter().fold(error, ApiError::field))
}

/// 403 for going into a container with privileges, or taking something out of it or putting something in, for anybody but an
/// admin. What others started was never judged by us: it may have all of the node.
pub fn may_enter(actor: &Actor, record: &Record) -> ApiResult<()> {
    if is_admin(actor) {
        return Ok(());
    }
    let Some(spec) = record.wanted.spec.as_deref() else {
        return Err(ApiError::forbidden(format!(
            "container `{}` was not started by NeuralMesh: only admins may go into it, for it may have anything of the node",
            record.name()
        )));
    };
    let asked = spec.privileges();
    if asked.is_empty() {
        return Ok(());
    }
    Err(ApiError::forbidden(format!(
        "container `{}` has {}: only admins may go into it, for it opens the node to whoever is inside",
        record.name(),
        asked.join(", ")
    )))
}
