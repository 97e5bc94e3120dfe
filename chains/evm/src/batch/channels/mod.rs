//! Channels whose vouchers the seller keeps: a facilitator in front of another one.
//!
//! It decides vouchers itself, by the same book as a facilitator that keeps them. What needs the
//! chain goes to the facilitator behind it: deposits, claims, refunds, and questions about channels
//! that it does not know well enough.

mod authority;
mod books;
mod holds;
mod payment;
mod settle;
mod task;
mod upkeep;

use std::sync::Arc;

use alloy::primitives::Address;
use alloy::signers::local::PrivateKeySigner;
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::{SettleResponse, SupportedResponse, VerifyResponse};
use quittance_core::{
    Amount, Clock, Facilitator, FacilitatorError, Fault, FaultKind, Network, OfferError,
    PaymentRequest, Refusal, Rejection, SignatureVerifier, StateStore, SystemClock, Timestamp,
};
use serde_json::json;
use tracing::error;

use self::authority::Authority;
use self::books::{Books, KnownBook};
use self::holds::Holds;
use self::payment::{ChannelPayment, Purpose, corrected};
pub use self::task::UpkeepTask;
use self::upkeep::Doubts;
pub use self::upkeep::UpkeepReport;
use super::NAME;
use super::book::{ChannelBook, ClaimRules};
use super::channel::{ChannelState, domain_separator};
use super::reason;
use super::vouchers::hold_secs;
use crate::known;

/// How often a payment is judged again because another process was faster. Each time, that other
/// one has charged the channel.
const ROUNDS_MAX: usize = 8;

/// The channels of a seller that keeps their vouchers itself, on one network.
///
/// It is a [`Facilitator`] for the seller's layer, in front of any other facilitator. The books are
/// in a [`StateStore`]: a charge is durable before its answer. A task claims what is charged
/// ([`spawn_upkeep`](Self::spawn_upkeep)). Requests of other schemes and networks pass through.
///
/// Several processes can share one store. Of two charges of one voucher, at most one succeeds.
///
/// The key signs claims and refunds. It can pay a channel's balance back to its payer, or claim
/// what payers have signed, and can pay no other account. It needs no gas.
///
/// ```
/// use std::sync::Arc;
///
/// use quittance_core::{Facilitator, Fault, SignatureVerifier, StateStore};
/// use quittance_evm::PrivateKeySigner;
/// use quittance_evm::batch::{ChannelOffer, Channels};
///
/// # #[allow(dead_code)]
/// fn sell(
///     facilitator: Arc<dyn Facilitator>,
///     store: Arc<dyn StateStore>,
///     verifier: Arc<dyn SignatureVerifier>,
///     key: PrivateKeySigner,
/// ) -> Result<(Channels, ChannelOffer), Box<dyn std::error::Error>> {
///     let channels = Channels::new("eip155:8453", facilitator, store, verifier, key)?;
///     let seller = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
///     let offer = ChannelOffer::usdc("eip155:8453", "0.0001", seller)?;
///     Ok((channels.clone(), offer.with_authorizer(channels.authorizer())))
/// }
/// ```
#[derive(Clone)]
pub struct Channels(Arc<Parts>);

struct Parts {
    network: Network,
    behind: Arc<dyn Facilitator>,
    books: Books,
    verifier: Arc<dyn SignatureVerifier>,
    authority: Authority,
    holds: Holds,
    doubts: Doubts,
    rules: ClaimRules,
    /// Whether channels may leave their vouchers to their payers' accounts.
    contract_payers: bool,
    clock: Arc<dyn Clock>,
}

