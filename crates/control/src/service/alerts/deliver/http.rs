//! A `POST` to where a user said.

use super::{Failure, is_private};
use crate::service::outbound::Guard;
use http::{HeaderMap, StatusCode, header};
use reqwest::Url;
use std::time::Duration;

/// For the whole of one attempt.
const DEADLINE: Duration = Duration::from_secs(10);
/// The most that is read of an answer.
const ANSWER_LIMIT: usize = 16 << 10;

/// What came back.
pub(super) struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        self.status.is_success()
    }

    /// Takes the pause that a receiver asks for in its own way, where it asks for one.
    pub fn telling(mut self, wait: impl Fn(&[u8]) -> Option<Duration>) -> Self {
        self.retry_after = wait(&self.body).or(self.retry_after);
        self
    }

    /// A status of success, or why not: `why` finds the receiver's own words, where they can be shown. Nothing else of an
    /// answer is, for it may come from a place that whoever reads it can't reach.
    pub fn must_succeed(self, why: impl Fn(&[u8]) -> Option<String>) -> Result<String, Failure> {
        if self.is_success() {
            return Ok(format!("the receiver answered {}", self.status.as_u16()));
        }
        let mut message = match self.status {
            status if status.is_redirection() => format!("the receiver answered {}: redirects are not followed", status.as_u16()),
            status => format!("the receiver answered {status}"),
        };
        if let Some(why) = why(&self.body) {
            message = format!("{message}: {why}");
        }
        Err(Failure {
            retry_after: self.retry_after,
            ..Failure::new(message)
        })
    }
}

fn parse(url: &str) -> Result<Url, Failure> {
    // The parser's words may quote the URL, which is a secret.
    Url::parse(url).map_err(|_| Failure::last("the channel's URL can't be read: change it"))
}

/// `base` with further parts of a path, each of which stays one part.
pub(super) fn below(base: &str, parts: &[&str]) -> Result<String, Failure> {
    let mut url = parse(base)?;
    match url.path_segments_mut() {
        Ok(mut path) => {
            path.pop_if_empty().extend(parts);
        }
        Err(()) => return Err(Failure::last("the channel's URL can't be read: change it")),
    }
    Ok(url.into())
}

pub(super) async fn post(guard: &Guard, url: &str, headers: HeaderMap, body: Vec<u8>) -> Result<Answer, Failure> {
    match tokio::time::timeout(DEADLINE, attempt(guard, parse(url)?, headers, body)).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::new(format!(
            "the receiver did not answer within {} seconds",
            DEADLINE.as_secs()
        ))),
    }
}

async fn attempt(guard: &Guard, url: Url, headers: HeaderMap, body: Vec<u8>) -> Result<Answer, Failure> {
    let (Some(host), Some(port)) = (url.host_str().map(str::to_owned), url.port_or_known_default()) else {
        return Err(Failure::last("the channel's URL names no host: change it"));
    };
    let address = guard.resolve(&host, port).await.map_err(|e| Failure::new(e.message))?;
    if url.scheme() != "https" && !is_private(address.ip()) {
        return Err(Failure::new("an http:// URL is sent to within private networks only: use https://"));
    }
    let client = reqwest::Client::builder()
        .user_agent(concat!("NeuralMesh/", env!("CARGO_PKG_VERSION")))
        // What was judged is what is connected to: no proxy of the environment, no second lookup, no redirect.
        .no_proxy()
        .resolve(&host, address)
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|e| Failure::new(format!("TLS could not be set up: {}", reason(e))))?;
    let mut response = client
        .post(url)
        .headers(headers)
        .body(body)
        .send()
        .await
        .map_err(|e| Failure::new(format!("the receiver could not be reached: {}", reason(e))))?;
    let status = response.status();
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|v| v.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let mut body = Vec::new();
    while body.len() < ANSWER_LIMIT {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_LIMIT - body.len())]),
            // The status has come: what the rest would have been matters little.
            Ok(None) | Err(_) => break,
        }
    }
    Ok(Answer { status, retry_after, body })
}

/// An error's innermost cause, without the URL, which may be a secret.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_path_stays_one() {
        for (base, want) in [
            ("https://api.telegram.org", "https://api.telegram.org/bot1:a%2F..%2Fb/sendMessage"),
            ("http://127.0.0.1:81/tg/", "http://127.0.0.1:81/tg/bot1:a%2F..%2Fb/sendMessage"),
        ] {
            assert_eq!(below(base, &["bot1:a/../b", "sendMessage"]).unwrap(), want);
        }
    }

    #[test]
    fn what_is_shown_of_an_answer() {
        let answer = |status: u16| Answer {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            body: b"the secrets of another place".to_vec(),
        };
        assert!(answer(204).must_succeed(|_| None).is_ok());
        let failed = |status| answer(status).must_succeed(|_| None).unwrap_err().message;
        assert_eq!(failed(404), "the receiver answered 404 Not Found");
        assert_eq!(failed(302), "the receiver answered 302: redirects are not followed");
        let waits = answer(429)
            .telling(|_| Some(Duration::from_secs(7)))
            .must_succeed(|_| Some("slow down".into()))
            .unwrap_err();
        assert_eq!(
            (waits.message.as_str(), waits.retry_after),
            (
                "the receiver answered 429 Too Many Requests: slow down",
                Some(Duration::from_secs(7))
            )
        );
    }
}
