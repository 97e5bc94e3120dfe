//! What every journal must hold.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::{Amount, LaneId, PaymentId, Reason, Timestamp, Transaction, TransactionId};
use quittance_engine::{Claim, Claimed, FAILURES_MAX, Journal, Outcome, Settlement, State};

/// A journal on a stage of its own.
#[async_trait]
pub trait JournalFixture: Send + Sync + Sized {
    /// The journal.
    type Journal: Journal;

    /// An empty journal's place.
    async fn new() -> Self;

    /// Opens the journal; after a [`crash`](Self::crash), what is left of it.
    async fn open(&self) -> Self::Journal;

    /// Ends a journal's process without warning.
    async fn crash(&self, journal: Self::Journal);
}

/// Mounts the suite.
#[macro_export]
macro_rules! journal_conformance {
    ($Fixture:ty) => {
        $crate::conformance_tests!(journal, $Fixture:
            a_claim_is_won_once_however_many_ask
            what_was_answered_survives_a_crash
            a_transaction_belongs_to_the_attempt_it_was_recorded_for
            a_withdrawn_transaction_frees_its_place
            a_withdrawn_transaction_that_is_signed_again_counts_again
            a_transaction_that_is_recorded_again_at_another_place_reads_back_there
            nothing_is_recorded_for_a_settlement_that_has_ended
            transactions_are_found_by_their_place
            a_settled_authorization_is_never_claimed_again_and_told_once
            what_has_settled_is_watched_until_it_is_final
            a_settlement_that_is_opened_again_settles_or_is_lost_and_is_told_once
            a_failed_attempt_may_be_repeated_a_few_times
            a_released_attempt_may_be_repeated_at_once
            a_late_conclusion_does_not_touch_a_later_attempt
            open_settlements_are_those_of_one_network_that_have_not_ended
            places_are_counted_by_network_and_lane
            an_unknown_settlement_is_unknown
            a_journal_that_can_be_written_has_no_problem
        );
    };
}

const NOW: Timestamp = Timestamp::from_secs(1_000);

