//! `cpl serve`: a control plane that listens.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cpl_core::access::{NewToken, Scope, Secret};
use cpl_core::error::Error;
use cpl_host::Host;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api::{App, router};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::serve_config::{LogFormat, ServeConfig};
use crate::listener::{Bound, tls};
use crate::plane::{Plane, PlaneConfig};
use crate::wiring;

/// The file with the token of the first administrator, in the data directory.
pub const ADMIN_TOKEN: &str = "admin.token";

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where the administrator's token lies.
    pub admin_token: PathBuf,
    /// What it serves.
    pub plane: Arc<Plane>,
    scheme: &'static str,
    stop: watch::Sender<bool>,
    listening: JoinHandle<()>,
}

impl Server {
    /// Opens the store, takes ownership, and listens.
    pub async fn start(
        config: &ServeConfig,
        plane: PlaneConfig,
        host: Host,
    ) -> Result<Self, Failure> {
        make_private_dir(&config.data_dir)?;
        let acceptor = match &config.tls {
            Some(files) => Some(tls(&files.cert, &files.key).map_err(Failure::invalid)?),
            None => None,
        };
        // Bound first: a port that is taken must not cost a takeover of the store.
        let clock = Arc::clone(&host.clock);
        let wrong = |error: std::io::Error| {
            let what = format!("{} cannot be listened on: {error}", config.listen);
            Failure::new(Exit::Failed, what)
        };
        let bound = Bound::bind(config.listen, acceptor, clock).map_err(wrong)?;
        let address = bound.address().map_err(wrong)?;
        let store = wiring::open(&config.store, config.store_password.as_ref(), &host)
            .await
            .map_err(|error| failed(&error))?;
        let plane = Plane::start(host, store, plane)
            .await
            .map_err(|error| failed(&error))?;
        let admin_token = admin_token(&plane, &config.data_dir).await?;
        let (stop, stopped) = watch::channel(false);
        let listener = bound.listen().map_err(wrong)?;
        let serving = listener.serve(router(App::new(Arc::clone(&plane))), stopped);
        let listening = tokio::spawn(serving);
        let scheme = if config.tls.is_some() {
            "https"
        } else {
            "http"
        };
        Ok(Self {
            address,
            admin_token,
            plane,
            scheme,
            stop,
            listening,
        })
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Takes no more connections, lets open requests end, and stops.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.listening.await {
            tracing::error!(%error, "the listener ended badly");
        }
        self.plane.stop().await;
        self.plane.release().await;
    }
}

/// A failure to start, with what lies behind it.
pub(crate) fn failed(error: &Error) -> Failure {
    let mut failure = Failure::new(Exit::Failed, error.to_string()).because(error.reason());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        failure = failure.detail(cause.to_string());
        source = cause.source();
    }
    failure
}

fn make_private_dir(dir: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(|error| {
        let what = format!(
            "the data directory {} cannot be made: {error}",
            dir.display()
        );
        Failure::new(Exit::Failed, what)
    })
}

/// The administrator's token: the one in the file when this store knows it, otherwise a new one.
async fn admin_token(plane: &Plane, data_dir: &Path) -> Result<PathBuf, Failure> {
    let path = data_dir.join(ADMIN_TOKEN);
    if let Ok(text) = fs::read_to_string(&path)
        && plane
            .tokens
            .find(text.trim())
            .await
            .map_err(|error| failed(&error))?
            .is_some()
    {
        return Ok(path);
    }
    let new = NewToken {
        name: "admin".to_owned(),
        scope: Scope::Admin,
        ttl: None,
        actor: "cpl-serve".to_owned(),
        request_id: format!("bootstrap-{:016x}", plane.host.ids.fresh() >> 64),
    };
    let (secret, _, _) = plane
        .tokens
        .create(&new)
        .await
        .map_err(|error| failed(&error))?;
    write_secret(&path, &secret).map_err(|error| {
        let what = format!("{} cannot be written: {error}", path.display());
        Failure::new(Exit::Failed, what)
    })?;
    Ok(path)
}

/// Writes a secret where only its owner can read it, whole or not at all.
fn write_secret(path: &Path, secret: &Secret) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    writeln!(file, "{}", secret.reveal())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

/// Runs a server until it is told to stop. Blocks; must be called outside of any runtime.
pub fn run(config: &ServeConfig) -> Outcome {
    start_log(config.log_format, &config.log)?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let plane = PlaneConfig {
            session: config.session,
            ..PlaneConfig::default()
        };
        let server = Server::start(config, plane, Host::new()).await?;
        tracing::info!(
            url = server.url(),
            store = ?config.store,
            admin_token = %server.admin_token.display(),
            "serving"
        );
        let plane = Arc::clone(&server.plane);
        let lost = tokio::select! {
            told = until_told_to_stop() => told.map(|()| None)?,
            lost = plane.lost() => Some(lost),
        };
        tracing::info!("stopping");
        server.stop().await;
        lost.map_or(Ok(Exit::Success), |error| Err(failed(&error)))
    })
}

/// The runtime of a server or agent.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("no runtime can be started: {error}")))
}

/// Completes with SIGINT or SIGTERM.
pub(crate) async fn until_told_to_stop() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind).map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("signals cannot be listened to: {error}"),
            )
        })
    };
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    tokio::select! {
        _ = interrupt.recv() => {},
        _ = terminate.recv() => {},
    }
    Ok(())
}

/// Starts the log, on stderr.
pub(crate) fn start_log(format: LogFormat, filter: &str) -> Result<(), Failure> {
    use tracing_subscriber::EnvFilter;
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::invalid(format!("the log filter {filter:?} is not valid: {error}"))
    };
    let filter = EnvFilter::try_new(filter).map_err(|error| wrong(&error))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}
