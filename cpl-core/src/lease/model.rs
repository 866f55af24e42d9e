//! Who owns what, and the proof of it.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::ReplicaId;
use crate::store::{Key, Revision};
use crate::txn::Fence;
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
    /// The proof that this process owns a shard.
    Shard
);

/// What one process owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Its session.
    pub session: Session,
    /// The one shard of an exclusive store.
    pub shard: Shard,
}
