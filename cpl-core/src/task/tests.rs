use std::time::Duration;

use super::rules::Wanted;
use super::*;
use crate::clock::Timestamp;
use crate::version::{AgentIncarnation, ConfigVersion};

const NOW: Timestamp = Timestamp(1_000_000);

fn wanted(desired: u64, current: u64) -> Wanted<'static> {
    Wanted {
        node: "node-1",
        desired: ConfigVersion(desired),
        current: ConfigVersion(current),
        change: "change-1",
        holder: Some(AgentIncarnation(1)),
    }
}

fn open(desired: u64) -> ConfigUpdate {
    let Step::Put(task) = step(None, &wanted(desired, 0), NOW) else {
        panic!("a node that is behind gets a task");
    };
    task
}

#[test]
fn a_node_that_is_behind_has_one_task_for_the_newest_version() {
    let task = open(5);
    assert_eq!(task.target_config_version, ConfigVersion(5));
    let Step::Put(raised) = step(Some(&task), &wanted(7, 0), NOW.plus(Duration::from_secs(1)))
    else {
        panic!("the task is raised in place");
    };
    assert_eq!(raised.target_config_version, ConfigVersion(7));
    assert_eq!(raised.created_at, task.created_at);
}

#[test]
fn an_abandoned_task_returns_when_its_lease_ends() {
    let task = open(5);
    assert_eq!(
        step(Some(&task), &wanted(5, 0), NOW),
        Step::Keep(Some(LEASE))
    );
    let Step::Put(again) = step(Some(&task), &wanted(5, 0), NOW.plus(LEASE)) else {
        panic!("the task returns");
    };
    assert_eq!(again.attempt, 2);
}

#[test]
fn a_task_vanishes_when_its_node_is_there() {
    assert_eq!(step(Some(&open(5)), &wanted(5, 5), NOW), Step::Remove);
    assert_eq!(step(None, &wanted(5, 5), NOW), Step::Keep(None));
}
