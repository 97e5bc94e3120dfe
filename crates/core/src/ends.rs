//! The two ends of a payment: a seller's offer and a buyer's payer.

use std::any::Any;

use async_trait::async_trait;

use crate::json::Object;
use crate::wire::{PaymentRequirements, SettleResponse, SupportedKind};
use crate::{
    Amount, AmountError, Flow, Malformed, Network, PaymentId, PaymentRequest, Phase, Rejection,
    Timestamp,
};

/// A way to be paid: the seller's side of a scheme. Turns a price into [`PaymentRequirements`].
///
/// **The seller's layer** calls [`requirements`](Self::requirements) for each 402 response and for
/// each payment, from many tasks at once. The `/supported` answer may be a few minutes old.
///
/// **An implementation must** give equal requirements for an equal entry of `/supported`: a buyer
/// returns them with the payment, and the layer compares. Only what
/// [`stated_before`](Self::stated_before) accepts may change with time.
///
/// ```
/// use quittance_core::{Offer, Payer, PaymentInfo, Scheme};
/// use quittance_testing::world::{Environment, SimulatedExact};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let world = Environment::new().world;
/// let (offer, request) = (world.offer(), world.request(&world.payer(0)).await);
/// let payment = SimulatedExact::new(&world.chain()).decode(&request, world.now())?;
/// // The layer and the facilitator agree on which authorization this is.
/// assert_eq!(offer.authorization(&request.payload), Some(payment.info().id));
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Offer: Send + Sync + 'static {
    /// The scheme's name.
    fn scheme(&self) -> &str;

    /// The network on which the seller is paid. Its alias, if any, is its name for version 1
    /// buyers.
    fn network(&self) -> &Network;

    /// The requirements for a buyer. `supported` is the facilitator's entry for this scheme and
    /// network in `/supported`.
    ///
    /// # Errors
    /// When the facilitator's entry lacks something that the scheme needs.
    fn requirements(&self, supported: &SupportedKind) -> Result<PaymentRequirements, OfferError>;

    /// The requirements as an earlier 402 response stated them, if a buyer's `copy` of them shows
    /// which, and the offer still accepts it. `own` are the requirements now. `None`, the default,
    /// if they do not change with time.
    ///
    /// An offer whose requirements have a deadline returns `own` with the deadline of the copy. The
    /// layer compares the copy with the result.
    fn stated_before(
        &self,
        _own: &PaymentRequirements,
        _copy: &PaymentRequirements,
    ) -> Option<PaymentRequirements> {
        None
    }

    /// The identity of the authorization in a payload: the same [`PaymentId`] as the scheme's
    /// [`PaymentInfo::id`](crate::PaymentInfo::id). It ignores unknown fields, spelling and
    /// signature bytes, because the chain ignores them too.
    ///
    /// A seller serves one authorization to one request at a time, and compares authorizations by
    /// this identity. `None` if this offer cannot read an authorization from the payload. The
    /// seller then compares whole payloads.
    fn authorization(&self, _payload: &Object) -> Option<PaymentId> {
        None
    }

    /// When the money moves. The seller's layer writes it into the requirements' `extra`, and asks
    /// the facilitator in that order. The flow of an offer does not change.
    fn flow(&self) -> Flow {
        Flow::Authorization
    }

    /// The request to the facilitator at this moment of a sale; `None` if it is not asked.
    /// `payment` is the client's payment, and `terms` are the requirements that it accepted.
    ///
    /// The default sends the client's payload, with the charged amount after the handler. It asks
    /// nothing on [`Phase::Cancel`]. After the handler of a [`Flow::Upfront`] sale it asks nothing
    /// either.
    ///
    /// **The seller's layer** runs its handler only after a success before it. Afterwards it asks
    /// once for [`Phase::AfterHandler`] or once for [`Phase::Cancel`], or for the second after the
    /// first was refused.
    ///
    /// **An implementation must** return a request before the handler, and after the handler of a
    /// [`Flow::Authorization`] sale. It makes a request with other content by
    /// [`PaymentRequest::completed`], so that the facilitator of the first request gets it.
    ///
    /// # Errors
    /// When the request cannot be made. The sale then ends without a charge.
    async fn request(
        &self,
        phase: Phase<'_>,
        payment: &PaymentRequest,
        _terms: &PaymentRequirements,
    ) -> Result<Option<PaymentRequest>, OfferError> {
        let flow = self.flow();
        Ok(match phase {
            Phase::Verify => (!flow.settles_first()).then(|| payment.clone()),
            Phase::BeforeHandler => flow.settles_first().then(|| payment.clone()),
            Phase::AfterHandler { .. } if flow == Flow::Upfront => None,
            Phase::AfterHandler { charged, .. } => {
                Some(payment.charging(charged).map_err(OfferError::Request)?)
            }
            Phase::Cancel { .. } => None,
        })
    }

    /// The amount that a handler charges by these words, in atomic units: `1500`, `12.34%` or
    /// `$0.002`. `None` if the scheme always settles its price, as it is by default.
    ///
    /// [`kit::charged`](crate::kit::charged) reads the words. The seller's layer refuses a charge
    /// over the price.
    ///
    /// # Errors
    /// When the words cannot be read, or the charge is over the price. It is the handler's error.
    fn charge(&self, _words: &str, _price: Amount) -> Option<Result<Amount, OfferError>> {
        None
    }

    /// What the 402 response says of this offer under `extensions`, by extension identifier.
    /// `supported` has the extensions in the facilitator's `/supported` response.
    ///
    /// The seller's layer writes the extensions of all offers into one object. The first offer that
    /// has an identifier decides its value, so two offers should say the same about one extension.
    ///
    /// **An implementation must** name an extension that the facilitator acts on, such as
    /// `eip2612GasSponsoring`, only if `supported` names it too. A buyer that signs one for another
    /// facilitator cannot pay.
    fn extensions(&self, _supported: &[String]) -> Option<Object> {
        None
    }

    /// What the payload uses beside its authorization and only one request may use at a time, such
    /// as a channel. `None` if there is nothing.
    ///
    /// The seller's layer serves one request at a time for each value. It compares the values of
    /// one scheme and network, so they must have one spelling.
    fn serial(&self, _payload: &Object) -> Option<String> {
        None
    }

    /// The body of the response to a payload that buys nothing, such as a payer's request for the
    /// refund of its channel. `None` if the payload buys a response of the handler, as almost all
    /// do.
    ///
    /// The seller's layer has such a payload verified and settled like any other. It answers with
    /// this body, and the handler does not run.
    fn acknowledgement(&self, _payload: &Object) -> Option<Object> {
        None
    }

    /// What a 402 response adds to `extra` of this offer after the facilitator has rejected a
    /// payment, such as the state of the buyer's channel. The buyer can then sign a payment that is
    /// valid. `None` if there is nothing to correct.
    ///
    /// The rejection is that of `/verify` or `/settle`, with the facilitator's `extra`. Its reason
    /// code is empty if the facilitator names none.
    ///
    /// The requirements' own fields stay as they are, because the layer compares them.
    fn correct(&self, _rejection: &Rejection) -> Option<Object> {
        None
    }

    /// Short-lived fields such as a recent blockhash, to be added to `extra`. They are not part of
    /// the terms and are not compared, neither with the buyer's copy nor with its payment. `None`
    /// if there are none now.
    ///
    /// The buyer's request waits for this call, so it must return quickly.
    async fn hints(&self) -> Option<Object> {
        None
    }
}

