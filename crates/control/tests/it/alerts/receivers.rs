//! Those who are told: a web server and a mail server that remember what came, and answer as a test says.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use http::{HeaderMap, Method, StatusCode, Uri};
use nm_testing::eventually;
use serde_json::Value;
use sha2::Sha256;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// One request.
#[derive(Debug, Clone)]
pub struct Hit {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Hit {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no {name}: {self:?}"))
            .to_str()
            .unwrap()
    }
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
    pub fn delivery(&self) -> String {
        self.header("x-neuralmesh-delivery").to_owned()
    }
    pub fn event(&self) -> String {
        self.header("x-neuralmesh-event").to_owned()
    }
    /// Computes the signature as a receiver does, of the bytes that came.
    pub fn is_signed_with(&self, key: &str) -> bool {
        let (t, v1) = self.header("x-neuralmesh-signature").split_once(',').unwrap();
        let (seconds, v1) = (t.strip_prefix("t=").unwrap(), v1.strip_prefix("v1=").unwrap());
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
        mac.update(seconds.as_bytes());
        mac.update(b".");
        mac.update(&self.body);
        mac.verify_slice(&hex::decode(v1).unwrap()).is_ok()
    }
}

#[derive(Clone)]
struct Held {
    hits: Arc<Mutex<Vec<Hit>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    open: watch::Receiver<bool>,
}

type Answer = (u16, Vec<(&'static str, String)>, String);

/// A web server on loopback.
pub struct Receiver {
    pub url: String,
    held: Held,
    gate: watch::Sender<bool>,
}

async fn answer(State(held): State<Held>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    held.hits.lock().unwrap().push(Hit {
        method,
        path: uri.to_string(),
        headers,
        body,
    });
    let mut gate = held.open.clone();
    drop(gate.wait_for(|open| *open).await);
    let next = held.answers.lock().unwrap().pop_front();
    let (status, headers, body) = next.unwrap_or((200, Vec::new(), "{\"ok\":true}".into()));
    let mut response = body.into_response();
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let gate = watch::Sender::new(true);
        let held = Held {
            hits: Arc::default(),
            answers: Arc::default(),
            open: gate.subscribe(),
        };
        let router = Router::new().fallback(answer).with_state(held.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, held, gate }
    }

    /// What it answers next, before it is well again.
    pub fn answers(&self, answers: &[u16]) {
        for status in answers {
            self.answers_with(*status, &[], "");
        }
    }
    pub fn answers_with(&self, status: u16, headers: &[(&'static str, String)], body: &str) {
        self.held
            .answers
            .lock()
            .unwrap()
            .push_back((status, headers.to_vec(), body.to_owned()));
    }
    /// Takes requests, and answers none until [`Receiver::release`].
    pub fn hold(&self) {
        self.gate.send_replace(false);
    }
    pub fn release(&self) {
        self.gate.send_replace(true);
    }
    pub fn hits(&self) -> Vec<Hit> {
        self.held.hits.lock().unwrap().clone()
    }
    pub async fn until(&self, count: usize) -> Vec<Hit> {
        eventually(&format!("{count} requests have come"), async || {
            Some(self.hits()).filter(|hits| hits.len() >= count)
        })
        .await
    }
}

/// One mail, as it came.
#[derive(Debug, Clone, Default)]
pub struct Mail {
    pub hello: String,
    /// Username and password.
    pub login: Option<(String, String)>,
    pub from: String,
    pub to: Vec<String>,
    pub text: String,
}

/// A mail server on loopback that knows no encryption. It speaks as much of RFC 5321 and RFC 4954 as a client needs.
pub struct MailServer {
    pub port: u16,
    mails: Arc<Mutex<Vec<Mail>>>,
    /// Everything that any client said.
    said: Arc<Mutex<String>>,
    refusals: Arc<Mutex<VecDeque<&'static str>>>,
}

impl MailServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self {
            port,
            mails: Arc::default(),
            said: Arc::default(),
            refusals: Arc::default(),
        };
        let (mails, said, refusals) = (server.mails.clone(), server.said.clone(), server.refusals.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, mails.clone(), said.clone(), refusals.clone()));
            }
        });
        server
    }
    /// What the next message is refused with.
    pub fn refuses(&self, with: &'static str) {
        self.refusals.lock().unwrap().push_back(with);
    }
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }
    pub async fn until(&self, count: usize) -> Vec<Mail> {
        eventually(&format!("{count} mails have come"), async || {
            Some(self.mails.lock().unwrap().clone()).filter(|mails| mails.len() >= count)
        })
        .await
    }
}

async fn serve(
    stream: TcpStream,
    mails: Arc<Mutex<Vec<Mail>>>,
    said: Arc<Mutex<String>>,
    refusals: Arc<Mutex<VecDeque<&'static str>>>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut mail = Mail::default();
    write.write_all(b"220 mail.test ESMTP\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        said.lock().unwrap().push_str(&format!("{line}\n"));
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let reply = match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                mail.hello = rest.to_owned();
                "250-mail.test\r\n250-8BITMIME\r\n250 AUTH PLAIN"
            }
            "AUTH" => {
                let plain = STANDARD.decode(rest.strip_prefix("PLAIN ").unwrap()).unwrap();
                let mut parts = plain.split(|b| *b == 0).skip(1).map(|p| String::from_utf8(p.to_vec()).unwrap());
                mail.login = parts.next().zip(parts.next());
                if mail.login.as_ref().is_some_and(|(_, password)| password.contains("wrong")) {
                    "535 5.7.8 no such login"
                } else {
                    "235 2.7.0 welcome"
                }
            }
            "MAIL" => {
                mail.from = rest.to_owned();
                "250 ok"
            }
            "RCPT" => {
                mail.to.push(rest.to_owned());
                "250 ok"
            }
            "DATA" => {
                write.write_all(b"354 go on\r\n").await?;
                while let Some(line) = lines.next_line().await? {
                    if line == "." {
                        break;
                    }
                    mail.text.push_str(&format!("{line}\n"));
                }
                let refused = refusals.lock().unwrap().pop_front();
                if refused.is_none() {
                    mails.lock().unwrap().push(std::mem::take(&mut mail));
                }
                refused.unwrap_or("250 taken")
            }
            "QUIT" => {
                write.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "502 what?",
        };
        write.write_all(format!("{reply}\r\n").as_bytes()).await?;
    }
    Ok(())
}
