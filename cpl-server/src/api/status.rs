//! How things stand: the status of objects, how far a change has come, and why a node is behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as JsonAnswer;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use cpl_api::object::{
    Convergence, Difference, Finding, ForeignChange, Metadata, NodeStatus, Object as WireObject,
    RolloutNode, RolloutResponse, TargetGroupStatus, WhyResponse,
};
use cpl_core::access::Need;
use cpl_core::agent::{
    AGENT, AgentRecord, HEARTBEAT_LEASE, Presence, agent_key, heartbeat_lease_key,
};
use cpl_core::clock::Timestamp;
use cpl_core::delivery::{
    DataPlaneState, Hold, RenderedRecord, STATUS, Standing, StatusRecord, rendered_key, standing,
    status_key,
};
use cpl_core::error::Error;
use cpl_core::spec::{Catalog, Foreign, Object, Parts, differences};
use cpl_core::store::{Key, Snapshot};
use cpl_core::version::ConfigVersion;
use cpl_lb::kinds::{ENDPOINTS, SPEC};
use cpl_lb::observed::{Health, NodeHealth};
use cpl_lb::plan::{NODE, TARGET_GROUP, endpoints, node_spec};
use serde_json::Value;

use super::app::App;
use super::body::{Query, name};
use super::error::Answer;
use super::who::Who;

/// A node as it stands.
struct Node {
    desired: ConfigVersion,
    status: Option<StatusRecord>,
    agent: Option<AgentRecord>,
    alive: bool,
    since: Option<Timestamp>,
    heard: Option<Timestamp>,
}

impl Node {
    fn standing(&self) -> Standing {
        standing(
            self.desired,
            self.status.as_ref(),
            // Registered and not heard yet is not silent.
            self.agent.is_some() && self.since.is_some(),
            self.alive,
        )
    }

    fn current(&self) -> ConfigVersion {
        self.status
            .as_ref()
            .map(|status| status.current_config_version)
            .unwrap_or_default()
    }

    fn holds(&self) -> &[Hold] {
        self.status
            .as_ref()
            .map_or(&[], |status| &status.facts.holds)
    }
}

/// A way to look at a snapshot: stored records, with what this replica knows live on top.
#[derive(Clone, Debug)]
pub(super) struct Lens {
    app: App,
}

impl Lens {
    pub(super) fn of(app: &App) -> Self {
        Self { app: app.clone() }
    }

    /// The node that a record of agents or deliveries belongs to.
    pub(super) fn node_of(key: &Key) -> Option<(&'static str, String)> {
        let parts = STATUS.parts(key).or_else(|| HEARTBEAT_LEASE.parts(key));
        let parts = parts.or_else(|| AGENT.parts(key))?;
        Some((NODE, (*parts.first()?).to_owned()))
    }

    fn node(&self, snapshot: &Snapshot<Catalog>, object: &Object) -> Node {
        let name = &object.name;
        let desired = object
            .part(SPEC)
            .get("desired_config_version")
            .and_then(Value::as_u64);
        let presence: Option<Presence> = snapshot.record(heartbeat_lease_key(name).key());
        // What this replica knows counts only of agents that speak to it.
        let registry = &self.app.plane.registry;
        let here = |presence: &Presence| presence.epoch == registry.epoch();
        let live = presence
            .as_ref()
            .filter(|presence| here(presence))
            .and_then(|_| registry.last_heard(name));
        let alive = match live {
            Some((_, present)) => present,
            None => presence.as_ref().is_some_and(|presence| presence.present),
        };
        let desired = ConfigVersion(desired.unwrap_or(0));
        Node {
            desired: self
                .unplanned(snapshot, object)
                .unwrap_or(desired)
                .max(desired),
            status: snapshot.record(status_key(name).key()),
            agent: snapshot.record(agent_key(name).key()),
            alive,
            since: presence.map(|presence| presence.since),
            heard: live.map(|(at, _)| at),
        }
    }

    /// The version that a node must reach because of a change that its planner has not seen yet: a
    /// node must not look converged in the moment between.
    fn unplanned(&self, snapshot: &Snapshot<Catalog>, object: &Object) -> Option<ConfigVersion> {
        let rendered = self.app.system.render(object, &snapshot.index.view())?;
        let record: Option<RenderedRecord> = snapshot.record(rendered_key(&object.name).key());
        let planned = record.is_some_and(|r| r.digest == rendered.configuration.digest());
        (!planned).then_some(rendered.newest.version)
    }

