//! Sends the events of one webhook.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use quittance_core::{Clock, PaymentId};
use quittance_engine::{EventCursor, EventFilter, Feed, JournalError, SettlementEvent};
use quittance_http::webhook::sign_webhook;
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::guard::PublicOnly;
use super::{Webhook, WebhookProblem};
use crate::events::EventBody;

/// How many events are read at once. The position is saved when the receiver has all of them, so a
/// restart repeats at most this many.
const READ_MAX: u32 = 64;

/// How many requests one receiver gets at once. Each is for another settlement.
const CONCURRENT_MAX: usize = 8;

/// The time limit for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The time limit for an answer, as Standard Webhooks recommends at least.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// The pause after the first failed attempt. Each later one doubles it.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause between two attempts. A receiver that works again gets its events within it.
const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);

/// How long one event is tried before the webhook is switched off: a weekend, and a working day to
/// notice it. The events themselves are kept for a week by default.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3 * 24 * 3600);

/// How long the sender waits before it reads the feed again without having been woken.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// How long a sender goes on before it asks again whether another replica sends instead. Both may
/// send the same event in this time.
const LEAD_FOR: Duration = Duration::from_secs(5);

/// Sends the events of one webhook to its receiver.
pub struct WebhookSender {
    webhook: Webhook,
    feed: Feed,
    clock: Arc<dyn Clock>,
    client: Client,
    reader: String,
}

impl std::fmt::Debug for WebhookSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("WebhookSender").field(&self.webhook).finish()
    }
}

/// Why sending stops.
enum Stop {
    /// The receiver does not take an event any more.
    SwitchedOff,
    /// The journal cannot be used now.
    Journal(JournalError),
}

impl From<JournalError> for Stop {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

impl WebhookSender {
    /// A sender. `clock` is the time that messages are signed with.
    ///
    /// # Errors
    /// When no HTTP client can be built.
    pub fn new(
        webhook: Webhook,
        feed: Feed,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WebhookProblem> {
        let client = Client::builder()
            // A redirect could lead into a private network.
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX)
            .user_agent(concat!("quittance/", env!("CARGO_PKG_VERSION")));
        let client = match webhook.private {
            true => client,
            false => client.dns_resolver(Arc::new(PublicOnly)),
        };
        let client = client.build().map_err(|_| WebhookProblem::Client)?;
        let reader = format!("webhook:{}", webhook.name);
        Ok(Self {
            webhook,
            feed,
            clock,
            client,
            reader,
        })
    }

    /// Sends events for as long as this future is polled. It ends when the receiver answers 410, or
    /// takes an event on none of its attempts in three days. The position stays, so the next start
    /// tries this event again. Without a saved position, the first event is the next one.
    ///
    /// Of several replicas with one journal, one sends: the holder of a lease.
    pub async fn run(self) {
        let name = &self.webhook.name;
        self.gauge(1.0);
        loop {
            let Err(stop) = self.run_until_stopped().await;
            match stop {
                Stop::SwitchedOff => break,
                Stop::Journal(error) => {
                    warn!(webhook = name, %error, "the journal cannot be used for a webhook");
                    sleep(READ_AGAIN).await;
                }
            }
        }
        self.gauge(0.0);
        error!(
            webhook = name,
            "a webhook is switched off: its receiver takes no events. Restart to continue where it stopped"
        );
    }

    fn gauge(&self, value: f64) {
        metrics::gauge!("quittance_webhook_up", "webhook" => self.webhook.name.clone()).set(value);
    }

    async fn run_until_stopped(&self) -> Result<Infallible, Stop> {
        let filter = EventFilter::new().limit(READ_MAX);
        let filter = match &self.webhook.caller {
            Some(caller) => filter.caller(caller),
            None => filter,
        };
        // Before the first read: what is written after it must wake this task.
        let mut news = self.feed.news();
        let (mut after, mut leads_until) = (None, Instant::now());
        loop {
            if Instant::now() >= leads_until {
                if !self.feed.acquire(&self.reader).await? {
                    // Another replica sends. It saves the position from which to continue.
                    after = None;
                    sleep(READ_AGAIN).await;
                    continue;
                }
                leads_until = Instant::now() + LEAD_FOR;
            }
            let from = match after.take() {
                Some(cursor) => cursor,
                None => self.position().await?,
            };
            let part = match self.feed.events(&filter, Some(&from)).await {
                Err(JournalError::UnknownCursor) => {
                    let webhook = &self.webhook.name;
                    error!(webhook, "events were removed before this webhook sent them");
                    self.feed.events(&filter, None).await?
                }
                part => part?,
            };
            let has_moved = part.next != from;
            self.deliver_all(part.events).await?;
            if has_moved {
                self.feed.save(&self.reader, &part.next).await?;
            }
            after = Some(part.next);
            if !part.has_more {
                // A missed wake-up only delays the next read.
                let _ = timeout(READ_AGAIN, news.changed()).await;
            }
        }
    }

