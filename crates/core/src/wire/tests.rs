use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::Malformed;
use crate::json::{self, Json};

/// The examples of the specification, unchanged.
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
    let broken = VECTORS[0].replace("\"maxTimeoutSeconds\": 60", "\"maxTimeoutSeconds\": 60.5");
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

/// Any JSON but `null`, which counts as absent.
fn any_json() -> impl Strategy<Value = Json> {
    let present = any_tree().prop_filter("absent", |tree| !tree.is_null());
    present.prop_map(|tree| Json::of(&tree).unwrap())
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

#[test]
fn rejection_with_its_extra_is_read_from_both_responses() {
    let extra: Object = serde_json::from_str(r#"{"channelState":{"charged":"7"}}"#).unwrap();
    let plain = Rejection::new(Reason::new("invalid_a"), "a detail");
    for rejection in [plain.clone(), plain.with_extra(extra)] {
        let invalid = VerifyResponse::invalid(&rejection, None);
        let failed = SettleResponse::failed("a:1", &rejection, None, "");
        let printed = [
            serde_json::to_string(&invalid).unwrap(),
            serde_json::to_string(&failed).unwrap(),
        ];
        let verdict: VerifyResponse = json::read("verdict", printed[0].as_bytes()).unwrap();
        let answer: SettleResponse = json::read("answer", printed[1].as_bytes()).unwrap();
        assert_eq!(verdict.rejection(), Some(rejection.clone()));
        assert_eq!(answer.rejection(), Some(rejection));
    }
    assert_eq!(VerifyResponse::valid(None).rejection(), None);
    assert_eq!(
        SettleResponse::settled("a:1", None, "0x1").rejection(),
        None
    );
}

proptest! {
    #[test]
    fn payment_required_is_read_back_as_printed(
        error in prop::option::of(any_text()),
        resource in prop::option::of(any_resource()),
        accepts in prop::collection::vec(any_requirements(), 0..3),
        extensions in prop::option::of(any_json()),
        rest in any_rest(),
    ) {
        let resource = resource.map(|resource| Json::of(&resource).unwrap());
        round_trip(&PaymentRequired { x402_version: 2, error, resource, accepts, extensions, rest });
    }

    #[test]
    fn payment_payload_is_read_back_as_printed(
        resource in prop::option::of(any_resource()),
        accepted in any_requirements(),
        payload in any_object(),
        extensions in prop::option::of(any_json()),
        rest in any_rest(),
    ) {
        let resource = resource.map(|resource| Json::of(&resource).unwrap());
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
                scheme: scheme.clone(), network: network.clone(), max_amount_required: amount, resource: Some(resource), description,
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

/// The specification's example of a message, with other text for one field.
fn changed(vector: &str, field: &str, text: &str) -> String {
    let at = vector.find(&format!("\"{field}\":")).unwrap() + field.len() + 3;
    let end = at + vector[at..].find([',', '\n']).unwrap();
    format!("{} {text}{}", &vector[..at], &vector[end..])
}

#[test]
fn a_number_that_readers_see_differently_is_refused_by_name() {
    let odd = [
        "1e3",
        "1.0",
        "10.5",
        "-1",
        "-0",
        "9007199254740992",
        "1E3",
        "true",
        "[]",
        "{}",
    ];
    for text in odd {
        let message = changed(VECTORS[0], "amount", text);
        let error = json::read::<PaymentRequired>("402", message.as_bytes()).unwrap_err();
        assert_eq!(error.field, "402.accepts[0].amount", "{text}");
        let message = changed(VECTORS[1], "amount", text);
        let error = json::read::<PaymentPayload>("payload", message.as_bytes()).unwrap_err();
        assert_eq!(error.field, "payload.accepted.amount", "{text}");
    }
    for text in [
        "1e3",
        "60.0",
        "-1",
        "\"060\"",
        "\"60s\"",
        "\" 60\"",
        "\"\"",
        "\"1e3\"",
        "18446744073709551616",
    ] {
        let message = changed(VECTORS[0], "maxTimeoutSeconds", text);
        let error = json::read::<PaymentRequired>("402", message.as_bytes()).unwrap_err();
        assert_eq!(error.field, "402.accepts[0].maxTimeoutSeconds", "{text}");
    }
}

#[test]
fn a_field_that_was_changed_is_printed_as_it_is_now() {
    let message = changed(VECTORS[0], "amount", "2500");
    let mut required: PaymentRequired = json::read("402", message.as_bytes()).unwrap();
    assert!(
        serde_json::to_string(&required)
            .unwrap()
            .contains("\"amount\":2500,")
    );
    required.accepts[0].amount = "7".to_owned();
    assert!(
        serde_json::to_string(&required)
            .unwrap()
            .contains("\"amount\":\"7\",")
    );
}

#[test]
fn message_without_version_gets_the_default_version() {
    let message = VECTORS[1].replace("\"x402Version\": 2,", "");
    let payload: PaymentPayload = json::read("payload", message.as_bytes()).unwrap();
    assert_eq!(payload.x402_version, 2);
    let v1 = r#"{"scheme":"exact","network":"base","payload":{}}"#;
    let payload: v1::PaymentPayload = json::read("payload", v1.as_bytes()).unwrap();
    assert_eq!(payload.x402_version, 1);
}

#[test]
fn an_odd_kind_spoils_no_other_and_odd_signers_spoil_none() {
    let good = r#"{"x402Version":2,"scheme":"exact","network":"eip155:8453"}"#;
    for odd in [
        r#"{"x402Version":2,"scheme":"exact"}"#,
        r#"{"x402Version":2,"scheme":["exact"],"network":"eip155:1"}"#,
        r#"{"x402Version":2.5,"scheme":"exact","network":"eip155:1"}"#,
        "\"exact\"",
        "null",
        "7",
    ] {
        for beside in [
            r#""signers":{"eip155:*":[]}"#,
            r#""signers":["0x1"]"#,
            r#""signers":{"eip155:*":"0x1"},"extensions":{}"#,
            r#""extensions":"bazaar""#,
        ] {
            let text = format!(r#"{{"kinds":[{odd},{good},{odd}],{beside}}}"#);
            let supported: SupportedResponse = json::read("supported", text.as_bytes()).unwrap();
            let networks: Vec<_> = supported.kinds.iter().map(|kind| &kind.network).collect();
            assert_eq!(networks, ["eip155:8453"], "{text}");
        }
    }
    let extra =
        r#"{"kinds":[{"x402Version":"2","scheme":"exact","network":"eip155:8453","extra":[]}]}"#;
    let supported: SupportedResponse = json::read("supported", extra.as_bytes()).unwrap();
    assert_eq!(
        (supported.kinds[0].x402_version, &supported.kinds[0].extra),
        (2, &None)
    );
    assert!(json::read::<SupportedResponse>("supported", br#"{"kinds":{}}"#).is_err());
}

#[test]
fn informational_fields_never_make_a_response_invalid() {
    let text = r#"{"success":false,"errorReason":{"type":"NoFunds"},"errorMessage":["a"],"payer":7,
        "transaction":null,"amount":5,"extensions":[],"extra":"x"}"#;
    let settled = SettleResponse::read("answer", text.as_bytes()).unwrap();
    assert_eq!(
        settled.error_reason.as_deref(),
        Some(r#"{"type":"NoFunds"}"#)
    );
    assert_eq!(
        (settled.transaction.as_str(), settled.network.as_str()),
        ("", "")
    );
    assert_eq!((settled.payer, settled.extra), (None, None));
    let text = r#"{"isValid":false,"invalidReason":{"a":1},"payer":null,"extra":7}"#;
    let verdict: VerifyResponse = json::read("answer", text.as_bytes()).unwrap();
    assert_eq!(verdict.invalid_reason.as_deref(), Some(r#"{"a":1}"#));
}

#[test]
fn transaction_is_read_under_every_known_name() {
    const ID: &str = "0xab";
    for named in [
        r#""transaction":"0xab""#,
        r#""transactionHash":"0xab""#,
        r#""transaction":null,"txHash":"0xab""#,
        r#""transaction":"","hash":"0xab""#,
        r#""transaction":{"hash":"0xab"}"#,
        r#""transaction":{"id":"0xab"},"network":7"#,
        r#""signature":"0xab""#,
        r#""tx":"0xab""#,
        r#""Tx-Signature":"0xab""#,
        r#""TransactionHash":"0xab""#,
        r#""transaction":{"tx":[{"id":"0xab"}]}"#,
        r#""tx":null,"txHash":{"a":1},"tx_hash":"0xab""#,
    ] {
        let text = format!(r#"{{"success":false,"errorReason":"unknown",{named}}}"#);
        let settled = SettleResponse::read("answer", text.as_bytes()).unwrap();
        assert_eq!(settled.transaction, ID, "{text}");
    }
    let unreadable = [
        r#"{"success":"true","transaction":"0xab"}"#,
        r#"{"transaction":"0xab"}"#,
        r#"{"transaction":"0xab","success":true,"success":false}"#,
        r#"{"transaction":"0xab","success":tr"#,
        r#"{"success":true,"transaction":"0xab"} trailing"#,
        r#"{"success":true,"transaction":7,"txHash":"0xab"}"#,
        r#"{"success":true,"transaction":[{"hash":"0xab"}]}"#,
        r#"{"transaction":null,"transaction":"0xab","success":true}"#,
    ];
    for text in unreadable {
        let error = SettleResponse::read("answer", text.as_bytes()).unwrap_err();
        assert_eq!(error.transaction.as_deref(), Some(ID), "{text}");
    }
    for text in [
        "",
        "<html>",
        r#"{"transaction":"#,
        r#"{"transaction":""}"#,
        r#"{"transaction":"a b"}"#,
        r#"{"transaction":[[[["0xab"]]]]}"#,
    ] {
        let error = SettleResponse::read("answer", text.as_bytes()).unwrap_err();
        assert_eq!(error.transaction, None, "{text}");
    }
}

#[test]
fn empty_detail_gives_no_message() {
    let rejection = Rejection::new(Reason::INVALID_PAYLOAD, "");
    assert_eq!(
        SettleResponse::failed("", &rejection, None, "").error_message,
        None
    );
    assert_eq!(
        VerifyResponse::invalid(&rejection, None).invalid_message,
        None
    );
}

proptest! {
    /// The same amount as a number and as a string is one value. Each is serialized as it came.
    #[test]
    fn equal_numbers_and_strings_keep_their_spelling(amount in 0u64..=json::NUMBER_MAX, secs: u64) {
        for (amount_text, secs_text) in [
            (amount.to_string(), format!("\"{secs}\"")),
            (format!("\"{amount}\""), secs.to_string()),
        ] {
            let message = changed(VECTORS[0], "amount", &amount_text);
            let message = changed(&message, "maxTimeoutSeconds", &secs_text);
            let required: PaymentRequired = json::read("402", message.as_bytes()).unwrap();
            let terms = &required.accepts[0];
            prop_assert_eq!((&terms.amount, terms.max_timeout_seconds), (&amount.to_string(), secs));
            let printed = serde_json::to_string(&required).unwrap();
            prop_assert!(printed.contains(&format!("\"amount\":{amount_text},")), "{}", printed);
            prop_assert!(printed.contains(&format!("\"maxTimeoutSeconds\":{secs_text},")), "{}", printed);
            let again: PaymentRequired = json::read("402", printed.as_bytes()).unwrap();
            prop_assert_eq!(serde_json::to_string(&again).unwrap(), printed);
        }
    }

    /// A message is valid whatever JSON these fields have, and its bytes are serialized again.
    #[test]
    fn informational_fields_keep_their_bytes(odd in any_json()) {
        let odd = odd.text();
        let vector = |at: usize, names: [&str; 2]| {
            let mut whole: serde_json::Map<_, _> = serde_json::from_str(VECTORS[at]).unwrap();
            names.iter().for_each(|name| drop(whole.remove(*name)));
            let fields = names.map(|name| format!(",\"{name}\":{odd}"));
            let text = serde_json::to_string(&whole).unwrap();
            format!("{}{}}}", text.strip_suffix('}').unwrap(), fields.concat())
        };
        let text = vector(0, ["resource", "error"]).replace("\"extensions\"", "\"other\"");
        let read: PaymentRequired = json::read("402", text.as_bytes()).unwrap();
        let printed = serde_json::to_string(&read).unwrap();
        let resource = format!("\"resource\":{odd}");
        let error = format!("\"error\":{odd}");
        prop_assert!(printed.contains(&resource) && printed.contains(&error), "{}", printed);
        let text = vector(1, ["resource", "extensions"]);
        let read: PaymentPayload = json::read("payload", text.as_bytes()).unwrap();
        let printed = serde_json::to_string(&read).unwrap();
        let extensions = format!("\"extensions\":{odd}");
        prop_assert!(printed.contains(&resource) && printed.contains(&extensions), "{}", printed);
    }

    /// A response may be cut off anywhere. A transaction that it has in full is known.
    #[test]
    fn a_transaction_in_an_answer_that_breaks_off_is_known(id in "[0-9a-zA-Z]{1,88}", cut in any::<prop::sample::Index>(), tail in any_json()) {
        let head = format!(r#"{{"transaction":"{id}","#);
        let text = format!(r#"{head}"network":"eip155:1","tail":{},"success":false}}"#, tail.text());
        let at = head.len() - 1 + cut.index(text.len() - head.len());
        if let Some(cut) = text.get(..at) {
            let error = SettleResponse::read("answer", cut.as_bytes()).unwrap_err();
            prop_assert_eq!(error.transaction, Some(id));
        }
    }

    #[test]
    fn invalid_response_gives_no_invalid_transaction_id(bytes: Vec<u8>, text in r#"[\[\]{}",:0-9a-z ]{0,80}"#) {
        for bytes in [bytes, text.into_bytes()] {
            let named = match SettleResponse::read("answer", &bytes) {
                Ok(settled) => Some(settled.transaction),
                Err(unreadable) => unreadable.transaction,
            };
            prop_assert!(named.unwrap_or_default().len() <= bytes.len());
            let _ = network_named(&bytes);
        }
    }
}
