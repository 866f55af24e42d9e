//! The runtime against a scripted data plane, a control plane of a few lines and a clock by hand.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use async_trait::async_trait;
use cpl_api::PROBLEM_JSON;
use cpl_api::agent::{
    AGENT_SUPERSEDED, AGENT_UNKNOWN, RegisterRequest, RegisterResponse, SyncRequest, SyncResponse,
};
use cpl_api::client::ControlPlaneClient;
use cpl_api::memory::MemoryTransport;
use cpl_api::problem::Code;
use cpl_api::token::BearerToken;
use cpl_api::transport::{ConnectFailure, Request, Response, TransportError};
use cpl_core::clock::{Clock, Monotonic, Timestamp};
use cpl_core::delivery::{
    ConfigObject, Configuration, DataPlaneState, Delivered, ObjectRef, Stage,
};
use cpl_core::ids::{IdGen, StoreId, Uid};
use cpl_core::store::{Identity, Incarnation};
use cpl_core::version::{AgentIncarnation, ConfigVersion, Generation};
use cpl_host::{Host, TokioSpawner};
use futures::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use proptest::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use super::link::{Credential, Link, Outcome, Say};
use super::machine::{Done, Machine, Refusal, Verdict, Work};
use super::model::{Me, Record, Running};
use super::state::{Found, StateDir};
use super::{AgentConfig, AgentError, AgentRuntime, StateError};
use crate::driver::{Applied, ApplyError, Drift, Driver, Label, Observed, Rejection, Unavailable};

// Time and chance ------------------------------------------------------------------------------

#[derive(Debug, Default)]
struct Timers {
    now: Duration,
    next: u64,
    waiting: BTreeMap<(Duration, u64), Waker>,
}

/// Time that passes when everything waits for it.
#[derive(Clone, Debug, Default)]
struct HandClock(Arc<Mutex<Timers>>);

struct Sleep {
    clock: HandClock,
    until: Duration,
    id: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let timers = Arc::clone(&self.clock.0);
        let mut timers = timers.lock().unwrap();
        if timers.now >= self.until {
            return Poll::Ready(());
        }
        let id = *self.id.get_or_insert_with(|| {
            timers.next += 1;
            timers.next
        });
        timers.waiting.insert((self.until, id), cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.clock
                .0
                .lock()
                .unwrap()
                .waiting
                .remove(&(self.until, id));
        }
    }
}

impl Clock for HandClock {
    fn wall(&self) -> Timestamp {
        Timestamp::default().plus(self.0.lock().unwrap().now)
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(self.0.lock().unwrap().now)
    }

    fn sleep_until(&self, until: Monotonic) -> BoxFuture<'static, ()> {
        Box::pin(Sleep {
            clock: self.clone(),
            until: until.0,
            id: None,
        })
    }
}

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl HandClock {
    fn secs(&self) -> u64 {
        self.monotonic().0.as_secs()
    }

    /// Polls until the future is done or `most` has passed; `None` when it is not done by then.
    fn run<F: Future + Unpin>(&self, mut future: F, most: Duration) -> Option<F::Output> {
        let end = self.monotonic().0 + most;
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        let mut polls_without_time = 0;
        loop {
            flag.0.store(false, Ordering::SeqCst);
            if let Poll::Ready(output) =
                Pin::new(&mut future).poll(&mut Context::from_waker(&waker))
            {
                return Some(output);
            }
            polls_without_time += 1;
            assert!(
                polls_without_time < 10_000,
                "time stands still: a busy loop"
            );
            if flag.0.load(Ordering::SeqCst) {
                continue;
            }
            let mut timers = self.0.lock().unwrap();
            let ((at, _), waker) = timers.waiting.pop_first().expect("a timer");
            if at > end {
                timers.now = end;
                return None;
            }
            if at > timers.now {
                polls_without_time = 0;
            }
            timers.now = timers.now.max(at);
            drop(timers);
            waker.wake();
        }
    }
}

#[derive(Debug, Default)]
struct Chance(Mutex<u64>);

impl IdGen for Chance {
    fn fresh(&self) -> u128 {
        // SplitMix64, twice.
        let mut state = self.0.lock().unwrap();
        let mut word = || {
            *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            u128::from(z ^ (z >> 31))
        };
        word() << 64 | word()
    }
}

// Configurations -------------------------------------------------------------------------------

fn identity(incarnation: u64) -> Identity {
    Identity {
        store: StoreId(1),
        incarnation: Incarnation(incarnation),
    }
}

/// `(name, generation, body)`; a body with `bad` is refused at that stage.
fn configuration(objects: &[(&str, u64, &str)]) -> Configuration {
    let mut objects: Vec<_> = objects
        .iter()
        .map(|(name, generation, body)| ConfigObject {
            object: ObjectRef {
                kind: "TargetGroup".to_owned(),
                name: (*name).to_owned(),
            },
            uid: Uid(7),
            generation: Generation(*generation),
            body: json!(body).into(),
        })
        .collect();
    objects.sort_by(|a, b| a.object.cmp(&b.object));
    Configuration {
        system: "lb".to_owned(),
        schema: 1,
        attempt: 0,
        node: json!({}),
        objects,
    }
}

fn delivered(incarnation: u64, version: u64, configuration: Configuration) -> Delivered {
    Delivered {
        identity: identity(incarnation),
        version: ConfigVersion(version),
        digest: configuration.digest(),
        configuration,
    }
}

// The data plane -------------------------------------------------------------------------------

