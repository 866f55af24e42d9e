use std::time::Duration;

use super::*;
use crate::clock::Monotonic;

const fn at(millis: u64) -> Monotonic {
    Monotonic(Duration::from_millis(millis))
}

#[test]
fn a_key_is_queued_once_however_often_it_is_added() {
    let mut queue = WorkQueue::default();
    for millis in 0..5 {
        queue.add("a", at(millis));
    }
    assert_eq!(queue.take(9, at(5)), ["a"]);
    assert_eq!(queue.take(9, at(5)), Vec::<&str>::new());
}

#[test]
fn a_change_during_work_is_looked_at_afterwards() {
    let mut queue = WorkQueue::default();
    queue.add("a", at(0));
    queue.take(9, at(0));
    queue.add("a", at(1));
    assert_eq!(queue.take(9, at(1)), Vec::<&str>::new());
    queue.finish(&"a", &Outcome::Done(None), at(2), 0);
    assert_eq!(queue.take(9, at(2)), ["a"]);
}

#[test]
fn an_event_cannot_shorten_the_wait_after_a_failure() {
    let mut queue = WorkQueue::default();
    queue.add("a", at(0));
    queue.take(9, at(0));
    queue.finish(&"a", &Outcome::Retry("no".to_owned()), at(0), 0);
    queue.add("a", at(1));
    assert_eq!(queue.take(9, at(199)), Vec::<&str>::new());
    assert_eq!(queue.take(9, at(200)), ["a"]);
    queue.finish(&"a", &Outcome::Retry("no".to_owned()), at(200), 0);
    assert_eq!(queue.next_due(), Some(at(600)));
}

#[test]
fn waits_are_bounded() {
    let mut queue = WorkQueue::default();
    let mut now = at(0);
    queue.add("a", now);
    for _ in 0..40 {
        queue.take(9, now);
        queue.finish(&"a", &Outcome::Retry("no".to_owned()), now, 1_000);
        let due = queue.next_due().unwrap();
        assert!(due.since(now) <= Duration::from_secs(90), "{due:?}");
        now = due;
    }
}

#[test]
fn a_key_with_nothing_left_to_do_costs_nothing() {
    let mut queue = WorkQueue::default();
    queue.add("a", at(0));
    queue.take(9, at(0));
    queue.finish(&"a", &Outcome::Done(None), at(0), 0);
    assert_eq!(queue.next_due(), None);
    queue.add("a", at(1));
    queue.take(9, at(1));
    queue.finish(&"a", &Outcome::Done(Some(Duration::from_secs(1))), at(1), 0);
    assert_eq!(queue.next_due(), Some(at(1_001)));
}
