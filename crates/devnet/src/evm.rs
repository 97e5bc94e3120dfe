//! A local EVM chain: an anvil node with the real USDC contract and funded accounts.

use std::time::Duration;

use alloy::primitives::{Address, Bytes, TxHash, U256, address, hex};
use alloy::providers::MULTICALL3_ADDRESS;
use alloy::providers::bindings::IMulticall3;
use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{RpcRecv, RpcSend};
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol;
use alloy::sol_types::{SolCall, SolValue};
use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::node::{self, rpc_error};
use crate::{DevnetError, Tools};

/// The address of USDC on Base Sepolia and on the local chain.
pub const USDC: Address = address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e");

/// The address of Permit2, the same on every chain.
pub const PERMIT2: Address = address!("000000000022D473030F116dDEE9F6B43aC78BA3");

/// The address of the x402 proxy for exact payments by Permit2, the same on every chain.
pub const EXACT_PERMIT2_PROXY: Address = address!("402085c248EeA27D92E8b30b2C58ed07f9E20001");

/// The init code of the proxy, from `contracts/ExactPermit2Proxy.sol`. A test compiles the source
/// and compares.
const PROXY_CODE: &str = include_str!("../contracts/ExactPermit2Proxy.hex");

/// The address of the x402 proxy for `upto` payments by Permit2, the same on every chain.
pub const UPTO_PERMIT2_PROXY: Address = address!("4020A4f3b7b90ccA423B9fabCc0CE57C6C240002");

/// The init code of that proxy. A test compiles the source and compares.
const UPTO_PROXY_CODE: &str = include_str!("../contracts/UptoPermit2Proxy.hex");

/// The address of x402BatchSettlement, the contract of channels, the same on every chain.
pub const BATCH_SETTLEMENT: Address = address!("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003");

/// The addresses of its deposit collectors, the same on every chain: by EIP-3009 and by Permit2.
pub const DEPOSIT_COLLECTORS: [Address; 2] = [
    address!("4020806089470a89826cB9fB1f4059150b550004"),
    address!("4020425FAf3B746C082C2f942b4E5159887B0005"),
];

/// The init codes of the contract of channels and of its collectors. A test compiles the sources
/// and compares.
const BATCH_SETTLEMENT_CODE: &str = include_str!("../contracts/BatchSettlement.hex");
const COLLECTOR_CODES: [&str; 2] = [
    include_str!("../contracts/Eip3009DepositCollector.hex"),
    include_str!("../contracts/Permit2DepositCollector.hex"),
];

/// The address of AuthCaptureEscrow 1.1, the contract of holds, the same on every chain.
pub const AUTH_CAPTURE_ESCROW: Address = address!("f96815976523E00e65Be8f34cA5e64b4f41EB19c");

/// The addresses of its collectors, the same on every chain: of payments by EIP-3009, of payments
/// by Permit2, and of refunds by the operator.
pub const HOLD_COLLECTORS: [Address; 3] = [
    address!("8612dfdc421f80336cd14E8EF9cb1E765dB5ab88"),
    address!("D69831Aed5bfe262067ec4c751f4F830EcdD446e"),
    address!("7a03443724d14798c4AB4622F1DAAcA761Fea486"),
];

/// The init codes of the contract of holds and of its collectors. A test compiles the sources and
/// compares.
const ESCROW_CODE: &str = include_str!("../contracts/AuthCaptureEscrow.hex");
const HOLD_COLLECTOR_CODES: [&str; 3] = [
    include_str!("../contracts/Eip3009PaymentCollector.hex"),
    include_str!("../contracts/Permit2PaymentCollector.hex"),
    include_str!("../contracts/OperatorRefundCollector.hex"),
];

/// The address of a factory of smart wallets on the local chain, from
/// `contracts/SmartWalletFactory.sol`.
pub const SMART_WALLET_FACTORY: Address = address!("5a17Fac70000000000000000000000000000cafe");

/// The init code of the factory. A test compiles the source and compares.
const FACTORY_CODE: &str = include_str!("../contracts/SmartWalletFactory.hex");

