//! The conformance suite for journals with several replicas: memberships, leases with fencing
//! tokens, and who works on a settlement.

use std::time::Duration;

use futures_util::future::{join, join_all};
use quittance_core::{LaneId, PaymentId, StateId, StateStore, Transaction};
use quittance_engine::{
    Claimed, Ended, FencingToken, HandedOver, Journal, JournalError, LeaseName, Reported,
    Settlement, State,
};

use super::journal::{
    JournalFixture, NOW, claim, failed, known, record, record_id, released, settled, settling,
    shared, transaction, win,
};

super::suite!($ replicas, replicas_conformance, JournalFixture:
    members_are_listed_until_they_leave
    a_membership_ends_unless_it_is_renewed
    a_lease_has_one_holder
    a_token_rises_with_each_tenure
    a_record_needs_the_lease_with_its_token
    a_record_needs_a_membership_that_is_not_over
    only_its_owner_decides_about_a_settlement
    a_conclusion_of_another_owner_writes_no_record
    a_settlement_is_taken_over_after_its_owner
    a_settlement_is_handed_over_to_any_replica
    waiting_for_a_hand_over_returns_within_a_second
    a_replacement_is_recorded_for_other_owners
    a_held_record_is_held_for_all_replicas
);

/// How long memberships last where a test waits for their end: longer than a busy machine needs for
/// a few writes.
const SHORT: Duration = Duration::from_millis(1_500);

/// How long other memberships last: longer than any test.
const LONG: Duration = Duration::from_secs(600);

/// Two members of one journal.
async fn two_members<F: JournalFixture>(fixture: &F) -> [F::Journal; 2] {
    let first = fixture.open().await;
    let second = fixture.another(&first).await;
    for journal in [&first, &second] {
        journal.renew(LONG).await.expect("a membership");
    }
    [first, second]
}

fn lane_lease() -> LeaseName {
    LeaseName::lane("test:1", &LaneId::new("signer"))
}

async fn acquire<J: Journal>(journal: &J, name: &LeaseName) -> Option<FencingToken> {
    let lease = journal.acquire(name).await.expect("an answer")?;
    assert_eq!((&lease.name, lease.holder), (name, journal.replica()));
    Some(lease.token)
}

/// Waits until a membership of this duration is certainly over.
async fn outwait(duration: Duration) {
    tokio::time::sleep(duration + duration / 5).await;
}

/// Each handle is another replica, and each sees all members until they leave.
pub async fn members_are_listed_until_they_leave<F: JournalFixture>() {
    let fixture = F::new().await;
    let [first, second] = two_members(&fixture).await;
    assert_ne!(first.replica(), second.replica());
    let mut both = vec![first.replica(), second.replica()];
    both.sort();
    let members = first.renew(LONG).await.expect("a membership");
    assert_eq!((members.replicas, members.leases), (both, vec![]));
    first.leave().await.expect("a write");
    let members = second.renew(LONG).await.expect("a membership");
    assert_eq!(members.replicas, [second.replica()]);
}

/// A membership ends by itself, and all that it holds with it. It can be renewed after that.
pub async fn a_membership_ends_unless_it_is_renewed<F: JournalFixture>() {
    let fixture = F::new().await;
    let [first, second] = two_members(&fixture).await;
    let name = lane_lease();
    first.renew(SHORT).await.expect("a membership");
    let token = acquire(&first, &name).await.expect("a free lease");
    assert_eq!(acquire(&second, &name).await, None);
    outwait(SHORT).await;
    let members = second.renew(LONG).await.expect("a membership");
    assert_eq!(
        (members.replicas, members.leases),
        (vec![second.replica()], vec![])
    );
    assert_eq!(acquire(&first, &name).await, None, "it is no member");
    // What no other replica has taken still belongs to it.
    let members = first.renew(LONG).await.expect("a membership");
    let [lease] = members.leases.as_slice() else {
        panic!("{members:?}");
    };
    assert_eq!((lease.holder, lease.token), (first.replica(), token));
    assert_eq!(acquire(&second, &name).await, None);
}

