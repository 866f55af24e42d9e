//! The races of the conformance suite while a backend suffers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cpl_core::store::Store;
use cpl_core::store::conformance::{Case, Runtime, Settling, cases};

use crate::dice::Dice;
use crate::output::figures;
use crate::{Cut, Etcd, Opening, Postgres, Proxy};

/// A backend that can be made to suffer.
pub trait Victim: Send + 'static {
    /// Where each of its members listens.
    fn ports(&self) -> Vec<u16>;
    /// The process of a member.
    fn pid(&self, member: usize) -> u32;
    /// Ends a member with SIGKILL, and starts it again.
    fn restart(&mut self, member: usize);
    /// Does what only this kind suffers; says what that was, unless there was nothing to do.
    fn disturb(&mut self) -> Option<&'static str>;
}

/// What is said of a cluster whose leader was killed and came back later.
pub const LEADER_KILLED: &str = "leader killed, others went on";
/// How long a cluster is left without the leader that was killed: longer than an election takes.
const LEADERLESS: Duration = Duration::from_secs(3);

impl Victim for Etcd {
    fn ports(&self) -> Vec<u16> {
        self.ports()
    }

    fn pid(&self, member: usize) -> u32 {
        self.process(member)
    }

    fn restart(&mut self, member: usize) {
        self.kill_member(member);
        self.serve();
    }

    fn disturb(&mut self) -> Option<&'static str> {
        let leader = self.leader().filter(|_| self.ports().len() > 1)?;
        self.kill_member(leader);
        std::thread::sleep(LEADERLESS);
        self.serve();
        Some(LEADER_KILLED)
    }
}

impl Victim for Postgres {
    fn ports(&self) -> Vec<u16> {
        vec![self.port]
    }

    fn pid(&self, _: usize) -> u32 {
        self.process()
    }

    fn restart(&mut self, _: usize) {
        self.kill();
        self.serve();
    }

    fn disturb(&mut self) -> Option<&'static str> {
        let ended =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'cpl'";
        (self.sql("postgres", ended) != "0").then_some("connections ended by the server")
    }
}

/// What happened, and how often.
pub type Histogram = BTreeMap<String, usize>;

/// Clients that race, watchers beside them, and unknown outcomes that are settled.
const RACES: &[&str] = &[
    "answers_fit_one_order_of_commits",
    "watchers_beside_writers_agree",
    "a_watch_after_a_list_misses_nothing",
    "a_repeated_id_that_races_itself_applies_once",
    "racing_increments_are_all_counted",
    "compaction_beside_writers_and_watchers_loses_nothing",
];

/// Faults of a run and its seed; `CPL_FAULTS` and `CPL_SEED` ask for others.
const FAULTS: usize = 25;
const SEED: usize = 3;

/// Runs races again and again, each on a new store, until so many faults have hit, every kind of cut among them. `open`
/// is given where to connect to, as `host:port,…`, and a number, and opens an empty store of that number.
///
/// # Panics
/// When a case fails, with the seed and what had happened.
pub async fn campaign<O>(runtime: &Runtime, victim: impl Victim, open: O) -> Histogram
where
    O: Fn(&str, usize) -> Opening + Sync,
{
    let asked = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (faults, seed) = (
        asked("CPL_FAULTS").unwrap_or(FAULTS),
        asked("CPL_SEED").unwrap_or(SEED),
    );
    let chosen: Vec<Case> = cases()
        .iter()
        .filter(|case| RACES.contains(&case.name()))
        .copied()
        .collect();
    assert_eq!(chosen.len(), RACES.len(), "each name is a case");
    let chaos = Chaos::start(victim, seed, faults);
    let mut runs = 0;
    while chaos.count() < faults {
        let case = chosen[runs % chosen.len()];
        let store = opened(runtime, &open, &chaos.hosts, runs).await;
        let settling = Settling::patient(store, Arc::clone(&runtime.clock));
        if let Err(failure) = case.run(runtime, settling).await {
            panic!(
                "seed {seed}, run {runs}: {failure}; until then: {:?}",
                chaos.hits()
            );
        }
        runs += 1;
    }
    let hits = chaos.hits();
    figures(format_args!(
        "seed {seed}, {runs} runs of a case: {hits:#?}"
    ));
    let cuts = hits.keys().filter(|what| what.starts_with("cut")).count();
    assert_eq!(cuts, 3, "every kind of cut has hit");
    hits
}

