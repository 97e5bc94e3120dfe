//! The scheme `auth-capture`: its settings, and the requests of sellers.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use quittance_core::{Amount, Network, PaymentRequest};
use quittance_evm::auth_capture::{AuthCapture, AuthCaptureConfig, Authorizer, DeadlineAct, Hold};
use quittance_evm::{Evm, PrivateKeySigner, Token, known};
use serde::Deserialize;

use super::super::entry::not_an_address;
use super::super::{HeldPayment, HoldAct, NetworkEntry, PayError};
use super::{EvmEntry, private_key};
use crate::config::ConfigError;

/// What the facilitator does for sellers whose payments are held.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AuthCaptureEntry {
    /// The address of the signer that sellers can name as the authorizer of their holds.
    pub authorizer: Option<String>,
    /// The addresses of the receivers whose refunds are paid from the signers' own tokens.
    #[serde(default)]
    pub refunds_for: Vec<String>,
    /// How long before a hold ends the log warns of it first, in seconds.
    pub warn_before_secs: Option<u64>,
    /// What happens to a hold that is about to end.
    #[serde(default)]
    pub at_deadline: DeadlineAct,
    /// How long before its end that happens, in seconds; at least
    /// [`ACT_BEFORE_MIN_SECS`](quittance_evm::auth_capture::ACT_BEFORE_MIN_SECS).
    pub act_before_secs: Option<u64>,
}

/// The scheme with these settings.
///
/// # Errors
/// If an address is none, if the authorizer is no signer, or if holds would be captured or voided
/// too late.
pub(super) fn auth_capture(
    entry: &NetworkEntry<'_, EvmEntry>,
    own: &AuthCaptureEntry,
    chain: &Evm,
) -> Result<AuthCapture, ConfigError> {
    let path = format!("{}.auth_capture", entry.path);
    let address = |field: String, text: &String| -> Result<Address, ConfigError> {
        text.parse().map_err(|_| not_an_address(field, text))
    };
    let mut config = AuthCaptureConfig::default();
    let authorizer = own.authorizer.as_ref();
    let authorizer = authorizer.map(|text| address(format!("{path}.authorizer"), text));
    config.authorizer = authorizer.transpose()?;
    let receivers = own.refunds_for.iter().enumerate();
    let receivers = receivers.map(|(at, text)| address(format!("{path}.refunds_for[{at}]"), text));
    config.refunds_for = receivers.collect::<Result<_, _>>()?;
    let deadlines = &mut config.deadlines;
    deadlines.act = own.at_deadline;
    if let Some(secs) = own.warn_before_secs {
        deadlines.warn_before = Duration::from_secs(secs);
    }
    if let Some(secs) = own.act_before_secs {
        deadlines.act_before = Duration::from_secs(secs);
    }
    let scheme = AuthCapture::new(chain).with_config(config);
    scheme.map_err(|error| ConfigError::value(&path, error))
}

/// The seller's request for an act with a payment that is held. `None` for another chain family's
/// network, and for an unknown token.
pub(super) async fn request(
    held: &HeldPayment<'_>,
    act: &HoldAct,
) -> Option<Result<PaymentRequest, PayError>> {
    let network = known::network(held.network)?;
    let token = known::token(network.id(), held.asset)?;
    Some(make_request(&network, token, held, act).await)
}

async fn make_request(
    network: &Network,
    token: &Token,
    held: &HeldPayment<'_>,
    act: &HoldAct,
) -> Result<PaymentRequest, PayError> {
    let key = held.key.map(|key| private_key("the authorizer's key", key));
    let key: Option<PrivateKeySigner> = key.transpose()?;
    let authorizer: Authorizer<'_> = key.as_ref().map(|key| key as _);
    let hold = Hold::of_receipt(network, token, held.receipt).map_err(PayError::payer)?;
    let hold = hold.corrected(held.balances);
    let units = |text: &String| Amount::from_decimal(text, token.decimals).map_err(PayError::payer);
    let request = match act {
        HoldAct::Inquire => hold.inquiry(authorizer).await,
        HoldAct::Capture { amount, voids_rest } => {
            let all = || Ok(Amount::new(U256::from(hold.balances().capturable)));
            let amount = amount.as_ref().map_or_else(all, units)?;
            hold.capture(authorizer, amount, *voids_rest).await
        }
        HoldAct::Void => hold.void(authorizer).await,
        HoldAct::Refund { amount } => hold.refund(authorizer, units(amount)?).await,
    };
    request.map_err(PayError::payer)
}
