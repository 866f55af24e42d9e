//! Against a real HAProxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cpl_agent::driver::{Applied, ApplyError, Driver};
use cpl_agent::drivers::lb::HaproxyDriver;
use cpl_core::clock::Clock;
use cpl_core::delivery::{Configuration, DataPlaneState, Stage};
use cpl_core::fields::Span;
use cpl_lb::observed::{EndpointHealth, Health};
use cpl_lb::plan::TargetGroup;
use cpl_lb::spec::{Algorithm, CheckKind, EndpointStatus, NodeSpec, Protocol};
use rustix::process::{Pid, Signal, getpgid, kill_process};
use tokio::io::AsyncReadExt as _;

use crate::ambush::Ambush;
use crate::contract;
use crate::fixture::{
    Site, configuration, endpoint, label, meddle, processes, rejections, targetgroup,
};
use crate::traffic::{Clients, Upstream, connect, request};

const LONGEST_WAIT: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(20);

/// A site with HAProxy, one target group `web` with two endpoints, and what was applied last.
struct World {
    site: Site,
    driver: HaproxyDriver,
    node: NodeSpec,
    targetgroups: Vec<TargetGroup>,
    upstreams: Vec<Upstream>,
    version: u64,
}

impl World {
    async fn start() -> Self {
        let site = Site::new();
        let one = Upstream::tcp("one", site.free()).await;
        let two = Upstream::tcp("two", site.free()).await;
        let endpoints = vec![endpoint("one", one.address), endpoint("two", two.address)];
        let web = targetgroup("web", site.free().port(), endpoints);
        let mut world = Self {
            driver: site.haproxy(),
            node: site.node(),
            targetgroups: vec![web],
            upstreams: vec![one, two],
            version: 0,
            site,
        };
        assert_eq!(world.apply().await, Applied::Started);
        world
    }

    fn web(&mut self) -> &mut TargetGroup {
        &mut self.targetgroups[0]
    }

    fn vip(&self) -> SocketAddr {
        (self.site.ip, self.targetgroups[0].body.spec.port).into()
    }

    fn configuration(&self) -> Configuration {
        configuration(&self.node, &self.targetgroups)
    }

    async fn try_apply(&mut self) -> Result<Applied, ApplyError> {
        self.version += 1;
        let config = self.configuration();
        let label = label(self.version, &config);
        self.driver.apply(&label, &config).await
    }

    async fn apply(&mut self) -> Applied {
        let applied = self.try_apply().await.unwrap();
        let config = self.configuration();
        assert_eq!(self.driver.verify(&config).await.unwrap(), []);
        let label = self.driver.observe().await.unwrap().label;
        assert_eq!(label.unwrap().version.0, self.version);
        applied
    }

    async fn health(&self) -> BTreeMap<String, EndpointHealth> {
        let health = self.driver.health(&self.configuration()).await.unwrap();
        let health: Vec<EndpointHealth> = serde_json::from_value(health).unwrap();
        let named = health.into_iter().map(|h| (h.endpoint.clone(), h));
        named.collect()
    }

    /// Keeps house until the health of an endpoint, if there still is one, is as wanted.
    async fn wait_for(&self, id: &str, wanted: fn(&EndpointHealth) -> bool) {
        self.until(async || self.health().await.get(id).is_some_and(wanted))
            .await;
    }

    /// Keeps house until something is true.
    async fn until(&self, mut wanted: impl AsyncFnMut() -> bool) {
        let until = self.site.clock.monotonic().plus(LONGEST_WAIT);
        let config = self.configuration();
        while !wanted().await {
            assert!(self.site.clock.monotonic() < until, "waited in vain");
            self.driver.housekeep(&config).await.unwrap();
            self.site.clock.sleep(MOMENT).await;
        }
    }

    /// Whether the running process knows a server.
    fn has_server(&self, name: &str) -> bool {
        meddle(&self.site, "show servers state").contains(name)
    }

    async fn end(self) {
        self.driver.stop().await.unwrap();
    }
}

