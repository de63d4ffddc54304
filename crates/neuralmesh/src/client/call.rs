//! One call of the API, as a value.

use http::{HeaderValue, Method};
use serde::Serialize;
use std::time::Duration;

/// The API itself waits up to 30 s before it answers 202.
const USUAL: Duration = Duration::from_secs(75);

/// A call: method, path below `/api`, query, body. Names in the path are encoded when it is sent.
#[derive(Clone)]
pub struct Call {
    pub(super) method: Method,
    pub(super) segments: Vec<String>,
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Option<Vec<u8>>,
    pub(super) timeout: Duration,
    pub(super) idempotency_key: Option<String>,
    pub(super) headers: Vec<(&'static str, HeaderValue)>,
    pub(super) anonymous: bool,
}

/// Bodies may hold passwords: what is printed is where the call goes.
impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.segments.join("/"))
    }
}

impl Call {
    fn new(method: Method, path: &[&str]) -> Self {
        let segments = std::iter::once("api").chain(path.iter().copied()).map(str::to_owned).collect();
        Self {
            method,
            segments,
            query: Vec::new(),
            body: None,
            timeout: USUAL,
            idempotency_key: None,
            headers: Vec::new(),
            anonymous: false,
        }
    }
    pub fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path)
    }
    pub fn put(path: &[&str]) -> Self {
        Self::new(Method::PUT, path)
    }
    pub fn patch(path: &[&str]) -> Self {
        Self::new(Method::PATCH, path)
    }
    pub fn delete(path: &[&str]) -> Self {
        Self::new(Method::DELETE, path)
    }
    /// A POST that does something to what is there.
    pub fn post(path: &[&str]) -> Self {
        Self::new(Method::POST, path)
    }
    /// A POST that makes something: it carries a random `Idempotency-Key`, so that it can be repeated when its answer is lost.
    pub fn create(path: &[&str]) -> Self {
        let mut random = [0u8; 16];
        let mut call = Self::new(Method::POST, path);
        // Without randomness the call is still right, it only can't be repeated.
        if getrandom::fill(&mut random).is_ok() {
            call.idempotency_key = Some(hex::encode(random));
        }
        call
    }
    /// A path outside `/api`: `/healthz`.
    pub fn root(path: &[&str]) -> Self {
        let mut call = Self::get(path);
        call.segments.remove(0);
        call.anonymous = true;
        call
    }

    pub fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.query.push((name.to_owned(), value.to_string()));
        self
    }
    pub fn query_opt<T: ToString>(self, name: &str, value: Option<T>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }
    /// `name=true`, or nothing.
    pub fn flag(self, name: &str, on: bool) -> Self {
        if on { self.query(name, true) } else { self }
    }
    /// A JSON body.
    pub fn json(mut self, body: &impl Serialize) -> Result<Self, serde_json::Error> {
        self.body = Some(serde_json::to_vec(body)?);
        Ok(self)
    }
    /// How long until it is given up.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
    /// Ask for the operation at once in place of waiting for its end.
    pub fn respond_async(mut self) -> Self {
        self.headers.push(("prefer", HeaderValue::from_static("respond-async")));
        self
    }
    /// Only when it is still what was read with that `ETag`.
    pub fn if_match(mut self, etag: Option<&str>) -> Self {
        if let Some(value) = etag.and_then(|e| HeaderValue::from_str(e).ok()) {
            self.headers.push(("if-match", value));
        }
        self
    }
    pub fn header(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
    /// Without a token.
    pub fn anonymous(mut self) -> Self {
        self.anonymous = true;
        self
    }

    /// Whether sending it twice does it once.
    pub(super) fn repeatable(&self) -> bool {
        self.method == Method::GET || self.idempotency_key.is_some()
    }
}
