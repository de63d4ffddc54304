//! The contract over HTTP/2: paths to the made-up engine, answers to JSON.

use super::backup;
use super::edge::Edge;
use super::knobs::{Ask, Knobs, Program};
use super::machine::Machine;
use super::tasks::Tasks;
use super::world::{Answer, World};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame as BodyFrame, Incoming};
use nm_link::contract::exec::Frame;
use nm_link::contract::{
    Action, AgentError, AgentErrorCode, Command, ContainerKey, JournalQuery, LogQuery, Name, Progress, RemoveImage, StatsQuery,
    TerminalQuery, WatchEvent, path,
};
use nm_types::container::{ExecCommand, ExecResult};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tokio_util::task::AbortOnDropHandle;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;
type Reply = Result<Response<Body>, BoxError>;

/// How often an agent with nothing to say says so.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// One call's road: counted, held up, refused or aborted as the test says.
#[derive(Clone)]
struct Road {
    knobs: Arc<Knobs>,
    ask: Ask,
}

impl Road {
    /// Does `work`, and answers with what it gives.
    async fn answer<T: Serialize>(self, work: impl FnOnce() -> Answer<T>) -> Reply {
        let done = match self.knobs.before(self.ask).await {
            Ok(()) => work(),
            Err(error) => Err(error),
        };
        self.say(done).await
    }

    async fn say<T: Serialize>(self, done: Answer<T>) -> Reply {
        if self.knobs.after(self.ask).await {
            return Err("the test ends this call without an answer".into());
        }
        Ok(match done {
            Ok(value) => json(StatusCode::OK, &value),
            Err(error) => json(StatusCode::CONFLICT, &error),
        })
    }

