//! Listening sockets: one a worker on each address (SO_REUSEPORT), so that the kernel spreads connections and no worker
//! waits for another.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Connections that may wait to be taken; the kernel's `somaxconn` may allow fewer.
const BACKLOG: i32 = 8_192;

/// The sockets of one address.
#[derive(Debug, Default)]
pub struct Sockets(Vec<TcpListener>);

/// `ours`: this process has the port on another address, which may be every address.
pub fn bind(address: SocketAddr, workers: usize, ours: bool) -> io::Result<Sockets> {
    // SO_REUSEPORT would let two proxies of one user share a port without a word; this one asks first whether it is free. One that
    // goes from one address to all of them would be in its own way.
    if !ours {
        drop(open(address, false)?);
    }
    Sockets::default().grow(address, workers)
}

fn open(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // `::` is every address, also those of IPv4, unless 0.0.0.0 has a listener of its own.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    match socket.bind(&address.into()) {
        // It may come: an address that moves between machines, or one that the network has not given yet.
        Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {
            tracing::warn!(%address, "this machine does not have the address now; connections are taken once it has");
            if address.is_ipv6() {
                socket.set_freebind_v6(true)?;
            } else {
                socket.set_freebind_v4(true)?;
            }
            socket.bind(&address.into())?;
        }
        bound => bound?,
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Sockets {
    pub fn new(sockets: Vec<TcpListener>) -> Self {
        Self(sockets)
    }

    /// As many as there are workers, at least.
    pub fn grow(mut self, address: SocketAddr, workers: usize) -> io::Result<Self> {
        while self.0.len() < workers {
            self.0.push(open(address, true)?);
        }
        Ok(self)
    }

    /// The same sockets once more; what waits in their queues can be taken from either.
    pub fn copy(&self) -> io::Result<Self> {
        self.0.iter().map(TcpListener::try_clone).collect::<io::Result<_>>().map(Self)
    }

    pub fn into_inner(self) -> Vec<TcpListener> {
        self.0
    }
}
