//! A local Solana cluster: Solana's virtual machine with the programs of mainnet, a token of each token program, and accounts
//! with money.

use std::process::Stdio;
use std::time::Duration;

use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{RpcRecv, RpcSend};
use serde_json::{Value, json};
use solana_keypair::Keypair;
use solana_pubkey::Pubkey;
use solana_signer::Signer as _;
use tokio::process::{Child, Command};

use crate::node::{self, rpc_error};
use crate::{DevnetError, Tools};

/// Where USDC lives on Solana's devnet, and on the local cluster: a token of SPL Token.
pub const SOLANA_USDC: Pubkey =
    Pubkey::from_str_const("4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU");

/// A token of Token-2022 on the local cluster, without extensions.
pub const SOLANA_TOKEN_2022: Pubkey =
    Pubkey::from_str_const("2b1kV6DkPAnxd5ixfnxCpjxmKwqjjaYmCZfHsFu24GXo");

/// The genesis hash of Solana's devnet, and of the local cluster: every client knows it, and its USDC.
pub const SOLANA_GENESIS: &str = "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG";

/// SPL Token.
const TOKEN: Pubkey = Pubkey::from_str_const("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA");
/// Token-2022.
const TOKEN_2022: Pubkey = Pubkey::from_str_const("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb");
/// The program whose addresses associated token accounts are.
const ASSOCIATED_TOKEN: Pubkey =
    Pubkey::from_str_const("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL");
/// The program that owns accounts that hold nothing but lamports.
const SYSTEM: Pubkey = Pubkey::new_from_array([0; 32]);

/// The program that owns lookup tables.
const LOOKUP_TABLE: Pubkey = Pubkey::from_str_const("AddressLookupTab1e1111111111111111111111111");

/// What stands before a lookup table's addresses, in bytes (`LOOKUP_TABLE_META_SIZE` of the runtime).
const LOOKUP_TABLE_META: usize = 56;

/// How many accounts have money.
const ACCOUNTS: u8 = 10;

/// What each account has of each token, in atomic units: a million, at six decimal places.
const TOKENS_EACH: u64 = 1_000_000_000_000;

/// What each account has of the cluster's own coin, in lamports: a hundred.
const LAMPORTS_EACH: u64 = 100_000_000_000;

