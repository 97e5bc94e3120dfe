//! What a run consists of: chains, the nodes in front of them, and the facilitators' processes.

use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use quittance_devnet::{Evm, EvmOptions, Fsync, Mining, Postgres, Solana, SolanaOptions, Tools};
use quittance_tests::proxy::Proxy;
use reqwest::Client;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

/// The time between blocks.
pub(crate) const BLOCK_TIME: Duration = Duration::from_secs(1);

/// The time between blocks of the Solana cluster.
const SLOT_TIME: Duration = Duration::from_millis(400);

/// The development accounts that sign for the facilitators, on each chain.
const EVM_SIGNERS: [usize; 2] = [0, 8];
const SOLANA_SIGNERS: [usize; 2] = [0, 1];

/// Where the facilitators keep their journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// One facilitator with a file.
    Sqlite,
    /// Two facilitators with a PostgreSQL server.
    Postgres,
}

impl Backing {
    fn facilitators(self) -> usize {
        match self {
            Self::Sqlite => 1,
            Self::Postgres => 2,
        }
    }
}

/// The chains and the facilitators.
pub(crate) struct Stage {
    pub(crate) evm: Evm,
    pub(crate) solana: Solana,
    pub(crate) facilitators: Vec<Facilitator>,
    /// The server of the journal, if it is not a file.
    pub(crate) postgres: Option<Mutex<Postgres>>,
    /// A file, or the URL of a database.
    journal: String,
    folder: TempDir,
}

impl Stage {
    pub(crate) async fn start(backing: Backing) -> Self {
        let tools = Tools::find().unwrap();
        let evm = EvmOptions {
            mining: Mining::Every(BLOCK_TIME),
            ..EvmOptions::default()
        };
        let solana = SolanaOptions {
            slot_time: Some(SLOT_TIME),
            ..SolanaOptions::default()
        };
        let evm = Evm::start(&tools, &evm).await.unwrap();
        let solana = Solana::start(&tools, &solana).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let postgres = match backing {
            Backing::Sqlite => None,
            Backing::Postgres => Some(Postgres::start(Fsync::On).await.unwrap()),
        };
        let journal = match &postgres {
            None => folder.path().join("journal.db").display().to_string(),
            Some(postgres) => postgres.url("postgres"),
        };
        let mut stage = Self {
            evm,
            solana,
            facilitators: Vec::new(),
            postgres: postgres.map(Mutex::new),
            journal,
            folder,
        };
        for at in 0..backing.facilitators() {
            let facilitator = Facilitator::new(&stage, at).await;
            facilitator.start().await;
            stage.facilitators.push(facilitator);
        }
        stage
    }

    /// Ends the server of the journal at once, and starts it again after this time.
    pub(crate) async fn restart_postgres(&self, after: Duration) {
        if let Some(postgres) = &self.postgres {
            let mut postgres = postgres.lock().await;
            postgres.kill().unwrap();
            tokio::time::sleep(after).await;
            postgres.restart().await.unwrap();
        }
    }

    /// Ends every fault: each process runs, each node answers, and blocks are made.
    pub(crate) async fn mend(&self) {
        for facilitator in &self.facilitators {
            facilitator.evm_node.mend();
            facilitator.solana_node.mend();
            facilitator.signal("-CONT").await;
            facilitator.start().await;
        }
        self.evm
            .set_mining(Mining::Every(BLOCK_TIME))
            .await
            .unwrap();
    }

    /// The addresses that the facilitators sign with on the EVM chain.
    pub(crate) fn evm_signers(&self) -> Vec<alloy::primitives::Address> {
        let accounts = Evm::accounts();
        EVM_SIGNERS.map(|at| accounts[at].address).to_vec()
    }

    /// Everything that the facilitators have logged.
    pub(crate) fn logs(&self) -> String {
        let logs = self.facilitators.iter().map(|facilitator| {
            fs::read_to_string(&facilitator.log).unwrap_or_else(|error| error.to_string())
        });
        logs.collect()
    }
}

