//! A local Solana cluster: Solana's virtual machine with the programs of mainnet, a token of each
//! token program, and funded accounts.

use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use solana_commitment_config::CommitmentConfig;
use solana_keypair::Keypair;
use solana_pubkey::Pubkey;
use solana_rpc_client::nonblocking::rpc_client::RpcClient;
use solana_rpc_client_api::request::RpcRequest;
use solana_signer::Signer as _;
use tokio::process::{Child, Command};

use crate::node::{self, rpc_error};
use crate::{DevnetError, Tools};

/// The mint of USDC on Solana's devnet and on the local cluster, a token of SPL Token.
pub const SOLANA_USDC: Pubkey =
    Pubkey::from_str_const("4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU");

/// A token of Token-2022 on the local cluster, without extensions.
pub const SOLANA_TOKEN_2022: Pubkey =
    Pubkey::from_str_const("2b1kV6DkPAnxd5ixfnxCpjxmKwqjjaYmCZfHsFu24GXo");

/// The genesis hash of Solana's devnet and of the local cluster, so that clients know its USDC.
pub const SOLANA_GENESIS: &str = "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG";

/// SPL Token.
const TOKEN: Pubkey = Pubkey::from_str_const("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA");
/// Token-2022.
const TOKEN_2022: Pubkey = Pubkey::from_str_const("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb");
/// The program of associated token accounts.
const ASSOCIATED_TOKEN: Pubkey =
    Pubkey::from_str_const("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL");
/// The system program. It owns accounts with only lamports.
const SYSTEM: Pubkey = Pubkey::new_from_array([0; 32]);

/// The program that owns lookup tables.
const LOOKUP_TABLE: Pubkey = Pubkey::from_str_const("AddressLookupTab1e1111111111111111111111111");

/// The size of a lookup table's header in bytes (`LOOKUP_TABLE_META_SIZE` of the runtime).
const LOOKUP_TABLE_META: usize = 56;

/// The number of funded accounts.
const ACCOUNTS: u8 = 10;

/// The balance of each account in each token, in atomic units: a million with six decimal places.
const TOKENS_EACH: u64 = 1_000_000_000_000;

/// The balance of each account in lamports: a hundred SOL.
const LAMPORTS_EACH: u64 = 100_000_000_000;

/// The options of a local cluster.
#[derive(Debug, Clone)]
pub struct SolanaOptions {
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// The time between blocks. With `None` only [`Solana::mine`] makes blocks.
    pub slot_time: Option<Duration>,
    /// The genesis hash that the node reports. By default that of Solana's devnet.
    pub genesis: String,
}

impl Default for SolanaOptions {
    fn default() -> Self {
        Self {
            port: 0,
            slot_time: Some(Duration::from_millis(400)),
            genesis: SOLANA_GENESIS.to_owned(),
        }
    }
}

/// A development account. Its key is public.
#[derive(Debug)]
pub struct SolanaAccount {
    /// Its address.
    pub address: Pubkey,
    /// Its key.
    pub keypair: Keypair,
    /// Its key as text, for configuration.
    pub key: String,
}

/// A running local cluster. It stops when this is dropped.
pub struct Solana {
    client: RpcClient,
    url: String,
    node: Child,
}

impl Solana {
    /// Starts a node, makes both tokens, and gives every development account a million of each.
    ///
    /// # Errors
    /// When the node is not installed, does not start, or refuses a request.
    pub async fn start(tools: &Tools, options: &SolanaOptions) -> Result<Self, DevnetError> {
        let (node, url) = spawn(tools, options).await?;
        let confirmed = CommitmentConfig::confirmed();
        let client = RpcClient::new_with_commitment(url.clone(), confirmed);
        let solana = Self { client, url, node };
        solana.put_mint(SOLANA_USDC, TOKEN, 6, &[]).await?;
        solana
            .put_mint(SOLANA_TOKEN_2022, TOKEN_2022, 6, &[])
            .await?;
        for account in Self::accounts() {
            solana.put_lamports(account.address, LAMPORTS_EACH).await?;
            for (mint, program) in [(SOLANA_USDC, TOKEN), (SOLANA_TOKEN_2022, TOKEN_2022)] {
                solana
                    .put_tokens(account.address, mint, program, TOKENS_EACH)
                    .await?;
            }
        }
        Ok(solana)
    }

    /// The URL of the node.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The client of the node. Its commitment is `confirmed`.
    pub fn client(&self) -> &RpcClient {
        &self.client
    }

    /// The node's process id, for tests that stop and continue it.
    pub fn process_id(&self) -> Option<u32> {
        self.node.id()
    }

