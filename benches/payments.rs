//! What payments cost: every case of `quittance bench`, the service under load, and settling on Solana.
//!
//! `cargo bench -p quittance-benches`, or a part of it: `... -- service`.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that cannot go on stops"
)]

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use quittance_benches::Service;
use quittance_core::wire::SettleResponse;
use quittance_core::{Facilitator, PaymentRequest};
use quittance_engine::Engine;
use quittance_solana::TokenProgram;
use quittance_tests::solana::Setting;
use tokio::runtime::Runtime;

/// Payments per second offline.
fn offline(criterion: &mut Criterion) {
    let cases = Runtime::new()
        .unwrap()
        .block_on(quittance_facilitator::bench::cases());
    let mut group = criterion.benchmark_group("offline");
    group.sample_size(10);
    for mut case in cases.unwrap() {
        group.throughput(Throughput::Elements(case.payments as u64));
        let id = BenchmarkId::new(&case.name, format!("{} threads", case.threads));
        group.bench_function(id, |bencher| bencher.iter(|| case.run()));
    }
}

/// Requests per second to a facilitator that shares this machine with its chain and with who asks.
fn service(criterion: &mut Criterion) {
    const PAYMENTS: usize = 512;
    let runtime = Runtime::new().unwrap();
    let service = runtime.block_on(Service::start(PAYMENTS));
    let mut group = criterion.benchmark_group("service");
    group.sample_size(10);
    group.throughput(Throughput::Elements(service.payments() as u64));
    for in_flight in [1, 16, 128] {
        let id = BenchmarkId::new("verify, in flight", in_flight);
        group.bench_function(id, |bencher| {
            bencher.iter(|| runtime.block_on(service.verify_all(in_flight)))
        });
    }
}

/// Payments settled per second on a local Solana cluster with blocks every 400 milliseconds, as on mainnet, all handed in at once and
/// paid for by one fee payer.
fn settle(criterion: &mut Criterion) {
    const SLOT: Duration = Duration::from_millis(400);
    let runtime = Runtime::new().unwrap();
    let (setting, engine) = runtime.block_on(async {
        let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
        let engine = setting.engine(Duration::from_secs(60)).await;
        (setting, engine)
    });
    let mut group = criterion.benchmark_group("settle on Solana, at once");
    group.sample_size(10);
    for payments in [1, 100, 500] {
        group.throughput(Throughput::Elements(payments as u64));
        group.bench_function(BenchmarkId::from_parameter(payments), |bencher| {
            bencher.iter_custom(|rounds| {
                let all = (0..rounds).map(|_| {
                    let requests = runtime.block_on(setting.requests(payments));
                    runtime.block_on(settle_all(&engine, &requests))
                });
                all.sum()
            });
        });
    }
}

async fn settle_all(engine: &Engine, requests: &[PaymentRequest]) -> Duration {
    let began = Instant::now();
    let answers = join_all(requests.iter().map(|request| engine.settle(request))).await;
    let took = began.elapsed();
    let settled = |answer: &Result<SettleResponse, _>| answer.as_ref().is_ok_and(|it| it.success);
    assert!(answers.iter().all(settled), "a payment was not settled");
    took
}

criterion_group!(benches, offline, service, settle);
criterion_main!(benches);
