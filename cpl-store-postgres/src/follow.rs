//! What is new, read once for all watchers of this process, and what is old for those that are behind.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cpl_core::store::{
    Backlog, Clock, EndReason, Error, Incarnation, Kind, Monotonic, Past, Range, Revision, Tail,
    limits,
};
use futures::future::{BoxFuture, select};
use sqlx::FromRow;
use sqlx::postgres::PgConnection;
use tokio::sync::Notify;

use crate::link::{Link, Readers};
use crate::rows::{self, CHANGES, CHANGES_BYTES, ChangeRow, Changes, collect};

/// How soon other processes' commits are looked for after there were some.
const SOON: Duration = Duration::from_millis(25);
/// And at the latest: every look without news doubles the pause up to this.
const LATE: Duration = Duration::from_secs(1);
/// Pause after a failed look.
const FAILED: Duration = Duration::from_millis(500);
/// After which time without an answer watchers are told.
const SILENT: Duration = Duration::from_secs(3);
/// How often outcomes that are too old are looked for, and how many are forgotten at once.
const FORGET: Duration = Duration::from_mins(5);
const FORGET_MOST: i32 = 10_000;

const CHANGES_SQL: &str = "SELECT m.incarnation, m.head, m.compacted, c.* FROM meta m \
     LEFT JOIN LATERAL changes($1, $2, $3, $4, $5) c ON true ORDER BY c.revision, c.key";

#[derive(Debug, FromRow)]
struct Row {
    incarnation: i64,
    head: i64,
    compacted: i64,
    #[sqlx(flatten)]
    change: ChangeRow,
}

struct News {
    compacted: Revision,
    changes: Changes,
}

fn query<'a>(
    connection: &'a mut PgConnection,
    range: &Range,
    since: Revision,
) -> BoxFuture<'a, Result<Vec<Row>, sqlx::Error>> {
    let (first, before) = rows::bounds(range);
    let (first, before) = (first.to_vec(), before.to_vec());
    Box::pin(async move {
        sqlx::query_as(CHANGES_SQL)
            .bind(first)
            .bind(before)
            .bind(rows::number(since))
            .bind(CHANGES)
            .bind(CHANGES_BYTES)
            .fetch_all(connection)
            .await
    })
}

fn news(rows: Vec<Row>, life: Incarnation, since: Revision) -> Result<News, Error> {
    let context = "read what changed";
    let Some(meta) = rows.first() else {
        return Err(Error::new(Kind::Corrupt, context));
    };
    if meta.incarnation.cast_unsigned() != life.0 {
        return Err(Error::new(Kind::IdentityChanged, context));
    }
    let (head, compacted) = (rows::revision(meta.head), rows::revision(meta.compacted));
    if since < compacted {
        return Err(Error::new(Kind::Compacted { compacted }, context));
    }
    let changes = collect(
        rows.into_iter().map(|row| row.change).collect(),
        since,
        head,
    )?;
    Ok(News { compacted, changes })
}

/// Follows the store for this process.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) link: Link,
    pub(crate) tail: Arc<Tail>,
    pub(crate) news: Arc<Notify>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Follower {
    pub(crate) async fn run(mut self) {
        let life = self.tail.identity().incarnation;
        let mut heard = self.clock.monotonic();
        let mut forgotten = heard;
        let mut pause = SOON;
        loop {
            let since = self.tail.head();
            let rows = self.link.run("read what changed", |connection| {
                query(connection, &Range::all(), since)
            });
            match rows.await.and_then(|rows| news(rows, life, since)) {
                Ok(News { compacted, changes }) => {
                    heard = self.clock.monotonic();
                    let cut = changes.cut;
                    pause = if changes.through > since {
                        SOON
                    } else {
                        (pause * 2).min(LATE)
                    };
                    self.tell(compacted, changes);
                    if cut {
                        continue;
                    }
                },
                Err(error) => {
                    if self.ended_by(&error) {
                        return;
                    }
                    let silence = self.clock.monotonic().since(heard);
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        ?silence,
                        "cannot read what changed"
                    );
                    if silence >= SILENT {
                        self.tail.stall(silence);
                    }
                    pause = FAILED;
                },
            }
            self.forget_outcomes(&mut forgotten).await;
            select(
                std::pin::pin!(self.news.notified()),
                self.clock.sleep(pause),
            )
            .await;
        }
    }

    fn tell(&self, compacted: Revision, changes: Changes) {
        for (revision, events) in changes.revisions {
            self.tail.push(revision, events);
        }
        self.tail.progress(changes.through);
        self.tail.compact(compacted);
    }

    /// What an error says of the history; whether it ends it. Another life of the store has to be opened anew.
    fn ended_by(&self, error: &Error) -> bool {
        match error.kind() {
            // This process was away for so long that others compacted what it has not read.
            Kind::Compacted { compacted } => self.tail.compact(*compacted),
            Kind::IdentityChanged => self.tail.end(EndReason::IdentityChanged),
            _ => {},
        }
        *error.kind() == Kind::IdentityChanged
    }

    /// Old outcomes go a few at a time; when that fails the next time does it.
    async fn forget_outcomes(&mut self, last: &mut Monotonic) {
        if self.clock.monotonic().since(*last) < FORGET {
            return;
        }
        *last = self.clock.monotonic();
        let older = limits::OUTCOME_RETENTION.as_secs_f64();
        let forgotten = self.link.run("forget old outcomes", |connection| {
            Box::pin(async move {
                sqlx::query_scalar::<_, i64>("SELECT forget_some(make_interval(secs => $1), $2)")
                    .bind(older)
                    .bind(FORGET_MOST)
                    .fetch_one(connection)
                    .await
            })
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot forget old outcomes"
            );
        }
    }
}

/// The past, for watchers that are behind what the tail keeps.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) readers: Arc<Readers>,
    pub(crate) life: Incarnation,
}

#[async_trait]
impl Backlog for History {
    async fn read(&self, range: &Range, after: Revision) -> Result<Past, Error> {
        let rows = self.readers.run("read what changed", |connection| {
            query(connection, range, after)
        });
        let News { changes, .. } = news(rows.await?, self.life, after)?;
        Ok(Past {
            revisions: changes.revisions,
            through: changes.through,
        })
    }
}
