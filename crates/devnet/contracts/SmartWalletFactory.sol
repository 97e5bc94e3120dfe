// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity ^0.8.20;

/// A smart wallet with one owner, whose key signs for it (ERC-1271). For local chains.
contract SmartWallet {
    address public immutable owner;

    error NotOwner();

    constructor(address owner_) {
        owner = owner_;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        if (signature.length != 65) return 0xffffffff;
        address signer = ecrecover(hash, uint8(signature[64]), bytes32(signature[0:32]), bytes32(signature[32:64]));
        return signer != address(0) && signer == owner ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }

    function execute(address to, bytes calldata data) external {
        if (msg.sender != owner) revert NotOwner();
        (bool succeeded, bytes memory returned) = to.call(data);
        if (!succeeded) assembly { revert(add(returned, 32), mload(returned)) }
    }
}

/// Deploys smart wallets at addresses that are known before (CREATE2). It calls no other contract.
contract SmartWalletFactory {
    function createAccount(address owner, uint256 salt) external returns (address account) {
        account = addressOf(owner, salt);
        if (account.code.length == 0) new SmartWallet{salt: bytes32(salt)}(owner);
    }

    function addressOf(address owner, uint256 salt) public view returns (address) {
        bytes32 code = keccak256(abi.encodePacked(type(SmartWallet).creationCode, abi.encode(owner)));
        return address(uint160(uint256(keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, code)))));
    }
}