/// Why an offer cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// The price is not a decimal number, or is finer than the token's atomic unit.
    #[error("the price {price:?} of {symbol} is not usable: {source}")]
    Price {
        /// The price as the seller wrote it.
        price: String,
        /// The token's ticker.
        symbol: String,
        /// What is wrong with it.
        source: AmountError,
    },
    /// The price is zero.
    #[error("the price must be greater than zero")]
    ZeroPrice,
    /// The price is more than an account can hold.
    #[error("the price is {amount} atomic units, more than an account can hold ({max})")]
    PriceTooHigh {
        /// The price in atomic units.
        amount: Amount,
        /// The most that an account can hold.
        max: Amount,
    },
    /// The network does not belong to the offer's chain family.
    #[error("{network} is not a network of {family}")]
    Network {
        /// The network, as the seller wrote it.
        network: String,
        /// The chain family, such as `EVM`.
        family: &'static str,
    },
    /// The network has no known token of this name.
    #[error("no token {asset} is known on {network}")]
    UnknownAsset {
        /// The token's ticker or address.
        asset: String,
        /// The network.
        network: String,
    },
    /// The scheme cannot use this token.
    #[error("{symbol} cannot be used: {problem}")]
    UnsupportedAsset {
        /// The token's ticker.
        symbol: String,
        /// What the scheme needs and the token does not have.
        problem: &'static str,
    },
    /// The recipient is not an address of the chain.
    #[error("the recipient is not an address: {0}")]
    PayTo(#[source] Malformed),
    /// The memo is empty or too long.
    #[error("the memo has {length} bytes; 1 to {max} are possible")]
    Memo {
        /// The memo's length in bytes.
        length: usize,
        /// The longest memo in bytes.
        max: usize,
    },
    /// A field of the offer's `extra` cannot be written.
    #[error("the offer's extra cannot be written: {0}")]
    Extra(#[source] Malformed),
    /// What the handler charges cannot be read.
    #[error(
        "the charge {words:?} is not an amount in atomic units, a percentage (12.34%), or dollars ($0.002)"
    )]
    Charge {
        /// The charge as the handler wrote it.
        words: String,
    },
    /// The handler charges more than the buyer has authorized.
    #[error("the charge is {charged} atomic units, more than the price of {price}")]
    ChargeTooHigh {
        /// What the handler charges, in atomic units.
        charged: Amount,
        /// The price in atomic units.
        price: Amount,
    },
    /// The scheme always settles its price.
    #[error("the scheme {scheme} settles its price: a handler cannot charge less")]
    FixedPrice {
        /// The scheme.
        scheme: String,
    },
    /// A request to the facilitator cannot be written.
    #[error("the request to the facilitator cannot be written: {0}")]
    Request(#[source] Malformed),
    /// The facilitator's `/supported` response lacks what the scheme needs.
    #[error("the facilitator's /supported answer is not usable: {0}")]
    Supported(#[source] Malformed),
}

/// An asset, as limits and people need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// The asset's address, in the chain's own spelling.
    pub address: String,
    /// The asset's ticker.
    pub symbol: String,
    /// How many decimal places its amounts have for people.
    pub decimals: u8,
}

