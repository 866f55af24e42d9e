//! `cpl endpoint`.

use std::net::IpAddr;

use clap::{Args, Subcommand, ValueEnum};
use cpl_api::client::{ControlPlaneClient, WriteOptions};
use cpl_api::object::{ChangeResponse, EndpointsChange, Object};
use cpl_api::routes::{Collection, ListQuery};
use serde_json::{Map, Value};

use super::failure::{Exit, Failure, Outcome};
use super::kind::targetgroup_name;
use super::output::View;
use super::session::{Session, wrote};
use super::table::Table;
use super::{change, health, manifest, views};

/// How often a change is made anew when somebody else was faster.
const TRIES: usize = 3;

/// Changes endpoints of a target group without rewriting it.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum EndpointCommand {
    /// List the endpoints of a target group with their health
    List(ListArgs),
    /// Add endpoints, or change some of their fields
    ///
    /// Of an endpoint that is there, fields that are not given stay as they are. With `--filename`
    /// all endpoints of a file are set at once, in one version.
    Set(SetArgs),
    /// Remove endpoints by id
    Remove(RemoveArgs),
}

/// Which target group.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ListArgs {
    /// The target group: web or tg/web
    #[arg(value_name = "TARGETGROUP", value_parser = targetgroup_name)]
    pub targetgroup: String,
}

/// What `cpl endpoint set` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct SetArgs {
    /// The target group: web or tg/web
    #[arg(value_name = "TARGETGROUP", value_parser = targetgroup_name)]
    pub targetgroup: String,
    /// The endpoint's id
    #[arg(long, value_name = "ID", required_unless_present = "file")]
    pub id: Option<String>,
    /// Its address; needed for a new one
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<IpAddr>,
    /// Its port; needed for a new one
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Its share of the load, 0 to 256
    #[arg(long, value_name = "WEIGHT")]
    pub weight: Option<u16>,
    /// What is wanted of it
    #[arg(long, value_enum, ignore_case = true, value_name = "STATUS")]
    pub status: Option<Status>,
    /// A file of YAML or JSON with a list of endpoints, each with its id and the fields to set, or -
    /// for stdin
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with_all = ["id", "ip", "port", "weight", "status"])]
    pub file: Option<String>,
    /// Let the server check everything and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What is wanted of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Status {
    /// It serves while it is healthy.
    Up,
    /// It serves nothing.
    Down,
    /// It gets no new connections.
    Drain,
}

/// What `cpl endpoint remove` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct RemoveArgs {
    /// The target group: web or tg/web
    #[arg(value_name = "TARGETGROUP", value_parser = targetgroup_name)]
    pub targetgroup: String,
    /// The endpoints' ids
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Let the server check everything and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Lists or changes endpoints.
///
/// # Errors
/// The server's refusal.
pub async fn run(command: &EndpointCommand, session: &mut Session<'_>) -> Outcome {
    match command {
        EndpointCommand::List(args) => list(args, session).await,
        EndpointCommand::Set(args) => {
            let answer = set(args, &session.client).await?;
            change::show(session.out, &answer)?;
            Ok(Exit::Success)
        },
        EndpointCommand::Remove(args) => remove(args, session).await,
    }
}

async fn list(args: &ListArgs, session: &mut Session<'_>) -> Outcome {
    let object = session
        .client
        .get(Collection::Targetgroups, &args.targetgroup)
        .await?;
    let endpoints = object
        .endpoints
        .clone()
        .unwrap_or_else(|| Value::Array(Vec::new()));
    let nodes = if session.out.for_programs() {
        Vec::new()
    } else {
        session
            .client
            .list_all(Collection::Nodes, &ListQuery::default())
            .await?
            .items
    };
    let names = ids(&endpoints)
        .iter()
        .map(|id| format!("endpoint/{id}"))
        .collect();
    session.out.show(&View {
        value: endpoints,
        table: table(&object, &nodes),
        names,
        nothing: format!("{} has no endpoints", args.targetgroup),
    })?;
    Ok(Exit::Success)
}

