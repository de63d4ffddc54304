//! The ports a control plane here would take, and the control plane that commands go to.

use super::{Finding, Verdict};
use crate::client::error::{SignedInBy, Unreached};
use crate::client::{Call, ClientError, now};
use crate::context::Context;
use crate::output::human;
use nm_types::Timestamp;
use nm_types::auth::UserView;
use serde::Deserialize;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

const SHORT: Duration = Duration::from_secs(5);
/// The server's `Date` has whole seconds, and the answer takes its time.
const SLACK: i64 = 3_000;
/// Tokens and certificates begin to fail somewhere above this.
const TOO_FAR: i64 = 60_000;

#[derive(Deserialize)]
struct Info {
    version: String,
}

/// Whether the ports are free, or taken by a control plane of ours.
pub async fn ports(api: SocketAddr, agents: SocketAddr) -> Vec<Finding> {
    let ours = speaks_our_api(api).await;
    let mut out = Vec::new();
    for (check, address, option) in [("API port", api, "--listen"), ("agent port", agents, "--agent-listen")] {
        out.push(match TcpListener::bind(address).await {
            Ok(_) => Finding::ok(check, format!("{address} is free")),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && ours => {
                Finding::ok(check, format!("{address} is taken by a control plane that runs here"))
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                let port = address.port();
                Finding::fail(
                    check,
                    format!("{address} is taken by another program"),
                    format!("Find it with `ss -ltnp 'sport = :{port}'` and stop it, or choose another address with {option}."),
                )
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Finding::fail(
                check,
                format!("{address} is not yours to listen on"),
                format!("Run as root, or choose a port above 1023 with {option}."),
            ),
            Err(e) => Finding::fail(
                check,
                format!("{address} can't be listened on: {e}"),
                format!("Choose an address of this machine with {option}."),
            ),
        });
    }
    out
}

async fn speaks_our_api(address: SocketAddr) -> bool {
    let host = if address.ip().is_unspecified() {
        SocketAddr::from(([127, 0, 0, 1], address.port()))
    } else {
        address
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(SHORT)
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let Ok(client) = client else { return false };
    // A call without a token is refused in our own words.
    let Ok(response) = client.get(format!("http://{host}/api/system/info")).send().await else {
        return false;
    };
    let Ok(body) = response.bytes().await else { return false };
    serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|body| body.get("success").is_some_and(serde_json::Value::is_boolean))
}

/// Whether the control plane is reachable, agrees on the time, speaks our version, and knows us.
pub async fn control_plane(cx: &Context) -> Vec<Finding> {
    let check = "control plane";
    let server = cx.client.server();
    let asked = now();
    let (status, headers) = match cx.client.probe(Call::root(&["healthz"]).timeout(SHORT)).await {
        Ok(answer) => answer,
        Err(e) => {
            let fix = match &e {
                ClientError::Unreachable {
                    cause: Unreached::Refused, ..
                } => "Start one with `neuralmesh up`, or name another with --server-url or NEURALMESH_SERVER.",
                _ => "Check the URL and the network between.",
            };
            // A machine that is being set up has no control plane yet.
            let finding = if server.is_loopback() {
                Finding::warn(check, e.to_string(), fix)
            } else {
                Finding::fail(check, e.to_string(), fix)
            };
            return vec![finding];
        }
    };
    let answered = now();
    let mut out = Vec::new();
    if !status.is_success() {
        out.push(Finding::fail(
            check,
            format!("{server} answers {status}"),
            "See its log; `neuralmesh server` says why it is not well.",
        ));
        return out;
    }
    let date = headers.get("date").and_then(|v| v.to_str().ok());
    let theirs = date
        .and_then(|d| jiff::fmt::rfc2822::parse(d).ok())
        .map(|z| Timestamp::from_millis(z.timestamp().as_millisecond()));
    let me = cx.client.fetch::<UserView>(Call::get(&["auth", "me"]).timeout(SHORT)).await;
    let info = match &me {
        Ok(_) => cx.client.fetch::<Info>(Call::get(&["system", "info"]).timeout(SHORT)).await.ok(),
        Err(_) => None,
    };
    out.push(match info {
        Some(info) if info.value.version != env!("CARGO_PKG_VERSION") => Finding::warn(
            check,
            format!(
                "{server} runs version {}, this program is {}",
                info.value.version,
                env!("CARGO_PKG_VERSION")
            ),
            "Bring both to the same version.",
        ),
        Some(info) => Finding::ok(check, format!("{server} answers, version {}", info.value.version)),
        None => Finding::ok(check, format!("{server} answers")),
    });
    if server.is_plain() {
        out.push(Finding::warn(
            "encryption",
            format!("{server} is not encrypted"),
            "Put a proxy with TLS before it, and use its https:// address.",
        ));
    }
    out.extend(theirs.map(|theirs| clock(theirs, asked, answered)));
    out.push(login(me, cx.client.session().origin(), server.to_string()));
    out
}

fn clock(theirs: Timestamp, asked: Timestamp, answered: Timestamp) -> Finding {
    let check = "clock";
    // Theirs was read some time between the two.
    let off = if theirs < asked {
        asked.since(theirs)
    } else {
        theirs.since(answered).max(0)
    };
    let fix = "Let both machines keep the time: sudo timedatectl set-ntp true";
    if off <= SLACK {
        return Finding::ok(check, "agrees with the control plane's");
    }
    let found = format!("differs from the control plane's by {}", human::span(off));
    if off > TOO_FAR {
        Finding::fail(check, found, fix)
    } else {
        Finding::warn(check, found, fix)
    }
}

fn login(me: Result<crate::client::Fetched<UserView>, ClientError>, by: SignedInBy, server: String) -> Finding {
    let check = "login";
    match me {
        Ok(me) => Finding::ok(check, format!("{} ({})", me.value.username, me.value.role.as_str())),
        Err(e) => {
            let fix = match by {
                SignedInBy::Environment | SignedInBy::File => "Make a new token: neuralmesh tokens create".to_owned(),
                SignedInBy::Login | SignedInBy::Nothing => format!("Sign in: neuralmesh login --server-url {server}"),
            };
            let mut finding = Finding::fail(check, e.to_string(), fix);
            if e.status() == Some(401) && by == SignedInBy::Login {
                finding.verdict = Verdict::Warn;
                finding.found = format!("you are not signed in at {server}");
            }
            finding
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_with_slack() {
        let at = Timestamp::from_millis;
        for (theirs, verdict) in [
            (100_000, Verdict::Ok),
            (98_000, Verdict::Ok),
            (101_500, Verdict::Ok),
            (90_000, Verdict::Warn),
            (120_000, Verdict::Warn),
            (10_000, Verdict::Fail),
            (1_000_000, Verdict::Fail),
        ] {
            assert_eq!(clock(at(theirs), at(100_000), at(101_000)).verdict, verdict, "{theirs}");
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_found() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        // It accepts nothing, so it can't be one of ours: the question runs into the other end's silence or a reset.
        drop(tokio::spawn(async move {
            while let Ok((stream, _)) = taken.accept().await {
                drop(stream);
            }
        }));
        let free = "127.0.0.1:0".parse().unwrap();
        let verdicts: Vec<_> = ports(address, free).await.into_iter().map(|f| f.verdict).collect();
        assert_eq!(verdicts, [Verdict::Fail, Verdict::Ok]);
    }
}
