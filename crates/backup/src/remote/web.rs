//! HTTP, and restic's REST protocol on it: over the network, or over a Unix socket of the agent.

use super::{Objects, address::judge, is_name};
use crate::failure::{Result, failed};
use bytes::Bytes;
use nm_types::backup::job::{Hidden, JobErrorCode};
use reqwest::{
    Method, StatusCode, Url,
    blocking::{Client, ClientBuilder, Request, Response},
    header::{ACCEPT, CONTENT_LENGTH, HeaderMap, HeaderValue, RANGE},
    redirect::Policy,
};
use serde::Deserialize;
use std::{
    io::{self, ErrorKind as Io, Read},
    path::Path,
    thread,
    time::Duration,
};

/// A pack of 64 MiB at 1 Mbit/s takes so long.
const ANSWER: Duration = Duration::from_secs(10 * 60);
const CONNECT: Duration = Duration::from_secs(10);
/// What was cut or is busy is asked again after these.
const AGAIN: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(8)];
/// The longest reason of a refusal that is read.
const REASON_AT_MOST: u64 = 1000;
pub const VERSION_2: &str = "application/vnd.x.restic.rest.v2";

fn builder() -> ClientBuilder {
    Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .timeout(ANSWER)
        .connect_timeout(CONNECT)
        .user_agent(concat!("neuralmesh/", env!("CARGO_PKG_VERSION")))
}

/// A client that reaches the host of `url` at addresses that were judged, and follows nothing from there.
pub fn client(url: &str, allow: &[String]) -> Result<(Client, Url)> {
    let wrong = |why: String| failed(JobErrorCode::Forbidden, format!("The destination {url} is wrong: {why}."));
    let parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
    if !matches!(parsed.scheme(), "http" | "https") || !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(wrong("it is http or https, without a user in it".into()));
    }
    let (Some(host), Some(port)) = (parsed.host_str(), parsed.port_or_known_default()) else {
        return Err(wrong("it has no host".into()));
    };
    let addresses = judge(host, port, allow)?;
    let client = builder()
        .resolve_to_addrs(host, &addresses)
        .build()
        .map_err(|error| failed(JobErrorCode::Internal, format!("HTTP can't be set up: {error}.")))?;
    Ok((client, parsed))
}

/// An answer to the end of its body.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    pub body: Bytes,
}

/// Sends what `make` makes until it is answered in whole, a few times at most. Everything that is asked here may be asked twice.
pub fn ask(client: &Client, make: impl Fn() -> reqwest::Result<Request>) -> io::Result<Answer> {
    ask_ours(client, make, |_| None)
}

/// `reason` reads why a request was refused, where the server says so in words.
fn ask_ours(
    client: &Client,
    make: impl Fn() -> reqwest::Result<Request>,
    reason: impl Fn(Response) -> Option<String>,
) -> io::Result<Answer> {
    let mut again = AGAIN.iter();
    loop {
        let failed = match client.execute(make().map_err(io::Error::other)?) {
            Ok(mut response) => match refusal(&response) {
                None => {
                    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
                    match response.bytes() {
                        Ok(body) => return Ok(Answer { status, headers, body }),
                        Err(error) => broken(&error),
                    }
                }
                Some((busy, error)) => {
                    let error = match reason(response) {
                        Some(reason) => io::Error::new(error.kind(), reason),
                        None => error,
                    };
                    if !busy {
                        return Err(error);
                    }
                    error
                }
            },
            Err(error) => broken(&error),
        };
        match again.next() {
            Some(wait) => thread::sleep(*wait),
            None => return Err(failed),
        }
    }
}

fn broken(error: &reqwest::Error) -> io::Error {
    io::Error::new(if error.is_timeout() { Io::TimedOut } else { Io::ConnectionAborted }, words(error))
}

/// The innermost cause says what happened; the address may hold a signature, and is left out.
fn words(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if std::ptr::addr_eq(cause, error) {
        "the request failed".into()
    } else {
        cause.to_string()
    }
}

/// Whether it may go better the next time, and what it is.
fn refusal(response: &Response) -> Option<(bool, io::Error)> {
    let status = response.status();
    if status.is_success() {
        return None;
    }
    let (busy, kind) = match status {
        StatusCode::NOT_FOUND => (false, Io::NotFound),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (false, Io::PermissionDenied),
        StatusCode::INSUFFICIENT_STORAGE => (false, Io::StorageFull),
        StatusCode::TOO_MANY_REQUESTS => (true, Io::ResourceBusy),
        other if other.is_server_error() => (true, Io::ResourceBusy),
        _ => (false, Io::Other),
    };
    let words = if status.is_redirection() {
        format!("it answers {status} and sends us elsewhere, which is not followed")
    } else {
        format!("it answers {status}")
    };
    Some((busy, io::Error::new(kind, words)))
}

impl Answer {
    /// The part of a body that was asked for, of a server that may not know parts.
    pub fn part(self, range: Option<(u32, u32)>) -> Bytes {
        match range {
            Some((offset, length)) if self.status != StatusCode::PARTIAL_CONTENT => {
                let from = (offset as usize).min(self.body.len());
                self.body.slice(from..(from + length as usize).min(self.body.len()))
            }
            _ => self.body,
        }
    }

