//! The reason codes of `exact` on Solana, as the reference implementation spells them. Two codes
//! are not in the reference implementation, and their comments say it.

use quittance_core::Reason;

/// The payload's scheme is not `exact`.
pub const SCHEME: Reason = Reason::new("invalid_exact_svm_unsupported_scheme");
/// The payload is for another network than the requirements.
pub const NETWORK_MISMATCH: Reason = Reason::new("invalid_exact_svm_network_mismatch");
/// The requirements have no fee payer.
pub const MISSING_FEE_PAYER: Reason = Reason::new("invalid_exact_svm_payload_missing_fee_payer");
/// The fee payer is not one of this facilitator.
pub const FEE_PAYER_NOT_MANAGED: Reason =
    Reason::new("invalid_exact_svm_fee_payer_not_managed_by_facilitator");
/// The payload has no transaction.
pub const TRANSACTION: Reason = Reason::new("invalid_exact_svm_payload_transaction");
/// The bytes are not a transaction in the runtime's encoding.
pub const COULD_NOT_BE_DECODED: Reason =
    Reason::new("invalid_exact_svm_payload_transaction_could_not_be_decoded");
/// There are signers besides the fee payer and the payer.
pub const EXCESSIVE_SIGNERS: Reason = Reason::new("invalid_exact_svm_payload_excessive_signers");
/// The transaction's fee payer is not the one that the requirements name.
pub const FEE_PAYER_MISMATCH: Reason = Reason::new("invalid_exact_svm_fee_payer_mismatch");
/// A signature is missing or wrong.
pub const SIGNATURE_INVALID: Reason = Reason::new("invalid_exact_svm_payload_signature_invalid");
/// Too few instructions, or too many.
pub const INSTRUCTIONS_LENGTH: Reason =
    Reason::new("invalid_exact_svm_payload_transaction_instructions_length");
/// The first instruction does not limit the compute units.
pub const COMPUTE_LIMIT_INSTRUCTION: Reason =
    Reason::new("invalid_exact_svm_payload_transaction_instructions_compute_limit_instruction");
/// More compute units than the operator allows.
pub const COMPUTE_LIMIT_TOO_HIGH: Reason = Reason::new(
    "invalid_exact_svm_payload_transaction_instructions_compute_limit_instruction_too_high",
);
/// The second instruction does not price the compute units.
pub const COMPUTE_PRICE_INSTRUCTION: Reason =
    Reason::new("invalid_exact_svm_payload_transaction_instructions_compute_price_instruction");
/// A higher price for compute units than the operator allows.
pub const COMPUTE_PRICE_TOO_HIGH: Reason = Reason::new(
    "invalid_exact_svm_payload_transaction_instructions_compute_price_instruction_too_high",
);
/// The third instruction is not a `TransferChecked`.
pub const NO_TRANSFER: Reason = Reason::new("invalid_exact_svm_payload_no_transfer_instruction");
/// The transfer's authority is a fee payer.
pub const FEE_PAYER_TRANSFERRING_FUNDS: Reason =
    Reason::new("invalid_exact_svm_payload_transaction_fee_payer_transferring_funds");
/// An instruction mentions a fee payer (specification, section 2.1.1).
pub const FEE_PAYER_IN_INSTRUCTION: Reason =
    Reason::new("invalid_exact_svm_payload_transaction_fee_payer_included_in_instruction_accounts");
/// The transfer has another mint, token program or number of decimal places.
pub const MINT_MISMATCH: Reason = Reason::new("invalid_exact_svm_payload_mint_mismatch");
/// The destination is not the recipient's associated token account.
pub const RECIPIENT_MISMATCH: Reason = Reason::new("invalid_exact_svm_payload_recipient_mismatch");
/// The amount is not exactly the required one.
pub const AMOUNT_MISMATCH: Reason = Reason::new("invalid_exact_svm_payload_amount_mismatch");
/// The fourth instruction is neither a guard nor a memo.
pub const UNKNOWN_FOURTH: Reason =
    Reason::new("invalid_exact_svm_payload_unknown_fourth_instruction");
/// The fifth instruction is neither a guard nor a memo.
pub const UNKNOWN_FIFTH: Reason =
    Reason::new("invalid_exact_svm_payload_unknown_fifth_instruction");
