//! The conformance suite for journals: the properties that each implementation must have.

mod events;

pub use self::events::*;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join, join_all, join3};
use quittance_core::json::Object;
use quittance_core::{
    Amount, Fault, FaultKind, LaneId, PaymentId, PaymentInfo, Reason, SchemeReceipt, SchemeState,
    StateId, StateStore, Timestamp, Transaction, TransactionId,
};
use quittance_engine::{
    Claim, Claimed, Ended, FAILURES_MAX, Filter, Journal, Outcome, Place, REPORTED_AGAIN_FOR,
    RETRY_PAUSE, RETRY_PAUSE_MAX, RefundProblem, Reported, Settlement, SettlementStep, SignedFor,
    State, StateKind,
};

/// A journal in an environment of its own.
#[async_trait]
pub trait JournalFixture: Send + Sync + Sized {
    /// The journal.
    type Journal: Journal;

    /// An environment with an empty journal.
    async fn new() -> Self;

    /// Opens the journal. After a [`crash`](Self::crash), opens what the crash left. Each time as
    /// another replica.
    async fn open(&self) -> Self::Journal;

    /// Another replica that uses an open journal at the same time.
    async fn another(&self, journal: &Self::Journal) -> Self::Journal;

    /// Ends the journal's process without warning.
    async fn crash(&self, journal: Self::Journal);
}

super::suite!($ journal, journal_conformance, JournalFixture:
    a_claim_is_won_once_by_many_concurrent_requests
    an_answered_write_survives_a_crash
    a_transaction_belongs_to_its_own_attempt
    a_withdrawn_transaction_frees_its_sequence_number
    a_withdrawn_transaction_signed_again_counts_again
    a_transaction_recorded_again_has_its_newest_number
    an_ended_settlement_gets_no_transactions
    an_ended_settlement_gets_a_replacement
    transactions_are_found_by_sequence_number
    a_settled_authorization_is_never_claimed_again
    a_settled_payment_is_listed_until_it_is_final
    a_reopened_settlement_settles_or_is_lost
    a_failed_attempt_may_be_repeated_three_times
    a_released_attempt_may_be_repeated_at_once
    a_late_conclusion_does_not_change_a_later_attempt
    open_settlements_are_listed_by_network
    sequence_numbers_are_counted_by_network_and_lane
    an_unknown_settlement_is_not_found
    a_journal_that_can_be_written_has_no_problem
    pages_list_every_matching_settlement_once
    a_page_has_the_transactions_of_its_settlements
    changes_between_pages_move_no_settlement
    a_claim_is_read_as_it_was_written
    pages_are_filtered_by_refund_and_by_state_record
    a_settlement_without_a_transaction_is_final_with_its_receipt
    the_step_of_a_transaction_is_kept
    a_conclusion_writes_its_state_record_or_nothing
    of_many_writers_of_one_revision_one_succeeds
    of_many_exclusive_claims_of_a_record_one_is_won
    an_exclusive_claim_is_judged_by_the_newest_revision
    every_outcome_frees_an_exclusive_record
    an_exclusive_record_stays_taken_over_a_crash
    due_records_come_in_order_and_are_put_off
    refunds_never_exceed_what_settled
    a_refund_exchanges_the_parties_of_a_settled_payment
    success_is_reported_again_to_the_same_key_for_a_day
    of_concurrent_reports_to_one_key_one_is_the_first
    a_claim_without_limit_waits_longer_after_each_failure
    an_unfinished_payment_is_claimed_again_without_conditions
    a_transaction_recorded_again_has_its_newest_step
    a_record_is_freed_by_its_holder_only
    a_record_of_another_scheme_is_not_taken
    a_conclusion_that_is_repeated_changes_nothing
    a_settlement_that_is_open_again_reports_no_success
    a_refused_claim_changes_nothing
    a_repeated_finalize_keeps_the_first_time
    a_refund_counts_in_full_until_it_is_final
    a_refused_write_fails_no_other_write
    a_refused_conclusion_changes_nothing
    a_record_written_while_a_claim_ends_keeps_one_of_both
    a_clock_that_was_set_back_delays_no_claim
    success_without_limit_is_reported_to_every_repeat
    a_lost_claim_without_limit_may_be_repeated
    each_change_of_a_settlement_adds_one_event
    a_write_that_changes_nothing_adds_no_event
    a_transaction_adds_an_event_for_each_settlement
    events_survive_a_crash
    a_reader_gets_each_event_once_and_in_order
    events_are_filtered_by_caller_and_network
    a_reader_is_woken_by_a_new_event
    the_newest_position_is_before_every_later_event
    the_oldest_events_are_removed
    an_unknown_position_is_refused
    a_saved_position_survives_a_crash
    every_entry_can_be_restored
    nothing_that_is_restored_becomes_lower
    an_entry_that_contradicts_the_journal_is_refused
    a_restored_record_has_its_highest_revision
    a_pruned_settlement_is_never_claimed_again
    what_has_not_ended_for_good_is_not_pruned
);

pub use super::entries::{
    a_pruned_settlement_is_never_claimed_again, a_restored_record_has_its_highest_revision,
    an_entry_that_contradicts_the_journal_is_refused, every_entry_can_be_restored,
    nothing_that_is_restored_becomes_lower, what_has_not_ended_for_good_is_not_pruned,
};

pub(super) const NOW: Timestamp = Timestamp::from_secs(1_000);

pub(super) fn claim(name: &str) -> Claim {
    claim_on("test:1", name)
}

fn claim_on(network: &str, name: &str) -> Claim {
    let info = PaymentInfo {
        id: PaymentId::from_parts(&[name.as_bytes()]),
        payer: "payer".to_owned(),
        pay_to: "seller".to_owned(),
        asset: "coin".to_owned(),
        amount: Amount::from(u64::MAX),
        expires: NOW.plus_secs(60),
    };
    let request = format!("{{\"name\":\"{name}\",\"odd\":\"\\u0000'\\\"\"}}");
    Claim::new(network, "exact", &info, request, NOW)
}

pub(super) fn transaction(id: &str, sequence: u64) -> Transaction {
    let bytes: Arc<[u8]> = id.as_bytes().into();
    Transaction {
        id: TransactionId::new(id),
        lane: LaneId::new("signer"),
        sequence,
        bytes,
    }
}

pub(super) const fn settling(settlement: PaymentId) -> SettlementStep {
    SettlementStep::settling(settlement)
}

const fn signed_for(attempt: u32, transaction: Transaction) -> SignedFor {
    SignedFor {
        attempt,
        step: 0,
        transaction,
    }
}

pub(super) fn settled(id: &str) -> Outcome {
    Outcome::Settled {
        transaction: Some(TransactionId::new(id)),
        amount: Amount::from(7),
        receipt: SchemeReceipt::default(),
    }
}

pub(super) fn failed(transaction: Option<&str>) -> Outcome {
    Outcome::Failed {
        reason: Reason::INVALID_TRANSACTION_STATE,
        detail: "it's \"odd\"".to_owned(),
        transaction: transaction.map(TransactionId::new),
    }
}

pub(super) fn released() -> Outcome {
    Outcome::Released {
        fault: Fault {
            retry_after: Some(Duration::from_secs(17)),
            ..Fault::new(FaultKind::FacilitatorFunds, "no gas: \"odd\"")
        },
    }
}

pub(super) fn lost() -> Outcome {
    Outcome::Lost {
        reason: Reason::SETTLEMENT_EXPIRED,
        detail: "it's \"odd\"".to_owned(),
        transaction: Some(TransactionId::new("0x2")),
    }
}

pub(super) async fn win<J: Journal>(journal: &J, claim: &Claim) -> u32 {
    match journal.claim(claim, NOW).await.expect("a claim") {
        Claimed::Won { attempt } => attempt,
        other => panic!("not won: {other:?}"),
    }
}

pub(super) async fn taken<J: Journal>(journal: &J, claim: &Claim) -> Settlement {
    match journal.claim(claim, NOW).await.expect("a claim") {
        Claimed::Taken(settlement) => *settlement,
        other => panic!("not taken: {other:?}"),
    }
}

pub(super) async fn known<J: Journal>(journal: &J, claim: &Claim) -> Settlement {
    journal
        .settlement(&claim.id)
        .await
        .expect("a read")
        .expect("a settlement")
}

/// Takes up what a replica has left that was no member.
async fn take_up<J: Journal>(journal: &J, id: PaymentId) {
    const DURATION: Duration = Duration::from_secs(600);
    journal.renew(DURATION).await.expect("a membership");
    assert_eq!(journal.take_up(&[id]).await, Ok(vec![id]));
}

/// Of all requests that claim one authorization, one wins. The others get what the winner wrote.
pub async fn a_claim_is_won_once_by_many_concurrent_requests<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let claim = claim("a");
    let answers = join_all((0..50).map(|_| journal.claim(&claim, NOW))).await;
    let won = answers
        .iter()
        .filter(|answer| matches!(answer, Ok(Claimed::Won { attempt: 1 })))
        .count();
    assert_eq!(won, 1);
    for answer in answers {
        if let Claimed::Taken(settlement) = answer.expect("an answer") {
            assert_eq!(
                (&settlement.claim, &settlement.state),
                (&claim, &State::Open)
            );
        }
    }
}

