//! Paid answers whose client went away before it had them.
//!
//! The money has moved, the handler ran, and the answer reached no client. It is kept for a while
//! and given out once, to a client that presents the same payment with the same request.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, RANGE,
    TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use quittance_core::PaymentRequest;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::info;

use crate::buffered::{Body, BodyError, Whole};
use quittance_http::canonical;

/// For how long an answer is kept: a buyer presents its payment again within seconds, and one that
/// was started again by a person within two minutes.
const KEPT_FOR: Duration = Duration::from_secs(120);

/// How many bytes all kept answers take: sixty of the longest that are buffered by default. The
/// oldest make room, and a refusal tells their buyers the transaction.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// What an answer takes beside its body and headers.
const BYTES_EACH: usize = 512;

/// The request headers that choose an answer, or say who may have it. A settled payment is public:
/// its signature stands on the chain. So the same payment alone does not give an answer out.
const CHOOSES: [HeaderName; 7] = [
    AUTHORIZATION,
    COOKIE,
    ACCEPT,
    ACCEPT_LANGUAGE,
    RANGE,
    CONTENT_TYPE,
    CONTENT_LENGTH,
];

/// What stands in the names of headers that say who may have an answer in a seller's own way, such as `X-API-Key`,
/// `X-Auth-Token` and `X-Session-Id`.
const CREDENTIALS: [&str; 5] = ["auth", "key", "secret", "session", "token"];

fn is_credential(name: &HeaderName) -> bool {
    CREDENTIALS.iter().any(|part| name.as_str().contains(part))
}

/// What a request must be like to be given an answer that was kept for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ticket([u8; 32]);

/// Which request an answer is for, before its payment is known.
pub(crate) struct Asked(Sha256);

impl Asked {
    /// What this request asks for, and who asks.
    ///
    /// `None` where it may have a body and the client's address is not known: bodies are not
    /// compared, so a reader of the chain could present the payment and ask for the answer.
    pub(crate) fn of<I>(request: &Request<I>, url: &str, client: Option<IpAddr>) -> Option<Self> {
        if client.is_none() && may_have_body(request) {
            return None;
        }
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(request.method().as_str().as_bytes());
        part(url.as_bytes());
        part(
            client
                .map(|client| client.to_string())
                .unwrap_or_default()
                .as_bytes(),
        );
        for name in CHOOSES {
            let values = request.headers().get_all(&name);
            part(&(values.iter().count() as u64).to_be_bytes());
            values.iter().for_each(|value| part(value.as_bytes()));
        }
        let own = request.headers().iter();
        let own = own.filter(|(name, _)| is_credential(name));
        let mut own: Vec<_> = own
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        // Proxies may change the order of headers.
        own.sort_unstable();
        for (name, value) in own {
            part(name.as_bytes());
            part(value);
        }
        Some(Self(hash))
    }

    /// The same with its payment: all of its payload, the signature included.
    pub(crate) fn with(&self, payment: &PaymentRequest) -> Ticket {
        let mut hash = self.0.clone();
        hash.update(payment.version.number().to_be_bytes());
        hash.update(canonical::authorization(payment));
        hash.update(canonical::hash(&payment.payload));
        Ticket(hash.finalize().into())
    }
}

fn may_have_body<I>(request: &Request<I>) -> bool {
    let headers = request.headers();
    match headers.get(CONTENT_LENGTH) {
        Some(length) => length != "0",
        None => request.method() != Method::GET || headers.contains_key(TRANSFER_ENCODING),
    }
}

/// The answers that are kept, the oldest first.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Shelf>>);

#[derive(Default)]
struct Shelf {
    answers: HashMap<Ticket, (Instant, Answer)>,
    /// The same, by when they end. May name some that were given out.
    order: VecDeque<(Instant, Ticket)>,
    bytes: usize,
}

/// A whole answer.
#[derive(Clone)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Whole,
}

impl Answer {
    fn bytes(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        BYTES_EACH + headers + self.body.len()
    }
}

impl Shelf {
    fn put(&mut self, ticket: Ticket, until: Instant, answer: Answer) {
        self.forget_old();
        let bytes = answer.bytes();
        if bytes > BYTES_MAX || until <= Instant::now() {
            return;
        }
        while self.bytes + bytes > BYTES_MAX {
            let Some((_, oldest)) = self.order.pop_front() else {
                break;
            };
            self.remove(oldest);
        }
        self.remove(ticket);
        self.bytes += bytes;
        self.order.push_back((until, ticket));
        self.answers.insert(ticket, (until, answer));
    }

