//! The payment options that a seller offers, in both protocol versions.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use quittance_core::json::{Json, Object};
use quittance_core::wire::{
    PaymentRequired, PaymentRequirements, ResourceInfo, SupportedKind, SupportedResponse, v1,
};
use quittance_core::{
    Amount, Fault, FaultKind, Flow, Malformed, Network, Offer, OfferError, PaymentId,
    PaymentRequest, Phase, Rejection, Version,
};
use tracing::{error, warn};

/// An offer that the facilitator can settle now, as one entry of `accepts`.
#[derive(Clone)]
pub(crate) struct PaymentOption {
    offer: Arc<dyn Offer>,
    pub(crate) requirements: PaymentRequirements,
    /// What the 402 response says of it under `extensions`.
    extensions: Option<Object>,
    /// Whether the facilitator settles it in version 2.
    in_v2: bool,
    /// The network's version 1 name, if the facilitator settles it in version 1.
    v1_network: Option<String>,
}

/// The offers that the facilitator can settle now, in the versions that it supports. An offer that
/// fails does not affect the others.
///
/// # Errors
/// When none is left: the problem of the last one.
pub(crate) fn current(
    offers: &[Arc<dyn Offer>],
    supported: &SupportedResponse,
) -> Result<Vec<PaymentOption>, Fault> {
    let problem = "the seller has no offer: PaymentLayer::accept adds one";
    let mut last = Fault::new(FaultKind::Misconfigured, problem);
    let mut options = Vec::new();
    for offer in offers {
        match PaymentOption::new(offer, supported) {
            Ok(option) => options.push(option),
            Err(fault) => last = fault,
        }
    }
    match options.is_empty() {
        true => Err(last),
        false => Ok(options),
    }
}

/// The problems of the offers, in the order in which the offers were added.
pub(crate) fn problems(offers: &[Arc<dyn Offer>], supported: &SupportedResponse) -> Vec<Fault> {
    let options = offers
        .iter()
        .map(|offer| PaymentOption::new(offer, supported));
    let mut problems: Vec<Fault> = options.filter_map(Result::err).collect();
    if offers.is_empty() {
        problems.extend(current(offers, supported).err());
    }
    problems
}

/// The options with the hints of their offers. Payments are compared with the options without them.
pub(crate) async fn with_hints(options: Vec<PaymentOption>) -> Vec<PaymentOption> {
    let hinted = options.into_iter().map(|mut option| async {
        if let Some(hints) = option.offer.hints().await {
            option.requirements.extra = merged(option.requirements.extra, &hints);
        }
        option
    });
    join_all(hinted).await
}

/// The options for a buyer whose payment for the option `paid` was rejected. Its offer says what to
/// correct.
pub(crate) fn corrected(
    mut options: Vec<PaymentOption>,
    paid: &PaymentOption,
    rejection: &Rejection,
) -> Vec<PaymentOption> {
    let is_paid = |option: &&mut PaymentOption| Arc::ptr_eq(&option.offer, &paid.offer);
    if let Some(correction) = paid.offer.correct(rejection)
        && let Some(option) = options.iter_mut().find(is_paid)
    {
        option.requirements.extra = merged(option.requirements.extra.take(), &correction);
    }
    options
}

/// `own` with those fields of `more` that it does not have.
fn merged(own: Option<Object>, more: &Object) -> Option<Object> {
    let Some(own) = own else {
        return Some(more.clone());
    };
    let mut fields = more.tree();
    fields.extend(own.tree());
    Some(Object::of(&fields).unwrap_or(own))
}

/// The facilitator's entry for an offer in one protocol version.
fn find_kind<'a>(
    supported: &'a SupportedResponse,
    version: Version,
    scheme: &str,
    network: &str,
) -> Option<&'a SupportedKind> {
    let number = version.number();
    let mut kinds = supported.kinds.iter();
    kinds.find(|it| it.x402_version == number && it.scheme == scheme && it.network == network)
}

impl PaymentOption {
    /// The option of an offer.
    ///
    /// # Errors
    /// When the facilitator does not settle the offer, or the offer lacks something.
    fn new(offer: &Arc<dyn Offer>, supported: &SupportedResponse) -> Result<Self, Fault> {
        let (scheme, network) = (offer.scheme(), offer.network());
        let in_v2 = find_kind(supported, Version::V2, scheme, network.id());
        // Clients of version 1 know only this flow: a handler that fails costs them nothing.
        let alias = network.alias().filter(|_| !offer.flow().settles_first());
        let in_v1 = alias.and_then(|alias| find_kind(supported, Version::V1, scheme, alias));
        let Some(kind) = in_v2.or(in_v1) else {
            let problem = format!("the facilitator does not settle {scheme} on {network} now");
            return Err(Fault::new(FaultKind::FacilitatorUnreachable, problem));
        };
        let requirements = offer.requirements(kind).and_then(|requirements| {
            let flow = offer.flow();
            with_flow(requirements, flow).map_err(OfferError::Extra)
        });
        let requirements = requirements.map_err(|error| {
            warn!(%network, scheme, %error, "an offer has no payment requirements");
            let problem = format!("{scheme} on {network} cannot be offered: {error}");
            Fault::new(FaultKind::Misconfigured, problem)
        })?;
        let extensions = supported.extensions.as_deref().unwrap_or_default();
        Ok(Self {
            offer: Arc::clone(offer),
            extensions: offer.extensions(extensions),
            requirements,
            in_v2: in_v2.is_some(),
            v1_network: in_v1.map(|kind| kind.network.clone()),
        })
    }

