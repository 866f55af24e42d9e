//! Settings of `cpl serve` from four places: flags, then `CPL_*` variables, then the file, then the
//! defaults. The layering is pure; reading the file is one function above it.

use std::fmt::{Debug, Formatter};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use cpl_core::lease::SessionTimes;
use cpl_store_etcd::EtcdConfig;
use cpl_store_postgres::PostgresConfig;
use serde::Deserialize;

use super::failure::Failure;
use super::serve::ServeArgs;
use super::wait::span;

/// How `cpl serve` runs, complete and valid in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// Where the API and the dashboard listen.
    pub listen: SocketAddr,
    /// Where the state is kept.
    pub store: StoreUrl,
    /// The password of a store that asks for one.
    pub store_password: Option<Password>,
    /// How long its session lasts on a store that several servers share.
    pub session: SessionTimes,
    /// Where everything else is kept that has to survive a restart.
    pub data_dir: PathBuf,
    /// With what TLS is served; plain HTTP when absent.
    pub tls: Option<TlsFiles>,
    /// The form of the log.
    pub log_format: LogFormat,
    /// What is logged, in the language of `tracing_subscriber::EnvFilter`.
    pub log: String,
}

/// Where a server keeps its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// One file on disk, for one server.
    Embedded(
        /// The file.
        PathBuf,
    ),
    /// An etcd cluster.
    Etcd(
        /// Its URL, as [`EtcdConfig::parse`] reads it.
        String,
    ),
    /// A PostgreSQL database.
    Postgres(
        /// Its URL, as [`PostgresConfig::parse`] reads it.
        String,
    ),
    /// Nowhere: it is gone when the server ends.
    Memory,
}

/// A password; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// This password.
    pub const fn new(password: String) -> Self {
        Self(password)
    }

    /// For whoever has to send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Debug for Password {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("embedded", path)) if !path.is_empty() => Ok(Self::Embedded(path.into())),
            Some(("etcd" | "etcds", _)) => {
                EtcdConfig::parse(text).map_err(|error| chain(&error))?;
                Ok(Self::Etcd(text.to_owned()))
            },
            Some(("postgres" | "postgresql", _)) => {
                PostgresConfig::parse(text).map_err(|error| chain(&error))?;
                Ok(Self::Postgres(text.to_owned()))
            },
            _ => Err(
                "expected embedded:PATH, etcd://HOST,…/PREFIX, postgres://HOST/DATABASE or memory:"
                    .to_owned(),
            ),
        }
    }
}

/// An error with what lies behind it, in a line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Files with what TLS needs, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those that vouch for it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How long a session lasts, as it was written.
struct SessionTtl(SessionTimes);

impl FromStr for SessionTtl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ttl = span(text)?.0;
        if SessionTimes::RANGE.contains(&ttl) {
            return Ok(Self(SessionTimes::lasting(ttl)));
        }
        Err("expected a time from 2s to 5m".to_owned())
    }
}

/// The form of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object in a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected text or json".to_owned()),
        }
    }
}

/// One layer of settings as they were written; the keys of the file are these fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `ADDRESS:PORT`.
    pub listen: Option<String>,
    /// `embedded:PATH`, `etcd://…`, `postgres://…` or `memory:`.
    pub store: Option<String>,
    /// A file.
    pub store_password_file: Option<String>,
    /// A time, such as `10s`.
    pub session_ttl: Option<String>,
    /// A folder.
    pub data_dir: Option<String>,
    /// A file.
    pub tls_cert: Option<String>,
    /// A file.
    pub tls_key: Option<String>,
    /// `text` or `json`.
    pub log_format: Option<String>,
    /// A filter.
    pub log: Option<String>,
}

/// The settings of this process: reads the file that `--config` or `CPL_CONFIG` names. Blocks.
///
/// # Errors
/// Every setting that is wrong, with the place where it was set.
pub fn load(
    args: &ServeArgs,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<ServeConfig, Failure> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let path = args
        .config
        .clone()
        .or_else(|| env("CPL_CONFIG").map(PathBuf::from));
    let file = match &path {
        Some(path) => read_file(path)?,
        None => Settings::default(),
    };
    let layers = Layers {
        flags: args.settings(),
        environment: Settings::of_environment(&env),
        file,
        path: path.unwrap_or_default(),
    };
    let invalid = |wrong: Vec<String>| {
        wrong.into_iter().fold(
            Failure::invalid("the settings are not valid"),
            Failure::detail,
        )
    };
    let mut config = layers.resolve().map_err(invalid)?;
    config.store_password = match layers.path_of("store_password_file", |s| &s.store_password_file)
    {
        Some(path) => Some(read_password(&path)?),
        None => env("CPL_STORE_PASSWORD").map(Password),
    };
    Ok(config)
}

