//! The open payments: signed, and neither delivered for nor known to be over.
//!
//! An authorization is money. When a paid request fails, signing a second one would pay twice as
//! soon as the first one settles after all. So each purchase keeps its authorization and presents
//! it again until the response is delivered or the authorization is over. It is over in four
//! cases. The chain shows that it expired unused, no server has seen it, a trusted server says that
//! it moved nothing, or its payer has replaced it by one that excludes it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quittance_core::{Timestamp, Turn};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::error::StateError;
use crate::open::OpenPayment;
use crate::payment::{
    Exposure, INCLUDED_AFTER_EXPIRY_SECS, KeptPayment, PurchaseKey, RequestId, SignedForm,
};
use crate::receipt::Receipt;
use crate::refusal::RefusalMeaning;
use crate::store::{Store, StoredId};

/// The most payments with a header. A working server delivers within a minute, so a buyer with this
/// many is out of control.
const OPEN_MAX: usize = 10_000;

/// The most bytes of headers. Honest headers have one to three kilobytes, so [`OPEN_MAX`] is
/// reached first. A server can inflate a header to 32 KiB.
const BYTES_MAX: usize = 32 * 1024 * 1024;

/// The most payments without a header, of some 700 bytes each.
const WITHOUT_HEADER_MAX: usize = 2_000;

/// How long after its expiry a payment keeps its header, in seconds. A server that settled it late
/// may still deliver.
const HEADER_KEPT_SECS: u64 = 24 * 3600;

/// Payments to one server may take one part in this many of each maximum. A server that loses every
/// answer then blocks only the purchases from itself.
const SHARE: usize = 4;

/// An open payment, and whether a call presents it now.
#[derive(Debug)]
struct Entry {
    payment: KeptPayment,
    in_use: bool,
}

/// The open payments in memory, and those of them that the store has not got yet.
#[derive(Debug, Default)]
struct Entries {
    by_purchase: HashMap<PurchaseKey, Vec<Entry>>,
    /// The payments that changed since the last save.
    changed: BTreeSet<StoredId>,
    /// The database, if the caller named a file. It has each payment before a server sees it.
    store: Option<Arc<Store>>,
}

/// A save that has begun. It ends whether or not a caller waits for it.
struct Save(Option<JoinHandle<Result<(), StateError>>>);

impl Save {
    /// Waits until the changes are on the disk.
    async fn done(self) -> Result<(), StateError> {
        match self.0 {
            Some(writing) => writing.await.unwrap_or_else(|_| Err(StateError::Stopped)),
            None => Ok(()),
        }
    }

    /// Waits, and logs a failure. For changes that the store may miss: it then has more open
    /// payments than there are, and the buyer pays nothing twice.
    async fn or_warn(self) {
        if let Err(error) = self.done().await {
            warn!(%error, "the outcome of a payment was not stored");
        }
    }
}

/// The open payments of a buyer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Purchases(Arc<Mutex<Entries>>);

/// A payment that one call presents. Dropping the guard frees the payment for the next call;
/// [`Self::remove`] forgets it.
#[derive(Debug)]
pub(crate) struct PaymentGuard {
    purchases: Purchases,
    key: PurchaseKey,
    pub(crate) payment: KeptPayment,
    /// The exposure before the presentation that is being stored now: no server has seen that
    /// presentation yet.
    before_presentation: Option<Exposure>,
    /// The payer signs its next payment only after it.
    turn: Turn,
}

impl Purchases {
    /// The payments in a database, which is kept up to date.
    pub(crate) fn in_file(path: &Path) -> Result<Self, StateError> {
        let (store, payments) = Store::open(path)?;
        let mut entries = Entries::default();
        for (key, payment) in payments {
            entries.add(key, payment, false);
        }
        entries.changed.clear();
        entries.store = Some(Arc::new(store));
        Ok(Self(Arc::new(Mutex::new(entries))))
    }

