//! Reports the outcome of a payment to its payer.

use quittance_core::{Next, PaymentOutcome};
use tokio::time::timeout_at;

use super::answer::Refused;
use crate::choose::Selection;
use crate::deadline::Deadline;
use crate::payment::KeptPayment;
use crate::receipt::Receipt;

/// Reports that the server delivered or charged.
pub(super) async fn report_delivery(
    selection: &Selection<'_>,
    payment: &KeptPayment,
    receipt: Option<&Receipt>,
    deadline: Deadline,
) {
    let receipt = receipt.and_then(Receipt::message);
    let outcome = PaymentOutcome::Served {
        receipt: receipt.as_ref(),
    };
    // What follows from a delivery is decided: the payment is over.
    report(selection, payment, outcome, deadline).await;
}

/// Reports a refusal, and returns what follows from it.
pub(super) async fn report_refusal(
    selection: &Selection<'_>,
    payment: &KeptPayment,
    refused: &Refused,
    presented_before: bool,
    deadline: Deadline,
) -> Next {
    let receipt = refused.receipt.as_ref().and_then(Receipt::message);
    let outcome = PaymentOutcome::Refused {
        terms: refused.options.as_ref().map_or(&[], |it| &it.accepts),
        receipt: receipt.as_ref(),
        presented_before,
    };
    report(selection, payment, outcome, deadline).await
}

/// A payer that does not answer in time keeps the payment, which is safe for every payment.
async fn report(
    selection: &Selection<'_>,
    payment: &KeptPayment,
    outcome: PaymentOutcome<'_>,
    deadline: Deadline,
) -> Next {
    let Some(payload) = payment.form.payload() else {
        return Next::Keep;
    };
    let observing = selection
        .payer
        .observe(&selection.requirements, &payload, outcome);
    let next = timeout_at(deadline.at(), observing).await;
    next.unwrap_or(Next::Keep)
}
