//! Damage to good input, the same on every run.

/// A small deterministic generator (SplitMix64): the same mutations on every run.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, or 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Values that have broken parsers before.
const SPICE: [&str; 24] = [
    "NaN",
    "-Infinity",
    "1e999",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "1e18",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    "null",
    "\\u0000",
    "\\ud800",
    ",,",
    "::",
    "4000000000000000.5",
    "0.0000000000000001",
    "\u{fffd}",
    "/*",
    "\"ph\":\"X\",",
];

/// Some bytes removed, inserted, replaced, doubled or cut off.
pub fn mutate(text: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = text.to_vec();
    for _ in 0..=random.below(8) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(7) {
            0 => bytes[at] = random.next() as u8,
            1 => {
                bytes.remove(at);
            }
            2 => bytes.insert(at, random.next() as u8),
            3 => {
                let spice = SPICE[random.below(SPICE.len())].bytes();
                bytes.splice(at..at, spice);
            }
            4 => {
                // A number becomes something else.
                let digits = bytes[at..].iter().position(u8::is_ascii_digit).map(|d| at + d);
                if let Some(start) = digits {
                    let count = bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
                    let spice = SPICE[random.below(8)].bytes();
                    bytes.splice(start..start + count, spice);
                }
            }
            5 => {
                let length = random.below(200).min(bytes.len() - at);
                let part = bytes[at..at + length].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, part);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}
