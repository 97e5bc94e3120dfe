//! The smart-wallet path: a program makes the transfer, so that only running the transaction shows it. What is
//! asked of the transaction itself is that it cannot hurt its fee payer; what is asked of its outcome, before it is signed and
//! again when it is included, is that the recipient is paid, once.
//!
//! Specification: `exact` on SVM, sections 2 and 3.2 to 3.4.

use quittance_core::{Amount, Rejection};
use solana_pubkey::Pubkey;

use super::layout::{GUARDS_MAX, Memos, SIGNERS, check_fee};
use super::payment::Expected;
use super::reason;
use crate::evidence::{Caller, Evidence, TokenInstruction, token_instructions};
use crate::instruction::{
    self, COMPUTE_BUDGET, MEMO, TOKEN, TOKEN_2022, Transfer, compute_unit_limit,
    compute_unit_price, is_guard,
};
use crate::transaction::{FeePayers, Instruction, PaymentTransaction};

/// How many lookup tables a payment may use. Wallets use one or two; each is up to eight kilobytes to be fetched.
const TABLES_MAX: usize = 4;

/// What the runtime lets each instruction compute where a transaction sets no limit, and what it lets all of them
/// (`DEFAULT_INSTRUCTION_COMPUTE_UNIT_LIMIT`, `MAX_COMPUTE_UNIT_LIMIT`).
const UNITS_PER_INSTRUCTION: u32 = 200_000;
const UNITS_MAX: u32 = 1_400_000;

/// Wallets that are programs: which of them may pay, and what a payment of theirs may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmartWallets {
    /// The programs that a payment may call, and that may make its transfer. What else they call is for their owners to say: any
    /// of these can make payments that succeed when they are tried and fail when they are sent, at the cost of the fee.
    pub programs: Vec<Pubkey>,
    /// The most compute units that a payment may ask for.
    pub compute_units_max: u32,
    /// The most that is paid for a compute unit, in millionths of a lamport.
    pub compute_unit_price_max: u64,
}

impl Default for SmartWallets {
    /// The specification's wallets and limits (sections 2.2.1 and 2.2.2), but for SPL Governance: what was voted for there
    /// anybody may execute, so whoever hands in such a transaction could buy with it.
    fn default() -> Self {
        Self {
            programs: [
                // Squads: Multisig version 4, Smart Account.
                "SQDS4ep65T869zMMBKyuUq6aD6EgTu8psMjkvj52pCf",
                "SMRTzfY6DfH5ik3TKiyLFfXexV8uSG3d2UksSCYdunG",
                // Swig: the first, and version 2.
                "SWiGmQedKzMz1tiTqoJCWeGDnGXfNBp2PkXLkpCAtQo",
                "swigypWHEksbC64pWKwah1WTeh9JXwx8H1rJHLdbQMB",
                // Metaplex Core.
                "CoREENxT6tW1HoK8ypY1SxRMZTcVPm7R94rH4PZNhX7d",
            ]
            .map(Pubkey::from_str_const)
            .to_vec(),
            compute_units_max: 400_000,
            compute_unit_price_max: 50_000,
        }
    }
}

impl SmartWallets {
    /// The first of the programs that must not be allowed here: the System program starts durable nonces, signature checks are
    /// paid for one by one, and the others have rules of their own.
    pub(crate) fn not_a_wallet(&self) -> Option<Pubkey> {
        let never = |program: &&Pubkey| instruction::NEVER_WALLETS.contains(program);
        self.programs.iter().find(never).copied()
    }
}

/// A transaction that may be tried.
#[derive(Debug)]
pub(super) struct SmartWalletLayout {
    /// Who signs, besides the fee payer.
    pub(super) signer: Pubkey,
    pub(super) memos: Memos,
}

