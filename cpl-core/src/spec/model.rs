//! Objects, what a system says of their kinds, and what a change of them is.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::fields::Fields;
use crate::ids::{ObjectRef, Uid};
use crate::store::Revision;
use crate::version::{ConfigVersion, Generation};

/// The parts of an object by name; `spec` is always there.
pub type Parts = BTreeMap<&'static str, Value>;

/// What CPL itself keeps of an object, beside what people write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Another one after the name was deleted and made again.
    pub uid: Uid,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Words to select by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Number of changes by people.
    pub generation: Generation,
    /// The version of the last of them.
    pub config_version: ConfigVersion,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub modified_at: Timestamp,
    /// By whom.
    pub modified_by: String,
    /// The digest of what people wrote, [`digest`](super::digest), so that a change past CPL is noticed; absent in
    /// objects that were not changed since there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// What somebody has put in the place of an object in the store, past CPL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The parts that can be read, in stored form.
    pub found: Parts,
    /// The parts that cannot be read, with the reason.
    pub unreadable: BTreeMap<&'static str, String>,
}

/// An object as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What CPL keeps of it.
    pub meta: Meta,
    /// Its parts in stored form: what people wrote, with the fields that CPL writes. Those of the last change that
    /// went through CPL, if somebody has changed them past it.
    pub parts: Parts,
    /// What is in the store instead of these parts.
    pub foreign: Option<Foreign>,
    /// The revisions of its keys: `meta` and the parts, for the guards of the next change.
    pub revisions: BTreeMap<&'static str, Revision>,
}

impl Object {
    /// Which object it is.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef {
            kind: self.kind.to_owned(),
            name: self.name.clone(),
        }
    }

    /// What `If-Match` compares: counts the changes of people, and nothing else.
    pub fn etag(&self) -> String {
        format!("{}-{}", self.meta.uid, self.meta.generation)
    }

    /// One of its parts; null when it has none of that name.
    pub fn part(&self, name: &str) -> &Value {
        self.parts.get(name).unwrap_or(&Value::Null)
    }

    /// One of its parts as the store has it; nothing when it has none that can be read.
    pub fn stored(&self, name: &str) -> Option<&Value> {
        let parts = match &self.foreign {
            Some(foreign) => &foreign.found,
            None => &self.parts,
        };
        parts.get(name)
    }
}

/// Objects by kind and name.
pub type Objects = BTreeMap<(&'static str, String), Arc<Object>>;

/// The objects as a change would find them: those that are committed, with the changes before it that
/// are about to be.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    committed: &'a Objects,
    pending: &'a BTreeMap<(&'static str, String), Option<Arc<Object>>>,
}

impl<'a> View<'a> {
    /// Committed objects under pending changes; `None` among these is a removal.
    pub const fn new(
        committed: &'a Objects,
        pending: &'a BTreeMap<(&'static str, String), Option<Arc<Object>>>,
    ) -> Self {
        Self { committed, pending }
    }

    /// One object.
    pub fn get(&self, kind: &'static str, name: &str) -> Option<&'a Arc<Object>> {
        let key = (kind, name.to_owned());
        match self.pending.get(&key) {
            Some(pending) => pending.as_ref(),
            None => self.committed.get(&key),
        }
    }

    /// All objects of a kind, in order of names.
    pub fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = &'a Arc<Object>> {
        let (committed, pending) = (self.committed, self.pending);
        let untouched = of_kind(committed, kind)
            .filter(move |((_, name), _)| !pending.contains_key(&(kind, name.clone())))
            .map(|(_, object)| object);
        let touched = of_kind(pending, kind).filter_map(|(_, object)| object.as_ref());
        let mut all: Vec<&'a Arc<Object>> = untouched.chain(touched).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.into_iter()
    }
}

/// A view with the changes of one more request on top.
#[derive(Debug)]
pub struct Merged<'a> {
    committed: &'a Objects,
    pending: BTreeMap<(&'static str, String), Option<Arc<Object>>>,
}

impl Merged<'_> {
    /// The view of all of it.
    pub const fn view(&self) -> View<'_> {
        View::new(self.committed, &self.pending)
    }
}

