//! Tests without a cluster: every attack on Solana payments that shows in the transaction itself.

mod smart_wallet;

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature as Ed25519, VerifyingKey};
use proptest::prelude::*;
use quittance_core::{Chain, Check, Effect, Observed, Offer};
use solana_hash::Hash;
use solana_instruction::{AccountMeta, Instruction};
use solana_keypair::Keypair;
use solana_message::{AddressLookupTableAccount, Message, VersionedMessage, v0};
use solana_signature::Signature;
use solana_signer::Signer;
use solana_transaction::versioned::VersionedTransaction;

use super::*;
use crate::account::Account;
use crate::action::PartiallySigned;
use crate::chain::{Answer, SolanaConfig};
use crate::evidence::{Balance, Evidence};
use crate::instruction::{COMPUTE_BUDGET, LIGHTHOUSE, MEMO, TOKEN, TOKEN_2022};
use crate::known;
use crate::token::associated_account;
use crate::transaction::SIZE_MAX;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const NETWORK: &str = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1";
const AMOUNT: u64 = 10_000;
const SYSTEM: Pubkey = Pubkey::new_from_array([0; 32]);

/// A key that is the same in every run.
fn key(seed: u8) -> Keypair {
    Keypair::new_from_array([seed; 32])
}

fn fee_payers() -> [Keypair; 2] {
    [key(1), key(2)]
}

fn payer() -> Keypair {
    key(3)
}

fn pay_to() -> Pubkey {
    key(4).pubkey()
}

fn usdc() -> Token {
    known::token(NETWORK, "USDC").unwrap().clone()
}

/// One for all tests: each has an HTTP client.
fn solana() -> &'static Solana {
    static SOLANA: LazyLock<Solana> = LazyLock::new(cluster);
    &SOLANA
}

fn cluster() -> Solana {
    let network = known::network(NETWORK).unwrap();
    let url = "http://127.0.0.1:1".parse().unwrap();
    let signers = fee_payers()
        .map(|key| Arc::new(key) as crate::Signer)
        .to_vec();
    Solana::new(SolanaConfig::new(network, vec![url], signers)).unwrap()
}

fn budget(kind: u8, value: &[u8]) -> Instruction {
    Instruction {
        program_id: COMPUTE_BUDGET,
        accounts: vec![],
        data: [&[kind], value].concat(),
    }
}

fn limit(units: u32) -> Instruction {
    budget(2, &units.to_le_bytes())
}

fn price(price: u64) -> Instruction {
    budget(3, &price.to_le_bytes())
}

fn memo(text: &[u8]) -> Instruction {
    Instruction {
        program_id: MEMO,
        accounts: vec![],
        data: text.to_vec(),
    }
}

/// An instruction of Lighthouse about an account.
fn guard(kind: u8, account: Pubkey) -> Instruction {
    let accounts = vec![AccountMeta::new_readonly(account, false)];
    Instruction {
        program_id: LIGHTHOUSE,
        accounts,
        data: vec![kind, 0, 1, 2],
    }
}

/// A transfer of `amount` by `authority` from its own account to that of `to`.
fn transfer(program: Pubkey, authority: &Pubkey, to: &Pubkey, amount: u64) -> Instruction {
    let token = usdc();
    let kind = TokenProgram::with_id(&program).unwrap();
    Instruction {
        program_id: program,
        accounts: vec![
            AccountMeta::new(associated_account(authority, &token.mint, kind), false),
            AccountMeta::new_readonly(token.mint, false),
            AccountMeta::new(associated_account(to, &token.mint, kind), false),
            AccountMeta::new_readonly(*authority, true),
        ],
        data: [&[12], amount.to_le_bytes().as_slice(), &[6]].concat(),
    }
}

fn pays() -> Instruction {
    transfer(TOKEN, &payer().pubkey(), &pay_to(), AMOUNT)
}

/// A correct transaction.
fn good() -> Vec<Instruction> {
    vec![limit(20_000), price(1), pays(), memo(b"nonce")]
}

/// `good` with an instruction inserted.
fn with(at: usize, instruction: Instruction) -> Vec<Instruction> {
    let mut all = good();
    all.insert(at, instruction);
    all
}

/// `good` with an instruction replaced.
fn instead(at: usize, instruction: Instruction) -> Vec<Instruction> {
    let mut all = good();
    all[at] = instruction;
    all
}

fn signed_by(message: VersionedMessage, keys: &[&Keypair]) -> VersionedTransaction {
    let bytes = message.serialize();
    let required = usize::from(message.header().num_required_signatures);
    let signature = |signer: &Pubkey| {
        let key = keys.iter().find(|key| key.pubkey() == *signer);
        key.map_or(Signature::default(), |key| key.sign_message(&bytes))
    };
    let signatures = message.static_account_keys()[..required]
        .iter()
        .map(signature)
        .collect();
    VersionedTransaction {
        signatures,
        message,
    }
}

fn transaction(instructions: &[Instruction]) -> VersionedTransaction {
    let message = Message::new_with_blockhash(
        instructions,
        Some(&fee_payers()[0].pubkey()),
        &Hash::new_from_array([9; 32]),
    );
    signed_by(VersionedMessage::Legacy(message), &[&payer()])
}

fn v0_transaction(instructions: &[Instruction]) -> VersionedTransaction {
    let blockhash = Hash::new_from_array([9; 32]);
    let message =
        v0::Message::try_compile(&fee_payers()[0].pubkey(), instructions, &[], blockhash).unwrap();
    signed_by(VersionedMessage::V0(message), &[&payer()])
}

fn bytes(instructions: &[Instruction]) -> Vec<u8> {
    wincode::serialize(&transaction(instructions)).unwrap()
}

fn request_with(bytes: &[u8], change: impl FnOnce(&mut serde_json::Value)) -> PaymentRequest {
    let terms = json!({
        "scheme": "exact", "network": NETWORK, "amount": AMOUNT.to_string(), "asset": usdc().mint.to_string(),
        "payTo": pay_to().to_string(), "maxTimeoutSeconds": 60,
        "extra": { "feePayer": fee_payers()[0].pubkey().to_string() },
    });
    let mut body = json!({
        "x402Version": 2,
        "paymentPayload": { "x402Version": 2, "accepted": terms, "payload": { "transaction": BASE64.encode(bytes) } },
        "paymentRequirements": terms,
    });
    change(&mut body);
    PaymentRequest::decode(body.to_string().as_bytes()).unwrap()
}

fn request(instructions: &[Instruction]) -> PaymentRequest {
    request_with(&bytes(instructions), |_| {})
}

