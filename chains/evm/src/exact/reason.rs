//! The reason codes of `exact` on EVM chains, in the spelling of the reference implementation.

use quittance_core::Reason;

/// The payload's scheme is not `exact`.
pub const SCHEME: Reason = Reason::new("invalid_exact_evm_scheme");
/// The requirements lack the token's EIP-712 name or version.
pub const MISSING_EIP712_DOMAIN: Reason = Reason::new("invalid_exact_evm_missing_eip712_domain");
/// The payload is for another network than the requirements.
pub const NETWORK_MISMATCH: Reason = Reason::new("invalid_exact_evm_network_mismatch");
/// The asset transfer method is not supported.
pub const UNSUPPORTED_PAYLOAD_TYPE: Reason = Reason::new("unsupported_payload_type");
/// The requirements have another EIP-712 name than the token.
pub const TOKEN_NAME_MISMATCH: Reason = Reason::new("invalid_exact_evm_token_name_mismatch");
/// The requirements have another EIP-712 version than the token.
pub const TOKEN_VERSION_MISMATCH: Reason = Reason::new("invalid_exact_evm_token_version_mismatch");
/// The payer's account is not deployed, and the operator does not allow the contract that would
/// deploy it (ERC-6492).
pub const FACTORY_NOT_ALLOWED: Reason = Reason::new("eip6492_factory_not_allowed");
/// The factory of an ERC-6492 signature does not deploy the payer's account.
pub const DEPLOYMENT_FAILED: Reason = Reason::new("smart_wallet_deployment_failed");
/// The payer's account does not accept the signature.
pub const SIGNATURE: Reason = Reason::new("invalid_exact_evm_signature");
/// The payer's account has code, and the operator accepts payments by key only.
pub const CONTRACT_WALLET_NOT_ALLOWED: Reason =
    Reason::new("invalid_exact_evm_contract_wallet_not_allowed");
/// The authorization pays another recipient.
pub const RECIPIENT_MISMATCH: Reason = Reason::new("invalid_exact_evm_recipient_mismatch");
/// The authorization has expired, expires before it can be included, or is valid for too long.
pub const VALID_BEFORE: Reason =
    Reason::new("invalid_exact_evm_payload_authorization_valid_before");
/// The authorization is not valid yet.
pub const VALID_AFTER: Reason = Reason::new("invalid_exact_evm_payload_authorization_valid_after");
/// The authorization is not for exactly the required amount.
pub const VALUE_MISMATCH: Reason =
    Reason::new("invalid_exact_evm_payload_authorization_value_mismatch");
/// There is no contract at the asset's address.
pub const ASSET_NOT_DEPLOYED: Reason = Reason::new("asset_not_deployed_contract");
/// The token does not support EIP-3009.
pub const EIP3009_NOT_SUPPORTED: Reason = Reason::new("invalid_exact_evm_eip3009_not_supported");
/// The authorization was used or cancelled.
pub const NONCE_ALREADY_USED: Reason = Reason::new("invalid_exact_evm_nonce_already_used");
/// The payer has less than the amount.
pub const INSUFFICIENT_BALANCE: Reason = Reason::new("invalid_exact_evm_insufficient_balance");
/// The transfer would revert.
pub const SIMULATION_FAILED: Reason =
    Reason::new("invalid_exact_evm_transaction_simulation_failed");
/// The transfer was included and reverted.
pub const TRANSACTION_FAILED: Reason = Reason::new("invalid_exact_evm_transaction_failed");
/// The transaction was included, and its logs do not show the transfer of this payment.
pub const TRANSFER_EVENT_MISMATCH: Reason =
    Reason::new("invalid_exact_evm_transfer_event_mismatch");
/// A permit's spender is not the x402 proxy.
pub const PERMIT2_SPENDER: Reason = Reason::new("invalid_permit2_spender");
/// A permit pays another recipient.
pub const PERMIT2_RECIPIENT_MISMATCH: Reason = Reason::new("invalid_permit2_recipient_mismatch");
/// A permit has expired, expires before it can be included, or is valid for too long.
pub const PERMIT2_DEADLINE_EXPIRED: Reason = Reason::new("permit2_deadline_expired");
/// A permit is not valid yet.
pub const PERMIT2_NOT_YET_VALID: Reason = Reason::new("permit2_not_yet_valid");
/// A permit is not for exactly the required amount.
pub const PERMIT2_AMOUNT_MISMATCH: Reason = Reason::new("permit2_amount_mismatch");
/// A permit is for another token.
pub const PERMIT2_TOKEN_MISMATCH: Reason = Reason::new("permit2_token_mismatch");
/// The payer's account does not accept the signature of a permit.
pub const PERMIT2_SIGNATURE: Reason = Reason::new("invalid_permit2_signature");
/// Permit2 may not move enough of the payer's tokens.
pub const PERMIT2_ALLOWANCE_REQUIRED: Reason = Reason::new("permit2_allowance_required");
/// The transfer by a permit would revert.
pub const PERMIT2_SIMULATION_FAILED: Reason = Reason::new("permit2_simulation_failed");
/// The payer of a permit has less than the amount.
pub const PERMIT2_INSUFFICIENT_BALANCE: Reason = Reason::new("permit2_insufficient_balance");
/// The x402 proxy is not deployed on the network.
pub const PERMIT2_PROXY_NOT_DEPLOYED: Reason = Reason::new("permit2_proxy_not_deployed");
/// The permit was used or invalidated.
pub const PERMIT2_NONCE_USED: Reason = Reason::new("permit2_invalid_nonce");
/// The delegation manager is not one that the operator allows (ERC-7710).
pub const DELEGATION_MANAGER_NOT_ALLOWED: Reason =
    Reason::new("invalid_exact_evm_erc7710_manager_not_allowed");
