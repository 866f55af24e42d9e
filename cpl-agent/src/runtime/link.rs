//! What to say to the control plane, and when. Pure.
//!
//! A waiting `sync` is dropped and sent anew when there is something to report: the control plane may
//! then see a late duplicate, which its lower sequence makes harmless, and an answer that was lost is
//! given again, since the next call names what was received. Acknowledgements are not delayed; health
//! alone waits until a second has passed since the last word.

use std::sync::Arc;
use std::time::Duration;

use cpl_api::agent::{
    AGENT_SUPERSEDED, AGENT_UNKNOWN, DataPlaneReport, PROTOCOL, REPORT_HEALTH_BYTES, REPORT_HOLDS,
    RegisterResponse, SyncRequest,
};
use cpl_api::backoff::BackoffPolicy;
use cpl_api::error::ControlPlaneError;
use cpl_api::problem::Code;
use cpl_core::clock::Monotonic;
use cpl_core::delivery::Facts;
use cpl_core::ids::IdGen;
use cpl_core::store::Identity;
use cpl_core::version::AgentIncarnation;
use serde_json::Value;
use tracing::{error, info, warn};

/// For registration: soon at first, at most a minute.
const REGISTER: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(250),
    most: Duration::from_mins(1),
    attempts: u32::MAX,
    deadline: Duration::MAX,
};
/// For an agent that is registered: its silence is noticed, so it keeps trying more often.
const SYNC: BackoffPolicy = BackoffPolicy {
    most: Duration::from_secs(10),
    ..REGISTER
};
/// Shortest and longest wait after the control plane has said that this agent may not.
const REFUSED: (Duration, u64) = (Duration::from_secs(30), 30_000);
/// How long a report waits for the work on what was just received, so that one call says both.
const SETTLE: Duration = Duration::from_secs(2);
/// Shortest time between two words about health alone.
const HEALTH_GAP: Duration = Duration::from_secs(1);
/// Shortest time between two calls that say the same, and between two of any kind.
const SAME_GAP: Duration = Duration::from_millis(100);
const GAP: Duration = Duration::from_millis(20);

/// With which token a registration is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Credential {
    /// The agent's own.
    Own,
    /// The one that an operator handed out for the first time.
    Join,
}

/// The next thing to say.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Say {
    /// That this process speaks for the node.
    Register(Credential),
    /// What is so, and the question what should be.
    Sync(SyncRequest),
}

/// What became of the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes on.
    GoesOn,
    /// Another process speaks for the node; this one must stop.
    Superseded,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    incarnation: AgentIncarnation,
    wait_ms: u64,
}

#[derive(Clone, Debug)]
struct Sent {
    facts: Facts,
    at: Monotonic,
}

/// The state of the conversation.
#[derive(Debug)]
pub(super) struct Link {
    node: String,
    ids: Arc<dyn IdGen>,
    credential: Credential,
    can_join: bool,
    refusals: u32,
    session: Option<Session>,
    registered: Option<Identity>,
    sequence: u64,
    failures: u32,
    not_before: Monotonic,
    settle_until: Monotonic,
    sent: Option<Sent>,
}

impl Link {
    /// A conversation that has not begun, with the credential to try first.
    pub(super) fn new(
        node: String,
        ids: Arc<dyn IdGen>,
        credential: Credential,
        can_join: bool,
    ) -> Self {
        Self {
            node,
            ids,
            credential,
            can_join,
            refusals: 0,
            session: None,
            registered: None,
            sequence: 0,
            failures: 0,
            not_before: Monotonic::default(),
            settle_until: Monotonic::default(),
            sent: None,
        }
    }

    /// The store that was registered with last.
    pub(super) const fn identity(&self) -> Option<Identity> {
        self.registered
    }

