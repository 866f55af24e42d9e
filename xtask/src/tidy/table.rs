//! What tidy checks, as data: who may import whom, the order of slices, and what is banned.
//!
//! A change here is a change of the architecture or of the style: make it in a commit of its own, and
//! say why.

/// What one crate may import of this workspace. Crates are named by their folder; a `*` at the end
/// stands for the rest. The first row whose `of` fits counts.
#[derive(Debug)]
pub(crate) struct Imports {
    /// The crate.
    pub(crate) of: &'static str,
    /// What its code may import.
    pub(crate) code: &'static [&'static str],
    /// What its tests may import besides.
    pub(crate) tests: &'static [&'static str],
}

/// Who may import whom.
#[rustfmt::skip]
pub(crate) const IMPORTS: &[Imports] = &[
    Imports { of: "cpl-core", code: &[], tests: &["cpl-core", "cpl-host", "cpl-store-embedded"] },
    Imports { of: "cpl-host", code: &["cpl-core"], tests: &[] },
    Imports { of: "cpl-store-*", code: &["cpl-core"], tests: &["backends", "cpl-host", "cpl-store-embedded"] },
    Imports { of: "backends", code: &["cpl-core"], tests: &[] },
    Imports { of: "systems/*", code: &["cpl-core"], tests: &["cpl-host", "cpl-store-embedded"] },
    Imports { of: "cpl-api", code: &["cpl-core"], tests: &["cpl-host"] },
    Imports { of: "cpl-agent", code: &["cpl-api", "cpl-core", "cpl-host", "systems/*"], tests: &["cpl-store-embedded"] },
    Imports { of: "cpl-server", code: &["cpl-agent", "cpl-api", "cpl-core", "cpl-host", "cpl-store-*", "systems/*"], tests: &["backends"] },
    Imports { of: "cpl-sim", code: &["cpl-agent", "cpl-api", "cpl-core", "cpl-host", "cpl-server", "cpl-store-*", "systems/*"], tests: &[] },
    Imports { of: "examples/*", code: &["cpl-core", "cpl-host", "cpl-store-*"], tests: &[] },
    Imports { of: "bench", code: &["cpl-api", "cpl-core", "cpl-host", "cpl-server", "cpl-store-*"], tests: &[] },
    Imports { of: "xtask", code: &[], tests: &[] },
];

/// Foreign crates that one crate of ours alone may name: `(foreign, ours)`.
pub(crate) const FOREIGN_ALONE: &[(&str, &str)] = &[
    ("axum", "cpl-server"),
    ("etcd-client", "cpl-store-etcd"),
    ("redb", "cpl-store-embedded"),
    ("sqlx", "cpl-store-postgres"),
    ("turmoil", "cpl-sim"),
];

/// All foreign crates that the code of a pure crate may name: `(ours, foreign)`. None of them does
/// input or output, starts a thread or knows the time; tests may name any.
pub(crate) const FOREIGN_OF_PURE: &[(&str, &[&str])] = &[
    (
        "cpl-core",
        &[
            "async-trait",
            "base64",
            "bytes",
            "futures",
            "hex",
            "serde",
            "serde_json",
            "sha2",
            "thiserror",
            "tokio",
            "tracing",
        ],
    ),
    (
        "systems/*",
        &[
            "bytes",
            "hex",
            "serde",
            "serde_json",
            "sha2",
            "thiserror",
            "tracing",
        ],
    ),
];

/// The features of a foreign crate that a pure crate is held to: `(ours, foreign, features)`.
pub(crate) const FOREIGN_FEATURES: &[(&str, &str, &[&str])] = &[("cpl-core", "tokio", &["sync"])];

/// The slices of `cpl-core`; each imports only those before it.
pub(crate) const SLICES: &[&str] = &[
    "store",
    "txn",
    "access",
    "lease",
    "spec",
    "agent",
    "task",
    "delivery",
    "workflow",
    "reconcile",
];

/// Files beside the slices may be used by all and use no slice, with these exceptions: `(file, slice)`.
/// The error of the core says what a caller can do about an error of the store.
pub(crate) const BESIDE_SLICES: &[(&str, &str)] = &[("error", "store")];

/// The order of files inside a slice: left never imports right. `mod` is outside the order.
pub(crate) const FILE_ORDER: &[&str] = &["model", "rules", "repo", "service", "tests"];

/// The files or folders that a slice or a system may have, besides those in [`FILES_OF`].
pub(crate) const SLICE_FILES: &[&str] = &["mod", "model", "rules", "repo", "service", "tests"];

/// Slices with files of their own: `(slice, names)`.
pub(crate) const FILES_OF: &[(&str, &[&str])] = &[
    (
        "store",
        &[
            "cache",
            "conformance",
            "copy",
            "error",
            "faulty",
            "key",
            "memory",
            "mod",
            "seal",
            "tests",
            "text",
            "txn",
            "types",
            "watch",
        ],
    ),
    (
        "txn",
        &[
            "audit",
            "claim",
            "command",
            "error",
            "fenced",
            "history",
            "idempotency",
            "keys",
            "mod",
            "model",
            "repo",
            "rules",
            "service",
            "spec",
            "tests",
            "writer",
        ],
    ),
];

