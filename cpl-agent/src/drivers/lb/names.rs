//! How target groups and endpoints are called inside HAProxy.

use std::fmt::{Display, Formatter};

/// Longest name that goes into a configuration or a command.
const LONGEST: usize = 127;
const FRONTEND: &str = "fe_";
const BACKEND: &str = "be_";

/// Whether a name may stand in a configuration or a command.
///
/// HAProxy executes `;` and line ends inside a name as further commands, and takes a name with `:`
/// at runtime that it then refuses in a file.
pub(super) fn is_plain(name: &str) -> bool {
    (1..=LONGEST).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// The frontend of a target group.
pub(super) fn frontend(targetgroup: &str) -> String {
    format!("{FRONTEND}{targetgroup}")
}

/// The backend of a target group.
pub(super) fn backend(targetgroup: &str) -> String {
    format!("{BACKEND}{targetgroup}")
}

/// The target group of a backend; `None` for one that is not ours.
pub(super) fn targetgroup(backend: &str) -> Option<&str> {
    backend.strip_prefix(BACKEND)
}

/// One server of one backend, with names that are safe to send.
///
/// HAProxy's numbers are no identity: after a deletion the next server gets the number again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServerKey {
    backend: String,
    server: String,
}

impl ServerKey {
    /// The server of an endpoint; `None` when one of the names cannot be sent.
    pub(super) fn of(targetgroup: &str, endpoint: &str) -> Option<Self> {
        Self::named(&backend(targetgroup), endpoint)
    }

    /// A server by HAProxy's own names; `None` when one of them cannot be sent.
    pub(super) fn named(backend: &str, server: &str) -> Option<Self> {
        (is_plain(backend) && is_plain(server)).then(|| Self {
            backend: backend.to_owned(),
            server: server.to_owned(),
        })
    }

    /// The name of its target group; `None` when the backend is not ours.
    pub(super) fn targetgroup(&self) -> Option<&str> {
        targetgroup(&self.backend)
    }

    /// Its backend.
    pub(super) fn backend(&self) -> &str {
        &self.backend
    }

    /// Its own name, which is the endpoint's id.
    pub(super) fn server(&self) -> &str {
        &self.server
    }
}

impl Display for ServerKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.backend, self.server)
    }
}
