use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::clock::Timestamp;
use crate::ids::Uid;
use crate::store::Incarnation;
use crate::task;
use crate::version::{AgentIncarnation, ConfigVersion, Generation};

const NOW: Timestamp = Timestamp(1_000_000);

fn facts(received: u64, digest: &str, accepted: u64) -> Facts {
    Facts {
        incarnation: Some(Incarnation(1)),
        received: Some(ConfigVersion(received)),
        received_digest: Some(digest.to_owned()),
        accepted: Some(ConfigVersion(accepted)),
        ..Facts::default()
    }
}

fn now(head: u64, desired: u64) -> Advance<'static> {
    Advance {
        incarnation: Incarnation(1),
        head: ConfigVersion(head),
        digest: "new",
        desired: ConfigVersion(desired),
    }
}

fn report(incarnation: u64, sequence: u64, accepted: u64) -> Report {
    Report {
        sent: Vec::new(),
        node: "node-1".to_owned(),
        agent_incarnation: AgentIncarnation(incarnation),
        sequence,
        at: NOW,
        facts: facts(accepted, "new", accepted),
    }
}

fn hold(generation: u64) -> Hold {
    Hold {
        object: ObjectRef {
            kind: "TargetGroup".to_owned(),
            name: "web".to_owned(),
        },
        generation: Generation(generation),
        running: None,
        stage: Stage::Check,
        code: "CONFIG_INVALID".to_owned(),
        field: None,
        message: "no".to_owned(),
    }
}

fn configuration(attempt: u64, generation: u64, body: u64) -> Configuration {
    let object = ObjectRef {
        kind: "TargetGroup".to_owned(),
        name: "web".to_owned(),
    };
    let generation = Generation(generation);
    let object = ConfigObject {
        object,
        uid: Uid(1),
        generation,
        body: json!({"b": body, "a": 1}).into(),
    };
    let (system, node) = ("lb".to_owned(), json!({}));
    Configuration {
        system,
        schema: 1,
        attempt,
        node,
        objects: vec![object],
    }
}

#[test]
fn other_content_is_delivered_and_the_same_is_not() {
    assert_eq!(
        decide(&Facts::default(), &now(5, 5)),
        Answered::Configuration
    );
    assert_eq!(
        decide(&facts(5, "old", 5), &now(9, 9)),
        Answered::Configuration
    );
    assert_eq!(decide(&facts(5, "new", 5), &now(9, 5)), Answered::Nothing);
}

#[test]
fn a_node_that_is_behind_only_in_number_is_told_the_number() {
    assert_eq!(decide(&facts(5, "new", 5), &now(9, 7)), Answered::Advance);
    assert_eq!(decide(&facts(9, "new", 5), &now(9, 9)), Answered::Nothing);
}

#[test]
fn versions_of_another_life_of_the_store_mean_nothing() {
    let mut older = facts(50, "new", 50);
    older.incarnation = Some(Incarnation(0));
    assert_eq!(decide(&older, &now(9, 9)), Answered::Configuration);
}

#[test]
fn what_was_accepted_never_goes_back_within_one_life_of_an_agent() {
    assert!(advance(None, &report(1, 1, 0)));
    assert!(advance(Some(&report(1, 1, 5)), &report(1, 2, 5)));
    assert!(!advance(Some(&report(1, 1, 5)), &report(1, 2, 4)));
    assert!(advance(Some(&report(1, 1, 5)), &report(2, 1, 0)));
}

#[test]
fn the_digest_counts_content_and_attempts_and_not_generations() {
    let digest = |attempt, generation, body| configuration(attempt, generation, body).digest();
    assert_eq!(digest(0, 1, 7), digest(0, 2, 7));
    assert_ne!(digest(0, 1, 7), digest(0, 1, 8));
    assert_ne!(digest(0, 1, 7), digest(1, 1, 7));
}

