//! The Solana chain has the properties of every chain.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::{Chain, Check, Clock, LaneId, Observed, Scheme, SystemClock};
use quittance_solana::{PartiallySigned, Pubkey, Query, Solana, TokenProgram};
use quittance_tests::conformance::chain::ChainFixture;
use quittance_tests::proxy::Fate;
use quittance_tests::solana::{PRICE, Setting};
use serde_json::json;

struct SolanaFixture {
    setting: Setting,
    chain: Arc<Solana>,
    hostile: Query,
}

/// The blocks of an inclusion: a transaction is confirmed after the first, and finalized after the
/// third.
const BLOCKS: u64 = 12;

/// The query of a payment with this lane as its fee payer.
async fn query(setting: &Setting, lane: &LaneId) -> Query {
    let mut requirements = setting.requirements();
    let mut extra = requirements.extra.unwrap().tree();
    extra["feePayer"] = json!(lane.address());
    requirements.extra = Some(Object::of(&extra).unwrap());
    let request = quittance_tests::pay(&setting.payer(), &requirements).await;
    let payment = setting
        .scheme()
        .decode(&request, SystemClock.now())
        .unwrap();
    let observed = Observed::new(&[true], &[], SystemClock.now());
    match payment.check(&observed).unwrap() {
        Check::Ask(query) => query,
        Check::Valid | Check::NotYet(_) => panic!("valid without a question"),
    }
}

#[async_trait]
impl ChainFixture for SolanaFixture {
    type Chain = Solana;

    async fn new() -> Self {
        let setting = Setting::start(TokenProgram::SplToken, None).await;
        let chain = Arc::new(Solana::new(setting.config()).unwrap());
        let hostile = query(&setting, &chain.lanes()[0]).await;
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
        let query = query(&self.setting, lane).await;
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
