//! Everything that is readable, in memory: versions of keys, the log that watches pull from, and the
//! outcomes of transactions.
//!
//! The index holds only what is durable. It is changed by [`Index::apply`] alone, from the same items
//! that the log on disk holds, so that a replay after a crash cannot end elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use bytes::Bytes;
use cpl_core::store::{
    Bound, Cursor, Entry, Error, Event, Identity, Key, KeyMeta, Kind, ListRequest, Opening, Page,
    PageToken, Range, Read, Revision, Timestamp, TxnId, limits,
};

use crate::format::{Item, Mark, OpeningNote, Recorded};

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
    keys: BTreeMap<Key, Vec<Version>>,
    log: VecDeque<Arc<[Event]>>,
    pub(crate) outcomes: Outcomes,
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
    /// The state that the key table holds.
    pub(crate) fn new(identity: Identity, mark: &Mark, outcomes: Outcomes) -> Self {
        Self {
            identity,
            openings: Vec::new(),
            head: mark.applied,
            compacted: mark.compacted,
            pruned: mark.applied,
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            outcomes,
        }
    }

    pub(crate) fn load(&mut self, key: Key, value: Bytes, meta: KeyMeta) {
        let version = Version {
            revision: meta.mod_revision,
            live: Some((value, meta)),
        };
        self.keys.insert(key, vec![version]);
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

    fn write(&mut self, key: Key, value: Option<Bytes>, revision: Revision) -> Option<Event> {
        let before = self.meta(&key);
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
            let previous = before.map(|meta| meta.mod_revision);
            (Some((value, meta)), Event::Put { entry, previous })
        } else {
            let previous = before?.mod_revision;
            let key = key.clone();
            (None, Event::Delete { key, previous })
        };
        let version = Version { revision, live };
        self.keys.entry(key).or_default().push(version);
        Some(event)
    }

    /// The metadata of a live key.
    pub(crate) fn meta(&self, key: &Key) -> Option<KeyMeta> {
        let (_, meta) = self.keys.get(key)?.last()?.live.as_ref()?;
        Some(*meta)
    }

    pub(crate) fn get(&self, key: &Key) -> Read<Option<Entry>> {
        let versions = self.keys.get(key);
        Read {
            value: versions.and_then(|versions| entry_at(key, versions, self.head)),
            at: self.cursor(self.head),
        }
    }

    pub(crate) fn list(&self, request: &ListRequest) -> Result<Page, Error> {
        let at = self.page_revision(request)?;
        let limit = request.limit.clamp(1, limits::PAGE_ENTRIES);
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut more = false;
        for (key, versions) in self.remaining(request) {
            let Some(entry) = entry_at(key, versions, at) else {
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
    ) -> impl Iterator<Item = (&'a Key, &'a Vec<Version>)> {
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

    /// The events of a revision that is still held.
    pub(crate) fn events(&self, revision: Revision) -> Option<Arc<[Event]>> {
        let at = revision.0.checked_sub(self.pruned.0 + 1)?;
        self.log.get(usize::try_from(at).ok()?).map(Arc::clone)
    }

    /// Drops what only revisions up to `through` can see. `through` must be compacted.
    pub(crate) fn prune(&mut self, through: Revision) {
        while self.pruned < through {
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
        let Some(versions) = self.keys.get_mut(key) else {
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
