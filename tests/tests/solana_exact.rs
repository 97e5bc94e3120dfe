//! `exact` on Solana has the properties of every scheme, with either token program, and with smart
//! wallets.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::U256;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_core::{Amount, PaymentRequest, Reason, Scheme};
use quittance_engine::{Engine, EngineBuilder, Timing};
use quittance_solana::{Keypair, SmartWallets, Solana, TokenProgram, reason};
use quittance_testing::faults::{EngineParts, FaultySchemeFixture, PlantedFault, SchemeFault};
use quittance_tests::conformance::scheme::{self, SchemeFixture};
use quittance_tests::mutations::{NOT_CAUGHT_IN_EXACT, NotCaught, assert_caught};
use quittance_tests::solana::{PRICE, SLOT, Setting};
use quittance_tests::wallet::{self, Deed, Payment, SQUADS, Wallet};
use serde_json::{Value, json};
use solana_instruction::Instruction;
use solana_message::AddressLookupTableAccount;
use solana_signer::Signer as _;

struct Fixture<const TOKEN_2022: bool>(Setting);

#[async_trait]
impl EngineParts for Fixture<false> {
    fn parts(&self) -> (Solana, Arc<dyn Scheme<Solana>>) {
        let solana = Solana::new(self.0.config()).unwrap();
        let scheme = self.0.scheme_on(&solana);
        (solana, Arc::new(scheme))
    }

    async fn builder(&self) -> EngineBuilder {
        let builder = Engine::builder(self.0.journal().await);
        let timing = Timing::new().with_look_every(SLOT);
        builder.settle_wait(Duration::from_secs(5)).timing(timing)
    }
}

/// Some minutes: `make mutations`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn planted_faults_are_caught() {
    let properties = scheme::properties::<FaultySchemeFixture<Fixture<false>>>();
    let not_caught = [
        NOT_CAUGHT_IN_EXACT[0],
        NOT_CAUGHT_IN_EXACT[1],
        (
            PlantedFault::Scheme(SchemeFault::NotUsedByOthers),
            NotCaught::NoDifference("only the fee payer can complete a transaction"),
        ),
        (
            PlantedFault::Scheme(SchemeFault::TimeMattersNever),
            NotCaught::NoDifference("a payload has no time limit of its own"),
        ),
    ];
    let faults = SchemeFault::ALL.map(PlantedFault::Scheme);
    assert_caught(&properties, faults, &not_caught).await;
}

type SplToken = Fixture<false>;
type Token2022 = Fixture<true>;

/// A request with its JSON changed.
fn edited(request: &PaymentRequest, change: impl FnOnce(&mut Value)) -> PaymentRequest {
    let mut tree: Value = serde_json::from_str(request.text()).unwrap();
    change(&mut tree);
    PaymentRequest::decode(tree.to_string().as_bytes()).unwrap()
}

/// A request with one value of its terms changed, in the requirements and in the payload.
fn with_terms(request: &PaymentRequest, pointer: &str, value: Value) -> PaymentRequest {
    edited(request, |tree| {
        for root in ["/paymentRequirements", "/paymentPayload/accepted"] {
            *tree.pointer_mut(&format!("{root}{pointer}")).unwrap() = value.clone();
        }
    })
}

/// A request with the bytes of its transaction changed.
fn with_bytes(request: &PaymentRequest, change: impl FnOnce(&mut Vec<u8>)) -> PaymentRequest {
    edited(request, |tree| {
        let text = tree
            .pointer_mut("/paymentPayload/payload/transaction")
            .unwrap();
        let mut bytes = BASE64.decode(text.as_str().unwrap()).unwrap();
        change(&mut bytes);
        *text = json!(BASE64.encode(bytes));
    })
}

/// Spoiled payments that are the same on both paths.
fn spoiled_anyhow(good: &PaymentRequest) -> Vec<(&'static str, PaymentRequest, Reason)> {
    let stranger = Setting::account(9).address.to_string();
    vec![
        (
            "another token",
            with_terms(good, "/asset", json!(stranger)),
            Reason::UNSUPPORTED_ASSET,
        ),
        (
            "another signature",
            with_bytes(good, |bytes| bytes[70] ^= 1),
            reason::SIGNATURE_INVALID,
        ),
        (
            "a byte too many",
            with_bytes(good, |bytes| bytes.push(0)),
            reason::COULD_NOT_BE_DECODED,
        ),
    ]
}

#[async_trait]
impl<const TOKEN_2022: bool> SchemeFixture for Fixture<TOKEN_2022> {
    type Chain = Solana;

