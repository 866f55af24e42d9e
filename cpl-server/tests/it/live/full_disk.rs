//! A server whose disk is full: it says so, goes on reading, and writes again when there is room.

use std::fs;
use std::time::Duration;

use cpl_backends::Volume;
use cpl_host::Host;
use serde_json::Value;

use super::process::{Client, Serve};
use crate::harness::{manifests, targetgroup};

/// Large, so that the store has to ask its disk for room.
fn group(n: u16) -> Value {
    let mut group = targetgroup(&format!("group-{n}"), 8_000 + n, &[]);
    let label = |m: usize| (format!("label-{m}"), "x".repeat(60).into());
    group["metadata"]["labels"] = (0..15).map(label).collect::<serde_json::Map<_, _>>().into();
    group
}

async fn apply(client: &Client, n: u16) -> (u16, Value) {
    let body = manifests(&[group(n)]);
    client.post("/v1/apply", &body, &[]).await.unwrap()
}

async fn names(client: &Client) -> usize {
    let (status, list) = client.get("/v1/targetgroups?page_size=1000").await.unwrap();
    assert_eq!(status, 200, "{list}");
    list["items"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_writing_only_and_only_until_there_is_room() {
    let volume = Volume::mount("24m");
    let mut server = Serve::new(&volume.path().join("data"));
    server.start();
    server.ready().await;
    let client = server.client();
    assert_eq!(apply(&client, 0).await.0, 200);

    volume.fill();
    let mut applied = 1;
    let (status, problem) = loop {
        assert!(applied < 900, "the disk does not fill");
        let (status, answer) = apply(&client, applied).await;
        if status != 200 {
            break (status, answer);
        }
        applied += 1;
    };
    // The first one may be unknown; the next certainly did not happen.
    let first_unknown = status == 504;
    assert!(first_unknown || status == 503, "{problem}");
    let (status, problem) = apply(&client, 900).await;
    assert_eq!(
        (status, &problem["reason"]),
        (503, &"STORE_READ_ONLY".into()),
        "{problem}"
    );
    let (status, problem) = client.get("/readyz").await.unwrap();
    assert_eq!(
        (status, &problem["reason"]),
        (503, &"STORE_READ_ONLY".into()),
        "{problem}"
    );
    assert_eq!(client.get("/healthz").await.unwrap().0, 200);
    assert_eq!(names(&client).await, usize::from(applied), "reads go on");

    volume.free();
    let clock = Host::new().clock;
    let freed = clock.monotonic();
    while client.get("/readyz").await.unwrap().0 != 200 {
        assert!(
            clock.monotonic().since(freed) < Duration::from_secs(45),
            "it does not notice the room"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(apply(&client, 901).await.0, 200);
    let found = names(&client).await;
    let known = usize::from(applied) + 1;
    assert!(
        found == known || (first_unknown && found == known + 1),
        "{found}, {known} are known"
    );

    server.kill();
    server.start();
    server.ready().await;
    assert_eq!(
        names(&server.client()).await,
        found,
        "all of it is on the disk"
    );
    let log = fs::read_to_string(server.log()).unwrap();
    assert!(log.contains("the disk is full"), "{log}");
    assert!(log.contains("there is room on the disk"), "{log}");
    drop(server);
}
