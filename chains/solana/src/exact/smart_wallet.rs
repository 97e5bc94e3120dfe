//! The smart-wallet path: a program makes the transfer, which only a simulation shows. The
//! transaction must not be able to harm its fee payer. Its effect must be one payment to the
//! recipient. This is checked in a simulation before the fee payer signs, and again after
//! inclusion.
//!
//! Specification: `exact` on SVM, sections 2 and 3.2 to 3.4.

use quittance_core::{Amount, Rejection};
use solana_pubkey::Pubkey;

use super::config::{ExactConfig, SmartWallets};
use super::expected::Expected;
use super::reason;
use super::static_layout::{GUARDS_MAX, Memos, SIGNERS, check_fee};
use crate::evidence::{Caller, Evidence, TokenInstruction, token_instructions};
use crate::fee_payers::FeePayers;
use crate::instruction::{
    self, COMPUTE_BUDGET, Instruction, MEMO, Transfer, compute_unit_limit, compute_unit_price,
    is_guard, is_transfer,
};
use crate::transaction::PaymentTransaction;

/// The most lookup tables of a payment. Wallets use one or two, and each has up to eight kilobytes
/// to fetch.
const TABLES_MAX: usize = 4;

/// The runtime's default limit of compute units for an instruction, and its maximum for a
/// transaction (`DEFAULT_INSTRUCTION_COMPUTE_UNIT_LIMIT`, `MAX_COMPUTE_UNIT_LIMIT`).
const UNITS_PER_INSTRUCTION: u32 = 200_000;
const UNITS_MAX: u32 = 1_400_000;

/// A transaction that may be simulated.
#[derive(Debug)]
pub(super) struct SmartWalletLayout {
    /// The signer besides the fee payer.
    pub(super) signer: Pubkey,
    pub(super) memos: Memos,
}

