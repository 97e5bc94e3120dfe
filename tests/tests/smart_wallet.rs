//! Payments by smart wallets, end to end: a program on the local cluster pays, correctly or not,
//! and the facilitator reports what happened.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::time::Duration;

use quittance_core::wire::VerifyResponse;
use quittance_core::{
    Amount, Facilitator, FacilitatorError, Network, PaymentInfo, PaymentRequest, Reason, Rejection,
};
use quittance_engine::{Engine, EngineBuilder, Policy};
use quittance_solana::{Keypair, Pubkey, SmartWallets, TokenProgram, reason};
use quittance_tests::proxy::Fate;
use quittance_tests::solana::{PRICE, SLOT, Setting};
use quittance_tests::wallet::{self, Deed, Payment, SQUADS, SWIG, Wallet, approve, batch};
use serde_json::json;
use solana_instruction::{AccountMeta, Instruction};
use solana_message::AddressLookupTableAccount;
use solana_signer::Signer as _;

/// The first balance of a vault, in atomic units.
const FUNDS: u64 = 1_000_000;

/// A cluster with a wallet at the address of Squads, and a facilitator that allows such wallets.
struct Scene {
    setting: Setting,
    engine: Engine,
    wallet: Wallet,
    owner: Keypair,
    payment: Payment,
}

impl Scene {
    async fn new(program: TokenProgram) -> Self {
        let mut setting = Setting::start(program, Some(SLOT)).await;
        setting.smart_wallets = Some(SmartWallets::default());
        let wallet = Wallet::deploy(&setting.local, SQUADS).await;
        let owner = Setting::account(3).keypair;
        let payment = Payment {
            token: setting.token.clone(),
            pay_to: Setting::account(2).address,
            amount: PRICE,
        };
        wallet
            .fund(&setting.local, &owner.pubkey(), &payment.token, FUNDS)
            .await;
        Self {
            engine: setting.engine(Duration::from_secs(10)).await,
            setting,
            wallet,
            owner,
            payment,
        }
    }

    /// The same with a new engine.
    async fn anew(self, change: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Self {
        // Only one engine at a time can open the journal.
        drop(self.engine);
        let config = self.setting.config();
        let engine = self.setting.engine_with(config, change).await;
        Self { engine, ..self }
    }

    fn vault(&self) -> Pubkey {
        self.wallet.vault(&self.owner.pubkey())
    }

    async fn left(&self) -> u64 {
        let token = &self.payment.token;
        let program = token.program.id();
        let vault = self.vault();
        let local = &self.setting.local;
        let left = local.balance(&vault, &token.mint, &program);
        left.await.unwrap()
    }

    async fn received(&self) -> u64 {
        let received = self.setting.received().await;
        received.to_string().parse().unwrap()
    }

    fn pay(&self, deed: Deed) -> Instruction {
        self.wallet.pay(&self.owner.pubkey(), &self.payment, deed)
    }

    async fn request(&self, pays: &Instruction) -> PaymentRequest {
        wallet::request(&self.setting, &self.owner, pays, &[]).await
    }

    /// Checks that a payment is rejected with this reason, by both endpoints, and that no money
    /// moves.
    async fn assert_refused(&self, pays: &Instruction, reason: &Reason) {
        let request = self.request(pays).await;
        self.assert_request_refused(&request, reason).await;
    }

    async fn assert_request_refused(&self, request: &PaymentRequest, reason: &Reason) {
        let verdict = self.engine.verify(request).await.unwrap();
        assert_eq!(
            verdict.invalid_reason.as_deref(),
            Some(reason.code()),
            "{verdict:?}"
        );
        let outcome = self.engine.settle(request).await.unwrap();
        assert_eq!(outcome.error_reason.as_deref(), Some(reason.code()));
        assert_eq!(outcome.transaction, "");
        assert_eq!((self.received().await, self.left().await), (0, FUNDS));
    }

    /// Verifies and settles a correct payment.
    async fn assert_settles(&self, request: &PaymentRequest) {
        let vault = self.vault().to_string();
        let verdict = self.engine.verify(request).await.unwrap();
        assert_eq!(verdict, VerifyResponse::valid(Some(vault.clone())));
        let outcome = self.engine.settle(request).await.unwrap();
        assert!(outcome.success, "{outcome:?}");
        assert_eq!(outcome.payer, Some(vault));
        assert_eq!(outcome.amount, Some(PRICE.to_string()));
        let again = self.engine.settle(request).await.unwrap();
        assert!(!again.success, "{again:?}");
    }
}

/// attacks.md 103: the wallet's own money moves once, and the wallet is reported as the payer.
async fn a_wallet_pays(program: TokenProgram) {
    let scene = Scene::new(program).await;
    let request = scene.request(&scene.pay(Deed::Pay)).await;
    scene.assert_settles(&request).await;
    assert_eq!(scene.received().await, PRICE);
    assert_eq!(scene.left().await, FUNDS - PRICE);
}

#[tokio::test]
async fn smart_wallet_pays_in_spl_token() {
    a_wallet_pays(TokenProgram::SplToken).await;
}

#[tokio::test]
async fn smart_wallet_pays_in_token_2022() {
    a_wallet_pays(TokenProgram::Token2022).await;
}

/// attacks.md 103: an allowed wallet must make the transfer, whatever else it calls. Another
/// program may pay the recipient what it already owns, at anyone's request.
#[tokio::test]
async fn transfer_may_be_made_by_an_allowed_inner_wallet_only() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let owner = scene.owner.pubkey();
    let token = &scene.payment.token;
    let local = &scene.setting.local;
    let stranger = Wallet::deploy(local, Pubkey::new_unique()).await;
    stranger.fund(local, &owner, token, FUNDS).await;
    let not_allowed = &reason::SMART_WALLET_PROGRAM_NOT_ALLOWED;
    let by_stranger = scene.pay(Deed::Nested(stranger));
    scene.assert_refused(&by_stranger, not_allowed).await;
    let inner = Wallet::deploy(local, SWIG).await;
    inner.fund(local, &owner, token, FUNDS).await;
    let request = scene.request(&scene.pay(Deed::Nested(inner))).await;
    let outcome = scene.engine.settle(&request).await.unwrap();
    assert!(outcome.success, "{outcome:?}");
    assert_eq!(outcome.payer, Some(inner.vault(&owner).to_string()));
    assert_eq!((scene.received().await, scene.left().await), (PRICE, FUNDS));
}

