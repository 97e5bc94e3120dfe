//! Strict JSON: no duplicate keys, limited nesting, and errors that name the field.
//!
//! Two readers of one document must never see two values. Most JSON parsers silently take the first
//! or the last of two equal keys; this module refuses such a document. Text that we only pass on,
//! such as an extension's data, keeps its exact bytes.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::Malformed;

/// How deep objects and lists may nest. The deepest message of any published scheme has seven
/// levels. 32 leaves space for extensions with JSON Schemas in them, and recursion to this depth
/// needs little stack.
pub const DEPTH_MAX: usize = 32;

/// The longest request or message that is read, in bytes. A payment takes one to three kilobytes.
/// The largest known one, a smart wallet's signature with an extension or two, takes less than 32
/// KiB.
pub const TEXT_MAX: usize = 64 * 1024;

/// The largest integer that may be a JSON number in a field for which the protocol specifies digits
/// in a string: 2^53 - 1. Parsers that use floating point, as JavaScript does, see another value
/// above it (RFC 7493 section 2.2).
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Reads a `T` from JSON text, strictly.
///
/// # Errors
/// [`Malformed`], naming the field under `name`, when the text is longer than [`TEXT_MAX`], is not
/// JSON, repeats a key, nests deeper than [`DEPTH_MAX`], or is not a `T`.
pub fn read<T: DeserializeOwned>(name: &str, text: &[u8]) -> Result<T, Malformed> {
    if text.len() > TEXT_MAX {
        return Err(Malformed::new(
            name,
            format_args!("longer than {TEXT_MAX} bytes"),
        ));
    }
    // Validating the whole text once is several times faster than validating each string.
    let read = match std::str::from_utf8(text) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(text),
    };
    read.map_err(|error| locate::<T>(name, text, error))
}

/// Reads a string, or an integer up to [`NUMBER_MAX`] as its digits. For fields that some senders
/// write as a number, such as a token's EIP-712 version: `#[serde(default, deserialize_with =
/// "text_or_integer")]`.
///
/// # Errors
/// For everything else. A fraction or an exponent has more than one spelling.
pub fn text_or_integer<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let json = Option::<Json>::deserialize(deserializer)?;
    let digits = json.map(|json| text_digits(&json));
    let digits = digits.transpose().map_err(de::Error::custom)?;
    Ok(digits.flatten())
}

/// Reads a `T`, or `None` if the value is not one. For informational fields: `#[serde(default,
/// deserialize_with = "where_readable")]`.
///
/// # Errors
/// When the text is not strict JSON.
pub fn where_readable<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let json = Option::<Json>::deserialize(deserializer)?;
    Ok(json.and_then(|json| json.read("value").ok()))
}

/// A string of digits, or a number if it is an integer that every parser reads alike.
pub(crate) fn text_digits(json: &Json) -> Result<Option<String>, &'static str> {
    const EXPECTED: &str =
        "expected a text, or an integer up to 2^53 - 1 without fraction or exponent";
    if json.text() == "null" {
        return Ok(None);
    }
    if json.text().starts_with('"') {
        return json.read("text").map(Some).map_err(|_| EXPECTED);
    }
    match integer(json.text()) {
        Some(number) if number <= NUMBER_MAX => Ok(Some(json.text().to_owned())),
        _ => Err(EXPECTED),
    }
}

/// The value of digits without a sign, a leading zero, a fraction or an exponent.
pub(crate) fn integer(text: &str) -> Option<u64> {
    let is_canonical = match text.as_bytes() {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    text.parse().ok().filter(|_| is_canonical)
}

/// Finds the field that an error is about. Only failures need this second reading.
fn locate<T: DeserializeOwned>(name: &str, text: &[u8], error: serde_json::Error) -> Malformed {
    let mut reader = serde_json::Deserializer::from_slice(text);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(located) => {
            // A question mark is the path of a field whose name could not be read. The object
            // around it is named instead.
            let path = located.path().to_string();
            let field = match path.trim_end_matches('?').trim_end_matches('.') {
                "" => name.to_owned(),
                path if path.starts_with('[') => format!("{name}{path}"),
                path => format!("{name}.{path}"),
            };
            Malformed::new(field, located.into_inner())
        }
        // Trailing characters: the value itself is correct.
        Ok(_) => Malformed::new(name, error),
    }
}

/// A JSON value with its exact text. No object in it has a duplicate key, and it has at most
/// [`DEPTH_MAX`] levels.
#[derive(Clone)]
pub struct Json(Box<RawValue>);

