//! The text of changes, kept for those who watch.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use axum::body::Bytes;
use cpl_core::store::Revision;

/// Revisions whose changes are kept as text: those that watchers who keep up are at.
const TOLD: usize = 64;

/// What was told of the newest revisions, so that a thousand watchers cost one reading of the state and
/// not a thousand. Who comes later is told what the first one was, which is at least as new as the
/// revision; a later change has a revision of its own.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<BTreeMap<Place, Bytes>>);

/// A revision, and the kind that is watched.
type Place = (Revision, Option<&'static str>);

impl Told {
    /// What is told of a revision, made when nobody was told yet.
    pub(super) fn at(
        &self,
        revision: Revision,
        kind: Option<&'static str>,
        text: impl FnOnce() -> Bytes,
    ) -> Bytes {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = told.get(&(revision, kind)) {
            return known.clone();
        }
        let fresh = text();
        told.insert((revision, kind), fresh.clone());
        while told.len() > TOLD {
            told.pop_first();
        }
        fresh
    }
}
