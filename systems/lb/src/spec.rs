//! What people write: target groups with endpoints, and nodes.
//!
//! The shapes are those of the seed document. Reading collects every mistake at once; what it returns
//! is valid in itself. What can only be judged with other objects in view is in [`crate::checks`].

use std::collections::BTreeSet;
use std::net::IpAddr;

use cpl_core::fields::{Fields, Span, Wrong, boolean, integer, ip, name, one_of, port, span, text};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most endpoints of one target group: 512 of them fit one stored value many times over.
pub const MOST_ENDPOINTS: usize = 512;
/// Most target groups of one node.
pub const MOST_ASSIGNED: usize = 200;
/// Most addresses that a node listens on.
pub const MOST_ADDRESSES: usize = 16;
/// Most peers, and most prefixes, of one node.
pub const MOST_BGP: usize = 64;

/// How a target group is balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections are passed on as they are.
    Tcp,
    /// Requests are balanced one by one.
    Http,
}

/// Which endpoint gets the next connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// In turn, by weight.
    Roundrobin,
    /// The one with the fewest connections.
    Leastconn,
    /// By a consistent hash of the client's address.
    Source,
}

/// What a health check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// Connects.
    Tcp,
    /// Sends a request and looks at the answer.
    Http,
}

/// How endpoints are found healthy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What it does; TCP when nothing is said.
    pub kind: CheckKind,
    /// Time between two checks; 5 s when nothing is said.
    pub interval: Span,
    /// How long one check may take; 2 s when nothing is said.
    pub timeout: Span,
    /// Successes until an endpoint is healthy; 2 when nothing is said.
    pub rise: u8,
    /// Failures until it is not; 3 when nothing is said.
    pub fall: u8,
    /// Another port than the endpoint's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The path of an HTTP check; `/` when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Codes and ranges that an HTTP check accepts, `200-399` when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_status: Option<String>,
    /// A regular expression that the body of an HTTP check's answer must match. Its dialect is the data
    /// plane's, so only the data plane can judge it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_body: Option<String>,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            kind: CheckKind::Tcp,
            interval: Span::from_millis(5_000),
            timeout: Span::from_millis(2_000),
            rise: 2,
            fall: 3,
            port: None,
            path: None,
            expect_status: None,
            expect_body: None,
        }
    }
}

/// What a target group is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TargetGroupSpec {
    /// How it is balanced.
    pub protocol: Protocol,
    /// The port that nodes listen on.
    pub port: u16,
    /// Which endpoint is next.
    pub algorithm: Algorithm,
    /// How endpoints are found healthy.
    pub health_check: HealthCheck,
    /// How long connections of an endpoint that was removed may go on before they are cut.
    pub deregistration_delay: Span,
    /// How long a connection may be silent on both sides.
    pub idle_timeout: Span,
}

/// What the operator wants of an endpoint. Health is another matter, and nodes report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EndpointStatus {
    /// It serves while it is healthy.
    Up,
    /// It serves nothing and is not checked.
    Down,
    /// It gets no new connections and keeps those that it has.
    Drain,
}

/// One address that serves a target group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its name, unique in its target group.
    pub id: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its share of the load, 0 to 256; 0 gets nothing.
    pub weight: u16,
    /// What the operator wants of it.
    pub status: EndpointStatus,
}

/// One BGP neighbour of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BgpPeer {
    /// Its address.
    pub ip: IpAddr,
    /// Its autonomous system.
    pub asn: u32,
}

/// How a node announces its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bgp {
    /// The node's own autonomous system.
    pub local_asn: u32,
    /// Whom it tells.
    #[serde(default)]
    pub peers: Vec<BgpPeer>,
    /// What it announces, while what it runs is verified and enough endpoints answer.
    #[serde(default)]
    pub advertised_prefixes: Vec<String>,
    /// Below this share of healthy endpoints, in percent, nothing is announced any more; 0 for never.
    #[serde(default = "least_mark", skip_serializing_if = "is_least_mark")]
    pub low_mark_percent: u8,
    /// From this share on it is announced again; at least the low mark.
    #[serde(default = "least_mark", skip_serializing_if = "is_least_mark")]
    pub high_mark_percent: u8,
    /// Also withdraw before every reload of the data plane. A reload fails no connection by itself, so
    /// this is for those who have other nodes and want none on one that changes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub withdraw_before_reload: bool,
}

