//! `exact` on the simulated chain has the properties of every scheme.

use quittance_testing::world::SimulatedExactFixture;

quittance_testing::scheme_conformance!(SimulatedExactFixture);

/// Payers sign and send whole transactions, and the facilitator has no signer.
mod without_signers {
    use super::SimulatedExactFixture;

    quittance_testing::scheme_conformance!(SimulatedExactFixture<true>);
}
