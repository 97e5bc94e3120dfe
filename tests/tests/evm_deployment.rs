//! Payers whose account is deployed in their payment (ERC-6492), on a real node.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::time::Duration;

use alloy::hex::encode_prefixed;
use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol;
use alloy::sol_types::{SolCall, SolStruct, SolValue, eip712_domain};
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, SettleResponse};
use quittance_core::{Amount, Clock, Facilitator, PaymentRequest, SystemClock};
use quittance_devnet::{EXACT_PERMIT2_PROXY, Evm as Local, PERMIT2, SMART_WALLET_FACTORY, USDC};
use quittance_engine::Engine;
use quittance_evm::{ExactConfig, reason};
use quittance_tests::contracts::hostile;
use quittance_tests::evm::{PRICE, Setting, wrap};
use quittance_tests::permit2::Permit;
use quittance_tests::until;
use serde_json::{Value, json};

sol! {
    struct TransferWithAuthorization {
        address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce;
    }
    interface SmartWalletFactory {
        function createAccount(address owner, uint256 salt) external returns (address account);
        function addressOf(address owner, uint256 salt) external view returns (address);
    }
    interface AnyFactory {
        function deploy(bytes code, bytes32 salt) external;
        function deployNew(bytes code, bytes32 salt, address account) external;
        function forward(address to, bytes data) external;
        function deployAndForward(bytes code, bytes32 salt, address to, bytes data) external;
        function fail() external pure;
        function burn() external pure;
    }
    interface Token {
        function approve(address spender, uint256 amount) external returns (bool);
        function transferFrom(address from, address to, uint256 amount) external returns (bool);
        function transferWithAuthorization(
            address from, address to, uint256 value, uint256 validAfter, uint256 validBefore,
            bytes32 nonce, bytes signature
        ) external;
    }
}

/// An account that does not exist yet: its address, the factory, and the call that deploys it.
#[derive(Clone)]
struct Future {
    account: Address,
    factory: Address,
    data: Vec<u8>,
}

impl Future {
    /// A smart wallet of the buyer, by the local chain's factory.
    async fn of_buyer(setting: &Setting, salt: u64) -> Self {
        let (owner, salt) = (Setting::buyer().address, U256::from(salt));
        let ask = SmartWalletFactory::addressOfCall { owner, salt }.abi_encode();
        let account = setting.local.call(SMART_WALLET_FACTORY, ask).await.unwrap();
        let call = SmartWalletFactory::createAccountCall { owner, salt };
        Self {
            account: Address::abi_decode(&account).unwrap(),
            factory: SMART_WALLET_FACTORY,
            data: call.abi_encode(),
        }
    }

    /// A contract of `contracts/Hostile.sol` with the buyer as its owner, by a factory that
    /// makes any call.
    async fn hostile(setting: &Setting, name: &str) -> Self {
        let factory = setting.local.deploy(hostile("AnyFactory")).await.unwrap();
        let owner = Setting::buyer().address.abi_encode();
        let code = [alloy::hex::decode(hostile(name)).unwrap(), owner].concat();
        let (account, salt) = (factory.create2_from_code(B256::ZERO, &code), B256::ZERO);
        let code = code.into();
        let data = AnyFactory::deployCall { code, salt }.abi_encode();
        Self {
            account,
            factory,
            data,
        }
    }

    fn with_data(&self, data: impl SolCall) -> Self {
        let data = data.abi_encode();
        Self {
            data,
            ..self.clone()
        }
    }

    async fn funded(self, setting: &Setting) -> Self {
        let amount = U256::from(1_000_000);
        let minted = setting.local.mint(USDC, self.account, amount).await;
        minted.unwrap();
        self
    }

    async fn exists(&self, setting: &Setting) -> bool {
        let code = setting
            .local
            .rpc("eth_getCode", (self.account, "latest"))
            .await;
        let code: Bytes = code.unwrap();
        !code.is_empty()
    }

    fn wrap(&self, inner: &[u8]) -> Vec<u8> {
        wrap(self.factory, &self.data, inner)
    }

