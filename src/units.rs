//! Quantities with units.
//!
//! Every physical quantity that crosses a module border is a newtype over an `f64` in SI base
//! units (seconds, bytes, FLOP, watts, ...), so that a bandwidth cannot be added to a latency and
//! bits are never mixed with bytes. Text carries the unit next to the value (`989 TFLOP/s`), and
//! [`Quantity::UNITS`] is the single table of what each quantity accepts.
//!
//! Engines do not use these: time inside [`crate::replay`] is [`Nanos`], a whole number of
//! nanoseconds, so that sums and maxima are exact and independent of their order.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub, SubAssign};

use serde::{Deserialize, Serialize};

/// A physical quantity that can be read from a value and a unit.
pub trait Quantity: Copy {
    /// What the quantity is, for messages: "bandwidth", "power", ...
    const DIMENSION: &'static str;
    /// Accepted unit names and the factor from that unit to the base unit. The first is the base.
    const UNITS: &'static [(&'static str, f64)];

    /// The quantity of `value` base units.
    fn from_base(value: f64) -> Self;
    /// The value in base units.
    fn base(self) -> f64;

    /// Reads `value` in `unit`; `None` where the unit is not one of [`Self::UNITS`].
    fn parse(value: f64, unit: &str) -> Option<Self> {
        Self::UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, factor)| Self::from_base(value * factor))
    }
}

/// Reads a number and a unit: `50 GB/s`, `1e-3 B/s`, `400Gb/s`.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn read_quantity<Q: Quantity>(text: &str) -> Result<Q, (String, String)> {
    let units = || Q::UNITS.iter().map(|(unit, _)| *unit).collect::<Vec<_>>().join(", ");
    let text = text.trim();
    // The longest beginning that is a number; its exponent is not the beginning of a unit.
    let numeral = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    let end = text.find(|c| !numeral(c)).unwrap_or(text.len());
    let number =
        (1..=end).rev().find_map(|end| text[..end].parse::<f64>().ok().map(|value| (value, end)));
    let Some((value, end)) = number.filter(|(value, _)| value.is_finite() && *value >= 0.0) else {
        let hint = format!("write a number and a unit: {}", units());
        return Err((format!("`{text}` is no {}", Q::DIMENSION), hint));
    };
    let unit = text[end..].trim();
    if unit.is_empty() {
        let hint = format!("write a number and a unit: {}", units());
        return Err((format!("`{text}` has no unit"), hint));
    }
    Q::parse(value, unit).ok_or_else(|| {
        (
            format!("`{unit}` is not a unit of {}", Q::DIMENSION),
            format!("units that are: {}", units()),
        )
    })
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $dimension:literal, [$(($unit:literal, $factor:expr)),+ $(,)?]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub f64);

        impl Quantity for $name {
            const DIMENSION: &'static str = $dimension;
            const UNITS: &'static [(&'static str, f64)] = &[$(($unit, $factor)),+];
            fn from_base(value: f64) -> Self {
                Self(value)
            }
            fn base(self) -> f64 {
                self.0
            }
        }

        impl $name {
            /// The zero quantity.
            pub const ZERO: Self = Self(0.0);

            /// The value in base units.
            #[must_use]
            pub const fn get(self) -> f64 {
                self.0
            }

            /// The larger of two.
            #[must_use]
            pub fn max(self, other: Self) -> Self {
                Self(self.0.max(other.0))
            }

            /// The smaller of two.
            #[must_use]
            pub fn min(self, other: Self) -> Self {
                Self(self.0.min(other.0))
            }
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }
        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                self.0 += other.0;
            }
        }
        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0 - other.0)
            }
        }
        impl Mul<f64> for $name {
            type Output = Self;
            fn mul(self, factor: f64) -> Self {
                Self(self.0 * factor)
            }
        }
        impl Div<f64> for $name {
            type Output = Self;
            fn div(self, divisor: f64) -> Self {
                Self(self.0 / divisor)
            }
        }
        /// The ratio of two quantities of the same dimension is a plain number.
        impl Div<$name> for $name {
            type Output = f64;
            fn div(self, other: $name) -> f64 {
                self.0 / other.0
            }
        }
        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
                Self(iter.map(|q| q.0).sum())
            }
        }
    };
}

