//! Quittance, offline: `peer-quittance offline FOLDER one|batch|strangers`.
//!
//! Its facilitator is `quittance serve` itself.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use peers_common::{Candidate, rounds};
use quittance_core::{Clock, SystemClock};
use quittance_engine::{Offline, OfflineVerifier};
use quittance_evm::{Evm, Exact, known};

const NETWORK: &str = "base-sepolia";

/// How requests are handed over.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// One by one.
    One,
    /// All that there are at once.
    Batch,
    /// All at once, to a verifier that has never seen any of the payers.
    Strangers,
}

struct Quittance {
    verifier: OfflineVerifier,
    mode: Mode,
}

impl Candidate for Quittance {
    fn prepare(&mut self) {
        if self.mode == Mode::Strangers {
            self.verifier = verifier().expect("it was made before");
        }
    }

    fn verify(&mut self, bodies: &[Vec<u8>]) -> usize {
        let now = SystemClock.now();
        let count = |bodies: &[Vec<u8>]| {
            let verdicts = self.verifier.verify_bodies(bodies, now);
            verdicts
                .into_iter()
                .filter(|verdict| *verdict == Offline::Holds)
                .count()
        };
        match self.mode {
            Mode::One => bodies.chunks(1).map(count).sum(),
            Mode::Batch | Mode::Strangers => count(bodies),
        }
    }
}

/// A verifier that works on one thread.
fn verifier() -> Result<OfflineVerifier, Box<dyn Error>> {
    let network = known::network(NETWORK).ok_or("the network is not known")?;
    let exact = Exact::offline(network.clone(), known::tokens(network.id()))
        .ok_or("the network has no tokens")?;
    Ok(OfflineVerifier::new(1)?.scheme::<Evm>(network, Arc::new(exact)))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, mode) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["offline", folder, "one"] => (folder, Mode::One),
        ["offline", folder, "batch"] => (folder, Mode::Batch),
        ["offline", folder, "strangers"] => (folder, Mode::Strangers),
        _ => return Err("usage: peer-quittance offline FOLDER one|batch|strangers".into()),
    };
    let verifier = verifier()?;
    Ok(rounds(Path::new(folder), Quittance { verifier, mode })?)
}
