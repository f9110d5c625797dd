//! Collectives of a recording split into latency and bandwidth.
//!
//! For each operation and group size, the shortest duration of every message size is taken as
//! `latency + bytes / bandwidth` and the two are found by least squares on relative errors, neither
//! negative. A duration beyond the fit is waiting that no other rank's recording could explain, and
//! stays as it is. With a single message size nothing can be fitted: the latency is then that of
//! the shortest small call of the recording, and without one the whole duration counts as bandwidth.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::trace::collectives::CommOp;
use crate::trace::program::Moved;

use super::Network;

/// Messages up to this size show the latency of a network.
const SMALL_BYTES: i64 = 64 << 10;

/// How the time of one kind of collective splits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkFit {
    /// Operation.
    pub op: &'static str,
    /// Ranks of the group, where known.
    pub ranks: Option<u32>,
    /// Calls in the recording.
    pub calls: u64,
    /// Message sizes among them.
    pub sizes: u64,
    /// Time of a call without a message, ns.
    pub latency_ns: i64,
    /// Message bytes per second beyond it; absent where no size was recorded.
    pub bytes_per_second: Option<f64>,
    /// `fit`, `small calls` (latency of other kinds) or `all bandwidth`.
    pub by: &'static str,
}

/// Kind of a call: operation and ranks.
type Key = (CommOp, Option<u32>);

/// The split of all collectives of a recording.
pub(super) struct Split {
    fits: BTreeMap<Key, NetworkFit>,
}

impl Split {
    /// From what calls moved and how long they took.
    pub(super) fn of<'a>(calls: impl Iterator<Item = (&'a Moved, i64)>) -> Self {
        let mut shortest: BTreeMap<Key, BTreeMap<i64, i64>> = BTreeMap::new();
        let mut counts: BTreeMap<Key, u64> = BTreeMap::new();
        let mut small: Option<i64> = None;
        for (moved, ns) in calls {
            let key = (moved.op, moved.ranks);
            *counts.entry(key).or_default() += 1;
            let sizes = shortest.entry(key).or_default();
            let Some(bytes) = moved.bytes else { continue };
            let known = sizes.entry(bytes).or_insert(ns);
            *known = (*known).min(ns);
            if bytes <= SMALL_BYTES && ns > 0 {
                small = Some(small.map_or(ns, |known| known.min(ns)));
            }
        }
        let fits = counts.into_iter().map(|(key, calls)| {
            let sizes = &shortest[&key];
            let points: Vec<(f64, f64)> = sizes
                .iter()
                .filter(|(_, ns)| **ns > 0)
                .map(|(bytes, ns)| (*bytes as f64, *ns as f64))
                .collect();
            let (latency, per_byte, by) = match (points.as_slice(), small) {
                ([_, _, ..], _) => {
                    let (latency, per_byte) = line(&points);
                    (latency, per_byte, "fit")
                }
                (_, Some(small)) => {
                    let whole = points.first().map_or(0.0, |(_, ns)| *ns);
                    let latency = (small as f64).min(whole);
                    let bytes = points.first().map_or(0.0, |(bytes, _)| *bytes);
                    (latency, (whole - latency) / bytes.max(1.0), "small calls")
                }
                _ => {
                    let per_byte = points.first().map_or(0.0, |(bytes, ns)| ns / bytes);
                    (0.0, per_byte, "all bandwidth")
                }
            };
            let fit = NetworkFit {
                op: key.0.name(),
                ranks: key.1,
                calls,
                sizes: sizes.len() as u64,
                latency_ns: latency.round() as i64,
                bytes_per_second: (per_byte > 0.0).then(|| 1e9 / per_byte),
                by,
            };
            (key, fit)
        });
        Self { fits: fits.collect() }
    }

    /// Latency, transfer and waiting of a call that took `ns`; `alone` where it is known to hold no
    /// waiting.
    pub(super) fn parts(&self, moved: &Moved, ns: i64, alone: bool) -> (i64, i64, i64) {
        let Some(fit) = self.fits.get(&(moved.op, moved.ranks)) else { return (0, ns, 0) };
        let latency = fit.latency_ns.min(ns);
        let fitted = match (fit.by, moved.bytes) {
            ("fit", Some(bytes)) if !alone => {
                let transfer = fit.bytes_per_second.map_or(0.0, |rate| bytes as f64 / rate * 1e9);
                ns.min(latency.saturating_add(transfer.round() as i64))
            }
            _ => ns,
        };
        (latency, fitted - latency, ns - fitted)
    }

    /// What a call that took `ns` takes on another network.
    pub(super) fn time(&self, moved: &Moved, ns: i64, alone: bool, network: &Network) -> i64 {
        let (latency, transfer, waiting) = self.parts(moved, ns, alone);
        changed(latency, transfer, network).saturating_add(waiting)
    }

    /// What a call that took `ns` takes in a group of another size, by the steps and the volume of
    /// a ring.
    pub(super) fn in_group(&self, moved: &Moved, ns: i64, alone: bool, from: u32, to: u32) -> i64 {
        let (latency, transfer, waiting) = self.parts(moved, ns, alone);
        let steps = f64::from(to.saturating_sub(1)) / f64::from(from.saturating_sub(1).max(1));
        let volume = moved.op.bus_factor(to) / moved.op.bus_factor(from).max(f64::MIN_POSITIVE);
        let time = latency as f64 * steps + transfer as f64 * volume;
        (time.round() as i64).saturating_add(waiting)
    }

    /// Every kind, in order.
    pub(super) fn into_fits(self) -> Vec<NetworkFit> {
        self.fits.into_values().collect()
    }
}