    /// A payment of the account, whose wrapped signature is by this key.
    fn payment(&self, key: &PrivateKeySigner) -> PaymentRequest {
        let message = message(self.account);
        self.payment_with(&message, &self.wrap(&sign(key, &message)))
    }

    fn payment_with(
        &self,
        message: &TransferWithAuthorization,
        signature: &[u8],
    ) -> PaymentRequest {
        request(
            &Setting::requirements(),
            json!({
                "signature": encode_prefixed(signature),
                "authorization": {
                    "from": message.from, "to": message.to, "value": message.value.to_string(),
                    "validAfter": message.validAfter.to_string(),
                    "validBefore": message.validBefore.to_string(), "nonce": message.nonce,
                }
            }),
        )
    }
}

fn message(from: Address) -> TransferWithAuthorization {
    TransferWithAuthorization {
        from,
        to: Setting::seller().address,
        value: U256::from(PRICE),
        validAfter: U256::ZERO,
        validBefore: U256::from(SystemClock.now().secs() + 60),
        nonce: PrivateKeySigner::random().to_bytes(),
    }
}

fn sign(key: &PrivateKeySigner, message: &TransferWithAuthorization) -> Vec<u8> {
    let domain = eip712_domain! {
        name: "USDC", version: "2", chain_id: 84532, verifying_contract: USDC,
    };
    let signature = key.sign_hash_sync(&message.eip712_signing_hash(&domain));
    signature.unwrap().as_bytes().to_vec()
}

fn request(requirements: &PaymentRequirements, payload: Value) -> PaymentRequest {
    let payload = Object::of(&payload).unwrap();
    let payload = quittance_tests::payload_of(requirements, payload);
    quittance_tests::request(payload, requirements)
}

/// The transfer as the account itself could make it, from outside.
fn transfer(message: &TransferWithAuthorization, signature: Vec<u8>) -> Bytes {
    let call = Token::transferWithAuthorizationCall {
        from: message.from,
        to: message.to,
        value: message.value,
        validAfter: message.validAfter,
        validBefore: message.validBefore,
        nonce: message.nonce,
        signature: signature.into(),
    };
    call.abi_encode().into()
}

/// An engine that allows these factories.
async fn engine(setting: &Setting, factories: &[Address]) -> Engine {
    let mut settings = ExactConfig::default();
    settings.account_factories = factories.iter().copied().collect();
    setting.engine_with_exact(setting.config(), settings).await
}

