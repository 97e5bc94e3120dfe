//! The engine and its journal: one judgement at /verify and /settle, and a recovery that is bounded
//! and skips unreadable rows.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::json::{Json, Object};
use quittance_core::wire::{SettleResponse, VerifyResponse};
use quittance_core::{
    Amount, Chain, Clock, Facilitator, FacilitatorError, Fault, FaultKind, KEPT_MAX, LaneId, Payer,
    PaymentInfo, PaymentRequest, Reason, Scheme, SchemeReceipt, SystemClock, Timestamp,
    Transaction, TransactionId,
};
use quittance_devnet::Evm as Local;
use quittance_engine::{
    Claim, Claimed, Ended, Engine, FAILURES_MAX, Filter, Journal, Outcome, Settlement,
    SettlementStep, State, StateKind, Timing,
};
use quittance_evm::{Evm, Exact, ExactPayer};
use quittance_tests::engine;
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::flaky::{Failing, FlakyJournal};
use quittance_tests::proxy::Fate;
use quittance_tests::until;
use quittance_tests::wrapped::{Changed, Changes, Wrapped};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

/// Short waits, for tests.
const HASTY: Timing = engine::HASTY
    .with_look_every(Duration::from_millis(100))
    .with_replace_after(Duration::from_secs(5))
    .with_sweep_every(Duration::from_millis(500));

async fn start(setting: &Setting) -> Engine {
    setting
        .engine_with(setting.config(), |builder| {
            builder.timing(HASTY).settle_wait(Duration::from_secs(8))
        })
        .await
}

async fn stop(engine: Engine) {
    engine.shut_down(Duration::ZERO).await;
    drop(engine);
}

fn decode(setting: &Setting, request: &PaymentRequest) -> PaymentInfo {
    let exact = Exact::new(&Evm::new(setting.config()).unwrap());
    let payment = exact.decode(request, SystemClock.now()).unwrap();
    payment.info().clone()
}

fn claim(setting: &Setting, request: &PaymentRequest) -> Claim {
    let info = decode(setting, request);
    let text = request.kept_text(&[], KEPT_MAX).unwrap();
    Claim::new("eip155:84532", "exact", &info, text, SystemClock.now())
}

/// Changes the journal from outside.
async fn execute(setting: &Setting, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(setting.journal_path());
    let mut file = options.connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut file).await.unwrap();
    file.close().await.unwrap();
}

async fn verify(engine: &Engine, request: &PaymentRequest) -> VerifyResponse {
    engine.verify(request).await.unwrap()
}

async fn settle(engine: &Engine, request: &PaymentRequest) -> SettleResponse {
    engine.settle(request).await.unwrap()
}

fn fault<T: std::fmt::Debug>(answer: Result<T, FacilitatorError>) -> FaultKind {
    match answer {
        Err(FacilitatorError::Fault(fault)) => fault.kind,
        other => panic!("not a fault: {other:?}"),
    }
}

/// Because of a node without receipts, the engine reported a settled payment as failed. Sellers
/// verify first, and /verify answered "used". So no seller called /settle, which would have found
/// it settled.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_settled_after_a_wrong_verdict_is_served_once() {
    let setting = Setting::start().await;
    let engine = start(&setting).await;
    let request = Setting::request().await;
    let first = settle(&engine, &request).await;
    assert!(first.success, "{first:?}");
    stop(engine).await;
    execute(
        &setting,
        "UPDATE settlements SET state = 'failed', reason = 'invalid_exact_evm_nonce_already_used',
             transaction_id = NULL, settled_amount = NULL, success_reported_at = NULL",
    )
    .await;
    let engine = start(&setting).await;
    let verdict = verify(&engine, &request).await;
    assert!(verdict.is_valid, "{verdict:?}");
    assert_eq!(verdict.payer, Some(Setting::buyer().address.to_string()));
    let again = settle(&engine, &request).await;
    assert!(again.success, "{again:?}");
    assert_eq!(again.transaction, first.transaction);
    assert!(!settle(&engine, &request).await.success);
    assert!(!verify(&engine, &request).await.is_valid);
}

