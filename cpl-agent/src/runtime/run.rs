//! The one loop of an agent: all of its effects, none of its decisions.

use std::fs;
use std::future::pending;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cpl_api::agent::{PROTOCOL, RegisterRequest, RegisterResponse, SyncResponse};
use cpl_api::client::ControlPlaneClient;
use cpl_api::error::ControlPlaneError;
use cpl_api::http::{HttpConfigError, HttpControlPlaneTransport};
use cpl_api::token::BearerToken;
use cpl_api::transport::ControlPlaneTransport;
use cpl_core::clock::{Clock, Monotonic};
use cpl_core::delivery::Delivered;
use cpl_core::ids::TxnId;
use cpl_host::Host;
use futures::future::{BoxFuture, Either, select};
use tracing::{debug, error, info, warn};

use super::config::{AgentConfig, AgentConfigError};
use super::link::{Credential, Link, Outcome, Say};
use super::machine::{Done, Machine, Refusal, Verdict, Work};
use super::model::Me;
use super::state::{StateDir, StateError};
use crate::driver::{ApplyError, Driver, Unavailable};

/// Longest time that a driver may take for anything; it is given up after that.
const DRIVER: Duration = Duration::from_mins(2);
/// How long an agent that is told to stop goes on with what it has begun.
const FINISH: Duration = Duration::from_secs(10);
/// How long its last word may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why an agent stopped, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It cannot be set up like this.
    #[error("set up the agent")]
    Config(#[from] AgentConfigError),
    /// The control plane cannot be reached like this.
    #[error("set up the connection to the control plane")]
    Http(#[from] HttpConfigError),
    /// Its directory cannot be used.
    #[error("use the agent's state")]
    State(#[from] StateError),
    /// The join token could not be read.
    #[error("read a join token from {}", path.display())]
    JoinToken {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A later process speaks for the node. What runs was left alone.
    #[error("speak for node {node}: another process does")]
    Superseded {
        /// The node.
        node: String,
    },
}

/// Runs an agent of this host until `shutdown` completes.
pub async fn run_agent(
    config: AgentConfig,
    driver: Box<dyn Driver>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AgentError> {
    config.validate()?;
    let host = Host::new();
    let transport: Arc<dyn ControlPlaneTransport> = Arc::new(HttpControlPlaneTransport::new(
        &config.http(),
        Arc::clone(&host.clock),
    )?);
    let client = ControlPlaneClient::new(transport, Arc::clone(&host.clock), Arc::clone(&host.ids));
    AgentRuntime::new(config, driver, client, host)?
        .run(shutdown)
        .await
}

/// Keeps one node as the control plane wants it, through a driver.
///
/// What runs is never touched because the control plane is away, and it is brought back from disk
/// before the first word to it.
#[derive(Debug)]
pub struct AgentRuntime {
    hands: Hands,
    mouth: Mouth,
    machine: Machine,
    link: Link,
    clock: Arc<dyn Clock>,
    node: String,
    stop_data_plane_on_exit: bool,
}

impl AgentRuntime {
    /// Takes the state directory and reads what an earlier process left there. Nothing else is
    /// touched yet.
    pub fn new(
        config: AgentConfig,
        driver: Box<dyn Driver>,
        client: ControlPlaneClient,
        host: Host,
    ) -> Result<Self, AgentError> {
        config.validate()?;
        let state = StateDir::open(&config.state_dir)?;
        let node = config.node;
        let found = state.load(&node, driver.name())?;
        let me = Me {
            node: node.clone(),
            driver: driver.name().to_owned(),
            process: TxnId::fresh(host.ids.as_ref()).to_string(),
        };
        let kept = state.token()?;
        let join = config.join_token_file.map(read_join_token);
        // A file that is gone does not matter once there is a token of the agent's own.
        let join = match (join, &kept) {
            (Some(Err(error)), Some(_)) => {
                warn!(node, %error, "there is no join token to fall back on");
                None
            },
            (join, _) => join.transpose()?,
        };
        let credential = match (&kept, &join) {
            (None, Some(_)) => Credential::Join,
            _ => Credential::Own,
        };
        let own = match kept {
            Some(token) => token,
            None => draw_token(&state, &host)?,
        };
        let ids = Arc::clone(&host.ids);
        Ok(Self {
            mouth: Mouth {
                client,
                node: node.clone(),
                hello: RegisterRequest {
                    process: me.process.clone(),
                    token_sha256: None,
                    token_id: None,
                    protocol: (PROTOCOL, PROTOCOL),
                    software: env!("CARGO_PKG_VERSION").to_owned(),
                    driver: driver.name().to_owned(),
                    carries_traffic: driver.carries_traffic(),
                },
                own,
                join: join.clone(),
            },
            link: Link::new(node.clone(), Arc::clone(&ids), credential, join.is_some()),
            machine: Machine::new(me, ids, found),
            hands: Hands {
                driver,
                state,
                clock: Arc::clone(&host.clock),
            },
            clock: host.clock,
            node,
            stop_data_plane_on_exit: config.stop_data_plane_on_exit,
        })
    }

    /// Works until `shutdown` completes, or until another process speaks for the node.
    ///
    /// Stopping ends what was begun (for 10 s at most), says a last word and leaves the data plane
    /// alone, unless the configuration says otherwise. Dropping the future is a crash: the next
    /// process finds out what runs.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), AgentError> {
        let Self {
            hands,
            mouth,
            mut machine,
            mut link,
            clock,
            node,
            stop_data_plane_on_exit,
        } = self;
        let mut shutdown = pin!(shutdown);
        let mut work: Option<BoxFuture<'_, Done>> = None;
        let mut call: Option<BoxFuture<'_, Answer>> = None;
        let outcome = loop {
            let now = clock.monotonic();
            if work.is_none() {
                work = machine.next(now).map(|work| hands.perform(work));
            }
            let wake = talk(now, &machine, &mut link, &mut call, &mouth);
            let wake = wake.into_iter().chain(machine.wake_at()).min();
            tokio::select! {
                biased;
                () = &mut shutdown => break Outcome::GoesOn,
                done = ready(&mut work) => {
                    work = None;
                    machine.done(clock.monotonic(), done);
                },
                answer = ready(&mut call) => {
                    call = None;
                    let now = clock.monotonic();
                    if hear(now, &mut machine, &mut link, answer) == Outcome::Superseded {
                        break Outcome::Superseded;
                    }
                },
                () = sleep(clock.as_ref(), wake) => {},
            }
        };
        drop(call);
        finish(&clock, &hands, &mut machine, work).await;
        if outcome == Outcome::Superseded {
            error!(node, "another process speaks for this node; this one stops");
            return Err(AgentError::Superseded { node });
        }
        info!(node, "stopping");
        mouth.say_farewell(&clock, &machine, &mut link).await;
        if stop_data_plane_on_exit && let Err(error) = hands.driver.stop().await {
            warn!(
                node,
                error = told(&error),
                "the data plane could not be stopped"
            );
        }
        Ok(())
    }
}

/// Says what is to be said now; returns when there may be something to say again.
fn talk<'a>(
    now: Monotonic,
    machine: &Machine,
    link: &mut Link,
    call: &mut Option<BoxFuture<'a, Answer>>,
    mouth: &'a Mouth,
) -> Option<Monotonic> {
    if !machine.is_ready() {
        return None;
    }
    let facts = machine.facts(link.identity());
    let busy = machine.is_busy(now);
    if call.is_some() {
        let interrupt = link.interrupt_at(&facts, busy);
        if interrupt.is_none_or(|at| now < at) {
            return interrupt;
        }
        // Dropping the call closes its connection.
        *call = None;
    }
    match link.next(now, &facts, busy) {
        Some(say) => {
            *call = Some(mouth.say(say));
            link.interrupt_at(&facts, busy)
        },
        None => Some(link.wake_at(&facts, busy)),
    }
}

fn hear(now: Monotonic, machine: &mut Machine, link: &mut Link, answer: Answer) -> Outcome {
    match answer {
        Answer::Registered(answer) => link.registered(now, answer),
        Answer::Synced(Err(error)) => link.not_answered(now, &error),
        Answer::Synced(Ok(SyncResponse::Same {
            version,
            next_after_ms,
        })) => {
            if let Some(identity) = link.identity() {
                machine.same(identity, version);
            }
            link.answered(now, Duration::from_millis(next_after_ms));
            Outcome::GoesOn
        },
        Answer::Synced(Ok(SyncResponse::Configuration { delivered })) => {
            deliver(now, machine, link, *delivered);
            Outcome::GoesOn
        },
    }
}

fn deliver(now: Monotonic, machine: &mut Machine, link: &mut Link, delivered: Delivered) {
    let Some(identity) = link.identity() else {
        return;
    };
    match machine.deliver(identity, delivered) {
        Verdict::Taken => link.taken(now),
        Verdict::Refused => link.not_taken(now),
        Verdict::Foreign => link.begin_anew(now),
    }
}

/// Ends what must not be left half-way, but not for ever.
async fn finish<'a>(
    clock: &Arc<dyn Clock>,
    hands: &'a Hands,
    machine: &mut Machine,
    mut work: Option<BoxFuture<'a, Done>>,
) {
    let limit = clock.monotonic().plus(FINISH);
    while machine.must_finish() {
        if work.is_none() {
            work = machine
                .next(clock.monotonic())
                .map(|work| hands.perform(work));
        }
        let Some(current) = work.take() else { return };
        match select(current, clock.sleep_until(limit)).await {
            Either::Left((done, _)) => machine.done(clock.monotonic(), done),
            Either::Right(_) => return,
        }
    }
}

async fn ready<T>(future: &mut Option<BoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn sleep(clock: &dyn Clock, until: Option<Monotonic>) {
    match until {
        Some(until) => clock.sleep_until(until).await,
        None => pending().await,
    }
}

/// An answer of the control plane.
enum Answer {
    Registered(Result<RegisterResponse, ControlPlaneError>),
    Synced(Result<SyncResponse, ControlPlaneError>),
}

#[derive(Debug)]
struct Mouth {
    client: ControlPlaneClient,
    node: String,
    hello: RegisterRequest,
    own: BearerToken,
    join: Option<BearerToken>,
}

impl Mouth {
    fn say(&self, say: Say) -> BoxFuture<'_, Answer> {
        let own = self.client.clone().with_token(self.own.clone());
        match say {
            Say::Sync(request) => {
                Box::pin(async move { Answer::Synced(own.sync(&self.node, &request).await) })
            },
            Say::Register(credential) => {
                let mut hello = self.hello.clone();
                let client = match (credential, &self.join) {
                    (Credential::Join, Some(join)) => {
                        hello.token_id = Some(self.own.id().to_owned());
                        hello.token_sha256 = Some(self.own.sha256());
                        self.client.clone().with_token(join.clone())
                    },
                    (Credential::Join | Credential::Own, _) => own,
                };
                Box::pin(
                    async move { Answer::Registered(client.register(&self.node, &hello).await) },
                )
            },
        }
    }

    async fn say_farewell(&self, clock: &Arc<dyn Clock>, machine: &Machine, link: &mut Link) {
        let facts = machine.facts(link.identity());
        let Some(request) = link.farewell(&facts) else {
            return;
        };
        let client = self.client.clone().with_token(self.own.clone());
        let heartbeat = Box::pin(client.heartbeat(&self.node, &request));
        match select(heartbeat, clock.sleep(FAREWELL)).await {
            Either::Left((Ok(_), _)) => {},
            Either::Left((Err(error), _)) => {
                debug!(node = %self.node, %error, "the last word was not heard");
            },
            Either::Right(_) => debug!(node = %self.node, "the last word took too long"),
        }
    }
}

#[derive(Debug)]
struct Hands {
    driver: Box<dyn Driver>,
    state: StateDir,
    clock: Arc<dyn Clock>,
}

impl Hands {
    fn perform(&self, work: Work) -> BoxFuture<'_, Done> {
        Box::pin(async move {
            match work {
                Work::Observe => Done::Observed(self.timed(self.driver.observe()).await),
                Work::Verify(running) => {
                    let verify = self.driver.verify(&running.configuration);
                    Done::Verified(self.timed(verify).await)
                },
                Work::Look(running) => {
                    let observed = self.timed(self.driver.observe()).await;
                    let health = match &running {
                        Some(running) => {
                            let health = self.driver.health(&running.configuration);
                            self.timed(health).await.ok()
                        },
                        None => None,
                    };
                    Done::Looked { observed, health }
                },
                Work::Housekeep(running) => {
                    let housekeep = self.driver.housekeep(&running.configuration);
                    if let Err(error) = self.timed(housekeep).await {
                        debug!(error, "the driver could not go on with its slow work");
                    }
                    Done::Housekept
                },
                Work::Check(configuration) => {
                    let check = self.driver.check(&configuration);
                    Done::Checked(self.timed_apply(check).await)
                },
                Work::Apply(running) => {
                    let apply = self.driver.apply(&running.label, &running.configuration);
                    Done::Applied(self.timed_apply(apply).await)
                },
                Work::Prepare(record) => stored(self.state.prepare(&record)),
                Work::Promote => stored(self.state.promote()),
                Work::Keep(record) => stored(self.state.keep(&record)),
                Work::Discard => stored(self.state.discard()),
            }
        })
    }

    async fn timed<T>(&self, call: BoxFuture<'_, Result<T, Unavailable>>) -> Result<T, String> {
        match select(call, self.clock.sleep(DRIVER)).await {
            Either::Left((result, _)) => result.map_err(|error| told(&error)),
            Either::Right(_) => Err(too_long()),
        }
    }

    async fn timed_apply<T>(
        &self,
        call: BoxFuture<'_, Result<T, ApplyError>>,
    ) -> Result<T, Refusal> {
        match select(call, self.clock.sleep(DRIVER)).await {
            Either::Left((result, _)) => result.map_err(|error| match error {
                ApplyError::Rejected(rejections) => Refusal::Rejected(rejections),
                ApplyError::Unavailable(error) => Refusal::Unavailable(told(&error)),
            }),
            Either::Right(_) => Err(Refusal::Unavailable(too_long())),
        }
    }
}

fn too_long() -> String {
    format!("the driver took more than {} s", DRIVER.as_secs())
}

fn stored(result: Result<(), StateError>) -> Done {
    Done::Stored(result.map_err(|error| told(&error)))
}

/// An error with everything below it, in one line.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(below) = source {
        text.push_str(": ");
        text.push_str(&below.to_string());
        source = below.source();
    }
    text
}

fn read_join_token(path: PathBuf) -> Result<BearerToken, AgentError> {
    let token = fs::read_to_string(&path)
        .map_err(Into::into)
        .and_then(|text| {
            text.parse()
                .map_err(|error: cpl_api::token::BadToken| error.into())
        });
    token.map_err(|source| AgentError::JoinToken { path, source })
}

/// Kept before it is used: a registration whose answer is lost, or a crash right after it, does not
/// leave the agent without the token that the control plane knows.
fn draw_token(state: &StateDir, host: &Host) -> Result<BearerToken, StateError> {
    let token = BearerToken::draw(host.ids.as_ref());
    state.keep_token(&token)?;
    Ok(token)
}
