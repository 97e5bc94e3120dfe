//! Sales with a `payment-identifier`: one identifier stands for one request with one payment.
//!
//! An identifier is reserved before its payment is verified. Once money may move, it is bound for a
//! day. A repeated request with the same payment gets the same response, as long as the response is
//! stored. Any other request with the identifier is a conflict.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Response;
use http_body_util::BodyExt;
use quittance_core::{Clock, SystemClock, Timestamp};
use quittance_http::PaymentIdentifier;
use tracing::info;

use super::body::ResponseBody;
use super::stored::StoredResponse;
use crate::sale_ids::SaleKey;

/// How long an identifier is bound, in seconds: as long as a facilitator reports the success of a
/// sale again.
const BOUND_FOR_SECS: u64 = 24 * 3600;

/// How many identifiers are bound, in about 30 MB: one sale a second for a day. The oldest are
/// removed first.
const IDENTIFIERS_MAX: usize = 100_000;

/// How many bytes all stored responses may take: 60 of the largest that are buffered by default.
/// The oldest are removed first. Their identifiers stay bound.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// The sales with an identifier. Clones share them.
#[derive(Clone)]
pub(crate) struct IdentifiedSales {
    store: Arc<Mutex<Store>>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Default for IdentifiedSales {
    fn default() -> Self {
        Self {
            store: Arc::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

#[derive(Default)]
struct Store {
    sales: HashMap<PaymentIdentifier, IdentifiedSale>,
    /// The bound identifiers, with the times until which they are. The oldest come first. May
    /// contain identifiers that were bound again later.
    order: VecDeque<(Timestamp, PaymentIdentifier)>,
    bytes: usize,
}

struct IdentifiedSale {
    key: SaleKey,
    is_in_progress: bool,
    /// `None` until money may move.
    bound_until: Option<Timestamp>,
    response: Option<StoredResponse>,
}

/// What a request with an identifier is.
pub(crate) enum Identified {
    /// The first one, or the first after one that was not answered.
    New(ReservedIdentifier),
    /// A repeated one. This is its response.
    Repeated(Response<ResponseBody>),
    /// The same one is being served.
    InProgress,
    /// Another request or another payment.
    Conflict,
}

/// The exclusive right to serve a request with an identifier. If it is dropped before the
/// identifier is bound, another request may use the identifier.
pub(crate) struct ReservedIdentifier {
    sales: IdentifiedSales,
    identifier: PaymentIdentifier,
}

impl IdentifiedSales {
    /// Reserves an identifier for the request and the payment of this key.
    pub(crate) fn reserve(&self, identifier: PaymentIdentifier, key: SaleKey) -> Identified {
        let mut store = self.locked();
        store.remove_expired(self.clock.now());
        let sale = store.sales.entry(identifier.clone());
        let sale = sale.or_insert(IdentifiedSale {
            key,
            is_in_progress: false,
            bound_until: None,
            response: None,
        });
        if sale.key != key {
            return Identified::Conflict;
        }
        if sale.is_in_progress {
            return Identified::InProgress;
        }
        if let Some(stored) = &sale.response {
            info!("a paid response is delivered again to a request with the same identifier");
            let body = stored.body.clone();
            return Identified::Repeated(stored.head().map(|()| body.boxed_unsync()));
        }
        sale.is_in_progress = true;
        Identified::New(ReservedIdentifier {
            sales: self.clone(),
            identifier,
        })
    }

    fn locked(&self) -> MutexGuard<'_, Store> {
        // A panic between two changes leaves at most the sum of bytes too high.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReservedIdentifier {
    /// Binds the identifier to its request and payment: money may move from now on.
    pub(crate) fn bind(&self) {
        let now = self.sales.clock.now();
        self.sales.locked().bind(&self.identifier, now);
    }

    /// Stores the response for repeated requests.
    pub(crate) fn store(self, response: StoredResponse) {
        self.sales.locked().store(&self.identifier, response);
    }
}

impl Drop for ReservedIdentifier {
    fn drop(&mut self) {
        self.sales.locked().release(&self.identifier);
    }
}

impl Store {
    fn bind(&mut self, identifier: &PaymentIdentifier, now: Timestamp) {
        let until = now.plus_secs(BOUND_FOR_SECS);
        if let Some(sale) = self.sales.get_mut(identifier) {
            sale.bound_until = Some(until);
            self.order.push_back((until, identifier.clone()));
        }
        while self.order.len() > IDENTIFIERS_MAX {
            self.remove_oldest();
        }
    }

    fn store(&mut self, identifier: &PaymentIdentifier, response: StoredResponse) {
        let bytes = response.bytes();
        if bytes > BYTES_MAX {
            return;
        }
        let Some(sale) = self.sales.get_mut(identifier) else {
            return;
        };
        sale.response = Some(response);
        self.bytes += bytes;
        let mut oldest = 0;
        while self.bytes > BYTES_MAX
            && let Some((_, identifier)) = self.order.get(oldest).cloned()
        {
            self.remove_response(&identifier);
            oldest += 1;
        }
    }

    fn release(&mut self, identifier: &PaymentIdentifier) {
        let Some(sale) = self.sales.get_mut(identifier) else {
            return;
        };
        sale.is_in_progress = false;
        if sale.bound_until.is_none() {
            self.sales.remove(identifier);
        }
    }

    fn remove_expired(&mut self, now: Timestamp) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.remove_oldest();
        }
    }

    /// Removes the oldest identifier, unless it was bound again later or is in progress.
    fn remove_oldest(&mut self) {
        let Some((until, identifier)) = self.order.pop_front() else {
            return;
        };
        let is_over = |sale: &IdentifiedSale| sale.bound_until == Some(until);
        match self.sales.get_mut(&identifier).filter(|sale| is_over(sale)) {
            Some(sale) if sale.is_in_progress => sale.bound_until = None,
            Some(_) => {
                self.remove_response(&identifier);
                self.sales.remove(&identifier);
            }
            None => {}
        }
    }

    fn remove_response(&mut self, identifier: &PaymentIdentifier) {
        let sale = self.sales.get_mut(identifier);
        if let Some(response) = sale.and_then(|sale| sale.response.take()) {
            self.bytes -= response.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use quittance_core::ManualClock;

    use super::super::body::BufferedBody;
    use super::*;

    fn sales() -> (IdentifiedSales, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000)));
        let sales = IdentifiedSales {
            store: Arc::default(),
            clock: clock.clone(),
        };
        (sales, clock)
    }

    fn identifier(number: u8) -> PaymentIdentifier {
        PaymentIdentifier::from_bytes([number; 16])
    }

    fn key(number: u8) -> SaleKey {
        SaleKey([number; 32])
    }

    fn reserved(sales: &IdentifiedSales, id: u8, request: u8) -> ReservedIdentifier {
        match sales.reserve(identifier(id), key(request)) {
            Identified::New(reserved) => reserved,
            _ => panic!("{id} is used"),
        }
    }

    fn response(length: usize) -> StoredResponse {
        let body = BufferedBody::new(vec![Bytes::from(vec![b'x'; length])], None);
        StoredResponse::new(&Response::new(()), &body)
    }

    fn sell(sales: &IdentifiedSales, id: u8, request: u8, length: usize) {
        let reserved = reserved(sales, id, request);
        reserved.bind();
        reserved.store(response(length));
    }

    fn is_repeated(sales: &IdentifiedSales, id: u8, request: u8) -> bool {
        matches!(
            sales.reserve(identifier(id), key(request)),
            Identified::Repeated(_)
        )
    }

    fn is_conflict(sales: &IdentifiedSales, id: u8, request: u8) -> bool {
        matches!(
            sales.reserve(identifier(id), key(request)),
            Identified::Conflict
        )
    }

    #[test]
    fn identifier_gets_its_response_again_for_a_day() {
        let (sales, clock) = sales();
        sell(&sales, 1, 1, 10);
        for _ in 0..2 {
            assert!(is_repeated(&sales, 1, 1));
            assert!(is_conflict(&sales, 1, 2));
        }
        clock.advance(BOUND_FOR_SECS - 1);
        assert!(is_repeated(&sales, 1, 1) && is_conflict(&sales, 1, 2));
        clock.advance(1);
        drop(reserved(&sales, 1, 2));
        let store = sales.locked();
        assert_eq!(
            (store.sales.len(), store.order.len(), store.bytes),
            (0, 0, 0)
        );
    }

    #[test]
    fn identifier_is_free_until_money_may_move() {
        let (sales, _) = sales();
        let first = reserved(&sales, 1, 1);
        let same = sales.reserve(identifier(1), key(1));
        assert!(matches!(same, Identified::InProgress));
        assert!(is_conflict(&sales, 1, 2));
        drop(first);
        let second = reserved(&sales, 1, 2);
        second.bind();
        drop(second);
        assert!(is_conflict(&sales, 1, 1));
        // Its answer is not known, so the same request may be served.
        drop(reserved(&sales, 1, 2));
        assert!(is_conflict(&sales, 1, 1));
    }

    #[test]
    fn full_store_forgets_responses_before_identifiers() {
        let (sales, _) = sales();
        let length = BYTES_MAX / 4;
        for id in 0..6 {
            sell(&sales, id, id, length);
            assert!(sales.locked().bytes <= BYTES_MAX);
        }
        assert!(is_repeated(&sales, 5, 5));
        assert!(is_conflict(&sales, 0, 9));
        drop(reserved(&sales, 0, 0));
        sell(&sales, 9, 9, BYTES_MAX + 1);
        assert!(is_conflict(&sales, 9, 8) && !is_repeated(&sales, 9, 9));
    }

    #[test]
    fn identifiers_are_bounded() {
        let (sales, _) = sales();
        for number in 0..u128::try_from(IDENTIFIERS_MAX + 10).unwrap() {
            let identifier = PaymentIdentifier::from_bytes(number.to_be_bytes());
            let Identified::New(reserved) = sales.reserve(identifier, key(1)) else {
                panic!("{number} is used")
            };
            reserved.bind();
        }
        let store = sales.locked();
        assert_eq!(store.sales.len(), IDENTIFIERS_MAX);
        assert_eq!(store.order.len(), IDENTIFIERS_MAX);
    }

    proptest! {
        /// Whatever happens, an identifier never gets the response of another request.
        #[test]
        fn identifier_answers_one_request(steps in prop::collection::vec((0_u8..3, 0_u8..3, 0_u8..4), 1..60)) {
            let (sales, clock) = sales();
            let mut bound: HashMap<u8, (u8, Timestamp)> = HashMap::new();
            for (id, request, how) in steps {
                let now = clock.now();
                bound.retain(|_, (_, until)| now < *until);
                let is_other = bound.get(&id).is_some_and(|(own, _)| *own != request);
                match sales.reserve(identifier(id), key(request)) {
                    Identified::Conflict => prop_assert!(is_other),
                    Identified::InProgress => prop_assert!(false, "nothing is in progress"),
                    Identified::Repeated(_) => prop_assert!(bound.contains_key(&id) && !is_other),
                    Identified::New(reserved) => {
                        prop_assert!(!is_other);
                        if how > 0 {
                            reserved.bind();
                            bound.insert(id, (request, now.plus_secs(BOUND_FOR_SECS)));
                        }
                        if how > 1 {
                            reserved.store(response(1));
                        }
                    }
                }
                clock.advance(u64::from(how) * BOUND_FOR_SECS / 5);
            }
        }
    }
}
