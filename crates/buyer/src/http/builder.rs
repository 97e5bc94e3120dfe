//! The configuration of a buyer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quittance_core::{Clock, Payer, SystemClock};
use url::Url;

use super::address::Clients;
use super::client::{Buyer, Shared};
use super::error::{BuyError, RequestError};
use crate::budget::{Budget, Limits};
use crate::purchases::Purchases;

/// The default time that a call may take until the response headers arrive. It includes the
/// settlement on the chain.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Configures and builds a [`Buyer`].
pub struct BuyerBuilder {
    payers: Vec<Box<dyn Payer>>,
    limits: Limits,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    repeat_any_method: bool,
    allow_second_payments: bool,
    trusted: Vec<String>,
    state_file: Option<PathBuf>,
}

impl BuyerBuilder {
    pub(super) fn new() -> Self {
        Self {
            payers: Vec::new(),
            limits: Limits::default(),
            timeout: TIMEOUT,
            clock: Arc::new(SystemClock),
            repeat_any_method: false,
            allow_second_payments: false,
            trusted: Vec::new(),
            state_file: None,
        }
    }

    /// Adds a payer. The first payer that supports a payment option pays it.
    #[must_use]
    pub fn payer(mut self, payer: impl Payer) -> Self {
        self.payers.push(Box::new(payer));
        self
    }

    /// Sets the limits; [`Limits::default`] without it.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Sets the time that a call may take until the response headers arrive, with all repetitions;
    /// 90 seconds without it. The response's body has no time limit: it may be a stream.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sets the clock; the operating system's clock without it.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Repeats requests of any method if the response is lost or the payment is pending, not only
    /// those of idempotent methods. Without it, such a POST ends with [`BuyError::Lost`] or
    /// [`BuyError::Refused`], and the payment is kept.
    #[must_use]
    pub fn repeat_any_method(self) -> Self {
        Self {
            repeat_any_method: true,
            ..self
        }
    }

    /// Signs another payment for a request even if an earlier one, with other requirements, may
    /// still move money. Without it, such a call ends with [`BuyError::AlreadyOpen`], because a
    /// server that changes its price at each call could collect every payment.
    #[must_use]
    pub fn allow_second_payments(self) -> Self {
        Self {
            allow_second_payments: true,
            ..self
        }
    }

    /// Trusts the server with this origin (`https://api.example.com`) when it says that a payment
    /// moved nothing. Three reasons count, and only without a transaction: the handler failed, the
    /// requirements differed, or the facilitator's journal recorded `settlement_expired`. Use it
    /// for your own servers only. For other servers, a payer with a node asks the chain.
    #[must_use]
    pub fn trust(mut self, origin: &str) -> Self {
        self.trusted.push(origin.to_owned());
        self
    }

    /// Stores open payments in this file, an SQLite database, so that the next buyer with the file
    /// presents them again. Without it, they are lost when the buyer is dropped. One buyer can have
    /// the file open at a time. Only the file's owner can read it, because the authorizations in it
    /// are worth money. Each change is synced to the disk before a server sees the payment.
    ///
    /// A JSON file of an earlier version is imported, and kept beside the database with `.imported`
    /// after its name.
    #[must_use]
    pub fn state_file(self, path: impl Into<PathBuf>) -> Self {
        let state_file = Some(path.into());
        Self { state_file, ..self }
    }

    /// Builds the buyer.
    ///
    /// # Errors
    /// When a limit is not an amount, a trusted origin is not a URL, no HTTP client can be built,
    /// or the state file cannot be used.
    pub fn build(self) -> Result<Buyer, BuyError> {
        self.limits.check().map_err(BuyError::OverLimit)?;
        let mut trusted: Vec<Url> = Vec::new();
        for origin in self.trusted {
            match origin.parse() {
                Ok(url) => trusted.push(url),
                Err(error) => {
                    let source = Box::new(error);
                    return Err(RequestError::TrustedOrigin { origin, source }.into());
                }
            }
        }
        let http = Clients::new()?;
        let purchases = match &self.state_file {
            Some(path) => Purchases::in_file(path)?,
            None => Purchases::default(),
        };
        Ok(Buyer {
            shared: Arc::new(Shared {
                http,
                payers: self.payers,
                budget: Budget::new(self.limits),
                purchases,
                clock: self.clock,
                timeout: self.timeout,
                repeat_any_method: self.repeat_any_method,
                allow_second_payments: self.allow_second_payments,
                trusted,
            }),
        })
    }
}
