//! The steps of a sale after its reservation: open it, charge it, or cancel it. No step knows HTTP.
//!
//! The order is the flow's, and each request is the offer's. The rules hold for every flow:
//!
//! * No handler runs before a success of the facilitator.
//! * After that success, every sale is charged or cancelled.
//! * A charge whose outcome is unknown, or that names a transaction, is never cancelled: it may
//!   still settle.
//! * While a deposit is held and the outcome of its charge is unknown, the facilitator is asked
//!   again: only the seller can have the deposit claimed or returned.

use std::net::IpAddr;
use std::time::Duration;

use quittance_core::json::Object;
use quittance_core::wire::{ResourceInfo, SettleResponse, VerifyResponse};
use quittance_core::{
    Amount, CancelReason, Fault, FaultKind, FirstSuccess, Flow, OfferError, PaymentId,
    PaymentRequest, Phase, Reason, Rejection,
};
use quittance_http::reason::HANDLER_FAILED;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::charge::Charge;
use crate::limit::CountedAttempt;
use crate::options::{self, PaymentOption};
use crate::refusal::{RefusalReason, SaleReceipt, SaleRefusal};
use crate::reservations::ReservedAuthorization;
use crate::sale::{RATE_LIMITED, ReservedPayment, Seller, VerifiedPayment, required};
use crate::settle::{Settlement, settle};

/// The longest time for which settling is tried again, longer than any handler and client wait.
const VALID_MAX: Duration = Duration::from_secs(3600);

/// How long the outcome of a pending charge is awaited after the response: the longest time for
/// which payments are usually valid, and as much again for late blocks.
const AWAITED_FOR: Duration = Duration::from_secs(120);

/// The pause between two requests for the outcome of a pending charge: a few blocks of most chains.
pub(crate) const PENDING_PAUSE: Duration = Duration::from_secs(5);

/// The message for a payment that comes again: one payment buys one response.
const SETTLED_BEFORE: &str = "this payment has settled for an earlier request";

/// A sale whose handler may run: its payment is verified, or settled as far as it must be before.
pub(crate) struct Sale {
    /// The client's payment.
    payment: PaymentRequest,
    option: PaymentOption,
    options: Vec<PaymentOption>,
    resource: ResourceInfo,
    verified: VerifiedPayment,
    first: FirstSuccess,
    /// What the handler charges; the price until it has said so.
    charged: Amount,
    /// Whether a success that was reported before is this sale's own: its answer was lost, or the
    /// sale has its deposit.
    may_be_repeated: bool,
    /// The payment expires here at the latest, if it was signed when it was presented.
    deadline: Instant,
    /// Counts against the client unless the payment settles.
    attempt: CountedAttempt,
    /// Released when the sale is dropped.
    _reservations: (ReservedAuthorization, Option<ReservedAuthorization>),
}

/// Why a sale is not charged after its handler succeeded.
pub(crate) enum ChargeError {
    /// The handler's charge is not possible. The sale is not over: it is to be cancelled.
    Impossible(OfferError),
    /// The facilitator did not settle. The sale is over.
    Refused(SaleRefusal),
    /// The outcome of the charge is not known yet, and can be awaited.
    Pending(Box<PendingCharge>),
}

/// A charge whose outcome is not known yet.
pub(crate) struct PendingCharge {
    request: PaymentRequest,
    settlement: Settlement,
    /// Names the transaction of the charge, or else of the deposit.
    pub(crate) receipt: SaleReceipt,
}

impl PendingCharge {
    /// The refusal of a sale whose client does not wait any longer.
    pub(crate) fn refusal(&self, sale: &Sale) -> SaleRefusal {
        unsettled(sale, self.receipt.clone(), None)
    }
}

impl Sale {
    /// The address at which the sale's response can be requested again.
    pub(crate) fn url(&self) -> &str {
        &self.resource.url
    }

    /// The body of the response if the payment buys nothing; `None` if the handler runs.
    pub(crate) fn acknowledgement(&self) -> Option<Object> {
        self.option.acknowledgement(&self.payment.payload)
    }

    /// What the handler may know of the payment.
    pub(crate) fn verified(&self) -> &VerifiedPayment {
        &self.verified
    }

