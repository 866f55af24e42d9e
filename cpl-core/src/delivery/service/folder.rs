//! Folding what was appended into status and log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::select;
use tokio::sync::Notify;

use super::appender::PATIENCE;
use crate::agent::agent_key;
use crate::clock::Clock;
use crate::delivery::model::{Fact, LogEntry, RenderedRecord, StatusRecord};
use crate::delivery::repo::{REPORT, log_key, rendered_key, report_range, status_key};
use crate::delivery::rules::fold;
use crate::error::{Error, Kind};
use crate::ids::{IdGen, TxnId};
use crate::lease::Shard;
use crate::store::{Entry, Key, ListRequest, Store};
use crate::task::{ConfigUpdate, config_update_key};
use crate::txn::{FencedTxn, Guard, Settled, commit, decode};

/// Nodes of one folding transaction: status, log and task of each, within every backend's limits.
const NODES: usize = 30;
/// Pause of the folder after an error, and longest time between two looks: other replicas append, too.
const FOLD_PAUSE: Duration = Duration::from_millis(250);

/// Folds appended facts into status and log: the work of the shard's owner.
#[derive(Debug)]
pub struct Folder {
    /// Where everything is.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub ids: Arc<dyn IdGen>,
    /// The fence.
    pub shard: Shard,
    /// Tells that something was appended.
    pub appended: Arc<Notify>,
}

impl Folder {
    /// Folds until dropped.
    pub async fn run(self) {
        loop {
            if let Err(error) = self.fold_all().await {
                tracing::warn!(%error, "failed to fold reports, trying again");
            }
            let appended = Box::pin(self.appended.notified());
            let _ = select(appended, self.clock.sleep(FOLD_PAUSE)).await;
        }
    }

    /// Folds everything that has been appended.
    pub async fn fold_all(&self) -> Result<(), Error> {
        loop {
            let request = ListRequest {
                limit: 16,
                ..ListRequest::first(report_range())
            };
            let page = self.store.list(request).await;
            let page = page.map_err(|error| Error::store("list reports", error))?;
            if page.entries.is_empty() {
                return Ok(());
            }
            for entry in &page.entries {
                self.fold_batch(entry).await?;
            }
        }
    }

    async fn fold_batch(&self, entry: &Entry) -> Result<(), Error> {
        let facts: Vec<Fact> = serde_json::from_slice(&entry.value)
            .map_err(|error| Error::corrupt(&entry.key, error))?;
        let mut by_node: BTreeMap<&str, Vec<&Fact>> = BTreeMap::new();
        for fact in &facts {
            by_node.entry(fact.node()).or_default().push(fact);
        }
        let nodes: Vec<_> = by_node.into_iter().collect();
        for chunk in nodes.chunks(NODES) {
            let mut txn = FencedTxn::new(TxnId::fresh(&*self.ids), &self.shard);
            for (node, facts) in chunk {
                self.fold_node(&mut txn, node, facts).await?;
            }
            self.write(txn).await?;
        }
        let mut txn = FencedTxn::new(TxnId::fresh(&*self.ids), &self.shard);
        if let Some([shard, id]) = REPORT.parts(&entry.key).as_deref() {
            txn.delete(REPORT.key(&[shard, id]));
        }
        self.write(txn).await
    }

    async fn fold_node(
        &self,
        txn: &mut FencedTxn,
        node: &str,
        facts: &[&Fact],
    ) -> Result<(), Error> {
        let agent = self.read(agent_key(node).key()).await?;
        // A node that was removed meanwhile must not get a status again.
        let Some(agent) = agent else { return Ok(()) };
        let status_entry = self.read(status_key(node).key()).await?;
        let log_entry = self.read(log_key(node).key()).await?;
        let status: Option<StatusRecord> = decode(status_entry.as_ref())?;
        let log: Vec<LogEntry> = decode(log_entry.as_ref())?.unwrap_or_default();
        let rendered: Option<RenderedRecord> =
            decode(self.read(rendered_key(node).key()).await?.as_ref())?;
        let folded = fold(status.as_ref(), &log, rendered.as_ref(), facts);
        if folded.status.is_none() && folded.log.is_none() {
            return Ok(());
        }
        txn.require(agent_key(node).key(), Guard::of(Some(&agent.meta)));
        let guard = |entry: &Option<Entry>| Guard::of(entry.as_ref().map(|entry| &entry.meta));
        if let Some(status) = folded.status {
            let task: Option<ConfigUpdate> =
                decode(self.read(config_update_key(node).key()).await?.as_ref())?;
            let done = task
                .is_some_and(|task| status.current_config_version >= task.target_config_version);
            if done {
                txn.delete(config_update_key(node));
            }
            txn.put(status_key(node), guard(&status_entry), &status);
        }
        if let Some(log) = folded.log {
            txn.put(log_key(node), guard(&log_entry), &log);
        }
        Ok(())
    }

    async fn write(&self, txn: FencedTxn) -> Result<(), Error> {
        if txn.is_empty() {
            return Ok(());
        }
        let deadline = self.clock.monotonic().plus(PATIENCE);
        match commit(&*self.store, &*self.clock, &*self.ids, txn, deadline).await? {
            Settled::Applied(_) => Ok(()),
            Settled::Lost { .. } => {
                let detail = "somebody else wrote the status or owns the shard";
                Err(Error::new(Kind::Aborted, "FOLD_CONTESTED", detail))
            },
        }
    }

    async fn read(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let read = self.store.get(key).await;
        Ok(read
            .map_err(|error| Error::store("read a node's record", error))?
            .value)
    }
}
