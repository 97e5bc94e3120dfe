//! The meaning of a server's response to a payment.

use std::time::Duration;

use http::StatusCode;
use quittance_core::wire::header;
use quittance_core::{Malformed, printable};
use quittance_http::bounded;
use quittance_http::retry::retry_after;
use reqwest::Response;
use tokio::time::timeout_at;

use super::redirect;
use crate::deadline::Deadline;
use crate::options::PaymentOptions;
use crate::receipt::Receipt;

/// How often one call presents one payment. The server may wait for its facilitator each time, so
/// more would take too long; the payment is kept for the next call.
pub(super) const PRESENTATIONS_MAX: u32 = 3;

/// The pause before a payment is presented again, if the server sends no `Retry-After`.
const PAUSE: Duration = Duration::from_secs(2);

/// The longest pause that a server can ask for. A longer one ends the call, and the payment is
/// kept.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// A server's response to a payment.
#[derive(Debug)]
pub(super) enum Answer {
    /// The server delivered a response, with the receipt if there is one.
    Served(Box<Response>, Option<Receipt>),
    /// The payment is not decided yet: the same payment must be presented again. Has the time to
    /// wait.
    Pending(Option<Duration>, Option<Receipt>),
    /// The server or a proxy is unavailable: the reason, the time to wait, and the receipt if there
    /// is one.
    Unavailable(String, Option<Duration>, Option<Receipt>),
    /// The server refused the payment.
    Refused(Box<Refused>),
}

/// A server's refusal of a payment.
#[derive(Debug)]
pub(super) struct Refused {
    /// The server's reason, printable.
    pub(super) reason: String,
    /// The receipt, if there is one.
    pub(super) receipt: Option<Receipt>,
    /// The payment options of the refusal, if it has any that can be read.
    pub(super) options: Option<PaymentOptions>,
}

impl Answer {
    pub(super) async fn read(response: Response, deadline: Deadline) -> Self {
        let receipt = receipt(&response);
        let is_pending = receipt.as_ref().is_some_and(Receipt::is_pending);
        match response.status() {
            // A pending transaction counts under any of these statuses.
            StatusCode::ACCEPTED
            | StatusCode::PAYMENT_REQUIRED
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
                if is_pending =>
            {
                Self::Pending(retry_after(response.headers()), receipt)
            }
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let reason = format!("the server answered HTTP {}", response.status().as_u16());
                Self::Unavailable(reason, retry_after(response.headers()), receipt)
            }
            StatusCode::PAYMENT_REQUIRED | StatusCode::PRECONDITION_FAILED => {
                Self::Refused(Box::new(Refused::read(response, receipt, deadline).await))
            }
            _ if receipt.as_ref().is_some_and(|it| it.success) => {
                Self::Served(Box::new(response), receipt)
            }
            _ => match redirect::target(&response) {
                // The payment is not sent to the target.
                Some(to) => {
                    let to = redirect::name(&to);
                    let reason = format!("the server redirects the payment to {to}; not followed");
                    Self::Refused(Box::new(Refused {
                        reason,
                        receipt,
                        options: None,
                    }))
                }
                None => Self::Served(Box::new(response), receipt),
            },
        }
    }
}

impl Refused {
    /// Reads a refusal. The reason is from the receipt, or else from the new payment requirements.
    async fn read(response: Response, receipt: Option<Receipt>, deadline: Deadline) -> Self {
        let options = timeout_at(deadline.at(), payment_options(response)).await;
        let options = options.ok().and_then(Result::ok);
        let from_receipt = receipt.as_ref().and_then(|it| it.error_reason.as_ref());
        let from_options = options.as_ref().and_then(|it| it.error.as_ref());
        let reason = from_receipt.or(from_options).map_or_else(
            || "the server gives no reason".to_owned(),
            |it| printable(it),
        );
        Self {
            reason,
            receipt,
            options,
        }
    }
}

/// Waits before the next presentation. Returns false, without waiting, if there is no time for one.
pub(super) async fn pause(retry_after: Option<Duration>, deadline: Deadline) -> bool {
    let pause = retry_after.unwrap_or(PAUSE);
    if pause >= deadline.left() || pause > PAUSE_MAX {
        return false;
    }
    tokio::time::sleep(pause).await;
    true
}

/// The receipt in a response.
fn receipt(response: &Response) -> Option<Receipt> {
    let names = [header::PAYMENT_RESPONSE, header::X_PAYMENT_RESPONSE];
    let receipts = names.into_iter().flat_map(|name| {
        let values = response.headers().get_all(name).iter();
        values.map(move |value| (name, value.as_bytes()))
    });
    Receipt::from_headers(receipts)
}

/// The payment options of a 402 response: those in the header, or those in the body if the header
/// lists none.
///
/// # Errors
/// When neither can be parsed.
pub(super) async fn payment_options(response: Response) -> Result<PaymentOptions, Malformed> {
    let value = response.headers().get(header::PAYMENT_REQUIRED);
    let from_header = value.map(|value| PaymentOptions::from_header(value.as_bytes()));
    if let Some(Ok(options)) = &from_header
        && !options.accepts.is_empty()
    {
        return from_header.expect("matched above");
    }
    let from_body = match bounded::read(response).await {
        Ok(body) => PaymentOptions::from_body(&body),
        Err(error) => Err(Malformed::new("body", printable(&error.to_string()))),
    };
    PaymentOptions::prefer(from_header, from_body)
}
