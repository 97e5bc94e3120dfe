//! A facilitator request of either protocol version, decoded to one type.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::json::{self, Json, Object};
use crate::wire::reading::exact;
use crate::wire::{self, v1};
use crate::{Amount, Malformed, Network, PaymentId, Reason, Refusal, Rejection, SaleId};

/// A version of the protocol. It determines only the format of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// `x402Version: 1`.
    V1,
    /// `x402Version: 2`.
    V2,
}

impl Version {
    /// The version with this number.
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }

    /// The number, as in `x402Version`.
    pub const fn number(self) -> u64 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

/// What a seller asks for: parsed [`wire::PaymentRequirements`] of either version.
#[derive(Debug, Clone, PartialEq)]
pub struct Requirements {
    /// The scheme.
    pub scheme: String,
    /// The network, as in the request: a CAIP-2 identifier or a version 1 name.
    pub network: String,
    /// The asset, as spelled in the request.
    pub asset: String,
    /// The recipient, as spelled in the request.
    pub pay_to: String,
    /// The amount in atomic units. For schemes that settle less than the authorized amount, a
    /// settle request has the amount to settle here.
    pub amount: Amount,
    /// The time limit for the whole payment, in seconds.
    pub max_timeout_secs: u64,
    /// Fields of the scheme.
    pub extra: Option<Object>,
}

/// What the client says that it pays. It proves nothing, and is only compared with the
/// [`Requirements`].
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The scheme the client chose.
    pub scheme: String,
    /// The network the client chose, by the client's name for it.
    pub network: String,
    /// The other requirements. Version 1 has none here.
    pub requirements: Option<AcceptedRequirements>,
}

/// The client's copy of the seller's requirements. [`check`](Self::check) compares the fields that
/// matter for every scheme. A scheme compares any further fields that matter to it.
#[derive(Debug, Clone, PartialEq)]
pub struct AcceptedRequirements {
    /// The asset, in the client's spelling.
    pub asset: String,
    /// The recipient, in the client's spelling.
    pub pay_to: String,
    /// The amount in atomic units.
    pub amount: Amount,
    /// The time limit for the whole payment, in seconds.
    pub max_timeout_secs: u64,
    /// Fields of the scheme. Clients may add to the seller's fields.
    pub extra: Option<Object>,
}

impl AcceptedRequirements {
    /// Checks that the client's copy equals what the seller asked for. `address` parses an address
    /// of the chain. Its first argument is the field's name, for its error.
    ///
    /// # Errors
    /// The error of `address`, and [`Reason::INVALID_PAYMENT_REQUIREMENTS`] if the two differ.
    pub fn check<A: PartialEq>(
        &self,
        address: impl Fn(&str, &str) -> Result<A, Malformed>,
        asset: &A,
        pay_to: &A,
        amount: Amount,
    ) -> Result<(), Refusal> {
        let differs = |what| {
            Rejection::new(
                Reason::INVALID_PAYMENT_REQUIREMENTS,
                format_args!("the accepted {what} differs from the required"),
            )
        };
        if address("paymentPayload.accepted.asset", &self.asset)? != *asset {
            return Err(differs("asset").into());
        }
        if address("paymentPayload.accepted.payTo", &self.pay_to)? != *pay_to {
            return Err(differs("payTo").into());
        }
        if self.amount != amount {
            return Err(differs("amount").into());
        }
        Ok(())
    }
}

/// A request to verify or settle: a payload, and the requirements that it must meet.
///
/// [`decode`](Self::decode) makes it from the body of `POST /verify` and `POST /settle`; a seller
/// makes it from its own messages. The request is decoded and limited in size. Its signatures are
/// not checked.
#[derive(Clone)]
pub struct PaymentRequest {
    text: Arc<str>,
    /// The protocol version of the response.
    pub version: Version,
    /// What must be paid. Always from the seller.
    pub requirements: Requirements,
    /// What the client says that it pays.
    pub accepted: Accepted,
    /// The authorization, in the scheme's own format.
    pub payload: Object,
    /// The identity of the authorization in the payload, if the seller's
    /// [`Offer::authorization`](crate::Offer::authorization) could read it. Not sent to a
    /// facilitator, which reads the payload itself.
    pub authorization: Option<PaymentId>,
    /// What is paid for, from the client: a [`wire::ResourceInfo`], or any other JSON.
    pub resource: Option<Json>,
    /// Extension data by extension identifier, or any other JSON.
    pub extensions: Option<Json>,
    /// The network with all its names, if the caller set it; see [`on`](Self::on).
    network: Option<Network>,
    /// The identity of the client's payment, if a server has completed its payload.
    origin: Option<PaymentId>,
    /// Whether the seller asks again with this payment.
    is_followed: bool,
    /// The seller's sale.
    sale: Option<SaleId>,
    /// The settlement that the payment refunds.
    refund_of: Option<PaymentId>,
    /// Who asks.
    caller: RequestCaller,
}

