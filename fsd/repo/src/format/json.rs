//! A pull parser of JSON over a slice, for the formats that are read by the million.
//!
//! It builds nothing: the caller asks for the value that its format has next, and gets numbers, or slices of the input.
//! `null` is the empty value of every type, as in Go, whose encoder wrote most repositories. Only [`Reader::skip`] meets
//! nesting that the format does not know, and it counts instead of recursing.

/// The deepest nesting that is skipped over.
const SKIP_DEPTH: usize = 64;

/// Where and why bytes are not the JSON that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {what}")]
pub(crate) struct JsonError {
    at: usize,
    what: &'static str,
}

/// The result of reading JSON.
pub(crate) type JsonResult<T> = Result<T, JsonError>;

/// A string as it stands between its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawStr<'a> {
    /// The bytes between the quotes.
    pub(crate) bytes: &'a [u8],
    /// Whether a backslash is among them.
    pub(crate) escaped: bool,
    at: usize,
}

/// A place in a JSON text.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Makes an error at this place.
    #[cold]
    pub(crate) fn error(&self, what: &'static str) -> JsonError {
        JsonError { at: self.at, what }
    }

    /// Skips white space and returns the byte after it without taking it.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    /// Takes `byte` if it is next.
    #[inline]
    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    #[inline]
    fn expect(&mut self, byte: u8, what: &'static str) -> JsonResult<()> {
        if self.take(byte) { Ok(()) } else { Err(self.error(what)) }
    }

    fn literal(&mut self, text: &'static str) -> JsonResult<()> {
        if self.bytes[self.at..].starts_with(text.as_bytes()) {
            self.at += text.len();
            Ok(())
        } else {
            Err(self.error("unknown literal"))
        }
    }

    /// Takes `null` if it is next.
    #[inline]
    pub(crate) fn null(&mut self) -> JsonResult<bool> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        self.literal("null").map(|()| true)
    }

    /// Fails if anything but white space follows.
    pub(crate) fn end(&mut self) -> JsonResult<()> {
        if self.peek().is_none() { Ok(()) } else { Err(self.error("more than one value")) }
    }

    /// Reads an object: `member` is called after each key and must take its value. `null` is an empty object.
    ///
    /// Keys are given as they stand: one that holds an escape matches nothing, and is skipped as unknown.
    #[inline]
    pub(crate) fn object<E: From<JsonError>>(
        &mut self,
        mut member: impl FnMut(&mut Self, &'a [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.null()? {
            return Ok(());
        }
        self.expect(b'{', "an object is expected")?;
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':', "a colon is expected")?;
            member(self, key.bytes)?;
            if self.take(b'}') {
                return Ok(());
            }
            self.expect(b',', "a comma or the end of the object is expected")?;
        }
    }

    /// Reads an array: `element` is called for each and must take it. `null` is an empty array.
    #[inline]
    pub(crate) fn array<E: From<JsonError>>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.null()? {
            return Ok(());
        }
        self.expect(b'[', "an array is expected")?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            element(self)?;
            if self.take(b']') {
                return Ok(());
            }
            self.expect(b',', "a comma or the end of the array is expected")?;
        }
    }

    /// Reads a string, not unescaped. `null` is the empty string.
    #[inline]
    pub(crate) fn string(&mut self) -> JsonResult<RawStr<'a>> {
        if self.null()? {
            return Ok(RawStr { bytes: &[], escaped: false, at: self.at });
        }
        self.expect(b'"', "a string is expected")?;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_prefix(&self.bytes[self.at..]);
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    let bytes = &self.bytes[start..self.at];
                    self.at += 1;
                    return Ok(RawStr { bytes, escaped, at: start });
                }
                Some(b'\\') if self.at + 1 < self.bytes.len() => {
                    escaped = true;
                    self.at += 2;
                }
                Some(_) => return Err(self.error("a control character in a string")),
                None => return Err(self.error("a string without end")),
            }
        }
    }

    /// Reads a string of 64 hexadecimal digits.
    #[inline]
    pub(crate) fn id(&mut self) -> JsonResult<[u8; 32]> {
        self.expect(b'"', "an id is expected")?;
        let digits: &[u8; 65] = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.first_chunk())
            .ok_or_else(|| self.error("the text ends within an id"))?;
        let mut id = [0; 32];
        let mut bad = u8::from(digits[64] != b'"');
        for (byte, pair) in id.iter_mut().zip(digits.as_chunks::<2>().0) {
            let (high, low) = (HEX[usize::from(pair[0])], HEX[usize::from(pair[1])]);
            bad |= (high | low) & 0xf0;
            *byte = (high << 4) | (low & 0x0f);
        }
        if bad != 0 {
            return Err(self.error("an id is 64 hexadecimal digits"));
        }
        self.at += 65;
        Ok(id)
    }

    /// Reads a whole number of 0 to `u64::MAX`. `null` is 0.
    #[inline]
    pub(crate) fn u64(&mut self) -> JsonResult<u64> {
        if self.null()? {
            return Ok(0);
        }
        let start = self.at;
        let mut value: u64 = 0;
        while let Some(digit) = self.bytes.get(self.at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10)
        {
            value = value
                .checked_mul(10)
                .and_then(|value| value.checked_add(u64::from(digit)))
                .ok_or_else(|| self.error("the number is too large"))?;
            self.at += 1;
        }
        if self.at == start || matches!(self.bytes.get(self.at), Some(b'.' | b'e' | b'E')) {
            return Err(self.error("a whole number is expected"));
        }
        Ok(value)
    }

    /// Reads a whole number that fits 32 bits. `null` is 0.
    #[inline]
    pub(crate) fn u32(&mut self) -> JsonResult<u32> {
        let at = self.at;
        u32::try_from(self.u64()?).map_err(|_| JsonError { at, what: "the number does not fit 32 bits" })
    }

    /// Takes a value of any kind.
    pub(crate) fn skip(&mut self) -> JsonResult<()> {
        // One bit for each level: 1 is an object, 0 an array.
        let (mut levels, mut depth) = (0_u64, 0_usize);
        loop {
            match self.peek() {
                Some(b'"') => _ = self.string()?,
                Some(b't') => self.literal("true")?,
                Some(b'f') => self.literal("false")?,
                Some(b'n') => self.literal("null")?,
                Some(b'-' | b'0'..=b'9') => self.skip_number(),
                Some(open @ (b'{' | b'[')) => {
                    self.at += 1;
                    let (object, close) = if open == b'{' { (true, b'}') } else { (false, b']') };
                    if !self.take(close) {
                        if depth == SKIP_DEPTH {
                            return Err(self.error("nested too deeply"));
                        }
                        depth += 1;
                        levels = (levels << 1) | u64::from(object);
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                _ => return Err(self.error("a value is expected")),
            }
            // A value ended: close what ends with it, until a comma or the outermost value's end.
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let object = levels & 1 == 1;
                if self.take(if object { b'}' } else { b']' }) {
                    depth -= 1;
                    levels >>= 1;
                    continue;
                }
                self.expect(b',', "a comma is expected")?;
                if object {
                    self.key()?;
                }
                break;
            }
        }
    }

    fn key(&mut self) -> JsonResult<()> {
        self.string()?;
        self.expect(b':', "a colon is expected")
    }

    fn skip_number(&mut self) {
        while let Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }
}

