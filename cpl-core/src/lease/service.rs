//! Beginning a session, keeping it, taking the shard, and giving both up.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};

use super::model::{Living, Membership, Owner, Renewal, SeenSession, Session, SessionTimes, Shard};
use super::repo::{EPOCH, RENEWAL, SESSION, SHARD};
use super::rules::Sessions;
use crate::clock::Clock;
use crate::error::{Error, Kind};
use crate::ids::{IdGen, ReplicaId, TxnId};
use crate::store::{Entry, Key, ListRequest, Range, Store};
use crate::txn::{Claim, ClaimTxn, Fence, Guard, Settled, TypedKey, commit, decode};
use crate::version::Epoch;

/// How long one of these steps may take before the process gives up and says so.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often somebody else may be faster.
const TRIES: usize = 20;
/// How often others are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The one shard.
const ONLY_SHARD: &str = "0";

/// Where sessions are kept, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The store.
    pub store: &'a dyn Store,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Ids.
    pub ids: &'a dyn IdGen,
    /// How long sessions last.
    pub times: &'a SessionTimes,
}

/// Begins the session of `replica`, under an epoch that no session had before.
///
/// On a store that one process has alone, whoever had one before is dead, and their session ends with this. On a store
/// that several share, all have sessions; this one must be [held](hold). Dropping the future may leave a session that
/// nobody renews.
///
/// # Errors
/// `Aborted` when others keep beginning theirs at the same moment; and what the store says.
pub async fn begin(place: Place<'_>, replica: ReplicaId) -> Result<Membership, Error> {
    for _ in 0..TRIES {
        if let Some(membership) = try_begin(place, replica).await? {
            return Ok(membership);
        }
    }
    let detail = "others keep beginning sessions at the same moment";
    Err(Error::new(Kind::Aborted, "SESSION_CONTESTED", detail))
}

async fn try_begin(place: Place<'_>, replica: ReplicaId) -> Result<Option<Membership>, Error> {
    let Place {
        store,
        clock,
        ids,
        times,
    } = place;
    let shared = !store.limits().exclusive;
    let counter = get(store, EPOCH.key(&[]).key()).await?;
    let newest: Option<Epoch> = decode(counter.as_ref())?;
    // Stores of before have no counter: there sessions had the epoch of the shard.
    let shard: Option<Owner> = decode(get(store, shard_key().key()).await?.as_ref())?;
    let newest = newest.max(shard.map(|owner| owner.epoch));
    let owner = Owner {
        holder: replica,
        epoch: newest.map_or(Epoch(1), Epoch::next),
        since: clock.wall(),
    };
    let session = SESSION.key(&[&replica.to_string()]);
    let id = TxnId::fresh(ids);
    let was = Guard::of(counter.as_ref().map(|entry| &entry.meta));
    let mut txn = ClaimTxn::new(id, session.clone(), Guard::ABSENT, &owner).also(
        EPOCH.key(&[]),
        was,
        &owner.epoch,
    );
    if shared {
        let key = RENEWAL.key(&[&replica.to_string()]);
        txn = txn.also(key, Guard::ABSENT, &renewal(0, clock, times));
    } else {
        for dead in sessions(store).await? {
            txn = ending(txn, &dead);
        }
    }
    let sent = clock.monotonic();
    match commit(store, clock, ids, txn, sent.plus(PATIENCE)).await? {
        Settled::Applied(revision) => {
            let membership = Membership {
                session: Session {
                    owner,
                    key: session.into_key(),
                    revision,
                },
                renewed: shared.then_some((sent, revision)),
                tenure: Arc::default(),
            };
            if shared {
                membership.tenure.extend(sent.plus(times.ttl));
            }
            Ok(Some(membership))
        },
        Settled::Lost { .. } => Ok(None),
    }
}

/// Renews a session, and returns once it is lost: what was owned must not be used any more. What is
/// written all the same is refused by its fence.
///
/// Dropping the future stops the renewals: then the session lapses, or [`release`] gives it up.
pub async fn hold(place: Place<'_>, membership: &Membership) -> Error {
    let Place {
        store,
        clock,
        ids,
        times,
    } = place;
    let lost = |detail: &str| Error::new(Kind::Aborted, "SESSION_LOST", detail);
    let Some((mut sent, revision)) = membership.renewed else {
        return lost("the session is not one that is renewed");
    };
    let key = RENEWAL.key(&[&membership.session.owner().holder.to_string()]);
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
                membership.tenure.extend(next.plus(times.ttl));
            },
            Either::Left((Ok(Settled::Lost { .. }), _)) => {
                return lost("another replica has ended it");
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

/// Takes the shard, once it is free: nobody has it, or the session of its holder has ended or lapsed.
///
/// Stands by without end. A session lapses when it has not been renewed for as long as its holder said that it lasts,
/// and `skew`, by this process' own clock; the claim compares what was seen, so a holder that was only slow keeps
/// what it has. Dropping the future may leave the shard taken, until this session ends.
///
/// # Errors
/// `Aborted` when this session has ended.
pub async fn take_shard(place: Place<'_>, membership: &Membership) -> Result<Shard, Error> {
    let mut known = Sessions::default();
    let mut told = false;
    loop {
        match try_take(place, membership, &mut known).await {
            Ok(Taken::Shard(shard)) => return Ok(shard),
            Ok(Taken::Held(by)) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(holder = %by.holder, "another replica has the shard");
                }
            },
            Ok(Taken::Contested) => {},
            Err(error) if error.reason() == SESSION_LOST => return Err(error),
            Err(error) => tracing::warn!(%error, "the store does not say who has the shard"),
        }
        place.clock.sleep(LOOK).await;
    }
}

