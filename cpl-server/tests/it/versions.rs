//! Versions never go back and acknowledgements never lie: random interleavings of writers, agents,
//! restarts and lost replies, on a store in memory and on one in a file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cpl_core::agent::Arrival;
use cpl_core::delivery::{Delivered, Facts, Hold, Stage, SyncAnswer, SyncCall};
use cpl_core::error::Error;
use cpl_core::ids::{StoreId, Uid};
use cpl_core::spec::{ChangeRecord, Draft, Edit, Request, manifest};
use cpl_core::store::{Event, Faults, FaultyStore, MemoryStore, Range, Store, WatchItem};
use cpl_core::version::{AgentIncarnation, ConfigVersion, Generation};
use cpl_host::Host;
use cpl_server::cli::serve_config::StoreUrl;
use cpl_server::plane::{Plane, PlaneConfig};
use cpl_server::wiring;
use futures::StreamExt;
use futures::future::join_all;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::harness::{node, targetgroup};

const NODES: [&str; 2] = ["node-1", "node-2"];
const GROUPS: [&str; 3] = ["a", "b", "c"];
/// The agents of these tests refuse a target group with this delay.
const POISON: &str = "666s";

#[derive(Clone, Debug)]
enum Step {
    /// These writers change these target groups at once: group, weight, poisoned.
    Write(Vec<(usize, u16, bool)>),
    /// A node is assigned other target groups.
    Assign(usize, u8),
    /// An agent calls.
    Sync(usize),
    /// An agent is started anew, with what it has on its disk.
    RestartAgent(usize),
    /// The server is started anew.
    RestartServer,
}

fn step() -> impl Strategy<Value = Step> {
    let write = prop::collection::vec((0..3_usize, 0..200_u16, prop::bool::weighted(0.2)), 1..5);
    prop_oneof![
        4 => write.prop_map(Step::Write),
        1 => (0..2_usize, 0..8_u8).prop_map(|(node, groups)| Step::Assign(node, groups)),
        5 => (0..2_usize).prop_map(Step::Sync),
        1 => (0..2_usize).prop_map(Step::RestartAgent),
        1 => Just(Step::RestartServer),
    ]
}

/// An agent that applies everything but poison.
#[derive(Default)]
struct Agent {
    incarnation: AgentIncarnation,
    sequence: u64,
    facts: Facts,
    applied: BTreeMap<String, (Uid, Generation)>,
}

impl Agent {
    fn take(&mut self, delivered: &Delivered) {
        let mut running = BTreeMap::new();
        let mut holds = Vec::new();
        for object in &delivered.configuration.objects {
            let name = object.object.name.clone();
            let before = self
                .applied
                .get(&name)
                .filter(|(uid, _)| *uid == object.uid)
                .copied();
            if is_poison(&object.body) {
                holds.push(Hold {
                    object: object.object.clone(),
                    generation: object.generation,
                    running: before.map(|(_, generation)| generation),
                    stage: Stage::Check,
                    code: "POISON".to_owned(),
                    field: None,
                    message: "poison".to_owned(),
                });
                running.extend(before.map(|before| (name, before)));
            } else {
                running.insert(name, (object.uid, object.generation));
            }
        }
        self.applied = running;
        self.facts.incarnation = Some(delivered.identity.incarnation);
        self.facts.received = Some(delivered.version);
        self.facts.received_digest = Some(delivered.digest.clone());
        self.facts.holds = holds;
        self.accept(delivered.version);
    }

    fn accept(&mut self, version: ConfigVersion) {
        self.facts.received = Some(version);
        if self.facts.holds.is_empty() {
            self.facts.accepted = Some(version);
        }
    }
}

fn is_poison(body: &Value) -> bool {
    body["spec"]["deregistration_delay"] == POISON
}

struct World {
    host: Host,
    file: Option<PathBuf>,
    raw: Arc<dyn Store>,
    faulty: Arc<FaultyStore>,
    plane: Arc<Plane>,
    agents: [Agent; 2],
    seed: u64,
}

