//! The client: requests, pays once, and repeats the request with the same payment until the server
//! delivers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use quittance_core::wire::{PaymentRequirements, header};
use quittance_core::{
    Amount, Asset, AuthorizationState, Clock, Next, Payer, PayerError, QuoteError, Reason,
    Timestamp, Version,
};
use quittance_http::PAYMENT_STREAM;
use reqwest::{Method, Request, Response};
use tokio::time::timeout_at;
use tracing::{debug, info};
use url::Url;

use super::address::{self, Clients};
use super::answer::{self, Answer, PRESENTATIONS_MAX, Refused};
use super::builder::BuyerBuilder;
use super::digest;
use super::error::{BuyError, RequestError, TransportError};
use super::outcome::{report_delivery, report_refusal};
use super::redirect;
use crate::budget::Budget;
use crate::choose::{Selection, choose, choose_again};
use crate::deadline::Deadline;
use crate::open::OpenPayment;
use crate::options::PaymentOptions;
use crate::payment::{Exposure, KeptPayment, RequestId, SignedForm};
use crate::purchases::{PaymentGuard, Purchases};
use crate::receipt::Receipt;
use crate::refusal::{RefusalMeaning, meaning_of};
use crate::sign::{sign, sign_only};

/// The most redirects to the same origin that are followed before the payment.
const REDIRECTS_MAX: usize = 5;

/// How often one call signs a payment in the place of a refused one. The first replacement corrects
/// the payer's books. The second is for another call that used the same channel meanwhile.
const REPLACEMENTS_MAX: usize = 2;

/// An HTTP client that pays for requests, within limits.
///
/// * It pays only with assets that its payers know, and only up to its [`Limits`](crate::Limits).
/// * It pays only the origin of the request. Redirects do not change that.
/// * It signs once for one purchase. If the response is lost, or the payment is pending or refused,
///   it presents the same authorization again. It does so in this call, or in a later one with the
///   same request. It signs another one in four cases: the chain shows that the first expired
///   unused, no server ever saw it, a [trusted](BuyerBuilder::trust) server says that it moved
///   nothing, or its payer says that another one excludes it ([`Payer::observe`]). If that is
///   unknown, the call ends with [`BuyError::Unresolved`]. A payer with a node can ask the chain.
/// * It does not pay for HEAD, OPTIONS and TRACE requests, whose responses have no content. It
///   removes conditions (`If-None-Match`) from a paid request, because 304 Not Modified has no
///   content either.
/// * It repeats a request by itself only if the method is idempotent, or if the caller
///   [allows it](BuyerBuilder::repeat_any_method).
///
/// ```no_run
/// # async fn buy(payer: impl quittance_core::Payer) -> Result<(), Box<dyn std::error::Error>> {
/// use quittance_buyer::{Buyer, Limits};
///
/// let limits = Limits::default().per_payment("0.05");
/// let buyer = Buyer::builder().payer(payer).limits(limits).build()?;
/// let purchase = buyer.get("https://api.example.com/forecast").await?;
/// println!("{} for {:?}", purchase.response.text().await?, purchase.cost);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Buyer {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) http: Clients,
    pub(super) payers: Vec<Box<dyn Payer>>,
    pub(super) budget: Budget,
    pub(super) purchases: Purchases,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) timeout: Duration,
    pub(super) repeat_any_method: bool,
    pub(super) allow_second_payments: bool,
    pub(super) trusted: Vec<Url>,
}

/// A response, and what it cost.
#[non_exhaustive]
pub struct Purchase {
    /// The server's response. Its body may still arrive, without a timeout. If the body is cut off,
    /// the purchase still counts as complete, and another call pays again.
    pub response: Response,
    /// The cost; `None` if the server asked for no payment.
    pub cost: Option<Cost>,
}

/// What was paid for a response.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Cost {
    /// The requirements of the option that was paid.
    pub requirements: PaymentRequirements,
    /// The amount that was signed, in atomic units: the most that can be charged. It counts against
    /// the limits.
    pub amount: Amount,
    /// What was charged of it, by the server's receipt. It can be less with schemes such as `upto`.
    /// `None` if no successful receipt says so. The server may have charged more than it says, up
    /// to the amount.
    pub charged: Option<Amount>,
    /// The asset, as the payer knows it.
    pub asset: Asset,
    /// The server's receipt, parsed as far as possible.
    pub receipt: Option<Receipt>,
    /// The payment, if its outcome is open: the response is an error without a successful receipt,
    /// or the receipt denies the payment. It is kept, and the next call with this request presents
    /// it again.
    pub open: Option<OpenPayment>,
}

