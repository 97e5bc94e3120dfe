//! What payments cost: every case of `quittance bench`, and the service under load.
//!
//! `cargo bench -p quittance-benches`, or a part of it: `... -- service`.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that cannot go on stops"
)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quittance_benches::Service;
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

criterion_group!(benches, offline, service);
criterion_main!(benches);
