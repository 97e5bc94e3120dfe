//! A payer of channels against requirements and sellers of every kind, without a chain.

use std::fs;

use alloy::primitives::Address;
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use quittance_core::json::Json;

use super::super::channel::ChannelConfig;
use super::super::payload::{Act, DepositAct};
use super::*;

const PRICE: u128 = 10_000;
const NOW: Timestamp = Timestamp::from_secs(1_000_000);
const ASSET: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";

/// What a seller of channels requires.
fn terms() -> Value {
    json!({
        "scheme": "batch-settlement", "network": "eip155:84532", "amount": PRICE.to_string(),
        "maxTimeoutSeconds": 60, "asset": ASSET,
        "payTo": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "extra": {
            "name": "USDC", "version": "2", "withdrawDelay": 900,
            "receiverAuthorizer": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
        },
    })
}

fn requirements(terms: &Value) -> PaymentRequirements {
    Json::of(terms).unwrap().read("terms").unwrap()
}

/// The requirements with another field, by its JSON pointer.
fn with(pointer: &str, value: Value) -> PaymentRequirements {
    let mut terms = terms();
    match pointer.strip_prefix("/extra/") {
        Some(field) => terms["extra"][field] = value,
        None => *terms.pointer_mut(pointer).unwrap() = value,
    }
    requirements(&terms)
}

fn key() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap()
}

fn payer() -> ChannelPayer {
    ChannelPayer::new(key())
}

async fn pay(payer: &ChannelPayer) -> SignedPayment {
    payer.pay(&requirements(&terms()), None, NOW).await.unwrap()
}

fn max_of(payment: &SignedPayment) -> u128 {
    match Act::read(&payment.payload).unwrap() {
        Act::Deposit(act) => act.voucher.max_claimable,
        Act::Voucher(act) => act.voucher.max_claimable,
        Act::Refund(act) => act.voucher.max_claimable,
        other => panic!("{other:?}"),
    }
}

fn deposit_of(payment: &SignedPayment) -> Option<DepositAct> {
    match Act::read(&payment.payload).unwrap() {
        Act::Deposit(act) => Some(*act),
        _ => None,
    }
}

fn only_book(payer: &ChannelPayer) -> PayerBook {
    let [book] = payer.channels().try_into().unwrap();
    book
}

/// The server delivers, and says that it has charged this much.
async fn served(payer: &ChannelPayer, payment: &SignedPayment, charged: &str) {
    let mut receipt = SettleResponse::settled("eip155:84532", None, "");
    receipt.extra = Object::of(&json!({ "chargedAmount": charged })).ok();
    let outcome = PaymentOutcome::Served {
        receipt: Some(&receipt),
    };
    let own = requirements(&terms());
    let next = payer.observe(&own, &payment.payload, outcome).await;
    assert_eq!(next, Next::Keep);
}

/// A channel with a deposit, and one payment.
async fn opened() -> ChannelPayer {
    let payer = payer();
    let first = pay(&payer).await;
    served(&payer, &first, &PRICE.to_string()).await;
    payer
}

/// What a server shows when it refuses a payment: what it says it has charged, and the newest
/// voucher with its signature.
fn correction(id: &B256, charged: u128, max: u128, signature: &Bytes) -> PaymentRequirements {
    let mut terms = terms();
    terms["extra"]["channelState"] = json!({
        "channelId": id, "balance": (10 * PRICE).to_string(), "totalClaimed": "0",
        "withdrawRequestedAt": 0, "refundNonce": "0",
        "chargedCumulativeAmount": charged.to_string(),
    });
    terms["extra"]["voucherState"] = json!({
        "signedMaxClaimable": max.to_string(), "signature": signature,
    });
    requirements(&terms)
}

/// The signature of a voucher by a key.
fn signature(key: &PrivateKeySigner, id: &B256, max: u128) -> Bytes {
    let digest = voucher_digest(&domain_separator(84_532), id, max);
    let signature = key.sign_hash_sync(&digest).unwrap();
    Bytes::copy_from_slice(&signature.as_bytes())
}

async fn refused(
    payer: &ChannelPayer,
    payment: &SignedPayment,
    terms: PaymentRequirements,
) -> Next {
    let outcome = PaymentOutcome::Refused {
        terms: &[terms],
        receipt: None,
        presented_before: false,
    };
    let own = requirements(&self::terms());
    payer.observe(&own, &payment.payload, outcome).await
}

