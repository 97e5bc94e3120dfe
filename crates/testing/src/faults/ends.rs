//! An offer and a payer with one fault.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, SupportedKind};
use quittance_core::{
    Amount, AuthorizationState, Flow, Network, Next, Offer, OfferError, Payer, PayerError,
    PaymentId, PaymentOutcome, PaymentRequest, Phase, Quote, QuoteError, Rejection, SignedPayment,
    Timestamp, Turn,
};

/// What is wrong with a [`FaultyOffer`] or a [`FaultyPayer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it; the two types show each")]
pub enum EndsFault {
    OffersAnotherScheme,
    OffersNothing,
    OffersNoTime,
    OffersAnotherTimeEachTime,
    KnowsNoIdentity,
    IdentityOfTheText,
    IdentityOfAnything,
    QuotesTheSellersNetwork,
    QuotesTheSellersRecipient,
    QuotesTheSellersAsset,
    QuotesLess,
    QuotesEverything,
    PaysEverything,
    PaysMore,
    PaysForLonger,
    PaysTheSamePaymentAgain,
    ExpiresLater,
    ExpiresEarlier,
    AnotherAddress,
    SignsUnknownExtensions,
    SignsWhatWasNotOffered,
    OffersUnsupportedExtensions,
    AsksTwiceBefore,
    AsksNothingBefore,
    ForgetsTheOrigin,
    ChargesThePrice,
    ChargesOverThePrice,
    ChargesAnything,
}

impl EndsFault {
    /// All faults.
    pub const ALL: [Self; 28] = [
        Self::OffersAnotherScheme,
        Self::OffersNothing,
        Self::OffersNoTime,
        Self::OffersAnotherTimeEachTime,
        Self::KnowsNoIdentity,
        Self::IdentityOfTheText,
        Self::IdentityOfAnything,
        Self::QuotesTheSellersNetwork,
        Self::QuotesTheSellersRecipient,
        Self::QuotesTheSellersAsset,
        Self::QuotesLess,
        Self::QuotesEverything,
        Self::PaysEverything,
        Self::PaysMore,
        Self::PaysForLonger,
        Self::PaysTheSamePaymentAgain,
        Self::ExpiresLater,
        Self::ExpiresEarlier,
        Self::AnotherAddress,
        Self::SignsUnknownExtensions,
        Self::SignsWhatWasNotOffered,
        Self::OffersUnsupportedExtensions,
        Self::AsksTwiceBefore,
        Self::AsksNothingBefore,
        Self::ForgetsTheOrigin,
        Self::ChargesThePrice,
        Self::ChargesOverThePrice,
        Self::ChargesAnything,
    ];
}

/// An offer that does one thing wrong, and everything else as the offer inside it.
pub struct FaultyOffer {
    inner: Arc<dyn Offer>,
    fault: Option<EndsFault>,
    /// How many times it made requirements.
    offered: AtomicU64,
}

impl FaultyOffer {
    /// The offer with this fault, or with none.
    pub fn new(inner: Arc<dyn Offer>, fault: Option<EndsFault>) -> Self {
        Self {
            inner,
            fault,
            offered: AtomicU64::new(0),
        }
    }
}

#[async_trait]
impl Offer for FaultyOffer {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    fn network(&self) -> &Network {
        self.inner.network()
    }

