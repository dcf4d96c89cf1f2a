//! The functions of templates: those of text/template and of sprig that make texts.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::TemplateError;
use super::parser::Expression;
use super::value::Value;

/// A function.
#[derive(Debug)]
pub(super) struct Function {
    /// Its name.
    pub(super) name: &'static str,
    /// How many arguments it needs at least.
    least: usize,
    /// And takes at most.
    most: usize,
    /// What it does.
    pub(super) call: fn(&[Value]) -> Result<Value, TemplateError>,
}

/// Any number of arguments.
const MANY: usize = usize::MAX;

/// All functions, in order. `and` and `or` are seen to where they are called.
static FUNCTIONS: &[Function] = &[
    Function { name: "and", least: 1, most: MANY, call: last },
    Function { name: "b64enc", least: 1, most: 1, call: |a| text(base64(word(a, 0)?)) },
    Function { name: "coalesce", least: 1, most: MANY, call: coalesce },
    Function { name: "contains", least: 2, most: 2, call: |a| truth(word(a, 1)?.contains(word(a, 0)?)) },
    Function { name: "default", least: 2, most: 2, call: |a| Ok(if a[1].is_true() { &a[1] } else { &a[0] }.clone()) },
    Function { name: "dict", least: 0, most: MANY, call: dict },
    Function { name: "empty", least: 1, most: 1, call: |a| truth(!a[0].is_true()) },
    Function { name: "eq", least: 2, most: MANY, call: equal },
    Function { name: "ge", least: 2, most: 2, call: |a| truth(compare(a)?.is_ge()) },
    Function { name: "gt", least: 2, most: 2, call: |a| truth(compare(a)?.is_gt()) },
    Function { name: "hasPrefix", least: 2, most: 2, call: |a| truth(word(a, 1)?.starts_with(word(a, 0)?)) },
    Function { name: "hasSuffix", least: 2, most: 2, call: |a| truth(word(a, 1)?.ends_with(word(a, 0)?)) },
    Function { name: "le", least: 2, most: 2, call: |a| truth(compare(a)?.is_le()) },
    Function { name: "len", least: 1, most: 1, call: length },
    Function { name: "list", least: 0, most: MANY, call: |a| Ok(Value::List(a.to_vec())) },
    Function { name: "lower", least: 1, most: 1, call: |a| text(word(a, 0)?.to_lowercase()) },
    Function { name: "lt", least: 2, most: 2, call: |a| truth(compare(a)?.is_lt()) },
    Function { name: "ne", least: 2, most: 2, call: |a| truth(!is_equal(&a[0], &a[1])?) },
    Function { name: "not", least: 1, most: 1, call: |a| truth(!a[0].is_true()) },
    Function { name: "or", least: 1, most: MANY, call: last },
    Function { name: "printf", least: 1, most: MANY, call: printf },
    Function { name: "quote", least: 1, most: 1, call: |a| text(quoted(&a[0].shown()?)) },
    Function { name: "replace", least: 3, most: 3, call: |a| text(word(a, 2)?.replace(word(a, 0)?, word(a, 1)?)) },
    Function { name: "squote", least: 1, most: 1, call: |a| text(format!("'{}'", a[0].shown()?)) },
    Function { name: "ternary", least: 3, most: 3, call: |a| Ok(if a[2].is_true() { &a[0] } else { &a[1] }.clone()) },
    Function { name: "toJson", least: 1, most: 1, call: |a| text(to_json(&a[0])) },
    Function { name: "toString", least: 1, most: 1, call: |a| text(a[0].shown()?) },
    Function { name: "trim", least: 1, most: 1, call: |a| text(word(a, 0)?.trim().to_owned()) },
    Function { name: "trimPrefix", least: 2, most: 2, call: |a| text(without_prefix(word(a, 1)?, word(a, 0)?)) },
    Function { name: "trimSuffix", least: 2, most: 2, call: |a| text(without_suffix(word(a, 1)?, word(a, 0)?)) },
    Function { name: "trunc", least: 2, most: 2, call: trunc },
    Function { name: "upper", least: 1, most: 1, call: |a| text(word(a, 0)?.to_uppercase()) },
    Function { name: "urlquery", least: 1, most: 1, call: |a| text(url_query(&a[0].shown()?)) },
];

/// Returns a function.
pub(super) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

/// Returns the names of all functions.
pub(super) fn names() -> Vec<&'static str> {
    FUNCTIONS.iter().map(|function| function.name).collect()
}

/// Checks what can be known of a call before it is made.
pub(super) fn check(function: &Function, arguments: &[Expression]) -> Result<(), TemplateError> {
    let (name, given) = (function.name, arguments.len());
    if !(function.least..=function.most).contains(&given) {
        return Err(TemplateError::new(format!("{name} is given {given} arguments, and does not take as many")));
    }
    match (name, arguments.first()) {
        ("printf", Some(Expression::Literal(Value::Text(format)))) => {
            let verbs = verbs(format)?.iter().filter(|part| matches!(part, Part::Verb(_))).count();
            if verbs + 1 == given {
                return Ok(());
            }
            Err(TemplateError::new(format!("printf: {verbs} verbs in {format:?}, and {} values", given - 1)))
        }
        ("printf", _) => Err(TemplateError::new("printf: the format must be a text that stands there")),
        _ => Ok(()),
    }
}

fn text(text: String) -> Result<Value, TemplateError> {
    Ok(Value::Text(text))
}

fn truth(truth: bool) -> Result<Value, TemplateError> {
    Ok(Value::Bool(truth))
}

/// Returns an argument that has to be a text.
fn word(arguments: &[Value], place: usize) -> Result<&str, TemplateError> {
    match arguments.get(place) {
        Some(Value::Text(text)) => Ok(text),
        Some(other) => Err(TemplateError::new(format!("it takes a text, not {}", other.kind()))),
        None => Err(TemplateError::new("a value is missing")),
    }
}

