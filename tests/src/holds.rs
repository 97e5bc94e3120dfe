//! Payments that are held, for the suites of `auth-capture`: what payers and sellers sign.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Eip712Domain, SolCall, SolEvent, SolStruct, eip712_domain};
use quittance_core::json::Object;
use quittance_core::wire::PaymentRequirements;
use quittance_core::{Clock, PaymentRequest, SystemClock};
use quittance_devnet::{AUTH_CAPTURE_ESCROW, Account, HOLD_COLLECTORS, PERMIT2, USDC};
use quittance_evm::abi::AuthCaptureEscrow as Escrow;
use quittance_evm::auth_capture::{
    Fee, HoldBalances, HoldTerms, SignedAct, SubmittedFee, bound_salt,
};
use serde_json::{Value, json};

use crate::evm::{PRICE, Setting};

alloy::sol! {
    #[derive(Debug)]
    struct ReceiveWithAuthorization {
        address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce;
    }
    struct TokenPermissions { address token; uint256 amount; }
    struct PermitTransferFrom {
        TokenPermissions permitted; address spender; uint256 nonce; uint256 deadline;
    }
    function approve(address spender, uint256 amount) external returns (bool);
}

/// The chain id of the local chain.
const CHAIN_ID: u64 = 84_532;

/// How long a hold can be captured, in seconds.
const CAPTURED_WITHIN_SECS: u64 = 3600;

/// How long a capture can be refunded after that, in seconds.
const REFUNDED_WITHIN_SECS: u64 = 3600;

/// The key that signs for the seller.
pub fn sellers_authorizer() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(0x5e)).expect("a key")
}

/// A hold of the buyer for the seller, with the keys of both sides.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Who pays.
    pub payer: Account,
    /// The key that signs for the seller.
    pub authorizer: PrivateKeySigner,
    /// What the seller requires.
    pub requirements: PaymentRequirements,
    /// The terms.
    pub terms: HoldTerms,
    /// The payer's random number.
    pub salt_nonce: B256,
    /// Whether the salt binds the hold to the authorizer.
    pub is_bound: bool,
}

impl Hold {
    /// A new hold of the price.
    pub fn new() -> Self {
        Self::of(&Setting::buyer(), PRICE)
    }

    /// A new hold of this much by this payer.
    pub fn of(payer: &Account, amount: u64) -> Self {
        let now = SystemClock.now().secs();
        let authorizer = sellers_authorizer();
        let salt_nonce = PrivateKeySigner::random().to_bytes();
        let terms = HoldTerms {
            operator: Setting::signers()[0].address,
            payer: payer.address,
            receiver: Setting::seller().address,
            token: USDC,
            max_amount: amount.into(),
            pre_approval_expiry: now + 60,
            authorization_expiry: now + CAPTURED_WITHIN_SECS,
            refund_expiry: now + CAPTURED_WITHIN_SECS + REFUNDED_WITHIN_SECS,
            min_fee_bps: 0,
            max_fee_bps: 0,
            fee_receiver: Address::ZERO,
            salt: bound_salt(authorizer.address(), salt_nonce),
        };
        let extra = json!({
            "name": "USDC",
            "version": "2",
            "authCaptureEscrow": AUTH_CAPTURE_ESCROW,
            "captureAuthorizer": terms.operator,
            "receiverAuthorizer": authorizer.address(),
            "captureDeadline": terms.authorization_expiry,
            "refundDeadline": terms.refund_expiry,
            "feeRecipient": terms.fee_receiver,
            "minFeeBps": 0,
            "maxFeeBps": 0,
            "paymentFlow": "escrow",
        });
        let requirements = PaymentRequirements {
            scheme: "auth-capture".to_owned(),
            amount: amount.to_string(),
            extra: Some(Object::of(&extra).expect("an object")),
            pay_to: terms.receiver.to_string(),
            max_timeout_seconds: 60,
            ..Setting::requirements()
        };
        Self {
            payer: payer.clone(),
            authorizer,
            requirements,
            terms,
            salt_nonce,
            is_bound: true,
        }
    }

    /// The same hold with another field of the requirements' `extra`. The terms stay as they are.
    #[must_use]
    pub fn with_extra(mut self, field: &str, value: Value) -> Self {
        let mut extra = self.requirements.extra.expect("it is set").tree();
        extra.insert(field.to_owned(), value);
        self.requirements.extra = Some(Object::of(&extra).expect("an object"));
        self
    }

    /// The same hold with other terms. The requirements stay as they are.
    #[must_use]
    pub fn with_terms(mut self, change: impl FnOnce(&mut HoldTerms)) -> Self {
        change(&mut self.terms);
        self
    }

