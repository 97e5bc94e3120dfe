//! A whole scheme in one file: `at-least`, by which a payer may pay more than was asked.
//!
//! Batching, the journal, retries, fees, nonces, limits, recovery and metrics are the engine's; what is particular to
//! the scheme is here. One line registers it:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use quittance_engine::{Engine, Journal};
//! # use quittance_evm::{Evm, Exact};
//! # use quittance_examples::AtLeast;
//! # fn register(journal: impl Journal, evm: Evm) {
//! let schemes = vec![Arc::new(Exact::new(&evm)) as _, Arc::new(AtLeast::new(&evm)) as _];
//! let engine = Engine::builder(journal).chain(evm, schemes);
//! # }
//! ```
//!
//! The conformance suite in `tests/` runs it like any other scheme.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::sol;
use alloy::sol_types::{Eip712Domain, SolCall, SolStruct, SolValue};
use quittance_core::{
    Amount, Check, Effect, Malformed, Observed, Payment, PaymentId, PaymentInfo, PaymentRequest,
    Reason, Refusal, Rejection, Scheme, SignatureClaim, Timestamp,
};
use quittance_evm::{Call, Condition, Evidence, Evm, Log, Outcome, Probe, Step, Token};
use serde::Deserialize;

sol! {
    struct TransferWithAuthorization {
        address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce;
    }
    event Transfer(address indexed from, address indexed to, uint256 value);
    function transferWithAuthorization(
        address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, uint8 v, bytes32 r, bytes32 s
    ) external;
}

/// Reasons are constants beside the checks that raise them.
const TOO_LITTLE: Reason = Reason::new("invalid_at_least_evm_too_little");
const SIGNATURE: Reason = Reason::new("invalid_at_least_evm_signature");
const RECIPIENT: Reason = Reason::new("invalid_at_least_evm_recipient");
const WINDOW: Reason = Reason::new("invalid_at_least_evm_window");
const WOULD_FAIL: Reason = Reason::new("invalid_at_least_evm_would_fail");
const NOT_MOVED: Reason = Reason::new("invalid_at_least_evm_not_moved");

/// How long a payment must still be valid, in seconds, to be signed into a transaction and included.
const REMAINING_MIN_SECS: u64 = 6;

/// The scheme: what it needs to know of the chain.
pub struct AtLeast {
    chain_id: u64,
    tokens: Vec<Token>,
}

impl AtLeast {
    /// The scheme on this chain.
    pub fn new(evm: &Evm) -> Self {
        Self {
            chain_id: evm.chain_id(),
            tokens: evm.config().tokens.clone(),
        }
    }
}

/// The payload: the same as that of `exact`.
#[derive(Deserialize)]
struct Payload {
    signature: Bytes,
    authorization: Authorization,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorization {
    from: Address,
    to: Address,
    value: Amount,
    valid_after: Amount,
    valid_before: Amount,
    nonce: B256,
}

/// A payment: what was decoded.
struct AtLeastPayment {
    info: PaymentInfo,
    token: Address,
    transfer: TransferWithAuthorization,
    signature: [u8; 65],
    claim: [SignatureClaim; 1],
}

impl Scheme<Evm> for AtLeast {
    fn name(&self) -> &str {
        "at-least"
    }

    fn assets(&self) -> Vec<String> {
        self.tokens
            .iter()
            .map(|token| token.address.to_checksum(None))
            .collect()
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<Evm>>, Refusal> {
        let (token, pay_to) = self.terms(request)?;
        let Payload {
            signature,
            authorization,
        } = request.payload.read("paymentPayload.payload")?;
        let signature = signature.as_ref().try_into();
        let signature: [u8; 65] =
            signature.map_err(|_| Rejection::new(SIGNATURE, "not 65 bytes"))?;
        authorization.check(pay_to, request.requirements.amount, now)?;
        let transfer = authorization.transfer();
        Ok(Box::new(AtLeastPayment {
            info: self.info(token, &authorization),
            token: token.address,
            signature,
            claim: [SignatureClaim::Secp256k1 {
                digest: transfer.eip712_signing_hash(&self.domain(token)).0,
                signature,
                address: authorization.from.into_array(),
            }],
            transfer,
        }))
    }
}

impl AtLeast {
    /// In which token who is to be paid.
    fn terms(&self, request: &PaymentRequest) -> Result<(&Token, Address), Refusal> {
        let PaymentRequest {
            requirements: terms,
            accepted,
            ..
        } = request;
        if accepted.scheme != terms.scheme || accepted.network != terms.network {
            let detail = "the payment is of another scheme or network";
            return Err(Rejection::new(Reason::INVALID_PAYMENT_REQUIREMENTS, detail).into());
        }
        let address = |field, text: &str| {
            text.parse::<Address>()
                .map_err(|error| Malformed::new(field, error))
        };
        let asset = address("paymentRequirements.asset", &terms.asset)?;
        let pay_to = address("paymentRequirements.payTo", &terms.pay_to)?;
        let token = self.tokens.iter().find(|token| token.address == asset);
        let unknown = || {
            Rejection::new(
                Reason::UNSUPPORTED_ASSET,
                "not a token that is settled here",
            )
        };
        Ok((token.ok_or_else(unknown)?, pay_to))
    }

