//! Several processes with one journal: replicas, their leases, and who works on a settlement.

use std::fmt;

use quittance_core::{LaneId, PaymentId};
use uuid::Uuid;

/// One process with a journal, from its start to its end. Each start has a new identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(Uuid);

impl ReplicaId {
    /// The identity of a process that starts now. No other process has it.
    #[expect(
        clippy::new_without_default,
        reason = "each call has another result, which a default must not have"
    )]
    pub fn new() -> Self {
        Self(Uuid::new_v4())
    }

    /// An identity as a journal stores it.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The identity for a journal to store.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of what only one replica may do at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseName(String);

impl LeaseName {
    /// To sign with a lane's signer on a network (CAIP-2).
    pub fn lane(network: &str, lane: &LaneId) -> Self {
        Self(format!("lane {network} {lane}"))
    }

    /// To do what one replica does for a whole network (CAIP-2): to watch settled payments until
    /// they are final, and to ask schemes for their upkeep.
    pub fn duty(network: &str) -> Self {
        Self(format!("duty {network}"))
    }

    /// A name as a journal stores it.
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The name for a journal to store.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a lease's current tenure: from 1, and one more whenever it is acquired. It never
/// falls, so what an earlier tenure signed can be distinguished from what the current one signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(pub u64);

/// A lease that a replica holds. It is over when the membership of its holder is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease {
    /// What only the holder may do.
    pub name: LeaseName,
    /// The replica that holds it.
    pub holder: ReplicaId,
    /// The number of this tenure.
    pub token: FencingToken,
}

/// Who uses a journal at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// The replicas whose membership is not over, in the order of their identities.
    pub replicas: Vec<ReplicaId>,
    /// The leases that these replicas hold, in the order of their names.
    pub leases: Vec<Lease>,
}

/// An open settlement that no replica works on, because one has handed it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandedOver {
    /// The settlement.
    pub id: PaymentId,
    /// The only lane that can send it; `None` if any lane can.
    pub lane: Option<LaneId>,
}
