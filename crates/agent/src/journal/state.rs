//! What the journal has told so far, and so what is new. Pure: no clock, no files.

use super::Entry;
use nm_types::container::ContainerHealth;
use nm_types::node_event::{NodeEventDetail, NodeEventKind as Kind};
use nm_types::{ContainerId, Timestamp};
use std::collections::{HashMap, HashSet, VecDeque};

/// Removed containers that are remembered: Docker repeats its last 256 events at most.
const GONE: usize = 1024;
/// A kill that the kernel counted and Docker's event of it are no further apart.
const OOM_NANOS: i64 = 3_000_000_000;

/// A container as it was looked at.
#[derive(Debug, Clone)]
pub struct Looked<'a> {
    pub docker_id: &'a str,
    pub id: Option<&'a ContainerId>,
    pub name: &'a str,
    pub running: bool,
    pub created: Timestamp,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub exit_code: Option<i64>,
    /// When the look began, unix nanoseconds.
    pub seen_at: i64,
}

impl Looked<'_> {
    fn entry(&self, kind: Kind, nanos: i64, detail: NodeEventDetail) -> Entry {
        Entry {
            nanos,
            kind,
            docker_id: Some(self.docker_id.to_owned()),
            id: self.id.cloned(),
            name: Some(self.name.to_owned()),
            detail,
        }
    }
    fn started(&self) -> Entry {
        self.entry(
            Kind::Started,
            nanos(self.started).unwrap_or(self.seen_at),
            NodeEventDetail::default(),
        )
    }
    fn died(&self) -> Entry {
        let detail = NodeEventDetail {
            exit_code: self.exit_code,
            ..NodeEventDetail::default()
        };
        self.entry(Kind::Died, nanos(self.finished).unwrap_or(self.seen_at), detail)
    }
}

fn nanos(time: Option<Timestamp>) -> Option<i64> {
    time.map(|t| t.0.saturating_mul(1_000_000))
}

/// The end of a run that nobody saw end.
fn unseen_end(of: &Entry) -> Entry {
    Entry {
        kind: Kind::Died,
        detail: NodeEventDetail {
            message: Some("it ended and was started again while nobody could see it".into()),
            ..NodeEventDetail::default()
        },
        ..of.clone()
    }
}

/// What was told of a container last. Moments are unix nanoseconds.
#[derive(Debug, Clone, Default)]
struct Told {
    exists: bool,
    running: bool,
    id: Option<ContainerId>,
    name: Option<String>,
    /// Of its making, running and end: what is older is known.
    at: i64,
    oom_at: i64,
    health: Option<ContainerHealth>,
    health_at: i64,
}

#[derive(Debug, Default)]
pub struct State {
    containers: HashMap<String, Told>,
    gone: VecDeque<String>,
    engine_down: bool,
    /// What happened before the journal was begun is not its business. Unix nanoseconds.
    began: i64,
}

impl State {
    /// Takes in what the journal holds already.
    pub fn replay(&mut self, entry: &Entry) {
        match entry.kind {
            Kind::EngineDown => self.engine_down = true,
            Kind::EngineUp => self.engine_down = false,
            Kind::AgentStarted | Kind::Gap => {}
            Kind::Created | Kind::Started | Kind::Died | Kind::Oom | Kind::Health | Kind::Removed => self.tell(entry),
        }
    }

    /// `journal`: when it was begun, unix milliseconds.
    pub fn begin(&mut self, journal: i64) {
        self.began = journal.saturating_mul(1_000_000);
    }

    /// Notes that `entry` is told.
    fn tell(&mut self, entry: &Entry) {
        let Some(docker_id) = &entry.docker_id else { return };
        // One that is met for the first time in the middle of its life is there, and ran.
        let told = self.containers.entry(docker_id.clone()).or_insert_with(|| Told {
            exists: true,
            running: true,
            ..Told::default()
        });
        told.id.clone_from(&entry.id);
        told.name.clone_from(&entry.name);
        match entry.kind {
            Kind::Created => (told.exists, told.running) = (true, false),
            Kind::Started => (told.exists, told.running, told.health) = (true, true, None),
            Kind::Died => told.running = false,
            Kind::Removed => {
                (told.exists, told.running) = (false, false);
                self.gone.push_back(docker_id.clone());
            }
            Kind::Oom => {
                told.oom_at = told.oom_at.max(entry.nanos);
                return;
            }
            Kind::Health => {
                told.health = entry.detail.health;
                told.health_at = told.health_at.max(entry.nanos);
                return;
            }
            Kind::EngineDown | Kind::EngineUp | Kind::AgentStarted | Kind::Gap => return,
        }
        told.at = told.at.max(entry.nanos);
        if self.gone.len() > GONE
            && let Some(oldest) = self.gone.pop_front()
        {
            self.containers.remove(&oldest);
        }
    }

