//! Gas without payment: how a payer can make the facilitator send transactions that settle nothing,
//! and the highest cost of that.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, U64, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol;
use alloy::sol_types::{Eip712Domain, SolStruct, SolValue};
use futures_util::future::join_all;
use quittance_core::json::Object;
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Amount, Clock, Facilitator, FacilitatorError, FaultKind, ManualClock, PaymentId,
    PaymentRequest, Reason, Scheme, SystemClock,
};
use quittance_devnet::{Account, Evm as Local, Mining, USDC};
use quittance_engine::{Engine, EngineBuilder, Timing};
use quittance_evm::auth_capture::{self, AuthCapture};
use quittance_evm::{Evm, Exact, ExactPayer, reason};
use quittance_tests::contracts::hostile;
use quittance_tests::engine;
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::holds::Hold;
use quittance_tests::proxy::Fate;
use quittance_tests::until;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// Short waiting times, for tests.
const HASTY: Timing = engine::HASTY
    .with_resubmit_after(Duration::from_secs(2))
    .with_replace_after(Duration::from_secs(60))
    .with_sweep_every(Duration::from_secs(60));

sol! {
    struct TransferWithAuthorization {
        address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce;
    }
}

/// A payment from `from`, signed by `key`, valid until `expires`. `tail` follows the signature.
fn payment(from: Address, key: &PrivateKeySigner, expires: u64, tail: &[u8]) -> PaymentRequest {
    let requirements = Setting::requirements();
    let message = TransferWithAuthorization {
        from,
        to: Setting::seller().address,
        value: U256::from(PRICE),
        validAfter: U256::ZERO,
        validBefore: U256::from(expires),
        nonce: keccak256(PrivateKeySigner::random().address()),
    };
    let domain = Eip712Domain::new(
        Some("USDC".into()),
        Some("2".into()),
        Some(U256::from(84532)),
        Some(USDC),
        None,
    );
    let digest = message.eip712_signing_hash(&domain);
    let mut signature = key.sign_hash_sync(&digest).unwrap().as_bytes().to_vec();
    signature.extend(tail);
    let payload = json!({
        "signature": alloy::hex::encode_prefixed(signature),
        "authorization": {
            "from": from, "to": message.to, "value": message.value.to_string(), "validAfter": "0",
            "validBefore": message.validBefore.to_string(), "nonce": message.nonce,
        }
    });
    let payload = quittance_tests::payload_of(&requirements, Object::of(&payload).unwrap());
    quittance_tests::request(payload, &requirements)
}

fn in_a_minute() -> u64 {
    SystemClock.now().secs() + 60
}

/// A contract wallet of the buyer, with money.
async fn wallet(setting: &Setting, name: &str, arguments: impl SolValue) -> Address {
    let code = format!(
        "{}{}",
        hostile(name),
        alloy::hex::encode(arguments.abi_encode())
    );
    let wallet = setting.local.deploy(&code).await.unwrap();
    let money = U256::from(1_000_000);
    setting.local.mint(USDC, wallet, money).await.unwrap();
    wallet
}

fn id(setting: &Setting, request: &PaymentRequest) -> PaymentId {
    let exact = Exact::new(&Evm::new(setting.config()).unwrap());
    exact.decode(request, SystemClock.now()).unwrap().info().id
}

