//! The pure parts, on answers that a real HAProxy 2.6.12 gave.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use cpl_core::clock::Monotonic;
use cpl_core::delivery::Stage;
use cpl_core::fields::Span;
use cpl_core::ids::Uid;
use cpl_core::store::Incarnation;
use cpl_core::version::{ConfigVersion, Generation};
use cpl_lb::observed::Health;
use cpl_lb::plan::{NodeConfig, NodePart, TargetGroup, TargetGroupBody};
use cpl_lb::spec::{
    Algorithm, CheckKind, Endpoint, EndpointStatus, HealthCheck, Protocol, TargetGroupSpec,
};

use super::health::{Connections, Sources, health};
use super::leaving::{Delays, Leaving, stays};
use super::names::ServerKey;
use super::observe::{self, Servers, StatRow};
use super::plan::{Plan, drift, plan};
use super::render::{Rendered, Surroundings, listeners, render};
use super::state::synthesise;
use super::{alerts, read};
use crate::driver::Label;

/// The columns of `show servers state`, one server a line.
const STATE: &str = "1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port
";

pub(super) fn endpoint(id: &str, last: u8) -> Endpoint {
    Endpoint {
        id: id.to_owned(),
        ip: [10, 0, 0, last].into(),
        port: 8080,
        weight: 10,
        status: EndpointStatus::Up,
    }
}

pub(super) fn targetgroup(name: &str, port: u16, endpoints: &[Endpoint]) -> TargetGroup {
    TargetGroup {
        name: name.to_owned(),
        uid: Uid(1),
        generation: Generation(1),
        body: TargetGroupBody {
            spec: TargetGroupSpec {
                protocol: Protocol::Tcp,
                port,
                algorithm: Algorithm::Roundrobin,
                health_check: HealthCheck::default(),
                deregistration_delay: Span::from_millis(5_000),
                idle_timeout: Span::from_millis(600_000),
            },
            endpoints: endpoints.to_vec(),
        },
    }
}

pub(super) fn node(targetgroups: &[TargetGroup]) -> NodeConfig {
    NodeConfig {
        node: NodePart {
            listen_addresses: vec!["127.0.0.11".parse().unwrap(), "::".parse().unwrap()],
            drained: false,
            bgp: None,
        },
        targetgroups: targetgroups.to_vec(),
    }
}

/// One target group `web` with the endpoints `a` and `b`.
fn web() -> NodeConfig {
    node(&[targetgroup(
        "web",
        80,
        &[endpoint("a", 1), endpoint("b", 2)],
    )])
}

/// What runs: for each server its name, the end of its address, whether checks let it run, its
/// administrative bits and its weight.
fn running(rows: &[(&str, u8, u8, u8, u16)]) -> Servers {
    let mut text = STATE.to_owned();
    for (name, last, operational, admin, weight) in rows {
        writeln!(text,
            "4 be_web 1 {name} 10.0.0.{last} {operational} {admin} {weight} {weight} 20 6 3 4 6 0 0 0 - 8080 - 0 0 - - 0"
        ).unwrap();
    }
    observe::servers(&text).unwrap()
}

fn rendered(config: &NodeConfig) -> Rendered {
    let label = Label {
        incarnation: Incarnation(3),
        version: ConfigVersion(42),
        digest: "c0ffee".to_owned(),
    };
    let around = Surroundings {
        worker_socket: Path::new("/run/cpl/worker.sock"),
        alive_socket: Path::new("/run/cpl/alive.sock"),
        state_file: Path::new("/var/lib/cpl/servers.state"),
        ipv6: true,
    };
    render(config, &label, around).unwrap()
}

