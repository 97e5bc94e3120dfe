//! The offer and the payer of `exact` on EVM chains have the properties of the two ends, by
//! EIP-3009, by Permit2 and by delegation. Neither end asks a node, so these tests need no local
//! chain.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use alloy::primitives::Address;
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, Rest, SupportedKind};
use quittance_core::{Clock, Network, Offer, Payer, Scheme, SystemClock};
use quittance_evm::{Evm, EvmConfig, Exact, ExactOffer, Token, TransferMethod, known};
use quittance_tests::conformance::ends::EndsFixture;
use quittance_tests::delegation::{self, Delegations};
use quittance_tests::evm::Setting;
use serde_json::json;

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
        let method = match PERMIT2 {
            true => TransferMethod::Permit2,
            false => TransferMethod::Eip3009,
        };
        Self(token.with_method(method).with_eip2612(PERMIT2))
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

    fn respelled(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        respelled(requirements)
    }

    fn in_unknown_asset(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        in_unknown_asset(requirements)
    }
}

/// The version 1 name of the network, and addresses without the checksum of EIP-55.
fn respelled(requirements: &PaymentRequirements) -> PaymentRequirements {
    PaymentRequirements {
        network: "base-sepolia".to_owned(),
        asset: requirements.asset.to_lowercase(),
        pay_to: requirements.pay_to.to_lowercase(),
        ..requirements.clone()
    }
}

/// A contract at another address, with the same name and version.
fn in_unknown_asset(requirements: &PaymentRequirements) -> PaymentRequirements {
    PaymentRequirements {
        asset: Address::repeat_byte(0xcd).to_checksum(None),
        ..requirements.clone()
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

/// The two ends of payments by delegation. The contracts are only names here.
struct ByDelegation(Delegations);

#[async_trait]
impl EndsFixture for ByDelegation {
    type Chain = Evm;

    const ONLY_CHAIN_KNOWS: bool = true;

    async fn new() -> Self {
        let [manager, transfers, redeemers] = [0xd1, 0xd2, 0xd3].map(Address::repeat_byte);
        Self(Delegations {
            manager,
            transfers,
            redeemers,
        })
    }

    fn offer(&self) -> Arc<dyn Offer> {
        Arc::new(delegation::offer().with_timeout_secs(TIMEOUT_SECS))
    }

    fn payer(&self) -> Arc<dyn Payer> {
        Arc::new(self.0.payer(&Setting::buyer()))
    }

    fn supported(&self) -> SupportedKind {
        self.0.kind(config())
    }

    fn scheme(&self) -> Arc<dyn Scheme<Evm>> {
        self.0.scheme(config())
    }

    fn respelled(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        respelled(requirements)
    }

    fn in_unknown_asset(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        in_unknown_asset(requirements)
    }
}

/// A facilitator with one signer, whose node is never asked.
fn config() -> EvmConfig {
    let url = "http://127.0.0.1:1".parse().unwrap();
    let signer = Setting::signers()[0].signer.clone();
    EvmConfig::new(network(), vec![url], vec![Arc::new(signer)])
}

mod erc7710 {
    use super::ByDelegation;
    quittance_tests::offer_and_payer_conformance!(ByDelegation);
}

/// A delegation that every account can redeem is as good as money.
#[tokio::test]
async fn payer_delegates_only_to_named_accounts() {
    let fixture = ByDelegation::new().await;
    let good = fixture.offer().requirements(&fixture.supported()).unwrap();
    let extra = |change: fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut extra = good.extra.clone().unwrap().tree();
        change(&mut extra);
        let extra = Object::of(&extra).unwrap();
        PaymentRequirements {
            extra: Some(extra),
            ..good.clone()
        }
    };
    for spoiled in [
        extra(|extra| drop(extra.remove("facilitatorAddresses"))),
        extra(|extra| extra["facilitatorAddresses"] = json!([])),
        extra(|extra| extra["facilitatorAddresses"] = json!(["0x5"])),
        extra(|extra| extra["assetTransferMethod"] = json!("eip3009")),
        extra(|extra| drop(extra.remove("assetTransferMethod"))),
    ] {
        let payer = fixture.payer();
        assert!(payer.quote(&spoiled).is_err(), "{spoiled:?}");
        assert!(payer.pay(&spoiled, None, SystemClock.now()).await.is_err());
        // The payer with a key does not take it for another method.
        let by_key = Setting::payer().quote(&good);
        assert!(by_key.is_err(), "{by_key:?}");
    }
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
