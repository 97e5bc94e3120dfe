//! The EVM chain holds what every chain must hold.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use alloy::primitives::{Address, Bytes, U256};
use alloy::rpc::types::TransactionRequest;
use async_trait::async_trait;
use quittance_core::{Chain, Check, Clock, LaneId, Observed, Scheme, SignatureClaim, SystemClock};
use quittance_devnet::{Mining, USDC};
use quittance_evm::{Call, Evm, Exact, Probe, Step};
use quittance_tests::conformance::chain::ChainFixture;
use quittance_tests::evm::Setting;
use quittance_tests::proxy::Fate;

struct EvmFixture {
    setting: Setting,
    chain: Arc<Evm>,
    hostile: Address,
}

/// Loops until the gas is gone, whatever it is called with: JUMPDEST, PUSH1 0, JUMP.
const GAS_BURNER: &str = "5b600056";

#[async_trait]
impl ChainFixture for EvmFixture {
    type Chain = Evm;

    async fn new() -> Self {
        let setting = Setting::with_mining(Mining::Manual).await;
        let hostile = Address::repeat_byte(0xbb);
        setting.local.set_code(hostile, GAS_BURNER).await.unwrap();
        let chain = Arc::new(Evm::new(setting.config()).unwrap());
        Self {
            setting,
            chain,
            hostile,
        }
    }

    fn chain(&self) -> Arc<Evm> {
        Arc::clone(&self.chain)
    }

    async fn action(&self) -> Call {
        let request = Setting::request().await;
        let payment = Exact::new(&self.chain)
            .decode(&request, SystemClock.now())
            .unwrap();
        assert!(matches!(
            payment.signatures(),
            [SignatureClaim::Secp256k1 { .. }]
        ));
        let now = SystemClock.now();
        let Check::Ask(probe) = payment
            .check(&Observed {
                signatures: &[true],
                answers: &[],
                now,
            })
            .unwrap()
        else {
            panic!("content without looking")
        };
        let answers: Vec<_> = self
            .chain
            .read(&[probe])
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let observed = Observed {
            signatures: &[true],
            answers: &answers,
            now,
        };
        payment.action(payment.info().amount, &observed).unwrap()
    }

    fn question(&self) -> Probe {
        Probe::new(vec![Step::CodeSize(USDC)])
    }

    fn hostile_question(&self) -> Probe {
        let burn = Step::call(self.hostile, Bytes::new(), 600_000);
        Probe::new(vec![burn.clone(), Step::CodeSize(USDC), burn])
    }

    async fn include(&self) {
        self.setting.local.mine().await.unwrap();
    }

    async fn take_place(&self, lane: &LaneId) {
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

    fn nodes_down(&self) {
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

    fn nodes_up(&self) {
        self.setting.node.mend();
    }
}

quittance_tests::chain_conformance!(EvmFixture);