    /// Takes a payment of this purchase that no other call presents, and forgets those that are
    /// over.
    pub(crate) fn take(&self, key: PurchaseKey, now: Timestamp) -> Option<PaymentGuard> {
        let mut entries = self.lock();
        entries.retain(Some(key), |entry| {
            entry.in_use || !entry.payment.is_over(now)
        });
        let of_purchase = entries.by_purchase.get_mut(&key)?;
        let entry = of_purchase.iter_mut().find(|entry| !entry.in_use)?;
        Some(self.guard(key, entry))
    }

    /// Takes a payment for this request, of any purchase, that no other call presents.
    pub(crate) fn take_for_request(
        &self,
        request: RequestId,
        now: Timestamp,
    ) -> Option<PaymentGuard> {
        let mut entries = self.lock();
        let waits = |entry: &Entry| {
            !entry.in_use && entry.payment.request == Some(request) && !entry.payment.is_over(now)
        };
        let mut purchases = entries.by_purchase.iter_mut();
        let (key, entry) = purchases.find_map(|(key, of_purchase)| {
            let entry = of_purchase.iter_mut().find(|entry| waits(entry))?;
            Some((*key, entry))
        })?;
        Some(self.guard(key, entry))
    }

    fn guard(&self, key: PurchaseKey, entry: &mut Entry) -> PaymentGuard {
        entry.in_use = true;
        PaymentGuard {
            purchases: self.clone(),
            key,
            payment: entry.payment.clone(),
            before_presentation: None,
            turn: Turn::default(),
        }
    }

    /// The payment of this purchase that waits to be presented again.
    pub(crate) fn waiting(&self, key: PurchaseKey, now: Timestamp) -> Option<OpenPayment> {
        let entries = self.lock();
        let waits = |entry: &&Entry| !entry.in_use && !entry.payment.is_over(now);
        let waiting = entries.by_purchase.get(&key)?.iter().find(waits)?;
        Some(waiting.payment.open.clone())
    }

    /// Whether there is room for one more payment to this server. Makes room first: forgets
    /// payments that are over, and drops the headers of expired ones.
    pub(crate) fn has_room(&self, origin: &str, now: Timestamp) -> bool {
        let mut entries = self.lock();
        entries.retain(None, |entry| entry.in_use || !entry.payment.is_over(now));
        entries.drop_headers(|open| now >= open.expires.plus_secs(HEADER_KEPT_SECS));
        if entries.is_full(origin) {
            entries.drop_headers(|open| {
                now >= open.expires.plus_secs(INCLUDED_AFTER_EXPIRY_SECS) || open.never_expires()
            });
        }
        entries.forget_oldest(origin);
        !entries.is_full(origin)
    }

    /// Adds a new payment, in use by the caller.
    pub(crate) fn insert(&self, key: PurchaseKey, payment: KeptPayment) -> PaymentGuard {
        self.lock().add(key, payment.clone(), true);
        PaymentGuard {
            purchases: self.clone(),
            key,
            payment,
            before_presentation: None,
            turn: Turn::default(),
        }
    }

    /// All open payments.
    pub(crate) fn open(&self, now: Timestamp) -> Vec<OpenPayment> {
        let entries = self.lock();
        let open = entries.payments().filter(|payment| !payment.is_over(now));
        open.map(|payment| payment.open.clone()).collect()
    }

    /// Forgets the payment with this id. Returns whether there was one.
    pub(crate) async fn abandon(&self, id: &str) -> bool {
        let (found, save) = {
            let mut entries = self.lock();
            let before = entries.count();
            entries.retain(None, |entry| entry.payment.open.id != id);
            (entries.count() < before, entries.save())
        };
        save.or_warn().await;
        found
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A panic with the lock held leaves the map valid: no method panics between two changes
        // that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn add(&mut self, key: PurchaseKey, payment: KeptPayment, in_use: bool) {
        self.mark_changed(key, &payment);
        let entry = Entry { payment, in_use };
        self.by_purchase.entry(key).or_default().push(entry);
    }