impl<'a> View<'a> {
    /// This view with `changes` on top.
    pub fn with(&self, changes: &[ObjectChange]) -> Merged<'a> {
        let mut pending = self.pending.clone();
        for change in changes {
            let object = change.object();
            pending.insert((object.kind, object.name.clone()), change.after.clone());
        }
        Merged {
            committed: self.committed,
            pending,
        }
    }
}

fn of_kind<'a, T>(
    map: &'a BTreeMap<(&'static str, String), T>,
    kind: &'static str,
) -> impl Iterator<Item = (&'a (&'static str, String), &'a T)> {
    map.range((kind, String::new())..)
        .take_while(move |((k, _), _)| *k == kind)
}

/// What a change leaves in the fields that CPL writes into a stored part.
#[derive(Clone, Debug)]
pub struct Stamp<'a> {
    /// The generation after the change.
    pub generation: Generation,
    /// Who made it.
    pub actor: &'a str,
    /// When.
    pub at: Timestamp,
}

/// What a change did, in the words of the system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// `CREATE`, `UPDATE`, `ADD_ENDPOINT`, ...
    pub operation: String,
    /// Members that came.
    pub added: Vec<String>,
    /// Members that went.
    pub removed: Vec<String>,
    /// Members that changed.
    pub changed: Vec<String>,
}

/// What a system says of one kind of object. Everything is pure.
pub trait Kind: Send + Sync + Debug {
    /// Its name, for example `TargetGroup`.
    fn name(&self) -> &'static str;

    /// The segment of its keys and paths, for example `targetgroups`.
    fn collection(&self) -> &'static str;

    /// The names of its parts; the first is `spec`, and by default the only one.
    fn parts(&self) -> &'static [&'static str] {
        &["spec"]
    }

    /// Reads people's parts from a manifest, with every mistake reported to `fields`. A part that the
    /// manifest leaves out and that may be left out stays as it was: the result has none of that name.
    fn read(&self, fields: &mut Fields<'_>) -> Option<Parts>;

    /// What people wrote of stored parts: without the fields that CPL writes, of which there are none by
    /// default. The digest of it is stored: for parts that an older version has stored it must stay the same, or their
    /// objects are taken for [`Foreign`].
    fn people(&self, stored: &Parts) -> Parts {
        stored.clone()
    }

    /// The stored form of people's parts: with the fields that CPL writes, taken from the stamp and from
    /// what was stored before.
    fn stamp(&self, people: &Parts, _before: Option<&Parts>, _stamp: &Stamp<'_>) -> Parts {
        people.clone()
    }

    /// What is wrong with an object in view of the others; pointers are into its manifest.
    fn check(&self, _object: &Object, _view: &View<'_>) -> Vec<FieldError> {
        Vec::new()
    }

    /// The objects that refer to this one and would break without it.
    fn referrers(&self, _name: &str, _view: &View<'_>) -> Vec<ObjectRef> {
        Vec::new()
    }

    /// People's parts of `referrer`, an object of this kind, once it no longer refers to `target`.
    fn detach(&self, referrer: &Object, _target: &ObjectRef) -> Parts {
        self.people(&referrer.parts)
    }

    /// What a change from `before` to `after` (people's parts) did.
    fn summarize(&self, before: Option<&Parts>, after: Option<&Parts>) -> Summary {
        let operation = match (before, after) {
            (None, _) => "CREATE",
            (_, None) => "DELETE",
            (Some(_), Some(_)) => "UPDATE",
        };
        Summary {
            operation: operation.to_owned(),
            ..Summary::default()
        }
    }
}

/// All kinds that a server knows.
#[derive(Clone, Debug, Default)]
pub struct Kinds(Vec<Arc<dyn Kind>>);

impl Kinds {
    /// These kinds.
    pub const fn new(kinds: Vec<Arc<dyn Kind>>) -> Self {
        Self(kinds)
    }

    /// The kind of this name.
    pub fn named(&self, name: &str) -> Option<&dyn Kind> {
        self.0
            .iter()
            .find(|kind| kind.name() == name)
            .map(|kind| &**kind)
    }

