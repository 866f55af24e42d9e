//! Small applications behind the demo's target group: each says which one it is.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::any;
use cpl_host::Host;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cli::failure::{Exit, Failure};
use crate::listener::Bound;

/// Where the applications listen.
pub(super) const APPS: [&str; 4] = ["127.0.0.21", "127.0.0.22", "127.0.0.23", "127.0.0.24"];
/// The port of each.
pub(super) const APP_PORT: u16 = 9000;

/// Applications that run.
pub(super) struct Apps {
    stop: watch::Sender<bool>,
    serving: Vec<JoinHandle<()>>,
}

/// Starts them all.
pub(super) fn start(host: &Host) -> Result<Apps, Failure> {
    let (stop, stopped) = watch::channel(false);
    let mut serving = Vec::new();
    for (number, ip) in APPS.iter().enumerate() {
        let wrong = |error: &dyn std::fmt::Display| {
            let what = format!("the demo cannot listen on {ip}:{APP_PORT}: {error}");
            Failure::new(Exit::Failed, what)
        };
        let ip = ip.parse().map_err(|error| wrong(&error))?;
        let address = SocketAddr::new(ip, APP_PORT);
        let listener = Bound::bind(address, None, Arc::clone(&host.clock)).and_then(Bound::listen);
        let hello = format!("hello from app-{} at {address}\n", number + 1);
        let router = Router::new().fallback(any(move || std::future::ready(hello.clone())));
        let listener = listener.map_err(|error| wrong(&error))?;
        serving.push(tokio::spawn(listener.serve(router, stopped.clone())));
    }
    Ok(Apps { stop, serving })
}

impl Apps {
    /// Ends them all.
    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        for serving in self.serving {
            if let Err(error) = serving.await {
                tracing::warn!(%error, "an application ended badly");
            }
        }
    }
}