    fn remove(&mut self, ticket: Ticket) -> Option<(Instant, Answer)> {
        let found = self.answers.remove(&ticket)?;
        self.bytes -= found.1.bytes();
        Some(found)
    }

    fn forget_old(&mut self) {
        let now = Instant::now();
        while let Some((until, ticket)) = self.order.front().copied()
            && until <= now
        {
            self.order.pop_front();
            // One that was put back later stays until its own end.
            if self
                .answers
                .get(&ticket)
                .is_some_and(|(end, _)| *end <= now)
            {
                self.remove(ticket);
            }
        }
    }
}

impl Kept {
    /// A paid answer on its way to its client. It is kept if the client goes away before it has all
    /// of it.
    pub(crate) fn hand_out(
        &self,
        ticket: Ticket,
        mut answer: Response<()>,
        body: Whole,
    ) -> Response<Body> {
        let copy = Answer {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: body.clone(),
        };
        let slip = Arc::new(Slip {
            kept: self.clone(),
            ticket,
            until: Instant::now() + KEPT_FOR,
            answer: Mutex::new(Some(copy)),
        });
        answer.extensions_mut().insert(Arc::clone(&slip));
        answer.map(|()| Handed::new(body, slip).boxed_unsync())
    }

    /// The answer that is kept for this, on its way to its client once more.
    pub(crate) fn take(&self, ticket: Ticket) -> Option<Response<Body>> {
        let mut shelf = self.locked();
        shelf.forget_old();
        let (until, answer) = shelf.remove(ticket)?;
        drop(shelf);
        if until <= Instant::now() {
            return None;
        }
        info!("a client that had gone away is given the answer it paid for");
        let mut response = Response::new(());
        *response.status_mut() = answer.status;
        response.headers_mut().clone_from(&answer.headers);
        let body = answer.body.clone();
        let slip = Arc::new(Slip {
            kept: self.clone(),
            ticket,
            until,
            answer: Mutex::new(Some(answer)),
        });
        response.extensions_mut().insert(Arc::clone(&slip));
        Some(response.map(|()| Handed::new(body, slip).boxed_unsync()))
    }

    fn locked(&self) -> MutexGuard<'_, Shelf> {
        // A panic between two changes could at most leave the sum of bytes too high.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes note that an answer has reached the server that sends it. One with a body is delivered when
/// its body was read to the end; one without is delivered now.
pub(crate) fn handed_over(answer: &mut Response<Body>) {
    let slip = answer.extensions_mut().remove::<Arc<Slip>>();
    if let Some(slip) = slip
        && http_body::Body::is_end_stream(answer.body())
    {
        slip.delivered();
    }
}

/// The copy of an answer that is on its way. Where the answer is dropped before it was delivered,
/// this puts the copy on the shelf.
struct Slip {
    kept: Kept,
    ticket: Ticket,
    until: Instant,
    /// `None` once it was delivered.
    answer: Mutex<Option<Answer>>,
}

impl Slip {
    fn delivered(&self) {
        drop(self.taken());
    }

