//! A running control plane: the services of the core on one store, and the loops that drive them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cpl_core::access::{AccessConfig, Tokens};
use cpl_core::agent::{AGENT, AgentRecord, Registry, RegistryConfig};
use cpl_core::clock::Task;
use cpl_core::delivery::{Appender, Deliveries, DeliveryConfig, Folder, System, companions};
use cpl_core::error::Error;
use cpl_core::ids::ReplicaId;
use cpl_core::lease::{self, Ownership, SessionTimes, claim};
use cpl_core::reconcile::{self, NodeController, NodeControllerConfig};
use cpl_core::spec::{
    self, Affected, Catalog, Companions, Kinds, Object, ObjectChange, View, Writer, WriterConfig,
};
use cpl_core::store::{Cache, Store};
use cpl_host::Host;
use tokio::sync::{Notify, watch};

use crate::housekeeping::Housekeeping;
use crate::wiring;

/// How often silent agents are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// How long giving up the session may take.
const RELEASE: Duration = Duration::from_secs(2);

/// What can be set of a control plane.
#[derive(Clone, Copy, Debug)]
pub struct PlaneConfig {
    /// How long agents are kept waiting for something new.
    pub agent_wait: Duration,
    /// How long an agent may be silent before it counts as gone.
    pub agent_grace: Duration,
    /// How long a session lasts on a store that several processes share.
    pub session: SessionTimes,
}

impl Default for PlaneConfig {
    fn default() -> Self {
        Self {
            agent_wait: Duration::from_secs(10),
            agent_grace: Duration::from_secs(25),
            session: SessionTimes::default(),
        }
    }
}

/// A running control plane. Dropping it stops its loops; the store stays usable.
#[derive(Debug)]
pub struct Plane {
    /// Clock, ids and spawner.
    pub host: Host,
    /// What was set.
    pub config: PlaneConfig,
    /// Where everything is.
    pub store: Arc<dyn Store>,
    /// The objects.
    pub cache: Arc<Cache<Catalog>>,
    /// All kinds.
    pub kinds: Kinds,
    /// The way to change specs.
    pub writer: Writer,
    /// Who may do what.
    pub tokens: Tokens,
    /// Who is heard.
    pub registry: Arc<Registry>,
    /// What agents are told.
    pub deliveries: Arc<Deliveries>,
    /// What this process owns.
    pub ownership: Ownership,
    /// Why it no longer does, once that is so.
    lost: watch::Receiver<Option<Arc<Error>>>,
    loops: Mutex<Vec<Task>>,
}

impl Plane {
    /// Takes ownership and starts every loop.
    pub async fn start(
        host: Host,
        store: Arc<dyn Store>,
        config: PlaneConfig,
    ) -> Result<Arc<Self>, Error> {
        let (clock, ids) = (Arc::clone(&host.clock), Arc::clone(&host.ids));
        let kinds = wiring::kinds();
        let system = wiring::system();
        let replica = ReplicaId::fresh(&*ids);
        let ownership = claim(&*store, &*clock, &*ids, replica, &config.session).await?;
        let cache = spec::load(&store, &clock, &kinds).await?;
        let mut loops = vec![
            host.spawner
                .spawn("cache", Box::pin(Arc::clone(&cache).run())),
        ];

        let lost = held(&host, &store, &ownership, config.session, &mut loops);

        let (writer, task) = Writer::start(
            WriterConfig {
                store: Arc::clone(&store),
                cache: Arc::clone(&cache),
                clock: Arc::clone(&clock),
                ids: Arc::clone(&ids),
                affected: affected(Arc::clone(&system)),
                companions: node_companions(system.node_kind()),
            },
            &*host.spawner,
        );
        loops.push(task);

        let registry = Arc::new(Registry::new(RegistryConfig {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            ids: Arc::clone(&ids),
            session: ownership.session.clone(),
            grace: config.agent_grace,
        }));
        adopt(&registry, &cache);

        let parts = Parts {
            host: &host,
            store: &store,
            cache: &cache,
            ownership: &ownership,
        };
        let deliveries = parts.deliveries(&registry, &system, &mut loops);
        parts.controllers(&kinds, &system, &mut loops);
        let sweeping = sweep(Arc::clone(&registry), Arc::clone(&deliveries), host.clone());
        loops.push(host.spawner.spawn("agent-sweep", Box::pin(sweeping)));

        let access = AccessConfig {
            store: Arc::clone(&store),
            clock,
            ids,
        };
        let tokens = Tokens::new(access);
        Ok(Arc::new(Self {
            host,
            config,
            store,
            cache,
            kinds,
            writer,
            tokens,
            registry,
            deliveries,
            ownership,
            lost,
            loops: Mutex::new(loops),
        }))
    }