/// Latency and transfer on another network, ns.
pub(super) fn changed(latency: i64, transfer: i64, network: &Network) -> i64 {
    let time = latency as f64 * network.latency + transfer as f64 / network.bandwidth;
    (time.round() as i64).saturating_add(network.added_ns).max(0)
}

/// Intercept and slope of least squares on relative errors; neither is negative.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    // Minimise the sum of ((a + b x) / y - 1)^2.
    let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|(x, y)| of(*x, *y)).sum::<f64>();
    let (one, x, xx) =
        (sum(&|_, y| 1.0 / (y * y)), sum(&|x, y| x / (y * y)), sum(&|x, y| x * x / (y * y)));
    let (of_one, of_x) = (sum(&|_, y| 1.0 / y), sum(&|x, y| x / y));
    let determinant = one * xx - x * x;
    let (a, b) = ((of_one * xx - of_x * x) / determinant, (of_x * one - of_one * x) / determinant);
    if !(a.is_finite() && b.is_finite()) || a < 0.0 {
        (0.0, of_x / xx)
    } else if b < 0.0 {
        (of_one / one, 0.0)
    } else {
        (a, b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(bytes: i64) -> Moved {
        Moved { op: CommOp::AllReduce, group: String::new(), bytes: Some(bytes), ranks: Some(8) }
    }

    #[test]
    fn a_line_is_found_and_what_lies_above_it_is_waiting() {
        // 10 us and 100 GB/s; one call waited 5 us.
        let calls: Vec<(Moved, i64)> =
            [(1_000_000, 20_000), (4_000_000, 50_000), (4_000_000, 55_000), (100, 10_001)]
                .map(|(bytes, ns)| (moved(bytes), ns))
                .to_vec();
        let split = Split::of(calls.iter().map(|(moved, ns)| (moved, *ns)));
        assert_eq!(split.parts(&moved(4_000_000), 55_000, false), (10_000, 40_000, 5_000));
        let faster = Network { bandwidth: 2.0, latency: 0.5, added_ns: 1_000 };
        assert_eq!(
            split.time(&moved(4_000_000), 55_000, false, &faster),
            5_000 + 20_000 + 1_000 + 5_000
        );
        // Twice the ranks: 15 steps for 7, and 2 x 15/16 for 2 x 7/8 of the volume.
        let expected = 10_000.0 * 15.0 / 7.0 + 40_000.0 * (15.0 / 16.0) / (7.0 / 8.0);
        let found = split.in_group(&moved(4_000_000), 50_000, true, 8, 16);
        assert_eq!(found, f64::round(expected) as i64);
    }

    #[test]
    fn one_size_is_all_bandwidth() {
        let call = moved(1_000_000);
        let split = Split::of([(&call, 30_000)].into_iter());
        assert_eq!(split.parts(&call, 30_000, false), (0, 30_000, 0));
        assert_eq!(split.into_fits()[0].by, "all bandwidth");
    }
}
