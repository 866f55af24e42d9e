//! From what runs to what should.
//!
//! ```text
//! read -> render -> haproxy -c -> bind new listeners -> commands, read back ---------> keep file -> label
//!                                                  \-> keep file, reload, read back ----------------^
//!                                                  \-> keep file, start, read back -----------------^
//! ```
//!
//! Everything left of the branch has no effect on traffic. The file is rendered and checked even where
//! commands are enough, because the next reload, which may be anybody's, must lead to the same state.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use cpl_core::delivery::{Configuration, Stage};
use cpl_core::version::ConfigVersion;
use cpl_lb::plan::NodeConfig;

use super::files::write;
use super::haproxy::HaproxyDriver;
use super::observe::{Processes, Servers};
use super::plan::{Op, Plan, drift, plan};
use super::process::{Verdict, log_length, log_since};
use super::render::{Rendered, Surroundings, listeners, render};
use super::running::Running;
use super::socket::Kind;
use super::state::synthesise;
use super::{alerts, mark, preflight, read};
use crate::driver::{Applied, ApplyError, Label, Rejection, Unavailable};

/// How long a start or a reload may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long workers may outlive a master that was killed.
const WORKERS_END: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);
/// The label of a process that did not come to run what it was told: no label at all.
const UNVERIFIED: &str = "unverified";

/// A configuration on its way.
pub(super) struct Change<'a> {
    label: &'a Label,
    configuration: &'a Configuration,
    config: NodeConfig,
    mark: String,
    rendered: Rendered,
}

/// How a start or a reload ended.
enum Outcome {
    Succeeded,
    Failed,
}

impl HaproxyDriver {
    /// See [`crate::driver::Driver::check`].
    pub(super) async fn only_check(&self, configuration: &Configuration) -> Result<(), ApplyError> {
        let label = Label {
            incarnation: cpl_core::store::Incarnation(0),
            version: ConfigVersion(0),
            digest: configuration.digest(),
        };
        let change = self.prepare(&label, configuration)?;
        let file = self.files.checked();
        let judged = self.judge(&change, &file).await;
        let _ = fs::remove_file(file);
        judged?;
        let running = self.sockets.running(&self.files).await?;
        self.preflight(&change, running.as_ref())
    }

    /// See [`crate::driver::Driver::apply`].
    pub(super) async fn bring(
        &self,
        label: &Label,
        configuration: &Configuration,
    ) -> Result<Applied, ApplyError> {
        let change = self.prepare(label, configuration)?;
        let Some(running) = self.sockets.running(&self.files).await? else {
            return self.start(&change).await;
        };
        if running.processes.worker.is_none() {
            return Err(unavailable("change HAProxy: it has no worker").into());
        }
        let old = running.configured(&self.files);
        self.learn_delays(old.as_ref(), &change.config);
        match plan(&running.servers, old.as_ref(), &change.config) {
            Plan::Noop if running.mark.as_ref().is_some_and(|m| m.label == *label) => {
                Ok(Applied::Unchanged)
            },
            Plan::Noop => {
                self.judge(&change, &self.files.candidate()).await?;
                self.settle(&change, &running.servers).await?;
                Ok(Applied::Unchanged)
            },
            Plan::Runtime(ops) => self.change_at_runtime(&change, &running, ops).await,
            Plan::Reload(reasons) => {
                self.judge(&change, &self.files.candidate()).await?;
                self.preflight(&change, Some(&running))?;
                self.reload(&change, &running, reasons).await
            },
        }
    }

    /// Whether what runs would come to `config` by a reload only.
    pub(super) async fn would_reload(&self, config: &NodeConfig) -> bool {
        let Ok(Some(running)) = self.sockets.running(&self.files).await else {
            return true;
        };
        let old = running.configured(&self.files);
        matches!(
            plan(&running.servers, old.as_ref(), config),
            Plan::Reload(_)
        )
    }