async fn hasty(setting: &Setting, change: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Engine {
    let config = setting.config();
    setting
        .engine_with(config, |builder| change(builder.timing(HASTY)))
        .await
}

fn settling(engine: &Engine, request: &PaymentRequest) -> JoinHandle<SettleResponse> {
    let (engine, request) = (engine.clone(), request.clone());
    tokio::spawn(async move { engine.settle(&request).await.unwrap() })
}

async fn refusal(engine: &Engine, request: &PaymentRequest) -> String {
    let verdict = engine.verify(request).await.unwrap();
    assert!(!verdict.is_valid);
    let answer = engine.settle(request).await.unwrap();
    assert!(
        !answer.success && answer.transaction.is_empty(),
        "{answer:?}"
    );
    assert_eq!(answer.error_reason, verdict.invalid_reason);
    answer.error_reason.unwrap()
}

async fn head(setting: &Setting) -> (u64, u64) {
    let block: Value = setting
        .local
        .rpc("eth_getBlockByNumber", ("latest", false))
        .await
        .unwrap();
    let number = |name: &str| {
        let number: U64 = serde_json::from_value(block[name].clone()).unwrap();
        number.to::<u64>()
    };
    (number("number"), number("timestamp"))
}

/// Makes a block this many seconds after the last one.
async fn mine_after(setting: &Setting, secs: u64) {
    let time = head(setting).await.1 + secs;
    let _: Option<Value> = setting
        .local
        .rpc("evm_setNextBlockTimestamp", (time,))
        .await
        .unwrap();
    setting.local.mine().await.unwrap();
}

/// The signature has the last block in which it is valid: the newest one, in which it is simulated,
/// and not the next one, in which it would be included.
#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_agrees_only_until_the_next_block_is_not_sent() {
    let setting = Setting::start().await;
    let buyer = Setting::buyer();
    let wallet = wallet(&setting, "WalletUntilBlock", buyer.address).await;
    let engine = setting.engine().await;
    let sent_before = setting.node.calls("eth_sendRawTransaction");
    let (newest, _) = head(&setting).await;
    for last in [newest, newest + 1] {
        let tail = U256::from(last).abi_encode();
        let request = payment(wallet, &buyer.signer, in_a_minute(), &tail);
        assert_eq!(refusal(&engine, &request).await, reason::SIGNATURE.code());
    }
    assert_eq!(setting.node.calls("eth_sendRawTransaction"), sent_before);
    let tail = U256::from(newest + 1000).abi_encode();
    let lasting = payment(wallet, &buyer.signer, in_a_minute(), &tail);
    assert!(engine.settle(&lasting).await.unwrap().success);
}

/// The same for a payment that is held.
#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_agrees_until_the_next_block_holds_nothing() {
    let setting = Setting::start().await;
    let buyer = Setting::buyer();
    let address = wallet(&setting, "WalletUntilBlock", buyer.address).await;
    let payer = Account { address, ..buyer };
    let evm = Evm::new(setting.config()).unwrap();
    let scheme = Arc::new(AuthCapture::new(&evm));
    let builder = setting.builder().await.chain(evm, vec![scheme]);
    let engine = builder.start().await.unwrap();
    let until_block = |last: u64| {
        let hold = Hold::of(&payer, 100);
        let mut payload = hold.payload();
        let signature = payload["signature"].as_str().unwrap();
        let tail = alloy::hex::encode(U256::from(last).abi_encode());
        payload["signature"] = json!(format!("{signature}{tail}"));
        hold.request(&payload)
    };
    let sent_before = setting.node.calls("eth_sendRawTransaction");
    let (newest, _) = head(&setting).await;
    for last in [newest, newest + 1] {
        let refused = refusal(&engine, &until_block(last)).await;
        assert_eq!(refused, auth_capture::reason::SIGNATURE.code());
    }
    assert_eq!(setting.node.calls("eth_sendRawTransaction"), sent_before);
    let lasting = until_block(newest + 1000);
    assert!(engine.settle(&lasting).await.unwrap().success);
}

/// A node that does not let a call set the block. Contract wallets are then simulated in the newest
/// block only, and can pay.
#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_pays_through_a_node_that_knows_no_later_block() {
    let setting = Setting::start().await;
    let buyer = Setting::buyer();
    let wallet = wallet(&setting, "Wallet", buyer.address).await;
    let engine = setting.engine().await;
    let request = payment(wallet, &buyer.signer, in_a_minute(), &[]);
    setting.node.rewrites("eth_call", |params, result| {
        let names_a_block = params.as_array().is_some_and(|params| params.len() > 2);
        if names_a_block { json!("0x") } else { result }
    });
    assert!(engine.settle(&request).await.unwrap().success);
}

