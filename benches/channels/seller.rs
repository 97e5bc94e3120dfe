//! A seller with channels of many payers, and their vouchers.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::json::Object;
use quittance_core::wire::{
    PaymentPayload, PaymentRequirements, SettleResponse, SupportedKind, SupportedResponse,
    VerifyResponse,
};
use quittance_core::{Facilitator, FacilitatorError, FirstSuccess, Offer, PaymentRequest, Phase};
use quittance_engine::SqliteJournal;
use quittance_evm::batch::{
    ChannelConfig, ChannelOffer, ChannelState, Channels, Voucher, domain_separator, voucher_digest,
};
use quittance_verify::VerifierQueue;
use serde_json::json;

const NETWORK: &str = "eip155:8453";
const CHAIN_ID: u64 = 8453;
const SELLER: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

/// Knows channels of any number of tokens, and sends nothing.
struct Rich;

#[async_trait]
impl Facilitator for Rich {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        let payload = request.payload.tree();
        let channel = serde_json::from_value(payload["voucher"]["channelId"].clone()).unwrap();
        let state = ChannelState {
            balance: u128::MAX,
            ..ChannelState::default()
        };
        Ok(VerifyResponse {
            extra: Object::of(&state.to_json(&channel)).ok(),
            ..VerifyResponse::valid(None)
        })
    }

    async fn settle(&self, _: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        unreachable!("nothing is claimed here")
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        let kind = SupportedKind::new(2, "batch-settlement", NETWORK);
        Ok(SupportedResponse::new(vec![kind]))
    }
}

/// A payer's channel.
pub(crate) struct Payer {
    key: PrivateKeySigner,
    config: ChannelConfig,
    charged: u128,
}

impl Payer {
    fn new(terms: &PaymentRequirements, authorizer: Address) -> Self {
        let key = PrivateKeySigner::random();
        let config = ChannelConfig {
            payer: Address::repeat_byte(7),
            payer_authorizer: key.address(),
            receiver: SELLER.parse().unwrap(),
            receiver_authorizer: authorizer,
            token: terms.asset.parse().unwrap(),
            withdraw_delay: 86_400,
            salt: B256::ZERO,
        };
        Self {
            key,
            config,
            charged: 0,
        }
    }

    /// The next voucher.
    pub(crate) fn payload(&mut self, terms: &PaymentRequirements) -> PaymentPayload {
        self.charged += terms.amount.parse::<u128>().unwrap();
        let separator = domain_separator(CHAIN_ID);
        let id = self.config.id(&separator);
        let digest = voucher_digest(&separator, &id, self.charged);
        let signature = self.key.sign_hash_sync(&digest).unwrap();
        let voucher = Voucher {
            channel_id: id,
            max_claimable: self.charged,
            signature: signature.as_bytes().to_vec().into(),
        };
        let payload = json!({
            "type": "voucher", "channelConfig": self.config, "voucher": voucher,
        });
        PaymentPayload::new(terms.clone(), Object::of(&payload).unwrap())
    }

    /// A request with the next voucher.
    fn request(&mut self, terms: &PaymentRequirements) -> PaymentRequest {
        PaymentRequest::new(self.payload(terms), terms.clone()).unwrap()
    }
}

/// A seller with this many channels.
pub(crate) struct Seller {
    pub(crate) channels: Channels,
    pub(crate) offer: Arc<ChannelOffer>,
    pub(crate) terms: PaymentRequirements,
    pub(crate) payers: Vec<Payer>,
}

impl Seller {
    pub(crate) async fn open(file: &Path, channels: usize) -> Self {
        let store = Arc::new(SqliteJournal::open(file).await.unwrap());
        let verifier = Arc::new(VerifierQueue::start().unwrap());
        let key = PrivateKeySigner::random();
        let authorizer = key.address();
        let offer = ChannelOffer::usdc(NETWORK, "0.0001", SELLER).unwrap();
        let offer = offer.with_authorizer(authorizer);
        let kind = SupportedKind::new(2, "batch-settlement", NETWORK);
        let terms = offer.requirements(&kind).unwrap();
        Self {
            channels: Channels::new(NETWORK, Arc::new(Rich), store, verifier, key).unwrap(),
            offer: Arc::new(offer),
            payers: (0..channels)
                .map(|_| Payer::new(&terms, authorizer))
                .collect(),
            terms,
        }
    }

    /// Each channel pays one request after another. Returns how long the seller takes.
    pub(crate) async fn serve(&mut self, vouchers: usize, how: How) -> Duration {
        let terms = &self.terms;
        let sign =
            |payer: &mut Payer| -> Vec<_> { (0..vouchers).map(|_| payer.request(terms)).collect() };
        let requests: Vec<Vec<_>> = self.payers.iter_mut().map(sign).collect();
        let began = Instant::now();
        let served = requests.into_iter().map(|requests| {
            let (channels, offer) = (self.channels.clone(), Arc::clone(&self.offer));
            let terms = self.terms.clone();
            tokio::spawn(async move {
                for request in requests {
                    match how {
                        How::Sold => sell(&channels, &offer, &terms, &request).await,
                        How::Settled => settle(&channels, &request).await,
                    }
                }
            })
        });
        for served in join_all(served).await {
            served.unwrap();
        }
        began.elapsed()
    }
}

/// How a voucher is charged.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// Verified, completed by the offer, and settled, as the seller's layer does.
    Sold,
    /// Settled at once, which verifies it.
    Settled,
}

async fn settle(channels: &Channels, request: &PaymentRequest) {
    let response = channels.settle(request).await.unwrap();
    assert!(response.success, "{response:?}");
}

async fn sell(
    channels: &Channels,
    offer: &ChannelOffer,
    terms: &PaymentRequirements,
    request: &PaymentRequest,
) {
    let verdict = channels.verify(request).await.unwrap();
    assert!(verdict.is_valid, "{verdict:?}");
    let phase = Phase::AfterHandler {
        charged: request.requirements.amount,
        first: &FirstSuccess::Verified(verdict),
    };
    let request = offer.request(phase, request, terms).await.unwrap();
    settle(channels, &request.unwrap()).await;
}
