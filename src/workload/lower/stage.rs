//! Appends operations with the dependencies that stream order implies.

use crate::program::{
    Action, CallId, FamilyId, HostWork, KernelId, LaneId, Op, OpId, Phase, TemplateBuilder,
};

use super::super::layer::Group;
use super::{COMPUTE, CONTEXT, DATA, EXPERT, HOST, Step, TENSOR};

/// What follows what in one pass. Two passes that run as one take turns on the same lanes, and each
/// waits only for its own.
#[derive(Clone, Default)]
pub(super) struct Strand {
    pub(super) last_compute: Option<OpId>,
    /// What the next kernel has to wait for.
    pub(super) pending: Vec<OpId>,
    pub(super) asynchronous: Option<OpId>,
    pub(super) phase: Phase,
    pub(super) micro_batch: u32,
}

/// Appends operations with the dependencies that stream order implies.
pub(super) struct StageBuilder {
    pub(super) ops: TemplateBuilder,
    pub(super) tensor_family: Option<FamilyId>,
    pub(super) context_family: Option<FamilyId>,
    pub(super) expert_family: Option<FamilyId>,
    /// The pass that is appended to.
    pub(super) strand: Strand,
    /// Sends of the latest pass that the compute stream has to wait for at some point.
    pub(super) unfinished_sends: Vec<OpId>,
    /// Sends of the pass before: the next pass waits for them.
    pub(super) overdue_sends: Vec<OpId>,
    pub(super) last_data: Option<OpId>,
}

impl StageBuilder {
    pub(super) fn push(&mut self, action: Action, lane: LaneId, deps: &[OpId]) -> OpId {
        let op =
            Op { action, lane, phase: self.strand.phase, micro_batch: self.strand.micro_batch };
        let id = self.ops.push(op, deps);
        if lane == DATA {
            self.last_data = Some(id);
        }
        id
    }

    pub(super) fn host(&mut self, work: HostWork) {
        self.push(Action::HostWork(work), HOST, &[]);
    }

    pub(super) fn host_wait(&mut self) {
        let mut deps: Vec<OpId> = self.strand.last_compute.into_iter().collect();
        deps.extend(self.strand.pending.iter().copied());
        self.push(Action::HostWait, HOST, &deps);
    }

    pub(super) fn compute(&mut self, kernel: KernelId, phase: Phase) {
        let deps = std::mem::take(&mut self.strand.pending);
        let op = Op {
            action: Action::Kernel(kernel),
            lane: COMPUTE,
            phase,
            micro_batch: self.strand.micro_batch,
        };
        self.strand.last_compute = Some(self.ops.push(op, &deps));
    }

    /// A collective of a layer that the next kernel waits for.
    pub(super) fn meet(&mut self, group: Group, call: CallId) {
        if let Some(op) = self.meet_async(group, call) {
            self.strand.pending.clear();
            self.strand.pending.push(op);
        }
    }

    fn meet_async(&mut self, group: Group, call: CallId) -> Option<OpId> {
        let (family, lane) = match group {
            Group::Tensor => (self.tensor_family?, TENSOR),
            Group::Context => (self.context_family?, CONTEXT),
            Group::Expert => (self.expert_family?, EXPERT),
        };
        let mut deps: Vec<OpId> = self.strand.last_compute.into_iter().collect();
        deps.extend(self.strand.pending.iter().copied());
        Some(self.push(Action::Meet { family, call }, lane, &deps))
    }

    /// A kernel beside the compute stream: what quantises a message.
    pub(super) fn data_kernel(&mut self, kernel: KernelId, deps: &[OpId]) -> OpId {
        self.push(Action::Kernel(kernel), DATA, deps)
    }

    /// A data-parallel collective after everything so far; `blocking` if the next kernel waits.
    pub(super) fn data(&mut self, family: FamilyId, call: CallId, blocking: bool) -> OpId {
        let mut deps: Vec<OpId> = self.strand.last_compute.into_iter().collect();
        deps.extend(self.strand.pending.iter().copied());
        let op = self.push(Action::Meet { family, call }, DATA, &deps);
        if blocking {
            self.strand.pending.clear();
            self.strand.pending.push(op);
        }
        op
    }

    pub(super) fn step(&mut self, step: Step) {
        let phase = self.strand.phase;
        match step {
            Step::Kernel { id, recompute } => {
                self.compute(id, if recompute { Phase::Recompute } else { phase });
            }
            Step::Meet { group, call, recompute } => {
                self.strand.phase = if recompute { Phase::Recompute } else { phase };
                self.meet(group, call);
                self.strand.phase = phase;
            }
            Step::MeetAsync { group, call } => {
                self.strand.asynchronous = self.meet_async(group, call);
            }
            Step::Wait => self.strand.pending.extend(self.strand.asynchronous.take()),
            Step::HostWait => self.host_wait(),
        }
    }

    /// Leaves the pass that is appended to as another one begins beside it: what it waits for, both
    /// wait for.
    pub(super) fn fork(&self) -> Strand {
        Strand { asynchronous: None, ..self.strand.clone() }
    }

    /// Two passes have become one again.
    pub(super) fn join(&mut self, other: Strand) {
        self.strand.last_compute = self.strand.last_compute.max(other.last_compute);
        for op in other.pending {
            if !self.strand.pending.contains(&op) {
                self.strand.pending.push(op);
            }
        }
    }
}