/// Who asks a facilitator, as far as its service knows. The journal keeps it with the settlement,
/// so a scheme can compare the callers of two acts, also after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestCaller {
    /// A caller without a key.
    #[default]
    Anyone,
    /// The caller with the key of this name.
    Known(Arc<str>),
    /// The engine itself: the request is from [`Scheme::upkeep`](crate::Scheme::upkeep).
    Engine,
}

impl RequestCaller {
    /// The caller as the journal stores it. `None` for [`Anyone`](Self::Anyone).
    pub fn to_text(&self) -> Option<String> {
        match self {
            Self::Anyone => None,
            Self::Known(name) => Some(format!("key:{name}")),
            Self::Engine => Some("engine".to_owned()),
        }
    }

    /// Reads what [`to_text`](Self::to_text) wrote. Any other text is a caller without a key.
    pub fn from_text(text: Option<&str>) -> Self {
        match text.map(|text| (text, text.strip_prefix("key:"))) {
            Some((_, Some(name))) => Self::Known(name.into()),
            Some(("engine", None)) => Self::Engine,
            _ => Self::Anyone,
        }
    }
}

message! {
    /// The body of `POST /verify` and `POST /settle`. Its parts are still text, because their
    /// format depends on the version.
    struct Envelope {
        /// The protocol version.
        optional x402_version as "x402Version" by exact::count: u64,
        /// The payload.
        required payment_payload as "paymentPayload": Box<Text>,
        /// The requirements.
        required payment_requirements as "paymentRequirements": Box<Text>,
    }
}

message! {
    /// The field of a payload that determines the format of the others.
    struct Versioned {
        /// The protocol version.
        optional x402_version as "x402Version" by exact::count: u64,
    }
}

