//! What a transaction did, or would do, as nodes tell of it.

use std::collections::BTreeMap;

use quittance_core::Fault;
use quittance_nodes::unavailable;
use serde::Deserialize;
use serde_json::Value;
use solana_message::compiled_instruction::CompiledInstruction;
use solana_pubkey::Pubkey;

use crate::instruction::{TOKEN, TOKEN_2022, Transfer};
use crate::transaction::{Instruction, PaymentTransaction};

/// How long the data of a `TransferChecked` can be in base58: ten bytes.
const TRANSFER_TEXT_MAX: usize = 14;

/// What the chain says a transaction did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What it failed with, as the runtime writes it; `None` where it succeeded.
    pub error: Option<String>,
    /// The balances of the token accounts it touched. `None` while it is not deep enough, where it failed, and where a
    /// simulation does not tell.
    pub balances: Option<Vec<Balance>>,
    /// The instructions that its own instructions called. `None` as with the balances, and where the node does not keep
    /// them.
    pub inner_instructions: Option<Vec<InnerInstruction>>,
    /// The addresses it took from lookup tables, in the runtime's order.
    pub loaded: Vec<Pubkey>,
}

/// A token account's balance before and after a transaction, in atomic units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// The account, by its index among the transaction's accounts.
    pub account: usize,
    /// The mint.
    pub mint: String,
    /// Whose account it is, or was before; `None` where the node does not tell.
    pub owner: Option<String>,
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
}

/// An instruction that another one called, in the order in which they were called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InnerInstruction {
    /// By which of the transaction's own instructions, itself or through others.
    pub outer: usize,
    /// How deep: 2 where that one called it itself. `None` where the node does not tell.
    pub stack_height: Option<usize>,
    /// What was called.
    pub instruction: EncodedInstruction,
}

/// An instruction that another one called. Nodes write it in three ways. Its data is empty where it is longer than that of a
/// transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncodedInstruction {
    /// With its accounts by their indexes among the transaction's.
    Compiled(CompiledInstruction),
    /// In full.
    Full(Instruction),
    /// Taken apart, by a node that knows the program.
    Parsed(ParsedInstruction),
}

/// An instruction that a node has taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedInstruction {
    /// Who ran.
    pub program: Pubkey,
    /// The transfer, where it is a `TransferChecked` by one signer.
    pub transfer: Option<Transfer>,
    /// Every address in it.
    pub accounts: Vec<Pubkey>,
}

/// Who told a token program something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The transaction itself.
    Transaction,
    /// This program, which it called, or which was called by what it called.
    Program(Pubkey),
    /// Nodes do not tell.
    Unknown,
}

/// What an instruction, the transaction's own or a called one, did with tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenInstruction {
    /// A `TransferChecked` by one signer.
    Transfer(Transfer),
    /// Anything else that a token program was told, with the accounts it was told of.
    Other(Vec<Pubkey>),
}

impl Evidence {
    pub(crate) fn failed(error: &Value) -> Self {
        Self {
            error: Some(error.to_string()),
            ..Self::default()
        }
    }

    /// By how much the balance of this account of this mint rose; `None` where that is not told or where it fell.
    pub(crate) fn received(
        &self,
        transaction: &PaymentTransaction,
        loaded: &[Pubkey],
        account: &Pubkey,
        mint: &str,
    ) -> Option<u64> {
        let found = self.balance(transaction, loaded, account);
        let found = found.filter(|balance| balance.mint == mint)?;
        found.after.checked_sub(found.before)
    }

    /// Whose token account this is, or was before; `None` where that is not told.
    pub(crate) fn owner(
        &self,
        transaction: &PaymentTransaction,
        loaded: &[Pubkey],
        account: &Pubkey,
    ) -> Option<&str> {
        self.balance(transaction, loaded, account)?.owner.as_deref()
    }

    fn balance(
        &self,
        transaction: &PaymentTransaction,
        loaded: &[Pubkey],
        account: &Pubkey,
    ) -> Option<&Balance> {
        let at = transaction
            .accounts(loaded)
            .position(|key| key == account)?;
        let mut balances = self.balances.iter().flatten();
        balances.find(|balance| balance.account == at)
    }
}

