//! Opens a store, reads from it, and hands writes over.

use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use async_trait::async_trait;
use cpl_core::store::{
    Clock, Commit, Cursor, Entry, Error, IdGen, Key, Kind, Limits, ListRequest, OpenMode, Outcome,
    Page, PageToken, Range, Read, Revision, SealId, Spawner, Store, Tail, Task, Txn, TxnId,
    WatchStream, limits,
};
use sqlx::FromRow;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::bootstrap::{MOVED, bootstrap};
use crate::config::PostgresConfig;
use crate::follow::{Follower, History};
use crate::link::{Connector, Link, Readers};
use crate::rows::{self, EntryRow};
use crate::writer::{QUEUE, Queued, Refusal, Writer};

/// Revisions whose superseded entries are removed in one commit.
const SWEEP_STEP: i64 = 2_000;

/// A store in a schema of a PostgreSQL database.
///
/// It is bound to one life of the store: when the server was promoted or restored since it was opened,
/// everything is [`Kind::IdentityChanged`], because acknowledged revisions may be missing then; open it
/// anew. Dropping it ends its connections.
pub struct PostgresStore {
    tail: Arc<Tail>,
    readers: Arc<Readers>,
    queue: mpsc::Sender<Queued>,
    news: Arc<Notify>,
    refusal: Arc<Refusal>,
    _tasks: [Task; 2],
}

impl Debug for PostgresStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore")
            .field("tail", &self.tail)
            .finish_non_exhaustive()
    }
}

/// A row with what is true of the whole store at the same moment.
#[derive(Debug, FromRow)]
struct Row {
    incarnation: i64,
    head: i64,
    compacted: i64,
    #[sqlx(flatten)]
    entry: EntryRow,
}

impl PostgresStore {
    /// Opens the store of a schema, and makes it when it is not there.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when the server is too old, does not sync, or has a store of a newer format,
    /// [`Kind::ReadOnly`] when it is a standby, [`Kind::Unauthorized`], [`Kind::NotConnected`]. The message
    /// says which.
    pub async fn open(
        config: &PostgresConfig,
        clock: Arc<dyn Clock>,
        ids: &dyn IdGen,
        spawner: &dyn Spawner,
    ) -> Result<Self, Error> {
        Self::open_as(OpenMode::ExistingOrNew, config, clock, ids, spawner).await
    }

    /// Opens the store of a schema, or makes it.
    ///
    /// # Errors
    /// Those of [`PostgresStore::open`]; [`Kind::Invalid`] when what is there is not what the mode expects.
    pub async fn open_as(
        mode: OpenMode,
        config: &PostgresConfig,
        clock: Arc<dyn Clock>,
        ids: &dyn IdGen,
        spawner: &dyn Spawner,
    ) -> Result<Self, Error> {
        let opened = bootstrap(mode, config, &*clock, ids).await?;
        let connector = Arc::new(Connector {
            options: config.options.clone(),
            incarnation: opened.identity.incarnation,
            clock: Arc::clone(&clock),
        });
        let tail = Tail::new(
            opened.identity,
            opened.head,
            opened.compacted,
            Arc::clone(&clock),
        );
        let (tail, news) = (Arc::new(tail), Arc::new(Notify::new()));
        let refusal = Arc::new(Refusal::default());
        let (queue, queued) = mpsc::channel(QUEUE);
        let writer = Writer {
            queue: queued,
            link: Link::new(Arc::clone(&connector)),
            incarnation: opened.identity.incarnation,
            tail: Arc::clone(&tail),
            news: Arc::clone(&news),
            refusal: Arc::clone(&refusal),
        };
        let follower = Follower {
            link: Link::new(Arc::clone(&connector)),
            tail: Arc::clone(&tail),
            news: Arc::clone(&news),
            clock,
        };
        let tasks = [
            spawner.spawn("postgres writer", Box::pin(writer.run())),
            spawner.spawn("postgres follower", Box::pin(follower.run())),
        ];
        Ok(Self {
            tail,
            readers: Arc::new(Readers::new(connector)),
            queue,
            news,
            refusal,
            _tasks: tasks,
        })
    }

    fn same_life(&self, incarnation: i64, context: &str) -> Result<(), Error> {
        if incarnation.cast_unsigned() == self.tail.identity().incarnation.0 {
            return Ok(());
        }
        Err(Error::new(Kind::IdentityChanged, context))
    }

