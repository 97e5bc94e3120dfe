//! Open payments in a file, for buyers that do not live long: a signed authorization that nobody remembers is paid twice.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use quittance_core::Version;
use serde::{Deserialize, Serialize};

use crate::error::Open;
use crate::purchases::{Asked, Key, Payment, Signed, Standing};

/// The version that is written. Version 1, which had less in it, is read as well.
const VERSION: u64 = 2;

/// How many symbolic links are followed to the file: as many as Linux follows.
const LINKS_MAX: usize = 40;

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
pub(crate) struct StateFile {
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
    /// The request; since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked: Option<String>,
    x402_version: u64,
    /// Either this or the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    /// What was signed, where the payment has run out and is only kept to be looked up; since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    standing: Standing,
    open: Open,
}

impl StateFile {
    /// Takes the file, which need not exist, and reads the payments in it.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<(Key, Payment)>), StateError> {
        let error = |problem: String| StateError {
            path: path.to_owned(),
            problem,
        };
        // Two names of one file are one file: the lock and the file stand where the last link points to.
        let path = &resolve(path).map_err(|failed| error(failed.to_string()))?;
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
    pub(crate) fn write(&self, change: u64, payments: &[(Key, Payment)]) -> Result<(), StateError> {
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
        serde_json::to_vec(&saved)
            .map_err(io::Error::from)
            .and_then(|text| replace(&self.path, &text))
            .map_err(|failed| self.error(failed))?;
        *written = change;
        Ok(())
    }

    /// Why this file cannot be used.
    pub(crate) fn error(&self, problem: impl fmt::Display) -> StateError {
        StateError {
            path: self.path.clone(),
            problem: problem.to_string(),
        }
    }
}

/// Where a file really is, or will be: its folder, made if need be, without links, and its name, links followed. Always an
/// absolute path.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(target) = fs::read_link(&path) else {
            let folder = folder_of(&path);
            make_folder(&folder)?;
            let name = path.file_name();
            let name = name.ok_or_else(|| io::Error::other("it is not the name of a file"))?;
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

/// Makes a folder and those above it, so that all of them survive a crash.
fn make_folder(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    fs::create_dir_all(folder)?;
    for made in missing {
        sync_folder(&folder_of(made))?;
    }
    Ok(())
}

/// Writes a folder's own entries to the disk: a file's new name is one of them.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        false => Ok(()),
    }
}

fn lock(path: &Path) -> Result<File, TryLockError> {
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
    sync_folder(&folder_of(path))
}

fn save(key: &Key, payment: &Payment) -> SavedPayment {
    let (header, payload) = match payment.signed.clone() {
        Signed::Header(value) => (Some(value), None),
        Signed::Payload(text) => (None, Some(text)),
    };
    SavedPayment {
        purchase: hexadecimal(&key.0),
        asked: payment.asked.map(|asked| hexadecimal(&asked.0)),
        x402_version: payment.version.number(),
        header,
        payload,
        standing: payment.standing,
        open: payment.open.clone(),
    }
}

