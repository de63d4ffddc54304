//! A folder served to another node, in restic's protocol.

use crate::{
    remote::exercise,
    support::{Lab, PASSWORD},
};
use nm_backup::served::{Served, serve};
use nm_types::backup::{
    BackupType,
    job::{JobErrorCode, RepositoryPlace},
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::symlink, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
};

/// Serves a lab's folder; the lab's repository is behind the socket from then on. Gives the folder.
fn behind_socket(lab: &mut Lab, append_only: bool, limit: u64) -> (PathBuf, PathBuf, tokio::runtime::Runtime) {
    let folder = lab.repository();
    let socket = lab.path("node.socket");
    let served = Served {
        limit,
        ..Served::new(&folder, append_only)
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = {
        let _inside = runtime.enter();
        tokio::net::UnixListener::bind(&socket).unwrap()
    };
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, served.clone()));
        }
    });
    lab.access.place = RepositoryPlace::Socket {
        socket: socket.to_str().unwrap().into(),
        name: "node:n2:/place/config_1".into(),
    };
    (folder, socket, runtime)
}

/// The status of one request, and what it was answered.
fn ask(socket: &Path, head: &str, body: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .write_all(format!("{head}\r\nhost: node\r\nconnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let _ = stream.write_all(body);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0), text)
}

fn post(socket: &Path, path: &str, body: &[u8]) -> u16 {
    ask(socket, &format!("POST {path} HTTP/1.1\r\ncontent-length: {}", body.len()), body).0
}

fn name_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn all_that_the_engine_does_goes_through_it_and_stock_restic_reads_the_folder() {
    let mut lab = Lab::new();
    let (folder, _, _runtime) = behind_socket(&mut lab, false, u64::from(u32::MAX));
    exercise(&lab);
    let output = Command::new("restic")
        .args(["-r", folder.to_str().unwrap(), "--no-cache", "check", "--read-data"])
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!files(&folder).iter().any(|path| path.to_string_lossy().ends_with(".part")));
}

#[test]
fn what_is_not_what_its_name_says_is_not_kept() {
    let mut lab = Lab::new();
    let (folder, socket, _runtime) = behind_socket(&mut lab, false, 100_000);
    assert_eq!(post(&socket, "/?create=true", b""), 200);
    let before = files(&folder).len();
    let name = name_of(b"content");
    assert_eq!(post(&socket, &format!("/data/{name}"), b"other"), 400);
    assert_eq!(post(&socket, "/data/../../config", b"x"), 400);
    assert_eq!(post(&socket, &format!("/data/..%2f{name}"), b"content"), 400);
    // Too large, by what it says and by what it is.
    let large = vec![7; 100_001];
    let name_of_large = name_of(&large);
    assert_eq!(post(&socket, &format!("/data/{name_of_large}"), &large), 413);
    let chunked = [b"186a1\r\n".as_slice(), &large, b"\r\n0\r\n\r\n"].concat();
    let head = format!("POST /data/{name_of_large} HTTP/1.1\r\ntransfer-encoding: chunked");
    assert!(matches!(ask(&socket, &head, &chunked).0, 413 | 0));
    // Cut short.
    let mut stream = UnixStream::connect(&socket).unwrap();
    write!(stream, "POST /data/{name} HTTP/1.1\r\nhost: node\r\ncontent-length: 7\r\n\r\ncon").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(files(&folder).len(), before);
    // Right, twice; then damaged on the disk, and sent once more.
    let kept = folder.join("data").join(&name[..2]).join(&name);
    for _ in 0..2 {
        assert_eq!(post(&socket, &format!("/data/{name}"), b"content"), 200);
        assert_eq!(fs::read(&kept).unwrap(), b"content");
    }
    fs::write(&kept, "damaged").unwrap();
    assert_eq!(post(&socket, &format!("/data/{name}"), b"content"), 200);
    assert_eq!(fs::read(&kept).unwrap(), b"content");
    let (status, text) = ask(&socket, &format!("GET /data/{name} HTTP/1.1\r\nrange: bytes=2-4"), b"");
    assert!(status == 206 && text.ends_with("nte"), "{text}");
    // A config is made once.
    assert_eq!(post(&socket, "/config", b"one"), 200);
    assert_eq!(post(&socket, "/config", b"one"), 200);
    assert_eq!(post(&socket, "/config", b"two"), 409);
    assert_eq!(fs::read(folder.join("config")).unwrap(), b"one");
}

#[test]
fn links_in_the_folder_lead_nowhere() {
    let mut lab = Lab::new();
    let (folder, socket, _runtime) = behind_socket(&mut lab, false, 100_000);
    assert_eq!(post(&socket, "/?create=true", b""), 200);
    fs::create_dir(lab.path("host")).unwrap();
    fs::write(lab.path("host/secret"), "secret").unwrap();
    let name = name_of(b"content");
    fs::remove_dir(folder.join("data").join(&name[..2])).unwrap();
    symlink(lab.path("host"), folder.join("data").join(&name[..2])).unwrap();
    assert_eq!(post(&socket, &format!("/data/{name}"), b"content"), 409);
    assert_eq!(files(&lab.path("host")).len(), 1);
    let other = name_of(b"other");
    symlink(lab.path("host/secret"), folder.join("keys").join(&other)).unwrap();
    let (status, text) = ask(&socket, &format!("GET /keys/{other} HTTP/1.1"), b"");
    assert!(status == 409 && !text.contains("secret"), "{text}");
}

#[test]
fn an_append_only_folder_gives_up_its_locks_alone() {
    let mut lab = Lab::new();
    let (folder, socket, _runtime) = behind_socket(&mut lab, true, 100_000);
    assert_eq!(post(&socket, "/?create=true", b""), 200);
    let name = name_of(b"content");
    for kind in ["data", "locks"] {
        assert_eq!(post(&socket, &format!("/{kind}/{name}"), b"content"), 200);
    }
    assert_eq!(post(&socket, "/config", b"one"), 200);
    let remove = |path: &str| ask(&socket, &format!("DELETE {path} HTTP/1.1"), b"").0;
    assert_eq!(remove(&format!("/data/{name}")), 403);
    assert_eq!(remove("/config"), 403);
    assert_eq!(remove(&format!("/locks/{name}")), 200);
    assert_eq!(remove(&format!("/locks/{name}")), 404);
    assert!(folder.join("config").exists());
}

#[test]
fn a_folder_that_is_gone_is_never_made_anew() {
    let mut lab = Lab::new();
    let (folder, _, _runtime) = behind_socket(&mut lab, false, u64::from(u32::MAX));
    fs::write(lab.source().join("file"), "text").unwrap();
    let made = lab.full("a");
    lab.access.id = Some(made.repository);
    fs::rename(&folder, lab.path("elsewhere")).unwrap();
    let error = lab.try_backup(lab.task(BackupType::Full, None, "b")).unwrap_err();
    assert_eq!(error.code, JobErrorCode::RepositoryMissing);
    assert!(
        error.message.contains("node:n2:/place/config_1") && !folder.exists(),
        "{}",
        error.message
    );
}