/// Every answered write survives a crash, whichever write was the last.
pub async fn an_answered_write_survives_a_crash<F: JournalFixture>() {
    let fixture = F::new().await;
    let claims: Vec<Claim> = (0..20).map(|at| claim(&format!("claim {at}"))).collect();
    for (at, claim) in claims.iter().enumerate() {
        let journal = fixture.open().await;
        let attempt = win(&journal, claim).await;
        let signed = transaction(&format!("0x{at}"), at as u64);
        journal
            .record("test:1", &signed, &[settling(claim.id)], None, NOW)
            .await
            .expect("a record");
        if at % 2 == 0 {
            let outcome = settled(signed.id.as_str());
            journal
                .conclude(&claim.id, attempt, &outcome, None, NOW)
                .await
                .expect("a conclusion");
            let reported = journal.report_success(&claim.id, attempt, None, NOW);
            assert_eq!(reported.await, Ok(Reported::First));
        }
        fixture.crash(journal).await;
    }
    let journal = fixture.open().await;
    for (at, claim) in claims.iter().enumerate() {
        let settlement = known(&journal, claim).await;
        assert_eq!(&settlement.claim, claim);
        assert_eq!(
            settlement.transactions,
            vec![signed_for(1, transaction(&format!("0x{at}"), at as u64))]
        );
        assert_eq!(settlement.success_reported_at, (at % 2 == 0).then_some(NOW));
        assert!(!matches!(
            journal.claim(claim, NOW).await,
            Ok(Claimed::Won { .. })
        ));
        let reported = journal.report_success(&claim.id, 1, None, NOW);
        assert_eq!(reported.await, Ok(Reported::No));
    }
    assert_eq!(
        journal
            .next_sequence("test:1", &LaneId::new("signer"))
            .await,
        Ok(20)
    );
    assert_eq!(journal.open("test:1").await.expect("a read").len(), 10);
}

/// A transaction may be recorded for many settlements, again and again.
pub async fn a_transaction_belongs_to_its_own_attempt<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, b) = (claim("a"), claim("b"));
    let attempt = win(&journal, &a).await;
    win(&journal, &b).await;
    let first = transaction("0x1", 0);
    for _ in 0..2 {
        journal
            .record(
                "test:1",
                &first,
                &[settling(a.id), settling(b.id)],
                None,
                NOW,
            )
            .await
            .expect("a record");
    }
    let mut both = journal.settlements_of(&first.id).await.expect("a read");
    both.sort();
    let mut expected = vec![settling(a.id), settling(b.id)];
    expected.sort();
    assert_eq!(both, expected);

    journal
        .conclude(&a.id, attempt, &failed(Some("0x1")), None, NOW)
        .await
        .expect("a conclusion");
    assert_eq!(win(&journal, &a).await, 2);
    let second = transaction("0x2", 1);
    journal
        .record("test:1", &second, &[settling(a.id)], None, NOW)
        .await
        .expect("a record");
    let settlement = known(&journal, &a).await;
    assert_eq!(
        settlement.transactions,
        vec![signed_for(1, first), signed_for(2, second.clone())]
    );
    assert_eq!(settlement.transaction(), Some(&second));
    assert_eq!(settlement.state, State::Open);
}

/// A withdrawn transaction no longer counts for its lane, and stays known to its settlement.
pub async fn a_withdrawn_transaction_frees_its_sequence_number<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, lane) = (claim("a"), LaneId::new("signer"));
    win(&journal, &a).await;
    journal
        .record(
            "test:1",
            &transaction("0x1", 5),
            &[settling(a.id)],
            None,
            NOW,
        )
        .await
        .expect("a record");
    assert_eq!(journal.next_sequence("test:1", &lane).await, Ok(6));
    journal
        .withdraw(&TransactionId::new("0x1"), None)
        .await
        .expect("a withdrawal");
    assert_eq!(journal.next_sequence("test:1", &lane).await, Ok(0));
    let withdrawn = known(&journal, &a).await;
    assert_eq!(withdrawn.transactions, vec![]);
    // The node that refused it may have been wrong, so the engine still asks about it.
    assert_eq!(
        withdrawn.withdrawn,
        vec![signed_for(1, transaction("0x1", 5))]
    );
    let recorded = journal.transactions_at("test:1", &lane, 0..10).await;
    assert_eq!(recorded, Ok(vec![]));
}

/// Deterministic signing gives the same bytes again while the fees do not change.
pub async fn a_withdrawn_transaction_signed_again_counts_again<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, lane) = (claim("a"), LaneId::new("signer"));
    let signed = transaction("0x1", 5);
    let attempt = win(&journal, &a).await;
    let record = async || {
        journal
            .record("test:1", &signed, &[settling(a.id)], None, NOW)
            .await
            .expect("a record");
    };
    record().await;
    journal
        .withdraw(&signed.id, None)
        .await
        .expect("a withdrawal");
    let released = released();
    assert_eq!(
        journal.conclude(&a.id, attempt, &released, None, NOW).await,
        Ok(Ended::Yes)
    );
    assert_eq!(win(&journal, &a).await, 2);
    record().await;
    assert_eq!(journal.next_sequence("test:1", &lane).await, Ok(6));
    let settlement = known(&journal, &a).await;
    assert_eq!(settlement.transactions, vec![signed_for(2, signed.clone())]);
    let there = journal.transactions_at("test:1", &lane, 5..6).await;
    assert_eq!(there, Ok(vec![signed]));
}

/// The row kept its old sequence number, which was free for another payment. After a restart, two
/// payments had one number.
pub async fn a_transaction_recorded_again_has_its_newest_number<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, lane) = (claim("a"), LaneId::new("signer"));
    let (first, again) = (transaction("0x1", 5), transaction("0x1", 9));
    let attempt = win(&journal, &a).await;
    journal
        .record("test:1", &first, &[settling(a.id)], None, NOW)
        .await
        .expect("a record");
    journal
        .withdraw(&first.id, None)
        .await
        .expect("a withdrawal");
    let released = released();
    journal
        .conclude(&a.id, attempt, &released, None, NOW)
        .await
        .expect("a conclusion");
    win(&journal, &a).await;
    let moved = Transaction {
        lane: LaneId::new("another signer"),
        ..again.clone()
    };
    for recorded in [&moved, &again] {
        journal
            .record("test:1", recorded, &[settling(a.id)], None, NOW)
            .await
            .expect("a record");
        let settlement = known(&journal, &a).await;
        assert_eq!(
            settlement.transactions,
            vec![signed_for(2, recorded.clone())]
        );
        let there = journal
            .transactions_at("test:1", &recorded.lane, 9..10)
            .await;
        assert_eq!(there, Ok(vec![recorded.clone()]));
    }
    let before = journal.transactions_at("test:1", &lane, 5..6).await;
    assert_eq!(before, Ok(vec![]));
    assert_eq!(journal.next_sequence("test:1", &lane).await, Ok(10));
}

/// One call records a transaction for open settlements and skips those that have ended.
pub async fn an_ended_settlement_gets_no_transactions<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, b) = (claim("a"), claim("b"));
    let attempt = win(&journal, &a).await;
    win(&journal, &b).await;
    let outcome = settled("0x0");
    assert_eq!(
        journal.conclude(&a.id, attempt, &outcome, None, NOW).await,
        Ok(Ended::Yes)
    );
    let late = transaction("0x1", 0);
    journal
        .record(
            "test:1",
            &late,
            &[settling(a.id), settling(b.id)],
            None,
            NOW,
        )
        .await
        .expect("a record");
    assert_eq!(known(&journal, &a).await.transactions, vec![]);
    assert_eq!(
        known(&journal, &b).await.transactions,
        vec![signed_for(1, late)]
    );
}

/// The chain took the block of a settled payment back, and the transaction was replaced before that
/// was noticed. Its replacement paid, and nothing said whose it was.
pub async fn an_ended_settlement_gets_a_replacement<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    for (name, outcome) in [("a", settled("0xa")), ("b", failed(Some("0xb")))] {
        let claim = claim(name);
        let attempt = win(&journal, &claim).await;
        let record = async |id: &str, sequence: u64| {
            let (signed, steps) = (transaction(id, sequence), [settling(claim.id)]);
            let recorded = journal.record("test:1", &signed, &steps, None, NOW).await;
            recorded.expect("a record");
        };
        let (sent, next, other) = (
            format!("0x{name}"),
            format!("0x{name}2"),
            format!("0x{name}3"),
        );
        record(&sent, 1).await;
        end(&journal, claim.id, (attempt, NOW), outcome, None).await;
        record(&next, 1).await;
        record(&other, 2).await;
        let known = known(&journal, &claim).await;
        let ids = known.transactions.iter();
        let ids: Vec<_> = ids.map(|one| one.transaction.id.as_str()).collect();
        assert_eq!(ids, [sent, next]);
        assert_ne!(known.state, State::Open);
    }
}

/// Includes replacements, and no transactions of other lanes and networks.
pub async fn transactions_are_found_by_sequence_number<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let lane = LaneId::new("signer");
    let all = [("0x3", 3), ("0x1", 1), ("0x2", 2), ("0x1b", 1)];
    for (at, (id, sequence)) in all.into_iter().enumerate() {
        let now = NOW.plus_secs(at as u64);
        journal
            .record("test:1", &transaction(id, sequence), &[], None, now)
            .await
            .expect("a record");
    }
    journal
        .record("test:2", &transaction("0x9", 1), &[], None, NOW)
        .await
        .expect("a record");
    let found = journal.transactions_at("test:1", &lane, 1..3).await;
    let ids: Vec<String> = found
        .expect("a read")
        .iter()
        .map(|transaction| transaction.id.to_string())
        .collect();
    assert_eq!(ids, ["0x1", "0x1b", "0x2"]);
}

