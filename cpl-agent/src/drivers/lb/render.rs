//! HAProxy's file, rendered purely, with a way back from each line to the field that it came from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use cpl_core::delivery::ObjectRef;
use cpl_lb::plan::{NodeConfig, NodePart, TargetGroup};
use cpl_lb::spec::{
    Algorithm, CheckKind, Endpoint, EndpointStatus, HealthCheck, Protocol, TargetGroupSpec,
};

use super::names::{backend, frontend};
use super::{mark, read};
use crate::driver::Label;

/// A worker that was replaced ends at the latest after this, whatever its connections do. It must not
/// be shorter than the longest `deregistration_delay`.
const OLD_WORKER_ENDS: Duration = Duration::from_hours(1);
/// Old workers beyond this many are ended, oldest first: each costs the memory of a whole process.
const MOST_OLD_WORKERS: u32 = 20;
/// HAProxy sizes a table by the limit of open files, which is a thousand million in some containers.
const MOST_OPEN_FILES: u32 = 1_048_576;
/// Requests must have arrived after this, and a kept connection must have seen its next one.
const HTTP_PATIENCE: Duration = Duration::from_secs(10);

/// What a configuration is rendered into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    /// The socket that commands are sent to.
    pub(super) worker_socket: &'a Path,
    /// The socket of the listener that is always there.
    pub(super) alive_socket: &'a Path,
    /// The synthesised server state.
    pub(super) state_file: &'a Path,
    /// Whether this machine has IPv6.
    pub(super) ipv6: bool,
}

/// Where a line comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The object.
    pub(super) object: ObjectRef,
    /// Its field, as a JSON pointer.
    pub(super) field: String,
}

/// A rendered file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    /// Its text.
    pub(super) text: String,
    origins: Vec<Option<Origin>>,
}

impl Rendered {
    /// Where a line, counted from one, comes from; `None` for lines that no object asked for.
    pub(super) fn origin(&self, line: usize) -> Option<&Origin> {
        self.origins.get(line.checked_sub(1)?)?.as_ref()
    }
}

/// An address that the load balancer listens on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listener {
    /// Where.
    pub(super) address: SocketAddr,
    /// For which target group.
    pub(super) targetgroup: String,
}

/// Everything that a configuration listens on; nothing when the node is drained.
pub(super) fn listeners(config: &NodeConfig, ipv6: bool) -> Vec<Listener> {
    if config.node.drained {
        return Vec::new();
    }
    let addresses = addresses(&config.node, ipv6);
    config
        .targetgroups
        .iter()
        .flat_map(|tg| {
            addresses.iter().map(|ip| Listener {
                address: SocketAddr::new(*ip, tg.body.spec.port),
                targetgroup: tg.name.clone(),
            })
        })
        .collect()
}

fn addresses(node: &NodePart, ipv6: bool) -> Vec<IpAddr> {
    if !node.listen_addresses.is_empty() {
        return node.listen_addresses.clone();
    }
    let mut all = vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    if ipv6 {
        all.push(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    }
    all
}

/// Renders the file. `None` when the label cannot be written.
pub(super) fn render(
    config: &NodeConfig,
    label: &Label,
    around: Surroundings<'_>,
) -> Option<Rendered> {
    let mut file = Writer::default();
    file.line("# Written by the CPL agent; changes by hand are lost.");
    file.global(label, &mark::write(label)?, around);
    for tg in &config.targetgroups {
        file.of = Some(read::object(&tg.name));
        if !config.node.drained {
            file.frontend(tg, &addresses(&config.node, around.ipv6));
        }
        file.backend(tg);
    }
    Some(file.rendered)
}

/// The words that describe a server, the same in the file and in the command `add server`, which
/// knows nothing of `default-server`.
pub(super) fn server_words(endpoint: &Endpoint, check: &HealthCheck) -> String {
    let address = SocketAddr::new(endpoint.ip, endpoint.port);
    let HealthCheck {
        interval,
        rise,
        fall,
        ..
    } = check;
    let inter = interval.as_millis();
    let weight = endpoint.weight;
    let port = check
        .port
        .map_or_else(String::new, |port| format!(" port {port}"));
    format!("{address} weight {weight} check inter {inter}ms rise {rise} fall {fall}{port}")
}

struct Writer {
    of: Option<ObjectRef>,
    rendered: Rendered,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            of: None,
            rendered: Rendered {
                text: String::new(),
                origins: Vec::new(),
            },
        }
    }
}

impl Writer {
    fn line(&mut self, text: impl AsRef<str>) {
        self.from("", text);
    }

    fn from(&mut self, field: &str, text: impl AsRef<str>) {
        self.rendered.text.push_str(text.as_ref());
        self.rendered.text.push('\n');
        let origin = self.of.as_ref().map(|object| Origin {
            object: object.clone(),
            field: field.to_owned(),
        });
        self.rendered.origins.push(origin);
    }

