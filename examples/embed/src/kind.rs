//! What the core has to know of a note. Everything is pure.

use cpl_core::error::FieldError;
use cpl_core::fields::{Fields, text};
use cpl_core::ids::ObjectRef;
use cpl_core::spec::{Kind, Object, Parts, Stamp, Summary, View};
use serde_json::json;

/// The kind of a note.
pub(crate) const NOTE: &str = "Note";

/// Notes: `spec: {text}`.
#[derive(Debug)]
pub(crate) struct NoteKind;

impl Kind for NoteKind {
    fn name(&self) -> &'static str {
        NOTE
    }

    fn collection(&self) -> &'static str {
        "notes"
    }

    fn parts(&self) -> &'static [&'static str] {
        &["spec"]
    }

    fn read(&self, fields: &mut Fields<'_>) -> Option<Parts> {
        let text = fields.required_object("spec", |spec| spec.required("text", text(1_000)))??;
        Some(Parts::from([("spec", json!({"text": text}))]))
    }

    fn people(&self, stored: &Parts) -> Parts {
        stored.clone()
    }

    fn stamp(&self, people: &Parts, _before: Option<&Parts>, _stamp: &Stamp<'_>) -> Parts {
        people.clone()
    }

    fn check(&self, _object: &Object, _view: &View<'_>) -> Vec<FieldError> {
        Vec::new()
    }

    fn referrers(&self, _name: &str, _view: &View<'_>) -> Vec<ObjectRef> {
        Vec::new()
    }

    fn detach(&self, _referrer: &Object, _target: &ObjectRef) -> Parts {
        Parts::new()
    }

    fn summarize(&self, before: Option<&Parts>, after: Option<&Parts>) -> Summary {
        let operation = match (before, after) {
            (None, _) => "CREATE",
            (_, None) => "DELETE",
            _ => "UPDATE",
        };
        Summary {
            operation: operation.to_owned(),
            ..Summary::default()
        }
    }
}
