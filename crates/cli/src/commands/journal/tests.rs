//! An export that is imported is exported again without a change.

use std::time::Duration;

use proptest::prelude::*;
use quittance_core::{
    Amount, Fault, FaultKind, LaneId, PaymentId, PaymentInfo, Reason, SchemeReceipt, SchemeState,
    StateId, StateStore, Timestamp, Transaction, TransactionId,
};
use quittance_engine::{Claim, Journal, Outcome, Place, SettlementStep, SqliteJournal};
use tempfile::TempDir;

use super::export::export;
use super::import::{Imported, import};

/// Something that happens to one of a few authorizations.
#[derive(Debug, Clone)]
enum Event {
    Claim { exclusive: bool, caller: bool },
    Record { step: u8 },
    Withdraw,
    Settle { receipt: bool },
    Fail { with_transaction: bool },
    Release,
    Report,
    Reopen,
    Lose,
    Finalize,
    WriteState,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (any::<bool>(), any::<bool>())
            .prop_map(|(exclusive, caller)| Event::Claim { exclusive, caller }),
        3 => (0_u8..2).prop_map(|step| Event::Record { step }),
        1 => Just(Event::Withdraw),
        2 => any::<bool>().prop_map(|receipt| Event::Settle { receipt }),
        1 => any::<bool>().prop_map(|with_transaction| Event::Fail { with_transaction }),
        1 => Just(Event::Release),
        1 => Just(Event::Report),
        1 => Just(Event::Reopen),
        1 => Just(Event::Lose),
        1 => Just(Event::Finalize),
        1 => Just(Event::WriteState),
    ]
}

/// A journal in a folder of its own.
struct Kept {
    journal: SqliteJournal,
    _folder: TempDir,
}

async fn empty() -> Kept {
    let folder = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(folder.path().join("journal.db")).await;
    Kept {
        journal: journal.unwrap(),
        _folder: folder,
    }
}

fn claim(number: u8, exclusive: bool, caller: bool) -> Claim {
    let info = PaymentInfo {
        id: PaymentId::from_parts(&[&[number]]),
        payer: "payer \"ü\"".to_owned(),
        pay_to: "seller".to_owned(),
        asset: "coin".to_owned(),
        amount: Amount::MAX,
        expires: Timestamp::from_secs(2_000 + u64::from(number)),
    };
    let request = "{\"a\":\"\\u0000\\n\"}".to_owned();
    let mut claim = Claim::new("test:1", "exact", &info, request, Timestamp::from_secs(900));
    claim.caller = caller.then(|| "a key".to_owned());
    claim.access = exclusive.then(|| Place {
        state: StateId::from_parts(&[&[number % 2]]),
        revision: 0,
        exclusive,
    });
    claim
}

fn transaction(at: u64) -> Transaction {
    Transaction {
        id: TransactionId::new(&format!("0x{at}")),
        lane: LaneId::new("signer"),
        sequence: at,
        bytes: vec![at as u8, 0xff].into(),
    }
}

/// Makes something happen. What the journal's rules forbid does not happen.
async fn happen(journal: &SqliteJournal, at: u64, number: u8, event: &Event) {
    let now = Timestamp::from_secs(1_000 + at);
    let id = PaymentId::from_parts(&[&[number]]);
    let known = journal.settlement(&id).await.unwrap();
    let attempt = known.as_ref().map_or(0, |known| known.attempt);
    let newest = known
        .as_ref()
        .and_then(|known| known.transaction().cloned());
    let newest = newest.map(|transaction| transaction.id);
    let conclude = async |outcome: Outcome| {
        let _ = journal.conclude(&id, attempt, &outcome, None, now).await;
    };
    match event {
        Event::Claim { exclusive, caller } => {
            let _ = journal
                .claim(&claim(number, *exclusive, *caller), now)
                .await;
        }
        Event::Record { step } => {
            let of = SettlementStep {
                settlement: id,
                step: *step,
            };
            let (transaction, of) = (transaction(at), [of]);
            let recorded = journal.record("test:1", &transaction, &of, None, now);
            recorded.await.unwrap();
        }
        Event::Withdraw => {
            if let Some(newest) = newest {
                journal.withdraw(&newest, None).await.unwrap();
            }
        }
        Event::Settle { receipt } => {
            let receipt = SchemeReceipt {
                amount: receipt.then(|| "7".to_owned()),
                extra: None,
            };
            conclude(Outcome::Settled {
                transaction: newest,
                amount: Amount::from(7),
                receipt,
            })
            .await;
        }
        Event::Fail { with_transaction } => {
            conclude(Outcome::Failed {
                reason: Reason::SETTLEMENT_EXPIRED,
                detail: "it's \"odd\"".to_owned(),
                transaction: newest.filter(|_| *with_transaction),
            })
            .await;
        }
        Event::Release => {
            let fault = Fault {
                retry_after: Some(Duration::from_secs(3)),
                ..Fault::new(FaultKind::Busy, "busy")
            };
            conclude(Outcome::Released { fault }).await;
        }
        Event::Lose => {
            conclude(Outcome::Lost {
                reason: Reason::SETTLEMENT_EXPIRED,
                detail: String::new(),
                transaction: newest,
            })
            .await;
        }
        Event::Report => {
            let _ = journal
                .report_success(&id, attempt, Some("sale"), now)
                .await;
        }
        Event::Reopen => drop(journal.reopen(&id, attempt, now).await.unwrap()),
        Event::Finalize => journal.finalize(&[id], now).await.unwrap(),
        Event::WriteState => {
            let record = StateId::from_parts(&[&[number % 2]]);
            let next = match journal.state(&record).await.unwrap() {
                Some(known) => known.next(vec![at as u8], Some(now)),
                None => SchemeState::new(record, "test:1", "exact", Vec::new()),
            };
            let _ = journal.write_state(&next).await;
        }
    }
}

