//! A sale: offer, reserve, verify, settle or cancel. No step knows HTTP.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use quittance_core::wire::{ResourceInfo, SettleResponse};
use quittance_core::{
    Facilitator, FacilitatorError, Fault, FaultKind, Offer, PaymentRequest, Reason, Refusal,
    Rejection,
};
use quittance_http::reason::{HANDLER_FAILED, OTHER_TERMS, PAYMENT_REQUIRED};
use tokio::time::Instant;
use tracing::info;

use crate::limit::{ClientLimit, ClientLimiter, CountedAttempt};
use crate::options::{self, PaymentOption};
use crate::payment::ClientPayment;
use crate::refusal::{RefusalReason, RequiredPayment, SaleReceipt, SaleRefusal};
use crate::reservations::{Reservations, ReservedAuthorization};
use crate::settle::settle;
use crate::settled::SettledTransactions;
use crate::supported::SupportedCache;

/// The longest time for which settling is tried again, longer than any handler and client wait.
const VALID_MAX: Duration = Duration::from_secs(3600);

/// The message for a client that is over its limit.
pub(crate) const RATE_LIMITED: &str = "too many payments of this client did not settle";

/// The verified payment of a request, for its handler. It is in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedPayment {
    /// The payer, if the facilitator names it.
    pub payer: Option<String>,
    /// The network, as the payment requirements name it.
    pub network: String,
    /// The asset.
    pub asset: String,
    /// The amount in atomic units.
    pub amount: String,
}

impl VerifiedPayment {
    /// A payment of `amount` atomic units, for example for a test of a handler.
    pub fn new(payer: Option<&str>, network: &str, asset: &str, amount: &str) -> Self {
        Self {
            payer: payer.map(str::to_owned),
            network: network.to_owned(),
            asset: asset.to_owned(),
            amount: amount.to_owned(),
        }
    }
}

/// A seller of one price. Clones share their state.
#[derive(Clone)]
pub(crate) struct Seller {
    pub(crate) facilitator: Arc<dyn Facilitator>,
    pub(crate) offers: Vec<Arc<dyn Offer>>,
    pub(crate) limit: ClientLimit,
    state: Arc<SellerState>,
}

/// The state that clones share.
#[derive(Default)]
struct SellerState {
    supported: SupportedCache,
    reservations: Reservations,
    clients: Arc<ClientLimiter>,
    settled: SettledTransactions,
}

/// A payment for one of the seller's options, reserved for one request and not verified yet.
pub(crate) struct ReservedPayment {
    payment: PaymentRequest,
    /// The option that it pays.
    option: PaymentOption,
    options: Vec<PaymentOption>,
    resource: ResourceInfo,
    reservation: ReservedAuthorization,
}

/// A verified payment whose handler runs.
pub(crate) struct Sale {
    payment: PaymentRequest,
    options: Vec<PaymentOption>,
    resource: ResourceInfo,
    verified: VerifiedPayment,
    /// The payment expires here at the latest, if it was signed when it was presented.
    deadline: Instant,
    /// Counts against the client unless the payment settles.
    attempt: CountedAttempt,
    /// Released when the sale is dropped.
    _reservation: ReservedAuthorization,
}

impl ReservedPayment {
    /// The request to the facilitator.
    pub(crate) fn payment(&self) -> &PaymentRequest {
        &self.payment
    }

    fn refuse(&self, reason: RefusalReason, receipt: Option<SettleResponse>) -> SaleRefusal {
        required(
            &self.options,
            &self.resource,
            reason,
            receipt.map(|response| SaleReceipt {
                version: self.payment.version,
                response,
            }),
        )
    }
}

impl Sale {
    /// What the handler may know of the payment.
    pub(crate) fn verified(&self) -> &VerifiedPayment {
        &self.verified
    }

    /// Ends the sale without settlement. The receipt says so, with this detail for people.
    pub(crate) fn cancel(self, detail: String) -> SaleReceipt {
        let rejection = Rejection::new(Reason::new(HANDLER_FAILED), detail);
        let network = &self.payment.requirements.network;
        SaleReceipt {
            version: self.payment.version,
            response: SettleResponse::failed(network, &rejection, self.verified.payer.clone(), ""),
        }
    }
}

impl Seller {
    pub(crate) fn new(facilitator: Arc<dyn Facilitator>) -> Self {
        Self {
            facilitator,
            offers: Vec::new(),
            limit: ClientLimit::default(),
            state: Arc::default(),
        }
    }

