//! Destinations that are not folders: restic's REST protocol over TCP and over a Unix socket, S3, and a real OpenSSH server.

use crate::support::*;
use nm_types::backup::{
    BackupType,
    job::{Hidden, JobErrorCode, Outcome, RepositoryPlace, Task},
};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

struct Request {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn read_request(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    if stream.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace();
    let method = words.next()?.to_owned();
    let target = words.next()?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        path,
        query,
        headers,
        body,
    })
}

/// Status, what kind of body, body. Of kind [`CUT`] half of it is sent, and the connection breaks.
type Answer = (u16, &'static str, Vec<u8>);
const CUT: &str = "cut";

fn talk(stream: impl Read + Write, answer: &(impl Fn(&Request) -> Answer + ?Sized)) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream) {
        let (status, kind, body) = answer(&request);
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\ncontent-type: {kind}\r\nlocation: http://169.254.169.254/\r\n\r\n",
            body.len()
        );
        let out = stream.get_mut();
        if kind == CUT {
            let _ = out.write_all(head.as_bytes()).and_then(|()| out.write_all(&body[..body.len() / 2]));
            return;
        }
        if out.write_all(head.as_bytes()).is_err() || (request.method != "HEAD" && out.write_all(&body).is_err()) {
            return;
        }
    }
}

fn serve(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = answer.clone();
            thread::spawn(move || talk(stream.unwrap(), &*answer));
        }
    });
    port
}

fn object(request: &Request, key: &str, objects: &Objects) -> Answer {
    let mut objects = objects.lock().unwrap();
    match request.method.as_str() {
        "GET" | "HEAD" => match objects.get(key) {
            None => (404, "text/plain", Vec::new()),
            Some(bytes) => match request
                .headers
                .get("range")
                .and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
            {
                Some((from, to)) => {
                    let from: usize = from.parse().unwrap();
                    let to = to.parse().unwrap_or(usize::MAX - 1).min(bytes.len() - 1);
                    (206, "application/octet-stream", bytes[from..=to].to_vec())
                }
                None => (200, "application/octet-stream", bytes.clone()),
            },
        },
        "POST" | "PUT" => {
            objects.insert(key.to_owned(), request.body.clone());
            (200, "text/plain", Vec::new())
        }
        "DELETE" => (if objects.remove(key).is_some() { 200 } else { 404 }, "text/plain", Vec::new()),
        _ => (405, "text/plain", Vec::new()),
    }
}

/// restic's REST protocol, version 2, below `/repository/`; user `anna` and the password `secret`.
fn rest(objects: Objects) -> impl Fn(&Request) -> Answer + Send + Sync {
    move |request| {
        let path = request
            .path
            .strip_prefix("/repository/")
            .or(request.path.strip_prefix('/'))
            .unwrap();
        if request.path.starts_with("/repository/")
            && request.headers.get("authorization").map(String::as_str) != Some("Basic YW5uYTpzZWNyZXQ=")
        {
            return (401, "text/plain", Vec::new());
        }
        if request.query == "create=true" {
            return (200, "text/plain", Vec::new());
        }
        if let Some(folder) = path.strip_suffix('/') {
            let objects = objects.lock().unwrap();
            let listed: Vec<_> = objects
                .iter()
                .filter_map(|(key, bytes)| {
                    Some(serde_json::json!({"name": key.strip_prefix(folder)?.strip_prefix('/')?, "size": bytes.len()}))
                })
                .collect();
            return (200, "application/vnd.x.restic.rest.v2", serde_json::to_vec(&listed).unwrap());
        }
        object(request, path, &objects)
    }
}

/// Everything that is done with a repository.
pub fn exercise(lab: &Lab) {
    let source = lab.source();
    fill(&source);
    let first = lab.full("a");
    fs::write(source.join("new"), noise(5, 3_000_000)).unwrap();
    let second = lab.backup(BackupType::Incremental, Some(&first.snapshot), "b");
    assert_eq!(second.files_new, 1);
    assert!(lab.check(true).findings.is_empty());
    lab.restore(&second.snapshot, &lab.path("target"));
    assert_same(&source, &lab.path("target"));
    lab.forget(&[&first.snapshot], &[&second.snapshot], 0).unwrap();
    lab.forget(&[], &[&second.snapshot], 0).unwrap();
    let checked = lab.check(true);
    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
    lab.restore(&second.snapshot, &lab.path("target"));
    assert_same(&source, &lab.path("target"));
    let Outcome::Snapshots(listed) = lab.run(Task::List).unwrap() else {
        panic!()
    };
    assert_eq!(listed.snapshots.len(), 1);
}