    /// Whether a deposit is held for it, which is to be claimed or returned.
    pub(crate) fn has_deposit(&self) -> bool {
        self.first.settled().is_some()
    }

    /// The state record that its payment uses, such as a channel's.
    pub(crate) fn record(&self) -> Option<PaymentId> {
        self.option.serial(&self.payment.payload)
    }

    fn price(&self) -> Amount {
        self.payment.requirements.amount
    }

    fn receipt(&self, response: SettleResponse) -> SaleReceipt {
        SaleReceipt {
            version: self.payment.version,
            response,
        }
    }

    /// The amount for what the handler charges.
    fn amount(&self, charge: Option<&Charge>) -> Result<Amount, OfferError> {
        let Some(charge) = charge else {
            return Ok(self.price());
        };
        let charged = self.option.charge(charge.words(), self.price())?;
        match charged > self.price() {
            true => Err(OfferError::ChargeTooHigh {
                charged,
                price: self.price(),
            }),
            false => Ok(charged),
        }
    }

    /// The receipt of a sale that ended without a charge. `back` is the facilitator's response to
    /// the cancellation.
    ///
    /// A payment that was settled up front stays settled, and its receipt says so.
    fn uncharged(&self, detail: String, back: Option<SettleResponse>) -> SaleReceipt {
        if let (Flow::Upfront, Some(before)) = (self.option.flow(), self.first.settled()) {
            return self.receipt(before.clone());
        }
        let rejection = Rejection::new(Reason::new(HANDLER_FAILED), detail);
        self.failed(self.rejected(&rejection), back)
    }

    /// A response that nothing was settled for this reason.
    fn rejected(&self, rejection: &Rejection) -> SettleResponse {
        let network = &self.payment.requirements.network;
        SettleResponse::failed(network, rejection, self.verified.payer.clone(), "")
    }

    /// The receipt of a sale that another process has made with the same request and payment.
    fn duplicate(&self, transaction: &str) -> SaleReceipt {
        let rejection = Rejection::new(Reason::DUPLICATE_SETTLEMENT, SETTLED_BEFORE);
        let mut response = self.rejected(&rejection);
        transaction.clone_into(&mut response.transaction);
        self.failed(response, None)
    }

    /// The receipt for a response that settles nothing. `back` is the facilitator's response to the
    /// cancellation.
    ///
    /// If the deposit was not returned, the receipt names a transaction: the response's own, or
    /// else the deposit's.
    fn failed(&self, mut response: SettleResponse, back: Option<SettleResponse>) -> SaleReceipt {
        let Some(before) = self.first.settled() else {
            return self.receipt(response);
        };
        let is_back = back.as_ref().is_some_and(|back| back.success);
        if response.transaction.is_empty() && !is_back {
            response.transaction.clone_from(&before.transaction);
        }
        let extra = back.and_then(|back| back.extra).or(response.extra);
        response.extra = with_deposit(extra, before);
        self.receipt(response)
    }
}

impl Seller {
    /// Opens a sale: has its payment verified, or settled if the flow settles first. Payments that
    /// have settled, and clients over their limit, are refused without the facilitator.
    ///
    /// # Errors
    /// When the payment is refused, or there is no verdict. Nothing is cancelled: where a payment
    /// is presented twice, the other request may be served now.
    pub(crate) async fn open(
        &self,
        reserved: ReservedPayment,
        client: Option<IpAddr>,
    ) -> Result<Sale, SaleRefusal> {
        let payment = &reserved.payment;
        let settled = self.state.settled.transaction(&payment.origin());
        // A payment without a transaction, such as a voucher, is verified again for a correction.
        if let Some(transaction) = &settled
            && (reserved.settles_first() || !transaction.is_empty())
        {
            return Err(already_settled(reserved, transaction));
        }
        let attempt = self.state.clients.present(self.limit, client);
        let mut attempt = attempt.map_err(|retry_after| rate_limited(payment, retry_after))?;
        let valid_for = Duration::from_secs(payment.requirements.max_timeout_secs).min(VALID_MAX);
        let deadline = Instant::now() + valid_for;
        let was_lost = self.state.unanswered.contains(&reserved.payment.origin());
        if reserved.settles_first() {
            return self.collect(reserved, attempt, deadline, was_lost).await;
        }
        let verdict = self.verify(&reserved).await?;
        if let Some(rejection) = verdict.rejection() {
            let reason = verification_reason(&verdict);
            return Err(reserved.refuse(reason, None, Some(&rejection)));
        }
        let is_repeated = verdict.is_repeated();
        let is_over = is_repeated && !was_lost && !self.has_restarted();
        if let Some(transaction) = settled.or(is_over.then(String::new)) {
            return Err(already_settled(reserved, &transaction));
        }
        attempt.verified();
        // Not before: anyone can name a channel, and only its payer can sign for it.
        let mut reserved = reserved;
        reserved.serial = self.reserve_record(&reserved)?;
        let first = FirstSuccess::Verified(verdict);
        let may_be_repeated = was_lost || is_repeated;
        Ok(sale(reserved, first, may_be_repeated, attempt, deadline))
    }

