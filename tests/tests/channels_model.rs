//! The books of a seller's channels against a model: whatever payers send, whatever fails and
//! wherever the process stops, no voucher is charged twice, and claims are the sum of the charges.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use alloy::primitives::{B256, U256};
use async_trait::async_trait;
use proptest::prelude::*;
use quittance_core::json::Object;
use quittance_core::wire::{SettleResponse, SupportedResponse, VerifyResponse};
use quittance_core::{
    Amount, CancelReason, Facilitator, FacilitatorError, Fault, FaultKind, FirstSuccess,
    ManualClock, Offer, PaymentRequest, Phase, Reason, Rejection, StateStore, Timestamp,
};
use quittance_engine::SqliteJournal;
use quittance_evm::batch::{
    ChannelConfig, ChannelOffer, ChannelState, Channels, ClaimRow, Voucher, domain_separator,
    reason,
};
use quittance_tests::channel_shop::{deposit, refund, voucher};
use quittance_tests::channels::{Channel, request};
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::flaky::{CrashPoint, Failing, FlakyJournal};
use quittance_tests::open_journal;
use quittance_verify::VerifierQueue;
use serde_json::{Value, json};
use tempfile::TempDir;

const PRICE_UNITS: u128 = PRICE as u128;

/// What a channel gets with each deposit.
const DEPOSIT: u128 = 6 * PRICE_UNITS;

/// The contract of channels, behind a facilitator that checks nothing else.
#[derive(Default)]
struct Contract {
    channels: Mutex<HashMap<B256, ChannelState>>,
    /// Whether the next request to settle is not answered, although it has its effect.
    loses_answer: AtomicBool,
}

impl Contract {
    fn state(&self, channel: &B256) -> ChannelState {
        let channels = self.channels.lock().unwrap();
        channels.get(channel).copied().unwrap_or_default()
    }

    fn claim(&self, rows: &[ClaimRow]) {
        let mut channels = self.channels.lock().unwrap();
        for row in rows {
            let id = row.config.id(&domain_separator(84_532));
            let state = channels.get_mut(&id).unwrap();
            let most = row.max_claimable.min(state.balance);
            assert!(row.total_claimed <= most, "a claim that reverts: {row:?}");
            state.total_claimed = state.total_claimed.max(row.total_claimed);
        }
    }

    /// What is paid back. `None` if the refund reverts, because it was made before.
    fn refund(&self, channel: &B256, nonce: U256, amount: u128) -> Option<u128> {
        let mut channels = self.channels.lock().unwrap();
        let state = channels.get_mut(channel).unwrap();
        if state.refund_nonce != nonce {
            return None;
        }
        // The contract would pay less. But the signature can come without the last claim.
        let left = state.balance - state.total_claimed;
        assert!(
            amount <= left,
            "a refund of {amount} is signed, and {left} is left"
        );
        let paid = amount;
        state.balance -= paid;
        state.refund_nonce += U256::ONE;
        Some(paid)
    }
}

fn rows(payload: &Value) -> Vec<ClaimRow> {
    serde_json::from_value(payload["claims"].clone()).unwrap()
}

fn units(value: &Value) -> u128 {
    value.as_str().unwrap().parse().unwrap()
}

