//! `cpl node`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use cpl_api::client::WriteOptions;
use cpl_api::object::NodeLogEntry;
use cpl_api::routes::{Cascade, Collection, NodeVerb};
use cpl_api::token::JoinRequest;
use cpl_core::fields::Span;

use super::failure::{Exit, Outcome};
use super::kind::node_name;
use super::output::View;
use super::session::{Session, pages, to_value, wrote};
use super::table::Table;
use super::wait::span;
use super::{change, get, token};

/// Adds, drains, repairs and removes nodes.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum NodeCommand {
    /// List nodes
    List(ListArgs),
    /// Make a node, unless it exists, and a token for its agent to join with
    ///
    /// The token is printed, or written with `--token-out` to a file that only its owner can read. On the
    /// node: `cpl agent --node NAME --server URL --join-token-file FILE`.
    Join(JoinArgs),
    /// Let a node's connections end and take no new ones
    Drain(VerbArgs),
    /// Let a node serve again
    Undrain(VerbArgs),
    /// Let a node try again what it refused
    Retry(VerbArgs),
    /// Delete a node
    Remove(RemoveArgs),
    /// Print what was sent to a node, what it accepted or refused, and why
    Log(LogArgs),
    /// Print what a node must run
    Config(ConfigArgs),
}

/// Which nodes to list.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ListArgs {
    /// Go on and print every change
    #[arg(short, long)]
    pub watch: bool,
}

/// What `cpl node join` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct JoinArgs {
    /// The node
    #[arg(value_name = "NODE", value_parser = node_name)]
    pub node: String,
    /// How long the token lives, at most 24h
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "1h")]
    pub ttl: Span,
    /// Write the token to this file and print nothing
    #[arg(long, value_name = "FILE")]
    pub token_out: Option<PathBuf>,
}

/// Which node, and whether to do it.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct VerbArgs {
    /// The node: node-2 or node/node-2
    #[arg(value_name = "NODE", value_parser = node_name)]
    pub node: String,
    /// Let the server check everything and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Which node to delete.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct RemoveArgs {
    /// The node: node-2 or node/node-2
    #[arg(value_name = "NODE", value_parser = node_name)]
    pub node: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Let the server check everything and delete nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Which log.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct LogArgs {
    /// The node: node-2 or node/node-2
    #[arg(value_name = "NODE", value_parser = node_name)]
    pub node: String,
    /// At most this many entries, the newest
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = super::session::count)]
    pub limit: usize,
}

/// Which configuration.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ConfigArgs {
    /// The node: node-2 or node/node-2
    #[arg(value_name = "NODE", value_parser = node_name)]
    pub node: String,
}

/// Does something with nodes.
///
/// # Errors
/// The server's refusal, or consent is missing.
pub async fn run(command: &NodeCommand, session: &mut Session<'_>) -> Outcome {
    match command {
        NodeCommand::List(args) => {
            let all = get::GetArgs {
                objects: vec!["nodes".to_owned()],
                labels: Vec::new(),
                tenant: None,
                watch: args.watch,
            };
            get::run(&all, session).await
        },
        NodeCommand::Join(args) => join(args, session).await,
        NodeCommand::Drain(args) => verb(args, NodeVerb::Drain, session).await,
        NodeCommand::Undrain(args) => verb(args, NodeVerb::Undrain, session).await,
        NodeCommand::Retry(args) => verb(args, NodeVerb::Retry, session).await,
        NodeCommand::Remove(args) => remove(args, session).await,
        NodeCommand::Log(args) => log(args, session).await,
        NodeCommand::Config(args) => {
            let delivered = session.client.configuration(&args.node).await?;
            session.out.value(&to_value(&delivered)?)?;
            Ok(Exit::Success)
        },
    }
}

async fn join(args: &JoinArgs, session: &mut Session<'_>) -> Outcome {
    let request = JoinRequest {
        ttl_s: Some(args.ttl.as_millis().div_ceil(1_000)),
    };
    let answer = session
        .client
        .join(&args.node, &request, &WriteOptions::default())
        .await;
    token::hand_over(&wrote(answer)?, args.token_out.as_deref(), session)?;
    session.out.say(&format!(
        "on the node: cpl agent --node {} --server URL --join-token-file FILE",
        args.node
    ));
    Ok(Exit::Success)
}

async fn verb(args: &VerbArgs, verb: NodeVerb, session: &mut Session<'_>) -> Outcome {
    let options = WriteOptions {
        dry_run: args.dry_run,
        ..WriteOptions::default()
    };
    let answer = session.client.node_verb(&args.node, verb, &options).await;
    change::show(session.out, &wrote(answer)?)?;
    Ok(Exit::Success)
}

async fn remove(args: &RemoveArgs, session: &mut Session<'_>) -> Outcome {
    session.out.consent(
        &format!("delete Node/{}", args.node),
        args.yes || args.dry_run,
    )?;
    let options = WriteOptions {
        dry_run: args.dry_run,
        ..WriteOptions::default()
    };
    let answer = session
        .client
        .delete(Collection::Nodes, &args.node, Cascade::No, &options)
        .await;
    change::show(session.out, &wrote(answer)?)?;
    Ok(Exit::Success)
}

async fn log(args: &LogArgs, session: &mut Session<'_>) -> Outcome {
    let mut entries: Vec<NodeLogEntry> =
        pages!(args.limit, |page| session.client.node_log(&args.node, page));
    // A log is read downwards.
    entries.reverse();
    let mut table = Table::new(&["WHEN", "EVENT", "MESSAGE"]);
    for entry in &entries {
        table.row(vec![
            entry.at.into(),
            entry.event.clone().into(),
            entry.message.clone().into(),
        ]);
    }
    session.out.show(&View {
        value: serde_json::json!({ "items": to_value(&entries)? }),
        table,
        names: entries.iter().map(|entry| entry.event.clone()).collect(),
        nothing: format!("nothing is known of {} yet", args.node),
    })?;
    Ok(Exit::Success)
}
