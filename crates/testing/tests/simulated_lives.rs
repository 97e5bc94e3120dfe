//! The acts of every scheme on the simulated chain follow and exclude each other, whatever happens
//! meanwhile.

use quittance_testing::conformance::life::OneAct;
use quittance_testing::world::{
    SimulatedChannelLives, SimulatedExactFixture, SimulatedSponsoredLives, SimulatedUptoLives,
};

mod exact {
    use super::{OneAct, SimulatedExactFixture};
    quittance_testing::life_conformance!(OneAct<SimulatedExactFixture>);
}

mod upto {
    use super::SimulatedUptoLives;
    quittance_testing::life_conformance!(SimulatedUptoLives);
}

mod sponsored {
    use super::SimulatedSponsoredLives;
    quittance_testing::life_conformance!(SimulatedSponsoredLives);
}

mod channels {
    use super::SimulatedChannelLives;
    quittance_testing::life_conformance!(SimulatedChannelLives);
}
