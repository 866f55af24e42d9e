//! What `cpl dev` applies and what it tells. Pure.

use std::fmt::Write as _;

use cpl_api::object::{Convergence, NodeStatus};
use serde_json::{Value, json};

use super::apps::{APP_PORT, APPS};

/// The port that nodes serve the demo on.
pub(super) const WEB_PORT: u16 = 8000;

/// The address of a node; several HAProxy on one host must never share one silently.
pub(super) fn node_address(number: u8) -> String {
    format!("127.0.0.{}", 10 + u16::from(number))
}

/// The name of a node.
pub(super) fn node_name(number: u8) -> String {
    format!("node-{number}")
}

/// The demo as text for people to change and apply again, and as manifests.
pub(super) fn manifests(nodes: u8) -> (String, Vec<Value>) {
    let mut text = format!(
        "# The demo of `cpl dev`: one target group on every node. Change it and apply it again.\n\
         kind: TargetGroup\nmetadata:\n  name: web\nspec:\n  protocol: tcp\n  port: {WEB_PORT}\n  \
         health_check:\n    kind: http\n    path: /\n    interval: 1s\n    timeout: 500ms\n  \
         deregistration_delay: 10s\nendpoints:\n"
    );
    let mut endpoints = Vec::new();
    for (number, ip) in APPS.iter().enumerate() {
        let id = format!("app-{}", number + 1);
        let _infallible = writeln!(
            text,
            "  - {{id: {id}, ip: {ip}, port: {APP_PORT}, weight: 1}}"
        );
        endpoints.push(json!({"id": id, "ip": ip, "port": APP_PORT, "weight": 1}));
    }
    let check = json!({"kind": "http", "path": "/", "interval": "1s", "timeout": "500ms"});
    let mut manifests = vec![json!({
        "kind": "TargetGroup",
        "metadata": {"name": "web"},
        "spec": {
            "protocol": "tcp",
            "port": WEB_PORT,
            "health_check": check,
            "deregistration_delay": "10s",
        },
        "endpoints": endpoints,
    })];
    for number in 1..=nodes {
        let (name, address) = (node_name(number), node_address(number));
        let _infallible = write!(
            text,
            "---\nkind: Node\nmetadata:\n  name: {name}\nspec:\n  listen_addresses: [{address}]\n  \
             assigned_targetgroups: [web]\n"
        );
        manifests.push(json!({
            "kind": "Node",
            "metadata": {"name": name},
            "spec": {"listen_addresses": [address], "assigned_targetgroups": ["web"]},
        }));
    }
    (text, manifests)
}

/// What is told once everything runs.
pub(super) struct Told<'a> {
    pub(super) nodes: &'a [(String, NodeStatus)],
    pub(super) url: &'a str,
    pub(super) token: &'a str,
    pub(super) manifest: &'a str,
    pub(super) program: &'a str,
    pub(super) traffic: bool,
}

impl Told<'_> {
    pub(super) fn text(&self) -> String {
        let mut text = String::from("\nNODE       STATE        VERSION  DATA PLANE\n");
        for (name, status) in self.nodes {
            let state = convergence(status.convergence);
            let plane = if status.carries_traffic {
                status.driver.clone().unwrap_or_default()
            } else {
                "render: files only, no traffic".to_owned()
            };
            let version = status.current_config_version;
            let _infallible = writeln!(text, "{name:<10} {state:<12} {version:<8} {plane}");
        }
        let address = node_address(1);
        let traffic = if self.traffic {
            format!("Traffic:    curl http://{address}:{WEB_PORT}/")
        } else {
            "Traffic:    none: there is no data plane, the agents only write files".to_owned()
        };
        let Self {
            url,
            token,
            manifest,
            program,
            ..
        } = self;
        let _infallible = write!(
            text,
            "\n{traffic}\nAPI:        {url}\nToken:      {token}\nManifest:   {manifest}\n\n\
             Try next, in another terminal:\n  \
             export CPL_SERVER={url} CPL_TOKEN_FILE={token}\n  \
             {program} get nodes\n  \
             {program} endpoint set web --id app-1 --status DRAIN\n  \
             {program} history tg web\n\n\
             Ctrl-C ends everything.\n"
        );
        text
    }
}

const fn convergence(convergence: Convergence) -> &'static str {
    match convergence {
        Convergence::Converged => "converged",
        Convergence::Pending => "pending",
        Convergence::Held => "held",
        Convergence::Silent => "silent",
        Convergence::NeverSeen => "never seen",
    }
}
