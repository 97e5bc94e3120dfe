//! The steps of a paid request: admit, open the sale, run the handler, charge, respond.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::HOST;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use quittance_core::json::Object;
use quittance_core::wire::{ResourceInfo, Rest};
use quittance_core::{CancelReason, Fault, FaultKind, PaymentId, Refusal};
use quittance_http::PaymentIdentifier;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tower::Service;
use tower_http::cors::CorsLayer;
use tracing::{Instrument, Span, error, warn};

use super::body::{BoxedBodyError, BufferOutcome, BufferedBody, ResponseBody, buffer};
use super::fingerprint::RequestFingerprint;
use super::identified::{Identified, IdentifiedSales, ReservedIdentifier};
use super::layer::LargeBody;
use super::stored::StoredResponse;
use super::undelivered::{self, UndeliveredResponses};
use super::{address, overrides, responses, rules, unread_body};
use crate::charge::Charge;
use crate::payment::{ClientPayment, PAYMENT_HEADERS};
use crate::refusal::{SaleReceipt, SaleRefusal};
use crate::sale::{ReservedPayment, Seller};
use crate::sale_ids::SaleKey;
use crate::steps::{ChargeError, PendingCharge, Sale};
use crate::stream::Streams;

/// The settings of a layer, which all of its requests share.
#[derive(Clone)]
pub(crate) struct SellerConfig {
    pub(crate) seller: Seller,
    pub(crate) description: Option<String>,
    pub(crate) mime_type: Option<String>,
    pub(crate) origin: Option<String>,
    /// How many bytes of a response are buffered before settlement.
    pub(crate) buffer: usize,
    pub(crate) large_body: LargeBody,
    /// The number of proxies in front of the server that append to `X-Forwarded-For`.
    pub(crate) proxies: usize,
    pub(crate) cors: Option<CorsLayer>,
    pub(crate) undelivered: UndeliveredResponses,
    pub(crate) identified: IdentifiedSales,
    /// The room for responses whose payment is pending; `None` if they are discarded.
    pub(crate) pending: Option<Arc<Semaphore>>,
    /// The streams, if responses are paid tick by tick.
    pub(crate) streams: Option<Streams>,
}

/// A request whose payment is reserved for it.
pub(super) struct AdmittedRequest {
    pub(super) admission: Admission,
    pub(super) repetition: Repetition,
}

/// How the response is stored for a repeated request.
pub(super) struct Repetition {
    /// For every repeated request; `None` without a `payment-identifier`.
    identifier: Option<ReservedIdentifier>,
    /// For one, if the client disconnects; `None` if the response is not stored then.
    key: Option<SaleKey>,
}

impl Admission {
    /// Whether the payment buys nothing, as a request for a refund does.
    pub(super) fn buys_nothing(&self) -> bool {
        match self {
            Self::Open(sale) => sale.acknowledgement().is_some(),
            Self::Reserved(reserved, _) => reserved.buys_nothing(),
        }
    }

    /// The state record that the payment uses, such as a channel's.
    pub(super) fn record(&self) -> Option<PaymentId> {
        match self {
            Self::Open(sale) => sale.record(),
            Self::Reserved(reserved, _) => reserved.record(),
        }
    }
}

impl Repetition {
    /// Money may move from now on.
    pub(super) fn bind(&self) {
        if let Some(identifier) = &self.identifier {
            identifier.bind();
        }
    }

    fn is_stored(&self) -> bool {
        self.identifier.is_some() || self.key.is_some()
    }
}

/// How far a payment has come while its client waits.
pub(super) enum Admission {
    /// It is verified. The handler may run.
    Open(Box<Sale>),
    /// It is settled next, whether or not its client waits for that.
    Reserved(Box<ReservedPayment>, Option<IpAddr>),
}

/// What a handler has produced.
enum HandlerResult<E> {
    /// A response to sell, and what the handler charges for it.
    Sold(Response<()>, SaleBody, Option<Charge>),
    /// A response that is not charged, and why not.
    NotSold(Response<ResponseBody>, String),
    /// The handler's service failed.
    Threw(E),
}