/// A facilitator's process, which a fault may end and which is then started again.
pub(crate) struct Facilitator {
    pub(crate) url: String,
    /// The node in front of the EVM chain.
    pub(crate) evm_node: Proxy,
    /// The node in front of the Solana cluster.
    pub(crate) solana_node: Proxy,
    config: PathBuf,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Facilitator {
    async fn new(stage: &Stage, at: usize) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = port.local_addr().unwrap();
        let evm_node = Proxy::before(stage.evm.url()).await;
        let solana_node = Proxy::before(stage.solana.url()).await;
        let path = |name: &str| stage.folder.path().join(name);
        let keys = |name: &str, count: usize| -> String {
            let keys: Vec<String> = (0..count)
                .map(|at| format!("{{ env = \"{name}_{at}\" }}"))
                .collect();
            format!("[{}]", keys.join(", "))
        };
        let text = format!(
            "listen = \"{listen}\"\njournal = {:?}\nsettle_wait_secs = 8\naccess.anyone = true\n\
             limits.per_minute = 0\nlimits.failed_per_payer = 0\nlimits.failed_per_recipient = 0\n\n\
             [[evm]]\nnetwork = \"base-sepolia\"\nrpc = [{:?}]\nsigners = {}\nconfirmations = 2\n\
             max_head_age_secs = 0\n\n\
             [[solana]]\nnetwork = \"solana-devnet\"\nrpc = [{:?}]\nfee_payers = {}\n",
            stage.journal,
            evm_node.url(),
            keys("EVM", EVM_SIGNERS.len()),
            solana_node.url(),
            keys("SOLANA", SOLANA_SIGNERS.len()),
        );
        let config = path(&format!("facilitator-{at}.toml"));
        fs::write(&config, text).unwrap();
        Self {
            url: format!("http://{listen}"),
            evm_node,
            solana_node,
            config,
            log: path(&format!("facilitator-{at}.log")),
            child: Mutex::new(None),
        }
    }

    /// Starts the process if it does not run, and waits until it answers. Starts it again as long
    /// as it ends, as a supervisor does: its database may be down.
    pub(crate) async fn start(&self) {
        let mut child = self.child.lock().await;
        let client = Client::new();
        for turn in 0..600 {
            let running = child.as_mut().map(|child| child.try_wait().unwrap());
            match running {
                Some(None) if turn == 0 => return,
                Some(None) => {}
                _ => *child = Some(self.command().spawn().unwrap()),
            }
            let answer = client.get(format!("{}/supported", self.url)).send().await;
            if answer.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        panic!("a facilitator does not start: {log}");
    }

    fn command(&self) -> Command {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let mut command = Command::new(env!("CARGO_BIN_EXE_quittance"));
        command
            .args(["serve", "--config"])
            .arg(&self.config)
            .env_remove("RUST_LOG")
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .kill_on_drop(true);
        for (at, account) in EVM_SIGNERS.into_iter().enumerate() {
            command.env(format!("EVM_{at}"), &Evm::accounts()[account].key);
        }
        for (at, account) in SOLANA_SIGNERS.into_iter().enumerate() {
            command.env(format!("SOLANA_{at}"), &Solana::accounts()[account].key);
        }
        command
    }

    /// Ends the process at once, as a power cut would.
    pub(crate) async fn kill(&self) {
        if let Some(mut child) = self.child.lock().await.take() {
            child.kill().await.unwrap();
        }
    }

    /// Sends a signal to the process, if it runs.
    pub(crate) async fn signal(&self, signal: &str) {
        if let Some(pid) = self.child.lock().await.as_ref().and_then(Child::id) {
            let mut kill = Command::new("kill");
            kill.args([signal, &pid.to_string()]).stderr(Stdio::null());
            kill.status().await.unwrap();
        }
    }
}
