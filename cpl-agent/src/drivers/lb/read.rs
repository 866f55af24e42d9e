//! What a configuration must be before anything is rendered from it.
//!
//! The control plane has validated it already. These checks are repeated because HAProxy executes
//! what is smuggled into names, wraps ports that are too large, and shares an address between two
//! listeners without a word.

use std::collections::{BTreeMap, BTreeSet};

use cpl_core::delivery::{Configuration, ObjectRef, Stage};
use cpl_lb::plan::{self, NodeConfig, TARGET_GROUP, TargetGroup, Unreadable};
use cpl_lb::spec::HealthCheck;

use super::names::is_plain;
use crate::driver::Rejection;

/// The largest weight that HAProxy knows.
const HEAVIEST: u16 = 256;

/// Understands a configuration.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub(super) fn read(configuration: &Configuration) -> Result<NodeConfig, Vec<Rejection>> {
    let config = plan::read(configuration)
        .map_err(|wrong| wrong.into_iter().map(unreadable).collect::<Vec<_>>())?;
    let wrong = faults(&config);
    if wrong.is_empty() {
        Ok(config)
    } else {
        Err(wrong)
    }
}

/// The object of a target group.
pub(super) fn object(targetgroup: &str) -> ObjectRef {
    ObjectRef {
        kind: TARGET_GROUP.to_owned(),
        name: targetgroup.to_owned(),
    }
}

fn unreadable(what: Unreadable) -> Rejection {
    let (object, message) = match what {
        Unreadable::Whole(message) => (None, message),
        Unreadable::Object(object, message) => (Some(object), message),
    };
    Rejection {
        object,
        stage: Stage::Parse,
        code: "CONFIG_UNREADABLE".to_owned(),
        field: None,
        message,
    }
}

fn faults(config: &NodeConfig) -> Vec<Rejection> {
    let mut faults = Vec::new();
    let mut ports: BTreeMap<u16, &str> = BTreeMap::new();
    for tg in &config.targetgroups {
        let mut found = Faults {
            targetgroup: &tg.name,
            faults: &mut faults,
        };
        found.of_targetgroup(tg);
        let port = tg.body.spec.port;
        if let Some(other) = ports.insert(port, &tg.name) {
            let message = format!("port {port} is that of target group {other} as well");
            found.add("ADDRESS_CONFLICT", "/spec/port", message);
        }
    }
    faults
}

struct Faults<'a> {
    targetgroup: &'a str,
    faults: &'a mut Vec<Rejection>,
}

impl Faults<'_> {
    fn add(&mut self, code: &str, field: &str, message: String) {
        self.faults.push(Rejection {
            object: Some(object(self.targetgroup)),
            stage: Stage::Parse,
            code: code.to_owned(),
            field: Some(field.to_owned()),
            message,
        });
    }

    fn of_targetgroup(&mut self, tg: &TargetGroup) {
        if !is_plain(&tg.name) {
            let message = format!("the name {:?} cannot be given to HAProxy", tg.name);
            self.add("NAME_INVALID", "/metadata/name", message);
        }
        if tg.body.spec.port == 0 {
            self.add("PORT_INVALID", "/spec/port", "port 0".to_owned());
        }
        self.of_check(&tg.body.spec.health_check);
        let mut ids = BTreeSet::new();
        for (at, endpoint) in tg.body.endpoints.iter().enumerate() {
            let field = |name: &str| format!("/endpoints/{at}/{name}");
            if !is_plain(&endpoint.id) {
                let message = format!("the id {:?} cannot be given to HAProxy", endpoint.id);
                self.add("NAME_INVALID", &field("id"), message);
            }
            if !ids.insert(&endpoint.id) {
                let message = format!("the id {} occurs twice", endpoint.id);
                self.add("FIELD_DUPLICATE", &field("id"), message);
            }
            if endpoint.port == 0 {
                self.add("PORT_INVALID", &field("port"), "port 0".to_owned());
            }
            if endpoint.weight > HEAVIEST {
                let message = format!("weight {} is above {HEAVIEST}", endpoint.weight);
                self.add("WEIGHT_INVALID", &field("weight"), message);
            }
        }
    }

    fn of_check(&mut self, check: &HealthCheck) {
        let texts = [
            ("path", &check.path),
            ("expect_status", &check.expect_status),
            ("expect_body", &check.expect_body),
        ];
        for (name, text) in texts {
            if text.iter().any(|text| text.chars().any(char::is_control)) {
                let field = format!("/spec/health_check/{name}");
                let message = format!("{name} has control characters");
                self.add("FIELD_INVALID", &field, message);
            }
        }
    }
}
