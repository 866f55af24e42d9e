//! Answering agents, appending what they say, folding it into status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{Either, select};
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};

use super::model::{
    Delivered, Fact, LogEntry, Rendered, RenderedRecord, Report, StatusRecord, SyncAnswer,
    SyncCall, System,
};
use super::repo::{log_key, rendered_key, report_key, report_range, status_key};
use super::rules::{Advance, Answered, advance, closing, decide, fold, register_again};
use crate::agent::{AgentRecord, Heard, Registry, agent_key};
use crate::clock::{Clock, Spawner, Task};
use crate::error::{Error, Kind};
use crate::ids::{IdGen, TxnId};
use crate::lease::{Session, Shard};
use crate::spec::Catalog;
use crate::store::{Cache, Changed, Entry, Identity, Key, ListRequest, Snapshot, Store};
use crate::task::{ConfigUpdate, config_update_key};
use crate::txn::{FencedTxn, Guard, Settled, commit, decode};
use crate::version::ConfigVersion;

/// Facts that may wait to be appended; more are refused, and agents try again.
const QUEUE: usize = 8_192;
/// Facts of one batch.
const BATCH: usize = 256;
/// Bytes of one batch, well below the largest value.
const BATCH_BYTES: usize = 256 << 10;
/// Nodes of one folding transaction: status, log and task of each, within every backend's limits.
const NODES: usize = 30;
/// How long one write of this slice may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause of the folder after an error, and longest time between two looks.
const FOLD_PAUSE: Duration = Duration::from_secs(1);

/// What deliveries need.
#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    /// Where everything is.
    pub store: Arc<dyn Store>,
    /// The objects; must be run.
    pub cache: Arc<Cache<Catalog>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub ids: Arc<dyn IdGen>,
    /// The system whose nodes are served.
    pub system: Arc<dyn System>,
    /// Who is heard.
    pub registry: Arc<Registry>,
}

/// Serves the agents of one replica.
#[derive(Debug)]
pub struct Deliveries {
    config: DeliveryConfig,
    appender: Appender,
    /// The last report of each agent, so that only news is appended.
    last: Mutex<BTreeMap<String, Report>>,
    wakers: Mutex<BTreeMap<String, watch::Sender<u64>>>,
}

impl Deliveries {
    /// Serves agents; [`Deliveries::pump`] must be run for waiting ones to wake.
    pub fn new(config: DeliveryConfig, appender: Appender) -> Self {
        Self {
            config,
            appender,
            last: Mutex::default(),
            wakers: Mutex::default(),
        }
    }

    fn last(&self) -> MutexGuard<'_, BTreeMap<String, Report>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wakers(&self) -> MutexGuard<'_, BTreeMap<String, watch::Sender<u64>>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Heartbeat, report and poll in one: what the agent says is durable before this waits, and it
    /// returns as soon as the node should run something else.
    ///
    /// Dropping the future ends the wait; what was appended stays.
    ///
    /// # Errors
    /// `NotFound` for an unknown node; `Aborted` when the agent must register again,
    /// for a process that was superseded, and for a call that comes late; `Exhausted` and
    /// `Unavailable` when its report could not be appended: nothing of it happened then.
    pub async fn sync(&self, call: SyncCall) -> Result<SyncAnswer, Error> {
        self.admit(&call).await?;
        let word = Heard {
            incarnation: call.agent_incarnation,
            sequence: call.sequence,
        };
        if !self.config.registry.hear(&call.node, word).await {
            let detail = "a later call of this agent has arrived already";
            return Err(Error::new(Kind::Aborted, "SEQUENCE_STALE", detail));
        }
        self.append(&call).await?;
        let answer = self.answer(&call).await?;
        if let SyncAnswer::Configuration(delivered) = &answer {
            self.note_sent(&call.node, delivered.version).await;
        }
        Ok(answer)
    }