impl Channels {
    /// The channels on a network, given by its CAIP-2 identifier or x402 version 1 name. `behind`
    /// settles what needs the chain, `store` keeps the books, and `key` signs claims and refunds.
    ///
    /// # Errors
    /// If the network is not an EVM chain that the library ships with. Use
    /// [`on`](Self::on) for others.
    pub fn new(
        network: &str,
        behind: Arc<dyn Facilitator>,
        store: Arc<dyn StateStore>,
        verifier: Arc<dyn SignatureVerifier>,
        key: PrivateKeySigner,
    ) -> Result<Self, OfferError> {
        let known = known::network(network).ok_or_else(|| not_evm(network))?;
        Self::on(known, behind, store, verifier, key)
    }

    /// As [`new`](Self::new), on any EVM chain.
    ///
    /// # Errors
    /// If the network is not an EVM chain.
    pub fn on(
        network: Network,
        behind: Arc<dyn Facilitator>,
        store: Arc<dyn StateStore>,
        verifier: Arc<dyn SignatureVerifier>,
        key: PrivateKeySigner,
    ) -> Result<Self, OfferError> {
        let chain_id = known::chain_id(&network).ok_or_else(|| not_evm(network.id()))?;
        let separator = domain_separator(chain_id);
        Ok(Self(Arc::new(Parts {
            books: Books::new(store, network.id()),
            authority: Authority::new(key, network.id(), separator),
            network,
            behind,
            verifier,
            holds: Holds::default(),
            doubts: Doubts::default(),
            rules: ClaimRules::default(),
            contract_payers: false,
            clock: Arc::new(SystemClock),
        })))
    }

    /// The same channels, claimed by these rules. Call it before the channels are used.
    #[must_use]
    pub fn with_claim_rules(self, rules: ClaimRules) -> Self {
        self.with(|parts| parts.rules = rules)
    }

    /// The same channels, and also those without a `payerAuthorizer`. Only their payers' accounts
    /// can say whether a voucher is theirs, and are asked when it is claimed: an account that
    /// changes its mind owes everything that is not claimed. Trust their payers, and claim often.
    /// Call it before the channels are used.
    #[must_use]
    pub fn with_contract_payers(self) -> Self {
        self.with(|parts| parts.contract_payers = true)
    }

    /// The same channels, with another clock. Call it before the channels are used.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        self.with(|parts| parts.clock = clock)
    }

    fn with(mut self, change: impl FnOnce(&mut Parts)) -> Self {
        // A clone that is in use keeps its settings.
        if let Some(parts) = Arc::get_mut(&mut self.0) {
            change(parts);
        } else {
            error!("the settings of channels that are in use cannot change");
        }
        self
    }

    /// The account that the channels name as their authorizer, for
    /// [`ChannelOffer::with_authorizer`](super::ChannelOffer::with_authorizer).
    pub fn authorizer(&self) -> Address {
        self.0.authority.address()
    }
}

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channels({:?})", self.0.authority)
    }
}

fn not_evm(network: &str) -> OfferError {
    OfferError::Network {
        network: network.to_owned(),
        family: "EVM",
    }
}

/// Why a payment is not settled or valid: a verdict, or no verdict.
enum NotPaid {
    Rejected(Rejection),
    /// The answer of the facilitator behind.
    Refused(Rejection),
    Error(FacilitatorError),
}

