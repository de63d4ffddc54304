mod actor;
pub use actor::{Actor, Credential};
use crate::api::error::{ApiError, ApiResult};
use crate::service::clock::SharedClock;
pub enum Presented { Bearer(String), Ticket(String) }
#[derive(Debug, Clone)]
pub struct AuthConfig {}
pub struct Auth {}
impl Auth {
    pub fn new(_s: nm_store::Store, _c: SharedClock, _a: AuthConfig) -> Self { Self {} }
    pub async fn admit(&self, _p: Presented, _a: Option<std::net::IpAddr>) -> ApiResult<Actor> { Err(ApiError::internal()) }
    pub async fn ended(&self, _a: &Actor) { std::future::pending().await }
}
