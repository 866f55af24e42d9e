//! `cpl apply`.

use clap::Args;
use cpl_api::client::{ControlPlaneClient, WriteOptions};
use cpl_api::object::{ApplyRequest, ChangeResponse, Operation};
use cpl_core::fields::Span;

use super::change;
use super::failure::{Exit, Failure, Outcome};
use super::kind::{self, Named};
use super::manifest::{self, Manifest};
use super::session::{Session, UNSURE, is_unsure, refusal};
use super::wait::{self, Goal, span};

/// What `cpl apply` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ApplyArgs {
    /// A file of YAML or JSON with any number of documents, a folder of such files, or - for stdin;
    /// may be given several times
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    pub files: Vec<String>,
    /// Let the server check everything and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Change the object only if it still has this etag; for one manifest
    #[arg(long, value_name = "ETAG")]
    pub if_match: Option<String>,
    /// Wait until every node that is concerned runs it
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// How long to wait
    #[arg(long, requires = "wait", value_name = "TIME", value_parser = span, default_value = "5m")]
    pub timeout: Span,
}

/// Applies manifests. Blocks while it reads them.
///
/// # Errors
/// The manifests or the server's refusal, each field with its place in the files.
pub async fn run(args: &ApplyArgs, session: &mut Session<'_>) -> Outcome {
    let manifests = manifest::load(&args.files, &mut std::io::stdin())?;
    if args.if_match.is_some() && manifests.len() != 1 {
        let what = format!(
            "--if-match is for one manifest, not for {}",
            manifests.len()
        );
        return Err(Failure::invalid(what));
    }
    let options = WriteOptions {
        dry_run: args.dry_run,
        if_match: args.if_match.clone(),
        idempotency_key: None,
    };
    let answer = send(&manifests, &options, &session.client).await?;
    change::show(session.out, &answer)?;
    if !args.wait {
        return Ok(Exit::Success);
    }
    let deadline = session.clock.monotonic().plus(args.timeout.0);
    for object in changed(&answer) {
        wait::until(&object, &Goal::Converged, deadline, session).await?;
    }
    Ok(Exit::Success)
}

/// Sends manifests; fields that are wrong are told by their place in the files.
///
/// # Errors
/// The server's refusal, or what happened on the way.
pub async fn send(
    manifests: &[Manifest],
    options: &WriteOptions,
    client: &ControlPlaneClient,
) -> Result<ChangeResponse, Failure> {
    let request = ApplyRequest {
        manifests: manifests
            .iter()
            .map(|manifest| manifest.value.clone())
            .collect(),
    };
    client.apply(&request, options).await.map_err(|error| {
        let failure = refusal(&error, &|pointer| manifest::locate(manifests, pointer));
        if is_unsure(&error) && !options.dry_run {
            return failure.detail(UNSURE);
        }
        failure
    })
}

fn changed(answer: &ChangeResponse) -> Vec<Named> {
    // What was unchanged may still be on its way from an earlier change, so it is waited for too.
    let there = answer
        .objects
        .iter()
        .filter(|object| object.operation != Operation::Deleted);
    let named = there.filter_map(|object| {
        let kind = kind::of_manifest(&object.kind)?;
        Some(Named {
            kind,
            name: object.name.clone(),
        })
    });
    named.collect()
}
