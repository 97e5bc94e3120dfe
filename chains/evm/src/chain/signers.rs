//! The signers of a chain: one lane each.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use alloy::primitives::Address;
use quittance_core::{Fault, FaultKind, LaneId};

use super::config::{EvmConfigError, Signer};

/// The signers in order of preference, and which of them can pay for transactions.
#[derive(Debug)]
pub(crate) struct Signers {
    signers: Vec<SignerLane>,
    lanes: Vec<LaneId>,
    /// The turn of the next simulation.
    next: AtomicUsize,
}

struct SignerLane {
    signer: Signer,
    /// Whether the last health check found enough balance.
    funded: AtomicBool,
}

impl Signers {
    pub(super) fn new(signers: &[Signer]) -> Result<Self, EvmConfigError> {
        let addresses: Vec<Address> = signers.iter().map(|signer| signer.address()).collect();
        if addresses.is_empty() {
            return Err(EvmConfigError::NoSigner);
        }
        for (at, address) in addresses.iter().enumerate() {
            if addresses[..at].contains(address) {
                return Err(EvmConfigError::SignerTwice(*address));
            }
        }
        let lane = |signer: &Signer| SignerLane {
            signer: signer.clone(),
            funded: AtomicBool::new(true),
        };
        Ok(Self {
            signers: signers.iter().map(lane).collect(),
            lanes: addresses
                .iter()
                .map(|address| LaneId::new(&address.to_checksum(None)))
                .collect(),
            next: AtomicUsize::new(0),
        })
    }

    pub(super) fn lanes(&self) -> &[LaneId] {
        &self.lanes
    }

    /// The signer of this lane.
    pub(super) fn signer(&self, lane: &LaneId) -> Result<&Signer, Fault> {
        let at = self.lanes.iter().position(|known| known == lane);
        at.map(|at| &self.signers[at].signer).ok_or_else(|| {
            let detail = format_args!("no signer is configured for {lane}");
            Fault::new(FaultKind::Misconfigured, detail)
        })
    }

    /// The lane of the signer with this address.
    pub(crate) fn lane_of(&self, address: Address) -> Option<&LaneId> {
        let mut addresses = self.addresses();
        let (lane, _) = addresses.find(|(_, signer)| *signer == address)?;
        Some(lane)
    }

    /// Each lane with the address of its signer.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&LaneId, Address)> {
        let addresses = self.signers.iter().map(|lane| lane.signer.address());
        self.lanes.iter().zip(addresses)
    }

    pub(super) fn set_funded(&self, lane: &LaneId, funded: bool) {
        if let Some(at) = self.lanes.iter().position(|known| known == lane) {
            self.signers[at].funded.store(funded, Ordering::Relaxed);
        }
    }

    /// A funded lane, each in turn. Any lane if none is funded.
    pub(crate) fn next_funded(&self) -> (&LaneId, Address) {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.lanes.len();
        let in_turn = (0..count).map(|step| start.wrapping_add(step) % count);
        let mut funded = in_turn.filter(|at| self.signers[*at].funded.load(Ordering::Relaxed));
        let at = funded.next().unwrap_or(start % count);
        (&self.lanes[at], self.signers[at].signer.address())
    }
}

impl std::fmt::Debug for SignerLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignerLane({})", self.signer.address())
    }
}
