//! What templates work on.

use std::collections::BTreeMap;

use super::TemplateError;

/// A value of a template.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: a key that a map lacks.
    Nil,
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// A truth.
    Bool(bool),
    /// Values in order.
    List(Vec<Self>),
    /// Values by name.
    Map(BTreeMap<String, Self>),
    /// Fields that are fixed, as those of the summary.
    Record(Vec<Field>),
}

/// A field of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name in templates.
    pub name: &'static str,
    /// Its name in JSON.
    pub json: &'static str,
    /// What it holds.
    pub value: Value,
}

impl Value {
    /// Makes a record of fields: name, name in JSON, value.
    pub fn record<const N: usize>(fields: [(&'static str, &'static str, Self); N]) -> Self {
        Self::Record(fields.into_iter().map(|(name, json, value)| Field { name, json, value }).collect())
    }

    /// Returns what `path` leads to.
    pub(super) fn at(&self, path: &[String]) -> Result<Self, TemplateError> {
        let mut found = self;
        let mut walked = String::new();
        for name in path {
            walked.push('.');
            walked.push_str(name);
            found = match found {
                Self::Record(fields) => {
                    let field = fields.iter().find(|field| field.name == name);
                    let known = || fields.iter().map(|field| field.name).collect::<Vec<_>>().join(", ");
                    let missing = || TemplateError::new(format!("there is no {walked}; there are {}", known()));
                    &field.ok_or_else(missing)?.value
                }
                Self::Map(map) => match map.get(name) {
                    Some(value) => value,
                    None => return Ok(Self::Nil),
                },
                _ => return Err(TemplateError::new(format!("there is no {walked}: it is in no record"))),
            };
        }
        Ok(found.clone())
    }

    /// Whether it counts as true.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Text(text) => !text.is_empty(),
            Self::Number(number) => *number != 0,
            Self::Bool(truth) => *truth,
            Self::List(list) => !list.is_empty(),
            Self::Map(map) => !map.is_empty(),
            Self::Record(_) => true,
        }
    }

    /// Returns it as it is printed.
    pub(super) fn shown(&self) -> Result<String, TemplateError> {
        match self {
            Self::Nil => Ok("<no value>".to_owned()),
            Self::Text(text) => Ok(text.clone()),
            Self::Number(number) => Ok(number.to_string()),
            Self::Bool(truth) => Ok(truth.to_string()),
            Self::List(_) | Self::Map(_) | Self::Record(_) => {
                Err(TemplateError::new(format!("{} cannot be printed: use toJson", self.kind())))
            }
        }
    }

    /// Returns what it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nothing",
            Self::Text(_) => "a text",
            Self::Number(_) => "a number",
            Self::Bool(_) => "a truth",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
            Self::Record(_) => "a record",
        }
    }

    /// Returns it as JSON has it.
    pub fn json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Self::Nil => Json::Null,
            Self::Text(text) => Json::from(text.as_str()),
            Self::Number(number) => Json::from(*number),
            Self::Bool(truth) => Json::from(*truth),
            Self::List(list) => Json::Array(list.iter().map(Self::json).collect()),
            Self::Map(map) => Json::Object(map.iter().map(|(key, value)| (key.clone(), value.json())).collect()),
            Self::Record(fields) => {
                Json::Object(fields.iter().map(|field| (field.json.to_owned(), field.value.json())).collect())
            }
        }
    }
}
