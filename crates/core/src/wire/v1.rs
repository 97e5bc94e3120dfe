//! The messages of protocol version 1 that differ from version 2. Version 1 names networks
//! (`base-sepolia`), puts the resource into the requirements, and does not repeat the requirements
//! in the payload.

use super::message::Rest;
use super::reading::{exact, loose};
use super::{PaymentRequirements as RequirementsV2, ResourceInfo};
use crate::json::{Json, Object};

message! {
    /// The body of a version 1 response 402. Version 1 specification section 5.1.
    pub struct PaymentRequired {
        /// Always 1, also where it is left out.
        implied(1) x402_version as "x402Version" by exact::count: u64,
        /// For people: why payment is required.
        optional error as "error" by loose::words: String,
        /// The payment options; the client chooses one.
        required accepts as "accepts": Vec<PaymentRequirements>,
    }
}

message! {
    /// One payment option. Version 1 specification section 5.1.2.
    pub struct PaymentRequirements {
        /// The scheme, such as `exact`.
        required scheme as "scheme": String,
        /// The network, by its version 1 name.
        required network as "network": String,
        /// The amount, in atomic units of the asset.
        required max_amount_required as "maxAmountRequired" by exact::digits: String,
        /// The resource's URL. No decision depends on it.
        optional resource as "resource" by loose::value: String,
        /// The description, for people.
        optional description as "description" by loose::value: String,
        /// The MIME type of the response.
        optional mime_type as "mimeType" by loose::value: String,
        /// A JSON Schema of the response.
        optional output_schema as "outputSchema": Json,
        /// The recipient.
        required pay_to as "payTo": String,
        /// The time limit of the whole payment, in seconds.
        required max_timeout_seconds as "maxTimeoutSeconds" by exact::count: u64,
        /// The asset: a token contract or mint.
        required asset as "asset": String,
        /// Fields of the scheme.
        optional extra as "extra": Object,
    }
}

message! {
    /// The client's payment. Version 1 specification section 5.2.
    pub struct PaymentPayload {
        /// Always 1, also where it is left out.
        implied(1) x402_version as "x402Version" by exact::count: u64,
        /// The scheme the client chose.
        required scheme as "scheme": String,
        /// The network the client chose.
        required network as "network": String,
        /// The authorization, in the scheme's own form.
        required payload as "payload": Object,
    }
}

impl PaymentRequired {
    /// The message that offers these payment options for this reason.
    pub fn new(error: &str, accepts: Vec<PaymentRequirements>) -> Self {
        Self {
            x402_version: 1,
            error: Some(error.to_owned()),
            accepts,
            rest: Rest::default(),
        }
    }
}

impl PaymentRequirements {
    /// Version 2 requirements in the form of version 1, with the network's version 1 name and with
    /// the resource. The reference implementation requires `description` and `mimeType`, so that
    /// they are empty if the resource has none.
    pub fn from_v2(requirements: RequirementsV2, network: &str, resource: &ResourceInfo) -> Self {
        Self {
            scheme: requirements.scheme,
            network: network.to_owned(),
            max_amount_required: requirements.amount,
            resource: Some(resource.url.clone()),
            description: Some(resource.description.clone().unwrap_or_default()),
            mime_type: Some(resource.mime_type.clone().unwrap_or_default()),
            output_schema: None,
            pay_to: requirements.pay_to,
            max_timeout_seconds: requirements.max_timeout_seconds,
            asset: requirements.asset,
            extra: requirements.extra,
            rest: Rest::default(),
        }
    }
}

/// The same requirements in the form of version 2. The network keeps its version 1 name.
impl From<PaymentRequirements> for RequirementsV2 {
    fn from(requirements: PaymentRequirements) -> Self {
        Self {
            scheme: requirements.scheme,
            network: requirements.network,
            amount: requirements.max_amount_required,
            asset: requirements.asset,
            pay_to: requirements.pay_to,
            max_timeout_seconds: requirements.max_timeout_seconds,
            extra: requirements.extra,
            rest: Rest::default(),
        }
    }
}

impl PaymentPayload {
    /// The payment for requirements with this scheme and network, with this authorization.
    pub fn new(scheme: &str, network: &str, payload: Object) -> Self {
        Self {
            x402_version: 1,
            scheme: scheme.to_owned(),
            network: network.to_owned(),
            payload,
            rest: Rest::default(),
        }
    }
}