/// What marks are when nothing is said: something is healthy, or nothing is.
const fn least_mark() -> u8 {
    1
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_least_mark(mark: &u8) -> bool {
    *mark == least_mark()
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What a node is. `desired_config_version` stands in the same stored value and is not people's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeSpec {
    /// How it announces its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<Bgp>,
    /// What it serves.
    #[serde(default)]
    pub assigned_targetgroups: Vec<String>,
    /// Where it listens; all addresses when empty.
    #[serde(default)]
    pub listen_addresses: Vec<IpAddr>,
    /// It accepts no new connections; those that it has go on until they end.
    #[serde(default)]
    pub drained: bool,
    /// How often the node was asked to try again what it holds; stands in a part of its own.
    #[serde(skip)]
    pub attempt: u64,
}

/// Reads the `spec` of a target group's manifest. Fields that the server writes are ignored.
pub fn read_targetgroup(fields: &mut Fields<'_>) -> Option<TargetGroupSpec> {
    const PROTOCOLS: &[(&str, Protocol)] = &[("tcp", Protocol::Tcp), ("http", Protocol::Http)];
    const ALGORITHMS: &[(&str, Algorithm)] = &[
        ("roundrobin", Algorithm::Roundrobin),
        ("leastconn", Algorithm::Leastconn),
        ("source", Algorithm::Source),
    ];
    fields.ignore(&["version", "last_modified_by", "last_modified_at"]);
    let protocol = fields.required("protocol", one_of(PROTOCOLS));
    let port = fields.required("port", port);
    let algorithm = fields.optional("algorithm", one_of(ALGORITHMS));
    let health_check = fields.object("health_check", read_health_check);
    let delay = fields.optional("deregistration_delay", span(millis(0)..=millis(3_600_000)));
    let idle = fields.optional("idle_timeout", span(millis(1_000)..=millis(86_400_000)));
    Some(TargetGroupSpec {
        protocol: protocol?,
        port: port?,
        algorithm: algorithm.unwrap_or(Algorithm::Roundrobin),
        health_check: health_check.unwrap_or_default(),
        deregistration_delay: delay.unwrap_or(millis(300_000)),
        idle_timeout: idle.unwrap_or(millis(600_000)),
    })
}

const fn millis(millis: u64) -> Span {
    Span::from_millis(millis)
}

fn read_health_check(fields: &mut Fields<'_>) -> HealthCheck {
    const KINDS: &[(&str, CheckKind)] = &[("tcp", CheckKind::Tcp), ("http", CheckKind::Http)];
    let default = HealthCheck::default();
    let kind = fields
        .optional("kind", one_of(KINDS))
        .unwrap_or(default.kind);
    let interval = fields.optional("interval", span(millis(100)..=millis(3_600_000)));
    let timeout = fields.optional("timeout", span(millis(50)..=millis(600_000)));
    let times = || integer(1..=100);
    let rise = fields
        .optional("rise", times())
        .and_then(|n| u8::try_from(n).ok());
    let fall = fields
        .optional("fall", times())
        .and_then(|n| u8::try_from(n).ok());
    let check = HealthCheck {
        kind,
        interval: interval.unwrap_or(default.interval),
        timeout: timeout.unwrap_or(default.timeout),
        rise: rise.unwrap_or(default.rise),
        fall: fall.unwrap_or(default.fall),
        port: fields.optional("port", port),
        path: fields.optional("path", read_path),
        expect_status: fields.optional("expect_status", read_statuses),
        expect_body: fields.optional("expect_body", text(256)),
    };
    for (name, given) in [
        ("path", check.path.is_some()),
        ("expect_status", check.expect_status.is_some()),
        ("expect_body", check.expect_body.is_some()),
    ] {
        if given && kind == CheckKind::Tcp {
            fields.wrong(
                name,
                Wrong::new("FIELD_CONFLICT", "only with \"kind\": \"http\""),
            );
        }
    }
    check
}

fn read_path(value: &Value) -> Result<String, Wrong> {
    let path = text(256)(value)?;
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '#');
    if path.starts_with('/') && path.chars().all(plain) {
        return Ok(path);
    }
    let detail = "expected a path that begins with '/', without spaces, quotes, '\\' and '#'";
    Err(Wrong::new("FIELD_INVALID", detail))
}

fn read_statuses(value: &Value) -> Result<String, Wrong> {
    let text = text(100)(value)?;
    let code = |code: &str| code.parse::<u16>().is_ok_and(|c| (100..=599).contains(&c));
    let fits = text.split(',').all(|part| match part.split_once('-') {
        Some((from, to)) => code(from) && code(to) && from <= to,
        None => code(part),
    });
    if fits {
        return Ok(text);
    }
    Err(Wrong::new(
        "FIELD_INVALID",
        "expected codes and ranges from 100 to 599, like 200,301-308",
    ))
}