const SESSION_LOST: &str = "SESSION_LOST";

enum Taken {
    Shard(Shard),
    Held(Owner),
    /// Somebody was faster.
    Contested,
}

async fn try_take(
    place: Place<'_>,
    membership: &Membership,
    known: &mut Sessions,
) -> Result<Taken, Error> {
    let Place {
        store,
        clock,
        ids,
        times,
    } = place;
    let asked = clock.monotonic();
    let entry = get(store, shard_key().key()).await?;
    let before: Option<Owner> = decode(entry.as_ref())?;
    let there = sessions(store).await?;
    let own = membership.session.owner();
    if !there.iter().any(|session| session.owner == *own) {
        let detail = "another replica has ended it";
        return Err(Error::new(Kind::Aborted, SESSION_LOST, detail));
    }
    let now = clock.monotonic();
    let lapsed = known.look(&there, (asked, now), times.skew);
    let held_by = |owner: &Owner| {
        let theirs = |session: &&SeenSession| session.owner.holder == owner.holder;
        there.iter().find(theirs)
    };
    let holder = before.as_ref().and_then(held_by);
    let taken = |owner: Owner, revision| {
        Taken::Shard(Shard {
            owner,
            key: shard_key().into_key(),
            revision,
        })
    };
    if let (Some(before), Some(entry)) = (&before, &entry)
        && before.holder == own.holder
    {
        // An earlier claim whose answer was lost.
        return Ok(taken(before.clone(), entry.meta.mod_revision));
    }
    let owner = Owner {
        holder: own.holder,
        epoch: before.as_ref().map_or(Epoch(1), |owner| owner.epoch.next()),
        since: clock.wall(),
    };
    let was = Guard::of(entry.as_ref().map(|entry| &entry.meta));
    let id = TxnId::fresh(ids);
    let mut txn = ClaimTxn::new(id, shard_key(), was, &owner).under(&membership.session);
    if let (Some(before), Some(holder)) = (before, holder) {
        if !lapsed.contains(holder) {
            return Ok(Taken::Held(before));
        }
        txn = ending(txn, holder);
    }
    match commit(store, clock, ids, txn, now.plus(PATIENCE)).await? {
        Settled::Applied(revision) => Ok(taken(owner, revision)),
        Settled::Lost { .. } => Ok(Taken::Contested),
    }
}

/// Ends the sessions that have lapsed; the work of the shard's owner. What those processes still send is refused by
/// its fence from then on. To be called about once a second, always with the same `known`; returns what is left.
///
/// # Errors
/// What the store says; the next call goes on.
pub async fn reap(place: Place<'_>, shard: &Shard, known: &mut Sessions) -> Result<Living, Error> {
    let Place {
        store,
        clock,
        ids,
        times,
    } = place;
    // Before the sessions: whoever is not among them and is not newer has ended.
    let newest: Option<Epoch> = decode(get(store, EPOCH.key(&[]).key()).await?.as_ref())?;
    let asked = clock.monotonic();
    let mut there = sessions(store).await?;
    let lapsed = known.look(&there, (asked, clock.monotonic()), times.skew);
    let others = |session: &SeenSession| session.owner.holder != shard.owner().holder;
    // On a store of one process there are no others.
    for lapsed in lapsed.into_iter().filter(others) {
        let key = SESSION.key(&[&lapsed.owner.holder.to_string()]);
        let mut txn = ClaimTxn::end(TxnId::fresh(ids), key, lapsed.session).under(shard);
        if lapsed.renewal != Guard::ABSENT {
            txn = txn.release(renewal_key(&lapsed.owner), lapsed.renewal);
        }
        let settled = commit(store, clock, ids, txn, clock.monotonic().plus(PATIENCE)).await?;
        if matches!(settled, Settled::Applied(_)) {
            tracing::warn!(holder = %lapsed.owner.holder, "a replica is gone: its session was ended");
            there.retain(|session| session.owner != lapsed.owner);
        }
    }
    Ok(Living {
        epochs: there.iter().map(|session| session.owner.epoch).collect(),
        newest: newest.unwrap_or_default(),
    })
}