/// attacks.md 85.
#[tokio::test]
async fn payment_may_use_a_lookup_table() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let pays = scene.pay(Deed::Pay);
    let addresses: Vec<Pubkey> = pays.accounts.iter().map(|account| account.pubkey).collect();
    let table = wallet::lookup_table(&scene.setting.local, &addresses).await;
    let tables = std::slice::from_ref(&table);
    let request = wallet::request(&scene.setting, &scene.owner, &pays, tables).await;
    scene.assert_settles(&request).await;
    assert_eq!(scene.received().await, PRICE);
}

/// attacks.md 85: the payer's claim about a table differs from its contents, or the table does not
/// exist.
#[tokio::test]
async fn lookup_table_of_the_chain_decides_not_the_payers() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let pays = scene.pay(Deed::Pay);
    let addresses: Vec<Pubkey> = pays.accounts.iter().map(|account| account.pubkey).collect();
    let fee_payers = vec![Setting::account(0).address; addresses.len()];
    let mut table = wallet::lookup_table(&scene.setting.local, &fee_payers).await;
    table.addresses.clone_from(&addresses);
    let tables = std::slice::from_ref(&table);
    let hides = wallet::request(&scene.setting, &scene.owner, &pays, tables).await;
    scene
        .assert_request_refused(&hides, &reason::SMART_WALLET_FEE_PAYER_NOT_ISOLATED)
        .await;
    table.key = Pubkey::new_unique();
    let tables = std::slice::from_ref(&table);
    let missing = wallet::request(&scene.setting, &scene.owner, &pays, tables).await;
    scene
        .assert_request_refused(&missing, &reason::ALT_RESOLUTION_FAILED)
        .await;
    let mut short = wallet::lookup_table(&scene.setting.local, &addresses[..1]).await;
    short.addresses = addresses;
    let tables = std::slice::from_ref(&short);
    let short = wallet::request(&scene.setting, &scene.owner, &pays, tables).await;
    scene
        .assert_request_refused(&short, &reason::ALT_RESOLUTION_FAILED)
        .await;
}

/// The payer names the tables. Regression: two accounts of ten megabytes exceeded the limit of a
/// reply. That was a fault for every payment in the batch, and the node counted as broken.
#[tokio::test]
async fn huge_accounts_named_as_tables_are_rejected() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let pays = scene.pay(Deed::Pay);
    let mut tables = Vec::new();
    for account in &pays.accounts[1..3] {
        let key = Pubkey::new_unique();
        let local = &scene.setting.local;
        let owner = Setting::account(4).address;
        let megabytes = vec![7; 9 << 20];
        local
            .put_account(key, owner, &megabytes, None)
            .await
            .unwrap();
        tables.push(AddressLookupTableAccount {
            key,
            addresses: vec![account.pubkey],
        });
    }
    let huge = wallet::request(&scene.setting, &scene.owner, &pays, &tables).await;
    let good = scene.request(&pays).await;
    let (huge, good) = tokio::join!(scene.engine.verify(&huge), scene.engine.verify(&good));
    assert_eq!(
        huge.unwrap().invalid_reason.as_deref(),
        Some(reason::ALT_RESOLUTION_FAILED.code())
    );
    assert!(good.unwrap().is_valid);
}

