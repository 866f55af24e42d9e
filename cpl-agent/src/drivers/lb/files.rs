//! The files of a driver: written whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use cpl_core::delivery::Configuration;

use super::names::is_plain;
use crate::driver::Unavailable;

/// Longest path of a Unix socket that HAProxy accepts.
const LONGEST_SOCKET: usize = 97;
/// How many configurations are kept beside the one that runs.
const KEPT: usize = 3;
/// A log is emptied beyond this.
const LARGEST_LOG: u64 = 8 * 1024 * 1024;

/// Where everything is.
#[derive(Clone, Debug)]
pub(super) struct Files {
    state: PathBuf,
    runtime: PathBuf,
}

impl Files {
    /// Makes the two directories, for this user only.
    ///
    /// # Errors
    /// They cannot be made, or the sockets would have longer paths than HAProxy accepts.
    pub(super) fn open(state: &Path, runtime: &Path) -> Result<Self, Unavailable> {
        let files = Self {
            state: absolute(state)?,
            runtime: absolute(runtime)?,
        };
        let longest = files.master_socket();
        if longest.as_os_str().len() > LONGEST_SOCKET {
            let path = longest.display();
            return Err(Unavailable {
                what: format!(
                    "use {path} as a socket: it has more than {LONGEST_SOCKET} characters; choose a shorter runtime directory"
                ),
                source: None,
            });
        }
        for folder in [&files.state, &files.runtime, &files.applied()] {
            make_private(folder).map_err(|e| failed("make", folder, e))?;
        }
        Ok(files)
    }

    /// The file that the process was or will be started with.
    pub(super) fn config(&self) -> PathBuf {
        self.state.join("haproxy.cfg")
    }

    /// The next one, until it has been checked.
    pub(super) fn candidate(&self) -> PathBuf {
        self.state.join("haproxy.cfg.new")
    }

    /// One that is only to be checked.
    pub(super) fn checked(&self) -> PathBuf {
        self.state.join("haproxy.cfg.check")
    }

    /// The one before.
    pub(super) fn previous(&self) -> PathBuf {
        self.state.join("haproxy.cfg.previous")
    }

    /// The synthesised server state.
    pub(super) fn server_state(&self) -> PathBuf {
        self.state.join("servers.state")
    }

    /// What the process prints.
    pub(super) fn log(&self) -> PathBuf {
        self.state.join("haproxy.log")
    }

    /// The socket of the master process.
    pub(super) fn master_socket(&self) -> PathBuf {
        self.runtime.join("master.sock")
    }

    /// The socket of the worker.
    pub(super) fn worker_socket(&self) -> PathBuf {
        self.runtime.join("worker.sock")
    }

    /// The socket of the listener that is always there.
    pub(super) fn alive_socket(&self) -> PathBuf {
        self.runtime.join("alive.sock")
    }

    /// Where the master writes its process id.
    pub(super) fn pidfile(&self) -> PathBuf {
        self.runtime.join("haproxy.pid")
    }

    fn applied(&self) -> PathBuf {
        self.state.join("applied")
    }

    /// Remembers a configuration by its digest, so that after a restart it is known what the running
    /// process, which knows only the digest, was configured with.
    pub(super) fn remember(&self, configuration: &Configuration) -> Result<(), Unavailable> {
        let digest = configuration.digest();
        let path = self.applied().join(format!("{digest}.json"));
        let text =
            serde_json::to_vec(configuration).map_err(|e| failed("write", &path, e.into()))?;
        write(&path, &text)?;
        self.forget_oldest(&path);
        Ok(())
    }

    /// What was remembered under a digest.
    pub(super) fn remembered(&self, digest: &str) -> Option<Configuration> {
        if !is_plain(digest) {
            return None;
        }
        let text = fs::read(self.applied().join(format!("{digest}.json"))).ok()?;
        let configuration: Configuration = serde_json::from_slice(&text).ok()?;
        (configuration.digest() == digest).then_some(configuration)
    }

    /// Best effort: a file too many costs nothing but its space.
    fn forget_oldest(&self, newest: &Path) {
        let Ok(entries) = fs::read_dir(self.applied()) else {
            return;
        };
        let mut files: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.path() != newest)
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        files.sort();
        let surplus = files.len().saturating_sub(KEPT);
        for (_, path) in files.into_iter().take(surplus) {
            let _ = fs::remove_file(path);
        }
    }

    /// Puts the candidate in the place of the file, and keeps that as the previous one.
    pub(super) fn promote(&self) -> Result<(), Unavailable> {
        let (config, previous) = (self.config(), self.previous());
        if config.exists() {
            fs::copy(&config, &previous).map_err(|e| failed("keep", &previous, e))?;
        }
        rename(&self.candidate(), &config)
    }

    /// Puts the previous file back, so that a reload by hand does not meet one that failed.
    pub(super) fn demote(&self) -> Result<(), Unavailable> {
        if self.previous().exists() {
            rename(&self.previous(), &self.config())?;
        }
        Ok(())
    }

    /// Empties a log that has grown too large. HAProxy appends to it.
    pub(super) fn trim_log(&self) {
        let log = File::options().write(true).open(self.log());
        if let Ok(log) = log
            && log.metadata().is_ok_and(|m| m.len() > LARGEST_LOG)
        {
            let _ = log.set_len(0);
        }
    }
}

/// Writes a file whole: under another name, synced, then renamed.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), Unavailable> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push("~");
    let temporary = PathBuf::from(temporary);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(|e| failed("write", &temporary, e))?;
    rename(&temporary, path)
}

fn rename(from: &Path, to: &Path) -> Result<(), Unavailable> {
    let renamed = fs::rename(from, to).and_then(|()| match to.parent() {
        // Until the folder is synced as well, a power failure may bring the old file back.
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    });
    renamed.map_err(|e| failed("write", to, e))
}

fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

fn absolute(path: &Path) -> Result<PathBuf, Unavailable> {
    std::path::absolute(path).map_err(|e| failed("find", path, e))
}

/// A failure with a file.
pub(super) fn failed(what: &str, path: &Path, source: io::Error) -> Unavailable {
    Unavailable {
        what: format!("{what} {}", path.display()),
        source: Some(Box::new(source)),
    }
}
