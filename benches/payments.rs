//! What payments cost: every case of `quittance bench`, the service under load, and settling on
//! both kinds of chains.
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
use quittance_devnet::{Evm as Local, Mining};
use quittance_engine::{Engine, EngineBuilder};
use quittance_evm::ExactPayer;
use quittance_solana::TokenProgram;
use quittance_tests::evm::Setting as Evm;
use quittance_tests::solana::Setting;
use tokio::runtime::Runtime;

/// Payments per second offline.
fn offline(criterion: &mut Criterion) {
    let cases = Runtime::new()
        .unwrap()
        .block_on(quittance_cli::families::Families::shipped().benchmarks());
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

/// Payments settled per second on a local Solana cluster with blocks every 400 milliseconds, as on
/// mainnet, all handed in at once and paid for by one fee payer.
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

/// Payments settled per second on a local EVM chain with a block every two seconds, as on Base, all
/// handed in at once and sent by one signer. One payer who pays one seller one price is what an
/// agent does all day.
fn settle_evm(criterion: &mut Criterion) {
    const BLOCK: Duration = Duration::from_secs(2);
    const PAYMENTS: u64 = 200;
    let runtime = Runtime::new().unwrap();
    let (setting, engine) = runtime.block_on(async {
        let setting = Evm::with_mining(Mining::Every(BLOCK)).await;
        let change = |builder: EngineBuilder| builder.settle_wait(Duration::from_secs(60));
        let engine = setting.engine_with(setting.config(), change).await;
        (setting, engine)
    });
    let mut group = criterion.benchmark_group("settle on EVM, 200 at once");
    group.sample_size(10);
    group.throughput(Throughput::Elements(PAYMENTS));
    for (name, payers, prices) in [
        ("one payer, one price", 1, 1),
        ("one payer, each another price", 1, PAYMENTS),
        ("6 payers, one price", 6, 1),
    ] {
        let mut settled = 0;
        let before = runtime.block_on(setting.sent(Evm::signers()[0].address));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_custom(|rounds| {
                settled += rounds * PAYMENTS;
                let all = (0..rounds).map(|_| {
                    let requests = runtime.block_on(evm_requests(PAYMENTS, payers, prices));
                    runtime.block_on(settle_all(&engine, &requests))
                });
                all.sum()
            });
        });
        let sent = runtime.block_on(setting.sent(Evm::signers()[0].address)) - before;
        println!("{name}: {settled} payments in {sent} transactions");
    }
}

/// So many payments, by so many payers in turn, at so many prices in turn.
async fn evm_requests(count: u64, payers: usize, prices: u64) -> Vec<PaymentRequest> {
    // The first two development accounts sign and sell, and the last ones sign and mint.
    let accounts: Vec<_> = Local::accounts().into_iter().skip(2).take(6).collect();
    let mut requests = Vec::new();
    for at in 0..count {
        let signer = accounts[at as usize % payers].signer.clone();
        let mut requirements = Evm::requirements();
        requirements.amount = (1000 + at % prices).to_string();
        requests.push(quittance_tests::pay(&ExactPayer::new(signer), &requirements).await);
    }
    requests
}

async fn settle_all(engine: &Engine, requests: &[PaymentRequest]) -> Duration {
    let began = Instant::now();
    let answers = join_all(requests.iter().map(|request| engine.settle(request))).await;
    let took = began.elapsed();
    let settled = |answer: &Result<SettleResponse, _>| answer.as_ref().is_ok_and(|it| it.success);
    assert!(answers.iter().all(settled), "a payment was not settled");
    took
}

criterion_group!(benches, offline, service, settle, settle_evm);
criterion_main!(benches);
