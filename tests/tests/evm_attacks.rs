//! What a payer, a token or a caller may try on an EVM chain, with real contracts on a real node.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::time::Duration;

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol;
use alloy::sol_types::{Eip712Domain, SolCall, SolStruct, SolValue, eip712_domain};
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, SettleResponse};
use quittance_core::{Amount, Clock, Facilitator, PaymentRequest, SystemClock};
use quittance_devnet::{Evm as Local, Mining, USDC};
use quittance_engine::{Engine, Timing};
use quittance_evm::{Token, reason};
use quittance_tests::contracts::hostile;
use quittance_tests::evm::{PRICE, Setting, wrap};
use quittance_tests::until;
use serde_json::json;

sol! {
    struct TransferWithAuthorization {
        address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce;
    }
    function mint(address to, uint256 value) external;
    function call(address to, bytes data) external;
    function transfer(address to, uint256 amount) external returns (bool);
    function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external;
}

/// An unused nonce: a new key's address.
fn nonce() -> B256 {
    PrivateKeySigner::random().address().into_word()
}

/// The EIP-712 domain of a token of version 2.
fn domain(name: &'static str, chain_id: u64, contract: Address) -> Eip712Domain {
    Eip712Domain::new(
        Some(name.into()),
        Some("2".into()),
        Some(U256::from(chain_id)),
        Some(contract),
        None,
    )
}

/// Signs a payment of `from`, which may be a contract, with any key.
fn payment(
    from: Address,
    key: &PrivateKeySigner,
    requirements: &PaymentRequirements,
) -> PaymentRequest {
    let message = TransferWithAuthorization {
        from,
        to: requirements.pay_to.parse().unwrap(),
        value: requirements.amount.parse().unwrap(),
        validAfter: U256::ZERO,
        validBefore: U256::from(SystemClock.now().secs() + 60),
        nonce: nonce(),
    };
    let extra = requirements.extra.as_ref().unwrap().tree();
    let domain = eip712_domain! {
        name: extra["name"].as_str().unwrap().to_owned(),
        version: extra["version"].as_str().unwrap().to_owned(),
        chain_id: 84532,
        verifying_contract: requirements.asset.parse().unwrap(),
    };
    let signature = key
        .sign_hash_sync(&message.eip712_signing_hash(&domain))
        .unwrap();
    with_signature(&message, &signature.as_bytes(), requirements)
}

fn with_signature(
    message: &TransferWithAuthorization,
    signature: &[u8],
    requirements: &PaymentRequirements,
) -> PaymentRequest {
    let payload = json!({
        "signature": alloy::hex::encode_prefixed(signature),
        "authorization": {
            "from": message.from, "to": message.to, "value": message.value.to_string(),
            "validAfter": message.validAfter.to_string(), "validBefore": message.validBefore.to_string(), "nonce": message.nonce,
        }
    });
    let payload = quittance_tests::payload_of(requirements, Object::of(&payload).unwrap());
    quittance_tests::request(payload, requirements)
}

/// A contract wallet of the buyer, with money.
async fn wallet(setting: &Setting, name: &str) -> Address {
    let owner = Setting::buyer().address;
    let code = format!(
        "{}{}",
        hostile(name),
        alloy::hex::encode(owner.abi_encode())
    );
    let wallet = setting.local.deploy(&code).await.unwrap();
    setting
        .local
        .mint(USDC, wallet, U256::from(1_000_000))
        .await
        .unwrap();
    wallet
}

async fn reason_of(engine: &Engine, request: &PaymentRequest) -> String {
    let verdict = engine.verify(request).await.unwrap();
    assert!(!verdict.is_valid);
    let outcome = engine.settle(request).await.unwrap();
    assert!(!outcome.success);
    assert_eq!(outcome.error_reason, verdict.invalid_reason);
    assert_eq!(
        outcome.transaction, "",
        "no gas is spent on what is refused"
    );
    verdict.invalid_reason.unwrap()
}