    async fn admit(&self, call: &SyncCall) -> Result<(), Error> {
        let head = self.config.store.head().await;
        let head = head.map_err(|error| Error::store("read the head", error))?;
        let limit = self.config.clock.sleep(PATIENCE);
        let waiting = Box::pin(self.config.cache.wait_for(head.revision));
        if matches!(select(waiting, limit).await, Either::Right(_)) {
            let detail = "the server does not see the newest state yet";
            return Err(Error::new(Kind::Unavailable, "CACHE_BEHIND", detail));
        }
        let SyncCall {
            node,
            agent_incarnation,
            facts,
            ..
        } = call;
        self.config.cache.read(|snapshot| {
            if snapshot
                .index
                .get(self.config.system.node_kind(), node)
                .is_none()
            {
                return Err(Error::not_found(self.config.system.node_kind(), node));
            }
            let agent: Option<AgentRecord> = snapshot.record(agent_key(node).key());
            match agent.map(|agent| agent.agent_incarnation) {
                Some(known) if known == *agent_incarnation => {},
                Some(known) if known > *agent_incarnation => {
                    let detail = format!("another process speaks for {node} now");
                    return Err(Error::new(Kind::Aborted, "AGENT_SUPERSEDED", detail));
                },
                Some(_) | None => return Err(register_again(node)),
            }
            let head = snapshot.index.version();
            let same_life = facts.incarnation == Some(snapshot.at.identity.incarnation);
            if same_life && facts.received > Some(head) {
                let detail = format!("{node} has received a version above {head}, the newest here");
                return Err(Error::new(Kind::OutOfRange, "VERSION_AHEAD", detail));
            }
            Ok(())
        })
    }

    /// Appends what the agent says, when it is news.
    async fn append(&self, call: &SyncCall) -> Result<(), Error> {
        let report = Report {
            node: call.node.clone(),
            agent_incarnation: call.agent_incarnation,
            sequence: call.sequence,
            at: self.config.clock.wall(),
            facts: call.facts.clone(),
        };
        let before = self
            .last()
            .get(&call.node)
            .cloned()
            .or_else(|| self.stored(&call.node));
        if !advance(before.as_ref(), &report) {
            tracing::warn!(node = %call.node, "the agent has lost versions that it had accepted");
            return Err(register_again(&call.node));
        }
        let known = before.is_some_and(|before| {
            before.agent_incarnation == report.agent_incarnation && before.facts == report.facts
        });
        if known {
            return Ok(());
        }
        self.appender.append(Fact::Report(report.clone())).await?;
        let mut last = self.last();
        let slot = last
            .entry(call.node.clone())
            .or_insert_with(|| report.clone());
        if (slot.agent_incarnation, slot.sequence) < (report.agent_incarnation, report.sequence) {
            *slot = report;
        }
        Ok(())
    }

    /// The last report that was folded, for an agent that this process has not heard before.
    fn stored(&self, node: &str) -> Option<Report> {
        let status: StatusRecord = self
            .config
            .cache
            .read(|snapshot| snapshot.record(status_key(node).key()))?;
        Some(Report {
            node: node.to_owned(),
            agent_incarnation: status.agent_incarnation,
            sequence: status.sequence,
            at: self.config.clock.wall(),
            facts: status.facts,
        })
    }

    async fn answer(&self, call: &SyncCall) -> Result<SyncAnswer, Error> {
        let mut woken = self.waker(&call.node);
        let until = self.config.clock.monotonic().plus(call.wait);
        loop {
            woken.mark_unchanged();
            if let Some(answer) = self.look(call)? {
                return Ok(answer);
            }
            let limit = self.config.clock.sleep_until(until);
            let changed = Box::pin(woken.changed());
            if matches!(select(changed, limit).await, Either::Right(_)) {
                return Ok(SyncAnswer::Same(None));
            }
        }
    }

