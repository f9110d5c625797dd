//! Where a rank's time goes: every nanosecond of the step in exactly one account.
//!
//! While the compute lane is busy, time belongs to the operation that runs. A gap belongs to
//! whatever the next compute operation waited for, found by walking back along the binding
//! predecessors (the one whose end *is* the start; whole nanoseconds make that exact): the
//! transfer of a collective to its parallel dimension, the time before it, while peers were not
//! ready, to the pipeline bubble or to waiting, the host's time to the host.

use serde::Serialize;

use crate::program::{Action, Dimension, LaneKind, OpId, Phase};
use crate::units::Nanos;

use super::sweep::Sweep;

/// An account of a rank's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Forward and backward kernels.
    Compute,
    /// Forward kernels repeated in backward.
    Recompute,
    /// Gradient norm, optimizer, parameter update.
    Optimizer,
    /// Exposed tensor-parallel communication.
    Tensor,
    /// Exposed context-parallel communication.
    Context,
    /// Exposed expert-parallel communication.
    Expert,
    /// Exposed data-parallel communication.
    Data,
    /// Exposed transfers between pipeline stages.
    Pipeline,
    /// Waiting for other pipeline stages.
    Bubble,
    /// Waiting for the host.
    Host,
    /// Waiting for peers of the same stage, and everything else.
    Idle,
}

impl Category {
    /// All accounts, in the order in which they are shown.
    pub const ALL: [Self; 11] = [
        Self::Compute,
        Self::Recompute,
        Self::Optimizer,
        Self::Tensor,
        Self::Context,
        Self::Expert,
        Self::Data,
        Self::Pipeline,
        Self::Bubble,
        Self::Host,
        Self::Idle,
    ];

    /// Key in machine output.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Recompute => "recompute",
            Self::Optimizer => "optimizer",
            Self::Tensor => "exposed_tensor",
            Self::Context => "exposed_context",
            Self::Expert => "exposed_expert",
            Self::Data => "exposed_data",
            Self::Pipeline => "exposed_pipeline",
            Self::Bubble => "pipeline_bubble",
            Self::Host => "host",
            Self::Idle => "idle",
        }
    }

    fn of_transfer(dimension: Dimension) -> Self {
        match dimension {
            Dimension::Tensor => Self::Tensor,
            Dimension::Context => Self::Context,
            Dimension::Expert => Self::Expert,
            Dimension::Data | Dimension::World => Self::Data,
            Dimension::Pipeline => Self::Pipeline,
        }
    }

    /// Waiting for peers: of other stages (directly, or at the end of the step, where all ranks
    /// meet) it is the pipeline's bubble, of the same stage it is idle time.
    fn of_waiting(dimension: Dimension, stages: usize) -> Self {
        match dimension {
            Dimension::Pipeline => Self::Bubble,
            Dimension::World if stages > 1 => Self::Bubble,
            _ => Self::Idle,
        }
    }
}

/// Nanoseconds by account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakdown {
    ns: [i64; Category::ALL.len()],
}

impl Breakdown {
    /// Time in an account.
    #[must_use]
    pub fn get(&self, category: Category) -> Nanos {
        Nanos(self.ns[category as usize])
    }

    fn put(&mut self, category: Category, ns: i64) {
        self.ns[category as usize] += ns;
    }

    /// Adds another breakdown `times` times.
    pub fn add(&mut self, other: &Self, times: i64) {
        for (sum, part) in self.ns.iter_mut().zip(other.ns) {
            *sum += part * times;
        }
    }

    /// Sum of all accounts.
    #[must_use]
    pub fn sum(&self) -> Nanos {
        Nanos(self.ns.iter().sum())
    }

    /// Time of the compute lane at work.
    #[must_use]
    pub fn busy(&self) -> Nanos {
        self.get(Category::Compute) + self.get(Category::Recompute) + self.get(Category::Optimizer)
    }

    /// Time spent in exposed communication or waiting for peers.
    #[must_use]
    pub fn waiting(&self) -> Nanos {
        self.sum() - self.busy() - self.get(Category::Host)
    }
}

/// A point of the walk back: an operation on the device, or its issue by the host.
#[derive(Clone, Copy)]
enum Node {
    Device(usize),
    Host(usize),
}

/// The breakdown of one lane of a template.
pub(super) fn of_lane(sweep: &Sweep<'_>, t: usize, lane: usize) -> Breakdown {
    let walk = Walk { sweep, t, lane };
    let template = &sweep.program.templates[t];
    let mut accounts = Breakdown::default();
    let mut done = 0;
    let mut last = None;
    for (i, op) in template.ops.iter().enumerate() {
        if template.lanes[op.lane.index()].1 != LaneKind::Compute {
            continue;
        }
        let (start, end) = (walk.start(i), walk.end(i));
        if start > done {
            walk.explain_gap(&mut accounts, done, start, Node::Device(i));
        }
        let category = match op.phase {
            Phase::Recompute => Category::Recompute,
            Phase::Optimizer => Category::Optimizer,
            Phase::Forward | Phase::Backward | Phase::Other => Category::Compute,
        };
        // Compute streams of imported traces may overlap; count the time once.
        accounts.put(category, (end - start.max(done)).max(0));
        done = done.max(end);
        last = Some(i);
    }
    // After the last kernel: what this rank still does, then waiting for the others.
    let mut own_end = done;
    let mut tail = None;
    for i in last.map_or(0, |i| i + 1)..template.ops.len() {
        if walk.end(i) > own_end {
            own_end = walk.end(i);
            tail = Some(i);
        }
    }
    if let Some(i) = tail {
        let node = if walk.is_host(i) { Node::Host(i) } else { Node::Device(i) };
        walk.explain_until(&mut accounts, done, own_end, node);
    }
    let after = if sweep.program.templates.len() > 1 { Category::Bubble } else { Category::Idle };
    accounts.put(after, sweep.step.0 - own_end);
    accounts
}

