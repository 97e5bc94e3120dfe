//! The scheme's words on the wire, and the identity of a payment.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_core::json::{Object, where_readable};
use quittance_core::{Refusal, Rejection};
use serde::Deserialize;

use super::reason;
use crate::transaction::{PaymentTransaction, SIZE_MAX};

/// The scheme's name on the wire.
pub(super) const NAME: &str = "exact";

/// The payload: a transaction in base64.
#[derive(Deserialize)]
pub(super) struct PayloadJson {
    #[serde(default)]
    transaction: Option<String>,
}

/// The requirements' `extra`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Extra {
    #[serde(default)]
    pub(super) fee_payer: Option<String>,
    #[serde(default)]
    pub(super) token_program: Option<String>,
    #[serde(default)]
    pub(super) memo: Option<String>,
    /// A hint for payers. It decides nothing.
    #[serde(default, deserialize_with = "where_readable")]
    pub(super) recent_blockhash: Option<String>,
}

/// Parses the transaction of a payload.
pub(super) fn read_transaction(payload: &Object) -> Result<PaymentTransaction, Refusal> {
    /// The length of the longest transaction in base64.
    const TEXT_MAX: usize = SIZE_MAX.div_ceil(3) * 4;
    let payload: PayloadJson = payload.read("paymentPayload.payload")?;
    let missing = || Rejection::new(reason::TRANSACTION, "the payload has no field transaction");
    let text = payload.transaction.ok_or_else(missing)?;
    let undecodable =
        |what: &str| Refusal::from(Rejection::new(reason::COULD_NOT_BE_DECODED, what));
    if text.len() > TEXT_MAX {
        return Err(undecodable("longer than a transaction can be"));
    }
    let bytes = BASE64
        .decode(text)
        .map_err(|error| undecodable(&format!("not base64: {error}")))?;
    PaymentTransaction::parse(&bytes).map_err(|error| undecodable(&error.to_string()))
}
