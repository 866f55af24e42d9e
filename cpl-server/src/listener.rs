//! Accepting connections: plain or TLS, HTTP/1.1 or HTTP/2, bounded in number, ended in order.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use cpl_core::clock::Clock;
use futures::future::{Either, select};
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
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
/// What a connection begins with when it speaks HTTP/2 without TLS (RFC 9113, section 3.4); of the methods of
/// HTTP/1.1 none begins with its first three bytes.
const PREFACE: &[u8; 3] = b"PRI";
/// Pause before a client that has sent a part of [`PREFACE`] is looked at again.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);
/// Requests at once on a connection of HTTP/2, watches included.
const STREAMS: u32 = 250;
/// Bytes of answers that wait for a stream of HTTP/2 whose client does not read.
const STREAM_BYTES: usize = 64 << 10;
/// A connection of HTTP/2 on which nothing comes is asked after this time, and ended when no answer comes for
/// as long again.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection, for example because no descriptor is free.
const REFUSED: Duration = Duration::from_millis(200);
/// The name of HTTP/2 in a TLS handshake (RFC 9113, section 3.1).
const ALPN_HTTP2: &[u8] = b"h2";
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
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, key_der)
        })
        .map_err(|error| format!("{} and {}: {error}", cert.display(), key.display()))?;
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), b"http/1.1".to_vec()];
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
        let protocols = Protocols::new(self.tls, Arc::clone(&self.clock));
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
                let (protocols, watcher) = (protocols.clone(), graceful.watcher());
                let router = router.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    let service = TowerToHyperService::new(router);
                    protocols.serve(stream, service, watcher).await;
                });
            }
        };
        // Whoever waits to be accepted goes before those who were: the kernel's queue is short, and what does
        // not fit tries again a second later.
        unconstrained(accepting).await;
        drop(self.tcp);
        let drained = pin!(graceful.shutdown());
        let _in_time = select(drained, self.clock.sleep(DRAIN)).await;
        // Streams never end by themselves; what is still open is cut.
        connections.shutdown().await;
    }
}

/// How each protocol is served.
#[derive(Clone)]
struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    tls: Option<TlsAcceptor>,
    clock: Arc<dyn Clock>,
}

impl Protocols {
    fn new(tls: Option<TlsAcceptor>, clock: Arc<dyn Clock>) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            // Answers and events are small: one copy costs less than a list of parts for the kernel.
            .writev(false)
            .max_buf_size(HEAD_BYTES);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_send_buf_size(STREAM_BYTES)
            .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
            .keep_alive_interval(SILENCE)
            .keep_alive_timeout(SILENCE);
        Self {
            http1,
            http2,
            tls,
            clock,
        }
    }

    /// Serves one connection to its end. What few connections are, TLS or HTTP/2, is on the heap: thousands
    /// of waiting agents take the size of the largest case each.
    async fn serve(&self, stream: TcpStream, service: Service, watcher: Watcher) {
        // Answers are small and awaited; waiting to fill packets only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "failed to set no delay");
        }
        if let Some(tls) = &self.tls {
            return Box::pin(self.encrypted(tls, stream, service, watcher)).await;
        }
        match Box::pin(speaks_http2(&stream, &*self.clock)).await {
            Some(false) => self.http1(TokioIo::new(stream), service, watcher).await,
            Some(true) => Box::pin(self.http2(TokioIo::new(stream), service, watcher)).await,
            None => {},
        }
    }

    async fn encrypted(
        &self,
        tls: &TlsAcceptor,
        stream: TcpStream,
        service: Service,
        watcher: Watcher,
    ) {
        let accepting = pin!(tls.accept(stream));
        let stream = match select(accepting, self.clock.sleep(HANDSHAKE)).await {
            Either::Left((Ok(stream), _)) => stream,
            Either::Left((Err(error), _)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                return;
            },
            Either::Right(_) => return,
        };
        if stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2) {
            Box::pin(self.http2(TokioIo::new(stream), service, watcher)).await;
        } else {
            Box::pin(self.http1(TokioIo::new(stream), service, watcher)).await;
        }
    }

    async fn http1<I>(&self, stream: I, service: Service, watcher: Watcher)
    where
        I: Read + Write + Send + Unpin + 'static,
    {
        let _closed = watcher
            .watch(self.http1.serve_connection(stream, service))
            .await;
    }

    async fn http2<I>(&self, stream: I, service: Service, watcher: Watcher)
    where
        I: Read + Write + Send + Unpin + 'static,
    {
        let _closed = watcher
            .watch(self.http2.serve_connection(stream, service))
            .await;
    }
}

type Service = TowerToHyperService<Router>;

/// Whether the client begins as HTTP/2 does; `None` when it says nothing in time. What it sent stays to be read.
async fn speaks_http2(stream: &TcpStream, clock: &dyn Clock) -> Option<bool> {
    let looking = pin!(async {
        let mut start = [0; PREFACE.len()];
        loop {
            let seen = stream.peek(&mut start).await.ok()?;
            let seen = &start[..seen];
            if seen.is_empty() || !PREFACE.starts_with(seen) {
                return Some(false);
            }
            if seen == PREFACE {
                return Some(true);
            }
            clock.sleep(PREFACE_PAUSE).await;
        }
    });
    match select(looking, clock.sleep(HEAD)).await {
        Either::Left((found, _)) => found,
        Either::Right(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use cpl_host::Host;
    use tokio::io::AsyncWriteExt;

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

    #[tokio::test]
    async fn the_protocol_is_told_from_the_first_bytes_however_they_arrive() {
        let clock = Host::new().clock;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (parts, expected) in [
            (vec!["PRI * HTTP/2.0\r\n"], Some(true)),
            (vec!["P", "RI * HTTP/2.0\r\n"], Some(true)),
            (vec!["P", "OST / HTTP/1.1\r\n"], Some(false)),
            (vec!["PR", "OPFIND / HTTP/1.1\r\n"], Some(false)),
            (vec!["GET / HTTP/1.1\r\n"], Some(false)),
            (vec![], Some(false)),
        ] {
            let mut client = TcpStream::connect(address).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let writing = async {
                for part in &parts {
                    client.write_all(part.as_bytes()).await.unwrap();
                    tokio::time::sleep(PREFACE_PAUSE * 3).await;
                }
                client.shutdown().await.unwrap();
            };
            let (found, ()) = tokio::join!(speaks_http2(&server, &*clock), writing);
            assert_eq!(found, expected, "{parts:?}");
        }
    }
}
