//! One decoded payment: its questions to the chain, its checks, and the effect it must have.

use std::sync::Arc;

use quittance_core::{
    Amount, Check, Effect, LaneId, Observed, Payment, PaymentInfo, Plan, Rejection, SignatureClaim,
};
use solana_pubkey::Pubkey;

use super::config::ExactConfig;
use super::expected::Expected;
use super::reason;
use super::smart_wallet::{ExpectedOutcome, check_isolated};
use crate::account::Account;
use crate::action::PartiallySigned;
use crate::chain::{Answer, Query, Solana};
use crate::evidence::Evidence;
use crate::fee_payers::FeePayerRotation;
use crate::instruction::Transfer;
use crate::lookup;
use crate::mint;
use crate::transaction::PaymentTransaction;

/// One payment.
pub(super) struct ExactPayment {
    pub(super) info: PaymentInfo,
    pub(super) transaction: PaymentTransaction,
    pub(super) lane: LaneId,
    pub(super) rotation: Arc<FeePayerRotation>,
    pub(super) config: Arc<ExactConfig>,
    pub(super) expected: Expected,
    pub(super) claims: Vec<SignatureClaim>,
    pub(super) path: Path,
    /// The first failed check after the signatures. It is reported only if the signatures are
    /// valid: an unsigned payload says nothing about the payer.
    pub(super) objection: Option<Rejection>,
}

/// The path by which a transaction pays (specification, section 3).
pub(super) enum Path {
    /// A top-level instruction makes the transfer.
    Static(Transfer),
    /// A program makes the transfer, which only a simulation shows.
    SmartWallet {
        /// The key that signs for the wallet.
        signer: Pubkey,
    },
}

impl Path {
    /// The signer besides the fee payer.
    pub(super) fn signer(&self) -> &Pubkey {
        match self {
            Self::Static(transfer) => &transfer.authority,
            Self::SmartWallet { signer } => signer,
        }
    }
}

/// The indexes of the accounts in a query.
mod asked {
    pub(super) const MINT: usize = 0;
    pub(super) const DESTINATION: usize = 1;
    /// On the static path.
    pub(super) const SOURCE: usize = 2;
    /// On the smart-wallet path: the first of the lookup tables.
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
            let detail = "a signature over the transaction's message is missing or invalid";
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

    /// The wallet that owns the money, not the key that signs for it.
    fn payer(&self, observed: &Observed<'_, Solana>) -> Option<String> {
        let Path::SmartWallet { .. } = self.path else {
            return None;
        };
        let transfer = self.find_transfer(observed.answers.last()?).ok()??;
        Some(transfer.authority.to_string())
    }

    fn plan(
        &self,
        amount: Amount,
        observed: &Observed<'_, Solana>,
    ) -> Result<Plan<PartiallySigned>, Rejection> {
        if amount != self.info.amount {
            let detail = "exact settles exactly what was authorized";
            return Err(Rejection::new(reason::AMOUNT_MISMATCH, detail));
        }
        let loaded = match (&self.path, observed.answers) {
            (Path::SmartWallet { .. }, [.., answer]) => self.loaded(answer)?,
            _ => Vec::new(),
        };
        Ok(Plan::Submit(PartiallySigned {
            allow_lighthouse_on_fee_payer: self.config.allow_lighthouse_on_fee_payer,
            ..PartiallySigned::new(self.transaction.clone(), loaded)
        }))
    }

    /// The balance of the paying account. For a smart wallet only the simulation shows which
    /// account pays.
    fn balance(&self, observed: &Observed<'_, Solana>) -> Option<Amount> {
        let Path::Static(_) = self.path else {
            return None;
        };
        let source = account(observed.answers.last()?, asked::SOURCE)?;
        mint::amount_in(source, self.expected.token.program).map(Amount::from)
    }

