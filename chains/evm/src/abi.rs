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
    }

    /// The EIP-712 domain of a token, as EIP-3009 and EIP-2612 tokens publish it.
    #[derive(Debug)]
    interface Eip712Token {
        function DOMAIN_SEPARATOR() external view returns (bytes32);
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

    /// The proxy through which `exact` payments use Permit2.
    #[derive(Debug)]
    interface ExactPermit2Proxy {
        struct Witness { address to; uint256 validAfter; }
        function settle(
            PermitTransferFrom permit, address owner, Witness witness, bytes signature
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
