//! The terminal's WebSocket, from the client's side.

use crate::client::Call;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, header};
use nm_waits::soon;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

/// An open terminal.
#[derive(Debug)]
pub struct Terminal {
    socket: WebSocketStream<TcpStream>,
}

/// What the control plane says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Output(Bytes),
    Exit(i64),
    /// The code of the error.
    Error(String),
    /// The socket is closed.
    Closed,
}

impl Terminal {
    pub(crate) async fn open(call: &Call) -> Result<Self, (http::response::Parts, Bytes)> {
        let (mut head, _) = call.request().into_parts();
        for (name, value) in [
            (header::CONNECTION, "upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            // Any 16 bytes do: <https://www.rfc-editor.org/rfc/rfc6455#section-4.1>.
            (header::SEC_WEBSOCKET_KEY, "AAAAAAAAAAAAAAAAAAAAAA=="),
        ] {
            head.headers.insert(name, http::HeaderValue::from_static(value));
        }
        // The library reads the target from an absolute address.
        head.uri = format!("ws://{}{}", call.address(), head.uri)
            .parse()
            .expect("an address and a path");
        let socket = TcpStream::connect(call.address()).await.expect("the API listens");
        match soon(
            "the upgrade",
            tokio_tungstenite::client_async(Request::from_parts(head, ()), socket),
        )
        .await
        {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(Error::Http(response)) => {
                let (head, body) = Response::into_parts(*response);
                Err((head, body.unwrap_or_default().into()))
            }
            Err(error) => panic!("the upgrade failed: {error}"),
        }
    }

    pub async fn send(&mut self, input: &[u8]) {
        self.message(Message::Binary(Bytes::copy_from_slice(input))).await;
    }
    pub async fn resize(&mut self, rows: u16, cols: u16) {
        self.control(&json!({ "type": "resize", "rows": rows, "cols": cols })).await;
    }
    pub async fn end_of_input(&mut self) {
        self.control(&json!({ "type": "eof" })).await;
    }
    /// Any text message.
    pub async fn control(&mut self, message: &Value) {
        self.message(Message::Text(message.to_string().into())).await;
    }

    async fn message(&mut self, message: Message) {
        soon("a message is sent", self.socket.send(message))
            .await
            .expect("the terminal is open");
    }

    /// The next thing it says.
    pub async fn next(&mut self) -> Said {
        soon("the terminal says something", async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Binary(data))) => return Said::Output(data),
                    Some(Ok(Message::Text(text))) => {
                        let said: Value = serde_json::from_str(&text).expect("text messages are JSON");
                        return match said["type"].as_str() {
                            Some("exit") => Said::Exit(said["code"].as_i64().expect("an exit code")),
                            Some("error") => {
                                assert!(said["error"].as_str().is_some_and(|e| !e.is_empty()), "{said}");
                                Said::Error(said["code"].as_str().expect("a code").to_owned())
                            }
                            _ => panic!("not in the documentation: {said}"),
                        };
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Said::Closed,
                    Some(Ok(_)) => {}
                }
            }
        })
        .await
    }

    /// Reads output until `wanted` is in it.
    pub async fn until(&mut self, wanted: &str) {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            match self.next().await {
                Said::Output(data) => seen.extend_from_slice(&data),
                other => panic!("{other:?} before {wanted:?}, after {:?}", String::from_utf8_lossy(&seen)),
            }
        }
    }
}
