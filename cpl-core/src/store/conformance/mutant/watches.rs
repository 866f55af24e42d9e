//! Defects of watches.

use std::sync::Arc;

use futures::{StreamExt as _, stream};

use super::defect::Defect;
use super::store::Mutant;
use crate::store::{
    Cursor, EndReason, Error, Event, Range, Revision, Store, WatchItem, WatchStream,
};

/// Items that a store keeps for a slow watcher when it loses the rest.
const BACKLOG: usize = 100;
/// Events that a store delivers together when it splits large revisions.
const LARGE: usize = 50;

pub(super) async fn watch(
    mutant: &Mutant,
    mut range: Range,
    mut after: Cursor,
) -> Result<WatchStream, Error> {
    let head = mutant.inner.head().await?;
    match mutant.defect {
        Defect::SkipsAtTheBoundary if after.revision > Revision(0) => {
            let next = Revision(after.revision.0 + 1);
            after.revision = next.min(head.revision);
        },
        Defect::WaitsForTheFuture => after.revision = after.revision.min(head.revision),
        Defect::TakesAForeignCursor => after.identity = head.identity,
        Defect::WatchesEverything => range = Range::all(),
        _ => {},
    }
    let source = mutant.inner.watch(range.clone(), after).await?;
    let broken = Broken {
        defect: mutant.defect,
        inner: Arc::clone(&mutant.inner),
        range,
        seen: 0,
        held: None,
    };
    let state = (source, broken);
    let items = stream::unfold(state, |(mut source, mut broken)| async move {
        let items = match source.next().await {
            Some(item) => broken.deliver(item, &mut source).await,
            None => return None,
        };
        Some((stream::iter(items), (source, broken)))
    });
    Ok(Box::pin(items.flatten()))
}

/// What is wrong with a watch, and where it is.
struct Broken {
    defect: Defect,
    inner: Arc<dyn Store>,
    range: Range,
    /// Items with events so far.
    seen: usize,
    held: Option<WatchItem>,
}

impl Broken {
    /// What is delivered instead of an item.
    async fn deliver(&mut self, item: WatchItem, source: &mut WatchStream) -> Vec<WatchItem> {
        match item {
            WatchItem::Events { at, events } => {
                self.seen += 1;
                self.events(at, events)
            },
            WatchItem::Progress(_) if self.defect == Defect::TellsNoProgress => Vec::new(),
            WatchItem::End(EndReason::Compacted(_))
                if self.defect == Defect::SkipsWhatWasCompacted =>
            {
                match self.at_the_head().await {
                    Ok(anew) => {
                        *source = anew;
                        Vec::new()
                    },
                    Err(_) => vec![item],
                }
            },
            WatchItem::Progress(_) | WatchItem::Stalled(_) | WatchItem::End(_) => vec![item],
        }
    }

    async fn at_the_head(&self) -> Result<WatchStream, Error> {
        let head = self.inner.head().await?;
        self.inner.watch(self.range.clone(), head).await
    }

    fn events(&mut self, at: Cursor, mut events: Vec<Event>) -> Vec<WatchItem> {
        let whole = |events| WatchItem::Events { at, events };
        let in_parts = |events: Vec<Event>, most: usize| -> Vec<WatchItem> {
            events
                .chunks(most)
                .map(|part| whole(part.to_vec()))
                .collect()
        };
        match self.defect {
            Defect::DropsAnEvent if self.seen == 2 => vec![WatchItem::Progress(at)],
            Defect::LosesTheBacklog if self.seen > BACKLOG => vec![WatchItem::Progress(at)],
            Defect::DuplicatesAnEvent if self.seen == 2 => {
                vec![whole(events.clone()), whole(events)]
            },
            Defect::SwapsTwoRevisions if self.seen == 2 => {
                self.held = Some(whole(events));
                Vec::new()
            },
            Defect::SwapsTwoRevisions => {
                let swapped = self.held.take();
                std::iter::once(whole(events)).chain(swapped).collect()
            },
            Defect::HoldsTheLastItemBack => self.held.replace(whole(events)).into_iter().collect(),
            Defect::SplitsARevision => in_parts(events, 1),
            Defect::SplitsLargeRevisions => in_parts(events, LARGE),
            Defect::MergesRevisions => self.merged(at, events),
            Defect::TellsProgressEarly => vec![WatchItem::Progress(at), whole(events)],
            Defect::OrdersEventsBackwards => {
                events.reverse();
                vec![whole(events)]
            },
            Defect::ForgetsWhatWasBefore => {
                for event in &mut events {
                    if let Event::Put { entry } = event {
                        entry.meta.create_revision = entry.meta.mod_revision;
                        entry.meta.version = 1;
                    }
                }
                vec![whole(events)]
            },
            _ => vec![whole(events)],
        }
    }

    /// Every second item with the events of the one before, where they are of other keys.
    fn merged(&mut self, at: Cursor, events: Vec<Event>) -> Vec<WatchItem> {
        let Some(WatchItem::Events {
            events: mut both, ..
        }) = self.held.take()
        else {
            self.held = Some(WatchItem::Events { at, events });
            return Vec::new();
        };
        both.retain(|old| events.iter().all(|event| event.key() != old.key()));
        both.extend(events);
        both.sort_by(|one, other| one.key().cmp(other.key()));
        vec![WatchItem::Events { at, events: both }]
    }
}
