use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::Malformed;
use crate::json::{self, Json};

/// The examples of the specification, as they stand there.
const VECTORS: [&str; 4] = [
    include_str!("../../vectors/payment_required.json"),
    include_str!("../../vectors/payment_payload.json"),
    include_str!("../../vectors/settle_response.json"),
    include_str!("../../vectors/supported_response.json"),
];

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(message: &T) {
    let text = serde_json::to_vec(message).unwrap();
    assert_eq!(&json::read::<T>("message", &text).unwrap(), message);
    assert_eq!(
        &header::decode::<T>("header", header::encode(message).as_bytes()).unwrap(),
        message
    );
}

#[test]
fn the_specifications_examples_survive_a_round_trip_whole() {
    fn check<T: Serialize + DeserializeOwned>(text: &str) {
        let message: T = json::read("vector", text.as_bytes()).unwrap();
        let printed = Json::of(&message).unwrap();
        assert_eq!(
            printed,
            json::read::<Json>("vector", text.as_bytes()).unwrap()
        );
    }
    check::<PaymentRequired>(VECTORS[0]);
    check::<PaymentPayload>(VECTORS[1]);
    check::<SettleResponse>(VECTORS[2]);
    check::<SupportedResponse>(VECTORS[3]);
}

#[test]
fn success_is_only_the_json_value_true() {
    for success in ["\"true\"", "1", "null", "[]"] {
        let text = format!(r#"{{"success":{success},"transaction":"0x1","network":"eip155:1"}}"#);
        assert!(
            json::read::<SettleResponse>("answer", text.as_bytes()).is_err(),
            "{success}"
        );
    }
    let missing = r#"{"transaction":"0x1","network":"eip155:1"}"#;
    assert!(json::read::<SettleResponse>("answer", missing.as_bytes()).is_err());
}

#[test]
fn errors_name_the_field() {
    let read = |text: &str| {
        json::read::<PaymentRequired>("PAYMENT-REQUIRED", text.as_bytes()).unwrap_err()
    };
    let field = |error: Malformed| error.field;
    let broken = VECTORS[0].replace("\"maxTimeoutSeconds\": 60", "\"maxTimeoutSeconds\": \"60\"");
    assert_eq!(
        field(read(&broken)),
        "PAYMENT-REQUIRED.accepts[0].maxTimeoutSeconds"
    );
    let broken = VECTORS[0].replace("\"payTo\"", "\"payto\"");
    let error = read(&broken);
    assert_eq!(
        (error.field.as_str(), error.problem.contains("payTo")),
        ("PAYMENT-REQUIRED.accepts[0]", true)
    );
    let broken = VECTORS[0].replace("\"name\": \"USDC\"", "\"version\": \"USDC\"");
    let error = read(&broken);
    assert_eq!(error.field, "PAYMENT-REQUIRED.accepts[0].extra");
    assert!(
        error.problem.contains("duplicate field `version`"),
        "{error}"
    );
    assert_eq!(field(read("{")), "PAYMENT-REQUIRED");
    assert_eq!(field(read("{} {}")), "PAYMENT-REQUIRED");
}

#[test]
fn a_repeated_field_is_refused_known_or_not() {
    for text in [
        r#"{"isValid":true,"isValid":false}"#,
        r#"{"isValid":true,"payer":null,"payer":"0x1"}"#,
        r#"{"isValid":true,"new":1,"new":1}"#,
    ] {
        let error = json::read::<VerifyResponse>("answer", text.as_bytes()).unwrap_err();
        assert!(error.problem.contains("duplicate field"), "{error}");
    }
}

#[test]
fn unknown_fields_are_bounded() {
    let fields: Vec<String> = (0..=Rest::FIELDS_MAX)
        .map(|name| format!(",\"{name}\":0"))
        .collect();
    let text = |count: usize| format!("{{\"isValid\":true{}}}", fields[..count].concat());
    assert!(json::read::<VerifyResponse>("answer", text(Rest::FIELDS_MAX).as_bytes()).is_ok());
    assert!(json::read::<VerifyResponse>("answer", text(Rest::FIELDS_MAX + 1).as_bytes()).is_err());
}

#[test]
fn headers_are_bounded_and_strict() {
    let response = VerifyResponse::valid(None);
    let value = header::encode(&response);
    assert!(header::decode::<VerifyResponse>("x", value.trim_end_matches('=').as_bytes()).is_ok());
    for bad in ["%%%", "e30 ", "e3\n0=", "_-_-", "e30===", "\u{ff}"] {
        assert!(
            header::decode::<VerifyResponse>("x", bad.as_bytes()).is_err(),
            "{bad:?}"
        );
    }
    assert!(
        header::text("x", "A".repeat(header::VALUE_MAX + 1).as_bytes())
            .unwrap_err()
            .problem
            .contains("longer")
    );
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9:]{0,12}", any::<String>()]
}

