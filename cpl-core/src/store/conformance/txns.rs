//! Revisions and transactions.

use bytes::Bytes;

use super::failure::Failure;
use super::world::{Checked, World, holds, key, number, refused, same, under};
use crate::limits;
use crate::store::{
    Class, Commit, Expect, Key, KeyMeta, Kind, ListRequest, Op, Range, Revision, Txn,
};

pub(super) async fn racing_creates_have_one_winner(world: World) -> Checked {
    let clients = (0..8).map(|n| {
        let world = world.clone();
        async move {
            let txn = Txn::new()
                .expect(key("k"), Expect::Absent)
                .put(key("k"), n.to_string());
            Ok(world.store.commit(txn).await?)
        }
    });
    let mut winners = Vec::new();
    let mut losers = Vec::new();
    for commit in world.together(clients).await? {
        match commit {
            Commit::Applied { at, .. } => winners.push(at.revision),
            Commit::CompareFailed { failed, .. } => losers.push(failed),
        }
    }
    let meta = world.meta("k").await?;
    same("the winners", &winners, &vec![meta.mod_revision])?;
    same(
        "what the losers were told",
        &losers,
        &vec![vec![(key("k"), Some(meta))]; 7],
    )?;
    let head = world.head().await?.revision;
    world.not_moved("the head", head, meta.mod_revision)
}

pub(super) async fn a_version_restarts_after_a_delete(world: World) -> Checked {
    for value in ["1", "2", "3"] {
        world.put("k", value).await?;
    }
    same("the version", &world.meta("k").await?.version, &3)?;
    world.delete("k").await?;
    same("the deleted key", &world.get("k").await?, &None)?;
    let revision = world.put("k", "4").await?;
    let expected = KeyMeta {
        create_revision: revision,
        mod_revision: revision,
        version: 1,
    };
    same("the recreated key", &world.meta("k").await?, &expected)
}

pub(super) async fn what_changes_nothing_makes_no_revision(world: World) -> Checked {
    world.put("k", "1").await?;
    let before = world.head().await?;
    let revision = world.delete("absent").await?;
    world.not_moved(
        "the revision of deleting nothing",
        revision,
        before.revision,
    )?;
    let revision = world.apply(Txn::new()).await?;
    world.not_moved(
        "the revision of an empty transaction",
        revision,
        before.revision,
    )?;
    let txn = Txn::new()
        .expect(key("k"), Expect::Absent)
        .put(key("k"), "2");
    world.compare_fails(txn).await?;
    world.head_is(before).await?;
    let mut watch = world.watch(Range::all(), before).await?;
    let fence = world.put("fence", "").await?;
    let revisions: Vec<_> = watch
        .until(fence)
        .await?
        .iter()
        .map(|(at, _)| *at)
        .collect();
    same("the revisions with events", &revisions, &vec![fence])
}

pub(super) async fn an_equal_value_is_a_change(world: World) -> Checked {
    let first = world.put("k", "v").await?;
    let after = world.head().await?;
    let second = world.put("k", "v").await?;
    holds(second > first, || {
        format!("expected a revision above {first}, got {second}")
    })?;
    same("the version", &world.meta("k").await?.version, &2)?;
    let mut watch = world.watch(Range::all(), after).await?;
    let fence = world.put("k", "v").await?;
    same("the events", &watch.until(fence).await?.len(), &2)
}

pub(super) async fn all_writes_of_a_transaction_share_a_revision(world: World) -> Checked {
    let before = world.head().await?;
    let names: Vec<String> = (0..world.store.limits().txn_ops)
        .map(|n| format!("k{n:03}"))
        .collect();
    let txn = names
        .iter()
        .fold(Txn::new(), |txn, name| txn.put(key(name), "v"));
    let revision = world.apply(txn).await?;
    for name in &names {
        same(name, &world.meta(name).await?.mod_revision, &revision)?;
    }
    let mut watch = world.watch(Range::all(), before).await?;
    let fence = world.put("z-fence", "").await?;
    let history = watch.until(fence).await?;
    let sizes: Vec<_> = history
        .iter()
        .map(|(at, events)| (*at, events.len()))
        .collect();
    same(
        "events by revision",
        &sizes,
        &vec![(revision, names.len()), (fence, 1)],
    )
}

