//! The one way to the API: every command's every call goes through [`Client`], which adds the token, renews it when it
//! has ended, reads the envelope, pages through lists, and repeats what may be repeated when a connection breaks.

mod call;
pub mod credentials;
pub mod error;
mod operation;
mod session;
pub mod sse;
pub mod tls;
pub mod url;
mod websocket;

pub use call::Call;
pub use error::ClientError;
pub use operation::{Outcome, Watch, succeeded};
pub use session::{Credential, Session, now};
pub use url::ServerUrl;
pub use websocket::{Socket, SocketMessage, SocketSender};

use error::{Unreached, reason, unreached};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use nm_types::envelope::ErrorBody;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::path::Path;
use std::time::Duration;

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How often a repeatable call is sent in all when connections break.
const ATTEMPTS: u32 = 4;
/// The longest page the API gives.
const PAGE: usize = 200;

/// What one call answered.
#[derive(Debug)]
pub struct Fetched<T> {
    pub value: T,
    /// `data` as the server wrote it.
    pub raw: Box<RawValue>,
    pub etag: Option<String>,
}

/// What a list answered, all asked pages of it.
#[derive(Debug)]
pub struct Listed<T> {
    pub items: Vec<T>,
    /// Each item as the server wrote it.
    pub raw: Vec<Box<RawValue>>,
    /// Whether there is more than was asked for.
    pub more: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    success: bool,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    next_cursor: Option<String>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    envelope: Envelope,
}

/// A connection to one control plane, as one user.
#[derive(Debug)]
pub struct Client {
    server: ServerUrl,
    http: reqwest::Client,
    /// WebSockets begin as HTTP/1.1.
    http1: reqwest::Client,
    session: Session,
}

