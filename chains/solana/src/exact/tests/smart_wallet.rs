//! Payments by smart wallets: the checks of the transaction and of its effect.

use crate::evidence::{EncodedInstruction, InnerInstruction, ParsedInstruction};
use crate::instruction::NEVER_WALLETS;
use solana_message::compiled_instruction::CompiledInstruction;

use super::*;

const SQUADS: Pubkey = Pubkey::from_str_const("SQDS4ep65T869zMMBKyuUq6aD6EgTu8psMjkvj52pCf");
const TABLES: Pubkey = Pubkey::from_str_const("AddressLookupTab1e1111111111111111111111111");

/// The wallet's own account, which no key signs for.
fn vault() -> Pubkey {
    key(30).pubkey()
}

/// A scheme that allows smart wallets.
fn exact() -> Exact {
    exact_with(|_| {})
}

/// The same with changed settings.
fn exact_with(change: impl FnOnce(&mut ExactConfig)) -> Exact {
    let mut config = ExactConfig {
        smart_wallets: Some(SmartWallets::default()),
        ..ExactConfig::default()
    };
    change(&mut config);
    Exact::new(solana()).with_config(config).unwrap()
}

/// The wallet's transfer, as an inner instruction.
fn inner() -> Instruction {
    transfer(TOKEN, &vault(), &pay_to(), AMOUNT)
}

/// An instruction to a wallet that invokes `inner`: it has the same accounts, and only the owner
/// signs.
fn wrapped(inner: &Instruction) -> Instruction {
    let mut accounts = inner.accounts.clone();
    accounts
        .iter_mut()
        .for_each(|account| account.is_signer = false);
    accounts.push(AccountMeta::new_readonly(inner.program_id, false));
    accounts.push(AccountMeta::new_readonly(payer().pubkey(), true));
    Instruction {
        program_id: SQUADS,
        accounts,
        data: vec![1, 2, 3],
    }
}

/// A correct payment of a smart wallet.
fn by_wallet() -> Vec<Instruction> {
    vec![limit(100_000), price(1), wrapped(&inner()), memo(b"nonce")]
}

fn verdict(instructions: &[Instruction]) -> Result<(), String> {
    verdict_by(&exact(), &request(instructions))
}

fn changed(change: impl FnOnce(&mut Vec<Instruction>)) -> Result<(), String> {
    let mut all = by_wallet();
    change(&mut all);
    verdict(&all)
}

/// An inner instruction that the wallet itself invokes.
fn by_the_wallet(call: EncodedInstruction) -> InnerInstruction {
    InnerInstruction {
        outer: 2,
        stack_height: Some(2),
        instruction: call,
    }
}

/// An inner instruction in full, as a cluster reports it.
fn called(instruction: &Instruction) -> EncodedInstruction {
    EncodedInstruction::Full(crate::instruction::Instruction {
        program: instruction.program_id,
        accounts: instruction
            .accounts
            .iter()
            .map(|account| account.pubkey)
            .collect(),
        data: instruction.data.clone(),
    })
}

/// The change of the recipient's balance in this transaction.
fn rises(transaction: &VersionedTransaction, by: u64) -> Vec<Balance> {
    let destination = inner().accounts[2].pubkey;
    let keys = transaction.message.static_account_keys();
    let at = keys.iter().position(|key| *key == destination).unwrap();
    vec![Balance {
        account: at,
        mint: usdc().mint.to_string(),
        owner: Some(pay_to().to_string()),
        before: 5,
        after: 5 + by,
    }]
}

/// The cluster's answer if the wallet invokes these instructions.
fn answer(calls: &[Instruction]) -> Answer {
    let mut answer = correct_answer();
    answer.accounts.truncate(2);
    answer.simulated = Some(Evidence {
        inner_instructions: Some(calls.iter().map(called).map(by_the_wallet).collect()),
        ..Evidence::default()
    });
    answer
}

/// The verdict on a smart wallet's payment after this answer.
fn after(answer: Answer) -> Result<String, String> {
    judged(&request(&by_wallet()), answer)
}

/// The payer, or the reason code.
fn judged(request: &PaymentRequest, answer: Answer) -> Result<String, String> {
    let payment = exact().decode(request, NOW).unwrap();
    let answers = [answer];
    let observed = Observed::new(&[true], &answers, NOW);
    match payment.check(&observed) {
        Ok(Check::Valid) => Ok(payment.payer(&observed).unwrap()),
        Ok(Check::Ask(_) | Check::Verify(_) | Check::NotYet(_)) => panic!("asks without end"),
        Err(rejection) => Err(rejection.reason.code().to_owned()),
    }
}

fn refused(reason: &Reason) -> Result<String, String> {
    Err(reason.code().to_owned())
}