quantity!(
    /// A duration in seconds.
    Seconds, "time",
    [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("min", 60.0), ("h", 3600.0), ("d", 86400.0), ("year", 31_557_600.0)]
);
quantity!(
    /// An amount of data in bytes (never bits). `GB` is 10^9, `GiB` is 2^30.
    Bytes, "data size",
    [("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12), ("PB", 1e15),
     ("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0), ("TiB", 1_099_511_627_776.0)]
);
quantity!(
    /// A number of floating-point operations; a multiply-add counts two.
    Flops, "floating-point operations",
    [("FLOP", 1.0), ("MFLOP", 1e6), ("GFLOP", 1e9), ("TFLOP", 1e12), ("PFLOP", 1e15), ("EFLOP", 1e18)]
);
quantity!(
    /// A data rate in bytes per second, one direction.
    BytesPerSecond, "bandwidth",
    [("B/s", 1.0), ("MB/s", 1e6), ("GB/s", 1e9), ("TB/s", 1e12), ("GiB/s", 1_073_741_824.0),
     ("Mb/s", 1.25e5), ("Gb/s", 1.25e8), ("Tb/s", 1.25e11)]
);
quantity!(
    /// A compute rate in floating-point operations per second.
    FlopsPerSecond, "compute rate",
    [("FLOP/s", 1.0), ("GFLOP/s", 1e9), ("TFLOP/s", 1e12), ("PFLOP/s", 1e15)]
);
quantity!(
    /// Electric power in watts.
    Watts, "power",
    [("W", 1.0), ("kW", 1e3), ("MW", 1e6)]
);
quantity!(
    /// Energy in joules.
    Joules, "energy",
    [("J", 1.0), ("kJ", 1e3), ("MJ", 1e6), ("kWh", 3.6e6), ("MWh", 3.6e9), ("GWh", 3.6e12)]
);
quantity!(
    /// Money in US dollars of the price sheet's date.
    Dollars, "money",
    [("USD", 1.0), ("kUSD", 1e3), ("MUSD", 1e6)]
);
quantity!(
    /// A rental price in US dollars per hour.
    DollarsPerHour, "price per hour",
    [("USD/h", 1.0)]
);
quantity!(
    /// A price of electric energy in US dollars per joule (quoted in USD/kWh).
    DollarsPerJoule, "price of energy",
    [("USD/J", 1.0), ("USD/kWh", 1.0 / 3.6e6), ("USD/MWh", 1.0 / 3.6e9)]
);
quantity!(
    /// Greenhouse gas in grams of CO2 equivalent.
    GramsCo2e, "greenhouse gas mass",
    [("gCO2e", 1.0), ("kgCO2e", 1e3), ("tCO2e", 1e6)]
);
quantity!(
    /// Grid carbon intensity in grams of CO2 equivalent per joule (quoted in gCO2e/kWh).
    GramsCo2ePerJoule, "carbon intensity",
    [("gCO2e/J", 1.0), ("gCO2e/kWh", 1.0 / 3.6e6)]
);
quantity!(
    /// A frequency in hertz.
    Hertz, "frequency",
    [("Hz", 1.0), ("kHz", 1e3), ("MHz", 1e6), ("GHz", 1e9)]
);
quantity!(
    /// A dimensionless share or factor.
    Ratio, "ratio",
    [("1", 1.0), ("%", 0.01)]
);
quantity!(
    /// A number of things (units, ports, links).
    Count, "count",
    [("count", 1.0)]
);

impl Div<BytesPerSecond> for Bytes {
    type Output = Seconds;
    fn div(self, rate: BytesPerSecond) -> Seconds {
        Seconds(self.0 / rate.0)
    }
}
impl Div<FlopsPerSecond> for Flops {
    type Output = Seconds;
    fn div(self, rate: FlopsPerSecond) -> Seconds {
        Seconds(self.0 / rate.0)
    }
}
impl Mul<Seconds> for Watts {
    type Output = Joules;
    fn mul(self, time: Seconds) -> Joules {
        Joules(self.0 * time.0)
    }
}
impl Joules {
    /// Energy in kilowatt-hours.
    #[must_use]
    pub fn kwh(self) -> f64 {
        self.0 / 3.6e6
    }
}
impl Seconds {
    /// Hours.
    #[must_use]
    pub fn hours(self) -> f64 {
        self.0 / 3600.0
    }
    /// Rounds to whole nanoseconds, half away from zero: the only place where an analytic
    /// duration becomes engine time.
    #[must_use]
    pub fn to_nanos(self) -> Nanos {
        Nanos((self.0 * 1e9).round() as i64)
    }
}

/// A point in time or a duration in whole nanoseconds: the only time an engine knows.
///
/// Integer sums and maxima do not depend on their order, which is what lets every engine, thread
/// count and lane width give the same bits. 2^63 ns is 292 years.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Nanos(pub i64);

impl Nanos {
    /// Zero time.
    pub const ZERO: Self = Self(0);

    /// The value as seconds.
    #[must_use]
    pub fn seconds(self) -> Seconds {
        Seconds(self.0 as f64 / 1e9)
    }
}
impl Add for Nanos {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}
impl AddAssign for Nanos {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}
impl Sub for Nanos {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}
impl SubAssign for Nanos {
    fn sub_assign(&mut self, other: Self) {
        self.0 -= other.0;
    }
}
impl Neg for Nanos {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}
impl Sum for Nanos {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        Self(iter.map(|n| n.0).sum())
    }
}
impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ns", self.0)
    }
}

