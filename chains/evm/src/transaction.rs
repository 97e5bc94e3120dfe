//! Transactions: built, signed, raised, and taken apart.

use alloy::consensus::{SignableTransaction, Signed, TxEip1559, TxEnvelope, TxLegacy};
use alloy::eips::eip2718::{Decodable2718, Encodable2718};
use alloy::network::TxSigner;
use alloy::primitives::{Bytes, Signature, TxKind, U256};
use quittance_core::{Fault, FaultKind, LaneId, Transaction, TransactionId};

use crate::batch;
use crate::chain::Call;
use crate::fees::Fees;

/// What a transaction does, whoever sends it and whatever it pays.
pub(crate) struct Body {
    /// The contract that is called; [`TxKind::Create`] for a program that runs as init code.
    pub(crate) to: TxKind,
    pub(crate) data: Bytes,
}

impl Body {
    /// One call is made directly; many by a program that bounds the gas of each.
    pub(crate) fn of(calls: &[&Call]) -> Self {
        match calls {
            [call] => Self {
                to: TxKind::Call(call.to),
                data: call.data.clone(),
            },
            calls => Self {
                to: TxKind::Create,
                data: batch::program(calls),
            },
        }
    }

    /// How much gas it takes at most, where each call takes what it took when it was tried.
    pub(crate) fn gas(&self, calls: &[&Call]) -> u64 {
        /// Every transaction.
        const BASE: u64 = 21_000;
        /// What a call costs its caller, when the caller is the transaction itself: a cold contract.
        const CALL: u64 = 6_000;
        let made = match calls {
            [call] => {
                let made = call.gas + CALL + batch::EMPTIED;
                made + made / 8
            }
            calls => batch::gas(calls, &self.data),
        };
        let (zeros, others) = self
            .data
            .iter()
            .fold((0, 0), |(zeros, others), byte| match byte {
                0 => (zeros + 1, others),
                _ => (zeros, others + 1),
            });
        // Calldata as since EIP-7623: the price where much is executed, and the floor where little is.
        let executed = BASE + 4 * zeros + 16 * others + made;
        executed.max(BASE + 10 * zeros + 40 * others)
    }
}

/// A transaction that is signed by nobody yet.
pub(crate) struct Unsigned {
    pub(crate) chain_id: u64,
    pub(crate) nonce: u64,
    pub(crate) gas: u64,
    pub(crate) fees: Fees,
    pub(crate) body: Body,
}

impl Unsigned {
    pub(crate) async fn sign(
        self,
        lane: &LaneId,
        signer: &(dyn TxSigner<Signature> + Send + Sync),
    ) -> Result<Transaction, Fault> {
        let Self {
            chain_id,
            nonce,
            gas,
            fees,
            body,
        } = self;
        let (to, input, value) = (body.to, body.data, U256::ZERO);
        let envelope = match fees {
            Fees::Dynamic { max, tip } => {
                let unsigned = TxEip1559 {
                    chain_id,
                    nonce,
                    gas_limit: gas,
                    max_fee_per_gas: max,
                    max_priority_fee_per_gas: tip,
                    to,
                    value,
                    access_list: Default::default(),
                    input,
                };
                TxEnvelope::from(signed(unsigned, signer).await?)
            }
            Fees::Legacy { price } => {
                let unsigned = TxLegacy {
                    chain_id: Some(chain_id),
                    nonce,
                    gas_price: price,
                    gas_limit: gas,
                    to,
                    value,
                    input,
                };
                TxEnvelope::from(signed(unsigned, signer).await?)
            }
        };
        Ok(Transaction {
            id: TransactionId::new(&format!("{:#x}", envelope.tx_hash())),
            lane: lane.clone(),
            sequence: nonce,
            bytes: envelope.encoded_2718().into(),
        })
    }

    /// Takes a transaction of ours apart.
    pub(crate) fn from_signed(bytes: &[u8]) -> Result<Self, Fault> {
        let envelope = TxEnvelope::decode_2718(&mut &*bytes).map_err(|_| foreign())?;
        let (fees, chain_id) = match &envelope {
            TxEnvelope::Eip1559(signed) => {
                let TxEip1559 {
                    max_fee_per_gas: max,
                    max_priority_fee_per_gas: tip,
                    chain_id,
                    ..
                } = *signed.tx();
                (Fees::Dynamic { max, tip }, chain_id)
            }
            TxEnvelope::Legacy(signed) => {
                let TxLegacy {
                    gas_price: price,
                    chain_id,
                    ..
                } = *signed.tx();
                (Fees::Legacy { price }, chain_id.ok_or_else(foreign)?)
            }
            _ => return Err(foreign()),
        };
        use alloy::consensus::Transaction as _;
        let body = Body {
            to: envelope.kind(),
            data: envelope.input().clone(),
        };
        Ok(Self {
            chain_id,
            nonce: envelope.nonce(),
            gas: envelope.gas_limit(),
            fees,
            body,
        })
    }
}

async fn signed<T: SignableTransaction<Signature>>(
    mut unsigned: T,
    signer: &(dyn TxSigner<Signature> + Send + Sync),
) -> Result<Signed<T>, Fault> {
    let signature = signer
        .sign_transaction(&mut unsigned)
        .await
        .map_err(|error| {
            Fault::new(
                FaultKind::Internal,
                format_args!("the signer does not sign: {error}"),
            )
        })?;
    Ok(unsigned.into_signed(signature))
}

fn foreign() -> Fault {
    Fault::new(
        FaultKind::Internal,
        "a transaction that this chain did not make",
    )
}
