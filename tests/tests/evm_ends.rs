//! The offer and the payer of `exact` on EVM chains have the properties of the two ends, by
//! EIP-3009 and by Permit2. Neither end asks a node, so these tests need no local chain.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use alloy::primitives::Address;
use async_trait::async_trait;
use quittance_core::wire::{PaymentRequirements, Rest, SupportedKind};
use quittance_core::{Network, Offer, Payer, Scheme};
use quittance_evm::{Evm, Exact, ExactOffer, Token, TransferMethod, known};
use quittance_tests::conformance::ends::EndsFixture;
use quittance_tests::evm::Setting;

/// The two ends with one token: one that supports EIP-3009, or one that needs Permit2.
struct Fixture<const PERMIT2: bool>(Token);

type ByEip3009 = Fixture<false>;
type ByPermit2 = Fixture<true>;

/// The time for a payment, which is not the default.
const TIMEOUT_SECS: u64 = 90;

fn network() -> Network {
    known::network("base-sepolia").unwrap()
}

#[async_trait]
impl<const PERMIT2: bool> EndsFixture for Fixture<PERMIT2> {
    type Chain = Evm;

    async fn new() -> Self {
        let address = Address::repeat_byte(0xab);
        let token = Token::new(address, "Coin", "1", "COIN", 6);
        Self(token.with_method(match PERMIT2 {
            true => TransferMethod::Permit2,
            false => TransferMethod::Eip3009,
        }))
    }

    fn offer(&self) -> Arc<dyn Offer> {
        let seller = Setting::seller().address.to_string();
        let offer = ExactOffer::new(network(), self.0.clone(), "0.01", &seller).unwrap();
        Arc::new(offer.with_timeout_secs(TIMEOUT_SECS))
    }

    fn payer(&self) -> Arc<dyn Payer> {
        Arc::new(Setting::payer().with_token(network().id(), self.0.clone()))
    }

    fn supported(&self) -> SupportedKind {
        SupportedKind {
            x402_version: 2,
            scheme: "exact".to_owned(),
            network: network().id().to_owned(),
            extra: None,
            rest: Rest::default(),
        }
    }

    fn scheme(&self) -> Arc<dyn Scheme<Evm>> {
        Arc::new(Exact::offline(network(), std::slice::from_ref(&self.0)).unwrap())
    }

    /// The version 1 name of the network, and addresses without the checksum of EIP-55.
    fn respelled(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        PaymentRequirements {
            network: "base-sepolia".to_owned(),
            asset: requirements.asset.to_lowercase(),
            pay_to: requirements.pay_to.to_lowercase(),
            ..requirements.clone()
        }
    }

    /// A contract at another address, with the same name and version.
    fn in_unknown_asset(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        PaymentRequirements {
            asset: Address::repeat_byte(0xcd).to_checksum(None),
            ..requirements.clone()
        }
    }
}

mod eip3009 {
    use super::ByEip3009;
    quittance_tests::offer_and_payer_conformance!(ByEip3009);
}

mod permit2 {
    use super::ByPermit2;
    quittance_tests::offer_and_payer_conformance!(ByPermit2);
}

/// The suite does not know the fixture's price and timeout.
#[tokio::test]
async fn requirements_have_the_price_the_timeout_and_the_method() {
    let eip3009 = ByEip3009::new().await;
    let permit2 = ByPermit2::new().await;
    let offers = [
        (eip3009.offer(), eip3009.supported(), None),
        (permit2.offer(), permit2.supported(), Some("permit2")),
    ];
    for (offer, supported, method) in offers {
        let requirements = offer.requirements(&supported).unwrap();
        assert_eq!(requirements.amount, "10000");
        assert_eq!(requirements.max_timeout_seconds, TIMEOUT_SECS);
        let extra = requirements.extra.unwrap().tree();
        let named = extra.get("assetTransferMethod");
        assert_eq!(named.and_then(|named| named.as_str()), method);
    }
}
