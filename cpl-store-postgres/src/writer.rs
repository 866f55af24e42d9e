//! Commits: whatever queued while the commit before was under way goes in one call.

use std::sync::{Arc, Mutex, PoisonError};

use cpl_core::store::{Commit, Error, Incarnation, Key, KeyMeta, Kind, Tail, Txn};
use sqlx::FromRow;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::link::Link;
use crate::rows;

/// Most transactions of one call.
const BATCH: usize = 256;
/// Most bytes of one call, but always one transaction.
const BATCH_BYTES: usize = 4 << 20;
/// Transactions that may wait; whoever comes then waits for room.
pub(crate) const QUEUE: usize = 1_024;

/// A transaction that waits for its answer.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) txn: Txn,
    pub(crate) reply: oneshot::Sender<Result<Commit, Error>>,
}

/// Why the last call was refused, for health checks.
#[derive(Debug, Default)]
pub(crate) struct Refusal(Mutex<Option<(Kind, String)>>);

impl Refusal {
    pub(crate) fn get(&self) -> Option<Error> {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, context) = refused.clone()?;
        Some(Error::new(kind, context))
    }

    fn set(&self, error: Option<&Error>) {
        let refused = error.map(|error| (error.kind().clone(), error.context().to_owned()));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }
}

/// The one that writes for this process. Other processes have their own; the database orders them.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) queue: mpsc::Receiver<Queued>,
    pub(crate) link: Link,
    pub(crate) incarnation: Incarnation,
    pub(crate) tail: Arc<Tail>,
    /// Tells the follower that there is something new.
    pub(crate) news: Arc<Notify>,
    pub(crate) refusal: Arc<Refusal>,
}

impl Writer {
    pub(crate) async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            let mut bytes = first.txn.bytes();
            let mut batch = vec![first];
            while batch.len() < BATCH
                && bytes < BATCH_BYTES
                && let Ok(next) = self.queue.try_recv()
            {
                bytes += next.txn.bytes();
                batch.push(next);
            }
            // Whoever no longer waits for the answer is not asking any more.
            batch.retain(|queued| !queued.reply.is_closed());
            if !batch.is_empty() {
                self.commit(batch).await;
            }
        }
    }

    async fn commit(&mut self, batch: Vec<Queued>) {
        let (txns, replies): (Vec<Txn>, Vec<_>) = batch
            .into_iter()
            .map(|queued| (queued.txn, queued.reply))
            .unzip();
        let call = Call::new(self.incarnation, &txns);
        let answers = self.link.run("commit transactions", |connection| {
            Box::pin(async move {
                sqlx::query_as::<_, Answer>(
                    "SELECT * FROM apply($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                )
                .bind(call.life)
                .bind(&call.ids)
                .bind(&call.digests)
                .bind(&call.compare_counts)
                .bind(&call.write_counts)
                .bind(&call.compare_keys)
                .bind(&call.compare_revisions)
                .bind(&call.write_keys)
                .bind(&call.write_values)
                .fetch_all(connection)
                .await
            })
        });
        let answers = answers.await;
        self.refusal.set(answers.as_ref().err());
        match answers {
            Ok(answers) if answers.len() == txns.len() => {
                self.news.notify_one();
                for ((txn, reply), answer) in txns.iter().zip(replies).zip(answers) {
                    // Nobody may be waiting any more.
                    let _nobody = reply.send(answer.commit(txn, &self.tail));
                }
            },
            Ok(_) => fail(
                replies,
                &Error::new(Kind::Corrupt, "commit transactions: an answer is missing"),
            ),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a commit failed");
                // Those that are perhaps applied are news as well.
                self.news.notify_one();
                fail(replies, &error);
            },
        }
    }
}

fn fail(replies: Vec<oneshot::Sender<Result<Commit, Error>>>, error: &Error) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    for reply in replies {
        let mut same = Error::new(error.kind().clone(), error.context());
        if let Some(cause) = &cause {
            same = same.with_source(cause.clone());
        }
        let _nobody = reply.send(Err(same));
    }
}

/// A batch as the arguments of `apply`.
struct Call {
    life: i64,
    ids: Vec<Option<Vec<u8>>>,
    digests: Vec<Option<Vec<u8>>>,
    compare_counts: Vec<i32>,
    write_counts: Vec<i32>,
    compare_keys: Vec<Vec<u8>>,
    compare_revisions: Vec<i64>,
    write_keys: Vec<Vec<u8>>,
    write_values: Vec<Option<Vec<u8>>>,
}

impl Call {
    fn new(life: Incarnation, txns: &[Txn]) -> Self {
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let compares = || txns.iter().flat_map(|txn| &txn.compares);
        let ops = || txns.iter().flat_map(|txn| &txn.ops);
        let bytes = |key: &Key| key.as_bytes().to_vec();
        Self {
            life: life.0.cast_signed(),
            ids: txns
                .iter()
                .map(|txn| txn.id.map(|id| id.0.to_be_bytes().to_vec()))
                .collect(),
            digests: txns
                .iter()
                .map(|txn| txn.id.map(|_| txn.digest().to_vec()))
                .collect(),
            compare_counts: txns.iter().map(|txn| count(txn.compares.len())).collect(),
            write_counts: txns.iter().map(|txn| count(txn.ops.len())).collect(),
            compare_keys: compares().map(|compare| bytes(&compare.key)).collect(),
            compare_revisions: compares()
                .map(|compare| rows::expected(compare.expect))
                .collect(),
            write_keys: ops().map(|op| bytes(op.key())).collect(),
            write_values: ops().map(rows::value).collect(),
        }
    }
}

/// What `apply` says of one transaction.
#[derive(Debug, FromRow)]
struct Answer {
    verdict: i32,
    at: i64,
    failed: Vec<i32>,
    failed_created: Vec<Option<i64>>,
    failed_revision: Vec<Option<i64>>,
    failed_version: Vec<Option<i64>>,
}

impl Answer {
    fn commit(&self, txn: &Txn, tail: &Tail) -> Result<Commit, Error> {
        let refuse = |kind| Err(Error::new(kind, "commit a transaction"));
        let at = tail.cursor(rows::revision(self.at));
        match self.verdict {
            0 | 1 => Ok(Commit::Applied {
                at,
                replayed: self.verdict == 1,
            }),
            2 => Ok(Commit::CompareFailed {
                failed: self.failures(txn)?,
                at,
            }),
            3 => refuse(Kind::TxnVoid),
            4 => refuse(Kind::TxnIdReused),
            5 => refuse(Kind::IdentityChanged),
            _ => refuse(Kind::Corrupt),
        }
    }

    fn failures(&self, txn: &Txn) -> Result<Vec<(Key, Option<KeyMeta>)>, Error> {
        let corrupt = || Error::new(Kind::Corrupt, "read which compares were false");
        let parts = self
            .failed_created
            .iter()
            .zip(&self.failed_revision)
            .zip(&self.failed_version);
        let metas = parts.map(|((created, at), version)| match (created, at, version) {
            (Some(created), Some(at), Some(version)) => Some(rows::meta(*created, *at, *version)),
            _ => None,
        });
        let one = |(index, meta): (&i32, Option<KeyMeta>)| {
            let index = usize::try_from(*index).map_err(|_| corrupt())?;
            let key = txn.compares.get(index).ok_or_else(corrupt)?.key.clone();
            Ok((key, meta))
        };
        self.failed.iter().zip(metas).map(one).collect()
    }
}
