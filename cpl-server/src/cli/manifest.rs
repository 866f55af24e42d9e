//! Manifests: files of people that say what should be.

use std::io::Read;
use std::path::{Path, PathBuf};

use cpl_api::routes::Collection;
use cpl_core::fields::check_name;
use serde_json::{Map, Value};

use super::failure::Failure;
use super::kind::{self, Named};
use super::tree;

/// Largest file; the server takes no larger request either.
pub const MOST_BYTES: u64 = 1 << 20;

/// Where a manifest stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file as it was named, `-` for stdin.
    pub file: String,
    /// Which document of it, from 1.
    pub document: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = if self.file == "-" {
            "stdin"
        } else {
            &self.file
        };
        write!(f, "{file} document {}", self.document)
    }
}

/// One object as somebody wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Where it stands.
    pub place: Place,
    /// Which object.
    pub object: Named,
    /// The whole document, as the server takes it.
    pub value: Value,
}

/// Reads every manifest of these files; a folder stands for the `.yaml`, `.yml` and `.json` files in
/// it, in order of names, and `-` for `stdin`. Blocks.
///
/// # Errors
/// Every mistake of the first file that has one.
pub fn load(files: &[String], stdin: &mut dyn Read) -> Result<Vec<Manifest>, Failure> {
    let mut manifests = Vec::new();
    for file in files {
        if file == "-" {
            manifests.extend(parse(file, &read(file, stdin)?)?);
            continue;
        }
        for path in files_of(Path::new(file))? {
            let name = path.display().to_string();
            let mut open = std::fs::File::open(&path).map_err(|error| unreadable(&name, &error))?;
            manifests.extend(parse(&name, &read(&name, &mut open)?)?);
        }
    }
    no_twice(&manifests)?;
    Ok(manifests)
}

/// Reads a file whose one document is a list of objects. Blocks.
///
/// # Errors
/// It is something else, or cannot be read.
pub fn load_list(file: &str, stdin: &mut dyn Read) -> Result<Vec<Map<String, Value>>, Failure> {
    let text = if file == "-" {
        read(file, stdin)?
    } else {
        let mut open = std::fs::File::open(file).map_err(|error| unreadable(file, &error))?;
        read(file, &mut open)?
    };
    let mut list = Vec::new();
    for document in documents(file, &text)? {
        let Value::Array(items) = document else {
            return Err(Failure::invalid(format!("{} is no list", shown(file))));
        };
        for item in items {
            let Value::Object(item) = item else {
                return Err(Failure::invalid(format!(
                    "{}: {item} is no object",
                    shown(file)
                )));
            };
            list.push(item);
        }
    }
    Ok(list)
}

/// Reads the manifests in the text of one file.
///
/// # Errors
/// Every document that is not a manifest, or the first place where the text cannot be read at all.
pub fn parse(file: &str, text: &str) -> Result<Vec<Manifest>, Failure> {
    let mut manifests = Vec::new();
    let mut wrong = Vec::new();
    for (index, value) in documents(file, text)?.into_iter().enumerate() {
        let place = Place {
            file: file.to_owned(),
            document: index + 1,
        };
        for value in items_of(value) {
            match manifest(&place, value) {
                Ok(manifest) => manifests.extend(manifest),
                Err(errors) => {
                    wrong.extend(errors.into_iter().map(|error| format!("{place}: {error}")));
                },
            }
        }
    }
    if let Some(failure) = several("the manifests are not valid", wrong) {
        return Err(failure);
    }
    if manifests.is_empty() {
        return Err(Failure::invalid(format!("{} has no manifest", shown(file))));
    }
    Ok(manifests)
}

fn several(what: &str, lines: Vec<String>) -> Option<Failure> {
    if lines.is_empty() {
        return None;
    }
    Some(
        lines
            .into_iter()
            .fold(Failure::invalid(what), Failure::detail),
    )
}

fn shown(file: &str) -> &str {
    if file == "-" { "stdin" } else { file }
}

fn unreadable(file: &str, error: &std::io::Error) -> Failure {
    Failure::invalid(format!("{} cannot be read: {error}", shown(file)))
}

fn read(file: &str, from: &mut dyn Read) -> Result<String, Failure> {
    let mut text = String::new();
    from.take(MOST_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(file, &error))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(Failure::invalid(format!(
            "{} is larger than 1 MiB",
            shown(file)
        )));
    }
    Ok(text)
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let name = path.display().to_string();
    let entries = std::fs::read_dir(path).map_err(|error| unreadable(&name, &error))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(&name, &error))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        let what = format!("{name} has no .yaml, .yml or .json file");
        return Err(Failure::invalid(what));
    }
    files.sort();
    Ok(files)
}

