//! Who is heard: a roll of deadlines on one monotonic clock. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::model::Heard;
use crate::clock::{Monotonic, Timestamp};
use crate::version::AgentIncarnation;

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

    /// Takes over an agent from an earlier replica: it gets one full grace to be heard.
    pub fn adopt(&mut self, node: &str, incarnation: AgentIncarnation, now: Monotonic) {
        let last = Heard {
            incarnation,
            sequence: 0,
        };
        let agent = Agent {
            last,
            heard: now,
            wall: Timestamp(0),
            present: true,
        };
        self.put(node, agent);
    }

    /// Notes a word of an agent.
    pub fn hear(
        &mut self,
        node: &str,
        word: Heard,
        (now, wall): (Monotonic, Timestamp),
    ) -> Hearing {
        let known = self.agents.get(node);
        if known.is_some_and(|agent| word <= agent.last) {
            return Hearing::Late;
        }
        let arrived = known.is_none_or(|agent| {
            !agent.present || agent.last.incarnation != word.incarnation || agent.last.sequence == 0
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
        (agent.wall != Timestamp(0)).then_some((agent.wall, agent.present))
    }

    /// Forgets a node that was removed.
    pub fn forget(&mut self, node: &str) {
        self.agents.remove(node);
    }
}
