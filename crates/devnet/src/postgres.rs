//! A local PostgreSQL server: a temporary folder, a free port, no password.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::sleep;

use crate::{DevnetError, Tools};

/// The superuser of the server. It needs no password.
const USER: &str = "quittance";

/// A role that this script creates logs in with its password. Its name must begin so.
const WITH_PASSWORD: &str = "with_password";

/// How long the server may take to start. It takes a second, and longer after a crash on a machine
/// that builds.
const START_MAX: Duration = Duration::from_secs(60);

/// How often a starting server is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How many ports are tried: another program may take a free port before the server does.
const PORTS_MAX: usize = 3;

/// The script that runs the server. It stops the server and removes the folder when its input ends:
/// that is when this process ends, however it ends. It gets the folder, the server program and the
/// server's options.
const KEEPER: &str = r#"
folder=$1; shift
"$@" >>"$folder/log" 2>&1 </dev/null &
server=$!
while read -r command; do
    kill -s "$command" "$server"
    wait "$server"
    exit 0
done
kill -s QUIT "$server"
wait "$server"
rm -rf "$folder"
"#;

/// Whether the server waits for its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// A commit waits for the disk, as in production. For what is measured.
    On,
    /// A commit survives a crash of the server, not of the machine. For tests.
    Off,
}

/// A local PostgreSQL server. It stops when this value is dropped, or this process ends.
///
/// The superuser `quittance` logs in without a password, and so does every role whose name does not
/// begin with `with_password`.
#[derive(Debug)]
pub struct Postgres {
    program: PathBuf,
    folder: PathBuf,
    fsync: Fsync,
    port: u16,
    keeper: Child,
}

impl Postgres {
    /// Creates and starts a server.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub async fn start(fsync: Fsync) -> Result<Self, DevnetError> {
        let programs = Tools::find()?.postgres()?;
        let folder = create_folder().map_err(failed)?;
        create_database(&programs, folder.path())?;
        let program = programs.join("postgres");
        // From here on, the script removes the folder.
        let folder = folder.keep();
        let mut tries = 0;
        loop {
            let port = free_port().map_err(failed)?;
            tries += 1;
            match run(&program, &folder, fsync, port).await {
                Ok(keeper) => {
                    return Ok(Self {
                        program,
                        folder,
                        fsync,
                        port,
                        keeper,
                    });
                }
                Err(_) if tries < PORTS_MAX => {}
                Err(error) => {
                    drop(fs::remove_dir_all(&folder));
                    return Err(error);
                }
            }
        }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database of the server. The database `postgres` always exists.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Stops the server as a crash does: it has no time to finish anything (`kill -9`).
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<(), DevnetError> {
        self.stop("KILL")
    }

    /// Stops the server after the transactions in progress are undone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn shut_down(&mut self) -> Result<(), DevnetError> {
        self.stop("INT")
    }

    /// Starts the server again, on the same port and with the same databases.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> Result<(), DevnetError> {
        /// How many times it is tried. The processes of a server that was killed need a moment to
        /// notice that, and a new server does not start beside them.
        const TRIES: usize = 50;
        for _ in 0..TRIES {
            if let Ok(keeper) = run(&self.program, &self.folder, self.fsync, self.port).await {
                self.keeper = keeper;
                return Ok(());
            }
            sleep(LOOK * 4).await;
        }
        Err(DevnetError::Node(log(&self.folder)))
    }

    /// Turns the server into a read-only replica, as a failover does with the old primary. It
    /// repeats what another server writes; there is none.
    ///
    /// # Errors
    /// When it does not run, or does not start again.
    pub async fn become_replica(&mut self) -> Result<(), DevnetError> {
        self.shut_down()?;
        fs::write(self.folder.join("data/standby.signal"), "").map_err(failed)?;
        self.restart().await
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        log(&self.folder)
    }

    fn stop(&mut self, signal: &str) -> Result<(), DevnetError> {
        stop(&mut self.keeper, signal)
    }
}

/// Makes the script stop the server with this signal, and end without the removal of the folder.
fn stop(keeper: &mut Child, signal: &str) -> Result<(), DevnetError> {
    let Some(mut commands) = keeper.stdin.take() else {
        return Err(DevnetError::Node("the server does not run".to_owned()));
    };
    writeln!(commands, "{signal}").map_err(failed)?;
    keeper.wait().map_err(failed)?;
    Ok(())
}

