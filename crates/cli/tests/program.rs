//! The `quittance` program, as an operator runs it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

#[path = "program/channel.rs"]
mod channel;
#[path = "program/copies.rs"]
mod copies;
#[path = "program/fleet.rs"]
mod fleet;
#[path = "program/holds.rs"]
mod holds;
#[path = "program/reconcile.rs"]
mod reconcile;
#[path = "program/refund.rs"]
mod refund;
#[path = "program/upto.rs"]
mod upto;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use quittance_core::wire::{
    PaymentPayload, PaymentRequirements, Rest, SupportedKind, SupportedResponse,
};
use quittance_core::{Clock, Offer, Payer, PaymentRequest, SystemClock};
use quittance_devnet::{Evm, EvmOptions, Mining, SOLANA_USDC, Solana, SolanaOptions, Tools, USDC};
use quittance_evm::{ExactOffer, ExactPayer};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A local chain and a folder with a configuration for it.
struct Place {
    evm: Evm,
    folder: TempDir,
}

impl Place {
    async fn new() -> Self {
        let evm = Evm::start(&Tools::find().unwrap(), &EvmOptions::default())
            .await
            .unwrap();
        let place = Self {
            evm,
            folder: tempfile::tempdir().unwrap(),
        };
        place.configure("");
        place
    }

    fn configure(&self, more: &str) {
        let text = format!(
            "listen = \"127.0.0.1:0\"\njournal = {:?}\nsettle_wait_secs = 3\n{more}\naccess.anyone = true\n\n\
             [[evm]]\nnetwork = \"base-sepolia\"\nrpc = [{:?}]\nsigners = [{{ env = \"SIGNER\" }}]\nmax_head_age_secs = 0\n",
            self.folder.path().join("journal.db"),
            self.evm.url(),
        );
        std::fs::write(self.config(), text).unwrap();
    }

    /// Appends text to the configuration.
    fn append(&self, more: &str) {
        let text = std::fs::read_to_string(self.config()).unwrap();
        std::fs::write(self.config(), text + more).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("quittance.toml")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = quittance(arguments);
        command
            .arg("--config")
            .arg(self.config())
            .env("SIGNER", &Evm::accounts()[0].key)
            .env("FEE_PAYER", &Solana::accounts()[0].key);
        command
    }

    async fn serve(&self) -> Serving {
        Serving::start(self.command(&["serve"])).await
    }
}

struct Serving {
    child: Child,
    url: String,
    log: tokio::task::JoinHandle<String>,
}

impl Serving {
    async fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = Vec::new();
        let url = loop {
            let line = lines
                .next_line()
                .await
                .unwrap()
                .unwrap_or_else(|| panic!("stopped: {log:?}"));
            let entry: Value =
                serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a log line: {line}"));
            log.push(line);
            if entry["message"] == "serving" {
                break format!("http://{}", entry["listen"].as_str().unwrap());
            }
        };
        let log = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                log.push(line);
            }
            log.join("\n")
        });
        Self { child, url, log }
    }

    async fn post(&self, path: &str, request: &PaymentRequest) -> Value {
        let post = Client::new()
            .post(format!("{}{path}", self.url))
            .body(request.text().to_owned());
        post.send().await.unwrap().json().await.unwrap()
    }

    async fn settlement(&self, id: &str) -> Value {
        let get = Client::new().get(format!("{}/settlements/{id}", self.url));
        get.send().await.unwrap().json().await.unwrap()
    }

    fn signal(&self, signal: &str) {
        send(signal, &self.child);
    }
}

fn send(signal: &str, child: &Child) {
    let mut kill = std::process::Command::new("kill");
    let kill = kill.args([signal, &child.id().unwrap().to_string()]);
    assert!(kill.status().unwrap().success());
}

fn quittance(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quittance"));
    command
        .args(arguments)
        .kill_on_drop(true)
        .env("XDG_DATA_HOME", env!("CARGO_TARGET_TMPDIR"))
        .env_remove("RUST_LOG");
    command
}

/// A local Solana cluster, and the configuration for it.
async fn solana() -> (Solana, String) {
    let tools = Tools::find().unwrap();
    let local = Solana::start(&tools, &SolanaOptions::default())
        .await
        .unwrap();
    let entry = format!(
        "\n[[solana]]\nnetwork = \"solana-devnet\"\nrpc = [{:?}]\nfee_payers = [{{ env = \"FEE_PAYER\" }}]\n",
        local.url()
    );
    (local, entry)
}

