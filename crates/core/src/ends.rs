//! The two ends of a payment: a seller's offer and a buyer's payer.

use async_trait::async_trait;

use crate::json::Object;
use crate::wire::{PaymentRequirements, SupportedKind};
use crate::{Amount, AmountError, Malformed, Network, PaymentId, Timestamp};

/// A way to be paid: the seller's side of a scheme. Turns a price into [`PaymentRequirements`].
#[async_trait]
pub trait Offer: Send + Sync + 'static {
    /// The scheme's name.
    fn scheme(&self) -> &str;

    /// Where it is paid. Its alias, if it has one, is how version 1 buyers know it.
    fn network(&self) -> &Network;

    /// The requirements for a buyer, given what the facilitator says of this scheme and network.
    ///
    /// # Errors
    /// When the facilitator's word lacks something the scheme needs.
    fn requirements(&self, supported: &SupportedKind) -> Result<PaymentRequirements, OfferError>;

    /// Which authorization a payload holds: the same [`PaymentId`] as the scheme's
    /// [`PaymentInfo::id`](crate::PaymentInfo::id). Unknown fields, spelling and signature bytes make no
    /// difference to it, because they make none to the chain.
    ///
    /// A seller serves one authorization to one request at a time, and goes by this. `None` where the
    /// payload holds no authorization that this offer can read; then the whole payload counts.
    fn authorization(&self, _payload: &Object) -> Option<PaymentId> {
        None
    }

    /// What helps a buyer to pay and is another thing from one moment to the next, such as a recent blockhash: more fields
    /// for `extra`. Nobody is held to them: what a buyer accepts is compared with the requirements alone, and so is its
    /// payment.
    ///
    /// Whoever asks for the terms waits for it, so it comes soon, or not at all. `None` where there is nothing to tell.
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
    /// The network is not one of the offer's chain family.
    #[error("{network} is not a network of {family}")]
    Network {
        /// The network as the seller named it.
        network: String,
        /// The chain family, such as `EVM`.
        family: &'static str,
    },
    /// No token of this name is known on the network.
    #[error("no token {asset} is known on {network}")]
    UnknownAsset {
        /// The token's ticker or address.
        asset: String,
        /// The network.
        network: String,
    },
    /// The scheme cannot be paid in this token.
    #[error("{symbol} cannot be used: {problem}")]
    UnsupportedAsset {
        /// The token's ticker.
        symbol: String,
        /// What the scheme needs and the token lacks.
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
    /// The facilitator's `/supported` does not have what the scheme needs.
    #[error("the facilitator's /supported answer is not usable: {0}")]
    Supported(#[source] Malformed),
}

/// What is known of an asset, for limits and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// Its address, as the chain spells it.
    pub address: String,
    /// Its ticker.
    pub symbol: String,
    /// How many decimal places people write it with.
    pub decimals: u8,
}

/// What paying some requirements would cost, and whom.
///
/// Names are the chain's own spelling, one for each thing: limits and purchases go by them, and what a seller can spell in
/// two ways must not count as two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// The network, by its CAIP-2 identifier, however the requirements name it.
    pub network: String,
    /// Who is paid.
    pub pay_to: String,
    /// The asset, as the payer knows it from its own list. Never from what the seller says of it.
    pub asset: Asset,
    /// How much of it, in atomic units, at most.
    pub amount: Amount,
}

/// Why a payer has no quote for some requirements.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// They are of another scheme or another chain family: another payer may support them.
    #[error("this payer does not support the scheme and network")]
    NotSupported,
    /// They are of this payer's scheme and chains, and a field is missing or wrong.
    #[error("{0}")]
    Unpayable(String),
}

impl QuoteError {
    /// Requirements that this payer supports, with what is missing or wrong.
    pub fn unpayable(what: impl Into<String>) -> Self {
        Self::Unpayable(what.into())
    }
}

/// What the chain says of an authorization that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorizationState {
    /// It was used, or cancelled by its payer. The transaction that used it, where it was found.
    Used(Option<String>),
    /// It was not used, and by the chain's own clock no block can take it any more.
    Expired,
    /// It was not used yet, and still can be.
    Usable,
    /// The chain was not asked, or has no answer.
    Unknown,
}

/// A way to pay: the buyer's side of a scheme, with its key.
#[async_trait]
pub trait Payer: Send + Sync + 'static {
    /// Who pays, as the chain spells it.
    fn address(&self) -> &str;

    /// What it would cost to pay these requirements. Signs nothing.
    ///
    /// Only what [`pay`](Self::pay) would sign, and what the chain would then take, is quoted: the next way to pay is not
    /// tried once this one is chosen. What the payer's own list says of an asset wins over what the requirements say.
    ///
    /// # Errors
    /// When this payer cannot pay them, and why.
    fn quote(&self, requirements: &PaymentRequirements) -> Result<Quote, QuoteError>;

    /// Signs a payment: the `payload` of a [`PaymentPayload`](crate::wire::PaymentPayload), and when it expires.
    ///
    /// Each call makes another authorization, which is worth money. To try again, present the first one again.
    ///
    /// # Errors
    /// When the requirements cannot be met or the key does not sign.
    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        now: Timestamp,
    ) -> Result<(Object, Timestamp), PayerError>;

    /// What the chain says of an authorization that was signed before: `payload` and `expires` are what [`pay`](Self::pay)
    /// returned, `network` and `asset` are spelled as in the [`Quote`].
    ///
    /// A buyer signs another payment on [`Expired`](AuthorizationState::Expired) alone, so it is said only when no
    /// reorganisation that happens in practice can change it. A payer without a node says
    /// [`Unknown`](AuthorizationState::Unknown), as this default does.
    async fn authorization_state(
        &self,
        _network: &str,
        _asset: &str,
        _payload: &Object,
        _expires: Timestamp,
    ) -> AuthorizationState {
        AuthorizationState::Unknown
    }
}

/// Why a payer does not pay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayerError {
    /// The requirements lack something or contradict themselves.
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
}
