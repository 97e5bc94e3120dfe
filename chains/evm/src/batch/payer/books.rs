//! The books of a payer's channels, in a folder with one file for each channel.
//!
//! A book is on the disk before a voucher or a deposit of it leaves the payer. Each write replaces
//! the whole file at once, so a crash leaves the old book or the new one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy::primitives::{B256, U256};
use quittance_core::Malformed;
use tokio::sync::OwnedMutexGuard;

use super::book::PayerBook;
use super::limits::in_coins;

/// Why the books of a payer's channels cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BooksError {
    /// A file or the folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or the folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not the book of a channel, or of a newer version. It may be the only record of a
    /// deposit, so it is not passed over.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Malformed,
    },
    /// Another payer has the folder open. Two of them would sign with different books.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

/// The books of all channels of a payer.
pub(super) struct PayerBooks {
    folder: Option<Folder>,
    open: Mutex<OpenBooks>,
    /// The turns of the channels that have one now.
    turns: Mutex<BTreeMap<B256, Arc<tokio::sync::Mutex<()>>>>,
}

/// The books in memory, and what is about to be deposited.
#[derive(Default)]
struct OpenBooks {
    books: BTreeMap<B256, PayerBook>,
    plans: BTreeMap<B256, Plan>,
    /// The number of the newest plan.
    newest: u64,
}

/// What the next payment of a channel deposits. It counts as locked up before it is signed.
#[derive(Clone, Copy)]
struct Plan {
    number: u64,
    price: u128,
    deposit: Option<u128>,
}

/// A plan, until it is dropped.
pub(super) struct PlanGuard {
    books: Arc<PayerBooks>,
    id: B256,
    number: u64,
}

impl Drop for PlanGuard {
    fn drop(&mut self) {
        let mut open = lock(&self.books.open);
        let plan = open.plans.get(&self.id);
        if plan.is_some_and(|plan| plan.number == self.number) {
            open.plans.remove(&self.id);
        }
    }
}

impl OpenBooks {
    /// What is locked up in all channels together, in coins.
    fn locked(&self) -> U256 {
        let coins = |units, book: &PayerBook| in_coins(units, book.decimals);
        let books = self.books.values();
        let locked = books.map(|book| coins(book.locked(), book));
        let planned = self.plans.iter().filter_map(|(id, plan)| {
            let book = self.books.get(id)?;
            // A signed deposit is in the book.
            let deposit = plan.deposit.filter(|_| book.deposit.is_none())?;
            Some(coins(deposit, book))
        });
        locked.chain(planned).fold(U256::ZERO, U256::saturating_add)
    }
}

/// A folder of books, locked until it is dropped.
struct Folder {
    path: PathBuf,
    /// One write at a time: the file has the newest book after each.
    writing: Mutex<()>,
    _lock: File,
}