/// Of many replicas that want a lease at once, one gets it.
pub async fn a_lease_has_one_holder<F: JournalFixture>() {
    let fixture = F::new().await;
    let [first, second] = two_members(&fixture).await;
    for at in 0..20 {
        let name = LeaseName::duty(&format!("test:{at}"));
        let asked = join(acquire(&first, &name), acquire(&second, &name)).await;
        let holder = match asked {
            (Some(_), None) => first.replica(),
            (None, Some(_)) => second.replica(),
            both => panic!("{both:?}"),
        };
        let members = first.renew(LONG).await.expect("a membership");
        let lease = members.leases.iter().find(|lease| lease.name == name);
        assert_eq!(lease.expect("a lease").holder, holder);
    }
}

/// A token is never used for two tenures, also over a crash. Another lease has its own.
pub async fn a_token_rises_with_each_tenure<F: JournalFixture>() {
    let fixture = F::new().await;
    let [first, second] = two_members(&fixture).await;
    let (name, other) = (lane_lease(), LeaseName::duty("test:1"));
    let mut last = acquire(&first, &name).await.expect("a free lease");
    assert_eq!(acquire(&first, &name).await, Some(last), "the same tenure");
    let of_other = acquire(&second, &other).await;
    for _ in 0..3 {
        for [holder, next] in [[&first, &second], [&second, &first]] {
            // Only its holder can release it.
            next.release(&name).await.expect("a write");
            assert_eq!(acquire(next, &name).await, None);
            holder.release(&name).await.expect("a write");
            let token = acquire(next, &name).await.expect("a free lease");
            assert!(token > last, "{token:?} after {last:?}");
            last = token;
        }
    }
    assert_eq!(acquire(&second, &other).await, of_other);
    drop(second);
    fixture.crash(first).await;
    let next = fixture.open().await;
    // The members before the crash may not be over yet.
    next.renew(LONG).await.expect("a membership");
    if let Some(token) = acquire(&next, &name).await {
        assert!(token > last, "{token:?} after {last:?}");
    }
}

/// A replica that was paused signed under a lease that another one has now. What it signed is not
/// recorded, so it is never sent.
pub async fn a_record_needs_the_lease_with_its_token<F: JournalFixture>() {
    let fixture = F::new().await;
    let [first, second] = two_members(&fixture).await;
    let (a, name) = (claim("a"), lane_lease());
    win(&first, &a).await;
    let signed = transaction("0x1", 5);
    let record = async |journal: &F::Journal, token: Option<FencingToken>| {
        let steps = [settling(a.id)];
        journal.record("test:1", &signed, &steps, token, NOW).await
    };
    let lost = Err(JournalError::LeaseLost { name: name.clone() });
    assert_eq!(
        record(&first, Some(FencingToken(1))).await,
        lost,
        "it has no holder"
    );
    let before = acquire(&first, &name).await;
    first.release(&name).await.expect("a write");
    let of_second = acquire(&second, &name).await;
    for token in [before, of_second] {
        assert_eq!(record(&first, token).await, lost);
    }
    second.release(&name).await.expect("a write");
    let now = acquire(&first, &name).await;
    assert_eq!(record(&first, before).await, lost, "an earlier tenure");
    assert_eq!(known(&first, &a).await.transactions, vec![]);
    let lane = LaneId::new("signer");
    assert_eq!(first.next_sequence("test:1", &lane).await, Ok(0));
    assert_eq!(record(&first, now).await, Ok(()));
    assert_eq!(first.withdraw(&signed.id, before).await, lost);
    assert_eq!(known(&first, &a).await.withdrawn, vec![]);
    assert_eq!(first.withdraw(&signed.id, now).await, Ok(()));
    assert_eq!(known(&first, &a).await.withdrawn.len(), 1);
    // The lease of another lane does not count.
    let elsewhere = Transaction {
        lane: LaneId::new("another signer"),
        ..transaction("0x2", 6)
    };
    let steps = [settling(a.id)];
    let recorded = first.record("test:1", &elsewhere, &steps, now, NOW).await;
    assert!(matches!(recorded, Err(JournalError::LeaseLost { .. })));
    let signed = transaction("0x3", 7);
    let recorded = first.record("test:2", &signed, &steps, now, NOW);
    assert!(matches!(
        recorded.await,
        Err(JournalError::LeaseLost { .. })
    ));
}

