//! What a node must run, what it has, what it holds back, and how it catches up.

mod model;

pub use self::model::{ConfigObject, Configuration, DataPlaneState, Delivered, Hold, Stage};
pub use crate::ids::ObjectRef;
