//! The end of all writing, and its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::failure::Failure;
use super::world::{Checked, World, holds, key, refused, same, step_aside};
use crate::ids::{SealId, TxnId};
use crate::store::{Commit, Entry, Kind, Outcome, Range, Revision, Txn};

const MINE: SealId = SealId(7);
const ANOTHER: SealId = SealId(8);

/// What would change something is refused, and nothing else is.
pub(super) async fn a_sealed_store_changes_nothing(world: World) -> Checked {
    let start = world.head().await?;
    let mut written = world.put("a", "1").await?;
    for round in 0..20 {
        let known = TxnId(100 + round);
        let txn = Txn::new().with_id(known).put(key("a"), round.to_string());
        let applied = world.apply(txn).await?;
        let sealed = world.store.seal(MINE).await?;
        holds(sealed.revision >= applied, || {
            format!("a seal after {applied}, got {sealed}")
        })?;
        let (before, _) = world.list(Range::all()).await?;
        for refusable in [
            Txn::new().put(key("a"), "no"),
            Txn::new().put(key("b"), "no"),
            Txn::new().delete(key("a")),
            Txn::new().with_id(TxnId(1_000 + round)).put(key("c"), "no"),
        ] {
            let answer = world.store.commit(refusable).await;
            refused("a write", answer, &Kind::ReadOnly)?;
        }
        same("the content", &world.list(Range::all()).await?.0, &before)?;
        let outcome = world.store.outcome(known).await?;
        same("a recorded outcome", &outcome, &Outcome::Applied(applied))?;
        let outcome = world.store.outcome(TxnId(2_000 + round)).await?;
        same("one that is ruled out", &outcome, &Outcome::Void)?;
        if round > 10 {
            world.store.compact(applied).await?;
        }
        world.head_is(sealed).await?;
        world.store.unseal().await?;
        written = world.put("b", &round.to_string()).await?;
        world.delete("b").await?;
        if round == 10 {
            let mut watch = world.watch(Range::all(), start).await?;
            let history = watch.until(written).await?;
            same("revisions told", &history.len(), &33)?;
        }
    }
    world.store.unseal().await?;
    let mut watch = world.watch(Range::all(), world.head().await?).await?;
    let last = world.put("a", "last").await?;
    holds(last > written, || format!("a revision after {written}"))?;
    watch.until(last).await.map(drop)
}

/// It may be put on twice by its owner, and by nobody else, until it is taken off.
pub(super) async fn a_seal_is_its_owners(world: World) -> Checked {
    let first = world.put("a", "1").await?;
    for round in 0..20 {
        let sealed = world.store.seal(MINE).await?;
        same(
            "again",
            &world.store.seal(MINE).await?.identity,
            &sealed.identity,
        )?;
        let answer = world.store.seal(ANOTHER).await;
        refused("the seal of another", answer, &Kind::Invalid)?;
        let answer = world.store.commit(Txn::new().put(key("a"), "no")).await;
        refused("a write", answer, &Kind::ReadOnly)?;
        world.store.unseal().await?;
        world.store.unseal().await?;
        world.store.seal(ANOTHER).await?;
        world.store.unseal().await?;
        if round == 10 {
            world.store.compact(first).await?;
        }
    }
    world.put("a", "2").await.map(drop)
}

/// Clients write as fast as they can while the store is sealed.
pub(super) async fn a_seal_follows_all_that_was_told(world: World) -> Checked {
    const CLIENTS: usize = 8;
    const ROUNDS: usize = 10;
    for round in 0..ROUNDS {
        let start = world.head().await?;
        let sealed = Arc::new(AtomicBool::new(false));
        let busy = Arc::new(AtomicUsize::new(0));
        let mut clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let name = format!("{round}/{client}");
                write(world.clone(), name, Arc::clone(&busy), Arc::clone(&sealed))
            })
            .map(futures::future::Either::Left)
            .collect();
        let (sealing, flag) = (world.clone(), Arc::clone(&sealed));
        clients.push(futures::future::Either::Right(async move {
            // Not before everybody is at it.
            while busy.load(Ordering::SeqCst) < CLIENTS {
                step_aside().await;
            }
            let cursor = sealing.store.seal(MINE).await?;
            flag.store(true, Ordering::SeqCst);
            Ok(vec![cursor.revision])
        }));
        let told = world.together(clients).await?;
        let Some((cut, acknowledged)) = told.split_last() else {
            return Ok(());
        };
        let cut = cut.first().copied().unwrap_or_default();
        let last = acknowledged.iter().flatten().max().copied();
        holds(last <= Some(cut), || {
            format!("nothing acknowledged after the seal at {cut}, but {last:?}")
        })?;
        let (content, _) = world.list(Range::all()).await?;
        let newest = |entries: &[Entry]| entries.iter().map(|e| e.meta.mod_revision).max();
        holds(newest(&content) <= Some(cut), || {
            format!(
                "nothing newer than the seal at {cut}: {:?}",
                newest(&content)
            )
        })?;
        let mut watch = world.watch(Range::all(), start).await?;
        let told: Vec<Revision> = watch.until(cut).await?.iter().map(|(at, _)| *at).collect();
        holds(
            acknowledged.iter().flatten().all(|at| told.contains(at)),
            || format!("all of {acknowledged:?} told before the seal, got {told:?}"),
        )?;
        same("the content", &world.list(Range::all()).await?.0, &content)?;
        world.store.unseal().await?;
    }
    Ok(())
}

/// Writes until it is refused, and returns what was acknowledged.
async fn write(
    world: World,
    name: String,
    busy: Arc<AtomicUsize>,
    sealed: Arc<AtomicBool>,
) -> Checked<Vec<Revision>> {
    const MOST: usize = 20_000;
    let mut acknowledged = Vec::new();
    for n in 1..MOST {
        let was = sealed.load(Ordering::SeqCst);
        let txn = Txn::new().put(key(format!("{name}/{}", n % 4)), n.to_string());
        let answer = world.store.commit(txn).await;
        if n == 1 {
            busy.fetch_add(1, Ordering::SeqCst);
        }
        step_aside().await;
        match answer {
            Ok(Commit::Applied { at, .. }) => {
                holds(!was, || format!("a refusal after the seal, got {at}"))?;
                acknowledged.push(at.revision);
            },
            Ok(Commit::CompareFailed { .. }) => {},
            answer => {
                refused("a write", answer, &Kind::ReadOnly)?;
                return Ok(acknowledged);
            },
        }
    }
    Err(Failure::new(format!("{MOST} writes, and no seal")))
}