/// The documents of a text. JSON is tried first where it may be JSON, since YAML reads almost all of
/// it but not its tabs.
fn documents(file: &str, text: &str) -> Result<Vec<Value>, Failure> {
    let named_json = Path::new(file)
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    if named_json || text.trim_start().starts_with(['{', '[']) {
        match json_documents(text) {
            Err(error) if named_json => return Err(unparsable(file, &error)),
            Err(_) => {},
            Ok(documents) => return Ok(documents),
        }
    }
    serde_yaml_ng::Deserializer::from_str(text)
        .map(tree::read)
        .collect::<Result<_, _>>()
        .map_err(|error| unparsable(file, &error))
}

fn json_documents(text: &str) -> Result<Vec<Value>, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let mut documents = Vec::new();
    while reader.end().is_err() {
        documents.push(tree::read(&mut reader)?);
    }
    Ok(documents)
}

fn unparsable(file: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::invalid(format!("{} cannot be read: {error}", shown(file)))
}

/// The objects of a document: a list, or what `cpl get -o yaml` prints of several, stands for each.
fn items_of(mut value: Value) -> Vec<Value> {
    if value.get("kind").is_none()
        && let Some(Value::Array(items)) = value.get_mut("items").map(Value::take)
    {
        return items;
    }
    match value {
        Value::Array(items) => items,
        other => vec![other],
    }
}

/// One manifest; none where nothing stands between two `---`.
fn manifest(place: &Place, value: Value) -> Result<Option<Manifest>, Vec<String>> {
    if value.is_null() {
        return Ok(None);
    }
    if !value.is_object() {
        return Err(vec![
            "expected an object with kind, metadata and spec".to_owned(),
        ]);
    }
    let kind = kind_of(value.get("kind"));
    let name = name_of(value.pointer("/metadata/name"));
    match (kind, name) {
        (Ok(kind), Ok(name)) => Ok(Some(Manifest {
            place: place.clone(),
            object: Named { kind, name },
            value,
        })),
        (kind, name) => Err([kind.err(), name.err()].into_iter().flatten().collect()),
    }
}

fn kind_of(given: Option<&Value>) -> Result<Collection, String> {
    let known = Collection::ALL.map(Collection::kind).join(", ");
    let Some(given) = given else {
        return Err(format!("/kind: FIELD_REQUIRED: expected one of {known}"));
    };
    let found = given.as_str().and_then(kind::of_manifest);
    found.ok_or_else(|| format!("/kind: KIND_UNKNOWN: {given} is none of {known}"))
}

fn name_of(given: Option<&Value>) -> Result<String, String> {
    let Some(given) = given else {
        return Err("/metadata/name: FIELD_REQUIRED: expected a name".to_owned());
    };
    let name = given.as_str().filter(|name| check_name(name).is_ok());
    name.map(str::to_owned).ok_or_else(|| {
        format!(
            "/metadata/name: NAME_INVALID: {given} is no name: names have lower-case letters, \
             digits and '-'"
        )
    })
}

fn no_twice(manifests: &[Manifest]) -> Result<(), Failure> {
    let mut seen = std::collections::BTreeMap::new();
    let mut wrong = Vec::new();
    for manifest in manifests {
        if let Some(first) = seen.insert(&manifest.object, &manifest.place) {
            wrong.push(format!(
                "{}: {} stands already in {first}",
                manifest.place, manifest.object
            ));
        }
    }
    several("an object may stand in one manifest only", wrong).map_or(Ok(()), Err)
}

