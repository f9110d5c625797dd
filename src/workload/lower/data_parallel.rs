//! Gathers, reductions and refreshes of a stage's parameters over its data-parallel replicas.
//!
//! A stage has two pools of parameters: routed experts, which the ranks of an expert group divide,
//! and everything else. Each pool has its own replicas and shard groups; what happens to them is
//! the same.

use std::collections::BTreeMap;

use crate::hardware::Overlap;
use crate::plan::Sharding;
use crate::program::{
    Action, CallId, Collective, FamilyId, KernelClass, KernelId, OpId, Phase, Work,
};

use super::super::model::RankParameters;
use super::stage::StageBuilder;
use super::{DATA, Lowering, PoolFamilies, stage_parameters, trained_parameters};

/// A stretch of parameters that is gathered and reduced as one, in forward order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unit {
    /// Token and position embedding.
    Embedding,
    /// Layer of a chunk.
    Layer(u32, u32),
    /// Final norm and output projection.
    Head,
    /// Multi-token-prediction module.
    Prediction(u32),
}

/// A collective, and the kernels that quantise its input and restore its output.
#[derive(Clone, Copy)]
struct Message {
    family: FamilyId,
    call: CallId,
    quantise: Option<KernelId>,
    restore: Option<KernelId>,
}

/// What a stage exchanges with its replicas.
pub(super) struct DataParallel {
    overlap: Overlap,
    /// Units of the stage in forward order.
    units: Vec<Unit>,
    /// Before a unit's passes: sharded parameters.
    gathers: BTreeMap<Unit, Vec<Message>>,
    /// After every backward pass of a unit: sharded gradients.
    scatters: BTreeMap<Unit, Vec<Message>>,
    /// After the last backward pass of a unit.
    finals: BTreeMap<Unit, Vec<Message>>,
    /// After all backward passes: what is not overlapped.
    rest: Vec<Message>,
    /// At the start of the step: parameters that other ranks updated.
    refreshes: BTreeMap<Unit, Vec<Message>>,
    /// Refresh operations that the unit's first forward waits for.
    refreshing: BTreeMap<Unit, OpId>,
    /// Gathers issued ahead of their use.
    gathered: BTreeMap<Unit, OpId>,
    /// Last kernels of the two most recent units: a gather may run ahead by two units.
    history: [Option<OpId>; 2],
}

impl DataParallel {
    pub(super) fn new(lowering: &mut Lowering<'_>, stage: u32) -> Self {
        let plan = lowering.plan;
        let sizes = stage_parameters(lowering.model, plan, stage);
        let mut this = Self {
            overlap: lowering.recipe.overlap.clone(),
            units: sizes.keys().copied().collect(),
            gathers: BTreeMap::new(),
            scatters: BTreeMap::new(),
            finals: BTreeMap::new(),
            rest: Vec::new(),
            refreshes: BTreeMap::new(),
            refreshing: BTreeMap::new(),
            gathered: BTreeMap::new(),
            history: [None, None],
        };
        let trained = trained_parameters(lowering.model, plan, stage);
        let dense: fn(&RankParameters) -> u64 = |p| p.dense;
        let expert: fn(&RankParameters) -> u64 = |p| p.expert;
        let pools = [
            (lowering.families.dense_pool, plan.sharding, dense),
            (lowering.families.expert_pool, plan.expert_sharding(), expert),
        ];
        for (families, sharding, part) in pools {
            let counts = |of: &BTreeMap<Unit, RankParameters>| -> Vec<(Unit, u64)> {
                of.iter().map(|(unit, p)| (*unit, part(p))).filter(|(_, n)| *n > 0).collect()
            };
            this.add_gathers(lowering, families, sharding, &counts(&sizes));
            this.add_reductions(lowering, families, sharding, &counts(&trained));
        }
        this
    }

    /// Gathers of sharded parameters.
    fn add_gathers(
        &mut self,
        lowering: &mut Lowering<'_>,
        families: PoolFamilies,
        sharding: Sharding,
        counts: &[(Unit, u64)],
    ) {
        let Some(family) = families.parameter_shard else { return };
        for (unit, count) in counts {
            let message = lowering.gather_message(family, *count, sharding.parameters);
            self.gathers.entry(*unit).or_default().push(message);
        }
    }

