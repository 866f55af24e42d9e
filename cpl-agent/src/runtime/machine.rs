//! What to do to the data plane and the disk, one step after the other. Pure.
//!
//! ```text
//! Observe -> Recover? -> Compare? -> Idle <------------------------------+
//!                                     | a goal, or something to repair   |
//!                                     v                                  |
//!                       Check -> Prepare -> Apply -> Promote ------------+
//!                         |  ^                |                          |
//!                         |  +--- an object --+--- the whole: Keep ------+
//!                         +------ falls
//! ```
//!
//! `pending.json` is durable before an apply begins and becomes `current.json` after it, while the
//! data plane itself names what it runs: whichever step a crash falls between, the next process sees
//! which of the two files is true.

use std::sync::Arc;
use std::time::Duration;

use cpl_api::backoff::BackoffPolicy;
use cpl_core::clock::Monotonic;
use cpl_core::delivery::{Configuration, DataPlaneState, Delivered, Facts, Hold, Stage};
use cpl_core::ids::IdGen;
use cpl_core::store::Identity;
use cpl_core::version::ConfigVersion;
use serde_json::Value;
use tracing::{error, info};

use super::model::{Me, Received, Record, Running};
use super::selection::Selection;
use super::state::Found;
use crate::driver::{Applied, Drift, Label, Observed, Rejection};

/// How often the data plane is looked at for the report.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often the driver may go on with slow work.
const HOUSEKEEP_EVERY: Duration = Duration::from_secs(1);
/// How often what runs is compared with what should, in full.
pub(super) const VERIFY_EVERY: Duration = Duration::from_secs(30);
/// Longest time between two repairs of a data plane that somebody else keeps changing.
pub(super) const REPAIR_MOST: Duration = Duration::from_mins(10);
/// After a data plane or a disk that could not be used.
pub(super) const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_secs(1),
    most: Duration::from_mins(1),
    attempts: u32::MAX,
    deadline: Duration::MAX,
};
/// How often a data plane is asked at start before the agent goes on without knowing.
pub(super) const OBSERVATIONS: u32 = 3;
/// Most rounds of one attempt: data planes that name one faulty object at a time are slow to please.
pub(super) const ROUNDS: u32 = 64;
/// The code of the hold that says so.
const VERSION_WENT_BACK: &str = "VERSION_WENT_BACK";

/// The next thing to do. Exactly one is done at a time, and its [`Done`] handed back.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// Ask the data plane what it runs.
    Observe,
    /// Compare what runs with this.
    Verify(Arc<Running>),
    /// Ask for what the report says, and for the health of this.
    Look(Option<Arc<Running>>),
    /// Let the driver go on with slow work.
    Housekeep(Arc<Running>),
    /// Validate.
    Check(Arc<Configuration>),
    /// Write `pending.json`.
    Prepare(Arc<Record>),
    /// Bring it in.
    Apply(Arc<Running>),
    /// Make `pending.json` the `current.json`.
    Promote,
    /// Write `current.json` and remove `pending.json`.
    Keep(Arc<Record>),
    /// Remove `pending.json`.
    Discard,
}

/// Why a configuration was not taken.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    /// It is at fault.
    Rejected(Vec<Rejection>),
    /// It is not known to be at fault.
    Unavailable(String),
}

/// What came of a [`Work`].
#[derive(Clone, Debug)]
pub(super) enum Done {
    Observed(Result<Observed, String>),
    Verified(Result<Vec<Drift>, String>),
    Looked {
        observed: Result<Observed, String>,
        health: Option<Value>,
    },
    Housekept,
    Checked(Result<(), Refusal>),
    Applied(Result<Applied, Refusal>),
    /// Of `Prepare`, `Promote`, `Keep` and `Discard`.
    Stored(Result<(), String>),
}

/// What became of a delivered configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is worked on.
    Taken,
    /// It is older than what was received before; what runs is kept.
    Refused,
    /// It is of another store than the one that was registered with.
    Foreign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Observe { tries: u32 },
    Recover { promote: bool },
    Compare,
    Idle,
    Check,
    Prepare,
    Apply,
    Promote,
    Keep,
}

#[derive(Clone, Debug)]
pub(super) struct Goal {
    pub(super) number: u64,
    pub(super) received: Received,
    pub(super) configuration: Configuration,
    pub(super) settled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// The goal of this number.
    Goal(u64),
    /// What ran before.
    Restore,
}

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) aim: Aim,
    pub(super) received: Received,
    pub(super) selection: Selection,
    pub(super) rounds: u32,
    pub(super) candidate: Arc<Configuration>,
    /// What will be so when this attempt has succeeded; absent when that is what was so before.
    pub(super) next: Option<Arc<Record>>,
}

