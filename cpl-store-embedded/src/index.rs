//! Everything that is readable, in memory: versions of keys, the log that watches pull from, and the
//! outcomes of transactions.
//!
//! The index holds only what is durable. It is changed by [`Index::apply`] alone, from the same items
//! that the log on disk holds, so that a replay after a crash cannot end elsewhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use bytes::Bytes;
use cpl_core::store::{
    Bound, Cursor, Entry, Error, Event, Identity, Key, KeyMeta, Kind, ListRequest, Opening, Page,
    PageToken, Range, Read, Revision, Timestamp, TxnId, limits,
};

use crate::format::{Item, OpeningNote, Recorded};

/// Most log revisions that one look of a watcher passes over while it holds the index.
const WATCH_STRIDE: usize = 1_024;

#[derive(Debug)]
pub(crate) struct Index {
    identity: Identity,
    openings: Vec<OpeningNote>,
    pub(crate) head: Revision,
    /// Nothing up to here is promised any more.
    pub(crate) compacted: Revision,
    /// Nothing up to here is held any more; the log starts after it.
    pruned: Revision,
    keys: BTreeMap<Key, Slot>,
    log: VecDeque<Arc<[Event]>>,
    pub(crate) outcomes: Outcomes,
    /// Counts the checkpoints, so that a key is noted once for each.
    checkpoint: u64,
    dirty: Dirty,
}

/// What the tables of the file do not hold yet.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pub(crate) keys: BTreeSet<Key>,
    pub(crate) outcomes: Vec<TxnId>,
}

/// The versions of one key, oldest first.
#[derive(Debug, Default)]
struct Slot {
    versions: Vec<Version>,
    /// The checkpoint that it was last noted for.
    noted: u64,
}

#[derive(Clone, Debug)]
struct Version {
    revision: Revision,
    /// `None` when this revision deleted the key.
    live: Option<(Bytes, KeyMeta)>,
}

/// What one look of a watcher found.
#[derive(Debug)]
pub(crate) enum Pulled {
    Events(Vec<Event>),
    /// Nothing in the range up to here.
    Passed,
    /// Nothing at all.
    Nothing,
    Compacted(Revision),
}

impl Index {
    /// Nothing yet: the rows of the key table are to be loaded, and the log from `base` on applied.
    pub(crate) fn new(
        identity: Identity,
        base: Revision,
        compacted: Revision,
        outcomes: Outcomes,
    ) -> Self {
        Self {
            identity,
            openings: Vec::new(),
            head: base,
            compacted,
            pruned: base,
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            outcomes,
            checkpoint: 1,
            dirty: Dirty::default(),
        }
    }

    pub(crate) fn load(&mut self, key: Key, value: Bytes, meta: KeyMeta) {
        let version = Version {
            revision: meta.mod_revision,
            live: Some((value, meta)),
        };
        let slot = Slot {
            versions: vec![version],
            noted: 0,
        };
        self.keys.insert(key, slot);
    }

    pub(crate) fn openings(&self) -> &[OpeningNote] {
        &self.openings
    }

    pub(crate) fn opened(&mut self, openings: Vec<OpeningNote>) {
        self.openings = openings;
    }

    /// Makes a durable item readable.
    pub(crate) fn apply(&mut self, item: Item) {
        if let Some((id, recorded)) = item.record {
            self.outcomes.insert(id, recorded);
            self.dirty.outcomes.push(id);
        }
        if item.changes.is_empty() {
            return;
        }
        self.head = item.revision;
        let events = item
            .changes
            .into_iter()
            .filter_map(|(key, value)| self.write(key, value, item.revision))
            .collect();
        self.log.push_back(events);
    }

    /// Nothing happens when the key has this revision or a newer one: a checkpoint wrote its row while
    /// the log went on.
    fn write(&mut self, key: Key, value: Option<Bytes>, revision: Revision) -> Option<Event> {
        let slot = self.keys.entry(key.clone()).or_default();
        let newest = slot.versions.last();
        if newest.is_some_and(|newest| newest.revision >= revision) {
            return None;
        }
        let before = newest.and_then(|newest| newest.live.as_ref().map(|(_, meta)| *meta));
        if slot.noted < self.checkpoint {
            slot.noted = self.checkpoint;
            self.dirty.keys.insert(key.clone());
        }
        let (live, event) = if let Some(value) = value {
            let meta = KeyMeta {
                create_revision: before.map_or(revision, |meta| meta.create_revision),
                mod_revision: revision,
                version: before.map_or(1, |meta| meta.version + 1),
            };
            let entry = Entry {
                key: key.clone(),
                value: value.clone(),
                meta,
            };
            (Some((value, meta)), Event::Put { entry })
        } else {
            if before.is_none() {
                // It was deleted by the time that a checkpoint came to it.
                if slot.versions.is_empty() {
                    self.keys.remove(&key);
                }
                return None;
            }
            (None, Event::Delete { key })
        };
        slot.versions.push(Version { revision, live });
        Some(event)
    }

