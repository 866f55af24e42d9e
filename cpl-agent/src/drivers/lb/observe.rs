//! What HAProxy answers when it is asked, understood. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use cpl_lb::spec::{Endpoint, EndpointStatus};

use super::names::ServerKey;

/// An answer that is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("HAProxy's answer has no {0}")]
pub(super) struct Unreadable(String);

fn lacks(what: &str) -> Unreadable {
    Unreadable(what.to_owned())
}

/// One row of `show servers state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// Its name.
    pub(super) key: ServerKey,
    /// Where it is.
    pub(super) address: SocketAddr,
    /// What it weighs; the `weight` of `show stat` is 1 in maintenance whatever it is.
    pub(super) weight: u16,
    operational: u8,
    admin: u32,
    check_result: u8,
}

/// What an operator, not a health check, made of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admin {
    /// It serves while it is healthy.
    Ready,
    /// It gets nothing that does not have to go there.
    Drain,
    /// It gets nothing and is not checked.
    Maintenance,
}

/// How the newest health check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckResult {
    /// No check has ended.
    Unknown,
    /// It failed.
    Failed,
    /// It passed.
    Passed,
}

impl Server {
    /// The bits 1, 2 and 32 are maintenance by a command, by a tracked server, and by the name
    /// service. The bit 4 only says that the file has `disabled`: it stays when a command has made
    /// the server ready, and the server then serves.
    pub(super) const fn admin(&self) -> Admin {
        if self.admin & (1 | 2 | 32) != 0 {
            Admin::Maintenance
        } else if self.admin & (8 | 16) != 0 {
            Admin::Drain
        } else {
            Admin::Ready
        }
    }

    /// Whether it is in maintenance.
    pub(super) fn is_in_maintenance(&self) -> bool {
        self.admin() == Admin::Maintenance
    }

    /// Whether health checks let it serve.
    pub(super) const fn is_running(&self) -> bool {
        matches!(self.operational, 1 | 2)
    }

    /// How the newest health check ended. In a server that is down although it passed, the checks
    /// have not passed often enough.
    pub(super) const fn check_result(&self) -> CheckResult {
        match self.check_result {
            2 => CheckResult::Failed,
            // 4 is a check that passed while the server asked for no new sessions.
            3 | 4 => CheckResult::Passed,
            _ => CheckResult::Unknown,
        }
    }

    /// Whether it is where the endpoint is.
    pub(super) fn is_at(&self, endpoint: &Endpoint) -> bool {
        self.address == SocketAddr::new(endpoint.ip, endpoint.port)
    }

    /// Whether new connections go there.
    pub(super) fn serves(&self) -> bool {
        self.admin() == Admin::Ready && self.is_running() && self.weight > 0
    }
}

/// The administrative state that an endpoint's status asks for.
pub(super) const fn wanted(status: EndpointStatus) -> Admin {
    match status {
        EndpointStatus::Up => Admin::Ready,
        EndpointStatus::Down => Admin::Maintenance,
        EndpointStatus::Drain => Admin::Drain,
    }
}

/// All servers of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Servers(BTreeMap<ServerKey, Server>);

impl Servers {
    /// The server of that name.
    pub(super) fn get(&self, backend: &str, server: &str) -> Option<&Server> {
        self.0.get(&ServerKey::named(backend, server)?)
    }

    /// All of them, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Server> {
        self.0.values()
    }
}

impl FromIterator<Server> for Servers {
    fn from_iter<I: IntoIterator<Item = Server>>(servers: I) -> Self {
        Self(servers.into_iter().map(|s| (s.key.clone(), s)).collect())
    }
}

/// Reads `show servers state`. Servers without an address (by name, on a Unix socket) are not ours
/// and are left out.
pub(super) fn servers(text: &str) -> Result<Servers, Unreadable> {
    let mut lines = text.lines();
    if lines.next().map(str::trim) != Some("1") {
        return Err(lacks("server state of format 1"));
    }
    let columns = Columns::of(lines.next().unwrap_or_default(), ' ');
    let rows = lines.filter(|line| !line.trim().is_empty());
    let servers = rows.map(|row| server(&columns, row));
    let servers: Result<Vec<_>, _> = servers.collect();
    Ok(servers?.into_iter().flatten().collect())
}

fn server(columns: &Columns, row: &str) -> Result<Option<Server>, Unreadable> {
    let row: Vec<&str> = row.split(' ').collect();
    let name = (
        columns.text(&row, "be_name")?,
        columns.text(&row, "srv_name")?,
    );
    let ip = columns.text(&row, "srv_addr")?.parse::<IpAddr>();
    let (Some(key), Ok(ip)) = (ServerKey::named(name.0, name.1), ip) else {
        return Ok(None);
    };
    Ok(Some(Server {
        key,
        address: SocketAddr::new(ip, columns.number(&row, "srv_port")?),
        weight: columns.number(&row, "srv_uweight")?,
        operational: columns.number(&row, "srv_op_state")?,
        // Decimal, although it is a mask: 10 and 16 read as hexadecimal say the contrary.
        admin: columns.number(&row, "srv_admin_state")?,
        check_result: columns.number(&row, "srv_check_result")?,
    }))
}