/// The two main promises of the journal.
pub async fn a_settled_authorization_is_never_claimed_again<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a");
    let attempt = win(&journal, &a).await;
    let early = journal.report_success(&a.id, attempt, None, NOW);
    assert_eq!(early.await, Ok(Reported::No), "reported before it settled");
    journal
        .conclude(&a.id, attempt, &settled("0x1"), None, NOW)
        .await
        .expect("a conclusion");
    assert_eq!(
        taken(&journal, &a).await.state,
        State::Concluded(settled("0x1"))
    );
    let reported =
        join_all((0..50).map(|_| journal.report_success(&a.id, attempt, None, NOW))).await;
    let granted = reported
        .iter()
        .filter(|answer| **answer == Ok(Reported::First));
    assert_eq!(granted.count(), 1);
    assert_eq!(taken(&journal, &a).await.success_reported_at, Some(NOW));
}

/// It is listed while the chain could take it back.
pub async fn a_settled_payment_is_listed_until_it_is_final<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let claims = ["a", "b", "c", "d"].map(claim);
    let ends = [settled("0x1"), settled("0x2"), failed(None), settled("0x3")];
    for (claim, end) in claims.iter().zip(&ends) {
        let attempt = win(&journal, claim).await;
        journal
            .conclude(&claim.id, attempt, end, None, NOW)
            .await
            .expect("a conclusion");
    }
    let [a, b, failed, d] = claims;
    let mut expected = vec![a.id, b.id, d.id];
    expected.sort();
    assert_eq!(journal.not_final("test:1").await, Ok(expected));
    assert_eq!(journal.not_final("test:2").await, Ok(vec![]));
    let later = NOW.plus_secs(9);
    // A settlement that has not settled cannot be final.
    let all = [a.id, d.id, failed.id];
    journal.finalize(&all, later).await.expect("a write");
    assert_eq!(journal.not_final("test:1").await, Ok(vec![b.id]));
    assert_eq!(known(&journal, &a).await.final_at, Some(later));
    assert_eq!(known(&journal, &failed).await.final_at, None);
    assert_eq!(journal.reopen(&a.id, 1, NOW).await, Ok(false));
    assert_eq!(
        known(&journal, &a).await.state,
        State::Concluded(settled("0x1"))
    );
}

/// The chain may take a payment back before or after its success was reported.
pub async fn a_reopened_settlement_settles_or_is_lost<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (reported, unreported) = (claim("reported"), claim("unreported"));
    for claim in [&reported, &unreported] {
        let attempt = win(&journal, claim).await;
        assert_eq!(journal.reopen(&claim.id, attempt, NOW).await, Ok(false));
        let end = settled("0x1");
        let concluded = journal.conclude(&claim.id, attempt, &end, None, NOW).await;
        assert_eq!(concluded, Ok(Ended::Yes));
    }
    assert_eq!(
        journal.report_success(&reported.id, 1, None, NOW).await,
        Ok(Reported::First)
    );
    for claim in [&reported, &unreported] {
        assert_eq!(journal.reopen(&claim.id, 2, NOW).await, Ok(false));
        assert_eq!(journal.reopen(&claim.id, 1, NOW).await, Ok(true));
        assert_eq!(known(&journal, claim).await.state, State::Open);
        assert_eq!(
            journal.report_success(&claim.id, 1, None, NOW).await,
            Ok(Reported::No)
        );
        let again = transaction("0x2", 7);
        journal
            .record("test:1", &again, &[settling(claim.id)], None, NOW)
            .await
            .expect("a record");
    }
    assert_eq!(journal.not_final("test:1").await, Ok(vec![]));
    assert_eq!(journal.open("test:1").await.expect("a read").len(), 2);
    assert_eq!(
        known(&journal, &reported).await.success_reported_at,
        Some(NOW)
    );
    // Both settle again. Success is reported once for each.
    let end = settled("0x2");
    for claim in [&reported, &unreported] {
        assert_eq!(
            journal.conclude(&claim.id, 1, &end, None, NOW).await,
            Ok(Ended::Yes)
        );
    }
    assert_eq!(
        journal.report_success(&reported.id, 1, None, NOW).await,
        Ok(Reported::No)
    );
    assert_eq!(
        journal.report_success(&unreported.id, 1, None, NOW).await,
        Ok(Reported::First)
    );
    // One of them is then lost, for good.
    assert_eq!(journal.reopen(&reported.id, 1, NOW).await, Ok(true));
    assert_eq!(
        journal.conclude(&reported.id, 1, &lost(), None, NOW).await,
        Ok(Ended::Yes)
    );
    let settlement = taken(&journal, &reported).await;
    assert_eq!(settlement.state, State::Concluded(lost()));
    assert_eq!(settlement.success_reported_at, Some(NOW));
    assert_eq!(
        journal.report_success(&reported.id, 1, None, NOW).await,
        Ok(Reported::No)
    );
}

/// Only failures that cost gas count. After enough of them the authorization is not retried.
pub async fn a_failed_attempt_may_be_repeated_three_times<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a");
    // A failure without a transaction does not count.
    for attempt in 1..=10 {
        assert_eq!(win(&journal, &a).await, attempt);
        journal
            .conclude(&a.id, attempt, &failed(None), None, NOW)
            .await
            .expect("a conclusion");
    }
    assert_eq!(known(&journal, &a).await.failures, 0);
    for attempt in 11..11 + FAILURES_MAX {
        assert_eq!(win(&journal, &a).await, attempt);
        assert_eq!(known(&journal, &a).await.failures, attempt - 11);
        journal
            .conclude(&a.id, attempt, &failed(Some("0x1")), None, NOW)
            .await
            .expect("a conclusion");
    }
    assert_eq!(
        taken(&journal, &a).await.state,
        State::Concluded(failed(Some("0x1")))
    );
}

/// `problem` decides whether /verify calls payments valid.
pub async fn a_journal_that_can_be_written_has_no_problem<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    assert_eq!(journal.problem(), None);
    win(&journal, &claim("a")).await;
    assert_eq!(journal.problem(), None);
    fixture.crash(journal).await;
    assert_eq!(fixture.open().await.problem(), None);
}

/// Nothing was sent, so the authorization is free. The journal keeps the later claim.
pub async fn a_released_attempt_may_be_repeated_at_once<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a");
    let attempt = win(&journal, &a).await;
    let released = released();
    journal
        .conclude(&a.id, attempt, &released, None, NOW)
        .await
        .expect("a conclusion");
    assert_eq!(known(&journal, &a).await.state, State::Concluded(released));
    let mut again = a.clone();
    again.request = "{}".to_owned();
    again.decoded_at = NOW.plus_secs(5);
    // A scheme may leave these fields out of a payment's identity.
    again.pay_to = "another seller".to_owned();
    again.asset = "another coin".to_owned();
    again.amount = Amount::from(1);
    again.expires = NOW.plus_secs(90);
    assert_eq!(win(&journal, &again).await, 2);
    assert_eq!(known(&journal, &a).await.claim, again);
}

/// A conclusion of an attempt that has ended changes nothing.
pub async fn a_late_conclusion_does_not_change_a_later_attempt<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a");
    win(&journal, &a).await;
    journal
        .conclude(&a.id, 1, &failed(None), None, NOW)
        .await
        .expect("a conclusion");
    win(&journal, &a).await;
    let late = journal.conclude(&a.id, 1, &settled("0x1"), None, NOW).await;
    assert_eq!(late, Ok(Ended::No));
    assert_eq!(known(&journal, &a).await.state, State::Open);
    journal
        .conclude(&a.id, 2, &settled("0x2"), None, NOW)
        .await
        .expect("a conclusion");
    let late = journal.conclude(&a.id, 2, &failed(None), None, NOW).await;
    assert_eq!(late, Ok(Ended::No));
    assert_eq!(
        known(&journal, &a).await.state,
        State::Concluded(settled("0x2"))
    );
    assert_eq!(
        journal.report_success(&a.id, 1, None, NOW).await,
        Ok(Reported::No)
    );
    assert_eq!(
        journal.report_success(&a.id, 2, None, NOW).await,
        Ok(Reported::First)
    );
}

/// These are the settlements that a start resumes.
pub async fn open_settlements_are_listed_by_network<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, b) = (claim("a"), claim("b"));
    let elsewhere = claim_on("test:2", "c");
    for claim in [&a, &b, &elsewhere] {
        win(&journal, claim).await;
    }
    journal
        .record(
            "test:1",
            &transaction("0x1", 0),
            &[settling(b.id)],
            None,
            NOW,
        )
        .await
        .expect("a record");
    journal
        .conclude(&a.id, 1, &settled("0x0"), None, NOW)
        .await
        .expect("a conclusion");
    let open = journal.open("test:1").await.expect("a read");
    assert_eq!(open, vec![b.id]);
}