    /// What to say now; `busy` while the work on what was received goes on.
    pub(super) fn next(&mut self, now: Monotonic, facts: &Facts, busy: bool) -> Option<Say> {
        if now < self.wake_at(facts, busy) {
            return None;
        }
        let Some(session) = self.session else {
            return Some(Say::Register(self.credential));
        };
        let jitter = self.ids.below(session.wait_ms / 16 + 1);
        self.sent = Some(Sent {
            facts: facts.clone(),
            at: now,
        });
        self.request(facts, session.wait_ms.saturating_add(jitter))
            .map(Say::Sync)
    }

    /// When to ask for [`next`](Self::next), while no call is waiting.
    pub(super) fn wake_at(&self, facts: &Facts, busy: bool) -> Monotonic {
        let settled = if busy && self.session.is_some() {
            self.settle_until
        } else {
            Monotonic::default()
        };
        let spaced = self.sent.as_ref().map_or_else(Monotonic::default, |sent| {
            let gap = if sent.facts == *facts { SAME_GAP } else { GAP };
            sent.at.plus(gap)
        });
        let spaced = if self.session.is_some() {
            spaced
        } else {
            Monotonic::default()
        };
        self.not_before.max(settled).max(spaced)
    }

    /// When to drop the waiting call, because there is something to report.
    pub(super) fn interrupt_at(&self, facts: &Facts, busy: bool) -> Option<Monotonic> {
        self.session?;
        let sent = self.sent.as_ref()?;
        if sent.facts == *facts {
            return None;
        }
        let health = Facts {
            health: Value::Null,
            ..facts.clone()
        };
        let health_before = Facts {
            health: Value::Null,
            ..sent.facts.clone()
        };
        let gap = if health == health_before {
            HEALTH_GAP
        } else {
            GAP
        };
        let settled = if busy {
            self.settle_until
        } else {
            Monotonic::default()
        };
        Some(sent.at.plus(gap).max(settled))
    }

    /// The last word of an agent that stops; `None` when it was never heard.
    pub(super) fn farewell(&mut self, facts: &Facts) -> Option<SyncRequest> {
        self.request(facts, 0)
    }

    /// The answer to a registration.
    pub(super) fn registered(
        &mut self,
        now: Monotonic,
        answer: Result<RegisterResponse, ControlPlaneError>,
    ) -> Outcome {
        let response = match answer {
            Ok(response) => response,
            Err(error) => return self.not_registered(now, &error),
        };
        let RegisterResponse {
            agent_incarnation,
            identity,
            protocol,
            wait_ms,
            grace_ms: _,
        } = response;
        if protocol != PROTOCOL {
            error!(node = %self.node, protocol, "the control plane speaks another protocol");
            self.refuse(now);
            return Outcome::GoesOn;
        }
        if self.registered.is_some_and(|before| before != identity) {
            warn!(node = %self.node, store = %identity.store, incarnation = identity.incarnation.0,
                "the control plane has another store, or another life of it");
        }
        info!(node = %self.node, incarnation = %agent_incarnation, "registered");
        self.session = Some(Session {
            incarnation: agent_incarnation,
            wait_ms,
        });
        self.registered = Some(identity);
        self.credential = Credential::Own;
        self.refusals = 0;
        // Failures are forgotten once a `sync` is answered: a control plane that registers an agent
        // and then does not know it is not asked in a circle.
        self.not_before = now;
        Outcome::GoesOn
    }

    /// A `sync` was answered; the next one is due after `pause`.
    pub(super) fn answered(&mut self, now: Monotonic, pause: Duration) {
        self.worked(now.plus(pause));
    }

    /// A `sync` brought a configuration, which is being worked on.
    pub(super) fn taken(&mut self, now: Monotonic) {
        self.worked(now);
        self.settle_until = now.plus(SETTLE);
    }

    /// A `sync` brought something that was not taken: it would bring the same again at once.
    pub(super) fn not_taken(&mut self, now: Monotonic) {
        self.failed(now, &SYNC, None);
    }

    /// The control plane is not the one that was registered with.
    pub(super) fn begin_anew(&mut self, now: Monotonic) {
        self.session = None;
        self.failed(now, &REGISTER, None);
    }

