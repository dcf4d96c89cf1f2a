//! Cuts a template into text and actions, and actions into words.

use super::TemplateError;

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Segment {
    /// What is printed as it is.
    Text(String),
    /// What stands between `{{` and `}}`.
    Action(Vec<Token>),
}

/// A word of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// `.A.B`, or `.` alone.
    Field(Vec<String>),
    /// `$x.A.B`; `$` alone has no name.
    Variable(String, Vec<String>),
    /// A name of a function, or a keyword.
    Name(String),
    /// A text in quotes.
    Text(String),
    /// A whole number.
    Number(i64),
    /// `|`
    Pipe,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `:=` or `=`
    Set {
        /// Whether the variable is new.
        new: bool,
    },
}

/// Cuts a template into its segments.
pub(super) fn segments(text: &str) -> Result<Vec<Segment>, TemplateError> {
    let mut segments = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some(start) = rest.find("{{") {
        let (before, action) = (&rest[..start], &rest[start + 2..]);
        let marked = action.strip_prefix('-').filter(|after| after.starts_with(char::is_whitespace));
        push(&mut segments, before, trim, marked.is_some());
        let action = marked.unwrap_or(action);
        let end = match comment(action)? {
            Some(end) => end,
            None => {
                let (tokens, end) = action_tokens(action)?;
                segments.push(Segment::Action(tokens));
                end
            }
        };
        (rest, trim) = (&action[end.length..], end.trims);
    }
    push(&mut segments, rest, trim, false);
    Ok(segments)
}

fn push(segments: &mut Vec<Segment>, text: &str, trim_start: bool, trim_end: bool) {
    let text = if trim_start { text.trim_start() } else { text };
    let text = if trim_end { text.trim_end() } else { text };
    if !text.is_empty() {
        segments.push(Segment::Text(text.to_owned()));
    }
}

/// Where an action ends, and whether what follows loses its white space.
#[derive(Clone, Copy, Debug)]
struct End {
    length: usize,
    trims: bool,
}

/// Returns the end of `text`, if it is one. White space is needed before a marker.
fn end(text: &str, offset: usize, space_before: bool) -> Option<End> {
    if text.starts_with("}}") {
        return Some(End { length: offset + 2, trims: false });
    }
    (space_before && text.starts_with("-}}")).then_some(End { length: offset + 3, trims: true })
}

fn comment(action: &str) -> Result<Option<End>, TemplateError> {
    let body = action.trim_start();
    let Some(inner) = body.strip_prefix("/*") else { return Ok(None) };
    let unclosed = || TemplateError::new("a comment is not closed");
    let length = inner.find("*/").ok_or_else(unclosed)?;
    let offset = action.len() - inner.len() + length + 2;
    let rest = &action[offset..];
    let trimmed = rest.trim_start();
    let space = trimmed.len() < rest.len();
    end(trimmed, offset + rest.len() - trimmed.len(), space).map(Some).ok_or_else(unclosed)
}

fn action_tokens(action: &str) -> Result<(Vec<Token>, End), TemplateError> {
    let mut tokens = Vec::new();
    let mut offset = 0;
    loop {
        let rest = &action[offset..];
        let trimmed = rest.trim_start();
        let space = trimmed.len() < rest.len();
        offset += rest.len() - trimmed.len();
        if let Some(end) = end(trimmed, offset, space) {
            return Ok((tokens, end));
        }
        let (token, length) = token(trimmed)?;
        tokens.push(token);
        offset += length;
    }
}

fn token(text: &str) -> Result<(Token, usize), TemplateError> {
    let first = text.chars().next().ok_or_else(|| TemplateError::new("an action is not closed: }} is missing"))?;
    Ok(match first {
        '|' => (Token::Pipe, 1),
        '(' => (Token::Open, 1),
        ')' if text[1..].starts_with('.') => {
            return Err(TemplateError::new("a field of a pipeline in brackets is not supported"));
        }
        ')' => (Token::Close, 1),
        '=' => (Token::Set { new: false }, 1),
        ':' if text.starts_with(":=") => (Token::Set { new: true }, 2),
        '"' => quoted(text)?,
        '`' => {
            let end = text[1..].find('`').ok_or_else(|| TemplateError::new("a text is not closed: ` is missing"))?;
            (Token::Text(text[1..=end].to_owned()), end + 2)
        }
        '.' => {
            let (path, length) = path(text);
            (Token::Field(path), length.max(1))
        }
        '$' => {
            let name = name(&text[1..]);
            let (path, length) = path(&text[1 + name.len()..]);
            (Token::Variable(name.to_owned(), path), 1 + name.len() + length)
        }
        '-' | '+' | '0'..='9' => {
            let length = text.find(|c: char| !(c.is_alphanumeric() || "-+._".contains(c))).unwrap_or(text.len());
            let number = text[..length].parse();
            let refuse = |_| TemplateError::new(format!("{:?} is no whole number", &text[..length]));
            (Token::Number(number.map_err(refuse)?), length)
        }
        _ => {
            let name = name(text);
            if name.is_empty() {
                return Err(TemplateError::new(format!("{first:?} is not understood")));
            }
            (Token::Name(name.to_owned()), name.len())
        }
    })
}

/// Returns the word at the start of `text`.
fn name(text: &str) -> &str {
    let length = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..length]
}

/// Returns the `.A.B` at the start of `text`, and how long it is.
fn path(text: &str) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    let mut length = 0;
    while let Some(rest) = text[length..].strip_prefix('.') {
        let name = name(rest);
        if name.is_empty() {
            break;
        }
        path.push(name.to_owned());
        length += 1 + name.len();
    }
    (path, length)
}

fn quoted(text: &str) -> Result<(Token, usize), TemplateError> {
    let mut read = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((offset, c)) = characters.next() {
        match c {
            '"' => return Ok((Token::Text(read), offset + 1)),
            '\n' => break,
            '\\' => {
                let escape = characters.next().map(|(_, c)| c);
                read.push(match escape {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some(c @ ('"' | '\\')) => c,
                    other => {
                        let other = other.map(String::from).unwrap_or_default();
                        return Err(TemplateError::new(format!("the escape \\{other} in a text is not supported")));
                    }
                });
            }
            c => read.push(c),
        }
    }
    Err(TemplateError::new("a text is not closed: \" is missing"))
}
