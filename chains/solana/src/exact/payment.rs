//! One payment, decoded: what is asked of the chain, what speaks against it, and what must have happened.

use std::sync::Arc;

use quittance_core::{
    Amount, Check, Effect, LaneId, Observed, Payment, PaymentInfo, Rejection, SignatureClaim,
};
use solana_pubkey::Pubkey;

use super::reason;
use super::smart_wallet::{ExpectedOutcome, SmartWallets, check_isolated};
use crate::chain::{FeePayerRotation, PartiallySigned, Solana};
use crate::evidence::Evidence;
use crate::instruction::Transfer;
use crate::known::Token;
use crate::lookup;
use crate::mint;
use crate::read::{Account, Answer, Query};
use crate::transaction::PaymentTransaction;

/// One payment.
pub(super) struct ExactPayment {
    pub(super) info: PaymentInfo,
    pub(super) transaction: PaymentTransaction,
    pub(super) lane: LaneId,
    pub(super) rotation: Arc<FeePayerRotation>,
    pub(super) expected: Expected,
    pub(super) claims: Vec<SignatureClaim>,
    pub(super) path: Path,
    /// The first check after the signatures that failed. It is told only once the signatures are known to hold, because
    /// what somebody else wrote is nobody's verdict.
    pub(super) objection: Option<Rejection>,
}

/// What is to be paid.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) token: Token,
    pub(super) pay_to: Pubkey,
    /// The recipient's token account. Found once: to derive its address takes microseconds.
    pub(super) destination: Pubkey,
    pub(super) amount: Amount,
}

/// In which way a transaction pays (specification, section 3).
pub(super) enum Path {
    /// By an instruction of its own.
    Static(Transfer),
    /// By whatever it calls, which shows only when it runs.
    SmartWallet {
        /// Who signs for the wallet.
        signer: Pubkey,
        /// Which wallets may make the transfer.
        allowed: Arc<SmartWallets>,
    },
}

impl Path {
    /// Who signs, besides the fee payer.
    pub(super) fn signer(&self) -> &Pubkey {
        match self {
            Self::Static(transfer) => &transfer.authority,
            Self::SmartWallet { signer, .. } => signer,
        }
    }
}

/// The accounts that are asked about, by place.
mod asked {
    pub(super) const MINT: usize = 0;
    pub(super) const DESTINATION: usize = 1;
    /// On the static path.
    pub(super) const SOURCE: usize = 2;
    /// On the smart-wallet path: the lookup tables from here on.
    pub(super) const TABLES: usize = 2;
}

impl Payment<Solana> for ExactPayment {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &self.claims
    }

    fn check(&self, observed: &Observed<'_, Solana>) -> Result<Check<Solana>, Rejection> {
        let signed = observed.signatures.len() == self.claims.len()
            && observed.signatures.iter().all(|holds| *holds);
        if !signed {
            let detail =
                "a signature is missing, or is not its signer's over this transaction's message";
            return Err(Rejection::new(reason::SIGNATURE_INVALID, detail));
        }
        self.objection.clone().map_or(Ok(()), Err)?;
        let [.., answer] = observed.answers else {
            return Ok(Check::Ask(self.query()));
        };
        self.check_token(answer)?;
        match &self.path {
            Path::Static(transfer) => self.check_static(transfer, answer)?,
            Path::SmartWallet { .. } => {
                self.find_transfer(answer)?;
            }
        }
        Ok(Check::Valid)
    }

    /// The wallet, whose money it is; not who signs for it.
    fn payer(&self, observed: &Observed<'_, Solana>) -> Option<String> {
        let Path::SmartWallet { .. } = self.path else {
            return None;
        };
        let transfer = self.find_transfer(observed.answers.last()?).ok()??;
        Some(transfer.authority.to_string())
    }

    fn action(
        &self,
        amount: Amount,
        observed: &Observed<'_, Solana>,
    ) -> Result<PartiallySigned, Rejection> {
        if amount != self.info.amount {
            let detail = "exact settles exactly what was authorized";
            return Err(Rejection::new(reason::AMOUNT_MISMATCH, detail));
        }
        let loaded = match (&self.path, observed.answers) {
            (Path::SmartWallet { .. }, [.., answer]) => self.loaded(answer)?,
            _ => Vec::new(),
        };
        Ok(PartiallySigned {
            transaction: self.transaction.clone(),
            loaded,
        })
    }

    /// What is in the account that pays. Which one a smart wallet pays from shows only when it runs.
    fn balance(&self, observed: &Observed<'_, Solana>) -> Option<Amount> {
        let Path::Static(_) = self.path else {
            return None;
        };
        let source = account(observed.answers.last()?, asked::SOURCE)?;
        mint::amount_in(source, self.expected.token.program).map(Amount::from)
    }

    fn lane(&self) -> Option<&LaneId> {
        Some(&self.lane)
    }

    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        if let Some(error) = &evidence.error {
            // A message is included once: it cannot be tried again, and to try it only tells that it was included.
            let detail = format!("the transaction was included and failed: {error}");
            return Effect::Mismatch(Rejection::new(reason::TRANSACTION_FAILED, detail));
        }
        let found = match &self.path {
            Path::Static(transfer) => self.received(transfer, evidence),
            Path::SmartWallet { .. } => self.paid(evidence),
        };
        match found {
            Ok(()) => Effect::Transferred(amount),
            Err(detail) => Effect::Mismatch(Rejection::new(reason::TRANSFER_NOT_CONFIRMED, detail)),
        }
    }
}

