//! A control plane, agents and adversaries for the tests of the link. Everything is real: sockets, TLS, HTTP/2.

#![expect(dead_code, reason = "each test file uses its own part of this")]

pub mod adversary;
pub mod control;
pub mod datagrams;
pub mod node;
pub mod proxy;

use std::time::Duration;

/// What nothing here should take: a condition that has not come true by then never will.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The value of `future`, or a failed test at the deadline.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}
