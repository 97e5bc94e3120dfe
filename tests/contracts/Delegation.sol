// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity ^0.8.28;

// Delegations by ERC-7710 on local chains, with the interfaces, the messages and the encodings of the Delegation
// Framework: a manager, two caveats, an honest account, and accounts that misbehave.

struct Caveat {
    address enforcer;
    bytes terms;
    bytes args;
}

struct Delegation {
    address delegate;
    address delegator;
    bytes32 authority;
    Caveat[] caveats;
    uint256 salt;
    bytes signature;
}

interface Enforcer {
    /// Reverts if the execution is not allowed.
    function beforeHook(
        bytes calldata terms,
        bytes calldata args,
        bytes32 mode,
        bytes calldata execution,
        bytes32 delegationHash,
        address delegator,
        address redeemer
    ) external;
}

interface Account {
    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4);

    function executeFromExecutor(bytes32 mode, bytes calldata execution) external;
}

/// The accounts and values of an execution of ERC-7579 in the mode for a single call: target, value, data, packed.
library Execution {
    error NotASingleCall();

    function read(bytes32 mode, bytes calldata execution)
        internal
        pure
        returns (address to, uint256 value, bytes calldata data)
    {
        if (mode != bytes32(0) || execution.length < 52) revert NotASingleCall();
        return (address(bytes20(execution[:20])), uint256(bytes32(execution[20:52])), execution[52:]);
    }
}

/// Redeems chains of signed delegations, from the leaf to the root.
contract DelegationManager {
    error BatchDataLengthMismatch();
    error InvalidDelegate();
    error InvalidDelegator();
    error InvalidAuthority();
    error InvalidSignature();
    error CannotUseADisabledDelegation();

    address public constant ANY_DELEGATE = address(0xa11);
    bytes32 public constant ROOT_AUTHORITY = bytes32(type(uint256).max);
    bytes32 constant CAVEAT = keccak256("Caveat(address enforcer,bytes terms)");
    bytes32 constant DELEGATION = keccak256(
        "Delegation(address delegate,address delegator,bytes32 authority,Caveat[] caveats,uint256 salt)Caveat(address enforcer,bytes terms)"
    );
    bytes32 constant DOMAIN =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    mapping(bytes32 => bool) public disabledDelegations;

    function disableDelegation(Delegation calldata delegation) external {
        if (msg.sender != delegation.delegator) revert InvalidDelegator();
        disabledDelegations[hashOf(delegation)] = true;
    }

    function redeemDelegations(
        bytes[] calldata permissionContexts,
        bytes32[] calldata modes,
        bytes[] calldata executionCallDatas
    ) external {
        uint256 count = permissionContexts.length;
        if (modes.length != count || executionCallDatas.length != count) revert BatchDataLengthMismatch();
        for (uint256 i = 0; i < count; i++) {
            redeem(permissionContexts[i], modes[i], executionCallDatas[i]);
        }
    }

    function redeem(bytes calldata context, bytes32 mode, bytes calldata execution) internal {
        Delegation[] memory chain = abi.decode(context, (Delegation[]));
        // Without a delegation, the redeemer's own account makes the call.
        if (chain.length == 0) return Account(msg.sender).executeFromExecutor(mode, execution);
        check(chain);
        for (uint256 i = 0; i < chain.length; i++) {
            bytes32 hash = hashOf(chain[i]);
            for (uint256 j = 0; j < chain[i].caveats.length; j++) {
                Caveat memory caveat = chain[i].caveats[j];
                Enforcer(caveat.enforcer).beforeHook(
                    caveat.terms, caveat.args, mode, execution, hash, chain[i].delegator, msg.sender
                );
            }
        }
        Account(chain[chain.length - 1].delegator).executeFromExecutor(mode, execution);
    }

    /// Each delegation is signed, and the redeemer's right comes from the root.
    function check(Delegation[] memory chain) internal view {
        address redeemer = msg.sender;
        for (uint256 i = 0; i < chain.length; i++) {
            bytes32 hash = hashOf(chain[i]);
            bool isRoot = i + 1 == chain.length;
            if (chain[i].delegate != redeemer && chain[i].delegate != ANY_DELEGATE) revert InvalidDelegate();
            if (chain[i].authority != (isRoot ? ROOT_AUTHORITY : hashOf(chain[i + 1]))) revert InvalidAuthority();
            if (disabledDelegations[hash]) revert CannotUseADisabledDelegation();
            if (!isSigned(chain[i].delegator, hash, chain[i].signature)) revert InvalidSignature();
            redeemer = chain[i].delegator;
        }
    }

    function isSigned(address signer, bytes32 hash, bytes memory signature) internal view returns (bool) {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN, keccak256("DelegationManager"), keccak256("1"), block.chainid, address(this))
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", domain, hash));
        if (signer.code.length > 0) return Account(signer).isValidSignature(digest, signature) == 0x1626ba7e;
        return signer != address(0) && Signature.signer(digest, signature) == signer;
    }

    function hashOf(Delegation memory delegation) internal pure returns (bytes32) {
        bytes32[] memory caveats = new bytes32[](delegation.caveats.length);
        for (uint256 i = 0; i < caveats.length; i++) {
            Caveat memory caveat = delegation.caveats[i];
            caveats[i] = keccak256(abi.encode(CAVEAT, caveat.enforcer, keccak256(caveat.terms)));
        }
        return keccak256(
            abi.encode(
                DELEGATION,
                delegation.delegate,
                delegation.delegator,
                delegation.authority,
                keccak256(abi.encodePacked(caveats)),
                delegation.salt
            )
        );
    }
}

