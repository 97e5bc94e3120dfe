//! The feed of events.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use quittance_core::{PaymentId, SchemeState, StateId, StateStore, Timestamp, Transaction};
use quittance_engine::{
    Claim, Claimed, Ended, EventCursor, EventFilter, EventKind, Journal, JournalError, Outcome,
    SettlementEvent, SettlementStep,
};

use super::{
    JournalFixture, NOW, claim, claim_on, failed, lost, released, settled, settling, transaction,
    win,
};

/// A wake-up must come within this time. Journals that poll do so every few seconds.
const WOKEN_WITHIN: Duration = Duration::from_secs(10);

/// All events behind a position.
async fn behind<J: Journal>(
    journal: &J,
    filter: &EventFilter,
    after: Option<EventCursor>,
) -> Vec<SettlementEvent> {
    let (mut all, mut after) = (Vec::new(), after);
    loop {
        let part = journal.events(filter, after.as_ref()).await;
        let part = part.expect("a part of the feed");
        all.extend(part.events);
        if !part.has_more {
            return all;
        }
        after = Some(part.next);
    }
}

async fn all<J: Journal>(journal: &J) -> Vec<SettlementEvent> {
    behind(journal, &EventFilter::new(), None).await
}

/// What an event says, but for its position.
type Said<'a> = (EventKind, u32, Option<&'a str>, u64);

fn said(events: &[SettlementEvent]) -> Vec<Said<'_>> {
    let said = events.iter().map(|event| {
        let transaction = event.transaction.as_ref().map(|id| id.as_str());
        (event.kind, event.attempt, transaction, event.at.secs())
    });
    said.collect()
}

const fn at(seconds: u64) -> Timestamp {
    Timestamp::from_secs(seconds)
}

async fn record<J: Journal>(
    journal: &J,
    signed: &Transaction,
    settlements: &[SettlementStep],
    now: Timestamp,
) {
    let recorded = journal.record("test:1", signed, settlements, None, now);
    recorded.await.expect("a record");
}

async fn conclude<J: Journal>(
    journal: &J,
    id: &PaymentId,
    attempt: u32,
    outcome: &Outcome,
    now: u64,
) {
    let ended = journal.conclude(id, attempt, outcome, None, at(now)).await;
    assert_eq!(ended, Ok(Ended::Yes));
}

/// Every kind of change, in the order in which they happen.
pub async fn each_change_of_a_settlement_adds_one_event<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a").caller("key 1");
    let claimed = |attempt| Ok(Claimed::Won { attempt });
    assert_eq!(journal.claim(&a, at(1)).await, claimed(1));
    conclude(&journal, &a.id, 1, &released(), 2).await;
    assert_eq!(journal.claim(&a, at(3)).await, claimed(2));
    record(&journal, &transaction("0x1", 1), &[settling(a.id)], at(4)).await;
    conclude(&journal, &a.id, 2, &failed(Some("0x1")), 5).await;
    assert_eq!(journal.claim(&a, at(6)).await, claimed(3));
    record(&journal, &transaction("0x2", 2), &[settling(a.id)], at(7)).await;
    conclude(&journal, &a.id, 3, &settled("0x2"), 8).await;
    let reported = journal.report_success(&a.id, 3, None, at(9)).await;
    assert!(matches!(reported, Ok(quittance_engine::Reported::First)));
    assert_eq!(journal.reopen(&a.id, 3, at(10)).await, Ok(true));
    conclude(&journal, &a.id, 3, &settled("0x2"), 11).await;
    assert_eq!(journal.reopen(&a.id, 3, at(12)).await, Ok(true));
    conclude(&journal, &a.id, 3, &lost(), 13).await;

    use EventKind::{
        Claimed as Begun, Failed, Lost, Released, Reopened, Reported, Settled, Signed,
    };
    let events = all(&journal).await;
    let expected = [
        (Begun, 1, None, 1),
        (Released, 1, None, 2),
        (Begun, 2, None, 3),
        (Signed, 2, Some("0x1"), 4),
        (Failed, 2, Some("0x1"), 5),
        (Begun, 3, None, 6),
        (Signed, 3, Some("0x2"), 7),
        (Settled, 3, Some("0x2"), 8),
        (Reported, 3, Some("0x2"), 9),
        (Reopened, 3, Some("0x2"), 10),
        (Settled, 3, Some("0x2"), 11),
        (Reopened, 3, Some("0x2"), 12),
        (Lost, 3, Some("0x2"), 13),
    ];
    assert_eq!(said(&events), expected);
    for event in &events {
        assert_eq!(event.settlement, a.id);
        assert_eq!(event.network, "test:1");
        assert_eq!(event.caller.as_deref(), Some("key 1"));
    }

    let b = claim("b");
    let before = journal.newest_event().await.expect("a position");
    let attempt = win(&journal, &b).await;
    conclude(&journal, &b.id, attempt, &settled("0x3"), 1_001).await;
    let final_at = journal.finalize(&[a.id, b.id], at(1_002)).await;
    final_at.expect("a mark");
    let events = behind(&journal, &EventFilter::new(), Some(before)).await;
    let expected = [
        (Begun, 1, None, 1_000),
        (Settled, 1, Some("0x3"), 1_001),
        (EventKind::Final, 1, Some("0x3"), 1_002),
    ];
    assert_eq!(said(&events), expected);
    assert!(events.iter().all(|event| event.caller.is_none()));
}

