//! Nothing is lost and nothing happens twice, whatever happens to the server and on the way to it.

use cpl_backends::{Etcd, Histogram, LEADER_KILLED, campaign};

use crate::{open, runtime};

async fn campaign_on(backend: Etcd) -> Histogram {
    campaign(&runtime(), backend, |hosts, number| {
        let url = format!("etcd://{hosts}/s{number}");
        Box::pin(async move { open(&url).await })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_happens_twice() {
    campaign_on(Etcd::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_leader_of_three_dies() {
    let hits = campaign_on(Etcd::start_members(3)).await;
    assert!(hits.contains_key(LEADER_KILLED), "{hits:?}");
}
