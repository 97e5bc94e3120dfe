//! The payloads of the acts, as their JSON has them.

use alloy::primitives::{Address, B256, Bytes, U256, hex};
use quittance_core::json::Object;
use quittance_core::{Amount, Malformed, Refusal, Rejection};
use serde::{Deserialize, Deserializer, de};

use super::channel::ChannelConfig;
use super::reason::PAYLOAD_TYPE;
use super::units::{self, number};
use super::voucher::{ClaimRow, Voucher};
use crate::hex::{Hex, HexBytes};
use crate::permit2::{PermitJson, WitnessPermit};
use crate::signature::{DEPLOYED_SIGNATURE_MAX, SIGNATURE_MAX};

/// The name of the payload in errors.
const PAYLOAD: &str = "paymentPayload.payload";

/// What a payload asks for.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// To deposit into a channel, and to pay by a voucher of it.
    Deposit(Box<DepositAct>),
    /// To pay by a voucher.
    Voucher(Box<VoucherAct>),
    /// To pay back what is left of a channel.
    Refund(Box<RefundAct>),
    /// To claim what channels owe.
    Claim(ClaimAct),
    /// To pay a receiver what it has claimed.
    Sweep(SweepAct),
}

/// The payload of a deposit.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DepositAct {
    #[serde(rename = "channelConfig")]
    pub(super) config: ChannelConfig,
    pub(super) voucher: Voucher,
    pub(super) deposit: Deposit,
}

/// The deposit in a payload.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Deposit {
    #[serde(with = "units")]
    pub(super) amount: u128,
    pub(super) authorization: Authorizations,
}

/// By which authorization the deposit is made.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Authorizations {
    #[serde(default, rename = "erc3009Authorization")]
    pub(super) eip3009: Option<ReceiveAuthorization>,
    #[serde(default, rename = "permit2Authorization")]
    pub(super) permit2: Option<DepositPermit>,
}

/// An EIP-3009 authorization to receive. Payer, recipient, amount and nonce are the channel's.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReceiveAuthorization {
    #[serde(with = "number")]
    pub(super) valid_after: U256,
    #[serde(with = "number")]
    pub(super) valid_before: U256,
    #[serde(deserialize_with = "salt")]
    pub(super) salt: U256,
    #[serde(deserialize_with = "signature")]
    pub(super) signature: Vec<u8>,
}

/// A permit with the channel as its witness.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Object")]
pub(super) struct DepositPermit {
    pub(super) permit: WitnessPermit,
    pub(super) channel_id: B256,
    pub(super) signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Signed {
    #[serde(deserialize_with = "signature")]
    signature: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DepositWitnessJson {
    channel_id: Hex<32>,
}

impl TryFrom<Object> for DepositPermit {
    type Error = Malformed;

    fn try_from(fields: Object) -> Result<Self, Malformed> {
        let field = "permit2Authorization";
        let permit: PermitJson<DepositWitnessJson> = fields.read(field)?;
        let Signed { signature } = fields.read(field)?;
        Ok(Self {
            permit: permit.permit(),
            channel_id: permit.witness.channel_id.0,
            signature,
        })
    }
}

/// The payload of a voucher.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VoucherAct {
    #[serde(rename = "channelConfig")]
    pub(super) config: ChannelConfig,
    pub(super) voucher: Voucher,
    /// The hold of an earlier verdict, from a server whose facilitator keeps the vouchers.
    #[serde(default)]
    pub(super) pending_id: Option<String>,
    /// Whether the voucher is not charged and only its hold ends: the request was not served.
    #[serde(default)]
    pub(super) cancel: bool,
}

/// The payload of a refund: the payer's request, and what the seller has added to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefundAct {
    #[serde(rename = "channelConfig")]
    pub(super) config: ChannelConfig,
    pub(super) voucher: Voucher,
    #[serde(default)]
    pub(super) amount: Option<Amount>,
    #[serde(default)]
    pub(super) refund_nonce: Option<Amount>,
    #[serde(default)]
    pub(super) claims: Option<Vec<ClaimRow>>,
    #[serde(default, rename = "refundAuthorizerSignature")]
    pub(super) refund_signature: Option<AuthorizerSignature>,
    #[serde(default, rename = "claimAuthorizerSignature")]
    pub(super) claim_signature: Option<AuthorizerSignature>,
}

/// The payload of a claim.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClaimAct {
    pub(super) claims: Vec<ClaimRow>,
    #[serde(default, rename = "claimAuthorizerSignature")]
    pub(super) signature: Option<AuthorizerSignature>,
}

/// The payload of a transfer to a receiver.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(from = "SweepJson")]
pub(super) struct SweepAct {
    pub(super) receiver: Address,
    pub(super) token: Address,
}

#[derive(Deserialize)]
struct SweepJson {
    receiver: Hex<20>,
    token: Hex<20>,
}

impl From<SweepJson> for SweepAct {
    fn from(json: SweepJson) -> Self {
        Self {
            receiver: json.receiver.0.into(),
            token: json.token.0.into(),
        }
    }
}

/// A signature of a channel's authorizer, which may be a contract.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "HexBytes<DEPLOYED_SIGNATURE_MAX>")]
pub(super) struct AuthorizerSignature(pub(super) Bytes);

impl From<HexBytes<DEPLOYED_SIGNATURE_MAX>> for AuthorizerSignature {
    fn from(bytes: HexBytes<DEPLOYED_SIGNATURE_MAX>) -> Self {
        Self(bytes.0.into())
    }
}

#[derive(Deserialize)]
struct Typed {
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

impl Act {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`PAYLOAD_TYPE`] if its type is unknown, and the malformed field otherwise.
    pub(super) fn read(payload: &Object) -> Result<Self, Refusal> {
        let typed: Typed = payload.read(PAYLOAD)?;
        Ok(match typed.kind.as_deref() {
            Some("deposit") => Self::Deposit(payload.read(PAYLOAD)?),
            Some("voucher") => Self::Voucher(payload.read(PAYLOAD)?),
            Some("refund") => Self::Refund(payload.read(PAYLOAD)?),
            Some("claim") => Self::Claim(payload.read(PAYLOAD)?),
            Some("settle") => Self::Sweep(payload.read(PAYLOAD)?),
            other => {
                let detail = format!(
                    "payload.type is {other:?}, and must be deposit, voucher, refund, claim or settle"
                );
                return Err(Rejection::new(PAYLOAD_TYPE, detail).into());
            }
        })
    }
}

/// Reads a signature, which may be wrapped.
fn signature<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    HexBytes::<SIGNATURE_MAX>::deserialize(from).map(|bytes| bytes.0)
}

/// Reads a salt: 32 bytes in hexadecimal digits, or a decimal number.
fn salt<'de, D: Deserializer<'de>>(from: D) -> Result<U256, D::Error> {
    let text = String::deserialize(from)?;
    let odd = || de::Error::custom("neither 32 bytes in hexadecimal digits nor a decimal number");
    match text.strip_prefix("0x") {
        Some(digits) => hex::decode_to_array::<_, 32>(digits)
            .map(U256::from_be_bytes)
            .map_err(|_| odd()),
        None => text.parse().map(Amount::units).map_err(|_| odd()),
    }
}
