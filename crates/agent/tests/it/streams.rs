//! Logs, commands, terminals, files, statistics.

use crate::support::{Lines, Rig, code, docker, key, need_docker, tar_of, untar};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use nm_link::contract::exec::Frame;
use nm_link::contract::{Action, AgentError, AgentErrorCode as Code, path};
use nm_types::container::{ExecResult, LogLine, LogStream};
use nm_types::stats::ContainerStats;
use nm_waits::{DEADLINE, eventually};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

async fn logs(rig: &Rig, id: &str, query: &str) -> Vec<LogLine> {
    let (status, body) = rig
        .send(Method::GET, &format!("{}?{query}", key(path::LOGS, id)), Body::empty())
        .await;
    assert_eq!(status, StatusCode::OK);
    Lines::new(body).all().await
}

fn text(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|l| l.line.as_str()).collect()
}

#[tokio::test]
async fn logs_are_lines_with_times_and_streams() {
    need_docker!();
    let rig = Rig::start().await;
    let script =
        "echo one; echo err >&2; sleep 0.2; printf 'a\\377b\\n'; head -c 100000 /dev/zero | tr '\\0' x; echo; echo last; printf unfinished";
    let (request, seen) = rig.sh("logs", script, json!({})).await;
    let id = request.id.as_str();
    docker(&["wait", &seen.docker_id]).await;
    let all = logs(&rig, id, "").await;
    assert_eq!(all.len(), 6);
    let out: Vec<_> = all
        .iter()
        .filter(|l| l.stream == LogStream::Stdout)
        .map(|l| l.line.clone())
        .collect();
    assert_eq!(
        (out[0].as_str(), out[1].as_str(), out[3].as_str(), out[4].as_str()),
        ("one", "a\u{fffd}b", "last", "unfinished")
    );
    assert_eq!(out[2].len(), 100_000, "a line longer than Docker's entries is one line");
    assert!(all.iter().all(|l| (crate_now() - l.time.as_millis()).abs() < 120_000));
    assert_eq!(text(&logs(&rig, id, "stderr=true").await), ["err"]);
    assert_eq!(text(&logs(&rig, id, "stdout=true&tail=2").await), ["last", "unfinished"]);
    assert_eq!(logs(&rig, id, "tail=0").await, []);
    let late = all.iter().find(|l| l.line == "last").unwrap().time;
    assert!(!text(&logs(&rig, id, &format!("since={}", late.as_millis())).await).contains(&"one"));
    assert!(text(&logs(&rig, id, &format!("until={}", late.as_millis() - 100)).await).contains(&"one"));
    assert_eq!(logs(&rig, id, &format!("until={}", late.as_millis() - 60_000)).await, []);
}

fn crate_now() -> i64 {
    i64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_millis(),
    )
    .unwrap()
}

#[tokio::test]
async fn a_log_is_followed_until_the_end() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, seen) = rig
        .sh(
            "follow",
            "echo begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo seen; sleep 1",
            json!({}),
        )
        .await;
    let (_, body) = rig
        .send(
            Method::GET,
            &format!("{}?follow=true", key(path::LOGS, request.id.as_str())),
            Body::empty(),
        )
        .await;
    let mut lines = Lines::new(body);
    assert_eq!(lines.next::<LogLine>().await.unwrap().line, "begun");
    docker(&["exec", &seen.docker_id, "touch", "/tmp/go"]).await;
    assert_eq!(lines.next::<LogLine>().await.unwrap().line, "seen");
    assert!(lines.next::<LogLine>().await.is_none());
}

#[tokio::test]
async fn a_terminals_log_is_lines_too() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, seen) = rig
        .sh("tty", "echo one; printf '\\001\\002two\\n'; printf '$ '", json!({"tty": true}))
        .await;
    docker(&["wait", &seen.docker_id]).await;
    assert_eq!(text(&logs(&rig, request.id.as_str(), "").await), ["one", "\u{1}\u{2}two", "$ "]);
}

#[tokio::test]
async fn megabytes_of_log_come_whole() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, seen) = rig
        .sh(
            "much",
            "yes 'a line of some length, to fill the log with something' | head -n 100000",
            json!({}),
        )
        .await;
    docker(&["wait", &seen.docker_id]).await;
    assert_eq!(logs(&rig, request.id.as_str(), "").await.len(), 100_000);
}

async fn exec(rig: &Rig, id: &str, command: Value) -> Result<ExecResult, AgentError> {
    rig.post(&key(path::EXEC, id), &json!({ "command": command })).await
}

