//! Tasks of jobs on a made-up node: they run until the test says how they end, or end at once, and end by themselves where nobody
//! has let them run on for too long. When each began and ended is kept, so that a test can see that none ran twice at once.

use nm_link::contract::{RunTask, TaskKey, TaskNews, TaskNewsPage, TaskNewsQuery, TaskResult, TasksAnswer, TasksCall};
use nm_types::Timestamp;
use nm_types::job::TaskOutcome;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// One run of an attempt.
#[derive(Debug, Clone)]
pub struct Ran {
    pub key: TaskKey,
    pub began: Instant,
    /// Until it ended, or was ended.
    pub ended: Option<Instant>,
}

#[derive(Debug)]
struct State {
    instance: u64,
    boot: u64,
    tokens: BTreeMap<u64, Instant>,
    last_token: u64,
    until: Option<Instant>,
    held: BTreeMap<TaskKey, (RunTask, Option<TaskResult>)>,
    settled: BTreeSet<TaskKey>,
    news: Vec<(u64, TaskNews)>,
    last: u64,
    ran: Vec<Ran>,
    /// How those end that begin from now on; they run on where it says nothing.
    ending: Option<(TaskOutcome, i64)>,
}

#[derive(Debug)]
pub(super) struct Tasks {
    state: Mutex<State>,
    told: watch::Sender<u64>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                instance: 1,
                boot: 1,
                tokens: BTreeMap::new(),
                last_token: 0,
                until: None,
                held: BTreeMap::new(),
                settled: BTreeSet::new(),
                news: Vec::new(),
                last: 0,
                ran: Vec::new(),
                ending: None,
            }),
            told: watch::Sender::new(0),
        }
    }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(0))
}

impl State {
    fn tell(&mut self, news: TaskNews) {
        self.last += 1;
        self.news.push((self.last, news));
    }

    fn end(&mut self, key: &TaskKey, outcome: TaskOutcome, code: Option<i64>, at: Instant) {
        let Some((_, result @ None)) = self.held.get_mut(key) else { return };
        let ended = TaskResult {
            key: key.clone(),
            outcome,
            exit_code: code,
            reason: Some(outcome.as_str().into()),
            began: None,
            ended: now(),
        };
        *result = Some(ended.clone());
        if let Some(ran) = self.ran.iter_mut().rev().find(|r| r.key == *key) {
            ran.ended = Some(at);
        }
        self.tell(TaskNews::Ended(ended));
    }

    /// What ran when the lease was over was ended then.
    fn overdue(&mut self) {
        let Some(until) = self.until.filter(|until| *until <= Instant::now()) else {
            return;
        };
        let running: Vec<TaskKey> = self.running();
        for key in running {
            self.end(&key, TaskOutcome::LeaseEnded, None, until);
        }
    }

    fn running(&self) -> Vec<TaskKey> {
        let running = self.held.iter().filter(|(_, (_, result))| result.is_none());
        running.map(|(key, _)| key.clone()).collect()
    }
}

