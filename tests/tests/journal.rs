//! The SQLite journal holds what every journal must hold, and what only a file can.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;
use futures_util::future::join;
use quittance_core::{Amount, LaneId, PaymentId, Reason, Timestamp, TransactionId};
use quittance_engine::{Claim, Claimed, Journal, JournalError, Outcome, SqliteJournal, State};
use quittance_tests::conformance::journal::JournalFixture;
use quittance_tests::until;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
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
            if let Ok(bytes) = fs::read(self.file(name)) {
                fs::write(next.path().join(name), bytes).unwrap();
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
    assert!(second.unwrap_err().to_string().contains("another process"));
    drop(first);
    sqlite.open().await;
}

#[tokio::test]
async fn a_file_that_is_no_journal_is_refused() {
    let sqlite = Sqlite::new().await;
    let path = sqlite.path();
    fs::write(
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
            .to_string()
            .contains("format 99")
    );
}

const NOW: Timestamp = Timestamp::from_secs(1_000);

fn claim(name: &str) -> Claim {
    Claim {
        id: PaymentId::from_parts(&[name.as_bytes()]),
        network: "test:1".to_owned(),
        scheme: "exact".to_owned(),
        payer: "payer".to_owned(),
        pay_to: "seller".to_owned(),
        asset: "coin".to_owned(),
        amount: Amount::from(7),
        expires: NOW.plus_secs(60),
        request: "{}".to_owned(),
        decoded_at: NOW,
    }
}

async fn wins(journal: &SqliteJournal, name: &str) -> bool {
    let claimed = journal.claim(&claim(name), NOW).await;
    matches!(claimed, Ok(Claimed::Won { .. }))
}

/// The file as any SQLite program opens it.
async fn sqlite3(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path);
    options.create_if_missing(true).connect().await.unwrap()
}

async fn execute(path: &Path, sql: &'static str) {
    let mut file = sqlite3(path).await;
    sqlx::raw_sql(sql).execute(&mut file).await.unwrap();
    file.close().await.unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A second process over a symbolic link had a lock of its own, and served on the same journal with the same signer.
#[tokio::test]
async fn a_journal_has_one_lock_however_its_path_is_spelled() {
    let sqlite = Sqlite::new().await;
    let first = sqlite.open().await;
    let (link, folder) = (sqlite.file("link.db"), sqlite.file("folder"));
    symlink(sqlite.path(), &link).unwrap();
    symlink(sqlite.path().parent().unwrap(), &folder).unwrap();
    for other in [link.clone(), folder.join("journal.db")] {
        let second = SqliteJournal::open(other).await.unwrap_err();
        assert!(second.to_string().contains("another process"), "{second}");
    }
    drop(first);
    let first = quittance_tests::open_journal(&link).await;
    let second = SqliteJournal::open(sqlite.path()).await.unwrap_err();
    assert!(second.to_string().contains("another process"), "{second}");
    drop(first);
}

/// SQLite finds its log by the file's name: under another name a journal is missing what was written last.
#[tokio::test]
async fn a_journal_with_two_names_is_refused() {
    let sqlite = Sqlite::new().await;
    drop(sqlite.open().await);
    drop(sqlite.open().await);
    fs::hard_link(sqlite.path(), sqlite.file("other.db")).unwrap();
    let refused = SqliteJournal::open(sqlite.file("other.db")).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("hard link"), "{refused}");
}

/// Each claim has a signed authorization in it, which is worth money until it is used.
#[tokio::test]
async fn a_new_journal_is_for_its_owner_alone_and_an_open_one_is_reported() {
    let sqlite = Sqlite::new().await;
    let journal = sqlite.open().await;
    assert!(wins(&journal, "a").await);
    for name in [
        "journal.db",
        "journal.db-wal",
        "journal.db-shm",
        "journal.db.lock",
    ] {
        assert_eq!(mode(&sqlite.file(name)), 0o600, "{name}");
    }
    let found = SqliteJournal::inspect(sqlite.path()).await.unwrap();
    assert_eq!(found, Vec::<String>::new());
    fs::set_permissions(sqlite.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let found = SqliteJournal::inspect(sqlite.path()).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("chmod 600"), "{found:?}");
    assert!(wins(&journal, "b").await);
}