/// What a call would pay.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PurchaseQuote {
    /// The requirements of the option that would be paid.
    pub requirements: PaymentRequirements,
    /// The amount, in atomic units.
    pub amount: Amount,
    /// What would be locked up besides, at most, in atomic units.
    pub locks: Amount,
    /// The asset, as the payer knows it.
    pub asset: Asset,
    /// The open payment that would be presented again; `None` if a new one would be signed.
    pub open: Option<OpenPayment>,
}

/// A request, and its identity before any redirect.
pub(super) struct Call {
    pub(super) request: Request,
    id: RequestId,
}

/// The result of presenting a payment.
enum Attempt {
    Delivered(Box<Purchase>),
    /// The payment moved no money and never will.
    Over,
}

/// The end of presenting a payment, before its payer says what follows.
enum Presented {
    Delivered(Box<Purchase>),
    /// Refused. Whether the server had seen the payment before is the last part.
    Refused(Box<PaymentGuard>, Box<Refused>, bool),
}

impl fmt::Debug for Purchase {
    /// Omits the URL: it may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Purchase")
            .field("status", &self.response.status())
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

impl Buyer {
    /// Starts to configure a buyer.
    pub fn builder() -> BuyerBuilder {
        BuyerBuilder::new()
    }

    /// Sends a GET request, and pays if the server asks for it.
    ///
    /// # Errors
    /// When nothing was bought. [`BuyError::open_payment`] names the payment that is open then, if
    /// there is one.
    pub async fn get(&self, url: &str) -> Result<Purchase, BuyError> {
        let url: Url = url
            .parse()
            .map_err(|error: url::ParseError| RequestError::Url(error.into()))?;
        self.execute(Request::new(Method::GET, url)).await
    }

    /// Sends a request, and pays if the server asks for it.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn execute(&self, request: Request) -> Result<Purchase, BuyError> {
        let mut call = Call::new(request)?;
        let (purchase, _) = self.purchase(&mut call).await?;
        Ok(purchase)
    }

    /// Makes a purchase, and returns the options that the server offered if it asked for payment.
    /// Redirects change the URL of the call's request.
    pub(super) async fn purchase(
        &self,
        call: &mut Call,
    ) -> Result<(Purchase, Option<PaymentOptions>), BuyError> {
        let deadline = Deadline::after(self.shared.timeout);
        let answer = self.ask(&mut call.request, deadline).await?;
        if answer.status() != StatusCode::PAYMENT_REQUIRED {
            let purchase = Purchase {
                response: answer,
                cost: None,
            };
            return Ok((purchase, None));
        }
        let method = call.request.method();
        if [Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method) {
            return Err(RequestError::NoContent(method.clone()).into());
        }
        let options = options(answer, deadline).await?;
        let selection = self.choose(&options, call.id)?;
        let buying = self.buy(&call.request, &options, &selection, deadline);
        let purchase = buying.await?;
        Ok((purchase, Some(options)))
    }

    /// What [`execute`](Self::execute) would pay now; `None` if the server asks for no payment.
    /// Sends the request without payment, and signs nothing.
    ///
    /// # Errors
    /// As `execute`, if that would not pay.
    pub async fn quote(&self, request: &Request) -> Result<Option<PurchaseQuote>, BuyError> {
        let mut call = Call::new(request.try_clone().ok_or(RequestError::StreamingBody)?)?;
        let deadline = Deadline::after(self.shared.timeout);
        let answer = self.ask(&mut call.request, deadline).await?;
        if answer.status() != StatusCode::PAYMENT_REQUIRED {
            return Ok(None);
        }
        let options = options(answer, deadline).await?;
        let selection = self.choose(&options, call.id)?;
        Ok(Some(PurchaseQuote {
            requirements: selection.requirements.clone(),
            amount: selection.quote.amount,
            locks: selection.quote.locks,
            asset: selection.quote.asset.clone(),
            open: self.waiting(&selection),
        }))
    }

