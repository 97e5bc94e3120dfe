//! A hash of JSON that does not depend on its spelling.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::json::Object;

impl Object {
    /// The hash of the object's values, independent of white space, the order of keys and the case
    /// of letters. Two payloads with one hash can move the same money only once.
    ///
    /// Addresses and signatures may be hexadecimal in either case. Where case matters, as in
    /// base64, no two payloads that differ only in case are both signed.
    pub fn canonical_hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash_value(&mut hash, &Value::Object(self.tree()));
        hash.finalize().into()
    }
}

/// Hashes a value. Its kind and its length come first, so that no two values have the same
/// encoding.
fn hash_value(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Null => head(hash, b'n', 0),
        Value::Bool(value) => head(hash, b'b', usize::from(*value)),
        Value::Number(number) => text(hash, b'd', &number.to_string()),
        Value::String(value) => text(hash, b's', value),
        Value::Array(values) => {
            head(hash, b'a', values.len());
            values.iter().for_each(|value| hash_value(hash, value));
        }
        Value::Object(fields) => {
            head(hash, b'o', fields.len());
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            for (name, value) in fields {
                text(hash, b'k', name);
                hash_value(hash, value);
            }
        }
    }
}

fn head(hash: &mut Sha256, kind: u8, length: usize) {
    hash.update([kind]);
    hash.update((length as u64).to_be_bytes());
}

fn text(hash: &mut Sha256, kind: u8, text: &str) {
    head(hash, kind, text.len());
    hash.update(text.to_ascii_lowercase());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(text: &str) -> [u8; 32] {
        let object: Object = serde_json::from_str(text).unwrap();
        object.canonical_hash()
    }

    #[test]
    fn hash_depends_on_values_and_not_on_spelling() {
        let one = hash_of(r#"{"a":{"x":"0xAB","y":[1,"2"]},"b":true}"#);
        for same in [
            r#"{"b":true,"a":{"y":[1,"2"],"x":"0xAB"}}"#,
            r#" { "a" : { "x" : "0xab" , "y" : [ 1 , "2" ] } , "b" : true } "#,
            r#"{"a":{"x":"0x\u0041B","y":[1,"2"]},"b":true}"#,
        ] {
            assert_eq!(hash_of(same), one, "{same}");
        }
        for other in [
            r#"{"a":{"x":"0xAC","y":[1,"2"]},"b":true}"#,
            r#"{"a":{"x":"0xAB","y":["2",1]},"b":true}"#,
            r#"{"a":{"x":"0xAB","y":[1,2]},"b":true}"#,
            r#"{"a":{"x":"0xAB","y":[1,"2"]},"b":false}"#,
            r#"{"a":{"x":"0xAB","y":[1,"2"],"b":true}}"#,
            "{}",
        ] {
            assert_ne!(hash_of(other), one, "{other}");
        }
    }
}
