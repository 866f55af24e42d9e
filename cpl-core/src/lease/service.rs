//! Taking ownership, keeping it, and giving it up.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};

use super::model::{Owner, Ownership, Renewal, Session, SessionTimes, Shard};
use super::repo::{RENEWAL, SESSION, SHARD};
use crate::clock::{Clock, Monotonic};
use crate::error::{Error, Kind};
use crate::ids::{IdGen, ReplicaId, TxnId};
use crate::store::{Revision, Store};
use crate::txn::{Claim, ClaimTxn, Fence, Guard, Settled, TypedKey, commit, decode};
use crate::version::Epoch;

/// How long taking over may take before the process gives up and says so.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often somebody else may be faster on a store that nobody shares.
const TRIES: usize = 5;
/// How often a process that stands by looks.
const LOOK: Duration = Duration::from_secs(1);
/// The one shard.
const ONLY_SHARD: &str = "0";

/// Takes the session of `replica` and the shard, ending the session of whoever had them before.
///
/// On a store that several processes share it stands by, without end, until the session of the holder
/// was released or has not been renewed for as long as it lasts and `skew`, by this process' own clock. How long
/// it lasts its holder has said. The claim compares what was seen, so a holder that was only slow keeps what it has. Dropping the future may leave a
/// session that nobody renews.
///
/// # Errors
/// `Aborted` when others keep taking over an exclusive store; and what the store says.
pub async fn claim(
    store: &dyn Store,
    clock: &dyn Clock,
    ids: &dyn IdGen,
    replica: ReplicaId,
    times: &SessionTimes,
) -> Result<Ownership, Error> {
    let shared = !store.limits().exclusive;
    let mut tries = 0;
    loop {
        let seen = if shared {
            stand_by(store, clock, times).await?
        } else {
            look(store).await?
        };
        if let Some(ownership) = take(store, clock, ids, (replica, times), seen).await? {
            return Ok(ownership);
        }
        tries += 1;
        if !shared && tries == TRIES {
            let detail = "others keep taking over the shard";
            return Err(Error::new(Kind::Aborted, "TAKEOVER_CONTESTED", detail));
        }
    }
}

/// Renews a session, and returns once it is lost: what was owned must not be used any more. What is
/// written all the same is refused by its fence.
///
/// Dropping the future stops the renewals: then the session lapses, or [`release`] gives it up.
pub async fn hold(
    store: &dyn Store,
    clock: &dyn Clock,
    ids: &dyn IdGen,
    ownership: &Ownership,
    times: &SessionTimes,
) -> Error {
    let lost = |detail: &str| Error::new(Kind::Aborted, "SESSION_LOST", detail);
    let Some((mut sent, revision)) = ownership.renewed else {
        return lost("the session is not one that is renewed");
    };
    let key = RENEWAL.key(&[&ownership.session.owner().holder.to_string()]);
    let mut was = Guard::at(revision);
    let mut count = 0;
    loop {
        let end = sent.plus(times.ttl);
        clock.sleep_until(sent.plus(times.renew)).await;
        let next = clock.monotonic();
        if next >= end {
            return lost("this process was paused for longer than its session lasts");
        }
        count += 1;
        let renewal = renewal(count, clock, times);
        let txn = ClaimTxn::new(TxnId::fresh(ids), key.clone(), was, &renewal);
        let renewing = pin!(commit(store, clock, ids, txn, end));
        match select(renewing, clock.sleep_until(end)).await {
            Either::Left((Ok(Settled::Applied(revision)), _)) => {
                (was, sent) = (Guard::at(revision), next);
                ownership.tenure.extend(next.plus(times.ttl));
            },
            Either::Left((Ok(Settled::Lost { .. }), _)) => {
                return lost("another replica took over");
            },
            Either::Left((Err(error), _)) => {
                tracing::warn!(%error, "the session could not be renewed");
                clock.sleep_until(end).await;
                return lost("it could not be renewed in time");
            },
            Either::Right(_) => return lost("it could not be renewed in time"),
        }
    }
}

/// Gives up what a process owns on a shared store, so that the next need not wait. The fences of this
/// process are refused from then on. Does nothing where nothing is renewed, or all is lost already.
///
/// # Errors
/// What the store says; then the session lapses by itself.
pub async fn release(
    store: &dyn Store,
    clock: &dyn Clock,
    ids: &dyn IdGen,
    ownership: &Ownership,
    patience: Duration,
) -> Result<(), Error> {
    if !ownership.is_renewed() {
        return Ok(());
    }
    let owner = ownership.shard.owner();
    let replica = owner.holder.to_string();
    let (session, renewal) = (SESSION.key(&[&replica]), RENEWAL.key(&[&replica]));
    let own = Guard::at(ownership.session.revision());
    let deadline = clock.monotonic().plus(patience);
    // A renewal that was under way when it was stopped may still arrive in between.
    for _ in 0..TRIES {
        let was = read(store, &renewal).await?;
        let shard = Guard::at(ownership.shard.revision());
        let txn = ClaimTxn::new(TxnId::fresh(ids), SHARD.key(&[ONLY_SHARD]), shard, owner)
            .release(session.clone(), own)
            .release(renewal.clone(), was);
        let settled = commit(store, clock, ids, txn, deadline).await?;
        if matches!(settled, Settled::Applied(_)) || read(store, &session).await? != own {
            break;
        }
    }
    Ok(())
}