/// One row of `show stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StatRow {
    /// The frontend or backend.
    pub(super) proxy: String,
    /// The server, `FRONTEND` or `BACKEND`.
    pub(super) server: String,
    /// Sessions now, queued ones included.
    pub(super) sessions: u64,
    /// For example `UP`, `DRAIN`, `OPEN`.
    pub(super) status: String,
    /// For example `L4OK`; empty in maintenance.
    pub(super) check_status: String,
}

/// Reads `show stat`, by the names of its columns: every version of HAProxy adds some.
pub(super) fn stats(text: &str) -> Result<Vec<StatRow>, Unreadable> {
    let mut lines = text.lines();
    let columns = Columns::of(lines.next().unwrap_or_default(), ',');
    lines
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let row: Vec<&str> = line.split(',').collect();
            let count = |column| {
                let text = columns.text(&row, column)?;
                // Frontends have no queue.
                Ok(text.parse::<u64>().unwrap_or(0))
            };
            // A star in front says that a check is going on.
            let check = columns.text(&row, "check_status")?;
            Ok(StatRow {
                proxy: columns.text(&row, "pxname")?.to_owned(),
                server: columns.text(&row, "svname")?.to_owned(),
                sessions: count("scur")?.saturating_add(count("qcur")?),
                status: columns.text(&row, "status")?.to_owned(),
                check_status: check.trim_start_matches("* ").to_owned(),
            })
        })
        .collect()
}

struct Columns(BTreeMap<String, usize>);

impl Columns {
    fn of(header: &str, separator: char) -> Self {
        let names = header.trim_start_matches("# ").split(separator);
        Self(names.zip(0..).map(|(n, at)| (n.to_owned(), at)).collect())
    }

    fn text<'a>(&self, row: &[&'a str], column: &str) -> Result<&'a str, Unreadable> {
        let at = self.0.get(column).ok_or_else(|| lacks(column))?;
        row.get(*at).copied().ok_or_else(|| lacks(column))
    }

    fn number<N: std::str::FromStr>(&self, row: &[&str], column: &str) -> Result<N, Unreadable> {
        let text = self.text(row, column)?;
        text.parse().map_err(|_| lacks(column))
    }
}

/// The processes that `show proc` lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Processes {
    /// The master, the same over reloads.
    pub(super) master: u32,
    /// How many reloads were tried.
    pub(super) reloads: u64,
    /// How many of the last ones failed in a row.
    pub(super) failed: u64,
    /// The worker that takes connections.
    pub(super) worker: Option<u32>,
    /// Workers that only finish the connections that they have.
    pub(super) old: Vec<u32>,
}

/// Reads `show proc`.
pub(super) fn processes(text: &str) -> Result<Processes, Unreadable> {
    let (mut master, mut worker, mut old) = (None, None, Vec::new());
    let mut section = "";
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("# ") {
            section = title.trim();
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(pid) = words.first().and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        match (words.get(1).copied(), section) {
            (Some("master"), _) => master = Some((pid, reloads(&words))),
            (Some("worker"), "workers") => worker = Some(pid),
            (Some("worker"), "old workers") => old.push(pid),
            _ => {},
        }
    }
    let (master, (reloads, failed)) = master.ok_or_else(|| lacks("master process"))?;
    Ok(Processes {
        master,
        reloads,
        failed,
        worker,
        old,
    })
}

fn reloads(words: &[&str]) -> (u64, u64) {
    let number = |at: usize| {
        let digits = words.get(at)?.trim_end_matches(']');
        digits.parse().ok()
    };
    let failed = match words.get(3) {
        Some(&"[failed:") => number(4),
        Some(_) | None => None,
    };
    (number(2).unwrap_or(0), failed.unwrap_or(0))
}

/// Reads the text value out of the answer to `get var`; `None` when there is no such variable.
pub(super) fn variable(text: &str) -> Option<&str> {
    let (_, value) = text.split_once("type=str value=<")?;
    value.trim_end().strip_suffix('>')
}

/// The sessions of `show sess`, each with the server that it goes to: their handles can be ended one
/// by one even in a worker that has been replaced, which knows no other command of that kind.
pub(super) fn sessions(text: &str) -> Vec<(ServerKey, String)> {
    text.lines().filter_map(session).collect()
}

fn session(line: &str) -> Option<(ServerKey, String)> {
    let (handle, rest) = line.split_once(':')?;
    let digits = handle.strip_prefix("0x")?;
    let known = digits.chars().all(|c| c.is_ascii_hexdigit());
    let word = |prefix| rest.split(' ').find_map(|w| w.strip_prefix(prefix));
    let key = ServerKey::named(word("be=")?, word("srv=")?)?;
    known.then(|| (key, handle.to_owned()))
}