#[derive(Debug, Default)]
struct Plane {
    state: DataPlaneState,
    label: Option<Label>,
    content: Option<Configuration>,
    reloads: u32,
    checks: u32,
    refusals: u32,
    applies: u32,
    unavailable: bool,
    health: Value,
    stopped: bool,
}

impl Plane {
    fn serves(&self) -> Vec<(String, u64)> {
        let content = self.content.as_ref();
        content
            .into_iter()
            .flat_map(|c| &c.objects)
            .map(|o| (o.object.name.clone(), o.generation.0))
            .collect()
    }
}

#[derive(Clone, Debug, Default)]
struct FakeDriver(Arc<Mutex<Plane>>);

fn faults(configuration: &Configuration, stage: Stage) -> Vec<Rejection> {
    let word = format!("bad at {stage:?}");
    let reject = |object: Option<ObjectRef>| Rejection {
        object,
        stage,
        code: "BAD".to_owned(),
        field: Some("/spec".to_owned()),
        message: word.clone(),
    };
    let whole = configuration.node == json!(word);
    configuration
        .objects
        .iter()
        .filter(|o| *o.body == json!(word))
        .map(|o| reject(Some(o.object.clone())))
        .chain(whole.then(|| reject(None)))
        .collect()
}

fn away() -> Unavailable {
    Unavailable {
        what: "ask the data plane".to_owned(),
        source: None,
    }
}

impl FakeDriver {
    fn asked(&self) -> Result<std::sync::MutexGuard<'_, Plane>, Unavailable> {
        let plane = self.0.lock().unwrap();
        if plane.unavailable {
            return Err(away());
        }
        Ok(plane)
    }
}

fn refuse(rejections: Vec<Rejection>) -> Result<(), ApplyError> {
    if rejections.is_empty() {
        Ok(())
    } else {
        Err(ApplyError::Rejected(rejections))
    }
}

#[async_trait]
impl Driver for FakeDriver {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn carries_traffic(&self) -> bool {
        true
    }

    async fn observe(&self) -> Result<Observed, Unavailable> {
        let plane = self.asked()?;
        Ok(Observed {
            state: plane.state,
            label: plane.label.clone(),
        })
    }

    async fn check(&self, configuration: &Configuration) -> Result<(), ApplyError> {
        let mut plane = self.asked().map_err(ApplyError::Unavailable)?;
        let faults = faults(configuration, Stage::Check);
        plane.checks += 1;
        plane.refusals += u32::from(!faults.is_empty());
        refuse(faults)
    }

    async fn apply(
        &self,
        label: &Label,
        configuration: &Configuration,
    ) -> Result<Applied, ApplyError> {
        let mut plane = self.asked().map_err(ApplyError::Unavailable)?;
        plane.applies += 1;
        refuse(faults(configuration, Stage::Apply))?;
        plane.label = Some(label.clone());
        let same =
            plane.content.as_ref() == Some(configuration) && plane.state == DataPlaneState::Healthy;
        if same {
            return Ok(Applied::Unchanged);
        }
        plane.content = Some(configuration.clone());
        plane.state = DataPlaneState::Healthy;
        plane.reloads += 1;
        Ok(Applied::Reloaded(vec![]))
    }

    async fn verify(&self, configuration: &Configuration) -> Result<Vec<Drift>, Unavailable> {
        let plane = self.asked()?;
        let drift = Drift {
            object: None,
            what: "something else runs".to_owned(),
        };
        let same = plane.content.as_ref() == Some(configuration);
        Ok(if same { vec![] } else { vec![drift] })
    }

    async fn health(&self, _: &Configuration) -> Result<Value, Unavailable> {
        Ok(self.asked()?.health.clone())
    }

    async fn housekeep(&self, _: &Configuration) -> Result<(), Unavailable> {
        self.asked().map(drop)
    }

    async fn stop(&self) -> Result<(), Unavailable> {
        self.0.lock().unwrap().stopped = true;
        Ok(())
    }
}

// The control plane ----------------------------------------------------------------------------

#[derive(Debug, Default)]
struct Server {
    down: bool,
    lose_replies: u32,
    head: Option<Delivered>,
    /// Hashes of tokens that may register.
    tokens: Vec<String>,
    processes: Vec<String>,
    reports: Vec<SyncRequest>,
    heartbeats: Vec<SyncRequest>,
    registrations: u32,
    refuse_sync: Option<&'static str>,
    /// Answer whatever is asked with the head, once.
    force: bool,
}

#[derive(Clone, Debug)]
struct World {
    clock: HandClock,
    server: Arc<Mutex<Server>>,
    driver: FakeDriver,
}

fn json_answer<B: Serialize>(body: &B) -> Response {
    respond(200, "application/json", serde_json::to_vec(body).unwrap())
}

fn respond(status: u16, content_type: &'static str, body: Vec<u8>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", content_type.parse().unwrap());
    Response {
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        body: body.into(),
    }
}

fn problem(status: u16, code: Code, reason: &str) -> Response {
    let body = json!({"type": "", "title": "no", "status": status, "detail": "", "instance": "",
        "code": code, "reason": reason, "retryable": false});
    respond(status, PROBLEM_JSON, body.to_string().into_bytes())
}

