//! Accepting connections: plain or TLS, bounded in number, ended in order.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use cpl_core::clock::Clock;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, unconstrained};
use tokio_rustls::TlsAcceptor;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 20_000;
/// Connections that wait to be accepted; the system may allow fewer (`net.core.somaxconn`).
const BACKLOG: u32 = 16_384;
/// How long a client may take to send the head of a request.
const HEAD: Duration = Duration::from_secs(20);
/// Largest head of a request.
const HEAD_BYTES: usize = 32 << 10;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection, for example because no descriptor is free.
const REFUSED: Duration = Duration::from_millis(200);
/// How long open requests may go on after the server was told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// An address that is taken; whoever connects is refused and tries again soon.
pub(crate) struct Bound {
    socket: TcpSocket,
    tls: Option<TlsAcceptor>,
    clock: Arc<dyn Clock>,
}

/// Where connections come from.
pub(crate) struct Listener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
    clock: Arc<dyn Clock>,
}

/// Reads a certificate chain and its key.
pub(crate) fn tls(cert: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("{}: {error}", cert.display()))?;
    let key_der =
        PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, key_der)
        })
        .map_err(|error| format!("{} and {}: {error}", cert.display(), key.display()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Bound {
    /// Binds an address.
    pub(crate) fn bind(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // As the standard library does: the port of a server that has just ended can be bound.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self { socket, tls, clock })
    }

    /// Where it is; says which port it got when any was asked for.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Listens, with room for a fleet that comes back at once. To be called when connections can be
    /// accepted: one that finds no room is tried again by its own system after one second, three, seven,
    /// and so on, while one that is refused is told so.
    pub(crate) fn listen(self) -> io::Result<Listener> {
        let Self { socket, tls, clock } = self;
        let tcp = socket.listen(BACKLOG)?;
        Ok(Listener { tcp, tls, clock })
    }
}

impl Listener {
    /// Serves until told to stop; then open requests have [`DRAIN`] to end.
    pub(crate) async fn serve(self, router: Router, mut stop: watch::Receiver<bool>) {
        // Not also HTTP/2 by guessing from the first bytes: that takes a buffer of twice the size for each of
        // thousands of waiting agents.
        let mut builder = Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            // Answers and events are small: one copy costs less than a list of parts for the kernel.
            .writev(false)
            .max_buf_size(HEAD_BYTES);
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let accepting = async {
            loop {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                    break;
                };
                let accepted = tokio::select! {
                    accepted = self.tcp.accept() => accepted,
                    _ = stop.wait_for(|stop| *stop) => break,
                    Some(ended) = connections.join_next() => {
                        if let Err(error) = ended {
                            tracing::error!(%error, "a connection ended badly");
                        }
                        continue;
                    },
                };
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "failed to accept a connection");
                        self.clock.sleep(REFUSED).await;
                        continue;
                    },
                };
                let (builder, watcher) = (builder.clone(), graceful.watcher());
                let (router, tls) = (router.clone(), self.tls.clone());
                let clock = Arc::clone(&self.clock);
                connections.spawn(async move {
                    let _permit = permit;
                    let service = TowerToHyperService::new(router);
                    match handshake(stream, tls, &*clock).await {
                        Some(Either::Plain(stream)) => {
                            let io = TokioIo::new(stream);
                            let served = builder.serve_connection(io, service);
                            let _closed = watcher.watch(served).await;
                        },
                        Some(Either::Tls(stream)) => {
                            let io = TokioIo::new(stream);
                            let served = builder.serve_connection(io, service);
                            let _closed = watcher.watch(served).await;
                        },
                        None => {},
                    }
                });
            }
        };
        // Whoever waits to be accepted goes before those who were: the kernel's queue is short, and what does
        // not fit tries again a second later.
        unconstrained(accepting).await;
        drop(self.tcp);
        let drained = pin!(graceful.shutdown());
        let _in_time = futures::future::select(drained, self.clock.sleep(DRAIN)).await;
        // Streams never end by themselves; what is still open is cut.
        connections.shutdown().await;
    }
}

enum Either {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

async fn handshake(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    clock: &dyn Clock,
) -> Option<Either> {
    // Answers are small and awaited; waiting to fill packets only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "failed to set no delay");
    }
    let Some(tls) = tls else {
        return Some(Either::Plain(stream));
    };
    let accepting = pin!(tls.accept(stream));
    match futures::future::select(accepting, clock.sleep(HANDSHAKE)).await {
        futures::future::Either::Left((Ok(stream), _)) => Some(Either::Tls(Box::new(stream))),
        futures::future::Either::Left((Err(error), _)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        },
        futures::future::Either::Right(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use cpl_host::Host;

    use super::*;

    #[tokio::test]
    async fn whoever_comes_too_early_is_refused() {
        let clock = Host::new().clock;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = Bound::bind(nowhere, None, Arc::clone(&clock)).unwrap();
        let address = bound.address().unwrap();
        let early = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(early.kind(), io::ErrorKind::ConnectionRefused);

        let listener = bound.listen().unwrap();
        TcpStream::connect(address).await.unwrap();
        let second = Bound::bind(address, None, clock).err().unwrap();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
    }
}