/// The cost and the recipient of a payment for some requirements.
///
/// All names have the chain's canonical spelling. Limits and stored purchases compare these names,
/// so one recipient or asset must not have two spellings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// The network's CAIP-2 identifier, whichever name the requirements use.
    pub network: String,
    /// The recipient's address.
    pub pay_to: String,
    /// The asset, from the payer's own list. The seller's description of it is never used.
    pub asset: Asset,
    /// The largest amount that can be paid, in atomic units.
    pub amount: Amount,
    /// The largest amount that is locked up besides, in atomic units, such as the rest of a
    /// channel's deposit. It counts against the buyer's limits. Zero for most schemes.
    pub locks: Amount,
}

/// Why a payer has no quote for some requirements.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// The scheme or the chain family is not this payer's. Another payer may support the
    /// requirements.
    #[error("this payer does not support the scheme and network")]
    NotSupported,
    /// The scheme and the chain family are this payer's, but a field is missing or wrong.
    #[error("{0}")]
    Unpayable(String),
}

impl QuoteError {
    /// Requirements for this payer, with the field that is missing or wrong.
    pub fn unpayable(what: impl Into<String>) -> Self {
        Self::Unpayable(what.into())
    }
}

/// A payment that a [`Payer`] has signed.
#[derive(Clone, PartialEq)]
pub struct SignedPayment {
    /// The `payload` of a [`PaymentPayload`](crate::wire::PaymentPayload).
    pub payload: Object,
    /// The payer's own fields of offered extensions, by extension identifier. The buyer adds them
    /// to the fields that the 402 response offered.
    pub extensions: Option<Object>,
    /// When the payment expires; [`Timestamp::NEVER`] if it never does, such as a voucher.
    pub expires: Timestamp,
}