    fn told_all(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        for entry in &entries {
            self.tell(entry);
        }
        entries
    }

    /// What of one of Docker's events is to be told.
    pub fn take(&mut self, entry: Entry) -> Vec<Entry> {
        let Some(docker_id) = &entry.docker_id else { return Vec::new() };
        if entry.nanos < self.began {
            return Vec::new();
        }
        let told = self.containers.get(docker_id);
        let known = told.is_some_and(|told| match entry.kind {
            Kind::Oom => entry.nanos <= told.oom_at.saturating_add(OOM_NANOS),
            Kind::Health => entry.nanos <= told.health_at || entry.detail.health == told.health,
            Kind::Created => entry.nanos <= told.at || told.exists,
            // Docker changes a container's state before it tells of it: a look may have shown what an event says a moment
            // later. One that says nothing new leaves `at` alone, so that a look finds what lies between when some are missing.
            Kind::Started => entry.nanos <= told.at || told.running,
            Kind::Died => entry.nanos <= told.at || !told.running,
            Kind::Removed => entry.nanos <= told.at || !told.exists,
            Kind::EngineDown | Kind::EngineUp | Kind::AgentStarted | Kind::Gap => true,
        });
        if known {
            return Vec::new();
        }
        self.told_all(vec![entry])
    }

    /// The engine went or came: told where it is news.
    pub fn engine(&mut self, entry: Entry) -> Vec<Entry> {
        let down = entry.kind == Kind::EngineDown;
        if std::mem::replace(&mut self.engine_down, down) == down {
            return Vec::new();
        }
        vec![entry]
    }

    /// What a look at a container shows that no event has told.
    pub fn look(&mut self, seen: &Looked<'_>) -> Vec<Entry> {
        let mut entries = Vec::new();
        match self.containers.get(seen.docker_id) {
            None => {
                let created = seen.created.0.saturating_mul(1_000_000);
                if created >= self.began {
                    entries.push(seen.entry(Kind::Created, created, NodeEventDetail::default()));
                    if seen.started.is_some() {
                        entries.push(seen.started());
                        if !seen.running {
                            entries.push(seen.died());
                        }
                    }
                }
            }
            Some(told) if told.at >= seen.seen_at => return entries,
            Some(told) => {
                let newer = |time| nanos(time).is_some_and(|t| t > told.at);
                match (told.running, seen.running) {
                    (true, false) => entries.push(seen.died()),
                    (false, true) => entries.push(seen.started()),
                    (true, true) if newer(seen.started) => entries.extend([unseen_end(&seen.started()), seen.started()]),
                    (false, false) if newer(seen.started) && seen.finished.is_some() => entries.extend([seen.started(), seen.died()]),
                    (true, true) | (false, false) => {}
                }
            }
        }
        let news = !entries.is_empty();
        let entries = self.told_all(entries);
        let told = self.containers.entry(seen.docker_id.to_owned()).or_insert_with(|| Told {
            exists: true,
            running: seen.running,
            id: seen.id.cloned(),
            name: Some(seen.name.to_owned()),
            at: seen.seen_at,
            ..Told::default()
        });
        if news {
            // Events that happened before the look say nothing new.
            told.at = told.at.max(seen.seen_at);
        }
        entries
    }

