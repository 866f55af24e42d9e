//! The client of a control plane: credentials, idempotency, retries, and what an answer means.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cpl_core::clock::Clock;
use cpl_core::ids::{IdGen, TxnId};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, IF_MATCH};
use http::{HeaderMap, HeaderValue, Method};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backoff::{Backoff, BackoffPolicy};
use crate::error::{ControlPlaneError, judge};
use crate::token::BearerToken;
use crate::transport::{
    ControlPlaneTransport, RESPONSE_BYTES, Request, StreamResponse, TransportError,
};
use crate::{IDEMPOTENCY_KEY, REQUEST_ID};

pub(crate) const JSON: &str = "application/json";

/// Longest error document of a stream that is read.
const PROBLEM_BYTES: usize = 64 << 10;

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// When reads, and writes that carry an idempotency key, are tried again.
    pub retry: BackoffPolicy,
    /// How long one try may take.
    pub timeout: Duration,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            retry: BackoffPolicy::INTERACTIVE,
            timeout: Duration::from_secs(30),
        }
    }
}

/// How a write is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Check everything and write nothing.
    pub dry_run: bool,
    /// Only if the object still has this etag.
    pub if_match: Option<String>,
    /// The name of this write, for a caller that may repeat it in a later process; one is drawn when
    /// absent.
    pub idempotency_key: Option<String>,
}

/// Speaks to a control plane over any transport.
///
/// Reads, and writes by their idempotency key, are repeated by [`ClientSettings::retry`] when that can
/// help; all tries of a write carry the same key, so it happens once. Dropping a future gives the call
/// up; a write may still happen. Clones share the transport.
#[derive(Debug)]
pub struct ControlPlaneClient<T: ControlPlaneTransport + ?Sized = dyn ControlPlaneTransport> {
    transport: Arc<T>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGen>,
    token: Option<BearerToken>,
    settings: ClientSettings,
}

impl<T: ControlPlaneTransport + ?Sized> Clone for ControlPlaneClient<T> {
    fn clone(&self) -> Self {
        Self {
            transport: Arc::clone(&self.transport),
            clock: Arc::clone(&self.clock),
            ids: Arc::clone(&self.ids),
            token: self.token.clone(),
            settings: self.settings,
        }
    }
}

impl<T: ControlPlaneTransport + ?Sized> ControlPlaneClient<T> {
    /// A client that says nothing of who it is.
    pub fn new(transport: Arc<T>, clock: Arc<dyn Clock>, ids: Arc<dyn IdGen>) -> Self {
        Self {
            transport,
            clock,
            ids,
            token: None,
            settings: ClientSettings::default(),
        }
    }

    /// The same client with these credentials.
    #[must_use]
    pub fn with_token(mut self, token: BearerToken) -> Self {
        self.token = Some(token);
        self
    }

