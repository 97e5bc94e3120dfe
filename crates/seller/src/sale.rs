//! A sale: verify, serve, settle, and only then let the answer go.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use quittance_core::wire::{ResourceInfo, Rest, SettleResponse, header};
use quittance_core::{
    Facilitator, Fault, FaultKind, Offer, PaymentRequest, Reason, Refusal, Rejection,
};
use tokio::task::JoinError;
use tokio::time::Instant;
use tower::Service;
use tower_http::cors::CorsLayer;
use tracing::{Instrument, Span, info, warn};

use crate::answers::{self, NoSale, Why};
use crate::buffered::{Body, BodyError, Buffered, Whole, buffer};
use crate::clients::{Attempt, Clients, Limit};
use crate::kept::{self, Asked, Kept, Ticket};
use crate::layer::{Longer, PaidBy};
use crate::presented::{Presented, presented, too_long};
use crate::receipts::Receipts;
use crate::rules;
use crate::settle::settle;
use crate::supported::Supported;
use crate::terms::{self, Term};
use crate::under_way::{Reserved, UnderWay};
use crate::unread;
use quittance_http::canonical;
use quittance_http::reason::{HANDLER_FAILED, OTHER_TERMS, PAYMENT_REQUIRED};

/// What all requests to a route share.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) facilitator: Arc<dyn Facilitator>,
    pub(crate) offers: Vec<Arc<dyn Offer>>,
    pub(crate) description: Option<String>,
    pub(crate) mime_type: Option<String>,
    pub(crate) origin: Option<String>,
    pub(crate) buffer: usize,
    pub(crate) longer: Longer,
    pub(crate) limit: Limit,
    pub(crate) cors: Option<CorsLayer>,
    pub(crate) shared: Arc<Shared>,
}

/// What clones of a layer share.
#[derive(Default)]
pub(crate) struct Shared {
    supported: Supported,
    under_way: UnderWay,
    clients: Arc<Clients>,
    kept: Kept,
    receipts: Receipts,
}

/// A request with a payment, before the payment is known.
struct Visit {
    resource: ResourceInfo,
    client: Option<IpAddr>,
    asked: Option<Asked>,
}

/// A verified payment whose handler runs.
struct Sale {
    payment: PaymentRequest,
    terms: Vec<Term>,
    resource: ResourceInfo,
    paid_by: PaidBy,
    /// When the payment has run out, if it was signed when it was presented.
    deadline: Instant,
    /// For which requests the answer is kept if the client goes away.
    ticket: Option<Ticket>,
    /// It counts against the client until it has settled.
    attempt: Attempt,
    /// Nobody else is served for the payment meanwhile.
    _reserved: Reserved,
}

/// The body of an answer that may be sold.
enum Goods {
    Whole(Whole),
    /// One that is settled first and then streamed.
    Streamed(Body),
}

