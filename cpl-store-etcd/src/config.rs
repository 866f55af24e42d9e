//! Where the cluster is.

use std::fmt::{Debug, Formatter};
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

const DEFAULT_PORT: u16 = 2379;
const DEFAULT_PREFIX: &str = "cpl";
const CONNECT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes is asked after this time, and ended when no answer comes for as long again.
const SILENCE: Duration = Duration::from_secs(5);
/// More names than a cluster has members.
const ENDPOINTS: usize = 16;
const PREFIX_BYTES: usize = 200;

/// Where a store on etcd is, and as whom to go there.
#[derive(Clone)]
pub struct EtcdConfig {
    pub(crate) endpoints: Vec<String>,
    pub(crate) prefix: String,
    pub(crate) options: ConnectOptions,
    user: Option<String>,
    ca: Option<PathBuf>,
}

/// What is wrong with the URL of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not a URL of etcd.
    #[error("read an etcd URL: write etcd://a:2379,b:2379/prefix or etcds://… for TLS; {0}")]
    BadUrl(String),
    /// A parameter that is not known.
    #[error("`{0}` is not a parameter: there are user, ca, cert and key")]
    BadParameter(String),
    /// A parameter that needs another.
    #[error("{0}")]
    Incomplete(&'static str),
    /// A password in a URL ends up in the list of processes and in logs.
    #[error("the URL has a password: give it in a file or in the environment instead")]
    PasswordInUrl,
    /// A certificate or key that cannot be read.
    #[error("read {}", path.display())]
    BadFile {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

#[derive(Debug, Default)]
struct Parameters {
    user: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl EtcdConfig {
    /// Reads `etcd://host:port,host:port/prefix?...`, or `etcds://` for TLS. Parameters: `user`; for TLS
    /// `ca` (a file of certificates instead of the system's), `cert` and `key` of a client. Ports are 2379
    /// and the prefix is `cpl` unless they are said. Reads the files.
    ///
    /// # Errors
    /// [`ConfigError`] says which part is wrong.
    pub fn parse(url: &str) -> Result<Self, ConfigError> {
        let bad = |what: &str| ConfigError::BadUrl(what.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("it has no ://"))?;
        let tls = match scheme {
            "etcd" => false,
            "etcds" => true,
            _ => return Err(bad("it begins otherwise")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if hosts.contains('@') {
            return Err(
                if hosts.contains(':') && hosts.find(':') < hosts.find('@') {
                    ConfigError::PasswordInUrl
                } else {
                    bad("say the user as a parameter, ?user=name")
                },
            );
        }
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() {
            DEFAULT_PREFIX
        } else {
            prefix
        };
        if prefix.len() > PREFIX_BYTES || !prefix.chars().all(|c| c.is_ascii_graphic()) {
            return Err(bad(
                "the prefix has other characters than letters, digits and signs, or too many",
            ));
        }
        let endpoints: Vec<String> = hosts
            .split(',')
            .map(|host| {
                endpoint(host, tls).ok_or_else(|| bad(&format!("`{host}` is not host:port")))
            })
            .collect::<Result<_, _>>()?;
        if endpoints.len() > ENDPOINTS {
            return Err(bad("it names more than 16 members"));
        }
        let parameters = Parameters::read(query)?;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(SILENCE, SILENCE)
            .with_keep_alive_while_idle(true)
            // A member that is cut off from the others says so instead of keeping a watch open for ever.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if tls {
            options = options.with_tls(parameters.tls()?);
        } else if parameters.ca.is_some() || parameters.cert.is_some() {
            return Err(ConfigError::Incomplete(
                "ca and cert are for TLS: write etcds://",
            ));
        }
        Ok(Self {
            endpoints,
            prefix: prefix.to_owned(),
            options,
            user: parameters.user,
            ca: parameters.ca,
        })
    }

    /// The user whose password is needed, if the URL names one.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// With the password of the user that the URL names.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        if let Some(user) = &self.user {
            self.options = self.options.with_user(user, password);
        }
        self
    }
}

fn endpoint(host: &str, tls: bool) -> Option<String> {
    let scheme = if tls { "https" } else { "http" };
    let bracket = host.rfind(']').unwrap_or(0);
    let (name, port) = match host[bracket..].rfind(':') {
        Some(colon) => (
            &host[..bracket + colon],
            host[bracket + colon + 1..].parse().ok()?,
        ),
        None => (host, DEFAULT_PORT),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    (!name.is_empty() && name.chars().all(plain)).then(|| format!("{scheme}://{name}:{port}"))
}

impl Parameters {
    fn read(query: &str) -> Result<Self, ConfigError> {
        let mut read = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "user" => read.user = Some(value.to_owned()),
                "ca" => read.ca = Some(value.into()),
                "cert" => read.cert = Some(value.into()),
                "key" => read.key = Some(value.into()),
                "password" => return Err(ConfigError::PasswordInUrl),
                _ => return Err(ConfigError::BadParameter(name.to_owned())),
            }
        }
        if read.cert.is_some() != read.key.is_some() {
            return Err(ConfigError::Incomplete(
                "a certificate of a client needs cert and key",
            ));
        }
        Ok(read)
    }

    fn tls(&self) -> Result<TlsOptions, ConfigError> {
        let mut tls = match &self.ca {
            Some(ca) => TlsOptions::new().ca_certificate(Certificate::from_pem(file(ca)?)),
            None => TlsOptions::new().with_native_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(file(cert)?, file(key)?));
        }
        Ok(tls)
    }
}

fn file(path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::BadFile {
        path: path.to_owned(),
        source,
    })
}

impl Debug for EtcdConfig {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("user", &self.user)
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_members_and_prefix() {
        let config = EtcdConfig::parse("etcd://a,b:2380,[::1]:99/plane/blue/?user=cpl").unwrap();
        assert_eq!(
            config.endpoints,
            ["http://a:2379", "http://b:2380", "http://[::1]:99"]
        );
        assert_eq!(
            (config.prefix.as_str(), config.user()),
            ("plane/blue", Some("cpl"))
        );
        let secret = config.with_password("very secret");
        assert!(!format!("{secret:?}").contains("very secret"));
        let config = EtcdConfig::parse("etcds://[::1]").unwrap();
        assert_eq!(
            (config.endpoints[0].as_str(), config.prefix.as_str()),
            ("https://[::1]:2379", "cpl")
        );
    }

    #[test]
    fn each_mistake_is_named() {
        for (url, part) in [
            ("a:2379", "no ://"),
            ("http://a", "begins otherwise"),
            ("etcd://", "`` is not host:port"),
            ("etcd://a,,b", "`` is not host:port"),
            ("etcd://a:port", "`a:port` is not host:port"),
            ("etcd://a b", "`a b` is not host:port"),
            ("etcd://a/ä", "the prefix has other"),
            ("etcd://cpl@a", "?user=name"),
            ("etcd://cpl:secret@a", "has a password"),
            ("etcd://a?password=secret", "has a password"),
            ("etcd://a?colour=red", "`colour` is not a parameter"),
            ("etcd://a?ca=/x", "write etcds://"),
            ("etcds://a?cert=/x", "needs cert and key"),
            ("etcds://a?ca=/nowhere", "read /nowhere"),
        ] {
            let message = EtcdConfig::parse(url).unwrap_err().to_string();
            assert!(
                message.contains(part) && !message.contains("secret"),
                "{url}: {message}"
            );
        }
    }
}