impl RawStr<'_> {
    /// The empty string.
    pub(crate) const EMPTY: Self = Self { bytes: &[], escaped: false, at: 0 };

    /// Appends the string's bytes to `out`, JSON's escapes resolved. A lone surrogate becomes U+FFFD, as in Go.
    pub(crate) fn unescape_into(&self, out: &mut Vec<u8>) -> JsonResult<()> {
        if !self.escaped {
            out.extend_from_slice(self.bytes);
            return Ok(());
        }
        let mut rest = self.bytes;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
            out.extend_from_slice(&rest[..at]);
            let bad = JsonError { at: self.at, what: "unknown escape in the string" };
            let escape = *rest.get(at + 1).ok_or(bad)?;
            rest = &rest[at + 2..];
            match escape {
                b'"' | b'\\' | b'/' => out.push(escape),
                b'b' => out.push(0x08),
                b'f' => out.push(0x0c),
                b'n' => out.push(b'\n'),
                b'r' => out.push(b'\r'),
                b't' => out.push(b'\t'),
                b'u' => {
                    let first = hex4(rest).ok_or(bad)?;
                    rest = &rest[4..];
                    let mut unit = char::from_u32(first);
                    if (0xd800..0xdc00).contains(&first)
                        && let Some(tail) = rest.strip_prefix(b"\\u")
                        && let Some(second @ 0xdc00..=0xdfff) = hex4(tail)
                    {
                        rest = &tail[4..];
                        unit = char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
                    }
                    let unit = unit.unwrap_or(char::REPLACEMENT_CHARACTER);
                    out.extend_from_slice(unit.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => return Err(bad),
            }
        }
        out.extend_from_slice(rest);
        Ok(())
    }

    /// Returns the string, at most `limit_bytes` of it, with what is not UTF-8 replaced.
    pub(crate) fn text(&self, limit_bytes: usize) -> JsonResult<String> {
        // An escape of six bytes stands for at least one.
        if self.bytes.len() > limit_bytes.saturating_mul(6) {
            return Err(JsonError { at: self.at, what: "the string is too long" });
        }
        let mut out = Vec::with_capacity(self.bytes.len());
        self.unescape_into(&mut out)?;
        if out.len() > limit_bytes {
            return Err(JsonError { at: self.at, what: "the string is too long" });
        }
        Ok(String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

/// The value of each hexadecimal digit; `0xff` for other bytes.
static HEX: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut i = 0;
    while i < 10 {
        table[b'0' as usize + i as usize] = i;
        i += 1;
    }
    let mut i = 0;
    while i < 6 {
        table[b'a' as usize + i as usize] = 10 + i;
        table[b'A' as usize + i as usize] = 10 + i;
        i += 1;
    }
    table
};

/// Reads four hexadecimal digits.
fn hex4(bytes: &[u8]) -> Option<u32> {
    let digits: &[u8; 4] = bytes.first_chunk()?;
    digits.iter().try_fold(0, |value, digit| {
        let digit = HEX[usize::from(*digit)];
        (digit < 16).then_some((value << 4) | u32::from(digit))
    })
}

/// Returns how many bytes come before the first quote, backslash or control character, eight at a time.
#[inline]
fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    // The high bit of each byte of the result is set where the byte is zero (exact for the lowest such byte).
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let (words, tail) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let found = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\'))) | control;
        if found != 0 {
            return i * 8 + (found.trailing_zeros() / 8) as usize;
        }
    }
    let done = words.len() * 8;
    done + tail.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).unwrap_or(tail.len())
}

#[cfg(test)]
mod tests;