    /// The same hold with this authorizer, which need not be the key that signs.
    #[must_use]
    pub fn authorized_by(mut self, authorizer: Address) -> Self {
        self.terms.salt = bound_salt(authorizer, self.salt_nonce);
        self.with_extra("receiverAuthorizer", json!(authorizer))
    }

    /// The same hold, which is bound to no authorizer.
    #[must_use]
    pub fn unbound(mut self) -> Self {
        self.terms.salt = self.salt_nonce;
        self.is_bound = false;
        self.with_extra("receiverAuthorizer", Value::Null)
    }

    /// The same hold with this random number of the payer.
    #[must_use]
    pub fn with_salt_nonce(mut self, salt_nonce: B256) -> Self {
        self.salt_nonce = salt_nonce;
        self.terms.salt = bound_salt(self.authorizer.address(), salt_nonce);
        self
    }

    /// The same hold with fees of at least and at most this much, in hundredths of a percent.
    #[must_use]
    pub fn with_fees(self, least: u16, most: u16, receiver: Address) -> Self {
        self.with_terms(|terms| {
            (terms.min_fee_bps, terms.max_fee_bps) = (least, most);
            terms.fee_receiver = receiver;
        })
        .with_extra("minFeeBps", json!(least))
        .with_extra("maxFeeBps", json!(most))
        .with_extra("feeRecipient", json!(receiver))
    }

    /// The same hold with these deadlines, in seconds since 1970.
    #[must_use]
    pub fn with_deadlines(self, capture: u64, refund: u64) -> Self {
        self.with_terms(|terms| {
            (terms.authorization_expiry, terms.refund_expiry) = (capture, refund);
        })
        .with_extra("captureDeadline", json!(capture))
        .with_extra("refundDeadline", json!(refund))
    }

    /// The same payment, charged at once.
    #[must_use]
    pub fn charged(self) -> Self {
        self.with_extra("paymentFlow", json!("authorization"))
    }

    /// Its identity.
    pub fn id(&self) -> B256 {
        self.terms.id(CHAIN_ID, AUTH_CAPTURE_ESCROW)
    }

    /// Its balances, by the contract: what can be captured and what can be refunded.
    pub async fn balances(&self, setting: &Setting) -> HoldBalances {
        let call = Escrow::paymentStateCall {
            paymentInfoHash: self.id(),
        };
        let state = setting
            .local
            .call(AUTH_CAPTURE_ESCROW, call.abi_encode())
            .await;
        let state = state.expect("a reply");
        let state = Escrow::paymentStateCall::abi_decode_returns(&state).expect("a state");
        HoldBalances {
            capturable: state.capturableAmount.to(),
            refundable: state.refundableAmount.to(),
        }
    }

    /// How many times the contract has logged each of these for the hold: authorized, charged,
    /// captured with this amount, voided, refunded with this amount.
    pub async fn logged(&self, setting: &Setting, captured: u128, refunded: u128) -> [u64; 5] {
        let filter = json!([{
            "fromBlock": "0x0", "address": AUTH_CAPTURE_ESCROW, "topics": [null, self.id()],
        }]);
        let logs: Vec<alloy::rpc::types::Log> = setting
            .local
            .rpc("eth_getLogs", filter)
            .await
            .expect("logs");
        let mut counts = [0; 5];
        for log in logs {
            let log = &log.inner.data;
            let is = |amount: U256, expected: u128| u64::from(amount == U256::from(expected));
            counts[0] += u64::from(Escrow::PaymentAuthorized::decode_log_data(log).is_ok());
            counts[1] += u64::from(Escrow::PaymentCharged::decode_log_data(log).is_ok());
            counts[2] += Escrow::PaymentCaptured::decode_log_data(log)
                .map_or(0, |event| is(event.amount, captured));
            counts[3] += u64::from(Escrow::PaymentVoided::decode_log_data(log).is_ok());
            counts[4] += Escrow::PaymentRefunded::decode_log_data(log)
                .map_or(0, |event| is(event.amount, refunded));
        }
        counts
    }

    /// The payload that the payer signs, by EIP-3009.
    pub fn payload(&self) -> Value {
        let terms = &self.terms;
        let message = ReceiveWithAuthorization {
            from: self.payer.address,
            to: HOLD_COLLECTORS[0],
            value: U256::from(terms.max_amount),
            validAfter: U256::ZERO,
            validBefore: U256::from(terms.pre_approval_expiry),
            nonce: terms.nonce(CHAIN_ID, AUTH_CAPTURE_ESCROW),
        };
        let domain: Eip712Domain = eip712_domain! {
            name: "USDC", version: "2", chain_id: CHAIN_ID, verifying_contract: USDC,
        };
        let signature = sign(&self.payer.signer, &message.eip712_signing_hash(&domain));
        self.with_salt(json!({
            "authorization": {
                "from": message.from,
                "to": message.to,
                "value": message.value.to_string(),
                "validAfter": "0",
                "validBefore": message.validBefore.to_string(),
                "nonce": message.nonce,
            },
            "signature": signature,
        }))
    }

