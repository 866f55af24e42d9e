//! Lists and their pages.

use bytes::Bytes;

use super::failure::Failure;
use super::world::{Checked, World, holds, key, refused, same, under};
use crate::ids::{StoreId, TxnId};
use crate::limits;
use crate::store::{
    Bound, Entry, Expect, Incarnation, Key, Kind, ListRequest, PageToken, Range, Revision, Txn,
};

fn names(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| entry.key.to_string()).collect()
}

fn pages_of(limit: usize) -> ListRequest {
    ListRequest {
        limit,
        ..ListRequest::first(under("k"))
    }
}

pub(super) async fn siblings_of_a_prefix_stay_outside(world: World) -> Checked {
    let before = world.head().await?;
    for name in ["/ns1", "/ns1/x", "/ns10/x", "/ns1/y", "/ns2/x"] {
        world.put(name, "v").await?;
    }
    let inside = vec!["/ns1/x".to_owned(), "/ns1/y".to_owned()];
    let (entries, _) = world.list(under("/ns1/")).await?;
    same("the keys listed", &names(&entries), &inside)?;
    let mut watch = world.watch(under("/ns1/"), before).await?;
    let fence = world.put("/ns1/z", "").await?;
    let history = watch.until(fence).await?;
    let watched = history
        .iter()
        .flat_map(|(_, events)| events)
        .map(|e| e.key().to_string());
    let expected = ["/ns1/x", "/ns1/y", "/ns1/z"].map(str::to_owned).to_vec();
    same("the keys watched", &watched.collect(), &expected)
}

pub(super) async fn keys_are_ordered_by_their_bytes(world: World) -> Checked {
    let raw: [&[u8]; 6] = [&[0], &[0, 0], b"A", b"a", &[0x7f, 0xff], &[0xff, 0xff]];
    let mut keys = Vec::new();
    for bytes in raw {
        keys.push(Key::new(bytes)?);
    }
    for key in keys.iter().rev() {
        world.apply(Txn::new().put(key.clone(), "v")).await?;
    }
    let (entries, _) = world.list(Range::all()).await?;
    let listed: Vec<Key> = entries.into_iter().map(|entry| entry.key).collect();
    same("all keys", &listed, &keys)?;
    let (entries, _) = world.list(Range::prefix([0xff].as_slice())?).await?;
    same("the keys under 0xff", &entries.len(), &1)
}

pub(super) async fn pages_stay_at_their_revision(world: World) -> Checked {
    for n in 0..9 {
        world.put(&format!("k{n}"), "old").await?;
    }
    let (expected, at) = world.list(under("k")).await?;
    let mut request = pages_of(2);
    let mut found = Vec::new();
    for n in 0..9 {
        let page = world.store.list(request.clone()).await?;
        same("the revision of a page", &page.at, &at)?;
        found.extend(page.entries);
        // Changes, deletions and creations, before and behind the place that the list has reached.
        world.put(&format!("k{}", 8 - n), "new").await?;
        world.delete(&format!("k{n}")).await?;
        world.put(&format!("k{n}-more"), "new").await?;
        request.page = page.next;
        if request.page.is_none() {
            break;
        }
    }
    same("the union of the pages", &found, &expected)
}

pub(super) async fn a_token_of_another_list_is_refused(world: World) -> Checked {
    for n in 0..3 {
        world.put(&format!("k{n}"), "v").await?;
    }
    let page = world.store.list(pages_of(1)).await?;
    let token = page
        .next
        .ok_or_else(|| Failure::new("expected a second page"))?;
    let mut other = ListRequest::first(Range::all());
    other.page = Some(token.clone());
    refused(
        "another range",
        world.store.list(other).await,
        &Kind::Invalid,
    )?;
    let mut store = token.clone();
    store.at.identity.store = StoreId(!token.at.identity.store.0);
    let mut incarnation = token.clone();
    incarnation.at.identity.incarnation = Incarnation(token.at.identity.incarnation.0 + 1);
    for (what, token) in [
        ("another store", store),
        ("another incarnation", incarnation),
    ] {
        let mut request = pages_of(1);
        request.page = Some(token);
        refused(
            what,
            world.store.list(request).await,
            &Kind::IdentityChanged,
        )?;
    }
    Ok(())
}

pub(super) async fn a_compacted_page_is_refused(world: World) -> Checked {
    for n in 0..3 {
        world.put(&format!("k{n}"), "v").await?;
    }
    let page = world.store.list(pages_of(1)).await?;
    let compacted = world.put("k0", "new").await?;
    world.store.compact(compacted).await?;
    let mut request = pages_of(1);
    request.page = page.next;
    refused(
        "the next page",
        world.store.list(request).await,
        &Kind::Compacted { compacted },
    )
}

pub(super) async fn the_last_page_has_no_next(world: World) -> Checked {
    const LIMIT: usize = 3;
    for count in 0..=LIMIT + 1 {
        let page = world.store.list(pages_of(LIMIT)).await?;
        let more = page.next.is_some();
        // A page may be short, so only what must not be is checked: a phantom after the last entry.
        holds(page.entries.len() <= LIMIT, || {
            format!("a page of {} entries", page.entries.len())
        })?;
        holds(more || page.entries.len() == count, || {
            format!(
                "{count} entries, but the list ended after {}",
                page.entries.len()
            )
        })?;
        holds(!more || page.entries.len() < count, || {
            format!("all {count} entries are in the page, but another is announced")
        })?;
        let (all, _) = world.rest(pages_of(LIMIT)).await?;
        same("the entries of all pages", &all.len(), &count)?;
        world.put(&format!("k{count}"), "v").await?;
    }
    Ok(())
}

