//! Errors of a configuration: which key, what is wrong, and what was probably meant.

use std::fmt;

use figment::error::{Actual, Kind};

/// An error in a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file or the environment cannot be read as a configuration: a syntax error, a key that
    /// does not exist, or a value of the wrong type.
    #[error("{0}")]
    Syntax(String),
    /// Several errors, printed one a line.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Many(Vec<ConfigError>),
    /// A value has the right type and cannot be used.
    #[error("{field}: {problem}")]
    #[non_exhaustive]
    Value {
        /// The full path of the key, such as `evm[0].signers[1]`, or the name of a variable.
        field: String,
        /// What is wrong with the value.
        problem: String,
    },
    /// A file or an address that the configuration names cannot be opened.
    #[error("{field}: {what}: {source}")]
    #[non_exhaustive]
    Io {
        /// The full path of the key.
        field: String,
        /// The file or the address.
        what: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] quittance_engine::JournalError),
}

impl ConfigError {
    /// The value of `field` has this `problem`.
    pub fn value(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self::Value {
            field: field.into(),
            problem: problem.to_string(),
        }
    }

    /// `what`, which `field` names, cannot be opened.
    pub(crate) fn io(
        field: impl Into<String>,
        what: impl Into<String>,
        source: std::io::Error,
    ) -> Self {
        Self::Io {
            field: field.into(),
            what: what.into(),
            source,
        }
    }

    /// Several errors as one; a single error stays itself.
    pub(crate) fn many(mut errors: Vec<Self>) -> Self {
        match errors.len() {
            1 => errors.remove(0),
            _ => Self::Many(errors),
        }
    }
}

/// Errors of `figment`, with the path of each key. `root` is the path of the value that was read,
/// empty for the whole configuration. `more_keys` are keys that exist beside those that serde
/// knows.
///
/// Texts that were found are left out of the message: one of them may be a key in the wrong place.
pub(super) fn describe(errors: figment::Error, root: &str, more_keys: &[&str]) -> ConfigError {
    let describe_one = |error: figment::Error| {
        let path = path(root, &error.path);
        // Only keys of the value itself, not those of a table in it.
        let is_top = error.path.len() <= 1;
        let what = message(&error.kind, if is_top { more_keys } else { &[] });
        ConfigError::Syntax(match path.as_str() {
            "" => what,
            path => format!("{path}: {what}"),
        })
    };
    ConfigError::many(errors.into_iter().map(describe_one).collect())
}

/// `["signers", "1"]` below `evm[0]` is `evm[0].signers[1]`.
fn path(root: &str, parts: &[String]) -> String {
    let mut path = root.to_owned();
    for part in parts {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            path.push_str(&format!("[{part}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(part);
        }
    }
    path
}

fn message(kind: &Kind, more_keys: &[&str]) -> String {
    let found = |actual: &Actual| match actual {
        Actual::Str(_) => "a text".to_owned(),
        other => other.to_string(),
    };
    match kind {
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            // serde names a table by the Rust type that is read from it.
            let expected = match expected.starts_with("struct ") {
                true => "a table",
                false => expected.as_str(),
            };
            format!("found {}, expected {expected}", found(actual))
        }
        Kind::UnknownField(name, known) => {
            let known: Vec<&str> = known.iter().chain(more_keys).copied().collect();
            unknown_key(name, &known)
        }
        Kind::UnknownVariant(_, known) => format!("expected one of {}", known.join(", ")),
        Kind::MissingField(name) => format!("the key `{name}` is missing"),
        // A syntax error quotes the wrong line between its first line and its last.
        kind => {
            let text = kind.to_string();
            let mut lines = text.lines().filter(|line| !line.trim().is_empty());
            let (first, last) = (lines.next().unwrap_or_default(), lines.next_back());
            last.map_or_else(|| first.to_owned(), |last| format!("{first}: {last}"))
        }
    }
}

/// The message for a key that is not in `known`: the most similar key, or the whole list.
pub(super) fn unknown_key(name: &str, known: &[&str]) -> String {
    format!("unknown key `{name}`; {}", suggestion(name, known))
}

fn suggestion(word: &str, known: &[&str]) -> String {
    /// Less similar words have little in common: `confirmation` and `confirmations` have 0.95,
    /// `zzz` and `evm` have 0.
    const SIMILARITY_MIN: f64 = 0.8;
    // One typing error is much of a short word: `rcp` and `rpc` have only 0.55.
    let is_one_edit = |known: &&&str| word.len() > 1 && strsim::osa_distance(known, word) == 1;
    if let Some(nearest) = known.iter().find(is_one_edit) {
        return format!("did you mean `{nearest}`?");
    }
    match most_similar(word, known) {
        Some((nearest, similarity)) if similarity >= SIMILARITY_MIN => {
            format!("did you mean `{nearest}`?")
        }
        _ => format!("known here: {}", known.join(", ")),
    }
}

/// The most similar word by the Jaro-Winkler measure, with its similarity from 0 to 1.
pub(super) fn most_similar<'k>(word: &str, known: &[&'k str]) -> Option<(&'k str, f64)> {
    let similarities = known
        .iter()
        .map(|known| (*known, strsim::jaro_winkler(known, word)));
    similarities.max_by(|(_, one), (_, other)| one.total_cmp(other))
}
