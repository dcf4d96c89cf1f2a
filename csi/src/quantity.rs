//! Sizes as Kubernetes writes them: `500Mi`, `1.5Gi`, `2G`.

/// Returns the bytes of a quantity, rounded up as Kubernetes does. Exponents (`1e9`) and parts of a byte (`100m`) are none.
pub fn bytes(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let unit: u128 = match suffix {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{part}");
    // More digits than any size has would only make the numbers too large.
    if digits.is_empty() || digits.len() > 20 || part.contains('.') {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
    let counted = digits.parse::<u128>().ok()?.checked_mul(unit)?;
    u64::try_from(counted.div_ceil(scale)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_quantities() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("500Mi", Some(500 << 20)),
            ("1.5Gi", Some(3 << 29)),
            ("1.Gi", Some(1 << 30)),
            (".5Ki", Some(512)),
            ("0.1", Some(1)),
            ("2G", Some(2_000_000_000)),
            ("1k", Some(1_000)),
            ("16383Pi", Some(16383 << 50)),
            ("16384Pi", None),
            ("", None),
            (".", None),
            ("Gi", None),
            ("-1", None),
            ("+1", None),
            ("1 Gi", None),
            ("1gi", None),
            ("1e9", None),
            ("100m", None),
            ("1.2.3", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
