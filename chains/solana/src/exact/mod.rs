//! The scheme `exact`: the payer makes and signs a transaction that transfers the required amount
//! to the recipient's token account. The facilitator pays the fee and submits it.
//!
//! Specification: `exact` on SVM.

mod config;
mod expected;
mod offer;
mod payer;
mod payment;
pub mod reason;
mod smart_wallet;
mod state;
mod static_layout;
mod terms;

use std::sync::Arc;

use quittance_core::json::Object;
use quittance_core::kit::Parties;
use quittance_core::{
    Amount, LaneId, Malformed, Network, Payment, PaymentInfo, PaymentRequest, Reason, Refusal,
    Rejection, Scheme, SignatureClaim, Timestamp, Version,
};
use serde_json::json;
use solana_pubkey::Pubkey;
use solana_signature::Signature;

pub use self::config::{ExactConfig, ExactConfigError, SmartWallets};
use self::expected::Expected;
pub use self::offer::ExactOffer;
pub use self::payer::ExactPayer;
use self::payment::{ExactPayment, Path};
use self::smart_wallet::SmartWalletLayout;
use self::static_layout::StaticLayout;
use self::terms::{Extra, NAME, read_transaction};
use crate::chain::Solana;
use crate::fee_payers::FeePayerRotation;
use crate::instruction::Transfer;
use crate::token::{Token, TokenProgram};
use crate::transaction::{PaymentTransaction, payment_id};

/// The seconds for which a decoded payment may be submitted: its blockhash expires after 150 blocks
/// of 0.4 seconds. A submitted transaction is watched until its end is certain, however long that
/// takes.
const LIFETIME_SECS: u64 = 60;

/// The scheme `exact` on one Solana cluster.
#[derive(Debug, Clone)]
pub struct Exact {
    network: Network,
    tokens: Vec<Token>,
    rotation: Arc<FeePayerRotation>,
    config: Arc<ExactConfig>,
}

impl Exact {
    /// The scheme on this cluster, for its tokens, with the default settings.
    pub fn new(solana: &Solana) -> Self {
        let chain = solana.config();
        Self {
            network: chain.network.clone(),
            tokens: chain.tokens.clone(),
            rotation: Arc::clone(solana.rotation()),
            config: Arc::default(),
        }
    }

    /// The same scheme with other settings.
    ///
    /// # Errors
    /// When the settings contradict themselves.
    pub fn with_config(self, config: ExactConfig) -> Result<Self, ExactConfigError> {
        config.check()?;
        Ok(Self {
            config: Arc::new(config),
            ..self
        })
    }
}

impl Scheme<Solana> for Exact {
    fn name(&self) -> &str {
        NAME
    }

    fn versions(&self) -> &[Version] {
        &[Version::V1, Version::V2]
    }

    fn extra(&self) -> Option<Object> {
        let fee_payer = self.rotation.next()?.to_string();
        let mut extra = json!({ "feePayer": fee_payer });
        if self.config.smart_wallets.is_some() {
            extra["features"] = json!({ "smartWalletSupported": true });
        }
        Object::of(&extra).ok()
    }

    fn assets(&self) -> Vec<String> {
        self.tokens
            .iter()
            .map(|token| token.mint.to_string())
            .collect()
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<Solana>>, Refusal> {
        request.check_scheme(NAME, reason::SCHEME)?;
        request.check_network(&self.network, reason::NETWORK_MISMATCH)?;
        let extra: Extra = request.extra()?;
        let fee_payer = self.fee_payer(&extra)?;
        let Parties {
            asset: mint,
            pay_to,
        } = request.parties(address)?;
        let token = self.tokens.iter().find(|token| token.mint == mint);
        let token = token.ok_or_else(|| self.unsupported_asset())?;
        check_token_program(&extra, token)?;

        let transaction = read_transaction(&request.payload)?;
        if transaction.fee_payer() != Some(&fee_payer) {
            let detail = format_args!(
                "the transaction's fee payer must be {fee_payer}, as in extra.feePayer"
            );
            return Err(Rejection::new(reason::FEE_PAYER_MISMATCH, detail).into());
        }
        check_fee_payer_signature_is_empty(&transaction)?;
        let expected = Expected {
            token: token.clone(),
            pay_to,
            destination: token.account_of(&pay_to),
            amount: request.requirements.amount,
        };
        let (path, objection) = self.path(&transaction, &expected, extra.memo.as_deref())?;
        Ok(Box::new(ExactPayment {
            info: self.info(&transaction, path.signer(), &expected, now),
            lane: LaneId::new(&fee_payer.to_string()),
            rotation: Arc::clone(&self.rotation),
            config: Arc::clone(&self.config),
            claims: claims(&transaction),
            expected,
            path,
            objection,
            transaction,
        }))
    }
}

impl Exact {
    /// The fee payer that the requirements name, which must be one of this facilitator.
    fn fee_payer(&self, extra: &Extra) -> Result<Pubkey, Refusal> {
        let expected =
            "extra.feePayer must be a fee payer of this facilitator, as listed by /supported";
        let named = extra
            .fee_payer
            .as_deref()
            .ok_or_else(|| Rejection::new(reason::MISSING_FEE_PAYER, expected))?;
        let fee_payers = self.rotation.fee_payers().keys().iter();
        let found = fee_payers.copied().find(|key| key.to_string() == named);
        found.ok_or_else(|| Rejection::new(reason::FEE_PAYER_NOT_MANAGED, expected).into())
    }

