//! A folder of this machine, served to another one in restic's REST protocol (version 2): one HTTP/1.1 connection over whatever stream
//! leads there. Only what is sealed passes; the repository's password is not known here.
//!
//! - A file's name is the SHA-256 of what is in it, and what is not so is not kept. A config that is there is never replaced.
//! - What is answered as written is there after a power cut.
//! - What somebody else put into the folder leads nowhere: see [`Folder`](crate::local::Folder).

mod files;

use crate::remote::{NOTE_NAME, VERSION_2, is_name};
use bytes::Bytes;
use files::{Files, Piece};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::{
    convert::Infallible,
    io::{self, ErrorKind as Io},
    path::PathBuf,
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::spawn_blocking,
};
use tokio_stream::wrappers::ReceiverStream;

pub use files::FILE_AT_MOST;

const VERSION_1: &str = "application/vnd.x.restic.rest.v1";
/// Pieces of a body under way between the connection and the disk.
const QUEUE: usize = 4;
/// The longest part that is read whole before it is sent.
const AT_ONCE: u64 = 1 << 20;

type Answer = UnsyncBoxBody<Bytes, io::Error>;

/// Which folder, and what may be done there.
#[derive(Debug, Clone)]
pub struct Served {
    /// A path that was judged: there is no link in it.
    pub path: PathBuf,
    /// Nothing but locks is removed.
    pub append_only: bool,
    /// The largest file that is taken, [`FILE_AT_MOST`] or less.
    pub limit: u64,
}

impl Served {
    pub fn new(path: impl Into<PathBuf>, append_only: bool) -> Self {
        Self {
            path: path.into(),
            append_only,
            limit: FILE_AT_MOST,
        }
    }
}

/// Serves one connection until its end. An idle one stays for as long as the other side holds it.
pub async fn serve<I>(stream: I, served: Served) -> Result<(), hyper::Error>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let files = Arc::new(Files::new(served));
    let service = service_fn(move |request| {
        let files = files.clone();
        async move { Ok::<_, Infallible>(answer(files, request).await.unwrap_or_else(|refused| refused.response())) }
    });
    http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// Why a request is not done.
struct Refused {
    status: StatusCode,
    reason: String,
}

impl Refused {
    fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
        }
    }

    fn nothing() -> Self {
        Self::new(StatusCode::NOT_FOUND, "it is not there")
    }

    fn response(self) -> Response<Answer> {
        let mut response = Response::new(whole(self.reason.into()));
        *response.status_mut() = self.status;
        typed(response.headers_mut(), "text/plain; charset=utf-8");
        response
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        let status = match error.kind() {
            Io::NotFound => StatusCode::NOT_FOUND,
            Io::StorageFull | Io::QuotaExceeded => StatusCode::INSUFFICIENT_STORAGE,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => StatusCode::FORBIDDEN,
            Io::AlreadyExists => StatusCode::CONFLICT,
            Io::InvalidInput | Io::UnexpectedEof => StatusCode::BAD_REQUEST,
            Io::FileTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            // A link that somebody put there, or something that is no file: asking again changes nothing.
            Io::InvalidData | Io::NotADirectory | Io::CrossesDevices => StatusCode::CONFLICT,
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

/// What a path of the protocol names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Repository,
    Note,
    Shelf(&'static str),
    /// A file in a folder; the config is in none.
    File(&'static str, String),
}

fn named(path: &str) -> Option<Named> {
    let path = path.strip_prefix('/')?;
    match path {
        "" => return Some(Named::Repository),
        "config" => return Some(Named::File("", path.to_owned())),
        NOTE_NAME => return Some(Named::Note),
        _ => {}
    }
    let (kind, name) = path.split_once('/').unwrap_or((path, ""));
    let kind = crate::local::SHELVES.into_iter().find(|known| *known == kind)?;
    if name.is_empty() {
        return Some(Named::Shelf(kind));
    }
    let plain = is_name(name) && !name.bytes().any(|byte| byte.is_ascii_uppercase());
    plain.then(|| Named::File(kind, name.to_owned()))
}

async fn answer(files: Arc<Files>, request: Request<Incoming>) -> Result<Response<Answer>, Refused> {
    let named = named(request.uri().path()).ok_or_else(|| Refused::new(StatusCode::BAD_REQUEST, "the protocol has no such path"))?;
    let method = request.method().clone();
    match (named, method) {
        (Named::Repository, Method::POST) if request.uri().query() == Some("create=true") => {
            on_disk(move || files.create()).await?;
            Ok(done())
        }
        (Named::Note, Method::POST) => {
            on_disk(move || files.note()).await?;
            Ok(done())
        }
        (Named::Shelf(kind), Method::GET) => {
            let listed = on_disk(move || files.list(kind)).await?;
            list(listed, request.headers())
        }
        (Named::File(kind, name), Method::HEAD) => {
            let size = on_disk(move || files.size(kind, &name)).await?.ok_or_else(Refused::nothing)?;
            let mut response = done();
            response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
            Ok(response)
        }
        (Named::File(kind, name), Method::GET) => read(files, kind, name, request.headers()).await,
        (Named::File(kind, name), Method::POST) => write(files, kind, name, request.into_body()).await,
        (Named::File(kind, name), Method::DELETE) => {
            on_disk(move || files.remove(kind, &name)).await?;
            Ok(done())
        }
        (Named::Repository | Named::Note | Named::Shelf(_) | Named::File(..), _) => {
            Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, "the protocol does not do this"))
        }
    }
}

fn list(listed: Vec<(String, u64)>, headers: &HeaderMap) -> Result<Response<Answer>, Refused> {
    let accepted = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let (kind, files): (_, Vec<_>) = if accepted.contains(VERSION_2) {
        let files = listed.into_iter().map(|(name, size)| json!({ "name": name, "size": size }));
        (VERSION_2, files.collect())
    } else {
        (VERSION_1, listed.into_iter().map(|(name, _)| name.into()).collect())
    };
    let text = serde_json::to_vec(&files).map_err(io::Error::other)?;
    let mut response = Response::new(whole(text.into()));
    typed(response.headers_mut(), kind);
    Ok(response)
}

async fn read(files: Arc<Files>, kind: &'static str, name: String, headers: &HeaderMap) -> Result<Response<Answer>, Refused> {
    let (file, size) = on_disk(move || files.open(kind, &name)).await?;
    let asked = headers.get(header::RANGE).and_then(|value| part(value.to_str().ok()?));
    let (status, from, length) = match asked {
        Some((first, _)) if first >= size => {
            return Err(Refused::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("it has {size} bytes")));
        }
        Some((first, last)) => (StatusCode::PARTIAL_CONTENT, first, last.min(size - 1) - first + 1),
        None => (StatusCode::OK, 0, size),
    };
    let body = if length <= AT_ONCE {
        whole(on_disk(move || files::read(&file, from, length)).await?)
    } else {
        let (tx, rx) = mpsc::channel(QUEUE);
        spawn_blocking(move || files::read_to(&file, from, length, &tx));
        StreamBody::new(ReceiverStream::new(rx)).boxed_unsync()
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let head = response.headers_mut();
    head.insert(header::CONTENT_LENGTH, length.into());
    typed(head, "application/octet-stream");
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {from}-{}/{size}", from + length - 1);
        head.insert(header::CONTENT_RANGE, HeaderValue::from_str(&range).map_err(io::Error::other)?);
    }
    Ok(response)
}

