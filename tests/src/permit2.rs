//! Payments by Permit2, for the suites of the schemes that make them.

use alloy::hex::encode_prefixed;
use alloy::primitives::{Address, B256, Bytes, U256, uint};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Eip712Domain, SolCall, SolStruct, eip712_domain};
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, Rest, SupportedKind};
use quittance_core::{Clock, Offer, Payer, PaymentRequest, Reason, SystemClock};
use quittance_devnet::{
    Account, EXACT_PERMIT2_PROXY, Evm as Local, PERMIT2, UPTO_PERMIT2_PROXY, USDC,
};
use quittance_evm::{ExactPayer, UptoOffer, UptoPayer, reason};
use serde_json::{Value, json};

use crate::evm::{PRICE, Setting, set, set_required, wrapped};

/// The message and the call of EIP-2612.
mod eip2612 {
    alloy::sol! {
        struct Permit {
            address owner; address spender; uint256 value; uint256 nonce; uint256 deadline;
        }
        function permit(
            address owner, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r,
            bytes32 s
        ) external;
    }
}

/// The calls of tokens.
mod token {
    alloy::sol! {
        function approve(address spender, uint256 amount) external returns (bool);
        function allowance(address owner, address spender) external view returns (uint256);
    }
}

/// The messages and calls of the scheme `exact`.
mod exact {
    alloy::sol! {
        struct TokenPermissions { address token; uint256 amount; }
        struct Witness { address to; uint256 validAfter; }
        struct PermitWitnessTransferFrom {
            TokenPermissions permitted; address spender; uint256 nonce; uint256 deadline;
            Witness witness;
        }
        struct PermitTransferFrom { TokenPermissions permitted; uint256 nonce; uint256 deadline; }
        function settle(
            PermitTransferFrom permit, address owner, Witness witness, bytes signature
        ) external;
    }
}

/// The messages and calls of the scheme `upto`.
mod upto {
    alloy::sol! {
        struct TokenPermissions { address token; uint256 amount; }
        struct Witness { address to; address facilitator; uint256 validAfter; }
        struct PermitWitnessTransferFrom {
            TokenPermissions permitted; address spender; uint256 nonce; uint256 deadline;
            Witness witness;
        }
        struct PermitTransferFrom { TokenPermissions permitted; uint256 nonce; uint256 deadline; }
        function settle(
            PermitTransferFrom permit, uint256 amount, address owner, Witness witness,
            bytes signature
        ) external;
    }
}

/// Where a request has the signature.
pub const SIGNATURE: &str = "/paymentPayload/payload/signature";

/// Where a request has the permit.
pub const PERMIT: &str = "/paymentPayload/payload/permit2Authorization";

/// A permit that is not signed yet.
#[derive(Debug, Clone)]
pub struct Permit {
    /// The token.
    pub token: Address,
    /// The most that may be moved, in atomic units.
    pub amount: U256,
    /// The contract that may use it.
    pub spender: Address,
    /// Its nonce.
    pub nonce: U256,
    /// The last block time at which it can be used, in seconds since 1970.
    pub deadline: U256,
    /// The recipient, in the witness.
    pub to: Address,
    /// The facilitator in the witness, which only `upto` has.
    pub facilitator: Option<Address>,
    /// The first block time at which it can be used, in the witness.
    pub valid_after: U256,
}

impl Permit {
    /// A permit of the price for the seller, with a new nonce, which is valid for a minute.
    pub fn new(spender: Address, facilitator: Option<Address>) -> Self {
        Self {
            token: USDC,
            amount: U256::from(PRICE),
            spender,
            nonce: new_nonce(),
            deadline: U256::from(SystemClock.now().secs() + 60),
            to: Setting::seller().address,
            facilitator,
            valid_after: U256::ZERO,
        }
    }

