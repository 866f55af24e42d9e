//! What Prometheus scrapes.

use std::time::Duration;

use axum::http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the request durations, in seconds.
const BUCKETS: [f64; 9] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    convergence: &'static str,
}

/// The metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Histogram,
    version: Gauge,
    objects: Gauge,
    nodes: Family<NodeLabels, Gauge>,
    takes_writes: Gauge,
    agents_waiting: Gauge,
}

/// What the control plane is in, at the moment of a scrape.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) version: u64,
    pub(super) objects: usize,
    pub(super) nodes: Vec<(&'static str, usize)>,
    pub(super) takes_writes: bool,
    pub(super) agents_waiting: usize,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let requests = Family::default();
        let seconds = Histogram::new(BUCKETS);
        let (version, objects, nodes) = (Gauge::default(), Gauge::default(), Family::default());
        let mut registry = Registry::with_prefix("cpl");
        registry.register(
            "http_requests",
            "Requests answered",
            Clone::clone(&requests),
        );
        registry.register(
            "http_request_duration_seconds",
            "Time until requests were answered, waiting of agents included",
            Clone::clone(&seconds),
        );
        registry.register(
            "global_version",
            "Newest version of the specs",
            Clone::clone(&version),
        );
        registry.register("objects", "Objects of all kinds", Clone::clone(&objects));
        registry.register(
            "nodes",
            "Nodes by how they stand to their specs",
            Clone::clone(&nodes),
        );
        let takes_writes = Gauge::default();
        registry.register(
            "store_takes_writes",
            "1, or 0 while the store refuses writes",
            Clone::clone(&takes_writes),
        );
        let agents_waiting = Gauge::default();
        registry.register(
            "agents_waiting",
            "Agents that wait at this server for something to do",
            Clone::clone(&agents_waiting),
        );
        Self {
            registry,
            requests,
            seconds,
            version,
            objects,
            nodes,
            takes_writes,
            agents_waiting,
        }
    }

    pub(super) fn answered(&self, method: &Method, route: &str, status: u16, took: Duration) {
        let (method, route) = (method.to_string(), route.to_owned());
        self.requests
            .get_or_create(&RequestLabels {
                method,
                route,
                status,
            })
            .inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// The text of a scrape.
    pub(super) fn text(&self, reading: &Reading) -> String {
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.version
            .set(i64::try_from(reading.version).unwrap_or(i64::MAX));
        self.objects.set(gauge(reading.objects));
        self.takes_writes.set(i64::from(reading.takes_writes));
        self.agents_waiting.set(gauge(reading.agents_waiting));
        for (convergence, number) in &reading.nodes {
            self.nodes
                .get_or_create(&NodeLabels { convergence })
                .set(gauge(*number));
        }
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _infallible = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