/// Regression: any request that a node did not understand was reported as the payment's fault if it
/// had a lookup table.
#[tokio::test]
async fn unsupported_simulation_is_a_fault_of_the_node() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let pays = scene.pay(Deed::Pay);
    let addresses: Vec<Pubkey> = pays.accounts.iter().map(|account| account.pubkey).collect();
    let table = wallet::lookup_table(&scene.setting.local, &addresses).await;
    let tables = std::slice::from_ref(&table);
    let request = wallet::request(&scene.setting, &scene.owner, &pays, tables).await;
    let unknown = Fate::Error(-32602, "Invalid params: unknown field `innerInstructions`");
    scene.setting.node.breaks("simulateTransaction", unknown, 1);
    let answer = scene.engine.verify(&request).await;
    assert!(
        matches!(answer, Err(FacilitatorError::Fault(_))),
        "{answer:?}"
    );
    assert!(scene.engine.verify(&request).await.unwrap().is_valid);
}

/// attacks.md 92.
#[tokio::test]
async fn smart_wallet_that_pays_twice_or_takes_back_is_rejected() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    scene
        .assert_refused(
            &scene.pay(Deed::PayTwice),
            &reason::SMART_WALLET_MULTIPLE_TRANSFERS,
        )
        .await;
    // The recipient approves the vault as its delegate, as a deceived recipient might.
    let seller = Setting::account(2).keypair;
    let allow = approve(
        &seller.pubkey(),
        &scene.vault(),
        &scene.payment.token,
        u64::MAX,
    );
    let fee_payer = Setting::account(0).keypair;
    let bytes = wallet::transaction(
        &fee_payer.pubkey(),
        &[&fee_payer, &seller],
        &[allow],
        &[],
        wallet::blockhash(&scene.setting.local).await,
    );
    wallet::include(&scene.setting.local, &bytes).await;
    let mismatch = &reason::SMART_WALLET_TRANSFER_MISMATCH;
    let back = scene.pay(Deed::PayAndTakeBack);
    scene.assert_refused(&back, mismatch).await;
    // The same as one instruction, which nodes do not parse.
    let (vault, owner) = (scene.vault(), scene.owner.pubkey());
    let both = [scene.payment.by(&vault), scene.payment.back_to(&vault)];
    let in_one = scene.wallet.execute(&owner, &[batch(&both)]);
    scene.assert_refused(&in_one, mismatch).await;
    // A payment that is alone in such a batch.
    let alone = batch(&[scene.payment.by(&vault)]);
    let alone = scene.wallet.execute(&owner, &[alone]);
    scene.assert_refused(&alone, mismatch).await;
}

/// attacks.md 103: a program that pays in simulations only.
#[tokio::test]
async fn payment_made_only_in_simulation_fails() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let local = &scene.setting.local;
    let switch = Pubkey::new_unique();
    wallet::set_switch(local, switch, true).await;
    let request = scene.request(&scene.pay(Deed::PayUnless(switch))).await;
    assert!(scene.engine.verify(&request).await.unwrap().is_valid);
    local.set_slot_time(None).await.unwrap();
    let settling = {
        let (engine, request) = (scene.engine.clone(), request.clone());
        tokio::spawn(async move { engine.settle(&request).await.unwrap() })
    };
    // It is simulated once more and sent; only then the wallet changes its behaviour.
    quittance_tests::until("it is sent", || async {
        scene.setting.node.calls("sendTransaction") > 0
    })
    .await;
    wallet::set_switch(local, switch, false).await;
    local.set_slot_time(Some(SLOT)).await.unwrap();
    let outcome = settling.await.unwrap();
    assert!(!outcome.success, "{outcome:?}");
    assert_eq!(
        outcome.error_reason.as_deref(),
        Some(reason::TRANSFER_NOT_CONFIRMED.code())
    );
    assert_ne!(outcome.transaction, "");
    assert_eq!((scene.received().await, scene.left().await), (0, FUNDS));
    let again = scene.engine.settle(&request).await.unwrap();
    assert!(!again.success, "{again:?}");
}