/// A signer has separate sequence numbers on each network.
pub async fn sequence_numbers_are_counted_by_network_and_lane<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let lane = LaneId::new("signer");
    journal
        .record("test:1", &transaction("0x1", 3), &[], None, NOW)
        .await
        .expect("a record");
    journal
        .record("test:1", &transaction("0x2", 2), &[], None, NOW)
        .await
        .expect("a record");
    journal
        .record("test:2", &transaction("0x3", 9), &[], None, NOW)
        .await
        .expect("a record");
    assert_eq!(journal.next_sequence("test:1", &lane).await, Ok(4));
    assert_eq!(journal.next_sequence("test:2", &lane).await, Ok(10));
    assert_eq!(
        journal.next_sequence("test:1", &LaneId::new("other")).await,
        Ok(0)
    );
}

/// Reads of unknown identities find nothing.
pub async fn an_unknown_settlement_is_not_found<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    assert_eq!(journal.settlement(&claim("a").id).await, Ok(None));
    assert_eq!(
        journal.settlements_of(&TransactionId::new("0x1")).await,
        Ok(vec![])
    );
    assert_eq!(journal.open("test:1").await, Ok(vec![]));
    assert_eq!(
        journal.report_success(&claim("a").id, 1, None, NOW).await,
        Ok(Reported::No)
    );
}

/// The identities on all pages of a listing, and the number of pages.
async fn list<J: Journal>(journal: &J, filter: &Filter) -> (Vec<PaymentId>, usize) {
    let (mut ids, mut pages, mut after) = (Vec::new(), 0, None);
    loop {
        let page = journal.page(filter, after).await.expect("a page");
        pages += 1;
        assert!(page.settlements.len() <= filter.limit as usize);
        ids.extend(page.settlements.iter().map(|known| known.claim.id));
        match page.next {
            Some(next) => after = Some(next),
            None => return (ids, pages),
        }
    }
}

/// Filters by network and state, with pages of every size.
pub async fn pages_list_every_matching_settlement_once<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    assert_eq!(list(&journal, &Filter::new()).await, (vec![], 1));
    let outcomes = [
        None,
        Some(settled("0x1")),
        Some(failed(None)),
        Some(released()),
    ];
    let mut all = Vec::new();
    for at in 0..12 {
        let network = ["test:1", "test:2", "test:2"][at % 3];
        let claim = claim_on(network, &format!("claim {at}"));
        let attempt = win(&journal, &claim).await;
        let outcome = &outcomes[at % 4];
        if let Some(outcome) = outcome {
            let concluded = journal
                .conclude(&claim.id, attempt, outcome, None, NOW)
                .await;
            assert_eq!(concluded, Ok(Ended::Yes));
        }
        let state = known(&journal, &claim).await.state.kind();
        all.push((claim.id, network, state));
    }
    for network in [None, Some("test:1"), Some("test:2"), Some("test:3")] {
        for state in [None, Some(StateKind::Open), Some(StateKind::Released)] {
            for limit in 1..=13 {
                let mut filter = Filter::new().limit(limit);
                filter.network = network.map(str::to_owned);
                filter.state = state;
                let expected: Vec<PaymentId> = all
                    .iter()
                    .filter(|(_, on, _)| network.is_none_or(|network| network == *on))
                    .filter(|(.., is)| state.is_none_or(|state| state == *is))
                    .map(|(id, ..)| *id)
                    .collect();
                let pages = expected.len().div_ceil(limit as usize).max(1);
                assert_eq!(
                    list(&journal, &filter).await,
                    (expected, pages),
                    "{filter:?}"
                );
            }
        }
    }
}

/// A page has the same settlements as single reads.
pub async fn a_page_has_the_transactions_of_its_settlements<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, b) = (claim("a"), claim("b"));
    for (at, claim) in [&a, &b].into_iter().enumerate() {
        win(&journal, claim).await;
        let signed = transaction(&format!("0x{at}"), at as u64);
        journal
            .record("test:1", &signed, &[settling(claim.id)], None, NOW)
            .await
            .expect("a record");
    }
    journal
        .withdraw(&TransactionId::new("0x1"), None)
        .await
        .expect("a withdrawal");
    let page = journal.page(&Filter::new(), None).await.expect("a page");
    let expected = vec![known(&journal, &a).await, known(&journal, &b).await];
    assert_eq!(page.settlements, expected);
    assert_eq!((page.unreadable, page.next), (0, None));
}

/// The order is that of the first claim. It survives new claims, retries, conclusions and a crash.
pub async fn changes_between_pages_move_no_settlement<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let claims: Vec<Claim> = (0..6).map(|at| claim(&format!("claim {at}"))).collect();
    for claim in &claims {
        let attempt = win(&journal, claim).await;
        let concluded = journal
            .conclude(&claim.id, attempt, &released(), None, NOW)
            .await;
        assert_eq!(concluded, Ok(Ended::Yes));
    }
    let filter = Filter::new().limit(3);
    let first = journal.page(&filter, None).await.expect("a page");
    // One of the listed settlements and one of the others are claimed again, and a new one is
    // added.
    for again in [&claims[0], &claims[4], &claim("new")] {
        win(&journal, again).await;
    }
    fixture.crash(journal).await;
    let journal = fixture.open().await;
    let cursor = first.next.expect("a second page").to_string();
    let cursor = cursor.parse().expect("a cursor");
    let second = journal.page(&filter, Some(cursor)).await.expect("a page");
    let third = journal.page(&filter, second.next).await.expect("a page");
    let pages = [first, second, third];
    let listed = pages.iter().flat_map(|page| &page.settlements);
    let listed: Vec<PaymentId> = listed.map(|known| known.claim.id).collect();
    let mut expected: Vec<PaymentId> = claims.iter().map(|claim| claim.id).collect();
    expected.push(claim("new").id);
    assert_eq!(listed, expected);
    assert_eq!(pages[2].next, None);
}

fn receipt() -> SchemeReceipt {
    let extra = Object::of(&serde_json::json!({ "charged": 7 })).expect("an object");
    SchemeReceipt {
        amount: Some(String::new()),
        extra: Some(extra),
    }
}

/// A claim with everything that a claim can have.
pub(super) fn full_claim(original: &Claim, name: &str) -> Claim {
    refund(original, name, 1)
        .caller("a shop's \"key\"")
        .access(Place {
            state: record_id(),
            revision: 0,
            exclusive: true,
        })
        .retries_without_limit()
}

/// After a crash the engine goes on with what was claimed, and by whom.
pub async fn a_claim_is_read_as_it_was_written<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let original = original(&journal, "original").await;
    let full = full_claim(&original, "a");
    let attempt = win(&journal, &full).await;
    fixture.crash(journal).await;
    let journal = fixture.open().await;
    assert_eq!(known(&journal, &full).await.claim, full);
    take_up(&journal, full.id).await;
    let ended = end(&journal, full.id, (attempt, NOW), released(), None).await;
    assert_eq!(ended, Ended::Yes);
    // The next claim of the same authorization replaces all of it, and another one again.
    for claim in [claim("a"), full] {
        let attempt = win(&journal, &claim).await;
        assert_eq!(known(&journal, &claim).await.claim, claim);
        let ended = end(&journal, claim.id, (attempt, NOW), released(), None).await;
        assert_eq!(ended, Ended::Yes);
    }
}

/// A seller lists the refunds of one payment, and an operator the payments of one channel.
pub async fn pages_are_filtered_by_refund_and_by_state_record<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, b) = (original(&journal, "a").await, original(&journal, "b").await);
    let shared = Place {
        state: record_id(),
        revision: 0,
        exclusive: false,
    };
    let elsewhere = Place {
        state: StateId::from_parts(&[b"another channel"]),
        ..shared
    };
    let claims = [
        refund(&a, "1", 1),
        refund(&b, "2", 1).access(shared),
        refund(&a, "3", 1).access(elsewhere),
        claim("4").access(shared),
        refund(&a, "5", 1).access(shared),
    ];
    for claim in &claims {
        win(&journal, claim).await;
    }
    let of_a = Filter::new().refund_of(a.id);
    let with_record = Filter::new().state_record(record_id());
    let both = of_a.clone().state_record(record_id());
    for (filter, expected) in [
        (of_a, vec![0, 2, 4]),
        (with_record, vec![1, 3, 4]),
        (both, vec![4]),
    ] {
        let expected: Vec<PaymentId> = expected.iter().map(|at: &usize| claims[*at].id).collect();
        for limit in 1..4 {
            let (listed, _) = list(&journal, &filter.clone().limit(limit)).await;
            assert_eq!(listed, expected, "{filter:?}");
        }
    }
}

/// Nothing was sent, so no reorganisation can take it back.
pub async fn a_settlement_without_a_transaction_is_final_with_its_receipt<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a");
    let attempt = win(&journal, &a).await;
    let outcome = Outcome::Settled {
        transaction: None,
        amount: Amount::ZERO,
        receipt: receipt(),
    };
    let ended = end(&journal, a.id, (attempt, NOW), outcome.clone(), None).await;
    assert_eq!(ended, Ended::Yes);
    fixture.crash(journal).await;
    let journal = fixture.open().await;
    let settlement = known(&journal, &a).await;
    assert_eq!(settlement.state, State::Concluded(outcome));
    assert_eq!(settlement.final_at, Some(NOW));
    assert_eq!(journal.not_final("test:1").await, Ok(vec![]));
    assert_eq!(journal.reopen(&a.id, attempt, NOW).await, Ok(false));
    assert_eq!(taken(&journal, &a).await.attempt, 1);
}