#[tokio::test]
async fn commands_give_code_and_output() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, _) = rig.sh("exec", "sleep 1000", json!({})).await;
    let id = request.id.as_str();
    let r = exec(&rig, id, json!({"command": ["sh", "-c", "echo out; sleep 0.1; echo err >&2; sleep 0.1; echo $A $(pwd) $(id -u); exit 7"], "environment": {"A": "1"}, "workingDir": "/tmp", "user": "1000"})).await.unwrap();
    assert_eq!(
        (r.exit_code, r.stdout.as_str(), r.stderr.as_str(), r.output.as_str()),
        (Some(7), "out\n1 /tmp 1000\n", "err\n", "out\nerr\n1 /tmp 1000\n")
    );
    assert!(!r.timed_out && !r.truncated);
    // Nothing is read by a shell on the way.
    let words = ["echo", "$(touch /tmp/x)", "; rm -rf /", "`id`", "a\nb", "'\""];
    assert_eq!(
        exec(&rig, id, json!({ "command": words })).await.unwrap().stdout,
        format!("{}\n", words[1..].join(" "))
    );
    let r = exec(&rig, id, json!({"command": ["head", "-c", "3000000", "/dev/zero"]}))
        .await
        .unwrap();
    assert_eq!((r.stdout.len(), r.truncated, r.exit_code), (1 << 20, true, Some(0)));
    // What goes on in the background does not keep the answer back.
    let began = Instant::now();
    let r = exec(&rig, id, json!({"command": ["sh", "-c", "sleep 20 & echo begun"]}))
        .await
        .unwrap();
    assert_eq!((r.exit_code, r.stdout.as_str()), (Some(0), "begun\n"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    for (command, field) in [
        (json!({"command": ["nosuch"]}), "command"),
        (json!({"command": ["ls"], "workingDir": "/nosuch"}), "workingDir"),
        (json!({"command": ["ls"], "user": "nosuch"}), "user"),
    ] {
        let error = exec(&rig, id, command).await.unwrap_err();
        assert_eq!(
            (error.code, error.field.as_deref()),
            (Code::CommandFailed, Some(field)),
            "{}",
            error.message
        );
    }
    assert_eq!(code(exec(&rig, id, json!({"command": []})).await), Code::Invalid);
    rig.command(id, 1, Action::Pause).await.unwrap();
    assert_eq!(code(exec(&rig, id, json!({"command": ["ls"]})).await), Code::Paused);
    rig.command(id, 1, Action::Unpause).await.unwrap();
    rig.command(id, 1, Action::Stop { grace: Some(0) }).await.unwrap();
    assert_eq!(code(exec(&rig, id, json!({"command": ["ls"]})).await), Code::NotRunning);
}

async fn processes(docker_id: &str) -> String {
    docker(&["top", docker_id, "-eo", "pid,args"]).await
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_its_children() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, seen) = rig.sh("slow", "sleep 1000", json!({})).await;
    let began = Instant::now();
    let r = exec(
        &rig,
        request.id.as_str(),
        json!({"command": ["sh", "-c", "trap '' HUP TERM; echo begun; sleep 4711; echo no"], "timeout": 1}),
    )
    .await
    .unwrap();
    assert!(r.timed_out && r.exit_code.is_none() && r.stdout == "begun\n", "{r:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    eventually("the command's end", || async {
        (!processes(&seen.docker_id).await.contains("4711")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_command_nobody_waits_for_gets_a_hangup() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, seen) = rig.sh("left", "sleep 1000", json!({})).await;
    let call = tokio::spawn({
        let (router, id) = (rig.agent.router(), request.id.to_string());
        async move {
            let body = json!({"command": {"command": ["sleep", "4712"], "timeout": 100}}).to_string();
            let request = http::Request::post(key(path::EXEC, &id)).body(Body::from(body)).unwrap();
            tower::ServiceExt::oneshot(router, request).await
        }
    });
    eventually("the command", || async {
        processes(&seen.docker_id).await.contains("4712").then_some(())
    })
    .await;
    call.abort();
    eventually("the command's end", || async {
        (!processes(&seen.docker_id).await.contains("4712")).then_some(())
    })
    .await;
}

pub(crate) struct Terminal {
    input: mpsc::UnboundedSender<Bytes>,
    output: axum::body::BodyDataStream,
    buffer: BytesMut,
    seen: String,
}

impl Terminal {
    pub(crate) async fn open(rig: &Rig, id: &str, command: &[&str]) -> Self {
        Self::open_with(rig, id, command, true).await
    }

    async fn open_with(rig: &Rig, id: &str, command: &[&str], tty: bool) -> Self {
        let (input, received) = mpsc::unbounded_channel();
        let body = Body::from_stream(tokio_stream::wrappers::UnboundedReceiverStream::new(received).map(Ok::<_, std::io::Error>));
        let command: String = form_urlencoded::byte_serialize(serde_json::to_string(command).unwrap().as_bytes()).collect();
        let (status, output) = rig
            .send(
                Method::POST,
                &format!("{}?command={command}&rows=33&cols=111&tty={tty}", key(path::TERMINAL, id)),
                body,
            )
            .await;
        assert_eq!(status, StatusCode::OK);
        Self {
            input,
            output,
            buffer: BytesMut::new(),
            seen: String::new(),
        }
    }

    pub(crate) fn send(&self, frame: Frame) {
        // Cut in the middle: frames need not come whole.
        let wire = frame.encode();
        let half = wire.len() / 2;
        self.input.send(wire.slice(..half)).unwrap();
        self.input.send(wire.slice(half..)).unwrap();
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            let chunk = tokio::time::timeout(DEADLINE, self.output.next())
                .await
                .expect("a frame within the deadline")?;
            self.buffer.extend_from_slice(&chunk.unwrap());
        }
    }

    pub(crate) async fn until(&mut self, wanted: &str) {
        while !self.seen.contains(wanted) {
            match self.frame().await {
                Some(Frame::Data(data)) => self.seen.push_str(&String::from_utf8_lossy(&data)),
                other => panic!("{other:?} before {wanted:?} in {:?}", self.seen),
            }
        }
    }
}

