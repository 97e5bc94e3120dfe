//! `quittance refund`, with a facilitator process on local chains.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use alloy::sol_types::SolCall;
use axum::Router;
use axum::body::Bytes;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use quittance_devnet::{Evm, SOLANA_USDC, Solana, USDC};
use reqwest::Client;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{Place, Serving, output, payment, quittance, solana, solana_payment};

alloy::sol! {
    interface Erc20 {
        function transfer(address to, uint256 amount) external returns (bool);
    }
}

/// What the merchant had before its sale, in atomic units.
const SELLER_START: u64 = 1_000_000_000_000;

/// A facilitator that has settled a payment of 0.01 USDC.
struct Sold {
    place: Place,
    serving: Serving,
    id: String,
}

impl Sold {
    async fn new() -> Self {
        let place = Place::new().await;
        let serving = place.serve().await;
        let answer = serving.post("/settle", &payment().await).await;
        let id = settlement_of(&answer);
        Self { place, serving, id }
    }

    /// What the merchant has kept of the sale, in atomic units.
    async fn kept(&self) -> u64 {
        let seller = Evm::accounts()[1].address;
        let balance = self.place.evm.balance(USDC, seller).await.unwrap();
        u64::try_from(balance).unwrap() - SELLER_START
    }

    /// Transfers all of the merchant's USDC away.
    async fn spend_everything(&self) {
        let [_, seller, _, other, ..] = &Evm::accounts()[..] else {
            panic!("accounts")
        };
        let evm = &self.place.evm;
        let all = evm.balance(USDC, seller.address).await.unwrap();
        let call = Erc20::transferCall {
            to: other.address,
            amount: all,
        };
        let sent = evm.send(seller.address, USDC, call.abi_encode());
        sent.await.unwrap();
    }

    fn refund(&self, arguments: &[&str]) -> Command {
        self.refund_at(&self.serving.url, arguments)
    }

    /// The command of the merchant, at this facilitator.
    fn refund_at(&self, facilitator: &str, arguments: &[&str]) -> Command {
        let mut command = quittance(&["refund", &self.id, "--facilitator", facilitator, "--state"]);
        command
            .arg(self.place.folder.path().join("refunds"))
            .args(arguments)
            .env("QUITTANCE_PAYER_KEY", &Evm::accounts()[1].key)
            .env_remove("QUITTANCE_SOLANA_PAYER_KEY")
            .env(
                "QUITTANCE_EVM_RPC",
                format!("base-sepolia={}", self.place.evm.url()),
            );
        command
    }
}

