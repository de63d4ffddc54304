//! An ACME server that does as it is told, for what Pebble can't: refuse with a limit, stop at a step, say what no server should.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rcgen::{CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

/// Where a request is stopped, or answered otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Directory,
    Account,
    Order,
    Authorization,
    Ready,
    Finalize,
    Certificate,
}

/// Status, body, headers.
type Instead = (u16, Value, Vec<(&'static str, String)>);

#[derive(Default)]
struct Inner {
    /// What is answered in place of what should be, until it is taken back.
    instead: HashMap<Step, Instead>,
    stopped: Option<Step>,
    status: &'static str,
    names: Vec<String>,
    signed: Vec<String>,
    accounts: usize,
    orders: usize,
    token: String,
}

/// Runs until it is dropped.
#[derive(Clone)]
pub struct AcmeServer {
    pub directory: String,
    pub ca: String,
    base: String,
    inner: Arc<Mutex<Inner>>,
    issuer: Arc<Issuer<'static, KeyPair>>,
    arrived: watch::Sender<Option<Step>>,
    pub go_on: Arc<Notify>,
}

impl AcmeServer {
    pub async fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate().unwrap();
        let shown = CertificateParams::new(vec!["127.0.0.1".to_owned()])
            .unwrap()
            .signed_by(&own, &issuer)
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![shown.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der())),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://{}", listener.local_addr().unwrap());
        let server = Self {
            directory: format!("{base}/dir"),
            ca,
            base,
            inner: Arc::new(Mutex::new(Inner {
                status: "pending",
                token: "token-1".into(),
                ..Inner::default()
            })),
            issuer: Arc::new(issuer),
            arrived: watch::Sender::new(None),
            go_on: Arc::default(),
        };
        let router = Router::new()
            .route("/dir", get(directory))
            .route("/nonce", get(|| async { reply(200, &json!({})) }))
            .route("/account", post(account))
            .route("/order", post(new_order))
            .route("/order/{n}", post(order))
            .route("/authorization", post(authorization))
            .route("/challenge", post(challenge))
            .route("/finalize", post(finalize))
            .route("/certificate", post(certificate))
            .with_state(server.clone());
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(async move {
            loop {
                let (plain, _) = listener.accept().await.unwrap();
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    // A client that does not trust it goes away, as it should.
                    let Ok(tls) = acceptor.accept(plain).await else { return };
                    let served = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let service = TowerToHyperService::new(router);
                    let _ended = served.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        server
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// From now on this is answered there.
    pub fn answers(&self, step: Step, status: u16, body: Value, headers: &[(&'static str, &str)]) {
        let headers = headers.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        self.lock().instead.insert(step, (status, body, headers));
    }
    pub fn well_again(&self) {
        self.lock().instead.clear();
    }
    /// The next request at this step waits for [`AcmeServer::go_on`].
    pub fn stop_at(&self, step: Step) {
        self.arrived.send_replace(None);
        self.lock().stopped = Some(step);
    }
    /// Once one has been stopped.
    pub async fn stopped(&self, step: Step) {
        let mut arrived = self.arrived.subscribe();
        nm_testing::soon(&format!("a request at {step:?}"), arrived.wait_for(|at| *at == Some(step)))
            .await
            .unwrap();
    }
    pub fn go_on(&self) {
        self.lock().stopped = None;
        self.go_on.notify_waiters();
    }
    pub fn is_stopped(&self) -> bool {
        self.arrived.borrow().is_some()
    }
    pub fn token_is(&self, token: &str) {
        self.lock().token = token.into();
    }
    pub fn orders(&self) -> usize {
        self.lock().orders
    }
    pub fn accounts(&self) -> usize {
        self.lock().accounts
    }
    pub fn signed(&self) -> usize {
        self.lock().signed.len()
    }

    async fn step(&self, step: Step) -> Result<(), Response<Body>> {
        let stopped = self.lock().stopped == Some(step);
        if stopped {
            let go_on = self.go_on.notified();
            self.arrived.send_replace(Some(step));
            go_on.await;
        }
        match self.lock().instead.get(&step) {
            None => Ok(()),
            Some((status, body, headers)) => {
                let mut answer = reply(*status, body);
                for (name, value) in headers {
                    answer.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
                }
                Err(answer)
            }
        }
    }

    fn order_now(&self) -> Value {
        let (base, inner) = (&self.base, self.lock());
        let mut order = json!({
            "status": inner.status, "authorizations": [format!("{base}/authorization")], "finalize": format!("{base}/finalize"),
        });
        if inner.status == "valid" {
            order["certificate"] = format!("{base}/certificate").into();
        }
        order
    }
}

fn reply(status: u16, body: &Value) -> Response<Body> {
    let kind = if status >= 400 {
        "application/problem+json"
    } else {
        "application/json"
    };
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .header("content-type", kind)
        .header("replay-nonce", "a-nonce")
        .body(Body::from(body.to_string()))
        .unwrap()
}

fn at(mut answer: Response<Body>, place: String) -> Response<Body> {
    answer.headers_mut().insert("location", HeaderValue::from_str(&place).unwrap());
    answer
}

/// What is inside a signed request.
fn payload(body: &Bytes) -> Value {
    let signed: Value = serde_json::from_slice(body).unwrap();
    let inside = URL_SAFE_NO_PAD.decode(signed["payload"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&inside).unwrap_or_default()
}

type Answer = Result<Response<Body>, Response<Body>>;

async fn directory(State(server): State<AcmeServer>) -> Answer {
    server.step(Step::Directory).await?;
    let base = &server.base;
    Ok(reply(
        200,
        &json!({ "newNonce": format!("{base}/nonce"), "newAccount": format!("{base}/account"), "newOrder": format!("{base}/order") }),
    ))
}

async fn account(State(server): State<AcmeServer>, Json(_): Json<Value>) -> Answer {
    server.step(Step::Account).await?;
    server.lock().accounts += 1;
    Ok(at(reply(201, &json!({ "status": "valid" })), format!("{}/account/1", server.base)))
}

async fn new_order(State(server): State<AcmeServer>, body: Bytes) -> Answer {
    server.step(Step::Order).await?;
    let names = payload(&body)["identifiers"].as_array().unwrap().clone();
    let n = {
        let mut inner = server.lock();
        inner.orders += 1;
        inner.status = "pending";
        inner.names = names.iter().map(|n| n["value"].as_str().unwrap().to_owned()).collect();
        inner.orders
    };
    Ok(at(reply(201, &server.order_now()), format!("{}/order/{n}", server.base)))
}

async fn order(State(server): State<AcmeServer>, Path(_): Path<usize>) -> Answer {
    Ok(reply(200, &server.order_now()))
}

async fn authorization(State(server): State<AcmeServer>) -> Answer {
    server.step(Step::Authorization).await?;
    let inner = server.lock();
    let status = if inner.status == "pending" { "pending" } else { "valid" };
    Ok(reply(
        200,
        &json!({
            "status": status, "identifier": { "type": "dns", "value": inner.names[0] },
            "challenges": [
                { "type": "dns-01", "url": "https://nowhere.invalid", "token": "other", "status": status },
                { "type": "http-01", "url": format!("{}/challenge", server.base), "token": inner.token, "status": status },
            ],
        }),
    ))
}

async fn challenge(State(server): State<AcmeServer>) -> Answer {
    server.step(Step::Ready).await?;
    let mut inner = server.lock();
    inner.status = "ready";
    Ok(reply(
        200,
        &json!({ "type": "http-01", "url": format!("{}/challenge", server.base), "token": inner.token, "status": "processing" }),
    ))
}

async fn finalize(State(server): State<AcmeServer>, body: Bytes) -> Answer {
    let csr = URL_SAFE_NO_PAD.decode(payload(&body)["csr"].as_str().unwrap()).unwrap();
    let mut csr = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).unwrap();
    let now = time::OffsetDateTime::now_utc();
    (csr.params.not_before, csr.params.not_after) = (now, now + Duration::from_secs(90 * 86_400));
    let signed = csr.signed_by(&server.issuer).unwrap().pem();
    {
        let mut inner = server.lock();
        inner.status = "valid";
        inner.signed.push(signed);
    }
    // Signed, whether or not anybody hears of it.
    server.step(Step::Finalize).await?;
    Ok(reply(200, &server.order_now()))
}

async fn certificate(State(server): State<AcmeServer>) -> Answer {
    server.step(Step::Certificate).await?;
    let chain = server.lock().signed.last().unwrap().clone();
    let mut answer = reply(200, &json!({}));
    answer
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/pem-certificate-chain"));
    *answer.body_mut() = Body::from(chain);
    Ok(answer)
}