    /// The kind of this collection.
    pub fn collected(&self, collection: &str) -> Option<&dyn Kind> {
        self.0
            .iter()
            .find(|kind| kind.collection() == collection)
            .map(|kind| &**kind)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Kind> {
        self.0.iter().map(|kind| &**kind)
    }
}

/// What a manifest says of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The kind.
    pub kind: &'static str,
    /// The name.
    pub name: String,
    /// Whose it is.
    pub tenant: Option<String>,
    /// Words to select by; absent leaves them as they are.
    pub labels: Option<BTreeMap<String, String>>,
    /// People's parts; one that is not named stays as it is.
    pub parts: Parts,
}

/// What somebody wants of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Draft {
    /// It should be like this.
    Put {
        /// What it should be.
        manifest: Manifest,
        /// The etag that it must have now, when the caller named one.
        if_match: Option<String>,
        /// The word for the change, where it is not the kind's own.
        operation: Option<&'static str>,
    },
    /// It should not be there.
    Delete {
        /// Which.
        object: ObjectRef,
        /// The etag that it must have now, when the caller named one.
        if_match: Option<String>,
    },
}

impl Draft {
    /// The draft of a manifest.
    pub const fn put(manifest: Manifest) -> Self {
        Self::Put {
            manifest,
            if_match: None,
            operation: None,
        }
    }

    /// Which object it is about.
    pub fn object(&self) -> ObjectRef {
        match self {
            Self::Put { manifest, .. } => ObjectRef {
                kind: manifest.kind.to_owned(),
                name: manifest.name.clone(),
            },
            Self::Delete { object, .. } => object.clone(),
        }
    }
}

/// A change of one object as it will be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectChange {
    /// As it is; `None` when it is made.
    pub before: Option<Arc<Object>>,
    /// As it will be, with the revisions of before; `None` when it is removed.
    pub after: Option<Arc<Object>>,
    /// What the change does.
    pub summary: Summary,
}

impl ObjectChange {
    /// The object, as it will be or was.
    ///
    /// # Panics
    /// Never for a change that [`evaluate`](super::evaluate) made: one side is always there.
    #[expect(clippy::expect_used, reason = "invariant: a change has a side")]
    pub fn object(&self) -> &Arc<Object> {
        self.after
            .as_ref()
            .or(self.before.as_ref())
            .expect("a change has a side")
    }
}

/// One record of an object's history. `target_version` is the object's generation after the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// What was done.
    pub operation: String,
    /// The generation after the change.
    pub target_version: Generation,
    /// The `global_version` of the change.
    pub config_version: ConfigVersion,
    /// Members that came.
    pub endpoints_added: Vec<String>,
    /// Members that went.
    pub endpoints_removed: Vec<String>,
    /// Members that changed.
    #[serde(default)]
    pub endpoints_changed: Vec<String>,
    /// Who did it.
    pub modified_by: String,
    /// When, RFC 3339.
    pub timestamp: String,
    /// By which request.
    pub request_id: String,
    /// The object that it belonged to: a name that is made again starts a history of its own.
    pub uid: Uid,
    /// People's parts after the change; absent when the object was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<BTreeMap<String, Value>>,
}

/// What makes repeating a request safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's key.
    pub key: String,
    /// A digest of the request.
    pub request: String,
}

/// What happened to one object of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// It was not there before.
    Created,
    /// Its content changed.
    Updated,
    /// It was already as wanted.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// One object of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredObject {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What happened to it.
    pub operation: Operation,
    /// Its generation afterwards; before, when it was removed.
    pub generation: Generation,
    /// Its etag afterwards; before, when it was removed.
    pub etag: String,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The version of the change; `None` when nothing had to change, and for a preview.
    pub version: Option<ConfigVersion>,
    /// Every object of the request.
    pub objects: Vec<AnsweredObject>,
    /// The nodes that run something else because of it.
    pub affected_nodes: Vec<String>,
    /// This is the recorded answer to an earlier request with the same key.
    #[serde(skip)]
    pub replayed: bool,
}
