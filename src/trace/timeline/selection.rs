//! Which ranks, steps and times of a recording are wanted.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::error::{Error, Result, nearest_names};
use crate::trace::align::common_ns;
use crate::trace::header::StepWindow;
use crate::trace::model::RankTrace;

/// What of a timeline is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Ranks; all where empty.
    pub ranks: Vec<RangeInclusive<u32>>,
    /// Only what touches this time, ns from the start of the earliest rank.
    pub time: Option<(i64, i64)>,
    /// Only these steps, by name, and what lies between them.
    pub steps: Option<(String, String)>,
}

impl Selection {
    /// Whether a rank is wanted.
    #[must_use]
    pub fn has_rank(&self, rank: u32) -> bool {
        self.ranks.is_empty() || self.ranks.iter().any(|range| range.contains(&rank))
    }

    /// Checks that every rank asked for exists.
    ///
    /// # Errors
    /// One does not; the message has those that do.
    pub fn check_ranks(&self, known: &[u32]) -> Result<()> {
        for range in &self.ranks {
            if !known.iter().any(|rank| range.contains(rank)) {
                let (first, last) = (known.iter().min(), known.iter().max());
                return Err(Error::Missing(format!(
                    "no rank in {}-{}: there are {} ranks, {} to {}",
                    range.start(),
                    range.end(),
                    known.len(),
                    first.unwrap_or(&0),
                    last.unwrap_or(&0),
                )));
            }
        }
        Ok(())
    }
}

/// Reads `0-3,8` as ranges.
///
/// # Errors
/// A part is no number and no range; the text says which.
pub fn ranks_of(text: &str) -> Result<Vec<RangeInclusive<u32>>, String> {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let part = |part: &str| {
        let range = match part.split_once('-') {
            Some((first, last)) => number(first).zip(number(last)).map(|(a, b)| a..=b),
            None => number(part).map(|n| n..=n),
        };
        range.filter(|r| !r.is_empty()).ok_or(format!("`{part}` is no rank and no range like 0-3"))
    };
    text.split(',').map(part).collect()
}

/// The windows of the wanted steps.
pub(super) fn steps<'w>(
    windows: &'w [StepWindow],
    selection: &Selection,
) -> Option<&'w [StepWindow]> {
    let (first, last) = selection.steps.as_ref()?;
    let from = windows.iter().position(|window| window.name == *first);
    let to = windows.iter().rposition(|window| window.name == *last);
    // A rank that did not record the step has nothing to show of it.
    Some(from.zip(to).and_then(|(from, to)| windows.get(from..=to)).unwrap_or(&[]))
}

/// Checks that the wanted steps exist.
pub(super) fn check_steps(ranks: &[RankTrace], selection: &Selection) -> Result<()> {
    let Some((first, last)) = &selection.steps else { return Ok(()) };
    let names: BTreeSet<&str> =
        ranks.iter().flat_map(|r| &r.header.windows).map(|window| window.name.as_str()).collect();
    for name in [first, last] {
        if !names.contains(name.as_str()) {
            let nearest = nearest_names(name, names.iter().copied());
            let some: Vec<&str> = names.iter().copied().take(8).collect();
            return Err(Error::UnknownName {
                what: "step",
                name: name.clone(),
                nearest: if nearest.is_empty() {
                    some.into_iter().map(Into::into).collect()
                } else {
                    nearest
                },
            });
        }
    }
    // In the order of the recording: the later one first selects nothing.
    let starts = |name: &str| {
        let windows = ranks.iter().flat_map(|rank| &rank.header.windows);
        windows.filter(|window| window.name == name).map(|window| window.start_ns).min()
    };
    if starts(first) > starts(last) {
        return Err(Error::Missing(format!(
            "step {first} comes after step {last}: nothing is left\n  help: write {last}..{first}"
        )));
    }
    Ok(())
}

/// The error of a selection in which nothing lies: what there is.
pub(super) fn nothing_left(ranks: &[RankTrace], selection: &Selection, origin: i64) -> Error {
    let ms = |ns: i64| format!("{}", ns as f64 / 1e6);
    let wanted = || ranks.iter().filter(|rank| selection.has_rank(rank.header.rank));
    let events = || {
        wanted().flat_map(|rank| {
            rank.events.iter().map(|event| {
                let start = common_ns(rank, event.start_ns).saturating_sub(origin);
                (start, start.saturating_add(event.dur_ns))
            })
        })
    };
    let asked = match (&selection.time, &selection.steps) {
        (Some((from, i64::MAX)), _) => format!("from {} ms on", ms(*from)),
        (Some((from, to)), _) => format!("from {} to {} ms", ms(*from), ms(*to)),
        (None, Some((first, last))) if first == last => format!("in step {first}"),
        (None, Some((first, last))) => format!("in steps {first} to {last}"),
        (None, None) => "on the ranks asked for".to_owned(),
    };
    let span = events().map(|(start, _)| start).min().zip(events().map(|(_, end)| end).max());
    let steps: BTreeSet<&str> =
        wanted().flat_map(|r| &r.header.windows).map(|window| window.name.as_str()).collect();
    let there = match (span, &selection.steps) {
        (None, _) => "they have no events at all".to_owned(),
        (Some(_), Some(_)) => {
            let some: Vec<&str> = steps.iter().copied().take(8).collect();
            format!("those ranks have the steps {}", some.join(", "))
        }
        (Some((start, end)), None) => {
            format!("those ranks last from {} to {} ms", ms(start), ms(end))
        }
    };
    Error::Missing(format!("nothing lies {asked}\n  help: {there}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_read_as_ranges() {
        assert_eq!(ranks_of("0-3,8").unwrap(), [0..=3, 8..=8]);
        for bad in ["", "a", "3-1", "1-", "-1"] {
            assert!(ranks_of(bad).is_err(), "{bad}");
        }
    }
}
