//! What is wrong is said within seconds, and nothing half-made stays.

use std::time::Duration;

use cpl_backends::Postgres;
use cpl_core::store::{EndReason, Error, Key, Kind, Range, Store, Txn, WatchItem};
use cpl_host::Host;
use cpl_store_postgres::{PostgresConfig, PostgresStore};
use futures::StreamExt;

use crate::{open, runtime};

/// Why it does not open, with what lies behind it.
async fn refused(url: &str) -> (Kind, String) {
    said(&open(url).await.expect_err("it is refused"))
}

fn said(error: &Error) -> (Kind, String) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    (
        error.kind().clone(),
        format!("{error}: {}", cause.unwrap_or_default()),
    )
}

fn put(key: &str) -> Txn {
    Txn::new().put(Key::new(key.to_owned()).unwrap(), "v")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_thing_is_named() {
    let mut postgres = Postgres::start();
    let here = postgres.url("cpl");
    let (kind, text) = refused(&here.replace("/plane", "/nowhere")).await;
    assert_eq!(kind, Kind::Unauthorized);
    assert!(text.contains("\"nowhere\" does not exist"), "{text}");

    postgres.sql("postgres", "CREATE ROLE guest LOGIN");
    let (kind, text) = refused(&here.replace("//cpl@", "//guest@")).await;
    assert_eq!(kind, Kind::Unauthorized);
    assert!(
        text.contains("permission denied for database plane"),
        "{text}"
    );

    postgres.sql("plane", "CREATE SCHEMA other AUTHORIZATION cpl; CREATE TABLE other.meta (format integer); GRANT SELECT ON other.meta TO cpl");
    let (kind, text) = refused(&postgres.url("other")).await;
    assert_eq!(kind, Kind::Invalid);
    assert!(text.contains("it is not a store"), "{text}");

    drop(open(&here).await.unwrap());
    postgres.sql("plane", "UPDATE cpl.meta SET format = 99");
    let (kind, text) = refused(&here).await;
    assert_eq!(kind, Kind::Invalid);
    assert!(
        text.contains("has format 99, this version knows up to 1"),
        "{text}"
    );

    postgres.kill();
    postgres.serve_with(&["fsync=off"]);
    let (kind, text) = refused(&here).await;
    assert_eq!(kind, Kind::Invalid);
    assert!(text.contains("fsync = off"), "{text}");

    postgres.kill();
    let clock = runtime().clock;
    let start = clock.monotonic();
    let (kind, text) = refused(&here).await;
    assert_eq!(kind, Kind::NotConnected);
    assert!(text.contains("onnection refused"), "{text}");
    assert!(clock.monotonic().since(start) < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused_and_the_right_one_is_not_told() {
    let postgres = Postgres::start();
    postgres.ask_for_passwords("right");
    let url = postgres.url("cpl");
    let with = async |password: &str| {
        let Host {
            clock,
            ids,
            spawner,
        } = Host::new();
        let config = PostgresConfig::parse(&url).unwrap().with_password(password);
        PostgresStore::open(&config, clock, &*ids, &*spawner).await
    };
    let (kind, text) = said(&with("wr0ng").await.unwrap_err());
    assert_eq!(kind, Kind::Unauthorized);
    assert!(
        text.contains("password authentication failed") && !text.contains("wr0ng"),
        "{text}"
    );
    let store = with("right").await.unwrap();
    assert!(!format!("{store:?}").contains("right"));
    store.head().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_come_at_once_make_one_store() {
    let postgres = Postgres::start();
    let url = postgres.url("cpl");
    let opened = futures::future::join_all((0..4).map(|_| open(&url))).await;
    let mut identities = Vec::new();
    for store in opened {
        identities.push(store.unwrap().head().await.unwrap().identity);
    }
    identities.dedup();
    assert_eq!(identities.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_or_restored_server_begins_another_life() {
    let mut postgres = Postgres::start();
    let url = postgres.url("cpl");
    let old = open(&url).await.unwrap();
    old.commit(put("a")).await.unwrap();
    let at = old.head().await.unwrap();
    let mut watch = old.watch(Range::all(), at).await.unwrap();
    // As the table of a server that was on another timeline: a promotion without one.
    postgres.sql("plane", "UPDATE cpl.meta SET timeline = 'before'");
    postgres.kill();
    postgres.serve();

    let new = open(&url).await.unwrap();
    let now = new.head().await.unwrap();
    assert_eq!(now.identity.store, at.identity.store);
    assert_eq!(now.identity.incarnation.0, at.identity.incarnation.0 + 1);
    assert_eq!(
        *new.watch(Range::all(), at).await.err().unwrap().kind(),
        Kind::IdentityChanged
    );
    new.commit(put("b")).await.unwrap();

    let write = async || {
        old.commit(put("c"))
            .await
            .map(drop)
            .map_err(|error| error.kind().clone())
    };
    let mut answer = write().await;
    // The first may still be told of the connection that broke.
    if answer != Err(Kind::IdentityChanged) {
        answer = write().await;
    }
    assert_eq!(answer, Err(Kind::IdentityChanged));
    loop {
        match watch.next().await.expect("a reason") {
            WatchItem::End(reason) => {
                assert_eq!(reason, EndReason::IdentityChanged);
                break;
            },
            WatchItem::Stalled(_) => {},
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_told_as_stalled_and_misses_nothing() {
    let mut postgres = Postgres::start();
    let store = open(&postgres.url("cpl")).await.unwrap();
    let at = store.head().await.unwrap();
    let mut watch = store.watch(Range::all(), at).await.unwrap();
    postgres.kill();
    let stalled = tokio::time::timeout(Duration::from_secs(15), watch.next())
        .await
        .unwrap();
    assert!(
        matches!(stalled, Some(WatchItem::Stalled(_))),
        "{stalled:?}"
    );
    let refused = store.commit(put("lost")).await.unwrap_err();
    assert_eq!(*store.refusal().unwrap().kind(), *refused.kind());
    postgres.serve();
    let mut applied = false;
    for _ in 0..100 {
        if store.commit(put("a")).await.is_ok() {
            applied = true;
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(applied && store.refusal().is_none());
    let told = async {
        loop {
            match watch.next().await.unwrap() {
                WatchItem::Events { events, .. } => break events,
                WatchItem::Stalled(_) | WatchItem::Progress(_) => {},
                WatchItem::End(reason) => panic!("{reason:?}"),
            }
        }
    };
    let events = tokio::time::timeout(Duration::from_secs(10), told)
        .await
        .unwrap();
    assert_eq!(events[0].key().as_str(), Some("a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_its_store() {
    let backend = Postgres::start();
    let store = open(&backend.url("cpl")).await.unwrap();
    let at = store.head().await.unwrap();
    let mut watch = store.watch(Range::all(), at).await.unwrap();
    drop(store);
    let end = async {
        loop {
            if let WatchItem::End(reason) = watch.next().await.unwrap() {
                break reason;
            }
        }
    };
    let end = tokio::time::timeout(Duration::from_secs(5), end).await;
    assert_eq!(end.unwrap(), EndReason::Closed);
}