fn claim(name: &str) -> Claim {
    Claim {
        id: PaymentId::from_parts(&[name.as_bytes()]),
        network: "test:1".to_owned(),
        scheme: "exact".to_owned(),
        payer: "payer".to_owned(),
        pay_to: "seller".to_owned(),
        asset: "coin".to_owned(),
        amount: Amount::from(u64::MAX),
        expires: NOW.plus_secs(60),
        request: format!("{{\"name\":\"{name}\",\"odd\":\"\\u0000'\\\"\"}}"),
        decoded_at: NOW,
    }
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

fn settled(id: &str) -> Outcome {
    Outcome::Settled {
        transaction: TransactionId::new(id),
        amount: Amount::from(7),
    }
}

fn failed(transaction: Option<&str>) -> Outcome {
    Outcome::Failed {
        reason: Reason::INVALID_TRANSACTION_STATE,
        detail: "it's \"odd\"".to_owned(),
        transaction: transaction.map(TransactionId::new),
    }
}

async fn win<J: Journal>(journal: &J, claim: &Claim) -> u32 {
    match journal.claim(claim, NOW).await.expect("a claim") {
        Claimed::Won { attempt } => attempt,
        Claimed::Taken(settlement) => panic!("taken: {settlement:?}"),
    }
}

async fn taken<J: Journal>(journal: &J, claim: &Claim) -> Settlement {
    match journal.claim(claim, NOW).await.expect("a claim") {
        Claimed::Taken(settlement) => *settlement,
        Claimed::Won { attempt } => panic!("won attempt {attempt}"),
    }
}

async fn known<J: Journal>(journal: &J, claim: &Claim) -> Settlement {
    journal
        .settlement(&claim.id)
        .await
        .expect("a read")
        .expect("a settlement")
}

/// Of all who claim one authorization, one wins; the others see what the winner wrote.
pub async fn a_claim_is_won_once_however_many_ask<F: JournalFixture>() {
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

/// Nothing that was answered is lost, whatever was written last.
pub async fn what_was_answered_survives_a_crash<F: JournalFixture>() {
    let fixture = F::new().await;
    let claims: Vec<Claim> = (0..20).map(|at| claim(&format!("claim {at}"))).collect();
    for (at, claim) in claims.iter().enumerate() {
        let journal = fixture.open().await;
        let attempt = win(&journal, claim).await;
        let signed = transaction(&format!("0x{at}"), at as u64);
        journal
            .record("test:1", &signed, &[claim.id], NOW)
            .await
            .expect("a record");
        if at % 2 == 0 {
            let outcome = settled(signed.id.as_str());
            journal
                .conclude(&claim.id, attempt, &outcome, NOW)
                .await
                .expect("a conclusion");
            assert!(
                journal
                    .report_success(&claim.id, attempt, NOW)
                    .await
                    .expect("telling")
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
            vec![(1, transaction(&format!("0x{at}"), at as u64))]
        );
        assert_eq!(settlement.success_reported_at, (at % 2 == 0).then_some(NOW));
        assert!(!matches!(
            journal.claim(claim, NOW).await,
            Ok(Claimed::Won { .. })
        ));
        assert!(
            !journal
                .report_success(&claim.id, 1, NOW)
                .await
                .expect("telling")
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
pub async fn a_transaction_belongs_to_the_attempt_it_was_recorded_for<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, b) = (claim("a"), claim("b"));
    let attempt = win(&journal, &a).await;
    win(&journal, &b).await;
    let first = transaction("0x1", 0);
    for _ in 0..2 {
        journal
            .record("test:1", &first, &[a.id, b.id], NOW)
            .await
            .expect("a record");
    }
    let mut both = journal.settlements_of(&first.id).await.expect("a read");
    both.sort();
    let mut expected = vec![a.id, b.id];
    expected.sort();
    assert_eq!(both, expected);

    journal
        .conclude(&a.id, attempt, &failed(Some("0x1")), NOW)
        .await
        .expect("a conclusion");
    assert_eq!(win(&journal, &a).await, 2);
    let second = transaction("0x2", 1);
    journal
        .record("test:1", &second, &[a.id], NOW)
        .await
        .expect("a record");
    let settlement = known(&journal, &a).await;
    assert_eq!(
        settlement.transactions,
        vec![(1, first), (2, second.clone())]
    );
    assert_eq!(settlement.transaction(), Some(&second));
    assert_eq!(settlement.state, State::Open);
}

/// What certainly was never sent is forgotten.
pub async fn a_withdrawn_transaction_frees_its_place<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, lane) = (claim("a"), LaneId::new("signer"));
    win(&journal, &a).await;
    journal
        .record("test:1", &transaction("0x1", 5), &[a.id], NOW)
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
    // A node that refused it could have been wrong: it is still known what to ask about.
    assert_eq!(withdrawn.withdrawn, vec![(1, transaction("0x1", 5))]);
    let lanes_places = journal.transactions_at("test:1", &lane, 0..10).await;
    assert_eq!(lanes_places, Ok(vec![]));
}

/// The same bytes come about again where signing is deterministic and fees stand still.
pub async fn a_withdrawn_transaction_that_is_signed_again_counts_again<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, lane) = (claim("a"), LaneId::new("signer"));
    let signed = transaction("0x1", 5);
    let attempt = win(&journal, &a).await;
    let record = async || {
        journal
            .record("test:1", &signed, &[a.id], NOW)
            .await
            .expect("a record");
    };
    record().await;
    journal.withdraw(&signed.id).await.expect("a withdrawal");
    let released = Outcome::Released {
        fault: "no gas".to_owned(),
    };
    assert_eq!(
        journal.conclude(&a.id, attempt, &released, NOW).await,
        Ok(true)
    );
    assert_eq!(win(&journal, &a).await, 2);
    record().await;
    assert_eq!(journal.next_sequence("test:1", &lane).await, Ok(6));
    let settlement = known(&journal, &a).await;
    assert_eq!(settlement.transactions, vec![(2, signed.clone())]);
    let there = journal.transactions_at("test:1", &lane, 5..6).await;
    assert_eq!(there, Ok(vec![signed]));
}

