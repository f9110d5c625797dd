//! Templates: the operations of a rank, in the order in which the host issues them.

use schemars::JsonSchema;
use serde::Serialize;

use super::family::FamilyId;
use super::kernel::{CallId, KernelId, index};
use crate::units::Nanos;

index!(
    /// Index into [`super::Program::templates`].
    TemplateId
);
index!(
    /// Index into [`Template::ops`].
    OpId
);

/// Index into [`Template::lanes`]; operations of a lane run one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u8);

impl LaneId {
    /// As an index into [`Template::lanes`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a lane stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneKind {
    /// The CPU thread that issues the others.
    Host,
    /// Compute stream.
    Compute,
    /// Communication stream.
    Communication,
    /// Copy engine.
    Copy,
}

/// Part of the step an operation belongs to.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Forward pass.
    #[default]
    Forward,
    /// Forward pass repeated in backward.
    Recompute,
    /// Backward pass.
    Backward,
    /// Gradient norm, optimizer, parameter refresh.
    Optimizer,
    /// Data loading and everything else.
    Other,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Runs a kernel.
    Kernel(KernelId),
    /// Meets the other members of the rank's group of a family: the k-th meeting of a family in
    /// one member is the k-th in all. A send or receive is a meeting of two.
    Meet {
        /// Whom.
        family: FamilyId,
        /// What is exchanged.
        call: CallId,
    },
    /// The host works for itself (data loading, framework), and issues nothing meanwhile.
    HostWork(HostWork),
    /// The host waits until the operation's dependencies are done on the device.
    HostWait,
}

/// What the host does for itself; the stack says how long it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostWork {
    /// Start of a step: data loading, schedulers, logging.
    Step,
    /// Start of a micro-batch's forward or backward pass.
    MicroBatch,
    /// A recorded delay of a trace.
    Recorded(Nanos),
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// What it does.
    pub action: Action,
    /// Where it runs.
    pub lane: LaneId,
    /// What it is part of.
    pub phase: Phase,
    /// Micro-batch it belongs to; [`Op::NO_MICRO_BATCH`] for none.
    pub micro_batch: u32,
}

impl Op {
    /// Marks an operation that belongs to no micro-batch.
    pub const NO_MICRO_BATCH: u32 = u32::MAX;
}

/// What every rank of a kind does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// Name for people: `stage 3`, `rank 17`.
    pub name: String,
    /// Lanes: name and kind.
    pub lanes: Vec<(String, LaneKind)>,
    /// Operations in issue order.
    pub ops: Vec<Op>,
    dep_starts: Vec<u32>,
    deps: Vec<OpId>,
}

impl Template {
    /// The operations that `op` waits for, beside its lane and its issue. All are earlier.
    #[must_use]
    pub fn deps(&self, op: OpId) -> &[OpId] {
        let i = op.index();
        &self.deps[self.dep_starts[i] as usize..self.dep_starts[i + 1] as usize]
    }
}

/// Builds a template operation by operation.
#[derive(Debug)]
pub struct TemplateBuilder {
    template: Template,
}

impl TemplateBuilder {
    /// An empty template with these lanes.
    #[must_use]
    pub fn new(name: String, lanes: Vec<(String, LaneKind)>) -> Self {
        Self {
            template: Template {
                name,
                lanes,
                ops: Vec::new(),
                dep_starts: vec![0],
                deps: Vec::new(),
            },
        }
    }

    /// Appends an operation; `deps` must have been appended before.
    pub fn push(&mut self, op: Op, deps: &[OpId]) -> OpId {
        let id = OpId(self.template.ops.len() as u32);
        debug_assert!(deps.iter().all(|d| d.0 < id.0));
        self.template.ops.push(op);
        self.template.deps.extend_from_slice(deps);
        self.template.dep_starts.push(self.template.deps.len() as u32);
        id
    }

    /// Operations so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.template.ops.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.template.ops.is_empty()
    }

    /// The finished template.
    #[must_use]
    pub fn finish(self) -> Template {
        self.template
    }
}
