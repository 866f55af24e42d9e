//! The one place that names the concrete stores and systems.

use std::sync::Arc;

use cpl_core::error::Error;
use cpl_core::ids::StoreId;
use cpl_core::spec::Kinds;
use cpl_core::store::{MemoryStore, Store};
use cpl_core::txn::{KeyRow, overlaps};
use cpl_host::Host;
use cpl_lb::kinds::{NodeKind, TargetGroupKind};
use cpl_lb::plan::Fleet;
use cpl_store_embedded::{Config, EmbeddedStore};

use crate::cli::serve_config::StoreUrl;

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

/// Opens a store; an embedded one is created when its file does not exist.
pub fn open(url: &StoreUrl, host: &Host) -> Result<Arc<dyn Store>, Error> {
    debug_assert_eq!(overlaps(&key_table()), None, "no key belongs to two kinds");
    let (clock, ids) = (Arc::clone(&host.clock), Arc::clone(&host.ids));
    match url {
        StoreUrl::Memory => Ok(Arc::new(MemoryStore::new(StoreId::fresh(&*ids), clock))),
        StoreUrl::Embedded(path) => {
            let store = EmbeddedStore::open_or_create(path, Config::default(), clock, &*ids);
            let context = format!("open the store {}", path.display());
            Ok(Arc::new(
                store.map_err(|error| Error::store(&context, error))?,
            ))
        },
    }
}

/// Everything in a store at one revision, one JSON value per line.
pub async fn export(store: &dyn Store) -> Result<Vec<u8>, cpl_core::store::Error> {
    let mut text = Vec::new();
    cpl_store_embedded::export(store, &mut text).await?;
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