/// attacks.md 103 and 151: the real effect is reported even if the transaction was included while
/// no process watched it.
#[tokio::test]
async fn payment_made_only_in_simulation_fails_after_a_crash() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let switch = Pubkey::new_unique();
    wallet::set_switch(&scene.setting.local, switch, true).await;
    let request = scene.request(&scene.pay(Deed::PayUnless(switch))).await;
    scene.setting.local.set_slot_time(None).await.unwrap();
    let settling = {
        let (engine, request) = (scene.engine.clone(), request.clone());
        tokio::spawn(async move { engine.settle(&request).await })
    };
    quittance_tests::until("it is sent", || async {
        scene.setting.node.calls("sendTransaction") > 0
    })
    .await;
    settling.abort();
    drop(settling.await);
    let Scene {
        setting,
        engine,
        wallet,
        owner,
        payment,
    } = scene;
    drop(engine);
    wallet::set_switch(&setting.local, switch, false).await;
    setting.local.mine(1).await.unwrap();
    setting.local.set_slot_time(Some(SLOT)).await.unwrap();
    let engine = setting.engine(Duration::from_secs(10)).await;
    let scene = Scene {
        setting,
        engine,
        wallet,
        owner,
        payment,
    };
    let outcome = scene.engine.settle(&request).await.unwrap();
    assert_eq!(
        outcome.error_reason.as_deref(),
        Some(reason::TRANSFER_NOT_CONFIRMED.code()),
        "{outcome:?}"
    );
    assert_ne!(outcome.transaction, "");
    assert_eq!((scene.received().await, scene.left().await), (0, FUNDS));
}

/// Regression: a node omitted the metadata of a transaction, and the payment was reported as
/// failed. When the node had it, the payer was reported as the signing key, not as the wallet.
#[tokio::test]
async fn late_settlement_is_still_attributed_to_the_wallet() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let request = scene.request(&scene.pay(Deed::Pay)).await;
    let nothing = json!({ "err": null, "preTokenBalances": [], "postTokenBalances": [], "innerInstructions": [] });
    let nothing = Fate::Result(json!({ "meta": nothing }));
    scene
        .setting
        .node
        .breaks_for_good("getTransaction", nothing);
    let failed = scene.engine.settle(&request).await.unwrap();
    assert_eq!(
        failed.error_reason.as_deref(),
        Some(reason::TRANSFER_NOT_CONFIRMED.code())
    );
    scene.setting.node.mend();
    let settled = scene.engine.settle(&request).await.unwrap();
    assert!(settled.success, "{settled:?}");
    assert_eq!(settled.payer, Some(scene.vault().to_string()));
    assert_eq!(scene.received().await, PRICE);
}

/// attacks.md 83: a transaction that gives the fee payer's account to the wallet is not simulated.
#[tokio::test]
async fn smart_wallet_that_gets_a_fee_payer_is_rejected() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let fee_payer = Setting::account(0).address;
    let steal = Instruction {
        program_id: Pubkey::new_from_array([0; 32]),
        accounts: vec![
            AccountMeta::new(fee_payer, true),
            AccountMeta::new(scene.vault(), false),
        ],
        data: [2_u32.to_le_bytes().as_slice(), &1_000_000_u64.to_le_bytes()].concat(),
    };
    let owner = scene.owner.pubkey();
    let steals = [scene.payment.by(&scene.vault()), steal];
    let steals = scene.wallet.execute(&owner, &steals);
    let request = scene.request(&steals).await;
    // With the other fee payer's account it would need further signatures, which is rejected as
    // well.
    let refused = [
        reason::SMART_WALLET_FEE_PAYER_NOT_ISOLATED,
        reason::EXCESSIVE_SIGNERS,
    ];
    let verdict = scene.engine.verify(&request).await.unwrap();
    let code = verdict.invalid_reason.unwrap();
    assert!(refused.iter().any(|reason| reason.code() == code), "{code}");
    assert_eq!((scene.received().await, scene.left().await), (0, FUNDS));
}

/// attacks.md 103: a wallet that is not listed is rejected, even if it does the same.
#[tokio::test]
async fn smart_wallet_that_is_not_listed_is_rejected() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let stranger = Wallet::deploy(&scene.setting.local, Pubkey::new_unique()).await;
    let owner = scene.owner.pubkey();
    let token = &scene.payment.token;
    stranger
        .fund(&scene.setting.local, &owner, token, FUNDS)
        .await;
    let pays = stranger.pay(&owner, &scene.payment, Deed::Pay);
    let not_allowed = &reason::SMART_WALLET_PROGRAM_NOT_ALLOWED;
    scene.assert_refused(&pays, not_allowed).await;
    // Another listed wallet is accepted.
    let swig = Wallet::deploy(&scene.setting.local, SWIG).await;
    swig.fund(&scene.setting.local, &owner, token, FUNDS).await;
    let request = scene
        .request(&swig.pay(&owner, &scene.payment, Deed::Pay))
        .await;
    let outcome = scene.engine.settle(&request).await.unwrap();
    assert_eq!(outcome.payer, Some(swig.vault(&owner).to_string()));
}