/// What was seen of the shard and of whoever holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    shard: Guard,
    owner: Option<Owner>,
    session: Guard,
    renewal: Guard,
    /// How long the session lasts after each renewal.
    lasts: Duration,
}

impl Seen {
    fn is_free(&self) -> bool {
        self.owner.is_none() || self.session == Guard::ABSENT
    }
}

/// Waits until the shard is free, or its holder has not been heard for long enough.
async fn stand_by(
    store: &dyn Store,
    clock: &dyn Clock,
    times: &SessionTimes,
) -> Result<Seen, Error> {
    let mut seen = look(store).await?;
    let mut since = clock.monotonic();
    if let Some(owner) = seen.owner.as_ref().filter(|_| !seen.is_free()) {
        tracing::info!(holder = %owner.holder, "standing by: another replica leads");
    }
    loop {
        let unheard = clock.monotonic().since(since);
        if seen.is_free() || unheard >= seen.lasts.saturating_add(times.skew) {
            return Ok(seen);
        }
        clock.sleep(LOOK).await;
        match look(store).await {
            Ok(now) if now == seen => {},
            Ok(now) => (seen, since) = (now, clock.monotonic()),
            Err(error) => tracing::warn!(%error, "the store does not say who leads"),
        }
    }
}

async fn look(store: &dyn Store) -> Result<Seen, Error> {
    let shard = SHARD.key(&[ONLY_SHARD]);
    let found = store.get(shard.key()).await.map_err(unreadable)?;
    let owner: Option<Owner> = decode(found.value.as_ref())?;
    let (mut session, mut renewal) = (Guard::ABSENT, Guard::ABSENT);
    let mut lasts = SessionTimes::default().ttl;
    if let Some(owner) = &owner {
        let replica = owner.holder.to_string();
        session = read(store, &SESSION.key(&[&replica])).await?;
        let key = RENEWAL.key(&[&replica]);
        let read = store.get(key.key()).await.map_err(unreadable)?;
        renewal = Guard::of(read.value.as_ref().map(|entry| &entry.meta));
        let said: Option<Renewal> = decode(read.value.as_ref())?;
        if let Some(said) = said.filter(|renewal| renewal.lasts_ms > 0) {
            lasts = Duration::from_millis(said.lasts_ms);
        }
    }
    Ok(Seen {
        shard: Guard::of(found.value.as_ref().map(|entry| &entry.meta)),
        owner,
        session,
        renewal,
        lasts,
    })
}

/// Takes what was seen; nothing when it has changed since.
async fn take(
    store: &dyn Store,
    clock: &dyn Clock,
    ids: &dyn IdGen,
    (replica, times): (ReplicaId, &SessionTimes),
    seen: Seen,
) -> Result<Option<Ownership>, Error> {
    let owner = Owner {
        holder: replica,
        epoch: seen
            .owner
            .as_ref()
            .map_or(Epoch(1), |owner| owner.epoch.next()),
        since: clock.wall(),
    };
    let (session, shard) = (
        SESSION.key(&[&replica.to_string()]),
        SHARD.key(&[ONLY_SHARD]),
    );
    let mut txn = ClaimTxn::new(TxnId::fresh(ids), session.clone(), Guard::ABSENT, &owner).also(
        shard.clone(),
        seen.shard,
        &owner,
    );
    let shared = !store.limits().exclusive;
    if shared {
        let key = RENEWAL.key(&[&replica.to_string()]);
        txn = txn.also(key, Guard::ABSENT, &renewal(0, clock, times));
    }
    if let Some(before) = seen.owner {
        let before = before.holder.to_string();
        if seen.session != Guard::ABSENT {
            txn = txn.release(SESSION.key(&[&before]), seen.session);
        }
        if seen.renewal != Guard::ABSENT {
            txn = txn.release(RENEWAL.key(&[&before]), seen.renewal);
        }
    }
    let sent = clock.monotonic();
    match commit(store, clock, ids, txn, sent.plus(PATIENCE)).await? {
        Settled::Applied(revision) => {
            let renewed = shared.then_some((sent, revision));
            let ownership = ownership(owner, &session, &shard, revision, renewed);
            if shared {
                ownership.tenure.extend(sent.plus(times.ttl));
            }
            Ok(Some(ownership))
        },
        Settled::Lost { .. } => Ok(None),
    }
}

fn ownership(
    owner: Owner,
    session: &TypedKey<Claim>,
    shard: &TypedKey<Claim>,
    revision: Revision,
    renewed: Option<(Monotonic, Revision)>,
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
        renewed,
        tenure: Arc::default(),
    }
}

fn renewal(count: u64, clock: &dyn Clock, times: &SessionTimes) -> Renewal {
    Renewal {
        count,
        at: clock.wall(),
        lasts_ms: u64::try_from(times.ttl.as_millis()).unwrap_or(u64::MAX),
    }
}

async fn read(store: &dyn Store, key: &TypedKey<Claim>) -> Result<Guard, Error> {
    let read = store.get(key.key()).await.map_err(unreadable)?;
    Ok(Guard::of(read.value.as_ref().map(|entry| &entry.meta)))
}

fn unreadable(error: crate::store::Error) -> Error {
    Error::store("read an ownership", error)
}
