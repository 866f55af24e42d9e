//! Records that have outlived their retention: answers to idempotency keys, audit, history, and what
//! the store keeps of superseded values.

use std::sync::Arc;
use std::time::Duration;

use cpl_core::clock::{Clock, Timestamp};
use cpl_core::error::Error;
use cpl_core::ids::{IdGen, TxnId};
use cpl_core::lease::Shard;
use cpl_core::spec::{Kinds, history_key, history_range};
use cpl_core::store::{Entry, ListRequest, Range, Revision, Store};
use cpl_core::txn::{
    AUDIT, FencedTxn, IDEMPOTENCY, IdempotencyRecord, Record, Settled, TypedKey, commit,
};

/// How often it looks.
const EVERY: Duration = Duration::from_mins(5);
/// Answers to idempotency keys are kept this long.
const ANSWERS: Duration = Duration::from_hours(24);
/// Audit records are kept this long.
const AUDITS: Duration = Duration::from_hours(24 * 90);
/// Newest records kept of each object's history.
const HISTORY: usize = 100;
/// Records removed in one transaction.
const AT_ONCE: usize = 50;
/// Revisions that watchers and page tokens may lag behind.
const REVISIONS: u64 = 20_000;
/// How long one write may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Removes old records; the work of the shard's owner.
#[derive(Debug)]
pub(crate) struct Housekeeping {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdGen>,
    pub(crate) shard: Shard,
    pub(crate) kinds: Kinds,
}

impl Housekeeping {
    /// Removes until dropped.
    pub(crate) async fn run(self) {
        loop {
            self.clock.sleep(EVERY).await;
            if let Err(error) = self.once().await {
                tracing::warn!(%error, "failed to remove old records, trying again later");
            }
        }
    }

    /// One round over everything.
    pub(crate) async fn once(&self) -> Result<(), Error> {
        let now = self.clock.wall();
        self.remove(&IDEMPOTENCY.range(&[]), |entry| {
            let record: Option<IdempotencyRecord> = serde_json::from_slice(&entry.value).ok();
            let old = record.is_none_or(|record| now.since(record.at) > ANSWERS);
            let parts = IDEMPOTENCY.parts(&entry.key)?;
            old.then(|| IDEMPOTENCY.key(&parts))
        })
        .await?;
        self.remove(&AUDIT.range(&[]), |entry| {
            let parts = AUDIT.parts(&entry.key)?;
            let at = parts
                .first()?
                .split('-')
                .next()?
                .parse()
                .ok()
                .map(Timestamp)?;
            (now.since(at) > AUDITS).then(|| AUDIT.key(&parts))
        })
        .await?;
        self.trim_histories().await?;
        self.compact().await
    }

    async fn trim_histories(&self) -> Result<(), Error> {
        for kind in self.kinds.iter() {
            let prefix = format!("/cpl/v1/{}/", kind.collection());
            let Ok(range) = Range::prefix(prefix) else {
                continue;
            };
            let mut names: Vec<String> = Vec::new();
            self.each(&range, |entry| {
                let name = entry.key.as_str().and_then(|key| key.split('/').nth(4));
                if let Some(name) = name.filter(|name| names.last().is_none_or(|l| l != name)) {
                    names.push(name.to_owned());
                }
            })
            .await?;
            for name in names {
                let mut changes = Vec::new();
                self.each(&history_range(kind, &name), |entry| {
                    changes.extend(
                        entry
                            .key
                            .as_str()
                            .and_then(|key| key.rsplit('/').next())
                            .map(str::to_owned),
                    );
                })
                .await?;
                changes.truncate(changes.len().saturating_sub(HISTORY));
                let keys = changes
                    .iter()
                    .map(|change| history_key(kind, &name, change))
                    .collect();
                self.delete(keys).await?;
            }
        }
        Ok(())
    }

    async fn compact(&self) -> Result<(), Error> {
        let wrong = |error| Error::store("compact the store", error);
        let head = self.store.head().await.map_err(wrong)?.revision;
        self.store
            .compact(Revision(head.0.saturating_sub(REVISIONS)))
            .await
            .map_err(wrong)
    }

    async fn remove(
        &self,
        range: &Range,
        old: impl Fn(&Entry) -> Option<TypedKey<Record>> + Send + Sync,
    ) -> Result<(), Error> {
        let mut keys = Vec::new();
        self.each(range, |entry| keys.extend(old(entry))).await?;
        self.delete(keys).await
    }

    async fn each(&self, range: &Range, mut see: impl FnMut(&Entry) + Send) -> Result<(), Error> {
        let mut request = ListRequest::first(range.clone());
        loop {
            let page = self.store.list(request).await;
            let page = page.map_err(|error| Error::store("list old records", error))?;
            page.entries.iter().for_each(&mut see);
            match page.next {
                Some(token) => {
                    request = ListRequest {
                        page: Some(token),
                        ..ListRequest::first(range.clone())
                    };
                },
                None => return Ok(()),
            }
        }
    }

    async fn delete(&self, keys: Vec<TypedKey<Record>>) -> Result<(), Error> {
        for chunk in keys.chunks(AT_ONCE) {
            let mut txn = FencedTxn::new(TxnId::fresh(&*self.ids), &self.shard);
            for key in chunk {
                txn.trim(key.clone());
            }
            let deadline = self.clock.monotonic().plus(PATIENCE);
            let settled = commit(&*self.store, &*self.clock, &*self.ids, txn, deadline).await?;
            if matches!(settled, Settled::Lost { .. }) {
                // Somebody else owns the shard; the work is theirs now.
                return Ok(());
            }
        }
        Ok(())
    }
}