    fn mark_changed(&mut self, key: PurchaseKey, payment: &KeptPayment) {
        self.changed.insert((key, payment.open.id.clone()));
    }

    /// Begins to store all changes, if there is a store.
    fn save(&mut self) -> Save {
        let changed = std::mem::take(&mut self.changed);
        let Some(store) = self.store.clone() else {
            return Save(None);
        };
        let mut changes = BTreeMap::new();
        for id in changed {
            let payment = self.entry(id.0, &id.1).map(|entry| entry.payment.clone());
            changes.insert(id, payment);
        }
        // Queued under the lock, so that the store applies changes to one payment in order.
        let change = store.queue(changes);
        // The disk can be slow, and this thread has other tasks.
        Save(Some(tokio::task::spawn_blocking(move || {
            store.write_until(change)
        })))
    }

    fn payments(&self) -> impl Iterator<Item = &KeptPayment> {
        let entries = self.by_purchase.values().flatten();
        entries.map(|entry| &entry.payment)
    }

    fn count(&self) -> usize {
        self.by_purchase.values().map(Vec::len).sum()
    }

    /// Whether payments with headers, to this server or to all, reach a maximum.
    fn is_full(&self, origin: &str) -> bool {
        let (mut all, mut own) = ((0, 0), (0, 0));
        for payment in self.payments() {
            let bytes = payment.form.header_len();
            if bytes == 0 {
                continue;
            }
            all = (all.0 + 1, all.1 + bytes);
            if payment.open.origin == origin {
                own = (own.0 + 1, own.1 + bytes);
            }
        }
        let is_full = |(count, bytes): (usize, usize), share: usize| {
            count >= OPEN_MAX / share || bytes >= BYTES_MAX / share
        };
        is_full(all, 1) || is_full(own, SHARE)
    }

    /// Drops the headers of these payments. The size of the rest depends on the payer alone.
    fn drop_headers(&mut self, of: impl Fn(&OpenPayment) -> bool) {
        for (key, entry) in entries_mut(&mut self.by_purchase) {
            let payment = &mut entry.payment;
            if entry.in_use || !of(&payment.open) {
                continue;
            }
            if let SignedForm::Header(_) = &payment.form {
                let payload = payment.form.payload();
                let text = payload.map_or_else(String::new, |it| it.text().to_owned());
                payment.form = SignedForm::Payload(text);
                self.changed.insert((key, payment.open.id.clone()));
            }
        }
    }

    /// Forgets the oldest payments without a header, if there are too many: to this server, or to
    /// all.
    fn forget_oldest(&mut self, origin: &str) {
        let mut candidates: Vec<(Timestamp, String, bool)> = Vec::new();
        for payment in self.payments() {
            if let SignedForm::Payload(_) = &payment.form {
                let OpenPayment { expires, id, .. } = &payment.open;
                candidates.push((*expires, id.clone(), payment.open.origin == origin));
            }
        }
        candidates.sort_unstable();
        let own = candidates.iter().filter(|(_, _, own)| *own).count();
        let mut too_many_own = own.saturating_sub(WITHOUT_HEADER_MAX / SHARE);
        let too_many = candidates.len().saturating_sub(WITHOUT_HEADER_MAX);
        let mut too_many = too_many.max(too_many_own);
        let mut forgotten = HashSet::new();
        for (_, id, own) in candidates {
            if too_many > 0 && (too_many_own == 0 || own) {
                too_many -= 1;
                too_many_own = too_many_own.saturating_sub(1);
                forgotten.insert(id);
            }
        }
        if forgotten.is_empty() {
            return;
        }
        let count = forgotten.len();
        warn!(
            count,
            origin, "forgot the oldest payments with an unknown outcome, to make room"
        );
        self.retain(None, |entry| !forgotten.contains(&entry.payment.open.id));
    }

