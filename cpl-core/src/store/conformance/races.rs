//! Clients that work side by side, each a task of its own.

use std::sync::Arc;

use super::failure::Failure;
use super::history::{Answer, Recorder, check};
use super::world::{Checked, History, World, holds, key, refused, same, under};
use crate::ids::TxnId;
use crate::store::faulty::Draws;
use crate::store::{
    Commit, Cursor, Entry, Event, Expect, Kind, ListRequest, Outcome, PageToken, Range, Revision,
    Txn,
};

/// The keys that the clients of a history fight over.
const NAMES: [&str; 5] = ["a", "a/1", "a/2", "b", "c"];

pub(super) async fn answers_fit_one_order_of_commits(world: World) -> Checked {
    const CLIENTS: u64 = 8;
    const CALLS: usize = 40;
    let start = world.head().await?;
    let mut watch = world.watch(Range::all(), start).await?;
    let recorder = Arc::new(Recorder::default());
    let clients = (0..CLIENTS).map(|client| {
        let (world, recorder) = (world.clone(), Arc::clone(&recorder));
        async move {
            let mut draws = Draws::new(client);
            for _ in 0..CALLS {
                call(&world, &recorder, &mut draws, client).await?;
            }
            Ok(())
        }
    });
    world.together(clients).await?;
    let fence = world.head().await?.revision;
    let watched = watch.until(fence).await?;
    check(&recorder.calls(), &watched)
}

/// One call of a random kind, recorded.
async fn call(world: &World, recorder: &Recorder, draws: &mut Draws, client: u64) -> Checked {
    let name = NAMES[draws.below(NAMES.len())];
    match draws.below(10) {
        0..3 => {
            let began = recorder.tick();
            let read = world.store.get(&key(name)).await?;
            let answer = Answer::Got(key(name), read.value);
            recorder.ended(began, read.at.revision, answer);
            Ok(())
        },
        3..5 => {
            let range = [under("a"), under("a/"), Range::all()][draws.below(3)].clone();
            let began = recorder.tick();
            let (entries, at) = world
                .rest(ListRequest {
                    limit: 2,
                    ..ListRequest::first(range.clone())
                })
                .await?;
            recorder.ended(began, at.revision, Answer::Listed(range, entries));
            Ok(())
        },
        kind => {
            let txn = transaction(world, draws, kind, name, client).await?;
            let began = recorder.tick();
            let (at, answer) = match world.store.commit(txn.clone()).await? {
                Commit::Applied { at, .. } => (at, Answer::Applied(txn)),
                Commit::CompareFailed { failed, at } => {
                    let compares = txn.compares;
                    (at, Answer::CompareFailed { compares, failed })
                },
            };
            recorder.ended(began, at.revision, answer);
            Ok(())
        },
    }
}

/// A transaction that puts at least one key, so that it has a revision of its own.
async fn transaction(
    world: &World,
    draws: &mut Draws,
    kind: usize,
    name: &str,
    client: u64,
) -> Checked<Txn> {
    let own = format!("client/{client}");
    let value = draws.next().to_string();
    let found = world
        .get(name)
        .await?
        .map(|entry: Entry| entry.meta.mod_revision);
    let expect = found.map_or(Expect::Absent, Expect::ModRevision);
    let other = NAMES[draws.below(NAMES.len())];
    Ok(match kind {
        5 => Txn::new().put(key(name), value),
        6 => Txn::new().delete(key(name)).put(key(own), value),
        7 => Txn::new()
            .expect(key(name), expect)
            .delete(key(name))
            .put(key(own), value),
        // A value that depends on another key: what write skew would break.
        8 if other != name => Txn::new().expect(key(name), expect).put(key(other), value),
        _ => Txn::new().expect(key(name), expect).put(key(name), value),
    })
}

pub(super) async fn of_two_that_exclude_each_other_one_applies(world: World) -> Checked {
    for round in 0..25 {
        let (one, other) = (format!("{round}/one"), format!("{round}/other"));
        let clients = [(one.clone(), other.clone()), (other, one)].map(|(free, taken)| {
            let world = world.clone();
            async move {
                let txn = Txn::new()
                    .expect(key(free), Expect::Absent)
                    .put(key(taken), "v");
                Ok(matches!(
                    world.store.commit(txn).await?,
                    Commit::Applied { .. }
                ))
            }
        });
        let applied = world.together(clients).await?;
        same(
            "how many applied",
            &applied.iter().filter(|a| **a).count(),
            &1,
        )?;
    }
    Ok(())
}