    /// The payments that were signed and are not known to be over.
    pub fn open_payments(&self) -> Vec<OpenPayment> {
        self.shared.purchases.open(self.shared.clock.now())
    }

    /// Forgets the open payment with this id, so that the next call for the same purchase signs
    /// another one. For callers that know its outcome, or that accept to pay twice. Returns whether
    /// there was such a payment.
    pub async fn abandon(&self, id: &str) -> bool {
        self.shared.purchases.abandon(id).await
    }

    /// The open payment of this purchase that waits to be presented again.
    fn waiting(&self, selection: &Selection<'_>) -> Option<OpenPayment> {
        self.shared.purchases.waiting(selection.key, self.now())
    }

    /// Sends the request without payment. Follows redirects within the origin, which change the
    /// request's URL.
    pub(super) async fn ask(
        &self,
        request: &mut Request,
        deadline: Deadline,
    ) -> Result<Response, BuyError> {
        for _ in 0..=REDIRECTS_MAX {
            let copy = request.try_clone().ok_or(RequestError::StreamingBody)?;
            let answer = in_time(deadline, self.shared.http.execute(copy)).await?;
            match redirect::next(request.method(), &answer)? {
                None => return Ok(answer),
                Some(to) => *request.url_mut() = to,
            }
        }
        Err(RequestError::TooManyRedirects { max: REDIRECTS_MAX }.into())
    }