    const PRICE: Amount = Amount::new(U256::from_limbs([PRICE, 0, 0, 0]));

    async fn new() -> Self {
        let program = match TOKEN_2022 {
            true => TokenProgram::Token2022,
            false => TokenProgram::SplToken,
        };
        Self(Setting::start(program, Some(SLOT)).await)
    }

    fn scheme(&self) -> Arc<dyn Scheme<Solana>> {
        Arc::new(self.0.scheme())
    }

    async fn engine(&self) -> Engine {
        self.0.engine(Duration::from_secs(5)).await
    }

    async fn request(&self) -> PaymentRequest {
        self.0.request().await
    }

    async fn alike(&self) -> [PaymentRequest; 2] {
        [self.request().await, by_another_payer(&self.0).await]
    }

    /// Other bytes as the fee payer's signature (attacks.md 88).
    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        with_bytes(request, |bytes| bytes[1] ^= 1)
    }

    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        let good = self.0.request().await;
        let stranger = Setting::account(9).address.to_string();
        let unfunded = quittance_solana::ExactPayer::new(Keypair::new())
            .with_token(Setting::network().id(), self.0.token.clone())
            .with_rpc(&Setting::network(), &[self.0.local.url().parse().unwrap()])
            .unwrap();
        let mut unknown_blockhash = self.0.requirements();
        unknown_blockhash.extra = unknown_blockhash.extra.map(|extra| {
            let mut extra: Value = serde_json::to_value(extra).unwrap();
            extra["recentBlockhash"] = json!(stranger);
            quittance_core::json::Object::of(&extra).unwrap()
        });
        let mut without_account = self.0.requirements();
        without_account.pay_to = quittance_solana::Pubkey::new_from_array([77; 32]).to_string();
        let mut spoiled = vec![
            (
                "a payer without money",
                quittance_tests::pay(&unfunded, &self.0.requirements()).await,
                reason::SIMULATION_FAILED,
            ),
            (
                "row 101: an unknown blockhash",
                quittance_tests::pay(&self.0.payer_without_a_node(), &unknown_blockhash).await,
                reason::SIMULATION_FAILED,
            ),
            (
                "row 96: a recipient without a token account",
                quittance_tests::pay(&self.0.payer(), &without_account).await,
                reason::RECEIVER_ACCOUNT_NOT_FOUND,
            ),
            (
                "another amount",
                with_terms(&good, "/amount", json!("9999")),
                reason::AMOUNT_MISMATCH,
            ),
            (
                "another recipient",
                with_terms(&good, "/payTo", json!(stranger)),
                reason::RECIPIENT_MISMATCH,
            ),
            (
                "another fee payer",
                with_terms(&good, "/extra/feePayer", json!(stranger)),
                reason::FEE_PAYER_NOT_MANAGED,
            ),
        ];
        spoiled.extend(spoiled_anyhow(&good));
        spoiled
    }

    async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        pointless(&self.0).await
    }

    async fn received(&self) -> Amount {
        self.0.received().await
    }

    async fn hold(&self) {
        self.0.local.set_slot_time(None).await.unwrap();
    }

    async fn go_on(&self) {
        self.0.local.set_slot_time(Some(SLOT)).await.unwrap();
    }

    async fn drain_payer(&self) -> bool {
        let (token, buyer) = (&self.0.token, Setting::account(3).address);
        let local = &self.0.local;
        local
            .put_tokens(buyer, token.mint, token.program.id(), 0)
            .await
            .unwrap();
        true
    }

    /// The authorization is the transaction, and only its fee payer can complete it.
    async fn settle_elsewhere(&self, _: &PaymentRequest) -> bool {
        false
    }
}

/// A payment by another account than the buyer's.
async fn by_another_payer(setting: &Setting) -> PaymentRequest {
    let url = setting.local.url().parse().unwrap();
    let payer = quittance_solana::ExactPayer::new(Setting::account(4).keypair)
        .with_token(Setting::network().id(), setting.token.clone())
        .with_rpc(&Setting::network(), &[url])
        .unwrap();
    quittance_tests::pay(&payer, &setting.requirements()).await
}

/// A payment of zero, and one of the payer to itself.
async fn pointless(setting: &Setting) -> [(PaymentRequest, Reason); 2] {
    let (mut nothing, mut to_itself) = (setting.requirements(), setting.requirements());
    nothing.amount = "0".to_owned();
    to_itself.pay_to = Setting::account(3).address.to_string();
    let payer = setting.payer();
    [
        (
            quittance_tests::pay(&payer, &nothing).await,
            Reason::AMOUNT_TOO_LOW,
        ),
        (
            quittance_tests::pay(&payer, &to_itself).await,
            Reason::INVALID_PAYMENT_REQUIREMENTS,
        ),
    ]
}

