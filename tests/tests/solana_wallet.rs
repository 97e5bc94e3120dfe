//! The smart wallet of the tests does what it says, and the local cluster reports it correctly.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_devnet::DevnetError;
use quittance_solana::{Keypair, Pubkey, TokenProgram};
use quittance_tests::solana::{PRICE, Setting};
use quittance_tests::wallet::{self, Deed, Payment, SQUADS, SWIG, Wallet, token_account};
use serde_json::{Value, json};
use solana_commitment_config::CommitmentConfig;
use solana_instruction::{AccountMeta, Instruction};
use solana_message::AddressLookupTableAccount;
use solana_signer::Signer as _;

/// The first balance of a vault, in atomic units.
const FUNDS: u64 = 1_000_000;

/// The fee of a transaction with two signatures, in lamports.
const FEE: u64 = 10_000;

/// A cluster with a wallet on it.
struct Scene {
    setting: Setting,
    wallet: Wallet,
    payment: Payment,
    payer: Keypair,
    owner: Keypair,
}

/// The effect of a transaction: in simulation, and on chain.
struct Observed {
    simulated: Value,
    included: Value,
}

impl Scene {
    async fn new(program: TokenProgram) -> Self {
        let setting = Setting::start(program, None).await;
        let wallet = Wallet::deploy(&setting.local, SQUADS).await;
        let [payer, owner] = [0, 3].map(|at| Setting::account(at).keypair);
        let payment = Payment {
            token: setting.token.clone(),
            pay_to: Setting::account(2).address,
            amount: PRICE,
        };
        let scene = Self {
            setting,
            wallet,
            payment,
            payer,
            owner,
        };
        scene.fund(&wallet).await;
        scene
    }

    async fn fund(&self, wallet: &Wallet) {
        let owner = self.owner.pubkey();
        wallet
            .fund(&self.setting.local, &owner, &self.payment.token, FUNDS)
            .await;
    }

    fn pay(&self, deed: Deed) -> Instruction {
        self.wallet.pay(&self.owner.pubkey(), &self.payment, deed)
    }

    fn vault(&self) -> Pubkey {
        self.wallet.vault(&self.owner.pubkey())
    }

    /// The balances of the recipient and of the wallet's vault.
    async fn balances(&self, wallet: &Wallet) -> (u64, u64) {
        let vault = wallet.vault(&self.owner.pubkey());
        let token = &self.payment.token;
        let program = token.program.id();
        let left = self.setting.local.balance(&vault, &token.mint, &program);
        let received = self.setting.received().await;
        (received.to_string().parse().unwrap(), left.await.unwrap())
    }

    /// A transaction in base64, signed by the owner, and optionally by the fee payer.
    async fn transaction(
        &self,
        is_paid_for: bool,
        instructions: &[Instruction],
        tables: &[AddressLookupTableAccount],
    ) -> String {
        let signers = [&self.owner, &self.payer];
        let count = 1 + usize::from(is_paid_for);
        let bytes = wallet::transaction(
            &self.payer.pubkey(),
            &signers[..count],
            instructions,
            tables,
            wallet::blockhash(&self.setting.local).await,
        );
        BASE64.encode(bytes)
    }

    async fn simulate(
        &self,
        instruction: &Instruction,
        tables: &[AddressLookupTableAccount],
    ) -> Result<Value, DevnetError> {
        let text = self.transaction(false, std::slice::from_ref(instruction), tables);
        let options =
            json!({ "encoding": "base64", "sigVerify": false, "innerInstructions": true });
        let answer: Value = self
            .setting
            .local
            .rpc("simulateTransaction", json!([text.await, options]))
            .await?;
        Ok(answer["value"].clone())
    }

    /// Includes a transaction, and returns its metadata.
    async fn include(
        &self,
        instruction: &Instruction,
        tables: &[AddressLookupTableAccount],
    ) -> Value {
        let local = &self.setting.local;
        let text = self.transaction(true, std::slice::from_ref(instruction), tables);
        let options = json!({ "encoding": "base64", "skipPreflight": true });
        let signature: String = local
            .rpc("sendTransaction", json!([text.await, options]))
            .await
            .unwrap();
        local.mine(1).await.unwrap();
        let options = json!({ "encoding": "base64", "maxSupportedTransactionVersion": 0 });
        let found: Value = local
            .rpc("getTransaction", json!([signature, options]))
            .await
            .unwrap();
        found["meta"].clone()
    }

