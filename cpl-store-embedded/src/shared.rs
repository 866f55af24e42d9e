//! What the writer, the readers and the watches have in common.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use cpl_core::store::{Error, Kind, Revision};
use redb::Database;
use tokio::sync::watch;

use crate::index::Index;

/// What the writer, the readers and the watches have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    index: RwLock<Index>,
    pub(crate) head: watch::Sender<Head>,
    /// For backups; the writer owns the file, so that closing it closes the file.
    database: Mutex<Weak<Database>>,
    refusal: Mutex<Option<Arc<Error>>>,
}

/// What watches wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) revision: Revision,
    pub(crate) closed: bool,
}

impl Shared {
    pub(crate) fn new(index: Index, database: Weak<Database>) -> Self {
        let (head, _) = watch::channel(Head {
            revision: index.head,
            closed: false,
        });
        Self {
            index: RwLock::new(index),
            head,
            database: Mutex::new(database),
            refusal: Mutex::default(),
        }
    }

    // A panic while the index is changed would be a bug of this crate; the index is changed only
    // after the disk has the change, so going on is no worse than opening the file again.
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(crate) fn database(&self) -> Option<Arc<Database>> {
        let database = self.database.lock();
        database.unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// Why writes are refused, for those who only want to know.
    pub(crate) fn refusal(&self) -> Option<Arc<Error>> {
        let refusal = self.refusal.lock();
        refusal.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn refuse(&self, refusal: Option<Error>) {
        let refused = self.refusal.lock();
        *refused.unwrap_or_else(PoisonError::into_inner) = refusal.map(Arc::new);
    }

    /// What the file turned out to hold, which is at least what was readable before.
    pub(crate) fn replace(&self, index: Index, database: Weak<Database>) {
        let revision = index.head;
        *self.index_mut() = index;
        let held = self.database.lock();
        *held.unwrap_or_else(PoisonError::into_inner) = database;
        self.head.send_modify(|head| head.revision = revision);
    }
}

pub(crate) fn closed() -> Error {
    Error::new(Kind::NotConnected, "use the store: it is closed")
}