/// The body of a response that may be sold.
enum SaleBody {
    Complete(BufferedBody),
    /// A body that is streamed after settlement.
    Streamed(ResponseBody),
}

pub(super) type BoxedResponse = Box<Response<ResponseBody>>;

impl SellerConfig {
    pub(crate) async fn sell<S, I, O>(
        self: Arc<Self>,
        handler: S,
        request: Request<I>,
    ) -> Result<Response<ResponseBody>, S::Error>
    where
        S: Service<Request<I>, Response = Response<O>> + Send + 'static,
        S::Future: Send,
        S::Error: Send + 'static,
        I: http_body::Body<Data = Bytes> + Send + 'static,
        I::Error: Into<BoxedBodyError>,
        O: http_body::Body<Data = Bytes> + Send + 'static,
        O::Error: Into<BoxedBodyError>,
    {
        if let Some(streams) = self.streams.clone() {
            return self.sell_stream(streams, handler, request).await;
        }
        let mut response = self.respond(handler, request).await?;
        undelivered::passed_to_server(&mut response);
        Ok(response)
    }

    async fn respond<S, I, O>(
        self: Arc<Self>,
        handler: S,
        mut request: Request<I>,
    ) -> Result<Response<ResponseBody>, S::Error>
    where
        S: Service<Request<I>, Response = Response<O>> + Send + 'static,
        S::Future: Send,
        S::Error: Send + 'static,
        I: http_body::Body<Data = Bytes> + Send + 'static,
        I::Error: Into<BoxedBodyError>,
        O: http_body::Body<Data = Bytes> + Send + 'static,
        O::Error: Into<BoxedBodyError>,
    {
        let admitted = match self.admit(&mut request).await {
            Ok(admitted) => admitted,
            Err(response) => return Ok(unread_body::refuse(request, *response).await),
        };
        // The sale runs in a task of its own: once the handler has begun, or money moves, the sale
        // continues even if the client disconnects.
        let sale = async move {
            let AdmittedRequest {
                admission,
                repetition,
            } = admitted;
            if matches!(admission, Admission::Reserved(..)) {
                repetition.bind();
            }
            match self.open(admission).await {
                Ok(sale) => self.serve(handler, request, sale, repetition).await,
                Err(response) => Ok(unread_body::refuse(request, *response).await),
            }
        };
        let served = tokio::spawn(sale.instrument(Span::current())).await;
        served.unwrap_or_else(|error| Ok(task_failed(error)))
    }

    /// The payment of a request, or the response if its handler does not run.
    pub(super) async fn admit<I>(
        &self,
        request: &mut Request<I>,
    ) -> Result<AdmittedRequest, BoxedResponse> {
        if rules::is_preflight(request) {
            return Err(Box::new(responses::preflight()));
        }
        let resource = self.resource(request);
        if let Some(name) = too_long(request.headers()) {
            return Err(Box::new(responses::too_long(name)));
        }
        let presented = ClientPayment::from_headers(payments(request.headers()));
        hide_payments(request);
        if !rules::is_sold(request.method()) {
            let method = request.method().as_str();
            let refusal = self.seller.decline(method, &resource, presented).await;
            return Err(refused(refusal));
        }
        let client: Option<IpAddr> = address::client(request, self.proxies);
        self.seller.check_address(client);
        let fingerprint = RequestFingerprint::new(request, &resource.url, client);
        let identifier = self.identifier(&presented).map_err(refused)?;
        let reserved = self.seller.reserve(presented, resource).await;
        let mut reserved = reserved.map_err(refused)?;
        let key = fingerprint.with_payment(reserved.payment());
        let outlives_process = fingerprint.outlives_process();
        self.seller.name_sale(&mut reserved, &key, outlives_process);
        let key = fingerprint.is_redeliverable().then_some(key);
        let identifier = match identifier {
            Some(identifier) => {
                let key = fingerprint.of_any_client(reserved.payment());
                Some(self.reserve_identifier(identifier, key)?)
            }
            None => None,
        };
        if let Some(response) = key.and_then(|key| self.undelivered.take(key)) {
            return Err(Box::new(response));
        }
        let admission = match reserved.settles_first() {
            true => Admission::Reserved(Box::new(reserved), client),
            // A client that disconnects before its handler begins is not charged.
            false => {
                let sale = self.seller.open(reserved, client).await;
                Admission::Open(Box::new(sale.map_err(refused)?))
            }
        };
        let repetition = Repetition { identifier, key };
        Ok(AdmittedRequest {
            admission,
            repetition,
        })
    }

