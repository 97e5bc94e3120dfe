//! The SQLite journal holds what every journal must hold, and what only a file can.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::path::PathBuf;
use std::sync::Mutex;

use async_trait::async_trait;
use quittance_engine::SqliteJournal;
use quittance_tests::conformance::journal::JournalFixture;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

/// The folder that the journal is in, and those that it was in before.
struct Sqlite(Mutex<Vec<TempDir>>);

impl Sqlite {
    fn file(&self, name: &str) -> PathBuf {
        let folders = self.0.lock().unwrap();
        folders.last().unwrap().path().join(name)
    }

    fn path(&self) -> PathBuf {
        self.file("journal.db")
    }
}

#[async_trait]
impl JournalFixture for Sqlite {
    type Journal = SqliteJournal;

    async fn new() -> Self {
        Self(Mutex::new(vec![tempfile::tempdir().unwrap()]))
    }

    async fn open(&self) -> SqliteJournal {
        quittance_tests::open_journal(&self.path()).await
    }

    /// What a killed process leaves: the files as they are. They are copied away while the journal is open, and used
    /// where they were copied to: a journal that is dropped goes on closing its files in good order for a while.
    async fn crash(&self, journal: SqliteJournal) {
        let next = tempfile::tempdir().unwrap();
        for name in ["journal.db", "journal.db-wal"] {
            if let Ok(bytes) = std::fs::read(self.file(name)) {
                std::fs::write(next.path().join(name), bytes).unwrap();
            }
        }
        self.0.lock().unwrap().push(next);
        drop(journal);
    }
}

quittance_tests::journal_conformance!(Sqlite);

#[tokio::test]
async fn a_second_process_does_not_get_the_journal() {
    let sqlite = Sqlite::new().await;
    let first = sqlite.open().await;
    let second = SqliteJournal::open(sqlite.path()).await;
    assert!(second.unwrap_err().0.contains("another process"));
    drop(first);
    sqlite.open().await;
}

#[tokio::test]
async fn a_file_that_is_no_journal_is_refused() {
    let sqlite = Sqlite::new().await;
    let path = sqlite.path();
    std::fs::write(
        &path,
        "not a database, but long enough to be looked at: ".repeat(100),
    )
    .unwrap();
    assert!(SqliteJournal::open(&path).await.is_err());
    assert!(SqliteJournal::open("/nowhere/journal.db").await.is_err());
}

#[tokio::test]
async fn a_journal_of_a_newer_format_is_refused() {
    let sqlite = Sqlite::new().await;
    drop(sqlite.open().await);
    drop(sqlite.open().await);
    let path = sqlite.path();
    let mut file = SqliteConnectOptions::new()
        .filename(&path)
        .connect()
        .await
        .unwrap();
    sqlx::raw_sql("PRAGMA user_version = 99")
        .execute(&mut file)
        .await
        .unwrap();
    file.close().await.unwrap();
    assert!(
        SqliteJournal::open(&path)
            .await
            .unwrap_err()
            .0
            .contains("format 99")
    );
}
