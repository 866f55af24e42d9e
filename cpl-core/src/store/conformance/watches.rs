//! Watches.

use bytes::Bytes;

use super::world::{Checked, History, World, key, refused, same, under};
use crate::ids::StoreId;
use crate::store::{Entry, Event, Incarnation, KeyMeta, Kind, Range, Revision, Txn};

pub(super) async fn a_watch_resumes_after_any_item(world: World) -> Checked {
    let start = world.head().await?;
    for n in 0..12 {
        let name = if n % 3 == 0 { "outside" } else { "in/k" };
        world.put(name, &n.to_string()).await?;
    }
    let mut watch = world.watch(under("in/"), start).await?;
    let fence = world.put("in/z-fence", "").await?;
    let whole = watch.until(fence).await?;
    same("the number of items", &whole.len(), &9)?;
    let cursors = std::mem::take(&mut watch.cursors);
    for cursor in cursors {
        let expected: History = whole
            .iter()
            .filter(|(at, _)| *at > cursor.revision)
            .cloned()
            .collect();
        let mut watch = world.watch(under("in/"), cursor).await?;
        let rest = watch.until(fence).await?;
        same(&format!("the rest after {cursor}"), &rest, &expected)?;
        // The text form is what clients carry.
        same(
            "the cursor read back",
            &cursor.to_string().parse()?,
            &cursor,
        )?;
    }
    Ok(())
}

pub(super) async fn progress_reaches_a_range_that_nobody_writes_to(world: World) -> Checked {
    let start = world.head().await?;
    let mut early = world.watch(under("idle/"), start).await?;
    let mut last = Revision(0);
    for n in 0..5 {
        last = world.put("busy/k", &n.to_string()).await?;
    }
    same(
        "events for the early watcher",
        &early.until(last).await?,
        &History::new(),
    )?;
    let mut late = world.watch(under("idle/"), start).await?;
    same(
        "events for the late watcher",
        &late.until(last).await?,
        &History::new(),
    )
}

pub(super) async fn a_future_revision_is_refused(world: World) -> Checked {
    let revision = world.put("k", "v").await?;
    let mut cursor = world.head().await?;
    cursor.revision = World::future(revision);
    let result = world.try_watch(Range::all(), cursor).await;
    world.refused_as_future("a watch of the future", result, revision)
}

pub(super) async fn a_foreign_cursor_is_refused(world: World) -> Checked {
    world.put("k", "v").await?;
    let own = world.head().await?;
    let (mut store, mut incarnation) = (own, own);
    store.identity.store = StoreId(!own.identity.store.0);
    incarnation.identity.incarnation = Incarnation(own.identity.incarnation.0 + 1);
    for (what, cursor) in [
        ("another store", store),
        ("another incarnation", incarnation),
    ] {
        let result = world.try_watch(Range::all(), cursor).await;
        refused(what, result, &Kind::IdentityChanged)?;
    }
    Ok(())
}

pub(super) async fn a_slow_watcher_delays_nobody(world: World) -> Checked {
    const WRITES: usize = 300;
    let start = world.head().await?;
    let mut slow = world.watch(Range::all(), start).await?;
    let mut quick = world.watch(Range::all(), start).await?;
    let mut written = Vec::new();
    for n in 0..WRITES {
        written.push(world.put("k", &n.to_string()).await?);
    }
    let fence = written.last().copied().unwrap_or_default();
    let seen = quick.until(fence).await?;
    let revisions: Vec<Revision> = seen.iter().map(|(at, _)| *at).collect();
    same("what the quick watcher saw", &revisions, &written)?;
    // Not looked at until now; nothing was compacted, so nothing may be missing.
    same(
        "what the slow watcher saw",
        &slow.until(fence).await?,
        &seen,
    )
}

