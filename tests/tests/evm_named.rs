//! Simulated calls by a named sender, on a real node.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use alloy::primitives::{Address, Bytes, U256};
use alloy::sol;
use alloy::sol_types::{SolCall, SolError, SolValue};
use quittance_core::{Chain, Fault};
use quittance_devnet::{Mining, USDC};
use quittance_evm::{Evm, Probe, ProbeResult, Step, StepOutcome};
use quittance_tests::contracts::hostile;
use quittance_tests::evm::Setting;
use quittance_tests::proxy::{Fate, Habit, Proxy};
use serde_json::json;

sol! {
    interface OneSender {
        error NotTheSender(address sender);
        error TooLate(uint256 number);
        function act() external;
        function actUntil(uint256 number) external;
        function burn() external;
    }
}

const GAS: u32 = 100_000;

/// A chain, and a contract whose act only the facilitator's first signer may make.
async fn start() -> (Setting, Evm, Address) {
    let setting = Setting::with_mining(Mining::Instant).await;
    let sender = signer().abi_encode();
    let code = format!("{}{}", hostile("OneSender"), alloy::hex::encode(sender));
    let contract = setting.local.deploy(&code).await.unwrap();
    let evm = Evm::new(setting.config()).unwrap();
    (setting, evm, contract)
}

fn signer() -> Address {
    Setting::signers()[0].address
}

fn step(from: Address, to: Address, call: impl SolCall) -> Step {
    Step::CallAs {
        from,
        to,
        data: call.abi_encode().into(),
        gas: GAS,
    }
}

fn refusal(sender: Address) -> StepOutcome {
    let data = OneSender::NotTheSender { sender }.abi_encode();
    StepOutcome::Reverted { data: data.into() }
}

