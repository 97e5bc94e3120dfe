//! The settings of the scheme `auth-capture`.

use std::time::Duration;

use alloy::primitives::Address;
use quittance_evm::Evm;
use quittance_evm::auth_capture::{AuthCapture, AuthCaptureConfig, DeadlineAct};
use serde::Deserialize;

use super::super::NetworkEntry;
use super::super::entry::not_an_address;
use super::EvmEntry;
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
    /// How long before its end that happens, in seconds.
    pub act_before_secs: Option<u64>,
}

/// The scheme with these settings.
///
/// # Errors
/// If an address is none, or the authorizer is no signer.
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
