//! The longest path of a step: which operations, on whichever ranks, add up to it.
//!
//! From the last operation of the last rank the walk goes back along binding predecessors, across
//! ranks at meetings, to the start of the step. What lies on it is to first order what the step
//! depends on: if all calls of a kind take one percent longer, the step grows by one percent of
//! their time on the path. Where two paths are equally long, one of them is taken, the same one
//! every time.

use std::collections::BTreeMap;

use crate::program::{Action, HostWork, OpId};
use crate::units::Nanos;

use super::sweep::Sweep;

/// Time on the path: by duration alone, and what it took longer because of what ran beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// As in [`super::Durations`].
    pub nominal: Nanos,
    /// Beyond it.
    pub extra: Nanos,
}

/// A kind of meeting: family, call and class of the group.
pub type Meeting = (usize, usize, u16);

/// The time of a step by what lies on its longest path; everything adds up to the step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CriticalPath {
    /// By kernel.
    pub kernels: BTreeMap<usize, Spent>,
    /// By kind of meeting.
    pub meetings: BTreeMap<Meeting, Spent>,
    /// Host: issuing operations.
    pub per_operation: Nanos,
    /// Host: micro-batches.
    pub per_micro_batch: Nanos,
    /// Host: the step, and recorded work.
    pub per_step: Nanos,
    /// From the host's call to the start on the device.
    pub launch: Nanos,
    /// Between operations of the device.
    pub gaps: Nanos,
}

impl CriticalPath {
    /// All of it: the step.
    #[must_use]
    pub fn sum(&self) -> Nanos {
        let spent = self.kernels.values().chain(self.meetings.values());
        let device: i64 = spent.map(|s| s.nominal.0 + s.extra.0).sum();
        let host = self.per_operation.0 + self.per_micro_batch.0 + self.per_step.0;
        Nanos(device + host + self.launch.0 + self.gaps.0)
    }
}

/// What an operation waited for last.
#[derive(Clone, Copy)]
enum By {
    /// Its issue by the host.
    Issue,
    /// The end of an operation of the same rank.
    End(usize),
    /// Nothing: the start of the step.
    Start,
}

/// Where the walk is: an operation's end on the device, or its issue.
#[derive(Clone, Copy)]
enum At {
    End(usize),
    Issued(usize),
}

/// Meetings of each family in each template, in order.
type Meets = Vec<Vec<Vec<usize>>>;

fn meets(sweep: &Sweep<'_>) -> Meets {
    let families = sweep.program.families.len();
    let of_template = |template: &crate::program::Template| {
        let mut found = vec![Vec::new(); families];
        for (i, op) in template.ops.iter().enumerate() {
            if let Action::Meet { family, .. } = op.action {
                found[family.index()].push(i);
            }
        }
        found
    };
    sweep.program.templates.iter().map(of_template).collect()
}

struct Walk<'a> {
    sweep: &'a Sweep<'a>,
    meets: Meets,
    path: CriticalPath,
    t: usize,
    lane: usize,
}

/// Walks the longest path of a step.
pub(super) fn path(sweep: &Sweep<'_>) -> CriticalPath {
    // The first of the operations that end last.
    let mut last: Option<(i64, usize, usize, usize)> = None;
    for (t, times) in sweep.templates.iter().enumerate() {
        for (at, end) in times.end.iter().enumerate() {
            if last.is_none_or(|l| *end > l.0) {
                last = Some((*end, t, at % times.lanes, at / times.lanes));
            }
        }
    }
    let Some((_, t, lane, op)) = last else { return CriticalPath::default() };
    let mut walk = Walk { sweep, meets: meets(sweep), path: CriticalPath::default(), t, lane };
    let mut at = At::End(op);
    while let Some(before) = walk.back(at) {
        at = before;
    }
    walk.path
}

