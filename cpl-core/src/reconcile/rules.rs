//! The work queue: one entry per key, and a wait that events cannot shorten. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use crate::clock::Monotonic;

/// First wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait after failures.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// What came of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more is to be done now; look again after this time when one is named.
    Done(Option<Duration>),
    /// It failed, for this reason, and may succeed later.
    Retry(String),
}

#[derive(Clone, Debug, Default)]
struct Item {
    /// When it is due, while it is queued.
    due: Option<Monotonic>,
    failures: u32,
    /// The key is being worked on.
    in_flight: bool,
    /// Something changed while it was.
    dirty: bool,
    /// It is waiting for another try after a failure.
    backing_off: bool,
}

/// Keys that need work, each at most once.
#[derive(Clone, Debug)]
pub struct WorkQueue<K> {
    items: BTreeMap<K, Item>,
    due: BTreeSet<(Monotonic, K)>,
}

impl<K: Ord + Clone + Debug> Default for WorkQueue<K> {
    fn default() -> Self {
        Self {
            items: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Clone + Debug> WorkQueue<K> {
    /// Something that concerns `key` changed. A key that is being worked on is looked at once more
    /// afterwards; one that waits after a failure goes on waiting.
    pub fn add(&mut self, key: K, now: Monotonic) {
        let item = self.items.entry(key.clone()).or_default();
        if item.in_flight {
            item.dirty = true;
        } else if !item.backing_off && item.due.is_none_or(|due| due > now) {
            self.schedule(key, now);
        }
    }

    /// Up to `most` keys that are due, to be worked on now.
    pub fn take(&mut self, most: usize, now: Monotonic) -> Vec<K> {
        let ready = self
            .due
            .iter()
            .take_while(|(due, _)| *due <= now)
            .take(most);
        let keys: Vec<K> = ready.map(|(_, key)| key.clone()).collect();
        for key in &keys {
            if let Some(item) = self.items.get_mut(key) {
                if let Some(due) = item.due.take() {
                    self.due.remove(&(due, key.clone()));
                }
                item.in_flight = true;
                item.backing_off = false;
            }
        }
        keys
    }

    /// Work on a key has ended. `jitter` is a share of the wait, in thousandths, that is added to it.
    pub fn finish(&mut self, key: &K, outcome: &Outcome, now: Monotonic, jitter: u32) {
        let Some(item) = self.items.get_mut(key) else {
            return;
        };
        item.in_flight = false;
        let dirty = std::mem::take(&mut item.dirty);
        let due = match outcome {
            Outcome::Done(again) => {
                item.failures = 0;
                if dirty {
                    Some(now)
                } else {
                    again.map(|after| now.plus(after))
                }
            },
            Outcome::Retry(_) => {
                let wait = wait_after(item.failures);
                item.failures = item.failures.saturating_add(1);
                item.backing_off = true;
                Some(now.plus(wait + wait * jitter.min(1_000) / 2_000))
            },
        };
        match due {
            Some(due) => self.schedule(key.clone(), due),
            None => {
                self.items.remove(key);
            },
        }
    }

    /// When the next key is due.
    pub fn next_due(&self) -> Option<Monotonic> {
        self.due.first().map(|(due, _)| *due)
    }

    fn schedule(&mut self, key: K, due: Monotonic) {
        let item = self.items.entry(key.clone()).or_default();
        if let Some(earlier) = item.due.replace(due) {
            self.due.remove(&(earlier, key.clone()));
        }
        self.due.insert((due, key));
    }
}

/// 200 ms, doubling up to 60 s.
fn wait_after(failures: u32) -> Duration {
    FIRST_WAIT
        .saturating_mul(1 << failures.min(16))
        .min(LONGEST_WAIT)
}
