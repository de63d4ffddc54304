//! SFTP as it is spoken: version 3, requests beside each other where there is much to move.

use bytes::Bytes;
use std::{
    collections::BTreeMap,
    io::{self, ErrorKind as Io, Read, Write},
    process::{Child, ChildStdin, ChildStdout},
};

const INIT: u8 = 1;
const VERSION: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const FSTAT: u8 = 8;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const STAT: u8 = 17;
const RENAME: u8 = 18;
const EXTENDED: u8 = 200;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

const FOR_READING: u32 = 1;
/// To write, made where it is missing, emptied where it is not.
const FOR_WRITING: u32 = 2 | 8 | 16;
/// What every server takes at once.
const CHUNK: u32 = 32 * 1024;
/// Requests that are under way at once.
const WINDOW: usize = 64;
const PACKET_AT_MOST: usize = 1 << 20;
#[derive(Debug)]
pub(super) struct Session {
    pub(super) child: Child,
    pub(super) input: ChildStdin,
    pub(super) output: ChildStdout,
    pub(super) next: u32,
    pub(super) extensions: BTreeMap<String, String>,
    /// Answers that came before they were waited for.
    pub(super) early: BTreeMap<u32, (u8, Vec<u8>)>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds what is sent.
#[derive(Default)]
struct Packet(Vec<u8>);

impl Packet {
    fn number(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }
    fn long(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }
    fn bytes(self, bytes: &[u8]) -> Self {
        let mut packet = self.number(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        packet.0.extend_from_slice(bytes);
        packet
    }
}

/// Reads what came.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| odd("an answer is too short"))?;
        self.0 = rest;
        Ok(taken)
    }
    fn number(&mut self) -> io::Result<u32> {
        Ok(self.take(4)?.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    }
    fn long(&mut self) -> io::Result<u64> {
        Ok(u64::from(self.number()?) << 32 | u64::from(self.number()?))
    }
    fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let length = self.number()? as usize;
        self.take(length)
    }
    fn text(&mut self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }
    /// Attributes; of them the size.
    fn size(&mut self) -> io::Result<u64> {
        let flags = self.number()?;
        let size = if flags & 1 != 0 { self.long()? } else { 0 };
        for (flag, length) in [(2, 8), (4, 4), (8, 8)] {
            if flags & flag != 0 {
                self.take(length)?;
            }
        }
        if flags & 0x8000_0000 != 0 {
            for _ in 0..self.number()? {
                self.bytes()?;
                self.bytes()?;
            }
        }
        Ok(size)
    }
}

fn odd(what: &str) -> io::Error {
    io::Error::new(Io::InvalidData, what)
}

