//! What a seller asks for, as both protocol versions write it.

use std::sync::Arc;

use futures_util::future::join_all;
use quittance_core::json::{Json, Object};
use quittance_core::wire::{
    PaymentRequired, PaymentRequirements, ResourceInfo, Rest, SupportedResponse, v1,
};
use quittance_core::{Fault, FaultKind, Network, Offer, PaymentId, Version};
use tracing::warn;

/// One offer that the facilitator can settle now.
#[derive(Clone)]
pub(crate) struct Term {
    offer: Arc<dyn Offer>,
    pub(crate) requirements: PaymentRequirements,
    /// Whether it can be paid in version 2.
    in_v2: bool,
    /// The network's name in version 1, where it can be paid in that.
    alias: Option<String>,
}

/// The offers that the facilitator can settle now, in the versions it speaks. One that cannot be made
/// does not keep the others from being sold by.
///
/// # Errors
/// When none is left; what is wrong with the last one.
pub(crate) fn current(
    offers: &[Arc<dyn Offer>],
    supported: &SupportedResponse,
) -> Result<Vec<Term>, Fault> {
    let what = "the seller has no offer: PaymentLayer::accept adds one";
    let mut wrong = Fault::new(FaultKind::Misconfigured, what);
    let mut terms = Vec::new();
    for offer in offers {
        match Term::of(offer, supported) {
            Ok(term) => terms.push(term),
            Err(fault) => wrong = fault,
        }
    }
    match terms.is_empty() {
        true => Err(wrong),
        false => Ok(terms),
    }
}

/// What keeps each offer from being sold by, in the order they were added.
pub(crate) fn problems(offers: &[Arc<dyn Offer>], supported: &SupportedResponse) -> Vec<Fault> {
    let terms = offers.iter().map(|offer| Term::of(offer, supported));
    let mut problems: Vec<Fault> = terms.filter_map(Result::err).collect();
    if offers.is_empty() {
        problems.extend(current(offers, supported).err());
    }
    problems
}

/// The same terms with what else their offers tell a buyer now. What is presented is compared with the terms without it.
pub(crate) async fn with_hints(terms: Vec<Term>) -> Vec<Term> {
    let asked = terms.into_iter().map(|mut term| async {
        if let Some(hints) = term.offer.hints().await {
            term.requirements.extra = with(term.requirements.extra, &hints);
        }
        term
    });
    join_all(asked).await
}

/// An object with the fields of another that it does not have.
fn with(extra: Option<Object>, hints: &Object) -> Option<Object> {
    let Some(extra) = extra else {
        return Some(hints.clone());
    };
    let mut fields = hints.tree();
    fields.extend(extra.tree());
    Some(Object::of(&fields).unwrap_or(extra))
}

impl Term {
    /// What an offer asks for, where the facilitator can settle it.
    fn of(offer: &Arc<dyn Offer>, supported: &SupportedResponse) -> Result<Self, Fault> {
        let find = |version: Version, network: &str| {
            supported.kinds.iter().find(|kind| {
                kind.x402_version == version.number()
                    && kind.scheme == offer.scheme()
                    && kind.network == network
            })
        };
        let in_v2 = find(Version::V2, offer.network().id());
        let alias = offer.network().alias();
        let in_v1 = alias.and_then(|alias| find(Version::V1, alias));
        let (scheme, network) = (offer.scheme(), offer.network());
        let Some(kind) = in_v2.or(in_v1) else {
            let what = format!("the facilitator does not settle {scheme} on {network} now");
            return Err(Fault::new(FaultKind::FacilitatorUnreachable, what));
        };
        let requirements = offer.requirements(kind).map_err(|error| {
            warn!(%network, scheme, %error, "an offer cannot be made");
            let what = format!("{scheme} on {network} cannot be offered: {error}");
            Fault::new(FaultKind::Misconfigured, what)
        })?;
        Ok(Self {
            offer: Arc::clone(offer),
            requirements,
            in_v2: in_v2.is_some(),
            alias: in_v1.map(|kind| kind.network.clone()),
        })
    }

    /// The same requirements for a version 1 client; `None` on networks version 1 has no name for.
    pub(crate) fn v1(&self, resource: &ResourceInfo) -> Option<v1::PaymentRequirements> {
        let PaymentRequirements {
            scheme,
            amount,
            asset,
            pay_to,
            max_timeout_seconds,
            extra,
            ..
        } = self.requirements.clone();
        Some(v1::PaymentRequirements {
            scheme,
            network: self.alias.clone()?,
            max_amount_required: amount,
            resource: Some(resource.url.clone()),
            description: Some(resource.description.clone().unwrap_or_default()),
            mime_type: Some(resource.mime_type.clone().unwrap_or_default()),
            output_schema: None,
            pay_to,
            max_timeout_seconds,
            asset,
            extra,
            rest: Rest::default(),
        })
    }

    /// Where it is paid, by all names of the network.
    pub(crate) fn network(&self) -> &Network {
        self.offer.network()
    }

    /// Which authorization a payload for this term holds, where its offer can tell.
    pub(crate) fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        self.offer.authorization(payload)
    }

    /// Whether version 1 knows the network by this name.
    pub(crate) fn is_on_v1(&self, network: &str) -> bool {
        self.alias.as_deref() == Some(network)
    }

    /// Whether a client that says it accepts these requirements means ours: everything the same, and all of our
    /// `extra`, to which clients may add.
    pub(crate) fn is_accepted_by(&self, accepted: &PaymentRequirements) -> bool {
        let ours = &self.requirements;
        self.in_v2
            && ours.scheme == accepted.scheme
            && ours.network == accepted.network
            && ours.amount == accepted.amount
            && ours.asset == accepted.asset
            && ours.pay_to == accepted.pay_to
            && ours.max_timeout_seconds == accepted.max_timeout_seconds
            && match (&ours.extra, &accepted.extra) {
                (None, _) => true,
                (Some(ours), Some(accepted)) => accepted.contains(ours),
                (Some(_), None) => false,
            }
    }
}

/// The terms as version 2 writes them; `None` where none can be paid in it.
pub(crate) fn required_v2(
    terms: &[Term],
    resource: &ResourceInfo,
    error: &str,
) -> Option<PaymentRequired> {
    let in_v2 = terms.iter().filter(|term| term.in_v2);
    let accepts: Vec<_> = in_v2.map(|term| term.requirements.clone()).collect();
    (!accepts.is_empty()).then(|| PaymentRequired {
        x402_version: Version::V2.number(),
        error: Some(error.to_owned()),
        resource: Json::of(resource).ok(),
        accepts,
        extensions: None,
        rest: Rest::default(),
    })
}

/// The terms as version 1 writes them; `None` where none can be paid in it.
pub(crate) fn required_v1(
    terms: &[Term],
    resource: &ResourceInfo,
    error: &str,
) -> Option<v1::PaymentRequired> {
    let accepts: Vec<_> = terms.iter().filter_map(|term| term.v1(resource)).collect();
    (!accepts.is_empty()).then(|| v1::PaymentRequired {
        x402_version: Version::V1.number(),
        error: Some(error.to_owned()),
        accepts,
        rest: Rest::default(),
    })
}
