//! What is to be reached, as data: which figure of CPL is held against which figure of a peer.

/// One measured figure: of which bench, with which parameters, which metric.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) bench: &'static str,
    /// Parameters that must be as here; others may be anything.
    pub(crate) with: &'static [(&'static str, &'static str)],
    pub(crate) metric: &'static str,
}

/// What CPL's figure is held against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Against {
    /// This many times a peer's figure.
    Times(f64, Figure),
    /// This many times one figure of a peer, and this many times one of CPL's own besides.
    Sum(f64, Figure, f64, Figure),
    /// A number.
    Number(f64),
}

/// Which side must be the greater one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    AtLeast,
    AtMost,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    pub(crate) ours: Figure,
    pub(crate) want: Want,
    pub(crate) against: Against,
}

const fn figure(
    bench: &'static str,
    with: &'static [(&'static str, &'static str)],
    metric: &'static str,
) -> Figure {
    Figure {
        bench,
        with,
        metric,
    }
}

const fn at_least(
    id: &'static str,
    what: &'static str,
    ours: Figure,
    times: f64,
    peer: Figure,
) -> Target {
    Target {
        id,
        what,
        ours,
        want: Want::AtLeast,
        against: Against::Times(times, peer),
    }
}

const fn at_most(
    id: &'static str,
    what: &'static str,
    ours: Figure,
    times: f64,
    peer: Figure,
) -> Target {
    Target {
        id,
        what,
        ours,
        want: Want::AtMost,
        against: Against::Times(times, peer),
    }
}

const COMMITS_1: &[(&str, &str)] = &[
    ("store", "embedded"),
    ("callers", "1"),
    ("watchers", "0"),
    ("pause_ms", "0"),
];
const COMMITS_64: &[(&str, &str)] = &[
    ("store", "embedded"),
    ("callers", "64"),
    ("watchers", "0"),
    ("pause_ms", "0"),
];
const COMMITS_256: &[(&str, &str)] = &[
    ("store", "embedded"),
    ("callers", "256"),
    ("watchers", "0"),
    ("pause_ms", "0"),
];
const ON_ETCD_1: &[(&str, &str)] = &[("store", "etcd"), ("callers", "1"), ("ids", "false")];
const ON_ETCD_256: &[(&str, &str)] = &[("store", "etcd"), ("callers", "256"), ("ids", "false")];
const ON_ETCD_IDS: &[(&str, &str)] = &[("store", "etcd"), ("callers", "256"), ("ids", "true")];
/// On a machine that was at rest, as it is when one agent is told of one change now and then.
const COMMITS_AT_REST: &[(&str, &str)] = &[("callers", "1"), ("pause_ms", "8")];
const ETCD: &str = "3.5.1";
/// etcd's watchers as its load has them, sharing connections, and with one each.
const WATCH_SHARED: &[(&str, &str)] = &[
    ("watchers", "1000"),
    ("target_rate", "50"),
    ("conns", "8"),
    ("version", ETCD),
];
const WATCH_ALONE: &[(&str, &str)] = &[
    ("watchers", "1000"),
    ("target_rate", "50"),
    ("conns", "1000"),
    ("version", ETCD),
];
const ALL: &[(&str, &str)] = &[("clients", "10000")];
const AXUM: &[(&str, &str)] = &[("clients", "10000"), ("ack", "on next poll")];

const fn ours_256(metric: &'static str) -> Figure {
    figure("store.cas_txn", COMMITS_256, metric)
}

const fn ours_64(metric: &'static str) -> Figure {
    figure("store.cas_txn", COMMITS_64, metric)
}

const fn ours_1(metric: &'static str) -> Figure {
    figure("store.cas_txn", COMMITS_1, metric)
}

const fn on_etcd(with: &'static [(&'static str, &'static str)]) -> Figure {
    figure("store.cas_txn", with, "txn_per_s")
}

const fn raw_etcd(with: &'static [(&'static str, &'static str)]) -> Figure {
    figure("etcd.cas", with, "ops_per_s")
}

const fn bare_redb(metric: &'static str) -> Figure {
    figure("redb.one_log_value", &[("group", "1")], metric)
}

const fn fanout(metric: &'static str) -> Figure {
    figure("fleet.fanout", ALL, metric)
}

const fn axum(metric: &'static str) -> Figure {
    figure("fanout.http", AXUM, metric)
}

