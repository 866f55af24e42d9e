//! Three servers on one store, a random one of which is killed, again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use cpl_backends::{Etcd, Postgres};
use tokio::sync::watch;

use super::kills::run_all;
use super::nodes::{Place, pages};
use super::output::figures;
use crate::live::process::{Client, Serve};

/// How long sessions last here.
const TTL: Duration = Duration::from_secs(2);
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Asks every server, over and over, what each node must run and how it stands.
async fn look(clients: Vec<Client>, stop: watch::Receiver<bool>) -> usize {
    let mut told: BTreeMap<(&str, u64), String> = BTreeMap::new();
    let mut looks = 0;
    while !*stop.borrow() {
        for (client, node) in clients.iter().flat_map(|c| NODES.map(|node| (c, node))) {
            let path = format!("/v1/nodes/{node}/configuration");
            if let Some((200, answer)) = client.get(&path).await {
                let version = answer["version"].as_u64().unwrap();
                let digest = answer["digest"].as_str().unwrap().to_owned();
                let before = told
                    .entry((node, version))
                    .or_insert_with(|| digest.clone());
                assert_eq!(*before, digest, "{node} at version {version}");
                looks += 1;
            }
            if let Some((200, object)) = client.get(&format!("/v1/nodes/{node}")).await {
                let status = &object["status"];
                assert_ne!(status["convergence"], "silent", "{node}: {status}");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(told.len() > NODES.len(), "something changed: {told:?}");
    looks
}

async fn three_on(net: u8, store: &str) {
    let dir = tempfile::tempdir().unwrap();
    let serves: Vec<Serve> = (1..=3)
        .map(|n| Serve::on(&dir.path().join(format!("data-{n}")), store, TTL))
        .collect();
    let place = Place {
        dir: dir.path(),
        net,
        converge: Duration::from_secs(25),
    };
    let (stop, stopped) = watch::channel(false);
    let urls: Vec<Vec<String>> = serves.iter().map(|serve| vec![serve.url()]).collect();
    let token = dir.path().join("data-1/admin.token");
    let looking = tokio::spawn(async move {
        let token = loop {
            match std::fs::read_to_string(&token) {
                Ok(token) => break token,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let clients = urls
            .into_iter()
            .map(|urls| Client::new(urls, Some(token.trim())));
        look(clients.collect(), stopped).await
    });
    let campaign = run_all(serves, &place).await;
    stop.send_replace(true);
    let looks = looking.await.unwrap();
    let client = campaign.client();
    for node in NODES {
        let log = pages(&client, &format!("/v1/nodes/{node}/log")).await;
        let silent = log.iter().find(|line| line["event"] == "silent");
        assert_eq!(silent, None, "{node}");
    }
    figures(format_args!(
        "{looks} looks at what nodes must run, each version the same everywhere"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_lose_nothing_and_agree_on_etcd() {
    let etcd = Etcd::start();
    three_on(51, &etcd.url("cpl")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_lose_nothing_and_agree_on_postgres() {
    let postgres = Postgres::start();
    three_on(52, &postgres.url("cpl")).await;
}
