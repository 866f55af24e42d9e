//! Whether the answers of clients that work side by side fit one order of commits.
//!
//! A revision is a place in the order of commits, and every answer carries one. So nothing has to be
//! searched: the transactions are applied in the order that their answers claim, and every other
//! answer is held against the state at its revision. Calls that did not overlap must claim places in
//! the order in which they were made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::failure::Failure;
use super::world::{Checked, History, holds, same};
use crate::store::{Compare, Entry, Event, Expect, Key, KeyMeta, Op, Range, Revision, Txn};

/// The live keys at one revision.
pub(super) type State = BTreeMap<Key, Entry>;

/// What a client asked and was answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// A transaction that puts something.
    Applied(Txn),
    CompareFailed {
        compares: Vec<Compare>,
        failed: Vec<(Key, Option<KeyMeta>)>,
    },
    Got(Key, Option<Entry>),
    Listed(Range, Vec<Entry>),
}

/// One call, between two ticks of a counter that all clients share.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) began: u64,
    pub(super) ended: u64,
    pub(super) answer: Answer,
    pub(super) at: Revision,
}

/// Collects the calls of all clients.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    ticks: AtomicU64,
    calls: Mutex<Vec<Call>>,
}

impl Recorder {
    /// The next tick, to be taken before a call is made.
    pub(super) fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    /// Notes a call that began at a tick and has just ended.
    pub(super) fn ended(&self, began: u64, at: Revision, answer: Answer) {
        let ended = self.tick();
        let call = Call {
            began,
            ended,
            answer,
            at,
        };
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(call);
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        let calls = self.calls.lock();
        std::mem::take(&mut *calls.unwrap_or_else(PoisonError::into_inner))
    }
}

/// Checks the calls, and what a watch from the beginning delivered, from a store that held nothing.
///
/// # Errors
/// The first answer that does not fit.
pub(super) fn check(calls: &[Call], watched: &History) -> Checked {
    let (states, events) = replay(calls)?;
    same("what a watch saw", watched, &events)?;
    for call in calls {
        fits(call, &states)?;
    }
    in_real_time(calls)
}

/// The state after each revision, and the events of each, as the answers of transactions claim them.
fn replay(calls: &[Call]) -> Checked<(BTreeMap<Revision, State>, History)> {
    let mut by_revision: BTreeMap<Revision, Vec<&Txn>> = BTreeMap::new();
    for call in calls {
        if let Answer::Applied(txn) = &call.answer {
            by_revision.entry(call.at).or_default().push(txn);
        }
    }
    let mut states = BTreeMap::from([(Revision(0), State::new())]);
    let mut history = History::new();
    let mut state = State::new();
    for (revision, txns) in by_revision {
        independent(revision, &txns)?;
        for compare in txns.iter().flat_map(|txn| &txn.compares) {
            holds(is_true(compare, &state), || {
                format!("a transaction applied at {revision} although {compare:?} was false")
            })?;
        }
        let mut events: Vec<Event> = txns
            .iter()
            .flat_map(|txn| &txn.ops)
            .filter_map(|op| write(op, revision, &mut state))
            .collect();
        events.sort_by(|one, other| one.key().cmp(other.key()));
        history.push((revision, events));
        states.insert(revision, state.clone());
    }
    Ok((states, history))
}

/// Transactions may share a revision only if none writes what another compares or writes.
fn independent(revision: Revision, txns: &[&Txn]) -> Checked {
    let mut written = BTreeSet::new();
    let mut compared = BTreeSet::new();
    for txn in txns {
        let writes: BTreeSet<&Key> = txn.ops.iter().map(Op::key).collect();
        let compares: BTreeSet<&Key> = txn.compares.iter().map(|c| &c.key).collect();
        let apart = writes.is_disjoint(&written)
            && writes.is_disjoint(&compared)
            && compares.is_disjoint(&written);
        holds(apart, || {
            format!("transactions that touch the same keys share the revision {revision}: {txns:?}")
        })?;
        written.extend(writes);
        compared.extend(compares);
    }
    Ok(())
}

fn is_true(compare: &Compare, state: &State) -> bool {
    let found = state.get(&compare.key).map(|entry| entry.meta.mod_revision);
    match compare.expect {
        Expect::ModRevision(revision) => found == Some(revision),
        Expect::Absent => found.is_none(),
    }
}

fn write(op: &Op, revision: Revision, state: &mut State) -> Option<Event> {
    match op {
        Op::Put(key, value) => {
            let before = state.get(key).map(|entry| entry.meta);
            let meta = KeyMeta {
                create_revision: before.map_or(revision, |meta| meta.create_revision),
                mod_revision: revision,
                version: before.map_or(1, |meta| meta.version + 1),
            };
            let entry = Entry {
                key: key.clone(),
                value: value.clone(),
                meta,
            };
            state.insert(key.clone(), entry.clone());
            Some(Event::Put { entry })
        },
        Op::Delete(key) => {
            state.remove(key)?;
            Some(Event::Delete { key: key.clone() })
        },
    }
}

