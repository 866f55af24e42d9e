//! Where objects lie, and how the catalog is read from there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::model::{ChangeRecord, Kind, Kinds, Meta, Object, ObjectChange, Objects, View};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::store::{Entry, Index, Key, KeyMeta, Range};
use crate::txn::{Guard, KeyKind, KeyRow, Record, Spec, SpecTxn, TypedKey};
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
/// [`ROOT`](crate::txn::ROOT), records aside.
#[derive(Debug)]
pub struct Catalog {
    kinds: Kinds,
    objects: Objects,
    version: ConfigVersion,
    counter: Option<KeyMeta>,
    /// Values that could not be read, with the reason: shown, and never taken for absent.
    unreadable: BTreeMap<Key, String>,
    stamp: u64,
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
            stamp: 0,
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
        let text = key.as_str()?.strip_prefix(crate::txn::ROOT)?;
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
    ) -> Option<Object> {
        let kinds = self.kinds.clone();
        let kind = kinds.named(kind)?;
        let mut revisions = BTreeMap::new();
        let meta_entry = entries.get(meta_key(kind, name).key())?;
        let meta: Meta = self.decode(meta_entry)?;
        revisions.insert(META, meta_entry.meta.mod_revision);
        let mut parts = BTreeMap::new();
        for part in kind.parts() {
            let Some(entry) = entries.get(part_key(kind, name, part).key()) else {
                continue;
            };
            let value: Value = self.decode(entry)?;
            revisions.insert(part, entry.meta.mod_revision);
            parts.insert(*part, value);
        }
        Some(Object {
            kind: kind.name(),
            name: name.to_owned(),
            meta,
            parts,
            revisions,
        })
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
        let touched: BTreeSet<(&'static str, String)> = match changed {
            Some(keys) => {
                for key in keys {
                    self.unreadable.remove(key);
                }
                keys.iter().filter_map(|key| self.object_of(key)).collect()
            },
            None => {
                self.objects.clear();
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
        for (kind, name) in touched {
            match self.read_object(entries, kind, &name) {
                Some(object) => self.objects.insert((kind, name), Arc::new(object)),
                None => self.objects.remove(&(kind, name)),
            };
        }
        if counted {
            self.read_counter(entries);
        }
    }

    fn wants(&self, key: &Key) -> bool {
        const RECORDS: [&str; 2] = ["audit/", "idempotency/"];
        let Some(rest) = key
            .as_str()
            .and_then(|text| text.strip_prefix(crate::txn::ROOT))
        else {
            return false;
        };
        !RECORDS.iter().any(|records| rest.starts_with(records)) && !rest.contains("/history/")
    }
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
                let same = change.before.as_ref().and_then(|b| b.parts.get(part)) == Some(value);
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