/// The first and last byte of a range. Of several, or from the end, restic asks for none: then all is sent, as the standard allows.
fn part(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let last = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
    (first <= last).then_some((first, last))
}

async fn write(files: Arc<Files>, kind: &'static str, name: String, mut body: Incoming) -> Result<Response<Answer>, Refused> {
    let limit = files.limit();
    let too_large = || Refused::from(io::Error::new(Io::FileTooLarge, format!("a file has {limit} bytes at most")));
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let (tx, rx) = mpsc::channel(QUEUE);
    let writing = spawn_blocking(move || files.write(kind, &name, rx));
    let mut to = Some(tx);
    let mut taken = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            // Without its end nothing is kept.
            drop(to.take());
            break;
        };
        let Ok(data) = frame.into_data() else { continue };
        taken += data.len() as u64;
        if taken > limit {
            return Err(too_large());
        }
        // What could not be written is read to its end all the same: who still sends would not hear why.
        if let Some(open) = &to
            && open.send(Piece::Bytes(data)).await.is_err()
        {
            to = None;
        }
    }
    if let Some(open) = to {
        // Where nobody takes it, the writer says why.
        let _ = open.send(Piece::End).await;
    }
    joined(writing.await)?;
    Ok(done())
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Refused> {
    joined(spawn_blocking(work).await)
}

fn joined<T>(ended: Result<io::Result<T>, tokio::task::JoinError>) -> Result<T, Refused> {
    match ended {
        Ok(done) => Ok(done?),
        Err(error) => Err(Refused::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the server failed: {error}"),
        )),
    }
}

fn whole(bytes: Bytes) -> Answer {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn done() -> Response<Answer> {
    Response::new(whole(Bytes::new()))
}

fn typed(headers: &mut HeaderMap, kind: &'static str) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
}

/// A piece of a file on its way out.
type Sent = io::Result<Frame<Bytes>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_the_protocol_has_and_nothing_else() {
        let hex = "0123456789abcdef".repeat(4);
        assert_eq!(named("/"), Some(Named::Repository));
        assert_eq!(named("/config"), Some(Named::File("", "config".into())));
        assert_eq!(named("/data/"), Some(Named::Shelf("data")));
        assert_eq!(named("/locks"), Some(Named::Shelf("locks")));
        assert_eq!(named(&format!("/data/{hex}")), Some(Named::File("data", hex.clone())));
        for bad in [
            String::new(),
            "config".into(),
            "/configs".into(),
            "/..".into(),
            "/../config".into(),
            "/data/..".into(),
            "/data/../config".into(),
            "/data/%2e%2e".into(),
            format!("/data/{}", hex.to_uppercase()),
            format!("/data/{}/{hex}", &hex[..2]),
            format!("/data/{hex}/"),
            format!("/data/{}", &hex[1..]),
            format!("/other/{hex}"),
            format!("//data/{hex}"),
        ] {
            assert_eq!(named(&bad), None, "{bad}");
        }
    }

    #[test]
    fn parts_are_from_a_byte_to_a_byte() {
        assert_eq!(part("bytes=0-0"), Some((0, 0)));
        assert_eq!(part("bytes=7-"), Some((7, u64::MAX)));
        for other in ["bytes=-5", "bytes=5-2", "bytes=1-2,4-5", "lines=1-2", "bytes=a-b"] {
            assert_eq!(part(other), None, "{other}");
        }
    }
}
