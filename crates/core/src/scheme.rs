//! A scheme defines what a payment is. It never signs, never sends, and keeps no state between
//! calls.

use std::num::NonZeroU8;
use std::time::Duration;

use crate::json::Object;
use crate::{
    Amount, Chain, KEPT_MAX, LaneId, PaymentId, PaymentRequest, Reason, Refusal, Rejection,
    SchemeReceipt, SchemeState, SignatureClaim, StateId, Timestamp, TransactionId, Version,
};

/// A way to pay on chains of type `C`, such as `exact`.
///
/// To add a scheme, implement this trait and [`Payment`], and register the scheme with the engine.
/// The engine provides batch verification, the journal, lanes, fees, recovery, limits and metrics.
///
/// **The engine** calls [`decode`](Self::decode) once for each request to /verify and /settle, from
/// many tasks at once. After a restart it calls it again for each open settlement. It compares the
/// version and the asset with [`versions`](Self::versions) and [`assets`](Self::assets) itself.
///
/// **An implementation must** keep nothing between calls, and give the same authorization the same
/// [`PaymentId`] whatever its signature bytes, spelling and unknown fields are.
///
/// This scheme is `exact`, for payments of at most a cent:
///
/// ```
/// use std::sync::Arc;
/// use quittance_core::{
///     Amount, Facilitator, Payment, PaymentRequest, Reason, Refusal, Rejection, Scheme, Timestamp,
/// };
/// use quittance_testing::world::{PRICE, Environment, SimulatedChain, SimulatedExact};
///
/// struct Small(SimulatedExact);
///
/// impl Scheme<SimulatedChain> for Small {
///     fn name(&self) -> &str {
///         self.0.name()
///     }
///
///     fn assets(&self) -> Vec<String> {
///         self.0.assets()
///     }
///
///     fn decode(
///         &self,
///         request: &PaymentRequest,
///         now: Timestamp,
///     ) -> Result<Box<dyn Payment<SimulatedChain>>, Refusal> {
///         let payment = self.0.decode(request, now)?;
///         if payment.info().amount > Amount::from(PRICE) {
///             let detail = "this facilitator settles at most a cent";
///             return Err(Rejection::new(Reason::new("too_large"), detail).into());
///         }
///         Ok(payment)
///     }
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let setting = Environment::new();
/// let chain = setting.world.chain();
/// let small = Arc::new(Small(SimulatedExact::new(&chain)));
/// let engine = setting.builder().await.chain(chain, vec![small]).start().await?;
/// let answer = engine.settle(&setting.request().await).await?;
/// assert!(answer.success);
/// # Ok(())
/// # }
/// ```
pub trait Scheme<C: Chain + ?Sized>: Send + Sync + 'static {
    /// The scheme's name on the wire.
    fn name(&self) -> &str;

    /// The protocol versions that the scheme supports.
    fn versions(&self) -> &[Version] {
        &[Version::V2]
    }

    /// The `extra` of `GET /supported`: what sellers need in order to offer the scheme.
    fn extra(&self) -> Option<Object> {
        None
    }

    /// The protocol extensions that the scheme supports, for `GET /supported`. The journal keeps
    /// what a client writes in them.
    fn extensions(&self) -> &[&str] {
        &[]
    }

    /// A question about what the scheme needs on the chain, whatever the payment, such as its
    /// contract. `None`, the default, if it needs nothing. Part of each health check.
    fn prerequisite(&self) -> Option<C::Read> {
        None
    }

    /// What the chain lacks, by the answer to [`prerequisite`](Self::prerequisite), for operators.
    /// `/supported` does not name the scheme while something is missing.
    fn missing(&self, _answer: &C::Answer) -> Option<String> {
        None
    }

    /// What the scheme's own state records need that are due, such as a claim of what a channel
    /// owes. Called in every sweep in which some are due, with at most a hundred of them.
    ///
    /// Pure. The engine settles the requests like any others, as
    /// [`RequestCaller::Engine`](crate::RequestCaller::Engine). Before that it has put each record
    /// off for a minute, so a record whose request fails comes again.
    fn upkeep(&self, _due: &[SchemeState], _now: Timestamp) -> Upkeep {
        Upkeep::default()
    }

    /// What operators can know of one of the scheme's own state records, for a list. `None` if it
    /// cannot be read, or if the scheme keeps none.
    fn summary(&self, _state: &SchemeState, _now: Timestamp) -> Option<StateSummary> {
        None
    }

    /// The longest request of the scheme that the journal keeps, in bytes. A scheme with a few long
    /// ones should bound its other requests by [`KEPT_MAX`] itself.
    fn kept_max(&self) -> usize {
        KEPT_MAX
    }

    /// The assets that the scheme settles, in the chain's own spelling. Payments in other assets
    /// are rejected.
    fn assets(&self) -> Vec<String>;

    /// Decodes the payment of a request.
    ///
    /// Pure: the same request at the same time gives the same payment, on any machine and in any
    /// later run. The journal stores requests, and the engine decodes them again after a crash. It
    /// stores the version, `requirements`, `accepted`, `payload`, the
    /// [information](PaymentRequest::extension_info) in the extensions that
    /// [`extensions`](Self::extensions) names ([`PaymentRequest::kept_text`]), and the caller. So
    /// this method may read only these.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] if the request cannot be decoded; the error names the field.
    /// [`Refusal::Rejected`] if a check that needs only the request fails.
    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<C>>, Refusal>;
}

