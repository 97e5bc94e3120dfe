//! Invalid messages, as far as they can be parsed.
//!
//! A facilitator that names a transaction may have transferred money, whatever the rest of its
//! response says. So the transaction is also read from a response that is cut off, has a duplicate
//! field, or has trailing text.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::SettleResponse;
use crate::Malformed;
use crate::json::Json;
use crate::json::{self, Key, TEXT_MAX};

/// The field names that facilitators and sellers use for a transaction, the specification's first.
/// Compared without case, underscores and hyphens.
const TRANSACTION_NAMES: [&str; 10] = [
    "transaction",
    "transactionhash",
    "txhash",
    "transactionid",
    "txid",
    "tx",
    "transactionsignature",
    "txsignature",
    "hash",
    "signature",
];

/// How many levels below its field a transaction is searched. `{"transaction": {"tx": [{"hash":
/// …}]}}` is deeper than any that was seen.
const NESTED_MAX: usize = 3;

/// The longest transaction id, in characters. Solana's have 88, in base58, and no chain's have
/// twice as many.
const TRANSACTION_MAX: usize = 128;

/// The longest network name, in characters. CAIP-2 allows 8, a colon and 32.
const NETWORK_MAX: usize = 41;

/// A response about a settlement that is not valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableSettlement {
    /// What is wrong with it.
    pub malformed: Malformed,
    /// The transaction that it names nevertheless. It may have transferred money.
    pub transaction: Option<String>,
}

impl SettleResponse {
    /// Reads a facilitator's response to `POST /settle`, or a server's receipt. `name` is the name
    /// of the message, for errors. Accepts a transaction under another name than the
    /// specification's.
    ///
    /// # Errors
    /// When `success` is not the JSON value `true` or `false`, or the text is not strict JSON. The
    /// error has the transaction that the readable part names.
    pub fn read(name: &str, text: &[u8]) -> Result<Self, UnreadableSettlement> {
        match json::read::<Self>(name, text) {
            Ok(mut settled) => {
                if settled.transaction.is_empty() {
                    settled.transaction = transaction_named(text).unwrap_or_default();
                }
                Ok(settled)
            }
            Err(malformed) => Err(UnreadableSettlement {
                malformed,
                transaction: transaction_named(text),
            }),
        }
    }
}

/// The transaction in a response to `POST /settle` or in a receipt, under any of its known names.
/// The text need not be valid as a whole.
pub fn transaction_named(text: &[u8]) -> Option<String> {
    transaction_in(&Fields::read(text), NESTED_MAX)
}

/// Reads the field `transaction`: a string, or an object with an id in it.
pub(super) fn transaction(json: &Json) -> Result<Option<String>, &'static str> {
    match json.text() {
        "null" => Ok(None),
        text if text.starts_with('{') => Ok(id(text, NESTED_MAX)),
        _ => json.read("text").map(Some).map_err(|_| "expected a text"),
    }
}

fn transaction_in(fields: &Fields, nested: usize) -> Option<String> {
    TRANSACTION_NAMES.iter().find_map(|wanted| {
        let mut named = fields.0.iter().filter(|(name, _)| plain(name) == *wanted);
        named.find_map(|(_, value)| id(value.get(), nested))
    })
}

/// The transaction id in a field that names it: a string of letters and digits, as on every chain,
/// or one in an object or a list.
fn id(json: &str, nested: usize) -> Option<String> {
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str(json)
            .ok()
            .filter(|text: &String| is_id(text)),
        b'{' if nested > 0 => {
            let fields = Fields::read(json.as_bytes());
            let own = || id(fields.get("id")?.get(), nested - 1);
            transaction_in(&fields, nested - 1).or_else(own)
        }
        b'[' if nested > 0 => {
            let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            items.iter().find_map(|item| id(item.get(), nested - 1))
        }
        _ => None,
    }
}

fn is_id(text: &str) -> bool {
    (1..=TRANSACTION_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn plain(name: &str) -> String {
    name.replace(['_', '-'], "").to_ascii_lowercase()
}

/// The network of a facilitator request: that of its requirements, or else that of its payload. The
/// request need not be valid as a whole.
pub fn network_named(body: &[u8]) -> Option<String> {
    let fields = Fields::read(body.get(..TEXT_MAX).unwrap_or(body));
    let inner = |name| Some(Fields::read(fields.get(name)?.get().as_bytes()));
    let payload = inner("paymentPayload");
    let accepted = payload.as_ref().and_then(|payload| {
        let accepted = payload.get("accepted")?;
        Some(Fields::read(accepted.get().as_bytes()))
    });
    let sources = [inner("paymentRequirements"), accepted, payload];
    let network = |fields: &Fields| {
        let network: String = serde_json::from_str(fields.get("network")?.get()).ok()?;
        (network.len() <= NETWORK_MAX).then_some(network)
    };
    sources.iter().flatten().find_map(network)
}

/// The fields of an object in their order, as far as they can be read.
#[derive(Default)]
struct Fields(Vec<(String, Box<RawValue>)>);

impl Fields {
    /// Never fails: returns the fields before the first error.
    fn read(text: &[u8]) -> Self {
        let mut fields = Self::default();
        let mut reader = serde_json::Deserializer::from_slice(text);
        // An error ends the reading. The fields before it stay.
        let _ = Reading(&mut fields).deserialize(&mut reader);
        fields
    }

    /// The first field of this name.
    fn get(&self, name: &str) -> Option<&RawValue> {
        let mut fields = self.0.iter();
        let (_, value) = fields.find(|(known, _)| known == name)?;
        Some(value)
    }
}

/// Reads an object's fields into a value that remains after an error.
struct Reading<'a>(&'a mut Fields);

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key_seed(Key)? {
            if self.0.0.len() >= super::Rest::FIELDS_MAX {
                let _: IgnoredAny = entries.next_value()?;
                return Err(A::Error::custom("too many fields"));
            }
            let value = entries.next_value()?;
            self.0.0.push((key.into_owned(), value));
        }
        Ok(())
    }
}
