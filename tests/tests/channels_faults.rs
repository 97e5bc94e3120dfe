//! What a seller's channels do when the facilitator behind them has no answer or no outcome, or
//! when a payer changes while it is served: nothing is claimed twice, and no fault stops the rest.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use alloy::primitives::{Address, B256};
use async_trait::async_trait;
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use quittance_core::json::Object;
use quittance_core::wire::{SettleResponse, SupportedResponse, VerifyResponse};
use quittance_core::{
    Facilitator, FacilitatorError, Fault, FaultKind, Malformed, ManualClock, PaymentRequest,
    Reason, Timestamp,
};
use quittance_evm::batch::{
    ChannelConfig, ChannelState, Channels, ClaimRow, domain_separator, reason,
};
use quittance_tests::channel_shop::{deposit, refund, voucher};
use quittance_tests::channels::{Channel, request};
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::open_journal;
use quittance_verify::VerifierQueue;
use serde_json::{Value, json};
use tempfile::TempDir;

const PRICE_UNITS: u128 = PRICE as u128;

/// What each channel has.
const BALANCE: u128 = 10 * PRICE_UNITS;

const NETWORK: &str = "eip155:84532";

/// More than one reading of the store has.
const MANY: usize = 1_010;

/// How the facilitator answers a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    Success,
    Pending,
    Malformed,
    Fault,
}

/// A facilitator with the answers of a script, and the claims and payments that it was asked for.
#[derive(Default)]
struct Behind {
    /// The answers to the next requests to settle. After them come successes.
    answers: Mutex<VecDeque<Answer>>,
    /// Whether it cannot read claims of several rows.
    reads_one_row: Mutex<bool>,
    /// The channel whose claims it never answers.
    fails_on: Mutex<Option<B256>>,
    /// Whether it answers nothing.
    is_down: Mutex<bool>,
    claims: Mutex<Vec<Vec<ClaimRow>>>,
    paid: Mutex<Vec<Address>>,
    /// When the payers have announced a withdrawal.
    withdraws_at: Mutex<u64>,
    verified: Mutex<usize>,
}

impl Behind {
    fn next(&self, answers: &[Answer]) {
        self.answers.lock().unwrap().extend(answers);
    }

    fn claimed_rows(&self) -> Vec<usize> {
        let claims = self.claims.lock().unwrap();
        claims.iter().map(Vec::len).collect()
    }

    fn state(&self) -> ChannelState {
        ChannelState {
            balance: BALANCE,
            withdraw_requested_at: *self.withdraws_at.lock().unwrap(),
            ..ChannelState::default()
        }
    }
}

fn no_answer() -> FacilitatorError {
    Fault::new(FaultKind::FacilitatorUnreachable, "no answer").into()
}

fn id_of(config: &ChannelConfig) -> B256 {
    config.id(&domain_separator(84_532))
}

#[async_trait]
impl Facilitator for Behind {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        *self.verified.lock().unwrap() += 1;
        let config = request.payload.tree()["channelConfig"].clone();
        let id = id_of(&serde_json::from_value(config).unwrap());
        Ok(VerifyResponse {
            extra: Object::of(&self.state().to_json(&id)).ok(),
            ..VerifyResponse::valid(None)
        })
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let payload = Value::Object(request.payload.tree());
        let mut response = SettleResponse::settled(NETWORK, None, "0x1");
        let (mut is_readable, mut is_down) = (true, *self.is_down.lock().unwrap());
        match payload["type"].as_str().unwrap() {
            "claim" => {
                let rows: Vec<ClaimRow> =
                    serde_json::from_value(payload["claims"].clone()).unwrap();
                is_readable = rows.len() == 1 || !*self.reads_one_row.lock().unwrap();
                let fails_on = *self.fails_on.lock().unwrap();
                is_down |= rows.iter().any(|row| Some(id_of(&row.config)) == fails_on);
                self.claims.lock().unwrap().push(rows);
            }
            "settle" => {
                let receiver = payload["receiver"].as_str().unwrap().parse();
                self.paid.lock().unwrap().push(receiver.unwrap());
            }
            _ => {
                let config = serde_json::from_value(payload["channelConfig"].clone());
                let id = id_of(&config.unwrap());
                let extra = json!({ "channelState": self.state().to_json(&id) });
                response.extra = Object::of(&extra).ok();
            }
        }
        let answer = self.answers.lock().unwrap().pop_front();
        match answer.unwrap_or(Answer::Success) {
            _ if is_down => Err(no_answer()),
            _ if !is_readable => Err(Malformed::new("claims", "too many").into()),
            Answer::Success => Ok(response),
            Answer::Pending => {
                let rejection = Reason::SETTLEMENT_PENDING.into();
                Ok(SettleResponse::failed(NETWORK, &rejection, None, "0x1"))
            }
            Answer::Malformed => Err(Malformed::new("body", "not understood").into()),
            Answer::Fault => Err(no_answer()),
        }
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        match *self.is_down.lock().unwrap() {
            true => Err(no_answer()),
            false => Ok(SupportedResponse::new(Vec::new())),
        }
    }
}

