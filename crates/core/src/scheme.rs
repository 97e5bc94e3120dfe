//! A scheme says what a payment is. It never signs, never sends, and keeps no state between calls.

use std::time::Duration;

use crate::json::Object;
use crate::{
    Amount, Chain, LaneId, PaymentId, PaymentRequest, Refusal, Rejection, SignatureClaim,
    Timestamp, Version,
};

/// A way to pay on chains of type `C`, such as `exact`.
///
/// Who adds a scheme writes this trait and [`Payment`] and registers it; verification in batches, the journal, lanes,
/// fees, recovery, limits and metrics come from the engine.
pub trait Scheme<C: Chain + ?Sized>: Send + Sync + 'static {
    /// The name on the wire.
    fn name(&self) -> &str;

    /// The protocol versions it is spoken in.
    fn versions(&self) -> &[Version] {
        &[Version::V2]
    }

    /// What sellers need to know to offer it: the `extra` of `GET /supported`.
    fn extra(&self) -> Option<Object> {
        None
    }

    /// The assets it settles, as the chain spells them. An asset nobody listed is not settled.
    fn assets(&self) -> Vec<String>;

    /// Reads a payment from a request.
    ///
    /// Pure: the same request at the same time gives the same payment, on any machine and in any later run. The
    /// journal keeps requests and reads them again after a crash; it keeps the version, `terms`, `accepted` and `payload`
    /// ([`PaymentRequest::kept_text`]), and nothing else may be read here.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] for what cannot be read, naming the field; [`Refusal::Rejected`] for a check of the
    /// scheme that needs nothing but the request.
    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<C>>, Refusal>;
}

/// One authorization by a payer, decoded. Holds everything the scheme needs to judge and settle it; all methods are
/// pure and may be called any number of times.
pub trait Payment<C: Chain + ?Sized>: Send + Sync {
    /// What every scheme can say of a payment.
    fn info(&self) -> &PaymentInfo;

    /// The signatures the verdict depends on. They are checked together with those of other payments; what follows
    /// from each is for [`check`](Self::check) to say, because on some chains an account can be a program with rules of
    /// its own.
    fn signatures(&self) -> &[SignatureClaim];

    /// Judges the payment by what has been seen so far: asks a question, or is content.
    ///
    /// Called first with no answers, then again with one more answer after each question, until it is content or
    /// rejects. What needs no answer is checked in the first call, so that a payment that cannot be valid costs no
    /// round trip.
    ///
    /// # Errors
    /// The verdict, when it is against the payment.
    fn check(&self, observed: &Observed<'_, C>) -> Result<Check<C>, Rejection>;

    /// Whether a verdict of [`check`](Self::check) depends on what time it is. Where this machine's
    /// clock cannot be trusted, it does not count.
    fn depends_on_time(&self, _rejection: &Rejection) -> bool {
        false
    }

    /// Who pays, where only the chain can say; asked once [`check`](Self::check) was content with what was `seen`. `None`
    /// where it is whom the [`info`](Self::info) name.
    fn payer(&self, _seen: &Observed<'_, C>) -> Option<String> {
        None
    }

    /// The action that moves `amount`, once [`check`](Self::check) was content with what was `seen`.
    ///
    /// # Errors
    /// When the scheme does not allow settling this amount.
    fn action(&self, amount: Amount, observed: &Observed<'_, C>) -> Result<C::Action, Rejection>;

    /// Which signer must send the action; `None` where any may.
    fn lane(&self) -> Option<&LaneId> {
        None
    }

    /// Which signer must send the action because of what was `seen`: the one whose transaction it was tried as, where that
    /// can make a difference. `None` where any may.
    fn sender(&self, _seen: &Observed<'_, C>) -> Option<LaneId> {
        self.lane().cloned()
    }

    /// How much of the asset the payer was `seen` to have. What a payer has under way must fit into it, all payments together:
    /// each alone would pass its simulation. `None` where the scheme does not look at a balance.
    fn balance(&self, _seen: &Observed<'_, C>) -> Option<Amount> {
        None
    }

    /// What finds the transaction that used this authorization, if `rejection` says that it was used. `None` where it
    /// says something else, and where the authorization is itself a transaction.
    fn used_by(&self, _rejection: &Rejection) -> Option<C::Search> {
        None
    }

    /// What really happened, as far as this payment is concerned: did the money move, all of it?
    fn effect(&self, amount: Amount, evidence: &C::Evidence) -> Effect;
}

/// What every scheme can say of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentInfo {
    /// The authorization's identity.
    pub id: PaymentId,
    /// Who pays, as the chain spells it: whoever has signed, where [`Payment::payer`] tells more.
    pub payer: String,
    /// Who receives, as the chain spells it.
    pub pay_to: String,
    /// The asset, as the chain spells it.
    pub asset: String,
    /// How much is authorized, at most.
    pub amount: Amount,
    /// The first moment at which the authorization can no longer be used.
    pub expires: Timestamp,
}

/// What has been seen of a payment so far.
#[derive(Debug)]
pub struct Observed<'a, C: Chain + ?Sized> {
    /// Whether each of the payment's signatures holds, in their order.
    pub signatures: &'a [bool],
    /// The answers to the questions asked so far, in their order.
    pub answers: &'a [C::Answer],
    /// The time now.
    pub now: Timestamp,
}

/// What a payment needs next.
pub enum Check<C: Chain + ?Sized> {
    /// The answer to this question.
    Ask(C::Read),
    /// Nothing: it is valid, as far as can be known before it settles.
    Valid,
    /// A later block: nothing speaks against the payment but that it opens this much later, or with
    /// the next block where that is zero. The check begins anew then.
    NotYet(Duration),
}

impl<C: Chain + ?Sized> std::fmt::Debug for Check<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ask(_) => "Ask",
            Self::Valid => "Valid",
            Self::NotYet(_) => "NotYet",
        })
    }
}

/// What an included transaction did for one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The payee received this much from the payer.
    Transferred(Amount),
    /// Nothing, with the code for that. What the chain says of the payment now may tell why.
    None(Rejection),
    /// Something else than it should have. That is all there is to say.
    Mismatch(Rejection),
}