impl Tasks {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        state.overdue();
        let done = change(&mut state);
        self.told.send_replace(state.last);
        done
    }

    pub fn call(&self, call: TasksCall) -> TasksAnswer {
        self.change(|state| {
            let number = call
                .token
                .as_deref()
                .and_then(|t| t.split_once('.'))
                .and_then(|(instance, number)| {
                    let same = instance.parse() == Ok(state.instance);
                    number.parse::<u64>().ok().filter(|_| same)
                });
            let given = number.and_then(|n| state.tokens.remove(&n).map(|at| (n, at)));
            let leased = match given {
                Some((number, at)) => {
                    state.tokens.retain(|n, _| *n > number);
                    let until = at + Duration::from_millis(call.lease);
                    state.until = state.until.max(Some(until));
                    state.until.is_some_and(|until| until > Instant::now())
                }
                None => false,
            };
            for key in call.acknowledge {
                if state.held.get(&key).is_some_and(|(_, result)| result.is_some()) {
                    state.held.remove(&key);
                    state.settled.insert(key.clone());
                    state.news.retain(|(_, news)| !matches!(news, TaskNews::Ended(r) if r.key == key));
                }
            }
            for run in call.run.into_iter().filter(|_| leased) {
                assert!(
                    !state.settled.contains(&run.key),
                    "{} is run once more after it was acknowledged",
                    run.key
                );
                if state.held.contains_key(&run.key) {
                    continue;
                }
                let key = run.key.clone();
                state.held.insert(key.clone(), (run, None));
                state.ran.push(Ran {
                    key: key.clone(),
                    began: Instant::now(),
                    ended: None,
                });
                state.tell(TaskNews::Began {
                    key: key.clone(),
                    at: now(),
                });
                if let Some((outcome, code)) = state.ending {
                    state.end(&key, outcome, Some(code), Instant::now());
                }
            }
            for key in call.cancel {
                state.end(&key, TaskOutcome::Cancelled, Some(137), Instant::now());
            }
            state.last_token += 1;
            let number = state.last_token;
            state.tokens.insert(number, Instant::now());
            TasksAnswer {
                instance: state.instance.to_string(),
                boot: state.boot.to_string(),
                token: format!("{}.{number}", state.instance),
                leased,
                held: call.list.then(|| state.held.keys().cloned().collect()),
            }
        })
    }

    pub async fn news(&self, query: &TaskNewsQuery) -> TaskNewsPage {
        let instance = self.lock().instance.to_string();
        let after = if query.instance.as_deref() == Some(&instance) {
            query.after
        } else {
            0
        };
        let mut told = self.told.subscribe();
        // Nothing in time is an answer, too; and time ends what may not run on.
        let ends = Instant::now() + Duration::from_millis(query.wait);
        while Instant::now() < ends {
            let look = Duration::from_millis(100).min(ends - Instant::now());
            if tokio::time::timeout(look, told.wait_for(|last| *last > after)).await.is_ok() {
                break;
            }
            self.change(|_| ());
        }
        let state = self.lock();
        let news: Vec<(u64, TaskNews)> = state.news.iter().filter(|(n, _)| *n > after).cloned().collect();
        TaskNewsPage {
            instance,
            last: news.last().map_or(after, |(n, _)| *n),
            news: news.into_iter().map(|(_, news)| news).collect(),
        }
    }

    pub fn set_ending(&self, ending: Option<(TaskOutcome, i64)>) {
        self.change(|state| state.ending = ending);
    }

    pub fn end(&self, key: &TaskKey, outcome: TaskOutcome, code: i64) {
        self.change(|state| state.end(key, outcome, Some(code), Instant::now()));
    }

    pub fn running(&self) -> Vec<RunTask> {
        self.change(|state| {
            let keys = state.running();
            keys.iter()
                .filter_map(|key| state.held.get(key))
                .map(|(run, _)| run.clone())
                .collect()
        })
    }

    /// Those it has, also those that ended and nobody has acknowledged.
    pub fn held(&self) -> Vec<TaskKey> {
        self.change(|state| state.held.keys().cloned().collect())
    }

    pub fn ran(&self) -> Vec<Ran> {
        self.change(|state| state.ran.clone())
    }

    /// The agent's process ends and another one begins; what runs goes on.
    pub fn restart(&self) {
        self.change(|state| {
            state.instance += 1;
            state.tokens.clear();
            state.news.clear();
            let ended: Vec<TaskResult> = state.held.values().filter_map(|(_, result)| result.clone()).collect();
            for result in ended {
                state.tell(TaskNews::Ended(result));
            }
        });
    }

    /// The machine is powered off and on again: nothing runs any more, and nothing is known.
    pub fn reboot(&self) {
        self.change(|state| {
            let at = Instant::now();
            for ran in state.ran.iter_mut().filter(|r| r.ended.is_none()) {
                ran.ended = Some(at);
            }
            state.held.clear();
            state.news.clear();
            state.tokens.clear();
            state.instance += 1;
            state.boot += 1;
            state.until = None;
        });
    }
}

pub(super) type Shared = Arc<Tasks>;