    pub(super) fn choose<'a>(
        &'a self,
        options: &PaymentOptions,
        request: RequestId,
    ) -> Result<Selection<'a>, BuyError> {
        let Shared {
            payers,
            budget,
            purchases,
            ..
        } = &*self.shared;
        choose(payers, budget, purchases, options, request, self.now())
            .map_err(BuyError::NotAcceptable)
    }

    /// Presents the open payments of this purchase. If there is none, or all are over, signs a new
    /// one.
    pub(super) async fn buy(
        &self,
        request: &Request,
        options: &PaymentOptions,
        selection: &Selection<'_>,
        deadline: Deadline,
    ) -> Result<Purchase, BuyError> {
        let Shared {
            budget,
            purchases,
            clock,
            ..
        } = &*self.shared;
        while let Some(guard) = purchases.take(selection.key, self.now()) {
            debug!("presenting a payment of an earlier call");
            let attempt = self.present_again(request, selection, guard, deadline);
            if let Attempt::Delivered(purchase) = attempt.await? {
                return Ok(*purchase);
            }
        }
        self.clear_other_purchases(selection, deadline).await?;
        let origin = address::origin(request.url());
        let clock = clock.as_ref();
        let guard = sign(
            budget, purchases, clock, options, selection, origin, deadline,
        )
        .await?;
        match self.present(request, selection, guard, deadline).await? {
            Attempt::Delivered(purchase) => Ok(*purchase),
            // Only a wrong clock makes a new payment expire this early.
            Attempt::Over => {
                let what = "a new payment expired before it was presented: check the clock";
                Err(PayerError::Requirements(QuoteError::unpayable(what)).into())
            }
        }
    }

    /// Presents a payment of an earlier call, unless the chain shows that it is over.
    async fn present_again(
        &self,
        request: &Request,
        selection: &Selection<'_>,
        mut guard: PaymentGuard,
        deadline: Deadline,
    ) -> Result<Attempt, BuyError> {
        if guard.payment.can_be_looked_up(self.now()) {
            match self.state_of(&guard.payment, deadline).await {
                AuthorizationState::Expired => {
                    guard.remove().await;
                    return Ok(Attempt::Over);
                }
                AuthorizationState::Used(transaction) => guard.payment.record_use(transaction),
                AuthorizationState::Usable | AuthorizationState::Unknown => {}
            }
        }
        match &guard.payment.form {
            SignedForm::Header(_) => self.present(request, selection, guard, deadline).await,
            SignedForm::Payload(_) => {
                // The chain may have named its transaction.
                guard.save().await;
                let reason = "it is too old to be presented".to_owned();
                Err(unresolved(&guard, reason))
            }
        }
    }

    /// Makes sure that no payment for the same request with other requirements can still move
    /// money, unless the caller allows second payments.
    async fn clear_other_purchases(
        &self,
        selection: &Selection<'_>,
        deadline: Deadline,
    ) -> Result<(), BuyError> {
        if self.shared.allow_second_payments {
            return Ok(());
        }
        while let Some(guard) = self
            .shared
            .purchases
            .take_for_request(selection.request, self.now())
        {
            // A payment that no server has seen can be forgotten.
            let is_over = guard.payment.exposure == Exposure::None
                || guard.payment.can_be_looked_up(self.now())
                    && self.state_of(&guard.payment, deadline).await == AuthorizationState::Expired;
            if !is_over {
                let open = Box::new(guard.payment.open.clone());
                return Err(BuyError::AlreadyOpen { open });
            }
            guard.remove().await;
        }
        Ok(())
    }

    /// The chain's state of a payment, from the first payer that has a node to ask.
    async fn state_of(&self, payment: &KeptPayment, deadline: Deadline) -> AuthorizationState {
        let Some(payload) = payment.form.payload() else {
            return AuthorizationState::Unknown;
        };
        let OpenPayment {
            network,
            asset,
            expires,
            ..
        } = &payment.open;
        for payer in &self.shared.payers {
            let asking = payer.authorization_state(network, asset, &payload, *expires);
            let state = timeout_at(deadline.at(), asking).await;
            match state {
                Ok(AuthorizationState::Unknown) => {}
                Ok(state) => return state,
                Err(_) => break,
            }
        }
        AuthorizationState::Unknown
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Whether the caller trusts the server of this request.
    fn trusts(&self, request: &Request) -> bool {
        let origin = request.url().origin();
        self.shared
            .trusted
            .iter()
            .any(|trusted| trusted.origin() == origin)
    }

    /// Presents a payment until the server delivers or refuses it. If its payer replaces a refused
    /// payment, presents the other one.
    async fn present(
        &self,
        request: &Request,
        selection: &Selection<'_>,
        mut guard: PaymentGuard,
        deadline: Deadline,
    ) -> Result<Attempt, BuyError> {
        let mut corrected: Option<Selection<'_>> = None;
        let mut replaced = 0;
        loop {
            let selection = corrected.as_ref().unwrap_or(selection);
            let presented = self.present_one(request, selection, guard, deadline);
            let (refusal, presented_before) = match presented.await? {
                Presented::Delivered(purchase) => return Ok(Attempt::Delivered(purchase)),
                Presented::Refused(refused, refusal, presented_before) => {
                    guard = *refused;
                    (refusal, presented_before)
                }
            };
            let reporting = report_refusal(
                selection,
                &guard.payment,
                &refusal,
                presented_before,
                deadline,
            );
            match reporting.await {
                Next::Replace if replaced < REPLACEMENTS_MAX => {
                    replaced += 1;
                    debug!(reason = refusal.reason, "replacing a refused payment");
                    let replacing = self.replace(selection, guard, *refusal, deadline);
                    let (selection, other) = replacing.await?;
                    (corrected, guard) = (Some(selection), other);
                }
                Next::Replace | Next::Keep => {
                    return self.refused(guard, refusal.reason, refusal.receipt).await;
                }
                Next::Used => {
                    guard.payment.record_use(None);
                    guard.save().await;
                    return Err(unresolved(&guard, refusal.reason));
                }
            }
        }
    }

    /// Signs a payment in the place of a refused one, which can never be charged beside it. Asks no
    /// chain.
    async fn replace<'a>(
        &self,
        selection: &Selection<'a>,
        mut guard: PaymentGuard,
        refused: Refused,
        deadline: Deadline,
    ) -> Result<(Selection<'a>, PaymentGuard), BuyError> {
        let Shared { budget, clock, .. } = &*self.shared;
        guard.end_turn();
        let problem = match &refused.options {
            None => "the refusal has no payment options".to_owned(),
            Some(options) => match choose_again(selection, budget, options) {
                Err(problem) => problem,
                Ok(selection) => {
                    let (clock, origin) = (clock.as_ref(), guard.payment.open.origin.clone());
                    let signed = sign_only(budget, clock, options, &selection, origin, deadline);
                    match signed.await {
                        Ok((payment, turn)) => {
                            let guard = guard.replaced_by(payment).with_turn(turn);
                            return Ok((selection, guard));
                        }
                        Err(error) => BuyError::from(error).to_string(),
                    }
                }
            },
        };
        let reason = format!("{}; no other payment was signed: {problem}", refused.reason);
        Err(refusal(&reason, refused.receipt, &guard))
    }

    /// Presents one payment until the server delivers or refuses it.
    async fn present_one(
        &self,
        request: &Request,
        selection: &Selection<'_>,
        mut guard: PaymentGuard,
        deadline: Deadline,
    ) -> Result<Presented, BuyError> {
        // A seller charges a tick of a stream once, however often it is presented.
        let may_repeat = self.shared.repeat_any_method
            || request.method().is_idempotent()
            || request.headers().contains_key(PAYMENT_STREAM);
        let trusted = self.trusts(request);
        let mut presented = 0;
        loop {
            presented += 1;
            let before = guard.mark_presented().await?;
            let sent = self.send(request, &guard.payment, deadline).await;
            let answer = record_answer(&mut guard, before, sent, trusted, deadline).await;
            let (error, retry_after) = match answer {
                Ok(Answer::Served(response, receipt)) => {
                    let purchase = deliver(selection, guard, *response, receipt, deadline).await;
                    return Ok(Presented::Delivered(Box::new(purchase)));
                }
                Ok(Answer::Refused(refused)) => {
                    let presented_before = before != Exposure::None;
                    return Ok(Presented::Refused(
                        Box::new(guard),
                        refused,
                        presented_before,
                    ));
                }
                Ok(Answer::Pending(after, receipt)) if may_repeat => {
                    (pending(receipt, &guard), after)
                }
                Ok(Answer::Unavailable(reason, after, receipt)) if may_repeat => {
                    (refusal(&reason, receipt, &guard), after)
                }
                Err(error) if may_repeat => (lost(error, &guard), None),
                // Repeating is safe for the money. Whether it is safe for the server's side
                // effects, only the caller knows.
                Ok(Answer::Pending(_, receipt)) => return Err(pending(receipt, &guard)),
                Ok(Answer::Unavailable(reason, _, receipt)) => {
                    return Err(refusal(&reason, receipt, &guard));
                }
                Err(error) => return Err(lost(error, &guard)),
            };
            if presented == PRESENTATIONS_MAX || !answer::pause(retry_after, deadline).await {
                return Err(error);
            }
            debug!(%error, "presenting the same payment again");
        }
    }

    async fn send(
        &self,
        request: &Request,
        payment: &KeptPayment,
        deadline: Deadline,
    ) -> Result<Response, TransportError> {
        let mut paid = request.try_clone().expect("the request was cloned before");
        address::unconditional(&mut paid);
        digest::add(&mut paid);
        let SignedForm::Header(value) = &payment.form else {
            return Err(TransportError::Timeout);
        };
        let mut value: HeaderValue = value.parse().expect("base64 is a valid header value");
        value.set_sensitive(true);
        let name = match payment.version {
            Version::V2 => header::PAYMENT_SIGNATURE,
            Version::V1 => header::X_PAYMENT,
        };
        paid.headers_mut().insert(name, value);
        in_time(deadline, self.shared.http.execute(paid)).await
    }

    /// What a refusal leads to: the payment is over, or the call ends.
    async fn refused(
        &self,
        guard: PaymentGuard,
        reason: String,
        receipt: Option<Receipt>,
    ) -> Result<Attempt, BuyError> {
        let now = self.now();
        if guard.payment.is_over(now) {
            debug!(reason, "a payment is over");
            guard.remove().await;
            return Ok(Attempt::Over);
        }
        if guard.payment.has_expired(now) || guard.payment.was_used {
            return Err(unresolved(&guard, reason));
        }
        Err(refusal(&reason, receipt, &guard))
    }
}

