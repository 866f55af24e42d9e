//! A range of the store, held in memory and kept up to date from the store's watch.
//!
//! The content is always that of one revision: changes are applied a revision at a time, and when the
//! watch has to start over the new content replaces the old in one step, never bit by bit.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use futures::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};

use super::error::Error;
use super::types::{Cursor, Entry, Event, Key, ListRequest, Range, WatchItem};
use super::{Clock, Store};
use crate::version::Revision;

/// Revisions that a reader of [`Cache::changes`] may lag behind before it must look at everything.
const FEED: usize = 1_024;
/// Pause before the watch is started again after it ended or could not be started.
const RESTART: Duration = Duration::from_millis(200);

/// What is derived from the entries and kept beside them.
pub trait Index: Send + Sync + Debug + 'static {
    /// Brings the index up to date: `entries` is the whole new content, `changed` the keys that differ
    /// from before, or `None` when everything may differ.
    fn update(&mut self, entries: &BTreeMap<Key, Entry>, changed: Option<&[Key]>);

    /// Whether a key is held at all; one that is not costs no memory and is never in `changed`.
    fn wants(&self, key: &Key) -> bool;
}

/// The content of a cache at one revision.
#[derive(Debug)]
pub struct Snapshot<I> {
    /// The revision that this is the content of.
    pub at: Cursor,
    /// Every entry that the index wants.
    pub entries: BTreeMap<Key, Entry>,
    /// What is derived from them.
    pub index: I,
}

impl<I> Snapshot<I> {
    /// The JSON record at a key; `None` when there is none, or it is not readable.
    pub fn record<T: DeserializeOwned>(&self, key: &Key) -> Option<T> {
        let entry = self.entries.get(key)?;
        serde_json::from_slice(&entry.value).ok()
    }
}

/// One step of the content: which keys changed with which revision.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The revision.
    pub revision: Revision,
    /// The keys, or `None` when everything may have changed.
    pub keys: Option<Arc<[Key]>>,
}

/// Is told each step by the task that makes it, before that task goes on.
///
/// This is one change of tasks less than [`Cache::changes`], for those who only have to wake others.
pub trait Follower: Send + Sync + Debug {
    /// The content has changed; the cache can be read. Must be short: the cache waits for it.
    fn changed(&self, changed: &Changed);
}

/// A range of the store in memory.
#[derive(Debug)]
pub struct Cache<I> {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    range: Range,
    snapshot: RwLock<Snapshot<I>>,
    reached: watch::Sender<Revision>,
    feed: broadcast::Sender<Changed>,
    followers: RwLock<Vec<Weak<dyn Follower>>>,
}

impl<I: Index> Cache<I> {
    /// Lists the range. The content stays at that revision until [`Cache::run`] follows the store.
    pub async fn load(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        range: Range,
        mut index: I,
    ) -> Result<Arc<Self>, Error> {
        let (at, entries) = list_all(&*store, &range, &index).await?;
        index.update(&entries, None);
        let (reached, _) = watch::channel(at.revision);
        let (feed, _) = broadcast::channel(FEED);
        let snapshot = RwLock::new(Snapshot { at, entries, index });
        Ok(Arc::new(Self {
            store,
            clock,
            range,
            snapshot,
            reached,
            feed,
            followers: RwLock::default(),
        }))
    }

