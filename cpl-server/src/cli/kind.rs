//! Which objects a command line means.

use std::fmt::{Display, Formatter};

use cpl_api::routes::Collection;
use cpl_core::fields::check_name;

/// Reads a kind in any of its usual spellings: `targetgroup`, `targetgroups`, `tg`, `TargetGroup`.
///
/// # Errors
/// Which kinds there are.
pub fn read(text: &str) -> Result<Collection, String> {
    let folded: String = text
        .chars()
        .filter(|c| *c != '-' && *c != '_')
        .map(|c| c.to_ascii_lowercase())
        .collect();
    match folded.as_str() {
        "targetgroup" | "targetgroups" | "tg" | "tgs" => Ok(Collection::Targetgroups),
        "node" | "nodes" => Ok(Collection::Nodes),
        _ => Err(format!(
            "unknown kind {text:?}; kinds are targetgroup (tg) and node"
        )),
    }
}

/// The kind that manifests and answers spell so, exactly.
pub fn of_manifest(text: &str) -> Option<Collection> {
    Collection::ALL.into_iter().find(|kind| kind.kind() == text)
}

/// The word for one of a kind, in talk and in `-o name`.
pub const fn singular(kind: Collection) -> &'static str {
    match kind {
        Collection::Targetgroups => "targetgroup",
        Collection::Nodes => "node",
    }
}

/// One object by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Named {
    /// Its kind.
    pub kind: Collection,
    /// Its name.
    pub name: String,
}

impl Display for Named {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind.kind(), self.name)
    }
}

/// The objects that the words of a command line mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// `tg`: all of a kind.
    All(Collection),
    /// `tg web api`, or `tg/web node/node-1`: these.
    These(Vec<Named>),
}

impl Selection {
    /// Reads `KIND`, `KIND NAME...` or `KIND/NAME...`.
    ///
    /// # Errors
    /// What would be right.
    pub fn read(words: &[String]) -> Result<Self, String> {
        let Some((first, rest)) = words.split_first() else {
            return Err("expected KIND, KIND NAME or KIND/NAME".to_owned());
        };
        if first.contains('/') {
            return words
                .iter()
                .map(|word| with_slash(word))
                .collect::<Result<_, _>>()
                .map(Self::These);
        }
        let kind = read(first)?;
        if rest.is_empty() {
            return Ok(Self::All(kind));
        }
        rest.iter()
            .map(|name| named(kind, name))
            .collect::<Result<_, _>>()
            .map(Self::These)
    }

    /// Reads `KIND NAME` or `KIND/NAME`: exactly one object.
    ///
    /// # Errors
    /// What would be right.
    pub fn one(words: &[String]) -> Result<Named, String> {
        match Self::read(words)? {
            Self::These(mut named) if named.len() == 1 => Ok(named.remove(0)),
            Self::These(_) => Err("expected one object, got several".to_owned()),
            Self::All(kind) => Err(format!("expected the name of a {}", singular(kind))),
        }
    }
}

/// Reads the name of a node, which people also write as `node/node-2`.
///
/// # Errors
/// What would be right.
pub fn node_name(text: &str) -> Result<String, String> {
    of_kind(Collection::Nodes, text)
}

/// Reads the name of a target group, which people also write as `tg/web`.
///
/// # Errors
/// What would be right.
pub fn targetgroup_name(text: &str) -> Result<String, String> {
    of_kind(Collection::Targetgroups, text)
}

fn of_kind(kind: Collection, text: &str) -> Result<String, String> {
    if !text.contains('/') {
        return named(kind, text).map(|named| named.name);
    }
    let named = with_slash(text)?;
    if named.kind == kind {
        return Ok(named.name);
    }
    Err(format!("expected a {}, got {text}", singular(kind)))
}

fn with_slash(word: &str) -> Result<Named, String> {
    match word.split_once('/') {
        Some((kind, name)) => named(read(kind)?, name),
        None => Err(format!("expected KIND/NAME, got {word:?}")),
    }
}

fn named(kind: Collection, name: &str) -> Result<Named, String> {
    // A name that no object can have never reaches a URL.
    if check_name(name).is_err() {
        return Err(format!(
            "{name:?} is no name: names have lower-case letters, digits and '-'"
        ));
    }
    Ok(Named {
        kind,
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn kinds_are_understood_in_their_usual_spellings() {
        for text in [
            "tg",
            "TG",
            "targetgroup",
            "targetgroups",
            "TargetGroup",
            "target-groups",
        ] {
            assert_eq!(read(text), Ok(Collection::Targetgroups), "{text}");
        }
        for text in ["node", "nodes", "Node"] {
            assert_eq!(read(text), Ok(Collection::Nodes), "{text}");
        }
        let error = read("vpp").unwrap_err();
        assert_eq!(
            error,
            "unknown kind \"vpp\"; kinds are targetgroup (tg) and node"
        );
    }

    #[test]
    fn objects_are_named_with_a_slash_or_without() {
        let web = || Named {
            kind: Collection::Targetgroups,
            name: "web".to_owned(),
        };
        let node = || Named {
            kind: Collection::Nodes,
            name: "node-1".to_owned(),
        };
        assert_eq!(
            Selection::read(&words("tg")),
            Ok(Selection::All(Collection::Targetgroups))
        );
        assert_eq!(
            Selection::read(&words("tg web")),
            Ok(Selection::These(vec![web()]))
        );
        assert_eq!(
            Selection::read(&words("tg/web node/node-1")),
            Ok(Selection::These(vec![web(), node()]))
        );
        assert_eq!(Selection::one(&words("node/node-1")), Ok(node()));
        assert_eq!(node_name("node/node-1"), Ok("node-1".to_owned()));
        assert_eq!(node_name("node-1"), Ok("node-1".to_owned()));
    }

    #[test]
    fn what_names_nothing_is_refused_with_what_would_be_right() {
        let error = |text: &str| Selection::one(&words(text)).unwrap_err();
        assert_eq!(error("tg"), "expected the name of a targetgroup");
        assert_eq!(error("tg a b"), "expected one object, got several");
        assert_eq!(error("tg/web api"), "expected KIND/NAME, got \"api\"");
        assert!(error("tg ../../v1/tokens").contains("is no name"));
        assert_eq!(
            node_name("tg/web"),
            Err("expected a node, got tg/web".to_owned())
        );
    }
}
