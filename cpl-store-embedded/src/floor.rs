//! What lies under redb: the file, and what went wrong with it.
//!
//! redb gives up on a database after the first error of its file; going on takes a new database on
//! the same file. The floor outlives the databases that stand on it, so the file's lock is never
//! given up in between: nobody else can have written.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{BackendError, StorageBackend};

/// A backend that many databases, one after the other, stand on. Closed when the last clone goes.
#[derive(Clone, Debug)]
pub(crate) struct Floor(Arc<State>);

#[derive(Debug)]
struct State {
    backend: Box<dyn StorageBackend>,
    failed: AtomicBool,
    lasting: AtomicBool,
}

/// What the errors since the last look mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// There was no room. Nothing that was synced is touched; with room, writing can go on.
    Full,
    /// Anything else. After a failed sync the system may have dropped what it could not write, and
    /// reading would show pages that are on no disk: only a new process, after a person has looked,
    /// may go on. (Rebello et al., "Can Applications Recover from fsync Failures?", 2020.)
    Lasting,
}

impl Floor {
    pub(crate) fn new(backend: impl StorageBackend) -> Self {
        Self(Arc::new(State {
            backend: Box::new(backend),
            failed: AtomicBool::new(false),
            lasting: AtomicBool::new(false),
        }))
    }

    /// What went wrong; from now on, a full disk is forgotten and anything else is not.
    pub(crate) fn fault(&self) -> Fault {
        let failed = self.0.failed.swap(false, Ordering::SeqCst);
        match (self.0.lasting.load(Ordering::SeqCst), failed) {
            (true, _) => Fault::Lasting,
            (false, true) => Fault::Full,
            (false, false) => Fault::None,
        }
    }

    fn note<T>(&self, result: io::Result<T>, may_be_full: bool) -> io::Result<T> {
        if let Err(error) = &result {
            self.0.failed.store(true, Ordering::SeqCst);
            if !(may_be_full && is_full(error)) {
                self.0.lasting.store(true, Ordering::SeqCst);
            }
        }
        result
    }
}

/// No room on the disk, in the quota, or below the limit of a file's size.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

impl StorageBackend for Floor {
    fn len(&self) -> io::Result<u64> {
        self.0.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.note(self.0.backend.read(offset, out), false)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(self.0.backend.set_len(len), true)
    }

    fn sync_data(&self) -> io::Result<()> {
        // Also when it says that the disk is full: what it did not write may be forgotten by now.
        self.note(self.0.backend.sync_data(), false)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(self.0.backend.write(offset, data), true)
    }

    /// The file is locked once, by the first database, and unlocked when it is closed.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.backend.try_lock_range(start, end)
    }

    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Nothing is buffered in the backend, so there is nothing to lose here.
        let _closed = self.backend.close();
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    fn fault_of(error: io::ErrorKind, may_be_full: bool) -> [Fault; 2] {
        let floor = Floor::new(InMemoryBackend::new());
        assert_eq!(floor.fault(), Fault::None);
        floor
            .note::<()>(Err(error.into()), may_be_full)
            .unwrap_err();
        [floor.fault(), floor.fault()]
    }

    #[test]
    fn only_a_write_without_room_passes() {
        assert_eq!(
            fault_of(io::ErrorKind::StorageFull, true),
            [Fault::Full, Fault::None]
        );
        assert_eq!(
            fault_of(io::ErrorKind::QuotaExceeded, true),
            [Fault::Full, Fault::None]
        );
        assert_eq!(
            fault_of(io::ErrorKind::StorageFull, false),
            [Fault::Lasting; 2]
        );
        assert_eq!(fault_of(io::ErrorKind::Other, true), [Fault::Lasting; 2]);
    }
}
