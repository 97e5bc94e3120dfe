//! What an earlier settlement of an authorization means for a request.

use quittance_core::{PaymentRequest, Reason, Rejection};
use quittance_journal::{FAILURES_MAX, Outcome, Settlement, State};

/// What an earlier settlement of an authorization means for a request.
pub(super) enum Prior {
    /// There is none, or it ended without a transfer and may be tried again. The request is
    /// verified like any other.
    Free(Option<Box<Settlement>>),
    /// The settlement belongs to the same request. It is in progress, or has settled without a
    /// success report.
    Same(Box<Settlement>),
    /// The settlement belongs to another request, or has ended for good. The rejection is the
    /// verdict.
    Over(Rejection, Box<Settlement>),
}

impl Prior {
    /// What a settlement means for a request with the same authorization.
    ///
    /// Only an identical payload may share a settlement. Another signature over the same
    /// authorization may be from a caller without a right to it. If the payment `is_bound` to its
    /// caller, only that caller may.
    pub(super) fn new(request: &PaymentRequest, settlement: Settlement, is_bound: bool) -> Self {
        let is_same = is_same(request, &settlement, is_bound);
        // Success that releases nothing is reported to every repeat, and never given up.
        let is_once = !settlement.claim.retries_without_limit;
        let is_reported = is_once && settlement.success_reported_at.is_some();
        let failed_too_often = is_once && settlement.failures >= FAILURES_MAX;
        let detail = match &settlement.state {
            State::Concluded(Outcome::Failed { .. } | Outcome::Released { .. })
                if failed_too_often =>
            {
                "this authorization has failed too often"
            }
            // The chain says whether it can still be used.
            State::Concluded(Outcome::Failed { .. } | Outcome::Released { .. }) => {
                return Self::Free(Some(Box::new(settlement)));
            }
            State::Concluded(Outcome::Lost { .. }) if !is_once => {
                return Self::Free(Some(Box::new(settlement)));
            }
            State::Open if is_reported => {
                "success was reported, the chain took the payment back, and it is being sent again"
            }
            State::Open | State::Concluded(Outcome::Settled { .. }) if is_same && !is_reported => {
                return Self::Same(Box::new(settlement));
            }
            State::Open => "another request with this authorization is in progress",
            State::Concluded(Outcome::Lost { .. }) => {
                "success was reported, the chain took the payment back, and it cannot be sent again"
            }
            State::Concluded(Outcome::Settled { .. }) => {
                "this authorization has settled, and success was reported for it"
            }
        };
        let duplicate = Rejection::new(Reason::DUPLICATE_SETTLEMENT, detail);
        Self::Over(duplicate, Box::new(settlement))
    }
}

/// Whether a request is the one that was claimed, and by the same caller if the payment `is_bound`
/// to it.
pub(super) fn is_same(request: &PaymentRequest, settlement: &Settlement, is_bound: bool) -> bool {
    let is_same_caller = settlement.claim.caller == request.caller().to_text();
    (is_same_caller || !is_bound) && is_same_request(request, settlement)
}

fn is_same_request(request: &PaymentRequest, settlement: &Settlement) -> bool {
    PaymentRequest::decode(settlement.claim.request.as_bytes()).is_ok_and(|claimed| {
        let [ours, theirs] = [&request.requirements, &claimed.requirements];
        claimed.payload == request.payload
            && settlement.claim.refund_of == request.refund_of()
            && (&ours.scheme, &ours.asset, &ours.pay_to)
                == (&theirs.scheme, &theirs.asset, &theirs.pay_to)
            && ours.amount == theirs.amount
    })
}
