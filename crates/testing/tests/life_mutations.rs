//! The suite of lives catches the faults that it is for: each is planted in a scheme or a journal,
//! and a property must fail.

use futures_util::{StreamExt, stream};
use quittance_testing::conformance::Property;
use quittance_testing::conformance::life::{self, OneAct};
use quittance_testing::faults::{
    FaultyLifeFixture, JournalFault, PlantedFault, SchemeFault, caught_by,
};
use quittance_testing::world::{
    SimulatedChannelLives, SimulatedExactFixture, SimulatedSponsoredLives, SimulatedUptoLives,
};

/// Faults that every scheme can have, and that show in lives too.
const OF_ALL_SCHEMES: [SchemeFault; 4] = [
    SchemeFault::IdentityOfThePayer,
    SchemeFault::IdentityOfTheRequest,
    SchemeFault::IdentityByCount,
    SchemeFault::NeverTransferred,
];

/// Faults that the suite does not catch, and why.
const NOT_CAUGHT: &[(PlantedFault, &str)] = &[(
    PlantedFault::Journal(JournalFault::WinsEveryClaim),
    "the engine itself starts an authorization once: only two processes with one journal differ",
)];

/// How many faults are tried at the same time. Each runs an engine.
const AT_ONCE_MAX: usize = 8;

fn all() -> Vec<PlantedFault> {
    let scheme = SchemeFault::OF_LIVES.into_iter().chain(OF_ALL_SCHEMES);
    let journal = JournalFault::ALL.map(PlantedFault::Journal);
    scheme.map(PlantedFault::Scheme).chain(journal).collect()
}

fn exact() -> Vec<Property> {
    life::properties::<FaultyLifeFixture<OneAct<SimulatedExactFixture>>>()
}

fn upto() -> Vec<Property> {
    life::properties::<FaultyLifeFixture<SimulatedUptoLives>>()
}

fn sponsored() -> Vec<Property> {
    life::properties::<FaultyLifeFixture<SimulatedSponsoredLives>>()
}

fn channels() -> Vec<Property> {
    life::properties::<FaultyLifeFixture<SimulatedChannelLives>>()
}

/// The lives that can show a fault.
fn properties(fault: PlantedFault) -> Vec<Property> {
    match fault {
        PlantedFault::Scheme(SchemeFault::RepeatsSteps)
        | PlantedFault::Journal(JournalFault::ForgetsSteps) => sponsored(),
        PlantedFault::Scheme(SchemeFault::IdentityOfTheRequest) => upto(),
        PlantedFault::Scheme(
            SchemeFault::IdentityByCount
            | SchemeFault::NeverTransferred
            | SchemeFault::SettlesForNothing,
        )
        | PlantedFault::Journal(
            JournalFault::WinsEveryClaim
            | JournalFault::ForgetsRecords
            | JournalFault::ForgetsConclusions
            | JournalFault::ReportsSuccessAgain
            | JournalFault::ReportsNoSuccess
            | JournalFault::ListsNothingOpen,
        ) => exact(),
        _ => channels(),
    }
}

/// First, without a fault, the faulty fixtures pass the properties without crashes, and their inner
/// fixtures pass all of them elsewhere: otherwise a failure with a fault would prove nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_lives_catches_planted_faults() {
    let suites = [exact(), upto(), sponsored(), channels()];
    for property in suites.into_iter().flatten() {
        if !property.name.contains("crash") {
            println!("without a fault: {}", property.name);
            (property.run)().await;
        }
    }
    // The failures are expected, and their messages would fill the output.
    std::panic::set_hook(Box::new(|_| {}));
    let results: Vec<_> = stream::iter(all())
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
    assert_eq!(missed, expected, "not caught");
}
