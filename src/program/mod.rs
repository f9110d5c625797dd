//! The waist: what the ranks of a training step do, independent of how long anything takes.
//!
//! A [`Program`] has one [`Template`] per set of ranks that do the same work (usually one per
//! pipeline stage). A template is a list of operations in the order in which the host issues them,
//! on named lanes, with explicit dependencies; ranks meet in [`Family`] groups. Kernels and
//! collective calls are stored once and referred to by index, so that re-timing a program for
//! another accelerator, network or straggler costs no rebuild.
//!
//! Synthetic workloads and imported traces both end up here, and everything below (timing,
//! network, replay) starts from here. The program holds no duration except that of a recorded
//! kernel ([`Work::Recorded`]).
//!
//! # When an operation starts
//!
//! At the maximum of: the operation before it on its lane is done, its dependencies are done, the
//! host has issued it (plus launch latency), and, for a meeting, every member of the group is
//! ready. The host issues in template order, may be at most a queue's depth ahead of the device,
//! and waits at [`Action::HostWait`].

mod family;
mod kernel;
mod template;

pub use family::{Dimension, Family, FamilyId, Groups};
pub use kernel::{
    AttentionPass, CallId, Collective, CollectiveCall, Fanout, FusedAttention, Kernel, KernelClass,
    KernelId, Precision, Work,
};
pub use template::{
    Action, HostWork, LaneId, LaneKind, Op, OpId, Phase, Template, TemplateBuilder, TemplateId,
};

use crate::error::{Error, Result};

/// One training step of every rank.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// What ranks do.
    pub templates: Vec<Template>,
    /// Template of each rank; its length is the world size.
    pub template_of_rank: Vec<TemplateId>,
    /// Groups in which ranks meet.
    pub families: Vec<Family>,
    /// Distinct kernels; [`KernelId`] is the index.
    pub kernels: Vec<Kernel>,
    /// Distinct collective calls; [`CallId`] is the index.
    pub calls: Vec<CollectiveCall>,
}

impl Program {
    /// Number of ranks.
    #[must_use]
    pub fn world_size(&self) -> usize {
        self.template_of_rank.len()
    }

    /// Operations of all ranks together.
    #[must_use]
    pub fn operation_instances(&self) -> u64 {
        self.template_of_rank.iter().map(|t| self.templates[t.index()].ops.len() as u64).sum()
    }

    /// Checks what engines rely on: indices in range, dependencies backwards, and in every family
    /// all members of a group make the same calls in the same order.
    ///
    /// # Errors
    /// The first violation; it is a defect of whatever built the program.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Internal(format!("malformed program: {message}")));
        let mut sequences = vec![vec![Vec::new(); self.families.len()]; self.templates.len()];
        for (t, template) in self.templates.iter().enumerate() {
            for (i, op) in template.ops.iter().enumerate() {
                if template.deps(OpId(i as u32)).iter().any(|d| d.index() >= i) {
                    return fail(format!("template {t}, operation {i} depends on a later one"));
                }
                if op.lane.index() >= template.lanes.len() {
                    return fail(format!("template {t}, operation {i} is on an unknown lane"));
                }
                match op.action {
                    Action::Kernel(k) if k.index() >= self.kernels.len() => {
                        return fail(format!("template {t}, operation {i}: unknown kernel"));
                    }
                    Action::Meet { family, call } => {
                        if family.index() >= self.families.len() || call.index() >= self.calls.len()
                        {
                            return fail(format!("template {t}, operation {i}: unknown meeting"));
                        }
                        sequences[t][family.index()].push(call);
                    }
                    _ => {}
                }
            }
        }
        for (f, family) in self.families.iter().enumerate() {
            for group in family.groups.iter() {
                let mut expected: Option<&Vec<CallId>> = None;
                for rank in group {
                    let Some(template) = self.template_of_rank.get(*rank as usize) else {
                        return fail(format!("family {} names rank {rank}", family.name));
                    };
                    let sequence = &sequences[template.index()][f];
                    if *expected.get_or_insert(sequence) != sequence {
                        return fail(format!(
                            "the members of a group of family {} make different calls",
                            family.name
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