fn decoded(request: &PaymentRequest) -> Box<dyn Payment<Solana>> {
    Exact::new(solana()).decode(request, NOW).unwrap()
}

/// The verdict before the chain is asked: a reason code, or `Ok` if the chain would be asked.
fn verdict_of(request: &PaymentRequest) -> Result<(), String> {
    verdict_by(&Exact::new(solana()), request)
}

/// The verdict of this scheme before the chain is asked.
fn verdict_by(exact: &Exact, request: &PaymentRequest) -> Result<(), String> {
    let refusal = |refusal| match refusal {
        Refusal::Rejected(rejection) => rejection.reason.code().to_owned(),
        Refusal::Malformed(malformed) => format!("malformed {}", malformed.field),
    };
    let payment = exact.decode(request, NOW).map_err(refusal)?;
    let holds = |claim: &SignatureClaim| match claim {
        SignatureClaim::Ed25519 {
            message,
            signature,
            key,
        } => VerifyingKey::from_bytes(key).is_ok_and(|key| {
            key.verify_strict(message, &Ed25519::from_bytes(signature))
                .is_ok()
        }),
        SignatureClaim::Secp256k1 { .. } | SignatureClaim::Other { .. } => false,
    };
    let signatures: Vec<bool> = payment.signatures().iter().map(holds).collect();
    let observed = Observed::new(&signatures, &[], NOW);
    match payment.check(&observed) {
        Ok(Check::Ask(_)) => Ok(()),
        Ok(Check::Valid | Check::Verify(_) | Check::NotYet(_)) => {
            panic!("valid without asking the chain")
        }
        Err(rejection) => Err(rejection.reason.code().to_owned()),
    }
}

fn verdict(instructions: &[Instruction]) -> Result<(), String> {
    verdict_of(&request(instructions))
}

fn rejected(reason: &Reason) -> Result<(), String> {
    Err(reason.code().to_owned())
}

#[test]
fn correct_payment_is_checked_on_the_chain() {
    assert_eq!(verdict(&good()), Ok(()));
    assert_eq!(verdict(&good()[..3]), Ok(()));
    let v0 = v0_transaction(&good());
    assert_eq!(
        verdict_of(&request_with(&wincode::serialize(&v0).unwrap(), |_| {})),
        Ok(())
    );
}

/// The seller and the engine identify a payment by the same id.
#[test]
fn offer_and_scheme_identify_a_payment_alike() {
    let offer = ExactOffer::usdc("solana-devnet", "0.01", &pay_to().to_string()).unwrap();
    let id = |request: &PaymentRequest| offer.authorization(&request.payload).unwrap();
    let plain = request(&good());
    assert_eq!(id(&plain), decoded(&plain).info().id);
    let beside = request_with(&bytes(&good()), |body| {
        body["paymentPayload"]["payload"]["x"] = json!([1]);
    });
    assert_eq!(id(&beside), id(&plain));
    let mut other_signature = transaction(&good());
    other_signature.signatures[1] = Signature::from([7; 64]);
    let other_signature = wincode::serialize(&other_signature).unwrap();
    assert_eq!(id(&request_with(&other_signature, |_| {})), id(&plain));
    let other = request(&instead(3, memo(b"another nonce")));
    assert_ne!(id(&other), id(&plain));
    assert_eq!(offer.authorization(&Object::of(&json!({})).unwrap()), None);
}

/// attacks.md 83.
#[test]
fn instruction_that_mentions_a_fee_payer_is_rejected() {
    let [first, second] = fee_payers().map(|key| key.pubkey());
    for fee_payer in [first, second] {
        let of_ours = transfer(TOKEN, &fee_payer, &pay_to(), AMOUNT);
        assert_eq!(
            verdict(&instead(2, of_ours)),
            rejected(&reason::FEE_PAYER_TRANSFERRING_FUNDS)
        );
        let mut source = pays();
        source.accounts[0].pubkey = fee_payer;
        assert_eq!(
            verdict(&instead(2, source)),
            rejected(&reason::FEE_PAYER_IN_INSTRUCTION)
        );
        let mut watched = memo(b"nonce");
        watched
            .accounts
            .push(AccountMeta::new_readonly(fee_payer, false));
        assert_eq!(
            verdict(&instead(3, watched)),
            rejected(&reason::FEE_PAYER_IN_INSTRUCTION)
        );
        assert_eq!(
            verdict(&with(2, guard(4, fee_payer))),
            rejected(&reason::FEE_PAYER_IN_INSTRUCTION)
        );
    }
}

/// attacks.md 84.
#[test]
fn instruction_of_another_kind_is_rejected() {
    let payer = payer().pubkey();
    let account = pays().accounts[0].pubkey;
    let system = |kind: u32| Instruction {
        program_id: SYSTEM,
        accounts: vec![
            AccountMeta::new(payer, true),
            AccountMeta::new(account, false),
        ],
        data: [kind.to_le_bytes().as_slice(), &[0; 8]].concat(),
    };
    // CreateAccount, Assign, Transfer, WithdrawNonceAccount.
    for kind in [0, 1, 2, 5] {
        assert_eq!(
            verdict(&with(3, system(kind))),
            rejected(&reason::UNKNOWN_FOURTH)
        );
        assert_eq!(
            verdict(&with(4, system(kind))),
            rejected(&reason::UNKNOWN_FIFTH)
        );
    }
    // Approve, SetAuthority, CloseAccount of the token program.
    for kind in [4, 6, 9] {
        let mut other = pays();
        other.data[0] = kind;
        assert_eq!(verdict(&with(3, other)), rejected(&reason::UNKNOWN_FOURTH));
    }
}

/// attacks.md 85.
#[test]
fn lookup_table_is_rejected() {
    let table = AddressLookupTableAccount {
        key: key(7).pubkey(),
        addresses: vec![pays().accounts[2].pubkey],
    };
    let message = v0::Message::try_compile(
        &fee_payers()[0].pubkey(),
        &good(),
        &[table],
        Hash::new_from_array([9; 32]),
    )
    .unwrap();
    assert!(!message.address_table_lookups.is_empty());
    let hidden = signed_by(VersionedMessage::V0(message), &[&payer()]);
    let request = request_with(&wincode::serialize(&hidden).unwrap(), |_| {});
    assert_eq!(
        verdict_of(&request),
        rejected(&reason::ALT_RESOLUTION_NOT_AVAILABLE)
    );
}

