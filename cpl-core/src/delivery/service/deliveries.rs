//! Answering agents.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{Either, select};
use tokio::sync::watch;

use super::appender::{Appender, PATIENCE};
use crate::agent::{AgentRecord, Heard, Presence, Registry, agent_key, heartbeat_lease_key};
use crate::clock::Clock;
use crate::delivery::model::{
    Delivered, Fact, LogEntry, Rendered, Report, StatusRecord, SyncAnswer, SyncCall, System,
};
use crate::delivery::repo::status_key;
use crate::delivery::rules::{Advance, Answered, advance, decide, register_again};
use crate::error::{Error, Kind};
use crate::ids::{IdGen, ObjectRef};
use crate::spec::Catalog;
use crate::store::{Cache, Changed, Follower, Snapshot, Store};
use crate::version::ConfigVersion;

/// Lines about what one agent was sent that wait for its report.
const SENT_LINES: usize = 8;
/// How long they wait, and how many nodes are noted in one go when no report comes.
const UNANSWERED: Duration = Duration::from_secs(5);
const SENT_AT_ONCE: usize = 64;

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
    /// What agents were sent, to be noted with their next report, or by itself when none comes.
    sent: Mutex<BTreeMap<String, Vec<LogEntry>>>,
    /// What each agent was looked at for last: most calls come when nothing has changed since, and those
    /// render nothing.
    looked: Mutex<BTreeMap<String, Looked>>,
}

/// What a node must run, as far as it decides what a call is answered.
#[derive(Clone, Debug)]
struct Looked {
    stamp: u64,
    digest: String,
    desired: ConfigVersion,
}

impl Deliveries {
    /// Serves agents; those that wait are woken by the cache.
    pub fn new(config: DeliveryConfig, appender: Appender) -> Arc<Self> {
        let cache = Arc::clone(&config.cache);
        let deliveries = Arc::new(Self {
            config,
            appender,
            last: Mutex::default(),
            wakers: Mutex::default(),
            sent: Mutex::default(),
            looked: Mutex::default(),
        });
        let follower = Arc::downgrade(&deliveries);
        cache.follow(follower);
        deliveries
    }

