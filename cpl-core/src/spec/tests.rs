use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::fields::{Fields, integer};
use crate::ids::{IdGen, ObjectRef};
use crate::version::{ConfigVersion, Generation};

/// `spec: {size, likes}`, where `likes` names another thing.
#[derive(Debug)]
struct Thing;

impl Kind for Thing {
    fn name(&self) -> &'static str {
        "Thing"
    }

    fn collection(&self) -> &'static str {
        "things"
    }

    fn read(&self, fields: &mut Fields<'_>) -> Option<Parts> {
        let (size, likes) = fields.required_object("spec", |spec| {
            let size = spec.required("size", integer(1..=9));
            (size, spec.optional("likes", crate::fields::name))
        })?;
        Some(Parts::from([(
            "spec",
            json!({"size": size?, "likes": likes}),
        )]))
    }

    fn check(&self, object: &Object, view: &View<'_>) -> Vec<FieldError> {
        let likes = object.part("spec")["likes"].as_str();
        let missing = likes.filter(|name| view.get("Thing", name).is_none());
        missing
            .map(|_| FieldError::new("/spec/likes", "REFERENCE_UNKNOWN", ""))
            .into_iter()
            .collect()
    }

    fn referrers(&self, name: &str, view: &View<'_>) -> Vec<ObjectRef> {
        let users = view
            .of_kind("Thing")
            .filter(|thing| thing.part("spec")["likes"] == name);
        users.map(|thing| thing.reference()).collect()
    }

    fn detach(&self, referrer: &Object, _target: &ObjectRef) -> Parts {
        let mut parts = referrer.parts.clone();
        parts.insert(
            "spec",
            json!({"size": parts["spec"]["size"], "likes": null}),
        );
        parts
    }
}

#[derive(Debug)]
struct Ids;

impl IdGen for Ids {
    fn fresh(&self) -> u128 {
        7
    }
}

fn kinds() -> Kinds {
    Kinds::new(vec![std::sync::Arc::new(Thing)])
}

fn thing(name: &str, size: u64, likes: Option<&str>) -> Value {
    json!({"kind": "Thing", "metadata": {"name": name}, "spec": {"size": size, "likes": likes}})
}

/// The objects after manifests, each applied under the next version.
fn after(steps: &[Value]) -> Objects {
    let mut objects = Objects::new();
    for (index, step) in steps.iter().enumerate() {
        let version = ConfigVersion(u64::try_from(index).unwrap() + 1);
        for change in put(&objects, step, version).unwrap() {
            let object = change.after.unwrap();
            objects.insert((object.kind, object.name.clone()), object);
        }
    }
    objects
}

fn put(
    objects: &Objects,
    manifest: &Value,
    version: ConfigVersion,
) -> Result<Vec<ObjectChange>, crate::error::Error> {
    let read = super::manifest(&kinds(), manifest, "").map_err(crate::error::Error::invalid)?;
    run(objects, &[Draft::put(read)], version)
}

fn run(
    objects: &Objects,
    drafts: &[Draft],
    version: ConfigVersion,
) -> Result<Vec<ObjectChange>, crate::error::Error> {
    let nothing = BTreeMap::new();
    let author = Author {
        actor: "a",
        at: Timestamp(5),
        ids: &Ids,
    };
    evaluate(
        &kinds(),
        &View::new(objects, &nothing),
        drafts,
        version,
        &author,
    )
}

fn thing_ref(name: &str) -> ObjectRef {
    ObjectRef {
        kind: "Thing".to_owned(),
        name: name.to_owned(),
    }
}

#[test]
fn a_change_raises_the_generation_and_sameness_does_not() {
    let objects = after(&[thing("a", 1, None), thing("a", 2, None)]);
    let now = &objects[&("Thing", "a".to_owned())];
    assert_eq!(now.meta.generation, Generation(2));
    assert_eq!(now.meta.config_version, ConfigVersion(2));
    assert_eq!(
        put(&objects, &thing("a", 2, None), ConfigVersion(3)).unwrap(),
        []
    );
}

#[test]
fn labels_that_a_manifest_leaves_out_stay() {
    let mut first = thing("a", 1, None);
    first["metadata"]["labels"] = json!({"team": "x"});
    let objects = after(&[first, thing("a", 2, None)]);
    assert_eq!(objects[&("Thing", "a".to_owned())].meta.labels["team"], "x");
}