impl SignedPayment {
    /// A payment without extensions.
    pub fn new(payload: Object, expires: Timestamp) -> Self {
        Self {
            payload,
            extensions: None,
            expires,
        }
    }

    /// A payment without extensions that never expires, such as a channel's voucher.
    pub fn lasting(payload: Object) -> Self {
        Self::new(payload, Timestamp::NEVER)
    }
}

impl std::fmt::Debug for SignedPayment {
    /// Omits the payload and the extensions: their signatures can move money.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedPayment")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The state of a signed authorization on the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorizationState {
    /// The authorization was used, or its payer cancelled it. Has the transaction, if it was found.
    Used(Option<String>),
    /// The authorization was not used, and no later block can accept it, by the chain's own clock.
    ///
    /// A payment that never expires is in this state once it can never be charged. For example, its
    /// channel is closed, or the channel has charged a later voucher without it.
    Expired,
    /// The authorization was not used yet, and a later block can still accept it.
    Usable,
    /// The chain was not asked, or did not answer.
    Unknown,
}

/// What a server did with a payment, as the buyer read it from the response.
///
/// The server may lie. A payer believes what a signature of its own or the chain proves, such as a
/// channel's last voucher.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PaymentOutcome<'a> {
    /// The server delivered, or its receipt says that the payment settled.
    Served {
        /// The receipt; `None` if there is none that can be read.
        receipt: Option<&'a SettleResponse>,
    },
    /// The server refused the payment.
    Refused {
        /// The requirements in the refusal. Their `extra` may have a correction, such as the state
        /// of the payer's channel.
        terms: &'a [PaymentRequirements],
        /// The receipt; `None` if there is none that can be read.
        receipt: Option<&'a SettleResponse>,
        /// Whether the server may have seen the payment before, and may have charged it then. If
        /// not, an honest server has charged nothing for it.
        presented_before: bool,
    },
}

/// What follows from the outcome of a payment, by its payer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The payment stays as it is. The buyer presents it again with the next call, until it is
    /// delivered or over.
    Keep,
    /// Another payment for the same purchase takes the place of this one, such as a channel's next
    /// voucher. The two can never both be charged, whatever the server does.
    Replace,
    /// The payment was charged, and the server refuses to deliver for it. The buyer signs no other
    /// one for this purchase. The payer counts it as charged: its next payment is for another
    /// purchase, such as the next tick of a stream.
    Used,
}

/// The right to sign a payer's next payment. Dropping it lets the next call sign.
///
/// Payments that expire need none: [`Turn::default`] holds nothing.
#[derive(Default)]
pub struct Turn(Option<Box<dyn Any + Send + Sync>>);

impl Turn {
    /// A turn that ends when this guard is dropped, such as that of a lock.
    pub fn holding(guard: impl Any + Send + Sync) -> Self {
        Self(Some(Box::new(guard)))
    }
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(_) => f.write_str("Turn(..)"),
            None => f.write_str("Turn"),
        }
    }
}

