//! A HAProxy whose addresses are announced by BGP.
//!
//! ```text
//! apply:      addresses on lo -> withdraw, if it is risky -> HAProxy
//! housekeep:  read HAProxy back -> decide -> gobgpd: what is there -> what is missing or too much
//! ```
//!
//! Nothing is trusted that was not read: gobgpd forgets everything when it restarts, and then the next
//! look finds it missing. An agent that ends leaves what is announced, as it leaves HAProxy.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cpl_core::clock::{Clock, Monotonic};
use cpl_core::delivery::Configuration;
use cpl_lb::observed::{Announcement, AnnouncementState, NodeHealth};
use cpl_lb::plan::NodeConfig;
use cpl_lb::spec::Bgp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::announce::{Decision, Reason, Situation, decide, hosts};
use super::gobgp::{Gobgp, Table, Tool};
use super::haproxy::HaproxyDriver;
use super::{files, read};
use crate::driver::{Applied, ApplyError, Drift, Driver, Label, Observed, Unavailable};

/// Between withdrawing and a risky change, so that neighbours have followed: withdrawals took at most
/// 31 ms between two daemons, and the network behind them needs its time.
const SETTLE: Duration = Duration::from_secs(1);
/// How long HAProxy may not answer before what it runs counts as not verified.
const UNSURE: Duration = Duration::from_secs(10);

/// Where an [`AnnouncingDriver`] finds its tools.
#[derive(Clone, Debug)]
pub struct AnnouncerConfig {
    /// Where it remembers what it added: neighbours and addresses. Prefixes need no memory.
    pub state_dir: PathBuf,
    /// The program `gobgp`, 3.x.
    pub gobgp: PathBuf,
    /// Where gobgpd answers: `unix:///run/gobgpd.sock` or `127.0.0.1:50051`.
    pub target: String,
    /// The program `ip`.
    pub ip: PathBuf,
}

/// Runs HAProxy, and announces `advertised_prefixes` by GoBGP while what runs is verified and enough
/// endpoints are healthy. Runs no gobgpd: that is the operator's, and restarts as it likes.
#[derive(Debug)]
pub struct AnnouncingDriver {
    inner: HaproxyDriver,
    gobgp: Gobgp,
    ip: Tool,
    file: PathBuf,
    clock: Arc<dyn Clock>,
    memory: Mutex<Memory>,
}

/// What a driver remembers between calls; all of it can be lost.
#[derive(Debug, Default)]
struct Memory {
    last: Option<Announcement>,
    verified_at: Option<Monotonic>,
    loopback: Option<String>,
    complaint: String,
}

/// What was added and has to go again, kept in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Owned {
    peers: BTreeSet<IpAddr>,
    prefixes: BTreeSet<String>,
    addresses: BTreeSet<String>,
}

impl AnnouncingDriver {
    /// A driver around another. Starts nothing.
    pub fn new(inner: HaproxyDriver, config: AnnouncerConfig, clock: Arc<dyn Clock>) -> Self {
        let AnnouncerConfig {
            state_dir,
            gobgp,
            target,
            ip,
        } = config;
        let tool = |binary| Tool {
            binary,
            clock: Arc::clone(&clock),
        };
        Self {
            inner,
            gobgp: Gobgp {
                tool: tool(gobgp),
                target,
            },
            ip: tool(ip),
            file: state_dir.join("announced.json"),
            memory: Mutex::default(),
            clock,
        }
    }

