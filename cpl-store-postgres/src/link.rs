//! One connection, made when it is needed and again when it broke.

use std::sync::Arc;
use std::time::Duration;

use cpl_core::store::{Clock, Error, Incarnation, Kind};
use futures::future::{BoxFuture, Either, select};
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::{Mutex, Semaphore};

use crate::error::{Sent, translate};

/// How long the server may take for one request: more than the 8 s after which it gives up by itself.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Connections for reads at once.
const READERS: usize = 6;

/// Makes connections to one life of one store.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) options: PgConnectOptions,
    pub(crate) incarnation: Incarnation,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A connection that may not be there.
#[derive(Debug)]
pub(crate) struct Link {
    connector: Arc<Connector>,
    open: Option<PgConnection>,
}

/// Runs something, but not for longer than a limit.
pub(crate) async fn within<T>(
    clock: &dyn Clock,
    limit: Duration,
    context: &'static str,
    late: Kind,
    running: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match select(std::pin::pin!(running), clock.sleep(limit)).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(Error::new(late, context)),
    }
}

/// A connection whose commits are durable when they are answered.
pub(crate) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    sqlx::query(
        "SELECT set_config('synchronous_commit', 'on', false) \
         WHERE current_setting('synchronous_commit') IN ('off', 'local')",
    )
    .execute(&mut connection)
    .await?;
    Ok(connection)
}

impl Connector {
    async fn connect(&self) -> Result<PgConnection, Error> {
        let connecting = async {
            let failed = |error| translate("connect to PostgreSQL", Sent::No, error);
            let mut connection = connect(&self.options).await.map_err(failed)?;
            let incarnation: i64 = sqlx::query_scalar("SELECT life()")
                .fetch_one(&mut connection)
                .await
                .map_err(failed)?;
            if incarnation.cast_unsigned() != self.incarnation.0 {
                let context = "connect to PostgreSQL: it was promoted or restored since this process opened it";
                return Err(Error::new(Kind::IdentityChanged, context));
            }
            Ok(connection)
        };
        let context = "connect to PostgreSQL";
        within(
            &*self.clock,
            CONNECT,
            context,
            Kind::NotConnected,
            connecting,
        )
        .await
    }
}

impl Link {
    pub(crate) const fn new(connector: Arc<Connector>) -> Self {
        Self {
            connector,
            open: None,
        }
    }

    /// Runs one request. After an error, and when the future is dropped, the connection is closed: nobody
    /// reads the answer to another's request.
    pub(crate) async fn run<T>(
        &mut self,
        context: &'static str,
        request: impl for<'a> FnOnce(&'a mut PgConnection) -> BoxFuture<'a, Result<T, sqlx::Error>>,
    ) -> Result<T, Error> {
        let mut connection = match self.open.take() {
            Some(connection) => connection,
            None => self.connector.connect().await?,
        };
        let running = async {
            request(&mut connection)
                .await
                .map_err(|error| translate(context, Sent::Perhaps, error))
        };
        let clock = &*self.connector.clock;
        let answer = within(clock, DEADLINE, context, Kind::Timeout, running).await?;
        self.open = Some(connection);
        Ok(answer)
    }

    const fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

/// A bounded number of connections for reads.
#[derive(Debug)]
pub(crate) struct Readers {
    connector: Arc<Connector>,
    idle: Mutex<Vec<Link>>,
    room: Semaphore,
}

impl Readers {
    pub(crate) fn new(connector: Arc<Connector>) -> Self {
        Self {
            connector,
            idle: Mutex::new(Vec::new()),
            room: Semaphore::new(READERS),
        }
    }

    /// Runs a read; once more on a new connection when one that had been idle turned out to be broken.
    pub(crate) async fn run<T>(
        &self,
        context: &'static str,
        request: impl for<'a> Fn(&'a mut PgConnection) -> BoxFuture<'a, Result<T, sqlx::Error>> + Sync,
    ) -> Result<T, Error> {
        let Ok(_permit) = self.room.acquire().await else {
            return Err(Error::new(Kind::NotConnected, context));
        };
        let idle = self.idle.lock().await.pop();
        let mut link = idle.unwrap_or_else(|| Link::new(Arc::clone(&self.connector)));
        let was_open = link.is_open();
        let answer = match link.run(context, &request).await {
            Err(error) if was_open && *error.kind() == Kind::ConnectionLost => {
                self.idle.lock().await.clear();
                link.run(context, &request).await
            },
            answer => answer,
        };
        if link.is_open() {
            self.idle.lock().await.push(link);
        }
        answer
    }
}
