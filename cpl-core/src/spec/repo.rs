//! Where objects lie, and how the catalog is read from there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::model::{
    ChangeRecord, Foreign, Kind, Kinds, Meta, Object, ObjectChange, Objects, Parts, Stamp, View,
};
use super::rules::digest;
use crate::clock::{Clock, Timestamp};
use crate::error::Error;
use crate::store::{Cache, Entry, Index, Key, KeyMeta, ListRequest, Range, Store};
use crate::txn::{Guard, KeyKind, KeyRow, ROOT, Record, Spec, SpecTxn, TypedKey};
use crate::version::ConfigVersion;

/// One counter for every change of specs, in decimal.
pub const GLOBAL_VERSION: KeyKind<Spec> = KeyKind::new("/cpl/v1/configs/global_version");
/// The name of the part of an object that CPL keeps.
pub(super) const META: &str = "meta";

/// The rows of this slice, for these kinds.
pub fn keys(kinds: &Kinds) -> Vec<KeyRow> {
    let mut rows = vec![GLOBAL_VERSION.row()];
    for kind in kinds.iter() {
        rows.push(object_kind(kind, META).row());
        rows.extend(
            kind.parts()
                .iter()
                .map(|part| object_kind(kind, part).row()),
        );
        rows.push(history_kind(kind).row());
    }
    rows
}

fn object_kind(kind: &dyn Kind, part: &str) -> KeyKind<Spec> {
    KeyKind::of(format!("/cpl/v1/{}/{{name}}/{part}", kind.collection()))
}

fn history_kind(kind: &dyn Kind) -> KeyKind<Record> {
    KeyKind::of(format!(
        "/cpl/v1/{}/{{name}}/history/{{change}}",
        kind.collection()
    ))
}

/// The key of what CPL keeps of an object.
pub fn meta_key(kind: &dyn Kind, name: &str) -> TypedKey<Spec> {
    object_kind(kind, META).key(&[name])
}

/// The key of a part of an object.
pub fn part_key(kind: &dyn Kind, name: &str, part: &str) -> TypedKey<Spec> {
    object_kind(kind, part).key(&[name])
}

/// The id of a change, `change-<version>-<timestamp>`; in order of versions.
pub fn change_id(version: ConfigVersion, at: Timestamp) -> String {
    format!("change-{:012}-{}", version.0, at.compact())
}

/// The key of a record of an object's history.
pub fn history_key(kind: &dyn Kind, name: &str, change: &str) -> TypedKey<Record> {
    history_kind(kind).key(&[name, change])
}

/// All records of an object's history, oldest first.
pub fn history_range(kind: &dyn Kind, name: &str) -> Range {
    history_kind(kind).range(&[name])
}

/// A record of an object's history with the id of the change.
pub fn read_change(kind: &dyn Kind, entry: &Entry) -> Result<(String, ChangeRecord), Error> {
    let record = serde_json::from_slice(&entry.value).map_err(|e| Error::corrupt(&entry.key, e))?;
    let parts = history_kind(kind);
    let id = parts
        .parts(&entry.key)
        .and_then(|parts| parts.get(1).map(|id| (*id).to_owned()));
    Ok((id.unwrap_or_default(), record))
}

/// All objects, decoded, and the version counter: the index of the cache of everything that is under
/// [`ROOT`], records aside.
#[derive(Debug)]
pub struct Catalog {
    kinds: Kinds,
    objects: Objects,
    version: ConfigVersion,
    counter: Option<KeyMeta>,
    /// Values that could not be read, with the reason: shown, and never taken for absent.
    unreadable: BTreeMap<Key, String>,
    /// What people wrote of some objects last, from their history.
    known: BTreeMap<(&'static str, String), Parts>,
    stamp: u64,
}

/// Keeps what people wrote before somebody changed an object past CPL; where that is not known, what is there.
fn keep(
    kind: &dyn Kind,
    object: &mut Object,
    people: Option<Parts>,
    unreadable: BTreeMap<&'static str, String>,
) {
    let found = std::mem::take(&mut object.parts);
    object.parts = match people {
        Some(people) => {
            let stamp = Stamp {
                generation: object.meta.generation,
                actor: &object.meta.modified_by,
                at: object.meta.modified_at,
            };
            kind.stamp(&people, Some(&found), &stamp)
        },
        None => found.clone(),
    };
    object.foreign = Some(Foreign { found, unreadable });
}

impl Catalog {
    /// An empty one.
    pub fn new(kinds: Kinds) -> Self {
        Self {
            kinds,
            objects: Objects::new(),
            version: ConfigVersion(0),
            counter: None,
            unreadable: BTreeMap::new(),
            known: BTreeMap::new(),
            stamp: 0,
        }
    }

