//! How many members of a family transfer at a time, over all ranks.
//!
//! Everything is counted in whole ranks and nanoseconds, so lanes of many ranks and ranks by
//! themselves give the same numbers.

use crate::program::Action;
use crate::replay::sweep::Sweep;

use super::{Demands, class_of};

/// The transfers of a family between domains in a replay.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity {
    /// Times at which the number of members that transfer changes, ascending.
    times: Vec<i64>,
    /// Members that transfer from then on.
    active: Vec<i64>,
    /// Nanoseconds that members had spent transferring by then.
    spent: Vec<i64>,
    /// Members that ever can.
    members: i64,
    /// Nanoseconds per slot of `slots`.
    width: i64,
    /// By slot of time: how many of `times` lie before its start. There are about as many slots as
    /// times, so a time is found among a few.
    slots: Vec<u32>,
}

impl Activity {
    /// The activity of the families that share links with others; of the rest nothing.
    pub(super) fn of(sweep: &Sweep<'_>, demands: &Demands) -> Vec<Self> {
        let families = demands.shared.len();
        let mut wanted = vec![false; families];
        for (other, _) in demands.shared.iter().flatten().flat_map(|link| &link.others) {
            wanted[*other as usize] = true;
        }
        let mut changes: Vec<Vec<(i64, i64)>> = vec![Vec::new(); families];
        let mut members = vec![0_i64; families];
        if !wanted.contains(&true) {
            return vec![Self::default(); families];
        }
        for (t, template) in sweep.program.templates.iter().enumerate() {
            let times = &sweep.templates[t];
            let first = sweep.lumping.first_lane[t] as usize;
            for lane in 0..times.lanes {
                let weight = sweep.lumping.weight[first + lane] as i64;
                for f in (0..families).filter(|f| wanted[*f]) {
                    let class = class_of(sweep, t, lane, f);
                    members[f] += class.map_or(0, |class| {
                        let mut calls = demands.meetings[f].iter();
                        let leaves = |calls: &Vec<super::Demand>| {
                            calls.get(usize::from(class)).is_some_and(|d| d.cards > 0.0)
                        };
                        if calls.any(leaves) { weight } else { 0 }
                    });
                }
            }
            for (i, op) in template.ops.iter().enumerate() {
                let Action::Meet { family, call } = op.action else { continue };
                let f = family.index();
                if !wanted[f] {
                    continue;
                }
                for lane in 0..times.lanes {
                    let Some(class) = class_of(sweep, t, lane, f) else { continue };
                    let demand = demands.meetings[f][call.index()].get(usize::from(class));
                    if demand.is_none_or(|d| d.cards <= 0.0) {
                        continue;
                    }
                    let weight = sweep.lumping.weight[first + lane] as i64;
                    let at = i * times.lanes + lane;
                    if times.end[at] > times.start[at] {
                        changes[f].push((times.start[at], weight));
                        changes[f].push((times.end[at], -weight));
                    }
                }
            }
        }
        changes
            .into_iter()
            .zip(members)
            .map(|(changes, members)| Self::from_changes(changes, members))
            .collect()
    }

    fn from_changes(mut changes: Vec<(i64, i64)>, members: i64) -> Self {
        changes.sort_unstable();
        let mut activity = Self { members, ..Self::default() };
        let (mut active, mut spent, mut last) = (0, 0, 0);
        for (time, change) in changes {
            spent += active * (time - last);
            active += change;
            if activity.times.last() == Some(&time) {
                activity.active.pop();
                activity.active.push(active);
            } else {
                activity.times.push(time);
                activity.active.push(active);
                activity.spent.push(spent);
            }
            last = time;
        }
        activity.width = last / (activity.times.len() as i64 + 1) + 1;
        let count = last / activity.width + 2;
        let mut before = 0;
        for slot in 0..count {
            while activity.times.get(before).is_some_and(|t| *t < slot * activity.width) {
                before += 1;
            }
            activity.slots.push(before as u32);
        }
        activity
    }

    fn spent_by(&self, time: i64) -> i64 {
        let last = self.slots.len() - 1;
        let slot = usize::try_from(time / self.width).unwrap_or(0).min(last);
        let first = self.slots[slot] as usize;
        let end = self.slots.get(slot + 1).map_or(self.times.len(), |end| *end as usize);
        match first + self.times[first..end].partition_point(|t| *t <= time) {
            0 => 0,
            after => {
                self.spent[after - 1] + self.active[after - 1] * (time - self.times[after - 1])
            }
        }
    }

    /// Share of the members that transfer, on average over a time.
    pub(super) fn share(&self, from: i64, to: i64) -> f64 {
        if self.times.is_empty() || self.members == 0 || to <= from {
            return 0.0;
        }
        let spent = (self.spent_by(to) - self.spent_by(from)) as f64;
        (spent / self.members as f64 / (to - from) as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Activity;

    #[test]
    fn members_are_counted_over_time() {
        // One of four members from 0 to 10, two more from 5 to 10.
        let activity = Activity::from_changes(vec![(5, 2), (10, -1), (0, 1), (10, -2)], 4);
        assert_eq!(activity.share(0, 10), (5.0 + 15.0) / 10.0 / 4.0);
        assert_eq!(activity.share(0, 5), 0.25);
        assert_eq!(activity.share(6, 8), 0.75);
        assert_eq!(activity.share(10, 20), 0.0);
        assert_eq!(activity.share(100, 200), 0.0);
        assert_eq!(Activity::default().share(0, 1), 0.0);
        // Half of the time nobody.
        assert_eq!(activity.share(5, 15), 0.375);
    }
}