impl Drop for Postgres {
    fn drop(&mut self) {
        match self.keeper.stdin.take() {
            // The end of its input makes the script stop the server and remove the folder.
            Some(commands) => {
                drop(commands);
                drop(self.keeper.wait());
            }
            None => drop(fs::remove_dir_all(&self.folder)),
        }
    }
}

fn failed(error: std::io::Error) -> DevnetError {
    DevnetError::Node(error.to_string())
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// A folder that the server's user can use.
fn create_folder() -> std::io::Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix("quittance-postgres-")
        .tempdir()?;
    if let Some(user) = other_user() {
        std::os::unix::fs::chown(folder.path(), Some(user), Some(user))?;
    }
    Ok(folder)
}

/// The user to run as, if this process is root's: PostgreSQL refuses to run as root.
fn other_user() -> Option<u32> {
    /// The user without rights, of Linux and of macOS.
    const WITHOUT_RIGHTS: u32 = if cfg!(target_os = "macos") {
        u32::MAX - 1
    } else {
        65_534
    };
    // Whose the temporary folder would be is this process's user.
    let own = tempfile::tempfile().and_then(|file| file.metadata()).ok()?;
    (std::os::unix::fs::MetadataExt::uid(&own) == 0).then_some(WITHOUT_RIGHTS)
}

/// A command that runs as the server's user, in a process group of its own: Ctrl-C is for this
/// process, and the script then stops the server.
fn command(program: &Path, folder: &Path) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    command.current_dir(folder).process_group(0);
    if let Some(user) = other_user() {
        command.uid(user).gid(user);
    }
    command
}

/// Creates the files of a server with an empty database.
fn create_database(programs: &Path, folder: &Path) -> Result<(), DevnetError> {
    let data = folder.join("data");
    let output = command(&programs.join("initdb"), folder)
        .arg("--pgdata")
        .arg(&data)
        .args(["--username", USER, "--auth", "trust"])
        .args(["--encoding", "UTF8", "--locale", "C"])
        .args(["--no-sync", "--no-instructions"])
        .stdin(Stdio::null())
        .output()
        .map_err(failed)?;
    if !output.status.success() {
        let problem = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(DevnetError::Node(format!("initdb: {problem}")));
    }
    let access = format!(
        "host all /^{WITH_PASSWORD} 127.0.0.1/32 scram-sha-256\n\
         host all all 127.0.0.1/32 trust\n\
         host replication all 127.0.0.1/32 trust\n"
    );
    fs::write(data.join("pg_hba.conf"), access).map_err(failed)
}

/// Starts the script with the server, and waits until the server is ready.
async fn run(program: &Path, folder: &Path, fsync: Fsync, port: u16) -> Result<Child, DevnetError> {
    let (before, logged) = (status(folder), log(folder).len());
    let fsync = if fsync == Fsync::On { "on" } else { "off" };
    let settings = [
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        "unix_socket_directories=".to_owned(),
        "shared_buffers=64MB".to_owned(),
        format!("fsync={fsync}"),
    ];
    let mut keeper = command(Path::new("/bin/sh"), folder);
    keeper
        .args(["-c", KEEPER, "sh"])
        .arg(folder)
        .arg(program)
        .arg("-D")
        .arg(folder.join("data"));
    for setting in &settings {
        keeper.args(["-c", setting]);
    }
    let mut keeper = keeper
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    match wait_until_ready(folder, port, &before, logged).await {
        true => Ok(keeper),
        false => {
            drop(stop(&mut keeper, "QUIT"));
            Err(DevnetError::Node(log(folder)))
        }
    }
}

/// What a server writes about itself, by line, while it runs: its process, its port and its state.
fn status(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("data/postmaster.pid")).unwrap_or_default();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// Whether the server becomes ready. `before` is the status that an earlier server has left, and
/// `logged` is how much was logged before the start.
async fn wait_until_ready(folder: &Path, port: u16, before: &[String], logged: usize) -> bool {
    let is_failure = |line: &str| {
        // It refuses clients while it starts.
        line.contains("FATAL:") && !line.contains("the database system is")
    };
    let mut waited = Duration::ZERO;
    while waited < START_MAX {
        let now = status(folder);
        let is_own = now.first() != before.first();
        let listens = now.get(3).is_some_and(|line| *line == port.to_string());
        if is_own && listens && now.get(7).is_some_and(|line| line == "ready") {
            return true;
        }
        let log = log(folder);
        if log
            .get(logged..)
            .unwrap_or_default()
            .lines()
            .any(is_failure)
        {
            return false;
        }
        sleep(LOOK).await;
        waited += LOOK;
    }
    false
}

fn free_port() -> std::io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}