#[test]
fn allowed_smart_wallet_pays_with_its_own_money() {
    assert_eq!(verdict(&by_wallet()), Ok(()));
    let payment = exact().decode(&request(&by_wallet()), NOW).unwrap();
    assert_eq!(payment.info().payer, payer().pubkey().to_string());
    assert_eq!(after(answer(&[inner()])), Ok(vault().to_string()));
}

/// attacks.md 103.
#[test]
fn smart_wallets_are_off_by_default() {
    assert_eq!(super::verdict(&by_wallet()), rejected(&reason::NO_TRANSFER));
    let said = |exact: Exact| serde_json::to_value(exact.extra()).unwrap()["features"].clone();
    assert_eq!(said(Exact::new(solana())), json!(null));
    assert_eq!(said(exact()), json!({ "smartWalletSupported": true }));
}

#[test]
fn ordinary_payment_keeps_its_rules_with_smart_wallets_on() {
    assert_eq!(verdict(&good()), Ok(()));
    let payment = exact().decode(&request(&good()), NOW).unwrap();
    assert_eq!(payment.info().payer, payer().pubkey().to_string());
    // A fault of the payment itself keeps its own reason code; the smart-wallet path is not tried.
    let wrong_amount = transfer(TOKEN, &payer().pubkey(), &pay_to(), AMOUNT + 1);
    assert_eq!(
        verdict(&instead(2, wrong_amount)),
        rejected(&reason::AMOUNT_MISMATCH)
    );
    assert_eq!(
        verdict(&instead(1, price(5_000_001))),
        rejected(&reason::COMPUTE_PRICE_TOO_HIGH)
    );
}

/// attacks.md 103: default deny.
#[test]
fn program_that_is_not_allowed_is_rejected() {
    let not_allowed = rejected(&reason::SMART_WALLET_PROGRAM_NOT_ALLOWED);
    for program in [key(40).pubkey(), SYSTEM, TABLES] {
        assert_eq!(changed(|all| all[2].program_id = program), not_allowed);
    }
    // Of the token programs, only the transfer is allowed: no Approve, SetAuthority, CloseAccount.
    for kind in [3, 4, 6, 9] {
        let mut other = pays();
        other.data[0] = kind;
        assert_eq!(changed(|all| all.push(other)), not_allowed);
    }
    // Of Lighthouse, only a few assertions are allowed.
    let source = pays().accounts[0].pubkey;
    for kind in [0, 1, 17] {
        assert_eq!(changed(|all| all.push(guard(kind, source))), not_allowed);
    }
    let guards = |count| changed(|all| all.extend((0..count).map(|_| guard(4, source))));
    assert_eq!(guards(4), Ok(()));
    assert_eq!(guards(5), rejected(&reason::INSTRUCTIONS_LENGTH));
}

/// attacks.md 98 and 100: programs that add costs or make a transaction live for ever cannot be
/// allowed by mistake.
#[test]
fn system_programs_cannot_be_allowed_as_wallets() {
    for program in NEVER_WALLETS {
        let mut wallets = SmartWallets::default();
        wallets.programs.push(program);
        let config = ExactConfig {
            smart_wallets: Some(wallets),
            ..ExactConfig::default()
        };
        let found = Exact::new(solana()).with_config(config).unwrap_err();
        assert_eq!(found, ExactConfigError::NotAWallet(program));
    }
    assert!(
        [TOKEN, TOKEN_2022]
            .iter()
            .all(|id| NEVER_WALLETS.contains(id))
    );
}

/// attacks.md 100.
#[test]
fn durable_nonce_of_a_smart_wallet_is_rejected() {
    let advance = Instruction {
        program_id: SYSTEM,
        accounts: vec![AccountMeta::new(key(9).pubkey(), false)],
        data: 4_u32.to_le_bytes().to_vec(),
    };
    assert_eq!(
        changed(|all| all.insert(0, advance)),
        rejected(&reason::SMART_WALLET_PROGRAM_NOT_ALLOWED)
    );
}

/// attacks.md 83.
#[test]
fn smart_wallet_instruction_with_a_fee_payer_is_rejected() {
    for fee_payer in fee_payers().map(|key| key.pubkey()) {
        assert_eq!(
            changed(|all| all[2].accounts.push(AccountMeta::new(fee_payer, false))),
            rejected(&reason::SMART_WALLET_FEE_PAYER_NOT_ISOLATED)
        );
    }
}

/// attacks.md 86.
#[test]
fn smart_wallet_payment_has_exactly_one_signer() {
    let more = changed(|all| {
        let other = AccountMeta::new_readonly(key(8).pubkey(), true);
        all[2].accounts.push(other);
    });
    assert_eq!(more, rejected(&reason::EXCESSIVE_SIGNERS));
    let unsigned = changed(|all| {
        all[2].accounts.pop();
    });
    assert_eq!(unsigned, rejected(&reason::SIGNATURE_INVALID));
}