/// Repeated and refused writes, and writes of state records.
pub async fn a_write_that_changes_nothing_adds_no_event<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, b) = (claim("a"), claim("b"));
    let first = transaction("0x1", 1);
    let attempt = win(&journal, &a).await;
    for _ in 0..2 {
        record(&journal, &first, &[settling(a.id)], NOW).await;
    }
    conclude(&journal, &a.id, attempt, &settled("0x1"), 1_000).await;
    journal
        .report_success(&a.id, attempt, Some("sale"), NOW)
        .await
        .expect("a report");
    journal.finalize(&[a.id], NOW).await.expect("a mark");
    let before = all(&journal).await;
    assert_eq!(before.len(), 5);

    assert!(matches!(
        journal.claim(&a, NOW).await,
        Ok(Claimed::Taken(_))
    ));
    record(&journal, &first, &[settling(a.id), settling(b.id)], NOW).await;
    journal.withdraw(&first.id, None).await.expect("a mark");
    for outcome in [settled("0x1"), released(), failed(None)] {
        let ended = journal.conclude(&a.id, attempt, &outcome, None, NOW).await;
        assert_eq!(ended, Ok(Ended::No));
    }
    for key in [Some("sale"), None] {
        journal
            .report_success(&a.id, attempt, key, NOW)
            .await
            .expect("an answer");
    }
    journal.finalize(&[a.id, b.id], NOW).await.expect("a mark");
    assert_eq!(journal.reopen(&a.id, attempt, NOW).await, Ok(false));
    let state = SchemeState {
        id: StateId::from_parts(&[b"a"]),
        network: "test:1".to_owned(),
        scheme: "exact".to_owned(),
        revision: 1,
        state: b"a".to_vec(),
        due: None,
    };
    assert_eq!(journal.write_state(&state).await.ok(), Some(true));
    assert_eq!(all(&journal).await, before);

    // A refused conclusion: a reported payment cannot fail.
    let attempt = win(&journal, &b).await;
    conclude(&journal, &b.id, attempt, &settled("0x2"), 1_000).await;
    journal
        .report_success(&b.id, attempt, None, NOW)
        .await
        .expect("a report");
    assert_eq!(journal.reopen(&b.id, attempt, NOW).await, Ok(true));
    let before = all(&journal).await;
    let refused = journal
        .conclude(&b.id, attempt, &failed(None), None, NOW)
        .await;
    assert!(
        matches!(refused, Err(JournalError::Refused { .. })),
        "{refused:?}"
    );
    assert_eq!(all(&journal).await, before);
}