/// attacks.md 86.
#[test]
fn further_signers_are_rejected() {
    let mut other = memo(b"nonce");
    other
        .accounts
        .push(AccountMeta::new_readonly(key(8).pubkey(), true));
    let message = Message::new_with_blockhash(
        &instead(3, other),
        Some(&fee_payers()[0].pubkey()),
        &Hash::new_from_array([9; 32]),
    );
    let signed = signed_by(VersionedMessage::Legacy(message), &[&payer(), &key(8)]);
    let request = request_with(&wincode::serialize(&signed).unwrap(), |_| {});
    assert_eq!(verdict_of(&request), rejected(&reason::EXCESSIVE_SIGNERS));
}

/// attacks.md 87.
#[test]
fn wrong_signature_is_rejected_before_the_chain_is_asked() {
    for signature in [
        Signature::default(),
        Signature::from([0xff; 64]),
        payer().sign_message(b"something else"),
    ] {
        let mut transaction = transaction(&good());
        transaction.signatures[1] = signature;
        let request = request_with(&wincode::serialize(&transaction).unwrap(), |_| {});
        assert_eq!(verdict_of(&request), rejected(&reason::SIGNATURE_INVALID));
    }
}

/// attacks.md 88: anyone could change these bytes, present the payment of another payer as a new
/// one and be reported its success.
#[test]
fn fee_payers_signature_must_be_empty() {
    let mut twin = transaction(&good());
    twin.signatures[0] = Signature::from([7; 64]);
    let twin = request_with(&wincode::serialize(&twin).unwrap(), |_| {});
    assert_eq!(verdict_of(&twin), rejected(&reason::SIGNATURE_INVALID));
}

/// attacks.md 88.
#[test]
fn payment_id_does_not_depend_on_signature_bytes() {
    let id = |request: &PaymentRequest| decoded(request).info().id;
    let mut twin = transaction(&good());
    twin.signatures[1] = Signature::from([7; 64]);
    let twin = request_with(&wincode::serialize(&twin).unwrap(), |_| {});
    assert_eq!(id(&twin), id(&request(&good())));
    assert_ne!(
        id(&request(&good())),
        id(&request(&instead(3, memo(b"another nonce"))))
    );
}

/// attacks.md 89.
#[test]
fn noncanonical_transaction_bytes_are_rejected() {
    let good = bytes(&good());
    let undecodable = rejected(&reason::COULD_NOT_BE_DECODED);
    let mut trailing = good.clone();
    trailing.push(0);
    assert_eq!(verdict_of(&request_with(&trailing, |_| {})), undecodable);
    // The number of signatures in two bytes instead of one.
    let aliased = [&[0x82, 0x00], &good[1..]].concat();
    assert_eq!(verdict_of(&request_with(&aliased, |_| {})), undecodable);
    for end in 0..good.len() {
        assert_eq!(
            verdict_of(&request_with(&good[..end], |_| {})),
            undecodable,
            "{end}"
        );
    }
    let text = BASE64.encode(&good);
    for text in [
        text.replace('=', ""),
        format!(" {text}"),
        format!("{text}\n"),
        text.replace('+', "-"),
        String::new(),
    ] {
        if text == BASE64.encode(&good) {
            continue;
        }
        let request = request_with(&[], |body| {
            body["paymentPayload"]["payload"]["transaction"] = json!(text)
        });
        assert_eq!(verdict_of(&request), undecodable, "{text:?}");
    }
}

/// attacks.md 90.
#[test]
fn sizes_and_indexes_out_of_bounds_are_rejected() {
    let undecodable = rejected(&reason::COULD_NOT_BE_DECODED);
    let long = bytes(&instead(3, memo(&[b'x'; 1200])));
    assert!(long.len() > SIZE_MAX);
    assert_eq!(verdict_of(&request_with(&long, |_| {})), undecodable);
    assert_eq!(verdict(&[]), rejected(&reason::INSTRUCTIONS_LENGTH));
    let mut outside = transaction(&good());
    let VersionedMessage::Legacy(message) = &mut outside.message else {
        unreachable!()
    };
    message.instructions[2].accounts[0] = 200;
    assert_eq!(
        verdict_of(&request_with(
            &wincode::serialize(&outside).unwrap(),
            |_| {}
        )),
        undecodable
    );
    let mut twice = transaction(&good());
    let VersionedMessage::Legacy(message) = &mut twice.message else {
        unreachable!()
    };
    message.account_keys[2] = message.account_keys[0];
    assert_eq!(
        verdict_of(&request_with(&wincode::serialize(&twice).unwrap(), |_| {})),
        undecodable
    );
}

/// attacks.md 91.
#[test]
fn unknown_transaction_version_is_rejected() {
    let v0 = v0_transaction(&good());
    let mut bytes = wincode::serialize(&v0).unwrap();
    let at = 1 + 2 * 64;
    assert_eq!(bytes[at], 0x80);
    for version in 0x81..=0xff {
        bytes[at] = version;
        assert_eq!(
            verdict_of(&request_with(&bytes, |_| {})),
            rejected(&reason::COULD_NOT_BE_DECODED)
        );
    }
}

/// attacks.md 92.
#[test]
fn second_transfer_in_either_direction_is_rejected() {
    let back = transfer(TOKEN, &payer().pubkey(), &payer().pubkey(), AMOUNT);
    for second in [pays(), back] {
        assert_eq!(
            verdict(&with(3, second.clone())),
            rejected(&reason::UNKNOWN_FOURTH)
        );
        assert_eq!(verdict(&with(4, second)), rejected(&reason::UNKNOWN_FIFTH));
    }
    let halves = transfer(TOKEN, &payer().pubkey(), &pay_to(), AMOUNT / 2);
    let split = [limit(20_000), price(1), halves.clone(), halves];
    assert_eq!(verdict(&split), rejected(&reason::UNKNOWN_FOURTH));
}

/// attacks.md 93.
#[test]
fn unchecked_transfer_and_wrong_decimals_are_rejected() {
    let mut unchecked = pays();
    unchecked.data = [&[3], AMOUNT.to_le_bytes().as_slice()].concat();
    assert_eq!(
        verdict(&instead(2, unchecked)),
        rejected(&reason::NO_TRANSFER)
    );
    let mut longer = pays();
    longer.data.push(0);
    assert_eq!(verdict(&instead(2, longer)), rejected(&reason::NO_TRANSFER));
    let mut decimals = pays();
    decimals.data[9] = 9;
    assert_eq!(
        verdict(&instead(2, decimals)),
        rejected(&reason::MINT_MISMATCH)
    );
}

