//! The `quittance` program on a disk that fills up or fails: no payment is reported valid that
//! cannot be settled, and the program works again without a restart when the disk does.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use quittance_core::wire::{PaymentPayload, Rest, SupportedKind};
use quittance_core::{Clock, Offer, Payer, PaymentRequest, SystemClock};
use quittance_devnet::{Evm, EvmOptions, Tools};
use quittance_evm::{ExactOffer, ExactPayer};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A local chain, and a folder for the journal and its configuration.
struct Stage {
    evm: Evm,
    folder: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let tools = Tools::find().unwrap();
        let evm = Evm::start(&tools, &EvmOptions::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { evm, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, command: &str, journal: &Path) -> Command {
        let text = format!(
            "listen = \"127.0.0.1:0\"\njournal = {journal:?}\nsettle_wait_secs = 5\naccess.anyone = true\n\n\
             [[evm]]\nnetwork = \"base-sepolia\"\nrpc = [{:?}]\nsigners = [{{ env = \"SIGNER\" }}]\nmax_head_age_secs = 0\n",
            self.evm.url(),
        );
        fs::write(self.path("quittance.toml"), text).unwrap();
        // A write beyond the file-size limit is then an error, and does not end the program.
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
            .args([env!("CARGO_BIN_EXE_quittance"), command, "--config"])
            .arg(self.path("quittance.toml"))
            .env("SIGNER", &Evm::accounts()[0].key)
            .env_remove("RUST_LOG")
            .kill_on_drop(true);
        shell
    }
}

/// A running program.
struct Serving {
    child: Child,
    url: String,
}

impl Serving {
    async fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = loop {
            let line = lines.next_line().await.unwrap().expect("it serves");
            let entry: Value = serde_json::from_str(&line).unwrap();
            if entry["message"] == "serving" {
                break format!("http://{}", entry["listen"].as_str().unwrap());
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, url }
    }

