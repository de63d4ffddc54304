//! A WebSocket over the same HTTP client as everything else, so that proxies, trust and refusals work the same.

use super::{Call, Client, ClientError};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, StatusCode};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

type Stream = WebSocketStream<reqwest::Upgraded>;

/// What comes over a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketMessage {
    Binary(Bytes),
    Text(String),
}

/// An open socket, its two directions apart.
#[derive(Debug)]
pub struct Socket {
    pub sender: SocketSender,
    pub receiver: SocketReceiver,
}

#[derive(Debug)]
pub struct SocketSender {
    sink: SplitSink<Stream, Message>,
    server: String,
}

#[derive(Debug)]
pub struct SocketReceiver {
    stream: SplitStream<Stream>,
    server: String,
}

impl SocketSender {
    pub async fn send(&mut self, message: SocketMessage) -> Result<(), ClientError> {
        let message = match message {
            SocketMessage::Binary(bytes) => Message::Binary(bytes),
            SocketMessage::Text(text) => Message::Text(text.into()),
        };
        self.sink.send(message).await.map_err(|e| ClientError::Broken {
            server: self.server.clone(),
            reason: e.to_string(),
        })
    }

    /// Says goodbye; the other side may be gone already.
    pub async fn close(&mut self) {
        let _gone_already = self.sink.close().await;
    }
}

impl SocketReceiver {
    /// The next message; `None` when the other side has ended the conversation.
    pub async fn next(&mut self) -> Result<Option<SocketMessage>, ClientError> {
        loop {
            return match self.stream.next().await {
                None | Some(Ok(Message::Close(_))) => Ok(None),
                Some(Ok(Message::Binary(bytes))) => Ok(Some(SocketMessage::Binary(bytes))),
                Some(Ok(Message::Text(text))) => Ok(Some(SocketMessage::Text(text.as_str().to_owned()))),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(e)) => Err(ClientError::Broken {
                    server: self.server.clone(),
                    reason: e.to_string(),
                }),
            };
        }
    }
}

impl Client {
    /// Opens a WebSocket.
    pub async fn websocket(&self, call: Call) -> Result<Socket, ClientError> {
        let server = self.server.to_string();
        let broken = |reason: &str| ClientError::Broken {
            server: server.clone(),
            reason: reason.to_owned(),
        };
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(|e| broken(&e.to_string()))?;
        let key = base64::engine::general_purpose::STANDARD.encode(random);
        let call = call
            .header("connection", HeaderValue::from_static("Upgrade"))
            .header("upgrade", HeaderValue::from_static("websocket"))
            .header("sec-websocket-version", HeaderValue::from_static("13"))
            .header(
                "sec-websocket-key",
                HeaderValue::from_str(&key).map_err(|e| broken(&e.to_string()))?,
            );
        let mut token = self.session.token(self).await?;
        let mut renewed = false;
        let response = loop {
            let request = self.request(&self.http1, &call, token.as_deref()).send();
            let response = match tokio::time::timeout(call.timeout, request).await {
                Ok(response) => response.map_err(|e| self.transport(&call, &e))?,
                Err(_) => {
                    return Err(ClientError::Timeout {
                        server,
                        after: call.timeout,
                    });
                }
            };
            if response.status() == StatusCode::UNAUTHORIZED
                && !renewed
                && let Some(old) = &token
                && let Some(new) = self.session.renew(self, old).await?
            {
                token = Some(new);
                renewed = true;
                continue;
            }
            break response;
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(response, token.is_some()).await);
        }
        let accepted = response
            .headers()
            .get("sec-websocket-accept")
            .is_some_and(|v| v.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes());
        if !accepted {
            return Err(broken(
                "it does not speak WebSocket: a proxy in front of it may not let WebSockets through",
            ));
        }
        let upgraded = response.upgrade().await.map_err(|e| broken(&super::error::reason(&e)))?;
        let (sink, stream) = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await.split();
        Ok(Socket {
            sender: SocketSender {
                sink,
                server: server.clone(),
            },
            receiver: SocketReceiver { stream, server },
        })
    }
}