    fn look(&self, call: &SyncCall) -> Result<Option<SyncAnswer>, Error> {
        self.config.cache.read(|snapshot| {
            let head = snapshot.index.version();
            let (rendered, desired) = self.render(snapshot, &call.node)?;
            let digest = rendered.configuration.digest();
            let identity: Identity = snapshot.at.identity;
            let now = Advance {
                incarnation: identity.incarnation,
                head,
                digest: &digest,
                desired,
            };
            Ok(match decide(&call.facts, &now) {
                Answered::Nothing => None,
                Answered::Advance => Some(SyncAnswer::Same(Some(head))),
                Answered::Configuration => {
                    let configuration = rendered.configuration;
                    let delivered = Delivered {
                        identity,
                        version: head,
                        digest,
                        configuration,
                    };
                    Some(SyncAnswer::Configuration(Box::new(delivered)))
                },
            })
        })
    }

    /// What a node must run now, under the version of the head.
    pub fn configuration(&self, node: &str) -> Result<Delivered, Error> {
        self.config.cache.read(|snapshot| {
            let (rendered, _) = self.render(snapshot, node)?;
            Ok(Delivered {
                identity: snapshot.at.identity,
                version: snapshot.index.version(),
                digest: rendered.configuration.digest(),
                configuration: rendered.configuration,
            })
        })
    }

    fn render(
        &self,
        snapshot: &Snapshot<Catalog>,
        node: &str,
    ) -> Result<(Rendered, ConfigVersion), Error> {
        let kind = self.config.system.node_kind();
        let object = snapshot
            .index
            .get(kind, node)
            .ok_or_else(|| Error::not_found(kind, node))?;
        let rendered = self.config.system.render(object, &snapshot.index.view());
        let rendered = rendered.ok_or_else(|| {
            let detail = format!("the stored spec of {node} is not readable");
            Error::new(Kind::Corrupt, "CORRUPT_VALUE", detail)
        })?;
        let desired = object.part("spec").get("desired_config_version");
        let desired = desired.and_then(serde_json::Value::as_u64).unwrap_or(0);
        Ok((rendered, ConfigVersion(desired)))
    }

    fn waker(&self, node: &str) -> watch::Receiver<u64> {
        let mut wakers = self.wakers();
        wakers
            .entry(node.to_owned())
            .or_insert_with(|| watch::channel(0).0)
            .subscribe()
    }

