//! The HTTP API: one verb per function, one file per collection.
//!
//! A request goes through [`edge`] (request id, limits, panics), [`auth`] (who calls), a handler here,
//! a service of the core, the store: four hops.

mod agents;
mod app;
mod auth;
mod body;
mod changes;
mod edge;
pub mod error;
mod history;
mod limits;
mod metrics;
mod nodes;
mod objects;
mod status;
mod system;
mod tokens;
mod told;
mod watch;
mod who;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{any, get, post};

pub use self::app::App;
pub use self::metrics::Metrics;

/// Every route.
pub fn router(app: App) -> Router {
    let open = Router::new()
        .route("/healthz", get(system::healthz))
        .route("/readyz", get(system::readyz))
        .route("/version", get(system::version));
    let known = Router::new()
        .route("/metrics", get(system::metrics))
        .route("/v1/apply", post(objects::apply))
        .route("/v1/{collection}", get(objects::list))
        .route(
            "/v1/{collection}/{name}",
            get(objects::get_verb)
                .delete(objects::delete)
                .post(objects::post_verb),
        )
        .route("/v1/{collection}/{name}/history", get(history::list))
        .route("/v1/{collection}/{name}/rollout", get(status::rollout))
        .route(
            "/v1/targetgroups/{name}/endpoints:change",
            post(changes::endpoints),
        )
        .route("/v1/nodes/{name}/log", get(nodes::log))
        .route("/v1/nodes/{name}/configuration", get(nodes::configuration))
        .route("/v1/agents/{node}", post(agents::verb))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", axum::routing::delete(tokens::revoke))
        .route("/v1/audit", get(history::audit))
        .route("/v1/tasks/config_update", get(nodes::tasks))
        .route("/v1/watch", get(watch::watch))
        .route("/v1/store:export", get(system::export))
        .route("/v1/store:seal", post(system::seal))
        .route("/v1/store:unseal", post(system::unseal))
        .layer(from_fn_with_state(app.clone(), auth::authenticate))
        .layer(from_fn_with_state(app.clone(), edge::tenure));
    open.merge(known)
        .fallback(any(edge::unknown_path))
        .method_not_allowed_fallback(edge::wrong_method)
        .layer(from_fn_with_state(app.clone(), edge::edge))
        .layer(from_fn(edge::catch_panics))
        .with_state(app)
}
