//! Payments that take more than one transaction, or none.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue panics")]

use std::sync::Arc;
use std::time::Duration;

use quittance_core::{
    Amount, Check, Effect, Facilitator, Observed, Payment, PaymentInfo, PaymentRequest, Plan,
    Reason, Refusal, Rejection, STEPS_MAX, Scheme, SignatureClaim, Timestamp,
};
use quittance_engine::{Engine, Settlement, State, StateKind};
use quittance_testing::until;
use quittance_testing::world::{
    Authorization, Environment, Evidence, PRICE, Search, SimulatedChain, SimulatedExact, Transfer,
    USD, World,
};

/// How a payment of these tests is planned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A sponsor gives the payer what it lacks, once.
    Sponsored,
    /// The same, in a transaction that the sponsor has signed as a whole.
    SponsorSigns,
    /// One step after the other, without end.
    Endless,
    /// Nothing is sent.
    OffChain,
    /// A step, and nothing after it.
    StepOnly,
}

/// `exact` on the simulated chain, planned in another way.
struct Planned {
    way: Way,
    world: World,
    exact: SimulatedExact,
}

struct PlannedPayment {
    way: Way,
    world: World,
    payment: Box<dyn Payment<SimulatedChain>>,
}

impl Scheme<SimulatedChain> for Planned {
    fn name(&self) -> &str {
        "exact"
    }

    fn assets(&self) -> Vec<String> {
        self.exact.assets()
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<SimulatedChain>>, Refusal> {
        Ok(Box::new(PlannedPayment {
            way: self.way,
            world: self.world.clone(),
            payment: self.exact.decode(request, now)?,
        }))
    }
}

impl PlannedPayment {
    /// A transfer of the price from the sponsor to the payer.
    fn sponsored(&self, number: u8) -> Plan<Transfer> {
        let sponsor = World::payer_key(SPONSOR);
        let mut nonce = *self.info().id.as_bytes();
        nonce[0] = number;
        let authorization = Authorization {
            from: self.world.payer(SPONSOR).account(),
            to: self.info().payer.parse().unwrap(),
            asset: USD.to_owned(),
            amount: Amount::from(PRICE),
            nonce,
            expires: self.info().expires.secs(),
        };
        let (network, expires) = (self.world.network(), authorization.expires);
        let action = authorization.sign(network, &sponsor);
        let action = match self.way {
            Way::SponsorSigns => action.carried(network, &sponsor, 7, Some(expires)),
            _ => action,
        };
        Plan::Step {
            step: number.try_into().unwrap(),
            action,
        }
    }
}

impl Payment<SimulatedChain> for PlannedPayment {
    fn info(&self) -> &PaymentInfo {
        self.payment.info()
    }

    fn signatures(&self) -> &[SignatureClaim] {
        self.payment.signatures()
    }