/// The defect: the row kept its old place, which was free for another payment. After a restart two payments had one place.
pub async fn a_transaction_that_is_recorded_again_at_another_place_reads_back_there<
    F: JournalFixture,
>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, lane) = (claim("a"), LaneId::new("signer"));
    let (first, again) = (transaction("0x1", 5), transaction("0x1", 9));
    let attempt = win(&journal, &a).await;
    journal
        .record("test:1", &first, &[a.id], NOW)
        .await
        .expect("a record");
    journal.withdraw(&first.id).await.expect("a withdrawal");
    let released = Outcome::Released {
        fault: "no gas".to_owned(),
    };
    journal
        .conclude(&a.id, attempt, &released, NOW)
        .await
        .expect("a conclusion");
    win(&journal, &a).await;
    let moved = Transaction {
        lane: LaneId::new("another signer"),
        ..again.clone()
    };
    for recorded in [&moved, &again] {
        journal
            .record("test:1", recorded, &[a.id], NOW)
            .await
            .expect("a record");
        let settlement = known(&journal, &a).await;
        assert_eq!(settlement.transactions, vec![(2, recorded.clone())]);
        let there = journal
            .transactions_at("test:1", &recorded.lane, 9..10)
            .await;
        assert_eq!(there, Ok(vec![recorded.clone()]));
    }
    let before = journal.transactions_at("test:1", &lane, 5..6).await;
    assert_eq!(before, Ok(vec![]));
    assert_eq!(journal.next_sequence("test:1", &lane).await, Ok(10));
}

/// A settlement that has ended gets no transactions; those that are open do, in the same call.
pub async fn nothing_is_recorded_for_a_settlement_that_has_ended<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, b) = (claim("a"), claim("b"));
    let attempt = win(&journal, &a).await;
    win(&journal, &b).await;
    let outcome = settled("0x0");
    assert_eq!(
        journal.conclude(&a.id, attempt, &outcome, NOW).await,
        Ok(true)
    );
    let late = transaction("0x1", 0);
    journal
        .record("test:1", &late, &[a.id, b.id], NOW)
        .await
        .expect("a record");
    assert_eq!(known(&journal, &a).await.transactions, vec![]);
    assert_eq!(known(&journal, &b).await.transactions, vec![(1, late)]);
}

/// What stands at the places in a lane: oldest first, replacements included, other lanes and networks not.
pub async fn transactions_are_found_by_their_place<F: JournalFixture>() {
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

/// The two promises.
pub async fn a_settled_authorization_is_never_claimed_again_and_told_once<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a");
    let attempt = win(&journal, &a).await;
    assert!(
        !journal
            .report_success(&a.id, attempt, NOW)
            .await
            .expect("telling"),
        "told before it has settled"
    );
    journal
        .conclude(&a.id, attempt, &settled("0x1"), NOW)
        .await
        .expect("a conclusion");
    assert_eq!(
        taken(&journal, &a).await.state,
        State::Concluded(settled("0x1"))
    );
    let told = join_all((0..50).map(|_| journal.report_success(&a.id, attempt, NOW))).await;
    assert_eq!(told.iter().filter(|told| **told == Ok(true)).count(), 1);
    assert_eq!(taken(&journal, &a).await.success_reported_at, Some(NOW));
}

