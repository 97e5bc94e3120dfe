//! The reason codes of `exact` on Solana, spelled as the reference implementation spells them. Those that are ours say so.

use quittance_core::Reason;

/// The payload's scheme is not `exact`.
pub const SCHEME: Reason = Reason::new("invalid_exact_svm_unsupported_scheme");
/// The payload is for another network than the requirements.
pub const NETWORK_MISMATCH: Reason = Reason::new("invalid_exact_svm_network_mismatch");
/// The requirements do not say who pays the fee.
pub const MISSING_FEE_PAYER: Reason = Reason::new("invalid_exact_svm_payload_missing_fee_payer");
/// Somebody else than this facilitator is to pay the fee.
pub const FEE_PAYER_NOT_MANAGED: Reason =
    Reason::new("invalid_exact_svm_fee_payer_not_managed_by_facilitator");
/// The payload holds no transaction.
pub const TRANSACTION: Reason = Reason::new("invalid_exact_svm_payload_transaction");
/// The bytes are no transaction, or are written otherwise than the runtime writes them.
pub const COULD_NOT_BE_DECODED: Reason =
    Reason::new("invalid_exact_svm_payload_transaction_could_not_be_decoded");
/// Others than the fee payer and the payer must sign.
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
/// There is no `TransferChecked` where it belongs.
pub const NO_TRANSFER: Reason = Reason::new("invalid_exact_svm_payload_no_transfer_instruction");
/// The money would be the facilitator's own.
pub const FEE_PAYER_TRANSFERRING_FUNDS: Reason =
    Reason::new("invalid_exact_svm_payload_transaction_fee_payer_transferring_funds");
/// An instruction mentions a fee payer (specification, section 2.1.1).
pub const FEE_PAYER_IN_INSTRUCTION: Reason =
    Reason::new("invalid_exact_svm_payload_transaction_fee_payer_included_in_instruction_accounts");
/// Another token.
pub const MINT_MISMATCH: Reason = Reason::new("invalid_exact_svm_payload_mint_mismatch");
/// The money does not go to the recipient's associated token account.
pub const RECIPIENT_MISMATCH: Reason = Reason::new("invalid_exact_svm_payload_recipient_mismatch");
/// Not exactly the required amount.
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
/// The requirements have a memo, and the transaction not exactly one.
pub const MEMO_COUNT: Reason = Reason::new("invalid_exact_svm_payload_memo_count");
/// The memo is not the required one, not a text, or too long.
pub const MEMO_MISMATCH: Reason = Reason::new("invalid_exact_svm_payload_memo_mismatch");
/// The transaction would fail.
pub const SIMULATION_FAILED: Reason =
    Reason::new("invalid_exact_svm_transaction_simulation_failed");
/// The transaction was included and failed.
pub const TRANSACTION_FAILED: Reason = Reason::new("invalid_exact_svm_transaction_failed");
/// The transaction was included, and the money did not move as it should have.
pub const TRANSFER_NOT_CONFIRMED: Reason = Reason::new("post_settlement_transfer_not_confirmed");
/// The transaction takes addresses from lookup tables, which are resolved only where smart wallets may pay.
pub const ALT_RESOLUTION_NOT_AVAILABLE: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_alt_resolution_not_available");
/// A lookup table is not there, does not have what is taken from it, or there are too many of them.
pub const ALT_RESOLUTION_FAILED: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_alt_resolution_failed");
/// A smart wallet's transaction calls a program that is not allowed.
pub const SMART_WALLET_PROGRAM_NOT_ALLOWED: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_program_not_allowed");
/// A smart wallet's transaction mentions a fee payer (specification, section 2.1.1).
pub const SMART_WALLET_FEE_PAYER_NOT_ISOLATED: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_fee_payer_not_isolated");
/// An instruction to the compute budget that says nothing.
pub const SMART_WALLET_MALFORMED_COMPUTE_BUDGET: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_malformed_compute_budget");
/// A limit of compute units that cannot be read.
pub const SMART_WALLET_MALFORMED_COMPUTE_LIMIT: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_malformed_compute_limit");
/// A price of compute units that cannot be read.
pub const SMART_WALLET_MALFORMED_COMPUTE_PRICE: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_malformed_compute_price");
/// An instruction to the compute budget that neither limits nor prices compute units.
pub const SMART_WALLET_UNSUPPORTED_COMPUTE_BUDGET: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_unsupported_compute_budget_instruction");
/// More compute units than the operator allows smart wallets, or than the runtime allows where no limit is set.
pub const SMART_WALLET_COMPUTE_UNITS_TOO_HIGH: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_compute_units_too_high");
/// A higher price for compute units than the operator allows smart wallets.
pub const SMART_WALLET_PRIORITY_FEE_TOO_HIGH: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_priority_fee_too_high");
/// A smart wallet's transaction would fail.
pub const SMART_WALLET_SIMULATION_FAILED: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_simulation_failed");
/// A smart wallet's transaction would succeed and transfer nothing.
pub const SMART_WALLET_NO_TRANSFER: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_no_transfer_in_simulation");
/// What a smart wallet's transaction would transfer is not what is required.
pub const SMART_WALLET_TRANSFER_MISMATCH: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_transfer_mismatch");
/// A smart wallet's transaction would pay more than once.
pub const SMART_WALLET_MULTIPLE_TRANSFERS: Reason =
    Reason::new("invalid_exact_svm_smart_wallet_multiple_matching_transfers");
/// The recipient has no associated token account. Ours; nobody else has a code for it.
pub const RECEIVER_ACCOUNT_NOT_FOUND: Reason =
    Reason::new("invalid_exact_svm_payload_receiver_ata_not_found");
/// The mint can take back, tax or hold up what is paid. Ours; nobody else has a code for it.
pub const MINT_NOT_ALLOWED: Reason = Reason::new("invalid_exact_svm_mint_extension_not_allowed");
