//! Presenting a payment until it is served or refused, and what the server said of it.

use std::time::Duration;

use http::StatusCode;
use quittance_core::wire::SettleResponse;
use reqwest::Response;
use tokio::time::{Instant, timeout_at};

use super::error::NoAnswer;
use super::offered::{self, Offered};
use super::redirect;
use crate::printable::printable;
use crate::retry::retry_after;

/// How often one payment is presented in one call. Each time the server may wait for its facilitator; three waits are as
/// much as anybody has patience for, and the payment is kept.
pub(super) const PRESENTATIONS_MAX: u32 = 3;

/// The pause before a payment is presented again, where the server asks for none.
const PAUSE: Duration = Duration::from_secs(2);

/// The longest transaction id that is taken down. The longest of any chain has 88 characters.
const TRANSACTION_MAX: usize = 128;

/// When a call must be over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout)
    }

    pub(super) fn at(self) -> Instant {
        self.0
    }

    /// What something comes to, if it does in time.
    pub(super) async fn within<T, E: Into<NoAnswer>>(
        self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, NoAnswer> {
        match timeout_at(self.0, answer).await {
            Ok(answer) => answer.map_err(Into::into),
            Err(_) => Err(NoAnswer::Late),
        }
    }

    /// The time that is left.
    pub(super) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// What a server did with a payment.
#[derive(Debug)]
pub(super) enum Answer {
    /// It answered with something, and perhaps with a receipt.
    Served(Box<Response>, Option<SettleResponse>),
    /// Not decided: the same payment is to be presented again.
    Pending(Option<SettleResponse>),
    /// It, or something before it, has no verdict.
    Unavailable(String, Option<Duration>),
    /// It did not accept the payment.
    Refused(String, Option<SettleResponse>),
}

impl Answer {
    pub(super) async fn read(response: Response, deadline: Deadline) -> Self {
        let receipt = offered::receipt(response.headers());
        let is_pending = receipt.as_ref().is_some_and(SettleResponse::is_pending);
        match response.status() {
            // A transaction that is named is known, whatever stands over it.
            StatusCode::PAYMENT_REQUIRED
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
                if is_pending =>
            {
                Self::Pending(receipt)
            }
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let reason = format!("the server answered HTTP {}", response.status().as_u16());
                Self::Unavailable(reason, retry_after(response.headers()))
            }
            StatusCode::PAYMENT_REQUIRED | StatusCode::PRECONDITION_FAILED => {
                let reason = reason(response, receipt.as_ref(), deadline).await;
                let reason = reason.unwrap_or_else(|| "the server gives no reason".to_owned());
                Self::Refused(reason, receipt)
            }
            // Where it points to, nothing is paid and nothing is shown.
            status if status.is_redirection() && !receipt.as_ref().is_some_and(|it| it.success) => {
                let to = redirect::target(&response).map(|to| redirect::name(&to));
                let to = to.unwrap_or_else(|| "nowhere".to_owned());
                let reason = format!("the server redirects the payment to {to}; not followed");
                Self::Refused(reason, receipt)
            }
            _ => Self::Served(Box::new(response), receipt),
        }
    }
}

async fn reason(
    response: Response,
    receipt: Option<&SettleResponse>,
    deadline: Deadline,
) -> Option<String> {
    let settled = receipt.and_then(|receipt| receipt.error_reason.clone());
    let said = match settled {
        Some(reason) => Some(reason),
        None => {
            let offered = timeout_at(deadline.at(), Offered::of(response)).await;
            offered.ok()?.ok()?.error
        }
    };
    Some(printable(&said?))
}

/// The transaction a receipt names. Ids are plain letters and digits on every chain; anything else is none.
pub(super) fn transaction(receipt: Option<&SettleResponse>) -> Option<String> {
    let transaction = &receipt?.transaction;
    let is_one = (1..=TRANSACTION_MAX).contains(&transaction.len())
        && transaction.bytes().all(|byte| byte.is_ascii_graphic());
    is_one.then(|| transaction.clone())
}

/// Waits before the next presentation; whether there is time for one.
pub(super) async fn pause(asked: Option<Duration>, deadline: Deadline) -> bool {
    let pause = asked.unwrap_or(PAUSE);
    if pause >= deadline.left() {
        return false;
    }
    tokio::time::sleep(pause).await;
    true
}
