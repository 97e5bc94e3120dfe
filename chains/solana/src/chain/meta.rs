//! The parts of a transaction's or a simulation's metadata that are evidence, as nodes write them.

use std::collections::BTreeMap;

use quittance_core::Fault;
use quittance_nodes::unavailable;
use serde::Deserialize;
use serde_json::Value;
use solana_message::compiled_instruction::CompiledInstruction;
use solana_pubkey::Pubkey;
use solana_transaction_status_client_types::{
    ParsedInstruction as NodeParsed, UiInnerInstructions, UiInstruction, UiLoadedAddresses,
    UiParsedInstruction, UiTransactionTokenBalance,
};

use crate::evidence::{Balance, EncodedInstruction, InnerInstruction, ParsedInstruction};
use crate::instruction::{Instruction, TRANSFER_CHECKED_LEN, Transfer};

/// The longest base58 text of the data of a `TransferChecked`: a byte takes less than 1.4 letters.
const TRANSFER_TEXT_MAX: usize = TRANSFER_CHECKED_LEN * 14 / 10;

/// The inner instructions, in the order of their execution.
///
/// # Errors
/// When the node's answer is unreadable.
pub(crate) fn inner_instructions(
    groups: Vec<UiInnerInstructions>,
) -> Result<Vec<InnerInstruction>, Fault> {
    let unreadable = || unavailable("the node returned unreadable inner instructions");
    let all = groups.into_iter().flat_map(|group| {
        let outer = usize::from(group.index);
        let decode = move |instruction| inner_instruction(outer, instruction);
        group.instructions.into_iter().map(decode)
    });
    all.map(|found| found.ok_or_else(unreadable)).collect()
}

fn inner_instruction(outer: usize, found: UiInstruction) -> Option<InnerInstruction> {
    let (stack_height, instruction) = match found {
        UiInstruction::Compiled(compiled) => {
            let instruction = CompiledInstruction {
                program_id_index: compiled.program_id_index,
                accounts: compiled.accounts,
                data: data_of(&compiled.data)?,
            };
            let instruction = EncodedInstruction::Compiled(instruction);
            (compiled.stack_height, instruction)
        }
        UiInstruction::Parsed(UiParsedInstruction::PartiallyDecoded(full)) => {
            let instruction = Instruction {
                program: full.program_id.parse().ok()?,
                accounts: keys(&full.accounts)?,
                data: data_of(&full.data)?,
            };
            (full.stack_height, EncodedInstruction::Full(instruction))
        }
        UiInstruction::Parsed(UiParsedInstruction::Parsed(parsed)) => {
            let instruction = EncodedInstruction::Parsed(parsed_instruction(&parsed)?);
            (parsed.stack_height, instruction)
        }
    };
    Some(InnerInstruction {
        outer,
        stack_height: stack_height.and_then(|height| usize::try_from(height).ok()),
        instruction,
    })
}

fn parsed_instruction(found: &NodeParsed) -> Option<ParsedInstruction> {
    let program = found.program_id.parse().ok()?;
    let mut accounts = Vec::new();
    addresses(&found.parsed, &mut accounts);
    Some(ParsedInstruction {
        program,
        transfer: parsed_transfer(program, &found.parsed),
        accounts,
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
    before: Vec<UiTransactionTokenBalance>,
    after: Vec<UiTransactionTokenBalance>,
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
                    owner: found.owner.into(),
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
pub(crate) fn loaded(found: UiLoadedAddresses) -> Result<Vec<Pubkey>, Fault> {
    let texts = [found.writable, found.readonly].concat();
    keys(&texts)
        .ok_or_else(|| unavailable("the node returned unreadable addresses of lookup tables"))
}