/// Reads the `endpoints` of a target group's manifest, or of a change of them, which stand at `name`.
pub fn read_endpoints(fields: &mut Fields<'_>, field: &'static str) -> Option<Vec<Endpoint>> {
    let endpoints = fields.objects(field, MOST_ENDPOINTS, read_endpoint)?;
    let (mut ids, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for endpoint in &endpoints {
        if !ids.insert(&endpoint.id) {
            let detail = format!("the id {} occurs twice", endpoint.id);
            fields.wrong(field, Wrong::new("FIELD_DUPLICATE", detail));
        }
        if !addresses.insert((endpoint.ip, endpoint.port)) {
            let detail = format!("{} port {} occurs twice", endpoint.ip, endpoint.port);
            fields.wrong(field, Wrong::new("FIELD_DUPLICATE", detail));
        }
    }
    Some(endpoints)
}

fn read_endpoint(fields: &mut Fields<'_>) -> Option<Endpoint> {
    const STATUSES: &[(&str, EndpointStatus)] = &[
        ("UP", EndpointStatus::Up),
        ("DOWN", EndpointStatus::Down),
        ("DRAIN", EndpointStatus::Drain),
    ];
    let id = fields.optional("id", name);
    let ip = fields.required("ip", ip);
    let port = fields.required("port", port);
    let weight = fields
        .optional("weight", integer(0..=256))
        .and_then(|w| u16::try_from(w).ok());
    let status = fields.optional("status", one_of(STATUSES));
    let (ip, port) = (ip?, port?);
    Some(Endpoint {
        id: id.unwrap_or_else(|| default_id(ip, port)),
        ip,
        port,
        weight: weight.unwrap_or(1),
        status: status.unwrap_or(EndpointStatus::Up),
    })
}

/// The id of an endpoint that was given none: its address and port, so that it stays the same.
fn default_id(ip: IpAddr, port: u16) -> String {
    let address = ip.to_string().replace(['.', ':'], "-");
    format!("ep-{address}-{port}")
}

/// Reads the `spec` of a node's manifest. Fields that the server writes are ignored.
pub fn read_node(fields: &mut Fields<'_>) -> NodeSpec {
    fields.ignore(&["desired_config_version"]);
    let bgp = fields.object("bgp", read_bgp).flatten();
    let assigned = fields
        .values("assigned_targetgroups", MOST_ASSIGNED, name)
        .unwrap_or_default();
    no_twice(fields, "assigned_targetgroups", &assigned);
    let addresses = fields
        .values("listen_addresses", MOST_ADDRESSES, ip)
        .unwrap_or_default();
    no_twice(fields, "listen_addresses", &addresses);
    let drained = fields.optional("drained", boolean).unwrap_or(false);
    NodeSpec {
        bgp,
        assigned_targetgroups: assigned,
        listen_addresses: addresses,
        drained,
        attempt: 0,
    }
}

fn no_twice<T: Ord + ToString>(fields: &mut Fields<'_>, field: &str, items: &[T]) {
    let mut seen = BTreeSet::new();
    for item in items.iter().filter(|item| !seen.insert(*item)) {
        let detail = format!("{} occurs twice", item.to_string());
        fields.wrong(field, Wrong::new("FIELD_DUPLICATE", detail));
    }
}

fn read_bgp(fields: &mut Fields<'_>) -> Option<Bgp> {
    let asn = |value: &Value| {
        integer(1..=u64::from(u32::MAX))(value).map(|n| u32::try_from(n).unwrap_or(u32::MAX))
    };
    let local_asn = fields.required("local_asn", asn);
    let peers = fields.objects("peers", MOST_BGP, |peer| {
        let (ip, asn) = (peer.required("ip", ip), peer.required("asn", asn));
        Some(BgpPeer { ip: ip?, asn: asn? })
    });
    let prefixes = fields.values("advertised_prefixes", MOST_BGP, read_prefix);
    let mark = |value: &Value| integer(0..=100)(value).map(|n| u8::try_from(n).unwrap_or(100));
    let low = fields.optional("low_mark_percent", mark);
    let high = fields.optional("high_mark_percent", mark);
    let low_mark_percent = low.unwrap_or_else(|| high.unwrap_or(1).min(least_mark()));
    let high_mark_percent = high.unwrap_or_else(|| low_mark_percent.max(least_mark()));
    if high_mark_percent < low_mark_percent {
        let detail = format!("must be at least low_mark_percent, which is {low_mark_percent}");
        fields.wrong(
            "high_mark_percent",
            Wrong::new("FIELD_OUT_OF_RANGE", detail),
        );
    }
    let withdraw_before_reload = fields.optional("withdraw_before_reload", boolean);
    Some(Bgp {
        local_asn: local_asn?,
        peers: peers.unwrap_or_default(),
        advertised_prefixes: prefixes.unwrap_or_default(),
        low_mark_percent,
        high_mark_percent,
        withdraw_before_reload: withdraw_before_reload.unwrap_or_default(),
    })
}

fn read_prefix(value: &Value) -> Result<String, Wrong> {
    let wrong = || Wrong::new("FIELD_INVALID", "expected a prefix like 203.0.113.0/24");
    let text = text(64)(value)?;
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length: u8 = length.parse().map_err(|_| wrong())?;
    if length > most {
        return Err(wrong());
    }
    Ok(text)
}
