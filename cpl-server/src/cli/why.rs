//! `cpl why`.

use clap::Args;
use cpl_api::object::{Finding, WhyResponse};

use super::failure::{Exit, Outcome};
use super::kind::node_name;
use super::session::{Session, to_value};
use super::table::harmless;
use super::views;

/// What `cpl why` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct WhyArgs {
    /// The node: node-2 or node/node-2
    #[arg(value_name = "NODE", value_parser = node_name)]
    pub node: String,
}

/// Prints what is wrong with a node.
///
/// # Errors
/// The server's refusal.
pub async fn run(args: &WhyArgs, session: &mut Session<'_>) -> Outcome {
    let why = session.client.why(&args.node).await?;
    if session.out.for_programs() {
        session.out.value(&to_value(&why)?)?;
    } else {
        session.out.text(&told(&why))?;
    }
    Ok(Exit::Success)
}

/// The answer for people.
pub fn told(why: &WhyResponse) -> String {
    let word = views::word(why.convergence);
    let mut text = format!(
        "{} is {word}: {}\n",
        harmless(&why.node),
        harmless(&why.summary)
    );
    for finding in &why.findings {
        text += &told_finding(finding);
    }
    text
}

fn told_finding(finding: &Finding) -> String {
    let mut head = format!("\n  {}", harmless(&finding.code));
    for part in [&finding.object, &finding.field].into_iter().flatten() {
        head += " ";
        head += &harmless(part);
    }
    let mut text = format!("{head}\n    {}\n", harmless(&finding.message));
    if !finding.remedy.is_empty() {
        text += "    what helps: ";
        text += &harmless(&finding.remedy);
        text += "\n";
    }
    text
}