    /// Wakes the agents whose node is affected by a change, and no others. Runs until dropped.
    pub async fn pump(self: Arc<Self>) {
        let mut changes = self.config.cache.changes();
        loop {
            match changes.recv().await {
                Ok(changed) => self.wake(&changed),
                Err(broadcast::error::RecvError::Lagged(_)) => self.wake_all(),
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn wake(&self, changed: &Changed) {
        let Some(keys) = &changed.keys else {
            self.wake_all();
            return;
        };
        let affected: Vec<String> = self.config.cache.read(|snapshot| {
            let objects = keys.iter().filter_map(|key| snapshot.index.object_of(key));
            let objects = objects.map(|(kind, name)| crate::ids::ObjectRef {
                kind: kind.to_owned(),
                name,
            });
            let view = snapshot.index.view();
            objects
                .flat_map(|object| self.config.system.affected(&object, &view))
                .collect()
        });
        let mut wakers = self.wakers();
        for node in affected {
            if let Some(waker) = wakers.get(&node) {
                waker.send_modify(|count| *count += 1);
            }
        }
        wakers.retain(|_, waker| waker.receiver_count() > 0);
    }

    fn wake_all(&self) {
        for waker in self.wakers().values() {
            waker.send_modify(|count| *count += 1);
        }
    }

    /// Notes what an agent is about to be sent. The log is for people: what cannot be noted is sent all
    /// the same.
    async fn note_sent(&self, node: &str, version: ConfigVersion) {
        if let Err(error) = self.note(node, "sent", format!("version {version}")).await {
            tracing::warn!(node, %error, "failed to note in the log what was sent");
        }
    }

    /// Adds a line to a node's log.
    pub async fn note(&self, node: &str, event: &str, message: String) -> Result<(), Error> {
        let entry = LogEntry {
            at: self.config.clock.wall(),
            event: event.to_owned(),
            message,
        };
        self.appender
            .append(Fact::Note {
                node: node.to_owned(),
                entry,
            })
            .await
    }

    /// Forgets a node that was removed.
    pub fn forget(&self, node: &str) {
        self.last().remove(node);
        self.config.registry.forget(node);
    }
}

type Waiting = (Fact, oneshot::Sender<Result<(), Error>>);

/// Appends facts durably, in batches: what arrives during a commit goes into the next one.
#[derive(Clone, Debug)]
pub struct Appender {
    queue: mpsc::Sender<Waiting>,
}

impl Appender {
    /// Starts appending under a session; `appended` is notified after each batch.
    pub fn start(
        (store, clock, ids): (Arc<dyn Store>, Arc<dyn Clock>, Arc<dyn IdGen>),
        session: Session,
        appended: Arc<Notify>,
        spawner: &dyn Spawner,
    ) -> (Self, Task) {
        let (queue, facts) = mpsc::channel(QUEUE);
        let append = Append {
            store,
            clock,
            ids,
            session,
            facts,
            appended,
            number: 0,
        };
        (
            Self { queue },
            spawner.spawn("report-appender", Box::pin(append.run())),
        )
    }

    /// Appends one fact and returns when it is durable.
    pub async fn append(&self, fact: Fact) -> Result<(), Error> {
        let (done, appended) = oneshot::channel();
        self.queue
            .try_send((fact, done))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Error::new(
                    Kind::Exhausted,
                    "REPORTS_BACKLOG",
                    "too many reports are waiting",
                ),
                mpsc::error::TrySendError::Closed(_) => closing(),
            })?;
        appended.await.unwrap_or_else(|_| Err(closing()))
    }
}

struct Append {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGen>,
    session: Session,
    facts: mpsc::Receiver<Waiting>,
    appended: Arc<Notify>,
    number: u64,
}

impl Append {
    async fn run(mut self) {
        let mut carried: Option<Waiting> = None;
        loop {
            let first = match carried.take() {
                Some(waiting) => waiting,
                None => match self.facts.recv().await {
                    Some(waiting) => waiting,
                    None => return,
                },
            };
            let mut batch = vec![first];
            let mut bytes = batch[0].0.bytes();
            while batch.len() < BATCH
                && let Ok(next) = self.facts.try_recv()
            {
                bytes += next.0.bytes();
                if bytes > BATCH_BYTES {
                    carried = Some(next);
                    break;
                }
                batch.push(next);
            }
            self.write(batch).await;
        }
    }

    async fn write(&mut self, batch: Vec<Waiting>) {
        let facts: Vec<&Fact> = batch.iter().map(|(fact, _)| fact).collect();
        self.number += 1;
        let key = report_key(self.session.owner().epoch, self.number);
        let mut txn = FencedTxn::new(TxnId::fresh(&*self.ids), &self.session);
        txn.put(key, Guard::ABSENT, &facts);
        let deadline = self.clock.monotonic().plus(PATIENCE);
        let settled = commit(&*self.store, &*self.clock, &*self.ids, txn, deadline).await;
        for (_, done) in batch {
            let answer = match &settled {
                Ok(Settled::Applied(_)) => Ok(()),
                Ok(Settled::Lost { .. }) => {
                    let detail = "this replica no longer has its session";
                    Err(Error::new(Kind::Unavailable, "SESSION_LOST", detail))
                },
                Err(error) => Err(Error::new(error.kind(), error.reason(), error.to_string())),
            };
            if done.send(answer).is_err() {
                tracing::debug!("an agent went away before its report was durable");
            }
        }
        self.appended.notify_one();
    }
}

/// Folds appended facts into status and log: the work of the shard's owner.
#[derive(Debug)]
pub struct Folder {
    /// Where everything is.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub ids: Arc<dyn IdGen>,
    /// The fence.
    pub shard: Shard,
    /// Tells that something was appended.
    pub appended: Arc<Notify>,
}

impl Folder {
    /// Folds until dropped.
    pub async fn run(self) {
        loop {
            if let Err(error) = self.fold_all().await {
                tracing::warn!(%error, "failed to fold reports, trying again");
            }
            let appended = Box::pin(self.appended.notified());
            let _ = select(appended, self.clock.sleep(FOLD_PAUSE)).await;
        }
    }

