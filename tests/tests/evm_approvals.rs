//! Payments by Permit2 whose payer has signed the transaction that approves Permit2, and has no
//! coin for its gas: the extension `erc20ApprovalGasSponsoring` of `exact` and `upto`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEip2930, TxEnvelope, TxLegacy};
use alloy::eips::eip2718::Encodable2718 as _;
use alloy::primitives::{Address, Bytes, TxKind, U256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use async_trait::async_trait;
use quittance_core::{
    Amount, Clock, Facilitator, FacilitatorError, Offer, Payer, PaymentRequest, Reason, Scheme,
    SystemClock,
};
use quittance_devnet::{Evm as Local, PERMIT2, USDC};
use quittance_engine::{Engine, Settlement};
use quittance_evm::{
    ApprovalGas, Evm, EvmConfig, Exact, ExactOffer, ExactPayer, Token, TransferMethod, Upto,
    UptoOffer, UptoPayer, known, reason,
};
use quittance_tests::conformance::scheme::SchemeFixture;
use quittance_tests::engine::{HASTY, settling};
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::permit2::{Permit, Permits, settle_elsewhere, twin, with_extensions};
use quittance_tests::until;
use serde_json::{Value, json};

alloy::sol! {
    function approve(address spender, uint256 amount) external returns (bool);
    function transfer(address to, uint256 amount) external returns (bool);
}

/// The extension.
const EXTENSION: &str = "erc20ApprovalGasSponsoring";

/// The gas and its price in an approval of these tests, as the official client has them.
const GAS: u64 = 70_000;
const GAS_PRICE: u128 = 1_000_000_000;

/// What a payer without coin gets for it: the gas, and a quarter more.
fn needed() -> U256 {
    U256::from(u128::from(GAS) * GAS_PRICE / 4 * 5)
}

/// A chain on which no account has approved Permit2, and the payer of the newest payment.
struct Fixture<const UPTO: bool> {
    setting: Setting,
    payer: Mutex<Option<PrivateKeySigner>>,
}

type ByExact = Fixture<false>;
type ByUpto = Fixture<true>;

fn permits(upto: bool) -> Permits {
    match upto {
        true => Permits::upto(),
        false => Permits::exact(),
    }
}

/// A configuration in which a payer gets the coin for one approval a day.
fn config(setting: &Setting) -> EvmConfig {
    let mut config = setting.config();
    config.approval_gas = Some(ApprovalGas::new(needed(), needed()));
    config
}

async fn engine(setting: &Setting) -> Engine {
    let evm = Evm::new(config(setting)).unwrap();
    let schemes = vec![
        Arc::new(Exact::new(&evm)) as _,
        Arc::new(Upto::new(&evm)) as _,
    ];
    let builder = setting.builder().await.chain(evm, schemes);
    builder.timing(HASTY).start().await.unwrap()
}

/// An approval of Permit2 for all amounts, as the official client signs it.
fn approval(nonce: u64) -> TxEip1559 {
    let (spender, amount) = (PERMIT2, U256::MAX);
    TxEip1559 {
        chain_id: 84_532,
        nonce,
        gas_limit: GAS,
        max_fee_per_gas: GAS_PRICE,
        max_priority_fee_per_gas: GAS_PRICE / 10,
        to: TxKind::Call(USDC),
        value: U256::ZERO,
        access_list: Default::default(),
        input: approveCall { spender, amount }.abi_encode().into(),
    }
}

fn signed(key: &PrivateKeySigner, unsigned: TxEip1559) -> Bytes {
    let signature = key.sign_hash_sync(&unsigned.signature_hash()).unwrap();
    let signed = TxEnvelope::from(unsigned.into_signed(signature));
    signed.encoded_2718().into()
}

fn info(owner: Address, transaction: &Bytes) -> Value {
    json!({ "from": owner, "asset": USDC, "spender": PERMIT2, "amount": U256::MAX.to_string(),
        "signedTransaction": transaction, "version": "1" })
}

/// A new permit of an account, with this transaction beside it.
fn with_transaction(upto: bool, key: &PrivateKeySigner, transaction: &Bytes) -> PaymentRequest {
    let permits = permits(upto);
    let permit = Permit::new(permits.proxy, permits.facilitator);
    let owner = key.address();
    let request = permit.request(owner, &permit.signature(key), &permits.requirements);
    with_extensions(
        &request,
        json!({ EXTENSION: { "info": info(owner, transaction) } }),
    )
}

/// A new payment with an approval of this nonce.
fn payment(upto: bool, key: &PrivateKeySigner, nonce: u64) -> PaymentRequest {
    with_transaction(upto, key, &signed(key, approval(nonce)))
}

/// A payer with tokens, which has never sent a transaction and has no coin.
async fn new_payer(setting: &Setting) -> PrivateKeySigner {
    let key = PrivateKeySigner::random();
    let minted = setting
        .local
        .mint(USDC, key.address(), U256::from(5 * PRICE));
    minted.await.unwrap();
    key
}

async fn coin(setting: &Setting, account: Address) -> U256 {
    let coin = setting.local.rpc("eth_getBalance", (account, "latest"));
    coin.await.unwrap()
}

async fn set_coin(setting: &Setting, account: Address, coin: U256) {
    let _: Value = setting
        .local
        .rpc("anvil_setBalance", (account, coin))
        .await
        .unwrap();
}

/// What became of a payment, by its permit.
async fn settlement(engine: &Engine, setting: &Setting, request: &PaymentRequest) -> Settlement {
    let evm = Evm::new(config(setting)).unwrap();
    let scheme: Arc<dyn Scheme<Evm>> = match request.requirements.scheme.as_str() {
        "upto" => Arc::new(Upto::new(&evm)),
        _ => Arc::new(Exact::new(&evm)),
    };
    let id = scheme.decode(request, SystemClock.now()).unwrap().info().id;
    engine.settlement(&id).await.unwrap().unwrap()
}

/// The steps of a settlement, in their order. The last one settles.
async fn steps(engine: &Engine, setting: &Setting, request: &PaymentRequest) -> Vec<u8> {
    let settlement = settlement(engine, setting, request).await;
    let mut steps: Vec<u8> = settlement.transactions.iter().map(|it| it.step).collect();
    steps.dedup();
    steps
}

async fn settles(engine: &Engine, request: &PaymentRequest) {
    let verdict = engine.verify(request).await.unwrap();
    assert!(verdict.is_valid, "{verdict:?}");
    let answer = engine.settle(request).await.unwrap();
    let answer = match answer.is_pending() {
        true => engine.settle(request).await.unwrap(),
        false => answer,
    };
    assert!(answer.success, "{answer:?}");
}

async fn is_refused(engine: &Engine, request: &PaymentRequest, reason: &Reason) {
    let verdict = engine.verify(request).await.unwrap();
    let code = verdict.invalid_reason.as_deref();
    assert_eq!(code, Some(reason.code()), "{verdict:?}");
    let answer = engine.settle(request).await.unwrap();
    assert_eq!(
        answer.error_reason.as_deref(),
        Some(reason.code()),
        "{answer:?}"
    );
}

#[async_trait]
impl<const UPTO: bool> SchemeFixture for Fixture<UPTO> {
    type Chain = Evm;

    const PRICE: Amount = Amount::new(U256::from_limbs([PRICE, 0, 0, 0]));
    const TAKES_STEPS: bool = true;

    async fn new() -> Self {
        Self {
            setting: Setting::start().await,
            payer: Mutex::default(),
        }
    }

    fn scheme(&self) -> Arc<dyn Scheme<Evm>> {
        let evm = Evm::new(config(&self.setting)).unwrap();
        match UPTO {
            true => Arc::new(Upto::new(&evm)),
            false => Arc::new(Exact::new(&evm)),
        }
    }

    async fn engine(&self) -> Engine {
        engine(&self.setting).await
    }

    /// By a new payer each time: a payer can have one such payment open.
    async fn request(&self) -> PaymentRequest {
        let key = new_payer(&self.setting).await;
        let request = payment(UPTO, &key, 0);
        *self.payer.lock().unwrap() = Some(key);
        request
    }

    async fn alike(&self) -> [PaymentRequest; 2] {
        [2, 3].map(|at: usize| {
            let key = &Local::accounts()[at].signer;
            payment(UPTO, key, 0)
        })
    }

    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        twin(request)
    }

    /// The row 69 of docs/attacks.md is among them.
    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        let key = new_payer(&self.setting).await;
        let with = |change: fn(&mut TxEip1559)| {
            let mut unsigned = approval(0);
            change(&mut unsigned);
            with_transaction(UPTO, &key, &signed(&key, unsigned))
        };
        let call = |spender, amount: u64| {
            let amount = U256::from(amount);
            approveCall { spender, amount }.abi_encode()
        };
        let foreign = signed(&PrivateKeySigner::random(), approval(0));
        let mut long = signed(&key, approval(0)).to_vec();
        long.push(0);
        let mut other_owner = info(key.address(), &signed(&key, approval(0)));
        other_owner["from"] = json!(Address::repeat_byte(7));
        let plain = payment(UPTO, &key, 0);
        let with_call = |data: Vec<u8>| {
            let input = data.into();
            let unsigned = TxEip1559 {
                input,
                ..approval(0)
            };
            with_transaction(UPTO, &key, &signed(&key, unsigned))
        };
        let (to, amount) = (Address::repeat_byte(7), U256::from(1));
        vec![
            (
                "no approval",
                with_extensions(&plain, json!({})),
                reason::PERMIT2_ALLOWANCE_REQUIRED,
            ),
            (
                "the seller's offer, echoed",
                with_extensions(&plain, json!({ EXTENSION: { "info": { "version": "1" } } })),
                reason::PERMIT2_ALLOWANCE_REQUIRED,
            ),
            (
                "text that is no transaction",
                with_transaction(UPTO, &key, &Bytes::from(vec![1, 2, 3])),
                reason::ERC20_APPROVAL_TX_PARSE,
            ),
            (
                "bytes behind the transaction",
                with_transaction(UPTO, &key, &long.into()),
                reason::ERC20_APPROVAL_TX_PARSE,
            ),
            (
                "another account's name",
                with_extensions(&plain, json!({ EXTENSION: { "info": other_owner } })),
                reason::ERC20_APPROVAL_FROM,
            ),
            (
                "another account's transaction",
                with_transaction(UPTO, &key, &foreign),
                reason::ERC20_APPROVAL_TX_SIGNER,
            ),
            (
                "another chain",
                with(|it| it.chain_id = 1),
                reason::ERC20_APPROVAL_TX_SIGNER,
            ),
            (
                "another contract",
                with(|it| it.to = TxKind::Call(Address::repeat_byte(7))),
                reason::ERC20_APPROVAL_TX_TARGET,
            ),
            (
                "a new contract",
                with(|it| it.to = TxKind::Create),
                reason::ERC20_APPROVAL_TX_TARGET,
            ),
            (
                "a value",
                with(|it| it.value = U256::from(1)),
                reason::ERC20_APPROVAL_TX_TARGET,
            ),
            (
                "another spender",
                with_call(call(to, PRICE)),
                reason::ERC20_APPROVAL_TX_CALLDATA,
            ),
            (
                "less",
                with_call(call(PERMIT2, PRICE - 1)),
                reason::ERC20_APPROVAL_TX_CALLDATA,
            ),
            (
                "more call data",
                with_call([call(PERMIT2, PRICE), vec![0]].concat()),
                reason::ERC20_APPROVAL_TX_CALLDATA,
            ),
            (
                "a transfer",
                with_call(transferCall { to, amount }.abi_encode()),
                reason::ERC20_APPROVAL_TX_CALLDATA,
            ),
            (
                "a later nonce",
                with(|it| it.nonce = 1),
                reason::ERC20_APPROVAL_TX_NONCE,
            ),
            (
                "too little gas",
                with(|it| it.gas_limit = 25_000),
                reason::ERC20_APPROVAL_TX_FAILED,
            ),
            (
                "a gas price too high",
                with(|it| it.max_fee_per_gas += 1),
                reason::ERC20_APPROVAL_NOT_FUNDED,
            ),
            (
                "too much gas",
                with(|it| it.gas_limit += 1),
                reason::ERC20_APPROVAL_NOT_FUNDED,
            ),
        ]
    }

    async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        permits(UPTO).pointless().await
    }

    async fn received(&self) -> Amount {
        self.setting.received().await
    }

    async fn hold(&self) {
        self.setting.hold().await;
    }

    async fn go_on(&self) {
        self.setting.go_on().await;
    }

    async fn drain_payer(&self) -> bool {
        false
    }

    async fn settle_elsewhere(&self, request: &PaymentRequest) -> bool {
        let payer = self.payer.lock().unwrap().clone().unwrap().address();
        let local = &self.setting.local;
        set_coin(&self.setting, payer, needed() * U256::from(1_000)).await;
        let _: Value = local
            .rpc("anvil_impersonateAccount", [payer])
            .await
            .unwrap();
        local.approve_permit2(USDC, payer).await.unwrap();
        settle_elsewhere(&self.setting, request, PRICE).await;
        true
    }
}

