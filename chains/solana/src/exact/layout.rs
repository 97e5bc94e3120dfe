//! The static path: what a payment's transaction must look like. A limit and a price for what it computes, one transfer, and around it
//! nothing but memos and assertions.

use quittance_core::{Reason, Rejection};

use super::reason;
use crate::chain::fee;
use crate::instruction::{MEMO, Transfer, compute_unit_limit, compute_unit_price, is_guard, memo};
use crate::transaction::{FeePayers, Instruction, PaymentTransaction};

/// How few instructions a payment can have: limit, price, transfer.
const INSTRUCTIONS_MIN: usize = 3;

/// How many instructions a payment may have besides guards: the reference implementation's limit.
const INSTRUCTIONS_MAX: usize = 7;

/// How many guards a wallet may put around them. Phantom puts two or three.
pub(super) const GUARDS_MAX: usize = 4;

/// Who signs a payment: the fee payer and the payer.
pub(super) const SIGNERS: usize = 2;

/// What an operator allows a payment to cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caps {
    pub(crate) compute_units: u32,
    pub(crate) compute_unit_price: u64,
    /// In lamports, all of it.
    pub(crate) fee: u64,
}

/// A transaction of the right form.
#[derive(Debug)]
pub(crate) struct StaticLayout {
    pub(crate) transfer: Transfer,
    pub(crate) memos: Memos,
}

/// The memos of a transaction, in order; `None` for one that is no text or too long.
#[derive(Debug)]
pub(crate) struct Memos(Vec<Option<String>>);

impl StaticLayout {
    /// Reads the form of a transaction, and rejects what an account of ours is in, apart from paying the fee.
    pub(crate) fn read(
        transaction: &PaymentTransaction,
        fee_payers: &FeePayers,
        caps: Caps,
    ) -> Result<Self, Rejection> {
        if !transaction.lookups().is_empty() {
            return Err(Rejection::new(
                reason::ALT_RESOLUTION_NOT_AVAILABLE,
                "lookup tables are read only where smart wallets may pay, and none may here",
            ));
        }
        let instructions = transaction.instructions(&[]).ok_or_else(because(
            reason::COULD_NOT_BE_DECODED,
            "an instruction names an account that the transaction does not have",
        ))?;
        if transaction.signers().count() > SIGNERS {
            let detail = "others than the fee payer and the payer must sign";
            return Err(Rejection::new(reason::EXCESSIVE_SIGNERS, detail));
        }
        let (guards, rest): (Vec<_>, Vec<_>) =
            instructions.iter().partition(|found| is_guard(found));
        if guards.len() > GUARDS_MAX || !(INSTRUCTIONS_MIN..=INSTRUCTIONS_MAX).contains(&rest.len())
        {
            let detail = format!("{} instructions and {} guards", rest.len(), guards.len());
            return Err(Rejection::new(reason::INSTRUCTIONS_LENGTH, detail));
        }
        let [limit, price, transfer, optional @ ..] = rest.as_slice() else {
            return Err(Rejection::new(
                reason::INSTRUCTIONS_LENGTH,
                "expected are a compute unit limit, a compute unit price, TransferChecked, and memos",
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
        let transfer = Transfer::read(transfer).ok_or_else(because(
            reason::NO_TRANSFER,
            "the third instruction must be TransferChecked of SPL Token or Token-2022",
        ))?;
        // Only now: a smart wallet's transaction, which fails before this, has limits of its own.
        caps.check(units, price)?;
        if fee_payers.keys.contains(&transfer.authority) {
            return Err(Rejection::new(
                reason::FEE_PAYER_TRANSFERRING_FUNDS,
                "the money would be the facilitator's own",
            ));
        }
        if let Some(key) = fee_payers.mentioned_in(&instructions) {
            let detail = format!("an instruction mentions the fee payer {key}");
            return Err(Rejection::new(reason::FEE_PAYER_IN_INSTRUCTION, detail));
        }
        if !transaction
            .signers()
            .any(|(key, _)| *key == transfer.authority)
        {
            let detail = "the transfer's authority does not sign";
            return Err(Rejection::new(reason::SIGNATURE_INVALID, detail));
        }
        Ok(Self {
            transfer,
            memos: memos(optional)?,
        })
    }

    /// Whether the transaction was refused for its form alone. It may pay all the same, in a way that only shows when it runs
    /// (specification, section 3.3).
    pub(crate) fn is_about_form(reason: &Reason) -> bool {
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

/// Makes a rejection only where it is needed.
fn because(reason: Reason, detail: &'static str) -> impl FnOnce() -> Rejection {
    move || Rejection::new(reason, detail)
}

impl Memos {
    /// The memos among these instructions, all of which must be to the memo program.
    pub(super) fn of<'i>(instructions: impl Iterator<Item = &'i Instruction>) -> Self {
        Self(
            instructions
                .map(|found| memo(found).map(str::to_owned))
                .collect(),
        )
    }

    /// Whether they are what the requirements ask for.
    pub(crate) fn check(&self, required: Option<&str>) -> Result<(), Rejection> {
        let Self(memos) = self;
        if memos.contains(&None) {
            let detail = "a memo is no text, or too long";
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
                let detail = format!("{} memos, and one is required", memos.len());
                Err(Rejection::new(reason::MEMO_COUNT, detail))
            }
        }
    }
}

impl Caps {
    fn check(self, units: u32, price: u64) -> Result<(), Rejection> {
        if units > self.compute_units {
            let detail = format!("{units} compute units, {} are allowed", self.compute_units);
            return Err(Rejection::new(reason::COMPUTE_LIMIT_TOO_HIGH, detail));
        }
        if price > self.compute_unit_price {
            let allowed = self.compute_unit_price;
            let detail = format!("{price} microlamports a compute unit, {allowed} are allowed");
            return Err(Rejection::new(reason::COMPUTE_PRICE_TOO_HIGH, detail));
        }
        check_fee(units, price, self.fee, reason::COMPUTE_PRICE_TOO_HIGH)
    }
}

/// Whether what a transaction asks for costs its fee payer no more than `most` lamports.
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
        "{units} compute units at {price} microlamports each cost {fee} lamports with the signatures, {most} are allowed: ask \
         for fewer units, or offer less for each"
    );
    Err(Rejection::new(refusal, detail))
}

/// What comes after the transfer: memos, and nothing else. In particular no second transfer, and none back.
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
            let detail =
                "after the transfer come memos and the guards of wallets, and nothing else";
            Err(Rejection::new(unknown, detail))
        }
        None => Ok(Memos::of(optional.iter().copied())),
    }
}
