//! The campaign: legs of some kills each, after which everything is looked at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cpl_backends::{Etcd, Postgres};
use cpl_host::Host;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::chance::Chance;
use super::check::{Lost, Record, Recorded, Told, check};
use super::client::{Changer, Stream};
use super::nodes::{Node, Place, pages};
use super::output::figures;
use crate::harness::manifests;
use crate::live::process::{Client, Serve};

const CLIENTS: u16 = 4;
const KILLS_OF_A_LEG: u64 = 5;
/// Where kills must have hit, when there are enough of them.
const STARTING: &str = "the server was starting";
const IDLE: &str = "no change was under way";
const BUSY: &str = "changes were under way";

/// What a campaign has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    kills: u64,
    under_way: BTreeMap<&'static str, u64>,
    requests_under_way: usize,
    pub(super) told: Vec<Told>,
    ready: Vec<Duration>,
    converged: Vec<Duration>,
}

pub(super) struct Campaign {
    /// All on one store; mostly one.
    pub(super) serves: Vec<Serve>,
    pub(super) nodes: Vec<Node>,
    changers: Vec<Changer>,
    in_flight: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    /// How soon after the last restart every node must run what it should.
    converge: Duration,
    chance: Chance,
    pub(super) seen: Seen,
}

/// A client that changes things, and then what it was told.
type Changing = JoinHandle<(Changer, Vec<Told>)>;

impl Campaign {
    pub(super) async fn start(mut serves: Vec<Serve>, place: &Place<'_>, seed: u64) -> Self {
        for serve in &mut serves {
            serve.start();
            serve.ready().await;
        }
        let client = client_of(&serves);
        let in_flight = Arc::default();
        let (stop, _) = watch::channel(false);
        let mut changers = Vec::new();
        for number in 0..CLIENTS {
            let stream = Stream {
                client: client_of(&serves),
                in_flight: Arc::clone(&in_flight),
                stop: stop.subscribe(),
            };
            let changer = Changer::new(stream, number);
            let headers = [("x-request-id", &*format!("setup-{number}.1"))];
            let body = manifests(&[changer.web()]);
            let (status, answer) = client.post("/v1/apply", &body, &headers).await.unwrap();
            assert_eq!(status, 200, "{answer}");
            changers.push(changer);
        }
        let groups: Vec<String> = changers.iter().map(Changer::name).collect();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let mut nodes = Vec::new();
        for number in 1..=3 {
            // Each begins with another server.
            let first = usize::from(number) % serves.len();
            let urls: Vec<String> = serves
                .iter()
                .cycle()
                .skip(first)
                .map(Serve::url)
                .take(serves.len())
                .collect();
            nodes.push(Node::start(&client, &urls.join(","), place, number, &groups).await);
        }
        let campaign = Self {
            serves,
            nodes,
            changers,
            in_flight,
            stop,
            converge: place.converge,
            chance: Chance(seed),
            seen: Seen::default(),
        };
        campaign.converged().await;
        campaign
    }

    /// Kills the server some times while clients change things, then lets them finish, and looks.
    async fn leg(&mut self, kills: u64) {
        let running = self.change();
        for _ in 0..kills {
            self.kill().await;
        }
        self.finish(running).await;
    }

    /// Lets clients change things.
    pub(super) fn change(&mut self) -> Vec<Changing> {
        self.stop.send_replace(false);
        let changers = std::mem::take(&mut self.changers);
        let running = changers.into_iter().map(|c| tokio::spawn(c.run()));
        running.collect()
    }

    /// Waits for the server, lets clients finish what they are at, and looks whether the nodes follow.
    pub(super) async fn finish(&mut self, running: Vec<Changing>) {
        let clock = Host::new().clock;
        let restarted = clock.monotonic();
        for serve in &self.serves {
            self.seen.ready.push(serve.ready().await);
        }
        self.stop.send_replace(true);
        for client in running {
            let (changer, told) = client.await.unwrap();
            self.changers.push(changer);
            self.seen.told.extend(told);
        }
        self.converged().await;
        let took = clock.monotonic().since(restarted);
        assert!(
            took < self.converge,
            "the nodes took {took:?} after the last restart"
        );
        self.seen.converged.push(took);
        self.nodes_run_the_last_change();
    }

    /// Kills the server at a moment of chance and starts it again.
    async fn kill(&mut self) {
        let while_starting = self.chance.next().is_multiple_of(5);
        let wait = self.chance.next();
        let which = usize::try_from(wait / 7).unwrap() % self.serves.len();
        if while_starting {
            tokio::time::sleep(Duration::from_micros(wait % 60_000)).await;
        } else {
            self.seen.ready.push(self.serves[which].ready().await);
            tokio::time::sleep(Duration::from_micros(wait % 300_000)).await;
            if !wait.is_multiple_of(3) {
                self.something_under_way().await;
            }
        }
        self.serves[which].kill();
        let requests = self.in_flight.load(Ordering::SeqCst);
        let phase = match (while_starting, requests) {
            (true, _) => STARTING,
            (false, 0) => IDLE,
            (false, _) => BUSY,
        };
        *self.seen.under_way.entry(phase).or_default() += 1;
        self.seen.requests_under_way += if while_starting { 0 } else { requests };
        self.seen.kills += 1;
        self.serves[which].start();
    }