impl Shop {
    pub(crate) async fn sell<S, I, O>(
        self: Arc<Self>,
        handler: S,
        request: Request<I>,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<I>, Response = Response<O>> + Send + 'static,
        S::Future: Send,
        S::Error: Send + 'static,
        I: http_body::Body<Data = Bytes> + Send + 'static,
        I::Error: Into<BodyError>,
        O: http_body::Body<Data = Bytes> + Send + 'static,
        O::Error: Into<BodyError>,
    {
        let mut answer = self.answer(handler, request).await?;
        kept::handed_over(&mut answer);
        Ok(answer)
    }

    async fn answer<S, I, O>(
        self: Arc<Self>,
        handler: S,
        mut request: Request<I>,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<I>, Response = Response<O>> + Send + 'static,
        S::Future: Send,
        S::Error: Send + 'static,
        I: http_body::Body<Data = Bytes> + Send + 'static,
        I::Error: Into<BodyError>,
        O: http_body::Body<Data = Bytes> + Send + 'static,
        O::Error: Into<BodyError>,
    {
        let sale = match self.admit(&mut request).await {
            Ok(sale) => sale,
            Err(NoSale(answer)) => return Ok(unread::refuse(request, *answer).await),
        };
        // From here on the sale is nobody's connection: a client that hangs up once the handler has begun has bought what
        // it does, and is charged for it.
        let sale = async move { self.serve(handler, request, sale).await };
        let served = tokio::spawn(sale.instrument(Span::current())).await;
        served.unwrap_or_else(|error| Ok(stopped(error)))
    }

    /// The sale that a request opens, or why its handler does not run.
    async fn admit<I>(&self, request: &mut Request<I>) -> Result<Sale, NoSale> {
        if rules::is_preflight(request) {
            return Err(NoSale(Box::new(answers::preflight())));
        }
        let resource = self.resource(request);
        if let Some(name) = too_long(request.headers()) {
            return Err(answers::too_long(name));
        }
        let presented = presented(request.headers());
        hide_payments(request);
        if !rules::is_sold(request.method()) {
            let method = request.method().clone();
            return Err(self.not_sold(&method, &resource, presented).await);
        }
        let client = self.shared.clients.address(self.limit, request);
        let visit = Visit {
            asked: Asked::of(request, &resource.url, client),
            resource,
            client,
        };
        self.open(visit, presented).await
    }

    /// The handler's answer, and the money for it.
    async fn serve<S, I, O>(
        &self,
        mut handler: S,
        mut request: Request<I>,
        sale: Sale,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<I>, Response = Response<O>>,
        O: http_body::Body<Data = Bytes> + Send + 'static,
        O::Error: Into<BodyError>,
    {
        request.extensions_mut().insert(sale.paid_by.clone());
        let answer = handler
            .call(request)
            .await?
            .map(|body| body.map_err(Into::into).boxed_unsync());
        if !rules::is_charged(answer.status()) {
            return Ok(uncharged(&sale, answer));
        }
        let (head, body) = answer.into_parts();
        let goods = match self.read(body).await {
            Ok(goods) => goods,
            Err(message) => return Ok(uncharged(&sale, answers::not_served(message))),
        };
        let closed = self
            .close(sale, Response::from_parts(head, ()), goods)
            .await;
        Ok(closed.unwrap_or_else(|NoSale(answer)| *answer))
    }

    /// Everything before the handler: a payment, for our terms, that would settle.
    async fn open(
        &self,
        visit: Visit,
        presented: Result<Option<Presented>, Refusal>,
    ) -> Result<Sale, NoSale> {
        let resource = visit.resource;
        if let Err(Refusal::Malformed(malformed)) = &presented {
            return Err(answers::bad_request(malformed));
        }
        let terms = self.terms().await;
        let mut terms = terms.map_err(|fault| answers::unavailable(&fault))?;
        if matches!(presented, Ok(None)) {
            terms = terms::with_hints(terms).await;
        }
        let (payment, term) = self
            .payment(presented, &terms, &resource)
            .map_err(|refusal| refused(refusal, &terms, &resource))?;
        let shared = &self.shared;
        let authorization = canonical::authorization(&payment);
        let reserved = shared.under_way.reserve(authorization);
        let reserved = reserved.ok_or_else(answers::under_way)?;
        let ticket = visit.asked.map(|asked| asked.with(&payment));
        if let Some(answer) = ticket.and_then(|ticket| shared.kept.take(ticket)) {
            return Err(NoSale(Box::new(answer)));
        }
        if let Some(transaction) = shared.receipts.transaction(&authorization) {
            return Err(sold(&payment, &terms, &resource, &transaction));
        }
        let attempt = shared.clients.present(self.limit, visit.client);
        let mut attempt = attempt.map_err(|wait| answers::too_often(wait, &payment))?;
        let deadline = Instant::now() + life(&payment);
        let payer = self.verify(&payment, &terms, &resource).await?;
        attempt.verified();
        let paid_by = PaidBy {
            payer,
            network: term.requirements.network,
            asset: term.requirements.asset,
            amount: term.requirements.amount,
        };
        Ok(Sale {
            payment,
            terms,
            resource,
            paid_by,
            deadline,
            ticket,
            attempt,
            _reserved: reserved,
        })
    }

    /// The payment for one of our terms that a client presents.
    fn payment(
        &self,
        presented: Result<Option<Presented>, Refusal>,
        terms: &[Term],
        resource: &ResourceInfo,
    ) -> Result<(PaymentRequest, Term), Refusal> {
        let presented = presented?.ok_or(Reason::new(PAYMENT_REQUIRED))?;
        let known = self.known_terms(terms);
        let found = presented.request(&known, resource);
        let (mut payment, term) = found.ok_or(Reason::new(OTHER_TERMS))??;
        payment = payment.on(term.network().clone());
        payment.authorization = term.authorization(&payment.payload);
        Ok((payment, term))
    }

    /// The terms, for a method that is not sold. No facilitator is asked about its payment:
    /// its receipt says that nothing was settled.
    async fn not_sold(
        &self,
        method: &Method,
        resource: &ResourceInfo,
        presented: Result<Option<Presented>, Refusal>,
    ) -> NoSale {
        let terms = match self.terms().await {
            Ok(terms) => terms::with_hints(terms).await,
            Err(fault) => return answers::unavailable(&fault),
        };
        let message = format!("{method} is not sold: nothing is charged");
        let Ok(Some(presented)) = presented else {
            let why = Why::new(PAYMENT_REQUIRED, Some(&message));
            return answers::payment_required(&terms, resource, &why, None);
        };
        let rejection = Rejection::new(Reason::new(HANDLER_FAILED), message);
        let failed = SettleResponse::failed(presented.network(), &rejection, None, "");
        let receipt = Some((presented.version(), &failed));
        answers::payment_required(&terms, resource, &rejection.into(), receipt)
    }

    /// The payer of a payment that would settle.
    async fn verify(
        &self,
        payment: &PaymentRequest,
        terms: &[Term],
        resource: &ResourceInfo,
    ) -> Result<Option<String>, NoSale> {
        let verdict = self.facilitator.verify(payment).await;
        let verdict = verdict.map_err(answers::no_verdict)?;
        if verdict.is_valid {
            return Ok(verdict.payer);
        }
        let reason = verdict.invalid_reason.as_deref();
        let reason = reason.unwrap_or("Verification failed");
        let message = verdict.invalid_message.as_deref();
        let payer = &verdict.payer;
        info!(reason, message, payer, "a payment was refused");
        let why = Why::new(reason, message);
        Err(answers::payment_required(terms, resource, &why, None))
    }

    /// The body of a handler's answer, when all of it is there or it may be sent while it comes.
    async fn read(&self, body: Body) -> Result<Goods, &'static str> {
        match buffer(body, self.buffer).await {
            Buffered::Whole(body) => Ok(Goods::Whole(body)),
            Buffered::Longer(body) if self.longer == Longer::SettleFirst => {
                Ok(Goods::Streamed(body))
            }
            Buffered::Longer(_) => Err("the answer is too long"),
            Buffered::Broken(error) => {
                warn!(%error, "a handler's answer broke off");
                Err("the answer broke off")
            }
        }
    }

    /// Everything after the handler: the money moves, or the answer stays here.
    async fn close(
        &self,
        mut sale: Sale,
        answer: Response<()>,
        goods: Goods,
    ) -> Result<Response<Body>, NoSale> {
        let payment = &sale.payment;
        let settled = settle(&*self.facilitator, payment, sale.deadline).await;
        let settled = settled.map_err(answers::no_verdict)?;
        if !settled.success {
            return Err(unsettled(&sale, &settled));
        }
        sale.attempt.settled();
        let authorization = canonical::authorization(payment);
        let receipts = &self.shared.receipts;
        receipts.remember(authorization, &settled.transaction);
        let answer = answers::private(answer);
        let answer = answers::with_receipt(answer, payment.version, &settled);
        // A connection that is handed over cannot be handed over twice.
        let is_final = answer.status() != StatusCode::SWITCHING_PROTOCOLS;
        Ok(match (goods, sale.ticket.filter(|_| is_final)) {
            (Goods::Streamed(body), _) => answer.map(|()| body),
            (Goods::Whole(body), None) => answer.map(|()| body.boxed_unsync()),
            (Goods::Whole(body), Some(ticket)) => self.shared.kept.hand_out(ticket, answer, body),
        })
    }

    /// The terms that can be settled now.
    async fn terms(&self) -> Result<Vec<Term>, Fault> {
        let supported = self.shared.supported.get(&*self.facilitator).await?;
        terms::current(&self.offers, &supported)
    }

    /// These terms, and those that a buyer was told a moment ago: only what the facilitator adds to an offer differs, and
    /// whether it stands by that is its own to say.
    fn known_terms(&self, now: &[Term]) -> Vec<Term> {
        let former = self.shared.supported.former();
        let former = former
            .iter()
            .filter_map(|word| terms::current(&self.offers, word).ok())
            .flatten();
        now.iter().cloned().chain(former).collect()
    }

    fn resource<I>(&self, request: &Request<I>) -> ResourceInfo {
        let uri = original_uri(request);
        let origin = self.origin.clone().unwrap_or_else(|| {
            let host = request.headers().get(HOST);
            let host = host.and_then(|host| host.to_str().ok());
            format!("http://{}", host.or(uri.host()).unwrap_or("localhost"))
        });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        ResourceInfo {
            url: format!("{origin}{path}"),
            description: self.description.clone(),
            mime_type: self.mime_type.clone(),
            service_name: None,
            tags: None,
            icon_url: None,
            rest: Rest::default(),
        }
    }
}

/// The URI as the client wrote it. Routers remove the prefix under which they nest others.
fn original_uri<I>(request: &Request<I>) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(original)) = request.extensions().get() {
        return original;
    }
    request.uri()
}