/// Any JSON value a few levels deep.
fn any_tree() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any_text().prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec((any_text(), inner), 0..4)
                .prop_map(|entries| serde_json::Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Object> {
    prop::collection::btree_map(any_text(), any_tree(), 0..4)
        .prop_map(|tree| Object::of(&tree).unwrap())
}

fn any_rest() -> impl Strategy<Value = Rest> {
    prop::collection::btree_map("[A-Z_]{1,8}", any_tree(), 0..3).prop_map(|fields| {
        let mut rest = Rest::default();
        for (name, value) in fields {
            rest.push::<serde::de::value::Error>(name, Json::of(&value).unwrap())
                .unwrap();
        }
        rest
    })
}

prop_compose! {
    fn any_requirements()(
        [scheme, network, amount, asset, pay_to] in [any_text(), any_text(), any_text(), any_text(), any_text()],
        max_timeout_seconds: u64,
        extra in prop::option::of(any_object()),
        rest in any_rest(),
    ) -> PaymentRequirements {
        PaymentRequirements { scheme, network, amount, asset, pay_to, max_timeout_seconds, extra, rest }
    }
}

prop_compose! {
    fn any_resource()(
        url in any_text(),
        [description, mime_type, service_name, icon_url] in
            [prop::option::of(any_text()), prop::option::of(any_text()), prop::option::of(any_text()), prop::option::of(any_text())],
        tags in prop::option::of(prop::collection::vec(any_text(), 0..3)),
        rest in any_rest(),
    ) -> ResourceInfo {
        ResourceInfo { url, description, mime_type, service_name, tags, icon_url, rest }
    }
}

proptest! {
    #[test]
    fn payment_required_is_read_back_as_printed(
        error in prop::option::of(any_text()),
        resource in any_resource(),
        accepts in prop::collection::vec(any_requirements(), 0..3),
        extensions in prop::option::of(any_object()),
        rest in any_rest(),
    ) {
        round_trip(&PaymentRequired { x402_version: 2, error, resource, accepts, extensions, rest });
    }

    #[test]
    fn payment_payload_is_read_back_as_printed(
        resource in prop::option::of(any_resource()),
        accepted in any_requirements(),
        payload in any_object(),
        extensions in prop::option::of(any_object()),
        rest in any_rest(),
    ) {
        round_trip(&PaymentPayload { x402_version: 2, resource, accepted, payload, extensions, rest });
    }

    #[test]
    fn answers_are_read_back_as_printed(
        yes: bool,
        [a, b, c, d] in [prop::option::of(any_text()), prop::option::of(any_text()), prop::option::of(any_text()), prop::option::of(any_text())],
        [transaction, network] in [any_text(), any_text()],
        extensions in prop::option::of(any_object()),
        extra in prop::option::of(any_object()),
        rest in any_rest(),
    ) {
        round_trip(&VerifyResponse {
            is_valid: yes, invalid_reason: a.clone(), invalid_message: b.clone(), payer: c.clone(),
            extensions: extensions.clone(), extra: extra.clone(), rest: rest.clone(),
        });
        round_trip(&SettleResponse {
            success: yes, error_reason: a, error_message: b, payer: c, transaction, network, amount: d, extensions, extra, rest,
        });
    }

    #[test]
    fn version_1_is_read_back_as_printed(
        [scheme, network, amount, resource, pay_to, asset] in [any_text(), any_text(), any_text(), any_text(), any_text(), any_text()],
        description in prop::option::of(any_text()),
        schema in prop::option::of(any_object()),
        payload in any_object(),
        rest in any_rest(),
    ) {
        round_trip(&v1::PaymentRequired {
            x402_version: 1,
            error: description.clone(),
            accepts: vec![v1::PaymentRequirements {
                scheme: scheme.clone(), network: network.clone(), max_amount_required: amount, resource, description,
                mime_type: None, output_schema: schema.map(|schema| Json::of(&schema).unwrap()), pay_to,
                max_timeout_seconds: 60, asset, extra: None, rest: rest.clone(),
            }],
            rest: Rest::default(),
        });
        round_trip(&v1::PaymentPayload { x402_version: 1, scheme, network, payload, rest });
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = json::read::<PaymentRequired>("x", &bytes);
        let _ = json::read::<PaymentPayload>("x", &bytes);
        let _ = header::decode::<PaymentPayload>("x", &bytes);
    }

    #[test]
    fn no_damage_to_a_real_message_panics(at in 0usize..1200, byte: u8, cut: bool) {
        let mut text = VECTORS[1].as_bytes().to_vec();
        let at = at % text.len();
        if cut { text.truncate(at) } else { text[at] = byte }
        let _ = json::read::<PaymentPayload>("x", &text);
    }
}