    async fn post(&self, path: &str, request: &PaymentRequest) -> (StatusCode, Value) {
        let post = Client::new().post(format!("{}{path}", self.url));
        let answer = post.body(request.text().to_owned()).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let get = Client::new().get(format!("{}{path}", self.url));
        let answer = get.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn settles(&self, request: &PaymentRequest) {
        let (status, answer) = self.post("/settle", request).await;
        assert_eq!(
            (status, &answer["success"]),
            (StatusCode::OK, &true.into()),
            "{answer}"
        );
    }

    /// Asserts the answers of the program while no payment can be settled.
    async fn is_down(&self, request: &PaymentRequest) {
        let (status, answer) = self.post("/settle", request).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
        assert_eq!(answer["error"], "journal_unavailable", "{answer}");
        let (status, answer) = self.post("/verify", request).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
        assert_eq!(answer["error"], "journal_unavailable", "{answer}");
        let (_, supported) = self.get("/supported").await;
        assert_eq!(supported["kinds"], Value::Array(vec![]), "{supported}");
        let (status, health) = self.get("/health").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{health}");
        assert_eq!(health["journal"]["usable"], false, "{health}");
        let problem = health["journal"]["problem"].as_str().unwrap();
        assert!(problem.contains("cannot be written"), "{problem}");
    }

    async fn is_up_again(&self, request: &PaymentRequest) {
        for _ in 0..500 {
            if self.get("/health").await.0 == StatusCode::OK {
                let (_, verdict) = self.post("/verify", request).await;
                assert_eq!(verdict["isValid"], true, "{verdict}");
                return self.settles(request).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!(
            "the journal does not recover: {:?}",
            self.get("/health").await
        );
    }
}

async fn payment() -> PaymentRequest {
    let seller = Evm::accounts()[1].address.to_string();
    let offer = ExactOffer::usdc("base-sepolia", "0.01", &seller).unwrap();
    let kind = SupportedKind {
        x402_version: 2,
        scheme: "exact".to_owned(),
        network: offer.network().id().to_owned(),
        extra: None,
        rest: Rest::default(),
    };
    let requirements = offer.requirements(&kind).unwrap();
    let payer = ExactPayer::new(Evm::accounts()[2].signer.clone());
    let paid = payer.pay(&requirements, None, SystemClock.now()).await;
    let payload = paid.unwrap().payload;
    let payload = PaymentPayload {
        x402_version: 2,
        resource: None,
        accepted: requirements.clone(),
        payload,
        extensions: None,
        rest: Rest::default(),
    };
    PaymentRequest::new(payload, requirements).unwrap()
}

async fn run(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stderr(Stdio::null());
    command.status().await.unwrap().success()
}

/// A small file system.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None` if this user may not mount a file system.
    async fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let path = at.to_str().unwrap();
        let mounted = run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", path]).await;
        mounted.then_some(Self(at))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn fill(&self) {
        fs::write(self.filler(), vec![0; 2 << 20]).unwrap_err();
    }

    fn empty(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let mut umount = std::process::Command::new("umount");
        let _ = umount.arg("-l").arg(&self.0).status();
    }
}

/// A full disk stopped all settlements until a restart, while `/health` said ok and `/verify` said
/// valid. Here a limit on the size of the program's files acts as a full disk, which needs no
/// rights.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_is_reported_and_used_again() {
    let stage = Stage::new().await;
    let serving = Serving::start(stage.command("serve", &stage.path("journal.db"))).await;
    let pid = serving.child.id().unwrap().to_string();
    serving.settles(&payment().await).await;
    for _ in 0..2 {
        let request = payment().await;
        assert!(run("prlimit", &["--pid", &pid, "--fsize=1:"]).await);
        serving.is_down(&request).await;
        // Nothing changes with time.
        tokio::time::sleep(Duration::from_secs(2)).await;
        serving.is_down(&request).await;
        assert!(run("prlimit", &["--pid", &pid, "--fsize=unlimited:"]).await);
        serving.is_up_again(&request).await;
    }
}

/// The same on a real file system, if this user may mount one.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_reported_and_used_again() {
    let stage = Stage::new().await;
    let Some(disk) = Tmpfs::mount(stage.path("disk")).await else {
        // The test above covers the same code with another limit.
        eprintln!("not run: this user may not mount a file system");
        return;
    };
    let serving = Serving::start(stage.command("serve", &disk.0.join("journal.db"))).await;
    serving.settles(&payment().await).await;
    for _ in 0..2 {
        let request = payment().await;
        disk.fill();
        serving.is_down(&request).await;
        disk.empty();
        serving.is_up_again(&request).await;
    }
    drop(serving);
}

/// After a failed write, every further write failed.
#[tokio::test(flavor = "multi_thread")]
async fn one_failed_write_refuses_only_one_payment() {
    let stage = Stage::new().await;
    let library = stage.path("failing_write.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/failing_write.c");
    let library_text = library.to_str().unwrap();
    assert!(
        run(
            "cc",
            &["-shared", "-fPIC", source, "-o", library_text, "-ldl"]
        )
        .await
    );
    let order = stage.path("fail-once");
    let mut command = stage.command("serve", &stage.path("journal.db"));
    command
        .env("LD_PRELOAD", &library)
        .env("FAIL_NEXT_WRITE", &order);
    let serving = Serving::start(command).await;
    serving.settles(&payment().await).await;
    for _ in 0..3 {
        let request = payment().await;
        fs::write(&order, "").unwrap();
        let (status, answer) = serving.post("/settle", &request).await;
        assert!(!order.exists(), "the write did not fail");
        // The claim failed, or a later write that was repeated.
        let refused = status == StatusCode::SERVICE_UNAVAILABLE;
        assert!(refused || answer["success"] == true, "{status} {answer}");
        if refused {
            serving.is_up_again(&request).await;
        }
    }
}

/// Every signed authorization is in the journal.
#[tokio::test(flavor = "multi_thread")]
async fn check_reports_a_journal_that_others_can_read() {
    let stage = Stage::new().await;
    let journal = stage.path("journal.db");
    let check = async || {
        let output = stage.command("check", &journal).output().await.unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let mut serving = Serving::start(stage.command("serve", &journal)).await;
    serving.settles(&payment().await).await;
    let pid = serving.child.id().unwrap().to_string();
    assert!(run("kill", &["-TERM", &pid]).await);
    serving.child.wait().await.unwrap();
    let (code, said) = check().await;
    assert_eq!(code, Some(0), "{said}");
    fs::set_permissions(&journal, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = check().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("journal: other users") && said.contains("chmod 600"),
        "{said}"
    );
}
