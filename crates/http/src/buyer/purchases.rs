//! What was bought and not yet delivered.
//!
//! An authorization is money. When a paid request fails, signing a second one would pay twice as soon as the first one
//! settles after all. So each purchase keeps the authorization it was made with, and presents that one again until the
//! goods are there or the authorization is over for certain: no block may take it any more, and of all presentations it
//! is known that they moved nothing.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quittance_core::wire::SettleResponse;
use quittance_core::{Quote, Timestamp, Version};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tracing::warn;

use super::error::Open;
use super::present;
use super::refusal::{self, Word};
use super::state::{StateError, StateFile};

/// How many payments are kept. Those of a working server are gone in a minute; a buyer with this many open ones has lost
/// control of itself.
const OPEN_MAX: usize = 10_000;

/// How many bytes of signed headers are kept. A header is one to three kilobytes, so this is no limit for honest servers;
/// others could make each 32 KiB long.
const BYTES_MAX: usize = 32 * 1024 * 1024;

/// How long after its expiry a payment may still be taken, in seconds: a block's time may be behind everybody's clock.
const AFTER_EXPIRY_SECS: u64 = 60;

/// What makes two requests the same purchase: method, URL, body, and what is paid to whom. Not the terms' `extra`: sellers
/// put things into it that change with every answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(pub(super) [u8; 32]);

impl Key {
    /// `None` where the body is a stream.
    pub(super) fn of(request: &reqwest::Request, scheme: &str, quote: &Quote) -> Option<Self> {
        let body = match request.body() {
            None => &[][..],
            Some(body) => body.as_bytes()?,
        };
        let mut url = request.url().clone();
        // Never sent.
        url.set_fragment(None);
        let asset = quote.asset.as_ref().map_or("", |asset| &asset.address);
        let amount = quote.amount.to_string();
        let texts = [
            request.method().as_str(),
            url.as_str(),
            scheme,
            &quote.network,
            asset,
            &quote.pay_to,
            &amount,
        ];
        let mut hash = Sha256::new();
        for part in texts.map(str::as_bytes).into_iter().chain([body]) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Some(Self(hash.finalize().into()))
    }
}

/// A payment that was signed: the header that presents it, and what is known of it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Payment {
    pub(super) version: Version,
    pub(super) value: String,
    pub(super) standing: Standing,
    pub(super) open: Open,
}

impl fmt::Debug for Payment {
    /// Leaves the header out: it is worth money.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payment")
            .field("standing", &self.standing)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

/// What those say who have seen a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Standing {
    /// Nobody has seen it.
    Unseen,
    /// Each presentation was answered: it moved nothing.
    Refused,
    /// Somebody has it, and may have used it.
    Doubtful,
}

impl Payment {
    /// Whether it certainly has not moved any money and never will. While it is valid that is nobody's to say: who has it
    /// can use it, whatever they tell.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.standing != Standing::Doubtful && self.has_run_out(now)
    }

    /// Whether no block may take it any more.
    pub(super) fn has_run_out(&self, now: Timestamp) -> bool {
        now >= self.open.expires.plus_secs(AFTER_EXPIRY_SECS)
    }

    /// Takes down what a server said of it. `before` is what was known before it was presented to that server.
    pub(super) fn note(&mut self, word: Word, before: Standing) {
        self.standing = match (word, before) {
            (Word::NeverSettled, _) => Standing::Refused,
            (Word::NotNow, Standing::Unseen | Standing::Refused) => Standing::Refused,
            (Word::NotNow, Standing::Doubtful) | (Word::Unknown, _) => Standing::Doubtful,
        };
    }
}

/// A kept payment, and whether somebody presents it just now.
#[derive(Debug)]
struct Entry {
    payment: Payment,
    held: bool,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<Key, Vec<Entry>>,
    count: usize,
    bytes: usize,
    /// How many changes were written down, or are about to be.
    changes: u64,
    /// Where they are written down. Payments that somebody has seen are in it before anybody sees them.
    file: Option<Arc<StateFile>>,
}

/// Something that is being written down.
struct Saving(Option<Writing>);

struct Writing {
    file: Arc<StateFile>,
    ends: JoinHandle<Result<(), StateError>>,
}

impl Saving {
    /// Until it is written.
    async fn done(self) -> Result<(), StateError> {
        let Some(Writing { file, ends }) = self.0 else {
            return Ok(());
        };
        ends.await
            .unwrap_or_else(|stopped| Err(file.error(stopped)))
    }

