//! The schemes of one network.

use std::sync::Arc;

use quittance_core::wire::{Rest, SupportedKind};
use quittance_core::{
    Chain, Health, Network, Payment, PaymentRequest, Reason, Rejection, RequestCaller, Scheme,
    Version,
};
use quittance_journal::Settlement;

/// The schemes of one network, in order of preference.
pub(crate) struct Schemes<C: Chain> {
    network: Network,
    all: Vec<Arc<dyn Scheme<C>>>,
}

impl<C: Chain> Schemes<C> {
    pub(crate) fn new(network: Network, all: Vec<Arc<dyn Scheme<C>>>) -> Self {
        Self { network, all }
    }

    /// The scheme that reads a request.
    ///
    /// # Errors
    /// The verdict against a request that no scheme reads. Its detail names the schemes there are.
    pub(crate) fn for_request(
        &self,
        request: &PaymentRequest,
    ) -> Result<&Arc<dyn Scheme<C>>, Rejection> {
        let reads = |scheme: &&Arc<dyn Scheme<C>>| scheme.versions().contains(&request.version);
        let mut schemes = self.all.iter().filter(reads);
        let found = schemes.find(|scheme| scheme.name() == request.requirements.scheme);
        found.ok_or_else(|| {
            let names = self.all.iter().filter(reads).map(|scheme| scheme.name());
            let names: Vec<&str> = names.collect();
            let names = match names.is_empty() {
                true => "none".to_owned(),
                false => names.join(", "),
            };
            let (network, version) = (self.network.id(), request.version.number());
            let detail =
                format_args!("schemes supported on {network} in version {version}: {names}");
            Rejection::new(Reason::UNSUPPORTED_SCHEME, detail)
        })
    }

    /// The payment of a settlement, as it was decoded when it was claimed. `None` if no scheme
    /// reads it any more.
    pub(crate) fn decode_again(&self, settlement: &Settlement) -> Option<Arc<dyn Payment<C>>> {
        let claim = &settlement.claim;
        let request = PaymentRequest::decode(claim.request.as_bytes()).ok()?;
        let request = request.by(RequestCaller::from_text(claim.caller.as_deref()));
        let scheme = self.for_request(&request).ok()?;
        let payment = scheme.decode(&request, claim.decoded_at).ok()?;
        (payment.info().id == claim.id).then(|| payment.into())
    }

    /// All schemes.
    pub(crate) fn all(&self) -> &[Arc<dyn Scheme<C>>] {
        &self.all
    }

    /// The schemes that can be used, and have an asset that works.
    pub(crate) fn usable(&self, health: &Health) -> impl Iterator<Item = &Arc<dyn Scheme<C>>> {
        self.all.iter().filter(|scheme| {
            let has_asset = || {
                let assets = scheme.assets();
                assets.iter().any(|asset| health.asset_works(asset))
            };
            health.scheme_works(scheme.name()) && has_asset()
        })
    }

    /// The kinds of payment that can be settled.
    pub(crate) fn kinds(&self, health: &Health) -> Vec<SupportedKind> {
        let usable = self.usable(health);
        usable
            .flat_map(|scheme| self.kinds_of(scheme.as_ref()))
            .collect()
    }

    fn kinds_of(&self, scheme: &dyn Scheme<C>) -> Vec<SupportedKind> {
        let kind = |version: &Version| {
            let name = match version {
                Version::V1 => self.network.alias()?,
                Version::V2 => self.network.id(),
            };
            Some(SupportedKind {
                x402_version: version.number(),
                scheme: scheme.name().to_owned(),
                network: name.to_owned(),
                extra: scheme.extra(),
                rest: Rest::default(),
            })
        };
        scheme.versions().iter().filter_map(kind).collect()
    }
}
