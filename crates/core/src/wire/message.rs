//! The macro that defines a wire message: its type, its parser and its serializer.
//!
//! Derived parsers either drop unknown fields or buffer the whole message to keep them, and they
//! accept duplicate unknown fields. The parsers here read a message in one pass, keep unknown
//! fields, and refuse every duplicate key.

use super::reading::Reader;
use crate::json::Json;

/// The unknown fields of a message, with their exact text and in their order. It also has the
/// spelling of known fields that came in an unusual one.
///
/// Two values are equal if their unknown fields are: a spelling changes no meaning.
#[derive(Debug, Clone, Default)]
pub struct Rest {
    unknown: Vec<(String, Json)>,
    unusual: Vec<(&'static str, Json)>,
}

impl PartialEq for Rest {
    fn eq(&self, other: &Self) -> bool {
        self.unknown == other.unknown
    }
}

impl Rest {
    /// The largest number of unknown fields. No message of the protocol has this many fields in
    /// all.
    pub const FIELDS_MAX: usize = 64;

    /// The unknown field of this name.
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.unknown
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }

    /// Whether there are no unknown fields.
    pub fn is_empty(&self) -> bool {
        self.unknown.is_empty()
    }

    /// The unknown fields.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.unknown
            .iter()
            .map(|(name, value)| (name.as_str(), value))
    }

    pub(crate) fn push<E: serde::de::Error>(&mut self, name: String, value: Json) -> Result<(), E> {
        if self.get(&name).is_some() {
            return Err(E::custom(format_args!("duplicate field `{name}`")));
        }
        if self.unknown.len() == Self::FIELDS_MAX {
            return Err(E::custom(format_args!(
                "more than {} unknown fields",
                Self::FIELDS_MAX
            )));
        }
        self.unknown.push((name, value));
        Ok(())
    }

    /// Remembers the spelling of a known field.
    pub(crate) fn remember(&mut self, field: &'static str, written: Option<Json>) {
        self.unusual.extend(written.map(|written| (field, written)));
    }

    /// The spelling of a known field, if the field still has the value that was parsed from it.
    pub(crate) fn written<T: PartialEq>(
        &self,
        field: &str,
        reader: Reader<T>,
        value: Option<&T>,
    ) -> Option<&Json> {
        let (_, written) = self.unusual.iter().find(|(known, _)| *known == field)?;
        let read = reader(written).ok()?;
        (read.as_ref() == value).then_some(written)
    }
}

/// The type of a field: the value itself if required or implied, an `Option` if optional. A JSON
/// `null` counts as absent.
macro_rules! message_field {
    (required $type:ty) => { $type };
    (implied $type:ty) => { $type };
    (optional $type:ty) => { Option<$type> };
}

/// Reads a field's value. A field with a reader may have an unusual spelling, which is kept.
macro_rules! message_read {
    (required $entries:ident $rest:ident $wire:literal $type:ty) => {
        Some($entries.next_value::<$type>()?)
    };
    ($need:ident $entries:ident $rest:ident $wire:literal $type:ty) => {
        $entries.next_value::<Option<$type>>()?
    };
    ($need:ident $entries:ident $rest:ident $wire:literal $type:ty, $reader:path) => {{
        let spelling = $crate::wire::reading::Spelling::<$type>($reader, std::marker::PhantomData);
        let spelled = $entries.next_value_seed(spelling)?;
        $rest.remember($wire, spelled.unusual);
        spelled.value
    }};
}

/// The value of a field at the end of the message. An implied field has a default.
macro_rules! message_finish {
    (required $found:ident $wire:literal) => {
        $found
            .flatten()
            .ok_or_else(|| serde::de::Error::missing_field($wire))?
    };
    (optional $found:ident $wire:literal) => {
        $found.flatten()
    };
    (implied $found:ident $wire:literal $default:expr) => {
        $found.flatten().unwrap_or_else(|| $default)
    };
}

/// A field's value, if there is one.
macro_rules! message_value {
    (optional $self:ident $field:ident) => {
        $self.$field.as_ref()
    };
    ($need:ident $self:ident $field:ident) => {
        Some(&$self.$field)
    };
}

/// Serializes a field, with its original spelling if that is remembered. An absent optional field
/// is omitted.
macro_rules! message_print {
    ($need:ident $map:ident $self:ident $field:ident $wire:literal) => {
        if let Some(value) = message_value!($need $self $field) {
            serde::ser::SerializeMap::serialize_entry(&mut $map, $wire, value)?
        }
    };
    ($need:ident $map:ident $self:ident $field:ident $wire:literal, $reader:path) => {
        let value = message_value!($need $self $field);
        match $self.rest.written($wire, $reader, value) {
            Some(written) => serde::ser::SerializeMap::serialize_entry(&mut $map, $wire, written)?,
            None => message_print!($need $map $self $field $wire),
        }
    };
}

/// Defines a wire message. Each field has `required`, `optional` or `implied(default)`, a name, a
/// name on the wire, optionally a reader for other spellings, and a type.
macro_rules! message {
    (
        $(#[$about:meta])*
        $vis:vis struct $Message:ident {
            $(
                $(#[$about_field:meta])*
                $need:ident $(($default:expr))? $field:ident as $wire:literal $(by $reader:path)?: $type:ty,
            )*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $Message {
            $( $(#[$about_field])* pub $field: message_field!($need $type), )*
            /// Fields this library does not know.
            pub rest: $crate::wire::Rest,
        }

        impl serde::Serialize for $Message {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(None)?;
                $( message_print!($need map self $field $wire $(, $reader)?); )*
                for (name, value) in self.rest.iter() {
                    serde::ser::SerializeMap::serialize_entry(&mut map, name, value)?;
                }
                serde::ser::SerializeMap::end(map)
            }
        }

        impl<'de> serde::Deserialize<'de> for $Message {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Reader;
                impl<'de> serde::de::Visitor<'de> for Reader {
                    type Value = $Message;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut entries: A) -> Result<$Message, A::Error> {
                        $( let mut $field: Option<Option<$type>> = None; )*
                        let mut rest = $crate::wire::Rest::default();
                        while let Some(key) = entries.next_key_seed($crate::json::Key)? {
                            match &*key {
                                $(
                                    $wire if $field.is_some() => {
                                        return Err(serde::de::Error::duplicate_field($wire));
                                    }
                                    $wire => $field = Some(message_read!($need entries rest $wire $type $(, $reader)?)),
                                )*
                                _ => rest.push(key.into_owned(), entries.next_value()?)?,
                            }
                        }
                        Ok($Message {
                            $( $field: message_finish!($need $field $wire $($default)?), )*
                            rest,
                        })
                    }
                }
                deserializer.deserialize_map(Reader)
            }
        }
    };
}
