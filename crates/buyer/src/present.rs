//! Presenting a payment until it is served or refused, and what the server said of it.

use std::time::Duration;

use http::StatusCode;
use reqwest::Response;
use tokio::time::{Instant, timeout_at};

use crate::error::NoAnswer;
use crate::offered::Offered;
use crate::receipt::Receipt;
use crate::redirect;
use quittance_http::printable;
use quittance_http::retry::retry_after;

/// How often one payment is presented in one call. Each time the server may wait for its facilitator; three waits are as
/// much as anybody has patience for, and the payment is kept.
pub(crate) const PRESENTATIONS_MAX: u32 = 3;

/// The pause before a payment is presented again, where the server asks for none.
const PAUSE: Duration = Duration::from_secs(2);

/// The longest pause that a server can ask for. Longer ones end the call, and the payment is kept.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// How far away "no deadline" is: thirty years. The clock cannot add the longest durations.
const NO_DEADLINE: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// When a call must be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout.min(NO_DEADLINE))
    }

    pub(crate) fn at(self) -> Instant {
        self.0
    }

    /// What something comes to, if it does in time.
    pub(crate) async fn within<T, E: Into<NoAnswer>>(
        self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, NoAnswer> {
        match timeout_at(self.0, answer).await {
            Ok(answer) => answer.map_err(Into::into),
            Err(_) => Err(NoAnswer::Late),
        }
    }

    /// The time that is left.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// What a server did with a payment.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It answered with something, and perhaps with a receipt.
    Served(Box<Response>, Option<Receipt>),
    /// Not decided: the same payment is to be presented again.
    Pending(Option<Receipt>),
    /// It, or something before it, has no verdict: why, when to ask again, and what a receipt says all the same.
    Unavailable(String, Option<Duration>, Option<Receipt>),
    /// It did not accept the payment.
    Refused(String, Option<Receipt>),
}

impl Answer {
    pub(crate) async fn read(response: Response, deadline: Deadline) -> Self {
        let receipt = Receipt::of(response.headers());
        let is_pending = receipt.as_ref().is_some_and(Receipt::is_pending);
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
                Self::Unavailable(reason, retry_after(response.headers()), receipt)
            }
            StatusCode::PAYMENT_REQUIRED | StatusCode::PRECONDITION_FAILED => {
                let reason = reason(response, receipt.as_ref(), deadline).await;
                let reason = reason.unwrap_or_else(|| "the server gives no reason".to_owned());
                Self::Refused(reason, receipt)
            }
            _ if receipt.as_ref().is_some_and(|it| it.success) => {
                Self::Served(Box::new(response), receipt)
            }
            _ => match redirect::target(&response) {
                // Where it points to, nothing is paid and nothing is shown.
                Some(to) => {
                    let to = redirect::name(&to);
                    let reason = format!("the server redirects the payment to {to}; not followed");
                    Self::Refused(reason, receipt)
                }
                None => Self::Served(Box::new(response), receipt),
            },
        }
    }
}

async fn reason(
    response: Response,
    receipt: Option<&Receipt>,
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

/// Waits before the next presentation; whether there is time for one.
pub(crate) async fn pause(asked: Option<Duration>, deadline: Deadline) -> bool {
    let pause = asked.unwrap_or(PAUSE);
    if pause >= deadline.left() || pause > PAUSE_MAX {
        return false;
    }
    tokio::time::sleep(pause).await;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest duration, which callers write for "no limit", overflowed the clock and panicked at every call.
    #[tokio::test]
    async fn no_time_limit_is_too_long() {
        for timeout in [
            Duration::MAX,
            Duration::from_secs(u64::MAX / 2),
            NO_DEADLINE,
        ] {
            let deadline = Deadline::after(timeout);
            let answer = deadline.within(async { Ok::<_, NoAnswer>(1) }).await;
            assert_eq!(answer.unwrap(), 1);
            assert!(deadline.left() > NO_DEADLINE / 2);
        }
    }
}