    fn check(
        &self,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Check<SimulatedChain>, Rejection> {
        match self.payment.check(observed) {
            // The sponsor will pay, unless it already has.
            Err(_) if !observed.answers.is_empty() && observed.completed.is_empty() => {
                Ok(Check::Valid)
            }
            verdict => verdict,
        }
    }

    fn plan(
        &self,
        amount: Amount,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Plan<Transfer>, Rejection> {
        match self.way {
            Way::Sponsored | Way::SponsorSigns if observed.completed.is_empty() => {
                Ok(self.sponsored(1))
            }
            Way::Sponsored | Way::SponsorSigns => self.payment.plan(amount, observed),
            Way::Endless => Ok(self.sponsored(observed.completed.len() as u8 + 1)),
            Way::StepOnly if observed.completed.is_empty() => Ok(self.sponsored(1)),
            Way::StepOnly | Way::OffChain => Ok(Plan::OffChain),
        }
    }

    fn used_by(&self, rejection: &Rejection) -> Option<Search> {
        self.payment.used_by(rejection)
    }

    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        self.payment.effect(amount, evidence)
    }
}

const SPONSOR: u8 = 3;

async fn engine(setting: &Environment, way: Way) -> Engine {
    let (world, chain) = (setting.world.clone(), setting.world.chain());
    let exact = SimulatedExact::new(&chain);
    let scheme = Arc::new(Planned { way, world, exact });
    let builder = setting.builder().await.chain(chain, vec![scheme]);
    builder.start().await.unwrap()
}

fn balance(setting: &Environment, payer: u8) -> Amount {
    setting
        .world
        .balance(&setting.world.payer(payer).account(), USD)
}

fn empty_payer(setting: &Environment) {
    let payer = setting.world.payer(0).account();
    setting.world.set_balance(payer, USD, Amount::ZERO);
}

async fn settlement(
    engine: &Engine,
    setting: &Environment,
    request: &PaymentRequest,
) -> Settlement {
    let exact = SimulatedExact::new(&setting.world.chain());
    let id = exact
        .decode(request, setting.world.now())
        .unwrap()
        .info()
        .id;
    engine.settlement(&id).await.unwrap().unwrap()
}

/// The steps of a settlement's transactions, without replacements.
fn steps(settlement: &Settlement) -> Vec<u8> {
    let signed = settlement.transactions.iter();
    let mut steps: Vec<_> = signed
        .map(|signed| (signed.transaction.sequence, signed.step))
        .collect();
    steps.dedup();
    steps.into_iter().map(|(_, step)| step).collect()
}

fn sponsor_paid(setting: &Environment, before: Amount) -> Amount {
    before.checked_sub(balance(setting, SPONSOR)).unwrap()
}

#[tokio::test]
async fn a_step_is_included_before_the_payment_is_sent() {
    let setting = Environment::new();
    empty_payer(&setting);
    let before = balance(&setting, SPONSOR);
    let engine = engine(&setting, Way::Sponsored).await;
    let request = setting.request().await;
    assert!(engine.verify(&request).await.unwrap().is_valid);
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(setting.received(), Amount::from(PRICE));
    assert_eq!(sponsor_paid(&setting, before), Amount::from(PRICE));
    let settled = settlement(&engine, &setting, &request).await;
    assert_eq!(steps(&settled), [1, 0]);
    assert_eq!(settled.evidence().unwrap().as_str(), answer.transaction);
    let again = engine.settle(&request).await.unwrap();
    assert_eq!(again.error_reason.as_deref(), Some("duplicate_settlement"));
}

/// Another party has signed the step, and a lane signs the payment.
#[tokio::test]
async fn a_step_that_another_party_signed_is_relayed() {
    let setting = Environment::new();
    empty_payer(&setting);
    let before = balance(&setting, SPONSOR);
    let engine = engine(&setting, Way::SponsorSigns).await;
    let request = setting.request().await;
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(sponsor_paid(&setting, before), Amount::from(PRICE));
    let settled = settlement(&engine, &setting, &request).await;
    assert_eq!(steps(&settled), [1, 0]);
    let sponsor = setting.world.payer(SPONSOR).account().to_string();
    let senders: Vec<bool> = settled
        .transactions
        .iter()
        .map(|signed| signed.transaction.lane.address() == sponsor)
        .collect();
    assert_eq!(senders, [true, false]);
}

/// The process dies after the step was sent, and after it was included.
#[tokio::test]
async fn a_step_is_not_sent_again_after_a_crash() {
    for (way, included_meanwhile) in [
        (Way::Sponsored, false),
        (Way::Sponsored, true),
        (Way::SponsorSigns, false),
        (Way::SponsorSigns, true),
    ] {
        let setting = Environment::new();
        empty_payer(&setting);
        let before = balance(&setting, SPONSOR);
        setting.world.includes_at_once(false);
        let request = setting.request().await;
        let first = engine(&setting, way).await;
        let answer = first.settle(&request).await.unwrap();
        assert!(answer.is_pending(), "{answer:?}");
        first.shut_down(Duration::ZERO).await;
        drop(first);
        if included_meanwhile {
            setting.world.include();
        }
        setting.world.includes_at_once(true);
        let second = engine(&setting, way).await;
        let answer = second.settle(&request).await.unwrap();
        assert!(answer.success, "{included_meanwhile}: {answer:?}");
        assert_eq!(sponsor_paid(&setting, before), Amount::from(PRICE));
        assert_eq!(setting.received(), Amount::from(PRICE));
    }
}

/// The step was included, and then the payment failed.
#[tokio::test]
async fn another_attempt_goes_on_from_the_steps_of_the_first() {
    let setting = Environment::new();
    empty_payer(&setting);
    let before = balance(&setting, SPONSOR);
    setting.world.includes_at_once(false);
    let request = setting.request().await;
    let engine = engine(&setting, Way::Sponsored).await;
    assert!(engine.settle(&request).await.unwrap().is_pending());
    setting.world.include();
    // The step is included, and what it gave the payer is gone before the payment is sent.
    empty_payer(&setting);
    until("the payment failed", || async {
        settlement(&engine, &setting, &request).await.state.kind() == StateKind::Failed
    })
    .await;
    assert_eq!(setting.received(), Amount::ZERO);

    setting.world.includes_at_once(true);
    let payer = setting.world.payer(0).account();
    setting.world.set_balance(payer, USD, Amount::from(PRICE));
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(
        steps(&settlement(&engine, &setting, &request).await),
        [1, 0]
    );
    assert_eq!(sponsor_paid(&setting, before), Amount::from(PRICE));
}

/// Only its steps were included, so no money has moved: its refund must still fit.
#[tokio::test]
async fn a_refund_after_its_steps_fits_into_what_is_left() {
    let setting = Environment::new();
    let engine = engine(&setting, Way::Sponsored).await;
    let paid = setting.request().await;
    assert!(engine.settle(&paid).await.unwrap().success);
    let original = settlement(&engine, &setting, &paid).await.claim.id;
    let refund = async || {
        let refund = setting.world.refund(&paid, PRICE).await;
        refund.as_refund_of(original)
    };
    let seller = setting.world.seller();
    let (first, second) = (refund().await, refund().await);
    setting.world.includes_at_once(false);
    assert!(engine.settle(&first).await.unwrap().is_pending());
    setting.world.include();
    setting.world.set_balance(seller, USD, Amount::ZERO);
    until("the refund failed", || async {
        settlement(&engine, &setting, &first).await.state.kind() == StateKind::Failed
    })
    .await;
    setting.world.set_balance(seller, USD, Amount::from(PRICE));
    setting.world.includes_at_once(true);
    let answer = engine.settle(&second).await.unwrap();
    assert!(answer.success, "{answer:?}");
    // The first one has expired, which is the verdict without its step.
    setting.world.clock().advance(3600);
    let answer = engine.settle(&first).await.unwrap();
    let exceeds = Reason::REFUND_EXCEEDS_PAYMENT;
    assert_eq!(answer.error_reason.as_deref(), Some(exceeds.code()));
    assert_eq!(settlement(&engine, &setting, &first).await.attempt, 1);
}

#[tokio::test]
async fn a_payment_of_endless_steps_fails() {
    let setting = Environment::new();
    let engine = engine(&setting, Way::Endless).await;
    let request = setting.request().await;
    let answer = engine.settle(&request).await.unwrap();
    let reason = Reason::INVALID_TRANSACTION_STATE;
    assert_eq!(answer.error_reason.as_deref(), Some(reason.code()));
    let failed = settlement(&engine, &setting, &request).await;
    assert_eq!(steps(&failed).len(), STEPS_MAX);
    assert_eq!(setting.received(), Amount::ZERO);
}

/// No transaction, and still at most one success, over a restart too.
#[tokio::test]
async fn a_payment_without_a_transaction_settles_once() {
    let setting = Environment::new();
    let request = setting.request().await;
    let first = engine(&setting, Way::OffChain).await;
    let answer = first.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(answer.transaction, "");
    assert_eq!(answer.amount, Some(PRICE.to_string()));
    let settled = settlement(&first, &setting, &request).await;
    assert!(matches!(settled.state, State::Concluded(_)), "{settled:?}");
    assert_eq!(setting.world.included_count(), 0);
    first.shut_down(Duration::ZERO).await;
    drop(first);
    let second = engine(&setting, Way::OffChain).await;
    for engine in [&second, &second] {
        let again = engine.settle(&request).await.unwrap();
        assert_eq!(again.error_reason.as_deref(), Some("duplicate_settlement"));
        assert!(!engine.verify(&request).await.unwrap().is_valid);
    }
}

/// A step is the last transaction of some payments, such as a capture whose rest was voided by
/// another act. It was watched for a transfer that no transaction makes, and opened again for ever.
#[tokio::test]
async fn a_payment_that_ends_in_a_step_stays_settled() {
    let setting = Environment::new();
    let engine = engine(&setting, Way::StepOnly).await;
    let mut events = engine.events();
    let request = setting.request().await;
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    let settled = settlement(&engine, &setting, &request).await;
    assert_eq!(steps(&settled), [1]);
    let step = settled.transactions[0].transaction.id.as_str();
    assert_eq!(answer.transaction, step);
    // Longer than a payment may be missing.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let later = settlement(&engine, &setting, &request).await;
    assert_eq!(later.state, settled.state);
    assert!(events.try_recv().is_err(), "nothing was undone");
}