    /// For what the file may miss: it then has more open than there is, and nothing is paid twice.
    async fn or_warn(self) {
        if let Err(error) = self.done().await {
            warn!(%error, "what became of a payment was not written down");
        }
    }
}

/// The payments that were signed and neither delivered for nor over.
#[derive(Debug, Clone, Default)]
pub(super) struct Purchases(Arc<Mutex<Kept>>);

/// A payment that somebody presents. It is kept for the next try, however this one ends, unless it is closed.
#[derive(Debug)]
pub(super) struct Held {
    purchases: Purchases,
    key: Key,
    pub(super) payment: Payment,
    /// What is known of it while it is being written down that somebody will see it: nobody has yet.
    unshown: Option<Standing>,
}

impl Purchases {
    /// The payments in a file, which is kept up to date.
    pub(super) fn in_file(path: &Path) -> Result<Self, StateError> {
        let (file, payments) = StateFile::open(path)?;
        let mut kept = Kept::default();
        for (key, payment) in payments {
            kept.add(key, payment, false);
        }
        kept.file = Some(Arc::new(file));
        Ok(Self(Arc::new(Mutex::new(kept))))
    }

    /// Takes the payment of this purchase that nobody presents; forgets those that are over.
    pub(super) fn take(&self, key: Key, now: Timestamp) -> Option<Held> {
        let mut kept = self.locked();
        kept.retain(Some(key), |entry| entry.held || !entry.payment.is_over(now));
        let entry = kept
            .entries
            .get_mut(&key)?
            .iter_mut()
            .find(|entry| !entry.held)?;
        entry.held = true;
        Some(Held {
            purchases: self.clone(),
            key,
            payment: entry.payment.clone(),
            unshown: None,
        })
    }

    /// The payment of this purchase that waits to be presented again.
    pub(super) fn waiting(&self, key: Key, now: Timestamp) -> Option<Open> {
        let kept = self.locked();
        let waits = |entry: &&Entry| !entry.held && !entry.payment.is_over(now);
        let waiting = kept.entries.get(&key)?.iter().find(waits)?;
        Some(waiting.payment.open.clone())
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self, now: Timestamp) -> bool {
        let mut kept = self.locked();
        let full = |kept: &Kept| kept.count >= OPEN_MAX || kept.bytes >= BYTES_MAX;
        if full(&kept) {
            kept.retain(None, |entry| entry.held || !entry.payment.is_over(now));
        }
        !full(&kept)
    }

    /// Keeps a payment that was signed just now, for who presents it.
    pub(super) fn hold(&self, key: Key, payment: Payment) -> Held {
        self.locked().add(key, payment.clone(), true);
        Held {
            purchases: self.clone(),
            key,
            payment,
            unshown: None,
        }
    }

    /// All that are open.
    pub(super) fn open(&self, now: Timestamp) -> Vec<Open> {
        let kept = self.locked();
        let entries = kept.entries.values().flatten();
        let open = entries.filter(|entry| !entry.payment.is_over(now));
        open.map(|entry| entry.payment.open.clone()).collect()
    }

    /// Forgets the payment with this id; whether there was one.
    pub(super) async fn abandon(&self, id: &str) -> bool {
        let (found, saved) = {
            let mut kept = self.locked();
            let before = kept.count;
            kept.retain(None, |entry| entry.payment.open.id != id);
            (kept.count < before, kept.save())
        };
        saved.or_warn().await;
        found
    }

    fn locked(&self) -> MutexGuard<'_, Kept> {
        // Whoever panicked with the lock left the map whole: nothing in here panics between two changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn add(&mut self, key: Key, payment: Payment, held: bool) {
        self.count += 1;
        self.bytes += payment.value.len();
        let entry = Entry { payment, held };
        self.entries.entry(key).or_default().push(entry);
    }

    /// Begins to write everything down, where there is a file. Once begun it is done, whether anybody waits for it or not.
    fn save(&mut self) -> Saving {
        let Some(file) = self.file.clone() else {
            return Saving(None);
        };
        self.changes += 1;
        let (change, payments) = (self.changes, self.all());
        let own = Arc::clone(&file);
        // A disk may take its time, and others have work to do on this thread.
        let ends = tokio::task::spawn_blocking(move || own.write(change, &payments));
        Saving(Some(Writing { file, ends }))
    }

    fn all(&self) -> Vec<(Key, Payment)> {
        let entries = self.entries.iter();
        let payments = entries.flat_map(|(key, entries)| {
            let payments = entries.iter().map(|entry| entry.payment.clone());
            payments.map(|payment| (*key, payment))
        });
        payments.collect()
    }

    /// Keeps those payments, of one purchase or of all, for which it says so.
    fn retain(&mut self, key: Option<Key>, stays: impl Fn(&Entry) -> bool) {
        let Self {
            entries,
            count,
            bytes,
            ..
        } = self;
        let mut prune = |entries: &mut Vec<Entry>| {
            entries.retain(|entry| {
                let stays = stays(entry);
                if !stays {
                    *count -= 1;
                    *bytes -= entry.payment.value.len();
                }
                stays
            });
            !entries.is_empty()
        };
        match key {
            None => entries.retain(|_, entries| prune(entries)),
            Some(key) => {
                if entries.get_mut(&key).is_some_and(|entries| !prune(entries)) {
                    entries.remove(&key);
                }
            }
        }
    }

    fn change(&mut self, key: Key, payment: &Payment) {
        if let Some(entry) = self.entry(key, &payment.open.id) {
            entry.payment = payment.clone();
        }
    }

    fn entry(&mut self, key: Key, id: &str) -> Option<&mut Entry> {
        let entries = self.entries.get_mut(&key)?;
        entries.iter_mut().find(|entry| entry.payment.open.id == id)
    }
}

