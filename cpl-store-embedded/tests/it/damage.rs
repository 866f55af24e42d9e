//! A file that something else has changed is refused, or is what it was; it is never another state.

use std::path::Path;

use cpl_core::store::{Class, Key, Kind, Revision, Store, Txn};
use cpl_store_embedded::Config;
use tempfile::TempDir;

use crate::world::{create, entries, try_open};

/// A file with a key table and a log.
async fn fill(path: &Path) {
    create(path);
    let store = try_open(path, Config::default()).unwrap();
    for n in 0..60 {
        let key = Key::new(format!("key/{}", n % 23)).unwrap();
        let value = format!("value {n}").repeat(20);
        store.commit(Txn::new().put(key, value)).await.unwrap();
    }
    store.compact(Revision(40)).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_changed_byte_is_noticed_or_harmless() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.redb");
    fill(&path).await;
    let good = std::fs::read(&path).unwrap();
    let expected = entries(&try_open(&path, Config::default()).unwrap()).await;
    let damaged = dir.path().join("damaged.redb");
    let mut refused = 0;
    for n in 0..150 {
        // Every part of the file, at places that no page size divides.
        let at = n * good.len() / 150 + n * 7 % 61;
        let mut bytes = good.clone();
        let Some(byte) = bytes.get_mut(at) else {
            continue;
        };
        *byte ^= 0x55;
        std::fs::write(&damaged, bytes).unwrap();
        match try_open(&damaged, Config::default()) {
            Ok(store) => assert_eq!(entries(&store).await, expected, "byte {at}"),
            Err(error) => {
                let known = matches!(error.class(), Class::Corrupt | Class::Rejected);
                assert!(known, "byte {at}: {error:?}");
                refused += 1;
            },
        }
    }
    assert!(refused > 0, "no byte mattered");
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.redb");
    fill(&path).await;
    let good = std::fs::read(&path).unwrap();
    let cut = dir.path().join("cut.redb");
    for part in 1..16 {
        std::fs::write(&cut, &good[..good.len() * part / 16]).unwrap();
        let error = try_open(&cut, Config::default()).unwrap_err();
        assert_eq!(*error.kind(), Kind::Corrupt, "{part}/16: {error}");
    }
    std::fs::write(&cut, &good[..5]).unwrap();
    assert_eq!(
        *try_open(&cut, Config::default()).unwrap_err().kind(),
        Kind::Invalid
    );
}