    /// Reductions of gradients, and gathers of what they updated.
    fn add_reductions(
        &mut self,
        lowering: &mut Lowering<'_>,
        families: PoolFamilies,
        sharding: Sharding,
        counts: &[(Unit, u64)],
    ) {
        for (unit, count) in counts {
            if sharding.gradients > 1 {
                if let Some(family) = families.gradient_shard {
                    let message = lowering.scatter_message(family, *count, sharding.gradients);
                    self.scatters.entry(*unit).or_default().push(message);
                }
                let shard = count.div_ceil(u64::from(sharding.gradients));
                let rest = sharding.optimizer / sharding.gradients;
                let finals = self.finals.entry(*unit).or_default();
                if rest > 1 {
                    // The optimizer needs less than the gradient shard: scatter what is left.
                    if let Some(family) = families.gradient_rest {
                        finals.push(lowering.scatter_message(family, shard, rest));
                    }
                    if let Some(family) = families.optimizer_replicas {
                        let part = shard.div_ceil(u64::from(rest));
                        finals.push(lowering.sum_message(family, part));
                    }
                } else if let Some(family) = families.gradient_replicas {
                    finals.push(lowering.sum_message(family, shard));
                }
            }
            if let Some(family) = families.refresh
                && self.overlap.parameter_gather
            {
                let shard = count.div_ceil(u64::from(sharding.parameters));
                let group = sharding.optimizer / sharding.parameters;
                let message = lowering.gather_message(family, shard, group);
                self.refreshes.entry(*unit).or_default().push(message);
            }
        }
        if sharding.gradients > 1 {
            return;
        }
        // Whole gradients: reduced once per step, by bucket beside the last backward pass, or all
        // together after it.
        if !self.overlap.gradient_reduce {
            let all: u64 = counts.iter().map(|(_, count)| count).sum();
            self.rest.extend(lowering.reduction(families, sharding.optimizer, all));
            return;
        }
        // Buckets fill in backward order and never span chunks, whose backward passes end at
        // different times.
        let bucket = lowering.recipe.bucket.max(1);
        let mut filled = 0;
        for (i, (unit, count)) in counts.iter().enumerate().rev() {
            filled += count;
            let ends_chunk = i == 0 || chunk_of(counts[i - 1].0) != chunk_of(*unit);
            if lowering.recipe.reduce_bytes(filled) >= bucket || ends_chunk {
                let messages = lowering.reduction(families, sharding.optimizer, filled);
                self.finals.entry(*unit).or_default().extend(messages);
                filled = 0;
            }
        }
    }

    /// Gathers of updated parameters, overlapped with the first forward passes.
    pub(super) fn refresh_at_start(&mut self, builder: &mut StageBuilder) {
        builder.strand.phase = Phase::Optimizer;
        for (unit, messages) in &self.refreshes {
            for message in messages {
                let op = message.send(builder, &[]);
                self.refreshing.insert(*unit, op);
            }
        }
    }

    fn gather(&mut self, builder: &mut StageBuilder, unit: Unit) {
        let Some(messages) = self.gathers.get(&unit) else { return };
        if self.gathered.contains_key(&unit) {
            return;
        }
        // At most two units are gathered ahead, as the frameworks limit it to bound memory.
        let deps: Vec<OpId> = if self.overlap.parameter_gather {
            self.history[0].into_iter().collect()
        } else {
            builder.strand.last_compute.into_iter().collect()
        };
        for message in messages {
            let op = message.send(builder, &deps);
            self.gathered.insert(unit, op);
        }
    }

    pub(super) fn before_unit(&mut self, builder: &mut StageBuilder, unit: Unit, forward: bool) {
        builder.strand.pending.extend(self.refreshing.remove(&unit));
        if self.gathers.is_empty() {
            return;
        }
        self.gather(builder, unit);
        builder.strand.pending.extend(self.gathered.remove(&unit));
        if self.overlap.parameter_gather
            && let Some(next) = self.neighbour(unit, forward)
        {
            self.gather(builder, next);
        }
    }

    /// The unit whose parameters are needed next in the same pass.
    fn neighbour(&self, unit: Unit, forward: bool) -> Option<Unit> {
        let place = self.units.iter().position(|u| *u == unit)?;
        let next = if forward { place.checked_add(1) } else { place.checked_sub(1) };
        next.and_then(|next| self.units.get(next)).copied()
    }

    pub(super) fn after_unit(
        &mut self,
        builder: &mut StageBuilder,
        unit: Unit,
        forward: bool,
        last: bool,
    ) {
        self.history = [self.history[1], builder.strand.last_compute];
        if forward {
            return;
        }
        let blocking = !self.overlap.gradient_reduce;
        let finals = last.then(|| self.finals.get(&unit)).flatten();
        for message in self.scatters.get(&unit).into_iter().chain(finals).flatten() {
            message.reduce(builder, blocking);
        }
    }