/// Many programs leave SQLite's `user_version` at 0, and many begin with 1.
#[tokio::test]
async fn a_database_of_another_program_is_refused_and_left_alone() {
    for (name, sql) in [
        ("zero", "CREATE TABLE notes (text TEXT)"),
        (
            "one",
            "CREATE TABLE notes (text TEXT); PRAGMA user_version = 1",
        ),
    ] {
        let sqlite = Sqlite::new().await;
        execute(&sqlite.path(), sql).await;
        let refused = SqliteJournal::open(sqlite.path()).await.unwrap_err();
        assert!(
            refused.to_string().contains("another program"),
            "{name}: {refused}"
        );
        let mut file = sqlite3(&sqlite.path()).await;
        let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_schema")
            .fetch_all(&mut file)
            .await
            .unwrap();
        assert_eq!(tables, ["notes"], "{name}");
    }
}

/// SQLite goes on writing into a file that has no name any more, and says that all is well. After the next start what
/// was settled is forgotten.
#[tokio::test]
async fn a_journal_whose_files_are_taken_away_or_cut_is_not_used_any_more() {
    type Harm = fn(&Sqlite);
    let harms: [(&str, Harm); 5] = [
        ("was removed", |sqlite| {
            fs::remove_file(sqlite.path()).unwrap()
        }),
        ("was replaced", |sqlite| {
            fs::copy(sqlite.path(), sqlite.file("copy")).unwrap();
            fs::rename(sqlite.file("copy"), sqlite.path()).unwrap();
        }),
        ("was truncated", |sqlite| cut(&sqlite.path())),
        ("-wal was removed", |sqlite| {
            fs::remove_file(sqlite.file("journal.db-wal")).unwrap()
        }),
        ("-wal was truncated", |sqlite| {
            cut(&sqlite.file("journal.db-wal"))
        }),
    ];
    for (word, harm) in harms {
        let sqlite = Sqlite::new().await;
        let journal = sqlite.open().await;
        assert!(wins(&journal, "a").await, "{word}");
        harm(&sqlite);
        // Before the very next write, and not only at the next look.
        let refused = journal.claim(&claim("b"), NOW).await.unwrap_err();
        assert!(refused.to_string().contains(word), "{word}: {refused}");
        assert!(journal.problem().unwrap().contains(word), "{word}");
        // What another file says of a settlement is not what happened to it.
        assert!(journal.settlement(&claim("a").id).await.is_err(), "{word}");
        assert!(journal.open("test:1").await.is_err(), "{word}");
    }
}

fn cut(path: &Path) {
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(0)
        .unwrap();
}

/// Nobody has to ask: the next /verify must know.
#[tokio::test]
async fn a_journal_that_is_taken_away_is_noticed_without_a_write_and_used_again_when_it_is_back() {
    let sqlite = Sqlite::new().await;
    let journal = sqlite.open().await;
    assert!(wins(&journal, "a").await);
    fs::rename(sqlite.path(), sqlite.file("away")).unwrap();
    until("it is noticed", || async { journal.problem().is_some() }).await;
    assert!(!wins(&journal, "b").await);
    fs::rename(sqlite.file("away"), sqlite.path()).unwrap();
    until("it is used again", || async { journal.problem().is_none() }).await;
    assert!(wins(&journal, "b").await);
    assert!(journal.settlement(&claim("a").id).await.unwrap().is_some());
}

/// A lock file that was cleaned up let a second process in.
#[tokio::test]
async fn a_lock_that_is_removed_is_taken_again() {
    let sqlite = Sqlite::new().await;
    let journal = sqlite.open().await;
    fs::remove_file(sqlite.file("journal.db.lock")).unwrap();
    assert!(wins(&journal, "a").await);
    let second = SqliteJournal::open(sqlite.path()).await.unwrap_err();
    assert!(second.to_string().contains("another process"), "{second}");
}

/// Garbage in the middle of the file.
#[tokio::test]
async fn damage_is_found_by_whoever_looks_and_ends_the_journals_use() {
    let sqlite = Sqlite::new().await;
    let journal = sqlite.open().await;
    let claims: Vec<String> = (0..200).map(|at| format!("claim {at}")).collect();
    for name in &claims {
        assert!(wins(&journal, name).await);
    }
    drop(journal);
    // All of it in the one file, and nothing in memory.
    drop(sqlite.open().await);
    execute(&sqlite.path(), "PRAGMA wal_checkpoint(TRUNCATE)").await;
    let journal = sqlite.open().await;
    let mut bytes = fs::read(sqlite.path()).unwrap();
    bytes[4096..8 * 4096].fill(0xa5);
    fs::write(sqlite.path(), bytes).unwrap();
    let found = SqliteJournal::inspect(sqlite.path()).await.unwrap();
    assert!(found[0].contains("is damaged"), "{found:?}");
    assert!(journal.open("test:1").await.is_err());
    assert!(journal.problem().unwrap().contains("damaged"));
    assert!(!wins(&journal, "another").await);
}