fn settlement_of(answer: &Value) -> String {
    let id = answer["extra"]["settlement"].as_str();
    id.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// Runs a command that asks, and answers it.
async fn answered(mut command: Command, answer: &str) -> (Option<i32>, String, String) {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(answer.as_bytes()).await.unwrap();
    drop(stdin);
    let ended = child.wait_with_output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (ended.status.code(), text(ended.stdout), text(ended.stderr))
}

/// All refunds together give back the payment, and never more.
#[tokio::test(flavor = "multi_thread")]
async fn refund_pays_back_at_most_the_payment() {
    let sold = Sold::new().await;
    assert_eq!(sold.kept().await, 10_000);
    let [_, seller, buyer, ..] = &Evm::accounts()[..] else {
        panic!("accounts")
    };

    let (code, said, errors) = output(sold.refund(&["--amount", "0.004", "--yes"])).await;
    assert_eq!(code, Some(0), "{errors}");
    let sum = format!(
        "0.004 USDC on eip155:84532 from {} to {}",
        seller.address, buyer.address
    );
    assert!(errors.contains(&format!("refund {sum}")), "{errors}");
    let refunded = format!("refunded {sum} in transaction 0x");
    assert!(said.starts_with(&refunded), "{said}");
    assert!(said.contains("0.006 USDC can still be refunded"), "{said}");
    assert_eq!(sold.kept().await, 6_000);

    for (amount, problem) in [
        (
            "0.007",
            "0.007 USDC exceeds what can still be refunded: 0.006 USDC",
        ),
        ("0", "more than zero"),
        ("0.0000001", "--amount: "),
    ] {
        let (code, _, errors) = output(sold.refund(&["--amount", amount, "--yes"])).await;
        assert_eq!(code, Some(4), "{errors}");
        assert!(errors.contains(problem), "{errors}");
    }

    // Nothing is sent without a confirmation.
    for answer in ["n\n", "", "maybe\n"] {
        let (code, said, errors) = answered(sold.refund(&[]), answer).await;
        assert_eq!((code, said.as_str()), (Some(1), ""), "{errors}");
        assert!(errors.contains("refund 0.006 USDC"), "{errors}");
        assert!(errors.contains("--yes"), "{errors}");
    }
    assert_eq!(sold.kept().await, 6_000);
    let (code, said, errors) = answered(sold.refund(&[]), "y\n").await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(said.contains("0 USDC can still be refunded"), "{said}");
    assert_eq!(sold.kept().await, 0);

    let (code, _, errors) = output(sold.refund(&["--yes"])).await;
    assert_eq!(code, Some(4), "{errors}");
    assert!(errors.contains("nothing is left to refund"), "{errors}");
    assert_eq!(sold.kept().await, 0);
}

/// What goes wrong before anything is signed.
#[tokio::test(flavor = "multi_thread")]
async fn refund_that_cannot_be_made_says_why() {
    let sold = Sold::new().await;
    let seller = Evm::accounts()[1].address.to_string();
    let buyer = Evm::accounts()[2].address.to_string();
    let refund = |arguments: &[&str]| sold.refund(&[arguments, &["--yes"]].concat());

    let mut command = refund(&[]);
    command.env("QUITTANCE_PAYER_KEY", &Evm::accounts()[3].key);
    let (code, _, errors) = output(command).await;
    assert_eq!(code, Some(4), "{errors}");
    assert!(
        errors.contains(&format!("{seller} received the payment")),
        "{errors}"
    );

    let mut command = refund(&[]);
    command.env_remove("QUITTANCE_PAYER_KEY");
    let (code, _, errors) = output(command).await;
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("QUITTANCE_PAYER_KEY"), "{errors}");

    let (code, _, errors) = output(refund(&["--to", &seller])).await;
    assert_eq!(code, Some(4), "{errors}");
    assert!(
        errors.contains(&format!("{buyer} made the payment")),
        "{errors}"
    );

    let unknown = quittance(&["refund", &"0".repeat(64), "--yes", "--facilitator"]);
    let mut command = unknown;
    command
        .arg(&sold.serving.url)
        .env("QUITTANCE_PAYER_KEY", &Evm::accounts()[1].key);
    let (code, _, errors) = output(command).await;
    assert_eq!(code, Some(3), "{errors}");
    assert!(errors.contains("does not have this settlement"), "{errors}");

    let down = sold.refund_at("http://127.0.0.1:1/?key=hunter2", &["--yes"]);
    let (code, _, errors) = output(down).await;
    assert_eq!(code, Some(3), "{errors}");
    assert!(errors.contains("nothing was signed"), "{errors}");
    assert!(!errors.contains("hunter2"), "{errors}");

    let (code, _, errors) = output(quittance(&["refund", "hunter"])).await;
    assert_eq!(code, Some(2), "{errors}");
    assert_eq!(sold.kept().await, 10_000);
}

/// A connection to a facilitator that loses the answers to refunds.
struct LossyLink {
    url: String,
    is_lossy: Arc<AtomicBool>,
    refunds: Arc<AtomicUsize>,
}

