//! The files of a SQLite journal: found by their real path, locked, private, and watched while they are open.
//!
//! SQLite goes on writing to a file that was removed or replaced under its path, and reports success. What it writes is
//! gone at the next start. So the files are looked at before every write.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::JournalError;

/// The suffixes of the files that lie beside the database: SQLite's log, its index, and the lock.
const BESIDE: [&str; 3] = ["-wal", "-shm", ".lock"];

/// The files of one journal, while it is open.
#[derive(Debug)]
pub(super) struct Files {
    /// The database's real path: no symbolic link in it.
    path: PathBuf,
    lock: Lock,
    /// The database and its log, as they were when they were opened.
    open: Vec<OpenFile>,
}

/// The lock beside the database. It is the operating system's: a process that dies has given it back.
#[derive(Debug)]
struct Lock {
    file: OpenFile,
    _held: File,
}

/// A file that is open, with what its path must still lead to.
#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    identity: Identity,
    /// The largest size that was seen, in bytes. Neither the database nor its log ever shrinks while it is open.
    size: u64,
}

/// What makes a file this one, whatever it is called: its device and its number there.
type Identity = (u64, u64);

impl Files {
    /// Makes the database's file if there is none, finds its real path, and takes the lock beside that. Two processes that
    /// spell the path differently find the same lock.
    ///
    /// # Errors
    /// When another process has the journal, or the file cannot be made, has a second name, or is not a file.
    pub(super) fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |path: &Path, error: &dyn std::fmt::Display| {
            JournalError::Unavailable(format!("{}: {error}", path.display()))
        };
        // A file that is there is not opened: closing it again would end SQLite's own locks in this process.
        if !path.exists() {
            private().open(path).map_err(|error| failed(path, &error))?;
        }
        let real = fs::canonicalize(path).map_err(|error| failed(path, &error))?;
        let lock = Lock::take(&real)?;
        let metadata = fs::metadata(&real).map_err(|error| failed(&real, &error))?;
        if !metadata.is_file() {
            return Err(failed(&real, &"not a file"));
        }
        // SQLite finds the log by the database's name: under another name it would miss what is in there.
        if names(&metadata) > 1 {
            let problem = "the file has a second name (a hard link): remove one of them";
            return Err(failed(&real, &problem));
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

    /// Remembers the database and its log as they are now. To be called once SQLite has opened both.
    ///
    /// # Errors
    /// When one of them cannot be looked at.
    pub(super) fn remember(&mut self) -> Result<(), JournalError> {
        let files = [self.path.clone(), beside(&self.path, "-wal")];
        self.open = files
            .into_iter()
            .map(OpenFile::at)
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    /// What has happened to the files under their paths; `None` while they are the ones that are open, and whole.
    pub(super) fn damage(&mut self) -> Option<String> {
        if self.lock.file.damage().is_some() {
            // Without the file another process could lock a new one.
            match Lock::take(&self.path) {
                Ok(lock) => self.lock = lock,
                Err(error) => return Some(error.to_string()),
            }
        }
        self.open.iter_mut().find_map(OpenFile::damage)
    }
}

impl Lock {
    fn take(journal: &Path) -> Result<Self, JournalError> {
        let path = beside(journal, ".lock");
        let failed = |error: &dyn std::fmt::Display| {
            JournalError::Unavailable(format!("{}: {error}", path.display()))
        };
        let held = private().open(&path).map_err(|error| failed(&error))?;
        match held.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(failed(&"another process has this journal"));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
        let file = OpenFile::at(path)?;
        Ok(Self { file, _held: held })
    }
}

impl OpenFile {
    fn at(path: PathBuf) -> Result<Self, JournalError> {
        let metadata = fs::metadata(&path)
            .map_err(|error| JournalError::Unavailable(format!("{}: {error}", path.display())))?;
        Ok(Self {
            path,
            identity: identity(&metadata),
            size: metadata.len(),
        })
    }

    fn damage(&mut self) -> Option<String> {
        let file = self.path.display();
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some(format!("{file} was removed while it is in use"));
            }
            Err(error) => return Some(format!("{file}: {error}")),
        };
        if identity(&metadata) != self.identity {
            return Some(format!("{file} was replaced while it is in use"));
        }
        let size = metadata.len();
        if size < self.size {
            let before = self.size;
            return Some(format!(
                "{file} was truncated while it is in use: it had {before} bytes and has {size}"
            ));
        }
        self.size = size;
        None
    }
}

/// Which of a journal's files other users of the machine can read or write. Each has signed authorizations in it.
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

/// How to open a file that only its owner may read. SQLite gives its log the database's permissions.
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

// Other systems tell less of a file, and do not let a file be removed while it is open.
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
