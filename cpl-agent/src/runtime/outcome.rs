//! What the result of a piece of work means.

use cpl_core::clock::Monotonic;
use cpl_core::delivery::{DataPlaneState, Stage};
use serde_json::Value;
use tracing::{error, info, warn};

use super::machine::{
    Aim, Done, Machine, OBSERVATIONS, Phase, RETRY, ROUNDS, Refusal, VERIFY_EVERY,
};
use crate::driver::{Applied, Drift, Observed, Rejection};

impl Machine {
    /// Takes what came of the work.
    pub(super) fn done(&mut self, now: Monotonic, done: Done) {
        self.in_flight = false;
        match done {
            Done::Observed(observed) => self.observed(now, observed),
            Done::Verified(drifts) => self.verified(now, drifts),
            Done::Looked { observed, health } => self.looked(now, observed, health),
            Done::Housekept => {},
            Done::Checked(Ok(())) => self.checked(),
            Done::Checked(Err(refusal)) => self.refused(now, refusal),
            Done::Applied(Ok(applied)) => self.applied(now, &applied),
            Done::Applied(Err(refusal)) => {
                // A rejection leaves everything as it was; anything else may have got half-way.
                self.plane.uncertain |= matches!(refusal, Refusal::Unavailable(_));
                self.refused(now, refusal);
            },
            Done::Stored(Ok(())) => self.stored(),
            Done::Stored(Err(error)) => self.not_stored(now, &error),
        }
    }

    fn observed(&mut self, now: Monotonic, observed: Result<Observed, String>) {
        let Phase::Observe { tries } = self.phase else {
            return;
        };
        match observed {
            Ok(observed) => self.see(observed),
            Err(error) if tries + 1 < OBSERVATIONS => {
                warn!(node = %self.me.node, error, "the data plane cannot be asked what it runs");
                self.phase = Phase::Observe { tries: tries + 1 };
                self.wait(now);
                return;
            },
            Err(error) => {
                error!(node = %self.me.node, error,
                    "the data plane cannot be asked what it runs; going on without knowing");
            },
        }
        self.failures = 0;
        let seen = self.plane.label.as_ref();
        self.phase = match &self.found {
            Some(pending) => Phase::Recover {
                promote: seen.is_some() && seen == pending.running.as_ref().map(|r| &r.label),
            },
            None => Phase::Compare,
        };
        self.compare();
    }

    /// Decides whether the last good configuration has to be brought in, or looked at more closely.
    fn compare(&mut self) {
        if self.phase != Phase::Compare {
            return;
        }
        match self.running() {
            None => {
                self.phase = Phase::Idle;
                self.ready = true;
            },
            Some(_) if self.lacks_running() => {
                self.phase = Phase::Idle;
                self.repair = true;
            },
            // The verification decides.
            Some(_) => {},
        }
    }

    fn lacks_running(&self) -> bool {
        self.running().is_some_and(|running| {
            self.plane.state == DataPlaneState::Down
                || self.plane.label.as_ref() != Some(&running.label)
        })
    }

    fn see(&mut self, observed: Observed) {
        let Observed { state, label } = observed;
        self.plane.state = state;
        self.plane.label = label;
    }

    fn verified(&mut self, now: Monotonic, drifts: Result<Vec<Drift>, String>) {
        self.due.verify = now.plus(VERIFY_EVERY);
        match drifts {
            Ok(drifts) if drifts.is_empty() => {
                self.plane.drifted = false;
                self.repairs = 0;
            },
            Ok(drifts) => {
                for Drift { object, what } in &drifts {
                    let object = object.as_ref().map(ToString::to_string);
                    warn!(node = %self.me.node, object, what, "the data plane has drifted");
                }
                self.plane.drifted = true;
                self.repair = true;
            },
            Err(error) => {
                warn!(node = %self.me.node, error, "the data plane cannot be verified");
                self.plane.drifted = true;
                self.repair |= self.phase == Phase::Compare;
            },
        }
        if self.phase == Phase::Compare {
            self.phase = Phase::Idle;
            self.ready |= !self.repair;
        }
    }

    fn looked(
        &mut self,
        now: Monotonic,
        observed: Result<Observed, String>,
        health: Option<Value>,
    ) {
        match observed {
            Ok(observed) => {
                self.see(observed);
                if self.lacks_running() && !self.repair {
                    warn!(node = %self.me.node, state = ?self.plane.state,
                        "the data plane no longer runs what it should");
                    self.plane.drifted = true;
                    self.repair = true;
                    self.due.verify = now.plus(VERIFY_EVERY);
                }
            },
            Err(error) => {
                if self.plane.state != DataPlaneState::Unknown {
                    warn!(node = %self.me.node, error, "the data plane cannot be asked");
                }
                self.plane.state = DataPlaneState::Unknown;
            },
        }
        if let Some(health) = health {
            self.plane.health = health;
        }
    }

    fn is_superseded(&self) -> bool {
        match (&self.attempt, &self.goal) {
            (Some(attempt), Some(goal)) => match attempt.aim {
                Aim::Goal(number) => number != goal.number,
                Aim::Restore => !goal.settled,
            },
            _ => false,
        }
    }

