//! For each rule a source that breaks it and one that keeps it.

use super::crates::{self, Crate, Edge};
use super::run::{check as check_source, retries_in};
use super::source::Source;

/// The `line: rule` of all findings about one file.
fn findings(path: &str, text: &str) -> Vec<String> {
    let source = Source::read(path, text).unwrap();
    let mut found = check_source(&source);
    found.sort();
    found.dedup();
    found
        .iter()
        .map(|finding| format!("{}: {}", finding.line, finding.rule))
        .collect()
}

#[track_caller]
fn bad(path: &str, text: &str, expected: &str) {
    assert_eq!(findings(path, text), [expected], "{path}\n{text}");
}

#[track_caller]
fn good(path: &str, text: &str) {
    assert!(
        findings(path, text).is_empty(),
        "{:?}\n{path}\n{text}",
        findings(path, text)
    );
}

fn krate(folder: &str, edges: &[(&str, bool)]) -> Crate {
    Crate {
        folder: folder.to_owned(),
        edges: edges
            .iter()
            .map(|(to, tests)| Edge {
                to: (*to).to_owned(),
                ours: to.starts_with("cpl-") || to.contains('/'),
                tests: *tests,
                features: Vec::new(),
            })
            .collect(),
        manifest: "[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n".to_owned(),
    }
}

fn rules(crates: &[Crate]) -> Vec<&'static str> {
    crates::check(crates).iter().map(|f| f.rule).collect()
}

#[track_caller]
fn edge(from: &str, to: &str, tests: bool, expected: &[&str]) {
    assert_eq!(
        rules(&[krate(from, &[(to, tests)])]),
        expected,
        "{from} -> {to}"
    );
}

const CODE: bool = false;
const TESTS: bool = true;

#[test]
fn crates_import_what_their_row_says() {
    let wrong = ["crate-import"];
    edge("cpl-core", "cpl-host", CODE, &wrong);
    edge("cpl-host", "cpl-core", CODE, &[]);
    edge("cpl-store-embedded", "cpl-core", CODE, &[]);
    edge("cpl-store-embedded", "cpl-host", CODE, &wrong);
    edge("systems/lb", "cpl-core", CODE, &[]);
    edge("systems/lb", "systems/probe", CODE, &wrong);
    edge("cpl-api", "systems/lb", CODE, &wrong);
    edge("cpl-agent", "systems/lb", CODE, &[]);
    edge("cpl-agent", "cpl-server", CODE, &wrong);
    edge("cpl-server", "cpl-store-etcd", CODE, &[]);
    edge("cpl-server", "cpl-sim", CODE, &wrong);
    edge("cpl-sim", "cpl-server", CODE, &[]);
    edge("examples/embed", "cpl-store-embedded", CODE, &[]);
    edge("examples/embed", "cpl-server", CODE, &wrong);
    edge("xtask", "cpl-core", CODE, &wrong);
    edge("cpl-unheard-of", "cpl-core", CODE, &wrong);
}

#[test]
fn tests_of_a_crate_have_a_wider_row() {
    edge("cpl-core", "cpl-store-embedded", TESTS, &[]);
    edge("cpl-core", "cpl-host", TESTS, &[]);
    edge("systems/lb", "cpl-store-embedded", TESTS, &[]);
    edge("systems/lb", "systems/probe", TESTS, &["crate-import"]);
    edge("cpl-core", "cpl-server", TESTS, &["crate-import"]);
}

#[test]
fn foreign_crates_stay_where_they_belong() {
    let wrong = ["foreign-crate"];
    edge("cpl-server", "axum", CODE, &[]);
    edge("cpl-agent", "axum", CODE, &wrong);
    edge("cpl-store-embedded", "redb", CODE, &[]);
    edge("cpl-server", "redb", CODE, &wrong);
    edge("cpl-store-postgres", "sqlx", CODE, &[]);
    edge("cpl-sim", "sqlx", TESTS, &wrong);
    edge("cpl-core", "hyper", CODE, &wrong);
    edge("cpl-core", "serde", CODE, &[]);
    edge("cpl-core", "proptest", TESTS, &[]);
    edge("systems/lb", "tokio", CODE, &wrong);
    edge("systems/lb", "tokio", TESTS, &[]);
}

#[test]
fn the_core_takes_only_the_sync_types_of_tokio() {
    let with = |feature: &str| {
        let mut core = krate("cpl-core", &[("tokio", CODE)]);
        core.edges[0].features.push(feature.to_owned());
        rules(&[core])
    };
    assert!(with("sync").is_empty());
    assert_eq!(with("time"), ["foreign-crate"]);
}