    /// Folds everything that has been appended.
    pub async fn fold_all(&self) -> Result<(), Error> {
        loop {
            let request = ListRequest {
                limit: 16,
                ..ListRequest::first(report_range())
            };
            let page = self.store.list(request).await;
            let page = page.map_err(|error| Error::store("list reports", error))?;
            if page.entries.is_empty() {
                return Ok(());
            }
            for entry in &page.entries {
                self.fold_batch(entry).await?;
            }
        }
    }

    async fn fold_batch(&self, entry: &Entry) -> Result<(), Error> {
        let facts: Vec<Fact> = serde_json::from_slice(&entry.value)
            .map_err(|error| Error::corrupt(&entry.key, error))?;
        let mut by_node: BTreeMap<&str, Vec<&Fact>> = BTreeMap::new();
        for fact in &facts {
            by_node.entry(fact.node()).or_default().push(fact);
        }
        let nodes: Vec<_> = by_node.into_iter().collect();
        for chunk in nodes.chunks(NODES) {
            let mut txn = FencedTxn::new(TxnId::fresh(&*self.ids), &self.shard);
            for (node, facts) in chunk {
                self.fold_node(&mut txn, node, facts).await?;
            }
            self.write(txn).await?;
        }
        let mut txn = FencedTxn::new(TxnId::fresh(&*self.ids), &self.shard);
        if let Some([shard, id]) = super::repo::REPORT.parts(&entry.key).as_deref() {
            txn.delete(super::repo::REPORT.key(&[shard, id]));
        }
        self.write(txn).await
    }

    async fn fold_node(
        &self,
        txn: &mut FencedTxn,
        node: &str,
        facts: &[&Fact],
    ) -> Result<(), Error> {
        let agent = self.read(agent_key(node).key()).await?;
        // A node that was removed meanwhile must not get a status again.
        let Some(agent) = agent else { return Ok(()) };
        let status_entry = self.read(status_key(node).key()).await?;
        let log_entry = self.read(log_key(node).key()).await?;
        let status: Option<StatusRecord> = decode(status_entry.as_ref())?;
        let log: Vec<LogEntry> = decode(log_entry.as_ref())?.unwrap_or_default();
        let rendered: Option<RenderedRecord> =
            decode(self.read(rendered_key(node).key()).await?.as_ref())?;
        let folded = fold(status.as_ref(), &log, rendered.as_ref(), facts);
        if folded.status.is_none() && folded.log.is_none() {
            return Ok(());
        }
        txn.require(agent_key(node).key(), Guard::of(Some(&agent.meta)));
        let guard = |entry: &Option<Entry>| Guard::of(entry.as_ref().map(|entry| &entry.meta));
        if let Some(status) = folded.status {
            let task: Option<ConfigUpdate> =
                decode(self.read(config_update_key(node).key()).await?.as_ref())?;
            let done = task
                .is_some_and(|task| status.current_config_version >= task.target_config_version);
            if done {
                txn.delete(config_update_key(node));
            }
            txn.put(status_key(node), guard(&status_entry), &status);
        }
        if let Some(log) = folded.log {
            txn.put(log_key(node), guard(&log_entry), &log);
        }
        Ok(())
    }

    async fn write(&self, txn: FencedTxn) -> Result<(), Error> {
        if txn.is_empty() {
            return Ok(());
        }
        let deadline = self.clock.monotonic().plus(PATIENCE);
        match commit(&*self.store, &*self.clock, &*self.ids, txn, deadline).await? {
            Settled::Applied(_) => Ok(()),
            Settled::Lost { .. } => {
                let detail = "somebody else wrote the status or owns the shard";
                Err(Error::new(Kind::Aborted, "FOLD_CONTESTED", detail))
            },
        }
    }

    async fn read(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let read = self.store.get(key).await;
        Ok(read
            .map_err(|error| Error::store("read a node's record", error))?
            .value)
    }
}