mod exact {
    use super::ByExact;
    quittance_tests::scheme_conformance!(ByExact);
}

mod upto {
    use super::ByUpto;
    quittance_tests::scheme_conformance!(ByUpto);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_gets_the_coin_that_its_approval_needs() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    for upto in [false, true] {
        let key = new_payer(&setting).await;
        let request = payment(upto, &key, 0);
        settles(&engine, &request).await;
        assert_eq!(steps(&engine, &setting, &request).await, [1, 2, 0]);
        // It has what the gas did not cost.
        assert!(coin(&setting, key.address()).await < needed());
        // Permit2 may move the tokens of the next payment, too.
        let next = payment(upto, &key, 0);
        settles(&engine, &next).await;
        assert_eq!(steps(&engine, &setting, &next).await, [0]);
    }
    assert_eq!(setting.received().await, Amount::from(4 * PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_with_coin_gets_none() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let key = new_payer(&setting).await;
    set_coin(&setting, key.address(), needed()).await;
    let request = payment(false, &key, 0);
    settles(&engine, &request).await;
    assert_eq!(steps(&engine, &setting, &request).await, [2, 0]);
    assert!(coin(&setting, key.address()).await < needed());
}

/// Older wallets sign older types.
#[tokio::test(flavor = "multi_thread")]
async fn approvals_of_all_types_settle() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let TxEip1559 {
        nonce,
        to,
        input,
        value,
        chain_id,
        ..
    } = approval(0);
    let legacy = TxLegacy {
        chain_id: Some(chain_id),
        nonce,
        gas_price: GAS_PRICE,
        gas_limit: GAS,
        to,
        value,
        input: input.clone(),
    };
    let listed = TxEip2930 {
        chain_id,
        nonce,
        gas_price: GAS_PRICE,
        gas_limit: GAS,
        to,
        value,
        input,
        access_list: Default::default(),
    };
    let key = new_payer(&setting).await;
    let signature = key.sign_hash_sync(&legacy.signature_hash()).unwrap();
    let legacy = TxEnvelope::from(legacy.into_signed(signature)).encoded_2718();
    settles(&engine, &with_transaction(false, &key, &legacy.into())).await;
    let key = new_payer(&setting).await;
    let signature = key.sign_hash_sync(&listed.signature_hash()).unwrap();
    let listed = TxEnvelope::from(listed.into_signed(signature)).encoded_2718();
    settles(&engine, &with_transaction(false, &key, &listed.into())).await;
}

/// Waits until a transaction of this account waits for a block.
async fn waits_for_block(setting: &Setting, account: Address, nonce: u64) {
    until("a transaction waits for a block", || async {
        let pending = setting
            .local
            .rpc("eth_getTransactionCount", (account, "pending"));
        let pending: alloy::primitives::U64 = pending.await.unwrap();
        pending.to::<u64>() > nonce
    })
    .await;
}

/// Row 69 of docs/attacks.md: the payer takes the coin, makes its approval impossible, and asks
/// again. A restart of the facilitator does not help it.
#[tokio::test(flavor = "multi_thread")]
async fn a_payer_that_takes_the_coin_gets_no_more() {
    let setting = Setting::start().await;
    let first = engine(&setting).await;
    let key = new_payer(&setting).await;
    let payer = key.address();
    let signer = Setting::signers()[0].address;
    setting.hold().await;
    let request = payment(false, &key, 0);
    let answer = settling(&first, &request);
    waits_for_block(&setting, signer, 0).await;
    // Its next nonce is another one when the coin arrives, and the coin is gone.
    let _: Value = setting
        .local
        .rpc("anvil_setNonce", (payer, "0x1"))
        .await
        .unwrap();
    setting.go_on().await;
    drop(answer.await);
    until("the payment has failed", || async {
        settlement(&first, &setting, &request)
            .await
            .concluded_at
            .is_some()
    })
    .await;
    let answer = first.settle(&request).await.unwrap();
    let wrong_nonce = reason::ERC20_APPROVAL_TX_NONCE;
    assert_eq!(answer.error_reason.as_deref(), Some(wrong_nonce.code()));
    assert_eq!(coin(&setting, payer).await, needed());
    set_coin(&setting, payer, U256::ZERO).await;
    let again = payment(false, &key, 1);
    is_refused(&first, &again, &reason::ERC20_APPROVAL_NOT_FUNDED).await;
    first.shut_down(Duration::from_secs(5)).await;
    drop(first);
    let second = engine(&setting).await;
    is_refused(&second, &again, &reason::ERC20_APPROVAL_NOT_FUNDED).await;
    assert_eq!(setting.sent(signer).await, 1);
    // Its own coin is welcome.
    set_coin(&setting, payer, needed()).await;
    settles(&second, &again).await;
}

/// The approval waits, and its payer replaces it by another transaction.
#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_its_payer_replaces_ends_the_payment() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let key = new_payer(&setting).await;
    let payer = key.address();
    set_coin(&setting, payer, needed() * U256::from(10)).await;
    setting.hold().await;
    let request = payment(false, &key, 0);
    let answer = settling(&engine, &request);
    waits_for_block(&setting, payer, 0).await;
    let mut other = approval(0);
    other.to = TxKind::Call(payer);
    other.input = Bytes::new();
    other.max_fee_per_gas *= 4;
    other.max_priority_fee_per_gas *= 4;
    let sent: Value = setting
        .local
        .rpc("eth_sendRawTransaction", [signed(&key, other)])
        .await
        .unwrap();
    assert!(sent.is_string());
    setting.go_on().await;
    drop(answer.await);
    until("the payment has failed", || async {
        settlement(&engine, &setting, &request)
            .await
            .concluded_at
            .is_some()
    })
    .await;
    let answer = engine.settle(&request).await.unwrap();
    assert!(!answer.success && !answer.is_pending(), "{answer:?}");
    assert_eq!(setting.received().await, Amount::ZERO);
    // The facilitator has sent nothing of its own.
    assert_eq!(setting.sent(Setting::signers()[0].address).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_payment_of_a_payer_is_sponsored_at_a_time() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let key = new_payer(&setting).await;
    let requests = [(); 6].map(|()| payment(false, &key, 0));
    let settling: Vec<_> = requests.iter().map(|it| settling(&engine, it)).collect();
    let mut successes = 0;
    for answer in settling {
        match answer.await.unwrap() {
            Ok(answer) if answer.success => successes += 1,
            Ok(answer) => {
                let open = reason::SPONSORSHIP_OPEN;
                assert_eq!(
                    answer.error_reason.as_deref(),
                    Some(open.code()),
                    "{answer:?}"
                );
            }
            Err(FacilitatorError::Fault(fault)) => println!("{fault}"),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(successes >= 1);
    // The coin for one approval, and one transaction for each payment.
    assert_eq!(
        setting.sent(Setting::signers()[0].address).await,
        1 + successes
    );
    assert!(coin(&setting, key.address()).await < needed());
}

/// The process ends after each of the steps was sent, and after it was included.
#[tokio::test(flavor = "multi_thread")]
async fn a_payer_is_funded_once_whenever_the_process_ends() {
    let signer = Setting::signers()[0].address;
    for included_meanwhile in [false, true] {
        for steps_before in 0..3 {
            let setting = Setting::start().await;
            let key = new_payer(&setting).await;
            let payer = key.address();
            setting.hold().await;
            let first = engine(&setting).await;
            let request = payment(false, &key, 0);
            let answer = settling(&first, &request);
            waits_for_block(&setting, signer, 0).await;
            if steps_before > 0 {
                setting.local.mine().await.unwrap();
                waits_for_block(&setting, payer, 0).await;
            }
            if steps_before > 1 {
                setting.local.mine().await.unwrap();
                waits_for_block(&setting, signer, 1).await;
            }
            answer.abort();
            first.shut_down(Duration::ZERO).await;
            drop(first);
            if included_meanwhile {
                setting.local.mine().await.unwrap();
            }
            setting.go_on().await;
            let second = engine(&setting).await;
            until("the payment has settled", || async {
                setting.received().await == Amount::from(PRICE)
            })
            .await;
            assert!(coin(&setting, payer).await < needed());
            assert_eq!(setting.sent(signer).await, 2);
            assert_eq!(setting.sent(payer).await, 1);
            until("the settlement has ended", || async {
                settlement(&second, &setting, &request)
                    .await
                    .concluded_at
                    .is_some()
            })
            .await;
            assert_eq!(steps(&second, &setting, &request).await, [1, 2, 0]);
        }
    }
}

/// USDC as a token without signed approvals.
fn token() -> Token {
    let usdc = known::token("eip155:84532", "USDC").unwrap().clone();
    usdc.with_eip2612(false)
        .with_method(TransferMethod::Permit2)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_signs_the_approval_that_is_missing() {
    let setting = Setting::start().await;
    let mut config = config(&setting);
    // The local chain's gas price is higher than that of the other tests.
    let most = U256::from(10_u64.pow(15));
    config.approval_gas = Some(ApprovalGas::new(most, most));
    config.tokens = vec![token()];
    let evm = Evm::new(config).unwrap();
    let schemes = vec![
        Arc::new(Exact::new(&evm)) as _,
        Arc::new(Upto::new(&evm)) as _,
    ];
    let engine = setting
        .builder()
        .await
        .chain(evm, schemes)
        .start()
        .await
        .unwrap();
    let supported = engine.supported().await.unwrap().extensions.unwrap();
    assert_eq!(supported, [EXTENSION]);
    let network = known::network("base-sepolia").unwrap();
    let node = [setting.local.url().parse().unwrap()];
    let seller = Setting::seller().address.to_string();
    for upto in [false, true] {
        let key = new_payer(&setting).await;
        let (payer, offered): (Box<dyn Payer>, _) = match upto {
            true => {
                let payer = UptoPayer::new(key.clone()).with_token(network.id(), token());
                let offer = UptoOffer::new(network.clone(), token(), "0.01", &seller).unwrap();
                let payer = payer.with_rpc(&network, &node).unwrap();
                (Box::new(payer), offer.extensions(&supported))
            }
            false => {
                let payer = ExactPayer::new(key.clone()).with_token(network.id(), token());
                let offer = ExactOffer::new(network.clone(), token(), "0.01", &seller).unwrap();
                let payer = payer.with_rpc(&network, &node).unwrap();
                (Box::new(payer), offer.extensions(&supported))
            }
        };
        let requirements = permits(upto).requirements;
        let mut expected = vec![true, false];
        while let Some(approves) = expected.pop().map(|_| expected.len() == 1) {
            let now = SystemClock.now();
            let paid = payer
                .pay(&requirements, offered.as_ref(), now)
                .await
                .unwrap();
            assert_eq!(paid.extensions.is_some(), approves);
            let mut payload = quittance_tests::payload_of(&requirements, paid.payload);
            payload.extensions = paid
                .extensions
                .map(|signed| quittance_core::json::Json::of(&signed).unwrap());
            settles(&engine, &quittance_tests::request(payload, &requirements)).await;
        }
    }
    assert_eq!(setting.received().await, Amount::from(4 * PRICE));
}
