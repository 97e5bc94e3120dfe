//! The layer and the service it makes: what a seller puts on a route.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use quittance_core::{Facilitator, FacilitatorError, Fault, FaultKind, Offer};
use tower::{Layer, Service, service_fn};
use tower_http::cors::CorsLayer;

use crate::buffered::{Body, BodyError};
use crate::clients::Limit;
use crate::sale::{Shared, Shop};
use crate::terms;

/// How much of a handler's answer is read before it is charged for, unless told otherwise: more than nearly all answers
/// of APIs have, and little enough to hold for a thousand requests at once.
const BUFFER: usize = 1024 * 1024;

/// A layer that lets a request through only with a payment, and its answer out only when the payment has settled.
///
/// A request without payment is answered 402 with the ways to pay. A payment is verified before the handler runs and
/// settled after it, and only if the handler's answer is no error and could be read to its end: nobody pays for a failure.
/// If settling fails, the handler's answer is thrown away: nobody is served for nothing. Answers are marked
/// `Cache-Control: no-store`, because a cache between would serve them to everybody.
///
/// A sale does not end with its client. The handler, reading its answer and settling run in a task of their own: a client
/// that hangs up when the handler has begun is charged for what it does. Its answer is kept for two
/// minutes, and given out once to the client that presents the same payment with the same request
/// (URL, credentials, and address where it is known). A payment that is presented again while it is being
/// served is answered 503, `Retry-After: 1`. One whose handler ran and which was not settled, may
/// be presented again, and if it still verifies **its handler runs again**: a handler whose deeds must not be done twice
/// needs a key of its own to know them by.
///
/// Payments are told apart by their authorization ([`Offer::authorization`]), in this process and
/// among clones of this layer. A client that presents one payment to several routes with layers of
/// their own, or to several servers, runs one handler on each, and one of them is paid.
///
/// An answer is read up to a megabyte, or [as much as you say](Self::buffer), before it is charged for. A longer one, or
/// one that takes more than ten seconds, is settled first and then streamed: should it break off, it is paid for all the
/// same. [`Longer::Refuse`] answers 500 instead, and charges nothing.
///
/// Only what delivers something is sold. `HEAD`, `OPTIONS` and `TRACE` are answered with the terms
/// and never reach the handler; an answer 304 is let out and not charged for, as are 4xx and 5xx. All
/// others are charged for: 204, because the deed is done, and redirects, because where they lead may
/// be what is sold.
///
/// A preflight (`OPTIONS` with `Origin` and `Access-Control-Request-Method`) never reaches the handler
/// either. [`cors`](Self::cors) says what it is answered.
///
/// A client whose payments do not settle is answered 429 after a while, so that it does not use up
/// what the facilitator allows this seller: see [`clients`](Self::clients).
///
/// Clones share what is known of the facilitator and of clients, and which payments are being served.
///
/// ```
/// use std::sync::Arc;
/// use axum::{Router, routing::get};
/// use quittance_core::Offer;
/// use quittance_http::RemoteFacilitator;
/// use quittance_seller::PaymentLayer;
///
/// # fn shop(offer: impl Offer) -> Result<Router, Box<dyn std::error::Error>> {
/// let facilitator = Arc::new(RemoteFacilitator::new("https://facilitator.example")?);
/// let price = PaymentLayer::new(facilitator).accept(offer).description("Tomorrow's weather");
/// let app = Router::new().route("/forecast", get(|| async { "sunny" }).layer(price));
/// # Ok(app)
/// # }
/// ```
#[derive(Clone)]
pub struct PaymentLayer {
    shop: Arc<Shop>,
}

/// What happens to a handler's answer that is longer than the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Longer {
    /// It is settled first, and then streamed.
    #[default]
    SettleFirst,
    /// It is not sent, and not charged for.
    Refuse,
}

/// Who paid for a request, for its handler: in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaidBy {
    /// Who pays, as the facilitator says.
    pub payer: Option<String>,
    /// The network, as the requirements name it.
    pub network: String,
    /// The asset.
    pub asset: String,
    /// How much, in atomic units.
    pub amount: String,
}

impl PaymentLayer {
    /// A layer without a price yet, whose payments this facilitator settles.
    pub fn new(facilitator: Arc<dyn Facilitator>) -> Self {
        Self {
            shop: Arc::new(Shop {
                facilitator,
                offers: Vec::new(),
                description: None,
                mime_type: None,
                origin: None,
                buffer: BUFFER,
                longer: Longer::default(),
                limit: Limit::default(),
                cors: None,
                shared: Arc::new(Shared::default()),
            }),
        }
    }

    /// Adds a way to pay. The client chooses one; those the facilitator cannot settle now are not shown.
    #[must_use]
    pub fn accept(self, offer: impl Offer) -> Self {
        self.change(|shop| shop.offers.push(Arc::new(offer)))
    }

    /// Says what is being sold, for people.
    #[must_use]
    pub fn description(self, description: &str) -> Self {
        self.change(|shop| shop.description = Some(description.to_owned()))
    }

