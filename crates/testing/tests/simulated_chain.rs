//! The simulated chain has the properties of every chain.

use quittance_testing::world::SimulatedChainFixture;

quittance_testing::chain_conformance!(SimulatedChainFixture);
