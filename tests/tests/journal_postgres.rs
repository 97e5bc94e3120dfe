//! The PostgreSQL journal: the conformance suite, and what concerns its server.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::{
    Amount, LaneId, PaymentId, PaymentInfo, Reason, SchemeReceipt, Timestamp, Transaction,
    TransactionId,
};
use quittance_devnet::{Fsync, Postgres};
use quittance_engine::{
    Claim, Claimed, Ended, EventFilter, Journal, JournalError, Outcome, PostgresJournal, State,
};
use quittance_tests::conformance::journal::JournalFixture;
use quittance_tests::postgres::database;
use quittance_tests::until;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A database of its own.
struct Database(String);

#[async_trait]
impl JournalFixture for Database {
    type Journal = PostgresJournal;

    async fn new() -> Self {
        Self(database().await)
    }

    async fn open(&self) -> PostgresJournal {
        PostgresJournal::open(&self.0).await.unwrap()
    }

    async fn another(&self, _: &PostgresJournal) -> PostgresJournal {
        self.open().await
    }

    /// The server ends what a process that is gone has begun.
    async fn crash(&self, journal: PostgresJournal) {
        drop(journal);
    }
}

quittance_tests::journal_conformance!(Database);
quittance_tests::replicas_conformance!(Database);

const NOW: Timestamp = Timestamp::from_secs(1_000);

fn claim(name: &str) -> Claim {
    let info = PaymentInfo {
        id: PaymentId::from_parts(&[name.as_bytes()]),
        payer: "payer".to_owned(),
        pay_to: "seller".to_owned(),
        asset: "coin".to_owned(),
        amount: Amount::from(7),
        expires: NOW.plus_secs(60),
    };
    Claim::new("test:1", "exact", &info, "{}".to_owned(), NOW)
}

async fn execute(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let sql = AssertSqlSafe(sql.to_owned());
    connection.execute(sqlx::raw_sql(sql)).await.unwrap();
    connection.close().await.unwrap();
}

/// A rolling start of a new fleet.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_at_once_share_one_journal() {
    let url = database().await;
    let opened = join_all((0..4).map(|_| PostgresJournal::open(&url))).await;
    let journals: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
    let contested = claim("a");
    let claims = journals
        .iter()
        .map(|journal| journal.claim(&contested, NOW));
    let claimed = join_all(claims).await;
    let won = |claimed: &&Result<_, _>| matches!(claimed, Ok(Claimed::Won { .. }));
    assert_eq!(claimed.iter().filter(won).count(), 1, "{claimed:?}");
}

/// What was answered is there, and the journal heals by itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_answered_write_survives_a_crash_of_the_server() {
    let mut server = Postgres::start(Fsync::On).await.unwrap();
    let journal = PostgresJournal::open(&server.url("postgres"))
        .await
        .unwrap();
    let claimed = journal.claim(&claim("before"), NOW).await.unwrap();
    assert_eq!(claimed, Claimed::Won { attempt: 1 });
    assert_eq!(journal.problem(), None);
    server.kill().unwrap();
    // The server's process for a connection goes on for a moment. What it answers counts, too.
    let mut answered = vec!["before".to_owned()];
    let refused = loop {
        let name = format!("meanwhile {}", answered.len());
        match journal.claim(&claim(&name), NOW).await {
            Ok(_) => answered.push(name),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(refused, JournalError::Unwritable { .. }),
        "{refused}"
    );
    assert!(journal.problem().is_some());
    assert!(journal.settlement(&claim("before").id).await.is_err());
    server.restart().await.unwrap();
    until("the journal heals", || async {
        journal.problem().is_none()
    })
    .await;
    for name in &answered {
        let known = journal.settlement(&claim(name).id).await.unwrap();
        assert_eq!(known.unwrap().state, State::Open, "{name}");
    }
    let claimed = journal.claim(&claim("after"), NOW).await.unwrap();
    assert_eq!(claimed, Claimed::Won { attempt: 1 });
}

