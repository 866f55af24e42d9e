//! What people want: objects under versions, their history, and the one writer of them.
//!
//! A system brings its [`Kind`]s; this slice does the rest: it reads manifests with all mistakes at
//! once, keeps objects in a [`Catalog`], and commits changes in the order of their versions
//! ([`Writer`]). Commit order is version order: nobody ever sees version 42 before 41.

mod model;
mod repo;
mod rules;
mod service;
#[cfg(test)]
mod tests;

pub use self::model::{
    Answer, AnsweredObject, ChangeRecord, Draft, Foreign, Idempotency, Kind, Kinds, Manifest,
    Merged, Meta, Object, ObjectChange, Objects, Operation, Parts, Stamp, Summary, View,
};
pub use self::repo::{
    Catalog, GLOBAL_VERSION, change_id, history_key, history_range, keys, load, meta_key, part_key,
    read_change,
};
pub use self::rules::{
    ADOPT, Author, MOST_OBJECTS, REVERT, delete, differences, digest, evaluate, manifest,
    read_manifests, resolve,
};
pub use self::service::{Affected, Companions, Edit, Request, Writer, WriterConfig};
