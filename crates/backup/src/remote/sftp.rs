//! A folder behind SFTP (version 3, as OpenSSH has it), through the machine's own `ssh`. The server's key must be the one that is
//! known of it; nothing of a user's own settings, known hosts or agent is read. Keys are handed over in memory, not in files.

mod session;

use super::{Objects, address::judge};
use crate::failure::{Result, failed};
use bytes::Bytes;
use nm_types::backup::job::{Hidden, JobErrorCode};
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{MemfdFlags, Mode},
};
use session::Session;
use std::{
    collections::BTreeMap,
    io::{self, ErrorKind as Io},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The name that the server's key is known by, whatever its address.
const ALIAS: &str = "neuralmesh-destination";

pub struct Login<'a> {
    pub host: &'a str,
    pub port: u16,
    pub user: &'a str,
    pub private_key: Option<&'a Hidden>,
    pub host_key: &'a str,
}

#[derive(Debug)]
pub struct Sftp {
    address: SocketAddr,
    user: String,
    path: String,
    name: String,
    known: OwnedFd,
    key: Option<OwnedFd>,
    /// None until it is needed, and after it broke.
    session: Mutex<Option<Session>>,
}

/// A file that only this process and its children see.
fn in_memory(name: &str, text: &str) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    let mut bytes = text.as_bytes();
    while !bytes.is_empty() {
        let written = rustix::io::write(&fd, bytes)?;
        bytes = &bytes[written..];
    }
    Ok(fd)
}

/// ssh closes what it inherits, but may look into its parent.
fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

impl Sftp {
    pub fn new(login: &Login<'_>, path: &str, allow: &[String]) -> Result<Self> {
        let wrong = |why: &str| {
            failed(
                JobErrorCode::Forbidden,
                format!("The destination sftp:{} is wrong: {why}.", login.host),
            )
        };
        let words: Vec<&str> = login.host_key.split_ascii_whitespace().collect();
        let plain = |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-+/=@.".contains(&byte));
        let (Some(kind), Some(key)) = (words.first(), words.get(1)) else {
            return Err(wrong(
                "the server's host key is not known. Give it as `ssh-keyscan` prints it, without the host",
            ));
        };
        if !plain(kind) || !plain(key) {
            return Err(wrong("the server's host key has odd characters"));
        }
        let addresses = judge(login.host, login.port, allow)?;
        let address = *addresses.first().ok_or_else(|| wrong("it has no address"))?;
        let odd = |error: io::Error| failed(JobErrorCode::Internal, format!("The keys can't be handed to ssh: {error}."));
        let known = in_memory("known-hosts", &format!("{ALIAS} {kind} {key}\n")).map_err(odd)?;
        let key = login
            .private_key
            .map(|key| in_memory("key", &format!("{}\n", key.0.trim_end())))
            .transpose()
            .map_err(odd)?;
        Ok(Self {
            address,
            user: login.user.to_owned(),
            path: path.trim_end_matches('/').to_owned(),
            name: format!("sftp:{}@{}:{path}", login.user, login.host),
            known,
            key,
            session: Mutex::new(None),
        })
    }