    /// Waits a little until a change was just sent.
    async fn something_under_way(&self) {
        for _ in 0..10_000 {
            if self.in_flight.load(Ordering::SeqCst) > 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// A client of all servers.
    pub(super) fn client(&self) -> Client {
        client_of(&self.serves)
    }

    pub(super) async fn converged(&self) {
        let client = self.client();
        let version = global_version(&client).await;
        for node in &self.nodes {
            node.converged(&client, version).await;
        }
    }

    /// The files of every node have the weights that the last changes said.
    fn nodes_run_the_last_change(&self) {
        for changer in &self.changers {
            let web = changer.web_told();
            for node in &self.nodes {
                let line = node.endpoint(&changer.name()).unwrap_or_default();
                let weight = format!(" weight {} ", web["endpoints"][0]["weight"]);
                assert!(
                    format!("{line} ").contains(&weight),
                    "{}: {line:?}, {web}",
                    node.name
                );
            }
        }
    }

    pub(super) async fn recorded(&self) -> Recorded {
        let client = self.client();
        let mut recorded = Recorded {
            global_version: global_version(&client).await,
            ..Recorded::default()
        };
        recorded.audit = records(&pages(&client, "/v1/audit").await);
        for name in self.changers.iter().flat_map(|c| [c.name(), c.extra()]) {
            let path = format!("/v1/targetgroups/{name}/history");
            let records = records(&pages(&client, &path).await);
            recorded.history.insert(name, records);
        }
        recorded
    }
}

fn client_of(serves: &[Serve]) -> Client {
    serves[0].client_of(&serves.iter().collect::<Vec<_>>())
}

/// The newest version. A server tells the one that it has seen; once it is ready that is the newest one.
async fn global_version(client: &Client) -> u64 {
    let (status, ready) = client.get("/readyz").await.unwrap();
    assert_eq!(status, 200, "{ready}");
    let (_, version) = client.get("/version").await.unwrap();
    version["global_version"].as_u64().unwrap()
}

fn records(items: &[Value]) -> Vec<Record> {
    let record = |item: &Value| {
        Some(Record {
            request: item["request_id"].as_str()?.to_owned(),
            version: item["config_version"].as_u64()?,
        })
    };
    items.iter().filter_map(record).collect()
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn report(seed: u64, seen: &Seen, lost: Lost) {
    let longest = |times: &[Duration]| times.iter().max().copied().unwrap_or_default();
    let mut ready = seen.ready.clone();
    ready.sort_unstable();
    figures(format_args!(
        "{} kills, seed {seed}: {} changes told, none lost, none twice; under way: {:#?}; requests under \
         way at the kills: {}; answers lost: {lost:?}; ready after a start: median {:?}, longest {:?}; \
         converged after the last restart of {} legs: longest {:?}",
        seen.kills,
        seen.told.len(),
        seen.under_way,
        seen.requests_under_way,
        ready[ready.len() / 2],
        longest(&seen.ready),
        seen.converged.len(),
        longest(&seen.converged),
    ));
}

/// Runs the campaign and looks at what it hit.
async fn run(serve: Serve, place: &Place<'_>) {
    run_all(vec![serve], place).await;
}

/// The same with several servers on one store, a random one of which is killed each time.
pub(super) async fn run_all(serves: Vec<Serve>, place: &Place<'_>) -> Campaign {
    let (rounds, seed) = (setting("CPL_KILL_ROUNDS", 20), setting("CPL_KILL_SEED", 1));
    let mut campaign = Campaign::start(serves, place, seed).await;
    while campaign.seen.kills < rounds {
        let kills = KILLS_OF_A_LEG.min(rounds - campaign.seen.kills);
        campaign.leg(kills).await;
    }
    let recorded = campaign.recorded().await;
    let lost = check(&campaign.seen.told, &recorded);
    let lost = lost.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong:#?}"));
    report(seed, &campaign.seen, lost);
    let hit = |phase| campaign.seen.under_way.contains_key(phase);
    assert!(
        rounds < 20 || (hit(STARTING) && hit(BUSY)),
        "{:?}",
        campaign.seen.under_way
    );
    assert!(
        rounds < 20 || lost.before_the_commit + lost.after_the_commit > 0,
        "{lost:?}"
    );
    campaign
}

/// The same on a store where the next process must wait for the session of the one that was killed, which
/// lasts `CPL_KILL_SESSION_S` seconds.
async fn run_on(net: u8, store: &str) {
    let dir = tempfile::tempdir().unwrap();
    let ttl = Duration::from_secs(setting("CPL_KILL_SESSION_S", 2));
    let serve = Serve::on(&dir.path().join("data"), store, ttl);
    let place = Place {
        dir: dir.path(),
        net,
        converge: Duration::from_secs(25),
    };
    run(serve, &place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_told_is_lost_or_done_twice_when_the_server_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place {
        dir: dir.path(),
        net: 47,
        // A held file lock proves that the one before is dead: nobody waits for its session.
        converge: Duration::from_secs(10),
    };
    run(Serve::new(&dir.path().join("data")), &place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_told_is_lost_or_done_twice_on_etcd() {
    let etcd = Etcd::start();
    run_on(48, &etcd.url("cpl")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_told_is_lost_or_done_twice_on_postgres() {
    let postgres = Postgres::start();
    run_on(49, &postgres.url("cpl")).await;
}