/// The sixth instruction is neither a guard nor a memo.
pub const UNKNOWN_SIXTH: Reason =
    Reason::new("invalid_exact_svm_payload_unknown_sixth_instruction");
/// The seventh instruction is neither a guard nor a memo.
pub const UNKNOWN_SEVENTH: Reason =
    Reason::new("invalid_exact_svm_payload_unknown_seventh_instruction");
/// An instruction beyond the seventh is neither a guard nor a memo.
pub const UNKNOWN_OPTIONAL: Reason =
    Reason::new("invalid_exact_svm_payload_unknown_optional_instruction");
/// The requirements have a memo, but the transaction does not have exactly one.
pub const MEMO_COUNT: Reason = Reason::new("invalid_exact_svm_payload_memo_count");
/// The memo is not the required one, not UTF-8, or too long.
pub const MEMO_MISMATCH: Reason = Reason::new("invalid_exact_svm_payload_memo_mismatch");
/// The transaction would fail.
pub const SIMULATION_FAILED: Reason =
    Reason::new("invalid_exact_svm_transaction_simulation_failed");
/// The transaction was included and failed.
pub const TRANSACTION_FAILED: Reason = Reason::new("invalid_exact_svm_transaction_failed");
/// The transaction was included, but it did not transfer the payment.
pub const TRANSFER_NOT_CONFIRMED: Reason = Reason::new("post_settlement_transfer_not_confirmed");
/// The transaction uses lookup tables, but no smart wallet may pay.
pub const ALT_RESOLUTION_NOT_AVAILABLE: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_alt_resolution_not_available");
/// A lookup table does not exist or lacks an entry, or there are too many tables.
pub const ALT_RESOLUTION_FAILED: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_alt_resolution_failed");
/// A smart wallet's transaction calls a program that is not allowed.
pub const SMART_WALLET_PROGRAM_NOT_ALLOWED: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_program_not_allowed");
/// A smart wallet's transaction mentions a fee payer (specification, section 2.1.1).
pub const SMART_WALLET_FEE_PAYER_NOT_ISOLATED: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_fee_payer_not_isolated");
/// An instruction of the compute budget program has no data.
pub const SMART_WALLET_MALFORMED_COMPUTE_BUDGET: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_malformed_compute_budget");
/// A compute unit limit is malformed.
pub const SMART_WALLET_MALFORMED_COMPUTE_LIMIT: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_malformed_compute_limit");
/// A compute unit price is malformed.
pub const SMART_WALLET_MALFORMED_COMPUTE_PRICE: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_malformed_compute_price");
/// An instruction of the compute budget program sets neither the limit nor the price.
pub const SMART_WALLET_UNSUPPORTED_COMPUTE_BUDGET: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_unsupported_compute_budget_instruction");
/// The compute units exceed the limit for smart wallets; without a limit instruction the runtime's
/// default counts.
pub const SMART_WALLET_COMPUTE_UNITS_TOO_HIGH: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_compute_units_too_high");
/// The compute unit price exceeds the limit for smart wallets.
pub const SMART_WALLET_PRIORITY_FEE_TOO_HIGH: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_priority_fee_too_high");
/// The simulation of a smart wallet's transaction fails.
pub const SMART_WALLET_SIMULATION_FAILED: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_simulation_failed");
/// The simulation of a smart wallet's transaction transfers nothing.
pub const SMART_WALLET_NO_TRANSFER: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_no_transfer_in_simulation");
/// The simulated transfer of a smart wallet does not match the requirements.
pub const SMART_WALLET_TRANSFER_MISMATCH: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_transfer_mismatch");
/// A smart wallet's transaction would pay more than once.
pub const SMART_WALLET_MULTIPLE_TRANSFERS: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_multiple_matching_transfers");
/// The recipient has no associated token account. The reference implementation has no code for it.
pub const RECEIVER_ACCOUNT_NOT_FOUND: Reason =
    Reason::new("invalid_exact_svm_payload_receiver_ata_not_found");
/// The mint has an extension that can take back, tax or block payments. The reference
/// implementation has no code for it.
pub const MINT_NOT_ALLOWED: Reason = Reason::new("invalid_exact_svm_mint_extension_not_allowed");
