//! The messages of protocol version 1 that differ from version 2. Version 1 names networks (`base-sepolia`), puts the
//! resource into the requirements, and does not repeat the requirements in the payload.

use super::reading::{exact, loose};
use crate::json::{Json, Object};

message! {
    /// The body of a version 1 answer 402. Version 1 specification section 5.1.
    pub struct PaymentRequired {
        /// Always 1, also where it is left out.
        implied(1) x402_version as "x402Version" by exact::count: u64,
        /// For people: why payment is required.
        optional error as "error" by loose::words: String,
        /// The ways to pay; the client chooses one.
        required accepts as "accepts": Vec<PaymentRequirements>,
    }
}

message! {
    /// One way to pay. Version 1 specification section 5.1.2.
    pub struct PaymentRequirements {
        /// How the payment is made, such as `exact`.
        required scheme as "scheme": String,
        /// Where: a version 1 network name.
        required network as "network": String,
        /// How much, in atomic units of the asset.
        required max_amount_required as "maxAmountRequired" by exact::digits: String,
        /// The resource's URL. It decides nothing.
        optional resource as "resource" by loose::value: String,
        /// For people: what it is.
        optional description as "description" by loose::value: String,
        /// The MIME type of the answer.
        optional mime_type as "mimeType" by loose::value: String,
        /// A JSON Schema of the answer.
        optional output_schema as "outputSchema": Json,
        /// Who receives it.
        required pay_to as "payTo": String,
        /// How long the whole payment may take, in seconds.
        required max_timeout_seconds as "maxTimeoutSeconds" by exact::count: u64,
        /// Which asset: a token contract or mint.
        required asset as "asset": String,
        /// What only this scheme needs.
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