fn rest_lab(port: u16) -> Lab {
    let mut lab = Lab::new();
    lab.allow = vec!["127.0.0.1".into()];
    lab.access.place = RepositoryPlace::Rest {
        url: format!("http://127.0.0.1:{port}/repository/"),
        user: Some("anna".into()),
        password: Some(Hidden("secret".into())),
    };
    lab
}

#[test]
fn a_rest_server() {
    let objects = Objects::default();
    let port = serve(rest(objects.clone()));
    let mut lab = rest_lab(port);
    exercise(&lab);
    assert!(!objects.lock().unwrap().keys().any(|key| key.starts_with("locks/")));
    // Stock restic reads it from the same server.
    let output = Command::new("restic")
        .args([
            "--no-cache",
            "-r",
            &format!("rest:http://anna:secret@127.0.0.1:{port}/repository/"),
            "check",
            "--read-data",
        ])
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A wrong login, an address that is not allowed, a repository that is gone.
    let RepositoryPlace::Rest { password, .. } = &mut lab.access.place else {
        panic!()
    };
    *password = Some(Hidden("wrong".into()));
    assert_eq!(lab.try_check(false).unwrap_err().code, JobErrorCode::Unreachable);
    let mut lab = rest_lab(port);
    lab.allow.clear();
    assert_eq!(lab.try_check(false).unwrap_err().code, JobErrorCode::Forbidden);
    lab.allow = vec!["*".into()];
    objects.lock().unwrap().clear();
    assert_eq!(lab.try_check(false).unwrap_err().code, JobErrorCode::RepositoryMissing);
}

#[test]
fn a_rest_server_behind_a_unix_socket() {
    let mut lab = Lab::new();
    let socket = lab.path("node.socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let answer = Arc::new(rest(Objects::default()));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = answer.clone();
            thread::spawn(move || talk(stream.unwrap(), &*answer));
        }
    });
    lab.access.place = RepositoryPlace::Socket {
        socket: socket.to_str().unwrap().into(),
        name: "node:n2:/backups/config_1".into(),
    };
    exercise(&lab);
}

#[test]
fn redirects_lead_nowhere_and_a_full_server_is_told() {
    let full = Arc::new(AtomicBool::new(false));
    let (objects, flag) = (Objects::default(), full.clone());
    let inner = rest(objects);
    let port = serve(move |request| {
        if flag.load(Ordering::Relaxed) && request.method == "POST" && request.path.contains("/data/") {
            return (507, "text/plain", Vec::new());
        }
        inner(request)
    });
    let lab = rest_lab(port);
    fs::write(lab.source().join("file"), noise(1, 100_000)).unwrap();
    let made = lab.full("a");
    full.store(true, Ordering::Relaxed);
    fs::write(lab.source().join("file"), noise(2, 100_000)).unwrap();
    assert_eq!(
        lab.try_backup(lab.task(BackupType::Full, None, "b")).unwrap_err().code,
        JobErrorCode::DiskFull
    );
    lab.restore(&made.snapshot, &lab.path("target"));
    let port = serve(|_| (302, "text/plain", Vec::new()));
    let error = rest_lab(port).try_check(false).unwrap_err();
    assert_eq!(error.code, JobErrorCode::Unreachable);
    assert!(error.message.contains("elsewhere"), "{}", error.message);
}

#[test]
fn what_breaks_off_is_asked_for_again_and_is_never_called_damaged() {
    let (objects, cuts) = (Objects::default(), Arc::new(AtomicU64::new(0)));
    let (inner, left) = (rest(objects), cuts.clone());
    let port = serve(move |request| {
        let (status, kind, body) = inner(request);
        let pack = request.method == "GET" && request.path.contains("/data/") && !request.path.ends_with('/');
        let cut = pack
            && left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok();
        (status, if cut { CUT } else { kind }, body)
    });
    let lab = rest_lab(port);
    let source = lab.source();
    fill(&source);
    let made = lab.full("a");
    // Each of two that are cut is whole when it is asked for again.
    cuts.store(2, Ordering::Relaxed);
    lab.restore(&made.snapshot, &lab.path("target"));
    assert_same(&source, &lab.path("target"));
    assert_eq!(cuts.load(Ordering::Relaxed), 0);
    // A destination that breaks off each time is away; what is in it is nobody's finding.
    cuts.store(u64::MAX, Ordering::Relaxed);
    let codes = thread::scope(|scope| {
        let restore = scope.spawn(|| lab.try_restore(lab.restore_task(&made.snapshot, &lab.path("other"))).unwrap_err());
        let check = scope.spawn(|| lab.try_check(true).unwrap_err());
        [restore.join().unwrap(), check.join().unwrap()].map(|error| (error.code, error.message))
    });
    assert!(codes.iter().all(|(code, _)| *code == JobErrorCode::Unreachable), "{codes:?}");
}