    async fn newest(&self) -> Result<Revision, Error> {
        let context = "read the newest revision";
        let read = self.readers.run(context, |connection| {
            Box::pin(sqlx::query_as("SELECT incarnation, head FROM meta").fetch_one(connection))
        });
        let (incarnation, head): (i64, i64) = read.await?;
        self.same_life(incarnation, context)?;
        Ok(rows::revision(head))
    }

    /// Refuses a revision that is ahead of the store; another process may have seen more than this one.
    async fn not_ahead(&self, revision: Revision) -> Result<(), Error> {
        if revision > self.tail.head() {
            let head = self.newest().await?;
            if revision > head {
                return Err(Error::new(
                    Kind::FutureRevision { head },
                    "resume after a cursor",
                ));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn limits(&self) -> Limits {
        Limits::portable(false)
    }

    fn refusal(&self) -> Option<Error> {
        self.refusal.get()
    }

    async fn head(&self) -> Result<Cursor, Error> {
        Ok(self.tail.cursor(self.newest().await?))
    }

    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, Error> {
        let context = "read a key";
        let read = self.readers.run(context, |connection| {
            let key = key.as_bytes().to_vec();
            Box::pin(async move {
                sqlx::query_as::<_, Row>(
                    "SELECT m.incarnation, m.head, m.compacted, e.* FROM meta m LEFT JOIN LATERAL \
                     (SELECT key, revision, created, version, value FROM entry \
                      WHERE key = $1 ORDER BY revision DESC LIMIT 1) e ON true",
                )
                .bind(key)
                .fetch_one(connection)
                .await
            })
        });
        let row = read.await?;
        self.same_life(row.incarnation, context)?;
        Ok(Read {
            at: self.tail.cursor(rows::revision(row.head)),
            value: row.entry.entry()?,
        })
    }

    async fn list(&self, request: ListRequest) -> Result<Page, Error> {
        let context = "list a range";
        let mut pinned = None;
        let (first, before) = rows::bounds(&request.range);
        let (mut first, before) = (first.to_vec(), before.to_vec());
        if let Some(token) = &request.page {
            if token.range != request.range {
                let context = "list: the page token belongs to another range";
                return Err(Error::new(Kind::Invalid, context));
            }
            self.tail.check(&token.at)?;
            pinned = Some(token.at.revision);
            first = token.after.as_bytes().to_vec();
            first.push(0);
        }
        let limit = request.limit.clamp(1, limits::PAGE_ENTRIES);
        let read = self.readers.run(context, |connection| {
            let (first, before) = (first.clone(), before.clone());
            Box::pin(async move {
                sqlx::query_as::<_, Row>(
                    "SELECT m.incarnation, m.head, m.compacted, p.* FROM meta m LEFT JOIN LATERAL \
                     page($1, $2, coalesce($3, m.head), $4, $5) p ON true",
                )
                .bind(first)
                .bind(before)
                .bind(pinned.map(rows::number))
                .bind(i32::try_from(limit).unwrap_or(i32::MAX))
                .bind(i32::try_from(limits::PAGE_BYTES).unwrap_or(i32::MAX))
                .fetch_all(connection)
                .await
            })
        });
        let found = read.await?;
        self.page(request, pinned, found)
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        txn.validate(&self.limits())?;
        let closed = || {
            Error::new(
                Kind::NotConnected,
                "commit a transaction: the store is closing",
            )
        };
        let (reply, answer) = oneshot::channel();
        self.queue
            .send(Queued { txn, reply })
            .await
            .map_err(|_| closed())?;
        match answer.await {
            Ok(answer) => answer,
            // The writer was stopped with the request in hand.
            Err(_) => Err(Error::new(Kind::ConnectionLost, "commit a transaction")),
        }
    }

    async fn watch(&self, range: Range, after: Cursor) -> Result<WatchStream, Error> {
        self.tail.check(&after)?;
        self.not_ahead(after.revision).await?;
        let history = History {
            readers: Arc::clone(&self.readers),
            life: self.tail.identity().incarnation,
        };
        Ok(self.tail.watch(range, after, Arc::new(history)))
    }

    async fn outcome(&self, id: TxnId) -> Result<Outcome, Error> {
        let context = "settle a transaction";
        // A write, but one that may be repeated: the first one counts.
        let settled = self.readers.run(context, |connection| {
            let life = self.tail.identity().incarnation.0.cast_signed();
            Box::pin(async move {
                sqlx::query_as("SELECT * FROM settle($1, $2)")
                    .bind(life)
                    .bind(&id.0.to_be_bytes()[..])
                    .fetch_one(connection)
                    .await
            })
        });
        let (same_life, revision): (bool, Option<i64>) = settled.await?;
        if !same_life {
            return Err(Error::new(Kind::IdentityChanged, context));
        }
        Ok(revision.map_or(Outcome::Void, |at| Outcome::Applied(rows::revision(at))))
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        let context = "compact the store";
        let life = self.tail.identity().incarnation.0.cast_signed();
        let marked = self.readers.run(context, |connection| {
            Box::pin(async move {
                sqlx::query_scalar(
                    "UPDATE meta SET compacted = greatest(compacted, $1) \
                     WHERE incarnation = $2 AND head >= $1 RETURNING compacted",
                )
                .bind(rows::number(through))
                .bind(life)
                .fetch_optional(connection)
                .await
            })
        });
        let marked: Option<i64> = marked.await?;
        let Some(compacted) = marked else {
            let head = self.newest().await?;
            return Err(Error::new(Kind::FutureRevision { head }, context));
        };
        self.tail.compact(rows::revision(compacted));
        self.news.notify_one();
        // What is not removed here, because this is dropped or another process is at it, goes the next time.
        let mut before = None;
        loop {
            let swept: Option<i64> = self
                .readers
                .run(context, |connection| {
                    let step = sqlx::query_scalar("SELECT sweep_some($1)").bind(SWEEP_STEP);
                    Box::pin(step.fetch_one(connection))
                })
                .await?;
            if swept.is_none_or(|swept| swept >= compacted) || swept == before {
                return Ok(());
            }
            before = swept;
        }
    }

    async fn seal(&self, seal: SealId) -> Result<Cursor, Error> {
        let context = "seal the store";
        let sealed = self.readers.run(context, |connection| {
            let life = self.tail.identity().incarnation.0.cast_signed();
            // The lock of the row puts this before or after every commit.
            let update = sqlx::query_scalar(
                "UPDATE meta SET seal = $1 WHERE incarnation = $2 AND coalesce(seal, $1) = $1 RETURNING head",
            );
            let update = update.bind(format!("{MOVED}{seal}")).bind(life);
            Box::pin(update.fetch_optional(connection))
        });
        let sealed: Option<i64> = sealed.await?;
        let Some(head) = sealed else {
            // Another life, or another seal.
            self.newest().await?;
            return Err(Error::sealed_by_another());
        };
        self.news.notify_one();
        Ok(self.tail.cursor(rows::revision(head)))
    }

    async fn unseal(&self) -> Result<(), Error> {
        let unsealed = self.readers.run("unseal the store", |connection| {
            let life = self.tail.identity().incarnation.0.cast_signed();
            let update =
                sqlx::query("UPDATE meta SET seal = NULL WHERE incarnation = $1").bind(life);
            Box::pin(update.execute(connection))
        });
        unsealed.await?;
        self.newest().await.map(drop)
    }
}

impl PostgresStore {
    fn page(
        &self,
        request: ListRequest,
        pinned: Option<Revision>,
        found: Vec<Row>,
    ) -> Result<Page, Error> {
        let context = "list a range";
        let Some(meta) = found.first() else {
            return Err(Error::new(Kind::Corrupt, context));
        };
        self.same_life(meta.incarnation, context)?;
        let (head, compacted) = (rows::revision(meta.head), rows::revision(meta.compacted));
        let revision = pinned.unwrap_or(head);
        if revision > head {
            return Err(Error::new(Kind::FutureRevision { head }, context));
        }
        if revision < compacted {
            return Err(Error::new(Kind::Compacted { compacted }, context));
        }
        let at = self.tail.cursor(revision);
        // The row after the last one of a page that is not the last has no key, but a revision.
        let more = found
            .last()
            .is_some_and(|row| row.entry.key.is_none() && row.entry.revision.is_some());
        let mut entries = Vec::with_capacity(found.len());
        for row in found {
            entries.extend(row.entry.entry()?);
        }
        let next = entries.last().filter(|_| more).map(|last| PageToken {
            at,
            after: last.key.clone(),
            range: request.range,
        });
        Ok(Page { entries, at, next })
    }
}
