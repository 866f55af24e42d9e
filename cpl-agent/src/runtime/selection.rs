//! Which body of each object to try: the newest, the last good one, or none. Pure.

use std::collections::{BTreeMap, BTreeSet};

use cpl_core::delivery::{ConfigObject, Configuration, Hold, ObjectRef};

use super::model::{Held, Me, basis};
use crate::driver::Rejection;

/// How far an object has fallen from its newest body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fallen {
    LastGood,
    Omitted,
}

/// A configuration that was asked for, and what of it is to be tried.
///
/// Each rejection lets an object fall by one step, so there are at most two rounds per object.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    target: Configuration,
    last_good: Option<Configuration>,
    fallen: BTreeMap<ObjectRef, Fallen>,
    held: BTreeMap<ObjectRef, Held>,
}

impl Selection {
    /// A configuration that was delivered. What this process was refused before it does not try again.
    pub(super) fn of_delivered(
        target: Configuration,
        last_good: Option<&Configuration>,
        held: &[Held],
        me: &Me,
    ) -> Self {
        let last_good = last_good
            .filter(|good| good.system == target.system && good.schema == target.schema)
            .cloned();
        let mut selection = Self {
            target,
            last_good,
            fallen: BTreeMap::new(),
            held: BTreeMap::new(),
        };
        let stays = |held: &&Held| held.process == me.process;
        for held in held.iter().filter(stays) {
            let object = &held.hold.object;
            let same = find(&selection.target, object)
                .is_some_and(|newest| basis(&selection.target, newest) == held.basis);
            if same {
                let step = selection.first_step(object);
                selection.fallen.insert(object.clone(), step);
                selection.held.insert(object.clone(), held.clone());
            }
        }
        selection
    }

    /// What ran before and is to run again. Its holds stay as they are: what was held is not in it.
    pub(super) fn of_running(target: Configuration, held: &[Held]) -> Self {
        let held = held
            .iter()
            .map(|held| (held.hold.object.clone(), held.clone()))
            .collect();
        Self {
            target,
            last_good: None,
            fallen: BTreeMap::new(),
            held,
        }
    }

    /// What is to be tried.
    pub(super) fn configuration(&self) -> Configuration {
        let mut configuration = self.target.clone();
        configuration.objects = self
            .target
            .objects
            .iter()
            .filter_map(|newest| match self.fallen.get(&newest.object) {
                None => Some(newest.clone()),
                Some(Fallen::LastGood) => self.last_good(&newest.object).cloned(),
                Some(Fallen::Omitted) => None,
            })
            .collect();
        configuration
    }

    /// What is held if [`configuration`](Self::configuration) runs.
    pub(super) fn held(&self) -> Vec<Held> {
        let running = self.configuration();
        self.held
            .values()
            .cloned()
            .map(|mut held| {
                held.hold.running = find(&running, &held.hold.object).map(|o| o.generation);
                held
            })
            .collect()
    }

    /// Lets every object that was rejected fall by one step.
    ///
    /// # Errors
    /// The rejection that cannot be answered by leaving an object out: it names none, or one that is
    /// not in the configuration.
    pub(super) fn reject(
        &mut self,
        rejections: &[Rejection],
        me: &Me,
    ) -> Result<(), Box<Rejection>> {
        let running = self.configuration();
        let culprit = |rejection: &Rejection| {
            rejection
                .object
                .as_ref()
                .is_some_and(|object| find(&running, object).is_some())
        };
        if let Some(other) = rejections.iter().find(|r| !culprit(r)) {
            return Err(Box::new(other.clone()));
        }
        let mut done = BTreeSet::new();
        for rejection in rejections {
            let Some(object) = &rejection.object else {
                continue;
            };
            // Several faults of one object are one step.
            if done.insert(object) {
                self.fall(object, rejection, me);
            }
        }
        Ok(())
    }

    fn fall(&mut self, object: &ObjectRef, rejection: &Rejection, me: &Me) {
        let step = if self.fallen.contains_key(object) {
            Fallen::Omitted
        } else {
            self.first_step(object)
        };
        self.fallen.insert(object.clone(), step);
        let Some(newest) = find(&self.target, object) else {
            return;
        };
        let basis = basis(&self.target, newest);
        let generation = newest.generation;
        // The first reason is that of the newest body; later ones are of older bodies.
        self.held.entry(object.clone()).or_insert_with(|| Held {
            hold: Hold {
                object: object.clone(),
                generation,
                running: None,
                stage: rejection.stage,
                code: rejection.code.clone(),
                field: rejection.field.clone(),
                message: rejection.message.clone(),
            },
            basis,
            process: me.process.clone(),
        });
    }

    fn first_step(&self, object: &ObjectRef) -> Fallen {
        let newest = find(&self.target, object);
        match (newest, self.last_good(object)) {
            (Some(newest), Some(good)) if newest.body != good.body => Fallen::LastGood,
            _ => Fallen::Omitted,
        }
    }

    /// The last good body of the same object: a name that was made again is another one.
    fn last_good(&self, object: &ObjectRef) -> Option<&ConfigObject> {
        let newest = find(&self.target, object)?;
        find(self.last_good.as_ref()?, object).filter(|good| good.uid == newest.uid)
    }
}

fn find<'a>(configuration: &'a Configuration, object: &ObjectRef) -> Option<&'a ConfigObject> {
    configuration.objects.iter().find(|o| o.object == *object)
}