#[test]
fn an_s3_bucket() {
    let objects = Objects::default();
    let stored = objects.clone();
    let port = serve(move |request| {
        assert!(request.query.contains("X-Amz-Signature="), "{}", request.query);
        let Some(key) = request.path.strip_prefix("/bucket-1/") else {
            return (404, "application/xml", Vec::new());
        };
        if key.is_empty() && request.query.contains("list-type=2") {
            let value = |name: &str| {
                let found = request.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
                found.unwrap_or_default().replace("%2F", "/")
            };
            let (prefix, after) = (value("prefix"), value("continuation-token"));
            let objects = stored.lock().unwrap();
            let all: Vec<_> = objects
                .iter()
                .filter(|(key, _)| key.starts_with(&prefix) && **key > after)
                .collect();
            // In pages of seven.
            let page: String = all.iter().take(7).map(|(key, bytes)| format!("<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>", bytes.len())).collect();
            let next = if all.len() > 7 {
                format!("<NextContinuationToken>{}</NextContinuationToken>", all[6].0)
            } else {
                String::new()
            };
            let text = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>bucket-1</Name><Prefix>{prefix}</Prefix><KeyCount>{}</KeyCount><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType><IsTruncated>{}</IsTruncated>{page}{next}</ListBucketResult>",
                all.len().min(7),
                all.len() > 7
            );
            return (200, "application/xml", text.into_bytes());
        }
        object(request, key, &stored)
    });
    let mut lab = Lab::new();
    lab.allow = vec!["127.0.0.1".into()];
    let place = |bucket: &str| RepositoryPlace::S3 {
        endpoint: format!("http://127.0.0.1:{port}"),
        bucket: bucket.into(),
        prefix: "some/where/config_1".into(),
        region: "eu-central-1".into(),
        access_key: Hidden("AKIA".into()),
        secret_key: Hidden("secret".into()),
    };
    lab.access.place = place("bucket-1");
    exercise(&lab);
    assert!(objects.lock().unwrap().keys().all(|key| key.starts_with("some/where/config_1/")));
    lab.access.place = place("bucket-2");
    assert_eq!(
        lab.try_backup(lab.task(BackupType::Full, None, "z")).unwrap_err().code,
        JobErrorCode::Unreachable
    );
}

struct Sshd {
    child: Child,
    port: u16,
    host_key: String,
    private_key: String,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sshd(folder: &Path) -> Sshd {
    fs::create_dir_all("/run/sshd").unwrap();
    for name in ["host", "user"] {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(folder.join(name))
            .status()
            .unwrap();
        assert!(made.success());
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = folder.join("config");
    fs::write(
        &config,
        format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/user.pub\nStrictModes no\nUsePAM no\n\
             PidFile none\nPasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n",
            folder.display()
        ),
    )
    .unwrap();
    let child = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(&config)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("OpenSSH's server is installed");
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        thread::yield_now();
    }
    let public = fs::read_to_string(folder.join("host.pub")).unwrap();
    Sshd {
        child,
        port,
        host_key: public.split_whitespace().take(2).collect::<Vec<_>>().join(" "),
        private_key: fs::read_to_string(folder.join("user")).unwrap(),
    }
}

#[test]
fn an_sftp_server_whose_key_is_the_one_that_is_known() {
    let mut lab = Lab::new();
    fs::create_dir(lab.path("ssh")).unwrap();
    let server = sshd(&lab.path("ssh"));
    let folder = lab.repository();
    let place = |host_key: &str, private_key: &str| RepositoryPlace::Sftp {
        host: "127.0.0.1".into(),
        port: server.port,
        user: "root".into(),
        path: folder.to_str().unwrap().into(),
        private_key: Some(Hidden(private_key.into())),
        host_key: host_key.into(),
    };
    lab.allow = vec!["127.0.0.1".into()];
    lab.access.place = place(&server.host_key, &server.private_key);
    exercise(&lab);
    // It is the same folder, for restic too.
    lab.access.place = RepositoryPlace::Path {
        path: folder.to_str().unwrap().into(),
    };
    lab.restic(&["check", "--read-data"]);
    assert!(lab.files("locks").is_empty());
    // Another server's key, or another login.
    fs::create_dir(lab.path("other")).unwrap();
    let other = sshd(&lab.path("other"));
    for wrong in [
        place(&other.host_key, &server.private_key),
        place(&server.host_key, &other.private_key),
    ] {
        lab.access.place = wrong;
        let error = lab.try_check(false).unwrap_err();
        assert_eq!(error.code, JobErrorCode::Unreachable);
        assert!(error.message.contains("ssh says"), "{}", error.message);
    }
    lab.access.place = place(&server.host_key, &server.private_key);
    lab.allow.clear();
    assert_eq!(lab.try_check(false).unwrap_err().code, JobErrorCode::Forbidden);
}
