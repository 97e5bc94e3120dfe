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
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;

    function transfer(address to, uint256 amount) external returns (bool);
}

interface Escrow {
    function getHash(PaymentInfo calldata paymentInfo) external view returns (bytes32);
}

/// The interface and the nonce of ERC3009PaymentCollector, for local chains: no registry has the bytecode of the
/// deployed contract. The deployment of a payer's account (ERC-6492) is left out.
contract Eip3009PaymentCollector {
    error OnlyAuthCaptureEscrow();

    Escrow public constant authCaptureEscrow = Escrow(0xf96815976523E00e65Be8f34cA5e64b4f41EB19c);
    uint8 public constant collectorType = 0;

    function collectTokens(
        PaymentInfo memory paymentInfo,
        address tokenStore,
        uint256 amount,
        bytes calldata collectorData
    ) external {
        if (msg.sender != address(authCaptureEscrow)) revert OnlyAuthCaptureEscrow();
        Token token = Token(paymentInfo.token);
        (address payer, uint256 max) = (paymentInfo.payer, paymentInfo.maxAmount);
        // What the payer signs does not name it.
        paymentInfo.payer = address(0);
        bytes32 nonce = authCaptureEscrow.getHash(paymentInfo);
        // Only the named recipient can use an authorization to receive, so the tokens come here first.
        uint256 validBefore = paymentInfo.preApprovalExpiry;
        token.receiveWithAuthorization(payer, address(this), max, 0, validBefore, nonce, collectorData);
        if (max > amount) require(token.transfer(payer, max - amount));
        require(token.transfer(tokenStore, amount));
    }
}