    fn domain(&self, token: &Token) -> Eip712Domain {
        Eip712Domain::new(
            Some(token.name.clone().into()),
            Some(token.version.clone().into()),
            Some(U256::from(self.chain_id)),
            Some(token.address),
            None,
        )
    }

    fn info(&self, token: &Token, authorization: &Authorization) -> PaymentInfo {
        let Authorization {
            from,
            to,
            value,
            valid_before,
            nonce,
            ..
        } = authorization;
        PaymentInfo {
            // The same authorization is the same payment under whichever scheme it is presented.
            id: PaymentId::from_parts(&[
                b"eip3009",
                &self.chain_id.to_be_bytes(),
                token.address.as_slice(),
                from.as_slice(),
                nonce.as_slice(),
            ]),
            payer: from.to_checksum(None),
            pay_to: to.to_checksum(None),
            asset: token.address.to_checksum(None),
            amount: *value,
            expires: Timestamp::from_secs(valid_before.units().try_into().unwrap_or(u64::MAX)),
        }
    }
}

impl Authorization {
    /// Whether it pays whom it should, at least what it should, and now.
    fn check(&self, pay_to: Address, amount: Amount, now: Timestamp) -> Result<(), Rejection> {
        if self.to != pay_to {
            return Err(Rejection::new(
                RECIPIENT,
                "authorized to another than payTo",
            ));
        }
        if self.value < amount {
            let detail = format_args!("authorized {}, at least {amount} is required", self.value);
            return Err(Rejection::new(TOO_LITTLE, detail));
        }
        let soon = U256::from(now.plus_secs(REMAINING_MIN_SECS).secs());
        if self.valid_after.units() > U256::from(now.secs()) || self.valid_before.units() < soon {
            return Err(Rejection::new(
                WINDOW,
                "not valid yet, or not for long enough",
            ));
        }
        Ok(())
    }

    fn transfer(&self) -> TransferWithAuthorization {
        TransferWithAuthorization {
            from: self.from,
            to: self.to,
            value: self.value.units(),
            validAfter: self.valid_after.units(),
            validBefore: self.valid_before.units(),
            nonce: self.nonce,
        }
    }
}

impl Payment<Evm> for AtLeastPayment {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &self.claim
    }

    /// One question: would the transfer succeed, and is the payer an account with a key?
    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        if observed.signatures != [true] {
            return Err(Rejection::new(SIGNATURE, "not signed by the payer"));
        }
        let Some(answer) = observed.answers.first() else {
            let transfer = Step::Call {
                to: self.token,
                data: self.call(),
                gas: 300_000,
                when: Condition::Always,
            };
            let steps = vec![Step::CodeSize(self.transfer.from), transfer];
            return Ok(Check::Ask(Probe {
                steps,
                as_transaction: false,
            }));
        };
        match answer.outcomes.as_slice() {
            [Outcome::CodeSize(0), Outcome::Returned { .. }] => Ok(Check::Valid),
            _ => Err(Rejection::new(
                WOULD_FAIL,
                "the token would not make the transfer",
            )),
        }
    }

    fn action(&self, _: Amount, observed: &Observed<'_, Evm>) -> Result<Call, Rejection> {
        let gas = observed
            .answers
            .first()
            .and_then(|answer| answer.outcomes.get(1)?.gas());
        Ok(Call {
            to: self.token,
            data: self.call(),
            gas: gas.ok_or(WOULD_FAIL)?.into(),
            batchable: true,
            effect_key: keccak256(
                (
                    self.token,
                    self.transfer.from,
                    self.transfer.to,
                    self.transfer.value,
                )
                    .abi_encode(),
            ),
        })
    }

    /// What was authorized moved, which is at least what was asked.
    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        let TransferWithAuthorization {
            from, to, value, ..
        } = &self.transfer;
        let logs = evidence
            .logs
            .iter()
            .filter(|log| log.address == self.token)
            .filter_map(Log::decode::<Transfer>);
        match logs
            .filter(|log| log.from == *from && log.to == *to && log.value == *value)
            .count()
        {
            1 => Effect::Transferred(amount),
            _ => Effect::None(Rejection::new(NOT_MOVED, "no transfer of it was logged")),
        }
    }
}

impl AtLeastPayment {
    fn call(&self) -> Bytes {
        let TransferWithAuthorization {
            from,
            to,
            value,
            validAfter,
            validBefore,
            nonce,
        } = self.transfer.clone();
        let [r, s] = [0, 32].map(|at| B256::from_slice(&self.signature[at..at + 32]));
        let v = 27 + self.signature[64] % 27;
        transferWithAuthorizationCall {
            from,
            to,
            value,
            validAfter,
            validBefore,
            nonce,
            v,
            r,
            s,
        }
        .abi_encode()
        .into()
    }
}