impl Call {
    pub(super) fn new(mut request: Request) -> Result<Self, BuyError> {
        address::move_credentials(&mut request);
        let id = request_id(&request).ok_or(RequestError::StreamingBody)?;
        Ok(Self { request, id })
    }
}

/// The identity of a request; `None` if its body is a stream.
fn request_id(request: &Request) -> Option<RequestId> {
    let body = match request.body() {
        None => &[][..],
        Some(body) => body.as_bytes()?,
    };
    let mut url = request.url().clone();
    // A fragment is never sent.
    url.set_fragment(None);
    Some(RequestId::new(
        request.method().as_str(),
        url.as_str(),
        body,
    ))
}

/// The response, if it begins before the deadline.
pub(super) async fn in_time(
    deadline: Deadline,
    response: impl Future<Output = Result<Response, reqwest::Error>>,
) -> Result<Response, TransportError> {
    match timeout_at(deadline.at(), response).await {
        Ok(response) => Ok(response?),
        Err(_) => Err(TransportError::Timeout),
    }
}

/// The payment options of a 402 response.
pub(super) async fn options(
    answer: Response,
    deadline: Deadline,
) -> Result<PaymentOptions, BuyError> {
    let read = timeout_at(deadline.at(), answer::payment_options(answer)).await;
    Ok(read.map_err(|_| TransportError::Timeout)??)
}

