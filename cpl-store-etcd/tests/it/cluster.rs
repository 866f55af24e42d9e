//! An etcd of a test's own: in a temporary folder, on free ports.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cpl_host::Host;
use cpl_store_etcd::{EtcdConfig, EtcdStore};

/// How often and how long to wait for a server to listen: a minute at most.
const LOOKS: usize = 1_200;
const LOOK: Duration = Duration::from_millis(50);

pub(crate) struct Cluster {
    server: Option<Child>,
    dir: tempfile::TempDir,
    pub(crate) port: u16,
    peer: u16,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let mut cluster = Self {
            server: None,
            dir: tempfile::tempdir().unwrap(),
            port: free_port(),
            peer: free_port(),
        };
        cluster.serve();
        cluster
    }

    /// Starts the server on what is in the folder, and waits until it listens.
    pub(crate) fn serve(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let (client, peer) = (
            format!("http://127.0.0.1:{}", self.port),
            format!("http://127.0.0.1:{}", self.peer),
        );
        let server = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("etcd is installed (the Debian package etcd-server)");
        self.server = Some(server);
        for _ in 0..LOOKS {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(LOOK);
        }
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        panic!("etcd does not start: {log}");
    }

    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("etcd://127.0.0.1:{}/{prefix}", self.port)
    }

    pub(crate) async fn open(&self, prefix: &str) -> Arc<EtcdStore> {
        let Host {
            clock,
            ids,
            spawner,
        } = Host::new();
        let config = EtcdConfig::parse(&self.url(prefix)).unwrap();
        let store = EtcdStore::open(&config, clock, &*ids, &*spawner).await;
        Arc::new(store.unwrap())
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}
