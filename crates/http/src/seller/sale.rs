//! A sale: verify, serve, settle, and only then let the answer go.

use std::sync::Arc;

use axum::extract::OriginalUri;
use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use quittance_core::wire::{ResourceInfo, Rest, SettleResponse, header};
use quittance_core::{
    Facilitator, FacilitatorError, Fault, FaultKind, Offer, PaymentRequest, Reason, Refusal,
    Rejection, Version,
};
use tokio::task::JoinError;
use tower::Service;
use tracing::{Instrument, Span, info, warn};

use super::answers::{self, NoSale, Why};
use super::buffered::{Body, BodyError, Buffered, buffer};
use super::layer::{Longer, PaidBy};
use super::presented::{Presented, presented, too_long};
use super::rules;
use super::supported::Supported;
use super::terms::{self, Term};
use super::under_way::{Reserved, UnderWay};
use crate::canonical;
use crate::reason::{HANDLER_FAILED, OTHER_TERMS, PAYMENT_REQUIRED};

/// What all requests to a route share.
#[derive(Clone)]
pub(super) struct Shop {
    pub(super) facilitator: Arc<dyn Facilitator>,
    pub(super) offers: Vec<Arc<dyn Offer>>,
    pub(super) description: Option<String>,
    pub(super) mime_type: Option<String>,
    pub(super) origin: Option<String>,
    pub(super) buffer: usize,
    pub(super) longer: Longer,
    pub(super) supported: Arc<Supported>,
    pub(super) under_way: UnderWay,
}

/// A verified payment whose handler runs.
struct Sale {
    payment: PaymentRequest,
    version: Version,
    terms: Vec<Term>,
    resource: ResourceInfo,
    paid_by: PaidBy,
    /// Nobody else is served for the payment meanwhile.
    _reserved: Reserved,
}

impl Shop {
    pub(super) async fn sell<S, I, O>(
        self: Arc<Self>,
        handler: S,
        mut request: Request<I>,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<I>, Response = Response<O>> + Send + 'static,
        S::Future: Send,
        S::Error: Send + 'static,
        I: Send + 'static,
        O: http_body::Body<Data = Bytes> + Send + 'static,
        O::Error: Into<BodyError>,
    {
        if rules::is_preflight(&request) {
            return Ok(answers::preflight());
        }
        let resource = self.resource(&request);
        if let Some(name) = too_long(request.headers()) {
            let NoSale(answer) = answers::too_long(name);
            return Ok(*answer);
        }
        let presented = presented(request.headers());
        hide_payments(&mut request);
        if !rules::is_sold(request.method()) {
            let NoSale(answer) = self.not_sold(request.method(), &resource, presented).await;
            return Ok(*answer);
        }
        let sale = match self.open(resource, presented).await {
            Ok(sale) => sale,
            Err(NoSale(answer)) => return Ok(*answer),
        };
        // From here on the sale is nobody's connection: a client that hangs up once the handler has begun has bought what
        // it does, and is charged for it.
        let sale = async move { self.serve(handler, request, sale).await };
        let served = tokio::spawn(sale.instrument(Span::current())).await;
        served.unwrap_or_else(|error| Ok(stopped(error)))
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
        let answer = match self.read(answer).await {
            Ok(answer) => answer,
            Err(message) => return Ok(uncharged(&sale, answers::not_served(message))),
        };
        let closed = self.close(sale, answer).await;
        Ok(closed.unwrap_or_else(|NoSale(answer)| *answer))
    }

    /// Everything before the handler: a payment, for our terms, that would settle.
    async fn open(
        &self,
        resource: ResourceInfo,
        presented: Result<Option<Presented>, Refusal>,
    ) -> Result<Sale, NoSale> {
        if let Err(Refusal::Malformed(malformed)) = &presented {
            return Err(answers::bad_request(malformed));
        }
        let terms = self.terms().await;
        let mut terms = terms.map_err(|fault| answers::unavailable(&fault))?;
        if matches!(presented, Ok(None)) {
            terms = terms::with_hints(terms).await;
        }
        let refuse = |why: Why| answers::payment_required(&terms, &resource, &why, None);
        let presented = match presented {
            Ok(Some(presented)) => presented,
            Ok(None) => return Err(refuse(Why::new(PAYMENT_REQUIRED, None))),
            Err(refusal) => return Err(refused(refusal, refuse)),
        };
        let version = presented.version();
        let known = self.known_terms(&terms);
        let (mut payment, term) = match presented.request(&known, &resource) {
            Some(Ok(found)) => found,
            Some(Err(refusal)) => return Err(refused(refusal, refuse)),
            None => return Err(refuse(Why::new(OTHER_TERMS, None))),
        };
        payment.authorization = term.authorization(&payment.payload);
        let reserved = self.under_way.reserve(canonical::authorization(&payment));
        let reserved = reserved.ok_or_else(answers::under_way)?;
        let payer = self.verify(&payment, refuse).await?;
        let paid_by = PaidBy {
            payer,
            network: term.requirements.network,
            asset: term.requirements.asset,
            amount: term.requirements.amount,
        };
        Ok(Sale {
            payment,
            version,
            terms,
            resource,
            paid_by,
            _reserved: reserved,
        })
    }

    /// The terms, for a method that is not sold. Nobody is asked about a payment that came with it:
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
        refuse: impl Fn(Why) -> NoSale,
    ) -> Result<Option<String>, NoSale> {
        let verdict = self.facilitator.verify(payment).await;
        let verdict = verdict.map_err(answers::no_verdict)?;
        if verdict.is_valid {
            return Ok(verdict.payer);
        }
        let reason = verdict.invalid_reason.as_deref();
        let reason = reason.unwrap_or("Verification failed");
        let message = verdict.invalid_message.as_deref();
        info!(
            reason,
            message,
            payer = verdict.payer,
            "a payment was refused"
        );
        Err(refuse(Why::new(reason, message)))
    }

