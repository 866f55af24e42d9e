//! The tail that backends over a network share.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of tests by the letter"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cpl_core::store::{
    Backlog, EndReason, Entry, Error, Event, Identity, Incarnation, Key, KeyMeta, Kind, Past,
    Range, Revision, StoreId, Tail, WatchItem, WatchStream,
};
use cpl_host::Host;
use futures::{FutureExt, StreamExt};

const IDENTITY: Identity = Identity {
    store: StoreId(1),
    incarnation: Incarnation(1),
};

fn put(key: &str, revision: u64, size: usize) -> Event {
    let revision = Revision(revision);
    let meta = KeyMeta {
        create_revision: revision,
        mod_revision: revision,
        version: 1,
    };
    let entry = Entry {
        key: Key::new(key.to_owned()).unwrap(),
        value: Bytes::from(vec![0; size]),
        meta,
    };
    Event::Put { entry }
}

/// A backend that tells three revisions at a time of an endless past, after some failures.
#[derive(Default)]
struct Endless {
    failures: Mutex<usize>,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl Backlog for Endless {
    async fn read(&self, _: &Range, after: Revision) -> Result<Past, Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err(Error::new(Kind::NotConnected, "read the past"));
        }
        let revisions = (after.0 + 1..after.0 + 4).map(|r| (Revision(r), vec![put("a", r, 1)]));
        Ok(Past {
            revisions: revisions.collect(),
            through: Revision(after.0 + 3),
        })
    }
}

fn tail(head: u64) -> Tail {
    Tail::new(IDENTITY, Revision(head), Revision(0), Host::new().clock)
}

fn watch(tail: &Tail, after: u64, failures: usize) -> WatchStream {
    let backlog = Endless {
        failures: Mutex::new(failures),
        ..Endless::default()
    };
    tail.watch(
        Range::all(),
        tail.cursor(Revision(after)),
        Arc::new(backlog),
    )
}

async fn revisions(watch: &mut WatchStream, count: usize) -> Vec<u64> {
    let revision = |item| match item {
        WatchItem::Events { at, .. } => at.revision.0,
        other => panic!("{other:?}"),
    };
    watch.take(count).map(revision).collect().await
}

#[tokio::test]
async fn who_is_behind_reads_the_past_and_goes_on_with_what_is_kept() {
    let tail = tail(10);
    let mut behind = watch(&tail, 2, 0);
    let mut ahead = watch(&tail, 12, 0);
    for revision in 11..=14 {
        tail.push(Revision(revision), vec![put("a", revision, 1)]);
    }
    tail.push(Revision(13), vec![put("told twice", 13, 1)]);
    assert_eq!(
        revisions(&mut behind, 12).await,
        (3..=14).collect::<Vec<_>>()
    );
    assert_eq!(revisions(&mut ahead, 2).await, [13, 14]);
    assert!(behind.next().now_or_never().is_none());
    tail.progress(Revision(20));
    let progress = WatchItem::Progress(tail.cursor(Revision(20)));
    assert_eq!(behind.next().await, Some(progress));
}

#[tokio::test]
async fn what_is_kept_has_a_bound_and_who_falls_behind_it_reads_the_past() {
    let tail = tail(0);
    let backlog = Endless::default();
    let asked = Arc::clone(&backlog.asked);
    let mut slow = tail.watch(Range::all(), tail.cursor(Revision(0)), Arc::new(backlog));
    for revision in 1..=40 {
        tail.push(Revision(revision), vec![put("a", revision, 1 << 20)]);
    }
    assert_eq!(revisions(&mut slow, 40).await, (1..=40).collect::<Vec<_>>());
    let read = asked.load(Ordering::Relaxed);
    assert!(
        (8..=14).contains(&read),
        "24 of 40 were no longer kept: {read} reads of three"
    );
}

#[tokio::test]
async fn an_outage_is_told_and_an_end_comes_last_and_once() {
    let tail = tail(5);
    let mut behind = watch(&tail, 3, 1);
    let mut level = watch(&tail, 5, 0);
    assert!(matches!(behind.next().await, Some(WatchItem::Stalled(_))));
    assert_eq!(revisions(&mut behind, 3).await, [4, 5, 6]);
    tail.stall(Duration::from_secs(7));
    let stalled = WatchItem::Stalled(Duration::from_secs(7));
    assert_eq!(level.next().await, Some(stalled));
    tail.push(Revision(6), vec![put("a", 6, 1)]);
    tail.end(EndReason::Unauthorized);
    tail.end(EndReason::Closed);
    assert_eq!(revisions(&mut level, 1).await, [6]);
    let end = WatchItem::End(EndReason::Unauthorized);
    assert_eq!(level.next().await, Some(end));
    assert_eq!(level.next().await, None);
}

#[tokio::test]
async fn compaction_ends_who_is_behind_it_and_nobody_else() {
    let tail = tail(0);
    let (mut behind, mut level) = (watch(&tail, 0, 0), watch(&tail, 2, 0));
    for revision in 1..=3 {
        tail.push(Revision(revision), vec![put("a", revision, 1)]);
    }
    tail.compact(Revision(2));
    let end = WatchItem::End(EndReason::Compacted(Revision(2)));
    assert_eq!(behind.next().await, Some(end));
    assert_eq!(revisions(&mut level, 1).await, [3]);
    let kind = tail.check(&tail.cursor(Revision(1))).unwrap_err();
    assert_eq!(
        *kind.kind(),
        Kind::Compacted {
            compacted: Revision(2)
        }
    );
    let mut ahead = watch(&tail, 9, 0);
    tail.compact(Revision(9));
    tail.push(Revision(8), vec![put("forgotten", 8, 1)]);
    tail.push(Revision(10), vec![put("a", 10, 1)]);
    let end = WatchItem::End(EndReason::Compacted(Revision(9)));
    assert_eq!(level.next().await, Some(end));
    assert_eq!(revisions(&mut ahead, 1).await, [10]);
    drop(tail);
    let closed = WatchItem::End(EndReason::Closed);
    assert_eq!(ahead.next().await, Some(closed));
}