async fn settled(engine: &Engine, request: &PaymentRequest) -> SettleResponse {
    assert!(engine.verify(request).await.unwrap().is_valid);
    let answer = engine.settle(request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn deployed_contract_wallet_can_pay() {
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let wallet = wallet(&setting, "Wallet").await;
    let requirements = Setting::requirements();
    let answer = settled(
        &engine,
        &payment(wallet, &Setting::buyer().signer, &requirements),
    )
    .await;
    assert_eq!(answer.payer, Some(wallet.to_checksum(None)));
    assert_eq!(setting.received().await, Amount::from(PRICE));
    // The key of an account that is not the owner.
    let stranger = payment(wallet, &Setting::seller().signer, &requirements);
    assert_eq!(
        reason_of(&engine, &stranger).await,
        reason::SIGNATURE.code()
    );
}

/// attacks.md 36 and 39: the code of an account decides, and its key's signature does not count.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_code_never_falls_back_to_its_key() {
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let buyer = Setting::buyer();
    let request = payment(buyer.address, &buyer.signer, &Setting::requirements());
    assert!(engine.verify(&request).await.unwrap().is_valid);
    // EIP-7702: the account delegates to a wallet without an owner.
    let delegate = setting
        .local
        .deploy(&format!(
            "{}{}",
            hostile("Wallet"),
            alloy::hex::encode(Address::ZERO.abi_encode())
        ))
        .await
        .unwrap();
    let delegation = format!("ef0100{}", alloy::hex::encode(delegate));
    setting
        .local
        .set_code(buyer.address, &delegation)
        .await
        .unwrap();
    assert_eq!(reason_of(&engine, &request).await, reason::SIGNATURE.code());
    // The delegation is set and the code accepts, so the contract decides.
    setting.local.set_code(buyer.address, "").await.unwrap();
    settled(&engine, &request).await;
}

/// attacks.md 32: a wallet that can distinguish a simulation from a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn wallet_that_detects_simulation_is_not_believed() {
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let wallet = wallet(&setting, "WalletThatTellsSimulations").await;
    let request = payment(wallet, &Setting::buyer().signer, &Setting::requirements());
    assert_eq!(reason_of(&engine, &request).await, reason::SIGNATURE.code());
    assert_eq!(setting.node.calls("eth_sendRawTransaction"), 0);
}

/// attacks.md 33 and 34: wallets that burn gas, return too much data, or return almost the right
/// word.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_wallet_answer_is_no_signature_and_harms_no_other() {
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let requirements = Setting::requirements();
    for name in [
        "WalletThatBurnsGas",
        "WalletWithDirt",
        "WalletThatIsShort",
        "WalletThatReverts",
    ] {
        let wallet = wallet(&setting, name).await;
        let bad = payment(wallet, &Setting::buyer().signer, &requirements);
        let good = Setting::request().await;
        let (verdict, neighbour) = tokio::join!(engine.verify(&bad), engine.verify(&good));
        assert_eq!(
            verdict.unwrap().invalid_reason.as_deref(),
            Some(reason::SIGNATURE.code()),
            "{name}"
        );
        assert!(neighbour.unwrap().is_valid, "{name}");
        assert_eq!(
            reason_of(&engine, &bad).await,
            reason::SIGNATURE.code(),
            "{name}"
        );
    }
    // The right word with 60,000 bytes after it. The token decides whether that counts, so the
    // facilitator simulates instead of copying the rule.
    let wallet = wallet(&setting, "WalletThatFloods").await;
    let flood = payment(wallet, &Setting::buyer().signer, &requirements);
    assert!(!engine.verify(&flood).await.unwrap().is_valid);
}

/// attacks.md 35: a wallet that gives another answer at /settle than at /verify.
#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_is_asked_again_before_it_settles() {
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let wallet = wallet(&setting, "Wallet").await;
    let request = payment(wallet, &Setting::buyer().signer, &Setting::requirements());
    assert!(engine.verify(&request).await.unwrap().is_valid);
    setting.local.set_code(wallet, "00").await.unwrap();
    assert!(!engine.settle(&request).await.unwrap().success);
    assert_eq!(setting.node.calls("eth_sendRawTransaction"), 0);
}

