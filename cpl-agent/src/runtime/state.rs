//! The agent's directory: what must outlive the process.
//!
//! `current.json` and `pending.json` are written under another name, synced and renamed, and so is
//! the directory: after a crash each is whole, old or new. A file that cannot be read all the same is
//! moved aside and said so; the agent goes on as if it had never been.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cpl_api::token::BearerToken;
use tracing::error;

use super::model::Record;

const CURRENT: &str = "current.json";
const PENDING: &str = "pending.json";
const TOKEN: &str = "agent.token";
const LOCK: &str = "agent.lock";

/// Largest state file: four times the largest configuration that is received.
const FILE_BYTES: u64 = 64 << 20;

/// The state directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it.
    #[error("use {}: another agent uses it", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// What was found at start.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// What was so.
    pub(super) current: Option<Record>,
    /// What was about to be so.
    pub(super) pending: Option<Record>,
}

/// The directory, locked while this lives.
///
/// Its files are small and written rarely, so it blocks: an order of writes that no scheduler can
/// change is worth more than the milliseconds.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the directory when it is absent, and takes it.
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("make", path))?;
        let file = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&file)
            .map_err(failed("open", &file))?;
        match lock.try_lock() {
            Ok(()) => {},
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::InUse {
                    path: path.to_owned(),
                });
            },
            Err(TryLockError::Error(source)) => return Err(failed("lock", &file)(source)),
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Reads what an earlier process left, for this node and driver.
    pub(super) fn load(&self, node: &str, driver: &str) -> Result<Found, StateError> {
        Ok(Found {
            current: self.read(CURRENT, node, driver)?,
            pending: self.read(PENDING, node, driver)?,
        })
    }

    /// Notes what will be so if the apply that follows succeeds.
    pub(super) fn prepare(&self, record: &Record) -> Result<(), StateError> {
        self.write_json(PENDING, record)
    }

    /// What was pending is so now.
    pub(super) fn promote(&self) -> Result<(), StateError> {
        let (from, to) = (self.path.join(PENDING), self.path.join(CURRENT));
        fs::rename(&from, &to).map_err(failed("rename", &from))?;
        self.sync()
    }

    /// Replaces what is so, without an apply.
    pub(super) fn keep(&self, record: &Record) -> Result<(), StateError> {
        self.write_json(CURRENT, record)?;
        self.discard()
    }

    /// What was pending did not come to be.
    pub(super) fn discard(&self) -> Result<(), StateError> {
        let path = self.path.join(PENDING);
        match fs::remove_file(&path) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("remove", &path)(error)),
        }
    }

    /// The agent's own token, if it has drawn one.
    pub(super) fn token(&self) -> Result<Option<BearerToken>, StateError> {
        let Some(bytes) = self.bytes(TOKEN)? else {
            return Ok(None);
        };
        let token = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.parse().ok());
        if token.is_none() {
            self.move_aside(TOKEN, "it holds no token")?;
        }
        Ok(token)
    }

    /// Keeps the agent's own token.
    pub(super) fn keep_token(&self, token: &BearerToken) -> Result<(), StateError> {
        self.write(TOKEN, format!("{}\n", token.reveal()).as_bytes())
    }

    fn read(&self, name: &str, node: &str, driver: &str) -> Result<Option<Record>, StateError> {
        let Some(bytes) = self.bytes(name)? else {
            return Ok(None);
        };
        let fault = match serde_json::from_slice::<Record>(&bytes) {
            Ok(record) => match record.fault(node, driver) {
                None => return Ok(Some(record)),
                Some(fault) => fault,
            },
            Err(error) => error.to_string(),
        };
        self.move_aside(name, &fault)?;
        Ok(None)
    }

    fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES)
            .read_to_end(&mut bytes)
            .map_err(failed("read", &path))?;
        Ok(Some(bytes))
    }

    /// Keeps an unreadable file for a person to look at; an older one of that kind is replaced.
    fn move_aside(&self, name: &str, why: &str) -> Result<(), StateError> {
        let path = self.path.join(name);
        let aside = self.path.join(format!("{name}.unreadable"));
        error!(file = %path.display(), aside = %aside.display(), why, "a state file is not usable and was moved aside");
        fs::rename(&path, &aside).map_err(failed("rename", &path))?;
        self.sync()
    }

    fn write_json(&self, name: &str, record: &Record) -> Result<(), StateError> {
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|error| failed("write", &self.path.join(name))(error.into()))?;
        self.write(name, &bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let (path, fresh) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&fresh)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().map_err(failed("write", &path))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), StateError> {
        File::open(&self.path)
            .and_then(|dir| dir.sync_all())
            .map_err(failed("sync", &self.path))
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { what, path, source }
}
