//! Plants faults in real chains and schemes, and checks that their suites catch them.

use std::collections::BTreeMap;

use quittance_testing::conformance::Property;
use quittance_testing::faults::{PlantedFault, SchemeFault, caught_by};

/// Faults in a scheme `exact` that its suite does not catch, with the reasons.
pub const NOT_CAUGHT_IN_EXACT: [(PlantedFault, &str); 2] = [
    (
        PlantedFault::Scheme(SchemeFault::NothingIsMismatch),
        "no payment is lost: the caller gets a less exact reason",
    ),
    (
        PlantedFault::Scheme(SchemeFault::NoBalance),
        "allowed: a scheme need not read a balance",
    ),
];

/// Begins the reason of a fault that changes nothing about a chain or scheme, so it is none there.
pub const NO_DIFFERENCE: &str = "no difference here";

/// Runs the properties without a fault, and then with each fault, one after the other.
///
/// `not_caught` are the faults that no property catches here, each with the reason.
///
/// # Panics
/// When a property fails without a fault, when more than a tenth of the faults is not caught, or
/// when `not_caught` does not match.
pub async fn assert_caught(
    properties: &[Property],
    faults: impl IntoIterator<Item = PlantedFault>,
    not_caught: &[(PlantedFault, &str)],
) {
    for property in properties {
        println!("without a fault: {}", property.name);
        (property.run)().await;
    }
    // The failures are expected, and their messages would fill the output.
    std::panic::set_hook(Box::new(|_| {}));
    let mut results = BTreeMap::new();
    for fault in faults {
        let caught = caught_by(fault, properties).await;
        println!("{fault:?}: {}", caught.unwrap_or("not caught"));
        results.insert(format!("{fault:?}"), caught);
    }
    drop(std::panic::take_hook());
    let missed: Vec<_> = results
        .iter()
        .filter(|(_, caught)| caught.is_none())
        .collect();
    let missed: Vec<&String> = missed.into_iter().map(|(fault, _)| fault).collect();
    let mut expected: Vec<String> = not_caught
        .iter()
        .map(|(fault, _)| format!("{fault:?}"))
        .collect();
    expected.sort_unstable();
    assert!(
        missed.iter().copied().eq(&expected),
        "not caught: {missed:?}"
    );
    let is_none = |(_, reason): &&(PlantedFault, &str)| reason.starts_with(NO_DIFFERENCE);
    let none = not_caught.iter().filter(is_none).count();
    let (missed, all) = (missed.len() - none, results.len() - none);
    assert!(10 * missed <= all, "{missed} of {all}");
}