/// A batch settles many payments. A later attempt may sign the same bytes.
pub async fn a_transaction_adds_an_event_for_each_settlement<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let (a, b) = (claim("a"), claim("b"));
    let batch = transaction("0x1", 1);
    let attempt = win(&journal, &a).await;
    win(&journal, &b).await;
    record(&journal, &batch, &[settling(a.id), settling(b.id)], NOW).await;
    conclude(&journal, &a.id, attempt, &released(), 1_000).await;
    win(&journal, &a).await;
    record(&journal, &batch, &[settling(a.id)], NOW).await;
    let events = all(&journal).await;
    let signed = events
        .iter()
        .filter(|event| event.kind == EventKind::Signed);
    let mut signed: Vec<_> = signed
        .map(|event| (event.attempt, event.settlement))
        .collect();
    signed[..2].sort();
    let mut first = [(1, a.id), (1, b.id)];
    first.sort();
    assert_eq!(signed, [first[0], first[1], (2, a.id)]);
    // Nothing has to be sent: it settles, and is final.
    let nothing = Outcome::Settled {
        transaction: None,
        amount: quittance_core::Amount::default(),
        receipt: quittance_core::SchemeReceipt::default(),
    };
    let before = journal.newest_event().await.expect("a position");
    conclude(&journal, &b.id, 1, &nothing, 1_000).await;
    let events = behind(&journal, &EventFilter::new(), Some(before)).await;
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Settled, EventKind::Final]);
}

/// A reader can rely on an event that it got, and its position stays valid.
pub async fn events_survive_a_crash<F: JournalFixture>() {
    let fixture = F::new().await;
    let (mut seen, mut after) = (Vec::new(), None);
    for name in ["a", "b", "c"] {
        let journal = fixture.open().await;
        let claim = claim(name);
        let attempt = win(&journal, &claim).await;
        conclude(&journal, &claim.id, attempt, &settled("0x1"), 1_000).await;
        let new = behind(&journal, &EventFilter::new(), after).await;
        assert_eq!(new.len(), 2);
        after = new.last().map(|event| event.cursor.clone());
        seen.extend(new);
        fixture.crash(journal).await;
    }
    assert_eq!(all(&fixture.open().await).await, seen);
}

/// Whatever is written meanwhile, a reader gets each event once, and those of one settlement in the
/// order of its changes.
pub async fn a_reader_gets_each_event_once_and_in_order<F: JournalFixture>() {
    const SETTLEMENTS: usize = 40;
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let claims: Vec<Claim> = (0..SETTLEMENTS).map(|at| claim(&at.to_string())).collect();
    let write = async |claim: &Claim| {
        for number in 1..=3 {
            let attempt = win(&journal, claim).await;
            assert_eq!(attempt, number);
            conclude(&journal, &claim.id, attempt, &released(), 1_000).await;
        }
        let attempt = win(&journal, claim).await;
        let id = format!("0x{}", claim.id);
        let signed = transaction(&id, 1);
        record(&journal, &signed, &[settling(claim.id)], NOW).await;
        conclude(&journal, &claim.id, attempt, &settled(&id), 1_000).await;
    };
    let filter = EventFilter::new().limit(7);
    let read = async {
        let (mut seen, mut after) = (Vec::new(), None);
        let mut news = journal.new_events();
        while seen.len() < SETTLEMENTS * 9 {
            let part = journal.events(&filter, after.as_ref()).await;
            let part = part.expect("a part of the feed");
            assert!(part.events.len() <= 7);
            seen.extend(part.events);
            after = Some(part.next);
            if !part.has_more && seen.len() < SETTLEMENTS * 9 {
                let woken = tokio::time::timeout(WOKEN_WITHIN, news.changed()).await;
                woken.expect("a wake-up");
            }
        }
        seen
    };
    let (seen, _) = futures_util::join!(read, join_all(claims.iter().map(write)));
    assert_eq!(seen, all(&journal).await);
    let mut of_each = BTreeMap::<PaymentId, Vec<(u32, EventKind)>>::new();
    for event in &seen {
        let of_this = of_each.entry(event.settlement).or_default();
        of_this.push((event.attempt, event.kind));
    }
    use EventKind::{Claimed, Released, Settled, Signed};
    let mut expected: Vec<_> = (1..=3)
        .flat_map(|number| [(number, Claimed), (number, Released)])
        .collect();
    expected.extend([(4, Claimed), (4, Signed), (4, Settled)]);
    for claim in &claims {
        assert_eq!(of_each[&claim.id], expected);
    }
}