    fn sender(&self, _observed: &Observed<'_, Solana>) -> Option<LaneId> {
        Some(self.lane.clone())
    }

    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        if let Some(error) = &evidence.error {
            // A message is included only once, so it cannot be submitted again.
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

/// Both paths.
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

    /// Checks the mint and the recipient's token account.
    fn check_token(&self, answer: &Answer) -> Result<(), Rejection> {
        let token = &self.expected.token;
        let program = token.program;
        let mint = account(answer, asked::MINT).ok_or_else(|| {
            Rejection::new(
                reason::MINT_MISMATCH,
                "no mint exists at the asset's address",
            )
        })?;
        mint::judge(mint, program, &token.allowed)
            .map_err(|problem| Rejection::new(reason::MINT_NOT_ALLOWED, problem))?;
        let Some(destination) = account(answer, asked::DESTINATION) else {
            let detail =
                "the recipient has no token account for this asset, and none is created for it";
            return Err(Rejection::new(reason::RECEIVER_ACCOUNT_NOT_FOUND, detail));
        };
        // SPL Token lets an owner transfer the ownership of an associated account, which keeps its
        // address.
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
            let detail = "the signer does not own the paying account";
            return Err(Rejection::new(reason::SIGNATURE_INVALID, detail));
        }
        let simulated = answer.simulated.as_ref().ok_or_else(|| {
            Rejection::new(
                reason::SIMULATION_FAILED,
                "no node simulated the transaction",
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

    /// The reason for a failed simulation, in words. If an instruction fails and the payer's
    /// balance is too low, that is the reason.
    fn why_transfer_fails(
        &self,
        transfer: &Transfer,
        source: Option<&Account>,
        error: &str,
    ) -> String {
        let is_of_instruction = error.contains("\"InstructionError\"");
        let amount = transfer.amount;
        match source.map(|source| mint::amount_in(source, self.expected.token.program)) {
            None if is_of_instruction => "the payer has no token account for this asset".to_owned(),
            Some(Some(held)) if is_of_instruction && held < amount => {
                format!(
                    "the payer's token account holds {held} atomic units, and the payment is of {amount}"
                )
            }
            _ => why_it_fails(error),
        }
    }

    /// Checks that the recipient's balance rose by exactly the amount of the transfer.
    fn received(&self, transfer: &Transfer, evidence: &Evidence) -> Result<(), String> {
        let (loaded, mint) = (&evidence.loaded, &self.info.asset);
        let received = evidence.received(&self.transaction, loaded, &transfer.destination, mint);
        match received.unwrap_or_default() {
            received if received == transfer.amount => Ok(()),
            received => Err(format!(
                "the recipient's account received {received} instead of {}",
                transfer.amount
            )),
        }
    }
}

/// The smart-wallet path.
impl ExactPayment {
    /// The addresses that the transaction loads from lookup tables. Rejects it if a fee payer is
    /// among them.
    fn loaded(&self, answer: &Answer) -> Result<Vec<Pubkey>, Rejection> {
        let tables = answer.accounts.get(asked::TABLES..).unwrap_or_default();
        let loaded = lookup::resolve(&self.transaction, tables).ok_or_else(|| {
            let detail =
                "a lookup table does not exist, or lacks an entry that the transaction loads";
            Rejection::new(reason::ALT_RESOLUTION_FAILED, detail)
        })?;
        let instructions = self.transaction.instructions(&loaded);
        let instructions = instructions.ok_or_else(|| {
            Rejection::new(
                reason::COULD_NOT_BE_DECODED,
                "an instruction refers to an account that the transaction does not have",
            )
        })?;
        check_isolated(&instructions, self.rotation.fee_payers(), &self.config)?;
        Ok(loaded)
    }

    /// The transfer that the simulation shows; `None` if it shows only balances.
    fn find_transfer(&self, answer: &Answer) -> Result<Option<Transfer>, Rejection> {
        let loaded = self.loaded(answer)?;
        let simulated = answer.simulated.as_ref();
        let simulated = simulated.ok_or_else(|| {
            Rejection::new(
                reason::SMART_WALLET_SIMULATION_FAILED,
                "no node simulated the transaction",
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
                let detail = "the authority of the transfer does not own the paying account";
                return Err(Rejection::new(
                    reason::SMART_WALLET_TRANSFER_MISMATCH,
                    detail,
                ));
            }
        }
        Ok(found)
    }

    /// Checks the effect of the included transaction, because a program may behave differently in a
    /// simulation.
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
        let wallets = self.config.smart_wallets.as_ref();
        let wallets = wallets.map(|wallets| wallets.programs.as_slice());
        ExpectedOutcome {
            expected: &self.expected,
            fee_payers: self.rotation.fee_payers().keys(),
            wallets: wallets.unwrap_or_default(),
        }
    }
}

fn account(answer: &Answer, at: usize) -> Option<&Account> {
    answer.accounts.get(at).and_then(Option::as_ref)
}

/// The reason for a failed simulation, in words.
fn why_it_fails(error: &str) -> String {
    match error {
        "\"BlockhashNotFound\"" => {
            "the blockhash has expired, or is of another cluster: nothing can be sent, so it is safe to pay again".to_owned()
        }
        "\"AlreadyProcessed\"" => "this transaction was included before".to_owned(),
        other => format!("the transaction would fail: {other}"),
    }
}