/// Whether an answer is what the state at its revision says.
fn fits(call: &Call, states: &BTreeMap<Revision, State>) -> Checked {
    let at = call.at;
    let Some((_, state)) = states.range(..=at).next_back() else {
        return Err(Failure::new(format!(
            "an answer from before the store: {call:?}"
        )));
    };
    match &call.answer {
        Answer::Applied(_) => Ok(()),
        Answer::CompareFailed { compares, failed } => {
            let expected: BTreeMap<Key, Option<KeyMeta>> = compares
                .iter()
                .filter(|compare| !is_true(compare, state))
                .map(|compare| (compare.key.clone(), state.get(&compare.key).map(|e| e.meta)))
                .collect();
            let told: BTreeMap<_, _> = failed.iter().cloned().collect();
            holds(!failed.is_empty(), || "no compare was false".to_owned())?;
            same(&format!("the false compares at {at}"), &told, &expected)
        },
        Answer::Got(key, entry) => {
            same(&format!("{key} at {at}"), &entry.as_ref(), &state.get(key))
        },
        Answer::Listed(range, entries) => {
            let expected = state.values().filter(|entry| range.contains(&entry.key));
            let expected: Vec<&Entry> = expected.collect();
            same(
                &format!("{range:?} at {at}"),
                &entries.iter().collect(),
                &expected,
            )
        },
    }
}

/// A call that began after another had ended sees at least what that one saw, and a transaction comes
/// after it.
fn in_real_time(calls: &[Call]) -> Checked {
    let mut ends: Vec<(u64, Revision)> = calls.iter().map(|call| (call.ended, call.at)).collect();
    ends.sort_unstable();
    let mut newest = BTreeMap::new();
    let mut most = Revision(0);
    for (ended, at) in ends {
        most = most.max(at);
        newest.insert(ended, most);
    }
    for call in calls {
        let seen = newest.range(..call.began).next_back().map(|(_, at)| *at);
        let Some(seen) = seen else { continue };
        let later = match call.answer {
            Answer::Applied(_) => call.at > seen,
            Answer::CompareFailed { .. } | Answer::Got(..) | Answer::Listed(..) => call.at >= seen,
        };
        holds(later, || {
            format!(
                "a call that began after {seen} had been seen was answered as of {}: {call:?}",
                call.at
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::world::key;
    use super::*;

    /// Creates `k`, replaces it, reads it, deletes it beside a put, and misses it.
    fn story() -> (Vec<Call>, History) {
        let put = |value: &'static str| Txn::new().put(key("k"), value);
        let answers = [
            (
                1,
                Answer::Applied(put("1").expect(key("k"), Expect::Absent)),
            ),
            (
                3,
                Answer::Applied(put("2").expect(key("k"), Expect::ModRevision(Revision(1)))),
            ),
            (
                4,
                Answer::Applied(Txn::new().put(key("a"), "").delete(key("k"))),
            ),
            (4, Answer::Got(key("k"), None)),
        ];
        let calls: Vec<Call> = (0..)
            .zip(answers)
            .map(|(n, (at, answer))| Call {
                began: 2 * n,
                ended: 2 * n + 1,
                answer,
                at: Revision(at),
            })
            .collect();
        let (_, watched) = replay(&calls).unwrap();
        (calls, watched)
    }

    #[test]
    fn answers_in_order_fit() {
        let (mut calls, watched) = story();
        check(&calls, &watched).unwrap();
        // The places may come in another order than the answers where calls overlap.
        calls[0].began = 0;
        calls[3].began = 0;
        calls[3].at = Revision(0);
        check(&calls, &watched).unwrap();
    }

    fn check_refused(change: impl FnOnce(&mut Vec<Call>, &mut History), expected: &str) {
        let (mut calls, mut watched) = story();
        change(&mut calls, &mut watched);
        let failure = check(&calls, &watched).unwrap_err().to_string();
        assert!(failure.contains(expected), "{failure}");
    }

    #[test]
    fn what_does_not_fit_is_told() {
        check_refused(|calls, _| calls[3].at = Revision(3), "k at 3");
        check_refused(|calls, _| calls[1].at = Revision(1), "share the revision 1");
        check_refused(|calls, _| calls.swap_remove(0).began = 0, "was false");
        check_refused(|_, watched| drop(watched.pop()), "what a watch saw");
        check_refused(|_, watched| watched.swap(0, 1), "what a watch saw");
        check_refused(
            |calls, _| {
                calls[3].at = Revision(2);
                calls[3].answer = Answer::Listed(Range::all(), Vec::new());
            },
            "at 2",
        );
    }

    #[test]
    fn an_answer_from_the_past_is_told() {
        check_refused(
            |calls, _| {
                calls[3].at = Revision(0);
            },
            "began after 4 had been seen",
        );
    }
}