impl SmartWalletLayout {
    /// Parses the layout of a transaction. Rejects it if it could cost a fee payer more than the
    /// fee, as far as that shows before its lookup tables are read.
    pub(super) fn parse(
        transaction: &PaymentTransaction,
        fee_payers: &FeePayers,
        allowed: &SmartWallets,
        config: &ExactConfig,
    ) -> Result<Self, Rejection> {
        let instructions = transaction.instructions_shown();
        let instructions = instructions.ok_or_else(|| {
            Rejection::new(
                reason::COULD_NOT_BE_DECODED,
                "an instruction refers to an account that the transaction does not have",
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
            let detail = "there are signers besides the fee payer and the payer";
            return Err(Rejection::new(reason::EXCESSIVE_SIGNERS, detail));
        }
        check_isolated(&instructions, fee_payers, config)?;
        check_programs(&instructions, allowed)?;
        check_signer(&signer, &instructions, allowed)?;
        check_budget(&instructions, allowed, config.fee_max)?;
        let memos = instructions.iter().filter(|found| found.program == MEMO);
        Ok(Self {
            signer,
            memos: Memos::new(memos),
        })
    }
}

/// Checks that no instruction mentions a fee payer, as its program or among its accounts.
pub(super) fn check_isolated(
    instructions: &[Instruction],
    fee_payers: &FeePayers,
    config: &ExactConfig,
) -> Result<(), Rejection> {
    let mentioned = fee_payers.mentioned_in(instructions, config.allow_lighthouse_on_fee_payer);
    mentioned.map_or(Ok(()), |key| {
        let detail = format!("an instruction mentions the fee payer {key}");
        Err(Rejection::new(
            reason::SMART_WALLET_FEE_PAYER_NOT_ISOLATED,
            detail,
        ))
    })
}

/// Checks that a paying instruction names the signer. Otherwise anyone who saw the payment could
/// add an unrelated signer, in a memo for example, and claim it.
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
    let detail = "the signer is not an account of a paying instruction";
    Err(Rejection::new(reason::SIGNATURE_INVALID, detail))
}

/// Allows wallets, the compute budget, memos, a few guards and ordinary transfers.
fn check_programs(instructions: &[Instruction], allowed: &SmartWallets) -> Result<(), Rejection> {
    let is_known = |found: &&Instruction| {
        [COMPUTE_BUDGET, MEMO].contains(&found.program)
            || is_guard(found)
            || is_transfer(found)
            || allowed.programs.contains(&found.program)
    };
    if let Some(stranger) = instructions.iter().find(|found| !is_known(found)) {
        let detail = format!("the program {} is not allowed", stranger.program);
        return Err(Rejection::new(
            reason::SMART_WALLET_PROGRAM_NOT_ALLOWED,
            detail,
        ));
    }
    let guards = instructions.iter().filter(|found| is_guard(found)).count();
    if guards > GUARDS_MAX {
        let detail = format!("{guards} guard instructions, at most {GUARDS_MAX} are allowed");
        return Err(Rejection::new(reason::INSTRUCTIONS_LENGTH, detail));
    }
    Ok(())
}

/// Checks the compute budget, wherever its instructions are. With a price and without a limit, the
/// runtime's default limit counts; without a price the compute units cost nothing.
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
        // The runtime rejects repeated instructions. It ignores bytes after the value; here they
        // make it malformed.
        match budget.data.first() {
            None => {
                return Err(Rejection::new(
                    reason::SMART_WALLET_MALFORMED_COMPUTE_BUDGET,
                    "an instruction of the compute budget program has no data",
                ));
            }
            Some(&instruction::COMPUTE_UNIT_LIMIT) => {
                let limit = compute_unit_limit(budget);
                units = Some(limit.ok_or_else(|| {
                    Rejection::new(
                        reason::SMART_WALLET_MALFORMED_COMPUTE_LIMIT,
                        "SetComputeUnitLimit is malformed",
                    )
                })?);
            }
            Some(&instruction::COMPUTE_UNIT_PRICE) => {
                let found = compute_unit_price(budget);
                price = Some(found.ok_or_else(|| {
                    Rejection::new(
                        reason::SMART_WALLET_MALFORMED_COMPUTE_PRICE,
                        "SetComputeUnitPrice is malformed",
                    )
                })?);
            }
            Some(kind) => {
                let detail = format!("the compute budget instruction {kind} is not supported");
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
        let detail = format!("{units} compute units requested, at most {most} are allowed");
        return Err(Rejection::new(
            reason::SMART_WALLET_COMPUTE_UNITS_TOO_HIGH,
            detail,
        ));
    }
    match price {
        Some(price) if price > allowed.compute_unit_price_max => {
            let most = allowed.compute_unit_price_max;
            let detail =
                format!("{price} micro-lamports for a compute unit, at most {most} are allowed");
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

/// The effect that a transaction must have.
pub(super) struct ExpectedOutcome<'a> {
    pub(super) expected: &'a Expected,
    /// The fee payers, which must not take part.
    pub(super) fee_payers: &'a [Pubkey],
    /// The programs that may make the transfer.
    pub(super) wallets: &'a [Pubkey],
}

impl ExpectedOutcome<'_> {
    /// The one transfer to the recipient in the effect of a transaction.
    ///
    /// Exactly one `TransferChecked` of at least the amount goes to the recipient's account. It is
    /// a top-level instruction or is made by an allowed wallet. No other token instruction mentions
    /// the account. If balances are reported, the account's balance rises by at least the amount.
    ///
    /// `None` if inner instructions are not reported; then the balances alone decide.
    ///
    /// # Errors
    /// The verdict, if the effect is different.
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
            let nowhere = "an inner instruction refers to a missing account";
            token_instructions(transaction, loaded, inner).ok_or_else(|| mismatch(nowhere))
        });
        let transfer = match calls.transpose()? {
            Some(calls) => Some(self.only(&calls)?),
            None if evidence.balances.is_some() => None,
            None => {
                return Err(Rejection::new(
                    reason::SMART_WALLET_NO_TRANSFER,
                    "the transaction has no token instruction",
                ));
            }
        };
        if evidence.balances.is_some() {
            let received = evidence.received(transaction, loaded, destination, &mint);
            let received = received.unwrap_or_default();
            if Amount::from(received) < self.expected.amount {
                let detail = format!(
                    "the recipient's balance rises by {received}, less than {}",
                    self.expected.amount
                );
                return Err(mismatch(&detail));
            }
        }
        Ok(transfer)
    }

    /// The only transfer to the recipient's account, if no other instruction mentions it.
    fn only(&self, calls: &[(Caller, TokenInstruction)]) -> Result<Transfer, Rejection> {
        if calls.is_empty() {
            return Err(Rejection::new(
                reason::SMART_WALLET_NO_TRANSFER,
                "the transaction has no token instruction",
            ));
        }
        let involves = |key: &Pubkey| calls.iter().filter(|(_, call)| call.mentions(key)).count();
        if self.fee_payers.iter().any(|key| involves(key) > 0) {
            return Err(Rejection::new(
                reason::FEE_PAYER_TRANSFERRING_FUNDS,
                "a token instruction mentions a fee payer of the facilitator",
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
            let detail = "another instruction mentions the recipient's account";
            return Err(mismatch(detail));
        }
        if transfer.authority == self.expected.pay_to {
            return Err(mismatch("the payer is the recipient"));
        }
        self.check_caller(caller)?;
        Ok(transfer.clone())
    }

    /// A wallet may call any program, and some programs, such as escrows, pay a recipient what it
    /// already owns, at anyone's request. Such a transfer is not a payment.
    fn check_caller(&self, caller: &Caller) -> Result<(), Rejection> {
        let detail = match caller {
            Caller::Transaction => return Ok(()),
            Caller::Program(program) if self.wallets.contains(program) => return Ok(()),
            Caller::Program(program) => format!(
                "the program {program} makes the transfer, and is not an allowed smart wallet"
            ),
            Caller::Unknown => "nodes do not report which program makes the transfer".to_owned(),
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
