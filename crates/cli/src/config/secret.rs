//! Secrets, which the configuration names and does not contain.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::ConfigError;

/// The location of a secret: `{ env = "NAME" }` or `{ file = "PATH" }`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Secret {
    /// The value of this environment variable.
    Env(String),
    /// The whole content of this file, without the white space around it.
    File(PathBuf),
}

impl Secret {
    /// Reads the secret. `field` is the configuration key that names it.
    ///
    /// # Errors
    /// When the variable or the file does not exist, cannot be read, or is empty. The error says
    /// where the secret was expected and contains no part of it.
    pub fn read(&self, field: &str) -> Result<SecretString, ConfigError> {
        let found = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| {
                ConfigError::value(
                    field,
                    format_args!("the environment variable {name} is not set"),
                )
            })?,
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|error| ConfigError::io(field, path.display().to_string(), error))?,
        };
        let found = found.trim();
        if found.is_empty() {
            return Err(ConfigError::value(field, "the secret is empty"));
        }
        Ok(found.into())
    }
}

/// A value that may contain a secret, such as a URL with a key in it: the value itself, or the
/// location of a secret.
#[derive(Clone)]
#[non_exhaustive]
pub enum Setting {
    /// The value itself.
    Plain(String),
    /// The location of the value.
    Secret(Secret),
}

impl Setting {
    /// Reads the value. `field` is the configuration key that has it.
    ///
    /// # Errors
    /// As [`Secret::read`].
    pub fn read(&self, field: &str) -> Result<SecretString, ConfigError> {
        match self {
            Self::Plain(value) => Ok(value.as_str().into()),
            Self::Secret(secret) => secret.read(field),
        }
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A URL may contain a key.
            Self::Plain(_) => f.write_str("Plain(..)"),
            Self::Secret(secret) => secret.fmt(f),
        }
    }
}

/// The error for a secret in the configuration itself. It contains no part of the secret.
const SECRET_IN_FILE: &str = "the configuration must not contain secrets, because it is copied, shown and backed up: write \
    { env = \"NAME\" } or { file = \"PATH\" } here, and put the secret there. If it was a real key, replace it";

struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ env = \"NAME\" } or { file = \"PATH\" }")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Secret, E> {
        Err(E::custom(SECRET_IN_FILE))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
        Err(E::custom(SECRET_IN_FILE))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Secret, E> {
        Err(E::custom(SECRET_IN_FILE))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
        const KNOWN: &[&str] = &["env", "file"];
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            let secret = match key.as_str() {
                "env" => Secret::Env(map.next_value()?),
                "file" => Secret::File(map.next_value()?),
                other => return Err(A::Error::unknown_field(other, KNOWN)),
            };
            if found.replace(secret).is_some() {
                return Err(A::Error::custom("write either `env` or `file`, not both"));
            }
        }
        found.ok_or_else(|| A::Error::custom("either `env` or `file` is needed"))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

struct SettingVisitor;

impl<'de> Visitor<'de> for SettingVisitor {
    type Value = Setting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, { env = \"NAME\" } or { file = \"PATH\" }")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Setting, E> {
        Ok(Setting::Plain(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Setting, A::Error> {
        SecretVisitor.visit_map(map).map(Setting::Secret)
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SettingVisitor)
    }
}
