//! Compaction.

use super::failure::Failure;
use super::world::{Checked, World, holds, key, refused, same, under};
use crate::ids::TxnId;
use crate::store::{Expect, Kind, ListRequest, Outcome, Range, Revision, Txn};

pub(super) async fn compaction_keeps_what_is_live(world: World) -> Checked {
    world.put("never-touched", "1").await?;
    for n in 0..20 {
        world.put(&format!("k{}", n % 4), &n.to_string()).await?;
    }
    world.delete("k3").await?;
    let (before, head) = world.list(Range::all()).await?;
    same("live keys", &before.len(), &4)?;
    for _ in 0..2 {
        world.store.compact(head.revision).await?;
        same(
            "the store",
            &world.list(Range::all()).await?,
            &(before.clone(), head),
        )?;
    }
    same("the deleted key", &world.get("k3").await?, &None)?;
    let revision = world.put("k3", "again").await?;
    let meta = world.meta("k3").await?;
    same(
        "the recreated key",
        &(meta.create_revision, meta.version),
        &(revision, 1),
    )
}

pub(super) async fn compaction_has_bounds(world: World) -> Checked {
    let first = world.put("k", "1").await?;
    let last = world.put("k", "2").await?;
    let future = world.store.compact(World::future(last)).await;
    world.refused_as_future("a future compaction", future, last)?;
    world.store.compact(last).await?;
    world.store.compact(first).await?;
    let mut cursor = world.head().await?;
    cursor.revision = first;
    let result = world.try_watch(Range::all(), cursor).await;
    refused(
        "a watch below",
        result,
        &Kind::Compacted { compacted: last },
    )
}

pub(super) async fn a_watch_starts_at_the_compacted_revision(world: World) -> Checked {
    let mut cursor = world.head().await?;
    let mut written = Vec::new();
    for n in 0..6 {
        written.push(world.put("k", &n.to_string()).await?);
    }
    let compacted = written[2];
    world.store.compact(compacted).await?;
    cursor.revision = written[1];
    let below = world.try_watch(Range::all(), cursor).await;
    refused("a watch below", below, &Kind::Compacted { compacted })?;
    cursor.revision = compacted;
    let mut watch = world.watch(Range::all(), cursor).await?;
    let history = watch.until(written[5]).await?;
    let revisions: Vec<_> = history.iter().map(|(at, _)| *at).collect();
    same(
        "the revisions after it",
        &revisions.as_slice(),
        &&written[3..],
    )
}

pub(super) async fn compaction_under_a_watch_skips_nothing(world: World) -> Checked {
    let start = world.head().await?;
    let mut watch = world.watch(Range::all(), start).await?;
    let mut written = Vec::new();
    for n in 0..50 {
        written.push(world.put("k", &n.to_string()).await?);
    }
    let head = written.last().copied().unwrap_or_default();
    world.store.compact(head).await?;
    let fence = world.put("fence", "").await?;
    written.push(fence);
    let (history, compacted) = watch.until_compacted(fence).await?;
    let seen: Vec<Revision> = history.iter().map(|(at, _)| *at).collect();
    holds(written.starts_with(&seen), || {
        format!("expected a beginning of {written:?}, got {seen:?}")
    })?;
    if !compacted && seen != written {
        let message = format!("the watch goes on, but only {seen:?} of {written:?} came");
        return Err(Failure::new(message));
    }
    Ok(())
}

pub(super) async fn a_list_goes_on_at_the_compacted_revision(world: World) -> Checked {
    for n in 0..4 {
        world.put(&format!("k{n}"), "old").await?;
    }
    let pages = ListRequest {
        limit: 1,
        ..ListRequest::first(under("k"))
    };
    let first = world.store.list(pages.clone()).await?;
    world.put("k3", "new").await?;
    world.delete("k2").await?;
    world.store.compact(first.at.revision).await?;
    let rest = ListRequest {
        page: first.next,
        ..pages
    };
    let (entries, at) = world.rest(rest).await?;
    same("the revision", &at, &first.at)?;
    let values: Vec<_> = entries.iter().map(|entry| &entry.value[..]).collect();
    same("the old values", &values, &vec![b"old".as_slice(); 3])
}

pub(super) async fn a_compacted_store_answers_as_before(world: World) -> Checked {
    let first = world.put("k", "1").await?;
    let last = world
        .apply(Txn::new().put(key("k"), "2").put(key("k2"), "2"))
        .await?;
    world.store.compact(last).await?;
    let pages = ListRequest {
        limit: 1,
        ..ListRequest::first(under("k"))
    };
    same("the entries", &world.rest(pages).await?.0.len(), &2)?;
    let mut idle = world.watch(under("idle/"), world.head().await?).await?;
    for n in 0..10 {
        let id = TxnId(n);
        same(
            "an unknown id",
            &world.store.outcome(id).await?,
            &Outcome::Void,
        )?;
        let late = world
            .store
            .commit(Txn::new().put(key("k"), "late").with_id(id))
            .await;
        refused("a void transaction", late, &Kind::TxnVoid)?;
    }
    let stale = Txn::new()
        .expect(key("k"), Expect::ModRevision(first))
        .put(key("k"), "3");
    world.compare_fails(stale.clone()).await?;
    world.compare_fails(stale.with_id(TxnId(100))).await?;
    let twice = Txn::new().put(key("k"), "3").delete(key("k"));
    refused(
        "a key twice",
        world.store.commit(twice).await,
        &Kind::Invalid,
    )?;
    let future = world.store.compact(World::future(last)).await;
    world.refused_as_future("a future compaction", future, last)?;
    let fence = world.put("k", "4").await?;
    same(
        "the events of an idle range",
        &idle.until(fence).await?,
        &Vec::new(),
    )
}