fn hexadecimal(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(text: &[u8]) -> Result<Vec<(Key, Payment)>, String> {
    let saved: Saved = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if !(1..=VERSION).contains(&saved.version) {
        return Err(format!("unsupported version {} of the file", saved.version));
    }
    saved.payments.into_iter().map(restore).collect()
}

fn restore(saved: SavedPayment) -> Result<(Key, Payment), String> {
    let key = hash(&saved.purchase).ok_or("a purchase is not 64 hexadecimal digits")?;
    let asked = saved.asked.map(|text| hash(&text).map(Asked));
    if asked == Some(None) {
        return Err("a request is not 64 hexadecimal digits".to_owned());
    }
    let payment = Payment {
        asked: asked.flatten(),
        version: Version::from_number(saved.x402_version).ok_or("an unknown x402Version")?,
        signed: match (saved.header, saved.payload) {
            (Some(value), None) if is_base64(&value) => Signed::Header(value),
            (Some(_), None) => return Err("a header is not base64".to_owned()),
            (None, Some(text)) => Signed::Payload(text),
            _ => return Err("a payment has neither or both of header and payload".to_owned()),
        },
        standing: saved.standing,
        open: saved.open,
        was_used: false,
    };
    Ok((Key(key), payment))
}

fn is_base64(text: &str) -> bool {
    let belongs = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    text.bytes().all(belongs)
}

fn hash(text: &str) -> Option<[u8; 32]> {
    // The same form as a payment's identity.
    let id: quittance_core::PaymentId = text.parse().ok()?;
    Some(*id.as_bytes())
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
            r#"{"version":3,"payments":[]}"#,
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

    /// What a refusal once was believed to prove is not believed any more.
    #[test]
    fn a_file_of_version_1_is_read_and_its_refused_payments_are_in_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("purchases.json");
        let open = r#"{"id":"a","network":"a:1","asset":"x","payTo":"y","amount":"1","expires":160,"transaction":null}"#;
        let text = format!(
            r#"{{"version":1,"payments":[{{"purchase":"{}","x402Version":2,"header":"e30=","standing":"refused","open":{open}}}]}}"#,
            "ab".repeat(32)
        );
        fs::write(&path, text).unwrap();
        let (file, payments) = StateFile::open(&path).unwrap();
        let [(key, payment)] = payments.as_slice() else {
            panic!("{payments:?}");
        };
        assert_eq!(
            (payment.standing, payment.asked),
            (Standing::Doubtful, None)
        );
        file.write(1, &payments).unwrap();
        drop(file);
        let (_, again) = StateFile::open(&path).unwrap();
        assert_eq!(again, [(*key, payment.clone())]);
    }

    #[test]
    fn a_payment_of_which_only_the_facts_are_left_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("purchases.json");
        let (file, _) = StateFile::open(&path).unwrap();
        let open = serde_json::json!({ "id": "a", "network": "a:1", "asset": "x", "payTo": "y", "amount": "1",
            "expires": 160, "transaction": "0x1", "origin": "http://a.example", "symbol": "USDC", "decimals": 6 });
        let payment = Payment {
            asked: Some(Asked([2; 32])),
            version: Version::V1,
            signed: Signed::Payload("{}".to_owned()),
            standing: Standing::Doubtful,
            open: serde_json::from_value(open).unwrap(),
            was_used: false,
        };
        let payments = [(Key([1; 32]), payment)];
        file.write(1, &payments).unwrap();
        drop(file);
        assert_eq!(StateFile::open(&path).unwrap().1, payments);
    }

    /// Two buyers with one file, over a link, signed twice; and the first change put a file in the link's place.
    #[cfg(unix)]
    #[test]
    fn a_file_has_one_lock_whatever_links_lead_to_it_and_a_link_stays_one() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/purchases.json");
        let (link, over) = (
            folder.path().join("link.json"),
            folder.path().join("over.json"),
        );
        symlink("data/purchases.json", &link).unwrap();
        symlink("link.json", &over).unwrap();
        // The link leads to a file that is not there yet.
        let (file, _) = StateFile::open(&over).unwrap();
        file.write(1, &[]).unwrap();
        for name in [&path, &link, &over] {
            let second = StateFile::open(name).unwrap_err();
            assert!(second.to_string().contains("another buyer"), "{second}");
        }
        for link in [&link, &over] {
            assert!(fs::symlink_metadata(link).unwrap().is_symlink());
        }
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        symlink("round.json", folder.path().join("round.json")).unwrap();
        assert!(StateFile::open(&folder.path().join("round.json")).is_err());
    }

    /// A file in the working folder has no folder in its name, and that folder was not synced.
    #[test]
    fn where_a_file_is_has_always_a_folder() {
        for (path, folder) in [
            ("a.json", "."),
            ("./a.json", "."),
            ("b/a.json", "b"),
            ("/a.json", "/"),
        ] {
            assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
        }
        assert!(resolve(Path::new("Cargo.toml")).unwrap().is_absolute());
    }
}