impl Json {
    /// The JSON of a value.
    ///
    /// # Errors
    /// When the value cannot be written as JSON, or not strictly.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, Malformed> {
        let raw = serde_json::value::to_raw_value(value)
            .map_err(|error| Malformed::new("value", error))?;
        check(raw.get()).map_err(|error| Malformed::new("value", error))?;
        Ok(Self(raw))
    }

    /// The exact text.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// The value as a tree, for comparing and walking.
    pub fn tree(&self) -> serde_json::Value {
        serde_json::from_str(self.text()).expect("checked when it was made")
    }

    /// Reads a `T` from it. `name` is the name of the value, for errors.
    ///
    /// # Errors
    /// When it is not a `T`.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T, Malformed> {
        read(name, self.text().as_bytes())
    }
}

impl PartialEq for Json {
    /// Whether the values are equal. White space and the order of keys do not matter.
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text() || self.tree() == other.tree()
    }
}

impl Eq for Json {}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        check(raw.get()).map_err(de::Error::custom)?;
        Ok(Self(raw))
    }
}

/// A [`Json`] value that is an object.
#[derive(Clone, PartialEq, Eq)]
pub struct Object(Json);

impl Object {
    /// The JSON of a value that is written as an object.
    ///
    /// # Errors
    /// When it is not an object, or cannot be written strictly.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, Malformed> {
        Self::from_json(Json::of(value)?).ok_or_else(|| Malformed::new("value", "not an object"))
    }

    fn from_json(json: Json) -> Option<Self> {
        json.text().starts_with('{').then_some(Self(json))
    }

    /// The exact text.
    pub fn text(&self) -> &str {
        self.0.text()
    }

    /// The object as a tree.
    pub fn tree(&self) -> serde_json::Map<String, serde_json::Value> {
        match self.0.tree() {
            serde_json::Value::Object(map) => map,
            _ => unreachable!("an object starts with a brace"),
        }
    }

    /// Reads a `T` from it. `name` is the name of the value, for errors.
    ///
    /// # Errors
    /// When it is not a `T`.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T, Malformed> {
        self.0.read(name)
    }

    /// This object with the fields of another one behind its own, which keep their text.
    ///
    /// # Errors
    /// When both have a field of the same name.
    pub fn joined(&self, more: &Self) -> Result<Self, Malformed> {
        let open = self.text().strip_suffix('}').unwrap_or_default().trim_end();
        let rest = more.text().strip_prefix('{').unwrap_or_default();
        let is_empty = |part: &str, brace| part.trim_start().starts_with(brace);
        let comma = match open == "{" || is_empty(rest, '}') {
            true => "",
            false => ",",
        };
        read("object", format!("{open}{comma}{rest}").as_bytes())
    }

    /// Whether this object has every field of `advertised` with exactly the same value. It may have
    /// more fields.
    ///
    /// A client's copy of `extra` and of extensions is compared with the seller's in this way.
    pub fn contains(&self, advertised: &Self) -> bool {
        contains(&self.0.tree(), &advertised.0.tree())
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Json::deserialize(deserializer)?;
        Self::from_json(json).ok_or_else(|| de::Error::custom("expected an object"))
    }
}

fn contains(whole: &serde_json::Value, part: &serde_json::Value) -> bool {
    use serde_json::Value;
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(key, part)| whole.get(key).is_some_and(|whole| contains(whole, part))),
        (whole, part) => whole == part,
    }
}

/// Walks JSON text without building a value. Refuses duplicate keys and deep nesting.
fn check(text: &str) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    Walk {
        depth_left: DEPTH_MAX,
    }
    .deserialize(&mut reader)?;
    reader.end()
}

/// Visits one value and all values in it.
#[derive(Clone, Copy)]
struct Walk {
    depth_left: usize,
}