/// How a local cluster is started.
#[derive(Debug, Clone)]
pub struct SolanaOptions {
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// The time between blocks; `None` makes them only when [`Solana::mine`] is called.
    pub slot_time: Option<Duration>,
    /// The genesis hash that the node tells. That of Solana's devnet by default.
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

/// One of the development accounts. Everybody has these keys.
#[derive(Debug)]
pub struct SolanaAccount {
    /// Its address.
    pub address: Pubkey,
    /// Its key.
    pub keypair: Keypair,
    /// Its key as text, for configuration.
    pub key: String,
}

/// A running local cluster. Stops when dropped.
#[derive(Debug)]
pub struct Solana {
    rpc: RpcClient,
    url: String,
    node: Child,
}

impl Solana {
    /// Starts a node, makes both tokens, and gives every development account a million of each.
    ///
    /// # Errors
    /// When the node is not installed, does not start, or does not do what it is told.
    pub async fn start(tools: &Tools, options: &SolanaOptions) -> Result<Self, DevnetError> {
        let (node, url) = spawn(tools, options).await?;
        let rpc = RpcClient::new_http(url.parse().expect("made from a port"));
        let solana = Self { rpc, url, node };
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

    /// Where the node listens.
    pub fn url(&self) -> &str {
        &self.url
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

    /// Makes a mint of a token program, with these bytes of extensions behind it.
    ///
    /// # Errors
    /// When the node does not do it.
    pub async fn put_mint(
        &self,
        mint: Pubkey,
        program: Pubkey,
        decimals: u8,
        extensions: &[u8],
    ) -> Result<(), DevnetError> {
        // No mint authority, no supply that anybody counts, initialized, no freeze authority.
        let mut data = vec![0; 82];
        data[44] = decimals;
        data[45] = 1;
        if !extensions.is_empty() {
            // A mint with extensions is padded to the length of a token account, and says what it is.
            data.resize(165, 0);
            data.push(1);
            data.extend_from_slice(extensions);
        }
        self.put_account(mint, program, &data, None).await
    }

    /// Makes the associated token account of `owner`, with `amount` atomic units in it.
    ///
    /// # Errors
    /// When the node does not do it.
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

    /// Gives an address so many lamports.
    ///
    /// # Errors
    /// When the node does not do it.
    pub async fn put_lamports(&self, at: Pubkey, lamports: u64) -> Result<(), DevnetError> {
        self.put_account(at, SYSTEM, &[], Some(lamports)).await
    }

    /// Puts a compiled program, an ELF file, at an address. One that is there already is replaced.
    ///
    /// # Errors
    /// When the node does not do it: the virtual machine refuses the file.
    pub async fn add_program(&self, address: Pubkey, elf: &[u8]) -> Result<(), DevnetError> {
        self.rpc::<_, Value>(
            "devnet_addProgram",
            json!([address.to_string(), base64(elf)]),
        )
        .await
        .map(drop)
    }

    /// Makes an address lookup table with these addresses, which can be used at once, and says where it is. Nobody can
    /// change it.
    ///
    /// # Errors
    /// When the node does not do it.
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

    /// Makes an account, or changes one: what it has, whose it is, and its data. Without `lamports` it has what keeps it
    /// alive.
    ///
    /// # Errors
    /// When the node does not do it.
    pub async fn put_account(
        &self,
        at: Pubkey,
        owner: Pubkey,
        data: &[u8],
        lamports: Option<u64>,
    ) -> Result<(), DevnetError> {
        let account =
            json!({ "owner": owner.to_string(), "data": base64(data), "lamports": lamports });
        self.rpc::<_, Value>("devnet_setAccount", json!([at.to_string(), account]))
            .await
            .map(drop)
    }

    /// The associated token account of an owner.
    pub fn token_account(owner: &Pubkey, mint: &Pubkey, program: &Pubkey) -> Pubkey {
        let seeds = [owner.as_ref(), program.as_ref(), mint.as_ref()];
        Pubkey::find_program_address(&seeds, &ASSOCIATED_TOKEN).0
    }

    /// How many atomic units an owner has in its associated token account.
    ///
    /// # Errors
    /// When the node does not say.
    pub async fn balance(
        &self,
        owner: &Pubkey,
        mint: &Pubkey,
        program: &Pubkey,
    ) -> Result<u64, DevnetError> {
        let at = Self::token_account(owner, mint, program);
        let found: Value = self
            .rpc("getTokenAccountBalance", json!([at.to_string()]))
            .await?;
        let amount = found.pointer("/value/amount").and_then(Value::as_str);
        amount
            .and_then(|amount| amount.parse().ok())
            .ok_or_else(|| rpc_error("getTokenAccountBalance", "no amount"))
    }

    /// Makes this many blocks, with everything that waits in the first.
    ///
    /// # Errors
    /// When the node does not do it.
    pub async fn mine(&self, count: u64) -> Result<(), DevnetError> {
        self.rpc::<_, Value>("devnet_mine", json!([count]))
            .await
            .map(drop)
    }

    /// Changes the time between blocks; `None` makes no more of them.
    ///
    /// # Errors
    /// When the node does not do it.
    pub async fn set_slot_time(&self, slot_time: Option<Duration>) -> Result<(), DevnetError> {
        let milliseconds = slot_time.map_or(0, |time| time.as_millis() as u64);
        self.rpc::<_, Value>("devnet_setSlotTime", json!([milliseconds]))
            .await
            .map(drop)
    }

    /// Asks the node anything.
    ///
    /// # Errors
    /// What the node says.
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
}

fn base64(data: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(data)
}

async fn spawn(tools: &Tools, options: &SolanaOptions) -> Result<(Child, String), DevnetError> {
    /// The node answers within a second on an idle machine; a loaded one may take a hundred times as long.
    const WAIT: Duration = Duration::from_secs(60);
    let milliseconds = options.slot_time.map_or(0, |time| time.as_millis());
    let mut node = Command::new("node");
    node.arg(tools.solana()?)
        .args([options.port.to_string(), milliseconds.to_string()])
        .arg(&options.genesis)
        // It stops when this is closed.
        .stdin(Stdio::piped());
    let (node, port) = node::start(&mut node, "ready ", WAIT).await?;
    Ok((node, format!("http://127.0.0.1:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_starts_with_money_in_every_account() {
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

    /// Every number of an answer that is not a whole one of 64 bits, with where it stands.
    fn odd_numbers(at: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Array(list) => list
                .iter()
                .for_each(|one| odd_numbers(&format!("{at}[]"), one, found)),
            Value::Object(map) => map
                .iter()
                .for_each(|(name, one)| odd_numbers(&format!("{at}.{name}"), one, found)),
            // The one number that a node writes as a float.
            Value::Number(_) if at.ends_with(".uiAmount") => {}
            Value::Number(number) if number.is_u64() || number.is_i64() => {}
            Value::Number(number) => found.push(format!("{at}: {number}")),
            _ => {}
        }
    }

    /// The Python SDK, and every client that reads a u64 as one, broke on a `rentEpoch` that was
    /// rounded to a float's 53 bits.
    #[tokio::test]
    async fn every_number_is_told_in_full() {
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
