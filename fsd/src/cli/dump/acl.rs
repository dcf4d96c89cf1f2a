//! POSIX ACLs: from the attribute that Linux keeps one in to the text that archives and people read.
//!
//! Source: Linux, `include/uapi/linux/posix_acl_xattr.h`; `acl(5)`, "ACL TEXT FORMS".

use std::fmt::Write as _;

const VERSION: u32 = 2;
const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;

/// Returns the short text form with numeric ids; `None` where the value is no ACL of the version that there is.
pub(super) fn to_text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_first_chunk::<HEADER_BYTES>()?;
    if u32::from_le_bytes(*version) != VERSION || entries.is_empty() || entries.len() % ENTRY_BYTES != 0 {
        return None;
    }
    let mut text = String::new();
    for entry in entries.chunks_exact(ENTRY_BYTES) {
        let [t0, t1, p0, p1, id @ ..] = *entry.first_chunk::<ENTRY_BYTES>()?;
        let (name, named) = match u16::from_le_bytes([t0, t1]) {
            0x01 => ("user", false),
            0x02 => ("user", true),
            0x04 => ("group", false),
            0x08 => ("group", true),
            0x10 => ("mask", false),
            0x20 => ("other", false),
            _ => return None,
        };
        let permissions = u16::from_le_bytes([p0, p1]);
        if permissions > 7 {
            return None;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push(':');
        if named {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}", u32::from_le_bytes(id));
        }
        text.push(':');
        for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
            text.push(if permissions & bit == 0 { '-' } else { letter });
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&permissions.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    #[test]
    fn test_every_tag_has_its_text() {
        let none = u32::MAX;
        let entries =
            [(1, 7, none), (2, 5, 1234), (4, 4, none), (8, 0, u32::MAX - 1), (0x10, 6, none), (0x20, 1, none)];
        let text = "user::rwx,user:1234:r-x,group::r--,group:4294967294:---,mask::rw-,other::--x";
        assert_eq!(to_text(&value(&entries)).as_deref(), Some(text));
    }

    #[test]
    fn test_what_is_no_acl_has_no_text() {
        let good = value(&[(1, 7, 0)]);
        assert_eq!(to_text(&[]), None);
        assert_eq!(to_text(&good[..4]), None, "no entry");
        assert_eq!(to_text(&good[..11]), None, "half an entry");
        assert_eq!(to_text(&[&[3, 0, 0, 0], &good[4..]].concat()), None, "another version");
        assert_eq!(to_text(&value(&[(3, 7, 0)])), None, "an unknown tag");
        assert_eq!(to_text(&value(&[(1, 8, 0)])), None, "an unknown right");
    }

    proptest! {
        #[test]
        fn test_any_value_gives_a_text_that_archives_take_or_none(bytes: Vec<u8>, version: bool) {
            let bytes = if version { [&[2, 0, 0, 0], bytes.as_slice()].concat() } else { bytes };
            if let Some(text) = to_text(&bytes) {
                prop_assert_eq!(text.split(',').count(), (bytes.len() - 4) / 8);
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":,-".contains(&byte)));
            }
        }
    }
}
