//! Runs every program alone, in rotation, and sums up.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::cases::{Case, Server, cannot, cases, curves};
use super::figures::{Judged, judge, markdown, shown};
use super::targets::TARGETS;
use crate::failure::Failure;
use crate::output;
use crate::process::{self, cargo, root, run, seconds, shown as shown_command, timed};

/// Longest run of one program.
const PATIENCE: Duration = Duration::from_mins(5);
/// Longest start of a server.
const START: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    /// The folder with the peers' programs (`embedded`, `etcdbench`, `fanout`); without it CPL alone is
    /// measured, and there are no ratios.
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Rounds; each runs everything once, in the same order.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Only cases whose name contains one of these, for example `store` or `fanout`.
    #[arg(long, value_delimiter = ',', value_name = "CASES")]
    only: Vec<String>,
    /// The scale curves instead of the targets; CPL alone.
    #[arg(long)]
    curves: bool,
}

/// A server that runs, killed with this value.
struct Running {
    child: Child,
    port: u16,
    version: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, which the case that needed it has noticed.
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// Measures, prints one line per target, and writes what was measured below `target/bench`.
///
/// # Errors
/// A build fails, or a program cannot be started. A case that fails is told and left out.
pub(crate) fn bench(plan: &Plan) -> Result<(), Failure> {
    run(&mut cargo(&["build", "--release", "-p", "cpl-bench"]))?;
    let scratch = root().join("target/bench");
    fs::create_dir_all(&scratch).map_err(|error| cannot("make", &scratch, &error))?;
    let cases = if plan.curves {
        curves(&scratch)
    } else {
        cases(plan.peers.as_deref(), &scratch)?
    };
    let chosen = |case: &&Case| {
        plan.only.is_empty() || plan.only.iter().any(|only| case.name.contains(&**only))
    };
    let cases: Vec<&Case> = cases.iter().filter(chosen).collect();
    let (lines, took) = timed(|| rotate(&cases, plan.rounds, &scratch));
    let lines = lines?;
    let file = scratch.join("lines.jsonl");
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(&file, text.join("\n") + "\n").map_err(|error| cannot("write", &file, &error))?;
    output::line(format_args!("bench: {}, {}", machine(), seconds(took)));
    if plan.curves {
        return Ok(());
    }
    let judged: Vec<Judged> = TARGETS.iter().map(|target| judge(&lines, target)).collect();
    for one in &judged {
        let (ours, limit) = (shown(one.ours), shown(one.limit));
        let word = one.verdict.word();
        output::line(format_args!(
            "{:<5} {ours:>10} to reach {limit:>10}  {word:<17} {}",
            one.id, one.what
        ));
    }
    let table = scratch.join("targets.md");
    let text = format!("{}\n\n{}", machine(), markdown(&judged));
    fs::write(&table, text).map_err(|error| cannot("write", &table, &error))
}

/// Runs all cases once per round, so that a slow hour hits all of them.
fn rotate(cases: &[&Case], rounds: u32, scratch: &Path) -> Result<Vec<Value>, Failure> {
    let mut lines = Vec::new();
    for round in 1..=rounds {
        for case in cases {
            output::line(format_args!(
                "bench: round {round} of {rounds}: {}",
                case.name
            ));
            match one(case, scratch) {
                Ok(found) => {
                    for mut line in found {
                        output::line(format_args!("  {line}"));
                        line["round"] = json!(round);
                        lines.push(line);
                    }
                },
                Err(failure) => output::problem(failure),
            }
        }
    }
    if lines.is_empty() {
        return Err(Failure::new("bench: nothing was measured"));
    }
    Ok(lines)
}

fn one(case: &Case, scratch: &Path) -> Result<Vec<Value>, Failure> {
    let running = case
        .server
        .as_ref()
        .map(|server| start(server, scratch))
        .transpose()?;
    let fill = |word: &String| match &running {
        Some(Running {
            child,
            port,
            version,
        }) => word
            .replace("{address}", &format!("127.0.0.1:{port}"))
            .replace("{pid}", &child.id().to_string())
            .replace("{version}", version),
        None => word.clone(),
    };
    let mut command = Command::new(&case.program);
    command
        .args(case.words.iter().map(fill))
        .current_dir(scratch);
    let text = read(&mut command)?;
    let found: Vec<Value> = text.lines().filter_map(line).collect();
    if found.is_empty() {
        return Err(Failure::new(format!(
            "`{}` printed no result",
            shown_command(&command)
        )));
    }
    Ok(found)
}

/// A result: JSON, or a line of the program that tries redb alone, which prints a table.
fn line(text: &str) -> Option<Value> {
    if let Ok(value @ Value::Object(_)) = serde_json::from_str(text) {
        return Some(value);
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let [
        "group",
        group,
        "one-log-value",
        rate,
        "txn/s",
        _,
        _,
        "p50",
        p50,
        "p99",
        p99,
        ..,
    ] = words[..]
    else {
        return None;
    };
    let number = |word: &str| word.parse::<f64>().ok();
    Some(json!({
        "bench": "redb.one_log_value",
        "params": {"group": group},
        "metrics": {"txn_per_s": number(rate)?, "p50_ms": number(p50)?, "p99_ms": number(p99)?},
    }))
}

/// Runs a program to its end, within bounds, and returns what it wrote.
fn read(command: &mut Command) -> Result<String, Failure> {
    let what = shown_command(command);
    let failed = |why: String| Failure::new(format!("`{what}`: {why}"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| failed(error.to_string()))?;
    let Some(mut output) = child.stdout.take() else {
        return Err(failed("it has no output".to_owned()));
    };
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut output, &mut text).map(|_| text)
    });
    let mut waited = Duration::ZERO;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if waited < PATIENCE => {},
            Ok(None) | Err(_) => {
                let _killed = child.kill();
                let _waited = child.wait();
                return Err(failed(format!("not done within {}", seconds(PATIENCE))));
            },
        }
        std::thread::sleep(POLL);
        waited += POLL;
    };
    let text = reading
        .join()
        .map_err(|_| failed("its output could not be read".to_owned()))?;
    let text = text.map_err(|error| failed(error.to_string()))?;
    if status.success() {
        Ok(text)
    } else {
        Err(failed(status.to_string()))
    }
}

