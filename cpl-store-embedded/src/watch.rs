//! Watches: each pulls from the index at its own pace, so that a slow one costs the writer nothing.

use std::sync::Arc;

use cpl_core::store::{Cursor, EndReason, Range, WatchItem, WatchStream};
use futures::stream;
use tokio::sync::watch;

use crate::index::Pulled;
use crate::shared::{Head, Shared};

/// A watch of `range` after a cursor that was checked.
pub(crate) fn stream(shared: Arc<Shared>, range: Range, after: Cursor) -> WatchStream {
    // Events are told as this opening's, whichever one the cursor came from.
    let seen = shared.index().cursor(after.revision);
    let watcher = Watcher {
        head: shared.head.subscribe(),
        seen,
        shared,
        range,
        ended: false,
    };
    Box::pin(stream::unfold(watcher, Watcher::next))
}

struct Watcher {
    shared: Arc<Shared>,
    range: Range,
    seen: Cursor,
    head: watch::Receiver<Head>,
    ended: bool,
}

impl Watcher {
    async fn next(mut self) -> Option<(WatchItem, Self)> {
        if self.ended {
            return None;
        }
        loop {
            // Noted before the look, so that a commit after the look wakes the wait.
            let closed = self.head.borrow_and_update().closed;
            if let Some(item) = self.pull() {
                self.ended = matches!(item, WatchItem::End(_));
                return Some((item, self));
            }
            if closed || self.head.changed().await.is_err() {
                self.ended = true;
                return Some((WatchItem::End(EndReason::Closed), self));
            }
        }
    }

    /// The next item that is already there. Progress is told only up to where everything was
    /// delivered, and by the same queue, so it can never overtake an event.
    fn pull(&mut self) -> Option<WatchItem> {
        let pulled = self
            .shared
            .index()
            .pull(&self.range, &mut self.seen.revision);
        match pulled {
            Pulled::Events(events) => Some(WatchItem::Events {
                at: self.seen,
                events,
            }),
            Pulled::Passed => Some(WatchItem::Progress(self.seen)),
            Pulled::Nothing => None,
            Pulled::Compacted(through) => Some(WatchItem::End(EndReason::Compacted(through))),
        }
    }
}