    /// Containers that were there, and are not among all there are.
    pub fn missing(&mut self, there: &HashSet<&str>, now: i64) -> Vec<Entry> {
        let gone = self
            .containers
            .iter()
            .filter(|(id, told)| told.exists && !there.contains(id.as_str()));
        let entry = |(id, told): (&String, &Told)| Entry {
            nanos: now,
            kind: Kind::Removed,
            docker_id: Some(id.clone()),
            id: told.id.clone(),
            name: told.name.clone(),
            detail: NodeEventDetail::default(),
        };
        let mut entries: Vec<Entry> = gone.map(entry).collect();
        entries.sort_by(|a, b| a.docker_id.cmp(&b.docker_id));
        self.told_all(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn entry(text: &str) -> Entry {
        let mut words = text.split(' ');
        let (seconds, id, kind) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let mut detail = NodeEventDetail::default();
        match words.next() {
            Some("healthy") => detail.health = Some(ContainerHealth::Healthy),
            Some("unhealthy") => detail.health = Some(ContainerHealth::Unhealthy),
            Some(code) => detail.exit_code = Some(code.parse().unwrap()),
            None => {}
        }
        Entry {
            nanos: (seconds.parse::<f64>().unwrap() * SECOND as f64) as i64,
            kind: Kind::parse(kind).unwrap(),
            docker_id: Some(id.into()),
            id: None,
            name: Some(format!("name-of-{id}")),
            detail,
        }
    }

    fn short(entries: &[Entry]) -> Vec<String> {
        let one = |e: &Entry| {
            let code = e.detail.exit_code.map(|c| format!(" {c}")).unwrap_or_default();
            let unseen = if e.detail.message.is_some() { " unseen" } else { "" };
            format!("{} {}{code}{unseen}", e.docker_id.as_deref().unwrap_or("-"), e.kind.as_str())
        };
        entries.iter().map(one).collect()
    }

    /// Begun at second 100.
    fn state() -> State {
        let mut state = State::default();
        state.begin(100_000);
        state
    }

    fn told(state: &mut State, events: &[&str]) -> Vec<String> {
        events.iter().flat_map(|e| short(&state.take(entry(e)))).collect()
    }

    fn look(id: &str, running: bool, times: [i64; 4]) -> Looked<'_> {
        let [created, started, finished, seen_at] = times;
        let some = |seconds: i64| (seconds > 0).then_some(Timestamp(seconds * 1000));
        Looked {
            docker_id: id,
            id: None,
            name: "name",
            running,
            created: Timestamp(created * 1000),
            started: some(started),
            finished: some(finished),
            exit_code: Some(9).filter(|_| finished > 0),
            seen_at: seen_at * SECOND,
        }
    }

    #[test]
    fn events_are_told_once() {
        let life = [
            "110 a created",
            "111 a started",
            "112 a health healthy",
            "113 a health unhealthy",
            "113.5 a oom",
            "114 a died 137",
            "115 a started",
            "116 a died 0",
            "117 a removed",
        ];
        let mut first = state();
        let once = told(&mut first, &life);
        assert_eq!(once.len(), life.len(), "{once:?}");
        assert_eq!((once[0].as_str(), once[5].as_str()), ("a created", "a died 137"));
        // Docker says all of it again, at once and after a restart of the agent.
        assert_eq!(told(&mut first, &life), [""; 0]);
        let mut second = state();
        life.iter().for_each(|e| second.replay(&entry(e)));
        assert_eq!(told(&mut second, &life), [""; 0]);
        assert_eq!(told(&mut second, &["120 b created"]), ["b created"]);
    }

    #[test]
    fn what_is_no_news() {
        for (what, before, event) in [
            ("from before the journal", &[][..], "99 a died 1"),
            ("counted by the kernel and told by Docker", &["110 a oom"], "112 a oom"),
            ("the same health", &["110 a health healthy"], "111 a health healthy"),
            ("late word of an older state", &["110 a started", "112 a died 0"], "111 a started"),
            ("removed twice", &["110 a removed"], "111 a removed"),
        ] {
            let mut state = state();
            told(&mut state, before);
            assert_eq!(told(&mut state, &[event]), [""; 0], "{what}");
        }
        let mut state = state();
        told(
            &mut state,
            &["110 a oom", "111 a health healthy", "111.5 a died 137", "112 a started"],
        );
        assert_eq!(
            told(&mut state, &["113 a health healthy", "114 a oom"]),
            ["a health", "a oom"],
            "a new run has a new health"
        );
    }

    #[test]
    fn runs_between_which_events_are_missing_are_found_by_a_look() {
        let mut state = state();
        told(&mut state, &["110 a created", "111 a started"]);
        // Docker's buffer reaches back to the middle: the end before this start is not in it.
        assert_eq!(told(&mut state, &["150 a started"]), [""; 0]);
        assert_eq!(
            short(&state.look(&look("a", true, [110, 150, 149, 200]))),
            ["a died unseen", "a started"]
        );
        assert_eq!(told(&mut state, &["201 a died 1", "202 a started"]), ["a died 1", "a started"]);
    }

    #[test]
    fn a_look_tells_what_no_event_has() {
        // What the journal had told, what is seen, what that tells.
        for (what, before, seen, wanted) in [
            ("old and running", &[][..], look("a", true, [50, 60, 0, 200]), &[][..]),
            (
                "new and running",
                &[],
                look("a", true, [150, 151, 0, 200]),
                &["a created", "a started"],
            ),
            (
                "new and done",
                &[],
                look("a", false, [150, 151, 152, 200]),
                &["a created", "a started", "a died 9"],
            ),
            ("new and never run", &[], look("a", false, [150, 0, 0, 200]), &["a created"]),
            ("as it was told", &["111 a started"], look("a", true, [110, 111, 0, 200]), &[]),
            ("ended", &["111 a started"], look("a", false, [110, 111, 150, 200]), &["a died 9"]),
            ("started", &["110 a created"], look("a", true, [110, 150, 0, 200]), &["a started"]),
            (
                "another run",
                &["111 a started"],
                look("a", true, [110, 150, 149, 200]),
                &["a died 9 unseen", "a started"],
            ),
            (
                "a whole run",
                &["111 a started", "112 a died 0"],
                look("a", false, [110, 150, 151, 200]),
                &["a started", "a died 9"],
            ),
            (
                "the same end",
                &["111 a started", "112 a died 9"],
                look("a", false, [110, 111, 112, 200]),
                &[],
            ),
            (
                "older than what is known",
                &["111 a started", "201 a died 0"],
                look("a", true, [110, 111, 0, 200]),
                &[],
            ),
        ] {
            let mut state = state();
            told(&mut state, before);
            let news = short(&state.look(&seen));
            let plain: Vec<String> = wanted.iter().map(|w| w.replace(" 9 unseen", " unseen")).collect();
            assert_eq!(news, plain, "{what}");
            assert_eq!(short(&state.look(&seen)), [""; 0], "{what}, looked at again");
            // Events from before the look that come after it.
            if !news.is_empty() {
                assert_eq!(told(&mut state, &["150.5 a started", "199 a died 3"]), [""; 0], "{what}, told late");
            }
            // An event of the very state that was seen, from a moment after the look.
            let late = match (seen.running, seen.started) {
                (true, _) => "200.2 a started",
                (false, Some(_)) => "200.2 a died 9",
                (false, None) => "200.2 a created",
            };
            if !what.starts_with("older") {
                assert_eq!(told(&mut state, &[late]), [""; 0], "{what}, told a moment later");
            }
        }
    }

    #[test]
    fn one_that_is_met_in_the_middle_of_its_life_is_told_of_from_there() {
        let mut state = state();
        assert_eq!(
            told(
                &mut state,
                &[
                    "110 a died 1",
                    "111 a started",
                    "112 b health healthy",
                    "113 b died 2",
                    "114 c removed"
                ]
            )
            .len(),
            5
        );
    }

    #[test]
    fn what_is_no_longer_there_was_removed() {
        let mut state = state();
        told(&mut state, &["110 a created", "111 b created", "112 c created", "113 c removed"]);
        state.look(&look("old", true, [50, 60, 0, 200]));
        let gone = state.missing(&HashSet::from(["b"]), 300 * SECOND);
        assert_eq!(short(&gone), ["a removed", "old removed"]);
        assert_eq!(gone[0].name.as_deref(), Some("name-of-a"));
        assert!(state.missing(&HashSet::from(["b"]), 301 * SECOND).is_empty());
        assert_eq!(told(&mut state, &["299 a removed"]), [""; 0]);
    }

    #[test]
    fn the_engine_goes_and_comes_once() {
        let mut state = state();
        let mut engine = |kind| state.engine(Entry::of_node(kind, 200 * SECOND, None)).len();
        assert_eq!(
            [Kind::EngineUp, Kind::EngineDown, Kind::EngineDown, Kind::EngineUp, Kind::EngineUp].map(&mut engine),
            [0, 1, 0, 1, 0]
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut state = state();
        for n in 0..5000 {
            told(&mut state, &[&format!("110 c{n} created"), &format!("111 c{n} removed")]);
        }
        assert!(state.containers.len() <= GONE + 1 && state.gone.len() <= GONE + 1);
    }
}
