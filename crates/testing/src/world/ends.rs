//! The two ends of a payment on the simulated chain.

use async_trait::async_trait;
use ed25519_dalek::SigningKey;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, Rest, SupportedKind};
use quittance_core::{
    Amount, Asset, AuthorizationState, Flow, Malformed, Network, Offer, OfferError, Payer,
    PayerError, PaymentId, Quote, QuoteError, SignedPayment, Timestamp, kit,
};

use super::address::Address;
use super::exact::transfer_in;
use super::transaction::Authorization;
use super::{USD, World};

/// How long a payment may take, in seconds, unless the seller says otherwise: some blocks.
const TIMEOUT_SECS: u64 = 60;

/// The longest time for which the payer signs, in seconds, whatever the seller asks for: an hour.
const LIFETIME_MAX_SECS: u64 = 3600;

/// An offer to be paid a price in an asset of the simulated chain.
#[derive(Debug, Clone)]
pub struct SimulatedOffer {
    network: Network,
    asset: Asset,
    amount: Amount,
    pay_to: Address,
    flow: Flow,
    is_metered: bool,
}

impl SimulatedOffer {
    /// An offer of a decimal `price`, such as `"0.01"`.
    ///
    /// # Errors
    /// When the price is zero or finer than the asset's smallest unit, or `pay_to` is not an
    /// address.
    pub fn new(
        network: Network,
        asset: Asset,
        price: &str,
        pay_to: &str,
    ) -> Result<Self, OfferError> {
        let amount =
            Amount::from_decimal(price, asset.decimals).map_err(|source| OfferError::Price {
                price: price.to_owned(),
                symbol: asset.symbol.clone(),
                source,
            })?;
        if amount.is_zero() {
            return Err(OfferError::ZeroPrice);
        }
        let pay_to = pay_to.parse().map_err(|error: super::AddressError| {
            OfferError::PayTo(Malformed::new("payTo", error))
        })?;
        Ok(Self {
            network,
            asset,
            amount,
            pay_to,
            flow: Flow::Authorization,
            is_metered: false,
        })
    }

    /// Sets when the money moves.
    #[must_use]
    pub fn with_flow(self, flow: Flow) -> Self {
        Self { flow, ..self }
    }

    /// Lets handlers charge less than the price.
    #[must_use]
    pub fn metered(self) -> Self {
        Self {
            is_metered: true,
            ..self
        }
    }
}

#[async_trait]
impl Offer for SimulatedOffer {
    fn scheme(&self) -> &str {
        "exact"
    }

    fn network(&self) -> &Network {
        &self.network
    }

    fn flow(&self) -> Flow {
        self.flow
    }

    fn charge(&self, words: &str, price: Amount) -> Option<Result<Amount, OfferError>> {
        self.is_metered
            .then(|| kit::charged(words, price, self.asset.decimals))
    }

    fn requirements(&self, _supported: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        Ok(PaymentRequirements {
            scheme: self.scheme().to_owned(),
            network: self.network.id().to_owned(),
            amount: self.amount.to_string(),
            asset: self.asset.address.clone(),
            pay_to: self.pay_to.to_string(),
            max_timeout_seconds: TIMEOUT_SECS,
            extra: None,
            rest: Rest::default(),
        })
    }

    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        Some(transfer_in(payload)?.authorization.id(&self.network))
    }
}

/// A payer on the simulated chain, with its key.
pub struct SimulatedPayer {
    world: World,
    key: SigningKey,
    address: String,
}

/// Parsed requirements.
struct Order {
    to: Address,
    amount: Amount,
    timeout_secs: u64,
}

impl SimulatedPayer {
    /// The payer with this key. The world gives it nonces, and reports the outcome of an
    /// authorization.
    pub fn new(world: World, key: SigningKey) -> Self {
        let address = Address::from_key(&key).to_string();
        Self {
            world,
            key,
            address,
        }
    }

    /// The payer's address.
    pub fn account(&self) -> Address {
        Address::from_key(&self.key)
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Signs an authorization of any content.
    pub fn sign(&self, authorization: Authorization) -> super::Transfer {
        authorization.sign(self.world.network(), &self.key)
    }

    fn order(&self, requirements: &PaymentRequirements) -> Result<Order, QuoteError> {
        if requirements.scheme != "exact" || !self.world.network().is(&requirements.network) {
            return Err(QuoteError::NotSupported);
        }
        if requirements.asset != USD {
            return Err(QuoteError::unpayable(
                format_args!("asset: only {USD}").to_string(),
            ));
        }
        let amount = requirements.amount.parse().map_err(|error| {
            QuoteError::unpayable(format!("amount {:?}: {error}", requirements.amount))
        })?;
        let to = requirements.pay_to.parse().map_err(|error| {
            QuoteError::unpayable(format!("payTo {:?}: {error}", requirements.pay_to))
        })?;
        Ok(Order {
            to,
            amount,
            timeout_secs: requirements.max_timeout_seconds.min(LIFETIME_MAX_SECS),
        })
    }
}

#[async_trait]
impl Payer for SimulatedPayer {
    fn address(&self) -> &str {
        &self.address
    }

    fn quote(&self, requirements: &PaymentRequirements) -> Result<Quote, QuoteError> {
        let order = self.order(requirements)?;
        Ok(Quote {
            network: self.world.network().id().to_owned(),
            pay_to: order.to.to_string(),
            asset: World::usd(),
            amount: order.amount,
            locks: Amount::ZERO,
        })
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        _offered: Option<&Object>,
        now: Timestamp,
    ) -> Result<SignedPayment, PayerError> {
        let order = self.order(requirements)?;
        let expires = now.plus_secs(order.timeout_secs);
        let transfer = self.sign(Authorization {
            asset: USD.to_owned(),
            from: self.account(),
            to: order.to,
            amount: order.amount,
            nonce: self.world.new_nonce(),
            expires: expires.secs(),
        });
        let payload = Object::of(&transfer).map_err(PayerError::Payload)?;
        Ok(SignedPayment::new(payload, expires))
    }

    async fn authorization_state(
        &self,
        _network: &str,
        _asset: &str,
        payload: &Object,
        expires: Timestamp,
    ) -> AuthorizationState {
        let Some(transfer) = transfer_in(payload) else {
            return AuthorizationState::Unknown;
        };
        let authorization = transfer.authorization;
        let state = self.world.ask(|ledger| {
            let is_used = ledger
                .accounts
                .is_used(&authorization.from, &authorization.nonce);
            (is_used, ledger.block_time())
        });
        match state {
            None => AuthorizationState::Unknown,
            Some((true, _)) => AuthorizationState::Used(None),
            Some((false, Some(time))) if time >= expires.secs() => AuthorizationState::Expired,
            Some(_) => AuthorizationState::Usable,
        }
    }
}