#[tokio::test]
async fn first_payment_opens_a_channel() {
    let payer = payer();
    let quote = payer.quote(&requirements(&terms())).unwrap();
    assert_eq!(quote.amount, Amount::from(PRICE as u64));
    assert_eq!(quote.locks, Amount::from(9 * PRICE as u64));
    let payment = pay(&payer).await;
    let act = deposit_of(&payment).unwrap();
    let expected = ChannelConfig {
        payer: key().address(),
        payer_authorizer: key().address(),
        receiver: "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
            .parse()
            .unwrap(),
        receiver_authorizer: "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
            .parse()
            .unwrap(),
        token: ASSET.parse().unwrap(),
        withdraw_delay: 900,
        salt: B256::ZERO,
    };
    assert_eq!(act.config, expected);
    assert_eq!(
        act.voucher.channel_id,
        expected.id(&domain_separator(84_532))
    );
    assert_eq!(
        (act.voucher.max_claimable, act.deposit.amount),
        (PRICE, 10 * PRICE)
    );
    assert_eq!(payment.expires, NOW.plus_secs(60));
    let valid_before = act.deposit.authorization.eip3009.unwrap().valid_before;
    assert_eq!(valid_before, U256::from(payment.expires.secs()));
    served(&payer, &payment, "4000").await;
    let next = pay(&payer).await;
    assert!(deposit_of(&next).is_none() && next.expires == Timestamp::NEVER);
    assert_eq!(max_of(&next), 4_000 + PRICE);
}

#[test]
fn requirements_that_do_not_bind_a_channel_are_not_quoted() {
    let payer = payer().with_withdraw_delay_max(86_400);
    let own = key().address().to_checksum(None);
    for (pointer, value, problem) in [
        (
            "/extra/receiverAuthorizer",
            Value::Null,
            "receiverAuthorizer is missing",
        ),
        (
            "/extra/receiverAuthorizer",
            json!(Address::ZERO),
            "receiverAuthorizer is missing",
        ),
        (
            "/extra/receiverAuthorizer",
            json!("0x12"),
            "receiverAuthorizer",
        ),
        ("/extra/withdrawDelay", json!(899), "900 to 86400 seconds"),
        (
            "/extra/withdrawDelay",
            json!(86_401),
            "900 to 86400 seconds",
        ),
        (
            "/extra/withdrawDelay",
            json!("soon"),
            "900 to 86400 seconds",
        ),
        ("/extra/voucherManager", json!("payer"), "voucherManager"),
        ("/extra/paymentFlow", json!("upfront"), "paymentFlow"),
        ("/extra/assetTransferMethod", json!("cash"), "cash"),
        ("/extra/name", json!("USD Coin"), "extra.name"),
        ("/payTo", json!(own), "the payer itself"),
        ("/amount", json!("0"), "nothing"),
        ("/amount", json!(U256::MAX.to_string()), "128 bits"),
        (
            "/asset",
            json!(Address::repeat_byte(9)),
            "does not know the asset",
        ),
    ] {
        let quote = payer.quote(&with(pointer, value.clone()));
        let error = quote.unwrap_err().to_string();
        assert!(error.contains(problem), "{pointer} {value}: {error}");
    }
    let other = payer.quote(&with("/scheme", json!("exact")));
    assert_eq!(other, Err(QuoteError::NotSupported));
    assert!(
        payer
            .quote(&with("/extra/withdrawDelay", json!("86400")))
            .is_ok()
    );
    assert!(
        payer
            .quote(&with("/extra/withdrawDelay", Value::Null))
            .is_ok()
    );
}

/// Other terms are another channel, with a deposit of its own within the limits.
#[tokio::test]
async fn other_terms_are_another_channel_within_the_same_limits() {
    let rules = DepositRules::new(10, "1", "0.15").unwrap();
    let payer = payer().with_deposits(rules);
    pay(&payer).await;
    let other = with("/extra/receiverAuthorizer", json!(Address::repeat_byte(8)));
    let payment = payer.pay(&other, None, NOW).await.unwrap();
    // What is left of the limit in all.
    let first = 10 * PRICE;
    assert_eq!(
        deposit_of(&payment).unwrap().deposit.amount,
        150_000 - first
    );
    let third = with("/extra/withdrawDelay", json!(901));
    let refused = payer.quote(&third).unwrap_err().to_string();
    assert!(refused.contains("limits of deposits"), "{refused}");
    assert_eq!(payer.channels().len(), 2);
}