    /// An empty one that knows what people wrote of some objects last.
    pub fn knowing(kinds: Kinds, known: BTreeMap<(&'static str, String), Parts>) -> Self {
        Self {
            known,
            ..Self::new(kinds)
        }
    }

    /// Another number whenever an object or the version may be another; of this process only.
    pub const fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The kinds that it knows.
    pub const fn kinds(&self) -> &Kinds {
        &self.kinds
    }

    /// All objects.
    pub const fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The version of the newest change.
    pub const fn version(&self) -> ConfigVersion {
        self.version
    }

    /// The version counter as the store has it.
    pub const fn counter(&self) -> Option<&KeyMeta> {
        self.counter.as_ref()
    }

    /// Values that could not be read, with the reason.
    pub const fn unreadable(&self) -> &BTreeMap<Key, String> {
        &self.unreadable
    }

    /// One object.
    pub fn get(&self, kind: &'static str, name: &str) -> Option<&Arc<Object>> {
        self.objects.get(&(kind, name.to_owned()))
    }

    /// The objects with nothing pending.
    pub const fn view(&self) -> View<'_> {
        static NOTHING: BTreeMap<(&'static str, String), Option<Arc<Object>>> = BTreeMap::new();
        View::new(&self.objects, &NOTHING)
    }

    /// Which object a key belongs to.
    pub fn object_of(&self, key: &Key) -> Option<(&'static str, String)> {
        let text = key.as_str()?.strip_prefix(ROOT)?;
        let mut segments = text.split('/');
        let (collection, name) = (segments.next()?, segments.next()?);
        let part = segments.next()?;
        let kind = self.kinds.collected(collection)?;
        let known = part == META || kind.parts().contains(&part);
        (known && segments.next().is_none()).then(|| (kind.name(), name.to_owned()))
    }

    fn read_object(
        &mut self,
        entries: &BTreeMap<Key, Entry>,
        kind: &'static str,
        name: &str,
        last: Option<&Object>,
    ) -> Option<Object> {
        let kinds = self.kinds.clone();
        let kind = kinds.named(kind)?;
        let mut revisions = BTreeMap::new();
        let meta_entry = entries.get(meta_key(kind, name).key())?;
        let meta: Option<Meta> = self.decode(meta_entry);
        // Of an object whose `meta` cannot be read it is known at least what it was.
        let meta = meta.or_else(|| last.map(|last| last.meta.clone()))?;
        revisions.insert(META, meta_entry.meta.mod_revision);
        let mut parts = BTreeMap::new();
        let mut unreadable = BTreeMap::new();
        for part in kind.parts() {
            let Some(entry) = entries.get(part_key(kind, name, part).key()) else {
                continue;
            };
            revisions.insert(part, entry.meta.mod_revision);
            match self.decode::<Value>(entry) {
                Some(value) => drop(parts.insert(*part, value)),
                None => {
                    let why = self.unreadable.get(&entry.key).cloned();
                    unreadable.insert(*part, why.unwrap_or_default());
                },
            }
        }
        let digested = meta.content.as_ref();
        let same = digested.is_none_or(|content| *content == digest(&kind.people(&parts)));
        let mut object = Object {
            kind: kind.name(),
            name: name.to_owned(),
            meta,
            parts,
            foreign: None,
            revisions,
        };
        if !same || !unreadable.is_empty() {
            let known = self.known.get(&(kind.name(), name.to_owned()));
            let people = last.map(|last| kind.people(&last.parts));
            keep(
                kind,
                &mut object,
                people.or_else(|| known.cloned()),
                unreadable,
            );
        }
        Some(object)
    }

    /// The objects that somebody has changed past CPL, in whose place it is not known what was there before.
    pub fn unknown(&self) -> Vec<(&'static str, String)> {
        let unknown = self.objects.iter().filter(|(key, object)| {
            let foreign = object.foreign.as_ref();
            foreign.is_some_and(|foreign| foreign.found == object.parts)
                && !self.known.contains_key(*key)
        });
        unknown.map(|(key, _)| key.clone()).collect()
    }

    fn decode<T: serde::de::DeserializeOwned>(&mut self, entry: &Entry) -> Option<T> {
        match serde_json::from_slice(&entry.value) {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::error!(key = %entry.key, %error, "a stored value is not readable");
                self.unreadable.insert(entry.key.clone(), error.to_string());
                None
            },
        }
    }

