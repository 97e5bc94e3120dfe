//! A complete EVM environment: a local chain, a node that can misbehave, an engine, a seller and a
//! buyer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alloy::hex::encode_prefixed;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolStruct, SolValue, eip712_domain};
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, Rest, SupportedKind};
use quittance_core::{Amount, Offer, PaymentRequest, Scheme};
use quittance_devnet::{Account, Evm as Local, EvmOptions, Mining, Tools, USDC};
use quittance_engine::{Engine, EngineBuilder, SqliteJournal};
use quittance_evm::{Evm, EvmConfig, Exact, ExactConfig, ExactOffer, ExactPayer, known};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::proxy::Proxy;

alloy::sol! {
    struct TransferWithAuthorization {
        address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce;
    }
    function transfer(address to, uint256 amount) external returns (bool);
    function transferWithAuthorization(
        address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce,
        bytes signature
    ) external;
}

/// A local Base Sepolia with its environment.
pub struct Setting {
    /// The chain itself.
    pub local: Local,
    /// The proxy in front of its node.
    pub node: Proxy,
    folder: TempDir,
}

/// The price of every payment, in atomic units.
pub const PRICE: u64 = 10_000;

impl Setting {
    /// A chain that makes a block for each transaction.
    pub async fn start() -> Self {
        Self::with_mining(Mining::Instant).await
    }