impl Server {
    fn answer(&mut self, request: &Request) -> Option<Response> {
        let bearer = request.headers["authorization"].to_str().unwrap();
        let hash = cpl_core::access::hash(bearer.strip_prefix("Bearer ").unwrap());
        if !self.tokens.contains(&hash) {
            return Some(problem(401, Code::Unauthenticated, "TOKEN_UNKNOWN"));
        }
        if request.target.ends_with(":register") {
            return Some(self.register(&serde_json::from_slice(&request.body).unwrap()));
        }
        let report: SyncRequest = serde_json::from_slice(&request.body).unwrap();
        if let Some(reason) = self.refuse_sync {
            return Some(problem(409, Code::Aborted, reason));
        }
        let current = AgentIncarnation(self.processes.len() as u64);
        if report.agent_incarnation != current {
            return Some(problem(409, Code::Aborted, AGENT_SUPERSEDED));
        }
        if request.target.ends_with(":heartbeat") {
            self.heartbeats.push(report);
            return Some(json_answer(&same(None)));
        }
        if self.reports.last() != Some(&report) {
            self.reports.push(report.clone());
        }
        self.news(&report)
    }

    fn register(&mut self, request: &RegisterRequest) -> Response {
        self.registrations += 1;
        self.tokens.extend(request.token_sha256.clone());
        if !self.processes.contains(&request.process) {
            self.processes.push(request.process.clone());
        }
        json_answer(&RegisterResponse {
            agent_incarnation: AgentIncarnation(self.processes.len() as u64),
            identity: self.head.as_ref().map_or(identity(1), |head| head.identity),
            protocol: 1,
            wait_ms: 10_000,
            grace_ms: 10_000,
        })
    }

    fn news(&mut self, report: &SyncRequest) -> Option<Response> {
        let head = self.head.clone()?;
        let differs = report.incarnation != Some(head.identity.incarnation)
            || report.received_digest.as_ref() != Some(&head.digest);
        if std::mem::take(&mut self.force) || differs {
            let delivered = Box::new(head);
            return Some(json_answer(&SyncResponse::Configuration { delivered }));
        }
        (report.received < Some(head.version)).then(|| json_answer(&same(Some(head.version))))
    }
}

const fn same(version: Option<ConfigVersion>) -> SyncResponse {
    SyncResponse::Same {
        version,
        next_after_ms: 0,
    }
}

fn join_token() -> BearerToken {
    format!("cpl_{}_{}", "0a".repeat(8), "5ec7".repeat(16))
        .parse()
        .unwrap()
}

impl World {
    fn new() -> Self {
        let server = Server {
            tokens: vec![join_token().sha256()],
            ..Server::default()
        };
        Self {
            clock: HandClock::default(),
            server: Arc::new(Mutex::new(server)),
            driver: FakeDriver::default(),
        }
    }

    fn with<R>(&self, change: impl FnOnce(&mut Server) -> R) -> R {
        change(&mut self.server.lock().unwrap())
    }

    fn plane<R>(&self, change: impl FnOnce(&mut Plane) -> R) -> R {
        change(&mut self.driver.0.lock().unwrap())
    }

    fn publish(&self, version: u64, objects: &[(&str, u64, &str)]) {
        self.with(|server| server.head = Some(delivered(1, version, configuration(objects))));
    }

    fn client(&self) -> ControlPlaneClient {
        let world = self.clone();
        let transport = MemoryTransport::new(move |request| {
            let world = world.clone();
            async move { world.serve(request).await }
        });
        ControlPlaneClient::new(
            Arc::new(transport),
            Arc::new(self.clock.clone()),
            Arc::new(Chance::default()),
        )
    }

    /// Answers at once, or looks every 50 ms for something new until the wait is over.
    async fn serve(&self, request: Request) -> Result<Response, TransportError> {
        let wait = serde_json::from_slice::<SyncRequest>(&request.body).map_or(0, |r| r.wait_ms);
        let end = self.clock.monotonic().plus(Duration::from_millis(wait));
        self.clock.sleep(Duration::from_millis(1)).await;
        loop {
            if self.with(|server| server.down) {
                return Err(TransportError::Connect {
                    failure: ConnectFailure::Refused,
                    message: String::new(),
                });
            }
            if let Some(answer) = self.with(|server| server.answer(&request)) {
                if self.with(|s| s.lose_replies > 0) {
                    self.with(|s| s.lose_replies -= 1);
                    return Err(TransportError::Closed {
                        message: String::new(),
                    });
                }
                return Ok(answer);
            }
            if self.clock.monotonic() >= end {
                return Ok(json_answer(&same(None)));
            }
            self.clock.sleep(Duration::from_millis(50)).await;
        }
    }

    fn config(dir: &Path) -> AgentConfig {
        let token = dir.join("join.token");
        std::fs::write(&token, join_token().reveal()).unwrap();
        AgentConfig {
            node: "n1".to_owned(),
            servers: vec!["http://x".to_owned()],
            ca_file: None,
            state_dir: dir.join("state"),
            join_token_file: Some(token),
            stop_data_plane_on_exit: false,
        }
    }

    /// A process that is about to start. Each has other randomness, as in life.
    fn agent(&self, dir: &Path) -> Agent {
        let seed =
            self.with(|server| server.processes.len() as u64 + 1) + self.clock.secs() * 1_000;
        let host = Host {
            clock: Arc::new(self.clock.clone()),
            ids: Arc::new(Chance(Mutex::new(seed))),
            spawner: Arc::new(TokioSpawner),
        };
        let driver = Box::new(self.driver.clone());
        let runtime = AgentRuntime::new(Self::config(dir), driver, self.client(), host).unwrap();
        let (stop, stopped) = futures::channel::oneshot::channel::<()>();
        let run = Box::pin(async move {
            runtime
                .run(async {
                    // An end of the sender without a word is not a signal.
                    if stopped.await.is_err() {
                        std::future::pending::<()>().await;
                    }
                })
                .await
        });
        Agent {
            run,
            stop: Some(stop),
            clock: self.clock.clone(),
        }
    }