/// Gives up what a process owns on a shared store, so that the next need not wait. The fences of this
/// process are refused from then on. Does nothing where nothing is renewed, or all is lost already.
///
/// # Errors
/// What the store says; then the session lapses by itself.
pub async fn release(
    place: Place<'_>,
    (membership, shard): (&Membership, Option<&Shard>),
    patience: Duration,
) -> Result<(), Error> {
    let Place {
        store, clock, ids, ..
    } = place;
    if !membership.is_renewed() {
        return Ok(());
    }
    let owner = membership.session.owner();
    let (session, renewal) = (
        SESSION.key(&[&owner.holder.to_string()]),
        renewal_key(owner),
    );
    let own = Guard::at(membership.session.revision());
    let deadline = clock.monotonic().plus(patience);
    // A renewal that was under way when it was stopped may still arrive in between.
    for _ in 0..TRIES {
        let was = read(store, &renewal).await?;
        let id = TxnId::fresh(ids);
        let txn = match shard {
            // Written anew, so that nothing of what was sent under it arrives later.
            Some(shard) => {
                let at = Guard::at(shard.revision());
                ClaimTxn::new(id, shard_key(), at, shard.owner()).release(session.clone(), own)
            },
            None => ClaimTxn::end(id, session.clone(), own),
        };
        let txn = txn.release(renewal.clone(), was);
        let settled = commit(store, clock, ids, txn, deadline).await?;
        if matches!(settled, Settled::Applied(_)) || read(store, &session).await? != own {
            break;
        }
    }
    Ok(())
}

/// Ends a session together with whatever else is claimed.
fn ending(txn: ClaimTxn, dead: &SeenSession) -> ClaimTxn {
    let key = SESSION.key(&[&dead.owner.holder.to_string()]);
    let txn = txn.release(key, dead.session);
    if dead.renewal == Guard::ABSENT {
        return txn;
    }
    txn.release(renewal_key(&dead.owner), dead.renewal)
}

/// All sessions. Their renewals are read after them, so that one that is gone is not taken for one without.
async fn sessions(store: &dyn Store) -> Result<Vec<SeenSession>, Error> {
    let mut seen = Vec::new();
    for entry in all(store, SESSION.range(&[])).await? {
        if SESSION.parts(&entry.key).is_none() {
            continue;
        }
        let Some(owner) = decode::<Owner>(Some(&entry))? else {
            continue;
        };
        let renewal = get(store, renewal_key(&owner).key()).await?;
        let said: Option<Renewal> = decode(renewal.as_ref())?;
        let said = said.filter(|renewal| renewal.lasts_ms > 0);
        let lasts = said.map_or(SessionTimes::default().ttl, |renewal| {
            Duration::from_millis(renewal.lasts_ms).min(*SessionTimes::RANGE.end())
        });
        seen.push(SeenSession {
            owner,
            session: Guard::of(Some(&entry.meta)),
            renewal: Guard::of(renewal.as_ref().map(|entry| &entry.meta)),
            lasts,
        });
    }
    Ok(seen)
}

async fn all(store: &dyn Store, range: Range) -> Result<Vec<Entry>, Error> {
    let mut request = ListRequest::first(range);
    let mut entries = Vec::new();
    loop {
        let page = store.list(request.clone()).await.map_err(unreadable)?;
        entries.extend(page.entries);
        request.page = page.next;
        if request.page.is_none() {
            return Ok(entries);
        }
    }
}

fn shard_key() -> TypedKey<Claim> {
    SHARD.key(&[ONLY_SHARD])
}

fn renewal_key(owner: &Owner) -> TypedKey<Claim> {
    RENEWAL.key(&[&owner.holder.to_string()])
}

fn renewal(count: u64, clock: &dyn Clock, times: &SessionTimes) -> Renewal {
    Renewal {
        count,
        at: clock.wall(),
        lasts_ms: u64::try_from(times.ttl.as_millis()).unwrap_or(u64::MAX),
    }
}

async fn get(store: &dyn Store, key: &Key) -> Result<Option<Entry>, Error> {
    Ok(store.get(key).await.map_err(unreadable)?.value)
}

async fn read(store: &dyn Store, key: &TypedKey<Claim>) -> Result<Guard, Error> {
    let entry = get(store, key.key()).await?;
    Ok(Guard::of(entry.as_ref().map(|entry| &entry.meta)))
}

fn unreadable(error: crate::store::Error) -> Error {
    Error::store("read an ownership", error)
}