async fn exported(journal: &SqliteJournal) -> String {
    let mut lines = Vec::new();
    let unreadable = export(journal, &mut lines, None, None).await.unwrap();
    assert_eq!(unreadable, 0);
    String::from_utf8(lines).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn export_import_and_export_are_equal(
        history in proptest::collection::vec((0_u8..5, events()), 0..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (first, second) = (empty().await, empty().await);
            for (at, (number, event)) in (0..).zip(&history) {
                happen(&first.journal, at, *number, event).await;
            }
            let text = exported(&first.journal).await;
            let imported = import(&second.journal, text.as_bytes()).await.unwrap();
            assert_eq!((imported.raised, imported.kept), (0, 0));
            assert_eq!(imported.refused, []);
            assert_eq!(exported(&second.journal).await, text);
            // Into a journal that has it all, nothing is written.
            let again = import(&first.journal, text.as_bytes()).await.unwrap();
            let kept = Imported { kept: imported.added, ..Imported::default() };
            assert_eq!(again, kept);
            assert_eq!(exported(&first.journal).await, text);
        });
    }
}

/// A part has the transactions of its settlements, and no others.
#[tokio::test]
async fn a_part_of_a_journal_is_exported_by_time() {
    let (first, second) = (empty().await, empty().await);
    for (at, number, event) in [
        (
            0,
            0,
            Event::Claim {
                exclusive: false,
                caller: false,
            },
        ),
        (1, 0, Event::Record { step: 0 }),
        (2, 0, Event::Settle { receipt: false }),
        (
            500,
            1,
            Event::Claim {
                exclusive: false,
                caller: false,
            },
        ),
        (501, 1, Event::Record { step: 0 }),
    ] {
        happen(&first.journal, at, number, &event).await;
    }
    let mut part = Vec::new();
    let from = Some(Timestamp::from_secs(1_400));
    export(&first.journal, &mut part, from, None).await.unwrap();
    let text = String::from_utf8(part.clone()).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        text.contains("0x501") && !text.contains("\"0x1\""),
        "{text}"
    );
    let imported = import(&second.journal, part.as_slice()).await.unwrap();
    assert_eq!(imported.added, 2);
}

#[tokio::test]
async fn a_file_that_is_no_export_is_refused_by_line() {
    let place = empty().await;
    for (text, expected) in [
        ("{}", "line 1: "),
        (
            "{\"journal\":{\"version\":2}}",
            "line 1: the export has version 2",
        ),
        ("{\"transaction\":{}}", "line 1: "),
        ("{\"journal\":{\"version\":1}}\nnonsense", "line 2: "),
        (
            "{\"journal\":{\"version\":1}}\n{\"journal\":{\"version\":1}}",
            "line 2: the first line",
        ),
        (
            "{\"journal\":{\"version\":1,\"more\":1}}",
            "line 1: unknown field",
        ),
    ] {
        let error = import(&place.journal, text.as_bytes()).await.unwrap_err();
        assert!(error.to_string().starts_with(expected), "{text}: {error}");
    }
}
