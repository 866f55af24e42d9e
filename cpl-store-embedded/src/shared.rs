//! What the writer, the readers and the watches have in common.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cpl_core::store::{Error, Kind, Revision};
use tokio::sync::watch;

use crate::index::Index;

/// What the writer, the readers and the watches have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) index: RwLock<Index>,
    pub(crate) head: watch::Sender<Head>,
}

/// What watches wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) revision: Revision,
    pub(crate) closed: bool,
}

impl Shared {
    // A panic while the index is changed would be a bug of this crate; the index is changed only
    // after the disk has the change, so going on is no worse than opening the file again.
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn closed() -> Error {
    Error::new(Kind::NotConnected, "use the store: it is closed")
}
