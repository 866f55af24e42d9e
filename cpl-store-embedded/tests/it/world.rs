//! What the tests have in common.

use std::path::Path;
use std::sync::Arc;

use cpl_core::store::{
    Cursor, Entry, Error, Event, ListRequest, Range, Revision, Store, WatchItem,
};
use cpl_host::Host;
use cpl_store_embedded::{Config, EmbeddedStore};
use futures::StreamExt as _;

pub(crate) fn try_open(path: &Path, config: Config) -> Result<EmbeddedStore, Error> {
    let host = Host::new();
    EmbeddedStore::open(path, config, Arc::clone(&host.clock), &*host.ids)
}

pub(crate) fn create(path: &Path) {
    EmbeddedStore::create(path, &*Host::new().ids).unwrap();
}

/// Everything that is live.
pub(crate) async fn entries(store: &dyn Store) -> Vec<Entry> {
    let mut request = ListRequest::first(Range::all());
    let mut entries = Vec::new();
    loop {
        let page = store.list(request.clone()).await.unwrap();
        entries.extend(page.entries);
        request.page = page.next;
        if request.page.is_none() {
            return entries;
        }
    }
}

/// Everything that happened after a cursor.
pub(crate) async fn history(store: &dyn Store, after: Cursor) -> Vec<(Revision, Vec<Event>)> {
    let head = store.head().await.unwrap().revision;
    let mut seen = after.revision;
    let mut watch = store.watch(Range::all(), after).await.unwrap();
    let mut history = Vec::new();
    while seen < head {
        match watch.next().await.unwrap() {
            WatchItem::Events { at, events } => {
                seen = at.revision;
                history.push((seen, events));
            },
            WatchItem::Progress(at) => seen = at.revision,
            other => panic!("{other:?}"),
        }
    }
    history
}
