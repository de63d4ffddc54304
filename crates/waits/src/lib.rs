//! How tests wait: for a condition, never for a time. And the ports they listen on.

use std::future::Future;
use std::net::{TcpListener, UdpSocket};
use std::sync::Mutex;
use std::time::Duration;

/// Long enough for the slowest machine; nothing waits for it when all is well.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until `condition` gives a value, at most [`DEADLINE`]. `what` says in the failure what did not come true.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    soon(what, async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(LOOK).await;
        }
    })
    .await
}

/// The value of `future`, or a failed test at the deadline.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// A TCP port of loopback that nobody has, and that nobody gets before it is listened on: it is from below those that the kernel gives
/// to connections, and a UDP socket on the same number, held until the process ends, keeps it from other tests.
pub fn free_port() -> u16 {
    static HELD: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let mut held = HELD.lock().unwrap_or_else(|e| panic!("{e}"));
    for port in 12_000..32_000 {
        let Ok(guard) = UdpSocket::bind(("127.0.0.1", port)) else {
            continue;
        };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            held.push(guard);
            return port;
        }
    }
    panic!("no port from 12000 to 32000 is free");
}
