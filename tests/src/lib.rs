//! The harness: local chains, nodes that misbehave on demand, and the conformance suites that every scheme and every
//! chain runs.

pub mod conformance;
pub mod contracts;
pub mod engine;
pub mod evm;
pub mod flaky;
pub mod proxy;
pub mod solana;
pub mod wallet;
pub mod wrapped;

use std::path::Path;
use std::time::Duration;

use quittance_core::wire::{PaymentPayload, PaymentRequirements, Rest};
use quittance_core::{Clock, Payer, PaymentRequest, SystemClock};
use quittance_engine::{JournalError, SqliteJournal};

/// Waits until something holds; panics when it does not within ten seconds.
pub async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    const WAIT: Duration = Duration::from_secs(10);
    let waited = tokio::time::timeout(WAIT, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain until {what}");
}

/// Opens a journal once the process before has released it. Its last write may still be in progress.
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
    panic!("the journal is still held");
}

/// The request a seller makes of a new payment for its requirements.
pub async fn pay(payer: &dyn Payer, requirements: &PaymentRequirements) -> PaymentRequest {
    let (payload, _) = payer
        .pay(requirements, SystemClock.now())
        .await
        .expect("the payer pays");
    request(payload_of(requirements, payload), requirements)
}

/// A version 2 payload.
pub fn payload_of(
    requirements: &PaymentRequirements,
    payload: quittance_core::json::Object,
) -> PaymentPayload {
    PaymentPayload {
        x402_version: 2,
        resource: None,
        accepted: requirements.clone(),
        payload,
        extensions: None,
        rest: Rest::default(),
    }
}

/// The request a seller makes of a payload and its requirements.
pub fn request(payload: PaymentPayload, requirements: &PaymentRequirements) -> PaymentRequest {
    PaymentRequest::new(payload, requirements.clone()).expect("a request that can be read")
}
