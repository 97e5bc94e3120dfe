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

fn answered(status: u16, body: &str) -> Answered {
    Answered {
        path: "settle",
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::new(),
        body: body.as_bytes().to_vec(),
        broken: None,
    }
}

/// What becomes of an answer, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    Yes,
    No,
    /// Pending, in the transaction that was named.
    Pending,
    Fault,
    /// A fault, and nothing was done.
    Untouched,
}
use Means::{Fault as Faulty, No, Pending, Untouched, Yes};

fn settle(status: u16, body: &str) -> Means {
    match of_settle(&request(), &answered(status, body)) {
        Ok(settled) if settled.success => Yes,
        Ok(settled) if settled.is_pending() => Pending,
        Ok(_) => No,
        Err(fault) if fault.not_attempted => Untouched,
        Err(_) => Faulty,
    }
}

fn verify(status: u16, body: &str) -> Means {
    match of_verify(&answered(status, body)) {
        Ok(verdict) if verdict.is_valid => Yes,
        Ok(_) => No,
        Err(fault) if fault.not_attempted => Untouched,
        Err(_) => Faulty,
    }
}

/// The table of docs/operating.md. In a row: a yes, a no with a reason, a no without, and what is no verdict.
const TABLE: [(&[u16], [Means; 4]); 8] = [
    (&[200, 201, 202, 207, 299], [Yes, No, No, Faulty]),
    (
        &[400, 402, 406, 409, 410, 412, 418, 422, 424, 451, 499],
        [Faulty, No, No, Faulty],
    ),
    (
        &[
            401, 403, 404, 405, 407, 411, 413, 414, 415, 421, 425, 426, 429, 431,
        ],
        [Untouched; 4],
    ),
    (&[408], [Faulty; 4]),
    (&[500], [Faulty, No, Faulty, Faulty]),
    (&[501, 502, 503, 504, 507, 520, 524, 599], [Faulty; 4]),
    (&[301, 302, 307, 308], [Untouched; 4]),
    (&[300, 303, 304, 399], [Faulty; 4]),
];

#[test]
fn an_answer_to_verify_means_what_the_table_says() {
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
fn an_answer_to_settle_means_what_the_table_says() {
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
            // A success that names its transaction is one, or else pending: the name is never lost.
            for network in [
                r#","network":"test:1""#,
                r#","network":"test""#,
                r#","network":null"#,
                "",
            ] {
                let body = format!(r#"{{"success":true,"transaction":"{TX}"{network}}}"#);
                let means = if means[0] == Yes { Yes } else { Pending };
                assert_eq!(settle(*status, &body), means, "{status} {body}");
            }
        }
    }
}

#[test]
fn a_success_that_contradicts_itself_is_nonsense_and_not_untouched() {
    for body in [
        r#"{"success":true,"network":"test:1"}"#,
        r#"{"success":true,"transaction":"","network":""}"#,
        r#"{"success":true,"transaction":null,"network":"test:2"}"#,
    ] {
        let Err(fault) = of_settle(&request(), &answered(200, body)) else {
            panic!("{body} is a success")
        };
        assert!(
            !fault.not_attempted && fault.detail.contains("nonsense"),
            "{fault}"
        );
    }
    for network in ["test:2", "eip155:1", "base"] {
        let body = format!(r#"{{"success":true,"transaction":"{TX}","network":"{network}"}}"#);
        assert_eq!(settle(200, &body), Pending, "{network}");
    }
}

#[test]
fn what_is_left_out_is_completed_and_what_is_said_is_passed_on() {
    let told = |status, body: &str| of_settle(&request(), &answered(status, body)).unwrap();
    let settled = told(
        201,
        r#"{"success":true,"transactionHash":"0xab","payer":"0x1"}"#,
    );
    assert_eq!(
        (settled.network.as_str(), settled.transaction.as_str()),
        ("test:1", TX)
    );
    assert_eq!(settled.payer.as_deref(), Some("0x1"));
    let body = r#"{"success":false,"errorReason":"invalid_payload","errorMessage":"no gas","network":"base-sepolia"}"#;
    let refused = told(400, body);
    assert_eq!(refused.error_reason.as_deref(), Some("invalid_payload"));
    assert_eq!(refused.error_message.as_deref(), Some("no gas"));
    assert_eq!(refused.network, "base-sepolia");
}

/// 500 is what many frameworks answer to whatever a handler throws, and what they answer when they are broken.
#[test]
fn a_500_refuses_a_payment_only_with_a_reason_that_is_not_its_own_failure() {
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

/// The buyer heard of a payment that opens in seconds as of a facilitator that does not answer.
#[test]
fn a_facilitator_that_asks_for_patience_is_passed_on_with_its_code_and_its_pause() {
    let mut answered = answered(503, r#"{"error":"not_yet_valid"}"#);
    answered.headers.insert("retry-after", "2".parse().unwrap());
    for fault in [
        of_verify(&answered).unwrap_err(),
        of_settle(&request(), &answered).unwrap_err(),
    ] {
        assert_eq!(fault.kind, FaultKind::NotYetValid);
        assert_eq!(fault.retry_after, Some(std::time::Duration::from_secs(2)));
    }
}

#[test]
fn a_fault_tells_the_operator_what_stood_under_the_status() {
    let body =
        r#"{"success":false,"errorReason":"rate_limited","error":{"a":1},"notAttempted":true}"#;
    let Err(fault) = of_settle(&request(), &answered(503, body)) else {
        panic!("503 is no verdict")
    };
    assert!(
        fault.not_attempted && fault.detail.contains("rate_limited"),
        "{fault}"
    );
}

proptest! {
    /// Whatever the status, and wherever the answer breaks off: a transaction that it names reaches the seller, and what
    /// the buyer hears of it is never that nothing moved.
    #[test]
    fn a_named_transaction_is_never_dropped(
        status in 200u16..600, success in prop::option::of(any::<bool>()), cut in any::<prop::sample::Index>(), broken: bool,
    ) {
        let head = format!(r#"{{"transaction":"{TX}","#);
        let success = success.map_or("null".to_owned(), |success| success.to_string());
        let body = format!(r#"{head}"errorReason":"any","network":"elsewhere","success":{success}}}"#);
        let cut = head.len() - 1 + cut.index(body.len() - head.len() + 2);
        let answered = Answered {
            broken: broken.then(|| "the connection broke off".to_owned()),
            ..answered(status, &body[..cut])
        };
        let settled = of_settle(&request(), &answered);
        let settled = settled.unwrap();
        prop_assert_eq!(settled.transaction, TX);
        prop_assert!(!settled.success);
    }

    #[test]
    fn no_answer_panics_and_none_but_a_success_is_one(status in 200u16..600, body in any::<Vec<u8>>()) {
        let answered = Answered { body, ..answered(status, "") };
        let settled = of_settle(&request(), &answered);
        prop_assert!(!settled.is_ok_and(|settled| settled.success));
        prop_assert!(!of_verify(&answered).is_ok_and(|verdict| verdict.is_valid));
    }
}
