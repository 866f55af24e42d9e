//! Nothing is lost and nothing happens twice, whatever happens to the server and on the way to it.

use cpl_backends::{Etcd, campaign};

use crate::{open, runtime};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_happens_twice() {
    campaign(&runtime(), Etcd::start(), |port, number| {
        let url = format!("etcd://127.0.0.1:{port}/s{number}");
        Box::pin(async move { open(&url).await })
    })
    .await;
}