impl SmartWalletLayout {
    /// Reads the form of a transaction, and rejects what could cost a fee payer of ours more than the fee, as far as it shows
    /// before lookup tables are read.
    pub(super) fn read(
        transaction: &PaymentTransaction,
        fee_payers: &FeePayers,
        allowed: &SmartWallets,
        fee_max: u64,
    ) -> Result<Self, Rejection> {
        let instructions = transaction.instructions_shown();
        let instructions = instructions.ok_or_else(|| {
            Rejection::new(
                reason::COULD_NOT_BE_DECODED,
                "an instruction names an account that the transaction does not have",
            )
        })?;
        if transaction.lookups().len() > TABLES_MAX {
            let detail = format!("more than {TABLES_MAX} lookup tables");
            return Err(Rejection::new(reason::ALT_RESOLUTION_FAILED, detail));
        }
        let mut signers = transaction.signers().skip(SIGNERS - 1).map(|(key, _)| *key);
        let signer = signers.next().ok_or_else(|| {
            let detail = "the wallet's owner must sign the transaction itself, with an Ed25519 key";
            Rejection::new(reason::SIGNATURE_INVALID, detail)
        })?;
        if signers.next().is_some() {
            let detail = "others than the fee payer and the payer must sign";
            return Err(Rejection::new(reason::EXCESSIVE_SIGNERS, detail));
        }
        check_isolated(&instructions, fee_payers)?;
        check_programs(&instructions, allowed)?;
        check_signer(&signer, &instructions, allowed)?;
        check_budget(&instructions, allowed, fee_max)?;
        let memos = instructions.iter().filter(|found| found.program == MEMO);
        Ok(Self {
            signer,
            memos: Memos::of(memos),
        })
    }
}

/// Whether nothing of ours is in any of these instructions, neither as a program nor among the accounts.
pub(super) fn check_isolated(
    instructions: &[Instruction],
    fee_payers: &FeePayers,
) -> Result<(), Rejection> {
    fee_payers.mentioned_in(instructions).map_or(Ok(()), |key| {
        let detail = format!("an instruction mentions the fee payer {key}");
        Err(Rejection::new(
            reason::SMART_WALLET_FEE_PAYER_NOT_ISOLATED,
            detail,
        ))
    })
}

fn is_transfer(found: &Instruction) -> bool {
    [TOKEN, TOKEN_2022].contains(&found.program)
        && found.data.first() == Some(&instruction::TRANSFER_CHECKED)
}

/// Whether what pays names the key that signs. A payment that any key can be put beside, in a memo for instance, is anybody's who
/// has seen it.
fn check_signer(
    signer: &Pubkey,
    instructions: &[Instruction],
    allowed: &SmartWallets,
) -> Result<(), Rejection> {
    let pays =
        |found: &Instruction| is_transfer(found) || allowed.programs.contains(&found.program);
    let mut names_it = instructions.iter().filter(|found| pays(found));
    if names_it.any(|found| found.accounts.contains(signer)) {
        return Ok(());
    }
    let detail = "the key that signs has no part in what pays";
    Err(Rejection::new(reason::SIGNATURE_INVALID, detail))
}

/// Only wallets, budgets, memos, a few guards, and transfers as ordinary payers make them.
fn check_programs(instructions: &[Instruction], allowed: &SmartWallets) -> Result<(), Rejection> {
    let is_known = |found: &&Instruction| {
        [COMPUTE_BUDGET, MEMO].contains(&found.program)
            || is_guard(found)
            || is_transfer(found)
            || allowed.programs.contains(&found.program)
    };
    if let Some(stranger) = instructions.iter().find(|found| !is_known(found)) {
        let detail = format!("{} is not allowed here", stranger.program);
        return Err(Rejection::new(
            reason::SMART_WALLET_PROGRAM_NOT_ALLOWED,
            detail,
        ));
    }
    let guards = instructions.iter().filter(|found| is_guard(found)).count();
    if guards > GUARDS_MAX {
        let detail = format!("{guards} guards");
        return Err(Rejection::new(reason::INSTRUCTIONS_LENGTH, detail));
    }
    Ok(())
}

