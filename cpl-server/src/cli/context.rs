//! `cpl context`.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use cpl_core::fields::check_name;

use super::contexts::{Context, ContextFolder, Contexts, parse_token};
use super::failure::{Exit, Failure, Outcome};
use super::output::{Output, View};
use super::session::to_value;
use super::table::Table;

/// Longest token that is read.
const TOKEN_BYTES: u64 = 4_096;

/// Keeps addresses and tokens of servers under names.
///
/// They stand in `~/.config/cpl/contexts.toml` (`CPL_CONFIG_DIR` names another folder).
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum ContextCommand {
    /// List contexts
    List,
    /// Make a context the current one
    Use(NameArgs),
    /// Make or change a context; what is not given stays as it was
    ///
    /// The global options `--server`, `--ca` and `--token-file` say what it should be. The first
    /// context becomes the current one.
    Set(SetArgs),
    /// Forget a context and the token that was kept for it
    Remove(RemoveArgs),
    /// Print a context
    Show(ShowArgs),
}

/// Which context.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct NameArgs {
    /// Its name
    #[arg(value_parser = context_name)]
    pub name: String,
}

/// What `cpl context set` takes, besides global options.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct SetArgs {
    /// Its name
    #[arg(value_parser = context_name)]
    pub name: String,
    /// Read the token from stdin and keep it in a file of its own
    #[arg(long)]
    pub token_stdin: bool,
}

/// Which context to forget.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct RemoveArgs {
    /// Its name
    #[arg(value_parser = context_name)]
    pub name: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Which context to print.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ShowArgs {
    /// Its name [default: the current one]
    #[arg(value_parser = context_name)]
    pub name: Option<String>,
}

fn context_name(text: &str) -> Result<String, String> {
    // It becomes the name of a file.
    match check_name(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(_) => Err("names have lower-case letters, digits and '-'".to_owned()),
    }
}

/// What the command line says of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// `--server`.
    pub server: Option<String>,
    /// `--ca`.
    pub ca: Option<PathBuf>,
    /// `--token-file`.
    pub token_file: Option<PathBuf>,
}

/// Does something with contexts. Blocks while it reads and writes files.
///
/// # Errors
/// There is no such context, or the files cannot be read or written.
pub fn run(
    command: &ContextCommand,
    given: Given,
    folder: &ContextFolder,
    out: &mut Output,
) -> Outcome {
    let mut contexts = folder.load()?;
    match command {
        ContextCommand::List => list(&contexts, out)?,
        ContextCommand::Use(args) => {
            contexts.named(&args.name)?;
            contexts.current = Some(args.name.clone());
            folder.save(&contexts)?;
            out.say(&format!("the context is {}", args.name));
        },
        ContextCommand::Set(args) => {
            let token = if args.token_stdin {
                Some(stdin_token()?)
            } else {
                None
            };
            set(args, given, &mut contexts)?;
            if let Some(token) = token {
                let file = folder.save_token(&args.name, &token)?;
                if let Some(context) = contexts.contexts.get_mut(&args.name) {
                    context.token_file = Some(file);
                }
            }
            folder.save(&contexts)?;
            out.say(&format!("context {} is set", args.name));
        },
        ContextCommand::Remove(args) => {
            contexts.named(&args.name)?;
            out.consent(&format!("forget the context {}", args.name), args.yes)?;
            contexts.contexts.remove(&args.name);
            if contexts.current.as_ref() == Some(&args.name) {
                contexts.current = None;
            }
            folder.save(&contexts)?;
            folder.remove_token(&args.name)?;
            out.say(&format!("context {} is forgotten", args.name));
        },
        ContextCommand::Show(args) => show(args, &contexts, out)?,
    }
    Ok(Exit::Success)
}

fn set(args: &SetArgs, given: Given, contexts: &mut Contexts) -> Result<(), Failure> {
    let old = contexts.contexts.get(&args.name);
    let server = given.server.or_else(|| old.map(|old| old.server.clone()));
    let server = server.ok_or_else(|| Failure::invalid("a context needs its --server"))?;
    let context = Context {
        server,
        ca: absolute(given.ca)?.or_else(|| old.and_then(|old| old.ca.clone())),
        token_file: absolute(given.token_file)?
            .or_else(|| old.and_then(|old| old.token_file.clone())),
    };
    contexts.contexts.insert(args.name.clone(), context);
    contexts.current.get_or_insert_with(|| args.name.clone());
    Ok(())
}

/// A context is used from any folder, so its paths must not begin at this one.
fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    path.map(std::path::absolute)
        .transpose()
        .map_err(|error| Failure::invalid(format!("a path cannot be used: {error}")))
}

fn stdin_token() -> Result<cpl_api::token::BearerToken, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(TOKEN_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| Failure::invalid(format!("stdin cannot be read: {error}")))?;
    parse_token(&text, "stdin")
}

fn list(contexts: &Contexts, out: &mut Output) -> Result<(), Failure> {
    let mut table = Table::new(&["CURRENT", "NAME", "SERVER", "TOKEN"]);
    for (name, context) in &contexts.contexts {
        let current = if contexts.current.as_ref() == Some(name) {
            "*"
        } else {
            ""
        };
        let token = context
            .token_file
            .as_ref()
            .map(|file| file.display().to_string());
        table.row(vec![
            current.into(),
            name.into(),
            context.server.clone().into(),
            token.unwrap_or_default().into(),
        ]);
    }
    out.show(&View {
        value: to_value(contexts)?,
        table,
        names: contexts.contexts.keys().cloned().collect(),
        nothing: "there are no contexts; make one: cpl context set NAME --server URL".to_owned(),
    })
}

fn show(args: &ShowArgs, contexts: &Contexts, out: &mut Output) -> Result<(), Failure> {
    let name = args.name.as_ref().or(contexts.current.as_ref());
    let name = name.ok_or_else(|| Failure::new(Exit::NotFound, "there is no current context"))?;
    let context = contexts.named(name)?;
    let path = |path: &Option<PathBuf>| {
        path.as_ref()
            .map_or_else(|| "-".to_owned(), |path| path.display().to_string())
    };
    if out.for_programs() {
        return out.value(&to_value(context)?);
    }
    out.text(&format!(
        "name:    {name}\nserver:  {}\nca:      {}\ntoken:   {}\n",
        context.server,
        path(&context.ca),
        path(&context.token_file)
    ))
}