/// The endpoints of a target group, with what `nodes` say of them.
pub fn table(targetgroup: &Object, nodes: &[Object]) -> Table {
    let seen = health::of_targetgroup(nodes, &targetgroup.metadata.name);
    let mut table = Table::new(&["ID", "IP", "PORT", "WEIGHT", "STATUS", "HEALTH"]);
    for endpoint in listed(targetgroup) {
        let field = |name: &str| views::text(endpoint.get(name));
        table.row(vec![
            field("id").into(),
            field("ip").into(),
            field("port").into(),
            field("weight").into(),
            field("status").into(),
            health::cell(seen.get(&field("id"))),
        ]);
    }
    table
}

/// A line for each endpoint and node that does not find it healthy.
pub fn doubts(targetgroup: &Object, nodes: &[Object]) -> Vec<String> {
    let seen = health::of_targetgroup(nodes, &targetgroup.metadata.name);
    let lines = seen.iter().flat_map(|(id, seen)| {
        let doubts = health::doubts(seen).into_iter();
        doubts.map(move |doubt| format!("{id} on {doubt}"))
    });
    lines.collect()
}

fn listed(targetgroup: &Object) -> &[Value] {
    let list = targetgroup.endpoints.as_ref().and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

fn ids(endpoints: &Value) -> Vec<String> {
    let list = endpoints.as_array().map_or(&[] as &[Value], Vec::as_slice);
    list.iter()
        .map(|endpoint| views::text(endpoint.get("id")))
        .collect()
}

/// The server replaces endpoints whole, so fields that were not given are taken from what is there, and
/// the etag sees to it that nobody changed that in between.
async fn set(args: &SetArgs, client: &ControlPlaneClient) -> Result<ChangeResponse, Failure> {
    let wanted = wanted(args)?;
    let mut tries = 0;
    loop {
        let name = &args.targetgroup;
        let object = client.get(Collection::Targetgroups, name).await?;
        let change = EndpointsChange {
            upsert: merged(&wanted, &object)?,
            remove: Vec::new(),
        };
        let options = WriteOptions {
            dry_run: args.dry_run,
            if_match: Some(object.metadata.etag.clone()),
            idempotency_key: None,
        };
        tries += 1;
        match client.change_endpoints(name, &change, &options).await {
            Err(error) if tries < TRIES && error.reason() == Some("ETAG_MISMATCH") => {},
            answer => return wrote(answer),
        }
    }
}

fn wanted(args: &SetArgs) -> Result<Vec<Map<String, Value>>, Failure> {
    if let Some(file) = &args.file {
        return manifest::load_list(file, &mut std::io::stdin());
    }
    let mut fields = Map::new();
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    add("id", args.id.clone().map(Value::from));
    add("ip", args.ip.map(|ip| ip.to_string().into()));
    add("port", args.port.map(Value::from));
    add("weight", args.weight.map(Value::from));
    add("status", args.status.map(|status| status.as_str().into()));
    Ok(vec![fields])
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Down => "DOWN",
            Self::Drain => "DRAIN",
        }
    }
}

fn merged(wanted: &[Map<String, Value>], there: &Object) -> Result<Vec<Value>, Failure> {
    let mut endpoints = Vec::new();
    for fields in wanted {
        let id = fields.get("id");
        let old = listed(there)
            .iter()
            .find(|endpoint| id.is_some() && endpoint.get("id") == id);
        let mut whole = old.and_then(Value::as_object).cloned().unwrap_or_default();
        whole.extend(fields.clone());
        if old.is_none() && !(whole.contains_key("ip") && whole.contains_key("port")) {
            let name = &there.metadata.name;
            let what = format!("{} is new in {name}: give its ip and port", views::text(id));
            return Err(Failure::invalid(what));
        }
        endpoints.push(Value::Object(whole));
    }
    Ok(endpoints)
}

async fn remove(args: &RemoveArgs, session: &mut Session<'_>) -> Outcome {
    let what = format!("remove {} from {}", args.ids.join(", "), args.targetgroup);
    session.out.consent(&what, args.yes || args.dry_run)?;
    let change = EndpointsChange {
        upsert: Vec::new(),
        remove: args.ids.clone(),
    };
    let options = WriteOptions {
        dry_run: args.dry_run,
        ..WriteOptions::default()
    };
    let answer = session
        .client
        .change_endpoints(&args.targetgroup, &change, &options)
        .await;
    change::show(session.out, &wrote(answer)?)?;
    Ok(Exit::Success)
}