/// Reads the server's answer, and stores what it says about the payment.
async fn record_answer(
    guard: &mut PaymentGuard,
    before: Exposure,
    sent: Result<Response, TransportError>,
    trusted: bool,
    deadline: Deadline,
) -> Result<Answer, TransportError> {
    let answer = match sent {
        Ok(response) => Ok(Answer::read(response, deadline).await),
        Err(error) => Err(error),
    };
    match &answer {
        Err(error) if error.is_unsent() => guard.payment.exposure = before,
        Err(_) => {}
        Ok(Answer::Refused(refused)) => {
            let receipt = refused.receipt.as_ref();
            let meaning = meaning_of(&refused.reason, receipt, trusted);
            guard.record_answer(meaning, receipt, before);
        }
        Ok(
            Answer::Served(_, receipt)
            | Answer::Pending(_, receipt)
            | Answer::Unavailable(_, _, receipt),
        ) => {
            let reason = receipt
                .as_ref()
                .and_then(|receipt| receipt.error_reason.as_deref());
            // Without a receipt, such an answer says nothing about the payment.
            let meaning = reason.map_or(RefusalMeaning::Unknown, |reason| {
                meaning_of(reason, receipt.as_ref(), trusted)
            });
            guard.record_answer(meaning, receipt.as_ref(), before);
        }
    }
    guard.save().await;
    answer
}

/// The purchase from a delivered response. The payment stays open after an error without a
/// successful receipt, and after a receipt that denies the payment.
async fn deliver(
    selection: &Selection<'_>,
    guard: PaymentGuard,
    response: Response,
    receipt: Option<Receipt>,
    deadline: Deadline,
) -> Purchase {
    let charged = receipt.as_ref().is_some_and(|receipt| receipt.success);
    let denied = receipt.as_ref().is_some_and(Receipt::denies);
    let delivered = response.status().is_success() && !denied;
    let open = if delivered || charged {
        info!(amount = %selection.quote.amount, network = selection.quote.network, "bought");
        report_delivery(selection, &guard.payment, receipt.as_ref(), deadline).await;
        guard.remove().await;
        None
    } else {
        Some(guard.payment.open.clone())
    };
    let signed = selection.quote.amount;
    let cost = Cost {
        requirements: selection.requirements.clone(),
        amount: signed,
        charged: receipt.as_ref().and_then(|receipt| receipt.charged(signed)),
        asset: selection.quote.asset.clone(),
        receipt,
        open,
    };
    Purchase {
        response,
        cost: Some(cost),
    }
}

fn refusal(reason: &str, receipt: Option<Receipt>, guard: &PaymentGuard) -> BuyError {
    BuyError::Refused {
        reason: reason.to_owned(),
        receipt: receipt.map(Box::new),
        open: Box::new(guard.payment.open.clone()),
    }
}

/// The error for a payment that has expired or was used, and prevents a new one.
fn unresolved(guard: &PaymentGuard, reason: String) -> BuyError {
    let open = Box::new(guard.payment.open.clone());
    match guard.payment.was_used {
        true => BuyError::Used { reason, open },
        false => BuyError::Unresolved { reason, open },
    }
}

fn pending(receipt: Option<Receipt>, guard: &PaymentGuard) -> BuyError {
    refusal(Reason::SETTLEMENT_PENDING.code(), receipt, guard)
}

fn lost(source: TransportError, guard: &PaymentGuard) -> BuyError {
    let open = Box::new(guard.payment.open.clone());
    BuyError::Lost { source, open }
}

impl fmt::Debug for Buyer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payers: Vec<&str> = self
            .shared
            .payers
            .iter()
            .map(|payer| payer.address())
            .collect();
        write!(f, "Buyer({})", payers.join(", "))
    }
}
