//! Nothing is lost and nothing happens twice, whatever happens to the server and on the way to it.

use cpl_backends::{Postgres, campaign};

use crate::{open, runtime};

/// Clients that race, watchers beside them, and unknown outcomes that are settled.
const CASES: &[&str] = &[
    "answers_fit_one_order_of_commits",
    "watchers_beside_writers_agree",
    "a_watch_after_a_list_misses_nothing",
    "a_repeated_id_that_races_itself_applies_once",
    "racing_increments_are_all_counted",
    "compaction_beside_writers_and_watchers_loses_nothing",
];

/// Faults of a run; `CPL_FAULTS` asks for more.
const FAULTS: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_happens_twice() {
    let asked = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let faults = asked("CPL_FAULTS").unwrap_or(FAULTS);
    let seed = asked("CPL_SEED").unwrap_or(3) as u64;
    let hits = campaign(
        &runtime(),
        Postgres::start(),
        CASES,
        (seed, faults),
        |port, number| {
            let url = format!("postgres://cpl@127.0.0.1:{port}/plane?schema=s{number}");
            Box::pin(async move { open(&url).await })
        },
    )
    .await;
    let kinds = hits.keys().filter(|what| what.starts_with("cut")).count();
    assert_eq!(kinds, 3, "{hits:?}");
}
