//! Vouchers per second of a seller that keeps them, in process and over HTTP. Each is verified,
//! charged and durable before the next one of its channel comes.
//!
//! `cargo bench -p quittance-benches --bench channels`, or a part of it: `... -- HTTP`.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that cannot go on stops"
)]

mod http;
mod seller;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

use self::http::Shop;
use self::seller::{How, Seller};

/// How many vouchers of each channel are measured together.
const VOUCHERS: usize = 4;

/// The first voucher of a channel asks the facilitator. Frequent keys get a table later.
const FIRST_VOUCHERS: usize = 40;

fn in_process(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("vouchers");
    group.sample_size(10);
    for channels in [1, 16, 256, 2048] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("channels.db");
        let mut seller = runtime.block_on(Seller::open(&file, channels));
        runtime.block_on(seller.serve(FIRST_VOUCHERS, How::Settled));
        group.throughput(Throughput::Elements((channels * VOUCHERS) as u64));
        for (name, how) in [("settled", How::Settled), ("sold", How::Sold)] {
            let id = BenchmarkId::new(name, format!("{channels} channels"));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|rounds| {
                    let all = (0..rounds).map(|_| runtime.block_on(seller.serve(VOUCHERS, how)));
                    all.sum()
                });
            });
        }
    }
}

/// Sales over HTTP, each channel by a connection of its own. Then the same requests come evenly at
/// half that rate, for the time that a voucher adds to a request.
fn over_http(criterion: &mut Criterion) {
    const CHANNELS: usize = 256;
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("channels.db");
    let mut shop = runtime.block_on(Shop::open(&file, CHANNELS));
    runtime.block_on(shop.sell(FIRST_VOUCHERS));
    let mut group = criterion.benchmark_group("vouchers, HTTP");
    group.sample_size(10);
    group.throughput(Throughput::Elements((CHANNELS * VOUCHERS) as u64));
    let mut fastest = f64::MAX;
    for (name, is_paid) in [("free", false), ("sold", true)] {
        let id = BenchmarkId::new(name, format!("{CHANNELS} channels"));
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|rounds| {
                let round = |_| match is_paid {
                    true => runtime.block_on(shop.sell(VOUCHERS)),
                    false => runtime.block_on(shop.give(VOUCHERS)),
                };
                let all = (0..rounds).map(round).sum();
                if is_paid {
                    fastest = fastest.min(seconds_each(all, rounds));
                }
                all
            });
        });
    }
    group.finish();
    // A filter may have left out the measurement.
    if fastest < f64::MAX {
        runtime.block_on(shop.report_latency(2.0 * fastest / VOUCHERS as f64));
    }
}

/// The time for a round, in seconds.
fn seconds_each(all: std::time::Duration, rounds: u64) -> f64 {
    all.as_secs_f64() / rounds as f64
}

criterion_group!(benches, in_process, over_http);
criterion_main!(benches);