    /// Keeps the payments, of one purchase or of all, for which `stays` is true.
    fn retain(&mut self, key: Option<PurchaseKey>, stays: impl Fn(&Entry) -> bool) {
        let changed = &mut self.changed;
        let mut prune = |key: PurchaseKey, of_purchase: &mut Vec<Entry>| {
            of_purchase.retain(|entry| {
                let stays = stays(entry);
                if !stays {
                    changed.insert((key, entry.payment.open.id.clone()));
                }
                stays
            });
            !of_purchase.is_empty()
        };
        match key {
            None => self
                .by_purchase
                .retain(|key, of_purchase| prune(*key, of_purchase)),
            Some(key) => {
                let of_purchase = self.by_purchase.get_mut(&key);
                if of_purchase.is_some_and(|of_purchase| !prune(key, of_purchase)) {
                    self.by_purchase.remove(&key);
                }
            }
        }
    }

    fn replace(&mut self, key: PurchaseKey, payment: &KeptPayment) {
        if let Some(entry) = self.entry(key, &payment.open.id) {
            entry.payment = payment.clone();
            self.mark_changed(key, payment);
        }
    }

    fn entry(&mut self, key: PurchaseKey, id: &str) -> Option<&mut Entry> {
        let of_purchase = self.by_purchase.get_mut(&key)?;
        of_purchase
            .iter_mut()
            .find(|entry| entry.payment.open.id == id)
    }
}

fn entries_mut(
    by_purchase: &mut HashMap<PurchaseKey, Vec<Entry>>,
) -> impl Iterator<Item = (PurchaseKey, &mut Entry)> {
    by_purchase
        .iter_mut()
        .flat_map(|(key, of_purchase)| of_purchase.iter_mut().map(move |entry| (*key, entry)))
}

impl PaymentGuard {
    /// The same payment, in this turn of its payer.
    pub(crate) fn with_turn(self, turn: Turn) -> Self {
        let mut guard = self;
        guard.turn = turn;
        guard
    }

    /// Lets the payer sign another payment.
    pub(crate) fn end_turn(&mut self) {
        self.turn = Turn::default();
    }

    /// Records what a server said about the payment. `before` is the exposure before the payment
    /// was presented to it.
    pub(crate) fn record_answer(
        &mut self,
        meaning: RefusalMeaning,
        receipt: Option<&Receipt>,
        before: Exposure,
    ) {
        self.payment.record_meaning(meaning, before);
        let named = receipt.map(|receipt| &receipt.transaction);
        if let Some(named) = named.filter(|named| !named.is_empty()) {
            self.payment.open.transaction = Some(named.clone());
        }
    }

    /// Stores that a server is about to see the payment, and returns the exposure before. A caller
    /// that stops waiting for this must not present the payment.
    pub(crate) async fn mark_presented(&mut self) -> Result<Exposure, StateError> {
        let before = std::mem::replace(&mut self.payment.exposure, Exposure::Possible);
        self.before_presentation = Some(before);
        let stored = self.begin_save().done().await;
        if let Err(error) = stored {
            self.payment.exposure = before;
            self.purchases.lock().replace(self.key, &self.payment);
            return Err(error);
        }
        self.before_presentation = None;
        Ok(before)
    }

    /// Stores what is known of the payment now.
    pub(crate) async fn save(&self) {
        self.begin_save().or_warn().await;
    }

    /// Puts another payment in the place of this one. The next save stores both changes together,
    /// so that the database always has one of the two.
    pub(crate) fn replaced_by(self, payment: KeptPayment) -> Self {
        let mut entries = self.purchases.lock();
        let id = &self.payment.open.id;
        entries.retain(Some(self.key), |entry| entry.payment.open.id != *id);
        entries.add(self.key, payment.clone(), true);
        drop(entries);
        Self {
            purchases: self.purchases.clone(),
            key: self.key,
            payment,
            before_presentation: None,
            turn: Turn::default(),
        }
    }

    fn begin_save(&self) -> Save {
        let mut entries = self.purchases.lock();
        entries.replace(self.key, &self.payment);
        entries.save()
    }