    fn last_report(&self) -> SyncRequest {
        self.with(|server| server.reports.last().cloned().expect("a report"))
    }

    fn accepted(&self) -> Option<u64> {
        self.last_report().accepted.map(|version| version.0)
    }

    fn held(&self) -> Vec<(String, u64, Option<u64>, String)> {
        self.last_report()
            .holds
            .into_iter()
            .map(|h| {
                let running = h.running.map(|g| g.0);
                (h.object.name, h.generation.0, running, h.code)
            })
            .collect()
    }
}

struct Agent {
    run: Pin<Box<dyn Future<Output = Result<(), AgentError>>>>,
    stop: Option<futures::channel::oneshot::Sender<()>>,
    clock: HandClock,
}

impl Agent {
    /// Lets it run; it must not stop.
    fn work(&mut self, seconds: u64) {
        let ended = self.clock.run(&mut self.run, Duration::from_secs(seconds));
        assert!(ended.is_none(), "it stopped: {ended:?}");
    }

    fn end(mut self) -> Result<(), AgentError> {
        if let Some(stop) = self.stop.take() {
            stop.send(()).unwrap();
        }
        self.clock
            .run(&mut self.run, Duration::from_mins(1))
            .expect("it stops")
    }
}

const GOOD: &str = "good";
const BETTER: &str = "better";
const BAD: &str = "bad at Check";
const BAD_LATE: &str = "bad at Apply";

fn hold(name: &str, generation: u64, running: Option<u64>) -> (String, u64, Option<u64>, String) {
    (name.to_owned(), generation, running, "BAD".to_owned())
}

// Stories --------------------------------------------------------------------------------------

#[test]
fn a_configuration_is_applied_and_accepted() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(1);
    assert_eq!(world.accepted(), Some(5));
    assert_eq!(world.held(), []);
    let report = world.last_report();
    assert_eq!(report.data_plane.running_version, Some(ConfigVersion(5)));
    assert_eq!(report.data_plane.state, DataPlaneState::Healthy);
    agent.end().unwrap();
    assert_eq!(world.with(|s| s.heartbeats.len()), 1);
    assert!(!world.plane(|p| p.stopped));
}

#[test]
fn a_bad_object_holds_nothing_but_itself() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, GOOD), ("b", 1, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(1);
    world.publish(6, &[("a", 2, BAD), ("b", 2, BETTER), ("c", 1, BAD_LATE)]);
    agent.work(3);
    assert_eq!(world.accepted(), Some(5));
    assert_eq!(world.held(), [hold("a", 2, Some(1)), hold("c", 1, None)]);
    assert_eq!(
        world.plane(|p| p.serves()),
        [("a".to_owned(), 1), ("b".to_owned(), 2)]
    );
    // An unrelated change goes in, and what was refused is not tried again.
    let checks = world.plane(|p| p.checks);
    world.publish(7, &[("a", 2, BAD), ("b", 3, GOOD), ("c", 1, BAD_LATE)]);
    agent.work(60);
    assert_eq!(world.plane(|p| p.checks), checks + 1);
    assert_eq!(
        world.plane(|p| p.serves()),
        [("a".to_owned(), 1), ("b".to_owned(), 3)]
    );
    assert_eq!((world.accepted(), world.held().len()), (Some(5), 2));
    // A new generation is tried.
    world.publish(8, &[("a", 3, BETTER), ("b", 3, GOOD), ("c", 2, GOOD)]);
    agent.work(3);
    assert_eq!((world.accepted(), world.held()), (Some(8), vec![]));
}

#[test]
fn another_attempt_and_another_process_try_again() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, BAD)]);
    let mut agent = world.agent(dir.path());
    agent.work(3);
    assert_eq!(world.plane(|p| p.refusals), 1);
    let mut again = configuration(&[("a", 1, BAD)]);
    again.attempt = 1;
    world.with(|s| s.head = Some(delivered(1, 6, again)));
    agent.work(3);
    assert_eq!(world.plane(|p| p.refusals), 2);
    drop(agent);
    let mut agent = world.agent(dir.path());
    agent.work(3);
    assert_eq!(world.plane(|p| p.refusals), 3);
    assert_eq!(world.held(), [hold("a", 1, None)]);
}

#[test]
fn a_refusal_of_the_whole_keeps_everything() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(1);
    let mut bad = configuration(&[("a", 2, BETTER)]);
    bad.node = json!(BAD);
    world.with(|s| s.head = Some(delivered(1, 6, bad)));
    agent.work(60);
    assert_eq!(world.held(), [hold("n1", 0, None)]);
    assert_eq!(world.accepted(), Some(5));
    assert_eq!(world.plane(|p| p.serves()), [("a".to_owned(), 1)]);
    assert_eq!(world.plane(|p| p.refusals), 1);
    world.publish(7, &[("a", 2, BETTER)]);
    agent.work(3);
    assert_eq!((world.accepted(), world.held()), (Some(7), vec![]));
}

#[test]
fn the_control_plane_may_go_and_come_back() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(1);
    world.with(|s| s.down = true);
    agent.work(3_600);
    let reports = world.with(|s| s.reports.len());
    world.with(|s| s.down = false);
    agent.work(30);
    assert!(world.with(|s| s.reports.len()) > reports);
    assert_eq!(world.plane(|p| (p.reloads, p.applies)), (1, 1));
}