#[async_trait]
impl Facilitator for Contract {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        let payload = Value::Object(request.payload.tree());
        let voucher: Voucher = serde_json::from_value(payload["voucher"].clone()).unwrap();
        let state = self.state(&voucher.channel_id);
        if payload["type"] != "deposit" && voucher.max_claimable > state.balance {
            let rejection = Reason::new("exceeds_balance").into();
            return Ok(VerifyResponse::invalid(&rejection, None));
        }
        let extra = state.to_json(&voucher.channel_id);
        Ok(VerifyResponse {
            extra: Object::of(&extra).ok(),
            ..VerifyResponse::valid(None)
        })
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let payload = Value::Object(request.payload.tree());
        let mut response = SettleResponse::settled("eip155:84532", None, "0x1");
        let id = payload.get("channelConfig").map(|config| {
            let config: ChannelConfig = serde_json::from_value(config.clone()).unwrap();
            config.id(&domain_separator(84_532))
        });
        match payload["type"].as_str().unwrap() {
            "deposit" => {
                let mut channels = self.channels.lock().unwrap();
                let state = channels.entry(id.unwrap()).or_default();
                state.balance += units(&payload["deposit"]["amount"]);
            }
            "claim" => self.claim(&rows(&payload)),
            "refund" => {
                self.claim(&rows(&payload));
                let nonce = U256::from(units(&payload["refundNonce"]));
                match self.refund(&id.unwrap(), nonce, units(&payload["amount"])) {
                    Some(paid) => response.amount = Some(paid.to_string()),
                    None => {
                        let rejection = Reason::new("refund_simulation_failed").into();
                        let network = "eip155:84532";
                        return Ok(SettleResponse::failed(network, &rejection, None, ""));
                    }
                }
            }
            "settle" => {}
            other => panic!("a voucher is not settled here: {other}"),
        }
        if let Some(id) = id {
            let extra = json!({ "channelState": self.state(&id).to_json(&id) });
            response.extra = Object::of(&extra).ok();
        }
        if self.loses_answer.swap(false, Ordering::SeqCst) {
            let mut fault = Fault::new(FaultKind::FacilitatorUnreachable, "no answer");
            fault.retry_after = None;
            return Err(fault.into());
        }
        Ok(response)
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        Ok(SupportedResponse::new(Vec::new()))
    }
}

/// A seller with its store, and what its payer was charged with an answer.
struct Sale {
    contract: Arc<Contract>,
    channels: Channels,
    offer: ChannelOffer,
    channel: Channel,
    clock: Arc<ManualClock>,
    /// What was charged with an answer, in total.
    paid: u128,
    /// What the payer believes was charged.
    believed: u128,
    answers: u64,
}

/// How a request ends.
#[derive(Debug, Clone, PartialEq)]
enum End {
    Served(u128),
    Cancelled,
    Refused(Rejection),
    /// No answer.
    Lost,
}

impl Sale {
    fn new(contract: &Arc<Contract>, store: Arc<dyn StateStore>, channel: &Channel) -> Self {
        let verifier = Arc::new(VerifierQueue::start().unwrap());
        let key = channel.authorizer.clone();
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_800_000_000)));
        let channels = Channels::new("base-sepolia", contract.clone(), store, verifier, key);
        let channels = channels.unwrap().with_clock(clock.clone());
        let seller = Setting::seller().address.to_string();
        let offer = ChannelOffer::usdc("base-sepolia", "0.01", &seller).unwrap();
        Self {
            contract: contract.clone(),
            offer: offer.with_authorizer(channels.authorizer()),
            channels,
            channel: channel.clone(),
            clock,
            paid: 0,
            believed: 0,
            answers: 0,
        }
    }

    /// Serves a request as the seller's layer does. `charge` is `None` if its handler fails.
    async fn serve(&mut self, payload: &Value, charge: Option<u128>) -> End {
        self.serve_at(PRICE, payload, charge).await
    }

    /// The same, at another price.
    async fn serve_at(&mut self, price: u64, payload: &Value, charge: Option<u128>) -> End {
        let terms = self.channel.requirements_of(price);
        let payment = request(payload, &terms);
        let ask = async |phase: Phase<'_>| {
            let request = self.offer.request(phase, &payment, &terms).await;
            request.unwrap().unwrap()
        };
        let verdict = match self.channels.verify(&ask(Phase::Verify).await).await {
            Ok(verdict) => verdict,
            Err(_) => return End::Lost,
        };
        if let Some(rejection) = verdict.rejection() {
            self.learn(&rejection);
            return End::Refused(rejection);
        }
        let first = &FirstSuccess::Verified(verdict);
        let phase = match charge {
            Some(charged) => Phase::AfterHandler {
                charged: Amount::new(U256::from(charged)),
                first,
            },
            None => Phase::Cancel {
                reason: CancelReason::HandlerFailed,
                first,
            },
        };
        let request = ask(phase).await;
        let mut response = self.channels.settle(&request).await;
        if matches!(&response, Err(FacilitatorError::Fault(_))) {
            // The seller's layer asks again.
            response = self.channels.settle(&request).await;
        }
        let Ok(response) = response else {
            return End::Lost;
        };
        if let Some(rejection) = response.rejection() {
            self.learn(&rejection);
            return End::Refused(rejection);
        }
        if payload["type"] == "refund" {
            return End::Cancelled;
        }
        self.answers += 1;
        let extra = Value::Object(response.extra.unwrap().tree());
        let charged = units(&extra["chargedAmount"]);
        self.believed = units(&extra["channelState"]["chargedCumulativeAmount"]);
        self.paid += charged;
        match charge {
            Some(_) => End::Served(charged),
            None => End::Cancelled,
        }
    }

    /// The payer goes on by the seller's book.
    fn learn(&mut self, rejection: &Rejection) {
        let extra = rejection.extra.as_ref().map(|extra| extra.tree());
        if let Some(state) = extra.as_ref().and_then(|extra| extra.get("channelState")) {
            self.believed = units(&state["chargedCumulativeAmount"]);
        }
    }

    fn next_voucher(&self) -> Value {
        self.voucher_at(PRICE)
    }

    fn voucher_at(&self, price: u64) -> Value {
        voucher(&self.channel, self.believed + u128::from(price))
    }

    fn next_deposit(&self) -> Value {
        deposit(&self.channel, DEPOSIT, self.believed + PRICE_UNITS)
    }
}