    /// A chain with its own mode of making blocks.
    pub async fn with_mining(mining: Mining) -> Self {
        let tools = Tools::find().expect("installed: npm ci in crates/devnet/node");
        let options = EvmOptions {
            mining,
            ..EvmOptions::default()
        };
        let local = Local::start(&tools, &options).await.expect("a local chain");
        let node = Proxy::before(local.url()).await;
        Self {
            local,
            node,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// The facilitator's signers.
    pub fn signers() -> [Account; 2] {
        let [first, .., second] = &Local::accounts()[..9] else {
            unreachable!("ten accounts")
        };
        [first.clone(), second.clone()]
    }

    /// The seller.
    pub fn seller() -> Account {
        Local::accounts()[1].clone()
    }

    /// A new account with this much USDC, in atomic units, and no coin.
    pub async fn payer_with(&self, amount: u64) -> Account {
        let signer = PrivateKeySigner::random();
        let address = signer.address();
        let minted = self.local.mint(USDC, address, U256::from(amount)).await;
        minted.expect("a token that mints");
        Account {
            address,
            key: encode_prefixed(signer.to_bytes()),
            signer,
        }
    }

    /// The buyer.
    pub fn buyer() -> Account {
        Local::accounts()[2].clone()
    }

    /// A payer with the buyer's key.
    pub fn payer() -> ExactPayer {
        ExactPayer::new(Self::buyer().signer)
    }

    /// The chain's configuration with one signer, through the node that can misbehave.
    pub fn config(&self) -> EvmConfig {
        let network = known::network("base-sepolia").expect("known");
        let url = self.node.url().parse().expect("a URL");
        let signer = Arc::new(Self::signers()[0].signer.clone());
        let mut config = EvmConfig::new(network, vec![url], vec![signer]);
        config.head_age_max = None;
        // Short enough for tests of nodes that hang, long enough for a busy machine.
        config.rpc_timeout = Duration::from_millis(1500);
        config
    }

    /// The journal's file.
    pub fn journal_path(&self) -> PathBuf {
        self.folder.path().join("journal.db")
    }

    /// The journal. Each new engine resumes the settlements of the one before.
    pub async fn journal(&self) -> SqliteJournal {
        crate::open_journal(&self.journal_path()).await
    }

    /// An engine on this chain.
    pub async fn engine(&self) -> Engine {
        self.engine_with(self.config(), |builder| builder).await
    }

    /// An engine with another configuration.
    pub async fn engine_with(
        &self,
        config: EvmConfig,
        change: impl FnOnce(EngineBuilder) -> EngineBuilder,
    ) -> Engine {
        let evm = Evm::new(config).expect("a configuration that makes sense");
        let exact = Arc::new(Exact::new(&evm));
        let builder = Engine::builder(self.journal().await).chain(evm, vec![exact]);
        change(builder).start().await.expect("an engine")
    }

    /// An engine whose scheme has these settings.
    pub async fn engine_with_exact(&self, config: EvmConfig, settings: ExactConfig) -> Engine {
        let evm = Evm::new(config).expect("a configuration that makes sense");
        let exact = Exact::new(&evm).with_config(settings);
        let exact = Arc::new(exact.expect("settings that make sense"));
        let builder = Engine::builder(self.journal().await).chain(evm, vec![exact]);
        builder.start().await.expect("an engine")
    }

    /// The chain and the scheme of [`engine`](Self::engine), for an engine with faults in them.
    pub fn parts(&self) -> (Evm, Arc<dyn Scheme<Evm>>) {
        let evm = Evm::new(self.config()).expect("a configuration that makes sense");
        let exact = Exact::new(&evm);
        (evm, Arc::new(exact))
    }

    /// A builder with the journal and without a chain, whose engine answers "pending" soon.
    pub async fn builder(&self) -> EngineBuilder {
        Engine::builder(self.journal().await).settle_wait(Duration::from_secs(2))
    }

    /// The seller's requirements.
    pub fn requirements() -> PaymentRequirements {
        let offer = Self::offer();
        let kind = SupportedKind {
            x402_version: 2,
            scheme: "exact".to_owned(),
            network: offer.network().id().to_owned(),
            extra: None,
            rest: Rest::default(),
        };
        offer.requirements(&kind).expect("an offer")
    }

    /// The seller's offer.
    pub fn offer() -> ExactOffer {
        ExactOffer::usdc("base-sepolia", "0.01", &Self::seller().address.to_string())
            .expect("an offer")
    }

    /// A new payment.
    pub async fn request() -> PaymentRequest {
        crate::pay(&Self::payer(), &Self::requirements()).await
    }

    /// A new payment that is valid after one moment and before another, in seconds since the epoch.
    /// Our payers do not sign such times.
    pub fn request_within(valid_after: u64, valid_before: u64) -> PaymentRequest {
        let nonce = PrivateKeySigner::random().to_bytes();
        Self::request_by(&Self::buyer(), nonce, valid_after, valid_before)
    }

    /// As [`request_within`](Self::request_within), by any account and with any nonce.
    pub fn request_by(
        buyer: &Account,
        nonce: B256,
        valid_after: u64,
        valid_before: u64,
    ) -> PaymentRequest {
        let requirements = Self::requirements();
        let message = TransferWithAuthorization {
            from: buyer.address,
            to: Self::seller().address,
            value: U256::from(PRICE),
            validAfter: U256::from(valid_after),
            validBefore: U256::from(valid_before),
            nonce,
        };
        let domain = eip712_domain! {
            name: "USDC", version: "2", chain_id: 84532, verifying_contract: USDC,
        };
        let signature = buyer
            .signer
            .sign_hash_sync(&message.eip712_signing_hash(&domain))
            .expect("a key in memory");
        let payload = json!({
            "signature": encode_prefixed(signature.as_bytes()),
            "authorization": {
                "from": message.from, "to": message.to, "value": message.value.to_string(),
                "validAfter": valid_after.to_string(), "validBefore": valid_before.to_string(),
                "nonce": message.nonce,
            }
        });
        let payload = Object::of(&payload).expect("an object");
        crate::request(crate::payload_of(&requirements, payload), &requirements)
    }

    /// The time of the newest block, in seconds since the epoch.
    pub async fn block_time(&self) -> u64 {
        let head: Value = self
            .local
            .rpc("eth_getBlockByNumber", ("latest", false))
            .await
            .expect("a block");
        let time: U256 = serde_json::from_value(head["timestamp"].clone()).expect("a number");
        time.to()
    }

    /// What the seller has received, in atomic units.
    pub async fn received(&self) -> Amount {
        let balance = self
            .local
            .balance(USDC, Self::seller().address)
            .await
            .expect("a balance");
        // Every account starts with a million atomic units.
        Amount::new(balance - U256::from(1_000_000_000_000_u64))
    }

    /// Sends a transaction that takes all USDC from an account and comes first in its block.
    pub async fn drain(&self, account: Address) {
        let held = self.local.balance(USDC, account).await;
        let call = transferCall {
            to: Address::repeat_byte(0xaa),
            amount: held.expect("a balance"),
        };
        let first = json!([{ "from": account, "to": USDC, "data": encode_prefixed(call.abi_encode()),
            "maxFeePerGas": "0xd18c2e2800", "maxPriorityFeePerGas": "0xba43b74000" }]);
        let _: B256 = self
            .local
            .rpc("eth_sendTransaction", first)
            .await
            .expect("a node that takes it");
    }

    /// Settles a payment without the engine, from another account.
    pub async fn settle_elsewhere(&self, request: &PaymentRequest) {
        let payload = request.payload.tree();
        let field = |name: &str| payload["authorization"][name].clone();
        let number = |name: &str| -> U256 {
            let text = field(name);
            text.as_str().expect("a text").parse().expect("a number")
        };
        let address =
            |name: &str| -> Address { serde_json::from_value(field(name)).expect("an address") };
        let call = transferWithAuthorizationCall {
            from: address("from"),
            to: address("to"),
            value: number("value"),
            validAfter: number("validAfter"),
            validBefore: number("validBefore"),
            nonce: serde_json::from_value(field("nonce")).expect("32 bytes"),
            signature: serde_json::from_value::<Bytes>(payload["signature"].clone())
                .expect("a signature"),
        };
        let sender = Local::accounts()[6].address;
        self.local
            .send(sender, USDC, call.abi_encode())
            .await
            .expect("a transaction that succeeds");
    }

    /// From now on the chain includes nothing.
    pub async fn hold(&self) {
        let held = self.local.set_mining(Mining::Manual).await;
        held.expect("a node that accepts it");
    }

    /// The chain includes what waits, and continues with a block for each transaction.
    pub async fn go_on(&self) {
        self.local.mine().await.expect("a block");
        let continued = self.local.set_mining(Mining::Instant).await;
        continued.expect("a node that accepts it");
    }

    /// How many transactions an account has sent.
    pub async fn sent(&self, account: Address) -> u64 {
        let count: alloy::primitives::U64 = self
            .local
            .rpc("eth_getTransactionCount", (account, "latest"))
            .await
            .expect("a count");
        count.to()
    }
}

/// The request with a value changed in its text, and not signed again.
pub fn set(request: &PaymentRequest, path: &str, value: Value) -> PaymentRequest {
    let mut tree: Value = serde_json::from_str(request.text()).expect("a change that can be made");
    *tree.pointer_mut(path).expect("a change that can be made") = value;
    PaymentRequest::decode(tree.to_string().as_bytes()).expect("a change that can be made")
}

/// The request with requirements that the payer did not sign for, and accepted.
pub fn set_required(request: &PaymentRequest, field: &str, value: Value) -> PaymentRequest {
    let required = format!("/paymentRequirements/{field}");
    let accepted = format!("/paymentPayload/accepted/{field}");
    set(&set(request, &required, value.clone()), &accepted, value)
}

/// The signature of an account that a factory would have to make first (ERC-6492). It is not the
/// key's, so only the account could accept it.
pub fn wrapped() -> String {
    encode_prefixed(wrap(Address::repeat_byte(7), &[], &[7; 66]))
}

/// A signature with the call of the factory that makes its account first (ERC-6492).
pub fn wrap(factory: Address, data: &[u8], signature: &[u8]) -> Vec<u8> {
    const MAGIC: [u8; 32] =
        alloy::hex!("6492649264926492649264926492649264926492649264926492649264926492");
    let [data, signature] = [data, signature].map(Bytes::copy_from_slice);
    let wrapper = (factory, data, signature).abi_encode_params();
    [wrapper.as_slice(), &MAGIC].concat()
}
