//! Payments by channels, for the suites of `batch-settlement`: what its payers and sellers sign.

use alloy::primitives::{B256, Bytes, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Eip712Domain, SolCall, SolStruct, SolValue, eip712_domain};
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::{
    PaymentRequirements, SettleResponse, SupportedResponse, VerifyResponse,
};
use quittance_core::{
    Clock, Facilitator, FacilitatorError, PaymentRequest, RequestCaller, SystemClock,
};
use quittance_devnet::{Account, BATCH_SETTLEMENT, DEPOSIT_COLLECTORS, PERMIT2, USDC};
use quittance_engine::Engine;
use quittance_evm::batch::{
    BatchConfig, ChannelConfig, ClaimRow, ClaimRules, Voucher, claim_digest, domain_separator,
    refund_digest, voucher_digest,
};
use serde_json::{Value, json};

use crate::evm::{PRICE, Setting};

alloy::sol! {
    #[derive(Debug)]
    struct ReceiveWithAuthorization {
        address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce;
    }
    struct TokenPermissions { address token; uint256 amount; }
    struct DepositWitness { bytes32 channelId; }
    struct PermitWitnessTransferFrom {
        TokenPermissions permitted; address spender; uint256 nonce; uint256 deadline;
        DepositWitness witness;
    }
    function channels(bytes32 channelId) external view returns (uint128 balance, uint128 totalClaimed);
    struct Terms {
        address payer; address payerAuthorizer; address receiver; address receiverAuthorizer;
        address token; uint40 withdrawDelay; bytes32 salt;
    }
    function deposit(
        Terms config, uint128 amount, address collector, bytes collectorData
    ) external;
    function initiateWithdraw(Terms config, uint128 amount) external;
    function finalizeWithdraw(Terms config) external;
}

/// The chain id of the local chain.
const CHAIN_ID: u64 = 84_532;

/// The balance of a channel and what is claimed of it, by the contract.
pub async fn channel_state(setting: &Setting, config: &ChannelConfig) -> (u128, u128) {
    let call = channelsCall {
        channelId: config.id(&domain_separator(CHAIN_ID)),
    };
    let reply = setting
        .local
        .call(BATCH_SETTLEMENT, call.abi_encode())
        .await;
    let state = channelsCall::abi_decode_returns(&reply.expect("a reply")).expect("a state");
    (state.balance, state.totalClaimed)
}

/// A channel of the buyer to the seller, with the keys of both sides.
#[derive(Debug, Clone)]
pub struct Channel {
    /// Its terms.
    pub config: ChannelConfig,
    /// Who deposits.
    pub payer: Account,
    /// The key that signs vouchers.
    pub voucher_key: PrivateKeySigner,
    /// The key that signs claims and refunds.
    pub authorizer: PrivateKeySigner,
}

impl Channel {
    /// A new channel of the buyer, in which the seller keeps its authority.
    pub fn new() -> Self {
        Self::of(&Setting::buyer())
    }

    /// A new channel of this payer.
    pub fn of(payer: &Account) -> Self {
        let (voucher_key, authorizer) = (PrivateKeySigner::random(), PrivateKeySigner::random());
        let config = ChannelConfig {
            payer: payer.address,
            payer_authorizer: voucher_key.address(),
            receiver: Setting::seller().address,
            receiver_authorizer: authorizer.address(),
            token: USDC,
            withdraw_delay: 900,
            salt: PrivateKeySigner::random().to_bytes(),
        };
        Self {
            config,
            payer: payer.clone(),
            voucher_key,
            authorizer,
        }
    }

    /// The same channel with other terms.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut ChannelConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Its identity.
    pub fn id(&self) -> B256 {
        self.config.id(&domain_separator(CHAIN_ID))
    }

    /// Its balance and what is claimed of it, by the contract.
    pub async fn state(&self, setting: &Setting) -> (u128, u128) {
        channel_state(setting, &self.config).await
    }

    /// What a seller requires of a payment by this channel.
    pub fn requirements(&self) -> PaymentRequirements {
        self.requirements_of(PRICE)
    }