    /// Says what MIME type the answer has.
    #[must_use]
    pub fn mime_type(self, mime_type: &str) -> Self {
        self.change(|shop| shop.mime_type = Some(mime_type.to_owned()))
    }

    /// Says under which origin clients see this server, such as `https://api.example.com`; without it, what their
    /// `Host` header says, over plain HTTP.
    #[must_use]
    pub fn origin(self, origin: &str) -> Self {
        self.change(|shop| shop.origin = Some(origin.trim_end_matches('/').to_owned()))
    }

    /// Says how many bytes of a handler's answer are read before it is charged for, and what happens to a longer one.
    #[must_use]
    pub fn buffer(self, bytes: usize, longer: Longer) -> Self {
        self.change(|shop| {
            shop.buffer = bytes;
            shop.longer = longer;
        })
    }

    /// Says how many payments one client may present without success, and how clients are told apart.
    ///
    /// `per_minute` and `burst` (60 and 60 unless told otherwise; 0 a minute for no limit) count
    /// payments that the facilitator was asked about and that did not settle. A sale costs nothing.
    /// Beyond that the client is answered 429 with `Retry-After`, and no facilitator is asked.
    ///
    /// A client is an IPv4 address or an IPv6 network of 64 bits. Its address is the connection's, for
    /// which the server must know it: `axum::serve(listener,
    /// app.into_make_service_with_connect_info::<SocketAddr>())`. Behind proxies all clients would
    /// have one address: `proxies` says how many in a row append to `X-Forwarded-For`. Without
    /// proxies leave it at 0, because the header would be whatever a client likes. Where no address is
    /// known nothing is limited, and the log says so once.
    #[must_use]
    pub fn clients(self, per_minute: u32, burst: u32, proxies: usize) -> Self {
        self.change(|shop| {
            shop.limit = Limit {
                per_minute,
                burst,
                proxies,
            }
        })
    }

    /// Answers browsers' preflights, and lets pages read the protocol's headers: usually
    /// [`cors()`](crate::cors).
    ///
    /// A CORS layer of your own works too, if it is *outside* of this one (added after it) and exposes
    /// [`exposed_headers`](crate::exposed_headers). Inside of it, it would see neither preflights nor
    /// the answers 402.
    ///
    /// # Panics
    /// Where the CORS layer allows credentials together with any origin, method, header or exposed
    /// header, which browsers refuse.
    #[must_use]
    pub fn cors(self, cors: CorsLayer) -> Self {
        // This makes the check that would otherwise panic with the first request.
        let _ = cors.layer(());
        self.change(|shop| shop.cors = Some(cors))
    }

    /// Asks the facilitator whether each offer can be sold by now. For a program's start: without it,
    /// what is wrong shows in the answers 503 and in the log.
    ///
    /// # Errors
    /// The first problem: the facilitator does not answer, there is no offer, or an offer is not settled
    /// by it or cannot be made with what it says.
    pub async fn check(&self) -> Result<(), Fault> {
        let supported = self.shop.facilitator.supported().await;
        let supported = supported.map_err(|error| match error {
            FacilitatorError::Fault(fault) => fault,
            FacilitatorError::Malformed(malformed) => {
                Fault::new(FaultKind::FacilitatorUnreachable, malformed)
            }
        })?;
        let problems = terms::problems(&self.shop.offers, &supported);
        problems.into_iter().next().map_or(Ok(()), Err)
    }

    fn change(self, change: impl FnOnce(&mut Shop)) -> Self {
        // A clone of this layer may be at work already; it stays as it is.
        let mut shop = Arc::unwrap_or_clone(self.shop);
        change(&mut shop);
        Self {
            shop: Arc::new(shop),
        }
    }
}

impl fmt::Debug for PaymentLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PaymentLayer({} offers)", self.shop.offers.len())
    }
}

impl<S> Layer<S> for PaymentLayer {
    type Service = PaymentService<S>;

    fn layer(&self, inner: S) -> PaymentService<S> {
        PaymentService {
            inner,
            shop: Arc::clone(&self.shop),
        }
    }
}

/// A service behind a [`PaymentLayer`].
#[derive(Clone)]
pub struct PaymentService<S> {
    inner: S,
    shop: Arc<Shop>,
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
    I::Error: Into<BodyError>,
    O: http_body::Body<Data = Bytes> + Send + 'static,
    O::Error: Into<BodyError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        // The service that was polled ready is the one to call; the clone waits for its turn.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let shop = Arc::clone(&self.shop);
        let Some(cors) = self.shop.cors.clone() else {
            return Box::pin(shop.sell(inner, request));
        };
        let mut ready = Some(inner);
        let sell = service_fn(move |request| {
            let inner = ready.take().expect("each request has a service of its own");
            Arc::clone(&shop).sell(inner, request)
        });
        Box::pin(cors.layer(sell).call(request))
    }
}
