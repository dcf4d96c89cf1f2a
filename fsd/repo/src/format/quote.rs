//! Names as restic quotes them: Go's `strconv.Quote` without the outer quotes, so that JSON, which is UTF-8, holds any bytes.

mod printable;

use std::fmt::Write as _;

use printable::is_printable;

/// Quotes a name as restic stores it.
///
/// Source: Go, `strconv.Quote`; restic, `internal/restic/node.go`, `Node.MarshalJSON`.
#[must_use]
pub(crate) fn quote(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for rune in chunk.valid().chars() {
            let code = u32::from(rune);
            match rune {
                '"' | '\\' => out.extend(['\\', rune]),
                rune if is_printable(rune) => out.push(rune),
                '\x07' => out.push_str("\\a"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x0b' => out.push_str("\\v"),
                '\0'..='\x7f' => escape_code(&mut out, 'x', code, 2),
                '\u{80}'..='\u{ffff}' => escape_code(&mut out, 'u', code, 4),
                _ => escape_code(&mut out, 'U', code, 8),
            }
        }
        chunk.invalid().iter().for_each(|byte| escape_code(&mut out, 'x', u32::from(*byte), 2));
    }
    out
}

fn escape_code(out: &mut String, letter: char, code: u32, digits: usize) {
    // Writing to a string does not fail.
    let _ = write!(out, "\\{letter}{code:0digits$x}");
}

/// Appends the bytes that a quoted name stands for; `false` (and `out` as far as it got) for an unknown escape.
///
/// Source: Go, `strconv.Unquote`; restic, `internal/restic/node.go`, `Node.UnmarshalJSON`.
#[must_use]
pub(crate) fn unquote_into(quoted: &[u8], out: &mut Vec<u8>) -> bool {
    let mut rest = quoted;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        let Some(taken) = escape(&rest[at + 1..], out) else {
            return false;
        };
        rest = &rest[at + 1 + taken..];
    }
    out.extend_from_slice(rest);
    true
}

/// Resolves what follows a backslash; returns how many bytes it took.
fn escape(rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let simple = match *rest.first()? {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        quote @ (b'\\' | b'"') => quote,
        b'x' => {
            out.push(u8::try_from(digits(rest.get(1..3)?, 16)?).ok()?);
            return Some(3);
        }
        b'0'..=b'7' => {
            out.push(u8::try_from(digits(rest.get(..3)?, 8)?).ok()?);
            return Some(3);
        }
        b'u' => return rune(rest.get(1..5)?, out).map(|()| 5),
        b'U' => return rune(rest.get(1..9)?, out).map(|()| 9),
        _ => return None,
    };
    out.push(simple);
    Some(1)
}

/// Reads digits of a base.
fn digits(text: &[u8], base: u32) -> Option<u32> {
    text.iter().try_fold(0_u32, |value, digit| value.checked_mul(base)?.checked_add(char::from(*digit).to_digit(base)?))
}

/// Appends a character given by hexadecimal digits.
fn rune(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let rune = char::from_u32(digits(text, 16)?)?;
    out.extend_from_slice(rune.encode_utf8(&mut [0; 4]).as_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unquoted(text: &str) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        unquote_into(text.as_bytes(), &mut out).then_some(out)
    }

    #[test]
    fn test_names() {
        for (quoted, expected) in [
            ("", Some(&b""[..])),
            ("plain", Some(b"plain")),
            ("ä €", Some("ä €".as_bytes())),
            (r#"a\"b\\c"#, Some(b"a\"b\\c")),
            (r"\a\b\f\n\r\t\v", Some(b"\x07\x08\x0c\n\r\t\x0b")),
            (r"\xff\xFe\x00", Some(b"\xff\xfe\0")),
            (r"\101\377", Some(b"A\xff")),
            (r"\u00e4\U0001f600", Some("ä😀".as_bytes())),
            (r"\x4", None),
            (r"\xg0", None),
            (r"\400", None),
            (r"\18", None),
            (r"\ud800", None),
            (r"\U00110000", None),
            (r"\u12", None),
            (r"\'", None),
            (r"\q", None),
            ("\\", None),
        ] {
            assert_eq!(unquoted(quoted).as_deref(), expected, "{quoted}");
        }
    }

    /// Expected values: Go 1.26, `strconv.Quote`.
    #[test]
    fn test_names_are_quoted_as_go_does() {
        for (name, quoted) in [
            (&b""[..], ""),
            (b"plain 'name' `x`", "plain 'name' `x`"),
            (b"a\"b\\c", r#"a\"b\\c"#),
            (b"\x07\x08\x0c\n\r\t\x0b", r"\a\b\f\n\r\t\v"),
            (b"\0\x01\x1b[0m\x7f", r"\x00\x01\x1b[0m\x7f"),
            (b"\xff\xfe\xed\xa0\x80\xe2\x82", r"\xff\xfe\xed\xa0\x80\xe2\x82"),
            ("ä €😀".as_bytes(), "ä €😀"),
            // A combining mark is printable, also at the beginning; a replacement character that is there is no error.
            ("\u{301}e\u{301}\u{fffd}".as_bytes(), "\u{301}e\u{301}\u{fffd}"),
            ("\u{80}\u{a0}\u{ad}\u{378}".as_bytes(), r"\u0080\u00a0\u00ad\u0378"),
            ("\u{200b}\u{2028}\u{3000}\u{e000}\u{feff}\u{ffff}".as_bytes(), r"\u200b\u2028\u3000\ue000\ufeff\uffff"),
            ("\u{1fffe}\u{e0001}\u{10ffff}".as_bytes(), r"\U0001fffe\U000e0001\U0010ffff"),
            // Unicode 15 has the first, a later one the second.
            ("\u{1fae8}\u{2ebf0}".as_bytes(), "\u{1fae8}\\U0002ebf0"),
        ] {
            assert_eq!(quote(name), quoted, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn prop_quoted_names_come_back(name: Vec<u8>) {
            prop_assert_eq!(unquoted(&quote(&name)), Some(name));
        }

        #[test]
        fn prop_any_bytes_end_and_never_grow(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\\')], 0..64)) {
            let mut out = Vec::new();
            let _ = unquote_into(&bytes, &mut out);
            prop_assert!(out.len() <= bytes.len());
        }
    }
}
