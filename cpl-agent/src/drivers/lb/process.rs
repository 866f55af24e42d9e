//! Starting HAProxy, asking it to judge a file, and ending it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cpl_core::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::files::{Files, failed};
use crate::driver::Unavailable;

/// How long `haproxy -c` may take: a tenth of a second for two hundred backends.
const CHECK_PATIENCE: Duration = Duration::from_secs(30);
/// How long connections may go on when HAProxy is told to end.
const SOFT_STOP: Duration = Duration::from_secs(2);
/// How long it may take to end at once.
const HARD_STOP: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);

/// The program.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// Where it is.
    pub(super) binary: PathBuf,
    /// For timeouts.
    pub(super) clock: Arc<dyn Clock>,
}

/// What `haproxy -c` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The file is valid.
    Valid,
    /// It is not; what was printed.
    Invalid(String),
}

impl Program {
    /// Has HAProxy judge a file. Nothing is bound and nothing is started.
    pub(super) async fn judge(&self, file: &Path) -> Result<Verdict, Unavailable> {
        let mut command = Command::new(&self.binary);
        command.arg("-c").arg("-f").arg(file);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::select! {
            output = command.output() => output,
            () = self.clock.sleep(CHECK_PATIENCE) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        let output = output.map_err(|e| failed("run", &self.binary, e))?;
        if output.status.success() {
            return Ok(Verdict::Valid);
        }
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(1) => Ok(Verdict::Invalid(printed)),
            // 2 is a file without a listener, which is never written; none is a signal.
            code => Err(Unavailable {
                what: format!("check the configuration: HAProxy ended with {code:?}: {printed}"),
                source: None,
            }),
        }
    }

    /// Starts a master with its worker in a process group of its own, so that neither the end of the
    /// agent nor a signal to its group touches it. Its output goes to a file for the same reason: a
    /// pipe would break with the agent.
    pub(super) fn start(&self, files: &Files) -> Result<Child, Unavailable> {
        let path = files.log();
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(|e| failed("open", &path, e))?;
        let second = log.try_clone().map_err(|e| failed("open", &path, e))?;
        let mut socket = files.master_socket().into_os_string();
        // Without a mode everybody could connect as far as the umask allows.
        socket.push(",mode,600,level,admin");
        let mut command = Command::new(&self.binary);
        command.arg("-W").arg("-S").arg(socket);
        command.arg("-f").arg(files.config());
        command.arg("-p").arg(files.pidfile());
        command.stdin(Stdio::null()).stdout(log).stderr(second);
        command.process_group(0).kill_on_drop(false);
        command
            .spawn()
            .map_err(|e| failed("start", &self.binary, e))
    }

    /// Ends a master and its workers: softly, then at once, then by force.
    pub(super) async fn end(&self, pids: &[u32]) -> Result<(), Unavailable> {
        let [master, ..] = pids else {
            return Ok(());
        };
        signal(*master, Signal::USR1);
        if self.ended(pids, SOFT_STOP).await {
            return Ok(());
        }
        signal(*master, Signal::TERM);
        if self.ended(pids, HARD_STOP).await {
            return Ok(());
        }
        for pid in pids.iter().filter(|pid| is_alive(**pid)) {
            signal(*pid, Signal::KILL);
        }
        if self.ended(pids, HARD_STOP).await {
            return Ok(());
        }
        Err(Unavailable {
            what: format!("end HAProxy, process {master}"),
            source: None,
        })
    }

    async fn ended(&self, pids: &[u32], patience: Duration) -> bool {
        let until = self.clock.monotonic().plus(patience);
        while pids.iter().any(|pid| is_alive(*pid)) {
            if self.clock.monotonic() >= until {
                return false;
            }
            self.clock.sleep(POLL).await;
        }
        true
    }
}

/// The master that the pidfile names, if it is alive and ours: after a restart of the machine the
/// number may be that of anything.
pub(super) fn recorded_master(files: &Files) -> Option<u32> {
    let pid = fs::read_to_string(files.pidfile()).ok()?;
    let pid = pid.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).into_owned();
    let socket = files.master_socket();
    let ours = is_alive(pid) && command.contains(&*socket.to_string_lossy());
    ours.then_some(pid)
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended in the meantime, which is what is wanted.
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process runs; one that has ended and waits for its parent does not.
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|rest| !rest.starts_with(['Z', 'X']))
}

/// How long the log is now.
pub(super) fn log_length(files: &Files) -> u64 {
    fs::metadata(files.log()).map_or(0, |m| m.len())
}

/// What was printed since the log had that length, 64 KiB at most.
pub(super) fn log_since(files: &Files, length: u64) -> String {
    let mut text = Vec::new();
    if let Ok(mut log) = File::open(files.log())
        && log.seek(SeekFrom::Start(length)).is_ok()
    {
        let _ = log.take(64 * 1024).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}