/// attacks.md 94.
#[test]
fn another_mint_and_a_multisig_are_rejected() {
    let mut mint = pays();
    mint.accounts[1].pubkey = key(9).pubkey();
    assert_eq!(verdict(&instead(2, mint)), rejected(&reason::MINT_MISMATCH));
    let mut multisig = pays();
    multisig
        .accounts
        .push(AccountMeta::new_readonly(payer().pubkey(), true));
    assert_eq!(
        verdict(&instead(2, multisig)),
        rejected(&reason::NO_TRANSFER)
    );
    let mut unsigned = pays();
    unsigned.accounts[3] = AccountMeta::new_readonly(key(9).pubkey(), false);
    assert_eq!(
        verdict(&instead(2, unsigned)),
        rejected(&reason::SIGNATURE_INVALID)
    );
}

/// attacks.md 95.
#[test]
fn transfer_to_another_account_is_rejected() {
    let mut elsewhere = pays();
    elsewhere.accounts[2].pubkey = key(9).pubkey();
    assert_eq!(
        verdict(&instead(2, elsewhere)),
        rejected(&reason::RECIPIENT_MISMATCH)
    );
    let mut wrong_program = pays();
    wrong_program.accounts[2].pubkey =
        associated_account(&pay_to(), &usdc().mint, TokenProgram::Token2022);
    assert_eq!(
        verdict(&instead(2, wrong_program)),
        rejected(&reason::RECIPIENT_MISMATCH)
    );
    let other_program = transfer(TOKEN_2022, &payer().pubkey(), &pay_to(), AMOUNT);
    assert_eq!(
        verdict(&instead(2, other_program)),
        rejected(&reason::MINT_MISMATCH)
    );
}

/// attacks.md 98.
#[test]
fn compute_budget_is_two_instructions_within_limits() {
    assert_eq!(verdict(&with(2, price(1))), rejected(&reason::NO_TRANSFER));
    assert_eq!(
        verdict(&with(3, price(5))),
        rejected(&reason::UNKNOWN_FOURTH)
    );
    assert_eq!(
        verdict(&[price(1), limit(20_000), pays()]),
        rejected(&reason::COMPUTE_LIMIT_INSTRUCTION)
    );
    assert_eq!(
        verdict(&[limit(20_000), pays(), memo(b"x")]),
        rejected(&reason::COMPUTE_PRICE_INSTRUCTION)
    );
    assert_eq!(
        verdict(&instead(0, limit(400_001))),
        rejected(&reason::COMPUTE_LIMIT_TOO_HIGH)
    );
    assert_eq!(
        verdict(&instead(1, price(5_000_001))),
        rejected(&reason::COMPUTE_PRICE_TOO_HIGH)
    );
    // Each value is within its limit; together they cost 2,010,000 lamports.
    let dear = |units, millionths| {
        let mut all = instead(1, price(millionths));
        all[0] = limit(units);
        verdict(&all)
    };
    assert_eq!(
        dear(400_000, 5_000_000),
        rejected(&reason::COMPUTE_PRICE_TOO_HIGH)
    );
    assert_eq!(dear(400_000, 50_000), Ok(()), "30,000 lamports");
    assert_eq!(
        dear(400_000, 50_001),
        rejected(&reason::COMPUTE_PRICE_TOO_HIGH)
    );
    assert_eq!(dear(4_000, 5_000_000), Ok(()), "30,000 lamports");
    // RequestHeapFrame, SetLoadedAccountsDataSizeLimit.
    for kind in [1, 4] {
        assert_eq!(
            verdict(&with(3, budget(kind, &[0; 4]))),
            rejected(&reason::UNKNOWN_FOURTH)
        );
    }
    let mut longer = limit(20_000);
    longer.data.push(0);
    assert_eq!(
        verdict(&instead(0, longer)),
        rejected(&reason::COMPUTE_LIMIT_INSTRUCTION)
    );
}

