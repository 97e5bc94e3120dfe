//! Streams over HTTP: the first request, the requests for further ticks, and the end.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use quittance_core::{CancelReason, Fault, FaultKind, Malformed};
use quittance_http::PAYMENT_STREAM;
use sha2::{Digest, Sha256};
use tower::Service;
use tracing::{Instrument, Span, error};

use super::body::{BoxedBodyError, ResponseBody};
use super::service::{
    Admission, AdmittedRequest, BoxedResponse, SellerConfig, not_charged, payments, task_failed,
    with_receipt,
};
use super::{overrides, responses, rules, unread_body};
use crate::refusal::{SaleReceipt, SaleRefusal};
use crate::steps::{ChargeError, Sale};
use crate::stream::{NoRoom, RunningStream, Stream, Streams, TickKey};

/// The message for a request that must wait for the end of another stream.
const BUSY: &str = "too many streams run, or another stream uses this channel";

/// The message for a tick whose handler is slow.
const FULL: &str = "the stream has not used its last tick yet";

impl SellerConfig {
    /// Answers a request to a route whose responses are streams.
    pub(super) async fn sell_stream<S, I, O>(
        self: Arc<Self>,
        streams: Streams,
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
        match request.headers().contains_key(PAYMENT_STREAM) {
            true => Ok(self.continue_stream(&streams, request).await),
            false => self.start_stream(&streams, handler, request).await,
        }
    }

    /// Charges the first tick, and begins the response.
    async fn start_stream<S, I, O>(
        self: Arc<Self>,
        streams: &Streams,
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
        let key = tick_key(request.headers());
        let url = self.resource(&request).url;
        // Before the payment: where a flow settles first, money moves next.
        let Some(slot) = streams.slot() else {
            return Ok(unread_body::refuse(request, unavailable(BUSY)).await);
        };
        let AdmittedRequest {
            admission,
            repetition,
        } = match self.admit(&mut request).await {
            Ok(admitted) => admitted,
            Err(response) => return Ok(unread_body::refuse(request, *response).await),
        };
        let Some(stream) = streams.start(slot, &url, admission.record()) else {
            return Ok(self.decline_stream(admission).await);
        };
        // A task of its own: a charge that has begun ends, even if the client disconnects.
        let sale = async move {
            repetition.bind();
            match self.open(admission).await {
                Ok(sale) => match sale.acknowledgement() {
                    Some(body) => Ok(self.acknowledge(sale, repetition, &body).await),
                    None => self.serve_stream(handler, request, sale, stream, key).await,
                },
                Err(response) => Ok(unread_body::refuse(request, *response).await),
            }
        };
        let served = tokio::spawn(sale.instrument(Span::current())).await;
        served.unwrap_or_else(|error| Ok(task_failed(error)))
    }

    /// Another stream uses the record of this payment, which stays uncharged.
    async fn decline_stream(&self, admission: Admission) -> Response<ResponseBody> {
        let response = unavailable(BUSY);
        match admission {
            Admission::Open(sale) => {
                not_charged(&self.seller, *sale, response, BUSY.to_owned()).await
            }
            Admission::Reserved(..) => response,
        }
    }

    /// Runs the handler. The first tick is charged when the handler waits for it, or has succeeded.
    async fn serve_stream<S, I, O>(
        &self,
        mut handler: S,
        mut request: Request<I>,
        sale: Sale,
        stream: RunningStream,
        key: TickKey,
    ) -> Result<Response<ResponseBody>, S::Error>
    where
        S: Service<Request<I>, Response = Response<O>>,
        O: http_body::Body<Data = Bytes> + Send + 'static,
        O::Error: Into<BoxedBodyError>,
    {
        request.extensions_mut().insert(sale.verified().clone());
        request.extensions_mut().insert(stream.meter());
        let running = async { handler.call(request).await.map(boxed) };
        let mut running = pin!(AssertUnwindSafe(running).catch_unwind());
        let ended = tokio::select! {
            biased;
            ended = &mut running => Some(ended),
            () = stream.awaited() => None,
        };
        let response = match ended {
            None => None,
            Some(Ok(Ok(response))) => match sold(response) {
                Ok(response) => Some(response),
                Err((response, detail)) => {
                    return Ok(not_charged(&self.seller, sale, *response, detail).await);
                }
            },
            Some(failed) => {
                let detail = "the handler failed".to_owned();
                let reason = CancelReason::HandlerThrew;
                self.seller.cancel(&sale, reason, detail).await;
                return or_panic(failed);
            }
        };
        let receipt = match self.charge_tick(sale).await {
            Ok(receipt) => receipt,
            Err(response) => return Ok(*response),
        };
        stream.begin(key, receipt.clone()).await;
        let response = match response {
            Some(response) => response,
            None => or_panic(running.await)?,
        };
        Ok(stream_response(response, stream, &receipt))
    }