    fn read_counter(&mut self, entries: &BTreeMap<Key, Entry>) {
        let Some(entry) = entries.get(GLOBAL_VERSION.key(&[]).key()) else {
            self.version = ConfigVersion(0);
            self.counter = None;
            return;
        };
        if let Some(version) = self.decode(entry) {
            self.version = version;
            self.counter = Some(entry.meta);
        }
    }
}

impl Index for Catalog {
    fn update(&mut self, entries: &BTreeMap<Key, Entry>, changed: Option<&[Key]>) {
        let mut before = Objects::new();
        let touched: BTreeSet<(&'static str, String)> = match changed {
            Some(keys) => {
                for key in keys {
                    self.unreadable.remove(key);
                }
                keys.iter().filter_map(|key| self.object_of(key)).collect()
            },
            None => {
                before = std::mem::take(&mut self.objects);
                self.unreadable.clear();
                entries
                    .keys()
                    .filter_map(|key| self.object_of(key))
                    .collect()
            },
        };
        let counter = GLOBAL_VERSION.key(&[]);
        let counted = changed.is_none_or(|keys| keys.contains(counter.key()));
        if counted || !touched.is_empty() {
            self.stamp += 1;
        }
        for object in touched {
            let last = self
                .objects
                .remove(&object)
                .or_else(|| before.remove(&object));
            let (kind, name) = &object;
            if let Some(read) = self.read_object(entries, kind, name, last.as_deref()) {
                self.objects.insert(object, Arc::new(read));
            }
        }
        if counted {
            self.read_counter(entries);
        }
    }

