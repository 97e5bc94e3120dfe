//! The offer and the payer of `exact` on Solana have the properties of the two ends, with either
//! token program. The payer asks a local cluster for blockhashes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use async_trait::async_trait;
use quittance_core::wire::{PaymentRequirements, Rest, SupportedKind};
use quittance_core::{Offer, Payer, Scheme};
use quittance_solana::{Pubkey, Solana, TokenProgram};
use quittance_tests::conformance::ends::EndsFixture;
use quittance_tests::solana::Setting;

/// The two ends with a token of SPL Token or of Token-2022.
struct Fixture<const TOKEN_2022: bool>(Setting);

type SplToken = Fixture<false>;
type Token2022 = Fixture<true>;

/// The time for a payment, which is not the default.
const TIMEOUT_SECS: u64 = 90;

#[async_trait]
impl<const TOKEN_2022: bool> EndsFixture for Fixture<TOKEN_2022> {
    type Chain = Solana;

    /// The payer waits for 150 seconds before it signs again, and the scheme counts on 60.
    const EXPIRY_SLACK_SECS: u64 = 90;

    async fn new() -> Self {
        let program = match TOKEN_2022 {
            true => TokenProgram::Token2022,
            false => TokenProgram::SplToken,
        };
        // Without new blocks, two payments get one blockhash and differ by their own contents.
        Self(Setting::start(program, None).await)
    }

    fn offer(&self) -> Arc<dyn Offer> {
        Arc::new(self.0.offer().with_timeout_secs(TIMEOUT_SECS))
    }

    fn payer(&self) -> Arc<dyn Payer> {
        Arc::new(self.0.payer())
    }

    fn supported(&self) -> SupportedKind {
        SupportedKind {
            x402_version: 2,
            scheme: "exact".to_owned(),
            network: Setting::network().id().to_owned(),
            extra: self.0.scheme().extra(),
            rest: Rest::default(),
        }
    }

    fn scheme(&self) -> Arc<dyn Scheme<Solana>> {
        Arc::new(self.0.scheme())
    }

    /// The version 1 name of the network. An address in base58 has one spelling.
    fn respelled(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        PaymentRequirements {
            network: "solana-devnet".to_owned(),
            ..requirements.clone()
        }
    }

    /// Another mint of the same token program.
    fn in_unknown_asset(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        PaymentRequirements {
            asset: Pubkey::new_from_array([0xcd; 32]).to_string(),
            ..requirements.clone()
        }
    }
}

mod spl_token {
    use super::SplToken;
    quittance_tests::offer_and_payer_conformance!(SplToken);
}

mod token_2022 {
    use super::Token2022;
    quittance_tests::offer_and_payer_conformance!(Token2022);
}

/// The suite does not know the fixture's price and timeout.
#[tokio::test(flavor = "multi_thread")]
async fn requirements_have_the_price_the_timeout_and_the_program() {
    let fixture = Token2022::new().await;
    let supported = fixture.supported();
    let requirements = fixture.offer().requirements(&supported).unwrap();
    assert_eq!(requirements.amount, "10000");
    assert_eq!(requirements.max_timeout_seconds, TIMEOUT_SECS);
    let extra = requirements.extra.unwrap().tree();
    let program = TokenProgram::Token2022.id().to_string();
    assert_eq!(extra["tokenProgram"], program);
    assert_eq!(
        extra["feePayer"],
        supported.extra.unwrap().tree()["feePayer"]
    );
}
