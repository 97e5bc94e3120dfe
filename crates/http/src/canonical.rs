//! A payment's authorization, however it is spelled.

use quittance_core::PaymentRequest;
use quittance_core::json::Object;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What stands for one authorization: the hash of its payload, read.
pub type Hash = [u8; 32];

/// What stands for the authorization of a request. Where the seller's offer could tell which one it
/// is, unknown fields in the payload make no difference; else all of the payload counts.
pub fn authorization(request: &PaymentRequest) -> Hash {
    match &request.authorization {
        Some(id) => *id.as_bytes(),
        None => hash(&request.payload),
    }
}

/// The hash of what a payload says, not of how it is written: white space, the order of keys and the case of letters make no
/// difference. Addresses and signatures are hexadecimal in any case; where case does mean something, as in base64, two
/// payloads that differ in nothing else are never both signed.
pub fn hash(payload: &Object) -> Hash {
    let mut hash = Sha256::new();
    // Checked when it was made; an object that could not be read would stand for itself.
    match serde_json::from_str(payload.text()) {
        Ok(tree) => add(&mut hash, &tree),
        Err(_) => hash.update(payload.text()),
    }
    hash.finalize().into()
}

/// Adds a value. Each begins with its kind and its length, so that no two values are written alike.
fn add(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Null => head(hash, b'n', 0),
        Value::Bool(value) => head(hash, b'b', usize::from(*value)),
        Value::Number(number) => text(hash, b'd', &number.to_string()),
        Value::String(value) => text(hash, b's', value),
        Value::Array(values) => {
            head(hash, b'a', values.len());
            values.iter().for_each(|value| add(hash, value));
        }
        Value::Object(fields) => {
            head(hash, b'o', fields.len());
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            for (name, value) in fields {
                text(hash, b'k', name);
                add(hash, value);
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

    fn of(text: &str) -> Hash {
        hash(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_spelling_makes_no_other_payment_and_a_value_does() {
        let one = of(r#"{"a":{"x":"0xAB","y":[1,"2"]},"b":true}"#);
        for same in [
            r#"{"b":true,"a":{"y":[1,"2"],"x":"0xAB"}}"#,
            r#" { "a" : { "x" : "0xab" , "y" : [ 1 , "2" ] } , "b" : true } "#,
            r#"{"a":{"x":"0x\u0041B","y":[1,"2"]},"b":true}"#,
        ] {
            assert_eq!(of(same), one, "{same}");
        }
        for other in [
            r#"{"a":{"x":"0xAC","y":[1,"2"]},"b":true}"#,
            r#"{"a":{"x":"0xAB","y":["2",1]},"b":true}"#,
            r#"{"a":{"x":"0xAB","y":[1,2]},"b":true}"#,
            r#"{"a":{"x":"0xAB","y":[1,"2"]},"b":false}"#,
            r#"{"a":{"x":"0xAB","y":[1,"2"],"b":true}}"#,
            "{}",
        ] {
            assert_ne!(of(other), one, "{other}");
        }
    }
}
