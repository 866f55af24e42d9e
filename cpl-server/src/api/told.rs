//! What those who watch have in common: being woken, and the text of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::body::Bytes;
use cpl_core::spec::Catalog;
use cpl_core::store::{Cache, Changed, Cursor, Follower, Key, Snapshot};
use tokio::sync::broadcast;

use super::status::Lens;

/// Steps that a watcher may lag behind before it reads the store's own watch again.
const STEPS: usize = 64;

/// The changes of objects as text, so that a thousand watchers cost one reading of the state and not a
/// thousand, and none of them is woken by a revision that does not concern it.
#[derive(Debug)]
pub(crate) struct Told {
    cache: Arc<Cache<Catalog>>,
    feeds: Mutex<BTreeMap<Topic, broadcast::Sender<Arc<Step>>>>,
    /// Every step up to here was sent; `None` before the first one.
    reached: Mutex<Option<Cursor>>,
}

/// The kind that is watched, or all of them.
pub(super) type Topic = Option<&'static str>;

/// The changes of one revision, of one topic.
#[derive(Debug)]
pub(super) struct Step {
    /// The revision.
    pub(super) at: Cursor,
    /// What changed, or `None` when everything may have.
    pub(super) keys: Option<Arc<[Key]>>,
    text: OnceLock<Bytes>,
}

impl Step {
    /// What is told of it, made when nobody was told yet. Who comes later is told what the first one was,
    /// which is at least as new as the revision; a later change has a step of its own.
    pub(super) fn text(&self, text: impl FnOnce() -> Bytes) -> Bytes {
        self.text.get_or_init(text).clone()
    }
}

impl Told {
    /// Follows the objects.
    pub(super) fn new(cache: Arc<Cache<Catalog>>) -> Arc<Self> {
        let told = Arc::new(Self {
            cache,
            feeds: Mutex::default(),
            reached: Mutex::default(),
        });
        let follower = Arc::downgrade(&told);
        told.cache.follow(follower);
        told
    }

    fn feeds(&self) -> MutexGuard<'_, BTreeMap<Topic, broadcast::Sender<Arc<Step>>>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The steps from now on, without those that do not concern the topic.
    pub(super) fn news(&self, topic: Topic) -> broadcast::Receiver<Arc<Step>> {
        let mut feeds = self.feeds();
        let fresh = || broadcast::channel(STEPS).0;
        feeds.entry(topic).or_insert_with(fresh).subscribe()
    }

    /// Up to where every step was sent: who has taken all of them has seen everything up to here. `None`
    /// before the first one.
    pub(super) fn reached(&self) -> Option<Cursor> {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The topics that a step is of; all of them when everything may have changed.
    fn topics(snapshot: &Snapshot<Catalog>, changed: &Changed) -> Option<BTreeSet<Topic>> {
        let keys = changed.keys.as_ref()?.iter();
        let objects = keys.filter_map(|key| object_of(snapshot, key));
        Some(objects.flat_map(|(kind, _)| [None, Some(kind)]).collect())
    }

    fn send(&self, at: Cursor, changed: &Changed) {
        let mut feeds = self.feeds();
        feeds.retain(|_, feed| feed.receiver_count() > 0);
        if feeds.is_empty() {
            return;
        }
        let topics = self.cache.read(|snapshot| Self::topics(snapshot, changed));
        for (topic, feed) in &*feeds {
            if topics.as_ref().is_none_or(|topics| topics.contains(topic)) {
                let step = Step {
                    at,
                    keys: changed.keys.clone(),
                    text: OnceLock::new(),
                };
                // Whoever listened has just gone away.
                let _ = feed.send(Arc::new(step));
            }
        }
    }
}

impl Follower for Told {
    fn changed(&self, changed: &Changed) {
        let at = Cursor {
            revision: changed.revision,
            ..self.cache.read(|snapshot| snapshot.at)
        };
        self.send(at, changed);
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }
}

/// The object that a key is part of. A node is shown with what is known of it, which is kept elsewhere.
pub(super) fn object_of(snapshot: &Snapshot<Catalog>, key: &Key) -> Option<(&'static str, String)> {
    let object = snapshot.index.object_of(key);
    object.or_else(|| Lens::node_of(key))
}
