//! The beginning of a sale: offer and reserve. No step knows HTTP.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use quittance_core::json::Object;
use quittance_core::wire::{ResourceInfo, SettleResponse};
use quittance_core::{
    Facilitator, FacilitatorError, Fault, FaultKind, Malformed, Offer, PaymentId, PaymentRequest,
    Reason, Refusal, Rejection,
};
use quittance_http::reason::{HANDLER_FAILED, OTHER_TERMS, PAYMENT_REQUIRED};
use quittance_http::{PAYMENT_IDENTIFIER, PaymentIdentifier};
use serde_json::Map;
use tokio::time::Instant;

use crate::limit::{ClientLimit, ClientLimiter};
use crate::options::{self, PaymentOption};
use crate::payment::ClientPayment;
use crate::refusal::{RefusalReason, RequiredPayment, SaleReceipt, SaleRefusal};
use crate::reservations::{Reservations, ReservedAuthorization};
use crate::sale_ids::{SaleKey, SaleSecret, UnansweredPayments};
use crate::settled::SettledTransactions;
use crate::supported::SupportedCache;

/// The message for a client that is over its limit.
pub(crate) const RATE_LIMITED: &str = "too many payments of this client did not settle";

/// For how long after its start a seller continues the sales of the process before it. A buyer that
/// got no response comes back within seconds, or as soon as the seller is up again.
///
/// Until then, a process cannot know which of these sales were answered: each may be answered once
/// more. So it is as short as buyers allow.
const RESTARTED_FOR: Duration = Duration::from_secs(10 * 60);

/// Whether buyers may or must name their payments (the extension `payment-identifier`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdentifierPolicy {
    Optional,
    Required,
}

impl IdentifierPolicy {
    /// Says so in the payment options.
    fn apply(self, options: &mut [PaymentOption]) {
        let is_required = self == Self::Required;
        let offered = PaymentIdentifier::offered(is_required);
        let extensions = Object::of(&Map::from_iter([(PAYMENT_IDENTIFIER.to_owned(), offered)]));
        for option in options {
            if let Ok(extensions) = &extensions {
                option.add_extensions(extensions);
            }
            if is_required {
                option.only_in_v2();
            }
        }
    }

    /// The buyer's name for a payment.
    ///
    /// # Errors
    /// When it cannot be read, or is required and missing.
    pub(crate) fn identifier(
        self,
        payment: &ClientPayment,
    ) -> Result<Option<PaymentIdentifier>, Malformed> {
        match (payment.identifier()?, self) {
            (None, Self::Required) => {
                let field = format!("paymentPayload.extensions.{PAYMENT_IDENTIFIER}.info.id");
                Err(Malformed::new(field, "this seller requires an id"))
            }
            (identifier, _) => Ok(identifier),
        }
    }
}

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
    /// Whether buyers may or must name their payments; `None` if names are ignored.
    pub(crate) identifiers: Option<IdentifierPolicy>,
    /// The secret of sales that a restart must not end; `None` if it ends all.
    pub(crate) secret: Option<SaleSecret>,
    pub(crate) state: Arc<SellerState>,
}

/// The state that clones share.
pub(crate) struct SellerState {
    supported: SupportedCache,
    reservations: Reservations,
    pub(crate) clients: Arc<ClientLimiter>,
    pub(crate) settled: SettledTransactions,
    pub(crate) unanswered: UnansweredPayments,
    /// The secret of sales that end with this process.
    own_secret: SaleSecret,
    started: Instant,
}

impl Default for SellerState {
    fn default() -> Self {
        Self {
            supported: SupportedCache::default(),
            reservations: Reservations::default(),
            clients: Arc::default(),
            settled: SettledTransactions::default(),
            unanswered: UnansweredPayments::default(),
            own_secret: SaleSecret::random(),
            started: Instant::now(),
        }
    }
}

/// A payment for one of the seller's options, reserved for one request and not verified yet.
pub(crate) struct ReservedPayment {
    pub(crate) payment: PaymentRequest,
    /// The option that it pays.
    pub(crate) option: PaymentOption,
    pub(crate) options: Vec<PaymentOption>,
    pub(crate) resource: ResourceInfo,
    pub(crate) reservation: ReservedAuthorization,
    /// Of what the payment uses besides, such as a channel. If the payment is verified first,
    /// `None` until it is.
    pub(crate) serial: Option<ReservedAuthorization>,
}

impl ReservedPayment {
    /// The request to the facilitator.
    pub(crate) fn payment(&self) -> &PaymentRequest {
        &self.payment
    }

    /// The state record that the payment uses, such as a channel's.
    pub(crate) fn record(&self) -> Option<PaymentId> {
        self.option.serial(&self.payment.payload)
    }

    /// Whether the payment buys nothing, as a request for a refund does.
    pub(crate) fn buys_nothing(&self) -> bool {
        self.option.acknowledgement(&self.payment.payload).is_some()
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
            identifiers: None,
            secret: None,
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
        let problem = "another request with this payment is being served";
        let mut reserved = ReservedPayment {
            reservation: self.exclusive(payment.origin(), problem)?,
            payment,
            option,
            options,
            resource,
            serial: None,
        };
        if reserved.settles_first() {
            reserved.serial = self.reserve_record(&reserved)?;
        }
        Ok(reserved)
    }

    /// Reserves the state record that a payment uses, such as its channel, for one request.
    pub(crate) fn reserve_record(
        &self,
        reserved: &ReservedPayment,
    ) -> Result<Option<ReservedAuthorization>, SaleRefusal> {
        let problem = "another request of this channel is being served";
        let reserve = |id| self.exclusive(id, problem);
        reserved.record().map(reserve).transpose()
    }

    fn exclusive(
        &self,
        id: PaymentId,
        problem: &'static str,
    ) -> Result<ReservedAuthorization, SaleRefusal> {
        let reservation = self.state.reservations.reserve(id);
        let busy = || SaleRefusal::Unavailable(Fault::new(FaultKind::Busy, problem));
        reservation.ok_or_else(busy)
    }

    /// Names the sale of a payment. `outlives_process` says whether `key` identifies the request
    /// also in another process.
    pub(crate) fn name_sale(
        &self,
        reserved: &mut ReservedPayment,
        key: &SaleKey,
        outlives_process: bool,
    ) {
        let secret = self.secret.as_ref().filter(|_| outlives_process);
        let id = secret.unwrap_or(&self.state.own_secret).id(key);
        reserved.payment = reserved.payment.clone().with_sale(id);
    }

    /// Whether an earlier process may have lost the answer of a sale a short time ago.
    pub(crate) fn has_restarted(&self) -> bool {
        self.secret.is_some() && self.state.started.elapsed() < RESTARTED_FOR
    }

    /// The options that can be settled now.
    async fn options(&self) -> Result<Vec<PaymentOption>, Fault> {
        let supported = self.state.supported.get(&*self.facilitator).await?;
        let mut options = options::current(&self.offers, &supported)?;
        if let Some(policy) = self.identifiers {
            policy.apply(&mut options);
        }
        Ok(options)
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
