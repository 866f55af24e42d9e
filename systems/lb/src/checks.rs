//! What can only be judged with other objects in view: that references lead somewhere, and that no two
//! target groups of a node want the same port.
//!
//! HAProxy starts with two frontends on one address without a word, and the kernel then splits the
//! connections between them; so this has to be found here.

use std::collections::BTreeMap;

use cpl_core::error::FieldError;
use cpl_core::spec::{Object, View};

use crate::plan::{NODE, TARGET_GROUP, node_spec, serves, targetgroup_spec};

/// What is wrong with a node in view of the target groups.
pub fn node(object: &Object, view: &View<'_>) -> Vec<FieldError> {
    let Some(spec) = node_spec(object) else {
        return vec![unreadable()];
    };
    let mut errors = Vec::new();
    let mut ports: BTreeMap<u16, &str> = BTreeMap::new();
    for (index, name) in spec.assigned_targetgroups.iter().enumerate() {
        let pointer = format!("/spec/assigned_targetgroups/{index}");
        let Some(targetgroup) = view.get(TARGET_GROUP, name) else {
            let detail = format!("there is no target group named {name}");
            errors.push(FieldError::new(pointer, "REFERENCE_UNKNOWN", detail));
            continue;
        };
        let Some(targetgroup) = targetgroup_spec(targetgroup) else {
            continue;
        };
        if let Some(other) = ports.insert(targetgroup.port, name) {
            let detail = format!(
                "{name} and {other} both listen on port {}",
                targetgroup.port
            );
            errors.push(FieldError::new(pointer, "PORT_CONFLICT", detail));
        }
    }
    errors
}

/// What is wrong with a target group in view of the nodes that serve it.
pub fn targetgroup(object: &Object, view: &View<'_>) -> Vec<FieldError> {
    let Some(spec) = targetgroup_spec(object) else {
        return vec![unreadable()];
    };
    let nodes = view.of_kind(NODE).filter(|node| serves(node, &object.name));
    let clashes = nodes.filter_map(|node| {
        let others = node_spec(node)?.assigned_targetgroups;
        let other = others
            .into_iter()
            .filter(|name| *name != object.name)
            .find(|name| {
                let other = view
                    .get(TARGET_GROUP, name)
                    .and_then(|other| targetgroup_spec(other));
                other.is_some_and(|other| other.port == spec.port)
            })?;
        let node = &node.name;
        let detail = format!("{other} listens on port {} of {node} already", spec.port);
        Some(FieldError::new("/spec/port", "PORT_CONFLICT", detail))
    });
    clashes.take(1).collect()
}

fn unreadable() -> FieldError {
    FieldError::new("/spec", "FIELD_INVALID", "the stored spec is not readable")
}
