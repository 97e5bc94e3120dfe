//! The layer that a seller puts on a route, and its service.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use quittance_core::{Clock, Facilitator, Fault, Offer};
use tokio::sync::Semaphore;
use tower::{Layer, Service, service_fn};
use tower_http::cors::CorsLayer;

use super::body::{BoxedBodyError, ResponseBody};
use super::identified::IdentifiedSales;
use super::service::SellerConfig;
use super::undelivered::UndeliveredResponses;
use crate::limit::ClientLimit;
use crate::sale::{IdentifierPolicy, Seller};
use crate::sale_ids::SaleSecret;
use crate::stream::{StreamLimits, Streams};

/// How many bytes of a handler's response are buffered by default. It is more than nearly all
/// responses of APIs have, and small enough for a thousand requests at once.
const BUFFER: usize = 1024 * 1024;

/// How many responses wait for their pending payments: as many of the largest that are buffered by
/// default as are stored for clients that have disconnected.
const PENDING_MAX: usize = 60;

/// A layer that accepts a request only with a payment, and sends its response only after
/// settlement.
///
/// A request without a payment is answered 402 with the payment options. A payment is verified
/// before the handler runs. It is settled after the handler, and only if the response is not an
/// error and could be read completely. A failure costs the client nothing. If settlement fails, the
/// handler's response is discarded. Responses are marked `Cache-Control: no-store`, because a
/// shared cache would serve them to other clients.
///
/// A sale continues without its client. The handler, reading its response and settlement run in a
/// task of their own, so a client that disconnects after the handler began is charged. Its response
/// is stored for two minutes. It is delivered once, to a client that presents the same payment with
/// the same request (URL, credentials, and address if it is known). A payment that is presented
/// again while it is being served is answered 503 with `Retry-After: 1`. A payment that was not
/// settled may be presented again. If it is still valid, **its handler runs again**: a handler that
/// must not act twice needs an idempotency key of its own.
///
/// Payments are identified by their authorization ([`Offer::authorization`]), in this process and
/// among clones of this layer. A client can present one payment to several routes with separate
/// layers, or to several servers. Each then runs its handler, and only one of them is paid.
///
/// A response is buffered up to 1 MiB, or up to [your limit](Self::buffer), before settlement. A
/// larger one, or one that takes more than ten seconds, is settled first and then streamed: it is
/// charged even if it ends early. [`LargeBody::Refuse`] answers 500 instead, without a charge.
///
/// `HEAD`, `OPTIONS` and `TRACE` deliver nothing. They are answered with the payment options and
/// never reach the handler. Responses with status 304, 4xx or 5xx are sent without a charge. All
/// others are charged: 204 because the client paid for the action, and redirects because it may
/// have paid for their location.
///
/// A preflight (`OPTIONS` with `Origin` and `Access-Control-Request-Method`) never reaches the
/// handler either. [`cors`](Self::cors) sets its response.
///
/// A client whose payments do not settle gets 429 after a while. Otherwise it could use up the
/// facilitator's rate limit for this seller: see [`clients`](Self::clients).
///
/// Clones share the cached state of the facilitator, the limits of clients and the reserved
/// payments.
///
/// ```
/// use std::sync::Arc;
/// use axum::{Router, routing::get};
/// use quittance_core::Offer;
/// use quittance_http::RemoteFacilitator;
/// use quittance_seller::PaymentLayer;
///
/// # fn routes(offer: impl Offer) -> Result<Router, Box<dyn std::error::Error>> {
/// let facilitator = Arc::new(RemoteFacilitator::new("https://facilitator.example")?);
/// let price = PaymentLayer::new(facilitator).accept(offer).description("Tomorrow's weather");
/// let app = Router::new().route("/forecast", get(|| async { "sunny" }).layer(price));
/// # Ok(app)
/// # }
/// ```
#[derive(Clone)]
pub struct PaymentLayer {
    config: Arc<SellerConfig>,
}

/// What happens to a handler's response that is larger than the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LargeBody {
    /// The payment is settled first, and then the response is streamed.
    #[default]
    SettleFirst,
    /// The response is not sent, and not charged.
    Refuse,
}

impl PaymentLayer {
    /// A layer without a price yet. The given facilitator settles its payments.
    pub fn new(facilitator: Arc<dyn Facilitator>) -> Self {
        Self {
            config: Arc::new(SellerConfig {
                seller: Seller::new(facilitator),
                description: None,
                mime_type: None,
                origin: None,
                buffer: BUFFER,
                large_body: LargeBody::default(),
                proxies: 0,
                cors: None,
                undelivered: UndeliveredResponses::default(),
                identified: IdentifiedSales::default(),
                pending: None,
                streams: None,
            }),
        }
    }

