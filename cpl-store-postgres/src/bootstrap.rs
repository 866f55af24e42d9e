//! The schema, made or brought up to date, and a server that keeps what it acknowledged.

use cpl_core::store::{Clock, Error, IdGen, Identity, Incarnation, Kind, Revision, StoreId};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::config::PostgresConfig;
use crate::error::{Sent, translate};
use crate::link::{connect, within};
use crate::rows::revision;

/// How long all of it may take; the lock below may have to wait for another process that does the same.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);
/// The SQL of each format, from the first one on; a store of an older format runs what it lacks.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001.sql"),
    include_str!("../migrations/0002.sql"),
];
/// Oldest server that is known to work, as `server_version_num`.
const OLDEST: i32 = 130_000;

/// What is there once the schema is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    pub(crate) identity: Identity,
    pub(crate) head: Revision,
    pub(crate) compacted: Revision,
}

/// Checks the server and makes the schema when it is not there. All of it is one transaction under a lock of its
/// own, so that of two processes that come at once the second finds it done.
pub(crate) async fn bootstrap(
    config: &PostgresConfig,
    clock: &dyn Clock,
    ids: &dyn IdGen,
) -> Result<Opened, Error> {
    let running = async {
        let failed = |error| translate("open a store on PostgreSQL", Sent::No, error);
        let mut connection = connect(&config.options).await.map_err(failed)?;
        check_server(&mut connection).await?;
        let mut transaction = connection.begin().await.map_err(failed)?;
        let opened = migrate(&mut transaction, &config.schema, ids).await?;
        // When the answer to this is lost the next opening finds what is there.
        transaction.commit().await.map_err(failed)?;
        Ok(opened)
    };
    let context = "open a store on PostgreSQL";
    within(clock, LIMIT, context, Kind::NotConnected, running).await
}

fn refuse(kind: Kind, message: impl Into<String>) -> Error {
    Error::new(kind, message)
}

async fn check_server(connection: &mut PgConnection) -> Result<(), Error> {
    let (version, standby, fsync, full_pages): (i32, bool, bool, bool) = sqlx::query_as(
        "SELECT current_setting('server_version_num')::integer, pg_is_in_recovery(), \
         current_setting('fsync')::boolean, current_setting('full_page_writes')::boolean",
    )
    .fetch_one(connection)
    .await
    .map_err(|error| translate("check the server of a store", Sent::No, error))?;
    if version < OLDEST {
        let message = format!(
            "open a store on PostgreSQL: the server is {version}, the oldest that works is {OLDEST}"
        );
        return Err(refuse(Kind::Invalid, message));
    }
    if standby {
        let message = "open a store on PostgreSQL: this server is a standby; name the primary";
        return Err(refuse(Kind::ReadOnly, message));
    }
    for (name, on) in [("fsync", fsync), ("full_page_writes", full_pages)] {
        if !on {
            let message = format!(
                "open a store on PostgreSQL: the server runs with {name} = off and may lose what it acknowledged"
            );
            return Err(refuse(Kind::Invalid, message));
        }
    }
    Ok(())
}

async fn migrate(
    connection: &mut PgConnection,
    schema: &str,
    ids: &dyn IdGen,
) -> Result<Opened, Error> {
    let failed = |error| translate("make the schema of a store", Sent::No, error);
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('cpl store ' || $1, 0))")
        .bind(schema)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    let found: Option<i32> = format(connection, schema).await?;
    let known = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    let has = found.unwrap_or_default();
    if has > known {
        let message = format!(
            "open a store on PostgreSQL: schema {schema} has format {has}, this version knows up to {known}"
        );
        return Err(refuse(Kind::Invalid, message));
    }
    if found.is_none() {
        // The name was checked when the configuration was read.
        let create = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
        sqlx::raw_sql(AssertSqlSafe(create))
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    for migration in MIGRATIONS
        .iter()
        .skip(usize::try_from(has).unwrap_or_default())
    {
        sqlx::raw_sql(*migration)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    if found.is_none() {
        label(connection, known, ids).await?;
    } else if has < known {
        sqlx::query("UPDATE meta SET format = $1")
            .bind(known)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    read(connection).await
}

/// Gives a new store its id. Its first life begins when it is read.
async fn label(connection: &mut PgConnection, format: i32, ids: &dyn IdGen) -> Result<(), Error> {
    let failed = |error| translate("make a store", Sent::No, error);
    let store = ids.fresh().to_be_bytes();
    sqlx::query(
        "INSERT INTO meta (format, store, incarnation, head, compacted, system, timeline) \
         VALUES ($1, $2, 0, 0, 0, 0, '')",
    )
    .bind(format)
    .bind(&store[..])
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    sqlx::query("INSERT INTO sweep (swept) VALUES (0)")
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}

async fn read(connection: &mut PgConnection) -> Result<Opened, Error> {
    let failed = |error| translate("read the label of a store", Sent::No, error);
    let incarnation: i64 = sqlx::query_scalar("SELECT life()")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    let (store, head, compacted): (Vec<u8>, i64, i64) =
        sqlx::query_as("SELECT store, head, compacted FROM meta")
            .fetch_one(connection)
            .await
            .map_err(failed)?;
    let store: [u8; 16] = store.try_into().map_err(|_| {
        refuse(
            Kind::Corrupt,
            "open a store on PostgreSQL: its id is not 16 bytes",
        )
    })?;
    Ok(Opened {
        identity: Identity {
            store: StoreId(u128::from_be_bytes(store)),
            incarnation: Incarnation(incarnation.cast_unsigned()),
        },
        head: revision(head),
        compacted: revision(compacted),
    })
}

/// The format of the store in a schema; `None` when there is none.
async fn format(connection: &mut PgConnection, schema: &str) -> Result<Option<i32>, Error> {
    let failed = |error| translate("read the format of a store", Sent::No, error);
    let there: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = $1 AND tablename = 'meta')",
    )
    .bind(schema)
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    if !there {
        return Ok(None);
    }
    let found = sqlx::query_scalar("SELECT format FROM meta")
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    match found {
        Some(format) => Ok(Some(format)),
        None => Err(refuse(
            Kind::Invalid,
            format!(
                "open a store on PostgreSQL: schema {schema} has a table meta, but it is not a store"
            ),
        )),
    }
}