/// The first line of a file.
pub(crate) fn read_password(path: &Path) -> Result<Password, Failure> {
    let unreadable = |what: &dyn std::fmt::Display| {
        Failure::invalid(format!(
            "the password in {} cannot be read: {what}",
            path.display()
        ))
    };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(&error))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Password(line.to_owned())),
        _ => Err(unreadable(&"it is empty")),
    }
}

fn read_file(path: &Path) -> Result<Settings, Failure> {
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::invalid(format!("{} cannot be read: {error}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(&error))?;
    toml::from_str(&text).map_err(|error| unreadable(&error))
}

impl Settings {
    fn of_environment(env: &dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            listen: env("CPL_LISTEN"),
            store: env("CPL_STORE"),
            store_password_file: env("CPL_STORE_PASSWORD_FILE"),
            session_ttl: env("CPL_SESSION_TTL"),
            data_dir: env("CPL_DATA_DIR"),
            tls_cert: env("CPL_TLS_CERT"),
            tls_key: env("CPL_TLS_KEY"),
            log_format: env("CPL_LOG_FORMAT"),
            log: env("CPL_LOG"),
        }
    }
}

/// All places where settings come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// From the command line.
    pub flags: Settings,
    /// From the environment.
    pub environment: Settings,
    /// From the file.
    pub file: Settings,
    /// The file, for messages; relative paths in it begin at its folder.
    pub path: PathBuf,
}

/// A setting as it was written, and where.
struct Written {
    text: String,
    place: String,
    in_file: bool,
}

impl Layers {
    /// What holds in the end.
    ///
    /// # Errors
    /// Every setting that is wrong, one line each.
    pub fn resolve(&self) -> Result<ServeConfig, Vec<String>> {
        let mut wrong = Vec::new();
        let listen = self.parsed("listen", |s| &s.listen, &mut wrong);
        let store = self.store(&mut wrong);
        let session = self.parsed("session_ttl", |s| &s.session_ttl, &mut wrong);
        let data_dir = self.path_of("data_dir", |s| &s.data_dir);
        let log_format = self.parsed("log_format", |s| &s.log_format, &mut wrong);
        let cert = self.path_of("tls_cert", |s| &s.tls_cert);
        let key = self.path_of("tls_key", |s| &s.tls_key);
        let tls = match (cert, key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            (Some(_), None) => {
                wrong.push("tls_key: needed together with tls_cert".to_owned());
                None
            },
            (None, Some(_)) => {
                wrong.push("tls_cert: needed together with tls_key".to_owned());
                None
            },
        };
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let data_dir = data_dir.unwrap_or_else(|| PathBuf::from("cpl-data"));
        Ok(ServeConfig {
            listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8_080))),
            store: store.unwrap_or_else(|| StoreUrl::Embedded(data_dir.join("cpl.redb"))),
            store_password: None,
            session: session.map_or_else(SessionTimes::default, |SessionTtl(times)| times),
            data_dir,
            tls,
            log_format: log_format.unwrap_or(LogFormat::Text),
            log: self
                .written("log", |s| &s.log)
                .map_or_else(|| "info".to_owned(), |w| w.text),
        })
    }

    fn written(&self, key: &str, field: fn(&Settings) -> &Option<String>) -> Option<Written> {
        let from = |settings: &Settings, place: String, in_file: bool| {
            let text = field(settings).clone()?;
            Some(Written {
                text,
                place,
                in_file,
            })
        };
        from(&self.flags, format!("--{}", key.replace('_', "-")), false)
            .or_else(|| {
                let place = format!("CPL_{}", key.to_ascii_uppercase());
                from(&self.environment, place, false)
            })
            .or_else(|| from(&self.file, format!("{}: {key}", self.path.display()), true))
    }

    fn parsed<T: FromStr<Err: ToString>>(
        &self,
        key: &str,
        field: fn(&Settings) -> &Option<String>,
        wrong: &mut Vec<String>,
    ) -> Option<T> {
        let Written { text, place, .. } = self.written(key, field)?;
        text.parse()
            .map_err(|error: T::Err| {
                wrong.push(format!("{place}: {text:?}: {}", error.to_string()));
            })
            .ok()
    }

    fn path_of(&self, key: &str, field: fn(&Settings) -> &Option<String>) -> Option<PathBuf> {
        let written = self.written(key, field)?;
        Some(self.based(PathBuf::from(written.text), written.in_file))
    }

    fn store(&self, wrong: &mut Vec<String>) -> Option<StoreUrl> {
        let in_file = self.written("store", |s| &s.store)?.in_file;
        match self.parsed("store", |s| &s.store, wrong)? {
            StoreUrl::Embedded(path) => Some(StoreUrl::Embedded(self.based(path, in_file))),
            other => Some(other),
        }
    }

    fn based(&self, path: PathBuf, in_file: bool) -> PathBuf {
        match self.path.parent() {
            Some(folder) if in_file => folder.join(path),
            _ => path,
        }
    }
}