    /// Adds a payment option. The client chooses one. Options that the facilitator cannot settle
    /// now are not offered.
    #[must_use]
    pub fn accept(self, offer: impl Offer) -> Self {
        self.change(|config| config.seller.offers.push(Arc::new(offer)))
    }

    /// Sets the description of what is sold, for people.
    #[must_use]
    pub fn description(self, description: &str) -> Self {
        self.change(|config| config.description = Some(description.to_owned()))
    }

    /// Sets the MIME type of the response.
    #[must_use]
    pub fn mime_type(self, mime_type: &str) -> Self {
        self.change(|config| config.mime_type = Some(mime_type.to_owned()))
    }

    /// Sets the origin under which clients see this server, such as `https://api.example.com`. The
    /// default is their `Host` header, over plain HTTP.
    #[must_use]
    pub fn origin(self, origin: &str) -> Self {
        self.change(|config| config.origin = Some(origin.trim_end_matches('/').to_owned()))
    }

    /// Sets how many bytes of a handler's response are buffered before settlement, and what happens
    /// to a larger one.
    #[must_use]
    pub fn buffer(self, bytes: usize, large_body: LargeBody) -> Self {
        self.change(|config| {
            config.buffer = bytes;
            config.large_body = large_body;
        })
    }

    /// Limits the unsuccessful payments of one client.
    ///
    /// `per_minute` and `burst` (60 and 60 by default; 0 per minute for no limit) count payments
    /// that the facilitator verified and that did not settle. A client over the limit is answered
    /// 429 with `Retry-After`, without a request to the facilitator.
    ///
    /// A client is an IPv4 address or an IPv6 network of 64 bits. Its address is the connection's,
    /// which the server must provide: `axum::serve(listener,
    /// app.into_make_service_with_connect_info::<SocketAddr>())`. Behind proxies, all clients would
    /// have one address: `proxies` is the number of proxies in a row that append to
    /// `X-Forwarded-For`. Without proxies leave it at 0, because clients can send that header
    /// themselves. Clients without a known address are not limited, and a warning is logged once.
    #[must_use]
    pub fn clients(self, per_minute: u32, burst: u32, proxies: usize) -> Self {
        self.change(|config| {
            config.seller.limit = ClientLimit { per_minute, burst };
            config.proxies = proxies;
        })
    }

    /// Lets buyers name their payments: the extension `payment-identifier`.
    ///
    /// A name is reserved before its payment is verified. For a day after money may have moved, the
    /// same request with the same payment and the same name gets the same response again, and never
    /// runs its handler again. Another request or another payment with the name gets 409. While the
    /// first request is served, the answer to the others is 503 with `Retry-After: 1`.
    ///
    /// The names of the last day, at most 100,000, and 64 MiB of their responses are in memory. If
    /// a response is not stored (any more), the answer is the transaction in a 402 response. A body
    /// of a request is compared by `Content-Length` and `Content-Digest` only.
    #[must_use]
    pub fn payment_identifiers(self) -> Self {
        self.change(|config| config.seller.identifiers = Some(IdentifierPolicy::Optional))
    }

    /// As [`payment_identifiers`](Self::payment_identifiers). A payment without a name gets 400,
    /// and nothing is offered in version 1 of the protocol, which has no extensions.
    #[must_use]
    pub fn require_payment_identifiers(self) -> Self {
        self.change(|config| config.seller.identifiers = Some(IdentifierPolicy::Required))
    }