    /// After all backward passes: what was not overlapped; and the optimizer waits for it all.
    pub(super) fn reduce_rest(&mut self, builder: &mut StageBuilder) {
        for message in &self.rest {
            message.reduce(builder, true);
        }
        // The data lane runs in order, so its last operation stands for all of it.
        builder.strand.pending.extend(builder.last_data);
    }
}

/// Chunk in whose backward pass a unit's gradients arise.
fn chunk_of(unit: Unit) -> u32 {
    match unit {
        Unit::Embedding => 0,
        Unit::Layer(chunk, _) => chunk,
        Unit::Head | Unit::Prediction(_) => u32::MAX,
    }
}

impl Message {
    /// Appends the message; `deps` are what its input waits for.
    fn send(&self, builder: &mut StageBuilder, deps: &[OpId]) -> OpId {
        let mut deps = deps.to_vec();
        if let Some(kernel) = self.quantise {
            deps = vec![builder.data_kernel(kernel, &deps)];
        }
        let action = Action::Meet { family: self.family, call: self.call };
        let op = builder.push(action, DATA, &deps);
        match self.restore {
            Some(kernel) => builder.data_kernel(kernel, &[op]),
            None => op,
        }
    }

    /// Appends the message after everything so far; `blocking` if the next kernel waits for it.
    fn reduce(&self, builder: &mut StageBuilder, blocking: bool) {
        let mut deps: Vec<OpId> = builder.strand.last_compute.into_iter().collect();
        deps.extend(builder.strand.pending.iter().copied());
        let op = self.send(builder, &deps);
        if blocking {
            builder.strand.pending.clear();
            builder.strand.pending.push(op);
        }
    }
}

impl Lowering<'_> {
    fn stream_kernel(&mut self, name: &str, bytes: u64) -> KernelId {
        self.kernel(name, KernelClass::Cast, Work::Stream { bytes, launches: 1 })
    }

    /// Gather of `count` parameters from `group` ranks.
    fn gather_message(&mut self, family: FamilyId, count: u64, group: u32) -> Message {
        let bytes = self.recipe.gather_bytes(count);
        let call = self.call("parameter gather", Collective::AllGather, bytes);
        let quantised = self.recipe.gather_bits < 16;
        let shard = count.div_ceil(u64::from(group.max(1)));
        Message {
            family,
            call,
            quantise: quantised.then(|| {
                self.stream_kernel("quantise", shard * 2 + bytes / u64::from(group.max(1)))
            }),
            restore: quantised.then(|| self.stream_kernel("dequantise", bytes + count * 2)),
        }
    }

    /// Reduce-scatter of `count` gradients over `group` ranks.
    fn scatter_message(&mut self, family: FamilyId, count: u64, group: u32) -> Message {
        self.reduce_message(family, "gradient scatter", Collective::ReduceScatter, count, group)
    }

    /// All-reduce of `count` gradients.
    fn sum_message(&mut self, family: FamilyId, count: u64) -> Message {
        self.reduce_message(family, "gradient all-reduce", Collective::AllReduce, count, 1)
    }

    fn reduce_message(
        &mut self,
        family: FamilyId,
        name: &str,
        collective: Collective,
        count: u64,
        group: u32,
    ) -> Message {
        let bytes = self.recipe.reduce_bytes(count);
        let element = self.recipe.gradient_reduce.bytes();
        let call = self.call(name, collective, bytes);
        let quantised = self.recipe.reduce_bits.is_some();
        // The receiver restores and adds one part from every rank.
        let received = count.div_ceil(u64::from(group.max(1))) * element;
        Message {
            family,
            call,
            quantise: quantised.then(|| self.stream_kernel("quantise", count * element + bytes)),
            restore: quantised.then(|| self.stream_kernel("dequantise", bytes + received)),
        }
    }

    /// Reduction of `count` whole gradients: over the optimizer shard group and its replicas, or
    /// over all replicas.
    fn reduction(&mut self, families: PoolFamilies, optimizer: u32, count: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        if count == 0 {
            return messages;
        }
        if optimizer > 1 {
            if let Some(family) = families.optimizer_shard {
                messages.push(self.scatter_message(family, count, optimizer));
            }
            if let Some(family) = families.optimizer_replicas {
                let shard = count.div_ceil(u64::from(optimizer));
                messages.push(self.sum_message(family, shard));
            }
        } else if let Some(family) = families.gradient_replicas {
            messages.push(self.sum_message(family, count));
        }
        messages
    }
}
