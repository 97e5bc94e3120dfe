//! Wire messages: those of protocol version 2 here, those of version 1 in [`v1`], and their HTTP
//! headers in [`header`].
//!
//! These types keep what was sent. Text stays text. Unknown fields are kept in `rest` and
//! serialized again, because a client must echo what a server advertised. They are not interpreted
//! here: [`PaymentRequest`](crate::PaymentRequest) does that for both versions.
//!
//! Fields that affect a payment are parsed strictly: an invalid one makes the message invalid, and
//! the error names it. A number in place of a string, or a string in place of a number, is accepted
//! if its value is exact. Informational fields never make a message invalid. Both kinds are
//! serialized as they came.

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
use crate::{Reason, Rejection, SaleId};

message! {
    /// The server's 402 response: the payment options for a resource. Specification section 5.1.
    pub struct PaymentRequired {
        /// Always 2; may be absent.
        implied(2) x402_version as "x402Version" by exact::count: u64,
        /// For people: why payment is required, or why an earlier payment was refused.
        optional error as "error" by loose::words: String,
        /// What is paid for: a [`ResourceInfo`]. Informational, so it may be any JSON.
        optional resource as "resource": Json,
        /// The payment options. The client chooses one.
        required accepts as "accepts": Vec<PaymentRequirements>,
        /// Extension data by extension identifier. Not interpreted here, so it may be any JSON.
        optional extensions as "extensions": Json,
    }
}

message! {
    /// One payment option. Specification section 5.1.2.
    pub struct PaymentRequirements {
        /// The scheme, such as `exact`.
        required scheme as "scheme": String,
        /// The network's CAIP-2 identifier.
        required network as "network": String,
        /// The amount, in atomic units of the asset.
        required amount as "amount" by exact::digits: String,
        /// The asset: a token contract or mint.
        required asset as "asset": String,
        /// The recipient.
        required pay_to as "payTo": String,
        /// The time limit for the whole payment, in seconds.
        required max_timeout_seconds as "maxTimeoutSeconds" by exact::count: u64,
        /// Fields of the scheme, such as the name and version of a token's EIP-712 domain.
        optional extra as "extra": Object,
    }
}

message! {
    /// What is paid for. Specification section 5.1.2.
    pub struct ResourceInfo {
        /// The resource's URL.
        required url as "url": String,
        /// For people: what it is.
        optional description as "description": String,
        /// The MIME type of the response.
        optional mime_type as "mimeType": String,
        /// For people: the name of the service.
        optional service_name as "serviceName": String,
        /// For discovery: its topics.
        optional tags as "tags": Vec<String>,
        /// The URL of an image for it.
        optional icon_url as "iconUrl": String,
    }
}

message! {
    /// The client's payment: the requirements it chose, and its signed authorization. Specification
    /// section 5.2.
    pub struct PaymentPayload {
        /// Always 2; may be absent.
        implied(2) x402_version as "x402Version" by exact::count: u64,
        /// What is paid for, as the server sent it: a [`ResourceInfo`], or any other JSON.
        optional resource as "resource": Json,
        /// The requirements the client chose, as the server sent them.
        required accepted as "accepted": PaymentRequirements,
        /// The authorization, in the scheme's own format.
        required payload as "payload": Object,
        /// Extension data by extension identifier, or any other JSON.
        optional extensions as "extensions": Json,
    }
}

message! {
    /// A facilitator's response to `POST /verify`. Specification section 5.4.
    pub struct VerifyResponse {
        /// Whether the payment would settle now.
        required is_valid as "isValid": bool,
        /// The reason code, if the payment would not settle.
        optional invalid_reason as "invalidReason" by loose::words: String,
        /// For people: details of the reason.
        optional invalid_message as "invalidMessage" by loose::words: String,
        /// The payer.
        optional payer as "payer" by loose::value: String,
        /// Extension data.
        optional extensions as "extensions" by loose::value: Object,
        /// Data of the scheme.
        optional extra as "extra" by loose::value: Object,
    }
}

message! {
    /// A facilitator's response to `POST /settle`, and the server's receipt to its client.
    /// Specification section 5.3.
    pub struct SettleResponse {
        /// Whether the money was transferred. Only the JSON value `true` is a success.
        required success as "success": bool,
        /// The reason code, if the money was not transferred.
        optional error_reason as "errorReason" by loose::words: String,
        /// For people: details of the reason.
        optional error_message as "errorMessage" by loose::words: String,
        /// The payer.
        optional payer as "payer" by loose::value: String,
        /// The transaction; empty if none is known.
        implied(String::new()) transaction as "transaction" by partial::transaction: String,
        /// The network, as in the request; empty if it is omitted.
        implied(String::new()) network as "network" by loose::value: String,
        /// The transferred amount, in atomic units.
        optional amount as "amount" by loose::words: String,
        /// Extension data.
        optional extensions as "extensions" by loose::value: Object,
        /// Data of the scheme, and the address where the settlement's state can be read later.
        optional extra as "extra" by loose::value: Object,
    }
}

