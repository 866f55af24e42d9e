//! What agents are answered when the store takes no writes, and when all of them speak at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cpl_core::agent::Arrival;
use cpl_core::delivery::{DataPlaneState, Delivered, Facts, SyncAnswer, SyncCall};
use cpl_core::error::Error;
use cpl_core::ids::StoreId;
use cpl_core::spec::{Draft, Edit, Request, manifest};
use cpl_core::store::{
    Commit, Cursor, Entry, Error as StoreError, Key, Kind, Limits, ListRequest, MemoryStore,
    Outcome, Page, Range, Read, Revision, SealId, Store, Txn, TxnId, WatchStream,
};
use cpl_host::Host;
use cpl_server::plane::{Plane, PlaneConfig};
use futures::future::join_all;
use serde_json::Value;

use crate::harness::{node, targetgroup};

/// A store that can be told to take no writes.
#[derive(Debug)]
struct Guarded {
    inner: MemoryStore,
    read_only: AtomicBool,
}

impl Guarded {
    fn check(&self) -> Result<(), StoreError> {
        if self.read_only.load(Ordering::SeqCst) {
            return Err(StoreError::new(Kind::ReadOnly, "write"));
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Guarded {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn head(&self) -> Result<Cursor, StoreError> {
        self.inner.head().await
    }

    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, StoreError> {
        self.inner.get(key).await
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StoreError> {
        self.inner.list(request).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, StoreError> {
        self.check()?;
        self.inner.commit(txn).await
    }

    async fn watch(&self, range: Range, after: Cursor) -> Result<WatchStream, StoreError> {
        self.inner.watch(range, after).await
    }

    async fn outcome(&self, id: TxnId) -> Result<Outcome, StoreError> {
        self.check()?;
        self.inner.outcome(id).await
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.check()?;
        self.inner.compact(through).await
    }

    async fn seal(&self, seal: SealId) -> Result<Cursor, StoreError> {
        self.inner.seal(seal).await
    }

    async fn unseal(&self) -> Result<(), StoreError> {
        self.inner.unseal().await
    }
}

struct World {
    host: Host,
    store: Arc<Guarded>,
    plane: Arc<Plane>,
}

impl World {
    async fn start() -> Self {
        let host = Host::new();
        let store = Arc::new(Guarded {
            inner: MemoryStore::new(StoreId(1), Arc::clone(&host.clock)),
            read_only: AtomicBool::new(false),
        });
        let shared = Arc::clone(&store) as Arc<dyn Store>;
        let plane = Plane::start(host.clone(), shared, PlaneConfig::default())
            .await
            .unwrap();
        Self { host, store, plane }
    }

    async fn apply(&self, manifests: Vec<Value>) {
        let edit: Edit = Box::new(move |kinds, _| {
            let read = |value: &Value| {
                manifest(kinds, value, "")
                    .map(Draft::put)
                    .map_err(Error::invalid)
            };
            manifests.iter().map(read).collect()
        });
        let request = Request {
            actor: "test".to_owned(),
            id: format!("{:032x}", self.host.ids.fresh()),
            action: "apply",
            idempotency: None,
            deadline: self.host.clock.monotonic().plus(Duration::from_secs(10)),
            edit,
        };
        self.plane.writer.submit(request).await.unwrap();
    }

    async fn sync(&self, node: &str, sequence: u64, facts: Facts) -> Result<SyncAnswer, Error> {
        let arrival = Arrival {
            process: "p".to_owned(),
            driver: "test".to_owned(),
            carries_traffic: false,
            software: "0".to_owned(),
        };
        let agent_incarnation = match sequence {
            1 => {
                self.plane
                    .registry
                    .register(node, &arrival)
                    .await?
                    .agent_incarnation
            },
            _ => cpl_core::version::AgentIncarnation(1),
        };
        let call = SyncCall {
            node: node.to_owned(),
            agent_incarnation,
            sequence,
            facts,
            wait: Duration::from_millis(500),
        };
        self.plane.deliveries.sync(call).await
    }
}

fn accepted(delivered: &Delivered) -> Facts {
    Facts {
        incarnation: Some(delivered.identity.incarnation),
        received: Some(delivered.version),
        received_digest: Some(delivered.digest.clone()),
        accepted: Some(delivered.version),
        data_plane_state: DataPlaneState::Healthy,
        ..Facts::default()
    }
}

fn configuration(answer: SyncAnswer) -> Delivered {
    match answer {
        SyncAnswer::Configuration(delivered) => *delivered,
        SyncAnswer::Same(version) => {
            panic!("expected a configuration, got the same of {version:?}")
        },
    }
}

#[tokio::test]
async fn what_is_committed_is_delivered_though_nothing_can_be_written() {
    let world = World::start().await;
    let group = |weight: u16| {
        let mut group = targetgroup("web", 80, &[("a", 8080)]);
        group["endpoints"][0]["weight"] = weight.into();
        group
    };
    world
        .apply(vec![group(1), node("node-1", "127.0.0.1", &["web"])])
        .await;
    let first = configuration(world.sync("node-1", 1, Facts::default()).await.unwrap());
    let facts = accepted(&first);
    world.sync("node-1", 2, facts.clone()).await.unwrap();
    world.apply(vec![group(2)]).await;

    world.store.read_only.store(true, Ordering::SeqCst);
    let started = world.host.clock.monotonic();
    let second = configuration(world.sync("node-1", 3, facts).await.unwrap());
    let took = world.host.clock.monotonic().since(started);
    assert!(second.version > first.version);
    assert!(
        took < Duration::from_secs(1),
        "the answer waited for a write: {took:?}"
    );
    // What the agent says now is news, and cannot be kept: it is told so at once, and says it again.
    let refused = world
        .sync("node-1", 4, accepted(&second))
        .await
        .unwrap_err();
    assert_eq!(refused.reason(), "STORE_READ_ONLY");
    world.store.read_only.store(false, Ordering::SeqCst);
    world.sync("node-1", 5, accepted(&second)).await.unwrap();
    world.plane.stop().await;
}

/// A server takes 20,000 connections; each agent may have a report that waits.
#[tokio::test]
async fn no_report_is_refused_when_all_agents_speak_at_once() {
    let world = World::start().await;
    let notes = (0..20_000).map(|n| {
        let deliveries = Arc::clone(&world.plane.deliveries);
        async move { deliveries.note("node-1", "tested", format!("{n}")).await }
    });
    let refused: Vec<_> = join_all(notes)
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    assert!(
        refused.is_empty(),
        "{} refused: {:?}",
        refused.len(),
        refused.first()
    );
    world.plane.stop().await;
}
