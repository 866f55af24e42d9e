//! Who owns what, and the proof of it.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Monotonic, Timestamp};
use crate::ids::ReplicaId;
use crate::store::{Key, Revision};
use crate::txn::{Fence, Guard};
use crate::version::Epoch;

/// The record of an ownership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Who.
    pub holder: ReplicaId,
    /// Which ownership this is; greater than any before.
    pub epoch: Epoch,
    /// When it was taken.
    pub since: Timestamp,
}

/// Which sessions there are at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// Their epochs.
    pub epochs: Vec<Epoch>,
    /// The newest epoch that any session had shortly before, be it among them or not.
    pub newest: Epoch,
}

impl Living {
    /// Whether the session of this epoch has ended: one that began later than this was read has not.
    pub fn has_ended(&self, epoch: Epoch) -> bool {
        epoch <= self.newest && !self.epochs.contains(&epoch)
    }
}

/// A session as somebody else sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSession {
    /// Whose it is.
    pub owner: Owner,
    pub(super) session: Guard,
    pub(super) renewal: Guard,
    /// How long it lasts after each renewal.
    pub(super) lasts: Duration,
}

macro_rules! fence {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            pub(super) owner: Owner,
            pub(super) key: Key,
            pub(super) revision: Revision,
        }

        impl $name {
            /// Who holds it under which epoch.
            pub const fn owner(&self) -> &Owner {
                &self.owner
            }
        }

        impl Fence for $name {
            fn key(&self) -> &Key {
                &self.key
            }

            fn revision(&self) -> Revision {
                self.revision
            }
        }
    };
}

fence!(
    /// The proof that this process has its session.
    Session
);
fence!(
    /// The proof that this process owns the shard.
    Shard
);

/// The session of one process, and how long it lasts.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The session.
    pub session: Session,
    /// On a shared store, when its claim was sent and the revision of its first renewal.
    pub(super) renewed: Option<(Monotonic, Revision)>,
    pub(super) tenure: Arc<Tenure>,
}

/// Until when a holder goes on, by its own clock.
#[derive(Debug, Default)]
pub(super) struct Tenure(Mutex<Option<Monotonic>>);

impl Tenure {
    pub(super) fn extend(&self, until: Monotonic) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    fn until(&self) -> Option<Monotonic> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Membership {
    /// Whether it has to be held by [`hold`](super::hold).
    pub const fn is_renewed(&self) -> bool {
        self.renewed.is_some()
    }

    /// Whether its holder may go on, by its own clock: what reached it while it was frozen must not be done
    /// once this is false. Always so on a store that nobody shares.
    pub fn lasts(&self, now: Monotonic) -> bool {
        self.tenure.until().is_none_or(|until| now < until)
    }
}

/// The record by which a holder shows that it is there. It is not the record that fences compare: that
/// one stays as it is while the session lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Renewal {
    /// How often it was renewed.
    pub(super) count: u64,
    /// When, for people.
    pub(super) at: Timestamp,
    /// For how many milliseconds its holder goes on without the next one: so long others wait, whatever they
    /// were told themselves. Zero in records of versions before, whose holders had the default.
    #[serde(default)]
    pub(super) lasts_ms: u64,
}

/// How long a session lasts on a shared store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimes {
    /// How often it is renewed.
    pub renew: Duration,
    /// How long after the sending of its last renewal a holder goes on, by its own clock.
    pub ttl: Duration,
    /// How much longer others wait, for clocks of different pace.
    pub skew: Duration,
}

impl SessionTimes {
    /// The shortest that leaves a renewal time to be answered, and the longest that people would wait for.
    pub const RANGE: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_mins(5);

    /// Of a session that lasts so long: renewed three times in it, and a fifth of it for clocks.
    pub fn lasting(ttl: Duration) -> Self {
        Self {
            renew: ttl * 3 / 10,
            ttl,
            skew: ttl / 5,
        }
    }
}

impl Default for SessionTimes {
    /// 3 s, 10 s and 2 s.
    fn default() -> Self {
        Self::lasting(Duration::from_secs(10))
    }
}
