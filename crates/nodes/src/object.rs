//! Objects that are objects.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// A `T` that a node told as an object. By itself serde also takes a list for a struct, field by
/// field, so that `[null, null]` would read as a simulation without an error.
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
    fn a_list_is_no_object() {
        let read = serde_json::from_str::<Object<Simulation>>;
        assert_eq!(read(r#"{ "err": null }"#).unwrap().0.err, Value::Null);
        for text in ["[null]", "[null, null]", "null", "1", "{}x"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
