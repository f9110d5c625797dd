//! A byte-level JSON scanner over a bounded window.
//!
//! A trace is tens of megabytes to gigabytes of small objects, most of which are skipped. Building
//! values for them is what makes other tools slow, so this scanner hands out slices of the input
//! and allocates nothing. It accepts more than JSON (bare `NaN`, raw control characters, unknown
//! escapes): traces in the wild contain them.

use std::io::Read;

/// Why scanning stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The window ended inside the value; more input may complete it.
    Incomplete,
    /// The text is not JSON.
    Malformed,
}

/// A scalar or nested value as it stands in the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raw<'a> {
    /// Text without quotes for a string, the whole value otherwise.
    pub text: &'a [u8],
    /// Whether it is a string.
    pub quoted: bool,
    /// Whether it is a string with escapes.
    pub escaped: bool,
}

/// A position in a window of input.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    /// Offset in the window.
    pub pos: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, pos: 0 }
    }

    /// The next byte that is not white space, without passing it.
    pub fn peek(&mut self) -> Result<u8, Stop> {
        while let Some(&byte) = self.bytes.get(self.pos) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Ok(byte);
            }
            self.pos += 1;
        }
        Err(Stop::Incomplete)
    }

    /// Passes `byte`, which must be next.
    pub fn expect(&mut self, byte: u8) -> Result<(), Stop> {
        if self.peek()? != byte {
            return Err(Stop::Malformed);
        }
        self.pos += 1;
        Ok(())
    }

    /// Reads a string; the slice is what stands between the quotes.
    pub fn string(&mut self) -> Result<Raw<'a>, Stop> {
        self.expect(b'"')?;
        let start = self.pos;
        let mut escaped = false;
        loop {
            let rest = &self.bytes[self.pos..];
            let Some(at) = memchr::memchr2(b'"', b'\\', rest) else {
                return Err(Stop::Incomplete);
            };
            self.pos += at + 1;
            if rest[at] == b'"' {
                return Ok(Raw { text: &self.bytes[start..self.pos - 1], quoted: true, escaped });
            }
            escaped = true;
            if self.pos >= self.bytes.len() {
                return Err(Stop::Incomplete);
            }
            self.pos += 1;
        }
    }

    /// Reads any value.
    pub fn value(&mut self) -> Result<Raw<'a>, Stop> {
        match self.peek()? {
            b'"' => self.string(),
            open @ (b'{' | b'[') => {
                let start = self.pos;
                self.pos += 1;
                self.close(open)?;
                Ok(Raw { text: &self.bytes[start..self.pos], quoted: false, escaped: false })
            }
            b'}' | b']' | b',' | b':' => Err(Stop::Malformed),
            _ => {
                let start = self.pos;
                let rest = &self.bytes[start..];
                let length = rest
                    .iter()
                    .position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'))
                    .ok_or(Stop::Incomplete)?;
                self.pos += length;
                Ok(Raw { text: &rest[..length], quoted: false, escaped: false })
            }
        }
    }

    /// Passes everything up to and including the bracket that closes an open `{` or `[`.
    pub fn close(&mut self, open: u8) -> Result<(), Stop> {
        let shut = if open == b'{' { b'}' } else { b']' };
        let mut depth = 1_usize;
        loop {
            let Some(at) = memchr::memchr3(b'"', open, shut, &self.bytes[self.pos..]) else {
                return Err(Stop::Incomplete);
            };
            self.pos += at;
            let byte = self.bytes[self.pos];
            if byte == b'"' {
                self.string()?;
                continue;
            }
            self.pos += 1;
            if byte == open {
                depth += 1;
            } else {
                depth -= 1;
                if depth == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// Reads the next key of an object that is open, and passes the colon. `None` at its end.
    pub fn key(&mut self) -> Result<Option<&'a [u8]>, Stop> {
        match self.peek()? {
            b'}' => {
                self.pos += 1;
                return Ok(None);
            }
            b',' => {
                self.pos += 1;
                if self.peek()? == b'}' {
                    self.pos += 1;
                    return Ok(None);
                }
            }
            _ => {}
        }
        let key = self.string()?;
        self.expect(b':')?;
        Ok(Some(key.text))
    }
}

/// Resolves the escapes of a string; unknown ones are kept as they stand.
#[must_use]
pub fn unescape(raw: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let Some((&code, tail)) = rest.split_first() else {
            bytes.push(byte);
            break;
        };
        let plain = match code {
            b'"' | b'\\' | b'/' => Some(code),
            b'n' => Some(b'\n'),
            b't' => Some(b'\t'),
            b'r' => Some(b'\r'),
            b'b' => Some(8),
            b'f' => Some(12),
            _ => None,
        };
        if let Some(plain) = plain {
            bytes.push(plain);
            rest = tail;
        } else if let Some((c, tail)) = (code == b'u').then(|| unicode(tail)).flatten() {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// The character of `\uXXXX` or of a surrogate pair, after the `\u`.
fn unicode(tail: &[u8]) -> Option<(char, &[u8])> {
    let hex = |text: &[u8]| u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok();
    let high = hex(tail.get(..4)?)?;
    let tail = &tail[4..];
    if let Some(c) = char::from_u32(high) {
        return Some((c, tail));
    }
    let low = tail.strip_prefix(b"\\u").and_then(|t| hex(t.get(..4)?));
    match low {
        Some(low) if (0xD800..0xDC00).contains(&high) && (0xDC00..0xE000).contains(&low) => {
            let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            Some((char::from_u32(code)?, &tail[6..]))
        }
        _ => Some((char::REPLACEMENT_CHARACTER, tail)),
    }
}

/// First size of the window.
const WINDOW: usize = 256 << 10;
/// Largest single value that is looked at; larger ones are passed without being held.
pub const LARGEST_VALUE: usize = 16 << 20;

/// A window that moves over a reader. It grows only for a value that does not fit.
#[derive(Debug)]
pub struct Window<R> {
    reader: R,
    buffer: Vec<u8>,
    head: usize,
    tail: usize,
    offset: u64,
    ended: bool,
    /// What the reader said when it failed: a damaged archive ends where the damage begins.
    pub failure: Option<String>,
}

impl<R: Read> Window<R> {
    /// A window at the start of `reader`.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: vec![0; WINDOW],
            head: 0,
            tail: 0,
            offset: 0,
            ended: false,
            failure: None,
        }
    }

    /// The bytes that are here and not consumed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.head..self.tail]
    }

    /// Offset of the first of [`Self::bytes`] in the source.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset + self.head as u64
    }

    /// Gives up the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.head = (self.head + count).min(self.tail);
    }

    /// Whether the source has no more than [`Self::bytes`].
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Reads on. False if nothing came: the source has ended, or the value exceeds
    /// [`LARGEST_VALUE`].
    pub fn refill(&mut self) -> bool {
        if self.ended {
            return false;
        }
        if self.head > 0 {
            self.buffer.copy_within(self.head..self.tail, 0);
            self.offset += self.head as u64;
            self.tail -= self.head;
            self.head = 0;
        }
        if self.tail == self.buffer.len() {
            if self.tail >= LARGEST_VALUE {
                return false;
            }
            self.buffer.resize(self.tail * 2, 0);
        }
        // A decompressor gives a few kilobytes at a time: fill up before going on.
        let before = self.tail;
        while self.tail < self.buffer.len() {
            match self.reader.read(&mut self.buffer[self.tail..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(count) => self.tail += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.failure = Some(e.to_string());
                    self.ended = true;
                    break;
                }
            }
        }
        self.tail > before
    }

    /// The next byte that is not white space; passes the white space. `None` at the end.
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            let blank = self
                .bytes()
                .iter()
                .take_while(|b| matches!(b, b' ' | b'\n' | b'\r' | b'\t'))
                .count();
            self.consume(blank);
            if let Some(&byte) = self.bytes().first() {
                return Some(byte);
            }
            if !self.refill() {
                return None;
            }
        }
    }

    /// Passes the value that begins here, however large, in bounded memory.
    ///
    /// # Errors
    /// The source ends inside the value, or there is no value here.
    pub fn skip_value(&mut self) -> Result<(), Stop> {
        let first = self.peek().ok_or(Stop::Incomplete)?;
        if matches!(first, b'}' | b']' | b',' | b':') {
            return Err(Stop::Malformed);
        }
        let mut depth = 0_usize;
        let mut in_string = false;
        let mut escape = false;
        loop {
            let mut done = None;
            for (at, &byte) in self.bytes().iter().enumerate() {
                if escape {
                    escape = false;
                } else if in_string {
                    match byte {
                        b'\\' => escape = true,
                        b'"' => {
                            in_string = false;
                            if depth == 0 {
                                done = Some(at + 1);
                                break;
                            }
                        }
                        _ => {}
                    }
                } else {
                    match byte {
                        b'"' => in_string = true,
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' if depth <= 1 => {
                            done = Some(at + depth);
                            break;
                        }
                        b'}' | b']' => depth -= 1,
                        b',' if depth == 0 => {
                            done = Some(at);
                            break;
                        }
                        _ => {}
                    }
                }
            }
            if let Some(count) = done {
                self.consume(count);
                return Ok(());
            }
            self.consume(self.bytes().len());
            if !self.refill() {
                return Err(Stop::Incomplete);
            }
        }
    }

    /// Runs `scan` on the bytes here, reading on as often as it needs more, and consumes what it
    /// passed.
    ///
    /// # Errors
    /// What `scan` says about text that is complete; [`Stop::Incomplete`] at the end of the
    /// source, or where the value exceeds [`LARGEST_VALUE`].
    pub fn scan<T>(
        &mut self,
        mut scan: impl FnMut(&mut Cursor<'_>) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        loop {
            let mut cursor = Cursor::new(&self.buffer[self.head..self.tail]);
            match scan(&mut cursor) {
                Ok(value) => {
                    let passed = cursor.pos;
                    self.consume(passed);
                    return Ok(value);
                }
                Err(Stop::Incomplete) => {
                    if !self.refill() {
                        return Err(Stop::Incomplete);
                    }
                }
                Err(Stop::Malformed) => {
                    // Everything in front of the fault is passed, so that looking for the next
                    // object never goes over the same bytes twice.
                    let passed = cursor.pos.max(1);
                    self.consume(passed);
                    return Err(Stop::Malformed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that gives one byte at a time.
    struct Drip<'a>(&'a [u8]);
    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match (self.0.split_first(), buffer.first_mut()) {
                (Some((byte, rest)), Some(slot)) => {
                    *slot = *byte;
                    self.0 = rest;
                    Ok(1)
                }
                _ => Ok(0),
            }
        }
    }

    #[test]
    fn values_are_slices_of_the_input() {
        let mut cursor = Cursor::new(br#" {"a" : [1, "]", {"b": "\"}"}], "c": 1.5e3 , "d": NaN}"#);
        cursor.expect(b'{').unwrap();
        assert_eq!(cursor.key().unwrap(), Some(&b"a"[..]));
        assert_eq!(cursor.value().unwrap().text, br#"[1, "]", {"b": "\"}"}]"#);
        assert_eq!(cursor.key().unwrap(), Some(&b"c"[..]));
        assert_eq!(cursor.value().unwrap().text, b"1.5e3");
        assert_eq!(cursor.key().unwrap(), Some(&b"d"[..]));
        assert_eq!(cursor.value().unwrap().text, b"NaN");
        assert_eq!(cursor.key().unwrap(), None);
    }

    #[test]
    fn what_ends_early_is_incomplete() {
        for text in ["\"abc", "{\"a\": 1", "[1, 2", "\"a\\", "12"] {
            assert_eq!(Cursor::new(text.as_bytes()).value(), Err(Stop::Incomplete), "{text}");
        }
    }

    #[test]
    fn escapes_are_resolved_and_unknown_ones_kept() {
        assert_eq!(unescape(br#"a\"b\\c\/d\n\u00e9\ud83d\ude00"#), "a\"b\\c/d\né😀");
        assert_eq!(unescape(br"C:\Users\x"), "C:\\Users\\x");
        assert_eq!(unescape(br"\ud800 \u12"), "\u{fffd} \\u12");
        assert_eq!(unescape(b"\xff\\"), "\u{fffd}\\");
    }

    #[test]
    fn a_window_skips_values_of_any_size_without_holding_them() {
        let mut text = b"[\"".to_vec();
        text.resize(40 << 20, b'x');
        text.extend_from_slice(b"\", {\"a\": \"]\"}], 7");
        let mut window = Window::new(&text[..]);
        window.skip_value().unwrap();
        assert_eq!(window.peek(), Some(b','));
        assert!(window.buffer.len() <= WINDOW);
        let mut window = Window::new(&b"\"never closed"[..]);
        assert_eq!(window.skip_value(), Err(Stop::Incomplete));
        let mut window = Window::new(&b"12, 3"[..]);
        window.skip_value().unwrap();
        assert_eq!(window.peek(), Some(b','));
    }

    #[test]
    fn scanning_continues_over_refills() {
        let mut window = Window::new(Drip(br#"  {"key": "value"} rest"#));
        assert_eq!(window.peek(), Some(b'{'));
        let length = window.scan(|cursor| cursor.value().map(|raw| raw.text.len())).unwrap();
        assert_eq!(length, 16);
        assert_eq!(window.peek(), Some(b'r'));
    }
}
