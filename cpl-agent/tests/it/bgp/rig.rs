//! Two network namespaces with a gobgpd each: the node's, which the driver talks to, and its
//! neighbour's, where routes are looked for. Needs the right to make namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cpl_core::clock::Clock as _;
use cpl_host::SystemClock;
use serde_json::Value;
use tempfile::TempDir;

/// The node's address and its neighbour's, on the wire between the namespaces.
pub(super) const NODE: &str = "10.213.0.1";
pub(super) const NEIGHBOUR: &str = "10.213.0.2";
/// Longest wait for a daemon and for a session, which gobgpd takes up to ten seconds for.
const PATIENCE: Duration = Duration::from_secs(40);

/// A network namespace, gone when dropped.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Self {
        let name = format!("cpl-{name}-{}", std::process::id());
        let namespace = Self(name);
        ip(&["netns", "add", &namespace.0]);
        namespace
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let removed = Command::new("ip").args(["netns", "del", &self.0]).status();
        assert!(removed.is_ok_and(|status| status.success()));
    }
}

/// A gobgpd in a namespace.
struct Daemon {
    namespace: String,
    socket: PathBuf,
    config: Option<PathBuf>,
    child: Option<Child>,
}

impl Daemon {
    fn start(&mut self) {
        let _gone = fs::remove_file(&self.socket);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, "gobgpd", "--api-hosts"]);
        command.arg(format!("unix://{}", self.socket.display()));
        if let Some(config) = &self.config {
            command.arg("-f").arg(config);
        }
        let quiet = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(quiet.spawn().unwrap());
    }

    /// SIGKILL: `ip netns exec` becomes the program, so this is the daemon's own process.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(super) struct Rig {
    // In this order: daemons end before their namespaces go.
    node: Daemon,
    neighbour: Daemon,
    _namespaces: [Namespace; 2],
    _folder: TempDir,
}

impl Rig {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let namespaces = [Namespace::new("node"), Namespace::new("tor")];
        let [node, neighbour] = &namespaces;
        let ends = ["eth0", "eth1"];
        ip(&[
            "link",
            "add",
            ends[0],
            "netns",
            &node.0,
            "type",
            "veth",
            "peer",
            "name",
            ends[1],
            "netns",
            &neighbour.0,
        ]);
        for (namespace, end, address) in [(node, ends[0], NODE), (neighbour, ends[1], NEIGHBOUR)] {
            ip(&[
                "-n",
                &namespace.0,
                "addr",
                "add",
                &format!("{address}/30"),
                "dev",
                end,
            ]);
            ip(&["-n", &namespace.0, "link", "set", end, "up"]);
            ip(&["-n", &namespace.0, "link", "set", "lo", "up"]);
        }
        let config = folder.path().join("neighbour.toml");
        fs::write(&config, neighbour_config()).unwrap();
        let daemon = |namespace: &Namespace, name: &str, config| Daemon {
            namespace: namespace.0.clone(),
            socket: folder.path().join(name),
            config,
            child: None,
        };
        let mut rig = Self {
            node: daemon(node, "node.sock", None),
            neighbour: daemon(neighbour, "neighbour.sock", Some(config)),
            _namespaces: namespaces,
            _folder: folder,
        };
        rig.node.start();
        rig.neighbour.start();
        rig.answers(&rig.neighbour.socket).await;
        rig.answers(&rig.node.socket).await;
        rig
    }

    pub(super) fn target(&self) -> String {
        format!("unix://{}", self.node.socket.display())
    }

    /// The routes that the neighbour has learnt.
    pub(super) fn routes(&self) -> Vec<String> {
        let table = gobgp(&self.neighbour.socket, &["global", "rib"]).unwrap();
        table
            .as_object()
            .into_iter()
            .flat_map(|table| table.keys().cloned())
            .collect()
    }

    /// Kills the node's daemon and starts it again, which forgets everything.
    pub(super) async fn restart(&mut self) {
        self.node.kill();
        self.node.start();
        self.answers(&self.node.socket).await;
    }

    /// How many neighbours the node's daemon has.
    pub(super) fn peers(&self) -> usize {
        let peers = gobgp(&self.node.socket, &["neighbor"]).unwrap();
        peers.as_array().map_or(0, Vec::len)
    }

    async fn answers(&self, socket: &Path) {
        until("gobgpd answers", || gobgp(socket, &["global"]).is_some()).await;
    }
}

/// Waits until it is so.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = SystemClock::new();
    let started = clock.monotonic();
    while !holds() {
        let waited = clock.monotonic().since(started);
        assert!(waited < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn neighbour_config() -> String {
    format!(
        "[global.config]\n  as = 65000\n  router-id = \"{NEIGHBOUR}\"\n\
         [[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{NODE}\"\n    peer-as = 65001\n  \
         [neighbors.timers.config]\n    connect-retry = 1\n    hold-time = 9\n    keepalive-interval = 3\n"
    )
}

fn gobgp(socket: &Path, words: &[&str]) -> Option<Value> {
    let target = format!("unix://{}", socket.display());
    let output = Command::new("gobgp")
        .args(["--target", &target, "-j"])
        .args(words)
        .output();
    let output = output.unwrap();
    output
        .status
        .success()
        .then(|| serde_json::from_slice(&output.stdout).unwrap())
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "this test makes network namespaces, which takes the right to: ip {}: {said}",
        words.join(" "),
    );
}
