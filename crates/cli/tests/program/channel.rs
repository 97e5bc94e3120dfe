//! `quittance pay` by `batch-settlement`, with a facilitator process on a local chain that keeps
//! the vouchers.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use quittance_core::{Clock, Facilitator, Offer, SystemClock};
use quittance_devnet::{Evm, USDC};
use quittance_engine::SqliteJournal;
use quittance_evm::ExactOffer;
use quittance_evm::batch::{ChannelOffer, ChannelPayer, Channels};
use quittance_http::RemoteFacilitator;
use quittance_seller::PaymentLayer;
use quittance_verify::VerifierQueue;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Place, Serving, output, quittance};

/// Sells `goods` by this offer.
async fn shop(serving: &Serving, offer: impl Offer) -> String {
    let facilitator = RemoteFacilitator::new(&serving.url).unwrap();
    sell(Arc::new(facilitator.with_key("open sesame".into())), offer).await
}

async fn sell(facilitator: Arc<dyn Facilitator>, offer: impl Offer) -> String {
    let price = PaymentLayer::new(facilitator).accept(offer);
    let app = Router::new().route("/", get(|| async { "goods" }).layer(price));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// The output of a command with the buyer's key and books.
async fn run(place: &Place, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = quittance(arguments);
    let folder = place.folder.path();
    command
        .env("XDG_DATA_HOME", folder.join("data"))
        .env(
            "QUITTANCE_EVM_RPC",
            format!("base-sepolia={}", place.evm.url()),
        )
        .env("QUITTANCE_PAYER_KEY", &Evm::accounts()[2].key);
    output(command).await
}

/// An agent runs several purchases at once. Only one process can have the books of channels open,
/// and the others failed whatever they paid by.
#[tokio::test(flavor = "multi_thread")]
async fn pay_runs_beside_a_process_that_has_the_books_open() {
    let place = Place::new().await;
    let serving = place.serve().await;
    let seller = Evm::accounts()[1].address.to_string();
    let offer = ExactOffer::usdc("base-sepolia", "0.01", &seller).unwrap();
    let url = shop(&serving, offer).await;
    let folder = place.folder.path().join("data/quittance/channels");
    let _open = ChannelPayer::new(Evm::accounts()[2].signer.clone())
        .in_folder(&folder)
        .unwrap();
    let (code, out, err) = run(&place, &["pay", &url, "--max", "0.05"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "goods"), "{err}");
    assert!(err.contains("another process pays by channels"), "{err}");
}

async fn spent(place: &Place) -> u64 {
    let buyer = Evm::accounts()[2].address;
    let balance = place.evm.balance(USDC, buyer).await.unwrap();
    1_000_000_000_000 - u64::try_from(balance).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pay_by_a_channel_deposits_once_and_gets_the_rest_back() {
    let place = Place::new().await;
    let authorizer = Evm::accounts()[0].address;
    place.append(&format!(
        "batch_settlement = {{ authorizer = \"{authorizer}\", keeps_vouchers = true }}\n"
    ));
    let text = std::fs::read_to_string(place.config()).unwrap();
    let keys = "access.keys = [{ env = \"SELLER\" }]";
    std::fs::write(place.config(), text.replace("access.anyone = true", keys)).unwrap();
    let mut command = place.command(&["serve"]);
    command.env("SELLER", "open sesame");
    let serving = Serving::start(command).await;
    let seller = Evm::accounts()[1].address.to_string();
    let offer = ChannelOffer::usdc("base-sepolia", "0.01", &seller).unwrap();
    let url = shop(&serving, offer).await;

    let (code, _, errors) = run(&place, &["pay", &url, "--max", "0.01"]).await;
    assert_eq!(code, Some(4), "{errors}");
    assert!(errors.contains("locks up 0.09 more"), "{errors}");
    let dry = [
        "pay",
        &url,
        "--max",
        "0.01",
        "--max-deposit",
        "0.1",
        "--dry-run",
    ];
    let (code, said, errors) = run(&place, &dry).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(said.contains("lock up at most 0.09 USDC"), "{said}");
    assert_eq!(spent(&place).await, 0);

    for _ in 0..3 {
        let pay = ["pay", &url, "--max", "0.01", "--max-deposit", "0.1"];
        let (code, said, errors) = run(&place, &pay).await;
        assert_eq!((code, said.as_str()), (Some(0), "goods"), "{errors}");
        assert_eq!(spent(&place).await, 100_000);
    }
    let (code, said, errors) = run(&place, &["payments", "locked"]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(said.contains("0.07 USDC locked up, 0.03 charged"), "{said}");
    assert_eq!(said.lines().count(), 1);

    let mut command = place.command(&["channels"]);
    command.env("SELLER", "open sesame");
    let (code, listed, errors) = output(command).await;
    assert_eq!(code, Some(0), "{errors}");
    let amounts = "\t0.1 USDC\t0.1 deposited, 0.03 charged, 0 claimed\tto 0x7099";
    assert!(listed.contains(amounts), "{listed}");
    assert!(
        listed.contains("\twithout a deadline\tclaims in "),
        "{listed}"
    );
    assert_eq!(listed.lines().count(), 1);

    let (code, _, errors) = run(&place, &["pay", &url, "--reclaim"]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("paid back"), "{errors}");
    for (all, count) in [(&["channels"][..], 0), (&["channels", "--all"], 1)] {
        let mut command = place.command(all);
        command.env("SELLER", "open sesame");
        let (code, listed, errors) = output(command).await;
        assert_eq!(code, Some(0), "{errors}");
        assert_eq!(listed.lines().count(), count, "{listed}");
    }
    assert_eq!(spent(&place).await, 30_000);
    let (code, _, errors) = run(&place, &["pay", &url, "--reclaim"]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("nothing is locked up"), "{errors}");
}

/// A seller that keeps its vouchers has no configuration file, only its store.
#[tokio::test(flavor = "multi_thread")]
async fn channels_of_a_sellers_own_store_are_listed_while_it_sells() {
    let place = Place::new().await;
    place.append("batch_settlement = {}\n");
    let serving = place.serve().await;
    let behind = Arc::new(RemoteFacilitator::new(&serving.url).unwrap());
    let path = place.folder.path().join("channels.db");
    let store = Arc::new(SqliteJournal::open(&path).await.unwrap());
    let verifier = Arc::new(VerifierQueue::start().unwrap());
    let seller = &Evm::accounts()[1];
    let key = seller.signer.clone();
    let channels = Channels::new("base-sepolia", behind, store, verifier, key).unwrap();
    let offer = ChannelOffer::usdc("base-sepolia", "0.01", &seller.address.to_string()).unwrap();
    let offer = offer.with_authorizer(channels.authorizer());
    let url = sell(Arc::new(channels.clone()), offer).await;
    for _ in 0..2 {
        let pay = ["pay", &url, "--max", "0.01", "--max-deposit", "0.1"];
        let (code, said, errors) = run(&place, &pay).await;
        assert_eq!((code, said.as_str()), (Some(0), "goods"), "{errors}");
    }
    let listed = || async {
        let mut command = quittance(&["channels", "--json", "--store"]);
        command.arg(&path);
        let (code, listed, errors) = output(command).await;
        assert_eq!(code, Some(0), "{errors}");
        serde_json::from_str::<Value>(&listed).unwrap()
    };
    let one = listed().await;
    let amounts = json!({ "deposited": "100000", "charged": "20000", "claimed": "0" });
    assert_eq!(
        (&one["amounts"], &one["open"]),
        (&amounts, &json!("100000"))
    );
    assert_eq!(one["until"], Value::Null);
    let due = one["due"].as_u64().unwrap();
    assert!(due > SystemClock.now().secs(), "{one}");
    assert!(one["next"].as_str().unwrap().starts_with("claims in "));
    channels.claim_all().await.unwrap();
    let one = listed().await;
    assert_eq!(one["amounts"]["claimed"], "20000");
    assert_eq!(one["open"], "80000");
}
