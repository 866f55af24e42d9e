//! Reading manifests, and deciding what a request changes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::model::{
    Draft, Foreign, Kind, Kinds, Manifest, Meta, Object, ObjectChange, Parts, Stamp, View,
};
use crate::clock::Timestamp;
use crate::error::{Error, FieldError, Kind as ErrorKind};
use crate::fields::{Fields, Wrong, check_name, name, text};
use crate::ids::{IdGen, ObjectRef, Uid};
use crate::version::{ConfigVersion, Generation};

/// Most objects of one request: with their records they fit one transaction of every backend.
pub const MOST_OBJECTS: usize = 16;
/// Most labels of one object.
const MOST_LABELS: usize = 32;
/// The operation that makes people's what somebody has put in the store past CPL.
pub const ADOPT: &str = "ADOPT";
/// The operation that puts back what was there before.
pub const REVERT: &str = "REVERT";

/// Reads a list of manifests that stands at `pointer`, with every mistake of all of them at once.
pub fn read_manifests(
    kinds: &Kinds,
    values: &[Value],
    pointer: &str,
) -> Result<Vec<Manifest>, Error> {
    let mut errors = Vec::new();
    if values.is_empty() || values.len() > MOST_OBJECTS {
        let detail = format!(
            "expected 1 to {MOST_OBJECTS} manifests, got {}",
            values.len()
        );
        errors.push(FieldError::new(pointer, "FIELD_OUT_OF_RANGE", detail));
        return Err(Error::invalid(errors));
    }
    let mut manifests = Vec::with_capacity(values.len());
    let mut seen = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        let at = format!("{pointer}/{index}");
        match manifest(kinds, value, &at) {
            Ok(manifest) if !seen.insert((manifest.kind, manifest.name.clone())) => {
                let detail = format!("{}/{} occurs twice", manifest.kind, manifest.name);
                errors.push(FieldError::new(at, "OBJECT_DUPLICATE", detail));
            },
            Ok(manifest) => manifests.push(manifest),
            Err(mut wrong) => errors.append(&mut wrong),
        }
    }
    if errors.is_empty() {
        Ok(manifests)
    } else {
        Err(Error::invalid(errors))
    }
}

/// Reads one manifest that stands at `pointer`.
///
/// # Errors
/// Every mistake, not only the first.
pub fn manifest(kinds: &Kinds, value: &Value, pointer: &str) -> Result<Manifest, Vec<FieldError>> {
    let mut fields = Fields::of(value, pointer);
    fields.ignore(&["status"]);
    let kind = fields.required("kind", |value| {
        let known = || kinds.iter().map(Kind::name).collect::<Vec<_>>().join(", ");
        let named = value.as_str().and_then(|name| kinds.named(name));
        named.ok_or_else(|| Wrong::new("KIND_UNKNOWN", format!("expected one of {}", known())))
    });
    let metadata = fields.required_object("metadata", read_metadata);
    let parts = match kind {
        Some(kind) => kind.read(&mut fields),
        None => {
            // Without a kind nothing more can be judged; its parts are not unknown fields.
            fields.ignore(&["spec", "endpoints"]);
            None
        },
    };
    let errors = fields.finish();
    match (kind, metadata, parts) {
        (Some(kind), Some((Some(name), tenant, labels)), Some(parts)) if errors.is_empty() => {
            Ok(Manifest {
                kind: kind.name(),
                name,
                tenant,
                labels,
                parts,
            })
        },
        _ => Err(errors),
    }
}

type ReadMetadata = (
    Option<String>,
    Option<String>,
    Option<BTreeMap<String, String>>,
);

fn read_metadata(fields: &mut Fields<'_>) -> ReadMetadata {
    fields.ignore(&[
        "uid",
        "generation",
        "config_version",
        "etag",
        "created_at",
        "modified_at",
        "modified_by",
    ]);
    let name = fields.required("name", name);
    let tenant = fields.optional("tenant", self::name);
    let labels = fields.optional("labels", read_labels);
    (name, tenant, labels)
}

