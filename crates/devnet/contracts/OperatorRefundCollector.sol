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
    function transferFrom(address from, address to, uint256 amount) external returns (bool);
}

/// The interface of OperatorRefundCollector, for local chains: no registry has the bytecode of the deployed contract.
contract OperatorRefundCollector {
    error OnlyAuthCaptureEscrow();

    address public constant authCaptureEscrow = 0xf96815976523E00e65Be8f34cA5e64b4f41EB19c;
    uint8 public constant collectorType = 1;

    /// Takes the tokens from the operator, which has approved this contract.
    function collectTokens(
        PaymentInfo calldata paymentInfo,
        address tokenStore,
        uint256 amount,
        bytes calldata
    ) external {
        if (msg.sender != authCaptureEscrow) revert OnlyAuthCaptureEscrow();
        require(Token(paymentInfo.token).transferFrom(paymentInfo.operator, tokenStore, amount));
    }
}
