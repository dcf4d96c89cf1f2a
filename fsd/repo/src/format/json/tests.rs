use proptest::prelude::*;

use super::*;

/// Reads any value through `skip`.
fn skips(text: &[u8]) -> bool {
    let mut reader = Reader::new(text);
    reader.skip().and_then(|()| reader.end()).is_ok()
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    Reader::new(text.as_bytes()).string().ok()?.unescape_into(&mut out).ok()?;
    Some(out)
}

#[test]
fn test_string_escapes() {
    for (json, expected) in [
        (r#""""#, Some("")),
        (r#""plain text of some length""#, Some("plain text of some length")),
        (r#""a\"b\\c\/d\b\f\n\r\te""#, Some("a\"b\\c/d\u{8}\u{c}\n\r\te")),
        (r#""\u0041\u00e4\u20ac""#, Some("Aä€")),
        (r#""\ud83d\ude00""#, Some("😀")),
        (r#""\ud83d""#, Some("\u{fffd}")),
        (r#""\ud83dx\ude00""#, Some("\u{fffd}x\u{fffd}")),
        (r#""\ud83dA""#, Some("\u{fffd}A")),
        ("null", Some("")),
        (r#""\x41""#, None),
        (r#""\u00g0""#, None),
        (r#""\u00""#, None),
        (r#""open"#, None),
        (r#""open\"#, None),
        ("\"a\nb\"", None),
        ("7", None),
    ] {
        assert_eq!(unescaped(json), expected.map(|text| text.as_bytes().to_vec()), "{json}");
    }
}

#[test]
fn test_text_is_bounded_and_utf8() {
    let read = |text: &[u8], limit| Reader::new(text).string().and_then(|raw| raw.text(limit));
    assert_eq!(read(b"\"abc\"", 3).as_deref(), Ok("abc"));
    assert!(read(b"\"abcd\"", 3).is_err());
    assert!(read(format!("\"{}\"", "a".repeat(100)).as_bytes(), 3).is_err());
    assert_eq!(read(b"\"\\u0041\\u0041\\u0041\"", 3).as_deref(), Ok("AAA"));
    assert_eq!(read(b"\"a\xff\"", 9).as_deref(), Ok("a\u{fffd}"));
}

#[test]
fn test_numbers() {
    for (json, expected) in [
        ("0", Some(0)),
        (" 18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("null", Some(0)),
        ("\"1\"", None),
        ("", None),
    ] {
        assert_eq!(Reader::new(json.as_bytes()).u64().ok(), expected, "{json}");
    }
    assert!(Reader::new(b"4294967296").u32().is_err());
    assert_eq!(Reader::new(b"4294967295").u32(), Ok(u32::MAX));
}

#[test]
fn test_id_is_64_digits() {
    let good = "0123456789abcdefABCDEF0000000000000000000000000000000000000000ff";
    let read = |text: &str| Reader::new(format!("\"{text}\"").as_bytes()).id().ok();
    assert_eq!(read(good).unwrap().as_slice(), hex::decode(good).unwrap());
    for bad in [&good[1..], &format!("{good}0"), &good.replace('A', "g"), &good.replace('A', "\""), ""] {
        assert_eq!(read(bad), None, "{bad}");
    }
}

#[test]
fn test_skip_counts_instead_of_recursing() {
    assert!(skips(br#" {"a":[1,-2.5e+3,{"b":null,"c":[]},{}],"d":"x\"]","e":true,"f":false} "#));
    assert!(skips(format!("{}1{}", "[".repeat(64), "]".repeat(64)).as_bytes()));
    assert!(!skips(format!("{}1{}", "[".repeat(65), "]".repeat(65)).as_bytes()));
    assert!(!skips(&b"[".repeat(1 << 20)));
    assert!(!skips(&b"{\"a\":".repeat(1 << 20)));
    for bad in ["", "[", "]", "{", "[1", "[1,", "[1 2]", "{\"a\"}", "{\"a\":}", "{1:2}", "[}", "tru", "1 2", "[1,]"] {
        assert!(!skips(bad.as_bytes()), "{bad}");
    }
}

/// Any JSON value, by the model.
fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn prop_skip_takes_what_serde_takes(value in value(), pretty: bool) {
        let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        prop_assert!(skips(&text));
    }

    #[test]
    fn prop_strings_equal_serdes(text: String) {
        let json = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(unescaped(&json), Some(text.into_bytes()));
    }

    #[test]
    fn prop_plain_prefix_equals_a_plain_loop(bytes in prop::collection::vec(prop_oneof![4 => any::<u8>(), 1 => Just(b'"')], 0..64)) {
        let expected = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).unwrap_or(bytes.len());
        prop_assert_eq!(plain_prefix(&bytes), expected);
    }

    #[test]
    fn prop_any_bytes_end(bytes: Vec<u8>) {
        let mut reader = Reader::new(&bytes);
        let _ = reader.skip();
        let _ = Reader::new(&bytes).string().and_then(|raw| raw.unescape_into(&mut Vec::new()));
    }

    #[test]
    fn prop_damaged_json_ends(value in value(), at: prop::sample::Index, byte: u8) {
        let mut text = serde_json::to_vec(&value).unwrap();
        let at = at.index(text.len());
        text[at] = byte;
        let _ = skips(&text);
        let _ = skips(&text[..at]);
    }
}