/// One row that another program spoilt made every write beside it fail, and every start.
#[tokio::test]
async fn an_entry_that_cannot_be_read_spoils_no_other() {
    let sqlite = Sqlite::new().await;
    let journal = sqlite.open().await;
    assert!(wins(&journal, "a").await && wins(&journal, "b").await);
    drop(journal);
    drop(sqlite.open().await);
    execute(
        &sqlite.path(),
        "UPDATE settlements SET amount = 'much' WHERE rowid = 1;
         INSERT INTO settlements (id, network, scheme, payer, pay_to, asset, amount, expires, request, decoded_at,
             attempt, failures, state, claimed_at)
         VALUES (x'00', 'test:1', '', '', '', '', '1', 0, '', 0, 1, 0, 'open', 0)",
    )
    .await;
    let journal = sqlite.open().await;
    let (a, b, c) = (claim("a"), claim("b"), claim("c"));
    let unreadable = journal.settlement(&a.id).await;
    assert!(
        matches!(unreadable, Err(JournalError::Unreadable(_))),
        "{unreadable:?}"
    );
    // The two writes travel together.
    let (spoilt, good) = join(journal.claim(&a, NOW), journal.claim(&c, NOW)).await;
    assert!(
        matches!(spoilt, Err(JournalError::Unreadable(_))),
        "{spoilt:?}"
    );
    assert_eq!(good, Ok(Claimed::Won { attempt: 1 }));
    assert_eq!(journal.problem(), None);
    assert_eq!(journal.settlement(&b.id).await.unwrap().unwrap().claim, b);
    let mut open = journal.open("test:1").await.unwrap();
    open.sort();
    let mut expected = vec![a.id, b.id, c.id];
    expected.sort();
    assert_eq!(open, expected);
    let released = Outcome::Released {
        fault: "no gas".to_owned(),
    };
    assert_eq!(journal.conclude(&a.id, 1, &released, NOW).await, Ok(true));
}