/// What a payer does.
#[derive(Debug, Clone)]
enum Step {
    Deposit {
        share: u128,
    },
    /// The same voucher comes twice if a charge and the next price make up one price.
    Voucher {
        price: u64,
        share: u128,
    },
    /// A voucher that was presented before.
    Replay {
        which: usize,
    },
    /// A voucher for another sum than the next one.
    Odd {
        sum: u128,
    },
    /// The handler fails.
    Failed,
    Refund {
        amount: Option<u128>,
    },
    Upkeep,
    /// The seller is started again, over the same store.
    Restart,
    /// The facilitator's next answer is lost.
    LoseAnswer,
    /// So much time passes that the mirror of the chain is old.
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let share = 0..=100_u128;
    prop_oneof![
        2 => share.clone().prop_map(|share| Step::Deposit { share }),
        6 => (prop::sample::select(vec![PRICE / 2, PRICE]), prop_oneof![Just(50), share])
            .prop_map(|(price, share)| Step::Voucher { price, share }),
        2 => (0..20_usize).prop_map(|which| Step::Replay { which }),
        1 => (0..10 * PRICE_UNITS).prop_map(|sum| Step::Odd { sum }),
        1 => Just(Step::Failed),
        1 => prop::option::of(1..DEPOSIT).prop_map(|amount| Step::Refund { amount }),
        2 => Just(Step::Upkeep),
        1 => Just(Step::Restart),
        1 => Just(Step::LoseAnswer),
        1 => Just(Step::Wait),
    ]
}

