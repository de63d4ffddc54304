//! Where an answer's body ends (RFC 9112, 6.3), and which of the bytes read are body.

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Version};
use hyper::body::SizeHint;

/// What chunk extensions, and what trailers, of one body may take; both are dropped.
const ASIDE_AT_MOST: u32 = 16 << 10;

#[derive(Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are to come.
    Length(u64),
    Chunked(Chunked),
    /// Until the member closes.
    Close {
        closed: bool,
    },
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chunked {
    at: At,
    /// Of the chunk that is being read: bytes to come.
    left: u64,
    aside: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Start,
    Size,
    AfterSize,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    LineStart,
    Trailer,
    TrailerLf,
    LastLf,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it has no valid length")]
    Length,
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    TransferEncoding,
    #[error("its chunks are malformed")]
    Chunk,
    #[error("its chunk extensions or trailers are larger than allowed")]
    Aside,
    #[error("it ends before its end")]
    Incomplete,
}

impl Framing {
    /// Of the answer to a request with this method.
    pub fn of(method: &Method, status: StatusCode, version: Version, headers: &HeaderMap) -> Result<Self, Malformed> {
        if method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(Self::Length(0));
        }
        if let Some(last) = headers.get_all(header::TRANSFER_ENCODING).iter().next_back() {
            if version == Version::HTTP_10 {
                return Err(Malformed::TransferEncoding);
            }
            let coding = last.as_bytes().rsplit(|b| *b == b',').next().unwrap_or_default();
            return Ok(if coding.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                Self::Chunked(Chunked::default())
            } else {
                Self::Close { closed: false }
            });
        }
        let mut length = None;
        for said in headers.get_all(header::CONTENT_LENGTH).iter().flat_map(elements) {
            let said = digits(said).ok_or(Malformed::Length)?;
            if length.replace(said).is_some_and(|before| before != said) {
                return Err(Malformed::Length);
            }
        }
        Ok(length.map_or(Self::Close { closed: false }, Self::Length))
    }

    /// The next piece of the body of what was read, which it is taken from; nothing where more has to be read, or it is complete.
    pub fn next(&mut self, read: &mut Bytes) -> Result<Option<Bytes>, Malformed> {
        match self {
            Self::Length(left) => Ok(take(read, left)),
            Self::Chunked(chunked) => chunked.next(read),
            Self::Close { .. } => Ok(Some(std::mem::take(read)).filter(|all| !all.is_empty())),
        }
    }

    pub fn is_complete(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.at == At::End,
            Self::Close { closed } => *closed,
        }
    }

    /// The member has closed.
    pub fn close(&mut self) -> Result<(), Malformed> {
        match self {
            Self::Close { closed } => {
                *closed = true;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => Err(Malformed::Incomplete),
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Length(left) => SizeHint::with_exact(*left),
            Self::Chunked(_) | Self::Close { .. } => SizeHint::default(),
        }
    }
}

impl Chunked {
    fn next(&mut self, read: &mut Bytes) -> Result<Option<Bytes>, Malformed> {
        while !read.is_empty() && self.at != At::End {
            if self.at == At::Data {
                let data = take(read, &mut self.left);
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                return Ok(data);
            }
            let byte = read.get_u8();
            self.at = self.step(byte)?;
        }
        Ok(None)
    }

    fn step(&mut self, byte: u8) -> Result<At, Malformed> {
        Ok(match (self.at, byte) {
            (At::Start | At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed::Chunk)?;
                let grown = self.left.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit)));
                self.left = grown.ok_or(Malformed::Chunk)?;
                At::Size
            }
            (At::Size | At::AfterSize, b' ' | b'\t') => At::AfterSize,
            (At::Size | At::AfterSize, b';') => At::Extension,
            (At::Size | At::AfterSize | At::Extension, b'\r') => At::SizeLf,
            (At::Extension, b'\n') => return Err(Malformed::Chunk),
            (At::Extension, _) => self.skip(At::Extension)?,
            (At::SizeLf, b'\n') if self.left == 0 => At::LineStart,
            (At::SizeLf, b'\n') => At::Data,
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Start,
            (At::LineStart, b'\r') => At::LastLf,
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::LineStart | At::Trailer, b'\n') => return Err(Malformed::Chunk),
            (At::LineStart | At::Trailer, _) => self.skip(At::Trailer)?,
            (At::TrailerLf, b'\n') => At::LineStart,
            (At::LastLf, b'\n') => At::End,
            _ => return Err(Malformed::Chunk),
        })
    }

    fn skip(&mut self, to: At) -> Result<At, Malformed> {
        self.aside += 1;
        if self.aside > ASIDE_AT_MOST {
            Err(Malformed::Aside)
        } else {
            Ok(to)
        }
    }
}

/// As much as there is of `left` bytes.
fn take(read: &mut Bytes, left: &mut u64) -> Option<Bytes> {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
    *left -= count as u64;
    (count > 0).then(|| read.split_to(count))
}

fn elements(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

fn digits(text: &[u8]) -> Option<u64> {
    let right = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| right)?.parse().ok()
}