fn is_healthy(health: &EndpointHealth) -> bool {
    health.health == Health::Healthy && health.receives_new
}

#[tokio::test]
async fn haproxy_keeps_the_contract() {
    contract::check(Site::haproxy).await;
}

#[tokio::test]
async fn render_keeps_the_contract() {
    contract::check(|site| site.render("/usr/sbin/haproxy")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_come_and_go_without_a_reload_or_a_failed_connection() {
    let mut world = World::start().await;
    world.wait_for("one", is_healthy).await;
    let before = processes(&world.site);
    let clients = Clients::start(world.vip());

    world.web().body.endpoints[0].weight = 30;
    assert_eq!(world.apply().await, Applied::Runtime(1));

    let three = Upstream::tcp("three", world.site.free()).await;
    let added = endpoint("three", three.address);
    world.web().body.endpoints.push(added);
    assert_eq!(world.apply().await, Applied::Runtime(5));
    world.wait_for("three", is_healthy).await;
    clients.count_again();
    world
        .until(async || clients.served().contains_key("three"))
        .await;

    world.web().body.endpoints[1].status = EndpointStatus::Drain;
    assert_eq!(world.apply().await, Applied::Runtime(1));
    world.wait_for("two", |two| two.connections == 0).await;
    clients.count_again();
    world.until(async || clients.served().len() == 2).await;
    let health = world.health().await;
    assert!(!health["two"].receives_new);
    let reason = health["two"].reason.as_deref();
    assert_eq!(reason, Some("Target.DeregistrationInProgress"));

    world.web().body.endpoints.remove(0);
    assert_eq!(world.apply().await, Applied::Runtime(1));
    world.until(async || !world.has_server(" one ")).await;
    clients.count_again();
    world
        .until(async || clients.served().values().sum::<u64>() > 50)
        .await;

    let tally = clients.stop().await;
    assert_eq!(tally.failed, Vec::<String>::new());
    let alone: Vec<_> = tally.served.keys().collect();
    assert!(alone.iter().all(|name| *name == "three"), "{alone:?}");
    assert_eq!(processes(&world.site), before);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_fails_no_connection_and_forgets_nothing() {
    let mut world = World::start().await;
    world.web().body.endpoints[1].status = EndpointStatus::Drain;
    world.apply().await;
    let clients = Clients::start(world.vip());
    world.until(async || !clients.served().is_empty()).await;
    world.wait_for("two", |two| two.connections == 0).await;
    clients.count_again();

    let port = world.site.free().port();
    world.targetgroups.push(targetgroup("zoo", port, vec![]));
    let reasons = vec!["target group zoo was added".to_owned()];
    assert_eq!(world.apply().await, Applied::Reloaded(reasons));
    world
        .until(async || clients.served().values().sum::<u64>() > 50)
        .await;
    assert!(!clients.served().contains_key("two"), "drained");
    clients.count_again();
    world.web().body.spec.idle_timeout = Span::from_millis(90_000);
    let reasons = vec!["idle_timeout of target group web changed".to_owned()];
    assert_eq!(world.apply().await, Applied::Reloaded(reasons));
    world
        .until(async || clients.served().values().sum::<u64>() > 50)
        .await;

    let tally = clients.stop().await;
    assert_eq!(tally.failed, Vec::<String>::new());
    assert!(!tally.served.contains_key("two"), "drained over the reload");
    let (_, _, reloads) = &processes(&world.site)[0];
    assert_eq!(*reloads, 2);
    world.end().await;
}

#[tokio::test]
async fn a_port_that_another_process_holds_is_refused_and_traffic_goes_on() {
    let mut world = World::start().await;
    let before = processes(&world.site);
    let other = std::net::TcpListener::bind((world.site.ip, 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    world.targetgroups.push(targetgroup("zoo", port, vec![]));
    let refused = rejections(world.try_apply().await);
    let [only] = refused.as_slice() else {
        panic!("one rejection, not {refused:?}")
    };
    assert_eq!(only.object.as_ref().unwrap().to_string(), "TargetGroup/zoo");
    assert_eq!(
        (only.stage, only.code.as_str()),
        (Stage::Preflight, "ADDRESS_IN_USE")
    );
    assert_eq!(only.field.as_deref(), Some("/spec/port"));
    assert_eq!(processes(&world.site), before);
    connect(world.vip()).await.unwrap();

    drop(other);
    assert!(matches!(world.apply().await, Applied::Reloaded(_)));
    world.end().await;
}

#[tokio::test]
async fn an_address_that_the_machine_lacks_is_refused() {
    let mut world = World::start().await;
    world.node.listen_addresses = vec!["203.0.113.7".parse().unwrap()];
    let refused = rejections(world.try_apply().await);
    assert_eq!(refused[0].code, "ADDRESS_NOT_AVAILABLE");
    connect(world.vip()).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn listening_moves_from_one_address_to_all_and_back() {
    let mut world = World::start().await;
    let one = std::mem::take(&mut world.node.listen_addresses);
    assert!(matches!(world.apply().await, Applied::Reloaded(_)));
    connect(world.vip()).await.unwrap();
    world.node.listen_addresses = one;
    assert!(matches!(world.apply().await, Applied::Reloaded(_)));
    connect(world.vip()).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_file_that_was_written_but_not_read_is_not_what_runs() {
    let mut world = World::start().await;
    let file = world.site.state().join("haproxy.cfg");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("str(1/1/1/", "str(1/1/2/")).unwrap();
    std::fs::write(world.site.state().join("haproxy.cfg.new"), "half a fi").unwrap();

    world.driver = world.site.haproxy();
    let observed = world.driver.observe().await.unwrap().label.unwrap();
    assert_eq!(observed.version.0, 1);
    world.web().body.spec.algorithm = Algorithm::Leastconn;
    assert!(matches!(world.apply().await, Applied::Reloaded(_)));
    world.end().await;
}

#[tokio::test]
async fn an_endpoint_serves_only_after_its_checks_have_passed() {
    let mut world = World::start().await;
    world.wait_for("one", is_healthy).await;
    let later = world.site.free();
    world.web().body.endpoints.push(endpoint("three", later));
    world.apply().await;
    let initial = &world.health().await["three"];
    assert!(!initial.receives_new, "{initial:?}");
    world
        .wait_for("three", |h| h.health == Health::Unhealthy)
        .await;
    let health = &world.health().await["three"];
    assert_eq!(health.reason.as_deref(), Some("Target.ConnectionFailed"));
    assert!(!health.receives_new);

    let _three = Upstream::tcp("three", later).await;
    world.wait_for("three", is_healthy).await;
    // A move is a new beginning as well.
    let nobody = world.site.free();
    world.web().body.endpoints[2].port = nobody.port();
    assert_eq!(world.apply().await, Applied::Runtime(4));
    assert!(!world.health().await["three"].receives_new);
    world.end().await;
}

#[tokio::test]
async fn connections_of_a_removed_endpoint_end_when_its_delay_has_passed() {
    let mut world = World::start().await;
    world.web().body.spec.deregistration_delay = Span::from_millis(1_000);
    assert_eq!(world.apply().await, Applied::Unchanged);
    let (mut stream, name) = connect(world.vip()).await.unwrap();
    let removed = usize::from(name == "two");
    world.web().body.endpoints.remove(removed);
    world.apply().await;
    let since = world.site.clock.monotonic();
    let name = format!(" {name} ");
    world.until(async || !world.has_server(&name)).await;
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "it ended");
    let lasted = world.site.clock.monotonic().since(since);
    assert!(lasted >= Duration::from_millis(900), "{lasted:?}");
    world.end().await;
}

#[tokio::test]
async fn connections_of_an_endpoint_that_is_down_end_as_well_and_it_stays() {
    let mut world = World::start().await;
    world.web().body.spec.deregistration_delay = Span::from_millis(500);
    let (mut stream, name) = connect(world.vip()).await.unwrap();
    let down = usize::from(name == "two");
    world.web().body.endpoints[down].status = EndpointStatus::Down;
    assert_eq!(world.apply().await, Applied::Runtime(1));
    assert_eq!(world.health().await[&name].connections, 1);
    let ended = tokio::spawn(async move { stream.read(&mut [0; 8]).await });
    world.until(async || ended.is_finished()).await;
    assert!(world.has_server(&format!(" {name} ")));
    let reason = world.health().await[&name].reason.clone();
    assert_eq!(reason.as_deref(), Some("Target.NotInUse"));
    world.end().await;
}

#[tokio::test]
async fn connections_in_a_replaced_worker_are_counted_and_end_in_time() {
    let mut world = World::start().await;
    world.web().body.spec.deregistration_delay = Span::from_millis(1_000);
    world.apply().await;
    let (mut gone, name) = connect(world.vip()).await.unwrap();
    let (mut stays, other) = connect(world.vip()).await.unwrap();
    assert_ne!(name, other);
    let removed = usize::from(name == "two");
    world.web().body.endpoints.remove(removed);
    world.web().body.spec.algorithm = Algorithm::Leastconn;
    assert!(matches!(world.apply().await, Applied::Reloaded(_)));
    assert_eq!(world.health().await[&other].connections, 1);

    let ended = tokio::spawn(async move { gone.read(&mut [0; 8]).await });
    world.until(async || ended.is_finished()).await;
    assert_eq!(world.health().await[&other].connections, 1);
    let pending = tokio::time::timeout(MOMENT, stays.read(&mut [0; 8])).await;
    pending.expect_err("the other connection goes on");
    world.end().await;
}

#[tokio::test]
async fn a_drained_node_accepts_nothing_and_keeps_what_it_has() {
    let mut world = World::start().await;
    let (mut stream, _) = connect(world.vip()).await.unwrap();
    world.node.drained = true;
    assert!(matches!(world.apply().await, Applied::Reloaded(_)));
    let vip = world.vip();
    world.until(async || connect(vip).await.is_err()).await;
    let pending = tokio::time::timeout(MOMENT, stream.read(&mut [0; 8])).await;
    pending.expect_err("the connection goes on");
    let health = world.health().await;
    assert!(health.values().all(|h| !h.receives_new));
    assert_eq!(health.values().map(|h| h.connections).sum::<u64>(), 1);
    world.node.drained = false;
    world.apply().await;
    connect(world.vip()).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_reload_that_fails_leaves_the_old_file_and_the_old_label() {
    let mut world = World::start().await;
    let file = world.site.state().join("haproxy.cfg");
    let before = std::fs::read_to_string(&file).unwrap();
    let worker = processes(&world.site)[1].0;
    let contested = world.site.free();
    let zoo = targetgroup("zoo", contested.port(), vec![]);
    world.targetgroups.push(zoo);
    let ambush = Arc::new(Ambush::new(file.clone(), contested));
    world.driver = world
        .site
        .haproxy_with(Arc::clone(&ambush) as Arc<dyn Clock>);

    let refused = rejections(world.try_apply().await);
    assert!(ambush.happened());
    let [only] = refused.as_slice() else {
        panic!("one rejection, not {refused:?}")
    };
    assert_eq!(only.object.as_ref().unwrap().to_string(), "TargetGroup/zoo");
    assert_eq!(
        (only.stage, only.code.as_str()),
        (Stage::Apply, "ADDRESS_IN_USE")
    );
    assert_eq!(only.field.as_deref(), Some("/spec/port"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    let observed = world.driver.observe().await.unwrap();
    assert_eq!(observed.label.unwrap().version.0, 1);
    assert_eq!(processes(&world.site)[1].0, worker);
    connect(world.vip()).await.unwrap();

    ambush.retreat();
    assert!(matches!(world.apply().await, Applied::Reloaded(_)));
    connect(world.vip()).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn haproxy_has_a_group_of_its_own_and_is_started_again_when_it_died() {
    let mut world = World::start().await;
    let master = i32::try_from(processes(&world.site)[0].0).unwrap();
    let master = Pid::from_raw(master).unwrap();
    assert_eq!(getpgid(Some(master)).unwrap(), master);
    kill_process(master, Signal::KILL).unwrap();
    let down = async || {
        let observed = world.driver.observe().await;
        observed.unwrap().state == DataPlaneState::Down
    };
    world.until(down).await;
    assert_eq!(world.apply().await, Applied::Started);
    connect(world.vip()).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn what_somebody_else_changed_is_drift_and_is_put_right() {
    let mut world = World::start().await;
    meddle(&world.site, "set server be_web/one state maint");
    meddle(&world.site, "disable frontend fe_web");
    let config = world.configuration();
    let drift = world.driver.verify(&config).await.unwrap();
    let what: Vec<&str> = drift.iter().map(|d| d.what.as_str()).collect();
    let maintenance = "endpoint one is in maintenance instead of ready";
    let closed = "its listener does not accept connections";
    assert_eq!(what, [maintenance, closed]);
    assert_eq!(
        world.health().await["one"].reason.as_deref(),
        Some("External.Maint")
    );
    meddle(&world.site, "enable frontend fe_web");
    assert_eq!(world.apply().await, Applied::Runtime(3));
    world.end().await;
}

#[tokio::test]
async fn a_reload_by_hand_leads_to_the_same_state() {
    let mut world = World::start().await;
    let endpoints = &mut world.web().body.endpoints;
    endpoints[0].weight = 77;
    endpoints[1].status = EndpointStatus::Drain;
    assert_eq!(world.apply().await, Applied::Runtime(2));
    let worker = processes(&world.site)[1].0;
    let master = i32::try_from(processes(&world.site)[0].0).unwrap();
    kill_process(Pid::from_raw(master).unwrap(), Signal::USR2).unwrap();
    let reloaded = async || {
        // Asking the driver first waits for the master.
        let observed = world.driver.observe().await.unwrap();
        observed.state == DataPlaneState::Healthy && processes(&world.site)[1].0 != worker
    };
    world.until(reloaded).await;
    let config = world.configuration();
    assert_eq!(world.driver.verify(&config).await.unwrap(), []);
    assert_eq!(world.apply().await, Applied::Unchanged);
    world.end().await;
}

#[tokio::test]
async fn requests_are_balanced_by_source_over_both_families() {
    let mut world = World::start().await;
    let four = Upstream::http("hello", world.site.free()).await;
    let six = Upstream::http("hello", "[::1]:0".parse().unwrap()).await;
    let mut api = targetgroup(
        "api",
        world.site.free().port(),
        vec![endpoint("four", four.address)],
    );
    let spec = &mut api.body.spec;
    spec.protocol = Protocol::Http;
    spec.algorithm = Algorithm::Source;
    spec.health_check.kind = CheckKind::Http;
    spec.health_check.path = Some("/health".to_owned());
    spec.health_check.expect_status = Some("200,204-206".to_owned());
    spec.health_check.expect_body = Some("^h[e]llo$".to_owned());
    let port = spec.port;
    world.targetgroups.push(api);
    world.apply().await;
    world.wait_for("four", is_healthy).await;

    let added = endpoint("six", six.address);
    world.targetgroups[1].body.endpoints.push(added);
    assert_eq!(world.apply().await, Applied::Runtime(5));
    world.wait_for("six", is_healthy).await;
    let vip = (world.site.ip, port).into();
    assert_eq!(request(vip).await.unwrap(), "hello");

    let wrong = "^goodbye$".to_owned();
    world.targetgroups[1].body.spec.health_check.expect_body = Some(wrong);
    assert!(matches!(world.apply().await, Applied::Reloaded(_)));
    world
        .wait_for("six", |six| six.health == Health::Unhealthy)
        .await;
    let reason = world.health().await["six"].reason.clone();
    assert_eq!(reason.as_deref(), Some("Target.InvalidResponse"));
    assert_eq!(world.upstreams.len(), 2);
    world.end().await;
}
