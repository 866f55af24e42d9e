//! The list of cases, and how they are run.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};

use super::failure::Failure;
use super::world::World;
use super::{compaction, lists, outcomes, races, seals, txns, watches};
use crate::clock::{Clock, Spawner};
use crate::store::Store;

/// Longest run of one case, by the caller's clock.
const CASE_LIMIT: Duration = Duration::from_mins(1);

/// What the suite needs besides a store.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Bounds the waiting.
    pub clock: Arc<dyn Clock>,
    /// Runs the clients of a case. Where it runs them on several threads, they race in earnest.
    pub spawner: Arc<dyn Spawner>,
}

/// One rule of the contract, as a program.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    name: &'static str,
    run: fn(World) -> BoxFuture<'static, Result<(), Failure>>,
}

impl Case {
    /// Its name, a sentence with underscores.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Runs it on a store that is empty and that nobody else writes to.
    ///
    /// # Errors
    /// A [`Failure`] when the store breaks the rule, or does not answer within a minute of the clock
    /// (10 s for an item of a watch).
    pub async fn run(&self, runtime: &Runtime, store: Arc<dyn Store>) -> Result<(), Failure> {
        let limit = runtime.clock.sleep(CASE_LIMIT);
        let world = World {
            store,
            clock: Arc::clone(&runtime.clock),
            spawner: Arc::clone(&runtime.spawner),
        };
        let result = match select((self.run)(world), limit).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(Failure::new(format!("not done within {CASE_LIMIT:?}"))),
        };
        result.map_err(|failure| Failure {
            case: self.name,
            ..failure
        })
    }
}

/// Runs every case on a store of its own.
///
/// # Errors
/// All failures, in the order of the cases.
pub async fn run_all(
    runtime: &Runtime,
    factory: impl AsyncFn() -> Arc<dyn Store>,
) -> Result<(), Vec<Failure>> {
    let mut failures = Vec::new();
    for case in cases() {
        if let Err(failure) = case.run(runtime, factory().await).await {
            failures.push(failure);
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures)
    }
}

macro_rules! list {
    ($($module:ident: $($name:ident)*;)*) => {
        &[$($(Case { name: stringify!($name), run: |world| Box::pin($module::$name(world)) },)*)*]
    };
}

/// Every case, for harnesses that run them one by one.
pub const fn cases() -> &'static [Case] {
    list! {
        txns:
            racing_creates_have_one_winner
            a_version_restarts_after_a_delete
            what_changes_nothing_makes_no_revision
            an_equal_value_is_a_change
            all_writes_of_a_transaction_share_a_revision
            a_key_twice_is_refused
            limits_are_kept_and_named
            the_longest_key_is_a_key
            racing_increments_are_all_counted
            transfers_keep_the_sum
            an_empty_value_is_not_absence
            a_read_sees_what_was_acknowledged
            a_false_compare_is_told_with_what_is_there
            a_stale_revision_stops_a_delete
            a_compare_alone_is_a_question;
        outcomes:
            a_repeated_id_returns_the_first_outcome
            a_repeated_create_is_not_told_of_itself
            an_id_with_another_body_is_refused
            a_void_id_never_applies
            an_applied_id_is_found_applied
            a_failed_compare_can_be_ruled_out
            outcomes_outlive_compaction;
        lists:
            siblings_of_a_prefix_stay_outside
            keys_are_ordered_by_their_bytes
            pages_stay_at_their_revision
            a_token_of_another_list_is_refused
            a_compacted_page_is_refused
            the_last_page_has_no_next
            pages_are_bounded_in_bytes
            an_empty_store_answers
            a_page_has_at_least_one_entry_and_at_most_the_limit
            a_range_that_ends_before_it_starts_is_empty
            a_token_of_the_future_is_refused
            one_key_is_not_its_neighbours;
        watches:
            a_watch_resumes_after_any_item
            progress_reaches_a_range_that_nobody_writes_to
            a_future_revision_is_refused
            a_foreign_cursor_is_refused
            a_slow_watcher_delays_nobody
            events_say_what_was_before
            events_of_a_revision_are_ordered_by_key
            watchers_of_all_ranges_agree
            the_largest_transaction_is_one_item
            watches_that_were_dropped_cost_nothing;
        compaction:
            compaction_keeps_what_is_live
            compaction_has_bounds
            a_watch_starts_at_the_compacted_revision
            compaction_under_a_watch_skips_nothing
            a_list_goes_on_at_the_compacted_revision
            a_compacted_store_answers_as_before;
        races:
            answers_fit_one_order_of_commits
            of_two_that_exclude_each_other_one_applies
            a_repeated_id_that_races_itself_applies_once
            an_outcome_that_races_its_transaction_agrees_with_it
            watchers_beside_writers_agree
            what_a_watch_told_can_be_read
            a_watch_after_a_list_misses_nothing
            compaction_beside_writers_and_watchers_loses_nothing
            a_dropped_commit_happened_once_or_not_at_all
            a_dropped_commit_takes_nobody_along
            nothing_waits_for_an_unknown_outcome;
        seals: a_sealed_store_changes_nothing a_seal_is_its_owners a_seal_follows_all_that_was_told;
    }
}