/// attacks.md 103. Regression: anyone could add a memo with an unrelated signer to a transaction
/// that everyone may execute, and buy with it.
#[test]
fn signer_must_be_an_account_of_the_paying_instruction() {
    let stranger = key(8);
    let mut all = by_wallet();
    all[2].accounts.pop();
    all[3]
        .accounts
        .push(AccountMeta::new_readonly(stranger.pubkey(), true));
    let message = Message::new_with_blockhash(
        &all,
        Some(&fee_payers()[0].pubkey()),
        &Hash::new_from_array([9; 32]),
    );
    let signed = signed_by(VersionedMessage::Legacy(message), &[&stranger]);
    let request = request_with(&wincode::serialize(&signed).unwrap(), |_| {});
    let refused = rejected(&reason::SIGNATURE_INVALID);
    assert_eq!(verdict_by(&exact(), &request), refused);
}

/// attacks.md 98.
#[test]
fn smart_wallet_payment_is_held_to_the_fee_limits() {
    let too_many = rejected(&reason::SMART_WALLET_COMPUTE_UNITS_TOO_HIGH);
    assert_eq!(changed(|all| all[0] = limit(400_000)), Ok(()));
    assert_eq!(changed(|all| all[0] = limit(400_001)), too_many);
    assert_eq!(changed(|all| all[1] = price(50_000)), Ok(()));
    assert_eq!(
        changed(|all| all[1] = price(50_001)),
        rejected(&reason::SMART_WALLET_PRIORITY_FEE_TOO_HIGH)
    );
    // The limit of the whole fee also holds for smart wallets.
    let poorer = |units, millionths| {
        let mut all = by_wallet();
        (all[0], all[1]) = (limit(units), price(millionths));
        let exact = exact_with(|config| config.fee_max = 20_000);
        verdict_by(&exact, &request(&all))
    };
    assert_eq!(poorer(200_000, 50_000), Ok(()));
    assert_eq!(
        poorer(200_001, 50_000),
        rejected(&reason::SMART_WALLET_PRIORITY_FEE_TOO_HIGH)
    );
    // Without a limit instruction, the runtime allows 200,000 for each instruction.
    let without_limit = |others: usize| {
        changed(|all| {
            all.remove(0);
            all.truncate(2);
            (1..others).for_each(|_| all.push(memo(b"more")));
        })
    };
    assert_eq!(without_limit(2), Ok(()));
    assert_eq!(without_limit(3), too_many);
    // Without a price the compute units cost nothing, so the runtime's maximum is allowed.
    let without_price = changed(|all| {
        all.drain(..2);
        (0..5).for_each(|_| all.push(memo(b"more")));
    });
    assert_eq!(without_price, Ok(()));
    assert_eq!(changed(|all| all[0] = limit(400_001)), too_many);
    for (data, reason) in [
        (vec![], &reason::SMART_WALLET_MALFORMED_COMPUTE_BUDGET),
        (vec![2, 1], &reason::SMART_WALLET_MALFORMED_COMPUTE_LIMIT),
        (vec![3, 1], &reason::SMART_WALLET_MALFORMED_COMPUTE_PRICE),
        // RequestHeapFrame, SetLoadedAccountsDataSizeLimit.
        (
            vec![1, 0, 0, 0, 0],
            &reason::SMART_WALLET_UNSUPPORTED_COMPUTE_BUDGET,
        ),
        (
            vec![4, 0, 0, 0, 0],
            &reason::SMART_WALLET_UNSUPPORTED_COMPUTE_BUDGET,
        ),
    ] {
        assert_eq!(changed(|all| all[1].data = data), rejected(reason));
    }
}

/// attacks.md 99: paying through a program does not avoid a required memo.
#[test]
fn smart_wallet_payment_needs_the_required_memo() {
    let verdict = |instructions: &[Instruction]| {
        let request = request_with(&bytes(instructions), |body| {
            body["paymentRequirements"]["extra"]["memo"] = json!("invoice 7");
            body["paymentPayload"]["accepted"]["extra"]["memo"] = json!("invoice 7");
        });
        verdict_by(&exact(), &request)
    };
    let mut all = by_wallet();
    assert_eq!(verdict(&all), rejected(&reason::MEMO_MISMATCH));
    assert_eq!(verdict(&all[..3]), rejected(&reason::MEMO_COUNT));
    all[3] = memo(b"invoice 7");
    assert_eq!(verdict(&all), Ok(()));
    all.push(memo(b"invoice 7"));
    assert_eq!(verdict(&all), rejected(&reason::MEMO_COUNT));
}

#[test]
fn smart_wallet_payment_of_zero_is_rejected() {
    let request = request_with(&bytes(&by_wallet()), |body| {
        body["paymentRequirements"]["amount"] = json!("0");
        body["paymentPayload"]["accepted"]["amount"] = json!("0");
    });
    assert_eq!(
        verdict_by(&exact(), &request),
        rejected(&Reason::AMOUNT_TOO_LOW)
    );
}

