//! What is run: CPL's cases, the peers', and the servers that these need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;
use crate::output;
use crate::process::{cargo, root, run};

/// Agents of the fleet, as many as the peers' clients.
const CLIENTS: &str = "10000";

/// One program to run, and the server that it needs.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) server: Option<Server>,
    pub(super) program: PathBuf,
    pub(super) words: Vec<String>,
}

/// A peer's server.
#[derive(Clone, Debug)]
pub(super) enum Server {
    Axum(PathBuf),
    Etcd(PathBuf),
    Nats,
}

/// The targets' cases, ours and the peers' beside each other.
pub(super) fn cases(peers: Option<&Path>, scratch: &Path) -> Result<Vec<Case>, Failure> {
    let ours = |name, words: &str| ours(name, words, scratch);
    let mut all = vec![
        ours("store commits", "store commits --secs 2.5"),
        ours(
            "store commits at rest",
            "store commits --secs 4 --callers 1 --pause-ms 8",
        ),
        ours("store watches", "store watches --rate 600"),
        ours("fleet streams", "fleet streams --connections 8"),
        ours("fleet streams of their own", "fleet streams"),
        ours("fleet one", "fleet one --clients 1 --rounds 1000"),
        ours(
            "fleet fanout",
            &format!("fleet fanout --clients {CLIENTS} --rounds 5"),
        ),
        ours(
            "fleet restart",
            &format!("fleet restart --clients {CLIENTS}"),
        ),
        ours(
            "fleet idle",
            &format!("fleet idle --clients {CLIENTS} --rounds 60"),
        ),
    ];
    let Some(peers) = peers else {
        output::line("bench: without --peers there is nothing to compare with");
        return Ok(all);
    };
    let of_peers = Peers {
        bin: built(peers)?,
        etcd: std::env::var_os("ETCD35").map_or_else(|| PathBuf::from("etcd"), PathBuf::from),
        scratch,
    };
    // Beside the cases of ours that they are compared with, as far as that goes.
    for (at, case) in of_peers.engines() {
        all.insert(at, case);
    }
    all.extend(of_peers.on_etcd());
    all.extend(of_peers.fleets());
    Ok(all)
}

/// Where the peers' programs are, and the etcd that is measured.
struct Peers<'a> {
    bin: PathBuf,
    etcd: PathBuf,
    scratch: &'a Path,
}

impl Peers<'_> {
    fn case(&self, name: &'static str, server: Option<Server>, program: &str, words: &str) -> Case {
        let dir = self.scratch.display().to_string();
        let words = words.split_whitespace();
        Case {
            name,
            server,
            program: self.bin.join(program),
            words: words.map(|word| word.replace("{dir}", &dir)).collect(),
        }
    }

    fn etcd(&self) -> Server {
        Server::Etcd(self.etcd.clone())
    }

    fn engines(&self) -> Vec<(usize, Case)> {
        let etcdbench = |what: &str| {
            format!("--endpoint {{address}} --version {{version}} --pid {{pid}} --secs 2.5 {what}")
        };
        let cas = etcdbench("cas --conc 64");
        let watch = etcdbench("watch --watchers 1000 --rate 50");
        let alone = etcdbench("watch --watchers 1000 --rate 50 --conns 1000");
        let engines = "--dir {dir} --secs 1.5";
        vec![
            (1, self.case("peer redb alone", None, "redbexp", "")),
            (2, self.case("peer engines", None, "embedded", engines)),
            (
                3,
                self.case("peer etcd cas", Some(self.etcd()), "etcdbench", &cas),
            ),
            (
                5,
                self.case("peer etcd watch", Some(self.etcd()), "etcdbench", &watch),
            ),
            (
                6,
                self.case(
                    "peer etcd watch alone",
                    Some(self.etcd()),
                    "etcdbench",
                    &alone,
                ),
            ),
        ]
    }

    /// CPL on etcd and etcd itself.
    fn on_etcd(&self) -> Vec<Case> {
        let ours = |name, words: &str| Case {
            server: Some(self.etcd()),
            ..ours(name, words, self.scratch)
        };
        let commits = "store commits --secs 4 --store etcd://{address}/bench";
        let raw = |conc: u32| {
            let load = "--endpoint {address} --version {version} --pid {pid} --secs 4";
            format!("{load} cas --conc {conc}")
        };
        let peer = |name, conc| self.case(name, Some(self.etcd()), "etcdbench", &raw(conc));
        vec![
            ours("etcd commits", &format!("{commits} --callers 256,1")),
            peer("peer etcd cas 256", 256),
            peer("peer etcd cas 1", 1),
            ours(
                "etcd commits with ids",
                &format!("{commits} --callers 256 --ids"),
            ),
        ]
    }

    fn fleets(&self) -> Vec<Case> {
        let axum = || Some(Server::Axum(self.bin.join("fanout")));
        let load = format!("--addr {{address}} --pid {{pid}} --clients {CLIENTS}");
        let one = "http --addr {address} --pid {pid} --clients 1 --rounds 200 --combined";
        let all = format!("http {load} --rounds 5 --combined");
        let (nats, etcd) = (
            format!("nats {load} --rounds 3"),
            format!("etcd {load} --rounds 3"),
        );
        vec![
            self.case("peer axum one", axum(), "fanout", one),
            self.case("peer axum fanout", axum(), "fanout", &all),
            self.case("peer nats fanout", Some(Server::Nats), "fanout", &nats),
            self.case("peer etcd fanout", Some(self.etcd()), "fanout", &etcd),
        ]
    }
}

