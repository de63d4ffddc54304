//! Brings a configuration into force: as a whole, or not at all.

use crate::check::Checks;
use crate::cluster::{Cluster, NoFailover};
use crate::instance::{Instance, lock};
use crate::listener::{Listener, Rules, Table};
use crate::sockets::{self, Sockets};
use crate::takeover::Knowledge;
use crate::worker::{self, Grace, Listen, Stop};
use crate::{file, keeper, tls};
use arc_swap::ArcSwap;
use nm_types::envelope::FieldProblem;
use nm_types::proxy::{self, ProxyConfig};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// The running data plane.
pub struct Engine {
    pub instance: Arc<Instance>,
    pub table: Arc<ArcSwap<Table>>,
    file: PathBuf,
    grace: Grace,
    state: Mutex<State>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    keeper: AbortHandle,
}

struct State {
    /// Nothing once the workers are to end.
    workers: Option<Vec<mpsc::UnboundedSender<Listen>>>,
    bound: HashMap<SocketAddr, Bound>,
    checks: Checks,
    frozen: bool,
}

/// An address that is listened on.
struct Bound {
    listener: Arc<Listener>,
    sockets: Sockets,
    stop: Stop,
}

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the configuration is wrong")]
    Invalid(Vec<FieldProblem>),
    #[error("generation {held} is in force; {asked} is older")]
    Stale { held: u64, asked: u64 },
    #[error("the proxy is ending, or being replaced, and takes no configuration now")]
    Draining,
    #[error("write the configuration to {file}")]
    Write {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("hand a socket to a worker")]
    Worker(#[source] io::Error),
}

impl Engine {
    /// Starts the workers, with nothing to do yet.
    pub fn start(instance: Arc<Instance>, file: PathBuf, grace: Grace) -> io::Result<Arc<Self>> {
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        let (mut workers, mut threads) = (Vec::new(), Vec::new());
        for index in 0..instance.workers {
            let (sender, commands) = mpsc::unbounded_channel();
            threads.push(worker::spawn(index, instance.clone(), table.clone(), commands, grace)?);
            workers.push(sender);
        }
        let keeper = tokio::spawn(keeper::keep(instance.clone(), table.clone())).abort_handle();
        Ok(Arc::new(Self {
            instance,
            table,
            file,
            grace,
            state: Mutex::new(State {
                workers: Some(workers),
                bound: HashMap::new(),
                checks: Checks::default(),
                frozen: false,
            }),
            threads: Mutex::new(threads),
            keeper,
        }))
    }

    /// Brings a configuration into force, after it was written to the file where `persist` says so. Sockets that were
    /// handed over are used in place of new ones.
    pub fn apply(
        &self,
        config: &ProxyConfig,
        persist: bool,
        mut inherited: HashMap<SocketAddr, Sockets>,
        knowledge: &Knowledge,
    ) -> Result<(), Refused> {
        config.validate().map_err(Refused::Invalid)?;
        let mut state = lock(&self.state);
        let state = &mut *state;
        let Some(workers) = state.workers.as_ref().filter(|_| !state.frozen) else {
            return Err(Refused::Draining);
        };
        let before = self.table.load_full();
        if let Some(held) = before.generation.filter(|held| *held > config.generation) {
            return Err(Refused::Stale {
                held,
                asked: config.generation,
            });
        }
        let tls = make_tls(config, &before)?;
        let mut fresh = self.bind(config, &state.bound, &mut inherited)?;
        if persist {
            file::write(&self.file, config).map_err(|source| Refused::Write {
                file: self.file.display().to_string(),
                source,
            })?;
        }

        // From here on nothing fails but the handing over of sockets, and that only without file descriptors.
        let clusters: BTreeMap<String, Arc<Cluster>> = config
            .clusters
            .iter()
            .map(|c| {
                let old = before.clusters.get(&c.id).map(|c| &**c);
                (c.id.clone(), Arc::new(Cluster::build(c, old, knowledge, &self.instance)))
            })
            .collect();
        let mut listeners = BTreeMap::new();
        let mut kept = HashMap::new();
        for (conf, tls) in config.listeners.iter().zip(tls) {
            let address = SocketAddr::new(conf.address, conf.port);
            let rules = Rules::build(conf, config, &clusters, tls);
            let bound = match state.bound.remove(&address) {
                Some(bound) if bound.listener.id == conf.id => {
                    bound.listener.rules.store(Arc::new(rules));
                    bound
                }
                other => {
                    // The same address under another name: its socket goes on, with the queue of those who wait.
                    let sockets = match other {
                        Some(old) => {
                            old.listener.closing.store(true, Relaxed);
                            old.stop.accepting.cancel();
                            old.sockets
                        }
                        None => fresh.remove(&address).unwrap_or_default(),
                    };
                    let bound = Bound {
                        listener: Arc::new(Listener::new(conf.id.clone(), address, rules)),
                        sockets,
                        stop: Stop {
                            accepting: CancellationToken::new(),
                            closing: CancellationToken::new(),
                            grace: self.grace,
                        },
                    };
                    bound.listen(workers).map_err(Refused::Worker)?;
                    bound
                }
            };
            listeners.insert(conf.id.clone(), bound.listener.clone());
            kept.insert(address, bound);
        }
        for gone in std::mem::replace(&mut state.bound, kept).into_values() {
            gone.close();
        }
        state.checks.follow(clusters.values(), &self.instance);
        self.table.store(Arc::new(Table {
            generation: Some(config.generation),
            listeners,
            clusters,
        }));
        self.instance.health_changed.notify_one();
        tracing::info!(
            generation = config.generation,
            listeners = config.listeners.len(),
            clusters = config.clusters.len(),
            "a configuration is in force"
        );
        Ok(())
    }