impl Walk {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Self { depth_left }),
            None => Err(E::custom(format_args!("nests deeper than {DEPTH_MAX}"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        while items.next_element_seed(deeper)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        let mut keys = Keys::default();
        while let Some(key) = entries.next_key_seed(Key)? {
            if let Some(repeated) = keys.repeats(key) {
                return Err(de::Error::custom(format_args!(
                    "duplicate field `{repeated}`"
                )));
            }
            entries.next_value_seed(deeper)?;
        }
        Ok(())
    }
}

/// The keys of one object so far: a list for few keys, a set for thousands.
#[derive(Default)]
struct Keys<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Keys<'de> {
    /// Up to this number of keys, comparing each with each is faster than hashing.
    const FEW: usize = 16;

    /// Adds a key. Returns the key if it was present before.
    fn repeats(&mut self, key: Cow<'de, str>) -> Option<Cow<'de, str>> {
        if self.few.contains(&key) || self.many.contains(&key) {
            return Some(key);
        }
        if self.few.len() < Self::FEW {
            self.few.push(key);
        } else {
            self.many.insert(key);
        }
        None
    }
}

/// Reads an object's key, borrowed from the text if it has no escapes.
pub(crate) struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }
    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(depth: usize) -> String {
        format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn joined_objects_have_the_fields_of_both() {
        let object = |text: &str| serde_json::from_str::<Object>(text).unwrap();
        for (own, more, both) in [
            ("{}", "{}", "{}"),
            (r#"{"a":1}"#, "{ }", r#"{"a":1}"#),
            ("{ }", r#"{"b":2}"#, r#"{"b":2}"#),
            (r#"{ "a" : 1.50 }"#, r#"{"b":{}}"#, r#"{"a":1.50,"b":{}}"#),
        ] {
            assert_eq!(object(own).joined(&object(more)), Ok(object(both)), "{own}");
        }
        let kept = object(r#"{"a":1.50}"#).joined(&object(r#"{"b":2}"#));
        assert_eq!(kept.unwrap().text(), r#"{"a":1.50,"b":2}"#);
        let twice = object(r#"{"a":1}"#).joined(&object(r#"{"\u0061":2}"#));
        assert!(twice.is_err());
    }

    #[test]
    fn a_repeated_key_is_refused_at_any_depth() {
        for text in [
            r#"{"amount":"1","amount":"2"}"#,
            r#"{"a":{"b":[{"c":1,"c":1}]}}"#,
            r#"{"amount":"1","\u0061mount":"2"}"#,
        ] {
            let error = read::<Json>("body", text.as_bytes()).unwrap_err();
            assert!(error.problem.contains("duplicate field"), "{error}");
        }
        let many: Vec<String> = (0..5000).map(|key| format!("\"{key}\":0")).collect();
        assert!(read::<Json>("body", format!("{{{}}}", many.join(",")).as_bytes()).is_ok());
        assert!(
            read::<Json>(
                "body",
                format!("{{{},\"4999\":1}}", many.join(",")).as_bytes()
            )
            .is_err()
        );
    }

    #[test]
    fn nesting_is_bounded() {
        assert!(read::<Json>("body", nested(DEPTH_MAX).as_bytes()).is_ok());
        for depth in [DEPTH_MAX + 1, 20_000] {
            assert!(read::<Json>("body", nested(depth).as_bytes()).is_err());
        }
    }

    #[test]
    fn length_is_bounded() {
        let text = format!("\"{}\"", "a".repeat(TEXT_MAX));
        assert!(
            read::<Json>("body", text.as_bytes())
                .unwrap_err()
                .problem
                .contains("longer")
        );
    }

    #[test]
    fn an_object_is_not_a_list_nor_text() {
        assert!(read::<Object>("extra", b" {} ").is_ok());
        for text in ["[]", "\"{\"", "1", "null"] {
            assert!(read::<Object>("extra", text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_echo_may_say_more_and_never_less() {
        let object = |text: &str| read::<Object>("test", text.as_bytes()).unwrap();
        let advertised = object(r#"{"name":"USDC","nested":{"a":[1,2]}}"#);
        assert!(
            object(r#"{"nested":{"b":0,"a":[1,2]},"name":"USDC","more":true}"#)
                .contains(&advertised)
        );
        for less in [
            r#"{"name":"USDC"}"#,
            r#"{"name":"usdc","nested":{"a":[1,2]}}"#,
            r#"{"name":"USDC","nested":{"a":[2,1]}}"#,
        ] {
            assert!(!object(less).contains(&advertised), "{less}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = read::<Json>("body", &bytes);
        }

        #[test]
        fn no_json_like_text_panics(text in r#"[\[\]{}",:0-9eE.+\-a-z\\ ]{0,60}"#) {
            if let Ok(json) = read::<Json>("body", text.as_bytes()) {
                let again = read::<Json>("body", serde_json::to_string(&json).unwrap().as_bytes()).unwrap();
                prop_assert_eq!(again.text(), json.text());
            }
        }
    }
}
