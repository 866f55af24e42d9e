//! A server with agents: how soon all have acknowledged a change, and what each costs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::agents::{Agent, Connection, Run};
use crate::latency::{Latency, rounded};
use crate::{output, process, streams};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_mins(2);

/// What is measured of a fleet.
#[derive(Debug, Subcommand)]
pub(crate) enum Case {
    /// From a change to the last durable acknowledgement; memory and CPU time of the server.
    Fanout(Arguments),
    /// From a change over the API to its arrival at one waiting agent.
    One(Arguments),
    /// The server is killed and started again; once it listens, all agents come back at once.
    Restart(Arguments),
    /// Agents that wait and nothing happens.
    Idle(Arguments),
    /// Watchers of the HTTP stream of changes.
    Streams(streams::Arguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the store is made.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    #[arg(long, default_value_t = 10_000)]
    clients: usize,
    /// Changes; of `idle` the seconds.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
}

pub(crate) async fn run(case: Case) {
    match case {
        Case::Fanout(arguments) => fanout(&arguments).await,
        Case::One(arguments) => one(&arguments).await,
        Case::Restart(arguments) => restart(&arguments).await,
        Case::Idle(arguments) => idle(&arguments).await,
        Case::Streams(arguments) => streams::run(&arguments).await,
    }
}

/// A server in a process of its own, ended with this value.
pub(crate) struct Served {
    dir: TempDir,
    nodes: usize,
    child: Child,
    input: ChildStdin,
    lines: BufReader<std::process::ChildStdout>,
    pub(crate) address: String,
    pub(crate) token: String,
}

impl Served {
    pub(crate) fn start(dir: &Path, nodes: usize) -> Self {
        let dir = tempfile::tempdir_in(dir).unwrap();
        let (child, input, lines, said) = spawn(dir.path(), nodes, 0, true);
        let token = std::fs::read_to_string(said["admin"].as_str().unwrap()).unwrap();
        Self {
            dir,
            nodes,
            child,
            input,
            lines,
            address: said["url"]
                .as_str()
                .unwrap()
                .trim_start_matches("http://")
                .to_owned(),
            token: token.trim().to_owned(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn ask(&mut self, command: &str) -> Value {
        writeln!(self.input, "{command}").unwrap();
        read(&mut self.lines)
    }

    /// SIGKILL, and a new process on the same store and port.
    fn again(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let port = self.address.rsplit_once(':').unwrap().1.parse().unwrap();
        let (child, input, lines, _) = spawn(self.dir.path(), self.nodes, port, false);
        (self.child, self.input, self.lines) = (child, input, lines);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        drop(killed);
    }
}

type Started = (
    Child,
    ChildStdin,
    BufReader<std::process::ChildStdout>,
    Value,
);

fn spawn(dir: &Path, nodes: usize, port: u16, prepare: bool) -> Started {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "serve",
        "--nodes",
        &nodes.to_string(),
        "--port",
        &port.to_string(),
        "--dir",
    ]);
    command.arg(dir).args(prepare.then_some("--prepare"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let said = read(&mut lines);
    (child, input, lines, said)
}

fn read(lines: &mut BufReader<std::process::ChildStdout>) -> Value {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    serde_json::from_str(&line).expect("the server said nothing: its log is above")
}

/// Starts agents and waits until all have what there is and wait for more.
async fn connect(run: &Arc<Run>, clients: usize) -> Vec<JoinHandle<()>> {
    let mut agents = Vec::new();
    for n in 0..clients {
        let run = Arc::clone(run);
        agents.push(tokio::spawn(async move { Agent::new(n).run(&run).await }));
        if n % 256 == 255 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    settled(run, clients, clients).await;
    agents
}

/// Waits until this many bodies have come and every agent waits.
async fn settled(run: &Run, bodies: usize, clients: usize) {
    let started = Instant::now();
    let done = || {
        run.bodies.load(Ordering::SeqCst) >= bodies && run.parked.load(Ordering::SeqCst) == clients
    };
    while !done() {
        assert!(
            started.elapsed() < PATIENCE,
            "{} of {bodies} bodies, {} of {clients} agents wait, {} refusals",
            run.bodies.load(Ordering::SeqCst),
            run.parked.load(Ordering::SeqCst),
            run.refused.load(Ordering::SeqCst),
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the server has nothing left to do.
async fn quiet(pid: u32) {
    let mut before = process::cpu_seconds(pid);
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = process::cpu_seconds(pid);
        if now - before < 0.02 {
            return;
        }
        before = now;
    }
    panic!("the server does not come to rest");
}

async fn fanout(arguments: &Arguments) {
    let clients = arguments.clients;
    let mut server = Served::start(&arguments.dir, clients);
    let pid = server.pid();
    quiet(pid).await;
    let memory = process::rss_kib(pid);
    let run = Run::new(&server.address, Duration::from_mins(1));
    let agents = connect(&run, clients).await;
    let connect_s = run.base.elapsed().as_secs_f64();
    quiet(pid).await;
    let memory = process::rss_kib(pid) - memory;
    let (mut bodies, mut acks, mut cpu, mut settled_cpu) =
        (Latency::default(), Latency::default(), 0.0, 0.0);
    for _ in 0..arguments.rounds {
        run.bodies.store(0, Ordering::SeqCst);
        run.last_body_us.store(0, Ordering::SeqCst);
        let (before, at) = (process::cpu_seconds(pid), run.now_us());
        server.ask("change");
        let last = loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let stats = server.ask("stats");
            if stats["acked"].as_u64() >= Some(clients as u64) {
                break stats["last_us"].as_u64().unwrap();
            }
            assert!(run.now_us() - at < 120_000_000, "only {stats}");
        };
        acks.push(Duration::from_micros(last));
        bodies.push(Duration::from_micros(
            run.last_body_us.load(Ordering::SeqCst) - at,
        ));
        settled(&run, clients, clients).await;
        cpu += process::cpu_seconds(pid) - before;
        quiet(pid).await;
        settled_cpu += process::cpu_seconds(pid) - before;
    }
    agents.iter().for_each(JoinHandle::abort);
    drop(agents);
    tokio::time::sleep(Duration::from_secs(1)).await;
    quiet(pid).await;
    let left = process::rss_kib(pid);
    let each = f64::from(arguments.rounds) * clients as f64;
    output::case(
        "fleet.fanout",
        &json!({"clients": clients, "rounds": arguments.rounds}),
        &json!({"all_bodies_p50_ms": bodies.ms(0.5), "all_acked_p50_ms": acks.ms(0.5), "all_acked_max_ms": acks.ms(1.0),
                "server_cpu_us_per_client_round": rounded(cpu * 1e6 / each),
                "server_cpu_us_per_client_round_settled": rounded(settled_cpu * 1e6 / each),
                "server_kib_per_client": rounded(memory / clients as f64), "connect_s": rounded(connect_s),
                "server_mib_after_all_left": rounded(left / 1_024.0),
                "refused": run.refused.load(Ordering::SeqCst)}),
    );
}

async fn one(arguments: &Arguments) {
    let server = Served::start(&arguments.dir, 1);
    let run = Run::new(&server.address, Duration::from_mins(1));
    let agents = connect(&run, 1).await;
    let mut control = Connection::open(&run.address).await.unwrap();
    let (mut arrived, mut acknowledged) = (Latency::default(), Latency::default());
    for round in 0..arguments.rounds {
        run.bodies.store(0, Ordering::SeqCst);
        let endpoint =
            json!({"id": "endpoint-0", "ip": "10.0.0.1", "port": 8_000, "weight": round % 200 + 2});
        let body = json!({"upsert": [endpoint]}).to_string();
        let at = run.now_us();
        let path = "/v1/targetgroups/web/endpoints:change";
        let (status, answer) = control
            .call("POST", path, &server.token, &body)
            .await
            .unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        acknowledged.push(Duration::from_micros(run.now_us() - at));
        while run.bodies.load(Ordering::SeqCst) == 0 {
            let waiting = tokio::time::timeout(PATIENCE, run.arrived.notified());
            waiting.await.expect("the change arrives");
        }
        arrived.push(Duration::from_micros(
            run.last_body_us.load(Ordering::SeqCst) - at,
        ));
        // Low load, and within the rate that one token may have.
        tokio::time::sleep(Duration::from_millis(8)).await;
    }
    agents.iter().for_each(JoinHandle::abort);
    output::case(
        "fleet.one",
        &json!({"rounds": arguments.rounds}),
        &json!({"p50_ms": arrived.ms(0.5), "p99_ms": arrived.ms(0.99), "apply_p50_ms": acknowledged.ms(0.5),
                "apply_p99_ms": acknowledged.ms(0.99)}),
    );
}

async fn restart(arguments: &Arguments) {
    let clients = arguments.clients;
    let mut server = Served::start(&arguments.dir, clients);
    let run = Run::new(&server.address, Duration::from_mins(1));
    let agents = connect(&run, clients).await;
    quiet(server.pid()).await;
    run.refused.store(0, Ordering::SeqCst);
    run.most_refused.store(0, Ordering::SeqCst);
    run.gate.send_replace(false);
    let killed = Instant::now();
    server.again();
    let listening = killed.elapsed();
    // All at once, within 200 ms: chance, which spreads real agents, must not be needed.
    run.gate.send_replace(true);
    // They have what there is: every one waits again, and nobody gets a body.
    settled(&run, 0, clients).await;
    while server.ask("stats")["waiting"].as_u64() < Some(clients as u64) {
        assert!(killed.elapsed() < PATIENCE, "{}", server.ask("stats"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let back = killed.elapsed();
    agents.iter().for_each(JoinHandle::abort);
    output::case(
        "fleet.restart",
        &json!({"clients": clients}),
        &json!({"all_back_s": rounded(back.as_secs_f64()), "listening_s": rounded(listening.as_secs_f64()),
                "after_listening_s": rounded(back.saturating_sub(listening).as_secs_f64()),
                "refused": run.refused.load(Ordering::SeqCst),
                "most_refused": run.most_refused.load(Ordering::SeqCst)}),
    );
}

async fn idle(arguments: &Arguments) {
    let clients = arguments.clients;
    let server = Served::start(&arguments.dir, clients);
    let run = Run::new(&server.address, Duration::from_mins(1));
    let agents = connect(&run, clients).await;
    quiet(server.pid()).await;
    let (before, started) = (process::cpu_seconds(server.pid()), Instant::now());
    tokio::time::sleep(Duration::from_secs(arguments.rounds.into())).await;
    let cpu = process::cpu_seconds(server.pid()) - before;
    let percent = cpu * 100.0 / started.elapsed().as_secs_f64();
    agents.iter().for_each(JoinHandle::abort);
    output::case(
        "fleet.idle",
        &json!({"clients": clients, "seconds": arguments.rounds, "poll_s": 60}),
        &json!({"cpu_percent_of_a_core": rounded(percent)}),
    );
}