/// The targets of the first pieces, by the numbers of the performance page.
pub(crate) const TARGETS: &[Target] = &[
    at_least(
        "P1a",
        "commits of 64 callers, SQLite at group 64",
        ours_64("txn_per_s"),
        1.0,
        figure(
            "embedded.cas_txn",
            &[("engine", "sqlite WAL FULL"), ("group", "64")],
            "txn_per_s",
        ),
    ),
    at_least(
        "P1b",
        "commits of 64 callers, etcd CAS at 64",
        ours_64("txn_per_s"),
        4.0,
        figure(
            "etcd.cas",
            &[("conc", "64"), ("version", ETCD)],
            "ops_per_s",
        ),
    ),
    at_least(
        "P1c",
        "commits of 256 callers, SQLite at group 256",
        ours_256("txn_per_s"),
        2.0,
        figure(
            "embedded.cas_txn",
            &[("engine", "sqlite WAL FULL"), ("group", "256")],
            "txn_per_s",
        ),
    ),
    at_least(
        "P2a",
        "commits of one caller, bare redb",
        ours_1("txn_per_s"),
        0.9,
        bare_redb("txn_per_s"),
    ),
    at_most(
        "P2b",
        "p99 of one caller, bare redb",
        ours_1("p99_ms"),
        1.5,
        bare_redb("p99_ms"),
    ),
    at_most(
        "P3",
        "p50 of one caller, bare redb",
        ours_1("p50_ms"),
        1.1,
        bare_redb("p50_ms"),
    ),
    at_least(
        "P4a",
        "commits of 256 callers on etcd, etcd CAS at 256",
        on_etcd(ON_ETCD_256),
        0.9,
        raw_etcd(&[("conc", "256"), ("version", ETCD)]),
    ),
    at_least(
        "P4a with ids",
        "commits of 256 callers on etcd, each with an id, etcd CAS at 256",
        on_etcd(ON_ETCD_IDS),
        0.6,
        raw_etcd(&[("conc", "256"), ("version", ETCD)]),
    ),
    at_least(
        "P4b",
        "commits of one caller on etcd, etcd CAS at 1",
        on_etcd(ON_ETCD_1),
        0.9,
        raw_etcd(&[("conc", "1"), ("version", ETCD)]),
    ),
    at_least(
        "P7a",
        "events of 1,000 watchers, etcd",
        figure("store.watch", &[("rate", "600")], "events_per_s"),
        10.0,
        figure("etcd.watch", WATCH_SHARED, "delivered_per_s"),
    ),
    at_most(
        "P7b",
        "p99 of their delay, etcd",
        figure("store.watch", &[("rate", "600")], "p99_ms"),
        0.25,
        figure("etcd.watch", WATCH_SHARED, "delay_p99_ms"),
    ),
    at_most(
        "P8a",
        "p99 of 1,000 HTTP streams on 8 connections, etcd",
        figure("fleet.streams", &[("connections", "8")], "delay_p99_ms"),
        1.0,
        figure("etcd.watch", WATCH_SHARED, "delay_p99_ms"),
    ),
    at_most(
        "P8b",
        "CPU per event of a stream, etcd",
        figure(
            "fleet.streams",
            &[("connections", "8")],
            "server_cpu_us_per_event",
        ),
        1.0,
        figure("etcd.watch", WATCH_SHARED, "server_cpu_us_per_event"),
    ),
    at_most(
        "P8c",
        "p99 of 1,000 HTTP streams on 1,000 connections, etcd",
        figure("fleet.streams", &[("connections", "1000")], "delay_p99_ms"),
        1.0,
        figure("etcd.watch", WATCH_ALONE, "delay_p99_ms"),
    ),
    at_most(
        "P8d",
        "CPU per event of a stream, etcd",
        figure(
            "fleet.streams",
            &[("connections", "1000")],
            "server_cpu_us_per_event",
        ),
        1.0,
        figure("etcd.watch", WATCH_ALONE, "server_cpu_us_per_event"),
    ),
    at_most(
        "P10a",
        "change to all durable acknowledgements, bare axum",
        fanout("all_acked_p50_ms"),
        1.5,
        axum("all_acked_p50_ms"),
    ),
    at_most(
        "P10b",
        "change to all durable acknowledgements, NATS KV",
        fanout("all_acked_p50_ms"),
        0.5,
        figure("fanout.nats_kv", ALL, "all_acked_p50_ms"),
    ),
    at_most(
        "P10c",
        "change to all durable acknowledgements, etcd",
        fanout("all_acked_p50_ms"),
        0.25,
        figure("fanout.etcd", ALL, "all_acked_p50_ms"),
    ),
    at_most(
        "P11",
        "server CPU per agent and change, bare axum",
        fanout("server_cpu_us_per_client_round"),
        2.0,
        axum("server_cpu_us_per_client_round"),
    ),
    at_most(
        "P12a",
        "memory per parked agent, bare axum",
        fanout("server_kib_per_client"),
        1.5,
        axum("server_kib_per_client"),
    ),
    at_most(
        "P12b",
        "memory per parked agent, NATS",
        fanout("server_kib_per_client"),
        0.5,
        figure("fanout.nats_kv", ALL, "server_kib_per_client"),
    ),
    Target {
        id: "P13a",
        what: "change to one waiting agent, p50: bare axum and 1.2 commits at rest",
        ours: figure("fleet.one", &[], "p50_ms"),
        want: Want::AtMost,
        against: Against::Sum(
            1.0,
            figure(
                "fanout.http",
                &[("clients", "1"), ("ack", "on next poll")],
                "body_p50_ms",
            ),
            1.2,
            figure("store.cas_txn", COMMITS_AT_REST, "p50_ms"),
        ),
    },
    Target {
        id: "P13b",
        what: "its p99, three times its p50",
        ours: figure("fleet.one", &[], "p99_ms"),
        want: Want::AtMost,
        against: Against::Times(3.0, figure("fleet.one", &[], "p50_ms")),
    },
    Target {
        id: "P19a",
        what: "all agents back once it listens, bare axum connecting and one round",
        ours: figure("fleet.restart", ALL, "after_listening_s"),
        want: Want::AtMost,
        // The round is told in milliseconds.
        against: Against::Sum(2.0, axum("connect_s"), 0.002, axum("all_acked_p50_ms")),
    },
    Target {
        id: "P19b",
        what: "times that one agent is refused",
        ours: figure("fleet.restart", ALL, "most_refused"),
        want: Want::AtMost,
        against: Against::Number(1.0),
    },
    Target {
        id: "P20",
        what: "CPU of idle agents at a poll of 60 s, percent of a core",
        ours: figure("fleet.idle", ALL, "cpu_percent_of_a_core"),
        want: Want::AtMost,
        against: Against::Number(1.0),
    },
];