pub(super) async fn a_key_twice_is_refused(world: World) -> Checked {
    let before = world.head().await?;
    let twice = [
        ("two puts", Txn::new().put(key("k"), "1").put(key("k"), "2")),
        (
            "a put and a delete",
            Txn::new().put(key("k"), "1").delete(key("k")),
        ),
        (
            "two compares",
            Txn::new()
                .expect(key("k"), Expect::Absent)
                .expect(key("k"), Expect::Absent)
                .put(key("k"), "1"),
        ),
    ];
    for (what, txn) in twice {
        refused(what, world.store.commit(txn).await, &Kind::Invalid)?;
    }
    world.head_is(before).await
}

pub(super) async fn limits_are_kept_and_named(world: World) -> Checked {
    let most = world.store.limits();
    let room = most.value_bytes.min(most.txn_bytes - 1);
    let put = |bytes: usize| Txn::new().put(key("k"), Bytes::from(vec![b'v'; bytes]));
    world.apply(put(room)).await?;
    let before = world.head().await?;
    let many =
        |count: usize| (0..count).fold(Txn::new(), |txn, n| txn.put(key(format!("k{n}")), "v"));
    let parts = 1 + most.txn_bytes / (most.value_bytes / 2);
    let large = (0..parts).fold(Txn::new(), |mut txn, n| {
        let value = Bytes::from(vec![b'v'; most.value_bytes / 2]);
        txn.ops.push(Op::Put(key(format!("k{n}")), value));
        txn
    });
    let above = [
        ("value bytes", most.value_bytes, put(most.value_bytes + 1)),
        ("transaction writes", most.txn_ops, many(most.txn_ops + 1)),
        ("transaction bytes", most.txn_bytes, large),
    ];
    for (expected, limit, txn) in above {
        let Err(error) = world.store.commit(txn).await else {
            return Err(Failure::new(format!(
                "expected {expected} above {limit} to be refused"
            )));
        };
        same("its class", &error.class(), &Class::Rejected)?;
        let named = matches!(error.kind(), Kind::LimitExceeded { what, limit: told, got }
            if *what == expected && *told == limit && *got > limit);
        holds(named, || {
            format!(
                "expected {expected} above {limit} to be named, got {:?}",
                error.kind()
            )
        })?;
    }
    world.head_is(before).await
}

pub(super) async fn the_longest_key_is_a_key(world: World) -> Checked {
    let longest = Key::new(vec![0xff; limits::KEY_BYTES])?;
    world.apply(Txn::new().put(longest.clone(), "v")).await?;
    let (entries, _) = world.list(Range::one(&longest)).await?;
    same(
        "the keys found",
        &entries.iter().map(|e| e.key.clone()).collect(),
        &vec![longest],
    )
}

pub(super) async fn racing_increments_are_all_counted(world: World) -> Checked {
    let clients = (0..8).map(|_| {
        let world = world.clone();
        async move {
            let mut revisions = Vec::new();
            for _ in 0..25 {
                revisions.push(world.increment("k").await?);
            }
            let ordered = revisions.windows(2).all(|pair| pair[0] < pair[1]);
            holds(ordered, || {
                format!("revisions of one client go back: {revisions:?}")
            })?;
            Ok(revisions)
        }
    });
    let all = world.together(clients).await?;
    let mut all: Vec<Revision> = all.into_iter().flatten().collect();
    all.sort_unstable();
    all.dedup();
    same("different revisions", &all.len(), &200)?;
    let entry = world.get("k").await?;
    same("the count", &entry.as_ref().map(number), &Some(200))
}

pub(super) async fn transfers_keep_the_sum(world: World) -> Checked {
    const ACCOUNTS: i64 = 5;
    let name = |n: i64| format!("account/{n}");
    for n in 0..ACCOUNTS {
        world.put(&name(n), "100").await?;
    }
    let clients = (0..=ACCOUNTS).map(|client| {
        let world = world.clone();
        async move {
            if client == ACCOUNTS {
                return audits(&world, 100 * ACCOUNTS).await;
            }
            for round in 0..10 {
                let (from, to) = (name(client), name((client + 1 + round % 3) % ACCOUNTS));
                transfer(&world, &from, &to).await?;
            }
            Ok(())
        }
    });
    world.together(clients).await?;
    audits(&world, 100 * ACCOUNTS).await
}

