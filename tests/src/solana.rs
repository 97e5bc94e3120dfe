//! A Solana test setting: a local cluster, a proxied node, an engine, a seller and a buyer.

use std::sync::Arc;
use std::time::Duration;

use quittance_core::wire::{PaymentRequirements, Rest, SupportedKind};
use quittance_core::{Amount, Network, Offer, PaymentRequest, Scheme};
use quittance_devnet::{
    SOLANA_TOKEN_2022, SOLANA_USDC, Solana as Local, SolanaAccount, SolanaOptions, Tools,
};
use quittance_engine::{Engine, EngineBuilder, SqliteJournal, Timing};
use quittance_solana::{
    Exact, ExactConfig, ExactOffer, ExactPayer, Signer, SmartWallets, Solana, SolanaConfig, Token,
    TokenProgram, known,
};
use solana_rpc_client_api::config::RpcSendTransactionConfig;
use solana_transaction::versioned::VersionedTransaction;
use tempfile::TempDir;

use crate::proxy::Proxy;

/// The time between automatic blocks: with it, a blockhash is valid for half a minute.
pub const SLOT: Duration = Duration::from_millis(200);

/// The price of everything, in atomic units.
pub const PRICE: u64 = 10_000;

/// The first balance of each account, in atomic units.
const TOKENS_EACH: u64 = 1_000_000_000_000;

/// A local cluster that looks like Solana's devnet, with everything around it.
pub struct Setting {
    /// The cluster itself.
    pub local: Local,
    /// The proxy in front of its node.
    pub node: Proxy,
    /// The token of all payments.
    pub token: Token,
    /// The smart wallets that may pay.
    pub smart_wallets: Option<SmartWallets>,
    genesis: String,
    folder: TempDir,
}

impl Setting {
    /// A cluster that makes blocks by itself, or only on request.
    pub async fn start(program: TokenProgram, slot_time: Option<Duration>) -> Self {
        let tools = Tools::find().expect("installed: npm ci in crates/devnet/node");
        let options = SolanaOptions {
            slot_time,
            ..SolanaOptions::default()
        };
        let local = Local::start(&tools, &options)
            .await
            .expect("a local cluster");
        let genesis = local.client().get_genesis_hash().await;
        let node = Proxy::before(local.url()).await;
        let mint = match program {
            TokenProgram::SplToken => SOLANA_USDC,
            TokenProgram::Token2022 => SOLANA_TOKEN_2022,
        };
        Self {
            token: Token::new(mint, "USDC", 6, program),
            smart_wallets: None,
            local,
            node,
            genesis: genesis.expect("a genesis hash").to_string(),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// Its network.
    pub fn network() -> Network {
        known::network("solana-devnet").expect("known")
    }

    /// One of the development accounts: 0 and 1 pay fees, 2 sells, 3 buys.
    pub fn account(at: usize) -> SolanaAccount {
        Local::accounts().swap_remove(at)
    }

    /// A payer with the buyer's key.
    pub fn payer(&self) -> ExactPayer {
        let url = self.local.url().parse().expect("a URL");
        self.payer_without_a_node()
            .with_rpc(&Self::network(), &[url])
            .expect("an HTTP client")
    }

    /// The same without a node: it signs with the blockhash of the seller.
    pub fn payer_without_a_node(&self) -> ExactPayer {
        ExactPayer::new(Self::account(3).keypair)
            .with_token(Self::network().id(), self.token.clone())
    }

    /// The chain's configuration with the proxied node and both fee payers.
    pub fn config(&self) -> SolanaConfig {
        let url = self.node.url().parse().expect("a URL");
        let fee_payers: Vec<Signer> = [0, 1]
            .map(|at| Arc::new(Self::account(at).keypair) as Signer)
            .to_vec();
        let mut config = SolanaConfig::new(Self::network(), vec![url], fee_payers);
        config.genesis = self.genesis.clone();
        config.rpc_timeout = Duration::from_secs(2);
        config.tokens = vec![self.token.clone()];
        config
    }

    /// The scheme, as an engine of this setting has it.
    pub fn scheme(&self) -> Exact {
        self.scheme_on(&Solana::new(self.config()).expect("a valid configuration"))
    }

    /// The scheme on this chain, with the smart wallets of this setting.
    pub fn scheme_on(&self, chain: &Solana) -> Exact {
        let mut config = ExactConfig::default();
        config.smart_wallets.clone_from(&self.smart_wallets);
        let exact = Exact::new(chain).with_config(config);
        exact.expect("valid settings")
    }

    /// The journal. Each new engine opens the same one.
    pub async fn journal(&self) -> SqliteJournal {
        crate::open_journal(&self.folder.path().join("journal.db")).await
    }

    /// An engine on this cluster.
    pub async fn engine(&self, settle_wait: Duration) -> Engine {
        let timing = Timing::new().with_look_every(SLOT);
        self.engine_with(self.config(), |builder| {
            builder.settle_wait(settle_wait).timing(timing)
        })
        .await
    }

    /// An engine with another configuration.
    pub async fn engine_with(
        &self,
        config: SolanaConfig,
        change: impl FnOnce(EngineBuilder) -> EngineBuilder,
    ) -> Engine {
        let solana = Solana::new(config).expect("a configuration that makes sense");
        let exact = Arc::new(self.scheme_on(&solana));
        let builder = Engine::builder(self.journal().await).chain(solana, vec![exact]);
        change(builder).start().await.expect("an engine")
    }

    /// The seller's offer.
    pub fn offer(&self) -> ExactOffer {
        let seller = Self::account(2).address.to_string();
        ExactOffer::new(Self::network(), self.token.clone(), "0.01", &seller).expect("an offer")
    }

    /// The seller's payment requirements.
    pub fn requirements(&self) -> PaymentRequirements {
        let kind = SupportedKind {
            x402_version: 2,
            scheme: "exact".to_owned(),
            network: Self::network().id().to_owned(),
            extra: self.scheme().extra(),
            rest: Rest::default(),
        };
        let requirements = self.offer().requirements(&kind);
        requirements.expect("requirements")
    }

    /// A new payment.
    pub async fn request(&self) -> PaymentRequest {
        crate::pay(&self.payer(), &self.requirements()).await
    }

    /// Many new payments with the same fee payer.
    pub async fn requests(&self, count: usize) -> Vec<PaymentRequest> {
        let (payer, requirements) = (self.payer(), self.requirements());
        let mut requests = Vec::new();
        for _ in 0..count {
            requests.push(crate::pay(&payer, &requirements).await);
        }
        requests
    }

    /// Sends a signed transaction to the cluster, without a simulation before.
    pub async fn send(&self, transaction: &[u8]) {
        let transaction: VersionedTransaction =
            wincode::deserialize(transaction).expect("a transaction");
        let options = RpcSendTransactionConfig {
            skip_preflight: true,
            ..RpcSendTransactionConfig::default()
        };
        let client = self.local.client();
        let sent = client.send_transaction_with_config(&transaction, options);
        sent.await.expect("a transaction that the node takes");
    }

    /// The seller's balance of the token.
    pub async fn received(&self) -> Amount {
        let seller = Self::account(2).address;
        let program = self.token.program.id();
        let balance = self
            .local
            .balance(&seller, &self.token.mint, &program)
            .await;
        Amount::from(balance.expect("a balance") - TOKENS_EACH)
    }
}