#[test]
fn crates_take_the_lints_of_the_workspace() {
    let with = |manifest: &str| {
        let mut api = krate("cpl-api", &[]);
        manifest.clone_into(&mut api.manifest);
        rules(&[api])
    };
    assert!(with("[lints]\n# all of them\nworkspace = true\n").is_empty());
    assert_eq!(with("[package]\nname = \"x\"\n"), ["workspace-lints"]);
    assert_eq!(
        with("[lints.rust]\nworkspace = true\n"),
        ["workspace-lints"]
    );
}

#[test]
fn code_makes_no_circles_but_tests_may() {
    let host = || krate("cpl-host", &[("cpl-core", CODE)]);
    assert!(rules(&[krate("cpl-core", &[("cpl-host", TESTS)]), host()]).is_empty());
    assert_eq!(
        rules(&[krate("cpl-core", &[("cpl-host", CODE)]), host()]),
        ["crate-import", "crate-circle", "crate-circle"]
    );
}

#[test]
fn findings_about_a_crate_name_the_line_of_its_manifest() {
    let mut host = krate("cpl-host", &[("cpl-api", CODE)]);
    host.manifest
        .push_str("\n[dependencies]\ncpl-api.workspace = true\n");
    let found = crates::check(&[host]);
    assert_eq!(
        found[0].to_string(),
        "cpl-host/Cargo.toml:8: crate-import: `cpl-host` may not import `cpl-api`"
    );
}

#[test]
fn backends_use_the_store_door() {
    let path = "cpl-store-embedded/src/lib.rs";
    good(path, "use cpl_core::store::{Key, Store};\n");
    bad(path, "use cpl_core::lease::Epoch;\n", "1: store-door");
    bad(
        path,
        "use cpl_core::{store::Key, lease::Epoch};\n",
        "1: store-door",
    );
    bad(path, "use cpl_core as core;\n", "1: store-door");
    bad(path, "fn f() { g!(cpl_core::clock::X) }\n", "1: store-door");
    good(
        path,
        "#[cfg(test)]\nmod tests { use cpl_core::clock::Clock; }\n",
    );
}

#[test]
fn slices_import_those_before_them() {
    let path = "cpl-core/src/lease/service.rs";
    good(path, "use crate::store::Store;\n");
    bad(path, "use crate::spec::Kind;\n", "1: slice-order");
    bad(
        path,
        "use crate::{ids::Uid, task::Task};\n",
        "1: slice-order",
    );
    bad(path, "use super::super::agent::Agent;\n", "1: slice-order");
    bad(
        path,
        "fn f() { crate::reconcile::run(); }\n",
        "1: slice-order",
    );
    bad(
        path,
        "mod inner { use super::super::super::task::X; }\n",
        "1: slice-order",
    );
    good(path, "mod inner { use super::super::model::X; }\n");
    good(path, "#[cfg(test)]\nmod t { use crate::task::Task; }\n");
    good("cpl-core/src/lease/tests.rs", "use crate::task::Task;\n");
    good(
        "cpl-core/src/lease/mod.rs",
        "mod task;\nuse self::task::Task;\n",
    );
}

#[test]
fn files_beside_the_slices_use_none() {
    bad(
        "cpl-core/src/ids.rs",
        "use crate::lease::Epoch;\n",
        "1: slice-order",
    );
    bad(
        "cpl-core/src/ids.rs",
        "use super::store::Key;\n",
        "1: slice-order",
    );
    good("cpl-core/src/error.rs", "use crate::store;\n");
    good("cpl-core/src/clock.rs", "use crate::ids::Uid;\n");
    good(
        "cpl-core/src/lib.rs",
        "#![warn(clippy::wildcard_enum_match_arm)]\npub use crate::task::Task;\n",
    );
}

#[test]
fn files_of_a_slice_import_to_their_left() {
    good("cpl-core/src/task/rules.rs", "use super::model::Task;\n");
    bad(
        "cpl-core/src/task/model.rs",
        "use super::rules::next;\n",
        "1: file-order",
    );
    bad(
        "cpl-core/src/task/rules.rs",
        "use crate::task::service::Tasks;\n",
        "1: file-order",
    );
    good(
        "cpl-core/src/task/model.rs",
        "use crate::lease::service::Leases;\n",
    );
}

#[test]
fn pure_files_neither_wait_nor_know_a_store() {
    bad(
        "cpl-core/src/task/rules.rs",
        "async fn f() {}\n",
        "1: pure-file",
    );
    bad(
        "systems/lb/src/plan.rs",
        "use cpl_core::store::Store;\n",
        "1: pure-file",
    );
    good(
        "cpl-core/src/task/service.rs",
        "use crate::store::Store;\nasync fn f() {}\n",
    );
    good(
        "cpl-core/src/task/rules.rs",
        "use crate::ids::StoreId;\n\nfn f() {}\n",
    );
    good("cpl-server/src/plan.rs", "async fn f() {}\n");
}