#[tokio::test]
async fn a_terminal_works_both_ways() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, _) = rig.sh("terminal", "sleep 1000", json!({})).await;
    let mut terminal = Terminal::open(&rig, request.id.as_str(), &["sh"]).await;
    terminal.until("# ").await;
    terminal.send(Frame::Data("stty size; echo $((6*7))done\n".into()));
    terminal.until("33 111").await;
    terminal.until("42done").await;
    terminal.send(Frame::Resize { rows: 44, cols: 122 });
    // The resize and the next command go different ways: ask until it shows.
    terminal.send(Frame::Data("until stty size | grep '44 122'; do sleep 0.1; done\n".into()));
    terminal.until("44 122\r\n").await;
    terminal.send(Frame::Data("exit 5\n".into()));
    let last = loop {
        match terminal.frame().await.unwrap() {
            Frame::Data(_) => {}
            other => break other,
        }
    };
    assert_eq!(last, Frame::Exit { code: 5 });
    assert_eq!(terminal.frame().await, None);
}

/// As `docker exec -i`: every byte as it is, much more than any buffer holds, the streams apart, the end of input and the exit code.
#[tokio::test]
async fn without_a_terminal_bytes_pass_as_they_are() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, _) = rig.sh("piped", "sleep 1000", json!({})).await;
    let script = "cat; echo ended >&2; exit 7";
    let mut piped = Terminal::open_with(&rig, request.id.as_str(), &["sh", "-c", script], false).await;
    let sent: Vec<u8> = (0..=255).cycle().take(5_000_003).collect();
    for piece in sent.chunks(64 << 10) {
        piped.send(Frame::Data(Bytes::copy_from_slice(piece)));
    }
    piped.send(Frame::EndOfInput);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let last = loop {
        match piped.frame().await.unwrap() {
            Frame::Data(data) => out.extend_from_slice(&data),
            Frame::Stderr(data) => err.extend_from_slice(&data),
            other => break other,
        }
    };
    assert_eq!((last, err.as_slice()), (Frame::Exit { code: 7 }, b"ended\n".as_slice()));
    assert!(out == sent, "{} of {} bytes came back, or others", out.len(), sent.len());
}

#[tokio::test]
async fn bytes_that_are_no_text_pass_a_terminal() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, _) = rig.sh("binary", "sleep 1000", json!({})).await;
    let mut terminal = Terminal::open(&rig, request.id.as_str(), &["head", "-c", "200000", "/bin/busybox"]).await;
    let mut bytes = 0;
    while let Frame::Data(data) = terminal.frame().await.unwrap() {
        bytes += data.len();
    }
    assert!(bytes >= 200_000);
}

