//! Sets of time as sorted, disjoint intervals.

/// A set of time, ns. Queries take a logarithm of its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals {
    starts: Vec<i64>,
    ends: Vec<i64>,
    /// Length of all intervals in front of each.
    before: Vec<i64>,
}

impl Intervals {
    /// The union of intervals in any order; empty ones are dropped.
    #[must_use]
    pub fn union_of(mut parts: Vec<(i64, i64)>) -> Self {
        parts.retain(|(start, end)| end > start);
        if !parts.is_sorted() {
            parts.sort_unstable();
        }
        let mut set = Self::default();
        let mut total = 0_i64;
        for (start, end) in parts {
            match set.ends.last_mut() {
                Some(last) if start <= *last => {
                    if end > *last {
                        total += end - *last;
                        *last = end;
                    }
                }
                _ => {
                    set.starts.push(start);
                    set.ends.push(end);
                    set.before.push(total);
                    total += end - start;
                }
            }
        }
        // `before` of an interval that grew is right already: growth is counted for later ones.
        set
    }

    /// The union with another set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut parts = Vec::with_capacity(self.starts.len() + other.starts.len());
        parts.extend(self.iter());
        parts.extend(other.iter());
        Self::union_of(parts)
    }

    /// The intervals, in order.
    pub fn iter(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        self.starts.iter().copied().zip(self.ends.iter().copied())
    }

    /// Length of all intervals in front of `at`.
    fn length_before(&self, at: i64) -> i64 {
        let index = self.starts.partition_point(|start| *start < at);
        match index.checked_sub(1) {
            Some(last) => self.before[last] + self.ends[last].min(at) - self.starts[last],
            None => 0,
        }
    }

    /// Length of the part inside `[start, end)`.
    #[must_use]
    pub fn length_in(&self, start: i64, end: i64) -> i64 {
        if end <= start { 0 } else { self.length_before(end) - self.length_before(start) }
    }

    /// Length of all intervals.
    #[must_use]
    pub fn length(&self) -> i64 {
        self.length_before(i64::MAX)
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The gaps inside `[start, end)`, in order.
    #[must_use]
    pub fn gaps(&self, start: i64, end: i64) -> Vec<(i64, i64)> {
        let mut gaps = Vec::new();
        let mut at = start;
        for (from, to) in self.iter() {
            if from >= end {
                break;
            }
            if from > at {
                gaps.push((at, from));
            }
            at = at.max(to);
        }
        if at < end {
            gaps.push((at, end));
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unions_and_lengths() {
        let set = Intervals::union_of(vec![(5, 8), (0, 2), (1, 3), (8, 9), (4, 4)]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, 3), (5, 9)]);
        assert_eq!(set.length(), 7);
        assert_eq!(set.length_in(2, 6), 2);
        assert_eq!(set.gaps(-1, 12), [(-1, 0), (3, 5), (9, 12)]);
    }

    proptest! {
        #[test]
        fn lengths_agree_with_counting_points(
            parts in prop::collection::vec((0_i64..60, 0_i64..12), 0..20),
            from in 0_i64..70,
            size in 0_i64..70,
        ) {
            let parts: Vec<_> = parts.into_iter().map(|(s, d)| (s, s + d)).collect();
            let covered = |t: i64| parts.iter().any(|(s, e)| *s <= t && t < *e);
            let expected = (from..from + size).filter(|t| covered(*t)).count() as i64;
            prop_assert_eq!(Intervals::union_of(parts.clone()).length_in(from, from + size), expected);
        }
    }
}
