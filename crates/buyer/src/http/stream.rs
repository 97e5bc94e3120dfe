//! Streams: responses that are paid tick by tick while they are read.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use quittance_core::{Amount, Asset, Timestamp};
use quittance_http::PAYMENT_STREAM;
use reqwest::{Request, Response};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout_at;
use tracing::{debug, info};
use url::Url;

use super::client::{Buyer, Call, Cost, Purchase};
use super::error::{BuyError, RequestError, TransportError};
use crate::deadline::Deadline;
use crate::options::PaymentOptions;
use crate::payment::RequestId;

/// How many ticks of a stream may be charged and not counted by the seller, as after a crash of its
/// facilitator. At one more, the buyer stops.
const LOST_MAX: u32 = 1;

/// A response that is paid while it is read. Dropping it ends the stream.
///
/// The first tick is paid before the response begins. Each further tick is paid when the caller
/// reads on after a chunk. So if the stream breaks off, at most one tick was paid for nothing. A
/// caller that reads no further pays no further.
///
/// ```no_run
/// # async fn read(buyer: quittance_buyer::Buyer) -> Result<(), Box<dyn std::error::Error>> {
/// let mut stream = buyer.stream("https://api.example.com/story").await?;
/// while let Some(chunk) = stream.chunk().await? {
///     println!("{} after {} ticks", chunk.len(), stream.cost().ticks);
/// }
/// if let Some(problem) = stream.problem() {
///     println!("no more was paid: {problem}");
/// }
/// # Ok(())
/// # }
/// ```
pub struct PaidStream {
    buyer: Buyer,
    response: Response,
    cost: StreamCost,
    /// How to pay the next tick; `None` if the response is no stream, or no more is paid.
    ticks: Option<Arc<Ticks>>,
    /// A chunk has come since the last tick was paid.
    is_due: bool,
    paying: Option<JoinHandle<Result<TickAnswer, BuyError>>>,
    /// How many ticks were charged for nothing.
    lost: u32,
    problem: Option<BuyError>,
}

/// What a stream has cost so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StreamCost {
    /// How many ticks are paid, with the first one.
    pub ticks: u64,
    /// The amount that was signed, in atomic units: the most that can be charged.
    pub signed: Amount,
    /// What was charged of it, in atomic units, by the server's receipts. A receipt without an
    /// amount counts as the price.
    pub charged: Amount,
    /// The asset, as the payer knows it; `None` if the server asked for no payment.
    pub asset: Option<Asset>,
}

/// The server's answer to a tick.
enum TickAnswer {
    Paid(Box<Cost>),
    /// The stream is over. This amount was signed, and is usually not charged.
    Over(Amount),
}

/// How the ticks of one stream are paid.
struct Ticks {
    id: HeaderValue,
    url: Url,
    /// The caller's headers, without those of a body.
    headers: HeaderMap,
    /// The identity of the purchases: the ticks of one stream.
    request: RequestId,
    /// The option that pays the stream.
    options: PaymentOptions,
}