/// attacks.md 25 to 29: ERC-6492 wrappers.
#[tokio::test(flavor = "multi_thread")]
async fn wrapped_signature_is_accepted_only_for_deployed_accounts() {
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let (requirements, buyer) = (Setting::requirements(), Setting::buyer());
    let wrapped = |from: Address, factory: Address| {
        let plain = payment(from, &buyer.signer, &requirements);
        let tree: serde_json::Value = serde_json::from_str(plain.payload.text()).unwrap();
        let inner = alloy::hex::decode(tree["signature"].as_str().unwrap()).unwrap();
        let drain = transferCall {
            to: Setting::seller().address,
            amount: U256::from(1),
        }
        .abi_encode();
        let signature = wrap(factory, &drain, &inner);
        let mut payload = plain.payload.tree();
        payload.insert(
            "signature".to_owned(),
            json!(alloy::hex::encode_prefixed(signature)),
        );
        quittance_tests::request(
            quittance_tests::payload_of(&requirements, Object::of(&payload).unwrap()),
            &requirements,
        )
    };
    let deployed = wallet(&setting, "Wallet").await;
    settled(&engine, &wrapped(deployed, Address::repeat_byte(9))).await;
    // The "factory" is the token, and the "deployment" is a transfer out of the facilitator's
    // account.
    for from in [
        Address::repeat_byte(0x44),
        PrivateKeySigner::random().address(),
    ] {
        assert_eq!(
            reason_of(&engine, &wrapped(from, USDC)).await,
            reason::FACTORY_NOT_ALLOWED.code()
        );
    }
    assert_eq!(setting.received().await, Amount::from(PRICE));
}

/// A token of the tests, in the operator's list.
async fn with_token(
    setting: &Setting,
    name: &str,
    logs_in_order: bool,
) -> (Engine, PaymentRequirements) {
    let address = setting.local.deploy(hostile(name)).await.unwrap();
    let token = Token::new(address, "Coin", "1", "COIN", 6);
    let token = token.with_logs_authorization_first(logs_in_order);
    let mut config = setting.config();
    config.tokens.push(token);
    let engine = setting.engine_with(config, |builder| builder).await;
    let mint = mintCall {
        to: Setting::buyer().address,
        value: U256::from(1_000_000),
    };
    setting
        .local
        .send(Local::accounts()[9].address, address, mint.abi_encode())
        .await
        .unwrap();
    let mut requirements = Setting::requirements();
    requirements.asset = address.to_checksum(None);
    requirements.extra = Some(Object::of(&json!({ "name": "Coin", "version": "1" })).unwrap());
    (engine, requirements)
}

async fn outcome_with(name: &str) -> SettleResponse {
    outcome_with_listed(name, false).await
}

