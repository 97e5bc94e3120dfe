//! What the wire carries: the messages of protocol version 2 here, those of version 1 in [`v1`], and their HTTP
//! headers in [`header`].
//!
//! These types keep what was sent: text stays text, and fields this library does not know are kept in `rest` and
//! printed again, because a client must echo what a server advertised. They decide nothing. Meaning begins with
//! [`PaymentRequest`](crate::PaymentRequest), to which both versions are lowered.
//!
//! Fields that decide are read strictly: one field that cannot be read makes the message unreadable, and the error names
//! it. A number in place of a text, or a text in place of a number, is accepted where its value is exact. Fields that
//! decide nothing never make a message unreadable. Both kinds are printed again as they came.

#[macro_use]
mod message;
pub mod header;
mod partial;
pub(crate) mod reading;
pub mod v1;

use std::collections::BTreeMap;

pub use message::Rest;
pub use partial::{UnreadableSettlement, network_named, transaction_named};

use self::reading::{exact, loose};
use crate::json::{Json, Object};

message! {
    /// The server's answer 402: what it accepts for a resource. Specification section 5.1.
    pub struct PaymentRequired {
        /// Always 2, also where it is left out.
        implied(2) x402_version as "x402Version" by exact::count: u64,
        /// For people: why payment is required. Also carries the reason why an earlier payment was refused.
        optional error as "error" by loose::words: String,
        /// What is being paid for: a [`ResourceInfo`]. It decides nothing, so it may be any JSON.
        optional resource as "resource": Json,
        /// The ways to pay; the client chooses one.
        required accepts as "accepts": Vec<PaymentRequirements>,
        /// Extension data by extension identifier. It decides nothing here, so it may be any JSON.
        optional extensions as "extensions": Json,
    }
}

message! {
    /// One way to pay. Specification section 5.1.2.
    pub struct PaymentRequirements {
        /// How the payment is made, such as `exact`.
        required scheme as "scheme": String,
        /// Where: a CAIP-2 network.
        required network as "network": String,
        /// How much, in atomic units of the asset.
        required amount as "amount" by exact::digits: String,
        /// Which asset: a token contract or mint.
        required asset as "asset": String,
        /// Who receives it.
        required pay_to as "payTo": String,
        /// How long the whole payment may take, in seconds.
        required max_timeout_seconds as "maxTimeoutSeconds" by exact::count: u64,
        /// What only this scheme needs, such as the name and version a token signs with.
        optional extra as "extra": Object,
    }
}

message! {
    /// What is being paid for. Specification section 5.1.2.
    pub struct ResourceInfo {
        /// The resource's URL.
        required url as "url": String,
        /// For people: what it is.
        optional description as "description": String,
        /// The MIME type of the answer.
        optional mime_type as "mimeType": String,
        /// For people: who serves it.
        optional service_name as "serviceName": String,
        /// For discovery: what it is about.
        optional tags as "tags": Vec<String>,
        /// An image for it.
        optional icon_url as "iconUrl": String,
    }
}

message! {
    /// The client's payment: the requirements it chose and its signed authorization. Specification section 5.2.
    pub struct PaymentPayload {
        /// Always 2, also where it is left out.
        implied(2) x402_version as "x402Version" by exact::count: u64,
        /// What is being paid for, as the server said: a [`ResourceInfo`], or any other JSON.
        optional resource as "resource": Json,
        /// The requirements the client chose, as the server said them.
        required accepted as "accepted": PaymentRequirements,
        /// The authorization, in the scheme's own form.
        required payload as "payload": Object,
        /// Extension data by extension identifier, or any other JSON.
        optional extensions as "extensions": Json,
    }
}

message! {
    /// A facilitator's answer to `POST /verify`. Specification section 5.4.
    pub struct VerifyResponse {
        /// Whether the payment would settle now.
        required is_valid as "isValid": bool,
        /// The reason code where it would not.
        optional invalid_reason as "invalidReason" by loose::words: String,
        /// For people: more about the reason.
        optional invalid_message as "invalidMessage" by loose::words: String,
        /// Who pays.
        optional payer as "payer" by loose::value: String,
        /// Extension data.
        optional extensions as "extensions" by loose::value: Object,
        /// Scheme data.
        optional extra as "extra" by loose::value: Object,
    }
}

message! {
    /// A facilitator's answer to `POST /settle`, and the server's receipt to its client. Specification section 5.3.
    pub struct SettleResponse {
        /// Whether the money has moved. Only the JSON value `true` is a success.
        required success as "success": bool,
        /// The reason code where it has not.
        optional error_reason as "errorReason" by loose::words: String,
        /// For people: more about the reason.
        optional error_message as "errorMessage" by loose::words: String,
        /// Who pays.
        optional payer as "payer" by loose::value: String,
        /// The transaction, or nothing where none is known.
        implied(String::new()) transaction as "transaction" by partial::transaction: String,
        /// The network, as the request named it; nothing where it is left out.
        implied(String::new()) network as "network" by loose::value: String,
        /// How much has moved, in atomic units.
        optional amount as "amount" by loose::words: String,
        /// Extension data.
        optional extensions as "extensions" by loose::value: Object,
        /// Scheme data, and where to ask for the settlement's state later.
        optional extra as "extra" by loose::value: Object,
    }
}

