use proptest::prelude::*;
use quittance_core::Network;
use quittance_core::wire::{PaymentPayload, PaymentRequirements};

use super::*;
use crate::reason::FAULT_CODES;

const TX: &str = "0xab";

fn request() -> PaymentRequest {
    let terms = r#"{"scheme":"exact","network":"test:1","amount":"5","asset":"coin","payTo":"seller","maxTimeoutSeconds":60}"#;
    let payment = format!(r#"{{"x402Version":2,"accepted":{terms},"payload":{{}}}}"#);
    let payment: PaymentPayload = serde_json::from_str(&payment).unwrap();
    let terms: PaymentRequirements = serde_json::from_str(terms).unwrap();
    let request = PaymentRequest::new(payment, terms).unwrap();
    request.on(Network::new("test:1").unwrap().with_alias("test"))
}

fn response(status: u16, body: &str) -> FacilitatorResponse {
    FacilitatorResponse {
        path: "settle",
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::new(),
        body: body.as_bytes().to_vec(),
        incomplete: None,
    }
}

/// The interpretation of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interpretation {
    Success,
    Refusal,
    /// Pending in the named transaction.
    Pending,
    Fault,
    /// A fault; the payment was not attempted.
    NotAttempted,
}
use Interpretation::{Fault as Faulty, NotAttempted, Pending, Refusal, Success};

fn settle(status: u16, body: &str) -> Interpretation {
    match of_settle(&request(), &response(status, body)) {
        Ok(settled) if settled.success => Success,
        Ok(settled) if settled.is_pending() => Pending,
        Ok(_) => Refusal,
        Err(fault) if fault.not_attempted => NotAttempted,
        Err(_) => Faulty,
    }
}

fn verify(status: u16, body: &str) -> Interpretation {
    match of_verify(&response(status, body)) {
        Ok(verdict) if verdict.is_valid => Success,
        Ok(_) => Refusal,
        Err(fault) if fault.not_attempted => NotAttempted,
        Err(_) => Faulty,
    }
}

/// The table of docs/operating.md. The columns: a success, a refusal with a reason, a refusal
/// without one, and a body without a verdict.
const TABLE: [(&[u16], [Interpretation; 4]); 8] = [
    (
        &[200, 201, 202, 207, 299],
        [Success, Refusal, Refusal, Faulty],
    ),
    (
        &[400, 402, 406, 409, 410, 412, 418, 422, 424, 451, 499],
        [Faulty, Refusal, Refusal, Faulty],
    ),
    (
        &[
            401, 403, 404, 405, 407, 411, 413, 414, 415, 421, 425, 426, 429, 431,
        ],
        [NotAttempted; 4],
    ),
    (&[408], [Faulty; 4]),
    (&[500], [Faulty, Refusal, Faulty, Faulty]),
    (&[501, 502, 503, 504, 507, 520, 524, 599], [Faulty; 4]),
    (&[301, 302, 307, 308], [NotAttempted; 4]),
    (&[300, 303, 304, 399], [Faulty; 4]),
];

#[test]
fn verify_responses_mean_what_the_table_says() {
    for (statuses, means) in TABLE {
        for status in statuses {
            for (body, means) in [
                r#"{"isValid":true,"payer":"0x1"}"#,
                r#"{"isValid":false,"invalidReason":"insufficient_funds"}"#,
                r#"{"isValid":false}"#,
                r#"{"error":"no"}"#,
            ]
            .into_iter()
            .zip(means)
            {
                assert_eq!(verify(*status, body), means, "{status} {body}");
            }
            for body in [
                "",
                "<html>",
                "[]",
                r#"{"isValid":"true"}"#,
                r#"{"isValid":true"#,
            ] {
                assert_eq!(verify(*status, body), means[3], "{status} {body}");
            }
        }
    }
}

