// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity ^0.8.28;

// Contracts that a payer or a token's owner may have, honest and otherwise.

/// An honest contract wallet with one owner (ERC-1271).
contract Wallet {
    address owner;

    constructor(address owner_) {
        owner = owner_;
    }

    function check(bytes32 hash, bytes calldata signature) internal view returns (bool) {
        if (signature.length != 65) return false;
        bytes32 r = bytes32(signature[0:32]);
        bytes32 s = bytes32(signature[32:64]);
        return ecrecover(hash, uint8(signature[64]), r, s) == owner;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external virtual returns (bytes4) {
        return check(hash, signature) ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }

    /// For spending before a payment is settled.
    function call(address to, bytes calldata data) external {
        (bool ok, ) = to.call(data);
        require(ok);
    }
}

/// Says yes as long as the call costs nothing, which is as long as it is a simulation.
contract WalletThatTellsSimulations is Wallet {
    constructor(address owner_) Wallet(owner_) {}

    function isValidSignature(bytes32 hash, bytes calldata signature) external override returns (bytes4) {
        bool simulated = block.basefee == 0 || tx.gasprice == 0 || tx.origin == address(0);
        return simulated && check(hash, signature) ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }
}

/// The signature says until which block it is good: a number behind its 65 bytes.
contract WalletUntilBlock is Wallet {
    constructor(address owner_) Wallet(owner_) {}

    function isValidSignature(bytes32 hash, bytes calldata signature) external override returns (bytes4) {
        bool good = signature.length == 97 && block.number <= uint256(bytes32(signature[65:97]));
        return good && check(hash, signature[0:65]) ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }
}

/// Agrees to the transactions of one sender.
contract WalletOfOneSender is Wallet {
    address sender;

    constructor(address owner_, address sender_) Wallet(owner_) {
        sender = sender_;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external override returns (bytes4) {
        return tx.origin == sender && check(hash, signature) ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }
}

/// Uses all the gas it is given.
contract WalletThatBurnsGas is Wallet {
    constructor(address owner_) Wallet(owner_) {}

    function isValidSignature(bytes32, bytes calldata) external pure override returns (bytes4) {
        for (uint256 i = 0; ; i++) {}
        return bytes4(0x1626ba7e);
    }
}

/// Returns far more than it was asked for.
contract WalletThatFloods is Wallet {
    constructor(address owner_) Wallet(owner_) {}

    function isValidSignature(bytes32, bytes calldata) external pure override returns (bytes4) {
        assembly {
            mstore(0, 0x1626ba7e00000000000000000000000000000000000000000000000000000000)
            return(0, 60000)
        }
    }
}

/// Returns the right four bytes with dirt behind them.
contract WalletWithDirt is Wallet {
    constructor(address owner_) Wallet(owner_) {}

    function isValidSignature(bytes32, bytes calldata) external pure override returns (bytes4) {
        assembly {
            mstore(0, 0x1626ba7e00000000000000000000000000000000000000000000000000000001)
            return(0, 32)
        }
    }
}

/// Returns one byte too few.
contract WalletThatIsShort is Wallet {
    constructor(address owner_) Wallet(owner_) {}

    function isValidSignature(bytes32, bytes calldata) external pure override returns (bytes4) {
        assembly {
            mstore(0, 0x1626ba7e00000000000000000000000000000000000000000000000000000000)
            return(0, 31)
        }
    }
}

/// Reverts.
contract WalletThatReverts is Wallet {
    constructor(address owner_) Wallet(owner_) {}

    function isValidSignature(bytes32, bytes calldata) external pure override returns (bytes4) {
        revert("no");
    }
}

/// Accepts every signature.
contract WalletThatAcceptsAll is Wallet {
    constructor(address owner_) Wallet(owner_) {}

    function isValidSignature(bytes32, bytes calldata) external pure override returns (bytes4) {
        return 0x1626ba7e;
    }
}

/// Makes an act possible for one sender only.
contract OneSender {
    error NotTheSender(address sender);
    error TooLate(uint256 number);

    address sender;
    uint256 acts;

    constructor(address sender_) {
        sender = sender_;
    }

    function act() external {
        if (msg.sender != sender) revert NotTheSender(msg.sender);
        acts++;
    }

    /// Acts up to the block with this number.
    function actUntil(uint256 number) external {
        if (block.number > number) revert TooLate(number);
        acts++;
    }

    function burn() external {
        for (uint256 i = 0; ; i++) acts = i;
    }
}

/// A factory that an operator should never allow: it does what its caller says.
contract AnyFactory {
    /// Deploys a contract, and burns its gas if there is one already.
    function deploy(bytes memory code, bytes32 salt) public {
        address account;
        assembly { account := create2(0, add(code, 32), mload(code), salt) }
        require(account != address(0));
    }

    /// Deploys a contract, and reverts if there is one already.
    function deployNew(bytes memory code, bytes32 salt, address account) external {
        require(account.code.length == 0);
        deploy(code, salt);
    }

    function forward(address to, bytes calldata data) public {
        (bool ok, ) = to.call(data);
        require(ok);
    }

    function deployAndForward(bytes memory code, bytes32 salt, address to, bytes calldata data) external {
        deploy(code, salt);
        forward(to, data);
    }

    function fail() external pure {
        revert("no");
    }

    function burn() external pure {
        for (uint256 i = 0; ; i++) {}
    }
}

/// A token with EIP-3009 that takes transfers as it likes; by itself, an honest one.
contract Token {
    event Transfer(address indexed from, address indexed to, uint256 value);
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);

    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(bytes32 => bool)) public authorizationState;
    string public constant name = "Coin";

    bytes32 constant TYPE_HASH = 0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267;

    function mint(address to, uint256 value) external {
        balanceOf[to] += value;
    }

    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        return keccak256(abi.encode(
            keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
            keccak256("Coin"), keccak256("1"), block.chainid, address(this)));
    }

    function transferWithAuthorization(
        address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce,
        uint8 v, bytes32 r, bytes32 s
    ) external virtual {
        require(block.timestamp > validAfter && block.timestamp < validBefore, "Coin: time");
        require(!authorizationState[from][nonce], "Coin: used");
        bytes32 hash = keccak256(abi.encode(TYPE_HASH, from, to, value, validAfter, validBefore, nonce));
        require(ecrecover(keccak256(abi.encodePacked("\x19\x01", DOMAIN_SEPARATOR(), hash)), v, r, s) == from, "Coin: signature");
        authorizationState[from][nonce] = true;
        use_(from, to, value, nonce);
    }

    function use_(address from, address to, uint256 value, bytes32 nonce) internal virtual {
        emit AuthorizationUsed(from, nonce);
        move(from, to, value);
    }

    function move(address from, address to, uint256 value) internal virtual {
        balanceOf[from] -= value;
        balanceOf[to] += value;
        emit Transfer(from, to, value);
    }
}

