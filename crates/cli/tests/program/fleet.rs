//! Two processes with one PostgreSQL database, as replicas behind a load balancer.

use std::collections::BTreeSet;
use std::time::Instant;

use alloy::primitives::U256;
use futures_util::future::join_all;
use quittance_devnet::{Fsync, Postgres};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use super::*;

/// How long a process is stopped: longer than its membership and the server's patience with a
/// writer together.
const STOPPED: Duration = Duration::from_secs(25);

/// A local chain with a block every half second, and a database.
struct Fleet {
    place: Place,
    postgres: Postgres,
}

impl Fleet {
    async fn new() -> Self {
        let place = Place::new().await;
        // Two signers, so that each process can have a lane.
        let text = std::fs::read_to_string(place.config()).unwrap();
        let signers = "signers = [{ env = \"SIGNER\" }, { env = \"SIGNER_2\" }]";
        let text = text.replace("signers = [{ env = \"SIGNER\" }]", signers);
        std::fs::write(place.config(), text).unwrap();
        let every = Mining::Every(Duration::from_millis(500));
        place.evm.set_mining(every).await.unwrap();
        let postgres = Postgres::start(Fsync::On).await.unwrap();
        Self { place, postgres }
    }

    async fn serve(&self) -> Serving {
        let mut command = self.place.command(&["serve"]);
        command
            .env("QUITTANCE_JOURNAL", self.postgres.url("postgres"))
            .env("SIGNER_2", &Evm::accounts()[8].key);
        Serving::start(command).await
    }

    /// What the seller has.
    async fn earned(&self) -> U256 {
        let seller = Evm::accounts()[1].address;
        self.place.evm.balance(USDC, seller).await.unwrap()
    }
}

/// Waits until this holds. A lane moves within a membership and some seconds.
async fn soon<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    const SOON: Duration = Duration::from_secs(60);
    let begun = Instant::now();
    while !holds().await {
        assert!(
            begun.elapsed() < SOON,
            "after {SOON:?}, still not true: {what}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What one payment of these tests moves.
const PRICE: u64 = 10_000;

/// Asks a facilitator to settle. `None` if it does not answer in time.
async fn ask(url: &str, request: &PaymentRequest, wait: Duration) -> Option<Value> {
    let post = Client::new().post(format!("{url}/settle")).timeout(wait);
    let answer = post.body(request.text().to_owned()).send().await.ok()?;
    answer.json().await.ok()
}

/// Settles a payment by any of these facilitators, and asks again until it is decided. Returns how
/// many answers reported success.
async fn settle(urls: &[&str], request: &PaymentRequest) -> usize {
    let mut successes = 0;
    for round in 0..200 {
        let wait = Duration::from_secs(10);
        let asked = urls.iter().map(|url| ask(url, request, wait));
        // Now and then several processes of a seller ask at once.
        let answers = match round % 3 {
            0 => join_all(asked).await,
            first => vec![ask(urls[first % urls.len()], request, wait).await],
        };
        let mut is_decided = false;
        for answer in answers.into_iter().flatten() {
            let is_success = answer["success"] == true;
            successes += usize::from(is_success);
            is_decided |= is_success || answer["errorReason"] == "duplicate_settlement";
        }
        if is_decided {
            return successes;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("a payment was never decided");
}

/// Settles some payments at once. None is lost and none doubled.
async fn settle_all(fleet: &Fleet, urls: &[&str], count: usize) {
    let before = fleet.earned().await;
    let payments = join_all((0..count).map(|_| payment())).await;
    let successes = join_all(payments.iter().map(|payment| settle(urls, payment))).await;
    assert!(successes.iter().all(|count| *count <= 1), "{successes:?}");
    let expected = before + U256::from(PRICE * count as u64);
    soon("all of it is paid", || async {
        fleet.earned().await == expected
    })
    .await;
}

/// The lanes that a process has.
async fn lanes(serving: &Serving) -> BTreeSet<String> {
    let health = Client::new().get(format!("{}/health", serving.url));
    let health: Value = health.send().await.unwrap().json().await.unwrap();
    let lanes = health["replica"]["lanes"].as_array();
    let lanes = lanes.unwrap_or_else(|| panic!("{health}")).iter();
    lanes.map(ToString::to_string).collect()
}

/// Each process has a lane, and settles what is presented to it. One is killed and one is stopped;
/// the other has both lanes then, and loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_on_one_database_survive_a_kill_and_a_stop() {
    let fleet = Fleet::new().await;
    let (first, mut second) = (fleet.serve().await, fleet.serve().await);
    soon("each has a lane", || async {
        let own = [lanes(&first).await, lanes(&second).await];
        own[0].len() == 1 && own[1].len() == 1 && own[0] != own[1]
    })
    .await;
    let urls = [first.url.as_str(), second.url.clone().leak()];
    settle_all(&fleet, &urls, 12).await;

    let killing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        second.child.kill().await.unwrap();
    };
    tokio::join!(settle_all(&fleet, &urls, 12), killing);
    soon("the first has both lanes", || async {
        lanes(&first).await.len() == 2
    })
    .await;

    let third = fleet.serve().await;
    soon("the new one has a lane", || async {
        lanes(&third).await.len() == 1
    })
    .await;
    let urls = [first.url.as_str(), third.url.as_str()];
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        third.signal("-STOP");
        tokio::time::sleep(STOPPED).await;
        assert_eq!(lanes(&first).await.len(), 2);
        third.signal("-CONT");
    };
    tokio::join!(settle_all(&fleet, &urls, 12), stopping);
    // It is a replica as before.
    settle_all(&fleet, &[third.url.as_str()], 6).await;
}

/// The stopped process has the lock of the writers. The database takes it away.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_in_a_write_stops_no_other_one() {
    let fleet = Fleet::new().await;
    let before = fleet.earned().await;
    let (first, second) = (fleet.serve().await, fleet.serve().await);
    // A write of the first process waits for the lock while the process is stopped, and then gets
    // it.
    let mut holder = PgConnection::connect(&fleet.postgres.url("postgres"))
        .await
        .unwrap();
    holder.execute("BEGIN").await.unwrap();
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('quittance journal '
        || current_schema(), 0))";
    holder.execute(lock).await.unwrap();
    let request = payment().await;
    let (url, asked) = (first.url.clone(), request.clone());
    let asking = tokio::spawn(async move { ask(&url, &asked, Duration::from_secs(60)).await });
    // Both renew their memberships, so the first one waits when two of them do.
    soon("both processes wait for the lock", || async {
        let mut look = PgConnection::connect(&fleet.postgres.url("postgres"))
            .await
            .unwrap();
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE application_name = 'quittance' AND wait_event = 'advisory'",
        )
        .fetch_one(&mut look)
        .await
        .unwrap();
        look.close().await.unwrap();
        waiting == 2
    })
    .await;
    first.signal("-STOP");
    holder.close().await.unwrap();
    let other = payment().await;
    let urls = [second.url.as_str()];
    let settled = tokio::time::timeout(Duration::from_secs(40), settle(&urls, &other)).await;
    assert_eq!(settled, Ok(1));
    first.signal("-CONT");
    // The write of the stopped process was undone or made, and its payment is settled once.
    drop(asking.await.unwrap());
    settle(&[first.url.as_str(), second.url.as_str()], &request).await;
    soon("both are paid, each once", || async {
        fleet.earned().await == before + U256::from(2 * PRICE)
    })
    .await;
}