    fn unsupported_asset(&self) -> Rejection {
        let supported = self.tokens.iter();
        let supported: Vec<_> = supported
            .map(|token| format!("{} {}", token.symbol, token.mint))
            .collect();
        let supported = supported.join(", ");
        let detail = format_args!("tokens supported on {}: {supported}", self.network);
        Rejection::new(Reason::UNSUPPORTED_ASSET, detail)
    }

    /// The path by which a transaction pays. The rejection, if any, is reported only if the
    /// signatures are valid.
    fn path(
        &self,
        transaction: &PaymentTransaction,
        expected: &Expected,
        memo: Option<&str>,
    ) -> Result<(Path, Option<Rejection>), Rejection> {
        let (fee_payers, config) = (self.rotation.fee_payers(), &self.config);
        let refused = match StaticLayout::parse(transaction, fee_payers, config) {
            Ok(StaticLayout { transfer, memos }) => {
                let objection = check_transfer(&transfer, expected)
                    .and_then(|()| memos.check(memo))
                    .err();
                return Ok((Path::Static(transfer), objection));
            }
            Err(refused) => refused,
        };
        let Some(allowed) = &config.smart_wallets else {
            return Err(refused);
        };
        if !StaticLayout::is_about_layout(&refused.reason) {
            return Err(refused);
        }
        let layout = SmartWalletLayout::parse(transaction, fee_payers, allowed, config)?;
        let SmartWalletLayout { signer, memos } = layout;
        let objection = check_amount(expected.amount)
            .and_then(|()| memos.check(memo))
            .err();
        Ok((Path::SmartWallet { signer }, objection))
    }

    fn info(
        &self,
        transaction: &PaymentTransaction,
        signer: &Pubkey,
        expected: &Expected,
        now: Timestamp,
    ) -> PaymentInfo {
        PaymentInfo {
            id: payment_id(&self.network, transaction.message()),
            payer: signer.to_string(),
            pay_to: expected.pay_to.to_string(),
            asset: expected.token.mint.to_string(),
            amount: expected.amount,
            expires: now.plus_secs(LIFETIME_SECS),
        }
    }
}

fn check_token_program(extra: &Extra, token: &Token) -> Result<(), Rejection> {
    let program = token.program.id().to_string();
    match &extra.token_program {
        Some(named) if *named != program => {
            let what = "extra.tokenProgram is not the program of the asset";
            Err(Rejection::new(Reason::INVALID_PAYMENT_REQUIREMENTS, what))
        }
        _ => Ok(()),
    }
}

fn address(field: &str, text: &str) -> Result<Pubkey, Malformed> {
    text.parse()
        .map_err(|_| Malformed::new(field, "not an address of 32 bytes in base58"))
}

/// The fee payer's signature must be empty. Any bytes there are replaced, so anyone could change
/// them, present the payment of another payer as a new one and be reported its success.
fn check_fee_payer_signature_is_empty(transaction: &PaymentTransaction) -> Result<(), Rejection> {
    let is_empty = |(_, signature): (_, &Signature)| *signature == Signature::default();
    if transaction.signers().next().is_some_and(is_empty) {
        return Ok(());
    }
    let detail = "the fee payer's signature must be all zeros: the facilitator signs later";
    Err(Rejection::new(reason::SIGNATURE_INVALID, detail))
}

/// The signatures to verify: all but the fee payer's, which is added later.
fn claims(transaction: &PaymentTransaction) -> Vec<SignatureClaim> {
    let claim = |(key, signature): (&Pubkey, &Signature)| SignatureClaim::Ed25519 {
        message: Arc::clone(transaction.message()),
        signature: *signature.as_array(),
        key: key.to_bytes(),
    };
    transaction.signers().skip(1).map(claim).collect()
}

/// Checks a top-level transfer, in the reference implementation's order.
fn check_transfer(transfer: &Transfer, expected: &Expected) -> Result<(), Rejection> {
    let Expected {
        token,
        pay_to,
        destination,
        amount,
    } = expected;
    if transfer.mint != token.mint {
        let detail = format!(
            "the transfer has the mint {}, the required asset is {}",
            transfer.mint, token.mint
        );
        return Err(Rejection::new(reason::MINT_MISMATCH, detail));
    }
    if TokenProgram::with_id(&transfer.program) != Some(token.program) {
        let detail = format!(
            "the transfer must call {}, the token program of the asset",
            token.program
        );
        return Err(Rejection::new(reason::MINT_MISMATCH, detail));
    }
    if transfer.decimals != token.decimals {
        let detail = format!(
            "the transfer must have the {} decimal places of the asset",
            token.decimals
        );
        return Err(Rejection::new(reason::MINT_MISMATCH, detail));
    }
    if transfer.destination != *destination {
        let detail = format!(
            "the transfer must go to {destination}, the associated token account of {pay_to}"
        );
        return Err(Rejection::new(reason::RECIPIENT_MISMATCH, detail));
    }
    if transfer.authority == *pay_to || transfer.source == transfer.destination {
        let detail = "the payer is the recipient";
        return Err(Rejection::new(Reason::INVALID_PAYMENT_REQUIREMENTS, detail));
    }
    if Amount::from(transfer.amount) != *amount {
        let detail = format!(
            "the transfer is of {}, the required amount is {amount}",
            transfer.amount
        );
        return Err(Rejection::new(reason::AMOUNT_MISMATCH, detail));
    }
    check_amount(*amount)
}

fn check_amount(amount: Amount) -> Result<(), Rejection> {
    match amount.is_zero() {
        true => Err(Rejection::new(Reason::AMOUNT_TOO_LOW, "the amount is 0")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