impl Buyer {
    /// Sends a GET request for a stream, and pays its first tick if the server asks for it.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn stream(&self, url: &str) -> Result<PaidStream, BuyError> {
        let url: Url = url
            .parse()
            .map_err(|error: url::ParseError| RequestError::Url(error.into()))?;
        self.execute_stream(Request::new(Method::GET, url)).await
    }

    /// Sends a request for a stream, and pays its first tick if the server asks for it. A response
    /// that is not a stream is read like any other.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn execute_stream(&self, request: Request) -> Result<PaidStream, BuyError> {
        let mut call = Call::new(request)?;
        let (purchase, options) = self.purchase(&mut call).await?;
        let Purchase { response, cost } = purchase;
        let mut stream = PaidStream {
            buyer: self.clone(),
            response,
            cost: StreamCost::default(),
            ticks: None,
            is_due: false,
            paying: None,
            lost: 0,
            problem: None,
        };
        if let (Some(cost), Some(options)) = (&cost, options) {
            stream.cost.add(cost);
            stream.ticks = Ticks::new(&call.request, &stream.response, options, cost).map(Arc::new);
        }
        Ok(stream)
    }

    /// Pays a tick of a stream for which this amount was signed so far.
    async fn pay_tick(self, ticks: Arc<Ticks>, signed: Amount) -> Result<TickAnswer, BuyError> {
        let deadline = Deadline::after(self.shared.timeout);
        let selection = self.choose(&ticks.options, ticks.request)?;
        self.shared.budget.allows_tick(signed, &selection.quote)?;
        let request = ticks.request_of(Method::POST);
        let buying = self.buy(&request, &ticks.options, &selection, deadline);
        let bought = buying.await;
        if let Err(BuyError::Used { open, .. }) = &bought {
            // A voucher that is charged for nothing. It must not be presented for the next tick.
            self.abandon(&open.id).await;
        }
        let Purchase { response, cost } = bought?;
        let cost = cost.expect("it was paid for");
        match (response.status(), &cost.open) {
            (StatusCode::GONE, open) => {
                // The next payment of the channel takes the place of a voucher. Others stay open.
                if let Some(open) = open.as_ref().filter(|it| it.expires == Timestamp::NEVER) {
                    self.abandon(&open.id).await;
                }
                Ok(TickAnswer::Over(cost.amount))
            }
            (_, None) => Ok(TickAnswer::Paid(Box::new(cost))),
            (status, Some(open)) => Err(BuyError::Refused {
                reason: format!("the server answered HTTP {}", status.as_u16()),
                receipt: cost.receipt.clone().map(Box::new),
                open: Box::new(open.clone()),
            }),
        }
    }
}

impl Ticks {
    /// `None` if the response is not a stream.
    fn new(
        request: &Request,
        response: &Response,
        mut options: PaymentOptions,
        paid: &Cost,
    ) -> Option<Self> {
        let id = response.headers().get(PAYMENT_STREAM)?.clone();
        let mut url = request.url().clone();
        url.set_fragment(None);
        let mut headers = request.headers().clone();
        for name in [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE] {
            headers.remove(name);
        }
        headers.insert(PAYMENT_STREAM, id.clone());
        options.keep_like(&paid.requirements);
        Some(Self {
            request: RequestId::new(Method::POST.as_str(), url.as_str(), id.as_bytes()),
            id,
            url,
            headers,
            options,
        })
    }

    fn request_of(&self, method: Method) -> Request {
        let mut request = Request::new(method, self.url.clone());
        request.headers_mut().clone_from(&self.headers);
        request
    }
}

impl StreamCost {
    fn add(&mut self, paid: &Cost) {
        let charged = paid.charged.unwrap_or(paid.amount);
        self.ticks += 1;
        self.signed = sum(self.signed, paid.amount);
        self.charged = sum(self.charged, charged);
        self.asset.get_or_insert_with(|| paid.asset.clone());
    }
}

/// The sum, or the largest amount if it is larger: no limit allows that.
fn sum(one: Amount, other: Amount) -> Amount {
    one.checked_add(other).unwrap_or(Amount::MAX)
}

impl PaidStream {
    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The headers of the response.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// What the stream has cost so far.
    pub fn cost(&self) -> &StreamCost {
        &self.cost
    }

    /// Why no more ticks are paid: a limit, a refusal, or a payment without an answer. `None` if
    /// nothing is wrong.
    pub fn problem(&self) -> Option<&BuyError> {
        self.problem.as_ref()
    }