fn settling_transactions(settlement: &Settlement) -> impl Iterator<Item = &Transaction> {
    let settling = settlement.all_signed().filter(|signed| signed.step == 0);
    settling.map(|signed| &signed.transaction)
}

/// If a step looked like the action that settles, a payment would be judged by it.
pub async fn the_step_of_a_transaction_is_kept<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a");
    win(&journal, &a).await;
    for step in [1, 2, 0] {
        let signed = transaction(&format!("0x{step}"), u64::from(step));
        let made_for = SettlementStep {
            settlement: a.id,
            step,
        };
        let recorded = journal
            .record("test:1", &signed, &[made_for], None, NOW)
            .await;
        assert_eq!(recorded, Ok(()));
        let known = journal.settlements_of(&signed.id).await;
        assert_eq!(known, Ok(vec![made_for]));
    }
    journal
        .withdraw(&TransactionId::new("0x2"), None)
        .await
        .expect("a withdrawal");
    fixture.crash(journal).await;
    let settlement = known(&fixture.open().await, &a).await;
    let steps = |signed: &[SignedFor]| signed.iter().map(|one| one.step).collect::<Vec<_>>();
    assert_eq!(steps(&settlement.transactions), [1, 0]);
    assert_eq!(steps(&settlement.withdrawn), [2]);
    assert!(settlement.has_steps());
    let settling: Vec<_> = settling_transactions(&settlement).collect();
    assert_eq!(settling, [&transaction("0x0", 0)]);
}

/// Ends an attempt at this time.
pub(super) async fn end<J: Journal>(
    journal: &J,
    id: PaymentId,
    (attempt, now): (u32, Timestamp),
    outcome: Outcome,
    state: Option<SchemeState>,
) -> Ended {
    let ended = journal.conclude(&id, attempt, &outcome, state.as_ref(), now);
    ended.await.expect("an answer")
}

pub(super) fn record_id() -> StateId {
    StateId::from_parts(&[b"a channel"])
}

pub(super) fn record() -> SchemeState {
    SchemeState::new(record_id(), "test:1", "exact", b"first".to_vec())
}

/// Charged without a record, or recorded without a charge: a crash in between must leave neither.
pub async fn a_conclusion_writes_its_state_record_or_nothing<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = shared("a", 0);
    let attempt = win(&journal, &a).await;
    let first = record();
    assert_eq!(journal.write_state(&first).await, Ok(true));
    // A record that another payment has changed meanwhile.
    let late = record();
    let ended = end(
        &journal,
        a.id,
        (attempt, NOW),
        settled("0x1"),
        Some(late.clone()),
    )
    .await;
    assert_eq!(ended, Ended::StateMoved);
    assert_eq!(known(&journal, &a).await.state, State::Open);
    let next = first.next(b"second".to_vec(), Some(NOW));
    // Another attempt than the open one.
    let ended = end(
        &journal,
        a.id,
        (attempt + 1, NOW),
        settled("0x1"),
        Some(next.clone()),
    )
    .await;
    assert_eq!(ended, Ended::No);
    assert_eq!(journal.state(&first.id).await, Ok(Some(first)));
    let ended = end(
        &journal,
        a.id,
        (attempt, NOW),
        settled("0x1"),
        Some(next.clone()),
    )
    .await;
    assert_eq!(ended, Ended::Yes);
    fixture.crash(journal).await;
    let journal = fixture.open().await;
    assert_eq!(journal.state(&next.id).await, Ok(Some(next)));
    assert_eq!(known(&journal, &a).await.state.kind(), StateKind::Settled);
}

/// Of all vouchers that were judged by one revision, one is charged.
pub async fn of_many_writers_of_one_revision_one_succeeds<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let mut newest = record();
    for revision in 1..4 {
        let writers = (0..20_u8).map(|writer| SchemeState {
            state: vec![revision, writer],
            ..newest.clone()
        });
        let writers: Vec<_> = writers.collect();
        let written = join_all(writers.iter().map(|state| journal.write_state(state))).await;
        let won = written.iter().position(|written| *written == Ok(true));
        let count = written
            .iter()
            .filter(|written| **written == Ok(true))
            .count();
        assert_eq!(count, 1, "{written:?}");
        let won = &writers[won.expect("one")];
        assert_eq!(
            journal.state(&won.id).await.as_ref(),
            Ok(&Some(won.clone()))
        );
        newest = won.next(Vec::new(), None);
    }
    // A gap is no next revision, and a record of another scheme has another meaning.
    let gap = newest.next(Vec::new(), None);
    assert_eq!(journal.write_state(&gap).await, Ok(false));
    let other = SchemeState {
        scheme: "upto".to_owned(),
        ..newest
    };
    assert!(journal.write_state(&other).await.is_err());
}

fn exclusive(name: &str, revision: u64) -> Claim {
    claim(name).access(Place {
        state: record_id(),
        revision,
        exclusive: true,
    })
}

pub(super) fn shared(name: &str, revision: u64) -> Claim {
    claim(name).access(Place {
        state: record_id(),
        revision,
        exclusive: false,
    })
}

/// A deposit and a refund of one channel must not be open together.
pub async fn of_many_exclusive_claims_of_a_record_one_is_won<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let claims: Vec<Claim> = (0..20).map(|at| exclusive(&format!("{at}"), 0)).collect();
    let answers = join_all(claims.iter().map(|claim| journal.claim(claim, NOW))).await;
    let is_won = |answer: &Result<Claimed, _>| matches!(answer, Ok(Claimed::Won { .. }));
    let won = answers.iter().position(is_won).expect("one is won");
    let holder = claims[won].id;
    for (at, answer) in answers.iter().enumerate() {
        assert!(
            at == won || *answer == Ok(Claimed::StateTaken(holder)),
            "{answer:?}"
        );
    }
    // No write of a voucher either. Others that are open may end.
    assert_eq!(journal.write_state(&record()).await, Ok(false));
    let other = shared("shared", 0);
    let attempt = win(&journal, &other).await;
    let ended = end(
        &journal,
        other.id,
        (attempt, NOW),
        settled("0x1"),
        Some(record()),
    )
    .await;
    assert_eq!(ended, Ended::Yes);
}

/// What was judged by an old record may be wrong by now.
pub async fn an_exclusive_claim_is_judged_by_the_newest_revision<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    assert_eq!(journal.write_state(&record()).await, Ok(true));
    for wrong in [0, 2] {
        let answer = journal.claim(&exclusive("a", wrong), NOW).await;
        assert_eq!(answer, Ok(Claimed::StateMoved));
    }
    win(&journal, &exclusive("a", 1)).await;
}

/// Else a channel would be stuck behind a payment that has ended.
pub async fn every_outcome_frees_an_exclusive_record<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    for (name, outcome) in [
        ("settled", settled("0x1")),
        ("failed", failed(None)),
        ("released", released()),
        ("lost", lost()),
    ] {
        let claim = exclusive(name, 0);
        let attempt = win(&journal, &claim).await;
        if outcome == lost() {
            lose_the_first_block(&journal, &claim).await;
        }
        let ended = end(&journal, claim.id, (attempt, NOW), outcome.clone(), None).await;
        assert_eq!(ended, Ended::Yes);
        // The record was never written, so it still does not exist.
        assert_eq!(journal.state(&record_id()).await, Ok(None));
    }
    assert_eq!(journal.write_state(&record()).await, Ok(true));
}

/// A payment that the chain took back is open again, and has its record again.
pub async fn an_exclusive_record_stays_taken_over_a_crash<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let first = exclusive("first", 0);
    let attempt = win(&journal, &first).await;
    fixture.crash(journal).await;
    let journal = fixture.open().await;
    let is_taken = Ok(Claimed::StateTaken(first.id));
    assert_eq!(journal.claim(&exclusive("second", 0), NOW).await, is_taken);
    take_up(&journal, first.id).await;
    let ended = end(
        &journal,
        first.id,
        (attempt, NOW),
        settled("0x1"),
        Some(record()),
    )
    .await;
    assert_eq!(ended, Ended::Yes);
    assert_eq!(journal.reopen(&first.id, attempt, NOW).await, Ok(true));
    assert_eq!(journal.claim(&exclusive("second", 1), NOW).await, is_taken);
}

/// The most urgent come first, and one that fails does not come at once again.
pub async fn due_records_come_in_order_and_are_put_off<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let due = |name: &str, due: Option<u64>| SchemeState {
        due: due.map(|after| NOW.plus_secs(after)),
        ..SchemeState::new(
            StateId::from_parts(&[name.as_bytes()]),
            "test:1",
            "exact",
            name.as_bytes().to_vec(),
        )
    };
    let records = [
        due("b", Some(2)),
        due("a", Some(1)),
        due("never", None),
        due("c", Some(9)),
    ];
    for record in &records {
        assert_eq!(journal.write_state(record).await, Ok(true));
    }
    let [second, first, _, third] = records;
    let at = |after: u64| NOW.plus_secs(after);
    let take = async |now: u64, limit| {
        let due = journal.due_states("test:1", "exact", at(now), at(now + 60), limit);
        due.await.expect("a read")
    };
    assert_eq!(take(5, 1).await, std::slice::from_ref(&first));
    assert_eq!(take(5, 9).await, std::slice::from_ref(&second));
    assert_eq!(take(5, 9).await, []);
    let others = journal
        .due_states("test:2", "exact", at(99), at(99), 9)
        .await;
    assert_eq!(others, Ok(vec![]));
    // Written meanwhile: its writer has said when it comes again.
    let changed = first.next(b"changed".to_vec(), Some(at(20)));
    assert_eq!(journal.write_state(&changed).await, Ok(true));
    let seen = [(first, None), (second, None)];
    assert_eq!(journal.put_off_states(&seen).await, Ok(()));
    assert_eq!(take(99, 9).await, [third, changed]);
}

