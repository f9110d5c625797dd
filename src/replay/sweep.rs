//! The sweep engine: one pass over all operations in dependency order.
//!
//! Every template has a cursor for its host and one for each lane. The engine goes round the
//! templates and moves each cursor as far as what it waits for is known, evaluating an operation
//! for all lanes of the template at once. A meeting is evaluated when every template that takes
//! part has reached it. No order is precomputed and no successor lists exist, so memory is the end
//! times alone, and irregular programs (imported traces) cost the same as regular ones.

use crate::error::{Error, Result};
use crate::program::{Action, FamilyId, HostWork, OpId, Program};
use crate::units::Nanos;

use super::breakdown::{self, Breakdown};
use super::coupling::Extra;
use super::critical;
use super::{Durations, Lumping, Outcome};

/// Start and end times of every operation of every lane.
#[derive(Debug)]
pub struct Sweep<'a> {
    pub(super) program: &'a Program,
    pub(super) durations: &'a Durations,
    pub(super) lumping: &'a Lumping,
    pub(super) templates: Vec<TemplateTimes>,
    pub(super) step: Nanos,
}

/// Times of one template's operations, by operation and then by lane.
#[derive(Debug)]
pub(super) struct TemplateTimes {
    /// Number of lanes.
    pub lanes: usize,
    /// When the host has issued the operation (for host operations: when it is done).
    pub issued: Vec<i64>,
    /// When the operation is done.
    pub end: Vec<i64>,
    /// When it started; differs from `end - duration` for nothing, but meetings of different
    /// classes have different durations, so it is kept.
    pub start: Vec<i64>,
    /// The operation before it on its lane; `u32::MAX` for none.
    pub before: Vec<u32>,
}

/// Cursors of one template.
struct Cursors {
    host: usize,
    done: Vec<bool>,
    /// Operations of each lane, in order, and how many of them are done.
    lane_ops: Vec<Vec<u32>>,
    lane_done: Vec<usize>,
    /// The operation at which the template waits in a family.
    waiting: Vec<Option<u32>>,
}

/// Templates whose ranks meet in a family, and the groups they form.
struct Component {
    templates: Vec<usize>,
    groups: Vec<usize>,
}

impl<'a> Sweep<'a> {
    /// Evaluates the program.
    ///
    /// # Errors
    /// Operations wait for each other in a circle; the message names them.
    pub fn run(
        program: &'a Program,
        durations: &'a Durations,
        lumping: &'a Lumping,
    ) -> Result<Self> {
        Self::run_with(program, durations, lumping, None)
    }