fn api() -> TargetGroup {
    let mut six = endpoint("six", 0);
    six.ip = "2001:db8::6".parse().unwrap();
    six.status = EndpointStatus::Down;
    let mut api = targetgroup("api", 443, &[endpoint("four", 4), six]);
    let spec = &mut api.body.spec;
    spec.protocol = Protocol::Http;
    spec.algorithm = Algorithm::Source;
    spec.health_check = HealthCheck {
        kind: CheckKind::Http,
        port: Some(9000),
        path: Some("/health?$HOME".to_owned()),
        expect_status: Some("200,204-206".to_owned()),
        expect_body: Some(r#"it's "\d+" $HOME"#.to_owned()),
        ..HealthCheck::default()
    };
    api
}

#[test]
fn a_file_is_rendered() {
    let mut config = web();
    config.targetgroups.insert(0, api());
    let rendered = rendered(&config);
    assert_eq!(rendered.text, include_str!("goldens/two-targetgroups.cfg"));
    let line = |start: &str| {
        let lines = rendered.text.lines();
        let at = lines.zip(1..).find(|(l, _)| l.trim().starts_with(start));
        let origin = rendered.origin(at.unwrap().1);
        origin.map(|o| format!("{}{}", o.object, o.field))
    };
    assert_eq!(line("stats socket"), None);
    let bind = line("bind 127.0.0.11:80");
    assert_eq!(bind.as_deref(), Some("TargetGroup/web/spec/port"));
    let server = line("server b");
    assert_eq!(server.as_deref(), Some("TargetGroup/web/endpoints/1"));
}

#[test]
fn a_drained_node_listens_nowhere_and_keeps_its_servers() {
    let mut config = web();
    assert_eq!(listeners(&config, true).len(), 2);
    config.node.drained = true;
    assert_eq!(listeners(&config, true), []);
    let text = rendered(&config).text;
    assert!(
        !text.contains("fe_web") && text.contains("server a "),
        "{text}"
    );
}

#[test]
fn alerts_are_laid_at_the_door_of_objects() {
    let mut config = web();
    config.targetgroups.insert(0, api());
    let rendered = rendered(&config);
    let line = |text: &str| {
        let lines = rendered.text.lines().zip(1..);
        let found = lines.into_iter().find(|(line, _)| line.contains(text));
        found.unwrap().1.to_string()
    };
    let output = include_str!("goldens/alerts.txt")
        .replace("BODY", &line("rstring"))
        .replace("SERVER", &line("server a"))
        .replace("BIND", &line("bind 127.0.0.11:80"));
    let found = alerts::rejections(&output, &rendered, Stage::Check);
    let found: Vec<String> = found
        .iter()
        .map(|r| format!("{} {} {r}", r.code, r.field.as_deref().unwrap_or("-")))
        .collect();
    assert_eq!(
        found,
        [
            "CONFIG_INVALID /spec/health_check/expect_body TargetGroup/api: 'http-check expect' : regex 'a(' is invalid (error=missing closing parenthesis, erroffset=2).",
            "CONFIG_INVALID /endpoints/0 TargetGroup/web: 'server be_web/a' : invalid port '70000'",
            "ADDRESS_IN_USE /spec/port TargetGroup/web: Binding for frontend fe_web: cannot bind socket (Address already in use) for [127.0.0.11:80]",
            "CONFIG_INVALID - Proxy 'f': unable to find required default_backend: 'nope'.",
        ]
    );
}

#[test]
fn administrative_state_is_a_decimal_mask() {
    let servers = running(&[
        ("ready", 1, 2, 0, 10),
        ("file-says-disabled", 2, 2, 4, 10),
        ("inherited-drain", 3, 2, 16, 10),
        ("drain-and-maintenance", 4, 2, 10, 10),
        ("name-failure", 5, 2, 32, 10),
        ("moved-by-name", 6, 2, 64, 10),
        ("failed", 7, 0, 0, 10),
        ("weightless", 8, 2, 0, 0),
    ]);
    let serving = servers.iter().filter(|s| s.serves());
    let serving: Vec<&str> = serving.map(|s| s.key.server()).collect();
    assert_eq!(serving, ["file-says-disabled", "moved-by-name", "ready"]);
    let resting = servers.iter().filter(|s| s.is_in_maintenance());
    let resting: Vec<&str> = resting.map(|s| s.key.server()).collect();
    assert_eq!(resting, ["drain-and-maintenance", "name-failure"]);
}

#[test]
fn answers_that_are_not_what_was_asked_for_are_refused() {
    for text in ["", "Unknown command.", "2\n# be_id\n"] {
        observe::servers(text).unwrap_err();
    }
    observe::servers("1\n# be_id be_name\n4 be_web\n").unwrap_err();
    observe::stats("Permission denied\n\nx\n").unwrap_err();
    observe::processes("").unwrap_err();
    assert_eq!(observe::variable("Variable not found.\n"), None);
}

#[test]
fn processes_are_read_with_those_that_are_ending() {
    let text = "#<PID>          <type>          <reloads>       <uptime>        <version>      
8113            master          7 [failed: 1]   0d00h04m31s     2.6.12-1+deb12u4
# workers
13147           worker          0               0d00h00m01s     2.6.12-1+deb12u4
# old workers
12597           worker          1               0d00h00m03s     2.6.12-1+deb12u4
# programs

";
    let processes = observe::processes(text).unwrap();
    assert_eq!((processes.master, processes.worker), (8113, Some(13147)));
    assert_eq!((processes.reloads, processes.failed), (7, 1));
    assert_eq!(processes.old, [12597]);
}

#[test]
fn sessions_are_read_with_their_servers() {
    let text =
        "0x5581e3935110: proto=tcpv4 src=127.0.0.1:38890 fe=fe_t be=be_t srv=s2 ts=00 epoch=0
0x5581e3a67d90: proto=sockpair src=unix:2 fe=GLOBAL be=<NONE> srv=<none> ts=00
";
    let server = ServerKey::named("be_t", "s2").unwrap();
    let sessions = observe::sessions(text);
    assert_eq!(sessions, [(server, "0x5581e3935110".to_owned())]);
}

#[test]
fn a_running_check_is_no_other_result() {
    let text = "# pxname,svname,qcur,scur,status,check_status,-,\nbe_web,a,1,2,UP,* L4OK,,\nfe_web,FRONTEND,,5,OPEN,,,\n";
    let stats = observe::stats(text).unwrap();
    assert_eq!(
        (stats[0].check_status.as_str(), stats[0].sessions),
        ("L4OK", 3)
    );
    assert_eq!((stats[1].status.as_str(), stats[1].sessions), ("OPEN", 5));
}

#[test]
fn names_that_would_be_commands_are_no_names() {
    for name in [
        "",
        "a;b",
        "a\nb",
        "a b",
        "a/b",
        "a:1",
        "ä",
        &"x".repeat(128),
    ] {
        assert_eq!(ServerKey::named("be_web", name), None, "{name:?}");
    }
    let key = ServerKey::of("web", "ep-1").unwrap();
    assert_eq!(key.to_string(), "be_web/ep-1");
    assert_eq!(key.targetgroup(), Some("web"));
}

fn runtime(observed: &Servers, new: &NodeConfig) -> Vec<String> {
    match plan(observed, Some(&web()), new) {
        Plan::Runtime(ops) => ops.iter().map(ToString::to_string).collect(),
        Plan::Noop => Vec::new(),
        Plan::Reload(reasons) => panic!("a reload, because {reasons:?}"),
    }
}

fn both_run() -> Servers {
    running(&[("a", 1, 2, 0, 10), ("b", 2, 2, 0, 10)])
}

#[test]
fn what_runs_is_left_alone() {
    assert_eq!(plan(&both_run(), Some(&web()), &web()), Plan::Noop);
    assert_eq!(drift(&both_run(), &web()), []);
}

#[test]
fn capacity_comes_before_it_goes() {
    let mut new = web();
    let endpoints = &mut new.targetgroups[0].body.endpoints;
    endpoints[0].weight = 20;
    endpoints[1] = endpoint("c", 3);
    assert_eq!(
        runtime(&both_run(), &new),
        [
            "add server be_web/c 10.0.0.3:8080 weight 10 check inter 5000ms rise 2 fall 3",
            "set server be_web/c state drain",
            "set server be_web/c health down",
            "set server be_web/c state ready",
            "enable health be_web/c",
            "set server be_web/a weight 20",
            "set server be_web/b state drain",
        ]
    );
    assert_eq!(drift(&both_run(), &new).len(), 3);
}

#[test]
fn an_endpoint_serves_at_once_where_nobody_else_does() {
    let mut new = web();
    new.targetgroups[0].body.endpoints = vec![endpoint("c", 3)];
    assert_eq!(
        runtime(&both_run(), &new)[1..],
        [
            "set server be_web/c state ready",
            "enable health be_web/c",
            "set server be_web/a state drain",
            "set server be_web/b state drain",
        ]
    );
}

#[test]
fn leaving_maintenance_and_moving_go_through_the_checks() {
    let observed = running(&[("a", 1, 2, 0, 10), ("b", 2, 0, 5, 10)]);
    let checked = [
        "set server be_web/b state drain",
        "set server be_web/b health down",
        "set server be_web/b state ready",
    ];
    assert_eq!(runtime(&observed, &web()), checked);
    let mut new = web();
    new.targetgroups[0].body.endpoints[1].port = 9090;
    assert_eq!(
        runtime(&both_run(), &new),
        [
            checked[0],
            checked[1],
            "set server be_web/b addr 10.0.0.2 port 9090",
            checked[2],
        ]
    );
    // In a drain the checks went on.
    let observed = running(&[("a", 1, 2, 0, 10), ("b", 2, 2, 8, 10)]);
    assert_eq!(runtime(&observed, &web()), [checked[2]]);
}

#[test]
fn operators_stop_endpoints() {
    let mut new = web();
    new.targetgroups[0].body.endpoints[0].status = EndpointStatus::Drain;
    new.targetgroups[0].body.endpoints[1].status = EndpointStatus::Down;
    assert_eq!(
        runtime(&both_run(), &new),
        [
            "set server be_web/a state drain",
            "set server be_web/b state maint",
        ]
    );
}

#[test]
fn what_only_the_file_can_say_is_a_reload_with_its_reasons() {
    let reasons = |change: fn(&mut NodeConfig)| {
        let mut new = web();
        change(&mut new);
        match plan(&both_run(), Some(&web()), &new) {
            Plan::Reload(reasons) => reasons.join("; "),
            other => panic!("{other:?}"),
        }
    };
    let spec = |config: &mut NodeConfig| {
        let spec = &mut config.targetgroups[0].body.spec;
        spec.port = 81;
        spec.health_check.rise = 9;
    };
    let expected = "port of target group web changed; health_check of target group web changed";
    assert_eq!(reasons(spec), expected);
    let expected = "target group web was removed; target group api was added";
    assert_eq!(
        reasons(|config| config.targetgroups = vec![api()]),
        expected
    );
    let expected = "drained of the node changed";
    assert_eq!(reasons(|config| config.node.drained = true), expected);
    assert!(matches!(plan(&both_run(), None, &web()), Plan::Reload(_)));
}

#[test]
fn a_delay_is_the_agents_matter() {
    let mut new = web();
    new.targetgroups[0].body.spec.deregistration_delay = Span::from_millis(1);
    assert_eq!(plan(&both_run(), Some(&web()), &new), Plan::Noop);
}

#[test]
fn state_for_a_reload_says_what_is_wanted_and_how_healthy_it_was() {
    let mut new = web();
    let endpoints = &mut new.targetgroups[0].body.endpoints;
    endpoints[1].status = EndpointStatus::Drain;
    endpoints[1].port = 9090;
    endpoints.push(endpoint("c", 3));
    endpoints.push(endpoint("d", 4));
    endpoints[3].status = EndpointStatus::Down;
    endpoints.push(endpoint("e", 5));
    let observed = running(&[
        ("a", 1, 2, 0, 10),
        ("b", 2, 2, 0, 10),
        ("d", 4, 2, 0, 10),
        ("e", 5, 0, 0, 10),
    ]);
    let text = synthesise(&new, &observed);
    let rows: Vec<&str> = text.lines().skip(2).collect();
    assert_eq!(
        rows,
        [
            "1 be_web 1 a 10.0.0.1 2 0 10 10 0 6 3 4 6 0 0 0 - 8080 - 0 0 - - 0",
            "1 be_web 2 b 10.0.0.2 0 8 10 10 0 1 0 0 6 0 0 0 - 9090 - 0 0 - - 0",
            "1 be_web 3 c 10.0.0.3 0 0 10 10 0 1 0 0 6 0 0 0 - 8080 - 0 0 - - 0",
            "1 be_web 4 d 10.0.0.4 0 1 10 10 0 1 0 0 14 0 0 0 - 8080 - 0 0 - - 0",
            "1 be_web 5 e 10.0.0.5 0 0 10 10 0 1 0 0 6 0 0 0 - 8080 - 0 0 - - 0",
        ]
    );
}

#[test]
fn health_has_a_reason() {
    let state = |op, admin, result| {
        let row = format!(
            "4 be_web 1 a 10.0.0.1 {op} {admin} 10 10 20 6 {result} 4 6 0 0 0 - 8080 - 0 0 - - 0\n"
        );
        observe::servers(&format!("{STATE}{row}")).unwrap()
    };
    let judge = |servers: &Servers, check: &str| {
        let stats = [StatRow {
            proxy: "be_web".to_owned(),
            server: "a".to_owned(),
            sessions: 3,
            status: String::new(),
            check_status: check.to_owned(),
        }];
        let mut connections = Connections::default();
        connections.add(&stats);
        connections.add(&stats);
        let sources = Sources {
            servers,
            stats: &stats,
            connections: &connections,
        };
        let health = health(&web(), sources).remove(0);
        assert_eq!(health.connections, 6);
        (
            health.health,
            health.receives_new,
            health.reason.unwrap_or_default(),
        )
    };
    let said = |health, receives, reason: &str| (health, receives, reason.to_owned());
    let initial = "Cpl.InitialHealthChecking";
    assert_eq!(
        judge(&state(2, 0, 3), "L4OK"),
        said(Health::Healthy, true, "")
    );
    assert_eq!(
        judge(&state(2, 0, 0), "INI"),
        said(Health::Initial, true, initial)
    );
    assert_eq!(
        judge(&state(0, 0, 3), "L4OK"),
        said(Health::Initial, false, initial)
    );
    let timeout = "Target.Timeout";
    assert_eq!(
        judge(&state(0, 0, 2), "L4TOUT"),
        said(Health::Unhealthy, false, timeout)
    );
    let draining = "Target.DeregistrationInProgress";
    assert_eq!(
        judge(&state(2, 8, 3), "L4OK"),
        said(Health::Healthy, false, draining)
    );
    let outside = "External.Maint";
    assert_eq!(
        judge(&state(0, 1, 0), ""),
        said(Health::Unknown, false, outside)
    );
    let absent = "Cpl.RegistrationInProgress";
    let nobody = Servers::default();
    assert_eq!(judge(&nobody, ""), said(Health::Unknown, false, absent));
}

#[test]
fn delays_are_counted_from_when_an_endpoint_left() {
    let at = |seconds| Monotonic(Duration::from_secs(seconds));
    let (mut leaving, mut delays) = (Leaving::default(), Delays::default());
    delays.learn(&web());
    let gone = ServerKey::of("web", "z").unwrap();
    let set = [gone.clone()].into();
    leaving.update(&set, at(10));
    leaving.update(&set, at(12));
    assert!(leaving.expired(&delays, at(14)).is_empty());
    assert_eq!(leaving.expired(&delays, at(15)), set);
    // It came back and left again.
    leaving.update(&[].into(), at(16));
    leaving.update(&set, at(17));
    assert!(leaving.expired(&delays, at(18)).is_empty());
    assert!(!stays(&web(), &gone));
    assert!(stays(&web(), &ServerKey::of("web", "a").unwrap()));
}

#[test]
fn what_cannot_be_given_to_haproxy_is_refused_field_by_field() {
    let mut tg = targetgroup("web", 80, &[endpoint("a;b", 1), endpoint("c", 2)]);
    tg.body.endpoints[1].port = 0;
    tg.body.endpoints[1].weight = 257;
    tg.body.spec.health_check.expect_body = Some("two\nlines".to_owned());
    let spec = cpl_lb::spec::NodeSpec {
        assigned_targetgroups: vec!["web".to_owned()],
        ..cpl_lb::spec::NodeSpec::default()
    };
    let refused = read::read(&cpl_lb::plan::render(&spec, &[tg])).unwrap_err();
    let fields: Vec<_> = refused.iter().map(|r| r.field.clone().unwrap()).collect();
    assert_eq!(
        fields,
        [
            "/spec/health_check/expect_body",
            "/endpoints/0/id",
            "/endpoints/1/port",
            "/endpoints/1/weight",
        ]
    );
    let mut other = cpl_lb::plan::render(&spec, &[]);
    other.schema = 9;
    assert_eq!(read::read(&other).unwrap_err()[0].code, "CONFIG_UNREADABLE");
}
