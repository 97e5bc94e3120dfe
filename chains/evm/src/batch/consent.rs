//! How the payer of a deposit lets the collector take it.

use alloy::primitives::{Address, B256, Bytes, U256, b256, keccak256};
use alloy::sol_types::SolValue;
use quittance_core::{PaymentId, Reason, Rejection, Timestamp};
use serde_json::{Value, json};

use super::channel::{EIP3009_COLLECTOR, PERMIT2_COLLECTOR};
use super::payload::{DepositAct, ReceiveAuthorization};
use super::reason;
use crate::chain::{Step, StepOutcome};
use crate::eip3009::Authorization;
use crate::exact::payment::view;
use crate::exact::reason::EIP2612_DEADLINE_EXPIRED;
use crate::exact::sponsoring::SignedApproval;
use crate::exact::window::Window;
use crate::permit2::{WitnessPermit, WitnessType};
use crate::signature::for_contract;
use crate::token::TransferMethod;

/// The hashes of `PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256
/// nonce,uint256 deadline,DepositWitness witness)DepositWitness(bytes32 channelId)TokenPermissions(
/// address token,uint256 amount)` and of its `DepositWitness`.
const WITNESS: WitnessType = WitnessType {
    permit_type_hash: b256!("436a25c01a21a6ed025816c4c9ea3d6132aa879dd7ef16f6188dd3b0aebccc52"),
    witness_type_hash: b256!("ba0000097e86dabe64178afe31109221193339a6861598f2133fcbdc92c84479"),
};

/// How the payer lets the collector take the deposit.
#[derive(Debug, Clone)]
pub(super) enum Consent {
    /// By an authorization that only the collector can use.
    Eip3009 {
        authorization: Authorization,
        salt: U256,
    },
    /// By a permit that only the collector can use, and only for this channel.
    Permit2 {
        permit: WitnessPermit,
        /// The approval of Permit2 that the payer signed beside the permit.
        approval: Option<SignedApproval>,
    },
}

impl Consent {
    /// By EIP-3009. The nonce binds the authorization to the channel.
    pub(super) fn eip3009(
        payer: Address,
        amount: u128,
        channel: &B256,
        given: &ReceiveAuthorization,
    ) -> Self {
        let salt = given.salt;
        Self::Eip3009 {
            authorization: Authorization {
                from: payer,
                to: EIP3009_COLLECTOR,
                value: U256::from(amount),
                valid_after: given.valid_after,
                valid_before: given.valid_before,
                nonce: keccak256((*channel, salt).abi_encode()),
            },
            salt,
        }
    }

    pub(super) fn payment_id(&self, chain_id: u64, token: Address) -> PaymentId {
        match self {
            Self::Eip3009 { authorization, .. } => authorization.payment_id(chain_id, token),
            Self::Permit2 { permit, .. } => permit.payment_id(chain_id),
        }
    }

    /// What the payer signs. The separators are those of the EIP-712 domains of the token and of
    /// Permit2.
    pub(super) fn digest(&self, (token, permit2): (&B256, &B256), channel: B256) -> B256 {
        match self {
            Self::Eip3009 { authorization, .. } => authorization.receive_digest(token),
            Self::Permit2 { permit, .. } => permit.digest(permit2, &WITNESS, [channel]),
        }
    }

    pub(super) fn window(&self) -> Window {
        match self {
            Self::Eip3009 { authorization, .. } => Window {
                valid_after: authorization.valid_after,
                valid_before: authorization.valid_before,
                not_yet: reason::VALID_AFTER,
                expired: reason::VALID_BEFORE,
            },
            Self::Permit2 { permit, approval } => {
                let window = Window {
                    valid_after: U256::ZERO,
                    valid_before: permit.valid_before(),
                    not_yet: reason::PERMIT2_DEADLINE_EXPIRED,
                    expired: reason::PERMIT2_DEADLINE_EXPIRED,
                };
                match approval {
                    None => window,
                    Some(approval) => {
                        window.until(approval.valid_before(), EIP2612_DEADLINE_EXPIRED)
                    }
                }
            }
        }
    }

    pub(super) fn signature_reason(&self) -> Reason {
        match self {
            Self::Eip3009 { .. } => reason::RECEIVE_AUTHORIZATION_SIGNATURE,
            Self::Permit2 { .. } => reason::PERMIT2_SIGNATURE,
        }
    }

    /// The collector, and its data with the payer's signature. If it `approves`, the collector
    /// first submits the approval that the payer signed.
    pub(super) fn collector(&self, signature: &Bytes, approves: bool) -> (Address, Bytes) {
        let signature = for_contract(signature);
        match self {
            Self::Eip3009 {
                authorization,
                salt,
            } => {
                let (after, before) = (authorization.valid_after, authorization.valid_before);
                let data = (after, before, *salt, signature).abi_encode_params();
                (EIP3009_COLLECTOR, data.into())
            }
            Self::Permit2 { permit, approval } => {
                let approval = approval.as_ref().filter(|_| approves);
                let approval = approval.map(SignedApproval::to_collector_data);
                let approval = approval.unwrap_or_default();
                let data = (permit.nonce, permit.deadline, signature, approval);
                (PERMIT2_COLLECTOR, data.abi_encode_params().into())
            }
        }
    }

