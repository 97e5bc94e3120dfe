//! The simulated chain as a family: `[[simulated]]` in the configuration.
//!
//! This is all that a program needs for another chain, besides the crate of the chain itself.

use std::path::PathBuf;
use std::sync::Arc;

use quittance_cli::config::{ConfigError, Secret};
use quittance_cli::families::{
    ChainWithSchemes, Family, Findings, ListedToken, NetworkEntry, PayError, payer_key,
};
use quittance_core::{Network, Payer};
use quittance_testing::world::ed25519_dalek::SigningKey;
use quittance_testing::world::{Address, SimulatedChain, SimulatedExact, SimulatedPayer, World};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// The family of the simulated chain in one world.
pub(crate) struct SimulatedFamily(pub(crate) World);

/// The keys of a `[[simulated]]` table beside those of all families.
#[derive(Debug, Deserialize)]
pub(crate) struct SimulatedEntry {
    /// The keys of the facilitator's signers.
    signers: Vec<Secret>,
}

/// The options of `quittance pay` for the simulated chain.
#[derive(clap::Args)]
#[command(next_help_heading = "Simulated chain")]
pub(crate) struct SimulatedPayerArgs {
    /// The file that holds the payer's key.
    #[arg(long, value_name = "FILE")]
    pub(crate) simulated_key_file: Option<PathBuf>,
}

impl Family for SimulatedFamily {
    const KEY: &'static str = "simulated";
    type Entry = SimulatedEntry;
    type Chain = SimulatedChain;
    type PayerArgs = SimulatedPayerArgs;

    fn network(&self, name: &str) -> Result<Network, String> {
        let network = self.0.network();
        match network.is(name) {
            true => Ok(network.clone()),
            false => Err(format!(
                "{name:?} is not the simulated chain: write {network}"
            )),
        }
    }

    fn configure(
        &self,
        entry: &NetworkEntry<'_, SimulatedEntry>,
        findings: &mut Findings,
    ) -> Option<ChainWithSchemes<SimulatedChain>> {
        let signer = |(at, secret): (usize, &Secret)| {
            let field = format!("{}.signers[{at}]", entry.path);
            key(&secret.read(&field)?, &field)
        };
        let signers = findings.take_all(entry.own.signers.iter().enumerate().map(signer));
        let usd = World::usd();
        let usd = ListedToken::new(usd.address, usd.symbol, usd.decimals);
        let restricted = entry.restrict(&[usd], canonical, &mut findings.rules);
        for symbol in findings.take(restricted)? {
            findings.warn(format!("{}: no minimum amount for {symbol}", entry.network));
        }
        let chain = SimulatedChain::new(self.0.clone(), signers?);
        let exact = Arc::new(SimulatedExact::new(&chain));
        Some(ChainWithSchemes::new(chain, vec![exact]))
    }

    const KEY_VARIABLE: &'static str = "QUITTANCE_SIMULATED_PAYER_KEY";

    fn payers(&self, args: &SimulatedPayerArgs) -> Result<Vec<Box<dyn Payer>>, PayError> {
        const NAME: &str = "the payer's key on the simulated chain";
        let file = args.simulated_key_file.as_ref();
        let secret = payer_key(file, None, Self::KEY_VARIABLE, NAME)?;
        let key = secret.map(|secret| key(&secret, NAME)).transpose()?;
        let payer = key.map(|key| SimulatedPayer::new(self.0.clone(), key));
        Ok(payer.into_iter().map(|it| Box::new(it) as _).collect())
    }
}

/// A key of 32 bytes in hexadecimal. The error contains no part of it.
fn key(secret: &SecretString, field: &str) -> Result<SigningKey, ConfigError> {
    let mut bytes = [0; 32];
    let decoded = hex::decode_to_slice(secret.expose_secret(), &mut bytes);
    decoded.map_err(|_| ConfigError::value(field, "not a key of 64 hexadecimal digits"))?;
    Ok(SigningKey::from_bytes(&bytes))
}

/// An address in canonical spelling.
fn canonical(text: &str) -> Option<String> {
    Some(text.parse::<Address>().ok()?.to_string())
}
