//! The conformance suite for journals: the properties that each implementation must have.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::{
    Amount, Fault, FaultKind, LaneId, PaymentId, PaymentInfo, Reason, SchemeReceipt, Timestamp,
    Transaction, TransactionId,
};
use quittance_engine::{
    Claim, Claimed, Ended, FAILURES_MAX, Filter, Journal, Outcome, Settlement, SettlementStep,
    SignedFor, State, StateKind,
};

/// A journal in an environment of its own.
#[async_trait]
pub trait JournalFixture: Send + Sync + Sized {
    /// The journal.
    type Journal: Journal;

    /// An environment with an empty journal.
    async fn new() -> Self;

    /// Opens the journal. After a [`crash`](Self::crash), opens what the crash left.
    async fn open(&self) -> Self::Journal;

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
);

const NOW: Timestamp = Timestamp::from_secs(1_000);

fn claim(name: &str) -> Claim {
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

fn transaction(id: &str, sequence: u64) -> Transaction {
    let bytes: Arc<[u8]> = id.as_bytes().into();
    Transaction {
        id: TransactionId::new(id),
        lane: LaneId::new("signer"),
        sequence,
        bytes,
    }
}

const fn settling(settlement: PaymentId) -> SettlementStep {
    SettlementStep::settling(settlement)
}

const fn signed_for(attempt: u32, transaction: Transaction) -> SignedFor {
    SignedFor {
        attempt,
        step: 0,
        transaction,
    }
}

fn settled(id: &str) -> Outcome {
    Outcome::Settled {
        transaction: Some(TransactionId::new(id)),
        amount: Amount::from(7),
        receipt: SchemeReceipt::default(),
    }
}

fn failed(transaction: Option<&str>) -> Outcome {
    Outcome::Failed {
        reason: Reason::INVALID_TRANSACTION_STATE,
        detail: "it's \"odd\"".to_owned(),
        transaction: transaction.map(TransactionId::new),
    }
}

fn released() -> Outcome {
    Outcome::Released {
        fault: Fault {
            retry_after: Some(Duration::from_secs(17)),
            ..Fault::new(FaultKind::FacilitatorFunds, "no gas: \"odd\"")
        },
    }
}

async fn win<J: Journal>(journal: &J, claim: &Claim) -> u32 {
    match journal.claim(claim, NOW).await.expect("a claim") {
        Claimed::Won { attempt } => attempt,
        other => panic!("not won: {other:?}"),
    }
}

async fn taken<J: Journal>(journal: &J, claim: &Claim) -> Settlement {
    match journal.claim(claim, NOW).await.expect("a claim") {
        Claimed::Taken(settlement) => *settlement,
        other => panic!("not taken: {other:?}"),
    }
}

async fn known<J: Journal>(journal: &J, claim: &Claim) -> Settlement {
    journal
        .settlement(&claim.id)
        .await
        .expect("a read")
        .expect("a settlement")
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
            .record("test:1", &signed, &[settling(claim.id)], NOW)
            .await
            .expect("a record");
        if at % 2 == 0 {
            let outcome = settled(signed.id.as_str());
            journal
                .conclude(&claim.id, attempt, &outcome, None, NOW)
                .await
                .expect("a conclusion");
            assert!(
                journal
                    .report_success(&claim.id, attempt, None, NOW)
                    .await
                    .expect("a report")
            );
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
        assert!(
            !journal
                .report_success(&claim.id, 1, None, NOW)
                .await
                .expect("a report")
        );
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
            .record("test:1", &first, &[settling(a.id), settling(b.id)], NOW)
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
        .record("test:1", &second, &[settling(a.id)], NOW)
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
        .record("test:1", &transaction("0x1", 5), &[settling(a.id)], NOW)
        .await
        .expect("a record");
    assert_eq!(journal.next_sequence("test:1", &lane).await, Ok(6));
    journal
        .withdraw(&TransactionId::new("0x1"))
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
            .record("test:1", &signed, &[settling(a.id)], NOW)
            .await
            .expect("a record");
    };
    record().await;
    journal.withdraw(&signed.id).await.expect("a withdrawal");
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
        .record("test:1", &first, &[settling(a.id)], NOW)
        .await
        .expect("a record");
    journal.withdraw(&first.id).await.expect("a withdrawal");
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
            .record("test:1", recorded, &[settling(a.id)], NOW)
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
        .record("test:1", &late, &[settling(a.id), settling(b.id)], NOW)
        .await
        .expect("a record");
    assert_eq!(known(&journal, &a).await.transactions, vec![]);
    assert_eq!(
        known(&journal, &b).await.transactions,
        vec![signed_for(1, late)]
    );
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
            .record("test:1", &transaction(id, sequence), &[], now)
            .await
            .expect("a record");
    }
    journal
        .record("test:2", &transaction("0x9", 1), &[], NOW)
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
    assert!(
        !journal
            .report_success(&a.id, attempt, None, NOW)
            .await
            .expect("a report"),
        "reported before it settled"
    );
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
    let granted = reported.iter().filter(|answer| **answer == Ok(true));
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
    assert_eq!(journal.reopen(&a.id, 1).await, Ok(false));
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
        assert_eq!(journal.reopen(&claim.id, attempt).await, Ok(false));
        let end = settled("0x1");
        let concluded = journal.conclude(&claim.id, attempt, &end, None, NOW).await;
        assert_eq!(concluded, Ok(Ended::Yes));
    }
    assert_eq!(
        journal.report_success(&reported.id, 1, None, NOW).await,
        Ok(true)
    );
    for claim in [&reported, &unreported] {
        assert_eq!(journal.reopen(&claim.id, 2).await, Ok(false));
        assert_eq!(journal.reopen(&claim.id, 1).await, Ok(true));
        assert_eq!(known(&journal, claim).await.state, State::Open);
        assert_eq!(
            journal.report_success(&claim.id, 1, None, NOW).await,
            Ok(false)
        );
        let again = transaction("0x2", 7);
        journal
            .record("test:1", &again, &[settling(claim.id)], NOW)
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
        Ok(false)
    );
    assert_eq!(
        journal.report_success(&unreported.id, 1, None, NOW).await,
        Ok(true)
    );
    // One of them is then lost, for good.
    assert_eq!(journal.reopen(&reported.id, 1).await, Ok(true));
    let lost = Outcome::Lost {
        reason: Reason::SETTLEMENT_EXPIRED,
        detail: "it's \"odd\"".to_owned(),
        transaction: Some(TransactionId::new("0x2")),
    };
    assert_eq!(
        journal.conclude(&reported.id, 1, &lost, None, NOW).await,
        Ok(Ended::Yes)
    );
    let settlement = taken(&journal, &reported).await;
    assert_eq!(settlement.state, State::Concluded(lost));
    assert_eq!(settlement.success_reported_at, Some(NOW));
    assert_eq!(
        journal.report_success(&reported.id, 1, None, NOW).await,
        Ok(false)
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
    assert_eq!(journal.report_success(&a.id, 1, None, NOW).await, Ok(false));
    assert_eq!(journal.report_success(&a.id, 2, None, NOW).await, Ok(true));
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
        .record("test:1", &transaction("0x1", 0), &[settling(b.id)], NOW)
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
        .record("test:1", &transaction("0x1", 3), &[], NOW)
        .await
        .expect("a record");
    journal
        .record("test:1", &transaction("0x2", 2), &[], NOW)
        .await
        .expect("a record");
    journal
        .record("test:2", &transaction("0x3", 9), &[], NOW)
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
        Ok(false)
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
            .record("test:1", &signed, &[settling(claim.id)], NOW)
            .await
            .expect("a record");
    }
    journal
        .withdraw(&TransactionId::new("0x1"))
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
