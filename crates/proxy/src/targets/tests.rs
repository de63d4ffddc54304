//! The targets on the corpus, and on what chance makes of it: the same bytes each time.

use super::*;
use std::path::Path;

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % n.max(1)
    }
}

/// What breaks parsers.
const WORDS: [&[u8]; 16] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b"chunked",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Host: b\r\n",
    b"0\r\n\r\n",
    b"\xff\xff\xff\xff",
    b"\x80",
    b"4294967296",
];

fn change(bytes: &mut Vec<u8>, others: &[Vec<u8>], chance: &mut Chance) {
    let at = chance.below(bytes.len() + 1);
    match chance.below(5) {
        0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
        1 if at < bytes.len() => drop(bytes.remove(at)),
        2 => {
            let word = WORDS[chance.below(WORDS.len())];
            bytes.splice(at..at, word.iter().copied());
        }
        3 => {
            let other = &others[chance.below(others.len())];
            let from = chance.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ if !bytes.is_empty() => {
            let to = (at + chance.below(16)).min(bytes.len());
            let piece = bytes[at..to].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => {}
    }
}

fn replay(name: &str, target: fn(&[u8]), rounds: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(!corpus.is_empty(), "{} is empty", folder.display());
    corpus.iter().for_each(|bytes| target(bytes));
    let mut chance = Chance(1);
    for round in 0..rounds {
        let mut bytes = corpus[round % corpus.len()].clone();
        for _ in 0..=chance.below(4) {
            change(&mut bytes, &corpus, &mut chance);
        }
        let shown = bytes.escape_ascii().to_string();
        let result = std::panic::catch_unwind(|| target(&bytes));
        assert!(result.is_ok(), "{name}, round {round}: {shown}");
    }
}

#[test]
fn proxy_protocol_holds() {
    replay("proxy_protocol", proxy_protocol, 20_000);
}

#[test]
fn http1_holds() {
    replay("http1", http1, 4_000);
}

#[test]
fn http2_holds() {
    replay("http2", http2, 4_000);
}

#[test]
fn forwarded_holds() {
    replay("forwarded", forwarded, 20_000);
}

#[test]
fn config_holds() {
    replay("config", config, 4_000);
}

/// The targets see what they are to judge.
#[test]
fn requests_do_reach_the_member() {
    let read = |name: &str| std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name)).unwrap();
    for (name, requests) in [
        ("get", 1),
        ("two", 2),
        ("length", 1),
        ("chunked", 1),
        ("clte", 1),
        ("tete", 0),
        ("folded", 0),
        ("absolute_query", 1),
        ("absolute_alone", 1),
    ] {
        assert_eq!(requests::http1_heard(&read(&format!("http1/{name}"))), requests, "http1/{name}");
    }
    for (name, requests) in [
        ("get", 1),
        ("indexed", 2),
        ("length", 1),
        ("trailers", 1),
        ("cookies", 1),
        ("encoding", 0),
        ("newline", 0),
        ("query_alone", 0),
        ("no_path", 0),
        ("quote", 0),
        ("empty_length", 0),
    ] {
        assert_eq!(requests::http2_heard(&read(&format!("http2/{name}"))), requests, "http2/{name}");
    }
}

/// The reader of what members receive is itself no pushover.
#[test]
fn the_strict_reader_is_strict() {
    let right = [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ];
    for right in right {
        assert_eq!(wire::read(right.as_bytes()), Ok(wire::Read::Whole), "{right}");
        assert_eq!(wire::read(&right.as_bytes()[..right.len() - 1]), Ok(wire::Read::Part), "{right}");
        assert!(wire::read(format!("{right}x").as_bytes()).is_err(), "{right}");
    }
    for wrong in [
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nx: a\nb\r\n\r\n",
        "GET / HTTP/1.1\r\nx y: a\r\n\r\n",
        "GET / HTTP/1.1\r\ncontent-length: +0\r\n\r\n",
        "GET / HTTP/1.1\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2;a\r\nok\r\n0\r\n\r\n",
    ] {
        assert!(wire::read(wrong.as_bytes()).is_err(), "{wrong}");
    }
}