/// Everything that the token programs were told, and by whom: by a transaction's own instructions and by the `calls` these made.
/// `None` where an account is not among the transaction's, so that what happened cannot be known.
pub(crate) fn token_instructions(
    transaction: &PaymentTransaction,
    loaded: &[Pubkey],
    inner: &[InnerInstruction],
) -> Option<Vec<(Caller, TokenInstruction)>> {
    let own = transaction.instructions(loaded)?;
    let by_itself = own.iter().filter_map(TokenInstruction::of);
    let mut found: Vec<_> = by_itself
        .map(|instruction| (Caller::Transaction, instruction))
        .collect();
    let mut stack = Stack::default();
    for instruction in inner {
        let (program, token) = match &instruction.instruction {
            EncodedInstruction::Compiled(compiled) => {
                let full = transaction.instruction(compiled, loaded)?;
                (full.program, TokenInstruction::of(&full))
            }
            EncodedInstruction::Full(full) => (full.program, TokenInstruction::of(full)),
            EncodedInstruction::Parsed(parsed) => {
                (parsed.program, TokenInstruction::of_parsed(parsed))
            }
        };
        let caller = stack.enter(&own, instruction, program);
        found.extend(token.map(|token| (caller, token)));
    }
    Some(found)
}

/// Which programs are running: one of the transaction's own instructions, what that has called, what that has called, and so on.
#[derive(Default)]
struct Stack {
    outer: Option<usize>,
    programs: Vec<Pubkey>,
}

impl Stack {
    /// Who called this, which runs `program`.
    fn enter(&mut self, own: &[Instruction], found: &InnerInstruction, program: Pubkey) -> Caller {
        if self.outer != Some(found.outer) {
            self.outer = Some(found.outer);
            let outermost = own.get(found.outer).map(|own| own.program);
            self.programs = outermost.into_iter().collect();
        }
        // As many run already. What was called before at this depth, and deeper, has ended.
        let above = found.stack_height.unwrap_or_default().saturating_sub(1);
        self.programs.truncate(above);
        match self.programs.last().copied() {
            Some(caller) if self.programs.len() == above => {
                self.programs.push(program);
                Caller::Program(caller)
            }
            _ => Caller::Unknown,
        }
    }
}

impl TokenInstruction {
    /// `None` for what other programs were told.
    fn of(instruction: &Instruction) -> Option<Self> {
        if ![TOKEN, TOKEN_2022].contains(&instruction.program) {
            return None;
        }
        let other = || Self::Other(instruction.accounts.clone());
        Some(Transfer::read(instruction).map_or_else(other, Self::Transfer))
    }

    fn of_parsed(parsed: &ParsedInstruction) -> Option<Self> {
        if ![TOKEN, TOKEN_2022].contains(&parsed.program) {
            return None;
        }
        let other = || Self::Other(parsed.accounts.clone());
        Some(parsed.transfer.clone().map_or_else(other, Self::Transfer))
    }

    /// Whether this account has a part in it.
    pub(crate) fn mentions(&self, account: &Pubkey) -> bool {
        match self {
            Self::Transfer(transfer) => [
                transfer.source,
                transfer.mint,
                transfer.destination,
                transfer.authority,
            ]
            .contains(account),
            Self::Other(accounts) => accounts.contains(account),
        }
    }
}

