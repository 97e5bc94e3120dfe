// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity ^0.8.20;

struct PaymentInfo {
    address operator;
    address payer;
    address receiver;
    address token;
    uint120 maxAmount;
    uint48 preApprovalExpiry;
    uint48 authorizationExpiry;
    uint48 refundExpiry;
    uint16 minFeeBps;
    uint16 maxFeeBps;
    address feeReceiver;
    uint256 salt;
}

interface Token {
    function balanceOf(address account) external view returns (uint256);
    function transfer(address to, uint256 amount) external returns (bool);
}

interface TokenCollector {
    function collectorType() external view returns (uint8);
    function collectTokens(
        PaymentInfo calldata paymentInfo,
        address tokenStore,
        uint256 amount,
        bytes calldata collectorData
    ) external;
}

/// The interface, the type string, the checks, the events and the errors of AuthCaptureEscrow 1.1, for local chains: no
/// registry has the bytecode of the deployed contract. It differs in two things. The tokens are here, and not in a
/// contract for each operator. The lock against reentrance is in storage, because the contracts here are compiled for
/// chains without transient storage.
contract AuthCaptureEscrow {
    struct PaymentState {
        bool hasCollectedPayment;
        uint120 capturableAmount;
        uint120 refundableAmount;
    }

    event PaymentCharged(
        bytes32 indexed paymentInfoHash,
        PaymentInfo paymentInfo,
        uint256 amount,
        address tokenCollector,
        uint256 feeAmount,
        address feeReceiver
    );
    event PaymentAuthorized(
        bytes32 indexed paymentInfoHash, PaymentInfo paymentInfo, uint256 amount, address tokenCollector
    );
    event PaymentCaptured(bytes32 indexed paymentInfoHash, uint256 amount, uint256 feeAmount, address feeReceiver);
    event PaymentVoided(bytes32 indexed paymentInfoHash, uint256 amount);
    event PaymentReclaimed(bytes32 indexed paymentInfoHash, uint256 amount);
    event PaymentRefunded(bytes32 indexed paymentInfoHash, uint256 amount, address tokenCollector);

    error InvalidSender(address sender, address expected);
    error ZeroAmount();
    error AmountOverflow(uint256 amount, uint256 limit);
    error ExceedsMaxAmount(uint256 amount, uint256 maxAmount);
    error AfterPreApprovalExpiry(uint48 timestamp, uint48 expiry);
    error InvalidExpiries(uint48 preApproval, uint48 authorization, uint48 refund);
    error FeeBpsOverflow(uint16 feeBps);
    error InvalidFeeBpsRange(uint16 minFeeBps, uint16 maxFeeBps);
    error FeeAmountOutOfRange(uint256 feeAmount, uint256 minFeeAmount, uint256 maxFeeAmount);
    error ZeroFeeReceiver();
    error InvalidFeeReceiver(address attempted, address expected);
    error InvalidCollectorForOperation();
    error TokenCollectionFailed();
    error PaymentAlreadyCollected(bytes32 paymentInfoHash);
    error AfterAuthorizationExpiry(uint48 timestamp, uint48 expiry);
    error InsufficientAuthorization(bytes32 paymentInfoHash, uint256 authorizedAmount, uint256 requestedAmount);
    error ZeroAuthorization(bytes32 paymentInfoHash);
    error BeforeAuthorizationExpiry(uint48 timestamp, uint48 expiry);
    error AfterRefundExpiry(uint48 timestamp, uint48 expiry);
    error RefundExceedsCapture(uint256 refund, uint256 captured);
    error Reentrancy();

    bytes32 public constant PAYMENT_INFO_TYPEHASH = keccak256(
        "PaymentInfo(address operator,address payer,address receiver,address token,uint120 maxAmount,uint48 preApprovalExpiry,uint48 authorizationExpiry,uint48 refundExpiry,uint16 minFeeBps,uint16 maxFeeBps,address feeReceiver,uint256 salt)"
    );
    uint16 private constant MAX_FEE_BPS = 10_000;
    uint8 private constant PAYMENT = 0;
    uint8 private constant REFUND = 1;

    mapping(bytes32 paymentInfoHash => PaymentState state) public paymentState;
    bool private locked;

    modifier onlySender(address sender) {
        if (locked) revert Reentrancy();
        if (msg.sender != sender) revert InvalidSender(msg.sender, sender);
        locked = true;
        _;
        locked = false;
    }

    modifier validAmount(uint256 amount) {
        if (amount == 0) revert ZeroAmount();
        if (amount > type(uint120).max) revert AmountOverflow(amount, type(uint120).max);
        _;
    }

    function charge(
        PaymentInfo calldata paymentInfo,
        uint256 amount,
        address tokenCollector,
        bytes calldata collectorData,
        uint256 feeAmount,
        address feeReceiver
    ) external onlySender(paymentInfo.operator) validAmount(amount) {
        validatePayment(paymentInfo, amount);
        validateFee(paymentInfo, amount, feeAmount, feeReceiver);
        bytes32 hash = getHash(paymentInfo);
        if (paymentState[hash].hasCollectedPayment) revert PaymentAlreadyCollected(hash);
        paymentState[hash] = PaymentState(true, 0, uint120(amount));
        emit PaymentCharged(hash, paymentInfo, amount, tokenCollector, feeAmount, feeReceiver);
        collect(paymentInfo, amount, tokenCollector, collectorData, PAYMENT);
        distribute(paymentInfo, amount, feeAmount, feeReceiver);
    }

    function authorize(
        PaymentInfo calldata paymentInfo,
        uint256 amount,
        address tokenCollector,
        bytes calldata collectorData
    ) external onlySender(paymentInfo.operator) validAmount(amount) {
        validatePayment(paymentInfo, amount);
        bytes32 hash = getHash(paymentInfo);
        if (paymentState[hash].hasCollectedPayment) revert PaymentAlreadyCollected(hash);
        paymentState[hash] = PaymentState(true, uint120(amount), 0);
        emit PaymentAuthorized(hash, paymentInfo, amount, tokenCollector);
        collect(paymentInfo, amount, tokenCollector, collectorData, PAYMENT);
    }

    function capture(PaymentInfo calldata paymentInfo, uint256 amount, uint256 feeAmount, address feeReceiver)
        external
        onlySender(paymentInfo.operator)
        validAmount(amount)
    {
        validateFee(paymentInfo, amount, feeAmount, feeReceiver);
        if (block.timestamp >= paymentInfo.authorizationExpiry) {
            revert AfterAuthorizationExpiry(uint48(block.timestamp), paymentInfo.authorizationExpiry);
        }
        bytes32 hash = getHash(paymentInfo);
        PaymentState memory state = paymentState[hash];
        if (state.capturableAmount < amount) revert InsufficientAuthorization(hash, state.capturableAmount, amount);
        state.capturableAmount -= uint120(amount);
        state.refundableAmount += uint120(amount);
        paymentState[hash] = state;
        emit PaymentCaptured(hash, amount, feeAmount, feeReceiver);
        distribute(paymentInfo, amount, feeAmount, feeReceiver);
    }

    function void(PaymentInfo calldata paymentInfo) external onlySender(paymentInfo.operator) {
        bytes32 hash = getHash(paymentInfo);
        emit PaymentVoided(hash, release(paymentInfo, hash));
    }

    function reclaim(PaymentInfo calldata paymentInfo) external onlySender(paymentInfo.payer) {
        if (block.timestamp < paymentInfo.authorizationExpiry) {
            revert BeforeAuthorizationExpiry(uint48(block.timestamp), paymentInfo.authorizationExpiry);
        }
        bytes32 hash = getHash(paymentInfo);
        emit PaymentReclaimed(hash, release(paymentInfo, hash));
    }

    function refund(
        PaymentInfo calldata paymentInfo,
        uint256 amount,
        address tokenCollector,
        bytes calldata collectorData
    ) external onlySender(paymentInfo.operator) validAmount(amount) {
        if (block.timestamp >= paymentInfo.refundExpiry) {
            revert AfterRefundExpiry(uint48(block.timestamp), paymentInfo.refundExpiry);
        }
        bytes32 hash = getHash(paymentInfo);
        uint120 captured = paymentState[hash].refundableAmount;
        if (captured < amount) revert RefundExceedsCapture(amount, captured);
        paymentState[hash].refundableAmount = captured - uint120(amount);
        emit PaymentRefunded(hash, amount, tokenCollector);
        collect(paymentInfo, amount, tokenCollector, collectorData, REFUND);
        send(paymentInfo.token, paymentInfo.payer, amount);
    }

    function getHash(PaymentInfo calldata paymentInfo) public view returns (bytes32) {
        bytes32 hash = keccak256(abi.encode(PAYMENT_INFO_TYPEHASH, paymentInfo));
        return keccak256(abi.encode(block.chainid, address(this), hash));
    }

    function getTokenStore(address) public view returns (address) {
        return address(this);
    }

    /// Gives the payer back what is held.
    function release(PaymentInfo calldata paymentInfo, bytes32 hash) private returns (uint256 amount) {
        amount = paymentState[hash].capturableAmount;
        if (amount == 0) revert ZeroAuthorization(hash);
        paymentState[hash].capturableAmount = 0;
        send(paymentInfo.token, paymentInfo.payer, amount);
    }

    function collect(
        PaymentInfo calldata paymentInfo,
        uint256 amount,
        address tokenCollector,
        bytes calldata collectorData,
        uint8 collectorType
    ) private {
        if (TokenCollector(tokenCollector).collectorType() != collectorType) revert InvalidCollectorForOperation();
        address store = getTokenStore(paymentInfo.operator);
        uint256 balance = Token(paymentInfo.token).balanceOf(store);
        TokenCollector(tokenCollector).collectTokens(paymentInfo, store, amount, collectorData);
        if (Token(paymentInfo.token).balanceOf(store) != balance + amount) revert TokenCollectionFailed();
    }

    function distribute(PaymentInfo calldata paymentInfo, uint256 amount, uint256 feeAmount, address feeReceiver)
        private
    {
        if (feeAmount > 0) send(paymentInfo.token, feeReceiver, feeAmount);
        if (amount > feeAmount) send(paymentInfo.token, paymentInfo.receiver, amount - feeAmount);
    }

    function send(address token, address recipient, uint256 amount) private {
        require(Token(token).transfer(recipient, amount));
    }

    function validatePayment(PaymentInfo calldata paymentInfo, uint256 amount) private view {
        uint48 preApproval = paymentInfo.preApprovalExpiry;
        uint48 authorization = paymentInfo.authorizationExpiry;
        if (amount > paymentInfo.maxAmount) revert ExceedsMaxAmount(amount, paymentInfo.maxAmount);
        if (block.timestamp >= preApproval) revert AfterPreApprovalExpiry(uint48(block.timestamp), preApproval);
        if (preApproval > authorization || authorization > paymentInfo.refundExpiry) {
            revert InvalidExpiries(preApproval, authorization, paymentInfo.refundExpiry);
        }
        if (paymentInfo.maxFeeBps > MAX_FEE_BPS) revert FeeBpsOverflow(paymentInfo.maxFeeBps);
        if (paymentInfo.minFeeBps > paymentInfo.maxFeeBps) {
            revert InvalidFeeBpsRange(paymentInfo.minFeeBps, paymentInfo.maxFeeBps);
        }
    }

    function validateFee(PaymentInfo calldata paymentInfo, uint256 amount, uint256 feeAmount, address feeReceiver)
        private
        pure
    {
        uint256 min = amount * paymentInfo.minFeeBps / MAX_FEE_BPS;
        uint256 max = amount * paymentInfo.maxFeeBps / MAX_FEE_BPS;
        if (feeAmount < min || feeAmount > max) revert FeeAmountOutOfRange(feeAmount, min, max);
        if (feeReceiver == address(0) && feeAmount > 0) revert ZeroFeeReceiver();
        if (paymentInfo.feeReceiver != address(0) && paymentInfo.feeReceiver != feeReceiver) {
            revert InvalidFeeReceiver(feeReceiver, paymentInfo.feeReceiver);
        }
    }
}
