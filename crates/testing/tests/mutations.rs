//! The conformance suites catch the faults that they are for: each fault is planted in a chain, a
//! scheme, an offer or a payer, and a suite must fail.

use futures_util::StreamExt;
use futures_util::stream;
use quittance_testing::conformance::{Property, chain, ends, scheme};
use quittance_testing::faults::{
    ChainFault, EndsFault, FaultyChainFixture, FaultyEndsFixture, FaultySchemeFixture,
    PlantedFault, SchemeFault, caught_by,
};
use quittance_testing::world::{
    SimulatedChainFixture, SimulatedEndsFixture, SimulatedExactFixture,
};

/// Faults that no suite catches, and why.
const NOT_CAUGHT: &[(PlantedFault, &str)] = &[
    (
        PlantedFault::Chain(ChainFault::NoReplacement),
        "allowed: a chain need not have replacements",
    ),
    (
        PlantedFault::Chain(ChainFault::OneFaultSpoilsAllAnswers),
        "no difference here: no question to the simulated chain can fail alone",
    ),
    (
        PlantedFault::Scheme(SchemeFault::NothingIsMismatch),
        "no payment is lost: the caller gets a less exact reason",
    ),
    (
        PlantedFault::Ends(EndsFault::QuotesTheSellersAsset),
        "no difference here: an asset of the simulated chain has one spelling",
    ),
    (
        PlantedFault::Scheme(SchemeFault::NoBalance),
        "allowed: a scheme need not look at a balance",
    ),
];

/// How many faults are tried at the same time. Each runs an engine.
const AT_ONCE_MAX: usize = 4;

fn all() -> Vec<PlantedFault> {
    let chain = ChainFault::ALL.map(PlantedFault::Chain);
    let scheme = SchemeFault::ALL.map(PlantedFault::Scheme);
    let ends = EndsFault::ALL.map(PlantedFault::Ends);
    chain.into_iter().chain(scheme).chain(ends).collect()
}

/// The properties that can catch a fault. The scheme's suite also runs with the faults of a chain.
fn properties(fault: PlantedFault) -> Vec<Property> {
    let mut chain = chain::properties::<FaultyChainFixture<SimulatedChainFixture>>();
    let scheme = scheme::properties::<FaultySchemeFixture<SimulatedExactFixture>>();
    match fault {
        PlantedFault::Chain(_) => {
            chain.extend(scheme);
            chain
        }
        PlantedFault::Scheme(_) => scheme,
        // The suite of lives has a test of its own.
        PlantedFault::Journal(_) => Vec::new(),
        PlantedFault::Ends(_) => ends::properties::<FaultyEndsFixture<SimulatedEndsFixture>>(),
    }
}

/// First, without a fault, the faulty fixtures pass: otherwise a failure with one would prove
/// nothing. Then nine tenths of all faults are caught, and each other one has a reason.
#[tokio::test(flavor = "multi_thread")]
async fn the_suites_catch_planted_faults() {
    for suite in [
        chain::properties::<FaultyChainFixture<SimulatedChainFixture>>(),
        scheme::properties::<FaultySchemeFixture<SimulatedExactFixture>>(),
        ends::properties::<FaultyEndsFixture<SimulatedEndsFixture>>(),
    ] {
        for property in suite {
            println!("without a fault: {}", property.name);
            (property.run)().await;
        }
    }
    // The failures are expected, and their messages would fill the output.
    std::panic::set_hook(Box::new(|_| {}));
    let all = all();
    let results: Vec<_> = stream::iter(all.clone())
        .map(|fault| {
            tokio::spawn(async move { (fault, caught_by(fault, &properties(fault)).await) })
        })
        .buffer_unordered(AT_ONCE_MAX)
        .collect()
        .await;
    drop(std::panic::take_hook());
    let mut missed = Vec::new();
    for result in results {
        let (fault, caught_by) = result.expect("a task that does not panic");
        println!("{fault:?}: {}", caught_by.unwrap_or("not caught"));
        if caught_by.is_none() {
            missed.push(fault);
        }
    }
    let expected: Vec<PlantedFault> = NOT_CAUGHT.iter().map(|(fault, _)| *fault).collect();
    let unexpected: Vec<_> = missed
        .iter()
        .filter(|one| !expected.contains(one))
        .collect();
    assert!(unexpected.is_empty(), "not caught: {unexpected:?}");
    // Alone, because a property can also fail on a busy machine.
    let mut stale = Vec::new();
    for fault in expected.iter().filter(|one| !missed.contains(one)) {
        stale.extend(caught_by(*fault, &properties(*fault)).await);
    }
    assert!(stale.is_empty(), "caught by now: {stale:?}");
    assert!(all.len() >= 40 && 10 * missed.len() <= all.len());
}