    fn checked(&mut self) {
        if self.is_superseded() {
            self.end();
        } else {
            self.phase = Phase::Prepare;
        }
    }

    fn refused(&mut self, now: Monotonic, refusal: Refusal) {
        let rejections = match refusal {
            Refusal::Rejected(rejections) => rejections,
            Refusal::Unavailable(error) => {
                warn!(node = %self.me.node, error, "the configuration could not be brought in");
                self.abandon();
                self.wait(now);
                return;
            },
        };
        for rejection in &rejections {
            let object = rejection.object.as_ref().map(ToString::to_string);
            warn!(node = %self.me.node, object, stage = ?rejection.stage, code = rejection.code,
                field = rejection.field, message = rejection.message, "an object was rejected");
        }
        if self.is_superseded() {
            self.end();
            return;
        }
        let me = self.me.clone();
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        attempt.rounds += 1;
        let fallen = if attempt.rounds < ROUNDS {
            attempt.selection.reject(&rejections, &me)
        } else {
            Err(Box::new(too_many(&rejections)))
        };
        match (fallen, attempt.aim) {
            (Ok(()), _) => self.try_candidate(),
            (Err(rejection), Aim::Goal(_)) => self.refuse_whole(&rejection),
            (Err(rejection), Aim::Restore) => {
                error!(node = %self.me.node, message = rejection.message,
                    "the last good configuration cannot be brought in");
                self.notice = Some(self.hold_of_whole(&rejection));
                self.end();
                self.plane.drifted = true;
                self.repair = true;
                self.wait(now);
            },
        }
    }

    fn applied(&mut self, now: Monotonic, applied: &Applied) {
        self.plane.uncertain = false;
        self.failures = 0;
        self.repair = false;
        self.plane.drifted = false;
        self.due.look = now;
        self.due.verify = now.plus(VERIFY_EVERY);
        let next = self
            .attempt
            .as_ref()
            .and_then(|attempt| attempt.next.clone());
        let running = match &next {
            Some(record) => record.running.clone(),
            None => self.running().cloned(),
        };
        if let Some(running) = running {
            info!(node = %self.me.node, version = %running.label.version, how = ?applied,
                "the configuration runs");
            self.plane.label = Some(running.label.clone());
        }
        if next.is_some() {
            self.phase = Phase::Promote;
        } else {
            self.notice = None;
            self.end();
        }
    }

    fn stored(&mut self) {
        self.failures = 0;
        let next = self
            .attempt
            .as_ref()
            .and_then(|attempt| attempt.next.clone());
        match self.phase {
            Phase::Recover { promote } => {
                if promote {
                    self.record = self.found.take();
                } else {
                    // An apply was broken off: only a look at the content tells what runs.
                    self.found = None;
                }
                self.phase = Phase::Compare;
                self.compare();
            },
            Phase::Prepare => self.phase = Phase::Apply,
            Phase::Promote | Phase::Keep => {
                self.record = next.or_else(|| self.record.take());
                self.notice = None;
                self.end();
            },
            Phase::Observe { .. } | Phase::Compare | Phase::Idle | Phase::Check | Phase::Apply => {
            },
        }
    }

    /// The same step is tried again: nothing is applied that is not written down first, and nothing
    /// new is begun while an apply is not written down.
    fn not_stored(&mut self, now: Monotonic, error: &str) {
        error!(node = %self.me.node, error, "the state directory cannot be written");
        self.notice = Some(self.hold_of_whole(&Rejection {
            object: None,
            stage: Stage::Preflight,
            code: "STATE_NOT_WRITABLE".to_owned(),
            field: None,
            message: format!("the agent's state directory cannot be written: {error}"),
        }));
        // What a crash left is settled before the first word: until then it is not known which of
        // the two files is true of the node.
        self.ready |= !matches!(self.phase, Phase::Recover { .. });
        self.wait(now);
    }

    /// The attempt is over, one way or the other.
    pub(super) fn end(&mut self) {
        if let (Some(attempt), Some(goal)) = (self.attempt.take(), &mut self.goal) {
            goal.settled |= attempt.aim == Aim::Goal(goal.number);
        }
        self.abandon();
    }

    /// The attempt ends without a result: the goal stays open, and so does the repair.
    fn abandon(&mut self) {
        self.attempt = None;
        self.phase = Phase::Idle;
        self.ready = true;
    }

    fn wait(&mut self, now: Monotonic) {
        self.failures = self.failures.saturating_add(1);
        self.due.retry = now.plus(RETRY.delay(self.failures, None, self.ids.as_ref()));
    }
}

fn too_many(rejections: &[Rejection]) -> Rejection {
    Rejection {
        object: None,
        stage: rejections.first().map_or(Stage::Check, |r| r.stage),
        code: "TOO_MANY_REJECTIONS".to_owned(),
        field: None,
        message: format!("something was still rejected after {ROUNDS} rounds"),
    }
}
