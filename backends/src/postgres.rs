//! One PostgreSQL, run by an ordinary user.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use crate::{Certificate, Volume, free_port, spawn, wait_until};

/// The user that runs PostgreSQL when the tests run as root, which it refuses: `nobody`.
const NOBODY: u32 = 65_534;

/// A PostgreSQL cluster with a database `plane` that belongs to the user `cpl`.
#[derive(Debug)]
pub struct Postgres {
    server: Option<Child>,
    dir: tempfile::TempDir,
    bin: PathBuf,
    /// Where clients find it.
    pub port: u16,
}

impl Postgres {
    /// Makes a cluster and starts it.
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    /// The same on a disk of its own.
    pub fn start_on(volume: &Volume) -> Self {
        Self::start_in(tempfile::tempdir_in(volume.path()).unwrap())
    }

    fn start_in(dir: tempfile::TempDir) -> Self {
        if is_root() {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut postgres = Self {
            server: None,
            dir,
            bin: programs(),
            port: free_port(),
        };
        let made = postgres
            .command("initdb")
            .args([
                "--auth=trust",
                "--username=owner",
                "--no-locale",
                "--encoding=UTF8",
                "--no-sync",
                "-D",
            ])
            .arg(postgres.data())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        postgres.serve();
        // CPL is not a superuser.
        postgres.sql("postgres", "CREATE ROLE cpl LOGIN");
        postgres.sql("postgres", "CREATE DATABASE plane OWNER cpl");
        postgres
    }

    /// Starts the server on what is in the folder, and waits until it answers.
    pub fn serve(&mut self) {
        self.serve_with(&[]);
    }

    /// Starts it with settings, such as `fsync=off`.
    pub fn serve_with(&mut self, settings: &[&str]) {
        let path = self.dir.path().join("log");
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-c", "listen_addresses=127.0.0.1", "-c"])
            .arg(format!("port={}", self.port))
            .arg("-c")
            .arg(format!(
                "unix_socket_directories={}",
                self.dir.path().display()
            ))
            .args(settings.iter().flat_map(|setting| ["-c", setting]));
        self.server = Some(spawn(&mut command, &path).unwrap());
        wait_until(
            || self.run_sql("postgres", "SELECT 1").status.success(),
            || {
                format!(
                    "PostgreSQL does not start: {}",
                    fs::read_to_string(path).unwrap_or_default()
                )
            },
        );
    }

    /// Takes connections over the network with TLS only from the next start on.
    pub fn ask_for_tls(&self, certificate: &Certificate) {
        // The names that PostgreSQL looks for.
        for (from, to) in [
            (certificate.cert(), "server.crt"),
            (certificate.key(), "server.key"),
        ] {
            let to = self.data().join(to);
            fs::copy(from, &to).unwrap();
            if is_root() {
                chown(to, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        self.change_rules(|line| match line.strip_prefix("host ") {
            Some(rest) => format!("hostssl {rest}"),
            None => line.to_owned(),
        });
    }

    fn change_rules(&self, change: impl Fn(&str) -> String) {
        let path = self.data().join("pg_hba.conf");
        let rules = fs::read_to_string(&path).unwrap();
        let changed: Vec<String> = rules.lines().map(change).collect();
        fs::write(&path, changed.join("\n") + "\n").unwrap();
    }

    /// Starts it as a standby that follows nobody.
    pub fn serve_as_standby(&mut self) {
        fs::write(self.data().join("standby.signal"), "").unwrap();
        self.serve();
    }

    /// Asks for passwords from now on where it trusted over TCP before.
    pub fn ask_for_passwords(&self, password: &str) {
        self.sql("postgres", &format!("ALTER ROLE cpl PASSWORD '{password}'"));
        self.change_rules(|line| match line.strip_prefix("host") {
            Some(_) => line.replace("trust", "scram-sha-256"),
            None => line.to_owned(),
        });
        self.sql("postgres", "SELECT pg_reload_conf()");
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Its first process.
    ///
    /// # Panics
    /// When it was killed.
    pub(crate) fn process(&self) -> u32 {
        self.server.as_ref().expect("PostgreSQL runs").id()
    }

    /// Runs SQL as the owner of the cluster and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = self.run_sql(database, sql);
        assert!(
            output.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn run_sql(&self, database: &str, sql: &str) -> Output {
        self.command("psql")
            .args([
                "--no-psqlrc",
                "--tuples-only",
                "--no-align",
                "-U",
                "owner",
                "-h",
            ])
            .arg(self.dir.path())
            .args(["-p", &self.port.to_string(), "-d", database, "-c", sql])
            .output()
            .unwrap()
    }

    /// A URL for `--store`.
    pub fn url(&self, schema: &str) -> String {
        format!(
            "postgres://cpl@127.0.0.1:{}/plane?schema={schema}",
            self.port
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir("/").stdin(Stdio::null());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Ends the first process with SIGKILL; the others notice that it is gone, and end.
    pub fn kill(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        server.kill().unwrap();
        server.wait().unwrap();
        wait_until(
            || !self.has_processes(),
            || "processes of PostgreSQL outlive the first one".to_owned(),
        );
    }

    /// Whether a process of this cluster is still there: each has its data folder as its working folder.
    fn has_processes(&self) -> bool {
        let data = self.data().canonicalize().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .map(|process| process.path().join("cwd"))
            .any(|cwd| fs::read_link(cwd).is_ok_and(|cwd| cwd == data))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Debian keeps one folder per version.
fn programs() -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    versions.extend(std::env::split_paths(&path));
    versions.retain(|bin| bin.join("initdb").is_file());
    versions
        .into_iter()
        .next()
        .expect("PostgreSQL is installed (the Debian package postgresql)")
}
