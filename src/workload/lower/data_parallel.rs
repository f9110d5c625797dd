//! Gathers, reductions and refreshes of a stage's parameters over its data-parallel replicas.

use std::collections::BTreeMap;

use crate::hardware::Overlap;
use crate::program::{Action, CallId, Collective, FamilyId, OpId, Phase};

use super::stage::StageBuilder;
use super::{DATA, Lowering};

/// A stretch of parameters that is gathered and reduced as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unit {
    Embedding,
    Layer(u32, u32),
    Head,
}

/// Gathers, reductions and refreshes of a stage's parameters over its replicas.
pub(super) struct DataParallel {
    parameter_shard: Option<FamilyId>,
    gradient_shard: Option<FamilyId>,
    gradient_replicas: Option<FamilyId>,
    optimizer_shard: Option<FamilyId>,
    optimizer_replicas: Option<FamilyId>,
    refresh: Option<FamilyId>,
    overlap: Overlap,
    /// Gather and scatter calls of each unit, in forward order.
    units: BTreeMap<Unit, UnitCalls>,
    /// Whole-stage reduction, where it is not overlapped.
    rest: Option<ReductionCalls>,
    /// Reduction of each bucket, by the unit whose backward completes it.
    buckets: BTreeMap<Unit, ReductionCalls>,
    /// Refresh of each unit's parameters at the start of the step.
    refresh_calls: Vec<(Unit, CallId)>,
    /// Refresh operations that the unit's first forward waits for.
    refreshing: BTreeMap<Unit, OpId>,
    /// Gathers issued ahead of their use.
    gathered: BTreeMap<Unit, OpId>,
    /// Last kernels of the most recent units: a gather may run ahead by two units.
    history: [Option<OpId>; 2],
}

#[derive(Clone, Copy)]
struct UnitCalls {
    gather: CallId,
    scatter: CallId,
    /// Over the replicas of a gradient shard, after the last micro-batch.
    replica: CallId,
}

#[derive(Clone, Copy)]
enum ReductionCalls {
    /// Reduce-scatter over the optimizer shard group, then all-reduce over its replicas.
    Scatter(CallId, CallId),
    /// All-reduce over all replicas.
    All(CallId),
}

impl DataParallel {
    pub(super) fn new(lowering: &mut Lowering<'_>, stage: u32) -> Self {
        let plan = lowering.plan;
        let sharding = plan.sharding;
        let (model, tensor) = (lowering.model, plan.tensor);
        let reduce_bytes = lowering.recipe.gradient_reduce.bytes();
        let mut sizes: BTreeMap<Unit, u64> = BTreeMap::new();
        let layer = model.rank_parameters(1, tensor, false, false);
        for chunk in 0..plan.chunks {
            for index in 0..plan.layers_of(stage, chunk) {
                sizes.insert(Unit::Layer(chunk, index), layer);
            }
        }
        let (first, last) = (stage == 0, stage == plan.pipeline - 1);
        if first {
            sizes.insert(Unit::Embedding, model.rank_parameters(0, tensor, true, false));
        }
        if last {
            let both = model.rank_parameters(0, tensor, first, true);
            let embedding = if first { model.rank_parameters(0, tensor, true, false) } else { 0 };
            sizes.insert(Unit::Head, (both - embedding).max(1));
        }
        let units = sizes
            .iter()
            .map(|(unit, size)| {
                let shard = size.div_ceil(u64::from(sharding.gradients));
                let calls = UnitCalls {
                    gather: lowering.call("parameter gather", Collective::AllGather, size * 2),
                    scatter: lowering.call(
                        "gradient scatter",
                        Collective::ReduceScatter,
                        size * reduce_bytes,
                    ),
                    replica: lowering.call(
                        "gradient all-reduce",
                        Collective::AllReduce,
                        shard * reduce_bytes,
                    ),
                };
                (*unit, calls)
            })
            .collect();
        let sharded = sharding.gradients > 1;
        let overlapped = lowering.recipe.overlap.gradient_reduce;
        let bucket = lowering.recipe.bucket.max(1);
        let mut reduction = |parameters: u64| {
            let bytes = parameters * reduce_bytes;
            if sharding.optimizer > 1 {
                let shard = bytes.div_ceil(u64::from(sharding.optimizer));
                ReductionCalls::Scatter(
                    lowering.call("gradient scatter", Collective::ReduceScatter, bytes),
                    lowering.call("gradient all-reduce", Collective::AllReduce, shard),
                )
            } else {
                ReductionCalls::All(lowering.call(
                    "gradient all-reduce",
                    Collective::AllReduce,
                    bytes,
                ))
            }
        };
        let rest = (!sharded && !overlapped).then(|| reduction(sizes.values().sum()));
        // Buckets fill in backward order within a chunk: head, layers from the last, embedding.
        let mut buckets = BTreeMap::new();
        if !sharded && overlapped {
            let mut order: Vec<Unit> = Vec::new();
            for chunk in (0..plan.chunks).rev() {
                if last && chunk == plan.chunks - 1 {
                    order.push(Unit::Head);
                }
                let layers = plan.layers_of(stage, chunk);
                order.extend((0..layers).rev().map(|index| Unit::Layer(chunk, index)));
                if first && chunk == 0 {
                    order.push(Unit::Embedding);
                }
            }
            let mut filled = 0;
            for (i, unit) in order.iter().enumerate() {
                filled += sizes[unit];
                if filled * reduce_bytes >= bucket || i + 1 == order.len() {
                    buckets.insert(*unit, reduction(filled));
                    filled = 0;
                }
            }
        }
        let mut refresh_calls = Vec::new();
        if lowering.recipe.overlap.parameter_gather && lowering.families.refresh.is_some() {
            for (unit, size) in &sizes {
                let shard = size.div_ceil(u64::from(sharding.parameters));
                let call = lowering.call("parameter refresh", Collective::AllGather, shard * 2);
                refresh_calls.push((*unit, call));
            }
        }
        let families = &lowering.families;
        Self {
            parameter_shard: families.parameter_shard,
            gradient_shard: families.gradient_shard,
            gradient_replicas: families.gradient_replicas,
            optimizer_shard: families.optimizer_shard,
            optimizer_replicas: families.optimizer_replicas,
            refresh: families.refresh,
            overlap: lowering.recipe.overlap.clone(),
            units,
            rest,
            buckets,
            refresh_calls,
            refreshing: BTreeMap::new(),
            gathered: BTreeMap::new(),
            history: [None, None],
        }
    }