fn read_labels(value: &Value) -> Result<BTreeMap<String, String>, Wrong> {
    let wrong = |detail: &str| Wrong::new("LABELS_INVALID", detail);
    let object = value
        .as_object()
        .ok_or_else(|| wrong("expected an object of texts"))?;
    if object.len() > MOST_LABELS {
        return Err(wrong("at most 32 labels"));
    }
    let mut labels = BTreeMap::new();
    for (key, value) in object {
        check_name(key).map_err(|_| wrong("label names are lower-case letters, digits and '-'"))?;
        labels.insert(key.clone(), text(63)(value)?);
    }
    Ok(labels)
}

/// Who changes something, when, and what their request is called.
#[derive(Clone, Debug)]
pub struct Author<'a> {
    /// Who, as the audit names them.
    pub actor: &'a str,
    /// When.
    pub at: Timestamp,
    /// Where the uids of new objects come from.
    pub ids: &'a dyn IdGen,
}

/// What the drafts of one request change, all under `version`; objects that are already as wanted are
/// left out, and a request that changes nothing gives an empty list.
///
/// # Errors
/// `Invalid` with every field error of all drafts, pointers under `/manifests/<index>` when there are
/// several; `FailedPrecondition` for an etag that is not the present one and for the removal of
/// something in use; `NotFound`.
pub fn evaluate(
    kinds: &Kinds,
    view: &View<'_>,
    drafts: &[Draft],
    version: ConfigVersion,
    author: &Author<'_>,
) -> Result<Vec<ObjectChange>, Error> {
    let mut changes = Vec::new();
    for draft in drafts {
        changes.extend(change(kinds, view, draft, version, author)?);
    }
    check(kinds, &view.with(&changes).view(), drafts)?;
    Ok(changes)
}

fn check(kinds: &Kinds, view: &View<'_>, drafts: &[Draft]) -> Result<(), Error> {
    let mut errors = Vec::new();
    for (index, draft) in drafts.iter().enumerate() {
        let ObjectRef { kind, name } = draft.object();
        let Some(kind) = kinds.named(&kind) else {
            continue;
        };
        match view.get(kind.name(), &name) {
            Some(object) => {
                let prefix = format!("/manifests/{index}");
                errors.extend(
                    kind.check(object, view)
                        .into_iter()
                        .map(|e| e.below(&prefix)),
                );
            },
            None => refuse_referrers(kind, &name, view)?,
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Error::invalid(errors))
    }
}

fn refuse_referrers(kind: &dyn Kind, name: &str, view: &View<'_>) -> Result<(), Error> {
    let referrers = kind.referrers(name, view);
    if referrers.is_empty() {
        return Ok(());
    }
    let list = referrers
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let detail = format!("{}/{name} is used by {list}", kind.name());
    Err(Error::new(ErrorKind::Aborted, "OBJECT_IN_USE", detail).with("referrers", list))
}

fn change(
    kinds: &Kinds,
    view: &View<'_>,
    draft: &Draft,
    version: ConfigVersion,
    author: &Author<'_>,
) -> Result<Option<ObjectChange>, Error> {
    let object = draft.object();
    let kind = kinds
        .named(&object.kind)
        .ok_or_else(|| Error::not_found("kind", &object.kind))?;
    let before = view.get(kind.name(), &object.name);
    match draft {
        Draft::Put {
            manifest,
            if_match,
            operation,
        } => {
            if !matches!(operation, Some(ADOPT | REVERT)) {
                refuse_foreign(before)?;
            }
            check_etag(if_match.as_deref(), before)?;
            Ok(
                put(kind, manifest, before, version, author).map(|mut change| {
                    if let Some(operation) = operation {
                        (*operation).clone_into(&mut change.summary.operation);
                    }
                    change
                }),
            )
        },
        Draft::Delete { if_match, .. } => {
            let before = before.ok_or_else(|| Error::not_found(kind.name(), &object.name))?;
            refuse_foreign(Some(before))?;
            check_etag(if_match.as_deref(), Some(before))?;
            let summary = kind.summarize(Some(&kind.people(&before.parts)), None);
            Ok(Some(ObjectChange {
                before: Some(Arc::clone(before)),
                after: None,
                summary,
            }))
        },
    }
}

/// Whoever changes an object must know what it is.
fn refuse_foreign(now: Option<&Arc<Object>>) -> Result<(), Error> {
    let Some(object) = now.filter(|object| object.foreign.is_some()) else {
        return Ok(());
    };
    let detail = format!(
        "{}/{} was changed in the store, past CPL: adopt that change or revert it first",
        object.kind, object.name
    );
    let error = Error::new(ErrorKind::FailedPrecondition, "OBJECT_FOREIGN", detail);
    Err(error)
}