/// Takes a fee out of what the recipient gets.
contract TokenWithFee is Token {
    function move(address from, address to, uint256 value) internal override {
        uint256 fee = value / 100;
        balanceOf[from] -= value;
        balanceOf[to] += value - fee;
        balanceOf[address(this)] += fee;
        emit Transfer(from, to, value - fee);
        emit Transfer(from, address(this), fee);
    }
}

/// An honest token that says whose authorization it was after it has moved the money.
contract TokenThatLogsTheTransferFirst is Token {
    function use_(address from, address to, uint256 value, bytes32 nonce) internal override {
        move(from, to, value);
        emit AuthorizationUsed(from, nonce);
    }
}

/// Succeeds and does nothing.
contract TokenThatDoesNothing is Token {
    function move(address, address, uint256) internal override {}
}

/// Says that it moved the money twice.
contract TokenThatSaysItTwice is Token {
    function move(address from, address to, uint256 value) internal override {
        super.move(from, to, value);
        emit Transfer(from, to, value);
    }
}

/// Lets another contract say that the money moved.
contract TokenThatLies is Token {
    Liar liar = new Liar();

    function move(address from, address to, uint256 value) internal override {
        liar.lie(from, to, value);
    }
}

contract Liar {
    event Transfer(address indexed from, address indexed to, uint256 value);

    function lie(address from, address to, uint256 value) external {
        emit Transfer(from, to, value);
    }
}

/// Knows no EIP-3009.
contract TokenWithoutAuthorizations {
    mapping(address => uint256) public balanceOf;

    function mint(address to, uint256 value) external {
        balanceOf[to] += value;
    }
}

/// Freezes everybody.
contract TokenThatIsPaused is Token {
    function move(address, address, uint256) internal pure override {
        revert("Coin: paused");
    }
}