    /// The development accounts.
    pub fn accounts() -> Vec<SolanaAccount> {
        let account = |seed: u8| {
            let keypair = Keypair::new_from_array([seed; 32]);
            SolanaAccount {
                address: keypair.pubkey(),
                key: keypair.to_base58_string(),
                keypair,
            }
        };
        (1..=ACCOUNTS).map(account).collect()
    }

    /// Makes a mint of a token program, followed by these bytes of extensions.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn put_mint(
        &self,
        mint: Pubkey,
        program: Pubkey,
        decimals: u8,
        extensions: &[u8],
    ) -> Result<(), DevnetError> {
        // No mint authority, a supply of 0, initialized, no freeze authority.
        let mut data = vec![0; 82];
        data[44] = decimals;
        data[45] = 1;
        if !extensions.is_empty() {
            // A mint with extensions is padded to the length of a token account and has a type
            // byte.
            data.resize(165, 0);
            data.push(1);
            data.extend_from_slice(extensions);
        }
        self.put_account(mint, program, &data, None).await
    }

    /// Makes the associated token account of `owner`, with `amount` atomic units in it.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn put_tokens(
        &self,
        owner: Pubkey,
        mint: Pubkey,
        program: Pubkey,
        amount: u64,
    ) -> Result<(), DevnetError> {
        let mut data = vec![0; 165];
        data[..32].copy_from_slice(mint.as_ref());
        data[32..64].copy_from_slice(owner.as_ref());
        data[64..72].copy_from_slice(&amount.to_le_bytes());
        data[108] = 1;
        let at = Self::token_account(&owner, &mint, &program);
        self.put_account(at, program, &data, None).await
    }

    /// Sets the balance of an address in lamports.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn put_lamports(&self, at: Pubkey, lamports: u64) -> Result<(), DevnetError> {
        self.put_account(at, SYSTEM, &[], Some(lamports)).await
    }

    /// Puts a compiled program, an ELF file, at an address. It replaces an existing program.
    ///
    /// # Errors
    /// When the virtual machine refuses the file.
    pub async fn add_program(&self, address: Pubkey, elf: &[u8]) -> Result<(), DevnetError> {
        let params = json!([address.to_string(), base64(elf)]);
        self.rpc::<Value>("devnet_addProgram", params)
            .await
            .map(drop)
    }

    /// Makes an address lookup table with these addresses, and returns its address. It can be used
    /// at once, and cannot be changed.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn lookup_table(&self, addresses: &[Pubkey]) -> Result<Pubkey, DevnetError> {
        // A table; never deactivated; last extended in slot 0, from entry 0; no authority; padding.
        let mut data = vec![0; LOOKUP_TABLE_META];
        data[0] = 1;
        data[4..12].copy_from_slice(&u64::MAX.to_le_bytes());
        data.extend(addresses.iter().flat_map(Pubkey::to_bytes));
        let table = Keypair::new().pubkey();
        self.put_account(table, LOOKUP_TABLE, &data, None).await?;
        Ok(table)
    }

    /// Makes or replaces an account with this owner, data and balance. Without `lamports` the
    /// balance is the minimum for rent exemption.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn put_account(
        &self,
        at: Pubkey,
        owner: Pubkey,
        data: &[u8],
        lamports: Option<u64>,
    ) -> Result<(), DevnetError> {
        let account =
            json!({ "owner": owner.to_string(), "data": base64(data), "lamports": lamports });
        self.rpc::<Value>("devnet_setAccount", json!([at.to_string(), account]))
            .await
            .map(drop)
    }

    /// The associated token account of an owner.
    pub fn token_account(owner: &Pubkey, mint: &Pubkey, program: &Pubkey) -> Pubkey {
        let seeds = [owner.as_ref(), program.as_ref(), mint.as_ref()];
        Pubkey::find_program_address(&seeds, &ASSOCIATED_TOKEN).0
    }

    /// The balance of the associated token account of an owner, in atomic units.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn balance(
        &self,
        owner: &Pubkey,
        mint: &Pubkey,
        program: &Pubkey,
    ) -> Result<u64, DevnetError> {
        let at = Self::token_account(owner, mint, program);
        let method = RpcRequest::GetTokenAccountBalance.as_str();
        let found = self.client.get_token_account_balance(&at).await;
        let found = found.map_err(|error| rpc_error(method, error))?;
        let amount = found.amount.parse();
        amount.map_err(|error| rpc_error(method, error))
    }

    /// Makes this many blocks. The first contains all pending transactions.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn mine(&self, count: u64) -> Result<(), DevnetError> {
        self.rpc::<Value>("devnet_mine", json!([count]))
            .await
            .map(drop)
    }

    /// Changes the time between blocks. With `None` only [`Solana::mine`] makes blocks.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn set_slot_time(&self, slot_time: Option<Duration>) -> Result<(), DevnetError> {
        let milliseconds = slot_time.map_or(0, |time| time.as_millis() as u64);
        self.rpc::<Value>("devnet_setSlotTime", json!([milliseconds]))
            .await
            .map(drop)
    }

    /// Sends a request that the client has no function for, or whose result is read as it is.
    /// `params` is a list.
    ///
    /// # Errors
    /// The error of the node.
    pub async fn rpc<R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<R, DevnetError> {
        let request = RpcRequest::Custom { method };
        let result = self.client.send(request, params).await;
        result.map_err(|error| rpc_error(method, error))
    }
}