pub(super) async fn events_say_what_was_before(world: World) -> Checked {
    let start = world.head().await?;
    let created = world.put("k", "1").await?;
    let updated = world.put("k", "2").await?;
    let deleted = world.delete("k").await?;
    let again = world.put("k", "3").await?;
    let put = |value: &'static str, create_revision, mod_revision, version| Event::Put {
        entry: Entry {
            key: key("k"),
            value: Bytes::from_static(value.as_bytes()),
            meta: KeyMeta {
                create_revision,
                mod_revision,
                version,
            },
        },
    };
    let removed = Event::Delete { key: key("k") };
    let expected = vec![
        (created, vec![put("1", created, created, 1)]),
        (updated, vec![put("2", created, updated, 2)]),
        (deleted, vec![removed]),
        (again, vec![put("3", again, again, 1)]),
    ];
    let mut watch = world.watch(Range::all(), start).await?;
    same("the events", &watch.until(again).await?, &expected)
}

pub(super) async fn events_of_a_revision_are_ordered_by_key(world: World) -> Checked {
    world.put("b", "1").await?;
    let start = world.head().await?;
    let txn = Txn::new()
        .put(key("d"), "1")
        .delete(key("b"))
        .delete(key("absent"))
        .put(key("a"), "1")
        .put(key("c"), "1");
    let fence = world.apply(txn).await?;
    let mut watch = world.watch(Range::all(), start).await?;
    let history = watch.until(fence).await?;
    let keys = history
        .iter()
        .flat_map(|(_, events)| events)
        .map(|e| e.key().to_string());
    let expected = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
    same("the keys", &keys.collect(), &expected)
}

pub(super) async fn watchers_of_all_ranges_agree(world: World) -> Checked {
    let start = world.head().await?;
    let ranges: Vec<Range> = ["", "a", "b", "a/1", "c/", "a/2", "b/0"].map(under).into();
    let mut watches = Vec::new();
    for range in &ranges {
        watches.push(world.watch(range.clone(), start).await?);
    }
    for n in 0..60_usize {
        let name = |at: usize| format!("{}/{}", ["a", "b", "c"][at % 3], at % 4);
        let txn = match n % 5 {
            4 => Txn::new()
                .delete(key(name(n / 5)))
                .put(key(name(n / 5 + 1)), "both"),
            _ => Txn::new().put(key(name(n * 7)), n.to_string()),
        };
        world.apply(txn).await?;
    }
    let fence = world.put("fence", "").await?;
    let whole = world.watch(Range::all(), start).await?.until(fence).await?;
    for (range, watch) in ranges.iter().zip(&mut watches) {
        let expected: History = whole
            .iter()
            .map(|(at, events)| {
                let inside = events.iter().filter(|event| range.contains(event.key()));
                (*at, inside.cloned().collect::<Vec<_>>())
            })
            .filter(|(_, events)| !events.is_empty())
            .collect();
        same(
            &format!("the events of {range:?}"),
            &watch.until(fence).await?,
            &expected,
        )?;
    }
    Ok(())
}

pub(super) async fn the_largest_transaction_is_one_item(world: World) -> Checked {
    let most = world.store.limits();
    let start = world.head().await?;
    let name = |n: usize| format!("k{n:03}");
    let room = most.txn_bytes / most.txn_ops - name(0).len();
    let value = Bytes::from(vec![b'v'; room]);
    let txn = (0..most.txn_ops).fold(Txn::new(), |txn, n| txn.put(key(name(n)), value.clone()));
    let large = world.apply(txn).await?;
    let mut watch = world.watch(under("k"), start).await?;
    let fence = world.put("k000", "").await?;
    let history = watch.until(fence).await?;
    let sizes: Vec<_> = history
        .iter()
        .map(|(at, events)| (*at, events.len()))
        .collect();
    same(
        "events by revision",
        &sizes,
        &vec![(large, most.txn_ops), (fence, 1)],
    )
}

pub(super) async fn watches_that_were_dropped_cost_nothing(world: World) -> Checked {
    const COUNT: usize = 2_000;
    let start = world.head().await?;
    for n in 0..COUNT {
        let mut watch = world.watch(under("k"), start).await?;
        // Some are dropped unused, some in the middle of waiting, some in the middle of a backlog.
        if n % 100 == 0 {
            world.put("k", &n.to_string()).await?;
            watch.more().await?;
        }
    }
    let mut watch = world.watch(under("k"), start).await?;
    let fence = world.put("k", "last").await?;
    let expected = COUNT / 100 + 1;
    same("the items", &watch.until(fence).await?.len(), &expected)
}