#[test]
fn fee_limit_below_the_signatures_is_an_error() {
    let with_limit = |fee_max: u64| {
        let config = ExactConfig {
            fee_max,
            ..ExactConfig::default()
        };
        Exact::new(solana()).with_config(config).map(|_| ())
    };
    assert_eq!(with_limit(10_000), Ok(()));
    assert_eq!(with_limit(9_999), Err(ExactConfigError::FeeMax(9_999)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A payment costs the fee payer at most the limit, and is rejected only above it.
    #[test]
    fn payment_never_costs_more_than_the_limit(units in 0_u32..=400_000, millionths in 0_u64..=5_000_000) {
        let mut all = instead(1, price(millionths));
        all[0] = limit(units);
        let cost = 10_000.0 + f64::from(units) * millionths as f64 / 1e6;
        prop_assert_eq!(verdict(&all).is_ok(), cost <= 30_000.0, "{}", cost);
    }
}

/// attacks.md 99.
#[test]
fn required_memo_must_appear_exactly_once() {
    let with_memo = |instructions: &[Instruction]| {
        request_with(&bytes(instructions), |body| {
            body["paymentRequirements"]["extra"]["memo"] = json!("invoice 7");
            body["paymentPayload"]["accepted"]["extra"]["memo"] = json!("invoice 7");
        })
    };
    let verdict = |instructions: &[Instruction]| verdict_of(&with_memo(instructions));
    assert_eq!(verdict(&instead(3, memo(b"invoice 7"))), Ok(()));
    assert_eq!(verdict(&good()[..3]), rejected(&reason::MEMO_COUNT));
    assert_eq!(verdict(&good()), rejected(&reason::MEMO_MISMATCH));
    let mut twice = instead(3, memo(b"invoice 7"));
    twice.push(memo(b"invoice 7"));
    assert_eq!(verdict(&twice), rejected(&reason::MEMO_COUNT));
    for text in [vec![b'x'; 257], vec![0xff, 0xfe]] {
        assert_eq!(
            verdict_of(&request(&instead(3, memo(&text)))),
            rejected(&reason::MEMO_MISMATCH)
        );
    }
}

/// attacks.md 100.
#[test]
fn durable_nonce_is_rejected() {
    let accounts = vec![
        AccountMeta::new(key(9).pubkey(), false),
        AccountMeta::new_readonly(key(10).pubkey(), false),
        AccountMeta::new_readonly(payer().pubkey(), true),
    ];
    let advance = Instruction {
        program_id: SYSTEM,
        accounts,
        data: 4_u32.to_le_bytes().to_vec(),
    };
    assert_eq!(
        verdict(&with(0, advance)),
        rejected(&reason::COMPUTE_LIMIT_INSTRUCTION)
    );
}

/// attacks.md 102.
#[test]
fn few_assertions_of_lighthouse_are_allowed_anywhere() {
    let source = pays().accounts[0].pubkey;
    for at in 0..=4 {
        assert_eq!(verdict(&with(at, guard(8, source))), Ok(()), "{at}");
    }
    let many = |count: usize| {
        let mut all = good();
        (0..count).for_each(|_| all.insert(2, guard(4, source)));
        all
    };
    assert_eq!(verdict(&many(4)), Ok(()));
    assert_eq!(verdict(&many(5)), rejected(&reason::INSTRUCTIONS_LENGTH));
    // Lighthouse can also write and close accounts, and may get further instructions.
    for kind in [0, 1, 17, 255] {
        assert_eq!(
            verdict(&with(3, guard(kind, source))),
            rejected(&reason::UNKNOWN_FOURTH)
        );
        assert_eq!(
            verdict(&with(2, guard(kind, source))),
            rejected(&reason::NO_TRANSFER)
        );
    }
    let mut empty = guard(2, source);
    empty.data.clear();
    assert_eq!(verdict(&with(3, empty)), rejected(&reason::UNKNOWN_FOURTH));
}

/// attacks.md 102: some wallets also add assertions about the fee payer.
#[test]
fn lighthouse_on_a_fee_payer_needs_the_operators_permission() {
    let fee_payer = fee_payers()[0].pubkey();
    let verdict_when_allowed =
        |instructions: &[Instruction]| verdict_by(&exact_with_lighthouse(), &request(instructions));
    let in_instruction = rejected(&reason::FEE_PAYER_IN_INSTRUCTION);
    assert_eq!(verdict(&with(2, guard(4, fee_payer))), in_instruction);
    assert_eq!(verdict_when_allowed(&with(2, guard(4, fee_payer))), Ok(()));
    assert!(sign_with(true, &transaction(&with(2, guard(4, fee_payer)))).is_ok());
    // The action carries the permission to the chain, which signs.
    let action = |exact: &Exact, instructions: &[Instruction]| {
        let payment = exact.decode(&request(instructions), NOW).unwrap();
        let answers = [correct_answer()];
        let observed = Observed::new(&[true], &answers, NOW);
        let plan = payment.plan(Amount::from(AMOUNT), &observed).unwrap();
        plan.into_action().unwrap().allow_lighthouse_on_fee_payer
    };
    let guarded = with(2, guard(4, fee_payer));
    assert!(action(&exact_with_lighthouse(), &guarded));
    assert!(!action(&Exact::new(solana()), &good()));
    // Only assertions are allowed, and only those of Lighthouse.
    assert_eq!(
        verdict_when_allowed(&with(4, guard(0, fee_payer))),
        in_instruction
    );
    let mut watched = memo(b"nonce");
    watched
        .accounts
        .push(AccountMeta::new_readonly(fee_payer, false));
    assert_eq!(verdict_when_allowed(&instead(3, watched)), in_instruction);
}

/// A token account of `owner` under this program, as the chain stores it.
fn token_account(program: TokenProgram, owner: &Pubkey) -> Account {
    let mut data = vec![0; 165];
    data[..32].copy_from_slice(usdc().mint.as_ref());
    data[32..64].copy_from_slice(owner.as_ref());
    data[108] = 1;
    Account {
        owner: program.id(),
        data,
    }
}

/// The chain's answer for a correct payment.
fn correct_answer() -> Answer {
    let mut mint = vec![0; 82];
    (mint[44], mint[45]) = (6, 1);
    let mint = Account {
        owner: TOKEN,
        data: mint,
    };
    Answer {
        accounts: vec![
            Some(mint),
            Some(token_account(TokenProgram::SplToken, &pay_to())),
            Some(token_account(TokenProgram::SplToken, &payer().pubkey())),
        ],
        simulated: Some(Evidence::default()),
    }
}

/// The verdict on a correct payment after this answer of the chain.
fn verdict_after(answer: Answer) -> Result<(), Rejection> {
    let answers = [answer];
    let observed = Observed::new(&[true], &answers, NOW);
    match decoded(&request(&good())).check(&observed)? {
        Check::Valid => Ok(()),
        Check::Ask(_) | Check::Verify(_) | Check::NotYet(_) => panic!("asks without end"),
    }
}

/// The verdict on a correct payment after a changed answer of the chain.
fn verdict_with(change: impl FnOnce(&mut Answer)) -> Result<(), String> {
    let mut answer = correct_answer();
    change(&mut answer);
    verdict_after(answer).map_err(|rejection| rejection.reason.code().to_owned())
}

/// A simulation that fails with this error.
fn fails(error: &str) -> Option<Evidence> {
    Some(Evidence {
        error: Some(error.to_owned()),
        ..Evidence::default()
    })
}

#[test]
fn correct_payment_is_valid_after_the_chains_answer() {
    assert_eq!(verdict_with(|_| {}), Ok(()));
    assert_eq!(
        verdict_with(|answer| answer.simulated = None),
        rejected(&reason::SIMULATION_FAILED)
    );
}

/// attacks.md 94: a delegate may sign for money that it does not own; it is not the payer.
#[test]
fn delegates_transfer_is_rejected() {
    let other = token_account(TokenProgram::SplToken, &key(9).pubkey());
    assert_eq!(
        verdict_with(|answer| answer.accounts[2] = Some(other)),
        rejected(&reason::SIGNATURE_INVALID)
    );
}

/// attacks.md 95: an associated account's owner can differ from the one that its address is derived
/// from.
#[test]
fn recipient_account_with_another_owner_is_rejected() {
    let given_away = token_account(TokenProgram::SplToken, &key(9).pubkey());
    let of_other_program = token_account(TokenProgram::Token2022, &pay_to());
    for account in [given_away, of_other_program] {
        assert_eq!(
            verdict_with(|answer| answer.accounts[1] = Some(account)),
            rejected(&reason::RECIPIENT_MISMATCH)
        );
    }
}

/// attacks.md 96.
#[test]
fn missing_recipient_account_is_rejected_and_not_created() {
    assert_eq!(
        verdict_with(|answer| answer.accounts[1] = None),
        rejected(&reason::RECEIVER_ACCOUNT_NOT_FOUND)
    );
    let associated: Pubkey = "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"
        .parse()
        .unwrap();
    // Create and CreateIdempotent, funded by the payer. Funded by a fee payer, they are rejected
    // for that alone.
    for kind in [0, 1] {
        let create = |funder: Pubkey, signs: bool| Instruction {
            program_id: associated,
            accounts: vec![
                AccountMeta::new(funder, signs),
                AccountMeta::new(pays().accounts[2].pubkey, false),
                AccountMeta::new_readonly(pay_to(), false),
                AccountMeta::new_readonly(usdc().mint, false),
                AccountMeta::new_readonly(SYSTEM, false),
                AccountMeta::new_readonly(TOKEN, false),
            ],
            data: vec![kind],
        };
        let own = create(payer().pubkey(), true);
        assert_eq!(
            verdict(&with(2, own.clone())),
            rejected(&reason::NO_TRANSFER)
        );
        assert_eq!(verdict(&with(3, own)), rejected(&reason::UNKNOWN_FOURTH));
        let fee_payer = create(fee_payers()[0].pubkey(), true);
        assert_eq!(
            verdict(&with(3, fee_payer)),
            rejected(&reason::FEE_PAYER_IN_INSTRUCTION)
        );
    }
}

/// attacks.md 97: the mint is read at every verification.
#[test]
fn changed_mint_is_rejected() {
    let mint = |change: &dyn Fn(&mut Account)| {
        verdict_with(|answer| {
            if let Some(mint) = &mut answer.accounts[0] {
                change(mint);
            }
        })
    };
    let not_allowed = rejected(&reason::MINT_NOT_ALLOWED);
    assert_eq!(mint(&|mint| mint.owner = TOKEN_2022), not_allowed);
    assert_eq!(mint(&|mint| mint.data[45] = 0), not_allowed);
    assert_eq!(
        verdict_with(|answer| answer.accounts[0] = None),
        rejected(&reason::MINT_MISMATCH)
    );
}

/// Regression: the detail was `{"InstructionError":[2,{"Custom":1}]}`.
#[test]
fn rejection_says_that_the_payer_has_too_little() {
    let detail_of = |held: Option<u64>, error: &str| {
        let mut answer = correct_answer();
        match (held, &mut answer.accounts[2]) {
            (Some(held), Some(source)) => source.data[64..72].copy_from_slice(&held.to_le_bytes()),
            (_, source) => *source = None,
        }
        answer.simulated = fails(error);
        let rejection = verdict_after(answer).unwrap_err();
        assert_eq!(rejection.reason, reason::SIMULATION_FAILED);
        rejection.detail.unwrap()
    };
    let too_little = r#"{"InstructionError":[2,{"Custom":1}]}"#;
    let detail = detail_of(Some(17), too_little);
    assert!(detail.contains("holds 17 atomic units"), "{detail}");
    let detail = detail_of(None, r#"{"InstructionError":[2,"InvalidAccountData"]}"#);
    assert!(detail.contains("no token account"), "{detail}");
    // The balance is high enough, so the detail has the node's own error.
    let detail = detail_of(Some(u64::MAX), r#"{"InstructionError":[2,{"Custom":17}]}"#);
    assert!(
        detail.starts_with("the transaction would fail: {"),
        "{detail}"
    );
    let detail = detail_of(Some(0), "\"BlockhashNotFound\"");
    assert!(detail.contains("safe to pay again"), "{detail}");
}

/// attacks.md 101.
#[test]
fn expired_blockhash_is_named_and_paying_again_is_safe() {
    let mut answer = correct_answer();
    answer.simulated = fails("\"BlockhashNotFound\"");
    let rejection = verdict_after(answer).unwrap_err();
    assert_eq!(rejection.reason, reason::SIMULATION_FAILED);
    let detail = rejection.detail.unwrap();
    assert!(detail.contains("safe to pay again"), "{detail}");
}

/// attacks.md 103: a program's transfer is rejected on the static path, whatever its amount is.
#[test]
fn transfer_by_another_program_is_rejected() {
    let squads: Pubkey = "SQDS4ep65T869zMMBKyuUq6aD6EgTu8psMjkvj52pCf"
        .parse()
        .unwrap();
    let mut wrapped = pays();
    wrapped
        .accounts
        .insert(0, AccountMeta::new_readonly(TOKEN, false));
    wrapped.program_id = squads;
    assert_eq!(
        verdict(&instead(2, wrapped.clone())),
        rejected(&reason::NO_TRANSFER)
    );
    assert_eq!(
        verdict(&with(3, wrapped)),
        rejected(&reason::UNKNOWN_FOURTH)
    );
}

/// attacks.md 104: only the increase of the recipient's balance counts, to the unit.
#[test]
fn payment_is_transferred_only_if_the_exact_amount_arrived() {
    let request = request(&good());
    let payment = decoded(&request);
    let keys = transaction(&good()).message.static_account_keys().to_vec();
    let destination = pays().accounts[2].pubkey;
    let at = keys.iter().position(|key| *key == destination).unwrap();
    let amount = Amount::from(AMOUNT);
    let effect = |account: usize, mint: &Pubkey, before: u64, after: u64| {
        let balance = Balance {
            account,
            mint: mint.to_string(),
            owner: None,
            before,
            after,
        };
        let evidence = Evidence {
            balances: Some(vec![balance]),
            ..Evidence::default()
        };
        payment.effect(amount, &evidence)
    };
    let usdc = usdc().mint;
    assert_eq!(
        effect(at, &usdc, 5, 5 + AMOUNT),
        Effect::Transferred(amount)
    );
    for (account, mint, before, after) in [
        (at, usdc, 5, 5),
        (at, usdc, 5, 4 + AMOUNT),
        (at, usdc, 5, 6 + AMOUNT),
        (at, usdc, 5 + AMOUNT, 5),
        (at, key(9).pubkey(), 5, 5 + AMOUNT),
        (at + 1, usdc, 5, 5 + AMOUNT),
        (255, usdc, 5, 5 + AMOUNT),
    ] {
        let found = effect(account, &mint, before, after);
        assert!(matches!(found, Effect::Mismatch(_)), "{found:?}");
    }
    let failed = Evidence {
        error: Some("{\"InstructionError\":[2,{\"Custom\":1}]}".to_owned()),
        ..Evidence::default()
    };
    assert!(matches!(
        payment.effect(amount, &failed),
        Effect::Mismatch(rejection) if rejection.reason == reason::TRANSACTION_FAILED
    ));
    assert!(matches!(
        payment.effect(amount, &Evidence::default()),
        Effect::Mismatch(_)
    ));
}

/// attacks.md 106: no account is created.
#[test]
fn instruction_that_creates_an_account_is_rejected() {
    let made = key(9).pubkey();
    // CreateAccount, CreateAccountWithSeed, InitializeNonceAccount, Allocate.
    for kind in [0_u32, 3, 6, 8] {
        let make = Instruction {
            program_id: SYSTEM,
            accounts: vec![
                AccountMeta::new(payer().pubkey(), true),
                AccountMeta::new(made, false),
            ],
            data: [kind.to_le_bytes().as_slice(), &[0; 48]].concat(),
        };
        assert_eq!(
            verdict(&with(2, make.clone())),
            rejected(&reason::NO_TRANSFER)
        );
        assert_eq!(verdict(&with(3, make)), rejected(&reason::UNKNOWN_FOURTH));
    }
}

/// attacks.md 107.
#[test]
fn amount_above_u64_is_rejected() {
    let request = request_with(&bytes(&good()), |body| {
        let more = format!("{}", u128::from(AMOUNT) + (1_u128 << 64));
        body["paymentRequirements"]["amount"] = json!(more);
        body["paymentPayload"]["accepted"]["amount"] = json!(more);
    });
    assert_eq!(verdict_of(&request), rejected(&reason::AMOUNT_MISMATCH));
}

/// attacks.md 12 and 42.
#[test]
fn payment_to_oneself_or_of_zero_is_rejected() {
    let payer = payer().pubkey();
    let to_itself = transfer(TOKEN, &payer, &payer, AMOUNT);
    let request = request_with(&bytes(&instead(2, to_itself)), |body| {
        body["paymentRequirements"]["payTo"] = json!(payer.to_string());
        body["paymentPayload"]["accepted"]["payTo"] = json!(payer.to_string());
    });
    assert_eq!(
        verdict_of(&request),
        rejected(&Reason::INVALID_PAYMENT_REQUIREMENTS)
    );
    let nothing = transfer(TOKEN, &payer, &pay_to(), 0);
    let request = request_with(&bytes(&instead(2, nothing)), |body| {
        body["paymentRequirements"]["amount"] = json!("0");
        body["paymentPayload"]["accepted"]["amount"] = json!("0");
    });
    assert_eq!(verdict_of(&request), rejected(&Reason::AMOUNT_TOO_LOW));
}

/// attacks.md 3: the payment is the same in both protocol versions and under both names of the
/// network.
#[test]
fn version_1_request_is_the_same_payment() {
    let terms = json!({
        "scheme": "exact", "network": "solana-devnet", "maxAmountRequired": AMOUNT.to_string(),
        "asset": usdc().mint.to_string(), "payTo": pay_to().to_string(), "maxTimeoutSeconds": 60,
        "resource": "http://example.com/", "description": "", "mimeType": "",
        "extra": { "feePayer": fee_payers()[0].pubkey().to_string() },
    });
    let payload = json!({ "transaction": BASE64.encode(bytes(&good())) });
    let body = json!({
        "x402Version": 1,
        "paymentPayload": { "x402Version": 1, "scheme": "exact", "network": "solana-devnet", "payload": payload },
        "paymentRequirements": terms,
    });
    let first = PaymentRequest::decode(body.to_string().as_bytes()).unwrap();
    assert_eq!(verdict_of(&first), Ok(()));
    assert_eq!(decoded(&first).info(), decoded(&request(&good())).info());
}

#[test]
fn changed_requirements_are_rejected() {
    let changed = |pointer: &str, value: serde_json::Value| {
        verdict_of(&request_with(&bytes(&good()), |body| {
            for root in ["/paymentRequirements", "/paymentPayload/accepted"] {
                if let Some(field) = body.pointer_mut(&format!("{root}{pointer}")) {
                    *field = value.clone();
                }
            }
        }))
    };
    assert_eq!(
        changed("/extra", json!({})),
        rejected(&reason::MISSING_FEE_PAYER)
    );
    let stranger = json!(key(20).pubkey().to_string());
    assert_eq!(
        changed("/extra/feePayer", stranger.clone()),
        rejected(&reason::FEE_PAYER_NOT_MANAGED)
    );
    let second = json!(fee_payers()[1].pubkey().to_string());
    assert_eq!(
        changed("/extra/feePayer", second.clone()),
        rejected(&reason::FEE_PAYER_MISMATCH)
    );
    assert_eq!(
        changed("/payTo", stranger.clone()),
        rejected(&reason::RECIPIENT_MISMATCH)
    );
    assert_eq!(
        changed("/asset", stranger),
        rejected(&Reason::UNSUPPORTED_ASSET)
    );
    assert_eq!(
        changed("/amount", json!("9999")),
        rejected(&reason::AMOUNT_MISMATCH)
    );
    assert_eq!(
        changed("/amount", json!("10001")),
        rejected(&reason::AMOUNT_MISMATCH)
    );
    let missing = request_with(&[], |body| body["paymentPayload"]["payload"] = json!({}));
    assert_eq!(verdict_of(&missing), rejected(&reason::TRANSACTION));
}

/// Tries to sign a transaction with the first fee payer.
fn sign(transaction: &VersionedTransaction) -> Result<(), quittance_core::Fault> {
    sign_with(false, transaction)
}

/// A scheme that allows assertions of Lighthouse about fee payers.
fn exact_with_lighthouse() -> Exact {
    let config = ExactConfig {
        allow_lighthouse_on_fee_payer: true,
        ..ExactConfig::default()
    };
    Exact::new(solana()).with_config(config).unwrap()
}

fn sign_with(
    allow_lighthouse_on_fee_payer: bool,
    transaction: &VersionedTransaction,
) -> Result<(), quittance_core::Fault> {
    let Ok(transaction) = PaymentTransaction::new(transaction.clone()) else {
        return Err(quittance_core::Fault::new(
            quittance_core::FaultKind::Internal,
            "not a transaction",
        ));
    };
    let action = PartiallySigned {
        allow_lighthouse_on_fee_payer,
        ..PartiallySigned::new(transaction, Vec::new())
    };
    let chain = solana();
    let lane = chain.lanes()[0].clone();
    futures_util::FutureExt::now_or_never(chain.prepare(&lane, 0, &[&action]))
        .unwrap()
        .map(|_| ())
}

/// attacks.md 11: a seller may pay the fees of its own buyers (specification, `extra.feePayer`).
/// The fee payer is never debited by a transfer.
#[test]
fn fee_payer_may_be_the_recipient() {
    let fee_payer = fee_payers()[0].pubkey();
    let to_fee_payer = transfer(TOKEN, &payer().pubkey(), &fee_payer, AMOUNT);
    let request = request_with(&bytes(&instead(2, to_fee_payer)), |body| {
        body["paymentRequirements"]["payTo"] = json!(fee_payer.to_string());
        body["paymentPayload"]["accepted"]["payTo"] = json!(fee_payer.to_string());
    });
    assert_eq!(verdict_of(&request), Ok(()));
}

/// attacks.md 85: a transaction is signed only if all its loaded addresses are known.
#[test]
fn transaction_with_unread_lookup_tables_is_never_signed() {
    let table = AddressLookupTableAccount {
        key: key(7).pubkey(),
        addresses: vec![pays().accounts[2].pubkey],
    };
    let blockhash = Hash::new_from_array([9; 32]);
    let message =
        v0::Message::try_compile(&fee_payers()[0].pubkey(), &good(), &[table], blockhash).unwrap();
    let hidden = signed_by(VersionedMessage::V0(message), &[&payer()]);
    assert!(sign(&hidden).is_err());
    assert!(sign(&v0_transaction(&good())).is_ok());
}

fn any_instruction() -> impl Strategy<Value = Instruction> {
    let account =
        (0_u8..6, any::<bool>(), any::<bool>()).prop_map(|(seed, signer, writable)| AccountMeta {
            pubkey: key(seed + 1).pubkey(),
            is_signer: signer,
            is_writable: writable,
        });
    let program = prop_oneof![
        Just(TOKEN),
        Just(MEMO),
        Just(LIGHTHOUSE),
        Just(SYSTEM),
        Just(COMPUTE_BUDGET),
        (0_u8..6).prop_map(|seed| key(seed + 1).pubkey()),
    ];
    (
        program,
        prop::collection::vec(account, 0..5),
        prop::collection::vec(any::<u8>(), 0..12),
    )
        .prop_map(|(program_id, accounts, data)| Instruction {
            program_id,
            accounts,
            data,
        })
}

proptest! {
    /// attacks.md 83 to 85.
    #[test]
    fn transaction_that_mentions_a_fee_payer_is_never_signed(
        instructions in prop::collection::vec(any_instruction(), 0..6),
        is_legacy: bool,
    ) {
        let fee_payers = fee_payers().map(|key| key.pubkey());
        let mentions = |instruction: &Instruction| {
            fee_payers.contains(&instruction.program_id)
                || instruction.accounts.iter().any(|account| fee_payers.contains(&account.pubkey))
        };
        let mentioned = instructions.iter().any(mentions);
        let signed = match is_legacy {
            true => sign(&transaction(&instructions)),
            false => sign(&v0_transaction(&instructions)),
        };
        prop_assert_eq!(signed.is_ok(), !mentioned);
    }

    /// attacks.md 102.
    #[test]
    fn only_lighthouse_may_mention_a_fee_payer_if_allowed(
        instructions in prop::collection::vec(any_instruction(), 0..6),
    ) {
        let fee_payers = fee_payers().map(|key| key.pubkey());
        let is_guard = |found: &Instruction| {
            found.program_id == LIGHTHOUSE && found.data.first().is_some_and(|kind| (2..=16).contains(kind))
        };
        let mentions = |found: &Instruction| {
            fee_payers.contains(&found.program_id) || found.accounts.iter().any(|meta| fee_payers.contains(&meta.pubkey))
        };
        let held = instructions.iter().any(|found| !is_guard(found) && mentions(found));
        prop_assert_eq!(sign_with(true, &transaction(&instructions)).is_ok(), !held);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = PaymentTransaction::parse(&bytes);
    }

    #[test]
    fn damaged_payment_is_rejected_without_the_chain(at: prop::sample::Index, flip in 1_u8..) {
        let mut damaged = bytes(&good());
        let at = at.index(damaged.len());
        damaged[at] ^= flip;
        let verdict_of = verdict_of(&request_with(&damaged, |_| {}));
        prop_assert!(verdict_of.is_err());
    }

    /// attacks.md 89: of all encodings of a transaction, only the canonical one is read.
    #[test]
    fn parsed_transaction_serializes_to_the_same_bytes(
        instructions in prop::collection::vec(any_instruction(), 0..6),
        is_legacy: bool,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        inserted in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let transaction = match is_legacy {
            true => transaction(&instructions),
            false => v0_transaction(&instructions),
        };
        let mut bytes = wincode::serialize(&transaction).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some((at, byte)) = inserted {
            bytes.insert(at.index(bytes.len()), byte);
        }
        if let Ok(transaction) = PaymentTransaction::parse(&bytes) {
            prop_assert_eq!(transaction.bytes(), bytes);
        }
    }
}

#[test]
fn offer_and_engine_derive_the_same_payment_id() {
    use quittance_core::Offer as _;

    let offer = ExactOffer::usdc(NETWORK, "0.01", &pay_to().to_string()).unwrap();
    let request = request(&[limit(20_000), price(1), pays()]);
    let info = decoded(&request).info().clone();
    assert_eq!(offer.authorization(&request.payload), Some(info.id));
    let mut payload = request.payload.tree();
    payload.insert("unknown".to_owned(), json!([1]));
    let unknown = Object::of(&payload).unwrap();
    assert_eq!(offer.authorization(&unknown), Some(info.id));
    // Other signature bytes do not make another payment.
    let mut signed = transaction(&[limit(20_000), price(1), pays()]);
    signed.signatures[1] = Signature::from([7; 64]);
    let resigned = json!({ "transaction": BASE64.encode(wincode::serialize(&signed).unwrap()) });
    let resigned = Object::of(&resigned).unwrap();
    assert_eq!(offer.authorization(&resigned), Some(info.id));
    let other = self::request(&[limit(20_000), price(2), pays()]);
    let other = offer.authorization(&other.payload);
    assert!(other.is_some() && other != Some(info.id));
    let foreign = Object::of(&json!({ "signature": "0x" })).unwrap();
    assert_eq!(offer.authorization(&foreign), None);
}

#[test]
fn unreadable_hint_is_ignored_and_numbers_may_be_strings() {
    let pay = bytes(&[limit(20_000), price(1), pays()]);
    for hint in [json!(7), json!([1]), json!({ "a": 1 }), json!("not base58")] {
        let request = request_with(&pay, |body| {
            for terms in ["/paymentRequirements", "/paymentPayload/accepted"] {
                let terms = body.pointer_mut(terms).unwrap();
                terms["extra"]["recentBlockhash"] = hint.clone();
                terms["amount"] = json!(AMOUNT);
                terms["maxTimeoutSeconds"] = json!("60");
            }
        });
        assert_eq!(verdict_of(&request), Ok(()), "{hint}");
    }
    let memo = request_with(&pay, |body| {
        body["paymentRequirements"]["extra"]["memo"] = json!(7)
    });
    let named = "malformed paymentRequirements.extra.memo";
    assert_eq!(verdict_of(&memo), Err(named.to_owned()));
}
