//! One macro that writes a wire message's type, reader and printer.
//!
//! Derived readers either drop unknown fields or buffer the whole message to keep them, and they let unknown fields
//! repeat. Messages here are read in one pass, keep what they do not know, and refuse any repeated key.

use crate::json::Json;

/// Fields of a message that this library does not know, as they were written, in the order they came.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rest(Vec<(String, Json)>);

impl Rest {
    /// No message of the protocol has this many fields in all; somebody who sends more is not speaking it.
    pub const FIELDS_MAX: usize = 64;

    /// The unknown field of this name.
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }

    /// Whether every field is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The unknown fields.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    pub(crate) fn push<E: serde::de::Error>(&mut self, name: String, value: Json) -> Result<(), E> {
        if self.get(&name).is_some() {
            return Err(E::custom(format_args!("duplicate field `{name}`")));
        }
        if self.0.len() == Self::FIELDS_MAX {
            return Err(E::custom(format_args!(
                "more than {} unknown fields",
                Self::FIELDS_MAX
            )));
        }
        self.0.push((name, value));
        Ok(())
    }
}

/// The type of a field: itself where required, an `Option` where optional. A JSON `null` counts as absent.
macro_rules! message_field {
    (required $type:ty) => { $type };
    (optional $type:ty) => { Option<$type> };
}

/// What a field is when the message has ended.
macro_rules! message_finish {
    (required $found:ident $wire:literal) => {
        $found.ok_or_else(|| serde::de::Error::missing_field($wire))?
    };
    (optional $found:ident $wire:literal) => {
        $found.flatten()
    };
}

/// Prints a field; an absent optional one is left out.
macro_rules! message_print {
    (required $map:ident $self:ident $field:ident $wire:literal) => {
        serde::ser::SerializeMap::serialize_entry(&mut $map, $wire, &$self.$field)?
    };
    (optional $map:ident $self:ident $field:ident $wire:literal) => {
        if let Some(value) = &$self.$field {
            serde::ser::SerializeMap::serialize_entry(&mut $map, $wire, value)?
        }
    };
}

/// Declares a wire message: `required` or `optional`, the field, its name on the wire, its type.
macro_rules! message {
    (
        $(#[$about:meta])*
        $vis:vis struct $Message:ident {
            $( $(#[$about_field:meta])* $need:ident $field:ident as $wire:literal: $type:ty, )*
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
                $( message_print!($need map self $field $wire); )*
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
                        $( let mut $field: Option<message_field!($need $type)> = None; )*
                        let mut rest = $crate::wire::Rest::default();
                        while let Some(key) = entries.next_key_seed($crate::json::Key)? {
                            match &*key {
                                $(
                                    $wire if $field.is_some() => {
                                        return Err(serde::de::Error::duplicate_field($wire));
                                    }
                                    $wire => $field = Some(entries.next_value()?),
                                )*
                                _ => rest.push(key.into_owned(), entries.next_value()?)?,
                            }
                        }
                        Ok($Message { $( $field: message_finish!($need $field $wire), )* rest })
                    }
                }
                deserializer.deserialize_map(Reader)
            }
        }
    };
}