    /// The buyer's name for the payment, if the seller reads such names.
    fn identifier(
        &self,
        presented: &Result<Option<ClientPayment>, Refusal>,
    ) -> Result<Option<PaymentIdentifier>, SaleRefusal> {
        match (self.seller.identifiers, presented) {
            (Some(policy), Ok(Some(payment))) => {
                policy.identifier(payment).map_err(SaleRefusal::Malformed)
            }
            _ => Ok(None),
        }
    }

    /// Reserves the name of a payment, before the payment is verified.
    fn reserve_identifier(
        &self,
        identifier: PaymentIdentifier,
        key: SaleKey,
    ) -> Result<ReservedIdentifier, BoxedResponse> {
        match self.identified.reserve(identifier, key) {
            Identified::New(reserved) => Ok(reserved),
            Identified::Repeated(response) => Err(Box::new(response)),
            Identified::Conflict => Err(refused(SaleRefusal::IdentifierConflict)),
            Identified::InProgress => {
                let problem = "another request with this payment-identifier is being served";
                Err(refused(SaleRefusal::Unavailable(Fault::new(
                    FaultKind::Busy,
                    problem,
                ))))
            }
        }
    }

    pub(super) async fn open(&self, admission: Admission) -> Result<Sale, BoxedResponse> {
        match admission {
            Admission::Open(sale) => Ok(*sale),
            Admission::Reserved(reserved, client) => {
                self.seller.open(*reserved, client).await.map_err(refused)
            }
        }
    }

    /// Runs the handler, and charges the sale if the handler succeeds. Otherwise cancels the sale.
    /// A payment that buys nothing runs no handler.
    async fn serve<S, I, O>(
        &self,
        handler: S,
        mut request: Request<I>,
        sale: Sale,
        repetition: Repetition,
    ) -> Result<Response<ResponseBody>, S::Error>
    where
        S: Service<Request<I>, Response = Response<O>>,
        O: http_body::Body<Data = Bytes> + Send + 'static,
        O::Error: Into<BoxedBodyError>,
    {
        if let Some(body) = sale.acknowledgement() {
            return Ok(self.acknowledge(sale, repetition, &body).await);
        }
        request.extensions_mut().insert(sale.verified().clone());
        let seller = &self.seller;
        let running = AssertUnwindSafe(self.run(handler, request)).catch_unwind();
        match running.await {
            Ok(HandlerResult::Sold(response, body, charge)) => {
                Ok(self.charge(sale, repetition, response, body, charge).await)
            }
            Ok(HandlerResult::NotSold(response, detail)) => {
                Ok(not_charged(seller, sale, response, detail).await)
            }
            Ok(HandlerResult::Threw(error)) => {
                let detail = "the handler failed".to_owned();
                let reason = CancelReason::HandlerThrew;
                seller.cancel(&sale, reason, detail).await;
                Err(error)
            }
            Err(panic) => {
                let detail = "the handler panicked".to_owned();
                let reason = CancelReason::HandlerThrew;
                seller.cancel(&sale, reason, detail).await;
                // A layer outside of this one may catch panics.
                std::panic::resume_unwind(panic)
            }
        }
    }

    /// Charges a sale that buys nothing, and answers with this body.
    pub(super) async fn acknowledge(
        &self,
        sale: Sale,
        repetition: Repetition,
        body: &Object,
    ) -> Response<ResponseBody> {
        let (response, body) = responses::acknowledged(body);
        let body = SaleBody::Complete(body);
        self.charge(sale, repetition, response, body, None).await
    }

