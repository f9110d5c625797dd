//! Series of steps: reading them, and one number for all.

use crate::error::{Error, InputError, Result, nearest_names};

use super::file::{MFU_ABOVE_ONE, MFU_IS_A_SHARE, Metric, Statistic};

/// Most steps that are read.
const MOST_STEPS: usize = 50_000_000;
/// A leading step is warm-up where it is longer than this many medians of the second half.
const WARM_UP: f64 = 1.25;

/// A column of a table of steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Which column.
    pub column: String,
    /// Its values, in order; finite and above zero.
    pub values: Vec<f64>,
}

/// Reads the first of `columns` that a table has: CSV with a line of names, a JSON list (of numbers
/// or objects), or JSON lines. `origin` names it in messages. Values of a column other than
/// `seconds` are of the metric.
///
/// # Errors
/// It has none of the columns, a value is no number above zero, or an MFU above one; the message
/// has the line.
pub fn parse_series(
    origin: &str,
    bytes: &[u8],
    columns: &[&str],
    metric: Metric,
) -> Result<Series> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let reader = Reader { origin, columns, metric };
    let series = match bytes.trim_ascii_start().first() {
        Some(b'[' | b'{') => reader.json(bytes)?,
        _ => reader.csv(bytes)?,
    };
    if series.values.is_empty() {
        return Err(wrong(origin, None, "holds no steps".into(), None));
    }
    Ok(series)
}

fn wrong(origin: &str, line: Option<usize>, message: String, hint: Option<String>) -> Error {
    let position = line.map(|line| (line, 1));
    InputError { origin: origin.into(), position, message, hint, ..InputError::default() }.into()
}

fn no_column(origin: &str, columns: &[&str], known: &[&str]) -> Error {
    let nearest = columns
        .iter()
        .find_map(|column| nearest_names(column, known.iter().copied()).into_iter().next());
    let there = format!("columns there: {}", known.join(", "));
    let hint = match nearest {
        Some(name) => format!("did you mean column = \"{name}\"? {there}"),
        None => there,
    };
    wrong(origin, Some(1), format!("has no column {}", columns.join(" or ")), Some(hint))
}

/// What is read, and for what.
#[derive(Clone, Copy)]
struct Reader<'a> {
    origin: &'a str,
    columns: &'a [&'a str],
    metric: Metric,
}

