//! The JSON file in which earlier versions of this library kept open payments.

use std::path::Path;

use quittance_core::Version;
use serde::Deserialize;

use crate::error::StateError;
use crate::open::OpenPayment;
use crate::payment::{Exposure, KeptPayment, PurchaseKey, RequestId, SignedForm};

/// The last version of the JSON format. Version 1 lacks some fields and is read too.
const JSON_VERSION: u64 = 2;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u64,
    payments: Vec<Payment>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Payment {
    purchase: String,
    /// Since version 2.
    #[serde(default)]
    asked: Option<String>,
    x402_version: u64,
    /// Either this or the payload.
    #[serde(default)]
    header: Option<String>,
    /// Since version 2, for payments that have expired.
    #[serde(default)]
    payload: Option<String>,
    standing: Standing,
    open: OpenPayment,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Standing {
    Unseen,
    Cleared,
    /// In version 1, `refused` meant that a server denied the payment, which proves nothing.
    #[serde(alias = "refused")]
    Doubtful,
}

/// Parses the JSON of the file at `path`.
pub(crate) fn parse(
    path: &Path,
    text: &[u8],
) -> Result<Vec<(PurchaseKey, KeptPayment)>, StateError> {
    let file: File = serde_json::from_slice(text).map_err(|error| StateError::Json {
        path: path.to_owned(),
        line: error.line(),
        column: error.column(),
    })?;
    if !(1..=JSON_VERSION).contains(&file.version) {
        return Err(StateError::Version {
            path: path.to_owned(),
            found: file.version,
            supported: JSON_VERSION,
        });
    }
    let payments = file.payments.into_iter();
    payments
        .map(|payment| {
            let id = payment.open.id.clone();
            convert(payment).map_err(|field| StateError::Invalid {
                path: path.to_owned(),
                id,
                field,
            })
        })
        .collect()
}

/// The payment, or the name of its invalid field.
fn convert(payment: Payment) -> Result<(PurchaseKey, KeptPayment), &'static str> {
    let key = hash(&payment.purchase).ok_or("purchase")?;
    let request = match payment.asked {
        Some(text) => Some(RequestId(hash(&text).ok_or("asked")?)),
        None => None,
    };
    let form = match (payment.header, payment.payload) {
        (Some(value), None) if is_base64(&value) => SignedForm::Header(value),
        (None, Some(text)) => SignedForm::Payload(text),
        _ => return Err("header or payload"),
    };
    let exposure = match payment.standing {
        Standing::Unseen => Exposure::None,
        Standing::Cleared => Exposure::Refused,
        Standing::Doubtful => Exposure::Possible,
    };
    let payment = KeptPayment {
        request,
        version: Version::from_number(payment.x402_version).ok_or("x402Version")?,
        form,
        exposure,
        open: payment.open,
        was_used: false,
    };
    Ok((PurchaseKey(key), payment))
}

/// Whether the text can be the value of a payment header.
pub(crate) fn is_base64(text: &str) -> bool {
    let belongs = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    text.bytes().all(belongs)
}

/// A hash in 64 hexadecimal digits.
fn hash(text: &str) -> Option<[u8; 32]> {
    let id: quittance_core::PaymentId = text.parse().ok()?;
    Some(*id.as_bytes())
}