/// One decoded authorization by a payer. It has everything that the scheme needs to check and
/// settle it.
///
/// **The engine** asks in this order: [`info`](Self::info), [`signatures`](Self::signatures),
/// [`check`](Self::check) until there is a verdict, and at /settle [`plan`](Self::plan). It
/// checks a payment again, with new answers, right before it is sent and after a restart. It calls
/// [`effect`](Self::effect) for every included transaction that was recorded for the payment, and
/// again after a reorganisation. At most one settlement of an authorization is open at a time.
///
/// **An implementation must** be pure: each method depends on the payment and its arguments only.
/// No method may block, because payments share the engine's tasks.
///
/// The engine's calls, by hand:
///
/// ```
/// use quittance_core::{Amount, Chain, Check, Observed, Payment, Plan, Scheme};
/// use quittance_testing::world::{PRICE, Environment, SimulatedExact};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let setting = Environment::new();
/// let (chain, now) = (setting.world.chain(), setting.world.now());
/// let payment = SimulatedExact::new(&chain).decode(&setting.request().await, now)?;
/// assert_eq!(payment.info().amount, Amount::from(PRICE));
///
/// // The engine has checked the one signature, and asks what the payment wants to know.
/// let observed = Observed::new(&[true], &[], now).settling();
/// let Check::Ask(question) = payment.check(&observed)? else {
///     panic!("it depends on the payer's balance");
/// };
/// let answers: Result<Vec<_>, _> = chain.read(&[question]).await.into_iter().collect();
/// let answers = answers?;
/// let observed = Observed::new(&[true], &answers, now).settling();
/// assert!(matches!(payment.check(&observed)?, Check::Valid));
/// let plan = payment.plan(payment.info().amount, &observed)?;
/// assert!(matches!(plan, Plan::Submit(_)));
/// # Ok(())
/// # }
/// ```
pub trait Payment<C: Chain + ?Sized>: Send + Sync {
    /// The facts that every scheme knows of a payment.
    fn info(&self) -> &PaymentInfo;

    /// What the payment moves if `amount` is settled, in atomic units: the amount that the
    /// operator's policy judges. The default is all that was authorized. A scheme that settles less
    /// returns `amount`.
    fn moves(&self, _amount: Amount) -> Amount {
        self.info().amount
    }

    /// What the payer's balance must cover if `amount` is settled, together with the payer's other
    /// open payments. The default is what the payment [`moves`](Self::moves). It is more if the
    /// chain takes all that was authorized, and returns the rest.
    fn reserves(&self, amount: Amount) -> Amount {
        self.moves(amount)
    }

