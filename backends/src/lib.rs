//! Real backends for tests: each in a temporary folder, on free ports, ended with the value that
//! started it. Everything here blocks and panics, as tests do.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "helpers of tests, outside of tests by the letter"
)]

mod campaign;
mod certificate;
mod contract;
mod dice;
mod differential;
mod etcd;
mod output;
mod postgres;
mod proxy;
mod volume;

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cpl_core::store::{Error, Store};
use futures::future::BoxFuture;

pub use self::campaign::{Histogram, LEADER_KILLED, Victim, campaign};
pub use self::certificate::Certificate;
pub use self::contract::{contract, contract_behind_faults, moving};
pub use self::etcd::Etcd;
pub use self::postgres::Postgres;
pub use self::proxy::{Cut, Proxy};
pub use self::volume::Volume;

/// A store that is being opened.
pub type Opening = BoxFuture<'static, Result<Arc<dyn Store>, Error>>;

/// How often and how long to wait for a server to begin or end: a minute at most.
const LOOKS: usize = 1_200;
const LOOK: Duration = Duration::from_millis(50);

/// A port that nobody has; somebody else may take it before it is used.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Looks until something is so.
///
/// # Panics
/// After a minute, with what is said then.
fn wait_until(mut so: impl FnMut() -> bool, otherwise: impl FnOnce() -> String) {
    for _ in 0..LOOKS {
        if so() {
            return;
        }
        std::thread::sleep(LOOK);
    }
    panic!("{}", otherwise());
}

/// Starts a server whose words go to the end of a file.
fn spawn(command: &mut Command, log: &Path) -> std::io::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}
