//! Payments that are held, from the shell: `quittance pay`, `holds`, `capture`, `void` and
//! `refund-hold`, with a facilitator process on a local chain.

use std::sync::{Arc, Mutex};

use alloy::signers::local::PrivateKeySigner;
use async_trait::async_trait;
use axum::Router;
use axum::routing::get;
use quittance_core::Fault;
use quittance_devnet::{AUTH_CAPTURE_ESCROW, Evm, USDC};
use quittance_evm::AuthCaptureOffer;
use quittance_evm::auth_capture::{Hold, HoldStore};
use quittance_http::RemoteFacilitator;
use quittance_seller::PaymentLayer;
use tokio::net::TcpListener;

use super::{Place, Serving, output, quittance};

/// A store that the commands do without: they have the receipt.
#[derive(Default)]
struct Drawer(Mutex<Vec<Hold>>);

#[async_trait]
impl HoldStore for Drawer {
    async fn keep(&self, hold: Hold) -> Result<(), Fault> {
        self.0.lock().unwrap().push(hold);
        Ok(())
    }
}

async fn shop(serving: &Serving, offer: AuthCaptureOffer) -> String {
    let facilitator = Arc::new(RemoteFacilitator::new(&serving.url).unwrap());
    let price = PaymentLayer::new(facilitator).accept(offer);
    let app = Router::new().route("/", get(|| async { "goods" }).layer(price));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// A facilitator with a payment of 0.01 USDC that is held.
struct Held {
    place: Place,
    serving: Serving,
    id: String,
    key: PrivateKeySigner,
}

impl Held {
    async fn new() -> Self {
        let place = Place::new().await;
        place.append("auth_capture = { at_deadline = \"capture\" }\n");
        let serving = place.serve().await;
        let seller = Evm::accounts()[1].address.to_string();
        let key = PrivateKeySigner::random();
        let offer = AuthCaptureOffer::usdc("base-sepolia", "0.01", &seller).unwrap();
        let offer = offer
            .with_authorizer(key.clone())
            .deferred(Drawer::default());
        let url = shop(&serving, offer).await;
        let mut pay = quittance(&["pay", &url, "--max", "0.01", "--state"]);
        pay.arg(place.folder.path().join("purchases.json"))
            .env("QUITTANCE_PAYER_KEY", &Evm::accounts()[2].key);
        let (code, said, errors) = output(pay).await;
        assert_eq!((code, said.as_str()), (Some(0), "goods"), "{errors}");
        let (_, receipt) = errors.split_once("\"settlement\":\"").unwrap();
        let id = receipt[..64].to_owned();
        Self {
            place,
            serving,
            id,
            key,
        }
    }

    /// An act with the hold, by this key.
    async fn act(
        &self,
        key: &PrivateKeySigner,
        name: &str,
        more: &[&str],
    ) -> (Option<i32>, String) {
        let mut command = quittance(&[name, &self.id, "--facilitator", &self.serving.url, "--yes"]);
        let key = alloy::hex::encode_prefixed(key.to_bytes());
        command.args(more).env("QUITTANCE_AUTHORIZER_KEY", key);
        let (code, _, errors) = output(command).await;
        (code, errors)
    }

    async fn holds(&self, more: &[&str]) -> String {
        let mut command = self.place.command(&["holds"]);
        command.args(more);
        let (code, said, errors) = output(command).await;
        assert_eq!(code, Some(0), "{errors}");
        said
    }

    /// What the seller has received and what is held, in atomic units.
    async fn balances(&self) -> (u64, u64) {
        let seller = Evm::accounts()[1].address;
        let [received, held] = [seller, AUTH_CAPTURE_ESCROW]
            .map(|account| async move { self.place.evm.balance(USDC, account).await.unwrap() });
        let received = u64::try_from(received.await).unwrap() - 1_000_000_000_000;
        (received, u64::try_from(held.await).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_payment_is_listed_captured_and_voided() {
    let held = Held::new().await;
    assert_eq!(held.balances().await, (0, 10_000));
    let listed = held.holds(&[]).await;
    assert!(listed.contains("\t0.01 USDC\tto 0x7099"), "{listed}");
    assert!(listed.contains("\tcaptures it in "), "{listed}");
    assert_eq!(listed.lines().count(), 1);

    let (code, errors) = held.act(&held.key, "capture", &["0.004"]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(held.balances().await, (4_000, 6_000));
    // The receipt is that of the authorization: the command asks for the present balances.
    let (code, errors) = held.act(&held.key, "capture", &["0.001"]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(held.balances().await, (5_000, 5_000));
    assert!(held.holds(&[]).await.contains("\t0.005 USDC\t"));
    let (code, errors) = held.act(&held.key, "capture", &["0.0051"]).await;
    assert_eq!(code, Some(4), "{errors}");
    // The operator pays no refunds.
    let (code, errors) = held.act(&held.key, "refund-hold", &["0.001"]).await;
    assert_eq!(code, Some(5), "{errors}");
    assert!(errors.contains("refund_funding_unavailable"), "{errors}");

    let (code, errors) = held.act(&held.key, "void", &[]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(held.balances().await, (5_000, 0));
    assert_eq!(held.holds(&[]).await, "");
    assert_eq!(held.holds(&["--all"]).await.lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_key_of_the_authorizer_captures() {
    let held = Held::new().await;
    let other = PrivateKeySigner::random();
    for (name, more) in [("capture", vec!["0.004"]), ("void", vec![])] {
        let (code, errors) = held.act(&other, name, &more).await;
        assert_eq!(code, Some(5), "{name}: {errors}");
        assert!(errors.contains("authorizer_signature"), "{name}: {errors}");
    }
    let mut unknown = quittance(&["void", &"0".repeat(64), "--facilitator", &held.serving.url]);
    unknown.env_remove("QUITTANCE_AUTHORIZER_KEY");
    assert_eq!(output(unknown).await.0, Some(3));
    assert_eq!(held.balances().await, (0, 10_000));
    // A part, and the rest back, in one command.
    let (code, errors) = held
        .act(&held.key, "capture", &["0.003", "--void-rest"])
        .await;
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(held.balances().await, (3_000, 0));
}
