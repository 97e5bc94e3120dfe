//! The reason codes of `upto` on EVM chains, in the spelling of the reference implementation. A
//! permit that is wrong has the codes of [`exact`](crate::reason) by Permit2.

use quittance_core::Reason;

/// The payload's scheme is not `upto`.
pub const SCHEME: Reason = Reason::new("invalid_upto_evm_scheme");
/// The payload is for another network than the requirements.
pub const NETWORK_MISMATCH: Reason = Reason::new("invalid_upto_evm_network_mismatch");
/// The permit names another facilitator, which alone can settle it.
pub const FACILITATOR_MISMATCH: Reason = Reason::new("upto_facilitator_mismatch");
/// The amount to settle is more than the payer has authorized.
pub const SETTLEMENT_EXCEEDS_AMOUNT: Reason =
    Reason::new("invalid_upto_evm_payload_settlement_exceeds_amount");
/// The amount to settle is more than the payer has authorized, by the proxy.
pub const AMOUNT_EXCEEDS_PERMITTED: Reason = Reason::new("upto_amount_exceeds_permitted");
/// The permit names another facilitator than the sender, by the proxy.
pub const UNAUTHORIZED_FACILITATOR: Reason = Reason::new("upto_unauthorized_facilitator");
/// The transfer was included and reverted.
pub const TRANSACTION_FAILED: Reason = Reason::new("invalid_upto_evm_transaction_failed");
/// The transaction was included, and its logs do not show the transfer of the settled amount.
pub const TRANSFER_EVENT_MISMATCH: Reason = Reason::new("invalid_upto_evm_transfer_event_mismatch");
/// The payer's account has code, and the operator accepts payments by key only.
pub const CONTRACT_WALLET_NOT_ALLOWED: Reason =
    Reason::new("invalid_upto_evm_contract_wallet_not_allowed");
/// Another request has this authorization for itself until it is settled.
pub const AUTHORIZATION_HELD: Reason = Reason::new("upto_authorization_held");
