//! Plants faults in real chains and schemes, and checks that their suites catch them.

use std::collections::BTreeMap;

use quittance_testing::conformance::Property;
use quittance_testing::faults::{PlantedFault, SchemeFault, caught_by};

/// Why no property catches a fault.
#[derive(Debug, Clone, Copy)]
pub enum NotCaught {
    /// The fault changes nothing about this chain or scheme, so it is none here. With the reason.
    NoDifference(&'static str),
    /// The suite does not show the fault. With the reason why it need not.
    Gap(&'static str),
}

/// Faults in a scheme `exact` that its suite does not catch.
pub const NOT_CAUGHT_IN_EXACT: [(PlantedFault, NotCaught); 2] = [
    (
        PlantedFault::Scheme(SchemeFault::NothingIsMismatch),
        NotCaught::Gap("no payment is lost: the caller gets a less exact reason"),
    ),
    (
        PlantedFault::Scheme(SchemeFault::NoBalance),
        NotCaught::Gap("allowed: a scheme need not read a balance"),
    ),
];

/// Runs the properties without a fault, and then with each fault, one after the other.
///
/// `not_caught` are the faults that no property catches here.
///
/// # Panics
/// When a property fails without a fault, when the faults that no property catches are not those of
/// `not_caught`, or when they are more than a tenth of all faults. Faults without a difference do
/// not count in either number.
pub async fn assert_caught(
    properties: &[Property],
    faults: impl IntoIterator<Item = PlantedFault>,
    not_caught: &[(PlantedFault, NotCaught)],
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
    let is_none = |(_, why): &&(PlantedFault, NotCaught)| matches!(why, NotCaught::NoDifference(_));
    let none = not_caught.iter().filter(is_none).count();
    let (missed, all) = (missed.len() - none, results.len() - none);
    assert!(10 * missed <= all, "{missed} of {all}");
}