async fn settled(engine: &Engine, request: &PaymentRequest) -> SettleResponse {
    let verdict = engine.verify(request).await.unwrap();
    assert!(verdict.is_valid, "{verdict:?}");
    let answer = engine.settle(request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    answer
}

/// The reason of a refusal for which nothing is sent.
async fn refusal(setting: &Setting, engine: &Engine, request: &PaymentRequest) -> String {
    let sent = setting.node.calls("eth_sendRawTransaction");
    let verdict = engine.verify(request).await.unwrap();
    let answer = engine.settle(request).await.unwrap();
    assert!(!verdict.is_valid && !answer.success, "{answer:?}");
    assert_eq!(answer.error_reason, verdict.invalid_reason);
    assert_eq!(setting.node.calls("eth_sendRawTransaction"), sent);
    verdict.invalid_reason.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn account_is_deployed_and_pays_in_one_transaction() {
    let setting = Setting::start().await;
    let engine = engine(&setting, &[SMART_WALLET_FACTORY]).await;
    let wallet = Future::of_buyer(&setting, 1).await.funded(&setting).await;
    let key = Setting::buyer().signer;
    let first = wallet.payment(&key);
    assert!(engine.verify(&first).await.unwrap().is_valid);
    assert!(!wallet.exists(&setting).await, "verifying deploys nothing");
    let answer = settled(&engine, &first).await;
    assert_eq!(answer.payer, Some(wallet.account.to_checksum(None)));
    assert!(wallet.exists(&setting).await);
    assert_eq!(setting.node.calls("eth_sendRawTransaction"), 1);
    // From now on the account is asked as any other contract wallet.
    settled(&engine, &wallet.payment(&key)).await;
    assert_eq!(setting.received().await, Amount::from(2 * PRICE));
}

/// attacks.md 25 and 26: the factory is not called, and the account is not asked.
#[tokio::test(flavor = "multi_thread")]
async fn factory_that_is_not_allowed_is_never_called() {
    let setting = Setting::start().await;
    let engine = engine(&setting, &[SMART_WALLET_FACTORY]).await;
    let other = Future::hostile(&setting, "Wallet").await;
    let payment = other
        .funded(&setting)
        .await
        .payment(&Setting::buyer().signer);
    let code = refusal(&setting, &engine, &payment).await;
    assert_eq!(code, reason::FACTORY_NOT_ALLOWED.code());
}

/// attacks.md 25: the new account does not accept the signature.
#[tokio::test(flavor = "multi_thread")]
async fn worthless_signature_of_a_new_account_deploys_nothing() {
    let setting = Setting::start().await;
    let engine = engine(&setting, &[SMART_WALLET_FACTORY]).await;
    let wallet = Future::of_buyer(&setting, 1).await.funded(&setting).await;
    let message = message(wallet.account);
    for signature in [
        vec![7; 65],
        vec![7; 66],
        sign(&Setting::seller().signer, &message),
    ] {
        let payment = wallet.payment_with(&message, &wallet.wrap(&signature));
        let code = refusal(&setting, &engine, &payment).await;
        assert_eq!(code, reason::SIGNATURE.code());
    }
    assert!(!wallet.exists(&setting).await);
}

/// attacks.md 26 to 28: the call of an allowed factory is anything but the deployment.
#[tokio::test(flavor = "multi_thread")]
async fn allowed_factory_that_does_anything_else_pays_nothing() {
    let setting = Setting::start().await;
    let wallet = Future::hostile(&setting, "Wallet").await;
    let wallet = wallet.funded(&setting).await;
    let engine = engine(&setting, &[wallet.factory, SMART_WALLET_FACTORY]).await;
    let buyer = Setting::buyer();
    let drain = Token::transferFromCall {
        from: Setting::signers()[0].address,
        to: buyer.address,
        amount: U256::from(PRICE),
    };
    let forward = |to: Address, data: Vec<u8>| AnyFactory::forwardCall {
        to,
        data: data.into(),
    };
    let message = message(wallet.account);
    let signature = sign(&buyer.signer, &message);
    let failed = reason::DEPLOYMENT_FAILED;
    let nothing = wallet.with_data(forward(buyer.address, Vec::new()));
    let elsewhere = Future {
        account: wallet.account,
        ..Future::of_buyer(&setting, 5).await
    };
    let AnyFactory::deployCall { code, salt } =
        AnyFactory::deployCall::abi_decode(&wallet.data).unwrap();
    let pays = AnyFactory::deployAndForwardCall {
        code,
        salt,
        to: USDC,
        data: transfer(&message, signature.clone()),
    };
    for (what, future, expected) in [
        (
            "drains",
            wallet.with_data(forward(USDC, drain.abi_encode())),
            failed.clone(),
        ),
        (
            "reverts",
            wallet.with_data(AnyFactory::failCall {}),
            failed.clone(),
        ),
        (
            "burns gas",
            wallet.with_data(AnyFactory::burnCall {}),
            failed.clone(),
        ),
        ("does nothing", nothing, failed.clone()),
        ("deploys elsewhere", elsewhere, failed.clone()),
        (
            "pays itself",
            wallet.with_data(pays),
            reason::SIMULATION_FAILED,
        ),
    ] {
        let payment = future.payment_with(&message, &future.wrap(&signature));
        let code = refusal(&setting, &engine, &payment).await;
        assert_eq!(code, expected.code(), "{what}");
    }
    assert_eq!(setting.received().await, Amount::ZERO);
}

/// attacks.md 32 and 33: a new account that detects simulations, burns gas or reverts.
#[tokio::test(flavor = "multi_thread")]
async fn new_account_that_misbehaves_is_refused() {
    let setting = Setting::start().await;
    for name in [
        "WalletThatTellsSimulations",
        "WalletThatBurnsGas",
        "WalletThatReverts",
    ] {
        let wallet = Future::hostile(&setting, name).await.funded(&setting).await;
        let engine = engine(&setting, &[wallet.factory]).await;
        let payment = wallet.payment(&Setting::buyer().signer);
        let code = refusal(&setting, &engine, &payment).await;
        assert_eq!(code, reason::SIGNATURE.code(), "{name}");
    }
}

/// attacks.md 28: the wrapper of an account with a key, whose signature the token would accept.
#[tokio::test(flavor = "multi_thread")]
async fn wrapper_around_a_keys_signature_is_refused() {
    let setting = Setting::start().await;
    let wallet = Future::of_buyer(&setting, 1).await;
    let buyer = Setting::buyer();
    let wrapped = Future {
        account: buyer.address,
        ..wallet
    };
    let engine = engine(&setting, &[SMART_WALLET_FACTORY]).await;
    let payment = wrapped.payment(&buyer.signer);
    let code = refusal(&setting, &engine, &payment).await;
    assert_eq!(code, reason::DEPLOYMENT_FAILED.code());
}

/// attacks.md 37: the account is deployed after the payment was verified.
#[tokio::test(flavor = "multi_thread")]
async fn account_deployed_before_settlement_pays_as_any_other() {
    let setting = Setting::start().await;
    let engine = engine(&setting, &[SMART_WALLET_FACTORY]).await;
    let wallet = Future::of_buyer(&setting, 1).await.funded(&setting).await;
    let payment = wallet.payment(&Setting::buyer().signer);
    assert!(engine.verify(&payment).await.unwrap().is_valid);
    let deployer = Local::accounts()[6].address;
    let deployed = setting
        .local
        .send(deployer, wallet.factory, wallet.data.clone());
    deployed.await.unwrap();
    settled(&engine, &payment).await;
    assert_eq!(setting.received().await, Amount::from(PRICE));
}

/// attacks.md 37: another sender deploys the account in the same block, before the payment. A
/// factory that does not look first burns its gas then, and the payment is sent again without it.
#[tokio::test(flavor = "multi_thread")]
async fn account_deployed_right_before_the_payment_pays_once() {
    let setting = Setting::start().await;
    let careful = Future::of_buyer(&setting, 1).await.funded(&setting).await;
    let careless = Future::hostile(&setting, "Wallet").await;
    let careless = careless.funded(&setting).await;
    let strict = Future::hostile(&setting, "WalletThatAcceptsAll").await;
    let AnyFactory::deployCall { code, salt } =
        AnyFactory::deployCall::abi_decode(&strict.data).unwrap();
    let account = strict.account;
    let strict = strict.with_data(AnyFactory::deployNewCall {
        code,
        salt,
        account,
    });
    let strict = strict.funded(&setting).await;
    let factories = [careful.factory, careless.factory, strict.factory];
    let engine = engine(&setting, &factories).await;
    let wallets = [(careful, 1), (strict, 1), (careless, 2)];
    for (at, (wallet, transactions)) in wallets.into_iter().enumerate() {
        let sent = setting.node.calls("eth_sendRawTransaction");
        let payment = wallet.payment(&Setting::buyer().signer);
        setting.hold().await;
        let settling = engine.settle(&payment);
        let first = async {
            until("it is sent", || async {
                setting.node.calls("eth_sendRawTransaction") > sent
            })
            .await;
            let deployment = json!([{
                "from": Local::accounts()[6].address, "to": wallet.factory,
                "data": encode_prefixed(&wallet.data),
                "maxFeePerGas": "0xd18c2e2800", "maxPriorityFeePerGas": "0xba43b74000",
            }]);
            let taken = setting.local.rpc("eth_sendTransaction", deployment).await;
            let _: B256 = taken.unwrap();
            setting.go_on().await;
        };
        let (answer, ()) = tokio::join!(settling, first);
        let answer = answer.unwrap();
        assert!(answer.success, "{answer:?}");
        let own = setting.node.calls("eth_sendRawTransaction") - sent;
        assert_eq!(own, transactions);
        let expected = PRICE * (at as u64 + 1);
        assert_eq!(setting.received().await, Amount::from(expected));
    }
}

/// The account's own rule decides, and only about its own money.
#[tokio::test(flavor = "multi_thread")]
async fn account_that_accepts_everything_pays_by_its_own_rule() {
    let setting = Setting::start().await;
    let wallet = Future::hostile(&setting, "WalletThatAcceptsAll").await;
    let wallet = wallet.funded(&setting).await;
    let engine = engine(&setting, &[wallet.factory]).await;
    let message = message(wallet.account);
    let payment = wallet.payment_with(&message, &wallet.wrap(b"anything"));
    settled(&engine, &payment).await;
    assert_eq!(setting.received().await, Amount::from(PRICE));
    // The same authorization with other bytes is the same payment.
    let again = wallet.payment_with(&message, &wallet.wrap(b"something else"));
    let answer = engine.settle(&again).await.unwrap();
    assert!(!answer.success, "{answer:?}");
    assert_eq!(setting.received().await, Amount::from(PRICE));
}

/// attacks.md 74: the deployment and the transfer together have the limit of any payment.
#[tokio::test(flavor = "multi_thread")]
async fn deployment_beyond_the_gas_limit_is_not_sent() {
    let setting = Setting::start().await;
    let wallet = Future::of_buyer(&setting, 1).await.funded(&setting).await;
    let payment = wallet.payment(&Setting::buyer().signer);
    let limited = async |gas_max| {
        let mut settings = ExactConfig::default();
        settings.account_factories = [SMART_WALLET_FACTORY].into();
        let mut config = setting.config();
        config.gas_per_payment_max = gas_max;
        setting.engine_with_exact(config, settings).await
    };
    // More than the transfer needs, and less than the deployment.
    let engine = limited(150_000).await;
    let code = refusal(&setting, &engine, &payment).await;
    assert_eq!(code, reason::DEPLOYMENT_FAILED.code());
    drop(engine);
    settled(&limited(600_000).await, &payment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_node_is_no_verdict_on_a_new_account() {
    let setting = Setting::start().await;
    let engine = engine(&setting, &[SMART_WALLET_FACTORY]).await;
    let wallet = Future::of_buyer(&setting, 1).await.funded(&setting).await;
    let payment = wallet.payment(&Setting::buyer().signer);
    let fate = quittance_tests::proxy::Fate::Error(-32603, "internal error");
    setting.node.breaks_for_good("eth_call", fate);
    assert!(engine.verify(&payment).await.is_err());
    setting.node.mend();
    tokio::time::sleep(Duration::from_millis(100)).await;
    settled(&engine, &payment).await;
}

/// A permit of an account that does not exist yet needs an allowance for Permit2 that exists
/// already, as tokens with one for everybody have.
#[tokio::test(flavor = "multi_thread")]
async fn account_is_deployed_and_pays_by_a_permit() {
    let setting = Setting::start().await;
    let engine = engine(&setting, &[SMART_WALLET_FACTORY]).await;
    let wallet = Future::of_buyer(&setting, 1).await.funded(&setting).await;
    let extra = json!({ "name": "USDC", "version": "2", "assetTransferMethod": "permit2" });
    let requirements = PaymentRequirements {
        extra: Some(Object::of(&extra).unwrap()),
        ..Setting::requirements()
    };
    let permit = Permit::new(EXACT_PERMIT2_PROXY, None);
    let signature = wallet.wrap(&permit.signature(&Setting::buyer().signer));
    let payment = permit.request(wallet.account, &signature, &requirements);
    let code = refusal(&setting, &engine, &payment).await;
    assert_eq!(code, reason::PERMIT2_ALLOWANCE_REQUIRED.code());
    // The slot of the allowance in Circle's token: `allowed` is its variable number 10.
    let outer = keccak256((wallet.account, U256::from(10)).abi_encode());
    let slot = keccak256((PERMIT2, outer).abi_encode());
    let value = B256::from(U256::from(PRICE));
    let set = setting
        .local
        .rpc("anvil_setStorageAt", (USDC, slot, value))
        .await;
    let _: bool = set.unwrap();
    settled(&engine, &payment).await;
    assert!(wallet.exists(&setting).await);
    assert_eq!(setting.received().await, Amount::from(PRICE));
}
