//! From the command line to the command.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};
use cpl_host::Host;

use super::agent::AgentArgs;
use super::args::{Cli, Command, GlobalArgs, Remote};
use super::connection::{self, DEFAULT_SERVER};
use super::contexts::{ContextFolder, Contexts};
use super::failure::{Exit, Failure, Outcome};
use super::output::{self, Manner, Output, Talk};
use super::serve_config::load;
use super::session::Session;
use super::{
    apply, audit, completion, context, delete, describe, diff, endpoint, explain, foreign, get,
    history, markdown, node, rollback, rollout, store, task, token, version, wait, watch, why,
};

/// Runs the `cpl` command of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(output::usage(&error).code()),
    };
    let env = |name: &str| std::env::var(name).ok();
    let mut out = Output::of_process(manner(&cli.global), &env);
    let exit = dispatch(cli, &env, &mut out).unwrap_or_else(|failure| {
        out.fail(&failure);
        failure.exit()
    });
    ExitCode::from(exit.code())
}

const fn manner(global: &GlobalArgs) -> Manner {
    Manner {
        format: global.output,
        headers: !global.no_headers,
        colour: !global.no_color,
        talk: if global.quiet {
            Talk::Quiet
        } else {
            Talk::Live
        },
    }
}

fn dispatch(cli: Cli, env: &dyn Fn(&str) -> Option<String>, out: &mut Output) -> Outcome {
    let Cli { global, command } = cli;
    match command {
        Command::Serve(args) => crate::serve::run(&load(&args, env)?),
        Command::Dev(args) => crate::dev::run(&args),
        Command::Agent(args) => crate::agent::run(&with_server(args, &global)),
        Command::Remote(remote) => call(&global, env, out, &Call::Remote(&remote)),
        Command::Context(command) => {
            let given = context::Given {
                server: global.server,
                ca: global.ca.map(Into::into),
                token_file: global.token_file.map(Into::into),
            };
            context::run(&command, given, &ContextFolder::of_user(env)?, out)
        },
        Command::Store(command) => match store::place(&command) {
            Ok(work) => crate::transfer::offline(work, out),
            Err(work) => call(&global, env, out, &Call::Store(work)),
        },
        Command::Completion(args) => {
            out.text(&completion::script(args.shell, Cli::command()))?;
            Ok(Exit::Success)
        },
        Command::Explain(args) => explain::run(&args, out),
        Command::Version(args) if args.remote => call(&global, env, out, &Call::Version),
        Command::Version(_) => version::run(out),
        Command::HelpMarkdown => {
            out.text(&markdown::reference(&Cli::command()))?;
            Ok(Exit::Success)
        },
    }
}

/// What is asked of a server.
enum Call<'a> {
    Remote(&'a Remote),
    Store(store::Online<'a>),
    Version,
}

/// Runs one command against a server.
///
/// No signal is caught: an interrupt ends the process, which the shell reports as 130, also while a
/// file or an answer is read from the terminal.
fn call(
    global: &GlobalArgs,
    env: &dyn Fn(&str) -> Option<String>,
    out: &mut Output,
    what: &Call<'_>,
) -> Outcome {
    let host = Host::new();
    // Without a home there are no contexts, which matters only to those who name one.
    let contexts = match ContextFolder::of_user(env) {
        Ok(folder) => folder.load()?,
        Err(_) if global.context.is_none() => Contexts::default(),
        Err(failure) => return Err(failure),
    };
    let variable = env("CPL_TOKEN").is_some_and(|token| !token.is_empty());
    let connection = connection::resolve(global, variable, &contexts)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("failed to start: {error}")))?;
    let done = runtime.block_on(async {
        let client = connection::open(&connection, &host, env, out)?;
        let mut session = Session {
            client,
            clock: Arc::clone(&host.clock),
            out,
        };
        match what {
            Call::Remote(remote) => remote_call(remote, &mut session).await,
            Call::Store(work) => crate::transfer::online(*work, &host, &mut session).await,
            Call::Version => version::run_remote(&mut session).await,
        }
    });
    done.map_err(|failure| reaching(failure, &connection.server))
}

/// The arguments of an agent, with what the global options say of the server.
fn with_server(mut agent: AgentArgs, global: &GlobalArgs) -> AgentArgs {
    let set = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let servers = set(&global.server).unwrap_or_else(|| DEFAULT_SERVER.to_owned());
    agent.server = servers
        .split(',')
        .map(|server| server.trim().to_owned())
        .collect();
    agent.ca = set(&global.ca).map(PathBuf::from);
    agent
}

/// Says which server was meant, when it was not there.
fn reaching(failure: Failure, server: &str) -> Failure {
    if !failure.is_unreached() {
        return failure;
    }
    let failure = failure.detail(format!("server: {server}"));
    if server == DEFAULT_SERVER {
        return failure.detail("another one is named by --server, CPL_SERVER or `cpl context use`");
    }
    failure
}

/// Runs one of the commands that talk to a server.
///
/// # Errors
/// What the command ends with.
pub async fn remote_call(remote: &Remote, session: &mut Session<'_>) -> Outcome {
    match remote {
        Remote::Apply(args) => Box::pin(apply::run(args, session)).await,
        Remote::Get(args) => Box::pin(get::run(args, session)).await,
        Remote::Describe(args) => Box::pin(describe::run(args, session)).await,
        Remote::Delete(args) => Box::pin(delete::run(args, session)).await,
        Remote::Diff(args) => Box::pin(diff::run(args, session)).await,
        Remote::History(args) => Box::pin(history::run(args, session)).await,
        Remote::Rollback(args) => Box::pin(rollback::run(args, session)).await,
        Remote::Adopt(args) => Box::pin(foreign::adopt(args, session)).await,
        Remote::Revert(args) => Box::pin(foreign::revert(args, session)).await,
        Remote::Rollout(command) => Box::pin(rollout::run(command, session)).await,
        Remote::Watch(args) => Box::pin(watch::run(args, session)).await,
        Remote::Wait(args) => Box::pin(wait::run(args, session)).await,
        Remote::Why(args) => Box::pin(why::run(args, session)).await,
        Remote::Node(command) => Box::pin(node::run(command, session)).await,
        Remote::Endpoint(command) => Box::pin(endpoint::run(command, session)).await,
        Remote::Task(command) => Box::pin(task::run(command, session)).await,
        Remote::Audit(args) => Box::pin(audit::run(args, session)).await,
        Remote::Token(command) => Box::pin(token::run(command, session)).await,
    }
}
