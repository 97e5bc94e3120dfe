//! Solana holds what every chain must hold.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use async_trait::async_trait;
use quittance_core::{Chain, Check, Clock, LaneId, Observed, Scheme, SystemClock};
use quittance_solana::{Inquiry, Partial, Pubkey, Solana, TokenProgram};
use quittance_tests::conformance::chain::ChainFixture;
use quittance_tests::proxy::Fate;
use quittance_tests::solana::Setting;

struct SolanaFixture {
    setting: Setting,
    chain: Arc<Solana>,
    hostile: Inquiry,
}

/// How many blocks an inclusion makes: what is included is confirmed after the first, and final after the third.
const BLOCKS: u64 = 12;

impl SolanaFixture {
    async fn inquiry(&self) -> Inquiry {
        inquiry(&self.setting).await
    }
}

/// What a payment asks.
async fn inquiry(setting: &Setting) -> Inquiry {
    let request = setting.request().await;
    let payment = setting
        .scheme()
        .decode(&request, SystemClock.now())
        .unwrap();
    let observed = Observed {
        signatures: &[true],
        answers: &[],
        now: SystemClock.now(),
    };
    match payment.check(&observed).unwrap() {
        Check::Ask(inquiry) => inquiry,
        Check::Valid | Check::NotYet(_) => panic!("content without looking"),
    }
}

#[async_trait]
impl ChainFixture for SolanaFixture {
    type Chain = Solana;

    async fn new() -> Self {
        let setting = Setting::start(TokenProgram::SplToken, None).await;
        let chain = Arc::new(Solana::new(setting.config()).unwrap());
        let hostile = inquiry(&setting).await;
        Self {
            setting,
            chain,
            hostile,
        }
    }

    fn chain(&self) -> Arc<Solana> {
        Arc::clone(&self.chain)
    }

    async fn action(&self) -> Partial {
        // Both fee payers are told in turn; the suite sends with the first.
        loop {
            let inquiry = self.inquiry().await;
            let wire = inquiry.simulate.unwrap();
            if wire.fee_payer().map(Pubkey::to_string).as_deref()
                == Some(self.chain.lanes()[0].address())
            {
                return Partial {
                    wire,
                    loaded: Vec::new(),
                };
            }
        }
    }

    fn question(&self) -> Inquiry {
        Inquiry {
            accounts: vec![self.setting.token.mint],
            simulate: None,
            with_calls: false,
        }
    }

    fn hostile_question(&self) -> Inquiry {
        self.hostile.clone()
    }

    async fn include(&self) {
        self.setting.local.mine(BLOCKS).await.unwrap();
    }

    async fn take_place(&self, _: &LaneId) {}

    fn nodes_down(&self) {
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

    fn nodes_up(&self) {
        self.setting.node.mend();
    }
}

quittance_tests::chain_conformance!(SolanaFixture);