    /// The version 1 requirements; `None` if the option cannot be paid in version 1.
    pub(crate) fn v1(&self, resource: &ResourceInfo) -> Option<v1::PaymentRequirements> {
        let network = self.v1_network.as_deref()?;
        let requirements = self.requirements.clone();
        Some(v1::PaymentRequirements::from_v2(
            requirements,
            network,
            resource,
        ))
    }

    /// Adds extensions of the seller to what the 402 response says of this option.
    pub(crate) fn add_extensions(&mut self, extensions: &Object) {
        self.extensions = merged(self.extensions.take(), extensions);
    }

    /// Offers it in version 2 of the protocol only.
    pub(crate) fn only_in_v2(&mut self) {
        self.v1_network = None;
    }

    /// The network with all of its names.
    pub(crate) fn network(&self) -> &Network {
        self.offer.network()
    }

    /// When the money moves.
    pub(crate) fn flow(&self) -> Flow {
        self.offer.flow()
    }

    /// The request to the facilitator at this moment; `None` if it is not asked.
    ///
    /// # Errors
    /// When the offer cannot make it.
    pub(crate) async fn request(
        &self,
        phase: Phase<'_>,
        payment: &PaymentRequest,
    ) -> Result<Option<PaymentRequest>, Fault> {
        let request = self.offer.request(phase, payment, &self.requirements).await;
        // The offer may have made the request from nothing.
        let of_sale = |request: PaymentRequest| match payment.sale() {
            Some(sale) => request.with_sale(sale.clone()),
            None => request,
        };
        let request = request.map(|request| request.map(of_sale));
        request.map_err(|error| {
            let (scheme, network) = (self.offer.scheme(), self.offer.network());
            error!(%network, scheme, %error, "an offer cannot ask its facilitator");
            let problem = format!("{scheme} on {network}: {error}");
            Fault::new(FaultKind::Misconfigured, problem)
        })
    }

    /// The amount that a handler charges by these words.
    ///
    /// # Errors
    /// When the offer's scheme settles its price, or the words are not a charge.
    pub(crate) fn charge(&self, words: &str, price: Amount) -> Result<Amount, OfferError> {
        let fixed = || OfferError::FixedPrice {
            scheme: self.offer.scheme().to_owned(),
        };
        self.offer.charge(words, price).ok_or_else(fixed)?
    }

    /// What the payload uses beside its authorization and only one request may use at a time.
    pub(crate) fn serial(&self, payload: &Object) -> Option<PaymentId> {
        let serial = self.offer.serial(payload)?;
        let network = self.requirements.network.as_bytes();
        let scheme = self.requirements.scheme.as_bytes();
        let parts = [b"serial", scheme, network, serial.as_bytes()];
        Some(PaymentId::from_parts(&parts))
    }

    /// The body of the response to a payload that buys nothing; `None` if the handler runs.
    pub(crate) fn acknowledgement(&self, payload: &Object) -> Option<Object> {
        self.offer.acknowledgement(payload)
    }

    /// The authorization in a payload for this option, if the offer can identify it.
    pub(crate) fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        self.offer.authorization(payload)
    }

    /// Whether a version 1 payment with this scheme and network is for this option.
    pub(crate) fn is_paid_in_v1(&self, scheme: &str, network: &str) -> bool {
        self.requirements.scheme == scheme && self.v1_network.as_deref() == Some(network)
    }

    /// How many fields `extra` has.
    fn extra_fields(&self) -> usize {
        let extra = self.requirements.extra.as_ref();
        extra.map_or(0, |extra| extra.tree().len())
    }

    /// The option with the requirements that a buyer with this copy has got.
    fn as_stated_to(&self, accepted: &PaymentRequirements) -> Self {
        let before = self.offer.stated_before(&self.requirements, accepted);
        Self {
            requirements: before.unwrap_or_else(|| self.requirements.clone()),
            ..self.clone()
        }
    }

    /// Whether a version 2 payment that accepts these requirements is for this option. All fields
    /// are equal, except that clients may add fields to `extra`.
    fn is_accepted_by(&self, accepted: &PaymentRequirements) -> bool {
        let own = &self.requirements;
        self.in_v2
            && own.scheme == accepted.scheme
            && own.network == accepted.network
            && own.amount == accepted.amount
            && own.asset == accepted.asset
            && own.pay_to == accepted.pay_to
            && own.max_timeout_seconds == accepted.max_timeout_seconds
            && match (&own.extra, &accepted.extra) {
                (None, _) => true,
                (Some(own), Some(accepted)) => accepted.contains(own),
                (Some(_), None) => false,
            }
    }
}