    /// Gathers of updated parameters, overlapped with the first forward passes.
    pub(super) fn refresh_at_start(&mut self, builder: &mut StageBuilder) {
        if let Some(family) = self.refresh {
            builder.phase = Phase::Optimizer;
            for (unit, call) in &self.refresh_calls {
                self.refreshing.insert(*unit, builder.data(family, *call, false));
            }
        }
    }

    fn gather(&mut self, builder: &mut StageBuilder, unit: Unit) {
        let (Some(family), Some(calls)) = (self.parameter_shard, self.units.get(&unit)) else {
            return;
        };
        if self.gathered.contains_key(&unit) {
            return;
        }
        // At most two units are gathered ahead, as the frameworks limit it to bound memory.
        let deps: Vec<OpId> = if self.overlap.parameter_gather {
            self.history[0].into_iter().collect()
        } else {
            builder.last_compute.into_iter().collect()
        };
        let action = Action::Meet { family, call: calls.gather };
        let op = builder.push(action, DATA, &deps);
        self.gathered.insert(unit, op);
    }

    pub(super) fn before_unit(&mut self, builder: &mut StageBuilder, unit: Unit, forward: bool) {
        if let Some(op) = self.refreshing.remove(&unit) {
            builder.pending.push(op);
        }
        if self.parameter_shard.is_none() {
            return;
        }
        self.gather(builder, unit);
        if let Some(op) = self.gathered.remove(&unit) {
            builder.pending.push(op);
        }
        if self.overlap.parameter_gather
            && let Some(next) = self.neighbour(unit, forward)
        {
            self.gather(builder, next);
        }
    }

    /// The unit whose parameters are needed next in the same pass.
    fn neighbour(&self, unit: Unit, forward: bool) -> Option<Unit> {
        if forward {
            self.units.range(unit..).nth(1).map(|(unit, _)| *unit)
        } else {
            self.units.range(..unit).next_back().map(|(unit, _)| *unit)
        }
    }

    pub(super) fn after_unit(
        &mut self,
        builder: &mut StageBuilder,
        unit: Unit,
        forward: bool,
        last: bool,
    ) {
        self.history = [self.history[1], builder.last_compute];
        if forward {
            return;
        }
        let Some(calls) = self.units.get(&unit).copied() else { return };
        if let Some(family) = self.gradient_shard {
            let blocking = !self.overlap.gradient_reduce;
            builder.data(family, calls.scatter, blocking);
            if last && let Some(family) = self.gradient_replicas {
                builder.data(family, calls.replica, blocking);
            }
        } else if last && let Some(reduction) = self.buckets.get(&unit).copied() {
            self.reduce(builder, reduction, false);
        }
    }

    fn reduce(&self, builder: &mut StageBuilder, reduction: ReductionCalls, blocking: bool) {
        match reduction {
            ReductionCalls::Scatter(scatter, all) => {
                if let Some(family) = self.optimizer_shard {
                    builder.data(family, scatter, blocking);
                }
                if let Some(family) = self.optimizer_replicas {
                    builder.data(family, all, blocking);
                }
            }
            ReductionCalls::All(call) => {
                if let Some(family) = self.gradient_replicas {
                    builder.data(family, call, blocking);
                }
            }
        }
    }

    /// After all backward passes: what was not overlapped; and the optimizer waits for it all.
    pub(super) fn reduce_rest(&mut self, builder: &mut StageBuilder) {
        if let Some(reduction) = self.rest {
            self.reduce(builder, reduction, true);
        }
        // The data lane runs in order, so its last operation stands for all of it.
        builder.pending.extend(builder.last_data);
    }
}
