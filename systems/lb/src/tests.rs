use std::collections::BTreeMap;

use cpl_core::clock::Timestamp;
use cpl_core::delivery::System;
use cpl_core::error::FieldError;
use cpl_core::ids::{IdGen, ObjectRef};
use cpl_core::spec::{Author, Draft, Kinds, Objects, View, evaluate, manifest};
use cpl_core::version::ConfigVersion;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::kinds::{NodeKind, TargetGroupKind, drained, retried};
use crate::plan::{Fleet, NODE, TARGET_GROUP, read};
use crate::spec::{Algorithm, EndpointStatus};

#[derive(Debug)]
struct Ids;

impl IdGen for Ids {
    fn fresh(&self) -> u128 {
        7
    }
}

fn kinds() -> Kinds {
    Kinds::new(vec![
        std::sync::Arc::new(TargetGroupKind),
        std::sync::Arc::new(NodeKind),
    ])
}

fn targetgroup(name: &str, port: u16, weight: u16) -> Value {
    let endpoints = json!([{"id": "b", "ip": "10.0.0.2", "port": 1, "weight": weight},
                           {"ip": "10.0.0.1", "port": 1}]);
    json!({"kind": TARGET_GROUP, "metadata": {"name": name},
           "spec": {"protocol": "tcp", "port": port}, "endpoints": endpoints})
}

fn node(name: &str, assigned: &[&str]) -> Value {
    json!({"kind": NODE, "metadata": {"name": name},
           "spec": {"assigned_targetgroups": assigned, "listen_addresses": ["127.0.0.11"]}})
}

fn apply(objects: &mut Objects, manifests: &[Value]) -> Result<(), Vec<FieldError>> {
    let version = ConfigVersion(u64::try_from(objects.len()).unwrap() + 1);
    let drafts = manifests
        .iter()
        .map(|value| manifest(&kinds(), value, "").map(Draft::put))
        .collect::<Result<Vec<_>, _>>()?;
    let nothing = BTreeMap::new();
    let author = Author {
        actor: "ann",
        at: Timestamp(0),
        ids: &Ids,
    };
    let view = View::new(objects, &nothing);
    let changes = evaluate(&kinds(), &view, &drafts, version, &author)
        .map_err(|error| error.fields().to_vec())?;
    for change in changes {
        let object = change.after.unwrap();
        objects.insert((object.kind, object.name.clone()), object);
    }
    Ok(())
}

fn world(manifests: &[Value]) -> Objects {
    let mut objects = Objects::new();
    apply(&mut objects, manifests).unwrap();
    objects
}

fn digest(objects: &Objects, name: &str) -> String {
    let nothing = BTreeMap::new();
    let object = &objects[&(NODE, name.to_owned())];
    let rendered = Fleet::default()
        .render(object, &View::new(objects, &nothing))
        .unwrap();
    rendered.configuration.digest()
}

#[test]
fn a_stored_spec_has_the_fields_of_the_document() {
    let objects = world(&[targetgroup("web", 80, 1), node("node-1", &["web"])]);
    let spec = objects[&(TARGET_GROUP, "web".to_owned())].part("spec");
    assert_eq!(
        (&spec["version"], &spec["last_modified_by"]),
        (&json!(1), &json!("ann"))
    );
    assert_eq!(spec["last_modified_at"], "1970-01-01T00:00:00Z");
    assert_eq!(spec["health_check"]["interval"], "5s");
    let node = objects[&(NODE, "node-1".to_owned())].part("spec");
    assert_eq!(node["desired_config_version"], 0);
}

#[test]
fn endpoints_without_id_get_one_that_stays() {
    let objects = world(&[targetgroup("web", 80, 1)]);
    let endpoints = crate::plan::endpoints(&objects[&(TARGET_GROUP, "web".to_owned())]);
    let ids: Vec<&str> = endpoints.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(ids, ["b", "ep-10-0-0-1-1"]);
    assert_eq!(endpoints[1].status, EndpointStatus::Up);
}

#[test]
fn only_nodes_that_serve_a_target_group_are_affected_by_it() {
    let objects = world(&[
        targetgroup("web", 80, 1),
        node("node-1", &["web"]),
        node("node-2", &[]),
    ]);
    let nothing = BTreeMap::new();
    let view = View::new(&objects, &nothing);
    let changed = |kind: &str, name: &str| {
        Fleet::default().affected(
            &ObjectRef {
                kind: kind.to_owned(),
                name: name.to_owned(),
            },
            &view,
        )
    };
    assert_eq!(changed(TARGET_GROUP, "web"), ["node-1"]);
    assert_eq!(changed(NODE, "node-2"), ["node-2"]);
}

#[test]
fn a_node_runs_what_it_is_assigned_and_nothing_else() {
    let mut objects = world(&[
        targetgroup("web", 80, 1),
        targetgroup("api", 81, 1),
        node("node-1", &["web"]),
    ]);
    let before = digest(&objects, "node-1");
    apply(&mut objects, &[targetgroup("api", 82, 1)]).unwrap();
    assert_eq!(digest(&objects, "node-1"), before);
    apply(&mut objects, &[targetgroup("web", 80, 2)]).unwrap();
    assert_ne!(digest(&objects, "node-1"), before);
}