/// The drafts that end an object's being foreign: with [`ADOPT`] what is in the store is judged as if somebody had
/// sent it, with [`REVERT`] what was there before is put back.
///
/// # Errors
/// `NotFound`; `FailedPrecondition` for an object that is not foreign; `Invalid` for what is no manifest.
pub fn resolve(
    kinds: &Kinds,
    view: &View<'_>,
    object: &ObjectRef,
    operation: &'static str,
    if_match: Option<String>,
) -> Result<Vec<Draft>, Error> {
    let not_found = || Error::not_found(&object.kind, &object.name);
    let kind = kinds.named(&object.kind).ok_or_else(not_found)?;
    let now = view.get(kind.name(), &object.name).ok_or_else(not_found)?;
    let Some(foreign) = &now.foreign else {
        let detail = format!("nobody has changed {object} past CPL");
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            "OBJECT_NOT_FOREIGN",
            detail,
        ));
    };
    let manifest = if operation == ADOPT {
        found(kinds, kind, now, foreign)?
    } else {
        Manifest {
            kind: kind.name(),
            name: now.name.clone(),
            tenant: None,
            labels: None,
            parts: kind.people(&now.parts),
        }
    };
    Ok(vec![Draft::Put {
        manifest,
        if_match,
        operation: Some(operation),
    }])
}

/// What was found in the store, read as a manifest.
fn found(
    kinds: &Kinds,
    kind: &dyn Kind,
    object: &Object,
    foreign: &Foreign,
) -> Result<Manifest, Error> {
    let unreadable = foreign
        .unreadable
        .iter()
        .map(|(part, why)| FieldError::new(format!("/{part}"), "FIELD_UNREADABLE", why.clone()));
    let unreadable: Vec<FieldError> = unreadable.collect();
    if !unreadable.is_empty() {
        return Err(Error::invalid(unreadable));
    }
    let mut value = serde_json::json!({
        "kind": kind.name(),
        "metadata": { "name": object.name },
    });
    for (part, content) in kind.people(&foreign.found) {
        value[part] = content;
    }
    manifest(kinds, &value, "").map_err(Error::invalid)
}

/// The digest of what people wrote: SHA-256 of its parts as JSON with sorted names, in hexadecimal.
pub fn digest(people: &Parts) -> String {
    let json = serde_json::to_vec(people).unwrap_or_default();
    hex::encode(Sha256::digest(json))
}

fn check_etag(if_match: Option<&str>, now: Option<&Arc<Object>>) -> Result<(), Error> {
    let Some(wanted) = if_match else {
        return Ok(());
    };
    let etag = now.map(|object| object.etag());
    if etag.as_deref() == Some(wanted) {
        return Ok(());
    }
    let detail = match &etag {
        Some(etag) => format!("the object has changed: its etag is {etag}, not {wanted}"),
        None => "the object does not exist, so it has no etag".to_owned(),
    };
    let error = Error::new(ErrorKind::FailedPrecondition, "ETAG_MISMATCH", detail);
    Err(match etag {
        Some(etag) => error.with("etag", etag),
        None => error,
    })
}

fn put(
    kind: &dyn Kind,
    manifest: &Manifest,
    before: Option<&Arc<Object>>,
    version: ConfigVersion,
    author: &Author<'_>,
) -> Option<ObjectChange> {
    let was = before.map(|object| kind.people(&object.parts));
    let mut people = was.clone().unwrap_or_default();
    people.extend(manifest.parts.clone());
    let old = before.map(|object| &object.meta);
    let labels = match &manifest.labels {
        Some(labels) => labels.clone(),
        None => old.map(|meta| meta.labels.clone()).unwrap_or_default(),
    };
    let tenant = manifest
        .tenant
        .clone()
        .or_else(|| old.and_then(|meta| meta.tenant.clone()));
    let foreign = before.is_some_and(|object| object.foreign.is_some());
    let same = !foreign
        && was.as_ref() == Some(&people)
        && old.is_some_and(|meta| meta.labels == labels && meta.tenant == tenant);
    if same {
        return None;
    }
    let generation = old.map_or(Generation(1), |meta| meta.generation.next());
    let stamp = Stamp {
        generation,
        actor: author.actor,
        at: author.at,
    };
    let meta = Meta {
        uid: old.map_or_else(|| Uid::fresh(author.ids), |meta| meta.uid),
        tenant,
        labels,
        generation,
        config_version: version,
        created_at: old.map_or(author.at, |meta| meta.created_at),
        modified_at: author.at,
        modified_by: author.actor.to_owned(),
        content: None,
    };
    let parts = kind.stamp(&people, before.map(|object| &object.parts), &stamp);
    let content = Some(digest(&kind.people(&parts)));
    let after = Object {
        kind: kind.name(),
        name: manifest.name.clone(),
        meta: Meta { content, ..meta },
        parts,
        foreign: None,
        revisions: before
            .map(|object| object.revisions.clone())
            .unwrap_or_default(),
    };
    let summary = kind.summarize(was.as_ref(), Some(&people));
    Some(ObjectChange {
        before: before.cloned(),
        after: Some(Arc::new(after)),
        summary,
    })
}