    fn requirements(&self, supported: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        let mut requirements = self.inner.requirements(supported)?;
        match self.fault {
            Some(EndsFault::OffersAnotherScheme) => requirements.scheme.push('x'),
            Some(EndsFault::OffersNothing) => "0".clone_into(&mut requirements.amount),
            Some(EndsFault::OffersNoTime) => requirements.max_timeout_seconds = 0,
            Some(EndsFault::OffersAnotherTimeEachTime) => {
                requirements.max_timeout_seconds += self.offered.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
        Ok(requirements)
    }

    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        let text = payload.text().as_bytes();
        match self.fault {
            Some(EndsFault::KnowsNoIdentity) => None,
            Some(EndsFault::IdentityOfTheText) => Some(PaymentId::from_parts(&[text])),
            Some(EndsFault::IdentityOfAnything) => {
                let known = self.inner.authorization(payload);
                known.or_else(|| Some(PaymentId::from_parts(&[text])))
            }
            _ => self.inner.authorization(payload),
        }
    }

    fn flow(&self) -> Flow {
        self.inner.flow()
    }

    async fn request(
        &self,
        phase: Phase<'_>,
        payment: &PaymentRequest,
        terms: &PaymentRequirements,
    ) -> Result<Option<PaymentRequest>, OfferError> {
        let request = self.inner.request(phase, payment, terms).await?;
        Ok(match (self.fault, phase) {
            (Some(EndsFault::AsksTwiceBefore), Phase::Verify | Phase::BeforeHandler) => {
                Some(payment.clone())
            }
            (Some(EndsFault::AsksNothingBefore), Phase::Verify | Phase::BeforeHandler) => None,
            (Some(EndsFault::ForgetsTheOrigin), Phase::AfterHandler { .. }) => {
                let mut other = payment.clone();
                other.authorization = Some(PaymentId::from_parts(&[b"another"]));
                Some(other)
            }
            (Some(EndsFault::ChargesThePrice), Phase::AfterHandler { .. }) => {
                request.map(|_| payment.clone())
            }
            _ => request,
        })
    }

    fn charge(&self, words: &str, price: Amount) -> Option<Result<Amount, OfferError>> {
        match self.fault {
            Some(EndsFault::ChargesOverThePrice) => Some(words.parse().map_err(|_| {
                let words = words.to_owned();
                OfferError::Charge { words }
            })),
            Some(EndsFault::ChargesAnything) => Some(Ok(price)),
            _ => self.inner.charge(words, price),
        }
    }

    fn stated_before(
        &self,
        own: &PaymentRequirements,
        copy: &PaymentRequirements,
    ) -> Option<PaymentRequirements> {
        self.inner.stated_before(own, copy)
    }

    fn serial(&self, payload: &Object) -> Option<String> {
        self.inner.serial(payload)
    }

    fn acknowledgement(&self, payload: &Object) -> Option<Object> {
        self.inner.acknowledgement(payload)
    }

    fn correct(&self, rejection: &Rejection) -> Option<Object> {
        self.inner.correct(rejection)
    }

    fn extensions(&self, supported: &[String]) -> Option<Object> {
        match self.fault {
            Some(EndsFault::OffersUnsupportedExtensions) => {
                Object::of(&serde_json::json!({ "eip2612GasSponsoring": {} })).ok()
            }
            _ => self.inner.extensions(supported),
        }
    }

    async fn hints(&self) -> Option<Object> {
        self.inner.hints().await
    }
}

/// A payer that does one thing wrong, and everything else as the payer inside it.
pub struct FaultyPayer {
    inner: Arc<dyn Payer>,
    fault: Option<EndsFault>,
    /// What a correct quote looks like: faulty quotes of other requirements are made from it.
    known: PaymentRequirements,
    paid: Arc<Mutex<Option<SignedPayment>>>,
    address: String,
}

impl FaultyPayer {
    /// The payer with this fault, or with none. It can pay the `known` requirements.
    pub fn new(
        inner: Arc<dyn Payer>,
        fault: Option<EndsFault>,
        known: PaymentRequirements,
        paid: Arc<Mutex<Option<SignedPayment>>>,
    ) -> Self {
        let mut address = inner.address().to_owned();
        if fault == Some(EndsFault::AnotherAddress) {
            address.push('0');
        }
        Self {
            inner,
            fault,
            known,
            paid,
            address,
        }
    }
}

#[async_trait]
impl Payer for FaultyPayer {
    fn address(&self) -> &str {
        &self.address
    }

    fn quote(&self, requirements: &PaymentRequirements) -> Result<Quote, QuoteError> {
        let quote = self.inner.quote(requirements);
        if self.fault == Some(EndsFault::QuotesEverything) {
            return quote.or_else(|_| self.inner.quote(&self.known));
        }
        let mut quote = quote?;
        match self.fault {
            Some(EndsFault::QuotesTheSellersNetwork) => {
                quote.network.clone_from(&requirements.network);
            }
            Some(EndsFault::QuotesTheSellersRecipient) => {
                quote.pay_to.clone_from(&requirements.pay_to);
            }
            Some(EndsFault::QuotesTheSellersAsset) => {
                quote.asset.address.clone_from(&requirements.asset);
            }
            Some(EndsFault::QuotesLess) => {
                let less = quote.amount.checked_sub(Amount::from(1));
                quote.amount = less.unwrap_or_default();
            }
            _ => {}
        }
        Ok(quote)
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        offered: Option<&Object>,
        now: Timestamp,
    ) -> Result<SignedPayment, PayerError> {
        let mut order = requirements.clone();
        if self.fault == Some(EndsFault::PaysMore) {
            order.amount.push('0');
        }
        if self.fault == Some(EndsFault::PaysForLonger) {
            order.max_timeout_seconds *= 10;
        }
        let mut paid = self.inner.pay(&order, offered, now).await;
        if self.fault == Some(EndsFault::PaysEverything) && paid.is_err() {
            paid = self.inner.pay(&self.known, offered, now).await;
        }
        let mut paid = paid?;
        match self.fault {
            Some(EndsFault::ExpiresLater) => paid.expires = paid.expires.plus_secs(3600),
            Some(EndsFault::ExpiresEarlier) => {
                paid.expires = Timestamp::from_secs(now.secs().saturating_sub(1));
            }
            Some(EndsFault::SignsUnknownExtensions) => paid.extensions = offered.cloned(),
            Some(EndsFault::SignsWhatWasNotOffered) => {
                let extension = serde_json::json!({ "surprise": {} });
                paid.extensions = Object::of(&extension).ok();
            }
            Some(EndsFault::PaysTheSamePaymentAgain) => {
                let mut first = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
                paid = first.get_or_insert(paid).clone();
            }
            _ => {}
        }
        Ok(paid)
    }

    async fn authorization_state(
        &self,
        network: &str,
        asset: &str,
        payload: &Object,
        expires: Timestamp,
    ) -> AuthorizationState {
        let inner = &self.inner;
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
        self.inner.observe(requirements, payload, outcome).await
    }

    async fn turn(&self, requirements: &PaymentRequirements) -> Turn {
        self.inner.turn(requirements).await
    }

    async fn reclaim(
        &self,
        requirements: &PaymentRequirements,
        now: Timestamp,
    ) -> Result<Option<SignedPayment>, PayerError> {
        self.inner.reclaim(requirements, now).await
    }
}