/// Payments of a smart wallet that use a lookup table.
struct BySmartWallet {
    setting: Setting,
    wallet: Wallet,
    owner: Keypair,
    table: AddressLookupTableAccount,
}

impl BySmartWallet {
    /// The wallet's first balance, in atomic units: enough for every test.
    const FUNDS: u64 = 1000 * PRICE;

    fn pays(&self, deed: Deed) -> Instruction {
        let payment = Payment {
            token: self.setting.token.clone(),
            pay_to: Setting::account(2).address,
            amount: PRICE,
        };
        self.wallet.pay(&self.owner.pubkey(), &payment, deed)
    }

    async fn request_for(&self, deed: Deed) -> PaymentRequest {
        let tables = std::slice::from_ref(&self.table);
        wallet::request(&self.setting, &self.owner, &self.pays(deed), tables).await
    }
}

#[async_trait]
impl SchemeFixture for BySmartWallet {
    type Chain = Solana;

    const PRICE: Amount = Amount::new(U256::from_limbs([PRICE, 0, 0, 0]));

    async fn new() -> Self {
        let mut setting = Setting::start(TokenProgram::Token2022, Some(SLOT)).await;
        setting.smart_wallets = Some(SmartWallets::default());
        let wallet = Wallet::deploy(&setting.local, SQUADS).await;
        let owner = Setting::account(3).keypair;
        let (local, token) = (&setting.local, &setting.token);
        wallet
            .fund(local, &owner.pubkey(), token, Self::FUNDS)
            .await;
        let table = wallet::lookup_table(&setting.local, &[]).await;
        let mut fixture = Self {
            setting,
            wallet,
            owner,
            table,
        };
        let accounts = fixture.pays(Deed::Pay).accounts;
        let addresses: Vec<_> = accounts.iter().map(|account| account.pubkey).collect();
        fixture.table = wallet::lookup_table(&fixture.setting.local, &addresses).await;
        fixture
    }

    fn scheme(&self) -> Arc<dyn Scheme<Solana>> {
        Arc::new(self.setting.scheme())
    }

    async fn engine(&self) -> Engine {
        self.setting.engine(Duration::from_secs(5)).await
    }

    async fn request(&self) -> PaymentRequest {
        self.request_for(Deed::Pay).await
    }

    async fn alike(&self) -> [PaymentRequest; 2] {
        [self.request().await, by_another_payer(&self.setting).await]
    }

    /// Other bytes as the fee payer's signature (attacks.md 88).
    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        with_bytes(request, |bytes| bytes[1] ^= 1)
    }

    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        let good = self.request().await;
        let stranger = Setting::account(9).address.to_string();
        let mut spoiled = vec![
            (
                "row 92: paid twice",
                self.request_for(Deed::PayTwice).await,
                reason::SMART_WALLET_MULTIPLE_TRANSFERS,
            ),
            (
                "more than is paid",
                with_terms(&good, "/amount", json!("10001")),
                reason::SMART_WALLET_TRANSFER_MISMATCH,
            ),
            (
                "another recipient",
                with_terms(&good, "/payTo", json!(stranger)),
                reason::SMART_WALLET_TRANSFER_MISMATCH,
            ),
        ];
        spoiled.extend(spoiled_anyhow(&good));
        spoiled
    }

    async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        pointless(&self.setting).await
    }

    async fn received(&self) -> Amount {
        self.setting.received().await
    }

    async fn hold(&self) {
        self.setting.local.set_slot_time(None).await.unwrap();
    }

    async fn go_on(&self) {
        self.setting.local.set_slot_time(Some(SLOT)).await.unwrap();
    }

    /// The wallet's vault is not the payer's own account, and is not drained here.
    async fn drain_payer(&self) -> bool {
        false
    }

    /// The authorization is the transaction, and only its fee payer can complete it.
    async fn settle_elsewhere(&self, _: &PaymentRequest) -> bool {
        false
    }
}

mod spl_token {
    use super::SplToken;
    quittance_tests::scheme_conformance!(SplToken);
}

mod life {
    use super::SplToken;
    use quittance_tests::conformance::life::OneAct;
    quittance_tests::life_conformance!(OneAct<SplToken>);
}

mod token_2022 {
    use super::Token2022;
    quittance_tests::scheme_conformance!(Token2022);
}

mod smart_wallet {
    use super::BySmartWallet;
    quittance_tests::scheme_conformance!(BySmartWallet);
}