    /// The next chunk of the response; `None` at its end. Pays the next tick if a chunk has come
    /// since the last one, and nothing more has arrived. Dropping this future loses no chunk.
    ///
    /// If a tick cannot be paid, the buyer tells the server that no more come, and what is paid can
    /// still be read. [`problem`](Self::problem) has the reason. There is no time limit: a server
    /// that delivers nothing for a tick gets no further tick.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            if let Some(ready) = self.response.chunk().now_or_never() {
                return self.read(ready).await;
            }
            self.begin_to_pay();
            let Some(paying) = &mut self.paying else {
                let chunk = self.response.chunk().await;
                return self.read(chunk).await;
            };
            tokio::select! {
                chunk = self.response.chunk() => return self.read(chunk).await,
                paid = paying => {
                    self.paying = None;
                    self.note(paid);
                }
            }
        }
    }

    /// Tells the server that no more ticks come, and returns the cost. What is paid and not read is
    /// lost.
    pub async fn stop(mut self) -> StreamCost {
        if let Some(ticks) = self.ticks.take() {
            self.buyer.end_stream(&ticks).await;
        }
        self.finish().await;
        self.cost.clone()
    }

    /// Takes note of what was read.
    async fn read(
        &mut self,
        chunk: Result<Option<Bytes>, reqwest::Error>,
    ) -> Result<Option<Bytes>, TransportError> {
        let chunk = chunk?;
        match &chunk {
            // An empty chunk delivers nothing.
            Some(chunk) if chunk.is_empty() => {}
            Some(_) => self.is_due = true,
            None => {
                self.ticks = None;
                self.finish().await;
            }
        }
        Ok(chunk)
    }

    fn begin_to_pay(&mut self) {
        let Some(ticks) = &self.ticks else { return };
        if self.is_due && self.paying.is_none() {
            self.is_due = false;
            let paying = self.buyer.clone().pay_tick(ticks.clone(), self.cost.signed);
            self.paying = Some(tokio::spawn(paying));
        }
    }

    /// Waits for the tick that is being paid.
    async fn finish(&mut self) {
        if let Some(paying) = self.paying.take() {
            let paid = paying.await;
            self.note(paid);
        }
    }

    /// Takes note of a tick.
    fn note(&mut self, paid: Result<Result<TickAnswer, BuyError>, JoinError>) {
        let paid = match paid {
            Ok(paid) => paid,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime shuts down.
                Err(_) => {
                    self.ticks = None;
                    return;
                }
            },
        };
        let error = match paid {
            Ok(TickAnswer::Paid(cost)) => return self.cost.add(&cost),
            Ok(TickAnswer::Over(signed)) => {
                self.cost.signed = sum(self.cost.signed, signed);
                self.ticks = None;
                return;
            }
            Err(error) => error,
        };
        if let Some(open) = error.open_payment() {
            self.cost.signed = sum(self.cost.signed, open.amount);
        }
        if let BuyError::Used { open, .. } = &error {
            self.cost.charged = sum(self.cost.charged, open.amount);
            self.lost += 1;
            if self.lost <= LOST_MAX && self.ticks.is_some() {
                info!(%error, "a tick was charged for nothing; the next one is paid");
                self.is_due = true;
                return;
            }
        }
        debug!(%error, "no more ticks are paid");
        self.problem = Some(error);
        if let Some(ticks) = self.ticks.take() {
            let buyer = self.buyer.clone();
            tokio::spawn(async move { buyer.end_stream(&ticks).await });
        }
    }
}

impl Buyer {
    /// Tells the server that no more ticks come. A server that does not hear it ends the stream by
    /// itself, for lack of ticks.
    async fn end_stream(&self, ticks: &Ticks) {
        let deadline = Deadline::after(self.shared.timeout);
        let request = ticks.request_of(Method::DELETE);
        let ended = timeout_at(deadline.at(), self.shared.http.execute(request)).await;
        let ended = ended.map(|answer| answer.map(|answer| answer.status()));
        debug!(?ended, stream = ?ticks.id, "no more ticks come");
    }
}

impl fmt::Debug for PaidStream {
    /// Omits the URL: it may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PaidStream")
            .field("status", &self.response.status())
            .field("cost", &self.cost)
            .field("problem", &self.problem)
            .finish_non_exhaustive()
    }
}