    /// Forgets the payment: the response was delivered, or the payment is over.
    pub(crate) async fn remove(self) {
        let save = {
            let mut entries = self.purchases.lock();
            let id = &self.payment.open.id;
            entries.retain(Some(self.key), |entry| entry.payment.open.id != *id);
            entries.save()
        };
        save.or_warn().await;
    }
}

impl Drop for PaymentGuard {
    fn drop(&mut self) {
        let mut entries = self.purchases.lock();
        let Some(entry) = entries.entry(self.key, &self.payment.open.id) else {
            return;
        };
        entry.in_use = false;
        if let Some(before) = self.before_presentation {
            entry.payment.exposure = before;
            // The next save corrects the store. Until then it only says that more may have
            // happened.
            entries.mark_changed(self.key, &self.payment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quittance_core::wire::header;
    use quittance_core::{Amount, Version};
    use serde_json::json;

    fn payment(id: &str, expires: u64) -> KeptPayment {
        KeptPayment {
            request: Some(REQUEST),
            version: Version::V2,
            form: SignedForm::Header(header::encode(&json!({ "payload": { "nonce": id } }))),
            exposure: Exposure::None,
            open: OpenPayment {
                id: id.to_owned(),
                network: "a:1".to_owned(),
                origin: "http://a.example".to_owned(),
                asset: "x".to_owned(),
                symbol: "USDC".to_owned(),
                decimals: Some(6),
                pay_to: "y".to_owned(),
                amount: Amount::from(1),
                expires: Timestamp::from_secs(expires),
                transaction: None,
            },
            was_used: false,
        }
    }

    const REQUEST: RequestId = RequestId([9; 32]);
    const NOW: Timestamp = Timestamp::from_secs(100);
    const LONG_AFTER: Timestamp = Timestamp::from_secs(1_000_000);

    #[tokio::test]
    async fn a_payment_that_may_have_been_used_is_kept_for_ever() {
        let (purchases, key) = (Purchases::default(), PurchaseKey([1; 32]));
        let mut guard = purchases.insert(key, payment("a", 160));
        guard
            .payment
            .record_meaning(RefusalMeaning::Unknown, Exposure::None);
        guard.save().await;
        drop(guard);
        let mut guard = purchases.take(key, LONG_AFTER).unwrap();
        assert_eq!(guard.payment.exposure, Exposure::Possible);
        // A later refusal proves nothing about an earlier presentation.
        guard
            .payment
            .record_meaning(RefusalMeaning::NotNow, Exposure::Possible);
        guard.save().await;
        drop(guard);
        assert!(purchases.take(key, LONG_AFTER).is_some());
        assert!(purchases.abandon("a").await && purchases.take(key, LONG_AFTER).is_none());
    }

    #[tokio::test]
    async fn a_refused_payment_is_over_when_no_block_may_include_it() {
        let (purchases, key) = (Purchases::default(), PurchaseKey([1; 32]));
        for (meaning, before) in [
            (RefusalMeaning::NotNow, Exposure::None),
            (RefusalMeaning::NotNow, Exposure::Refused),
            (RefusalMeaning::NeverSettled, Exposure::Possible),
        ] {
            let mut guard = purchases.insert(key, payment("a", 160));
            guard.payment.record_meaning(meaning, before);
            guard.save().await;
            drop(guard);
            let last = Timestamp::from_secs(160 + INCLUDED_AFTER_EXPIRY_SECS - 1);
            // Payments that are over were once listed as open until the same was bought again.
            assert!(purchases.waiting(key, last).is_some() && purchases.open(last).len() == 1);
            let later = last.plus_secs(1);
            assert!(purchases.waiting(key, later).is_none() && purchases.open(later).is_empty());
            assert!(purchases.take(key, last).is_some());
            assert!(purchases.take(key, last.plus_secs(1)).is_none());
        }
        assert_eq!(purchases.lock().count(), 0);
    }

    #[tokio::test]
    async fn a_payment_in_use_is_not_taken_by_another_call() {
        let (purchases, key) = (Purchases::default(), PurchaseKey([1; 32]));
        let guard = purchases.insert(key, payment("a", 160));
        let waiting = || purchases.waiting(key, NOW);
        assert!(waiting().is_none() && purchases.take(key, NOW).is_none());
        drop(guard);
        assert!(waiting().is_some());
        purchases.take(key, NOW).unwrap().remove().await;
        assert!(waiting().is_none() && purchases.take(key, NOW).is_none());
    }

    /// The caller stopped waiting while the presentation was being stored, so no server has seen
    /// the payment.
    #[tokio::test]
    async fn a_presentation_that_was_cancelled_leaves_no_exposure() {
        let folder = tempfile::tempdir().unwrap();
        let purchases = Purchases::in_file(&folder.path().join("purchases.json")).unwrap();
        let key = PurchaseKey([1; 32]);
        let mut guard = purchases.insert(key, payment("a", 160));
        let mut presenting = Box::pin(guard.mark_presented());
        let polled = futures_util::poll!(presenting.as_mut());
        assert!(polled.is_pending());
        drop(presenting);
        drop(guard);
        assert_eq!(
            purchases.take(key, NOW).unwrap().payment.exposure,
            Exposure::None
        );
        // A presented payment is exposed.
        let mut guard = purchases.take(key, NOW).unwrap();
        guard.mark_presented().await.unwrap();
        drop(guard);
        assert_eq!(
            purchases.take(key, NOW).unwrap().payment.exposure,
            Exposure::Possible
        );
    }

    /// A crash leaves one of the two, whenever it happens.
    #[tokio::test]
    async fn the_database_has_one_of_a_payment_and_its_replacement() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("purchases.json");
        let key = PurchaseKey([1; 32]);
        let stored = || {
            let purchases = Purchases::in_file(&path).unwrap();
            let open = purchases.open(NOW);
            open.into_iter().map(|open| open.id).collect::<Vec<_>>()
        };
        let purchases = Purchases::in_file(&path).unwrap();
        let mut guard = purchases.insert(key, payment("a", u64::MAX));
        guard.mark_presented().await.unwrap();
        let guard = guard.replaced_by(payment("b", u64::MAX));
        assert_eq!(guard.payment.open.id, "b");
        assert!(purchases.take(key, NOW).is_none());
        drop((guard, purchases));
        assert_eq!(stored(), ["a"]);

        let purchases = Purchases::in_file(&path).unwrap();
        let guard = purchases.take(key, NOW).unwrap();
        let mut guard = guard.replaced_by(payment("b", u64::MAX));
        guard.mark_presented().await.unwrap();
        drop((guard, purchases));
        assert_eq!(stored(), ["b"]);
    }

    /// Vouchers never expire. Lost ones must not use up the room for ever.
    #[test]
    fn payments_that_never_expire_make_room() {
        let purchases = Purchases::default();
        for at in 0..(OPEN_MAX / SHARE) as u64 {
            let mut payment = payment(&at.to_string(), u64::MAX);
            payment.exposure = Exposure::Possible;
            drop(purchases.insert(key(at), payment));
        }
        assert!(purchases.has_room("http://a.example", NOW));
        assert!(purchases.lock().count() <= WITHOUT_HEADER_MAX / SHARE);
    }

    #[test]
    fn the_debug_text_of_a_payment_omits_its_header() {
        let secret = KeptPayment {
            form: SignedForm::Header("hunter2".to_owned()),
            ..payment("a", 160)
        };
        let guard = Purchases::default().insert(PurchaseKey([1; 32]), secret);
        assert!(!format!("{guard:?}").contains("hunter2"));
    }

    fn key(at: u64) -> PurchaseKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&at.to_be_bytes());
        PurchaseKey(key)
    }

