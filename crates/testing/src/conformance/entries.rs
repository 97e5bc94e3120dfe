//! The properties of a journal's copies: entries that are read, restored and pruned. They are part
//! of the suite for journals.

use quittance_core::{PaymentId, StateStore, Timestamp, TransactionId};
use quittance_engine::{
    Claimed, Entry, Filter, Journal, JournalError, RefundProblem, Reported, Restored, Settlement,
    SignedRef, State, StateKind,
};

use super::journal::{
    JournalFixture, NOW, claim, end, failed, full_claim, known, lost, original, record, record_id,
    refund, released, settled, settling, taken, transaction, win,
};

/// Every entry of a journal: transactions, then settlements, then state records.
async fn entries<J: Journal>(journal: &J) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut after = None;
    loop {
        let page = journal.transactions(after, 2).await.expect("a page");
        assert_eq!(page.unreadable, 0);
        entries.extend(page.transactions.into_iter().map(Entry::Transaction));
        match page.last {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    let (filter, mut after) = (Filter::new().limit(3), None);
    loop {
        let page = journal.page(&filter, after).await.expect("a page");
        entries.extend(page.settlements.into_iter().map(settlement));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let mut after = None;
    loop {
        let states = journal.states(after.as_ref(), 1).await.expect("records");
        match states.last() {
            Some(last) => after = Some(last.record.id),
            None => return entries,
        }
        entries.extend(states.into_iter().map(Entry::State));
    }
}

fn settlement(mut settlement: Settlement) -> Entry {
    let mut signed: Vec<SignedRef> = settlement.all_signed().map(SignedRef::from).collect();
    signed.sort_by(|one, other| one.transaction.as_str().cmp(other.transaction.as_str()));
    settlement.transactions.clear();
    settlement.withdrawn.clear();
    // An entry has no owner. A replica that works on it becomes the owner.
    settlement.owner = None;
    Entry::Settlement {
        settlement: Box::new(settlement),
        signed,
    }
}

/// Restores all entries, and returns what became of each.
async fn restore<J: Journal>(journal: &J, entries: &[Entry]) -> Vec<Restored> {
    let mut answers = Vec::new();
    for entry in entries {
        answers.push(journal.restore(entry).await.expect("a restored entry"));
    }
    answers
}

async fn record_for<J: Journal>(journal: &J, id: &str, sequence: u64, payments: &[PaymentId]) {
    let steps: Vec<_> = payments.iter().copied().map(settling).collect();
    let transaction = transaction(id, sequence);
    let recorded = journal.record("test:1", &transaction, &steps, None, NOW);
    recorded.await.expect("a record");
}

/// A journal with a settlement in each state, and with everything that an entry can have.
async fn eventful<J: Journal>(journal: &J) {
    for (at, outcome) in [settled("0x0"), failed(Some("0x1")), released(), lost()]
        .into_iter()
        .enumerate()
    {
        let claim = claim(&format!("ended {at}"));
        let attempt = win(journal, &claim).await;
        record_for(journal, &format!("0x{at}"), at as u64, &[claim.id]).await;
        if outcome.kind() == StateKind::Lost {
            let before = end(journal, claim.id, (attempt, NOW), settled("0x3"), None).await;
            assert_eq!(before, quittance_engine::Ended::Yes);
            let reported = journal
                .report_success(&claim.id, attempt, Some("key"), NOW)
                .await;
            assert_eq!(reported.expect("a report"), Reported::First);
            assert!(
                journal
                    .reopen(&claim.id, attempt, NOW)
                    .await
                    .expect("an answer")
            );
        }
        end(journal, claim.id, (attempt, NOW), outcome, None).await;
    }
    let again = claim("ended 1");
    assert_eq!(win(journal, &again).await, 2);
    let original = original(journal, "original").await;
    let holder = full_claim(&original, "holder");
    win(journal, &holder).await;
    record_for(journal, "0x10", 10, &[again.id, holder.id]).await;
    record_for(journal, "0x11", 11, &[]).await;
    record_for(journal, "0x12", 12, &[holder.id]).await;
    let withdrawn = TransactionId::new("0x12");
    journal.withdraw(&withdrawn, None).await.expect("a mark");
    let mut other = record();
    other.id = quittance_core::StateId::from_parts(&[b"another channel"]);
    assert!(journal.write_state(&other).await.expect("an answer"));
}

/// What a journal has can be copied into an empty one, and a second copy changes nothing.
pub async fn every_entry_can_be_restored<F: JournalFixture>() {
    let (fixture, other) = (F::new().await, F::new().await);
    let journal = fixture.open().await;
    eventful(&journal).await;
    let all = entries(&journal).await;
    assert!(
        all.iter()
            .any(|it| matches!(it, Entry::State(state) if state.exclusive.is_some()))
    );
    let copy = other.open().await;
    assert!(
        restore(&copy, &all)
            .await
            .iter()
            .all(|it| *it == Restored::Added)
    );
    let again = restore(&copy, &all).await;
    assert!(again.iter().all(|it| *it == Restored::Kept), "{again:?}");
    other.crash(copy).await;
    let copy = other.open().await;
    assert_eq!(entries(&copy).await, all);
    assert!(
        restore(&journal, &all)
            .await
            .iter()
            .all(|it| *it == Restored::Kept)
    );
    // The copy is a journal like any other.
    let lane = quittance_core::LaneId::new("signer");
    assert_eq!(
        copy.next_sequence("test:1", &lane).await.expect("a number"),
        12
    );
    assert_eq!(
        taken(&copy, &claim("ended 0")).await.state.kind(),
        StateKind::Settled
    );
    assert_eq!(copy.open("test:1").await.expect("a list").len(), 2);
}

/// An old copy must not make a settled authorization free again.
pub async fn nothing_that_is_restored_becomes_lower<F: JournalFixture>() {
    let (fixture, other) = (F::new().await, F::new().await);
    let journal = fixture.open().await;
    let claim = claim("a");
    let attempt = win(&journal, &claim).await;
    record_for(&journal, "0x1", 1, &[claim.id]).await;
    let open = entries(&journal).await;
    end(&journal, claim.id, (attempt, NOW), settled("0x1"), None).await;
    let settled = entries(&journal).await;
    let reported = journal.report_success(&claim.id, attempt, None, NOW).await;
    assert_eq!(reported.expect("a report"), Reported::First);
    journal.finalize(&[claim.id], NOW).await.expect("a mark");
    let last = entries(&journal).await;

    for earlier in [&open, &settled] {
        let answers = restore(&journal, earlier).await;
        assert!(
            answers.iter().all(|it| *it == Restored::Kept),
            "{answers:?}"
        );
        assert_eq!(entries(&journal).await, last);
    }
    let copy = other.open().await;
    for later in [&open, &settled, &last] {
        let answers = restore(&copy, later).await;
        assert!(
            answers.iter().any(|it| *it != Restored::Kept),
            "{answers:?}"
        );
        assert_eq!(&entries(&copy).await, later);
    }
    let again = copy.report_success(&claim.id, attempt, None, NOW).await;
    assert_eq!(again.expect("a report"), Reported::No);

    // The replica that works on it has no work any more once its end is restored.
    let third = F::new().await;
    let working = third.open().await;
    win(&working, &claim).await;
    restore(&working, &settled).await;
    let ended = taken(&working, &claim).await;
    assert_eq!(ended.state.kind(), StateKind::Settled);
    assert_eq!(ended.owner, None);
}

/// A copy of another journal, or one that was changed by hand.
pub async fn an_entry_that_contradicts_the_journal_is_refused<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    eventful(&journal).await;
    let all = entries(&journal).await;
    let mut refused = 0;
    for entry in &all {
        let mut wrong = entry.clone();
        match &mut wrong {
            Entry::Transaction(recorded) => recorded.transaction.bytes = b"other".as_slice().into(),
            Entry::Settlement { settlement, .. } => settlement.claim.asset = "gold".to_owned(),
            Entry::State(state) if state.record.revision == 0 => continue,
            Entry::State(state) => state.record.state = b"other".to_vec(),
        }
        let answer = journal.restore(&wrong).await;
        assert!(
            matches!(answer, Err(JournalError::Refused { .. })),
            "{answer:?}"
        );
        refused += 1;
    }
    assert!(refused > 10, "{refused}");
    // A settlement names a transaction, and a refund an original, that the journal does not have.
    let mut unknown = Settlement::new(claim("unknown"), State::Open, NOW);
    let nowhere = SignedRef {
        transaction: TransactionId::new("0x99"),
        attempt: 1,
        step: 0,
    };
    for (refund_of, signed) in [
        (None, vec![nowhere]),
        (Some(PaymentId::from_parts(&[b"nowhere"])), Vec::new()),
    ] {
        unknown.claim.refund_of = refund_of;
        let settlement = Box::new(unknown.clone());
        let answer = journal
            .restore(&Entry::Settlement { settlement, signed })
            .await;
        assert!(
            matches!(answer, Err(JournalError::Refused { .. })),
            "{answer:?}"
        );
    }
    assert_eq!(entries(&journal).await, all);
}

/// Of two revisions of a state record the higher one stays, with its exclusive settlement.
pub async fn a_restored_record_has_its_highest_revision<F: JournalFixture>() {
    let (fixture, other) = (F::new().await, F::new().await);
    let journal = fixture.open().await;
    let first = record();
    assert!(journal.write_state(&first).await.expect("an answer"));
    let old = entries(&journal).await;
    let second = first.next(b"second".to_vec(), Some(NOW));
    assert!(journal.write_state(&second).await.expect("an answer"));
    let new = entries(&journal).await;
    assert_eq!(restore(&journal, &old).await, [Restored::Kept]);
    assert_eq!(entries(&journal).await, new);
    let copy = other.open().await;
    assert_eq!(restore(&copy, &old).await, [Restored::Added]);
    assert_eq!(restore(&copy, &new).await, [Restored::Raised]);
    let found = copy.state(&record_id()).await.expect("a read");
    assert_eq!(found, Some(second));
}

/// A time after everything in these tests.
const LATER: Timestamp = NOW.plus_secs(1_000_000);

/// Personal data leaves; what guards against replays stays.
pub async fn a_pruned_settlement_is_never_claimed_again<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let claim = original(&journal, "a").await;
    let before = known(&journal, &claim).await;
    let reported = journal.report_success(&claim.id, 1, Some("key"), NOW).await;
    assert_eq!(reported.expect("a report"), Reported::First);
    assert_eq!(
        journal.prune(LATER, 10).await.expect("a count"),
        0,
        "not final"
    );
    journal.finalize(&[claim.id], NOW).await.expect("a mark");
    assert_eq!(
        journal.prune(NOW, 10).await.expect("a count"),
        0,
        "too young"
    );
    assert_eq!(journal.prune(LATER, 10).await.expect("a count"), 1);
    assert_eq!(journal.prune(LATER, 10).await.expect("a count"), 0);

    let pruned = known(&journal, &claim).await;
    assert!(pruned.is_pruned());
    let gone = [
        &pruned.claim.payer,
        &pruned.claim.pay_to,
        &pruned.claim.request,
    ];
    assert!(gone.iter().all(|text| text.is_empty()), "{gone:?}");
    assert_eq!(pruned.reported_to, None);
    let kept = |it: &Settlement| {
        (
            it.claim.id,
            it.claim.amount,
            it.claim.expires,
            it.attempt,
            it.state.kind(),
        )
    };
    assert_eq!(kept(&pruned), kept(&before));
    assert_eq!(pruned.evidence(), before.evidence());
    assert_eq!(taken(&journal, &claim).await, pruned);
    let again = journal.report_success(&claim.id, 1, Some("key"), NOW).await;
    assert_eq!(again.expect("a report"), Reported::No);
    let refund = journal.claim(&refund(&claim, "refund", 1), NOW).await;
    let problem = Claimed::NotRefundable(RefundProblem::Pruned);
    assert_eq!(refund.expect("an answer"), problem);
    // A copy from before does not bring the data back.
    let mut old = before.clone();
    old.transactions.clear();
    let settlement = Box::new(old);
    let signed = Vec::new();
    let restored = journal
        .restore(&Entry::Settlement { settlement, signed })
        .await;
    assert_eq!(restored.expect("an answer"), Restored::Kept);
    assert_eq!(known(&journal, &claim).await, pruned);
}