/// For how long a payment lives that is signed now, as far as the terms tell.
fn life(payment: &PaymentRequest) -> Duration {
    /// Longer than any handler and client wait.
    const LIFE_MAX: Duration = Duration::from_secs(3600);
    Duration::from_secs(payment.requirements.max_timeout_secs).min(LIFE_MAX)
}

/// The answer to a request without a payment for our terms.
fn refused(refusal: Refusal, terms: &[Term], resource: &ResourceInfo) -> NoSale {
    match refusal {
        Refusal::Malformed(malformed) => answers::bad_request(&malformed),
        Refusal::Rejected(rejection) => {
            answers::payment_required(terms, resource, &rejection.into(), None)
        }
    }
}

/// The answer to a payment that was sold for before. No facilitator is asked: whatever it says, one
/// payment buys one answer. The receipt says where the money went.
fn sold(
    payment: &PaymentRequest,
    terms: &[Term],
    resource: &ResourceInfo,
    transaction: &str,
) -> NoSale {
    info!(
        transaction,
        "a payment that was sold for is presented again"
    );
    let what = "this payment has settled, and its answer was sent";
    let rejection = Rejection::new(Reason::DUPLICATE_SETTLEMENT, what);
    let network = &payment.requirements.network;
    let told = SettleResponse::failed(network, &rejection, None, transaction);
    let receipt = Some((payment.version, &told));
    answers::payment_required(terms, resource, &rejection.into(), receipt)
}