pub(super) async fn pages_are_bounded_in_bytes(world: World) -> Checked {
    const COUNT: usize = 12;
    let value = Bytes::from(vec![b'v'; 512 << 10]);
    for n in 0..COUNT {
        let txn = Txn::new().put(key(format!("k{n:02}")), value.clone());
        world.apply(txn).await?;
    }
    let mut request = pages_of(limits::PAGE_ENTRIES);
    let mut found = 0;
    loop {
        let page = world.store.list(request.clone()).await?;
        let bytes: usize = page
            .entries
            .iter()
            .map(|e| e.key.as_bytes().len() + e.value.len())
            .sum();
        holds(bytes <= limits::PAGE_BYTES, || {
            format!("a page of {bytes} bytes")
        })?;
        found += page.entries.len();
        request.page = page.next;
        if request.page.is_none() {
            break;
        }
        holds(found < COUNT, || "a page after the last entry".to_owned())?;
    }
    same("the entries of all pages", &found, &COUNT)
}

pub(super) async fn an_empty_store_answers(world: World) -> Checked {
    let at = world.head().await?;
    let read = world.store.get(&key("k")).await?;
    same("an absent key", &read.value, &None)?;
    world.not_moved("its revision", read.at.revision, at.revision)?;
    let (entries, listed) = world.list(Range::all()).await?;
    same("all entries", &entries, &Vec::new())?;
    world.not_moved("their revision", listed.revision, at.revision)?;
    let token = PageToken {
        at,
        after: key("k"),
        range: under("k"),
    };
    let mut other = ListRequest::first(Range::all());
    other.page = Some(token.clone());
    let result = world.store.list(other).await;
    refused("the token of another range", result, &Kind::Invalid)?;
    let mut request = pages_of(2);
    request.page = Some(token);
    same(
        "what follows a key",
        &world.rest(request).await?,
        &(Vec::new(), at),
    )?;
    world.store.compact(at.revision).await?;
    let mut ahead = at;
    ahead.revision = World::future(at.revision);
    let future = world.store.compact(ahead.revision).await;
    world.refused_as_future("a future compaction", future, at.revision)?;
    let result = world.try_watch(Range::all(), ahead).await;
    world.refused_as_future("a watch of the future", result, at.revision)?;
    let replace = Txn::new()
        .expect(key("k"), Expect::ModRevision(ahead.revision))
        .put(key("k"), "v");
    let failed = world.compare_fails(replace.clone()).await?;
    same("the false compare", &failed, &vec![(key("k"), None)])?;
    world.compare_fails(replace.with_id(TxnId(1))).await?;
    let mut watch = world.watch(Range::all(), at).await?;
    let fence = world.put("k", "v").await?;
    same("the events", &watch.until(fence).await?.len(), &1)
}

pub(super) async fn a_page_has_at_least_one_entry_and_at_most_the_limit(world: World) -> Checked {
    let count = limits::PAGE_ENTRIES + 1;
    let names: Vec<String> = (0..count).map(|n| format!("k{n:05}")).collect();
    for part in names.chunks(world.store.limits().txn_ops) {
        let txn = part
            .iter()
            .fold(Txn::new(), |txn, name| txn.put(key(name), ""));
        world.apply(txn).await?;
    }
    for (limit, most) in [(0, 1), (1, 1), (usize::MAX, limits::PAGE_ENTRIES)] {
        let page = world.store.list(pages_of(limit)).await?;
        holds((1..=most).contains(&page.entries.len()), || {
            format!(
                "a page of {} entries for a limit of {limit}",
                page.entries.len()
            )
        })?;
        holds(page.next.is_some(), || "expected another page".to_owned())?;
    }
    let (entries, _) = world.rest(pages_of(usize::MAX)).await?;
    same("the keys of all pages", &self::names(&entries), &names)
}

pub(super) async fn a_range_that_ends_before_it_starts_is_empty(world: World) -> Checked {
    let at = world.head().await?;
    world.put("b", "v").await?;
    for (start, end) in [("c", "a"), ("b", "b")] {
        let range = Range::between(key(start), Bound::Before(key(end)));
        let (entries, _) = world.list(range.clone()).await?;
        same("the entries", &entries, &Vec::new())?;
        let mut watch = world.watch(range, at).await?;
        let fence = world.put("b", "v").await?;
        same("the events", &watch.until(fence).await?, &Vec::new())?;
    }
    Ok(())
}

pub(super) async fn a_token_of_the_future_is_refused(world: World) -> Checked {
    for n in 0..3 {
        world.put(&format!("k{n}"), "v").await?;
    }
    let head = world.head().await?.revision;
    let page = world.store.list(pages_of(1)).await?;
    let mut request = pages_of(1);
    request.page = page.next;
    if let Some(token) = &mut request.page {
        token.at.revision = Revision(head.0 + 5);
    }
    refused(
        "a page of the future",
        world.store.list(request).await,
        &Kind::FutureRevision { head },
    )
}

pub(super) async fn one_key_is_not_its_neighbours(world: World) -> Checked {
    let start = world.head().await?;
    for name in ["k", "k\0", "k0", "j", "k\0\0"] {
        world.put(name, "v").await?;
    }
    let only = Range::one(&key("k"));
    let (entries, _) = world.list(only.clone()).await?;
    same("the keys listed", &names(&entries), &vec!["k".to_owned()])?;
    let mut watch = world.watch(only, start).await?;
    let fence = world.put("k", "again").await?;
    same("the number of items", &watch.until(fence).await?.len(), &2)
}
