//! Notifications of the database: new events, and settlements that were handed over.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::leases::HANDED_OVER;
use crate::event::EventSignal;

/// The channel of new events.
const EVENTS: &str = "quittance_events";

/// Readers are woken at least this often: a notification may be lost with its connection.
const WAKE_EVERY: Duration = Duration::from_secs(1);

/// Wakes the readers of events and those that wait for settlements, until the pool is closed.
pub(super) async fn listen(pool: PgPool, events: EventSignal, handed_over: Arc<Notify>) {
    while !pool.is_closed() {
        if let Err(error) = follow(&pool, &events, &handed_over).await {
            debug!(%error, "the journal's notifications were interrupted");
        }
        events.wake();
        sleep(WAKE_EVERY).await;
    }
}

async fn follow(
    pool: &PgPool,
    events: &EventSignal,
    handed_over: &Notify,
) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen_all([EVENTS, HANDED_OVER]).await?;
    loop {
        match timeout(WAKE_EVERY, listener.recv()).await {
            Err(_) => events.wake(),
            Ok(notification) => match notification?.channel() {
                HANDED_OVER => handed_over.notify_waiters(),
                _ => events.wake(),
            },
        }
        if pool.is_closed() {
            return Ok(());
        }
    }
}
