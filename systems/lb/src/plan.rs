//! What one node must run: rendered purely from its spec and the target groups that it serves.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use cpl_core::delivery::{Body, ConfigObject, Configuration, Input, Rendered, System};
use cpl_core::ids::{ObjectRef, Uid};
use cpl_core::spec::{Object, Parts, View};
use cpl_core::version::Generation;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::spec::{Bgp, Endpoint, NodeSpec, TargetGroupSpec};

/// The name of this system in a [`Configuration`].
pub const SYSTEM: &str = "lb";
/// The format of the bodies.
pub const SCHEMA: u32 = 1;
/// Most bodies that are kept; beyond it they are made anew.
const MOST_BODIES: usize = 20_000;
/// The kind of a target group.
pub const TARGET_GROUP: &str = "TargetGroup";
/// The kind of a node.
pub const NODE: &str = "Node";

/// The part of an object that says what it is.
pub const SPEC: &str = "spec";
/// The part of a target group that says who serves it.
pub const ENDPOINTS: &str = "endpoints";
/// The part of a node that counts how often it was asked to try again what it holds. A manifest says
/// nothing of it, so applying one leaves it alone.
pub const ATTEMPT: &str = "attempt";
/// What concerns a node as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePart {
    /// Where every target group listens; all addresses when empty.
    pub listen_addresses: Vec<IpAddr>,
    /// No new connections are accepted.
    pub drained: bool,
    /// What is announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<Bgp>,
}

/// The body of a target group: its spec and its endpoints, ordered by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetGroupBody {
    /// What it is.
    pub spec: TargetGroupSpec,
    /// Who serves it.
    pub endpoints: Vec<Endpoint>,
}

/// A target group as it goes into a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetGroup {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: Uid,
    /// Its generation.
    pub generation: Generation,
    /// What it is and who serves it.
    pub body: TargetGroupBody,
}

/// A configuration with its parts understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// What concerns the node as a whole.
    pub node: NodePart,
    /// What it serves, ordered by name.
    pub targetgroups: Vec<TargetGroup>,
}

/// Whether a node is assigned to a target group.
pub(crate) fn serves(node: &Object, targetgroup: &str) -> bool {
    let assigned = node
        .part(SPEC)
        .get("assigned_targetgroups")
        .and_then(Value::as_array);
    assigned.is_some_and(|names| names.iter().any(|name| name == targetgroup))
}

/// How often a node was asked to try again.
pub(crate) fn attempt(parts: &Parts) -> u64 {
    parts.get(ATTEMPT).and_then(Value::as_u64).unwrap_or(0)
}

/// The spec of a stored node, or `None` when it is not readable.
pub fn node_spec(object: &Object) -> Option<NodeSpec> {
    let spec = NodeSpec::deserialize(object.part(SPEC)).ok()?;
    Some(NodeSpec {
        attempt: attempt(&object.parts),
        ..spec
    })
}

/// The spec of a stored target group, or `None` when it is not readable.
pub fn targetgroup_spec(object: &Object) -> Option<TargetGroupSpec> {
    TargetGroupSpec::deserialize(object.part(SPEC)).ok()
}

/// The endpoints of a stored target group; none when they are not readable.
pub fn endpoints(object: &Object) -> Vec<Endpoint> {
    Vec::deserialize(object.part(ENDPOINTS)).unwrap_or_default()
}

/// The fleet, as the core sees it.
#[derive(Debug, Default)]
pub struct Fleet {
    /// The body of each target group as it was rendered last, with the object that it was made from: while
    /// that one is held, no other can have its address.
    bodies: Mutex<BTreeMap<Uid, Made>>,
}

/// A body, and what it was made from.
type Made = (Arc<Object>, Option<Body>);

impl Fleet {
    /// The body of a target group, made once for all nodes that serve it; `None` when its spec is not
    /// readable.
    fn body(&self, object: &Arc<Object>) -> Option<Body> {
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        match bodies.get(&object.meta.uid) {
            Some((known, body)) if Arc::ptr_eq(known, object) => body.clone(),
            Some(_) | None => {
                let body = targetgroup_spec(object).map(|spec| {
                    let endpoints = endpoints(object);
                    body(TargetGroupBody { spec, endpoints })
                });
                if bodies.len() >= MOST_BODIES {
                    bodies.clear();
                }
                bodies.insert(object.meta.uid, (Arc::clone(object), body.clone()));
                body
            },
        }
    }
}

