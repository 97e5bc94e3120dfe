//! `GET /openapi.json`, made from the types of requests and responses.

use std::sync::{Arc, LazyLock};

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{IntoResponses, Modify, OpenApi};

use crate::error::ErrorBody;

/// The description of the HTTP interface.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Quittance facilitator",
        description = "Verifies and settles x402 payments. A verdict against a payment is a 200 response with isValid or success \
            false. 400 means that the request cannot be decoded. 429, 500 and 503 are not verdicts on the payment.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    paths(
        crate::payments::verify,
        crate::payments::settle,
        crate::payments::refund,
        crate::settlements::by_id,
        crate::settlements::by_transaction,
        crate::events::stream,
        crate::health::supported,
        crate::health::health,
        crate::metrics::render,
        render,
    ),
    modifiers(&KeyScheme),
)]
struct Description;

struct KeyScheme;

impl Modify for KeyScheme {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let components = description.components.get_or_insert_default();
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("key", scheme);
    }
}

static TEXT: LazyLock<String> = LazyLock::new(|| {
    let text = Description::openapi().to_json();
    text.expect("the description has only text keys")
});

/// The description of the HTTP interface, for programs that compare answers with it.
pub fn openapi() -> Arc<Value> {
    Arc::new(serde_json::from_str(&TEXT).expect("the description is JSON"))
}

