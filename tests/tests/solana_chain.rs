//! The Solana chain has the properties of every chain.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::{Chain, Check, Clock, LaneId, Observed, Scheme, SystemClock};
use quittance_solana::{Keypair, PartiallySigned, Pubkey, Query, Solana, TokenProgram};
use quittance_testing::faults::{ChainFault, FaultyChainFixture, PlantedFault};
use quittance_tests::conformance::chain::{self, ChainFixture};
use quittance_tests::mutations::{NotCaught, assert_caught};
use quittance_tests::proxy::Fate;
use quittance_tests::solana::{PRICE, Setting};
use serde_json::json;
use solana_signature::Signature;

struct SolanaFixture {
    setting: Setting,
    chain: Arc<Solana>,
    hostile: Query,
}

/// The blocks of an inclusion: a transaction is confirmed after the first, and finalized after the
/// third.
const BLOCKS: u64 = 12;

/// The blocks after which a transaction counts as expired: 150 for its blockhash, 150 for nodes
/// that are apart, and 31 until the last one is finalized, and some more.
const EXPIRY_BLOCKS: u64 = 340;

/// The query of a payment with this lane of the chain as its fee payer.
async fn query(setting: &Setting, chain: &Solana, lane: &LaneId) -> Query {
    let mut requirements = setting.requirements();
    let mut extra = requirements.extra.unwrap().tree();
    extra["feePayer"] = json!(lane.address());
    requirements.extra = Some(Object::of(&extra).unwrap());
    let request = quittance_tests::pay(&setting.payer(), &requirements).await;
    let scheme = setting.scheme_on(chain);
    let payment = scheme.decode(&request, SystemClock.now()).unwrap();
    let observed = Observed::new(&[true], &[], SystemClock.now());
    match payment.check(&observed).unwrap() {
        Check::Ask(query) => query,
        other => panic!("no question: {other:?}"),
    }
}

/// The query of a payment whose fee payer has no account, so its simulation is a fault.
async fn query_without_fee_payer(setting: &Setting) -> Query {
    let mut config = setting.config();
    config.fee_payers = vec![Arc::new(Keypair::new())];
    let chain = Solana::new(config).unwrap();
    query(setting, &chain, &chain.lanes()[0]).await
}

#[async_trait]
impl ChainFixture for SolanaFixture {
    type Chain = Solana;

    async fn new() -> Self {
        let setting = Setting::start(TokenProgram::SplToken, None).await;
        let chain = Arc::new(Solana::new(setting.config()).unwrap());
        let hostile = query_without_fee_payer(&setting).await;
        Self {
            setting,
            chain,
            hostile,
        }
    }

    fn chain(&self) -> Arc<Solana> {
        Arc::clone(&self.chain)
    }

    async fn action(&self, lane: &LaneId) -> PartiallySigned {
        let query = query(&self.setting, &self.chain, lane).await;
        PartiallySigned::new(query.simulate.unwrap(), Vec::new())
    }

    async fn effects(&self) -> u64 {
        let received = self.setting.received().await.units();
        received.to::<u64>() / PRICE
    }

    /// The mint exists, and the other account does not.
    fn questions(&self) -> Vec<Query> {
        [self.setting.token.mint, Pubkey::new_from_array([77; 32])]
            .map(|account| Query {
                accounts: vec![account],
                simulate: None,
                with_inner_instructions: false,
            })
            .to_vec()
    }

    fn is_answer(&self, at: usize, answer: &<Solana as Chain>::Answer) -> bool {
        answer.accounts.len() == 1 && answer.accounts[0].is_some() == (at == 0)
    }

    fn hostile_question(&self) -> Query {
        self.hostile.clone()
    }

    async fn include(&self) {
        self.setting.local.mine(BLOCKS).await.unwrap();
    }

    async fn use_sequence(&self, _: &LaneId) {}

    async fn expire(&self) -> bool {
        self.setting.local.mine(EXPIRY_BLOCKS).await.unwrap();
        true
    }

    async fn lose_transactions(&self) {
        let id = json!(Signature::default().to_string());
        let node = &self.setting.node;
        node.breaks_for_good("sendTransaction", Fate::Result(id));
    }

    async fn drain_signer(&self, lane: &LaneId) {
        let signer = lane.address().parse().unwrap();
        self.setting.local.put_lamports(signer, 1).await.unwrap();
    }

    async fn lose_answers(&self) {
        self.setting
            .node
            .breaks_for_good("sendTransaction", Fate::AnswerLost);
    }

    async fn nodes_down(&self) {
        for method in [
            "getGenesisHash",
            "getMultipleAccounts",
            "getBlockHeight",
            "sendTransaction",
            "getHealth",
        ] {
            self.setting.node.breaks_for_good(method, Fate::Status(503));
        }
    }

    async fn nodes_up(&self) {
        self.setting.node.mend();
    }
}

quittance_tests::chain_conformance!(SolanaFixture);

/// Some minutes: `make mutations`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn planted_faults_are_caught() {
    let properties = chain::properties::<FaultyChainFixture<SolanaFixture>>();
    let no_sequence = NotCaught::NoDifference("a transaction has no sequence number");
    let no_replacement = NotCaught::NoDifference("a transaction cannot be replaced or cancelled");
    let not_caught = [
        (ChainFault::UsedSequenceIsRefused, no_sequence),
        (ChainFault::UsedSequenceIsAccepted, no_sequence),
        (ChainFault::IgnoresTheSequence, no_sequence),
        (ChainFault::SequenceTooHigh, no_sequence),
        (ChainFault::SequenceTooLow, no_sequence),
        (ChainFault::NoSequences, no_sequence),
        (ChainFault::NewestTransactionOnly, no_replacement),
        (ChainFault::FirstTransactionOnly, no_replacement),
        (ChainFault::ReplacesByNoop, no_replacement),
        (ChainFault::ReplacesAtTheNextSequence, no_replacement),
        (ChainFault::ReplacesForTheSameFee, no_replacement),
        (ChainFault::NoopAtTheNextSequence, no_replacement),
        (ChainFault::NoopForAnyFee, no_replacement),
        (ChainFault::NoNoop, no_replacement),
        (ChainFault::NoReplacement, no_replacement),
        (
            ChainFault::FirstActionOnly,
            NotCaught::NoDifference("a transaction settles one payment"),
        ),
        (
            ChainFault::FindsNothing,
            NotCaught::NoDifference("the status of a transaction says everything"),
        ),
    ]
    .map(|(fault, reason)| (PlantedFault::Chain(fault), reason));
    let faults = ChainFault::ALL.map(PlantedFault::Chain);
    assert_caught(&properties, faults, &not_caught).await;
}
