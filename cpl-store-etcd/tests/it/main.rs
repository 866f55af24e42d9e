//! The store on an etcd that the tests start themselves.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, outside of tests by the letter"
)]

mod conformance;
mod faults;
mod refusals;

use std::sync::Arc;

use cpl_core::store::conformance::Runtime;
use cpl_core::store::{Error, OpenMode, Store};
use cpl_host::Host;
use cpl_store_etcd::{EtcdConfig, EtcdStore};

fn runtime() -> Runtime {
    let Host { clock, spawner, .. } = Host::new();
    Runtime { clock, spawner }
}

async fn open(url: &str) -> Result<Arc<dyn Store>, Error> {
    open_as(OpenMode::ExistingOrNew, url).await
}

async fn open_as(mode: OpenMode, url: &str) -> Result<Arc<dyn Store>, Error> {
    let Host {
        clock,
        ids,
        spawner,
    } = Host::new();
    let config = EtcdConfig::parse(url).unwrap();
    let store = EtcdStore::open_as(mode, &config, clock, &*ids, &*spawner).await?;
    Ok(Arc::new(store))
}
