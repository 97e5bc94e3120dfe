//! Databases of a local PostgreSQL server, which the tests of one program share.

use std::sync::atomic::{AtomicUsize, Ordering};

use quittance_devnet::{Fsync, Postgres};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::sync::OnceCell;

/// The server. It stops when the program ends.
static SERVER: OnceCell<Postgres> = OnceCell::const_new();

/// Numbers the databases.
static DATABASES: AtomicUsize = AtomicUsize::new(0);

/// The URL of a new and empty database.
pub async fn database() -> String {
    let start = || async { Postgres::start(Fsync::Off).await };
    let server = SERVER.get_or_try_init(start).await;
    let server = server.expect("a PostgreSQL server: run `make test`, which installs it");
    let name = format!("journal_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let mut root = PgConnection::connect(&server.url("postgres"))
        .await
        .expect("a connection");
    root.execute(AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .await
        .expect("a database");
    root.close().await.expect("a closed connection");
    server.url(&name)
}
