//! Whether the addresses that a configuration would listen on can be had.
//!
//! HAProxy's own check does not try. A reload that cannot bind one address makes HAProxy refuse the
//! connections of all of them for two seconds; and since HAProxy binds with `SO_REUSEPORT`, another
//! process that does as well would silently share the connections.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

use cpl_core::delivery::Stage;
use socket2::{Domain, Socket, Type};

use super::read::object;
use super::render::Listener;
use crate::driver::Rejection;

/// Tries every listener of `wanted` that `held`, which runs already, does not have.
pub(super) fn refused(wanted: &[Listener], held: &[SocketAddr]) -> Vec<Rejection> {
    wanted
        .iter()
        .filter(|w| !held.contains(&w.address))
        .filter_map(|w| {
            try_bind(w.address, sharing(w.address, held))
                .err()
                .map(|e| (w, e))
        })
        .map(|(listener, error)| rejection(listener, &error))
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    Nobody,
    Ourselves,
}

/// All addresses of a port and one address of it exclude each other. Where the running process has
/// the one and the other is wanted, only sharing can be tried.
fn sharing(wanted: SocketAddr, held: &[SocketAddr]) -> Sharing {
    let overlaps = |held: &SocketAddr| {
        held.port() == wanted.port() && (held.ip().is_unspecified() || wanted.ip().is_unspecified())
    };
    if held.iter().any(overlaps) {
        Sharing::Ourselves
    } else {
        Sharing::Nobody
    }
}

fn try_bind(address: SocketAddr, sharing: Sharing) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier listener that linger are no obstacle.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Ourselves)?;
    socket.bind(&address.into())?;
    match sharing {
        Sharing::Nobody => socket.listen(1),
        // A listening socket would be given connections of the running process.
        Sharing::Ourselves => Ok(()),
    }
}

fn rejection(listener: &Listener, error: &io::Error) -> Rejection {
    let address = listener.address;
    let (code, why) = match error.kind() {
        io::ErrorKind::AddrInUse => ("ADDRESS_IN_USE", "another process listens there".to_owned()),
        io::ErrorKind::AddrNotAvailable => (
            "ADDRESS_NOT_AVAILABLE",
            "this machine does not have the address".to_owned(),
        ),
        io::ErrorKind::PermissionDenied => ("ADDRESS_FORBIDDEN", error.to_string()),
        _ => ("ADDRESS_REFUSED", error.to_string()),
    };
    Rejection {
        object: Some(object(&listener.targetgroup)),
        stage: Stage::Preflight,
        code: code.to_owned(),
        field: Some("/spec/port".to_owned()),
        message: format!("cannot listen on {address}: {why}"),
    }
}

/// The TCP addresses that some processes listen on: the kernel's word, since what a process was
/// configured with may not be known.
pub(super) fn held<'a>(pids: impl Iterator<Item = &'a u32>) -> Vec<SocketAddr> {
    let sockets: BTreeSet<String> = pids.flat_map(|pid| sockets_of(*pid)).collect();
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, &sockets))
        .collect()
}

fn sockets_of(pid: u32) -> Vec<String> {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    open.flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|target| {
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect()
}

fn listening(table: &str, inodes: &BTreeSet<String>) -> Vec<SocketAddr> {
    const LISTEN: &str = "0A";
    let rows = table.lines().skip(1).filter_map(|row| {
        let columns: Vec<&str> = row.split_whitespace().collect();
        let ours = *columns.get(3)? == LISTEN && inodes.contains(*columns.get(9)?);
        ours.then(|| kernel_address(columns[1])).flatten()
    });
    rows.collect()
}

/// `0B00007F:0050` is 127.0.0.11 port 80: the kernel prints each four bytes of an address as one number
/// of the machine.
fn kernel_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Whether this machine has IPv6.
pub(super) fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None).is_ok_and(|socket| {
        let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
        socket.bind(&any.into()).is_ok()
    })
}