impl Held {
    /// Takes down what a server said of the payment. `before` is what was known before it was presented to that server.
    pub(super) fn take_down(
        &mut self,
        reason: &str,
        receipt: Option<&SettleResponse>,
        before: Standing,
    ) {
        self.payment.note(refusal::word(reason, receipt), before);
        if let Some(transaction) = present::transaction(receipt) {
            self.payment.open.transaction = Some(transaction);
        }
    }

    /// Writes down that somebody is about to have the payment; what was known of it before. Who stops waiting for this must
    /// not show it.
    pub(super) async fn show(&mut self) -> Result<Standing, StateError> {
        let before = std::mem::replace(&mut self.payment.standing, Standing::Doubtful);
        self.unshown = Some(before);
        let saved = self.save().done().await;
        if let Err(error) = saved {
            self.payment.standing = before;
            self.purchases.locked().change(self.key, &self.payment);
            return Err(error);
        }
        self.unshown = None;
        Ok(before)
    }

    /// Writes down what is known of the payment now.
    pub(super) async fn keep(&self) {
        self.save().or_warn().await;
    }

    fn save(&self) -> Saving {
        let mut kept = self.purchases.locked();
        kept.change(self.key, &self.payment);
        kept.save()
    }

    /// Forgets the payment: the goods are there, or it is over.
    pub(super) async fn close(self) {
        let saved = {
            let mut kept = self.purchases.locked();
            let others = |entry: &Entry| entry.payment.open.id != self.payment.open.id;
            kept.retain(Some(self.key), others);
            kept.save()
        };
        saved.or_warn().await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut kept = self.purchases.locked();
        if let Some(entry) = kept.entry(self.key, &self.payment.open.id) {
            entry.held = false;
            entry.payment.standing = self.unshown.unwrap_or(entry.payment.standing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quittance_core::{Amount, Asset};

    fn quote(amount: u64) -> Quote {
        Quote {
            network: "a:1".to_owned(),
            pay_to: "y".to_owned(),
            asset: Some(Asset {
                address: "x".to_owned(),
                symbol: "USDC".to_owned(),
                decimals: 6,
            }),
            amount: Amount::from(amount),
        }
    }

    #[test]
    fn a_purchase_is_what_is_asked_for_and_on_which_terms() {
        let client = reqwest::Client::new();
        let post = |path: &str, body: &str| {
            client
                .post(format!("http://a.example{path}"))
                .body(body.to_owned())
                .build()
                .unwrap()
        };
        let key = Key::of(&post("/a", "x"), "exact", &quote(1)).unwrap();
        for same in [post("/a", "x"), post("/a#part", "x")] {
            assert_eq!(Key::of(&same, "exact", &quote(1)), Some(key));
        }
        for other in [
            Key::of(&post("/b", "x"), "exact", &quote(1)),
            Key::of(&post("/a", "y"), "exact", &quote(1)),
            Key::of(&post("/a", "x"), "exact", &quote(2)),
            Key::of(&post("/a", "x"), "upto", &quote(1)),
            Key::of(
                &client.get("http://a.example/a").body("x").build().unwrap(),
                "exact",
                &quote(1),
            ),
        ] {
            assert_ne!(other, Some(key));
        }
    }

    fn payment(id: &str, expires: u64) -> Payment {
        Payment {
            version: Version::V2,
            value: id.to_owned(),
            standing: Standing::Unseen,
            open: Open {
                id: id.to_owned(),
                network: "a:1".to_owned(),
                asset: "x".to_owned(),
                pay_to: "y".to_owned(),
                amount: Amount::from(1),
                expires: Timestamp::from_secs(expires),
                transaction: None,
            },
        }
    }

    const NOW: Timestamp = Timestamp::from_secs(100);
    const LONG_AFTER: Timestamp = Timestamp::from_secs(1_000_000);

    #[tokio::test]
    async fn a_payment_that_may_have_been_used_is_kept_for_ever() {
        let (purchases, key) = (Purchases::default(), Key([1; 32]));
        let mut held = purchases.hold(key, payment("a", 160));
        held.payment.note(Word::Unknown, Standing::Unseen);
        held.keep().await;
        drop(held);
        let mut held = purchases.take(key, LONG_AFTER).unwrap();
        assert_eq!(held.payment.standing, Standing::Doubtful);
        // A later refusal says nothing of the presentation before.
        held.payment.note(Word::NotNow, Standing::Doubtful);
        held.keep().await;
        drop(held);
        assert!(purchases.take(key, LONG_AFTER).is_some());
        assert!(purchases.abandon("a").await && purchases.take(key, LONG_AFTER).is_none());
    }

    #[tokio::test]
    async fn a_payment_that_was_refused_is_over_when_no_block_may_take_it_any_more() {
        let (purchases, key) = (Purchases::default(), Key([1; 32]));
        for (word, before) in [
            (Word::NotNow, Standing::Unseen),
            (Word::NotNow, Standing::Refused),
            (Word::NeverSettled, Standing::Doubtful),
        ] {
            let mut held = purchases.hold(key, payment("a", 160));
            held.payment.note(word, before);
            held.keep().await;
            drop(held);
            let last = Timestamp::from_secs(160 + AFTER_EXPIRY_SECS - 1);
            // Those that are over were told as open until somebody bought the same again.
            assert!(purchases.waiting(key, last).is_some() && purchases.open(last).len() == 1);
            let later = last.plus_secs(1);
            assert!(purchases.waiting(key, later).is_none() && purchases.open(later).is_empty());
            assert!(purchases.take(key, last).is_some());
            assert!(purchases.take(key, last.plus_secs(1)).is_none());
        }
        assert_eq!(purchases.locked().count, 0);
    }

    #[tokio::test]
    async fn while_a_payment_is_presented_another_buyer_of_the_same_signs_its_own() {
        let (purchases, key) = (Purchases::default(), Key([1; 32]));
        let held = purchases.hold(key, payment("a", 160));
        let waiting = || purchases.waiting(key, NOW);
        assert!(waiting().is_none() && purchases.take(key, NOW).is_none());
        drop(held);
        assert!(waiting().is_some());
        purchases.take(key, NOW).unwrap().close().await;
        assert!(waiting().is_none() && purchases.take(key, NOW).is_none());
    }

    /// The caller gave up while it was written down that the payment would be shown: nobody has seen it.
    #[tokio::test]
    async fn a_payment_whose_showing_was_given_up_is_unseen() {
        let folder = tempfile::tempdir().unwrap();
        let purchases = Purchases::in_file(&folder.path().join("purchases.json")).unwrap();
        let key = Key([1; 32]);
        let mut held = purchases.hold(key, payment("a", 160));
        let mut showing = Box::pin(held.show());
        let polled = futures_util::poll!(showing.as_mut());
        assert!(polled.is_pending());
        drop(showing);
        drop(held);
        assert_eq!(
            purchases.take(key, NOW).unwrap().payment.standing,
            Standing::Unseen
        );
        // One that was shown is not.
        let mut held = purchases.take(key, NOW).unwrap();
        held.show().await.unwrap();
        drop(held);
        assert_eq!(
            purchases.take(key, NOW).unwrap().payment.standing,
            Standing::Doubtful
        );
    }

    #[test]
    fn what_is_printed_of_a_payment_is_not_the_payment() {
        let secret = Payment {
            value: "hunter2".to_owned(),
            ..payment("a", 160)
        };
        let held = Purchases::default().hold(Key([1; 32]), secret);
        assert!(!format!("{held:?}").contains("hunter2"));
    }

    #[test]
    fn open_payments_are_bounded_and_those_that_are_over_make_room() {
        let purchases = Purchases::default();
        for at in 0..OPEN_MAX as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&at.to_be_bytes());
            drop(purchases.hold(Key(key), payment(&at.to_string(), 160)));
        }
        assert!(!purchases.has_room(NOW));
        assert!(purchases.has_room(LONG_AFTER));
        assert_eq!(purchases.locked().count, 0);
    }
}