/// A caller sees the attempts that it claimed, also of a settlement that another one claims later.
pub async fn events_are_filtered_by_caller_and_network<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let a = claim("a");
    let first = a.clone().caller("one");
    let attempt = win(&journal, &first).await;
    conclude(&journal, &a.id, attempt, &released(), 1_000).await;
    let attempt = win(&journal, &a.clone().caller("two")).await;
    conclude(&journal, &a.id, attempt, &settled("0x1"), 1_000).await;
    win(&journal, &claim_on("test:2", "b").caller("one")).await;
    win(&journal, &claim("c")).await;

    let found = async |filter: EventFilter| {
        let events = behind(&journal, &filter.limit(2), None).await;
        let found = events.iter().map(|event| (event.kind, event.attempt));
        found.collect::<Vec<_>>()
    };
    use EventKind::{Claimed, Released, Settled};
    let one = EventFilter::new().caller("one");
    assert_eq!(
        found(one.clone()).await,
        [(Claimed, 1), (Released, 1), (Claimed, 1)]
    );
    assert_eq!(
        found(EventFilter::new().caller("two")).await,
        [(Claimed, 2), (Settled, 2)]
    );
    assert_eq!(found(one.network("test:2")).await, [(Claimed, 1)]);
    assert_eq!(found(EventFilter::new().network("test:1")).await.len(), 5);
    assert_eq!(found(EventFilter::new().caller("three")).await, []);
    assert_eq!(found(EventFilter::new().caller("")).await, []);
    assert_eq!(found(EventFilter::new()).await.len(), 6);

    // A part without a match still moves on.
    let nothing = EventFilter::new().caller("three");
    let part = journal.events(&nothing, None).await.expect("a part");
    assert_eq!((part.events.len(), part.has_more), (0, false));
    assert_eq!(
        behind(&journal, &EventFilter::new(), Some(part.next)).await,
        []
    );
}

/// A reader waits without asking again and again.
pub async fn a_reader_is_woken_by_a_new_event<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    let mut news = journal.new_events();
    let mut after = None;
    for name in ["a", "b", "c"] {
        let read = async {
            loop {
                let part = journal.events(&EventFilter::new(), after.as_ref()).await;
                let part = part.expect("a part");
                if let Some(event) = part.events.first() {
                    return event.clone();
                }
                news.changed().await;
            }
        };
        let claim = claim(name);
        let write = async {
            // The reader waits by then.
            tokio::time::sleep(Duration::from_millis(20)).await;
            win(&journal, &claim).await
        };
        let both = async { futures_util::join!(read, write) };
        let (event, _) = tokio::time::timeout(WOKEN_WITHIN, both)
            .await
            .expect("a wake-up");
        assert_eq!(event.settlement, claim.id);
        after = Some(event.cursor);
    }
}