    fn wants(&self, key: &Key) -> bool {
        const RECORDS: [&str; 2] = ["audit/", "idempotency/"];
        let Some(rest) = key.as_str().and_then(|text| text.strip_prefix(ROOT)) else {
            return false;
        };
        !RECORDS.iter().any(|records| rest.starts_with(records)) && !rest.contains("/history/")
    }
}

/// Loads everything that is under [`ROOT`], with what people wrote last where somebody has changed it past CPL.
///
/// # Errors
/// What the store says.
pub async fn load(
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    kinds: &Kinds,
) -> Result<Arc<Cache<Catalog>>, Error> {
    let wrong = |error| Error::store("load the objects", error);
    let range = Range::prefix(ROOT).map_err(wrong)?;
    let cache = async |catalog| {
        let (store, clock) = (Arc::clone(store), Arc::clone(clock));
        Cache::load(store, clock, range.clone(), catalog).await
    };
    let loaded = cache(Catalog::new(kinds.clone())).await.map_err(wrong)?;
    let unknown = loaded.read(|snapshot| snapshot.index.unknown());
    if unknown.is_empty() {
        return Ok(loaded);
    }
    let mut known = BTreeMap::new();
    for (kind, name) in unknown {
        tracing::warn!(kind, name, "an object was changed in the store, past CPL");
        if let Some(parts) = newest(&**store, kinds, kind, &name).await? {
            known.insert((kind, name), parts);
        }
    }
    let catalog = Catalog::knowing(kinds.clone(), known);
    cache(catalog).await.map_err(wrong)
}

/// What people wrote of an object last, by its history.
async fn newest(
    store: &dyn Store,
    kinds: &Kinds,
    kind: &'static str,
    name: &str,
) -> Result<Option<Parts>, Error> {
    let Some(kind) = kinds.named(kind) else {
        return Ok(None);
    };
    let mut request = ListRequest::first(history_range(kind, name));
    let mut last = None;
    loop {
        let page = store.list(request.clone()).await;
        let page = page.map_err(|error| Error::store("read a history", error))?;
        last = page.entries.into_iter().next_back().or(last);
        request.page = page.next;
        if request.page.is_none() {
            break;
        }
    }
    let Some(entry) = last else {
        return Ok(None);
    };
    let (_, record) = read_change(kind, &entry)?;
    let content = record.content.unwrap_or_default();
    let part = |name: &&'static str| content.get(*name).map(|value| (*name, value.clone()));
    Ok(Some(kind.parts().iter().filter_map(part).collect()))
}

/// Writes and bytes of a step, from above.
pub(super) fn weight(changes: &[ObjectChange]) -> (usize, usize) {
    let sum = |object: &Object| {
        object
            .parts
            .values()
            .map(|part| part.to_string().len())
            .sum::<usize>()
            * 2
            + 2_048
    };
    let bytes: usize = changes.iter().map(|change| sum(change.object())).sum();
    let ops: usize = changes
        .iter()
        .map(|change| change.object().parts.len() + 8)
        .sum();
    (ops + 2, bytes + 2_048)
}

/// Which request made a change, and when.
pub(super) struct Made<'a> {
    pub(super) version: ConfigVersion,
    pub(super) at: Timestamp,
    pub(super) actor: &'a str,
    pub(super) request_id: &'a str,
}

/// Writes an object as a change leaves it, guarded by the revisions that it was read with.
pub(super) fn write_object(txn: &mut SpecTxn, kinds: &Kinds, change: &ObjectChange) {
    let object = change.object();
    let Some(kind) = kinds.named(object.kind) else {
        return;
    };
    let guard = |part: &str| {
        object
            .revisions
            .get(part)
            .map_or(Guard::ABSENT, |r| Guard::at(*r))
    };
    match &change.after {
        Some(after) => {
            let meta = serde_json::to_value(&after.meta).unwrap_or_default();
            txn.put(meta_key(kind, &after.name), guard(META), &meta);
            for (part, value) in &after.parts {
                let same = change.before.as_ref().and_then(|b| b.stored(part)) == Some(value);
                if !same {
                    txn.put(part_key(kind, &after.name, part), guard(part), value);
                }
            }
        },
        None => {
            txn.delete(meta_key(kind, &object.name), guard(META));
            for part in object.parts.keys() {
                txn.delete(part_key(kind, &object.name, part), guard(part));
            }
        },
    }
}

/// Adds the history record of a change.
pub(super) fn write_history(
    txn: &mut SpecTxn,
    kinds: &Kinds,
    change: &ObjectChange,
    made: &Made<'_>,
) {
    let object = change.object();
    let Some(kind) = kinds.named(object.kind) else {
        return;
    };
    let content = change.after.as_ref().map(|after| {
        let people = kind.people(&after.parts);
        people
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    });
    let generation = match &change.after {
        Some(after) => after.meta.generation,
        None => object.meta.generation.next(),
    };
    let record = ChangeRecord {
        operation: change.summary.operation.clone(),
        target_version: generation,
        config_version: made.version,
        endpoints_added: change.summary.added.clone(),
        endpoints_removed: change.summary.removed.clone(),
        endpoints_changed: change.summary.changed.clone(),
        modified_by: made.actor.to_owned(),
        timestamp: made.at.rfc3339(),
        request_id: made.request_id.to_owned(),
        uid: object.meta.uid,
        content,
    };
    txn.record(
        history_key(kind, &object.name, &change_id(made.version, made.at)),
        &record,
    );
}