    /// What the steps transferred if nothing is sent after them ([`Plan::OffChain`]). The default
    /// is `amount`, which the request requires.
    fn transferred_by_steps(&self, amount: Amount) -> Amount {
        amount
    }

    /// Whether success gives its caller a right over what was paid, as a hold does that its caller
    /// captures and voids without a signature. Then an equal request by another caller is a
    /// duplicate: a payer could otherwise settle its own payment first, and keep the right.
    fn is_bound_to_caller(&self) -> bool {
        false
    }

    /// The signatures that the verdict depends on. The engine checks them together with those of
    /// other payments. [`check`](Self::check) decides what each result means, because on some
    /// chains an account can be a program with rules of its own.
    fn signatures(&self) -> &[SignatureClaim];

    /// Checks the payment by what was observed so far: asks a question, or returns a verdict.
    ///
    /// Called first without answers, then with one more answer after each question, or with more
    /// signatures, until it returns [`Check::Valid`] or a rejection. The first call checks
    /// everything that needs no answer, so that an invalid payment costs no round trip.
    ///
    /// # Errors
    /// The verdict, if the payment is not valid.
    fn check(&self, observed: &Observed<'_, C>) -> Result<Check<C>, Rejection>;

    /// Whether a verdict of [`check`](Self::check) depends on the current time. The engine ignores
    /// such a verdict while this machine's clock cannot be trusted.
    fn depends_on_time(&self, _rejection: &Rejection) -> bool {
        false
    }

    /// The payer, if only the chain can determine it. Called after [`check`](Self::check) returned
    /// [`Check::Valid`]. `None` means the payer in [`info`](Self::info).
    fn payer(&self, _seen: &Observed<'_, C>) -> Option<String> {
        None
    }

    /// The first moment at which the authorization is no longer valid, if only the chain can tell
    /// it: where authorizations expire at a block height, for example. It may be an estimate, and
    /// must not be too early. Called like [`payer`](Self::payer), and again before each time that
    /// the payment is sent. `None` means the expiry in [`info`](Self::info).
    fn expires(&self, _observed: &Observed<'_, C>) -> Option<Timestamp> {
        None
    }

    /// How many confirmations the payment's transactions need at least. The chain's own number
    /// ([`Chain::confirmations_required`]) is the minimum for all payments.
    fn confirmations_required(&self) -> u64 {
        0
    }

    /// What settling `amount` takes now. Called after [`check`](Self::check) returned
    /// [`Check::Valid`] for `observed`, in which [`settling`](Observed::settling) is set.
    ///
    /// # Errors
    /// When the scheme does not allow settling this amount.
    fn plan(
        &self,
        amount: Amount,
        observed: &Observed<'_, C>,
    ) -> Result<Plan<C::Action>, Rejection>;

    /// The signer that must send the action: the one that the payment names, or the sender of the
    /// simulation if the sender can change its result. `None` if any signer may.
    fn sender(&self, _seen: &Observed<'_, C>) -> Option<LaneId> {
        None
    }

    /// The payer's observed balance of the asset, or what the scheme may move of it if that is
    /// less, such as an allowance. The sum of the payer's open payments must not exceed it, because
    /// each payment alone would pass its simulation. `None` if the scheme does not read a balance.
    fn balance(&self, _seen: &Observed<'_, C>) -> Option<Amount> {
        None
    }

    /// The query for the transaction that used this authorization, if `rejection` says that it was
    /// used. `None` for other rejections, and if the authorization is itself a transaction.
    fn used_by(&self, _rejection: &Rejection) -> Option<C::Search> {
        None
    }

    /// Whether success releases nothing. So it is for an act by the seller's or the facilitator's
    /// own program, such as a capture or a refund of a hold, or the claim of a channel. For a
    /// payment that buys something it is `false`: its success would be sold twice.
    ///
    /// If it releases nothing, the engine answers success to every repeat of the request. Failures
    /// do not end the authorization, because to give it up would strand money. Each failure makes
    /// the next attempt wait longer, from ten seconds to an hour.
    fn releases_nothing(&self) -> bool {
        false
    }

    /// The state record that the payment uses, such as its channel's. `None` if its scheme keeps no
    /// state, as most schemes.
    fn state_access(&self) -> Option<&StateAccess> {
        None
    }

    /// What the payment leaves behind now that `amount` has settled: the next content of its state
    /// record, and what its receipt says.
    ///
    /// `observed` has the record as it is now, and the answers of the check right before the action
    /// was planned. After a restart it has no answers. `evidence` is what the settling transaction
    /// did; `None` if nothing was sent. The engine asks again if another payment changes the record
    /// meanwhile, and after a reorganisation that included the payment again: then the record may
    /// have this change already. The money has moved, so nothing can be refused here.
    fn state_after(
        &self,
        _amount: Amount,
        _observed: &Observed<'_, C>,
        _evidence: Option<&C::Evidence>,
    ) -> StateChange {
        StateChange::default()
    }

    /// The next content of the state record, and when it is due, after a payment that did not
    /// settle: what its steps have cost, for example. `None` leaves the record as it is.
    ///
    /// Called only if a step of the payment was signed, in this attempt or an earlier one. So the
    /// record may have this change already.
    fn state_after_failure(
        &self,
        _observed: &Observed<'_, C>,
    ) -> Option<(Vec<u8>, Option<Timestamp>)> {
        None
    }

    /// What the verdict of a valid payment says in `extra`.
    fn verify_extra(&self, _observed: &Observed<'_, C>) -> Option<Object> {
        None
    }

    /// What the transaction did for this payment: whether it transferred the money, and all of it.
    ///
    /// The engine trusts the amount of [`Effect::Transferred`] and reports it. So a transfer of
    /// less or more than the scheme allows is a [`Effect::Mismatch`]. It is never asked about the
    /// transaction of a step.
    fn effect(&self, amount: Amount, evidence: &C::Evidence) -> Effect;
}

/// The facts that every scheme knows of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentInfo {
    /// The authorization's identity.
    pub id: PaymentId,
    /// The payer's address, in the chain's own spelling. If [`Payment::payer`] can determine the
    /// payer, this is the signer.
    pub payer: String,
    /// The recipient's address, in the chain's own spelling.
    pub pay_to: String,
    /// The asset, in the chain's own spelling.
    pub asset: String,
    /// The largest authorized amount, in atomic units.
    pub amount: Amount,
    /// The first moment at which the authorization is no longer valid. If only the chain can tell
    /// it, this is a moment that is certainly not earlier, and [`Payment::expires`] is more exact.
    pub expires: Timestamp,
}