/// The options of a local EVM chain.
#[derive(Debug, Clone)]
pub struct EvmOptions {
    /// The chain id. Base Sepolia's by default, so that every client knows the chain and its USDC.
    pub chain_id: u64,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// When the node makes blocks after the setup.
    pub mining: Mining,
}

/// When a node makes blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mining {
    /// A block for each transaction at once, and an empty block in this interval. Payments do not
    /// wait, and the newest block is recent. The payer sets `validAfter` by its own clock, and the
    /// token compares it with the time of the newest block.
    Mixed(Duration),
    /// A block for each transaction at once, and no other blocks.
    Instant,
    /// A block in this interval, as on a real chain.
    Every(Duration),
    /// Only when [`Evm::mine`] is called.
    Manual,
}

impl Default for EvmOptions {
    fn default() -> Self {
        Self {
            chain_id: 84532,
            port: 0,
            mining: Mining::Mixed(BLOCK_TIME),
        }
    }
}

/// The time between blocks of Base.
const BLOCK_TIME: Duration = Duration::from_secs(2);

/// A development account of the node. Its key is public.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its address.
    pub address: Address,
    /// Its key.
    pub signer: PrivateKeySigner,
    /// Its key as text, for configuration.
    pub key: String,
}

/// The development keys of anvil and hardhat, from the mnemonic "test test test … junk".
const KEYS: [&str; 10] = [
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    "0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
    "0x92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
    "0x4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
    "0xdbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97",
    "0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6",
];

/// The position of the development account that owns the token and mints it during the setup.
const OWNER: usize = 9;

/// The options of a token contract by Circle.
#[derive(Debug, Clone)]
pub struct TokenOptions {
    /// Its name, which is also its EIP-712 name.
    pub name: String,
    /// Its ticker.
    pub symbol: String,
    /// Its decimal places.
    pub decimals: u8,
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self {
            name: "USDC".to_owned(),
            symbol: "USDC".to_owned(),
            decimals: 6,
        }
    }
}

sol! {
    interface FiatToken {
        function initialize(
            string tokenName, string tokenSymbol, string tokenCurrency, uint8 tokenDecimals,
            address newMasterMinter, address newPauser, address newBlacklister, address newOwner
        ) external;
        function initializeV2(string newName) external;
        function initializeV2_1(address lostAndFound) external;
        function initializeV2_2(address[] accountsToBlacklist, string newSymbol) external;
        function configureMinter(address minter, uint256 minterAllowedAmount) external returns (bool);
        function mint(address to, uint256 amount) external returns (bool);
        function approve(address spender, uint256 amount) external returns (bool);
        function balanceOf(address account) external view returns (uint256);
    }
}

/// A contract from Circle's build.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Artifact {
    bytecode: String,
    deployed_bytecode: String,
}

/// A running local EVM chain. It stops when this is dropped.
#[derive(Debug)]
pub struct Evm {
    node: Child,
    rpc: RpcClient,
    url: String,
    chain_id: u64,
}

