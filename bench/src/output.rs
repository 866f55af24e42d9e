//! One JSON line per measured case, in the form that the peers' programs print.

use std::io::Write as _;

use serde_json::{Value, json};

/// Prints one result: what was measured, with which parameters, and the figures.
///
/// A line that cannot be written is lost: whoever reads the output counts the cases.
pub(crate) fn case(bench: &str, params: &Value, metrics: &Value) {
    let line = json!({ "bench": bench, "params": params, "metrics": metrics });
    let _written = writeln!(std::io::stdout().lock(), "{line}");
}