    /// How every node stands.
    pub(super) fn standings(&self, snapshot: &Snapshot<Catalog>) -> Vec<Standing> {
        let view = snapshot.index.view();
        view.of_kind(NODE)
            .map(|object| self.node(snapshot, object).standing())
            .collect()
    }

    /// An object as it is shown, with its status.
    pub(super) fn object(&self, snapshot: &Snapshot<Catalog>, object: &Object) -> WireObject {
        let meta = &object.meta;
        let status = match object.kind {
            NODE => serde_json::to_value(self.node_status(snapshot, object)),
            _ => serde_json::to_value(self.targetgroup_status(snapshot, object)),
        };
        WireObject {
            kind: object.kind.to_owned(),
            metadata: Metadata {
                name: object.name.clone(),
                tenant: meta.tenant.clone(),
                labels: meta.labels.clone(),
                uid: meta.uid,
                generation: meta.generation,
                config_version: meta.config_version,
                etag: object.etag(),
                created_at: meta.created_at.rfc3339(),
                modified_at: meta.modified_at.rfc3339(),
                modified_by: meta.modified_by.clone(),
            },
            spec: object.part(SPEC).clone(),
            endpoints: object.parts.get(ENDPOINTS).cloned(),
            status: status.ok(),
            foreign: object
                .foreign
                .as_ref()
                .map(|foreign| self.foreign_change(object, foreign)),
        }
    }

    fn foreign_change(&self, object: &Object, foreign: &Foreign) -> ForeignChange {
        let people = |parts: &Parts| {
            let kind = self.app.plane.kinds.named(object.kind);
            serde_json::to_value(kind.map(|kind| kind.people(parts))).unwrap_or_default()
        };
        let differences = differences(&people(&object.parts), &people(&foreign.found));
        ForeignChange {
            differences: differences
                .into_iter()
                .map(|(pointer, from, to)| Difference { pointer, from, to })
                .collect(),
            unreadable: foreign
                .unreadable
                .iter()
                .map(|(part, why)| ((*part).to_owned(), why.clone()))
                .collect(),
        }
    }

    fn node_status(&self, snapshot: &Snapshot<Catalog>, object: &Object) -> NodeStatus {
        let node = self.node(snapshot, object);
        let (standing, current) = (node.standing(), node.current());
        let facts = node
            .status
            .as_ref()
            .map(|status| status.facts.clone())
            .unwrap_or_default();
        let stored = node
            .status
            .as_ref()
            .map(|status| status.last_heartbeat.clone());
        NodeStatus {
            current_config_version: current,
            desired_config_version: node.desired,
            convergence: convergence(standing),
            last_heartbeat: node.heard.map(Timestamp::rfc3339).or(stored),
            alive: node.alive,
            data_plane_state: facts.data_plane_state,
            driver: node.agent.as_ref().map(|agent| agent.driver.clone()),
            carries_traffic: node
                .agent
                .as_ref()
                .is_some_and(|agent| agent.carries_traffic),
            last_applied_change_id: node.status.and_then(|status| status.last_applied_change_id),
            holds: facts.holds,
            health: facts.health,
        }
    }

    fn targetgroup_status(
        &self,
        snapshot: &Snapshot<Catalog>,
        object: &Object,
    ) -> TargetGroupStatus {
        let nodes = self.serving(snapshot, &object.name);
        let reached = |node: &&(Arc<Object>, Node)| here(&node.1, object) == Convergence::Converged;
        let healths: Vec<BTreeMap<String, Health>> = nodes
            .iter()
            .filter_map(|(_, node)| health_of(node, &object.name))
            .collect();
        let healthy = |id: &str| {
            !healths.is_empty() && healths.iter().all(|h| h.get(id) == Some(&Health::Healthy))
        };
        let all = endpoints(object);
        TargetGroupStatus {
            nodes: nodes.len(),
            nodes_converged: nodes.iter().filter(reached).count(),
            endpoints: all.len(),
            endpoints_healthy: all.iter().filter(|endpoint| healthy(&endpoint.id)).count(),
        }
    }