/// A settled payment of 7 by the payer to the seller.
pub(super) async fn original<J: Journal>(journal: &J, name: &str) -> Claim {
    let claim = claim(name);
    let attempt = win(journal, &claim).await;
    let ended = end(journal, claim.id, (attempt, NOW), settled("0x1"), None).await;
    assert_eq!(ended, Ended::Yes);
    claim
}

pub(super) fn refund(of: &Claim, name: &str, amount: u64) -> Claim {
    let mut refund = claim(name).refund_of(of.id);
    (refund.payer, refund.pay_to) = (of.pay_to.clone(), of.payer.clone());
    refund.amount = Amount::from(amount);
    refund
}

/// Against a model: refunds that settle, fail and are open, in a fixed mixture.
pub async fn refunds_never_exceed_what_settled<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let original = original(&journal, "original").await;
    let mut left = 7;
    for at in 0..60_u64 {
        let amount = at * at % 9 + 1;
        let refund = refund(&original, &format!("refund {at}"), amount);
        let answer = journal.claim(&refund, NOW).await.expect("an answer");
        let Claimed::Won { attempt } = answer else {
            let exceeds = Claimed::RefundsExceed {
                left: Amount::from(left),
            };
            assert!(
                amount > left && answer == exceeds,
                "{amount} of {left}: {answer:?}"
            );
            continue;
        };
        assert!(amount <= left, "{amount} of {left}");
        match at % 4 {
            // Stays open, and counts.
            0 => left -= amount,
            1 => {
                left -= amount;
                let outcome = Outcome::Settled {
                    transaction: None,
                    amount: Amount::from(amount),
                    receipt: SchemeReceipt::default(),
                };
                let ended = end(&journal, refund.id, (attempt, NOW), outcome.clone(), None).await;
                assert_eq!(ended, Ended::Yes);
            }
            _ => {
                let ended = end(&journal, refund.id, (attempt, NOW), failed(None), None).await;
                assert_eq!(ended, Ended::Yes);
            }
        }
    }
    assert!(left < 7, "no refund was won");
}

/// Each other claim has its own problem.
pub async fn a_refund_exchanges_the_parties_of_a_settled_payment<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let paid = original(&journal, "paid").await;
    let open = claim("open");
    win(&journal, &open).await;
    let good = || refund(&paid, "refund", 1);
    let mut wrong = vec![
        (
            refund(&claim("unknown"), "refund", 1),
            RefundProblem::Unknown,
        ),
        (refund(&open, "refund", 1), RefundProblem::NotSettled),
    ];
    for (change, problem) in [
        (
            (|claim| claim.network = "test:2".to_owned()) as fn(&mut Claim),
            RefundProblem::Network,
        ),
        (
            |claim| claim.asset = "other".to_owned(),
            RefundProblem::Asset,
        ),
        (
            |claim| claim.payer = "other".to_owned(),
            RefundProblem::Payer,
        ),
        (
            |claim| claim.pay_to = "other".to_owned(),
            RefundProblem::PayTo,
        ),
    ] {
        let mut claim = good();
        change(&mut claim);
        wrong.push((claim, problem));
    }
    for (claim, problem) in wrong {
        let answer = journal.claim(&claim, NOW).await;
        assert_eq!(answer, Ok(Claimed::NotRefundable(problem)));
    }
    let attempt = win(&journal, &good()).await;
    let ended = end(&journal, good().id, (attempt, NOW), settled("0x2"), None).await;
    assert_eq!(ended, Ended::Yes);
    let again = refund(&good(), "again", 1);
    let is_refund = Claimed::NotRefundable(RefundProblem::IsRefund);
    assert_eq!(journal.claim(&again, NOW).await, Ok(is_refund));
}

/// A seller that lost the answer asks again with the key of its sale.
pub async fn success_is_reported_again_to_the_same_key_for_a_day<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (with, without) = (original(&journal, "a").await, original(&journal, "b").await);
    let report = async |claim: &Claim, key: Option<&str>, after: u64| {
        let reported = journal.report_success(&claim.id, 1, key, NOW.plus_secs(after));
        reported.await.expect("an answer")
    };
    let (ours, last) = (Some("ours"), REPORTED_AGAIN_FOR - 1);
    assert_eq!(report(&with, ours, 0).await, Reported::First);
    for other in [None, Some("theirs"), Some("")] {
        assert_eq!(report(&with, other, 1).await, Reported::No, "{other:?}");
    }
    assert_eq!(report(&with, ours, last).await, Reported::Again);
    assert_eq!(report(&with, ours, last + 1).await, Reported::No);
    assert_eq!(known(&journal, &with).await.success_reported_at, Some(NOW));
    assert_eq!(report(&without, None, 0).await, Reported::First);
    for key in [None, ours, Some("")] {
        assert_eq!(report(&without, key, 1).await, Reported::No, "{key:?}");
    }
    // An empty key names no sale.
    let empty = original(&journal, "c").await;
    assert_eq!(report(&empty, Some(""), 0).await, Reported::First);
    assert_eq!(report(&empty, Some(""), 1).await, Reported::No);
}

/// Two sellers with one key may ask at once. Only one of them sells for the first time.
pub async fn of_concurrent_reports_to_one_key_one_is_the_first<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let claim = original(&journal, "a").await;
    let reports = (0..50).map(|_| journal.report_success(&claim.id, 1, Some("ours"), NOW));
    let reports = join_all(reports).await;
    let count = |answer| reports.iter().filter(|one| **one == Ok(answer)).count();
    assert_eq!((count(Reported::First), count(Reported::Again)), (1, 49));
}

/// A capture that is given up strands a buyer's money. One that fails costs gas each time.
pub async fn a_claim_without_limit_waits_longer_after_each_failure<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let claim = claim("a").retries_without_limit();
    let (mut now, mut pause) = (NOW, RETRY_PAUSE);
    for failures in 1..FAILURES_MAX * 5 {
        let answer = journal.claim(&claim, now).await;
        let Ok(Claimed::Won { attempt }) = answer else {
            panic!("attempt {failures}: {answer:?}")
        };
        let ended = end(
            &journal,
            claim.id,
            (attempt, now),
            failed(Some("0x1")),
            None,
        )
        .await;
        assert_eq!(ended, Ended::Yes);
        let until = now.plus_secs(pause);
        let early = journal.claim(&claim, now.plus_secs(pause - 1)).await;
        assert_eq!(early, Ok(Claimed::TooSoon { until }), "{failures}");
        (now, pause) = (until, (pause * 2).min(RETRY_PAUSE_MAX));
    }
    assert_eq!(pause, RETRY_PAUSE_MAX);
}

/// An open settlement settles, success is reported, and the chain takes it back.
async fn lose_the_first_block<J: Journal>(journal: &J, claim: &Claim) {
    let ended = end(journal, claim.id, (1, NOW), settled("0x1"), None).await;
    assert_eq!(ended, Ended::Yes);
    let reported = journal.report_success(&claim.id, 1, None, NOW).await;
    assert_eq!(reported, Ok(Reported::First));
    assert_eq!(journal.reopen(&claim.id, 1, NOW).await, Ok(true));
}

/// The same bytes may be signed for a step and then for the action, and a step may be replaced.
pub async fn a_transaction_recorded_again_has_its_newest_step<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, b) = (claim("a"), claim("b"));
    win(&journal, &a).await;
    win(&journal, &b).await;
    let made_for = |claim: &Claim, step| SettlementStep {
        settlement: claim.id,
        step,
    };
    let record = async |signed: &Transaction, steps: &[SettlementStep]| {
        let recorded = journal.record("test:1", signed, steps, None, NOW).await;
        assert_eq!(recorded, Ok(()));
    };
    let (first, replacement) = (transaction("0x1", 0), transaction("0x2", 0));
    // One transaction is a step of one payment, and the action of another.
    record(&first, &[made_for(&a, u8::MAX), made_for(&b, 0)]).await;
    record(&replacement, &[made_for(&a, u8::MAX)]).await;
    journal
        .withdraw(&first.id, None)
        .await
        .expect("a withdrawal");
    let known_a = known(&journal, &a).await;
    let all = [&known_a.transactions[0], &known_a.withdrawn[0]];
    assert_eq!(all.map(|signed| signed.step), [u8::MAX; 2]);
    assert_eq!(settling_transactions(&known_a).count(), 0);
    assert!(!known(&journal, &b).await.has_steps());

    record(&first, &[made_for(&a, 0)]).await;
    let mut steps = journal.settlements_of(&first.id).await.expect("a read");
    steps.sort();
    let mut expected = vec![made_for(&a, 0), made_for(&b, 0)];
    expected.sort();
    assert_eq!(steps, expected);
    let known_a = known(&journal, &a).await;
    let settling: Vec<_> = settling_transactions(&known_a).collect();
    assert_eq!(settling, [&first]);
    assert!(known_a.has_steps());
}