/// The files or folders that a system may have.
pub(crate) const SYSTEM_FILES: &[&str] = &[
    "action",
    "checks",
    "keys",
    "kinds",
    "lib",
    "observed",
    "plan",
    "render",
    "spec",
    "tests",
    "workflows",
];

/// Names that say nothing; no file has them anywhere.
pub(crate) const EMPTY_NAMES: &[&str] = &["common", "helpers", "misc", "types2", "utils"];

/// Pure files of core and systems: no `async` and no store in them.
pub(crate) const PURE_FILES: &[&str] = &["model", "rules", "plan", "render", "spec"];

/// Where [`PURE_FILES`], and the lint for wildcard arms, count.
pub(crate) const PURE_CRATES: &[&str] = &["cpl-core/", "systems/"];

/// Endings of type names that say nothing.
pub(crate) const EMPTY_ENDINGS: &[&str] = &[
    "Handler2", "Helper", "Helpers", "Manager", "Util", "Utils", "Wrapper",
];

/// First names of imports that are ours and stand in the third group; `*` stands for the rest.
pub(crate) const OURS: &[&str] = &["crate", "self", "super"];

/// Most lines of a file, tests not counted.
pub(crate) const MOST_LINES: usize = 600;
/// Most lines of code of a function; the same figure, counted the same way, as in `clippy.toml`.
pub(crate) const MOST_FN_LINES: usize = 70;

/// Something that no source may contain.
#[derive(Debug)]
pub(crate) struct Banned {
    /// The tokens, separated by spaces.
    pub(crate) tokens: &'static str,
    /// The paths where it counts, as beginnings; everywhere when empty.
    pub(crate) only: &'static [&'static str],
    /// The paths where it does not, as beginnings or (after a `*`) as endings.
    pub(crate) except: &'static [&'static str],
    /// Whether it counts in tests too.
    pub(crate) tests: bool,
    /// What to do instead.
    pub(crate) instead: &'static str,
}

const CLOCK: &[&str] = &["cpl-host/", "bench/", "xtask/"];
const OUTPUT: &[&str] = &["*/output.rs"];
const NO_HASH: &str = "order is part of the behaviour: take BTreeMap or BTreeSet";

/// What no source may contain.
#[rustfmt::skip]
pub(crate) const BANNED: &[Banned] = &[
    Banned { tokens: "SystemTime :: now", only: &[], except: CLOCK, tests: false, instead: "take the time from Clock" },
    Banned { tokens: "Instant :: now", only: &[], except: CLOCK, tests: false, instead: "take the time from Clock" },
    Banned { tokens: "Uuid :: new_v4", only: &[], except: CLOCK, tests: false, instead: "take ids from IdGen" },
    Banned { tokens: "getrandom ::", only: &[], except: CLOCK, tests: false, instead: "take randomness from IdGen" },
    Banned { tokens: "rand ::", only: &[], except: CLOCK, tests: false, instead: "take randomness from IdGen" },
    Banned { tokens: "HashMap", only: PURE_CRATES, except: &[], tests: false, instead: NO_HASH },
    Banned { tokens: "HashSet", only: PURE_CRATES, except: &[], tests: false, instead: NO_HASH },
    Banned { tokens: "unbounded_channel", only: &[], except: &[], tests: false, instead: "give the queue a bound from `limits`" },
    Banned { tokens: "process :: exit", only: &[], except: &[], tests: false, instead: "return ExitCode from main" },
    Banned { tokens: "StatusCode", only: &["cpl-server/src/"], except: &["cpl-server/src/api/error.rs"], tests: false, instead: "return an error; `api/error.rs` alone maps errors to statuses" },
    Banned { tokens: "# [ allow", only: &[], except: &[], tests: true, instead: "use #[expect(.., reason = \"..\")]" },
    Banned { tokens: "# ! [ allow", only: &[], except: &[], tests: true, instead: "use #![expect(.., reason = \"..\")]" },
    Banned { tokens: "# [ ignore", only: &[], except: &[], tests: true, instead: "mend the test or delete it; leaving out is the filter's job" },
    Banned { tokens: "# [ should_panic", only: &[], except: &[], tests: true, instead: "return an error, or assert on `catch_unwind`" },
    Banned { tokens: "dbg !", only: &[], except: &[], tests: true, instead: "remove it" },
    Banned { tokens: "todo !", only: &[], except: &[], tests: true, instead: "write it, or open an issue and leave it out" },
    Banned { tokens: "unimplemented !", only: &[], except: &[], tests: true, instead: "write it, or open an issue and leave it out" },
    Banned { tokens: "println !", only: &[], except: OUTPUT, tests: true, instead: "write through the crate's output.rs" },
    Banned { tokens: "print !", only: &[], except: OUTPUT, tests: true, instead: "write through the crate's output.rs" },
    Banned { tokens: "eprintln !", only: &[], except: OUTPUT, tests: true, instead: "write through the crate's output.rs, or trace" },
    Banned { tokens: "eprint !", only: &[], except: OUTPUT, tests: true, instead: "write through the crate's output.rs, or trace" },
];
