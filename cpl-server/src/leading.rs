//! The work that is done once, by whichever replica has the shard.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cpl_core::agent::{HEARTBEAT_LEASE, Orphans, Presence, Registry};
use cpl_core::clock::Task;
use cpl_core::delivery::{Deliveries, Folder, System};
use cpl_core::error::Error;
use cpl_core::lease::{self, Living, Membership, Place, SessionTimes, Sessions, Shard};
use cpl_core::reconcile::{self, NodeController, NodeControllerConfig};
use cpl_core::spec::{Catalog, Kinds};
use cpl_core::store::{Cache, Store};
use cpl_core::version::Epoch;
use cpl_host::Host;
use tokio::sync::{Notify, watch};

use crate::housekeeping::Housekeeping;
use crate::plane::place;

/// How often the sessions of others are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Agents of replicas that are gone that are written down in one look.
const AT_ONCE: usize = 500;

/// What the owner of the shard works with.
#[derive(Debug)]
pub(crate) struct Leading {
    pub(crate) host: Host,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<Cache<Catalog>>,
    pub(crate) kinds: Kinds,
    pub(crate) system: Arc<dyn System>,
    pub(crate) membership: Membership,
    pub(crate) times: SessionTimes,
    pub(crate) registry: Arc<Registry>,
    pub(crate) deliveries: Arc<Deliveries>,
    /// Tells that something was appended.
    pub(crate) appended: Arc<Notify>,
    /// Where the shard is told once it is taken.
    pub(crate) taken: watch::Sender<Option<Shard>>,
    /// Where the loops are put.
    pub(crate) loops: Arc<Mutex<Vec<Task>>>,
}

impl Leading {
    fn place(&self) -> Place<'_> {
        place(&self.host, &*self.store, &self.times)
    }

    /// Takes the shard, however long that lasts, and starts its loops. It is lost only together with the session, and then the
    /// process ends.
    pub(crate) async fn run(self) {
        let shard = match lease::take_shard(self.place(), &self.membership).await {
            Ok(shard) => shard,
            // Whoever holds the session is told so, too.
            Err(error) => return tracing::error!(%error, "the shard cannot be taken"),
        };
        tracing::info!(epoch = shard.owner().epoch.0, "this replica has the shard");
        self.taken.send_replace(Some(shard.clone()));
        self.start(&shard);
        self.watch_sessions(&shard).await;
    }

    fn start(&self, shard: &Shard) {
        let Host {
            clock,
            ids,
            spawner,
        } = &self.host;
        let folder = Folder {
            store: Arc::clone(&self.store),
            clock: Arc::clone(clock),
            ids: Arc::clone(ids),
            shard: shard.clone(),
            appended: Arc::clone(&self.appended),
        };
        let nodes = Arc::new(NodeController(NodeControllerConfig {
            store: Arc::clone(&self.store),
            clock: Arc::clone(clock),
            ids: Arc::clone(ids),
            shard: shard.clone(),
            system: Arc::clone(&self.system),
            kinds: self.kinds.clone(),
        }));
        let cache = Arc::clone(&self.cache);
        let controlling = reconcile::run(nodes, cache, Arc::clone(clock), Arc::clone(ids));
        let housekeeping = Housekeeping {
            store: Arc::clone(&self.store),
            clock: Arc::clone(clock),
            ids: Arc::clone(ids),
            shard: shard.clone(),
            kinds: self.kinds.clone(),
        };
        let started = [
            spawner.spawn("report-folder", Box::pin(folder.run())),
            spawner.spawn("node-controller", Box::pin(controlling)),
            spawner.spawn("housekeeping", Box::pin(housekeeping.run())),
        ];
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.extend(started);
    }

    /// Ends the sessions of replicas that are gone, and says of their agents that they are silent, unless another replica hears
    /// them within one full grace.
    async fn watch_sessions(&self, shard: &Shard) {
        let mut sessions = Sessions::default();
        let mut orphans = Orphans::new(self.registry.grace());
        let mut before: Option<Vec<Epoch>> = None;
        loop {
            let round = self.round(shard, &mut sessions, &mut orphans, &mut before);
            if let Err(error) = round.await {
                tracing::warn!(%error, "failed to look after the sessions of other replicas");
            }
            self.host.clock.sleep(LOOK).await;
        }
    }

    async fn round(
        &self,
        shard: &Shard,
        sessions: &mut Sessions,
        orphans: &mut Orphans,
        before: &mut Option<Vec<Epoch>>,
    ) -> Result<(), Error> {
        let living = lease::reap(self.place(), shard, sessions).await?;
        // Presences are looked through only when somebody came or went: nobody else can be orphaned.
        if before.as_ref() != Some(&living.epochs) {
            let head = self.store.head().await;
            let head = head.map_err(|error| Error::store("read the head", error))?;
            self.cache.wait_for(head.revision).await;
            self.adopt(orphans, &living);
            *before = Some(living.epochs);
        }
        for (node, revision) in orphans.silent(self.host.clock.monotonic(), AT_ONCE) {
            let silent = self.registry.bury(shard, &node, revision).await?;
            orphans.done(&node);
            if silent {
                tracing::warn!(node, "the agent is silent since its replica is gone");
                let grace = self.registry.grace().as_secs();
                let message = format!("nothing was heard for {grace} s after its replica had gone");
                self.deliveries.note(&node, "silent", message).await?;
            }
        }
        Ok(())
    }

    fn adopt(&self, orphans: &mut Orphans, living: &Living) {
        let now = self.host.clock.monotonic();
        self.cache.read(|snapshot| {
            let presences: Vec<_> = snapshot
                .entries
                .iter()
                .filter_map(|(key, entry)| {
                    let node = *HEARTBEAT_LEASE.parts(key)?.first()?;
                    let presence: Presence = serde_json::from_slice(&entry.value).ok()?;
                    Some((node, presence, entry.meta.mod_revision))
                })
                .collect();
            let there = presences
                .iter()
                .map(|(node, presence, at)| (*node, presence, *at));
            orphans.adopt(there, living, now);
        });
    }
}