/// Only what has ended for good is pruned, and only bytes that no other settlement needs.
pub async fn what_has_not_ended_for_good_is_not_pruned<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let claims = ["open", "lost", "valid", "failed", "refunded"].map(claim);
    let [open, lost_claim, mut valid, failed_claim, refunded] = claims;
    valid.expires = LATER;
    for claim in [&open, &lost_claim, &valid, &failed_claim, &refunded] {
        assert_eq!(win(&journal, claim).await, 1);
    }
    record_for(&journal, "0x1", 1, &[open.id, failed_claim.id]).await;
    record_for(&journal, "0x2", 2, &[failed_claim.id]).await;
    for (claim, outcome) in [(&valid, failed(None)), (&failed_claim, failed(Some("0x2")))] {
        end(&journal, claim.id, (1, NOW), outcome, None).await;
    }
    for claim in [&lost_claim, &refunded] {
        end(&journal, claim.id, (1, NOW), settled("0x3"), None).await;
        let reported = journal.report_success(&claim.id, 1, None, NOW).await;
        assert_eq!(reported.expect("a report"), Reported::First);
    }
    assert!(
        journal
            .reopen(&lost_claim.id, 1, NOW)
            .await
            .expect("an answer")
    );
    end(&journal, lost_claim.id, (1, NOW), lost(), None).await;
    journal.finalize(&[refunded.id], NOW).await.expect("a mark");
    assert_eq!(win(&journal, &refund(&refunded, "refund", 1)).await, 1);

    assert_eq!(journal.prune(LATER, 10).await.expect("a count"), 1);
    for (claim, is_pruned) in [
        (&open, false),
        (&lost_claim, false),
        (&valid, false),
        (&refunded, false),
        (&failed_claim, true),
    ] {
        assert_eq!(
            known(&journal, claim).await.is_pruned(),
            is_pruned,
            "{claim:?}"
        );
    }
    let pruned = known(&journal, &failed_claim).await;
    let bytes: Vec<bool> = pruned
        .all_transactions()
        .map(|transaction| transaction.bytes.is_empty())
        .collect();
    assert_eq!(bytes, [false, true]);
    let lane = quittance_core::LaneId::new("signer");
    let at = journal.transactions_at("test:1", &lane, 0..9).await;
    assert_eq!(
        at.expect("transactions").len(),
        1,
        "no bytes, nothing to send"
    );
    assert_eq!(
        journal
            .next_sequence("test:1", &lane)
            .await
            .expect("a number"),
        3
    );
}