/// The commands of docs/operating.md, as they stand there.
#[tokio::test]
async fn old_rows_can_be_moved_away_as_documented() {
    let sqlite = Sqlite::new().await;
    let journal = sqlite.open().await;
    for name in ["old", "open", "young"] {
        assert!(wins(&journal, name).await);
        let transaction = quittance_core::Transaction {
            id: TransactionId::new(name),
            lane: LaneId::new("signer"),
            sequence: 1,
            bytes: b"bytes".as_slice().into(),
        };
        let id = claim(name).id;
        journal
            .record("test:1", &transaction, &[id], NOW)
            .await
            .unwrap();
        let outcome = Outcome::Settled {
            transaction: transaction.id,
            amount: Amount::from(7),
        };
        if name != "open" {
            assert_eq!(journal.conclude(&id, 1, &outcome, NOW).await, Ok(true));
        }
    }
    drop(journal);
    drop(sqlite.open().await);
    // The young one ended a moment ago.
    let young = "UPDATE settlements SET concluded_at = unixepoch() WHERE transaction_id = 'young';
        UPDATE transactions SET signed_at = unixepoch() WHERE id = 'young'";
    execute(&sqlite.path(), young).await;
    let docs = include_str!("../../docs/operating.md");
    let sql = docs
        .split("```sql\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let archive = sqlite.file("archive.db");
    let sql = sql.replace("archive.db", archive.to_str().unwrap());
    for _ in 0..2 {
        let mut file = sqlite3(&sqlite.path()).await;
        let sql = sqlx::AssertSqlSafe(sql.clone());
        sqlx::raw_sql(sql).execute(&mut file).await.unwrap();
        file.close().await.unwrap();
    }
    let journal = sqlite.open().await;
    assert_eq!(journal.settlement(&claim("old").id).await, Ok(None));
    for kept in ["open", "young"] {
        let known = journal.settlement(&claim(kept).id).await.unwrap().unwrap();
        assert_eq!(known.transactions.len(), 1, "{kept}");
    }
    let mut archived = sqlite3(&archive).await;
    let rows: Vec<String> = sqlx::query_scalar("SELECT transaction_id FROM settlements")
        .fetch_all(&mut archived)
        .await
        .unwrap();
    assert_eq!(rows, ["old"]);
    assert_eq!(SqliteJournal::inspect(sqlite.path()).await, Ok(vec![]));
}

/// A file as the first version made it.
async fn file_of_format_1(path: &Path) {
    let mut file = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .connect()
        .await
        .unwrap();
    sqlx::raw_sql(include_str!("../fixtures/journal-format-1.sql"))
        .execute(&mut file)
        .await
        .unwrap();
    file.close().await.unwrap();
}

/// The tables' columns and the indexes, by name.
async fn shape(path: &Path) -> Vec<String> {
    let mut file = SqliteConnectOptions::new()
        .filename(path)
        .connect()
        .await
        .unwrap();
    let shape = sqlx::query_scalar(
        "SELECT m.type || ' ' || m.name || ' ' || coalesce(c.cid || ' ' || c.name || ' ' || c.type || ' ' || c.\"notnull\", m.sql)
         FROM sqlite_schema m LEFT JOIN pragma_table_info(m.name) c ON m.type = 'table' WHERE m.sql IS NOT NULL ORDER BY 1",
    )
    .fetch_all(&mut file)
    .await
    .unwrap();
    file.close().await.unwrap();
    shape
}

/// Nothing that an older program wrote is lost, and what it wrote goes on.
#[tokio::test]
async fn a_journal_of_format_1_is_brought_to_the_newest_format() {
    let sqlite = Sqlite::new().await;
    file_of_format_1(&sqlite.path()).await;
    for _ in 0..2 {
        drop(sqlite.open().await);
    }
    let journal = sqlite.open().await;
    let id = |byte: u8| PaymentId::from_bytes([byte; 32]);
    let mut found = Vec::new();
    for byte in 1..=6 {
        let settlement = journal.settlement(&id(byte)).await.unwrap().unwrap();
        assert_eq!(settlement.claim.payer, format!("payer {byte}"));
        assert_eq!(settlement.claim.amount, Amount::from(7));
        found.push(settlement);
    }
    let states: Vec<State> = found.iter().map(|known| known.state.clone()).collect();
    let settled = |transaction: &str| {
        State::Concluded(Outcome::Settled {
            transaction: TransactionId::new(transaction),
            amount: Amount::from(7),
        })
    };
    let failed = State::Concluded(Outcome::Failed {
        reason: Reason::INVALID_TRANSACTION_STATE,
        detail: "it's odd".to_owned(),
        transaction: Some(TransactionId::new("0x5")),
    });
    let fault = "no gas".to_owned();
    let released = State::Concluded(Outcome::Released { fault });
    let expected = [
        State::Open,
        settled("0x2"),
        settled("0x3"),
        settled("0x4b"),
        failed,
        released,
    ];
    assert_eq!(states, expected);
    let transactions: Vec<usize> = found.iter().map(|known| known.transactions.len()).collect();
    assert_eq!(transactions, [1, 1, 1, 2, 1, 0]);
    assert_eq!(found[5].withdrawn.len(), 1);
    assert_eq!(
        found[2].success_reported_at,
        Some(Timestamp::from_secs(100_006))
    );
    // What settled a day before the newest is final; the rest is watched.
    assert_eq!(found[1].final_at, Some(Timestamp::from_secs(10_005)));
    let watched = journal.not_final("test:1").await.unwrap();
    assert_eq!(watched, [id(3), id(4)]);
    assert_eq!(journal.open("test:1").await.unwrap(), [id(1)]);
    let next = journal
        .next_sequence("test:1", &LaneId::new("signer"))
        .await;
    assert_eq!(next, Ok(6));
    let now = Timestamp::from_secs(200_000);
    assert_eq!(journal.report_success(&id(3), 1, now).await, Ok(false));
    assert_eq!(journal.report_success(&id(4), 2, now).await, Ok(true));
    drop(journal);

    let fresh = Sqlite::new().await;
    drop(fresh.open().await);
    drop((sqlite.open().await, fresh.open().await));
    assert_eq!(shape(&sqlite.path()).await, shape(&fresh.path()).await);
}

/// A process that dies in the middle, or a file that cannot be migrated, leaves what was there.
#[tokio::test]
async fn a_journal_that_cannot_be_brought_to_the_newest_format_stays_as_it_was() {
    let sqlite = Sqlite::new().await;
    let path = sqlite.path();
    file_of_format_1(&path).await;
    let in_the_way = "CREATE INDEX settlements_not_final ON transactions (place)";
    let mut file = SqliteConnectOptions::new()
        .filename(&path)
        .connect()
        .await
        .unwrap();
    sqlx::raw_sql(in_the_way).execute(&mut file).await.unwrap();
    file.close().await.unwrap();
    let before = shape(&path).await;
    assert!(SqliteJournal::open(&path).await.is_err());
    assert_eq!(shape(&path).await, before);
}