/// Raw JSON text that compares its bytes. [`RawValue`] has no comparison.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
struct Text(Box<RawValue>);

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl PaymentRequest {
    /// Reads the body of `POST /verify` or `POST /settle`.
    ///
    /// The request and its payload both have an `x402Version`, and the reference implementation
    /// reads only the payload's. One of them is enough.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] if the body is not a request; the error names the field.
    /// [`Refusal::Rejected`] if the protocol version is missing or unknown, or differs between the
    /// request and its payload.
    pub fn decode(body: &[u8]) -> Result<Self, Refusal> {
        let envelope: Envelope = json::read("body", body)?;
        // `read` has validated the UTF-8 of every string, and JSON outside of strings is ASCII.
        let text = std::str::from_utf8(body).map_err(|error| Malformed::new("body", error))?;
        let payload = envelope.payment_payload.0.get().as_bytes();
        let outer = envelope.x402_version;
        let version = version(match outer {
            Some(_) => outer,
            None => json::read::<Versioned>("paymentPayload", payload)?.x402_version,
        })?;
        let requirements = envelope.payment_requirements.0.get().as_bytes();
        match version {
            Version::V2 => Self::lower(
                text.into(),
                read_payload(version, payload)?,
                json::read("paymentRequirements", requirements)?,
            ),
            Version::V1 => Self::lower_v1(
                text.into(),
                read_payload(version, payload)?,
                json::read("paymentRequirements", requirements)?,
            ),
        }
    }

    /// The seller's request for a payload and the requirements that it must meet.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn new(
        payload: wire::PaymentPayload,
        requirements: wire::PaymentRequirements,
    ) -> Result<Self, Refusal> {
        let text = envelope_text(Version::V2, &payload, &requirements)?;
        Self::lower(text, payload, requirements)
    }

    /// As [`new`](Self::new), for protocol version 1.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn new_v1(
        payload: v1::PaymentPayload,
        requirements: v1::PaymentRequirements,
    ) -> Result<Self, Refusal> {
        let text = envelope_text(Version::V1, &payload, &requirements)?;
        Self::lower_v1(text, payload, requirements)
    }

    /// The same request with all names of its network. A facilitator's response may then use the
    /// other name.
    #[must_use]
    pub fn on(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// Whether `name` may be the network of this request. If the caller did not set all names, a
    /// CAIP-2 identifier and a version 1 name may name the same network.
    pub fn may_be_on(&self, name: &str) -> bool {
        let own = self.requirements.network.as_str();
        match &self.network {
            _ if name == own => true,
            Some(network) => network.is(name),
            None => name.contains(':') != own.contains(':'),
        }
    }

    /// The exact JSON text of the request, for a journal or for another facilitator.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The identity of the client's payment: one value for all requests of one sale, whatever the
    /// seller has added to the payload since. It is the [`authorization`](Self::authorization) if
    /// that is known, and otherwise a hash of the payload.
    pub fn origin(&self) -> PaymentId {
        let of_payload = || PaymentId::from_bytes(self.payload.canonical_hash());
        self.origin
            .or(self.authorization)
            .unwrap_or_else(of_payload)
    }

    /// The same payment with a payload that the seller has completed, and with another amount to
    /// settle. Everything else stays as it was sent, and so does the [`origin`](Self::origin).
    ///
    /// # Errors
    /// When the request would be too long.
    pub fn completed(&self, payload: Object, amount: Amount) -> Result<Self, Malformed> {
        let envelope: Envelope = json::read("body", self.text.as_bytes())?;
        let sent = envelope.payment_payload.0.get().as_bytes();
        let required = envelope.payment_requirements.0.get().as_bytes();
        let amount = amount.to_string();
        let request = match self.version {
            Version::V2 => {
                let mut sent: wire::PaymentPayload = json::read("paymentPayload", sent)?;
                let mut required: wire::PaymentRequirements =
                    json::read("paymentRequirements", required)?;
                sent.payload = payload;
                required.amount = amount;
                Self::new(sent, required)
            }
            Version::V1 => {
                let mut sent: v1::PaymentPayload = json::read("paymentPayload", sent)?;
                let mut required: v1::PaymentRequirements =
                    json::read("paymentRequirements", required)?;
                sent.payload = payload;
                required.max_amount_required = amount;
                Self::new_v1(sent, required)
            }
        };
        let request = request.map_err(|refusal| match refusal {
            Refusal::Malformed(malformed) => malformed,
            Refusal::Rejected(rejection) => Malformed::new("body", rejection),
        })?;
        Ok(Self {
            authorization: self.authorization,
            network: self.network.clone(),
            origin: Some(self.origin()),
            sale: self.sale.clone(),
            refund_of: self.refund_of,
            caller: self.caller.clone(),
            ..request
        })
    }

    /// The same payment with another amount to settle. With its own amount it is the same request.
    ///
    /// # Errors
    /// As [`completed`](Self::completed).
    pub fn charging(&self, amount: Amount) -> Result<Self, Malformed> {
        match amount == self.requirements.amount {
            true => Ok(self.clone()),
            false => self.completed(self.payload.clone(), amount),
        }
    }

    /// The information (`info`) that the client gives in this extension; `None` if there is none.
    pub fn extension_info(&self, name: &str) -> Option<Json> {
        #[derive(serde::Deserialize)]
        struct Extension {
            info: Option<Json>,
        }
        let extensions: BTreeMap<String, Json> =
            self.extensions.as_ref()?.read("extensions").ok()?;
        let extension: Extension = extensions.get(name)?.read(name).ok()?;
        extension.info
    }

    /// The same request, for this sale. It is not part of the [`text`](Self::text).
    #[must_use]
    pub fn with_sale(mut self, sale: SaleId) -> Self {
        self.sale = Some(sale);
        self
    }

    /// The seller's sale, if it is known.
    pub fn sale(&self) -> Option<&SaleId> {
        self.sale.as_ref()
    }

    /// The same request, asked by this caller. It is not part of the [`text`](Self::text), so that
    /// no caller can name another one.
    #[must_use]
    pub fn by(mut self, caller: RequestCaller) -> Self {
        self.caller = caller;
        self
    }

    /// Who asks.
    pub fn caller(&self) -> &RequestCaller {
        &self.caller
    }

    /// The same request, as a refund of this settlement: a payment by its recipient to its payer.
    /// It is not part of the [`text`](Self::text).
    ///
    /// A facilitator settles it only if the settlement has settled, and if the amount is left of
    /// it: all its refunds together never exceed it.
    #[must_use]
    pub fn as_refund_of(mut self, settlement: PaymentId) -> Self {
        self.refund_of = Some(settlement);
        self
    }

    /// The settlement that the payment refunds, if it is a refund.
    pub fn refund_of(&self) -> Option<PaymentId> {
        self.refund_of
    }

    /// The same request, which another one of the same payment follows. The facilitator that has
    /// settled this one must get the next one, too.
    #[must_use]
    pub fn with_successor(mut self) -> Self {
        self.is_followed = true;
        self
    }

    /// Whether another request of the same payment follows.
    pub fn has_successor(&self) -> bool {
        self.is_followed
    }

    fn lower(
        text: Arc<str>,
        payload: wire::PaymentPayload,
        requirements: wire::PaymentRequirements,
    ) -> Result<Self, Refusal> {
        same_version(Version::V2, payload.x402_version)?;
        let wire::PaymentPayload { accepted, .. } = payload;
        Ok(Self {
            text,
            version: Version::V2,
            requirements: Requirements {
                scheme: requirements.scheme,
                network: requirements.network,
                amount: amount("paymentRequirements.amount", &requirements.amount)?,
                asset: requirements.asset,
                pay_to: requirements.pay_to,
                max_timeout_secs: requirements.max_timeout_seconds,
                extra: requirements.extra,
            },
            accepted: Accepted {
                scheme: accepted.scheme,
                network: accepted.network,
                requirements: Some(AcceptedRequirements {
                    amount: amount("paymentPayload.accepted.amount", &accepted.amount)?,
                    asset: accepted.asset,
                    pay_to: accepted.pay_to,
                    max_timeout_secs: accepted.max_timeout_seconds,
                    extra: accepted.extra,
                }),
            },
            payload: payload.payload,
            authorization: None,
            resource: payload.resource,
            extensions: payload.extensions,
            network: None,
            origin: None,
            is_followed: false,
            sale: None,
            refund_of: None,
            caller: RequestCaller::Anyone,
        })
    }

    fn lower_v1(
        text: Arc<str>,
        payload: v1::PaymentPayload,
        requirements: v1::PaymentRequirements,
    ) -> Result<Self, Refusal> {
        same_version(Version::V1, payload.x402_version)?;
        Ok(Self {
            text,
            version: Version::V1,
            requirements: Requirements {
                scheme: requirements.scheme,
                network: requirements.network,
                amount: amount(
                    "paymentRequirements.maxAmountRequired",
                    &requirements.max_amount_required,
                )?,
                asset: requirements.asset,
                pay_to: requirements.pay_to,
                max_timeout_secs: requirements.max_timeout_seconds,
                extra: requirements.extra,
            },
            accepted: Accepted {
                scheme: payload.scheme,
                network: payload.network,
                requirements: None,
            },
            payload: payload.payload,
            authorization: None,
            resource: requirements.resource.and_then(|url| resource_v1(&url)),
            extensions: None,
            network: None,
            origin: None,
            is_followed: false,
            sale: None,
            refund_of: None,
            caller: RequestCaller::Anyone,
        })
    }
}

