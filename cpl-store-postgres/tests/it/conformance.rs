//! The store keeps the contract.

use cpl_backends::{Opening, Postgres, contract, contract_behind_faults};

use crate::{open, runtime};

/// A schema of its own for each store.
fn fresh(backend: &Postgres, number: usize) -> Opening {
    let url = backend.url(&format!("s{number}"));
    Box::pin(async move { open(&url).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_keeps_the_contract_and_answers_as_the_model_does() {
    let backend = Postgres::start();
    contract(&runtime(), |number| fresh(&backend, number)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_keeps_the_contract_behind_faults() {
    let backend = Postgres::start();
    contract_behind_faults(&runtime(), |number| fresh(&backend, number)).await;
}