message! {
    /// A facilitator's answer to `GET /supported`. Specification section 7.3.
    pub struct SupportedResponse {
        /// What it settles. A kind that cannot be read is left out and spoils no other.
        required kinds as "kinds" by loose::items: Vec<SupportedKind>,
        /// The extensions it implements.
        optional extensions as "extensions" by loose::value: Vec<String>,
        /// The addresses it signs with, by network pattern such as `eip155:*`.
        optional signers as "signers" by loose::value: BTreeMap<String, Vec<String>>,
    }
}

message! {
    /// One thing a facilitator settles. Specification section 7.3.1.
    pub struct SupportedKind {
        /// For which protocol version.
        required x402_version as "x402Version" by exact::count: u64,
        /// Which scheme.
        required scheme as "scheme": String,
        /// On which network; version 1 kinds use its version 1 name.
        required network as "network": String,
        /// What a server needs to know to offer it.
        optional extra as "extra" by loose::value: Object,
    }
}

impl PaymentRequired {
    /// The message that offers these payment options.
    pub fn new(accepts: Vec<PaymentRequirements>) -> Self {
        Self {
            x402_version: 2,
            error: None,
            resource: None,
            accepts,
            extensions: None,
            rest: Rest::default(),
        }
    }
}

impl PaymentRequirements {
    /// The requirements with these values and without `extra`, in the order of the specification's table.
    pub fn new(
        scheme: &str,
        network: &str,
        amount: &str,
        asset: &str,
        pay_to: &str,
        max_timeout_seconds: u64,
    ) -> Self {
        Self {
            scheme: scheme.to_owned(),
            network: network.to_owned(),
            amount: amount.to_owned(),
            asset: asset.to_owned(),
            pay_to: pay_to.to_owned(),
            max_timeout_seconds,
            extra: None,
            rest: Rest::default(),
        }
    }
}

impl PaymentPayload {
    /// The payment that accepts these requirements with this authorization.
    pub fn new(accepted: PaymentRequirements, payload: Object) -> Self {
        Self {
            x402_version: 2,
            resource: None,
            accepted,
            payload,
            extensions: None,
            rest: Rest::default(),
        }
    }
}

impl SupportedResponse {
    /// The answer with these kinds.
    pub fn new(kinds: Vec<SupportedKind>) -> Self {
        Self {
            kinds,
            extensions: None,
            signers: None,
            rest: Rest::default(),
        }
    }
}

impl SupportedKind {
    /// The kind of this protocol version, scheme and network, without `extra`.
    pub fn new(x402_version: u64, scheme: &str, network: &str) -> Self {
        Self {
            x402_version,
            scheme: scheme.to_owned(),
            network: network.to_owned(),
            extra: None,
            rest: Rest::default(),
        }
    }
}

impl VerifyResponse {
    /// A verdict for the payment of `payer`.
    pub fn valid(payer: Option<String>) -> Self {
        Self {
            is_valid: true,
            invalid_reason: None,
            invalid_message: None,
            payer,
            extensions: None,
            extra: None,
            rest: Rest::default(),
        }
    }

    /// A verdict against the payment.
    pub fn invalid(rejection: &crate::Rejection, payer: Option<String>) -> Self {
        Self {
            is_valid: false,
            invalid_reason: Some(rejection.reason.to_string()),
            invalid_message: message(rejection),
            ..Self::valid(payer)
        }
    }
}

impl SettleResponse {
    /// The money has moved, in this transaction.
    pub fn settled(network: &str, payer: Option<String>, transaction: &str) -> Self {
        Self {
            success: true,
            error_reason: None,
            error_message: None,
            payer,
            transaction: transaction.to_owned(),
            network: network.to_owned(),
            amount: None,
            extensions: None,
            extra: None,
            rest: Rest::default(),
        }
    }

    /// The money has not moved, or not for this caller; `transaction` is the one that is known, or nothing.
    pub fn failed(
        network: &str,
        rejection: &crate::Rejection,
        payer: Option<String>,
        transaction: &str,
    ) -> Self {
        Self {
            success: false,
            error_reason: Some(rejection.reason.to_string()),
            error_message: message(rejection),
            ..Self::settled(network, payer, transaction)
        }
    }

    /// Whether this says "broadcast, outcome not known yet": to be asked again, never to be paid again.
    pub fn is_pending(&self) -> bool {
        !self.success
            && !self.transaction.is_empty()
            && self.error_reason.as_deref() == Some(crate::Reason::SETTLEMENT_PENDING.code())
    }
}

/// What a rejection says for people; an empty text says nothing and is left out.
fn message(rejection: &crate::Rejection) -> Option<String> {
    let detail = rejection.detail.as_ref();
    detail.filter(|detail| !detail.is_empty()).cloned()
}

#[cfg(test)]
mod tests;