impl fmt::Debug for Solana {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client has no `Debug`.
        f.debug_struct("Solana")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

fn base64(data: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(data)
}

async fn spawn(tools: &Tools, options: &SolanaOptions) -> Result<(Child, String), DevnetError> {
    /// On an idle machine the node starts within a second. A loaded machine may need a hundred
    /// times as long.
    const WAIT: Duration = Duration::from_secs(60);
    let milliseconds = options.slot_time.map_or(0, |time| time.as_millis());
    let mut node = Command::new("node");
    node.arg(tools.solana()?)
        .args([options.port.to_string(), milliseconds.to_string()])
        .arg(&options.genesis)
        // The node stops when its standard input is closed.
        .stdin(Stdio::piped());
    let (node, port) = node::start(&mut node, "ready ", WAIT).await?;
    Ok((node, format!("http://127.0.0.1:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_account_of_a_cluster_is_funded() {
        let tools = Tools::find().unwrap();
        let solana = Solana::start(&tools, &SolanaOptions::default())
            .await
            .unwrap();
        for account in Solana::accounts() {
            for (mint, program) in [(SOLANA_USDC, TOKEN), (SOLANA_TOKEN_2022, TOKEN_2022)] {
                let balance = solana.balance(&account.address, &mint, &program).await;
                assert_eq!(balance.unwrap(), TOKENS_EACH);
            }
        }
    }

    /// Every number of an answer that is not a 64-bit integer, with its path.
    fn odd_numbers(at: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Array(list) => list
                .iter()
                .for_each(|one| odd_numbers(&format!("{at}[]"), one, found)),
            Value::Object(map) => map
                .iter()
                .for_each(|(name, one)| odd_numbers(&format!("{at}.{name}"), one, found)),
            // The only number that a node writes as a float.
            Value::Number(_) if at.ends_with(".uiAmount") => {}
            Value::Number(number) if number.is_u64() || number.is_i64() => {}
            Value::Number(number) => found.push(format!("{at}: {number}")),
            _ => {}
        }
    }

    /// The Python SDK and every client that parses a u64 failed at a `rentEpoch` that was rounded
    /// to the 53 bits of a float.
    #[tokio::test]
    async fn every_number_is_reported_exactly() {
        const ODD: u64 = (1 << 53) + 1;
        let tools = Tools::find().unwrap();
        let solana = Solana::start(&tools, &SolanaOptions::default())
            .await
            .unwrap();
        let rich = Pubkey::new_from_array([77; 32]);
        let account =
            json!({ "owner": SYSTEM.to_string(), "data": "", "lamports": ODD.to_string() });
        let _: Value = solana
            .rpc("devnet_setAccount", json!([rich.to_string(), account]))
            .await
            .unwrap();
        let (rich, options) = (rich.to_string(), json!({ "encoding": "base64" }));
        let holder = Solana::accounts()[0].address;
        let tokens = Solana::token_account(&holder, &SOLANA_USDC, &TOKEN).to_string();
        let calls = [
            ("getSlot", json!([])),
            ("getBlockHeight", json!([])),
            ("getEpochInfo", json!([])),
            ("getLatestBlockhash", json!([])),
            ("getVersion", json!([])),
            ("getBalance", json!([rich])),
            ("getAccountInfo", json!([rich, options])),
            ("getMultipleAccounts", json!([[rich, tokens], options])),
            ("getTokenAccountBalance", json!([tokens])),
            ("getMinimumBalanceForRentExemption", json!([165])),
            ("getSignatureStatuses", json!([["1".repeat(64)]])),
        ];
        for (method, params) in calls {
            let answer: Value = solana.rpc(method, params).await.unwrap();
            let mut odd = Vec::new();
            odd_numbers(method, &answer, &mut odd);
            assert_eq!(odd, Vec::<String>::new());
        }
        let found: Value = solana.rpc("getBalance", json!([rich])).await.unwrap();
        assert_eq!(found["value"], ODD);
        let found: Value = solana
            .rpc("getAccountInfo", json!([rich, options]))
            .await
            .unwrap();
        assert_eq!(found["value"]["lamports"], ODD);
        assert_eq!(found["value"]["rentEpoch"], u64::MAX);
    }
}
