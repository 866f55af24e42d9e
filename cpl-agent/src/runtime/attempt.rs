//! The beginning of an attempt, and what is tried next in it.

use std::sync::Arc;

use cpl_core::clock::Monotonic;
use cpl_core::delivery::{Hold, ObjectRef, Stage};
use cpl_core::version::{ConfigVersion, Generation};
use tracing::{error, warn};

use super::machine::{Aim, Attempt, Machine, Phase, REPAIR_MOST, VERIFY_EVERY};
use super::model::{FORMAT, Held, Received, Record, Running};
use super::selection::Selection;
use crate::driver::{Label, Rejection};

impl Machine {
    pub(super) fn begin(&mut self, now: Monotonic) {
        if self.goal.as_ref().is_some_and(|goal| !goal.settled) {
            self.begin_goal();
        } else if self.repair && now >= self.due.repair {
            self.begin_restore(now);
        }
    }

    fn begin_goal(&mut self) {
        let Some(goal) = self.goal.clone() else {
            return;
        };
        let record = self.record.clone();
        let last_good = self.running().map(|running| &running.configuration);
        let held = record.as_ref().map_or(&[][..], |record| &record.held);
        let refused_before = record
            .as_ref()
            .and_then(|record| record.whole.clone())
            .filter(|held| held.basis == goal.received.digest && held.process == self.me.process);
        let selection =
            Selection::of_delivered(goal.configuration.clone(), last_good, held, &self.me);
        self.attempt = Some(Attempt {
            aim: Aim::Goal(goal.number),
            received: goal.received.clone(),
            candidate: Arc::new(selection.configuration()),
            selection,
            rounds: 0,
            next: None,
        });
        if let Some(held) = refused_before {
            self.keep_whole(held);
        } else if goal.configuration.digest() == goal.received.digest {
            self.try_candidate();
        } else {
            let message = "the content is not what its digest says".to_owned();
            self.refuse_whole(&Rejection {
                object: None,
                stage: Stage::Parse,
                code: "DIGEST_MISMATCH".to_owned(),
                field: None,
                message,
            });
        }
    }

    fn begin_restore(&mut self, now: Monotonic) {
        let Some(record) = self.record.clone() else {
            self.repair = false;
            return;
        };
        let Some(running) = &record.running else {
            self.repair = false;
            return;
        };
        let wait = VERIFY_EVERY.saturating_mul(1 << self.repairs.min(16));
        self.due.repair = now.plus(wait.min(REPAIR_MOST));
        self.repairs = self.repairs.saturating_add(1);
        warn!(node = %self.me.node, version = %running.label.version,
            "the data plane does not run the last good configuration; applying it from disk");
        let selection = Selection::of_running(running.configuration.clone(), &record.held);
        self.attempt = Some(Attempt {
            aim: Aim::Restore,
            received: record.received.clone(),
            candidate: Arc::new(running.configuration.clone()),
            selection,
            rounds: 0,
            next: None,
        });
        self.phase = Phase::Apply;
    }

    /// Goes on with what is selected: nothing, the disk only, the label only, or the data plane.
    pub(super) fn try_candidate(&mut self) {
        let Some(attempt) = &self.attempt else { return };
        let held = attempt.selection.held();
        let candidate = Arc::new(attempt.selection.configuration());
        let digest = candidate.digest();
        let same = self.running().filter(|running| {
            !self.repair && !self.plane.uncertain && running.label.digest == digest
        });
        let label = self.label(attempt, digest);
        let (running, phase) = match same {
            // The label moves with what is accepted, and nothing is accepted while something is held.
            Some(running) if !held.is_empty() || running.label == label => {
                (Arc::clone(running), Phase::Keep)
            },
            same => {
                let phase = same.map_or(Phase::Check, |_| Phase::Prepare);
                let configuration = candidate.as_ref().clone();
                let running = Running {
                    label,
                    configuration,
                };
                (Arc::new(running), phase)
            },
        };
        let next = self.record_after(attempt, held, running);
        if phase == Phase::Keep && self.record.as_deref() == Some(&next) {
            self.end();
            return;
        }
        if let Some(attempt) = &mut self.attempt {
            attempt.candidate = candidate;
            attempt.next = Some(Arc::new(next));
        }
        self.phase = phase;
    }

    fn label(&self, attempt: &Attempt, digest: String) -> Label {
        let running = self.running().map(|running| &running.label);
        let (incarnation, version) = match (attempt.aim, running) {
            (Aim::Restore, Some(label)) => (label.incarnation, label.version),
            (Aim::Restore, None) | (Aim::Goal(_), _) => (
                attempt.received.identity.incarnation,
                attempt.received.version,
            ),
        };
        Label {
            incarnation,
            version,
            digest,
        }
    }

    fn record_after(&self, attempt: &Attempt, held: Vec<Held>, running: Arc<Running>) -> Record {
        let before = self.accepted_before(&attempt.received);
        let (accepted, whole) = match attempt.aim {
            Aim::Goal(_) if held.is_empty() => (before.max(Some(attempt.received.version)), None),
            Aim::Goal(_) => (before, None),
            Aim::Restore => (before, self.record.as_ref().and_then(|r| r.whole.clone())),
        };
        Record {
            format: FORMAT,
            node: self.me.node.clone(),
            driver: self.me.driver.clone(),
            received: attempt.received.clone(),
            accepted,
            held,
            whole,
            running: Some(running),
        }
    }

    fn accepted_before(&self, received: &Received) -> Option<ConfigVersion> {
        self.record
            .as_ref()
            .filter(|record| record.received.identity == received.identity)
            .and_then(|record| record.accepted)
    }

    pub(super) fn hold_of_whole(&self, rejection: &Rejection) -> Hold {
        Hold {
            object: ObjectRef {
                kind: "Node".to_owned(),
                name: self.me.node.clone(),
            },
            // A configuration does not say which generation of the node it was rendered from.
            generation: Generation::default(),
            running: None,
            stage: rejection.stage,
            code: rejection.code.clone(),
            field: rejection.field.clone(),
            message: rejection.message.clone(),
        }
    }

    pub(super) fn refuse_whole(&mut self, rejection: &Rejection) {
        let Some(attempt) = &self.attempt else { return };
        error!(node = %self.me.node, version = %attempt.received.version, code = rejection.code,
            message = rejection.message, "the configuration was refused as a whole; what runs stays");
        self.keep_whole(Held {
            hold: self.hold_of_whole(rejection),
            basis: attempt.received.digest.clone(),
            process: self.me.process.clone(),
        });
    }

    fn keep_whole(&mut self, held: Held) {
        let Some(attempt) = &self.attempt else { return };
        let record = self.record.as_ref();
        let next = Record {
            format: FORMAT,
            node: self.me.node.clone(),
            driver: self.me.driver.clone(),
            received: attempt.received.clone(),
            accepted: self.accepted_before(&attempt.received),
            held: record.map(|r| r.held.clone()).unwrap_or_default(),
            whole: Some(held),
            running: self.running().cloned(),
        };
        if self.record.as_deref() == Some(&next) {
            self.end();
            return;
        }
        if let Some(attempt) = &mut self.attempt {
            attempt.next = Some(Arc::new(next));
        }
        self.phase = Phase::Keep;
    }
}
