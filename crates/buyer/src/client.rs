//! The client: asks, is told a price, pays once, and asks again with the same payment until it is served.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use quittance_core::wire::{PaymentRequirements, header};
use quittance_core::{
    Amount, Asset, AuthorizationState, Clock, Payer, PayerError, Quote, QuoteError, Reason,
    SystemClock, Timestamp, Version,
};
use reqwest::{Method, Request, Response};
use sha2::{Digest, Sha256};
use tracing::{debug, info};
use url::Url;

use crate::address::{self, Clients};
use crate::error::{BuyError, NoAnswer, Open};
use crate::limits::{Limits, Purse};
use crate::offered::Offered;
use crate::present::{self, Answer, Deadline, PRESENTATIONS_MAX};
use crate::purchases::{Asked, Held, Key, Payment, Purchases, Signed, Standing};
use crate::receipt::Receipt;
use crate::redirect;
use crate::refusal::{Word, word};
use quittance_http::printable;

/// How long a whole call may take until the answer begins, the payment's way onto the chain included.
const TIMEOUT: Duration = Duration::from_secs(90);

/// How many redirects to the same origin are followed before anything is paid.
const REDIRECTS_MAX: usize = 5;

/// An HTTP client that pays for what it asks for, within limits.
///
/// * It pays only with assets its payers know, and only up to its [`Limits`].
/// * It pays only the origin it was asked to speak to, whatever redirects say.
/// * It signs once for one purchase. When an answer is lost, or the payment is pending or refused, the same authorization
///   is presented again, now or in a later call with the same request. Another one is signed only when the chain shows that
///   the first ran out unused, when no server ever saw it, or when a server that is [trusted](BuyerBuilder::trust) says that
///   it moved nothing. Where that is not known, the call ends with [`BuyError::Unresolved`]; a payer with a node knows.
/// * It does not pay for HEAD, OPTIONS and TRACE, which deliver nothing, and takes the conditions (`If-None-Match`) out of a
///   request that pays: "not modified" would deliver nothing either.
/// * It repeats a request by itself only where its method says that this is harmless, unless it is
///   [told to](BuyerBuilder::repeat_any_method).
///
/// ```no_run
/// # async fn buy(payer: impl quittance_core::Payer) -> Result<(), Box<dyn std::error::Error>> {
/// use quittance_buyer::{Buyer, Limits};
///
/// let buyer = Buyer::builder().payer(payer).limits(Limits::default().per_payment("0.05")).build()?;
/// let bought = buyer.get("https://api.example.com/forecast").await?;
/// println!("{} for {:?}", bought.response.text().await?, bought.cost);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Buyer {
    shared: Arc<Shared>,
}

struct Shared {
    http: Clients,
    payers: Vec<Box<dyn Payer>>,
    purse: Purse,
    purchases: Purchases,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    repeat_any_method: bool,
    allow_second_payments: bool,
    trusted: Vec<Url>,
}

/// Puts a [`Buyer`] together.
pub struct BuyerBuilder {
    payers: Vec<Box<dyn Payer>>,
    limits: Limits,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    repeat_any_method: bool,
    allow_second_payments: bool,
    trusted: Vec<String>,
    state_file: Option<PathBuf>,
}

/// What was asked for, and what it cost.
pub struct Bought {
    /// The server's answer, its body still on the way. Nothing bounds how long that takes. A body that breaks off is a purchase
    /// that is over: the payment was for this answer, and another call pays again.
    pub response: Response,
    /// What was paid; `None` where the server asked for nothing.
    pub cost: Option<Cost>,
}

/// What was paid for an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// The requirements that were met.
    pub requirements: PaymentRequirements,
    /// How much, in atomic units.
    pub amount: Amount,
    /// The asset, as the payer knows it.
    pub asset: Asset,
    /// The server's receipt, as far as it can be read.
    pub receipt: Option<Receipt>,
    /// The payment, where the answer is an error and does not say that the money has moved, or where it is a success and its
    /// receipt says that the money has not. It is kept and presented again by the next call with this request.
    pub open: Option<Open>,
}