/// What both paths ask.
impl ExactPayment {
    fn query(&self) -> Query {
        let mut accounts = vec![self.expected.token.mint, self.expected.destination];
        match &self.path {
            Path::Static(transfer) => accounts.push(transfer.source),
            Path::SmartWallet { .. } => {
                accounts.extend(
                    self.transaction
                        .lookups()
                        .iter()
                        .map(|lookup| lookup.account_key),
                );
            }
        }
        Query {
            accounts,
            simulate: Some(self.transaction.clone()),
            with_inner_instructions: matches!(self.path, Path::SmartWallet { .. }),
        }
    }

    /// Whether the token and the recipient's account are what they seem to be.
    fn check_token(&self, answer: &Answer) -> Result<(), Rejection> {
        let token = &self.expected.token;
        let program = token.program;
        let mint = account(answer, asked::MINT).ok_or_else(|| {
            Rejection::new(
                reason::MINT_MISMATCH,
                "there is no mint at the asset's address",
            )
        })?;
        mint::judge(mint, program, &token.allowed)
            .map_err(|problem| Rejection::new(reason::MINT_NOT_ALLOWED, problem))?;
        let Some(destination) = account(answer, asked::DESTINATION) else {
            let detail =
                "the recipient has no token account for this asset, and none is made for it";
            return Err(Rejection::new(reason::RECEIVER_ACCOUNT_NOT_FOUND, detail));
        };
        // SPL Token lets an owner give an associated account away; its address stays.
        if mint::owner_of(destination, program) != Some(self.expected.pay_to) {
            let detail = "the recipient's token account belongs to another owner";
            return Err(Rejection::new(reason::RECIPIENT_MISMATCH, detail));
        }
        Ok(())
    }
}

/// The static path.
impl ExactPayment {
    fn check_static(&self, transfer: &Transfer, answer: &Answer) -> Result<(), Rejection> {
        let source = account(answer, asked::SOURCE);
        let owner = source.and_then(|source| mint::owner_of(source, self.expected.token.program));
        if owner.is_some_and(|owner| owner != transfer.authority) {
            let detail = "the money is not the signer's own";
            return Err(Rejection::new(reason::SIGNATURE_INVALID, detail));
        }
        let simulated = answer.simulated.as_ref().ok_or_else(|| {
            Rejection::new(
                reason::SIMULATION_FAILED,
                "no node said what the transaction would do",
            )
        })?;
        match &simulated.error {
            None => Ok(()),
            Some(error) => Err(Rejection::new(
                reason::SIMULATION_FAILED,
                self.why_transfer_fails(transfer, source, error),
            )),
        }
    }

    /// Why the trial failed, for people. Where an instruction fails and the payer has too little, that is why.
    fn why_transfer_fails(
        &self,
        transfer: &Transfer,
        source: Option<&Account>,
        error: &str,
    ) -> String {
        let is_of_instruction = error.contains("\"InstructionError\"");
        let amount = transfer.amount;
        match source.map(|source| mint::amount_in(source, self.expected.token.program)) {
            None if is_of_instruction => {
                "the payer has no token account for this asset: it has nothing to pay with"
                    .to_owned()
            }
            Some(Some(held)) if is_of_instruction && held < amount => {
                format!(
                    "the payer's token account holds {held} atomic units, and the payment is of {amount}"
                )
            }
            _ => why_it_fails(error),
        }
    }

