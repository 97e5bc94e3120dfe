//! What a journal writes in a second, without an engine and without a chain.
//!
//! `cargo bench -p quittance-benches --bench journal`. The files of SQLite and of the PostgreSQL
//! server are in the folder for temporary files, so set `TMPDIR` to a folder of the disk that is
//! measured.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that cannot go on stops"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use quittance_core::{
    Amount, LaneId, PaymentId, PaymentInfo, SchemeReceipt, Timestamp, Transaction, TransactionId,
};
use quittance_devnet::{Fsync, Postgres};
use quittance_engine::{
    Claim, Claimed, Ended, FencingToken, Journal, LeaseName, Outcome, PostgresJournal, Reported,
    SettlementStep, SqliteJournal,
};
use tokio::runtime::Runtime;

/// How many settlements are under way at once, each at its own step.
const AT_ONCE: usize = 512;

/// How many payments share a transaction: none with another one, or as many as fill a transaction
/// on EVM.
const SHARED: [usize; 2] = [1, 32];

const NETWORK: &str = "eip155:8453";
const LANE: &str = "0x1111111111111111111111111111111111111111";
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

/// A request of a usual size.
const REQUEST_BYTES: usize = 1_000;

/// A signed transaction has some bytes of its own, and some for each payment.
const TRANSACTION_BYTES: (usize, usize) = (150, 400);

/// A journal with the lease of its lane.
struct Place<J> {
    journal: J,
    token: FencingToken,
    /// Counts authorizations and sequence numbers.
    next: AtomicU64,
}

impl<J: Journal> Place<J> {
    async fn new(journal: J) -> Self {
        journal.renew(Duration::from_secs(86_400)).await.unwrap();
        let lane = LeaseName::lane(NETWORK, &LaneId::new(LANE));
        let lease = journal.acquire(&lane).await.unwrap();
        Self {
            journal,
            token: lease.unwrap().token,
            next: AtomicU64::new(0),
        }
    }

    /// Some settlements that share a transaction, from their claims to their ends for good: 3
    /// writes for each of them, and 2 for all.
    async fn settle(&self, count: usize) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let claims = (0..count)
            .map(|index| claim(number, index))
            .collect::<Vec<_>>();
        let ids: Vec<PaymentId> = claims.iter().map(|claim| claim.id).collect();
        let journal = &self.journal;
        let won = join_all(claims.iter().map(|claim| journal.claim(claim, NOW))).await;
        assert!(
            won.iter()
                .all(|won| matches!(won, Ok(Claimed::Won { attempt: 1 })))
        );

        let (own, each) = TRANSACTION_BYTES;
        let transaction = Transaction {
            id: TransactionId::new(&format!("0x{number:064x}")),
            lane: LaneId::new(LANE),
            sequence: number,
            bytes: vec![7; own + each * count].into(),
        };
        let steps: Vec<_> = ids.iter().copied().map(SettlementStep::settling).collect();
        let token = Some(self.token);
        let recorded = journal.record(NETWORK, &transaction, &steps, token, NOW);
        recorded.await.unwrap();

        let outcome = Outcome::Settled {
            transaction: Some(transaction.id.clone()),
            amount: Amount::from(10_000),
            receipt: SchemeReceipt::default(),
        };
        let ended = ids
            .iter()
            .map(|id| journal.conclude(id, 1, &outcome, None, NOW));
        let ended = join_all(ended).await;
        assert!(ended.iter().all(|ended| matches!(ended, Ok(Ended::Yes))));
        let reported = ids
            .iter()
            .map(|id| journal.report_success(id, 1, None, NOW));
        let reported = join_all(reported).await;
        assert!(reported.iter().all(|it| matches!(it, Ok(Reported::First))));
        journal.finalize(&ids, NOW).await.unwrap();
    }
}

fn claim(number: u64, index: usize) -> Claim {
    let info = PaymentInfo {
        id: PaymentId::from_parts(&[&number.to_be_bytes(), &index.to_be_bytes()]),
        payer: format!("0x{number:040x}"),
        pay_to: "0x2222222222222222222222222222222222222222".to_owned(),
        asset: "0x3333333333333333333333333333333333333333".to_owned(),
        amount: Amount::from(10_000),
        expires: NOW.plus_secs(60),
    };
    Claim::new(NETWORK, "exact", &info, "r".repeat(REQUEST_BYTES), NOW)
}

/// Measures settlements until each is final, `AT_ONCE` of them at a time.
fn settle<J: Journal>(criterion: &mut Criterion, name: &str, runtime: &Runtime, place: &Place<J>) {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(10));
    group.throughput(Throughput::Elements(AT_ONCE as u64));
    for shared in SHARED {
        let id = BenchmarkId::new("settlements, to a transaction", shared);
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|rounds| {
                let begun = Instant::now();
                runtime.block_on(async {
                    let lines = (0..AT_ONCE / shared).map(|_| async {
                        for _ in 0..rounds {
                            place.settle(shared).await;
                        }
                    });
                    join_all(lines).await
                });
                begun.elapsed()
            })
        });
    }
    group.finish();
}

fn sqlite(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let place = runtime.block_on(async {
        let journal = SqliteJournal::open(path).await.unwrap();
        Place::new(journal).await
    });
    settle(criterion, "journal, SQLite", &runtime, &place);
}

/// A local server that waits for its disk, as in production.
fn postgres(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(Postgres::start(Fsync::On)).unwrap();
    let place = runtime.block_on(async {
        let journal = PostgresJournal::open(&server.url("postgres"))
            .await
            .unwrap();
        Place::new(journal).await
    });
    settle(criterion, "journal, PostgreSQL", &runtime, &place);
}

criterion_group!(benches, sqlite, postgres);
criterion_main!(benches);
