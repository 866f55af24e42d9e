//! `cpl token`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use cpl_api::client::WriteOptions;
use cpl_api::token::{CreateToken, CreatedToken, Scope, TokenView};
use cpl_core::fields::Span;

use super::contexts::write_private;
use super::failure::{Exit, Failure, Outcome};
use super::kind::node_name;
use super::output::{Format, View};
use super::session::{MOST_LISTED, Session, pages, to_value, wrote};
use super::table::Table;
use super::wait::span;

/// Makes, lists and revokes tokens.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum TokenCommand {
    /// Make a token; its secret is shown this once
    Create(CreateArgs),
    /// List tokens, without their secrets
    List,
    /// End a token at once
    Revoke(RevokeArgs),
}

/// Who will hold the token, and what they may do.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct CreateArgs {
    /// Who holds it, as the audit will name them
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// What they may do
    #[arg(long, value_enum, value_name = "SCOPE", default_value = "read")]
    pub scope: ScopeName,
    /// The node, for join and agent
    #[arg(long, value_name = "NODE", value_parser = node_name)]
    #[arg(required_if_eq_any = [("scope", "join"), ("scope", "agent")])]
    pub node: Option<String>,
    /// How long it lives [default: until it is revoked; for join 1h]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub ttl: Option<Span>,
    /// Write the token to this file, which only its owner can read, and print nothing
    #[arg(long, value_name = "FILE")]
    pub token_out: Option<PathBuf>,
}

/// What the holder of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScopeName {
    /// Everything, tokens included
    Admin,
    /// Read and change objects
    Write,
    /// Read objects, history and status
    Read,
    /// Register the agent of one node
    Join,
    /// Speak for one node
    Agent,
}

/// Which token.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct RevokeArgs {
    /// Its id, see `cpl token list`
    #[arg(value_name = "ID")]
    pub id: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Does something with tokens.
///
/// # Errors
/// The server's refusal, or consent is missing.
pub async fn run(command: &TokenCommand, session: &mut Session<'_>) -> Outcome {
    match command {
        TokenCommand::Create(args) => create(args, session).await,
        TokenCommand::List => list(session).await,
        TokenCommand::Revoke(args) => {
            session
                .out
                .consent(&format!("revoke the token {}", args.id), args.yes)?;
            let answer = session
                .client
                .revoke_token(&args.id, &WriteOptions::default())
                .await;
            let gone = wrote(answer)?;
            session.out.say(&format!(
                "the token {} of {} is revoked",
                gone.id, gone.name
            ));
            Ok(Exit::Success)
        },
    }
}

async fn create(args: &CreateArgs, session: &mut Session<'_>) -> Outcome {
    let request = CreateToken {
        name: args.name.clone(),
        scope: scope(args)?,
        ttl_s: args.ttl.map(|ttl| ttl.as_millis().div_ceil(1_000)),
    };
    let answer = session
        .client
        .create_token(&request, &WriteOptions::default())
        .await;
    hand_over(&wrote(answer)?, args.token_out.as_deref(), session)?;
    Ok(Exit::Success)
}

fn scope(args: &CreateArgs) -> Result<Scope, Failure> {
    let node = || {
        args.node
            .clone()
            .ok_or_else(|| Failure::invalid("name the --node"))
    };
    match args.scope {
        ScopeName::Join => Ok(Scope::Join { node: node()? }),
        ScopeName::Agent => Ok(Scope::Agent { node: node()? }),
        ScopeName::Admin | ScopeName::Write | ScopeName::Read if args.node.is_some() => {
            Err(Failure::invalid("--node is for the scopes join and agent"))
        },
        ScopeName::Admin => Ok(Scope::Admin),
        ScopeName::Write => Ok(Scope::Write),
        ScopeName::Read => Ok(Scope::Read),
    }
}

/// Gives a fresh token to the person: into a file, or as the only thing on stdout.
///
/// # Errors
/// The file or the output cannot be written.
pub fn hand_over(
    created: &CreatedToken,
    file: Option<&Path>,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    let until = created
        .token
        .expires_at
        .map(|at| format!(", valid until {at}"));
    let until = until.unwrap_or_default();
    match file {
        Some(file) => write_private(file, &format!("{}\n", created.secret))?,
        None => match session.out.format() {
            Format::Json | Format::Yaml => session.out.value(&to_value(created)?)?,
            Format::Table | Format::Wide | Format::Name => {
                session.out.text(&format!("{}\n", created.secret))?;
            },
        },
    }
    session.out.say(&format!(
        "token {}{until}; it is shown this once",
        created.token.id
    ));
    Ok(())
}

async fn list(session: &mut Session<'_>) -> Outcome {
    let tokens: Vec<TokenView> = pages!(MOST_LISTED, |page| session.client.tokens(page));
    let mut table = Table::new(&["ID", "NAME", "SCOPE", "CREATED", "EXPIRES"]);
    for token in &tokens {
        let expires = token
            .expires_at
            .map_or_else(|| "never".to_owned(), |at| at.to_string());
        table.row(vec![
            token.id.clone().into(),
            token.name.clone().into(),
            told(&token.scope).into(),
            token.created_at.into(),
            expires.into(),
        ]);
    }
    session.out.show(&View {
        value: serde_json::json!({ "items": to_value(&tokens)? }),
        table,
        names: tokens
            .iter()
            .map(|token| format!("token/{}", token.id))
            .collect(),
        nothing: "there are no tokens".to_owned(),
    })?;
    Ok(Exit::Success)
}

fn told(scope: &Scope) -> String {
    match scope {
        Scope::Admin => "admin".to_owned(),
        Scope::Write => "write".to_owned(),
        Scope::Read => "read".to_owned(),
        Scope::Join { node } => format!("join {node}"),
        Scope::Agent { node } => format!("agent {node}"),
    }
}
