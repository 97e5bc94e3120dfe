//! What a transaction did, or would do, as nodes report it.

use std::collections::BTreeMap;

use quittance_core::Fault;
use quittance_nodes::unavailable;
use serde::Deserialize;
use serde_json::Value;
use solana_message::compiled_instruction::CompiledInstruction;
use solana_pubkey::Pubkey;

use crate::instruction::{TOKEN, TOKEN_2022, Transfer};
use crate::transaction::{Instruction, PaymentTransaction};

/// The longest base58 text of the data of a `TransferChecked`, which has ten bytes.
const TRANSFER_TEXT_MAX: usize = 14;

/// The effect of a transaction, real or simulated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The error, as the runtime writes it; `None` if the transaction succeeded.
    pub error: Option<String>,
    /// The balances of its token accounts. `None` before the transaction has enough confirmations,
    /// if it failed, and if a simulation does not report them.
    pub balances: Option<Vec<Balance>>,
    /// Its inner instructions. `None` like the balances, and if the node does not store them.
    pub inner_instructions: Option<Vec<InnerInstruction>>,
    /// The addresses that it loaded from lookup tables, in the runtime's order.
    pub loaded: Vec<Pubkey>,
}

/// A token account's balance before and after a transaction, in atomic units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// The account's index among the transaction's accounts.
    pub account: usize,
    /// The mint.
    pub mint: String,
    /// The account's owner; `None` if the node does not report it.
    pub owner: Option<String>,
    /// The balance before the transaction.
    pub before: u64,
    /// The balance after the transaction.
    pub after: u64,
}

/// An inner instruction: one that another instruction invoked (CPI). They are in the order of their
/// execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InnerInstruction {
    /// The index of the top-level instruction that invoked it, directly or through others.
    pub outer: usize,
    /// The stack height: 2 if the top-level instruction invoked it directly. `None` if the node
    /// does not report it.
    pub stack_height: Option<usize>,
    /// The instruction.
    pub instruction: EncodedInstruction,
}

/// An inner instruction in one of the three encodings that nodes use. Its data is empty if it is
/// longer than that of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncodedInstruction {
    /// Program and accounts are indexes among the transaction's accounts.
    Compiled(CompiledInstruction),
    /// Program and accounts are addresses.
    Full(Instruction),
    /// Parsed by a node that knows the program.
    Parsed(ParsedInstruction),
}

/// An instruction that a node has parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedInstruction {
    /// The program.
    pub program: Pubkey,
    /// The transfer, if it is a `TransferChecked` with one signer.
    pub transfer: Option<Transfer>,
    /// Every address that it mentions.
    pub accounts: Vec<Pubkey>,
}

/// The invoker of a token instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// It is a top-level instruction.
    Transaction,
    /// A program invoked it.
    Program(Pubkey),
    /// Nodes do not report it.
    Unknown,
}

/// A top-level or inner instruction of a token program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenInstruction {
    /// A `TransferChecked` with one signer.
    Transfer(Transfer),
    /// Any other instruction, with its accounts.
    Other(Vec<Pubkey>),
}

impl Evidence {
    pub(crate) fn failed(error: &Value) -> Self {
        Self {
            error: Some(error.to_string()),
            ..Self::default()
        }
    }

    /// The increase of this account's balance of this mint; `None` if it is not reported or the
    /// balance fell.
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

    /// The owner of this token account; `None` if it is not reported.
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

/// All token instructions with their invokers: the transaction's own and the `inner` ones. `None`
/// if one of them refers to an account that the transaction does not have, because then its effect
/// is unknown.
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

/// The programs on the call stack, beginning with that of a top-level instruction.
#[derive(Default)]
struct Stack {
    outer: Option<usize>,
    programs: Vec<Pubkey>,
}

impl Stack {
    /// The invoker of this instruction, which runs `program`.
    fn enter(&mut self, own: &[Instruction], found: &InnerInstruction, program: Pubkey) -> Caller {
        if self.outer != Some(found.outer) {
            self.outer = Some(found.outer);
            let outermost = own.get(found.outer).map(|own| own.program);
            self.programs = outermost.into_iter().collect();
        }
        // This many programs are still on the stack. Earlier instructions at this height or above
        // have returned.
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
    /// `None` for an instruction of another program.
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

    /// Whether it mentions this account.
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

/// The inner instructions of one top-level instruction, as nodes write them.
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

/// The inner instructions, in the order of their execution.
///
/// # Errors
/// When the node's answer is unreadable.
pub(crate) fn inner_instructions(
    groups: Vec<InnerInstructionsJson>,
) -> Result<Vec<InnerInstruction>, Fault> {
    let nonsense = || unavailable("the node returned unreadable inner instructions");
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

/// The data of an inner instruction, or nothing if it is too long for a transfer. Decoding base58
/// takes quadratic time, and a payer's program can make sixty inner instructions of ten kilobytes
/// each.
fn data_of(base58: &str) -> Option<Vec<u8>> {
    if base58.len() > TRANSFER_TEXT_MAX {
        return Some(Vec::new());
    }
    bs58::decode(base58).into_vec().ok()
}

fn keys(texts: &[String]) -> Option<Vec<Pubkey>> {
    texts.iter().map(|text| text.parse().ok()).collect()
}

/// Every address in a parsed instruction, in any field: the names of the fields differ between
/// programs and nodes.
fn addresses(parsed: &Value, found: &mut Vec<Pubkey>) {
    match parsed {
        Value::String(text) => found.extend(text.parse::<Pubkey>()),
        Value::Array(values) => values.iter().for_each(|value| addresses(value, found)),
        Value::Object(values) => values.values().for_each(|value| addresses(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A parsed `TransferChecked` with one signer. With several signers it has the field
/// `multisigAuthority` instead of `authority`.
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

/// The balances before and after, by account. An account that is missing on one side has 0 there.
///
/// # Errors
/// When the node's answer is unreadable.
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
                .map_err(|_| unavailable("the node returned unreadable balances"))?;
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

/// The addresses from lookup tables in the runtime's order: all writable ones, then the others.
///
/// # Errors
/// When the node's answer is unreadable.
pub(crate) fn loaded(json: LoadedJson) -> Result<Vec<Pubkey>, Fault> {
    let texts = [json.writable, json.readonly].concat();
    keys(&texts)
        .ok_or_else(|| unavailable("the node returned unreadable addresses of lookup tables"))
}
