//! `cpl diff`.

use std::sync::Arc;

use clap::Args;
use cpl_api::client::{ControlPlaneClient, WriteOptions};
use cpl_api::object::{Object, Operation};
use cpl_core::spec::{Kinds, Parts, manifest as read_manifest};
use cpl_core::version::Generation;
use cpl_lb::kinds::{NodeKind, TargetGroupKind};
use serde_json::{Map, Value, json};

use super::apply;
use super::failure::{Exit, Failure, Outcome};
use super::kind::{Named, Selection};
use super::manifest::{self, Manifest};
use super::output::{Output, yaml};
use super::session::{Session, to_value};

/// What `cpl diff` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct DiffArgs {
    /// KIND NAME or KIND/NAME: compare two generations of this object
    #[arg(value_name = "OBJECT", num_args = 1..=2, required_unless_present = "files", conflicts_with = "files")]
    pub object: Vec<String>,
    /// Compare these manifests with the server
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<String>,
    /// The earlier generation [default: the one before the present]
    #[arg(long, value_name = "GENERATION", conflicts_with = "files")]
    pub from: Option<u64>,
    /// The later generation [default: the present one]
    #[arg(long, value_name = "GENERATION", conflicts_with = "files")]
    pub to: Option<u64>,
}

/// Prints what differs.
///
/// # Errors
/// The server's refusal; never with exit status 1, which means that there are differences.
pub async fn run(args: &DiffArgs, session: &mut Session<'_>) -> Outcome {
    let found = if args.files.is_empty() {
        generations(args, session).await
    } else {
        manifests(args, session).await
    };
    found.map_err(Failure::never_one)
}

async fn generations(args: &DiffArgs, session: &mut Session<'_>) -> Outcome {
    let Named { kind, name } = Selection::one(&args.object).map_err(Failure::invalid)?;
    let (from, to) = (args.from.map(Generation), args.to.map(Generation));
    let diff = session.client.diff(kind, &name, from, to).await?;
    if session.out.for_programs() {
        session.out.value(&to_value(&diff)?)?;
    } else {
        let generation = |number: Option<u64>, default: &str| {
            let number = number.map_or_else(|| default.to_owned(), |n| format!("generation {n}"));
            format!("{}/{name} {number}", kind.kind())
        };
        let before = generation(args.from, "before");
        let after = generation(args.to, "now");
        print((&before, &diff.from), (&after, &diff.to), session.out)?;
    }
    Ok(if diff.differences.is_empty() {
        Exit::Success
    } else {
        Exit::Differs
    })
}

async fn manifests(args: &DiffArgs, session: &mut Session<'_>) -> Outcome {
    let manifests = manifest::load(&args.files, &mut std::io::stdin())?;
    // The server decides whether anything differs: it knows its defaults.
    let options = WriteOptions {
        dry_run: true,
        ..WriteOptions::default()
    };
    let answer = apply::send(&manifests, &options, &session.client).await?;
    if session.out.for_programs() {
        session.out.value(&to_value(&answer)?)?;
    }
    let mut exit = Exit::Success;
    for manifest in &manifests {
        let operation = answer
            .objects
            .iter()
            .find(|object| {
                object.kind == manifest.object.kind.kind() && object.name == manifest.object.name
            })
            .map(|object| object.operation);
        if operation == Some(Operation::Unchanged) {
            continue;
        }
        exit = Exit::Differs;
        if !session.out.for_programs() {
            let there = there(manifest, operation, &session.client).await?;
            show(manifest, there.as_ref(), session.out)?;
        }
    }
    Ok(exit)
}

async fn there(
    manifest: &Manifest,
    operation: Option<Operation>,
    client: &ControlPlaneClient,
) -> Result<Option<Object>, Failure> {
    if operation == Some(Operation::Created) {
        return Ok(None);
    }
    let Named { kind, name } = &manifest.object;
    match client.get(*kind, name).await.map_err(Failure::from) {
        Ok(object) => Ok(Some(object)),
        // It was deleted since the server was asked.
        Err(failure) if failure.exit() == Exit::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn show(manifest: &Manifest, there: Option<&Object>, out: &mut Output) -> Result<(), Failure> {
    let name = manifest.object.to_string();
    let here = format!("{name} {}", manifest.place);
    let before = there.map_or(Value::Null, |object| people(&name, object));
    let after = wanted(manifest, there);
    let there = format!("{name} server");
    if before == after {
        return out.text(&format!(
            "{name} differs in something that this program does not know\n"
        ));
    }
    print((&there, &before), (&here, &after), out)
}

/// What people wrote of an object, as the server has it.
fn people(name: &str, object: &Object) -> Value {
    let Some(kind) = kinds()
        .named(&object.kind)
        .map(|kind| (kind.parts(), kind.people(&parts_of(object))))
    else {
        return json!({ "kind": object.kind, "metadata": {"name": name}, "spec": object.spec });
    };
    let meta = &object.metadata;
    whole(
        &object.kind,
        &json!({"name": meta.name, "tenant": meta.tenant, "labels": meta.labels}),
        &kind.1,
    )
}

/// What a manifest says, with the defaults filled in; parts that it leaves out are as they are.
fn wanted(manifest: &Manifest, there: Option<&Object>) -> Value {
    let kinds = kinds();
    // The server has judged the manifest already; what this program cannot read is shown as it is.
    let Ok(read) = read_manifest(&kinds, &manifest.value, "") else {
        return manifest.value.clone();
    };
    let mut parts = there
        .and_then(|object| Some(kinds.named(read.kind)?.people(&parts_of(object))))
        .unwrap_or_default();
    parts.extend(read.parts);
    let meta = there.map(|object| &object.metadata);
    let tenant = read
        .tenant
        .or_else(|| meta.and_then(|meta| meta.tenant.clone()));
    let labels = read
        .labels
        .or_else(|| meta.map(|meta| meta.labels.clone()))
        .unwrap_or_default();
    let metadata = json!({"name": read.name, "tenant": tenant, "labels": labels});
    whole(read.kind, &metadata, &parts)
}

fn parts_of(object: &Object) -> Parts {
    let mut parts = Parts::from([(cpl_lb::kinds::SPEC, object.spec.clone())]);
    if let Some(endpoints) = &object.endpoints {
        parts.insert(cpl_lb::kinds::ENDPOINTS, endpoints.clone());
    }
    parts
}

/// An object as a manifest says it, without what is empty anyway.
fn whole(kind: &str, metadata: &Value, parts: &Parts) -> Value {
    let mut metadata = metadata.clone();
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|_, value| !value.is_null() && *value != json!({}));
    }
    let mut whole = Map::new();
    whole.insert("kind".to_owned(), kind.into());
    whole.insert("metadata".to_owned(), metadata);
    for (name, part) in parts {
        whole.insert((*name).to_owned(), part.clone());
    }
    whole.into()
}

fn kinds() -> Kinds {
    Kinds::new(vec![Arc::new(TargetGroupKind), Arc::new(NodeKind)])
}

fn print(
    (from_name, from): (&str, &Value),
    (to_name, to): (&str, &Value),
    out: &mut Output,
) -> Result<(), Failure> {
    let text = |value: &Value| {
        if value.is_null() {
            Ok(String::new())
        } else {
            yaml(value)
        }
    };
    let (from, to) = (text(from)?, text(to)?);
    let diff = similar::TextDiff::from_lines(&from, &to);
    let mut unified = diff.unified_diff();
    out.text(
        &unified
            .context_radius(3)
            .header(from_name, to_name)
            .to_string(),
    )
}
