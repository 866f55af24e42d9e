//! What is wrong is said within seconds, and nothing half-made stays.

use std::time::Duration;

use cpl_backends::{Certificate, Postgres, Proxy, Volume};
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
        text.contains("has format 99, this version knows up to 3"),
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
async fn a_server_that_is_too_old_is_refused() {
    let postgres = Postgres::start();
    let number = postgres.sql("postgres", "SHOW server_version_num");
    // As the protocol has it: four bytes, and which.
    let said = |number: i32| [4_i32.to_be_bytes(), number.to_be_bytes()].concat();
    let proxy = Proxy::changing(
        postgres.port,
        &said(number.parse().unwrap()),
        &said(120_022),
    );
    let url = format!("postgres://cpl@127.0.0.1:{}/plane?schema=cpl", proxy.port);
    let (kind, text) = refused(&url).await;
    assert_eq!(kind, Kind::Invalid);
    assert!(
        text.contains("the server is 120022, the oldest that works is 130000"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_refused_and_a_store_on_it_writes_nothing() {
    let mut postgres = Postgres::start();
    let url = postgres.url("cpl");
    let store = open(&url).await.unwrap();
    store.commit(put("a")).await.unwrap();
    postgres.kill();
    postgres.serve_as_standby();
    let (kind, text) = refused(&url).await;
    assert_eq!(kind, Kind::ReadOnly);
    assert!(
        text.contains("this server is a standby; name the primary"),
        "{text}"
    );
    let write = async || store.commit(put("b")).await.map_err(|error| said(&error));
    let mut answer = write().await;
    // The first may still be told of the connection that broke.
    if !matches!(answer, Err((Kind::ReadOnly, _))) {
        answer = write().await;
    }
    let (kind, text) = answer.unwrap_err();
    assert_eq!(kind, Kind::ReadOnly, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_leaves_nothing_half_made() {
    let volume = Volume::mount("128m");
    let postgres = Postgres::start_on(&volume);
    let store = open(&postgres.url("cpl")).await.unwrap();
    store.commit(put("before")).await.unwrap();
    volume.fill();

    let (kind, text) = refused(&postgres.url("another")).await;
    assert_eq!(kind, Kind::ReadOnly, "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    let another = "SELECT count(*) FROM pg_namespace WHERE nspname = 'another'";
    assert_eq!(postgres.sql("plane", another), "0");

    let large = |n: usize| {
        let key = Key::new(format!("large/{n}")).unwrap();
        // What does not get smaller when it is compressed.
        let value: Vec<u8> = (0..50_000_u32)
            .flat_map(|i| (i.wrapping_mul(2_654_435_761) ^ (i << 7)).to_le_bytes())
            .collect();
        Txn::new().put(key, value)
    };
    let mut refusal = None;
    for n in 0..50 {
        if let Err(error) = store.commit(large(n)).await {
            refusal = Some(said(&error));
            break;
        }
    }
    let (kind, text) = refusal.expect("the disk is full");
    assert_eq!(kind, Kind::ReadOnly, "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    let key = Key::new("before").unwrap();
    assert!(store.get(&key).await.unwrap().value.is_some());

    volume.free();
    store.commit(large(99)).await.unwrap();
    open(&postgres.url("another")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_before_is_brought_up_to_date_and_can_be_read_by_people() {
    let postgres = Postgres::start();
    let url = postgres.url("cpl");
    let store = open(&url).await.unwrap();
    store.commit(put("/cpl/v1/nodes/a/spec")).await.unwrap();
    store.commit(put("gone")).await.unwrap();
    let gone = Txn::new().delete(Key::new("gone").unwrap());
    store.commit(gone).await.unwrap();
    drop(store);
    // As format 1 was.
    postgres.sql(
        "plane",
        "SET search_path TO cpl; DROP VIEW latest, changes_shown; DROP FUNCTION shown; \
         DROP TRIGGER sealed ON meta; DROP FUNCTION refuse_sealed; ALTER TABLE meta DROP COLUMN seal; \
         UPDATE meta SET format = 1",
    );
    drop(open(&url).await.unwrap());
    assert_eq!(postgres.sql("plane", "SELECT format FROM cpl.meta"), "3");
    let latest = "SELECT key, value, version FROM cpl.latest";
    assert_eq!(postgres.sql("plane", latest), "/cpl/v1/nodes/a/spec|v|1");
    let changes = "SELECT revision, key, value FROM cpl.changes_shown";
    let told = postgres.sql("plane", changes);
    assert_eq!(told, "1|/cpl/v1/nodes/a/spec|v\n2|gone|v\n3|gone|");
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
async fn the_certificate_of_a_server_is_checked() {
    let mut postgres = Postgres::start();
    let (own, other) = (Certificate::fresh(), Certificate::fresh());
    postgres.ask_for_tls(&own);
    postgres.kill();
    postgres.serve_with(&["ssl=on"]);
    let url = postgres.url("cpl");
    let checked = |by: &Certificate| {
        let root = by.cert().display().to_string();
        format!("{url}&sslmode=verify-full&sslrootcert={root}")
    };
    let (kind, text) = refused(&format!("{url}&sslmode=disable")).await;
    assert_eq!(kind, Kind::Unauthorized, "{text}");
    assert!(text.contains("no encryption"), "{text}");
    let (kind, text) = refused(&checked(&other)).await;
    assert_eq!(kind, Kind::NotConnected, "{text}");
    assert!(text.contains("certificate"), "{text}");
    let store = open(&checked(&own)).await.unwrap();
    store.commit(put("a")).await.unwrap();
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
