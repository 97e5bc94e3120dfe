//! The memory that verifying many payments at once takes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use peak_alloc::PeakAlloc;
use quittance_core::{Clock, SystemClock};
use quittance_engine::{Offline, OfflineVerifier};
use quittance_evm::{Evm, Exact, known};
use quittance_tests::evm::Setting;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The memory that a batch may take beyond its own bytes.
const LIMIT: usize = 16 << 20;

#[tokio::test]
async fn a_batch_of_4096_payments_takes_no_more_than_16_mib() {
    let mut bodies = Vec::new();
    for _ in 0..64 {
        bodies.push(Setting::request().await.text().to_owned());
    }
    let network = known::network("base-sepolia").unwrap();
    let exact = Exact::offline(network.clone(), known::tokens(network.id())).unwrap();
    let verifier = OfflineVerifier::new(2).unwrap();
    let verifier = verifier.scheme::<Evm>(network, Arc::new(exact));
    let now = SystemClock.now();
    // Memory that is kept from batch to batch is not a part of one.
    verifier.verify_bodies(&bodies, now);

    let batch: Vec<&String> = bodies.iter().cycle().take(4096).collect();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let verdicts = verifier.verify_bodies(&batch, now);
    let taken = MEMORY.peak_usage() - before;
    assert!(
        verdicts
            .iter()
            .all(|verdict| matches!(verdict, Offline::Holds))
    );
    assert!(taken <= LIMIT, "{taken} bytes");
    println!("{} KiB for {} payments", taken >> 10, batch.len());
}
