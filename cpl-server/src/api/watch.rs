//! `GET /v1/watch`: changes of objects as server-sent events, each with the cursor to resume after.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::pin;
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
use tokio::sync::watch;

use super::app::App;
use super::body::Query;
use super::error::Answer;
use super::status::Lens;
use super::told::{Topic, object_of};
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
    // Before the look at how far to read: what comes in between is told of twice, not missed.
    let news = app.told.news(kind);
    let until = app.plane.cache.read(|snapshot| snapshot.at.revision);
    let items = app.plane.store.watch(range, after).await.map_err(wrong)?;
    let clock = &app.plane.host.clock;
    let now = clock.monotonic();
    let follower = Follower {
        items,
        news,
        seen: after.revision,
        until,
        bookmark_due: false,
        pulse: clock.sleep(SILENCE),
        said: now,
        app,
        kind,
    };
    let first = stream::iter([Bytes::from(bookmark(&after))]);
    let rest = stream::unfold(follower, Follower::next);
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

/// Reads the store's watch only when there is something to read: a thousand watchers are not woken by
/// revisions that do not concern them.
struct Follower {
    app: App,
    kind: Topic,
    items: WatchStream,
    news: watch::Receiver<Revision>,
    /// Everything up to here was read.
    seen: Revision,
    /// Up to here there is something to read.
    until: Revision,
    /// The client's cursor is to follow revisions that do not concern it.
    bookmark_due: bool,
    /// When anything was said last.
    said: Monotonic,
    /// Looks now and then whether that is long ago: a timer that follows every event costs more.
    pulse: BoxFuture<'static, ()>,
}

impl Follower {
    /// What is sent next; nothing when the watch ended.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        loop {
            let text = if self.seen < self.until {
                match select(self.items.next(), &mut self.pulse).await {
                    Either::Left((item, _)) => self.tell(item?).await?,
                    Either::Right(_) => self.beat(),
                }
            } else if self.is_woken().await {
                self.until = *self.news.borrow();
                None
            } else {
                self.beat()
            };
            if let Some(text) = text {
                self.said = self.app.plane.host.clock.monotonic();
                return Some((text, self));
            }
        }
    }

    /// Waits for news; false when the pulse was first.
    async fn is_woken(&mut self) -> bool {
        let news = pin!(self.news.changed());
        matches!(select(news, &mut self.pulse).await, Either::Left(_))
    }

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
        let head = plane.cache.read(|snapshot| snapshot.at.revision);
        if self.seen < head && !self.bookmark_due {
            (self.until, self.bookmark_due) = (head, true);
            return None;
        }
        Some(Bytes::from_static(b":\n\n"))
    }

    /// What is said of an item, if anything; nothing at all when it is the last one.
    async fn tell(&mut self, item: WatchItem) -> Option<Option<Bytes>> {
        let (app, kind) = (&self.app, self.kind);
        let at = match item {
            WatchItem::Events { at, events } => {
                app.plane.cache.wait_for(at.revision).await;
                let fresh = || text(&changes(app, kind, events.iter().map(Event::key)), &at);
                let text = app.told.at(at.revision, kind, fresh);
                if !text.is_empty() {
                    (self.seen, self.bookmark_due) = (at.revision, false);
                    return Some(Some(text));
                }
                at
            },
            WatchItem::Progress(at) => at,
            WatchItem::Stalled(_) => return Some(None),
            WatchItem::End(_) => return None,
        };
        self.seen = at.revision;
        let is_due = self.bookmark_due && self.seen >= self.until;
        self.bookmark_due &= !is_due;
        Some(is_due.then(|| bookmark(&at).into()))
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
