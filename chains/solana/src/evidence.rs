//! What a transaction did, or would do, as nodes report it.

use serde_json::Value;
use solana_message::compiled_instruction::CompiledInstruction;
use solana_pubkey::Pubkey;

use crate::instruction::{Instruction, TOKEN, TOKEN_2022, Transfer};
use crate::transaction::PaymentTransaction;

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
#[non_exhaustive]
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
#[non_exhaustive]
pub enum Caller {
    /// The instruction is top-level.
    Transaction,
    /// A program invoked the instruction.
    Program(Pubkey),
    /// Nodes do not report the invoker.
    Unknown,
}

/// A top-level or inner instruction of a token program.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenInstruction {
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
    pub fn received(
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
    pub fn owner(
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
pub fn token_instructions(
    transaction: &PaymentTransaction,
    loaded: &[Pubkey],
    inner: &[InnerInstruction],
) -> Option<Vec<(Caller, TokenInstruction)>> {
    let own = transaction.instructions(loaded)?;
    let by_itself = own.iter().filter_map(TokenInstruction::parse);
    let mut found: Vec<_> = by_itself
        .map(|instruction| (Caller::Transaction, instruction))
        .collect();
    let mut stack = Stack::default();
    for instruction in inner {
        let (program, token) = match &instruction.instruction {
            EncodedInstruction::Compiled(compiled) => {
                let full = transaction.instruction(compiled, loaded)?;
                (full.program, TokenInstruction::parse(&full))
            }
            EncodedInstruction::Full(full) => (full.program, TokenInstruction::parse(full)),
            EncodedInstruction::Parsed(parsed) => {
                (parsed.program, TokenInstruction::from_parsed(parsed))
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
    fn parse(instruction: &Instruction) -> Option<Self> {
        if ![TOKEN, TOKEN_2022].contains(&instruction.program) {
            return None;
        }
        let other = || Self::Other(instruction.accounts.clone());
        Some(Transfer::parse(instruction).map_or_else(other, Self::Transfer))
    }

    fn from_parsed(parsed: &ParsedInstruction) -> Option<Self> {
        if ![TOKEN, TOKEN_2022].contains(&parsed.program) {
            return None;
        }
        let other = || Self::Other(parsed.accounts.clone());
        Some(parsed.transfer.clone().map_or_else(other, Self::Transfer))
    }

    /// Whether it mentions this account.
    pub fn mentions(&self, account: &Pubkey) -> bool {
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