impl Reader<'_> {
    fn usable(self, line: usize, column: &str, value: Option<f64>, text: &str) -> Result<f64> {
        let text: String = text.chars().take(40).collect();
        let bad = |message: String, hint: Option<&str>| {
            Err(wrong(self.origin, Some(line), message, hint.map(Into::into)))
        };
        match value.filter(|value| value.is_finite() && *value > 0.0) {
            None => bad(format!("{column}: `{text}` is no number above zero"), None),
            Some(value)
                if value > 1.0
                    && self.metric == Metric::Mfu
                    && column != Metric::StepTime.column() =>
            {
                bad(format!("{column}: `{text}` is {MFU_ABOVE_ONE}"), Some(MFU_IS_A_SHARE))
            }
            Some(value) => Ok(value),
        }
    }

    fn csv(self, bytes: &[u8]) -> Result<Series> {
        let Self { origin, columns, .. } = self;
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
        let bad = |e: &csv::Error| {
            let line = e.position().map_or(1, |position| position.line() as usize);
            wrong(origin, Some(line), format!("is no CSV table: {e}"), None)
        };
        let header = reader.headers().map_err(|e| bad(&e))?.clone();
        let names: Vec<&str> = header.iter().collect();
        let found = columns
            .iter()
            .find_map(|column| Some((*column, names.iter().position(|name| name == column)?)));
        let (column, place) = found.ok_or_else(|| no_column(origin, columns, &names))?;
        let mut values = Vec::new();
        let mut record = csv::StringRecord::new();
        while values.len() < MOST_STEPS && reader.read_record(&mut record).map_err(|e| bad(&e))? {
            let text = record.get(place).unwrap_or_default();
            let line = record.position().map_or(0, |position| position.line() as usize);
            values.push(self.usable(line, column, text.parse().ok(), text)?);
        }
        Ok(Series { column: column.to_owned(), values })
    }

    fn json(self, bytes: &[u8]) -> Result<Series> {
        let Self { origin, columns, .. } = self;
        let mut series = Series::default();
        let mut stream =
            serde_json::Deserializer::from_slice(bytes).into_iter::<serde_json::Value>();
        loop {
            let rest = &bytes[stream.byte_offset()..];
            let begin = bytes.len() - rest.trim_ascii_start().len();
            let line = bytes[..begin].iter().filter(|b| **b == b'\n').count() + 1;
            let items = match stream.next() {
                None => return Ok(series),
                Some(Ok(serde_json::Value::Array(items))) => items,
                Some(Ok(item)) => vec![item],
                Some(Err(e)) => {
                    return Err(wrong(origin, Some(e.line()), format!("is no JSON: {e}"), None));
                }
            };
            for item in items.into_iter().take(MOST_STEPS) {
                let (column, value) = match &item {
                    serde_json::Value::Object(keys) => {
                        let found = columns.iter().find(|column| keys.contains_key(**column));
                        let names: Vec<&str> = keys.keys().map(String::as_str).collect();
                        let column = found.ok_or_else(|| no_column(origin, columns, &names))?;
                        (*column, &keys[*column])
                    }
                    plain => (columns.first().copied().unwrap_or_default(), plain),
                };
                if series.values.is_empty() {
                    column.clone_into(&mut series.column);
                } else if series.column != column {
                    let message = format!("gives {} first and {column} later", series.column);
                    return Err(wrong(origin, Some(line), message, None));
                }
                let text = value.to_string();
                series.values.push(self.usable(line, column, value.as_f64(), &text)?);
            }
        }
    }
}

/// A series as one number.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// The number.
    pub value: f64,
    /// Leading steps that were skipped.
    pub skipped: usize,
    /// Steps that were not skipped.
    pub steps: usize,
    /// Positions of the steps behind the number: one for the maximum.
    pub used: Vec<usize>,
    /// Half of the distance between the quartiles, over the median; none for fewer than four.
    pub spread: Option<f64>,
    /// Which steps were skipped, and why.
    pub rule: String,
}

/// Skips the warm-up and takes the statistic. `seconds` says that more is slower; a rate is lower
/// during warm-up.
///
/// # Errors
/// The warm-up that was asked for leaves no step.
pub fn settle(
    values: &[f64],
    warm_up: Option<u32>,
    statistic: Statistic,
    seconds: bool,
) -> Result<Settled> {
    if let Some(count) = warm_up.filter(|count| *count as usize >= values.len()) {
        return Err(Error::Missing(format!(
            "warm_up = {count} leaves none of the {} steps there are",
            values.len()
        )));
    }
    let half = median(&values[values.len() / 2..]);
    let slow = |value: &f64| {
        if seconds { *value > WARM_UP * half } else { *value < half / WARM_UP }
    };
    let skipped = match warm_up {
        Some(count) => count as usize,
        None => values.iter().take_while(|value| slow(value)).count().min(values.len() / 2),
    };
    let rule = match (warm_up, skipped) {
        (Some(_), skipped) => format!("{skipped} of {} steps skipped as asked", values.len()),
        (None, 0) => "none skipped as warm-up".to_owned(),
        (None, skipped) => format!(
            "{skipped} of {} steps skipped as warm-up (leading ones slower than {WARM_UP} times \
             the median of the second half)",
            values.len()
        ),
    };
    let rest = &values[skipped..];
    let mut sorted = rest.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quartile = |share: f64| {
        let place = share * (sorted.len() - 1) as f64;
        let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        low + (high - low) * place.fract()
    };
    let spread = (sorted.len() >= 4)
        .then(|| (quartile(0.75) - quartile(0.25)) / 2.0 / quartile(0.5).max(f64::MIN_POSITIVE));
    let mut used: Vec<usize> = (skipped..values.len()).collect();
    let value = match statistic {
        Statistic::Median => median(rest),
        Statistic::Mean => rest.iter().sum::<f64>() / rest.len().max(1) as f64,
        Statistic::Max => {
            let worst = used.iter().copied().max_by(|a, b| {
                let order = values[*a].total_cmp(&values[*b]);
                if seconds { order } else { order.reverse() }
            });
            used = worst.into_iter().collect();
            worst.map_or(0.0, |worst| values[worst])
        }
    };
    Ok(Settled { value, skipped, steps: rest.len(), used, spread, rule })
}

