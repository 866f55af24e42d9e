//! A running control plane: the services of the core on one store, and the loops that drive them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cpl_core::access::{AccessConfig, Tokens};
use cpl_core::agent::{Registry, RegistryConfig};
use cpl_core::clock::Task;
use cpl_core::delivery::{Appender, Deliveries, DeliveryConfig, System, companions};
use cpl_core::error::Error;
use cpl_core::ids::ReplicaId;
use cpl_core::lease::{self, Membership, Place, SessionTimes, Shard};
use cpl_core::spec::{
    self, Affected, Catalog, Companions, Kinds, Object, ObjectChange, View, Writer, WriterConfig,
};
use cpl_core::store::{Cache, Store};
use cpl_host::Host;
use tokio::sync::{Notify, watch};

use crate::leading::Leading;
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
    /// Its session.
    pub membership: Membership,
    /// The shard, once this process has it.
    shard: watch::Receiver<Option<Shard>>,
    /// Why it no longer has its session, once that is so.
    lost: watch::Receiver<Option<Arc<Error>>>,
    /// What takes the shard, and starts more loops then.
    leading: Mutex<Option<Task>>,
    loops: Arc<Mutex<Vec<Task>>>,
}

impl Plane {
    /// Begins a session and starts every loop; those of the shard once it is taken.
    pub async fn start(
        host: Host,
        store: Arc<dyn Store>,
        config: PlaneConfig,
    ) -> Result<Arc<Self>, Error> {
        let (clock, ids) = (Arc::clone(&host.clock), Arc::clone(&host.ids));
        let kinds = wiring::kinds();
        let system = wiring::system();
        let replica = ReplicaId::fresh(&*ids);
        let times = config.session;
        let membership = lease::begin(place(&host, &*store, &times), replica).await?;
        let cache = spec::load(&store, &clock, &kinds).await?;
        let mut loops = vec![
            host.spawner
                .spawn("cache", Box::pin(Arc::clone(&cache).run())),
        ];
        let lost = held(&host, &store, &membership, times, &mut loops);
        let parts = Parts {
            host: &host,
            store: &store,
            cache: &cache,
            membership: &membership,
            system: &system,
        };
        let writer = parts.writer(&mut loops);
        let (appended, grace) = (Arc::new(Notify::new()), config.agent_grace);
        let (registry, deliveries) = parts.deliveries(grace, &appended, &mut loops);

        let loops = Arc::new(Mutex::new(loops));
        let (taken, shard) = watch::channel(None);
        let leading = Leading {
            host: host.clone(),
            store: Arc::clone(&store),
            cache: Arc::clone(&cache),
            kinds: kinds.clone(),
            system,
            membership: membership.clone(),
            times,
            registry: Arc::clone(&registry),
            deliveries: Arc::clone(&deliveries),
            appended,
            taken,
            loops: Arc::clone(&loops),
        };
        let leading = host.spawner.spawn("shard", Box::pin(leading.run()));

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
            membership,
            shard,
            lost,
            leading: Mutex::new(Some(leading)),
            loops,
        }))
    }

    /// The shard, once this process has it.
    pub fn shard(&self) -> Option<Shard> {
        self.shard.borrow().clone()
    }

    /// Completes once this process has lost its session, with the reason; never on a store that nobody
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
        let place = place(&self.host, &*self.store, &self.config.session);
        let shard = self.shard();
        let released = lease::release(place, (&self.membership, shard.as_ref()), RELEASE);
        if let Err(error) = released.await {
            tracing::warn!(%error, "the session was not released: it lapses by itself");
        }
    }

    /// Stops every loop and returns when all have ended. Reads go on; changes are refused.
    pub async fn stop(&self) {
        // First what starts more of them.
        let leading = self
            .leading
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(leading) = leading {
            leading.stop().await;
        }
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
    membership: &Membership,
    times: SessionTimes,
    loops: &mut Vec<Task>,
) -> watch::Receiver<Option<Arc<Error>>> {
    let (losing, lost) = watch::channel(None);
    if membership.is_renewed() {
        let (own, store, membership) = (host.clone(), Arc::clone(store), membership.clone());
        let holding = async move {
            let held = lease::hold(place(&own, &*store, &times), &membership);
            let error = held.await;
            tracing::error!(%error, "this replica has lost its session");
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

/// Where sessions are kept.
pub(crate) fn place<'a>(
    host: &'a Host,
    store: &'a dyn Store,
    times: &'a SessionTimes,
) -> Place<'a> {
    Place {
        store,
        clock: &*host.clock,
        ids: &*host.ids,
        times,
    }
}

struct Parts<'a> {
    host: &'a Host,
    store: &'a Arc<dyn Store>,
    cache: &'a Arc<Cache<Catalog>>,
    membership: &'a Membership,
    system: &'a Arc<dyn System>,
}

impl Parts<'_> {
    fn writer(&self, loops: &mut Vec<Task>) -> Writer {
        let Host {
            clock,
            ids,
            spawner,
        } = self.host;
        let (writer, task) = Writer::start(
            WriterConfig {
                store: Arc::clone(self.store),
                cache: Arc::clone(self.cache),
                clock: Arc::clone(clock),
                ids: Arc::clone(ids),
                affected: affected(Arc::clone(self.system)),
                companions: node_companions(self.system.node_kind()),
            },
            &**spawner,
        );
        loops.push(task);
        writer
    }

    fn deliveries(
        &self,
        grace: Duration,
        appended: &Arc<Notify>,
        loops: &mut Vec<Task>,
    ) -> (Arc<Registry>, Arc<Deliveries>) {
        let Host {
            clock,
            ids,
            spawner,
        } = self.host;
        let registry = Arc::new(Registry::new(RegistryConfig {
            store: Arc::clone(self.store),
            clock: Arc::clone(clock),
            ids: Arc::clone(ids),
            session: self.membership.session.clone(),
            grace,
        }));
        let (appender, task) = Appender::start(
            (Arc::clone(self.store), Arc::clone(clock), Arc::clone(ids)),
            self.membership.session.clone(),
            Arc::clone(appended),
            &**spawner,
        );
        loops.push(task);
        let config = DeliveryConfig {
            store: Arc::clone(self.store),
            cache: Arc::clone(self.cache),
            clock: Arc::clone(clock),
            ids: Arc::clone(ids),
            system: Arc::clone(self.system),
            registry: Arc::clone(&registry),
        };
        let deliveries = Deliveries::new(config, appender);
        let sweeping = sweep(
            Arc::clone(&registry),
            Arc::clone(&deliveries),
            self.host.clone(),
        );
        loops.push(spawner.spawn("agent-sweep", Box::pin(sweeping)));
        (registry, deliveries)
    }
}