/// A way to pay: the buyer's side of a scheme, with the buyer's key.
///
/// **The buyer** calls [`quote`](Self::quote) for each payment option, compares the quote with its
/// limits, and writes the payment to its store before it presents it. It calls
/// [`pay`](Self::pay) once for a purchase. Before it signs another one, it asks
/// [`authorization_state`](Self::authorization_state), or [`observe`](Self::observe) has answered
/// [`Replace`](Next::Replace).
///
/// **An implementation must** sign exactly what it quoted: the same recipient, asset and amount,
/// for no longer than the requirements ask for.
///
/// ```
/// use quittance_core::{AuthorizationState, Payer};
/// use quittance_testing::world::Environment;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let world = Environment::new().world;
/// let (payer, requirements) = (world.payer(0), world.requirements());
/// let quote = payer.quote(&requirements)?;
/// assert_eq!(quote.amount.to_string(), requirements.amount);
///
/// let paid = payer.pay(&requirements, None, world.now()).await?;
/// let (network, asset) = (&quote.network, &quote.asset.address);
/// let state = payer.authorization_state(network, asset, &paid.payload, paid.expires).await;
/// assert_eq!(state, AuthorizationState::Usable);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Payer: Send + Sync + 'static {
    /// The payer's address, in the chain's own spelling.
    fn address(&self) -> &str;

    /// The cost of paying these requirements. Signs nothing.
    ///
    /// Quotes only what [`pay`](Self::pay) would sign and the chain would accept. Once the buyer
    /// has chosen a payment option, it does not try the next one. For the asset, the payer's own
    /// list takes precedence over the requirements.
    ///
    /// # Errors
    /// When this payer cannot pay the requirements. The error has the reason.
    fn quote(&self, requirements: &PaymentRequirements) -> Result<Quote, QuoteError>;

    /// Waits for this payer's turn to pay these requirements. Payments out of one channel come one
    /// after the other; payments that expire need no turn, as in this default.
    ///
    /// **The buyer** takes the turn, asks [`quote`](Self::quote) again, because an earlier payment
    /// can have changed what a payment locks up, and calls [`pay`](Self::pay). It keeps the turn
    /// until the call ends in which it presents the payment. Before a payment that replaces
    /// another one, it gives up the old turn and takes a new one.
    ///
    /// **An implementation must** let `pay` work without a turn.
    async fn turn(&self, _requirements: &PaymentRequirements) -> Turn {
        Turn::default()
    }

    /// Signs a payment. `offered` has the extensions in the 402 response, if there are any.
    ///
    /// A payer signs only extensions that were offered and that it knows. The buyer echoes the
    /// others untouched.
    ///
    /// Each call makes a new authorization, which can move money. To retry, present the first one
    /// again.
    ///
    /// # Errors
    /// When the requirements cannot be met, or signing fails.
    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        offered: Option<&Object>,
        now: Timestamp,
    ) -> Result<SignedPayment, PayerError>;

    /// The state of a signed authorization on the chain. `payload` and `expires` are from the
    /// result of [`pay`](Self::pay). `network` and `asset` have the spelling of the [`Quote`].
    ///
    /// A buyer signs another payment only after [`Expired`](AuthorizationState::Expired). So return
    /// it only if no realistic reorganisation can change it. A payer without a node returns
    /// [`Unknown`](AuthorizationState::Unknown), as this default does.
    ///
    /// The buyer asks after `expires`. If that is [`Timestamp::NEVER`], it asks in each later call,
    /// and the payer may answer from its own books.
    async fn authorization_state(
        &self,
        _network: &str,
        _asset: &str,
        _payload: &Object,
        _expires: Timestamp,
    ) -> AuthorizationState {
        AuthorizationState::Unknown
    }

    /// Takes note of what a server did with a payment, so that the payer can keep the books of a
    /// channel. `payload` is from the result of [`pay`](Self::pay), perhaps in an earlier process.
    /// `requirements` are those that it was presented for.
    ///
    /// **The buyer** calls this after each delivery and each refusal, once the response has begun
    /// and before the caller has it. It calls nothing after a lost response. After
    /// [`Replace`](Next::Replace) it signs for the requirements of the refusal, within its
    /// limits and at most twice in a call. It accepts only requirements with the same recipient,
    /// asset and amount.
    ///
    /// **An implementation must** answer quickly, and answer `Replace` only if the two payments can
    /// never both be charged. A payment that the server has already charged is
    /// [`Used`](Next::Used), because a payment after it is charged in addition. The
    /// default is right for payments that expire.
    ///
    /// ```
    /// use quittance_core::{Next, Payer, PaymentOutcome};
    /// use quittance_testing::world::Environment;
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let world = Environment::new().world;
    /// let (payer, terms) = (world.payer(0), [world.requirements()]);
    /// let paid = payer.pay(&terms[0], None, world.now()).await?;
    /// // A transfer that was refused can still be used until it expires.
    /// let (receipt, presented_before) = (None, false);
    /// let refused = PaymentOutcome::Refused { terms: &terms, receipt, presented_before };
    /// let next = payer.observe(&terms[0], &paid.payload, refused).await;
    /// assert_eq!(next, Next::Keep);
    /// # Ok(())
    /// # }
    /// ```
    async fn observe(
        &self,
        _requirements: &PaymentRequirements,
        _payload: &Object,
        _outcome: PaymentOutcome<'_>,
    ) -> Next {
        Next::Keep
    }

    /// Signs a request to get back what earlier payments to this seller have locked up, such as the
    /// rest of a channel's deposit. `None` if nothing is locked up, as in this default. The seller
    /// answers it like a payment, and [`observe`](Self::observe) hears the answer.
    ///
    /// **An implementation must** sign nothing by which the seller gets more than before.
    ///
    /// # Errors
    /// When signing fails.
    async fn reclaim(
        &self,
        _requirements: &PaymentRequirements,
        _now: Timestamp,
    ) -> Result<Option<SignedPayment>, PayerError> {
        Ok(None)
    }
}