#[test]
fn files_have_the_names_of_their_siblings() {
    bad("cpl-core/src/task/extras.rs", "", "1: file-name");
    good("cpl-core/src/task/repo.rs", "");
    bad("cpl-core/src/tusk/model.rs", "", "1: file-name");
    good("cpl-core/src/store/conformance/watch.rs", "");
    bad("cpl-core/src/store/extras.rs", "", "1: file-name");
    bad("systems/lb/src/extras.rs", "", "1: file-name");
    good("systems/lb/src/workflows/drain.rs", "");
    bad("cpl-server/src/utils.rs", "", "1: file-name");
    bad("cpl-server/tests/common/mod.rs", "", "1: file-name");
    good("cpl-server/src/wiring.rs", "");
}

#[test]
fn files_are_short() {
    let path = "cpl-api/src/lib.rs";
    let full = "const A: u8 = 0;\n".repeat(600);
    good(path, &full);
    bad(path, &format!("{full}//\n"), "1: file-length");
    good(path, &format!("{full}#[cfg(test)]\nmod tests {{\n}}\n"));
    good("cpl-core/src/task/tests.rs", &format!("{full}//\n"));
}

#[test]
fn functions_are_short() {
    let path = "cpl-api/src/lib.rs";
    let long = |lines: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines));
    good(path, &long(70));
    bad(path, &long(71), "1: function-length");
    good(path, &long(70).replacen('\n', "\n\n    // Why.\n", 1));
    good(
        path,
        &format!(
            "#[expect(clippy::too_many_lines, reason = \"a table\")]\n{}",
            long(71)
        ),
    );
    bad(
        path,
        &format!("impl A {{ {} }}", long(71)),
        "1: function-length",
    );
    bad(
        path,
        &format!("proptest! {{ {} }}", long(71)),
        "1: function-length",
    );
}

#[test]
fn core_and_systems_warn_of_wildcard_arms() {
    let lint = "#![warn(clippy::wildcard_enum_match_arm)]\n";
    for path in ["cpl-core/src/lib.rs", "systems/lb/src/lib.rs"] {
        bad(path, "", "1: wildcard-lint");
        good(path, lint);
    }
    good("cpl-api/src/lib.rs", "");
}

#[test]
fn ambient_time_and_chance_enter_in_one_crate() {
    for text in [
        "fn f() { std::time::SystemTime::now(); }\n",
        "fn f() { g!(Instant::now()) }\n",
        "fn f() { uuid::Uuid::new_v4(); }\n",
        "fn f() { getrandom::fill(b); }\n",
        "fn f() { rand::rng(); }\n",
    ] {
        bad("cpl-server/src/wiring.rs", text, "1: banned");
        good("cpl-host/src/lib.rs", text);
        good("cpl-server/tests/it/main.rs", text);
    }
    good(
        "cpl-server/src/wiring.rs",
        "// Instant::now is banned\nconst A: &str = \"Instant::now\";\n",
    );
}

#[test]
fn nothing_pure_depends_on_the_order_of_hashes() {
    for text in [
        "type A = HashMap<u8, u8>;\n",
        "use std::collections::HashSet;\n",
    ] {
        bad("cpl-core/src/task/model.rs", text, "1: banned");
        bad("systems/lb/src/plan.rs", text, "1: banned");
        good("cpl-server/src/wiring.rs", text);
    }
}

#[test]
fn banned_words_are_found() {
    for text in [
        "#[allow(dead_code)]\nfn f() {}\n",
        "#![allow(dead_code)]\n",
        "#[ignore = \"slow\"]\nfn f() {}\n",
        "#[should_panic]\nfn f() {}\n",
        "fn f() { dbg!(1); }\n",
        "fn f() { todo!() }\n",
        "fn f() { unimplemented!() }\n",
        "fn f() { println!(); }\n",
        "fn f() { eprint!(\"\"); }\n",
    ] {
        bad("cpl-agent/src/driver.rs", text, "1: banned");
        bad("cpl-agent/tests/it/main.rs", text, "1: banned");
    }
    let channel = "fn f() { mpsc::unbounded_channel(); }\n";
    bad("cpl-agent/src/driver.rs", channel, "1: banned");
    bad(
        "cpl-agent/src/driver.rs",
        "fn f() { std::process::exit(1); }\n",
        "1: banned",
    );
    good(
        "cpl-agent/src/output.rs",
        "fn f() { println!(); eprintln!(); }\n",
    );
    good(
        "cpl-agent/src/driver.rs",
        "fn f() { let ignore = allow(todo); }\n",
    );
}

