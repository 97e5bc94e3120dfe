//! The contract interfaces that payments use.
#![allow(
    missing_docs,
    reason = "the macro makes items for every function and event of a documented interface"
)]

use alloy::sol;

sol! {
    /// EIP-3009, and the overload of FiatToken 2.2 for signatures of any length.
    #[derive(Debug)]
    interface Eip3009 {
        event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
        event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);
        function transferWithAuthorization(
            address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce,
            uint8 v, bytes32 r, bytes32 s
        ) external;
        function transferWithAuthorization(
            address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce,
            bytes signature
        ) external;
        function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
    }

    /// The functions and events of ERC-20 that payments need.
    #[derive(Debug)]
    interface Erc20 {
        event Transfer(address indexed from, address indexed to, uint256 value);
        function balanceOf(address account) external view returns (uint256);
        function allowance(address owner, address spender) external view returns (uint256);
        function approve(address spender, uint256 amount) external returns (bool);
        function transfer(address to, uint256 value) external returns (bool);
    }

    /// The EIP-712 domain of a token, as EIP-3009 and EIP-2612 tokens publish it.
    #[derive(Debug)]
    interface Eip712Token {
        function DOMAIN_SEPARATOR() external view returns (bytes32);
    }

    /// EIP-2612: approvals by signature.
    #[derive(Debug)]
    interface Eip2612 {
        function nonces(address owner) external view returns (uint256);
        function permit(
            address owner, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s
        ) external;
    }

    /// Permit2: the words of used nonces, and the log of nonces that their owner invalidated.
    #[derive(Debug)]
    interface Permit2 {
        event UnorderedNonceInvalidation(address indexed owner, uint256 word, uint256 mask);
        function nonceBitmap(address owner, uint256 word) external view returns (uint256);
    }

    /// The token of a permit of Permit2, and the most that may be moved of it.
    #[derive(Debug)]
    struct TokenPermissions { address token; uint256 amount; }

    /// A permit of Permit2, as its spender passes it on.
    #[derive(Debug)]
    struct PermitTransferFrom { TokenPermissions permitted; uint256 nonce; uint256 deadline; }

    /// An approval of Permit2 by signature (EIP-2612), as the proxies take it.
    #[derive(Debug)]
    struct EIP2612Permit { uint256 value; uint256 deadline; bytes32 r; bytes32 s; uint8 v; }

    /// The errors of the proxies.
    #[derive(Debug)]
    interface Permit2ProxyErrors {
        error InvalidAmount();
        error InvalidDestination();
        error InvalidOwner();
        error PaymentTooEarly();
        error Permit2612AmountMismatch();
        error AmountExceedsPermitted();
        error UnauthorizedFacilitator();
    }

    /// The proxy through which `exact` payments use Permit2.
    #[derive(Debug)]
    interface ExactPermit2Proxy {
        struct Witness { address to; uint256 validAfter; }
        function settle(
            PermitTransferFrom permit, address owner, Witness witness, bytes signature
        ) external;
        function settleWithPermit(
            EIP2612Permit approval, PermitTransferFrom permit, address owner, Witness witness,
            bytes signature
        ) external;
    }

    /// The proxy through which `upto` payments use Permit2.
    #[derive(Debug)]
    interface UptoPermit2Proxy {
        struct Witness { address to; address facilitator; uint256 validAfter; }
        function settle(
            PermitTransferFrom permit, uint256 amount, address owner, Witness witness,
            bytes signature
        ) external;
        function settleWithPermit(
            EIP2612Permit approval, PermitTransferFrom permit, uint256 amount, address owner,
            Witness witness, bytes signature
        ) external;
    }

    /// The terms of a channel, as the contract of the channels has them.
    #[derive(Debug, PartialEq, Eq)]
    struct ChannelConfig {
        address payer; address payerAuthorizer; address receiver; address receiverAuthorizer;
        address token; uint40 withdrawDelay; bytes32 salt;
    }

    /// `x402BatchSettlement`, the contract of the channels.
    #[derive(Debug)]
    interface BatchSettlement {
        struct Voucher { ChannelConfig channel; uint128 maxClaimableAmount; }
        struct VoucherClaim { Voucher voucher; bytes signature; uint128 totalClaimed; }
        error InvalidChannel();
        error ZeroDeposit();
        error DepositOverflow();
        error InvalidSignature();
        error NotReceiverAuthorizer();
        error NotAuthorizedToClaim();
        error NotAuthorizedToRefund();
        error ClaimExceedsCeiling();
        error ClaimExceedsBalance();
        error WithdrawDelayOutOfRange();
        error EmptyBatch();
        error DepositCollectionFailed();
        error InvalidRefundNonce();
        error ZeroRefund();
        event Deposited(
            bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newBalance
        );
        event Claimed(
            bytes32 indexed channelId, address indexed sender, uint128 claimAmount,
            uint128 newTotalClaimed
        );
        event Settled(
            address indexed receiver, address indexed token, address indexed sender, uint128 amount
        );
        event Refunded(bytes32 indexed channelId, address indexed sender, uint128 amount);
        function multicall(bytes[] data) external returns (bytes[] results);
        function deposit(
            ChannelConfig config, uint128 amount, address collector, bytes collectorData
        ) external;
        function claim(VoucherClaim[] voucherClaims) external;
        function claimWithSignature(
            VoucherClaim[] voucherClaims, bytes authorizerSignature
        ) external;
        function settle(address receiver, address token) external;
        function initiateWithdraw(ChannelConfig config, uint128 amount) external;
        function finalizeWithdraw(ChannelConfig config) external;
        function refund(ChannelConfig config, uint128 amount) external;
        function refundWithSignature(
            ChannelConfig config, uint128 amount, uint256 nonce, bytes receiverAuthorizerSignature
        ) external;
        function channels(bytes32 channelId)
            external view returns (uint128 balance, uint128 totalClaimed);
        function pendingWithdrawals(bytes32 channelId)
            external view returns (uint128 amount, uint40 initiatedAt);
        function refundNonce(bytes32 channelId) external view returns (uint256);
        function receivers(address receiver, address token)
            external view returns (uint128 totalClaimed, uint128 totalSettled);
    }

    /// The terms of a hold, as the contract of holds has them.
    #[derive(Debug, PartialEq, Eq)]
    struct PaymentInfo {
        address operator; address payer; address receiver; address token; uint120 maxAmount;
        uint48 preApprovalExpiry; uint48 authorizationExpiry; uint48 refundExpiry;
        uint16 minFeeBps; uint16 maxFeeBps; address feeReceiver; uint256 salt;
    }

    /// `AuthCaptureEscrow`, the contract of holds.
    #[derive(Debug)]
    interface AuthCaptureEscrow {
        error InvalidSender(address sender, address expected);
        error ZeroAmount();
        error AmountOverflow(uint256 amount, uint256 limit);
        error ExceedsMaxAmount(uint256 amount, uint256 maxAmount);
        error AfterPreApprovalExpiry(uint48 timestamp, uint48 expiry);
        error InvalidExpiries(uint48 preApproval, uint48 authorization, uint48 refund);
        error FeeBpsOverflow(uint16 feeBps);
        error InvalidFeeBpsRange(uint16 minFeeBps, uint16 maxFeeBps);
        error FeeBpsOutOfRange(uint16 feeBps, uint16 minFeeBps, uint16 maxFeeBps);
        error FeeAmountOutOfRange(uint256 feeAmount, uint256 minFeeAmount, uint256 maxFeeAmount);
        error ZeroFeeReceiver();
        error InvalidFeeReceiver(address attempted, address expected);
        error InvalidCollectorForOperation();
        error TokenCollectionFailed();
        error PaymentAlreadyCollected(bytes32 paymentInfoHash);
        error AfterAuthorizationExpiry(uint48 timestamp, uint48 expiry);
        error InsufficientAuthorization(
            bytes32 paymentInfoHash, uint256 authorizedAmount, uint256 requestedAmount
        );
        error ZeroAuthorization(bytes32 paymentInfoHash);
        error AfterRefundExpiry(uint48 timestamp, uint48 expiry);
        error RefundExceedsCapture(uint256 refund, uint256 captured);
        event PaymentAuthorized(
            bytes32 indexed paymentInfoHash, PaymentInfo paymentInfo, uint256 amount,
            address tokenCollector
        );
        event PaymentCharged(
            bytes32 indexed paymentInfoHash, PaymentInfo paymentInfo, uint256 amount,
            address tokenCollector, uint256 feeAmount, address feeReceiver
        );
        event PaymentCaptured(
            bytes32 indexed paymentInfoHash, uint256 amount, uint256 feeAmount, address feeReceiver
        );
        event PaymentVoided(bytes32 indexed paymentInfoHash, uint256 amount);
        event PaymentRefunded(
            bytes32 indexed paymentInfoHash, uint256 amount, address tokenCollector
        );
        function authorize(
            PaymentInfo paymentInfo, uint256 amount, address tokenCollector, bytes collectorData
        ) external;
        function charge(
            PaymentInfo paymentInfo, uint256 amount, address tokenCollector, bytes collectorData,
            uint256 feeAmount, address feeReceiver
        ) external;
        function capture(
            PaymentInfo paymentInfo, uint256 amount, uint256 feeAmount, address feeReceiver
        ) external;
        function void(PaymentInfo paymentInfo) external;
        function reclaim(PaymentInfo paymentInfo) external;
        function refund(
            PaymentInfo paymentInfo, uint256 amount, address tokenCollector, bytes collectorData
        ) external;
        function paymentState(bytes32 paymentInfoHash) external view returns (
            bool hasCollectedPayment, uint120 capturableAmount, uint120 refundableAmount
        );
    }

    /// What version 1.0 of the contract of holds has instead: a fee in basis points.
    #[derive(Debug)]
    interface AuthCaptureEscrowV10 {
        event PaymentCharged(
            bytes32 indexed paymentInfoHash, PaymentInfo paymentInfo, uint256 amount,
            address tokenCollector, uint16 feeBps, address feeReceiver
        );
        event PaymentCaptured(
            bytes32 indexed paymentInfoHash, uint256 amount, uint16 feeBps, address feeReceiver
        );
        function charge(
            PaymentInfo paymentInfo, uint256 amount, address tokenCollector, bytes collectorData,
            uint16 feeBps, address feeReceiver
        ) external;
        function capture(
            PaymentInfo paymentInfo, uint256 amount, uint16 feeBps, address feeReceiver
        ) external;
    }

    /// ERC-7710: the contract that makes the calls which delegations allow.
    #[derive(Debug)]
    interface DelegationManager {
        function redeemDelegations(
            bytes[] permissionContexts, bytes32[] modes, bytes[] executionCallDatas
        ) external;
    }

    /// A condition of a delegation. The redeemer chooses `args`.
    #[derive(Debug, PartialEq, Eq)]
    struct Caveat { address enforcer; bytes terms; bytes args; }

    /// A delegation in the format of the Delegation Framework.
    #[derive(Debug, PartialEq, Eq)]
    struct Delegation {
        address delegate; address delegator; bytes32 authority; Caveat[] caveats; uint256 salt;
        bytes signature;
    }

    /// Multicall3: several calls in one transaction.
    #[derive(Debug)]
    interface Multicall3 {
        struct Call3 { address target; bool allowFailure; bytes callData; }
        struct Result { bool success; bytes returnData; }
        function aggregate3(Call3[] calls) external payable returns (Result[] returnData);
    }

    /// ERC-1271: signatures of contracts.
    #[derive(Debug)]
    interface Erc1271 {
        function isValidSignature(bytes32 hash, bytes signature) external view returns (bytes4);
    }
}
