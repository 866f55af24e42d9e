//! HAProxy with four endpoints behind it, announced to a neighbour.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cpl_agent::driver::{Applied, Driver};
use cpl_agent::drivers::lb::{AnnouncerConfig, AnnouncingDriver};
use cpl_core::delivery::Configuration;
use cpl_lb::observed::{Announcement, AnnouncementState, NodeHealth};
use cpl_lb::plan::TargetGroup;
use cpl_lb::spec::{Algorithm, Bgp, BgpPeer, NodeSpec};

use super::rig::{NEIGHBOUR, Rig, until};
use crate::fixture::{Site, configuration, endpoint, label, processes, targetgroup};
use crate::traffic::Upstream;

const PREFIX: &str = "192.0.2.213/32";
/// How often the agent looks.
const LOOK: Duration = Duration::from_millis(200);

struct World {
    rig: Rig,
    driver: AnnouncingDriver,
    site: Site,
    node: NodeSpec,
    web: TargetGroup,
    upstreams: Vec<Option<Upstream>>,
    addresses: Vec<SocketAddr>,
    version: u64,
}

impl World {
    async fn start() -> Self {
        let rig = Rig::start().await;
        let site = Site::new();
        let (mut upstreams, mut addresses, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
        for name in ["one", "two", "three", "four"] {
            let upstream = Upstream::tcp(name, site.free()).await;
            endpoints.push(endpoint(name, upstream.address));
            addresses.push(upstream.address);
            upstreams.push(Some(upstream));
        }
        let web = targetgroup("web", site.free().port(), endpoints);
        let config = AnnouncerConfig {
            state_dir: site.state(),
            gobgp: "/usr/bin/gobgp".into(),
            target: rig.target(),
            ip: "/usr/sbin/ip".into(),
        };
        let mut node = site.node();
        node.bgp = Some(Bgp {
            local_asn: 65_001,
            peers: vec![BgpPeer {
                ip: NEIGHBOUR.parse().unwrap(),
                asn: 65_000,
            }],
            advertised_prefixes: vec![PREFIX.to_owned()],
            low_mark_percent: 40,
            high_mark_percent: 70,
            withdraw_before_reload: true,
        });
        Self {
            rig,
            driver: AnnouncingDriver::new(site.haproxy(), config, Arc::clone(&site.clock)),
            site,
            node,
            web,
            upstreams,
            addresses,
            version: 0,
        }
    }

    fn configuration(&self) -> Configuration {
        configuration(&self.node, std::slice::from_ref(&self.web))
    }

    async fn apply(&mut self) -> Applied {
        self.version += 1;
        let config = self.configuration();
        self.driver
            .apply(&label(self.version, &config), &config)
            .await
            .unwrap()
    }

    fn stop(&mut self, endpoint: usize) {
        self.upstreams[endpoint] = None;
    }

    async fn bring_back(&mut self, endpoint: usize) {
        let again = Upstream::tcp("again", self.addresses[endpoint]).await;
        self.upstreams[endpoint] = Some(again);
    }

    /// One look of the agent, and what it then reports.
    async fn look(&self) -> Option<Announcement> {
        let config = self.configuration();
        self.driver.housekeep(&config).await.unwrap();
        let health = self.driver.health(&config).await.unwrap();
        NodeHealth::read(&health).unwrap().announcement
    }

    /// Looks again and again until the neighbour has the route, or has it not.
    async fn neighbour_has(&self, expected: bool) -> Announcement {
        let clock = &self.site.clock;
        let started = clock.monotonic();
        loop {
            let announcement = self.look().await.unwrap();
            let state = if expected {
                AnnouncementState::Announced
            } else {
                AnnouncementState::Withdrawn
            };
            // A session may come up right after a look: then only the next look tells of it.
            let told = announcement.state == state
                && (!expected || announcement.established == [NEIGHBOUR]);
            if told && self.has_route() == expected {
                return announcement;
            }
            let waited = clock.monotonic().since(started);
            assert!(
                waited < Duration::from_mins(1),
                "{expected}: {announcement:?}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    fn has_route(&self) -> bool {
        self.rig.routes().iter().any(|route| route == PREFIX)
    }

    fn reloads(&self) -> u32 {
        let processes = processes(&self.site);
        processes
            .iter()
            .find(|(_, kind, _)| kind == "master")
            .unwrap()
            .2
    }
}

impl Drop for World {
    /// What an agent put on the device stays when it ends, and must not stay when a test does.
    fn drop(&mut self) {
        if on_loopback() {
            let words = ["addr", "del", PREFIX, "dev", "lo"];
            let removed = std::process::Command::new("ip").args(words).status();
            assert!(removed.is_ok_and(|status| status.success()));
        }
    }
}

fn on_loopback() -> bool {
    let output = std::process::Command::new("ip")
        .args(["-j", "addr", "show", "dev", "lo"])
        .output();
    String::from_utf8_lossy(&output.unwrap().stdout).contains("192.0.2.213")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_is_announced_while_what_runs_is_verified_and_enough_is_healthy() {
    let mut world = World::start().await;
    assert_eq!(world.apply().await, Applied::Started);
    assert!(
        on_loopback(),
        "the address is there before HAProxy needs it"
    );
    assert!(!world.has_route(), "nothing was verified yet");
    let announced = world.neighbour_has(true).await;
    assert_eq!(
        (announced.prefixes, announced.loopback),
        (vec![PREFIX.to_owned()], None)
    );

    // Between the marks nothing changes, in either direction.
    world.stop(0);
    world.stop(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        world.look().await.unwrap().state,
        AnnouncementState::Announced,
        "50 %"
    );
    world.stop(2);
    let withdrawn = world.neighbour_has(false).await;
    assert_eq!(withdrawn.reason.as_deref(), Some("Announce.BelowLowMark"));
    world.bring_back(0).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        world.look().await.unwrap().state,
        AnnouncementState::Withdrawn,
        "50 %"
    );
    world.bring_back(1).await;
    world.neighbour_has(true).await;

    world.rig.restart().await;
    until("the route goes with the daemon", || !world.has_route()).await;
    world.neighbour_has(true).await;

    // Without the daemon nothing is known, and traffic is not touched.
    world.driver.stop().await.unwrap();
    until("the route is taken back", || !world.has_route()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_is_withdrawn_before_what_is_risky_and_taken_back_when_it_is_no_longer_wanted() {
    let mut world = World::start().await;
    world.apply().await;
    world.neighbour_has(true).await;

    let reloads = world.reloads();
    world.web.body.spec.algorithm = Algorithm::Leastconn;
    let mut withdrawn_first = false;
    {
        let config = world.configuration();
        let label = label(2, &config);
        let applying = world.driver.apply(&label, &config);
        tokio::pin!(applying);
        let applied = loop {
            tokio::select! {
                applied = &mut applying => break applied.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(20)) => {
                    // Asked once: during the reload itself the master does not answer.
                    if !withdrawn_first && !world.has_route() {
                        withdrawn_first = world.reloads() == reloads;
                    }
                },
            }
        };
        assert!(matches!(applied, Applied::Reloaded(_)), "{applied:?}");
    }
    assert!(
        withdrawn_first,
        "the neighbour lost the route before the reload"
    );
    world.version = 2;
    world.neighbour_has(true).await;

    world.node.drained = true;
    world.apply().await;
    let drained = world.neighbour_has(false).await;
    assert_eq!(drained.reason.as_deref(), Some("Announce.Drained"));
    world.node.drained = false;
    world.apply().await;
    world.neighbour_has(true).await;

    world.node.bgp = None;
    world.apply().await;
    assert_eq!(world.look().await, None);
    until("the route is taken back", || !world.has_route()).await;
    assert_eq!(world.rig.peers(), 0);
    assert!(!on_loopback());
    world.driver.stop().await.unwrap();
}
