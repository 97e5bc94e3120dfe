//! The static path: a compute unit limit, a compute unit price and one transfer, with memos and
//! assertions around them.

use quittance_core::{Reason, Rejection};

use super::config::ExactConfig;
use super::reason;
use crate::fee::fee;
use crate::fee_payers::FeePayers;
use crate::instruction::{
    Instruction, MEMO, Transfer, compute_unit_limit, compute_unit_price, is_guard, memo,
};
use crate::transaction::PaymentTransaction;

/// The fewest instructions of a payment: limit, price, transfer.
const INSTRUCTIONS_MIN: usize = 3;

/// The most instructions of a payment besides guards: the reference implementation's limit.
const INSTRUCTIONS_MAX: usize = 7;

/// The most guards that a wallet may add. Phantom adds two or three.
pub(super) const GUARDS_MAX: usize = 4;

/// The signers of a payment: the fee payer and the payer.
pub(super) const SIGNERS: usize = 2;

/// A transaction with the layout of the static path.
#[derive(Debug)]
pub(crate) struct StaticLayout {
    pub(crate) transfer: Transfer,
    pub(crate) memos: Memos,
}

/// The memos of a transaction, in order; `None` for one that is not UTF-8 or is too long.
#[derive(Debug)]
pub(crate) struct Memos(Vec<Option<String>>);

impl StaticLayout {
    /// Parses the layout of a transaction. Rejects it if an instruction mentions a fee payer.
    pub(crate) fn parse(
        transaction: &PaymentTransaction,
        fee_payers: &FeePayers,
        config: &ExactConfig,
    ) -> Result<Self, Rejection> {
        if !transaction.lookups().is_empty() {
            return Err(Rejection::new(
                reason::ALT_RESOLUTION_NOT_AVAILABLE,
                "lookup tables are allowed only for smart wallets, and this facilitator allows none",
            ));
        }
        let instructions = transaction.instructions(&[]).ok_or_else(because(
            reason::COULD_NOT_BE_DECODED,
            "an instruction refers to an account that the transaction does not have",
        ))?;
        if transaction.signers().count() > SIGNERS {
            let detail = "there are signers besides the fee payer and the payer";
            return Err(Rejection::new(reason::EXCESSIVE_SIGNERS, detail));
        }
        let (guards, rest): (Vec<_>, Vec<_>) =
            instructions.iter().partition(|found| is_guard(found));
        if guards.len() > GUARDS_MAX || !(INSTRUCTIONS_MIN..=INSTRUCTIONS_MAX).contains(&rest.len())
        {
            let detail = format!(
                "{} instructions ({INSTRUCTIONS_MIN} to {INSTRUCTIONS_MAX} are allowed) and {} guards (at most {GUARDS_MAX})",
                rest.len(),
                guards.len()
            );
            return Err(Rejection::new(reason::INSTRUCTIONS_LENGTH, detail));
        }
        let [limit, price, transfer, optional @ ..] = rest.as_slice() else {
            return Err(Rejection::new(
                reason::INSTRUCTIONS_LENGTH,
                "expected: a compute unit limit, a compute unit price, TransferChecked, and memos",
            ));
        };
        let units = compute_unit_limit(limit).ok_or_else(because(
            reason::COMPUTE_LIMIT_INSTRUCTION,
            "the first instruction must be SetComputeUnitLimit",
        ))?;
        let price = compute_unit_price(price).ok_or_else(because(
            reason::COMPUTE_PRICE_INSTRUCTION,
            "the second instruction must be SetComputeUnitPrice",
        ))?;
        let transfer = Transfer::parse(transfer).ok_or_else(because(
            reason::NO_TRANSFER,
            "the third instruction must be TransferChecked of SPL Token or Token-2022",
        ))?;
        // Checked late, because a smart wallet's transaction fails above and has limits of its own.
        check_compute_budget(units, price, config)?;
        if fee_payers.keys().contains(&transfer.authority) {
            return Err(Rejection::new(
                reason::FEE_PAYER_TRANSFERRING_FUNDS,
                "the transfer's authority is a fee payer of the facilitator",
            ));
        }
        if let Some(key) =
            fee_payers.mentioned_in(&instructions, config.allow_lighthouse_on_fee_payer)
        {
            let detail = format!("an instruction mentions the fee payer {key}");
            return Err(Rejection::new(reason::FEE_PAYER_IN_INSTRUCTION, detail));
        }
        if !transaction
            .signers()
            .any(|(key, _)| *key == transfer.authority)
        {
            let detail = "the transfer's authority is not a signer";
            return Err(Rejection::new(reason::SIGNATURE_INVALID, detail));
        }
        Ok(Self {
            transfer,
            memos: memos(optional)?,
        })
    }