    /// What the owner signs.
    pub fn digest(&self) -> B256 {
        let domain: Eip712Domain = eip712_domain! {
            name: "Permit2", chain_id: 84532, verifying_contract: PERMIT2,
        };
        let (token, amount, to) = (self.token, self.amount, self.to);
        match self.facilitator {
            None => exact::PermitWitnessTransferFrom {
                permitted: exact::TokenPermissions { token, amount },
                spender: self.spender,
                nonce: self.nonce,
                deadline: self.deadline,
                witness: exact::Witness {
                    to,
                    validAfter: self.valid_after,
                },
            }
            .eip712_signing_hash(&domain),
            Some(facilitator) => upto::PermitWitnessTransferFrom {
                permitted: upto::TokenPermissions { token, amount },
                spender: self.spender,
                nonce: self.nonce,
                deadline: self.deadline,
                witness: upto::Witness {
                    to,
                    facilitator,
                    validAfter: self.valid_after,
                },
            }
            .eip712_signing_hash(&domain),
        }
    }

    /// A key's signature of it.
    pub fn signature(&self, key: &PrivateKeySigner) -> [u8; 65] {
        let signature = key.sign_hash_sync(&self.digest());
        signature.expect("a key in memory").as_bytes()
    }

    /// A request with this permit of an account, and a signature of it.
    pub fn request(
        &self,
        owner: Address,
        signature: &[u8],
        requirements: &PaymentRequirements,
    ) -> PaymentRequest {
        let mut witness = json!({ "to": self.to, "validAfter": self.valid_after.to_string() });
        if let Some(facilitator) = self.facilitator {
            witness["facilitator"] = json!(facilitator);
        }
        let payload = json!({
            "signature": encode_prefixed(signature),
            "permit2Authorization": {
                "from": owner,
                "permitted": { "token": self.token, "amount": self.amount.to_string() },
                "spender": self.spender,
                "nonce": self.nonce.to_string(),
                "deadline": self.deadline.to_string(),
                "witness": witness,
            }
        });
        let payload = Object::of(&payload).expect("an object");
        crate::request(crate::payload_of(requirements, payload), requirements)
    }
}

/// A nonce that no other permit has.
fn new_nonce() -> U256 {
    U256::from_be_bytes(PrivateKeySigner::random().to_bytes().0)
}

/// A scheme that pays by permits, as a seller requires it.
pub struct Permits {
    /// What the seller requires.
    pub requirements: PaymentRequirements,
    /// The scheme's payer with this key.
    pub payer: fn(PrivateKeySigner) -> Box<dyn Payer>,
    /// The scheme's proxy.
    pub proxy: Address,
    /// The facilitator that permits name.
    pub facilitator: Option<Address>,
}

impl Permits {
    /// Of the scheme `exact`.
    pub fn exact() -> Self {
        let extra = json!({ "name": "USDC", "version": "2", "assetTransferMethod": "permit2" });
        let requirements = PaymentRequirements {
            extra: Some(Object::of(&extra).expect("an object")),
            ..Setting::requirements()
        };
        Self {
            requirements,
            payer: |key| Box::new(ExactPayer::new(key)),
            proxy: EXACT_PERMIT2_PROXY,
            facilitator: None,
        }
    }

    /// Of the scheme `upto`, for the first of the facilitator's signers.
    pub fn upto() -> Self {
        let facilitator = Setting::signers()[0].address;
        Self {
            requirements: upto_requirements(facilitator),
            payer: |key| Box::new(UptoPayer::new(key)),
            proxy: UPTO_PERMIT2_PROXY,
            facilitator: Some(facilitator),
        }
    }

    /// A payment of the buyer for changed requirements, properly signed.
    pub async fn signed_for(
        &self,
        change: impl FnOnce(&mut PaymentRequirements),
    ) -> PaymentRequest {
        let mut requirements = self.requirements.clone();
        change(&mut requirements);
        let payer = (self.payer)(Setting::buyer().signer);
        crate::pay(payer.as_ref(), &requirements).await
    }

    /// A permit signed by this account, with a part of it changed before it is signed.
    pub fn permit_by(&self, buyer: &Account, change: impl FnOnce(&mut Permit)) -> PaymentRequest {
        let mut permit = Permit::new(self.proxy, self.facilitator);
        change(&mut permit);
        let signature = permit.signature(&buyer.signer);
        permit.request(buyer.address, &signature, &self.requirements)
    }

