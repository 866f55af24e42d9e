//! GoBGP, through its command line: it is the interface that stays when the daemon's own changes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cpl_core::clock::Clock;
use cpl_lb::spec::BgpPeer;
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use crate::driver::Unavailable;

/// How long one command may take: it gives up after a second by itself when nobody answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// `session_state` of an established session; see `PeerState.SessionState` in GoBGP 3's `gobgp.proto`.
const ESTABLISHED: u8 = 6;

/// A program that is run and read.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    pub(super) binary: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
}

impl Tool {
    /// Runs it with these words, none of which any shell sees.
    ///
    /// # Errors
    /// It could not be run, took too long, or said that it failed.
    pub(super) async fn run(&self, words: &[&str]) -> Result<String, Unavailable> {
        let what = || format!("run {} {}", self.binary.display(), words.join(" "));
        let failed = |source: Option<std::io::Error>, more: &str| Unavailable {
            what: format!("{}{more}", what()),
            source: source.map(Into::into),
        };
        let mut command = Command::new(&self.binary);
        command.args(words).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::select! {
            output = command.output() => output,
            () = self.clock.sleep(PATIENCE) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        let output = output.map_err(|error| failed(Some(error), ""))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = if said.trim().is_empty() {
            text.trim()
        } else {
            said.trim()
        };
        Err(failed(
            None,
            &format!(": {}", said.lines().next().unwrap_or_default()),
        ))
    }
}

/// One daemon.
#[derive(Clone, Debug)]
pub(super) struct Gobgp {
    pub(super) tool: Tool,
    /// Where it answers: `unix:///run/gobgpd.sock`, `127.0.0.1:50051`.
    pub(super) target: String,
}

/// What a daemon says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Its autonomous system; 0 while nobody has configured it.
    pub(super) asn: u32,
    /// Its neighbours: of which system, and whether the session is established.
    pub(super) peers: BTreeMap<IpAddr, (u32, bool)>,
    /// The prefixes of its global table.
    pub(super) prefixes: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Global {
    asn: u32,
}

#[derive(Deserialize)]
struct Neighbour {
    conf: Configured,
    #[serde(default)]
    state: Session,
}

#[derive(Deserialize)]
struct Configured {
    neighbor_address: IpAddr,
    #[serde(default)]
    peer_asn: u32,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Session {
    session_state: u8,
}

impl Gobgp {
    async fn ask(&self, words: &[&str]) -> Result<Value, Unavailable> {
        let target = ["--target", &self.target, "-j"];
        let answer = self.tool.run(&[&target[..], words].concat()).await?;
        serde_json::from_str(&answer).map_err(|source| Unavailable {
            what: format!("understand gobgp {}", words.join(" ")),
            source: Some(Box::new(source)),
        })
    }

    async fn tell(&self, words: &[&str]) -> Result<(), Unavailable> {
        let target = ["--target", &*self.target];
        self.tool
            .run(&[&target[..], words].concat())
            .await
            .map(drop)
    }

    /// Reads everything that matters from the daemon.
    pub(super) async fn table(&self) -> Result<Table, Unavailable> {
        let global = self.ask(&["global"]).await?;
        let neighbours = self.ask(&["neighbor"]).await?;
        // A daemon that was not configured refuses to show a table.
        let asn = read::<Global>(global)?.asn;
        let mut prefixes = Vec::new();
        if asn != 0 {
            for family in ["ipv4", "ipv6"] {
                let table = self.ask(&["global", "rib", "-a", family]).await?;
                prefixes.extend(
                    table
                        .as_object()
                        .into_iter()
                        .flat_map(|t| t.keys().cloned()),
                );
            }
        }
        let neighbours: Vec<Neighbour> = read(neighbours)?;
        let peers = neighbours.into_iter().map(|Neighbour { conf, state }| {
            let established = state.session_state == ESTABLISHED;
            (conf.neighbor_address, (conf.peer_asn, established))
        });
        Ok(Table {
            asn,
            peers: peers.collect(),
            prefixes,
        })
    }

    /// Configures a daemon that nobody has configured.
    pub(super) async fn configure(&self, asn: u32, router_id: &str) -> Result<(), Unavailable> {
        self.tell(&["global", "as", &asn.to_string(), "router-id", router_id])
            .await
    }

    pub(super) async fn add_peer(&self, peer: &BgpPeer) -> Result<(), Unavailable> {
        let (ip, asn) = (peer.ip.to_string(), peer.asn.to_string());
        self.tell(&["neighbor", "add", &ip, "as", &asn]).await
    }

    pub(super) async fn remove_peer(&self, ip: IpAddr) -> Result<(), Unavailable> {
        self.tell(&["neighbor", "del", &ip.to_string()]).await
    }

    /// Announces a prefix. Repeating it changes nothing.
    pub(super) async fn announce(&self, prefix: &str) -> Result<(), Unavailable> {
        self.tell(&["global", "rib", "add", prefix, "-a", family(prefix)])
            .await
    }

    /// Withdraws a prefix. Repeating it changes nothing.
    pub(super) async fn withdraw(&self, prefix: &str) -> Result<(), Unavailable> {
        self.tell(&["global", "rib", "del", prefix, "-a", family(prefix)])
            .await
    }
}

fn read<T: for<'a> Deserialize<'a>>(value: Value) -> Result<T, Unavailable> {
    serde_json::from_value(value).map_err(|source| Unavailable {
        what: "understand gobgp".to_owned(),
        source: Some(Box::new(source)),
    })
}

fn family(prefix: &str) -> &'static str {
    if prefix.contains(':') { "ipv6" } else { "ipv4" }
}
