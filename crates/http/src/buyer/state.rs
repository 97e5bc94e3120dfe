//! Open payments in a file, for buyers that do not live long: a signed authorization that nobody remembers is paid twice.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use quittance_core::Version;
use serde::{Deserialize, Serialize};

use super::error::Open;
use super::purchases::{Key, Payment, Standing};

/// The only version of the file there is.
const VERSION: u64 = 1;

/// Why open payments cannot be kept in a file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct StateError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// A file of open payments, which one buyer has at a time.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// The number of the last change that is in it. Held while it is written.
    written: Mutex<u64>,
    /// Locked for as long as this lives.
    _lock: File,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u64,
    payments: Vec<SavedPayment>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SavedPayment {
    purchase: String,
    x402_version: u64,
    header: String,
    standing: Standing,
    open: Open,
}

impl StateFile {
    /// Takes the file, which need not exist, and reads the payments in it.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<(Key, Payment)>), StateError> {
        let error = |problem: String| StateError {
            path: path.to_owned(),
            problem,
        };
        let lock = lock(path).map_err(|failed| match failed {
            TryLockError::Error(failed) => error(failed.to_string()),
            TryLockError::WouldBlock => error("another buyer has it".to_owned()),
        })?;
        let payments = match fs::read(path) {
            Ok(text) => read(&text).map_err(error)?,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(failed) => return Err(error(failed.to_string())),
        };
        let file = Self {
            path: path.to_owned(),
            written: Mutex::new(0),
            _lock: lock,
        };
        Ok((file, payments))
    }

    /// Writes all payments as they are after the change with this number: after a crash the file has either these or those
    /// before. Changes may come here in any order; what a later one has written is not written over.
    ///
    /// Waits for the disk.
    pub(super) fn write(&self, change: u64, payments: &[(Key, Payment)]) -> Result<(), StateError> {
        // Whoever panicked with the lock left the number of a change that was written.
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if *written >= change {
            return Ok(());
        }
        let payments = payments.iter().map(|(key, payment)| save(key, payment));
        let saved = Saved {
            version: VERSION,
            payments: payments.collect(),
        };
        serde_json::to_vec_pretty(&saved)
            .map_err(io::Error::from)
            .and_then(|text| replace(&self.path, &text))
            .map_err(|failed| self.error(failed))?;
        *written = change;
        Ok(())
    }

    /// Why this file cannot be used.
    pub(super) fn error(&self, problem: impl fmt::Display) -> StateError {
        StateError {
            path: self.path.clone(),
            problem: problem.to_string(),
        }
    }
}

fn lock(path: &Path) -> Result<File, TryLockError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(TryLockError::Error)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = private().truncate(false).open(name);
    let lock = lock.map_err(TryLockError::Error)?;
    lock.try_lock()?;
    Ok(lock)
}

/// How to open a file that only its owner may read: a signed authorization is worth money.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    // One that a crash left behind may have other permissions.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private().create_new(true).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        // The new name must survive a crash as well.
        Some(folder) if cfg!(unix) && !folder.as_os_str().is_empty() => {
            File::open(folder)?.sync_all()
        }
        _ => Ok(()),
    }
}

fn save(key: &Key, payment: &Payment) -> SavedPayment {
    SavedPayment {
        purchase: key.0.iter().map(|byte| format!("{byte:02x}")).collect(),
        x402_version: payment.version.number(),
        header: payment.value.clone(),
        standing: payment.standing,
        open: payment.open.clone(),
    }
}

fn read(text: &[u8]) -> Result<Vec<(Key, Payment)>, String> {
    let saved: Saved = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if saved.version != VERSION {
        return Err(format!("version {} is not read here", saved.version));
    }
    saved.payments.into_iter().map(restore).collect()
}

fn restore(saved: SavedPayment) -> Result<(Key, Payment), String> {
    let key = key(&saved.purchase).ok_or("a purchase is not 64 hexadecimal digits")?;
    let version = Version::from_number(saved.x402_version).ok_or("an unknown x402Version")?;
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    if !saved.header.bytes().all(is_base64) {
        return Err("a header is not base64".to_owned());
    }
    let payment = Payment {
        version,
        value: saved.header,
        standing: saved.standing,
        open: saved.open,
    };
    Ok((key, payment))
}

fn key(text: &str) -> Option<Key> {
    // The same form as a payment's identity.
    let id: quittance_core::PaymentId = text.parse().ok()?;
    Some(Key(*id.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("purchases.json");
        for text in [
            "",
            "{}",
            r#"{"version":2,"payments":[]}"#,
            r#"{"version":1,"payments":[{}]}"#,
        ] {
            fs::write(&path, text).unwrap();
            assert!(StateFile::open(&path).is_err(), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn an_older_state_is_not_written_over_a_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("purchases.json");
        let (file, _) = StateFile::open(&path).unwrap();
        file.write(2, &[]).unwrap();
        let newest = fs::read(&path).unwrap();
        fs::write(&path, "newest").unwrap();
        file.write(1, &[]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newest");
        file.write(3, &[]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), newest);
    }

    #[test]
    fn one_buyer_has_a_file_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/purchases.json");
        let first = StateFile::open(&path).unwrap();
        let second = StateFile::open(&path).unwrap_err();
        assert!(second.to_string().contains("another buyer"), "{second}");
        drop(first);
        assert!(StateFile::open(&path).is_ok());
    }
}
