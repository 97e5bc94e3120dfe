//! Scheme state: what outlives a payment and is changed by many payments.
//!
//! Most schemes need none of it: their payments are one authorization and one transfer. A scheme
//! with channels, holds in escrow or sponsored gas keeps a small record for each of them.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::identity::identity;
use crate::json::Object;
use crate::{Fault, Malformed, Timestamp};

identity! {
    /// The identity of a state record: of a channel, a hold, or a payer whose gas is paid.
    ///
    /// It is the SHA-256 hash of the parts that make the thing unique, such as chain, contract and
    /// channel. Two schemes must not use the same parts.
    StateId
}

/// A state record as it is stored. Only its scheme reads and writes the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemeState {
    /// The identity.
    pub id: StateId,
    /// The network's CAIP-2 identifier.
    pub network: String,
    /// The name of the scheme that writes it.
    pub scheme: String,
    /// How many times it was written: 1 after the first write. A record that was never written has
    /// the revision 0 and does not exist.
    pub revision: u64,
    /// The content, in the scheme's own format. A format should begin with its version, and should
    /// be JSON if operators are to read it.
    pub state: Vec<u8>,
    /// When the scheme wants to look after it.
    pub due: Option<Timestamp>,
}

impl SchemeState {
    /// The first content of a record that does not exist yet.
    pub fn new(
        id: StateId,
        network: impl Into<String>,
        scheme: impl Into<String>,
        state: Vec<u8>,
    ) -> Self {
        Self {
            id,
            network: network.into(),
            scheme: scheme.into(),
            revision: 1,
            state,
            due: None,
        }
    }

    /// The record with its next content, one revision later.
    #[must_use]
    pub fn next(&self, state: Vec<u8>, due: Option<Timestamp>) -> Self {
        Self {
            revision: self.revision + 1,
            state,
            due,
            ..self.clone()
        }
    }
}

/// What an answer about a settled payment says in the scheme's own way. It is stored with the
/// settlement, so that a later answer says the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemeReceipt {
    /// The answer's `amount`, if it is not the settled amount: empty for a voucher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// More fields of the answer's `extra`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Object>,
}

impl SchemeReceipt {
    /// Whether the answer needs nothing from it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The receipt as JSON text, for journals.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("text, and an object that is JSON already")
    }

    /// Reads what [`to_text`](Self::to_text) wrote, whatever its length.
    ///
    /// # Errors
    /// When the text is not a receipt.
    pub fn from_text(text: &str) -> Result<Self, Malformed> {
        let read = || {
            // A derived parser also takes a list of the fields.
            let object: Object = serde_json::from_str(text)?;
            serde_json::from_str(object.text())
        };
        read().map_err(|error: serde_json::Error| Malformed::new("receipt", error))
    }
}

/// Stores state records. The engine's journal is one. A seller that keeps its channels itself needs
/// no other part of a journal.
///
/// **An implementation must** return from a method that writes only when the write survives a crash
/// of the machine, and apply each write completely or not at all. Of two writes of one revision, at
/// most one may succeed, among all users of the store.
///
/// **The caller promises** that a record's network and scheme never change, and that it judges a
/// payment again with the newest record after a write that returned `false`.
///
/// ```
/// use quittance_core::{Fault, SchemeState, StateId, StateStore};
///
/// /// Adds a price to what a channel owes. Returns the new sum.
/// async fn charge(store: &dyn StateStore, channel: StateId, price: u64) -> Result<u64, Fault> {
///     loop {
///         let (next, sum) = match store.state(&channel).await? {
///             None => {
///                 let first = price.to_be_bytes().to_vec();
///                 (SchemeState::new(channel, "example:1", "stream", first), price)
///             }
///             Some(record) => {
///                 let owed: [u8; 8] = record.state[..].try_into().expect("eight bytes");
///                 let sum = u64::from_be_bytes(owed) + price;
///                 (record.next(sum.to_be_bytes().to_vec(), None), sum)
///             }
///         };
///         // Another request was faster: add to its sum.
///         if store.write_state(&next).await? {
///             return Ok(sum);
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Fault> {
/// # let environment = quittance_testing::world::Environment::new();
/// # let store = environment.journal().await;
/// let channel = StateId::from_parts(&[b"example:1", b"a channel"]);
/// assert_eq!(charge(&store, channel, 5).await?, 5);
/// assert_eq!(charge(&store, channel, 7).await?, 12);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait StateStore: Send + Sync + 'static {
    /// A state record. `None` if it was never written.
    ///
    /// # Errors
    /// When it cannot be read.
    async fn state(&self, id: &StateId) -> Result<Option<SchemeState>, Fault>;

    /// Writes a state record if the stored one has the revision before, and no open settlement has
    /// it exclusively. Returns whether it was written; `false` changes nothing.
    ///
    /// # Errors
    /// When it could not be written.
    async fn write_state(&self, state: &SchemeState) -> Result<bool, Fault>;

    /// At most `limit` records of this scheme whose `due` has come by `now`, the most urgent first.
    /// The stored `due` of each becomes `again`, so that a record whose upkeep fails is not the
    /// first one every time. The revision stays: no payment is judged again for this. The returned
    /// records have the `due` from before.
    ///
    /// # Errors
    /// When they cannot be read or written.
    async fn due_states(
        &self,
        network: &str,
        scheme: &str,
        now: Timestamp,
        again: Timestamp,
        limit: u32,
    ) -> Result<Vec<SchemeState>, Fault>;

    /// Sets the `due` of records to these times. `None` means not before the next write. Skips
    /// every record that has another revision than the one seen, because its writer has set `due`.
    ///
    /// # Errors
    /// When they could not be written.
    async fn put_off_states(&self, seen: &[(SchemeState, Option<Timestamp>)]) -> Result<(), Fault>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn parts_of_a_state_id_do_not_run_together() {
        assert_ne!(
            StateId::from_parts(&[b"ab", b"c"]),
            StateId::from_parts(&[b"a", b"bc"])
        );
    }

    #[test]
    fn a_receipt_is_read_strictly() {
        assert_eq!(SchemeReceipt::from_text("{}"), Ok(SchemeReceipt::default()));
        for odd in [
            "",
            "[]",
            "{\"amount\":7}",
            "{\"other\":1}",
            "{\"extra\":[]}",
            "{} {}",
        ] {
            assert!(SchemeReceipt::from_text(odd).is_err(), "{odd}");
        }
    }

    proptest! {
        #[test]
        fn printed_state_id_parses_back_to_itself(bytes: [u8; 32]) {
            let id = StateId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        /// A long receipt must be readable too: the money has moved.
        #[test]
        fn receipt_text_reads_back(
            amount in prop::option::of(".*"),
            extra in prop::option::of(prop::collection::btree_map(".{0,8}", ".*", 0..4)),
            length in prop::sample::select(vec![0_usize, 200_000]),
        ) {
            let extra = extra.map(|fields| json!({ "fields": fields, "long": "x".repeat(length) }));
            let extra = extra.map(|extra| Object::of(&extra).unwrap());
            let receipt = SchemeReceipt { amount, extra };
            let text = receipt.to_text();
            prop_assert_eq!(SchemeReceipt::from_text(&text), Ok(receipt));
        }
    }
}
