//! The reading side: some connections, each used by one read at a time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::errors::SqlError;
use super::store::open;
use crate::error::JournalError;

/// How many reads run at once. A read takes microseconds; four keep two cores busy.
const READERS: usize = 4;

/// The connections that read.
#[derive(Clone)]
pub(super) struct Readers {
    path: Arc<Path>,
    idle: Arc<Mutex<Vec<Connection>>>,
    places: Arc<Semaphore>,
}

impl Readers {
    /// Opens the file for reading.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(super) async fn open(path: PathBuf) -> Result<Self, SqlError> {
        let readers = Self {
            path: path.into(),
            idle: Arc::default(),
            places: Arc::new(Semaphore::new(READERS)),
        };
        readers.read(|_| Ok(())).await?;
        Ok(readers)
    }

    /// Reads, where a thread may block. A connection that failed is closed: the state of its
    /// transaction is unknown.
    ///
    /// # Errors
    /// What `read` fails with, and if the file cannot be opened.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, SqlError> + Send + 'static,
    ) -> Result<T, SqlError> {
        let closed = |_| SqlError::Failed(JournalError::Closed);
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(closed)?;
        let readers = self.clone();
        let done = spawn_blocking(move || {
            let connection = readers.connection()?;
            let found = read(&connection);
            let is_usable = match &found {
                Ok(_) => true,
                Err(error) => error.concerns_one_entry(),
            };
            if is_usable {
                readers.locked().push(connection);
            }
            drop(place);
            found
        });
        let panicked = |error| SqlError::Failed(JournalError::unavailable(error));
        done.await.map_err(panicked)?
    }

    fn connection(&self) -> Result<Connection, SqlError> {
        match self.locked().pop() {
            Some(idle) => Ok(idle),
            None => open(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Each change is one push or pop, so the list is complete after a panic.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
