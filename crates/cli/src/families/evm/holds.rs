//! The scheme `auth-capture`: its settings, and the requests of sellers.

use std::collections::BTreeMap;
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
    /// The addresses of the receivers whose refunds are paid from the signers' own tokens, each
    /// with the address of the authorizer whose holds are refunded.
    #[serde(default)]
    pub refunds_for: BTreeMap<String, String>,
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
    let mut config = AuthCaptureConfig::default();
    let authorizer = own.authorizer.as_ref();
    let authorizer = authorizer.map(|text| address(format!("{path}.authorizer"), text));
    config.authorizer = authorizer.transpose()?;
    config.refunds_for = refunds_for(&format!("{path}.refunds_for"), &own.refunds_for)?;
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

fn address(field: String, text: &str) -> Result<Address, ConfigError> {
    text.parse().map_err(|_| not_an_address(field, text))
}

/// The receivers whose refunds are paid, each with its authorizer.
fn refunds_for(
    path: &str,
    entries: &BTreeMap<String, String>,
) -> Result<BTreeMap<Address, Address>, ConfigError> {
    let mut table = BTreeMap::new();
    for (receiver, authorizer) in entries {
        let field = || format!("{path}.{receiver}");
        let parsed = address(field(), receiver)?;
        if table
            .insert(parsed, address(field(), authorizer)?)
            .is_some()
        {
            return Err(ConfigError::value(field(), "the receiver is there twice"));
        }
    }
    Ok(table)
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

#[cfg(test)]
mod tests {
    use super::*;
    use figment::Figment;
    use figment::providers::{Format, Toml};

    /// Money is paid by this table, so no entry is guessed.
    #[test]
    fn refunds_name_each_receiver_once_with_its_authorizer() {
        let [receiver, authorizer] = [0xa1, 0xb2].map(Address::repeat_byte);
        let entry = |toml: &str| -> Option<AuthCaptureEntry> {
            Figment::from(Toml::string(toml)).extract().ok()
        };
        let read = |toml: &str| {
            let entry = entry(toml).unwrap();
            refunds_for("evm[0].auth_capture.refunds_for", &entry.refunds_for)
        };
        let table = read(&format!(
            "refunds_for = {{ {receiver:#x} = \"{authorizer}\" }}"
        ));
        assert_eq!(table.unwrap(), [(receiver, authorizer)].into());
        let checksum = receiver.to_checksum(None);
        for odd in [
            format!("refunds_for = {{ {receiver:#x} = \"shop\" }}"),
            format!("refunds_for = {{ shop = \"{authorizer}\" }}"),
            format!(
                "refunds_for = {{ {receiver:#x} = \"{authorizer}\", {checksum} = \"{receiver}\" }}"
            ),
        ] {
            let error = read(&odd).unwrap_err().to_string();
            assert!(
                error.starts_with("evm[0].auth_capture.refunds_for."),
                "{error}"
            );
        }
        let list = format!("refunds_for = [\"{receiver}\"]");
        assert!(entry(&list).is_none());
    }
}