    /// The saved position. That of a new webhook is saved at once, so that a restart before its
    /// first event loses nothing.
    async fn position(&self) -> Result<EventCursor, JournalError> {
        if let Some(saved) = self.feed.saved(&self.reader).await? {
            return Ok(saved);
        }
        let newest = self.feed.newest().await?;
        self.feed.save(&self.reader, &newest).await?;
        Ok(newest)
    }

    /// Delivers a part of the feed: the events of one settlement one after another, those of
    /// several settlements at once.
    async fn deliver_all(&self, events: Vec<SettlementEvent>) -> Result<(), Stop> {
        let mut by_settlement = BTreeMap::<PaymentId, Vec<SettlementEvent>>::new();
        let sent = events.into_iter();
        for event in sent.filter(|event| self.webhook.sends(event.kind)) {
            by_settlement
                .entry(event.settlement)
                .or_default()
                .push(event);
        }
        let mut waiting = by_settlement.into_values();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < CONCURRENT_MAX
                && let Some(events) = waiting.next()
            {
                running.push(self.deliver_in_order(events));
            }
            match running.next().await {
                Some(delivered) => delivered?,
                None => return Ok(()),
            }
        }
    }

    async fn deliver_in_order(&self, events: Vec<SettlementEvent>) -> Result<(), Stop> {
        for event in events {
            self.deliver(event).await?;
        }
        Ok(())
    }

    /// Sends one event until the receiver has it.
    async fn deliver(&self, event: SettlementEvent) -> Result<(), Stop> {
        let webhook = &self.webhook.name;
        let id = event.cursor.to_string();
        let (started, mut pause) = (Instant::now(), PAUSE_MIN);
        loop {
            let settlement = self.feed.settlement(&event.settlement).await?;
            let body = EventBody::new(event.clone(), settlement.map(Into::into));
            let Err(failure) = self.attempt(&id, &body).await else {
                return Ok(());
            };
            let labels = [("webhook", webhook.clone()), ("why", failure.to_owned())];
            metrics::counter!("quittance_webhook_failures_total", &labels).increment(1);
            info!(
                webhook,
                event = id,
                failure,
                "a receiver did not take an event"
            );
            if failure == GONE || started.elapsed() >= GIVE_UP_AFTER {
                return Err(Stop::SwitchedOff);
            }
            sleep(jittered(pause)).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    /// Sends an event once. The error says why the receiver has not taken it.
    async fn attempt(&self, id: &str, body: &EventBody) -> Result<(), &'static str> {
        let body = serde_json::to_vec(body).expect("a body of plain fields");
        let headers = sign_webhook(&self.webhook.secrets, id, self.clock.now(), &body);
        let headers = headers.expect("a cursor has only letters, digits, `-` and `_`");
        let post = self.client.post(self.webhook.url.0.clone());
        let post = post.header(CONTENT_TYPE, "application/json");
        // The body of the answer is not read: only the status matters.
        let answer = post.headers(headers).body(body).send().await;
        match answer.map(|answer| answer.status()) {
            Ok(status) if status.is_success() => Ok(()),
            Ok(StatusCode::GONE) => Err(GONE),
            Ok(status) if status.is_redirection() => Err("redirect"),
            Ok(_) => Err("status"),
            Err(error) if error.is_timeout() => Err("timeout"),
            Err(error) if error.is_connect() => Err("connect"),
            Err(_) => Err("request"),
        }
    }
}

/// The receiver answered 410: it does not want events any more.
const GONE: &str = "gone";

/// A random pause of at least half of this one. Without it, all events of a receiver that fails
/// would come again at the same moment.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_at_least_half_and_never_longer() {
        for _ in 0..1000 {
            let pause = jittered(PAUSE_MAX);
            assert!((PAUSE_MAX / 2..=PAUSE_MAX).contains(&pause), "{pause:?}");
        }
    }
}
