//! An etcd and a PostgreSQL for people to try CPL on.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::failure::Failure;
use crate::process::{program, run};
use crate::programs::{is_root, postgres};
use crate::{output, programs};

/// Where they listen, on loopback only; their own ports may be taken by others of their kind.
const ETCD: u16 = 12_379;
const ETCD_PEER: u16 = 12_380;
const POSTGRES: u16 = 15_432;
/// PostgreSQL does not run as root; this is `nobody` on every Linux.
const NOBODY: u32 = 65_534;
/// How long a server may take to begin or end.
const LOOKS: usize = 200;
const LOOK: Duration = Duration::from_millis(50);

/// Starts both and says where they are.
///
/// # Errors
/// When they run already, or cannot be started; then what was started is stopped.
pub(crate) fn up() -> Result<(), Failure> {
    let dir = dir();
    if dir.exists() {
        let what = format!(
            "{} exists: they run already, or were not stopped with `cargo xtask backends down`",
            dir.display()
        );
        return Err(Failure::new(what));
    }
    programs::install_missing()?;
    fs::create_dir(&dir).map_err(|error| failed("make a folder", &error))?;
    if let Err(failure) = start_etcd(&dir).and_then(|()| start_postgres(&dir)) {
        down()?;
        return Err(failure);
    }
    output::line(format_args!("etcd://127.0.0.1:{ETCD}/cpl"));
    output::line(format_args!("postgres://cpl@127.0.0.1:{POSTGRES}/plane"));
    output::line("for example: cpl serve --store etcd://127.0.0.1:12379/cpl");
    output::line(
        "nobody is asked for a password; `cargo xtask backends down` stops both and removes what they hold",
    );
    Ok(())
}

/// Stops both and removes what they hold. Does nothing when they are not there.
///
/// # Errors
/// When one does not end.
pub(crate) fn down() -> Result<(), Failure> {
    let dir = dir();
    if let Ok(pid) = fs::read_to_string(dir.join("etcd.pid")) {
        stop(pid.trim())?;
    }
    let data = dir.join("postgres/data");
    if data.join("postmaster.pid").is_file() {
        let mut command = postgres_program("pg_ctl", &dir)?;
        run(command
            .args(["-s", "-m", "fast", "-w", "stop", "-D"])
            .arg(data))?;
    }
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(|error| failed("remove the folder", &error))?;
    }
    output::line("backends: stopped");
    Ok(())
}

fn dir() -> PathBuf {
    std::env::temp_dir().join("cpl-backends")
}

fn failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot {what}: {error}"))
}

fn start_etcd(dir: &Path) -> Result<(), Failure> {
    let log = dir.join("etcd.log");
    let opened = || -> std::io::Result<(File, File)> {
        let file = File::create(&log)?;
        Ok((file.try_clone()?, file))
    };
    let (out, err) = opened().map_err(|error| failed("write a log", &error))?;
    let (client, peer) = (
        format!("http://127.0.0.1:{ETCD}"),
        format!("http://127.0.0.1:{ETCD_PEER}"),
    );
    let mut command = program("etcd", &[]);
    command
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        // What ends this command from a terminal is not meant for it.
        .process_group(0);
    let mut child = command
        .spawn()
        .map_err(|error| failed("start etcd", &error))?;
    let pid = child.id().to_string();
    fs::write(dir.join("etcd.pid"), &pid).map_err(|error| failed("write a file", &error))?;
    for _ in 0..LOOKS {
        if TcpStream::connect(("127.0.0.1", ETCD)).is_ok() && matches!(child.try_wait(), Ok(None)) {
            return Ok(());
        }
        sleep(LOOK);
    }
    Err(Failure::new(format!(
        "etcd does not start:\n{}",
        fs::read_to_string(log).unwrap_or_default()
    )))
}

fn start_postgres(dir: &Path) -> Result<(), Failure> {
    let own = dir.join("postgres");
    fs::create_dir(&own).map_err(|error| failed("make a folder", &error))?;
    if is_root() {
        chown(&own, Some(NOBODY), Some(NOBODY)).map_err(|error| failed("give it away", &error))?;
    }
    let data = own.join("data");
    let mut init = postgres_program("initdb", dir)?;
    init.args([
        "--auth=trust",
        "--username=owner",
        "--no-locale",
        "--encoding=UTF8",
        "-D",
    ]);
    run(init.arg(&data).stdout(Stdio::null()))?;
    let settings = format!(
        "-c listen_addresses=127.0.0.1 -c port={POSTGRES} -c unix_socket_directories={}",
        own.display()
    );
    let mut start = postgres_program("pg_ctl", dir)?;
    start.args(["-s", "-w", "start", "-o", &settings, "-l"]);
    run(start
        .arg(own.join("log"))
        .arg("-D")
        .arg(&data)
        .stdout(Stdio::null()))?;
    for sql in ["CREATE ROLE cpl LOGIN", "CREATE DATABASE plane OWNER cpl"] {
        let mut psql = postgres_program("psql", dir)?;
        psql.args(["-q", "-U", "owner", "-p", &POSTGRES.to_string(), "-h"])
            .arg(&own);
        run(psql.args(["-d", "postgres", "-c", sql]))?;
    }
    Ok(())
}

/// One of PostgreSQL's programs, as an ordinary user.
fn postgres_program(name: &str, dir: &Path) -> Result<Command, Failure> {
    let path = postgres(name).ok_or_else(|| {
        Failure::new(format!(
            "{name} is missing: it is in Debian's package postgresql"
        ))
    })?;
    let mut command = Command::new(path);
    command.current_dir(dir);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    Ok(command)
}

/// Ends a process with SIGTERM and waits until it is gone.
fn stop(pid: &str) -> Result<(), Failure> {
    let process = Path::new("/proc").join(pid);
    // Its number may be another's by now.
    let command = fs::read(process.join("cmdline")).unwrap_or_default();
    let own = String::from_utf8_lossy(&command).contains("cpl-backends");
    let there = || process.exists();
    if !own || !there() {
        return Ok(());
    }
    run(&mut program("kill", &[pid]))?;
    for _ in 0..LOOKS {
        if !there() {
            return Ok(());
        }
        sleep(LOOK);
    }
    Err(Failure::new(format!("etcd (process {pid}) does not end")))
}
