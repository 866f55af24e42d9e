//! Following changes over server-sent events, through lost connections.

use std::fmt::{Debug, Formatter};
use std::time::Duration;

use futures::StreamExt;
use http::Method;
use http::header::HeaderName;

use crate::backoff::Backoff;
use crate::client::{Call, ControlPlaneClient};
use crate::error::ControlPlaneError;
use crate::object::WatchEvent;
use crate::problem::Code;
use crate::sse::{Event, Parser};
use crate::transport::{ByteStream, ControlPlaneTransport, TransportError, encode};

/// The type of a stream of events.
pub const EVENT_STREAM: &str = "text/event-stream";
/// Names the event to resume after.
pub const LAST_EVENT_ID: &str = "last-event-id";

/// The server sends at least a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// Something that a watch saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Resume after this to miss nothing that follows.
    pub cursor: String,
    /// What.
    pub event: WatchEvent,
}

/// A watch that resumes by itself when the connection is lost, without a gap and without repeating.
///
/// It ends, with the error, when the place in history is forgotten (code `OUT_OF_RANGE`: list anew and
/// watch from the list's cursor), when it is refused, and when the retries of the client's settings are
/// used up without any event in between.
pub struct Watch<T: ControlPlaneTransport + ?Sized> {
    client: ControlPlaneClient<T>,
    target: String,
    cursor: Option<String>,
    state: State,
    backoff: Option<Backoff>,
}

enum State {
    Disconnected { not_before: Duration },
    Connected(Box<Connection>),
    Ended,
}

struct Connection {
    body: ByteStream,
    parser: Parser,
    /// In reverse order.
    ready: Vec<Event>,
}

impl<T: ControlPlaneTransport + ?Sized> Debug for Watch<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("target", &self.target)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

impl<T: ControlPlaneTransport + ?Sized> Watch<T> {
    pub(crate) const fn new(
        client: ControlPlaneClient<T>,
        target: String,
        cursor: Option<String>,
    ) -> Self {
        Self {
            client,
            target,
            cursor,
            state: State::Disconnected {
                not_before: Duration::ZERO,
            },
            backoff: None,
        }
    }

    /// The place up to which everything was returned.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// The next event; `None` after the error that ended the watch.
    ///
    /// Dropping the future loses nothing: the next call goes on.
    pub async fn next(&mut self) -> Option<Result<Seen, ControlPlaneError>> {
        loop {
            let result = match &mut self.state {
                State::Ended => return None,
                State::Disconnected { not_before } => {
                    let wait = *not_before;
                    self.client.clock().sleep(wait).await;
                    self.connect().await
                },
                State::Connected(connection) => match connection.next().await {
                    Ok(event) => match read(&event) {
                        Ok(seen) => {
                            self.saw(&event);
                            match seen {
                                Some(seen) => return Some(Ok(seen)),
                                None => Ok(()),
                            }
                        },
                        Err(error) => Err(error.into()),
                    },
                    Err(error) => Err(error.into()),
                },
            };
            if let Err(error) = result
                && let Err(error) = self.lost(error)
            {
                self.state = State::Ended;
                return Some(Err(error));
            }
        }
    }

    fn saw(&mut self, event: &Event) {
        self.backoff = None;
        if !event.id.is_empty() {
            self.cursor = Some(event.id.clone());
        }
    }

    async fn connect(&mut self) -> Result<(), ControlPlaneError> {
        let mut target = self.target.clone();
        let mut call = match &self.cursor {
            Some(cursor) => {
                target.push(if target.contains('?') { '&' } else { '?' });
                target.push_str("from=");
                encode(&mut target, cursor);
                let mut call = Call::new(Method::GET, target);
                call.header(HeaderName::from_static(LAST_EVENT_ID), cursor)?;
                call
            },
            None => Call::new(Method::GET, target),
        };
        call = call.timeout(SILENCE);
        let response = self.client.open(call, EVENT_STREAM).await?;
        self.state = State::Connected(Box::new(Connection {
            body: response.body,
            parser: Parser::new(),
            ready: Vec::new(),
        }));
        Ok(())
    }

    /// Waits before connecting again, or gives the error back when that cannot help.
    fn lost(&mut self, error: ControlPlaneError) -> Result<(), ControlPlaneError> {
        if error.code() == Code::OutOfRange || !error.is_retryable() {
            return Err(error);
        }
        let now = self.client.clock().monotonic();
        let backoff = self
            .backoff
            .get_or_insert_with(|| Backoff::start(self.client.settings().retry, now));
        match backoff.failed(now, error.retry_after(), self.client.ids()) {
            Some(not_before) => {
                self.state = State::Disconnected { not_before };
                Ok(())
            },
            None => Err(error),
        }
    }
}

impl Connection {
    async fn next(&mut self) -> Result<Event, TransportError> {
        loop {
            if let Some(event) = self.ready.pop() {
                return Ok(event);
            }
            let Some(part) = self.body.next().await else {
                return Err(TransportError::Closed {
                    message: "the stream of events ended".to_owned(),
                });
            };
            self.ready = self.parser.push(&part?)?;
            self.ready.reverse();
        }
    }
}

/// An event of this protocol; `None` for a kind that this client does not know.
fn read(event: &Event) -> Result<Option<Seen>, TransportError> {
    let decode = |message: String| TransportError::Decode { message };
    let value: serde_json::Value = serde_json::from_str(&event.data)
        .map_err(|error| decode(format!("event {}: {error}", event.id)))?;
    let known = matches!(
        value.get("type").and_then(serde_json::Value::as_str),
        Some("put" | "delete" | "bookmark")
    );
    if !known {
        return Ok(None);
    }
    let read = serde_json::from_value(value)
        .map_err(|error| decode(format!("event {}: {error}", event.id)))?;
    Ok(Some(Seen {
        cursor: event.id.clone(),
        event: read,
    }))
}
