//! Channels: the terms that identify one, and what the chain has about it.

use alloy::primitives::{Address, B256, Bytes, U256, address, b256, keccak256};
use alloy::sol_types::{SolCall, SolValue};
use quittance_core::{Rejection, StateId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::reason;
use super::units::{self, number};
use crate::abi::{self, BatchSettlement};
use crate::eip712;
use crate::hex::Hex;

/// The address of `x402BatchSettlement`, the contract of the channels. It is the same on every
/// chain.
pub const BATCH_SETTLEMENT: Address = address!("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003");

/// The address of `ERC3009DepositCollector`, which takes deposits by EIP-3009. It is the same on
/// every chain.
pub const EIP3009_COLLECTOR: Address = address!("4020806089470a89826cB9fB1f4059150b550004");

/// The address of `Permit2DepositCollector`, which takes deposits by Permit2. It is the same on
/// every chain.
pub const PERMIT2_COLLECTOR: Address = address!("4020425FAf3B746C082C2f942b4E5159887B0005");

/// The shortest delay of a withdrawal that the contract accepts, in seconds.
pub const WITHDRAW_DELAY_MIN_SECS: u64 = 15 * 60;

/// The longest delay of a withdrawal that the contract accepts, in seconds.
pub const WITHDRAW_DELAY_MAX_SECS: u64 = 30 * 24 * 3600;

/// `keccak256("ChannelConfig(address payer,address payerAuthorizer,address receiver,address
/// receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)")`.
const CONFIG_TYPE_HASH: B256 =
    b256!("1c9a06ceab9b0ebbd3301dc56c9111bb6d9af421356dc9ccb3b7084c755db308");

/// The separator of the contract's EIP-712 domain on the chain with this id.
pub fn domain_separator(chain_id: u64) -> B256 {
    eip712::domain_separator("x402 Batch Settlement", "1", chain_id, BATCH_SETTLEMENT)
}

/// The terms of a channel. They never change, and their digest is the channel's identity.
///
/// In JSON it is the payload's `channelConfig`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(from = "ConfigJson", into = "Value")]
pub struct ChannelConfig {
    /// The account whose tokens are deposited, and which gets the rest back.
    pub payer: Address,
    /// The key that signs vouchers. Zero if the payer itself does, which may be a contract.
    pub payer_authorizer: Address,
    /// The recipient of what is claimed.
    pub receiver: Address,
    /// The account that authorizes claims and refunds: the seller's, or its facilitator's.
    pub receiver_authorizer: Address,
    /// The token.
    pub token: Address,
    /// The time between the announcement of a withdrawal and the withdrawal, in seconds. The
    /// receiver has this time for its last claim.
    pub withdraw_delay: u64,
    /// Makes the channel unique among those with the same terms.
    pub salt: B256,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigJson {
    payer: Hex<20>,
    payer_authorizer: Hex<20>,
    receiver: Hex<20>,
    receiver_authorizer: Hex<20>,
    token: Hex<20>,
    withdraw_delay: u64,
    salt: Hex<32>,
}

impl From<ConfigJson> for ChannelConfig {
    fn from(json: ConfigJson) -> Self {
        Self {
            payer: json.payer.0.into(),
            payer_authorizer: json.payer_authorizer.0.into(),
            receiver: json.receiver.0.into(),
            receiver_authorizer: json.receiver_authorizer.0.into(),
            token: json.token.0.into(),
            withdraw_delay: json.withdraw_delay,
            salt: json.salt.0,
        }
    }
}

impl From<ChannelConfig> for Value {
    fn from(config: ChannelConfig) -> Self {
        json!({
            "payer": config.payer.to_checksum(None),
            "payerAuthorizer": config.payer_authorizer.to_checksum(None),
            "receiver": config.receiver.to_checksum(None),
            "receiverAuthorizer": config.receiver_authorizer.to_checksum(None),
            "token": config.token.to_checksum(None),
            "withdrawDelay": config.withdraw_delay,
            "salt": config.salt,
        })
    }
}

impl ChannelConfig {
    /// The channel's identity: the EIP-712 digest of its terms in the domain with this
    /// [`separator`](domain_separator).
    pub fn id(&self, domain_separator: &B256) -> B256 {
        let terms = (
            CONFIG_TYPE_HASH,
            self.payer,
            self.payer_authorizer,
            self.receiver,
            self.receiver_authorizer,
            self.token,
            U256::from(self.withdraw_delay),
            self.salt,
        );
        eip712::digest(domain_separator, &keccak256(terms.abi_encode()))
    }

    /// Checks that a key signs the channel's vouchers, so that a voucher that was valid once can be
    /// claimed. Without it the contract asks the payer's account at the claim, and a key's account
    /// can get other code by then (EIP-7702).
    ///
    /// # Errors
    /// If the channel leaves it to the payer's account.
    pub(super) fn check_payer_key(&self) -> Result<(), Rejection> {
        if !self.payer_authorizer.is_zero() {
            return Ok(());
        }
        let detail = "the channel has no payerAuthorizer, so its payer's account could refuse every claim: open a channel whose payerAuthorizer is the address of a key";
        Err(Rejection::new(reason::CONTRACT_WALLET_NOT_ALLOWED, detail))
    }

    /// The terms as the contract takes them.
    ///
    /// A delay that the contract cannot represent becomes its largest number, which it refuses.
    pub fn to_abi(&self) -> abi::ChannelConfig {
        /// The largest `uint40`.
        const DELAY_MAX: u64 = (1 << 40) - 1;
        abi::ChannelConfig {
            payer: self.payer,
            payerAuthorizer: self.payer_authorizer,
            receiver: self.receiver,
            receiverAuthorizer: self.receiver_authorizer,
            token: self.token,
            withdrawDelay: alloy::primitives::aliases::U40::from(
                self.withdraw_delay.min(DELAY_MAX),
            ),
            salt: self.salt,
        }
    }
}

/// The state record of the channel with this identity, in the journal of a facilitator or a seller.
pub fn state_id(channel_id: &B256) -> StateId {
    // The identity is bound to chain and contract.
    StateId::from_parts(&[b"batch-settlement", channel_id.as_slice()])
}

/// What the chain has about a channel.
///
/// In JSON it is the `channelState` of an answer, without the seller's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelState {
    /// What was deposited, without what was paid back, in atomic units.
    #[serde(with = "units")]
    pub balance: u128,
    /// What the receiver has claimed of it in total, in atomic units.
    #[serde(with = "units")]
    pub total_claimed: u128,
    /// When the payer announced a withdrawal, in seconds since 1970; 0 if it did not.
    #[serde(default)]
    pub withdraw_requested_at: u64,
    /// The number of refunds so far. The next one must be signed for this number.
    #[serde(default, with = "number")]
    pub refund_nonce: U256,
}

impl ChannelState {
    /// The calls of views of the contract that show the state of this channel, in the order that
    /// [`decode`](Self::decode) expects.
    pub fn views(channel_id: B256) -> [Bytes; 3] {
        [
            BatchSettlement::channelsCall {
                channelId: channel_id,
            }
            .abi_encode()
            .into(),
            BatchSettlement::pendingWithdrawalsCall {
                channelId: channel_id,
            }
            .abi_encode()
            .into(),
            BatchSettlement::refundNonceCall {
                channelId: channel_id,
            }
            .abi_encode()
            .into(),
        ]
    }

    /// The state by the results of the [`views`](Self::views). `None` if they are not the
    /// contract's.
    pub fn decode(results: [&[u8]; 3]) -> Option<Self> {
        let [channel, withdrawal, nonce] = results;
        let channel = BatchSettlement::channelsCall::abi_decode_returns_validate(channel).ok()?;
        let withdrawal =
            BatchSettlement::pendingWithdrawalsCall::abi_decode_returns_validate(withdrawal)
                .ok()?;
        let refund_nonce =
            BatchSettlement::refundNonceCall::abi_decode_returns_validate(nonce).ok()?;
        Some(Self {
            balance: channel.balance,
            total_claimed: channel.totalClaimed,
            withdraw_requested_at: withdrawal.initiatedAt.to(),
            refund_nonce,
        })
    }

    /// What is neither claimed nor paid back, in atomic units.
    pub fn unclaimed(&self) -> u128 {
        self.balance.saturating_sub(self.total_claimed)
    }

    /// The state as answers have it, with the identity of its channel.
    pub fn to_json(&self, channel_id: &B256) -> Value {
        json!({
            "channelId": channel_id,
            "balance": self.balance.to_string(),
            "totalClaimed": self.total_claimed.to_string(),
            "withdrawRequestedAt": self.withdraw_requested_at,
            "refundNonce": self.refund_nonce.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::aliases::U40;
    use alloy::sol_types::{Eip712Domain, SolStruct, eip712_domain};
    use proptest::prelude::*;

    pub(crate) fn domain(chain_id: u64) -> Eip712Domain {
        eip712_domain! {
            name: "x402 Batch Settlement", version: "1", chain_id: chain_id,
            verifying_contract: BATCH_SETTLEMENT,
        }
    }

    proptest! {
        #[test]
        fn channel_id_equals_that_of_an_independent_implementation(
            accounts: [[u8; 20]; 5], delay in 0_u64..1 << 40, salt: [u8; 32], chain_id: u64,
        ) {
            let [payer, payer_authorizer, receiver, receiver_authorizer, token] =
                accounts.map(Address::from);
            let config = ChannelConfig {
                payer, payer_authorizer, receiver, receiver_authorizer, token,
                withdraw_delay: delay, salt: salt.into(),
            };
            let other = abi::ChannelConfig {
                payer, payerAuthorizer: payer_authorizer, receiver,
                receiverAuthorizer: receiver_authorizer, token,
                withdrawDelay: U40::from(delay), salt: salt.into(),
            };
            let id = config.id(&domain_separator(chain_id));
            prop_assert_eq!(id, other.eip712_signing_hash(&domain(chain_id)));
            prop_assert_eq!(config.to_abi(), other);
            let json = serde_json::to_string(&config).unwrap();
            prop_assert_eq!(serde_json::from_str::<ChannelConfig>(&json).unwrap(), config);
        }

        #[test]
        fn state_survives_its_json(
            balance: u128, total_claimed: u128, at in 0_u64..1 << 40, nonce: [u64; 4],
        ) {
            let state = ChannelState {
                balance, total_claimed, withdraw_requested_at: at,
                refund_nonce: U256::from_limbs(nonce),
            };
            let answer = state.to_json(&B256::repeat_byte(7));
            prop_assert_eq!(serde_json::from_value::<ChannelState>(answer).unwrap(), state);
            let record = serde_json::to_string(&state).unwrap();
            prop_assert_eq!(serde_json::from_str::<ChannelState>(&record).unwrap(), state);
        }
    }

    #[test]
    fn reply_of_another_contract_is_no_state() {
        let word = [0; 32];
        assert!(ChannelState::decode([&[0; 64], &[0; 64], &word]).is_some());
        assert!(ChannelState::decode([&[], &[0; 64], &word]).is_none());
        assert!(ChannelState::decode([&[0; 64], &[], &word]).is_none());
        assert!(ChannelState::decode([&[0; 64], &[0; 64], &[]]).is_none());
        assert!(ChannelState::decode([&[0xff; 64], &[0; 64], &word]).is_none());
    }
}