    /// Asks the facilitator whether each offer can be sold now.
    ///
    /// # Errors
    /// The first problem.
    pub(crate) async fn check(&self) -> Result<(), Fault> {
        let supported = self.facilitator.supported().await;
        let supported = supported.map_err(|error| match error {
            FacilitatorError::Fault(fault) => fault,
            FacilitatorError::Malformed(malformed) => {
                Fault::new(FaultKind::FacilitatorUnreachable, malformed)
            }
        })?;
        let problems = options::problems(&self.offers, &supported);
        problems.into_iter().next().map_or(Ok(()), Err)
    }

    /// Logs a warning, once, if clients should be limited and this client's address is unknown.
    pub(crate) fn check_address(&self, client: Option<IpAddr>) {
        self.state.clients.check_address(self.limit, client);
    }

    /// Refuses a request whose method is not sold, with the payment options. No facilitator
    /// verifies its payment; the receipt says that nothing was settled.
    pub(crate) async fn decline(
        &self,
        method: &str,
        resource: &ResourceInfo,
        presented: Result<Option<ClientPayment>, Refusal>,
    ) -> SaleRefusal {
        let options = match self.options().await {
            Ok(options) => options::with_hints(options).await,
            Err(fault) => return SaleRefusal::Unavailable(fault),
        };
        let message = format!("{method} requests are not sold and not charged");
        let Ok(Some(presented)) = presented else {
            let reason = RefusalReason::new(PAYMENT_REQUIRED, Some(&message));
            return required(&options, resource, reason, None);
        };
        let rejection = Rejection::new(Reason::new(HANDLER_FAILED), message);
        let receipt = SaleReceipt {
            version: presented.version(),
            response: SettleResponse::failed(presented.network(), &rejection, None, ""),
        };
        required(&options, resource, rejection.into(), Some(receipt))
    }

    /// Accepts a payment for one of the seller's options, and reserves it for one request.
    ///
    /// # Errors
    /// When there is no payment, it matches no option, or another request with it is being served.
    pub(crate) async fn reserve(
        &self,
        presented: Result<Option<ClientPayment>, Refusal>,
        resource: ResourceInfo,
    ) -> Result<ReservedPayment, SaleRefusal> {
        if let Err(Refusal::Malformed(malformed)) = presented {
            return Err(SaleRefusal::Malformed(malformed));
        }
        let mut options = self.options().await.map_err(SaleRefusal::Unavailable)?;
        if matches!(presented, Ok(None)) {
            options = options::with_hints(options).await;
        }
        let (payment, option) = match self.accept(presented, &options, &resource) {
            Ok(accepted) => accepted,
            Err(Refusal::Malformed(malformed)) => return Err(SaleRefusal::Malformed(malformed)),
            Err(Refusal::Rejected(rejection)) => {
                return Err(required(&options, &resource, rejection.into(), None));
            }
        };
        let authorization = payment.origin();
        let reservation = self.state.reservations.reserve(authorization);
        let reservation = reservation.ok_or_else(|| {
            let problem = "another request with this payment is being served";
            SaleRefusal::Unavailable(Fault::new(FaultKind::Busy, problem))
        })?;
        Ok(ReservedPayment {
            payment,
            option,
            options,
            resource,
            reservation,
        })
    }

    /// Has a reserved payment verified. Payments that have settled, and clients over their limit,
    /// are refused without the facilitator.
    ///
    /// # Errors
    /// When the payment is refused, or there is no verdict.
    pub(crate) async fn verify(
        &self,
        reserved: ReservedPayment,
        client: Option<IpAddr>,
    ) -> Result<Sale, SaleRefusal> {
        let payment = &reserved.payment;
        let authorization = payment.origin();
        if let Some(transaction) = self.state.settled.transaction(&authorization) {
            return Err(already_settled(&reserved, &transaction));
        }
        let attempt = self.state.clients.present(self.limit, client);
        let mut attempt = attempt.map_err(|retry_after| rate_limited(payment, retry_after))?;
        let valid_for = Duration::from_secs(payment.requirements.max_timeout_secs).min(VALID_MAX);
        let deadline = Instant::now() + valid_for;
        let verdict = self.facilitator.verify(payment).await?;
        if !verdict.is_valid {
            let reason = verdict.invalid_reason.as_deref();
            let reason = reason.unwrap_or("Verification failed");
            let message = verdict.invalid_message.as_deref();
            let payer = &verdict.payer;
            info!(reason, message, payer, "a payment was refused");
            return Err(reserved.refuse(RefusalReason::new(reason, message), None));
        }
        attempt.verified();
        let requirements = reserved.option.requirements;
        Ok(Sale {
            verified: VerifiedPayment {
                payer: verdict.payer,
                network: requirements.network,
                asset: requirements.asset,
                amount: requirements.amount,
            },
            payment: reserved.payment,
            options: reserved.options,
            resource: reserved.resource,
            deadline,
            attempt,
            _reservation: reserved.reservation,
        })
    }

