//! Which server a command talks to, and as whom.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cpl_api::client::ControlPlaneClient;
use cpl_api::http::{HttpConfig, HttpControlPlaneTransport};
use cpl_api::token::BearerToken;
use cpl_api::transport::ControlPlaneTransport;
use cpl_host::Host;

use super::args::GlobalArgs;
use super::contexts::{Contexts, parse_token};
use super::failure::{Exit, Failure};
use super::output::Output;

/// Where a server is looked for when nothing names one.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

/// A server and who calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its address, or those of all its replicas, separated by commas.
    pub server: String,
    /// Certificates to trust instead of the public ones.
    pub ca: Option<PathBuf>,
    /// Where the token is.
    pub token: TokenPlace,
}

/// Where a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// Nowhere.
    None,
    /// In a file.
    File(
        /// The file.
        PathBuf,
    ),
    /// In the variable `CPL_TOKEN`.
    Variable,
}

/// Decides which server is meant: flags (with the environment behind them) over the context.
///
/// A context's token and certificates go to that context's server only: `--server` with another
/// address must not carry the token of production to whoever listens there.
///
/// # Errors
/// The context that was named does not exist.
pub fn resolve(
    global: &GlobalArgs,
    token_in_variable: bool,
    contexts: &Contexts,
) -> Result<Connection, Failure> {
    let set = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let name = set(&global.context).or_else(|| contexts.current.clone());
    let context = name.map(|name| contexts.named(&name)).transpose()?;
    let server = set(&global.server)
        .or_else(|| context.map(|context| context.server.clone()))
        .unwrap_or_else(|| DEFAULT_SERVER.to_owned());
    let same = |address: &str| address.trim_end_matches('/') == server.trim_end_matches('/');
    let context = context.filter(|context| same(&context.server));
    let token = match set(&global.token_file) {
        Some(file) => TokenPlace::File(file.into()),
        None if token_in_variable => TokenPlace::Variable,
        None => context
            .and_then(|context| context.token_file.clone())
            .map_or(TokenPlace::None, TokenPlace::File),
    };
    let ca = set(&global.ca)
        .map(PathBuf::from)
        .or_else(|| context.and_then(|context| context.ca.clone()));
    Ok(Connection { server, ca, token })
}

/// A client for this connection. Nothing is sent yet. Blocks while it reads files.
///
/// # Errors
/// The address, the certificates or the token are not usable.
pub fn open(
    connection: &Connection,
    host: &Host,
    env: &dyn Fn(&str) -> Option<String>,
    out: &mut Output,
) -> Result<ControlPlaneClient, Failure> {
    let mut config = HttpConfig::new("");
    config.servers = connection
        .server
        .split(',')
        .map(|one| one.trim().to_owned())
        .collect();
    config.ca_file.clone_from(&connection.ca);
    let transport = HttpControlPlaneTransport::new(&config, Arc::clone(&host.clock))
        .map_err(|error| Failure::invalid(format!("the server cannot be used: {error}")))?;
    let transport: Arc<dyn ControlPlaneTransport> = Arc::new(transport);
    let client = ControlPlaneClient::new(transport, Arc::clone(&host.clock), Arc::clone(&host.ids));
    let token = match &connection.token {
        TokenPlace::None => return Ok(client),
        TokenPlace::File(file) => read_token(file, out)?,
        TokenPlace::Variable => parse_token(&env("CPL_TOKEN").unwrap_or_default(), "CPL_TOKEN")?,
    };
    Ok(client.with_token(token))
}

/// Reads a token from a file, and says so when others can read it too.
///
/// # Errors
/// The file cannot be read or holds no token.
pub fn read_token(file: &Path, out: &mut Output) -> Result<BearerToken, Failure> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(Exit::Auth, format!("token file {name}: {error}")))?;
    let open = std::fs::metadata(file)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o077 != 0);
    if open {
        out.warn(&format!(
            "others can read the token in {name}; chmod 600 mends it"
        ));
    }
    parse_token(&text, &name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::contexts::Context;
    use super::super::output::{Format, tests::captured, tests::manner};
    use super::*;

    fn contexts() -> Contexts {
        let prod = Context {
            server: "https://prod:443".to_owned(),
            ca: Some("ca.pem".into()),
            token_file: Some("prod-token".into()),
        };
        Contexts {
            current: Some("prod".to_owned()),
            contexts: BTreeMap::from([("prod".to_owned(), prod)]),
        }
    }

    fn resolved(global: &GlobalArgs, variable: bool) -> Connection {
        resolve(global, variable, &contexts()).unwrap()
    }

    #[test]
    fn the_current_context_names_server_token_and_certificates() {
        let connection = resolved(&GlobalArgs::default(), false);
        assert_eq!(connection.server, "https://prod:443");
        assert_eq!(connection.ca, Some("ca.pem".into()));
        assert_eq!(connection.token, TokenPlace::File("prod-token".into()));
        let none = resolve(&GlobalArgs::default(), false, &Contexts::default()).unwrap();
        assert_eq!(
            (none.server.as_str(), none.token),
            (DEFAULT_SERVER, TokenPlace::None)
        );
    }

    #[test]
    fn another_server_never_gets_the_token_of_the_context() {
        let at = |server: &str| GlobalArgs {
            server: Some(server.to_owned()),
            ..GlobalArgs::default()
        };
        assert_eq!(
            resolved(&at("http://elsewhere"), false).token,
            TokenPlace::None
        );
        assert_eq!(resolved(&at("http://elsewhere"), false).ca, None);
        let same = resolved(&at("https://prod:443/"), false);
        assert_eq!(same.token, TokenPlace::File("prod-token".into()));
    }

    #[test]
    fn a_token_file_wins_over_the_variable_over_the_context() {
        let file = GlobalArgs {
            token_file: Some("mine".to_owned()),
            ..GlobalArgs::default()
        };
        assert_eq!(resolved(&file, true).token, TokenPlace::File("mine".into()));
        assert_eq!(
            resolved(&GlobalArgs::default(), true).token,
            TokenPlace::Variable
        );
    }

    #[test]
    fn a_context_that_was_named_must_exist() {
        let global = GlobalArgs {
            context: Some("stage".to_owned()),
            ..GlobalArgs::default()
        };
        let failure = resolve(&global, false, &contexts()).unwrap_err();
        assert_eq!(failure.exit(), Exit::NotFound);
    }

    #[test]
    fn a_token_that_others_can_read_is_used_with_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let token = BearerToken::draw(&*Host::new().ids);
        std::fs::write(&file, token.reveal()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let (mut out, _, talk) = captured(manner(Format::Table), None);
        assert_eq!(read_token(&file, &mut out).unwrap(), token);
        assert!(talk.read().contains("others can read the token"));
        std::fs::write(&file, "hunter2").unwrap();
        let failure = read_token(&file, &mut out).unwrap_err();
        assert_eq!(failure.exit(), Exit::Auth);
        assert!(!failure.to_string().contains("hunter2"));
    }
}
