//! The two ends of a payment: a seller's offer and a buyer's payer.

use async_trait::async_trait;

use crate::json::Object;
use crate::wire::{PaymentRequirements, SupportedKind};
use crate::{Amount, Network, PaymentId, Timestamp};

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
    /// [`Facts::id`](crate::Facts::id). Unknown fields, spelling and signature bytes make no
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
pub enum OfferError {
    /// The price is not one, or not payable in this asset.
    #[error("price: {0}")]
    Price(String),
    /// The asset is not known.
    #[error("asset: {0}")]
    Asset(String),
    /// The recipient is not an address of this chain.
    #[error("pay to: {0}")]
    PayTo(String),
    /// The facilitator does not say what the scheme needs.
    #[error("the facilitator's /supported: {0}")]
    Supported(String),
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

/// Why a payer does not pay some requirements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuoteError {
    /// They are of another scheme or of another family of chains: another payer may pay them.
    NotSupported,
    /// They are of this payer's scheme and chains, and this is missing or wrong. Written for people.
    Unpayable(String),
}

impl QuoteError {
    /// Requirements that are this payer's, with what is missing or wrong.
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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayerError {
    /// The requirements lack something or contradict themselves.
    #[error("the requirements cannot be met: {0}")]
    Requirements(String),
    /// The key did not sign.
    #[error("signing failed: {0}")]
    Signing(String),
    /// Something the payment needs from the chain could not be learnt.
    #[error("the chain could not be read: {0}")]
    Chain(String),
}
