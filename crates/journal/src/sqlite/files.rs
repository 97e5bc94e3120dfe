//! The files of a SQLite journal: their real path, their lock, their permissions, and changes to
//! them while they are in use.
//!
//! SQLite keeps writing to a file that was removed or replaced under its path, and reports success.
//! The written data is gone at the next start. So the files are checked before every commit.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{FileChange, FileProblem, JournalError};

/// The suffixes of the files beside the database: SQLite's log, its index, and the lock.
const BESIDE: [&str; 3] = ["-wal", "-shm", ".lock"];

/// The files of one journal, while it is open.
#[derive(Debug)]
pub(super) struct Files {
    /// The database's real path, without symbolic links.
    path: PathBuf,
    lock: Lock,
    /// The database and its log, as they were when they were opened.
    open: Vec<OpenFile>,
}

/// The lock beside the database. The operating system releases it when the process ends.
#[derive(Debug)]
struct Lock {
    file: OpenFile,
    _held: File,
}

/// An open file, and the identity that its path must still lead to.
#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    identity: Identity,
    /// The largest size seen, in bytes. Neither the database nor its log shrinks while it is open.
    size: u64,
}

/// What identifies a file independently of its name: its device and its inode number.
type Identity = (u64, u64);

impl Files {
    /// Creates the database's file if there is none, finds its real path, and takes the lock beside
    /// it. Two processes that spell the path differently find the same lock.
    ///
    /// # Errors
    /// When another process has the journal open, or the file cannot be created, has a second name,
    /// or is not a file.
    pub(super) fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |error| JournalError::file(path, error);
        // An existing file is not opened: closing it again would end SQLite's locks in this
        // process.
        if !path.exists() {
            private().open(path).map_err(failed)?;
        }
        let real = fs::canonicalize(path).map_err(failed)?;
        let lock = Lock::take(&real)?;
        let metadata = fs::metadata(&real).map_err(failed)?;
        let unusable = |problem| JournalError::Unusable {
            path: real.clone(),
            problem,
        };
        if !metadata.is_file() {
            return Err(unusable(FileProblem::NotAFile));
        }
        // SQLite finds the log by the database's name: under another name it would miss the log.
        if names(&metadata) > 1 {
            return Err(unusable(FileProblem::HardLink));
        }
        Ok(Self {
            path: real,
            lock,
            open: Vec::new(),
        })
    }

    /// The database's real path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Remembers the database and its log as they are now. Call it once SQLite has opened both.
    ///
    /// # Errors
    /// When one of them cannot be examined.
    pub(super) fn remember(&mut self) -> Result<(), JournalError> {
        let files = [self.path.clone(), beside(&self.path, "-wal")];
        self.open = files
            .into_iter()
            .map(OpenFile::at)
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    /// What happened to the files under their paths. `None` while the paths lead to the open files,
    /// and these are complete.
    pub(super) fn change(&mut self) -> Option<JournalError> {
        if self.lock.file.change().is_some() {
            // Without the lock file, another process could lock a new one.
            match Lock::take(&self.path) {
                Ok(lock) => self.lock = lock,
                Err(error) => return Some(error),
            }
        }
        self.open.iter_mut().find_map(OpenFile::change)
    }
}

impl Lock {
    fn take(journal: &Path) -> Result<Self, JournalError> {
        let path = beside(journal, ".lock");
        let held = private().open(&path);
        let held = held.map_err(|error| JournalError::file(&path, error))?;
        match held.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Locked { lock: path }),
            Err(TryLockError::Error(error)) => return Err(JournalError::file(&path, error)),
        }
        let file = OpenFile::at(path)?;
        Ok(Self { file, _held: held })
    }
}

impl OpenFile {
    fn at(path: PathBuf) -> Result<Self, JournalError> {
        let metadata = fs::metadata(&path).map_err(|error| JournalError::file(&path, error))?;
        Ok(Self {
            path,
            identity: identity(&metadata),
            size: metadata.len(),
        })
    }

    fn change(&mut self) -> Option<JournalError> {
        let changed = |change| JournalError::Changed {
            path: self.path.clone(),
            change,
        };
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some(changed(FileChange::Removed));
            }
            Err(error) => return Some(JournalError::file(&self.path, error)),
        };
        if identity(&metadata) != self.identity {
            return Some(changed(FileChange::Replaced));
        }
        let now = metadata.len();
        if now < self.size {
            let before = self.size;
            return Some(changed(FileChange::Truncated { before, now }));
        }
        self.size = now;
        None
    }
}

/// The journal's files that other users of the machine can read or write. Each contains signed
/// authorizations.
pub(super) fn readable_by_others(journal: &Path) -> Vec<PathBuf> {
    let beside = BESIDE.map(|suffix| beside(journal, suffix));
    let files = std::iter::once(journal.to_owned()).chain(beside);
    let is_open = |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| others_may(&metadata));
    files.filter(is_open).collect()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Options for a file that only its owner may read. SQLite gives its log the same permissions.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(unix)]
fn names(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(unix)]
fn others_may(metadata: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::mode(metadata) & 0o077 != 0
}

// Other systems report less about a file, and do not allow removing an open file.
#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {
    (0, 0)
}

#[cfg(not(unix))]
fn names(_: &Metadata) -> u64 {
    1
}

#[cfg(not(unix))]
fn others_may(_: &Metadata) -> bool {
    false
}
