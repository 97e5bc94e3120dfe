//! The offer and the payer of the simulated chain have the properties of the two ends.

use quittance_testing::world::SimulatedEndsFixture;

quittance_testing::offer_and_payer_conformance!(SimulatedEndsFixture);
