//! The keys that a type reads, as serde knows them.

use serde::de::value::Error;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

/// The names of the fields that `T` deserializes from a table. Empty for a type that is not a
/// struct.
pub(crate) fn keys_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut keys: &[&str] = &[];
    // The deserializer ends with an error in every case: only the names are wanted.
    let _ = T::deserialize(KeyReader(&mut keys));
    keys
}

struct KeyReader<'k>(&'k mut &'static [&'static str]);

impl<'de> Deserializer<'de> for KeyReader<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("only the names were wanted"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Table {
        #[serde(rename = "one")]
        _one: u8,
        #[serde(default, rename = "two")]
        _two: Option<u8>,
    }

    #[test]
    fn the_keys_of_a_struct_are_its_field_names() {
        assert_eq!(keys_of::<Table>(), ["one", "two"]);
        assert_eq!(keys_of::<Vec<Table>>(), [""; 0]);
    }
}
