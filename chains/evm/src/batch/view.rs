//! The steps of probes that read channels, and what their outcomes say.

use alloy::primitives::B256;
use alloy::sol_types::SolInterface;
use quittance_core::Rejection;

use super::channel::{BATCH_SETTLEMENT, ChannelState};
use super::reason;
use crate::abi::BatchSettlement;
use crate::chain::{Step, StepOutcome};
use crate::exact::payment::{revert_text, view};

/// The number of steps that read a channel.
pub(super) const CHANNEL_STEPS: usize = 3;

/// The steps that read a channel.
pub(super) fn channel_steps(channel_id: B256) -> [Step; CHANNEL_STEPS] {
    ChannelState::views(channel_id).map(|call| view(BATCH_SETTLEMENT, call))
}

/// The channel by the outcomes of its steps, which are the first of these.
///
/// # Errors
/// If the network has no contract of channels.
pub(super) fn channel(outcomes: &[StepOutcome]) -> Result<ChannelState, Rejection> {
    let returned = |at: usize| outcomes.get(at).and_then(returned_data);
    let state = match [returned(0), returned(1), returned(2)] {
        [Some(channel), Some(withdrawal), Some(nonce)] => {
            ChannelState::decode([channel, withdrawal, nonce])
        }
        _ => None,
    };
    state.ok_or_else(no_contract)
}

/// What a call returned, if it succeeded.
pub(super) fn returned_data(outcome: &StepOutcome) -> Option<&[u8]> {
    match outcome {
        StepOutcome::Returned { data, .. } => Some(data),
        _ => None,
    }
}

/// The verdict on a network without the contract of channels.
pub(super) fn no_contract() -> Rejection {
    let detail = format!("there is no contract of channels at {BATCH_SETTLEMENT} on this network");
    Rejection::new(reason::RPC_READ_FAILED, detail)
}

/// Why a simulated call reverted, for the detail of a rejection. `None` if it did not revert.
pub(super) fn revert(outcome: Option<&StepOutcome>) -> Option<String> {
    match outcome {
        Some(StepOutcome::Returned { .. }) => None,
        Some(StepOutcome::Reverted { data }) => Some(revert_reason(data)),
        _ => Some("the simulation has no result".to_owned()),
    }
}

/// The name of the contract's error, or the text of another contract's.
fn revert_reason(data: &[u8]) -> String {
    if let Ok(error) = BatchSettlement::BatchSettlementErrors::abi_decode(data) {
        // The name of the variant is that of the error.
        let name = format!("{error:?}");
        let name = name.split('(').next().unwrap_or_default();
        return format!("the contract of channels refuses it: {name}");
    }
    revert_text(data).unwrap_or_else(|| "the call would revert".to_owned())
}