#[test]
fn a_version_of_the_same_content_is_accepted_without_a_reload() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(1);
    world.publish(9, &[("a", 1, GOOD)]);
    agent.work(3);
    assert_eq!(world.accepted(), Some(9));
    assert_eq!(world.plane(|p| p.reloads), 1);
    assert_eq!(
        world.plane(|p| p.label.clone()).unwrap().version,
        ConfigVersion(9)
    );
    // While something is held it is received, and no more.
    world.publish(10, &[("a", 2, BAD)]);
    agent.work(3);
    world.publish(11, &[("a", 2, BAD)]);
    agent.work(3);
    let report = world.last_report();
    assert_eq!(report.received, Some(ConfigVersion(11)));
    assert_eq!(report.accepted, Some(ConfigVersion(9)));
    assert_eq!(world.plane(|p| p.reloads), 1);
}

#[test]
fn lower_versions_are_refused_unless_they_are_of_a_later_life() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 2, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(1);
    world.publish(4, &[("a", 1, BETTER)]);
    agent.work(60);
    assert_eq!(world.plane(|p| p.serves()), [("a".to_owned(), 2)]);
    assert_eq!(world.held()[0].3, "VERSION_WENT_BACK");
    assert!(world.with(|s| s.reports.len()) < 60, "it asks too often");
    world.with(|s| s.head = Some(delivered(2, 4, configuration(&[("a", 1, BETTER)]))));
    agent.work(30);
    assert_eq!(world.plane(|p| p.serves()), [("a".to_owned(), 1)]);
    let report = world.last_report();
    assert_eq!(report.incarnation, Some(Incarnation(2)));
    assert_eq!(
        (report.accepted, report.holds),
        (Some(ConfigVersion(4)), vec![])
    );
}

#[test]
fn another_process_ends_this_one() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(1);
    world.with(|s| s.refuse_sync = Some(AGENT_SUPERSEDED));
    let ended = agent.clock.run(&mut agent.run, Duration::from_mins(1));
    assert!(matches!(ended, Some(Err(AgentError::Superseded { .. }))));
    assert_eq!(world.plane(|p| p.serves()), [("a".to_owned(), 1)]);
}

#[test]
fn an_unknown_agent_registers_again() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(1);
    world.with(|s| s.refuse_sync = Some(AGENT_UNKNOWN));
    agent.work(60);
    world.with(|s| s.refuse_sync = None);
    let registrations = world.with(|s| s.registrations);
    assert!(registrations > 1 && registrations < 30, "{registrations}");
    agent.work(120);
    assert_eq!(world.accepted(), Some(5));
}

#[test]
fn a_lost_answer_to_the_first_registration_does_no_harm() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, GOOD)]);
    world.with(|s| s.lose_replies = 1);
    let mut agent = world.agent(dir.path());
    agent.work(5);
    assert_eq!(world.accepted(), Some(5));
    assert_eq!(world.with(|s| s.processes.len()), 1);
    // The join token is spent; the agent's own is enough.
    drop(agent);
    world.with(|s| s.tokens.remove(0));
    let mut agent = world.agent(dir.path());
    agent.work(5);
    assert_eq!(world.with(|s| s.processes.len()), 2);
}

#[test]
fn an_agent_that_is_refused_asks_rarely() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.with(|s| s.tokens.clear());
    let mut agent = world.agent(dir.path());
    agent.work(300);
    world.publish(5, &[("a", 1, GOOD)]);
    world.with(|s| s.tokens.push(join_token().sha256()));
    agent.work(130);
    assert_eq!(world.accepted(), Some(5));
}

#[test]
fn a_restart_reloads_nothing_and_needs_no_control_plane() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(1);
    drop(agent);
    let mut agent = world.agent(dir.path());
    agent.work(1);
    assert_eq!(world.accepted(), Some(5));
    assert_eq!(world.plane(|p| (p.reloads, p.applies)), (1, 1));
    drop(agent);
    // The machine starts anew: no data plane, no control plane.
    world.with(|s| s.down = true);
    world.plane(|p| *p = Plane::default());
    let mut agent = world.agent(dir.path());
    agent.work(1);
    assert_eq!(world.plane(|p| p.serves()), [("a".to_owned(), 1)]);
    agent.end().unwrap();
}

#[test]
fn what_somebody_else_changed_is_repaired_but_not_without_end() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(1);
    world.plane(|p| p.content = None);
    agent.work(31);
    assert_eq!(world.plane(|p| p.serves()), [("a".to_owned(), 1)]);
    let reloads = world.plane(|p| p.reloads);
    for _ in 0..120 {
        world.plane(|p| p.content = None);
        agent.work(30);
    }
    let repairs = world.plane(|p| p.reloads) - reloads;
    assert!((3..=15).contains(&repairs), "{repairs} repairs in an hour");
}

#[test]
fn a_data_plane_that_dies_is_brought_back_soon() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(40);
    world.plane(|p| {
        p.state = DataPlaneState::Down;
        p.label = None;
    });
    agent.work(5);
    assert_eq!(world.plane(|p| p.state), DataPlaneState::Healthy);
}