/// Also while no other replica has taken the lease: it may do so at any moment.
pub async fn a_record_needs_a_membership_that_is_not_over<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    journal.renew(SHORT).await.expect("a membership");
    let a = claim("a");
    win(&journal, &a).await;
    let token = acquire(&journal, &lane_lease()).await;
    outwait(SHORT).await;
    let (signed, steps) = (transaction("0x1", 5), [settling(a.id)]);
    let late = journal.record("test:1", &signed, &steps, token, NOW).await;
    assert!(
        matches!(late, Err(JournalError::LeaseLost { .. })),
        "{late:?}"
    );
    journal.renew(LONG).await.expect("a membership");
    let recorded = journal.record("test:1", &signed, &steps, token, NOW).await;
    assert_eq!(recorded, Ok(()));
}

/// Another replica can neither record, conclude nor hand over what this one works on.
pub async fn only_its_owner_decides_about_a_settlement<F: JournalFixture>() {
    let fixture = F::new().await;
    let [first, second] = two_members(&fixture).await;
    let (a, b) = (claim("a"), claim("b"));
    win(&first, &a).await;
    win(&second, &b).await;
    assert_eq!(known(&second, &a).await.owner, Some(first.replica()));
    let foreign = JournalError::NotOwner { settlement: a.id };
    let signed = transaction("0x1", 5);
    let steps = [settling(b.id), settling(a.id)];
    let recorded = second.record("test:1", &signed, &steps, None, NOW).await;
    assert_eq!(recorded, Err(foreign.clone()));
    // The record was for both, so it is for none of them.
    assert_eq!(known(&second, &b).await.transactions, vec![]);
    let ends = [settled("0x1"), failed(None), released()];
    for end in &ends {
        let ended = second.conclude(&a.id, 1, end, None, NOW).await;
        assert_eq!(ended, Err(foreign.clone()));
    }
    assert_eq!(
        second.conclude(&a.id, 2, &ends[0], None, NOW).await,
        Ok(Ended::No)
    );
    assert_eq!(second.hand_over(&a.id, 1, None).await, Ok(false));
    let found = known(&first, &a).await;
    assert_eq!(
        (found.state, found.owner),
        (State::Open, Some(first.replica()))
    );
    let ended = first.conclude(&a.id, 1, &settled("0x1"), None, NOW).await;
    assert_eq!(ended, Ok(Ended::Yes));
    let again = second.conclude(&a.id, 1, &settled("0x1"), None, NOW).await;
    assert_eq!(again, Ok(Ended::No), "it has ended");
    assert_eq!(known(&first, &a).await.owner, None);
    // The replica that opens it again works on it.
    assert_eq!(second.reopen(&a.id, 1, NOW).await, Ok(true));
    assert_eq!(known(&first, &a).await.owner, Some(second.replica()));
    let reported = first.report_success(&a.id, 1, None, NOW).await;
    assert_eq!(reported, Ok(Reported::No));
}

/// A conclusion that is refused writes no state record.
pub async fn a_conclusion_of_another_owner_writes_no_record<F: JournalFixture>() {
    let fixture = F::new().await;
    let [first, second] = two_members(&fixture).await;
    let a = shared("a", 0);
    win(&first, &a).await;
    let next = record();
    let end = settled("0x1");
    let ended = second.conclude(&a.id, 1, &end, Some(&next), NOW);
    assert_eq!(
        ended.await,
        Err(JournalError::NotOwner { settlement: a.id })
    );
    assert_eq!(second.state(&record_id()).await, Ok(None));
}