impl ServeArgs {
    /// What the command line says, as one layer of settings.
    pub fn settings(&self) -> Settings {
        let Self {
            listen,
            store,
            store_password_file,
            session_ttl,
            data_dir,
            config: _,
            tls_cert,
            tls_key,
            log_format,
            log,
        } = self.clone();
        Settings {
            listen,
            store,
            store_password_file,
            session_ttl,
            data_dir,
            tls_cert,
            tls_key,
            log_format,
            log,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(address: &str) -> Settings {
        Settings {
            listen: Some(address.to_owned()),
            ..Settings::default()
        }
    }

    #[test]
    fn flags_win_over_the_environment_over_the_file_over_the_defaults() {
        let mut layers = Layers::default();
        let now = |layers: &Layers| layers.resolve().unwrap().listen.to_string();
        assert_eq!(now(&layers), "127.0.0.1:8080");
        layers.file = listen("10.0.0.1:1");
        assert_eq!(now(&layers), "10.0.0.1:1");
        layers.environment = listen("10.0.0.2:2");
        assert_eq!(now(&layers), "10.0.0.2:2");
        layers.flags = listen("10.0.0.3:3");
        assert_eq!(now(&layers), "10.0.0.3:3");
    }

    #[test]
    fn the_store_lies_in_the_data_folder_unless_it_is_named() {
        let mut layers = Layers::default();
        let store = |layers: &Layers| layers.resolve().unwrap().store;
        assert_eq!(
            store(&layers),
            StoreUrl::Embedded("cpl-data/cpl.redb".into())
        );
        layers.environment.data_dir = Some("/var/lib/cpl".to_owned());
        assert_eq!(
            store(&layers),
            StoreUrl::Embedded("/var/lib/cpl/cpl.redb".into())
        );
        layers.flags.store = Some("memory:".to_owned());
        assert_eq!(store(&layers), StoreUrl::Memory);
    }

    #[test]
    fn paths_in_the_file_begin_at_its_folder() {
        let layers = Layers {
            flags: Settings {
                tls_cert: Some("a.pem".to_owned()),
                ..Settings::default()
            },
            file: Settings {
                tls_key: Some("key.pem".to_owned()),
                store: Some("embedded:s.redb".to_owned()),
                data_dir: Some("/data".to_owned()),
                ..Settings::default()
            },
            path: "/etc/cpl/cpl.toml".into(),
            ..Layers::default()
        };
        let config = layers.resolve().unwrap();
        let tls = TlsFiles {
            cert: "a.pem".into(),
            key: "/etc/cpl/key.pem".into(),
        };
        assert_eq!(config.tls, Some(tls));
        assert_eq!(config.store, StoreUrl::Embedded("/etc/cpl/s.redb".into()));
        assert_eq!(config.data_dir, PathBuf::from("/data"));
    }

    #[test]
    fn every_wrong_setting_is_told_with_its_place() {
        let layers = Layers {
            flags: Settings {
                log_format: Some("xml".to_owned()),
                ..Settings::default()
            },
            environment: Settings {
                store: Some("etcd:x".to_owned()),
                ..Settings::default()
            },
            file: Settings {
                listen: Some("here".to_owned()),
                tls_key: Some("k".to_owned()),
                ..Settings::default()
            },
            path: "cpl.toml".into(),
        };
        assert_eq!(
            layers.resolve().unwrap_err(),
            [
                "cpl.toml: listen: \"here\": invalid socket address syntax",
                "CPL_STORE: \"etcd:x\": read an etcd URL: write etcd://a:2379,b:2379/prefix or etcds://… for TLS; it has no ://",
                "--log-format: \"xml\": expected text or json",
                "tls_cert: needed together with tls_key",
            ]
        );
    }

    #[test]
    fn the_file_is_read_and_unknown_keys_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cpl.toml");
        let args = ServeArgs {
            config: Some(path.clone()),
            ..ServeArgs::default()
        };
        let none = |_: &str| None;
        std::fs::write(&path, "listen = \"0.0.0.0:80\"\nlog = \"debug\"\n").unwrap();
        let config = load(&args, &none).unwrap();
        assert_eq!((config.listen.port(), config.log.as_str()), (80, "debug"));
        std::fs::write(&path, "listne = \"0.0.0.0:80\"\n").unwrap();
        assert!(
            load(&args, &none)
                .unwrap_err()
                .to_string()
                .contains("listne")
        );
    }

    #[test]
    fn an_empty_variable_is_as_good_as_none() {
        let config = load(&ServeArgs::default(), &|_| Some(String::new())).unwrap();
        assert_eq!(config, Layers::default().resolve().unwrap());
    }
}