/// attacks.md 92 and 103.
#[test]
fn smart_wallet_pays_the_recipient_once_and_does_nothing_else() {
    let none = refused(&reason::SMART_WALLET_NO_TRANSFER);
    let mismatch = refused(&reason::SMART_WALLET_TRANSFER_MISMATCH);
    let destination = inner().accounts[2].pubkey;
    let pays = |amount| transfer(TOKEN, &vault(), &pay_to(), amount);
    let back = {
        let mut back = inner();
        back.accounts.swap(0, 2);
        back
    };
    let of_token = |data: Vec<u8>, accounts: Vec<AccountMeta>| Instruction {
        program_id: TOKEN,
        accounts,
        data,
    };
    let about = vec![AccountMeta::new(destination, false)];
    for (calls, expected) in [
        (vec![], none),
        (vec![pays(AMOUNT - 1)], mismatch.clone()),
        (vec![pays(AMOUNT / 2), pays(AMOUNT / 2)], mismatch.clone()),
        (vec![inner(), back], mismatch.clone()),
        // A close, a burn and a batch (which nodes do not parse) that mention the recipient's
        // account.
        (
            vec![inner(), of_token(vec![9], about.clone())],
            mismatch.clone(),
        ),
        (
            vec![inner(), of_token(vec![15; 10], about.clone())],
            mismatch.clone(),
        ),
        (
            vec![of_token(vec![255, 1, 2], about.clone())],
            mismatch.clone(),
        ),
        (
            vec![inner(), inner()],
            refused(&reason::SMART_WALLET_MULTIPLE_TRANSFERS),
        ),
        (
            vec![pays(AMOUNT * 3), pays(AMOUNT)],
            refused(&reason::SMART_WALLET_MULTIPLE_TRANSFERS),
        ),
        (
            vec![transfer(TOKEN, &vault(), &key(9).pubkey(), AMOUNT)],
            mismatch.clone(),
        ),
        (
            vec![transfer(TOKEN_2022, &vault(), &pay_to(), AMOUNT)],
            mismatch.clone(),
        ),
        (
            vec![transfer(
                TOKEN,
                &fee_payers()[1].pubkey(),
                &pay_to(),
                AMOUNT,
            )],
            refused(&reason::FEE_PAYER_TRANSFERRING_FUNDS),
        ),
        (
            vec![transfer(TOKEN, &pay_to(), &pay_to(), AMOUNT)],
            mismatch.clone(),
        ),
    ] {
        assert_eq!(after(answer(&calls)), expected, "{calls:?}");
    }
    for change in [
        |call: &mut Instruction| call.accounts[1].pubkey = key(9).pubkey(),
        |call: &mut Instruction| call.data[9] = 9,
        |call: &mut Instruction| call.data[0] = 3,
        |call: &mut Instruction| {
            call.accounts
                .push(AccountMeta::new_readonly(vault(), false))
        },
        |call: &mut Instruction| call.accounts[0].pubkey = call.accounts[2].pubkey,
    ] {
        let mut call = inner();
        change(&mut call);
        assert_eq!(after(answer(&[call])), mismatch);
    }
    // A larger amount, and a transfer without the recipient.
    let elsewhere = transfer(TOKEN, &vault(), &key(9).pubkey(), 7);
    let fine = [pays(AMOUNT + 1), elsewhere];
    assert_eq!(after(answer(&fine)), Ok(vault().to_string()));
}

/// attacks.md 92: top-level and inner transfers count alike.
#[test]
fn top_level_and_inner_transfers_are_counted_together() {
    let mut all = by_wallet();
    all.push(pays());
    let twice = request(&all);
    assert_eq!(
        judged(&twice, answer(&[inner()])),
        refused(&reason::SMART_WALLET_MULTIPLE_TRANSFERS)
    );
    // An ordinary payer whose transaction lacks the static layout.
    let odd = request(&[pays(), memo(b"nonce")]);
    assert_eq!(judged(&odd, answer(&[])), Ok(payer().pubkey().to_string()));
}

