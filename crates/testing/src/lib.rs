//! A simulated chain and conformance suites, for authors of schemes, chains and journals.
//!
//! * [`world`] is a chain in memory with a scheme on it. It is the example to copy, and the
//!   engine's settlement flow is tested on it. It needs no node and no network.
//! * [`conformance`] has the properties that every scheme, chain and journal must have.
//! * [`faults`] has wrappers that do one thing wrong, to test the suites.
//! * [`flaky`] is a journal whose writes fail on demand, or whose process ends at a certain write.
//! * [`simulator`] runs engines in a world of faults, which all follow from a seed.
//! * [`scripted`] has a facilitator, an offer and a payer that a test scripts, without a chain.
//!
//! This crate is for tests. It panics where a test cannot continue.

pub mod conformance;
pub mod faults;
pub mod flaky;
pub mod scripted;
pub mod simulator;
pub mod world;

use std::path::Path;
use std::time::Duration;

use quittance_core::json::Object;
use quittance_core::wire::{PaymentPayload, PaymentRequirements, Rest};
use quittance_core::{Payer, PaymentRequest, Timestamp};
use quittance_engine::{JournalError, SqliteJournal};

/// Waits until a condition holds.
///
/// # Panics
/// When it does not hold within ten seconds.
pub async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    const WAIT: Duration = Duration::from_secs(10);
    const PAUSE: Duration = Duration::from_millis(10);
    let waited = tokio::time::timeout(WAIT, async {
        while !holds().await {
            tokio::time::sleep(PAUSE).await;
        }
    });
    assert!(
        waited.await.is_ok(),
        "after {WAIT:?}, still not true: {what}"
    );
}

/// Opens a journal when the process before has released it. Its last write may still be in
/// progress.
///
/// # Panics
/// When the journal cannot be opened, or is still locked after five seconds.
pub async fn open_journal(path: &Path) -> SqliteJournal {
    const TRIES: u32 = 500;
    for _ in 0..TRIES {
        match SqliteJournal::open(path).await {
            Ok(journal) => return journal,
            Err(JournalError::Locked { .. }) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the journal is still locked");
}

/// A new payment, as the seller sends it to a facilitator.
///
/// # Panics
/// When the payer does not pay.
pub async fn pay(
    payer: &dyn Payer,
    requirements: &PaymentRequirements,
    now: Timestamp,
) -> PaymentRequest {
    let paid = payer.pay(requirements, None, now).await;
    let paid = paid.expect("the payer pays");
    request(payload_of(requirements, paid.payload), requirements)
}

/// A version 2 payload.
pub fn payload_of(requirements: &PaymentRequirements, payload: Object) -> PaymentPayload {
    PaymentPayload {
        x402_version: 2,
        resource: None,
        accepted: requirements.clone(),
        payload,
        extensions: None,
        rest: Rest::default(),
    }
}

/// The request that a seller makes of a payload and its requirements.
///
/// # Panics
/// When the payload cannot be read.
pub fn request(payload: PaymentPayload, requirements: &PaymentRequirements) -> PaymentRequest {
    PaymentRequest::new(payload, requirements.clone()).expect("a request that can be read")
}