/// After three failures that cost gas, /settle refused the payment and /verify still called it
/// valid. An attacker could run a seller's handler for free, any number of times.
#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_that_failed_too_often_is_not_valid() {
    let setting = Setting::start().await;
    let journal = setting.journal().await;
    let (often, seldom) = (Setting::request().await, Setting::request().await);
    for (request, times) in [(&often, FAILURES_MAX), (&seldom, FAILURES_MAX - 1)] {
        let claim = claim(&setting, request);
        for attempt in 1..=times {
            let won = journal.claim(&claim, SystemClock.now()).await.unwrap();
            assert_eq!(won, Claimed::Won { attempt });
            let failed = Outcome::Failed {
                reason: Reason::INVALID_TRANSACTION_STATE,
                detail: String::new(),
                transaction: Some(TransactionId::new("0x1")),
            };
            let now = SystemClock.now();
            assert_eq!(
                journal
                    .conclude(&claim.id, attempt, &failed, None, now)
                    .await,
                Ok(Ended::Yes)
            );
        }
    }
    drop(journal);
    let engine = start(&setting).await;
    let verdict = verify(&engine, &often).await;
    let answer = settle(&engine, &often).await;
    assert!(
        !verdict.is_valid && !answer.success,
        "{verdict:?} {answer:?}"
    );
    assert_eq!(
        verdict.invalid_reason,
        Some("duplicate_settlement".to_owned())
    );
    assert_eq!(verdict.invalid_reason, answer.error_reason);
    assert!(verify(&engine, &seldom).await.is_valid);
    assert!(settle(&engine, &seldom).await.success);
}

/// The disk was full. /verify called payments valid, sellers ran their handlers, and could not
/// settle.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_valid_while_the_journal_has_a_problem() {
    let setting = Setting::start().await;
    let failing = Arc::new(Failing::default());
    let evm = Evm::new(setting.config()).unwrap();
    let exact = Arc::new(Exact::new(&evm));
    let journal = FlakyJournal {
        inner: setting.journal().await,
        failing: Arc::clone(&failing),
    };
    let builder = Engine::builder(journal).chain(evm, vec![exact]);
    let engine = builder.start().await.unwrap();
    let request = Setting::request().await;
    assert!(verify(&engine, &request).await.is_valid);
    assert_eq!(engine.journal_problem(), None);

    failing.everything(true);
    assert_eq!(
        fault(engine.verify(&request).await),
        FaultKind::JournalUnavailable
    );
    assert_eq!(
        fault(engine.settle(&request).await),
        FaultKind::JournalUnavailable
    );
    assert_eq!(engine.supported().await.unwrap().kinds, vec![]);
    assert_eq!(
        engine.journal_problem(),
        Some("the disk is full".to_owned())
    );

    failing.everything(false);
    assert!(verify(&engine, &request).await.is_valid);
    assert_ne!(engine.supported().await.unwrap().kinds, vec![]);
    assert!(settle(&engine, &request).await.success);
}

