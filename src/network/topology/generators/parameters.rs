//! Parameters of generators: what can be set, and the values that are.

use std::fmt::Write as _;

use crate::error::{Error, Result, nearest_names};
use crate::units::{BytesPerSecond, Quantity, Seconds, read_quantity, si, significant};

/// What a parameter is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// A number of things, or `auto`: what the rest asks for.
    CountOrAuto,
    /// A number of things, or `none`.
    CountOrNone,
    /// A plain number of at least 1.
    Factor,
    /// Bytes per second, one direction.
    Rate,
    /// Seconds.
    Time,
    /// `true` or `false`.
    Flag,
}

/// One parameter of a generator.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Name in `--set`.
    pub key: &'static str,
    /// Unit of its values.
    pub unit: Unit,
    /// Value where nothing else is said, in the base unit; 0 is `auto`, `none` or `false`.
    pub default: f64,
    /// What it is, for people.
    pub about: &'static str,
}

impl Parameter {
    /// A parameter.
    #[must_use]
    pub const fn new(key: &'static str, unit: Unit, default: f64, about: &'static str) -> Self {
        Self { key, unit, default, about }
    }

    /// A value as it is written in `--set`.
    #[must_use]
    pub fn show(&self, value: f64) -> String {
        match self.unit {
            Unit::Count => format!("{value}"),
            Unit::CountOrAuto if value == 0.0 => "auto".into(),
            Unit::CountOrNone if value == 0.0 => "none".into(),
            Unit::CountOrAuto | Unit::CountOrNone => format!("{value}"),
            Unit::Factor => format!("{value}"),
            Unit::Rate => si(value, "B/s"),
            // Below a millisecond `si` has no prefix.
            Unit::Time => format!("{} us", significant(value * 1e6, 3)),
            Unit::Flag => (value != 0.0).to_string(),
        }
    }

    /// What values look like.
    #[must_use]
    pub fn expected(&self) -> &'static str {
        match self.unit {
            Unit::Count => "count",
            Unit::CountOrAuto => "count or auto",
            Unit::CountOrNone => "count or none",
            Unit::Factor => "number",
            Unit::Rate => "rate, one direction",
            Unit::Time => "time",
            Unit::Flag => "true or false",
        }
    }

    fn read(&self, text: &str) -> Result<f64> {
        /// Largest count: the ports of the largest switches are below a thousand.
        const MOST: f64 = 65_535.0;
        let refuse = |message: String, hint: &str| {
            Err(Error::Missing(format!("{} = {text}: {message}\n  help: {hint}", self.key)))
        };
        let quantity = |read: std::result::Result<f64, (String, String)>| {
            read.or_else(|(message, hint)| refuse(message, &hint))
        };
        match self.unit {
            Unit::CountOrAuto if text == "auto" => Ok(0.0),
            Unit::CountOrNone if text == "none" => Ok(0.0),
            Unit::Count | Unit::CountOrAuto | Unit::CountOrNone => match text.parse::<u32>() {
                Ok(count) if (1.0..=MOST).contains(&f64::from(count)) => Ok(count.into()),
                _ => refuse("is no count".into(), "write a whole number from 1 to 65535"),
            },
            Unit::Factor => match text.parse::<f64>() {
                Ok(factor) if (1.0..=1e6).contains(&factor) => Ok(factor),
                _ => refuse("is no factor".into(), "write a number of at least 1"),
            },
            Unit::Rate => quantity(read_quantity::<BytesPerSecond>(text).map(Quantity::base)),
            Unit::Time => quantity(read_quantity::<Seconds>(text).map(Quantity::base)),
            Unit::Flag => match text {
                "true" => Ok(1.0),
                "false" => Ok(0.0),
                _ => refuse("is neither true nor false".into(), "write true or false"),
            },
        }
    }
}

/// A value for each parameter of a generator.
#[derive(Clone, Debug)]
pub struct Values {
    parameters: &'static [Parameter],
    values: Vec<f64>,
}

impl Values {
    /// The defaults.
    #[must_use]
    pub fn new(parameters: &'static [Parameter]) -> Self {
        Self { parameters, values: parameters.iter().map(|p| p.default).collect() }
    }

    /// With another value, in the base unit; a key that there is not changes nothing.
    #[must_use]
    pub fn with(mut self, key: &str, value: f64) -> Self {
        if let Some(at) = self.parameters.iter().position(|p| p.key == key) {
            self.values[at] = value;
        } else {
            debug_assert!(false, "no parameter `{key}`");
        }
        self
    }

    /// Sets a parameter from `key=value`.
    ///
    /// # Errors
    /// There is no such parameter, or that is no value of it.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(Error::Missing(format!(
                "--set {assignment}: write key=value; keys are {}",
                self.keys().collect::<Vec<_>>().join(", ")
            )));
        };
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        let Some(at) = self.parameters.iter().position(|p| p.key == key) else {
            let mut nearest = nearest_names(key, self.keys());
            if nearest.is_empty() {
                nearest = self.keys().map(ToOwned::to_owned).collect();
            }
            return Err(Error::UnknownName { what: "parameter", name: key.to_owned(), nearest });
        };
        self.values[at] = self.parameters[at].read(value)?;
        Ok(())
    }

    fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.parameters.iter().map(|p| p.key)
    }

    /// A value in its base unit.
    #[must_use]
    pub fn number(&self, key: &str) -> f64 {
        let at = self.parameters.iter().position(|p| p.key == key);
        debug_assert!(at.is_some(), "no parameter `{key}`");
        at.map_or(0.0, |at| self.values[at])
    }

    /// A count; 0 stands for `auto` and `none`.
    #[must_use]
    pub fn count(&self, key: &str) -> u32 {
        self.number(key) as u32
    }

    /// A count; `None` stands for `auto`.
    #[must_use]
    pub fn count_or_auto(&self, key: &str) -> Option<u32> {
        Some(self.count(key)).filter(|count| *count > 0)
    }

    /// A flag.
    #[must_use]
    pub fn flag(&self, key: &str) -> bool {
        self.number(key) != 0.0
    }

    /// One line per parameter: key, value, what is expected, what it is.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (parameter, value) in self.parameters.iter().zip(&self.values) {
            let value = parameter.show(*value);
            let _ = writeln!(
                text,
                "  {:<19} {value:<10} {:<20} {}",
                parameter.key,
                parameter.expected(),
                parameter.about
            );
        }
        text
    }
}