fn start(server: &Server, scratch: &Path) -> Result<Running, Failure> {
    let (port, other) = (free_port()?, free_port()?);
    let folder = scratch.join(format!("server-{port}"));
    let _old = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| cannot("make", &folder, &error))?;
    let address = format!("127.0.0.1:{port}");
    let mut command;
    let version;
    match server {
        Server::Axum(program) => {
            command = Command::new(program);
            command.args(["server", "--listen", &address]);
            version = String::new();
        },
        Server::Etcd(program) => {
            let (client, peer) = (
                format!("http://{address}"),
                format!("http://127.0.0.1:{other}"),
            );
            command = Command::new(program);
            command.arg("--data-dir").arg(folder.join("etcd"));
            for (name, url) in [
                ("listen-client-urls", &client),
                ("advertise-client-urls", &client),
                ("listen-peer-urls", &peer),
                ("initial-advertise-peer-urls", &peer),
            ] {
                command.args([&format!("--{name}"), url]);
            }
            command.args(["--initial-cluster", &format!("default={peer}")]);
            version = etcd_version(program);
        },
        Server::Nats => {
            command = Command::new("nats-server");
            command
                .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
                .arg(folder.join("js"));
            version = String::new();
        },
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let what = shown_command(&command);
    let child = command
        .spawn()
        .map_err(|error| Failure::new(format!("cannot start `{what}`: {error}")))?;
    let running = Running {
        child,
        port,
        version,
    };
    let mut waited = Duration::ZERO;
    while TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_err() {
        if waited > START {
            return Err(Failure::new(format!(
                "`{what}` does not listen after {}",
                seconds(START)
            )));
        }
        std::thread::sleep(POLL);
        waited += POLL;
    }
    // It listens before it serves.
    std::thread::sleep(Duration::from_secs(1));
    Ok(running)
}

fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    Ok(listener
        .map_err(|error| Failure::new(format!("no free port: {error}")))?
        .port())
}

fn etcd_version(program: &Path) -> String {
    let text = process::read(Command::new(program).arg("--version")).unwrap_or_default();
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "));
    version.unwrap_or_default().trim().to_owned()
}

/// Where and with what it was measured.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "));
    let kernel = read("/proc/sys/kernel/osrelease");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let git = |words: &[&str]| {
        process::read(process::program("git", words).stdin(Stdio::null())).unwrap_or_default()
    };
    let commit = git(&["rev-parse", "--short", "HEAD"]);
    let date = process::read(Command::new("date").arg("+%Y-%m-%d")).unwrap_or_default();
    format!(
        "{}, commit {}, {} x {}, Linux {}",
        date.trim(),
        commit.trim(),
        cores,
        cpu.unwrap_or("unknown processor").trim(),
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_json_or_the_table_of_redb_alone() {
        let found = line(r#"{"bench":"a","params":{},"metrics":{}}"#).unwrap();
        assert_eq!(found["bench"], "a");
        let table = "group   1 one-log-value      2503 txn/s   2503 commits/s p50 0.37 p99 0.61 ms  file 8 MiB";
        assert_eq!(line(table).unwrap()["metrics"]["p99_ms"], 0.61);
        assert_eq!(
            line("group   1 two-inserts    1 txn/s 1 commits/s p50 1 p99 1 ms"),
            None
        );
        assert_eq!(line("warning: nothing"), None);
    }

    #[test]
    fn every_target_has_a_case_of_ours() {
        let names: Vec<String> = cases(None, Path::new("/s"))
            .unwrap()
            .iter()
            .map(|case| case.words[..2].join("."))
            .collect();
        for target in TARGETS {
            let bench = match target.ours.bench {
                "store.cas_txn" => "store.commits",
                "store.watch" => "store.watches",
                other => other,
            };
            assert!(names.iter().any(|name| name == bench), "{bench}");
        }
    }
}
