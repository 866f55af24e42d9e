//! The store is moved while clients change things and agents follow.

use std::time::Duration;

use cpl_backends::{Etcd, Postgres};
use cpl_host::Host;
use serde_json::Value;

use super::check::check;
use super::kills::Campaign;
use super::nodes::{Node, Place};
use super::output::figures;
use crate::harness::{manifests, targetgroup};
use crate::live::process::Serve;

/// How long sessions last here.
const TTL: Duration = Duration::from_secs(2);
/// How long changes are made before a move, and after it.
const LOAD: Duration = Duration::from_secs(1);

/// Moves the store and starts the server on the copy. `from` is left away where the server has the store alone.
fn move_store(campaign: &mut Campaign, from: Option<&str>, to: &str) {
    let source: Vec<&str> = from.iter().flat_map(|from| ["--from", from]).collect();
    let run = |verb| {
        let words = [&["store", verb], source.as_slice(), &["--to", to]].concat();
        let ran = tokio::task::block_in_place(|| campaign.serves[0].cpl(&words));
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(ran.status.success(), "{words:?}: {said}");
        said
    };
    let clock = Host::new().clock;
    let started = clock.monotonic();
    let copied = run("copy");
    let took = clock.monotonic().since(started);
    assert!(copied.contains("takes no more writes"), "{copied}");
    let verified = run("verify");
    assert!(verified.contains("the copy is equal"), "{verified}");
    figures(format_args!("{took:?}\n{copied}"));
    campaign.serves[0].kill();
    campaign.serves[0].move_to(to, TTL);
    campaign.serves[0].start();
}

/// From a file to PostgreSQL, to etcd, and to a file again, under load; then once more at rest, when agents have nothing to
/// do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_moves_under_load_and_agents_notice_nothing() {
    let (postgres, etcd) = (Postgres::start(), Etcd::start());
    let dir = tempfile::tempdir().unwrap();
    let place = Place {
        dir: dir.path(),
        net: 50,
        converge: Duration::from_secs(25),
    };
    let mut campaign = Campaign::start(vec![Serve::new(&dir.path().join("data"))], &place, 1).await;
    let ids = |campaign: &Campaign| campaign.nodes.iter().map(Node::id).collect::<Vec<_>>();
    let agents = ids(&campaign);
    let file = |name: &str| format!("embedded:{}", dir.path().join(name).display());
    let (first, second) = (postgres.url("cpl"), etcd.url("cpl"));
    let (third, fourth) = (file("third.redb"), file("fourth.redb"));
    let moves = [
        (None, &first),
        (Some(first.as_str()), &second),
        (Some(second.as_str()), &third),
    ];
    for (from, to) in moves {
        let running = campaign.change();
        tokio::time::sleep(LOAD).await;
        move_store(&mut campaign, from, to);
        campaign.serves[0].ready().await;
        tokio::time::sleep(LOAD).await;
        campaign.finish(running).await;
    }
    let haproxy = campaign.nodes[0].processes();
    move_store(&mut campaign, None, &fourth);
    campaign.serves[0].ready().await;
    campaign.converged().await;
    // Longer than an agent is kept waiting.
    tokio::time::sleep(Duration::from_secs(12)).await;
    campaign.converged().await;
    assert_eq!(campaign.nodes[0].processes(), haproxy, "not reloaded");
    assert_eq!(ids(&campaign), agents, "the same processes");

    let recorded = campaign.recorded().await;
    let told = &campaign.seen.told;
    let lost = check(told, &recorded).unwrap_or_else(|wrong| panic!("{wrong:#?}"));
    figures(format_args!(
        "{} changes told; answers lost: {lost:?}",
        told.len()
    ));
    assert!(told.len() > 30, "there was load: {}", told.len());
    let (_, version) = campaign.serves[0].client().get("/version").await.unwrap();
    assert_eq!(
        version["identity"]["incarnation"], 5,
        "four moves: {version}"
    );
}

/// Runs `cpl store` of a server, with what it says.
fn store(serve: &Serve, arguments: &[&str]) -> (bool, String) {
    let words = [&["store"], arguments].concat();
    let ran = tokio::task::block_in_place(|| serve.cpl(&words));
    (ran.status.success(), String::from_utf8(ran.stderr).unwrap())
}

async fn applied(serve: &Serve, name: &str) -> (u16, Value) {
    let body = manifests(&[targetgroup(name, 8_080, &[])]);
    let client = serve.client();
    client.post("/v1/apply", &body, &[]).await.unwrap()
}