/// The drafts that remove an object; with `cascade`, objects that use it stop to do so first, in the
/// same version.
pub fn delete(
    kinds: &Kinds,
    view: &View<'_>,
    object: &ObjectRef,
    if_match: Option<String>,
    cascade: bool,
) -> Result<Vec<Draft>, Error> {
    let kind = kinds
        .named(&object.kind)
        .ok_or_else(|| Error::not_found("kind", &object.kind))?;
    if view.get(kind.name(), &object.name).is_none() {
        return Err(Error::not_found(kind.name(), &object.name));
    }
    let mut drafts = Vec::new();
    if cascade {
        let referrers = kind.referrers(&object.name, view);
        if referrers.len() >= MOST_OBJECTS {
            let detail = format!(
                "{object} is used by {} objects; at most {} can be changed at once",
                referrers.len(),
                MOST_OBJECTS - 1
            );
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                "CASCADE_TOO_WIDE",
                detail,
            ));
        }
        drafts.extend(
            referrers
                .iter()
                .filter_map(|user| detached(kinds, view, user, object)),
        );
    }
    drafts.push(Draft::Delete {
        object: object.clone(),
        if_match,
    });
    Ok(drafts)
}

fn detached(
    kinds: &Kinds,
    view: &View<'_>,
    referrer: &ObjectRef,
    target: &ObjectRef,
) -> Option<Draft> {
    let kind = kinds.named(&referrer.kind)?;
    let object = view.get(kind.name(), &referrer.name)?;
    let parts: Parts = kind.detach(object, target);
    Some(Draft::put(Manifest {
        kind: kind.name(),
        name: object.name.clone(),
        tenant: None,
        labels: None,
        parts,
    }))
}

/// Every place where two contents differ: pointer, earlier and later value. Members of lists that have
/// an `id` are named by it.
pub fn differences(from: &Value, to: &Value) -> Vec<(String, Option<Value>, Option<Value>)> {
    let mut found = Vec::new();
    compare(&by_id(from), &by_id(to), String::new(), &mut found);
    found
}

/// A list whose members all have an `id` as an object by id, so that members are compared with
/// themselves wherever they stand.
fn by_id(value: &Value) -> Value {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let named = items
                .iter()
                .map(|item| Some((item.get("id")?.as_str()?.to_owned(), item)));
            match named.collect::<Option<BTreeMap<_, _>>>() {
                Some(named) => named
                    .into_iter()
                    .map(|(id, item)| (id, by_id(item)))
                    .collect::<Value>(),
                None => value.clone(),
            }
        },
        Value::Object(members) => members
            .iter()
            .map(|(name, item)| (name.clone(), by_id(item)))
            .collect::<Value>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            value.clone()
        },
    }
}

fn compare(
    from: &Value,
    to: &Value,
    at: String,
    found: &mut Vec<(String, Option<Value>, Option<Value>)>,
) {
    let (Some(before), Some(after)) = (from.as_object(), to.as_object()) else {
        if from != to {
            found.push((at, Some(from.clone()), Some(to.clone())));
        }
        return;
    };
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let pointer = format!("{at}/{name}");
        match (before.get(name), after.get(name)) {
            (Some(from), Some(to)) => compare(from, to, pointer, found),
            (from, to) => found.push((pointer, from.cloned(), to.cloned())),
        }
    }
}
