//! The table, and how it reads.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cells::{Answer, Call, Cell, State, excuse, rows};
use super::observed::Observed;
use crate::store::Store;

/// How often each [`Cell`] was met. Clones count together. `Display` is a table of all cells, with
/// the reasons of those that stay dark.
#[derive(Clone, Debug, Default)]
pub struct Coverage(Arc<Mutex<BTreeMap<Cell, u64>>>);

impl Coverage {
    /// A store that counts what `store` is asked and answers. Its state is taken to be empty.
    pub fn observe(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Observed::new(store, self.clone()))
    }

    /// The cells that were never met and have no reason for it.
    pub fn dark(&self) -> Vec<Cell> {
        let counts = self.counts();
        all()
            .filter(|cell| !counts.contains_key(cell) && excuse(*cell).is_none())
            .collect()
    }

    /// The cells that were met although there is a reason why they cannot be: the reason is wrong, or
    /// the store is.
    pub fn unexpected(&self) -> Vec<Cell> {
        self.counts()
            .keys()
            .copied()
            .filter(|cell| excuse(*cell).is_some())
            .collect()
    }

    pub(super) fn met(&self, call: Call, answer: Answer, state: State) {
        let cell = Cell {
            call,
            answer,
            state,
        };
        *self.counts().entry(cell).or_default() += 1;
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<Cell, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn all() -> impl Iterator<Item = Cell> {
    rows().flat_map(|(call, answer)| {
        State::ALL.map(|state| Cell {
            call,
            answer,
            state,
        })
    })
}

impl Display for Coverage {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let counts = self.counts();
        let mut reasons: Vec<&str> = Vec::new();
        write!(f, "{:<14}{:<24}", "call", "answer")?;
        for state in State::ALL {
            write!(f, "{:>12}", format!("{state:?}"))?;
        }
        for (call, answer) in rows() {
            write!(
                f,
                "\n{:<14}{:<24}",
                format!("{call:?}"),
                format!("{answer:?}")
            )?;
            for state in State::ALL {
                let cell = Cell {
                    call,
                    answer,
                    state,
                };
                let shown = match (counts.get(&cell), excuse(cell)) {
                    (Some(count), _) => count.to_string(),
                    (None, None) => "DARK".to_owned(),
                    (None, Some(reason)) => {
                        let number = reasons.iter().position(|r| *r == reason);
                        let number = number.unwrap_or_else(|| {
                            reasons.push(reason);
                            reasons.len() - 1
                        });
                        format!("({})", number + 1)
                    },
                };
                write!(f, "{shown:>12}")?;
            }
        }
        for (number, reason) in (1..).zip(reasons) {
            write!(f, "\n({number}) {reason}")?;
        }
        Ok(())
    }
}