#[test]
fn drain_and_retry_change_what_a_node_runs() {
    let objects = world(&[node("node-1", &[])]);
    let object = &objects[&(NODE, "node-1".to_owned())];
    assert_eq!(drained(object, true)["spec"]["drained"], true);
    assert_eq!(retried(object)["attempt"], 1);
}

#[test]
fn two_target_groups_of_a_node_never_share_a_port() {
    let mut objects = world(&[targetgroup("web", 80, 1), targetgroup("api", 81, 1)]);
    apply(&mut objects, &[node("node-1", &["web", "api"])]).unwrap();
    let errors = apply(&mut objects, &[targetgroup("api", 80, 1)]).unwrap_err();
    assert_eq!(
        (errors[0].pointer.as_str(), errors[0].code.as_str()),
        ("/manifests/0/spec/port", "PORT_CONFLICT")
    );
}

#[test]
fn marks_of_an_announcement_are_in_order() {
    let announcing = |marks: Value| {
        let mut manifest = node("n", &[]);
        manifest["spec"]["bgp"] =
            json!({"local_asn": 65_001, "advertised_prefixes": ["192.0.2.1/32"]});
        let bgp = manifest["spec"]["bgp"].as_object_mut().unwrap();
        bgp.extend(marks.as_object().unwrap().clone());
        let mut objects = world(&[]);
        apply(&mut objects, &[manifest]).map(|()| objects)
    };
    let marks = |of: Value| {
        let objects = announcing(of).unwrap();
        let node = objects.values().next().unwrap();
        let bgp = crate::plan::node_spec(node).unwrap().bgp.unwrap();
        (bgp.low_mark_percent, bgp.high_mark_percent)
    };
    assert_eq!(marks(json!({})), (1, 1));
    assert_eq!(marks(json!({"low_mark_percent": 40})), (40, 40));
    assert_eq!(marks(json!({"high_mark_percent": 70})), (1, 70));
    assert_eq!(
        marks(json!({"low_mark_percent": 0, "high_mark_percent": 0})),
        (0, 0)
    );
    let wrong = announcing(json!({"low_mark_percent": 50, "high_mark_percent": 40})).unwrap_err();
    assert_eq!(wrong.len(), 1);
    assert_eq!(
        (&*wrong[0].pointer, &*wrong[0].code),
        ("/spec/bgp/high_mark_percent", "FIELD_OUT_OF_RANGE")
    );
}

#[test]
fn a_report_reads_back_in_both_forms() {
    use crate::observed::{Announcement, AnnouncementState, NodeHealth};
    let announcement = Announcement {
        state: AnnouncementState::Withdrawn,
        reason: Some("Announce.BelowLowMark".to_owned()),
        prefixes: Vec::new(),
        established: vec!["10.0.0.1".to_owned()],
        loopback: None,
    };
    for announcement in [None, Some(announcement)] {
        let health = NodeHealth {
            endpoints: Vec::new(),
            announcement,
        };
        let written = health.clone().write().unwrap();
        assert_eq!(
            written.is_array(),
            health.announcement.is_none(),
            "as older servers read it"
        );
        assert_eq!(NodeHealth::read(&written), Some(health));
    }
    assert_eq!(NodeHealth::read(&json!({"other": 1})), None);
}

#[test]
fn fields_of_an_http_check_need_an_http_check() {
    let mut wrong = targetgroup("web", 80, 1);
    wrong["spec"]["health_check"] = json!({"path": "/x"});
    let errors = apply(&mut Objects::new(), &[wrong]).unwrap_err();
    assert_eq!(errors[0].pointer, "/spec/health_check/path");
    let mut right = targetgroup("web", 80, 1);
    right["spec"]["health_check"] =
        json!({"kind": "http", "path": "/x", "expect_status": "200,301-308"});
    apply(&mut Objects::new(), &[right]).unwrap();
}

proptest! {
    /// What a server renders an agent understands, and rendering is a function of content alone.
    #[test]
    fn a_rendered_configuration_reads_back(
        port in 1..=u16::MAX,
        weight in 0..=256_u16,
        algorithm in prop::sample::select(vec!["roundrobin", "leastconn", "source"]),
    ) {
        let mut web = targetgroup("web", port, weight);
        web["spec"]["algorithm"] = json!(algorithm);
        let objects = world(&[web.clone(), node("node-1", &["web"])]);
        let nothing = BTreeMap::new();
        let object = &objects[&(NODE, "node-1".to_owned())];
        let rendered = Fleet::default().render(object, &View::new(&objects, &nothing)).unwrap();
        let config = read(&rendered.configuration).unwrap();
        let body = &config.targetgroups[0].body;
        prop_assert_eq!(body.spec.port, port);
        prop_assert_eq!(body.endpoints[0].weight, weight);
        prop_assert_eq!(body.spec.algorithm == Algorithm::Source, algorithm == "source");
        let again = world(&[node("node-2", &[]), web, node("node-1", &["web"])]);
        prop_assert_eq!(digest(&again, "node-1"), rendered.configuration.digest());
    }
}