/// A wallet can see which signer of the facilitator sends a transaction. So it is simulated as a
/// transaction of the signer that will send it.
#[tokio::test(flavor = "multi_thread")]
async fn wallet_is_simulated_with_its_real_sender() {
    let setting = Setting::start().await;
    let [first, second] = Setting::signers();
    let buyer = Setting::buyer();
    // The signer that the engine would not choose: it takes the first of several idle lanes.
    let parties = (buyer.address, second.address);
    let wallet = wallet(&setting, "WalletOfOneSender", parties).await;
    let mut config = setting.config();
    config.signers = vec![
        Arc::new(first.signer.clone()),
        Arc::new(second.signer.clone()),
    ];
    let engine = setting.engine_with(config, |builder| builder).await;
    let mut settled = 0;
    for _ in 0..6 {
        let request = payment(wallet, &buyer.signer, in_a_minute(), &[]);
        let answer = engine.settle(&request).await.unwrap();
        if answer.success {
            settled += 1;
        } else {
            let code = answer.error_reason.as_deref();
            assert_eq!(code, Some(reason::SIGNATURE.code()), "{answer:?}");
            assert_eq!(answer.transaction, "", "no gas is spent on it");
        }
    }
    assert!(settled > 0);
    assert_eq!(setting.sent(second.address).await, settled);
    assert_eq!(setting.sent(first.address).await, 0);
}