/// Other settlements of the record end meanwhile. So does one that was reopened after another had
/// taken the record.
pub async fn a_record_is_freed_by_its_holder_only<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let reopened = exclusive("reopened", 0);
    let shared = shared("shared", 0);
    win(&journal, &shared).await;
    win(&journal, &reopened).await;
    // A holder does not get the answer that it is in its own way.
    assert_eq!(taken(&journal, &reopened).await.state, State::Open);
    let ended = end(&journal, reopened.id, (1, NOW), settled("0x1"), None).await;
    assert_eq!(ended, Ended::Yes);
    let holder = exclusive("holder", 0);
    win(&journal, &holder).await;
    assert_eq!(journal.reopen(&reopened.id, 1, NOW).await, Ok(true));
    let is_taken = Ok(Claimed::StateTaken(holder.id));
    let mut newest = record();
    for (other, outcome) in [(&shared, settled("0x2")), (&reopened, settled("0x3"))] {
        let third = exclusive("third", newest.revision - 1);
        assert_eq!(journal.claim(&third, NOW).await, is_taken);
        let next = Some(newest.clone());
        let ended = end(&journal, other.id, (1, NOW), outcome, next).await;
        assert_eq!(ended, Ended::Yes);
        newest = newest.next(Vec::new(), None);
        assert_eq!(journal.write_state(&newest).await, Ok(false));
    }
    let third = exclusive("third", newest.revision - 1);
    assert_eq!(journal.claim(&third, NOW).await, is_taken);
    let ended = end(&journal, holder.id, (1, NOW), failed(None), None).await;
    assert_eq!(ended, Ended::Yes);
    win(&journal, &third).await;
}

/// A conclusion could never write the content of such a record, and the money would have moved.
pub async fn a_record_of_another_scheme_is_not_taken<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    assert_eq!(journal.write_state(&record()).await, Ok(true));
    let mut others = [exclusive("scheme", 1), exclusive("network", 1)];
    others[0].scheme = "upto".to_owned();
    others[1].network = "test:2".to_owned();
    for other in &others {
        assert!(journal.claim(other, NOW).await.is_err());
        assert_eq!(journal.settlement(&other.id).await, Ok(None));
    }
    // A conclusion with a content of another scheme changes nothing either.
    let own = exclusive("own", 1);
    win(&journal, &own).await;
    let foreign = SchemeState {
        scheme: "upto".to_owned(),
        ..record().next(Vec::new(), None)
    };
    let refused = journal
        .conclude(&own.id, 1, &settled("0x1"), Some(&foreign), NOW)
        .await;
    assert!(refused.is_err());
    assert_eq!(known(&journal, &own).await.state, State::Open);
    assert_eq!(journal.state(&record_id()).await, Ok(Some(record())));
}

/// The engine repeats a conclusion until it is answered.
pub async fn a_conclusion_that_is_repeated_changes_nothing<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = exclusive("a", 0);
    let attempt = win(&journal, &a).await;
    let (outcome, next) = (settled("0x1"), record());
    let conclude = || journal.conclude(&a.id, attempt, &outcome, Some(&next), NOW);
    let ended = join_all((0..10).map(|_| conclude())).await;
    let count = |expected| ended.iter().filter(|one| **one == Ok(expected)).count();
    assert_eq!((count(Ended::Yes), count(Ended::No)), (1, 9), "{ended:?}");
    assert_eq!(journal.state(&next.id).await, Ok(Some(next)));
}

/// The report of a settlement that was opened again counts when it settles again.
pub async fn a_settlement_that_is_open_again_reports_no_success<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = original(&journal, "a").await;
    let report = async |journal: &F::Journal, key: &'static str, after: u64| {
        let reported = journal.report_success(&a.id, 1, Some(key), NOW.plus_secs(after));
        reported.await.expect("an answer")
    };
    assert_eq!(report(&journal, "ours", 0).await, Reported::First);
    assert_eq!(journal.reopen(&a.id, 1, NOW).await, Ok(true));
    assert_eq!(report(&journal, "ours", 1).await, Reported::No);
    let settlement = known(&journal, &a).await;
    assert_eq!(settlement.reported_to.as_deref(), Some("ours"));
    assert!(!settlement.reports_again(Some("ours"), NOW));
    let outcome = Outcome::Settled {
        transaction: Some(TransactionId::new("0x2")),
        amount: Amount::from(7),
        receipt: receipt(),
    };
    let ended = end(&journal, a.id, (1, NOW), outcome.clone(), None).await;
    assert_eq!(ended, Ended::Yes);
    fixture.crash(journal).await;
    let journal = fixture.open().await;
    let settlement = known(&journal, &a).await;
    assert_eq!(settlement.state, State::Concluded(outcome));
    // The answer without a write is the same as the one of the write.
    for (key, after) in [
        ("ours", 1),
        ("ours", REPORTED_AGAIN_FOR - 1),
        ("ours", REPORTED_AGAIN_FOR),
        ("theirs", 1),
        ("", 1),
    ] {
        let again = settlement.reports_again(Some(key), NOW.plus_secs(after));
        let reported = report(&journal, key, after).await;
        assert_eq!(reported == Reported::Again, again, "{key} {after}");
        assert_eq!(again, key == "ours" && after < REPORTED_AGAIN_FOR);
    }
}

/// Neither a settlement nor a state record is left behind by a claim that is not won.
pub async fn a_refused_claim_changes_nothing<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let paid = original(&journal, "paid").await;
    let place = exclusive("", 0).access.expect("a place");
    let moved = Place {
        revision: 1,
        ..place
    };
    let mut refused = vec![
        refund(&paid, "exceeds", 8).access(place),
        refund(&claim("unknown"), "unknown", 1).access(place),
        claim("moved").access(moved),
        // Both conditions must hold.
        refund(&paid, "both", 7).access(moved),
    ];
    let waits = claim("waits").access(place).retries_without_limit();
    win(&journal, &waits).await;
    let ended = end(&journal, waits.id, (1, NOW), failed(Some("0x2")), None).await;
    assert_eq!(ended, Ended::Yes);
    let before = list(&journal, &Filter::new()).await;
    refused.push(waits.clone());
    for claim in &refused {
        let answer = journal.claim(claim, NOW).await.expect("an answer");
        assert!(!matches!(answer, Claimed::Won { .. }), "{answer:?}");
    }
    assert_eq!(list(&journal, &Filter::new()).await, before);
    let settlement = known(&journal, &waits).await;
    assert_eq!((settlement.attempt, settlement.failures), (1, 1));
    win(&journal, &refund(&paid, "all of it", 7)).await;
    assert_eq!(journal.write_state(&record()).await, Ok(true));
}

/// Its money has moved, or still may. To refuse it would hide that.
pub async fn an_unfinished_payment_is_claimed_again_without_conditions<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let original = original(&journal, "original").await;
    let fail = async |claim: &Claim| {
        let attempt = win(&journal, claim).await;
        let outcome = failed(Some("0x9"));
        let ended = end(&journal, claim.id, (attempt, NOW), outcome, None).await;
        assert_eq!(ended, Ended::Yes);
    };
    let unfinished = |claim: &Claim| claim.clone().unfinished();
    let refund_of_all = |name| refund(&original, name, 7);
    let first = refund_of_all("first");
    fail(&first).await;
    win(&journal, &refund_of_all("second")).await;
    let exceeds = Claimed::RefundsExceed { left: Amount::ZERO };
    assert_eq!(journal.claim(&first, NOW).await, Ok(exceeds));
    assert_eq!(win(&journal, &unfinished(&first)).await, 2);

    let first = exclusive("deposit", 0);
    fail(&first).await;
    let holder = exclusive("holder", 0);
    win(&journal, &holder).await;
    let is_taken = Ok(Claimed::StateTaken(holder.id));
    assert_eq!(journal.claim(&first, NOW).await, is_taken);
    assert_eq!(win(&journal, &unfinished(&first)).await, 2);
    // The record stays the other settlement's.
    assert_eq!(journal.claim(&exclusive("third", 0), NOW).await, is_taken);
    // Nothing else is free for such a claim.
    let taken = taken(&journal, &unfinished(&first)).await;
    assert_eq!(taken.state, State::Open);
}

/// The time of the first mark is the one at which the block was final.
pub async fn a_repeated_finalize_keeps_the_first_time<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, b) = (original(&journal, "a").await, original(&journal, "b").await);
    assert_eq!(journal.finalize(&[a.id], NOW).await, Ok(()));
    let later = NOW.plus_secs(9);
    assert_eq!(journal.finalize(&[a.id, b.id], later).await, Ok(()));
    assert_eq!(known(&journal, &a).await.final_at, Some(NOW));
    assert_eq!(known(&journal, &b).await.final_at, Some(later));
}

