//! A PostgreSQL of a test's own: in a temporary folder, on a free port, run by an ordinary user.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cpl_host::Host;
use cpl_store_postgres::{PostgresConfig, PostgresStore};

/// The user that runs PostgreSQL when the tests run as root, which it refuses: `nobody`.
const NOBODY: u32 = 65_534;
/// How often and how long to wait for a process to begin or end: a minute at most.
const LOOKS: usize = 1_200;
const LOOK: Duration = Duration::from_millis(50);

pub(crate) struct Cluster {
    server: Option<Child>,
    dir: tempfile::TempDir,
    bin: PathBuf,
    pub(crate) port: u16,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = programs();
        if is_root() {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let mut cluster = Self {
            server: None,
            dir,
            bin,
            port,
        };
        let made = cluster
            .command("initdb")
            .args([
                "--auth=trust",
                "--username=owner",
                "--no-locale",
                "--encoding=UTF8",
                "--no-sync",
                "-D",
            ])
            .arg(cluster.data())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        cluster.serve();
        // CPL is not a superuser.
        cluster.sql("CREATE ROLE cpl LOGIN");
        cluster.sql("CREATE DATABASE plane OWNER cpl");
        cluster
    }

    /// Starts the server on what is in the folder, and waits until it answers.
    pub(crate) fn serve(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let server = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-c", "listen_addresses=127.0.0.1", "-c"])
            .arg(format!("port={}", self.port))
            .arg("-c")
            .arg(format!(
                "unix_socket_directories={}",
                self.dir.path().display()
            ))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(server);
        let mut looks = 0;
        while !self.run_sql("postgres", "SELECT 1").status.success() {
            assert!(looks < LOOKS, "PostgreSQL does not start: {}", self.log());
            looks += 1;
            std::thread::sleep(LOOK);
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Runs SQL as the owner of the cluster and returns what it printed.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    pub(crate) fn sql_in(&self, database: &str, sql: &str) -> String {
        let output = self.run_sql(database, sql);
        assert!(
            output.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn run_sql(&self, database: &str, sql: &str) -> std::process::Output {
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

    pub(crate) fn url(&self, schema: &str) -> String {
        format!(
            "postgres://cpl@127.0.0.1:{}/plane?schema={schema}",
            self.port
        )
    }

    pub(crate) async fn open(&self, schema: &str) -> Arc<PostgresStore> {
        let Host {
            clock,
            ids,
            spawner,
        } = Host::new();
        let config = PostgresConfig::parse(&self.url(schema)).unwrap();
        let store = PostgresStore::open(&config, clock, &*ids, &*spawner).await;
        Arc::new(store.unwrap())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir("/").stdin(Stdio::null());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Ends the server at once, as a power cut would for it.
    pub(crate) fn kill(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        // The first process alone would leave its children; they notice that it is gone a moment later.
        server.kill().unwrap();
        server.wait().unwrap();
        for _ in 0..LOOKS {
            if !self.has_children() {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whether a process of this cluster is still there: each has its data folder as its working folder.
    fn has_children(&self) -> bool {
        let data = self.data().canonicalize().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .map(|process| process.path().join("cwd"))
            .any(|cwd| fs::read_link(cwd).is_ok_and(|cwd| cwd == data))
    }
}

impl Drop for Cluster {
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
        .filter(|bin| bin.join("initdb").is_file() && bin.join("psql").is_file())
        .collect();
    versions.sort();
    let found = versions.pop().or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|bin: &PathBuf| Path::new(bin).join("initdb").is_file())
    });
    found.expect("PostgreSQL is installed (the Debian package postgresql)")
}