    /// Of a HEAD: what it would send, which is not what it does.
    pub fn length(&self) -> Option<u64> {
        self.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }
}

pub fn range_header((offset, length): (u32, u32)) -> io::Result<HeaderValue> {
    let last = u64::from(offset) + u64::from(length) - 1;
    HeaderValue::from_str(&format!("bytes={offset}-{last}")).map_err(io::Error::other)
}

#[derive(Debug)]
pub struct Rest {
    client: Client,
    base: Url,
    name: String,
    login: Option<(String, Hidden)>,
    /// It is the server of another node's agent.
    ours: bool,
}

/// What our own server says of a refusal.
fn reason(response: Response) -> Option<String> {
    let mut text = String::new();
    response.take(REASON_AT_MOST).read_to_string(&mut text).ok()?;
    let text = text.trim().trim_end_matches('.');
    (!text.is_empty()).then(|| text.to_owned())
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    size: u64,
}

impl Rest {
    pub fn over_network(url: &str, user: Option<&str>, password: Option<&Hidden>, allow: &[String]) -> Result<Self> {
        let (client, base) = client(url, allow)?;
        Ok(Self {
            client,
            name: format!("rest:{base}"),
            base,
            login: user.map(|user| (user.to_owned(), password.cloned().unwrap_or_else(|| Hidden(String::new())))),
            ours: false,
        })
    }

    pub fn over_socket(socket: &str, name: &str) -> Result<Self> {
        let wrong = |error: &dyn std::fmt::Display| failed(JobErrorCode::Internal, format!("HTTP can't be set up: {error}."));
        let client = builder().unix_socket(Path::new(socket)).build().map_err(|error| wrong(&error))?;
        Ok(Self {
            client,
            name: name.to_owned(),
            base: Url::parse("http://node/").map_err(|error| wrong(&error))?,
            login: None,
            ours: true,
        })
    }

    fn url(&self, folder: &str, name: &str) -> io::Result<Url> {
        let path = if folder.is_empty() {
            name.to_owned()
        } else {
            format!("{folder}/{name}")
        };
        self.base.join(&path).map_err(io::Error::other)
    }

    fn ask(&self, method: &Method, url: &Url, range: Option<(u32, u32)>, bytes: Option<&Bytes>) -> io::Result<Answer> {
        let range = range.map(range_header).transpose()?;
        let make = || {
            let mut request = self.client.request(method.clone(), url.clone()).header(ACCEPT, VERSION_2);
            if let Some((user, password)) = &self.login {
                request = request.basic_auth(user, Some(&password.0));
            }
            if let Some(range) = &range {
                request = request.header(RANGE, range);
            }
            if let Some(bytes) = bytes {
                request = request.body(bytes.clone());
            }
            request.build()
        };
        if self.ours {
            ask_ours(&self.client, make, reason)
        } else {
            ask(&self.client, make)
        }
    }
}

impl Objects for Rest {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let bytes = self.ask(&Method::GET, &self.url(folder, "")?, None, None)?.body;
        if let Ok(listed) = serde_json::from_slice::<Vec<Listed>>(&bytes) {
            return Ok(listed.into_iter().map(|file| (file.name, file.size)).collect());
        }
        // Version 1 has names alone.
        let names: Vec<String> = serde_json::from_slice(&bytes)?;
        names
            .into_iter()
            .filter(|name| is_name(name))
            .map(|name| {
                let response = self.ask(&Method::HEAD, &self.url(folder, &name)?, None, None)?;
                Ok((name, length(&response)?))
            })
            .collect()
    }

    fn get(&self, folder: &str, name: &str, range: Option<(u32, u32)>) -> io::Result<Bytes> {
        Ok(self.ask(&Method::GET, &self.url(folder, name)?, range, None)?.part(range))
    }

    fn put(&self, folder: &str, name: &str, bytes: Bytes) -> io::Result<()> {
        self.ask(&Method::POST, &self.url(folder, name)?, None, Some(&bytes)).map(drop)
    }

    fn delete(&self, folder: &str, name: &str) -> io::Result<()> {
        self.ask(&Method::DELETE, &self.url(folder, name)?, None, None).map(drop)
    }

    fn create(&self) -> io::Result<()> {
        let mut url = self.base.clone();
        url.set_query(Some("create=true"));
        self.ask(&Method::POST, &url, None, Some(&Bytes::new())).map(drop)
    }

    /// restic's protocol knows the files of a repository alone; our own server has one more.
    fn takes_notes(&self) -> bool {
        self.ours
    }

    fn config(&self) -> io::Result<Option<u64>> {
        match self.ask(&Method::HEAD, &self.url("", "config")?, None, None) {
            Ok(response) => length(&response).map(Some),
            Err(error) if error.kind() == Io::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn length(answer: &Answer) -> io::Result<u64> {
    answer
        .length()
        .ok_or_else(|| io::Error::new(Io::InvalidData, "it does not say how long a file is"))
}
