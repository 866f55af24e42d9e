//! The server of the fleet: CPL's own, in a process of its own, with a store that was prepared.
//!
//! On standard output it says one JSON value per line: first where it listens, then the answer to each
//! line of standard input: `change`, `stats`.

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cpl_core::access::{NewToken, Scope};
use cpl_core::error::Error;
use cpl_core::lease::SessionTimes;
use cpl_core::spec::{Draft, Edit, Request, manifest};
use cpl_core::store::{Event, Range, Store, WatchItem};
use cpl_host::Host;
use cpl_server::cli::serve_config::{LogFormat, ServeConfig, StoreUrl};
use cpl_server::plane::{Plane, PlaneConfig};
use cpl_server::serve::Server;
use futures::StreamExt as _;
use futures::future::join_all;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::agents::{node_name, token};

/// Nodes and tokens that are made at once.
const AT_ONCE: usize = 128;
/// Endpoints of the target group that all nodes serve: a configuration of about 2 KiB, as the peers send.
const ENDPOINTS: u16 = 14;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Nodes, each with an agent's token.
    #[arg(long)]
    nodes: usize,
    /// Make the nodes first.
    #[arg(long)]
    prepare: bool,
    /// How long agents are kept waiting.
    #[arg(long, default_value_t = 60)]
    wait_s: u64,
}

/// Acknowledgements that are durable.
#[derive(Debug)]
struct Acknowledged {
    base: Instant,
    version: AtomicU64,
    changed_us: AtomicU64,
    count: AtomicU64,
    last_us: AtomicU64,
}

pub(crate) async fn run(arguments: Arguments) {
    let _logging = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .try_init();
    let config = ServeConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], arguments.port)),
        store: StoreUrl::Embedded(arguments.dir.join("cpl.redb")),
        store_password: None,
        session: SessionTimes::default(),
        data_dir: arguments.dir.clone(),
        tls: None,
        log_format: LogFormat::Text,
        log: "warn".to_owned(),
    };
    let wait = Duration::from_secs(arguments.wait_s);
    let plane = PlaneConfig {
        agent_wait: wait,
        agent_grace: wait * 3,
        ..PlaneConfig::default()
    };
    let server = Server::start(&config, plane, Host::new()).await.unwrap();
    if arguments.prepare {
        prepare(&server.plane, arguments.nodes).await;
    }
    let acknowledged = Arc::new(Acknowledged {
        base: Instant::now(),
        version: AtomicU64::new(u64::MAX),
        changed_us: AtomicU64::new(0),
        count: AtomicU64::new(0),
        last_us: AtomicU64::new(0),
    });
    let counting = count(Arc::clone(&server.plane.store), Arc::clone(&acknowledged));
    tokio::spawn(counting);
    say(&json!({"url": server.url(), "admin": server.admin_token, "pid": std::process::id()}));
    let (lines, mut read) = tokio::sync::mpsc::channel::<String>(8);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut weight = 1;
    while let Some(line) = read.recv().await {
        match line.as_str() {
            "change" => {
                weight = weight % 200 + 1;
                let before = acknowledged.base.elapsed();
                // Known before: an agent may acknowledge it before this task goes on.
                let head = server.plane.cache.read(|snapshot| snapshot.index.version());
                let next = head.next().0;
                acknowledged.count.store(0, Ordering::SeqCst);
                acknowledged
                    .changed_us
                    .store(micros(before), Ordering::SeqCst);
                acknowledged.version.store(next, Ordering::SeqCst);
                let version = apply(&server.plane, vec![group(weight)]).await;
                assert_eq!(version, next, "nobody else changes anything");
                say(&json!({"version": version}));
            },
            "stats" => say(&json!({
                "acked": acknowledged.count.load(Ordering::SeqCst),
                "last_us": acknowledged.last_us.load(Ordering::SeqCst),
                "waiting": server.plane.deliveries.waiting(),
            })),
            other => panic!("an unknown command: {other}"),
        }
    }
    server.stop().await;
}

fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}").unwrap();
    out.flush().unwrap();
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap()
}

fn group(weight: u16) -> Value {
    let endpoint = |n: u16| json!({"id": format!("endpoint-{n}"), "ip": "10.0.0.1", "port": 8_000 + n, "weight": weight});
    json!({
        "kind": "TargetGroup",
        "metadata": {"name": "web"},
        "spec": {"protocol": "tcp", "port": 80},
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    })
}

async fn apply(plane: &Plane, manifests: Vec<Value>) -> u64 {
    let host = Host::new();
    let edit: Edit = Box::new(move |kinds, _| {
        let read = |value: &Value| {
            manifest(kinds, value, "")
                .map(Draft::put)
                .map_err(Error::invalid)
        };
        manifests.iter().map(read).collect()
    });
    let request = Request {
        actor: "bench".to_owned(),
        id: format!("{:032x}", host.ids.fresh()),
        action: "apply",
        idempotency: None,
        deadline: plane.host.clock.monotonic().plus(Duration::from_mins(1)),
        edit,
    };
    plane
        .writer
        .submit(request)
        .await
        .unwrap()
        .version
        .unwrap()
        .0
}

/// The target group, the nodes that serve it, and a token for each node's agent.
async fn prepare(plane: &Plane, nodes: usize) {
    apply(plane, vec![group(1)]).await;
    let all: Vec<usize> = (0..nodes).collect();
    for part in all.chunks(AT_ONCE) {
        let manifest = |n: &usize| {
            json!({"kind": "Node", "metadata": {"name": node_name(*n)},
                   "spec": {"assigned_targetgroups": ["web"]}})
        };
        let applied = part
            .chunks(16)
            .map(|some| apply(plane, some.iter().map(manifest).collect()));
        join_all(applied).await;
        join_all(part.iter().map(|n| adopt(plane, *n))).await;
    }
}

async fn adopt(plane: &Plane, n: usize) {
    let node = node_name(n);
    let hash = hex::encode(Sha256::digest(token(n).as_bytes()));
    let new = NewToken {
        name: format!("agent-{node}"),
        scope: Scope::Agent { node },
        ttl: None,
        actor: "bench".to_owned(),
        request_id: format!("bench-{n}"),
    };
    let id = format!("{n:016x}");
    plane.tokens.adopt(&id, &hash, &new).await.unwrap();
}

/// Counts what the batches of reports say that are committed, which is when an acknowledgement is durable.
async fn count(store: Arc<dyn Store>, acknowledged: Arc<Acknowledged>) {
    let head = store.head().await.unwrap();
    let mut items = store
        .watch(Range::prefix("/cpl/reports/").unwrap(), head)
        .await
        .unwrap();
    while let Some(item) = items.next().await {
        let WatchItem::Events { events, .. } = item else {
            continue;
        };
        for event in events {
            let Event::Put { entry, .. } = event else {
                continue;
            };
            let text = String::from_utf8_lossy(&entry.value);
            let wanted = format!(
                "\"accepted\":{},",
                acknowledged.version.load(Ordering::SeqCst)
            );
            let found = text.matches(&wanted).count() as u64;
            if found > 0 {
                let now = micros(acknowledged.base.elapsed());
                let since = now - acknowledged.changed_us.load(Ordering::SeqCst);
                acknowledged.last_us.store(since, Ordering::SeqCst);
                acknowledged.count.fetch_add(found, Ordering::SeqCst);
            }
        }
    }
}
