//! The schema, made or brought up to date, and a server that keeps what it acknowledged.

use cpl_core::store::{
    Clock, Error, IdGen, Identity, Incarnation, Kind, OpenMode, Revision, SealId, StoreId,
};
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
    include_str!("../migrations/0003.sql"),
];
/// Oldest server that is known to work, as `server_version_num`.
const OLDEST: i32 = 130_000;

/// What a seal in the table begins with: of a store that is not complete, and of one that was moved.
const FILLING: &str = "filling:";
pub(crate) const MOVED: &str = "moved:";

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
    mode: OpenMode,
    config: &PostgresConfig,
    clock: &dyn Clock,
    ids: &dyn IdGen,
) -> Result<Opened, Error> {
    let running = async {
        let failed = |error| translate("open a store on PostgreSQL", Sent::No, error);
        let mut connection = connect(&config.options).await.map_err(failed)?;
        check_server(&mut connection).await?;
        let mut transaction = connection.begin().await.map_err(failed)?;
        let opened = migrate(&mut transaction, mode, &config.schema, ids).await?;
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
    mode: OpenMode,
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
    check_mode(mode, found, schema)?;
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
        label(connection, known, mode, ids).await?;
    } else if has < known {
        sqlx::query("UPDATE meta SET format = $1")
            .bind(known)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    if found.is_some() {
        refuse_filling(connection, schema).await?;
    }
    read(connection).await
}

fn check_mode(mode: OpenMode, found: Option<i32>, schema: &str) -> Result<(), Error> {
    let message = match (mode, found) {
        (OpenMode::Existing, None) => {
            format!("open a store on PostgreSQL: there is none in schema {schema}")
        },
        (OpenMode::New(_), Some(_)) => {
            format!("make a store on PostgreSQL: there is one in schema {schema} already")
        },
        (OpenMode::Existing, Some(_)) | (OpenMode::ExistingOrNew, _) | (OpenMode::New(_), None) => {
            return Ok(());
        },
    };
    Err(refuse(Kind::Invalid, message))
}

/// Nobody opens what is not complete.
async fn refuse_filling(connection: &mut PgConnection, schema: &str) -> Result<(), Error> {
    let failed = |error| translate("read the seal of a store", Sent::No, error);
    let seal: Option<String> = sqlx::query_scalar("SELECT seal FROM meta")
        .fetch_one(connection)
        .await
        .map_err(failed)?;
    match seal {
        Some(seal) if seal.starts_with(FILLING) => {
            Err(Error::not_complete(&format!("in schema {schema}")))
        },
        Some(_) | None => Ok(()),
    }
}

/// Gives a new store its identity. A life begins when it is read, which is one more than what is written here.
async fn label(
    connection: &mut PgConnection,
    format: i32,
    mode: OpenMode,
    ids: &dyn IdGen,
) -> Result<(), Error> {
    let failed = |error| translate("make a store", Sent::No, error);
    let (store, before, seal) = match mode {
        OpenMode::New(identity) => (
            identity.store.0,
            identity.incarnation.0.saturating_sub(1),
            Some(format!("{FILLING}{}", SealId::fresh(ids))),
        ),
        OpenMode::Existing | OpenMode::ExistingOrNew => (ids.fresh(), 0, None),
    };
    sqlx::query(
        "INSERT INTO meta (format, store, incarnation, head, compacted, system, timeline, seal) \
         VALUES ($1, $2, $3, 0, 0, 0, '', $4)",
    )
    .bind(format)
    .bind(&store.to_be_bytes()[..])
    .bind(before.cast_signed())
    .bind(seal)
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
