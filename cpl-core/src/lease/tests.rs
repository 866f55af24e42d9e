use std::time::Duration;

use super::model::{Owner, SeenSession};
use super::rules::Sessions;
use crate::clock::{Monotonic, Timestamp};
use crate::ids::ReplicaId;
use crate::store::Revision;
use crate::txn::Guard;
use crate::version::Epoch;

const TTL: Duration = Duration::from_secs(10);
const SKEW: Duration = Duration::from_secs(2);

/// A look that took no time.
const fn at(seconds: u64) -> (Monotonic, Monotonic) {
    let at = Monotonic(Duration::from_secs(seconds));
    (at, at)
}

const fn session(replica: u128, renewed: u64) -> SeenSession {
    SeenSession {
        owner: Owner {
            holder: ReplicaId(replica),
            epoch: Epoch(1),
            since: Timestamp(0),
        },
        session: Guard::at(Revision(1)),
        renewal: Guard::at(Revision(renewed)),
        lasts: TTL,
    }
}

#[test]
fn a_session_lapses_when_it_was_seen_unchanged_for_long_enough() {
    let mut sessions = Sessions::default();
    assert_eq!(sessions.look(&[session(1, 5)], at(100), SKEW), []);
    assert_eq!(sessions.look(&[session(1, 5)], at(111), SKEW), []);
    let lapsed = sessions.look(&[session(1, 5)], at(112), SKEW);
    assert_eq!(lapsed, [session(1, 5)]);
}

#[test]
fn a_renewal_and_a_return_begin_anew() {
    let mut sessions = Sessions::default();
    sessions.look(&[session(1, 5), session(2, 6)], at(0), SKEW);
    let lapsed = sessions.look(&[session(1, 7), session(2, 6)], at(12), SKEW);
    assert_eq!(lapsed, [session(2, 6)]);
    assert_eq!(sessions.look(&[session(1, 7)], at(23), SKEW), []);
    // One that was away is seen for the first time again.
    let both = [session(1, 8), session(2, 6)];
    assert_eq!(sessions.look(&both, at(24), SKEW), []);
    assert_eq!(sessions.look(&both, at(36), SKEW).len(), 2);
}

#[test]
fn the_time_that_a_look_takes_lapses_nobody_early() {
    let mut sessions = Sessions::default();
    let slow = (at(0).0, at(5).0);
    assert_eq!(sessions.look(&[session(1, 5)], slow, SKEW), []);
    assert_eq!(
        sessions.look(&[session(1, 5)], (at(16).0, at(20).0), SKEW),
        []
    );
    assert_eq!(sessions.look(&[session(1, 5)], at(17), SKEW).len(), 1);
}
