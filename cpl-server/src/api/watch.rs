//! `GET /v1/watch`: changes of objects as server-sent events, each with the cursor to resume after.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use cpl_api::object::WatchEvent;
use cpl_core::access::Need;
use cpl_core::clock::Monotonic;
use cpl_core::error::Error;
use cpl_core::store::{Cursor, Event as StoreEvent, Key, Range, Revision, WatchItem};
use cpl_core::txn::ROOT;
use cpl_lb::plan::NODE;
use futures::{Stream, StreamExt, stream};

use super::app::App;
use super::body::Query;
use super::error::Answer;
use super::status::Lens;
use super::who::Who;

/// Where clients say what they saw last.
const LAST_EVENT_ID: &str = "last-event-id";

/// How often a watcher's cursor follows revisions that do not concern it.
const BOOKMARKS: Duration = Duration::from_secs(1);
/// Revisions whose changes are kept as text: those that watchers who keep up are at.
const TOLD: usize = 64;

type Events = Pin<Box<dyn Stream<Item = Result<SseEvent, Infallible>> + Send>>;

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
    let first = stream::iter([Ok(event(&WatchEvent::Bookmark, &after))]);
    let follower = Follower {
        moved: app.plane.host.clock.monotonic(),
        app,
        kind,
    };
    let rest = stream::unfold((items, follower), |(mut items, mut follower)| async move {
        match items.next().await? {
            WatchItem::End(_) => None,
            item => {
                let events = follower.events(item).await;
                Some((stream::iter(events.into_iter().map(Ok)), (items, follower)))
            },
        }
    });
    let rest = rest.flatten();
    let events: Events = Box::pin(first.chain(rest));
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

struct Follower {
    app: App,
    kind: Option<&'static str>,
    /// When the client's cursor moved last.
    moved: Monotonic,
}

impl Follower {
    async fn events(&mut self, item: WatchItem) -> Vec<SseEvent> {
        let (app, kind) = (&self.app, self.kind);
        let (at, changes) = match item {
            WatchItem::Events { at, events } => {
                app.plane.cache.wait_for(at.revision).await;
                let keys = || events.iter().map(StoreEvent::key);
                (
                    at,
                    app.told
                        .at(at.revision, kind, || changes(app, kind, keys())),
                )
            },
            WatchItem::Progress(at) => (at, Arc::default()),
            WatchItem::Stalled(_) | WatchItem::End(_) => return Vec::new(),
        };
        let now = app.plane.host.clock.monotonic();
        let Some((last, before)) = changes.split_last() else {
            // Most revisions are of what nobody watches here; the cursor follows them now and then.
            if now.since(self.moved) < BOOKMARKS {
                return Vec::new();
            }
            self.moved = now;
            return vec![event(&WatchEvent::Bookmark, &at)];
        };
        self.moved = now;
        // Only the last event of a revision carries its cursor: whoever is cut off in between resumes
        // before all of them and misses nothing.
        let data = |text: &String| SseEvent::default().data(text);
        let before = before.iter().map(data);
        before.chain([data(last).id(at.to_string())]).collect()
    }
}

/// The changes of these keys as they are sent.
fn changes<'k>(
    app: &App,
    kind: Option<&'static str>,
    keys: impl Iterator<Item = &'k Key>,
) -> Vec<String> {
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
        touched.into_iter().map(|one| json(&change(one))).collect()
    })
}

/// What was told of the newest revisions, so that a thousand watchers cost one reading of the state and
/// not a thousand. Who comes later is told what the first one was, which is at least as new as the
/// revision; a later change has a revision of its own.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<BTreeMap<Place, Arc<[String]>>>);

/// A revision, and the kind that is watched.
type Place = (Revision, Option<&'static str>);

impl Told {
    fn at(
        &self,
        revision: Revision,
        kind: Option<&'static str>,
        changes: impl FnOnce() -> Vec<String>,
    ) -> Arc<[String]> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = told.get(&(revision, kind)) {
            return Arc::clone(known);
        }
        let fresh: Arc<[String]> = changes().into();
        told.insert((revision, kind), Arc::clone(&fresh));
        while told.len() > TOLD {
            told.pop_first();
        }
        fresh
    }
}

fn event(event: &WatchEvent, at: &Cursor) -> SseEvent {
    SseEvent::default().id(at.to_string()).data(json(event))
}

fn json(event: &WatchEvent) -> String {
    serde_json::to_string(event).unwrap_or_default()
}
