//! Faults to plant in a chain, a scheme, a journal, an offer or a payer, one at a time.
//!
//! They show what a conformance suite is worth: a suite that passes with a fault in place does not
//! test for it. The wrappers work with any chain and scheme, so that authors can try their own
//! fixtures.

mod chain;
mod ends;
mod fixtures;
mod journal;
mod scheme;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;

use crate::conformance::Property;

pub use crate::conformance::scheme::EngineParts;
pub use chain::{ChainFault, FaultyChain};
pub use ends::{EndsFault, FaultyOffer, FaultyPayer};
pub use fixtures::{FaultyChainFixture, FaultyEndsFixture, FaultyLifeFixture, FaultySchemeFixture};
pub use journal::{FaultyJournal, JournalFault};
pub use scheme::{FaultyScheme, SchemeFault};

/// A fault in one of the parts that the suites test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedFault {
    /// In the chain.
    Chain(ChainFault),
    /// In the scheme.
    Scheme(SchemeFault),
    /// In the journal.
    Journal(JournalFault),
    /// In the offer or the payer.
    Ends(EndsFault),
}

tokio::task_local! {
    /// The fault that the faulty fixtures of this task plant.
    static PLANTED: PlantedFault;
}

fn planted() -> Option<PlantedFault> {
    PLANTED.try_with(|fault| *fault).ok()
}

/// Runs properties with a fault planted in their faulty fixtures, until one fails.
///
/// The name of the property that failed; `None` when all passed.
pub async fn caught_by(fault: PlantedFault, properties: &[Property]) -> Option<&'static str> {
    // Longer than any property takes. A property that hangs has found something, too.
    const TIME_MAX: Duration = Duration::from_secs(60);
    for property in properties {
        let run = AssertUnwindSafe((property.run)()).catch_unwind();
        let result = tokio::time::timeout(TIME_MAX, PLANTED.scope(fault, run)).await;
        if !matches!(result, Ok(Ok(()))) {
            return Some(property.name);
        }
    }
    None
}