/// attacks.md 103. Regression: a wallet can invoke any program, and an escrow pays the recipient
/// what it already owns, at anyone's request. Such a transfer counted as a payment.
#[test]
fn transfer_by_a_program_that_is_not_allowed_is_rejected() {
    let stranger = key(40).pubkey();
    let call = |stack_height: usize, call: EncodedInstruction| InnerInstruction {
        stack_height: Some(stack_height),
        ..by_the_wallet(call)
    };
    let runs = |program: Pubkey| {
        EncodedInstruction::Full(crate::instruction::Instruction {
            program,
            accounts: vec![],
            data: vec![],
        })
    };
    let pays = || called(&inner());
    let after = |calls: Vec<InnerInstruction>| {
        let mut answer = answer(&[]);
        answer.simulated.as_mut().unwrap().inner_instructions = Some(calls);
        after(answer)
    };
    let not_allowed = refused(&reason::SMART_WALLET_PROGRAM_NOT_ALLOWED);
    for (calls, expected) in [
        (vec![call(2, runs(stranger)), call(3, pays())], false),
        (vec![call(2, runs(stranger)), call(2, pays())], true),
        // Another allowed wallet may make the transfer, at any stack height.
        (vec![call(2, runs(SQUADS)), call(3, pays())], true),
        (
            vec![
                call(2, runs(stranger)),
                call(3, runs(SQUADS)),
                call(4, pays()),
            ],
            true,
        ),
        (
            vec![
                call(2, runs(SQUADS)),
                call(3, runs(stranger)),
                call(3, pays()),
            ],
            true,
        ),
        (
            vec![
                call(2, runs(SQUADS)),
                call(3, runs(stranger)),
                call(4, pays()),
            ],
            false,
        ),
        // Without a consistent call stack the invoker is unknown.
        (vec![call(3, pays())], false),
        (vec![call(1, pays())], false),
        (vec![call(0, pays())], false),
        (
            vec![InnerInstruction {
                stack_height: None,
                ..by_the_wallet(pays())
            }],
            false,
        ),
        (
            vec![InnerInstruction {
                outer: 9,
                ..by_the_wallet(pays())
            }],
            false,
        ),
    ] {
        let expected = match expected {
            true => Ok(vault().to_string()),
            false => not_allowed.clone(),
        };
        assert_eq!(after(calls.clone()), expected, "{calls:?}");
    }
}

#[test]
fn simulated_balances_must_show_the_payment() {
    let transaction = transaction(&by_wallet());
    let with = |by| {
        let mut answer = answer(&[inner()]);
        answer.simulated.as_mut().unwrap().balances = Some(rises(&transaction, by));
        after(answer)
    };
    assert_eq!(with(AMOUNT), Ok(vault().to_string()));
    assert_eq!(with(AMOUNT + 1), Ok(vault().to_string()));
    let mismatch = refused(&reason::SMART_WALLET_TRANSFER_MISMATCH);
    assert_eq!(with(AMOUNT - 1), mismatch);
    let mut empty = answer(&[inner()]);
    empty.simulated.as_mut().unwrap().balances = Some(vec![]);
    assert_eq!(after(empty), mismatch);
}

/// attacks.md 94. Regression: a payment without a compute budget avoided the check of the static
/// path.
#[test]
fn smart_wallet_path_rejects_a_delegates_transfer() {
    let all = [pays(), memo(b"nonce")];
    let transaction = transaction(&all);
    let keys = transaction.message.static_account_keys();
    let source = pays().accounts[0].pubkey;
    let paid_from = |owner: Option<Pubkey>| {
        let mut balances = rises(&transaction, AMOUNT);
        balances.push(Balance {
            account: keys.iter().position(|key| *key == source).unwrap(),
            mint: usdc().mint.to_string(),
            owner: owner.map(|owner| owner.to_string()),
            before: AMOUNT,
            after: 0,
        });
        let mut answer = answer(&[]);
        answer.simulated.as_mut().unwrap().balances = Some(balances);
        judged(&request(&all), answer)
    };
    let payer = payer().pubkey();
    assert_eq!(paid_from(Some(payer)), Ok(payer.to_string()));
    assert_eq!(
        paid_from(Some(key(9).pubkey())),
        refused(&reason::SMART_WALLET_TRANSFER_MISMATCH)
    );
    // Nodes before version 3 do not report the owner.
    assert_eq!(paid_from(None), Ok(payer.to_string()));
}

#[test]
fn smart_wallet_payment_that_fails_simulation_is_rejected() {
    let mut answer = answer(&[inner()]);
    answer.simulated = fails("{\"InstructionError\":[2,{\"Custom\":1}]}");
    assert_eq!(
        after(answer),
        refused(&reason::SMART_WALLET_SIMULATION_FAILED)
    );
}

/// attacks.md 96 and 97: the checks of the recipient and the mint hold on this path too.
#[test]
fn smart_wallet_needs_a_recipient_account_and_an_allowed_mint() {
    let mut without_account = answer(&[inner()]);
    without_account.accounts[1] = None;
    assert_eq!(
        after(without_account),
        refused(&reason::RECEIVER_ACCOUNT_NOT_FOUND)
    );
    let mut other_mint = answer(&[inner()]);
    other_mint.accounts[0].as_mut().unwrap().owner = TOKEN_2022;
    assert_eq!(after(other_mint), refused(&reason::MINT_NOT_ALLOWED));
}