impl From<Rejection> for NotPaid {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<Fault> for NotPaid {
    fn from(fault: Fault) -> Self {
        Self::Error(fault.into())
    }
}

impl From<FacilitatorError> for NotPaid {
    fn from(error: FacilitatorError) -> Self {
        Self::Error(error)
    }
}

impl From<quittance_core::Malformed> for NotPaid {
    fn from(malformed: quittance_core::Malformed) -> Self {
        Self::Error(malformed.into())
    }
}

impl NotPaid {
    /// The verdict against the payment.
    ///
    /// # Errors
    /// If there is none.
    fn verdict(self) -> Result<Rejection, FacilitatorError> {
        match self {
            Self::Rejected(rejection) | Self::Refused(rejection) => Ok(rejection),
            Self::Error(error) => Err(error),
        }
    }
}

#[async_trait]
impl Facilitator for Channels {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        let payment = match self.0.payment(request) {
            Ok(None) => return self.0.behind.verify(request).await,
            Ok(Some(payment)) => payment,
            Err(Refusal::Malformed(malformed)) => return Err(malformed.into()),
            Err(Refusal::Rejected(rejection)) => {
                return Ok(VerifyResponse::invalid(&rejection, None));
            }
        };
        match self.0.verify(request, &payment).await {
            Ok(verdict) => Ok(verdict),
            Err(problem) => {
                let rejection = problem.verdict()?;
                Ok(VerifyResponse::invalid(&rejection, Some(payment.payer())))
            }
        }
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let network = request.requirements.network.as_str();
        let payment = match self.0.payment(request) {
            Ok(None) => return self.0.behind.settle(request).await,
            Ok(Some(payment)) => payment,
            Err(Refusal::Malformed(malformed)) => return Err(malformed.into()),
            Err(Refusal::Rejected(rejection)) => {
                return Ok(SettleResponse::failed(network, &rejection, None, ""));
            }
        };
        match self.0.settle(request, &payment).await {
            Ok(response) => {
                if response.is_pending() {
                    self.0.leave_open(&payment);
                }
                Ok(response)
            }
            Err(problem) => {
                let verdict = problem.verdict();
                let rejection = verdict.inspect_err(|_| self.0.leave_open(&payment))?;
                self.0.end_hold(&payment);
                let payer = Some(payment.payer());
                Ok(SettleResponse::failed(network, &rejection, payer, ""))
            }
        }
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        self.0.behind.supported().await
    }
}

impl Parts {
    /// The payment in a request, if it is by a channel of this seller.
    fn payment(&self, request: &PaymentRequest) -> Result<Option<ChannelPayment>, Refusal> {
        let is_ours = request.accepted.scheme == NAME && self.network.is(&request.accepted.network);
        if !is_ours {
            return Ok(None);
        }
        let payment = ChannelPayment::decode(request, &self.authority.separator)?;
        Ok(Some(payment).filter(|payment| !payment.required.is_managed()))
    }

    /// Checks what needs no book: the request, the authorizer, and the signature. Returns whether a
    /// key has signed; otherwise only the payer's account can say if it has.
    async fn check(&self, payment: &ChannelPayment, settling: bool) -> Result<bool, NotPaid> {
        payment.check_request(settling)?;
        if !self.contract_payers && payment.purpose.needs_claim() {
            payment.signed.config.check_payer_key()?;
        }
        let (authorizer, own) = (
            payment.signed.config.receiver_authorizer,
            self.authority.address(),
        );
        if authorizer != own {
            let detail =
                format!("the channel's authorizer is {authorizer}, and this seller's {own}");
            return Err(Rejection::new(reason::RECEIVER_AUTHORIZER_MISMATCH, detail).into());
        }
        let signed = &payment.signed;
        let pending = payment.pending_id.as_deref();
        if settling && self.holds.has(&signed.id, pending, &signed.voucher) {
            return Ok(true);
        }
        let by_key = match &signed.claim {
            Some(claim) => self.verifier.verify(std::slice::from_ref(claim)).await? == [true],
            None => false,
        };
        if !by_key {
            signed.check_key()?;
        }
        Ok(by_key)
    }

    async fn verify(
        &self,
        request: &PaymentRequest,
        payment: &ChannelPayment,
    ) -> Result<VerifyResponse, NotPaid> {
        let by_key = self.check(payment, false).await?;
        let (id, now) = (payment.id(), self.clock.now());
        let until = now.plus_secs(hold_secs(&payment.required));
        let held = self.holds.take(id, &payment.signed.voucher, now, until);
        let held = held.ok_or_else(busy)?;
        let known = self.judge(request, payment, by_key, now).await?;
        let mut extra = known.book.chain.to_json(&id);
        extra["chargedCumulativeAmount"] = json!(known.book.charged.to_string());
        extra["pendingId"] = json!(held.keep());
        Ok(VerifyResponse {
            extra: Object::of(&extra).ok(),
            ..VerifyResponse::valid(Some(payment.payer()))
        })
    }

