//! What was bought and not yet delivered.
//!
//! An authorization is money. When a paid request fails, signing a second one would pay twice as soon as the first one
//! settles after all. So each purchase keeps the authorization it was made with, and presents that one again until the
//! goods are there or the authorization is over for certain: the chain shows that it ran out unused, no server ever saw it, or a
//! server that the caller trusts says that it moved nothing.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quittance_core::json::Object;
use quittance_core::wire::header;
use quittance_core::{Quote, Timestamp, Version};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tracing::warn;
use url::Url;

use crate::error::Open;
use crate::receipt::Receipt;
use crate::refusal::Word;
use crate::state::{StateError, StateFile};

/// How many payments that can be presented are kept. Those of a working server are gone in a minute; a buyer with this many
/// open ones has lost control of itself.
const OPEN_MAX: usize = 10_000;

/// How many bytes of signed headers are kept. A header is one to three kilobytes, so this is no limit for honest servers;
/// others could make each 32 KiB long.
const BYTES_MAX: usize = 32 * 1024 * 1024;

/// How many payments are kept of which only the facts are left, some 700 bytes each. All of them are written to the file
/// anew with every purchase, so this is also a megabyte to write.
const FACTS_MAX: usize = 2_000;

/// How long after its expiry the header of a payment is kept, in seconds: a server that settled it late may still serve it.
const HEADER_KEPT_SECS: u64 = 24 * 3600;

/// The part of each limit that payments to one server may take: one over this. A server that loses every answer stops the
/// purchases from itself, and needs three accomplices to stop those from others.
const SHARE: usize = 4;

/// How long after its expiry a payment may still be taken, in seconds: a block's time may be behind everybody's clock.
const AFTER_EXPIRY_SECS: u64 = 60;

/// What makes two requests the same request: method, URL and body, as the caller asked for it. Where redirects lead is
/// the server's choice and makes no other request of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Asked(pub(crate) [u8; 32]);

impl Asked {
    /// `None` where the body is a stream.
    pub(crate) fn of(request: &reqwest::Request) -> Option<Self> {
        let body = match request.body() {
            None => &[][..],
            Some(body) => body.as_bytes()?,
        };
        let mut url: Url = request.url().clone();
        // Never sent.
        url.set_fragment(None);
        let method = request.method().as_str();
        Some(Self(hash(&[
            method.as_bytes(),
            url.as_str().as_bytes(),
            body,
        ])))
    }
}

/// What makes two requests the same purchase: the request, and what is paid to whom. Not the terms' `extra`: sellers put
/// things into it that change with every answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(crate) [u8; 32]);

impl Key {
    pub(crate) fn of(asked: Asked, scheme: &str, quote: &Quote) -> Self {
        let amount = quote.amount.to_string();
        let texts = [
            scheme,
            &quote.network,
            &quote.asset.address,
            &quote.pay_to,
            &amount,
        ];
        let [scheme, network, asset, pay_to, amount] = texts.map(str::as_bytes);
        Self(hash(&[&asked.0, scheme, network, asset, pay_to, amount]))
    }
}

/// The hash of several texts, none of which runs into the next.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// What is kept of a signed payment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Signed {
    /// The header that presents it.
    Header(String),
    /// Only the payload, as JSON text. It has run out and cannot be presented any more; the chain can still be asked.
    Payload(String),
}

impl Signed {
    fn header_len(&self) -> usize {
        match self {
            Self::Header(value) => value.len(),
            Self::Payload(_) => 0,
        }
    }

    /// What the payer signed.
    pub(crate) fn payload(&self) -> Option<Object> {
        #[derive(Deserialize)]
        struct Presented {
            payload: Object,
        }
        match self {
            Self::Header(value) => {
                let presented = header::decode::<Presented>("payment", value.as_bytes());
                presented.ok().map(|presented| presented.payload)
            }
            Self::Payload(text) => serde_json::from_str(text).ok(),
        }
    }
}