/// What a call would pay.
#[derive(Debug, Clone, PartialEq)]
pub struct Price {
    /// The requirements that would be met.
    pub requirements: PaymentRequirements,
    /// How much, in atomic units.
    pub amount: Amount,
    /// The asset, as the payer knows it.
    pub asset: Asset,
    /// The payment that would be presented again; `None` where a new one would be signed.
    pub open: Option<Open>,
}

/// What is bought: from whom, for how much, with whose key.
struct Deal<'a> {
    payer: &'a dyn Payer,
    terms: &'a PaymentRequirements,
    quote: Quote,
    asked: Asked,
    key: Key,
}

/// A request, and what identifies it: the request as it was made, before any redirect.
struct Call {
    request: Request,
    asked: Asked,
}

/// What became of presenting a payment.
enum Tried {
    Bought(Box<Bought>),
    /// The payment is over for certain.
    Over,
}

impl fmt::Debug for Bought {
    /// Leaves the URL out: there may be a secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bought")
            .field("status", &self.response.status())
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

impl Buyer {
    /// Begins to put a buyer together.
    pub fn builder() -> BuyerBuilder {
        BuyerBuilder {
            payers: Vec::new(),
            limits: Limits::default(),
            timeout: TIMEOUT,
            clock: Arc::new(SystemClock),
            repeat_any_method: false,
            allow_second_payments: false,
            trusted: Vec::new(),
            state_file: None,
        }
    }

    /// Gets a URL, and pays for it if need be.
    ///
    /// # Errors
    /// When nothing was bought; [`BuyError::open`] says whether a payment is out there.
    pub async fn get(&self, url: &str) -> Result<Bought, BuyError> {
        let url: Url = url
            .parse()
            .map_err(|error| BuyError::Request(format!("that is no URL: {error}")))?;
        self.execute(Request::new(Method::GET, url)).await
    }

    /// Makes any request, and pays for it if need be.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn execute(&self, request: Request) -> Result<Bought, BuyError> {
        let deadline = Deadline::after(self.shared.timeout);
        let mut call = Call::of(request)?;
        let answer = self.ask(&mut call.request, deadline).await?;
        if answer.status() != StatusCode::PAYMENT_REQUIRED {
            return Ok(Bought {
                response: answer,
                cost: None,
            });
        }
        let method = call.request.method();
        if [Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method) {
            let why = format!("a {method} request is not paid for: its answer delivers nothing");
            return Err(BuyError::Request(why));
        }
        let offered = offered(answer, deadline).await?;
        let deal = self.choose(&offered, call.asked)?;
        self.buy(&call.request, &offered, &deal, deadline).await
    }

    /// What [`execute`](Self::execute) would pay now; `None` where the server asks for nothing. The request is made, without
    /// payment; nothing is signed.
    ///
    /// # Errors
    /// As `execute`, where nothing would be paid.
    pub async fn price(&self, request: &Request) -> Result<Option<Price>, BuyError> {
        let mut call = Call::of(request.try_clone().ok_or_else(streaming)?)?;
        let deadline = Deadline::after(self.shared.timeout);
        let answer = self.ask(&mut call.request, deadline).await?;
        if answer.status() != StatusCode::PAYMENT_REQUIRED {
            return Ok(None);
        }
        let offered = offered(answer, deadline).await?;
        let deal = self.choose(&offered, call.asked)?;
        Ok(Some(Price {
            requirements: deal.terms.clone(),
            amount: deal.quote.amount,
            asset: deal.quote.asset.clone(),
            open: self.waiting(&deal),
        }))
    }

    /// The payments that were signed and are not known to be over.
    pub fn open(&self) -> Vec<Open> {
        self.shared.purchases.open(self.shared.clock.now())
    }

    /// Forgets an open payment, so that the next call for the same thing signs another one. For callers that have found out
    /// what became of it, or would rather pay twice than not at all. Whether there was one with this id.
    pub async fn abandon(&self, id: &str) -> bool {
        self.shared.purchases.abandon(id).await
    }

    /// The payment for this that waits to be presented again.
    fn waiting(&self, deal: &Deal<'_>) -> Option<Open> {
        let now = self.shared.clock.now();
        self.shared.purchases.waiting(deal.key, now)
    }