/// A seller with its channels.
struct Seller {
    behind: Arc<Behind>,
    channels: Channels,
    clock: Arc<ManualClock>,
    /// A channel of it, whose authorizer the others have, too.
    first: Channel,
    _folder: TempDir,
}

impl Seller {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(open_journal(&folder.path().join("channels.db")).await);
        let (behind, first) = (Arc::new(Behind::default()), Channel::new());
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_800_000_000)));
        let verifier = Arc::new(VerifierQueue::start().unwrap());
        let key = first.authorizer.clone();
        let channels = Channels::new("base-sepolia", behind.clone(), store, verifier, key);
        Self {
            channels: channels.unwrap().with_clock(clock.clone()),
            behind,
            clock,
            first,
            _folder: folder,
        }
    }

    /// Another channel to this receiver.
    fn channel(&self, receiver: Address) -> Channel {
        let authorizer = self.first.config.receiver_authorizer;
        Channel::new().with(|config| {
            config.receiver_authorizer = authorizer;
            config.receiver = receiver;
        })
    }

    /// A new channel that owes a price to this receiver.
    async fn charged(&self, receiver: Address) -> Result<Channel, FacilitatorError> {
        let channel = self.channel(receiver);
        let payload = deposit(&channel, BALANCE, PRICE_UNITS);
        assert!(self.settle(&channel, &payload).await?.success);
        Ok(channel)
    }

    async fn settle(
        &self,
        channel: &Channel,
        payload: &Value,
    ) -> Result<SettleResponse, FacilitatorError> {
        let asked = request(payload, &channel.requirements());
        self.channels.settle(&asked).await
    }

    /// The payload with the hold of its verification, or why it is not valid.
    async fn verify(&self, channel: &Channel, payload: &Value) -> Result<Value, String> {
        let asked = request(payload, &channel.requirements());
        let verdict = self.channels.verify(&asked).await.unwrap();
        if let Some(reason) = verdict.invalid_reason {
            return Err(reason);
        }
        let mut held = payload.clone();
        held["pendingId"] = verdict.extra.unwrap().tree()["pendingId"].clone();
        Ok(held)
    }
}

fn seller() -> Address {
    Setting::seller().address
}

/// Each half would be a transaction of its own, and then each half of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_without_an_outcome_is_left_alone_and_not_split() {
    let shop = Seller::new().await;
    for _ in 0..3 {
        shop.charged(seller()).await.unwrap();
    }
    shop.behind.next(&[Answer::Pending]);
    let report = shop.channels.claim_all().await.unwrap();
    let counts = (report.pending, report.claimed, report.failed, report.paid);
    assert_eq!(counts, (3, 0, 0, 0));
    assert_eq!(shop.behind.claimed_rows(), [3]);
    // It comes again in a minute, as a whole.
    assert_eq!(shop.channels.upkeep().await.unwrap().claimed, 0);
    shop.clock.advance(61);
    let report = shop.channels.upkeep().await.unwrap();
    assert_eq!((report.pending, report.claimed, report.paid), (0, 3, 1));
    assert_eq!(shop.behind.claimed_rows(), [3, 3]);
}

/// Of two receivers, the facilitator has no answer about the one that is due first.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_one_payee_stops_no_other_and_is_reported() {
    let shop = Seller::new().await;
    // By their addresses, the order would be the other one.
    let (early, late) = (Address::repeat_byte(0xee), Address::repeat_byte(0x11));
    shop.charged(early).await.unwrap();
    shop.clock.advance(10);
    shop.charged(late).await.unwrap();
    shop.charged(late).await.unwrap();
    shop.behind.next(&[Answer::Fault]);
    let fault = shop.channels.claim_all().await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::FacilitatorUnreachable);
    let order = |claims: &[Vec<ClaimRow>]| -> Vec<Address> {
        claims.iter().map(|rows| rows[0].config.receiver).collect()
    };
    assert_eq!(order(&shop.behind.claims.lock().unwrap()), [early, late]);
    assert_eq!(*shop.behind.paid.lock().unwrap(), [late]);
    shop.clock.advance(61);
    // A fault of a payment stops no other one, either.
    shop.behind.next(&[Answer::Success, Answer::Fault]);
    shop.channels.upkeep().await.unwrap_err();
    assert_eq!(*shop.behind.paid.lock().unwrap(), [late, early, late]);
    shop.clock.advance(61);
    let report = shop.channels.claim_all().await.unwrap();
    assert_eq!((report.claimed, report.paid), (0, 1));
    assert_eq!(shop.behind.claimed_rows(), [1, 2, 1]);
}

