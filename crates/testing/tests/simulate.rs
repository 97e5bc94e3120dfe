//! Engines in simulated worlds: `make simulate SEEDS=10000` runs as many as one wants.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quittance_testing::simulator::{Mutation, Scenario, Trouble, minimise, simulate};

/// The seeds of the gate.
const SEEDS: u64 = 500;

/// Within this many seeds each planted bug is found.
const FOUND_WITHIN: u64 = 1_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap())
}

/// Says how to see a failure again, with what it needs at least.
fn fail(plan: &Scenario) -> ! {
    let smallest = minimise(plan);
    quittance_testing::conformance::init_tracing();
    let report = simulate(&smallest);
    panic!(
        "replay: SIMULATE_SEED={} cargo test -p quittance-testing --test simulate every_seed\n\
         smallest: {smallest:?}\n{report:#?}",
        plan.seed
    );
}

#[test]
fn every_seed_keeps_the_promises() {
    let began = Instant::now();
    let seeds = match number("SIMULATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATE_SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end - seeds.start;
    let (mut payments, mut time) = (0, Duration::ZERO);
    let mut troubles: BTreeMap<Trouble, u64> = BTreeMap::new();
    for seed in seeds {
        let plan = Scenario::of(seed);
        let report = simulate(&plan);
        if !report.problems.is_empty() {
            fail(&plan);
        }
        payments += report.payments;
        time += report.time;
        for (trouble, times) in report.troubles {
            *troubles.entry(trouble).or_default() += times;
        }
    }
    println!("{count} seeds, {payments} payments, {time:?} simulated");
    println!("faults: {troubles:?}");
    println!("time: {:?}", began.elapsed());
}

/// A settled payment's block was taken back, and its transaction was replaced before that was
/// noticed. The journal did not know that the replacement was its own: the payment counted as lost.
#[test]
fn a_replacement_after_a_reorganisation_is_known() {
    assert_eq!(simulate(&Scenario::of(2103)).problems, [""; 0]);
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        let plan = Scenario::of(seed);
        assert_eq!(simulate(&plan), simulate(&plan), "seed {seed}");
    }
    assert_ne!(
        simulate(&Scenario::of(0)).trace,
        simulate(&Scenario::of(1)).trace
    );
}

/// Bugs that no seed has found yet: see `docs/reliability.md`.
const NOT_FOUND: [Mutation; 4] = [
    Mutation::WinsEveryClaim,
    Mutation::ReusesSequence,
    Mutation::ForgetsSequences,
    Mutation::SignsWithoutLease,
];

/// Each planted bug that the worlds are hostile enough for, for some minutes.
#[test]
#[ignore = "takes minutes"]
fn planted_bugs_are_found() {
    let all = Mutation::ALL.into_iter();
    let found: Vec<Mutation> = all.filter(|bug| !NOT_FOUND.contains(bug)).collect();
    assert_found(&found);
}

#[test]
fn planted_bugs_of_the_gate_are_found() {
    assert_found(&[
        Mutation::ForgetsClaims,
        Mutation::ReportsTwice,
        Mutation::DropsIds,
        Mutation::ForgetsRecords,
        Mutation::ListsNothingOpen,
        Mutation::TakesFromLivingOwners,
    ]);
}

fn assert_found(mutations: &[Mutation]) {
    let mut missed = Vec::new();
    for &mutation in mutations {
        let within = number("SIMULATE_WITHIN").unwrap_or(FOUND_WITHIN);
        let found = (0..within).find(|seed| {
            let plan = Scenario {
                mutation: Some(mutation),
                ..Scenario::of(*seed)
            };
            // A seed that fails without the bug does not find it.
            !simulate(&plan).problems.is_empty()
                && simulate(&Scenario::of(*seed)).problems.is_empty()
        });
        println!("{mutation:?}: {found:?}");
        missed.extend(found.is_none().then_some(mutation));
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
