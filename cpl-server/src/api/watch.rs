//! `GET /v1/watch`: changes of objects as server-sent events, each with the cursor to resume after.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use cpl_api::object::WatchEvent;
use cpl_core::access::Need;
use cpl_core::clock::Monotonic;
use cpl_core::error::Error;
use cpl_core::store::{Cursor, Event, Key, Range, WatchItem, WatchStream};
use cpl_core::txn::ROOT;
use cpl_lb::plan::NODE;
use futures::future::{BoxFuture, Either, select};
use futures::{StreamExt, stream};

use super::app::App;
use super::body::Query;
use super::error::Answer;
use super::status::Lens;
use super::who::Who;

/// Where clients say what they saw last.
const LAST_EVENT_ID: &str = "last-event-id";

/// How often a watcher's cursor follows revisions that do not concern it.
const BOOKMARKS: Duration = Duration::from_secs(1);
/// How long nothing is said before a comment shows that the connection is alive.
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
    let items = app.plane.store.watch(range, after).await.map_err(wrong)?;
    let clock = &app.plane.host.clock;
    let now = clock.monotonic();
    let follower = Follower {
        items,
        pulse: clock.sleep(SILENCE),
        moved: now,
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

struct Follower {
    app: App,
    kind: Option<&'static str>,
    items: WatchStream,
    /// When the client's cursor moved last.
    moved: Monotonic,
    /// When anything was said last.
    said: Monotonic,
    /// Looks now and then whether that is long ago: a timer that follows every event costs more.
    pulse: BoxFuture<'static, ()>,
}

impl Follower {
    /// What is sent next; nothing when the watch ended.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        loop {
            let item = match select(self.items.next(), &mut self.pulse).await {
                Either::Left((item, _)) => Some(item?),
                Either::Right(_) => None,
            };
            let text = match item {
                Some(WatchItem::End(_)) => return None,
                Some(item) => self.tell(item).await,
                None => self.beat(),
            };
            if let Some(text) = text {
                self.said = self.app.plane.host.clock.monotonic();
                return Some((text, self));
            }
        }
    }

    fn beat(&mut self) -> Option<Bytes> {
        let clock = &self.app.plane.host.clock;
        let now = clock.monotonic();
        let due = self.said.plus(SILENCE);
        let is_due = now >= due;
        self.pulse = clock.sleep_until(if is_due { now.plus(SILENCE) } else { due });
        is_due.then(|| Bytes::from_static(b":\n\n"))
    }

    async fn tell(&mut self, item: WatchItem) -> Option<Bytes> {
        let (app, kind) = (&self.app, self.kind);
        let (at, text) = match item {
            WatchItem::Events { at, events } => {
                app.plane.cache.wait_for(at.revision).await;
                let fresh = || text(&changes(app, kind, events.iter().map(Event::key)), &at);
                (at, app.told.at(at.revision, kind, fresh))
            },
            WatchItem::Progress(at) => (at, Bytes::new()),
            WatchItem::Stalled(_) | WatchItem::End(_) => return None,
        };
        let now = app.plane.host.clock.monotonic();
        if text.is_empty() {
            // Most revisions are of what nobody watches here; the cursor follows them now and then.
            if now.since(self.moved) < BOOKMARKS {
                return None;
            }
            self.moved = now;
            return Some(bookmark(&at).into());
        }
        self.moved = now;
        Some(text)
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
            .filter_map(|key| snapshot.index.object_of(key).or_else(|| Lens::node_of(key)))
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