#[tokio::test]
async fn asked_deposit_is_made_within_the_limits() {
    let asked = with("/extra/minDeposit", json!("250000"));
    let payment = payer().pay(&asked, None, NOW).await.unwrap();
    assert_eq!(deposit_of(&payment).unwrap().deposit.amount, 250_000);
    for asked in [json!("99000000000"), json!("$5"), json!(7), json!(null)] {
        let asked = with("/extra/minDeposit", asked);
        let payment = payer().pay(&asked, None, NOW).await.unwrap();
        assert!(deposit_of(&payment).unwrap().deposit.amount <= 1_000_000);
    }
}

/// A deposit without an answer comes again with the next payment: the chain takes it once.
#[tokio::test]
async fn deposit_without_an_answer_is_signed_once() {
    let payer = payer();
    let first = deposit_of(&pay(&payer).await).unwrap();
    let second = deposit_of(&pay(&payer).await).unwrap();
    let salt = |act: &DepositAct| act.deposit.authorization.eip3009.as_ref().unwrap().salt;
    assert_eq!(salt(&first), salt(&second));
    assert_eq!(first.voucher, second.voucher);
    // Once it has expired, only a node knows whether it was made.
    let late = NOW.plus_secs(60);
    let refused = payer.pay(&requirements(&terms()), None, late).await;
    assert!(matches!(refused, Err(PayerError::Chain(_))), "{refused:?}");
}

/// A seller claims a charge that was never signed for, or proves it with another key's voucher or
/// with one of another channel.
#[tokio::test]
async fn unproven_charge_is_not_believed() {
    let payer = opened().await;
    let payment = pay(&payer).await;
    let before = only_book(&payer);
    let id = before.channel_id;
    let lie = 5 * PRICE;
    let foreign = signature(&PrivateKeySigner::random(), &id, lie);
    let elsewhere = signature(&key(), &B256::repeat_byte(1), lie);
    let own = signature(&key(), &id, 2 * PRICE);
    let mut unsigned = correction(&id, lie, lie, &own);
    let mut extra = unsigned.extra.unwrap().tree();
    extra.remove("voucherState");
    unsigned.extra = Object::of(&extra).ok();
    for terms in [
        correction(&id, lie, lie, &foreign),
        correction(&id, lie, lie, &elsewhere),
        // Its signature is for less.
        correction(&id, lie, lie, &own),
        correction(&id, lie, 2 * PRICE, &own),
        correction(&B256::repeat_byte(1), lie, lie, &elsewhere),
        unsigned,
    ] {
        assert_eq!(refused(&payer, &payment, terms).await, Next::Keep);
        assert_eq!(only_book(&payer), before);
    }
    // The proof is right: another program with this key has signed it.
    let proven = signature(&key(), &id, lie);
    let terms = correction(&id, lie, lie, &proven);
    assert_eq!(refused(&payer, &payment, terms).await, Next::Replace);
    assert_eq!(max_of(&pay(&payer).await), lie + PRICE);
}

/// The seller keeps the voucher and refuses it, again and again.
#[tokio::test]
async fn seller_that_takes_vouchers_gets_one_price_each() {
    let payer = opened().await;
    for number in 2..=8 {
        let payment = pay(&payer).await;
        let max = max_of(&payment);
        assert_eq!(max, number * PRICE);
        let id = only_book(&payer).channel_id;
        let own = correction(&id, max, max, &signature(&key(), &id, max));
        assert_eq!(refused(&payer, &payment, own).await, Next::Used);
        assert_eq!(only_book(&payer).signed, max);
    }
}

/// Answers to a refund never make its payer sign for more, however often they come.
#[tokio::test]
async fn refund_is_signed_for_what_was_charged() {
    let payer = opened().await;
    let own = requirements(&terms());
    let id = only_book(&payer).channel_id;
    let refund = payer.reclaim(&own, NOW).await.unwrap().unwrap();
    assert_eq!(max_of(&refund), PRICE);
    let lie = correction(&id, 2 * PRICE, 2 * PRICE, &Bytes::from_static(&[1; 65]));
    assert_eq!(refused(&payer, &refund, lie).await, Next::Keep);
    // A payment that was lost counts once its voucher is shown.
    let lost = pay(&payer).await;
    let shown = signature(&key(), &id, max_of(&lost));
    let terms = correction(&id, 2 * PRICE, 2 * PRICE, &shown);
    assert_eq!(refused(&payer, &refund, terms.clone()).await, Next::Replace);
    for _ in 0..5 {
        let refund = payer.reclaim(&own, NOW).await.unwrap().unwrap();
        assert_eq!(max_of(&refund), 2 * PRICE);
        assert_eq!(refused(&payer, &refund, terms.clone()).await, Next::Keep);
    }
    assert_eq!(only_book(&payer).signed, 2 * PRICE);
}