/// A payment of a tenth of a cent had 50 kB of other fields, and all of it was kept for ever.
#[tokio::test(flavor = "multi_thread")]
async fn the_journal_keeps_only_what_a_scheme_reads() {
    let setting = Setting::start().await;
    let engine = start(&setting).await;
    let requirements = Setting::requirements();
    let paid = Setting::payer()
        .pay(&requirements, None, SystemClock.now())
        .await;
    let payload = paid.unwrap().payload;
    let mut long = quittance_tests::payload_of(&requirements, payload.clone());
    let padding = "x".repeat(50_000);
    long.extensions = Some(Json::of(&json!({ "anything": { "padding": padding } })).unwrap());
    let request = quittance_tests::request(long, &requirements);
    assert!(request.text().len() > 50_000);
    assert!(settle(&engine, &request).await.success);
    let known = engine
        .settlement(&decode(&setting, &request).id)
        .await
        .unwrap()
        .unwrap();
    assert!(known.claim.request.len() < 2_000, "{}", known.claim.request);
    // The same authorization with other additional fields is the same payment.
    let plain = quittance_tests::request(
        quittance_tests::payload_of(&requirements, payload.clone()),
        &requirements,
    );
    assert_eq!(
        settle(&engine, &plain).await.error_reason,
        Some("duplicate_settlement".to_owned())
    );

    // A request that is too long for the journal is refused before a seller serves anything.
    let mut payload = payload.tree();
    payload.insert("unknown".to_owned(), json!("x".repeat(9_000)));
    let payload = quittance_tests::payload_of(&requirements, Object::of(&payload).unwrap());
    let request = quittance_tests::request(payload, &requirements);
    for answer in [
        engine.verify(&request).await.map(drop),
        engine.settle(&request).await.map(drop),
    ] {
        match answer {
            Err(FacilitatorError::Malformed(malformed)) => {
                assert_eq!(malformed.field, "paymentPayload.payload");
                assert!(malformed.problem.contains("8192"), "{malformed}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A payment with a price of its own. Equal payments of one payer do not share a transaction.
async fn priced(price: u64) -> PaymentRequest {
    let mut requirements = Setting::requirements();
    requirements.amount = price.to_string();
    quittance_tests::pay(&Setting::payer(), &requirements).await
}

/// After a crash, each open settlement sent its own questions to the node, all at once and every
/// second. One unreadable row stopped the process from starting.
#[tokio::test(flavor = "multi_thread")]
async fn recovery_batches_questions_and_skips_unreadable_rows() {
    const COUNT: u64 = 100;
    let setting = Setting::start().await;
    let journal = setting.journal().await;
    let signer = Setting::signers()[0].address;
    let lane = LaneId::new(&signer.to_string());
    let mut expected = Amount::ZERO;
    for at in 0..COUNT {
        let claim = claim(&setting, &priced(PRICE + at).await);
        let won = journal.claim(&claim, SystemClock.now()).await.unwrap();
        assert_eq!(won, Claimed::Won { attempt: 1 });
        let lost = Transaction {
            id: TransactionId::new(&format!("0x{at:064x}")),
            lane: lane.clone(),
            sequence: at,
            bytes: b"lost".as_slice().into(),
        };
        let now = SystemClock.now();
        journal
            .record(
                "eip155:84532",
                &lost,
                &[SettlementStep::settling(claim.id)],
                None,
                now,
            )
            .await
            .unwrap();
        if at > 0 {
            expected = expected.checked_add(claim.amount).unwrap();
        }
    }
    drop(journal);
    let spoilt = "UPDATE settlements SET amount = 'much' WHERE amount = '10000'";
    drop(setting.journal().await);
    execute(&setting, spoilt).await;
    // Another program has used all these sequence numbers.
    let nonce = (signer, format!("{COUNT:#x}"));
    let _: Value = setting.local.rpc("anvil_setNonce", nonce).await.unwrap();

    let engine = start(&setting).await;
    until("all readable payments have settled", || async {
        setting.received().await == expected
    })
    .await;
    let asked = setting.node.calls("eth_getTransactionReceipt");
    assert!(asked as u64 >= COUNT, "{asked}");
    let round_trips = setting.node.round_trips_with("eth_getTransactionReceipt");
    // A round trip answers more than two questions on average, also on a busy machine.
    assert!(
        2 * round_trips < asked,
        "{round_trips} round trips for {asked} questions"
    );
    // The unreadable one is skipped, and no other payment waits for it.
    until("no settlement is in progress", || async {
        engine.in_progress() == 0
    })
    .await;
    assert!(settle(&engine, &priced(7).await).await.success);
}

/// The waiting caller got a final "already reported" without ever having got the success.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_taken_back_before_its_report_is_pending() {
    let setting = Setting::start().await;
    let failing = Arc::new(Failing::default());
    failing.takes_back.store(true, Ordering::SeqCst);
    let evm = Evm::new(setting.config()).unwrap();
    let exact = Arc::new(Exact::new(&evm));
    let journal = FlakyJournal {
        inner: setting.journal().await,
        failing,
    };
    let engine = Engine::builder(journal)
        .chain(evm, vec![exact])
        .timing(HASTY)
        .start()
        .await
        .unwrap();
    let request = Setting::request().await;
    let first = engine.settle(&request).await.unwrap();
    assert_eq!(
        first.error_reason.as_deref(),
        Some(Reason::SETTLEMENT_PENDING.code())
    );
    assert!(!first.transaction.is_empty());
    until("the next caller gets success", || async {
        engine.settle(&request).await.unwrap().success
    })
    .await;
}

/// A long search for payments that were taken back delayed the health check. Payments were accepted
/// for a network that was down.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_search_does_not_delay_the_health_check() {
    let setting = Setting::start().await;
    let failing = Arc::new(Failing::default());
    failing.list_takes.store(120_000, Ordering::SeqCst);
    let evm = Evm::new(setting.config()).unwrap();
    let exact = Arc::new(Exact::new(&evm));
    let journal = FlakyJournal {
        inner: setting.journal().await,
        failing,
    };
    let engine = Engine::builder(journal)
        .chain(evm, vec![exact])
        .timing(HASTY)
        .start()
        .await
        .unwrap();
    let works = || {
        let health = engine.health();
        health.iter().all(|(_, health)| health.network_works())
    };
    assert!(works());
    setting
        .node
        .breaks_for_good("eth_chainId", Fate::Status(503));
    // The health check runs every ten seconds.
    tokio::time::sleep(Duration::from_secs(8)).await;
    until("the health check finds the network down", || async {
        !works()
    })
    .await;
}

/// The chain of the tests, which signs smaller batches than `can_batch` allows.
struct Narrow {
    evm: Evm,
    most: usize,
    refused: Arc<AtomicUsize>,
}

#[async_trait]
impl Changes for Narrow {
    fn evm(&self) -> &Evm {
        &self.evm
    }

    fn in_flight_max(&self) -> usize {
        1
    }

    async fn prepare(
        &self,
        lane: &LaneId,
        sequence: u64,
        actions: &[&<Evm as Chain>::Action],
    ) -> Result<Transaction, Fault> {
        if actions.len() > self.most {
            self.refused.fetch_add(1, Ordering::SeqCst);
            let what = "costs more than is allowed";
            return Err(Fault::new(FaultKind::Misconfigured, what));
        }
        self.evm.prepare(lane, sequence, actions).await
    }
}

/// Of 200 concurrent payments two settled. The others failed together, because the chain did not
/// sign so many in one transaction.
#[tokio::test(flavor = "multi_thread")]
async fn payments_the_chain_does_not_batch_are_sent_alone() {
    const COUNT: usize = 6;
    let setting = Setting::start().await;
    let refused = Arc::new(AtomicUsize::new(0));
    let evm = Evm::new(setting.config()).unwrap();
    let exact = Arc::new(Wrapped(Exact::new(&evm)));
    let narrow = Narrow {
        evm,
        most: 1,
        refused: Arc::clone(&refused),
    };
    let engine = Engine::builder(setting.journal().await)
        .chain(Changed(narrow), vec![exact])
        .timing(HASTY)
        .settle_wait(Duration::from_secs(8))
        .start()
        .await
        .unwrap();
    let requirements = Setting::requirements();
    let mut requests = Vec::new();
    for payer in &Local::accounts()[2..2 + COUNT] {
        let payer = ExactPayer::new(payer.signer.clone());
        requests.push(quittance_tests::pay(&payer, &requirements).await);
    }
    let answers = join_all(requests.iter().map(|request| settle(&engine, request))).await;
    for answer in answers {
        assert!(answer.success, "{answer:?}");
    }
    assert!(refused.load(Ordering::SeqCst) > 0, "no batch was tried");
    assert_eq!(setting.received().await, Amount::from(COUNT as u64 * PRICE));
}

/// The time of the journal file that the program of format 1 wrote, and some seconds later.
struct FixtureClock;

impl Clock for FixtureClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(FIXTURE_TIME + 60)
    }
}

/// When the fixture was written; see tests/fixtures/README.md.
const FIXTURE_TIME: u64 = 4_000_000_000;

/// One open settlement is claimed only. The other has a recorded transaction that never reached the
/// chain: the engine must send exactly these bytes.
#[tokio::test(flavor = "multi_thread")]
async fn open_settlements_of_a_format_1_file_are_finished() {
    let setting = Setting::start().await;
    let file = include_bytes!("../fixtures/journal-format-1.db");
    std::fs::write(setting.journal_path(), file).unwrap();
    let now = FixtureClock.now().secs();
    let _: Value = setting
        .local
        .rpc("evm_setNextBlockTimestamp", (now,))
        .await
        .unwrap();
    setting.local.mine().await.unwrap();
    let journal = setting.journal().await;
    // The chain of the fixture had the transactions with the nonces 0 and 1.
    let signer = LaneId::new(&Setting::signers()[0].address.to_string());
    let included = journal.transactions_at("eip155:84532", &signer, 0..2).await;
    for transaction in included.unwrap() {
        let bytes = alloy::hex::encode_prefixed(&transaction.bytes);
        let sent: Result<Value, _> = setting.local.rpc("eth_sendRawTransaction", (bytes,)).await;
        sent.unwrap();
    }
    until("both are included", || async {
        setting.sent(Setting::signers()[0].address).await == 2
    })
    .await;
    let open = Filter::new().open_only();
    let open = journal.page(&open, None).await.unwrap().settlements;
    let [recorded, claimed] = &open[..] else {
        panic!("two open settlements: {open:?}");
    };
    let recorded_id = &recorded.transaction().unwrap().id;
    assert_eq!(claimed.transaction(), None);
    drop(journal);
    let received_before = setting.received().await;

    let engine = setting
        .engine_with(setting.config(), |builder| {
            builder.timing(HASTY).clock(Arc::new(FixtureClock))
        })
        .await;
    let state = async |settlement: &Settlement| {
        let known = engine.settlement(&settlement.claim.id).await.unwrap();
        known.unwrap().state
    };
    until("both have settled", || async {
        state(recorded).await.kind() == StateKind::Settled
            && state(claimed).await.kind() == StateKind::Settled
    })
    .await;
    let settled = State::Concluded(Outcome::Settled {
        transaction: Some(recorded_id.clone()),
        amount: Amount::from(PRICE),
        receipt: SchemeReceipt::default(),
    });
    assert_eq!(state(recorded).await, settled);
    let received = setting.received().await.units() - received_before.units();
    assert_eq!(Amount::new(received), Amount::from(2 * PRICE));
    assert_eq!(engine.in_progress(), 0);
}