#[derive(Clone, Debug)]
pub(super) struct Plane {
    pub(super) state: DataPlaneState,
    pub(super) label: Option<Label>,
    pub(super) drifted: bool,
    /// An apply did not end well: what runs is not known.
    pub(super) uncertain: bool,
    pub(super) health: Value,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due {
    pub(super) look: Monotonic,
    pub(super) housekeep: Monotonic,
    pub(super) verify: Monotonic,
    pub(super) retry: Monotonic,
    pub(super) repair: Monotonic,
}

/// The state of an agent towards its data plane and its disk.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) me: Me,
    pub(super) ids: Arc<dyn IdGen>,
    pub(super) record: Option<Arc<Record>>,
    pub(super) found: Option<Arc<Record>>,
    pub(super) goal: Option<Goal>,
    pub(super) attempt: Option<Attempt>,
    pub(super) phase: Phase,
    pub(super) in_flight: bool,
    pub(super) plane: Plane,
    pub(super) due: Due,
    pub(super) failures: u32,
    pub(super) repairs: u32,
    pub(super) repair: bool,
    pub(super) ready: bool,
    pub(super) notice: Option<Hold>,
}

impl Machine {
    /// An agent that has just started and read its files.
    pub(super) fn new(me: Me, ids: Arc<dyn IdGen>, found: Found) -> Self {
        Self {
            me,
            ids,
            record: found.current.map(Arc::new),
            found: found.pending.map(Arc::new),
            goal: None,
            attempt: None,
            phase: Phase::Observe { tries: 0 },
            in_flight: false,
            plane: Plane {
                state: DataPlaneState::Unknown,
                label: None,
                drifted: false,
                uncertain: false,
                health: Value::Null,
            },
            due: Due::default(),
            failures: 0,
            repairs: 0,
            repair: false,
            ready: false,
            notice: None,
        }
    }

    /// Whether the node serves what it served before, as far as it can: before that, no word to the
    /// control plane would be true.
    pub(super) const fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether what was received last is still being worked on, without waiting for anything.
    pub(super) fn is_busy(&self, now: Monotonic) -> bool {
        let open = self.goal.as_ref().is_some_and(|goal| !goal.settled);
        self.attempt.is_some() || (open && now >= self.due.retry)
    }

    /// Whether stopping now would leave an apply without its end.
    pub(super) const fn must_finish(&self) -> bool {
        match self.phase {
            Phase::Apply | Phase::Promote | Phase::Keep => true,
            Phase::Observe { .. }
            | Phase::Recover { .. }
            | Phase::Compare
            | Phase::Idle
            | Phase::Check
            | Phase::Prepare => false,
        }
    }

    /// The next work that is due; `None` while one is being done.
    pub(super) fn next(&mut self, now: Monotonic) -> Option<Work> {
        if self.in_flight {
            return None;
        }
        let work = self.choose(now);
        self.in_flight = work.is_some();
        work
    }

