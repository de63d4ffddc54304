//! Whether a Docker engine answers. Only its version is asked for; everything else about Docker is the agent's.

use super::Finding;
use serde::Deserialize;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const CHECK: &str = "docker";
const DEADLINE: Duration = Duration::from_secs(5);
/// Docker 20.10's; what the agent needs at least.
const OLDEST_API: (u32, u32) = (1, 41);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
    api_version: String,
}

pub async fn engine(socket: &Path) -> Finding {
    let at = socket.display();
    match tokio::time::timeout(DEADLINE, version(socket)).await {
        Err(_) => Finding::fail(
            CHECK,
            format!("the engine at {at} does not answer"),
            "Restart it: sudo systemctl restart docker",
        ),
        Ok(Ok(found)) => judge(&found, socket),
        Ok(Err(e)) => match e.kind() {
            io::ErrorKind::NotFound => Finding::fail(
                CHECK,
                format!("there is no engine at {at}"),
                "Install and start Docker (https://docs.docker.com/engine/install), or name its socket with --docker-socket.",
            ),
            io::ErrorKind::PermissionDenied => Finding::fail(
                CHECK,
                format!("{at} is not yours to use"),
                "Run neuralmesh as root, or join the docker group (sudo usermod -aG docker $USER) and sign in anew.",
            ),
            io::ErrorKind::ConnectionRefused => Finding::fail(
                CHECK,
                format!("nothing listens at {at}"),
                "Start Docker: sudo systemctl start docker",
            ),
            _ => Finding::fail(
                CHECK,
                format!("the engine at {at} can't be asked: {e}"),
                "See its log: journalctl -u docker",
            ),
        },
    }
}

fn judge(found: &Version, socket: &Path) -> Finding {
    let text = format!("{} (API {}) at {}", found.version, found.api_version, socket.display());
    match api(&found.api_version) {
        Some(api) if api >= OLDEST_API => Finding::ok(CHECK, text),
        Some(_) => Finding::warn(CHECK, text, "It is older than 20.10, the oldest that is tried: upgrade Docker."),
        None => Finding::warn(CHECK, text, "Its API version can't be read: is this Docker?"),
    }
}

fn api(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

async fn version(socket: &Path) -> io::Result<Version> {
    let mut stream = UnixStream::connect(socket).await?;
    // HTTP/1.0: the answer ends with the connection, in one piece.
    stream.write_all(b"GET /version HTTP/1.0\r\nHost: docker\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(1 << 20).read_to_end(&mut answer).await?;
    let body = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map(|at| &answer[at + 4..])
        .unwrap_or_default();
    serde_json::from_slice(body).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "what answers there is not Docker"))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use tokio::net::UnixListener;

    async fn answered(answer: &'static str) -> Finding {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 1024];
            assert!(stream.read(&mut asked).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let finding = engine(&path).await;
        server.await.unwrap();
        finding
    }

    #[tokio::test]
    async fn engines_are_told_apart() {
        let ok = answered("HTTP/1.0 200 OK\r\nX: y\r\n\r\n{\"Version\":\"28.5.1\",\"ApiVersion\":\"1.51\",\"Os\":\"linux\"}").await;
        assert_eq!(ok.verdict, Verdict::Ok);
        assert!(ok.found.starts_with("28.5.1 (API 1.51)"), "{}", ok.found);
        assert_eq!(
            answered("HTTP/1.0 200 OK\r\n\r\n{\"Version\":\"18\",\"ApiVersion\":\"1.39\"}")
                .await
                .verdict,
            Verdict::Warn
        );
        assert_eq!(answered("HTTP/1.0 200 OK\r\n\r\n<html>").await.verdict, Verdict::Fail);
        assert!(engine(Path::new("/nowhere/docker.sock")).await.found.contains("there is no engine"));
    }
}
