//! Signing a new payment within the limits.

use quittance_core::json::Object;
use quittance_core::{Clock, PayerError, Quote, SignedPayment, Turn};
use quittance_http::{PAYMENT_IDENTIFIER, PaymentIdentifier};
use sha2::{Digest, Sha256};
use tokio::time::timeout_at;

use crate::budget::{Budget, LimitError};
use crate::choose::Selection;
use crate::deadline::Deadline;
use crate::open::OpenPayment;
use crate::options::PaymentOptions;
use crate::payment::{Exposure, KeptPayment, SignedForm};
use crate::purchases::{PaymentGuard, Purchases};

/// Why no payment was signed.
#[derive(Debug)]
pub(crate) enum SignError {
    /// Too many payments to this server, or to all servers, are open.
    TooManyOpen { origin: String },
    /// The limits do not allow the payment.
    OverLimit(LimitError),
    /// The payer did not sign.
    Payer(PayerError),
}

/// Signs a payment for this selection to the server at `origin`, and adds it to the open payments.
pub(crate) async fn sign(
    budget: &Budget,
    purchases: &Purchases,
    clock: &dyn Clock,
    options: &PaymentOptions,
    selection: &Selection<'_>,
    origin: String,
    deadline: Deadline,
) -> Result<PaymentGuard, SignError> {
    if !purchases.has_room(&origin, clock.now()) {
        return Err(SignError::TooManyOpen { origin });
    }
    let signing = sign_only(budget, clock, options, selection, origin, deadline);
    let (payment, turn) = signing.await?;
    Ok(purchases.insert(selection.key, payment).with_turn(turn))
}

/// Signs a payment for this selection. The caller adds it to the open payments at once, and keeps
/// the turn while it presents the payment.
pub(crate) async fn sign_only(
    budget: &Budget,
    clock: &dyn Clock,
    options: &PaymentOptions,
    selection: &Selection<'_>,
    origin: String,
    deadline: Deadline,
) -> Result<(KeptPayment, Turn), SignError> {
    let late = || SignError::Payer(PayerError::signing("the payer did not sign in time"));
    let (payer, requirements) = (selection.payer, &selection.requirements);
    let turn = timeout_at(deadline.at(), payer.turn(requirements)).await;
    let turn = turn.map_err(|_| late())?;
    // An earlier payment can have changed what this one locks up.
    let quote = payer.quote(requirements);
    let quote = quote.map_err(|error| SignError::Payer(error.into()))?;
    budget.spend(&quote).map_err(SignError::OverLimit)?;
    let signing = payer.pay(requirements, options.extensions(), clock.now());
    let signed = timeout_at(deadline.at(), signing).await;
    let signed = signed.map_err(|_| late());
    let signed = signed.and_then(|signed| signed.map_err(SignError::Payer));
    let signed = signed.inspect_err(|_| budget.give_back(&quote))?;
    let signed = with_identifier(signed, options);
    let (version, header) = options.payment_header(&selection.requirements, &signed);
    let Quote {
        network,
        pay_to,
        asset,
        amount,
        locks: _,
    } = quote;
    let open = OpenPayment {
        id: payment_id(&header),
        network,
        origin,
        asset: asset.address,
        symbol: asset.symbol,
        decimals: Some(asset.decimals),
        pay_to,
        amount,
        expires: signed.expires,
        transaction: None,
    };
    let payment = KeptPayment {
        request: Some(selection.request),
        version,
        form: SignedForm::Header(header),
        exposure: Exposure::None,
        open,
        was_used: false,
    };
    Ok((payment, turn))
}

/// The payment with a random name, if the seller reads such names. The name is stored with the
/// payment, so a repeated request has the same one.
fn with_identifier(signed: SignedPayment, options: &PaymentOptions) -> SignedPayment {
    let offered = options.extensions().map(Object::tree).unwrap_or_default();
    let is_offered = offered.get(PAYMENT_IDENTIFIER);
    if !is_offered.is_some_and(serde_json::Value::is_object) {
        return signed;
    }
    let mut extensions = signed
        .extensions
        .as_ref()
        .map(Object::tree)
        .unwrap_or_default();
    let identifier = PaymentIdentifier::from_bytes(rand::random());
    extensions.insert(PAYMENT_IDENTIFIER.to_owned(), identifier.presented());
    match Object::of(&extensions) {
        Ok(extensions) => SignedPayment {
            extensions: Some(extensions),
            ..signed
        },
        Err(_) => signed,
    }
}

/// The identifier of a payment: 8 bytes of a hash, which reveal nothing about it.
fn payment_id(header: &str) -> String {
    let hash: [u8; 32] = Sha256::digest(header).into();
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