/// It is listed as long as the chain could take it back.
pub async fn what_has_settled_is_watched_until_it_is_final<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let claims = ["a", "b", "c", "d"].map(claim);
    let ends = [settled("0x1"), settled("0x2"), failed(None), settled("0x3")];
    for (claim, end) in claims.iter().zip(&ends) {
        let attempt = win(&journal, claim).await;
        journal
            .conclude(&claim.id, attempt, end, NOW)
            .await
            .expect("a conclusion");
    }
    let [a, b, failed, d] = claims;
    let mut expected = vec![a.id, b.id, d.id];
    expected.sort();
    assert_eq!(journal.not_final("test:1").await, Ok(expected));
    assert_eq!(journal.not_final("test:2").await, Ok(vec![]));
    let later = NOW.plus_secs(9);
    // What has not settled cannot be final.
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

/// What the chain took back, before and after success was reported.
pub async fn a_settlement_that_is_opened_again_settles_or_is_lost_and_is_told_once<
    F: JournalFixture,
>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (told, untold) = (claim("told"), claim("untold"));
    for claim in [&told, &untold] {
        let attempt = win(&journal, claim).await;
        assert_eq!(journal.reopen(&claim.id, attempt).await, Ok(false));
        let end = settled("0x1");
        let concluded = journal.conclude(&claim.id, attempt, &end, NOW).await;
        assert_eq!(concluded, Ok(true));
    }
    assert_eq!(journal.report_success(&told.id, 1, NOW).await, Ok(true));
    for claim in [&told, &untold] {
        assert_eq!(journal.reopen(&claim.id, 2).await, Ok(false));
        assert_eq!(journal.reopen(&claim.id, 1).await, Ok(true));
        assert_eq!(known(&journal, claim).await.state, State::Open);
        assert_eq!(journal.report_success(&claim.id, 1, NOW).await, Ok(false));
        let again = transaction("0x2", 7);
        journal
            .record("test:1", &again, &[claim.id], NOW)
            .await
            .expect("a record");
    }
    assert_eq!(journal.not_final("test:1").await, Ok(vec![]));
    assert_eq!(journal.open("test:1").await.expect("a read").len(), 2);
    assert_eq!(known(&journal, &told).await.success_reported_at, Some(NOW));
    // One settles again, and is told to nobody twice.
    let end = settled("0x2");
    for claim in [&told, &untold] {
        assert_eq!(journal.conclude(&claim.id, 1, &end, NOW).await, Ok(true));
    }
    assert_eq!(journal.report_success(&told.id, 1, NOW).await, Ok(false));
    assert_eq!(journal.report_success(&untold.id, 1, NOW).await, Ok(true));
    // Then it is lost, for good.
    assert_eq!(journal.reopen(&told.id, 1).await, Ok(true));
    let lost = Outcome::Lost {
        reason: Reason::SETTLEMENT_EXPIRED,
        detail: "it's \"odd\"".to_owned(),
        transaction: Some(TransactionId::new("0x2")),
    };
    assert_eq!(journal.conclude(&told.id, 1, &lost, NOW).await, Ok(true));
    let settlement = taken(&journal, &told).await;
    assert_eq!(settlement.state, State::Concluded(lost));
    assert_eq!(settlement.success_reported_at, Some(NOW));
    assert_eq!(journal.report_success(&told.id, 1, NOW).await, Ok(false));
}

/// A failure that cost gas counts; enough of them end it.
pub async fn a_failed_attempt_may_be_repeated_a_few_times<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a");
    // A failure that cost nothing does not count.
    for attempt in 1..=10 {
        assert_eq!(win(&journal, &a).await, attempt);
        journal
            .conclude(&a.id, attempt, &failed(None), NOW)
            .await
            .expect("a conclusion");
    }
    assert_eq!(known(&journal, &a).await.failures, 0);
    for attempt in 11..11 + FAILURES_MAX {
        assert_eq!(win(&journal, &a).await, attempt);
        assert_eq!(known(&journal, &a).await.failures, attempt - 11);
        journal
            .conclude(&a.id, attempt, &failed(Some("0x1")), NOW)
            .await
            .expect("a conclusion");
    }
    assert_eq!(
        taken(&journal, &a).await.state,
        State::Concluded(failed(Some("0x1")))
    );
}