    /// When to ask for [`next`](Self::next) again; `None` when only something from outside helps.
    pub(super) fn wake_at(&self) -> Option<Monotonic> {
        if self.in_flight {
            return None;
        }
        let due = self.due;
        if self.phase != Phase::Idle {
            return Some(due.retry);
        }
        let open = self.goal.as_ref().is_some_and(|goal| !goal.settled);
        let running = self.running().is_some();
        [
            Some(due.look),
            running.then_some(due.housekeep),
            running.then_some(due.verify),
            open.then_some(due.retry),
            self.repair.then(|| due.repair.max(due.retry)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Takes what the control plane sent.
    pub(super) fn deliver(&mut self, registered: Identity, delivered: Delivered) -> Verdict {
        let Delivered {
            identity,
            version,
            digest,
            configuration,
        } = delivered;
        if identity.store != registered.store {
            return Verdict::Foreign;
        }
        if let Some(last) = self
            .received()
            .filter(|last| is_older(last, identity, version))
        {
            let message = format!(
                "version {version} of incarnation {} was sent after version {} of incarnation {}",
                identity.incarnation.0, last.version, last.identity.incarnation.0
            );
            error!(node = %self.me.node, message, "an older configuration was refused");
            self.notice = Some(self.hold_of_whole(&Rejection {
                object: None,
                stage: Stage::Parse,
                code: VERSION_WENT_BACK.to_owned(),
                field: None,
                message,
            }));
            return Verdict::Refused;
        }
        let received = Received {
            identity,
            version,
            digest,
        };
        if self
            .goal
            .as_ref()
            .is_none_or(|goal| goal.received != received)
        {
            info!(node = %self.me.node, %version, digest = received.digest,
                "a configuration was received");
            self.set_goal(received, configuration);
        }
        Verdict::Taken
    }

    /// Takes the word that what was received last is what should run, under `version` too.
    pub(super) fn same(&mut self, registered: Identity, version: Option<ConfigVersion>) {
        self.notice
            .take_if(|notice| notice.code == VERSION_WENT_BACK);
        if let Some(version) = version {
            self.advance(registered, version);
        }
    }

    fn advance(&mut self, registered: Identity, version: ConfigVersion) {
        let Some(last) = self.received().cloned() else {
            return;
        };
        if last.identity != registered || version <= last.version {
            return;
        }
        let received = Received { version, ..last };
        if let Some(goal) = &self.goal {
            let configuration = goal.configuration.clone();
            self.set_goal(received, configuration);
        } else if let Some(record) = self.record.as_ref().filter(|record| record.is_complete())
            && let Some(running) = &record.running
        {
            let configuration = running.configuration.clone();
            self.set_goal(received, configuration);
        }
    }

    /// What is so, for a report to the store that was registered with.
    pub(super) fn facts(&self, registered: Option<Identity>) -> Facts {
        // Versions of another store mean nothing to this one.
        let received = self
            .received()
            .filter(|last| registered.is_none_or(|now| now.store == last.identity.store));
        let record = self
            .record
            .as_ref()
            .filter(|record| received.is_some_and(|r| r.identity == record.received.identity));
        // What an earlier process was refused is tried once more, which needs the bodies again.
        let known = self.goal.is_some() || record.is_some_and(|record| record.is_complete());
        let incarnation = received.map(|received| received.identity.incarnation);
        Facts {
            incarnation,
            received: received.map(|received| received.version),
            received_digest: received.filter(|_| known).map(|r| r.digest.clone()),
            accepted: record.and_then(|record| record.accepted),
            holds: self.holds(),
            data_plane_state: self.state(),
            running_version: self
                .plane
                .label
                .as_ref()
                .filter(|label| Some(label.incarnation) == incarnation)
                .map(|label| label.version),
            health: self.plane.health.clone(),
        }
    }

    fn holds(&self) -> Vec<Hold> {
        let record = self.record.iter();
        record
            .flat_map(|record| record.held.iter().chain(&record.whole))
            .map(|held| held.hold.clone())
            .chain(self.notice.clone())
            .collect()
    }

    const fn state(&self) -> DataPlaneState {
        match self.plane.state {
            DataPlaneState::Healthy if self.plane.drifted => DataPlaneState::Degraded,
            state => state,
        }
    }

    pub(super) fn received(&self) -> Option<&Received> {
        let goal = self.goal.as_ref().map(|goal| &goal.received);
        goal.or_else(|| self.record.as_ref().map(|record| &record.received))
    }

    pub(super) fn running(&self) -> Option<&Arc<Running>> {
        self.record.as_ref()?.running.as_ref()
    }

    fn set_goal(&mut self, received: Received, configuration: Configuration) {
        self.notice = None;
        self.failures = 0;
        self.due.retry = Monotonic::default();
        self.goal = Some(Goal {
            number: self.goal.as_ref().map_or(1, |goal| goal.number + 1),
            received,
            configuration,
            settled: false,
        });
    }
}

/// Choosing.
impl Machine {
    fn choose(&mut self, now: Monotonic) -> Option<Work> {
        if self.phase == Phase::Idle {
            if now >= self.due.retry {
                self.begin(now);
            }
            if self.phase == Phase::Idle {
                return self.routine(now);
            }
        }
        if now < self.due.retry {
            return None;
        }
        let attempt = self.attempt.as_ref();
        let next = attempt.and_then(|attempt| attempt.next.clone());
        match self.phase {
            Phase::Observe { .. } => Some(Work::Observe),
            Phase::Recover { promote: true } | Phase::Promote => Some(Work::Promote),
            Phase::Recover { promote: false } => Some(Work::Discard),
            Phase::Compare => self.running().cloned().map(Work::Verify),
            Phase::Idle => None,
            Phase::Check => attempt.map(|a| Work::Check(Arc::clone(&a.candidate))),
            Phase::Prepare => next.map(Work::Prepare),
            Phase::Apply => {
                let running = next
                    .as_ref()
                    .map_or_else(|| self.running().cloned(), |record| record.running.clone());
                running.map(Work::Apply)
            },
            Phase::Keep => next.map(Work::Keep),
        }
    }

    fn routine(&mut self, now: Monotonic) -> Option<Work> {
        let running = self.running().cloned();
        if now >= self.due.look {
            self.due.look = now.plus(LOOK_EVERY);
            return Some(Work::Look(running));
        }
        let running = running?;
        if now >= self.due.verify {
            self.due.verify = now.plus(VERIFY_EVERY);
            return Some(Work::Verify(running));
        }
        if now >= self.due.housekeep {
            self.due.housekeep = now.plus(HOUSEKEEP_EVERY);
            return Some(Work::Housekeep(running));
        }
        None
    }
}

/// Within one life versions rise; a later life may begin with lower ones.
fn is_older(last: &Received, identity: Identity, version: ConfigVersion) -> bool {
    last.identity.store == identity.store
        && (identity.incarnation.0, version) < (last.identity.incarnation.0, last.version)
}
