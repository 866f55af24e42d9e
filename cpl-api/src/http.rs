//! The transport over HTTP/1.1, with TLS by rustls.

use std::error::Error as StdError;
use std::fmt::{Debug, Formatter};
use std::future::ready;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cpl_core::clock::Clock;
use futures::future::{BoxFuture, Either, select};
use futures::{FutureExt, StreamExt, TryFutureExt};
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, StatusCode, Uri};
use http_body_util::{BodyExt, BodyStream, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::rt::{Read, Write};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tower::Service;

use crate::transport::{
    ConnectFailure, ControlPlaneTransport, Request, Response, StreamResponse, TlsFailure,
    TransportError, Wait,
};

type BoxError = Box<dyn StdError + Send + Sync>;
type Exchange = dyn Fn(
        http::Request<Full<Bytes>>,
    )
        -> BoxFuture<'static, Result<http::Response<Incoming>, hyper_util::client::legacy::Error>>
    + Send
    + Sync;

/// Where the control plane is and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Its replicas: `https://host:port`. The first is used until it fails, then the next.
    pub servers: Vec<String>,
    /// Certificates in PEM that are trusted instead of the public ones, for a control plane with a
    /// certificate authority of its own.
    pub ca_file: Option<PathBuf>,
    /// How long a connection may take, TLS included.
    pub connect_timeout: Duration,
    /// What this program calls itself.
    pub user_agent: String,
}