impl Evm {
    /// Starts a node, puts Multicall3, Permit2, the x402 contracts and USDC at their addresses on
    /// Base Sepolia and a factory of smart wallets at [`SMART_WALLET_FACTORY`], and gives every
    /// development account a million USDC.
    ///
    /// # Errors
    /// When the node is not installed, does not start, or refuses a request.
    pub async fn start(tools: &Tools, options: &EvmOptions) -> Result<Self, DevnetError> {
        let (node, url) = spawn(tools, options).await?;
        let rpc = RpcClient::new_http(url.parse().expect("made from a port"));
        let evm = Self {
            node,
            rpc,
            url,
            chain_id: options.chain_id,
        };
        let runtime = hex::encode(&IMulticall3::BYTECODE[32..]);
        evm.set_code(MULTICALL3_ADDRESS, &runtime).await?;
        evm.set_code(PERMIT2, &tools.permit2()?).await?;
        evm.put_code(EXACT_PERMIT2_PROXY, PROXY_CODE).await?;
        evm.put_code(UPTO_PERMIT2_PROXY, UPTO_PROXY_CODE).await?;
        evm.put_code(BATCH_SETTLEMENT, BATCH_SETTLEMENT_CODE)
            .await?;
        for (at, code) in DEPOSIT_COLLECTORS.into_iter().zip(COLLECTOR_CODES) {
            evm.put_code(at, code).await?;
        }
        evm.put_code(AUTH_CAPTURE_ESCROW, ESCROW_CODE).await?;
        for (at, code) in HOLD_COLLECTORS.into_iter().zip(HOLD_COLLECTOR_CODES) {
            evm.put_code(at, code).await?;
        }
        evm.put_code(SMART_WALLET_FACTORY, FACTORY_CODE).await?;
        evm.put_token(tools, USDC, &TokenOptions::default()).await?;
        for account in Self::accounts() {
            evm.mint(USDC, account.address, U256::from(1_000_000_000_000_u64))
                .await?;
        }
        // The node starts in the mixed mode.
        if !matches!(options.mining, Mining::Mixed(_)) {
            evm.set_mining(options.mining).await?;
        }
        Ok(evm)
    }

    /// The URL of the node.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The chain id.
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// The node's process id, for tests that stop and continue it.
    pub fn process_id(&self) -> Option<u32> {
        self.node.id()
    }

    /// The development accounts, each with 10,000 coins of the chain's own and a million USDC.
    pub fn accounts() -> Vec<Account> {
        KEYS.iter()
            .map(|key| {
                let signer: PrivateKeySigner = key.parse().expect("a constant that is a key");
                Account {
                    address: signer.address(),
                    signer,
                    key: (*key).to_owned(),
                }
            })
            .collect()
    }

    /// Puts a token contract by Circle (FiatToken 2.2, the contract of USDC) at the address `at`.
    ///
    /// # Errors
    /// When the contract is not installed, or the node refuses it.
    pub async fn put_token(
        &self,
        tools: &Tools,
        at: Address,
        options: &TokenOptions,
    ) -> Result<(), DevnetError> {
        let checker: Artifact =
            tools.circle_artifact("util/SignatureChecker.sol/SignatureChecker")?;
        let token: Artifact = tools.circle_artifact("v2/FiatTokenV2_2.sol/FiatTokenV2_2")?;
        let checker = self.deploy(&checker.bytecode).await?;
        self.set_code(at, &link(&token.deployed_bytecode, checker))
            .await?;

        let owner = Self::accounts()[OWNER].address;
        let TokenOptions {
            name,
            symbol,
            decimals,
        } = options;
        let initialize = FiatToken::initializeCall {
            tokenName: name.clone(),
            tokenSymbol: symbol.clone(),
            tokenCurrency: "USD".to_owned(),
            tokenDecimals: *decimals,
            newMasterMinter: owner,
            newPauser: owner,
            newBlacklister: owner,
            newOwner: owner,
        };
        self.send(owner, at, initialize.abi_encode()).await?;
        self.send(
            owner,
            at,
            FiatToken::initializeV2Call {
                newName: name.clone(),
            }
            .abi_encode(),
        )
        .await?;
        let lost_and_found = Address::repeat_byte(0xfe);
        self.send(
            owner,
            at,
            FiatToken::initializeV2_1Call {
                lostAndFound: lost_and_found,
            }
            .abi_encode(),
        )
        .await?;
        let v2_2 = FiatToken::initializeV2_2Call {
            accountsToBlacklist: vec![],
            newSymbol: symbol.clone(),
        };
        self.send(owner, at, v2_2.abi_encode()).await?;
        let minter = FiatToken::configureMinterCall {
            minter: owner,
            minterAllowedAmount: U256::MAX,
        };
        self.send(owner, at, minter.abi_encode()).await?;
        Ok(())
    }

