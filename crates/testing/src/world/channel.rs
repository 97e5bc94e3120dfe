//! A scheme on the simulated chain whose payments share a state record.

use quittance_core::{
    Amount, Check, Effect, Network, Observed, Payment, PaymentId, PaymentInfo, PaymentRequest,
    Plan, Reason, Refusal, Rejection, Scheme, SchemeReceipt, SchemeState, SignatureClaim,
    StateAccess, StateChange, StateId, Timestamp,
};
use serde::{Deserialize, Serialize};

use super::address::Address;
use super::chain::{Evidence, Search, SimulatedChain};
use super::exact::SimulatedExact;
use super::transaction::{Authorization, Transfer};

/// Another payment of the channel is in progress.
const BUSY: Reason = Reason::new("invalid_channel_simulated_busy");

/// The channel is not open, or is closed, or is charged already.
const STATE: Reason = Reason::new("invalid_channel_simulated_state");

/// What a payment does to its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Deed {
    /// Pays the seller in advance, which opens the channel.
    Deposit,
    /// Charges the price off chain, once.
    Voucher,
    /// Closes the channel: pays the seller what is left.
    Claim,
    /// Closes the channel: pays the seller for its trouble.
    Cancel,
}

/// A deed as it is signed: in the nonce of an authorization, because the simulated chain has no
/// contracts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Signed {
    pub(super) channel: u64,
    pub(super) deed: Deed,
    /// Makes it different from others of the same deed.
    pub(super) variant: u8,
}

impl Signed {
    pub(super) fn nonce(self) -> [u8; 32] {
        let kind = match self.deed {
            Deed::Deposit => 1,
            Deed::Voucher => 2,
            Deed::Claim => 3,
            Deed::Cancel => 4,
        };
        let mut nonce = [0; 32];
        nonce[..2].copy_from_slice(&[kind, self.variant]);
        nonce[24..].copy_from_slice(&self.channel.to_be_bytes());
        nonce
    }

    pub(super) fn read(authorization: &Authorization) -> Result<Self, Rejection> {
        let nonce = &authorization.nonce;
        let deed = match nonce[0] {
            1 => Deed::Deposit,
            2 => Deed::Voucher,
            3 => Deed::Claim,
            4 => Deed::Cancel,
            _ => return Err(Rejection::new(Reason::INVALID_PAYLOAD, "an unknown deed")),
        };
        let mut channel = [0; 8];
        channel.copy_from_slice(&nonce[24..]);
        Ok(Self {
            channel: u64::from_be_bytes(channel),
            deed,
            variant: nonce[1],
        })
    }

    /// The state record of the channel.
    pub(super) fn record(self, network: &Network, payer: &Address) -> StateId {
        StateId::from_parts(&[
            network.id().as_bytes(),
            &payer.0,
            &self.channel.to_be_bytes(),
        ])
    }

    /// A payer that signs twice to close a channel closes it once. A voucher's identity is only for
    /// holds and logs, because its record excludes it from then on.
    fn id(self, network: &Network, payer: &Address, authorization: PaymentId) -> PaymentId {
        let closes = match self.deed {
            Deed::Deposit | Deed::Voucher => return authorization,
            Deed::Claim => &b"claim"[..],
            Deed::Cancel => b"cancel",
        };
        let record = self.record(network, payer);
        PaymentId::from_parts(&[record.as_bytes(), closes])
    }
}

/// The content of a channel's record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Channel {
    /// All that was done, in its order.
    pub(super) done: Vec<Signed>,
}

impl Channel {
    pub(super) fn read(state: Option<&SchemeState>) -> Self {
        let read = |state: &SchemeState| serde_json::from_slice(&state.state);
        state.map_or_else(Self::default, |state| read(state).expect("our own format"))
    }