    /// Two payments that differ only in their payer and its signature.
    pub fn alike(&self) -> [PaymentRequest; 2] {
        let nonce = new_nonce();
        buyers().map(|buyer| self.permit_by(&buyer, |permit| permit.nonce = nonce))
    }

    /// Payments that every such scheme refuses, each with its name and the reason. The rows 31, 65
    /// and 66 of docs/attacks.md are among them.
    pub async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        let good = self.signed_for(|_| ()).await;
        let (buyer, other) = (Setting::buyer(), Local::accounts()[5].address);
        let now = SystemClock.now().secs();
        let eip3009 = Value::Object(Setting::request().await.payload.tree());
        let permit = |change: fn(&mut Permit)| self.permit_by(&buyer, change);
        let until =
            |deadline: u64| self.permit_by(&buyer, |permit| permit.deadline = U256::from(deadline));
        let paid_by = async |key: PrivateKeySigner| {
            let payer = (self.payer)(key);
            crate::pay(payer.as_ref(), &self.requirements).await
        };
        vec![
            (
                "an EIP-3009 payload",
                set(&good, "/paymentPayload/payload", eip3009),
                reason::UNSUPPORTED_PAYLOAD_TYPE,
            ),
            (
                "another spender",
                permit(|permit| permit.spender = Address::repeat_byte(7)),
                reason::PERMIT2_SPENDER,
            ),
            (
                "another token",
                permit(|permit| permit.token = Address::repeat_byte(7)),
                reason::PERMIT2_TOKEN_MISMATCH,
            ),
            (
                "another recipient in the witness",
                permit(|permit| permit.to = Address::repeat_byte(7)),
                reason::PERMIT2_RECIPIENT_MISMATCH,
            ),
            (
                "less than required",
                permit(|permit| permit.amount = U256::from(PRICE - 1)),
                reason::PERMIT2_AMOUNT_MISMATCH,
            ),
            (
                "more than required",
                permit(|permit| permit.amount = U256::from(PRICE + 1)),
                reason::PERMIT2_AMOUNT_MISMATCH,
            ),
            (
                "for another seller",
                set_required(&good, "payTo", json!(other)),
                reason::PERMIT2_RECIPIENT_MISMATCH,
            ),
            ("expired", until(now - 1), reason::PERMIT2_DEADLINE_EXPIRED),
            (
                "about to expire",
                until(now + 3),
                reason::PERMIT2_DEADLINE_EXPIRED,
            ),
            (
                "valid for years",
                until(now + 20 * 365 * 24 * 3600),
                reason::PERMIT2_DEADLINE_EXPIRED,
            ),
            (
                "not yet valid",
                permit(|permit| permit.valid_after = permit.deadline),
                reason::PERMIT2_NOT_YET_VALID,
            ),
            (
                "a payer without money",
                paid_by(PrivateKeySigner::random()).await,
                reason::PERMIT2_INSUFFICIENT_BALANCE,
            ),
            (
                "a payer that did not approve Permit2",
                paid_by(Local::accounts()[4].signer.clone()).await,
                reason::PERMIT2_ALLOWANCE_REQUIRED,
            ),
            (
                "a nonce that was not signed",
                set(&good, &format!("{PERMIT}/nonce"), json!("9999")),
                reason::PERMIT2_SIGNATURE,
            ),
            (
                "an account that is not deployed",
                set(&good, SIGNATURE, json!(wrapped())),
                reason::FACTORY_NOT_ALLOWED,
            ),
            (
                "an empty signature",
                set(&good, SIGNATURE, json!("0x")),
                reason::PERMIT2_SIGNATURE,
            ),
            ("a high s", twin(&good), reason::PERMIT2_SIGNATURE),
        ]
    }

    /// A payment of nothing, and one to the payer itself.
    pub async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        let nothing = self.signed_for(|terms| terms.amount = "0".to_owned());
        let buyer = Setting::buyer().address.to_string();
        let to_itself = self.signed_for(|terms| terms.pay_to = buyer);
        [
            (nothing.await, Reason::AMOUNT_TOO_LOW),
            (to_itself.await, Reason::INVALID_PAYMENT_REQUIREMENTS),
        ]
    }
}