pub(super) async fn a_repeated_id_that_races_itself_applies_once(world: World) -> Checked {
    for round in 0..10 {
        let start = world.head().await?;
        let txn = Txn::new()
            .put(key("k"), round.to_string())
            .with_id(TxnId(round));
        let clients = (0..8).map(|_| {
            let (world, txn) = (world.clone(), txn.clone());
            async move { world.apply(txn).await }
        });
        let revisions = world.together(clients).await?;
        let mut watch = world.watch(Range::all(), start).await?;
        let fence = world.put("z-fence", "").await?;
        let history = watch.until(fence).await?;
        let seen: Vec<Revision> = history.iter().map(|(at, _)| *at).collect();
        same(
            "the revisions with events",
            &seen,
            &vec![revisions[0], fence],
        )?;
        same("what each was told", &revisions, &vec![revisions[0]; 8])?;
    }
    Ok(())
}

pub(super) async fn an_outcome_that_races_its_transaction_agrees_with_it(world: World) -> Checked {
    for round in 0..20 {
        let id = TxnId(round);
        let committing = {
            let world = world.clone();
            let txn = Txn::new().put(key(format!("k{round}")), "v").with_id(id);
            async move { Ok((Some(world.store.commit(txn).await), None)) }
        };
        let ruling = {
            let world = world.clone();
            async move { Ok((None, Some(world.store.outcome(id).await))) }
        };
        // Either one is asked first.
        let clients: [futures::future::BoxFuture<'static, _>; 2] = if round % 2 == 0 {
            [Box::pin(committing), Box::pin(ruling)]
        } else {
            [Box::pin(ruling), Box::pin(committing)]
        };
        let (mut commit, mut outcome) = (None, None);
        for (one, other) in world.together(clients).await? {
            commit = commit.or(one);
            outcome = outcome.or(other);
        }
        let (Some(commit), Some(outcome)) = (commit, outcome) else {
            return Err(Failure::new("a client did not answer"));
        };
        let there = world
            .get(&format!("k{round}"))
            .await?
            .map(|e| e.meta.mod_revision);
        match outcome? {
            Outcome::Void => {
                refused("the transaction", commit, &Kind::TxnVoid)?;
                same("the key of a void transaction", &there, &None)?;
            },
            Outcome::Applied(revision) => {
                let told = match commit? {
                    Commit::Applied { at, .. } => Some(at.revision),
                    Commit::CompareFailed { .. } => None,
                };
                same(
                    "(told, there)",
                    &(told, there),
                    &(Some(revision), Some(revision)),
                )?;
            },
        }
    }
    Ok(())
}

pub(super) async fn watchers_beside_writers_agree(world: World) -> Checked {
    let start = world.head().await?;
    let writers = (0..4).map(Side::Writer);
    let watchers = ["", "a", "a/", "a/1", "b", "c", "", "a"]
        .into_iter()
        .map(Side::Watcher);
    let clients = writers.chain(watchers).map(|side| {
        let world = world.clone();
        async move { side.run(&world).await }
    });
    let seen = world.together(clients).await?;
    let fence = world.put("z-fence", "").await?;
    let whole = world.watch(Range::all(), start).await?.until(fence).await?;
    for (range, after, history) in seen.into_iter().flatten() {
        let Some((last, _)) = history.last() else {
            continue;
        };
        let expected: History = whole
            .iter()
            .filter(|(at, _)| *at > after && at <= last)
            .map(|(at, events)| {
                let inside = events.iter().filter(|event| range.contains(event.key()));
                (*at, inside.cloned().collect::<Vec<_>>())
            })
            .filter(|(_, events)| !events.is_empty())
            .collect();
        same(
            &format!("the events of {range:?} after {after}"),
            &history,
            &expected,
        )?;
    }
    Ok(())
}

