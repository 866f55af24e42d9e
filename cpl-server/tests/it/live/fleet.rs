//! A fleet on this machine: everything on addresses of its own, in a temporary folder, ended by
//! process id.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::{Harness, manifests, node};

/// How long a fleet may take to come to what it should run.
const PATIENCE: Duration = Duration::from_secs(40);

pub(super) struct Fleet {
    pub(super) cpl: Harness,
    /// The second and third number of every address of this fleet, so that fleets do not meet.
    net: u8,
    agents: Vec<Agent>,
    servers: Vec<JoinHandle<()>>,
    pub(super) web_port: u16,
}

pub(super) struct Agent {
    pub(super) name: String,
    dir: PathBuf,
    child: Option<Child>,
}

impl Fleet {
    /// A server, `nodes` agents with a HAProxy each, and nothing to serve yet.
    pub(super) async fn start(net: u8, nodes: u8) -> Self {
        Self::start_for(Harness::start().await, net, nodes).await
    }

    /// The same for a server that is there.
    pub(super) async fn start_for(cpl: Harness, net: u8, nodes: u8) -> Self {
        let web_port = free_port(node_ip(net, 1));
        let mut fleet = Self {
            cpl,
            net,
            agents: Vec::new(),
            servers: Vec::new(),
            web_port,
        };
        for number in 1..=nodes {
            let name = format!("node-{number}");
            let wanted = node(&name, &node_ip(net, number).to_string(), &[]);
            fleet.apply(&[wanted]).await;
            let join = format!("/v1/nodes/{name}:join");
            let (status, token) = fleet.cpl.post(&join, &json!({}), &[]).await;
            assert_eq!(status, 201);
            let dir = fleet.cpl.dir.path().join(&name);
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("join.token"), token["secret"].as_str().unwrap()).unwrap();
            write_wrapper(&dir);
            fleet.agents.push(Agent {
                name,
                dir,
                child: None,
            });
            fleet.start_agent(number);
        }
        fleet.converged().await;
        fleet
    }

    pub(super) fn address(&self, number: u8) -> SocketAddr {
        SocketAddr::new(node_ip(self.net, number), self.web_port)
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        (1..=u8::try_from(self.agents.len()).unwrap())
            .map(|n| self.address(n))
            .collect()
    }

    fn agent(&mut self, number: u8) -> &mut Agent {
        &mut self.agents[usize::from(number) - 1]
    }

    pub(super) fn start_agent(&mut self, number: u8) {
        let url = self.cpl.server.url();
        let agent = self.agent(number);
        let haproxy = agent.dir.join("haproxy");
        let child = agent_command(&agent.name, &url, &agent.dir)
            .args(["--driver", "haproxy", "--haproxy"])
            .arg(haproxy)
            .arg("--stop-data-plane-on-exit")
            .spawn()
            .unwrap();
        agent.child = Some(child);
    }

    /// SIGKILL: the agent has no time to say or do anything.
    pub(super) fn kill_agent(&mut self, number: u8) {
        let mut child = self.agent(number).child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// From now on HAProxy of this node takes two seconds to check a configuration.
    pub(super) fn slow_checks(&mut self, number: u8, slow: bool) {
        let marker = self.agent(number).dir.join("slow");
        if slow {
            std::fs::write(marker, "").unwrap();
        } else {
            std::fs::remove_file(marker).unwrap();
        }
    }

    /// What the HAProxy master of a node says of its processes.
    pub(super) fn processes(&mut self, number: u8) -> Processes {
        let socket = self.agent(number).dir.join("run").join("master.sock");
        Processes::of(&socket)
    }

    /// An application that says its name, on an address of its own.
    pub(super) async fn serve(&mut self, name: &'static str, number: u8) -> Value {
        let ip = IpAddr::from([127, 0, self.net, 100 + number]);
        let listener = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(any(move || std::future::ready(name)));
        let serving = async move { axum::serve(listener, router).await.unwrap() };
        self.servers.push(tokio::spawn(serving));
        json!({"id": name, "ip": ip, "port": port, "weight": 1, "status": "UP"})
    }

    /// The target group `web` with these endpoints.
    pub(super) fn web(&self, endpoints: &[Value]) -> Value {
        json!({
            "kind": "TargetGroup",
            "metadata": {"name": "web"},
            "spec": {
                "protocol": "tcp",
                "port": self.web_port,
                "health_check": {"interval": "500ms", "timeout": "400ms"},
                "deregistration_delay": "20s",
            },
            "endpoints": endpoints,
        })
    }

    /// Node `number` with these target groups.
    pub(super) fn node(&self, number: u8, targetgroups: &[&str]) -> Value {
        let ip = node_ip(self.net, number).to_string();
        node(&format!("node-{number}"), &ip, targetgroups)
    }

    pub(super) async fn apply(&self, objects: &[Value]) -> Value {
        let (status, answer) = self.cpl.post("/v1/apply", &manifests(objects), &[]).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    pub(super) async fn status(&self, number: u8) -> Value {
        self.cpl.get(&format!("/v1/nodes/node-{number}")).await.1["status"].clone()
    }

    /// Waits until every node runs what it should.
    pub(super) async fn converged(&self) {
        for number in 1..=u8::try_from(self.agents.len()).unwrap() {
            self.until(number, "converged").await;
        }
    }

    /// Waits until a node stands like this.
    pub(super) async fn until(&self, number: u8, convergence: &str) {
        let mut waited = Duration::ZERO;
        loop {
            let status = self.status(number).await;
            if status["convergence"] == convergence {
                return;
            }
            if waited > PATIENCE {
                let why = self
                    .cpl
                    .get(&format!("/v1/nodes/node-{number}:why"))
                    .await
                    .1;
                let log = std::fs::read_to_string(
                    self.agents[usize::from(number) - 1].dir.join("agent.log"),
                );
                panic!(
                    "node-{number} is not {convergence}: {status}\n{why}\n{}",
                    log.unwrap()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            waited += Duration::from_millis(50);
        }
    }

    /// Runs the command as a person would.
    pub(super) async fn command(&self, arguments: &[&str]) -> Output {
        let url = self.cpl.server.url();
        let token = self.cpl.server.admin_token.clone();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let home = self.cpl.dir.path().to_owned();
        let run = move || {
            Command::new(env!("CARGO_BIN_EXE_cpl"))
                .args(arguments)
                .env("CPL_SERVER", url)
                .env("CPL_TOKEN_FILE", token)
                .env("HOME", home)
                .stdin(Stdio::null())
                .output()
                .unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// Ends everything: agents end their HAProxy, and what does not end is killed.
    pub(super) async fn stop(mut self) {
        for agent in &mut self.agents {
            if let Some(child) = &mut agent.child {
                drop(child.stdin.take());
            }
        }
        for agent in &mut self.agents {
            if let Some(mut child) = agent.child.take() {
                tokio::task::spawn_blocking(move || child.wait())
                    .await
                    .unwrap()
                    .unwrap();
            }
        }
        for server in &self.servers {
            server.abort();
        }
        self.cpl.server.stop().await;
    }
}

impl Drop for Agent {
    /// A test that failed must leave nothing behind: without its stdin the agent ends, and HAProxy
    /// with it.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            if let Err(error) = child.wait() {
                panic!("an agent cannot be waited for: {error}");
            }
        }
    }
}

/// An agent that keeps everything in `dir`, finds its join token there, appends its log to a file
/// there, and ends when its stdin does.
pub(crate) fn agent_command(name: &str, server: &str, dir: &Path) -> Command {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("agent.log"))
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cpl"));
    command
        .args(["agent", "--node", name, "--server", server, "--state-dir"])
        .arg(dir.join("state"))
        .arg("--runtime-dir")
        .arg(dir.join("run"))
        .arg("--join-token-file")
        .arg(dir.join("join.token"))
        .arg("--exit-with-stdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log);
    command
}

/// What runs of one HAProxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Processes {
    pub(super) master: u32,
    pub(super) reloads: u32,
    pub(super) worker: u32,
}

impl Processes {
    /// What the master behind this socket says.
    pub(crate) fn of(socket: &Path) -> Self {
        use std::io::{Read, Write};
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(b"show proc\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = |kind: &str| {
            let found = text
                .lines()
                .find(|line| line.split_whitespace().nth(1) == Some(kind));
            found
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let (master, worker) = (line("master"), line("worker"));
        Self {
            master: master[0].parse().unwrap(),
            reloads: master[2].parse().unwrap(),
            worker: worker[0].parse().unwrap(),
        }
    }
}

fn node_ip(net: u8, number: u8) -> IpAddr {
    IpAddr::from([127, 0, net, 10 + number])
}

/// A port that nothing listens on, on this address.
pub(crate) fn free_port(ip: IpAddr) -> u16 {
    TcpListener::bind((ip, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// HAProxy behind a script that can make its checks slow.
fn write_wrapper(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let marker = dir.join("slow");
    let script = format!(
        "#!/bin/sh\nfor word in \"$@\"; do\n  if [ \"$word\" = -c ] && [ -e '{}' ]; then sleep 2; \
         fi\ndone\nexec /usr/sbin/haproxy \"$@\"\n",
        marker.display()
    );
    let path = dir.join("haproxy");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
