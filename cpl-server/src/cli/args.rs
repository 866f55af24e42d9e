//! The command line as a whole.

use clap::{Args, Parser, Subcommand};

use super::failure::Exit;
use super::output::Format;
use super::{
    agent, apply, audit, completion, context, delete, describe, dev, diff, endpoint, explain,
    foreign, get, history, node, rollback, rollout, serve, store, task, token, version, wait,
    watch, why,
};

/// What stands below the help of `cpl`.
const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    failed; for `cpl diff`: there are differences
  2    the command line, a manifest or a setting is wrong
  3    not found
  4    not allowed, or not known who calls
  5    conflict: the state is not the one that was named
  6    the server is not there, or it took too long
  7    what was waited for can no longer come by itself
  130  interrupted

Data goes to stdout, everything else to stderr. Nothing is ever asked unless stdin and stderr are a
terminal. `cpl explain REASON` tells what an error means.";

/// Runs a control plane, and talks to one.
#[derive(Debug, Parser)]
#[command(name = "cpl", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(
    propagate_version = false,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Which server, and how to print.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// The server's address [default: that of the context, or `http://127.0.0.1:8080`]
    #[arg(long, global = true, env = "CPL_SERVER", value_name = "URL")]
    #[arg(hide_env_values = true)]
    pub server: Option<String>,
    /// The file with the token [default: that of the context]
    #[arg(long, global = true, env = "CPL_TOKEN_FILE", value_name = "FILE")]
    #[arg(hide_env_values = true)]
    pub token_file: Option<String>,
    /// Certificates (PEM) to trust instead of the public ones [default: those of the context]
    #[arg(long, global = true, env = "CPL_CA", value_name = "FILE")]
    #[arg(hide_env_values = true)]
    pub ca: Option<String>,
    /// The context to use [default: the current one, see `cpl context`]
    #[arg(long, global = true, env = "CPL_CONTEXT", value_name = "NAME")]
    #[arg(hide_env_values = true)]
    pub context: Option<String>,
    /// How data is printed: table, wide, json, yaml or name
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub output: Format,
    /// Leave out the header of tables
    #[arg(long, global = true)]
    pub no_headers: bool,
    /// Say nothing but warnings and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// No colour; also by the variable `NO_COLOR`
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a control-plane server
    ///
    /// Every setting can also stand in the environment (`CPL_LISTEN`, `CPL_STORE`, `CPL_DATA_DIR`,
    /// `CPL_TLS_CERT`, `CPL_TLS_KEY`, `CPL_LOG_FORMAT`, `CPL_LOG`) or in the file that `--config` or
    /// `CPL_CONFIG` names; flags win over the environment, the environment over the file.
    Serve(serve::ServeArgs),
    /// Run a whole control plane on this machine, to try it
    Dev(dev::DevArgs),
    /// Run the agent of one node
    ///
    /// Of the global options it takes `--server` (several replicas separated by commas) and `--ca`. It
    /// uses no context, and keeps its own token in `STATE-DIR/agent.token`.
    Agent(agent::AgentArgs),
    /// What talks to a server.
    #[command(flatten)]
    Remote(Remote),
    /// Keep addresses and tokens of servers under names
    ///
    /// They stand in `~/.config/cpl/contexts.toml`; the variable `CPL_CONFIG_DIR` names another folder.
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Copy the state of a server out and in
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Print the completion script of a shell
    Completion(completion::CompletionArgs),
    /// Tell what a reason means and what helps
    ///
    /// Reasons stand in errors, in the findings of `cpl why` and in the holds of nodes.
    Explain(explain::ExplainArgs),
    /// Print the version of this program, and of the server
    Version(version::VersionArgs),
    /// Print the reference of all commands as Markdown
    #[command(hide = true)]
    HelpMarkdown,
}

/// The commands that talk to a server.
#[derive(Debug, Subcommand)]
pub enum Remote {
    /// Bring objects to what manifests say, all in one version or none
    ///
    /// A manifest has `kind`, `metadata {name, tenant, labels}` and `spec`, a target group also `endpoints`:
    /// left out they stay as they are, given they replace all. Objects that no manifest names are left
    /// alone.
    Apply(apply::ApplyArgs),
    /// List objects, or print some of them
    Get(get::GetArgs),
    /// Tell everything about one object
    Describe(describe::DescribeArgs),
    /// Delete objects
    ///
    /// What another object refers to is not deleted, unless `--cascade` takes it out of use first. Several
    /// objects are deleted one after another, each in a version of its own.
    Delete(delete::DeleteArgs),
    /// Compare manifests with the server, or two generations of an object
    ///
    /// Exits with 0 when there is no difference, with 1 when there is one, with 2 or more when that cannot
    /// be told.
    Diff(diff::DiffArgs),
    /// List the changes of an object
    History(history::HistoryArgs),
    /// Make a new version of an object with old content
    ///
    /// Nothing is undone in history: the old content is checked against what exists now and becomes the
    /// newest generation.
    Rollback(rollback::RollbackArgs),
    /// Make what somebody has changed in the store, past CPL, the newest version
    ///
    /// It is checked as if it had been applied. `cpl describe` shows what was changed.
    Adopt(foreign::ForeignArgs),
    /// Put back what an object was before somebody changed it in the store, past CPL
    Revert(foreign::ForeignArgs),
    /// Tell how far the newest change of an object has come
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// Print every change as it happens
    ///
    /// With `-o json` each line is one event of the API.
    Watch(watch::WatchArgs),
    /// Wait until an object is as it should be
    ///
    /// Exits with 6 when that takes longer than the timeout, and with 7 when it can no longer come by
    /// itself: all nodes that are not there refuse an object, or the object is gone.
    Wait(wait::WaitArgs),
    /// Tell why a node is not as it should be
    Why(why::WhyArgs),
    /// Add, drain, repair and remove nodes
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Change endpoints of a target group without rewriting it
    #[command(subcommand)]
    Endpoint(endpoint::EndpointCommand),
    /// List open work
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// List who changed what
    Audit(audit::AuditArgs),
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
}

/// Every exit status has its line in the help.
pub fn is_documented(exit: Exit) -> bool {
    let code = exit.code().to_string();
    AFTER_HELP
        .lines()
        .any(|line| line.split_whitespace().next() == Some(&code))
}