/// A seller that only says that it has paid back could have deposits repeated without end.
#[tokio::test]
async fn refunds_without_a_proof_use_up_the_limits() {
    let payer = opened().await;
    let own = requirements(&terms());
    let mut deposited = 10 * PRICE;
    loop {
        let Some(refund) = payer.reclaim(&own, NOW).await.unwrap() else {
            // The last deposit was for one payment.
            break;
        };
        let mut receipt = SettleResponse::settled("eip155:84532", None, "0x1");
        receipt.amount = Some((100 * PRICE).to_string());
        let outcome = PaymentOutcome::Served {
            receipt: Some(&receipt),
        };
        payer.observe(&own, &refund.payload, outcome).await;
        assert_eq!(payer.reclaim(&own, NOW).await.unwrap(), None);
        let payment = pay(&payer).await;
        deposited += deposit_of(&payment).unwrap().deposit.amount;
        served(&payer, &payment, &PRICE.to_string()).await;
    }
    // From now on, nothing is locked up besides a price.
    assert_eq!(payer.quote(&own).unwrap().locks, Amount::ZERO);
    let book = only_book(&payer);
    assert!(deposited - book.charged <= 1_000_000, "{deposited}");
}

#[tokio::test]
async fn books_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    let open = || payer().in_folder(&path).unwrap();
    let first = open();
    let payment = pay(&first).await;
    let before = only_book(&first);
    drop(first);
    // The payment has left, and its outcome is not known.
    let second = open();
    assert_eq!(only_book(&second), before);
    let again = pay(&second).await;
    assert_eq!(max_of(&again), max_of(&payment));
    served(&second, &again, &PRICE.to_string()).await;
    drop(second);
    let third = open();
    assert_eq!(max_of(&pay(&third).await), 2 * PRICE);
    // The first payment was not charged: another one was in its place.
    let state = third.authorization_state("eip155:84532", ASSET, &payment.payload, NOW);
    assert_eq!(
        state.await,
        AuthorizationState::Unknown,
        "only a node knows the deposit"
    );
}

/// A deposit that no file remembers would be lost.
#[tokio::test]
async fn unreadable_books_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let open = || payer().in_folder(folder.path());
    pay(&open().unwrap()).await;
    let [book] = read_books(folder.path()).unwrap().try_into().unwrap();
    let path = folder.path().join(format!("{}.json", book.channel_id));
    for odd in ["", "{}", "nonsense"] {
        fs::write(&path, odd).unwrap();
        let problem = open().unwrap_err();
        assert!(
            matches!(problem, BooksError::Unreadable { .. }),
            "{problem}"
        );
        assert!(problem.to_string().contains(&book.channel_id.to_string()));
    }
    // What a crash left of a write is no book.
    fs::write(path.with_extension("new"), "{").unwrap();
    fs::remove_file(&path).unwrap();
    assert!(open().unwrap().channels().is_empty());
}

/// A key that never signs, or only sometimes, as one behind a service.
struct OddKey {
    key: PrivateKeySigner,
    /// How many signatures it still makes; then it fails.
    left: std::sync::atomic::AtomicUsize,
    /// Whether it lets other tasks run before each one.
    is_slow: bool,
}

impl OddKey {
    fn new(left: usize, is_slow: bool) -> Self {
        let left = left.into();
        Self {
            key: key(),
            left,
            is_slow,
        }
    }
}

