//! Go's `filepath.Match` for one component of a path.
//!
//! Source: Go, `path/filepath/match.go`. A pattern is parsed once; matching goes back to the last star only, so it takes
//! at most the product of both lengths.

/// What is wrong with a glob.
const BAD_CLASS: &str = "a `[` without its `]`, or an empty or open range in it (`\\[` stands for the character)";
const BAD_ESCAPE: &str = "it ends with a backslash (`\\\\` stands for the character)";

/// A parsed glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Glob {
    /// A name without anything special.
    Literal(Vec<u8>),
    /// Anything else.
    Tokens(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// `*`
    Star,
    /// `?`: one character.
    Any,
    /// One byte.
    Byte(u8),
    /// `[...]`: one character of these ranges, or of none of them.
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// The first character of `bytes` and its length; a byte that is not UTF-8 counts as U+FFFD of length 1, as in Go.
fn first_char(bytes: &[u8]) -> Option<(char, usize)> {
    let chunk = bytes.get(..bytes.len().min(4))?.utf8_chunks().next()?;
    Some(chunk.valid().chars().next().map_or((char::REPLACEMENT_CHARACTER, 1), |c| (c, c.len_utf8())))
}

impl Glob {
    pub(super) fn parse(pattern: &[u8]) -> Result<Self, &'static str> {
        if !pattern.iter().any(|b| b"\\[]*?".contains(b)) {
            return Ok(Self::Literal(pattern.to_vec()));
        }
        let mut tokens = Vec::with_capacity(pattern.len());
        let mut rest = pattern;
        while let Some((&first, tail)) = rest.split_first() {
            rest = tail;
            tokens.push(match first {
                b'*' => Token::Star,
                b'?' => Token::Any,
                b'\\' => {
                    let (&byte, tail) = rest.split_first().ok_or(BAD_ESCAPE)?;
                    rest = tail;
                    Token::Byte(byte)
                }
                b'[' => {
                    let (class, tail) = parse_class(rest)?;
                    rest = tail;
                    class
                }
                byte => Token::Byte(byte),
            });
        }
        Ok(Self::Tokens(tokens))
    }

    pub(super) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Literal(literal) => literal == name,
            Self::Tokens(tokens) => matches(tokens, name),
        }
    }
}

/// Parses what follows `[`.
fn parse_class(mut rest: &[u8]) -> Result<(Token, &[u8]), &'static str> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if rest.first() == Some(&b']') && !ranges.is_empty() {
            return Ok((Token::Class { negated, ranges }, &rest[1..]));
        }
        let low = class_char(&mut rest)?;
        let high = match rest.split_first() {
            Some((b'-', tail)) => {
                rest = tail;
                class_char(&mut rest)?
            }
            _ => low,
        };
        ranges.push((low, high));
    }
}

fn class_char(rest: &mut &[u8]) -> Result<char, &'static str> {
    match rest.first() {
        None | Some(b'-' | b']') => return Err(BAD_CLASS),
        Some(b'\\') => *rest = &rest[1..],
        Some(_) => {}
    }
    let (c, length) = first_char(rest).ok_or(BAD_CLASS)?;
    *rest = &rest[length..];
    // The closing bracket is still to come.
    if rest.is_empty() { Err(BAD_CLASS) } else { Ok(c) }
}

fn matches(tokens: &[Token], name: &[u8]) -> bool {
    let (mut token, mut at) = (0, 0);
    // Where to go on after the last star took one character more: (token after the star, place in the name).
    let mut star: Option<(usize, usize)> = None;
    loop {
        match tokens.get(token) {
            None if at == name.len() => return true,
            Some(Token::Star) => {
                token += 1;
                star = Some((token, at));
                continue;
            }
            Some(single) => {
                if let Some(length) = matches_one(single, &name[at..]) {
                    token += 1;
                    at += length;
                    continue;
                }
            }
            None => {}
        }
        let Some((after, from)) = star.filter(|&(_, from)| from < name.len()) else { return false };
        // Go's star takes bytes, not characters.
        star = Some((after, from + 1));
        (token, at) = (after, from + 1);
    }
}

/// Returns how many bytes of `rest` a token other than a star takes.
fn matches_one(token: &Token, rest: &[u8]) -> Option<usize> {
    match token {
        Token::Star => None,
        Token::Byte(byte) => (rest.first() == Some(byte)).then_some(1),
        Token::Any => first_char(rest).map(|(_, length)| length),
        Token::Class { negated, ranges } => {
            let (c, length) = first_char(rest)?;
            let inside = ranges.iter().any(|&(low, high)| low <= c && c <= high);
            (inside != *negated).then_some(length)
        }
    }
}
