//! Figures: numbers with a unit and a provenance.
//!
//! Nothing in the catalogue is a bare number. A [`Figure`] has value, unit, kind, source and date,
//! and low and high bounds where they are known; a [`Curve`] is the same for a table.

use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use crate::units::Quantity;

/// How a figure came about, from most to least trustworthy.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Somebody measured it on the real thing.
    Measured,
    /// The maker's data sheet or the operator's user guide says so.
    Datasheet,
    /// Computed from other figures; the note says how.
    Derived,
    /// An assumption; must carry `low` and `high`.
    Assumed,
}

impl Kind {
    /// The word used in files and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Datasheet => "datasheet",
            Self::Derived => "derived",
            Self::Assumed => "assumed",
        }
    }
}

/// A number of quantity `Q` with its provenance. Values are in base units of `Q`.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure<Q> {
    /// Best value, base units.
    pub value: Q,
    /// Plausible lower bound, base units.
    pub low: Option<Q>,
    /// Plausible upper bound, base units.
    pub high: Option<Q>,
    /// The unit the file used.
    pub unit: String,
    /// How it came about.
    pub kind: Kind,
    /// Key of the file's `[sources]` table.
    pub source: String,
    /// Date (or year, or year and month) the figure refers to; falls back to the source's date.
    pub date: Option<String>,
    /// How it was derived, or on which conditions it holds.
    pub note: Option<String>,
    quantity: PhantomData<Q>,
}

/// No figure in any unit is larger; results stay finite.
const LARGEST: f64 = 1e24;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFigure {
    value: f64,
    unit: String,
    kind: Kind,
    source: String,
    date: Option<String>,
    low: Option<f64>,
    high: Option<f64>,
    note: Option<String>,
}

impl<'de, Q: Quantity> Deserialize<'de> for Figure<Q> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let raw = RawFigure::deserialize(deserializer)?;
        let convert = |value: f64| {
            Q::parse(value, &raw.unit).ok_or_else(|| {
                D::Error::custom(format!(
                    "`{}` is not a unit of {}\nunits that are: {}",
                    raw.unit,
                    Q::DIMENSION,
                    Q::UNITS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
                ))
            })
        };
        if [Some(raw.value), raw.low, raw.high].into_iter().flatten().any(|v| v > LARGEST) {
            return Err(D::Error::custom(format!("a figure above {LARGEST:e} is a slip")));
        }
        if raw.low.is_some_and(|low| low > raw.value)
            || raw.high.is_some_and(|high| high < raw.value)
        {
            return Err(D::Error::custom("value is outside of low..high"));
        }
        if raw.kind == Kind::Assumed && (raw.low.is_none() || raw.high.is_none()) {
            return Err(D::Error::custom("an assumed figure needs `low` and `high`"));
        }
        Ok(Self {
            value: convert(raw.value)?,
            low: raw.low.map(convert).transpose()?,
            high: raw.high.map(convert).transpose()?,
            unit: raw.unit.clone(),
            kind: raw.kind,
            source: raw.source,
            date: raw.date,
            note: raw.note,
            quantity: PhantomData,
        })
    }
}

impl<Q: Quantity> JsonSchema for Figure<Q> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Figure of {}", Q::DIMENSION).into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let units: Vec<&str> = Q::UNITS.iter().map(|(name, _)| *name).collect();
        json_schema!({
            "type": "object",
            "description": "A number with unit and provenance.",
            "properties": {
                "value": {"type": "number", "minimum": 0},
                "unit": {"enum": units},
                "kind": {"enum": ["measured", "datasheet", "derived", "assumed"]},
                "source": {"type": "string", "description": "Key of the [sources] table."},
                "date": {"type": "string"},
                "low": {"type": "number", "minimum": 0},
                "high": {"type": "number", "minimum": 0},
                "note": {"type": "string"},
            },
            "required": ["value", "unit", "kind", "source"],
            "additionalProperties": false,
        })
    }
}

