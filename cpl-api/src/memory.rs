//! A transport without a network, for tests and for simulators.

use std::fmt::{Debug, Formatter};

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::BoxFuture;

use crate::transport::{ControlPlaneTransport, Request, Response, StreamResponse, TransportError};

type Handler =
    dyn Fn(Request) -> BoxFuture<'static, Result<StreamResponse, TransportError>> + Send + Sync;

/// Hands every request to a function.
///
/// Timeouts and size limits of requests are the function's matter.
pub struct MemoryTransport {
    handler: Box<Handler>,
}

impl MemoryTransport {
    /// A transport that answers with whole responses; a stream gets the body as its only part.
    pub fn new<H, F>(handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response, TransportError>> + Send + 'static,
    {
        Self::streaming(move |request| {
            let response = handler(request);
            async move {
                let Response {
                    status,
                    headers,
                    body,
                } = response.await?;
                Ok(StreamResponse {
                    status,
                    headers,
                    body: futures::stream::once(async { Ok(body) }).boxed(),
                })
            }
        })
    }

    /// A transport that answers with streams; whoever wants a whole response gets the parts joined.
    pub fn streaming<H, F>(handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Result<StreamResponse, TransportError>> + Send + 'static,
    {
        Self {
            handler: Box::new(move |request| Box::pin(handler(request))),
        }
    }
}

impl Debug for MemoryTransport {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryTransport").finish_non_exhaustive()
    }
}

#[async_trait]
impl ControlPlaneTransport for MemoryTransport {
    async fn send(&self, request: Request) -> Result<Response, TransportError> {
        let StreamResponse {
            status,
            headers,
            body: mut parts,
        } = (self.handler)(request).await?;
        let mut body = Vec::new();
        while let Some(part) = parts.next().await {
            body.extend_from_slice(&part?);
        }
        Ok(Response {
            status,
            headers,
            body: body.into(),
        })
    }

    async fn stream(&self, request: Request) -> Result<StreamResponse, TransportError> {
        (self.handler)(request).await
    }
}
