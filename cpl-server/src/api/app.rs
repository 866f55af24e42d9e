//! What handlers share: the control plane, and the ways to read and to change it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as JsonAnswer;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use cpl_api::IDEMPOTENCY_REPLAYED;
use cpl_api::object::{ChangeResponse, ChangedObject, Operation};
use cpl_api::problem::Code;
use cpl_core::delivery::System;
use cpl_core::spec::{self, Edit, Kind, Request};
use cpl_core::store::Revision;

use super::body::Json;
use super::error::{Answer, ApiError};
use super::limits::Limits;
use super::metrics::Metrics;
use super::told::Told;
use super::who::Who;
use crate::plane::Plane;
use crate::wiring;

/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What handlers share. Every request is handed several of these, so a copy counts one reference.
#[derive(Clone, Debug)]
pub struct App(Arc<Shared>);

/// What an [`App`] stands for.
#[derive(Debug)]
pub struct Shared {
    pub(crate) plane: Arc<Plane>,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
    pub(crate) system: Arc<dyn System>,
    pub(crate) told: Arc<Told>,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// The API of a control plane.
    pub fn new(plane: Arc<Plane>) -> Self {
        let limits = Limits::new(Arc::clone(&plane.host.clock));
        let told = Told::new(Arc::clone(&plane.cache));
        Self(Arc::new(Shared {
            plane,
            metrics: Metrics::new(),
            limits,
            system: wiring::system(),
            told,
        }))
    }
}

impl App {
    /// The kind of a collection in a path.
    pub(super) fn kind(&self, collection: &str) -> Answer<&dyn Kind> {
        self.plane.kinds.collected(collection).ok_or_else(|| {
            let detail = format!("there is no collection {collection:?}");
            ApiError::new(Code::NotFound, "PATH_UNKNOWN", detail)
        })
    }

    /// Waits until reads show everything that was committed before this call.
    pub(super) async fn fresh(&self) -> Answer<()> {
        let head = self.plane.store.head().await;
        let head = head.map_err(|error| cpl_core::error::Error::store("read the head", error))?;
        self.reached(head.revision).await
    }

    /// Whether this process may act by its own clock.
    pub(super) fn leads(&self) -> Result<(), ApiError> {
        if self
            .plane
            .membership
            .lasts(self.plane.host.clock.monotonic())
        {
            return Ok(());
        }
        let detail = "this server was away for longer than its session lasts; others may have gone on without it";
        Err(ApiError::new(Code::Unavailable, "SESSION_LOST", detail))
    }

    /// Waits until reads show this revision.
    pub(super) async fn reached(&self, revision: Revision) -> Answer<()> {
        let waiting = Box::pin(self.plane.cache.wait_for(revision));
        let limit = self.plane.host.clock.sleep(PATIENCE);
        match futures::future::select(waiting, limit).await {
            futures::future::Either::Left(_) => Ok(()),
            futures::future::Either::Right(_) => {
                let detail = "the server does not see the newest state yet";
                Err(ApiError::new(Code::Unavailable, "CACHE_BEHIND", detail))
            },
        }
    }

    /// Has a change made, or judged on a dry run.
    pub(super) async fn change(&self, change: Change) -> Answer<Response> {
        let Change {
            who,
            action,
            body,
            dry_run,
            edit,
        } = change;
        self.fresh().await?;
        let request = Request {
            actor: who.caller.name.clone(),
            id: who.request_id.clone(),
            action,
            idempotency: body.and_then(|body| body.idempotency),
            deadline: self.plane.host.clock.monotonic().plus(PATIENCE),
            edit,
        };
        let answer = if dry_run {
            self.plane.writer.preview(&request)?
        } else {
            self.plane.writer.submit(request).await?
        };
        let mut response = JsonAnswer(change_response(&answer, dry_run)).into_response();
        if answer.replayed {
            let headers = response.headers_mut();
            headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        }
        Ok(response)
    }
}

/// A change on its way to the writer.
pub(super) struct Change {
    pub(super) who: Who,
    pub(super) action: &'static str,
    pub(super) body: Option<Json>,
    pub(super) dry_run: bool,
    pub(super) edit: Edit,
}

fn change_response(answer: &spec::Answer, dry_run: bool) -> ChangeResponse {
    let object = |object: &spec::AnsweredObject| ChangedObject {
        kind: object.kind.clone(),
        name: object.name.clone(),
        operation: match object.operation {
            spec::Operation::Created => Operation::Created,
            spec::Operation::Updated => Operation::Updated,
            spec::Operation::Unchanged => Operation::Unchanged,
            spec::Operation::Deleted => Operation::Deleted,
        },
        generation: object.generation,
        etag: object.etag.clone(),
    };
    ChangeResponse {
        config_version: answer.version,
        objects: answer.objects.iter().map(object).collect(),
        affected_nodes: answer.affected_nodes.clone(),
        dry_run,
    }
}
