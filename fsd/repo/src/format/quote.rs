//! Names as restic quotes them: Go's `strconv.Quote` without the outer quotes, so that JSON, which is UTF-8, holds any bytes.

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

    /// Go's `strconv.Quote`, in its widest form: everything that is not printable ASCII is escaped.
    fn quote(bytes: &[u8]) -> String {
        let mut out = String::new();
        for chunk in bytes.utf8_chunks() {
            for rune in chunk.valid().chars() {
                match rune {
                    '"' | '\\' => out.extend(['\\', rune]),
                    ' '..='~' => out.push(rune),
                    '\n' => out.push_str("\\n"),
                    _ if u32::from(rune) < 0x10000 => out.push_str(&format!("\\u{:04x}", u32::from(rune))),
                    _ => out.push_str(&format!("\\U{:08x}", u32::from(rune))),
                }
            }
            chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
        }
        out
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
