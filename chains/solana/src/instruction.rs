//! The instructions a payment is made of.

use solana_pubkey::Pubkey;

use crate::transaction::Instruction;

/// Sets what a transaction may compute and pays for its priority.
pub const COMPUTE_BUDGET: Pubkey =
    Pubkey::from_str_const("ComputeBudget111111111111111111111111111111");
/// SPL Token.
pub const TOKEN: Pubkey = Pubkey::from_str_const("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA");
/// Token-2022.
pub const TOKEN_2022: Pubkey =
    Pubkey::from_str_const("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb");
/// Writes a text into the log.
pub const MEMO: Pubkey = Pubkey::from_str_const("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr");
/// Assertions that wallets put around what they sign.
pub const LIGHTHOUSE: Pubkey =
    Pubkey::from_str_const("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95");

/// The longest memo, in bytes: the reference implementation's limit.
pub const MEMO_MAX: usize = 256;

/// What can never be allowed as a smart wallet. The System program begins durable nonces, and moves the money of whoever
/// signs; the three precompiles check signatures, each paid for like the transaction's own; the loaders and the lookup
/// tables' program make accounts.
pub(crate) const NEVER_WALLETS: [Pubkey; 9] = [
    Pubkey::from_str_const("11111111111111111111111111111111"),
    Pubkey::from_str_const("Ed25519SigVerify111111111111111111111111111"),
    Pubkey::from_str_const("KeccakSecp256k11111111111111111111111111111"),
    Pubkey::from_str_const("Secp256r1SigVerify1111111111111111111111111"),
    Pubkey::from_str_const("BPFLoaderUpgradeab1e11111111111111111111111"),
    Pubkey::from_str_const("LoaderV411111111111111111111111111111111111"),
    Pubkey::from_str_const("AddressLookupTab1e1111111111111111111111111"),
    TOKEN,
    TOKEN_2022,
];

/// `SetComputeUnitLimit`.
pub(crate) const COMPUTE_UNIT_LIMIT: u8 = 2;
/// `SetComputeUnitPrice`.
pub(crate) const COMPUTE_UNIT_PRICE: u8 = 3;
/// `TransferChecked`, of both token programs.
pub(crate) const TRANSFER_CHECKED: u8 = 12;

/// Lighthouse's assertions, `AssertAccountData` to `AssertBubblegumTreeConfigAccount`. Those before them write and close
/// accounts.
const LIGHTHOUSE_ASSERTIONS: std::ops::RangeInclusive<u8> = 2..=16;

/// A `TransferChecked` of either token program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The token program.
    pub program: Pubkey,
    /// The token account that pays.
    pub source: Pubkey,
    /// The token.
    pub mint: Pubkey,
    /// The token account that is paid.
    pub destination: Pubkey,
    /// Who says so: the owner of the source, or somebody the owner let.
    pub authority: Pubkey,
    /// How much, in atomic units.
    pub amount: u64,
    /// The mint's decimal places, as the payer knows them.
    pub decimals: u8,
}

impl Transfer {
    /// The instruction as a transfer by one signer. One with further accounts has several signers, or a hook that runs: it
    /// is not read.
    pub fn read(instruction: &Instruction) -> Option<Self> {
        let Instruction {
            program,
            accounts,
            data,
        } = instruction;
        if ![TOKEN, TOKEN_2022].contains(program) {
            return None;
        }
        let [TRANSFER_CHECKED, amount @ .., decimals] = data.as_slice() else {
            return None;
        };
        let [source, mint, destination, authority] = *accounts.as_slice() else {
            return None;
        };
        Some(Self {
            program: *program,
            source,
            mint,
            destination,
            authority,
            amount: u64::from_le_bytes(amount.try_into().ok()?),
            decimals: *decimals,
        })
    }
}

/// The limit that a `SetComputeUnitLimit` sets, in compute units.
pub(crate) fn compute_unit_limit(instruction: &Instruction) -> Option<u32> {
    match budget(instruction)? {
        [COMPUTE_UNIT_LIMIT, limit @ ..] => Some(u32::from_le_bytes(limit.try_into().ok()?)),
        _ => None,
    }
}

/// The price that a `SetComputeUnitPrice` sets, in millionths of a lamport for a compute unit.
pub(crate) fn compute_unit_price(instruction: &Instruction) -> Option<u64> {
    match budget(instruction)? {
        [COMPUTE_UNIT_PRICE, price @ ..] => Some(u64::from_le_bytes(price.try_into().ok()?)),
        _ => None,
    }
}

fn budget(instruction: &Instruction) -> Option<&[u8]> {
    let is_budget = instruction.program == COMPUTE_BUDGET && instruction.accounts.is_empty();
    is_budget.then_some(instruction.data.as_slice())
}

/// The text of a memo; `None` for another instruction, and for a memo that is no text or too long.
pub(crate) fn memo(instruction: &Instruction) -> Option<&str> {
    let is_memo = instruction.program == MEMO && instruction.data.len() <= MEMO_MAX;
    is_memo.then(|| std::str::from_utf8(&instruction.data).ok())?
}

/// Whether the instruction is one of Lighthouse's assertions: it changes nothing, it can only fail.
pub(crate) fn is_guard(instruction: &Instruction) -> bool {
    let kind = instruction.data.first();
    instruction.program == LIGHTHOUSE
        && kind.is_some_and(|kind| LIGHTHOUSE_ASSERTIONS.contains(kind))
}
