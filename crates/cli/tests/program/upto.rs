//! `quittance pay` by `upto` and by Permit2, with a facilitator process on a local chain.

use std::sync::Arc;

use axum::extract::Path;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use quittance_core::Offer;
use quittance_devnet::{Evm, USDC};
use quittance_evm::{ExactOffer, Token, TransferMethod, UptoOffer, known};
use quittance_http::RemoteFacilitator;
use quittance_seller::{Charge, PaymentLayer};
use tokio::net::TcpListener;

use super::{Place, Serving, output, quittance};

/// Sells `goods` by this offer. The path is the charge, in atomic units.
async fn shop(serving: &Serving, offer: impl Offer) -> String {
    let facilitator = Arc::new(RemoteFacilitator::new(&serving.url).unwrap());
    let price = PaymentLayer::new(facilitator).accept(offer);
    let charged = |Path(units): Path<u64>| async move {
        (Extension(Charge::units(units.into())), "goods").into_response()
    };
    let plain = get(|| async { "goods" });
    let app = Router::new()
        .route("/{units}", get(charged))
        .route("/", plain)
        .layer(price);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// The output of `quittance pay` with the buyer's key.
async fn pay(place: &Place, url: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = quittance(&["pay", url, "--state"]);
    command
        .arg(place.folder.path().join("purchases.json"))
        .args(more)
        .env("QUITTANCE_PAYER_KEY", &Evm::accounts()[2].key);
    output(command).await
}

async fn received(place: &Place) -> u64 {
    let seller = Evm::accounts()[1].address;
    let balance = place.evm.balance(USDC, seller).await.unwrap();
    u64::try_from(balance).unwrap() - 1_000_000_000_000
}

#[tokio::test(flavor = "multi_thread")]
async fn pay_by_upto_costs_what_the_handler_charges() {
    let place = Place::new().await;
    let buyer = Evm::accounts()[2].address;
    place.evm.approve_permit2(USDC, buyer).await.unwrap();
    let serving = place.serve().await;
    let seller = Evm::accounts()[1].address.to_string();
    let offer = UptoOffer::usdc("base-sepolia", "0.01", &seller).unwrap();
    let url = shop(&serving, offer).await;

    // The limit counts the maximum, not the charge.
    let metered = format!("{url}25");
    let (code, said, errors) = pay(&place, &metered, &["--max", "0.009"]).await;
    assert_eq!((code, said.as_str()), (Some(4), ""), "{errors}");
    assert!(
        errors.contains("0.01 USDC is over the limit of 0.009"),
        "{errors}"
    );
    let (code, said, errors) = pay(&place, &metered, &["--dry-run"]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(said.contains("would pay at most 0.01 USDC on "), "{said}");
    assert_eq!(received(&place).await, 0);

    let (code, said, errors) = pay(&place, &metered, &["--max", "0.01"]).await;
    assert_eq!((code, said.as_str()), (Some(0), "goods"), "{errors}");
    assert!(errors.contains("\"amount\":\"25\""), "{errors}");
    assert_eq!(received(&place).await, 25);
    let (code, said, errors) = pay(&place, &format!("{url}0"), &[]).await;
    assert_eq!((code, said.as_str()), (Some(0), "goods"), "{errors}");
    assert_eq!(received(&place).await, 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn pay_by_permit2_buys_within_its_limit() {
    let place = Place::new().await;
    place.append(
        "tokens = [{ address = \"0x036CbD53842c5426634e7929541eC2318f3dCF7e\", name = \"USDC\", version = \"2\", \
         decimals = 6, symbol = \"USDC\", transfer_method = \"permit2\" }]\n",
    );
    let buyer = Evm::accounts()[2].address;
    place.evm.approve_permit2(USDC, buyer).await.unwrap();
    let serving = place.serve().await;
    let seller = Evm::accounts()[1].address.to_string();
    let network = known::network("base-sepolia").unwrap();
    let token: Token = known::token(network.id(), "USDC").unwrap().clone();
    let token = token.with_method(TransferMethod::Permit2);
    let offer = ExactOffer::new(network, token, "0.01", &seller).unwrap();
    let url = shop(&serving, offer).await;
    let (code, said, errors) = pay(&place, &url, &["--max", "0.001"]).await;
    assert_eq!((code, said.as_str()), (Some(4), ""), "{errors}");
    let (code, said, errors) = pay(&place, &url, &["--max", "0.01"]).await;
    assert_eq!((code, said.as_str()), (Some(0), "goods"), "{errors}");
    assert_eq!(received(&place).await, 10_000);
}