/// Where the field at `pointer` of an `apply` request stands in the files of the person who sent it.
///
/// The server numbers manifests in the order in which they were sent: `/manifests/1/spec/port`.
pub fn locate(manifests: &[Manifest], pointer: &str) -> String {
    let found = pointer.strip_prefix("/manifests/").and_then(|rest| {
        let (index, field) = match rest.split_once('/') {
            Some((index, field)) => (index, format!("/{field}")),
            None => (rest, String::new()),
        };
        let manifest = manifests.get(index.parse::<usize>().ok()?)?;
        let place = format!("{} ({})", manifest.place, manifest.object);
        Some(if field.is_empty() {
            place
        } else {
            format!("{place} {field}")
        })
    });
    found.unwrap_or_else(|| pointer.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "kind: TargetGroup\nmetadata: {name: web}\nspec: {protocol: tcp, port: 80}\n";
    const NODE: &str = "kind: Node\nmetadata: {name: node-1}\nspec: {}\n";

    fn objects(text: &str) -> Vec<String> {
        let manifests = parse("x.yaml", text).unwrap();
        manifests
            .iter()
            .map(|manifest| manifest.object.to_string())
            .collect()
    }

    fn refusal(file: &str, text: &str) -> String {
        let failure = parse(file, text).unwrap_err();
        assert_eq!(failure.exit().code(), 2);
        failure.lines().join("\n")
    }

    #[test]
    fn documents_lists_and_printed_lists_are_understood() {
        let both = ["TargetGroup/web", "Node/node-1"];
        assert_eq!(objects(&format!("---\n{WEB}---\n---\n{NODE}")), both);
        let web = r#"{"kind": "TargetGroup", "metadata": {"name": "web"}}"#;
        let node = r#"{"kind": "Node", "metadata": {"name": "node-1"}}"#;
        assert_eq!(objects(&format!("{web}\n{node}")), both);
        assert_eq!(objects(&format!("[{web},\n\t{node}]")), both);
        assert_eq!(
            objects(&format!("items: [{web}, {node}]\ncursor: c\n")),
            both
        );
        assert_eq!(
            objects("{kind: Node, metadata: {name: node-1}}"),
            ["Node/node-1"]
        );
    }

    #[test]
    fn every_wrong_document_is_named() {
        let text =
            format!("{WEB}---\nkind: Vpp\nmetadata: {{name: Web}}\n---\n3\n---\nkind: Node\n");
        assert_eq!(
            refusal("web.yaml", &text),
            "error: the manifests are not valid\n  \
             web.yaml document 2: /kind: KIND_UNKNOWN: \"Vpp\" is none of TargetGroup, Node\n  \
             web.yaml document 2: /metadata/name: NAME_INVALID: \"Web\" is no name: names have \
             lower-case letters, digits and '-'\n  \
             web.yaml document 3: expected an object with kind, metadata and spec\n  \
             web.yaml document 4: /metadata/name: FIELD_REQUIRED: expected a name"
        );
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        assert!(refusal("-", "a: [1,\nb: 2\n").contains("stdin cannot be read"));
        assert!(refusal("x.json", "{\n\"kind\": }").contains("line 2"));
        assert_eq!(refusal("-", "# nothing\n"), "error: stdin has no manifest");
    }

    #[test]
    fn files_folders_and_stdin_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("b.yaml"), NODE).unwrap();
        std::fs::write(folder.path().join("a.yml"), WEB).unwrap();
        std::fs::write(folder.path().join("notes.txt"), "no").unwrap();
        let path = folder.path().display().to_string();
        let api = WEB.replace("web", "api");
        let files = [path.clone(), "-".to_owned()];
        let manifests = load(&files, &mut api.as_bytes()).unwrap();
        let names: Vec<_> = manifests.iter().map(|m| m.object.to_string()).collect();
        assert_eq!(names, ["TargetGroup/web", "Node/node-1", "TargetGroup/api"]);

        let twice = load(&[path.clone(), "-".to_owned()], &mut WEB.as_bytes()).unwrap_err();
        assert!(twice.lines()[1].contains("stdin document 1: TargetGroup/web stands already in"));
        let missing = load(&[format!("{path}/none.yaml")], &mut "".as_bytes()).unwrap_err();
        assert_eq!(missing.exit().code(), 2);
    }

    #[test]
    fn a_file_beyond_the_limit_is_not_read() {
        let text = " ".repeat(usize::try_from(MOST_BYTES).unwrap() + 1);
        let failure = load(&["-".to_owned()], &mut text.as_bytes()).unwrap_err();
        assert_eq!(failure.lines(), ["error: stdin is larger than 1 MiB"]);
    }

    #[test]
    fn errors_of_the_server_are_found_again_in_the_files() {
        let manifests = parse("web.yaml", &format!("{WEB}---\n{NODE}")).unwrap();
        assert_eq!(
            locate(&manifests, "/manifests/1/spec/bgp"),
            "web.yaml document 2 (Node/node-1) /spec/bgp"
        );
        assert_eq!(
            locate(&manifests, "/manifests/0"),
            "web.yaml document 1 (TargetGroup/web)"
        );
        assert_eq!(locate(&manifests, "/manifests/9/spec"), "/manifests/9/spec");
        assert_eq!(locate(&manifests, "/manifests"), "/manifests");
    }
}
