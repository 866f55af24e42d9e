//! Contexts: names for servers, so that nobody types addresses, and the tokens that belong to them.
//!
//! They stand in `contexts.toml`, each token in a file of its own under `tokens/`; all are for their
//! owner's eyes only. Files are replaced, never rewritten in place.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cpl_api::token::BearerToken;
use serde::{Deserialize, Serialize};

use super::failure::{Exit, Failure};

/// One server and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `https://host:port`.
    pub server: String,
    /// Certificates to trust instead of the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The file with the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// What `contexts.toml` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The one that is used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// All of them by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

impl Contexts {
    /// The context of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<_> = self.contexts.keys().map(String::as_str).collect();
            let what = format!("there is no context named {name:?}");
            let failure = Failure::new(Exit::NotFound, what);
            if known.is_empty() {
                return failure.detail("make one: cpl context set NAME --server URL");
            }
            failure.detail(format!("contexts: {}", known.join(", ")))
        })
    }
}

/// The folder that contexts are kept in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextFolder(PathBuf);

impl ContextFolder {
    /// This folder.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The folder of this user: `$CPL_CONFIG_DIR`, `$XDG_CONFIG_HOME/cpl` or `~/.config/cpl`.
    ///
    /// # Errors
    /// None of the variables is set.
    pub fn of_user(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let set = |name: &str| {
            env(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        set("CPL_CONFIG_DIR")
            .or_else(|| set("XDG_CONFIG_HOME").map(|folder| folder.join("cpl")))
            .or_else(|| set("HOME").map(|home| home.join(".config/cpl")))
            .map(Self)
            .ok_or_else(|| Failure::invalid("set HOME or CPL_CONFIG_DIR to have contexts"))
    }

    /// The file with the contexts.
    pub fn file(&self) -> PathBuf {
        self.0.join("contexts.toml")
    }

    /// All contexts; none when there is no file.
    ///
    /// # Errors
    /// The file cannot be read or understood.
    pub fn load(&self) -> Result<Contexts, Failure> {
        let file = self.file();
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Contexts::default()),
            Err(error) => return Err(failed("read", &file, &error)),
        };
        toml::from_str(&text).map_err(|error| {
            Failure::invalid(format!("{} cannot be understood: {error}", file.display()))
        })
    }

    /// Replaces all contexts.
    ///
    /// # Errors
    /// The file cannot be written; the old one is still there then.
    pub fn save(&self, contexts: &Contexts) -> Result<(), Failure> {
        let file = self.file();
        let text = toml::to_string_pretty(contexts).map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("the contexts cannot be written: {error}"),
            )
        })?;
        write_private(&file, &text)
    }

    /// Keeps the token of a context; returns its file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_token(&self, context: &str, token: &BearerToken) -> Result<PathBuf, Failure> {
        let file = self.token_file(context);
        write_private(&file, &format!("{}\n", token.reveal()))?;
        Ok(file)
    }

    /// Forgets the token that was kept for a context; fine when there is none.
    ///
    /// # Errors
    /// The file is there and cannot be removed.
    pub fn remove_token(&self, context: &str) -> Result<(), Failure> {
        let file = self.token_file(context);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &file, &error))
            },
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn token_file(&self, context: &str) -> PathBuf {
        self.0.join("tokens").join(context)
    }
}

/// Writes a file that only its owner can read, in a folder that only its owner can look into.
///
/// The whole file or none of it: it is written beside and renamed.
///
/// # Errors
/// It cannot be written.
pub fn write_private(file: &Path, text: &str) -> Result<(), Failure> {
    if let Some(folder) = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| failed("make", folder, &error))?;
    }
    let mut beside = file.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = PathBuf::from(beside);
    let written = (|| {
        // What is left of an interrupted write may have other rights; it is made anew.
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {},
        }
        let mut open = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        open.write_all(text.as_bytes())?;
        open.sync_all()?;
        std::fs::rename(&beside, file)
    })();
    written.map_err(|error| failed("write", file, &error))
}

fn failed(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("failed to {verb} {}: {error}", path.display()),
    )
}

/// Reads a token that stands in `place`.
///
/// # Errors
/// It is none.
pub fn parse_token(text: &str, place: &str) -> Result<BearerToken, Failure> {
    text.trim()
        .parse()
        .map_err(|error| Failure::new(Exit::Auth, format!("{place}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn context(server: &str) -> Context {
        Context {
            server: server.to_owned(),
            ca: None,
            token_file: None,
        }
    }

    #[test]
    fn contexts_survive_and_only_their_owner_reads_them() {
        let home = tempfile::tempdir().unwrap();
        let folder = ContextFolder::at(home.path().join("cpl"));
        assert_eq!(folder.load().unwrap(), Contexts::default());
        let contexts = Contexts {
            current: Some("dev".to_owned()),
            contexts: BTreeMap::from([("dev".to_owned(), context("http://127.0.0.1:8080"))]),
        };
        folder.save(&contexts).unwrap();
        folder.save(&contexts).unwrap();
        assert_eq!(folder.load().unwrap(), contexts);
        let drawn = BearerToken::draw(&*cpl_host::Host::new().ids);
        let token = folder.save_token("dev", &drawn).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder.file()), mode(&token)), (0o600, 0o600));
        assert_eq!(mode(token.parent().unwrap()), 0o700);
        folder.remove_token("dev").unwrap();
        folder.remove_token("dev").unwrap();
        assert!(!token.exists());
    }

    #[test]
    fn a_context_that_is_not_there_is_told_with_those_that_are() {
        let mut contexts = Contexts::default();
        contexts
            .contexts
            .insert("prod".to_owned(), context("https://cpl:443"));
        let failure = contexts.named("prd").unwrap_err();
        assert_eq!(failure.exit(), Exit::NotFound);
        assert_eq!(failure.lines()[1], "  contexts: prod");
    }

    #[test]
    fn the_folder_follows_the_environment() {
        let env = |name: &str| match name {
            "HOME" => Some("/home/x".to_owned()),
            "XDG_CONFIG_HOME" => Some(String::new()),
            _ => None,
        };
        let folder = ContextFolder::of_user(&env).unwrap();
        assert_eq!(
            folder.file(),
            Path::new("/home/x/.config/cpl/contexts.toml")
        );
        assert!(ContextFolder::of_user(&|_| None).is_err());
    }
}
