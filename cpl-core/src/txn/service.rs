//! Committing, until it is known what happened.

use std::time::Duration;

use super::rules::IntoTxn;
use crate::clock::{Clock, Monotonic};
use crate::error::{Error, not_applied};
use crate::ids::{IdGen, TxnId};
use crate::store::{self, Class, Commit, Key, KeyMeta, Outcome, Revision, Store, Txn};

/// First pause before a transaction is sent again.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What certainly became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is applied, with this revision.
    Applied(Revision),
    /// It is not: these keys were not as expected.
    Lost {
        /// The keys, and what they are instead.
        failed: Vec<(Key, Option<KeyMeta>)>,
        /// When that was true.
        at: Revision,
    },
}

/// Commits and does not return before the outcome is known, sending again and asking for the outcome
/// as long as `deadline` allows.
///
/// Dropping the future leaves the outcome unknown.
///
/// # Errors
/// `Unavailable` when it certainly did not happen by the deadline, `Indeterminate` when that is not
/// known, and whatever the store rejects.
pub async fn commit(
    store: &dyn Store,
    clock: &dyn Clock,
    ids: &dyn IdGen,
    txn: impl IntoTxn,
    deadline: Monotonic,
) -> Result<Settled, Error> {
    let txn = txn.into_txn();
    let mut attempt = Attempt {
        store,
        clock,
        ids,
        deadline,
        pause: FIRST_PAUSE,
    };
    let mut unsure = false;
    loop {
        match store.commit(txn.clone()).await {
            Ok(Commit::Applied { at, .. }) => return Ok(Settled::Applied(at.revision)),
            Ok(Commit::CompareFailed { failed, at }) => {
                let lost = Settled::Lost {
                    failed,
                    at: at.revision,
                };
                return if unsure {
                    attempt.rule_out(&txn, lost).await
                } else {
                    Ok(lost)
                };
            },
            Err(error) => match error.class() {
                Class::NotApplied => attempt.pause_or(&error, unsure).await?,
                Class::Indeterminate => {
                    unsure = true;
                    attempt.pause_or(&error, unsure).await?;
                },
                Class::Rejected | Class::Corrupt => return Err(Error::store("commit", error)),
            },
        }
    }
}

struct Attempt<'a> {
    store: &'a dyn Store,
    clock: &'a dyn Clock,
    ids: &'a dyn IdGen,
    deadline: Monotonic,
    pause: Duration,
}

impl Attempt<'_> {
    /// Waits before the next try; an error once the deadline has passed, and at once when the store
    /// takes no writes: that lasts longer than anybody waits.
    async fn pause_or(&mut self, error: &store::Error, unsure: bool) -> Result<(), Error> {
        let now = self.clock.monotonic();
        if now >= self.deadline || *error.kind() == store::Kind::ReadOnly {
            let (kind, reason) = if unsure {
                (crate::error::Kind::Indeterminate, "OUTCOME_UNKNOWN")
            } else {
                (crate::error::Kind::Unavailable, not_applied(error.kind()))
            };
            return Err(Error::new(kind, reason, error.to_string()));
        }
        let half = u64::try_from(self.pause.as_millis() / 2).unwrap_or(u64::MAX);
        let jittered = Duration::from_millis(half + self.ids.below(half + 1));
        self.clock
            .sleep_until(now.plus(jittered).min(self.deadline))
            .await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    /// A compare failed after an earlier try whose reply was lost: that try may have been applied, and
    /// the compare may have failed because of it. The outcome says so, and rules it out otherwise.
    async fn rule_out(&mut self, txn: &Txn, lost: Settled) -> Result<Settled, Error> {
        let Some(id) = txn.id else { return Ok(lost) };
        loop {
            match self.ask(id).await {
                Ok(Outcome::Applied(revision)) => return Ok(Settled::Applied(revision)),
                Ok(Outcome::Void) => return Ok(lost),
                Err(error) => self.pause_or(&error, true).await?,
            }
        }
    }

    async fn ask(&self, id: TxnId) -> Result<Outcome, store::Error> {
        self.store.outcome(id).await
    }
}
