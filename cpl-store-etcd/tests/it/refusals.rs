//! What is wrong is said within seconds; another life of the store, and others in the cluster.

use std::time::Duration;

use cpl_backends::{Certificate, Etcd, Proxy};
use cpl_core::store::{
    EndReason, Error, Key, Kind, Range, Revision, Store, Txn, WatchItem, WatchStream,
};
use cpl_host::Host;
use cpl_store_etcd::{EtcdConfig, EtcdStore};
use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Client, ConnectOptions, GetOptions, Permission,
};
use futures::StreamExt;

use crate::{open, runtime};

/// Where a store under the prefix `cpl` says which one it is.
const LABEL: &str = "/cpl/\u{1}own/label";

fn put(key: &str) -> Txn {
    Txn::new().put(Key::new(key.to_owned()).unwrap(), "v")
}

async fn client(etcd: &Etcd) -> Client {
    Client::connect([format!("127.0.0.1:{}", etcd.port())], None)
        .await
        .unwrap()
}

/// Why it does not open.
async fn refused(url: &str) -> Error {
    open(url).await.expect_err("it is refused")
}

/// The next item that is not about silence.
async fn next(watch: &mut WatchStream) -> WatchItem {
    let next = async {
        loop {
            match watch.next().await.unwrap() {
                WatchItem::Stalled(_) | WatchItem::Progress(_) => {},
                item => break item,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), next)
        .await
        .expect("an item in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_thing_is_named() {
    let mut etcd = Etcd::start();
    let url = etcd.url("cpl");
    drop(open(&url).await.unwrap());
    let mut raw = client(&etcd).await;
    for (label, kind, text) in [
        (
            r#"{"format":9,"store":"00000000000000000000000000000007","incarnation":2,"cluster":"ab"}"#,
            Kind::Invalid,
            "has format 9",
        ),
        ("hello", Kind::Invalid, "is not a label"),
    ] {
        raw.put(LABEL, label, None).await.unwrap();
        let error = refused(&url).await;
        assert_eq!(*error.kind(), kind);
        assert!(error.to_string().contains(text), "{error}");
    }
    etcd.kill();
    let clock = runtime().clock;
    let start = clock.monotonic();
    let error = refused(&url).await;
    assert!(
        matches!(error.kind(), Kind::NotConnected | Kind::Timeout),
        "{error:?}"
    );
    assert!(clock.monotonic().since(start) < Duration::from_secs(12));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_too_old_is_refused() {
    let etcd = Etcd::start();
    let version = client(&etcd).await.status().await.unwrap();
    let version = version.version().to_owned();
    let old = format!("2{}", &version[1..]);
    let proxy = Proxy::changing(etcd.port(), version.as_bytes(), old.as_bytes());
    let error = refused(&format!("etcd://127.0.0.1:{}/cpl", proxy.port)).await;
    assert_eq!(*error.kind(), Kind::Invalid);
    let text = error.to_string();
    assert!(text.contains(&old) && text.contains("3.4.23"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_of_a_server_is_checked() {
    let (own, other) = (Certificate::fresh(), Certificate::fresh());
    let etcd = Etcd::start_with_tls(&own);
    let checked = |by: &Certificate| {
        let ca = by.cert().display().to_string();
        format!("etcds://127.0.0.1:{}/cpl?ca={ca}", etcd.port())
    };
    let clock = runtime().clock;
    let start = clock.monotonic();
    for url in [checked(&other), etcd.url("cpl")] {
        let error = refused(&url).await;
        assert!(
            matches!(error.kind(), Kind::NotConnected | Kind::ConnectionLost),
            "{error:?}"
        );
    }
    assert!(clock.monotonic().since(start) < Duration::from_secs(12));
    let store = open(&checked(&own)).await.unwrap();
    store.commit(put("a")).await.unwrap();
}

/// A role may use one prefix, which is all that a store needs; another user changes the cluster meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_needs_its_password_and_its_prefix_and_keeps_its_store() {
    let etcd = Etcd::start();
    let mut raw = client(&etcd).await;
    raw.role_add("cpl").await.unwrap();
    let own = Permission::read_write("/cpl/").with_prefix();
    raw.role_grant_permission("cpl", own).await.unwrap();
    for (user, password, role) in [("root", "top", "root"), ("cpl", "right", "cpl")] {
        raw.user_add(user, password, None).await.unwrap();
        if role == "root" {
            raw.role_add(role).await.unwrap();
        }
        raw.user_grant_role(user, role).await.unwrap();
    }
    raw.auth_enable().await.unwrap();
    let with = async |prefix: &str, password: &str| {
        let Host {
            clock,
            ids,
            spawner,
        } = Host::new();
        let url = format!("{}?user=cpl", etcd.url(prefix));
        let config = EtcdConfig::parse(&url).unwrap().with_password(password);
        EtcdStore::open(&config, clock, &*ids, &*spawner).await
    };
    let told = |error: &Error| {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        format!("{error}: {}", cause.unwrap_or_default())
    };
    for (error, text) in [
        (
            with("cpl", "wr0ng").await.unwrap_err(),
            "authentication failed",
        ),
        (
            with("other", "right").await.unwrap_err(),
            "permission denied",
        ),
        (refused(&etcd.url("cpl")).await, "user name is empty"),
    ] {
        assert_eq!(*error.kind(), Kind::Unauthorized, "{error:?}");
        let told = told(&error);
        assert!(told.contains(text) && !told.contains("wr0ng"), "{told}");
    }
    let store = with("cpl", "right").await.unwrap();
    let at = store.head().await.unwrap();
    let mut watch = store.watch(Range::all(), at).await.unwrap();
    store.commit(put("a")).await.unwrap();
    // Every change of users makes older tokens useless.
    let root = ConnectOptions::new().with_user("root", "top");
    let mut root = Client::connect([format!("127.0.0.1:{}", etcd.port())], Some(root))
        .await
        .unwrap();
    root.user_add("another", "one", None).await.unwrap();
    store.commit(put("b")).await.unwrap();
    for name in ["a", "b"] {
        let WatchItem::Events { events, .. } = next(&mut watch).await else {
            panic!("the watch goes on");
        };
        assert_eq!(events[0].key().as_str(), Some(name));
    }
}

/// etcd's own limit comes before the disk's, and its operator has to lift it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_space_is_told_and_goes_on_when_it_has_some() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes=8388608"]);
    let url = etcd.url("cpl");
    let store = open(&url).await.unwrap();
    store.commit(put("before")).await.unwrap();
    let key = Key::new("large").unwrap();
    let large = || Txn::new().put(key.clone(), vec![7; 1_000_000]);
    let mut refusal = None;
    for _ in 0..50 {
        if let Err(error) = store.commit(large()).await {
            refusal = Some(error);
            break;
        }
    }
    let error = refusal.expect("there is no space");
    assert_eq!(*error.kind(), Kind::ReadOnly);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("database space exceeded"), "{cause}");
    let before = Key::new("before").unwrap();
    assert!(store.get(&before).await.unwrap().value.is_some());
    let error = refused(&etcd.url("another")).await;
    assert_eq!(*error.kind(), Kind::ReadOnly, "{error}");

    let mut raw = client(&etcd).await;
    let head = store.head().await.unwrap().revision;
    store.compact(head).await.unwrap();
    // A compaction goes on for a moment after its answer.
    let mut goes_on = false;
    for _ in 0..100 {
        raw.defragment().await.unwrap();
        let raised = raw.alarm(AlarmAction::Get, AlarmType::Nospace, None).await;
        for alarm in raised.unwrap().alarms() {
            let mut member = AlarmOptions::new();
            member.with_member(alarm.member_id());
            raw.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(member))
                .await
                .unwrap();
        }
        goes_on = store.commit(put("after")).await.is_ok();
        if goes_on {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(goes_on && store.refusal().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_have_under_the_prefix_does_not_become_a_store() {
    let etcd = Etcd::start();
    let mut raw = client(&etcd).await;
    raw.put("/cpl/v1/nodes/a/spec", "{}", None).await.unwrap();
    let error = refused(&etcd.url("cpl")).await;
    assert_eq!(*error.kind(), Kind::Invalid);
    assert!(
        error
            .to_string()
            .contains("1 keys under its prefix are not of a store"),
        "{error}"
    );
    open(&etcd.url("other")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_cluster_begins_another_life() {
    let etcd = Etcd::start();
    let url = etcd.url("cpl");
    let old = open(&url).await.unwrap();
    old.commit(put("a")).await.unwrap();
    let at = old.head().await.unwrap();
    let mut watch = old.watch(Range::all(), at).await.unwrap();
    // As the label of a store that was in another cluster: a restoration without one.
    let mut raw = client(&etcd).await;
    let label = raw.get(LABEL, None).await.unwrap();
    let text = label.kvs()[0].value_str().unwrap().to_owned();
    let cluster = text.find("cluster\":\"").unwrap() + 10;
    let moved = format!(
        "{}{}{}",
        &text[..cluster],
        "0123456789abcdef",
        &text[cluster + 16..]
    );
    raw.put(LABEL, moved, None).await.unwrap();

    let new = open(&url).await.unwrap();
    let now = new.head().await.unwrap();
    assert_eq!(now.identity.store, at.identity.store);
    assert_eq!(now.identity.incarnation.0, at.identity.incarnation.0 + 1);
    assert_eq!(
        *new.watch(Range::all(), at).await.err().unwrap().kind(),
        Kind::IdentityChanged
    );
    assert_eq!(
        *old.commit(put("c")).await.unwrap_err().kind(),
        Kind::IdentityChanged
    );
    assert_eq!(
        next(&mut watch).await,
        WatchItem::End(EndReason::IdentityChanged)
    );
    new.commit(put("b")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_told_as_stalled_and_misses_nothing() {
    let mut etcd = Etcd::start();
    let store = open(&etcd.url("cpl")).await.unwrap();
    let at = store.head().await.unwrap();
    let mut watch = store.watch(Range::all(), at).await.unwrap();
    etcd.kill();
    let stalled = async {
        loop {
            match watch.next().await.unwrap() {
                WatchItem::Stalled(silence) => break silence,
                WatchItem::Progress(_) => {},
                other => panic!("{other:?}"),
            }
        }
    };
    let silence = tokio::time::timeout(Duration::from_secs(20), stalled)
        .await
        .unwrap();
    assert!(silence >= Duration::from_secs(3), "{silence:?}");
    etcd.serve();
    let mut applied = None;
    for _ in 0..100 {
        if store.commit(put("a")).await.is_ok() {
            applied = Some(());
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    applied.expect("it goes on");
    let WatchItem::Events { events, .. } = next(&mut watch).await else {
        panic!("the event of what was written");
    };
    assert_eq!(events[0].key().as_str(), Some("a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_in_the_cluster_take_revisions_and_compact_and_that_is_all() {
    let etcd = Etcd::start();
    let store = open(&etcd.url("cpl")).await.unwrap();
    let mut raw = client(&etcd).await;
    let start = store.head().await.unwrap();
    store.commit(put("a")).await.unwrap();
    for n in 0..50 {
        raw.put(format!("/others/{n}"), "x", None).await.unwrap();
    }
    // Nobody writes here any more, but the revision that head tells is reached.
    let head = store.head().await.unwrap();
    assert!(head.revision.0 > start.revision.0 + 50);
    let mut watch = store.watch(Range::all(), start).await.unwrap();
    let reached = async {
        loop {
            match watch.next().await.unwrap() {
                WatchItem::Progress(at) if at.revision >= head.revision => break,
                WatchItem::End(reason) => panic!("{reason:?}"),
                _ => {},
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached)
        .await
        .unwrap();

    let compacted = head.revision.0 - 5;
    raw.compact(i64::try_from(compacted).unwrap(), None)
        .await
        .unwrap();
    let other = open(&etcd.url("cpl")).await.unwrap();
    let gone = other.watch(Range::all(), start).await.err().unwrap();
    assert_eq!(
        *gone.kind(),
        Kind::Compacted {
            compacted: Revision(compacted)
        }
    );
    let under = GetOptions::new().with_prefix();
    let kept = raw.get(b"/cpl/\xfd", Some(under)).await.unwrap();
    assert_eq!(kept.kvs().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_large_values_fit_whatever_their_size() {
    let etcd = Etcd::start();
    let store = open(&etcd.url("cpl")).await.unwrap();
    for n in 0..60 {
        let key = Key::new(format!("k{n:02}")).unwrap();
        store
            .commit(Txn::new().put(key, vec![7; 1_000_000]))
            .await
            .unwrap();
    }
    let mut request = cpl_core::store::ListRequest::first(Range::all());
    let mut found = 0;
    loop {
        let page = store.list(request.clone()).await.unwrap();
        found += page.entries.len();
        assert!(page.entries.len() <= 5, "4 MiB in a page");
        request.page = page.next;
        if request.page.is_none() {
            break;
        }
    }
    assert_eq!(found, 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_its_store() {
    let backend = Etcd::start();
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
