//! JSON as its parts, each still text, so that numbers keep all their digits.
//!
//! A part is decoded when it is asked for, by whoever knows what it should be. No tree is built,
//! nothing recurses, and what is longer than the caller allows is refused while it is read.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{LookupError, Result};

/// Most fields of an object: more than any has that is understood, few enough to compare each with
/// all others.
const FIELDS_MAX: usize = 32;

/// The fields of `json`, in their order, none twice. `what` is its name in errors.
pub(crate) fn object<'j>(json: &'j RawValue, what: &str) -> Result<Vec<(String, &'j RawValue)>> {
    let mut deserializer = serde_json::Deserializer::from_str(json.get());
    deserializer
        .deserialize_map(Fields)
        .map_err(|error| wrong(json, what, error))
}

/// The elements of `json`, at most `most`. `what` is its name in errors.
pub(crate) fn array<'j>(json: &'j RawValue, most: usize, what: &str) -> Result<Vec<&'j RawValue>> {
    let mut deserializer = serde_json::Deserializer::from_str(json.get());
    Elements { most }
        .deserialize(&mut deserializer)
        .map_err(|error| wrong(json, what, error))
}

/// A value that is read as it is: a string, a number, a boolean.
pub(crate) fn value<'j, T: serde::Deserialize<'j>>(json: &'j RawValue, what: &str) -> Result<T> {
    serde_json::from_str(json.get()).map_err(|error| wrong(json, what, error))
}

/// The JSON of a whole text.
pub(crate) fn whole<'j>(text: &'j str, what: &str) -> Result<&'j RawValue> {
    serde_json::from_str(text)
        .map_err(|error| LookupError::invalid(format!("{what}: not JSON: {error}")))
}

/// At most 60 characters of `json`, for an error.
pub(crate) fn shortened(json: &RawValue) -> String {
    let text = json.get();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn wrong(json: &RawValue, what: &str, error: serde_json::Error) -> LookupError {
    // The position is one inside of the part, which says nothing of the whole.
    let sentence = error.to_string();
    let sentence = sentence.split(" at line ").next().unwrap_or_default();
    LookupError::invalid(format!("{what}: {sentence}, in `{}`", shortened(json)))
}

struct Fields;

impl<'j> Visitor<'j> for Fields {
    type Value = Vec<(String, &'j RawValue)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'j>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut fields: Self::Value = Vec::new();
        while let Some((name, json)) = map.next_entry::<String, &RawValue>()? {
            if fields.iter().any(|(other, _)| *other == name) {
                return Err(serde::de::Error::custom(format_args!(
                    "field \"{name}\" is there twice"
                )));
            }
            if fields.len() == FIELDS_MAX {
                return Err(serde::de::Error::custom(format_args!(
                    "more than {FIELDS_MAX} fields"
                )));
            }
            fields.push((name, json));
        }
        Ok(fields)
    }
}

struct Elements {
    most: usize,
}

impl<'j> DeserializeSeed<'j> for Elements {
    type Value = Vec<&'j RawValue>;

    fn deserialize<D: Deserializer<'j>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'j> Visitor<'j> for Elements {
    type Value = Vec<&'j RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'j>>(
        self,
        mut sequence: A,
    ) -> std::result::Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(json) = sequence.next_element::<&RawValue>()? {
            if elements.len() == self.most {
                return Err(serde::de::Error::custom(format_args!(
                    "more than {} elements; ask in several requests",
                    self.most
                )));
            }
            elements.push(json);
        }
        Ok(elements)
    }
}
