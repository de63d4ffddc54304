//! Whether what is asked of an ACME server can be.

use super::client::trusted;
use super::rows::{directory, hmac_key};
use crate::api::error::{ApiError, ApiResult};
use crate::service::clusters::{ClusterRow, Clusters};
use http::StatusCode;
use nm_types::cluster::ClusterAcme;
use reqwest::Url;

impl Clusters {
    /// Refuses a server that the policy for outgoing connections keeps us from. A name that leads nowhere now may lead somewhere later:
    /// it is judged again with each connection.
    pub(in crate::service::clusters) async fn judge_acme(&self, asked: &ClusterAcme, old: Option<&ClusterRow>) -> ApiResult<()> {
        if let Some(key) = asked.external_account.as_ref().and_then(|a| a.hmac_key.as_ref()) {
            hmac_key(key.expose())?;
        }
        if let Some(pem) = &asked.ca_certificate {
            trusted(pem.as_str()).map_err(|message| ApiError::invalid("tls.acme.caCertificate", message))?;
        }
        let place = directory(asked);
        let before = old.and_then(|row| row.stored.spec.tls.as_ref()?.acme.as_ref().map(directory));
        if before.is_some_and(|before| before == place) {
            return Ok(());
        }
        let field = "tls.acme.directory";
        let url = Url::parse(&place)
            .ok()
            .filter(|url| url.username().is_empty() && url.password().is_none());
        let Some((host, port)) = url.as_ref().and_then(|url| url.host_str().zip(url.port_or_known_default())) else {
            return Err(ApiError::invalid(
                field,
                "it is no URL of a server: write it as https://host/directory",
            ));
        };
        match self.guard.resolve(host, port).await {
            Err(error) if error.status == StatusCode::FORBIDDEN => Err(error.field(field)),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
