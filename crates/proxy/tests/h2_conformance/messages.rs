//! RFC 9113, 8: requests; RFC 7541: how their headers are compressed.

use super::Case;
use super::Expect::{Answer, Answered, Connection, Stream};
use crate::kit::frames::*;

pub fn cases() -> Vec<Case> {
    let open = |flags: u8, block: &[u8]| frame(HEADERS, flags, 1, block);
    let done = END_STREAM | END_HEADERS;
    let post = block(&[(":method", "POST"), GET[1], GET[2], GET[3]]);
    vec![
        (
            "8.1 trailers",
            vec![open(END_HEADERS, &post), frame(DATA, 0, 1, b"x"), open(done, &block(&[("x", "y")]))],
            Answer,
        ),
        (
            "8.1 trailers that are not the end",
            vec![open(END_HEADERS, &post), open(END_HEADERS, &block(&[("x", "y")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.1 a pseudo-header in trailers, which go no further in any case",
            vec![open(END_HEADERS, &post), open(done, &block(&[("x", "y"), (":method", "GET")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.1.1 a length that is not the body's",
            vec![
                open(END_HEADERS, &with(&[("content-length", "5")])),
                frame(DATA, END_STREAM, 1, b"x"),
            ],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.1.1 more than its length",
            vec![
                open(END_HEADERS, &[&post[..], &block(&[("content-length", "1")])].concat()),
                frame(DATA, 0, 1, b"x"),
                frame(DATA, END_STREAM, 1, b"y"),
            ],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.1.1 a length without a body",
            vec![open(done, &[&post[..], &block(&[("content-length", "5")])].concat())],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.1.1 a length that is none",
            vec![
                open(END_HEADERS, &[&post[..], &block(&[("content-length", "+1")])].concat()),
                frame(DATA, END_STREAM, 1, b"x"),
            ],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.2 a name in capitals",
            vec![open(done, &with(&[("X-A", "1")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.2.1 NUL in a value",
            vec![open(done, &with(&[("x", "a\0b")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.2.1 an end of line in a value",
            vec![open(done, &with(&[("x", "a\r\nb: c")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.2.2 Connection",
            vec![open(done, &with(&[("connection", "keep-alive")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.2.2 Transfer-Encoding",
            vec![open(done, &with(&[("transfer-encoding", "chunked")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.2.2 TE other than trailers",
            vec![open(done, &with(&[("te", "gzip")]))],
            Stream(PROTOCOL_ERROR),
        ),
        ("8.2.2 TE: trailers", vec![open(done, &with(&[("te", "trailers")]))], Answer),
        (
            "8.2.2 Keep-Alive",
            vec![open(done, &with(&[("keep-alive", "1")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.2.2 Proxy-Connection",
            vec![open(done, &with(&[("proxy-connection", "close")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.2.2 Upgrade",
            vec![open(done, &with(&[("upgrade", "websocket")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3 an unknown pseudo-header",
            vec![open(done, &with(&[(":x", "1")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3 a response's pseudo-header",
            vec![open(done, &with(&[(":status", "200")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3 a pseudo-header after a header",
            vec![open(done, &block(&[&[("x", "1")], &GET[..]].concat()))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3.1 no :path",
            vec![open(done, &block(&[GET[0], GET[1], GET[3]]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3.1 an empty :path",
            vec![open(done, &block(&[GET[0], GET[1], (":path", ""), GET[3]]))],
            Stream(PROTOCOL_ERROR),
        ),
        ("8.3.1 no :method", vec![open(done, &block(&GET[1..]))], Stream(PROTOCOL_ERROR)),
        (
            "8.3.1 no :scheme",
            vec![open(done, &block(&[GET[0], GET[2], GET[3]]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3.1 :method twice",
            vec![open(done, &with(&[(":method", "GET")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3.1 :authority and Host differ",
            vec![open(done, &with(&[("host", "b")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3.1 :scheme twice",
            vec![open(done, &with(&[(":scheme", "http")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3.1 :path twice",
            vec![open(done, &with(&[(":path", "/")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "HPACK 2.3.3 an index that is not there",
            vec![open(done, &[0xff, 0x7f])],
            Connection(COMPRESSION_ERROR),
        ),
        (
            "HPACK 4.2 a table larger than allowed",
            vec![open(done, &[&[0x3f, 0xe2, 0x7f], &block(&GET)[..]].concat())],
            Connection(COMPRESSION_ERROR),
        ),
        (
            "HPACK 4.2 a change of the table's size at a block's end",
            vec![open(done, &[&block(&GET)[..], &[0x20]].concat())],
            Connection(COMPRESSION_ERROR),
        ),
        (
            "HPACK 4.2 a change of the table's size at its beginning",
            vec![open(done, &[&[0x20], &block(&GET)[..]].concat())],
            Answer,
        ),
        (
            "HPACK 5.1 a number without an end",
            vec![open(done, &[0xff; 16])],
            Connection(COMPRESSION_ERROR),
        ),
        (
            "HPACK 5.2 a text that is cut off",
            vec![open(done, &[&block(&GET)[..], &[0, 9, b'x']].concat())],
            Connection(COMPRESSION_ERROR),
        ),
        // `x` is 1111001 (7 bits), EOS 30 ones.
        (
            "HPACK 5.2 padding of more than 7 bits",
            vec![open(done, &[&block(&GET)[..], &[0, 1, b'x', 0x82, 0xf3, 0xff]].concat())],
            Connection(COMPRESSION_ERROR),
        ),
        (
            "HPACK 5.2 padding that is not of ones",
            vec![open(done, &[&block(&GET)[..], &[0, 1, b'x', 0x81, 0xf2]].concat())],
            Connection(COMPRESSION_ERROR),
        ),
        (
            "HPACK 5.2 a text that says EOS",
            vec![open(
                done,
                &[&block(&GET)[..], &[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]].concat(),
            )],
            Connection(COMPRESSION_ERROR),
        ),
        (
            "HPACK 5.2 Huffman's code",
            vec![open(done, &[&block(&GET)[..], &[0, 1, b'x', 0x81, 0xf3]].concat())],
            Answer,
        ),
        (
            "HPACK 6.1 index 0",
            vec![open(done, &[&block(&GET)[..], &[0x80]].concat())],
            Connection(COMPRESSION_ERROR),
        ),
        (
            "HPACK 6.1 the static table",
            vec![open(done, &[0x82, 0x84, 0x86, 0x41, 1, b'a'])],
            Answer,
        ),
        (
            "HPACK 6.2.1 an entry that is made and used",
            vec![
                open(done, &[0x82, 0x84, 0x86, 0x41, 1, b'a']),
                frame(HEADERS, done, 3, &[0x82, 0x84, 0x86, 0xbe]),
            ],
            Answered(3),
        ),
        (
            "HPACK 6.2.3 a header that is never indexed",
            vec![open(done, &[&block(&GET)[..], &[0x10, 1, b'x', 1, b'y']].concat())],
            Answer,
        ),
    ]
}