    /// Charges a tick: the price, once.
    async fn charge_tick(&self, mut sale: Sale) -> Result<SaleReceipt, BoxedResponse> {
        let refusal = match self.seller.charge(&mut sale, None).await {
            Ok(receipt) => return Ok(receipt),
            Err(ChargeError::Refused(refusal)) => refusal,
            Err(ChargeError::Impossible(error)) => {
                error!(%error, "a tick cannot be charged");
                SaleRefusal::Unavailable(Fault::new(FaultKind::Internal, error))
            }
            Err(ChargeError::Pending(pending)) => {
                let refusal = pending.refusal(&sale);
                if sale.has_deposit() {
                    let seller = self.seller.clone();
                    let wait = async move { seller.await_charge(&mut sale, *pending).await };
                    tokio::spawn(wait.instrument(Span::current()));
                }
                refusal
            }
        };
        Err(Box::new(responses::refusal(refusal)))
    }

    /// Answers a request that names a stream: the payment of a further tick, or the end.
    async fn continue_stream<I>(
        self: Arc<Self>,
        streams: &Streams,
        request: Request<I>,
    ) -> Response<ResponseBody>
    where
        I: http_body::Body<Data = Bytes> + Send + 'static,
        I::Error: Into<BoxedBodyError>,
    {
        let url = self.resource(&request).url;
        let id = request.headers().get(PAYMENT_STREAM);
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
        let Some(stream) = streams.find(id, &url) else {
            return unread_body::refuse(request, responses::stream_over()).await;
        };
        match *request.method() {
            Method::POST => self.tick(stream, request).await,
            Method::DELETE => {
                stream.end();
                unread_body::refuse(request, responses::no_content()).await
            }
            _ => unread_body::refuse(request, responses::not_of_stream()).await,
        }
    }

    /// Charges a further tick once there is room for it, and gives it to the handler.
    async fn tick<I>(
        self: Arc<Self>,
        stream: Arc<Stream>,
        mut request: Request<I>,
    ) -> Response<ResponseBody>
    where
        I: http_body::Body<Data = Bytes> + Send + 'static,
        I::Error: Into<BoxedBodyError>,
    {
        let key = tick_key(request.headers());
        // The receipt was lost: the tick is charged, and its voucher is not valid any more.
        if let Some(receipt) = stream.receipt(key) {
            return unread_body::refuse(request, paid(&receipt)).await;
        }
        let room = match stream.room().await {
            Ok(room) => room,
            Err(problem) => return unread_body::refuse(request, no_room(problem)).await,
        };
        if let Some(receipt) = stream.receipt(key) {
            return unread_body::refuse(request, paid(&receipt)).await;
        }
        let admitted = match self.admit(&mut request).await {
            Ok(admitted) => admitted,
            Err(response) => return unread_body::refuse(request, *response).await,
        };
        // A task of its own: a tick that is charged reaches the handler, also if its client
        // disconnects.
        let sale = async move {
            match self.pay(&stream, admitted).await {
                Ok(receipt) => {
                    let response = paid(&receipt);
                    room.fill(key, receipt);
                    response
                }
                Err(response) => *response,
            }
        };
        let served = tokio::spawn(sale.instrument(Span::current())).await;
        let response = served.unwrap_or_else(task_failed);
        unread_body::refuse(request, response).await
    }

