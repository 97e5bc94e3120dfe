//! Asks a seller to pay back what payments to it have locked up.

use http::{HeaderValue, StatusCode};
use quittance_core::wire::{PaymentRequirements, header};
use quittance_core::{Next, Payer, PayerError, PaymentOutcome, SignedPayment, Version};
use reqwest::{Method, Request, Response};
use tokio::time::timeout_at;
use tracing::debug;
use url::Url;

use super::answer::{Answer, Refused};
use super::client::{Buyer, Call, in_time, options};
use super::error::{BuyError, RequestError};
use crate::deadline::Deadline;
use crate::options::PaymentOptions;
use crate::receipt::Receipt;

/// How often one call asks a seller. The second time is for a payer whose books were behind. A
/// seller that refuses again could do so for ever.
const ATTEMPTS_MAX: usize = 2;

impl Buyer {
    /// Asks the seller at this URL to pay back what payments to it have locked up, such as the rest
    /// of a channel's deposit. Returns its receipt; `None` if nothing is locked up there.
    ///
    /// The seller is not forced to. What it does not pay back, the payer takes back by the means of
    /// its scheme.
    ///
    /// # Errors
    /// [`BuyError::NotPaidBack`] if the seller refuses, and those of a request.
    pub async fn reclaim(&self, url: &str) -> Result<Option<Receipt>, BuyError> {
        let deadline = Deadline::after(self.shared.timeout);
        let url: Url = url
            .parse()
            .map_err(|error: url::ParseError| RequestError::Url(error.into()))?;
        let mut call = Call::new(Request::new(Method::GET, url))?;
        let answer = self.ask(&mut call.request, deadline).await?;
        if answer.status() != StatusCode::PAYMENT_REQUIRED {
            return Ok(None);
        }
        let options = options(answer, deadline).await?;
        for requirements in &options.accepts {
            for payer in &self.shared.payers {
                let asking = Reclaim {
                    buyer: self,
                    request: &call.request,
                    payer: payer.as_ref(),
                    deadline,
                };
                if let Some(receipt) = asking.ask(&options, requirements).await? {
                    return Ok(Some(receipt));
                }
            }
        }
        Ok(None)
    }
}

/// A payer that asks a seller to pay back.
struct Reclaim<'a> {
    buyer: &'a Buyer,
    request: &'a Request,
    payer: &'a dyn Payer,
    deadline: Deadline,
}

/// A seller's answer.
enum Asked {
    PaidBack(Box<Receipt>),
    Refused(Box<Refused>, Next),
    NothingLocked,
}

impl Reclaim<'_> {
    /// Asks until the seller pays back or refuses. `None` if nothing is locked up.
    async fn ask(
        &self,
        options: &PaymentOptions,
        requirements: &PaymentRequirements,
    ) -> Result<Option<Receipt>, BuyError> {
        for attempt in 1..=ATTEMPTS_MAX {
            match self.ask_once(options, requirements).await? {
                Asked::NothingLocked => return Ok(None),
                Asked::PaidBack(receipt) => return Ok(Some(*receipt)),
                Asked::Refused(refused, Next::Replace) if attempt < ATTEMPTS_MAX => {
                    debug!(
                        reason = refused.reason,
                        "asking again with a corrected book"
                    );
                }
                Asked::Refused(refused, _) => {
                    return Err(BuyError::NotPaidBack {
                        reason: refused.reason,
                        receipt: refused.receipt.map(Box::new),
                    });
                }
            }
        }
        Ok(None)
    }

    async fn ask_once(
        &self,
        options: &PaymentOptions,
        requirements: &PaymentRequirements,
    ) -> Result<Asked, BuyError> {
        let late = || PayerError::signing("the payer did not sign in time");
        let signing = async {
            let turn = self.payer.turn(requirements).await;
            let now = self.buyer.shared.clock.now();
            let signed = self.payer.reclaim(requirements, now).await;
            signed.map(|signed| (signed, turn))
        };
        let signed = timeout_at(self.deadline.at(), signing).await;
        let (signed, _turn) = match signed.map_err(|_| late())? {
            Ok((Some(signed), turn)) => (signed, turn),
            // Another payer may support the requirements.
            Ok((None, _)) | Err(PayerError::Requirements(_)) => return Ok(Asked::NothingLocked),
            Err(error) => return Err(error.into()),
        };
        let response = self.send(options, requirements, &signed).await?;
        match Answer::read(response, self.deadline).await {
            Answer::Served(_, Some(receipt)) if receipt.success => {
                let message = receipt.message();
                let outcome = PaymentOutcome::Served {
                    receipt: message.as_ref(),
                };
                self.observe(requirements, &signed, outcome).await;
                Ok(Asked::PaidBack(Box::new(receipt)))
            }
            Answer::Refused(refused) => {
                let receipt = refused.receipt.as_ref().and_then(Receipt::message);
                let outcome = PaymentOutcome::Refused {
                    terms: refused.options.as_ref().map_or(&[], |it| &it.accepts),
                    receipt: receipt.as_ref(),
                    presented_before: false,
                };
                let next = self.observe(requirements, &signed, outcome).await;
                Ok(Asked::Refused(refused, next))
            }
            Answer::Served(response, receipt) => {
                let status = response.status().as_u16();
                Err(not_paid_back(
                    format!("the server answered HTTP {status} without a successful receipt"),
                    receipt,
                ))
            }
            Answer::Pending(_, receipt) => {
                Err(not_paid_back("the refund is pending".to_owned(), receipt))
            }
            Answer::Unavailable(reason, _, receipt) => Err(not_paid_back(reason, receipt)),
        }
    }

    async fn send(
        &self,
        options: &PaymentOptions,
        requirements: &PaymentRequirements,
        signed: &SignedPayment,
    ) -> Result<Response, BuyError> {
        let (version, value) = options.payment_header(requirements, signed);
        let request = self.request.try_clone();
        let mut request = request.ok_or(RequestError::StreamingBody)?;
        let mut value: HeaderValue = value.parse().expect("base64 is a valid header value");
        value.set_sensitive(true);
        let name = match version {
            Version::V2 => header::PAYMENT_SIGNATURE,
            Version::V1 => header::X_PAYMENT,
        };
        request.headers_mut().insert(name, value);
        let sent = in_time(self.deadline, self.buyer.shared.http.execute(request)).await;
        Ok(sent?)
    }

    async fn observe(
        &self,
        requirements: &PaymentRequirements,
        signed: &SignedPayment,
        outcome: PaymentOutcome<'_>,
    ) -> Next {
        let observing = self.payer.observe(requirements, &signed.payload, outcome);
        let next = timeout_at(self.deadline.at(), observing).await;
        next.unwrap_or(Next::Keep)
    }
}

fn not_paid_back(reason: String, receipt: Option<Receipt>) -> BuyError {
    BuyError::NotPaidBack {
        reason,
        receipt: receipt.map(Box::new),
    }
}