/// attacks.md 103: a program may behave differently in a simulation.
#[test]
fn smart_wallet_payment_is_judged_by_its_real_effect() {
    let request = request(&by_wallet());
    let payment = exact().decode(&request, NOW).unwrap();
    let transaction = transaction(&by_wallet());
    let keys = transaction.message.static_account_keys();
    let index = |key: &Pubkey| keys.iter().position(|found| found == key).unwrap() as u8;
    let compiled = |call: &Instruction| {
        let accounts = call.accounts.iter().map(|account| index(&account.pubkey));
        EncodedInstruction::Compiled(CompiledInstruction {
            program_id_index: index(&call.program_id),
            accounts: accounts.collect(),
            data: call.data.clone(),
        })
    };
    let amount = Amount::from(AMOUNT);
    let effect = |by: u64, calls: Option<Vec<EncodedInstruction>>| {
        let evidence = Evidence {
            balances: Some(rises(&transaction, by)),
            inner_instructions: calls.map(|calls| calls.into_iter().map(by_the_wallet).collect()),
            ..Evidence::default()
        };
        payment.effect(amount, &evidence)
    };
    let is_other = |effect: Effect| match effect {
        Effect::Mismatch(rejection) => rejection.reason == reason::TRANSFER_NOT_CONFIRMED,
        _ => false,
    };
    let once = || Some(vec![compiled(&inner())]);
    assert_eq!(effect(AMOUNT, once()), Effect::Transferred(amount));
    // A node that stores no inner instructions still reports balances.
    assert_eq!(effect(AMOUNT, None), Effect::Transferred(amount));
    assert!(is_other(effect(AMOUNT - 1, None)));
    assert!(is_other(effect(0, once())));
    assert!(is_other(effect(AMOUNT, Some(vec![]))));
    let twice = Some(vec![compiled(&inner()), compiled(&inner())]);
    assert!(is_other(effect(2 * AMOUNT, twice)));
    let mut outside = inner();
    outside.accounts.truncate(3);
    let EncodedInstruction::Compiled(mut outside) = compiled(&outside) else {
        unreachable!()
    };
    outside.accounts.push(200);
    assert!(is_other(effect(
        AMOUNT,
        Some(vec![EncodedInstruction::Compiled(outside)])
    )));
    let failed = Evidence {
        error: Some("\"BlockhashNotFound\"".to_owned()),
        ..Evidence::default()
    };
    assert!(matches!(
        payment.effect(amount, &failed),
        Effect::Mismatch(rejection) if rejection.reason == reason::TRANSACTION_FAILED
    ));
}

/// A lookup table with these addresses.
fn table(addresses: &[Pubkey]) -> Account {
    let mut data = vec![0; 56];
    data[0] = 1;
    data.extend(addresses.iter().flat_map(Pubkey::to_bytes));
    Account {
        owner: TABLES,
        data,
    }
}

/// The same payment with its accounts in a lookup table, and its request.
fn through_table(addresses: &[Pubkey]) -> (VersionedTransaction, PaymentRequest) {
    let table = AddressLookupTableAccount {
        key: key(7).pubkey(),
        addresses: addresses.to_vec(),
    };
    let blockhash = Hash::new_from_array([9; 32]);
    let message =
        v0::Message::try_compile(&fee_payers()[0].pubkey(), &by_wallet(), &[table], blockhash)
            .unwrap();
    let transaction = signed_by(VersionedMessage::V0(message), &[&payer()]);
    let request = request_with(&wincode::serialize(&transaction).unwrap(), |_| {});
    (transaction, request)
}

/// The action for a payment after this answer, or the reason code.
fn action(request: &PaymentRequest, answer: Answer) -> Result<PartiallySigned, String> {
    let payment = exact().decode(request, NOW).unwrap();
    let answers = [answer];
    let observed = Observed::new(&[true], &answers, NOW);
    let code = |rejection: Rejection| rejection.reason.code().to_owned();
    payment.check(&observed).map_err(code)?;
    let plan = payment
        .plan(Amount::from(AMOUNT), &observed)
        .map_err(code)?;
    Ok(plan.into_action().unwrap())
}

fn signs(action: &PartiallySigned) -> bool {
    let chain = solana();
    let actions = [action];
    let prepared = chain.prepare(&chain.lanes()[0], 0, &actions);
    futures_util::FutureExt::now_or_never(prepared)
        .unwrap()
        .is_ok()
}

