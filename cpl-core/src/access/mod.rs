//! Tokens: who may do what. Only their hashes are stored.

mod model;
mod repo;
mod rules;
mod service;
#[cfg(test)]
mod tests;

pub use self::model::{Caller, Scope, TokenRecord};
pub use self::repo::{TOKEN, keys, token_key};
pub use self::rules::{Need, Secret, allows, hash, parse};
pub use self::service::{AccessConfig, NewToken, Tokens};
