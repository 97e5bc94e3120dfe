//! x402-rs: `offline FOLDER`, or `serve PORT RPC KEY`.
//!
//! Both put the published libraries together as the project's own facilitator does, without its
//! tracing.

use std::collections::HashMap;
use std::error::Error;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use alloy_provider::RootProvider;
use alloy_rpc_types_eth::TransactionReceipt;
use axum::Router;
use peers_common::{Candidate, InstantChain, rounds};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use x402_chain_eip155::V2Eip155Exact;
use x402_chain_eip155::chain::config::Eip155ChainConfig;
use x402_chain_eip155::chain::{
    Eip155ChainProvider, Eip155ChainReference, Eip155MetaTransactionProvider, MetaTransaction,
    MetaTransactionSendError,
};
use x402_facilitator_local::{FacilitatorLocal, handlers};
use x402_types::chain::{ChainId, ChainProviderOps, ChainRegistry, FromConfig};
use x402_types::facilitator::Facilitator;
use x402_types::proto::VerifyRequest;
use x402_types::scheme::{
    SchemeBlueprints, SchemeConfig, SchemeRegistry, X402SchemeFacilitator,
    X402SchemeFacilitatorBuilder,
};

/// Base Sepolia.
const CHAIN: u64 = 84532;

/// A provider in the registry, of which schemes are built.
struct Shared<P>(Arc<P>);

impl<P: ChainProviderOps> ChainProviderOps for Shared<P> {
    fn signer_addresses(&self) -> Vec<String> {
        self.0.signer_addresses()
    }

    fn chain_id(&self) -> ChainId {
        self.0.chain_id()
    }
}

impl<P> X402SchemeFacilitatorBuilder<&Shared<P>> for V2Eip155Exact
where
    P: Eip155MetaTransactionProvider<Error = MetaTransactionSendError>
        + ChainProviderOps
        + Send
        + Sync
        + 'static,
{
    fn build(
        &self,
        provider: &Shared<P>,
        config: Option<serde_json::Value>,
    ) -> Result<Box<dyn X402SchemeFacilitator>, Box<dyn Error>> {
        self.build(provider.0.clone(), config)
    }
}

/// A facilitator for the scheme that is measured.
fn facilitator<P>(provider: P) -> Result<FacilitatorLocal<SchemeRegistry>, Box<dyn Error>>
where
    P: Eip155MetaTransactionProvider<Error = MetaTransactionSendError>
        + ChainProviderOps
        + Send
        + Sync
        + 'static,
{
    let chain = provider.chain_id();
    let scheme: SchemeConfig =
        serde_json::from_value(json!({ "id": "v2-eip155-exact", "chains": chain.to_string() }))?;
    let chains = ChainRegistry::new(HashMap::from([(chain, Shared(Arc::new(provider)))]));
    let blueprints = SchemeBlueprints::new().and_register(V2Eip155Exact);
    Ok(FacilitatorLocal::new(SchemeRegistry::build(
        chains,
        blueprints,
        &vec![scheme],
    )))
}

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
}

impl ChainProviderOps for Instant {
    fn signer_addresses(&self) -> Vec<String> {
        Vec::new()
    }

    fn chain_id(&self) -> ChainId {
        self.reference.into()
    }
}

struct Offline {
    facilitator: FacilitatorLocal<SchemeRegistry>,
    chain: InstantChain,
    runtime: Runtime,
}

impl Candidate for Offline {
    fn verify(&mut self, bodies: &[Vec<u8>]) -> usize {
        let verify = |body: &Vec<u8>| {
            let request: VerifyRequest = serde_json::from_slice(body).ok()?;
            let answer = self
                .runtime
                .block_on(self.facilitator.verify(&request))
                .ok()?;
            (answer.0["isValid"] == true).then_some(())
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
        facilitator: facilitator(provider)?,
        chain,
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?,
    };
    Ok(rounds(Path::new(folder), offline)?)
}

#[tokio::main]
async fn serve(port: u16, rpc: &str, key: &str) -> Result<(), Box<dyn Error>> {
    let config = Eip155ChainConfig {
        chain_reference: Eip155ChainReference::new(CHAIN),
        inner: serde_json::from_value(json!({ "signers": [key], "rpc": [{ "http": rpc }] }))?,
    };
    let facilitator = facilitator(Eip155ChainProvider::from_config(&config).await?)?;
    let router: Router = handlers::routes().with_state(Arc::new(facilitator));
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