    fn lost_answers(purchases: &Purchases, origin: &str, numbers: std::ops::Range<u64>) {
        for at in numbers {
            let mut payment = payment(&at.to_string(), 160);
            payment.open.origin = origin.to_owned();
            payment.exposure = Exposure::Possible;
            drop(purchases.insert(key(at), payment));
        }
    }

    /// Payments with an unknown outcome once kept their headers for ever, and in the end no
    /// purchase was possible.
    #[test]
    fn lost_answers_of_one_server_take_only_its_own_room() {
        let purchases = Purchases::default();
        let share = (OPEN_MAX / SHARE) as u64;
        lost_answers(&purchases, "http://a.example", 0..share);
        assert!(!purchases.has_room("http://a.example", NOW));
        assert!(purchases.has_room("http://b.example", NOW));
        assert!(purchases.has_room("http://a.example", LONG_AFTER));
        // The payments are still known, and their payloads can still be looked up on the chain.
        let guard = purchases.take(key(999), LONG_AFTER).unwrap();
        assert_eq!(guard.payment.exposure, Exposure::Possible);
        assert!(matches!(guard.payment.form, SignedForm::Payload(_)));
        let payload = guard.payment.form.payload().unwrap();
        assert_eq!(payload.tree()["nonce"], "999");
    }