/// Writes of several replicas are one after another: each has a number of its own, and the feed has
/// each event once.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_write_at_once_do_not_collide() {
    let url = database().await;
    let opened = join_all((0..4).map(|_| PostgresJournal::open(&url))).await;
    let journals: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
    let names = (0..100).map(|at| at.to_string());
    let claims: Vec<Claim> = names.map(|name| claim(&name)).collect();
    let writes = claims.iter().enumerate().map(|(at, claim)| {
        let journal = &journals[at % journals.len()];
        journal.claim(claim, NOW)
    });
    for claimed in join_all(writes).await {
        assert_eq!(claimed.unwrap(), Claimed::Won { attempt: 1 });
    }
    let filter = EventFilter::new().limit(200);
    let events = journals[0].events(&filter, None).await.unwrap().events;
    let numbers: Vec<String> = events
        .iter()
        .map(|event| event.cursor.to_string())
        .collect();
    let expected: Vec<String> = (1..=100).map(|number: u32| number.to_string()).collect();
    assert_eq!(numbers, expected);
}

/// Each replica would find enough left, if another one could write at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_do_not_refund_one_payment_twice() {
    let url = database().await;
    let opened = join_all((0..4).map(|_| PostgresJournal::open(&url))).await;
    let journals: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
    for at in 0..10 {
        let paid = claim(&format!("paid {at}"));
        journals[0].claim(&paid, NOW).await.unwrap();
        let settled = Outcome::Settled {
            transaction: Some(TransactionId::new(&format!("0x{at}"))),
            amount: paid.amount,
            receipt: SchemeReceipt::default(),
        };
        let ended = journals[0].conclude(&paid.id, 1, &settled, None, NOW).await;
        assert_eq!(ended.unwrap(), Ended::Yes);
        let refund = |number: u32| {
            let mut refund = claim(&format!("refund {at} {number}")).refund_of(paid.id);
            (refund.payer, refund.pay_to) = (paid.pay_to.clone(), paid.payer.clone());
            refund
        };
        let refunds: Vec<Claim> = (0..4).map(refund).collect();
        let claims = journals.iter().zip(&refunds);
        let claimed = join_all(claims.map(|(journal, refund)| journal.claim(refund, NOW))).await;
        let won = |claimed: &&Result<_, _>| matches!(claimed, Ok(Claimed::Won { .. }));
        assert_eq!(claimed.iter().filter(won).count(), 1, "{claimed:?}");
        let refused = |claimed: &&Result<_, _>| matches!(claimed, Ok(Claimed::RefundsExceed { left }) if *left == Amount::ZERO);
        assert_eq!(claimed.iter().filter(refused).count(), 3, "{claimed:?}");
    }
}

/// The database notifies. A replica that only looked would find it after a second each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_wakes_the_replica_that_waits() {
    const TRIES: usize = 10;
    let url = database().await;
    let first = PostgresJournal::open(&url).await.unwrap();
    let second = PostgresJournal::open(&url).await.unwrap();
    for at in 0..TRIES {
        let payment = claim(&at.to_string());
        first.claim(&payment, NOW).await.unwrap();
        let begun = Instant::now();
        let handing = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(first.hand_over(&payment.id, 1, None).await.unwrap());
        };
        tokio::join!(second.wait_for_hand_over(), handing);
        // On a busy machine, and before it listens, a replica may be late once.
        if begun.elapsed() < Duration::from_millis(800) {
            return;
        }
    }
    panic!("no hand-over woke the replica");
}

