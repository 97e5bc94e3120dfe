//! The buyer's side: opens channels, and pays by their vouchers.

mod book;
mod books;
mod correction;
mod limits;
mod presented;
mod terms;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use alloy::primitives::{B256, Bytes, U256};
use alloy::signers::Signer;
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, SettleResponse};
use quittance_core::{
    Amount, AuthorizationState, Network, Next, Payer, PayerError, PaymentOutcome, Quote,
    QuoteError, SignedPayment, Timestamp, Turn,
};
use serde_json::{Value, json};
use tracing::warn;
use url::Url;

pub use self::book::{PayerBook, SignedDeposit};
pub use self::books::{BooksError, read_books};
pub use self::limits::DepositRules;

use self::book::Increment;
use self::books::{PayerBooks, PlanGuard};
use self::correction::Correction;
use self::presented::{Presented, Purpose};
use self::terms::{OwnTerms, Terms};
use super::channel::{ChannelState, PERMIT2_COLLECTOR, WITHDRAW_DELAY_MAX_SECS, domain_separator};
use super::consent::Consent;
use super::payload::ReceiveAuthorization;
use super::voucher::{Voucher, voucher_digest};
use crate::chain::rpc::Rpc;
use crate::exact::ExactPayer;
use crate::exact::payer::expiry;
use crate::permit2::{self, WitnessPermit};
use crate::token::{Token, TransferMethod};

/// Pays `batch-settlement` requirements on any EVM chain with one key, by channels.
///
/// Its first payment to a seller opens a channel with a deposit, by EIP-3009 or Permit2, and each
/// payment is a voucher. It deposits again when the channel cannot cover the next price, by its
/// [`DepositRules`]. For Permit2 the account must have approved the Permit2 contract, or signs the
/// approval as [`ExactPayer`] does.
///
/// Its books are in a folder ([`in_folder`](Self::in_folder)), or in memory. They say what was
/// charged and signed. A seller can correct them only up to what this payer has signed for.
/// Payments by one channel come one after the other.
///
/// The salt of its channels is zero, so a payer that has lost its books finds them again, with a
/// node ([`with_rpc`](Self::with_rpc)) or by a seller's correction. Two programs that pay with one
/// key at the same time need a [salt](Self::with_salt) each.
///
/// With a node, a deposit without an answer is looked up before another one is signed. Without one,
/// the payer deposits nothing more until that is known.
#[derive(Clone)]
pub struct ChannelPayer {
    key: ExactPayer,
    own: OwnTerms,
    deposits: DepositRules,
    books: Arc<PayerBooks>,
}

impl ChannelPayer {
    /// A payer with this key, which may be in memory or behind a key service. Its books are in
    /// memory.
    pub fn new(signer: impl Signer + Send + Sync + 'static) -> Self {
        let own = OwnTerms {
            payer: signer.address(),
            salt: B256::ZERO,
            withdraw_delay_max: WITHDRAW_DELAY_MAX_SECS,
        };
        Self {
            key: ExactPayer::new(signer),
            own,
            deposits: DepositRules::default(),
            books: Arc::new(PayerBooks::in_memory()),
        }
    }

    /// The same payer, with its books in this folder: one file for each channel. The folder is
    /// locked as long as the payer, or a clone of it, exists.
    ///
    /// # Errors
    /// If the folder cannot be used, another payer has it open, or a file in it is no book.
    pub fn in_folder(self, folder: &Path) -> Result<Self, BooksError> {
        let books = Arc::new(PayerBooks::open(folder)?);
        Ok(Self { books, ..self })
    }

    /// The same payer, with these rules for deposits.
    #[must_use]
    pub fn with_deposits(self, deposits: DepositRules) -> Self {
        Self { deposits, ..self }
    }

    /// The same payer, with channels of another salt.
    #[must_use]
    pub fn with_salt(mut self, salt: B256) -> Self {
        self.own.salt = salt;
        self
    }