#[test]
fn another_etag_changes_nothing() {
    let objects = after(&[thing("a", 1, None)]);
    let read = manifest(&kinds(), &thing("a", 2, None), "").unwrap();
    let if_match = Some("stale".to_owned());
    let draft = Draft::Put {
        manifest: read,
        if_match,
        operation: None,
    };
    let error = run(&objects, &[draft], ConfigVersion(2)).unwrap_err();
    assert_eq!(error.reason(), "ETAG_MISMATCH");
}

#[test]
fn references_may_point_to_what_the_same_request_makes() {
    let objects = Objects::new();
    let values = [thing("a", 1, Some("b")), thing("b", 1, None)];
    let drafts: Vec<Draft> = read_manifests(&kinds(), &values, "/manifests")
        .unwrap()
        .into_iter()
        .map(Draft::put)
        .collect();
    assert_eq!(run(&objects, &drafts, ConfigVersion(1)).unwrap().len(), 2);
    let error = run(&objects, &drafts[..1], ConfigVersion(1)).unwrap_err();
    assert_eq!(error.fields()[0].pointer, "/manifests/0/spec/likes");
}

#[test]
fn what_is_in_use_goes_only_after_those_that_use_it_let_go() {
    let objects = after(&[thing("b", 1, None), thing("a", 1, Some("b"))]);
    let nothing = BTreeMap::new();
    let view = View::new(&objects, &nothing);
    let alone = delete(&kinds(), &view, &thing_ref("b"), None, false).unwrap();
    assert_eq!(
        run(&objects, &alone, ConfigVersion(3))
            .unwrap_err()
            .reason(),
        "OBJECT_IN_USE"
    );
    let all = delete(&kinds(), &view, &thing_ref("b"), None, true).unwrap();
    let changes = run(&objects, &all, ConfigVersion(3)).unwrap();
    let names: Vec<&str> = changes
        .iter()
        .map(|change| change.object().name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert!(changes[1].after.is_none());
}

#[test]
fn one_object_occurs_once_in_a_request() {
    let twice = [thing("a", 1, None), thing("a", 2, None)];
    let error = read_manifests(&kinds(), &twice, "/manifests").unwrap_err();
    assert_eq!(error.fields()[0].code, "OBJECT_DUPLICATE");
    let many: Vec<Value> = (0..=MOST_OBJECTS)
        .map(|n| thing(&format!("a{n}"), 1, None))
        .collect();
    assert!(read_manifests(&kinds(), &many, "/manifests").is_err());
}

#[test]
fn members_of_lists_are_compared_with_themselves() {
    let from = json!({"l": [{"id": "a", "w": 1}, {"id": "b", "w": 1}], "x": [1, 2]});
    let to = json!({"l": [{"id": "b", "w": 1}, {"id": "a", "w": 2}, {"id": "c"}], "x": [2, 1]});
    let places: Vec<String> = differences(&from, &to)
        .into_iter()
        .map(|(at, _, _)| at)
        .collect();
    assert_eq!(places, ["/l/a/w", "/l/c", "/x"]);
    assert_eq!(differences(&from, &from), []);
}

#[test]
fn the_catalog_holds_objects_and_not_their_history() {
    let thing = Thing;
    let catalog = Catalog::new(kinds());
    let part = part_key(&thing, "a", "spec");
    assert_eq!(
        catalog.object_of(part.key()),
        Some(("Thing", "a".to_owned()))
    );
    let wants = |key: &crate::store::Key| crate::store::Index::wants(&catalog, key);
    assert!(wants(part.key()));
    assert!(!wants(history_key(&thing, "a", "change-1").key()));
    assert_eq!(
        catalog.object_of(history_key(&thing, "a", "change-1").key()),
        None
    );
}

#[test]
fn the_digest_of_what_people_wrote_is_what_it_was() {
    // It is stored: another one would make every object of before foreign.
    let parts = Parts::from([
        ("spec", json!({"b": [1, 2.5], "a": null})),
        ("x", json!("ä")),
    ]);
    assert_eq!(
        digest(&parts),
        "abd6d91fdbf7dd730d4e2c5b5938f0e4e7d65c503d921fc1da815468676ec113"
    );
}

#[test]
fn changes_are_named_by_version_and_time_in_order() {
    let id = change_id(ConfigVersion(42), Timestamp(1_706_023_845_000));
    assert_eq!(id, "change-000000000042-20240123T153045Z");
}