    /// The same, with another price.
    pub fn requirements_of(&self, price: u64) -> PaymentRequirements {
        let extra = json!({
            "receiverAuthorizer": self.config.receiver_authorizer,
            "withdrawDelay": self.config.withdraw_delay,
            "name": "USDC",
            "version": "2",
        });
        PaymentRequirements {
            scheme: "batch-settlement".to_owned(),
            amount: price.to_string(),
            extra: Some(Object::of(&extra).expect("an object")),
            pay_to: self.config.receiver.to_string(),
            max_timeout_seconds: 60,
            ..Setting::requirements()
        }
    }

    /// The requirements of a seller that leaves the vouchers to its facilitator.
    pub fn managed_requirements(&self, price: u64) -> PaymentRequirements {
        let mut requirements = self.requirements_of(price);
        let mut extra = requirements.extra.expect("it is set").tree();
        extra.insert("voucherManager".to_owned(), json!("facilitator"));
        requirements.extra = Some(Object::of(&extra).expect("an object"));
        requirements
    }

    /// The requirements of a seller's own act, as the reference implementation has them.
    pub fn own_requirements(&self) -> PaymentRequirements {
        PaymentRequirements {
            amount: "0".to_owned(),
            max_timeout_seconds: 0,
            extra: Some(Object::of(&json!({})).expect("an object")),
            ..self.requirements()
        }
    }

    /// A voucher for this much in total.
    pub fn voucher(&self, max_claimable: u128) -> Voucher {
        let digest = voucher_digest(&domain_separator(CHAIN_ID), &self.id(), max_claimable);
        Voucher {
            channel_id: self.id(),
            max_claimable,
            signature: sign(&self.voucher_key, &digest),
        }
    }

    /// A row that claims this much in total by a voucher for as much.
    pub fn row(&self, total: u128) -> ClaimRow {
        ClaimRow::new(self.config, &self.voucher(total), total)
    }

    /// The `deposit` of a payload, by EIP-3009.
    pub fn deposit_by_eip3009(&self, amount: u128) -> Value {
        let salt = B256::from(PrivateKeySigner::random().to_bytes());
        self.deposit_with(amount, salt, SystemClock.now().secs() + 60)
    }

    /// The same, with this salt and end.
    pub fn deposit_with(&self, amount: u128, salt: B256, valid_before: u64) -> Value {
        let message = ReceiveWithAuthorization {
            from: self.payer.address,
            to: DEPOSIT_COLLECTORS[0],
            value: U256::from(amount),
            validAfter: U256::ZERO,
            validBefore: U256::from(valid_before),
            nonce: keccak256((self.id(), salt).abi_encode()),
        };
        let domain: Eip712Domain = eip712_domain! {
            name: "USDC", version: "2", chain_id: CHAIN_ID, verifying_contract: USDC,
        };
        let signature = sign(&self.payer.signer, &message.eip712_signing_hash(&domain));
        json!({
            "amount": amount.to_string(),
            "authorization": {
                "erc3009Authorization": {
                    "validAfter": "0",
                    "validBefore": valid_before.to_string(),
                    "salt": salt,
                    "signature": signature,
                }
            }
        })
    }

    /// The `deposit` of a payload, by Permit2.
    pub fn deposit_by_permit2(&self, amount: u128) -> Value {
        let nonce = U256::from_be_bytes(PrivateKeySigner::random().to_bytes().0);
        let deadline = SystemClock.now().secs() + 60;
        let permitted = TokenPermissions {
            token: USDC,
            amount: U256::from(amount),
        };
        let message = PermitWitnessTransferFrom {
            permitted,
            spender: DEPOSIT_COLLECTORS[1],
            nonce,
            deadline: U256::from(deadline),
            witness: DepositWitness {
                channelId: self.id(),
            },
        };
        let domain: Eip712Domain = eip712_domain! {
            name: "Permit2", chain_id: CHAIN_ID, verifying_contract: PERMIT2,
        };
        let signature = sign(&self.payer.signer, &message.eip712_signing_hash(&domain));
        json!({
            "amount": amount.to_string(),
            "authorization": {
                "permit2Authorization": {
                    "from": self.payer.address,
                    "permitted": { "token": USDC, "amount": amount.to_string() },
                    "spender": DEPOSIT_COLLECTORS[1],
                    "nonce": nonce.to_string(),
                    "deadline": deadline.to_string(),
                    "witness": { "channelId": self.id() },
                    "signature": signature,
                }
            }
        })
    }

