//! A driver without a data plane: it writes the file that HAProxy would get, and nothing reads it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use cpl_core::clock::Clock;
use cpl_core::delivery::{Configuration, DataPlaneState, Stage};
use serde_json::Value;

use super::files::{failed, write};
use super::process::{Program, Verdict};
use super::render::{Rendered, Surroundings, render};
use super::{alerts, read};
use crate::driver::{Applied, ApplyError, Drift, Driver, Label, Observed, Unavailable};

/// Where a [`RenderDriver`] writes, and which program judges what it writes.
#[derive(Clone, Debug)]
pub struct RenderConfig {
    /// Where `haproxy.cfg` and `label.json` go.
    pub state_dir: PathBuf,
    /// HAProxy, to check the file with `-c`. Where it does not exist, the file is not checked beyond its
    /// structure: a mistake that only HAProxy would see, such as a bad regular expression, passes.
    pub binary: PathBuf,
}

/// Writes HAProxy's file and stops there: **no data plane, no traffic**.
///
/// It is for machines without HAProxy, for trying out, and for large fleets in tests. What it applied is
/// remembered in a file beside, since there is no process that could carry the label.
#[derive(Debug)]
pub struct RenderDriver {
    folder: PathBuf,
    program: Option<Program>,
}

impl RenderDriver {
    /// A driver that writes into this directory. Makes it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(config: RenderConfig, clock: Arc<dyn Clock>) -> Result<Self, Unavailable> {
        let RenderConfig { state_dir, binary } = config;
        fs::create_dir_all(&state_dir).map_err(|e| failed("make", &state_dir, e))?;
        let program = binary.exists().then_some(Program { binary, clock });
        Ok(Self {
            folder: state_dir,
            program,
        })
    }

    fn config(&self) -> PathBuf {
        self.folder.join("haproxy.cfg")
    }

    fn label_file(&self) -> PathBuf {
        self.folder.join("label.json")
    }

    fn label(&self) -> Option<Label> {
        serde_json::from_slice(&fs::read(self.label_file()).ok()?).ok()
    }

    fn rendered(label: &Label, configuration: &Configuration) -> Result<Rendered, ApplyError> {
        let config = read::read(configuration).map_err(ApplyError::Rejected)?;
        // These are never made: they only have to be what HAProxy accepts.
        let around = Surroundings {
            worker_socket: Path::new("/run/cpl/worker.sock"),
            alive_socket: Path::new("/run/cpl/alive.sock"),
            state_file: Path::new("/run/cpl/servers.state"),
            ipv6: false,
        };
        let wrong = Unavailable {
            what: "write the label: its digest is no digest".to_owned(),
            source: None,
        };
        render(&config, label, around).ok_or_else(|| wrong.into())
    }

    async fn judge(&self, rendered: &Rendered) -> Result<(), ApplyError> {
        let Some(program) = &self.program else {
            return Ok(());
        };
        let file = self.folder.join("haproxy.cfg.check");
        write(&file, rendered.text.as_bytes())?;
        let verdict = program.judge(&file).await;
        let _ = fs::remove_file(&file);
        match verdict? {
            Verdict::Valid => Ok(()),
            Verdict::Invalid(printed) => Err(ApplyError::Rejected(alerts::rejections(
                &printed,
                rendered,
                Stage::Check,
            ))),
        }
    }
}

#[async_trait]
impl Driver for RenderDriver {
    fn name(&self) -> &'static str {
        "render"
    }

    fn carries_traffic(&self) -> bool {
        false
    }

    async fn observe(&self) -> Result<Observed, Unavailable> {
        Ok(Observed {
            state: DataPlaneState::None,
            label: self.label(),
        })
    }

    async fn check(&self, configuration: &Configuration) -> Result<(), ApplyError> {
        let label = Label {
            incarnation: cpl_core::store::Incarnation(0),
            version: cpl_core::version::ConfigVersion(0),
            digest: configuration.digest(),
        };
        self.judge(&Self::rendered(&label, configuration)?).await
    }

    async fn apply(
        &self,
        label: &Label,
        configuration: &Configuration,
    ) -> Result<Applied, ApplyError> {
        let rendered = Self::rendered(label, configuration)?;
        let before = self.label();
        let written = fs::read_to_string(self.config()).is_ok_and(|text| text == rendered.text);
        if before.as_ref() == Some(label) && written {
            return Ok(Applied::Unchanged);
        }
        self.judge(&rendered).await?;
        write(&self.config(), rendered.text.as_bytes())?;
        let text =
            serde_json::to_vec(label).map_err(|e| failed("write", &self.label_file(), e.into()))?;
        write(&self.label_file(), &text)?;
        match before {
            Some(before) if before.digest == label.digest => Ok(Applied::Unchanged),
            Some(_) | None => Ok(Applied::Written),
        }
    }

    async fn verify(&self, configuration: &Configuration) -> Result<Vec<Drift>, Unavailable> {
        let differs = |what: &str| {
            vec![Drift {
                object: None,
                what: what.to_owned(),
            }]
        };
        let Some(label) = self.label() else {
            return Ok(differs("nothing was written"));
        };
        let Ok(rendered) = Self::rendered(&label, configuration) else {
            return Ok(differs("the configuration cannot be written"));
        };
        match fs::read_to_string(self.config()) {
            Ok(text) if text == rendered.text => Ok(Vec::new()),
            Ok(_) => Ok(differs("the file differs")),
            Err(_) => Ok(differs("the file is gone")),
        }
    }

    async fn health(&self, _configuration: &Configuration) -> Result<Value, Unavailable> {
        Ok(Value::Array(Vec::new()))
    }

    async fn housekeep(&self, _configuration: &Configuration) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn stop(&self) -> Result<(), Unavailable> {
        Ok(())
    }
}
