//! What agents call.

use std::time::Duration;

use axum::Json as JsonAnswer;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use cpl_api::agent::{
    PROTOCOL, REPORT_HEALTH_BYTES, REPORT_HOLDS, RegisterRequest, RegisterResponse, SyncRequest,
    SyncResponse,
};
use cpl_api::problem::Code;
use cpl_core::access::{Need, NewToken, Scope};
use cpl_core::agent::Arrival;
use cpl_core::delivery::{Facts, SyncAnswer, SyncCall};
use cpl_core::error::{Error, FieldError};
use cpl_lb::plan::NODE;

use super::app::App;
use super::body::{Query, Text, name};
use super::error::{Answer, ApiError};
use super::who::Who;

/// Longest text that an agent may say of itself.
const TEXT: usize = 64;

/// `POST /v1/agents/{node}:register|:sync|:heartbeat`.
pub(super) async fn verb(
    State(app): State<App>,
    Path(segment): Path<String>,
    query: Query,
    who: Who,
    body: Text,
) -> Answer<Response> {
    query.finish()?;
    let (node, verb) = segment.split_once(':').unwrap_or((segment.as_str(), ""));
    let node = name(node)?;
    match verb {
        // On the heap, as it has no part in the future of an agent that waits.
        "register" => Box::pin(register(&app, &node, &who, body)).await,
        "sync" => sync(&app, &node, &who, body, app.plane.config.agent_wait * 2).await,
        "heartbeat" => sync(&app, &node, &who, body, Duration::ZERO).await,
        _ => {
            let detail = format!("there is no verb {verb:?} here");
            Err(ApiError::new(Code::NotFound, "VERB_UNKNOWN", detail))
        },
    }
}

async fn register(app: &App, node: &str, who: &Who, body: Text) -> Answer<Response> {
    who.must(Need::Register(node))?;
    let request: RegisterRequest = body.read_required()?;
    check_registration(&request)?;
    app.fresh().await?;
    let known = app
        .plane
        .cache
        .read(|snapshot| snapshot.index.get(NODE, node).is_some());
    if !known {
        return Err(Error::not_found(NODE, node).into());
    }
    if let (Some(id), Some(hash)) = (&request.token_id, &request.token_sha256) {
        let new = NewToken {
            name: format!("agent-{node}"),
            scope: Scope::Agent {
                node: node.to_owned(),
            },
            ttl: None,
            actor: who.caller.name.clone(),
            request_id: who.request_id.clone(),
        };
        app.plane.tokens.adopt(id, hash, &new).await?;
    }
    let arrival = Arrival {
        process: request.process,
        driver: request.driver,
        carries_traffic: request.carries_traffic,
        software: request.software,
    };
    let agent = app.plane.registry.register(node, &arrival).await?;
    let message = format!("driver {}, version {}", agent.driver, agent.software);
    app.plane
        .deliveries
        .note(node, "registered", message)
        .await?;
    let response = RegisterResponse {
        agent_incarnation: agent.agent_incarnation,
        identity: app.plane.cache.read(|snapshot| snapshot.at.identity),
        protocol: PROTOCOL,
        wait_ms: millis(app.plane.config.agent_wait),
        grace_ms: millis(app.plane.config.agent_grace),
    };
    Ok(JsonAnswer(response).into_response())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn check_registration(request: &RegisterRequest) -> Answer<()> {
    let mut errors = Vec::new();
    let (lowest, highest) = request.protocol;
    if !(lowest..=highest).contains(&PROTOCOL) {
        let detail = format!("this server speaks protocol {PROTOCOL}");
        errors.push(FieldError::new("/protocol", "PROTOCOL_UNSUPPORTED", detail));
    }
    for (pointer, text) in [
        ("/process", &request.process),
        ("/software", &request.software),
        ("/driver", &request.driver),
    ] {
        let plain = text.chars().all(|c| c.is_ascii_graphic());
        if text.is_empty() || text.len() > TEXT || !plain {
            let detail = format!("expected 1 to {TEXT} visible ASCII characters");
            errors.push(FieldError::new(pointer, "FIELD_INVALID", detail));
        }
    }
    if request.token_id.is_some() != request.token_sha256.is_some() {
        let detail = "token_id and token_sha256 come together";
        errors.push(FieldError::new("/token_id", "FIELD_CONFLICT", detail));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(errors))
    }
}

async fn sync(app: &App, node: &str, who: &Who, body: Text, longest: Duration) -> Answer<Response> {
    who.must(Need::Speak(node))?;
    let request: SyncRequest = body.read_required()?;
    let health_bytes = request.data_plane.health.to_string().len();
    if request.holds.len() > REPORT_HOLDS || health_bytes > REPORT_HEALTH_BYTES {
        let detail =
            format!("at most {REPORT_HOLDS} holds and {REPORT_HEALTH_BYTES} bytes of health");
        let error = FieldError::new("/holds", "FIELD_TOO_LONG", detail);
        return Err(ApiError::invalid(vec![error]));
    }
    let call = SyncCall {
        node: node.to_owned(),
        agent_incarnation: request.agent_incarnation,
        sequence: request.sequence,
        facts: Facts {
            incarnation: request.incarnation,
            received: request.received,
            received_digest: request.received_digest,
            accepted: request.accepted,
            holds: request.holds,
            data_plane_state: request.data_plane.state,
            running_version: request.data_plane.running_version,
            health: request.data_plane.health,
        },
        wait: Duration::from_millis(request.wait_ms).min(longest),
    };
    let answer = match app.plane.deliveries.sync(call).await? {
        SyncAnswer::Same(version) => SyncResponse::Same {
            version,
            next_after_ms: 0,
        },
        SyncAnswer::Configuration(delivered) => SyncResponse::Configuration { delivered },
    };
    Ok(JsonAnswer(answer).into_response())
}