impl PayerBooks {
    /// Books in memory. They are lost with the process.
    pub(super) fn in_memory() -> Self {
        Self {
            folder: None,
            open: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    /// The books in a folder, which is created if it does not exist.
    pub(super) fn open(path: &Path) -> Result<Self, BooksError> {
        let io = |source| io_error(path, source);
        private_folder(path).map_err(io)?;
        let file = path.join("lock");
        let lock = private()
            .open(&file)
            .map_err(|error| io_error(&file, error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::Error(source) => io_error(&file, source),
            TryLockError::WouldBlock => BooksError::InUse {
                path: path.to_owned(),
            },
        })?;
        let books = read_books(path)?;
        let books = books.into_iter().map(|book| (book.channel_id, book));
        Ok(Self {
            folder: Some(Folder {
                path: path.to_owned(),
                writing: Mutex::default(),
                _lock: lock,
            }),
            open: Mutex::new(OpenBooks {
                books: books.collect(),
                ..OpenBooks::default()
            }),
            turns: Mutex::default(),
        })
    }

    /// The book of a channel.
    pub(super) fn get(&self, id: &B256) -> Option<PayerBook> {
        lock(&self.open).books.get(id).cloned()
    }

    /// All books.
    pub(super) fn list(&self) -> Vec<PayerBook> {
        lock(&self.open).books.values().cloned().collect()
    }

    /// The deposit that is planned for a payment of this price. `None` without a plan.
    pub(super) fn planned(&self, id: &B256, price: u128) -> Option<Option<u128>> {
        let open = lock(&self.open);
        let plan = open.plans.get(id).filter(|plan| plan.price == price)?;
        Some(plan.deposit)
    }

    /// The deposit that the next payment of a channel needs now, by `size`. It gets the book, or
    /// `empty` if there is none, and what is locked up in all channels together, in coins.
    pub(super) fn size<E>(
        &self,
        empty: PayerBook,
        size: impl FnOnce(&PayerBook, U256) -> Result<Option<u128>, E>,
    ) -> Result<Option<u128>, E> {
        let open = lock(&self.open);
        let book = open.books.get(&empty.channel_id).unwrap_or(&empty);
        size(book, open.locked())
    }

    /// Plans a payment of this price, with the deposit that it needs by `size`. From now on the
    /// deposit counts as locked up.
    pub(super) fn plan<E>(
        self: &Arc<Self>,
        empty: PayerBook,
        price: u128,
        size: impl FnOnce(&PayerBook, U256) -> Result<Option<u128>, E>,
    ) -> Result<PlanGuard, E> {
        let mut open = lock(&self.open);
        let id = empty.channel_id;
        let book = open.books.get(&id).unwrap_or(&empty);
        let deposit = size(book, open.locked())?;
        open.books.entry(id).or_insert(empty);
        open.newest += 1;
        let number = open.newest;
        let plan = Plan {
            number,
            price,
            deposit,
        };
        open.plans.insert(id, plan);
        let books = Arc::clone(self);
        Ok(PlanGuard { books, id, number })
    }

    /// Carries out the plan of a channel: `record` writes what was signed into the book, unless the
    /// book has changed meanwhile. `None` in that case, and if there is no book.
    pub(super) fn carry_out<T>(
        &self,
        id: &B256,
        record: impl FnOnce(&mut PayerBook) -> Option<T>,
    ) -> Option<T> {
        let mut open = lock(&self.open);
        let recorded = record(open.books.get_mut(id)?)?;
        open.plans.remove(id);
        Some(recorded)
    }

    /// Changes the book of a channel, in memory. `None` if there is none.
    pub(super) fn change<T>(
        &self,
        id: &B256,
        change: impl FnOnce(&mut PayerBook) -> T,
    ) -> Option<T> {
        lock(&self.open).books.get_mut(id).map(change)
    }

    /// Adds a book, unless the channel has one.
    pub(super) fn add(&self, book: PayerBook) {
        let mut open = lock(&self.open);
        open.books.entry(book.channel_id).or_insert(book);
    }

    /// Waits until the newest book of a channel is on the disk.
    pub(super) async fn save(self: &Arc<Self>, id: B256) -> Result<(), BooksError> {
        if self.folder.is_none() {
            return Ok(());
        }
        let books = Arc::clone(self);
        // The disk can be slow, and this thread has other tasks.
        let writing = tokio::task::spawn_blocking(move || books.write(&id));
        writing
            .await
            .unwrap_or_else(|stopped| Err(io_error(Path::new("books"), io::Error::other(stopped))))
    }

    fn write(&self, id: &B256) -> Result<(), BooksError> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let _writing = lock(&folder.writing);
        let Some(book) = self.get(id) else {
            return Ok(());
        };
        let path = folder.path.join(file_name(id));
        let text = book.to_text().map_err(|source| BooksError::Unreadable {
            path: path.clone(),
            source,
        })?;
        replace(&folder.path, &path, &text).map_err(|source| io_error(&path, source))
    }

    /// Waits for the turn of a channel's next payment.
    pub(super) async fn turn(&self, id: B256) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = lock(&self.turns);
            // Sellers could name ever new channels.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(id).or_default())
        };
        turn.lock_owned().await
    }
}

/// The books of a payer's channels in a folder. None if there is no folder.
///
/// # Errors
/// If a file cannot be read, or is no book.
pub fn read_books(folder: &Path) -> Result<Vec<PayerBook>, BooksError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io_error(folder, source)),
    };
    let mut books = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| io_error(folder, source))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = fs::read(&path).map_err(|source| io_error(&path, source))?;
        let book = PayerBook::read(&text);
        books.push(book.map_err(|source| BooksError::Unreadable { path, source })?);
    }
    books.sort_by_key(|book| book.channel_id);
    Ok(books)
}

fn file_name(id: &B256) -> String {
    format!("{id}.json")
}

/// Replaces a file at once, and returns when the change survives a power cut.
fn replace(folder: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = private().truncate(true).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_folder(folder)
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Other systems cannot open a folder.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Creates a folder that only its owner can read: a voucher is worth money to its seller.
fn private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Options for a file that only its owner can read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn io_error(path: &Path, source: io::Error) -> BooksError {
    let path = path.to_owned();
    BooksError::Io { path, source }
}

/// A lock's content is valid after a panic: each critical section makes one change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
