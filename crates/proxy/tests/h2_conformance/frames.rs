//! RFC 9113, 3 to 6: frames and streams.

use super::Expect::{Answer, Answered, Connection, Reset, Stream};
use super::{Case, reset};
use crate::kit::frames::*;

pub fn cases() -> Vec<Case> {
    let open = |flags: u8, block: &[u8]| frame(HEADERS, flags, 1, block);
    let done = END_STREAM | END_HEADERS;
    let post = block(&[(":method", "POST"), GET[1], GET[2], GET[3]]);
    vec![
        ("3.5 a right request", vec![get(1)], Answer),
        ("4.1 an unknown frame is ignored", vec![frame(0x77, 0, 0, b"x"), get(1)], Answer),
        ("4.1 flags that mean nothing", vec![frame(PING, 0x16, 0, &[0; 8]), get(1)], Answer),
        ("4.1 the reserved bit", vec![frame(PING, 0, 0x8000_0000, &[0; 8]), get(1)], Answer),
        (
            "4.2 a frame that is too large",
            vec![frame(DATA, 0, 1, &vec![0; 16_385])],
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "4.2 a frame of the largest size",
            vec![open(END_HEADERS, &post), frame(DATA, END_STREAM, 1, &vec![0; 16_384])],
            Answer,
        ),
        (
            "4.2 HEADERS that are too large",
            vec![open(done, &vec![0; 16_385])],
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "4.3 a header block that can't be decoded",
            vec![open(done, b"\x80")],
            Connection(COMPRESSION_ERROR),
        ),
        (
            "4.3 another frame within a header block",
            vec![open(END_STREAM, &block(&GET)), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "4.3 an unknown frame within a header block",
            vec![open(END_STREAM, &block(&GET)), frame(0x77, 0, 0, b"x")],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "4.3 HEADERS of another stream within a header block",
            vec![open(END_STREAM, &block(&GET)), get(3)],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 DATA on an idle stream",
            vec![frame(DATA, END_STREAM, 1, b"x")],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 RST_STREAM on an idle stream",
            vec![frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 WINDOW_UPDATE on an idle stream",
            vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 DATA after the end",
            vec![get(1), frame(DATA, 0, 1, b"x")],
            Stream(STREAM_CLOSED),
        ),
        ("5.1 HEADERS after the end", vec![get(1), get(1)], Stream(STREAM_CLOSED)),
        (
            "5.1 CONTINUATION after the end",
            vec![get(1), frame(CONTINUATION, END_HEADERS, 1, &block(&GET))],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 DATA after RST_STREAM",
            vec![open(END_HEADERS, &post), reset(1), frame(DATA, END_STREAM, 1, b"x")],
            Stream(STREAM_CLOSED),
        ),
        (
            "5.1 HEADERS after RST_STREAM",
            vec![open(END_HEADERS, &post), reset(1), get(1)],
            Stream(STREAM_CLOSED),
        ),
        (
            "5.1 CONTINUATION after RST_STREAM",
            vec![open(END_HEADERS, &post), reset(1), frame(CONTINUATION, END_HEADERS, 1, &post)],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 PRIORITY on an idle stream",
            vec![frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]), get(5)],
            Answered(5),
        ),
        (
            "5.1 WINDOW_UPDATE after the end",
            vec![get(1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
            Answer,
        ),
        ("5.1.1 a stream of an even number", vec![get(2)], Connection(PROTOCOL_ERROR)),
        ("5.1.1 a lower number than before", vec![get(5), get(3)], Connection(PROTOCOL_ERROR)),
        (
            "5.1.2 more streams than allowed",
            (0..140).map(|i| frame(HEADERS, END_HEADERS, 2 * i + 1, &post)).collect(),
            Reset(279, REFUSED_STREAM),
        ),
        (
            "5.3.1 HEADERS that depend on themselves",
            vec![frame(
                HEADERS,
                done | WITH_PRIORITY,
                1,
                &[&[0, 0, 0, 1, 9], &block(&GET)[..]].concat(),
            )],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "5.3.1 PRIORITY that depends on itself",
            vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 9])],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "5.4.1 CONTINUATION without HEADERS",
            vec![frame(CONTINUATION, END_HEADERS, 1, &block(&GET))],
            Connection(PROTOCOL_ERROR),
        ),
        ("6.1 DATA on stream 0", vec![frame(DATA, 0, 0, b"x")], Connection(PROTOCOL_ERROR)),
        (
            "6.1 more padding than payload",
            vec![open(END_HEADERS, &block(&GET)), frame(DATA, 8, 1, &[9, 1])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.1 padding",
            vec![open(END_HEADERS, &post), frame(DATA, END_STREAM | PADDED, 1, b"\x03hello\0\0\0")],
            Answer,
        ),
        (
            "6.2 HEADERS on stream 0",
            vec![frame(HEADERS, done, 0, &block(&GET))],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.2 padding",
            vec![frame(HEADERS, done | PADDED, 1, &[&[2], &block(&GET)[..], &[0, 0]].concat())],
            Answer,
        ),
        (
            "6.2 more padding than payload",
            vec![frame(HEADERS, done | PADDED, 1, &[&[200], &block(&GET)[..]].concat())],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.2 a priority",
            vec![frame(
                HEADERS,
                done | WITH_PRIORITY,
                1,
                &[&[0, 0, 0, 0, 9], &block(&GET)[..]].concat(),
            )],
            Answer,
        ),
        (
            "6.3 PRIORITY on stream 0",
            vec![frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 1])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.3 PRIORITY of a wrong length",
            vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 0])],
            Stream(FRAME_SIZE_ERROR),
        ),
        (
            "6.4 RST_STREAM on stream 0",
            vec![frame(RST_STREAM, 0, 0, &[0, 0, 0, 8])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.4 RST_STREAM of a wrong length",
            vec![get(1), frame(RST_STREAM, 0, 1, &[0, 0, 8])],
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "6.5 SETTINGS on a stream",
            vec![frame(SETTINGS, 0, 1, &[])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.5 an acknowledgement with a payload",
            vec![frame(SETTINGS, 1, 0, &[0, 3, 0, 0, 0, 1])],
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "6.5 SETTINGS of a wrong length",
            vec![frame(SETTINGS, 0, 0, &[0, 3, 0, 0])],
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "6.5.2 ENABLE_PUSH neither 0 nor 1",
            vec![frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.5.2 a window that is too large",
            vec![frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])],
            Connection(FLOW_CONTROL_ERROR),
        ),
        (
            "6.5.2 a frame size that is too small",
            vec![frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.5.2 a frame size that is too large",
            vec![frame(SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.5.2 an unknown setting",
            vec![frame(SETTINGS, 0, 0, &[0, 0xff, 0, 0, 0, 1]), get(1)],
            Answer,
        ),
        (
            "6.5.3 the last of two values counts",
            vec![frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0, 0, 4, 0, 0, 0xff, 0xff]), get(1)],
            Answer,
        ),
        (
            "6.6 a client's PUSH_PROMISE",
            vec![get(1), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])],
            Connection(PROTOCOL_ERROR),
        ),
        ("6.7 PING on a stream", vec![frame(PING, 0, 1, &[0; 8])], Connection(PROTOCOL_ERROR)),
        (
            "6.7 PING of a wrong length",
            vec![frame(PING, 0, 0, &[0; 7])],
            Connection(FRAME_SIZE_ERROR),
        ),
        ("6.7 an answer to no PING", vec![frame(PING, ACK, 0, b"unasked!"), get(1)], Answer),
        (
            "6.8 GOAWAY on a stream",
            vec![frame(GOAWAY, 0, 1, &[0; 8])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.8 GOAWAY does not end what is open",
            vec![get(1), frame(GOAWAY, 0, 0, &[0; 8])],
            Answer,
        ),
        (
            "6.9 WINDOW_UPDATE of 0 on the connection",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.9 WINDOW_UPDATE of a wrong length",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1])],
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "6.9 WINDOW_UPDATE of 0 on a stream",
            vec![open(END_HEADERS, &post), frame(WINDOW_UPDATE, 0, 1, &[0; 4])],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "6.9.1 a window beyond 2^31-1",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
            Connection(FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.1 a stream's window beyond 2^31-1",
            vec![open(END_HEADERS, &post), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])],
            Stream(FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.2 a window that becomes too large by SETTINGS",
            vec![
                open(END_HEADERS, &post),
                frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0, 0]),
                frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]),
            ],
            Connection(FLOW_CONTROL_ERROR),
        ),
        (
            "6.10 a block in pieces",
            block(&GET)
                .chunks(16)
                .enumerate()
                .map(|(i, piece)| {
                    frame(
                        if i == 0 { HEADERS } else { CONTINUATION },
                        if i == 0 { END_STREAM } else { 0 },
                        1,
                        piece,
                    )
                })
                .chain([frame(CONTINUATION, END_HEADERS, 1, &[])])
                .collect(),
            Answer,
        ),
        (
            "6.10 CONTINUATION on stream 0",
            vec![open(END_STREAM, &block(&GET)), frame(CONTINUATION, END_HEADERS, 0, &[])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.10 CONTINUATION on another stream",
            vec![open(END_STREAM, &block(&GET)), frame(CONTINUATION, END_HEADERS, 3, &[])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.10 CONTINUATION after the block's end",
            vec![open(END_HEADERS, &post), frame(CONTINUATION, END_HEADERS, 1, &post)],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.10 DATA within a header block",
            vec![open(0, &post), frame(DATA, END_STREAM, 1, b"x")],
            Connection(PROTOCOL_ERROR),
        ),
    ]
}
