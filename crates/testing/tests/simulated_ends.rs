//! The offers and the payer of the simulated chain have the properties of the two ends, in every
//! payment flow.

use quittance_core::Flow;
use quittance_testing::world::SimulatedEndsFixture;

quittance_testing::offer_and_payer_conformance!(SimulatedEndsFixture);

mod upfront {
    use super::SimulatedEndsFixture;
    quittance_testing::offer_and_payer_conformance!(SimulatedEndsFixture<1>);
}

mod escrow {
    use super::SimulatedEndsFixture;
    quittance_testing::offer_and_payer_conformance!(SimulatedEndsFixture<2>);
}

#[test]
fn every_flow_has_a_fixture() {
    assert_eq!(
        Flow::ALL,
        [Flow::Authorization, Flow::Upfront, Flow::Escrow]
    );
}
