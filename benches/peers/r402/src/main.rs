//! r402: `offline FOLDER`, or `serve PORT RPC KEY`.
//!
//! The crates have no server for a facilitator, so the routes are written here, with nothing in
//! them but the two calls.

use std::error::Error;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use alloy_network::EthereumWallet;
use alloy_provider::RootProvider;
use alloy_rpc_types_eth::TransactionReceipt;
use alloy_signer_local::PrivateKeySigner;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use peers_common::{Candidate, InstantChain, rounds};
use r402_evm::Eip155ExactFacilitator;
use r402_evm::chain::{
    Eip155ChainProvider, Eip155ChainReference, Eip155MetaTransactionProvider, MetaTransaction,
    MetaTransactionSendError,
};
use r402_facilitator::Facilitator;
use r402_protocol::error::FacilitatorError;
use r402_protocol::network::{ChainId, ChainProvider};
use r402_protocol::payment::{SettleRequest, VerifyRequest, VerifyResponse};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Base Sepolia.
const CHAIN: u64 = 84532;

/// As long as the other facilitators wait for a receipt.
const RECEIPT_TIMEOUT_SECS: u64 = 30;

/// A provider that asks a chain inside the process.
struct Instant {
    reference: Eip155ChainReference,
    provider: RootProvider,
}

impl Eip155MetaTransactionProvider for Instant {
    type Error = MetaTransactionSendError;
    type Inner = RootProvider;

    fn inner(&self) -> &RootProvider {
        &self.provider
    }

    fn chain(&self) -> &Eip155ChainReference {
        &self.reference
    }

    async fn send_transaction(
        &self,
        _: MetaTransaction,
    ) -> Result<TransactionReceipt, Self::Error> {
        Err(MetaTransactionSendError::Custom(
            "nothing is sent here".to_owned(),
        ))
    }

    async fn send_raw_transaction(
        &self,
        _: &[u8],
        _: u64,
    ) -> Result<TransactionReceipt, Self::Error> {
        Err(MetaTransactionSendError::Custom(
            "nothing is sent here".to_owned(),
        ))
    }
}

impl ChainProvider for Instant {
    fn signer_addresses(&self) -> Vec<String> {
        Vec::new()
    }

    fn chain_id(&self) -> ChainId {
        self.reference.into()
    }
}

struct Offline {
    facilitator: Eip155ExactFacilitator<Instant>,
    chain: InstantChain,
    runtime: Runtime,
}

impl Candidate for Offline {
    fn verify(&mut self, bodies: &[Vec<u8>]) -> usize {
        let verify = |body: &Vec<u8>| {
            let request: VerifyRequest = serde_json::from_slice(body).ok()?;
            let answer = self
                .runtime
                .block_on(self.facilitator.verify(request))
                .ok()?;
            matches!(answer, VerifyResponse::Valid { .. }).then_some(())
        };
        bodies.iter().filter_map(verify).count()
    }

    fn calls(&self) -> u64 {
        self.chain.calls()
    }
}

fn offline(folder: &str) -> Result<(), Box<dyn Error>> {
    let chain = InstantChain::default();
    let provider = Instant {
        reference: Eip155ChainReference::new(CHAIN),
        provider: chain.provider(),
    };
    let offline = Offline {
        facilitator: Eip155ExactFacilitator::try_new(provider)?,
        chain,
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?,
    };
    Ok(rounds(Path::new(folder), offline)?)
}

type Served = State<Arc<Eip155ExactFacilitator<Eip155ChainProvider>>>;

async fn verify(State(facilitator): Served, Json(request): Json<VerifyRequest>) -> Response {
    answer(facilitator.verify(request).await)
}

async fn settle(State(facilitator): Served, Json(request): Json<SettleRequest>) -> Response {
    answer(facilitator.settle(request).await)
}

fn answer(result: Result<impl serde::Serialize, FacilitatorError>) -> Response {
    match result {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => {
            let answer =
                json!({ "isValid": false, "success": false, "errorReason": error.to_string() });
            (StatusCode::BAD_REQUEST, Json(answer)).into_response()
        }
    }
}

async fn supported(State(facilitator): Served) -> Response {
    answer(facilitator.supported().await)
}

#[tokio::main]
async fn serve(port: u16, rpc: &str, key: &str) -> Result<(), Box<dyn Error>> {
    let signer: PrivateKeySigner = key.parse()?;
    let provider = Eip155ChainProvider::new(
        Eip155ChainReference::new(CHAIN),
        EthereumWallet::from(signer),
        &[(rpc.parse()?, None)],
        true,
        false,
        RECEIPT_TIMEOUT_SECS,
    )?;
    let router = Router::new()
        .route("/supported", get(supported))
        .route("/verify", post(verify))
        .route("/settle", post(settle))
        .with_state(Arc::new(Eip155ExactFacilitator::try_new(provider)?));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    Ok(axum::serve(listener, router).await?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["offline", folder] => offline(folder),
        ["serve", port, rpc, key] => serve(port.parse()?, rpc, key),
        _ => Err("usage: offline FOLDER | serve PORT RPC KEY".into()),
    }
}