/// Opens a store while all goes wrong; a minute of that is too long.
async fn opened<O>(runtime: &Runtime, open: &O, hosts: &str, number: usize) -> Arc<dyn Store>
where
    O: Fn(&str, usize) -> Opening + Sync,
{
    let mut last = None;
    for _ in 0..300 {
        match open(hosts, number).await {
            Ok(store) => return store,
            Err(error) => last = Some(error),
        }
        runtime.clock.sleep(Duration::from_millis(200)).await;
    }
    panic!("the store does not open: {last:?}");
}

/// Makes a backend suffer until it is dropped, or has suffered enough.
struct Chaos {
    hosts: String,
    done: Arc<AtomicBool>,
    hits: Arc<Mutex<Histogram>>,
    thread: Option<JoinHandle<()>>,
}

impl Chaos {
    fn start(mut victim: impl Victim, seed: usize, faults: usize) -> Self {
        let proxies: Vec<Proxy> = victim.ports().into_iter().map(Proxy::start).collect();
        let hosts: Vec<String> = proxies
            .iter()
            .map(|proxy| format!("127.0.0.1:{}", proxy.port))
            .collect();
        let mut chaos = Self {
            hosts: hosts.join(","),
            done: Arc::default(),
            hits: Arc::default(),
            thread: None,
        };
        let (done, hits) = (Arc::clone(&chaos.done), Arc::clone(&chaos.hits));
        chaos.thread = Some(std::thread::spawn(move || {
            let mut dice = Dice(seed as u64);
            let mut count = 0;
            while !done.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(10 + dice.below(120)));
                if count == faults {
                    // What runs now ends in peace, on a server that is still there.
                    continue;
                }
                if let Some(what) = strike(&mut victim, &proxies, &mut dice) {
                    let mut hits = hits.lock().unwrap_or_else(PoisonError::into_inner);
                    *hits.entry(what.to_owned()).or_default() += 1;
                    count += 1;
                }
            }
        }));
        chaos
    }

    fn hits(&self) -> Histogram {
        self.hits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(&self) -> usize {
        self.hits().values().sum()
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // The server ends with the thread; one that panicked has ended it, too.
            let _ended = thread.join();
        }
    }
}

/// Does one thing to one member; says what it hit, if it hit anything.
fn strike(victim: &mut impl Victim, proxies: &[Proxy], dice: &mut Dice) -> Option<&'static str> {
    let what = dice.below(20);
    let member = usize::try_from(dice.below(proxies.len() as u64)).unwrap();
    let proxy = &proxies[member];
    match what {
        0 => {
            victim.restart(member);
            Some("killed and restarted")
        },
        1 => {
            signal(victim.pid(member), "-STOP");
            std::thread::sleep(Duration::from_millis(200 + dice.below(1_500)));
            signal(victim.pid(member), "-CONT");
            Some("paused")
        },
        2 | 3 => victim.disturb(),
        4..10 => cut(proxy, Cut::Request, "cut before the request"),
        10..16 => cut(proxy, Cut::Reply, "cut after the commit, before the reply"),
        _ => cut(proxy, Cut::Middle, "cut in the middle of a message"),
    }
}

fn cut(proxy: &Proxy, cut: Cut, what: &'static str) -> Option<&'static str> {
    proxy.arm(cut);
    std::thread::sleep(Duration::from_millis(100));
    (!proxy.disarm()).then_some(what)
}

fn signal(pid: u32, signal: &str) {
    let sent = std::process::Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(sent.unwrap().success());
}