    /// As [`Road::answer`], told step by step: the answer's head goes out at once.
    fn progress<T>(self, steps: Vec<Progress<T>>, work: impl FnOnce() -> Answer<T> + Send + 'static) -> Reply
    where
        T: Serialize + Send + 'static,
    {
        let (sink, source) = mpsc::channel::<Result<Bytes, BoxError>>(16);
        let running = AbortOnDropHandle::new(tokio::spawn(async move {
            let outcome = match self.knobs.before(self.ask).await {
                Ok(()) => {
                    let outcome = work();
                    // As the real one: where the engine is known to be away, nothing is begun.
                    let begun = !matches!(&outcome, Err(e) if e.code == AgentErrorCode::DockerUnavailable);
                    for step in steps.into_iter().filter(|_| begun) {
                        if sink.send(Ok(line(&step))).await.is_err() {
                            return;
                        }
                    }
                    self.knobs.lost(self.ask).map_or(outcome, Err)
                }
                Err(error) => Err(error),
            };
            let last = if self.knobs.after(self.ask).await {
                Err("the test breaks this answer off".into())
            } else {
                Ok(match outcome {
                    Ok(result) => line(&Progress::Done { result }),
                    Err(error) => line(&Progress::<T>::Failed { error }),
                })
            };
            // Nobody waits for it any more, otherwise.
            let _sent = sink.send(last).await;
        }));
        Ok(streaming(ReceiverStream::new(source).map(move |chunk| {
            let _alive = &running;
            chunk
        })))
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("the contract's types are JSON");
    let mut response = Response::new(Full::from(bytes).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn line(value: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(value).expect("the contract's types are JSON");
    bytes.push(b'\n');
    bytes.into()
}

fn streaming(chunks: impl futures_util::Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Response<Body> {
    Response::new(StreamBody::new(chunks.map(|c| c.map(BodyFrame::data))).boxed_unsync())
}

fn query<T: DeserializeOwned>(request: &Request<Incoming>) -> Result<T, BoxError> {
    Ok(serde_urlencoded::from_str(request.uri().query().unwrap_or_default())?)
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, BoxError> {
    Ok(serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?)
}

/// The container that `path` names, when it is of the form of `route`.
fn keyed(route: &str, path: &str) -> Option<ContainerKey> {
    let (before, after) = route.split_once("{key}")?;
    ContainerKey::parse(path.strip_prefix(before)?.strip_suffix(after)?)
}

fn ask_of(action: &Action) -> Ask {
    match action {
        Action::Start => Ask::Start,
        Action::Stop { .. } => Ask::Stop,
        Action::Restart { .. } => Ask::Restart,
        Action::Pause => Ask::Pause,
        Action::Unpause => Ask::Unpause,
        Action::Kill { .. } => Ask::Kill,
        Action::Rename { .. } => Ask::Rename,
        Action::Update(_) => Ask::Update,
    }
}

pub(super) async fn answer(
    world: Arc<World>,
    machine: Arc<Machine>,
    edge: Arc<Edge>,
    backup: backup::Shared,
    tasks: Arc<Tasks>,
    knobs: Arc<Knobs>,
    request: Request<Incoming>,
) -> Reply {
    let road = |ask| Road { knobs: knobs.clone(), ask };
    let target = request.uri().path().to_owned();
    match (request.method(), target.as_str()) {
        (&Method::GET, path::INFO) => road(Ask::Info).answer(|| Ok(world.info())).await,
        (&Method::POST, path::HEALTH) => {
            let asked: nm_link::contract::RunProbes = body(request).await?;
            road(Ask::Health).answer(|| Ok(world.probe(asked))).await
        }
        (&Method::GET, path::WATCH) => watch(&world, &machine, &knobs).await,
        (&Method::GET, path::HOST) => road(Ask::Host).answer(|| machine.fresh()).await,
        (&Method::GET, path::HOST_STATS) => {
            let asked: StatsQuery = query(&request)?;
            road(Ask::HostStats).answer(|| Ok(machine.stats(&asked))).await
        }
        (&Method::GET, path::HOST_STATS_STREAM) => {
            lines(road(Ask::HostStatsStream), || Ok(UnboundedReceiverStream::new(machine.follow()))).await
        }
        (&Method::GET, path::JOURNAL) => {
            let asked: JournalQuery = query(&request)?;
            road(Ask::Journal).answer(|| Ok(machine.journal(&asked))).await
        }
        (&Method::POST, path::CONTAINERS) => {
            let command: nm_link::contract::CreateContainer = body(request).await?;
            let steps = ["pull", "create", "start"].map(|name| Progress::Step { name: name.into() }).into();
            road(Ask::Create).progress(steps, move || world.create(&command))
        }
        (&Method::GET, path::UPGRADE) => road(Ask::UpgradeState).answer(|| world.upgrade.state()).await,
        (&Method::POST, path::UPGRADE) => {
            let signed = body(request).await?;
            road(Ask::UpgradeOffer).answer(|| world.upgrade.offer(&signed)).await
        }
        (&Method::PUT, path::UPGRADE) => {
            let bytes = request.into_body().collect().await?.to_bytes();
            road(Ask::UpgradeSend).answer(|| world.upgrade.receive(&bytes)).await
        }
        (&Method::POST, path::UPGRADE_BEGIN) => {
            let begin: nm_link::contract::BeginUpgrade = body(request).await?;
            road(Ask::UpgradeBegin).answer(|| world.upgrade.begin(&begin.operation)).await
        }
        (&Method::POST, path::BACKUP_RUN) => {
            let job: nm_link::contract::RunJob = body(request).await?;
            Ok(backup_job(backup, knobs.clone(), job))
        }
        (&Method::POST, path::BACKUP_CANCEL) => {
            let cancel: nm_link::contract::CancelJob = body(request).await?;
            road(Ask::BackupCancel)
                .answer(|| {
                    backup.cancel(&cancel.key);
                    Ok(serde_json::json!({}))
                })
                .await
        }
        (&Method::POST, path::TASKS) => {
            let call = body(request).await?;
            road(Ask::Tasks).answer(|| Ok(tasks.call(call))).await
        }
        (&Method::GET, path::TASK_NEWS) => {
            let asked = query(&request)?;
            let page = tasks.news(&asked).await;
            road(Ask::TaskNews).answer(|| Ok(page)).await
        }
        (&Method::GET, path::TASK_LOGS) => {
            let asked: nm_link::contract::TaskLogQuery = query(&request)?;
            let said = nm_types::container::LogLine {
                stream: nm_types::container::LogStream::Stdout,
                time: nm_types::Timestamp(0),
                line: format!("I am {}", asked.key),
            };
            lines(road(Ask::TaskLogs), || Ok(futures_util::stream::iter([said]))).await
        }
        (&Method::GET, path::EDGE) => road(Ask::Edge).answer(|| edge.state()).await,
        (&Method::PUT, path::EDGE) => {
            let config = body(request).await?;
            road(Ask::EdgePut).answer(|| edge.put(config)).await
        }
        (&Method::GET, path::EDGE_METRICS) => road(Ask::EdgeMetrics).answer(|| edge.metrics()).await,
        (&Method::GET, path::EDGE_EVENTS) => {
            let asked = query(&request)?;
            let events = edge.events(asked).await;
            road(Ask::EdgeEvents).answer(|| events).await
        }
        (&Method::POST, path::EDGE_FAILOVER) => {
            let asked = body(request).await?;
            road(Ask::EdgeFailover).answer(|| edge.failover(asked)).await
        }
        (&Method::GET, path::IMAGES) => road(Ask::Images).answer(|| Ok(world.images())).await,
        (&Method::POST, path::PULL) => {
            let pull: nm_link::contract::Pull = body(request).await?;
            let mut steps = vec![Progress::Step { name: "pull".into() }];
            steps.extend(World::layers().into_iter().map(Progress::Layer));
            road(Ask::Pull).progress(steps, move || world.pull(&pull))
        }
        (&Method::POST, path::LOAD) => {
            let size = request.into_body().collect().await?.to_bytes().len();
            road(Ask::Load).answer(|| Ok(vec![format!("loaded:{size}")])).await
        }
        (&Method::POST, path::IMAGE_REMOVE) => {
            let remove: RemoveImage = body(request).await?;
            road(Ask::ImageRemove).answer(|| nothing(world.remove_image(&remove.image))).await
        }
        (&Method::POST, path::IMAGES_PRUNE) => road(Ask::ImagesPrune).answer(|| Ok(world.prune_images())).await,
        (&Method::GET, path::VOLUMES) => road(Ask::Volumes).answer(|| Ok(world.volumes())).await,
        (&Method::POST, path::VOLUME_CREATE) => {
            let new = body(request).await?;
            road(Ask::VolumeCreate).answer(|| world.create_volume(&new)).await
        }
        (&Method::POST, path::VOLUME_REMOVE) => {
            let Name { name } = body(request).await?;
            road(Ask::VolumeRemove).answer(|| nothing(world.remove_volume(&name))).await
        }
        (&Method::GET, path::NETWORKS) => road(Ask::Networks).answer(|| Ok(world.networks())).await,
        (&Method::POST, path::NETWORK_CREATE) => {
            let new = body(request).await?;
            road(Ask::NetworkCreate).answer(|| world.create_network(&new)).await
        }
        (&Method::POST, path::NETWORK_REMOVE) => {
            let Name { name } = body(request).await?;
            road(Ask::NetworkRemove).answer(|| nothing(world.remove_network(&name))).await
        }
        (&Method::POST, path::NETWORK_ATTACH) => {
            let member = body(request).await?;
            road(Ask::NetworkAttach).answer(|| nothing(world.membership(&member, true))).await
        }
        (&Method::POST, path::NETWORK_DETACH) => {
            let member = body(request).await?;
            road(Ask::NetworkDetach).answer(|| nothing(world.membership(&member, false))).await
        }
        _ => of_one(world, knobs, request, &target).await,
    }
}

fn nothing(done: Answer<()>) -> Answer<serde_json::Value> {
    done.map(|()| serde_json::json!({}))
}

async fn of_one(world: Arc<World>, knobs: Arc<Knobs>, request: Request<Incoming>, target: &str) -> Reply {
    let road = |ask| Road { knobs: knobs.clone(), ask };
    let post = request.method() == Method::POST;
    if let Some(key) = keyed(path::COMMAND, target).filter(|_| post) {
        let command: Command = body(request).await?;
        return road(ask_of(&command.action)).answer(|| world.command(&key, command)).await;
    }
    if let Some(key) = keyed(path::REMOVE, target).filter(|_| post) {
        let how = body(request).await?;
        return road(Ask::Remove).answer(|| nothing(world.remove(&key, &how))).await;
    }
    if let Some(key) = keyed(path::INSPECT, target) {
        return road(Ask::Inspect).answer(|| world.inspect(&key)).await;
    }
    if let Some(key) = keyed(path::LOGS, target) {
        let asked: LogQuery = query(&request)?;
        return lines(road(Ask::Logs), || {
            let (there, to_come) = world.logs(&key, &asked)?;
            let to_come = to_come.map_or(futures_util::stream::empty().left_stream(), |r| {
                UnboundedReceiverStream::new(r).right_stream()
            });
            Ok(futures_util::stream::iter(there).chain(to_come))
        })
        .await;
    }
    if let Some(key) = keyed(path::STATS, target) {
        let asked: StatsQuery = query(&request)?;
        return road(Ask::Stats).answer(|| world.stats(&key, asked.limit)).await;
    }
    if let Some(key) = keyed(path::STATS_STREAM, target) {
        return lines(road(Ask::StatsStream), || {
            Ok(UnboundedReceiverStream::new(world.follow_stats(&key)?))
        })
        .await;
    }
    if let Some(key) = keyed(path::EXEC, target).filter(|_| post) {
        let exec: nm_link::contract::Exec = body(request).await?;
        return road(Ask::Exec)
            .answer(|| {
                world.require_running(&key)?;
                run(&exec.command, &knobs.program())
            })
            .await;
    }
    if let Some(key) = keyed(path::TERMINAL, target).filter(|_| post) {
        return terminal(&world, road(Ask::Terminal), &key, request).await;
    }
    if let Some(key) = keyed(path::ARCHIVE, target) {
        return archive(&world, &knobs, &key, request).await;
    }
    Ok(json(
        StatusCode::NOT_FOUND,
        &AgentError::new(AgentErrorCode::Internal, format!("the contract has no {target}")),
    ))
}

/// An answer of one JSON value a line, for as long as `source` has some.
async fn lines<T, S>(road: Road, source: impl FnOnce() -> Answer<S>) -> Reply
where
    T: Serialize,
    S: futures_util::Stream<Item = T> + Send + 'static,
{
    let source = match road.knobs.before(road.ask).await {
        Ok(()) => source(),
        Err(error) => Err(error),
    };
    match source {
        Ok(source) => Ok(streaming(source.map(|value| Ok(line(&value))))),
        Err(error) => road.say::<()>(Err(error)).await,
    }
}

async fn watch(world: &World, machine: &Machine, knobs: &Knobs) -> Reply {
    // A refused watch is asked for anew.
    if let Err(error) = knobs.before(Ask::Watch).await {
        return Ok(json(StatusCode::CONFLICT, &error));
    }
    let happening = UnboundedReceiverStream::new(world.watch());
    // Said again rather than missed: what is behind it is asked for.
    let events = futures_util::stream::iter(machine.first())
        .chain(happening)
        .map(Some)
        .chain(futures_util::stream::once(async { None }));
    let beats = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(HEARTBEAT)).map(|_| Some(WatchEvent::Heartbeat));
    let both = futures_util::stream::select(events, beats).take_while(|e| std::future::ready(e.is_some()));
    Ok(streaming(both.filter_map(|event| std::future::ready(event.map(|e| Ok(line(&e)))))))
}

/// A backup job: some progress, then how it ended. One that is held may be cancelled.
fn backup_job(backups: backup::Shared, knobs: Arc<Knobs>, job: nm_link::contract::RunJob) -> Response<Body> {
    use nm_types::backup::job::{JobEvent, JobProgress};
    let (sink, source) = mpsc::channel::<Result<Bytes, BoxError>>(16);
    let running = AbortOnDropHandle::new(tokio::spawn(async move {
        let ask = backup::ask_of(&job.job);
        let mut cancelled = backups.begin(&job);
        let progress = JobProgress {
            files: 1,
            bytes: 500,
            total_bytes: Some(1000),
            ..JobProgress::default()
        };
        for event in [JobEvent::Step { name: "read".into() }, JobEvent::Progress(progress)] {
            if sink.send(Ok(line(&event))).await.is_err() {
                return;
            }
        }
        tokio::select! {
            _held = knobs.before(ask) => {}
            _told = cancelled.wait_for(|c| *c) => {}
        }
        let last = match backups.carry_out(&job) {
            Ok(outcome) => JobEvent::Done { outcome },
            Err(error) => JobEvent::Failed { error },
        };
        let last = match knobs.after(ask).await {
            true => Err("the test breaks this answer off".into()),
            false => Ok(line(&last)),
        };
        // Nobody waits for it any more, otherwise.
        let _sent = sink.send(last).await;
    }));
    streaming(ReceiverStream::new(source).map(move |chunk| {
        let _alive = &running;
        chunk
    }))
}

/// A program that answers with its own words; a few do something else.
fn run(command: &ExecCommand, program: &Program) -> Answer<ExecResult> {
    let words: Vec<&str> = command.command.iter().map(|w| w.as_str()).collect();
    let made_up = program.run(&words).map(|(code, text)| match code {
        0 => (Some(0), text, String::new()),
        other => (Some(other), String::new(), text),
    });
    let (code, stdout, stderr) = match words[0] {
        _ if made_up.is_some() => made_up.unwrap_or_default(),
        "no-such-program" => {
            return Err(AgentError::new(
                AgentErrorCode::CommandFailed,
                "`no-such-program` is not in the container",
            ));
        }
        "false" => (Some(1), String::new(), "it failed\n".to_owned()),
        "sleep" => (None, String::new(), String::new()),
        "env" => (
            Some(0),
            command.environment.0.iter().map(|(k, v)| format!("{k}={}\n", v.as_str())).collect(),
            String::new(),
        ),
        _ => (Some(0), format!("{}\n", words.join(" ")), String::new()),
    };
    let output = format!("{stdout}{stderr}");
    Ok(ExecResult {
        exit_code: code,
        output,
        stdout,
        stderr,
        timed_out: code.is_none(),
        truncated: false,
    })
}

/// Says what it was started with, to standard error where there is no terminal, echoes what is typed, tells of each resize, and ends at `exit <code>` or the input's end.
async fn terminal(world: &World, road: Road, key: &ContainerKey, request: Request<Incoming>) -> Reply {
    let asked: TerminalQuery = query(&request)?;
    let begun = match road.knobs.before(road.ask).await {
        Ok(()) => world.require_running(key),
        Err(error) => Err(error),
    };
    if let Err(error) = begun {
        return road.say::<()>(Err(error)).await;
    }
    let (sink, source) = mpsc::channel::<Result<Bytes, BoxError>>(16);
    let mut input = request.into_body();
    let running = AbortOnDropHandle::new(tokio::spawn(async move {
        let say = async |text: String| sink.send(Ok(Frame::Data(text.into()).encode())).await.is_ok();
        let greeted = match asked.tty {
            true => say(format!("{} {}x{}\r\n", asked.command, asked.rows, asked.cols)).await,
            false => sink.send(Ok(Frame::Stderr(asked.command.into()).encode())).await.is_ok(),
        };
        if !greeted {
            return;
        }
        let mut buffer = BytesMut::new();
        while let Some(Ok(frame)) = input.frame().await {
            buffer.extend_from_slice(frame.data_ref().map_or(&[], |d| d));
            while let Ok(Some(frame)) = Frame::decode(&mut buffer) {
                let end = match &frame {
                    Frame::Data(data) => match std::str::from_utf8(data).ok().and_then(|t| t.trim_end().strip_prefix("exit ")) {
                        Some(code) => code.parse().ok(),
                        None => {
                            if sink.send(Ok(frame.encode())).await.is_err() {
                                return;
                            }
                            None
                        }
                    },
                    Frame::Resize { rows, cols } => {
                        say(format!("[{rows}x{cols}]")).await;
                        None
                    }
                    Frame::EndOfInput => Some(0),
                    Frame::Exit { .. } | Frame::Error(_) | Frame::Stderr(_) => return,
                };
                if let Some(code) = end {
                    // The other side may be gone.
                    let _sent = sink.send(Ok(Frame::Exit { code }.encode())).await;
                    return;
                }
            }
        }
    }));
    Ok(streaming(ReceiverStream::new(source).map(move |chunk| {
        let _alive = &running;
        chunk
    })))
}

async fn archive(world: &World, knobs: &Arc<Knobs>, key: &ContainerKey, request: Request<Incoming>) -> Reply {
    #[derive(serde::Deserialize)]
    struct At {
        path: String,
    }
    let At { path } = query(&request)?;
    if request.method() == Method::PUT {
        let mut body = request.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        return Road {
            knobs: knobs.clone(),
            ask: Ask::ArchivePut,
        }
        .answer(|| nothing(world.unpack(key, path, bytes)))
        .await;
    }
    let road = Road {
        knobs: knobs.clone(),
        ask: Ask::ArchiveGet,
    };
    match road.knobs.before(road.ask).await {
        Ok(()) => Ok(Response::new(
            Full::from(format!("a tar of {path}"))
                .map_err(|never| match never {})
                .boxed_unsync(),
        )),
        Err(error) => road.say::<()>(Err(error)).await,
    }
}
