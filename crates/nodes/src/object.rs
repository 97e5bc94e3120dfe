//! JSON objects that must be objects.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// A `T` that is read from a JSON object only.
///
/// serde also reads a struct from a list of its fields. Without this type, `[null, null]` would
/// read as a simulation without an error.
#[derive(Debug, Clone)]
pub struct Object<T>(pub T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Map::deserialize(deserializer)?;
        let read = serde_json::from_value(Value::Object(fields));
        read.map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Simulation {
        err: Value,
    }

    #[test]
    fn list_is_not_read_as_an_object() {
        let read = serde_json::from_str::<Object<Simulation>>;
        assert_eq!(read(r#"{ "err": null }"#).unwrap().0.err, Value::Null);
        for text in ["[null]", "[null, null]", "null", "1", "{}x"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