    async fn run(
        &self,
        instruction: &Instruction,
        tables: &[AddressLookupTableAccount],
    ) -> Observed {
        Observed {
            simulated: self.simulate(instruction, tables).await.unwrap(),
            included: self.include(instruction, tables).await,
        }
    }

    /// A transfer of the price, as a simulation reports it.
    fn transfer(&self, from: &Pubkey, to: &Pubkey, by: &Pubkey, height: u32) -> Value {
        let token = &self.payment.token;
        json!({
            "program": "spl-token",
            "programId": token.program.id().to_string(),
            "parsed": {
                "type": "transferChecked",
                "info": {
                    "source": token_account(from, token).to_string(),
                    "mint": token.mint.to_string(),
                    "destination": token_account(to, token).to_string(),
                    "authority": by.to_string(),
                    "tokenAmount": { "uiAmount": 0.01, "decimals": 6, "amount": "10000", "uiAmountString": "0.01" },
                },
            },
            "stackHeight": height,
        })
    }

    /// The payment, as a simulation reports it.
    fn payment(&self, wallet: &Wallet, height: u32) -> Value {
        let vault = wallet.vault(&self.owner.pubkey());
        self.transfer(&vault, &self.payment.pay_to, &vault, height)
    }
}

impl Observed {
    /// Checks that both succeeded with the same effect, and that the simulation reports these inner
    /// instructions.
    fn assert_calls(&self, calls: &[Value]) {
        let Self {
            simulated,
            included,
        } = self;
        assert_eq!(simulated["err"], Value::Null, "{simulated:#}");
        assert_eq!(included["err"], Value::Null, "{included:#}");
        let expected = json!([{ "index": 0, "instructions": calls }]);
        assert_eq!(simulated["innerInstructions"], expected);
        let compiled = &included["innerInstructions"][0]["instructions"];
        let heights = |of: &Value| -> Vec<Value> {
            let calls = of.as_array().unwrap().iter();
            calls.map(|call| call["stackHeight"].clone()).collect()
        };
        assert_eq!(heights(compiled), heights(&json!(calls)));
        for name in [
            "fee",
            "preBalances",
            "postBalances",
            "preTokenBalances",
            "postTokenBalances",
            "loadedAddresses",
        ] {
            assert_eq!(simulated[name], included[name], "{name}");
        }
        assert_eq!(included["fee"], json!(FEE));
    }

    /// The increase of an owner's tokens, by the balances before and after.
    fn gain(&self, owner: &Pubkey) -> i64 {
        let amount = |balances: &Value| -> i64 {
            let all = balances.as_array().unwrap();
            let found = all.iter().find(|one| one["owner"] == owner.to_string());
            let text = found.unwrap()["uiTokenAmount"]["amount"].as_str();
            text.unwrap().parse().unwrap()
        };
        amount(&self.included["postTokenBalances"]) - amount(&self.included["preTokenBalances"])
    }
}