    async fn verify(&self, reserved: &ReservedPayment) -> Result<VerifyResponse, SaleRefusal> {
        let request = first_request(reserved, Phase::Verify).await?;
        Ok(self.facilitator.verify(&request).await?)
    }

    /// Settles what the flow settles before the handler.
    async fn collect(
        &self,
        reserved: ReservedPayment,
        mut attempt: CountedAttempt,
        deadline: Instant,
        was_lost: bool,
    ) -> Result<Sale, SaleRefusal> {
        let request = first_request(&reserved, Phase::BeforeHandler).await?;
        let request = match reserved.option.flow() {
            Flow::Escrow => request.with_successor(),
            Flow::Authorization | Flow::Upfront => request,
        };
        let origin = reserved.payment.origin();
        let settlement = settle(&*self.facilitator, &request, deadline).await;
        self.note_lost(origin, &settlement);
        let may_be_repeated = was_lost || settlement.is_lost || self.has_restarted();
        let response = settlement.answer?;
        if response.is_pending() {
            let version = reserved.payment.version;
            return Err(SaleRefusal::Pending(Box::new(SaleReceipt {
                version,
                response,
            })));
        }
        if !response.success {
            let (reason, rejection) = (settlement_reason(&response), response.rejection());
            return Err(reserved.refuse(reason, Some(response), rejection.as_ref()));
        }
        self.state.unanswered.remove(&origin);
        if response.is_repeated() && !may_be_repeated {
            return Err(already_settled(reserved, &response.transaction));
        }
        attempt.verified();
        if reserved.option.flow() == Flow::Upfront {
            attempt.settled();
        }
        self.state.settled.insert(origin, &response.transaction);
        let first = FirstSuccess::Settled(response);
        Ok(sale(reserved, first, true, attempt, deadline))
    }

    /// Remembers a payment whose answer was lost.
    fn note_lost(&self, payment: PaymentId, settlement: &Settlement) {
        if settlement.is_lost {
            self.state.unanswered.insert(payment);
        }
    }

    /// Charges a sale whose handler has succeeded: its price, or what the handler says.
    ///
    /// # Errors
    /// When the handler's charge is impossible, the payment was not settled, or the outcome is
    /// unknown. The handler's response must not be sent.
    pub(crate) async fn charge(
        &self,
        sale: &mut Sale,
        charge: Option<&Charge>,
    ) -> Result<SaleReceipt, ChargeError> {
        let charged = sale.amount(charge).map_err(ChargeError::Impossible)?;
        sale.charged = charged;
        let phase = Phase::AfterHandler {
            charged,
            first: &sale.first,
        };
        let request = sale.option.request(phase, &sale.payment).await;
        let request = match (request, &sale.first) {
            (Ok(Some(request)), _) => request,
            (Ok(None), FirstSuccess::Settled(before)) => {
                if charged != sale.price() {
                    error!(%charged, "the price was settled before the handler said its charge");
                }
                let receipt = sale.receipt(before.clone());
                sale.attempt.settled();
                return Ok(receipt);
            }
            (Ok(None), FirstSuccess::Verified(_)) => {
                let problem = "the offer asks for no settlement";
                let fault = Fault::new(FaultKind::Misconfigured, problem);
                return Err(self.not_asked(sale, fault).await);
            }
            (Err(fault), _) => return Err(self.not_asked(sale, fault).await),
        };
        let settlement = settle(&*self.facilitator, &request, sale.deadline).await;
        self.note_lost(sale.payment.origin(), &settlement);
        let is_awaited = settlement.is_pending() || (sale.has_deposit() && settlement.is_open());
        match is_awaited {
            true => Err(ChargeError::Pending(Box::new(pending(
                sale, request, settlement,
            )))),
            false => self
                .conclude(sale, settlement)
                .await
                .map_err(ChargeError::Refused),
        }
    }