async fn take(sale: &mut Sale, step: &Step, presented: &mut Vec<Value>) {
    match step {
        Step::Deposit { share } => {
            let payload = sale.next_deposit();
            sale.serve(&payload, Some(PRICE_UNITS * share / 100)).await;
        }
        Step::Voucher { price, share } => {
            let payload = sale.voucher_at(*price);
            let amount = u128::from(*price) * share / 100;
            let end = sale.serve_at(*price, &payload, Some(amount)).await;
            assert!(
                matches!(&end, End::Served(charged) if *charged == amount)
                    || matches!(end, End::Refused(_)),
                "{end:?}"
            );
            presented.push(payload);
        }
        Step::Replay { which } => {
            let Some(payload) = presented.get(*which) else {
                return;
            };
            // It is the next one again, if it was not charged in full.
            let is_next =
                units(&payload["voucher"]["maxClaimableAmount"]) == sale.believed + PRICE_UNITS;
            let end = sale.serve(payload, Some(PRICE_UNITS)).await;
            assert!(is_next || matches!(end, End::Refused(_)), "{end:?}");
        }
        Step::Odd { sum } => {
            let is_next = *sum == sale.believed + PRICE_UNITS;
            let payload = voucher(&sale.channel, *sum);
            let end = sale.serve(&payload, Some(PRICE_UNITS)).await;
            assert!(is_next || matches!(end, End::Refused(_)), "{end:?}");
        }
        Step::Failed => {
            let (payload, before) = (sale.next_voucher(), sale.paid);
            sale.serve(&payload, None).await;
            assert_eq!(sale.paid, before);
        }
        Step::Refund { amount } => {
            let mut payload = refund(&sale.channel, sale.believed);
            if let Some(amount) = amount {
                payload["amount"] = json!(amount.to_string());
            }
            sale.serve(&payload, Some(PRICE_UNITS)).await;
        }
        Step::Upkeep => drop(sale.channels.claim_all().await),
        Step::LoseAnswer => sale.contract.loses_answer.store(true, Ordering::SeqCst),
        Step::Wait => sale.clock.advance(400),
        Step::Restart => unreachable!("it needs the store"),
    }
}

/// At the end, the seller claims what it has charged.
async fn close(sale: &Sale) -> u128 {
    sale.contract.loses_answer.store(false, Ordering::SeqCst);
    let report = sale.channels.claim_all().await.unwrap();
    assert_eq!(report.failed, 0);
    sale.contract.state(&sale.channel.id()).total_claimed
}

async fn run(steps: &[Step]) {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open_journal(&folder.path().join("channels.db")).await);
    let contract = Arc::new(Contract::default());
    let channel = Channel::new();
    let mut sale = Sale::new(&contract, store.clone(), &channel);
    let mut presented = Vec::new();
    let mut unanswered = 0;
    for step in steps {
        if matches!(step, Step::Restart) {
            let next = Sale::new(&contract, store.clone(), &channel);
            next.clock.advance(sale.clock_ahead());
            sale = Sale {
                paid: sale.paid,
                believed: sale.believed,
                answers: sale.answers,
                ..next
            };
            continue;
        }
        let lost_before = contract.loses_answer.load(Ordering::SeqCst);
        take(&mut sale, step, &mut presented).await;
        // A deposit whose answer is lost may be charged when it is asked for again.
        let is_lost = lost_before && !contract.loses_answer.load(Ordering::SeqCst);
        unanswered += u128::from(is_lost && matches!(step, Step::Deposit { .. }));
        let state = contract.state(&channel.id());
        assert!(state.total_claimed <= state.balance);
    }
    let claimed = close(&sale).await;
    // Without crashes, every charge was answered.
    assert_eq!(
        claimed, sale.paid,
        "{steps:?}, {unanswered} answers were lost"
    );
}

