//! Readers of fields that some senders write differently from the specification.
//!
//! There are two kinds. The readers in [`exact`] are for fields that affect a payment. They accept
//! a second spelling only if every JSON parser sees the same value in it. The readers in [`loose`]
//! are for informational fields: they accept anything. Both keep the original spelling for
//! serialization.

use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error};
use serde::{Deserialize, Serialize};

use crate::json::Json;

/// Reads one field. `Ok(None)` is an absent value. An error says what was expected.
pub(crate) type Reader<T> = fn(&Json) -> Result<Option<T>, &'static str>;

/// A field's value, and its original text if we would serialize it differently.
pub(crate) struct Spelled<T> {
    pub(crate) value: Option<T>,
    pub(crate) unusual: Option<Json>,
}

/// Reads a field inside its message, so that an error names the field.
pub(crate) struct Spelling<T>(pub(crate) Reader<T>, pub(crate) PhantomData<T>);

impl<'de, T: Serialize> DeserializeSeed<'de> for Spelling<T> {
    type Value = Spelled<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Spelled<T>, D::Error> {
        let json = Json::deserialize(deserializer)?;
        let value = (self.0)(&json).map_err(D::Error::custom)?;
        let is_usual = match &value {
            Some(value) => serde_json::to_string(value).is_ok_and(|usual| usual == json.text()),
            None => is_null(&json),
        };
        Ok(Spelled {
            value,
            unusual: (!is_usual).then_some(json),
        })
    }
}

fn is_null(json: &Json) -> bool {
    json.text() == "null"
}

/// Fields that affect a payment.
pub(crate) mod exact {
    use super::{Json, is_null};
    use crate::json::integer;
    pub(crate) use crate::json::text_digits as digits;

    /// An integer, or a string if it is an integer in canonical decimal digits.
    pub(crate) fn count(json: &Json) -> Result<Option<u64>, &'static str> {
        if is_null(json) {
            return Ok(None);
        }
        let text = json.text();
        let quoted = text.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
        let number = integer(quoted.unwrap_or(text));
        number
            .map(Some)
            .ok_or("expected an integer without sign, fraction or exponent")
    }
}

/// Informational fields.
pub(crate) mod loose {
    use serde::de::DeserializeOwned;

    use super::{Json, is_null};

    /// Text for people: a string, or else the JSON itself.
    pub(crate) fn words(json: &Json) -> Result<Option<String>, &'static str> {
        if is_null(json) {
            return Ok(None);
        }
        let text = json.read("words");
        Ok(Some(text.unwrap_or_else(|_| json.text().to_owned())))
    }

    /// The value if it is a `T`. Anything else counts as absent.
    pub(crate) fn value<T: DeserializeOwned>(json: &Json) -> Result<Option<T>, &'static str> {
        Ok(json.read("value").ok())
    }

    /// The items of a list that are a `T`.
    pub(crate) fn items<T: DeserializeOwned>(json: &Json) -> Result<Option<Vec<T>>, &'static str> {
        let items: Vec<Json> = json.read("list").map_err(|_| "expected a list")?;
        let readable = items.iter().filter_map(|item| item.read("item").ok());
        Ok(Some(readable.collect()))
    }
}