#[test]
fn members_of_objects_print_in_order_of_their_names() {
    // The digest depends on it, and a feature of `serde_json` that any crate can switch on changes it.
    assert_eq!(json!({"b": 1, "a": 2}).to_string(), r#"{"a":2,"b":1}"#);
}

#[test]
fn a_log_tells_what_was_held_and_released_once() {
    let mut first = report(1, 1, 4);
    first.facts.holds = vec![hold(2)];
    let held = Fact::Report(first);
    let released = Fact::Report(report(1, 2, 5));
    let folded = fold(None, &[], None, &[&held, &held, &released]);
    let events: Vec<String> = folded
        .log
        .unwrap()
        .into_iter()
        .map(|line| line.event)
        .collect();
    assert_eq!(events, ["held", "accepted", "released", "accepted"]);
    assert_eq!(
        folded.status.unwrap().current_config_version,
        ConfigVersion(5)
    );
}

#[test]
fn a_silent_node_is_silent_whatever_it_had_reached() {
    let folded = fold(None, &[], None, &[&Fact::Report(report(1, 1, 9))]);
    let status = folded.status.unwrap();
    let stands = |desired, alive| standing(ConfigVersion(desired), Some(&status), true, alive);
    assert_eq!(stands(9, true), Standing::Converged);
    assert_eq!(stands(10, true), Standing::Pending);
    assert_eq!(stands(9, false), Standing::Silent);
    assert_eq!(
        standing(ConfigVersion(1), None, false, false),
        Standing::NeverSeen
    );
}

fn rendered(version: u64, body: u64) -> Rendered {
    let newest = Input {
        version: ConfigVersion(version),
        change: format!("change-{version}"),
    };
    Rendered {
        configuration: configuration(0, 1, body),
        newest,
    }
}

fn plan(record: Option<&RenderedRecord>, rendered: &Rendered) -> NodePlan {
    let (task, status, agent) = (None, None, None);
    plan_node(
        &NodeFacts {
            node: "node-1",
            rendered,
            record,
            task,
            status,
            agent,
        },
        NOW,
    )
}

#[test]
fn what_a_node_must_reach_moves_only_with_what_it_must_run() {
    let first = plan(None, &rendered(3, 7)).record.unwrap();
    assert_eq!(first.config_version, ConfigVersion(3));
    assert_eq!(plan(Some(&first), &rendered(9, 7)).record, None);
    let second = plan(Some(&first), &rendered(9, 8)).record.unwrap();
    assert_eq!(
        (second.config_version, second.change.as_str()),
        (ConfigVersion(9), "change-9")
    );
}

#[test]
fn what_a_node_must_reach_never_goes_back() {
    let first = plan(None, &rendered(9, 7)).record.unwrap();
    let second = plan(Some(&first), &rendered(4, 8)).record.unwrap();
    assert_eq!(second.config_version, ConfigVersion(9));
}

#[test]
fn a_node_that_is_behind_gets_a_task() {
    let task::Step::Put(update) = plan(None, &rendered(3, 7)).task else {
        panic!("a node that is behind gets a task");
    };
    assert_eq!(update.target_config_version, ConfigVersion(3));
    assert_eq!(update.related_change_id, "change-3");
}

proptest! {
    /// Reports may arrive in any order and more than once: the greatest counts.
    #[test]
    fn folding_does_not_depend_on_the_order_of_reports(
        mut reports in prop::collection::vec((1..4_u64, 1..6_u64, 0..9_u64), 1..12),
        cut in 0..12_usize,
    ) {
        reports.sort_unstable();
        reports.dedup_by_key(|(incarnation, sequence, _)| (*incarnation, *sequence));
        let facts: Vec<Fact> =
            reports.iter().map(|(i, s, accepted)| Fact::Report(report(*i, *s, *accepted))).collect();
        let in_order: Vec<&Fact> = facts.iter().collect();
        let expected = fold(None, &[], None, &in_order).status;
        let cut = cut.min(facts.len());
        let mixed: Vec<&Fact> = facts[cut..].iter().chain(&facts[..cut]).chain(&facts).collect();
        let mixed = fold(None, &[], None, &mixed).status;
        prop_assert_eq!(&mixed, &expected);
        let again = fold(expected.as_ref(), &[], None, &in_order);
        prop_assert_eq!(again.status, None);
    }
}