    /// The same client with other settings.
    #[must_use]
    pub const fn with_settings(mut self, settings: ClientSettings) -> Self {
        self.settings = settings;
        self
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn ids(&self) -> &dyn IdGen {
        self.ids.as_ref()
    }

    pub(crate) const fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// A read, repeated when that can help.
    pub(crate) async fn read<R: DeserializeOwned>(
        &self,
        target: String,
    ) -> Result<R, ControlPlaneError> {
        self.read_call(Call::new(Method::GET, target)).await
    }

    /// A read with settings of its own, repeated when that can help.
    pub(crate) async fn read_call<R: DeserializeOwned>(
        &self,
        call: Call,
    ) -> Result<R, ControlPlaneError> {
        self.repeat(call).await
    }

    /// A write, repeated under one idempotency key.
    pub(crate) async fn write<R: DeserializeOwned>(
        &self,
        mut call: Call,
        options: &WriteOptions,
    ) -> Result<R, ControlPlaneError> {
        let drawn;
        let key = if let Some(key) = &options.idempotency_key {
            key
        } else {
            drawn = TxnId::fresh(self.ids()).to_string();
            &drawn
        };
        call.header(HeaderName::from_static(IDEMPOTENCY_KEY), key)?;
        if let Some(etag) = &options.if_match {
            call.header(IF_MATCH, &quoted(etag))?;
        }
        self.repeat(call).await
    }

    async fn repeat<R: DeserializeOwned>(&self, call: Call) -> Result<R, ControlPlaneError> {
        let request = self.request(call)?;
        let mut backoff = Backoff::start(self.settings.retry, self.clock.monotonic());
        loop {
            let error = match self.attempt(request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let delay = if error.is_retryable() {
                backoff.failed(self.clock.monotonic(), error.retry_after(), self.ids())
            } else {
                None
            };
            match delay {
                Some(delay) => self.clock.sleep(delay).await,
                None => return Err(error),
            }
        }
    }

    /// One try, for callers that have a loop of their own.
    pub(crate) async fn once<R: DeserializeOwned>(
        &self,
        call: Call,
    ) -> Result<R, ControlPlaneError> {
        let request = self.request(call)?;
        self.attempt(request).await
    }

    async fn attempt<R: DeserializeOwned>(&self, request: Request) -> Result<R, ControlPlaneError> {
        let response = self.transport.send(request).await?;
        judge(&response, JSON)?;
        serde_json::from_slice(&response.body).map_err(|error| {
            TransportError::Decode {
                message: error.to_string(),
            }
            .into()
        })
    }

    /// One try of a read whose answer does not end soon.
    pub(crate) async fn open(
        &self,
        mut call: Call,
        content_type: &'static str,
    ) -> Result<StreamResponse, ControlPlaneError> {
        call.headers
            .insert(ACCEPT, HeaderValue::from_static(content_type));
        let request = self.request(call)?;
        let response = self.transport.stream(request).await?;
        let mut head = crate::transport::Response {
            status: response.status,
            headers: response.headers.clone(),
            body: Bytes::new(),
        };
        if judge(&head, content_type).is_ok() {
            return Ok(response);
        }
        head.body = beginning(response).await;
        match judge(&head, content_type) {
            Err(error) => Err(error),
            Ok(()) => unreachable!("whether it is a success depends on its head alone"),
        }
    }

    fn request(&self, call: Call) -> Result<Request, ControlPlaneError> {
        let Call {
            method,
            target,
            mut headers,
            body,
            timeout,
            max_response_bytes,
        } = call;
        let id = TxnId::fresh(self.ids()).to_string();
        headers.insert(REQUEST_ID, header_value(&id)?);
        if let Some(token) = &self.token {
            let mut value = header_value(&format!("Bearer {}", token.reveal()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Request {
            method,
            target,
            headers,
            body,
            timeout: timeout.unwrap_or(self.settings.timeout),
            max_response_bytes,
        })
    }
}

/// A request before the client adds who it is.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
    timeout: Option<Duration>,
    max_response_bytes: usize,
}

impl Call {
    pub(crate) fn new(method: Method, target: String) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(JSON));
        Self {
            method,
            target,
            headers,
            body: Bytes::new(),
            timeout: None,
            max_response_bytes: RESPONSE_BYTES,
        }
    }

    pub(crate) fn post<B: Serialize>(target: String, body: &B) -> Result<Self, ControlPlaneError> {
        let mut call = Self::new(Method::POST, target);
        call.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        call.body = serde_json::to_vec(body)
            .map_err(|error| TransportError::Decode {
                message: error.to_string(),
            })?
            .into();
        Ok(call)
    }

    pub(crate) const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub(crate) const fn up_to(mut self, bytes: usize) -> Self {
        self.max_response_bytes = bytes;
        self
    }

    pub(crate) fn header(&mut self, name: HeaderName, value: &str) -> Result<(), TransportError> {
        self.headers.insert(name, header_value(value)?);
        Ok(())
    }
}

fn header_value(text: &str) -> Result<HeaderValue, TransportError> {
    HeaderValue::from_str(text).map_err(|error| TransportError::Decode {
        message: error.to_string(),
    })
}

/// An entity tag is quoted on the wire and bare everywhere else.
fn quoted(etag: &str) -> String {
    if etag == "*" || etag.starts_with('"') {
        etag.to_owned()
    } else {
        format!("\"{etag}\"")
    }
}

/// As much of a stream as an error document may have.
async fn beginning(response: StreamResponse) -> Bytes {
    use futures::StreamExt;

    let mut parts = response.body;
    let mut body = Vec::new();
    while let Some(Ok(part)) = parts.next().await {
        body.extend_from_slice(&part);
        if body.len() > PROBLEM_BYTES {
            break;
        }
    }
    body.into()
}