/// Formats a number with an SI prefix and three significant digits: `1.23 G`.
#[must_use]
pub fn si(value: f64, unit: &str) -> String {
    const PREFIXES: [(f64, &str); 8] = [
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
        (1.0, ""),
        (1e-3, "m"),
    ];
    let magnitude = value.abs();
    let (factor, prefix) =
        PREFIXES.iter().copied().find(|(factor, _)| magnitude >= *factor).unwrap_or((1.0, ""));
    format!("{} {prefix}{unit}", significant(value / factor, 3))
}

/// Formats a number with `digits` significant digits and no exponent.
#[must_use]
pub fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let exponent = value.abs().log10().floor() as i64;
    let decimals = (digits as i64 - 1 - exponent).max(0) as usize;
    format!("{value:.decimals$}")
}

/// Formats a duration in the unit a person would choose: `812 us`, `3.53 s`, `2.4 d`.
#[must_use]
pub fn human_time(time: Seconds) -> String {
    let s = time.0;
    let (value, unit) = match s.abs() {
        0.0 => (0.0, "s"),
        v if v < 1e-6 => (s * 1e9, "ns"),
        v if v < 1e-3 => (s * 1e6, "us"),
        v if v < 1.0 => (s * 1e3, "ms"),
        v if v < 600.0 => (s, "s"),
        v if v < 2.0 * 86400.0 => (s / 3600.0, "h"),
        _ => (s / 86400.0, "d"),
    };
    format!("{} {unit}", significant(value, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_bytes_are_told_apart() {
        assert_eq!(BytesPerSecond::parse(400.0, "Gb/s"), Some(BytesPerSecond(50e9)));
        assert_eq!(BytesPerSecond::parse(50.0, "GB/s"), Some(BytesPerSecond(50e9)));
        assert_eq!(BytesPerSecond::parse(1.0, "GB"), None);
        assert_eq!(Bytes::parse(1.0, "GiB"), Some(Bytes(1_073_741_824.0)));
    }

    #[test]
    fn quantities_are_read_with_their_exponents() {
        let read = read_quantity::<BytesPerSecond>;
        for (text, wanted) in [
            ("50 GB/s", 50e9),
            ("1e-3 B/s", 1e-3),
            ("4E2Gb/s", 50e9),
            (" 2.5e+1 GB/s ", 25e9),
            ("0 GB/s", 0.0),
        ] {
            assert_eq!(read(text), Ok(BytesPerSecond(wanted)), "{text}");
        }
        for (text, wrong) in [
            ("GB/s", "is no bandwidth"),
            ("-1 GB/s", "is no bandwidth"),
            ("1e999 GB/s", "is no bandwidth"),
            ("50", "has no unit"),
            ("1e B/s", "`e B/s` is not a unit"),
            ("5 s", "`s` is not a unit of bandwidth"),
        ] {
            let message = read(text).unwrap_err().0;
            assert!(message.contains(wrong), "{text}: {message}");
        }
    }

    #[test]
    fn durations_round_once_to_whole_nanoseconds() {
        assert_eq!(Seconds(1.5e-9).to_nanos(), Nanos(2));
        assert_eq!(Seconds(1.0).to_nanos(), Nanos(1_000_000_000));
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(si(312e12, "FLOP/s"), "312 TFLOP/s");
        assert_eq!(human_time(Seconds(0.000_812)), "812 us");
        assert_eq!(significant(12.345, 3), "12.3");
    }
}