    /// A request with this deposit, and a voucher for this much in total.
    pub fn deposit_request(
        &self,
        deposit: &Value,
        max_claimable: u128,
        requirements: &PaymentRequirements,
    ) -> PaymentRequest {
        let payload = json!({
            "type": "deposit",
            "channelConfig": self.config,
            "voucher": self.voucher(max_claimable),
            "deposit": deposit,
        });
        request(&payload, requirements)
    }

    /// A request of the price with a deposit of this much by EIP-3009.
    pub fn deposit(&self, amount: u128) -> PaymentRequest {
        let deposit = self.deposit_by_eip3009(amount);
        self.deposit_request(&deposit, PRICE.into(), &self.requirements())
    }

    /// A request with a voucher for this much in total.
    pub fn voucher_request(
        &self,
        max_claimable: u128,
        requirements: &PaymentRequirements,
    ) -> PaymentRequest {
        let payload = json!({
            "type": "voucher",
            "channelConfig": self.config,
            "voucher": self.voucher(max_claimable),
        });
        request(&payload, requirements)
    }

    /// The seller's claim of these rows, with a signature of this channel's authorizer.
    pub fn claim(&self, rows: &[ClaimRow]) -> PaymentRequest {
        let digest = claim_digest(&domain_separator(CHAIN_ID), rows);
        let payload = json!({
            "type": "claim",
            "claims": rows,
            "claimAuthorizerSignature": sign(&self.authorizer, &digest),
        });
        request(&payload, &self.own_requirements())
    }

    /// The seller's claim of a row without a signature: the facilitator is the authorizer.
    pub fn delegated_claim(&self, rows: &[ClaimRow]) -> PaymentRequest {
        let payload = json!({ "type": "claim", "claims": rows });
        request(&payload, &self.own_requirements())
    }

    /// The request to pay the seller what it has claimed.
    pub fn sweep(&self) -> PaymentRequest {
        let payload = json!({
            "type": "settle",
            "receiver": self.config.receiver,
            "token": self.config.token,
        });
        request(&payload, &self.own_requirements())
    }

    /// The payload of a refund of this much, completed by the seller, with a last claim.
    pub fn refund_payload(&self, amount: u128, nonce: u64, claim: Option<&ClaimRow>) -> Value {
        let separator = domain_separator(CHAIN_ID);
        let rows: Vec<ClaimRow> = claim.into_iter().cloned().collect();
        let digest = refund_digest(&separator, &self.id(), U256::from(nonce), amount);
        let mut payload = json!({
            "type": "refund",
            "channelConfig": self.config,
            "voucher": self.voucher(claim.map_or(0, |row| row.total_claimed)),
            "amount": amount.to_string(),
            "refundNonce": nonce.to_string(),
            "claims": rows,
            "refundAuthorizerSignature": sign(&self.authorizer, &digest),
        });
        if !rows.is_empty() {
            let signature = sign(&self.authorizer, &claim_digest(&separator, &rows));
            payload["claimAuthorizerSignature"] = json!(signature);
        }
        payload
    }

    /// The request of that refund.
    pub fn refund(&self, amount: u128, nonce: u64, claim: Option<&ClaimRow>) -> PaymentRequest {
        let payload = self.refund_payload(amount, nonce, claim);
        request(&payload, &self.own_requirements())
    }

