//! The reason codes of `auth-capture` on EVM chains, in the specification's spelling.

use quittance_core::Reason;

/// The code with this ending.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        $($(#[$doc])* pub const $name: Reason =
            Reason::new(concat!("invalid_auth_capture_evm_", $code));)*
    };
}

reasons! {
    /// The payload's scheme is not `auth-capture`.
    SCHEME = "scheme";
    /// The payload is for another network than the requirements.
    NETWORK_MISMATCH = "network_mismatch";
    /// The payload has neither or both of the authorizations, or lacks a field of its act.
    PAYLOAD_FORMAT = "payload_format";
    /// The payload's type is unknown, or is not possible in this flow.
    PAYLOAD_TYPE = "payload_type";
    /// The requirements' `extra` lacks a field, or a field has an impossible value.
    EXTRA = "extra";
    /// The payment flow is not `escrow` or `authorization`.
    UNSUPPORTED_PAYMENT_FLOW = "unsupported_payment_flow";
    /// The operator is a contract, which this facilitator does not relay to.
    UNSUPPORTED_OPERATOR_TYPE = "unsupported_operator_type";
    /// The requirements name a policy contract, which only another type of operator has.
    POLICY = "policy";
    /// The operator is no signer of this facilitator.
    OPERATOR_NOT_ADMITTED = "operator_not_admitted";
    /// The hold has another operator than the requirements.
    OPERATOR_MISMATCH = "operator_mismatch";
    /// A charge needs a receiver's authorizer.
    MISSING_RECEIVER_AUTHORIZER = "missing_receiver_authorizer";
    /// A hold without a receiver's authorizer is captured and voided by its operator only.
    LIFECYCLE_NOT_RELAYED = "lifecycle_not_relayed";
    /// The salt does not bind the hold to the receiver's authorizer.
    SALT_BINDING_MISMATCH = "salt_binding_mismatch";
    /// The receiver's authorizer has not signed the act.
    AUTHORIZER_SIGNATURE = "authorizer_signature";
    /// The receiver's authorizer has not signed the void, or it is not part of a capture.
    VOID_AUTHORIZER_SIGNATURE = "void_authorizer_signature";
    /// The act needs a signature, or the caller with whose key the hold was made.
    UNAUTHENTICATED_AUTHORIZER_REQUEST = "unauthenticated_authorizer_request";
    /// A capture of everything leaves nothing to void.
    VOID_REMAINDER_FULL_CAPTURE = "void_remainder_full_capture";
    /// The hold has other balances than the act was signed for.
    UNEXPECTED_PAYMENT_STATE = "unexpected_payment_state";
    /// The operator pays no refunds for the receiver, or lacks the tokens.
    REFUND_FUNDING_UNAVAILABLE = "refund_funding_unavailable";
    /// The asset transfer method is neither `eip3009` nor `permit2`.
    UNSUPPORTED_ASSET_TRANSFER_METHOD = "unsupported_asset_transfer_method";
    /// The payload has an authorization of another method than the requirements.
    PAYLOAD_METHOD_MISMATCH = "payload_method_mismatch";
    /// The hold can no longer be captured, or soon not.
    CAPTURE_DEADLINE_EXPIRED = "capture_deadline_expired";
    /// The payment can no longer be refunded, or soon not.
    REFUND_DEADLINE_EXPIRED = "refund_deadline_expired";
    /// The deadlines are not in their order.
    DEADLINE_ORDERING = "deadline_ordering";
    /// The authorization has expired, is about to, or is valid for too long.
    AUTHORIZATION_EXPIRED = "authorization_expired";
    /// The authorization is not valid from the beginning, as the contract needs it.
    AUTHORIZATION_NOT_YET_VALID = "authorization_not_yet_valid";
    /// The payer's account does not accept the signature.
    SIGNATURE = "signature";
    /// The payer's account is not deployed.
    FACTORY_NOT_ALLOWED = "erc6492_factory_not_allowed";
    /// The payer's account has code, and the operator accepts payments by key only.
    CONTRACT_WALLET_NOT_ALLOWED = "contract_wallet_not_allowed";
    /// The amounts of the authorization, the requirements and the act do not fit each other.
    AMOUNT_MISMATCH = "amount_mismatch";
    /// The authorization pays another contract than the collector.
    TOKEN_COLLECTOR_MISMATCH = "token_collector_mismatch";
    /// The permit is for another token.
    TOKEN_MISMATCH = "token_mismatch";
    /// The nonce is not that of these terms.
    NONCE_MISMATCH = "nonce_mismatch";
    /// The payer has fewer tokens than it authorizes.
    INSUFFICIENT_BALANCE = "insufficient_balance";
    /// The payment was collected before.
    PAYMENT_ALREADY_COLLECTED = "payment_already_collected";
    /// The collector cannot take the tokens.
    TOKEN_COLLECTION_FAILED = "token_collection_failed";
    /// The collector is not one for this act.
    COLLECTOR = "collector";
    /// The amount is larger than the contract can represent.
    AMOUNT_OVERFLOW = "amount_overflow";
    /// The largest fee is over 100 %.
    FEE_BPS = "fee_bps";
    /// The smallest fee is larger than the largest.
    FEE_BPS_RANGE = "fee_bps_range";
    /// The fee is outside of the signed bounds.
    FEE_BPS_OUT_OF_RANGE = "fee_bps_out_of_range";
    /// There is a fee without a receiver.
    ZERO_FEE_RECEIVER = "zero_fee_receiver";
    /// The fee goes to another account than the payer has signed.
    FEE_RECEIVER = "fee_receiver";
    /// The capture is of more than is held.
    INSUFFICIENT_AUTHORIZATION = "insufficient_authorization";
    /// Nothing is held.
    ZERO_AUTHORIZATION = "zero_authorization";
    /// The refund is of more than was captured and not refunded.
    REFUND_EXCEEDS_CAPTURE = "refund_exceeds_capture";
    /// The act would revert.
    SIMULATION_FAILED = "simulation_failed";
    /// The state of the hold cannot be read.
    VERIFICATION_FAILED = "verification_failed";
    /// The transaction was included and reverted, or logged something else.
    TRANSACTION_REVERTED = "transaction_reverted";
    /// Another act of the hold is in progress.
    HOLD_BUSY = "hold_busy";
}
