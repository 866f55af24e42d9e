//! Whether what clients were told is what the server has recorded.

use std::collections::{BTreeMap, BTreeSet};

/// A change that a client was told of in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Names the change; the request ids of its attempts are `<change>.<attempt>`.
    pub(super) change: String,
    pub(super) object: String,
    pub(super) version: u64,
    /// How often it was sent; the last one was answered.
    pub(super) attempts: u32,
    /// The answer was that of an earlier attempt.
    pub(super) replayed: bool,
}

/// A record of the audit, or of the history of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) request: String,
    pub(super) version: u64,
}

/// What the server has recorded.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded {
    pub(super) global_version: u64,
    /// The audit, as far as it is of versions.
    pub(super) audit: Vec<Record>,
    pub(super) history: BTreeMap<String, Vec<Record>>,
}

/// What became of the attempts whose answer was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) before_the_commit: u32,
    pub(super) after_the_commit: u32,
}

/// Everything that does not fit, or what became of lost answers.
///
/// Versions are dense, from 1 to the global one, each once in the audit. Every change that was told is
/// recorded once, under one of its attempts, in the audit and in the history of its object, at the
/// version that was told.
pub(super) fn check(told: &[Told], recorded: &Recorded) -> Result<Lost, Vec<String>> {
    let mut wrong = Vec::new();
    let mut versions: Vec<u64> = recorded.audit.iter().map(|record| record.version).collect();
    versions.sort_unstable();
    if !versions.iter().copied().eq(1..=recorded.global_version) {
        let holes = holes(&versions, recorded.global_version);
        wrong.push(format!("versions are not dense or not single: {holes:?}"));
    }
    let audit = by_change(&recorded.audit);
    let mut lost = Lost::default();
    for told in told {
        match applied(told, audit.get(told.change.as_str()), "audit") {
            Ok(attempt) => {
                let earlier = attempt < told.attempts;
                if earlier != told.replayed {
                    wrong.push(format!("attempt {attempt} was applied, told was {told:?}"));
                }
                lost.after_the_commit += u32::from(earlier);
                lost.before_the_commit += told.attempts - 1 - u32::from(earlier);
            },
            Err(what) => wrong.push(what),
        }
        let of_object = recorded.history.get(&told.object);
        let history = by_change(of_object.map_or(&[], Vec::as_slice));
        if let Err(what) = applied(told, history.get(told.change.as_str()), "history") {
            wrong.push(what);
        }
    }
    if wrong.is_empty() {
        Ok(lost)
    } else {
        Err(wrong)
    }
}

/// Which attempt was applied, by the one record that there must be.
fn applied(told: &Told, records: Option<&Vec<&Record>>, place: &str) -> Result<u32, String> {
    let records = records.map_or(&[][..], Vec::as_slice);
    let [record] = records else {
        return Err(format!(
            "{} records in the {place} of {told:?}: {records:?}",
            records.len()
        ));
    };
    if record.version != told.version {
        return Err(format!("the {place} has {record:?} of {told:?}"));
    }
    let (_, attempt) = record.request.rsplit_once('.').unwrap_or_default();
    attempt
        .parse()
        .map_err(|_| format!("an attempt that nobody made: {record:?}"))
}

fn by_change(records: &[Record]) -> BTreeMap<&str, Vec<&Record>> {
    let mut found: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        if let Some((change, _)) = record.request.rsplit_once('.') {
            found.entry(change).or_default().push(record);
        }
    }
    found
}

/// Versions that are missing, and those that are there twice.
fn holes(sorted: &[u64], newest: u64) -> (Vec<u64>, Vec<u64>) {
    let there: BTreeSet<u64> = sorted.iter().copied().collect();
    let missing = (1..=newest).filter(|version| !there.contains(version));
    let twice = sorted.windows(2).filter(|pair| pair[0] == pair[1]);
    (missing.collect(), twice.map(|pair| pair[0]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(request: &str, version: u64) -> Record {
        let request = request.to_owned();
        Record { request, version }
    }

    /// Two changes: one answered at once, one whose first answer was lost after the commit.
    fn story() -> (Vec<Told>, Recorded) {
        let told = |change: &str, version, attempts, replayed| Told {
            change: change.to_owned(),
            object: "web".to_owned(),
            version,
            attempts,
            replayed,
        };
        let records = vec![record("a.1", 1), record("b.1", 2)];
        let recorded = Recorded {
            global_version: 2,
            audit: records.clone(),
            history: BTreeMap::from([("web".to_owned(), records)]),
        };
        (
            vec![told("a", 1, 1, false), told("b", 2, 2, true)],
            recorded,
        )
    }

    fn check_refused(change: impl FnOnce(&mut Vec<Told>, &mut Recorded), expected: &str) {
        let (mut told, mut recorded) = story();
        change(&mut told, &mut recorded);
        let wrong = check(&told, &recorded).unwrap_err();
        assert!(
            wrong.iter().any(|what| what.contains(expected)),
            "{wrong:?}"
        );
    }

    #[test]
    fn what_was_told_and_is_recorded_fits() {
        let (told, recorded) = story();
        let lost = Lost {
            before_the_commit: 0,
            after_the_commit: 1,
        };
        assert_eq!(check(&told, &recorded), Ok(lost));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        check_refused(|_, r| drop(r.audit.remove(0)), "0 records in the audit");
        check_refused(
            |_, r| r.audit.push(record("a.1", 1)),
            "2 records in the audit",
        );
        check_refused(
            |_, r| r.audit.push(record("a.2", 3)),
            "2 records in the audit",
        );
        check_refused(|_, r| r.global_version = 3, "([3], [])");
        check_refused(|_, r| r.audit.push(record("x", 2)), "([], [2])");
        check_refused(|told, _| told[0].version = 2, "the audit has");
        check_refused(|told, _| told[1].replayed = false, "attempt 1 was applied");
        check_refused(|_, r| r.history.clear(), "0 records in the history");
        let doubled = |_: &mut Vec<Told>, r: &mut Recorded| {
            r.history.get_mut("web").unwrap().push(record("b.2", 3));
        };
        check_refused(doubled, "2 records in the history");
    }
}
