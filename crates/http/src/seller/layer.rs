//! The layer and the service it makes: what a seller puts on a route.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use quittance_core::{Facilitator, Offer};
use tower::{Layer, Service};

use super::buffered::{Body, BodyError};
use super::sale::Shop;
use super::supported::Supported;
use super::under_way::UnderWay;

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
/// that hangs up when the handler has begun is charged for what it does. A payment that is presented again while it is being
/// served is answered 503, `Retry-After: 1`. One whose handler ran and whose answer was lost, or which was not settled, may
/// be presented again, and if it still verifies **its handler runs again**: a handler whose deeds must not be done twice
/// needs a key of its own to know them by.
///
/// An answer is read up to a megabyte, or [as much as you say](Self::buffer), before it is charged for. A longer one, or
/// one that takes more than ten seconds, is settled first and then streamed: should it break off, it is paid for all the
/// same. [`Longer::Refuse`] answers 500 instead, and charges nothing.
///
/// A preflight (`OPTIONS` with `Origin` and `Access-Control-Request-Method`) is not charged for, so that browsers can ask what
/// they may do (CORS). Of the handler's answer only the status, `Access-Control-*`, `Allow` and `Vary` are let out.
///
/// Clones share what is known of the facilitator, and which payments are being served.
///
/// ```
/// use std::sync::Arc;
/// use axum::{Router, routing::get};
/// use quittance_core::Offer;
/// use quittance_http::{PaymentLayer, RemoteFacilitator};
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
                supported: Arc::new(Supported::default()),
                under_way: UnderWay::default(),
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
    I: Send + 'static,
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
        Box::pin(shop.sell(inner, request))
    }
}