    /// The same payer, which accepts only channels with at most this delay of withdrawals, in
    /// seconds. It is at least 15 minutes, and 30 days by default.
    #[must_use]
    pub fn with_withdraw_delay_max(mut self, secs: u64) -> Self {
        self.own.withdraw_delay_max = secs;
        self
    }

    /// The same payer, with another token of the network with this CAIP-2 identifier.
    #[must_use]
    pub fn with_token(self, network: &str, token: Token) -> Self {
        let key = self.key.with_token(network, token);
        Self { key, ..self }
    }

    /// The same payer, with nodes of a network. They are asked for the fate of deposits, and for
    /// the state of channels that the books do not have or a seller refuses.
    ///
    /// # Errors
    /// As [`ExactPayer::with_rpc`].
    pub fn with_rpc(self, network: &Network, urls: &[Url]) -> Result<Self, PayerError> {
        let key = self.key.with_rpc(network, urls)?;
        Ok(Self { key, ..self })
    }

    /// The books of all channels.
    pub fn channels(&self) -> Vec<PayerBook> {
        self.books.list()
    }

    fn terms(&self, requirements: &PaymentRequirements) -> Result<Terms<'_>, QuoteError> {
        Terms::read(&self.key, &self.own, requirements)
    }

    /// The book of a new channel for these terms.
    fn empty(terms: &Terms<'_>) -> PayerBook {
        let token = terms.transfer.token;
        let asset = (token.symbol.as_str(), token.decimals);
        PayerBook::new(terms.transfer.network.id(), terms.id, terms.config, asset)
    }

    /// The deposit that the next payment needs, in atomic units, if so much is locked up in all
    /// channels. `None` if the channel covers it.
    fn deposit(
        &self,
        terms: &Terms<'_>,
        book: &PayerBook,
        in_all: U256,
    ) -> Result<Option<u128>, QuoteError> {
        if book.withdraw_requested_at != 0 {
            let what = "the payer has announced the withdrawal of its channel";
            return Err(QuoteError::unpayable(what));
        }
        let shortage = book.shortage(terms.price);
        if shortage == 0 {
            return Ok(None);
        }
        if let Some(deposit) = &book.deposit {
            if deposit.amount >= shortage {
                return Ok(Some(deposit.amount));
            }
            let what = "the channel lacks more than the deposit that is not known to be made";
            return Err(QuoteError::unpayable(what));
        }
        let room = self.deposits.room(book.decimals, book.locked(), in_all);
        let deposit = self.deposits.size(terms.price, shortage, terms.asked, room);
        deposit.map(Some)
    }

    /// Plans the next payment for these terms. Its deposit counts against the limits until the
    /// guard is dropped.
    fn plan(&self, terms: &Terms<'_>) -> Result<PlanGuard, QuoteError> {
        let size = |book: &PayerBook, in_all| self.deposit(terms, book, in_all);
        self.books.plan(Self::empty(terms), terms.price, size)
    }

    /// Signs a deposit of this amount, until `expires`.
    async fn sign_deposit(
        &self,
        terms: &Terms<'_>,
        amount: u128,
        offered: Option<&Object>,
        expires: Timestamp,
    ) -> Result<SignedDeposit, PayerError> {
        let payer = self.own.payer;
        let mut extensions = None;
        let unique = U256::from_be_bytes(rand::random::<[u8; 32]>());
        let consent = match terms.method {
            TransferMethod::Eip3009 => {
                let given = ReceiveAuthorization {
                    // Valid at once, even if the chain's clock is behind.
                    valid_after: U256::ZERO,
                    valid_before: U256::from(expires.secs()),
                    salt: unique,
                    signature: Vec::new(),
                };
                Consent::eip3009(payer, amount, &terms.id, &given)
            }
            TransferMethod::Permit2 => {
                let permitted = (terms.config.token, U256::from(amount));
                // A block at the deadline itself may still use the permit.
                let deadline = U256::from(expires.secs().saturating_sub(1));
                let spender = PERMIT2_COLLECTOR;
                let permit = WitnessPermit::new(payer, permitted, spender, unique, deadline);
                let approving = self.key.sign_approval(&terms.transfer, &permit, offered);
                extensions = approving.await?;
                let approval = None;
                Consent::Permit2 { permit, approval }
            }
        };
        let chain_id = terms.transfer.chain_id;
        let token = terms.transfer.token.domain_separator(chain_id);
        let permit2 = permit2::domain_separator(chain_id);
        let digest = consent.digest((&token, &permit2), terms.id);
        let authorization = consent.to_json(&self.key.sign(digest).await?, &terms.id);
        Ok(SignedDeposit {
            amount,
            expires: expires.secs(),
            authorization: Object::of(&authorization).map_err(PayerError::Payload)?,
            extensions,
        })
    }

    async fn sign_voucher(&self, terms: &Terms<'_>, max: u128) -> Result<Voucher, PayerError> {
        let digest = voucher_digest(&terms.separator, &terms.id, max);
        let signature: Bytes = self.key.sign(digest).await?;
        Ok(Voucher {
            channel_id: terms.id,
            max_claimable: max,
            signature,
        })
    }

    /// A deposit of this amount with its signature: the one that was signed before, or a new one.
    async fn signed_deposit(
        &self,
        terms: &Terms<'_>,
        amount: u128,
        offered: Option<&Object>,
        now: Timestamp,
        expires: Timestamp,
    ) -> Result<SignedDeposit, PayerError> {
        match self.books.get(&terms.id).and_then(|book| book.deposit) {
            None => self.sign_deposit(terms, amount, offered, expires).await,
            Some(deposit) if now.secs() < deposit.expires => Ok(deposit),
            Some(_) => {
                let network = terms.transfer.network.id();
                let what = format!(
                    "an earlier deposit has expired, and may have been made before: name a node of {network} that knows, or wait for it"
                );
                Err(PayerError::chain(what))
            }
        }
    }

    /// Signs the next voucher, and records it with this deposit. The records are undone if the
    /// result is dropped.
    async fn sign_next(
        &self,
        terms: &Terms<'_>,
        deposit: Option<&SignedDeposit>,
    ) -> Result<(Voucher, Recorded<'_>), PayerError> {
        let wide = || QuoteError::unpayable("channels have amounts of 128 bits");
        loop {
            let book = self.books.get(&terms.id);
            let increment = book.and_then(|book| book.increment(terms.price));
            let increment = increment.ok_or_else(wide)?;
            let voucher = self.sign_voucher(terms, increment.max).await?;
            let recorded = self.books.carry_out(&terms.id, |book| {
                // Another call without a turn was faster.
                if book.increment(terms.price) != Some(increment) {
                    return None;
                }
                let is_new = deposit.is_some() && book.deposit.is_none();
                if is_new {
                    book.deposit = deposit.cloned();
                }
                book.sign(increment);
                Some(is_new)
            });
            if let Some(has_deposit) = recorded {
                let recorded = Recorded {
                    books: &self.books,
                    id: terms.id,
                    increment,
                    has_deposit,
                    is_kept: false,
                };
                return Ok((voucher, recorded));
            }
        }
    }

    /// What the chain has about a channel. `None` without a node, or if it does not answer.
    async fn on_chain(&self, network: &str, id: B256) -> Option<ChannelState> {
        let rpc = self.key.rpc(network)?;
        let state = presented::channel_state(rpc, id).await;
        state
            .inspect_err(|fault| warn!(%fault, network, "a channel could not be read"))
            .ok()
    }

    /// Takes over what the chain has about a channel.
    async fn sync(&self, network: &str, id: B256) {
        if let Some(chain) = self.on_chain(network, id).await {
            self.books.change(&id, |book| book.sync(&chain));
        }
    }

    /// Finds out what became of a signed deposit.
    async fn look_up(&self, network: &str, id: B256) {
        let deposit = self.books.get(&id).and_then(|book| book.deposit);
        if let (Some(deposit), Some(rpc)) = (deposit, self.key.rpc(network)) {
            self.fate(rpc, network, id, &deposit.authorization, deposit.amount)
                .await;
        }
    }

    /// The state of a deposit's authorization by the chain, which the book then has, too.
    async fn fate(
        &self,
        rpc: &Rpc,
        network: &str,
        id: B256,
        authorization: &Object,
        amount: u128,
    ) -> AuthorizationState {
        let config = self.books.get(&id).map(|book| book.config);
        let used = config.and_then(|config| presented::use_of(&config, &id, authorization, amount));
        let Some(used) = used else {
            return AuthorizationState::Unknown;
        };
        let state = used.state(rpc).await.unwrap_or_else(|fault| {
            warn!(%fault, network, "the state of a deposit could not be read");
            AuthorizationState::Unknown
        });
        self.books.change(&id, |book| {
            let is_same = |it: &SignedDeposit| it.authorization.tree() == authorization.tree();
            if !book.deposit.as_ref().is_some_and(is_same) {
                return;
            }
            match &state {
                AuthorizationState::Used(_) => book.deposit_made(),
                AuthorizationState::Expired => book.deposit = None,
                AuthorizationState::Usable | AuthorizationState::Unknown => {}
            }
        });
        state
    }

    /// Saves a book whose change only an outcome has caused. Without it, the payer is corrected
    /// again after a restart.
    async fn save_or_warn(&self, id: B256) {
        if let Err(error) = self.books.save(id).await {
            warn!(%error, "the book of a channel was not stored");
        }
    }

    /// Notes what a receipt says.
    async fn served(&self, presented: &Presented, receipt: &SettleResponse) {
        let network = &presented.network;
        match &presented.purpose {
            Purpose::Payment { deposit } => {
                let charged = presented.charged(receipt);
                self.books.change(&presented.id, |book| {
                    book.served(presented.increment, charged);
                    let is_same =
                        |it: &SignedDeposit, made: &Object| it.authorization.tree() == made.tree();
                    if let (Some(it), Some(made)) = (&book.deposit, deposit)
                        && is_same(it, made)
                    {
                        book.deposit_made();
                    }
                });
            }
            Purpose::Refund => {
                let chain = self.on_chain(network, presented.id).await;
                let refunded = presented::units(receipt.amount.as_deref());
                self.books.change(&presented.id, |book| match chain {
                    Some(chain) => book.sync(&chain),
                    None => {
                        let left = book.balance.saturating_sub(refunded.min(book.refundable()));
                        book.set_balance(left);
                    }
                });
            }
        }
    }

    /// What follows from a refusal.
    async fn refused(
        &self,
        presented: &Presented,
        correction: Option<Correction>,
        presented_before: bool,
    ) -> Next {
        let (network, id) = (&presented.network, presented.id);
        self.look_up(network, id).await;
        let chain = self.on_chain(network, id).await;
        let next = self.books.change(&id, |book| {
            let said = correction.and_then(|it| it.balance);
            match (&chain, said) {
                (Some(chain), _) => book.sync(chain),
                (None, Some(balance)) => book.set_balance(balance),
                (None, None) => {}
            }
            let correction = correction.unwrap_or(Correction {
                charged: book.charged,
                proven: 0,
                balance: None,
            });
            match presented.purpose {
                Purpose::Payment { .. } => {
                    book.corrected(presented.increment, &correction, presented_before)
                }
                Purpose::Refund => book.corrected_refund(presented.increment.max, &correction),
            }
        });
        next.unwrap_or(Next::Keep)
    }
}

