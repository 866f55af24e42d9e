//! The loop that runs a controller, and the controller of nodes.

use std::fmt::Debug;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{Either, select};
use tokio::sync::broadcast::error::RecvError;

use super::rules::{Outcome, WorkQueue};
use crate::agent::{AgentRecord, agent_key};
use crate::clock::{Clock, Monotonic, Timestamp};
use crate::delivery::{NodeFacts, NodePlan, RenderedRecord, StatusRecord, System, plan_node};
use crate::delivery::{rendered_key, status_key};
use crate::error::Error;
use crate::ids::{IdGen, ObjectRef, TxnId};
use crate::lease::Shard;
use crate::spec::{Catalog, Kinds, Object, part_key};
use crate::store::{Cache, Changed, Entry, Key, Snapshot, Store};
use crate::task::{self, CONFIG_UPDATE, ConfigUpdate, config_update_key};
use crate::txn::{FencedTxn, Guard, Settled, commit};

/// Longest sleep of a loop that has nothing due, so that a clock that jumped is noticed.
const IDLE: Duration = Duration::from_secs(10);
/// How long one write may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nodes of one transaction: spec, rendered and task of each, within every backend's limits.
const NODES: usize = 25;
/// The part of a node that says what it is.
const SPEC: &str = "spec";

/// What decides about keys, and carries out what was decided.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    /// What it decides about.
    type Key: Ord + Clone + Debug + Send + Sync;
    /// What it decided: plain data.
    type Plan: Send;

    /// Its name, for logs.
    fn name(&self) -> &'static str;

    /// The keys that may need work after these keys of the store changed. A mapping, no decision.
    fn interests(&self, snapshot: &Snapshot<Catalog>, changed: &[Key]) -> Vec<Self::Key>;

    /// Every key, at the start and when it is not known what changed.
    fn all(&self, snapshot: &Snapshot<Catalog>) -> Vec<Self::Key>;

    /// What is to be done about a key; `None` when nothing is and nothing will be. Pure.
    fn plan(
        &self,
        snapshot: &Snapshot<Catalog>,
        key: &Self::Key,
        now: Timestamp,
    ) -> Option<Self::Plan>;

    /// Carries out plans, each guarded by what it was made from, so that an older one loses. One
    /// outcome for each, in order.
    async fn carry_out(&self, plans: Vec<(Self::Key, Self::Plan)>) -> Vec<Outcome>;

    /// Most plans of one call.
    fn batch(&self) -> usize {
        1
    }
}

/// Runs a controller until dropped.
pub async fn run<C: Controller>(
    controller: Arc<C>,
    cache: Arc<Cache<Catalog>>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGen>,
) {
    let mut changes = cache.changes();
    let mut queue = WorkQueue::default();
    add_all(&*controller, &cache, &mut queue, clock.monotonic());
    loop {
        let now = clock.monotonic();
        let keys = queue.take(controller.batch(), now);
        if !keys.is_empty() {
            work(&*controller, &cache, &mut queue, keys, (&*clock, &*ids)).await;
            while let Ok(changed) = changes.try_recv() {
                note(
                    &*controller,
                    &cache,
                    &mut queue,
                    &changed,
                    clock.monotonic(),
                );
            }
            // Keys with nothing to do wait for nothing: a pass over all of them would keep everybody
            // else from this thread, at a start of all times, when the whole fleet comes back.
            give_way().await;
            continue;
        }
        let idle = now.plus(IDLE);
        let until = queue.next_due().map_or(idle, |due| due.min(idle));
        let changed = Box::pin(changes.recv());
        match select(changed, clock.sleep_until(until)).await {
            Either::Left((Ok(changed), _)) => {
                note(
                    &*controller,
                    &cache,
                    &mut queue,
                    &changed,
                    clock.monotonic(),
                );
            },
            Either::Left((Err(RecvError::Lagged(_)), _)) => {
                add_all(&*controller, &cache, &mut queue, clock.monotonic());
            },
            Either::Left((Err(RecvError::Closed), _)) => return,
            Either::Right(_) => {},
        }
    }
}

