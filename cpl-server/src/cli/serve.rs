//! `cpl serve`: what can be said on its command line. The server itself is not here.

use std::path::PathBuf;

use clap::Args;

/// What `cpl serve` takes.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct ServeArgs {
    /// Where to listen [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Where the state is kept: `embedded:PATH`, `etcd://HOST,HOST/PREFIX`,
    /// `postgres://USER@HOST/DATABASE` or `memory:` [default: embedded:DATA-DIR/cpl.redb]
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// The password of the store, in the first line of a file; or the variable `CPL_STORE_PASSWORD`
    #[arg(long, value_name = "FILE")]
    pub store_password_file: Option<String>,
    /// How long others wait for this server before one of them takes over, on a store that several share;
    /// 2s to 5m [default: 10s]
    #[arg(long, value_name = "TIME")]
    pub session_ttl: Option<String>,
    /// The folder for everything that has to survive a restart [default: cpl-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// A TOML file with the same settings (`listen`, `store`, `store_password_file`,
    /// `session_ttl`, `data_dir`, `tls_cert`, `tls_key`, `log_format`, `log`); relative paths in it begin at its folder
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Serve TLS with this certificate chain (PEM); needs --tls-key
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// The private key of the certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// The form of the log: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// What is logged, for example `info` or `cpl_core=debug,info` [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}