#[test]
fn a_data_plane_that_cannot_be_asked_is_tried_again() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.plane(|p| p.unavailable = true);
    world.publish(5, &[("a", 1, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(60);
    assert_eq!(
        world.last_report().data_plane.state,
        DataPlaneState::Unknown
    );
    assert_eq!(world.accepted(), None);
    world.plane(|p| p.unavailable = false);
    agent.work(70);
    assert_eq!(world.accepted(), Some(5));
}

#[test]
fn health_is_told_soon_and_not_too_often() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(10);
    world.plane(|p| p.health = json!("changed"));
    agent.work(4);
    assert_eq!(world.last_report().data_plane.health, json!("changed"));
    let reports = world.with(|s| s.reports.len());
    let begun = world.clock.secs();
    for round in 0..100 {
        world.plane(|p| p.health = json!(round));
        agent.work(1);
    }
    let told = world.with(|s| s.reports.len()) - reports;
    assert!(told as u64 <= world.clock.secs() - begun, "{told}");
}

#[test]
fn unreadable_files_are_moved_aside() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    world.publish(5, &[("a", 1, GOOD)]);
    let mut agent = world.agent(dir.path());
    agent.work(1);
    drop(agent);
    let current = dir.path().join("state/current.json");
    let whole = std::fs::read(&current).unwrap();
    std::fs::write(&current, &whole[..whole.len() / 2]).unwrap();
    let mut agent = world.agent(dir.path());
    agent.work(3);
    assert_eq!(world.accepted(), Some(5));
    assert!(dir.path().join("state/current.json.unreadable").exists());
    assert_eq!(world.plane(|p| p.reloads), 1);
}

#[test]
fn a_content_that_is_not_its_digest_is_not_applied() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let mut wrong = delivered(1, 5, configuration(&[("a", 1, GOOD)]));
    wrong.digest = "0".repeat(64);
    world.with(|s| s.head = Some(wrong));
    let mut agent = world.agent(dir.path());
    agent.work(30);
    assert_eq!(world.held()[0].3, "DIGEST_MISMATCH");
    assert_eq!(world.plane(|p| p.applies), 0);
}

#[test]
fn a_directory_has_one_agent() {
    let dir = tempfile::tempdir().unwrap();
    let first = StateDir::open(dir.path()).unwrap();
    assert!(matches!(
        StateDir::open(dir.path()),
        Err(StateError::InUse { .. })
    ));
    drop(first);
    StateDir::open(dir.path()).unwrap();
}

#[test]
fn the_own_token_is_kept_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;

    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    drop(world.agent(dir.path()));
    let path = dir.path().join("state/agent.token");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let first = std::fs::read(&path).unwrap();
    drop(world.agent(dir.path()));
    assert_eq!(std::fs::read(&path).unwrap(), first);
}

#[test]
fn the_second_credential_is_tried_when_the_first_is_refused() {
    let ids = Arc::new(Chance::default());
    let mut link = Link::new("n1".to_owned(), ids, Credential::Own, true);
    let facts = cpl_core::delivery::Facts::default();
    let refused = || {
        let body = problem(401, Code::Unauthenticated, "TOKEN_UNKNOWN").body;
        cpl_api::error::ControlPlaneError::Problem(serde_json::from_slice(&body).unwrap())
    };
    let mut now = Monotonic::default();
    assert_eq!(
        link.next(now, &facts, false),
        Some(Say::Register(Credential::Own))
    );
    assert_eq!(link.registered(now, Err(refused())), Outcome::GoesOn);
    now = now.plus(Duration::from_secs(1));
    assert_eq!(
        link.next(now, &facts, false),
        Some(Say::Register(Credential::Join))
    );
    link.registered(now, Err(refused()));
    assert_eq!(
        link.next(now.plus(Duration::from_secs(29)), &facts, false),
        None
    );
}

#[test]
fn a_report_stays_within_its_bounds() {
    let mut link = Link::new(
        "n1".to_owned(),
        Arc::new(Chance::default()),
        Credential::Own,
        false,
    );
    let answer = RegisterResponse {
        agent_incarnation: AgentIncarnation(1),
        identity: identity(1),
        protocol: 1,
        wait_ms: 0,
        grace_ms: 0,
    };
    link.registered(Monotonic::default(), Ok(answer));
    let hold = cpl_core::delivery::Hold {
        object: configuration(&[("a", 1, GOOD)]).objects[0].object.clone(),
        generation: Generation(1),
        running: None,
        stage: Stage::Check,
        code: "BAD".to_owned(),
        field: None,
        message: String::new(),
    };
    let facts = cpl_core::delivery::Facts {
        holds: vec![hold; 1_000],
        health: json!("x".repeat(1 << 20)),
        ..Default::default()
    };
    let request = link.farewell(&facts).unwrap();
    assert_eq!(
        (request.holds.len(), request.data_plane.health),
        (256, Value::Null)
    );
}

// Crashes --------------------------------------------------------------------------------------

/// A disk and a data plane, and how the next pieces of work fare.
#[derive(Debug, Default)]
struct Model {
    current: Option<Record>,
    pending: Option<Record>,
    plane: Option<Running>,
    /// What a half-done apply left: another content under the old label.
    torn: bool,
    /// What was delivered as what.
    delivered: BTreeMap<(u64, u64, String), Configuration>,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Well,
    Fails,
    CrashesBefore,
    CrashesAmid,
    CrashesAfter,
}

impl Model {
    fn start(&self, process: u32) -> Machine {
        let me = Me {
            node: "n1".to_owned(),
            driver: "fake".to_owned(),
            process: process.to_string(),
        };
        let found = Found {
            current: self.current.clone(),
            pending: self.pending.clone(),
        };
        Machine::new(me, Arc::new(Chance::default()), found)
    }

    fn observed(&self) -> Observed {
        Observed {
            state: if self.plane.is_some() {
                DataPlaneState::Healthy
            } else {
                DataPlaneState::Down
            },
            label: self.plane.as_ref().map(|running| running.label.clone()),
        }
    }

