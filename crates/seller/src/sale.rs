//! The beginning of a sale: offer and reserve. No step knows HTTP.

use std::net::IpAddr;
use std::sync::Arc;

use quittance_core::wire::{ResourceInfo, SettleResponse};
use quittance_core::{
    Facilitator, FacilitatorError, Fault, FaultKind, Offer, PaymentRequest, Reason, Refusal,
    Rejection,
};
use quittance_http::reason::{HANDLER_FAILED, OTHER_TERMS, PAYMENT_REQUIRED};

use crate::limit::{ClientLimit, ClientLimiter};
use crate::options::{self, PaymentOption};
use crate::payment::ClientPayment;
use crate::refusal::{RefusalReason, RequiredPayment, SaleReceipt, SaleRefusal};
use crate::reservations::{Reservations, ReservedAuthorization};
use crate::sale_ids::SaleIds;
use crate::settled::SettledTransactions;
use crate::supported::SupportedCache;

/// The message for a client that is over its limit.
pub(crate) const RATE_LIMITED: &str = "too many payments of this client did not settle";

/// The payment of a request, verified or settled, for its handler. It is in the request's
/// extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedPayment {
    /// The payer, if the facilitator names it.
    pub payer: Option<String>,
    /// The network, as the payment requirements name it.
    pub network: String,
    /// The asset.
    pub asset: String,
    /// The price in atomic units.
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
    pub(crate) state: Arc<SellerState>,
}

/// The state that clones share.
#[derive(Default)]
pub(crate) struct SellerState {
    supported: SupportedCache,
    reservations: Reservations,
    pub(crate) clients: Arc<ClientLimiter>,
    pub(crate) settled: SettledTransactions,
    pub(crate) sale_ids: SaleIds,
}

/// A payment for one of the seller's options, reserved for one request and not verified yet.
pub(crate) struct ReservedPayment {
    pub(crate) payment: PaymentRequest,
    /// The option that it pays.
    pub(crate) option: PaymentOption,
    pub(crate) options: Vec<PaymentOption>,
    pub(crate) resource: ResourceInfo,
    pub(crate) reservation: ReservedAuthorization,
    /// Of what the payment uses besides, such as a channel.
    pub(crate) serial: Option<ReservedAuthorization>,
}

impl ReservedPayment {
    /// The request to the facilitator.
    pub(crate) fn payment(&self) -> &PaymentRequest {
        &self.payment
    }

    /// Whether money moves before the handler runs.
    pub(crate) fn settles_first(&self) -> bool {
        self.option.flow().settles_first()
    }

    /// The refusal of the payment, with this receipt if there is one. The options are corrected by
    /// the facilitator's `rejection`.
    pub(crate) fn refuse(
        self,
        reason: RefusalReason,
        receipt: Option<SettleResponse>,
        rejection: Option<&Rejection>,
    ) -> SaleRefusal {
        let receipt = receipt.map(|response| SaleReceipt {
            version: self.payment.version,
            response,
        });
        let options = match rejection {
            Some(rejection) => options::corrected(self.options, &self.option, rejection),
            None => self.options,
        };
        required(&options, &self.resource, reason, receipt)
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
        let reserve = |id, problem| {
            let reservation = self.state.reservations.reserve(id);
            let busy = || SaleRefusal::Unavailable(Fault::new(FaultKind::Busy, problem));
            reservation.ok_or_else(busy)
        };
        let problem = "another request with this payment is being served";
        let reservation = reserve(payment.origin(), problem)?;
        let problem = "another request of this channel is being served";
        let serial = option.serial(&payment.payload);
        let serial = serial.map(|id| reserve(id, problem)).transpose()?;
        Ok(ReservedPayment {
            payment,
            option,
            options,
            resource,
            reservation,
            serial,
        })
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

pub(crate) fn required(
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