/// What was observed for a payment so far.
#[derive(Debug)]
#[non_exhaustive]
pub struct Observed<'a, C: Chain + ?Sized> {
    /// Whether each of the payment's signatures is valid, in the order of the claims. Those of
    /// [`Check::Verify`] follow.
    pub signatures: &'a [bool],
    /// The answers to the questions so far, in the order of the questions.
    pub answers: &'a [C::Answer],
    /// The current time.
    pub now: Timestamp,
    /// Whether the payment is to be settled. Otherwise it is only verified.
    pub settling: bool,
    /// The steps of this payment that were included, in the order of their numbers. A step whose
    /// transaction failed is among them too: its evidence says so.
    pub completed: &'a [CompletedStep<C::Evidence>],
    /// The payment's state record, as it is now. `None` if it was never written, or if the payment
    /// uses none.
    pub state: Option<&'a SchemeState>,
    /// The numbers of the steps for which a transaction was signed, whether or not it was included.
    /// Only for [`Payment::state_after`] and [`Payment::state_after_failure`].
    pub signed_steps: &'a [NonZeroU8],
}

impl<'a, C: Chain + ?Sized> Observed<'a, C> {
    /// What was observed for a payment that is only verified.
    pub fn new(signatures: &'a [bool], answers: &'a [C::Answer], now: Timestamp) -> Self {
        Self {
            signatures,
            answers,
            now,
            settling: false,
            completed: &[],
            state: None,
            signed_steps: &[],
        }
    }