/// A seller with more channels than one claim has rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_one_claim_stops_no_other_of_its_payee() {
    let shop = Seller::new().await;
    let charged = (0..=100).map(|_| shop.charged(seller()));
    try_join_all(charged).await.unwrap();
    shop.behind.next(&[Answer::Fault]);
    shop.channels.claim_all().await.unwrap_err();
    assert_eq!(shop.behind.claimed_rows(), [100, 1]);
    assert_eq!(*shop.behind.paid.lock().unwrap(), [seller()]);
}

/// The claim with it was asked for again and again as a whole, and none of its channels was paid.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_facilitator_never_answers_is_found() {
    let shop = Seller::new().await;
    for _ in 0..7 {
        shop.charged(seller()).await.unwrap();
    }
    let odd = shop.charged(seller()).await.unwrap();
    *shop.behind.fails_on.lock().unwrap() = Some(odd.id());
    // A hundred rows, halved seven times.
    for _ in 0..8 {
        shop.channels.claim_all().await.unwrap_err();
        shop.clock.advance(61);
    }
    let claims = shop.behind.claimed_rows();
    assert_eq!(
        (claims.first(), claims.last()),
        (Some(&8), Some(&1)),
        "{claims:?}"
    );
    *shop.behind.fails_on.lock().unwrap() = None;
    let report = shop.channels.claim_all().await.unwrap();
    assert_eq!(
        (report.claimed, report.failed),
        (1, 0),
        "the others were claimed"
    );
}

/// Otherwise each channel would be claimed alone after an outage.
#[tokio::test(flavor = "multi_thread")]
async fn claims_are_not_split_while_the_facilitator_is_down() {
    let shop = Seller::new().await;
    for _ in 0..4 {
        shop.charged(seller()).await.unwrap();
    }
    *shop.behind.is_down.lock().unwrap() = true;
    for _ in 0..8 {
        shop.channels.claim_all().await.unwrap_err();
        shop.clock.advance(61);
    }
    *shop.behind.is_down.lock().unwrap() = false;
    assert_eq!(shop.channels.claim_all().await.unwrap().claimed, 4);
    assert_eq!(shop.behind.claimed_rows(), [4; 9]);
}

/// A claim may be too long for another facilitator, by its own limits.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_the_facilitator_cannot_read_is_split() {
    let shop = Seller::new().await;
    for _ in 0..3 {
        shop.charged(seller()).await.unwrap();
    }
    *shop.behind.reads_one_row.lock().unwrap() = true;
    let report = shop.channels.claim_all().await.unwrap();
    assert_eq!((report.claimed, report.failed, report.paid), (3, 0, 1));
    // And one row that is never understood is one failure.
    shop.charged(seller()).await.unwrap();
    shop.behind.next(&[Answer::Malformed]);
    let report = shop.channels.claim_all().await.unwrap();
    assert_eq!((report.claimed, report.failed), (0, 1));
}

/// All of them, and each once: also if those that were read come first again.
#[tokio::test(flavor = "multi_thread")]
async fn more_channels_than_one_reading_has_are_claimed_at_once() {
    for is_at_once in [true, false] {
        let shop = Seller::new().await;
        let charged = stream::iter(0..MANY).map(|_| shop.charged(seller()));
        let charged: Vec<_> = charged.buffer_unordered(64).try_collect().await.unwrap();
        assert_eq!(charged.len(), MANY);
        let report = if is_at_once {
            shop.channels.claim_all().await
        } else {
            shop.clock.advance(301);
            shop.channels.upkeep().await
        };
        let report = report.unwrap();
        assert_eq!((report.claimed, report.failed, report.paid), (MANY, 0, 1));
        let claims = shop.behind.claims.lock().unwrap();
        let rows = claims.iter().flatten();
        let ids: BTreeSet<B256> = rows.map(|row| id_of(&row.config)).collect();
        assert_eq!((ids.len(), claims.len()), (MANY, 11));
    }
}

