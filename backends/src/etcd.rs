//! One etcd.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command};

use crate::{free_port, spawn, wait_until};

/// An etcd of one member, Debian's package `etcd-server`.
#[derive(Debug)]
pub struct Etcd {
    server: Option<Child>,
    dir: tempfile::TempDir,
    /// Where clients find it.
    pub port: u16,
    peer: u16,
}

impl Etcd {
    /// Starts one that is empty, and waits until it listens.
    pub fn start() -> Self {
        let mut etcd = Self {
            server: None,
            dir: tempfile::tempdir().unwrap(),
            port: free_port(),
            peer: free_port(),
        };
        etcd.serve();
        etcd
    }

    /// Starts the server on what is in the folder, and waits until it listens.
    pub fn serve(&mut self) {
        let path = self.dir.path().join("log");
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (client, peer) = (url(self.port), url(self.peer));
        let mut command = Command::new("etcd");
        command
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
            .args(["--initial-cluster", &format!("default={peer}")]);
        let server = spawn(&mut command, &path);
        self.server = Some(server.expect("etcd is installed (the Debian package etcd-server)"));
        let port = self.port;
        wait_until(
            || TcpStream::connect(("127.0.0.1", port)).is_ok(),
            || {
                format!(
                    "etcd does not start: {}",
                    fs::read_to_string(path).unwrap_or_default()
                )
            },
        );
    }

    /// Its process.
    ///
    /// # Panics
    /// When it was killed.
    pub(crate) fn process(&self) -> u32 {
        self.server.as_ref().expect("etcd runs").id()
    }

    /// A URL for `--store`.
    pub fn url(&self, prefix: &str) -> String {
        format!("etcd://127.0.0.1:{}/{prefix}", self.port)
    }

    /// Ends the server with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