/// What the transaction may compute and pays for it, wherever it says so. Where it pays and sets no limit, it may compute what the
/// runtime allows; where it pays nothing for that, it costs nothing.
fn check_budget(
    instructions: &[Instruction],
    allowed: &SmartWallets,
    fee_max: u64,
) -> Result<(), Rejection> {
    let (budgets, others): (Vec<_>, Vec<_>) = instructions
        .iter()
        .partition(|found| found.program == COMPUTE_BUDGET);
    let (mut units, mut price) = (None, None);
    for budget in budgets {
        // The runtime refuses the same twice. What is longer than it should be it reads all the same; here it is malformed.
        match budget.data.first() {
            None => {
                return Err(Rejection::new(
                    reason::SMART_WALLET_MALFORMED_COMPUTE_BUDGET,
                    "an instruction to the compute budget has no data",
                ));
            }
            Some(&instruction::COMPUTE_UNIT_LIMIT) => {
                let limit = compute_unit_limit(budget);
                units = Some(limit.ok_or_else(|| {
                    Rejection::new(
                        reason::SMART_WALLET_MALFORMED_COMPUTE_LIMIT,
                        "SetComputeUnitLimit cannot be read",
                    )
                })?);
            }
            Some(&instruction::COMPUTE_UNIT_PRICE) => {
                let found = compute_unit_price(budget);
                price = Some(found.ok_or_else(|| {
                    Rejection::new(
                        reason::SMART_WALLET_MALFORMED_COMPUTE_PRICE,
                        "SetComputeUnitPrice cannot be read",
                    )
                })?);
            }
            Some(kind) => {
                let detail = format!("compute budget instruction {kind}");
                return Err(Rejection::new(
                    reason::SMART_WALLET_UNSUPPORTED_COMPUTE_BUDGET,
                    detail,
                ));
            }
        }
    }
    let count = u32::try_from(others.len()).unwrap_or(u32::MAX);
    let units = units.unwrap_or_else(|| match price {
        None | Some(0) => 0,
        Some(_) => UNITS_MAX.min(UNITS_PER_INSTRUCTION.saturating_mul(count)),
    });
    if units > allowed.compute_units_max {
        let most = allowed.compute_units_max;
        let detail = format!("{units} compute units, {most} are allowed");
        return Err(Rejection::new(
            reason::SMART_WALLET_COMPUTE_UNITS_TOO_HIGH,
            detail,
        ));
    }
    match price {
        Some(price) if price > allowed.compute_unit_price_max => {
            let most = allowed.compute_unit_price_max;
            let detail = format!("{price} microlamports a compute unit, {most} are allowed");
            Err(Rejection::new(
                reason::SMART_WALLET_PRIORITY_FEE_TOO_HIGH,
                detail,
            ))
        }
        price => check_fee(
            units,
            price.unwrap_or(0),
            fee_max,
            reason::SMART_WALLET_PRIORITY_FEE_TOO_HIGH,
        ),
    }
}

/// What a transaction must bring about.
pub(super) struct ExpectedOutcome<'a> {
    pub(super) expected: &'a Expected,
    /// The fee payers, who must have no part in it.
    pub(super) fee_payers: &'a [Pubkey],
    /// The programs that may make the transfer.
    pub(super) wallets: &'a [Pubkey],
}

