//! Taking ownership.

use std::time::Duration;

use super::model::{Owner, Ownership, Session, Shard};
use super::repo::{SESSION, SHARD};
use crate::clock::Clock;
use crate::error::{Error, Kind};
use crate::ids::{IdGen, ReplicaId, TxnId};
use crate::store::{Revision, Store};
use crate::txn::{Claim, ClaimTxn, Guard, Settled, TypedKey, commit, decode};
use crate::version::Epoch;

/// How long taking over may take before the process gives up and says so.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often somebody else may be faster.
const TRIES: usize = 5;
/// The one shard of an exclusive store.
const ONLY_SHARD: &str = "0";

/// Takes the session of `replica` and the shard, ending the session of whoever had them before.
///
/// # Errors
/// `FailedPrecondition` on a store that several processes share; `Aborted` when others keep taking
/// over; and what the store says.
pub async fn claim(
    store: &dyn Store,
    clock: &dyn Clock,
    ids: &dyn IdGen,
    replica: ReplicaId,
) -> Result<Ownership, Error> {
    if !store.limits().exclusive {
        let detail = "several server replicas on a shared store are not supported yet";
        return Err(Error::new(Kind::FailedPrecondition, "STORE_SHARED", detail));
    }
    let shard_key = SHARD.key(&[ONLY_SHARD]);
    for _ in 0..TRIES {
        let (was, before) = read_owner(store, &shard_key).await?;
        let epoch = before.as_ref().map_or(Epoch(1), |owner| owner.epoch.next());
        let owner = Owner {
            holder: replica,
            epoch,
            since: clock.wall(),
        };
        let session_key = SESSION.key(&[&replica.to_string()]);
        let id = TxnId::fresh(ids);
        let mut txn = ClaimTxn::new(id, session_key.clone(), Guard::ABSENT, &owner).also(
            shard_key.clone(),
            was,
            &owner,
        );
        if let Some(before) = before {
            let ended = SESSION.key(&[&before.holder.to_string()]);
            let (was, held) = read_owner(store, &ended).await?;
            if held.is_some() {
                txn = txn.release(ended, was);
            }
        }
        let deadline = clock.monotonic().plus(PATIENCE);
        if let Settled::Applied(revision) = commit(store, clock, ids, txn, deadline).await? {
            return Ok(ownership(owner, &session_key, &shard_key, revision));
        }
    }
    Err(Error::new(
        Kind::Aborted,
        "TAKEOVER_CONTESTED",
        "others keep taking over the shard",
    ))
}

fn ownership(
    owner: Owner,
    session: &TypedKey<Claim>,
    shard: &TypedKey<Claim>,
    revision: Revision,
) -> Ownership {
    Ownership {
        session: Session {
            owner: owner.clone(),
            key: session.key().clone(),
            revision,
        },
        shard: Shard {
            owner,
            key: shard.key().clone(),
            revision,
        },
    }
}

async fn read_owner(
    store: &dyn Store,
    key: &TypedKey<Claim>,
) -> Result<(Guard, Option<Owner>), Error> {
    let read = store
        .get(key.key())
        .await
        .map_err(|e| Error::store("read an ownership", e))?;
    let guard = Guard::of(read.value.as_ref().map(|entry| &entry.meta));
    Ok((guard, decode(read.value.as_ref())?))
}