impl HttpConfig {
    /// One server and the usual settings.
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            servers: vec![server.into()],
            ca_file: None,
            connect_timeout: Duration::from_secs(5),
            user_agent: concat!("cpl/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// The transport cannot be made from its settings.
#[derive(Debug, thiserror::Error)]
pub enum HttpConfigError {
    /// There is no server.
    #[error("a server is needed")]
    NoServer,
    /// A server is not `http://host:port` or `https://host:port`.
    #[error("`{server}` is not a server: write https://host:port")]
    BadServer {
        /// What was given.
        server: String,
    },
    /// The name of this program cannot be sent.
    #[error("the user agent has a character that cannot be sent")]
    BadUserAgent,
    /// The file of certificates could not be read, or has none.
    #[error("read certificates from {}", path.display())]
    BadCaFile {
        /// The file.
        path: PathBuf,
        /// Why; absent when it has no certificate.
        #[source]
        source: Option<BoxError>,
    },
}

/// A [`ControlPlaneTransport`] over HTTP/1.1 with kept connections.
///
/// It stays with one server of the list until that one fails, then goes on with the next: an agent
/// that wandered without need would make its presence wander too. Connections are driven on the
/// current Tokio runtime.
pub struct HttpControlPlaneTransport {
    exchange: Box<Exchange>,
    servers: Vec<(String, HeaderValue)>,
    current: AtomicUsize,
    user_agent: HeaderValue,
    clock: Arc<dyn Clock>,
}

impl HttpControlPlaneTransport {
    /// Over TCP, with the names of the operating system.
    pub fn new(config: &HttpConfig, clock: Arc<dyn Clock>) -> Result<Self, HttpConfigError> {
        let mut connector = HttpConnector::new_with_resolver(Resolver(GaiResolver::new()));
        connector.enforce_http(false);
        connector.set_nodelay(true);
        Self::with_connector(config, clock, connector)
    }

    /// Over the connections that `connector` makes, with TLS on top where the server is `https`.
    pub fn with_connector<C>(
        config: &HttpConfig,
        clock: Arc<dyn Clock>,
        connector: C,
    ) -> Result<Self, HttpConfigError>
    where
        C: Service<Uri> + Clone + Send + Sync + 'static,
        C::Response: Connection + Read + Write + Send + Unpin + 'static,
        C::Future: Send + 'static,
        C::Error: Into<BoxError>,
    {
        if config.servers.is_empty() {
            return Err(HttpConfigError::NoServer);
        }
        let servers = config
            .servers
            .iter()
            .map(|server| parse_server(server))
            .collect::<Result<_, _>>()?;
        let user_agent =
            HeaderValue::from_str(&config.user_agent).map_err(|_| HttpConfigError::BadUserAgent)?;
        let connector = Timed {
            inner: HttpsConnectorBuilder::new()
                .with_tls_config(tls_config(config)?)
                .https_or_http()
                .enable_http1()
                .wrap_connector(connector),
            timeout: config.connect_timeout,
            clock: Arc::clone(&clock),
        };
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self {
            exchange: Box::new(move |request| Box::pin(client.request(request))),
            servers,
            current: AtomicUsize::new(0),
            user_agent,
            clock,
        })
    }

    async fn head(&self, request: Request) -> Result<http::Response<Incoming>, TransportError> {
        let chosen = self.current.load(Ordering::Relaxed);
        let timeout = self.clock.sleep(request.timeout);
        let exchange = (self.exchange)(self.outgoing(chosen, request)?);
        let result = match select(exchange, timeout).await {
            Either::Left((result, _)) => result.map_err(|error| classify(&error)),
            Either::Right(_) => Err(TransportError::Timeout(Wait::Response)),
        };
        if result
            .as_ref()
            .map_or_else(TransportError::is_retryable, |response| {
                is_leaving(response.status())
            })
        {
            self.leave(chosen);
        }
        result
    }

    fn outgoing(
        &self,
        chosen: usize,
        request: Request,
    ) -> Result<http::Request<Full<Bytes>>, TransportError> {
        let decode = |error: &dyn StdError| TransportError::Decode {
            message: error.to_string(),
        };
        let (base, host) = &self.servers[chosen % self.servers.len()];
        let uri: Uri = format!("{base}{}", request.target)
            .parse()
            .map_err(|error| decode(&error))?;
        let mut outgoing = http::Request::new(Full::new(request.body));
        *outgoing.method_mut() = request.method;
        *outgoing.uri_mut() = uri;
        *outgoing.headers_mut() = request.headers;
        outgoing.headers_mut().insert(HOST, host.clone());
        outgoing
            .headers_mut()
            .insert(USER_AGENT, self.user_agent.clone());
        Ok(outgoing)
    }

    /// Goes on with the next server, unless another call did so already.
    fn leave(&self, failed: usize) {
        let next = failed.wrapping_add(1);
        // Losing this race means that the server was changed, which is what was wanted.
        let _changed =
            self.current
                .compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Debug for HttpControlPlaneTransport {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpControlPlaneTransport")
            .field("servers", &self.servers)
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ControlPlaneTransport for HttpControlPlaneTransport {
    async fn send(&self, request: Request) -> Result<Response, TransportError> {
        let (timeout, limit) = (request.timeout, request.max_response_bytes);
        let (head, body) = self.head(request).await?.into_parts();
        let announced = body.size_hint().lower();
        if usize::try_from(announced).map_or(true, |bytes| bytes > limit) {
            return Err(TransportError::TooLarge { limit });
        }
        let whole = Limited::new(body, limit).collect();
        let body = match select(Box::pin(whole), self.clock.sleep(timeout)).await {
            Either::Left((body, _)) => body
                .map_err(|error| too_large_or_closed(error.as_ref(), limit))?
                .to_bytes(),
            Either::Right(_) => return Err(TransportError::Timeout(Wait::Body)),
        };
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    async fn stream(&self, request: Request) -> Result<StreamResponse, TransportError> {
        let timeout = request.timeout;
        let (head, body) = self.head(request).await?.into_parts();
        let clock = Arc::clone(&self.clock);
        let parts = BodyStream::new(body).filter_map(|frame| {
            ready(match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(TransportError::Closed {
                    message: error.to_string(),
                })),
            })
        });
        let timed = futures::stream::unfold(Some(Box::pin(parts)), move |parts| {
            let timeout = clock.sleep(timeout);
            async move {
                let mut parts = parts?;
                let next = match select(parts.next(), timeout).await {
                    Either::Left((next, _)) => next?,
                    Either::Right(_) => Err(TransportError::Timeout(Wait::Body)),
                };
                let rest = next.is_ok().then_some(parts);
                Some((next, rest))
            }
        });
        Ok(StreamResponse {
            status: head.status,
            headers: head.headers,
            body: timed.boxed(),
        })
    }
}

/// A replica that says so is on its way out, or a proxy before it has lost it.
const fn is_leaving(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

fn parse_server(server: &str) -> Result<(String, HeaderValue), HttpConfigError> {
    let bad = || HttpConfigError::BadServer {
        server: server.to_owned(),
    };
    let uri: Uri = server.parse().map_err(|_| bad())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(bad());
    };
    let plain = matches!(scheme, "http" | "https")
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none()
        && !authority.as_str().contains('@');
    if !plain {
        return Err(bad());
    }
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?;
    Ok((format!("{scheme}://{authority}"), host))
}

fn tls_config(config: &HttpConfig) -> Result<ClientConfig, HttpConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|_| {
            unreachable!("ring offers the cipher suites of the default protocol versions")
        });
    let Some(path) = &config.ca_file else {
        return Ok(builder.with_webpki_roots().with_no_client_auth());
    };
    let bad = |source: Option<BoxError>| HttpConfigError::BadCaFile {
        path: path.clone(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(path).map_err(|error| bad(Some(error.into())))?
    {
        let certificate = certificate.map_err(|error| bad(Some(error.into())))?;
        roots
            .add(certificate)
            .map_err(|error| bad(Some(error.into())))?;
    }
    if roots.is_empty() {
        return Err(bad(None));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The connector could not connect in time.
#[derive(Debug, thiserror::Error)]
#[error("the connection took too long")]
struct ConnectTimeout;

/// The resolver found no address. A type of ours, since the connector's own cannot be told apart.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoAddress(io::Error);

#[derive(Clone, Debug)]
struct Resolver(GaiResolver);

impl Service<Name> for Resolver {
    type Response = <GaiResolver as Service<Name>>::Response;
    type Error = NoAddress;
    type Future = BoxFuture<'static, Result<Self::Response, NoAddress>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NoAddress>> {
        self.0.poll_ready(cx).map_err(NoAddress)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        self.0.call(name).map_err(NoAddress).boxed()
    }
}

/// A connector with a limit on time, from the clock that everything else uses.
#[derive(Clone, Debug)]
struct Timed<C> {
    inner: HttpsConnector<C>,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl<C> Service<Uri> for Timed<C>
where
    HttpsConnector<C>: Service<Uri, Error = BoxError>,
    <HttpsConnector<C> as Service<Uri>>::Future: Send + 'static,
{
    type Response = <HttpsConnector<C> as Service<Uri>>::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connection = Box::pin(self.inner.call(uri));
        let timeout = self.clock.sleep(self.timeout);
        Box::pin(async move {
            match select(connection, timeout).await {
                Either::Left((connection, _)) => connection,
                Either::Right(_) => Err(ConnectTimeout.into()),
            }
        })
    }
}

fn too_large_or_closed(error: &(dyn StdError + 'static), limit: usize) -> TransportError {
    if error.is::<http_body_util::LengthLimitError>() {
        return TransportError::TooLarge { limit };
    }
    TransportError::Closed {
        message: error.to_string(),
    }
}

fn classify(error: &hyper_util::client::legacy::Error) -> TransportError {
    let causes = causes(error);
    let message = causes
        .last()
        .map_or_else(|| error.to_string(), ToString::to_string);
    if causes.iter().any(|cause| cause.is::<ConnectTimeout>()) {
        return TransportError::Timeout(Wait::Connect);
    }
    if causes.iter().any(|cause| cause.is::<NoAddress>()) {
        return TransportError::Dns { message };
    }
    if let Some(error) = causes.iter().find_map(|cause| cause.downcast_ref()) {
        return TransportError::Tls {
            failure: tls_failure(error),
            message,
        };
    }
    if !error.is_connect() {
        return TransportError::Closed { message };
    }
    let kind = causes
        .iter()
        .rev()
        .find_map(|cause| cause.downcast_ref())
        .map_or(io::ErrorKind::Other, io::Error::kind);
    TransportError::Connect {
        failure: connect_failure(kind),
        message,
    }
}

/// The error and everything below it, also what `io::Error` wraps without calling it its source.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    const DEEPEST: usize = 32;
    let mut found: Vec<&'a (dyn StdError + 'static)> = vec![error];
    while let Some(last) = found.last().copied()
        && found.len() < DEEPEST
    {
        let wrapped = last
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .map(|inner| inner as &(dyn StdError + 'static));
        match wrapped.or_else(|| last.source()) {
            Some(next) => found.push(next),
            None => break,
        }
    }
    found
}

const fn connect_failure(kind: io::ErrorKind) -> ConnectFailure {
    match kind {
        io::ErrorKind::ConnectionRefused => ConnectFailure::Refused,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::AddrNotAvailable => ConnectFailure::Unreachable,
        _ => ConnectFailure::Other,
    }
}

const fn tls_failure(error: &rustls::Error) -> TlsFailure {
    let rustls::Error::InvalidCertificate(certificate) = error else {
        return TlsFailure::Other;
    };
    match certificate {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => TlsFailure::Expired,
        CertificateError::UnknownIssuer => TlsFailure::UnknownCa,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsFailure::NameMismatch
        },
        _ => TlsFailure::Other,
    }
}