/// The median; the mean of the two in the middle. Zero for no values.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_json_and_json_lines_are_read() {
        let columns = ["seconds"];
        for text in [
            "step,seconds\n1,2.5\n2,3\n",
            "[2.5, 3]",
            "[{\"step\":1,\"seconds\":2.5},{\"seconds\":3}]",
            "{\"seconds\":2.5}\n{\"seconds\":3.0}\n",
        ] {
            let series = parse_series("s", text.as_bytes(), &columns, Metric::StepTime).unwrap();
            assert_eq!(series.values, [2.5, 3.0], "{text}");
        }
    }

    #[test]
    fn what_is_wrong_has_a_line() {
        let message = |text: &str| {
            parse_series("s.csv", text.as_bytes(), &["seconds"], Metric::Mfu)
                .unwrap_err()
                .to_string()
        };
        assert!(message("step,second\n1,2\n").contains("did you mean column = \"second\""));
        assert!(message("step,seconds\n1,2\n2,x\n").starts_with("s.csv:3:1: seconds: `x`"));
        assert!(message("step,seconds\n1,-2\n").contains("above zero"));
        assert!(message("{\"seconds\":1}\n{\"seconds\":0}\n").contains("s.csv:2:1"));
        assert!(message("").contains("no column"));
    }

    #[test]
    fn an_mfu_in_percent_is_no_mfu() {
        let columns = ["mfu", "seconds"];
        let read = |text: &str| parse_series("s", text.as_bytes(), &columns, Metric::Mfu);
        let message = read("mfu\n0.41\n41.2\n").unwrap_err().to_string();
        assert!(message.starts_with("s:3:1: mfu: `41.2` is an MFU above 1"), "{message}");
        assert!(message.contains("41.2 % is 0.412"), "{message}");
        assert!(read("[41.2]").is_err());
        // Seconds, which the scenario converts.
        assert_eq!(read("seconds\n2.5\n").unwrap().values, [2.5]);
        assert_eq!(read("mfu\n1.0\n").unwrap().values, [1.0]);
    }

    #[test]
    fn warm_up_that_leaves_nothing_is_an_error() {
        let settle = |count| settle(&[2.0, 1.0], Some(count), Statistic::Median, true);
        assert_eq!(settle(1).unwrap().value, 1.0);
        for count in [2, 9] {
            let message = settle(count).unwrap_err().to_string();
            assert!(message.contains("none of the 2 steps"), "{message}");
        }
    }

    #[test]
    fn warm_up_is_what_is_slow_at_the_start() {
        let values = [9.0, 2.0, 1.0, 1.1, 1.0, 0.9, 1.0, 1.0];
        let settle = |values: &[f64], warm_up, statistic, seconds| {
            settle(values, warm_up, statistic, seconds).unwrap()
        };
        let settled = settle(&values, None, Statistic::Median, true);
        assert_eq!((settled.skipped, settled.value), (2, 1.0));
        assert!(settled.rule.contains("2 of 8 steps skipped"), "{}", settled.rule);
        assert_eq!(settle(&values, Some(0), Statistic::Max, true).value, 9.0);
        // A rate is lower while it warms up.
        let settled = settle(&[1.0, 5.0, 5.0, 5.0], None, Statistic::Mean, false);
        assert_eq!((settled.skipped, settled.value), (1, 5.0));
        // A slow step later is no warm-up.
        assert_eq!(settle(&[1.0, 9.0, 1.0, 1.0], None, Statistic::Median, true).skipped, 0);
    }
}
