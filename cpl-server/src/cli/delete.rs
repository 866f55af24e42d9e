//! `cpl delete`.

use clap::Args;
use cpl_api::client::WriteOptions;
use cpl_api::routes::{Cascade, Collection};

use super::change;
use super::failure::{Exit, Failure, Outcome};
use super::kind::{Named, Selection};
use super::manifest;
use super::session::{Session, wrote};

/// What `cpl delete` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct DeleteArgs {
    /// KIND NAME... or KIND/NAME...
    #[arg(
        value_name = "OBJECT",
        required_unless_present = "files",
        conflicts_with = "files"
    )]
    pub objects: Vec<String>,
    /// The objects of these manifests; their content does not matter
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<String>,
    /// Take it out of use first, where another object refers to it
    #[arg(long)]
    pub cascade: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Let the server check everything and delete nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Delete only if it still has this etag; for one object
    #[arg(long, value_name = "ETAG")]
    pub if_match: Option<String>,
}

/// Deletes objects.
///
/// # Errors
/// Consent is missing, or the server's refusal; what was deleted before it stays deleted.
pub async fn run(args: &DeleteArgs, session: &mut Session<'_>) -> Outcome {
    let objects = objects(args)?;
    if args.if_match.is_some() && objects.len() != 1 {
        let what = format!("--if-match is for one object, not for {}", objects.len());
        return Err(Failure::invalid(what));
    }
    let names: Vec<_> = objects.iter().map(ToString::to_string).collect();
    session.out.consent(
        &format!("delete {}", names.join(", ")),
        args.yes || args.dry_run,
    )?;
    let cascade = if args.cascade {
        Cascade::Yes
    } else {
        Cascade::No
    };
    let options = WriteOptions {
        dry_run: args.dry_run,
        if_match: args.if_match.clone(),
        idempotency_key: None,
    };
    for Named { kind, name } in &objects {
        let answer = session.client.delete(*kind, name, cascade, &options).await;
        change::show(session.out, &wrote(answer)?)?;
    }
    Ok(Exit::Success)
}

fn objects(args: &DeleteArgs) -> Result<Vec<Named>, Failure> {
    if args.files.is_empty() {
        return match Selection::read(&args.objects).map_err(Failure::invalid)? {
            Selection::These(named) => Ok(named),
            Selection::All(_) => Err(Failure::invalid("name the objects that are to be deleted")),
        };
    }
    let manifests = manifest::load(&args.files, &mut std::io::stdin())?;
    let mut objects: Vec<_> = manifests
        .into_iter()
        .map(|manifest| manifest.object)
        .collect();
    // Nodes refer to target groups, so they go first.
    objects.sort_by_key(|object| match object.kind {
        Collection::Nodes => 0,
        Collection::Targetgroups => 1,
    });
    Ok(objects)
}