/// What it says of itself decides whether payments are called valid.
pub async fn a_journal_that_can_be_written_has_no_problem<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    assert_eq!(journal.problem(), None);
    win(&journal, &claim("a")).await;
    assert_eq!(journal.problem(), None);
    fixture.crash(journal).await;
    assert_eq!(fixture.open().await.problem(), None);
}

/// Nothing was sent: nothing stands in the way. The later claim's request counts.
pub async fn a_released_attempt_may_be_repeated_at_once<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a");
    let attempt = win(&journal, &a).await;
    let released = Outcome::Released {
        fault: "no gas".to_owned(),
    };
    journal
        .conclude(&a.id, attempt, &released, NOW)
        .await
        .expect("a conclusion");
    assert_eq!(known(&journal, &a).await.state, State::Concluded(released));
    let again = Claim {
        request: "{}".to_owned(),
        decoded_at: NOW.plus_secs(5),
        // A scheme may leave these out of what it identifies a payment by.
        pay_to: "another seller".to_owned(),
        asset: "another coin".to_owned(),
        amount: Amount::from(1),
        expires: NOW.plus_secs(90),
        ..a.clone()
    };
    assert_eq!(win(&journal, &again).await, 2);
    assert_eq!(known(&journal, &a).await.claim, again);
}

/// Whoever concludes an attempt that is over changes nothing.
pub async fn a_late_conclusion_does_not_touch_a_later_attempt<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a");
    win(&journal, &a).await;
    journal
        .conclude(&a.id, 1, &failed(None), NOW)
        .await
        .expect("a conclusion");
    win(&journal, &a).await;
    let late = journal.conclude(&a.id, 1, &settled("0x1"), NOW).await;
    assert_eq!(late, Ok(false));
    assert_eq!(known(&journal, &a).await.state, State::Open);
    journal
        .conclude(&a.id, 2, &settled("0x2"), NOW)
        .await
        .expect("a conclusion");
    let late = journal.conclude(&a.id, 2, &failed(None), NOW).await;
    assert_eq!(late, Ok(false));
    assert_eq!(
        known(&journal, &a).await.state,
        State::Concluded(settled("0x2"))
    );
    assert_eq!(journal.report_success(&a.id, 1, NOW).await, Ok(false));
    assert_eq!(journal.report_success(&a.id, 2, NOW).await, Ok(true));
}

/// What has to be taken up at a start.
pub async fn open_settlements_are_those_of_one_network_that_have_not_ended<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, b) = (claim("a"), claim("b"));
    let elsewhere = Claim {
        network: "test:2".to_owned(),
        ..claim("c")
    };
    for claim in [&a, &b, &elsewhere] {
        win(&journal, claim).await;
    }
    journal
        .record("test:1", &transaction("0x1", 0), &[b.id], NOW)
        .await
        .expect("a record");
    journal
        .conclude(&a.id, 1, &settled("0x0"), NOW)
        .await
        .expect("a conclusion");
    let open = journal.open("test:1").await.expect("a read");
    assert_eq!(open, vec![b.id]);
}

/// One signer's numbers on two networks have nothing to do with each other.
pub async fn places_are_counted_by_network_and_lane<F: JournalFixture>() {
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

/// Nothing is made up.
pub async fn an_unknown_settlement_is_unknown<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    assert_eq!(journal.settlement(&claim("a").id).await, Ok(None));
    assert_eq!(
        journal.settlements_of(&TransactionId::new("0x1")).await,
        Ok(vec![])
    );
    assert_eq!(journal.open("test:1").await, Ok(vec![]));
    assert_eq!(
        journal.report_success(&claim("a").id, 1, NOW).await,
        Ok(false)
    );
}
