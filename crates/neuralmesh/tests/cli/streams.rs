//! Terminals and archives: the binary against sockets and tar streams.

use crate::fake::{self, CONTAINER, Fake, container, data, finish, finish_with_input, refuse, refuse_with};
use axum::Router;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, RawQuery};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tokio::process::Child;

/// A terminal as a user sits at it, with the binary running in it.
struct Pty {
    master: File,
    /// `/dev/pts/…`
    name: PathBuf,
    child: Child,
    screen: Arc<(Mutex<String>, Condvar)>,
}

impl Pty {
    fn run(fake: &Fake, args: &[&str]) -> Self {
        let pty = nix::pty::openpty(
            &nix::pty::Winsize {
                ws_row: 24,
                ws_col: 80,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
            None,
        )
        .unwrap();
        let name = fs::read_link(format!("/proc/self/fd/{}", pty.slave.as_raw_fd())).unwrap();
        let slave = File::from(pty.slave);
        let end = || Stdio::from(slave.try_clone().unwrap());
        // A session of its own, so that this terminal is the one that controls it.
        let mut command = tokio::process::Command::new("setsid");
        command
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_neuralmesh")])
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap());
        command
            .env("HOME", fake.home.path())
            .env("NEURALMESH_SERVER", &fake.url)
            .env("NEURALMESH_TOKEN", "nmt_given")
            .env("TERM", "xterm");
        let child = command.stdin(end()).stdout(end()).stderr(end()).kill_on_drop(true).spawn().unwrap();
        let master = File::from(pty.master);
        let screen = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let (mut reader, shown) = (master.try_clone().unwrap(), screen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            // A terminal whose other end is gone answers with an error.
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                shown.0.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
                shown.1.notify_all();
            }
        });
        Self {
            master,
            name,
            child,
            screen,
        }
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until `text` is on the screen.
    async fn shows(&self, text: &str) {
        let (screen, text) = (self.screen.clone(), text.to_owned());
        let waiting = tokio::task::spawn_blocking(move || {
            let until = Instant::now() + Duration::from_secs(30);
            let mut seen = screen.0.lock().unwrap();
            while !seen.contains(&text) {
                let left = until
                    .checked_duration_since(Instant::now())
                    .unwrap_or_else(|| panic!("`{text}` never came: {seen:?}"));
                seen = screen.1.wait_timeout(seen, left).unwrap().0;
            }
        });
        waiting.await.unwrap();
    }

    fn screen(&self) -> String {
        self.screen.0.lock().unwrap().clone()
    }

    fn resize(&self, rows: u16, cols: u16) {
        let (rows, cols) = (rows.to_string(), cols.to_string());
        let ended = std::process::Command::new("stty")
            .arg("-F")
            .arg(&self.name)
            .args(["rows", &rows, "cols", &cols])
            .status()
            .unwrap();
        assert!(ended.success());
    }

    /// Whether what is typed is shown and signals are made of keys.
    fn is_raw(&self) -> bool {
        let shown = std::process::Command::new("stty")
            .arg("-F")
            .arg(&self.name)
            .arg("-a")
            .output()
            .unwrap();
        String::from_utf8(shown.stdout).unwrap().contains("-echo ")
    }

    async fn ended(mut self) -> i32 {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait())
            .await
            .expect("it ended in time")
            .unwrap();
        assert!(!self.is_raw(), "the terminal is as it was");
        ended.code().unwrap()
    }
}

/// A container's terminal: greets, echoes, tells its size at each resize, and exits with 42 at `quit`.
async fn shell(mut socket: WebSocket) {
    socket
        .send(Message::Binary(Bytes::from_static(b"\x1b[1mwelcome\x1b[0m\r\n")))
        .await
        .unwrap();
    while let Some(Ok(message)) = socket.recv().await {
        let answer = match message {
            Message::Binary(typed) if typed.as_ref() == b"q" => {
                socket
                    .send(Message::Text(json!({ "type": "exit", "code": 42 }).to_string().into()))
                    .await
                    .unwrap();
                return;
            }
            Message::Binary(typed) => format!("got {typed:?}\r\n"),
            Message::Text(text) => format!("told {}\r\n", text.as_str()),
            _ => continue,
        };
        socket.send(Message::Binary(answer.into())).await.unwrap();
    }
}