impl ExpectedOutcome<'_> {
    /// The one transfer that pays the recipient, in what a transaction did or would do.
    ///
    /// Exactly one `TransferChecked` of at least the amount goes to the recipient's account, made by the transaction itself or by
    /// a wallet that is allowed; nothing else that the token programs were told is about that account; and where balances are
    /// told, its balance rose by at least the amount.
    ///
    /// # Errors
    /// The verdict, where it is not so. Where it is not told which instructions were called, balances must do: `None`.
    pub(super) fn find(
        &self,
        transaction: &PaymentTransaction,
        loaded: &[Pubkey],
        evidence: &Evidence,
    ) -> Result<Option<Transfer>, Rejection> {
        let destination = &self.expected.destination;
        let mint = self.expected.token.mint.to_string();
        let mismatch =
            |detail: &str| Rejection::new(reason::SMART_WALLET_TRANSFER_MISMATCH, detail);
        let calls = evidence.inner_instructions.as_ref().map(|inner| {
            let nowhere = "a called instruction names an account that is not there";
            token_instructions(transaction, loaded, inner).ok_or_else(|| mismatch(nowhere))
        });
        let transfer = match calls.transpose()? {
            Some(calls) => Some(self.only(&calls)?),
            None if evidence.balances.is_some() => None,
            None => {
                return Err(Rejection::new(
                    reason::SMART_WALLET_NO_TRANSFER,
                    "the transaction would call no token program",
                ));
            }
        };
        if evidence.balances.is_some() {
            let received = evidence.received(transaction, loaded, destination, &mint);
            let received = received.unwrap_or_default();
            if Amount::from(received) < self.expected.amount {
                let detail = format!("the recipient's balance rises by {received}");
                return Err(mismatch(&detail));
            }
        }
        Ok(transfer)
    }

    /// The only transfer to the recipient's account, where nothing else happens to that.
    fn only(&self, calls: &[(Caller, TokenInstruction)]) -> Result<Transfer, Rejection> {
        if calls.is_empty() {
            return Err(Rejection::new(
                reason::SMART_WALLET_NO_TRANSFER,
                "the transaction would call no token program",
            ));
        }
        let involves = |key: &Pubkey| calls.iter().filter(|(_, call)| call.mentions(key)).count();
        if self.fee_payers.iter().any(|key| involves(key) > 0) {
            return Err(Rejection::new(
                reason::FEE_PAYER_TRANSFERRING_FUNDS,
                "the money would be the facilitator's own",
            ));
        }
        let mut matching = calls
            .iter()
            .filter_map(|(caller, call)| Some((caller, self.matching(call)?)));
        let Some((caller, transfer)) = matching.next() else {
            return Err(Rejection::new(
                reason::SMART_WALLET_TRANSFER_MISMATCH,
                "no transfer is of the required asset and at least the required amount to the recipient's token account",
            ));
        };
        if matching.next().is_some() {
            return Err(Rejection::new(
                reason::SMART_WALLET_MULTIPLE_TRANSFERS,
                "more than one transfer would pay the recipient",
            ));
        }
        let mismatch =
            |detail: &str| Rejection::new(reason::SMART_WALLET_TRANSFER_MISMATCH, detail);
        if involves(&self.expected.destination) > 1 {
            let detail = "something else happens to the recipient's account";
            return Err(mismatch(detail));
        }
        if transfer.authority == self.expected.pay_to {
            return Err(mismatch("the payer pays itself"));
        }
        self.check_caller(caller)?;
        Ok(transfer.clone())
    }

    /// A wallet calls whatever it is told to call, and there are programs that pay somebody what is theirs whoever asks: an escrow,
    /// a stream, a channel. To set off a transfer of what the recipient was to get anyway is not to pay.
    fn check_caller(&self, caller: &Caller) -> Result<(), Rejection> {
        let detail = match caller {
            Caller::Transaction => return Ok(()),
            Caller::Program(program) if self.wallets.contains(program) => return Ok(()),
            Caller::Program(program) => format!("the transfer is made by {program}"),
            Caller::Unknown => "nodes do not tell which program makes the transfer".to_owned(),
        };
        let reason = reason::SMART_WALLET_PROGRAM_NOT_ALLOWED;
        Err(Rejection::new(reason, detail))
    }

    fn matching<'c>(&self, call: &'c TokenInstruction) -> Option<&'c Transfer> {
        let TokenInstruction::Transfer(transfer) = call else {
            return None;
        };
        let Expected {
            token,
            destination,
            amount,
            ..
        } = self.expected;
        let matches = transfer.program == token.program.id()
            && transfer.mint == token.mint
            && transfer.decimals == token.decimals
            && transfer.destination == *destination
            && transfer.source != *destination
            && Amount::from(transfer.amount) >= *amount;
        matches.then_some(transfer)
    }
}
