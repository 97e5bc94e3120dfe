//! Chaos with the real program: facilitators, two chains and a database, of which something is
//! broken most of the time. Clients pay, race, repeat and go away meanwhile. Then everything is
//! mended, and a judge compares every answer that a client got with the two chains.
//!
//! `make chaos MINUTES=60` runs it for an hour. `CHAOS_SEED` repeats the choices of an
//! earlier run; the processes still take turns as they like.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod clients;
mod faults;
mod judge;
mod stage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clients::Clients;
use crate::faults::Tally;
use crate::stage::{Backing, Stage};

/// How long the payments may take to end after the last fault: a stuck transaction is replaced
/// after half a minute, and a sweep comes every quarter of one.
const MENDED_WAIT: Duration = Duration::from_secs(180);

/// One run, from the first payment to the verdict of the judge.
async fn run(backing: Backing, lasts: Duration) {
    let seed = std::env::var("CHAOS_SEED")
        .ok()
        .map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("CHAOS_SEED={seed}, {backing:?}, {lasts:?}");
    let stage = Arc::new(Stage::start(backing).await);
    let clients = Clients::start(&stage, seed).await;
    let tally = faults::cause(&stage, seed, lasts).await;
    stage.mend().await;
    let mended = Instant::now();
    let records = clients.finish(MENDED_WAIT).await;
    println!(
        "all clients had an answer {:.1?} after the end of the faults",
        mended.elapsed()
    );
    report(&tally, &judge::judge(&stage, &records).await);
}

fn report(tally: &Tally, verdict: &judge::Verdict) {
    println!("faults: {tally}");
    println!("{verdict}");
    assert!(verdict.violations.is_empty(), "{:#?}", verdict.violations);
}

/// The length of a run outside the gate.
fn minutes() -> Duration {
    let minutes = std::env::var("CHAOS_MINUTES");
    let minutes: u64 = minutes.map_or(10, |minutes| minutes.parse().unwrap());
    Duration::from_secs(60 * minutes)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes as long as one wants: make chaos MINUTES=60"]
async fn one_facilitator_loses_and_doubles_nothing() {
    run(Backing::Sqlite, minutes()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes as long as one wants: make chaos MINUTES=60"]
async fn two_facilitators_lose_and_double_nothing() {
    run(Backing::Postgres, minutes()).await;
}