fn terminals(asked: Arc<Mutex<String>>) -> Router {
    let serve = move |RawQuery(query): RawQuery, upgrade: WebSocketUpgrade| async move {
        *asked.lock().unwrap() = query.unwrap_or_default();
        upgrade.on_upgrade(shell)
    };
    Router::new().route("/api/containers/web/terminal", get(serve)).route(
        "/api/containers/off/terminal",
        get(|| async { refuse(409, "not_running", "container `off` does not run: start it first") }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_passes_keys_sizes_and_the_exit_code_on() {
    let asked = Arc::new(Mutex::new(String::new()));
    let fake = Fake::start(terminals(asked.clone())).await;
    let mut pty = Pty::run(&fake, &["containers", "exec", "-it", "-u", "root", "web", "--", "sh", "-c", "x y"]);
    pty.shows("\u{1b}[1mwelcome").await;
    assert_eq!(
        *asked.lock().unwrap(),
        "user=root&command=sh&command=-c&command=x+y&rows=24&cols=80"
    );
    assert_eq!(fake.seen()[0].header("authorization"), Some("Bearer nmt_given"));
    assert!(pty.is_raw());
    // ^C is the container's, not ours.
    pty.type_in("\u{3}");
    pty.shows("got b\"\\x03\"").await;
    pty.resize(50, 132);
    pty.shows(r#"told {"cols":132,"rows":50,"type":"resize"}"#).await;
    pty.type_in("q");
    assert_eq!(pty.ended().await, 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_is_refused_leaves_ours_alone() {
    let fake = Fake::start(terminals(Arc::default())).await;
    let pty = Pty::run(&fake, &["containers", "exec", "-it", "off", "sh"]);
    pty.shows("error: container `off` does not run: start it first").await;
    assert_eq!(pty.ended().await, 1);
    // Without a terminal of one's own there is none to lend.
    assert_eq!(fake.run(&["containers", "exec", "-it", "web", "sh"]).await.code, 2);
}

/// What `cat` does: gives input back, says how much it was to standard error, and exits with 9.
async fn cat(mut socket: WebSocket) {
    let mut bytes = 0;
    while let Some(Ok(message)) = socket.recv().await {
        let last = match message {
            Message::Binary(data) => {
                bytes += data.len();
                let echo = [&[1][..], &data].concat();
                socket.send(Message::Binary(echo.into())).await.unwrap();
                continue;
            }
            Message::Text(text) => text,
            _ => continue,
        };
        assert_eq!(last.as_str(), r#"{"type":"eof"}"#);
        let total = format!("\u{2}{bytes} bytes");
        socket.send(Message::Binary(total.into())).await.unwrap();
        let exit = json!({ "type": "exit", "code": 9 }).to_string();
        socket.send(Message::Text(exit.into())).await.unwrap();
        return;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_goes_in_as_it_is_and_both_outputs_come_out() {
    let asked = Arc::new(Mutex::new(String::new()));
    let kept = asked.clone();
    let serve = move |RawQuery(query): RawQuery, upgrade: WebSocketUpgrade| async move {
        *kept.lock().unwrap() = query.unwrap_or_default();
        upgrade.on_upgrade(cat)
    };
    let fake = Fake::start(Router::new().route("/api/containers/web/terminal", get(serve))).await;
    let input = "no \u{0} end\r\n".repeat(2_000);
    let ended = finish_with_input(&mut fake.command(&["containers", "exec", "-i", "web", "--", "cat"]), &input).await;
    assert_eq!((ended.code, ended.err.as_str()), (9, format!("{} bytes", input.len()).as_str()));
    assert!(ended.out == input);
    assert_eq!(*asked.lock().unwrap(), "command=cat&tty=false");
    // What the server's terminals can't be given is refused before anything is sent.
    let refused = fake.run(&["containers", "exec", "-i", "-w", "/srv", "web", "cat"]).await;
    assert_eq!(refused.code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_for_twice_and_not_shown() {
    let bodies = Arc::new(Mutex::new(Vec::<Value>::new()));
    let kept = bodies.clone();
    let add = move |body: String| async move {
        kept.lock().unwrap().push(serde_json::from_str(&body).unwrap());
        data(
            201,
            json!({ "id": "user_1770000000000_abcdefghi", "username": "ann", "role": "viewer", "disabled": false, "created": fake::NOW, "updated": fake::NOW }),
        )
    };
    let fake = Fake::start(Router::new().route("/api/users", post(add))).await;
    let mut pty = Pty::run(&fake, &["users", "add", "ann"]);
    pty.shows("Password: ").await;
    // A slip of the hand, taken back: é is two bytes and one backspace.
    pty.type_in("hidden-paé\u{7f}ss\r");
    pty.shows("Password again: ").await;
    pty.type_in("hidden-pass\r");
    pty.shows("ann\r\n").await;
    assert!(!pty.screen().contains("hid"), "{}", pty.screen());
    assert_eq!(pty.ended().await, 0);
    assert_eq!(
        bodies.lock().unwrap()[0],
        json!({ "username": "ann", "password": "hidden-pass", "role": "viewer" })
    );

    let mut pty = Pty::run(&fake, &["users", "add", "ben"]);
    pty.shows("Password: ").await;
    pty.type_in("\u{3}");
    assert_eq!(pty.ended().await, 1);
}

/// Where an upload went, and its bytes.
type Upload = (String, Vec<u8>);

/// A container's files: `/site` is a folder, `/file` a file, `/link` a link to `/site`.
#[derive(Clone, Default)]
struct Files {
    uploads: Arc<Mutex<Vec<Upload>>>,
}

fn tar_with(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        if *kind == tar::EntryType::Symlink {
            header.set_size(0);
            builder.append_link(&mut header, path, content).unwrap();
        } else {
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

impl Files {
    fn get(&self, path: &str) -> Response {
        use tar::EntryType::{Directory, Regular, Symlink};
        let tar = match path {
            "/site" => tar_with(&[
                ("site/", Directory, ""),
                ("site/index.html", Regular, "hello"),
                ("site/sub/", Directory, ""),
                ("site/sub/deep", Regular, "deep"),
            ]),
            "/file" => tar_with(&[("file", Regular, "a file")]),
            "/link" => tar_with(&[("link", Symlink, "site/.")]),
            "/evil" => tar_with(&[("evil", Symlink, "/tmp"), ("evil/neuralmesh-was-here", Regular, "evil")]),
            _ => {
                let error = format!("`web` has no file or folder `{path}`.");
                return refuse_with(
                    422,
                    "invalid_field",
                    &error,
                    json!({ "details": [{ "field": "path", "message": error }] }),
                );
            }
        };
        ([("content-type", "application/x-tar")], tar).into_response()
    }

    fn router(&self) -> Router {
        let (reading, writing) = (self.clone(), self.clone());
        let read = move |Query(query): Query<HashMap<String, String>>| async move { reading.get(&query["path"]) };
        let write = move |Query(query): Query<HashMap<String, String>>, body: Body| async move {
            let full = query["path"] == "/full";
            match axum::body::to_bytes(body, 64 << 20).await {
                Ok(_) if full => refuse(507, "disk_full", "the node's disk is full"),
                Ok(bytes) => {
                    writing.uploads.lock().unwrap().push((query["path"].clone(), bytes.to_vec()));
                    data(200, json!({}))
                }
                Err(_) => refuse(400, "body_broken", "the body broke off before its end"),
            }
        };
        Router::new()
            .route("/api/containers/{id}", get(|| async { data(200, container("web")) }))
            .route(
                "/api/containers/{id}/archive",
                get(read).put(write).layer(axum::extract::DefaultBodyLimit::disable()),
            )
    }

    /// Where the last upload went, and the names and contents of what was in it.
    fn last(&self) -> (String, Vec<(String, String)>) {
        let (path, bytes) = self.uploads.lock().unwrap().last().unwrap().clone();
        let mut archive = tar::Archive::new(&*bytes);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        });
        (path, entries.collect())
    }
}

#[tokio::test]
async fn files_come_out_of_a_container_as_docker_copies_them() {
    let fake = Fake::start(Files::default().router()).await;
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    let cp = async |source: &str, target: &str| fake.run(&["containers", "cp", source, at(target).to_str().unwrap()]).await;
    let read = |path: &str| fs::read_to_string(at(path)).unwrap();

    cp("web:/site", "").await.ok();
    assert_eq!((read("site/index.html"), read("site/sub/deep")), ("hello".into(), "deep".into()));
    cp("web:/site", "renamed").await.ok();
    assert_eq!(read("renamed/index.html"), "hello");
    cp("web:/site/.", "contents").await.ok();
    assert_eq!((read("contents/index.html"), at("contents/site").exists()), ("hello".into(), false));
    cp("web:/file", "renamed").await.ok();
    assert_eq!(read("renamed/file"), "a file");
    cp("web:file", "copy").await.ok();
    assert_eq!(read("copy"), "a file");
    let over = cp("web:/file", "copy").await.ok();
    assert_eq!((read("copy"), over.err.contains("Copied 6B to")), ("a file".into(), true));

    for (source, target) in [
        ("web:/site", "copy"),
        ("web:/file", "nowhere/"),
        ("web:/file", "nowhere/x"),
        ("web:/missing", "x"),
        ("web:/evil", ""),
    ] {
        let ended = cp(source, target).await;
        assert_eq!(ended.code, 1, "{source} {target}: {ended:?}");
    }
    assert!(!std::path::Path::new("/tmp/neuralmesh-was-here").exists());

    let streamed = fake.command(&["containers", "cp", "web:/file", "-"]).output().await.unwrap();
    assert_eq!(streamed.stdout, tar_with(&[("file", tar::EntryType::Regular, "a file")]));
}

#[tokio::test]
async fn files_go_into_a_container_as_docker_copies_them() {
    let files = Files::default();
    let fake = Fake::start(files.router()).await;
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("src")).unwrap();
    fs::write(folder.path().join("src/a.txt"), "A").unwrap();
    let here = |path: &str| folder.path().join(path).to_str().unwrap().to_owned();
    let cp = async |source: &str, target: &str| fake.run(&["containers", "cp", &here(source), target]).await;
    let entry = |path: &str, text: &str| (path.to_owned(), text.to_owned());

    // A folder there takes what comes under its own name; what is not there gives its name.
    cp("src/a.txt", "web:/site").await.ok();
    assert_eq!(files.last(), ("/site".into(), vec![entry("a.txt", "A")]));
    cp("src/a.txt", "web:/file").await.ok();
    assert_eq!(files.last(), ("/".into(), vec![entry("file", "A")]));
    cp("src/a.txt", "web:/site/new.txt").await.ok();
    assert_eq!(files.last(), ("/site".into(), vec![entry("new.txt", "A")]));
    cp("src", "web:/site").await.ok();
    assert_eq!(files.last(), ("/site".into(), vec![entry("src", ""), entry("src/a.txt", "A")]));
    cp("src/.", "web:/site/").await.ok();
    assert_eq!(files.last(), ("/site".into(), vec![entry("a.txt", "A")]));
    cp("src", "web:/new").await.ok();
    assert_eq!(files.last(), ("/".into(), vec![entry("new", ""), entry("new/a.txt", "A")]));
    cp("src/a.txt", "web:/link").await.ok();
    assert_eq!(files.last().0, "/site");
    cp("src/a.txt", "web:/").await.ok();
    assert_eq!(files.last().0, "/");

    let before = files.uploads.lock().unwrap().len();
    for (source, target) in [("src", "web:/file"), ("src/a.txt", "web:/nowhere/"), ("missing", "web:/site")] {
        let ended = cp(source, target).await;
        assert_eq!(ended.code, 1, "{source} {target}: {ended:?}");
    }
    assert_eq!(files.uploads.lock().unwrap().len(), before);

    let tar = String::from_utf8(tar_with(&[("x", tar::EntryType::Regular, "X")])).unwrap();
    let ended = finish_with_input(&mut fake.command(&["containers", "cp", "-", "web:/site"]), &tar)
        .await
        .ok();
    assert!(ended.err.contains("Copied"), "{}", ended.err);
    assert_eq!(files.last(), ("/site".into(), vec![entry("x", "X")]));
    assert!(
        fake.lines()
            .iter()
            .any(|l| l.starts_with(&format!("PUT /api/containers/{CONTAINER}/archive")))
    );
}

#[tokio::test]
async fn a_refused_upload_says_why() {
    let fake = Fake::start(Files::default().router()).await;
    let folder = tempfile::tempdir().unwrap();
    let big = folder.path().join("big");
    File::create(&big).unwrap().set_len(16 << 20).unwrap();
    let ended = finish(&mut fake.command(&["containers", "cp", big.to_str().unwrap(), "web:/full/big"])).await;
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("the node's disk is full"), "{}", ended.err);
}