    /// The nodes that are assigned to a target group.
    fn serving(&self, snapshot: &Snapshot<Catalog>, targetgroup: &str) -> Vec<(Arc<Object>, Node)> {
        let view = snapshot.index.view();
        let assigned = view.of_kind(NODE).filter(|object| {
            node_spec(object).is_some_and(|spec| {
                spec.assigned_targetgroups
                    .iter()
                    .any(|tg| tg == targetgroup)
            })
        });
        assigned
            .map(|object| (Arc::clone(object), self.node(snapshot, object)))
            .collect()
    }
}

/// The endpoints of a target group as one node that is heard sees them.
fn health_of(node: &Node, targetgroup: &str) -> Option<BTreeMap<String, Health>> {
    let status = node.status.as_ref().filter(|_| node.alive)?;
    let seen = NodeHealth::read(&status.facts.health)?.endpoints;
    let here = seen
        .into_iter()
        .filter(|health| health.targetgroup == targetgroup);
    Some(
        here.map(|health| (health.endpoint, health.health))
            .collect(),
    )
}

const fn convergence(standing: Standing) -> Convergence {
    match standing {
        Standing::Converged => Convergence::Converged,
        Standing::Pending => Convergence::Pending,
        Standing::Held => Convergence::Held,
        Standing::Silent => Convergence::Silent,
        Standing::NeverSeen => Convergence::NeverSeen,
    }
}

/// How a standing is written.
pub(super) const fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Converged => "converged",
        Standing::Pending => "pending",
        Standing::Held => "held",
        Standing::Silent => "silent",
        Standing::NeverSeen => "never_seen",
    }
}

/// How one node stands to one object: what it holds of others does not count, and what it accepted
/// does, even while others make it lag.
fn here(node: &Node, object: &Object) -> Convergence {
    match node.standing() {
        Standing::NeverSeen => Convergence::NeverSeen,
        Standing::Silent => Convergence::Silent,
        Standing::Converged | Standing::Pending | Standing::Held => {
            let wanted = object.meta.config_version.min(node.desired);
            let mine = |hold: &Hold| {
                hold.object.kind == NODE
                    || (hold.object.kind == object.kind && hold.object.name == object.name)
            };
            // While something else is held `accepted` stands still; what the data plane itself says
            // it runs goes on.
            let running = node
                .status
                .as_ref()
                .and_then(|status| status.facts.running_version);
            if node.holds().iter().any(mine) {
                Convergence::Held
            } else if node.current() >= wanted || running >= Some(wanted) {
                Convergence::Converged
            } else {
                Convergence::Pending
            }
        },
    }
}

/// `GET /v1/{collection}/{name}/rollout`.
pub(super) async fn rollout(
    State(app): State<App>,
    Path((collection, segment)): Path<(String, String)>,
    query: Query,
    who: Who,
) -> Answer<JsonAnswer<RolloutResponse>> {
    who.must(Need::Read)?;
    query.finish()?;
    let (kind, name) = (app.kind(&collection)?.name(), name(&segment)?);
    app.fresh().await?;
    let lens = Lens::of(&app);
    let found = app.plane.cache.read(|snapshot| {
        let object = snapshot.index.get(kind, &name)?;
        let nodes = match kind {
            TARGET_GROUP => lens.serving(snapshot, &name),
            _ => vec![(Arc::clone(object), lens.node(snapshot, object))],
        };
        let nodes: Vec<RolloutNode> = nodes
            .iter()
            .map(|(node, stands)| rollout_node(node, stands, object))
            .collect();
        Some(RolloutResponse {
            config_version: object.meta.config_version,
            complete: nodes
                .iter()
                .all(|node| node.convergence == Convergence::Converged),
            nodes,
        })
    });
    Ok(JsonAnswer(
        found.ok_or_else(|| Error::not_found(kind, &name))?,
    ))
}

fn rollout_node(object: &Object, node: &Node, target: &Object) -> RolloutNode {
    let convergence = here(node, target);
    let reason = match convergence {
        Convergence::Converged => String::new(),
        Convergence::Pending | Convergence::Held | Convergence::Silent | Convergence::NeverSeen => {
            findings(&object.name, node)
                .into_iter()
                .next()
                .map(|f| f.message)
                .unwrap_or_default()
        },
    };
    RolloutNode {
        node: object.name.clone(),
        desired: node.desired,
        current: node.current(),
        convergence,
        reason,
    }
}

