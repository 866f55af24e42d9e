//! The three groups of imports: std, foreign, ours, with an empty line between.

use super::crates::fits;
use super::finding::Finding;
use super::source::{Source, Use};
use super::table::OURS;

/// The groups, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Std,
    Foreign,
    Ours,
}

/// All findings of this kind about one file.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    source
        .uses
        .windows(2)
        .filter(|pair| pair[0].block == pair[1].block)
        .filter_map(|pair| {
            let message = wrong(source, &pair[0], &pair[1])?;
            Some(Finding::new(
                &source.path,
                pair[1].lines.0,
                "import-groups",
                message,
            ))
        })
        .collect()
}

fn wrong(source: &Source, one: &Use, next: &Use) -> Option<String> {
    let (before, after) = (group(source, one), group(source, next));
    let apart = source
        .blank
        .range(one.lines.1..next.lines.0)
        .next()
        .is_some();
    if after < before {
        return Some(format!(
            "`{}` after `{}`: the order is std, foreign, ours",
            next.root, one.root
        ));
    }
    if after > before && !apart {
        return Some(format!(
            "an empty line belongs between `{}` and `{}`: another group starts",
            one.root, next.root
        ));
    }
    (after == before && apart).then(|| {
        format!(
            "no empty line belongs between `{}` and `{}`: they are of one group",
            one.root, next.root
        )
    })
}

fn group(source: &Source, item: &Use) -> Group {
    let root = item.root.as_str();
    match root {
        "std" | "core" | "alloc" => Group::Std,
        _ if OURS.iter().any(|ours| fits(ours, root)) => Group::Ours,
        _ if source.modules.iter().any(|own| own == root) => Group::Ours,
        _ => Group::Foreign,
    }
}