/// The answer to a payment that did not settle: the handler's stays here.
fn unsettled(sale: &Sale, settled: &SettleResponse) -> NoSale {
    let reason = settled.error_reason.as_deref();
    let reason = reason.unwrap_or("Settlement failed");
    let message = settled.error_message.as_deref();
    let (payer, transaction) = (&settled.payer, &settled.transaction);
    info!(reason, message, payer, transaction, "not settled");
    let why = Why::new(reason, message);
    let receipt = Some((sale.payment.version, settled));
    answers::payment_required(&sale.terms, &sale.resource, &why, receipt)
}

/// Keeps payments out of whatever prints or compresses a request's headers.
fn hide_payments<I>(request: &mut Request<I>) {
    for name in [header::PAYMENT_SIGNATURE, header::X_PAYMENT] {
        if let Some(value) = request.headers_mut().get_mut(name) {
            value.set_sensitive(true);
        }
    }
}

/// The answer where a sale's task did not end: its handler panicked, or the runtime stops.
fn stopped(error: JoinError) -> Response<Body> {
    let stopping = Fault::new(FaultKind::Internal, &error);
    if let Ok(panic) = error.try_into_panic() {
        // What catches panics around this layer catches this one, too.
        std::panic::resume_unwind(panic);
    }
    let NoSale(answer) = answers::unavailable(&stopping);
    *answer
}

/// An answer that is not charged for, with the word that nothing was settled: the buyer need not
/// wonder.
fn uncharged(sale: &Sale, answer: Response<Body>) -> Response<Body> {
    let message = format!("an answer {} is not charged for", answer.status().as_u16());
    let rejection = Rejection::new(Reason::new(HANDLER_FAILED), message);
    let network = &sale.payment.requirements.network;
    let failed = SettleResponse::failed(network, &rejection, sale.paid_by.payer.clone(), "");
    answers::with_receipt(answers::private(answer), sale.payment.version, &failed)
}
