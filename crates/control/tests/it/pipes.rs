//! Commands that are talked to without a terminal between.

use crate::manners::fleet;
use crate::running;
use nm_testing::Said;

/// The streams come apart, bytes pass as they are.
#[tokio::test]
async fn a_command_without_a_terminal() {
    let (_plane, _agent, api) = fleet().await;
    api.create(&running("web")).await;
    let call = api.get("/api/containers/web/terminal?command=cat&tty=false");
    let mut piped = call.terminal().await.unwrap();
    assert_eq!(piped.next().await, Said::Output(b"\x02[\"cat\"]".as_slice().into()));
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for _ in 0..5 {
        piped.send(&bytes).await;
    }
    piped.end_of_input().await;
    let mut echoed = Vec::new();
    let last = loop {
        match piped.next().await {
            Said::Output(data) if data[0] == 1 => echoed.extend_from_slice(&data[1..]),
            other => break other,
        }
    };
    assert_eq!((last, piped.next().await), (Said::Exit(0), Said::Closed));
    assert!(echoed == bytes.repeat(5), "{} bytes", echoed.len());
}

/// A parameter that stands twice is refused, as on every other route; only `command` may.
#[tokio::test]
async fn parameters_that_stand_twice() {
    let (_plane, _agent, api) = fleet().await;
    api.create(&running("web")).await;
    for (twice, field) in [
        ("rows=1&rows=2", "rows"),
        ("cols=1&cols=1", "cols"),
        ("user=a&user=b", "user"),
        ("tty=true&tty=false", "tty"),
        ("tty=maybe", "tty"),
    ] {
        let call = api.get(format!("/api/containers/web/terminal?{twice}"));
        call.terminal().await.unwrap_err().names(field);
    }
}