impl Client {
    /// Nothing is sent yet. `ca_file` names further authorities to trust.
    pub fn new(server: ServerUrl, credential: Credential, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let build = |http1: bool| -> anyhow::Result<reqwest::Client> {
            let mut builder = reqwest::Client::builder()
                .user_agent(concat!("neuralmesh/", env!("CARGO_PKG_VERSION")))
                .use_preconfigured_tls(tls::config(ca_file, http1)?)
                // A redirect is a wrong URL; following it could carry a token elsewhere.
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_DEADLINE)
                .tcp_keepalive(Duration::from_secs(20))
                .tcp_nodelay(true);
            if http1 {
                builder = builder.http1_only();
            }
            if server.is_loopback() {
                builder = builder.no_proxy();
            }
            Ok(builder.build()?)
        };
        Ok(Self {
            http: build(false)?,
            http1: build(true)?,
            session: Session::new(credential),
            server,
        })
    }

    pub fn server(&self) -> &ServerUrl {
        &self.server
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// One thing.
    pub async fn fetch<T: DeserializeOwned>(&self, call: Call) -> Result<Fetched<T>, ClientError> {
        let answer = self.exchange(&call).await?;
        self.fetched(answer)
    }

    /// A call whose answer says no more than that it was done.
    pub async fn done(&self, call: Call) -> Result<(), ClientError> {
        self.exchange(&call).await.map(drop)
    }

    /// All pages of a list, or the first `limit` items.
    pub async fn list<T: DeserializeOwned>(&self, call: Call, limit: Option<usize>) -> Result<Listed<T>, ClientError> {
        let mut listed = Listed {
            items: Vec::new(),
            raw: Vec::new(),
            more: false,
        };
        let mut cursor: Option<String> = None;
        loop {
            let page = limit.map_or(PAGE, |limit| (limit - listed.items.len()).min(PAGE));
            let answer = self
                .exchange(&call.clone().query("limit", page).query_opt("cursor", cursor.as_ref()))
                .await?;
            cursor.clone_from(&answer.envelope.next_cursor);
            let page: Fetched<Vec<Box<RawValue>>> = self.fetched(answer)?;
            for raw in page.value {
                listed.items.push(self.read(&raw)?);
                listed.raw.push(raw);
            }
            let full = limit.is_some_and(|limit| listed.items.len() >= limit);
            if cursor.is_none() || full {
                listed.more = cursor.is_some();
                return Ok(listed);
            }
        }
    }

    /// A list that is answered whole: samples of a container.
    pub async fn list_whole<T: DeserializeOwned>(&self, call: Call) -> Result<Listed<T>, ClientError> {
        let page: Fetched<Vec<Box<RawValue>>> = self.fetch(call).await?;
        let items = page.value.iter().map(|raw| self.read(raw)).collect::<Result<_, _>>()?;
        Ok(Listed {
            items,
            raw: page.value,
            more: false,
        })
    }

    /// A stream of events; `last_id` goes on after that one.
    pub async fn events(&self, call: Call, last_id: Option<&str>) -> Result<sse::Events, ClientError> {
        let mut call = call.header("accept", HeaderValue::from_static("text/event-stream"));
        if let Some(value) = last_id.and_then(|id| HeaderValue::from_str(id).ok()) {
            call = call.header("last-event-id", value);
        }
        let response = self.response(&call, None).await?;
        let kind = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            return Err(self.foreign(response.status(), response.headers()));
        }
        Ok(sse::Events::new(response, self.server.to_string()))
    }

    /// The bytes of an answer, as they come.
    pub async fn download(&self, call: Call) -> Result<reqwest::Response, ClientError> {
        self.response(&call, None).await
    }

    /// Sends a body as it is made. It can't be sent a second time, so nothing is repeated.
    pub async fn upload(&self, call: Call, content_type: &'static str, body: reqwest::Body) -> Result<(), ClientError> {
        let call = call.header("content-type", HeaderValue::from_static(content_type));
        let response = self.response(&call, Some(body)).await?;
        self.answer(response).await.map(drop)
    }

    /// The `Date` header of an answer of any status, and how long the answer took.
    pub async fn probe(&self, call: Call) -> Result<(StatusCode, HeaderMap), ClientError> {
        let response = self
            .request(&self.http, &call, None)
            .timeout(call.timeout)
            .send()
            .await
            .map_err(|e| self.transport(&call, &e))?;
        Ok((response.status(), response.headers().clone()))
    }

    fn fetched<T: DeserializeOwned>(&self, answer: Answer) -> Result<Fetched<T>, ClientError> {
        let etag = answer.headers.get(ETAG).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let raw = match answer.envelope.data {
            Some(raw) => raw,
            None => return Err(self.foreign(answer.status, &answer.headers)),
        };
        Ok(Fetched {
            value: self.read(&raw)?,
            raw,
            etag,
        })
    }

    fn read<T: DeserializeOwned>(&self, raw: &RawValue) -> Result<T, ClientError> {
        serde_json::from_str(raw.get()).map_err(|source| ClientError::Shape {
            server: self.server.to_string(),
            source,
        })
    }

    async fn exchange(&self, call: &Call) -> Result<Answer, ClientError> {
        let response = self.response(call, None).await?;
        self.answer(response).await
    }

    async fn answer(&self, response: reqwest::Response) -> Result<Answer, ClientError> {
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.map_err(|e| ClientError::Broken {
            server: self.server.to_string(),
            reason: reason(&e),
        })?;
        match serde_json::from_slice::<Envelope>(&bytes) {
            Ok(envelope) if envelope.success => Ok(Answer { status, headers, envelope }),
            _ => Err(self.foreign(status, &headers)),
        }
    }

    /// A good answer whose body is still to be read; anything else is an error. Renews the login where that helps, and
    /// repeats what may be repeated.
    async fn response(&self, call: &Call, body: Option<reqwest::Body>) -> Result<reqwest::Response, ClientError> {
        let once = body.is_some();
        let mut token = if call.anonymous { None } else { self.session.token(self).await? };
        let mut body = body;
        let mut attempt = 1;
        let mut renewed = false;
        loop {
            let mut request = self.request(&self.http, call, token.as_deref());
            // Streams have no end to wait for; their readers mind silence themselves.
            let streams = once
                || call
                    .headers
                    .iter()
                    .any(|(name, value)| *name == "accept" && value != "application/json");
            if !streams {
                request = request.timeout(call.timeout);
            }
            if let Some(body) = body.take() {
                request = request.body(body);
            }
            let sent = if streams && !once {
                let Ok(sent) = tokio::time::timeout(call.timeout, request.send()).await else {
                    return Err(ClientError::Timeout {
                        server: self.server.to_string(),
                        after: call.timeout,
                    });
                };
                sent
            } else {
                request.send().await
            };
            let response = match sent {
                Ok(response) => response,
                Err(e) => {
                    // Nobody listens there at all: say so now. Later refusals may be a restart.
                    let hopeless = (attempt == 1 && unreached(&e) == Unreached::Refused) || e.is_timeout() || e.is_builder();
                    if once || hopeless || attempt >= ATTEMPTS || !call.repeatable() {
                        return Err(self.transport(call, &e));
                    }
                    tokio::time::sleep(Duration::from_millis(250) * 2u32.pow(attempt - 1)).await;
                    attempt += 1;
                    continue;
                }
            };
            if response.status().is_success() {
                return Ok(response);
            }
            if response.status() == StatusCode::UNAUTHORIZED
                && !once
                && !renewed
                && let Some(old) = &token
                && let Some(new) = self.session.renew(self, old).await?
            {
                token = Some(new);
                // A second 401, with a fresh token, is final.
                renewed = true;
                continue;
            }
            return Err(self.refusal(response, token.is_some()).await);
        }
    }

    fn request(&self, http: &reqwest::Client, call: &Call, token: Option<&str>) -> reqwest::RequestBuilder {
        let mut url = self.server.join(&call.segments);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let mut request = http.request(call.method.clone(), url);
        if !call.headers.iter().any(|(name, _)| *name == "accept") {
            request = request.header(ACCEPT, "application/json");
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(key) = &call.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some(token) = token
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {token}"))
        {
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        request
    }

    fn transport(&self, call: &Call, error: &reqwest::Error) -> ClientError {
        let server = self.server.to_string();
        let cause = unreached(error);
        if error.is_connect() && error.is_timeout() {
            let reason = format!("no answer within {} seconds", CONNECT_DEADLINE.as_secs());
            return ClientError::Unreachable { server, reason, cause };
        }
        match cause {
            _ if error.is_timeout() => ClientError::Timeout {
                server,
                after: call.timeout,
            },
            Unreached::Refused => ClientError::Unreachable {
                server,
                reason: "connection refused".to_owned(),
                cause,
            },
            Unreached::Distrusted | Unreached::Other if error.is_connect() => ClientError::Unreachable {
                server,
                reason: reason(error),
                cause,
            },
            Unreached::Distrusted | Unreached::Other => ClientError::Broken {
                server,
                reason: reason(error),
            },
        }
    }

    async fn refusal(&self, response: reqwest::Response, with_token: bool) -> ClientError {
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = match response.bytes().await {
            Ok(bytes) => bytes,
            Err(e) => {
                return ClientError::Broken {
                    server: self.server.to_string(),
                    reason: reason(&e),
                };
            }
        };
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => ClientError::Refused {
                status: status.as_u16(),
                body: Box::new(body),
                retry_after: headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok()),
                signed_in_by: if with_token {
                    self.session.origin()
                } else {
                    error::SignedInBy::Nothing
                },
                server: self.server.to_string(),
            },
            Err(_) => self.foreign(status, &headers),
        }
    }

    fn foreign(&self, status: StatusCode, headers: &HeaderMap) -> ClientError {
        let redirect = headers
            .get(LOCATION)
            .filter(|_| status.is_redirection())
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        ClientError::Foreign {
            server: self.server.to_string(),
            status: status.as_u16(),
            redirect,
        }
    }
}