impl Sale {
    fn clock_ahead(&self) -> u64 {
        use quittance_core::Clock;
        self.clock.now().secs() - 1_800_000_000
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn claims_are_the_sum_of_the_charges_whatever_payers_do(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        runtime().block_on(run(&steps));
    }
}

/// A seller's whole life with a payer that goes on after every refusal.
async fn live(sale: &mut Sale) {
    let payload = sale.next_deposit();
    sale.serve(&payload, Some(3_000)).await;
    for _ in 0..3 {
        let payload = sale.next_voucher();
        sale.serve(&payload, Some(PRICE_UNITS)).await;
    }
    drop(sale.channels.claim_all().await);
    let payload = sale.next_voucher();
    sale.serve(&payload, Some(500)).await;
    let payload = refund(&sale.channel, sale.believed);
    sale.serve(&payload, Some(PRICE_UNITS)).await;
}

async fn flaky(path: &Path, point: Option<CrashPoint>) -> (Arc<Failing>, Arc<dyn StateStore>) {
    let failing = Arc::new(Failing::default());
    if let Some(point) = point {
        failing.crash.plan(point);
    }
    let inner: SqliteJournal = open_journal(path).await;
    let store = FlakyJournal {
        inner,
        failing: failing.clone(),
    };
    (failing, Arc::new(store))
}

/// The process stops before or after each write of a life. The next process charges no voucher
/// again, and claims what was charged. At most one charge was not answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_write_loses_at_most_one_answer() {
    for write in 1.. {
        for is_written in [false, true] {
            let folder: TempDir = tempfile::tempdir().unwrap();
            let path = folder.path().join("channels.db");
            let (contract, channel) = (Arc::new(Contract::default()), Channel::new());
            let point = CrashPoint { write, is_written };
            let (failing, store) = flaky(&path, Some(point)).await;
            let mut first = Sale::new(&contract, store, &channel);
            live(&mut first).await;
            if failing.crash.at().is_none() {
                assert!(write > 6, "a life has more than {write} writes");
                assert_eq!(close(&first).await, first.paid);
                return;
            }
            let (paid, believed) = (first.paid, first.believed);
            drop(first);
            let (_, store) = flaky(&path, None).await;
            let mut second = Sale {
                paid,
                believed,
                ..Sale::new(&contract, store, &channel)
            };
            // The payer has a book that may be old, and goes on by the corrections.
            for _ in 0..2 {
                let payload = second.next_deposit();
                second.serve(&payload, Some(PRICE_UNITS)).await;
            }
            let payload = second.next_voucher();
            let end = second.serve(&payload, Some(PRICE_UNITS)).await;
            assert_eq!(end, End::Served(PRICE_UNITS), "{point:?}");
            let claimed = close(&second).await;
            assert!(
                claimed >= second.paid,
                "{point:?}: {claimed} < {}",
                second.paid
            );
            let unanswered = claimed - second.paid;
            assert!(
                unanswered <= PRICE_UNITS,
                "{point:?}: {unanswered} is charged unanswered"
            );
        }
    }
}

/// Without the seller's layer, which serves one request of a channel at a time.
#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_requests_with_a_voucher_one_is_charged() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open_journal(&folder.path().join("channels.db")).await);
    let (contract, channel) = (Arc::new(Contract::default()), Channel::new());
    let mut sale = Sale::new(&contract, store, &channel);
    let payload = sale.next_deposit();
    sale.serve(&payload, Some(PRICE_UNITS)).await;
    let terms = channel.requirements();
    let payment = request(&sale.next_voucher(), &terms);
    let requests = (0..20).map(|_| {
        let (channels, payment, terms) = (sale.channels.clone(), payment.clone(), &terms);
        let offer = &sale.offer;
        async move {
            let verdict = channels.verify(&payment).await.unwrap();
            if let Some(rejection) = verdict.rejection() {
                // It is charged now, or was charged already.
                let expected = [reason::CHANNEL_BUSY, reason::CUMULATIVE_AMOUNT_MISMATCH];
                assert!(expected.contains(&rejection.reason), "{rejection:?}");
                return 0;
            }
            tokio::task::yield_now().await;
            let phase = Phase::AfterHandler {
                charged: Amount::from(PRICE),
                first: &FirstSuccess::Verified(verdict),
            };
            let request = offer.request(phase, &payment, terms).await;
            let response = channels.settle(&request.unwrap().unwrap()).await.unwrap();
            u32::from(response.success)
        }
    });
    let charged: u32 = futures_util::future::join_all(requests).await.iter().sum();
    assert_eq!(charged, 1);
    // A seller whose requests have no holds: the record decides.
    let next = request(&voucher(&channel, 3 * PRICE_UNITS), &terms);
    let settled = (0..20).map(|_| sale.channels.settle(&next));
    let settled = futures_util::future::join_all(settled).await;
    let charged = settled.iter().filter(|it| it.as_ref().unwrap().success);
    assert_eq!(charged.count(), 1);
    assert_eq!(close(&sale).await, 3 * PRICE_UNITS);
}
