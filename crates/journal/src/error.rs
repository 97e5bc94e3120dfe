//! What can go wrong with a journal.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use quittance_core::{Fault, FaultKind, PaymentId};

use crate::replica::LeaseName;

/// The journal could not be opened, read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another process has the journal open.
    #[error("{}: another process has this journal open: stop it, or use another file", lock.display())]
    Locked {
        /// The lock file.
        lock: PathBuf,
    },
    /// A file of the journal cannot be opened, created or examined.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system reports.
        #[source]
        cause: Cause,
    },
    /// The file can never hold a journal.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        problem: FileProblem,
    },
    /// The file's format is newer than this program.
    #[error(
        "the journal has format {found}, and this program knows formats up to {newest}: use a newer program"
    )]
    NewerFormat {
        /// The file's format.
        found: i64,
        /// The newest format that this program knows.
        newest: i64,
    },
    /// The file refers to settlements that it does not contain.
    #[error("the journal has transactions of settlements that it does not contain: restore a copy")]
    Dangling,
    /// A file of the journal changed under its path while it is in use. What the path leads to now
    /// may be an old state, or nothing.
    #[error("{} {change} while it is in use", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What happened to it.
        change: FileChange,
    },
    /// The database is damaged. This process no longer writes to it.
    #[error("the journal is damaged: {cause}")]
    Damaged {
        /// What the database reports.
        #[source]
        cause: Cause,
    },
    /// The last write failed. Everything that was written before can be read.
    #[error("the journal cannot be written: {cause}")]
    Unwritable {
        /// What the storage reports.
        #[source]
        cause: Cause,
    },
    /// The storage cannot be used at the moment.
    #[error("the journal cannot be used: {cause}")]
    Unavailable {
        /// What the storage reports.
        #[source]
        cause: Cause,
    },
    /// The task that writes has ended.
    #[error("the journal is closed")]
    Closed,
    /// The journal was opened for reading only, or has an older format and cannot be migrated.
    #[error("{}: {why}", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// Why it cannot be written, or not even read.
        why: &'static str,
    },
    /// One entry cannot be read. All other entries can be read and written.
    #[error("an entry of the journal cannot be read: {cause}")]
    Unreadable {
        /// What is wrong with the entry.
        #[source]
        cause: Cause,
    },
    /// Another replica works on this settlement, or none does. Nothing has changed. To try again
    /// does not help: drop the work, and answer by what the journal has.
    #[error("another replica works on the settlement {settlement}")]
    NotOwner {
        /// The settlement.
        settlement: PaymentId,
    },
    /// This replica does not hold the lease any more, or with another token. Nothing has changed.
    /// To try again does not help: what was signed under the lease must not be sent.
    #[error("this replica does not hold the lease \"{name}\"")]
    LeaseLost {
        /// The lease.
        name: LeaseName,
    },
    /// The feed of events does not have this position: the events behind it were removed, or it is
    /// the position of another journal. Read what the settlements are now, and start again.
    #[error(
        "the feed of events has no such position: its events were removed, or it is of another journal"
    )]
    UnknownCursor,
    /// The write contradicts the journal's rules, or what it has. Nothing has changed, and the same
    /// write fails again: this program or a scheme has a mistake. Other writes go on.
    #[error("the journal refuses this write: {cause}")]
    Refused {
        /// The rule.
        #[source]
        cause: Cause,
    },
}

impl JournalError {
    /// The storage behind a journal failed, for implementations of [`Journal`](crate::Journal).
    pub fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable {
            cause: Cause::new(cause),
        }
    }

    /// One entry cannot be read, for implementations of [`Journal`](crate::Journal).
    pub fn unreadable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unreadable {
            cause: Cause::new(cause),
        }
    }

    /// A write contradicts the journal's rules, for implementations of [`Journal`](crate::Journal).
    pub fn refused(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused {
            cause: Cause::new(cause),
        }
    }

    /// The same problem, met by a write. Damage stays damage; any other problem of the storage is a
    /// failed write.
    pub(crate) fn of_a_write(self) -> Self {
        match self {
            Self::Unavailable { cause } => Self::Unwritable { cause },
            error => error,
        }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self::File {
            path: path.into(),
            cause: Cause::new(error),
        }
    }
}

impl From<JournalError> for Fault {
    fn from(error: JournalError) -> Self {
        let kind = match error {
            // To retry does not help.
            JournalError::Refused { .. } | JournalError::UnknownCursor => FaultKind::Internal,
            // Another replica goes on. A caller that retries follows it.
            JournalError::NotOwner { .. } | JournalError::LeaseLost { .. } => FaultKind::Busy,
            _ => FaultKind::JournalUnavailable,
        };
        Self::new(kind, error)
    }
}

/// Why a file can never hold a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileProblem {
    /// The path is a folder or a device.
    NotAFile,
    /// The file has a second name (a hard link). SQLite would not find its log under that name.
    HardLink,
    /// The file is the database of another program.
    Foreign,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAFile => "not a file",
            Self::HardLink => "the file has a second name (a hard link): remove one of them",
            Self::Foreign => "the file is a database of another program: use another file",
        })
    }
}

/// What happened to a file that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileChange {
    /// The file's name no longer exists.
    Removed,
    /// The file's name leads to another file.
    Replaced,
    /// The file became shorter.
    Truncated {
        /// Its size before, in bytes.
        before: u64,
        /// Its size now, in bytes.
        now: u64,
    },
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed => f.write_str("was removed"),
            Self::Replaced => f.write_str("was replaced"),
            Self::Truncated { before, now } => {
                write!(f, "was truncated from {before} to {now} bytes")
            }
        }
    }
}

/// The underlying error, of whatever library. Two causes are equal if they have the same message.
#[derive(Debug, Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    /// Keeps an error, or a text, as a cause.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(error.into()))
    }

    /// The error itself.
    pub fn get(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_string() == other.0.to_string()
    }
}

impl Eq for Cause {}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