/// `GET /v1/nodes/{name}:why`.
pub(super) async fn why(app: &App, name: &str) -> Answer<Response> {
    app.fresh().await?;
    let lens = Lens::of(app);
    let found = app.plane.cache.read(|snapshot| {
        let object = snapshot.index.get(NODE, name)?;
        let node = lens.node(snapshot, object);
        let drained = node_spec(object).is_some_and(|spec| spec.drained);
        Some(explain(name, &node, drained))
    });
    Ok(JsonAnswer(found.ok_or_else(|| Error::not_found(NODE, name))?).into_response())
}

fn explain(name: &str, node: &Node, drained: bool) -> WhyResponse {
    let mut findings = findings(name, node);
    if drained {
        findings.push(Finding {
            code: "NODE_DRAINED".to_owned(),
            object: None,
            field: None,
            message: format!("{name} is drained: it takes no new connections"),
            remedy: format!("cpl node undrain {name}"),
        });
    }
    let summary = match node.standing() {
        Standing::Converged if findings.is_empty() => {
            format!(
                "nothing is wrong: {name} runs version {} and should",
                node.current()
            )
        },
        Standing::Converged => format!("{name} runs what it should, but see below"),
        Standing::Pending => format!(
            "{name} is on its way from version {} to version {}",
            node.current(),
            node.desired
        ),
        Standing::Held => {
            format!(
                "{name} holds back {} and runs everything else",
                objects(node.holds())
            )
        },
        Standing::Silent => format!("the agent of {name} is silent"),
        Standing::NeverSeen => format!("no agent has ever registered for {name}"),
    };
    let convergence = convergence(node.standing());
    WhyResponse {
        node: name.to_owned(),
        convergence,
        summary,
        findings,
    }
}

fn objects(holds: &[Hold]) -> String {
    holds
        .iter()
        .map(|hold| hold.object.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// What is wrong with a node, most important first.
fn findings(name: &str, node: &Node) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |code: &str, message: String, remedy: String| {
        let code = code.to_owned();
        findings.push(Finding {
            code,
            object: None,
            field: None,
            message,
            remedy,
        });
    };
    let standing = node.standing();
    if standing == Standing::NeverSeen {
        let remedy = format!("cpl node join {name}, then start the agent with that token");
        add(
            "AGENT_NEVER_SEEN",
            format!("no agent has ever registered for {name}"),
            remedy,
        );
    }
    if standing == Standing::Silent {
        let since = node
            .since
            .map(|at| format!(" since {at}"))
            .unwrap_or_default();
        let message = format!(
            "the agent has not been heard{since}; it was last known to run version {}. The data plane \
             goes on with what it has",
            node.current()
        );
        let remedy = "look at the agent's process and its way to this server".to_owned();
        add("AGENT_SILENT", message, remedy);
    }
    if let Some(status) = node.status.as_ref().filter(|_| node.alive) {
        match status.facts.data_plane_state {
            DataPlaneState::Down => {
                let remedy = "look at the data plane's own log on the node".to_owned();
                add(
                    "DATA_PLANE_DOWN",
                    "the data plane does not run".to_owned(),
                    remedy,
                );
            },
            DataPlaneState::None => {
                let message = "the driver only writes files: no data plane, no traffic".to_owned();
                add(
                    "NO_DATA_PLANE",
                    message,
                    "install HAProxy and use its driver".to_owned(),
                );
            },
            DataPlaneState::Healthy | DataPlaneState::Degraded | DataPlaneState::Unknown => {},
        }
    }
    findings.extend(node.holds().iter().map(|hold| held_object(name, hold)));
    if standing == Standing::Pending && findings.is_empty() {
        findings.push(Finding {
            code: "CONFIG_ON_ITS_WAY".to_owned(),
            object: None,
            field: None,
            message: format!("version {} is being delivered or applied", node.desired),
            remedy: "wait a moment and ask again".to_owned(),
        });
    }
    findings
}

fn held_object(name: &str, hold: &Hold) -> Finding {
    let running = match hold.running {
        Some(running) => format!("generation {running} of it runs instead"),
        None => "it is left out".to_owned(),
    };
    Finding {
        code: "OBJECT_HELD".to_owned(),
        object: Some(hold.object.to_string()),
        field: hold.field.clone(),
        message: format!(
            "{} generation {} was refused ({}): {}; {running}",
            hold.object, hold.generation, hold.code, hold.message
        ),
        remedy: format!(
            "apply a corrected {}, or cpl node retry {name}",
            hold.object
        ),
    }
}