    fn terms(&self) -> Terms {
        let config = &self.config;
        Terms {
            payer: config.payer,
            payerAuthorizer: config.payer_authorizer,
            receiver: config.receiver,
            receiverAuthorizer: config.receiver_authorizer,
            token: config.token,
            withdrawDelay: alloy::primitives::aliases::U40::from(config.withdraw_delay),
            salt: config.salt,
        }
    }

    /// Announces that the payer takes back this much.
    pub async fn announce_withdrawal(&self, setting: &Setting, amount: u128) {
        let call = initiateWithdrawCall {
            config: self.terms(),
            amount,
        };
        self.send_as_payer(setting, call.abi_encode()).await;
    }

    /// Takes back what was announced.
    pub async fn withdraw(&self, setting: &Setting) {
        let call = finalizeWithdrawCall {
            config: self.terms(),
        };
        self.send_as_payer(setting, call.abi_encode()).await;
    }

    async fn send_as_payer(&self, setting: &Setting, call: Vec<u8>) {
        let payer = self.payer.address;
        let sent = setting.local.send(payer, BATCH_SETTLEMENT, call).await;
        sent.expect("a transaction that succeeds");
    }

    /// Makes the deposit of a request without the engine, by another account.
    pub async fn deposit_elsewhere(setting: &Setting, request: &PaymentRequest) {
        let payload = Value::Object(request.payload.tree());
        let config: ChannelConfig =
            serde_json::from_value(payload["channelConfig"].clone()).expect("terms");
        let channel = Self::new().with(|terms| *terms = config);
        let authorization = &payload["deposit"]["authorization"]["erc3009Authorization"];
        let number = |value: &Value| -> U256 {
            let text = value.as_str().expect("a text");
            text.parse().expect("a number")
        };
        let salt: B256 = serde_json::from_value(authorization["salt"].clone()).expect("a salt");
        let signature: Bytes =
            serde_json::from_value(authorization["signature"].clone()).expect("a signature");
        let data = (
            number(&authorization["validAfter"]),
            number(&authorization["validBefore"]),
            U256::from_be_bytes(salt.0),
            signature,
        );
        let call = depositCall {
            config: channel.terms(),
            amount: number(&payload["deposit"]["amount"]).to(),
            collector: DEPOSIT_COLLECTORS[0],
            collectorData: data.abi_encode_params().into(),
        };
        let sender = quittance_devnet::Evm::accounts()[6].address;
        let sent = setting
            .local
            .send(sender, BATCH_SETTLEMENT, call.abi_encode())
            .await;
        sent.expect("a transaction that succeeds");
    }
}

impl Default for Channel {
    fn default() -> Self {
        Self::new()
    }
}

/// The settings of a facilitator that keeps vouchers, with the first of its signers, and claims by
/// these rules.
pub fn keeping_vouchers(claims: ClaimRules) -> BatchConfig {
    let mut config = BatchConfig::default();
    config.authorizer = Some(Setting::signers()[0].address);
    config.keeps_vouchers = true;
    config.claims = claims;
    config
}

/// The facilitator, as the service calls it for a seller with a key.
pub struct BySeller(pub Engine);

#[async_trait]
impl Facilitator for BySeller {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        self.0.verify(&by_seller(request)).await
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        self.0.settle(&by_seller(request)).await
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        self.0.supported().await
    }
}

/// The request of the seller, by its key.
pub fn by_seller(request: &PaymentRequest) -> PaymentRequest {
    request.clone().by(RequestCaller::Known("seller".into()))
}

/// A request with this payload.
pub fn request(payload: &Value, requirements: &PaymentRequirements) -> PaymentRequest {
    let payload = Object::of(payload).expect("an object");
    crate::request(crate::payload_of(requirements, payload), requirements)
}

/// What the contract of channels has of USDC, in atomic units.
pub async fn deposited(setting: &Setting) -> U256 {
    let balance = setting.local.balance(USDC, BATCH_SETTLEMENT).await;
    balance.expect("a balance")
}

fn sign(key: &PrivateKeySigner, digest: &B256) -> Bytes {
    let signature = key.sign_hash_sync(digest).expect("a key in memory");
    signature.as_bytes().to_vec().into()
}