    fn prepare<'a>(
        &self,
        label: &'a Label,
        configuration: &'a Configuration,
    ) -> Result<Change<'a>, ApplyError> {
        let config = read::read(configuration).map_err(ApplyError::Rejected)?;
        let (worker, alive) = (self.files.worker_socket(), self.files.alive_socket());
        let state = self.files.server_state();
        let around = Surroundings {
            worker_socket: &worker,
            alive_socket: &alive,
            state_file: &state,
            ipv6: self.ipv6,
        };
        let wrong = || unavailable("write the label: its digest is no digest");
        let rendered = render(&config, label, around).ok_or_else(wrong)?;
        let mark = mark::write(label).ok_or_else(wrong)?;
        Ok(Change {
            label,
            configuration,
            config,
            mark,
            rendered,
        })
    }

    /// The delays of what runs are needed for what the new configuration leaves out.
    fn learn_delays(&self, old: Option<&NodeConfig>, new: &NodeConfig) {
        let delays = &mut self.memory().delays;
        if let Some(old) = old {
            delays.learn(old);
        }
        delays.learn(new);
    }

    async fn judge(&self, change: &Change<'_>, file: &Path) -> Result<(), ApplyError> {
        write(file, change.rendered.text.as_bytes())?;
        match self.program.judge(file).await? {
            Verdict::Valid => Ok(()),
            Verdict::Invalid(printed) => {
                let _ = fs::remove_file(file);
                Err(rejected(&printed, &change.rendered, Stage::Check))
            },
        }
    }

    fn preflight(&self, change: &Change<'_>, running: Option<&Running>) -> Result<(), ApplyError> {
        let held: Vec<SocketAddr> = running.map_or_else(Vec::new, |running| {
            let Processes { worker, old, .. } = &running.processes;
            preflight::held(worker.iter().chain(old))
        });
        let refused = preflight::refused(&listeners(&change.config, self.ipv6), &held);
        if refused.is_empty() {
            Ok(())
        } else {
            Err(ApplyError::Rejected(refused))
        }
    }

    async fn change_at_runtime(
        &self,
        change: &Change<'_>,
        running: &Running,
        ops: Vec<Op>,
    ) -> Result<Applied, ApplyError> {
        self.judge(change, &self.files.candidate()).await?;
        let count = ops.len();
        if let Some(refused) = self.execute(&ops).await? {
            return self.reload(change, running, vec![refused]).await;
        }
        let servers = self.sockets.servers().await?;
        if let Some(first) = drift(&servers, &change.config).into_iter().next() {
            let reason = format!("after the commands, {}", first.what);
            return self.reload(change, running, vec![reason]).await;
        }
        self.settle(change, &servers).await?;
        Ok(Applied::Runtime(count))
    }

    /// Sends commands one by one; stops at the first that HAProxy refuses and says which.
    pub(super) async fn execute(&self, ops: &[Op]) -> Result<Option<String>, Unavailable> {
        for op in ops {
            let answer = self
                .sockets
                .worker
                .ask(&op.to_string(), Kind::Write)
                .await?;
            if !op.succeeded(&answer) {
                return Ok(Some(format!("\"{op}\" was answered: {}", answer.trim())));
            }
        }
        Ok(None)
    }

    /// Makes what runs permanent, and only then says so in the process.
    async fn settle(&self, change: &Change<'_>, servers: &Servers) -> Result<(), ApplyError> {
        self.files.remember(change.configuration)?;
        self.write_state(synthesise(&change.config, servers))?;
        self.files.promote()?;
        self.sockets.set_mark(&change.mark).await?;
        self.confirm_label(change).await
    }

    async fn confirm_label(&self, change: &Change<'_>) -> Result<(), ApplyError> {
        let mark = self.sockets.mark().await?;
        if mark.is_some_and(|mark| mark.label == *change.label) {
            return Ok(());
        }
        Err(unavailable("leave the label in HAProxy: it shows another one").into())
    }

    /// Writes the server state, for the next reload.
    pub(super) fn write_state(&self, state: String) -> Result<(), Unavailable> {
        write(&self.files.server_state(), state.as_bytes())?;
        self.memory().server_state = state;
        Ok(())
    }

    async fn reload(
        &self,
        change: &Change<'_>,
        running: &Running,
        reasons: Vec<String>,
    ) -> Result<Applied, ApplyError> {
        // Commands may have changed it since.
        let servers = self.sockets.servers().await?;
        let state = fs::read(self.files.server_state()).unwrap_or_default();
        self.files.remember(change.configuration)?;
        self.write_state(synthesise(&change.config, &servers))?;
        let printed = log_length(&self.files);
        self.files.promote()?;
        match self.reload_outcome(change, &running.processes).await? {
            Outcome::Succeeded => {},
            Outcome::Failed => {
                self.files.demote()?;
                write(&self.files.server_state(), &state)?;
                return Err(self.explain(change, printed));
            },
        }
        self.confirm_servers(change).await?;
        Ok(Applied::Reloaded(reasons))
    }

    /// HAProxy 2.6 answers `reload` with nothing: how it ended is told by the list of processes.
    async fn reload_outcome(
        &self,
        change: &Change<'_>,
        before: &Processes,
    ) -> Result<Outcome, Unavailable> {
        // An answer may be lost with the connection; the list tells all the same.
        let asked = self.sockets.master.ask("reload", Kind::Write).await;
        let until = self.clock.monotonic().plus(PATIENCE);
        while self.clock.monotonic() < until {
            let now = self.sockets.processes().await?;
            if now.reloads > before.reloads {
                if now.failed > 0 || now.worker == before.worker {
                    return Ok(Outcome::Failed);
                }
                let mark = self.sockets.mark().await?;
                if mark.is_some_and(|mark| mark.label == *change.label) {
                    return Ok(Outcome::Succeeded);
                }
            }
            self.clock.sleep(POLL).await;
        }
        asked?;
        Err(unavailable("reload HAProxy: nothing came of it"))
    }

    /// The label of a new worker comes from its file, before anybody has looked: it is taken away again
    /// where the servers are not as they should be.
    async fn confirm_servers(&self, change: &Change<'_>) -> Result<(), ApplyError> {
        let servers = self.sockets.servers().await?;
        let Some(first) = drift(&servers, &change.config).into_iter().next() else {
            return Ok(());
        };
        self.sockets.set_mark(UNVERIFIED).await?;
        let what = format!("bring HAProxy to what it should run: {}", first.what);
        Err(unavailable(&what).into())
    }

    async fn start(&self, change: &Change<'_>) -> Result<Applied, ApplyError> {
        self.judge(change, &self.files.candidate()).await?;
        self.preflight_patiently(change).await?;
        self.learn_delays(None, &change.config);
        self.files.remember(change.configuration)?;
        self.write_state(synthesise(&change.config, &Servers::default()))?;
        let printed = log_length(&self.files);
        self.files.promote()?;
        match self.start_outcome(change).await? {
            Outcome::Succeeded => {},
            Outcome::Failed => return Err(self.explain(change, printed)),
        }
        self.confirm_servers(change).await?;
        Ok(Applied::Started)
    }

    /// Before a start: where a master was killed, its workers hold the addresses a moment longer, and
    /// that is no fault of any object.
    async fn preflight_patiently(&self, change: &Change<'_>) -> Result<(), ApplyError> {
        let until = self.clock.monotonic().plus(WORKERS_END);
        loop {
            let tried = self.preflight(change, None);
            if tried.is_ok() || self.clock.monotonic() >= until {
                return tried;
            }
            self.clock.sleep(POLL).await;
        }
    }

    async fn start_outcome(&self, change: &Change<'_>) -> Result<Outcome, Unavailable> {
        let mut child = self.program.start(&self.files)?;
        let until = self.clock.monotonic().plus(PATIENCE);
        while self.clock.monotonic() < until {
            // A child that cannot be asked is treated as one that goes on: the label decides.
            if let Ok(Some(_)) = child.try_wait() {
                return Ok(Outcome::Failed);
            }
            if self.sockets.worker.is_answered().await && self.sockets.master.is_answered().await {
                let mark = self.sockets.mark().await?;
                let settled = self.sockets.processes().await?.worker.is_some();
                if settled && mark.is_some_and(|mark| mark.label == *change.label) {
                    return Ok(Outcome::Succeeded);
                }
            }
            self.clock.sleep(POLL).await;
        }
        Err(unavailable("start HAProxy: it does not answer"))
    }

    /// Why a start or a reload failed, from what HAProxy printed. It was checked before, so an address
    /// that was taken in the last moment is the likeliest reason.
    fn explain(&self, change: &Change<'_>, printed: u64) -> ApplyError {
        let printed = log_since(&self.files, printed);
        rejected(&printed, &change.rendered, Stage::Apply)
    }
}

/// What was printed, as rejections; where none of it is about an object, HAProxy is at fault and not
/// the configuration.
fn rejected(printed: &str, rendered: &Rendered, stage: Stage) -> ApplyError {
    let rejections: Vec<Rejection> = alerts::rejections(printed, rendered, stage);
    if stage == Stage::Apply && rejections.iter().all(|r| r.object.is_none())
        || rejections.is_empty()
    {
        return unavailable(&format!("have HAProxy take its file: {}", printed.trim())).into();
    }
    ApplyError::Rejected(rejections)
}

fn unavailable(what: &str) -> Unavailable {
    Unavailable {
        what: what.to_owned(),
        source: None,
    }
}
