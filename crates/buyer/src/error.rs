//! Why open payments cannot be stored.

use std::io;
use std::path::PathBuf;

/// Why the file of open payments cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The operating system cannot open, lock, read or write the file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system reports.
        source: io::Error,
    },
    /// Another buyer has the file open.
    #[error("{} is in use by another buyer: stop that one, or use another file", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file was deleted or replaced while this buyer had it open.
    #[error("{} was deleted or replaced: restore the file and restart the buyer", path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// The file is missing, and SQLite's log of it is there. The log may have the only copy of a
    /// payment.
    #[error("{} is missing, and its log {} is there: restore the file, or remove the log", path.display(), log.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Its log.
        log: PathBuf,
    },
    /// The file has more than one name (hard links), and SQLite's log would belong to one of them
    /// only.
    #[error("{} has hard links: remove the other names, or use another file", path.display())]
    HardLink {
        /// The file.
        path: PathBuf,
    },
    /// The file is neither a database of a buyer nor JSON of an older version. The text is not
    /// repeated: it may be a key.
    #[error("{} is not a file of open payments (line {line}, column {column})", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line at which it stops being JSON of an older version, from 1.
        line: usize,
        /// The column.
        column: usize,
    },
    /// The file is a database of another program.
    #[error("{} is a database of another program: use another file", path.display())]
    OtherDatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer version of this library.
    #[error("{} has format version {found}, and this library reads up to {supported}: update the library", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version of the file's format.
        found: u64,
        /// The latest version that this library reads.
        supported: u64,
    },
    /// A field of a stored payment is invalid.
    #[error("{}: {field} of payment {id:?} is invalid", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The payment's identifier.
        id: String,
        /// The field.
        field: &'static str,
    },
    /// The database cannot be read or written.
    #[error("{}: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite reports.
        source: DatabaseError,
    },
    /// The program stopped its background tasks before the change was stored.
    #[error("the task that stores open payments was stopped")]
    Stopped,
}

/// An error of SQLite.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DatabaseError(#[from] rusqlite::Error);