    /// Begins a checkpoint: what the tables of the file do not hold yet. What changes from now on
    /// is noted for the next one.
    pub(crate) fn begin_checkpoint(&mut self) -> Dirty {
        self.checkpoint += 1;
        std::mem::take(&mut self.dirty)
    }

    /// Notes keys for the next checkpoint again, which had changes that this one may not write.
    pub(crate) fn note_again(&mut self, keys: Vec<Key>) {
        for key in keys {
            if let Some(slot) = self.keys.get_mut(&key)
                && slot.noted < self.checkpoint
            {
                slot.noted = self.checkpoint;
                self.dirty.keys.insert(key);
            }
        }
    }

    /// What the key table should hold of a key: its state as of the compacted revision; and whether
    /// there are changes after that.
    pub(crate) fn row(&self, key: &Key) -> (Option<(Bytes, KeyMeta)>, bool) {
        let Some(Slot { versions, .. }) = self.keys.get(key) else {
            return (None, false);
        };
        let fixed = versions.iter().rev().find(|v| v.revision <= self.compacted);
        let newer = versions.last().is_some_and(|v| v.revision > self.compacted);
        (fixed.and_then(|version| version.live.clone()), newer)
    }

    /// Whether something is compacted that is still held.
    pub(crate) fn is_prunable(&self) -> bool {
        self.pruned < self.compacted
    }

    /// The metadata of a live key.
    pub(crate) fn meta(&self, key: &Key) -> Option<KeyMeta> {
        let (_, meta) = self.keys.get(key)?.versions.last()?.live.as_ref()?;
        Some(*meta)
    }

    pub(crate) fn get(&self, key: &Key) -> Read<Option<Entry>> {
        let slot = self.keys.get(key);
        Read {
            value: slot.and_then(|slot| entry_at(key, &slot.versions, self.head)),
            at: self.cursor(self.head),
        }
    }

    pub(crate) fn list(&self, request: &ListRequest) -> Result<Page, Error> {
        let at = self.page_revision(request)?;
        let limit = request.limit.clamp(1, limits::PAGE_ENTRIES);
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut more = false;
        for (key, slot) in self.remaining(request) {
            let Some(entry) = entry_at(key, &slot.versions, at) else {
                continue;
            };
            bytes += key.as_bytes().len() + entry.value.len();
            if !entries.is_empty() && (entries.len() == limit || bytes > limits::PAGE_BYTES) {
                more = true;
                break;
            }
            entries.push(entry);
        }
        let next = entries.last().filter(|_| more).map(|last| PageToken {
            at: self.cursor(at),
            after: last.key.clone(),
            range: request.range.clone(),
        });
        Ok(Page {
            entries,
            at: self.cursor(at),
            next,
        })
    }

    fn page_revision(&self, request: &ListRequest) -> Result<Revision, Error> {
        let Some(token) = &request.page else {
            return Ok(self.head);
        };
        if token.range != request.range {
            let context = "list a range: the page token belongs to another one";
            return Err(Error::new(Kind::Invalid, context));
        }
        self.check_cursor(&token.at)?;
        Ok(token.at.revision)
    }

