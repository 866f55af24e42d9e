//! Appending what agents say, in batches.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::clock::{Clock, Spawner, Task};
use crate::delivery::model::Fact;
use crate::delivery::repo::report_key;
use crate::delivery::rules::closing;
use crate::error::{Error, Kind};
use crate::ids::{IdGen, TxnId};
use crate::lease::Session;
use crate::store::Store;
use crate::txn::{FencedTxn, Guard, Settled, commit};

/// Facts that may wait to be appended; more are refused, and agents try again. Above the connections
/// that a server takes (20,000): all of a fleet that comes back at once must fit.
const QUEUE: usize = 32_768;
/// Facts of one batch.
const BATCH: usize = 256;
/// Bytes of one batch, well below the largest value.
const BATCH_BYTES: usize = 256 << 10;
/// How long one write of this slice may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A fact in the form in which it is stored.
type Waiting = (Box<RawValue>, oneshot::Sender<Result<(), Error>>);

/// Appends facts durably, in batches: what arrives during a commit goes into the next one.
#[derive(Clone, Debug)]
pub struct Appender {
    queue: mpsc::Sender<Waiting>,
}

impl Appender {
    /// Starts appending under a session; `appended` is notified after each batch.
    pub fn start(
        (store, clock, ids): (Arc<dyn Store>, Arc<dyn Clock>, Arc<dyn IdGen>),
        session: Session,
        appended: Arc<Notify>,
        spawner: &dyn Spawner,
    ) -> (Self, Task) {
        let (queue, facts) = mpsc::channel(QUEUE);
        let append = Append {
            store,
            clock,
            ids,
            session,
            facts,
            appended,
            number: 0,
        };
        (
            Self { queue },
            spawner.spawn("report-appender", Box::pin(append.run())),
        )
    }

    /// Appends one fact and returns when it is durable.
    pub async fn append(&self, fact: &Fact) -> Result<(), Error> {
        let (done, appended) = oneshot::channel();
        let fact = to_raw_value(fact).map_err(|error| {
            let detail = format!("a fact cannot be written down: {error}");
            Error::new(Kind::Internal, "INVARIANT", detail)
        })?;
        self.queue
            .try_send((fact, done))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Error::new(
                    Kind::Exhausted,
                    "REPORTS_BACKLOG",
                    "too many reports are waiting",
                ),
                mpsc::error::TrySendError::Closed(_) => closing(),
            })?;
        appended.await.unwrap_or_else(|_| Err(closing()))
    }
}

struct Append {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGen>,
    session: Session,
    facts: mpsc::Receiver<Waiting>,
    appended: Arc<Notify>,
    number: u64,
}

impl Append {
    async fn run(mut self) {
        let mut carried: Option<Waiting> = None;
        loop {
            let first = match carried.take() {
                Some(waiting) => waiting,
                None => match self.facts.recv().await {
                    Some(waiting) => waiting,
                    None => return,
                },
            };
            let mut batch = vec![first];
            let mut bytes = batch[0].0.get().len();
            while batch.len() < BATCH
                && let Ok(next) = self.facts.try_recv()
            {
                bytes += next.0.get().len();
                if bytes > BATCH_BYTES {
                    carried = Some(next);
                    break;
                }
                batch.push(next);
            }
            self.write(batch).await;
        }
    }

    async fn write(&mut self, batch: Vec<Waiting>) {
        let facts: Vec<&RawValue> = batch.iter().map(|(fact, _)| &**fact).collect();
        self.number += 1;
        let key = report_key(self.session.owner().epoch, self.number);
        let mut txn = FencedTxn::new(TxnId::fresh(&*self.ids), &self.session);
        txn.put(key, Guard::ABSENT, &facts);
        let deadline = self.clock.monotonic().plus(PATIENCE);
        let settled = commit(&*self.store, &*self.clock, &*self.ids, txn, deadline).await;
        for (_, done) in batch {
            let answer = match &settled {
                Ok(Settled::Applied(_)) => Ok(()),
                Ok(Settled::Lost { .. }) => {
                    let detail = "this replica no longer has its session";
                    Err(Error::new(Kind::Unavailable, "SESSION_LOST", detail))
                },
                Err(error) => Err(Error::new(error.kind(), error.reason(), error.to_string())),
            };
            if done.send(answer).is_err() {
                tracing::debug!("an agent went away before its report was durable");
            }
        }
        self.appended.notify_one();
    }
}