impl Walk<'_> {
    fn index(&self, i: usize) -> usize {
        i * self.sweep.templates[self.t].lanes + self.lane
    }
    fn end(&self, i: usize) -> i64 {
        self.sweep.templates[self.t].end[self.index(i)]
    }
    fn start(&self, i: usize) -> i64 {
        self.sweep.templates[self.t].start[self.index(i)]
    }
    fn issued(&self, i: usize) -> i64 {
        self.sweep.templates[self.t].issued[self.index(i)]
    }
    fn action(&self, i: usize) -> Action {
        self.sweep.program.templates[self.t].ops[i].action
    }

    /// When this rank was ready for a device operation, and by what; the device on a tie.
    fn ready(&self, i: usize) -> (i64, By) {
        let host = &self.sweep.durations.host;
        let mut found = (self.issued(i) + host.launch_latency.0, By::Issue);
        let before = self.sweep.templates[self.t].before[i];
        let deps = self.sweep.program.templates[self.t].deps(OpId(i as u32));
        let lane_before = (before != u32::MAX).then_some(before as usize);
        for j in lane_before.into_iter().chain(deps.iter().map(|d| d.index())) {
            let ready = self.end(j) + host.dispatch_gap.0;
            if ready >= found.0 {
                found = (ready, By::End(j));
            }
        }
        found
    }

    /// What the host waited for before an operation.
    fn free(&self, i: usize) -> By {
        let mut found = if i == 0 { (0, By::Start) } else { (self.issued(i - 1), By::Issue) };
        let mut consider = |j: usize| {
            if self.end(j) > found.0 {
                found = (self.end(j), By::End(j));
            }
        };
        let depth = self.sweep.durations.host.queue_depth as usize;
        if depth > 0 && i >= depth {
            consider(i - depth);
        }
        if self.action(i) == Action::HostWait {
            let deps = self.sweep.program.templates[self.t].deps(OpId(i as u32));
            deps.iter().for_each(|d| consider(d.index()));
        }
        found.1
    }

    /// Books what lies between a point and the one before it.
    fn back(&mut self, at: At) -> Option<At> {
        match at {
            At::Issued(i) => self.back_host(i),
            At::End(i) => match self.action(i) {
                Action::HostWork(_) | Action::HostWait => self.back_host(i),
                Action::Kernel(kernel) => {
                    let nominal = self.sweep.durations.kernels[kernel.index()];
                    let took = Nanos(self.end(i) - self.start(i));
                    spend(self.path.kernels.entry(kernel.index()).or_default(), nominal, took);
                    Some(self.back_ready(i))
                }
                Action::Meet { family, call } => {
                    let took = Nanos(self.end(i) - self.start(i));
                    let (f, start) = (family.index(), self.start(i));
                    let lane = self.sweep.lumping.first_lane[self.t] + self.lane as u32;
                    let class = self.sweep.lumping.class_of_lane(f, lane).unwrap_or(0);
                    let by_class = &self.sweep.durations.meetings[f][call.index()];
                    let nominal = by_class.get(usize::from(class)).copied().unwrap_or_default();
                    let key = (f, call.index(), class);
                    spend(self.path.meetings.entry(key).or_default(), nominal, took);
                    let last = self.last_member(f, i, start);
                    Some(self.back_ready(last))
                }
            },
        }
    }

    /// Goes to the member that was ready last for a meeting; returns its operation.
    fn last_member(&mut self, family: usize, i: usize, start: i64) -> usize {
        let lane = self.sweep.lumping.first_lane[self.t] + self.lane as u32;
        let (own, turn) = (self.t, self.meets[self.t][family].binary_search(&i).unwrap_or(0));
        let own_lane = self.lane;
        for member in self.sweep.lumping.members(family, lane) {
            self.t = self.sweep.lumping.template[*member as usize].index();
            self.lane = (member - self.sweep.lumping.first_lane[self.t]) as usize;
            let op = self.meets[self.t][family].get(turn).copied();
            if let Some(op) = op.filter(|op| self.ready(*op).0 >= start) {
                return op;
            }
        }
        (self.t, self.lane) = (own, own_lane);
        i
    }

    fn back_ready(&mut self, i: usize) -> At {
        let host = &self.sweep.durations.host;
        match self.ready(i).1 {
            By::End(j) => {
                self.path.gaps += host.dispatch_gap;
                At::End(j)
            }
            By::Issue | By::Start => {
                self.path.launch += host.launch_latency;
                At::Issued(i)
            }
        }
    }

    fn back_host(&mut self, i: usize) -> Option<At> {
        let host = &self.sweep.durations.host;
        let path = &mut self.path;
        match self.sweep.program.templates[self.t].ops[i].action {
            Action::Kernel(kernel) => path.per_operation += self.sweep.durations.issuing(kernel),
            Action::Meet { .. } => path.per_operation += host.per_operation,
            Action::HostWork(HostWork::MicroBatch) => {
                path.per_micro_batch += host.per_micro_batch;
            }
            Action::HostWork(HostWork::Step) => path.per_step += host.per_step,
            Action::HostWork(HostWork::Recorded(time)) => path.per_step += time,
            Action::HostWait => {}
        }
        match self.free(i) {
            By::Start => None,
            By::Issue => Some(At::Issued(i - 1)),
            By::End(j) => Some(At::End(j)),
        }
    }
}

fn spend(spent: &mut Spent, nominal: Nanos, took: Nanos) {
    spent.nominal += nominal;
    spent.extra += took - nominal;
}