    fn perform(&mut self, work: Work, fails: bool) -> Done {
        let failure = || "no".to_owned();
        if fails {
            return match work {
                Work::Observe => Done::Observed(Err(failure())),
                Work::Verify(_) => Done::Verified(Err(failure())),
                Work::Look(_) => Done::Looked {
                    observed: Err(failure()),
                    health: None,
                },
                Work::Housekeep(_) => Done::Housekept,
                Work::Check(_) => Done::Checked(Err(Refusal::Unavailable(failure()))),
                Work::Apply(_) => {
                    self.torn = self.plane.is_some();
                    Done::Applied(Err(Refusal::Unavailable(failure())))
                },
                Work::Prepare(_) | Work::Promote | Work::Keep(_) | Work::Discard => {
                    Done::Stored(Err(failure()))
                },
            };
        }
        match work {
            Work::Observe => Done::Observed(Ok(self.observed())),
            Work::Look(_) => Done::Looked {
                observed: Ok(self.observed()),
                health: None,
            },
            Work::Verify(running) => {
                let same = !self.torn
                    && self.plane.as_ref().map(|p| &p.configuration)
                        == Some(&running.configuration);
                let drift = Drift {
                    object: None,
                    what: String::new(),
                };
                Done::Verified(Ok(if same { vec![] } else { vec![drift] }))
            },
            Work::Housekeep(_) => Done::Housekept,
            Work::Check(configuration) => Done::Checked(refusal(&configuration, Stage::Check)),
            Work::Apply(running) => {
                let refused = refusal(&running.configuration, Stage::Apply);
                if refused.is_ok() {
                    self.plane = Some(running.as_ref().clone());
                    self.torn = false;
                }
                Done::Applied(refused.map(|()| Applied::Unchanged))
            },
            Work::Prepare(record) => {
                self.pending = Some(round_trip(&record));
                Done::Stored(Ok(()))
            },
            Work::Promote => {
                let record = self.pending.take().expect("something pending");
                self.accept(record);
                Done::Stored(Ok(()))
            },
            Work::Keep(record) => {
                self.accept(round_trip(&record));
                self.pending = None;
                Done::Stored(Ok(()))
            },
            Work::Discard => {
                self.pending = None;
                Done::Stored(Ok(()))
            },
        }
    }
}

/// What a record says is accepted.
fn accepted(record: Option<&Record>) -> Order {
    record.map_or((None, None), |record| {
        let incarnation = record
            .accepted
            .map(|_| record.received.identity.incarnation);
        (incarnation, record.accepted)
    })
}

impl Model {
    /// At the moment when a version is accepted, exactly its content runs.
    fn accept(&mut self, record: Record) {
        let (before, now) = (accepted(self.current.as_ref()), accepted(Some(&record)));
        if let (Some(incarnation), Some(version)) = now
            && now != before
        {
            assert!(now > before, "{now:?} after {before:?}");
            assert!(record.held.is_empty() && record.whole.is_none());
            let running = self.plane.as_ref().expect("it runs");
            let digest = running.configuration.digest();
            let key = (incarnation.0, version.0, digest);
            assert!(self.delivered.contains_key(&key), "{key:?}");
            assert!(!self.torn);
        }
        self.current = Some(record);
    }
}

impl Model {
    /// Within one life a version has one content.
    fn publish(&mut self, new: &Delivered) -> bool {
        let (incarnation, version) = (new.identity.incarnation.0, new.version.0);
        let known = self
            .delivered
            .keys()
            .any(|(i, v, _)| (*i, *v) == (incarnation, version));
        if !known {
            let key = (incarnation, version, new.digest.clone());
            self.delivered.insert(key, new.configuration.clone());
        }
        !known
    }
}

fn refusal(configuration: &Configuration, stage: Stage) -> Result<(), Refusal> {
    let faults = faults(configuration, stage);
    if faults.is_empty() {
        Ok(())
    } else {
        Err(Refusal::Rejected(faults))
    }
}

/// What a file makes of a record.
fn round_trip(record: &Record) -> Record {
    let record: Record = serde_json::from_slice(&serde_json::to_vec(record).unwrap()).unwrap();
    assert_eq!(record.fault("n1", "fake"), None);
    record
}