    fn global(&mut self, label: &Label, mark: &str, around: Surroundings<'_>) {
        let path = |path: &Path| quoted(&path.to_string_lossy());
        self.line("global");
        self.line(format!("  set-var proc.cpl_version int({})", label.version));
        self.line(format!("  set-var {} str({mark})", mark::VARIABLE));
        let socket = path(around.worker_socket);
        self.line(format!("  stats socket {socket} mode 600 level admin"));
        let ends = OLD_WORKER_ENDS.as_secs();
        self.line(format!("  hard-stop-after {ends}s"));
        self.line(format!("  mworker-max-reloads {MOST_OLD_WORKERS}"));
        self.line(format!("  fd-hard-limit {MOST_OPEN_FILES}"));
        let state = path(around.state_file);
        self.line(format!("  server-state-file {state}"));
        self.line("defaults");
        self.line("  load-server-state-from-file global");
        self.line("  timeout connect 5s");
        self.line("  retries 3");
        // A connection that an endpoint refuses goes to another one at once.
        self.line("  option redispatch 1");
        // Without any listener HAProxy does not start: this one is there with no target group too.
        self.line("frontend cpl_alive");
        self.line("  mode http");
        self.line("  timeout client 5s");
        let alive = path(around.alive_socket);
        self.line(format!("  bind unix@{alive} mode 600"));
        self.line("  http-request return status 200");
    }

    fn frontend(&mut self, tg: &TargetGroup, addresses: &[IpAddr]) {
        let spec = &tg.body.spec;
        self.line(format!("frontend {}", frontend(&tg.name)));
        self.from("/spec/protocol", mode(spec.protocol));
        for ip in addresses {
            let address = SocketAddr::new(*ip, spec.port);
            // Without `v6only` the socket would take the port of all IPv4 addresses as well.
            let only = match ip {
                IpAddr::V6(ip) if ip.is_unspecified() => " v6only",
                IpAddr::V6(_) | IpAddr::V4(_) => "",
            };
            self.from("/spec/port", format!("  bind {address}{only}"));
        }
        let idle = spec.idle_timeout.as_millis();
        self.from("/spec/idle_timeout", format!("  timeout client {idle}ms"));
        if spec.protocol == Protocol::Http {
            let patience = HTTP_PATIENCE.as_secs();
            self.line(format!("  timeout http-request {patience}s"));
            // Clients with an idle connection learn of a reload by its end, not by an error.
            self.line("  option idle-close-on-response");
            self.line("  option forwardfor");
        }
        self.line(format!("  default_backend {}", backend(&tg.name)));
    }

    fn backend(&mut self, tg: &TargetGroup) {
        let TargetGroupSpec {
            protocol,
            algorithm,
            health_check: check,
            idle_timeout,
            port: _,
            deregistration_delay: _,
        } = &tg.body.spec;
        self.line(format!("backend {}", backend(&tg.name)));
        self.from("/spec/protocol", mode(*protocol));
        for line in balance(*algorithm) {
            self.from("/spec/algorithm", line);
        }
        let idle = idle_timeout.as_millis();
        self.from("/spec/idle_timeout", format!("  timeout server {idle}ms"));
        if *protocol == Protocol::Http {
            self.from("/spec/idle_timeout", format!("  timeout tunnel {idle}ms"));
            self.line("  http-reuse safe");
        }
        self.health_check(&tg.name, check);
        for (at, endpoint) in tg.body.endpoints.iter().enumerate() {
            let words = server_words(endpoint, check);
            let id = &endpoint.id;
            // The state file says it as well, but a state file may get lost.
            let disabled = match endpoint.status {
                EndpointStatus::Down => " disabled",
                EndpointStatus::Up | EndpointStatus::Drain => "",
            };
            let line = format!("  server {id} {words}{disabled}");
            self.from(&format!("/endpoints/{at}"), line);
        }
    }

    fn health_check(&mut self, host: &str, check: &HealthCheck) {
        let timeout = check.timeout.as_millis();
        let field = "/spec/health_check/timeout";
        self.from(field, format!("  timeout check {timeout}ms"));
        if check.kind == CheckKind::Tcp {
            return;
        }
        self.from("/spec/health_check/kind", "  option httpchk");
        let path = quoted(check.path.as_deref().unwrap_or("/"));
        self.from(
            "/spec/health_check/path",
            format!("  http-check send meth GET uri {path} ver HTTP/1.1 hdr Host {host}"),
        );
        let status = check.expect_status.as_deref().unwrap_or("200-399");
        self.from(
            "/spec/health_check/expect_status",
            format!("  http-check expect status {}", quoted(status)),
        );
        if let Some(body) = &check.expect_body {
            self.from(
                "/spec/health_check/expect_body",
                format!("  http-check expect rstring {}", quoted(body)),
            );
        }
    }
}

fn mode(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "  mode tcp",
        Protocol::Http => "  mode http",
    }
}

fn balance(algorithm: Algorithm) -> &'static [&'static str] {
    match algorithm {
        Algorithm::Roundrobin => &["  balance roundrobin"],
        Algorithm::Leastconn => &["  balance leastconn"],
        // The hash of a map could be neither weighted nor changed at runtime.
        Algorithm::Source => &["  balance source", "  hash-type consistent"],
    }
}

/// One word of HAProxy's language. Between single quotes nothing is special; double quotes would
/// expand `$NAME` from the environment.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
