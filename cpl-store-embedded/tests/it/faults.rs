//! A disk that fails under a running store.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use cpl_core::store::{Class, Commit, Error, Key, Store, Txn};
use cpl_host::Host;
use cpl_store_embedded::{BackendError, Config, EmbeddedStore, StorageBackend, Writer};

type Bytes = Arc<std::sync::Mutex<Vec<u8>>>;

/// A disk in memory that is full after so many writes. What was written stays.
#[derive(Debug)]
struct Disk {
    bytes: Bytes,
    left: Arc<AtomicI64>,
}

impl Disk {
    fn spend(&self) -> Result<(), BackendError> {
        if self.left.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        Err(BackendError::Io(std::io::ErrorKind::StorageFull.into()))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        let at = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.bytes.lock().unwrap()[at..at + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.spend()?;
        self.bytes
            .lock()
            .unwrap()
            .resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.spend()?;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.spend()?;
        let at = usize::try_from(offset).unwrap();
        self.bytes.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn open(
    bytes: &Bytes,
    left: i64,
    writer: Writer,
) -> Result<(EmbeddedStore, Arc<AtomicI64>), Error> {
    let host = Host::new();
    let budget = Arc::new(AtomicI64::new(i64::MAX));
    let disk = Disk {
        bytes: Arc::clone(bytes),
        left: Arc::clone(&budget),
    };
    let config = Config {
        writer,
        log_revisions: 20,
        ..Config::default()
    };
    let store = EmbeddedStore::open_on(disk, config, host.clock, &*host.ids)?;
    budget.store(left, Ordering::Relaxed);
    Ok((store, budget))
}

fn key(n: usize) -> Key {
    Key::new(format!("k{n:03}")).unwrap()
}

/// Writes until the disk is full, after each possible number of writes to it, and opens what is there.
async fn check(writer: Writer) {
    for left in (0..400).step_by(7) {
        let bytes = Bytes::default();
        let (store, _) = open(&bytes, left, writer).unwrap();
        let mut told = Vec::new();
        for n in 0..60 {
            let result = store.commit(Txn::new().put(key(n), "v")).await;
            told.push(match result {
                Ok(Commit::Applied { .. }) => Some(true),
                Ok(Commit::CompareFailed { .. }) => panic!("nothing was compared"),
                Err(error) if error.class() == Class::NotApplied => Some(false),
                Err(error) if error.class() == Class::Indeterminate => None,
                Err(error) => panic!("{left}: {error:?}"),
            });
            // Whatever the disk does, what is readable is what was acknowledged.
            let readable = store.get(&key(n)).await.unwrap().value.is_some();
            assert_eq!(readable, told[n] == Some(true), "{left}: {n}");
        }
        let first = told
            .iter()
            .position(|told| *told != Some(true))
            .unwrap_or(told.len());
        let after = told.iter().skip(first + 1);
        assert!(
            after.clone().all(|told| *told == Some(false)),
            "{left}: {told:?}"
        );
        drop(store);

        // What a crash at that moment leaves, and a disk with room again.
        let (store, _) = open(&bytes, i64::MAX, writer).unwrap();
        for (n, told) in told.iter().enumerate() {
            let there = store.get(&key(n)).await.unwrap().value.is_some();
            assert!(
                told.is_none_or(|told| told == there),
                "{left}: {n} {told:?} {there}"
            );
        }
        store.commit(Txn::new().put(key(999), "v")).await.unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_acknowledged() {
    check(Writer::Thread).await;
    check(Writer::Inline).await;
}
