//! Who is heard: a roll of deadlines on one monotonic clock. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::model::{Heard, Presence};
use crate::clock::{Monotonic, Timestamp};
use crate::lease::Living;
use crate::store::Revision;
use crate::version::Epoch;

const NEVER: Monotonic = Monotonic(Duration::MAX);

/// What one replica knows of the agents that speak to it.
#[derive(Clone, Debug)]
pub struct Roll {
    grace: Duration,
    agents: BTreeMap<String, Agent>,
    /// Nobody falls silent up to here, so that a sweep need not look at ten thousand agents.
    nobody_until: Monotonic,
}

#[derive(Clone, Debug)]
struct Agent {
    last: Heard,
    heard: Monotonic,
    wall: Timestamp,
    present: bool,
}

/// A change that must be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollChange {
    /// The node.
    pub node: String,
    /// The agent's last word.
    pub last: Heard,
    /// It is heard now, or no longer.
    pub present: bool,
}

/// What a word of an agent means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// It is no newer than the last one: a late duplicate, which keeps nobody alive.
    Late,
    /// The agent is heard as before.
    Known,
    /// The agent had not been heard.
    Arrived(RollChange),
}

impl Roll {
    /// An empty roll; an agent is silent once nothing was heard for `grace`.
    pub const fn new(grace: Duration) -> Self {
        Self {
            grace,
            agents: BTreeMap::new(),
            nobody_until: NEVER,
        }
    }

    fn put(&mut self, node: &str, agent: Agent) {
        self.nobody_until = self.nobody_until.min(agent.heard.plus(self.grace));
        self.agents.insert(node.to_owned(), agent);
    }

    /// Notes a word of an agent; `here` says that its presence names this replica.
    pub fn hear(
        &mut self,
        node: &str,
        word: Heard,
        here: bool,
        (now, wall): (Monotonic, Timestamp),
    ) -> Hearing {
        let known = self.agents.get(node);
        if known.is_some_and(|agent| word <= agent.last) {
            return Hearing::Late;
        }
        let arrived = known.is_none_or(|agent| {
            !agent.present || !here || agent.last.incarnation != word.incarnation
        });
        let agent = Agent {
            last: word,
            heard: now,
            wall,
            present: true,
        };
        self.put(node, agent);
        if arrived {
            Hearing::Arrived(RollChange {
                node: node.to_owned(),
                last: word,
                present: true,
            })
        } else {
            Hearing::Known
        }
    }

    /// The agents that have fallen silent since the last sweep.
    pub fn sweep(&mut self, now: Monotonic) -> Vec<RollChange> {
        if now <= self.nobody_until {
            return Vec::new();
        }
        let (mut silent, mut nobody_until) = (Vec::new(), NEVER);
        let present = self.agents.iter_mut().filter(|(_, agent)| agent.present);
        for (node, agent) in present {
            let end = agent.heard.plus(self.grace);
            if now <= end {
                nobody_until = nobody_until.min(end);
                continue;
            }
            agent.present = false;
            silent.push(RollChange {
                node: node.clone(),
                last: agent.last,
                present: false,
            });
        }
        self.nobody_until = nobody_until;
        silent
    }

    /// A change could not be written: it must come up again.
    pub fn unwritten(&mut self, change: &RollChange) {
        if let Some(agent) = self.agents.get_mut(&change.node) {
            agent.present = !change.present;
            self.nobody_until = self.nobody_until.min(agent.heard.plus(self.grace));
        }
    }

    /// When an agent was last heard by this replica, and whether it is.
    pub fn last_heard(&self, node: &str) -> Option<(Timestamp, bool)> {
        let agent = self.agents.get(node)?;
        Some((agent.wall, agent.present))
    }

    /// Forgets a node that was removed, or speaks to another replica.
    pub fn forget(&mut self, node: &str) {
        self.agents.remove(node);
    }
}

/// Whether a change may be written over what is stored, by the replica whose session has this epoch: an arrival over
/// every older word, whoever heard it; a silence only over what this replica has written itself.
pub(super) fn may_replace(known: Option<&Presence>, change: &RollChange, own: Epoch) -> bool {
    let Some(known) = known else { return true };
    if change.present {
        let theirs = (known.agent_incarnation, known.sequence);
        return theirs < (change.last.incarnation, change.last.sequence) || known.epoch == own;
    }
    known.epoch == own && known.agent_incarnation == change.last.incarnation
}

/// Agents whose replica is gone: each has one full grace to be heard by another.
#[derive(Clone, Debug)]
pub struct Orphans {
    grace: Duration,
    since: BTreeMap<String, (Revision, Monotonic)>,
}

impl Orphans {
    /// Nobody yet.
    pub const fn new(grace: Duration) -> Self {
        Self {
            grace,
            since: BTreeMap::new(),
        }
    }

    /// Takes those whose presence names a session that has ended, and whose presence is not noted yet.
    pub fn adopt<'a>(
        &mut self,
        presences: impl Iterator<Item = (&'a str, &'a Presence, Revision)>,
        living: &Living,
        now: Monotonic,
    ) {
        for (node, presence, revision) in presences {
            let noted = self.since.get(node).is_some_and(|(at, _)| *at == revision);
            if presence.present && living.has_ended(presence.epoch) && !noted {
                self.since.insert(node.to_owned(), (revision, now));
            }
        }
    }

    /// Some of those whose grace is over, with the revision of the presence that is not true any more. They come up
    /// again until they are [done](Self::done).
    pub fn silent(&self, now: Monotonic, most: usize) -> Vec<(String, Revision)> {
        let over = |since: &Monotonic| now.since(*since) > self.grace;
        self.since
            .iter()
            .filter(|(_, (_, since))| over(since))
            .map(|(node, (revision, _))| (node.clone(), *revision))
            .take(most)
            .collect()
    }

    /// Forgets an agent that was written down, or has been heard.
    pub fn done(&mut self, node: &str) {
        self.since.remove(node);
    }
}