impl World {
    async fn start(file: Option<PathBuf>, seed: u64) -> Self {
        let host = Host::new();
        let raw: Arc<dyn Store> = match &file {
            Some(file) => wiring::open(&StoreUrl::Embedded(file.clone()), None, &host)
                .await
                .unwrap(),
            None => Arc::new(MemoryStore::new(StoreId(7), Arc::clone(&host.clock))),
        };
        let (faulty, plane) = serve(&host, &raw, seed).await;
        let agents = [Agent::default(), Agent::default()];
        let world = Self {
            host,
            file,
            raw,
            faulty,
            plane,
            agents,
            seed,
        };
        for group in GROUPS {
            world
                .apply(targetgroup(group, port(group), &[("ep-1", 9_000)]))
                .await;
        }
        for node in NODES {
            world.apply(self::node(node, "127.0.0.1", &GROUPS)).await;
        }
        world
    }

    /// Applies a manifest and repeats it until it is answered, with the same key each time.
    async fn apply(&self, wanted: Value) {
        let key = format!("{:032x}", self.host.ids.fresh());
        for _ in 0..200 {
            let wanted = wanted.clone();
            let edit: Edit = Box::new(move |kinds, _| {
                let read = manifest(kinds, &wanted, "").map_err(Error::invalid)?;
                Ok(vec![Draft::put(read)])
            });
            let request = Request {
                actor: "writer".to_owned(),
                id: format!("{:032x}", self.host.ids.fresh()),
                action: "apply",
                idempotency: Some(cpl_core::spec::Idempotency {
                    key: key.clone(),
                    request: "the same".to_owned(),
                }),
                deadline: self.host.clock.monotonic().plus(Duration::from_secs(5)),
                edit,
            };
            match self.plane.writer.submit(request).await {
                Ok(_) => return,
                Err(error) if error.reason() == "FIELD_INVALID" => return,
                Err(_) => {},
            }
        }
        panic!("a writer never got its answer");
    }

    async fn sync(&mut self, index: usize) {
        for _ in 0..200 {
            let agent = &mut self.agents[index];
            if agent.incarnation == AgentIncarnation(0) {
                let arrival = Arrival {
                    process: format!("{:x}", self.host.ids.fresh()),
                    driver: "test".to_owned(),
                    carries_traffic: false,
                    software: "0".to_owned(),
                };
                match self.plane.registry.register(NODES[index], &arrival).await {
                    Ok(record) => agent.incarnation = record.agent_incarnation,
                    Err(_) => continue,
                }
            }
            agent.sequence += 1;
            let call = SyncCall {
                node: NODES[index].to_owned(),
                agent_incarnation: agent.incarnation,
                sequence: agent.sequence,
                facts: agent.facts.clone(),
                wait: Duration::ZERO,
            };
            match self.plane.deliveries.sync(call).await {
                Ok(SyncAnswer::Same(version)) => {
                    if let Some(version) = version {
                        self.agents[index].accept(version);
                    }
                    return;
                },
                Ok(SyncAnswer::Configuration(delivered)) => {
                    self.agents[index].take(&delivered);
                    return;
                },
                Err(error) if error.reason() == "AGENT_UNKNOWN" => {
                    self.agents[index].incarnation = AgentIncarnation(0);
                },
                Err(_) => {},
            }
        }
        panic!("an agent never got its answer");
    }

