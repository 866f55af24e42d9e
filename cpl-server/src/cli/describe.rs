//! `cpl describe`.

use clap::Args;
use cpl_api::object::{Change, NodeStatus, Object, TargetGroupStatus};
use cpl_api::routes::{Collection, ListQuery, Page};
use serde_json::{Value, json};

use super::failure::{Exit, Failure, Outcome};
use super::kind::{Named, Selection};
use super::output::yaml;
use super::session::{Session, to_value};
use super::table::{Table, harmless};
use super::{endpoint, history, views};

/// How many changes are shown.
const CHANGES: u32 = 5;

/// What `cpl describe` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct DescribeArgs {
    /// KIND NAME or KIND/NAME
    #[arg(required = true, num_args = 1..=2, value_name = "OBJECT")]
    pub object: Vec<String>,
}

/// Describes an object.
///
/// # Errors
/// The server's refusal.
pub async fn run(args: &DescribeArgs, session: &mut Session<'_>) -> Outcome {
    let Named { kind, name } = Selection::one(&args.object).map_err(Failure::invalid)?;
    let object = session.client.get(kind, &name).await?;
    let page = Page {
        page_size: Some(CHANGES),
        page_token: None,
    };
    let changes = session.client.history(kind, &name, &page).await?.items;
    if session.out.for_programs() {
        let value = json!({"object": to_value(&object)?, "changes": to_value(&changes)?});
        session.out.value(&value)?;
        return Ok(Exit::Success);
    }
    let nodes = match kind {
        Collection::Targetgroups => {
            let nodes = session
                .client
                .list_all(Collection::Nodes, &ListQuery::default())
                .await?;
            nodes.items
        },
        Collection::Nodes => Vec::new(),
    };
    let text = told(kind, &object, &nodes, &changes)?;
    session.out.text(&text)?;
    Ok(Exit::Success)
}

/// The description for people.
///
/// # Errors
/// YAML cannot say the spec; it came as JSON.
pub fn told(
    kind: Collection,
    object: &Object,
    nodes: &[Object],
    changes: &[Change],
) -> Result<String, Failure> {
    let mut text = head(object);
    text += &foreign(object);
    text += &section("Spec", yaml(&object.spec)?.lines());
    match kind {
        Collection::Targetgroups => {
            text += &targetgroup(object);
            let table = endpoint::table(object, nodes);
            text += &section("Endpoints", rows(&table).iter().map(String::as_str));
            let doubts = endpoint::doubts(object, nodes);
            text += &section("Not healthy", doubts.iter().map(String::as_str));
        },
        Collection::Nodes => text += &node(object),
    }
    let table = history::table(changes, false);
    text += &section("Last changes", rows(&table).iter().map(String::as_str));
    Ok(text)
}

fn head(object: &Object) -> String {
    let meta = &object.metadata;
    let lines = [
        ("Name", format!("{}/{}", object.kind, meta.name)),
        ("Tenant", meta.tenant.clone().unwrap_or_default()),
        ("Labels", views::labels(object)),
        (
            "Version",
            format!("{} (generation {})", meta.config_version, meta.generation),
        ),
        ("Etag", meta.etag.clone()),
        ("Created", meta.created_at.clone()),
        (
            "Modified",
            format!("{} by {}", meta.modified_at, meta.modified_by),
        ),
    ];
    lines
        .iter()
        .map(|(name, value)| line(name, value))
        .collect()
}

fn foreign(object: &Object) -> String {
    let Some(change) = &object.foreign else {
        return String::new();
    };
    let shown = |value: &Option<Value>| match value {
        Some(value) => value.to_string(),
        None => "nothing".to_owned(),
    };
    let mut lines = vec![
        "it does not run; `cpl adopt` makes it the newest version, `cpl revert` removes it"
            .to_owned(),
    ];
    lines.extend(change.differences.iter().map(|difference| {
        let (from, to) = (shown(&difference.from), shown(&difference.to));
        format!("{}: {from} -> {to}", difference.pointer)
    }));
    let unreadable = change.unreadable.iter();
    lines.extend(unreadable.map(|(part, why)| format!("/{part} cannot be read: {why}")));
    section("Changed past CPL", lines.iter().map(String::as_str))
}

fn line(name: &str, value: &str) -> String {
    if value.is_empty() {
        return String::new();
    }
    format!("{:<12}{}\n", format!("{name}:"), harmless(value))
}

fn section<'a>(title: &str, lines: impl Iterator<Item = &'a str>) -> String {
    let body = lines.fold(String::new(), |text, line| {
        text + "  " + &harmless(line) + "\n"
    });
    if body.is_empty() {
        return String::new();
    }
    format!("{title}:\n{body}")
}

fn rows(table: &Table) -> Vec<String> {
    table.lines(true, false)
}

fn targetgroup(object: &Object) -> String {
    let Some(status) = views::status::<TargetGroupStatus>(object) else {
        return String::new();
    };
    let TargetGroupStatus {
        nodes,
        nodes_converged,
        endpoints,
        endpoints_healthy,
    } = status;
    let lines = [
        format!("{nodes_converged} of {nodes} nodes run the newest generation"),
        format!("{endpoints_healthy} of {endpoints} endpoints are healthy everywhere"),
    ];
    section("Status", lines.iter().map(String::as_str))
}

fn node(object: &Object) -> String {
    let Some(status) = views::status::<NodeStatus>(object) else {
        return String::new();
    };
    let (current, desired) = (status.current_config_version, status.desired_config_version);
    let mut plane = Table::new(&["DATA PLANE"]);
    plane.row(vec![views::data_plane(&status)]);
    let lines = [
        format!(
            "{}: version {current}, wanted {desired}",
            views::word(status.convergence)
        ),
        format!("data plane: {}", plane.lines(false, false).concat()),
        format!(
            "agent: {}, last heard {}",
            if status.alive { "heard" } else { "not heard" },
            status.last_heartbeat.as_deref().unwrap_or("never")
        ),
        format!(
            "last applied: {}",
            status
                .last_applied_change_id
                .as_deref()
                .unwrap_or("nothing")
        ),
    ];
    let mut text = section("Status", lines.iter().map(String::as_str));
    let mut holds = Table::new(&["OBJECT", "REFUSED", "RUNNING", "STAGE", "CODE", "MESSAGE"]);
    for hold in &status.holds {
        let running = hold
            .running
            .map_or_else(|| "left out".to_owned(), |g| g.to_string());
        let stage = to_value(&hold.stage).unwrap_or(Value::Null);
        let field = hold.field.as_deref().unwrap_or_default();
        holds.row(vec![
            format!("{}{field}", hold.object).into(),
            hold.generation.into(),
            running.into(),
            views::text(Some(&stage)).into(),
            hold.code.clone().into(),
            hold.message.clone().into(),
        ]);
    }
    text += &section("Holds", rows(&holds).iter().map(String::as_str));
    text
}