    /// The handler's answer, when all of it is there or it may be sent while it comes.
    async fn read(&self, answer: Response<Body>) -> Result<Response<Body>, &'static str> {
        let (parts, body) = answer.into_parts();
        let body = match buffer(body, self.buffer).await {
            Buffered::Whole(body) => body,
            Buffered::Longer(body) if self.longer == Longer::SettleFirst => body,
            Buffered::Longer(_) => return Err("the answer is too long"),
            Buffered::Broken(error) => {
                warn!(%error, "a handler's answer broke off");
                return Err("the answer broke off");
            }
        };
        Ok(Response::from_parts(parts, body))
    }

    /// Everything after the handler: the money moves, or the answer stays here.
    async fn close(&self, sale: Sale, answer: Response<Body>) -> Result<Response<Body>, NoSale> {
        let settled = self.settle(&sale.payment).await;
        let settled = settled.map_err(answers::no_verdict)?;
        if settled.success {
            return Ok(answers::with_receipt(
                answers::private(answer),
                sale.version,
                &settled,
            ));
        }
        let reason = settled.error_reason.as_deref();
        let reason = reason.unwrap_or("Settlement failed");
        let message = settled.error_message.as_deref();
        let (payer, transaction) = (&settled.payer, &settled.transaction);
        info!(reason, message, payer, transaction, "not settled");
        let why = Why::new(reason, message);
        let receipt = Some((sale.version, &settled));
        Err(answers::payment_required(
            &sale.terms,
            &sale.resource,
            &why,
            receipt,
        ))
    }

    /// Settles; where the outcome is pending, asks once more: the facilitator waits for the transaction it has sent.
    async fn settle(&self, payment: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let first = self.facilitator.settle(payment).await?;
        if !first.is_pending() {
            return Ok(first);
        }
        Ok(newer(first, self.facilitator.settle(payment).await))
    }

    /// The terms that can be settled now.
    async fn terms(&self) -> Result<Vec<Term>, Fault> {
        let supported = self.supported.get(&*self.facilitator).await?;
        terms::current(&self.offers, &supported)
    }

    /// These terms, and those that a buyer was told a moment ago: only what the facilitator adds to an offer differs, and
    /// whether it stands by that is its own to say.
    fn known_terms(&self, now: &[Term]) -> Vec<Term> {
        let former = self.supported.former();
        let former = former
            .iter()
            .filter_map(|word| terms::current(&self.offers, word).ok())
            .flatten();
        now.iter().cloned().chain(former).collect()
    }

    fn resource<I>(&self, request: &Request<I>) -> ResourceInfo {
        // A router that this one is nested in has taken its part of the path away.
        let uri = request
            .extensions()
            .get::<OriginalUri>()
            .map_or(request.uri(), |original| &original.0);
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

/// What is known of a payment whose transaction is out, when its facilitator was asked again. A fault, or a verdict that
/// knows of no transaction, comes from somebody who does not know of the first answer, such as another instance behind one
/// address: it takes nothing back.
fn newer(
    first: SettleResponse,
    second: Result<SettleResponse, FacilitatorError>,
) -> SettleResponse {
    match second {
        Ok(second) if !second.transaction.is_empty() => second,
        Ok(second) if second.success => SettleResponse {
            transaction: first.transaction,
            ..second
        },
        second => {
            let transaction = &first.transaction;
            warn!(
                transaction,
                ?second,
                "asked again, the facilitator does not know of a transaction it named"
            );
            first
        }
    }
}

fn refused(refusal: Refusal, refuse: impl Fn(Why) -> NoSale) -> NoSale {
    match refusal {
        Refusal::Malformed(malformed) => answers::bad_request(&malformed),
        Refusal::Rejected(rejection) => refuse(rejection.into()),
    }
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
    let network = &sale.payment.terms.network;
    let failed = SettleResponse::failed(network, &rejection, sale.paid_by.payer.clone(), "");
    answers::with_receipt(answers::private(answer), sale.version, &failed)
}