/// attacks.md 85.
#[test]
fn lookup_tables_are_resolved_before_signing() {
    let hidden = [
        inner().accounts[0].pubkey,
        inner().accounts[2].pubkey,
        vault(),
        usdc().mint,
    ];
    let (transaction, request) = through_table(&hidden);
    assert_eq!(
        transaction.message.address_table_lookups().unwrap().len(),
        1
    );
    assert_eq!(verdict_by(&exact(), &request), Ok(()));
    assert_eq!(
        verdict_of(&request),
        rejected(&reason::ALT_RESOLUTION_NOT_AVAILABLE)
    );
    let with = |table: Option<Account>| {
        let mut answer = answer(&[inner()]);
        answer.accounts.push(table);
        action(&request, answer)
    };
    let good = with(Some(table(&hidden))).unwrap();
    // Writable addresses come first.
    assert_eq!(good.loaded.len(), 4);
    assert!(good.loaded[..2].contains(&hidden[0]) && good.loaded[..2].contains(&hidden[1]));
    assert!(signs(&good));
    let unread = PartiallySigned {
        loaded: Vec::new(),
        ..good
    };
    assert!(!signs(&unread));

    let failed = Err(reason::ALT_RESOLUTION_FAILED.code().to_owned());
    assert_eq!(with(None), failed);
    assert_eq!(with(Some(table(&hidden[..3]))), failed);
    let mut of_another = table(&hidden);
    of_another.owner = SYSTEM;
    assert_eq!(with(Some(of_another)), failed);
    let mut cut = table(&hidden);
    cut.data.pop();
    assert_eq!(with(Some(cut)), failed);
    let mut uninitialized = table(&hidden);
    uninitialized.data[0] = 0;
    assert_eq!(with(Some(uninitialized)), failed);
}

/// attacks.md 83 and 85: the table's contents on the chain count, not the payer's claim.
#[test]
fn fee_payer_in_a_lookup_table_is_rejected() {
    let hidden = [inner().accounts[0].pubkey, vault()];
    let (_, request) = through_table(&hidden);
    for fee_payer in fee_payers().map(|key| key.pubkey()) {
        for at in 0..2 {
            let mut really = hidden;
            really[at] = fee_payer;
            let mut answer = answer(&[inner()]);
            answer.accounts.push(Some(table(&really)));
            assert_eq!(
                action(&request, answer),
                Err(reason::SMART_WALLET_FEE_PAYER_NOT_ISOLATED
                    .code()
                    .to_owned())
            );
        }
    }
}

#[test]
fn payment_with_too_many_lookup_tables_is_rejected() {
    let mut all = by_wallet();
    let extra: Vec<Pubkey> = (50..55).map(|seed| key(seed).pubkey()).collect();
    let metas = extra
        .iter()
        .map(|key| AccountMeta::new_readonly(*key, false));
    all[2].accounts.extend(metas);
    let tables: Vec<_> = extra
        .iter()
        .map(|address| AddressLookupTableAccount {
            key: key(60 + address.as_ref()[0] % 60).pubkey(),
            addresses: vec![*address],
        })
        .collect();
    let blockhash = Hash::new_from_array([9; 32]);
    let message =
        v0::Message::try_compile(&fee_payers()[0].pubkey(), &all, &tables, blockhash).unwrap();
    assert_eq!(message.address_table_lookups.len(), 5);
    let transaction = signed_by(VersionedMessage::V0(message), &[&payer()]);
    let request = request_with(&wincode::serialize(&transaction).unwrap(), |_| {});
    assert_eq!(
        verdict_by(&exact(), &request),
        rejected(&reason::ALT_RESOLUTION_FAILED)
    );
}

/// The three encodings that nodes use for inner instructions.
#[test]
fn inner_instructions_are_read_in_all_three_encodings() {
    let call = inner();
    let keys: Vec<String> = call
        .accounts
        .iter()
        .map(|account| account.pubkey.to_string())
        .collect();
    let data = bs58::encode(&call.data).into_string();
    let read = |instruction: serde_json::Value| {
        let group = json!([{ "index": 2, "instructions": [instruction] }]);
        let groups = serde_json::from_value(group).unwrap();
        crate::chain::meta::inner_instructions(groups)
            .map(|mut calls| calls.pop().unwrap().instruction)
    };
    let whole =
        json!({ "programId": TOKEN.to_string(), "accounts": keys, "data": data, "stackHeight": 2 });
    assert_eq!(read(whole), Ok(called(&call)));
    let compiled =
        json!({ "programIdIndex": 7, "accounts": [3, 4], "data": data, "stackHeight": 2 });
    let Ok(EncodedInstruction::Compiled(compiled)) = read(compiled) else {
        panic!("a compiled instruction");
    };
    assert_eq!(
        (compiled.program_id_index, compiled.accounts.as_slice()),
        (7, [3, 4].as_slice())
    );
    let info = json!({
        "source": keys[0], "mint": keys[1], "destination": keys[2], "authority": keys[3],
        "tokenAmount": { "amount": AMOUNT.to_string(), "decimals": 6, "uiAmount": 0.01, "uiAmountString": "0.01" },
    });
    let parsed = |kind: &str, info: &serde_json::Value| {
        let parsed = json!({ "type": kind, "info": info });
        read(json!({ "program": "spl-token", "programId": TOKEN.to_string(), "parsed": parsed }))
    };
    let Ok(EncodedInstruction::Parsed(ParsedInstruction { transfer, .. })) =
        parsed("transferChecked", &info)
    else {
        panic!("a parsed instruction");
    };
    let whole = crate::instruction::Instruction {
        program: TOKEN,
        accounts: call.accounts.iter().map(|account| account.pubkey).collect(),
        data: call.data.clone(),
    };
    assert_eq!(transfer, Transfer::parse(&whole));
    // Of a transfer by several signers, and of any other instruction, only the addresses are read.
    let mut multisig = info.clone();
    let authority = multisig
        .as_object_mut()
        .unwrap()
        .remove("authority")
        .unwrap();
    multisig["multisigAuthority"] = authority;
    multisig["signers"] = json!([keys[3]]);
    for (kind, info) in [("transferChecked", &multisig), ("burnChecked", &info)] {
        let Ok(EncodedInstruction::Parsed(ParsedInstruction {
            transfer, accounts, ..
        })) = parsed(kind, info)
        else {
            panic!("a parsed instruction");
        };
        assert_eq!(transfer, None);
        for account in &call.accounts {
            assert!(accounts.contains(&account.pubkey));
        }
    }
    assert!(read(json!({ "programId": "?", "accounts": [], "data": "" })).is_err());
    assert!(read(json!({ "programIdIndex": 1, "accounts": [], "data": "0" })).is_err());
}