/// Whether the member keeps the connection open after an answer (RFC 9112, 9.3).
pub fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let mut keep = version == Version::HTTP_11;
    for option in headers.get_all(header::CONNECTION).iter().flat_map(elements) {
        if option.eq_ignore_ascii_case(b"close") {
            return false;
        }
        keep |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    keep
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body of bytes that come in pieces of `size`, and what is left of them.
    fn decode(mut framing: Framing, bytes: &[u8], size: usize) -> Result<(Vec<u8>, usize), Malformed> {
        let (mut body, mut left) = (Vec::new(), 0);
        for piece in bytes.chunks(size) {
            let mut read = Bytes::copy_from_slice(piece);
            while let Some(data) = framing.next(&mut read)? {
                body.extend_from_slice(&data);
            }
            assert!(read.is_empty() || framing.is_complete());
            left += read.len();
        }
        if !framing.is_complete() {
            framing.close()?;
        }
        Ok((body, left))
    }

    #[test]
    fn chunks_come_in_pieces_of_any_size() {
        let chunked = || Framing::Chunked(Chunked::default());
        type Decoded = Result<(&'static [u8], usize), Malformed>;
        let cases: [(&[u8], Decoded); 14] = [
            (b"3\r\nabc\r\n0\r\n\r\n", Ok((b"abc", 0))),
            (b"3\r\nabc\r\n2 ;x=\"y\"\r\nde\r\n0\r\n\r\n", Ok((b"abcde", 0))),
            (b"00A\r\n0123456789\r\n00\r\n\r\n", Ok((b"0123456789", 0))),
            (b"1\r\na\r\n0\r\nx: y\r\nz:\r\n\r\nHTTP", Ok((b"a", 4))),
            (b"0\r\n\r\n", Ok((b"", 0))),
            (b"3\r\nab", Err(Malformed::Incomplete)),
            (b"1\r\na\r\n0\r\n", Err(Malformed::Incomplete)),
            (b"\r\n", Err(Malformed::Chunk)),
            (b"1\na\r\n", Err(Malformed::Chunk)),
            (b"1\r\nab\r\n", Err(Malformed::Chunk)),
            (b"-1\r\n", Err(Malformed::Chunk)),
            (b"0x1\r\n", Err(Malformed::Chunk)),
            (b"1;a\nb\r\n", Err(Malformed::Chunk)),
            (b"10000000000000000\r\n", Err(Malformed::Chunk)),
        ];
        for (bytes, expected) in cases {
            for size in [1, 2, 5, 1_000] {
                let found = decode(chunked(), bytes, size);
                let expected = expected.map(|(body, left)| (body.to_vec(), left));
                assert_eq!(found, expected, "{:?} by {size}", String::from_utf8_lossy(bytes));
            }
        }
        let long = [b"1;".as_slice(), &[b'x'; 20 << 10]].concat();
        assert_eq!(decode(chunked(), &long, 4_096), Err(Malformed::Aside));
        let trailers = [b"0\r\n".as_slice(), &b"a: b\r\n".repeat(5_000)].concat();
        assert_eq!(decode(chunked(), &trailers, 4_096), Err(Malformed::Aside));
    }

    #[test]
    fn lengths_and_ends() {
        assert_eq!(decode(Framing::Length(3), b"abcd", 2), Ok((b"abc".to_vec(), 1)));
        assert_eq!(decode(Framing::Length(5), b"abcd", 2), Err(Malformed::Incomplete));
        assert_eq!(decode(Framing::Close { closed: false }, b"abcd", 3), Ok((b"abcd".to_vec(), 0)));
    }

    #[test]
    fn heads_say_how_bodies_end() {
        let chunked = || Framing::Chunked(Chunked::default());
        let until_closed = || Framing::Close { closed: false };
        type Fields = &'static [(&'static str, &'static str)];
        let cases: [(&str, u16, Fields, Result<Framing, Malformed>); 12] = [
            ("GET", 200, &[("content-length", "7")], Ok(Framing::Length(7))),
            (
                "GET",
                200,
                &[("content-length", "7"), ("content-length", "7")],
                Ok(Framing::Length(7)),
            ),
            ("GET", 200, &[("content-length", "7, 8")], Err(Malformed::Length)),
            ("GET", 200, &[("content-length", "+7")], Err(Malformed::Length)),
            ("GET", 200, &[("content-length", "")], Err(Malformed::Length)),
            ("GET", 200, &[("content-length", "99999999999999999999")], Err(Malformed::Length)),
            ("HEAD", 200, &[("content-length", "7")], Ok(Framing::Length(0))),
            ("GET", 304, &[("content-length", "7")], Ok(Framing::Length(0))),
            (
                "GET",
                200,
                &[("transfer-encoding", "Chunked"), ("content-length", "7")],
                Ok(chunked()),
            ),
            ("GET", 200, &[("transfer-encoding", "gzip, chunked")], Ok(chunked())),
            ("GET", 200, &[("transfer-encoding", "chunked, gzip")], Ok(until_closed())),
            ("GET", 200, &[], Ok(until_closed())),
        ];
        for (method, status, fields, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let (method, status) = (method.parse().unwrap_or_default(), StatusCode::from_u16(status).unwrap_or_default());
            assert_eq!(Framing::of(&method, status, Version::HTTP_11, &headers), expected, "{fields:?}");
            let old = Framing::of(&method, status, Version::HTTP_10, &headers);
            let encoded = headers.contains_key(header::TRANSFER_ENCODING);
            assert_eq!(old == Err(Malformed::TransferEncoding), encoded, "{fields:?}");
        }
    }

    #[test]
    fn what_keeps_a_connection() {
        for (version, value, keeps) in [
            (Version::HTTP_11, "", true),
            (Version::HTTP_11, "x, Close", false),
            (Version::HTTP_11, "close, keep-alive", false),
            (Version::HTTP_10, "", false),
            (Version::HTTP_10, "Keep-Alive", true),
        ] {
            let headers = HeaderMap::from_iter([(header::CONNECTION, HeaderValue::from_static(value))]);
            assert_eq!(keeps_alive(version, &headers), keeps, "{version:?} {value}");
        }
    }
}