fn last(arguments: &[Value]) -> Result<Value, TemplateError> {
    Ok(arguments.last().cloned().unwrap_or(Value::Nil))
}

fn coalesce(arguments: &[Value]) -> Result<Value, TemplateError> {
    Ok(arguments.iter().find(|value| value.is_true()).cloned().unwrap_or(Value::Nil))
}

fn dict(arguments: &[Value]) -> Result<Value, TemplateError> {
    let mut map = BTreeMap::new();
    for pair in arguments.chunks(2) {
        // A key without a value has an empty one, as in sprig.
        let value = pair.get(1).cloned().unwrap_or_else(|| Value::Text(String::new()));
        map.insert(word(pair, 0)?.to_owned(), value);
    }
    Ok(Value::Map(map))
}

fn is_equal(a: &Value, b: &Value) -> Result<bool, TemplateError> {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => Ok(a == b),
        (Value::Number(a), Value::Number(b)) => Ok(a == b),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Nil, other) | (other, Value::Nil) => Ok(*other == Value::Nil),
        _ => Err(TemplateError::new(format!("{} and {} cannot be compared", a.kind(), b.kind()))),
    }
}

fn equal(arguments: &[Value]) -> Result<Value, TemplateError> {
    let mut found = false;
    for other in &arguments[1..] {
        found |= is_equal(&arguments[0], other)?;
    }
    truth(found)
}

fn compare(arguments: &[Value]) -> Result<Ordering, TemplateError> {
    match arguments {
        [Value::Text(a), Value::Text(b)] => Ok(a.cmp(b)),
        [Value::Number(a), Value::Number(b)] => Ok(a.cmp(b)),
        _ => Err(TemplateError::new("it takes two texts or two numbers")),
    }
}

fn length(arguments: &[Value]) -> Result<Value, TemplateError> {
    let length = match &arguments[0] {
        Value::Text(text) => text.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        other => return Err(TemplateError::new(format!("{} has no length", other.kind()))),
    };
    Ok(Value::Number(i64::try_from(length).unwrap_or(i64::MAX)))
}

/// A piece of a format.
enum Part {
    Literal(String),
    Verb(char),
}

fn verbs(format: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = format;
    while let Some(place) = rest.find('%') {
        parts.push(Part::Literal(rest[..place].to_owned()));
        let verb = rest[place + 1..].chars().next();
        match verb {
            Some('%') => parts.push(Part::Literal("%".to_owned())),
            Some(verb @ ('s' | 'v' | 'd' | 'q')) => parts.push(Part::Verb(verb)),
            _ => return Err(TemplateError::new("printf: there are %s, %v, %d, %q and %%")),
        }
        rest = &rest[place + 2..];
    }
    parts.push(Part::Literal(rest.to_owned()));
    Ok(parts)
}

fn printf(arguments: &[Value]) -> Result<Value, TemplateError> {
    let mut values = arguments[1..].iter();
    let mut made = String::new();
    for part in verbs(word(arguments, 0)?)? {
        match part {
            Part::Literal(literal) => made.push_str(&literal),
            Part::Verb(verb) => {
                let value = values.next().unwrap_or(&Value::Nil);
                let shown = value.shown()?;
                match (verb, value) {
                    ('q', Value::Text(_)) => made.push_str(&quoted(&shown)),
                    ('s', Value::Text(_)) | ('d', Value::Number(_)) | ('v', _) => made.push_str(&shown),
                    _ => return Err(TemplateError::new(format!("%{verb} does not take {}", value.kind()))),
                }
            }
        }
    }
    text(made)
}

/// Quotes as Go does.
fn quoted(text: &str) -> String {
    use std::fmt::Write as _;
    let mut made = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => made.extend(['\\', c]),
            '\n' => made.push_str("\\n"),
            '\r' => made.push_str("\\r"),
            '\t' => made.push_str("\\t"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _infallible = write!(made, "\\u{:04x}", u32::from(c));
            }
            c => made.push(c),
        }
    }
    made.push('"');
    made
}

/// Writes JSON as Go does: what has a meaning in HTML is escaped.
fn to_json(value: &Value) -> String {
    let plain = value.json().to_string();
    let mut made = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            '<' => made.push_str("\\u003c"),
            '>' => made.push_str("\\u003e"),
            '&' => made.push_str("\\u0026"),
            c => made.push(c),
        }
    }
    made
}

fn without_prefix(text: &str, prefix: &str) -> String {
    text.strip_prefix(prefix).unwrap_or(text).to_owned()
}

fn without_suffix(text: &str, suffix: &str) -> String {
    text.strip_suffix(suffix).unwrap_or(text).to_owned()
}

/// Keeps so many bytes, and no half characters; of a negative number, those at the end.
fn trunc(arguments: &[Value]) -> Result<Value, TemplateError> {
    let Value::Number(limit) = arguments[0] else {
        return Err(TemplateError::new(format!("it takes a number, not {}", arguments[0].kind())));
    };
    let whole = word(arguments, 1)?;
    let bytes = usize::try_from(limit.unsigned_abs()).unwrap_or(usize::MAX);
    if whole.len() <= bytes {
        return text(whole.to_owned());
    }
    let kept = if limit < 0 {
        let start = (whole.len() - bytes..=whole.len()).find(|&place| whole.is_char_boundary(place));
        &whole[start.unwrap_or(whole.len())..]
    } else {
        let end = (0..=bytes).rev().find(|&place| whole.is_char_boundary(place));
        &whole[..end.unwrap_or(0)]
    };
    text(kept.to_owned())
}

fn url_query(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn base64(text: &str) -> String {
    base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text)
}
