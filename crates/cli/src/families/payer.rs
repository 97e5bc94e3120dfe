//! The keys of `quittance pay`.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::config::{ConfigError, Secret};

/// Why a family has no payer although there are options for one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayError {
    /// An option of the command line cannot be used. The message repeats no secret.
    #[error("{option}: {problem}")]
    #[non_exhaustive]
    Option {
        /// The option, such as `--evm-rpc`.
        option: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// The key cannot be read.
    #[error(transparent)]
    Key(#[from] ConfigError),
    /// The payer cannot be made.
    #[error(transparent)]
    Payer(Box<dyn std::error::Error + Send + Sync>),
}

impl PayError {
    /// The value of `option` has this `problem`.
    pub fn option(option: &'static str, problem: impl Into<String>) -> Self {
        Self::Option {
            option,
            problem: problem.into(),
        }
    }

    /// The payer cannot be made.
    pub fn payer(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Payer(error.into())
    }
}

/// Reads a payer's key: from the file or the variable that an option names, or else from the
/// variable `default`. `None` when no option names a place and `default` is not set.
///
/// # Errors
/// When the place does not exist, cannot be read, or is empty. `name` names the key in the error.
pub fn payer_key(
    file: Option<&PathBuf>,
    variable: Option<&String>,
    default: &str,
    name: &str,
) -> Result<Option<SecretString>, ConfigError> {
    let from_option = file
        .map(|file| Secret::File(file.clone()))
        .or_else(|| variable.map(|name| Secret::Env(name.clone())));
    let from_default = || {
        let is_set = std::env::var_os(default).is_some();
        is_set.then(|| Secret::Env(default.to_owned()))
    };
    let secret = from_option.or_else(from_default);
    secret.map(|secret| secret.read(name)).transpose()
}