#[test]
fn one_file_maps_errors_to_statuses() {
    let text = "use axum::http::StatusCode;\n";
    bad("cpl-server/src/api/nodes.rs", text, "1: banned");
    good("cpl-server/src/api/error.rs", text);
    good("cpl-server/tests/it/main.rs", text);
    good("cpl-agent/src/driver.rs", text);
}

#[test]
fn expecting_a_lint_needs_a_reason() {
    let path = "cpl-api/src/lib.rs";
    bad(path, "#[expect(clippy::exit)]\nfn f() {}\n", "1: reason");
    bad(path, "#![expect(dead_code)]\n", "1: reason");
    good(
        path,
        "#[expect(clippy::exit, reason = \"main\")]\nfn f() {}\n",
    );
    good(path, "fn f() { a[expect(1)]; }\n");
}

#[test]
fn types_are_named_after_what_they_are() {
    let path = "cpl-api/src/lib.rs";
    for name in [
        "LeaseManager",
        "LeaseHelper",
        "LeaseUtils",
        "LeaseWrapper",
        "Handler2",
    ] {
        bad(path, &format!("struct {name};\n"), "1: type-name");
        bad(path, &format!("type {name} = u8;\n"), "1: type-name");
    }
    good(path, "struct Lease;\nenum Managers {}\ntrait Handler {}\n");
}

#[test]
fn remarks_name_issues_and_hold_no_code() {
    let path = "cpl-api/src/lib.rs";
    bad(path, "// TODO: later\n", "1: comment");
    bad(path, "\n/// FIXME\nfn f() {}\n", "2: comment");
    bad(path, "fn f() {} /* XXX */\n", "1: comment");
    good(path, "// TODO(#12): later\n");
    good(
        path,
        "const A: &str = \"TODO\"; // Todos and MYTODO are words.\n",
    );
    bad(path, "// let a = b;\n", "1: comment");
    bad(
        path,
        "fn f() {\n    // self.close(a, b);\n}\n",
        "2: comment",
    );
    bad(path, "// use std::io;\n", "1: comment");
    good(
        path,
        "// The writer waits (see above);\n// let others go first.\n",
    );
}

#[test]
fn examples_in_the_documentation_are_compiled() {
    let path = "cpl-api/src/lib.rs";
    bad(path, "//! ```ignore\n//! a\n//! ```\n", "1: comment");
    bad(
        path,
        "/// ```rust,ignore\n/// a\n/// ```\nfn f() {}\n",
        "1: comment",
    );
    good(
        path,
        "//! ```text\n//! a\n//! ```\n//! ```no_run\n//! ```\n",
    );
}

#[test]
fn imports_stand_in_three_groups() {
    let path = "cpl-server/src/wiring.rs";
    good(
        path,
        "mod own;\n\nuse std::io;\n\nuse bytes::Bytes;\nuse cpl_core::ids;\nuse serde::Serialize;\n\nuse crate::a;\nuse own::B;\n",
    );
    bad(
        path,
        "use bytes::Bytes;\n\nuse std::io;\n",
        "3: import-groups",
    );
    bad(
        path,
        "use crate::a;\n\nuse bytes::Bytes;\n",
        "3: import-groups",
    );
    bad(
        path,
        "use std::io;\nuse bytes::Bytes;\n",
        "2: import-groups",
    );
    bad(path, "use std::io;\n\nuse std::fmt;\n", "3: import-groups");
    good(path, "use std::io;\n\npub use crate::a;\nuse std::fmt;\n");
    good(path, "use crate::a;\n\nfn f() {}\n\nuse std::fmt;\n");
}

#[test]
fn tests_are_never_repeated() {
    assert!(retries_in("n", "retries = 0 # a flake is a bug\n").is_empty());
    assert_eq!(retries_in("n", "a = 1\nretries = 2\n")[0].line, 2);
    assert_eq!(retries_in("n", "retries = { count = 1 }\n").len(), 1);
}

#[test]
fn what_is_not_rust_is_refused() {
    Source::read("a.rs", "fn f() {").unwrap_err();
}

#[test]
fn only_what_follows_a_test_attribute_is_a_test() {
    let path = "cpl-api/src/lib.rs";
    bad(
        path,
        "#[cfg(test)]\nmod tests;\nfn f() { Instant::now(); }\n",
        "3: banned",
    );
    bad(
        path,
        "#[test]\nfn t() {}\nfn f() { Instant::now(); }\n",
        "3: banned",
    );
    bad(
        path,
        "#[cfg(not(test))]\nfn f() { Instant::now(); }\n",
        "2: banned",
    );
    good(path, "#[test]\nfn t() { Instant::now(); }\n");
    good(path, "#[cfg(all(test, unix))]\nuse a::Instant::now;\n");
    good(path, "#![cfg(test)]\nfn f() { Instant::now(); }\n");
}