#[derive(Clone, Debug)]
enum Step {
    Work(Fate),
    Deliver {
        incarnation: u64,
        version: u64,
        bodies: Vec<u8>,
    },
    Same {
        ahead: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fate = prop_oneof![
        12 => Just(Fate::Well),
        1 => Just(Fate::Fails),
        1 => Just(Fate::CrashesBefore),
        1 => Just(Fate::CrashesAmid),
        1 => Just(Fate::CrashesAfter),
    ];
    let deliver = (1u64..3, 1u64..30, proptest::collection::vec(0u8..5, 0..4));
    let step = prop_oneof![
        8 => fate.prop_map(Step::Work),
        2 => deliver.prop_map(|(incarnation, version, bodies)| Step::Deliver {
            incarnation, version, bodies
        }),
        1 => (0u64..3).prop_map(|ahead| Step::Same { ahead }),
    ];
    proptest::collection::vec(step, 0..120)
}

/// Bodies of objects `o0`, `o1`, ...: absent, good, better, refused by the check, refused by the apply.
fn content(version: u64, bodies: &[u8]) -> Configuration {
    let names: Vec<_> = (0..bodies.len()).map(|i| format!("o{i}")).collect();
    let objects: Vec<_> = names
        .iter()
        .zip(bodies)
        .filter_map(|(name, body)| {
            let words = [None, Some(GOOD), Some(BETTER), Some(BAD), Some(BAD_LATE)];
            words[usize::from(*body)].map(|word| (name.as_str(), version, word))
        })
        .collect();
    configuration(&objects)
}

type Order = (Option<Incarnation>, Option<ConfigVersion>);

/// No report takes back what an earlier one said, and all of them say what is on disk.
#[derive(Debug, Default)]
struct Watcher {
    reported: Order,
}

impl Watcher {
    fn check(&mut self, machine: &Machine, model: &Model) {
        if !machine.is_ready() {
            return;
        }
        let facts = machine.facts(Some(identity(1)));
        assert!(facts.accepted <= facts.received);
        if facts.accepted.is_some() {
            let now = (facts.incarnation, facts.accepted);
            assert!(now >= self.reported, "{now:?} after {:?}", self.reported);
            assert!(now <= accepted(model.current.as_ref()));
            self.reported = now;
        }
    }
}

fn live(steps: &[Step]) {
    let mut model = Model::default();
    let mut watcher = Watcher::default();
    let mut process = 0;
    let mut machine = model.start(process);
    let mut now = Monotonic::default();
    let mut head: Option<Delivered> = None;
    for step in steps {
        now = now.plus(Duration::from_millis(700));
        match step {
            Step::Work(fate) => {
                let Some(work) = machine.next(now) else {
                    continue;
                };
                match fate {
                    Fate::Well => machine.done(now, model.perform(work, false)),
                    Fate::Fails => machine.done(now, model.perform(work, true)),
                    Fate::CrashesBefore => {
                        process += 1;
                        machine = model.start(process);
                    },
                    Fate::CrashesAmid => {
                        model.torn |= matches!(work, Work::Apply(_)) && model.plane.is_some();
                        process += 1;
                        machine = model.start(process);
                    },
                    Fate::CrashesAfter => {
                        model.perform(work, false);
                        process += 1;
                        machine = model.start(process);
                    },
                }
            },
            Step::Deliver {
                incarnation,
                version,
                bodies,
            } if machine.is_ready() => {
                let new = delivered(*incarnation, *version, content(*version, bodies));
                if model.publish(&new)
                    && machine.deliver(new.identity, new.clone()) == Verdict::Taken
                {
                    head = Some(new);
                }
            },
            Step::Same { ahead } => {
                if let Some(head) = &mut head {
                    let newer = Delivered {
                        version: ConfigVersion(head.version.0 + ahead),
                        ..head.clone()
                    };
                    let facts = machine.facts(None);
                    let known = facts.received_digest.as_ref() == Some(&head.digest)
                        && facts.incarnation == Some(head.identity.incarnation);
                    if known && model.publish(&newer) {
                        machine.same(newer.identity, Some(newer.version));
                        *head = newer;
                    }
                }
            },
            Step::Deliver { .. } => {},
        }
        watcher.check(&machine, &model);
    }
    converge(machine, &mut model, now, &mut watcher);
}

/// Whatever happened, when nothing fails any more the newest configuration runs, once all is told.
fn converge(mut machine: Machine, model: &mut Model, mut now: Monotonic, watcher: &mut Watcher) {
    let last = content(1_000, &[1, 2, 1]);
    let newest = delivered(3, 1_000, last.clone());
    model
        .delivered
        .insert((3, 1_000, newest.digest.clone()), last.clone());
    let mut told = false;
    for _ in 0..2_000 {
        now = now.plus(Duration::from_millis(700));
        if machine.is_ready() && !told {
            assert_eq!(
                machine.deliver(newest.identity, newest.clone()),
                Verdict::Taken
            );
            told = true;
        }
        if let Some(work) = machine.next(now) {
            machine.done(now, model.perform(work, false));
        }
        watcher.check(&machine, model);
    }
    let facts = machine.facts(None);
    assert_eq!(facts.accepted, Some(ConfigVersion(1_000)));
    assert_eq!(facts.holds, []);
    assert!(!model.torn);
    let plane = model.plane.as_ref().expect("it runs");
    assert_eq!(plane.configuration, last);
    assert_eq!(
        model.current.as_ref().and_then(|r| r.running.as_deref()),
        Some(plane)
    );
    assert_eq!(model.pending, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn reports_are_true_and_never_go_back_whatever_crashes(steps in steps()) {
        live(&steps);
    }
}

#[test]
fn a_crash_between_apply_and_promotion_is_told_by_the_data_plane() {
    let mut model = Model::default();
    let mut machine = model.start(0);
    let mut now = Monotonic::default();
    let first = delivered(1, 5, content(5, &[1]));
    let key = (1, 5, first.digest.clone());
    model.delivered.insert(key, first.configuration.clone());
    loop {
        now = now.plus(Duration::from_secs(1));
        if machine.is_ready() {
            machine.deliver(first.identity, first.clone());
        }
        match machine.next(now) {
            Some(work @ Work::Apply(_)) => {
                model.perform(work, false);
                break;
            },
            Some(work) => machine.done(now, model.perform(work, false)),
            None => {},
        }
    }
    assert!(model.current.is_none() && model.pending.is_some());
    let mut machine = model.start(1);
    while !machine.is_ready() {
        let work = machine.next(now).expect("work");
        assert!(!matches!(work, Work::Apply(_)), "it runs already");
        machine.done(now, model.perform(work, false));
    }
    assert_eq!(machine.facts(None).accepted, Some(ConfigVersion(5)));
}
