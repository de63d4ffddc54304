//! What is fuzzed: each target takes any bytes and panics where something that must hold does not.
//!
//! `fuzz/` runs them with libFuzzer for as long as one likes; the tests below run what it found worth keeping (`fuzz/corpus`), and
//! bytes made from that by chance, each time.
//!
//! - `proxy_protocol`: a connection's first bytes
//! - `http1`, `http2`: a connection's bytes, to what a member receives; `wire` is a reader that takes nothing but one plain request
//! - `forwarded`: headers, from a client and from a trusted proxy
//! - `config`: a document, to routes and the choice of members

mod config;
mod forwarded;
mod proxy_protocol;
mod requests;
mod wire;

pub use config::config;
pub use forwarded::forwarded;
pub use proxy_protocol::proxy_protocol;
pub use requests::{http1, http2};

#[cfg(test)]
mod tests;

use crate::listener::Rules;
use nm_types::proxy::Listener;
use std::collections::BTreeMap;

/// A listener's rules; some trust 10.0.0.0/8 and fe80::/10.
fn rules(trusting: bool) -> Rules {
    let trusted = if trusting { r#"["10.0.0.0/8", "fe80::/10"]"# } else { "[]" };
    let text = format!(r#"{{"id": "a", "address": "127.0.0.1", "port": 1, "protocol": "http", "trustedAddresses": {trusted}}}"#);
    let listener: Listener = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}"));
    let whole = serde_json::from_str(r#"{"generation": 1, "listeners": [], "clusters": []}"#).unwrap_or_else(|e| panic!("{e}"));
    Rules::build(&listener, &whole, &BTreeMap::new(), None)
}