message! {
    /// A facilitator's response to `GET /supported`. Specification section 7.3.
    pub struct SupportedResponse {
        /// The kinds of payment it settles. An invalid kind is omitted; the others stay.
        required kinds as "kinds" by loose::items: Vec<SupportedKind>,
        /// The extensions it implements.
        optional extensions as "extensions" by loose::value: Vec<String>,
        /// Its signers' addresses, by network pattern such as `eip155:*`.
        optional signers as "signers" by loose::value: BTreeMap<String, Vec<String>>,
    }
}

message! {
    /// One kind of payment that a facilitator settles. Specification section 7.3.1.
    pub struct SupportedKind {
        /// The protocol version.
        required x402_version as "x402Version" by exact::count: u64,
        /// The scheme.
        required scheme as "scheme": String,
        /// The network. Version 1 kinds use its version 1 name.
        required network as "network": String,
        /// What a server needs in order to offer it.
        optional extra as "extra" by loose::value: Object,
    }
}

impl PaymentRequired {
    /// The message with these payment options.
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
    /// The requirements with these values and without `extra`. The arguments have the order of the
    /// specification's table.
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
    /// The response with these kinds.
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
    /// The kind with this protocol version, scheme and network, without `extra`.
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
    /// The verdict that the payment of `payer` is valid.
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
    pub fn invalid(rejection: &Rejection, payer: Option<String>) -> Self {
        Self {
            is_valid: false,
            invalid_reason: Some(rejection.reason.to_string()),
            invalid_message: message(rejection),
            extra: rejection.extra.as_deref().cloned(),
            ..Self::valid(payer)
        }
    }

    /// Whether the payment has settled, and its success was reported to the same sale before: see
    /// [`SaleId::REPEATED`](crate::SaleId::REPEATED).
    pub fn is_repeated(&self) -> bool {
        self.is_valid && is_repeated(self.extra.as_ref())
    }

    /// The verdict against the payment; `None` if the payment is valid. The reason code is empty if
    /// the response has none.
    pub fn rejection(&self) -> Option<Rejection> {
        let (reason, message) = (&self.invalid_reason, &self.invalid_message);
        (!self.is_valid).then(|| rejection(reason, message, self.extra.as_ref()))
    }
}

impl SettleResponse {
    /// The response that this transaction transferred the money.
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

    /// The response that the money was not transferred, or that this caller gets no success for it.
    /// `transaction` is the known transaction, or empty.
    pub fn failed(
        network: &str,
        rejection: &Rejection,
        payer: Option<String>,
        transaction: &str,
    ) -> Self {
        Self {
            success: false,
            error_reason: Some(rejection.reason.to_string()),
            error_message: message(rejection),
            extra: rejection.extra.as_deref().cloned(),
            ..Self::settled(network, payer, transaction)
        }
    }

    /// Whether the success was reported to the same sale before: see
    /// [`SaleId::REPEATED`](crate::SaleId::REPEATED).
    pub fn is_repeated(&self) -> bool {
        self.success && is_repeated(self.extra.as_ref())
    }

    /// Why the caller gets no success; `None` if it gets one. The reason code is empty if the
    /// response has none.
    pub fn rejection(&self) -> Option<Rejection> {
        let (reason, message) = (&self.error_reason, &self.error_message);
        (!self.success).then(|| rejection(reason, message, self.extra.as_ref()))
    }

    /// Whether the transaction was sent and its outcome is not known yet. The caller must ask again
    /// and must not pay again.
    pub fn is_pending(&self) -> bool {
        !self.success
            && !self.transaction.is_empty()
            && self.error_reason.as_deref() == Some(Reason::SETTLEMENT_PENDING.code())
    }
}

/// The text of a rejection for people. An empty text is omitted.
fn message(rejection: &Rejection) -> Option<String> {
    let detail = rejection.detail.as_ref();
    detail.filter(|detail| !detail.is_empty()).cloned()
}

fn is_repeated(extra: Option<&Object>) -> bool {
    let field = extra.and_then(|extra| extra.tree().remove(SaleId::REPEATED));
    field == Some(true.into())
}

/// The rejection with these fields of a response.
fn rejection(
    reason: &Option<String>,
    message: &Option<String>,
    extra: Option<&Object>,
) -> Rejection {
    Rejection {
        reason: Reason::from_code(reason.clone().unwrap_or_default()),
        detail: message.clone(),
        extra: extra.cloned().map(Box::new),
    }
}

#[cfg(test)]
mod tests;