    /// Runs the handler, and reads its response as far as the charge has to wait for it.
    async fn run<S, I, O>(&self, mut handler: S, request: Request<I>) -> HandlerResult<S::Error>
    where
        S: Service<Request<I>, Response = Response<O>>,
        O: http_body::Body<Data = Bytes> + Send + 'static,
        O::Error: Into<BoxedBodyError>,
    {
        let response = match handler.call(request).await {
            Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
            Err(error) => return HandlerResult::Threw(error),
        };
        let (mut head, body) = response.into_parts();
        let charge = overrides::take_charge(&mut head.headers, &mut head.extensions);
        if !rules::is_charged(head.status) {
            let status = head.status.as_u16();
            let detail = format!("a response with status {status} is not charged");
            return HandlerResult::NotSold(Response::from_parts(head, body), detail);
        }
        let charge = match charge {
            Ok(charge) => charge,
            Err(error) => {
                error!(error, "a handler's charge cannot be read");
                return HandlerResult::not_served("the handler's charge cannot be read");
            }
        };
        match self.read(body).await {
            Ok(body) => HandlerResult::Sold(Response::from_parts(head, ()), body, charge),
            Err(message) => HandlerResult::not_served(message),
        }
    }

    /// Reads the body of a handler's response, as far as settlement has to wait for it.
    async fn read(&self, body: ResponseBody) -> Result<SaleBody, &'static str> {
        match buffer(body, self.buffer).await {
            BufferOutcome::Complete(body) => Ok(SaleBody::Complete(body)),
            BufferOutcome::Large(body) => match self.large_body {
                LargeBody::SettleFirst => Ok(SaleBody::Streamed(body)),
                LargeBody::Refuse => Err("the response is too long or too slow to buffer"),
            },
            BufferOutcome::Failed(error) => {
                warn!(%error, "the body of a handler's response ended early");
                Err("the body of the response ended early")
            }
        }
    }

    /// Charges the sale. The handler's response is sent only if that succeeds.
    async fn charge(
        &self,
        mut sale: Sale,
        mut repetition: Repetition,
        response: Response<()>,
        body: SaleBody,
        charge: Option<Charge>,
    ) -> Response<ResponseBody> {
        repetition.bind();
        // A connection that has changed its protocol cannot be delivered twice.
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            repetition = Repetition {
                identifier: None,
                key: None,
            };
        }
        let receipt = match self.seller.charge(&mut sale, charge.as_ref()).await {
            Ok(receipt) => receipt,
            Err(ChargeError::Refused(refusal)) => return responses::refusal(refusal),
            Err(ChargeError::Pending(pending)) => {
                return self.finish_later(sale, *pending, repetition, response, body);
            }
            Err(ChargeError::Impossible(error)) => {
                error!(%error, "a handler's charge is not possible");
                let message = "the handler's charge is not possible";
                let response = responses::not_served(message);
                return not_charged(&self.seller, sale, response, message.to_owned()).await;
            }
        };
        let response = with_receipt(response, &receipt);
        match body {
            SaleBody::Streamed(body) => response.map(|()| body),
            SaleBody::Complete(body) => store(&self.undelivered, repetition, response, body),
        }
    }

    /// 202, if the seller wants that: the response is stored once its payment has settled, and is
    /// delivered to the client that presents the same payment again.
    ///
    /// A sale with a deposit goes on without a response, too, because the deposit is to be claimed
    /// or returned.
    fn finish_later(
        &self,
        mut sale: Sale,
        pending: PendingCharge,
        repetition: Repetition,
        response: Response<()>,
        body: SaleBody,
    ) -> Response<ResponseBody> {
        let room = self.pending.as_ref();
        let room = room.and_then(|room| Arc::clone(room).try_acquire_owned().ok());
        let stored = match (body, room) {
            (SaleBody::Complete(body), Some(room)) if repetition.is_stored() => {
                Some((repetition, body, room))
            }
            _ => None,
        };
        let answer = match &stored {
            Some(_) => responses::accepted(sale.url(), &pending.receipt),
            None => responses::refusal(pending.refusal(&sale)),
        };
        if stored.is_none() && !sale.has_deposit() {
            return answer;
        }
        let (seller, undelivered) = (self.seller.clone(), self.undelivered.clone());
        let wait = async move {
            let receipt = seller.await_charge(&mut sale, pending).await;
            if let (Some(receipt), Some((repetition, body, _room))) = (receipt, stored) {
                // Dropping a response that is not delivered stores it.
                let response = with_receipt(response, &receipt);
                drop(store(&undelivered, repetition, response, body));
            }
            drop(sale);
        };
        tokio::spawn(wait.instrument(Span::current()));
        answer
    }

    pub(super) fn resource<I>(&self, request: &Request<I>) -> ResourceInfo {
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

/// The response, stored for a repeated request.
fn store(
    undelivered: &UndeliveredResponses,
    repetition: Repetition,
    response: Response<()>,
    body: BufferedBody,
) -> Response<ResponseBody> {
    match (repetition.identifier, repetition.key) {
        (Some(identifier), _) => {
            identifier.store(StoredResponse::new(&response, &body));
            response.map(|()| body.boxed_unsync())
        }
        (None, Some(key)) => undelivered.track(key, response, body),
        (None, None) => response.map(|()| body.boxed_unsync()),
    }
}

/// The URI as the client sent it. Nested routers remove their prefix from the request's URI.
fn original_uri<I>(request: &Request<I>) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(original)) = request.extensions().get() {
        return original;
    }
    request.uri()
}

