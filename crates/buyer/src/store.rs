//! Open payments in an SQLite database, so that they survive the buyer's process.
//!
//! SQLite is used through `rusqlite`, which is synchronous: a buyer is built in synchronous code,
//! and each write runs on a thread for blocking work. Changes that wait for the disk at the same
//! time share one commit.
//!
//! Every commit is in one file, as with the JSON file of earlier versions. A copy or a restored
//! backup of it is complete, and deleting a log beside it loses no payment. For this reason the
//! database has a rollback journal and not a write-ahead log. A commit then costs two or three
//! syncs instead of one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quittance_core::{Timestamp, Version};
use rusqlite::{Connection, Row, ffi, named_params, params};
use tracing::{info, warn};

use crate::error::StateError;
use crate::import;
use crate::open::OpenPayment;
use crate::payment::{Exposure, KeptPayment, PurchaseKey, RequestId, SignedForm};

/// The first bytes of every SQLite database.
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";

/// Marks a database as one of this library: "QTBY" in ASCII.
const APPLICATION_ID: i64 = 0x5154_4259;

/// The version of `schema.sql`.
const SCHEMA_VERSION: i64 = 1;

/// How long a write waits for another process that reads or copies the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The most symbolic links that are followed to the file; Linux follows as many.
const LINKS_MAX: usize = 40;

/// The identity of a stored payment: its purchase and its id.
pub(crate) type StoredId = (PurchaseKey, String);

/// Changes by payment; `None` deletes the payment.
type Changes = BTreeMap<StoredId, Option<KeptPayment>>;

/// A database of open payments. One buyer has it open at a time.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    /// The identity of the file at `path` when it was opened.
    file: Option<FileId>,
    queue: Mutex<Queue>,
    database: Mutex<Database>,
    /// Locked until the store is dropped.
    _lock: File,
}

/// Changes that are not in the database yet.
#[derive(Debug, Default)]
struct Queue {
    /// The number of the last queued change.
    last: u64,
    changes: Changes,
}

#[derive(Debug)]
struct Database {
    connection: Connection,
    /// The number of the last change in the database.
    written: u64,
}

impl Store {
    /// Opens the database and loads its payments. Creates it if there is no file, and imports a
    /// JSON file of an earlier version. The JSON file stays in the same folder, with `.imported`
    /// after its name.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<(PurchaseKey, KeptPayment)>), StateError> {
        // All names of a file lead to one lock.
        let path = resolve(path).map_err(|source| io_error(path, source))?;
        let lock = lock(&path).map_err(|error| match error {
            TryLockError::Error(source) => io_error(&path, source),
            TryLockError::WouldBlock => StateError::InUse { path: path.clone() },
        })?;
        prepare(&path)?;
        make_private(&path)?;
        let connection = open_locked(&path).map_err(|error| database_error(&path, error))?;
        check(&path, &connection)?;
        commit_to_one_file(&connection).map_err(|error| database_error(&path, error))?;
        let payments = load(&path, &connection)?;
        let store = Self {
            file: file_id(&path).map_err(|source| io_error(&path, source))?,
            path,
            queue: Mutex::default(),
            database: Mutex::new(Database {
                connection,
                written: 0,
            }),
            _lock: lock,
        };
        Ok((store, payments))
    }

    /// Queues changes, and returns the number with which [`Self::write_until`] waits for them.
    /// Later changes to the same payment replace earlier ones.
    pub(crate) fn queue(&self, changes: Changes) -> u64 {
        let mut queue = unpoisoned(&self.queue);
        queue.last += 1;
        queue.changes.extend(changes);
        queue.last
    }

    /// Writes the queue until the change with this number is on the disk. Blocks. Changes that
    /// cannot be written stay queued.
    pub(crate) fn write_until(&self, change: u64) -> Result<(), StateError> {
        let mut database = unpoisoned(&self.database);
        if database.written >= change {
            return Ok(());
        }
        // Taken from the queue only once they are on the disk: a failed or interrupted write loses
        // none.
        let (last, changes) = {
            let queue = unpoisoned(&self.queue);
            (queue.last, queue.changes.clone())
        };
        self.write(&mut database.connection, &changes)?;
        // A change that was queued meanwhile is newer, and stays.
        let mut queue = unpoisoned(&self.queue);
        queue
            .changes
            .retain(|id, payment| changes.get(id) != Some(payment));
        database.written = last;
        Ok(())
    }

    fn write(&self, connection: &mut Connection, changes: &Changes) -> Result<(), StateError> {
        // SQLite would write on into a deleted file.
        let file = file_id(&self.path).map_err(|source| io_error(&self.path, source))?;
        if file != self.file {
            return Err(StateError::Replaced {
                path: self.path.clone(),
            });
        }
        apply(connection, changes).map_err(|error| database_error(&self.path, error))
    }
}