    fn remember<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn owned(&self) -> Owned {
        let text = std::fs::read(&self.file).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Written before something is added and after something was removed, so that nothing of ours is
    /// ever there without being known.
    fn own(&self, owned: &Owned) -> Result<(), Unavailable> {
        let text = serde_json::to_vec(owned).map_err(|source| Unavailable {
            what: "write down what is announced".to_owned(),
            source: Some(Box::new(source)),
        })?;
        files::write(&self.file, &text)
    }

    /// Whether HAProxy runs what it should. When it does not answer, what was verified a moment ago counts.
    async fn is_verified(&self, configuration: &Configuration) -> bool {
        let now = self.clock.monotonic();
        match self.inner.verify(configuration).await {
            Ok(drift) => {
                let verified = drift.is_empty();
                self.remember(|memory| memory.verified_at = verified.then_some(now));
                verified
            },
            Err(_) => {
                let at = self.remember(|memory| memory.verified_at);
                at.is_some_and(|at| now.since(at) < UNSURE)
            },
        }
    }

    /// Brings gobgpd to what is wanted now, and says what it then has.
    async fn converge(
        &self,
        configuration: &Configuration,
        config: &NodeConfig,
    ) -> Result<Option<Announcement>, Unavailable> {
        let Some(bgp) = &config.node.bgp else {
            return self.forget().await.map(|()| None);
        };
        let table = self.table(config, bgp).await?;
        self.bring_peers(bgp, &table).await?;
        let verified = self.is_verified(configuration).await;
        let health = match self.inner.health(configuration).await {
            Ok(health) => NodeHealth::read(&health).unwrap_or_default().endpoints,
            Err(_) => Vec::new(),
        };
        let wanted: BTreeSet<&String> = bgp.advertised_prefixes.iter().collect();
        let situation = Situation {
            config,
            verified,
            endpoints: &health,
            announced: wanted.iter().any(|prefix| table.prefixes.contains(prefix)),
        };
        let decision = decide(bgp, situation);
        let prefixes = match decision {
            Decision::Announce => &bgp.advertised_prefixes[..],
            Decision::Withdraw(_) => &[],
        };
        self.bring_prefixes(prefixes, &table).await?;
        self.announcement(bgp, decision).await.map(Some)
    }

    /// The daemon's table; one that nobody has configured is configured first.
    async fn table(&self, config: &NodeConfig, bgp: &Bgp) -> Result<Table, Unavailable> {
        let table = self.gobgp.table().await?;
        if table.asn == 0 {
            self.gobgp
                .configure(bgp.local_asn, &router_id(config, bgp))
                .await?;
            return self.gobgp.table().await;
        }
        if table.asn == bgp.local_asn {
            return Ok(table);
        }
        let what = format!(
            "announce as {}: gobgpd is configured as {}",
            bgp.local_asn, table.asn
        );
        Err(Unavailable { what, source: None })
    }

    async fn bring_peers(&self, bgp: &Bgp, table: &Table) -> Result<(), Unavailable> {
        let mut owned = self.owned();
        let wanted: BTreeSet<IpAddr> = bgp.peers.iter().map(|peer| peer.ip).collect();
        for ip in owned.peers.clone() {
            if !wanted.contains(&ip) {
                if table.peers.contains_key(&ip) {
                    self.gobgp.remove_peer(ip).await?;
                }
                owned.peers.remove(&ip);
                self.own(&owned)?;
            }
        }
        for peer in &bgp.peers {
            match table.peers.get(&peer.ip) {
                Some((asn, _)) if *asn == peer.asn => {},
                Some((asn, _)) if !owned.peers.contains(&peer.ip) => {
                    let what = format!(
                        "speak to {} as {}: gobgpd's own file says {asn}",
                        peer.ip, peer.asn
                    );
                    return Err(Unavailable { what, source: None });
                },
                there => {
                    if there.is_some() {
                        self.gobgp.remove_peer(peer.ip).await?;
                    }
                    owned.peers.insert(peer.ip);
                    self.own(&owned)?;
                    self.gobgp.add_peer(peer).await?;
                },
            }
        }
        Ok(())
    }

    /// Announces these prefixes and withdraws every other one of ours.
    async fn bring_prefixes(&self, wanted: &[String], table: &Table) -> Result<(), Unavailable> {
        let mut owned = self.owned();
        for prefix in owned.prefixes.clone() {
            if !wanted.contains(&prefix) {
                self.gobgp.withdraw(&prefix).await?;
                owned.prefixes.remove(&prefix);
                self.own(&owned)?;
            }
        }
        for prefix in wanted
            .iter()
            .filter(|prefix| !table.prefixes.contains(prefix))
        {
            if owned.prefixes.insert(prefix.clone()) {
                self.own(&owned)?;
            }
            self.gobgp.announce(prefix).await?;
        }
        // Announced by an earlier agent whose file is lost, or by hand: taken over, so that it can go.
        let adopted = wanted
            .iter()
            .filter(|prefix| !owned.prefixes.contains(*prefix));
        let adopted: Vec<String> = adopted.cloned().collect();
        if !adopted.is_empty() {
            owned.prefixes.extend(adopted);
            self.own(&owned)?;
        }
        Ok(())
    }

    /// What the daemon has, read back.
    async fn announcement(
        &self,
        bgp: &Bgp,
        decision: Decision,
    ) -> Result<Announcement, Unavailable> {
        let table = self.gobgp.table().await?;
        let ours = |prefix: &&String| bgp.advertised_prefixes.contains(prefix);
        let established = table.peers.iter().filter(|(_, (_, up))| *up);
        let (state, reason) = match decision {
            Decision::Announce => (AnnouncementState::Announced, None),
            Decision::Withdraw(reason) => (AnnouncementState::Withdrawn, Some(reason.word())),
        };
        Ok(Announcement {
            state,
            reason: reason.map(str::to_owned),
            prefixes: table.prefixes.iter().filter(ours).cloned().collect(),
            established: established.map(|(ip, _)| ip.to_string()).collect(),
            loopback: self.remember(|memory| memory.loopback.clone()),
        })
    }

    /// Takes back everything that was added, for a node that is to announce nothing any more.
    async fn forget(&self) -> Result<(), Unavailable> {
        let owned = self.owned();
        if owned == Owned::default() {
            return Ok(());
        }
        let table = self.gobgp.table().await?;
        self.bring_prefixes(&[], &table).await?;
        for ip in owned.peers {
            if table.peers.contains_key(&ip) {
                self.gobgp.remove_peer(ip).await?;
            }
        }
        self.addresses(&[]).await;
        self.own(&Owned {
            addresses: self.owned().addresses,
            ..Owned::default()
        })
    }

    /// Puts the prefixes that are one address on the loopback device, and takes others of ours away.
    /// Where that is not permitted the operator does it; the report says so.
    async fn addresses(&self, prefixes: &[String]) {
        let result = self.bring_addresses(prefixes).await;
        let failed = result.err().map(|error| error.what);
        self.remember(|memory| memory.loopback = failed);
    }

    async fn bring_addresses(&self, prefixes: &[String]) -> Result<(), Unavailable> {
        let wanted: BTreeSet<&str> = hosts(prefixes).collect();
        let mut owned = self.owned();
        if wanted.is_empty() && owned.addresses.is_empty() {
            return Ok(());
        }
        let there = self.ip.run(&["-j", "addr", "show", "dev", "lo"]).await?;
        let there = loopback(&there);
        for address in owned.addresses.clone() {
            if !wanted.contains(&*address) {
                if there.contains(&address) {
                    self.ip.run(&["addr", "del", &address, "dev", "lo"]).await?;
                }
                owned.addresses.remove(&address);
                self.own(&owned)?;
            }
        }
        for address in wanted {
            if !there.contains(address) {
                owned.addresses.insert(address.to_owned());
                self.own(&owned)?;
                self.ip.run(&["addr", "add", address, "dev", "lo"]).await?;
            }
        }
        Ok(())
    }

    /// Withdraws before a change that may cost connections. When gobgpd cannot be told, nothing is
    /// announced by it either.
    async fn withdraw_if_risky(&self, configuration: &Configuration) {
        let Ok(config) = read::read(configuration) else {
            return;
        };
        let Some(bgp) = &config.node.bgp else {
            return;
        };
        self.addresses(&bgp.advertised_prefixes).await;
        let starts = matches!(
            self.inner.observe().await,
            Ok(Observed { label: None, .. }) | Err(_)
        );
        let reloads = bgp.withdraw_before_reload && self.inner.would_reload(&config).await;
        if !(config.node.drained || starts || reloads) {
            return;
        }
        if let Ok(table) = self.gobgp.table().await
            && self
                .owned()
                .prefixes
                .iter()
                .any(|prefix| table.prefixes.contains(prefix))
            && self.bring_prefixes(&[], &table).await.is_ok()
        {
            let reason = if config.node.drained {
                Reason::Drained
            } else {
                Reason::RiskyChange
            };
            tracing::info!(
                reason = reason.word(),
                "withdrew the prefixes before a change"
            );
            self.clock.sleep(SETTLE).await;
        }
    }

    /// Says once what keeps it from announcing.
    fn complain(&self, error: &Unavailable) {
        let text = error.to_string();
        let said = self.remember(|memory| std::mem::replace(&mut memory.complaint, text.clone()));
        if said != text {
            tracing::warn!(%error, "failed to announce; trying again");
        }
    }
}

/// The addresses of a device with their lengths, from `ip -j addr show`.
fn loopback(text: &str) -> BTreeSet<String> {
    let devices: Value = serde_json::from_str(text).unwrap_or_default();
    let addresses = devices[0]["addr_info"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let written = |address: &Value| {
        let local = address["local"].as_str()?;
        Some(format!("{local}/{}", address["prefixlen"].as_u64()?))
    };
    addresses.iter().filter_map(written).collect()
}

/// An IPv4 address of the node, as BGP wants one: where it listens, or what it announces.
fn router_id(config: &NodeConfig, bgp: &Bgp) -> String {
    let listening = config
        .node
        .listen_addresses
        .iter()
        .filter(|ip| ip.is_ipv4());
    let listening = listening.map(ToString::to_string);
    let announced = bgp
        .advertised_prefixes
        .iter()
        .filter(|prefix| !prefix.contains(':'));
    let announced = announced.filter_map(|prefix| Some(prefix.split_once('/')?.0.to_owned()));
    let first = listening.chain(announced).next();
    first.unwrap_or_else(|| format!("{}", std::net::Ipv4Addr::from(bgp.local_asn)))
}

#[async_trait]
impl Driver for AnnouncingDriver {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn carries_traffic(&self) -> bool {
        self.inner.carries_traffic()
    }

    async fn observe(&self) -> Result<Observed, Unavailable> {
        self.inner.observe().await
    }

    async fn check(&self, configuration: &Configuration) -> Result<(), ApplyError> {
        self.inner.check(configuration).await
    }

    async fn apply(
        &self,
        label: &Label,
        configuration: &Configuration,
    ) -> Result<Applied, ApplyError> {
        self.withdraw_if_risky(configuration).await;
        self.inner.apply(label, configuration).await
    }

    async fn verify(&self, configuration: &Configuration) -> Result<Vec<Drift>, Unavailable> {
        self.inner.verify(configuration).await
    }

    async fn health(&self, configuration: &Configuration) -> Result<Value, Unavailable> {
        let health = self.inner.health(configuration).await?;
        let Some(announcement) = self.remember(|memory| memory.last.clone()) else {
            return Ok(health);
        };
        let endpoints = NodeHealth::read(&health).unwrap_or_default().endpoints;
        let whole = NodeHealth {
            endpoints,
            announcement: Some(announcement),
        };
        whole.write().map_err(|source| Unavailable {
            what: "write down what is announced".to_owned(),
            source: Some(Box::new(source)),
        })
    }

    async fn housekeep(&self, configuration: &Configuration) -> Result<(), Unavailable> {
        let tidied = self.inner.housekeep(configuration).await;
        let Ok(config) = read::read(configuration) else {
            return tidied;
        };
        if let Some(bgp) = &config.node.bgp {
            self.addresses(&bgp.advertised_prefixes).await;
        }
        match self.converge(configuration, &config).await {
            Ok(announcement) => self.remember(|memory| {
                memory.complaint.clear();
                memory.last = announcement;
            }),
            Err(error) => {
                self.complain(&error);
                let unknown = Announcement {
                    state: AnnouncementState::Unknown,
                    reason: Some("Announce.GobgpUnreachable".to_owned()),
                    prefixes: Vec::new(),
                    established: Vec::new(),
                    loopback: self.remember(|memory| memory.loopback.clone()),
                };
                self.remember(|memory| memory.last = Some(unknown));
            },
        }
        tidied
    }

    async fn stop(&self) -> Result<(), Unavailable> {
        // A daemon that cannot be told announces nothing of ours that would outlive its session.
        let _withdrawn = match self.gobgp.table().await {
            Ok(table) if !self.owned().prefixes.is_empty() => {
                self.bring_prefixes(&[], &table).await
            },
            Ok(_) | Err(_) => Ok(()),
        };
        self.inner.stop().await
    }
}
