//! Where the journal is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quittance_engine::{Journal, JournalError, PostgresJournal, SqliteJournal};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use url::Url;

use super::ConfigError;

/// What the URL of a database begins with.
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// Where the journal is: in a file, or in a PostgreSQL database.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum JournalPlace {
    /// A SQLite file, for one process.
    File(PathBuf),
    /// The URL of a PostgreSQL database, for any number of processes. It may have a password.
    Database(SecretString),
}

impl JournalPlace {
    /// Reads a path or a URL.
    pub fn new(text: &str) -> Self {
        match SCHEMES.iter().any(|scheme| text.starts_with(scheme)) {
            true => Self::Database(text.into()),
            false => Self::File(text.into()),
        }
    }

    /// Opens the journal, or creates it.
    ///
    /// # Errors
    /// When it cannot be used.
    pub async fn open(&self) -> Result<Arc<dyn Journal>, JournalError> {
        Ok(match self {
            Self::File(path) => Arc::new(SqliteJournal::open(path).await?),
            Self::Database(url) => Arc::new(PostgresJournal::open(url.expose_secret()).await?),
        })
    }

    /// Opens the journal for reading, also while a facilitator uses it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn open_read_only(&self) -> Result<Arc<dyn Journal>, JournalError> {
        Ok(match self {
            Self::File(path) => Arc::new(SqliteJournal::open_read_only(path).await?),
            Self::Database(url) => {
                Arc::new(PostgresJournal::open_read_only(url.expose_secret()).await?)
            }
        })
    }

    /// Checks that the journal can be opened. Does not create it: the user who checks may not be
    /// the one who serves.
    ///
    /// # Errors
    /// When it cannot be.
    pub(crate) async fn check(&self) -> Result<(), ConfigError> {
        match self {
            Self::Database(url) => Ok(PostgresJournal::check(url.expose_secret()).await?),
            Self::File(path) if path.exists() => Ok(SqliteJournal::open(path).await.map(drop)?),
            Self::File(path) => {
                let folder = path.parent().filter(|folder| *folder != Path::new(""));
                let folder = folder.unwrap_or(Path::new("."));
                let created = tempfile::tempfile_in(folder);
                let io = |error| ConfigError::io("journal", folder.display().to_string(), error);
                created.map(drop).map_err(io)
            }
        }
    }

    /// What is wrong with an existing file, whether or not a process has it open.
    pub(crate) async fn inspect(&self) -> Result<Vec<String>, JournalError> {
        match self {
            Self::File(path) if path.exists() => SqliteJournal::inspect(path).await,
            Self::File(_) | Self::Database(_) => Ok(Vec::new()),
        }
    }

    /// The command that overwrites the pages of what was removed.
    pub(crate) fn vacuum(&self) -> String {
        match self {
            Self::File(path) => format!("`sqlite3 {} VACUUM`", path.display()),
            Self::Database(_) => "`VACUUM`".to_owned(),
        }
    }
}

impl fmt::Display for JournalPlace {
    /// The place without a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Database(url) => match Url::parse(url.expose_secret()) {
                Ok(url) => {
                    let (scheme, host) = (url.scheme(), url.host_str().unwrap_or_default());
                    write!(f, "{scheme}://{host}{}", url.path())
                }
                Err(_) => f.write_str("a database whose URL cannot be read"),
            },
        }
    }
}

impl<'de> Deserialize<'de> for JournalPlace {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(|text| Self::new(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_postgresql_is_a_database_and_all_else_a_file() {
        let file = JournalPlace::new("quittance.db");
        assert!(matches!(file, JournalPlace::File(_)));
        assert_eq!(file.to_string(), "quittance.db");
        for text in [
            "postgres://user:secret@db.example:6000/pay?sslmode=verify-full&password=secret",
            "postgresql://user:secret@db.example:6000/pay",
        ] {
            let database = JournalPlace::new(text);
            let shown = format!("{database} {database:?}");
            assert!(shown.contains("://db.example/pay"), "{shown}");
            assert!(!shown.contains("secret"), "{shown}");
        }
        let odd = JournalPlace::new("postgres://user:secret@:::/");
        assert!(!format!("{odd} {odd:?}").contains("user"), "{odd}");
    }
}