    /// Approves Permit2 to move any amount of a token of a development account.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn approve_permit2(&self, token: Address, owner: Address) -> Result<(), DevnetError> {
        let approve = FiatToken::approveCall {
            spender: PERMIT2,
            amount: U256::MAX,
        };
        self.send(owner, token, approve.abi_encode())
            .await
            .map(drop)
    }

    /// Mints `amount` of a token that [`put_token`](Self::put_token) made.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn mint(&self, token: Address, to: Address, amount: U256) -> Result<(), DevnetError> {
        self.send(
            Self::accounts()[OWNER].address,
            token,
            FiatToken::mintCall { to, amount }.abi_encode(),
        )
        .await?;
        Ok(())
    }

    /// The balance of an account in `token`, in atomic units.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn balance(&self, token: Address, account: Address) -> Result<U256, DevnetError> {
        let data = self
            .call(token, FiatToken::balanceOfCall { account }.abi_encode())
            .await?;
        U256::abi_decode(&data).map_err(|error| rpc_error("balanceOf", error))
    }

    /// Deploys a contract from its init code in hexadecimal. Returns its address.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn deploy(&self, init_code: &str) -> Result<Address, DevnetError> {
        let code = hex::decode(init_code).map_err(|error| rpc_error("deploy", error))?;
        let owner = Self::accounts()[OWNER].address;
        let request = TransactionRequest {
            input: Bytes::from(code).into(),
            ..Default::default()
        }
        .from(owner);
        let receipt = self.execute(request).await?;
        receipt
            .contract_address
            .ok_or_else(|| rpc_error("deploy", "no contract came of it"))
    }

    /// Puts the contract with this init code in hexadecimal at the address `at`.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn put_code(&self, at: Address, init_code: &str) -> Result<(), DevnetError> {
        let deployed = self.deploy(init_code).await?;
        let code: String = self.rpc("eth_getCode", (deployed, "latest")).await?;
        self.set_code(at, &code).await
    }

    /// Sends a transaction from a development account and waits until it is in a block.
    ///
    /// # Errors
    /// When it reverts or is not included.
    pub async fn send(
        &self,
        from: Address,
        to: Address,
        data: Vec<u8>,
    ) -> Result<TransactionReceipt, DevnetError> {
        self.execute(
            TransactionRequest {
                input: Bytes::from(data).into(),
                ..Default::default()
            }
            .from(from)
            .to(to),
        )
        .await
    }

    /// Calls a contract without changing anything.
    ///
    /// # Errors
    /// When the call reverts.
    pub async fn call(&self, to: Address, data: Vec<u8>) -> Result<Bytes, DevnetError> {
        let request = TransactionRequest {
            input: Bytes::from(data).into(),
            ..Default::default()
        }
        .to(to);
        self.rpc("eth_call", (request, "latest")).await
    }

    /// Replaces the code at an address with this runtime code in hexadecimal.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn set_code(&self, at: Address, runtime: &str) -> Result<(), DevnetError> {
        let code = format!("0x{}", runtime.trim_start_matches("0x"));
        self.rpc::<_, Option<()>>("anvil_setCode", (at, code))
            .await
            .map(drop)
    }

    /// Changes when the node makes blocks.
    ///
    /// # Errors
    /// When the node refuses. A running node cannot change to [`Mining::Mixed`].
    pub async fn set_mining(&self, mining: Mining) -> Result<(), DevnetError> {
        // Each of these requests ends the mode before it.
        let (method, value) = match mining {
            Mining::Instant => ("evm_setAutomine", serde_json::json!(true)),
            // This also ends the mixed mode, which the method for the instant mode does not.
            Mining::Manual => ("evm_setIntervalMining", serde_json::json!(0)),
            Mining::Every(interval) => (
                "evm_setIntervalMining",
                serde_json::json!(interval.as_secs().max(1)),
            ),
            Mining::Mixed(_) => {
                let what = "mixed mining begins with the node or not at all";
                return Err(rpc_error("evm_setIntervalMining", what));
            }
        };
        self.rpc::<_, Option<()>>(method, (value,)).await.map(drop)
    }

    /// Makes a block of all pending transactions.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn mine(&self) -> Result<(), DevnetError> {
        self.rpc::<_, serde_json::Value>("evm_mine", ())
            .await
            .map(drop)
    }

    /// Sends a request to the node.
    ///
    /// # Errors
    /// The error of the node.
    pub async fn rpc<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, DevnetError> {
        self.rpc
            .request(method, params)
            .await
            .map_err(|error| rpc_error(method, error))
    }

    async fn execute(
        &self,
        request: TransactionRequest,
    ) -> Result<TransactionReceipt, DevnetError> {
        /// In the instant mode the node includes a transaction before it answers. Half a minute is
        /// enough for a slow machine with blocks every few seconds.
        const WAIT: Duration = Duration::from_secs(30);
        let id: TxHash = self.rpc("eth_sendTransaction", (request,)).await?;
        let included = async {
            loop {
                let receipt: Option<TransactionReceipt> =
                    self.rpc("eth_getTransactionReceipt", (id,)).await?;
                match receipt {
                    Some(receipt) if receipt.status() => return Ok(receipt),
                    Some(_) => return Err(rpc_error("eth_sendTransaction", "reverted")),
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(WAIT, included)
            .await
            .unwrap_or_else(|_| Err(rpc_error("eth_sendTransaction", "not included in time")))
    }
}

/// Links a contract to its only library.
fn link(code: &str, library: Address) -> String {
    const PLACEHOLDER_LEN: usize = 40;
    let mut linked = code.to_owned();
    while let Some(at) = linked.find("__$") {
        linked.replace_range(at..at + PLACEHOLDER_LEN, &hex::encode(library));
    }
    linked
}

async fn spawn(tools: &Tools, options: &EvmOptions) -> Result<(Child, String), DevnetError> {
    /// On an idle machine anvil starts within 150 ms. A loaded machine may need a hundred times as
    /// long.
    const WAIT: Duration = Duration::from_secs(15);
    let mut node = Command::new(tools.anvil()?);
    node.args(["--host", "127.0.0.1", "--port", &options.port.to_string()])
        .args(["--chain-id", &options.chain_id.to_string()])
        // Enough for a few thousand transfers in a block, so that the gas limit does not affect a
        // measurement.
        .args(["--gas-limit", "300000000"]);
    if let Mining::Mixed(interval) = options.mining {
        let seconds = interval.as_secs().max(1).to_string();
        node.args(["--mixed-mining", "--block-time", &seconds]);
    }
    let (node, place) = node::start(&mut node, "Listening on ", WAIT).await?;
    Ok((node, format!("http://{place}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_chain_starts_with_money_in_every_account() {
        let tools = Tools::find().unwrap();
        let evm = Evm::start(&tools, &EvmOptions::default()).await.unwrap();
        for account in Evm::accounts() {
            assert_eq!(
                evm.balance(USDC, account.address).await.unwrap(),
                U256::from(1_000_000_000_000_u64)
            );
        }
        let id: U256 = evm.rpc("eth_chainId", ()).await.unwrap();
        assert_eq!(id, U256::from(84532));
    }

    /// `validAfter` of a payment is its payer's time, and the token compares it with the newest
    /// block.
    #[tokio::test]
    async fn an_idle_chain_keeps_up_with_the_time_and_includes_at_once() {
        let tools = Tools::find().unwrap();
        let options = EvmOptions {
            mining: Mining::Mixed(Duration::from_secs(1)),
            ..EvmOptions::default()
        };
        let evm = Evm::start(&tools, &options).await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
        let head: serde_json::Value = evm
            .rpc("eth_getBlockByNumber", ("latest", false))
            .await
            .unwrap();
        let time: U256 = serde_json::from_value(head["timestamp"].clone()).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let age = now.unwrap().as_secs().saturating_sub(time.to());
        assert!(age <= 3, "{age} seconds old");

        // It stops on demand.
        let number = async || -> U256 { evm.rpc("eth_blockNumber", ()).await.unwrap() };
        evm.set_mining(Mining::Manual).await.unwrap();
        let before = number().await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(number().await, before);
        evm.set_mining(Mining::Instant).await.unwrap();
        evm.mint(USDC, Address::repeat_byte(5), U256::from(1))
            .await
            .unwrap();
        assert_eq!(number().await, before + U256::from(1));
    }
}