impl System for Fleet {
    fn node_kind(&self) -> &'static str {
        NODE
    }

    fn render(&self, node: &Object, view: &View<'_>) -> Option<Rendered> {
        let spec = node_spec(node)?;
        let assigned = spec.assigned_targetgroups.iter();
        let objects: Vec<_> = assigned
            .filter_map(|name| view.get(TARGET_GROUP, name))
            .collect();
        let rendered = objects.iter().filter_map(|object| {
            let of = (object.name.clone(), object.meta.uid, object.meta.generation);
            Some(config_object(of, self.body(object)?))
        });
        let rendered = rendered.collect();
        let inputs = objects.iter().map(|object| Input::of(object));
        let newest = inputs.chain([Input::of(node)]).max()?;
        Some(Rendered {
            configuration: configuration(&spec, rendered),
            newest,
        })
    }

    fn affected(&self, object: &ObjectRef, view: &View<'_>) -> Vec<String> {
        match object.kind.as_str() {
            NODE => vec![object.name.clone()],
            TARGET_GROUP => {
                let nodes = view.of_kind(NODE).filter(|node| serves(node, &object.name));
                nodes.map(|node| node.name.clone()).collect()
            },
            _ => Vec::new(),
        }
    }
}

/// Renders what a node must run. Only the target groups that it is assigned to go in, whichever are
/// given; one that is assigned and not given does not exist, and is left out.
pub fn render(spec: &NodeSpec, targetgroups: &[TargetGroup]) -> Configuration {
    let assigned = targetgroups
        .iter()
        .filter(|tg| spec.assigned_targetgroups.contains(&tg.name));
    let objects = assigned.map(|tg| {
        let of = (tg.name.clone(), tg.uid, tg.generation);
        config_object(of, body(tg.body.clone()))
    });
    configuration(spec, objects.collect())
}

fn body(mut body: TargetGroupBody) -> Body {
    body.endpoints.sort_by(|a, b| a.id.cmp(&b.id));
    Body::from(json(&body))
}

fn config_object((name, uid, generation): (String, Uid, Generation), body: Body) -> ConfigObject {
    let kind = TARGET_GROUP.to_owned();
    ConfigObject {
        object: ObjectRef { kind, name },
        uid,
        generation,
        body,
    }
}

fn configuration(spec: &NodeSpec, mut objects: Vec<ConfigObject>) -> Configuration {
    let node = NodePart {
        listen_addresses: spec.listen_addresses.clone(),
        drained: spec.drained,
        bgp: spec.bgp.clone(),
    };
    objects.sort_by(|a, b| a.object.cmp(&b.object));
    Configuration {
        system: SYSTEM.to_owned(),
        schema: SCHEMA,
        attempt: spec.attempt,
        node: json(&node),
        objects,
    }
}

#[expect(
    clippy::expect_used,
    reason = "these types hold only what JSON can express"
)]
fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("a rendered part is JSON")
}

/// What could not be understood of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The configuration is of another system or format, or its node part is not readable.
    Whole(String),
    /// One object is not readable.
    Object(ObjectRef, String),
}

/// Understands a configuration.
///
/// # Errors
/// Every object that this version of the system cannot read, or that nothing of it can be read.
pub fn read(configuration: &Configuration) -> Result<NodeConfig, Vec<Unreadable>> {
    let Configuration {
        system,
        schema,
        attempt: _,
        node,
        objects,
    } = configuration;
    if (system.as_str(), *schema) != (SYSTEM, SCHEMA) {
        let what = format!("expected {SYSTEM} schema {SCHEMA}, got {system} schema {schema}");
        return Err(vec![Unreadable::Whole(what)]);
    }
    let node = NodePart::deserialize(node).map_err(|e| vec![Unreadable::Whole(e.to_string())])?;
    let (mut targetgroups, mut unreadable) = (Vec::new(), Vec::new());
    for object in objects {
        match read_object(object) {
            Ok(tg) => targetgroups.push(tg),
            Err(why) => unreadable.push(Unreadable::Object(object.object.clone(), why)),
        }
    }
    if unreadable.is_empty() {
        Ok(NodeConfig { node, targetgroups })
    } else {
        Err(unreadable)
    }
}

fn read_object(object: &ConfigObject) -> Result<TargetGroup, String> {
    let ObjectRef { kind, name } = &object.object;
    if kind != TARGET_GROUP {
        return Err(format!("unknown kind {kind}"));
    }
    let body = TargetGroupBody::deserialize(&*object.body).map_err(|e| e.to_string())?;
    Ok(TargetGroup {
        name: name.clone(),
        uid: object.uid,
        generation: object.generation,
        body,
    })
}