/// The defaults of a database are its operator's. A write that saw an earlier moment would judge by
/// what another replica has changed since.
#[tokio::test(flavor = "multi_thread")]
async fn claims_are_decided_whatever_the_database_sets() {
    let url = database().await;
    let name = url.rsplit('/').next().unwrap();
    for isolation in ["repeatable read", "serializable"] {
        let setting = format!("default_transaction_isolation = '{isolation}'");
        execute(&url, &format!("ALTER DATABASE {name} SET {setting}")).await;
        let opened = join_all((0..4).map(|_| PostgresJournal::open(&url))).await;
        let journals: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
        for at in 0..20 {
            let contested = claim(&format!("{isolation} {at}"));
            let claims = journals
                .iter()
                .map(|journal| journal.claim(&contested, NOW));
            let claimed = join_all(claims).await;
            let count = |wanted: fn(&Claimed) -> bool| {
                let all = claimed.iter().flatten();
                all.filter(|claimed| wanted(claimed)).count()
            };
            let won = count(|claimed| matches!(claimed, Claimed::Won { .. }));
            let taken = count(|claimed| matches!(claimed, Claimed::Taken(_)));
            assert_eq!((won, taken), (1, 3), "{claimed:?}");
        }
    }
}

/// Such as an old primary after a failover. Nothing may be claimed until it takes writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_only_reads_is_a_problem() {
    let mut server = Postgres::start(Fsync::Off).await.unwrap();
    let url = server.url("postgres");
    let journal = PostgresJournal::open(&url).await.unwrap();
    journal.claim(&claim("before"), NOW).await.unwrap();
    server.become_replica().await.unwrap();
    let refused = journal.claim(&claim("meanwhile"), NOW).await.unwrap_err();
    assert!(
        matches!(refused, JournalError::Unwritable { .. }),
        "{refused}"
    );
    // The journal tries every second whether it can write.
    for _ in 0..35 {
        assert!(journal.problem().is_some());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let known = journal.settlement(&claim("before").id).await.unwrap();
    assert_eq!(known.unwrap().state, State::Open);
    execute(&url, "SELECT pg_promote()").await;
    until("the journal heals", || async {
        journal.problem().is_none()
    })
    .await;
    let claimed = journal.claim(&claim("after"), NOW).await.unwrap();
    assert_eq!(claimed, Claimed::Won { attempt: 1 });
}

/// An index has no room for it. The engine would repeat it, and stop all other writes each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_too_large_fails_alone() {
    let journal = PostgresJournal::open(&database().await).await.unwrap();
    // Not a text that the server can compress.
    let parts = (0..500).map(|at: u32| PaymentId::from_parts(&[&at.to_be_bytes()]).to_string());
    let transaction = Transaction {
        id: TransactionId::new(&parts.collect::<String>()),
        lane: LaneId::new("signer"),
        sequence: 0,
        bytes: [1][..].into(),
    };
    let too_large = journal.record("test:1", &transaction, &[], None, NOW).await;
    let refused = too_large.unwrap_err();
    assert!(matches!(refused, JournalError::Refused { .. }), "{refused}");
    assert_eq!(journal.problem(), None);
}

/// Passes bytes on, but not while the network is cut.
async fn pass_on(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut is_cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 8192];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let is_over = is_cut.wait_for(|is_cut| !is_cut).await.is_err();
        if is_over || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// The port of a network to a server, which can be cut: then no byte arrives, and no connection
/// ends.
async fn network(server: u16, is_cut: watch::Receiver<bool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            let ((client, to_client), (server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(pass_on(client, to_server, is_cut.clone()));
            tokio::spawn(pass_on(server, to_client, is_cut.clone()));
        }
    });
    port
}

