//! The contracts this crate speaks to.

use alloy::sol;

sol! {
    /// EIP-3009, and what FiatToken 2.2 adds to it: the same transfer with a signature of any length.
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

    /// The parts of ERC-20 that are needed.
    #[derive(Debug)]
    interface Erc20 {
        event Transfer(address indexed from, address indexed to, uint256 value);
        function balanceOf(address account) external view returns (uint256);
    }

    /// EIP-712's own part of a token.
    #[derive(Debug)]
    interface Eip712Token {
        function DOMAIN_SEPARATOR() external view returns (bytes32);
    }

    /// ERC-1271.
    #[derive(Debug)]
    interface ContractWallet {
        function isValidSignature(bytes32 hash, bytes signature) external view returns (bytes4);
    }
}

/// What a contract wallet answers when a signature is good (ERC-1271), as the 32-byte word it is returned in.
pub(crate) const ERC1271_MAGIC: [u8; 32] = {
    let mut word = [0; 32];
    (word[0], word[1], word[2], word[3]) = (0x16, 0x26, 0xba, 0x7e);
    word
};
