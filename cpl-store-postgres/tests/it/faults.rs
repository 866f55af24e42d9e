//! Nothing is lost and nothing happens twice, whatever happens to the server and on the way to it.

use cpl_backends::{Postgres, campaign};

use crate::{open, runtime};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_happens_twice() {
    campaign(&runtime(), Postgres::start(), |hosts, number| {
        let url = format!("postgres://cpl@{hosts}/plane?schema=s{number}");
        Box::pin(async move { open(&url).await })
    })
    .await;
}
