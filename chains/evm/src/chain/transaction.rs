//! Transactions: building, signing and decoding.

use alloy::consensus::{SignableTransaction, Signed, TxEip1559, TxEnvelope, TxLegacy};
use alloy::eips::eip2718::{Decodable2718, Encodable2718};
use alloy::network::TxSigner;
use alloy::primitives::{Bytes, Signature, TxKind, U256};
use quittance_core::{Fault, FaultKind, LaneId, Transaction, TransactionId};

use super::batch;
use super::fees::Fees;
use crate::call::Call;

/// What a transaction does, without its sender and its fees.
pub(super) struct Body {
    /// The called contract; [`TxKind::Create`] for a program that runs as init code.
    pub(super) to: TxKind,
    pub(super) data: Bytes,
    /// In wei.
    pub(super) value: U256,
}

impl Body {
    /// A single call is the transaction itself, and so is the one that calls with lists are joined
    /// to. Several other calls are made by a program that bounds the gas of each.
    pub(super) fn new(calls: &[&Call]) -> Self {
        match calls {
            [call] => Self {
                to: TxKind::Call(call.to),
                data: call.data.clone(),
                value: call.value,
            },
            calls => match Call::joined(calls) {
                Some(data) => Self {
                    to: TxKind::Call(calls[0].to),
                    data,
                    value: U256::ZERO,
                },
                None => Self {
                    to: TxKind::Create,
                    data: batch::program(calls),
                    value: U256::ZERO,
                },
            },
        }
    }

    /// The gas limit, if each call uses as much as in its simulation.
    pub(super) fn gas(&self, calls: &[&Call]) -> u64 {
        /// The gas of the call itself, which the simulation does not measure: a cold contract.
        const CALL: u64 = 6_000;
        let made = match calls {
            // Calls that are joined use no more together than one after another.
            calls if self.to.is_call() => {
                let made: u64 = calls.iter().map(|call| call.gas).sum();
                let made = made + CALL + batch::EMPTIED_RECIPIENT;
                made + made / 8
            }
            calls => batch::gas(calls, &self.data),
        };
        let (zeros, others) = bytes(&self.data);
        // Since EIP-7623 call data has a normal price and a floor price, which holds if little is
        // executed.
        (intrinsic_gas(&self.data) + made).max(BASE + 10 * zeros + 40 * others)
    }
}

/// The gas of every transaction.
const BASE: u64 = 21_000;

/// The gas of a transaction with this data before it executes anything.
pub(crate) fn intrinsic_gas(data: &[u8]) -> u64 {
    let (zeros, others) = bytes(data);
    BASE + 4 * zeros + 16 * others
}

/// The number of bytes that are zero, and that of the others.
fn bytes(data: &[u8]) -> (u64, u64) {
    data.iter()
        .fold((0, 0), |(zeros, others), byte| match byte {
            0 => (zeros + 1, others),
            _ => (zeros, others + 1),
        })
}

/// A transaction without a signature.
pub(super) struct Unsigned {
    pub(super) chain_id: u64,
    pub(super) nonce: u64,
    pub(super) gas: u64,
    pub(super) fees: Fees,
    pub(super) body: Body,
}

impl Unsigned {
    pub(super) async fn sign(
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
        let Body {
            to,
            data: input,
            value,
        } = body;
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

    /// Decodes a transaction that this module signed.
    pub(super) fn from_signed(bytes: &[u8]) -> Result<Self, Fault> {
        let envelope = TxEnvelope::decode_2718(&mut &*bytes).map_err(|_| not_ours())?;
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
                (Fees::Legacy { price }, chain_id.ok_or_else(not_ours)?)
            }
            _ => return Err(not_ours()),
        };
        use alloy::consensus::Transaction as _;
        let body = Body {
            to: envelope.kind(),
            data: envelope.input().clone(),
            value: envelope.value(),
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
            let detail = format_args!("the signer did not sign: {error}");
            Fault::new(FaultKind::Internal, detail)
        })?;
    Ok(unsigned.into_signed(signature))
}

fn not_ours() -> Fault {
    Fault::new(
        FaultKind::Internal,
        "the transaction was not made by this chain's code",
    )
}