/// The option that a version 2 payment is for.
///
/// Clients may drop the flow from their copy. So a payment without one is for the option without
/// one, or else for the first that equals it in everything else.
///
/// Clients may also add fields to `extra`. So the `extra` of one option may be a part of another
/// one's: a token's name and version, without and with a transfer method. A payment is for the
/// option that says most of what it accepts.
pub(crate) fn find_accepted(
    options: &[PaymentOption],
    accepted: &PaymentRequirements,
) -> Option<PaymentOption> {
    let find = |flow| {
        let accepted = with_flow(accepted.clone(), flow).ok()?;
        let options = options.iter().filter(|it| it.flow() == flow);
        let options = options.map(|it| it.as_stated_to(&accepted));
        let accepted = options.filter(|it| it.is_accepted_by(&accepted));
        // The first one, if several say as much.
        accepted.min_by_key(|it| Reverse(it.extra_fields()))
    };
    match Flow::stated(accepted.extra.as_ref()).ok()? {
        Some(stated) => find(stated),
        None => Flow::ALL.into_iter().find_map(find),
    }
}

/// The requirements with their flow in `extra`. The flow that all clients know is left out.
fn with_flow(
    mut requirements: PaymentRequirements,
    flow: Flow,
) -> Result<PaymentRequirements, Malformed> {
    if flow != Flow::Authorization {
        let mut extra = requirements.extra.map(|it| it.tree()).unwrap_or_default();
        extra.insert(Flow::FIELD.to_owned(), flow.name().into());
        requirements.extra = Some(Object::of(&extra)?);
    }
    Ok(requirements)
}

/// The options in the form of version 2; `None` if none can be paid in version 2.
pub(crate) fn required_v2(
    options: &[PaymentOption],
    resource: &ResourceInfo,
    error: &str,
) -> Option<PaymentRequired> {
    let in_v2: Vec<_> = options.iter().filter(|option| option.in_v2).collect();
    let accepts: Vec<_> = in_v2.iter().map(|it| it.requirements.clone()).collect();
    (!accepts.is_empty()).then(|| PaymentRequired {
        error: Some(error.to_owned()),
        resource: Json::of(resource).ok(),
        extensions: merged_extensions(&in_v2),
        ..PaymentRequired::new(accepts)
    })
}

/// The extensions of all options. The first option that has an identifier decides its value.
fn merged_extensions(options: &[&PaymentOption]) -> Option<Json> {
    let mut all: BTreeMap<String, Json> = BTreeMap::new();
    for extensions in options.iter().filter_map(|it| it.extensions.as_ref()) {
        let extensions: BTreeMap<String, Json> = extensions.read("extensions").ok()?;
        for (name, value) in extensions {
            all.entry(name).or_insert(value);
        }
    }
    let all = Some(all).filter(|all| !all.is_empty())?;
    Json::of(&all).ok()
}

/// The options in the form of version 1; `None` if none can be paid in version 1.
pub(crate) fn required_v1(
    options: &[PaymentOption],
    resource: &ResourceInfo,
    error: &str,
) -> Option<v1::PaymentRequired> {
    let accepts: Vec<_> = options.iter().filter_map(|it| it.v1(resource)).collect();
    (!accepts.is_empty()).then(|| v1::PaymentRequired::new(error, accepts))
}

#[cfg(test)]
mod tests {
    use quittance_testing::scripted::{TestOffer, requirements};
    use serde_json::json;

    use super::*;

    fn option(extra: &serde_json::Value) -> PaymentOption {
        PaymentOption {
            offer: Arc::new(TestOffer::new()),
            requirements: PaymentRequirements {
                extra: Object::of(extra).ok(),
                ..requirements()
            },
            extensions: None,
            in_v2: true,
            v1_network: None,
        }
    }

    /// A payment by another transfer method was taken as one by the first offer in the same token.
    #[test]
    fn payment_is_for_the_option_that_says_most_of_its_terms() {
        let plain = json!({ "name": "Coin", "version": "1" });
        let delegated = json!({ "name": "Coin", "version": "1", "method": "delegation" });
        let both = [option(&plain), option(&delegated)];
        let reversed = [option(&delegated), option(&plain)];
        for options in [both, reversed] {
            for (terms, method) in [(&plain, None), (&delegated, Some("delegation"))] {
                for more in [json!(null), json!(1)] {
                    let mut accepted = terms.clone();
                    accepted["more"] = more;
                    let found = find_accepted(&options, &option(&accepted).requirements);
                    let extra = found.unwrap().requirements.extra.as_ref().unwrap().tree();
                    let found = extra.get("method").and_then(|method| method.as_str());
                    assert_eq!(found, method, "{accepted}");
                }
            }
        }
        let other = json!({ "name": "Coin", "method": "delegation" });
        assert!(find_accepted(&[option(&plain)], &option(&other).requirements).is_none());
    }
}