    async fn restart_server(&mut self) {
        self.plane.stop().await;
        if let Some(file) = self.file.clone() {
            // The file is locked by whoever has it open, so everything of the old server goes first.
            let nothing: Arc<dyn Store> =
                Arc::new(MemoryStore::new(StoreId(0), Arc::clone(&self.host.clock)));
            self.raw = Arc::clone(&nothing);
            let (faulty, plane) = serve(&self.host, &nothing, 0).await;
            (self.faulty, self.plane) = (faulty, plane);
            self.raw = wiring::open(&StoreUrl::Embedded(file), None, &self.host)
                .await
                .unwrap();
        }
        self.seed = self.seed.wrapping_add(1);
        let (faulty, plane) = serve(&self.host, &self.raw, self.seed).await;
        (self.faulty, self.plane) = (faulty, plane);
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Write(writes) => {
                let changes = writes.iter().map(|(group, weight, poison)| {
                    let name = GROUPS[*group];
                    let mut wanted = targetgroup(name, port(name), &[("ep-1", 9_000)]);
                    wanted["endpoints"][0]["weight"] = json!(weight);
                    if *poison {
                        wanted["spec"]["deregistration_delay"] = json!(POISON);
                    }
                    self.apply(wanted)
                });
                join_all(changes).await;
            },
            Step::Assign(index, groups) => {
                let assigned: Vec<&str> = GROUPS
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| groups & (1 << bit) != 0)
                    .map(|(_, group)| *group)
                    .collect();
                self.apply(node(NODES[*index], "127.0.0.1", &assigned))
                    .await;
            },
            Step::Sync(index) => {
                self.sync(*index).await;
                self.check_promise(*index).await;
            },
            Step::RestartAgent(index) => self.agents[*index].incarnation = AgentIncarnation(0),
            Step::RestartServer => self.restart_server().await,
        }
    }

    /// "Reported N means everything up to N": of each object that the node still runs, its agent runs what
    /// the newest change up to N says. A generation that changes nothing reaches no agent, so what counts
    /// is what the generations say, and not their numbers.
    async fn check_promise(&self, index: usize) {
        let agent = &self.agents[index];
        let Some(accepted) = agent.facts.accepted else {
            return;
        };
        for (name, (uid, generation)) in &agent.applied {
            let history: Vec<ChangeRecord> = changes(&*self.raw, name)
                .await
                .into_iter()
                .filter(|change| change.uid == *uid)
                .collect();
            let told = history
                .iter()
                .filter(|change| change.config_version <= accepted)
                .max_by_key(|change| change.target_version);
            let runs = history
                .iter()
                .find(|change| change.target_version == *generation);
            let (told, runs) = (told.unwrap(), runs.unwrap());
            assert!(
                *generation >= told.target_version || runs.content == told.content,
                "{} accepted version {accepted} and runs generation {generation} of {name}, but \
                 generation {} of it is older than that and says something else",
                NODES[index],
                told.target_version,
            );
        }
    }
}

fn port(group: &str) -> u16 {
    8_000 + u16::from(group.as_bytes()[0])
}

async fn serve(host: &Host, raw: &Arc<dyn Store>, seed: u64) -> (Arc<FaultyStore>, Arc<Plane>) {
    let faulty = Arc::new(FaultyStore::new(
        Arc::clone(raw),
        Arc::clone(&host.clock),
        Faults::NONE,
        seed,
    ));
    let store: Arc<dyn Store> = Arc::clone(&faulty) as Arc<dyn Store>;
    let plane = Plane::start(host.clone(), store, PlaneConfig::default())
        .await
        .unwrap();
    faulty.set_faults(Faults::MANY);
    (faulty, plane)
}

async fn changes(store: &dyn Store, group: &str) -> Vec<ChangeRecord> {
    let range = Range::prefix(format!("/cpl/v1/targetgroups/{group}/history/")).unwrap();
    let page = store
        .list(cpl_core::store::ListRequest::first(range))
        .await
        .unwrap();
    assert!(page.next.is_none(), "one page holds the history of a test");
    page.entries
        .iter()
        .map(|entry| serde_json::from_slice(&entry.value).unwrap())
        .collect()
}

/// Looks at every event that the store ever committed.
async fn check_history(store: &dyn Store, start: cpl_core::store::Cursor) {
    let head = store.head().await.unwrap().revision;
    let mut items = store.watch(Range::all(), start).await.unwrap();
    let mut seen = Watched::default();
    while let Some(item) = items.next().await {
        let at = match item {
            WatchItem::Events { at, events } => {
                seen.revision(&events);
                at
            },
            WatchItem::Progress(at) => at,
            other => panic!("the watch ended: {other:?}"),
        };
        if at.revision >= head {
            return;
        }
    }
}