impl LossyLink {
    async fn to(facilitator: &str) -> Self {
        let (is_lossy, refunds) = (
            Arc::new(AtomicBool::new(true)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (lossy, count, to) = (is_lossy.clone(), refunds.clone(), facilitator.to_owned());
        let forward =
            move |method: Method, uri: Uri, headers: axum::http::HeaderMap, body: Bytes| {
                let (lossy, count, url) = (lossy.clone(), count.clone(), format!("{to}{uri}"));
                async move { Self::forward(method, &url, headers, body, &lossy, &count).await }
            };
        let app = Router::new().fallback(forward);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            url,
            is_lossy,
            refunds,
        }
    }

    async fn forward(
        method: Method,
        url: &str,
        headers: axum::http::HeaderMap,
        body: Bytes,
        is_lossy: &AtomicBool,
        refunds: &AtomicUsize,
    ) -> Response {
        let is_refund = method == Method::POST;
        let sale = headers.get("idempotency-key").cloned();
        let mut request = Client::new().request(method, url).body(body);
        if let Some(sale) = sale {
            request = request.header("idempotency-key", sale);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let body = answer.bytes().await.unwrap();
        if is_refund {
            refunds.fetch_add(1, Ordering::SeqCst);
            if is_lossy.load(Ordering::SeqCst) {
                return StatusCode::BAD_GATEWAY.into_response();
            }
        }
        (status, body).into_response()
    }
}

/// The journal would allow a second refund of the same amount.
#[tokio::test(flavor = "multi_thread")]
async fn lost_answer_never_refunds_twice() {
    let sold = Sold::new().await;
    let link = LossyLink::to(&sold.serving.url).await;
    let refund = |arguments: &[&str]| sold.refund_at(&link.url, arguments);
    for _ in 0..2 {
        let (code, said, errors) = output(refund(&["--amount", "0.004", "--yes"])).await;
        assert_eq!((code, said.as_str()), (Some(6), ""), "{errors}");
        assert!(errors.contains("run the same command again"), "{errors}");
        assert_eq!(sold.kept().await, 6_000);
    }
    // Another amount would be another refund.
    let (code, _, errors) = output(refund(&["--amount", "0.005", "--yes"])).await;
    assert_eq!(code, Some(7), "{errors}");
    assert!(errors.contains("earlier refund of 0.004 USDC"), "{errors}");

    link.is_lossy.store(false, Ordering::SeqCst);
    let (code, said, errors) = answered(refund(&[]), "y\n").await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(
        errors.contains("send again the refund of 0.004 USDC"),
        "{errors}"
    );
    assert!(said.contains("0.006 USDC can still be refunded"), "{said}");
    assert_eq!(sold.kept().await, 6_000);
    assert_eq!(link.refunds.load(Ordering::SeqCst), 3);

    // The refund is over, and the next one is signed anew.
    let (code, ..) = output(refund(&["--amount", "0.004", "--yes"])).await;
    assert_eq!(code, Some(0));
    assert_eq!(sold.kept().await, 2_000);
}

/// The facilitator refuses a refund, and it stays kept until it is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn refused_refund_is_kept_until_it_is_forgotten() {
    let sold = Sold::new().await;
    // The merchant has spent the money.
    sold.spend_everything().await;
    let (code, said, errors) = output(sold.refund(&["--yes"])).await;
    assert_eq!((code, said.as_str()), (Some(5), ""), "{errors}");
    assert!(errors.contains("insufficient"), "{errors}");
    assert!(
        errors.contains("the same command sends the same refund again"),
        "{errors}"
    );
    let (code, _, errors) = output(sold.refund(&["--amount", "0.001", "--yes"])).await;
    assert_eq!(code, Some(7), "{errors}");
    assert_eq!(output(sold.refund(&["--forget"])).await.0, Some(0));
    assert_eq!(output(sold.refund(&["--forget"])).await.0, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn refund_on_solana_pays_back_the_buyer() {
    let place = Place::new().await;
    let (local, entry) = solana().await;
    place.append(&entry);
    let serving = place.serve().await;
    let request = solana_payment(&serving, &local).await;
    let id = settlement_of(&serving.post("/settle", &request).await);
    assert_eq!(super::sold(&local).await, 10_000);

    let refund = |arguments: &[&str]| {
        let mut command = quittance(&["refund", &id, "--yes", "--state"]);
        command
            .arg(place.folder.path())
            .args(arguments)
            .env("QUITTANCE_FACILITATOR", &serving.url)
            .env("QUITTANCE_SOLANA_PAYER_KEY", &Solana::accounts()[1].key)
            .env("QUITTANCE_SOLANA_RPC", local.url())
            .env_remove("QUITTANCE_PAYER_KEY");
        output(command)
    };
    let (code, said, errors) = refund(&["--amount", "0.003"]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(said.contains("0.007 USDC can still be refunded"), "{said}");
    assert_eq!(super::sold(&local).await, 7_000);
    let (code, _, errors) = refund(&["--amount", "0.008"]).await;
    assert_eq!(code, Some(4), "{errors}");
    let (code, _, errors) = refund(&[]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(super::sold(&local).await, 0);
    let buyer = Solana::accounts()[2].address;
    let program = quittance_solana::TokenProgram::SplToken.id();
    let balance = local.balance(&buyer, &SOLANA_USDC, &program).await.unwrap();
    assert_eq!(balance, SELLER_START);
}