impl Drop for Store {
    /// Writes what a stopped task or a full disk left in the queue.
    fn drop(&mut self) {
        let last = unpoisoned(&self.queue).last;
        if let Err(error) = self.write_until(last) {
            warn!(%error, "the last changes to open payments were not stored");
        }
    }
}

/// The lock's content is valid after a panic: each critical section makes one change, or SQLite
/// rolls it back.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes sure that there is a database at `path`.
fn prepare(path: &Path) -> Result<(), StateError> {
    let error = |source| io_error(path, source);
    let text = match starts_with_magic(path) {
        Ok(true) => return Ok(()),
        Ok(false) => fs::read(path).map_err(error)?,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            return create(path, &[]);
        }
        Err(failed) => return Err(error(failed)),
    };
    let payments = import::parse(path, &text)?;
    let kept = keep_beside(path, &text).map_err(error)?;
    create(path, &payments)?;
    let count = payments.len();
    info!(count, kept = %kept.display(), "imported the open payments of an earlier version");
    Ok(())
}

fn starts_with_magic(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    let length = SQLITE_MAGIC.len() as u64;
    File::open(path)?.take(length).read_to_end(&mut start)?;
    Ok(start == SQLITE_MAGIC)
}

/// Writes a copy of the JSON file beside it. An earlier copy with another content is not
/// overwritten.
fn keep_beside(path: &Path, text: &[u8]) -> io::Result<PathBuf> {
    for number in 0.. {
        let kept = match number {
            0 => with_suffix(path, ".imported"),
            _ => with_suffix(path, &format!(".imported.{number}")),
        };
        match private().create_new(true).open(&kept) {
            Ok(mut file) => {
                let written = file.write_all(text).and_then(|()| file.sync_all());
                // Otherwise each attempt on a full disk would leave one more.
                return match written {
                    Ok(()) => Ok(kept),
                    Err(failed) => fs::remove_file(&kept).and(Err(failed)),
                };
            }
            // Left by an import that a crash interrupted.
            Err(exists) if exists.kind() == io::ErrorKind::AlreadyExists => {
                if fs::read(&kept)? == text {
                    return Ok(kept);
                }
            }
            Err(failed) => return Err(failed),
        }
    }
    unreachable!("the loop has no end")
}

/// Creates a database with these payments under another name, and moves it to `path` once it is
/// complete on the disk. After a crash, `path` is either as before or the whole database.
fn create(path: &Path, payments: &[(PurchaseKey, KeptPayment)]) -> Result<(), StateError> {
    let new = with_suffix(path, ".new");
    let error = |source| io_error(path, source);
    // SQLite would apply the log of a missing database to the new one, and the log may have the
    // only copy of a payment.
    for suffix in ["-wal", "-journal"] {
        let log = with_suffix(path, suffix);
        if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
            let path = path.to_owned();
            return Err(StateError::Missing { path, log });
        }
    }
    // A crash can leave these behind.
    for suffix in [".new", ".new-journal", "-wal", "-shm", "-journal"] {
        match fs::remove_file(with_suffix(path, suffix)) {
            Err(failed) if failed.kind() != io::ErrorKind::NotFound => return Err(error(failed)),
            _ => {}
        }
    }
    let file = private().create_new(true).open(&new).map_err(error)?;
    fill(&new, payments).map_err(|failed| database_error(path, failed))?;
    file.sync_all()
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| sync_folder(&folder_of(path)))
        .map_err(error)
}

fn fill(new: &Path, payments: &[(PurchaseKey, KeptPayment)]) -> rusqlite::Result<()> {
    let mut connection = Connection::open(new)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(include_str!("schema.sql"))?;
    for (key, payment) in payments {
        insert(&transaction, key, payment)?;
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)
}