/// attacks.md 80: the first signer has no money. Contract wallets are simulated as transactions of
/// another signer.
#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_pays_although_the_first_signer_has_no_money() {
    let setting = Setting::start().await;
    let buyer = Setting::buyer();
    let rich = Setting::signers()[0].clone();
    let wallet = wallet(&setting, "WalletOfOneSender", (buyer.address, rich.address)).await;
    let mut config = setting.config();
    config.signers = vec![
        Arc::new(PrivateKeySigner::random()),
        Arc::new(rich.signer.clone()),
    ];
    let engine = setting.engine_with(config, |builder| builder).await;
    for _ in 0..2 {
        let request = payment(wallet, &buyer.signer, in_a_minute(), &[]);
        let answer = engine.settle(&request).await.unwrap();
        assert!(answer.success, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disabled_contract_wallets_cannot_pay() {
    let setting = Setting::start().await;
    let buyer = Setting::buyer();
    let wallet = wallet(&setting, "Wallet", buyer.address).await;
    let mut config = setting.config();
    config.contract_wallets = false;
    let engine = setting.engine_with(config, |builder| builder).await;
    let by_wallet = payment(wallet, &buyer.signer, in_a_minute(), &[]);
    assert_eq!(refusal(&engine, &by_wallet).await, reason::SIGNATURE.code());
    // An account with a delegation (EIP-7702), whose key has signed.
    let delegated = Local::accounts()[5].clone();
    let code = format!("ef0100{}", alloy::hex::encode(wallet));
    setting
        .local
        .set_code(delegated.address, &code)
        .await
        .unwrap();
    let by_delegated = payment(delegated.address, &delegated.signer, in_a_minute(), &[]);
    let refused = refusal(&engine, &by_delegated).await;
    assert_eq!(refused, reason::CONTRACT_WALLET_NOT_ALLOWED.code());
    let by_key = payment(buyer.address, &buyer.signer, in_a_minute(), &[]);
    assert!(engine.settle(&by_key).await.unwrap().success);
}

/// A chain with a block every twelve seconds. /verify and /settle refuse an authorization that
/// expires within two blocks.
#[tokio::test(flavor = "multi_thread")]
async fn authorization_that_expires_before_two_blocks_costs_no_gas() {
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let buyer = Setting::buyer();
    setting.local.set_mining(Mining::Manual).await.unwrap();
    for _ in 0..3 {
        mine_after(&setting, 12).await;
        let look = payment(buyer.address, &buyer.signer, in_a_minute() + 600, &[]);
        assert!(engine.verify(&look).await.unwrap().is_valid);
    }
    let (_, now) = head(&setting).await;
    for left in [7, 12, 23] {
        let late = payment(buyer.address, &buyer.signer, now + left, &[]);
        assert_eq!(
            refusal(&engine, &late).await,
            reason::VALID_BEFORE.code(),
            "{left}"
        );
    }
    assert_eq!(setting.node.calls("eth_sendRawTransaction"), 0);
    let in_time = payment(buyer.address, &buyer.signer, now + 30, &[]);
    assert!(engine.verify(&in_time).await.unwrap().is_valid);
}

/// A payment was valid when it was claimed. It waited in the lane until it had almost expired.
#[tokio::test(flavor = "multi_thread")]
async fn payment_that_expires_in_its_lane_is_not_sent() {
    let setting = Setting::start().await;
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let engine = hasty(&setting, |builder| builder.clock(clock.clone())).await;
    let buyer = Setting::buyer();
    let requests = [0, 1].map(|_| payment(buyer.address, &buyer.signer, in_a_minute(), &[]));
    let slow = Fate::Slow(Duration::from_millis(1200));
    setting.node.breaks("eth_sendRawTransaction", slow, 1);
    let first = settling(&engine, &requests[0]);
    until("the first is on its way", || async {
        setting.node.calls("eth_sendRawTransaction") == 1
    })
    .await;
    let second = settling(&engine, &requests[1]);
    let id = id(&setting, &requests[1]);
    until("the second waits", || async {
        engine.settlement(&id).await.unwrap().is_some()
    })
    .await;
    clock.advance(56);
    assert!(first.await.unwrap().success);
    let second = second.await.unwrap();
    let code = second.error_reason.as_deref();
    assert_eq!(code, Some(Reason::SETTLEMENT_EXPIRED.code()));
    assert_eq!(second.transaction, "");
    assert_eq!(setting.sent(Setting::signers()[0].address).await, 1);
}

/// A payer with money for one payment submits twenty at once. Each alone is covered.
#[tokio::test(flavor = "multi_thread")]
async fn open_payments_cannot_exceed_the_balance() {
    const COUNT: usize = 20;
    let setting = Setting::start().await;
    let payer = PrivateKeySigner::random();
    let money = U256::from(PRICE);
    setting
        .local
        .mint(USDC, payer.address(), money)
        .await
        .unwrap();
    let engine = hasty(&setting, |builder| builder).await;
    let requests: Vec<_> = (0..COUNT)
        .map(|_| payment(payer.address(), &payer, in_a_minute(), &[]))
        .collect();
    let answers = join_all(requests.iter().map(|request| engine.settle(request))).await;
    let mut settled = 0;
    for answer in &answers {
        match answer {
            Ok(answer) if answer.success => settled += 1,
            Ok(answer) => {
                let code = answer.error_reason.as_deref();
                assert_eq!(code, Some(reason::INSUFFICIENT_BALANCE.code()));
                assert_eq!(answer.transaction, "", "no gas is spent on it");
            }
            // The open payments may transfer nothing, so this is not a verdict against the next
            // one.
            Err(FacilitatorError::Fault(fault)) => {
                assert!(
                    fault.kind == FaultKind::Busy && fault.not_attempted,
                    "{fault}"
                );
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(settled, 1, "{answers:?}");
    assert_eq!(setting.sent(Setting::signers()[0].address).await, 1);
    assert_eq!(setting.received().await, Amount::from(PRICE));
    // On a retry, the chain itself shows that the money is gone.
    for (request, before) in requests.iter().zip(&answers) {
        if before.is_err() {
            let answer = engine.settle(request).await.unwrap();
            let code = answer.error_reason.as_deref();
            assert_eq!(code, Some(reason::INSUFFICIENT_BALANCE.code()));
        }
    }
}

/// A wallet that accepts in every simulation and fails when it is included. After five times in an
/// hour, no more gas is spent on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_payer_whose_transactions_keep_failing_is_not_served() {
    let setting = Setting::start().await;
    let buyer = Setting::buyer();
    let wallet = wallet(&setting, "Wallet", buyer.address).await;
    let code: String = setting
        .local
        .rpc("eth_getCode", (wallet, "latest"))
        .await
        .unwrap();
    let engine = hasty(&setting, |builder| builder).await;
    for at in 0..5 {
        setting.local.set_mining(Mining::Manual).await.unwrap();
        let request = payment(wallet, &buyer.signer, in_a_minute(), &[]);
        let settling = settling(&engine, &request);
        let id = id(&setting, &request);
        until("it was sent", || async {
            let known = engine.settlement(&id).await.unwrap();
            known.is_some_and(|known| known.transaction().is_some())
        })
        .await;
        until("the node has it", || async {
            setting.node.calls("eth_sendRawTransaction") > at
        })
        .await;
        setting.local.set_code(wallet, "00").await.unwrap();
        setting.local.mine().await.unwrap();
        setting.local.set_mining(Mining::Instant).await.unwrap();
        let answer = settling.await.unwrap();
        assert!(
            !answer.success && !answer.transaction.is_empty(),
            "{at}: {answer:?}"
        );
        setting.local.set_code(wallet, &code).await.unwrap();
    }
    let signer = Setting::signers()[0].address;
    let sent = setting.sent(signer).await;
    let again = payment(wallet, &buyer.signer, in_a_minute(), &[]);
    let refused = refusal(&engine, &again).await;
    assert_eq!(refused, Reason::TOO_MANY_FAILURES.code());
    assert_eq!(setting.sent(signer).await, sent);
    // The seller's other payers are served.
    let by_key = payment(buyer.address, &buyer.signer, in_a_minute(), &[]);
    assert!(engine.settle(&by_key).await.unwrap().success);
}

/// One payer fills a lane. Another payer's only payment still has its turn at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_payer_with_one_payment_does_not_wait_behind_one_with_many() {
    let setting = Setting::start().await;
    let mut config = setting.config();
    config.max_batch = 1;
    let engine = setting
        .engine_with(config, |builder| builder.timing(HASTY))
        .await;
    setting.local.set_mining(Mining::Manual).await.unwrap();
    let pay = |payer: Account| async move {
        let payer = ExactPayer::new(payer.signer);
        quittance_tests::pay(&payer, &Setting::requirements()).await
    };
    let greedy = join_all((0..40).map(|_| pay(Setting::buyer()))).await;
    let many: Vec<_> = greedy
        .iter()
        .map(|request| settling(&engine, request))
        .collect();
    until("the lane is full", || async {
        engine.in_progress() == 40 && setting.node.calls("eth_sendRawTransaction") >= 16
    })
    .await;
    let modest = pay(Local::accounts()[4].clone()).await;
    let one = settling(&engine, &modest);
    let id = id(&setting, &modest);
    until("it waits", || async {
        engine.settlement(&id).await.unwrap().is_some()
    })
    .await;
    setting.local.mine().await.unwrap();
    until("it was sent", || async {
        let known = engine.settlement(&id).await.unwrap().unwrap();
        known.transaction().is_some()
    })
    .await;
    let known = engine.settlement(&id).await.unwrap().unwrap();
    let sequence = known.transaction().unwrap().sequence;
    // One payment of the first payer may be out of the queue already. After that one and one more,
    // the other payer has its turn.
    assert!(
        sequence <= 16 + 2,
        "sent at place {sequence}, behind those that came first"
    );
    setting.local.set_mining(Mining::Instant).await.unwrap();
    setting.local.mine().await.unwrap();
    assert!(one.await.unwrap().success);
    for answer in join_all(many).await {
        assert!(answer.unwrap().success);
    }
}