    /// A `sync` failed.
    pub(super) fn not_answered(&mut self, now: Monotonic, error: &ControlPlaneError) -> Outcome {
        if error.reason() == Some(AGENT_SUPERSEDED) {
            return Outcome::Superseded;
        }
        let code = error.code();
        let unknown = error.reason() == Some(AGENT_UNKNOWN)
            || (is_problem(error) && matches!(code, Code::NotFound | Code::Unauthenticated));
        if unknown {
            warn!(node = %self.node, %error, "the control plane does not know this agent; registering again");
            self.begin_anew(now);
        } else if code == Code::PermissionDenied {
            error!(node = %self.node, %error, "the control plane does not allow this agent to speak for the node");
            self.session = None;
            self.refuse(now);
        } else {
            self.complain(error);
            self.failed(now, &SYNC, error.retry_after());
        }
        Outcome::GoesOn
    }

    fn not_registered(&mut self, now: Monotonic, error: &ControlPlaneError) -> Outcome {
        if error.reason() == Some(AGENT_SUPERSEDED) {
            return Outcome::Superseded;
        }
        let forbidden = matches!(error.code(), Code::Unauthenticated | Code::PermissionDenied);
        if !forbidden {
            self.complain(error);
            self.failed(now, &REGISTER, error.retry_after());
            return Outcome::GoesOn;
        }
        // A join token is spent by its first use, and an own token is unknown before it: when one is
        // refused the other may be right.
        self.refusals = self.refusals.saturating_add(1);
        if self.can_join {
            self.credential = match self.credential {
                Credential::Own => Credential::Join,
                Credential::Join => Credential::Own,
            };
            if self.refusals % 2 == 1 {
                self.failed(now, &REGISTER, None);
                return Outcome::GoesOn;
            }
        }
        error!(node = %self.node, %error, can_join = self.can_join,
            "the control plane refuses this agent: give it a new join token, or revoke the node");
        self.refuse(now);
        Outcome::GoesOn
    }

    fn request(&mut self, facts: &Facts, wait_ms: u64) -> Option<SyncRequest> {
        let session = self.session?;
        // The sequence rises for as long as the process lives: registering again may give it the same
        // incarnation.
        self.sequence += 1;
        let Facts {
            incarnation,
            received,
            received_digest,
            accepted,
            mut holds,
            data_plane_state,
            running_version,
            mut health,
        } = facts.clone();
        // A report that is too large would be refused whole, and the agent be taken for silent.
        holds.truncate(REPORT_HOLDS);
        if health.to_string().len() > REPORT_HEALTH_BYTES {
            warn!(node = %self.node, "the observations are too large to be reported");
            health = Value::Null;
        }
        Some(SyncRequest {
            agent_incarnation: session.incarnation,
            sequence: self.sequence,
            incarnation,
            received,
            received_digest,
            accepted,
            holds,
            data_plane: DataPlaneReport {
                state: data_plane_state,
                running_version,
                health,
            },
            wait_ms,
        })
    }

    fn worked(&mut self, not_before: Monotonic) {
        self.failures = 0;
        self.not_before = not_before;
    }

    fn failed(&mut self, now: Monotonic, policy: &BackoffPolicy, asked: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.plus(policy.delay(self.failures, asked, self.ids.as_ref()));
    }

    fn refuse(&mut self, now: Monotonic) {
        let (least, more_ms) = REFUSED;
        let jitter = Duration::from_millis(self.ids.below(more_ms));
        self.not_before = now.plus(least.saturating_add(jitter));
    }

    /// Says it at first, and then now and then.
    fn complain(&self, error: &ControlPlaneError) {
        if self.failures < 3 || self.failures.is_multiple_of(10) {
            warn!(node = %self.node, %error, failures = self.failures + 1,
                "the control plane was not reached; what runs goes on");
        }
    }
}

const fn is_problem(error: &ControlPlaneError) -> bool {
    matches!(error, ControlPlaneError::Problem(_))
}