/// What a member works on is not taken over. What a replica has left is, by one of the others.
pub async fn a_settlement_is_taken_over_after_its_owner<F: JournalFixture>() {
    let fixture = F::new().await;
    let [first, second] = two_members(&fixture).await;
    let third = fixture.another(&first).await;
    let (a, ended) = (claim("a"), claim("ended"));
    for claim in [&a, &ended] {
        win(&first, claim).await;
    }
    let end = first
        .conclude(&ended.id, 1, &settled("0x1"), None, NOW)
        .await;
    assert_eq!(end, Ok(Ended::Yes));
    let ids = [ended.id, a.id, claim("unknown").id];
    assert_eq!(third.take_up(&ids).await, Ok(vec![]), "it is no member");
    third.renew(LONG).await.expect("a membership");
    assert_eq!(first.take_up(&ids).await, Ok(vec![a.id]), "its own");
    assert_eq!(second.take_up(&ids).await, Ok(vec![]));
    assert_eq!(first.open("test:1").await, Ok(vec![a.id]));
    assert_eq!(second.open("test:1").await, Ok(vec![]));
    first.leave().await.expect("a write");
    assert_eq!(second.open("test:1").await, Ok(vec![a.id]));
    let taken = join(second.take_up(&ids), third.take_up(&ids)).await;
    let owner = match taken {
        (Ok(mine), Ok(none)) if mine == [a.id] && none.is_empty() => &second,
        (Ok(none), Ok(mine)) if mine == [a.id] && none.is_empty() => &third,
        both => panic!("{both:?}"),
    };
    // The first one was only paused.
    first.renew(LONG).await.expect("a membership");
    assert_eq!(first.take_up(&ids).await, Ok(vec![]));
    let late = first.conclude(&a.id, 1, &failed(None), None, NOW).await;
    assert_eq!(late, Err(JournalError::NotOwner { settlement: a.id }));
    assert_eq!(known(&first, &a).await.owner, Some(owner.replica()));
    let end = owner.conclude(&a.id, 1, &settled("0x2"), None, NOW).await;
    assert_eq!(end, Ok(Ended::Yes));
}

/// It is listed with the lane that must send it, and the next claim forgets all that.
pub async fn a_settlement_is_handed_over_to_any_replica<F: JournalFixture>() {
    let fixture = F::new().await;
    let [first, second] = two_members(&fixture).await;
    let claims = ["a", "b", "c"].map(claim);
    for (at, claim) in claims.iter().enumerate() {
        let now = NOW.plus_secs(at as u64);
        let won = first.claim(claim, now).await;
        assert_eq!(won, Ok(Claimed::Won { attempt: 1 }));
    }
    assert_eq!(second.handed_over("test:1", 10).await, Ok(vec![]));
    let lane = LaneId::new("signer");
    let [a, b, c] = &claims;
    assert_eq!(first.hand_over(&b.id, 1, Some(&lane)).await, Ok(true));
    assert_eq!(
        first.hand_over(&b.id, 1, None).await,
        Ok(false),
        "a second time"
    );
    assert_eq!(
        first.hand_over(&c.id, 2, None).await,
        Ok(false),
        "another attempt"
    );
    assert_eq!(first.hand_over(&a.id, 1, None).await, Ok(true));
    let expected = [
        HandedOver {
            id: a.id,
            lane: None,
        },
        HandedOver {
            id: b.id,
            lane: Some(lane),
        },
    ];
    assert_eq!(
        second.handed_over("test:1", 10).await,
        Ok(expected.to_vec())
    );
    assert_eq!(
        second.handed_over("test:1", 1).await,
        Ok(expected[..1].to_vec())
    );
    assert_eq!(second.handed_over("test:2", 10).await, Ok(vec![]));
    assert_eq!(known(&first, a).await.owner, None);
    // Nothing is decided while it belongs to no replica.
    let ended = first.conclude(&a.id, 1, &settled("0x1"), None, NOW).await;
    assert_eq!(ended, Err(JournalError::NotOwner { settlement: a.id }));
    assert_eq!(second.take_up(&[a.id, b.id]).await, Ok(vec![a.id, b.id]));
    assert_eq!(first.take_up(&[a.id, b.id]).await, Ok(vec![]));
    assert_eq!(second.handed_over("test:1", 10).await, Ok(vec![]));
    assert_eq!(second.hand_over(&b.id, 1, None).await, Ok(true));
    let expected = HandedOver {
        id: b.id,
        lane: None,
    };
    assert_eq!(first.handed_over("test:1", 10).await, Ok(vec![expected]));
    assert_eq!(first.take_up(&[b.id]).await, Ok(vec![b.id]));
    let ended = first.conclude(&b.id, 1, &released(), None, NOW).await;
    assert_eq!(ended, Ok(Ended::Yes));
    assert_eq!(win(&second, b).await, 2);
    assert_eq!(known(&first, b).await.owner, Some(second.replica()));
}