    /// Reads the content of one revision. `read` must be short: writers of the cache wait for it.
    pub fn read<T>(&self, read: impl FnOnce(&Snapshot<I>) -> T) -> T {
        read(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Completes once the content is that of `revision` or later. Waits without bound when the cache
    /// is not run, so callers bring their own deadline.
    pub async fn wait_for(&self, revision: Revision) {
        let mut reached = self.reached.subscribe();
        // The sender lives as long as `self`, so this cannot fail while it is borrowed.
        let _ = reached.wait_for(|at| *at >= revision).await;
    }

    /// The steps from now on. A reader that lags too far gets an error and must look at everything.
    pub fn changes(&self) -> broadcast::Receiver<Changed> {
        self.feed.subscribe()
    }

    /// Has `follower` told each step from now on, for as long as it lives.
    pub fn follow(&self, follower: Weak<dyn Follower>) {
        let followers = self.followers.write();
        let mut followers = followers.unwrap_or_else(PoisonError::into_inner);
        followers.retain(|follower| follower.strong_count() > 0);
        followers.push(follower);
    }

    /// Follows the store until dropped. Watches that end are started again where they ended; when that
    /// place is forgotten the range is listed anew and the content replaced whole.
    pub async fn run(self: Arc<Self>) {
        loop {
            let at = self.read(|snapshot| snapshot.at);
            let followed = match self.store.watch(self.range.clone(), at).await {
                Ok(mut items) => {
                    while let Some(item) = items.next().await {
                        self.take(item);
                    }
                    Ok(())
                },
                Err(error) => Err(error),
            };
            if let Err(error) = followed {
                tracing::warn!(%error, "listing the store anew");
                if let Err(error) = self.relist().await {
                    tracing::warn!(%error, "failed to list the store, trying again");
                }
            }
            self.clock.sleep(RESTART).await;
        }
    }

    fn take(&self, item: WatchItem) {
        match item {
            WatchItem::Events { at, events } => self.apply(at, events),
            WatchItem::Progress(at) => self.apply(at, Vec::new()),
            WatchItem::Stalled(silence) => tracing::warn!(?silence, "the store is silent"),
            WatchItem::End(reason) => tracing::info!(?reason, "the watch of the store ended"),
        }
    }

    fn apply(&self, at: Cursor, events: Vec<Event>) {
        let mut keys = Vec::with_capacity(events.len());
        {
            let mut snapshot = self
                .snapshot
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let Snapshot {
                at: now,
                entries,
                index,
            } = &mut *snapshot;
            for event in events.into_iter().filter(|event| index.wants(event.key())) {
                keys.push(event.key().clone());
                match event {
                    Event::Put { entry, .. } => entries.insert(entry.key.clone(), entry),
                    Event::Delete { key, .. } => entries.remove(&key),
                };
            }
            index.update(entries, Some(&keys));
            *now = at;
        }
        self.announce(&Changed {
            revision: at.revision,
            keys: Some(keys.into()),
        });
    }

    async fn relist(&self) -> Result<(), Error> {
        // The lock is not held while listing; only this task writes.
        let listed = {
            let wants = |key: &Key| self.read(|snapshot| snapshot.index.wants(key));
            list_wanted(&*self.store, &self.range, wants).await?
        };
        let (at, entries) = listed;
        {
            let mut snapshot = self
                .snapshot
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            snapshot.index.update(&entries, None);
            snapshot.entries = entries;
            snapshot.at = at;
        }
        self.announce(&Changed {
            revision: at.revision,
            keys: None,
        });
        Ok(())
    }

    fn announce(&self, changed: &Changed) {
        // The runtime runs the task that was woken last first: agents and watchers go before controllers,
        // and those before whoever waits for its own write to be readable.
        self.reached.send_replace(changed.revision);
        // Nobody listening is no fault.
        let _ = self.feed.send(changed.clone());
        let followers = self.followers.read();
        let followers = followers.unwrap_or_else(PoisonError::into_inner);
        for follower in followers.iter().filter_map(Weak::upgrade) {
            follower.changed(changed);
        }
    }
}

async fn list_all<I: Index>(
    store: &dyn Store,
    range: &Range,
    index: &I,
) -> Result<(Cursor, BTreeMap<Key, Entry>), Error> {
    list_wanted(store, range, |key| index.wants(key)).await
}

async fn list_wanted(
    store: &dyn Store,
    range: &Range,
    wants: impl Fn(&Key) -> bool + Send + Sync,
) -> Result<(Cursor, BTreeMap<Key, Entry>), Error> {
    let mut entries = BTreeMap::new();
    let mut request = ListRequest::first(range.clone());
    loop {
        let page = store.list(request).await?;
        let wanted = page.entries.into_iter().filter(|entry| wants(&entry.key));
        entries.extend(wanted.map(|entry| (entry.key.clone(), entry)));
        match page.next {
            Some(token) => {
                request = ListRequest {
                    page: Some(token),
                    ..ListRequest::first(range.clone())
                }
            },
            None => return Ok((page.at, entries)),
        }
    }
}