/// A client of [`watchers_beside_writers_agree`].
enum Side {
    Writer(u64),
    Watcher(&'static str),
}

impl Side {
    /// What a watcher saw: of which range, after which revision.
    async fn run(self, world: &World) -> Checked<Option<(Range, Revision, History)>> {
        match self {
            Self::Writer(writer) => {
                let mut draws = Draws::new(writer);
                for _ in 0..40 {
                    let (name, other) =
                        (NAMES[draws.below(NAMES.len())], format!("client/{writer}"));
                    let txn = Txn::new().put(key(name), "v").delete(key(&other));
                    world.apply(txn).await?;
                    world.put(&other, "").await?;
                }
                Ok(None)
            },
            Self::Watcher(prefix) => {
                // Somewhere in the middle, and to a place that was the head some time later.
                let after = world.head().await?;
                for _ in 0..10 {
                    world.get("a").await?;
                }
                let range = under(prefix);
                let mut watch = world.watch(range.clone(), after).await?;
                let fence = world.head().await?.revision;
                let mut history = watch.until(fence).await?;
                // An item may lie beyond the fence; what is compared ends with the last one.
                history.retain(|(at, _)| *at <= fence);
                Ok(Some((range, after.revision, history)))
            },
        }
    }
}

pub(super) async fn what_a_watch_told_can_be_read(world: World) -> Checked {
    const WRITES: usize = 60;
    let start = world.head().await?;
    let writer = {
        let world = world.clone();
        async move {
            for n in 0..WRITES {
                world.put("k", &n.to_string()).await?;
            }
            Ok(())
        }
    };
    let watcher = {
        let world = world.clone();
        async move {
            let mut watch = world.watch(under("k"), start).await?;
            let mut events = 0;
            while events < WRITES {
                let history = watch.more().await?;
                events += history.len();
                let Some((told, _)) = history.last() else {
                    continue;
                };
                let read = world.store.get(&key("k")).await?;
                let there = read.value.map(|entry| entry.meta.mod_revision);
                holds(read.at.revision >= *told && there >= Some(*told), || {
                    format!(
                        "a watch told {told}, a read after it is of {} and finds {there:?}",
                        read.at.revision
                    )
                })?;
            }
            Ok(())
        }
    };
    let clients: [futures::future::BoxFuture<'static, _>; 2] =
        [Box::pin(writer), Box::pin(watcher)];
    world.together(clients).await.map(drop)
}

pub(super) async fn a_watch_after_a_list_misses_nothing(world: World) -> Checked {
    let clients = (0..6_usize).map(|client| {
        let world = world.clone();
        async move {
            if client % 2 == 0 {
                for n in 0..30 {
                    world
                        .put(&format!("k{}", (n + client) % 7), &n.to_string())
                        .await?;
                }
                return Ok(None);
            }
            let (entries, at) = world.list(under("k")).await?;
            let watch = world.watch(under("k"), at).await?;
            Ok(Some((entries, watch)))
        }
    });
    let copies = world.together(clients).await?;
    let (entries, at) = world.list(under("k")).await?;
    for (mut copy, mut watch) in copies.into_iter().flatten() {
        follow(&mut copy, watch.until(at.revision).await?);
        same("the copy", &copy, &entries)?;
    }
    Ok(())
}

/// Brings a copy of a range up to date.
fn follow(copy: &mut Vec<Entry>, history: History) {
    for event in history.into_iter().flat_map(|(_, events)| events) {
        copy.retain(|entry| entry.key != *event.key());
        if let Event::Put { entry, .. } = event {
            copy.push(entry);
        }
    }
    copy.sort_by(|one, other| one.key.cmp(&other.key));
}

pub(super) async fn compaction_beside_writers_and_watchers_loses_nothing(world: World) -> Checked {
    let clients = (0..6_usize).map(|client| {
        let world = world.clone();
        async move {
            match client {
                0 => compactor(&world).await.map(|()| None),
                1..4 => {
                    for n in 0..40 {
                        world
                            .put(&format!("k{}", (n + client) % 5), &n.to_string())
                            .await?;
                    }
                    Ok(None)
                },
                _ => world.list(under("k")).await.map(Some),
            }
        }
    });
    let copies = world.together(clients).await?;
    let (entries, head) = world.list(under("k")).await?;
    for (mut copy, at) in copies.into_iter().flatten() {
        caught_up(&world, &mut copy, at, head).await?;
        same("the copy", &copy, &entries)?;
    }
    Ok(())
}

async fn compactor(world: &World) -> Checked {
    for _ in 0..20 {
        let head = world.head().await?;
        world
            .store
            .compact(Revision(head.revision.0.saturating_sub(3)))
            .await?;
    }
    Ok(())
}

/// Follows from a list to the head, and lists anew whenever compaction was faster.
async fn caught_up(world: &World, copy: &mut Vec<Entry>, mut at: Cursor, head: Cursor) -> Checked {
    while at.revision < head.revision {
        let started = world.watch_unless_compacted(under("k"), at).await?;
        let Some(mut watch) = started else {
            (*copy, at) = world.list(under("k")).await?;
            continue;
        };
        let (history, compacted) = watch.until_compacted(head.revision).await?;
        follow(copy, history);
        if !compacted {
            return Ok(());
        }
        (*copy, at) = world.list(under("k")).await?;
    }
    Ok(())
}

pub(super) async fn a_dropped_commit_happened_once_or_not_at_all(world: World) -> Checked {
    for round in 0..20 {
        let id = TxnId(round);
        let name = format!("k{round}");
        let mut dropped = world
            .store
            .commit(Txn::new().put(key(&name), "v").with_id(id));
        let answer = futures::poll!(dropped.as_mut());
        drop(dropped);
        drop(answer);
        let there = |entry: Option<Entry>| entry.map(|entry| entry.meta.mod_revision);
        match world.store.outcome(id).await? {
            Outcome::Applied(revision) => {
                same("the key", &there(world.get(&name).await?), &Some(revision))?;
            },
            Outcome::Void => {
                same("the key", &there(world.get(&name).await?), &None)?;
                world.put("other", "").await?;
                same("the key later", &there(world.get(&name).await?), &None)?;
            },
        }
    }
    Ok(())
}

pub(super) async fn a_dropped_commit_takes_nobody_along(world: World) -> Checked {
    for round in 0..10_usize {
        let mut commits: Vec<_> = (0..8)
            .map(|n| {
                world
                    .store
                    .commit(Txn::new().put(key(format!("{round}/{n}")), "v"))
            })
            .collect();
        let mut answers = Vec::new();
        for commit in &mut commits {
            answers.push(futures::poll!(commit.as_mut()));
        }
        // Every other client gives up.
        for (n, (commit, answer)) in commits.into_iter().zip(answers).enumerate() {
            let answer = match answer {
                std::task::Poll::Ready(answer) => answer,
                std::task::Poll::Pending if n % 2 == round % 2 => continue,
                std::task::Poll::Pending => commit.await,
            };
            let applied = matches!(answer?, Commit::Applied { .. });
            holds(applied, || format!("put {round}/{n} was not applied"))?;
            let there = world.get(&format!("{round}/{n}")).await?.is_some();
            holds(there, || {
                format!("{round}/{n} was acknowledged and is not there")
            })?;
        }
    }
    Ok(())
}

pub(super) async fn nothing_waits_for_an_unknown_outcome(world: World) -> Checked {
    for round in 0..20 {
        let before = world.head().await?;
        world.put("k", "1").await?;
        let id = TxnId(round);
        let name = format!("unknown/{round}");
        let mut dropped = world
            .store
            .commit(Txn::new().put(key(&name), "v").with_id(id));
        let answer = futures::poll!(dropped.as_mut());
        drop((dropped, answer));
        let mut watch = world.watch(under("k"), before).await?;
        let last = world.put("k", "2").await?;
        world.store.compact(last).await?;
        watch.until_compacted(last).await?;
        let mut ahead = world.head().await?;
        // Further than the transaction can have brought the store.
        ahead.revision = Revision(ahead.revision.0 + 1_000);
        let future = world.try_watch(Range::all(), ahead).await;
        holds(future.is_err(), || {
            "a watch of the future was started".to_owned()
        })?;
        let future = world.store.compact(ahead.revision).await;
        holds(future.is_err(), || "the future was compacted".to_owned())?;
        let mut page = ListRequest::first(under("k"));
        page.page = Some(PageToken {
            at: before,
            after: key("k"),
            range: Range::all(),
        });
        let result = world.store.list(page).await;
        refused("the token of another range", result, &Kind::Invalid)?;
        let there = matches!(world.store.outcome(id).await?, Outcome::Applied(_));
        same(
            "whether it was applied",
            &world.get(&name).await?.is_some(),
            &there,
        )?;
    }
    Ok(())
}