/// The payment headers of a request, version 2 before version 1.
pub(super) fn payments(headers: &HeaderMap) -> impl Iterator<Item = (&'static str, &[u8])> {
    PAYMENT_HEADERS.into_iter().flat_map(|name| {
        let values = headers.get_all(name).iter();
        values.map(move |value| (name, value.as_bytes()))
    })
}

/// The name of a payment header that is longer than the limit.
fn too_long(headers: &HeaderMap) -> Option<&'static str> {
    let mut payments = payments(headers);
    let found = payments.find(|(_, value)| value.len() > quittance_core::wire::header::VALUE_MAX);
    found.map(|(name, _)| name)
}

/// Marks payments as sensitive, so that they are not logged or compressed with the other headers.
fn hide_payments<I>(request: &mut Request<I>) {
    for name in PAYMENT_HEADERS {
        if let Some(value) = request.headers_mut().get_mut(name) {
            value.set_sensitive(true);
        }
    }
}

fn refused(refusal: SaleRefusal) -> BoxedResponse {
    Box::new(responses::refusal(refusal))
}

/// A paid response with its receipt.
pub(super) fn with_receipt(response: Response<()>, receipt: &SaleReceipt) -> Response<()> {
    responses::with_receipt(responses::private(response), receipt)
}

impl<E> HandlerResult<E> {
    /// A response that cannot be sent.
    fn not_served(message: &str) -> Self {
        Self::NotSold(responses::not_served(message), message.to_owned())
    }
}

/// A response that is not charged. Its receipt says what became of the payment.
pub(super) async fn not_charged(
    seller: &Seller,
    sale: Sale,
    response: Response<ResponseBody>,
    detail: String,
) -> Response<ResponseBody> {
    let reason = CancelReason::HandlerFailed;
    let receipt = seller.cancel(&sale, reason, detail).await;
    responses::with_receipt(responses::private(response), &receipt)
}

/// The response if a sale's task failed: its handler panicked, or the runtime shuts down.
pub(super) fn task_failed(error: JoinError) -> Response<ResponseBody> {
    let fault = Fault::new(FaultKind::Internal, &error);
    if let Ok(panic) = error.try_into_panic() {
        // A layer outside of this one may catch panics.
        std::panic::resume_unwind(panic);
    }
    responses::refusal(SaleRefusal::Unavailable(fault))
}