/// A payment that was signed: what presents it, and what is known of it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payment {
    /// For which request; `None` in files of older versions.
    pub(crate) asked: Option<Asked>,
    pub(crate) version: Version,
    pub(crate) signed: Signed,
    pub(crate) standing: Standing,
    pub(crate) open: Open,
    /// Whether the chain says that it was used. Learnt anew when need be, and not written down.
    pub(crate) was_used: bool,
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

/// What is known of a payment without asking the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    /// No server has seen it.
    Unseen,
    /// Each presentation was answered by a server that the caller trusts: it moved nothing.
    Cleared,
    /// A server has it, and may have used it. In older files `refused` meant that a server said otherwise, which proves
    /// nothing.
    #[serde(alias = "refused")]
    Doubtful,
}

impl Payment {
    /// Whether it certainly has not moved any money and never will, as far as can be known without the chain. Until it has run
    /// out nothing rules that out: a server that has seen it can use it, whatever it says.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        self.standing != Standing::Doubtful && self.has_run_out(now)
    }

    /// Whether no block may take it any more.
    pub(crate) fn has_run_out(&self, now: Timestamp) -> bool {
        now >= self.open.expires.plus_secs(AFTER_EXPIRY_SECS)
    }

    /// Takes down that the chain says it was used.
    pub(crate) fn used(&mut self, transaction: Option<String>) {
        self.was_used = true;
        self.standing = Standing::Doubtful;
        if transaction.is_some() {
            self.open.transaction = transaction;
        }
    }

    /// Takes down what a server said of it. `before` is what was known before it was presented to that server.
    pub(crate) fn note(&mut self, word: Word, before: Standing) {
        self.standing = match (word, before) {
            (Word::NeverSettled, _) => Standing::Cleared,
            (Word::NotNow, Standing::Unseen | Standing::Cleared) => Standing::Cleared,
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
pub(crate) struct Purchases(Arc<Mutex<Kept>>);

/// A payment that somebody presents. It is kept for the next try, however this one ends, unless it is closed.
#[derive(Debug)]
pub(crate) struct Held {
    purchases: Purchases,
    key: Key,
    pub(crate) payment: Payment,
    /// What is known of it while it is being written down that somebody will see it: nobody has yet.
    unshown: Option<Standing>,
}

impl Purchases {
    /// The payments in a file, which is kept up to date.
    pub(crate) fn in_file(path: &Path) -> Result<Self, StateError> {
        let (file, payments) = StateFile::open(path)?;
        let mut kept = Kept::default();
        for (key, payment) in payments {
            kept.add(key, payment, false);
        }
        kept.file = Some(Arc::new(file));
        Ok(Self(Arc::new(Mutex::new(kept))))
    }

    /// Takes a payment of this purchase that no other call presents; forgets those that are over.
    pub(crate) fn take(&self, key: Key, now: Timestamp) -> Option<Held> {
        let mut kept = self.locked();
        kept.retain(Some(key), |entry| entry.held || !entry.payment.is_over(now));
        let entries = kept.entries.get_mut(&key)?;
        let entry = entries.iter_mut().find(|entry| !entry.held)?;
        Some(self.held(key, entry))
    }

    /// Takes a payment for this request, on whatever terms, that no other call presents.
    pub(crate) fn take_asked(&self, asked: Asked, now: Timestamp) -> Option<Held> {
        let mut kept = self.locked();
        let waits = |entry: &Entry| {
            !entry.held && entry.payment.asked == Some(asked) && !entry.payment.is_over(now)
        };
        let mut all = kept.entries.iter_mut();
        let (key, entry) = all.find_map(|(key, entries)| {
            let entry = entries.iter_mut().find(|entry| waits(entry))?;
            Some((*key, entry))
        })?;
        Some(self.held(key, entry))
    }

    fn held(&self, key: Key, entry: &mut Entry) -> Held {
        entry.held = true;
        Held {
            purchases: self.clone(),
            key,
            payment: entry.payment.clone(),
            unshown: None,
        }
    }

    /// The payment of this purchase that waits to be presented again.
    pub(crate) fn waiting(&self, key: Key, now: Timestamp) -> Option<Open> {
        let kept = self.locked();
        let waits = |entry: &&Entry| !entry.held && !entry.payment.is_over(now);
        let waiting = kept.entries.get(&key)?.iter().find(waits)?;
        Some(waiting.payment.open.clone())
    }

    /// Whether there is room for one more payment to this server. Payments that have run out make room: those that are
    /// over are forgotten, and of the others only the facts are kept. Of those that ran out long ago they are anyway.
    pub(crate) fn has_room(&self, origin: &str, now: Timestamp) -> bool {
        let mut kept = self.locked();
        kept.retain(None, |entry| entry.held || !entry.payment.is_over(now));
        kept.keep_facts_only(now, HEADER_KEPT_SECS);
        if kept.is_full(origin) {
            kept.keep_facts_only(now, AFTER_EXPIRY_SECS);
        }
        kept.forget_oldest(origin);
        !kept.is_full(origin)
    }

    /// Keeps a payment that was signed just now, for who presents it.
    pub(crate) fn hold(&self, key: Key, payment: Payment) -> Held {
        self.locked().add(key, payment.clone(), true);
        Held {
            purchases: self.clone(),
            key,
            payment,
            unshown: None,
        }
    }

    /// All that are open.
    pub(crate) fn open(&self, now: Timestamp) -> Vec<Open> {
        let kept = self.locked();
        let entries = kept.entries.values().flatten();
        let open = entries.filter(|entry| !entry.payment.is_over(now));
        open.map(|entry| entry.payment.open.clone()).collect()
    }

    /// Forgets the payment with this id; whether there was one.
    pub(crate) async fn abandon(&self, id: &str) -> bool {
        let (found, saved) = {
            let mut kept = self.locked();
            let before = kept.count();
            kept.retain(None, |entry| entry.payment.open.id != id);
            (kept.count() < before, kept.save())
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

    fn count(&self) -> usize {
        self.entries.values().map(Vec::len).sum()
    }

    /// Whether payments to this server, or to all, take all the room there is for those that can be presented.
    fn is_full(&self, origin: &str) -> bool {
        let (mut all, mut own) = ((0, 0), (0, 0));
        for payment in self.entries.values().flatten().map(|entry| &entry.payment) {
            let bytes = payment.signed.header_len();
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

    /// Leaves the headers away of payments that ran out so many seconds ago. What remains has a size that only the payer
    /// decides.
    fn keep_facts_only(&mut self, now: Timestamp, seconds: u64) {
        for entry in self.entries.values_mut().flatten() {
            let payment = &mut entry.payment;
            if entry.held || now < payment.open.expires.plus_secs(seconds) {
                continue;
            }
            if let Signed::Header(_) = &payment.signed {
                let payload = payment.signed.payload();
                let text = payload.map_or_else(String::new, |it| it.text().to_owned());
                payment.signed = Signed::Payload(text);
            }
        }
    }

    /// Lets the oldest go of the payments of which only the facts are left, where there are too many: to this server, or to
    /// all.
    fn forget_oldest(&mut self, origin: &str) {
        let mut facts: Vec<(Timestamp, String, bool)> = Vec::new();
        for payment in self.entries.values().flatten().map(|entry| &entry.payment) {
            if let Signed::Payload(_) = &payment.signed {
                let Open { expires, id, .. } = &payment.open;
                facts.push((*expires, id.clone(), payment.open.origin == origin));
            }
        }
        facts.sort_unstable();
        let own = facts.iter().filter(|(_, _, own)| *own).count();
        let mut too_many_own = own.saturating_sub(FACTS_MAX / SHARE);
        let mut too_many = facts.len().saturating_sub(FACTS_MAX).max(too_many_own);
        let mut gone = HashSet::new();
        for (_, id, own) in facts {
            if too_many > 0 && (too_many_own == 0 || own) {
                too_many -= 1;
                too_many_own = too_many_own.saturating_sub(1);
                gone.insert(id);
            }
        }
        if gone.is_empty() {
            return;
        }
        let count = gone.len();
        warn!(
            count,
            origin, "the oldest payments in doubt are forgotten, to make room"
        );
        self.retain(None, |entry| !gone.contains(&entry.payment.open.id));
    }

    /// Keeps those payments, of one purchase or of all, for which it says so.
    fn retain(&mut self, key: Option<Key>, stays: impl Fn(&Entry) -> bool) {
        let prune = |entries: &mut Vec<Entry>| {
            entries.retain(|entry| stays(entry));
            !entries.is_empty()
        };
        match key {
            None => self.entries.retain(|_, entries| prune(entries)),
            Some(key) => {
                if self
                    .entries
                    .get_mut(&key)
                    .is_some_and(|entries| !prune(entries))
                {
                    self.entries.remove(&key);
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
    pub(crate) fn take_down(&mut self, word: Word, receipt: Option<&Receipt>, before: Standing) {
        self.payment.note(word, before);
        let named = receipt.map(|receipt| &receipt.transaction);
        if let Some(named) = named.filter(|named| !named.is_empty()) {
            self.payment.open.transaction = Some(named.clone());
        }
    }

    /// Writes down that somebody is about to have the payment; what was known of it before. Who stops waiting for this must
    /// not show it.
    pub(crate) async fn show(&mut self) -> Result<Standing, StateError> {
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
    pub(crate) async fn keep(&self) {
        self.save().or_warn().await;
    }

    fn save(&self) -> Saving {
        let mut kept = self.purchases.locked();
        kept.change(self.key, &self.payment);
        kept.save()
    }

    /// Forgets the payment: the goods are there, or it is over.
    pub(crate) async fn close(self) {
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
    use serde_json::json;

    fn quote(amount: u64) -> Quote {
        Quote {
            network: "a:1".to_owned(),
            pay_to: "y".to_owned(),
            asset: Asset {
                address: "x".to_owned(),
                symbol: "USDC".to_owned(),
                decimals: 6,
            },
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
        let key = |request: &reqwest::Request, scheme: &str, amount: u64| {
            Key::of(Asked::of(request).unwrap(), scheme, &quote(amount))
        };
        let one = key(&post("/a", "x"), "exact", 1);
        for same in [post("/a", "x"), post("/a#part", "x")] {
            assert_eq!(key(&same, "exact", 1), one);
        }
        for other in [
            key(&post("/b", "x"), "exact", 1),
            key(&post("/a", "y"), "exact", 1),
            key(&post("/a", "x"), "exact", 2),
            key(&post("/a", "x"), "upto", 1),
            key(
                &client.get("http://a.example/a").body("x").build().unwrap(),
                "exact",
                1,
            ),
        ] {
            assert_ne!(other, one);
        }
    }

    fn payment(id: &str, expires: u64) -> Payment {
        Payment {
            asked: Some(ASKED),
            version: Version::V2,
            signed: Signed::Header(header::encode(&json!({ "payload": { "nonce": id } }))),
            standing: Standing::Unseen,
            open: Open {
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

    const ASKED: Asked = Asked([9; 32]);
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
    async fn a_payment_that_was_cleared_is_over_when_no_block_may_take_it_any_more() {
        let (purchases, key) = (Purchases::default(), Key([1; 32]));
        for (word, before) in [
            (Word::NotNow, Standing::Unseen),
            (Word::NotNow, Standing::Cleared),
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
        assert_eq!(purchases.locked().count(), 0);
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
            signed: Signed::Header("hunter2".to_owned()),
            ..payment("a", 160)
        };
        let held = Purchases::default().hold(Key([1; 32]), secret);
        assert!(!format!("{held:?}").contains("hunter2"));
    }

    fn key(at: u64) -> Key {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&at.to_be_bytes());
        Key(key)
    }

    fn lost_answers(purchases: &Purchases, origin: &str, numbers: std::ops::Range<u64>) {
        for at in numbers {
            let mut payment = payment(&at.to_string(), 160);
            payment.open.origin = origin.to_owned();
            payment.standing = Standing::Doubtful;
            drop(purchases.hold(key(at), payment));
        }
    }

    /// Payments in doubt were kept whole for ever, and in the end nothing was bought any more, from any server.
    #[test]
    fn lost_answers_of_one_server_take_only_its_own_room_and_make_room_when_they_have_run_out() {
        let purchases = Purchases::default();
        let share = (OPEN_MAX / SHARE) as u64;
        lost_answers(&purchases, "http://a.example", 0..share);
        assert!(!purchases.has_room("http://a.example", NOW));
        assert!(purchases.has_room("http://b.example", NOW));
        assert!(purchases.has_room("http://a.example", LONG_AFTER));
        // They are still known, and what was signed can still be looked up on the chain.
        let held = purchases.take(key(999), LONG_AFTER).unwrap();
        assert_eq!(held.payment.standing, Standing::Doubtful);
        assert!(matches!(held.payment.signed, Signed::Payload(_)));
        let payload = held.payment.signed.payload().unwrap();
        assert_eq!(payload.tree()["nonce"], "999");
    }

    /// A server that settled late may serve a payment that has run out; after a day that is no reason to keep it whole.
    #[test]
    fn a_header_is_kept_for_a_day_after_its_payment_has_run_out() {
        let purchases = Purchases::default();
        lost_answers(&purchases, "http://a.example", 0..1);
        let end = Timestamp::from_secs(160 + HEADER_KEPT_SECS);
        for (now, is_whole) in [(Timestamp::from_secs(end.secs() - 1), true), (end, false)] {
            assert!(purchases.has_room("http://a.example", now));
            let held = purchases.take(key(0), now).unwrap();
            let found = matches!(held.payment.signed, Signed::Header(_));
            assert_eq!(found, is_whole);
        }
    }

    #[test]
    fn a_servers_long_terms_take_only_its_own_room() {
        let purchases = Purchases::default();
        let long = "x".repeat(31_000);
        for at in 0..300 {
            let mut payment = payment(&at.to_string(), 160);
            payment.standing = Standing::Doubtful;
            let presented = json!({ "extensions": { "x": long }, "payload": { "nonce": at } });
            payment.signed = Signed::Header(header::encode(&presented));
            drop(purchases.hold(key(at), payment));
        }
        assert!(!purchases.has_room("http://a.example", NOW));
        assert!(purchases.has_room("http://b.example", NOW));
        assert!(purchases.has_room("http://a.example", LONG_AFTER));
        let kept = purchases.locked();
        let texts = kept
            .entries
            .values()
            .flatten()
            .map(|entry| match &entry.payment.signed {
                Signed::Header(text) | Signed::Payload(text) => text.len(),
            });
        assert!(texts.sum::<usize>() < 300 * 100);
    }

    #[test]
    fn the_oldest_facts_are_let_go_when_there_are_too_many_and_only_of_the_server_that_fills_them()
    {
        let purchases = Purchases::default();
        lost_answers(&purchases, "http://b.example", 0..10);
        let first = 100;
        let share = (FACTS_MAX / SHARE) as u64;
        for round in 0..2 {
            let from = first + round * share;
            lost_answers(&purchases, "http://a.example", from..from + share);
            assert!(purchases.has_room("http://a.example", LONG_AFTER));
        }
        let kept = purchases.locked().count();
        assert_eq!(kept, FACTS_MAX / SHARE + 10);
        let open = purchases.open(LONG_AFTER);
        let others = open.iter().filter(|open| open.origin == "http://b.example");
        assert_eq!(others.count(), 10);
    }

    #[test]
    fn open_payments_are_bounded_and_those_that_are_over_make_room() {
        let purchases = Purchases::default();
        for at in 0..OPEN_MAX as u64 {
            let mut payment = payment(&at.to_string(), 160);
            payment.open.origin = format!("http://{}.example", at % 100);
            drop(purchases.hold(key(at), payment));
        }
        assert!(!purchases.has_room("http://a.example", NOW));
        assert!(purchases.has_room("http://a.example", LONG_AFTER));
        assert_eq!(purchases.locked().count(), 0);
    }
}