    /// Whether a transaction was rejected for its layout alone. It may still pay, in a way that
    /// only a simulation shows (specification, section 3.3).
    pub(crate) fn is_about_layout(reason: &Reason) -> bool {
        [
            reason::ALT_RESOLUTION_NOT_AVAILABLE,
            reason::INSTRUCTIONS_LENGTH,
            reason::COMPUTE_LIMIT_INSTRUCTION,
            reason::COMPUTE_PRICE_INSTRUCTION,
            reason::NO_TRANSFER,
            reason::UNKNOWN_FOURTH,
            reason::UNKNOWN_FIFTH,
            reason::UNKNOWN_SIXTH,
            reason::UNKNOWN_SEVENTH,
            reason::UNKNOWN_OPTIONAL,
        ]
        .contains(reason)
    }
}

/// Builds a rejection only when it is needed.
fn because(reason: Reason, detail: &'static str) -> impl FnOnce() -> Rejection {
    move || Rejection::new(reason, detail)
}

impl Memos {
    /// The memos among these instructions, all of which must run the memo program.
    pub(super) fn new<'i>(instructions: impl Iterator<Item = &'i Instruction>) -> Self {
        Self(
            instructions
                .map(|found| memo(found).map(str::to_owned))
                .collect(),
        )
    }

    /// Checks the memos against the one that the requirements name.
    pub(crate) fn check(&self, required: Option<&str>) -> Result<(), Rejection> {
        let Self(memos) = self;
        if memos.contains(&None) {
            let detail = "a memo is not UTF-8, or too long";
            return Err(Rejection::new(reason::MEMO_MISMATCH, detail));
        }
        let Some(required) = required else {
            return Ok(());
        };
        match memos.as_slice() {
            [Some(found)] if found == required => Ok(()),
            [_] => Err(Rejection::new(
                reason::MEMO_MISMATCH,
                "the memo is not the text in extra.memo",
            )),
            memos => {
                let detail = format!("{} memos, but exactly one is required", memos.len());
                Err(Rejection::new(reason::MEMO_COUNT, detail))
            }
        }
    }
}

fn check_compute_budget(units: u32, price: u64, config: &ExactConfig) -> Result<(), Rejection> {
    let (units_max, price_max) = (config.compute_units_max, config.compute_unit_price_max);
    if units > units_max {
        let detail = format!("{units} compute units requested, at most {units_max} are allowed");
        return Err(Rejection::new(reason::COMPUTE_LIMIT_TOO_HIGH, detail));
    }
    if price > price_max {
        let detail =
            format!("{price} micro-lamports for a compute unit, at most {price_max} are allowed");
        return Err(Rejection::new(reason::COMPUTE_PRICE_TOO_HIGH, detail));
    }
    check_fee(units, price, config.fee_max, reason::COMPUTE_PRICE_TOO_HIGH)
}

/// Checks that the fee of a transaction is at most `most` lamports.
pub(super) fn check_fee(
    units: u32,
    price: u64,
    most: u64,
    refusal: Reason,
) -> Result<(), Rejection> {
    let fee = fee(units, price);
    if fee <= most {
        return Ok(());
    }
    let detail = format!(
        "{units} compute units at {price} micro-lamports each cost {fee} lamports with the signatures, at most {most} are allowed: \
         request fewer units or a lower price"
    );
    Err(Rejection::new(refusal, detail))
}

/// The memos after the transfer. Any other instruction is rejected, in particular a second transfer
/// or one back to the payer.
fn memos(optional: &[&Instruction]) -> Result<Memos, Rejection> {
    const UNKNOWN: [Reason; 4] = [
        reason::UNKNOWN_FOURTH,
        reason::UNKNOWN_FIFTH,
        reason::UNKNOWN_SIXTH,
        reason::UNKNOWN_SEVENTH,
    ];
    match optional.iter().position(|found| found.program != MEMO) {
        Some(at) => {
            let unknown = UNKNOWN.get(at).cloned().unwrap_or(reason::UNKNOWN_OPTIONAL);
            let detail = "only memos and guards of wallets may follow the transfer";
            Err(Rejection::new(unknown, detail))
        }
        None => Ok(Memos::new(optional.iter().copied())),
    }
}
