//! Transactions with ids, and what became of them.

use super::failure::Failure;
use super::world::{Checked, World, key, refused, same};
use crate::ids::TxnId;
use crate::store::{Commit, Expect, Kind, Outcome, Range, Revision, Txn};

const ID: TxnId = TxnId(0x5eed);

fn txn() -> Txn {
    Txn::new().put(key("k"), "v").with_id(ID)
}

async fn replayed(world: &World, txn: Txn, first: Revision) -> Checked {
    match world.store.commit(txn).await? {
        Commit::Applied { at, replayed } => same(
            "the repeated transaction (revision, replayed)",
            &(at.revision, replayed),
            &(first, true),
        ),
        Commit::CompareFailed { failed, .. } => Err(Failure::new(format!(
            "expected the first outcome, got a false compare: {failed:?}"
        ))),
    }
}

pub(super) async fn a_repeated_id_returns_the_first_outcome(world: World) -> Checked {
    let before = world.head().await?;
    let first = world.apply(txn()).await?;
    let second = world.put("k", "newer").await?;
    replayed(&world, txn(), first).await?;
    replayed(&world, txn(), first).await?;
    let mut watch = world.watch(Range::all(), before).await?;
    let fence = world.put("z-fence", "").await?;
    let history = watch.until(fence).await?;
    let revisions: Vec<_> = history.iter().map(|(at, _)| *at).collect();
    same(
        "the revisions with events",
        &revisions,
        &vec![first, second, fence],
    )
}

pub(super) async fn a_repeated_create_is_not_told_of_itself(world: World) -> Checked {
    let create = txn().expect(key("k"), Expect::Absent);
    let first = world.apply(create.clone()).await?;
    replayed(&world, create, first).await
}

pub(super) async fn an_id_with_another_body_is_refused(world: World) -> Checked {
    world.apply(txn()).await?;
    let before = world.head().await?;
    let others = [
        Txn::new().put(key("k"), "other").with_id(ID),
        Txn::new().delete(key("k")).with_id(ID),
        txn().expect(key("k"), Expect::Absent),
    ];
    for other in others {
        let result = world.store.commit(other).await;
        refused("another body", result, &Kind::TxnIdReused)?;
    }
    world.head_is(before).await
}

pub(super) async fn a_void_id_never_applies(world: World) -> Checked {
    same(
        "the outcome of an unknown id",
        &world.store.outcome(ID).await?,
        &Outcome::Void,
    )?;
    refused(
        "the late original",
        world.store.commit(txn()).await,
        &Kind::TxnVoid,
    )?;
    same("the key", &world.get("k").await?, &None)?;
    same(
        "the outcome afterwards",
        &world.store.outcome(ID).await?,
        &Outcome::Void,
    )
}

pub(super) async fn an_applied_id_is_found_applied(world: World) -> Checked {
    let first = world.apply(txn()).await?;
    world.put("k", "newer").await?;
    let outcome = world.store.outcome(ID).await?;
    same("the outcome", &outcome, &Outcome::Applied(first))?;
    replayed(&world, txn(), first).await
}

pub(super) async fn a_failed_compare_can_be_ruled_out(world: World) -> Checked {
    world.put("k", "1").await?;
    let create = txn().expect(key("k"), Expect::Absent);
    world.compare_fails(create.clone()).await?;
    same(
        "the outcome",
        &world.store.outcome(ID).await?,
        &Outcome::Void,
    )?;
    world.delete("k").await?;
    refused(
        "the late original",
        world.store.commit(create).await,
        &Kind::TxnVoid,
    )
}

pub(super) async fn outcomes_outlive_compaction(world: World) -> Checked {
    let first = world.apply(txn()).await?;
    let void = TxnId(ID.0 + 1);
    same(
        "the outcome of an unknown id",
        &world.store.outcome(void).await?,
        &Outcome::Void,
    )?;
    let head = world.put("k", "newer").await?;
    world.store.compact(head).await?;
    replayed(&world, txn(), first).await?;
    same(
        "the outcome",
        &world.store.outcome(ID).await?,
        &Outcome::Applied(first),
    )?;
    let late = world
        .store
        .commit(Txn::new().put(key("k"), "late").with_id(void))
        .await;
    refused("the void transaction", late, &Kind::TxnVoid)
}