    /// Evaluates the program with operations that take longer than their nominal durations.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn run_with(
        program: &'a Program,
        durations: &'a Durations,
        lumping: &'a Lumping,
        extra: Option<&Extra>,
    ) -> Result<Self> {
        let mut run = Self {
            program,
            durations,
            lumping,
            templates: Vec::with_capacity(program.templates.len()),
            step: Nanos::ZERO,
        };
        let mut cursors = Vec::with_capacity(program.templates.len());
        for (t, template) in program.templates.iter().enumerate() {
            let lanes = (lumping.first_lane[t + 1] - lumping.first_lane[t]) as usize;
            let n = template.ops.len();
            let mut lane_ops = vec![Vec::new(); template.lanes.len()];
            let mut before = Vec::with_capacity(n);
            for (i, op) in template.ops.iter().enumerate() {
                let list: &mut Vec<u32> = &mut lane_ops[op.lane.index()];
                before.push(list.last().copied().unwrap_or(u32::MAX));
                list.push(i as u32);
            }
            run.templates.push(TemplateTimes {
                lanes,
                issued: vec![0; n * lanes],
                end: vec![0; n * lanes],
                start: vec![0; n * lanes],
                before,
            });
            cursors.push(Cursors {
                host: 0,
                done: vec![false; n],
                lane_done: vec![0; lane_ops.len()],
                lane_ops,
                waiting: vec![None; program.families.len()],
            });
        }
        let components = components(program, lumping);
        // Templates without ranks have nothing to do and nobody waits for them.
        let mut queue: Vec<usize> =
            (0..run.templates.len()).rev().filter(|t| run.templates[*t].lanes > 0).collect();
        let mut queued = vec![true; run.templates.len()];
        while let Some(t) = queue.pop() {
            queued[t] = false;
            while let Some(family) = run.advance(t, &mut cursors[t], extra) {
                // The template has reached a meeting: hold it if everybody is there.
                let component =
                    components[family.index()].iter().find(|c| c.templates.contains(&t));
                let Some(component) = component else {
                    return Err(Error::Internal(format!(
                        "template {t} meets in a family that it is no member of"
                    )));
                };
                if component
                    .templates
                    .iter()
                    .all(|other| cursors[*other].waiting[family.index()].is_some())
                {
                    run.hold(family, component, &mut cursors, extra);
                    for other in &component.templates {
                        if !queued[*other] {
                            queued[*other] = true;
                            queue.push(*other);
                        }
                    }
                }
            }
        }
        run.check_finished(&cursors)?;
        let end = run.templates.iter().flat_map(|t| t.end.iter().copied()).max();
        run.step = Nanos(end.unwrap_or(0));
        Ok(run)
    }

    /// Moves a template's cursors until it reaches a meeting it has not announced yet (returned)
    /// or nothing moves.
    fn advance(
        &mut self,
        t: usize,
        cursors: &mut Cursors,
        extra: Option<&Extra>,
    ) -> Option<FamilyId> {
        let template = &self.program.templates[t];
        loop {
            let mut moved = false;
            while cursors.host < template.ops.len() && self.issue(t, cursors) {
                moved = true;
            }
            for lane in 0..cursors.lane_ops.len() {
                while let Some(&op) = cursors.lane_ops[lane].get(cursors.lane_done[lane]) {
                    let i = op as usize;
                    if cursors.done[i] {
                        // A host operation: done when it was issued.
                        cursors.lane_done[lane] += 1;
                        moved = true;
                        continue;
                    }
                    if i >= cursors.host
                        || template.deps(OpId(op)).iter().any(|d| !cursors.done[d.index()])
                    {
                        break;
                    }
                    match template.ops[i].action {
                        Action::Kernel(kernel) => {
                            self.set_ready(t, i);
                            let duration = self.durations.kernels[kernel.index()].0;
                            let times = &mut self.templates[t];
                            for lane in i * times.lanes..(i + 1) * times.lanes {
                                let more = extra.map_or(0, |e| e.by_template[t][lane]);
                                times.end[lane] = times.start[lane] + duration + more;
                            }
                            cursors.done[i] = true;
                            cursors.lane_done[lane] += 1;
                            moved = true;
                        }
                        Action::Meet { family, .. } => {
                            if cursors.waiting[family.index()].is_some() {
                                break;
                            }
                            self.set_ready(t, i);
                            cursors.waiting[family.index()] = Some(op);
                            return Some(family);
                        }
                        Action::HostWork(_) | Action::HostWait => break,
                    }
                }
            }
            if !moved {
                return None;
            }
        }
    }

    /// Lets the host issue its next operation; false if it has to wait for something unknown.
    fn issue(&mut self, t: usize, cursors: &mut Cursors) -> bool {
        let template = &self.program.templates[t];
        let host = self.durations.host;
        let i = cursors.host;
        let action = template.ops[i].action;
        let depth = host.queue_depth as usize;
        let oldest = (depth > 0 && i >= depth).then(|| i - depth);
        if oldest.is_some_and(|j| !cursors.done[j]) {
            return false;
        }
        if action == Action::HostWait
            && template.deps(OpId(i as u32)).iter().any(|d| !cursors.done[d.index()])
        {
            return false;
        }
        let cost = match action {
            Action::Kernel(kernel) => self.durations.issuing(kernel).0,
            Action::Meet { .. } => host.per_operation.0,
            Action::HostWork(HostWork::Step) => host.per_step.0,
            Action::HostWork(HostWork::MicroBatch) => host.per_micro_batch.0,
            Action::HostWork(HostWork::Recorded(time)) => time.0,
            Action::HostWait => 0,
        };
        let times = &mut self.templates[t];
        let lanes = times.lanes;
        for lane in 0..lanes {
            let mut free = if i == 0 { 0 } else { times.issued[(i - 1) * lanes + lane] };
            if let Some(j) = oldest {
                free = free.max(times.end[j * lanes + lane]);
            }
            if action == Action::HostWait {
                for dep in template.deps(OpId(i as u32)) {
                    free = free.max(times.end[dep.index() * lanes + lane]);
                }
            }
            times.issued[i * lanes + lane] = free + cost;
            if matches!(action, Action::HostWork(_) | Action::HostWait) {
                times.start[i * lanes + lane] = free;
                times.end[i * lanes + lane] = free + cost;
            }
        }
        if matches!(action, Action::HostWork(_) | Action::HostWait) {
            cursors.done[i] = true;
        }
        cursors.host += 1;
        true
    }

    /// Writes when each lane is ready for an operation into its start times.
    fn set_ready(&mut self, t: usize, i: usize) {
        let template = &self.program.templates[t];
        let launch = self.durations.host.launch_latency.0;
        let gap = self.durations.host.dispatch_gap.0;
        let times = &mut self.templates[t];
        let lanes = times.lanes;
        let before = times.before[i];
        for lane in 0..lanes {
            let mut ready = times.issued[i * lanes + lane] + launch;
            if before != u32::MAX {
                ready = ready.max(times.end[before as usize * lanes + lane] + gap);
            }
            for dep in template.deps(OpId(i as u32)) {
                ready = ready.max(times.end[dep.index() * lanes + lane] + gap);
            }
            times.start[i * lanes + lane] = ready;
        }
    }

    /// All templates of a component have reached their meeting: evaluate it.
    fn hold(
        &mut self,
        family: FamilyId,
        component: &Component,
        cursors: &mut [Cursors],
        extra: Option<&Extra>,
    ) {
        let f = family.index();
        for g in &component.groups {
            let group = &self.lumping.groups[f][*g];
            let mut start = i64::MIN;
            let mut duration = 0;
            // The slowest member decides.
            let mut more = 0;
            for member in &group.lanes {
                let (t, lane, i) = self.locate(*member, f, cursors);
                let times = &self.templates[t];
                start = start.max(times.start[i * times.lanes + lane]);
                more = more.max(extra.map_or(0, |e| e.by_template[t][i * times.lanes + lane]));
                if let Action::Meet { call, .. } = self.program.templates[t].ops[i].action {
                    let by_class = &self.durations.meetings[f][call.index()];
                    duration = by_class.get(group.class as usize).map_or(0, |d| d.0);
                }
            }
            for member in &group.lanes {
                let (t, lane, i) = self.locate(*member, f, cursors);
                let times = &mut self.templates[t];
                times.start[i * times.lanes + lane] = start;
                times.end[i * times.lanes + lane] = start + duration + more;
            }
        }
        for t in &component.templates {
            if let Some(op) = cursors[*t].waiting[f].take() {
                let lane = self.program.templates[*t].ops[op as usize].lane.index();
                cursors[*t].done[op as usize] = true;
                cursors[*t].lane_done[lane] += 1;
            }
        }
    }

    fn locate(&self, lane: u32, family: usize, cursors: &[Cursors]) -> (usize, usize, usize) {
        let t = self.lumping.template[lane as usize].index();
        let op = cursors[t].waiting[family].unwrap_or_default();
        (t, (lane - self.lumping.first_lane[t]) as usize, op as usize)
    }

    fn check_finished(&self, cursors: &[Cursors]) -> Result<()> {
        let mut stuck = Vec::new();
        for (t, cursor) in cursors.iter().enumerate().filter(|(t, _)| self.templates[*t].lanes > 0)
        {
            let template = &self.program.templates[t];
            if cursor.done.iter().all(|done| *done) {
                continue;
            }
            for (family, op) in cursor.waiting.iter().enumerate() {
                if let Some(op) = op {
                    stuck.push(format!(
                        "{} waits at operation {op} for family `{}`",
                        template.name, self.program.families[family].name
                    ));
                }
            }
            if cursor.host < template.ops.len() {
                stuck.push(format!(
                    "the host of {} waits at operation {}",
                    template.name, cursor.host
                ));
            }
        }
        if stuck.is_empty() {
            return Ok(());
        }
        stuck.truncate(8);
        Err(Error::Internal(format!("the program cannot finish: {}", stuck.join("; "))))
    }

    /// Time of the step.
    #[must_use]
    pub fn step(&self) -> Nanos {
        self.step
    }

    /// Start and end of an operation of a rank's template on that rank.
    #[must_use]
    pub fn times(&self, rank: u32, op: OpId) -> (Nanos, Nanos) {
        let lane = self.lumping.lane_of_rank[rank as usize];
        let t = self.lumping.template[lane as usize].index();
        let times = &self.templates[t];
        let i = op.index() * times.lanes + (lane - self.lumping.first_lane[t]) as usize;
        (Nanos(times.start[i]), Nanos(times.end[i]))
    }

    /// When a rank's host had issued an operation.
    #[must_use]
    pub fn issued(&self, rank: u32, op: OpId) -> Nanos {
        let (t, lane) = self.place(rank);
        Nanos(self.templates[t].issued[op.index() * self.templates[t].lanes + lane])
    }

    /// The program that was replayed.
    #[must_use]
    pub fn program(&self) -> &'a Program {
        self.program
    }

    /// What the host spends on issuing an operation of the device.
    #[must_use]
    pub fn issue_time(&self) -> Nanos {
        self.durations.host.per_operation
    }

    /// When a rank was ready for an operation; a meeting starts later where others are not.
    #[must_use]
    pub fn ready(&self, rank: u32, op: OpId) -> Nanos {
        let (t, lane) = self.place(rank);
        let times = &self.templates[t];
        let end = |i: usize| times.end[i * times.lanes + lane] + self.durations.host.dispatch_gap.0;
        let launch = self.durations.host.launch_latency.0;
        let issued = times.issued[op.index() * times.lanes + lane] + launch;
        let before = times.before[op.index()];
        let before = (before != u32::MAX).then_some(before as usize);
        let deps = self.program.templates[t].deps(op).iter().map(|d| d.index());
        Nanos(before.into_iter().chain(deps).map(end).fold(issued, i64::max))
    }

    /// Template of a rank, and its lane there.
    fn place(&self, rank: u32) -> (usize, usize) {
        let lane = self.lumping.lane_of_rank[rank as usize];
        let t = self.lumping.template[lane as usize].index();
        (t, (lane - self.lumping.first_lane[t]) as usize)
    }

    /// Where the time went.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let mut total = Breakdown::default();
        let mut by_template = Vec::with_capacity(self.templates.len());
        for t in 0..self.templates.len() {
            let mut sum = Breakdown::default();
            let mut ranks = 0;
            for lane in 0..self.templates[t].lanes {
                let weight = self.lumping.weight[self.lumping.first_lane[t] as usize + lane];
                sum.add(&breakdown::of_lane(self, t, lane), weight as i64);
                ranks += weight;
            }
            total.add(&sum, 1);
            by_template.push((ranks, sum));
        }
        let (busy, waiting) = (total.busy(), total.waiting());
        Outcome {
            step: self.step,
            total,
            by_template,
            lanes: self.lumping.lanes(),
            busy,
            waiting,
            critical: critical::path(self),
        }
    }
}

/// For every family the sets of templates that meet each other, with their groups.
fn components(program: &Program, lumping: &Lumping) -> Vec<Vec<Component>> {
    lumping
        .groups
        .iter()
        .map(|groups| {
            let mut parts: Vec<Component> = Vec::new();
            for (g, group) in groups.iter().enumerate() {
                let mut templates: Vec<usize> =
                    group.lanes.iter().map(|l| lumping.template[*l as usize].index()).collect();
                templates.dedup();
                let mut merged = Component { templates, groups: vec![g] };
                // Join all parts that share a template with this group.
                let mut kept = Vec::with_capacity(parts.len() + 1);
                for part in parts {
                    if part.templates.iter().any(|t| merged.templates.contains(t)) {
                        merged.templates.extend(part.templates);
                        merged.groups.extend(part.groups);
                    } else {
                        kept.push(part);
                    }
                }
                merged.templates.sort_unstable();
                merged.templates.dedup();
                kept.push(merged);
                parts = kept;
            }
            debug_assert!(program.families.len() == lumping.groups.len());
            parts
        })
        .collect()
}