impl fmt::Debug for ChannelPayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelPayer({})", self.own.payer)
    }
}

#[async_trait]
impl Payer for ChannelPayer {
    fn address(&self) -> &str {
        self.key.address()
    }

    fn quote(&self, requirements: &PaymentRequirements) -> Result<Quote, QuoteError> {
        let terms = self.terms(requirements)?;
        let deposit = match self.books.planned(&terms.id, terms.price) {
            Some(deposit) => deposit,
            None => {
                let size = |book: &PayerBook, in_all| self.deposit(&terms, book, in_all);
                self.books.size(Self::empty(&terms), size)?
            }
        };
        let locks = deposit.map_or(0, |deposit| deposit.saturating_sub(terms.price));
        Ok(Quote {
            locks: Amount::new(U256::from(locks)),
            ..terms.transfer.quote()
        })
    }

    async fn turn(&self, requirements: &PaymentRequirements) -> Turn {
        let Ok(terms) = self.terms(requirements) else {
            return Turn::default();
        };
        let turn = self.books.turn(terms.id).await;
        let network = terms.transfer.network.id();
        match self.books.get(&terms.id) {
            Some(book) => {
                self.look_up(network, terms.id).await;
                if book.withdraw_requested_at != 0 {
                    // It may be over.
                    self.sync(network, terms.id).await;
                }
            }
            // Perhaps the books were lost.
            None => {
                let chain = self.on_chain(network, terms.id).await;
                if let Some(chain) = chain.filter(|chain| chain.balance > 0) {
                    let mut book = Self::empty(&terms);
                    book.sync(&chain);
                    self.books.add(book);
                }
            }
        }
        // The deposit that `quote` names is the one that `pay` signs.
        let plan = self.plan(&terms).ok();
        Turn::holding((turn, plan))
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        offered: Option<&Object>,
        now: Timestamp,
    ) -> Result<SignedPayment, PayerError> {
        let terms = self.terms(requirements)?;
        // Without a turn there is no plan.
        let planned = self.books.planned(&terms.id, terms.price);
        let (planned, _plan) = match planned {
            Some(deposit) => (deposit, None),
            None => {
                let plan = self.plan(&terms)?;
                let planned = self.books.planned(&terms.id, terms.price);
                (planned.flatten(), Some(plan))
            }
        };
        let deposit = match planned {
            None => None,
            Some(amount) => {
                let expires = expiry(requirements, now);
                let signing = self.signed_deposit(&terms, amount, offered, now, expires);
                Some(signing.await?)
            }
        };
        let (voucher, recorded) = self.sign_next(&terms, deposit.as_ref()).await?;
        // Before it leaves: a payer that forgets it could sign for less, or deposit twice.
        let saved = self.books.save(terms.id).await;
        saved.map_err(PayerError::books)?;
        // Of two calls without a turn, the first one's deposit is for both.
        let kept = self.books.get(&terms.id).and_then(|book| book.deposit);
        let deposit = deposit.map(|own| kept.unwrap_or(own));
        recorded.keep();
        payment(&terms, &voucher, deposit.as_ref())
    }