/// A monotone table `x -> y` with its provenance, interpolated linearly in `ln x`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, try_from = "RawCurve")]
pub struct Curve {
    /// `[x, y]` pairs with strictly increasing `x`.
    pub points: Vec<[f64; 2]>,
    /// What `x` is, with its unit: "FLOP", "tokens", "B".
    pub x: String,
    /// What `y` is: "fraction of dense peak", ...
    pub y: String,
    /// How it came about.
    pub kind: Kind,
    /// Key of the file's `[sources]` table.
    pub source: String,
    /// The rows the points were fitted on, where they were fitted.
    pub fit_set: Option<String>,
    /// Relative spread of the underlying rows about the curve (one standard deviation).
    pub spread: Option<f64>,
    /// Conditions, or how it was derived.
    pub note: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawCurve {
    points: Vec<[f64; 2]>,
    x: String,
    y: String,
    kind: Kind,
    source: String,
    fit_set: Option<String>,
    spread: Option<f64>,
    note: Option<String>,
}

impl TryFrom<RawCurve> for Curve {
    type Error = String;
    fn try_from(raw: RawCurve) -> Result<Self, String> {
        if raw.points.is_empty() {
            return Err("a curve needs at least one point".into());
        }
        if raw.points.windows(2).any(|pair| pair[0][0] >= pair[1][0]) {
            return Err("the first column of a curve must increase strictly".into());
        }
        if raw.points.iter().any(|[x, y]| *x <= 0.0 || *y <= 0.0) {
            return Err("a curve's numbers must be positive".into());
        }
        Ok(Self {
            points: raw.points,
            x: raw.x,
            y: raw.y,
            kind: raw.kind,
            source: raw.source,
            fit_set: raw.fit_set,
            spread: raw.spread,
            note: raw.note,
        })
    }
}

impl Curve {
    /// The value at `x`; flat outside of the table, where [`Self::covers`] is false.
    #[must_use]
    pub fn at(&self, x: f64) -> f64 {
        let points = &self.points;
        let after = points.partition_point(|p| p[0] < x);
        if after == 0 {
            return points[0][1];
        }
        if after == points.len() {
            return points[after - 1][1];
        }
        let ([x0, y0], [x1, y1]) = (points[after - 1], points[after]);
        y0 + (y1 - y0) * ((x / x0).ln() / (x1 / x0).ln())
    }

    /// Whether `x` lies within the table.
    #[must_use]
    pub fn covers(&self, x: f64) -> bool {
        x >= self.points[0][0] && x <= self.points[self.points.len() - 1][0]
    }
}

/// Where figures come from: an entry of a file's `[sources]` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// What to look for: title, URL, repository and path, paper and table.
    pub citation: String,
    /// Date or year of the source.
    pub date: String,
    /// Whether the source itself was opened and read; false marks a figure quoted from memory.
    pub verified: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{BytesPerSecond, Watts};

    fn figure<Q: Quantity>(text: &str) -> Result<Figure<Q>, String> {
        toml::from_str::<Figure<Q>>(text).map_err(|e| e.to_string())
    }

    #[test]
    fn wrong_unit_lists_the_right_ones() {
        let error = figure::<Watts>("value=1\nunit='GB/s'\nkind='measured'\nsource='s'")
            .expect_err("GB/s is no power");
        assert!(error.contains("not a unit of power") && error.contains("kW"), "{error}");
    }

    #[test]
    fn assumptions_need_a_range() {
        let text = "value=1\nunit='GB/s'\nkind='assumed'\nsource='s'";
        assert!(figure::<BytesPerSecond>(text).is_err());
        let figure = figure::<BytesPerSecond>(&format!("{text}\nlow=0.5\nhigh=2")).unwrap();
        assert_eq!(figure.low, Some(BytesPerSecond(5e8)));
    }

    #[test]
    fn curves_interpolate_in_the_logarithm() {
        let curve: Curve = toml::from_str(
            "points=[[1.0,0.2],[100.0,0.6]]\nx='FLOP'\ny='fraction'\nkind='measured'\nsource='s'",
        )
        .unwrap();
        assert!((curve.at(10.0) - 0.4).abs() < 1e-12);
        assert!((curve.at(0.1) - 0.2).abs() < 1e-12 && !curve.covers(0.1));
    }
}
