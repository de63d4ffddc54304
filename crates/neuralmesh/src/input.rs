//! Standard input as a stream of chunks.

use bytes::Bytes;
use std::io::{self, Read};
use tokio::sync::mpsc;

/// What comes in, until its end. A thread of its own reads, for reading a terminal can't be cancelled; it ends with the
/// program at the latest.
pub fn chunks() -> mpsc::Receiver<io::Result<Bytes>> {
    let (send, receive) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            let next = match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => Ok(Bytes::copy_from_slice(&buffer[..n])),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
            let last = next.is_err();
            if send.blocking_send(next).is_err() || last {
                return;
            }
        }
    });
    receive
}
