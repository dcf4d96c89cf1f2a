//! Strings of which the API names all values.

/// Defines an enum of the API: the schema refuses other values for new objects, and the type reads them from old ones.
///
/// A value is written as its variant is named. What is none of them is kept in `Other`; so no value that etcd holds can stop a
/// watch, and a `match` still has to say what becomes of it.
macro_rules! string_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
            /// A value that the schema does not name, as it was read.
            Other(String),
        }

        impl $name {
            /// The values that the schema accepts.
            pub const VALUES: &'static [&'static str] = &[$(stringify!($variant)),+];

            /// Returns the value as it is written.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => stringify!($variant),)+
                    Self::Other(value) => value,
                }
            }
        }

        impl From<&str> for $name {
            fn from(value: &str) -> Self {
                match value {
                    $(stringify!($variant) => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(match serde_json::Value::deserialize(deserializer)? {
                    serde_json::Value::String(value) => Self::from(value.as_str()),
                    other => Self::Other(other.to_string()),
                })
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": Self::VALUES })
            }
        }
    };
}
pub(crate) use string_enum;

#[cfg(test)]
#[expect(unreachable_pub, reason = "the macro makes what the API is made of: public items")]
mod tests {
    string_enum! {
        /// A direction.
        Direction {
            /// Left.
            Left,
            /// Right.
            Right,
        }
    }

    #[test]
    fn test_unknown_values_are_kept() {
        let read: Vec<Direction> = serde_json::from_str(r#"["Left", "Up", "", 7, true, {"a": 1}]"#).unwrap();
        assert_eq!(read[0], Direction::Left);
        assert_eq!(read[1], Direction::Other("Up".to_owned()));
        assert_eq!(read[3].as_str(), "7");
        assert_eq!(read[5].to_string(), r#"{"a":1}"#);
        assert_eq!(serde_json::to_string(&read[..2]).unwrap(), r#"["Left","Up"]"#);
    }

    #[test]
    fn test_schema_names_the_values() {
        let schema = schemars::schema_for!(Direction).to_value();
        assert_eq!(schema["enum"], serde_json::json!(["Left", "Right"]));
        assert_eq!(schema["type"], "string");
    }
}