fn ours(name: &'static str, words: &str, scratch: &Path) -> Case {
    let dir = ["--dir".to_owned(), scratch.display().to_string()];
    Case {
        name,
        server: None,
        program: target_dir().join("release/cpl-bench"),
        words: words
            .split_whitespace()
            .map(str::to_owned)
            .chain(dir)
            .collect(),
    }
}

/// What changes with size: each figure of CPL along one measure.
pub(super) fn curves(scratch: &Path) -> Vec<Case> {
    let ours = |name, words: &str| ours(name, words, scratch);
    let mut all = vec![
        ours(
            "commits by group",
            "store commits --secs 2 --callers 1,16,64,256",
        ),
        ours(
            "commits by keys: 1k",
            "store commits --secs 2 --callers 64 --keys 1000",
        ),
        ours(
            "commits by keys: 10k",
            "store commits --secs 2 --callers 64 --keys 10000",
        ),
        ours(
            "commits by keys: 100k",
            "store commits --secs 2 --callers 64 --keys 100000",
        ),
        ours(
            "commits by keys: 1M",
            "store commits --secs 2 --callers 64 --keys 1000000",
        ),
    ];
    for (name, watchers) in [
        ("commits by watchers: 10", 10),
        ("commits by watchers: 100", 100),
        ("commits by watchers: 1k", 1_000),
        ("commits by watchers: 10k", 10_000),
    ] {
        all.push(ours(
            name,
            &format!("store commits --secs 2 --callers 64 --watchers {watchers}"),
        ));
    }
    for (name, clients) in [
        ("fanout by agents: 10", 10),
        ("fanout by agents: 100", 100),
        ("fanout by agents: 1k", 1_000),
        ("fanout by agents: 10k", 10_000),
        ("fanout by agents: 18k", 18_000),
    ] {
        all.push(ours(
            name,
            &format!("fleet fanout --rounds 5 --clients {clients}"),
        ));
    }
    all
}

fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds the peers' programs, unless `BIN` says where they are.
fn built(peers: &Path) -> Result<PathBuf, Failure> {
    if let Some(bin) = std::env::var_os("BIN") {
        return Ok(PathBuf::from(bin));
    }
    let target = target_dir().join("peers");
    for manifest in [
        peers.join("Cargo.toml"),
        peers.join("../redblog/Cargo.toml"),
    ] {
        // Their folder may be read-only, lock files included: they are built from a copy.
        let name = if manifest.ends_with("redblog/Cargo.toml") {
            "redblog"
        } else {
            "perf"
        };
        let copy = target.join(name);
        fs::create_dir_all(&target).map_err(|error| cannot("make", &target, &error))?;
        let from = manifest.parent().unwrap_or(peers);
        run(Command::new("cp").arg("-rT").arg(from).arg(&copy))?;
        let mut command = cargo(&["build", "--release", "--manifest-path"]);
        command
            .arg(copy.join("Cargo.toml"))
            .env("CARGO_TARGET_DIR", &target);
        run(&mut command)?;
    }
    Ok(target.join("release"))
}

pub(super) fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot {what} {}: {error}", path.display()))
}
