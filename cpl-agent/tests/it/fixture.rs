//! Sites (directories, addresses and what runs there) and configurations for them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cpl_agent::driver::{ApplyError, Label, Rejection};
use cpl_agent::drivers::lb::{HaproxyConfig, HaproxyDriver, RenderConfig, RenderDriver};
use cpl_core::clock::Clock;
use cpl_core::delivery::Configuration;
use cpl_core::fields::Span;
use cpl_core::ids::Uid;
use cpl_core::store::Incarnation;
use cpl_core::version::{ConfigVersion, Generation};
use cpl_host::SystemClock;
use cpl_lb::plan::{TargetGroup, TargetGroupBody, render};
use cpl_lb::spec::{
    Algorithm, Endpoint, EndpointStatus, HealthCheck, NodeSpec, Protocol, TargetGroupSpec,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Where Debian puts it.
const HAPROXY: &str = "/usr/sbin/haproxy";

/// A place for one data plane, with an address of its own; what runs there ends with it.
#[derive(Debug)]
pub(crate) struct Site {
    folder: TempDir,
    pub(crate) ip: IpAddr,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Site {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(2);
        let next = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        // Other test processes may run at the same time.
        let process = std::process::id().to_be_bytes();
        Self {
            folder: tempfile::tempdir().unwrap(),
            ip: Ipv4Addr::new(127, process[2].max(1), process[3], next[3]).into(),
            clock: Arc::new(SystemClock::new()),
        }
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn haproxy(&self) -> HaproxyDriver {
        self.haproxy_with(Arc::clone(&self.clock))
    }

    pub(crate) fn haproxy_with(&self, clock: Arc<dyn Clock>) -> HaproxyDriver {
        let config = HaproxyConfig {
            state_dir: self.state(),
            runtime_dir: self.runtime(),
            binary: HAPROXY.into(),
        };
        HaproxyDriver::new(config, clock).unwrap()
    }

    pub(crate) fn render(&self, binary: &str) -> RenderDriver {
        let config = RenderConfig {
            state_dir: self.state(),
            binary: binary.into(),
        };
        RenderDriver::new(config, Arc::clone(&self.clock)).unwrap()
    }

    /// An address of this site that nobody listens on.
    pub(crate) fn free(&self) -> SocketAddr {
        let listener = std::net::TcpListener::bind((self.ip, 0)).unwrap();
        listener.local_addr().unwrap()
    }

    pub(crate) fn node(&self) -> NodeSpec {
        NodeSpec {
            listen_addresses: vec![self.ip],
            ..NodeSpec::default()
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let Ok(pid) = std::fs::read_to_string(self.runtime().join("haproxy.pid")) else {
            return;
        };
        let command = std::fs::read(Path::new("/proc").join(pid.trim()).join("cmdline"));
        let command = String::from_utf8_lossy(&command.unwrap_or_default()).into_owned();
        let ours = command.contains(&*self.folder.path().to_string_lossy());
        if let (true, Ok(pid)) = (ours, pid.trim().parse()) {
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM);
        }
    }
}

pub(crate) fn endpoint(id: &str, address: SocketAddr) -> Endpoint {
    Endpoint {
        id: id.to_owned(),
        ip: address.ip(),
        port: address.port(),
        weight: 10,
        status: EndpointStatus::Up,
    }
}

/// A target group whose health is known after a fraction of a second.
pub(crate) fn targetgroup(name: &str, port: u16, endpoints: Vec<Endpoint>) -> TargetGroup {
    let health_check = HealthCheck {
        interval: Span::from_millis(100),
        timeout: Span::from_millis(500),
        ..HealthCheck::default()
    };
    TargetGroup {
        name: name.to_owned(),
        uid: Uid(7),
        generation: Generation(1),
        body: TargetGroupBody {
            spec: TargetGroupSpec {
                protocol: Protocol::Tcp,
                port,
                algorithm: Algorithm::Roundrobin,
                health_check,
                deregistration_delay: Span::from_millis(300_000),
                idle_timeout: Span::from_millis(60_000),
            },
            endpoints,
        },
    }
}

/// What a node must run that serves all of these.
pub(crate) fn configuration(node: &NodeSpec, targetgroups: &[TargetGroup]) -> Configuration {
    let names = targetgroups.iter().map(|tg| tg.name.clone()).collect();
    let node = NodeSpec {
        assigned_targetgroups: names,
        ..node.clone()
    };
    render(&node, targetgroups)
}

pub(crate) fn label(version: u64, configuration: &Configuration) -> Label {
    Label {
        incarnation: Incarnation(1),
        version: ConfigVersion(version),
        digest: configuration.digest(),
    }
}

/// The rejections that an error must consist of.
#[track_caller]
pub(crate) fn rejections<T: std::fmt::Debug>(result: Result<T, ApplyError>) -> Vec<Rejection> {
    match result {
        Err(ApplyError::Rejected(rejections)) => rejections,
        Err(ApplyError::Unavailable(unavailable)) => panic!("unavailable: {unavailable:?}"),
        Ok(applied) => panic!("applied: {applied:?}"),
    }
}

/// The processes of a HAProxy, as its master lists them: `(pid, "master" or "worker", reloads)`.
pub(crate) fn processes(site: &Site) -> Vec<(u32, String, u32)> {
    let mut stream = UnixStream::connect(site.runtime().join("master.sock")).unwrap();
    stream.write_all(b"show proc;quit\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let rows = answer.lines().filter(|line| !line.starts_with('#'));
    let rows = rows.map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 2)
        .map(|row| {
            (
                row[0].parse().unwrap(),
                row[1].to_owned(),
                row[2].parse().unwrap(),
            )
        })
        .collect()
}

/// Sends a command behind the driver's back.
pub(crate) fn meddle(site: &Site, command: &str) -> String {
    let mut stream = UnixStream::connect(site.runtime().join("worker.sock")).unwrap();
    stream.write_all(command.as_bytes()).unwrap();
    stream.write_all(b"\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
