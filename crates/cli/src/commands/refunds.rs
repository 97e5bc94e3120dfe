//! The signed refunds whose end is not known, one file for each settlement.
//!
//! A signed refund is money. If its answer was lost, signing another one could refund twice. So it
//! is on the disk before the facilitator sees it, and the same command sends it again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use quittance_core::{PaymentId, PaymentRequest, Timestamp};
use serde::{Deserialize, Serialize};

use super::pay::data_folder;

/// A refund that was signed and is not known to be over.
pub(super) struct KeptRefund {
    /// The request to the facilitator, without the settlement that it refunds.
    pub(super) request: PaymentRequest,
    /// When the refund expires.
    pub(super) expires: Timestamp,
}

/// The content of a file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Content {
    /// The JSON of the request.
    request: String,
    /// In seconds since the Unix epoch.
    expires: u64,
}

/// Why a file of kept refunds cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum RefundsError {
    #[error("there is no data folder: set HOME, or name a folder for refunds with --state FOLDER")]
    NoFolder,
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path}: not a refund that this program has kept: {problem}. Look up its outcome before you remove it",
        path = path.display()
    )]
    Unreadable { path: PathBuf, problem: String },
}

/// The file of a settlement's refund.
pub(super) struct RefundFile {
    path: PathBuf,
}

impl RefundFile {
    /// The file for this settlement in `folder`, or in the data folder.
    pub(super) fn new(
        folder: Option<&PathBuf>,
        settlement: PaymentId,
    ) -> Result<Self, RefundsError> {
        let folder = match folder {
            Some(folder) => folder.clone(),
            None => data_folder()
                .ok_or(RefundsError::NoFolder)?
                .join("quittance/refunds"),
        };
        let path = folder.join(format!("{settlement}.json"));
        Ok(Self { path })
    }

    /// The kept refund, if there is one.
    pub(super) fn load(&self) -> Result<Option<KeptRefund>, RefundsError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io(source)),
        };
        let unreadable = |problem: String| RefundsError::Unreadable {
            path: self.path.clone(),
            problem,
        };
        let content: Content =
            serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        let request = PaymentRequest::decode(content.request.as_bytes());
        Ok(Some(KeptRefund {
            request: request.map_err(|error| unreadable(error.to_string()))?,
            expires: Timestamp::from_secs(content.expires),
        }))
    }

    /// Keeps a refund. It is on the disk when this returns, and only the file's owner can read it.
    /// Fails if there is one already: another process has signed it meanwhile.
    pub(super) fn keep(&self, refund: &KeptRefund) -> Result<(), RefundsError> {
        let content = Content {
            request: refund.request.text().to_owned(),
            expires: refund.expires.secs(),
        };
        self.write(&content).map_err(|source| self.io(source))
    }

    fn write(&self, content: &Content) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Complete before it has its name: a crash leaves the whole file or none.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        file.as_file().sync_all()?;
        file.persist_noclobber(&self.path)?;
        sync_folder(folder)
    }

    /// Forgets the refund: it is over. Returns whether there was one.
    pub(super) fn forget(&self) -> Result<bool, RefundsError> {
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.io(source)),
        }
    }

    fn io(&self, source: io::Error) -> RefundsError {
        RefundsError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// Syncs the entries of a folder, such as the new name of a file.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use quittance_testing::scripted::request;

    use super::*;

    fn kept(number: u64) -> KeptRefund {
        KeptRefund {
            request: request(number),
            expires: Timestamp::from_secs(number),
        }
    }

    #[test]
    fn a_kept_refund_is_read_again_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap().path().join("new/refunds");
        let id = PaymentId::from_parts(&[b"a"]);
        let file = RefundFile::new(Some(&folder), id).unwrap();
        assert!(file.load().unwrap().is_none() && !file.forget().unwrap());
        file.keep(&kept(1)).unwrap();
        assert!(file.keep(&kept(2)).is_err());
        let found = file.load().unwrap().unwrap();
        assert_eq!(found.request.text(), kept(1).request.text());
        assert_eq!(found.expires, Timestamp::from_secs(1));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&file.path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        // Another settlement has another file.
        let other = RefundFile::new(Some(&folder), PaymentId::from_parts(&[b"b"])).unwrap();
        assert!(other.load().unwrap().is_none());
        assert!(file.forget().unwrap() && file.load().unwrap().is_none());
    }

    #[test]
    fn an_unreadable_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_owned();
        let file = RefundFile::new(Some(&folder), PaymentId::from_parts(&[b"a"])).unwrap();
        for text in ["", "{}", r#"{"request":"{}","expires":1}"#] {
            fs::write(&file.path, text).unwrap();
            let error = file.load().err().unwrap().to_string();
            assert!(error.contains(".json: not a refund"), "{error}");
        }
    }
}
