//! Whose session has lapsed: by one monotonic clock, from when a change was last seen. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::model::SeenSession;
use crate::clock::Monotonic;
use crate::ids::ReplicaId;

/// The sessions of all processes, as one of them sees them.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    seen: BTreeMap<ReplicaId, (SeenSession, Monotonic)>,
}

impl Sessions {
    /// Takes what is there, read between two moments, and returns which of it was not renewed for as long as it lasts
    /// and `skew`. What is seen for the first time counts as renewed at the later one.
    pub fn look(
        &mut self,
        there: &[SeenSession],
        (asked, answered): (Monotonic, Monotonic),
        skew: Duration,
    ) -> Vec<SeenSession> {
        let before = std::mem::take(&mut self.seen);
        let mut lapsed = Vec::new();
        for session in there {
            let holder = session.owner.holder;
            let since = match before.get(&holder) {
                Some((known, since)) if known == session => *since,
                Some(_) | None => answered,
            };
            if asked.since(since) >= session.lasts.saturating_add(skew) {
                lapsed.push(session.clone());
            }
            self.seen.insert(holder, (session.clone(), since));
        }
        lapsed
    }
}
