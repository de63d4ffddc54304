//! HTTP/2 frame by frame, for clients that do not keep to it.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 32;

pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const REFUSED_STREAM: u32 = 7;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const COMPRESSION_ERROR: u32 = 9;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A header block without Huffman coding and without the table (RFC 7541, 6.2.2).
pub fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in headers {
        out.push(0);
        for text in [name, value] {
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

pub const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

pub fn with(more: &[(&str, &str)]) -> Vec<u8> {
    block(&[&GET[..], more].concat())
}

pub fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&GET))
}

/// What came back, in short.
#[derive(Debug, Default)]
pub struct Seen {
    pub frames: Vec<(u8, u8, u32, Vec<u8>)>,
    pub closed: bool,
}

impl Seen {
    pub fn goaway(&self) -> Option<u32> {
        let last = self.frames.iter().find(|f| f.0 == GOAWAY)?;
        Some(u32::from_be_bytes(last.3[4..8].try_into().unwrap()))
    }
    pub fn reset(&self, stream: u32) -> Option<u32> {
        let reset = self.frames.iter().find(|f| f.0 == RST_STREAM && f.2 == stream)?;
        Some(u32::from_be_bytes(reset.3[..4].try_into().unwrap()))
    }
    pub fn answered(&self, stream: u32) -> bool {
        self.frames.iter().any(|f| f.0 == HEADERS && f.2 == stream)
    }
}

/// The preface, SETTINGS, then these.
pub fn beginning(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    out.extend_from_slice(&frame(SETTINGS, 0, 0, &[]));
    frames.iter().for_each(|f| out.extend_from_slice(f));
    out
}

/// Sends bytes as they are; reads until it is enough, or the connection closes.
pub async fn say<T: AsyncRead + AsyncWrite + Unpin>(mut stream: T, out: &[u8], enough: impl Fn(&Seen) -> bool) -> Seen {
    // The other side may close before it has read everything.
    let _ = stream.write_all(out).await;
    let mut seen = Seen::default();
    let read = async {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 << 10];
        while !enough(&seen) {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => {
                    seen.closed = true;
                    return;
                }
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            }
            while bytes.len() >= 9 {
                let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
                if bytes.len() < 9 + length {
                    break;
                }
                let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
                seen.frames.push((bytes[3], bytes[4], stream, bytes[9..9 + length].to_vec()));
                bytes.drain(..9 + length);
            }
        }
    };
    super::soon("an answer", read).await;
    seen
}
