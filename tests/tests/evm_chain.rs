//! The EVM chain has the properties of every chain.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use alloy::primitives::{Address, Bytes, U256};
use alloy::rpc::types::TransactionRequest;
use async_trait::async_trait;
use quittance_core::{Chain, Check, Clock, LaneId, Observed, Scheme, SignatureClaim, SystemClock};
use quittance_devnet::{Mining, USDC};
use quittance_evm::{Call, Evm, Exact, Probe, ProbeResult, Step, StepOutcome};
use quittance_testing::faults::{ChainFault, FaultyChainFixture, PlantedFault};
use quittance_tests::conformance::chain::{self, ChainFixture};
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::mutations::{NotCaught, assert_caught};
use quittance_tests::proxy::Fate;

struct EvmFixture {
    setting: Setting,
    chain: Arc<Evm>,
    hostile: Address,
}

/// An endless loop until the gas is used up, for any input: JUMPDEST, PUSH1 0, JUMP.
const GAS_BURNER: &str = "5b600056";

#[async_trait]
impl ChainFixture for EvmFixture {
    type Chain = Evm;

    async fn new() -> Self {
        let setting = Setting::with_mining(Mining::Manual).await;
        let hostile = Address::repeat_byte(0xbb);
        setting.local.set_code(hostile, GAS_BURNER).await.unwrap();
        let mut config = setting.config();
        config.signers = Setting::signers()
            .map(|account| Arc::new(account.signer) as _)
            .to_vec();
        let chain = Arc::new(Evm::new(config).unwrap());
        Self {
            setting,
            chain,
            hostile,
        }
    }

    fn chain(&self) -> Arc<Evm> {
        Arc::clone(&self.chain)
    }

    async fn action(&self, _: &LaneId) -> Call {
        let request = Setting::request().await;
        let payment = Exact::new(&self.chain)
            .decode(&request, SystemClock.now())
            .unwrap();
        assert!(matches!(
            payment.signatures(),
            [SignatureClaim::Secp256k1 { .. }]
        ));
        let now = SystemClock.now();
        let Check::Ask(probe) = payment.check(&Observed::new(&[true], &[], now)).unwrap() else {
            panic!("valid without a question")
        };
        let answers: Vec<_> = self
            .chain
            .read(&[probe])
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let observed = Observed::new(&[true], &answers, now);
        let plan = payment.plan(payment.info().amount, &observed).unwrap();
        plan.into_action().unwrap()
    }

    async fn effects(&self) -> u64 {
        let received = self.setting.received().await.units();
        (received / U256::from(PRICE)).to()
    }

    /// A contract has code, and an account has none.
    fn questions(&self) -> Vec<Probe> {
        let account = Setting::buyer().address;
        [USDC, account]
            .map(|at| Probe::new(vec![Step::CodeSize(at)]))
            .to_vec()
    }

    fn is_answer(&self, at: usize, answer: &ProbeResult) -> bool {
        match answer.outcomes.as_slice() {
            [StepOutcome::CodeSize(size)] => (at == 0) == (*size > 0),
            _ => false,
        }
    }

    fn hostile_question(&self) -> Probe {
        let burn = Step::call(self.hostile, Bytes::new(), 600_000);
        Probe::new(vec![burn.clone(), Step::CodeSize(USDC), burn])
    }

    async fn include(&self) {
        self.setting.local.mine().await.unwrap();
    }

    async fn use_sequence(&self, lane: &LaneId) {
        let from: Address = lane.address().parse().unwrap();
        let transfer = TransactionRequest::default()
            .from(from)
            .to(from)
            .value(U256::ZERO);
        let _: alloy::primitives::B256 = self
            .setting
            .local
            .rpc("eth_sendTransaction", (transfer,))
            .await
            .unwrap();
        self.include().await;
    }

    async fn drain_signer(&self, lane: &LaneId) {
        let params = (lane.address(), "0x0");
        let emptied: Option<()> = self
            .setting
            .local
            .rpc("anvil_setBalance", params)
            .await
            .unwrap();
        assert_eq!(emptied, None);
    }

    async fn lose_answers(&self) {
        self.setting
            .node
            .breaks_for_good("eth_sendRawTransaction", Fate::AnswerLost);
    }

    async fn nodes_down(&self) {
        for method in [
            "eth_chainId",
            "eth_call",
            "eth_getTransactionCount",
            "eth_blockNumber",
            "eth_feeHistory",
            "eth_sendRawTransaction",
        ] {
            self.setting.node.breaks_for_good(method, Fate::Status(503));
        }
    }

    async fn nodes_up(&self) {
        self.setting.node.mend();
    }
}

quittance_tests::chain_conformance!(EvmFixture);

/// Some minutes: `make mutations`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn planted_faults_are_caught() {
    let properties = chain::properties::<FaultyChainFixture<EvmFixture>>();
    let sent_again = "no payment is lost: the engine sends alone what a transaction left out";
    let sent_again = NotCaught::Gap(sent_again);
    let not_caught = [
        (
            PlantedFault::Chain(ChainFault::NoReplacement),
            NotCaught::Gap("allowed: a chain need not have replacements"),
        ),
        (
            PlantedFault::Chain(ChainFault::OneFaultSpoilsAllAnswers),
            NotCaught::NoDifference("a call that fails is an answer"),
        ),
        (PlantedFault::Chain(ChainFault::FirstActionOnly), sent_again),
        (
            PlantedFault::Chain(ChainFault::FirstActionTwice),
            sent_again,
        ),
        (
            PlantedFault::Chain(ChainFault::FindsNothing),
            NotCaught::Gap("the suite of the scheme catches it"),
        ),
    ];
    let faults = ChainFault::ALL.map(PlantedFault::Chain);
    assert_caught(&properties, faults, &not_caught).await;
}