/// Makes the file readable for its owner only, and checks that it has one name, because each name
/// of a file has a separate log.
fn make_private(path: &Path) -> Result<(), StateError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let error = |source| io_error(path, source);
        let metadata = fs::metadata(path).map_err(error)?;
        if metadata.nlink() > 1 {
            let path = path.to_owned();
            return Err(StateError::HardLink { path });
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(error)?;
        }
    }
    Ok(())
}

/// Opens the database, and changes nothing. Its lock excludes every other process, whatever name
/// the file has there.
fn open_locked(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
    Ok(connection)
}

/// Makes every commit durable, and in the database's own file.
fn commit_to_one_file(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Without it, macOS leaves what was synced in the disk's cache.
    connection.pragma_update(None, "fullfsync", true)?;
    let mode = connection.pragma_update_and_check(None, "journal_mode", "TRUNCATE", |row| {
        row.get::<_, String>(0)
    })?;
    match mode.as_str() {
        "truncate" => Ok(()),
        _ => Err(rusqlite::Error::SqliteFailure(
            ffi::Error::new(ffi::SQLITE_CANTOPEN),
            Some(format!("the journal mode is {mode}, not truncate")),
        )),
    }
}

/// Checks that the database is one of this library, of a version that it reads.
fn check(path: &Path, connection: &Connection) -> Result<(), StateError> {
    let number = |name: &str| {
        let found = connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        found.map_err(|error| database_error(path, error))
    };
    let path = || path.to_owned();
    if number("application_id")? != APPLICATION_ID {
        return Err(StateError::OtherDatabase { path: path() });
    }
    match number("user_version")? {
        SCHEMA_VERSION => Ok(()),
        found => Err(StateError::Version {
            path: path(),
            found: found.unsigned_abs(),
            supported: SCHEMA_VERSION.unsigned_abs(),
        }),
    }
}

/// Applies all changes in one transaction.
fn apply(connection: &mut Connection, changes: &Changes) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for ((key, id), payment) in changes {
        transaction
            .prepare("DELETE FROM payments WHERE purchase = ? AND id = ?")?
            .execute(params![key.0, id])?;
        if let Some(payment) = payment {
            insert(&transaction, key, payment)?;
        }
    }
    transaction.commit()
}

fn insert(
    connection: &Connection,
    key: &PurchaseKey,
    payment: &KeptPayment,
) -> rusqlite::Result<()> {
    let open = &payment.open;
    let (header, payload) = match &payment.form {
        SignedForm::Header(value) => (Some(value), None),
        SignedForm::Payload(text) => (None, Some(text)),
    };
    let mut insert = connection.prepare(
        "INSERT INTO payments (purchase, id, request, x402_version, header, payload, exposure, network, origin, asset, symbol,
             decimals, pay_to, amount, expires, transaction_id)
         VALUES (:purchase, :id, :request, :x402_version, :header, :payload, :exposure, :network, :origin, :asset, :symbol,
             :decimals, :pay_to, :amount, :expires, :transaction_id)",
    )?;
    insert.execute(named_params! {
        ":purchase": key.0,
        ":id": open.id,
        ":request": payment.request.map(|request| request.0),
        ":x402_version": payment.version.number().cast_signed(),
        ":header": header,
        ":payload": payload,
        ":exposure": exposure_name(payment.exposure),
        ":network": open.network,
        ":origin": open.origin,
        ":asset": open.asset,
        ":symbol": open.symbol,
        ":decimals": open.decimals,
        ":pay_to": open.pay_to,
        ":amount": open.amount.to_string(),
        ":expires": open.expires.secs().to_string(),
        ":transaction_id": open.transaction,
    })?;
    Ok(())
}

fn load(
    path: &Path,
    connection: &Connection,
) -> Result<Vec<(PurchaseKey, KeptPayment)>, StateError> {
    let error = |error| database_error(path, error);
    let mut select = connection
        .prepare("SELECT * FROM payments")
        .map_err(error)?;
    let mut rows = select.query(()).map_err(error)?;
    let mut payments = Vec::new();
    while let Some(row) = rows.next().map_err(error)? {
        let payment = parse_row(row).map_err(error)?;
        payments.push(payment.map_err(|(id, field)| StateError::Invalid {
            path: path.to_owned(),
            id,
            field,
        })?);
    }
    Ok(payments)
}