#[async_trait]
impl<T: Payer + ?Sized> Payer for Box<T> {
    fn address(&self) -> &str {
        (**self).address()
    }

    fn quote(&self, requirements: &PaymentRequirements) -> Result<Quote, QuoteError> {
        (**self).quote(requirements)
    }

    async fn turn(&self, requirements: &PaymentRequirements) -> Turn {
        (**self).turn(requirements).await
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        offered: Option<&Object>,
        now: Timestamp,
    ) -> Result<SignedPayment, PayerError> {
        (**self).pay(requirements, offered, now).await
    }

    async fn authorization_state(
        &self,
        network: &str,
        asset: &str,
        payload: &Object,
        expires: Timestamp,
    ) -> AuthorizationState {
        let inner = &**self;
        inner
            .authorization_state(network, asset, payload, expires)
            .await
    }

    async fn observe(
        &self,
        requirements: &PaymentRequirements,
        payload: &Object,
        outcome: PaymentOutcome<'_>,
    ) -> Next {
        (**self).observe(requirements, payload, outcome).await
    }

    async fn reclaim(
        &self,
        requirements: &PaymentRequirements,
        now: Timestamp,
    ) -> Result<Option<SignedPayment>, PayerError> {
        (**self).reclaim(requirements, now).await
    }
}

/// Why a payer does not pay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayerError {
    /// The requirements lack something, or contradict each other.
    #[error("the payment requirements cannot be met: {0}")]
    Requirements(#[from] QuoteError),
    /// A field of the payload cannot be written.
    #[error("the payload cannot be written: {0}")]
    Payload(#[source] Malformed),
    /// The key did not sign.
    #[error("signing failed: {0}")]
    Signing(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The chain could not be read.
    #[error("the chain could not be read: {0}")]
    Chain(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The payer's books could not be read or written. Without them it signs nothing.
    #[error("the payer's books: {0}")]
    Books(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl PayerError {
    /// The key did not sign, for this reason.
    pub fn signing(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Signing(source.into())
    }

    /// The chain could not be read, for this reason.
    pub fn chain(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Chain(source.into())
    }

    /// The books could not be read or written, for this reason.
    pub fn books(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Books(source.into())
    }
}
