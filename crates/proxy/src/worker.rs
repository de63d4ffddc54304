//! A worker: one thread with a runtime of its own, which takes connections and serves them to their end. Nothing moves from
//! one worker to another.

use crate::http::connection;
use crate::instance::Instance;
use crate::io::Prefixed;
use crate::listener::{Listener, Rules, Table, Target};
use crate::tcp;
use arc_swap::ArcSwap;
use nm_types::proxy::Protocol;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often idle connections to members are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

pub struct Worker {
    pub index: usize,
    pub instance: Arc<Instance>,
    /// Upgraded connections: they outlive the HTTP connection they came from.
    pub tunnels: TaskTracker,
    pub scratch: tcp::Scratch,
}

/// Take connections from this socket.
pub struct Listen {
    pub listener: Arc<Listener>,
    pub socket: std::net::TcpListener,
    pub stop: Stop,
}

/// How listening ends. Both are tokens of their own, as a socket that goes on elsewhere must not be emptied here.
#[derive(Clone)]
pub struct Stop {
    /// Take no more.
    pub accepting: CancellationToken,
    /// The socket is closed for good: those who wait in its queue are served first.
    pub closing: CancellationToken,
    pub grace: Grace,
}

/// How long connections may take to end.
#[derive(Debug, Clone, Copy)]
pub struct Grace {
    /// What they came over is closed for good.
    pub closing: Duration,
    /// It goes on elsewhere, for those who come.
    pub handed_over: Duration,
}

impl Grace {
    pub fn of(self, handed_over: bool) -> Duration {
        if handed_over { self.handed_over } else { self.closing }
    }
}

/// Starts a worker. It ends when the sender is dropped, its listeners were stopped and their connections have ended.
pub fn spawn(
    index: usize,
    instance: Arc<Instance>,
    table: Arc<ArcSwap<Table>>,
    mut commands: mpsc::UnboundedReceiver<Listen>,
    grace: Grace,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async move {
        let shared = instance.clone();
        let worker = Arc::new(Worker {
            index,
            instance,
            tunnels: TaskTracker::new(),
            scratch: tcp::Scratch::default(),
        });
        let sweeper = tokio::spawn(sweep(index, table));
        let mut listeners = JoinSet::new();
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(listen) => drop(listeners.spawn(accept(listen, worker.clone()))),
                    None => break,
                },
                Some(_) = listeners.join_next() => {}
            }
        }
        while listeners.join_next().await.is_some() {}
        worker.tunnels.close();
        // What has not ended by then is cut off with the process.
        let _ = tokio::time::timeout(grace.of(shared.handed_over()), worker.tunnels.wait()).await;
        sweeper.abort();
    };
    std::thread::Builder::new().name(format!("proxy-{index}")).spawn(move || {
        runtime.block_on(work);
        runtime.shutdown_background();
    })
}

async fn sweep(worker: usize, table: Arc<ArcSwap<Table>>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        for cluster in table.load().clusters.values() {
            for seat in &cluster.seats {
                seat.member.shards[worker].idle.sweep();
            }
        }
    }
}

async fn accept(listen: Listen, worker: Arc<Worker>) {
    let Listen { listener, socket, stop } = listen;
    let mut connections = JoinSet::new();
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(listener = listener.id, %error, "can't take connections");
            return;
        }
    };
    loop {
        tokio::select! {
            biased;
            accepted = socket.accept() => match accepted {
                Ok((stream, peer)) => take(stream, peer, &listener, &worker, &stop, &mut connections),
                Err(error) => pause_after(&error, &listener).await,
            },
            Some(_) = connections.join_next() => {}
            () = stop.accepting.cancelled() => break,
        }
    }
    if stop.closing.is_cancelled() {
        take_waiting(socket, |stream, peer| {
            take(stream, peer, &listener, &worker, &stop, &mut connections)
        });
    }
    let all = async { while connections.join_next().await.is_some() {} };
    let grace = stop.grace.of(!stop.closing.is_cancelled());
    if tokio::time::timeout(grace, all).await.is_err() {
        tracing::info!(
            listener = listener.id,
            open = connections.len(),
            "connections were cut off: their time to end is over"
        );
    }
    connections.shutdown().await;
}

/// Takes those whose connection the kernel has made already, and closes the socket, which would reset them. The kernel is asked
/// itself: the runtime knows only of those that had come when it last looked.
fn take_waiting(socket: TcpListener, mut take: impl FnMut(TcpStream, SocketAddr)) {
    let Ok(socket) = socket.into_std() else { return };
    loop {
        match socket.accept() {
            Ok((stream, peer)) => {
                if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                    take(stream, peer);
                }
            }
            // Whoever gave up while waiting is not the last in the queue.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
}

/// Without free file descriptors the queue stays as it is; to ask again at once would only burn the CPU.
async fn pause_after(error: &io::Error, listener: &Listener) {
    if matches!(error.raw_os_error(), Some(23 | 24 | 12 | 105)) {
        tracing::warn!(listener = listener.id, %error, "can't take more connections now");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn take(stream: TcpStream, peer: SocketAddr, listener: &Arc<Listener>, worker: &Arc<Worker>, stop: &Stop, connections: &mut JoinSet<()>) {
    let rules = listener.rules.load_full();
    let open = listener.open.fetch_add(1, Relaxed);
    let guard = Open(listener.clone());
    listener.accepted.fetch_add(1, Relaxed);
    if open >= u64::from(rules.limits.max_connections) {
        listener.refused.fetch_add(1, Relaxed);
        return;
    }
    connections.spawn(serve(stream, peer, guard, rules, worker.clone(), stop.accepting.clone()));
}

/// One open connection.
struct Open(Arc<Listener>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// What it is given is used where it lies: an `async fn` would have room for it twice.
fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    open: Open,
    rules: Arc<Rules>,
    worker: Arc<Worker>,
    stop: CancellationToken,
) -> impl Future<Output = ()> {
    let listener = open.0.clone();
    let local = if listener.address.ip().is_unspecified() {
        stream.local_addr().unwrap_or(listener.address)
    } else {
        listener.address
    };
    let quick = stream.set_nodelay(true);
    let mut stream = Prefixed::new(stream);
    async move {
        if quick.is_err() {
            return;
        }
        let mut client = peer;
        if rules.accept_proxy_protocol {
            if !rules.trusts(peer.ip()) {
                return;
            }
            match Box::pin(tokio::time::timeout(rules.header_timeout, stream.proxy_header())).await {
                Ok(Ok(named)) => client = named.unwrap_or(peer),
                Ok(Err(_)) | Err(_) => return,
            }
        }
        match rules.protocol {
            Protocol::Http => connection::serve(stream, client, local, listener, rules, worker, stop).await,
            Protocol::Tcp => {
                let Target::Tcp(cluster) = &rules.target else { return };
                Box::pin(tcp::serve(stream, client, local, &listener, &rules, cluster, &worker)).await;
            }
        }
        drop(open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_the_runtime_has_not_heard_of_is_taken_before_the_socket_closes() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        // It has looked, and found nobody.
        assert!(futures_util::FutureExt::now_or_never(socket.accept()).is_none());
        let client = std::net::TcpStream::connect(address).unwrap();
        let mut taken = Vec::new();
        take_waiting(socket, |_, peer| taken.push(peer));
        assert_eq!(taken, [client.local_addr().unwrap()]);
        assert!(std::net::TcpStream::connect(address).is_err(), "it is closed");
    }
}