    fn start(&self) -> io::Result<Session> {
        let mut command = Command::new("ssh");
        command.args([
            "-F",
            "/dev/null",
            "-T",
            "-x",
            "-a",
            "-oBatchMode=yes",
            "-oStrictHostKeyChecking=yes",
        ]);
        command.args([
            "-oGlobalKnownHostsFile=/dev/null",
            "-oCheckHostIP=no",
            "-oUpdateHostKeys=no",
            "-oIdentityAgent=none",
        ]);
        command.args([
            "-oIdentitiesOnly=yes",
            "-oPermitLocalCommand=no",
            "-oClearAllForwardings=yes",
            "-oConnectTimeout=10",
        ]);
        command.args(["-oServerAliveInterval=15", "-oServerAliveCountMax=4", "-oLogLevel=ERROR"]);
        command.arg(format!("-oHostKeyAlias={ALIAS}"));
        command.arg(format!("-oUserKnownHostsFile={}", path_of(&self.known)));
        command.arg(match &self.key {
            Some(key) => format!("-oIdentityFile={}", path_of(key)),
            None => "-oIdentityFile=none".into(),
        });
        command.arg(format!("-p{}", self.address.port())).arg(format!("-l{}", self.user));
        command.arg("-s").arg("--").arg(self.address.ip().to_string()).arg("sftp");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("`ssh` can't be started ({error}); install OpenSSH's client")))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("`ssh` has no pipes"));
        };
        let mut session = Session {
            child,
            input,
            output,
            next: 0,
            extensions: BTreeMap::new(),
            early: BTreeMap::new(),
        };
        match session.begin() {
            Ok(()) => Ok(session),
            Err(error) => Err(session.why(error)),
        }
    }

    /// One thing at a time; a connection that broke is made anew once, for what can be done twice.
    fn with<T>(&self, what: impl Fn(&mut Session) -> io::Result<T>) -> io::Result<T> {
        let mut held: MutexGuard<'_, Option<Session>> = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = held.is_none();
        loop {
            let session = match &mut *held {
                Some(session) => session,
                none => none.insert(self.start()?),
            };
            match what(session) {
                Err(error) if matches!(error.kind(), Io::UnexpectedEof | Io::BrokenPipe) => {
                    let broken = held.take();
                    if fresh {
                        return Err(broken.map_or(error, |session| session.why(io::ErrorKind::UnexpectedEof.into())));
                    }
                    fresh = true;
                }
                other => return other,
            }
        }
    }

    fn folder(&self, folder: &str) -> String {
        if folder.is_empty() {
            self.path.clone()
        } else {
            format!("{}/{folder}", self.path)
        }
    }

    fn file(&self, folder: &str, name: &str) -> (String, String) {
        let folder = match folder {
            "data" => self.folder(&format!("data/{}", name.get(..2).unwrap_or("00"))),
            _ => self.folder(folder),
        };
        let file = format!("{folder}/{name}");
        (folder, file)
    }
}

impl Objects for Sftp {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let path = self.folder(folder);
        self.with(|session| {
            let listed = session.list(&path)?;
            if folder != "data" {
                return Ok(listed);
            }
            let mut found = Vec::new();
            for (name, _) in listed {
                if name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    found.extend(session.list(&format!("{path}/{name}"))?);
                }
            }
            Ok(found)
        })
    }

    fn get(&self, folder: &str, name: &str, range: Option<(u32, u32)>) -> io::Result<Bytes> {
        let (_, file) = self.file(folder, name);
        self.with(|session| session.read(&file, range))
    }

    fn put(&self, folder: &str, name: &str, bytes: Bytes) -> io::Result<()> {
        let (folder, file) = self.file(folder, name);
        let beside = format!("{folder}/.{name}-{}.part", std::process::id());
        self.with(|session| {
            let written = session.write(&beside, &bytes).and_then(|()| session.rename(&beside, &file));
            written.map_err(|error| {
                // A broken connection says nothing of the disk.
                if error.kind() == Io::UnexpectedEof || error.kind() == Io::BrokenPipe {
                    return error;
                }
                let _ = session.remove(&beside);
                if session.is_full(&folder) {
                    io::Error::new(Io::StorageFull, "the disk of the server is full")
                } else {
                    error
                }
            })
        })
    }

    fn delete(&self, folder: &str, name: &str) -> io::Result<()> {
        let (_, file) = self.file(folder, name);
        self.with(|session| session.remove(&file))
    }

    fn create(&self) -> io::Result<()> {
        let mut folders = vec![String::new()];
        folders.extend(["keys", "snapshots", "index", "locks", "data"].map(str::to_owned));
        folders.extend((0..=u8::MAX).map(|byte| format!("data/{byte:02x}")));
        self.with(|session| folders.iter().try_for_each(|folder| session.make_folder(&self.folder(folder))))
    }

    fn takes_notes(&self) -> bool {
        true
    }

    fn config(&self) -> io::Result<Option<u64>> {
        let (_, file) = self.file("", "config");
        self.with(|session| match session.stat(&file) {
            Ok(size) => Ok(Some(size)),
            // Of the folder itself only its parent must be there.
            Err(error) if error.kind() == Io::NotFound => {
                let parent = self
                    .path
                    .rsplit_once('/')
                    .map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent });
                session.stat(parent).map(|_| None)
            }
            Err(error) => Err(error),
        })
    }
}
