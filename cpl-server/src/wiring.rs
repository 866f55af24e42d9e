//! The one place that names the concrete stores and systems.

use std::path::PathBuf;
use std::sync::Arc;

use cpl_core::error::Error;
use cpl_core::ids::StoreId;
use cpl_core::spec::Kinds;
use cpl_core::store::{self, MemoryStore, OpenMode, Store};
use cpl_core::txn::{KeyRow, overlaps};
use cpl_host::Host;
use cpl_lb::kinds::{NodeKind, TargetGroupKind};
use cpl_lb::plan::Fleet;
use cpl_store_embedded::{Config, EmbeddedStore};
use cpl_store_etcd::{EtcdConfig, EtcdStore};
use cpl_store_postgres::{PostgresConfig, PostgresStore};

use crate::cli::serve_config::{Password, StoreUrl};

/// The kinds of every system.
pub fn kinds() -> Kinds {
    Kinds::new(vec![Arc::new(TargetGroupKind), Arc::new(NodeKind)])
}

/// The system whose nodes are served.
pub fn system() -> Arc<dyn cpl_core::delivery::System> {
    Arc::new(Fleet::default())
}

/// The one table of keys.
pub fn key_table() -> Vec<KeyRow> {
    let mut rows = cpl_core::txn::keys();
    rows.extend(cpl_core::access::keys());
    rows.extend(cpl_core::lease::keys());
    rows.extend(cpl_core::spec::keys(&kinds()));
    rows.extend(cpl_core::agent::keys());
    rows.extend(cpl_core::task::keys());
    rows.extend(cpl_core::delivery::keys());
    rows
}

/// Opens a store, and makes it when it is not there.
///
/// # Errors
/// Which part of the URL is wrong, or why the store cannot be opened; never the password.
pub async fn open(
    url: &StoreUrl,
    password: Option<&Password>,
    host: &Host,
) -> Result<Arc<dyn Store>, Error> {
    open_as(OpenMode::ExistingOrNew, url, password, host).await
}

/// Opens a store, or makes it.
///
/// # Errors
/// Those of [`open`], and that what is there is not what the mode expects.
pub async fn open_as(
    mode: OpenMode,
    url: &StoreUrl,
    password: Option<&Password>,
    host: &Host,
) -> Result<Arc<dyn Store>, Error> {
    debug_assert_eq!(overlaps(&key_table()), None, "no key belongs to two kinds");
    let (clock, ids, spawner) = (Arc::clone(&host.clock), &*host.ids, &*host.spawner);
    match url {
        StoreUrl::Memory if mode == OpenMode::ExistingOrNew => {
            Ok(Arc::new(MemoryStore::new(StoreId::fresh(ids), clock)))
        },
        StoreUrl::Memory => Err(wrong_url("open memory: it is gone at once".to_owned())),
        StoreUrl::Embedded(path) => {
            let context = format!("open the store {}", path.display());
            let store = open_file(mode, path.clone(), host).await;
            Ok(Arc::new(
                store.map_err(|error| Error::store(&context, error))?,
            ))
        },
        StoreUrl::Etcd(url) => {
            let mut config =
                EtcdConfig::parse(url).map_err(|error| wrong_url(error.to_string()))?;
            if let Some(password) = password {
                config = config.with_password(password.reveal());
            }
            let store = EtcdStore::open_as(mode, &config, clock, ids, spawner).await;
            Ok(Arc::new(
                store.map_err(|error| Error::store("open the store", error))?,
            ))
        },
        StoreUrl::Postgres(url) => {
            let mut config =
                PostgresConfig::parse(url).map_err(|error| wrong_url(error.to_string()))?;
            if let Some(password) = password {
                config = config.with_password(password.reveal());
            }
            let store = PostgresStore::open_as(mode, &config, clock, ids, spawner).await;
            Ok(Arc::new(
                store.map_err(|error| Error::store("open the store", error))?,
            ))
        },
    }
}

fn wrong_url(what: String) -> Error {
    let invalid = store::Error::new(store::Kind::Invalid, what);
    Error::store("open the store", invalid)
}

/// Reads and checks a file, which takes as long as the disk does.
async fn open_file(
    mode: OpenMode,
    path: PathBuf,
    host: &Host,
) -> Result<EmbeddedStore, store::Error> {
    let (clock, ids) = (Arc::clone(&host.clock), Arc::clone(&host.ids));
    let config = Config::default();
    let opening = tokio::task::spawn_blocking(move || match mode {
        OpenMode::Existing => EmbeddedStore::open(path, config, clock, &*ids),
        OpenMode::ExistingOrNew => EmbeddedStore::open_or_create(path, config, clock, &*ids),
        OpenMode::New(identity) => EmbeddedStore::open_new(path, identity, config, clock, &*ids),
    });
    match opening.await {
        Ok(opened) => opened,
        Err(error) => {
            Err(store::Error::new(store::Kind::Corrupt, "open a file").with_source(error))
        },
    }
}

/// Everything in a store at one revision, one JSON value per line.
pub async fn export(from: &dyn Store) -> Result<Vec<u8>, store::Error> {
    let mut text = Vec::new();
    store::export(from, &mut text).await?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_belongs_to_two_kinds() {
        assert_eq!(overlaps(&key_table()), None);
    }
}