library Signature {
    /// Accepts both values of s, as many wallets do.
    function signer(bytes32 digest, bytes memory signature) internal pure returns (address) {
        if (signature.length != 65) return address(0);
        bytes32 r;
        bytes32 s;
        assembly {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
        }
        return ecrecover(digest, uint8(signature[64]), r, s);
    }
}

/// Allows transfers of one token to one recipient, up to an amount in all. Terms: token, recipient, amount, packed.
contract TransferEnforcer is Enforcer {
    error AnotherCall();
    error AllowanceExceeded();

    mapping(address manager => mapping(bytes32 delegation => uint256)) public spent;

    function beforeHook(
        bytes calldata terms,
        bytes calldata,
        bytes32 mode,
        bytes calldata execution,
        bytes32 delegationHash,
        address,
        address
    ) external {
        uint256 sum = spent[msg.sender][delegationHash] + amountOf(terms, mode, execution);
        if (sum > uint256(bytes32(terms[40:72]))) revert AllowanceExceeded();
        spent[msg.sender][delegationHash] = sum;
    }

    /// The amount of a transfer of the token to the recipient. Reverts for any other call.
    function amountOf(bytes calldata terms, bytes32 mode, bytes calldata execution) internal pure returns (uint256) {
        (address to, uint256 value, bytes calldata data) = Execution.read(mode, execution);
        if (to != address(bytes20(terms[:20])) || value != 0 || data.length != 68) revert AnotherCall();
        bytes memory head = abi.encodePacked(bytes4(0xa9059cbb), bytes12(0), terms[20:40]);
        if (keccak256(data[:36]) != keccak256(head)) revert AnotherCall();
        return uint256(bytes32(data[36:]));
    }
}

/// Allows only these accounts to redeem. Terms: their addresses, packed.
contract RedeemerEnforcer is Enforcer {
    error AnotherRedeemer();

    function beforeHook(
        bytes calldata terms,
        bytes calldata,
        bytes32,
        bytes calldata,
        bytes32,
        address,
        address redeemer
    ) external pure {
        for (uint256 i = 0; i + 20 <= terms.length; i += 20) {
            if (address(bytes20(terms[i:i + 20])) == redeemer) return;
        }
        revert AnotherRedeemer();
    }
}

/// The code of an account with a key (EIP-7702), whose calls the manager may make.
contract DelegatorAccount is Account {
    error NotTheManager();

    address immutable manager;

    constructor(address manager_) {
        manager = manager_;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        return Signature.signer(hash, signature) == address(this) ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }

    function executeFromExecutor(bytes32 mode, bytes calldata execution) external {
        if (msg.sender != manager) revert NotTheManager();
        act(mode, execution);
    }

    function act(bytes32 mode, bytes calldata execution) internal virtual {
        run(mode, execution);
    }

    function run(bytes32 mode, bytes calldata execution) internal {
        (address to, uint256 value, bytes calldata data) = Execution.read(mode, execution);
        (bool succeeded, bytes memory returned) = to.call{value: value}(data);
        if (!succeeded) assembly { revert(add(returned, 32), mload(returned)) }
    }
}

/// Returns, and makes no transfer.
contract AccountThatPaysNothing is DelegatorAccount {
    constructor(address manager_) DelegatorAccount(manager_) {}

    function act(bytes32, bytes calldata) internal override {}
}

/// Makes the transfer twice.
contract AccountThatPaysTwice is DelegatorAccount {
    constructor(address manager_) DelegatorAccount(manager_) {}

    function act(bytes32 mode, bytes calldata execution) internal override {
        run(mode, execution);
        run(mode, execution);
    }
}

/// Uses all the gas it is given.
contract AccountThatBurnsGas is DelegatorAccount {
    constructor(address manager_) DelegatorAccount(manager_) {}

    function act(bytes32, bytes calldata) internal pure override {
        for (uint256 i = 0; ; i++) {}
    }
}

/// Pays as long as the call costs nothing, which is as long as it is a simulation.
contract AccountThatTellsSimulations is DelegatorAccount {
    error NoSimulation();

    constructor(address manager_) DelegatorAccount(manager_) {}

    function act(bytes32 mode, bytes calldata execution) internal override {
        bool simulated = block.basefee == 0 || tx.gasprice == 0 || tx.origin == address(0);
        if (!simulated) revert NoSimulation();
        run(mode, execution);
    }
}