/// The requirements of `upto` that name this account of the facilitator.
pub fn upto_requirements(facilitator: Address) -> PaymentRequirements {
    let seller = Setting::seller().address.to_string();
    let offer = UptoOffer::usdc("base-sepolia", "0.01", &seller).expect("an offer");
    let extra = json!({ "facilitatorAddress": facilitator });
    let kind = SupportedKind {
        x402_version: 2,
        scheme: "upto".to_owned(),
        network: offer.network().id().to_owned(),
        extra: Some(Object::of(&extra).expect("an object")),
        rest: Rest::default(),
    };
    offer.requirements(&kind).expect("requirements")
}

/// An approval of Permit2 that is not signed yet, for the extension `eip2612GasSponsoring`.
#[derive(Debug, Clone)]
pub struct Approval {
    /// The token, whose domain it is signed for.
    pub token: Address,
    /// The account that signs it.
    pub owner: Address,
    /// The account that may move the tokens.
    pub spender: Address,
    /// The most that may be moved, in atomic units.
    pub value: U256,
    /// The owner's nonce at the token.
    pub nonce: U256,
    /// The last block time at which it can be submitted, in seconds since 1970.
    pub deadline: U256,
}

impl Approval {
    /// The first approval of an owner, for what a permit needs.
    pub fn new(owner: Address, permit: &Permit) -> Self {
        Self {
            token: permit.token,
            owner,
            spender: PERMIT2,
            value: permit.amount,
            nonce: U256::ZERO,
            deadline: permit.deadline,
        }
    }

    /// A key's signature of it.
    pub fn signature(&self, key: &PrivateKeySigner) -> [u8; 65] {
        let domain = eip712_domain! {
            name: "USDC", version: "2", chain_id: 84532, verifying_contract: self.token,
        };
        let message = eip2612::Permit {
            owner: self.owner,
            spender: self.spender,
            value: self.value,
            nonce: self.nonce,
            deadline: self.deadline,
        };
        let signature = key.sign_hash_sync(&message.eip712_signing_hash(&domain));
        signature.expect("a key in memory").as_bytes()
    }

    /// The request with this approval, signed by a key.
    pub fn beside(&self, request: &PaymentRequest, key: &PrivateKeySigner) -> PaymentRequest {
        let info = json!({
            "description": "what the seller offered", "version": "1",
            "from": self.owner, "asset": self.token, "spender": self.spender,
            "amount": self.value.to_string(), "nonce": self.nonce.to_string(),
            "deadline": self.deadline.to_string(),
            "signature": encode_prefixed(self.signature(key)),
        });
        let schema = json!({ "type": "object" });
        with_extensions(
            request,
            json!({ GAS_SPONSORING: { "info": info, "schema": schema } }),
        )
    }

    /// The call of the token that submits it.
    pub fn call(&self, key: &PrivateKeySigner) -> Vec<u8> {
        let signature = self.signature(key);
        let call = eip2612::permitCall {
            owner: self.owner,
            spender: self.spender,
            value: self.value,
            deadline: self.deadline,
            v: signature[64],
            r: B256::from_slice(&signature[..32]),
            s: B256::from_slice(&signature[32..64]),
        };
        call.abi_encode()
    }
}

/// The extension by which a payer signs an approval of Permit2.
pub const GAS_SPONSORING: &str = "eip2612GasSponsoring";

/// Where a request has the approval.
pub const APPROVAL: &str = "/paymentPayload/extensions/eip2612GasSponsoring/info";

/// The request with these extensions.
pub fn with_extensions(request: &PaymentRequest, extensions: Value) -> PaymentRequest {
    let mut tree: Value = serde_json::from_str(request.text()).expect("a request is JSON");
    tree["paymentPayload"]["extensions"] = extensions;
    PaymentRequest::decode(tree.to_string().as_bytes()).expect("a request")
}