    async fn authorization_state(
        &self,
        network: &str,
        _asset: &str,
        payload: &Object,
        _expires: Timestamp,
    ) -> AuthorizationState {
        let Some(presented) = Presented::read(network, None, payload) else {
            return AuthorizationState::Unknown;
        };
        let (id, max) = (presented.id, presented.increment.max);
        let of_voucher = |books: &PayerBooks| books.get(&id).map(|book| book.state_of(max));
        let state = match (&presented.purpose, self.key.rpc(network)) {
            (Purpose::Refund, _) | (Purpose::Payment { deposit: Some(_) }, None) => {
                return AuthorizationState::Unknown;
            }
            (Purpose::Payment { deposit: None }, _) => of_voucher(&self.books),
            (
                Purpose::Payment {
                    deposit: Some(made),
                },
                Some(rpc),
            ) => {
                let amount = presented.deposited;
                let fate = self.fate(rpc, network, id, made, amount).await;
                match fate {
                    // Its voucher may have been charged out of another deposit.
                    AuthorizationState::Expired => of_voucher(&self.books).map(|it| match it {
                        AuthorizationState::Usable => AuthorizationState::Expired,
                        other => other,
                    }),
                    other => Some(other),
                }
            }
        };
        let state = state.unwrap_or(AuthorizationState::Unknown);
        if state == AuthorizationState::Expired {
            self.books.change(&id, |book| book.forget_all(max));
        }
        self.save_or_warn(id).await;
        state
    }