async fn outcome_with_listed(name: &str, logs_in_order: bool) -> SettleResponse {
    let setting = Setting::start().await;
    let (engine, requirements) = with_token(&setting, name, logs_in_order).await;
    let request = payment(
        Setting::buyer().address,
        &Setting::buyer().signer,
        &requirements,
    );
    engine.settle(&request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_added_by_configuration_alone_settles() {
    assert!(outcome_with("Token").await.success);
}

/// attacks.md 60 to 62 and pains A13: the receipt has status success, and the money was not
/// transferred.
#[tokio::test(flavor = "multi_thread")]
async fn success_needs_the_transfer_and_not_only_a_receipt() {
    for name in [
        "TokenWithFee",
        "TokenThatDoesNothing",
        "TokenThatSaysItTwice",
        "TokenThatLies",
    ] {
        let outcome = outcome_with(name).await;
        assert_eq!(
            (outcome.success, outcome.error_reason.as_deref()),
            (false, Some(reason::TRANSFER_EVENT_MISMATCH.code())),
            "{name}"
        );
        assert_ne!(
            outcome.transaction, "",
            "{name}: a transaction's id is never dropped"
        );
    }
}

/// A token is listed as logging AuthorizationUsed right before its Transfer, as Circle's does. If
/// it does not, the order proves nothing, and no success is reported.
#[tokio::test(flavor = "multi_thread")]
async fn token_with_another_log_order_than_listed_is_not_believed() {
    for (name, logs_in_order, success) in [
        ("Token", true, true),
        ("Token", false, true),
        ("TokenThatLogsTheTransferFirst", false, true),
        ("TokenThatLogsTheTransferFirst", true, false),
        ("TokenThatDoesNothing", true, false),
    ] {
        let outcome = outcome_with_listed(name, logs_in_order).await;
        assert_eq!(
            outcome.success, success,
            "{name}, {logs_in_order}: {outcome:?}"
        );
        if !success {
            let code = outcome.error_reason.as_deref();
            assert_eq!(code, Some(reason::TRANSFER_EVENT_MISMATCH.code()), "{name}");
        }
    }
}

/// Equal payments in one transaction cannot be distinguished if the token's order of logs is
/// unknown.
#[tokio::test(flavor = "multi_thread")]
async fn equal_payments_without_known_log_order_are_sent_alone() {
    const COUNT: u64 = 5;
    for name in ["Token", "TokenThatLogsTheTransferFirst"] {
        let setting = Setting::start().await;
        let (engine, requirements) = with_token(&setting, name, false).await;
        let buyer = Setting::buyer();
        let requests: Vec<_> = (0..COUNT)
            .map(|_| payment(buyer.address, &buyer.signer, &requirements))
            .collect();
        let slow = quittance_tests::proxy::Fate::Slow(Duration::from_millis(1200));
        setting.node.breaks("eth_sendRawTransaction", slow, 1);
        let answers = requests.iter().map(|request| engine.settle(request));
        for answer in futures_util::future::join_all(answers).await {
            assert!(
                answer.as_ref().is_ok_and(|answer| answer.success),
                "{answer:?}"
            );
        }
        let sent = setting.sent(Setting::signers()[0].address).await;
        assert_eq!(sent, COUNT, "{name}");
    }
}

/// attacks.md 59 and 63.
#[tokio::test(flavor = "multi_thread")]
async fn token_that_fails_the_simulation_gets_no_transaction() {
    let without = outcome_with("TokenWithoutAuthorizations").await;
    assert_eq!(
        (
            without.error_reason.as_deref(),
            without.transaction.as_str()
        ),
        (Some(reason::EIP3009_NOT_SUPPORTED.code()), "")
    );
    let paused = outcome_with("TokenThatIsPaused").await;
    assert_eq!(
        (paused.error_reason.as_deref(), paused.transaction.as_str()),
        (Some(reason::SIMULATION_FAILED.code()), "")
    );
    assert!(paused.error_message.unwrap().contains("Coin: paused"));
}

/// attacks.md 58.
#[tokio::test(flavor = "multi_thread")]
async fn token_without_code_gets_no_transaction() {
    let setting = Setting::start().await;
    let (engine, requirements) = with_token(&setting, "Token", false).await;
    let request = payment(
        Setting::buyer().address,
        &Setting::buyer().signer,
        &requirements,
    );
    setting
        .local
        .set_code(requirements.asset.parse().unwrap(), "")
        .await
        .unwrap();
    assert_eq!(
        reason_of(&engine, &request).await,
        reason::ASSET_NOT_DEPLOYED.code()
    );
}

/// attacks.md 63: the payer is on the token's blacklist.
#[tokio::test(flavor = "multi_thread")]
async fn a_blacklisted_payer_is_refused_before_gas_is_spent() {
    sol! { function blacklist(address account) external; }
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let block = blacklistCall {
        account: Setting::buyer().address,
    };
    setting
        .local
        .send(Local::accounts()[9].address, USDC, block.abi_encode())
        .await
        .unwrap();
    let request = Setting::request().await;
    assert_eq!(
        reason_of(&engine, &request).await,
        reason::SIMULATION_FAILED.code()
    );
}

/// attacks.md 110: the payer cancels between verify and settle.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_authorization_is_used() {
    sol! { struct CancelAuthorization { address authorizer; bytes32 nonce; } }
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let buyer = Setting::buyer();
    let request = payment(buyer.address, &buyer.signer, &Setting::requirements());
    assert!(engine.verify(&request).await.unwrap().is_valid);
    let nonce: B256 = request.payload.tree()["authorization"]["nonce"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let domain = domain("USDC", 84532, USDC);
    let cancel = CancelAuthorization {
        authorizer: buyer.address,
        nonce,
    };
    let signature = buyer
        .signer
        .sign_hash_sync(&cancel.eip712_signing_hash(&domain))
        .unwrap();
    let call = cancelAuthorizationCall {
        authorizer: buyer.address,
        nonce,
        v: 27 + u8::from(signature.v()),
        r: signature.r().into(),
        s: signature.s().into(),
    };
    setting
        .local
        .send(buyer.address, USDC, call.abi_encode())
        .await
        .unwrap();
    assert_eq!(
        reason_of(&engine, &request).await,
        reason::NONCE_ALREADY_USED.code()
    );
}

/// attacks.md 24: signatures over other messages of the same token are not authorizations.
#[tokio::test(flavor = "multi_thread")]
async fn a_signature_over_another_message_authorizes_nothing() {
    sol! {
        struct ReceiveWithAuthorization {
            address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce;
        }
    }
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let (buyer, requirements) = (Setting::buyer(), Setting::requirements());
    let message = TransferWithAuthorization {
        from: buyer.address,
        to: Setting::seller().address,
        value: U256::from(PRICE),
        validAfter: U256::ZERO,
        validBefore: U256::from(SystemClock.now().secs() + 60),
        nonce: nonce(),
    };
    let receive = ReceiveWithAuthorization {
        from: message.from,
        to: message.to,
        value: message.value,
        validAfter: message.validAfter,
        validBefore: message.validBefore,
        nonce: message.nonce,
    };
    let right = domain("USDC", 84532, USDC);
    // attacks.md 22: the right message in the wrong domain.
    let wrong_chain = domain("USDC", 8453, USDC);
    let wrong_contract = domain("USDC", 84532, Address::ZERO);
    let wrong_name = domain("USD Coin", 84532, USDC);
    for digest in [
        receive.eip712_signing_hash(&right),
        message.eip712_signing_hash(&wrong_chain),
        message.eip712_signing_hash(&wrong_contract),
        message.eip712_signing_hash(&wrong_name),
        keccak256(message.eip712_signing_hash(&right)),
    ] {
        let signature = buyer.signer.sign_hash_sync(&digest).unwrap().as_bytes();
        let request = with_signature(&message, &signature, &requirements);
        assert_eq!(reason_of(&engine, &request).await, reason::SIGNATURE.code());
    }
    let digest = message.eip712_signing_hash(&right);
    let mut signature = buyer.signer.sign_hash_sync(&digest).unwrap().as_bytes();
    // attacks.md 15: v may be 0 or 1 in the payload; the token gets 27 or 28.
    signature[64] -= 27;
    settled(
        &engine,
        &with_signature(&message, &signature, &requirements),
    )
    .await;
}

/// attacks.md 56: each payer has its own nonces.
#[tokio::test(flavor = "multi_thread")]
async fn two_payers_may_use_one_nonce() {
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let requirements = Setting::requirements();
    let nonce = B256::repeat_byte(0x11);
    let domain = domain("USDC", 84532, USDC);
    for at in [2, 3, 4] {
        let payer = Local::accounts()[at].clone();
        let message = TransferWithAuthorization {
            from: payer.address,
            to: Setting::seller().address,
            value: U256::from(PRICE),
            validAfter: U256::ZERO,
            validBefore: U256::from(SystemClock.now().secs() + 60),
            nonce,
        };
        let signature = payer
            .signer
            .sign_hash_sync(&message.eip712_signing_hash(&domain))
            .unwrap();
        settled(
            &engine,
            &with_signature(&message, &signature.as_bytes(), &requirements),
        )
        .await;
    }
}

/// attacks.md 64: the balance was sufficient when it was read.
#[tokio::test(flavor = "multi_thread")]
async fn balance_spent_before_settlement_costs_bounded_gas() {
    let setting = Setting::start().await;
    let hasty = Timing::new().with_look_every(Duration::from_millis(50));
    let engine = setting
        .engine_with(setting.config(), |builder| builder.timing(hasty))
        .await;
    let payer = Local::accounts()[4].clone();
    let request = payment(payer.address, &payer.signer, &Setting::requirements());
    setting.local.set_mining(Mining::Manual).await.unwrap();
    let settling = tokio::spawn({
        let (engine, request) = (engine.clone(), request.clone());
        async move { engine.settle(&request).await.unwrap() }
    });
    until("it was sent", || async {
        setting.node.calls("eth_sendRawTransaction") > 0
    })
    .await;
    let all = setting.local.balance(USDC, payer.address).await.unwrap();
    let drain = transferCall {
        to: Address::repeat_byte(0xaa),
        amount: all,
    }
    .abi_encode();
    let first = json!([{ "from": payer.address, "to": USDC, "data": alloy::hex::encode_prefixed(drain),
        "maxFeePerGas": "0xd18c2e2800", "maxPriorityFeePerGas": "0xba43b74000" }]);
    let _: B256 = setting
        .local
        .rpc("eth_sendTransaction", first)
        .await
        .unwrap();
    setting.local.mine().await.unwrap();
    setting.local.set_mining(Mining::Instant).await.unwrap();
    let outcome = settling.await.unwrap();
    assert_eq!(
        (outcome.success, outcome.error_reason.as_deref()),
        (false, Some(reason::INSUFFICIENT_BALANCE.code()))
    );
    let receipt: serde_json::Value = setting
        .local
        .rpc("eth_getTransactionReceipt", (outcome.transaction,))
        .await
        .unwrap();
    let gas: U256 = serde_json::from_value(receipt["gasUsed"].clone()).unwrap();
    assert!(gas < U256::from(100_000));
    // When the payer has money again, the same authorization may be tried again.
    setting
        .local
        .mint(USDC, payer.address, U256::from(PRICE))
        .await
        .unwrap();
    assert!(engine.settle(&request).await.unwrap().success);
}

/// Circle's proxy delegates. A wallet's call cannot reach the facilitator's own account through the
/// probe.
#[tokio::test(flavor = "multi_thread")]
async fn a_simulation_changes_nothing_for_the_next_one() {
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let payer = Local::accounts()[4].clone();
    let all = setting.local.balance(USDC, payer.address).await.unwrap();
    // Each payment takes the payer's whole balance, and each alone is valid.
    let mut requirements = Setting::requirements();
    requirements.amount = all.to_string();
    let requests: Vec<_> = (0..10)
        .map(|_| payment(payer.address, &payer.signer, &requirements))
        .collect();
    let verdicts =
        futures_util::future::join_all(requests.iter().map(|request| engine.verify(request))).await;
    assert!(
        verdicts
            .iter()
            .all(|verdict| verdict.as_ref().is_ok_and(|verdict| verdict.is_valid)),
        "{verdicts:?}"
    );
    // Together they are not valid: one settles.
    let answers =
        futures_util::future::join_all(requests.iter().map(|request| engine.settle(request))).await;
    let reported = answers
        .iter()
        .filter(|answer| answer.as_ref().is_ok_and(|answer| answer.success))
        .count();
    assert_eq!(reported, 1, "{answers:?}");
}
