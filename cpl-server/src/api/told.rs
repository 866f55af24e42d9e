//! What those who watch have in common: being woken, and the text of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use cpl_core::spec::Catalog;
use cpl_core::store::{Cache, Changed, Follower, Key, Revision, Snapshot};
use tokio::sync::watch;

use super::status::Lens;

/// Revisions whose changes are kept as text: those that watchers who keep up are at.
const TOLD: usize = 64;

/// What was told of the newest revisions, so that a thousand watchers cost one reading of the state and
/// not a thousand. Who comes later is told what the first one was, which is at least as new as the
/// revision; a later change has a revision of its own.
#[derive(Debug)]
pub(crate) struct Told {
    cache: Arc<Cache<Catalog>>,
    texts: Mutex<BTreeMap<Place, Bytes>>,
    /// The newest revision that touched a kind.
    moved: Mutex<BTreeMap<Topic, watch::Sender<Revision>>>,
}

/// The kind that is watched, or all of them.
pub(super) type Topic = Option<&'static str>;

/// A revision, and what is watched.
type Place = (Revision, Topic);

impl Told {
    /// Follows the objects.
    pub(super) fn new(cache: Arc<Cache<Catalog>>) -> Arc<Self> {
        let told = Arc::new(Self {
            cache,
            texts: Mutex::default(),
            moved: Mutex::default(),
        });
        let follower = Arc::downgrade(&told);
        told.cache.follow(follower);
        told
    }

    fn moved(&self) -> MutexGuard<'_, BTreeMap<Topic, watch::Sender<Revision>>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes when there is something to tell; most revisions are of what nobody watches.
    pub(super) fn news(&self, topic: Topic) -> watch::Receiver<Revision> {
        let mut moved = self.moved();
        let fresh = || watch::channel(Revision(0)).0;
        moved.entry(topic).or_insert_with(fresh).subscribe()
    }

    /// What is told of a revision, made when nobody was told yet.
    pub(super) fn at(
        &self,
        revision: Revision,
        topic: Topic,
        text: impl FnOnce() -> Bytes,
    ) -> Bytes {
        let mut told = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = told.get(&(revision, topic)) {
            return known.clone();
        }
        let fresh = text();
        told.insert((revision, topic), fresh.clone());
        while told.len() > TOLD {
            told.pop_first();
        }
        fresh
    }
}

impl Follower for Told {
    fn changed(&self, changed: &Changed) {
        let touched: Option<BTreeSet<Topic>> = changed.keys.as_ref().map(|keys| {
            let kinds = |snapshot: &Snapshot<Catalog>| {
                let objects = keys.iter().filter_map(|key| object_of(snapshot, key));
                objects.flat_map(|(kind, _)| [None, Some(kind)]).collect()
            };
            self.cache.read(kinds)
        });
        let all = touched.is_none();
        let touched = touched.unwrap_or_default();
        for (topic, moved) in &*self.moved() {
            if all || touched.contains(topic) {
                moved.send_replace(changed.revision);
            }
        }
    }
}

/// The object that a key is part of. A node is shown with what is known of it, which is kept elsewhere.
pub(super) fn object_of(snapshot: &Snapshot<Catalog>, key: &Key) -> Option<(&'static str, String)> {
    let object = snapshot.index.object_of(key);
    object.or_else(|| Lens::node_of(key))
}
