//! How many members of a family transfer at a time, over all ranks.
//!
//! Everything is counted in whole ranks and nanoseconds, so lanes of many ranks and ranks by
//! themselves give the same numbers. The step is cut into [`SLOTS`] slots; what members have spent
//! transferring by a slot's start is exact, and within a slot it is taken to grow evenly. All families
//! of a slot lie side by side, since a transfer asks for all of them at once.

use crate::program::Action;
use crate::replay::sweep::Sweep;

use super::{Demand, Demands, class_of};

/// Slots of a step: of one of ten seconds 76 us, less than transfers that fill links take.
const SLOTS: usize = 1 << 17;

/// The transfers between domains of the families that share links with others.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity {
    /// Place of a family among those that are counted.
    column: Vec<Option<usize>>,
    /// Members that ever can transfer, of those that are counted.
    members: Vec<i64>,
    /// Nanoseconds per slot.
    width: i64,
    /// Nanoseconds that members had spent transferring by the start of a slot, by slot and then by
    /// place.
    spent: Vec<i64>,
}

impl Activity {
    /// The activity in a replay.
    pub(super) fn of(sweep: &Sweep<'_>, demands: &Demands) -> Self {
        let mut wanted = vec![false; demands.shared.len()];
        for (other, _) in demands.shared.iter().flatten().flat_map(|link| &link.others) {
            wanted[*other as usize] = true;
        }
        let mut activity = Self::new(&wanted, sweep.step().0);
        if activity.members.is_empty() {
            return activity;
        }
        // Members that start to transfer by slot, less those that stop.
        let mut starts = vec![0; activity.spent.len()];
        for (t, template) in sweep.program.templates.iter().enumerate() {
            let times = &sweep.templates[t];
            let first = sweep.lumping.first_lane[t] as usize;
            let leaves = |calls: &[Demand], class: u16| {
                calls.get(usize::from(class)).is_some_and(|demand| demand.cards > 0.0)
            };
            for lane in 0..times.lanes {
                let weight = sweep.lumping.weight[first + lane] as i64;
                for (f, column) in activity.column.iter().enumerate() {
                    let (Some(column), Some(class)) = (column, class_of(sweep, t, lane, f)) else {
                        continue;
                    };
                    if demands.meetings[f].iter().any(|calls| leaves(calls, class)) {
                        activity.members[*column] += weight;
                    }
                }
            }
            for (i, op) in template.ops.iter().enumerate() {
                let Action::Meet { family, call } = op.action else { continue };
                let f = family.index();
                let Some(column) = activity.column[f] else { continue };
                for lane in 0..times.lanes {
                    let Some(class) = class_of(sweep, t, lane, f) else { continue };
                    if leaves(&demands.meetings[f][call.index()], class) {
                        let weight = sweep.lumping.weight[first + lane] as i64;
                        let at = i * times.lanes + lane;
                        activity.change(&mut starts, column, times.start[at], weight);
                        activity.change(&mut starts, column, times.end[at], -weight);
                    }
                }
            }
        }
        activity.add_up(&starts);
        activity
    }

    /// Nobody transfers in a step of so many nanoseconds.
    fn new(wanted: &[bool], step: i64) -> Self {
        let mut count = 0;
        let column = wanted
            .iter()
            .map(|wanted| {
                count += usize::from(*wanted);
                wanted.then(|| count - 1)
            })
            .collect();
        let slots = if count == 0 { 0 } else { SLOTS + 2 };
        let width = step / SLOTS as i64 + 1;
        Self { column, members: vec![0; count], width, spent: vec![0; slots * count] }
    }

    /// From `time` on so many more members transfer.
    fn change(&mut self, starts: &mut [i64], column: usize, time: i64, members: i64) {
        let slot = time / self.width + 1;
        let at = slot as usize * self.members.len() + column;
        self.spent[at] += members * (slot * self.width - time);
        starts[at] += members;
    }

    /// From what changes in each slot to what was spent by its start.
    fn add_up(&mut self, starts: &[i64]) {
        let columns = self.members.len();
        let mut active = vec![0; columns];
        for (at, started) in starts.iter().enumerate().skip(columns) {
            let column = at % columns;
            self.spent[at] += self.spent[at - columns] + active[column] * self.width;
            active[column] += started;
        }
    }

    fn spent_by(&self, column: usize, time: i64) -> i64 {
        let columns = self.members.len();
        let slot = (time / self.width).clamp(0, SLOTS as i64);
        let at = slot as usize * columns + column;
        let (from, to) = (self.spent[at], self.spent[at + columns]);
        from + (to - from) * (time - slot * self.width) / self.width
    }

    /// Share of a family's members that transfer, on average over a part of the step.
    pub(super) fn share(&self, family: u32, from: i64, to: i64) -> f64 {
        let Some(column) = self.column.get(family as usize).copied().flatten() else { return 0.0 };
        if self.members[column] == 0 || to <= from {
            return 0.0;
        }
        let spent = (self.spent_by(column, to) - self.spent_by(column, from)) as f64;
        (spent / self.members[column] as f64 / (to - from) as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Activity;

    #[test]
    fn members_are_counted_over_time() {
        // In a step of a second, one of four members from 0 to 0.1 s and two more from 0.05 to 0.1.
        let ms = 1_000_000;
        let mut activity = Activity::new(&[false, true, true], 1000 * ms);
        let mut starts = vec![0; activity.spent.len()];
        for (time, change) in [(50, 2), (100, -1), (0, 1), (100, -2)] {
            activity.change(&mut starts, 1, time * ms, change);
        }
        activity.members = vec![7, 4];
        activity.add_up(&starts);
        // Slots are 7.6 us; a change in one is off by at most that.
        let share = |from, to| activity.share(2, from * ms, to * ms);
        for (from, to, expected) in [
            (0, 100, (5.0 + 15.0) / 10.0 / 4.0),
            (0, 50, 0.25),
            (60, 80, 0.75),
            (100, 200, 0.0),
            (50, 150, 0.375),
            (900, 1000, 0.0),
        ] {
            assert!((share(from, to) - expected).abs() < 1e-3, "{from} {to}: {}", share(from, to));
        }
        // Nobody of the other family, and nothing of one that is not counted.
        assert_eq!((activity.share(1, 0, ms), activity.share(0, 0, ms)), (0.0, 0.0));
    }
}