    fn taken(&self) -> Option<Answer> {
        self.answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Drop for Slip {
    fn drop(&mut self) {
        if let Some(answer) = self.taken() {
            self.kept.locked().put(self.ticket, self.until, answer);
        }
    }
}

/// A body that knows whether it was read to its end.
struct Handed {
    body: Whole,
    slip: Arc<Slip>,
}

impl Handed {
    fn new(body: Whole, slip: Arc<Slip>) -> Self {
        Self { body, slip }
    }
}

impl http_body::Body for Handed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = self.body.next();
        if self.body.is_empty() {
            self.slip.delivered();
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn ticket(number: u64) -> Ticket {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Ticket(bytes)
    }

    fn whole(length: usize) -> Whole {
        Whole::of(vec![Bytes::from(vec![b'x'; length])], None)
    }

    fn gone(kept: &Kept, number: u64, length: usize) {
        drop(kept.hand_out(ticket(number), Response::new(()), whole(length)));
    }

    async fn read(answer: Response<Body>) -> usize {
        answer.into_body().collect().await.unwrap().to_bytes().len()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_whose_client_is_gone_is_given_out_once_and_in_time() {
        let kept = Kept::default();
        gone(&kept, 1, 10);
        assert!(kept.take(ticket(2)).is_none());
        assert_eq!(read(kept.take(ticket(1)).unwrap()).await, 10);
        assert!(kept.take(ticket(1)).is_none());
        gone(&kept, 1, 10);
        advance(KEPT_FOR).await;
        assert!(kept.take(ticket(1)).is_none());
        assert_eq!(kept.locked().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_lost_again_is_kept_no_longer_than_the_first_time() {
        let kept = Kept::default();
        gone(&kept, 1, 10);
        advance(KEPT_FOR / 2).await;
        drop(kept.take(ticket(1)).unwrap());
        assert!(kept.take(ticket(1)).is_some());
        advance(KEPT_FOR / 2).await;
        assert!(kept.take(ticket(1)).is_none());
        assert_eq!(kept.locked().bytes, 0);
    }

    #[tokio::test]
    async fn an_answer_that_was_delivered_is_not_kept() {
        let kept = Kept::default();
        assert_eq!(
            read(kept.hand_out(ticket(1), Response::new(()), whole(10))).await,
            10
        );
        let nothing = Whole::of(Vec::new(), None);
        let mut empty = kept.hand_out(ticket(2), Response::new(()), nothing.clone());
        handed_over(&mut empty);
        drop(empty);
        drop(kept.hand_out(ticket(3), Response::new(()), nothing));
        assert!(kept.take(ticket(1)).is_none());
        assert!(kept.take(ticket(2)).is_none());
        assert!(kept.take(ticket(3)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_make_room_and_the_sum_is_right() {
        let kept = Kept::default();
        let length = BYTES_MAX / 10;
        for number in 0..12 {
            gone(&kept, number, length);
            assert!(kept.locked().bytes <= BYTES_MAX);
        }
        assert!(kept.take(ticket(0)).is_none() && kept.take(ticket(11)).is_some());
        gone(&kept, 99, BYTES_MAX + 1);
        assert!(kept.take(ticket(99)).is_none());
        advance(KEPT_FOR).await;
        gone(&kept, 100, 1);
        assert_eq!(kept.locked().answers.len(), 1);
    }

    #[test]
    fn another_request_or_another_client_has_another_ticket() {
        let request = |change: &dyn Fn(&mut Request<()>)| {
            let mut request = Request::new(());
            *request.uri_mut() = "http://a.example/goods?x=1".parse().unwrap();
            change(&mut request);
            request
        };
        let ticket = |client: Option<IpAddr>, change: &dyn Fn(&mut Request<()>)| {
            let request = request(change);
            let asked = Asked::of(&request, &request.uri().to_string(), client)?;
            Some(asked.0.finalize())
        };
        let here = Some(IpAddr::from([192, 0, 2, 1]));
        let plain = ticket(here, &|_| {}).unwrap();
        assert_eq!(ticket(here, &|_| {}), Some(plain));
        let header = |name: HeaderName, value: &'static str| {
            move |request: &mut Request<()>| {
                request.headers_mut().insert(&name, value.parse().unwrap());
            }
        };
        assert_ne!(
            ticket(Some(IpAddr::from([192, 0, 2, 2])), &|_| {}),
            Some(plain)
        );
        for name in CHOOSES {
            assert_ne!(ticket(here, &header(name, "7")), Some(plain));
        }
        // The handler, which looks at them, is not asked about an answer that is kept.
        for name in ["x-api-key", "x-auth-token", "x-session-id", "client-secret"] {
            let name = HeaderName::from_static(name);
            assert_ne!(ticket(here, &header(name, "7")), Some(plain));
        }
        // What differs with each way that a request takes is no part of it.
        for name in ["x-request-id", "cf-ray", "traceparent", "x-forwarded-for"] {
            let name = HeaderName::from_static(name);
            assert_eq!(ticket(here, &header(name, "7")), Some(plain));
        }
        let posts = |request: &mut Request<()>| *request.method_mut() = Method::POST;
        let other = |request: &mut Request<()>| *request.uri_mut() = "/other".parse().unwrap();
        assert_ne!(ticket(here, &posts), Some(plain));
        assert_ne!(ticket(here, &other), Some(plain));
        // Without an address only what has no body, because bodies are not compared.
        assert!(ticket(None, &|_| {}).is_some());
        assert!(ticket(None, &posts).is_none());
        assert!(ticket(None, &header(CONTENT_LENGTH, "7")).is_none());
        assert!(ticket(None, &header(TRANSFER_ENCODING, "chunked")).is_none());
    }
}