#[async_trait]
impl Signer for OddKey {
    async fn sign_hash(&self, hash: &B256) -> alloy::signers::Result<alloy::primitives::Signature> {
        if self.is_slow {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
        let left = self.left.fetch_update(
            std::sync::atomic::Ordering::SeqCst,
            std::sync::atomic::Ordering::SeqCst,
            |left| left.checked_sub(1),
        );
        match left {
            Ok(_) => self.key.sign_hash(hash).await,
            Err(_) => Err(alloy::signers::Error::other("the key service is down")),
        }
    }

    fn address(&self) -> Address {
        self.key.address()
    }

    fn chain_id(&self) -> Option<u64> {
        None
    }

    fn set_chain_id(&mut self, _: Option<u64>) {}
}

/// Each of the first payments to many sellers once saw the same room for its deposit.
#[tokio::test]
async fn parallel_deposits_share_the_limit_in_all() {
    let rules = DepositRules::new(10, "1", "0.25").unwrap();
    for with_turns in [false, true] {
        let payer = ChannelPayer::new(OddKey::new(usize::MAX, true)).with_deposits(rules);
        let pays = (0..20_u64).map(|number| {
            let payer = payer.clone();
            let own = with("/extra/withdrawDelay", json!(900 + number));
            async move {
                let _turn = match with_turns {
                    true => Some(payer.turn(&own).await),
                    false => None,
                };
                payer.pay(&own, None, NOW).await.ok()
            }
        });
        let paid = futures_util::future::join_all(pays).await;
        let paid = paid.iter().flatten();
        let deposits = paid.filter_map(deposit_of).map(|act| act.deposit.amount);
        assert_eq!(deposits.sum::<u128>(), 250_000, "{with_turns}");
    }
}

/// The deposit was once computed again after the quote, and could be larger.
#[tokio::test]
async fn payment_deposits_what_its_turn_quoted() {
    let rules = DepositRules::new(10, "1", "0.15").unwrap();
    let payer = payer().with_deposits(rules);
    let first = pay(&payer).await;
    let other = with("/extra/withdrawDelay", json!(901));
    let turn = payer.turn(&other).await;
    let quote = payer.quote(&other).unwrap();
    assert_eq!(quote.locks, Amount::from(40_000));
    // There is more room now.
    served(&payer, &first, &PRICE.to_string()).await;
    assert_eq!(payer.quote(&other), Ok(quote));
    let payment = payer.pay(&other, None, NOW).await.unwrap();
    assert_eq!(deposit_of(&payment).unwrap().deposit.amount, 50_000);
    drop(turn);
}

/// A payment that did not leave once left its deposit in the book, which blocked the channel.
#[tokio::test]
async fn payment_that_fails_to_sign_leaves_nothing_behind() {
    // The deposit is signed, and the voucher is not.
    let payer = ChannelPayer::new(OddKey::new(1, false));
    let own = requirements(&terms());
    let refused = payer.pay(&own, None, NOW).await;
    assert!(
        matches!(refused, Err(PayerError::Signing(_))),
        "{refused:?}"
    );
    let book = only_book(&payer);
    assert_eq!((book.locked(), book.signed, &book.deposit), (0, 0, &None));
    // The caller stops waiting.
    let payer = ChannelPayer::new(OddKey::new(usize::MAX, true));
    let mut paying = payer.pay(&own, None, NOW);
    assert!(futures_util::poll!(paying.as_mut()).is_pending());
    drop(paying);
    let book = only_book(&payer);
    assert_eq!((book.locked(), book.signed, &book.deposit), (0, 0, &None));
    assert_eq!(payer.quote(&own).unwrap().locks, Amount::from(90_000));
}

/// Nothing is signed that a later process would not know.
#[tokio::test]
async fn payer_that_cannot_write_its_books_signs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("books");
    let payer = payer().in_folder(&path).unwrap();
    fs::remove_dir_all(&path).unwrap();
    let refused = payer.pay(&requirements(&terms()), None, NOW).await;
    assert!(matches!(refused, Err(PayerError::Books(_))), "{refused:?}");
    assert_eq!(only_book(&payer).deposit, None);
}

#[cfg(unix)]
#[tokio::test]
async fn only_their_owner_reads_the_books() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("books");
    let payer = payer().in_folder(&path).unwrap();
    pay(&payer).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for entry in fs::read_dir(&path).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

/// Turns: two payments of one channel wait for each other, those of two channels do not.
#[tokio::test]
async fn channel_gives_one_turn_at_a_time() {
    let payer = payer();
    let own = requirements(&terms());
    let other = with("/extra/withdrawDelay", json!(901));
    let turn = payer.turn(&own).await;
    let _other = payer.turn(&other).await;
    let second = payer.turn(&own);
    futures_util::pin_mut!(second);
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    drop(turn);
    assert!(futures_util::poll!(second).is_ready());
}
