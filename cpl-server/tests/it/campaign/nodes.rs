//! Three agents that follow: two write files, one runs HAProxy.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use cpl_host::Host;
use serde_json::{Value, json};

use crate::harness::{manifests, node};
use crate::live::fleet::{Processes, agent_command};
use crate::live::process::Client;

/// When a node that has not converged is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a campaign takes place, and what it asks for.
pub(super) struct Place<'a> {
    pub(super) dir: &'a Path,
    /// The third number of the addresses of its nodes, so that campaigns do not meet.
    pub(super) net: u8,
    pub(super) converge: Duration,
}

pub(super) struct Node {
    pub(super) name: String,
    dir: PathBuf,
    child: Child,
}

impl Node {
    /// A node that serves these target groups, and its agent.
    pub(super) async fn start(
        client: &Client,
        servers: &str,
        place: &Place<'_>,
        number: u8,
        groups: &[&str],
    ) -> Self {
        let name = format!("node-{number}");
        let dir = place.dir.join(&name);
        std::fs::create_dir(&dir).unwrap();
        let address = IpAddr::from([127, 0, place.net, 10 + number]).to_string();
        let wanted = manifests(&[node(&name, &address, groups)]);
        let headers = [("x-request-id", &*format!("setup-{name}.1"))];
        let (status, answer) = client.post("/v1/apply", &wanted, &headers).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        let join = format!("/v1/nodes/{name}:join");
        let (status, token) = client.post(&join, &json!({}), &[]).await.unwrap();
        assert_eq!(status, 201, "{token}");
        std::fs::write(dir.join("join.token"), token["secret"].as_str().unwrap()).unwrap();
        let mut command = agent_command(&name, servers, &dir);
        let child = match number {
            1 => command.args(["--driver", "haproxy", "--stop-data-plane-on-exit"]),
            _ => command.args(["--driver", "render"]),
        };
        let child = child.spawn().unwrap();
        Self { name, dir, child }
    }

    /// Waits until the node runs what it should.
    pub(super) async fn converged(&self, client: &Client, version: u64) {
        let clock = Host::new().clock;
        let started = clock.monotonic();
        loop {
            let (_, object) = client
                .get(&format!("/v1/nodes/{}", self.name))
                .await
                .unwrap();
            let status = &object["status"];
            let current = status["current_config_version"].as_u64().unwrap_or(0);
            assert!(
                current <= version,
                "{} runs {current}, which is not there",
                self.name
            );
            let desired = status["desired_config_version"].as_u64();
            if status["convergence"] == "converged" && Some(current) >= desired {
                return;
            }
            if clock.monotonic().since(started) > PATIENCE {
                let log = std::fs::read_to_string(self.dir.join("agent.log")).unwrap();
                panic!("{} does not converge: {status}\n{log}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The agent's process; it must still run.
    pub(super) fn id(&self) -> u32 {
        let id = self.child.id();
        assert!(Path::new(&format!("/proc/{id}/cwd")).exists(), "it runs");
        id
    }

    /// HAProxy's processes, of the node that runs it.
    pub(super) fn processes(&self) -> Processes {
        Processes::of(&self.dir.join("run/master.sock"))
    }

    /// What the data plane was told of a target group: the line of its endpoint.
    pub(super) fn endpoint(&self, group: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.dir.join("state/data-plane/haproxy.cfg")).unwrap();
        let section = text
            .split("\nbackend be_")
            .find(|part| part.lines().next() == Some(group))?;
        section
            .lines()
            .find(|line| line.trim_start().starts_with("server "))
            .map(str::to_owned)
    }
}

impl Drop for Node {
    /// Without its stdin the agent ends, and HAProxy with it.
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if let Err(error) = self.child.wait() {
            panic!("an agent cannot be waited for: {error}");
        }
    }
}

/// All pages of a list.
pub(super) async fn pages(client: &Client, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut token = String::new();
    loop {
        let target = format!("{path}?page_size=1000{token}");
        let (status, page) = client.get(&target).await.unwrap();
        assert_eq!(status, 200, "{page}");
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => return items,
        }
    }
}