    /// The same, for a payment that is to be settled.
    #[must_use]
    pub fn settling(self) -> Self {
        Self {
            settling: true,
            ..self
        }
    }

    /// The same, for a chain that wraps this one and has the same answers and evidence.
    pub fn for_chain<D>(&self) -> Observed<'a, D>
    where
        D: Chain<Answer = C::Answer, Evidence = C::Evidence> + ?Sized,
    {
        Observed {
            signatures: self.signatures,
            answers: self.answers,
            now: self.now,
            settling: self.settling,
            completed: self.completed,
            state: self.state,
            signed_steps: self.signed_steps,
        }
    }

    /// The same, with the payment's state record.
    #[must_use]
    pub fn with_state(self, state: Option<&'a SchemeState>) -> Self {
        Self { state, ..self }
    }

    /// The same, with the steps that were signed.
    #[must_use]
    pub fn with_signed_steps(self, signed_steps: &'a [NonZeroU8]) -> Self {
        Self {
            signed_steps,
            ..self
        }
    }

    /// The same, after these steps.
    #[must_use]
    pub fn after(self, completed: &'a [CompletedStep<C::Evidence>]) -> Self {
        Self { completed, ..self }
    }
}

/// A payment's use of a state record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateAccess {
    /// The record.
    pub state: StateId,
    /// Whether the payment has the record for itself from its claim to its conclusion. Meanwhile no
    /// other payment that needs it exclusively is claimed, and none changes it off chain.
    pub exclusive: bool,
    /// For how long a verified payment keeps the record to itself, so that no other payment of it
    /// is verified until this one is settled. Zero if verifying changes nothing. A restart of the
    /// facilitator ends it. That costs no money, because the record's revision decides.
    pub hold: Duration,
    /// The reason for the others meanwhile.
    pub busy: Reason,
}

impl StateAccess {
    /// Shared use of a record. `busy` is the reason for a payment that must wait for another one.
    pub const fn new(state: StateId, busy: Reason) -> Self {
        Self {
            state,
            exclusive: false,
            hold: Duration::ZERO,
            busy,
        }
    }

    /// The same, exclusively.
    #[must_use]
    pub fn exclusive(self) -> Self {
        Self {
            exclusive: true,
            ..self
        }
    }

    /// The same, kept by a verified payment for this long.
    #[must_use]
    pub fn held_for(self, hold: Duration) -> Self {
        Self { hold, ..self }
    }
}

/// What a settled payment leaves behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateChange {
    /// The next content of the state record, and when the scheme wants to look after it. `None`
    /// leaves the record as it is.
    pub state: Option<(Vec<u8>, Option<Timestamp>)>,
    /// What the answer says besides. It is kept with the settlement.
    pub receipt: SchemeReceipt,
}

/// What state records that are due need.
#[derive(Debug, Clone, Default)]
pub struct Upkeep {
    /// Requests to settle.
    pub requests: Vec<PaymentRequest>,
    /// When records want to be seen again: the record as it was passed, and the time. `None` means
    /// not before its next write. Records that are left out come again in a minute.
    pub seen: Vec<(SchemeState, Option<Timestamp>)>,
    /// What operators must know about records, such as a deadline that comes.
    pub warnings: Vec<StateWarning>,
}

/// What operators can know of a state record, such as a channel's or a hold's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateSummary {
    /// The payer's address, in the chain's own spelling.
    pub payer: String,
    /// The recipient's address, in the chain's own spelling.
    pub pay_to: String,
    /// The asset, in the chain's own spelling.
    pub asset: String,
    /// What the recipient can still get, in atomic units. Zero if the record is history.
    pub open: Amount,
    /// Other amounts in atomic units, each with a word for it, such as `deposited`.
    pub amounts: Vec<(&'static str, Amount)>,
    /// When it can no longer get that; `None` if there is no such time.
    pub until: Option<Timestamp>,
    /// What upkeep does next, as words for a line.
    pub next: String,
}

