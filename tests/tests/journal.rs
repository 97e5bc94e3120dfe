//! The SQLite journal: the conformance suite, and what concerns its file.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join, join_all};
use proptest::prelude::*;
use quittance_core::{
    Amount, Fault, FaultKind, LaneId, PaymentId, PaymentInfo, Reason, SchemeReceipt, Timestamp,
    TransactionId,
};
use quittance_engine::{
    Claim, Claimed, Cursor, Ended, FileProblem, Filter, Journal, JournalError, Outcome,
    RefundProblem, Reported, SettlementStep, SqliteJournal, State, StateKind,
};
use quittance_tests::conformance::journal::JournalFixture;
use quittance_tests::until;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions, Connection, Row as _};
use tempfile::TempDir;

/// The folder of the journal, and its folders before each crash.
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

    async fn another(&self, journal: &SqliteJournal) -> SqliteJournal {
        journal.another_replica()
    }

    /// Leaves the files as a killed process would. They are copied while the journal is open, and
    /// the copies are used from then on: a dropped journal still closes its own files properly.
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
quittance_tests::replicas_conformance!(Sqlite);

#[tokio::test]
async fn a_second_process_cannot_open_the_journal() {
    let sqlite = Sqlite::new().await;
    let first = sqlite.open().await;
    let second = SqliteJournal::open(sqlite.path()).await.unwrap_err();
    assert!(matches!(second, JournalError::Locked { .. }), "{second}");
    drop(first);
    sqlite.open().await;
}

#[tokio::test]
async fn a_file_that_is_not_a_journal_is_refused() {
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
    let refused = SqliteJournal::open(&path).await.unwrap_err();
    let expected = JournalError::NewerFormat {
        found: 99,
        newest: 5,
    };
    assert_eq!(refused, expected);
}

const NOW: Timestamp = Timestamp::from_secs(1_000);

fn claim(name: &str) -> Claim {
    claim_on("test:1", name)
}

fn claim_on(network: &str, name: &str) -> Claim {
    let info = PaymentInfo {
        id: PaymentId::from_parts(&[name.as_bytes()]),
        payer: "payer".to_owned(),
        pay_to: "seller".to_owned(),
        asset: "coin".to_owned(),
        amount: Amount::from(7),
        expires: NOW.plus_secs(60),
    };
    Claim::new(network, "exact", &info, "{}".to_owned(), NOW)
}

fn no_gas() -> Outcome {
    Outcome::Released {
        fault: Fault::new(FaultKind::Busy, "no gas"),
    }
}

fn settled_by(transaction: &str, amount: u64) -> Outcome {
    Outcome::Settled {
        transaction: Some(TransactionId::new(transaction)),
        amount: Amount::from(amount),
        receipt: SchemeReceipt::default(),
    }
}

