use std::time::Duration;

use super::rules::may_replace;
use super::*;
use crate::clock::{Monotonic, Timestamp};
use crate::lease::Living;
use crate::store::Revision;
use crate::version::{AgentIncarnation, Epoch};

const GRACE: Duration = Duration::from_secs(10);

const fn at(seconds: u64) -> (Monotonic, Timestamp) {
    (
        Monotonic(Duration::from_secs(seconds)),
        Timestamp(seconds * 1_000 + 1),
    )
}

const fn word(incarnation: u64, sequence: u64) -> Heard {
    Heard {
        incarnation: AgentIncarnation(incarnation),
        sequence,
    }
}

#[test]
fn presence_changes_once_on_arrival_and_once_on_silence() {
    let mut roll = Roll::new(GRACE);
    assert!(matches!(
        roll.hear("a", word(1, 1), true, at(0)),
        Hearing::Arrived(_)
    ));
    assert_eq!(roll.hear("a", word(1, 2), true, at(5)), Hearing::Known);
    assert_eq!(roll.sweep(at(15).0), []);
    let silent = roll.sweep(at(16).0);
    assert_eq!(silent.len(), 1);
    assert!(!silent[0].present);
    assert_eq!(roll.sweep(at(60).0), []);
    assert!(matches!(
        roll.hear("a", word(1, 3), true, at(61)),
        Hearing::Arrived(_)
    ));
}

#[test]
fn a_late_duplicate_keeps_nobody_alive() {
    let mut roll = Roll::new(GRACE);
    roll.hear("a", word(2, 5), true, at(0));
    assert_eq!(roll.hear("a", word(2, 5), true, at(9)), Hearing::Late);
    assert_eq!(roll.hear("a", word(1, 99), true, at(9)), Hearing::Late);
    assert_eq!(roll.sweep(at(11).0).len(), 1);
}

const fn presence(epoch: u64, incarnation: u64, sequence: u64, present: bool) -> Presence {
    Presence {
        epoch: Epoch(epoch),
        agent_incarnation: AgentIncarnation(incarnation),
        sequence,
        present,
        since: Timestamp(0),
    }
}

#[test]
fn an_agent_that_was_elsewhere_in_between_arrives_again() {
    let mut roll = Roll::new(GRACE);
    roll.hear("a", word(1, 1), false, at(0));
    assert_eq!(roll.hear("a", word(1, 2), true, at(1)), Hearing::Known);
    assert!(matches!(
        roll.hear("a", word(1, 9), false, at(2)),
        Hearing::Arrived(_)
    ));
}

#[test]
fn an_arrival_replaces_what_is_older_and_a_silence_what_is_its_own() {
    let change = |sequence, present| RollChange {
        node: "a".to_owned(),
        last: word(2, sequence),
        present,
    };
    let (own, other) = (Epoch(7), 9);
    for (known, change, may) in [
        (None, change(1, true), true),
        (Some(presence(other, 2, 4, true)), change(5, true), true),
        (Some(presence(other, 2, 6, true)), change(5, true), false),
        (Some(presence(other, 3, 1, true)), change(5, true), false),
        (Some(presence(other, 1, 99, true)), change(5, true), true),
        (Some(presence(7, 2, 6, false)), change(6, true), true),
        (Some(presence(7, 2, 1, true)), change(5, false), true),
        (Some(presence(other, 2, 4, true)), change(5, false), false),
        (Some(presence(7, 3, 1, true)), change(5, false), false),
    ] {
        assert_eq!(
            may_replace(known.as_ref(), &change, own),
            may,
            "{known:?} {change:?}"
        );
    }
}

#[test]
fn an_agent_whose_replica_is_gone_gets_one_full_grace() {
    let mut orphans = Orphans::new(GRACE);
    let (dead, alive, newer) = (
        presence(3, 1, 1, true),
        presence(5, 1, 1, true),
        presence(9, 1, 1, true),
    );
    let silent = presence(3, 1, 1, false);
    let there = [
        ("dead", &dead, Revision(10)),
        ("alive", &alive, Revision(11)),
        ("newer", &newer, Revision(12)),
        ("silent", &silent, Revision(13)),
    ];
    let living = Living {
        epochs: vec![Epoch(4), Epoch(5)],
        newest: Epoch(8),
    };
    // The newest of all sessions may be the one that has ended.
    assert!(living.has_ended(Epoch(8)) && !living.has_ended(Epoch(9)));
    orphans.adopt(there.into_iter(), &living, at(100).0);
    // To be seen again does not begin anew.
    orphans.adopt(there.into_iter(), &living, at(105).0);
    assert_eq!(orphans.silent(at(110).0, 9), []);
    for _ in 0..2 {
        let due = orphans.silent(at(111).0, 9);
        assert_eq!(due, [("dead".to_owned(), Revision(10))], "until it is done");
    }
    assert_eq!(orphans.silent(at(111).0, 0), []);
    orphans.done("dead");
    assert_eq!(orphans.silent(at(200).0, 9), []);
}

#[test]
fn a_change_that_could_not_be_written_comes_up_again() {
    let mut roll = Roll::new(GRACE);
    roll.hear("a", word(1, 1), true, at(0));
    let silent = roll.sweep(at(20).0);
    roll.unwritten(&silent[0]);
    assert_eq!(roll.sweep(at(21).0), silent);
}

#[test]
fn a_sweep_that_found_nobody_misses_nobody_later() {
    let mut roll = Roll::new(GRACE);
    roll.hear("a", word(1, 1), true, at(0));
    roll.hear("b", word(1, 1), true, at(5));
    assert_eq!(roll.sweep(at(10).0), []);
    roll.hear("a", word(1, 2), true, at(10));
    assert_eq!(roll.sweep(at(11).0), []);
    roll.hear("c", word(1, 1), true, at(12));
    let silent = |roll: &mut Roll, second| -> Vec<String> {
        let silent = roll.sweep(at(second).0);
        silent.into_iter().map(|change| change.node).collect()
    };
    assert_eq!(silent(&mut roll, 16), ["b"]);
    assert_eq!(silent(&mut roll, 21), ["a"]);
    assert_eq!(silent(&mut roll, 22), [""; 0]);
    assert_eq!(silent(&mut roll, 23), ["c"]);
}