    async fn observe(
        &self,
        requirements: &PaymentRequirements,
        payload: &Object,
        outcome: PaymentOutcome<'_>,
    ) -> Next {
        let Ok(terms) = self.terms(requirements) else {
            return Next::Keep;
        };
        let network = terms.transfer.network.id();
        let Some(presented) = Presented::read(network, Some(terms.price), payload) else {
            return Next::Keep;
        };
        let next = match outcome {
            PaymentOutcome::Served { receipt } => {
                if let Some(receipt) = receipt.filter(|receipt| receipt.success) {
                    self.served(&presented, receipt).await;
                }
                Next::Keep
            }
            PaymentOutcome::Refused {
                terms: named,
                receipt,
                presented_before,
            } => {
                let extras = named.iter().filter_map(|terms| terms.extra.as_ref());
                let extras = extras.chain(receipt.and_then(|receipt| receipt.extra.as_ref()));
                let (key, separator) = (self.own.payer, domain_separator(terms.transfer.chain_id));
                let mut corrections = extras
                    .filter_map(|extra| Correction::read(extra, &presented.id, key, &separator));
                let correction = corrections.next();
                self.refused(&presented, correction, presented_before).await
            }
        };
        self.save_or_warn(presented.id).await;
        next
    }

    async fn reclaim(
        &self,
        requirements: &PaymentRequirements,
        _now: Timestamp,
    ) -> Result<Option<SignedPayment>, PayerError> {
        let terms = self.terms(requirements)?;
        let Some(book) = self.books.get(&terms.id) else {
            return Ok(None);
        };
        if book.refundable() == 0 {
            return Ok(None);
        }
        // For what was charged, and no more.
        let voucher = self.sign_voucher(&terms, book.charged).await?;
        let payload = json!({
            "type": "refund",
            "channelConfig": terms.config,
            "voucher": voucher,
        });
        let payload = Object::of(&payload).map_err(PayerError::Payload)?;
        Ok(Some(SignedPayment::lasting(payload)))
    }
}