    /// Whether a deed is possible now.
    ///
    /// The journal excludes a deed with a transaction from being done again. After a reorganisation
    /// such a deed may be in the record already.
    fn check(&self, signed: Signed) -> Result<(), Rejection> {
        let others = || self.done.iter().filter(|one| **one != signed);
        let is_open = others().any(|one| one.deed == Deed::Deposit);
        let closes = |one: &Signed| matches!(one.deed, Deed::Claim | Deed::Cancel);
        let is_closed = others().any(closes);
        let problem = match signed.deed {
            _ if is_closed => "the channel is closed",
            Deed::Deposit if is_open => "the channel is open already",
            Deed::Deposit => return Ok(()),
            _ if !is_open => "the channel is not open",
            Deed::Voucher if self.done.iter().any(|one| one.deed == Deed::Voucher) => {
                "the channel is charged already"
            }
            _ => return Ok(()),
        };
        Err(Rejection::new(STATE, problem))
    }
}

/// Channels: a deposit opens one, a voucher charges it off chain, and a claim or a cancellation
/// closes it. On the chain, nothing but the channel's record excludes the second closing.
pub struct SimulatedChannels {
    network: Network,
    exact: SimulatedExact,
}

impl SimulatedChannels {
    /// The scheme on this chain.
    pub fn new(chain: &SimulatedChain) -> Self {
        Self {
            network: chain.world().network().clone(),
            exact: SimulatedExact::new(chain),
        }
    }
}

impl Scheme<SimulatedChain> for SimulatedChannels {
    fn name(&self) -> &str {
        self.exact.name()
    }

    fn assets(&self) -> Vec<String> {
        self.exact.assets()
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<SimulatedChain>>, Refusal> {
        let payment = self.exact.decode(request, now)?;
        let transfer: Transfer = request.payload.read("paymentPayload.payload")?;
        let authorization = transfer.authorization;
        let signed = Signed::read(&authorization)?;
        let (network, payer) = (&self.network, &authorization.from);
        let access = StateAccess::new(signed.record(network, payer), BUSY);
        Ok(Box::new(ChannelPayment {
            info: PaymentInfo {
                id: signed.id(network, payer, payment.info().id),
                ..payment.info().clone()
            },
            access: match signed.deed {
                Deed::Voucher => access,
                Deed::Deposit | Deed::Claim | Deed::Cancel => access.exclusive(),
            },
            signed,
            payment,
        }))
    }
}

struct ChannelPayment {
    info: PaymentInfo,
    access: StateAccess,
    signed: Signed,
    payment: Box<dyn Payment<SimulatedChain>>,
}

impl ChannelPayment {
    const fn is_off_chain(&self) -> bool {
        matches!(self.signed.deed, Deed::Voucher)
    }
}

impl Payment<SimulatedChain> for ChannelPayment {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    fn signatures(&self) -> &[SignatureClaim] {
        self.payment.signatures()
    }

    /// Closing a channel buys nothing.
    fn releases_nothing(&self) -> bool {
        matches!(self.signed.deed, Deed::Claim | Deed::Cancel)
    }

    fn state_access(&self) -> Option<&StateAccess> {
        Some(&self.access)
    }

    fn check(
        &self,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Check<SimulatedChain>, Rejection> {
        let check = self.payment.check(observed)?;
        Channel::read(observed.state).check(self.signed)?;
        Ok(match check {
            Check::Ask(_) if self.is_off_chain() => Check::Valid,
            check => check,
        })
    }

    fn plan(
        &self,
        amount: Amount,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Plan<Transfer>, Rejection> {
        match self.is_off_chain() {
            true => Ok(Plan::OffChain),
            false => self.payment.plan(amount, observed),
        }
    }

    fn used_by(&self, rejection: &Rejection) -> Option<Search> {
        self.payment.used_by(rejection)
    }

    /// After a reorganisation the record may have the payment already.
    fn state_after(
        &self,
        _: Amount,
        observed: &Observed<'_, SimulatedChain>,
        _: Option<&Evidence>,
    ) -> StateChange {
        let mut channel = Channel::read(observed.state);
        if !channel.done.contains(&self.signed) {
            channel.done.push(self.signed);
        }
        let content = serde_json::to_vec(&channel).expect("it is JSON");
        StateChange {
            state: Some((content, None)),
            receipt: SchemeReceipt::default(),
        }
    }

    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        self.payment.effect(amount, evidence)
    }
}
