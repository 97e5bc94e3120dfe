//! What is signed for a channel: vouchers by its payer, claims and refunds by its receiver's
//! authorizer.

use alloy::primitives::{Address, B256, Bytes, U256, b256, keccak256};
use alloy::sol_types::SolValue;
use quittance_core::SignatureClaim;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::channel::ChannelConfig;
use super::units;
use crate::abi::BatchSettlement;
use crate::eip712;
use crate::hex::{Hex, HexBytes};
use crate::signature::{DEPLOYED_SIGNATURE_MAX, EcdsaSignature, for_contract};

/// `keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)")`.
const VOUCHER_TYPE_HASH: B256 =
    b256!("1e1bd6ff84c3e0d9029a292b212e039c0ca97ec497c55191a4a5874294609a69");

/// `keccak256("Refund(bytes32 channelId,uint256 nonce,uint128 amount)")`.
const REFUND_TYPE_HASH: B256 =
    b256!("be23ad087435072cd69b49cc5b92de10ee610fce7ae0ab428307972d764bb216");

/// `keccak256("ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128
/// maxClaimableAmount,uint128 totalClaimed)")`.
const CLAIM_BATCH_TYPE_HASH: B256 =
    b256!("42bd57c010b870c2e96203c66341f28a6a19b4d56a74533a8eb5f706b9fd6d57");

/// `keccak256("ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)")`.
const CLAIM_ENTRY_TYPE_HASH: B256 =
    b256!("30b9a0367528fca13c3e8ec6134c3113f1887ebe7a1ad61de0955aac288b0cf5");

/// The digest of a voucher: the payer of this channel owes at most this amount in total. The
/// newest voucher is worth all that were signed before it.
///
/// `domain_separator` is that of the [contract](super::domain_separator).
pub fn voucher_digest(domain_separator: &B256, channel_id: &B256, max_claimable: u128) -> B256 {
    let voucher = (VOUCHER_TYPE_HASH, *channel_id, U256::from(max_claimable));
    eip712::digest(domain_separator, &keccak256(voucher.abi_encode()))
}

/// The digest of a refund of at most `amount` to the payer of this channel. It is valid while the
/// channel has had `nonce` refunds.
pub fn refund_digest(
    domain_separator: &B256,
    channel_id: &B256,
    nonce: U256,
    amount: u128,
) -> B256 {
    let refund = (REFUND_TYPE_HASH, *channel_id, nonce, U256::from(amount));
    eip712::digest(domain_separator, &keccak256(refund.abi_encode()))
}

/// The digest by which the authorizer of all the rows allows to claim them together.
pub fn claim_digest(domain_separator: &B256, rows: &[ClaimRow]) -> B256 {
    let entry = |row: &ClaimRow| {
        let entry = (
            CLAIM_ENTRY_TYPE_HASH,
            row.config.id(domain_separator),
            U256::from(row.max_claimable),
            U256::from(row.total_claimed),
        );
        keccak256(entry.abi_encode()).0
    };
    let entries: Vec<u8> = rows.iter().flat_map(entry).collect();
    let batch = (CLAIM_BATCH_TYPE_HASH, keccak256(entries));
    eip712::digest(domain_separator, &keccak256(batch.abi_encode()))
}

/// A voucher: the payer's signed word that it owes at most an amount in total.
///
/// In JSON it is the payload's `voucher`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "VoucherJson", into = "Value")]
pub struct Voucher {
    /// The channel.
    pub channel_id: B256,
    /// The most that may be claimed in total, over the channel's whole life, in atomic units.
    pub max_claimable: u128,
    /// The signature of the channel's payer authorizer, or of its payer.
    pub signature: Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VoucherJson {
    channel_id: Hex<32>,
    #[serde(with = "units")]
    max_claimable_amount: u128,
    signature: HexBytes<DEPLOYED_SIGNATURE_MAX>,
}

impl From<VoucherJson> for Voucher {
    fn from(json: VoucherJson) -> Self {
        Self {
            channel_id: json.channel_id.0,
            max_claimable: json.max_claimable_amount,
            signature: json.signature.0.into(),
        }
    }
}

impl From<Voucher> for Value {
    fn from(voucher: Voucher) -> Self {
        json!({
            "channelId": voucher.channel_id,
            "maxClaimableAmount": voucher.max_claimable.to_string(),
            "signature": voucher.signature,
        })
    }
}

impl Voucher {
    /// The digest that the payer signs.
    pub fn digest(&self, domain_separator: &B256) -> B256 {
        voucher_digest(domain_separator, &self.channel_id, self.max_claimable)
    }