#[tokio::test]
async fn smart_wallet_without_funds_is_rejected() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let failed = &reason::SMART_WALLET_SIMULATION_FAILED;
    let more = Payment {
        amount: FUNDS + 1,
        ..scene.payment.clone()
    };
    let owner = scene.owner.pubkey();
    let pays = scene.wallet.pay(&owner, &more, Deed::Pay);
    scene.assert_refused(&pays, failed).await;
    // The vault of another owner.
    let other = Keypair::new().pubkey();
    let theirs = scene.payment.by(&scene.wallet.vault(&other));
    let steals = scene.wallet.execute(&owner, &[theirs]);
    let request = scene.request(&steals).await;
    let verdict = scene.engine.verify(&request).await.unwrap();
    assert!(!verdict.is_valid, "{verdict:?}");
    let nothing = scene.wallet.execute(&owner, &[]);
    scene
        .assert_refused(&nothing, &reason::SMART_WALLET_NO_TRANSFER)
        .await;
    let less = Payment {
        amount: PRICE - 1,
        ..scene.payment.clone()
    };
    let pays = scene.wallet.pay(&owner, &less, Deed::Pay);
    scene
        .assert_refused(&pays, &reason::SMART_WALLET_TRANSFER_MISMATCH)
        .await;
}

/// The payer may transfer more than the required amount; the required amount is reported.
#[tokio::test]
async fn smart_wallet_may_pay_more_than_required() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let more = Payment {
        amount: PRICE + 5,
        ..scene.payment.clone()
    };
    let owner = scene.owner.pubkey();
    let request = scene
        .request(&scene.wallet.pay(&owner, &more, Deed::Pay))
        .await;
    scene.assert_settles(&request).await;
    assert_eq!(scene.received().await, PRICE + 5);
}

/// A policy that rejects one payer.
struct NotBy(String);

impl Policy for NotBy {
    fn allows(&self, _: &Network, info: &PaymentInfo) -> Result<(), Rejection> {
        match info.payer == self.0 {
            true => Err(Rejection::new(
                Reason::RECIPIENT_NOT_ALLOWED,
                "not this one",
            )),
            false => Ok(()),
        }
    }
}

#[tokio::test]
async fn policy_checks_the_signing_key_and_the_wallet() {
    let mut scene = Scene::new(TokenProgram::SplToken).await;
    let request = scene.request(&scene.pay(Deed::Pay)).await;
    for unwanted in [scene.owner.pubkey(), scene.vault()] {
        let unwanted = unwanted.to_string();
        let policy = NotBy(unwanted.clone());
        scene = scene.anew(|builder| builder.policy(policy)).await;
        let verdict = scene.engine.verify(&request).await.unwrap();
        assert_eq!(
            verdict.invalid_reason.as_deref(),
            Some(Reason::RECIPIENT_NOT_ALLOWED.code())
        );
        assert_eq!(verdict.payer, Some(unwanted));
        assert!(!scene.engine.settle(&request).await.unwrap().success);
    }
    assert_eq!(scene.received().await, 0);
}

/// attacks.md 103: smart wallets are off by default.
#[tokio::test]
async fn smart_wallets_are_off_by_default() {
    let mut scene = Scene::new(TokenProgram::SplToken).await;
    let features = |engine: Engine| async move {
        let supported = json!(engine.supported().await.unwrap().kinds);
        supported.pointer("/0/extra/features").cloned()
    };
    let allowed = json!({ "smartWalletSupported": true });
    assert_eq!(features(scene.engine.clone()).await, Some(allowed));
    let request = scene.request(&scene.pay(Deed::Pay)).await;
    scene.setting.smart_wallets = None;
    let scene = scene.anew(|builder| builder).await;
    assert_eq!(features(scene.engine.clone()).await, None);
    scene
        .assert_request_refused(&request, &reason::NO_TRANSFER)
        .await;
}

#[tokio::test]
async fn ordinary_payment_settles_with_smart_wallets_on() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let request = scene.setting.request().await;
    let outcome = scene.engine.settle(&request).await.unwrap();
    assert!(outcome.success, "{outcome:?}");
    let payer = Setting::account(3).address.to_string();
    assert_eq!(outcome.payer, Some(payer));
    assert_eq!(scene.setting.received().await, Amount::from(PRICE));
}