impl fmt::Debug for PaymentRequest {
    /// Omits the payload: its signature can move money until the payment is settled.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PaymentRequest")
            .field("version", &self.version)
            .field("requirements", &self.requirements)
            .finish_non_exhaustive()
    }
}

fn version(number: Option<u64>) -> Result<Version, Rejection> {
    let number = number
        .ok_or_else(|| Rejection::new(Reason::INVALID_X402_VERSION, "x402Version is missing"))?;
    Version::from_number(number).ok_or_else(|| {
        Rejection::new(
            Reason::INVALID_X402_VERSION,
            format_args!("unsupported x402Version {number}: the supported versions are 1 and 2"),
        )
    })
}

/// Reads a payload of this version. If that fails because the payload has another version, the
/// error says so.
fn read_payload<P: DeserializeOwned>(version: Version, text: &[u8]) -> Result<P, Refusal> {
    const NAME: &str = "paymentPayload";
    json::read(NAME, text).map_err(|malformed| {
        let inner = json::read::<Versioned>(NAME, text);
        let said = inner.ok().and_then(|inner| inner.x402_version);
        match said.map_or(Ok(()), |inner| same_version(version, inner)) {
            Err(rejection) => rejection.into(),
            Ok(()) => malformed.into(),
        }
    })
}