/// This description.
#[utoipa::path(
    get,
    path = "/openapi.json",
    responses(
        (status = 200, description = "OpenAPI 3.1.", body = Object, content_type = "application/json"),
        CommonErrors,
    ),
)]
pub(crate) async fn render() -> Response {
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

/// The errors of every path.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only the description uses the variants")]
pub(crate) enum CommonErrors {
    /// The path does not support the method.
    #[response(status = 405)]
    MethodNotAllowed(#[to_schema] ErrorBody),
    /// The caller sends too many requests. This is not a verdict on a payment.
    #[response(status = 429, headers(("Retry-After" = u64, description = "When to retry, in seconds.")))]
    RateLimited(#[to_schema] ErrorBody),
    /// A bug in the service. This is not a verdict on a payment.
    #[response(status = 500)]
    Internal(#[to_schema] ErrorBody),
}

/// The error of the paths that ask the engine.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only the description uses the type")]
#[response(
    status = 503,
    description = "There is no verdict. Sending the same request again is safe.",
    headers(("Retry-After" = u64, description = "When to retry, in seconds."))
)]
pub(crate) struct NoVerdict(#[to_schema] ErrorBody);

/// The error of the paths that look something up.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only the description uses the type")]
#[response(status = 404, description = "The requested object does not exist.")]
pub(crate) struct NotFound(#[to_schema] ErrorBody);

/// The error of a query that lacks its parameter.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only the description uses the type")]
#[response(status = 400, description = "The query names no transaction.")]
pub(crate) struct QueryErrors(#[to_schema] ErrorBody);

/// The errors of a position in the feed of events.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only the description uses the variants")]
pub(crate) enum CursorErrors {
    /// The position is not the id of an event.
    #[response(status = 400)]
    Invalid(#[to_schema] ErrorBody),
    /// The events behind this position were removed, or it is of another journal.
    #[response(status = 410)]
    Unknown(#[to_schema] ErrorBody),
}

/// The errors of the paths that look up settlements.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only the description uses the variants")]
pub(crate) enum LookupErrors {
    /// The key is missing or wrong.
    #[response(status = 401)]
    Unauthorized(#[to_schema] ErrorBody),
    /// The path does not support the method.
    #[response(status = 405)]
    MethodNotAllowed(#[to_schema] ErrorBody),
    /// The caller sends too many requests.
    #[response(status = 429, headers(("Retry-After" = u64, description = "When to retry, in seconds.")))]
    RateLimited(#[to_schema] ErrorBody),
    /// A bug in the service.
    #[response(status = 500)]
    Internal(#[to_schema] ErrorBody),
    /// The journal cannot be read now. Sending the same request again is safe.
    #[response(status = 503, headers(("Retry-After" = u64, description = "When to retry, in seconds.")))]
    Unavailable(#[to_schema] ErrorBody),
}

/// The errors of the paths that take a payment.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only the description uses the variants")]
pub(crate) enum PaymentErrors {
    /// The request cannot be decoded. The answer names the field.
    #[response(status = 400)]
    BadRequest(#[to_schema] ErrorBody),
    /// The key is missing or wrong.
    #[response(status = 401)]
    Unauthorized(#[to_schema] ErrorBody),
    /// The path does not support the method.
    #[response(status = 405)]
    MethodNotAllowed(#[to_schema] ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    BodyTimeout(#[to_schema] ErrorBody),
    /// The body is larger than 64 KiB.
    #[response(status = 413)]
    TooLarge(#[to_schema] ErrorBody),
    /// The content type is not application/json.
    #[response(status = 415)]
    UnsupportedMediaType(#[to_schema] ErrorBody),
    /// The caller sends too many requests. This is not a verdict on the payment.
    #[response(status = 429, headers(("Retry-After" = u64, description = "When to retry, in seconds.")))]
    RateLimited(#[to_schema] ErrorBody),
    /// A bug in the service. This is not a verdict on the payment.
    #[response(status = 500)]
    Internal(#[to_schema] ErrorBody),
    /// There is no verdict. Sending the same request again is safe.
    #[response(status = 503, headers(("Retry-After" = u64, description = "When to retry, in seconds.")))]
    NoVerdict(#[to_schema] ErrorBody),
}

/// The messages of the x402 specification. Their types are in `quittance-core`, which knows no
/// OpenAPI; a test compares the fields of both.
#[allow(dead_code, reason = "only the description uses the fields")]
pub(crate) mod responses {
    use std::collections::BTreeMap;

    use serde::Serialize;
    use serde_json::{Map, Value};
    use utoipa::ToSchema;

    /// A JSON object.
    type Object = Map<String, Value>;

    /// The requirements of a payment, in version 2.
    #[derive(Serialize, ToSchema)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct PaymentRequirements {
        #[schema(example = "exact")]
        scheme: String,
        /// The CAIP-2 identifier of the network.
        #[schema(example = "eip155:8453")]
        network: String,
        /// The amount in atomic units of the token.
        #[schema(pattern = "^(0|[1-9][0-9]{0,77})$")]
        amount: String,
        /// The token.
        asset: String,
        /// The recipient.
        pay_to: String,
        max_timeout_seconds: u64,
        #[schema(nullable = false)]
        extra: Option<Object>,
    }

    /// The resource that is paid for.
    #[derive(Serialize, ToSchema)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct ResourceInfo {
        url: String,
        #[schema(nullable = false)]
        description: Option<String>,
        #[schema(nullable = false)]
        mime_type: Option<String>,
    }

    /// A payment, in version 2.
    #[derive(Serialize, ToSchema)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct PaymentPayload {
        /// Always 2.
        x402_version: u64,
        #[schema(nullable = false)]
        resource: Option<ResourceInfo>,
        /// The requirements that the buyer chose.
        accepted: PaymentRequirements,
        /// The authorization, in the form of the scheme.
        payload: Object,
        #[schema(nullable = false)]
        extensions: Option<Object>,
    }

    /// The requirements of a payment, in version 1.
    #[derive(Serialize, ToSchema)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct PaymentRequirementsV1 {
        scheme: String,
        #[schema(example = "base-sepolia")]
        network: String,
        /// The amount in atomic units of the token.
        #[schema(pattern = "^(0|[1-9][0-9]{0,77})$")]
        max_amount_required: String,
        resource: String,
        #[schema(nullable = false)]
        description: Option<String>,
        #[schema(nullable = false)]
        mime_type: Option<String>,
        pay_to: String,
        max_timeout_seconds: u64,
        asset: String,
        #[schema(nullable = false)]
        extra: Option<Object>,
    }

    /// A payment, in version 1.
    #[derive(Serialize, ToSchema)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct PaymentPayloadV1 {
        /// Always 1.
        x402_version: u64,
        scheme: String,
        network: String,
        payload: Object,
    }

    /// A request in version 2.
    #[derive(Serialize, ToSchema)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct RequestV2 {
        /// Always 2.
        x402_version: u64,
        payment_payload: PaymentPayload,
        payment_requirements: PaymentRequirements,
    }

    /// A request in version 1.
    #[derive(Serialize, ToSchema)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct RequestV1 {
        /// Always 1.
        x402_version: u64,
        payment_payload: PaymentPayloadV1,
        payment_requirements: PaymentRequirementsV1,
    }

    /// The body of `POST /verify` and `POST /settle`, in its usual spelling. An exact integer up to
    /// 2^53 - 1 can be a number or a text in every field, and one of the two copies of
    /// `x402Version` is enough.
    #[derive(Serialize, ToSchema)]
    #[serde(untagged)]
    pub(crate) enum FacilitatorRequest {
        V2(Box<RequestV2>),
        V1(Box<RequestV1>),
    }

    /// The answer to `POST /verify`.
    #[derive(Serialize, ToSchema)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct VerifyResponse {
        /// Whether the payment would settle now.
        is_valid: bool,
        /// The reason code, if it would not.
        #[schema(nullable = false)]
        invalid_reason: Option<String>,
        /// More about the reason, for people.
        #[schema(nullable = false)]
        invalid_message: Option<String>,
        /// The payer's address.
        #[schema(nullable = false)]
        payer: Option<String>,
        /// Extension data.
        #[schema(nullable = false)]
        extensions: Option<Object>,
        /// Scheme data.
        #[schema(nullable = false)]
        extra: Option<Object>,
    }

    /// The answer to `POST /settle`.
    #[derive(Serialize, ToSchema)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct SettleResponse {
        /// Only `true` is a success. At most one answer for an authorization is a success.
        success: bool,
        /// The reason code. `settlement_pending` means that the transaction was sent: send the same
        /// request again.
        #[schema(nullable = false)]
        error_reason: Option<String>,
        /// More about the reason, for people.
        #[schema(nullable = false)]
        error_message: Option<String>,
        /// The payer's address.
        #[schema(nullable = false)]
        payer: Option<String>,
        /// The transaction; empty if there is none.
        transaction: String,
        /// The network, as the request names it.
        network: String,
        /// The amount in atomic units of the token.
        #[schema(pattern = "^(0|[1-9][0-9]{0,77})$", nullable = false)]
        amount: Option<String>,
        /// Extension data.
        #[schema(nullable = false)]
        extensions: Option<Object>,
        #[schema(nullable = false)]
        extra: Option<SettleExtra>,
    }

    /// Scheme data of a settlement.
    #[derive(Serialize, ToSchema)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct SettleExtra {
        /// The id for `GET /settlements/{id}`.
        #[schema(nullable = false)]
        settlement: Option<String>,
        /// Whether the success was reported before, to the same `Idempotency-Key`.
        #[schema(nullable = false)]
        success_reported_before: Option<bool>,
    }

    /// The answer to `GET /supported`.
    #[derive(Serialize, ToSchema)]
    pub(crate) struct SupportedResponse {
        kinds: Vec<SupportedKind>,
        /// The extensions that the facilitator implements.
        extensions: Vec<String>,
        /// The addresses that sign, by network pattern such as `eip155:*`.
        signers: BTreeMap<String, Vec<String>>,
    }

    /// A kind of payment that the facilitator settles.
    #[derive(Serialize, ToSchema)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct SupportedKind {
        x402_version: u64,
        scheme: String,
        network: String,
        /// What a seller needs to offer this kind.
        #[schema(nullable = false)]
        extra: Option<Object>,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use quittance_core::wire::{SettleResponse, SupportedResponse, VerifyResponse};
    use serde_json::json;

    use super::*;

    /// The interface that programs rely on. Paths, statuses and fields may be added to the service,
    /// and never removed.
    fn interface() -> Value {
        serde_json::from_str(include_str!("../tests/interface.json")).unwrap()
    }

    /// The schema itself instead of a reference to it.
    fn resolved<'d>(description: &'d Value, schema: &'d Value) -> &'d Value {
        let Some(name) = schema["$ref"].as_str() else {
            return schema;
        };
        description.pointer(name.trim_start_matches('#')).unwrap()
    }

    /// Every field of a schema with its path, and whether it is required.
    fn fields(description: &Value, schema: &Value, at: &str, found: &mut BTreeMap<String, bool>) {
        let schema = resolved(description, schema);
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{at}.{name}");
            let is_required = required.iter().any(|it| it == name);
            found.insert(path.clone(), is_required);
            fields(description, property, &path, found);
        }
        if schema["items"].is_object() {
            fields(description, &schema["items"], &format!("{at}[]"), found);
        }
        for variant in schema["oneOf"].as_array().into_iter().flatten() {
            fields(description, variant, at, found);
        }
    }

    /// Every operation with its statuses, parameters, and fields.
    fn parts(description: &Value) -> BTreeMap<String, bool> {
        let mut found = BTreeMap::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let at = format!("{method} {path}");
                found.insert(at.clone(), true);
                let request = &operation["requestBody"]["content"]["application/json"]["schema"];
                fields(description, request, &format!("{at} request"), &mut found);
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let name = parameter["name"].as_str().unwrap();
                    let is_required = parameter["required"] == true;
                    found.insert(format!("{at} parameter {name}"), is_required);
                }
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let at = format!("{at} {status}");
                    found.insert(at.clone(), true);
                    for header in response["headers"].as_object().into_iter().flatten() {
                        found.insert(format!("{at} header {}", header.0), true);
                    }
                    for (kind, content) in response["content"].as_object().into_iter().flatten() {
                        let at = format!("{at} {kind}");
                        found.insert(at.clone(), true);
                        fields(description, &content["schema"], &at, &mut found);
                    }
                }
            }
        }
        found
    }

    #[test]
    fn no_path_status_or_field_is_lost() {
        let (before, after) = (parts(&interface()), parts(&openapi()));
        let lost = |(part, is_required): &(&String, &bool)| after.get(*part) != Some(*is_required);
        let lost: Vec<_> = before.iter().filter(lost).collect();
        assert!(lost.is_empty(), "{lost:#?}");
        assert!(before.len() > 200, "{} parts", before.len());
    }

    #[test]
    fn the_description_is_openapi_with_a_key() {
        let description = openapi();
        let version = description["openapi"].as_str().unwrap();
        assert!(version.starts_with("3.1"), "{version}");
        let key = &description["components"]["securitySchemes"]["key"];
        assert_eq!(
            (&key["type"], &key["scheme"]),
            (&json!("http"), &json!("bearer"))
        );
        assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    /// The schemas of the specification's messages have exactly the fields of the types in core.
    #[test]
    fn the_schemas_have_the_fields_of_the_wire_types() {
        let description = openapi();
        let schema = |name: &str| -> BTreeSet<String> {
            let properties = &description["components"]["schemas"][name]["properties"];
            properties.as_object().unwrap().keys().cloned().collect()
        };
        let keys = |value: Value| -> BTreeSet<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let object = json!({ "a": 1 });
        // Decoded with every field, a message has no rest; encoded, it has every field again.
        let verify = json!({
            "isValid": false, "invalidReason": "a", "invalidMessage": "b", "payer": "c",
            "extensions": object, "extra": object,
        });
        let decoded: VerifyResponse = serde_json::from_value(verify).unwrap();
        assert!(decoded.rest.is_empty());
        assert_eq!(keys(json!(decoded)), schema("VerifyResponse"));
        let settle = json!({
            "success": false, "errorReason": "a", "errorMessage": "b", "payer": "c",
            "transaction": "d", "network": "e", "amount": "1", "extensions": object, "extra": object,
        });
        let decoded: SettleResponse = serde_json::from_value(settle).unwrap();
        assert!(decoded.rest.is_empty());
        assert_eq!(keys(json!(decoded)), schema("SettleResponse"));
        let kind = json!({ "x402Version": 2, "scheme": "a", "network": "b", "extra": object });
        let supported =
            json!({ "kinds": [kind], "extensions": [], "signers": { "eip155:*": ["a"] } });
        let decoded: SupportedResponse = serde_json::from_value(supported).unwrap();
        assert!(decoded.rest.is_empty() && decoded.kinds[0].rest.is_empty());
        assert_eq!(keys(json!(decoded.kinds[0])), schema("SupportedKind"));
        assert_eq!(keys(json!(decoded)), schema("SupportedResponse"));
    }
}
