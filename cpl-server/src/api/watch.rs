//! `GET /v1/watch`: changes of objects as server-sent events, each with the cursor to resume after.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use cpl_api::object::WatchEvent;
use cpl_core::access::Need;
use cpl_core::clock::Monotonic;
use cpl_core::error::Error;
use cpl_core::store::{Cursor, Event, Key, Range, Revision, WatchItem, WatchStream};
use cpl_core::txn::ROOT;
use cpl_lb::plan::NODE;
use futures::future::{BoxFuture, Either, select};
use futures::{StreamExt, stream};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::app::App;
use super::body::Query;
use super::error::Answer;
use super::status::Lens;
use super::told::{Step, Topic, object_of};
use super::who::Who;

/// Where clients say what they saw last.
const LAST_EVENT_ID: &str = "last-event-id";

/// How long nothing is said before a bookmark or a comment shows that the connection is alive.
const SILENCE: Duration = Duration::from_secs(15);

/// Follows the changes after a cursor, or after now. Ends when the client is too far behind; it then
/// resumes after the last cursor, or lists anew when that answers 410.
pub(super) async fn watch(
    State(app): State<App>,
    mut query: Query,
    headers: HeaderMap,
    who: Who,
) -> Answer<Response> {
    who.must(Need::Read)?;
    let collection = query.take("collection");
    let kind = match &collection {
        Some(collection) => Some(app.kind(collection)?.name()),
        None => None,
    };
    let last = headers
        .get(LAST_EVENT_ID)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let from = last.or_else(|| query.take("from"));
    query.take("from");
    query.finish()?;
    let wrong = |error| Error::store("watch", error);
    let after = match from {
        Some(text) => text.parse::<Cursor>().map_err(wrong)?,
        None => app.plane.store.head().await.map_err(wrong)?,
    };
    // A node is shown with what is known of it, which is kept elsewhere.
    let narrow = collection.filter(|_| kind != Some(NODE));
    let prefix = narrow.map_or_else(
        || ROOT.to_owned(),
        |collection| format!("{ROOT}{collection}/"),
    );
    let range = Range::prefix(prefix).map_err(wrong)?;
    let clock = &app.plane.host.clock;
    let now = clock.monotonic();
    let mut follower = Follower {
        news: app.told.news(kind),
        range,
        seen: after,
        until: after.revision,
        items: None,
        pulse: clock.sleep(SILENCE),
        said: now,
        app,
        kind,
    };
    follower.catch_up().await.map_err(wrong)?;
    let first = stream::iter([Bytes::from(bookmark(&after))]);
    let rest = stream::unfold(Box::new(follower), Follower::next);
    let body = Body::from_stream(first.chain(rest).map(Ok::<_, Infallible>));
    let mut response = Response::new(body);
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        let headers = response.headers_mut();
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Reads the store's watch until it is up to date, and goes on with what all watchers are told.
struct Follower {
    app: App,
    kind: Topic,
    range: Range,
    /// Everything up to here was read.
    seen: Cursor,
    /// The store's watch, while it is read; up to `until`.
    items: Option<WatchStream>,
    until: Revision,
    news: broadcast::Receiver<Arc<Step>>,
    /// When anything was said last.
    said: Monotonic,
    /// Looks now and then whether that is long ago: a timer that follows every event costs more.
    pulse: BoxFuture<'static, ()>,
}

/// What there is to say: a text, nothing yet, or nothing ever again.
type Said = Option<Option<Bytes>>;

impl Follower {
    /// Reads the store's watch from here up to what the news do not tell.
    async fn catch_up(&mut self) -> Result<(), cpl_core::store::Error> {
        let plane = &self.app.plane;
        // What is committed after this look comes as news; what comes both ways is told once.
        self.until = plane.cache.read(|snapshot| snapshot.at.revision);
        let items = plane.store.watch(self.range.clone(), self.seen).await?;
        self.items = (self.seen.revision < self.until).then_some(items);
        Ok(())
    }

    /// What is sent next; nothing when the watch ended.
    async fn next(mut self: Box<Self>) -> Option<(Bytes, Box<Self>)> {
        loop {
            let said = if let Some(items) = &mut self.items {
                match select(items.next(), &mut self.pulse).await {
                    Either::Left((item, _)) => self.tell(item?).await,
                    Either::Right(_) => Some(self.beat()),
                }
            } else {
                let step = match select(pin!(self.news.recv()), &mut self.pulse).await {
                    Either::Left((step, _)) => Some(step),
                    Either::Right(_) => None,
                };
                match step {
                    Some(Ok(step)) => self.take(&step).await,
                    Some(Err(RecvError::Lagged(_))) => self.again().await,
                    Some(Err(RecvError::Closed)) => None,
                    None => Some(self.beat()),
                }
            };
            if let Some(text) = said? {
                self.said = self.app.plane.host.clock.monotonic();
                return Some((text, self));
            }
        }
    }

    async fn again(&mut self) -> Said {
        // The client comes again with its cursor and is told what is wrong with it.
        self.catch_up().await.ok()?;
        Some(None)
    }

    async fn take(&mut self, step: &Step) -> Said {
        if step.at.revision <= self.seen.revision {
            return Some(None);
        }
        let Some(keys) = &step.keys else {
            return self.again().await;
        };
        self.seen = step.at;
        let (app, kind) = (&self.app, self.kind);
        let text = step.text(|| text(&changes(app, kind, keys.iter()), &step.at));
        Some((!text.is_empty()).then_some(text))
    }

    /// Says something when nothing was said for long: how far the client has come, or only that the
    /// connection is alive.
    fn beat(&mut self) -> Option<Bytes> {
        let plane = &self.app.plane;
        let now = plane.host.clock.monotonic();
        let due = self.said.plus(SILENCE);
        let is_due = now >= due;
        let next = if is_due { now.plus(SILENCE) } else { due };
        self.pulse = plane.host.clock.sleep_until(next);
        if !is_due {
            return None;
        }
        // In this order: a step that is sent after the look is of a later revision. And the cursor is one
        // of this opening of the store, whichever one the client came with.
        let reached = self.app.told.reached();
        let has_all = self.items.is_none() && self.news.is_empty();
        if let Some(reached) = reached.filter(|at| has_all && at.revision > self.seen.revision) {
            self.seen = reached;
            return Some(bookmark(&reached).into());
        }
        Some(Bytes::from_static(b":\n\n"))
    }

    async fn tell(&mut self, item: WatchItem) -> Said {
        let (app, kind) = (&self.app, self.kind);
        let (at, text) = match item {
            WatchItem::Events { at, events } => {
                app.plane.cache.wait_for(at.revision).await;
                let keys = events.iter().map(Event::key);
                (at, text(&changes(app, kind, keys), &at))
            },
            WatchItem::Progress(at) => (at, Bytes::new()),
            WatchItem::Stalled(_) => return Some(None),
            WatchItem::End(_) => return None,
        };
        self.seen = at;
        if at.revision >= self.until {
            self.items = None;
        }
        Some((!text.is_empty()).then_some(text))
    }
}

/// The changes of a revision as server-sent events. Only the last one carries the revision's cursor:
/// whoever is cut off in between resumes before all of them and misses nothing.
fn text(changes: &[WatchEvent], at: &Cursor) -> Bytes {
    let mut text = String::new();
    for (n, change) in changes.iter().enumerate() {
        if n + 1 == changes.len() {
            let id = format!("id: {at}\n");
            text.push_str(&id);
        }
        text.push_str(&data(change));
    }
    text.into()
}

fn bookmark(at: &Cursor) -> String {
    format!("id: {at}\n{}", data(&WatchEvent::Bookmark))
}

/// JSON has no line breaks, so it is one line of data.
fn data(event: &WatchEvent) -> String {
    let json = serde_json::to_string(event).unwrap_or_default();
    format!("data: {json}\n\n")
}

/// The changes of these keys, as the objects are now.
fn changes<'k>(
    app: &App,
    kind: Option<&'static str>,
    keys: impl Iterator<Item = &'k Key>,
) -> Vec<WatchEvent> {
    let lens = Lens::of(app);
    app.plane.cache.read(|snapshot| {
        let touched: BTreeSet<_> = keys
            .filter_map(|key| object_of(snapshot, key))
            .filter(|(of, _)| kind.is_none_or(|wanted| wanted == *of))
            .collect();
        let change = |(kind, name): (&'static str, String)| match snapshot.index.get(kind, &name) {
            Some(object) => WatchEvent::Put {
                object: Box::new(lens.object(snapshot, object)),
            },
            None => WatchEvent::Delete {
                kind: kind.to_owned(),
                name,
            },
        };
        touched.into_iter().map(change).collect()
    })
}