    /// Whether the recipient's balance rose by exactly the transfer; what happened where it did not.
    fn received(&self, transfer: &Transfer, evidence: &Evidence) -> Result<(), String> {
        let (loaded, mint) = (&evidence.loaded, &self.info.asset);
        let received = evidence.received(&self.transaction, loaded, &transfer.destination, mint);
        match received.unwrap_or_default() {
            received if received == transfer.amount => Ok(()),
            received => Err(format!("the recipient's account received {received}")),
        }
    }
}

/// The smart-wallet path.
impl ExactPayment {
    /// The addresses that the transaction takes from lookup tables; nothing of ours is among them.
    fn loaded(&self, answer: &Answer) -> Result<Vec<Pubkey>, Rejection> {
        let tables = answer.accounts.get(asked::TABLES..).unwrap_or_default();
        let loaded = lookup::resolve(&self.transaction, tables).ok_or_else(|| {
            let detail = "a lookup table is not there, or does not have what is taken from it";
            Rejection::new(reason::ALT_RESOLUTION_FAILED, detail)
        })?;
        let instructions = self.transaction.instructions(&loaded);
        let instructions = instructions.ok_or_else(|| {
            Rejection::new(
                reason::COULD_NOT_BE_DECODED,
                "an instruction names an account that the transaction does not have",
            )
        })?;
        check_isolated(&instructions, &self.rotation.fee_payers)?;
        Ok(loaded)
    }

    /// The transfer that the transaction would make.
    fn find_transfer(&self, answer: &Answer) -> Result<Option<Transfer>, Rejection> {
        let loaded = self.loaded(answer)?;
        let simulated = answer.simulated.as_ref();
        let simulated = simulated.ok_or_else(|| {
            Rejection::new(
                reason::SMART_WALLET_SIMULATION_FAILED,
                "no node said what the transaction would do",
            )
        })?;
        if let Some(error) = &simulated.error {
            let why = why_it_fails(error);
            return Err(Rejection::new(reason::SMART_WALLET_SIMULATION_FAILED, why));
        }
        let found = self
            .expected_outcome()
            .find(&self.transaction, &loaded, simulated)?;
        if let Some(transfer) = &found {
            let owner = simulated.owner(&self.transaction, &loaded, &transfer.source);
            if owner.is_some_and(|owner| owner != transfer.authority.to_string()) {
                let detail = "the account that pays does not belong to the signer of the transfer";
                return Err(Rejection::new(
                    reason::SMART_WALLET_TRANSFER_MISMATCH,
                    detail,
                ));
            }
        }
        Ok(found)
    }

    /// Whether the transaction has done what it did when it was tried; a program may have behaved then.
    fn paid(&self, evidence: &Evidence) -> Result<(), String> {
        match self
            .expected_outcome()
            .find(&self.transaction, &evidence.loaded, evidence)
        {
            Ok(_) => Ok(()),
            Err(rejection) => Err(rejection.to_string()),
        }
    }

    fn expected_outcome(&self) -> ExpectedOutcome<'_> {
        let wallets = match &self.path {
            Path::SmartWallet { allowed, .. } => allowed.programs.as_slice(),
            Path::Static(_) => &[],
        };
        ExpectedOutcome {
            expected: &self.expected,
            fee_payers: &self.rotation.fee_payers.keys,
            wallets,
        }
    }
}

fn account(answer: &Answer, at: usize) -> Option<&Account> {
    answer.accounts.get(at).and_then(Option::as_ref)
}

/// Why a transaction fails when it is tried, for people.
fn why_it_fails(error: &str) -> String {
    match error {
        "\"BlockhashNotFound\"" => {
            "the blockhash has expired, or is of another cluster: nothing can be sent, so it is safe to pay anew".to_owned()
        }
        "\"AlreadyProcessed\"" => "this very transaction was included before".to_owned(),
        other => format!("the transaction would fail: {other}"),
    }
}