/// It had settled for less, another refund took the rest, and the chain took it back. Then it could
/// settle in full.
pub async fn a_refund_counts_in_full_until_it_is_final<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let paid = original(&journal, "paid").await;
    let (first, second) = (refund(&paid, "first", 5), refund(&paid, "second", 4));
    let less = || Outcome::Settled {
        transaction: Some(TransactionId::new("0x2")),
        amount: Amount::from(3),
        receipt: SchemeReceipt::default(),
    };
    let exceeds = |left: u64| {
        Ok(Claimed::RefundsExceed {
            left: Amount::from(left),
        })
    };
    win(&journal, &first).await;
    for _ in 0..2 {
        let ended = end(&journal, first.id, (1, NOW), less(), None).await;
        assert_eq!(ended, Ended::Yes);
        assert_eq!(journal.claim(&second, NOW).await, exceeds(2));
        assert_eq!(journal.reopen(&first.id, 1, NOW).await, Ok(true));
        assert_eq!(journal.claim(&second, NOW).await, exceeds(2));
    }
    let ended = end(&journal, first.id, (1, NOW), less(), None).await;
    assert_eq!(ended, Ended::Yes);
    assert_eq!(journal.finalize(&[first.id], NOW).await, Ok(()));
    win(&journal, &second).await;
    let third = refund(&paid, "third", 1);
    assert_eq!(journal.claim(&third, NOW).await, exceeds(0));
}

/// One write that broke a rule failed its whole group, and again whenever it was repeated.
pub async fn a_refused_write_fails_no_other_write<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let unreported = claim("unreported");
    win(&journal, &unreported).await;
    let reported = original(&journal, "reported").await;
    let granted = journal.report_success(&reported.id, 1, None, NOW).await;
    assert_eq!(granted, Ok(Reported::First));
    assert_eq!(journal.reopen(&reported.id, 1, NOW).await, Ok(true));
    let (lost, failed, released) = (lost(), failed(None), released());
    let wrong = [
        (&unreported, &lost),
        (&reported, &failed),
        (&reported, &released),
    ];
    let wrong = wrong.map(|(of, outcome)| journal.conclude(&of.id, 1, outcome, None, NOW));
    let orphan = refund(&claim("unknown"), "orphan", 1).unfinished();
    let good: Vec<Claim> = (0..20).map(|at| claim(&format!("good {at}"))).collect();
    let (wrong, orphaned, good) = join3(
        join_all(wrong),
        journal.claim(&orphan, NOW),
        join_all(good.iter().map(|claim| journal.claim(claim, NOW))),
    )
    .await;
    assert!(wrong.iter().all(Result::is_err), "{wrong:?}");
    assert!(orphaned.is_err(), "{orphaned:?}");
    let is_won = |answer: &Result<Claimed, _>| *answer == Ok(Claimed::Won { attempt: 1 });
    assert!(good.iter().all(is_won), "{good:?}");
    assert_eq!(journal.problem(), None);
    assert_eq!(journal.settlement(&orphan.id).await, Ok(None));
    for open in [&unreported, &reported] {
        assert_eq!(known(&journal, open).await.state, State::Open);
    }
    let settlement = known(&journal, &reported).await;
    assert_eq!(settlement.success_reported_at, Some(NOW));
}

/// The record was written, and then the outcome was refused.
pub async fn a_refused_conclusion_changes_nothing<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, without) = (exclusive("a", 0), claim("without"));
    win(&journal, &a).await;
    win(&journal, &without).await;
    let elsewhere = StateId::from_parts(&[b"another channel"]);
    let elsewhere = SchemeState::new(elsewhere, "test:1", "exact", Vec::new());
    let (lost, settled) = (lost(), settled("0x1"));
    for (claim, outcome, state) in [
        (&a, &lost, &record()),
        (&a, &settled, &elsewhere),
        (&without, &settled, &record()),
    ] {
        let refused = journal.conclude(&claim.id, 1, outcome, Some(state), NOW);
        let refused = refused.await;
        assert!(refused.is_err(), "{refused:?}");
        assert_eq!(journal.state(&state.id).await, Ok(None));
        assert_eq!(known(&journal, claim).await.state, State::Open);
    }
    // The settlement still has its record, and can end.
    assert_eq!(journal.write_state(&record()).await, Ok(false));
    let ended = end(&journal, a.id, (1, NOW), settled, Some(record())).await;
    assert_eq!(ended, Ended::Yes);
    assert_eq!(journal.state(&record_id()).await, Ok(Some(record())));
}

/// A voucher is charged while a deposit or another payment of its channel ends.
pub async fn a_record_written_while_a_claim_ends_keeps_one_of_both<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let mut newest = None::<SchemeState>;
    for round in 0..20 {
        let revision = newest.as_ref().map_or(0, |state| state.revision);
        let is_exclusive = round % 2 == 0;
        let claim = match is_exclusive {
            true => exclusive(&round.to_string(), revision),
            false => shared(&round.to_string(), revision),
        };
        win(&journal, &claim).await;
        let next = |content: &[u8]| match &newest {
            None => SchemeState {
                state: content.to_vec(),
                ..record()
            },
            Some(state) => state.next(content.to_vec(), None),
        };
        let (charged, voucher) = (next(b"charged"), next(b"voucher"));
        let outcome = settled("0x1");
        let concluding = journal.conclude(&claim.id, 1, &outcome, Some(&charged), NOW);
        let (ended, written) = match round % 4 {
            0 | 1 => join(concluding, journal.write_state(&voucher)).await,
            _ => {
                let (written, ended) = join(journal.write_state(&voucher), concluding).await;
                (ended, written)
            }
        };
        let kept = match (ended, written) {
            (Ok(Ended::Yes), Ok(false)) => charged,
            (Ok(Ended::StateMoved), Ok(true)) if !is_exclusive => voucher,
            other => panic!("{other:?}"),
        };
        let state = journal.state(&record_id()).await;
        assert_eq!(state, Ok(Some(kept.clone())));
        newest = Some(kept);
    }
}

/// An attempt failed while the clock was years ahead. The pause would have lasted for those years.
pub async fn a_clock_that_was_set_back_delays_no_claim<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a").retries_without_limit();
    let ahead = NOW.plus_secs(1_000_000_000);
    let claimed = journal.claim(&a, ahead).await;
    assert_eq!(claimed, Ok(Claimed::Won { attempt: 1 }));
    let failed = || failed(Some("0x1"));
    let ended = end(&journal, a.id, (1, ahead), failed(), None).await;
    assert_eq!(ended, Ended::Yes);
    let until = ahead.plus_secs(RETRY_PAUSE);
    let early = journal.claim(&a, ahead).await;
    assert_eq!(early, Ok(Claimed::TooSoon { until }));
    assert_eq!(win(&journal, &a).await, 2);
    let ended = end(&journal, a.id, (2, NOW), failed(), None).await;
    assert_eq!(ended, Ended::Yes);
    let until = NOW.plus_secs(2 * RETRY_PAUSE);
    let early = journal.claim(&a, NOW).await;
    assert_eq!(early, Ok(Claimed::TooSoon { until }));
}

/// The answer without a write is the same as the one of the write.
pub async fn success_without_limit_is_reported_to_every_repeat<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a").retries_without_limit();
    win(&journal, &a).await;
    assert!(!known(&journal, &a).await.reports_again(None, NOW));
    let ended = end(&journal, a.id, (1, NOW), settled("0x1"), None).await;
    assert_eq!(ended, Ended::Yes);
    fixture.crash(journal).await;
    let journal = fixture.open().await;
    for (key, after, expected) in [
        (Some("ours"), 0, Reported::First),
        (None, 1, Reported::Again),
        (Some("theirs"), 2 * REPORTED_AGAIN_FOR, Reported::Again),
    ] {
        let now = NOW.plus_secs(after);
        let reported = journal.report_success(&a.id, 1, key, now).await;
        assert_eq!(reported, Ok(expected));
        assert!(known(&journal, &a).await.reports_again(key, now));
    }
    let settlement = known(&journal, &a).await;
    assert_eq!(settlement.success_reported_at, Some(NOW));
    assert_eq!(settlement.reported_to.as_deref(), Some("ours"));
    assert_eq!(journal.reopen(&a.id, 1, NOW).await, Ok(true));
    assert!(!known(&journal, &a).await.reports_again(None, NOW));
    let reported = journal.report_success(&a.id, 1, None, NOW).await;
    assert_eq!(reported, Ok(Reported::No));
}

/// Its next attempt is like the first one of any claim. Another claim is lost for good.
pub async fn a_lost_claim_without_limit_may_be_repeated<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (without, once) = (claim("without").retries_without_limit(), claim("once"));
    for claim in [&without, &once] {
        win(&journal, claim).await;
        lose_the_first_block(&journal, claim).await;
        let ended = end(&journal, claim.id, (1, NOW), lost(), None).await;
        assert_eq!(ended, Ended::Yes);
    }
    let until = NOW.plus_secs(RETRY_PAUSE);
    let early = journal.claim(&without, NOW).await;
    assert_eq!(early, Ok(Claimed::TooSoon { until }));
    let won = journal.claim(&without, until).await;
    assert_eq!(won, Ok(Claimed::Won { attempt: 2 }));
    let settlement = known(&journal, &without).await;
    assert_eq!(settlement.success_reported_at, None);
    let ended = end(&journal, without.id, (2, NOW), failed(None), None).await;
    assert_eq!(ended, Ended::Yes);
    for claim in [once.clone(), once.retries_without_limit()] {
        let answer = journal.claim(&claim, until).await.expect("an answer");
        assert!(matches!(answer, Claimed::Taken(_)), "{answer:?}");
    }
}