struct Walk<'a> {
    sweep: &'a Sweep<'a>,
    t: usize,
    lane: usize,
}

impl Walk<'_> {
    fn at(&self, i: usize) -> usize {
        i * self.sweep.templates[self.t].lanes + self.lane
    }
    fn start(&self, i: usize) -> i64 {
        self.sweep.templates[self.t].start[self.at(i)]
    }
    fn end(&self, i: usize) -> i64 {
        self.sweep.templates[self.t].end[self.at(i)]
    }
    fn issued(&self, i: usize) -> i64 {
        self.sweep.templates[self.t].issued[self.at(i)]
    }
    fn is_host(&self, i: usize) -> bool {
        matches!(
            self.sweep.program.templates[self.t].ops[i].action,
            Action::HostWork(_) | Action::HostWait
        )
    }

    /// When the operation's own conditions were met, and which of them was the last.
    fn ready(&self, i: usize) -> (i64, Node) {
        let template = &self.sweep.program.templates[self.t];
        let mut ready = self.issued(i) + self.sweep.durations.host.launch_latency.0;
        let mut by = Node::Host(i);
        let gap = self.sweep.durations.host.dispatch_gap.0;
        let before = self.sweep.templates[self.t].before[i];
        let lane_before = (before != u32::MAX).then_some(before as usize);
        // On a tie the device explains the gap, not the host.
        for j in
            lane_before.into_iter().chain(template.deps(OpId(i as u32)).iter().map(|d| d.index()))
        {
            if self.end(j) + gap >= ready {
                ready = self.end(j) + gap;
                by = if self.is_host(j) { Node::Host(j) } else { Node::Device(j) };
            }
        }
        (ready, by)
    }

    /// Books `from..to`, where operation `node` starts at `to`.
    fn explain_gap(&self, accounts: &mut Breakdown, from: i64, to: i64, node: Node) {
        let Node::Device(i) = node else { return };
        let (ready, by) = self.ready(i);
        let cut = ready.max(from).min(to);
        accounts.put(Category::Idle, to - cut);
        if cut > from {
            self.explain_until(accounts, from, cut, by);
        }
    }

    /// Books `from..to`, where `node` ends at `to` (or later, and only the part before counts).
    fn explain_until(&self, accounts: &mut Breakdown, from: i64, to: i64, node: Node) {
        let template = &self.sweep.program.templates[self.t];
        let stages = self.sweep.program.templates.len();
        let (mut to, mut node) = (to, node);
        while to > from {
            match node {
                Node::Device(i) => match template.ops[i].action {
                    Action::Meet { family, .. } => {
                        let dimension = self.sweep.program.families[family.index()].dimension;
                        let start = self.start(i).max(from).min(to);
                        accounts.put(Category::of_transfer(dimension), to - start);
                        to = start;
                        if to <= from {
                            return;
                        }
                        let (ready, by) = self.ready(i);
                        let ready = ready.max(from).min(to);
                        accounts.put(Category::of_waiting(dimension, stages), to - ready);
                        (to, node) = (ready, by);
                    }
                    // A kernel beside the compute lane: one that prepares a message counts as the
                    // communication it serves, a copy as idle time.
                    _ => {
                        let start = self.start(i).max(from).min(to);
                        let lane = template.lanes[template.ops[i].lane.index()].1;
                        let account = match lane {
                            LaneKind::Communication => Category::Data,
                            _ => Category::Idle,
                        };
                        accounts.put(account, to - start);
                        let (ready, by) = self.ready(i);
                        let ready = ready.max(from).min(start);
                        accounts.put(Category::Idle, start - ready);
                        (to, node) = (ready, by);
                    }
                },
                Node::Host(i) => {
                    // Back along the host's own chain until it waited for the device.
                    let (since, by) = self.host_since(i, from);
                    let since = since.max(from).min(to);
                    accounts.put(Category::Host, to - since);
                    match by {
                        Some(by) if since > from => (to, node) = (since, by),
                        _ => {
                            accounts.put(Category::Host, since - from);
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Since when the host has been busy without waiting for the device, up to operation `i`.
    fn host_since(&self, i: usize, from: i64) -> (i64, Option<Node>) {
        let template = &self.sweep.program.templates[self.t];
        let depth = self.sweep.durations.host.queue_depth as usize;
        let mut i = i;
        loop {
            let previous = if i == 0 { 0 } else { self.issued(i - 1) };
            if template.ops[i].action == Action::HostWait {
                let binding = template
                    .deps(OpId(i as u32))
                    .iter()
                    .map(|d| d.index())
                    .max_by_key(|d| self.end(*d))
                    .filter(|d| self.end(*d) > previous);
                if let Some(d) = binding {
                    return (self.end(d), Some(Node::Device(d)));
                }
            }
            if depth > 0 && i >= depth && self.end(i - depth) > previous {
                return (self.end(i - depth), Some(Node::Device(i - depth)));
            }
            if i == 0 || previous <= from {
                return (previous, None);
            }
            i -= 1;
        }
    }
}