/// A reader that starts now gets what comes from now on.
pub async fn the_newest_position_is_before_every_later_event<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    for name in ["a", "b"] {
        let start = journal.newest_event().await.expect("a position");
        assert_eq!(
            behind(&journal, &EventFilter::new(), Some(start.clone())).await,
            []
        );
        let claim = claim(name);
        win(&journal, &claim).await;
        let events = behind(&journal, &EventFilter::new(), Some(start)).await;
        let found: Vec<PaymentId> = events.iter().map(|event| event.settlement).collect();
        assert_eq!(found, [claim.id]);
    }
}

/// By age, never more than allowed, and never the newest one.
pub async fn the_oldest_events_are_removed<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    assert_eq!(journal.remove_events(at(9_999), 100).await, Ok(0));
    for number in 0..6 {
        let claim = claim(&number.to_string());
        let claimed = journal.claim(&claim, at(100 + number)).await;
        assert_eq!(claimed, Ok(Claimed::Won { attempt: 1 }));
    }
    let before = all(&journal).await;
    assert_eq!(journal.remove_events(at(100), 100).await, Ok(0));
    assert_eq!(journal.remove_events(at(103), 2).await, Ok(2));
    assert_eq!(journal.remove_events(at(103), 100).await, Ok(1));
    assert_eq!(all(&journal).await, before[3..]);
    // A reader that has seen the removed events goes on.
    let seen = Some(before[2].cursor.clone());
    assert_eq!(
        behind(&journal, &EventFilter::new(), seen).await,
        before[3..]
    );
    let missed = Some(&before[1].cursor);
    let refused = journal.events(&EventFilter::new(), missed).await;
    assert_eq!(refused, Err(JournalError::UnknownCursor));

    assert_eq!(journal.remove_events(at(9_999), 100).await, Ok(2));
    assert_eq!(all(&journal).await, before[5..]);
    fixture.crash(journal).await;
    let journal = fixture.open().await;
    win(&journal, &claim("later")).await;
    let seen = Some(before[5].cursor.clone());
    assert_eq!(behind(&journal, &EventFilter::new(), seen).await.len(), 1);
    // A clock that was set back: an older event behind a newer one stays until the newer one goes.
    win(&journal, &claim("newest")).await;
    assert_eq!(journal.remove_events(at(105), 100).await, Ok(0));
}

/// A position before removed events, or of another journal, would silently lose events.
pub async fn an_unknown_position_is_refused<F: JournalFixture>() {
    let (fixture, other) = (F::new().await, F::new().await);
    let (journal, other) = (fixture.open().await, other.open().await);
    for number in 0..20 {
        win(&other, &claim(&number.to_string())).await;
    }
    win(&journal, &claim("a")).await;
    let foreign = other.newest_event().await.expect("a position");
    let odd = [
        "18446744073709551615",
        "99999999999999999999",
        "-1",
        "x",
        "01",
    ];
    let odd = odd.map(|text| text.parse().expect("a cursor"));
    for cursor in odd.iter().chain([&foreign]) {
        let refused = journal.events(&EventFilter::new(), Some(cursor)).await;
        assert_eq!(refused, Err(JournalError::UnknownCursor), "{cursor}");
    }
}

/// Each reader has its own position.
pub async fn a_saved_position_survives_a_crash<F: JournalFixture>() {
    let fixture = F::new().await;
    let journal = fixture.open().await;
    win(&journal, &claim("a")).await;
    let first = journal.newest_event().await.expect("a position");
    win(&journal, &claim("b")).await;
    let second = journal.newest_event().await.expect("a position");
    assert_eq!(journal.event_cursor("one").await, Ok(None));
    for (reader, cursor) in [("one", &first), ("two", &first), ("one", &second)] {
        assert_eq!(journal.save_event_cursor(reader, cursor).await, Ok(()));
    }
    fixture.crash(journal).await;
    let journal = fixture.open().await;
    assert_eq!(journal.event_cursor("one").await, Ok(Some(second)));
    assert_eq!(journal.event_cursor("two").await, Ok(Some(first)));
    assert_eq!(journal.event_cursor("three").await, Ok(None));
}