#[tokio::test]
async fn end_of_input_ends_a_shell_and_a_missing_program_is_said() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, _) = rig.sh("ends", "sleep 1000", json!({})).await;
    let mut terminal = Terminal::open(&rig, request.id.as_str(), &["sh"]).await;
    terminal.until("# ").await;
    terminal.send(Frame::EndOfInput);
    while let Frame::Data(_) = terminal.frame().await.unwrap() {}
    let mut terminal = Terminal::open(&rig, request.id.as_str(), &["nosuch"]).await;
    match terminal.frame().await.unwrap() {
        Frame::Error(json) => {
            let error: AgentError = serde_json::from_slice(&json).unwrap();
            assert_eq!(error.code, Code::CommandFailed);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_terminal_that_is_closed_hangs_up() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, seen) = rig.sh("closed", "sleep 1000", json!({})).await;
    let mut terminal = Terminal::open(&rig, request.id.as_str(), &["sh"]).await;
    terminal.until("# ").await;
    terminal.send(Frame::Data("sleep 4713\n".into()));
    eventually("the command", || async {
        processes(&seen.docker_id).await.contains("sleep 4713").then_some(())
    })
    .await;
    drop(terminal);
    eventually("the command's end", || async {
        (!processes(&seen.docker_id).await.contains("4713")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn files_go_in_and_out() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, _) = rig.sh("files", "sleep 1000", json!({})).await;
    let route = key(path::ARCHIVE, request.id.as_str());
    let content: Vec<u8> = (0..5_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let tar = tar_of("big file", &content);
    let pieces: Vec<_> = tar
        .chunks(10_000)
        .map(|c| Ok::<_, std::io::Error>(Bytes::copy_from_slice(c)))
        .collect();
    let (status, _) = rig
        .send(
            Method::PUT,
            &format!("{route}?path=/tmp"),
            Body::from_stream(futures_util::stream::iter(pieces)),
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    let (status, body) = rig.send(Method::GET, &format!("{route}?path=/tmp/big%20file"), Body::empty()).await;
    assert_eq!(status, StatusCode::OK);
    let back = Body::from_stream(body).collect().await.unwrap().to_bytes();
    assert_eq!(untar(&back), [("big file".into(), content)]);
    for (method, query, body, wanted) in [
        (Method::GET, "path=/nosuch", Bytes::new(), StatusCode::NOT_FOUND),
        (Method::PUT, "path=/nosuch", tar_of("x", b""), StatusCode::NOT_FOUND),
        (Method::GET, "path=relative", Bytes::new(), StatusCode::BAD_REQUEST),
        (Method::PUT, "path=/bin/busybox", tar_of("x", b""), StatusCode::BAD_REQUEST),
    ] {
        let (status, _) = rig.send(method, &format!("{route}?{query}"), Body::from(body)).await;
        assert_eq!(status, wanted, "{query}");
    }
}

#[tokio::test]
async fn statistics_say_what_is_used() {
    need_docker!();
    let rig = Rig::start().await;
    let script =
        "head -c 30000000 /dev/zero > /dev/shm/fill; dd if=/dev/zero of=/tmp/f bs=1M count=20 conv=fsync 2>/dev/null; while :; do :; done";
    let (request, seen) = rig.sh("stats", script, json!({"cpuLimit": 0.3, "memoryLimit": "128m"})).await;
    let id = request.id.as_str();
    let (_, body) = rig.send(Method::GET, &key(path::STATS_STREAM, id), Body::empty()).await;
    let mut live = Lines::new(body);
    let mut last: ContainerStats = live.next().await.unwrap();
    for _ in 0..4 {
        let next: ContainerStats = live.next().await.unwrap();
        let apart = next.timestamp.since(last.timestamp);
        assert!((700..1600).contains(&apart), "one a second: {apart} ms");
        assert!(next.block_write >= last.block_write && next.network_rx >= last.network_rx);
        last = next;
    }
    assert_eq!((last.container_id.as_str(), last.memory_limit), (id, 128 << 20));
    assert!((15.0..45.0).contains(&last.cpu), "{last:?}");
    assert!((25.0..60.0).contains(&last.memory), "{last:?}");
    assert!(last.pids >= 1 && last.throttled_seconds > 0.0, "{last:?}");
    // `docker stats` says about the same of memory.
    let theirs = docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", &seen.docker_id]).await;
    let mib: f64 = theirs.split("MiB").next().unwrap().parse().unwrap();
    assert!((mib - last.memory).abs() < 5.0, "{theirs} and {}", last.memory);
    let history: Vec<ContainerStats> = rig.get(&format!("{}?limit=3", key(path::STATS, id))).await.unwrap();
    assert_eq!(history.len(), 3);
    assert!(history.windows(2).all(|w| w[0].timestamp < w[1].timestamp));
    rig.command(id, 1, Action::Stop { grace: Some(0) }).await.unwrap();
    while live.next::<ContainerStats>().await.is_some() {}
    let (status, _) = rig.send(Method::GET, &key(path::STATS_STREAM, id), Body::empty()).await;
    assert_eq!(status, StatusCode::CONFLICT);
    // The minute so far is kept when it ends, and by the next agent.
    let minutes = format!("{}?limit=10&resolution=minute", key(path::STATS, id));
    let kept = eventually("the minute", || async {
        let kept: Vec<ContainerStats> = rig.get(&minutes).await.unwrap();
        (!kept.is_empty()).then_some(kept)
    })
    .await;
    assert!(kept[0].cpu > 5.0);
    let rig = rig.restarted().await;
    assert_eq!(rig.get::<Vec<ContainerStats>>(&minutes).await.unwrap(), kept);
}