    /// The payload that the payer signs, by Permit2.
    pub fn permit_payload(&self) -> Value {
        let terms = &self.terms;
        let message = PermitTransferFrom {
            permitted: TokenPermissions {
                token: USDC,
                amount: U256::from(terms.max_amount),
            },
            spender: HOLD_COLLECTORS[1],
            nonce: terms.nonce(CHAIN_ID, AUTH_CAPTURE_ESCROW).into(),
            deadline: U256::from(terms.pre_approval_expiry),
        };
        let domain: Eip712Domain = eip712_domain! {
            name: "Permit2", chain_id: CHAIN_ID, verifying_contract: PERMIT2,
        };
        let signature = sign(&self.payer.signer, &message.eip712_signing_hash(&domain));
        self.with_salt(json!({
            "permit2Authorization": {
                "from": self.payer.address,
                "permitted": { "token": USDC, "amount": terms.max_amount.to_string() },
                "spender": message.spender,
                "nonce": message.nonce.to_string(),
                "deadline": message.deadline.to_string(),
            },
            "signature": signature,
        }))
    }

    fn with_salt(&self, mut payload: Value) -> Value {
        payload["salt"] = json!(self.terms.salt);
        if self.is_bound {
            payload["saltNonce"] = json!(self.salt_nonce);
        }
        payload
    }

    /// A request with this payload.
    pub fn request(&self, payload: &Value) -> PaymentRequest {
        let payload = Object::of(payload).expect("an object");
        let payload = crate::payload_of(&self.requirements, payload);
        crate::request(payload, &self.requirements)
    }

    /// The request to hold it.
    pub fn authorize(&self) -> PaymentRequest {
        self.request(&self.payload())
    }

    /// The request to hold it, by Permit2.
    pub fn authorize_by_permit2(&self) -> PaymentRequest {
        let hold = self.clone();
        let hold = hold.with_extra("assetTransferMethod", json!("permit2"));
        hold.request(&hold.permit_payload())
    }

    /// The smallest fee of an amount.
    pub fn fee(&self, amount: u128) -> SubmittedFee {
        SubmittedFee {
            fee: Fee::Amount(amount * u128::from(self.terms.min_fee_bps) / 10_000),
            receiver: self.terms.fee_receiver,
        }
    }

    fn signed(&self, act: SignedAct) -> Bytes {
        let digest = act.digest(CHAIN_ID, self.terms.operator, self.id());
        sign(&self.authorizer, &digest)
    }

    /// The payload that charges this much of a payment, which is not held.
    pub fn charge_payload(&self, amount: u128) -> Value {
        let mut payload = self.payload();
        let signature: Bytes =
            serde_json::from_value(payload["signature"].clone()).expect("a signature");
        let fee = self.fee(amount);
        let signed = self.signed(SignedAct::Charge {
            amount,
            collector: HOLD_COLLECTORS[0],
            data_hash: keccak256(signature),
            fee,
        });
        payload["amount"] = json!(amount.to_string());
        payload["feeAmount"] = json!(fee.of(amount).to_string());
        payload["feeReceiver"] = json!(fee.receiver);
        payload["authorizerSignature"] = json!(signed);
        payload
    }

    /// The request to charge this much, by the payer's authorization for this hold.
    pub fn charge(&self, amount: u128) -> PaymentRequest {
        let payload = self.charge_payload(amount);
        self.clone().charged().request(&payload)
    }

    fn later(&self, kind: &str) -> Value {
        json!({ "type": kind, "paymentInfo": self.terms, "saltNonce": self.salt_nonce })
    }

    /// The payload that captures this much, if the balances are as expected.
    pub fn capture_payload(&self, amount: u128, expected: HoldBalances) -> Value {
        let fee = self.fee(amount);
        let mut payload = self.later("capture");
        payload["amount"] = json!(amount.to_string());
        payload["feeAmount"] = json!(fee.of(amount).to_string());
        payload["feeReceiver"] = json!(fee.receiver);
        payload["expectedCapturableAmount"] = json!(expected.capturable.to_string());
        payload["expectedRefundableAmount"] = json!(expected.refundable.to_string());
        payload["authorizerSignature"] = json!(self.signed(SignedAct::Capture {
            amount,
            fee,
            expected
        }));
        payload
    }