    /// The claim that a key signed the voucher: the payer authorizer's, or the payer's own. `None`
    /// if the signature has not the 65 bytes of a key's.
    pub fn claim(&self, config: &ChannelConfig, domain_separator: &B256) -> Option<SignatureClaim> {
        self.claim_of(config, self.digest(domain_separator))
    }

    /// As [`claim`](Self::claim), by the digest of the voucher.
    pub(super) fn claim_of(&self, config: &ChannelConfig, digest: B256) -> Option<SignatureClaim> {
        let signature = EcdsaSignature(self.signature.as_ref().try_into().ok()?);
        let signer = match config.payer_authorizer {
            Address::ZERO => config.payer,
            key => key,
        };
        Some(signature.claim(digest, signer))
    }
}

/// A row of a claim: a voucher, and how much of it the receiver claims.
///
/// In JSON it is one of the payload's `claims`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "RowJson", into = "Value")]
pub struct ClaimRow {
    /// The channel's terms.
    pub config: ChannelConfig,
    /// The voucher's amount.
    pub max_claimable: u128,
    /// The voucher's signature.
    pub signature: Bytes,
    /// What the receiver will have claimed in total, in atomic units.
    pub total_claimed: u128,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RowJson {
    voucher: RowVoucherJson,
    signature: HexBytes<DEPLOYED_SIGNATURE_MAX>,
    #[serde(with = "units")]
    total_claimed: u128,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RowVoucherJson {
    channel: ChannelConfig,
    #[serde(with = "units")]
    max_claimable_amount: u128,
}

impl From<RowJson> for ClaimRow {
    fn from(json: RowJson) -> Self {
        Self {
            config: json.voucher.channel,
            max_claimable: json.voucher.max_claimable_amount,
            signature: json.signature.0.into(),
            total_claimed: json.total_claimed,
        }
    }
}

impl From<ClaimRow> for Value {
    fn from(row: ClaimRow) -> Self {
        json!({
            "voucher": {
                "channel": row.config,
                "maxClaimableAmount": row.max_claimable.to_string(),
            },
            "signature": row.signature,
            "totalClaimed": row.total_claimed.to_string(),
        })
    }
}

impl ClaimRow {
    /// The claim of this much in total, by this voucher of a channel with these terms.
    pub fn new(config: ChannelConfig, voucher: &Voucher, total_claimed: u128) -> Self {
        Self {
            config,
            max_claimable: voucher.max_claimable,
            signature: voucher.signature.clone(),
            total_claimed,
        }
    }

    /// The row as the contract takes it.
    pub fn to_abi(&self) -> BatchSettlement::VoucherClaim {
        BatchSettlement::VoucherClaim {
            voucher: BatchSettlement::Voucher {
                channel: self.config.to_abi(),
                maxClaimableAmount: self.max_claimable,
            },
            signature: for_contract(&self.signature),
            totalClaimed: self.total_claimed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel::domain_separator;
    use super::*;
    use alloy::sol;
    use alloy::sol_types::{SolStruct, eip712_domain};
    use proptest::prelude::*;

    /// The messages again, for an independent implementation of their digests.
    mod message {
        use super::*;
        sol! {
            struct Voucher { bytes32 channelId; uint128 maxClaimableAmount; }
            struct Refund { bytes32 channelId; uint256 nonce; uint128 amount; }
            struct ClaimEntry { bytes32 channelId; uint128 maxClaimableAmount; uint128 totalClaimed; }
            struct ClaimBatch { ClaimEntry[] claims; }
        }
    }

    fn config(seed: u8) -> ChannelConfig {
        ChannelConfig {
            payer: Address::repeat_byte(seed),
            payer_authorizer: Address::repeat_byte(2),
            receiver: Address::repeat_byte(3),
            receiver_authorizer: Address::repeat_byte(4),
            token: Address::repeat_byte(5),
            withdraw_delay: 900,
            salt: B256::repeat_byte(6),
        }
    }

    proptest! {
        #[test]
        fn digests_equal_those_of_an_independent_implementation(
            channel: [u8; 32], amounts: [u128; 2], nonce: [u64; 4], chain_id: u64,
            rows in prop::collection::vec((1_u8.., any::<[u128; 2]>()), 0..5),
        ) {
            let domain = eip712_domain! {
                name: "x402 Batch Settlement", version: "1", chain_id: chain_id,
                verifying_contract: super::super::BATCH_SETTLEMENT,
            };
            let separator = domain_separator(chain_id);
            let id = B256::from(channel);
            let [max, amount] = amounts;
            let nonce = U256::from_limbs(nonce);
            let voucher = message::Voucher { channelId: id, maxClaimableAmount: max };
            let refund = message::Refund { channelId: id, nonce, amount };
            prop_assert_eq!(voucher_digest(&separator, &id, max), voucher.eip712_signing_hash(&domain));
            prop_assert_eq!(
                refund_digest(&separator, &id, nonce, amount), refund.eip712_signing_hash(&domain)
            );
            let row = |(seed, [max_claimable, total_claimed]): &(u8, [u128; 2])| ClaimRow {
                config: config(*seed), max_claimable: *max_claimable,
                signature: Bytes::new(), total_claimed: *total_claimed,
            };
            let rows: Vec<ClaimRow> = rows.iter().map(row).collect();
            let entry = |row: &ClaimRow| message::ClaimEntry {
                channelId: row.config.id(&separator), maxClaimableAmount: row.max_claimable,
                totalClaimed: row.total_claimed,
            };
            let batch = message::ClaimBatch { claims: rows.iter().map(entry).collect() };
            prop_assert_eq!(claim_digest(&separator, &rows), batch.eip712_signing_hash(&domain));
        }

        #[test]
        fn vouchers_and_rows_survive_their_json(
            channel: [u8; 32], max_claimable: u128, total: u128,
            signature in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let voucher = Voucher {
                channel_id: channel.into(), max_claimable, signature: signature.into(),
            };
            let json = serde_json::to_string(&voucher).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Voucher>(&json).unwrap(), &voucher);
            let row = ClaimRow::new(config(1), &voucher, total);
            let json = serde_json::to_string(&row).unwrap();
            prop_assert_eq!(serde_json::from_str::<ClaimRow>(&json).unwrap(), row);
        }
    }

    #[test]
    fn amount_beyond_the_contracts_width_is_malformed() {
        let voucher = |amount: &str| {
            let json = json!({
                "channelId": B256::ZERO, "maxClaimableAmount": amount, "signature": "0x01",
            });
            serde_json::from_value::<Voucher>(json)
        };
        assert!(voucher(&u128::MAX.to_string()).is_ok());
        for odd in [
            "340282366920938463463374607431768211456",
            "-1",
            "01",
            "0x1",
            "",
        ] {
            assert!(voucher(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn only_a_key_of_the_channel_can_claim_a_voucher() {
        let separator = domain_separator(1);
        let voucher = |size: usize| Voucher {
            channel_id: B256::ZERO,
            max_claimable: 5,
            signature: vec![1; size].into(),
        };
        let signer = |config: &ChannelConfig| match voucher(65).claim(config, &separator) {
            Some(SignatureClaim::Secp256k1 { address, .. }) => Address::from(address),
            other => panic!("{other:?}"),
        };
        let by_key = config(1);
        let by_payer = ChannelConfig {
            payer_authorizer: Address::ZERO,
            ..by_key
        };
        assert_eq!(signer(&by_key), by_key.payer_authorizer);
        assert_eq!(signer(&by_payer), by_key.payer);
        assert!(voucher(64).claim(&by_key, &separator).is_none());
    }
}