    /// Asks for the outcome of a charge until it is known; `None` if the payment was not settled,
    /// or its outcome stays unknown.
    pub(crate) async fn await_charge(
        &self,
        sale: &mut Sale,
        pending: PendingCharge,
    ) -> Option<SaleReceipt> {
        let mut settlement = pending.settlement;
        let until = Instant::now() + AWAITED_FOR;
        while Instant::now() < until {
            sleep(PENDING_PAUSE).await;
            settlement.add(self.facilitator.settle(&pending.request).await);
            if !settlement.is_open() {
                return self.conclude(sale, settlement).await.ok();
            }
        }
        error!(?settlement, "the outcome of a charge stays unknown");
        None
    }

    /// Ends a sale by the facilitator's answers to its charge.
    async fn conclude(
        &self,
        sale: &mut Sale,
        settlement: Settlement,
    ) -> Result<SaleReceipt, SaleRefusal> {
        let (origin, is_refused) = (sale.payment.origin(), settlement.is_refused());
        let may_be_repeated = sale.may_be_repeated || settlement.is_lost;
        // A fault is not a verdict: the charge may still settle, so nothing is cancelled.
        let response = settlement.answer?;
        if !response.success {
            let back = match is_refused {
                true => self.give_back(sale, CancelReason::SettlementRefused).await,
                false => None,
            };
            let rejection = response.rejection();
            let receipt = sale.failed(response, back);
            return Err(unsettled(sale, receipt, rejection.as_ref()));
        }
        self.state.unanswered.remove(&origin);
        if response.is_repeated() && !may_be_repeated {
            let duplicate = sale.duplicate(&response.transaction);
            return Err(unsettled(sale, duplicate, None));
        }
        sale.attempt.settled();
        // A channel of which nothing was charged has the same voucher for its next request.
        let is_unused = sale.charged.is_zero() && sale.record().is_some();
        if !is_unused || !response.transaction.is_empty() {
            self.state.settled.insert(origin, &response.transaction);
        }
        Ok(sale.receipt(response))
    }

    /// Ends a sale without a charge. The receipt says so, with this detail for people.
    pub(crate) async fn cancel(
        &self,
        sale: &Sale,
        reason: CancelReason,
        detail: String,
    ) -> SaleReceipt {
        let back = self.give_back(sale, reason).await;
        sale.uncharged(detail, back)
    }

    async fn not_asked(&self, sale: &Sale, fault: Fault) -> ChargeError {
        let back = self.give_back(sale, CancelReason::HandlerFailed).await;
        let receipt = sale.uncharged("the payment cannot be charged".to_owned(), back);
        ChargeError::Refused(SaleRefusal::NotCharged(fault, Box::new(receipt)))
    }

    /// Asks the facilitator to give back what it holds for a sale, if the offer has a request for
    /// that.
    async fn give_back(&self, sale: &Sale, reason: CancelReason) -> Option<SettleResponse> {
        let phase = Phase::Cancel {
            reason,
            first: &sale.first,
        };
        let request = sale.option.request(phase, &sale.payment).await.ok()??;
        let reason = reason.code();
        let settlement = settle(&*self.facilitator, &request, sale.deadline).await;
        match settlement.answer {
            Ok(response) => {
                if !response.success {
                    warn!(reason, ?response, "a cancelled payment is not returned yet");
                }
                Some(response)
            }
            Err(fault) => {
                error!(reason, %fault, "a cancelled payment may not be returned");
                None
            }
        }
    }
}

