//! The contract of a journal.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{
    LaneId, PaymentId, SchemeState, StateId, StateStore, Timestamp, Transaction, TransactionId,
};

use crate::entry::{Entry, Restored, StoredState, TransactionPage};
use crate::error::JournalError;
use crate::event::{EventCursor, EventFilter, Events, NewEvents};
use crate::page::{Cursor, Filter, Page};
use crate::replica::{FencingToken, HandedOver, Lease, LeaseName, Members, ReplicaId};
use crate::settlement::{Claim, Claimed, Ended, Outcome, Reported, Settlement, SettlementStep};

/// How often a journal is asked by default whether a settlement was handed over. The journal finds
/// the answer in an index, and a caller hardly notices the time.
const HANDED_OVER_EVERY: Duration = Duration::from_millis(100);

/// Stores settlements, and the state records of schemes.
///
/// Several processes may use one journal, if its implementation allows it. Each is a
/// [replica](Self::replica), and a member while it [renews](Self::renew) its membership. An open
/// settlement has an owner: the replica that works on it. Only its owner records transactions for
/// it and concludes it. Only the holder of a lane's lease records transactions of that lane.
///
/// **An implementation must** return from a method that writes only when the write survives a crash
/// of the machine. It must apply each write completely or not at all. A write that it refuses must
/// not fail another one. It may be called from many tasks at once.
///
/// **The engine guarantees** that it signs nothing before [`claim`](Self::claim) returned
/// [`Claimed::Won`], and that it sends no transaction before [`record`](Self::record) returned. It
/// repeats `record`, [`withdraw`](Self::withdraw) and [`conclude`](Self::conclude) until they
/// succeed or the process stops, so each must be safe to repeat. Every time it passes comes from
/// the engine's own clock.
///
/// ```
/// use quittance_core::{Amount, PaymentId, PaymentInfo, Timestamp};
/// use quittance_journal::{Claim, Claimed, Filter, Journal, SqliteJournal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("journal-example-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("journal.db");
/// let journal = SqliteJournal::open(path).await?;
/// let now = Timestamp::from_secs(1_800_000_000);
/// let info = PaymentInfo {
///     id: PaymentId::from_parts(&[b"an authorization"]),
///     payer: "payer".to_owned(),
///     pay_to: "seller".to_owned(),
///     asset: "coin".to_owned(),
///     amount: Amount::from(7),
///     expires: now.plus_secs(60),
/// };
/// let claim = Claim::new("example:1", "exact", &info, "{}".to_owned(), now);
/// assert_eq!(journal.claim(&claim, now).await?, Claimed::Won { attempt: 1 });
/// assert!(matches!(journal.claim(&claim, now).await?, Claimed::Taken(_)));
///
/// let page = journal.page(&Filter::new().open_only(), None).await?;
/// assert_eq!(page.settlements.len(), 1);
/// # drop(journal);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Journal: StateStore {
    /// What is wrong with the journal now, as a sentence for the operator. `None` while it can be
    /// written, as far as is known. Returns at once. A journal that failed must itself find out
    /// when it can be written again.
    fn problem(&self) -> Option<String> {
        None
    }

    /// Claims an authorization if it is free. It is free if it was never claimed, or if its last
    /// attempt ended as [`Outcome::Released`]. After [`Outcome::Failed`] it is free while fewer
    /// than [`FAILURES_MAX`](crate::FAILURES_MAX) attempts failed with a transaction. If the claim
    /// retries without limit, it is always free after a pause
    /// ([`Settlement::claimable_from`]), also after [`Outcome::Lost`] of such a claim. Atomic among
    /// all users of the journal. The replica that wins is the settlement's owner.
    ///
    /// A refund is won only if the original payment has settled, on the same network and in the
    /// same asset, with its payer and its recipient exchanged. Its amount must be left of what
    /// settled, less all open and settled refunds. A refund that settled for less than its claim
    /// counts with the whole claim until it is final, because the chain may still take it back.
    ///
    /// A claim of an [unfinished](Claim::is_unfinished) payment is won without these conditions. It
    /// gets its state record for itself only if that is free.
    ///
    /// An exclusive claim is won only if no other settlement has the state record exclusively, and
    /// the record still has the claim's revision.
    ///
    /// # Errors
    /// When the claim could not be written. [`JournalError::Refused`] if its exclusive record
    /// belongs to another scheme, or if it is unfinished and refunds an unknown settlement.
    async fn claim(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, JournalError>;

    /// Records a signed transaction for the current attempts of these settlements, as far as they
    /// are open, or have a transaction of its lane with its sequence number. Such a one is replaced
    /// by it, and a settlement that has ended can end by it again: the chain can take a block back,
    /// and then include the replacement. May be repeated. A withdrawn transaction that is recorded
    /// again counts again, with the lane and the sequence number of the newest record.
    ///
    /// `token` is that of the lease of the transaction's lane ([`LeaseName::lane`]). It is checked
    /// with the same write. `None` if the lane's signer is not one of the facilitator's.
    ///
    /// # Errors
    /// When the record could not be written. [`JournalError::LeaseLost`] unless this replica is a
    /// member and holds the lane's lease with this token. [`JournalError::NotOwner`] if one of the
    /// settlements is open and this replica is not its owner. A replacement is no error.
    async fn record(
        &self,
        network: &str,
        transaction: &Transaction,
        settlements: &[SettlementStep],
        token: Option<FencingToken>,
        now: Timestamp,
    ) -> Result<(), JournalError>;

    /// Marks a recorded transaction that a node refused and that will not be sent again. Its
    /// sequence number in the lane is free. `token` as for [`record`](Self::record).
    ///
    /// # Errors
    /// When the mark could not be written. [`JournalError::LeaseLost`] as for `record`.
    async fn withdraw(
        &self,
        transaction: &TransactionId,
        token: Option<FencingToken>,
    ) -> Result<(), JournalError>;

    /// Ends the attempt of an open settlement, and with the same write gives its state record the
    /// next content, if there is one. A state record that the settlement had exclusively is free
    /// again, whatever the outcome is. A settlement that settled without a transaction is final. It
    /// has no owner any more.
    ///
    /// Whether another settlement has the record exclusively does not matter here: the money has
    /// moved.
    ///
    /// # Errors
    /// When the outcome could not be written. [`JournalError::NotOwner`] if the settlement is open
    /// in this attempt and this replica is not its owner. [`JournalError::Refused`] if `state` is
    /// not the record of the claim's access, or belongs to another scheme. Also for
    /// [`Outcome::Lost`] if success was not reported, and for [`Outcome::Failed`] and
    /// [`Outcome::Released`] if it was.
    async fn conclude(
        &self,
        id: &PaymentId,
        attempt: u32,
        outcome: &Outcome,
        state: Option<&SchemeState>,
        now: Timestamp,
    ) -> Result<Ended, JournalError>;

    /// Opens a settlement again whose transaction the chain no longer has. Returns `false`, and
    /// changes nothing, unless it settled in this attempt and is not final. The time of the success
    /// report is kept. An exclusive state record is taken again, unless another settlement has it
    /// by now. This replica becomes its owner.
    ///
    /// # Errors
    /// When the change could not be written.
    async fn reopen(
        &self,
        id: &PaymentId,
        attempt: u32,
        now: Timestamp,
    ) -> Result<bool, JournalError>;

    /// Marks these settlements as final. Ignores settlements that are not settled, and those that
    /// are final already: the first time stays.
    ///
    /// # Errors
    /// When the marks could not be written.
    async fn finalize(&self, ids: &[PaymentId], now: Timestamp) -> Result<(), JournalError>;

    /// Asks for the right to answer `success: true` for an authorization that settled in this
    /// attempt. One caller ever gets [`Reported::First`]. `key` names the caller's sale: within a
    /// day of the first report ([`REPORTED_AGAIN_FOR`](crate::REPORTED_AGAIN_FOR)) the same key
    /// gets [`Reported::Again`]. Another key, none, and an empty one do not. If the claim retries
    /// without limit, every later caller gets `Again`.
    ///
    /// # Errors
    /// When the report could not be written. Then success must not be answered.
    async fn report_success(
        &self,
        id: &PaymentId,
        attempt: u32,
        key: Option<&str>,
        now: Timestamp,
    ) -> Result<Reported, JournalError>;

    /// One settlement with its transactions. `None` if the authorization was never claimed.
    ///
    /// # Errors
    /// When it cannot be read.
    async fn settlement(&self, id: &PaymentId) -> Result<Option<Settlement>, JournalError>;

    /// The settlements that a transaction was recorded for, each with its step.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn settlements_of(
        &self,
        transaction: &TransactionId,
    ) -> Result<Vec<SettlementStep>, JournalError>;

    /// The open settlements of a network that no other member works on, oldest first. Load each
    /// settlement only after taking its in-flight guard: it may have changed.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn open(&self, network: &str) -> Result<Vec<PaymentId>, JournalError>;

    /// The settlements of a network that have settled and are not final, oldest first.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn not_final(&self, network: &str) -> Result<Vec<PaymentId>, JournalError>;

    /// One page of the settlements that match a filter, in the order in which they were first
    /// claimed. Start with `after: None`, then pass [`Page::next`].
    ///
    /// The order never changes. So a settlement that matches the filter during the whole listing
    /// appears exactly once. A settlement that is first claimed during the listing appears at its
    /// end.
    ///
    /// # Errors
    /// When the journal cannot be read.
    async fn page(&self, filter: &Filter, after: Option<Cursor>) -> Result<Page, JournalError>;

    /// The transactions recorded for these sequence numbers of a lane, without withdrawn ones and
    /// without those whose bytes were [pruned](Self::prune). They are ordered by sequence number,
    /// and within one number oldest first.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn transactions_at(
        &self,
        network: &str,
        lane: &LaneId,
        sequences: Range<u64>,
    ) -> Result<Vec<Transaction>, JournalError>;

    /// One more than the highest sequence number of a lane that has a recorded transaction; 0 if
    /// there is none. Withdrawn transactions do not count.
    ///
    /// # Errors
    /// When it cannot be read.
    async fn next_sequence(&self, network: &str, lane: &LaneId) -> Result<u64, JournalError>;

    /// One page of all recorded transactions, withdrawn ones included, in the order in which they
    /// were first recorded: at most `limit`. Start with `after: None`, then pass
    /// [`TransactionPage::last`]. A transaction that is recorded during the listing appears at its
    /// end.
    ///
    /// # Errors
    /// When the journal cannot be read.
    async fn transactions(
        &self,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<TransactionPage, JournalError>;

    /// At most `limit` state records of all schemes, those that are only taken included, in the
    /// order of their ids, behind `after`.
    ///
    /// # Errors
    /// When the journal cannot be read, or one of the records.
    async fn states(
        &self,
        after: Option<&StateId>,
        limit: u32,
    ) -> Result<Vec<StoredState>, JournalError>;

    /// Writes an entry that was read from a journal: from this one earlier, or from another one.
    /// May be repeated.
    ///
    /// Nothing becomes lower: of two states of a settlement the later one stays, by
    /// [`Settlement::merged`]. Of two revisions of a state record the higher one stays. It belongs
    /// to its exclusive settlement only if that is open and no other settlement has it. A
    /// transaction that is withdrawn on one side only counts as sent.
    ///
    /// # Errors
    /// When the entry could not be written. [`JournalError::Refused`] if it contradicts what the
    /// journal has, or if it names a transaction or an original payment that the journal does not
    /// have.
    async fn restore(&self, entry: &Entry) -> Result<Restored, JournalError>;

    /// Removes the personal data of at most `limit` settlements that have ended for good before
    /// this time. Returns how many these were; 0 if none is left.
    ///
    /// A settlement has ended for good when it is final, or when it failed or was released and its
    /// authorization has expired. One with an open refund has not, and a lost one never has. Its
    /// parties, its request, detail, receipt and the caller's key are removed, and the bytes of
    /// those of its transactions that no other settlement needs. Its caller becomes one that does
    /// not exist, if it had one. Everything else stays: no replay of the authorization is won.
    ///
    /// # Errors
    /// When the change could not be written.
    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64, JournalError>;
    /// This process, as a user of the journal. It stays the same as long as the journal is open.
    fn replica(&self) -> ReplicaId;

    /// Makes this replica a member for this long from now, by the journal's own clock, and answers
    /// who the members are. A membership that is over can be renewed, too: what no other replica
    /// has taken meanwhile still belongs to this one.
    ///
    /// Renewing, acquiring and taking up are in one order for all replicas: what this answer says
    /// that the replica holds stays its own for `duration`, unless it releases it.
    ///
    /// # Errors
    /// When it could not be written, or the leases cannot be read. The membership may have been
    /// renewed nevertheless.
    async fn renew(&self, duration: Duration) -> Result<Members, JournalError>;

    /// Ends the membership of this replica, and with it all that it holds. Other replicas can take
    /// up its settlements and its leases at once.
    ///
    /// # Errors
    /// When it could not be written. Then the membership ends when its time is over.
    async fn leave(&self) -> Result<(), JournalError>;

    /// Acquires a lease, if this replica is a member and no other member holds it. The token is one
    /// more than that of the last tenure. A lease that this replica has keeps its token. `None` if
    /// it is not acquired.
    ///
    /// # Errors
    /// When it could not be written.
    async fn acquire(&self, name: &LeaseName) -> Result<Option<Lease>, JournalError>;

    /// Releases a lease, if this replica holds it.
    ///
    /// # Errors
    /// When it could not be written.
    async fn release(&self, name: &LeaseName) -> Result<(), JournalError>;

    /// Makes this replica the owner of those of these settlements that are open and that no other
    /// member works on. Returns those that it owns now, in the same order. None if it is not a
    /// member.
    ///
    /// # Errors
    /// When it could not be written.
    async fn take_up(&self, ids: &[PaymentId]) -> Result<Vec<PaymentId>, JournalError>;

    /// Hands a settlement over: it has no owner any more. `lane` is the only lane that can send it;
    /// `None` if any can. Returns `false`, and changes nothing, unless the settlement is open in
    /// this attempt and this replica is its owner.
    ///
    /// # Errors
    /// When it could not be written.
    async fn hand_over(
        &self,
        id: &PaymentId,
        attempt: u32,
        lane: Option<&LaneId>,
    ) -> Result<bool, JournalError>;

    /// The open settlements of a network that have no owner, oldest first, and at most `limit`.
    /// Asked many times a second, so an implementation should find them by an index.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn handed_over(&self, network: &str, limit: u32)
    -> Result<Vec<HandedOver>, JournalError>;

    /// Waits until a settlement may have been handed over. It may return early, and should return
    /// within a second. By default it only waits for a tenth of a second. A journal that is
    /// notified by its database can return as soon as that happens.
    async fn wait_for_hand_over(&self) {
        tokio::time::sleep(HANDED_OVER_EVERY).await;
    }

    /// Holds a state record for a verified payment, for this long. Returns `false` if a payment
    /// holds it: also for the same payment, because each of its requests would be served. All
    /// replicas see a hold. It may be forgotten when the journal is opened again: the record's
    /// revision decides about the money.
    ///
    /// # Errors
    /// When it could not be written.
    async fn hold_state(
        &self,
        state: &StateId,
        payment: &PaymentId,
        duration: Duration,
    ) -> Result<bool, JournalError>;

    /// Ends the hold of a payment, because its outcome is known. Ignored if the payment does not
    /// hold the record.
    ///
    /// # Errors
    /// When it could not be written. Then the hold ends when its time is over.
    async fn release_state(&self, state: &StateId, payment: &PaymentId)
    -> Result<(), JournalError>;

    /// The events behind a position of the feed, at most as many as the filter says. `after: None`
    /// starts with the oldest event that the journal still has. Then pass [`Events::next`].
    ///
    /// Every change of a settlement adds one event to the feed, in the write that makes the change:
    ///
    /// * a claim that is won, [`Claimed`](crate::EventKind::Claimed);
    /// * a transaction that is recorded for the current attempt of an open settlement for the first
    ///   time, [`Signed`](crate::EventKind::Signed), for each settlement;
    /// * an attempt that ends, the event of its outcome, with the deciding transaction;
    /// * a settlement that is opened again, [`Reopened`](crate::EventKind::Reopened), with the
    ///   transaction that the chain took back;
    /// * the first report of success, [`Reported`](crate::EventKind::Reported), and the first mark
    ///   as final, [`Final`](crate::EventKind::Final), with the deciding transaction. A settlement
    ///   that is final at once has both events, of its outcome and then of its finality.
    ///
    /// A write that changes nothing adds no event. Settlements that were written before the journal
    /// had a feed have no events of that time.
    ///
    /// A reader that follows [`Events::next`] gets every event exactly once, and the events of one
    /// settlement in the order of its changes. **An implementation with several writers** must not
    /// let a reader pass an event that is committed later. A number from a sequence alone does not
    /// suffice: a write with a lower number may be committed after one with a higher number.
    ///
    /// # Errors
    /// [`JournalError::UnknownCursor`] if events behind `after` were removed, or if the journal
    /// never had this position. Else when the journal cannot be read.
    async fn events(
        &self,
        filter: &EventFilter,
        after: Option<&EventCursor>,
    ) -> Result<Events, JournalError>;

    /// The position behind every event that can be read now. Every event that is written later
    /// comes behind it.
    ///
    /// # Errors
    /// When the journal cannot be read.
    async fn newest_event(&self) -> Result<EventCursor, JournalError>;

    /// Wakes a reader of events. Subscribe before the first read: an event that is written between
    /// a read and the wait then ends the wait. An implementation must wake its readers within a few
    /// seconds after an event can be read, whichever process wrote it.
    fn new_events(&self) -> NewEvents;

    /// The position that a reader has saved. `None` if it has saved none.
    ///
    /// # Errors
    /// When it cannot be read.
    async fn event_cursor(&self, reader: &str) -> Result<Option<EventCursor>, JournalError>;

    /// Saves the position behind the last event that a reader has finished, under the reader's own
    /// name. Survives a crash. It has no effect on the feed, nor on other readers.
    ///
    /// # Errors
    /// When it could not be written.
    async fn save_event_cursor(
        &self,
        reader: &str,
        cursor: &EventCursor,
    ) -> Result<(), JournalError>;

    /// Removes the oldest events, as far as they happened before a time: at most `limit` of them.
    /// The newest event stays. Returns how many were removed. A reader whose position is before
    /// them gets [`JournalError::UnknownCursor`].
    ///
    /// # Errors
    /// When they could not be removed.
    async fn remove_events(&self, before: Timestamp, limit: u32) -> Result<u64, JournalError>;
}