    /// The keys of the range that the pages before have not had.
    fn remaining<'a>(
        &'a self,
        request: &'a ListRequest,
    ) -> impl Iterator<Item = (&'a Key, &'a Slot)> {
        let after = request.page.as_ref().map(|token| &token.after);
        let start = match (after, request.range.start()) {
            // A token from elsewhere may name a key before the range.
            (Some(after), Some(start)) if after < start => Included(start),
            (Some(after), _) => Excluded(after),
            (None, Some(start)) => Included(start),
            (None, None) => Unbounded,
        };
        let inside = |key: &Key| match request.range.end() {
            Bound::Before(end) => key < end,
            Bound::End => true,
        };
        // Bounded from one side: a range that ends before it starts is empty, and not a panic.
        self.keys
            .range::<Key, _>((start, Unbounded))
            .take_while(move |(key, _)| inside(key))
    }

    pub(crate) fn cursor(&self, revision: Revision) -> Cursor {
        Cursor {
            identity: self.identity,
            opening: self.openings.last().map_or(Opening(0), |o| o.opening),
            revision,
        }
    }

    /// Whether the history up to the cursor is this one's, and what came after is still here.
    ///
    /// An opening's cursors are good up to the revision at which the next opening found the file:
    /// beyond it they speak of another copy's history, or of writes that the disk lost.
    pub(crate) fn check_cursor(&self, cursor: &Cursor) -> Result<(), Error> {
        let fail = |kind| Err(Error::new(kind, "resume after a cursor"));
        let noted = self
            .openings
            .iter()
            .rposition(|note| note.opening == cursor.opening);
        let Some(noted) = noted.filter(|_| cursor.identity == self.identity) else {
            return fail(Kind::IdentityChanged);
        };
        match self.openings.get(noted + 1) {
            Some(next) if cursor.revision > next.from => return fail(Kind::IdentityChanged),
            Some(_) => {},
            None if cursor.revision > self.head => {
                return fail(Kind::FutureRevision { head: self.head });
            },
            None => {},
        }
        if cursor.revision < self.compacted {
            let compacted = self.compacted;
            return fail(Kind::Compacted { compacted });
        }
        Ok(())
    }

    /// The first events in the range after `seen`, which moves past all that was looked at.
    pub(crate) fn pull(&self, range: &Range, seen: &mut Revision) -> Pulled {
        if *seen < self.compacted {
            return Pulled::Compacted(self.compacted);
        }
        if *seen == self.head {
            return Pulled::Nothing;
        }
        let skip = usize::try_from(seen.0 - self.pruned.0).unwrap_or(usize::MAX);
        for events in self.log.iter().skip(skip).take(WATCH_STRIDE) {
            seen.0 += 1;
            let inside: Vec<Event> = events
                .iter()
                .filter(|event| range.contains(event.key()))
                .cloned()
                .collect();
            if !inside.is_empty() {
                return Pulled::Events(inside);
            }
        }
        Pulled::Passed
    }

    /// Drops what only compacted revisions can see, of at most so many revisions.
    pub(crate) fn prune(&mut self, most: usize) {
        for _ in 0..most {
            if !self.is_prunable() {
                return;
            }
            let Some(events) = self.log.pop_front() else {
                return;
            };
            self.pruned.0 += 1;
            for event in events.iter() {
                self.prune_key(event.key(), self.pruned);
            }
        }
    }

    fn prune_key(&mut self, key: &Key, through: Revision) {
        let Some(Slot { versions, .. }) = self.keys.get_mut(key) else {
            return;
        };
        if let Some(newest) = versions.iter().rposition(|v| v.revision <= through) {
            let dead = versions[newest].live.is_none();
            versions.drain(..newest + usize::from(dead));
        }
        if versions.is_empty() {
            self.keys.remove(key);
        }
    }
}

fn entry_at(key: &Key, versions: &[Version], at: Revision) -> Option<Entry> {
    let version = versions.iter().rev().find(|v| v.revision <= at)?;
    let (value, meta) = version.live.clone()?;
    Some(Entry {
        key: key.clone(),
        value,
        meta,
    })
}

/// The outcomes of transactions with ids, forgotten in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    records: BTreeMap<TxnId, Recorded>,
    ages: VecDeque<(Timestamp, TxnId)>,
}

impl Outcomes {
    /// From the rows of the table, which are in the order of their ids.
    pub(crate) fn load(mut rows: Vec<(TxnId, Recorded)>) -> Self {
        rows.sort_by_key(|(_, recorded)| recorded.at);
        let mut outcomes = Self::default();
        for (id, recorded) in rows {
            outcomes.insert(id, recorded);
        }
        outcomes
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// What is remembered, unless its time is over.
    pub(crate) fn get(&self, id: TxnId, now: Timestamp) -> Option<&Recorded> {
        self.records
            .get(&id)
            .filter(|recorded| now.since(recorded.at) < limits::OUTCOME_RETENTION)
    }

    /// What is held, whatever its age.
    pub(crate) fn held(&self, id: TxnId) -> Option<&Recorded> {
        self.records.get(&id)
    }

    fn insert(&mut self, id: TxnId, recorded: Recorded) {
        self.ages.push_back((recorded.at, id));
        self.records.insert(id, recorded);
    }

    /// Forgets at most `most` records whose time is over, and returns their ids.
    pub(crate) fn expire(&mut self, now: Timestamp, most: usize) -> Vec<TxnId> {
        let mut expired = Vec::new();
        while let Some((at, id)) = self.ages.front().copied() {
            if expired.len() == most || now.since(at) < limits::OUTCOME_RETENTION {
                break;
            }
            self.ages.pop_front();
            // An id that was used again after its time has a younger record.
            if self.records.get(&id).is_some_and(|held| held.at == at) {
                self.records.remove(&id);
                expired.push(id);
            }
        }
        expired
    }
}