impl StateSummary {
    /// A record of these parties, of which nothing is open.
    pub fn new(
        payer: impl Into<String>,
        pay_to: impl Into<String>,
        asset: impl Into<String>,
    ) -> Self {
        Self {
            payer: payer.into(),
            pay_to: pay_to.into(),
            asset: asset.into(),
            open: Amount::ZERO,
            amounts: Vec::new(),
            until: None,
            next: String::new(),
        }
    }
}

/// Something about a state record that an operator must know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateWarning {
    /// The record.
    pub state: StateId,
    /// What is wrong and what to do, as a sentence.
    pub detail: String,
}

impl StateWarning {
    /// A warning about this record.
    pub fn new(state: &SchemeState, detail: impl Into<String>) -> Self {
        Self {
            state: state.id,
            detail: detail.into(),
        }
    }
}

/// What settling a payment takes.
#[derive(Debug)]
pub enum Plan<Action> {
    /// To send this action. Its [`effect`](Payment::effect) settles the payment.
    Submit(Action),
    /// To send this action first, such as an approval that the payment needs. Once it is included,
    /// the payment is checked and planned again, with the step among those
    /// [`completed`](Observed::completed). After a crash too, so a scheme must not plan a completed
    /// step again. The engine sends at most [`STEPS_MAX`] steps for a payment.
    Step {
        /// The number of the step. Different steps of a payment have different numbers.
        step: NonZeroU8,
        /// The action.
        action: Action,
    },
    /// Nothing, or nothing more: the payment is settled with the steps so far. An authorization
    /// that is settled for nothing is used up nevertheless.
    ///
    /// If the payment changes a state record, that one write settles it, as for a voucher: the
    /// journal has no settlement of it, and the record must refuse the payment from then on.
    OffChain,
}

/// How many steps the engine sends for one payment, without replacements for a higher fee. Two
/// steps that are needed and a failure of each: more is a scheme that never ends, at the operator's
/// cost.
pub const STEPS_MAX: usize = 4;

impl<Action> Plan<Action> {
    /// The action to be sent, if there is one.
    pub fn action(&self) -> Option<&Action> {
        match self {
            Self::Submit(action) | Self::Step { action, .. } => Some(action),
            Self::OffChain => None,
        }
    }

    /// As [`action`](Self::action), by value.
    pub fn into_action(self) -> Option<Action> {
        match self {
            Self::Submit(action) | Self::Step { action, .. } => Some(action),
            Self::OffChain => None,
        }
    }
}

/// A step of a payment that is on the chain, with the required confirmations.
#[derive(Debug, Clone)]
pub struct CompletedStep<Evidence> {
    /// The number of the step.
    pub step: NonZeroU8,
    /// Its transaction.
    pub transaction: TransactionId,
    /// What the transaction did. It may have failed.
    pub evidence: Evidence,
}

/// The next step for a payment.
pub enum Check<C: Chain + ?Sized> {
    /// The answer to this question is needed.
    Ask(C::Read),
    /// The verdicts on these signatures are needed, which were not known before the chain was
    /// asked: of the keys that an account lists, for example. The engine adds them to
    /// [`Observed::signatures`], behind those of [`Payment::signatures`].
    Verify(Vec<SignatureClaim>),
    /// The payment is valid, as far as this can be known before it settles.
    Valid,
    /// The payment becomes valid in a later block. There is no other reason against it. The block
    /// is due after this delay; zero means the next block. The check then starts again.
    NotYet(Duration),
}

impl<C: Chain + ?Sized> std::fmt::Debug for Check<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ask(_) => "Ask",
            Self::Verify(_) => "Verify",
            Self::Valid => "Valid",
            Self::NotYet(_) => "NotYet",
        })
    }
}

/// What an included transaction did for one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The recipient received this amount from the payer, and the scheme allows no other amount.
    Transferred(Amount),
    /// Nothing, for this reason. A check against the chain's current state may give a more precise
    /// one.
    None(Rejection),
    /// Something other than this payment.
    Mismatch(Rejection),
}