fn same_version(outer: Version, inner: u64) -> Result<(), Rejection> {
    if outer.number() == inner {
        return Ok(());
    }
    let detail = format!(
        "x402Version is {} in the request and {inner} in its payload",
        outer.number()
    );
    Err(Rejection::new(Reason::INVALID_X402_VERSION, detail))
}

/// The resource of version 1 requirements, in the format of version 2.
fn resource_v1(url: &str) -> Option<Json> {
    Json::of(&BTreeMap::from([("url", url)])).ok()
}

fn amount(field: &str, text: &str) -> Result<Amount, Malformed> {
    text.parse().map_err(|error| Malformed::new(field, error))
}

fn envelope_text<P: Serialize, R: Serialize>(
    version: Version,
    payload: &P,
    requirements: &R,
) -> Result<Arc<str>, Malformed> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Envelope<'a, P, R> {
        #[serde(rename = "x402Version")]
        version: u64,
        payment_payload: &'a P,
        payment_requirements: &'a R,
    }
    let envelope = Envelope {
        version: version.number(),
        payment_payload: payload,
        payment_requirements: requirements,
    };
    let text = serde_json::to_string(&envelope).map_err(|error| Malformed::new("body", error))?;
    if text.len() > json::TEXT_MAX {
        return Err(Malformed::new(
            "body",
            format_args!("longer than {} bytes", json::TEXT_MAX),
        ));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAYLOAD: &str = include_str!("../vectors/payment_payload.json");

    fn body(version: &str) -> String {
        let payload: wire::PaymentPayload = json::read("payload", PAYLOAD.as_bytes()).unwrap();
        let requirements = serde_json::to_string(&payload.accepted).unwrap();
        format!(
            r#"{{"x402Version":{version},"paymentPayload":{PAYLOAD},"paymentRequirements":{requirements}}}"#
        )
    }

    fn body_v1() -> String {
        let payload = r#"{"x402Version":1,"scheme":"exact","network":"base-sepolia","payload":{"signature":"0x"}}"#;
        let requirements = r#"{"scheme":"exact","network":"base-sepolia","maxAmountRequired":"2500","resource":"https://weather.example/",
            "description":"","mimeType":"","payTo":"0x1","maxTimeoutSeconds":60,"asset":"0x2","outputSchema":null,"extra":{"name":"USDC"}}"#;
        format!(
            r#"{{"x402Version":1,"paymentPayload":{payload},"paymentRequirements":{requirements}}}"#
        )
    }

    fn refused(body: &str) -> Refusal {
        PaymentRequest::decode(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn both_versions_are_lowered_to_one_form() {
        let request = PaymentRequest::decode(body("2").as_bytes()).unwrap();
        assert_eq!(request.version, Version::V2);
        assert_eq!(
            (
                request.requirements.network.as_str(),
                request.requirements.amount
            ),
            ("eip155:84532", Amount::from(2500))
        );
        let v1 = PaymentRequest::decode(body_v1().as_bytes()).unwrap();
        assert_eq!(v1.version, Version::V1);
        assert_eq!(
            (v1.requirements.network.as_str(), v1.requirements.amount),
            ("base-sepolia", Amount::from(2500))
        );
        let resource: wire::ResourceInfo = v1.resource.unwrap().read("resource").unwrap();
        assert_eq!(resource.url, "https://weather.example/");
        assert_eq!(v1.accepted.requirements, None);
    }

    #[test]
    fn request_from_messages_equals_decoded_request() {
        let payload: wire::PaymentPayload = json::read("payload", PAYLOAD.as_bytes()).unwrap();
        let requirements = payload.accepted.clone();
        let made = PaymentRequest::new(payload, requirements).unwrap();
        let read = PaymentRequest::decode(made.text().as_bytes()).unwrap();
        assert_eq!(
            (made.requirements, made.accepted, made.payload),
            (read.requirements, read.accepted, read.payload)
        );
    }

    /// The unknown fields, the spelling and the names of what the seller does not change stay.
    #[test]
    fn completed_payment_keeps_its_origin_and_all_else() {
        let known = Network::new("eip155:84532").unwrap();
        for body in [body("2"), body_v1()] {
            let body = body.replacen("\"payload\":", "\"later\":[1e0],\"payload\":", 1);
            let request = PaymentRequest::decode(body.as_bytes()).unwrap();
            let sale = SaleId::from_bytes([7; 16]);
            let request = request.on(known.clone()).with_sale(sale);
            let payload: Object = serde_json::from_str(r#"{"type":"claim"}"#).unwrap();
            let completed = request.completed(payload.clone(), Amount::from(7));
            let completed = completed.unwrap();
            assert_eq!(completed.origin(), request.origin());
            assert_eq!(completed.payload, payload);
            assert_eq!(completed.requirements.amount, Amount::from(7));
            assert_eq!(completed.accepted, request.accepted);
            assert!(completed.text().contains("[1e0]"), "{}", completed.text());
            assert_eq!(completed.network, request.network);
            assert_eq!(completed.sale(), request.sale());
            assert!(!completed.text().contains("07070707"));
            let back = completed.completed(request.payload.clone(), request.requirements.amount);
            let back = back.unwrap();
            assert_eq!(
                (back.payload, back.requirements),
                (request.payload.clone(), request.requirements.clone())
            );
            let same = request.charging(request.requirements.amount).unwrap();
            assert_eq!(same.text(), request.text());
            assert_ne!(
                request.charging(Amount::ZERO).unwrap().text(),
                request.text()
            );
        }
    }

    #[test]
    fn origin_is_the_authorization_if_that_is_known() {
        let mut request = PaymentRequest::decode(body("2").as_bytes()).unwrap();
        let spelled = body("2").replace("0x", "0X");
        let spelled = PaymentRequest::decode(spelled.as_bytes()).unwrap();
        assert_eq!(spelled.origin(), request.origin());
        let id = PaymentId::from_parts(&[b"one"]);
        request.authorization = Some(id);
        assert_eq!(request.origin(), id);
    }

    #[test]
    fn a_wrong_version_is_a_verdict_of_its_own() {
        for version in ["3", "0", "1"] {
            let Refusal::Rejected(rejection) = refused(&body(version)) else {
                panic!("{version} is readable")
            };
            assert_eq!(rejection.reason, Reason::INVALID_X402_VERSION);
            assert!(rejection.to_string().contains("x402Version"), "{rejection}");
        }
        let mixed = body("2").replacen("\"x402Version\": 2", "\"x402Version\": 1", 1);
        assert!(
            matches!(refused(&mixed), Refusal::Rejected(rejection) if rejection.reason == Reason::INVALID_X402_VERSION)
        );
        assert!(
            matches!(refused(&body("\"two\"")), Refusal::Malformed(malformed) if malformed.field == "body.x402Version")
        );
    }

    #[test]
    fn amounts_follow_the_one_grammar() {
        for text in ["2500.0", "-1", "02500", "0x9c4", " 2500"] {
            let odd = body("2").replace("\"amount\":\"2500\"", &format!("\"amount\":\"{text}\""));
            assert!(
                matches!(refused(&odd), Refusal::Malformed(malformed) if malformed.field == "paymentRequirements.amount")
            );
        }
        for (number, exact) in [("2500", true), ("2500.0", false), ("25e2", false)] {
            let odd = body("2").replace("\"amount\": \"2500\"", &format!("\"amount\": {number}"));
            match (PaymentRequest::decode(odd.as_bytes()), exact) {
                (Ok(request), true) => assert_eq!(request.requirements.amount, Amount::from(2500)),
                (Err(Refusal::Malformed(malformed)), false) => {
                    assert_eq!(malformed.field, "paymentPayload.accepted.amount");
                }
                (other, _) => panic!("{number}: {other:?}"),
            }
        }
    }

    /// The reference facilitator reads only the payload's version, and some seller libraries write
    /// only that one.
    #[test]
    fn one_copy_of_the_version_is_enough() {
        let [v2, v1] = [body("2"), body_v1()];
        let without_outer = |body: &str, version: u8| {
            body.replacen(&format!("{{\"x402Version\":{version},"), "{", 1)
        };
        let without_inner = v2.replacen("\"x402Version\": 2,", "", 1);
        let without_inner_v1 = v1.replacen("{\"x402Version\":1,\"scheme\"", "{\"scheme\"", 1);
        for (body, version) in [
            (without_outer(&v2, 2), Version::V2),
            (body("null"), Version::V2),
            (body("\"2\""), Version::V2),
            (without_inner, Version::V2),
            (without_outer(&v1, 1), Version::V1),
            (without_inner_v1, Version::V1),
        ] {
            let request = PaymentRequest::decode(body.as_bytes());
            assert_eq!(request.unwrap().version, version, "{body}");
        }
        let neither = without_outer(&v2, 2).replacen("\"x402Version\": 2,", "", 1);
        let Refusal::Rejected(rejection) = refused(&neither) else {
            panic!("a request without a version is readable")
        };
        assert_eq!(rejection.reason, Reason::INVALID_X402_VERSION);
    }

    #[test]
    fn what_the_client_accepted_reaches_the_scheme_whole() {
        let accepted = PaymentRequest::decode(body("2").as_bytes())
            .unwrap()
            .accepted;
        let terms = accepted.requirements.unwrap();
        let extra = terms.extra.unwrap().tree();
        assert_eq!(
            (terms.max_timeout_secs, &extra["name"]),
            (60, &"USDC".into())
        );
    }

    #[test]
    fn a_network_has_the_names_that_are_known_of_it() {
        let request = PaymentRequest::decode(body("2").as_bytes()).unwrap();
        assert!(request.may_be_on("eip155:84532") && !request.may_be_on("eip155:1"));
        // The request's own version 1 name is not known.
        assert!(request.may_be_on("base"));
        let known = Network::new("eip155:84532")
            .unwrap()
            .with_alias("base-sepolia");
        let request = request.on(known);
        assert!(request.may_be_on("base-sepolia") && request.may_be_on("eip155:84532"));
        assert!(
            !request.may_be_on("base") && !request.may_be_on("eip155:1") && !request.may_be_on("")
        );
    }

    #[test]
    fn the_network_of_a_request_that_cannot_be_read_is_found() {
        let named = |body: &str| wire::network_named(body.as_bytes());
        let broken = body("2").replacen("\"payTo\"", "\"payto\"", 1);
        for body in [
            body("3"),
            body("[]"),
            broken,
            body("2")[..body("2").len() - 3].to_owned(),
        ] {
            assert_eq!(named(&body).as_deref(), Some("eip155:84532"), "{body}");
        }
        assert_eq!(named(&body_v1()).as_deref(), Some("base-sepolia"));
        assert_eq!(
            named(r#"{"paymentPayload":{"network":"base"}}"#).as_deref(),
            Some("base")
        );
        for none in ["", "[]", r#"{"paymentRequirements":{"network":7}}"#] {
            assert_eq!(named(none), None);
        }
        let long = format!(
            r#"{{"paymentRequirements":{{"network":"{}"}}}}"#,
            "a".repeat(42)
        );
        assert_eq!(named(&long), None);
    }

    #[test]
    fn body_without_a_request_is_malformed_with_its_field() {
        for (body, field) in [
            ("", "body"),
            ("null", "body"),
            ("[]", "body"),
            ("{}", "body"),
            (
                r#"{"x402Version":2,"paymentPayload":{},"paymentRequirements":{}}"#,
                "paymentPayload",
            ),
            (r#"{"x402Version":2,"x402Version":2}"#, "body"),
        ] {
            match refused(body) {
                Refusal::Malformed(malformed) => {
                    assert!(malformed.field.starts_with(field), "{body}: {malformed}")
                }
                Refusal::Rejected(rejection) => panic!("{body}: {rejection}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = PaymentRequest::decode(&bytes);
        }

        #[test]
        fn no_damage_to_a_real_request_panics(at: prop::sample::Index, byte: u8, version in 1u8..3) {
            let mut text = if version == 1 { body_v1() } else { body("2") }.into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            let _ = PaymentRequest::decode(&text);
        }
    }
}