/// The payment with the other s, which Permit2 would accept.
pub fn twin(request: &PaymentRequest) -> PaymentRequest {
    let payload = request.payload.tree();
    let signature = payload["signature"].as_str().expect("a text");
    let bytes = alloy::hex::decode(signature).expect("hexadecimal digits");
    let other = encode_prefixed(with_other_s(&bytes));
    set(request, SIGNATURE, json!(other))
}

/// The other signature of 65 bytes that recovers to the same key.
pub fn with_other_s(signature: &[u8]) -> Vec<u8> {
    const ORDER: U256 =
        uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);
    let mut bytes = signature.to_vec();
    let s = ORDER - U256::from_be_slice(&bytes[32..64]);
    bytes[32..64].copy_from_slice(&s.to_be_bytes::<32>());
    bytes[64] = 55 - bytes[64];
    bytes
}

/// The buyer, and another account with money.
fn buyers() -> [Account; 2] {
    [Setting::buyer(), Local::accounts()[3].clone()]
}

/// A local chain on which the buyers have approved Permit2.
pub async fn approved() -> Setting {
    let setting = Setting::start().await;
    for buyer in buyers() {
        let approved = setting.local.approve_permit2(USDC, buyer.address).await;
        approved.expect("an approval");
    }
    setting
}

/// Allows Permit2 to move this much of an account's USDC.
pub async fn allow(setting: &Setting, owner: Address, amount: u64) {
    let (spender, amount) = (PERMIT2, U256::from(amount));
    let call = token::approveCall { spender, amount }.abi_encode();
    let sent = setting.local.send(owner, USDC, call).await;
    sent.expect("a transaction that succeeds");
}

/// How much of an account's USDC Permit2 may move.
pub async fn allowance(setting: &Setting, owner: Address) -> U256 {
    let spender = PERMIT2;
    let call = token::allowanceCall { owner, spender }.abi_encode();
    let data = setting.local.call(USDC, call).await;
    U256::from_be_slice(&data.expect("a reply"))
}

/// Settles this much of a permit without the engine: by another account, or for `upto` by the
/// facilitator's, as another program with its key can. No other account can settle that.
pub async fn settle_elsewhere(setting: &Setting, request: &PaymentRequest, amount: u64) {
    let payload = request.payload.tree();
    let permit = &payload["permit2Authorization"];
    let witness = &permit["witness"];
    let address =
        |value: &Value| -> Address { serde_json::from_value(value.clone()).expect("an address") };
    let number = |value: &Value| -> U256 {
        let text = value.as_str().expect("a text");
        text.parse().expect("a number")
    };
    let signature: Bytes =
        serde_json::from_value(payload["signature"].clone()).expect("a signature");
    let (owner, spender) = (address(&permit["from"]), address(&permit["spender"]));
    let (nonce, deadline) = (number(&permit["nonce"]), number(&permit["deadline"]));
    let token = address(&permit["permitted"]["token"]);
    let permitted = number(&permit["permitted"]["amount"]);
    let (to, valid_after) = (address(&witness["to"]), number(&witness["validAfter"]));
    let facilitator = witness.get("facilitator").map(address);
    let call = match facilitator {
        None => exact::settleCall {
            permit: exact::PermitTransferFrom {
                permitted: exact::TokenPermissions {
                    token,
                    amount: permitted,
                },
                nonce,
                deadline,
            },
            owner,
            witness: exact::Witness {
                to,
                validAfter: valid_after,
            },
            signature,
        }
        .abi_encode(),
        Some(facilitator) => upto::settleCall {
            permit: upto::PermitTransferFrom {
                permitted: upto::TokenPermissions {
                    token,
                    amount: permitted,
                },
                nonce,
                deadline,
            },
            amount: U256::from(amount),
            owner,
            witness: upto::Witness {
                to,
                facilitator,
                validAfter: valid_after,
            },
            signature,
        }
        .abi_encode(),
    };
    let sender = facilitator.unwrap_or_else(|| Local::accounts()[6].address);
    let sent = setting.local.send(sender, spender, call).await;
    sent.expect("a transaction that succeeds");
}