#[test]
fn settle_responses_mean_what_the_table_says() {
    for (statuses, means) in TABLE {
        for status in statuses {
            for (body, means) in [
                r#"{"success":false,"errorReason":"insufficient_funds","network":"test"}"#,
                r#"{"success":false,"transaction":null}"#,
                r#"{"error":"no","transaction":""}"#,
            ]
            .into_iter()
            .zip(&means[1..])
            {
                assert_eq!(settle(*status, body), *means, "{status} {body}");
            }
            for body in ["", "<html>", "[]", r#"{"success":1}"#, r#"{"success":true"#] {
                assert_eq!(settle(*status, body), means[3], "{status} {body}");
            }
            // A success with a transaction is a success or pending: the transaction is never
            // dropped.
            for network in [
                r#","network":"test:1""#,
                r#","network":"test""#,
                r#","network":null"#,
                "",
            ] {
                let body = format!(r#"{{"success":true,"transaction":"{TX}"{network}}}"#);
                let means = if means[0] == Success {
                    Success
                } else {
                    Pending
                };
                assert_eq!(settle(*status, &body), means, "{status} {body}");
            }
        }
    }
}

#[test]
fn contradictory_success_is_an_unknown_outcome() {
    for body in [
        r#"{"success":true,"network":"test:1"}"#,
        r#"{"success":true,"transaction":"","network":""}"#,
        r#"{"success":true,"transaction":null,"network":"test:2"}"#,
        r#"{"success":true,"transaction":"","network":"test:1","amount":"1"}"#,
        r#"{"success":true,"transaction":"","network":"test:2","amount":""}"#,
    ] {
        let Err(fault) = of_settle(&request(), &response(200, body)) else {
            panic!("{body} is a success")
        };
        assert!(
            !fault.not_attempted && fault.detail.contains("invalid response"),
            "{fault}"
        );
    }
    for network in ["test:2", "eip155:1", "base"] {
        let body = format!(r#"{{"success":true,"transaction":"{TX}","network":"{network}"}}"#);
        assert_eq!(settle(200, &body), Pending, "{network}");
    }
}

/// Once, the charge of a voucher counted as an unknown outcome. The seller asked again, and the
/// voucher was stale.
#[test]
fn accepted_voucher_is_a_success_without_a_transaction() {
    let body = r#"{"success":true,"transaction":"","network":"test:1","amount":""}"#;
    let settled = of_settle(&request(), &response(200, body)).unwrap();
    assert!(settled.success && settled.transaction.is_empty());
}

#[test]
fn missing_network_is_completed_and_the_rest_is_kept() {
    let parsed = |status, body: &str| of_settle(&request(), &response(status, body)).unwrap();
    let settled = parsed(
        201,
        r#"{"success":true,"transactionHash":"0xab","payer":"0x1"}"#,
    );
    assert_eq!(
        (settled.network.as_str(), settled.transaction.as_str()),
        ("test:1", TX)
    );
    assert_eq!(settled.payer.as_deref(), Some("0x1"));
    let body = r#"{"success":false,"errorReason":"invalid_payload","errorMessage":"no gas","network":"base-sepolia"}"#;
    let refused = parsed(400, body);
    assert_eq!(refused.error_reason.as_deref(), Some("invalid_payload"));
    assert_eq!(refused.error_message.as_deref(), Some("no gas"));
    assert_eq!(refused.network, "base-sepolia");
}

/// Many frameworks answer 500 to every exception of a handler, and to their own failures.
#[test]
fn status_500_refuses_only_with_a_reason_about_the_payment() {
    for code in FAULT_CODES
        .into_iter()
        .chain(FaultKind::ALL.map(FaultKind::code))
    {
        let body = format!(r#"{{"success":false,"errorReason":"{code}"}}"#);
        assert_eq!(settle(500, &body), Faulty, "{code}");
        let body = format!(r#"{{"isValid":false,"invalidReason":"{code}"}}"#);
        assert_eq!(verify(500, &body), Faulty, "{code}");
    }
}

/// Once, a payment that was valid in seconds was reported as an unreachable facilitator.
#[test]
fn fault_keeps_the_facilitators_code_and_retry_after() {
    let mut response = response(503, r#"{"error":"not_yet_valid"}"#);
    response.headers.insert("retry-after", "2".parse().unwrap());
    for fault in [
        of_verify(&response).unwrap_err(),
        of_settle(&request(), &response).unwrap_err(),
    ] {
        assert_eq!(fault.kind, FaultKind::NotYetValid);
        assert_eq!(fault.retry_after, Some(std::time::Duration::from_secs(2)));
    }
}

#[test]
fn fault_contains_the_facilitators_reason() {
    let body =
        r#"{"success":false,"errorReason":"rate_limited","error":{"a":1},"notAttempted":true}"#;
    let Err(fault) = of_settle(&request(), &response(503, body)) else {
        panic!("503 is not a verdict")
    };
    assert!(
        fault.not_attempted && fault.detail.contains("rate_limited"),
        "{fault}"
    );
}

proptest! {
    /// Under any status, and in a truncated response: a named transaction reaches the seller, and
    /// the payment is never reported as unsettled.
    #[test]
    fn named_transaction_is_never_dropped(
        status in 200u16..600, success in prop::option::of(any::<bool>()), cut in any::<prop::sample::Index>(), incomplete: bool,
    ) {
        let head = format!(r#"{{"transaction":"{TX}","#);
        let success = success.map_or("null".to_owned(), |success| success.to_string());
        let body = format!(r#"{head}"errorReason":"any","network":"elsewhere","success":{success}}}"#);
        let cut = head.len() - 1 + cut.index(body.len() - head.len() + 2);
        let response = FacilitatorResponse {
            incomplete: incomplete.then(|| "the connection broke off".to_owned()),
            ..response(status, &body[..cut])
        };
        let settled = of_settle(&request(), &response);
        let settled = settled.unwrap();
        prop_assert_eq!(settled.transaction, TX);
        prop_assert!(!settled.success);
    }

    #[test]
    fn any_response_is_parsed_and_garbage_is_no_success(status in 200u16..600, body in any::<Vec<u8>>()) {
        let response = FacilitatorResponse { body, ..response(status, "") };
        let settled = of_settle(&request(), &response);
        prop_assert!(!settled.is_ok_and(|settled| settled.success));
        prop_assert!(!of_verify(&response).is_ok_and(|verdict| verdict.is_valid));
    }
}