/// Lists, page by page, that must all show the same sum.
async fn audits(world: &World, sum: i64) -> Checked {
    for _ in 0..20 {
        let pages = ListRequest {
            limit: 2,
            ..ListRequest::first(under("account/"))
        };
        let (entries, at) = world.rest(pages).await?;
        same(
            &format!("the sum at {at}"),
            &entries.iter().map(number).sum(),
            &sum,
        )?;
    }
    Ok(())
}

async fn transfer(world: &World, from: &str, to: &str) -> Checked {
    let absent = || Failure::new("an account is gone");
    loop {
        let source = world.get(from).await?.ok_or_else(absent)?;
        let target = world.get(to).await?.ok_or_else(absent)?;
        let txn = Txn::new()
            .expect(key(from), Expect::ModRevision(source.meta.mod_revision))
            .expect(key(to), Expect::ModRevision(target.meta.mod_revision))
            .put(key(from), (number(&source) - 1).to_string())
            .put(key(to), (number(&target) + 1).to_string());
        if let Commit::Applied { .. } = world.store.commit(txn).await? {
            return Ok(());
        }
    }
}

pub(super) async fn an_empty_value_is_not_absence(world: World) -> Checked {
    let revision = world.put("k", "").await?;
    let entry = world.get("k").await?;
    same("the value", &entry.map(|e| e.value), &Some(Bytes::new()))?;
    let create = Txn::new()
        .expect(key("k"), Expect::Absent)
        .put(key("k"), "1");
    world.compare_fails(create).await?;
    let replace = Txn::new()
        .expect(key("k"), Expect::ModRevision(revision))
        .put(key("k"), "1");
    world.apply(replace).await.map(drop)
}

pub(super) async fn a_read_sees_what_was_acknowledged(world: World) -> Checked {
    for n in 0..20 {
        let revision = world.put("k", &n.to_string()).await?;
        let read = world.store.get(&key("k")).await?;
        same("the value", &read.value.as_ref().map(number), &Some(n))?;
        let head = world.head().await?.revision;
        let (_, listed) = world.list(Range::all()).await?;
        let seen = [read.at.revision, head, listed.revision];
        holds(seen.iter().all(|at| *at >= revision), || {
            format!("expected reads at {revision} or later, got {seen:?}")
        })?;
    }
    Ok(())
}

pub(super) async fn a_false_compare_is_told_with_what_is_there(world: World) -> Checked {
    world.put("a", "1").await?;
    let b = world.put("b", "1").await?;
    world.put("c", "1").await?;
    let (before, head) = world.list(Range::all()).await?;
    let txn = Txn::new()
        .expect(key("a"), Expect::Absent)
        .expect(key("b"), Expect::ModRevision(b))
        .expect(key("c"), Expect::ModRevision(b))
        .expect(key("d"), Expect::ModRevision(b))
        .put(key("a"), "2")
        .delete(key("c"));
    let mut failed = world.compare_fails(txn).await?;
    failed.sort_by(|(one, _), (other, _)| one.cmp(other));
    let expected = vec![
        (key("a"), Some(world.meta("a").await?)),
        (key("c"), Some(world.meta("c").await?)),
        (key("d"), None),
    ];
    same("the false compares", &failed, &expected)?;
    let (after, at) = world.list(Range::all()).await?;
    same("the store", &after, &before)?;
    world.not_moved("the revision of the store", at.revision, head.revision)
}

pub(super) async fn a_stale_revision_stops_a_delete(world: World) -> Checked {
    let stale = world.put("k", "1").await?;
    let current = world.put("k", "2").await?;
    let delete = |revision| {
        Txn::new()
            .expect(key("k"), Expect::ModRevision(revision))
            .delete(key("k"))
    };
    world.compare_fails(delete(stale)).await?;
    world.apply(delete(current)).await?;
    same("the key", &world.get("k").await?, &None)?;
    world.compare_fails(delete(current)).await.map(drop)
}

pub(super) async fn a_compare_alone_is_a_question(world: World) -> Checked {
    let revision = world.put("k", "1").await?;
    let before = world.head().await?;
    let ask = |expect| Txn::new().expect(key("k"), expect);
    let answered = world.apply(ask(Expect::ModRevision(revision))).await?;
    world.not_moved("the revision of the answer", answered, before.revision)?;
    world.compare_fails(ask(Expect::Absent)).await?;
    world.head_is(before).await
}