type Parsed = Result<(PurchaseKey, KeptPayment), (String, &'static str)>;

/// The payment in a row, or its id and the name of its invalid field.
fn parse_row(row: &Row<'_>) -> rusqlite::Result<Parsed> {
    let id: String = row.get("id")?;
    let header: Option<String> = row.get("header")?;
    let payload: Option<String> = row.get("payload")?;
    let form = match (header, payload) {
        (Some(value), None) if import::is_base64(&value) => SignedForm::Header(value),
        (None, Some(text)) => SignedForm::Payload(text),
        _ => return Ok(Err((id, "header or payload"))),
    };
    let Ok(amount) = row.get::<_, String>("amount")?.parse() else {
        return Ok(Err((id, "amount")));
    };
    let Ok(expires) = row.get::<_, String>("expires")?.parse() else {
        return Ok(Err((id, "expires")));
    };
    let Some(exposure) = exposure_from_name(&row.get::<_, String>("exposure")?) else {
        return Ok(Err((id, "exposure")));
    };
    let version = u64::try_from(row.get::<_, i64>("x402_version")?).unwrap_or_default();
    let Some(version) = Version::from_number(version) else {
        return Ok(Err((id, "x402_version")));
    };
    let open = OpenPayment {
        id,
        network: row.get("network")?,
        origin: row.get("origin")?,
        asset: row.get("asset")?,
        symbol: row.get("symbol")?,
        decimals: row.get("decimals")?,
        pay_to: row.get("pay_to")?,
        amount,
        expires: Timestamp::from_secs(expires),
        transaction: row.get("transaction_id")?,
    };
    let request: Option<[u8; 32]> = row.get("request")?;
    let payment = KeptPayment {
        request: request.map(RequestId),
        version,
        form,
        exposure,
        open,
        was_used: false,
    };
    Ok(Ok((PurchaseKey(row.get("purchase")?), payment)))
}

fn exposure_name(exposure: Exposure) -> &'static str {
    match exposure {
        Exposure::None => "none",
        Exposure::Refused => "refused",
        Exposure::Possible => "possible",
    }
}

fn exposure_from_name(name: &str) -> Option<Exposure> {
    let all = [Exposure::None, Exposure::Refused, Exposure::Possible];
    all.into_iter()
        .find(|exposure| exposure_name(*exposure) == name)
}

fn io_error(path: &Path, source: io::Error) -> StateError {
    let path = path.to_owned();
    StateError::Io { path, source }
}

fn database_error(path: &Path, error: rusqlite::Error) -> StateError {
    StateError::Database {
        path: path.to_owned(),
        source: error.into(),
    }
}

/// What distinguishes a file from another one with the same name.
type FileId = (u64, u64);

/// The device and inode of the file; `None` where the operating system has none.
fn file_id(path: &Path) -> io::Result<Option<FileId>> {
    let metadata = fs::metadata(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok(Some((metadata.dev(), metadata.ino())))
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        Ok(None)
    }
}

/// The path of another file beside this one.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn lock(path: &Path) -> Result<File, TryLockError> {
    let lock = private()
        .create(true)
        .truncate(false)
        .open(with_suffix(path, ".lock"));
    let lock = lock.map_err(TryLockError::Error)?;
    lock.try_lock()?;
    Ok(lock)
}

/// The absolute path of a file that need not exist, with symbolic links followed. Creates the
/// folder.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(target) = fs::read_link(&path) else {
            let folder = folder_of(&path);
            create_folder(&folder)?;
            let name = path.file_name();
            let name =
                name.ok_or_else(|| io::Error::other("the path does not end in a file name"))?;
            return Ok(fs::canonicalize(folder)?.join(name));
        };
        path = folder_of(&path).join(target);
    }
    Err(io::Error::other("too many symbolic links"))
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Creates a folder and those above it, and syncs them so that they survive a crash.
fn create_folder(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    fs::create_dir_all(folder)?;
    for created in missing {
        sync_folder(&folder_of(created))?;
    }
    Ok(())
}

/// Syncs the entries of a folder, such as the new name of a file.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        false => Ok(()),
    }
}

/// Options that create a file for its owner alone: a signed authorization is worth money.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(test)]
mod tests;