    /// Sets the clock; the operating system's clock without it.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        self.change(|config| config.identified.clock = clock)
    }

    /// Lets sales outlive a restart of the seller. `secret` is random, is the same at every start,
    /// and in all processes that sell the same. The default is a secret of the process.
    ///
    /// If the seller fails between the settlement and its answer, the same request with the same
    /// payment is served by the next process: a Quittance facilitator reports the success again.
    /// The handler then runs again. Such a request comes from the same address, if it is known; a
    /// request with a body carries `Content-Digest`.
    ///
    /// For ten minutes after its start, a process serves a payment once more that an earlier one
    /// has served, because it cannot know that. `docs/selling.md` says more.
    #[must_use]
    pub fn sale_secret(self, secret: [u8; 32]) -> Self {
        self.change(|config| config.seller.secret = Some(SaleSecret::new(secret)))
    }

    /// Answers 202 if a payment is still pending after its handler has succeeded. Without this, the
    /// answer is 402 and the handler's response is discarded.
    ///
    /// The response has the receipt, `Location` and `Retry-After`. The layer goes on asking for the
    /// outcome, for two minutes. Meanwhile, the same request with the same payment is answered 503.
    /// After the settlement it gets the handler's response, once, as a client that had disconnected
    /// does. At most 60 responses wait at a time; they are those that fit into the buffer.
    #[must_use]
    pub fn answer_pending(self) -> Self {
        self.change(|config| config.pending = Some(Arc::new(Semaphore::new(PENDING_MAX))))
    }

    /// Sells responses that are paid tick by tick while they run. A tick costs the price.
    ///
    /// The handler finds a [`Meter`](crate::Meter) in the request's extensions, and waits for its
    /// next tick before each chunk. The response begins after the first tick is charged. Each
    /// further tick is a `POST` to the same URL with the header `PAYMENT-STREAM` of the response.
    /// It is charged before the handler gets it, so a chunk leaves only after its payment is
    /// durable. If an offer names what its payments share ([`Offer::serial`]), such as a channel,
    /// then that pays for one stream at a time.
    ///
    /// Responses are not buffered and not stored. A handler cannot charge another amount for a
    /// tick.
    #[must_use]
    pub fn streaming(self, limits: StreamLimits) -> Self {
        self.change(|config| config.streams = Some(Streams::new(limits)))
    }

    /// Answers preflights, and lets pages in browsers read the protocol's headers: usually
    /// [`cors()`](crate::cors).
    ///
    /// Your own CORS layer works too, if it is *outside* of this one (added after it) and exposes
    /// [`exposed_headers`](crate::exposed_headers). Inside, it would get neither preflights nor the
    /// 402 responses.
    ///
    /// # Panics
    /// If the CORS layer allows credentials together with any origin, method, header or exposed
    /// header, which browsers refuse.
    #[must_use]
    pub fn cors(self, cors: CorsLayer) -> Self {
        // Without this call, the check would panic at the first request.
        let _ = cors.layer(());
        self.change(|config| config.cors = Some(cors))
    }

    /// Asks the facilitator whether each offer can be sold now. Call it when the program starts.
    /// Otherwise, problems appear only in 503 responses and in the log.
    ///
    /// # Errors
    /// The first problem: the facilitator does not answer, there is no offer, the facilitator does
    /// not settle an offer, or an offer lacks something in the facilitator's response.
    pub async fn check(&self) -> Result<(), Fault> {
        self.config.seller.check().await
    }

    fn change(self, change: impl FnOnce(&mut SellerConfig)) -> Self {
        // A clone of this layer may be in use; it does not change.
        let mut config = Arc::unwrap_or_clone(self.config);
        change(&mut config);
        Self {
            config: Arc::new(config),
        }
    }
}

impl fmt::Debug for PaymentLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PaymentLayer({} offers)",
            self.config.seller.offers.len()
        )
    }
}

impl<S> Layer<S> for PaymentLayer {
    type Service = PaymentService<S>;

    fn layer(&self, inner: S) -> PaymentService<S> {
        PaymentService {
            inner,
            config: Arc::clone(&self.config),
        }
    }
}

/// A service behind a [`PaymentLayer`].
#[derive(Clone)]
pub struct PaymentService<S> {
    inner: S,
    config: Arc<SellerConfig>,
}

impl<S> fmt::Debug for PaymentService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PaymentService")
    }
}

impl<S, I, O> Service<Request<I>> for PaymentService<S>
where
    S: Service<Request<I>, Response = Response<O>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    I: http_body::Body<Data = Bytes> + Send + 'static,
    I::Error: Into<BoxedBodyError>,
    O: http_body::Body<Data = Bytes> + Send + 'static,
    O::Error: Into<BoxedBodyError>,
{
    type Response = Response<ResponseBody>;
    type Error = S::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        // The service that was polled ready is called. Its clone has to be polled first.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let config = Arc::clone(&self.config);
        let Some(cors) = self.config.cors.clone() else {
            return Box::pin(config.sell(inner, request));
        };
        let mut ready = Some(inner);
        let sell = service_fn(move |request| {
            let inner = ready.take().expect("this service is called once");
            Arc::clone(&config).sell(inner, request)
        });
        Box::pin(cors.layer(sell).call(request))
    }
}