    /// Sockets for the addresses that are not listened on yet.
    fn bind(
        &self,
        config: &ProxyConfig,
        bound: &HashMap<SocketAddr, Bound>,
        inherited: &mut HashMap<SocketAddr, Sockets>,
    ) -> Result<HashMap<SocketAddr, Sockets>, Refused> {
        let (mut fresh, mut problems) = (HashMap::new(), Vec::new());
        for (i, listener) in config.listeners.iter().enumerate() {
            let address = SocketAddr::new(listener.address, listener.port);
            if bound.contains_key(&address) {
                continue;
            }
            let sockets = match inherited.remove(&address) {
                Some(sockets) => sockets.grow(address, self.instance.workers),
                None => {
                    let ours = bound.keys().any(|other| other.port() == address.port());
                    sockets::bind(address, self.instance.workers, ours)
                }
            };
            match sockets {
                Ok(sockets) => drop(fresh.insert(address, sockets)),
                Err(e) => problems.push(FieldProblem {
                    field: format!("listeners[{i}].port"),
                    message: format!("can't listen on {address}: {e}"),
                }),
            }
        }
        if problems.is_empty() {
            Ok(fresh)
        } else {
            Err(Refused::Invalid(problems))
        }
    }

    pub fn fail_over(&self, cluster: &str, to: Option<&str>) -> Option<Result<String, NoFailover>> {
        let table = self.table.load();
        Some(table.clusters.get(cluster)?.fail_over(to, &self.instance))
    }

    /// Copies of the sockets that are listened on, to hand them over.
    pub fn sockets(&self) -> io::Result<Vec<(SocketAddr, Sockets)>> {
        let state = lock(&self.state);
        state
            .bound
            .iter()
            .map(|(address, bound)| Ok((*address, bound.sockets.copy()?)))
            .collect()
    }

    /// While it is handed over, no configuration is taken.
    pub fn freeze(&self, frozen: bool) {
        lock(&self.state).frozen = frozen;
    }

    /// What another process should know of the members.
    pub fn knowledge(&self) -> Knowledge {
        let table = self.table.load();
        let mut knowledge = Knowledge::default();
        for (id, cluster) in &table.clusters {
            let down = cluster.seats.iter().filter(|s| s.member.is_down());
            knowledge.down.extend(down.map(|s| (id.clone(), s.member.id.to_string())));
            if let Some(active) = cluster.active_member() {
                knowledge.active.insert(id.clone(), active.to_owned());
            }
        }
        knowledge
    }

    /// Takes no more connections and lets those there are end. `handed_over` sockets go on in another process.
    pub fn drain(&self, handed_over: bool) {
        self.instance.set_draining(handed_over);
        let mut state = lock(&self.state);
        state.workers = None;
        for (_, bound) in state.bound.drain() {
            if handed_over {
                bound.listener.closing.store(true, Relaxed);
                bound.stop.accepting.cancel();
            } else {
                bound.close();
            }
        }
    }

    /// Waits for the workers' end after [`drain`](Self::drain).
    pub fn join(&self) {
        for thread in lock(&self.threads).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker ended in a panic");
            }
        }
        self.keeper.abort();
    }
}

impl Bound {
    fn listen(&self, workers: &[mpsc::UnboundedSender<Listen>]) -> io::Result<()> {
        // With more sockets than workers, as after a handover from a process with more, some workers have several.
        for (i, socket) in self.sockets.copy()?.into_inner().into_iter().enumerate() {
            let listen = Listen {
                listener: self.listener.clone(),
                socket,
                stop: self.stop.clone(),
            };
            workers[i % workers.len()]
                .send(listen)
                .map_err(|_| io::Error::other("the worker has ended"))?;
        }
        Ok(())
    }

    fn close(self) {
        self.listener.closing.store(true, Relaxed);
        self.stop.closing.cancel();
        self.stop.accepting.cancel();
    }
}

fn make_tls(config: &ProxyConfig, before: &Table) -> Result<Vec<Option<(proxy::Tls, TlsAcceptor)>>, Refused> {
    let mut made = Vec::new();
    for (i, conf) in config.listeners.iter().enumerate() {
        let Some(source) = &conf.tls else {
            made.push(None);
            continue;
        };
        let old = before.listeners.get(&conf.id).and_then(|l| l.rules.load().tls_if_same(source));
        let acceptor = match old {
            Some(acceptor) => acceptor,
            None => tls::acceptor(source).map_err(|e| {
                Refused::Invalid(vec![FieldProblem {
                    field: format!("listeners[{i}].tls.certificates[{}].source", e.certificate),
                    message: e.reason,
                }])
            })?,
        };
        made.push(Some((source.clone(), acceptor)));
    }
    Ok(made)
}