async fn read(evm: &Evm, probe: Probe) -> Result<ProbeResult, Fault> {
    evm.read(&[probe]).await.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_passes_for_its_sender_and_no_other() {
    let (setting, evm, contract) = start().await;
    let other = Setting::buyer().address;
    let act = || OneSender::actCall {};
    let probe = Probe::new(vec![
        Step::CodeSize(other),
        step(other, contract, act()),
        Step::call(contract, act().abi_encode().into(), GAS),
        step(signer(), contract, act()),
        Step::CodeSize(USDC),
    ]);
    // The node is on the right chain: this is asked once.
    read(&evm, Probe::new(vec![])).await.unwrap();
    let before = setting.node.sizes().len();
    let probes = [
        probe.clone(),
        Probe::new(vec![Step::CodeSize(contract)]),
        probe,
    ];
    let results: Vec<ProbeResult> = evm
        .read(&probes)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(setting.node.sizes()[before..], [5], "one round trip");
    for result in [&results[0], &results[2]] {
        let [none, refused, in_program, passed, token] = result.outcomes.as_slice() else {
            panic!("{result:?}");
        };
        assert_eq!(none.code_size(), Some(0));
        assert_eq!(*refused, refusal(other));
        assert!(matches!(in_program, StepOutcome::Reverted { .. }));
        // A cold slot that is read, and a zero slot that is written.
        let gas = passed.gas().unwrap();
        assert!((22_000..40_000).contains(&gas), "{gas}");
        assert!(token.code_size().unwrap() > 0);
    }
    assert!(results[1].outcomes[0].code_size().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_call_as_a_transaction_runs_later_too() {
    let (setting, evm, contract) = start().await;
    let other = Setting::buyer().address;
    let act = || OneSender::actCall {};
    let steps = vec![
        step(signer(), contract, act()),
        Step::CodeSize(contract),
        step(other, contract, act()),
    ];
    let result = read(&evm, Probe::new_transaction(steps.clone()))
        .await
        .unwrap();
    let simulations: Vec<&[StepOutcome]> = result.simulations().collect();
    assert_eq!(simulations.len(), 2);
    for outcomes in simulations {
        assert!(outcomes[0].gas().unwrap() > 0);
        assert!(outcomes[1].code_size().unwrap() > 0);
        assert_eq!(outcomes[2], refusal(other));
    }
    // A node that cannot simulate a later block.
    setting
        .node
        .rewrites("eth_call", |params, result| match params.get(3) {
            Some(_) => json!(null),
            None => result,
        });
    let result = read(&evm, Probe::new_transaction(steps)).await.unwrap();
    assert_eq!(result.later, None);
}

/// A probe of a call that returns now and reverts in the last block of its transaction, and the
/// revert. The next block is still early enough, because some nodes simulate in that.
async fn too_late(evm: &Evm, contract: Address) -> (Probe, StepOutcome) {
    let empty = read(evm, Probe::new(vec![])).await.unwrap();
    let number = U256::from(empty.block + 1);
    let call = OneSender::actUntilCall { number };
    let data = OneSender::TooLate { number }.abi_encode();
    let probe = Probe::new_transaction(vec![step(signer(), contract, call)]);
    (probe, StepOutcome::Reverted { data: data.into() })
}

/// The outcomes now and later were equal in every test, so a lost later one was not seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_named_call_that_reverts_later_passes_only_now() {
    let (_setting, evm, contract) = start().await;
    let (probe, reverted) = too_late(&evm, contract).await;
    let result = read(&evm, probe).await.unwrap();
    assert!(result.outcomes[0].gas().unwrap() > 0);
    assert_eq!(result.later, Some(vec![reverted]));
}

/// A second node in front of the same chain, and the chain with both.
async fn with_second(setting: &Setting) -> (Evm, Proxy) {
    let second = Proxy::before(setting.local.url()).await;
    let mut config = setting.config();
    config.rpc_urls.push(second.url().parse().unwrap());
    (Evm::new(config).unwrap(), second)
}

/// attacks.md 39: the revert was an error reply, and the next node's result replaced it.
#[tokio::test(flavor = "multi_thread")]
async fn later_revert_by_one_node_is_not_overruled_by_another() {
    let (setting, _, contract) = start().await;
    let (evm, second) = with_second(&setting).await;
    let (probe, reverted) = too_late(&evm, contract).await;
    second.breaks_for_good("eth_call", Fate::Result(json!("0x")));
    let result = read(&evm, probe).await.unwrap();
    assert_eq!(result.later, Some(vec![reverted]));
    assert_eq!(second.calls("eth_call"), 0);
}

/// The first node replied with an error that says nothing about the call, and no other was asked.
#[tokio::test(flavor = "multi_thread")]
async fn node_that_cannot_simulate_a_named_call_is_passed_over() {
    let (setting, _, contract) = start().await;
    let (evm, second) = with_second(&setting).await;
    let other = Setting::buyer().address;
    let steps = || {
        let act = || OneSender::actCall {};
        let pair = [signer(), other].map(|sender| step(sender, contract, act()));
        pair.to_vec()
    };
    for (method, code, message) in [
        ("eth_estimateGas", -32601, "the method does not exist"),
        ("eth_estimateGas", -32000, "header not found"),
        (
            "eth_estimateGas",
            -32000,
            "gas required exceeds allowance (10)",
        ),
        ("eth_call", -32000, "header not found"),
    ] {
        setting.node.takes_on(Habit::Limits(method, code, message));
        for probe in [Probe::new(steps()), Probe::new_transaction(steps())] {
            let result = read(&evm, probe.clone()).await.unwrap();
            let simulations: Vec<_> = result.simulations().collect();
            assert_eq!(simulations.len(), 1 + usize::from(probe.as_transaction));
            for outcomes in simulations {
                assert!(outcomes[0].gas().unwrap() > 0, "{message}");
                assert_eq!(outcomes[1], refusal(other), "{message}");
            }
        }
        setting.node.mend();
        let asked = second.calls(method);
        assert!(read(&evm, Probe::new(steps())).await.is_ok());
        assert_eq!(second.calls(method), asked, "the first node works again");
    }
}

/// attacks.md 33 and 39: only what the call did is an outcome.
#[tokio::test(flavor = "multi_thread")]
async fn error_of_a_node_is_no_outcome_of_a_named_call() {
    let (setting, evm, contract) = start().await;
    let act = || Probe::new(vec![step(signer(), contract, OneSender::actCall {})]);
    let burn = Probe::new(vec![step(signer(), contract, OneSender::burnCall {})]);
    let reverted = StepOutcome::Reverted { data: Bytes::new() };
    assert_eq!(read(&evm, burn).await.unwrap().outcomes, [reverted]);
    for (code, message) in [
        (-32000, "header not found"),
        (-32601, "the method does not exist"),
        (-32000, "gas required exceeds allowance (0)"),
    ] {
        // Only this request of the batch.
        let limits = Habit::Limits("eth_estimateGas", code, message);
        setting.node.takes_on(limits);
        assert!(read(&evm, act()).await.is_err(), "{message}");
        setting.node.mend();
    }
    assert!(read(&evm, act()).await.unwrap().outcomes[0].gas().is_some());
}