/// A network that loses every packet ends no connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_silent_is_a_problem() {
    const SOON: Duration = Duration::from_secs(30);
    let server = Postgres::start(Fsync::Off).await.unwrap();
    let (cut, is_cut) = watch::channel(false);
    let port = network(server.port(), is_cut).await;
    let url = format!("postgres://quittance@127.0.0.1:{port}/postgres");
    let journal = PostgresJournal::open(&url).await.unwrap();
    journal.claim(&claim("before"), NOW).await.unwrap();
    cut.send_replace(true);
    let meanwhile = claim("meanwhile");
    let refused = tokio::time::timeout(SOON, journal.claim(&meanwhile, NOW)).await;
    let refused = refused.unwrap().unwrap_err();
    assert!(
        matches!(refused, JournalError::Unwritable { .. }),
        "{refused}"
    );
    assert!(journal.problem().is_some());
    let unread = tokio::time::timeout(SOON, journal.settlement(&meanwhile.id)).await;
    assert!(unread.unwrap().is_err());
    cut.send_replace(false);
    let healed = tokio::time::timeout(SOON, async {
        while journal.problem().is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    healed.await.unwrap();
    // What reached the server late is there at most once.
    let claimed = journal.claim(&meanwhile, NOW).await.unwrap();
    assert!(
        matches!(claimed, Claimed::Won { attempt: 1 } | Claimed::Taken(_)),
        "{claimed:?}"
    );
    let known = journal.settlement(&claim("before").id).await.unwrap();
    assert_eq!(known.unwrap().state, State::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_another_program_is_refused() {
    let url = database().await;
    assert!(PostgresJournal::open_read_only(&url).await.is_err());
    PostgresJournal::check(&url).await.unwrap();
    execute(&url, "CREATE TABLE settlements (id bigint)").await;
    for refused in [
        PostgresJournal::open(&url).await.map(drop),
        PostgresJournal::check(&url).await,
    ] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("tables of another program"), "{refused}");
    }
    // A schema of its own is enough.
    execute(&url, "CREATE SCHEMA pay").await;
    let own = format!("{url}?options=-c%20search_path%3Dpay");
    let journal = PostgresJournal::open(&own).await.unwrap();
    let claimed = journal.claim(&claim("a"), NOW).await.unwrap();
    assert_eq!(claimed, Claimed::Won { attempt: 1 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_newer_format_is_refused() {
    let url = database().await;
    drop(PostgresJournal::open(&url).await.unwrap());
    execute(&url, "UPDATE quittance_format SET format = 99").await;
    let expected = JournalError::NewerFormat {
        found: 99,
        newest: 1,
    };
    assert_eq!(PostgresJournal::open(&url).await.unwrap_err(), expected);
    assert_eq!(PostgresJournal::check(&url).await.unwrap_err(), expected);
}

/// PostgreSQL has no text with the character zero. Such a detail must not be written for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_with_an_odd_detail_is_written() {
    let journal = PostgresJournal::open(&database().await).await.unwrap();
    let claim = claim("a");
    journal.claim(&claim, NOW).await.unwrap();
    let outcome = Outcome::Failed {
        reason: Reason::AMOUNT_TOO_LOW,
        detail: "a node says \0".to_owned(),
        transaction: None,
    };
    let ended = journal.conclude(&claim.id, 1, &outcome, None, NOW).await;
    assert_eq!(ended.unwrap(), Ended::Yes);
    let known = journal.settlement(&claim.id).await.unwrap().unwrap();
    let State::Concluded(Outcome::Failed { detail, .. }) = known.state else {
        panic!("{:?}", known.state);
    };
    assert_eq!(detail, "a node says \u{fffd}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_for_reading_writes_nothing() {
    let url = database().await;
    let journal = PostgresJournal::open(&url).await.unwrap();
    journal.claim(&claim("a"), NOW).await.unwrap();
    let reading = PostgresJournal::open_read_only(&url).await.unwrap();
    let refused = reading.claim(&claim("b"), NOW).await.unwrap_err();
    assert!(matches!(refused, JournalError::Refused { .. }), "{refused}");
    let known = reading.settlement(&claim("a").id).await.unwrap();
    assert_eq!(known.unwrap().claim.id, claim("a").id);
    assert_eq!(reading.settlement(&claim("b").id).await.unwrap(), None);
}

#[tokio::test]
async fn no_error_shows_a_password() {
    for url in [
        "postgres://user:hunter2@127.0.0.1:1/pay",
        "postgres://user:hunter2@:::/pay",
        "postgres://user:hunter2@127.0.0.1:1/pay?sslmode=odd",
    ] {
        let error = PostgresJournal::open(url).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
