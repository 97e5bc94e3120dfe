//! The SQLite journal holds what every journal must hold, and what only a file can.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use async_trait::async_trait;
use quittance_engine::SqliteJournal;
use quittance_tests::conformance::journal::JournalFixture;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

struct Sqlite(TempDir);

#[async_trait]
impl JournalFixture for Sqlite {
    type Journal = SqliteJournal;

    async fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open(&self) -> SqliteJournal {
        quittance_tests::open_journal(&self.0.path().join("journal.db")).await
    }

    /// What a killed process leaves: the files as they are. They are copied away while the journal is open, so that
    /// closing it in good order cannot help.
    async fn crash(&self, journal: SqliteJournal) {
        let files = ["journal.db", "journal.db-wal"];
        let left: Vec<_> = files
            .map(|name| (name, std::fs::read(self.0.path().join(name)).ok()))
            .into();
        drop(journal);
        for (name, bytes) in left {
            let path = self.0.path().join(name);
            match bytes {
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
                None => drop(std::fs::remove_file(path)),
            }
        }
        drop(std::fs::remove_file(self.0.path().join("journal.db-shm")));
    }
}

quittance_tests::journal_conformance!(Sqlite);

#[tokio::test]
async fn a_second_process_does_not_get_the_journal() {
    let sqlite = Sqlite::new().await;
    let first = sqlite.open().await;
    let second = SqliteJournal::open(sqlite.0.path().join("journal.db")).await;
    assert!(second.unwrap_err().0.contains("another process"));
    drop(first);
    sqlite.open().await;
}

#[tokio::test]
async fn a_file_that_is_no_journal_is_refused() {
    let sqlite = Sqlite::new().await;
    let path = sqlite.0.path().join("journal.db");
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
    let path = sqlite.0.path().join("journal.db");
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
