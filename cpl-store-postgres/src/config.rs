//! Where the database is.

use std::fmt::{Debug, Formatter};

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

/// A name that needs no quotes in SQL, as long as PostgreSQL lets names be.
const SCHEMA_BYTES: usize = 63;
const DEFAULT_SCHEMA: &str = "cpl";

/// Where a store on PostgreSQL is, and as whom to go there.
#[derive(Clone)]
pub struct PostgresConfig {
    pub(crate) options: PgConnectOptions,
    pub(crate) schema: String,
    place: String,
}

/// What is wrong with the URL of a database.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not a URL of PostgreSQL.
    #[error("read a postgres URL: write postgres://user@host:5432/database?schema=cpl")]
    BadUrl(#[source] sqlx::Error),
    /// The schema is not a plain name.
    #[error(
        "`{0}` is not a schema: write lower case letters, digits and _, at most 63, beginning with a letter"
    )]
    BadSchema(String),
    /// A password in a URL ends up in the list of processes and in logs.
    #[error("the URL has a password: give it in a file or in the environment instead")]
    PasswordInUrl,
}

impl PostgresConfig {
    /// Reads `postgres://user@host:port/database?...`. Known parameters: `schema` (`cpl`), and those of
    /// libpq for TLS: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`; `host` for a folder with a socket.
    ///
    /// # Errors
    /// [`ConfigError`] says which part is wrong, and never shows a password.
    pub fn parse(url: &str) -> Result<Self, ConfigError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (own, passed): (Vec<&str>, Vec<&str>) = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .partition(|pair| pair.starts_with("schema="));
        let schema = own
            .last()
            .and_then(|pair| pair.strip_prefix("schema="))
            .unwrap_or(DEFAULT_SCHEMA);
        if !is_plain(schema) {
            return Err(ConfigError::BadSchema(schema.to_owned()));
        }
        let authority = base.split_once("://").map_or(base, |(_, rest)| rest);
        let user = authority.split('/').next().unwrap_or_default();
        if user
            .rsplit_once('@')
            .is_some_and(|(user, _)| user.contains(':'))
            || passed.iter().any(|pair| pair.starts_with("password="))
        {
            return Err(ConfigError::PasswordInUrl);
        }
        let rest = if passed.is_empty() {
            base.to_owned()
        } else {
            format!("{base}?{}", passed.join("&"))
        };
        let options: PgConnectOptions = rest.parse().map_err(ConfigError::BadUrl)?;
        let options = options
            .application_name("cpl")
            .disable_statement_logging()
            .options([
                ("search_path", schema),
                ("default_transaction_isolation", "read committed"),
                ("statement_timeout", "8s"),
                ("lock_timeout", "5s"),
                ("idle_in_transaction_session_timeout", "10s"),
            ]);
        Ok(Self {
            options,
            schema: schema.to_owned(),
            place: rest,
        })
    }

    /// With a password.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        self.options = self.options.password(password);
        self
    }
}

fn is_plain(name: &str) -> bool {
    name.len() <= SCHEMA_BYTES
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

impl Debug for PostgresConfig {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("place", &self.place)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_server_database_and_schema() {
        let config =
            PostgresConfig::parse("postgres://cpl@db:5433/plane?schema=blue&sslmode=require")
                .unwrap();
        assert_eq!(config.options.get_host(), "db");
        assert_eq!(config.options.get_port(), 5433);
        assert_eq!(config.options.get_database(), Some("plane"));
        assert_eq!(config.schema, "blue");
        let secret = config.with_password("very secret");
        assert!(!format!("{secret:?}").contains("very secret"));
        assert_eq!(
            PostgresConfig::parse("postgres://db/plane").unwrap().schema,
            "cpl"
        );
    }

    #[test]
    fn each_mistake_is_named() {
        let message = |url: &str| PostgresConfig::parse(url).unwrap_err().to_string();
        for schema in ["", "Blue", "a b", "1a", "a\"b", &"a".repeat(64)] {
            let url = format!("postgres://db/plane?schema={schema}");
            assert!(message(&url).contains("is not a schema"), "{schema}");
        }
        for url in [
            "postgres://cpl:secret@db/plane",
            "postgres://db/plane?password=secret",
        ] {
            let message = message(url);
            assert!(
                message.contains("has a password") && !message.contains("secret"),
                "{message}"
            );
        }
        for url in [
            "db",
            "postgres://db:port/plane",
            "postgres://db/plane?sslmode=sometimes",
        ] {
            assert!(message(url).contains("write postgres://"), "{url}");
        }
    }
}
