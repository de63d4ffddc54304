//! How an agent answers: late, not at all, with a refusal, or only so far.

use nm_link::contract::AgentError;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;

/// The kinds of calls of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ask {
    Info,
    Health,
    Watch,
    Host,
    HostStats,
    HostStatsStream,
    Journal,
    Create,
    Start,
    Stop,
    Restart,
    Pause,
    Unpause,
    Kill,
    Rename,
    Update,
    Remove,
    Inspect,
    Logs,
    Stats,
    StatsStream,
    Exec,
    Terminal,
    ArchiveGet,
    ArchivePut,
    Images,
    Pull,
    Load,
    ImageRemove,
    ImagesPrune,
    Volumes,
    VolumeCreate,
    VolumeRemove,
    Networks,
    NetworkCreate,
    NetworkRemove,
    NetworkAttach,
    NetworkDetach,
    UpgradeState,
    UpgradeOffer,
    UpgradeSend,
    UpgradeBegin,
    Edge,
    EdgePut,
    EdgeMetrics,
    EdgeEvents,
    EdgeFailover,
    BackupMake,
    BackupRestore,
    BackupCheck,
    BackupForget,
    BackupTree,
    BackupSend,
    BackupCopy,
    BackupList,
    BackupKey,
    BackupCancel,
    Tasks,
    TaskNews,
    TaskLogs,
}

/// A point of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// The call has come, and nothing is done yet.
    Before,
    /// All is done, and nothing is answered yet.
    After,
}

/// Calls that are stopped at one point, for as long as this lives.
#[derive(Debug)]
pub struct Hold {
    at: (Ask, When),
    gate: Arc<Gate>,
    knobs: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct Gate {
    arrived: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

impl Hold {
    /// Waits until so many calls have been stopped here.
    pub async fn reached(&self, calls: usize) {
        let mut arrived = self.gate.arrived.subscribe();
        let what = format!("{calls} calls at {:?}", self.at);
        let _seen = nm_waits::soon(&what, arrived.wait_for(|n| *n >= calls))
            .await
            .expect("the hold lives");
    }
    /// Lets all go on, and those to come.
    pub fn release(&self) {
        lock(&self.knobs).gates.remove(&self.at);
        self.gate.open.send_replace(true);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

#[derive(Debug, Default)]
struct State {
    latency: Duration,
    gates: HashMap<(Ask, When), Arc<Gate>>,
    failures: HashMap<Ask, VecDeque<AgentError>>,
    /// What is answered in place of the outcome of work that was done.
    losses: HashMap<Ask, VecDeque<AgentError>>,
    aborts: HashMap<Ask, usize>,
    calls: HashMap<Ask, usize>,
    program: Program,
}

/// What a program in a container answers its words with: its exit code, and what it prints.
type Answers = dyn Fn(&[&str]) -> (i64, String) + Send + Sync;

/// A program of containers that a test makes up, and its name.
#[derive(Default, Clone)]
pub(super) struct Program(Option<(String, Arc<Answers>)>);

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Program").field(&self.0.as_ref().map(|(name, _)| name)).finish()
    }
}

impl Program {
    pub(super) fn new(name: &str, answers: impl Fn(&[&str]) -> (i64, String) + Send + Sync + 'static) -> Self {
        Self(Some((name.to_owned(), Arc::new(answers))))
    }
    pub(super) fn run(&self, words: &[&str]) -> Option<(i64, String)> {
        let (name, answers) = self.0.as_ref()?;
        let (program, rest) = words.split_first()?;
        (program == name).then(|| answers(rest))
    }
}

#[derive(Debug, Default)]
pub(super) struct Knobs(Arc<Mutex<State>>);

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|e| e.into_inner())
}

impl Knobs {
    pub(super) fn set_program(&self, program: Program) {
        lock(&self.0).program = program;
    }
    pub(super) fn program(&self) -> Program {
        lock(&self.0).program.clone()
    }
    pub(super) fn set_latency(&self, latency: Duration) {
        lock(&self.0).latency = latency;
    }
    pub(super) fn hold(&self, ask: Ask, when: When) -> Hold {
        let gate = Arc::new(Gate {
            arrived: watch::Sender::new(0),
            open: watch::Sender::new(false),
        });
        lock(&self.0).gates.insert((ask, when), gate.clone());
        Hold {
            at: (ask, when),
            gate,
            knobs: self.0.clone(),
        }
    }
    pub(super) fn fail_next(&self, ask: Ask, error: AgentError) {
        lock(&self.0).failures.entry(ask).or_default().push_back(error);
    }
    pub(super) fn lose_next(&self, ask: Ask, error: AgentError) {
        lock(&self.0).losses.entry(ask).or_default().push_back(error);
    }
    pub(super) fn lost(&self, ask: Ask) -> Option<AgentError> {
        lock(&self.0).losses.get_mut(&ask).and_then(VecDeque::pop_front)
    }
    pub(super) fn abort_next(&self, ask: Ask) {
        *lock(&self.0).aborts.entry(ask).or_default() += 1;
    }
    pub(super) fn calls(&self, ask: Ask) -> usize {
        lock(&self.0).calls.get(&ask).copied().unwrap_or_default()
    }
    pub(super) fn all_calls(&self) -> usize {
        lock(&self.0)
            .calls
            .iter()
            .filter(|(ask, _)| {
                // These come by themselves.
                !matches!(ask, Ask::Watch | Ask::Info | Ask::Host | Ask::Journal | Ask::Tasks | Ask::TaskNews)
            })
            .map(|(_, n)| n)
            .sum()
    }

    /// A call has come: counts it, and gives the refusal it gets.
    pub(super) async fn before(&self, ask: Ask) -> Result<(), AgentError> {
        let latency = {
            let mut state = lock(&self.0);
            *state.calls.entry(ask).or_default() += 1;
            state.latency
        };
        if !latency.is_zero() && ask != Ask::Watch {
            tokio::time::sleep(latency).await;
        }
        self.stop_at(ask, When::Before).await;
        match lock(&self.0).failures.get_mut(&ask).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// A call's work is done. Says whether its stream is to be ended without an answer.
    pub(super) async fn after(&self, ask: Ask) -> bool {
        self.stop_at(ask, When::After).await;
        match lock(&self.0).aborts.get_mut(&ask) {
            Some(n) if *n > 0 => {
                *n -= 1;
                true
            }
            Some(_) | None => false,
        }
    }

    async fn stop_at(&self, ask: Ask, when: When) {
        let Some(gate) = lock(&self.0).gates.get(&(ask, when)).cloned() else {
            return;
        };
        gate.arrived.send_modify(|n| *n += 1);
        let mut open = gate.open.subscribe();
        // The gate is in our hands, so its sender lives.
        let _open = open.wait_for(|open| *open).await;
    }
}