/// The identifier of Solana's devnet, which the local cluster reports.
const SOLANA_DEVNET: &str = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1";

async fn output(mut command: Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().await.unwrap();
    (
        status.code(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

async fn payment() -> PaymentRequest {
    let offer = ExactOffer::usdc(
        "base-sepolia",
        "0.01",
        &Evm::accounts()[1].address.to_string(),
    )
    .unwrap();
    let network = offer.network().id().to_owned();
    let kind = SupportedKind {
        x402_version: 2,
        scheme: "exact".to_owned(),
        network,
        extra: None,
        rest: Rest::default(),
    };
    let requirements = offer.requirements(&kind).unwrap();
    let payer = ExactPayer::new(Evm::accounts()[2].signer.clone());
    paid_by(&payer, requirements).await
}

/// A request with a new payment for these requirements.
async fn paid_by(payer: &dyn Payer, requirements: PaymentRequirements) -> PaymentRequest {
    let paid = payer.pay(&requirements, None, SystemClock.now()).await;
    let payload = paid.unwrap().payload;
    let accepted = requirements.clone();
    let payload = PaymentPayload {
        x402_version: 2,
        resource: None,
        accepted,
        payload,
        extensions: None,
        rest: Rest::default(),
    };
    PaymentRequest::new(payload, requirements).unwrap()
}

/// A payment on the local Solana cluster, for a kind that the facilitator supports.
async fn solana_payment(serving: &Serving, local: &Solana) -> PaymentRequest {
    let get = Client::new().get(format!("{}/supported", serving.url));
    let supported: SupportedResponse = get.send().await.unwrap().json().await.unwrap();
    let kinds = supported.kinds.iter();
    let mut kinds = kinds.filter(|kind| kind.network == SOLANA_DEVNET);
    let seller = Solana::accounts()[1].address.to_string();
    let offer = quittance_solana::ExactOffer::usdc("solana-devnet", "0.01", &seller).unwrap();
    let requirements = offer.requirements(kinds.next().unwrap()).unwrap();
    let network = offer.network().clone();
    let payer = quittance_solana::ExactPayer::new(Solana::accounts().swap_remove(2).keypair)
        .with_rpc(&network, &[local.url().parse().unwrap()])
        .unwrap();
    paid_by(&payer, requirements).await
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    for _ in 0..500 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never {what}")
}

/// The main promise of the project: the process is killed between broadcast and answer, and after
/// the restart the payment is recorded as settled, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_broadcast_before_a_kill_settles_once() {
    let place = Place::new().await;
    let request = payment().await;
    place.evm.set_mining(Mining::Manual).await.unwrap();
    let mut serving = place.serve().await;
    let (url, text) = (serving.url.clone(), request.text().to_owned());
    let asking = tokio::spawn(async move {
        Client::new()
            .post(format!("{url}/settle"))
            .body(text)
            .send()
            .await
    });
    // The node has the transaction.
    let waiting = eventually("broadcast", || async {
        let pool: Value = place.evm.rpc("txpool_content", ()).await.ok()?;
        let pending = pool["pending"]
            .as_object()?
            .values()
            .next()?
            .as_object()?
            .values()
            .next()?;
        Some(pending["hash"].as_str()?.to_owned())
    })
    .await;
    serving.signal("-9");
    serving.child.wait().await.unwrap();
    assert!(asking.await.unwrap().is_err(), "a caller got an answer");

    place.evm.mine().await.unwrap();
    place.evm.set_mining(Mining::Instant).await.unwrap();
    let serving = place.serve().await;
    let settled = eventually("settled", || async {
        let get = Client::new().get(format!("{}/settlements?transaction={waiting}", serving.url));
        let found: Value = get.send().await.ok()?.json().await.ok()?;
        (found["settlements"][0]["state"] == "settled").then(|| found["settlements"][0].clone())
    })
    .await;
    assert_eq!(
        (&settled["transaction"], &settled["successReported"]),
        (&json!(waiting), &json!(false))
    );
    let answer = serving.post("/settle", &request).await;
    assert_eq!(
        (&answer["success"], &answer["transaction"]),
        (&json!(true), &json!(waiting))
    );
    assert_eq!(
        serving.post("/settle", &request).await["errorReason"],
        "duplicate_settlement"
    );
    assert_eq!(
        serving.settlement(settled["id"].as_str().unwrap()).await["successReported"],
        true
    );
    let received = place
        .evm
        .balance(USDC, Evm::accounts()[1].address)
        .await
        .unwrap();
    assert_eq!(received.to_string(), "1000000010000");
}

/// The same on Solana, where the payer's own transaction is sent again unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn a_solana_payment_broadcast_before_a_kill_settles_once() {
    let place = Place::new().await;
    let (local, entry) = solana().await;
    place.append(&entry);
    let mut serving = place.serve().await;
    let request = solana_payment(&serving, &local).await;
    local.set_slot_time(None).await.unwrap();
    let answer = serving.post("/settle", &request).await;
    assert_eq!(answer["errorReason"], "settlement_pending", "{answer}");
    let transaction = answer["transaction"].as_str().unwrap();
    serving.signal("-9");
    serving.child.wait().await.unwrap();

    local
        .set_slot_time(Some(Duration::from_millis(200)))
        .await
        .unwrap();
    let serving = place.serve().await;
    eventually("settled", || async {
        let path = format!("/settlements?transaction={transaction}");
        let get = Client::new().get(format!("{}{path}", serving.url));
        let found: Value = get.send().await.ok()?.json().await.ok()?;
        (found["settlements"][0]["state"] == "settled").then_some(())
    })
    .await;
    let answer = serving.post("/settle", &request).await;
    assert_eq!(
        (&answer["success"], &answer["transaction"]),
        (&json!(true), &json!(transaction))
    );
    let again = serving.post("/settle", &request).await;
    assert_eq!(again["errorReason"], "duplicate_settlement");
    assert_eq!(sold(&local).await, 10_000);
}

/// The amount that the seller has received on the local Solana cluster.
async fn sold(local: &Solana) -> u64 {
    let seller = Solana::accounts()[1].address;
    let program = quittance_solana::TokenProgram::SplToken.id();
    let balance = local.balance(&seller, &SOLANA_USDC, &program).await;
    balance.unwrap() - 1_000_000_000_000
}

/// The process is killed repeatedly at random moments: every claimed payment settles exactly once.
#[tokio::test(flavor = "multi_thread")]
async fn payments_survive_a_kill_at_any_moment() {
    const PAYMENTS: usize = 24;
    let place = Place::new().await;
    place
        .evm
        .set_mining(Mining::Every(Duration::from_secs(1)))
        .await
        .unwrap();
    let mut requests = Vec::new();
    for _ in 0..PAYMENTS {
        requests.push(payment().await);
    }
    for round in 0..4_u64 {
        let mut serving = place.serve().await;
        let asking: Vec<_> = requests
            .iter()
            .skip(6 * round as usize)
            .take(6)
            .map(|request| {
                let post = Client::new()
                    .post(format!("{}/settle", serving.url))
                    .body(request.text().to_owned());
                tokio::spawn(post.send())
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(10 + 37 * round * round)).await;
        serving.signal("-9");
        serving.child.wait().await.unwrap();
        for asked in asking {
            drop(asked.await);
        }
    }
    let serving = place.serve().await;
    for request in &requests {
        let answer = eventually("an answer", || async {
            let answer = serving.post("/settle", request).await;
            let over = answer["success"] == true || answer["errorReason"] == "duplicate_settlement";
            over.then_some(answer)
        })
        .await;
        assert_ne!(answer["transaction"], "");
    }
    let received = place
        .evm
        .balance(USDC, Evm::accounts()[1].address)
        .await
        .unwrap();
    assert_eq!(
        received.to_string(),
        (1_000_000_000_000 + 10_000 * PAYMENTS).to_string()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_requests_and_logs_no_secret() {
    let place = Place::new().await;
    place.configure("log.filter = \"trace\"");
    let serving = place.serve().await;
    let request = payment().await;
    assert_eq!(serving.post("/verify", &request).await["isValid"], true);
    assert_eq!(serving.post("/settle", &request).await["success"], true);
    let metrics = Client::new()
        .get(format!("{}/metrics", serving.url))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for name in [
        "quittance_requests_total{endpoint=\"settle\",network=\"eip155:84532\",result=\"settled\"} 1",
        "quittance_request_seconds_bucket",
        "quittance_network_up{network=\"eip155:84532\"} 1",
        "quittance_settlements_in_progress 0",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    serving.signal("-TERM");
    let Serving { mut child, log, .. } = serving;
    assert!(child.wait().await.unwrap().success());
    let log = log.await.unwrap();
    let key = Evm::accounts()[0].key.trim_start_matches("0x").to_owned();
    let signature: Value = serde_json::from_str(request.text()).unwrap();
    let signature = signature["paymentPayload"]["payload"]["signature"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(!log.contains(&key), "the signer's key is in the log");
    assert!(
        !log.contains(&signature),
        "a payer's signature is in the log"
    );
    assert!(log.contains("no settlement was in progress"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_do_not_share_a_journal() {
    let place = Place::new().await;
    let _first = place.serve().await;
    let (code, _, errors) = output(place.command(&["serve"])).await;
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("another process has this journal"),
        "{errors}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_the_problems_of_each_network() {
    let place = Place::new().await;
    let (code, said, _) = output(place.command(&["check"])).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.starts_with("eip155:84532: all is well\nwarning: "),
        "{said}"
    );
    assert!(
        said.contains("there is no minimum amount for USDC"),
        "{said}"
    );

    let text = std::fs::read_to_string(place.config()).unwrap();
    let wrong = text
        + "tokens = [{ address = \"0x00000000000000000000000000000000000000aa\", name = \"X\", version = \"1\", decimals = 6, symbol = \"X\" }]\n\
        [[evm]]\nnetwork = \"polygon\"\nrpc = [\"http://127.0.0.1:1/secret-key\"]\nsigners = [{ env = \"SIGNER\" }]\n";
    std::fs::write(place.config(), wrong).unwrap();
    let (code, said, errors) = output(place.command(&["check"])).await;
    assert_eq!(code, Some(1));
    assert!(
        said.contains("eip155:84532: the token X at") && said.contains("there is no contract"),
        "{said}"
    );
    for line in [
        "eip155:84532: payments can be settled, except for the problems above\n",
        "eip155:137: no node works",
        "eip155:137: no payment can be settled\n",
    ] {
        assert!(said.contains(line), "{line} is not in\n{said}");
    }
    // The report contained "settling goes on" next to "nothing is settled".
    assert!(!said.contains("goes on"), "{said}");
    assert!(
        !said.contains("secret-key") && !errors.contains("secret-key"),
        "{said}{errors}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_the_problems_of_a_solana_cluster() {
    let place = Place::new().await;
    let (_local, entry) = solana().await;
    place.append(&entry);
    let (code, said, _) = output(place.command(&["check"])).await;
    let well = format!("eip155:84532: all is well\n{SOLANA_DEVNET}: all is well\n");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with(&well), "{said}");
    assert!(said.contains("may cost up to 30000 lamports"), "{said}");

    // A missing token, a fee payer with too low a balance, and a node of another cluster.
    place.append(
        "tokens = [{ mint = \"EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v\", symbol = \"X\", decimals = 6, program = \"spl-token\" }]\n\
         min_balance_lamports = 900_000_000_000\n",
    );
    place.append(&entry.replace("solana-devnet", "solana-testnet"));
    let (code, said, _) = output(place.command(&["check"])).await;
    assert_eq!(code, Some(1));
    let testnet = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z";
    for named in [
        format!("{SOLANA_DEVNET}: the token X at"),
        "the mint does not exist".to_owned(),
        format!("{SOLANA_DEVNET}: the fee payer"),
        format!("{SOLANA_DEVNET}: no payment can be settled"),
        "is on the cluster with the genesis hash EtWTRAB".to_owned(),
        format!("{testnet}: no payment can be settled"),
    ] {
        assert!(said.contains(&named), "{named} is not in\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_configuration_is_refused_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quittance.toml");
    let try_it = |text: String| {
        let path = path.clone();
        async move {
            std::fs::write(&path, text).unwrap();
            let mut command = quittance(&["serve", "--config"]);
            command
                .arg(&path)
                .env("SIGNER", "0xnot-a-key")
                .env_remove("MISSING");
            output(command).await
        }
    };
    let network = |more: &str| {
        format!(
            "access.anyone = true\n[[evm]]\nnetwork = \"base\"\nrpc = [\"http://127.0.0.1:1\"]\nsigners = [{{ env = \"SIGNER\" }}]\n{more}"
        )
    };
    let cluster = |more: &str| {
        format!(
            "access.anyone = true\n[[solana]]\nnetwork = \"solana\"\nrpc = [\"http://127.0.0.1:1\"]\nfee_payers = [{{ env = \"SIGNER\" }}]\n{more}"
        )
    };
    for (text, named) in [
        (
            cluster("").replace("\"solana\"", "\"base\""),
            "solana[0].network",
        ),
        (cluster(""), "solana[0].fee_payers[0]: not a keypair"),
        (cluster("commitment = \"sure\""), "commitment"),
        (
            cluster("max_head_age_secs = 0"),
            "solana[0].max_head_age_secs",
        ),
        (cluster("assets = [\"DOGE\"]"), "solana[0].assets: \"DOGE\""),
        (
            cluster(
                "[[solana]]\nnetwork = \"solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp\"\nrpc = []\nfee_payers = []\n",
            ),
            "solana[1].network: solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp is already configured by solana[0]",
        ),
        (String::new(), "access"),
        ("access.anyone = true".to_owned(), "evm"),
        (network("confirmatons = 2"), "confirmatons"),
        (network("confirmations = \"many\""), "confirmations"),
        (
            network("").replace("\"base\"", "\"solana:mainnet\""),
            "evm[0].network",
        ),
        (
            network("").replace("http://127.0.0.1:1", "not a url"),
            "evm[0].rpc[0]",
        ),
        (
            network("").replace("\"SIGNER\"", "\"MISSING\""),
            "evm[0].signers[0]",
        ),
        (network(""), "evm[0].signers[0]"),
        // One network in two spellings: two lanes would use the same nonces.
        (
            network("[[evm]]\nnetwork = \"eip155:8453\"\nrpc = []\nsigners = []\n"),
            "evm[1].network: eip155:8453 is already configured by evm[0]",
        ),
        ("this is not = = toml".to_owned(), "TOML"),
    ] {
        let (code, _, errors) = try_it(text).await;
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains(named), "{named}: {errors}");
        assert!(!errors.contains("0xnot-a-key"), "{errors}");
    }
    let (code, _, errors) =
        output(quittance(&["serve", "--config", "/nowhere/quittance.toml"])).await;
    assert_eq!(code, Some(1));
    assert!(errors.contains("/nowhere/quittance.toml"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pay_buys_within_its_limit() {
    let place = Place::new().await;
    let serving = place.serve().await;
    let facilitator =
        std::sync::Arc::new(quittance_http::RemoteFacilitator::new(&serving.url).unwrap());
    let offer = ExactOffer::usdc(
        "base-sepolia",
        "0.01",
        &Evm::accounts()[1].address.to_string(),
    )
    .unwrap();
    let price = quittance_seller::PaymentLayer::new(facilitator).accept(offer);
    let app = axum::Router::new().route("/", axum::routing::get(|| async { "goods" }).layer(price));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });

    let pay = |max: &str| {
        let mut command = quittance(&["pay", &url, "--max", max]);
        command.env("QUITTANCE_PAYER_KEY", &Evm::accounts()[2].key);
        output(command)
    };
    let (code, said, errors) = pay("0.001").await;
    assert_eq!((code, said.as_str()), (Some(4), ""));
    assert!(errors.contains("over the limit of 0.001"), "{errors}");
    let (code, said, errors) = pay("0.01").await;
    assert_eq!((code, said.as_str()), (Some(0), "goods"), "{errors}");
    assert!(
        errors.contains("paid 0.01 USDC on ") && errors.contains("transaction 0x"),
        "{errors}"
    );
    let file = key_file(place.folder.path());
    let (code, ..) = output(quittance(&["pay", &url, "--key-file", &file])).await;
    assert_eq!(code, Some(0));
}

/// A price in USDC on the local Solana cluster, and the buyer's balance afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn pay_buys_on_solana_within_its_limit() {
    let place = Place::new().await;
    let (local, entry) = solana().await;
    place.append(&entry);
    let serving = place.serve().await;
    let supported = Client::new().get(format!("{}/supported", serving.url));
    let supported: Value = supported.send().await.unwrap().json().await.unwrap();
    let fee_payer = Solana::accounts()[0].address.to_string();
    for (version, network) in [(1, "solana-devnet"), (2, SOLANA_DEVNET)] {
        let kind = json!({ "x402Version": version, "scheme": "exact", "network": network });
        let kinds = supported["kinds"].as_array().unwrap();
        let found = kinds.iter().find(|found| {
            ["x402Version", "scheme", "network"]
                .iter()
                .all(|field| found[*field] == kind[*field])
        });
        let found = found.unwrap_or_else(|| panic!("{kind} in {supported}"));
        assert_eq!(found["extra"]["feePayer"], json!(fee_payer));
    }

    let seller = Solana::accounts()[1].address;
    let offer =
        quittance_solana::ExactOffer::usdc("solana-devnet", "0.01", &seller.to_string()).unwrap();
    let facilitator =
        std::sync::Arc::new(quittance_http::RemoteFacilitator::new(&serving.url).unwrap());
    let price = quittance_seller::PaymentLayer::new(facilitator).accept(offer);
    let app = axum::Router::new().route("/", axum::routing::get(|| async { "goods" }).layer(price));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });

    let state = place.folder.path().join("purchases.json");
    let pay = |more: &[&str]| {
        let mut command = quittance(&["pay", &url, "--solana-rpc", local.url(), "--state"]);
        command
            .arg(&state)
            .args(more)
            .env_remove("QUITTANCE_PAYER_KEY");
        command
    };
    let (code, _, errors) = output(pay(&[])).await;
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("QUITTANCE_PAYER_KEY") && errors.contains("QUITTANCE_SOLANA_PAYER_KEY"),
        "{errors}"
    );
    let key = Solana::accounts()[2].key.clone();
    let mut command = pay(&["--max", "0.001"]);
    command.env("QUITTANCE_SOLANA_PAYER_KEY", &key);
    let (code, said, errors) = output(command).await;
    assert_eq!((code, said.as_str()), (Some(4), ""));
    assert!(errors.contains("over the limit of 0.001"), "{errors}");
    let mut command = pay(&["--max", "0.01"]);
    command.env("QUITTANCE_SOLANA_PAYER_KEY", &key);
    let (code, said, errors) = output(command).await;
    assert_eq!((code, said.as_str()), (Some(0), "goods"), "{errors}");
    assert!(errors.contains("paid 0.01 USDC on "), "{errors}");
    assert!(!errors.contains(&key), "{errors}");

    // The format of solana-keygen.
    let bytes = Solana::accounts()[3].keypair.to_bytes();
    let file = place.folder.path().join("id.json");
    std::fs::write(&file, json!(bytes.as_slice()).to_string()).unwrap();
    let file = file.display().to_string();
    let (code, _, errors) = output(pay(&["--solana-key-file", &file])).await;
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(sold(&local).await, 20_000);
}

fn key_file(folder: &Path) -> String {
    let file = folder.join("key");
    std::fs::write(&file, format!("{}\n", Evm::accounts()[3].key)).unwrap();
    file.display().to_string()
}

/// `check` tested only the networks. `serve` then reported the other problems, one at a time.
#[tokio::test(flavor = "multi_thread")]
async fn check_finds_everything_that_would_stop_serve() {
    let place = Place::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let text = format!(
        "listen = {taken:?}\njournal = \"/nowhere/journal.db\"\nlog.filter = \"a=b=c\"\n\
         access.keys = [{{ env = \"MISSING_KEY\" }}]\nlimits.requests = 0\n\
         [[evm]]\nnetwork = \"base-sepolia\"\nrpc = [{:?}]\nsigners = [{{ env = \"SIGNER\" }}]\nmax_head_age_secs = 0\n\
         [[evm]]\nnetwork = \"eip155:84532\"\nrpc = [\"http://127.0.0.1:1\"]\nsigners = [{{ env = \"SIGNER\" }}]\n\
         [[evm]]\nnetwork = \"polygon\"\nrpc = [\"not a url\"]\nsigners = [{{ env = \"MISSING_SIGNER\" }}]\n",
        place.evm.url()
    );
    std::fs::write(place.config(), text).unwrap();
    let run = |task: &str| {
        let mut command = place.command(&[task]);
        command
            .env("QUITTANCE_LIMITS_BURST", "5")
            .env_remove("MISSING_KEY")
            .env_remove("MISSING_SIGNER");
        output(command)
    };
    let (code, said, errors) = run("check").await;
    assert_eq!(code, Some(1), "{errors}");
    let of_config = [
        "log.filter:",
        "access.keys[0]:",
        "limits.requests:",
        "evm[1].network: eip155:84532 is already configured by evm[0]",
        "evm[2].rpc[0]:",
        "evm[2].signers[0]:",
        "QUITTANCE_LIMITS_BURST: there is no such variable; did you mean QUITTANCE_LIMITS__BURST?",
    ];
    for named in of_config {
        assert!(said.contains(named), "{named} is not in\n{said}");
    }
    for named in ["listen:", "journal:", "eip155:84532: all is well"] {
        assert!(said.contains(named), "{named} is not in\n{said}");
    }
    let (code, _, errors) = run("serve").await;
    assert_eq!(code, Some(1));
    for named in of_config {
        assert!(errors.contains(named), "{named} is not in\n{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_a_journal_in_use_and_creates_none() {
    let place = Place::new().await;
    let (code, said, errors) = output(place.command(&["check"])).await;
    assert_eq!(code, Some(0), "{said}{errors}");
    assert!(!place.folder.path().join("journal.db").exists());
    let _serving = place.serve().await;
    let (code, said, _) = output(place.command(&["check"])).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("another process has this journal"), "{said}");
}

/// Every answer is counted by route and status. Names that callers invent share one label.
#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_counted() {
    let place = Place::new().await;
    place.configure("limits.body_secs = 1");
    let serving = place.serve().await;
    // A network has one label for all of its names. Networks that are not served share another
    // label.
    let payment: Value = serde_json::from_str(payment().await.text()).unwrap();
    let asked = payment.to_string();
    let v1 = asked.replace("eip155:84532", "base-sepolia");
    let foreign = asked.replace("eip155:84532", "made-up-network");
    let request = |method: &'static str, path: &str, body: String| {
        let request =
            Client::new().request(method.parse().unwrap(), format!("{}{path}", serving.url));
        async move { request.body(body).send().await.unwrap() }
    };
    for payment in [asked, v1, foreign] {
        request("POST", "/verify", payment).await;
    }
    request("POST", "/verify", "{".to_owned()).await;
    request("POST", "/verify", "a".repeat(70_000)).await;
    request("GET", "/settle", String::new()).await;
    request("BREW", "/settle", String::new()).await;
    request("GET", "/settlements", String::new()).await;
    request(
        "GET",
        &format!("/settlements/{}", "0".repeat(64)),
        String::new(),
    )
    .await;
    for made_up in ["/one", "/two", "/three?four"] {
        request("GET", made_up, String::new()).await;
    }
    let stuck =
        reqwest::Body::wrap_stream(futures_util::stream::pending::<std::io::Result<Vec<u8>>>());
    let slow = Client::new()
        .post(format!("{}/settle", serving.url))
        .body(stuck);
    let _ = slow.send().await;
    let metrics = request("GET", "/metrics", String::new())
        .await
        .text()
        .await
        .unwrap();
    for (labels, count) in [
        ("route=\"/verify\",method=\"POST\",status=\"400\"", 1),
        ("route=\"/verify\",method=\"POST\",status=\"413\"", 1),
        ("route=\"/settle\",method=\"GET\",status=\"405\"", 1),
        ("route=\"/settle\",method=\"other\",status=\"405\"", 1),
        ("route=\"/settle\",method=\"POST\",status=\"408\"", 1),
        ("route=\"/settlements\",method=\"GET\",status=\"400\"", 1),
        (
            "route=\"/settlements/{id}\",method=\"GET\",status=\"404\"",
            1,
        ),
        ("route=\"other\",method=\"GET\",status=\"404\"", 3),
    ] {
        let line = format!("quittance_http_answers_total{{{labels}}} {count}");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("three"), "{metrics}");
    assert!(metrics.contains("network=\"eip155:84532\"") && metrics.contains("network=\"other\""));
    for name in ["base-sepolia", "made-up-network"] {
        assert!(!metrics.contains(name), "{name}: {metrics}");
    }
    serving.signal("-TERM");
    let Serving { mut child, log, .. } = serving;
    assert!(child.wait().await.unwrap().success());
    let log = log.await.unwrap();
    for said in [
        "\"status\":405",
        "\"status\":408",
        "\"error\":\"body_too_large\"",
    ] {
        assert!(log.contains(said), "{said} is not in\n{log}");
    }
    // The log does not contain callers' own names, which may have 60 KiB.
    assert!(!log.contains("made-up-network"), "{log}");
    assert!(log.contains("\"request_id\":"), "{log}");
}

/// The engine and the program both logged each problem, and log files contained colour codes.
#[tokio::test(flavor = "multi_thread")]
async fn a_problem_at_the_start_is_logged_once_and_without_colours() {
    let place = Place::new().await;
    place.configure("log.format = \"text\"");
    place.append(
        "[[evm]]\nnetwork = \"polygon\"\nrpc = [\"http://127.0.0.1:1\"]\nsigners = [{ env = \"SIGNER\" }]\n",
    );
    let mut command = place.command(&["serve"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut log = String::new();
    while !log.contains(" serving") {
        log += &lines.next_line().await.unwrap().expect("it serves");
        log.push('\n');
    }
    assert_eq!(log.matches("no node works").count(), 1, "{log}");
    assert!(!log.contains('\u{1b}'), "{log:?}");
    send("-TERM", &child);
    assert!(child.wait().await.unwrap().success());
}

/// Callers with an unreadable address shared the rate of the proxy without a log line.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_from_a_proxy_that_cannot_be_read_is_logged_once() {
    let place = Place::new().await;
    place.configure("limits.proxies = 1");
    let serving = place.serve().await;
    for entry in ["unknown", "_hidden", "203.0.113.7:4711"] {
        let get = Client::new().get(format!("{}/supported", serving.url));
        let answer = get.header("x-forwarded-for", entry).send().await;
        assert_eq!(answer.unwrap().status(), 200);
    }
    serving.signal("-TERM");
    let Serving { mut child, log, .. } = serving;
    assert!(child.wait().await.unwrap().success());
    let log = log.await.unwrap();
    assert_eq!(log.matches("X-Forwarded-For").count(), 1, "{log}");
    assert!(log.contains("\"entry\":\"unknown\""), "{log}");
}

/// A proxy in the environment cannot reach this machine, and it would see the keys in the URLs of
/// nodes.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_this_machine_are_called_without_a_proxy() {
    let place = Place::new().await;
    let mut check = place.command(&["check"]);
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        check.env(name, "http://127.0.0.1:1");
    }
    let (code, said, errors) = output(check).await;
    assert_eq!(code, Some(0), "{said}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_help_of_every_command_has_an_example() {
    for command in ["serve", "check", "refund", "bench"] {
        let (code, said, errors) = output(quittance(&[command, "--help"])).await;
        assert_eq!(code, Some(0), "{errors}");
        let example = format!("\n  quittance {command}");
        assert!(
            said.contains("Example") && said.contains(&example),
            "{said}"
        );
    }
}

/// A connection without a key wrote 60 MB into the log in eight seconds: each path was logged twice
/// in full.
#[tokio::test(flavor = "multi_thread")]
async fn callers_cannot_fill_the_log() {
    let place = Place::new().await;
    // So slow that a loaded machine does not let more requests pass.
    place.configure("limits.burst = 20\nlimits.per_minute = 60");
    let serving = place.serve().await;
    let client = Client::new();
    let long = "a".repeat(10_000);
    for at in 0..200 {
        // A control character for terminals, as it can be in a path.
        let url = format!("{}/%C2%9B-{at}-{long}", serving.url);
        let method = format!("BREW{long}").parse().unwrap();
        let brewed = client.request(method, &url).send().await;
        let asked = client.get(&url).send().await;
        drop((brewed, asked));
    }
    serving.signal("-TERM");
    let Serving { mut child, log, .. } = serving;
    assert!(child.wait().await.unwrap().success());
    let log = log.await.unwrap();
    let of_requests: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("request_id"))
        .collect();
    let refused = "refused: their callers send more than limits.per_minute";
    assert!(log.contains(refused), "{log}");
    assert!(of_requests.len() < 80, "{} lines", of_requests.len());
    for line in of_requests {
        assert!(line.len() < 600, "{line}");
        assert_eq!(line.matches("request_id").count(), 1, "{line}");
    }
    assert!(!log.contains("BREWa"), "a method was logged as it came");
}
