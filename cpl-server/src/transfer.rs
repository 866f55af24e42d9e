//! Export of a whole store, of whatever backend.

use cpl_core::store::{Error, Store};

/// Everything at one revision, one JSON value per line.
pub(crate) async fn export(store: &dyn Store) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    cpl_store_embedded::export(store, &mut text).await?;
    Ok(text)
}
