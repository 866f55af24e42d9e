use std::time::Duration;

use super::*;
use crate::clock::{Monotonic, Timestamp};
use crate::version::AgentIncarnation;

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
        roll.hear("a", word(1, 1), at(0)),
        Hearing::Arrived(_)
    ));
    assert_eq!(roll.hear("a", word(1, 2), at(5)), Hearing::Known);
    assert_eq!(roll.sweep(at(15).0), []);
    let silent = roll.sweep(at(16).0);
    assert_eq!(silent.len(), 1);
    assert!(!silent[0].present);
    assert_eq!(roll.sweep(at(60).0), []);
    assert!(matches!(
        roll.hear("a", word(1, 3), at(61)),
        Hearing::Arrived(_)
    ));
}

#[test]
fn a_late_duplicate_keeps_nobody_alive() {
    let mut roll = Roll::new(GRACE);
    roll.hear("a", word(2, 5), at(0));
    assert_eq!(roll.hear("a", word(2, 5), at(9)), Hearing::Late);
    assert_eq!(roll.hear("a", word(1, 99), at(9)), Hearing::Late);
    assert_eq!(roll.sweep(at(11).0).len(), 1);
}

#[test]
fn an_adopted_agent_gets_one_full_grace() {
    let mut roll = Roll::new(GRACE);
    roll.adopt("a", AgentIncarnation(3), at(100).0);
    assert_eq!(roll.sweep(at(110).0), []);
    assert!(matches!(
        roll.hear("a", word(3, 7), at(110)),
        Hearing::Arrived(_)
    ));
    roll.adopt("b", AgentIncarnation(3), at(100).0);
    assert_eq!(roll.sweep(at(111).0).len(), 1);
}

#[test]
fn a_change_that_could_not_be_written_comes_up_again() {
    let mut roll = Roll::new(GRACE);
    roll.hear("a", word(1, 1), at(0));
    let silent = roll.sweep(at(20).0);
    roll.unwritten(&silent[0]);
    assert_eq!(roll.sweep(at(21).0), silent);
}

#[test]
fn a_sweep_that_found_nobody_misses_nobody_later() {
    let mut roll = Roll::new(GRACE);
    roll.hear("a", word(1, 1), at(0));
    roll.hear("b", word(1, 1), at(5));
    assert_eq!(roll.sweep(at(10).0), []);
    roll.hear("a", word(1, 2), at(10));
    assert_eq!(roll.sweep(at(11).0), []);
    roll.hear("c", word(1, 1), at(12));
    let silent = |roll: &mut Roll, second| -> Vec<String> {
        let silent = roll.sweep(at(second).0);
        silent.into_iter().map(|change| change.node).collect()
    };
    assert_eq!(silent(&mut roll, 16), ["b"]);
    assert_eq!(silent(&mut roll, 21), ["a"]);
    assert_eq!(silent(&mut roll, 22), [""; 0]);
    assert_eq!(silent(&mut roll, 23), ["c"]);
}