    fn looked(&self) -> MutexGuard<'_, BTreeMap<String, Looked>> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self) -> MutexGuard<'_, BTreeMap<String, Vec<LogEntry>>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
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
        // On the heap while they run: the future of an agent that waits has no room for them, ten
        // thousand times.
        let here = Box::pin(self.admit(&call)).await?;
        let word = Heard {
            incarnation: call.agent_incarnation,
            sequence: call.sequence,
        };
        if !Box::pin(self.config.registry.hear(&call.node, word, here)).await {
            let detail = "a later call of this agent has arrived already";
            return Err(Error::new(Kind::Aborted, "SEQUENCE_STALE", detail));
        }
        Box::pin(self.append(&call, here)).await?;
        let answer = self.answer(&call).await?;
        if let SyncAnswer::Configuration(delivered) = &answer {
            self.note_sent(&call.node, delivered.version);
        }
        Ok(answer)
    }

    /// Whether the call is one to be answered; says whether the agent was heard here the last time.
    async fn admit(&self, call: &SyncCall) -> Result<bool, Error> {
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
            let presence: Option<Presence> = snapshot.record(heartbeat_lease_key(node).key());
            let epoch = self.config.registry.epoch();
            Ok(presence.is_some_and(|presence| presence.present && presence.epoch == epoch))
        })
    }

    /// Appends what the agent says, when it is news. An agent that comes from another replica may have said something
    /// else there that is not folded yet.
    async fn append(&self, call: &SyncCall, here: bool) -> Result<(), Error> {
        let report = Report {
            node: call.node.clone(),
            agent_incarnation: call.agent_incarnation,
            sequence: call.sequence,
            at: self.config.clock.wall(),
            facts: call.facts.clone(),
            sent: Vec::new(),
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
        if known && (here || self.config.store.limits().exclusive) {
            return Ok(());
        }
        let sent = self.sent().remove(&call.node).unwrap_or_default();
        let fact = Fact::Report(Report {
            sent: sent.clone(),
            ..report.clone()
        });
        if let Err(error) = self.appender.append(&fact).await {
            // To be noted with the report that comes instead.
            self.sent().entry(call.node.clone()).or_insert(sent);
            return Err(error);
        }
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
            sent: Vec::new(),
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
            let (head, identity) = (snapshot.index.version(), snapshot.at.identity);
            let decide = |digest: &str, desired| {
                let now = Advance {
                    incarnation: identity.incarnation,
                    head,
                    digest,
                    desired,
                };
                decide(&call.facts, &now)
            };
            let seen = self.seen(&call.node, snapshot.index.stamp());
            match seen.map(|seen| decide(&seen.digest, seen.desired)) {
                Some(Answered::Nothing) => return Ok(None),
                Some(Answered::Advance) => return Ok(Some(SyncAnswer::Same(Some(head)))),
                Some(Answered::Configuration) | None => {},
            }
            let (Rendered { configuration, .. }, desired) = self.render(snapshot, &call.node)?;
            let digest = configuration.digest();
            let looked = Looked {
                stamp: snapshot.index.stamp(),
                digest: digest.clone(),
                desired,
            };
            self.looked().insert(call.node.clone(), looked);
            Ok(match decide(&digest, desired) {
                Answered::Nothing => None,
                Answered::Advance => Some(SyncAnswer::Same(Some(head))),
                Answered::Configuration => {
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

    fn seen(&self, node: &str, stamp: u64) -> Option<Looked> {
        let looked = self.looked();
        looked.get(node).filter(|seen| seen.stamp == stamp).cloned()
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

    /// Wakes the agents whose node is affected by a change, and no others.
    fn wake(&self, changed: &Changed) {
        let Some(keys) = &changed.keys else {
            self.wake_all();
            return;
        };
        let affected: Vec<String> = self.config.cache.read(|snapshot| {
            let objects = keys.iter().filter_map(|key| snapshot.index.object_of(key));
            let objects = objects.map(|(kind, name)| ObjectRef {
                kind: kind.to_owned(),
                name,
            });
            let view = snapshot.index.view();
            objects
                .flat_map(|object| self.config.system.affected(&object, &view))
                .collect()
        });
        if affected.is_empty() {
            // Most changes are of what agents report; the wakers of thousands are not looked through for
            // each of those.
            return;
        }
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

    /// Notes what an agent is about to be sent. The log is for people: it waits for nothing.
    fn note_sent(&self, node: &str, version: ConfigVersion) {
        let entry = LogEntry {
            at: self.config.clock.wall(),
            event: "sent".to_owned(),
            message: format!("version {version}"),
        };
        let mut sent = self.sent();
        let lines = sent.entry(node.to_owned()).or_default();
        lines.push(entry);
        let many = lines.len().saturating_sub(SENT_LINES);
        lines.drain(..many);
    }

    /// Notes what was sent to agents that have said nothing since. To be called from time to time.
    pub async fn note_unanswered(&self) {
        let now = self.config.clock.wall();
        let old = |lines: &Vec<LogEntry>| {
            lines
                .first()
                .is_some_and(|line| now.since(line.at) > UNANSWERED)
        };
        let waiting: Vec<(String, Vec<LogEntry>)> = {
            let mut sent = self.sent();
            let nodes = sent.iter().filter(|(_, lines)| old(lines));
            let nodes: Vec<String> = nodes
                .map(|(node, _)| node.clone())
                .take(SENT_AT_ONCE)
                .collect();
            nodes
                .into_iter()
                .filter_map(|node| sent.remove_entry(&node))
                .collect()
        };
        for (node, lines) in waiting {
            for line in lines {
                if let Err(error) = self.note(&node, &line.event, line.message).await {
                    tracing::warn!(node, %error, "failed to note in the log what was sent");
                }
            }
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
            .append(&Fact::Note {
                node: node.to_owned(),
                entry,
            })
            .await
    }

    /// How many agents wait for something to do, at this moment.
    pub fn waiting(&self) -> usize {
        let wakers = self.wakers();
        wakers.values().map(watch::Sender::receiver_count).sum()
    }

    /// Forgets a node that was removed.
    pub fn forget(&self, node: &str) {
        self.last().remove(node);
        self.sent().remove(node);
        self.looked().remove(node);
        self.config.registry.forget(node);
    }
}

impl Follower for Deliveries {
    fn changed(&self, changed: &Changed) {
        self.wake(changed);
    }
}