/// The claim of a refund of this amount.
fn refund_of(original: &Claim, name: &str, amount: u64) -> Claim {
    let mut refund = claim(name).refund_of(original.id);
    (refund.payer, refund.pay_to) = (original.pay_to.clone(), original.payer.clone());
    refund.amount = Amount::from(amount);
    refund
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

/// A second process that opened a symbolic link had its own lock. It used the same journal with the
/// same signer.
#[tokio::test]
async fn every_path_to_the_journal_has_the_same_lock() {
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

/// SQLite finds its log by the file's name: under another name the last writes are missing.
#[tokio::test]
async fn a_journal_with_a_hard_link_is_refused() {
    let sqlite = Sqlite::new().await;
    drop(sqlite.open().await);
    drop(sqlite.open().await);
    fs::hard_link(sqlite.path(), sqlite.file("other.db")).unwrap();
    let refused = SqliteJournal::open(sqlite.file("other.db")).await;
    let refused = refused.unwrap_err();
    let is_expected = matches!(
        &refused,
        JournalError::Unusable { problem, .. } if *problem == FileProblem::HardLink
    );
    assert!(is_expected, "{refused}");
}

/// Each claim contains a signed authorization, which is worth money until it is used.
#[tokio::test]
async fn only_the_owner_can_read_a_new_journal() {
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
async fn a_database_of_another_program_is_not_changed() {
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

/// SQLite keeps writing into a file without a name, and reports success. After the next start, the
/// journal had lost these settlements.
#[tokio::test]
async fn a_journal_whose_files_changed_is_not_used() {
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
        // The next write already fails, before the next look at the files.
        let refused = journal.claim(&claim("b"), NOW).await.unwrap_err();
        assert!(refused.to_string().contains(word), "{word}: {refused}");
        assert!(journal.problem().unwrap().contains(word), "{word}");
        // Another file under this name does not say what happened to a settlement.
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

/// The journal must notice without a write: the next /verify depends on it.
#[tokio::test]
async fn a_missing_journal_is_noticed_and_used_again_later() {
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

/// After the lock file was deleted, a second process could open the journal.
#[tokio::test]
async fn a_lock_that_is_removed_is_taken_again() {
    let sqlite = Sqlite::new().await;
    let journal = sqlite.open().await;
    fs::remove_file(sqlite.file("journal.db.lock")).unwrap();
    assert!(wins(&journal, "a").await);
    let second = SqliteJournal::open(sqlite.path()).await.unwrap_err();
    assert!(second.to_string().contains("another process"), "{second}");
}

/// The file has garbage in its middle.
#[tokio::test]
async fn a_damaged_journal_is_reported_and_not_used() {
    let sqlite = Sqlite::new().await;
    let journal = sqlite.open().await;
    let claims: Vec<String> = (0..200).map(|at| format!("claim {at}")).collect();
    for name in &claims {
        assert!(wins(&journal, name).await);
    }
    drop(journal);
    // Move everything into the one file, and nothing stays in memory.
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

/// One row that another program damaged made every write in its batch fail, and every start.
#[tokio::test]
async fn an_unreadable_entry_affects_no_other_entry() {
    let sqlite = Sqlite::new().await;
    let journal = sqlite.open().await;
    assert!(wins(&journal, "a").await && wins(&journal, "b").await);
    drop(journal);
    drop(sqlite.open().await);
    execute(
        &sqlite.path(),
        "UPDATE settlements SET amount = 'much' WHERE rowid = 1;
         INSERT INTO settlements (id, network, scheme, payer, pay_to, asset, amount, expires, request, decoded_at,
             attempt, failures, state, claimed_at, number)
         VALUES (x'00', 'test:1', '', '', '', '', '1', 0, '', 0, 1, 0, 'open', 0, 99)",
    )
    .await;
    let journal = sqlite.open().await;
    let (a, b, c) = (claim("a"), claim("b"), claim("c"));
    let unreadable = journal.settlement(&a.id).await;
    assert!(
        matches!(unreadable, Err(JournalError::Unreadable { .. })),
        "{unreadable:?}"
    );
    // Both writes are in one batch.
    let (spoilt, good) = join(journal.claim(&a, NOW), journal.claim(&c, NOW)).await;
    assert!(
        matches!(spoilt, Err(JournalError::Unreadable { .. })),
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
    let page = journal.page(&Filter::new(), None).await.unwrap();
    assert_eq!((page.settlements.len(), page.unreadable), (2, 2));
    journal.renew(Duration::from_secs(600)).await.unwrap();
    assert_eq!(journal.take_up(&[a.id]).await, Ok(vec![a.id]));
    assert_eq!(
        journal.conclude(&a.id, 1, &no_gas(), None, NOW).await,
        Ok(Ended::Yes)
    );
}

/// Runs the commands of docs/operating.md exactly as they are there.
#[tokio::test]
async fn old_rows_can_be_archived_as_documented() {
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
            .record(
                "test:1",
                &transaction,
                &[SettlementStep::settling(id)],
                None,
                NOW,
            )
            .await
            .unwrap();
        let outcome = settled_by(transaction.id.as_str(), 7);
        if name != "open" {
            assert_eq!(
                journal.conclude(&id, 1, &outcome, None, NOW).await,
                Ok(Ended::Yes)
            );
        }
    }
    // Two payments with a refund each, of which one is young.
    for (paid, refunds) in [("paid", "refund"), ("kept", "young refund")] {
        for claim in [claim(paid), refund_of(&claim(paid), refunds, 7)] {
            assert_eq!(
                journal.claim(&claim, NOW).await,
                Ok(Claimed::Won { attempt: 1 })
            );
            let settled = settled_by(&claim.id.to_string(), 7);
            let ended = journal.conclude(&claim.id, 1, &settled, None, NOW).await;
            assert_eq!(ended, Ok(Ended::Yes));
        }
    }
    // A delegation (ERC-7710): only this row refuses a second payment.
    let mut endless = claim("endless");
    endless.expires = Timestamp::from_secs(u64::MAX);
    let won = journal.claim(&endless, NOW).await;
    assert_eq!(won, Ok(Claimed::Won { attempt: 1 }));
    let settled = settled_by("endless", 7);
    let ended = journal.conclude(&endless.id, 1, &settled, None, NOW).await;
    assert_eq!(ended, Ok(Ended::Yes));
    drop(journal);
    drop(sqlite.open().await);
    // The young settlement ended a moment ago.
    let young = "UPDATE settlements SET concluded_at = unixepoch() WHERE transaction_id = 'young';
        UPDATE settlements SET concluded_at = unixepoch() WHERE number =
            (SELECT max(number) FROM settlements WHERE refund_of IS NOT NULL);
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
    // A payment that never expires is never archived, so that it is never settled again.
    let again = journal.claim(&endless, NOW).await;
    assert!(matches!(again, Ok(Claimed::Taken(_))), "{again:?}");
    // Without its refund in the journal, the payment could be refunded a second time.
    let again = journal
        .claim(&refund_of(&claim("kept"), "again", 1), NOW)
        .await;
    let left = Amount::ZERO;
    assert_eq!(again, Ok(Claimed::RefundsExceed { left }));
    let again = journal
        .claim(&refund_of(&claim("paid"), "again", 1), NOW)
        .await;
    assert_eq!(again, Ok(Claimed::NotRefundable(RefundProblem::Unknown)));
    let mut archived = sqlite3(&archive).await;
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT transaction_id FROM settlements ORDER BY number")
            .fetch_all(&mut archived)
            .await
            .unwrap();
    let id = |name: &str| claim(name).id.to_string();
    assert_eq!(rows, ["old".to_owned(), id("paid"), id("refund")]);
    assert_eq!(SqliteJournal::inspect(sqlite.path()).await, Ok(vec![]));
}

/// Creates a file of the first format.
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

/// The columns of the tables and the indexes, by name.
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

/// The migration keeps every settlement, and open settlements can still be concluded.
#[tokio::test]
async fn a_journal_of_format_1_is_migrated() {
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
    let settled = |transaction: &str| State::Concluded(settled_by(transaction, 7));
    let failed = State::Concluded(Outcome::Failed {
        reason: Reason::INVALID_TRANSACTION_STATE,
        detail: "it's odd".to_owned(),
        transaction: Some(TransactionId::new("0x5")),
    });
    let released = State::Concluded(no_gas());
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
    // Payments that settled a day before the newest one are final. The others are watched.
    assert_eq!(found[1].final_at, Some(Timestamp::from_secs(10_005)));
    let watched = journal.not_final("test:1").await.unwrap();
    assert_eq!(watched, [id(3), id(4)]);
    assert_eq!(journal.open("test:1").await.unwrap(), [id(1)]);
    let page = journal.page(&Filter::new(), None).await.unwrap();
    assert_eq!(page.settlements, found);
    let next = journal
        .next_sequence("test:1", &LaneId::new("signer"))
        .await;
    assert_eq!(next, Ok(6));
    let now = Timestamp::from_secs(200_000);
    assert_eq!(
        journal.report_success(&id(3), 1, None, now).await,
        Ok(Reported::No)
    );
    assert_eq!(
        journal.report_success(&id(4), 2, None, now).await,
        Ok(Reported::First)
    );
    drop(journal);

    let fresh = Sqlite::new().await;
    drop(fresh.open().await);
    drop((sqlite.open().await, fresh.open().await));
    assert_eq!(shape(&sqlite.path()).await, shape(&fresh.path()).await);
}

/// A migration that fails leaves the file as it was.
#[tokio::test]
async fn a_journal_that_cannot_be_migrated_is_not_changed() {
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

/// What happens between two pages of a listing.
#[derive(Debug, Clone)]
enum Change {
    /// A new authorization is claimed.
    New { on_second_network: bool },
    /// One of the open settlements is released.
    Release(prop::sample::Index),
    /// One of the settlements is claimed again, if it is free.
    Retry(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<bool>().prop_map(|on_second_network| Change::New { on_second_network }),
        any::<prop::sample::Index>().prop_map(Change::Release),
        any::<prop::sample::Index>().prop_map(Change::Retry),
    ]
}

/// The claims so far, in order, each with its number of attempts.
#[derive(Default)]
struct Claims(Vec<Claim>);

impl Claims {
    async fn apply(&mut self, journal: &SqliteJournal, change: &Change) {
        match change {
            Change::New { on_second_network } => {
                let network = if *on_second_network {
                    "test:2"
                } else {
                    "test:1"
                };
                let claim = claim_on(network, &self.0.len().to_string());
                let claimed = journal.claim(&claim, NOW).await;
                assert_eq!(claimed, Ok(Claimed::Won { attempt: 1 }));
                self.0.push(claim);
            }
            Change::Release(which) | Change::Retry(which) if !self.0.is_empty() => {
                let claim = which.get(&self.0);
                match change {
                    Change::Retry(_) => drop(journal.claim(claim, NOW).await.unwrap()),
                    _ => {
                        let known = journal.settlement(&claim.id).await.unwrap().unwrap();
                        let attempt = known.attempt;
                        let released = journal
                            .conclude(&claim.id, attempt, &no_gas(), None, NOW)
                            .await;
                        let ended = match known.state {
                            State::Open => Ended::Yes,
                            State::Concluded(_) => Ended::No,
                        };
                        assert_eq!(released, Ok(ended));
                    }
                }
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// A listing shows each settlement of a network once, in the order of the first claims,
    /// whatever happens between its pages.
    #[test]
    fn a_listing_shows_each_settlement_once(
        before in prop::collection::vec(change(), 0..20),
        between in prop::collection::vec(prop::collection::vec(change(), 0..4), 0..6),
        limit in 1_u32..6,
        network in prop::sample::select(vec![None, Some("test:1"), Some("test:2")]),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (listed, expected) = runtime.block_on(async {
            let sqlite = Sqlite::new().await;
            let journal = sqlite.open().await;
            let mut claims = Claims::default();
            for change in &before {
                claims.apply(&journal, change).await;
            }
            let mut filter = Filter::new().limit(limit);
            filter.network = network.map(str::to_owned);
            let (mut listed, mut after, mut between) = (Vec::new(), None::<Cursor>, between.iter());
            loop {
                let page = journal.page(&filter, after).await.unwrap();
                listed.extend(page.settlements.iter().map(|known| known.claim.id));
                let Some(next) = page.next else { break };
                after = Some(next);
                for change in between.next().into_iter().flatten() {
                    claims.apply(&journal, change).await;
                }
            }
            let on_network = |claim: &&Claim| network.is_none_or(|network| network == claim.network);
            let expected: Vec<PaymentId> =
                claims.0.iter().filter(on_network).map(|claim| claim.id).collect();
            (listed, expected)
        });
        prop_assert_eq!(listed, expected);
    }
}

/// Opens a copy of the file that the program of the first format wrote.
#[tokio::test]
async fn a_file_written_by_the_first_format_opens() {
    let sqlite = Sqlite::new().await;
    let bytes = include_bytes!("../fixtures/journal-format-1.db");
    fs::write(sqlite.path(), bytes).unwrap();
    let journal = sqlite.open().await;
    let page = journal.page(&Filter::new(), None).await.unwrap();
    let states: Vec<StateKind> = page
        .settlements
        .iter()
        .map(|settlement| settlement.state.kind())
        .collect();
    let expected = [
        StateKind::Settled,
        StateKind::Failed,
        StateKind::Released,
        StateKind::Open,
        StateKind::Open,
    ];
    assert_eq!(states, expected);
    let [settled, _, released, recorded, claimed] = &page.settlements[..] else {
        panic!("five settlements");
    };
    assert!(settled.success_reported_at.is_some());
    let State::Concluded(Outcome::Released { fault }) = &released.state else {
        panic!("{released:?}");
    };
    let detail = "the node refuses the transaction: insufficient funds for gas * price + value";
    assert_eq!(*fault, Fault::new(FaultKind::FacilitatorFunds, detail));
    assert_eq!(released.withdrawn.len(), 1);
    assert_eq!(recorded.transactions[0].transaction.sequence, 2);
    assert_eq!(claimed.transactions, vec![]);
}

/// A row: its columns by name, with each value as an SQL literal.
type Row = BTreeMap<String, String>;

/// The tables of every format, each with the columns that identify a row.
const TABLES: [(&str, [&str; 2]); 3] = [
    ("settlements", ["id", "id"]),
    ("transactions", ["id", "id"]),
    ("settlement_transactions", ["settlement", "transaction_id"]),
];

/// The rows of each table, by what identifies them.
async fn all_rows(path: &Path) -> Vec<BTreeMap<[String; 2], Row>> {
    let mut file = sqlite3(path).await;
    let mut tables = Vec::new();
    for (table, key) in TABLES {
        let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info(?1)")
            .bind(table)
            .fetch_all(&mut file)
            .await
            .unwrap();
        let quoted: Vec<String> = columns
            .iter()
            .map(|name| format!("quote({name})"))
            .collect();
        let sql = format!("SELECT {} FROM {table}", quoted.join(", "));
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .fetch_all(&mut file)
            .await
            .unwrap();
        let row = |row: &SqliteRow| -> Row {
            let values = (0..columns.len()).map(|at| row.get::<String, _>(at));
            columns.iter().cloned().zip(values).collect()
        };
        let rows = rows.iter().map(row);
        let by_key = rows.map(|row| (key.map(|column| row[column].clone()), row));
        tables.push(by_key.collect());
    }
    file.close().await.unwrap();
    tables
}

/// The name that a column of format 2 has now.
fn name_now(column: &str) -> &str {
    let sql = include_str!("../../crates/journal/src/sqlite/to_format_3.sql");
    let renames = sql.split("RENAME COLUMN ").skip(1);
    let mut renames = renames.filter_map(|rename| rename.split(';').next()?.split_once(" TO "));
    renames
        .find(|(before, _)| *before == column)
        .map_or(column, |(_, now)| now)
}

/// Compares a migrated row with the one before, in a file of this format.
fn assert_migrated(format: u32, before: &Row, after: &Row) {
    let is_split = |column: &str| {
        let is_released = before
            .get("state")
            .is_some_and(|state| state == "'released'");
        format == 2 && is_released && column == "detail"
    };
    let kept = before.iter().filter(|(column, _)| !is_split(column));
    for (column, value) in kept {
        assert_eq!(
            after.get(name_now(column)),
            Some(value),
            "{column} of {before:?}"
        );
    }
    let computed = ["fault", "retry_after", "number"];
    let old: Vec<&str> = before.keys().map(|column| name_now(column)).collect();
    let is_new = |column: &&String| {
        let column = column.as_str();
        let is_computed = format == 2 && computed.contains(&column);
        !(old.contains(&column) || is_computed)
    };
    for column in after.keys().filter(is_new) {
        let value = after[column].as_str();
        assert!(["NULL", "0"].contains(&value), "{column} of {after:?}");
    }
}

/// Opens copies of the files that programs of later formats wrote, with every kind of row.
#[tokio::test]
async fn every_row_of_an_older_file_is_kept() {
    let files: [(u32, &[u8]); 3] = [
        (2, include_bytes!("../fixtures/journal-format-2.db")),
        (3, include_bytes!("../fixtures/journal-format-3.db")),
        (4, include_bytes!("../fixtures/journal-format-4.db")),
    ];
    for (format, bytes) in files {
        let sqlite = Sqlite::new().await;
        fs::write(sqlite.path(), bytes).unwrap();
        fs::set_permissions(sqlite.path(), fs::Permissions::from_mode(0o600)).unwrap();
        let before = all_rows(&sqlite.path()).await;
        let counts: Vec<usize> = before.iter().map(BTreeMap::len).collect();
        assert_eq!(counts, [11, 12, 13], "format {format}");
        drop(sqlite.open().await);
        let journal = sqlite.open().await;
        let after = all_rows(&sqlite.path()).await;
        for (before, after) in before.iter().zip(&after) {
            assert!(before.keys().eq(after.keys()), "format {format}");
            for (key, row) in before {
                assert_migrated(format, row, &after[key]);
            }
        }
        assert_older_file(&journal, format).await;
        assert_eq!(SqliteJournal::inspect(sqlite.path()).await, Ok(vec![]));
    }
}

/// What a migrated file contains, as the journal reads it.
async fn assert_older_file(journal: &SqliteJournal, format: u32) {
    let page = journal.page(&Filter::new(), None).await.unwrap();
    assert_eq!((page.unreadable, page.next), (0, None));
    let kinds: Vec<StateKind> = page
        .settlements
        .iter()
        .map(|settlement| settlement.state.kind())
        .collect();
    use StateKind::{Failed, Lost, Open, Released, Settled};
    let expected = [
        Open, Open, Settled, Settled, Settled, Failed, Failed, Released, Lost, Open, Open,
    ];
    assert_eq!(kinds, expected);
    let [
        _,
        recorded,
        unreported,
        finished,
        second,
        _,
        often,
        released,
        ..,
    ] = &page.settlements[..]
    else {
        panic!("eleven settlements");
    };
    assert_eq!(recorded.claim.amount, Amount::MAX);
    assert_eq!(recorded.transactions.len(), 2);
    let at = |secs: u64| Some(Timestamp::from_secs(1_800_000_000 + secs));
    assert_eq!(unreported.final_at, None);
    assert_eq!(
        (finished.success_reported_at, finished.final_at),
        (at(7), at(100))
    );
    assert_eq!((second.attempt, second.failures), (2, 1));
    assert_eq!((often.attempt, often.failures), (3, 3));
    let State::Concluded(Outcome::Released { fault }) = &released.state else {
        panic!("{released:?}");
    };
    // Format 2 had no column for the advice on when to retry.
    let retry_after = if format == 2 { 60 } else { 17 };
    let expected = Fault {
        retry_after: Some(Duration::from_secs(retry_after)),
        ..Fault::new(FaultKind::FacilitatorFunds, "no gas: \"odd\"")
    };
    assert_eq!(*fault, expected);
    assert_eq!(released.withdrawn.len(), 1);
    let watched = journal.not_final("test:1").await.unwrap();
    assert_eq!(watched, [unreported.claim.id, second.claim.id]);
    assert_eq!(journal.open("test:1").await.unwrap().len(), 3);
    // A failed authorization is still given up, and a released one is still free.
    let given_up = journal.claim(&often.claim, NOW).await;
    assert!(matches!(given_up, Ok(Claimed::Taken(_))), "{given_up:?}");
    let free = journal.claim(&released.claim, NOW).await;
    assert_eq!(free, Ok(Claimed::Won { attempt: 2 }));
}

/// Names the journal that [`fill_a_limited_disk`] fills.
const JOURNAL_TO_FILL: &str = "JOURNAL_TO_FILL";

/// Not a test by itself: the process of the next one, whose files cannot grow beyond a limit.
#[tokio::test(flavor = "multi_thread")]
async fn fill_a_limited_disk() {
    let Some(path) = std::env::var_os(JOURNAL_TO_FILL) else {
        return;
    };
    let journal = SqliteJournal::open(path).await.unwrap();
    for group in 0..100 {
        let claims: Vec<Claim> = (0..64)
            .map(|at| {
                let mut claim = claim(&format!("{group} {at}"));
                claim.request = "x".repeat(4000);
                claim
            })
            .collect();
        let answers = join_all(claims.iter().map(|claim| journal.claim(claim, NOW))).await;
        for (claim, answer) in claims.iter().zip(&answers) {
            match answer {
                Ok(_) => println!("won {}", claim.id),
                Err(error) => {
                    assert!(matches!(error, JournalError::Unwritable { .. }), "{error}");
                }
            }
        }
        if answers.iter().any(Result::is_err) {
            assert!(journal.problem().is_some());
            return println!("full");
        }
    }
    panic!("the limit was never reached");
}

/// The disk is full in the middle of a group: all of it fails, and nothing else is lost.
#[tokio::test]
async fn a_disk_that_fills_within_a_group_loses_no_answer() {
    let sqlite = Sqlite::new().await;
    // A write beyond the limit fails, as on a full disk.
    let limited =
        "trap '' XFSZ; ulimit -f 1000; exec \"$0\" --exact fill_a_limited_disk --nocapture";
    let filled = std::process::Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .env(JOURNAL_TO_FILL, sqlite.path())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&filled.stdout);
    assert!(
        filled.status.success() && output.contains("full"),
        "{output}"
    );
    let won = output.lines().filter_map(|line| line.split("won ").nth(1));
    let mut won: Vec<PaymentId> = won.map(|id| id.parse().unwrap()).collect();
    assert!(!won.is_empty());
    let mut open = sqlite.open().await.open("test:1").await.unwrap();
    won.sort();
    open.sort();
    assert_eq!(open, won);
}

/// What happens to the refunds of one payment.
#[derive(Debug, Clone)]
enum RefundStep {
    /// A refund of this amount is claimed: a new one, or one of the earlier ones again.
    Claim(u64, Option<prop::sample::Index>),
    /// One of the refunds settles, with this much less than was claimed.
    Settle(prop::sample::Index, u64),
    /// One of the refunds fails, or is released.
    End(prop::sample::Index, bool),
    /// The chain takes one of the refunds back.
    Reopen(prop::sample::Index),
    /// The block of one of the refunds is final.
    Finalize(prop::sample::Index),
}

fn refund_step() -> impl Strategy<Value = RefundStep> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => (1_u64..60, prop::option::of(index())).prop_map(|(amount, at)| RefundStep::Claim(amount, at)),
        2 => (index(), 0_u64..3).prop_map(|(at, less)| RefundStep::Settle(at, less)),
        2 => (index(), any::<bool>()).prop_map(|(at, fails)| RefundStep::End(at, fails)),
        1 => index().prop_map(RefundStep::Reopen),
        1 => index().prop_map(RefundStep::Finalize),
    ]
}

/// One refund of the model.
#[derive(Debug, Clone, Copy)]
struct ModelRefund {
    attempt: u32,
    amount: u64,
    state: StateKind,
    settled: u64,
    is_final: bool,
}

/// The refunds of one payment, as they should be.
#[derive(Default)]
struct ModelRefunds(Vec<ModelRefund>);

impl ModelRefunds {
    const PAID: u64 = 100;

    fn left(&self) -> u64 {
        let counted = self.0.iter().map(|refund| match refund.state {
            StateKind::Settled if refund.is_final => refund.settled,
            StateKind::Open | StateKind::Settled => refund.amount,
            _ => 0,
        });
        let left = Self::PAID.checked_sub(counted.sum());
        left.expect("no more than what was paid")
    }

    async fn apply(&mut self, journal: &SqliteJournal, original: &Claim, step: &RefundStep) {
        let id = |at: usize| claim(&format!("refund {at}")).id;
        let len = self.0.len();
        let (at, outcome) = match step {
            RefundStep::Claim(amount, at) => {
                let at = at.filter(|_| len > 0).map_or(len, |at| at.index(len));
                return self.claim(journal, original, *amount, at).await;
            }
            _ if len == 0 => return,
            RefundStep::Reopen(at) => {
                let (at, refund) = (at.index(len), &mut self.0[at.index(len)]);
                let reopened = journal.reopen(&id(at), refund.attempt, NOW).await;
                let is_reopened = refund.state == StateKind::Settled && !refund.is_final;
                assert_eq!(reopened, Ok(is_reopened));
                if is_reopened {
                    refund.state = StateKind::Open;
                }
                return;
            }
            RefundStep::Finalize(at) => {
                let (at, refund) = (at.index(len), &mut self.0[at.index(len)]);
                assert_eq!(journal.finalize(&[id(at)], NOW).await, Ok(()));
                refund.is_final |= refund.state == StateKind::Settled;
                return;
            }
            RefundStep::Settle(at, less) => {
                let at = at.index(len);
                let moved = self.0[at].amount.saturating_sub(*less);
                (at, settled_by("0x1", moved))
            }
            RefundStep::End(at, fails) => match fails {
                true => (at.index(len), failed_without_a_transaction()),
                false => (at.index(len), no_gas()),
            },
        };
        let refund = &mut self.0[at];
        let ended = journal
            .conclude(&id(at), refund.attempt, &outcome, None, NOW)
            .await;
        if refund.state != StateKind::Open {
            assert_eq!(ended, Ok(Ended::No));
            return;
        }
        assert_eq!(ended, Ok(Ended::Yes));
        refund.state = outcome.kind();
        if let Outcome::Settled { amount, .. } = outcome {
            refund.settled = amount.to_string().parse().unwrap();
        }
    }

    async fn claim(&mut self, journal: &SqliteJournal, original: &Claim, amount: u64, at: usize) {
        let refund = refund_of(original, &format!("refund {at}"), amount);
        let answer = journal.claim(&refund, NOW).await.unwrap();
        let before = self.0.get(at).copied();
        let is_taken = before
            .is_some_and(|before| matches!(before.state, StateKind::Open | StateKind::Settled));
        let left = self.left();
        if is_taken {
            return assert!(matches!(answer, Claimed::Taken(_)), "{answer:?}");
        }
        if amount > left {
            let left = Amount::from(left);
            return assert_eq!(answer, Claimed::RefundsExceed { left });
        }
        let attempt = before.map_or(0, |before| before.attempt) + 1;
        assert_eq!(answer, Claimed::Won { attempt });
        let claimed = ModelRefund {
            attempt,
            amount,
            state: StateKind::Open,
            settled: 0,
            is_final: false,
        };
        match self.0.get_mut(at) {
            Some(refund) => *refund = claimed,
            None => self.0.push(claimed),
        }
    }
}

fn failed_without_a_transaction() -> Outcome {
    Outcome::Failed {
        reason: Reason::SETTLEMENT_EXPIRED,
        detail: String::new(),
        transaction: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens to the refunds of a payment, no claim is won for more than is left.
    #[test]
    fn refunds_in_any_order_never_exceed_the_payment(
        steps in prop::collection::vec(refund_step(), 1..40),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let sqlite = Sqlite::new().await;
            let journal = sqlite.open().await;
            let original = claim("original");
            assert!(wins(&journal, "original").await);
            let paid = settled_by("0x0", ModelRefunds::PAID);
            let ended = journal.conclude(&original.id, 1, &paid, None, NOW).await;
            assert_eq!(ended, Ok(Ended::Yes));
            let mut model = ModelRefunds::default();
            for step in &steps {
                model.apply(&journal, &original, step).await;
            }
        });
    }
}