/// A server that is started where it cannot be; what its log says.
async fn does_not_start(serve: &mut Serve) -> String {
    serve.start();
    assert_eq!(serve.ended().await, Some(1));
    std::fs::read_to_string(serve.log()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_moved_says_so_until_it_is_unsealed() {
    let (postgres, etcd) = (Postgres::start(), Etcd::start());
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut serve = Serve::new(&data);
    serve.start();
    serve.ready().await;
    assert_eq!(applied(&serve, "a").await.0, 200);
    let (first, second) = (postgres.url("cpl"), etcd.url("cpl"));
    let own = format!("embedded:{}", data.join("cpl.redb").display());

    let (done, said) = store(&serve, &["copy", "--from", &own, "--to", &first]);
    assert!(
        !done && said.contains("another process has it open"),
        "{said}"
    );
    let (done, said) = store(&serve, &["copy", "--to", &first]);
    assert!(done, "{said}");
    let (status, problem) = applied(&serve, "b").await;
    assert_eq!(status, 503, "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("it is sealed"),
        "{problem}"
    );
    let (status, _) = serve.client().get("/readyz").await.unwrap();
    assert_eq!(status, 503);
    let (done, said) = store(&serve, &["copy", "--to", &second]);
    assert!(!done && said.contains("sealed by another move"), "{said}");
    assert!(said.contains("goes on as before"), "{said}");

    serve.kill();
    let log = does_not_start(&mut serve).await;
    assert!(log.contains("it is sealed"), "{log}");
    let mut unfinished = Serve::on(&dir.path().join("unfinished"), &second, TTL);
    let log = does_not_start(&mut unfinished).await;
    assert!(log.contains("it is not complete"), "{log}");

    let (done, said) = store(&serve, &["unseal", "--store", &own]);
    assert!(done, "{said}");
    serve.start();
    serve.ready().await;
    assert_eq!(applied(&serve, "b").await.0, 200);
    let (done, said) = store(&serve, &["verify", "--to", &first]);
    assert!(!done && said.contains("keys differ"), "{said}");
    let (done, said) = store(&serve, &["copy", "--to", &first]);
    assert!(!done && said.contains("there is one"), "{said}");
    assert_eq!(applied(&serve, "c").await.0, 200, "nothing was sealed");
    let (done, said) = store(&serve, &["unseal"]);
    assert!(done, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_goes_from_anywhere_to_anywhere_as_text() {
    let (postgres, etcd) = (Postgres::start(), Etcd::start());
    let dir = tempfile::tempdir().unwrap();
    let mut serve = Serve::on(&dir.path().join("data"), &postgres.url("cpl"), TTL);
    serve.start();
    serve.ready().await;
    assert_eq!(applied(&serve, "a").await.0, 200);
    serve.kill();
    let (text, damaged) = (dir.path().join("text"), dir.path().join("damaged"));
    let (text, damaged) = (text.to_str().unwrap(), damaged.to_str().unwrap());
    let (from, to) = (postgres.url("cpl"), etcd.url("cpl"));
    let (done, said) = store(&serve, &["export", "--store", &from, "--file", text]);
    assert!(done, "{said}");
    let (done, said) = store(&serve, &["export", "--store", &to]);
    assert!(!done && said.contains("there is none"), "{said}");
    let (done, said) = store(&serve, &["import", text, "--store", &to]);
    assert!(done, "{said}");
    let (done, said) = store(&serve, &["verify", "--from", &from, "--to", &to]);
    assert!(done && said.contains("is equal"), "{said}");
    let (done, said) = store(&serve, &["import", text, "--store", &to]);
    assert!(!done && said.contains("already"), "{said}");

    let whole = std::fs::read_to_string(text).unwrap();
    std::fs::write(damaged, &whole[..whole.len() - 20]).unwrap();
    let other = etcd.url("other");
    let (done, said) = store(&serve, &["import", damaged, "--store", &other]);
    assert!(!done && said.contains("cut short"), "{said}");
    let mut unfinished = Serve::on(&dir.path().join("unfinished"), &other, TTL);
    let log = does_not_start(&mut unfinished).await;
    assert!(log.contains("it is not complete"), "{log}");

    serve.move_to(&to, TTL);
    serve.start();
    serve.ready().await;
    let (status, _) = serve.client().get("/v1/targetgroups/a").await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(applied(&serve, "b").await.0, 200);
}
