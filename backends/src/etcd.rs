//! An etcd of one member or of several.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use crate::{Certificate, free_port, spawn, wait_until};

/// How long a member may take to say whether it leads.
const ANSWER: Duration = Duration::from_secs(2);

/// An etcd on loopback, of Debian's package `etcd-server`.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    /// More of their command line.
    settings: Vec<String>,
    dir: tempfile::TempDir,
}

#[derive(Debug)]
struct Member {
    server: Option<Child>,
    port: u16,
    peer: u16,
    metrics: u16,
}

impl Etcd {
    /// Starts one member that is empty, and waits until it listens.
    pub fn start() -> Self {
        Self::start_members(1)
    }

    /// Starts one with settings, such as `--quota-backend-bytes=8388608`.
    pub fn start_with(settings: &[&str]) -> Self {
        Self::start_all(1, settings)
    }

    /// Starts one that speaks TLS to its clients.
    pub fn start_with_tls(certificate: &Certificate) -> Self {
        let file = |path: PathBuf| path.display().to_string();
        let (cert, key) = (file(certificate.cert()), file(certificate.key()));
        Self::start_with(&["--cert-file", &cert, "--key-file", &key])
    }

    /// Starts as many members, and waits until they listen and one of them leads.
    pub fn start_members(count: usize) -> Self {
        Self::start_all(count, &[])
    }

    fn start_all(count: usize, settings: &[&str]) -> Self {
        let member = || Member {
            server: None,
            port: free_port(),
            peer: free_port(),
            metrics: free_port(),
        };
        let mut etcd = Self {
            members: std::iter::repeat_with(member).take(count).collect(),
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            dir: tempfile::tempdir().unwrap(),
        };
        etcd.serve();
        wait_until(
            || etcd.leader().is_some(),
            || "no member of etcd leads".to_owned(),
        );
        etcd
    }

    /// Where clients find the first member.
    ///
    /// # Panics
    /// Never: there is one.
    pub fn port(&self) -> u16 {
        self.members[0].port
    }

    /// Where clients find each member.
    pub fn ports(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.port).collect()
    }

    /// A URL for `--store`.
    pub fn url(&self, prefix: &str) -> String {
        let hosts: Vec<String> = self.members.iter().map(Member::host).collect();
        format!("etcd://{}/{prefix}", hosts.join(","))
    }

    /// Starts the members that do not run on what is in their folders, and waits until they listen.
    pub fn serve(&mut self) {
        for at in 0..self.members.len() {
            self.serve_member(at);
        }
        for member in &self.members {
            let path = self.dir.path().join("log");
            wait_until(
                || TcpStream::connect(("127.0.0.1", member.port)).is_ok(),
                || {
                    let log = fs::read_to_string(path).unwrap_or_default();
                    format!("etcd does not start: {log}")
                },
            );
        }
    }

    fn serve_member(&mut self, at: usize) {
        let name = |at: usize| format!("m{at}");
        let cluster: Vec<String> = (0..self.members.len())
            .map(|at| format!("{}=http://127.0.0.1:{}", name(at), self.members[at].peer))
            .collect();
        let dir: &Path = self.dir.path();
        let (log, data) = (dir.join("log"), dir.join(name(at)));
        let member = &mut self.members[at];
        if member.server.is_some() {
            return;
        }
        let secure = self.settings.iter().any(|setting| setting == "--cert-file");
        let client = if secure { "https" } else { "http" };
        let client = format!("{client}://127.0.0.1:{}", member.port);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (peer, metrics) = (url(member.peer), url(member.metrics));
        let mut command = Command::new("etcd");
        command
            .args(["--name", &name(at), "--data-dir"])
            .arg(data)
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--listen-metrics-urls", &metrics])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(&self.settings);
        let server = spawn(&mut command, &log);
        member.server = Some(server.expect("etcd is installed (the Debian package etcd-server)"));
    }

    /// The member that leads, if one says so.
    pub(crate) fn leader(&self) -> Option<usize> {
        self.members.iter().position(Member::leads)
    }

    /// The process of a member.
    ///
    /// # Panics
    /// When it was killed.
    pub(crate) fn process(&self, member: usize) -> u32 {
        let server = self.members[member].server.as_ref();
        server.expect("etcd runs").id()
    }

    /// Ends all members with SIGKILL.
    pub fn kill(&mut self) {
        for at in 0..self.members.len() {
            self.kill_member(at);
        }
    }

    pub(crate) fn kill_member(&mut self, at: usize) {
        if let Some(mut server) = self.members[at].server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }
}

impl Member {
    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Whether its metrics say that it leads; a member that is away does not.
    fn leads(&self) -> bool {
        let asked = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.metrics))?;
            stream.set_read_timeout(Some(ANSWER))?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        asked().is_ok_and(|text| text.contains("\netcd_server_is_leader 1"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