    /// Whether the payer signed an approval of Permit2.
    pub(super) fn has_approval(&self) -> bool {
        matches!(self, Self::Permit2 { approval, .. } if approval.is_some())
    }

    /// Whether a deposit needs that approval, by the outcome of the
    /// [`state_step`](Self::state_step). An approval replaces the allowance. So it is not submitted
    /// if the allowance is enough: the payer's other payments may need more than this one.
    pub(super) fn needs_approval(&self, outcome: Option<&StepOutcome>, amount: u128) -> bool {
        self.has_approval() && word(outcome).is_some_and(|allowed| allowed < U256::from(amount))
    }

    /// The `authorization` of a payload, with the payer's signature.
    pub(super) fn to_json(&self, signature: &Bytes, channel: &B256) -> Value {
        match self {
            Self::Eip3009 {
                authorization,
                salt,
            } => json!({
                "erc3009Authorization": {
                    "validAfter": authorization.valid_after.to_string(),
                    "validBefore": authorization.valid_before.to_string(),
                    "salt": B256::from(*salt),
                    "signature": signature,
                }
            }),
            Self::Permit2 { permit, .. } => {
                let mut json = permit.payload(signature, json!({ "channelId": channel }));
                let mut permit = json["permit2Authorization"].take();
                permit["signature"] = json["signature"].take();
                json!({ "permit2Authorization": permit })
            }
        }
    }

    /// The step that shows whether it was used, or for a permit how much Permit2 may move: Permit2
    /// itself refuses a used permit.
    pub(super) fn state_step(&self, token: Address) -> Step {
        match self {
            Self::Eip3009 { authorization, .. } => view(token, authorization.state_call()),
            Self::Permit2 { permit, .. } => view(token, permit.allowance_call()),
        }
    }

    /// How much of `balance` the payer's open deposits may take together, by the outcome of the
    /// [`state_step`](Self::state_step). Permits that exceed the allowance together would revert at
    /// the operator's cost. A token accepts one signed approval after another, and each replaces
    /// the allowance. So a deposit that needs one is its payer's only open payment.
    pub(super) fn spendable(
        &self,
        outcome: Option<&StepOutcome>,
        balance: U256,
        amount: u128,
    ) -> U256 {
        match self {
            Self::Eip3009 { .. } => balance,
            _ if self.needs_approval(outcome, amount) => U256::from(amount),
            Self::Permit2 { .. } => word(outcome).map_or(balance, |allowed| balance.min(allowed)),
        }
    }

    /// Checks the outcome of the [`state_step`](Self::state_step). With a signed approval, the
    /// simulation of the deposit decides about the allowance.
    pub(super) fn check_state(
        &self,
        outcome: Option<&StepOutcome>,
        amount: u128,
    ) -> Result<(), Rejection> {
        match (self, word(outcome)) {
            (Self::Eip3009 { .. }, Some(U256::ONE)) => {
                let detail = "the authorization of the deposit was used or cancelled";
                Err(Rejection::new(reason::NONCE_ALREADY_USED, detail))
            }
            (Self::Permit2 { approval: None, .. }, Some(allowance))
                if allowance < U256::from(amount) =>
            {
                let detail = format!(
                    "Permit2 may move {allowance} atomic units of the payer's tokens, and the deposit is of {amount}"
                );
                Err(Rejection::new(reason::PERMIT2_ALLOWANCE_REQUIRED, detail))
            }
            _ => Ok(()),
        }
    }

    /// When it can no longer be used.
    pub(super) fn expires(&self) -> Timestamp {
        let valid_before = self.window().valid_before;
        Timestamp::from_secs(valid_before.try_into().unwrap_or(u64::MAX))
    }
}

/// The identity of a deposit by this method to the channel with this identity. `None` if the
/// deposit has no authorization of the method.
pub(super) fn deposit_id(
    act: &DepositAct,
    method: TransferMethod,
    chain_id: u64,
    channel: &B256,
) -> Option<PaymentId> {
    let (config, authorizations) = (&act.config, &act.deposit.authorization);
    let consent = match method {
        TransferMethod::Permit2 => Consent::Permit2 {
            permit: authorizations.permit2.as_ref()?.permit.clone(),
            approval: None,
        },
        TransferMethod::Eip3009 => {
            let given = authorizations.eip3009.as_ref()?;
            Consent::eip3009(config.payer, act.deposit.amount, channel, given)
        }
    };
    Some(consent.payment_id(chain_id, config.token))
}

fn word(outcome: Option<&StepOutcome>) -> Option<U256> {
    let word = outcome.and_then(StepOutcome::word)?;
    Some(U256::from_be_bytes(word.0))
}