    /// Charges the payment of a further tick.
    async fn pay(
        &self,
        stream: &Stream,
        admitted: AdmittedRequest,
    ) -> Result<SaleReceipt, BoxedResponse> {
        let AdmittedRequest {
            admission,
            repetition,
        } = admitted;
        repetition.bind();
        let problem = if admission.buys_nothing() {
            "the payment buys nothing: send it without the stream's id"
        } else if admission.record() != stream.record {
            "the payment does not use the channel that pays for the stream"
        } else {
            let sale = self.open(admission).await?;
            return self.charge_tick(sale).await;
        };
        let malformed = Malformed::new(PAYMENT_STREAM, problem);
        let response = responses::refusal(SaleRefusal::Malformed(malformed));
        Err(Box::new(match admission {
            Admission::Open(sale) => {
                not_charged(&self.seller, *sale, response, problem.to_owned()).await
            }
            Admission::Reserved(..) => response,
        }))
    }
}

/// What a handler's future has come to: its service's result, or a panic.
type Ended<T, E> = Result<Result<T, E>, Box<dyn std::any::Any + Send>>;

/// The result of a handler. A layer outside of this one may catch its panic.
fn or_panic<T, E>(ended: Ended<T, E>) -> Result<T, E> {
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn boxed<O>(response: Response<O>) -> Response<ResponseBody>
where
    O: http_body::Body<Data = Bytes> + Send + 'static,
    O::Error: Into<BoxedBodyError>,
{
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}

/// The response, if it is charged. Otherwise the response to send, and the reason.
fn sold(
    response: Response<ResponseBody>,
) -> Result<Response<ResponseBody>, (BoxedResponse, String)> {
    let (mut head, body) = response.into_parts();
    let charge = overrides::take_charge(&mut head.headers, &mut head.extensions);
    let response = Response::from_parts(head, body);
    let status = response.status();
    match charge {
        _ if !rules::is_charged(status) => {
            let detail = format!("a response with status {} is not charged", status.as_u16());
            Err((Box::new(response), detail))
        }
        Ok(None) => Ok(response),
        Ok(Some(_)) | Err(_) => {
            error!("a handler states a charge for a stream, whose ticks cost the price");
            let message = "a tick of a stream costs its price";
            let response = Box::new(responses::not_served(message));
            Err((response, message.to_owned()))
        }
    }
}

/// Identifies a payment by the bytes of its headers: a client that has lost the receipt of a tick
/// presents the same bytes.
fn tick_key(headers: &HeaderMap) -> TickKey {
    let mut hash = Sha256::new();
    for (name, value) in payments(headers) {
        hash.update(name);
        hash.update((value.len() as u64).to_be_bytes());
        hash.update(value);
    }
    TickKey(hash.finalize().into())
}

fn unavailable(problem: &'static str) -> Response<ResponseBody> {
    responses::refusal(SaleRefusal::Unavailable(Fault::new(
        FaultKind::Busy,
        problem,
    )))
}

fn no_room(problem: NoRoom) -> Response<ResponseBody> {
    match problem {
        NoRoom::Over => responses::stream_over(),
        NoRoom::Full => unavailable(FULL),
    }
}

/// The response to a tick that is charged.
fn paid(receipt: &SaleReceipt) -> Response<ResponseBody> {
    responses::with_receipt(responses::private(responses::no_content()), receipt)
}

/// The response of a stream, which runs as long as its body.
fn stream_response(
    response: Response<ResponseBody>,
    stream: RunningStream,
    receipt: &SaleReceipt,
) -> Response<ResponseBody> {
    let (head, body) = response.into_parts();
    let mut response = with_receipt(Response::from_parts(head, ()), receipt);
    let id: HeaderValue = stream.id().parse().expect("hexadecimal digits");
    response.headers_mut().insert(PAYMENT_STREAM, id);
    let body = StreamBody {
        body,
        _stream: stream,
    };
    response.map(|()| body.boxed_unsync())
}

/// The body of a stream's response. The stream is over when the server drops it.
struct StreamBody {
    body: ResponseBody,
    _stream: RunningStream,
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = BoxedBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxedBodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
