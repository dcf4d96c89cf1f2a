//! How fields are read where an old object may hold anything.
//!
//! A watch delivers whatever etcd holds: objects that Stash's operator wrote, or that were stored under an older schema. One that
//! cannot be read would stop the list of its whole kind. So what the schema refuses for new objects is still read from old ones:
//! numbers saturate, and a part of a status that makes no sense is as good as absent, since the controller writes it anew.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An integer of the API, which saturates when it is read.
pub(crate) trait Saturating: Sized {
    /// Returns the nearest number.
    fn saturating_from(number: i64) -> Self;
}

impl Saturating for i32 {
    fn saturating_from(number: i64) -> Self {
        Self::try_from(number).unwrap_or(if number < 0 { Self::MIN } else { Self::MAX })
    }
}

impl Saturating for i64 {
    fn saturating_from(number: i64) -> Self {
        number
    }
}

/// Reads an integer; what is no number is absent.
pub(crate) fn integer<'de, D: Deserializer<'de>, T: Saturating>(deserializer: D) -> Result<Option<T>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = value.as_i64().or_else(|| value.as_u64().map(|_| i64::MAX)).or_else(|| {
        #[expect(clippy::cast_possible_truncation, reason = "`as` saturates, which is what is wanted")]
        value.as_f64().map(|float| float as i64)
    });
    Ok(number.map(T::saturating_from))
}

/// Reads a value; what is none of the type is absent. For status fields only: in a spec it would hide what a user meant.
pub(crate) fn or_none<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

/// Reads a list of a status, without the entries that are none of the type.
pub(crate) fn list<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let Value::Array(entries) = Value::deserialize(deserializer)? else { return Ok(Vec::new()) };
    Ok(entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect())
}

/// Makes the spec of a kind readable where it is absent: Stash's schemas accept objects without one, so etcd may hold some.
///
/// The type derives serde's traits with `remote = "Self"`, which makes them plain functions; this implements the traits.
macro_rules! default_when_absent {
    ($spec:ident) => {
        impl serde::Serialize for $spec {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $spec {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = $spec;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a spec")
                    }

                    fn visit_none<E>(self) -> Result<Self::Value, E> {
                        Ok($spec::default())
                    }

                    fn visit_unit<E>(self) -> Result<Self::Value, E> {
                        Ok($spec::default())
                    }

                    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                        $spec::deserialize(deserializer)
                    }
                }
                deserializer.deserialize_option(Visitor)
            }
        }
    };
}
pub(crate) use default_when_absent;

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Odd {
        #[serde(deserialize_with = "super::integer")]
        small: Option<i32>,
        #[serde(deserialize_with = "super::integer")]
        large: Option<i64>,
        #[serde(deserialize_with = "super::or_none")]
        flag: Option<bool>,
        #[serde(deserialize_with = "super::list")]
        names: Vec<String>,
    }

    fn read(value: serde_json::Value) -> Odd {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn test_numbers_saturate_and_what_is_no_number_is_absent() {
        assert_eq!(read(json!({"small": 3_000_000_000_u64, "large": u64::MAX})).small, Some(i32::MAX));
        assert_eq!(read(json!({"small": -3_000_000_000_i64, "large": u64::MAX})).large, Some(i64::MAX));
        assert_eq!(read(json!({"small": -3_000_000_000_i64})).small, Some(i32::MIN));
        assert_eq!(read(json!({"small": 1e300, "large": -1e300})).large, Some(i64::MIN));
        assert_eq!(read(json!({"small": 2.0, "large": "3$abc"})).small, Some(2));
        assert_eq!(read(json!({"small": null, "large": "3$abc"})), Odd::default());
    }

    #[test]
    fn test_what_makes_no_sense_is_absent() {
        assert_eq!(read(json!({"flag": "yes", "names": null})), Odd::default());
        assert_eq!(read(json!({"names": {"a": 1}})), Odd::default());
        assert_eq!(read(json!({"flag": true, "names": ["a", 1, null, "b"]})).names, ["a", "b"]);
        assert_eq!(read(json!({"flag": true})).flag, Some(true));
    }
}
