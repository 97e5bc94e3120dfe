//! The programs and instructions of a payment.

use borsh::BorshDeserialize;
use solana_compute_budget_interface::ComputeBudgetInstruction;
use solana_pubkey::Pubkey;
use spl_token_2022_interface::instruction::TokenInstruction;

/// An instruction with the addresses of its accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// The program.
    pub program: Pubkey,
    /// Its accounts.
    pub accounts: Vec<Pubkey>,
    /// Its data.
    pub data: Vec<u8>,
}

/// The compute budget program. It limits the compute units of a transaction and sets its priority
/// fee.
pub const COMPUTE_BUDGET: Pubkey = solana_sdk_ids::compute_budget::ID;
/// SPL Token.
pub const TOKEN: Pubkey = spl_token_2022_interface::inline_spl_token::ID;
/// Token-2022.
pub const TOKEN_2022: Pubkey = spl_token_2022_interface::ID;
/// The memo program. It writes a text into the log.
pub const MEMO: Pubkey = spl_memo_interface::v3::ID;
/// Lighthouse. Wallets add its assertions to the transactions that they sign.
pub const LIGHTHOUSE: Pubkey =
    Pubkey::from_str_const("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95");

/// The longest memo, in bytes: the reference implementation's limit.
pub const MEMO_MAX: usize = 256;

/// Programs that can never be allowed as smart wallets. The System program starts durable nonces
/// and moves the lamports of signers. Each signature of the three precompiles costs as much as one
/// of the transaction's own. The loaders and the program of lookup tables create accounts.
pub(crate) const NEVER_WALLETS: [Pubkey; 9] = [
    solana_sdk_ids::system_program::ID,
    solana_sdk_ids::ed25519_program::ID,
    solana_sdk_ids::secp256k1_program::ID,
    solana_sdk_ids::secp256r1_program::ID,
    solana_sdk_ids::bpf_loader_upgradeable::ID,
    solana_sdk_ids::loader_v4::ID,
    solana_sdk_ids::address_lookup_table::ID,
    TOKEN,
    TOKEN_2022,
];

/// `SetComputeUnitLimit`.
pub const COMPUTE_UNIT_LIMIT: u8 = 2;
/// `SetComputeUnitPrice`.
pub const COMPUTE_UNIT_PRICE: u8 = 3;
/// The bytes of a `TransferChecked`: its number, the amount and the decimal places.
pub(crate) const TRANSFER_CHECKED_LEN: usize = 10;

/// Lighthouse's assertions: `AssertAccountData` to `AssertBubblegumTreeConfigAccount`. The
/// instructions before them write and close accounts.
const LIGHTHOUSE_ASSERTIONS: std::ops::RangeInclusive<u8> = 2..=16;

/// A `TransferChecked` of either token program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The token program.
    pub program: Pubkey,
    /// The token account that pays.
    pub source: Pubkey,
    /// The token's mint.
    pub mint: Pubkey,
    /// The token account that is paid.
    pub destination: Pubkey,
    /// The signer: the owner of the source, or its delegate.
    pub authority: Pubkey,
    /// The amount, in atomic units.
    pub amount: u64,
    /// The mint's decimal places, according to the payer.
    pub decimals: u8,
}

impl Transfer {
    /// Parses a transfer with one signer; `None` for any other instruction. Further accounts would
    /// be the signers of a multisig or the accounts of a transfer hook.
    pub fn parse(instruction: &Instruction) -> Option<Self> {
        let Instruction {
            program,
            accounts,
            data,
        } = instruction;
        if ![TOKEN, TOKEN_2022].contains(program) {
            return None;
        }
        let TokenInstruction::TransferChecked { amount, decimals } =
            TokenInstruction::unpack(data).ok()?
        else {
            return None;
        };
        // The token programs ignore further bytes; a payment has none.
        if data.len() != TRANSFER_CHECKED_LEN {
            return None;
        }
        let [source, mint, destination, authority] = *accounts.as_slice() else {
            return None;
        };
        Some(Self {
            program: *program,
            source,
            mint,
            destination,
            authority,
            amount,
            decimals,
        })
    }
}

/// Whether the instruction is a `TransferChecked` of a token program, with any accounts.
pub fn is_transfer(instruction: &Instruction) -> bool {
    let parsed = TokenInstruction::unpack(&instruction.data);
    [TOKEN, TOKEN_2022].contains(&instruction.program)
        && matches!(parsed, Ok(TokenInstruction::TransferChecked { .. }))
}

/// The limit of a `SetComputeUnitLimit`, in compute units.
pub fn compute_unit_limit(instruction: &Instruction) -> Option<u32> {
    match compute_budget(instruction)? {
        ComputeBudgetInstruction::SetComputeUnitLimit(limit) => Some(limit),
        _ => None,
    }
}

/// The price of a `SetComputeUnitPrice`, in micro-lamports for a compute unit.
pub fn compute_unit_price(instruction: &Instruction) -> Option<u64> {
    match compute_budget(instruction)? {
        ComputeBudgetInstruction::SetComputeUnitPrice(price) => Some(price),
        _ => None,
    }
}

/// The runtime ignores further bytes. Here they make the instruction malformed.
fn compute_budget(instruction: &Instruction) -> Option<ComputeBudgetInstruction> {
    let is_budget = instruction.program == COMPUTE_BUDGET && instruction.accounts.is_empty();
    is_budget.then(|| ComputeBudgetInstruction::try_from_slice(&instruction.data).ok())?
}

/// The text of a memo; `None` for another instruction, and for a memo that is not UTF-8 or is too
/// long.
pub fn memo(instruction: &Instruction) -> Option<&str> {
    let is_memo = instruction.program == MEMO && instruction.data.len() <= MEMO_MAX;
    is_memo.then(|| std::str::from_utf8(&instruction.data).ok())?
}

/// Whether the instruction is an assertion of Lighthouse, which changes nothing and can only fail.
pub fn is_guard(instruction: &Instruction) -> bool {
    let kind = instruction.data.first();
    instruction.program == LIGHTHOUSE
        && kind.is_some_and(|kind| LIGHTHOUSE_ASSERTIONS.contains(kind))
}