/// Each test runs with a token of either program.
macro_rules! with_either_program {
    ($($name:ident => $body:expr;)*) => {
        mod spl_token { use super::*; $(#[tokio::test] async fn $name() { $body(Scene::new(TokenProgram::SplToken).await).await; })* }
        mod token_2022 { use super::*; $(#[tokio::test] async fn $name() { $body(Scene::new(TokenProgram::Token2022).await).await; })* }
    };
}

with_either_program! {
    a_wallet_pays_from_its_vault => pays;
    a_wallet_pays_twice => pays_twice;
    a_wallet_pays_and_takes_back => takes_back;
    a_wallet_pays_in_simulation_and_not_on_chain => turns_off;
    a_wallet_calls_itself_or_another_that_pays => nests;
    a_wallet_takes_accounts_from_a_table => looks_up;
    what_a_wallet_does_with_tokens_is_spelled_out => is_spelled_out;
}

async fn pays(scene: Scene) {
    let observed = scene.run(&scene.pay(Deed::Pay), &[]).await;
    observed.assert_calls(&[scene.payment(&scene.wallet, 2)]);
    assert_eq!(observed.gain(&scene.payment.pay_to), PRICE as i64);
    assert_eq!(observed.gain(&scene.vault()), -(PRICE as i64));
    assert_eq!(scene.balances(&scene.wallet).await, (PRICE, FUNDS - PRICE));
}

async fn pays_twice(scene: Scene) {
    let observed = scene.run(&scene.pay(Deed::PayTwice), &[]).await;
    let payment = scene.payment(&scene.wallet, 2);
    observed.assert_calls(&[payment.clone(), payment]);
    assert_eq!(
        scene.balances(&scene.wallet).await,
        (2 * PRICE, FUNDS - 2 * PRICE)
    );
}

async fn takes_back(scene: Scene) {
    let seller = Setting::account(2);
    let token = &scene.payment.token;
    let approval = wallet::approve(&seller.address, &scene.vault(), token, PRICE);
    let bytes = wallet::transaction(
        &seller.address,
        &[&seller.keypair],
        &[approval],
        &[],
        wallet::blockhash(&scene.setting.local).await,
    );
    wallet::include(&scene.setting.local, &bytes).await;

    let observed = scene.run(&scene.pay(Deed::PayAndTakeBack), &[]).await;
    let back = scene.transfer(&seller.address, &scene.vault(), &scene.vault(), 2);
    observed.assert_calls(&[scene.payment(&scene.wallet, 2), back]);
    assert_eq!(observed.gain(&seller.address), 0);
    assert_eq!(scene.balances(&scene.wallet).await, (0, FUNDS));
}

async fn turns_off(scene: Scene) {
    let switch = Keypair::new().pubkey();
    let pay = scene.pay(Deed::PayUnless(switch));
    wallet::set_switch(&scene.setting.local, switch, true).await;
    let simulated = scene.simulate(&pay, &[]).await.unwrap();
    let calls = &simulated["innerInstructions"][0]["instructions"];
    assert_eq!(calls, &json!([scene.payment(&scene.wallet, 2)]));

    wallet::set_switch(&scene.setting.local, switch, false).await;
    let included = scene.include(&pay, &[]).await;
    assert_eq!(included["err"], Value::Null);
    assert_eq!(included["innerInstructions"], json!([]));
    assert_eq!(scene.balances(&scene.wallet).await, (0, FUNDS));
}

async fn nests(scene: Scene) {
    let other = Wallet::deploy(&scene.setting.local, SWIG).await;
    scene.fund(&other).await;
    for inner in [scene.wallet, other] {
        let (received, left) = scene.balances(&inner).await;
        let pay = scene.pay(Deed::Nested(inner));
        let observed = scene.run(&pay, &[]).await;
        let calls = &observed.simulated["innerInstructions"][0]["instructions"];
        // Instructions that are not parsed have their accounts as addresses and their data in
        // base58.
        assert_eq!(calls[0]["programId"], inner.program.to_string());
        assert_eq!(calls[0]["accounts"][0], scene.owner.pubkey().to_string());
        assert!(calls[0]["data"].is_string());
        assert_eq!(calls[0]["stackHeight"], 2);
        observed.assert_calls(&[calls[0].clone(), scene.payment(&inner, 3)]);
        assert_eq!(
            scene.balances(&inner).await,
            (received + PRICE, left - PRICE)
        );
    }
}

async fn looks_up(scene: Scene) {
    let token = &scene.payment.token;
    let [from, to] = [scene.vault(), scene.payment.pay_to].map(|of| token_account(&of, token));
    // The unused first entry makes indexes in the table differ from those in the transaction.
    let addresses = [Keypair::new().pubkey(), from, token.mint, to, scene.vault()];
    let table = wallet::lookup_table(&scene.setting.local, &addresses).await;
    let observed = scene.run(&scene.pay(Deed::Pay), &[table]).await;
    observed.assert_calls(&[scene.payment(&scene.wallet, 2)]);
    let meta = &observed.included;
    let loaded = ["writable", "readonly"].map(|kind| texts(&meta["loadedAddresses"][kind]));
    let [mut writable, mut readonly] = loaded.clone();
    writable.sort();
    readonly.sort();
    assert_eq!(writable, sorted([from, to]));
    assert_eq!(readonly, sorted([token.mint, scene.vault()]));
    // The transaction itself lists the fee payer, the owner, the wallet and the token program.
    // Loaded addresses follow them.
    let named = |index: &Value| {
        let at = usize::try_from(index.as_u64().unwrap()).unwrap();
        loaded.concat()[at - 4].clone()
    };
    let balances = meta["postTokenBalances"].as_array().unwrap();
    let reported: Vec<_> = balances
        .iter()
        .map(|one| named(&one["accountIndex"]))
        .collect();
    assert_eq!(reported, loaded[0]);
    let call = &meta["innerInstructions"][0]["instructions"][0];
    let accounts: Vec<_> = call["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(named)
        .collect();
    let expected = [from, token.mint, to, scene.vault()].map(|key| key.to_string());
    assert_eq!(accounts, expected);
    assert_eq!(observed.gain(&scene.payment.pay_to), PRICE as i64);
    assert_eq!(scene.balances(&scene.wallet).await, (PRICE, FUNDS - PRICE));
}

async fn is_spelled_out(scene: Scene) {
    let (owner, vault, seller) = (scene.owner.pubkey(), scene.vault(), scene.payment.pay_to);
    let token = &scene.payment.token;
    let [from, to] = [vault, seller].map(|of| token_account(&of, token));
    let by_vault = |accounts: &[Pubkey], data: &[&[u8]]| {
        let writable = accounts.iter().map(|key| AccountMeta::new(*key, false));
        Instruction {
            program_id: token.program.id(),
            accounts: writable
                .chain([AccountMeta::new_readonly(vault, true)])
                .collect(),
            data: data.concat(),
        }
    };
    let transfer = by_vault(&[from, to], &[&[3], &5_u64.to_le_bytes()]);
    let give_away = by_vault(&[from], &[&[6, 2, 1], owner.as_ref()]);
    let in_one = wallet::batch(&[transfer.clone(), scene.payment.by(&vault)]);
    let calls = [
        wallet::memo("a call"),
        wallet::approve(&vault, &owner, token, 7),
        transfer,
        in_one,
        give_away,
    ];
    let simulated = scene
        .simulate(&scene.wallet.execute(&owner, &calls), &[])
        .await;
    let simulated = simulated.unwrap();
    assert_eq!(simulated["err"], Value::Null, "{simulated:#}");
    let [from, to, vault, owner] = [from, to, vault, owner].map(|key| key.to_string());
    let transfer = json!({ "type": "transfer", "info": { "source": from, "destination": to, "amount": "5", "authority": vault } });
    let payment = scene.payment(&scene.wallet, 2)["parsed"].clone();
    let expected = [
        json!("a call"),
        json!({ "type": "approve", "info": { "source": from, "delegate": owner, "amount": "7", "owner": vault } }),
        transfer.clone(),
        json!({ "type": "batch", "info": { "instructions": [transfer, payment] } }),
        json!({ "type": "setAuthority", "info": {
            "account": from, "authorityType": "accountOwner", "newAuthority": owner, "authority": vault,
        } }),
    ];
    let calls = simulated["innerInstructions"][0]["instructions"]
        .as_array()
        .unwrap();
    let reported: Vec<_> = calls.iter().map(|call| call["parsed"].clone()).collect();
    assert_eq!(reported, expected);
    assert_eq!(calls[0]["program"], "spl-memo");
}

fn texts(list: &Value) -> Vec<String> {
    let texts = list.as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

fn sorted(keys: [Pubkey; 2]) -> [String; 2] {
    let mut texts = keys.map(|key| key.to_string());
    texts.sort();
    texts
}

/// The input has an account that is listed twice only once.
#[tokio::test]
async fn instruction_may_name_an_account_twice() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let mut pay = scene.pay(Deed::Pay);
    // The recipient's token account, which is now the last of all accounts.
    let to = token_account(&scene.payment.pay_to, &scene.payment.token);
    let first = pay.accounts.iter().position(|meta| meta.pubkey == to);
    let (first, last) = (first.unwrap(), pay.accounts.len());
    pay.accounts.push(pay.accounts[first].clone());
    // Bump, switch, program, count, then each account with its rights: the recipient's is the
    // third.
    assert_eq!(usize::from(pay.data[8]), first);
    pay.data[8] = u8::try_from(last).unwrap();
    let observed = scene.run(&pay, &[]).await;
    observed.assert_calls(&[scene.payment(&scene.wallet, 2)]);
}

/// The vault of another owner: its signature is impossible for every signer.
#[tokio::test]
async fn only_its_owner_moves_a_vaults_tokens() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let thief = &scene.payer;
    let theft = scene
        .wallet
        .execute(&thief.pubkey(), &[scene.payment.by(&scene.vault())]);
    let mut unsigned = scene.pay(Deed::Pay);
    unsigned.accounts[0].is_signer = false;
    let mut forged = theft.clone();
    forged.accounts.iter_mut().for_each(|meta| {
        meta.is_signer = meta.pubkey == thief.pubkey();
    });
    for (instruction, error) in [
        (
            unsigned,
            json!({ "InstructionError": [0, { "Custom": 1 }] }),
        ),
        (
            forged,
            json!({ "InstructionError": [0, "PrivilegeEscalation"] }),
        ),
    ] {
        let included = scene.include(&instruction, &[]).await;
        assert_eq!(included["err"], error);
    }
    assert_eq!(scene.balances(&scene.wallet).await, (0, FUNDS));
}

/// A node loads the tables first, and reports their faults as errors of the request.
#[tokio::test]
async fn unusable_lookup_tables_give_a_nodes_errors() {
    const NOT_FOUND: &str = "Transaction loads an address table account that doesn't exist";
    const OWNER: &str = "Transaction loads an address table account with an invalid owner";
    const DATA: &str = "Transaction loads an address table account with invalid data";
    const INDEX: &str = "Transaction address table lookup uses an invalid index";
    let scene = Scene::new(TokenProgram::SplToken).await;
    let local = &scene.setting.local;
    let mint = scene.payment.token.mint;
    let table = |key: Pubkey, addresses: &[Pubkey]| AddressLookupTableAccount {
        key,
        addresses: addresses.to_vec(),
    };
    let real = local
        .lookup_table(&[Keypair::new().pubkey()])
        .await
        .unwrap();
    let program = "AddressLookupTab1e1111111111111111111111111"
        .parse()
        .unwrap();
    let short = Keypair::new().pubkey();
    local
        .put_account(short, program, &[1; 40], None)
        .await
        .unwrap();
    for (table, error) in [
        (table(Keypair::new().pubkey(), &[mint]), NOT_FOUND),
        (table(mint, &[mint]), OWNER),
        (table(short, &[mint]), DATA),
        (table(real, &[Keypair::new().pubkey(), mint]), INDEX),
    ] {
        let refused = scene.simulate(&scene.pay(Deed::Pay), &[table]).await;
        let refused = refused.unwrap_err().to_string();
        let expected = format!("invalid transaction: {error}");
        assert!(refused.contains(&expected), "{refused}");
        assert!(refused.contains("-32602"), "{refused}");
    }
}

/// An entry cannot be looked up in the slot in which it was added.
#[tokio::test]
async fn lookup_table_entry_is_usable_in_the_next_slot() {
    let scene = Scene::new(TokenProgram::SplToken).await;
    let local = &scene.setting.local;
    let mint = scene.payment.token.mint;
    let processed = CommitmentConfig::processed();
    let slot = local.client().get_slot_with_commitment(processed).await;
    let slot = slot.unwrap();
    let mut data = vec![0; 56];
    data[0] = 1;
    data[4..12].fill(0xff);
    data[12..20].copy_from_slice(&slot.to_le_bytes());
    data.extend(mint.to_bytes());
    let key = Keypair::new().pubkey();
    let program = "AddressLookupTab1e1111111111111111111111111"
        .parse()
        .unwrap();
    local.put_account(key, program, &data, None).await.unwrap();
    let tables = [AddressLookupTableAccount {
        key,
        addresses: vec![mint],
    }];
    let pay = scene.pay(Deed::Pay);
    let refused = scene.simulate(&pay, &tables).await.unwrap_err();
    assert!(refused.to_string().contains("invalid index"), "{refused}");
    local.mine(1).await.unwrap();
    scene
        .run(&pay, &tables)
        .await
        .assert_calls(&[scene.payment(&scene.wallet, 2)]);
}
