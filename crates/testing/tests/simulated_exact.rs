//! `exact` on the simulated chain has the properties of every scheme.

use quittance_testing::world::SimulatedExactFixture;

quittance_testing::scheme_conformance!(SimulatedExactFixture);