/// Its account accepts the voucher now. By the time of the claim it can have other code, which
/// accepts nothing, and then all that it owes is its own again.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_whose_payer_could_refuse_claims_is_refused() {
    let shop = Seller::new().await;
    let channel = shop.channel(seller());
    let channel = Channel {
        voucher_key: channel.payer.signer.clone(),
        ..channel
    };
    let channel = channel.with(|config| config.payer_authorizer = Address::ZERO);
    let first = deposit(&channel, BALANCE, PRICE_UNITS);
    let reason = reason::CONTRACT_WALLET_NOT_ALLOWED;
    let code = reason.code();
    for payload in [&first, &voucher(&channel, PRICE_UNITS)] {
        assert_eq!(shop.verify(&channel, payload).await.unwrap_err(), code);
        let answer = shop.settle(&channel, payload).await.unwrap();
        assert_eq!(answer.error_reason.as_deref(), Some(code), "{answer:?}");
        let detail = answer.error_message.unwrap();
        assert!(detail.contains("payerAuthorizer"), "{detail}");
    }
    assert_eq!(*shop.behind.verified.lock().unwrap(), 0);
    // What it has is paid back.
    let rest = shop.verify(&channel, &refund(&channel, 0)).await.unwrap();
    assert!(shop.settle(&channel, &rest).await.unwrap().success);
    let own_key = channel.config.payer;
    let by_key = channel
        .clone()
        .with(|config| config.payer_authorizer = own_key);
    let payload = deposit(&by_key, BALANCE, PRICE_UNITS);
    assert!(shop.settle(&by_key, &payload).await.unwrap().success);

    let Seller {
        channels, clock, ..
    } = shop;
    drop(channels);
    let trusting = Seller::new().await;
    let shop = Seller {
        channels: trusting.channels.with_contract_payers(),
        clock,
        ..trusting
    };
    let authorizer = shop.first.config.receiver_authorizer;
    let channel = channel.with(|config| config.receiver_authorizer = authorizer);
    let first = deposit(&channel, BALANCE, PRICE_UNITS);
    assert!(shop.settle(&channel, &first).await.unwrap().success);
}

/// The request was served for long, and its payer has announced a withdrawal meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_does_not_make_an_old_book_true() {
    let shop = Seller::new().await;
    let channel = shop.charged(seller()).await.unwrap();
    let next = voucher(&channel, 2 * PRICE_UNITS);
    let held = shop.verify(&channel, &next).await.unwrap();
    assert_eq!(*shop.behind.verified.lock().unwrap(), 0);
    *shop.behind.withdraws_at.lock().unwrap() = 1_800_000_001;
    shop.clock.advance(400);
    let answer = shop.settle(&channel, &held).await.unwrap();
    let reason = reason::CUMULATIVE_EXCEEDS_BALANCE;
    let code = reason.code();
    assert_eq!(answer.error_reason.as_deref(), Some(code), "{answer:?}");
    assert_eq!(*shop.behind.verified.lock().unwrap(), 1);
    // What was charged before is claimed at once.
    assert_eq!(shop.channels.upkeep().await.unwrap().claimed, 1);
}

/// Otherwise its channel would serve nothing until the hold runs out.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_refused_at_its_settlement_frees_its_channel() {
    let shop = Seller::new().await;
    let channel = shop.charged(seller()).await.unwrap();
    let next = voucher(&channel, 2 * PRICE_UNITS);
    let held = shop.verify(&channel, &next).await.unwrap();
    let asked = request(&held, &channel.requirements());
    let too_much = asked.charging((2 * PRICE).into()).unwrap();
    let answer = shop.channels.settle(&too_much).await.unwrap();
    let reason = reason::CHARGE_EXCEEDS_SIGNED_CUMULATIVE;
    assert_eq!(answer.error_reason.as_deref(), Some(reason.code()));
    // Another voucher is judged by the book, and does not wait.
    let odd = voucher(&channel, 3 * PRICE_UNITS);
    let reason = reason::CUMULATIVE_AMOUNT_MISMATCH;
    assert_eq!(
        shop.verify(&channel, &odd).await.unwrap_err(),
        reason.code()
    );
    assert!(shop.verify(&channel, &next).await.is_ok());
}

/// The buyer sends the same request again, and need not wait for the end of the hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_without_an_outcome_can_be_made_again() {
    let shop = Seller::new().await;
    let reason = reason::CHANNEL_BUSY;
    let busy = reason.code();
    for lost in [Answer::Pending, Answer::Fault] {
        let channel = shop.channel(seller());
        let first = deposit(&channel, BALANCE, PRICE_UNITS);
        let held = shop.verify(&channel, &first).await.unwrap();
        assert_eq!(shop.verify(&channel, &first).await.unwrap_err(), busy);
        shop.behind.next(&[lost]);
        match shop.settle(&channel, &held).await {
            Ok(pending) => assert!(pending.is_pending(), "{pending:?}"),
            Err(fault) => assert_eq!(lost, Answer::Fault, "{fault:?}"),
        }
        let other = voucher(&channel, 2 * PRICE_UNITS);
        assert_eq!(shop.verify(&channel, &other).await.unwrap_err(), busy);
        let again = shop.verify(&channel, &first).await.unwrap();
        assert_ne!(again["pendingId"], held["pendingId"]);
        // Only the later request has the channel.
        let answer = shop.settle(&channel, &held).await.unwrap();
        assert_eq!(answer.error_reason.as_deref(), Some(busy), "{answer:?}");
        assert!(shop.settle(&channel, &again).await.unwrap().success);
        assert!(shop.verify(&channel, &other).await.is_ok());
    }
}
