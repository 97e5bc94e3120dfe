//! The reason codes of `batch-settlement` on EVM chains, in the spelling of the reference
//! implementation.

use quittance_core::Reason;

/// The code with this ending.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        $($(#[$doc])* pub const $name: Reason =
            Reason::new(concat!("invalid_batch_settlement_evm_", $code));)*
    };
}

reasons! {
    /// The payload's scheme is not `batch-settlement`.
    SCHEME = "scheme";
    /// The payload is for another network than the requirements.
    NETWORK_MISMATCH = "network_mismatch";
    /// The payload's type is unknown, or cannot be verified or settled.
    PAYLOAD_TYPE = "payload_type";
    /// The channel's terms have another identity than the voucher's channel.
    CHANNEL_ID_MISMATCH = "channel_id_mismatch";
    /// The channel pays another recipient.
    RECEIVER_MISMATCH = "receiver_mismatch";
    /// The channel has another authorizer than the requirements.
    RECEIVER_AUTHORIZER_MISMATCH = "receiver_authorizer_mismatch";
    /// The channel is for another token.
    TOKEN_MISMATCH = "token_mismatch";
    /// The channel has another delay of withdrawals than the requirements.
    WITHDRAW_DELAY_MISMATCH = "withdraw_delay_mismatch";
    /// The contract accepts no channel with this delay of withdrawals.
    WITHDRAW_DELAY_OUT_OF_RANGE = "withdraw_delay_out_of_range";
    /// The deposit has no EIP-3009 authorization.
    ERC3009_AUTHORIZATION_REQUIRED = "erc3009_authorization_required";
    /// The deposit has no permit.
    PERMIT2_AUTHORIZATION_REQUIRED = "permit2_authorization_required";
    /// The requirements lack the token's EIP-712 name or version.
    MISSING_EIP712_DOMAIN = "missing_eip712_domain";
    /// The authorization of the deposit has expired, is about to, or is valid for too long.
    VALID_BEFORE = "payload_authorization_valid_before";
    /// The authorization of the deposit is not valid yet.
    VALID_AFTER = "payload_authorization_valid_after";
    /// The payer's account does not accept the signature of the deposit.
    RECEIVE_AUTHORIZATION_SIGNATURE = "receive_authorization_signature";
    /// The payer's account is not deployed.
    FACTORY_NOT_ALLOWED = "eip6492_factory_not_allowed";
    /// The payer's account has code, and the operator accepts payments by key only. Or the channel
    /// leaves its vouchers to that account, which can refuse their claim.
    CONTRACT_WALLET_NOT_ALLOWED = "contract_wallet_not_allowed";
    /// The permit's spender is not the deposit collector.
    PERMIT2_SPENDER = "permit2_invalid_spender";
    /// The permit is not for exactly the deposit.
    PERMIT2_AMOUNT_MISMATCH = "permit2_amount_mismatch";
    /// The permit has expired, is about to, or is valid for too long.
    PERMIT2_DEADLINE_EXPIRED = "permit2_deadline_expired";
    /// The payer's account does not accept the signature of the permit.
    PERMIT2_SIGNATURE = "permit2_invalid_signature";
    /// The signed approval beside the permit is for another amount than the deposit.
    EIP2612_AMOUNT_MISMATCH = "eip2612_amount_mismatch";
    /// Permit2 may not move enough of the payer's tokens.
    PERMIT2_ALLOWANCE_REQUIRED = "permit2_allowance_required";
    /// The signature of the voucher is not that of the channel's payer authorizer or payer.
    VOUCHER_SIGNATURE = "voucher_signature";
    /// The payer has less than the deposit.
    INSUFFICIENT_BALANCE = "insufficient_balance";
    /// The voucher is for more than the channel has.
    CUMULATIVE_EXCEEDS_BALANCE = "cumulative_exceeds_balance";
    /// The voucher is for no more than was claimed.
    CUMULATIVE_BELOW_CLAIMED = "cumulative_below_claimed";
    /// The voucher is not for exactly what was charged and the price.
    CUMULATIVE_AMOUNT_MISMATCH = "cumulative_amount_mismatch";
    /// The channel has no balance.
    CHANNEL_NOT_FOUND = "channel_not_found";
    /// The channel's record cannot be read.
    VERIFICATION_STATE_UNAVAILABLE = "verification_state_unavailable";
    /// Another request has the channel for itself.
    CHANNEL_BUSY = "channel_busy";
    /// The charge is more than the payer has signed for.
    CHARGE_EXCEEDS_SIGNED_CUMULATIVE = "charge_exceeds_signed_cumulative";
    /// The network has no contract of channels, or another one at its address.
    RPC_READ_FAILED = "rpc_read_failed";
    /// The authorization of the deposit was used or cancelled.
    NONCE_ALREADY_USED = "nonce_already_used";
    /// The deposit would revert.
    DEPOSIT_SIMULATION_FAILED = "deposit_simulation_failed";
    /// The deposit was included, and the contract's events do not show it.
    DEPOSIT_TRANSACTION_FAILED = "deposit_transaction_failed";
    /// The claim has no rows, or more than a transaction can have.
    CLAIM_PAYLOAD = "claim_payload";
    /// The claim would revert.
    CLAIM_SIMULATION_FAILED = "claim_simulation_failed";
    /// The claim was included, and the contract's events do not show it.
    CLAIM_TRANSACTION_FAILED = "claim_transaction_failed";
    /// The receiver has got all that it has claimed.
    NOTHING_TO_SETTLE = "nothing_to_settle";
    /// The transfer to the receiver would revert.
    SETTLE_SIMULATION_FAILED = "settle_simulation_failed";
    /// The transfer to the receiver was included and reverted.
    SETTLE_TRANSACTION_FAILED = "settle_transaction_failed";
    /// The refund lacks what the seller has to add, or claims from another channel.
    REFUND_PAYLOAD = "refund_payload";
    /// The refund is of nothing.
    REFUND_AMOUNT_INVALID = "refund_amount_invalid";
    /// The channel has nothing to pay back.
    REFUND_NO_BALANCE = "refund_no_balance";
    /// The refund would revert.
    REFUND_SIMULATION_FAILED = "refund_simulation_failed";
    /// The refund was included, and the contract's events do not show it.
    REFUND_TRANSACTION_FAILED = "refund_transaction_failed";
    /// The act has no signature of the channel's authorizer, and this facilitator is none.
    AUTHORIZER_NOT_CONFIGURED = "authorizer_not_configured";
    /// The act has no signature of the channel's authorizer, and it is another one than this
    /// facilitator, or the caller may not ask for the act.
    AUTHORIZER_ADDRESS_MISMATCH = "authorizer_address_mismatch";
}
