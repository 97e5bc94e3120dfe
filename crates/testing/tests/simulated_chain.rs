//! The simulated chain has the properties of every chain.

use quittance_testing::world::SimulatedChainFixture;

quittance_testing::chain_conformance!(SimulatedChainFixture);

/// Payers sign and send whole transactions, and the facilitator has no signer.
mod without_signers {
    use super::SimulatedChainFixture;

    quittance_testing::chain_conformance!(SimulatedChainFixture<0>);
}