    /// Judges a payment by the book of its channel, and by the chain if the book is not enough.
    /// Returns the book.
    async fn judge(
        &self,
        request: &PaymentRequest,
        payment: &ChannelPayment,
        by_key: bool,
        now: Timestamp,
    ) -> Result<KnownBook, NotPaid> {
        let id = payment.id();
        let is_local =
            by_key && payment.purpose == Purpose::Charge && !payment.signed.is_by_account();
        let mut known = self.books.get(&id).await?;
        if let Some(known) = known
            .as_ref()
            .filter(|known| is_local && known.book.is_fresh(now))
            && payment.check_book(&known.book, now).is_ok()
        {
            return Ok(known.clone());
        }
        // Another process may have changed the book, in either direction.
        if known.as_ref().is_some_and(|known| known.is_cached) {
            let synced = known.filter(|known| !known.has_record());
            known = self.books.reload(&id).await?.or(synced);
        }
        if let Some(known) = known
            .as_ref()
            .filter(|known| is_local && known.book.is_fresh(now))
        {
            payment.check_book(&known.book, now)?;
            return Ok(known.clone());
        }
        let chain = self.ask(request, payment, known.as_ref()).await?;
        let known = self.synced(payment, known, chain, now).await?;
        payment.check_book(&known.book, now)?;
        Ok(known)
    }

    /// Asks the facilitator behind whether a payment is valid, and what the chain has.
    async fn ask(
        &self,
        request: &PaymentRequest,
        payment: &ChannelPayment,
        known: Option<&KnownBook>,
    ) -> Result<ChannelState, NotPaid> {
        let price = Amount::new(alloy::primitives::U256::from(payment.required.price));
        let asked = ChannelPayment::of_payer(request, price)?;
        let verdict = self.behind.verify(&asked).await?;
        if let Some(rejection) = verdict.rejection() {
            let rejection = match known {
                Some(known) if rejection.extra.is_none() => {
                    corrected(rejection, &known.book, &payment.id())
                }
                _ => rejection,
            };
            return Err(NotPaid::Refused(rejection));
        }
        let state = verdict.extra.as_ref().map(|extra| extra.read("extra"));
        state.and_then(Result::ok).ok_or_else(|| {
            let what = "the facilitator does not say what the chain has of a channel";
            Fault::new(FaultKind::FacilitatorUnreachable, what).into()
        })
    }

    /// The book with what the chain has now. It is written only if a withdrawal was announced,
    /// because that makes a claim urgent.
    async fn synced(
        &self,
        payment: &ChannelPayment,
        known: Option<KnownBook>,
        chain: ChannelState,
        now: Timestamp,
    ) -> Result<KnownBook, Fault> {
        let id = payment.id();
        let mut known = match known {
            None => KnownBook::new(ChannelBook::new(payment.signed.config, chain, now)),
            Some(known) => known,
        };
        let before = known.book.chain.withdraw_requested_at;
        known.book.sync(chain, now);
        let is_urgent = chain.withdraw_requested_at != before && known.book.claim_row().is_some();
        if !is_urgent {
            self.books.remember(&id, &known);
            return Ok(known);
        }
        let due = known.book.claim_due(&self.rules);
        let book = known.book.clone();
        self.books.write(&id, &known, book, due).await?;
        // After a faster write of another process, the payment is judged by its book when it is
        // settled.
        Ok(self.books.get(&id).await?.unwrap_or(known))
    }
}

fn busy() -> Rejection {
    let detail = "another payment of this channel is being served";
    Rejection::new(reason::CHANNEL_BUSY, detail)
}

/// Other processes have written the channel's record again and again.
fn contended() -> Fault {
    let what = "the book of a channel changes too fast: retry";
    Fault::new(FaultKind::Busy, what)
}
