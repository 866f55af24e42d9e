//! Outcomes that are old enough are forgotten.
//!
//! etcd says at which revision a key was made, not when. So a mark is left every hour, and what was made before a mark
//! that is old enough is old enough, too. (A lease for outcomes would end with tens of thousands of deletions at once.)

use std::sync::Arc;
use std::time::Duration;

use cpl_core::store::{Error, Timestamp, limits};
use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp};

use crate::follow::Life;

const HOUR: Duration = Duration::from_hours(1);
/// When it begins: not while a process that only asks something comes and goes.
const FIRST: Duration = Duration::from_mins(5);
/// Outcomes that are looked at with one request.
const LOOK: i64 = 5_000;
/// Keys that are deleted with one; below the 128 operations that etcd takes.
const DELETE: usize = 100;
const FORGET: &str = "forget old outcomes";

/// Does it every hour; any number of processes may.
pub(crate) async fn run(life: Arc<Life>) {
    life.link.clock.sleep(FIRST).await;
    loop {
        let now = life.link.clock.wall();
        if let Err(error) = forget(&life, now).await {
            // The next hour does it.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot forget old outcomes"
            );
        }
        life.link.clock.sleep(HOUR).await;
    }
}

const fn hour(time: Timestamp) -> u64 {
    time.0 / 3_600_000
}

/// Leaves the mark of this hour and forgets what is older than the newest mark that is old enough. An hour more than is
/// promised allows for clocks that differ.
pub(crate) async fn forget(life: &Life, now: Timestamp) -> Result<(), Error> {
    let mark = life.keys.mark(hour(now));
    let marked = life.link.call(FORGET, |client| {
        let absent = Compare::create_revision(mark.clone(), CompareOp::Equal, 0);
        let txn = Txn::new()
            .when([absent])
            .and_then([TxnOp::put(mark.clone(), "", None)]);
        Box::pin(async move { client.kv_client().txn(txn).await })
    });
    marked.await?;
    let kept = limits::OUTCOME_RETENTION.as_secs().div_ceil(HOUR.as_secs()) + 1;
    let (first, after) = (
        life.keys.mark(0),
        life.keys.mark(hour(now).saturating_sub(kept) + 1),
    );
    let options = GetOptions::new().with_range(after);
    let marks = page(life, first, options).await?;
    let Some(old) = marks.iter().map(KeyValue::create_revision).max() else {
        return Ok(());
    };
    let (mut first, after) = life.keys.outcomes();
    loop {
        let options = GetOptions::new()
            .with_range(after.clone())
            .with_limit(LOOK)
            .with_keys_only();
        let found = page(life, first.clone(), options).await?;
        let gone = found
            .iter()
            .filter(|kv| kv.create_revision() <= old)
            .map(|kv| kv.key().to_vec());
        delete(life, gone.collect()).await?;
        let Some(last) = found.last() else {
            break;
        };
        first = last.key().to_vec();
        first.push(0);
    }
    // Last, so that what was not done is done the next time.
    delete(life, marks.iter().map(|kv| kv.key().to_vec()).collect()).await
}

async fn page(life: &Life, first: Vec<u8>, options: GetOptions) -> Result<Vec<KeyValue>, Error> {
    let got = life.link.call(FORGET, |client| {
        let (first, options) = (first.clone(), options.clone());
        Box::pin(async move { client.kv_client().get(first, Some(options)).await })
    });
    Ok(got.await?.take_kvs())
}

async fn delete(life: &Life, keys: Vec<Vec<u8>>) -> Result<(), Error> {
    for some in keys.chunks(DELETE) {
        let deleted = life.link.call(FORGET, |client| {
            let deletes: Vec<TxnOp> = some
                .iter()
                .map(|key| TxnOp::delete(key.clone(), None))
                .collect();
            Box::pin(async move { client.kv_client().txn(Txn::new().and_then(deletes)).await })
        });
        deleted.await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cpl_backends::Etcd;
    use cpl_core::store::{Key, Outcome, Store, TxnId};
    use cpl_host::Host;

    use super::*;
    use crate::{EtcdConfig, EtcdStore};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_older_than_a_day_is_forgotten_and_nothing_else() {
        let etcd = Etcd::start();
        let Host {
            clock,
            ids,
            spawner,
        } = Host::new();
        let config = EtcdConfig::parse(&etcd.url("cpl")).unwrap();
        let opened = EtcdStore::open(&config, Arc::clone(&clock), &*ids, &*spawner);
        let store = opened.await.unwrap();
        let commit = async |id: u128| {
            let key = Key::new(format!("k{id}")).unwrap();
            let txn = cpl_core::store::Txn::new().put(key, "v").with_id(TxnId(id));
            store.commit(txn).await.unwrap();
        };
        let ago = |hours: u64| Timestamp(clock.wall().0 - hours * 3_600_000);
        for id in 0..250 {
            commit(id).await;
        }
        // The mark of an hour more than a day ago, as a process has left it then.
        forget(&store.life, ago(25)).await.unwrap();
        commit(1_000).await;
        forget(&store.life, ago(0)).await.unwrap();
        assert_eq!(store.outcome(TxnId(0)).await.unwrap(), Outcome::Void);
        assert_eq!(store.outcome(TxnId(249)).await.unwrap(), Outcome::Void);
        let kept = store.outcome(TxnId(1_000)).await.unwrap();
        assert!(matches!(kept, Outcome::Applied(_)));
        // The old mark is used up, the new one stays.
        let (first, after) = (store.life.keys.mark(0), store.life.keys.mark(u64::MAX));
        let marks = page(&store.life, first, GetOptions::new().with_range(after))
            .await
            .unwrap();
        assert_eq!(marks.len(), 1);
        assert_eq!(marks[0].key(), store.life.keys.mark(hour(clock.wall())));
    }
}