    /// A server that settled late may still deliver within a day.
    #[test]
    fn a_header_is_kept_for_a_day_after_its_payment_has_expired() {
        let purchases = Purchases::default();
        lost_answers(&purchases, "http://a.example", 0..1);
        let end = Timestamp::from_secs(160 + HEADER_KEPT_SECS);
        for (now, has_header) in [(Timestamp::from_secs(end.secs() - 1), true), (end, false)] {
            assert!(purchases.has_room("http://a.example", now));
            let guard = purchases.take(key(0), now).unwrap();
            let found = matches!(guard.payment.form, SignedForm::Header(_));
            assert_eq!(found, has_header);
        }
    }

    #[test]
    fn long_headers_of_one_server_take_only_its_own_room() {
        let purchases = Purchases::default();
        let long = "x".repeat(31_000);
        for at in 0..300 {
            let mut payment = payment(&at.to_string(), 160);
            payment.exposure = Exposure::Possible;
            let presented = json!({ "extensions": { "x": long }, "payload": { "nonce": at } });
            payment.form = SignedForm::Header(header::encode(&presented));
            drop(purchases.insert(key(at), payment));
        }
        assert!(!purchases.has_room("http://a.example", NOW));
        assert!(purchases.has_room("http://b.example", NOW));
        assert!(purchases.has_room("http://a.example", LONG_AFTER));
        let entries = purchases.lock();
        let texts = entries.payments().map(|payment| match &payment.form {
            SignedForm::Header(text) | SignedForm::Payload(text) => text.len(),
        });
        assert!(texts.sum::<usize>() < 300 * 100);
    }

    #[test]
    fn oldest_payments_of_the_largest_server_are_forgotten() {
        let purchases = Purchases::default();
        lost_answers(&purchases, "http://b.example", 0..10);
        let first = 100;
        let share = (WITHOUT_HEADER_MAX / SHARE) as u64;
        for round in 0..2 {
            let from = first + round * share;
            lost_answers(&purchases, "http://a.example", from..from + share);
            assert!(purchases.has_room("http://a.example", LONG_AFTER));
        }
        let kept = purchases.lock().count();
        assert_eq!(kept, WITHOUT_HEADER_MAX / SHARE + 10);
        let open = purchases.open(LONG_AFTER);
        let others = open.iter().filter(|open| open.origin == "http://b.example");
        assert_eq!(others.count(), 10);
    }

    #[test]
    fn open_payments_are_bounded_and_finished_ones_make_room() {
        let purchases = Purchases::default();
        for at in 0..OPEN_MAX as u64 {
            let mut payment = payment(&at.to_string(), 160);
            payment.open.origin = format!("http://{}.example", at % 100);
            drop(purchases.insert(key(at), payment));
        }
        assert!(!purchases.has_room("http://a.example", NOW));
        assert!(purchases.has_room("http://a.example", LONG_AFTER));
        assert_eq!(purchases.lock().count(), 0);
    }
}