/// Regression: decoding sixty inner instructions of ten kilobytes from base58 took seconds on a
/// shared thread. No transfer is that long, so the data is not needed.
#[test]
fn inner_data_longer_than_a_transfer_is_not_decoded() {
    let read = |data: &[u8]| {
        let data = bs58::encode(data).into_string();
        let call = json!({ "programId": TOKEN.to_string(), "accounts": [], "data": data });
        let group = json!([{ "index": 2, "instructions": [call] }]);
        let groups = serde_json::from_value(group).unwrap();
        match crate::chain::meta::inner_instructions(groups)
            .unwrap()
            .pop()
            .unwrap()
            .instruction
        {
            EncodedInstruction::Full(instruction) => instruction.data,
            other => panic!("{other:?}"),
        }
    };
    for transfer in [[0xFF; 10], [0; 10]] {
        assert_eq!(read(&transfer), transfer);
    }
    assert!(read(&[0xAB; 10 * 1024]).is_empty());
    // The accounts of a batch are known, whatever it does with them.
    let mut batch = inner();
    batch.data = Vec::new();
    assert_eq!(
        after(answer(&[inner(), batch])),
        refused(&reason::SMART_WALLET_TRANSFER_MISMATCH)
    );
}

proptest! {
    /// attacks.md 83 to 85, for any transaction of a smart wallet.
    #[test]
    fn smart_wallet_transaction_with_a_fee_payer_is_never_signed(
        instructions in prop::collection::vec(any_instruction(), 0..4),
        in_table in prop::collection::vec(0_u8..6, 0..4),
        really in prop::collection::vec(0_u8..6, 4),
    ) {
        let keys = |seeds: &[u8]| -> Vec<Pubkey> {
            seeds.iter().map(|seed| key(seed + 1).pubkey()).collect()
        };
        let said = AddressLookupTableAccount { key: key(7).pubkey(), addresses: keys(&in_table) };
        let blockhash = Hash::new_from_array([9; 32]);
        let compiled = v0::Message::try_compile(&fee_payers()[0].pubkey(), &instructions, &[said], blockhash);
        prop_assume!(compiled.is_ok());
        let message = VersionedMessage::V0(compiled.unwrap());
        let Ok(transaction) = PaymentTransaction::new(signed_by(message, &[&payer()])) else {
            return Ok(());
        };
        let tables: Vec<_> = transaction.lookups().iter().map(|_| Some(table(&keys(&really)))).collect();
        let loaded = crate::lookup::resolve(&transaction, &tables).unwrap();
        let fee_payers = fee_payers().map(|key| key.pubkey());
        let all = transaction.instructions(&loaded).unwrap();
        let mentioned = all.iter().any(|found| {
            fee_payers.contains(&found.program) || found.accounts.iter().any(|key| fee_payers.contains(key))
        });
        prop_assert_eq!(signs(&PartiallySigned::new(transaction, loaded)), !mentioned);
    }

    #[test]
    fn arbitrary_lookup_tables_never_panic(data: Vec<u8>, indexes: Vec<u8>) {
        let addresses: Vec<Pubkey> = (0..=255).map(|seed| Pubkey::new_from_array([seed; 32])).collect();
        let mut transaction = through_table(&[inner().accounts[0].pubkey]).0;
        if let VersionedMessage::V0(message) = &mut transaction.message {
            message.address_table_lookups[0].readonly_indexes = indexes;
        }
        if let Ok(transaction) = PaymentTransaction::new(transaction) {
            let any = Account { owner: TABLES, data };
            let _ = crate::lookup::resolve(&transaction, &[Some(any)]);
            let whole = crate::lookup::resolve(&transaction, &[Some(table(&addresses))]);
            prop_assert!(whole.is_some());
        }
    }
}
