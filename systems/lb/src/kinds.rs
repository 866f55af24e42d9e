//! What the core has to know of target groups and nodes.

use std::collections::{BTreeMap, BTreeSet};

use cpl_core::error::FieldError;
use cpl_core::fields::Fields;
use cpl_core::ids::ObjectRef;
use cpl_core::spec::{Kind, Object, Parts, Stamp, Summary, View};
use serde::Serialize;
use serde_json::Value;

use crate::checks;
pub use crate::plan::{ATTEMPT, ENDPOINTS, SPEC};
use crate::plan::{NODE, TARGET_GROUP, attempt, serves};
use crate::spec::{NodeSpec, read_endpoints, read_node, read_targetgroup};

/// Fields of a stored target group's spec that CPL writes.
const STAMPED: [&str; 3] = ["version", "last_modified_by", "last_modified_at"];
/// The field of a stored node's spec that the owner of the node's shard writes.
const DESIRED: &str = "desired_config_version";

/// Target groups.
#[derive(Clone, Copy, Debug)]
pub struct TargetGroupKind;

/// Nodes.
#[derive(Clone, Copy, Debug)]
pub struct NodeKind;

#[expect(
    clippy::expect_used,
    reason = "these types hold only what JSON can express"
)]
fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("a spec is JSON")
}

/// A copy of `value` without some of its fields.
fn without(value: &Value, names: &[&str]) -> Value {
    let mut copy = value.clone();
    if let Some(fields) = copy.as_object_mut() {
        for name in names {
            fields.remove(*name);
        }
    }
    copy
}

/// A copy of `value` with one more field.
fn with(value: &Value, name: &str, field: Value) -> Value {
    let mut copy = value.clone();
    if let Some(fields) = copy.as_object_mut() {
        fields.insert(name.to_owned(), field);
    }
    copy
}

impl Kind for TargetGroupKind {
    fn name(&self) -> &'static str {
        TARGET_GROUP
    }

    fn collection(&self) -> &'static str {
        "targetgroups"
    }

    fn parts(&self) -> &'static [&'static str] {
        &[SPEC, ENDPOINTS]
    }

    fn read(&self, fields: &mut Fields<'_>) -> Option<Parts> {
        let spec = fields.required_object(SPEC, read_targetgroup).flatten();
        let endpoints = read_endpoints(fields, ENDPOINTS);
        let mut parts = Parts::from([(SPEC, json(&spec?))]);
        if let Some(mut endpoints) = endpoints {
            endpoints.sort_by(|a, b| a.id.cmp(&b.id));
            parts.insert(ENDPOINTS, json(&endpoints));
        }
        Some(parts)
    }

    fn people(&self, stored: &Parts) -> Parts {
        let mut people = stored.clone();
        if let Some(spec) = people.get_mut(SPEC) {
            *spec = without(spec, &STAMPED);
        }
        people
    }

    fn stamp(&self, people: &Parts, _before: Option<&Parts>, stamp: &Stamp<'_>) -> Parts {
        let mut stored = people.clone();
        stored
            .entry(ENDPOINTS)
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Some(spec) = stored.get_mut(SPEC) {
            let stamped = with(spec, STAMPED[0], stamp.generation.0.into());
            let stamped = with(&stamped, STAMPED[1], stamp.actor.into());
            *spec = with(&stamped, STAMPED[2], stamp.at.rfc3339().into());
        }
        stored
    }

    fn check(&self, object: &Object, view: &View<'_>) -> Vec<FieldError> {
        checks::targetgroup(object, view)
    }

    fn referrers(&self, name: &str, view: &View<'_>) -> Vec<ObjectRef> {
        view.of_kind(NODE)
            .filter(|node| serves(node, name))
            .map(|node| node.reference())
            .collect()
    }

    fn summarize(&self, before: Option<&Parts>, after: Option<&Parts>) -> Summary {
        let (old, new) = (endpoints_by_id(before), endpoints_by_id(after));
        let (old_ids, new_ids): (BTreeSet<_>, BTreeSet<_>) =
            (old.keys().collect(), new.keys().collect());
        let added: Vec<String> = new_ids
            .difference(&old_ids)
            .map(|id| (*id).clone())
            .collect();
        let removed: Vec<String> = old_ids
            .difference(&new_ids)
            .map(|id| (*id).clone())
            .collect();
        let kept = old_ids.intersection(&new_ids);
        let changed: Vec<String> = kept
            .filter(|id| old[**id] != new[**id])
            .map(|id| (*id).clone())
            .collect();
        let spec = |parts: Option<&Parts>| parts.and_then(|p| p.get(SPEC).cloned());
        let spec_same = spec(before) == spec(after);
        let operation = match (before, after) {
            (None, _) => "CREATE",
            (_, None) => "DELETE",
            _ if !spec_same => "UPDATE",
            _ => match (added.is_empty(), removed.is_empty(), changed.is_empty()) {
                (false, true, true) => "ADD_ENDPOINT",
                (true, false, true) => "REMOVE_ENDPOINT",
                (true, true, false) => "UPDATE_ENDPOINT",
                (true, true, true) => "UPDATE_METADATA",
                _ => "UPDATE_ENDPOINTS",
            },
        };
        Summary {
            operation: operation.to_owned(),
            added,
            removed,
            changed,
        }
    }
}