    /// Settles the payment of a sale whose handler has succeeded.
    ///
    /// # Errors
    /// When the payment was not settled, or the outcome is unknown. The handler's response must not
    /// be sent.
    pub(crate) async fn settle(&self, sale: &mut Sale) -> Result<SaleReceipt, SaleRefusal> {
        let payment = &sale.payment;
        let response = settle(&*self.facilitator, payment, sale.deadline).await?;
        let success = response.success;
        let receipt = SaleReceipt {
            version: payment.version,
            response,
        };
        if !success {
            return Err(unsettled(sale, receipt));
        }
        sale.attempt.settled();
        let authorization = payment.origin();
        let settled = &self.state.settled;
        settled.insert(authorization, &receipt.response.transaction);
        Ok(receipt)
    }

    /// The options that can be settled now.
    async fn options(&self) -> Result<Vec<PaymentOption>, Fault> {
        let supported = self.state.supported.get(&*self.facilitator).await?;
        options::current(&self.offers, &supported)
    }

    /// The request to the facilitator for a payment that matches one of the options.
    fn accept(
        &self,
        presented: Result<Option<ClientPayment>, Refusal>,
        options: &[PaymentOption],
        resource: &ResourceInfo,
    ) -> Result<(PaymentRequest, PaymentOption), Refusal> {
        let presented = presented?.ok_or(Reason::new(PAYMENT_REQUIRED))?;
        let acceptable = self.acceptable(options);
        let matched = presented.request(&acceptable, resource);
        let (mut payment, option) = matched.ok_or(Reason::new(OTHER_TERMS))??;
        payment = payment.on(option.network().clone());
        payment.authorization = option.authorization(&payment.payload);
        Ok((payment, option))
    }

    /// The current options, and the recent ones that a buyer may still have. They differ only in
    /// what the facilitator adds, and the facilitator decides whether it still accepts that.
    fn acceptable(&self, current: &[PaymentOption]) -> Vec<PaymentOption> {
        let replaced = self.state.supported.replaced();
        let recent = replaced
            .iter()
            .filter_map(|supported| options::current(&self.offers, supported).ok())
            .flatten();
        current.iter().cloned().chain(recent).collect()
    }
}

fn required(
    options: &[PaymentOption],
    resource: &ResourceInfo,
    reason: RefusalReason,
    receipt: Option<SaleReceipt>,
) -> SaleRefusal {
    SaleRefusal::PaymentRequired(Box::new(RequiredPayment {
        options: options.to_vec(),
        resource: resource.clone(),
        reason,
        receipt,
    }))
}

/// The refusal of a payment that has settled before: one payment buys one response. The receipt
/// names its transaction.
fn already_settled(reserved: &ReservedPayment, transaction: &str) -> SaleRefusal {
    info!(transaction, "a settled payment is presented again");
    let message = "this payment has settled, and its response was sent";
    let rejection = Rejection::new(Reason::DUPLICATE_SETTLEMENT, message);
    let network = &reserved.payment.requirements.network;
    let receipt = SettleResponse::failed(network, &rejection, None, transaction);
    reserved.refuse(rejection.into(), Some(receipt))
}

fn rate_limited(payment: &PaymentRequest, retry_after: Duration) -> SaleRefusal {
    info!(?retry_after, "{RATE_LIMITED}");
    let rejection = Rejection::new(Reason::new(HANDLER_FAILED), RATE_LIMITED);
    let network = &payment.requirements.network;
    SaleRefusal::RateLimited {
        retry_after,
        receipt: Box::new(SaleReceipt {
            version: payment.version,
            response: SettleResponse::failed(network, &rejection, None, ""),
        }),
    }
}

/// The refusal of a payment that was not settled. The handler's response is discarded.
fn unsettled(sale: &Sale, receipt: SaleReceipt) -> SaleRefusal {
    let settled = &receipt.response;
    let reason = settled.error_reason.as_deref();
    let reason = reason.unwrap_or("Settlement failed");
    let message = settled.error_message.as_deref();
    let (payer, transaction) = (&settled.payer, &settled.transaction);
    info!(
        reason,
        message, payer, transaction, "a payment was not settled"
    );
    let reason = RefusalReason::new(reason, message);
    required(&sale.options, &sale.resource, reason, Some(receipt))
}
