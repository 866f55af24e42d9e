//! Registration, and the writes of presence.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::model::{AgentRecord, Arrival, Heard, Presence};
use super::repo::{agent_key, heartbeat_lease_key};
use super::rules::{Hearing, Roll, RollChange, may_replace};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind};
use crate::ids::{IdGen, TxnId};
use crate::lease::{Session, Shard};
use crate::store::{Entry, Key, Revision, Store};
use crate::txn::{ClaimTxn, Fence, FencedTxn, Guard, Settled, commit, decode};
use crate::version::{AgentIncarnation, Epoch};

/// How long a write of this slice may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often two processes may race for one registration.
const TRIES: usize = 5;

/// What the registry needs.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Where agents are recorded.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub ids: Arc<dyn IdGen>,
    /// The fence of presence.
    pub session: Session,
    /// How long an agent may be silent.
    pub grace: Duration,
}

/// The agents of one replica.
#[derive(Debug)]
pub struct Registry {
    config: RegistryConfig,
    roll: Mutex<Roll>,
}

impl Registry {
    /// A registry that knows nobody yet.
    pub fn new(config: RegistryConfig) -> Self {
        let roll = Mutex::new(Roll::new(config.grace));
        Self { config, roll }
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long an agent may be silent.
    pub const fn grace(&self) -> Duration {
        self.config.grace
    }

    /// The epoch of this replica's session.
    pub const fn epoch(&self) -> Epoch {
        self.config.session.owner().epoch
    }

    /// Makes this process the one that speaks for the node. The same process gets the same answer
    /// again, so a lost reply does no harm; any other supersedes the one before.
    ///
    /// # Errors
    /// `Aborted` when other processes keep registering for the same node.
    pub async fn register(&self, node: &str, arrival: &Arrival) -> Result<AgentRecord, Error> {
        let RegistryConfig {
            store, clock, ids, ..
        } = &self.config;
        let key = agent_key(node);
        for _ in 0..TRIES {
            let entry = read(&**store, key.key()).await?;
            let known: Option<AgentRecord> = decode(entry.as_ref())?;
            if let Some(known) = known
                .as_ref()
                .filter(|known| known.process == arrival.process)
            {
                return Ok(known.clone());
            }
            let record = AgentRecord {
                agent_incarnation: known
                    .map_or(AgentIncarnation(0), |k| k.agent_incarnation)
                    .next(),
                process: arrival.process.clone(),
                driver: arrival.driver.clone(),
                carries_traffic: arrival.carries_traffic,
                software: arrival.software.clone(),
                registered_at: clock.wall(),
            };
            let guard = Guard::of(entry.as_ref().map(|entry| &entry.meta));
            let txn = ClaimTxn::new(TxnId::fresh(&**ids), key.clone(), guard, &record);
            let deadline = clock.monotonic().plus(PATIENCE);
            if let Settled::Applied(_) = commit(&**store, &**clock, &**ids, txn, deadline).await? {
                return Ok(record);
            }
        }
        let detail = format!("other processes keep registering for {node}");
        Err(Error::new(Kind::Aborted, "REGISTRATION_CONTESTED", detail))
    }

    /// Notes a word of an agent; writes its presence when it had not been heard, or not `here`: when what is stored does
    /// not name this replica. False when the word is no newer than the last one.
    pub async fn hear(&self, node: &str, word: Heard, here: bool) -> bool {
        let (now, wall) = (self.config.clock.monotonic(), self.config.clock.wall());
        let heard = self.roll().hear(node, word, here, (now, wall));
        match heard {
            Hearing::Late => return false,
            Hearing::Known => {},
            Hearing::Arrived(change) => drop(self.write(change).await),
        }
        true
    }

    /// When an agent was last heard, and whether it is.
    pub fn last_heard(&self, node: &str) -> Option<(Timestamp, bool)> {
        self.roll().last_heard(node)
    }

    /// Forgets a node that was removed.
    pub fn forget(&self, node: &str) {
        self.roll().forget(node);
    }

    /// Writes down who has fallen silent, and not gone to another replica. To be called about once a second.
    pub async fn sweep(&self) -> Vec<RollChange> {
        let now = self.config.clock.monotonic();
        let quiet = self.roll().sweep(now);
        let mut silent = Vec::new();
        for change in quiet {
            if self.write(change.clone()).await {
                tracing::warn!(node = %change.node, "the agent is silent");
                silent.push(change);
            }
        }
        silent
    }

    /// Writes a change of presence, and says whether it is true now; when that fails it comes up again with the next
    /// word or sweep.
    async fn write(&self, change: RollChange) -> bool {
        match self.try_write(&change).await {
            Ok(true) => return true,
            // It speaks to another replica, or there is no such node any more.
            Ok(false) if !change.present => self.roll().forget(&change.node),
            Ok(false) => {},
            Err(error) => {
                tracing::warn!(node = %change.node, %error, "failed to write presence");
                self.roll().unwritten(&change);
            },
        }
        false
    }

    async fn try_write(&self, change: &RollChange) -> Result<bool, Error> {
        let RegistryConfig { store, session, .. } = &self.config;
        let entry = read(&**store, heartbeat_lease_key(&change.node).key()).await?;
        let known: Option<Presence> = decode(entry.as_ref())?;
        if !may_replace(known.as_ref(), change, self.epoch()) {
            return Ok(false);
        }
        let presence = Presence {
            epoch: self.epoch(),
            agent_incarnation: change.last.incarnation,
            sequence: change.last.sequence,
            present: change.present,
            since: self.config.clock.wall(),
        };
        self.put(session, &change.node, entry.as_ref(), &presence)
            .await
    }

    /// Writes that an agent is silent whose replica is gone; the work of the shard's owner. False when its presence is not
    /// that of this revision any more: then it was heard by somebody.
    ///
    /// # Errors
    /// What the store says, and that somebody was faster.
    pub async fn bury(&self, shard: &Shard, node: &str, revision: Revision) -> Result<bool, Error> {
        let key = heartbeat_lease_key(node);
        let entry = read(&*self.config.store, key.key()).await?;
        let entry = entry.filter(|entry| entry.meta.mod_revision == revision);
        let Some(known) = decode::<Presence>(entry.as_ref())? else {
            return Ok(false);
        };
        let presence = Presence {
            present: false,
            since: self.config.clock.wall(),
            ..known
        };
        self.put(shard, node, entry.as_ref(), &presence).await
    }

    async fn put(
        &self,
        fence: &(dyn Fence + Sync),
        node: &str,
        was: Option<&Entry>,
        presence: &Presence,
    ) -> Result<bool, Error> {
        let RegistryConfig {
            store, clock, ids, ..
        } = &self.config;
        let mut txn = FencedTxn::new(TxnId::fresh(&**ids), fence);
        // A node that was removed meanwhile must not get a presence again.
        let agent = agent_key(node);
        let record = read(&**store, agent.key()).await?;
        let Some(record) = record else {
            return Ok(false);
        };
        txn.require(agent.key(), Guard::of(Some(&record.meta)));
        let was = Guard::of(was.map(|entry| &entry.meta));
        txn.put(heartbeat_lease_key(node), was, presence);
        let deadline = clock.monotonic().plus(PATIENCE);
        match commit(&**store, &**clock, &**ids, txn, deadline).await? {
            Settled::Applied(_) => Ok(true),
            Settled::Lost { .. } => {
                let detail = "somebody else wrote the presence or took the session";
                Err(Error::new(Kind::Aborted, "PRESENCE_CONTESTED", detail))
            },
        }
    }
}

async fn read(store: &dyn Store, key: &Key) -> Result<Option<Entry>, Error> {
    let read = store
        .get(key)
        .await
        .map_err(|error| Error::store("read about an agent", error))?;
    Ok(read.value)
}