/// A replica waits for news of others, and is not kept waiting.
pub async fn waiting_for_a_hand_over_returns_within_a_second<F: JournalFixture>() {
    let fixture = F::new().await;
    let [first, second] = two_members(&fixture).await;
    let a = claim("a");
    win(&first, &a).await;
    let waited = tokio::time::timeout(Duration::from_secs(2), async {
        let waiting = async {
            while second.handed_over("test:1", 1).await == Ok(vec![]) {
                second.wait_for_hand_over().await;
            }
        };
        let ((), handed) = join(waiting, first.hand_over(&a.id, 1, None)).await;
        assert_eq!(handed, Ok(true));
    });
    assert!(waited.await.is_ok());
}

/// A replacement is for all payments of what it replaces, whichever replica works on them: else
/// they would look for the wrong transaction.
pub async fn a_replacement_is_recorded_for_other_owners<F: JournalFixture>() {
    let fixture = F::new().await;
    let [first, second] = two_members(&fixture).await;
    let (a, b) = (claim("a"), claim("b"));
    let token = acquire(&first, &lane_lease()).await;
    for claim in [&a, &b] {
        win(&first, claim).await;
    }
    let steps = [settling(a.id), settling(b.id)];
    let record = async |id: &str, sequence: u64| {
        let signed = transaction(id, sequence);
        first.record("test:1", &signed, &steps, token, NOW).await
    };
    assert_eq!(record("0x1", 5).await, Ok(()));
    assert_eq!(first.hand_over(&b.id, 1, None).await, Ok(true));
    assert_eq!(second.take_up(&[b.id]).await, Ok(vec![b.id]));
    assert_eq!(record("0x2", 5).await, Ok(()));
    let ids = |found: Settlement| -> Vec<String> {
        let signed = found.transactions.iter();
        signed
            .map(|one| one.transaction.id.as_str().to_owned())
            .collect()
    };
    assert_eq!(ids(known(&second, &b).await), ["0x1", "0x2"]);
    let foreign = Err(JournalError::NotOwner { settlement: b.id });
    assert_eq!(record("0x3", 6).await, foreign, "another sequence number");
    assert_eq!(ids(known(&second, &a).await), ["0x1", "0x2"]);
}

/// One payment holds a record, whichever replica it was verified by.
pub async fn a_held_record_is_held_for_all_replicas<F: JournalFixture>() {
    let fixture = F::new().await;
    let [first, second] = two_members(&fixture).await;
    let (record, other) = (record_id(), StateId::from_parts(&[b"another record"]));
    let [a, b] = ["a", "b"].map(|name| claim(name).id);
    let hold = async |journal: &F::Journal, state: &StateId, id: &PaymentId| {
        journal
            .hold_state(state, id, LONG)
            .await
            .expect("an answer")
    };
    assert!(hold(&first, &record, &a).await);
    assert!(!hold(&second, &record, &b).await && !hold(&second, &record, &a).await);
    assert!(hold(&second, &other, &b).await);
    // Only the payment that holds it ends the hold.
    second.release_state(&record, &b).await.expect("a write");
    assert!(!hold(&second, &record, &b).await);
    second.release_state(&record, &a).await.expect("a write");
    let short = first.hold_state(&record, &b, SHORT).await;
    assert_eq!(short, Ok(true));
    assert!(!hold(&second, &record, &a).await);
    outwait(SHORT).await;
    assert!(hold(&second, &record, &a).await);
    // Of many concurrent requests, one holds it.
    second.release_state(&record, &a).await.expect("a write");
    let asked = (0..20).map(|at| hold([&first, &second][at % 2], &record, &b));
    let held = join_all(asked).await;
    assert_eq!(held.iter().filter(|held| **held).count(), 1);
}