/// Lets every other task that is ready run first.
async fn give_way() {
    let mut gave = false;
    poll_fn(|context| {
        if std::mem::replace(&mut gave, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn add_all<C: Controller>(
    controller: &C,
    cache: &Cache<Catalog>,
    queue: &mut WorkQueue<C::Key>,
    now: Monotonic,
) {
    for key in cache.read(|snapshot| controller.all(snapshot)) {
        queue.add(key, now);
    }
}

fn note<C: Controller>(
    controller: &C,
    cache: &Cache<Catalog>,
    queue: &mut WorkQueue<C::Key>,
    changed: &Changed,
    now: Monotonic,
) {
    match &changed.keys {
        Some(keys) => {
            for key in cache.read(|snapshot| controller.interests(snapshot, keys)) {
                queue.add(key, now);
            }
        },
        None => add_all(controller, cache, queue, now),
    }
}

async fn work<C: Controller>(
    controller: &C,
    cache: &Cache<Catalog>,
    queue: &mut WorkQueue<C::Key>,
    keys: Vec<C::Key>,
    (clock, ids): (&dyn Clock, &dyn IdGen),
) {
    let wall = clock.wall();
    let mut planned = Vec::new();
    let mut idle = Vec::new();
    cache.read(|snapshot| {
        for key in keys {
            match controller.plan(snapshot, &key, wall) {
                Some(plan) => planned.push((key, plan)),
                None => idle.push(key),
            }
        }
    });
    let jitter = || u32::try_from(ids.below(1_000)).unwrap_or(0);
    for key in idle {
        queue.finish(&key, &Outcome::Done(None), clock.monotonic(), 0);
    }
    let names: Vec<C::Key> = planned.iter().map(|(key, _)| key.clone()).collect();
    if names.is_empty() {
        return;
    }
    let outcomes = controller.carry_out(planned).await;
    for (key, outcome) in names.iter().zip(&outcomes) {
        if let Outcome::Retry(reason) = outcome {
            tracing::info!(
                controller = controller.name(),
                ?key,
                reason,
                "trying again later"
            );
        }
        queue.finish(key, outcome, clock.monotonic(), jitter());
    }
}

/// What the controller of nodes needs.
#[derive(Clone, Debug)]
pub struct NodeControllerConfig {
    /// Where to write.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub ids: Arc<dyn IdGen>,
    /// The fence.
    pub shard: Shard,
    /// The system whose nodes are planned for.
    pub system: Arc<dyn System>,
    /// All kinds, for the keys of nodes.
    pub kinds: Kinds,
}

/// Keeps `desired_config_version`, what the head renders to, and the `config_update` of every node.
#[derive(Debug)]
pub struct NodeController(pub NodeControllerConfig);

/// What is to be written for a node, and the guards of it.
#[derive(Debug)]
pub struct PlannedNode {
    plan: NodePlan,
    object: Arc<Object>,
    rendered: Guard,
    task: Guard,
}

impl NodeController {
    fn held<T: serde::de::DeserializeOwned>(
        snapshot: &Snapshot<Catalog>,
        key: &Key,
    ) -> (Guard, Option<T>) {
        let entry: Option<&Entry> = snapshot.entries.get(key);
        let value = entry.and_then(|entry| serde_json::from_slice(&entry.value).ok());
        (Guard::of(entry.map(|entry| &entry.meta)), value)
    }

    fn write(&self, txn: &mut FencedTxn, planned: &PlannedNode) {
        let PlannedNode {
            plan,
            object,
            rendered,
            task,
        } = planned;
        if let Some(record) = &plan.record
            && let Some(kind) = self.0.kinds.named(object.kind)
        {
            let spec = part_key(kind, &object.name, SPEC);
            let was = object
                .revisions
                .get(SPEC)
                .map_or(Guard::ABSENT, |at| Guard::at(*at));
            // What somebody has put there past CPL stays as it is, but for this; what is no JSON stays altogether.
            if let Some(stored) = object.stored(SPEC) {
                txn.put_desired_version(spec, was, stored, record.config_version);
            }
            txn.put(rendered_key(&object.name), *rendered, record);
        }
        match &plan.task {
            task::Step::Put(update) => txn.put(config_update_key(&object.name), *task, update),
            task::Step::Remove => txn.delete(config_update_key(&object.name)),
            task::Step::Keep(_) => {},
        }
    }

    async fn commit(&self, plans: &[(String, PlannedNode)]) -> Result<bool, Error> {
        let NodeControllerConfig {
            store,
            clock,
            ids,
            shard,
            ..
        } = &self.0;
        let mut txn = FencedTxn::new(TxnId::fresh(&**ids), shard);
        for (_, planned) in plans {
            self.write(&mut txn, planned);
        }
        if txn.is_empty() {
            return Ok(true);
        }
        let deadline = clock.monotonic().plus(PATIENCE);
        let settled = commit(&**store, &**clock, &**ids, txn, deadline).await?;
        Ok(matches!(settled, Settled::Applied(_)))
    }
}

fn outcome_of(planned: &PlannedNode) -> Outcome {
    match &planned.plan.task {
        task::Step::Put(_) => Outcome::Done(Some(task::LEASE)),
        task::Step::Keep(again) => Outcome::Done(*again),
        task::Step::Remove => Outcome::Done(None),
    }
}

#[async_trait]
impl Controller for NodeController {
    type Key = String;
    type Plan = PlannedNode;

    fn name(&self) -> &'static str {
        "nodes"
    }

    fn interests(&self, snapshot: &Snapshot<Catalog>, changed: &[Key]) -> Vec<String> {
        let view = snapshot.index.view();
        let mut nodes = Vec::new();
        for key in changed {
            if let Some((kind, name)) = snapshot.index.object_of(key) {
                let object = ObjectRef {
                    kind: kind.to_owned(),
                    name,
                };
                nodes.extend(self.0.system.affected(&object, &view));
            } else if let Some(parts) = crate::delivery::STATUS.parts(key) {
                nodes.extend(parts.first().map(|name| (*name).to_owned()));
            } else if let Some(parts) = crate::agent::AGENT.parts(key) {
                nodes.extend(parts.first().map(|name| (*name).to_owned()));
            } else if let Some(parts) = CONFIG_UPDATE.parts(key) {
                let node = parts.first().and_then(|id| id.strip_prefix("task-"));
                nodes.extend(node.map(str::to_owned));
            }
        }
        nodes
    }

    fn all(&self, snapshot: &Snapshot<Catalog>) -> Vec<String> {
        let view = snapshot.index.view();
        let nodes = view.of_kind(self.0.system.node_kind());
        nodes.map(|node| node.name.clone()).collect()
    }

    fn plan(
        &self,
        snapshot: &Snapshot<Catalog>,
        node: &String,
        now: Timestamp,
    ) -> Option<PlannedNode> {
        let object = snapshot.index.get(self.0.system.node_kind(), node)?;
        let rendered = self.0.system.render(object, &snapshot.index.view())?;
        let (rendered_guard, record) =
            Self::held::<RenderedRecord>(snapshot, rendered_key(node).key());
        let (task_guard, task) =
            Self::held::<ConfigUpdate>(snapshot, config_update_key(node).key());
        let (_, status) = Self::held::<StatusRecord>(snapshot, status_key(node).key());
        let (_, agent) = Self::held::<AgentRecord>(snapshot, agent_key(node).key());
        let facts = NodeFacts {
            node,
            rendered: &rendered,
            record: record.as_ref(),
            task: task.as_ref(),
            status: status.as_ref(),
            agent: agent.map(|agent| agent.agent_incarnation),
        };
        let plan = plan_node(&facts, now);
        let object = Arc::clone(object);
        Some(PlannedNode {
            plan,
            object,
            rendered: rendered_guard,
            task: task_guard,
        })
    }

    async fn carry_out(&self, plans: Vec<(String, PlannedNode)>) -> Vec<Outcome> {
        match self.commit(&plans).await {
            Ok(true) => plans
                .iter()
                .map(|(_, planned)| outcome_of(planned))
                .collect(),
            // Somebody changed one of them meanwhile; all are planned anew from the newer state.
            Ok(false) => {
                let lost = "the plan was made from an older state".to_owned();
                plans.iter().map(|_| Outcome::Retry(lost.clone())).collect()
            },
            Err(error) => {
                let reason = error.to_string();
                plans
                    .iter()
                    .map(|_| Outcome::Retry(reason.clone()))
                    .collect()
            },
        }
    }

    fn batch(&self) -> usize {
        NODES
    }
}