    /// Completes once this process no longer owns what it took, with the reason; never on a store that nobody
    /// shares. From then on its writes are refused, and it should end.
    pub async fn lost(&self) -> Arc<Error> {
        let mut lost = self.lost.clone();
        let found = match lost.wait_for(Option::is_some).await {
            Ok(found) => found.clone(),
            Err(_) => None,
        };
        match found {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Gives up what this process owns, so that another replica can go on at once. To be called when all has
    /// been stopped.
    pub async fn release(&self) {
        let Host { clock, ids, .. } = &self.host;
        let released = lease::release(&*self.store, &**clock, &**ids, &self.ownership, RELEASE);
        if let Err(error) = released.await {
            tracing::warn!(%error, "the session was not released: it lapses by itself");
        }
    }

    /// Stops every loop and returns when all have ended. Reads go on; changes are refused.
    pub async fn stop(&self) {
        let loops = std::mem::take(&mut *self.loops.lock().unwrap_or_else(PoisonError::into_inner));
        for running in loops {
            running.stop().await;
        }
    }
}

/// Starts to hold the session, where it has to be, and returns where its loss is told.
fn held(
    host: &Host,
    store: &Arc<dyn Store>,
    ownership: &Ownership,
    times: SessionTimes,
    loops: &mut Vec<Task>,
) -> watch::Receiver<Option<Arc<Error>>> {
    let (losing, lost) = watch::channel(None);
    if ownership.is_renewed() {
        let (own, store, ownership) = (host.clone(), Arc::clone(store), ownership.clone());
        let holding = async move {
            let held = lease::hold(&*store, &*own.clock, &*own.ids, &ownership, &times);
            let error = held.await;
            tracing::error!(%error, "this replica no longer leads");
            losing.send_replace(Some(Arc::new(error)));
        };
        loops.push(host.spawner.spawn("session", Box::pin(holding)));
    }
    lost
}

/// The nodes that run something else after some changes. A node that was removed is not among them.
fn affected(system: Arc<dyn System>) -> Affected {
    Arc::new(move |view: &View<'_>, changes: &[ObjectChange]| {
        let objects = changes.iter().map(|change| change.object().reference());
        let nodes: std::collections::BTreeSet<String> = objects
            .flat_map(|object| system.affected(&object, view))
            .collect();
        nodes
            .into_iter()
            .filter(|node| view.get(system.node_kind(), node).is_some())
            .collect()
    })
}

fn node_companions(node_kind: &'static str) -> Companions {
    Arc::new(move |object: &Object| {
        if object.kind == node_kind {
            companions(&object.name)
        } else {
            Vec::new()
        }
    })
}

/// Gives every agent that was heard before one full grace to be heard here.
fn adopt(registry: &Registry, cache: &Cache<Catalog>) {
    let known: Vec<(String, AgentRecord)> = cache.read(|snapshot| {
        let records = snapshot.entries.iter().filter_map(|(key, entry)| {
            let node = (*AGENT.parts(key)?.first()?).to_owned();
            Some((node, serde_json::from_slice(&entry.value).ok()?))
        });
        records.collect()
    });
    for (node, agent) in known {
        registry.adopt(&node, agent.agent_incarnation);
    }
}

async fn sweep(registry: Arc<Registry>, deliveries: Arc<Deliveries>, host: Host) {
    loop {
        host.clock.sleep(SWEEP).await;
        deliveries.note_unanswered().await;
        for silent in registry.sweep().await {
            let grace = registry.grace().as_secs();
            let message = format!("nothing was heard for {grace} s");
            if let Err(error) = deliveries.note(&silent.node, "silent", message).await {
                tracing::warn!(node = %silent.node, %error, "failed to note silence in the log");
            }
        }
    }
}

struct Parts<'a> {
    host: &'a Host,
    store: &'a Arc<dyn Store>,
    cache: &'a Arc<Cache<Catalog>>,
    ownership: &'a Ownership,
}

impl Parts<'_> {
    fn deliveries(
        &self,
        registry: &Arc<Registry>,
        system: &Arc<dyn System>,
        loops: &mut Vec<Task>,
    ) -> Arc<Deliveries> {
        let Host {
            clock,
            ids,
            spawner,
        } = self.host;
        let appended = Arc::new(Notify::new());
        let (appender, task) = Appender::start(
            (Arc::clone(self.store), Arc::clone(clock), Arc::clone(ids)),
            self.ownership.session.clone(),
            Arc::clone(&appended),
            &**spawner,
        );
        loops.push(task);
        let folder = Folder {
            store: Arc::clone(self.store),
            clock: Arc::clone(clock),
            ids: Arc::clone(ids),
            shard: self.ownership.shard.clone(),
            appended,
        };
        loops.push(spawner.spawn("report-folder", Box::pin(folder.run())));
        let config = DeliveryConfig {
            store: Arc::clone(self.store),
            cache: Arc::clone(self.cache),
            clock: Arc::clone(clock),
            ids: Arc::clone(ids),
            system: Arc::clone(system),
            registry: Arc::clone(registry),
        };
        Deliveries::new(config, appender)
    }

    fn controllers(&self, kinds: &Kinds, system: &Arc<dyn System>, loops: &mut Vec<Task>) {
        let Host {
            clock,
            ids,
            spawner,
        } = self.host;
        let nodes = Arc::new(NodeController(NodeControllerConfig {
            store: Arc::clone(self.store),
            clock: Arc::clone(clock),
            ids: Arc::clone(ids),
            shard: self.ownership.shard.clone(),
            system: Arc::clone(system),
            kinds: kinds.clone(),
        }));
        let cache = Arc::clone(self.cache);
        let running = reconcile::run(nodes, cache, Arc::clone(clock), Arc::clone(ids));
        loops.push(spawner.spawn("node-controller", Box::pin(running)));
        let housekeeping = Housekeeping {
            store: Arc::clone(self.store),
            clock: Arc::clone(clock),
            ids: Arc::clone(ids),
            shard: self.ownership.shard.clone(),
            kinds: kinds.clone(),
        };
        loops.push(spawner.spawn("housekeeping", Box::pin(housekeeping.run())));
    }
}