    /// Makes the request without payment. Redirects within the origin are followed, and change the request's URL.
    async fn ask(&self, request: &mut Request, deadline: Deadline) -> Result<Response, BuyError> {
        for _ in 0..=REDIRECTS_MAX {
            let asked = request.try_clone().ok_or_else(streaming)?;
            let answer = deadline.within(self.shared.http.execute(asked)).await?;
            match redirect::next(request.method(), &answer)? {
                None => return Ok(answer),
                Some(to) => *request.url_mut() = to,
            }
        }
        Err(BuyError::Request(format!(
            "more than {REDIRECTS_MAX} redirects"
        )))
    }

    /// A way to pay for which a payment is open, or else the first, of those that some payer can pay and the limits allow.
    fn choose<'a>(&'a self, offered: &'a Offered, asked: Asked) -> Result<Deal<'a>, BuyError> {
        let mut objections = offered.unreadable.clone();
        let mut deals = Vec::new();
        for terms in &offered.accepts {
            match self.deal(terms, asked) {
                Ok(deal) => deals.push(deal),
                Err(objection) => {
                    let (scheme, network) = (printable(&terms.scheme), printable(&terms.network));
                    objections.push(format!("{scheme} on {network}: {objection}"));
                }
            }
        }
        let open = |deal: &Deal<'_>| self.waiting(deal).is_some();
        let chosen = deals.iter().position(open).unwrap_or(0);
        if chosen < deals.len() {
            return Ok(deals.swap_remove(chosen));
        }
        if objections.is_empty() {
            objections.push("the server names none".to_owned());
        }
        Err(BuyError::NotAcceptable(objections))
    }

