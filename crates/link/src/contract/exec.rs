//! Frames of an interactive terminal: one byte of kind, four bytes of length (big endian), then the payload.
//! Kinds to the container: `0` input, `1` resize (rows, columns, two bytes each), `2` end of input.
//! Kinds from it: `0` output, `3` exit (code, eight bytes), `4` an [`AgentError`](super::AgentError) as JSON, `5` standard error
//! where there is no terminal.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The most one frame carries; a longer one is a broken or hostile peer.
pub const MAX_PAYLOAD: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Input to, or output from, the terminal.
    Data(Bytes),
    Resize {
        rows: u16,
        cols: u16,
    },
    EndOfInput,
    Exit {
        code: i64,
    },
    /// JSON of an `AgentError`.
    Error(Bytes),
    /// What the program writes to standard error; with a terminal it is part of the output.
    Stderr(Bytes),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a broken terminal frame: {0}")]
pub struct BadFrame(&'static str);

impl Frame {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        let mut put = |kind: u8, payload: &[u8]| {
            out.put_u8(kind);
            out.put_u32(payload.len() as u32);
            out.extend_from_slice(payload);
        };
        match self {
            Frame::Data(data) => put(0, data),
            Frame::Resize { rows, cols } => {
                let ([a, b], [c, d]) = (rows.to_be_bytes(), cols.to_be_bytes());
                put(1, &[a, b, c, d]);
            }
            Frame::EndOfInput => put(2, &[]),
            Frame::Exit { code } => put(3, &code.to_be_bytes()),
            Frame::Error(json) => put(4, json),
            Frame::Stderr(data) => put(5, data),
        }
        out.freeze()
    }

    /// Takes one whole frame from the front of `buffer`; `None` where more bytes are needed.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, BadFrame> {
        if buffer.len() < 5 {
            return Ok(None);
        }
        let kind = buffer[0];
        let len = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
        if len > MAX_PAYLOAD {
            return Err(BadFrame("longer than 1 MiB"));
        }
        if buffer.len() < 5 + len {
            return Ok(None);
        }
        buffer.advance(5);
        let mut payload = buffer.split_to(len).freeze();
        Ok(Some(match (kind, len) {
            (0, _) => Frame::Data(payload),
            (1, 4) => Frame::Resize {
                rows: payload.get_u16(),
                cols: payload.get_u16(),
            },
            (2, 0) => Frame::EndOfInput,
            (3, 8) => Frame::Exit { code: payload.get_i64() },
            (4, _) => Frame::Error(payload),
            (5, _) => Frame::Stderr(payload),
            _ => return Err(BadFrame("unknown kind or wrong length")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_split() {
        let frames = [
            Frame::Data(Bytes::from_static(b"ls\n")),
            Frame::Resize { rows: 40, cols: 120 },
            Frame::EndOfInput,
            Frame::Exit { code: -1 },
            Frame::Error(Bytes::from_static(b"{}")),
            Frame::Stderr(Bytes::from_static(b"ls: no such file\n")),
        ];
        let wire: Vec<u8> = frames.iter().flat_map(|f| f.encode().to_vec()).collect();
        for cut in 0..wire.len() {
            let mut buffer = BytesMut::from(&wire[..cut]);
            let mut seen = Vec::new();
            while let Some(f) = Frame::decode(&mut buffer).unwrap() {
                seen.push(f);
            }
            buffer.extend_from_slice(&wire[cut..]);
            while let Some(f) = Frame::decode(&mut buffer).unwrap() {
                seen.push(f);
            }
            assert_eq!(seen, frames);
        }
    }

    #[test]
    fn a_hostile_length_is_refused() {
        assert!(Frame::decode(&mut BytesMut::from(&[0u8, 0xff, 0xff, 0xff, 0xff][..])).is_err());
        assert!(Frame::decode(&mut BytesMut::from(&[9u8, 0, 0, 0, 0][..])).is_err());
    }
}
