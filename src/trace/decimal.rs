//! Exact conversion of decimal text to whole numbers.
//!
//! Profilers write microseconds with up to three decimals, and absolute ones have sixteen digits in
//! front of the point. A 64-bit float resolves a quarter of a microsecond there, so times never
//! pass through one: text goes straight to integer nanoseconds.

/// Reads decimal microseconds as whole nanoseconds; digits below a nanosecond are rounded half
/// away from zero. `None` for anything that is not a finite decimal number in range.
#[must_use]
pub fn micros_to_nanos(text: &[u8]) -> Option<i64> {
    scaled(text, 3)
}

/// Reads `text` as a decimal number times `10^power`, rounded half away from zero.
#[must_use]
pub fn scaled(text: &[u8], power: i32) -> Option<i64> {
    let text = text.trim_ascii();
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    // Almost every number is at most 18 digits with at most `power` decimals.
    let mut value: i64 = 0;
    let mut decimals: Option<i32> = None;
    if digits.len() <= 19 {
        let mut plain = !digits.is_empty();
        for byte in digits {
            match byte {
                b'0'..=b'9' if value < 100_000_000_000_000_000 => {
                    value = value * 10 + i64::from(byte - b'0');
                    decimals = decimals.map(|count| count + 1);
                }
                b'.' if decimals.is_none() => decimals = Some(0),
                _ => {
                    plain = false;
                    break;
                }
            }
        }
        let missing = power - decimals.unwrap_or(0);
        if plain && digits != b"." && (0..=6).contains(&missing) {
            let value = value.checked_mul(10_i64.pow(missing.unsigned_abs()))?;
            return Some(if negative { -value } else { value });
        }
    }
    slow(digits, power).map(|value| if negative { -value } else { value })
}

/// The general case: long fractions and exponents.
fn slow(digits: &[u8], power: i32) -> Option<i64> {
    let mut mantissa: u128 = 0;
    let mut exponent: i64 = 0;
    let mut seen_digit = false;
    let mut seen_point = false;
    let mut rest = digits;
    while let Some((byte, tail)) = rest.split_first() {
        match byte {
            b'0'..=b'9' => {
                seen_digit = true;
                // 36 digits hold every value in range and its rounding digit.
                if mantissa < 10_u128.pow(35) {
                    mantissa = mantissa * 10 + u128::from(byte - b'0');
                    exponent -= i64::from(seen_point);
                } else {
                    exponent += i64::from(!seen_point);
                }
            }
            b'.' if !seen_point => seen_point = true,
            b'e' | b'E' if seen_digit => {
                let text = std::str::from_utf8(tail).ok()?;
                exponent = exponent.checked_add(text.parse::<i32>().ok()?.into())?;
                break;
            }
            _ => return None,
        }
        rest = tail;
    }
    if !seen_digit {
        return None;
    }
    let shift = exponent.checked_add(power.into())?;
    let value = if mantissa == 0 {
        0
    } else if shift >= 0 {
        let factor = 10_u128.checked_pow(u32::try_from(shift).ok()?)?;
        mantissa.checked_mul(factor)?
    } else {
        match u32::try_from(-shift).ok().and_then(|places| 10_u128.checked_pow(places)) {
            Some(divisor) => mantissa.checked_add(divisor / 2)? / divisor,
            None => 0,
        }
    };
    i64::try_from(value).ok()
}

/// Reads a whole number; accepts a sign, a `0x` prefix and a fraction of zeros (`3.0`).
#[must_use]
pub fn integer(text: &[u8]) -> Option<i64> {
    let text = text.trim_ascii();
    if let Some(hex) = text.strip_prefix(b"0x").or_else(|| text.strip_prefix(b"0X")) {
        return i64::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok();
    }
    let value = scaled(text, 0)?;
    // `scaled` rounds; a number with a real fraction is not an integer.
    match memchr::memchr(b'.', text) {
        Some(point) if text[point + 1..].iter().any(|b| (b'1'..=b'9').contains(b)) => None,
        _ => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microseconds_become_exact_nanoseconds() {
        for (text, nanos) in [
            ("0", 0),
            ("1.6", 1_600),
            ("-1.5", -1_500),
            ("21.953", 21_953),
            ("1682725898079484", 1_682_725_898_079_484_000),
            ("1682725898079484.0", 1_682_725_898_079_484_000),
            ("1712195498563456.123", 1_712_195_498_563_456_123),
            ("1712195498563456.1234", 1_712_195_498_563_456_123),
            ("1712195498563456.1235", 1_712_195_498_563_456_124),
            ("0.30000000000000004", 300),
            ("1e-05", 0),
            ("1.5e3", 1_500_000),
            ("1.661203462598738e15", 1_661_203_462_598_738_000),
            (" 12.5\t", 12_500),
            ("0.0005", 1),
            ("-0.0005", -1),
            ("1e-400000", 0),
        ] {
            assert_eq!(micros_to_nanos(text.as_bytes()), Some(nanos), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "",
            ".",
            "-",
            "NaN",
            "Infinity",
            "1.2.3",
            "1e",
            "0x",
            "9e99",
            "99999999999999999",
            "1 2",
        ] {
            assert_eq!(micros_to_nanos(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn integers_may_be_hexadecimal_or_end_in_zeros() {
        assert_eq!(integer(b"0x10"), Some(16));
        assert_eq!(integer(b"-1"), Some(-1));
        assert_eq!(integer(b"3.0"), Some(3));
        assert_eq!(integer(b"3.5"), None);
        assert_eq!(integer(b"stream 7"), None);
    }
}
