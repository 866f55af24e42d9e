//! `cpl audit`.

use clap::Args;
use cpl_api::object::AuditRecord;

use super::failure::{Exit, Outcome};
use super::output::View;
use super::session::{Session, pages, to_value};
use super::table::Table;

/// What `cpl audit` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct AuditArgs {
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = super::session::count)]
    pub limit: usize,
}

/// Prints the audit.
///
/// # Errors
/// The server's refusal.
pub async fn run(args: &AuditArgs, session: &mut Session<'_>) -> Outcome {
    let records: Vec<AuditRecord> = pages!(args.limit, |page| session.client.audit(page));
    let mut table = Table::new(&["WHEN", "WHO", "ACTION", "OBJECTS", "VERSION", "REQUEST"]);
    for record in &records {
        table.row(vec![
            record.at.into(),
            record.actor.clone().into(),
            record.action.clone().into(),
            record.objects.join(",").into(),
            record
                .config_version
                .map(|version| version.to_string())
                .unwrap_or_default()
                .into(),
            record.request_id.clone().into(),
        ]);
    }
    session.out.show(&View {
        value: serde_json::json!({ "items": to_value(&records)? }),
        table,
        names: records
            .iter()
            .map(|record| record.request_id.clone())
            .collect(),
        nothing: "nothing was changed yet".to_owned(),
    })?;
    Ok(Exit::Success)
}