/// The request before the handler, without which no handler runs.
async fn first_request(
    reserved: &ReservedPayment,
    phase: Phase<'_>,
) -> Result<PaymentRequest, SaleRefusal> {
    let request = reserved.option.request(phase, &reserved.payment).await;
    let request = request.map_err(SaleRefusal::Unavailable)?;
    request.ok_or_else(|| {
        let problem = "the offer asks for nothing before the handler";
        SaleRefusal::Unavailable(Fault::new(FaultKind::Misconfigured, problem))
    })
}

fn sale(
    reserved: ReservedPayment,
    first: FirstSuccess,
    may_be_repeated: bool,
    attempt: CountedAttempt,
    deadline: Instant,
) -> Sale {
    let requirements = &reserved.option.requirements;
    Sale {
        verified: VerifiedPayment {
            payer: first.payer().map(str::to_owned),
            network: requirements.network.clone(),
            asset: requirements.asset.clone(),
            amount: requirements.amount.clone(),
        },
        charged: reserved.payment.requirements.amount,
        payment: reserved.payment,
        option: reserved.option,
        options: reserved.options,
        resource: reserved.resource,
        first,
        may_be_repeated,
        deadline,
        attempt,
        _reservations: (reserved.reservation, reserved.serial),
    }
}

/// The refusal of a payment that has settled before: one payment buys one response. The receipt
/// names its transaction.
fn already_settled(reserved: ReservedPayment, transaction: &str) -> SaleRefusal {
    info!(transaction, "a settled payment is presented again");
    let rejection = Rejection::new(Reason::DUPLICATE_SETTLEMENT, SETTLED_BEFORE);
    let network = &reserved.payment.requirements.network;
    let receipt = SettleResponse::failed(network, &rejection, None, transaction);
    reserved.refuse(rejection.into(), Some(receipt), None)
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

/// A charge whose outcome is not known yet.
fn pending(sale: &Sale, request: PaymentRequest, settlement: Settlement) -> PendingCharge {
    let response = match &settlement.answer {
        Ok(response) if response.is_pending() => response.clone(),
        unknown => {
            warn!(?unknown, "the outcome of a charge is unknown");
            let detail = "the outcome of the charge is not known yet";
            sale.rejected(&Rejection::new(Reason::SETTLEMENT_PENDING, detail))
        }
    };
    PendingCharge {
        request,
        settlement,
        receipt: sale.failed(response, None),
    }
}

/// `extra` with the deposit of a sale.
fn with_deposit(extra: Option<Object>, before: &SettleResponse) -> Option<Object> {
    let mut fields: Map<String, Value> = extra.map(|it| it.tree()).unwrap_or_default();
    let transaction = before.transaction.as_str().into();
    fields.insert("depositTransaction".to_owned(), transaction);
    if let Some(amount) = &before.amount {
        fields.insert("depositAmount".to_owned(), amount.as_str().into());
    }
    Object::of(&fields).ok()
}

/// The refusal of a payment that was not settled. The handler's response is discarded, and the
/// options are corrected by the facilitator's `rejection`.
fn unsettled(sale: &Sale, receipt: SaleReceipt, rejection: Option<&Rejection>) -> SaleRefusal {
    let reason = settlement_reason(&receipt.response);
    let options = sale.options.clone();
    let options = match rejection {
        Some(rejection) => options::corrected(options, &sale.option, rejection),
        None => options,
    };
    required(&options, &sale.resource, reason, Some(receipt))
}

/// Why the facilitator has rejected a payment at verification.
fn verification_reason(verdict: &VerifyResponse) -> RefusalReason {
    let reason = verdict.invalid_reason.as_deref();
    let reason = reason.unwrap_or("Verification failed");
    let message = verdict.invalid_message.as_deref();
    let payer = &verdict.payer;
    info!(reason, message, payer, "a payment was refused");
    RefusalReason::new(reason, message)
}

/// Why the facilitator did not settle a payment.
fn settlement_reason(settled: &SettleResponse) -> RefusalReason {
    let reason = settled.error_reason.as_deref();
    let reason = reason.unwrap_or("Settlement failed");
    let message = settled.error_message.as_deref();
    let (payer, transaction) = (&settled.payer, &settled.transaction);
    info!(
        reason,
        message, payer, transaction, "a payment was not settled"
    );
    RefusalReason::new(reason, message)
}