#[derive(Default)]
struct Watched {
    version: u64,
    generations: BTreeMap<(String, String), u64>,
    nodes: BTreeMap<String, (u64, u64)>,
}

impl Watched {
    /// Checks one commit against all before it.
    fn revision(&mut self, events: &[Event]) {
        let puts: Vec<(&str, Value)> = events
            .iter()
            .filter_map(|event| match event {
                Event::Put { entry, .. } => Some((
                    entry.key.as_str()?,
                    serde_json::from_slice(&entry.value).ok()?,
                )),
                Event::Delete { .. } => None,
            })
            .collect();
        let versions: std::collections::BTreeSet<u64> = puts
            .iter()
            .filter(|(key, _)| key.contains("/history/"))
            .map(|(_, record)| record["config_version"].as_u64().unwrap())
            .collect();
        let counter = puts
            .iter()
            .find(|(key, _)| *key == "/cpl/v1/configs/global_version");
        match counter {
            Some((_, version)) => {
                let version = version.as_u64().unwrap();
                let expected: Vec<u64> = (self.version + 1..=version).collect();
                assert!(
                    !expected.is_empty(),
                    "the version went from {} to {version}",
                    self.version
                );
                let got: Vec<u64> = versions.into_iter().collect();
                assert_eq!(
                    got, expected,
                    "each version has its history in the same commit"
                );
                self.version = version;
            },
            None => assert!(versions.is_empty(), "history without a version"),
        }
        for (key, value) in &puts {
            self.key(key, value);
        }
    }

    fn key(&mut self, key: &str, value: &Value) {
        if key.ends_with("/meta") {
            let uid = value["uid"].as_str().unwrap().to_owned();
            let generation = value["generation"].as_u64().unwrap();
            let before = self.generations.insert((key.to_owned(), uid), generation);
            assert_eq!(
                generation,
                before.unwrap_or(0) + 1,
                "generations of {key} are dense"
            );
        } else if key.ends_with("/status") {
            let now = (
                value["agent_incarnation"].as_u64().unwrap(),
                value["current_config_version"].as_u64().unwrap(),
            );
            let before = self.nodes.insert(key.to_owned(), now).unwrap_or_default();
            assert!(
                before.0 < now.0 || before <= now,
                "{key} went from {before:?} to {now:?}"
            );
        }
    }
}

async fn story(steps: Vec<Step>, file: Option<PathBuf>, seed: u64) {
    let mut world = World::start(file, seed).await;
    let start = {
        let head = world.raw.head().await.unwrap();
        cpl_core::store::Cursor {
            revision: cpl_core::store::Revision(0),
            ..head
        }
    };
    for step in &steps {
        world.take(step).await;
    }
    // A file is watched from its own first revision; after a restart an older cursor is of an older
    // opening, which knows that revision.
    check_history(&*world.raw, start).await;
    world.plane.stop().await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Found by the tests below: two writes at once whose result is what was there before.
#[test]
fn a_change_that_was_taken_back_reaches_nobody_and_holds_nobody_up() {
    let initial = 1;
    let steps = vec![
        Step::Assign(0, 1),
        Step::Sync(0),
        Step::Sync(0),
        Step::Write(vec![(0, 50, false), (0, initial, false)]),
        Step::Sync(0),
    ];
    for seed in 0..3 {
        runtime().block_on(story(steps.clone(), None, seed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn versions_never_go_back_in_memory(
        steps in prop::collection::vec(step(), 1..25),
        seed in any::<u64>(),
    ) {
        runtime().block_on(story(steps, None, seed));
    }

    #[test]
    fn versions_never_go_back_in_a_file(
        steps in prop::collection::vec(step(), 1..25),
        seed in any::<u64>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cpl.redb");
        runtime().block_on(story(steps, Some(file), seed));
    }
}
