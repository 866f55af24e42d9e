//! `GET /v1/watch`: changes of objects as server-sent events, each with the cursor to resume after.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::Pin;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use cpl_api::object::WatchEvent;
use cpl_core::access::Need;
use cpl_core::error::Error;
use cpl_core::store::{Cursor, Range, WatchItem};
use cpl_core::txn::ROOT;
use futures::{Stream, StreamExt, stream};

use super::app::App;
use super::body::Query;
use super::error::Answer;
use super::status::Lens;
use super::who::Who;

/// Where clients say what they saw last.
const LAST_EVENT_ID: &str = "last-event-id";

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
    let kind = match query.take("collection") {
        Some(collection) => Some(app.kind(&collection)?.name()),
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
    let range = Range::prefix(ROOT).map_err(wrong)?;
    let items = app.plane.store.watch(range, after).await.map_err(wrong)?;
    let first = stream::iter([Ok(event(&WatchEvent::Bookmark, &after))]);
    let follower = Follower { app, kind };
    let rest = items
        .take_while(|item| futures::future::ready(!matches!(item, WatchItem::End(_))))
        .then(move |item| {
            let follower = follower.clone();
            async move { follower.events(item).await }
        })
        .flat_map(|events| stream::iter(events.into_iter().map(Ok)));
    let events: Events = Box::pin(first.chain(rest));
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

#[derive(Clone)]
struct Follower {
    app: App,
    kind: Option<&'static str>,
}

impl Follower {
    async fn events(&self, item: WatchItem) -> Vec<SseEvent> {
        let (at, keys) = match item {
            WatchItem::Events { at, events } => (
                at,
                events
                    .iter()
                    .map(|event| event.key().clone())
                    .collect::<Vec<_>>(),
            ),
            WatchItem::Progress(at) => (at, Vec::new()),
            WatchItem::Stalled(_) | WatchItem::End(_) => return Vec::new(),
        };
        self.app.plane.cache.wait_for(at.revision).await;
        let lens = Lens::of(&self.app);
        let mut changes = self.app.plane.cache.read(|snapshot| {
            let touched: BTreeSet<_> = keys
                .iter()
                .filter_map(|key| snapshot.index.object_of(key).or_else(|| Lens::node_of(key)))
                .filter(|(kind, _)| self.kind.is_none_or(|wanted| wanted == *kind))
                .collect();
            let changes =
                touched
                    .into_iter()
                    .map(|(kind, name)| match snapshot.index.get(kind, &name) {
                        Some(object) => WatchEvent::Put {
                            object: Box::new(lens.object(snapshot, object)),
                        },
                        None => WatchEvent::Delete {
                            kind: kind.to_owned(),
                            name,
                        },
                    });
            changes.collect::<Vec<_>>()
        });
        // Only the last event of a revision carries its cursor: whoever is cut off in between resumes
        // before all of them and misses nothing.
        let last = changes.pop().unwrap_or(WatchEvent::Bookmark);
        let events = changes
            .iter()
            .map(|change| SseEvent::default().data(json(change)));
        events.chain([event(&last, &at)]).collect()
    }
}

fn event(event: &WatchEvent, at: &Cursor) -> SseEvent {
    SseEvent::default().id(at.to_string()).data(json(event))
}

fn json(event: &WatchEvent) -> String {
    serde_json::to_string(event).unwrap_or_default()
}
