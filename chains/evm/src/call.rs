//! The action of EVM schemes: a contract call.

use alloy::primitives::{Address, B256, Bytes, U256};
use quittance_core::Transaction;

/// A contract call that settles a payment, or a step before that: a transfer of the chain's own
/// coin, or a transaction that another account has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// The contract.
    pub to: Address,
    /// The call data.
    pub data: Bytes,
    /// How much gas the call took in the simulation.
    pub gas: u64,
    /// Whether the call may share a transaction with others. It may only if its effect does not
    /// depend on the caller, and if it runs no contract that the payer chose.
    pub batchable: bool,
    /// Identifies the call's effect in a transaction's logs. Calls with equal keys never share a
    /// transaction, because the logs would not show which of them had the effect.
    pub effect_key: B256,
    /// For a call of a function whose only argument is a list with one item: the ABI encoding of
    /// the item, a dynamic tuple. Such calls of one function by one sender share a transaction: as
    /// one call with all of their items. If it reverts, no item has an effect.
    pub item: Option<Bytes>,
    /// How many payments the call is for. It may use the gas of as many.
    pub payments: u32,
    /// How much of the chain's own coin goes with the call, in wei.
    pub value: U256,
    /// The transaction of another account that makes the call, if it is signed as a whole.
    pub signed: Option<Transaction>,
}

impl Call {
    /// A call that shares no transaction. `gas` is what it took in the simulation, and `effect_key`
    /// identifies its effect in the logs.
    pub fn new(to: Address, data: Bytes, gas: u64, effect_key: B256) -> Self {
        Self {
            to,
            data,
            gas,
            batchable: false,
            effect_key,
            item: None,
            payments: 1,
            value: U256::ZERO,
            signed: None,
        }
    }

    /// A transfer of the chain's own coin, in wei, to an account without code.
    pub fn transfer(to: Address, value: U256) -> Self {
        Self {
            value,
            ..Self::new(to, Bytes::new(), 0, B256::ZERO)
        }
    }

    /// A call that is made by this transaction, which another account has signed.
    pub fn relayed(to: Address, transaction: Transaction) -> Self {
        Self {
            signed: Some(transaction),
            ..Self::new(to, Bytes::new(), 0, B256::ZERO)
        }
    }

    /// A call of the function `selector` of `to` with a list of one item, which may share a
    /// transaction with other calls of the function. `item` is the ABI encoding of the item, a
    /// dynamic tuple.
    pub fn of_item(
        to: Address,
        selector: [u8; 4],
        item: Bytes,
        gas: u64,
        effect_key: B256,
    ) -> Self {
        let data = list_data(selector, [&item]);
        Self {
            item: Some(item),
            ..Self::new(to, data, gas, effect_key)
        }
    }

    /// The same call, which is for this many payments.
    #[must_use]
    pub fn with_payments(self, payments: u32) -> Self {
        Self { payments, ..self }
    }

    /// Whether the call and `other` are of one function with a list, so that one call can have the
    /// items of both.
    pub(crate) fn is_joinable(&self, other: &Self) -> bool {
        let is_list = self.item.is_some() && other.item.is_some();
        is_list && self.to == other.to && self.data.get(..4) == other.data.get(..4)
    }

    /// The data of one call with the items of these calls, which are of one function.
    pub(crate) fn joined(calls: &[&Self]) -> Option<Bytes> {
        let selector = calls.first()?.data.get(..4)?.try_into().ok()?;
        let items: Option<Vec<&Bytes>> = calls.iter().map(|call| call.item.as_ref()).collect();
        Some(list_data(selector, items?))
    }

    /// The same call, which may share a transaction if `batchable`.
    #[must_use]
    pub fn with_batchable(self, batchable: bool) -> Self {
        Self { batchable, ..self }
    }
}

/// The data of a call of a function whose only argument is a list of dynamic tuples (ABI
/// specification, "Formal specification of the encoding"): where the list begins, its length, where
/// each item begins, and the items.
fn list_data<'a>(
    selector: [u8; 4],
    items: impl IntoIterator<Item = &'a Bytes, IntoIter: ExactSizeIterator>,
) -> Bytes {
    const WORD: usize = 32;
    let items = items.into_iter();
    let count = items.len();
    let word = |number: usize| U256::from(number).to_be_bytes::<WORD>();
    let mut data = [selector.as_slice(), &word(WORD), &word(count)].concat();
    let (mut offset, mut bodies) = (count * WORD, Vec::new());
    for item in items {
        data.extend_from_slice(&word(offset));
        bodies.extend_from_slice(item);
        offset += item.len();
    }
    data.extend_from_slice(&bodies);
    data.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::sol;
    use alloy::sol_types::{SolCall, SolValue};
    use proptest::prelude::*;

    sol! {
        #[derive(Debug, PartialEq)]
        struct Item { uint256 number; bytes data; }
        function take(Item[] items) external;
    }

    fn call(item: &Item) -> Call {
        let item = item.abi_encode_params().into();
        Call::of_item(Address::ZERO, takeCall::SELECTOR, item, 1, B256::ZERO)
    }

    proptest! {
        #[test]
        fn joined_call_has_all_items_in_their_order(
            items in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..80)), 1..6),
        ) {
            let item = |(number, data): &(u64, Vec<u8>)| Item {
                number: U256::from(*number), data: data.clone().into(),
            };
            let items: Vec<Item> = items.iter().map(item).collect();
            let calls: Vec<Call> = items.iter().map(call).collect();
            let calls: Vec<&Call> = calls.iter().collect();
            let joined = Call::joined(&calls).unwrap();
            prop_assert_eq!(&joined, &takeCall { items: items.clone() }.abi_encode());
            let alone = takeCall { items: vec![items[0].clone()] };
            prop_assert_eq!(&calls[0].data, &alone.abi_encode());
        }
    }

    #[test]
    fn only_calls_of_one_function_and_contract_are_joined() {
        let item = call(&Item {
            number: U256::ZERO,
            data: Bytes::new(),
        });
        assert!(item.is_joinable(&item));
        let elsewhere = Call {
            to: Address::repeat_byte(1),
            ..item.clone()
        };
        let other = Call::of_item(item.to, [1; 4], Bytes::new(), 1, B256::ZERO);
        let plain = Call::new(item.to, item.data.clone(), 1, B256::ZERO);
        for odd in [&elsewhere, &other, &plain] {
            assert!(!item.is_joinable(odd) && !odd.is_joinable(&item));
        }
        assert_eq!(Call::joined(&[&item, &plain]), None);
    }
}
