//! Asking a service whether it is there, over a connection that the caller made and may have judged before.

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("the request can't be written")]
    Request(#[from] http::Error),
    #[error("no HTTP answer")]
    Broken(#[from] hyper::Error),
}

/// The status a GET of `path` is answered with. Redirects are answers like any other: nothing is followed. `host` is sent as
/// the `Host`.
pub async fn get_status<T>(connection: T, host: &str, path: &str) -> Result<u16, AskError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin,
{
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("neuralmesh/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, HeaderValue::from_static("close"))
        .body(Empty::<Bytes>::new())?;
    let (mut sender, driving) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        response = &mut answer => response,
        // The connection may end with the answer; whether it did, the answer knows.
        _ended = driving => answer.await,
    };
    Ok(response?.status().as_u16())
}

/// Whether `status` is the one wanted: any from 200 to 399 where none is named.
pub fn is_wanted(status: u16, wanted: Option<u16>) -> bool {
    match wanted {
        Some(wanted) => status == wanted,
        None => (200..=399).contains(&status),
    }
}

/// What is wanted, in words.
pub fn wanted_status(wanted: Option<u16>) -> String {
    match wanted {
        Some(wanted) => format!("status {wanted}"),
        None => "status 200 to 399".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn answered(with: &'static [u8]) -> (Result<u16, AskError>, String) {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let serving = tokio::spawn(async move {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(theirs.read_u8().await.unwrap());
            }
            theirs.write_all(with).await.unwrap();
            String::from_utf8(asked).unwrap()
        });
        let status = get_status(ours, "a.test:8080", "/up?x=1").await;
        (status, serving.await.unwrap())
    }

    #[tokio::test]
    async fn statuses() {
        let (status, asked) = answered(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(status.unwrap(), 204);
        assert!(
            asked.starts_with("GET /up?x=1 HTTP/1.1\r\n") && asked.contains("host: a.test:8080\r\n"),
            "{asked}"
        );
        let (status, _) = answered(b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(status.unwrap(), 302, "a redirect is an answer");
        let (status, _) = answered(b"SSH-2.0-OpenSSH_9.6\r\n").await;
        assert!(status.is_err());
        let (status, _) = answered(b"").await;
        assert!(status.is_err());
        assert!(is_wanted(302, None) && !is_wanted(400, None) && is_wanted(503, Some(503)) && !is_wanted(200, Some(503)));
    }
}