    /// The request of that capture.
    pub fn capture(&self, amount: u128, expected: HoldBalances) -> PaymentRequest {
        self.request(&self.capture_payload(amount, expected))
    }

    /// The request to capture this much and to return the rest.
    pub fn capture_and_void(&self, amount: u128, expected: HoldBalances) -> PaymentRequest {
        let mut payload = self.capture_payload(amount, expected);
        payload["voidAuthorizerSignature"] = json!(self.signed(SignedAct::Void));
        self.request(&payload)
    }

    /// The request to return what is held.
    pub fn void(&self) -> PaymentRequest {
        let mut payload = self.later("void");
        payload["authorizerSignature"] = json!(self.signed(SignedAct::Void));
        self.request(&payload)
    }

    /// The request to pay back this much, if the balances are as expected.
    pub fn refund(&self, amount: u128, expected: HoldBalances) -> PaymentRequest {
        let mut payload = self.later("refund");
        payload["amount"] = json!(amount.to_string());
        payload["expectedCapturableAmount"] = json!(expected.capturable.to_string());
        payload["expectedRefundableAmount"] = json!(expected.refundable.to_string());
        payload["authorizerSignature"] = json!(self.signed(SignedAct::Refund {
            amount,
            collector: HOLD_COLLECTORS[2],
            expected,
        }));
        self.request(&payload)
    }

    /// Takes back what is held, as the payer can after the deadline.
    pub async fn reclaim(&self, setting: &Setting) {
        let call = Escrow::reclaimCall {
            paymentInfo: self.terms.to_abi(),
        };
        let (payer, data) = (self.payer.address, call.abi_encode());
        let sent = setting.local.send(payer, AUTH_CAPTURE_ESCROW, data).await;
        sent.expect("a transaction that succeeds");
    }
}

impl Default for Hold {
    fn default() -> Self {
        Self::new()
    }
}

/// Balances of a hold, in atomic units.
pub fn balances(capturable: u128, refundable: u128) -> HoldBalances {
    HoldBalances {
        capturable,
        refundable,
    }
}

/// What the contract of holds has of USDC, in atomic units.
pub async fn held(setting: &Setting) -> U256 {
    let balance = setting.local.balance(USDC, AUTH_CAPTURE_ESCROW).await;
    balance.expect("a balance")
}

/// Lets the operator pay refunds from its own tokens.
pub async fn fund_refunds(setting: &Setting) {
    let call = approveCall {
        spender: HOLD_COLLECTORS[2],
        amount: U256::MAX,
    };
    let operator = Setting::signers()[0].address;
    let sent = setting.local.send(operator, USDC, call.abi_encode()).await;
    sent.expect("a transaction that succeeds");
}

/// Holds the payment of a request without the engine, by the operator's account.
pub async fn authorize_elsewhere(setting: &Setting, request: &PaymentRequest) {
    let payload = Value::Object(request.payload.tree());
    let extra = Value::Object(
        request
            .requirements
            .extra
            .as_ref()
            .expect("an extra")
            .tree(),
    );
    let address =
        |value: &Value| -> Address { serde_json::from_value(value.clone()).expect("an address") };
    let authorization = &payload["authorization"];
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let terms = HoldTerms {
        operator: address(&extra["captureAuthorizer"]),
        payer: address(&authorization["from"]),
        receiver: request.requirements.pay_to.parse().expect("an address"),
        token: request.requirements.asset.parse().expect("an address"),
        max_amount: text(&authorization["value"]).parse().expect("an amount"),
        pre_approval_expiry: text(&authorization["validBefore"]).parse().expect("a time"),
        authorization_expiry: extra["captureDeadline"].as_u64().expect("a time"),
        refund_expiry: extra["refundDeadline"].as_u64().expect("a time"),
        min_fee_bps: 0,
        max_fee_bps: 0,
        fee_receiver: address(&extra["feeRecipient"]),
        salt: serde_json::from_value(payload["salt"].clone()).expect("a salt"),
    };
    let call = Escrow::authorizeCall {
        paymentInfo: terms.to_abi(),
        amount: U256::from(terms.max_amount),
        tokenCollector: HOLD_COLLECTORS[0],
        collectorData: serde_json::from_value(payload["signature"].clone()).expect("a signature"),
    };
    let (operator, data) = (terms.operator, call.abi_encode());
    let sent = setting
        .local
        .send(operator, AUTH_CAPTURE_ESCROW, data)
        .await;
    sent.expect("a transaction that succeeds");
}

fn sign(key: &PrivateKeySigner, digest: &B256) -> Bytes {
    let signature = key.sign_hash_sync(digest).expect("a key in memory");
    signature.as_bytes().to_vec().into()
}