/// What a payment has written into the book. It is undone if the payment does not leave.
struct Recorded<'a> {
    books: &'a PayerBooks,
    id: B256,
    increment: Increment,
    has_deposit: bool,
    is_kept: bool,
}

impl Recorded<'_> {
    /// The payment leaves.
    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Recorded<'_> {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        self.books.change(&self.id, |book| {
            book.forget(self.increment);
            if self.has_deposit {
                book.deposit = None;
            }
        });
    }
}

/// The payment by a voucher, and by the deposit that it needs.
fn payment(
    terms: &Terms<'_>,
    voucher: &Voucher,
    deposit: Option<&SignedDeposit>,
) -> Result<SignedPayment, PayerError> {
    let mut payload = json!({
        "type": if deposit.is_some() { "deposit" } else { "voucher" },
        "channelConfig": terms.config,
        "voucher": voucher,
    });
    if let Some(deposit) = deposit {
        payload["deposit"] = json!({
            "amount": deposit.amount.to_string(),
            "authorization": Value::Object(deposit.authorization.tree()),
        });
    }
    let payload = Object::of(&payload).map_err(PayerError::Payload)?;
    Ok(match deposit {
        Some(deposit) => SignedPayment {
            extensions: deposit.extensions.clone(),
            ..SignedPayment::new(payload, Timestamp::from_secs(deposit.expires))
        },
        None => SignedPayment::lasting(payload),
    })
}

#[cfg(test)]
mod tests;