fn endpoints_by_id(parts: Option<&Parts>) -> BTreeMap<String, Value> {
    let endpoints = parts
        .and_then(|parts| parts.get(ENDPOINTS))
        .and_then(Value::as_array);
    let named = endpoints.into_iter().flatten();
    named
        .filter_map(|e| Some((e.get("id")?.as_str()?.to_owned(), e.clone())))
        .collect()
}

impl Kind for NodeKind {
    fn name(&self) -> &'static str {
        NODE
    }

    fn collection(&self) -> &'static str {
        "nodes"
    }

    fn parts(&self) -> &'static [&'static str] {
        &[SPEC, ATTEMPT]
    }

    fn read(&self, fields: &mut Fields<'_>) -> Option<Parts> {
        let spec = fields.required_object(SPEC, read_node)?;
        Some(Parts::from([(SPEC, json(&spec))]))
    }

    fn people(&self, stored: &Parts) -> Parts {
        let mut people = stored.clone();
        if let Some(spec) = people.get_mut(SPEC) {
            *spec = without(spec, &[DESIRED]);
        }
        people
    }

    fn stamp(&self, people: &Parts, before: Option<&Parts>, _stamp: &Stamp<'_>) -> Parts {
        let mut stored = people.clone();
        let was = before.and_then(|parts| parts.get(SPEC));
        let desired = was
            .and_then(|spec| spec.get(DESIRED))
            .cloned()
            .unwrap_or_else(|| 0.into());
        if let Some(spec) = stored.get_mut(SPEC) {
            *spec = with(spec, DESIRED, desired);
        }
        // A rollback to older content must not lower it: nodes compare it with what they have seen.
        let attempt = before.map_or(0, attempt).max(attempt(people));
        if attempt > 0 {
            stored.insert(ATTEMPT, attempt.into());
        }
        stored
    }

    fn check(&self, object: &Object, view: &View<'_>) -> Vec<FieldError> {
        checks::node(object, view)
    }

    fn detach(&self, referrer: &Object, target: &ObjectRef) -> Parts {
        let mut people = self.people(&referrer.parts);
        let assigned = people
            .get_mut(SPEC)
            .and_then(|spec| spec.get_mut("assigned_targetgroups"))
            .and_then(Value::as_array_mut);
        if let Some(assigned) = assigned {
            assigned.retain(|name| *name != target.name);
        }
        people
    }
}

/// A node's parts with its drained flag set, for the verbs `drain` and `undrain`.
pub fn drained(node: &Object, drained: bool) -> Parts {
    let mut spec: NodeSpec = crate::plan::node_spec(node).unwrap_or_default();
    spec.drained = drained;
    Parts::from([(SPEC, json(&spec))])
}

/// A node's parts asking for another try of what it holds, for the verb `retry`.
pub fn retried(node: &Object) -> Parts {
    Parts::from([(ATTEMPT, (attempt(&node.parts) + 1).into())])
}
