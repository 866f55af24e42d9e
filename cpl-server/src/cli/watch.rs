//! `cpl watch`.

use clap::Args;
use cpl_api::object::{Object, WatchEvent};

use super::failure::{Exit, Failure, Outcome};
use super::kind;
use super::output::{Format, Output};
use super::session::{Session, to_value};
use super::table::harmless;
use super::views;

/// What `cpl watch` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct WatchArgs {
    /// Only objects of this kind
    #[arg(value_name = "KIND")]
    pub kind: Option<String>,
}

/// Prints changes until the watch ends.
///
/// # Errors
/// What ended the watch.
pub async fn run(args: &WatchArgs, session: &mut Session<'_>) -> Outcome {
    let kind = args
        .kind
        .as_deref()
        .map(kind::read)
        .transpose()
        .map_err(Failure::invalid)?;
    let mut events = session.client.watch(kind, None);
    while let Some(seen) = events.next().await {
        print(&seen?.event, session.out)?;
    }
    Ok(Exit::Success)
}

/// Prints one event; nothing happened in a bookmark.
///
/// # Errors
/// The output cannot be written.
pub fn print(event: &WatchEvent, out: &mut Output) -> Result<(), Failure> {
    let (kind, name) = match event {
        WatchEvent::Put { object } => (&object.kind, &object.metadata.name),
        WatchEvent::Delete { kind, name } => (kind, name),
        WatchEvent::Bookmark => return Ok(()),
    };
    match out.format() {
        Format::Json | Format::Yaml => out.event(&to_value(event)?),
        Format::Name => out.text(&format!(
            "{}/{}\n",
            kind.to_ascii_lowercase(),
            harmless(name)
        )),
        Format::Table | Format::Wide => {
            let what = match event {
                WatchEvent::Put { object } => told(object),
                WatchEvent::Delete { .. } | WatchEvent::Bookmark => "deleted".to_owned(),
            };
            out.text(&format!(
                "{}/{}  {}\n",
                harmless(kind),
                harmless(name),
                harmless(&what)
            ))
        },
    }
}

fn told(object: &Object) -> String {
    let meta = &object.metadata;
    let mut parts = vec![format!("version {}", meta.config_version)];
    parts.push(format!(
        "generation {} by {}",
        meta.generation, meta.modified_by
    ));
    if let Some(status) = views::status::<cpl_api::object::NodeStatus>(object) {
        let (current, desired) = (status.current_config_version, status.desired_config_version);
        parts.push(format!(
            "{} {current}/{desired}",
            views::word(status.convergence)
        ));
    }
    if let Some(status) = views::status::<cpl_api::object::TargetGroupStatus>(object) {
        parts.push(format!("nodes {}/{}", status.nodes_converged, status.nodes));
        parts.push(format!(
            "healthy {}/{}",
            status.endpoints_healthy, status.endpoints
        ));
    }
    parts.join(", ")
}