/// The instructions called by one of the transaction's own, as nodes write them.
#[derive(Deserialize)]
pub(crate) struct InnerInstructionsJson {
    index: u8,
    instructions: Vec<InnerInstructionJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InnerInstructionJson {
    #[serde(default)]
    stack_height: Option<u8>,
    #[serde(flatten)]
    instruction: EncodedJson,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum EncodedJson {
    #[serde(rename_all = "camelCase")]
    Compiled {
        program_id_index: u8,
        accounts: Vec<u8>,
        data: String,
    },
    #[serde(rename_all = "camelCase")]
    Full {
        program_id: String,
        accounts: Vec<String>,
        data: String,
    },
    #[serde(rename_all = "camelCase")]
    Parsed { program_id: String, parsed: Value },
}

/// A token account's balance, as nodes write it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BalanceJson {
    account_index: u8,
    mint: String,
    #[serde(default)]
    owner: Option<String>,
    ui_token_amount: UiAmount,
}

#[derive(Deserialize)]
struct UiAmount {
    amount: String,
}

/// The addresses from lookup tables, as nodes write them.
#[derive(Deserialize, Default)]
pub(crate) struct LoadedJson {
    writable: Vec<String>,
    readonly: Vec<String>,
}

/// The calls, in the order they were made.
///
/// # Errors
/// When the node's words make no sense.
pub(crate) fn inner_instructions(
    groups: Vec<InnerInstructionsJson>,
) -> Result<Vec<InnerInstruction>, Fault> {
    let nonsense = || unavailable("the node answered nonsense about called instructions");
    let all = groups.into_iter().flat_map(|group| {
        let outer = usize::from(group.index);
        group.instructions.into_iter().map(move |json| {
            Some(InnerInstruction {
                outer,
                stack_height: json.stack_height.map(usize::from),
                instruction: decode(json.instruction)?,
            })
        })
    });
    all.map(|found| found.ok_or_else(nonsense)).collect()
}

fn decode(json: EncodedJson) -> Option<EncodedInstruction> {
    Some(match json {
        EncodedJson::Compiled {
            program_id_index,
            accounts,
            data,
        } => EncodedInstruction::Compiled(CompiledInstruction {
            program_id_index,
            accounts,
            data: data_of(&data)?,
        }),
        EncodedJson::Full {
            program_id,
            accounts,
            data,
        } => EncodedInstruction::Full(Instruction {
            program: program_id.parse().ok()?,
            accounts: keys(&accounts)?,
            data: data_of(&data)?,
        }),
        EncodedJson::Parsed { program_id, parsed } => {
            let program = program_id.parse().ok()?;
            let mut accounts = Vec::new();
            addresses(&parsed, &mut accounts);
            EncodedInstruction::Parsed(ParsedInstruction {
                program,
                transfer: parsed_transfer(program, &parsed),
                accounts,
            })
        }
    })
}

/// A called instruction's data; nothing of it where it is too long for a transfer. Reading base58 takes time by the square of
/// its length, and a payer's program can make sixty calls with ten kilobytes each.
fn data_of(base58: &str) -> Option<Vec<u8>> {
    if base58.len() > TRANSFER_TEXT_MAX {
        return Some(Vec::new());
    }
    bs58::decode(base58).into_vec().ok()
}

fn keys(texts: &[String]) -> Option<Vec<Pubkey>> {
    texts.iter().map(|text| text.parse().ok()).collect()
}

/// Every address in a text taken apart, wherever it stands: which field means what is the node's business.
fn addresses(parsed: &Value, found: &mut Vec<Pubkey>) {
    match parsed {
        Value::String(text) => found.extend(text.parse::<Pubkey>()),
        Value::Array(values) => values.iter().for_each(|value| addresses(value, found)),
        Value::Object(values) => values.values().for_each(|value| addresses(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A `TransferChecked` by one signer, as nodes take it apart. One by several names a `multisigAuthority` instead.
fn parsed_transfer(program: Pubkey, parsed: &Value) -> Option<Transfer> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Info {
        source: String,
        mint: String,
        destination: String,
        authority: String,
        token_amount: TokenAmount,
    }
    #[derive(Deserialize)]
    struct TokenAmount {
        amount: String,
        decimals: u8,
    }
    if parsed.get("type")? != "transferChecked" {
        return None;
    }
    let info = Info::deserialize(parsed.get("info")?).ok()?;
    Some(Transfer {
        program,
        source: info.source.parse().ok()?,
        mint: info.mint.parse().ok()?,
        destination: info.destination.parse().ok()?,
        authority: info.authority.parse().ok()?,
        amount: info.token_amount.amount.parse().ok()?,
        decimals: info.token_amount.decimals,
    })
}

/// The balances before and after, by account. One that is not told on a side was nothing there.
///
/// # Errors
/// When the node's words make no sense.
pub(crate) fn balances(
    before: Vec<BalanceJson>,
    after: Vec<BalanceJson>,
) -> Result<Vec<Balance>, Fault> {
    let mut balances: BTreeMap<u8, Balance> = BTreeMap::new();
    let both = [(false, before), (true, after)];
    for (is_after, side) in both {
        for found in side {
            let amount: u64 = found
                .ui_token_amount
                .amount
                .parse()
                .map_err(|_| unavailable("the node answered nonsense about balances"))?;
            let balance = balances
                .entry(found.account_index)
                .or_insert_with(|| Balance {
                    account: usize::from(found.account_index),
                    mint: found.mint,
                    owner: found.owner,
                    before: 0,
                    after: 0,
                });
            match is_after {
                false => balance.before = amount,
                true => balance.after = amount,
            }
        }
    }
    Ok(balances.into_values().collect())
}

/// The addresses from lookup tables in the runtime's order: all that can be written to, then the others.
///
/// # Errors
/// When the node's words make no sense.
pub(crate) fn loaded(json: LoadedJson) -> Result<Vec<Pubkey>, Fault> {
    let texts = [json.writable, json.readonly].concat();
    keys(&texts).ok_or_else(|| unavailable("the node answered nonsense about lookup tables"))
}