/// The delegation manager is not deployed on the network.
pub const DELEGATION_MANAGER_NOT_DEPLOYED: Reason =
    Reason::new("invalid_exact_evm_erc7710_manager_not_deployed");
/// The permission context is not a chain of delegations that can identify a payment.
pub const DELEGATION_CONTEXT: Reason = Reason::new("invalid_exact_evm_erc7710_permission_context");
/// The delegations are from another account than the payload names.
pub const DELEGATOR_MISMATCH: Reason = Reason::new("invalid_exact_evm_erc7710_delegator_mismatch");
/// The delegation is to another account than those of the facilitator.
pub const REDEEMER_MISMATCH: Reason = Reason::new("invalid_exact_evm_erc7710_redeemer_mismatch");
/// The delegator's account has no code that a manager could call.
pub const ACCOUNT_NOT_DELEGATED: Reason =
    Reason::new("invalid_exact_evm_erc7710_account_not_delegated");
/// The amount is zero, by the proxy.
pub const PERMIT2_INVALID_AMOUNT: Reason = Reason::new("permit2_invalid_amount");
/// The recipient is the zero address, by the proxy.
pub const PERMIT2_INVALID_DESTINATION: Reason = Reason::new("permit2_invalid_destination");
/// The payer is the zero address, by the proxy.
pub const PERMIT2_INVALID_OWNER: Reason = Reason::new("permit2_invalid_owner");
/// A permit is not valid yet, by the proxy.
pub const PERMIT2_PAYMENT_TOO_EARLY: Reason = Reason::new("permit2_payment_too_early");
/// The signed approval in the extension `eip2612GasSponsoring` is for another amount than the
/// permit.
pub const PERMIT2_2612_AMOUNT_MISMATCH: Reason = Reason::new("permit2_2612_amount_mismatch");
/// The extension `eip2612GasSponsoring` has a signed approval that cannot be read.
pub const EIP2612_FORMAT: Reason = Reason::new("invalid_eip2612_extension_format");
/// The signed approval is by another account than the payer.
pub const EIP2612_FROM_MISMATCH: Reason = Reason::new("eip2612_from_mismatch");
/// The signed approval is for another token than the permit.
pub const EIP2612_ASSET_MISMATCH: Reason = Reason::new("eip2612_asset_mismatch");
/// The signed approval is for another spender than Permit2.
pub const EIP2612_SPENDER_NOT_PERMIT2: Reason = Reason::new("eip2612_spender_not_permit2");
/// The signed approval has expired, or expires before it can be included.
pub const EIP2612_DEADLINE_EXPIRED: Reason = Reason::new("eip2612_deadline_expired");
/// The extension `erc20ApprovalGasSponsoring` cannot be read.
pub const ERC20_APPROVAL_FORMAT: Reason = Reason::new("invalid_erc20_approval_extension_format");
/// The signed approval transaction is named for another account than the payer.
pub const ERC20_APPROVAL_FROM: Reason = Reason::new("erc20_approval_from_mismatch");
/// The signed approval transaction is named for another token than the permit.
pub const ERC20_APPROVAL_ASSET: Reason = Reason::new("erc20_approval_asset_mismatch");
/// The signed approval transaction is named for another spender than Permit2.
pub const ERC20_APPROVAL_SPENDER: Reason = Reason::new("erc20_approval_spender_not_permit2");
/// The signed approval transaction cannot be decoded.
pub const ERC20_APPROVAL_TX_PARSE: Reason = Reason::new("erc20_approval_tx_parse_failed");
/// The approval transaction is signed by another account than the payer, or for another chain.
pub const ERC20_APPROVAL_TX_SIGNER: Reason = Reason::new("erc20_approval_tx_signer_mismatch");
/// The approval transaction does not call the token, or sends coin.
pub const ERC20_APPROVAL_TX_TARGET: Reason = Reason::new("erc20_approval_tx_wrong_target");
/// The approval transaction does anything but to approve enough for Permit2.
pub const ERC20_APPROVAL_TX_CALLDATA: Reason = Reason::new("erc20_approval_tx_invalid_calldata");
/// The approval transaction does not have the account's next nonce.
pub const ERC20_APPROVAL_TX_NONCE: Reason = Reason::new("erc20_approval_tx_wrong_nonce");
/// The approval transaction would revert, or has reverted.
pub const ERC20_APPROVAL_TX_FAILED: Reason = Reason::new("erc20_approval_tx_failed");
/// The payer lacks gas for its approval transaction, and the operator does not give it any more.
pub const ERC20_APPROVAL_NOT_FUNDED: Reason = Reason::new("erc20_approval_gas_not_sponsored");
/// Another payment of the payer is sponsored now.
pub const SPONSORSHIP_OPEN: Reason = Reason::new("erc20_approval_sponsorship_open");
