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

interface SignatureTransfer {
    struct TokenPermissions {
        address token;
        uint256 amount;
    }

    struct PermitTransferFrom {
        TokenPermissions permitted;
        uint256 nonce;
        uint256 deadline;
    }

    struct SignatureTransferDetails {
        address to;
        uint256 requestedAmount;
    }

    function permitTransferFrom(
        PermitTransferFrom calldata permit,
        SignatureTransferDetails calldata transferDetails,
        address owner,
        bytes calldata signature
    ) external;
}

interface Escrow {
    function getHash(PaymentInfo calldata paymentInfo) external view returns (bytes32);
}

/// The interface and the nonce of Permit2PaymentCollector, for local chains: no registry has the bytecode of the
/// deployed contract. The deployment of a payer's account (ERC-6492) is left out.
contract Permit2PaymentCollector {
    error OnlyAuthCaptureEscrow();

    Escrow public constant authCaptureEscrow = Escrow(0xf96815976523E00e65Be8f34cA5e64b4f41EB19c);
    SignatureTransfer public constant permit2 = SignatureTransfer(0x000000000022D473030F116dDEE9F6B43aC78BA3);
    uint8 public constant collectorType = 0;

    function collectTokens(
        PaymentInfo memory paymentInfo,
        address tokenStore,
        uint256 amount,
        bytes calldata collectorData
    ) external {
        if (msg.sender != address(authCaptureEscrow)) revert OnlyAuthCaptureEscrow();
        address payer = paymentInfo.payer;
        // What the payer signs does not name it.
        paymentInfo.payer = address(0);
        permit2.permitTransferFrom(
            SignatureTransfer.PermitTransferFrom(
                SignatureTransfer.TokenPermissions(paymentInfo.token, paymentInfo.maxAmount),
                uint256(authCaptureEscrow.getHash(paymentInfo)),
                paymentInfo.preApprovalExpiry
            ),
            SignatureTransfer.SignatureTransferDetails(tokenStore, amount),
            payer,
            collectorData
        );
    }
}
