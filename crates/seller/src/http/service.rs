//! The steps of a paid request: admit, run the handler, settle, respond.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use quittance_core::wire::{ResourceInfo, Rest};
use quittance_core::{Fault, FaultKind};
use tokio::task::JoinError;
use tower::Service;
use tower_http::cors::CorsLayer;
use tracing::{Instrument, Span, warn};

use super::body::{BoxedBodyError, BufferOutcome, BufferedBody, ResponseBody, buffer};
use super::layer::LargeBody;
use super::undelivered::{self, RedeliveryKey, RequestFingerprint, UndeliveredResponses};
use super::{address, responses, rules, unread_body};
use crate::payment::{ClientPayment, PAYMENT_HEADERS};
use crate::refusal::SaleRefusal;
use crate::sale::{Sale, Seller};

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
}

/// A request whose handler may run.
struct AdmittedRequest {
    sale: Sale,
    /// `None` if the response is not stored when the client disconnects.
    key: Option<RedeliveryKey>,
}

/// The body of a response that may be sold.
enum SaleBody {
    Complete(BufferedBody),
    /// A body that is streamed after settlement.
    Streamed(ResponseBody),
}

type BoxedResponse = Box<Response<ResponseBody>>;

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
        // The sale runs in a task of its own: once the handler has begun, the client is charged
        // even if it disconnects.
        let sale = async move { self.serve(handler, request, admitted).await };
        let served = tokio::spawn(sale.instrument(Span::current())).await;
        served.unwrap_or_else(|error| Ok(task_failed(error)))
    }

    /// The sale that a request opens, or the response if its handler does not run.
    async fn admit<I>(&self, request: &mut Request<I>) -> Result<AdmittedRequest, BoxedResponse> {
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
        let reserved = self.seller.reserve(presented, resource).await;
        let reserved = reserved.map_err(refused)?;
        let key = fingerprint.map(|it| it.with_payment(reserved.payment()));
        if let Some(response) = key.and_then(|key| self.undelivered.take(key)) {
            return Err(Box::new(response));
        }
        let sale = self.seller.verify(reserved, client).await;
        let sale = sale.map_err(refused)?;
        Ok(AdmittedRequest { sale, key })
    }

    /// Runs the handler, and settles the payment if the handler succeeds.
    async fn serve<S, I, O>(
        &self,
        mut handler: S,
        mut request: Request<I>,
        admitted: AdmittedRequest,
    ) -> Result<Response<ResponseBody>, S::Error>
    where
        S: Service<Request<I>, Response = Response<O>>,
        O: http_body::Body<Data = Bytes> + Send + 'static,
        O::Error: Into<BoxedBodyError>,
    {
        let verified = admitted.sale.verified().clone();
        request.extensions_mut().insert(verified);
        let response = handler
            .call(request)
            .await?
            .map(|body| body.map_err(Into::into).boxed_unsync());
        if !rules::is_charged(response.status()) {
            return Ok(not_charged(admitted.sale, response));
        }
        let (head, body) = response.into_parts();
        Ok(match self.read(body).await {
            Ok(body) => {
                let response = Response::from_parts(head, ());
                self.settle(admitted, response, body).await
            }
            Err(message) => not_charged(admitted.sale, responses::not_served(message)),
        })
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

    /// Settles the payment. The handler's response is sent only if that succeeds.
    async fn settle(
        &self,
        admitted: AdmittedRequest,
        response: Response<()>,
        body: SaleBody,
    ) -> Response<ResponseBody> {
        let AdmittedRequest { mut sale, key } = admitted;
        let receipt = match self.seller.settle(&mut sale).await {
            Ok(receipt) => receipt,
            Err(refusal) => return responses::refusal(refusal),
        };
        let response = responses::private(response);
        let response = responses::with_receipt(response, &receipt);
        // A connection that has changed its protocol cannot be delivered twice.
        let is_final = response.status() != StatusCode::SWITCHING_PROTOCOLS;
        match (body, key.filter(|_| is_final)) {
            (SaleBody::Streamed(body), _) => response.map(|()| body),
            (SaleBody::Complete(body), None) => response.map(|()| body.boxed_unsync()),
            (SaleBody::Complete(body), Some(key)) => self.undelivered.track(key, response, body),
        }
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

/// The URI as the client sent it. Nested routers remove their prefix from the request's URI.
fn original_uri<I>(request: &Request<I>) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(original)) = request.extensions().get() {
        return original;
    }
    request.uri()
}

/// The payment headers of a request, version 2 before version 1.
fn payments(headers: &HeaderMap) -> impl Iterator<Item = (&'static str, &[u8])> {
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

/// A response that is not charged. Its receipt says that nothing was settled.
fn not_charged(sale: Sale, response: Response<ResponseBody>) -> Response<ResponseBody> {
    let status = response.status().as_u16();
    let receipt = sale.cancel(format!("a response with status {status} is not charged"));
    responses::with_receipt(responses::private(response), &receipt)
}

/// The response if a sale's task failed: its handler panicked, or the runtime shuts down.
fn task_failed(error: JoinError) -> Response<ResponseBody> {
    let fault = Fault::new(FaultKind::Internal, &error);
    if let Ok(panic) = error.try_into_panic() {
        // A layer outside of this one may catch panics.
        std::panic::resume_unwind(panic);
    }
    responses::refusal(SaleRefusal::Unavailable(fault))
}