impl Session {
    /// What ssh says of an end that came too early.
    pub(super) fn why(mut self, error: io::Error) -> io::Error {
        if !matches!(error.kind(), Io::UnexpectedEof | Io::BrokenPipe) {
            return error;
        }
        let _ = self.child.kill();
        let mut words = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(4096).read_to_string(&mut words);
        }
        let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
        io::Error::new(
            Io::ConnectionRefused,
            if words.is_empty() {
                "the connection was cut".to_owned()
            } else {
                format!("ssh says: {words}")
            },
        )
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len() + 1).map_err(io::Error::other)?;
        let mut packet = Vec::with_capacity(body.len() + 5);
        packet.extend_from_slice(&length.to_be_bytes());
        packet.push(kind);
        packet.extend_from_slice(body);
        self.input.write_all(&packet)
    }

    fn receive(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut length = [0; 4];
        self.output.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > PACKET_AT_MOST {
            return Err(odd("an answer is too long"));
        }
        let mut packet = vec![0; length];
        self.output.read_exact(&mut packet)?;
        let kind = packet.remove(0);
        Ok((kind, packet))
    }

    pub(super) fn begin(&mut self) -> io::Result<()> {
        self.send(INIT, &3_u32.to_be_bytes())?;
        let (kind, body) = self.receive()?;
        let mut fields = Fields(&body);
        if kind != VERSION || fields.number()? < 3 {
            return Err(odd("the server does not speak SFTP 3"));
        }
        while !fields.0.is_empty() {
            let name = fields.text()?;
            self.extensions.insert(name, fields.text()?);
        }
        Ok(())
    }

    /// Its number, by which the answer is known.
    fn request(&mut self, kind: u8, body: &Packet) -> io::Result<u32> {
        self.next = self.next.wrapping_add(1);
        let id = self.next;
        let mut packet = Packet::default().number(id);
        packet.0.extend_from_slice(&body.0);
        self.send(kind, &packet.0)?;
        Ok(id)
    }

    fn answer(&mut self, id: u32) -> io::Result<(u8, Vec<u8>)> {
        if let Some(answer) = self.early.remove(&id) {
            return Ok(answer);
        }
        loop {
            let (kind, body) = self.receive()?;
            let mut fields = Fields(&body);
            let of = fields.number()?;
            let rest = fields.0.to_vec();
            if of == id {
                return Ok((kind, rest));
            }
            self.early.insert(of, (kind, rest));
        }
    }

    fn call(&mut self, kind: u8, body: &Packet, expected: u8) -> io::Result<Vec<u8>> {
        let id = self.request(kind, body)?;
        self.expect(id, expected)
    }

    fn expect(&mut self, id: u32, expected: u8) -> io::Result<Vec<u8>> {
        let (kind, body) = self.answer(id)?;
        if kind == STATUS {
            let mut fields = Fields(&body);
            let code = fields.number()?;
            let words = fields.text().unwrap_or_default();
            return match code {
                0 if expected == STATUS => Ok(Vec::new()),
                0 => Err(odd("the server answers nothing")),
                2 => Err(io::Error::new(Io::NotFound, words)),
                3 => Err(io::Error::new(Io::PermissionDenied, words)),
                // The end of a file or a folder; of a connection it is told otherwise.
                1 => Err(io::Error::new(Io::WriteZero, words)),
                _ => Err(io::Error::other(format!("the server says: {words}"))),
            };
        }
        if kind == expected {
            Ok(body)
        } else {
            Err(odd("the server answers something else"))
        }
    }

    fn handle(&mut self, kind: u8, body: &Packet) -> io::Result<Vec<u8>> {
        let answer = self.call(kind, body, HANDLE)?;
        Ok(Fields(&answer).bytes()?.to_vec())
    }

    fn close(&mut self, handle: &[u8]) -> io::Result<()> {
        self.call(CLOSE, &Packet::default().bytes(handle), STATUS).map(drop)
    }

    fn open(&mut self, path: &str, how: u32) -> io::Result<Vec<u8>> {
        // Of the attributes only the mode.
        let body = Packet::default().bytes(path.as_bytes()).number(how);
        let body = if how == FOR_READING {
            body.number(0)
        } else {
            body.number(4).number(0o600)
        };
        self.handle(OPEN, &body)
    }

    pub(super) fn list(&mut self, path: &str) -> io::Result<Vec<(String, u64)>> {
        let handle = self.handle(OPENDIR, &Packet::default().bytes(path.as_bytes()))?;
        let mut found = Vec::new();
        loop {
            match self.call(READDIR, &Packet::default().bytes(&handle), NAME) {
                Ok(answer) => {
                    let mut fields = Fields(&answer);
                    for _ in 0..fields.number()? {
                        let name = fields.text()?;
                        fields.bytes()?;
                        let size = fields.size()?;
                        if name != "." && name != ".." {
                            found.push((name, size));
                        }
                    }
                }
                Err(error) if error.kind() == Io::WriteZero => break,
                Err(error) => return Err(error),
            }
        }
        self.close(&handle)?;
        Ok(found)
    }

    pub(super) fn stat(&mut self, path: &str) -> io::Result<u64> {
        let answer = self.call(STAT, &Packet::default().bytes(path.as_bytes()), ATTRS)?;
        Fields(&answer).size()
    }

    pub(super) fn read(&mut self, path: &str, range: Option<(u32, u32)>) -> io::Result<Bytes> {
        let handle = self.open(path, FOR_READING)?;
        let read = self.read_handle(&handle, range);
        let closed = self.close(&handle);
        let bytes = read?;
        closed?;
        Ok(bytes.into())
    }

    fn read_handle(&mut self, handle: &[u8], range: Option<(u32, u32)>) -> io::Result<Vec<u8>> {
        let (from, length) = match range {
            Some((offset, length)) => (u64::from(offset), u64::from(length)),
            None => {
                let answer = self.call(FSTAT, &Packet::default().bytes(handle), ATTRS)?;
                (0, Fields(&answer).size()?)
            }
        };
        let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
        let mut asked = std::collections::VecDeque::new();
        let mut at = 0;
        while at < length || !asked.is_empty() {
            while at < length && asked.len() < WINDOW {
                let count = u32::try_from((length - at).min(u64::from(CHUNK))).unwrap_or(CHUNK);
                let body = Packet::default().bytes(handle).long(from + at).number(count);
                asked.push_back((self.request(READ, &body)?, count));
                at += u64::from(count);
            }
            let Some((id, count)) = asked.pop_front() else { break };
            let mut answer = self.expect(id, DATA).map_err(|error| {
                if error.kind() == Io::WriteZero {
                    odd("the file is shorter than it was listed")
                } else {
                    error
                }
            })?;
            let mut got = Fields(&answer).bytes()?.len();
            bytes.extend_from_slice(Fields(&answer).bytes()?);
            // A server may give less than it was asked for.
            while got < count as usize {
                let body = Packet::default()
                    .bytes(handle)
                    .long(from + bytes.len() as u64)
                    .number(count - u32::try_from(got).unwrap_or(count));
                answer = self.call(READ, &body, DATA)?;
                let more = Fields(&answer).bytes()?;
                if more.is_empty() {
                    return Err(odd("the file is shorter than it was listed"));
                }
                got += more.len();
                bytes.extend_from_slice(more);
            }
        }
        Ok(bytes)
    }

    pub(super) fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let handle = self.open(path, FOR_WRITING)?;
        let written = self.write_handle(&handle, bytes);
        let closed = self.close(&handle);
        written?;
        closed
    }

    fn write_handle(&mut self, handle: &[u8], bytes: &[u8]) -> io::Result<()> {
        let mut sent = std::collections::VecDeque::new();
        let mut failed = Ok(());
        let mut offset = 0_u64;
        for chunk in bytes.chunks(CHUNK as usize) {
            if sent.len() == WINDOW
                && let Some(id) = sent.pop_front()
            {
                failed = self.expect(id, STATUS).map(drop);
                if failed.is_err() {
                    break;
                }
            }
            sent.push_back(self.request(WRITE, &Packet::default().bytes(handle).long(offset).bytes(chunk))?);
            offset += chunk.len() as u64;
        }
        // All answers are read, also after one that failed.
        for id in sent {
            let answer = self.expect(id, STATUS).map(drop);
            failed = failed.and(answer);
        }
        failed?;
        if self.extensions.contains_key("fsync@openssh.com") {
            let body = Packet::default().bytes(b"fsync@openssh.com").bytes(handle);
            self.call(EXTENDED, &body, STATUS)?;
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        if self.extensions.contains_key("posix-rename@openssh.com") {
            let body = Packet::default()
                .bytes(b"posix-rename@openssh.com")
                .bytes(from.as_bytes())
                .bytes(to.as_bytes());
            return self.call(EXTENDED, &body, STATUS).map(drop);
        }
        // Without it, a name that is taken is refused; files of a repository have the same content under the same name.
        let body = Packet::default().bytes(from.as_bytes()).bytes(to.as_bytes());
        match self.call(RENAME, &body, STATUS) {
            Err(error) if error.kind() == Io::Other && self.stat(to).is_ok() => self.remove(from),
            other => other.map(drop),
        }
    }

    pub(super) fn remove(&mut self, path: &str) -> io::Result<()> {
        self.call(REMOVE, &Packet::default().bytes(path.as_bytes()), STATUS).map(drop)
    }

    pub(super) fn make_folder(&mut self, path: &str) -> io::Result<()> {
        let body = Packet::default().bytes(path.as_bytes()).number(4).number(0o700);
        match self.call(MKDIR, &body, STATUS) {
            Err(_) if self.stat(path).is_ok() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Whether the file system of a folder has no room; where the server does not tell, it has.
    pub(super) fn is_full(&mut self, folder: &str) -> bool {
        if !self.extensions.contains_key("statvfs@openssh.com") {
            return false;
        }
        let body = Packet::default().bytes(b"statvfs@openssh.com").bytes(folder.as_bytes());
        let Ok(answer) = self.call(EXTENDED, &body, EXTENDED_REPLY) else {
            return false;
        };
        let mut fields = Fields(&answer);
        // Block size, fragment size, blocks, blocks that are free, and those that are so for us.
        let numbers: io::Result<Vec<u64>> = (0..5).map(|_| fields.long()).collect();
        numbers.is_ok_and(|numbers| numbers[1].saturating_mul(numbers[4]) < u64::from(CHUNK) * 4)
    }
}
