//! How ACME servers are spoken to: as the policy for outgoing connections allows, over TLS, with a deadline, and reading no more
//! of an answer than such a server says.

use crate::service::outbound::Guard;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// For one request and its answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// The largest answer, a chain of certificates, has some kilobytes.
const ANSWER_LIMIT: usize = 1 << 20;

/// Names lead only where the policy allows, and what was judged is what is connected to.
struct Judged(Guard);

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            // The connector puts the URL's own port in the place of this one.
            let address = guard.resolve(name.as_str(), 0).await?;
            Ok(Box::new(std::iter::once(address)) as Addrs)
        })
    }
}

/// Speaks to one ACME server. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    guard: Guard,
    http: reqwest::Client,
    asked: Arc<Mutex<Option<Duration>>>,
}

impl Client {
    /// `authorities` are whom to trust as the server, in PEM form; the public ones where it is left out.
    pub fn new(guard: &Guard, authorities: Option<&str>) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder()
            .use_rustls_tls()
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(DEADLINE)
            .dns_resolver(Arc::new(Judged(guard.clone())));
        if let Some(pem) = authorities {
            builder = builder.tls_built_in_root_certs(false);
            for certificate in trusted(pem)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let http = builder.build().map_err(|e| format!("TLS could not be set up: {}", innermost(&e)))?;
        Ok(Self {
            guard: guard.clone(),
            http,
            asked: Arc::default(),
        })
    }

    /// How long the server asked to be left alone, in its last refusal.
    pub fn asked_to_wait(&self) -> Option<Duration> {
        *self.asked.lock().unwrap_or_else(|e| e.into_inner())
    }

    async fn send(&self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, String> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|never| -> String { match never {} })?.to_bytes();
        let url = Url::parse(&parts.uri.to_string()).map_err(|_| "the ACME server names a URL that is none".to_owned())?;
        let place = url.host_str().unwrap_or_default().to_owned();
        if url.scheme() != "https" {
            return Err(format!("the ACME server sends us to {place} without TLS"));
        }
        // An address is not looked up, and so not judged on the way.
        let bare = place.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(&place);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            self.guard.check(ip).map_err(|e| e.message)?;
        }
        let is_get = parts.method == Method::GET;
        let mut answer = self
            .http
            .request(parts.method, url)
            .headers(parts.headers)
            .body(body)
            .send()
            .await
            .map_err(|e| format!("the ACME server at {place} can't be reached: {}", innermost(&e.without_url())))?;
        let status = answer.status();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            let asked = answer
                .headers()
                .get(header::RETRY_AFTER)
                .and_then(|v| v.to_str().ok())
                .and_then(retry_after);
            *self.asked.lock().unwrap_or_else(|e| e.into_inner()) = asked;
        }
        let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let explains = kind.is_some_and(|k| k.contains("json"));
        if status.is_redirection() || (!status.is_success() && (is_get || !explains)) {
            return Err(format!("the ACME server at {place} answers with status {}", status.as_u16()));
        }
        let mut reply = Response::new(());
        *reply.status_mut() = status;
        *reply.headers_mut() = std::mem::take(answer.headers_mut());
        let mut read = Vec::new();
        while let Some(piece) = answer
            .chunk()
            .await
            .map_err(|e| format!("the ACME server at {place} broke off: {}", innermost(&e.without_url())))?
        {
            if read.len() + piece.len() > ANSWER_LIMIT {
                return Err(format!("the ACME server at {place} says more than such a server has to say"));
            }
            read.extend_from_slice(&piece);
        }
        Ok(reply.map(|()| Full::new(Bytes::from(read))))
    }
}

impl HttpClient for Client {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            match client.send(request).await {
                Ok(answer) => Ok(BytesResponse::from(answer)),
                Err(reason) => Err(Error::Other(reason.into())),
            }
        })
    }
}

/// The certificates of a PEM text.
pub fn trusted(pem: &str) -> Result<Vec<reqwest::Certificate>, String> {
    let none = || "there is no certificate in PEM form in it".to_owned();
    match reqwest::Certificate::from_pem_bundle(pem.as_bytes()) {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) | Err(_) => Err(none()),
    }
}

/// Seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    let left = then.as_second().saturating_sub(jiff::Timestamp::now().as_second());
    Some(Duration::from_secs(u64::try_from(left).unwrap_or_default()))
}

/// What lies behind it all, in words.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    super::readable(&cause.to_string(), 300)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_until_a_date() {
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(retry_after(" 5 "), Some(Duration::from_secs(5)));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        let far = retry_after("Tue, 31 Dec 2199 23:59:59 GMT").unwrap();
        assert!(far > Duration::from_secs(365 * 86_400));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn whom_to_trust_is_read_or_refused() {
        let made = crate::service::clusters::tls::make(&[], nm_types::Timestamp(1_770_000_000_000)).unwrap();
        assert_eq!(trusted(&made.certificate).unwrap().len(), 1);
        assert_eq!(trusted(&format!("{0}{0}", made.certificate)).unwrap().len(), 2);
        assert!(trusted("hello").is_err() && trusted(&made.key).is_err());
    }
}