    /// How these terms can be met; or why they cannot.
    fn deal<'a>(
        &'a self,
        terms: &'a PaymentRequirements,
        asked: Asked,
    ) -> Result<Deal<'a>, String> {
        let mut objection = "no payer for this scheme and network".to_owned();
        for payer in &self.shared.payers {
            let quote = match payer.quote(terms) {
                Ok(quote) => quote,
                Err(QuoteError::NotSupported) => continue,
                Err(error) => {
                    // It may quote the server.
                    objection = printable(&error.to_string());
                    continue;
                }
            };
            match self.shared.purse.allows(&quote) {
                Ok(()) => {
                    return Ok(Deal {
                        key: Key::of(asked, &terms.scheme, &quote),
                        payer: payer.as_ref(),
                        terms,
                        quote,
                        asked,
                    });
                }
                Err(over) => objection = over,
            }
        }
        Err(objection)
    }

    /// Presents the payments that were signed for this before; or, if there is none or all are over, a new one.
    async fn buy(
        &self,
        request: &Request,
        offered: &Offered,
        deal: &Deal<'_>,
        deadline: Deadline,
    ) -> Result<Bought, BuyError> {
        while let Some(held) = self.shared.purchases.take(deal.key, self.now()) {
            debug!("presenting a payment that was signed before");
            if let Tried::Bought(bought) = self.present_again(request, deal, held, deadline).await?
            {
                return Ok(*bought);
            }
        }
        self.clear_other_terms(deal, deadline).await?;
        let held = self.sign(request, offered, deal, deadline).await?;
        match self.present(request, deal, held, deadline).await? {
            Tried::Bought(bought) => Ok(*bought),
            // No server takes the payments of a clock that is wrong by this much.
            Tried::Over => {
                let what = "a new payment had run out before it was presented";
                Err(PayerError::Requirements(QuoteError::unpayable(what)).into())
            }
        }
    }

    /// Presents a payment of an earlier call, unless the chain shows that it is over.
    async fn present_again(
        &self,
        request: &Request,
        deal: &Deal<'_>,
        mut held: Held,
        deadline: Deadline,
    ) -> Result<Tried, BuyError> {
        if held.payment.has_run_out(self.now()) {
            match self.state_of(&held.payment, deadline).await {
                AuthorizationState::Expired => {
                    held.close().await;
                    return Ok(Tried::Over);
                }
                AuthorizationState::Used(transaction) => held.payment.used(transaction),
                AuthorizationState::Usable | AuthorizationState::Unknown => {}
            }
        }
        match &held.payment.signed {
            Signed::Header(_) => self.present(request, deal, held, deadline).await,
            Signed::Payload(_) => {
                let reason = "it is too old to be presented".to_owned();
                Err(unresolved(&held, reason))
            }
        }
    }

    /// Makes sure that no payment for the same request on other terms can still move money, unless the caller allows it.
    async fn clear_other_terms(&self, deal: &Deal<'_>, deadline: Deadline) -> Result<(), BuyError> {
        if self.shared.allow_second_payments {
            return Ok(());
        }
        while let Some(held) = self.shared.purchases.take_asked(deal.asked, self.now()) {
            // What no server has seen is only forgotten.
            let is_over = held.payment.standing == Standing::Unseen
                || held.payment.has_run_out(self.now())
                    && self.state_of(&held.payment, deadline).await == AuthorizationState::Expired;
            if !is_over {
                let open = Box::new(held.payment.open.clone());
                return Err(BuyError::AlreadyOpen { open });
            }
            held.close().await;
        }
        Ok(())
    }

    /// What the chain says of a payment, by the first payer that has a node to ask.
    async fn state_of(&self, payment: &Payment, deadline: Deadline) -> AuthorizationState {
        let Some(payload) = payment.signed.payload() else {
            return AuthorizationState::Unknown;
        };
        let Open {
            network,
            asset,
            expires,
            ..
        } = &payment.open;
        for payer in &self.shared.payers {
            let asked = payer.authorization_state(network, asset, &payload, *expires);
            let state = tokio::time::timeout_at(deadline.at(), asked).await;
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

    /// Signs a new payment, within the limits.
    async fn sign(
        &self,
        request: &Request,
        offered: &Offered,
        deal: &Deal<'_>,
        deadline: Deadline,
    ) -> Result<Held, BuyError> {
        let Shared {
            purse,
            purchases,
            clock,
            ..
        } = &*self.shared;
        let origin = address::origin(request.url());
        if !purchases.has_room(&origin, clock.now()) {
            return Err(BuyError::TooManyOpen { origin });
        }
        purse.spend(&deal.quote).map_err(BuyError::OverLimit)?;
        let signing = deal.payer.pay(deal.terms, clock.now());
        let signed = tokio::time::timeout_at(deadline.at(), signing)
            .await
            .unwrap_or_else(|_| Err(PayerError::signing("there was no signature in time")));
        let (payload, expires) = signed.inspect_err(|_| purse.give_back(&deal.quote))?;
        let (version, value) = offered.pay(deal.terms, payload);
        let Quote {
            network,
            pay_to,
            asset,
            amount,
        } = deal.quote.clone();
        let open = Open {
            id: id_of(&value),
            network,
            origin,
            asset: asset.address,
            symbol: asset.symbol,
            decimals: Some(asset.decimals),
            pay_to,
            amount,
            expires,
            transaction: None,
        };
        let payment = Payment {
            asked: Some(deal.asked),
            version,
            signed: Signed::Header(value),
            standing: Standing::Unseen,
            open,
            was_used: false,
        };
        Ok(purchases.hold(deal.key, payment))
    }

    /// Presents a payment until it is served or refused.
    async fn present(
        &self,
        request: &Request,
        deal: &Deal<'_>,
        mut held: Held,
        deadline: Deadline,
    ) -> Result<Tried, BuyError> {
        let may_repeat = self.shared.repeat_any_method || request.method().is_idempotent();
        let trusted = self.trusts(request);
        let mut presented = 0;
        loop {
            presented += 1;
            let before = held.show().await?;
            let sent = self.send(request, &held.payment, deadline).await;
            let (ended, asked) = match heard(&mut held, before, sent, trusted, deadline).await {
                Ok(Answer::Served(response, receipt)) => {
                    let bought = served(deal, held, *response, receipt).await;
                    return Ok(Tried::Bought(Box::new(bought)));
                }
                Ok(Answer::Refused(reason, receipt)) => {
                    return self.refused(held, reason, receipt).await;
                }
                Ok(Answer::Pending(receipt)) if may_repeat => (pending(receipt, &held), None),
                Ok(Answer::Unavailable(reason, after, receipt)) if may_repeat => {
                    (refusal(&reason, receipt, &held), after)
                }
                Err(error) if may_repeat => (lost(error, &held), None),
                // Asking again is safe for the money; for the deed, only the caller can know.
                Ok(Answer::Pending(receipt)) => return Err(pending(receipt, &held)),
                Ok(Answer::Unavailable(reason, _, receipt)) => {
                    return Err(refusal(&reason, receipt, &held));
                }
                Err(error) => return Err(lost(error, &held)),
            };
            if presented == PRESENTATIONS_MAX || !present::pause(asked, deadline).await {
                return Err(ended);
            }
            debug!(%ended, "presenting the same payment again");
        }
    }

    async fn send(
        &self,
        request: &Request,
        payment: &Payment,
        deadline: Deadline,
    ) -> Result<Response, NoAnswer> {
        let mut paid = request.try_clone().expect("was cloned before");
        address::unconditional(&mut paid);
        let Signed::Header(value) = &payment.signed else {
            return Err(NoAnswer::Late);
        };
        let mut value: HeaderValue = value.parse().expect("base64 is a header value");
        value.set_sensitive(true);
        let name = match payment.version {
            Version::V2 => header::PAYMENT_SIGNATURE,
            Version::V1 => header::X_PAYMENT,
        };
        paid.headers_mut().insert(name, value);
        deadline.within(self.shared.http.execute(paid)).await
    }

    /// What follows from a refusal.
    async fn refused(
        &self,
        held: Held,
        reason: String,
        receipt: Option<Receipt>,
    ) -> Result<Tried, BuyError> {
        let now = self.now();
        if held.payment.is_over(now) {
            debug!(reason, "a payment is over");
            held.close().await;
            return Ok(Tried::Over);
        }
        if held.payment.has_run_out(now) {
            return Err(unresolved(&held, reason));
        }
        Err(refusal(&reason, receipt, &held))
    }
}

impl Call {
    fn of(mut request: Request) -> Result<Self, BuyError> {
        address::move_credentials(&mut request);
        let asked = Asked::of(&request).ok_or_else(streaming)?;
        Ok(Self { request, asked })
    }
}

/// What the server offers.
async fn offered(answer: Response, deadline: Deadline) -> Result<Offered, BuyError> {
    let read = tokio::time::timeout_at(deadline.at(), Offered::of(answer)).await;
    Ok(read.map_err(|_| NoAnswer::Late)??)
}

/// What the server answered; what that says of the payment is taken down.
async fn heard(
    held: &mut Held,
    before: Standing,
    sent: Result<Response, NoAnswer>,
    trusted: bool,
    deadline: Deadline,
) -> Result<Answer, NoAnswer> {
    let answer = match sent {
        Ok(response) => Ok(Answer::read(response, deadline).await),
        Err(error) => Err(error),
    };
    match &answer {
        Err(error) if error.is_unsent() => held.payment.standing = before,
        Err(_) => {}
        Ok(Answer::Refused(reason, receipt)) => {
            let word = word(reason, receipt.as_ref(), trusted);
            held.take_down(word, receipt.as_ref(), before);
        }
        Ok(
            Answer::Served(_, receipt)
            | Answer::Pending(receipt)
            | Answer::Unavailable(_, _, receipt),
        ) => {
            let reason = receipt
                .as_ref()
                .and_then(|receipt| receipt.error_reason.as_deref());
            // Without a receipt such an answer says nothing of the payment.
            let word = reason.map_or(Word::Unknown, |reason| {
                word(reason, receipt.as_ref(), trusted)
            });
            held.take_down(word, receipt.as_ref(), before);
        }
    }
    held.keep().await;
    answer
}

/// What came for a payment. An error that does not say that the money moved leaves open whether it will, and so do goods
/// whose receipt says that the money has not moved.
async fn served(
    deal: &Deal<'_>,
    held: Held,
    response: Response,
    receipt: Option<Receipt>,
) -> Bought {
    let charged = receipt.as_ref().is_some_and(|receipt| receipt.success);
    let denied = receipt.as_ref().is_some_and(Receipt::denies);
    let delivered = response.status().is_success() && !denied;
    let open = if delivered || charged {
        info!(amount = %deal.quote.amount, network = deal.quote.network, "bought");
        held.close().await;
        None
    } else {
        Some(held.payment.open.clone())
    };
    let cost = Cost {
        requirements: deal.terms.clone(),
        amount: deal.quote.amount,
        asset: deal.quote.asset.clone(),
        receipt,
        open,
    };
    Bought {
        response,
        cost: Some(cost),
    }
}

fn refusal(reason: &str, receipt: Option<Receipt>, held: &Held) -> BuyError {
    BuyError::Refused {
        reason: reason.to_owned(),
        receipt: receipt.map(Box::new),
        open: Box::new(held.payment.open.clone()),
    }
}

/// Why nothing new is signed though a payment has run out.
fn unresolved(held: &Held, reason: String) -> BuyError {
    let open = Box::new(held.payment.open.clone());
    match held.payment.was_used {
        true => BuyError::Used { reason, open },
        false => BuyError::Unresolved { reason, open },
    }
}

fn pending(receipt: Option<Receipt>, held: &Held) -> BuyError {
    refusal(Reason::SETTLEMENT_PENDING.code(), receipt, held)
}

fn lost(error: NoAnswer, held: &Held) -> BuyError {
    let open = Box::new(held.payment.open.clone());
    BuyError::Lost { error, open }
}

/// The name of a payment, which tells nothing about it.
fn id_of(value: &str) -> String {
    let hash: [u8; 32] = Sha256::digest(value).into();
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn streaming() -> BuyError {
    BuyError::Request("a streaming body cannot be sent again".to_owned())
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

impl BuyerBuilder {
    /// Adds a way to pay. The first that can pay some terms does.
    #[must_use]
    pub fn payer(mut self, payer: impl Payer) -> Self {
        self.payers.push(Box::new(payer));
        self
    }

    /// Says what may be spent; without it, [`Limits::default`].
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Says how long a whole call may take until the answer begins, with all that is repeated; without it, 90 seconds. How
    /// long the answer's body then takes is not bounded: it may be a stream.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Says what time it is; without it, the operating system does.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Repeats any request by itself when its answer is lost or its payment is pending, not only those whose method says
    /// that twice is as good as once. Without this, such a POST ends with [`BuyError::Lost`] or [`BuyError::Refused`], and the
    /// payment is kept.
    #[must_use]
    pub fn repeat_any_method(self) -> Self {
        Self {
            repeat_any_method: true,
            ..self
        }
    }

    /// Signs another payment for a request though an earlier one, on other terms, may still move money. Without this, such a
    /// call ends with [`BuyError::AlreadyOpen`]: a server whose price is another one at each call could collect each of them.
    #[must_use]
    pub fn allow_second_payments(self) -> Self {
        Self {
            allow_second_payments: true,
            ..self
        }
    }

    /// Trusts the server with this origin (`https://api.example.com`) to say truly that a payment moved nothing. It is believed
    /// two things, both only where they name no transaction: that its handler failed or its terms were others, so that it never
    /// asked to settle, and that its facilitator's journal says `settlement_expired`. For servers of one's own. Others are asked
    /// to deliver and never believed; a payer with a node asks the chain.
    #[must_use]
    pub fn trust(mut self, origin: &str) -> Self {
        self.trusted.push(origin.to_owned());
        self
    }

    /// Keeps open payments in this file, so that the next buyer with it presents them again; without it they end with the
    /// buyer. One buyer has it at a time. Only its owner can read it: the authorizations in it are worth money. It is
    /// written, and synced, before and after each presentation.
    #[must_use]
    pub fn state_file(self, path: impl Into<PathBuf>) -> Self {
        let state_file = Some(path.into());
        Self { state_file, ..self }
    }

    /// The buyer.
    ///
    /// # Errors
    /// When a limit is no amount, a trusted origin no URL, no HTTP client can be built, or the state file cannot be used.
    pub fn build(self) -> Result<Buyer, BuyError> {
        self.limits.check().map_err(BuyError::OverLimit)?;
        let trusted: Result<Vec<Url>, _> = self.trusted.iter().map(|it| it.parse()).collect();
        let trusted = trusted
            .map_err(|error| BuyError::Request(format!("a trusted origin is no URL: {error}")))?;
        let http = Clients::new()?;
        let purchases = match &self.state_file {
            Some(path) => Purchases::in_file(path)?,
            None => Purchases::default(),
        };
        Ok(Buyer {
            shared: Arc::new(Shared {
                http,
                payers: self.payers,
                purse: Purse::new(self.limits),
                purchases,
                clock: self.clock,
                timeout: self.timeout,
                repeat_any_method: self.repeat_any_method,
                allow_second_payments: self.allow_second_payments,
                trusted,
            }),
        })
    }
}
