//! From model and plan to a [`Program`]: one template per pipeline stage.

mod data_parallel;
mod stage;

use std::collections::BTreeMap;

use crate::hardware::{Fusion, GradientType, Overlap};
use crate::plan::{Axis, Pass, Plan};
use crate::program::{
    Action, CallId, Collective, CollectiveCall, Dimension, Family, FamilyId, Groups, HostWork,
    Kernel, KernelClass, KernelId, LaneId, LaneKind, Op, OpId, Phase, Program, Template,
    TemplateBuilder, TemplateId, Work,
};

use self::data_parallel::{DataParallel, Unit};
use self::stage::StageBuilder;
use super::config::Model;
use super::layer::{Item, LayerContext};

/// What the workload needs to know of software and numerics.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// What is fused.
    pub fusion: Fusion,
    /// What overlaps.
    pub overlap: Overlap,
    /// Largest gradient message in bytes, where the reduction overlaps.
    pub bucket: u64,
    /// Format of gradients on the wire.
    pub gradient_reduce: GradientType,
    /// Format of gradients between micro-batches.
    pub gradient_store: GradientType,
}

/// Builds the program of one training step.
#[must_use]
pub fn lower(model: &Model, plan: &Plan, layer: &LayerContext<'_>, recipe: &Recipe) -> Program {
    Lowering::new(model, plan, layer, recipe).build()
}

/// A pass with its kernels and calls already interned: what is appended thousands of times.
#[derive(Clone, Copy, Debug)]
enum Step {
    Kernel { id: KernelId, recompute: bool },
    Tensor { call: CallId, recompute: bool },
    TensorAsync { call: CallId },
    TensorWait,
}

/// Families of the plan, where they have more than one member.
#[derive(Debug, Default)]
struct Families {
    tensor: Option<FamilyId>,
    parameter_shard: Option<FamilyId>,
    gradient_shard: Option<FamilyId>,
    gradient_replicas: Option<FamilyId>,
    optimizer_shard: Option<FamilyId>,
    optimizer_replicas: Option<FamilyId>,
    refresh: Option<FamilyId>,
    world: Option<FamilyId>,
    tied: Option<FamilyId>,
    /// By (source stage, destination stage, is forward).
    pipeline: BTreeMap<(u32, u32, bool), FamilyId>,
}

struct Lowering<'a> {
    model: &'a Model,
    plan: &'a Plan,
    layer: &'a LayerContext<'a>,
    recipe: &'a Recipe,
    program: Program,
    kernels: BTreeMap<Kernel, KernelId>,
    calls: BTreeMap<CollectiveCall, CallId>,
    families: Families,
}

const COMPUTE: LaneId = LaneId(1);
const TENSOR: LaneId = LaneId(2);
const DATA: LaneId = LaneId(3);
const HOST: LaneId = LaneId(0);

fn lanes() -> Vec<(String, LaneKind)> {
    [
        ("host", LaneKind::Host),
        ("compute", LaneKind::Compute),
        ("tensor", LaneKind::Communication),
        ("data", LaneKind::Communication),
        ("pipeline receive forward", LaneKind::Communication),
        ("pipeline send forward", LaneKind::Communication),
        ("pipeline receive backward", LaneKind::Communication),
        ("pipeline send backward", LaneKind::Communication),
    ]
    .map(|(name, kind)| (name.to_owned(), kind))
    .to_vec()
}

impl<'a> Lowering<'a> {
    fn new(
        model: &'a Model,
        plan: &'a Plan,
        layer: &'a LayerContext<'a>,
        recipe: &'a Recipe,
    ) -> Self {
        Self {
            model,
            plan,
            layer,
            recipe,
            program: Program::default(),
            kernels: BTreeMap::new(),
            calls: BTreeMap::new(),
            families: Families::default(),
        }
    }

    fn build(mut self) -> Program {
        let world = self.plan.mesh.world_size();
        self.program.template_of_rank = (0..world)
            .map(|rank| TemplateId(self.plan.mesh.coordinate(rank, Axis::Pipeline)))
            .collect();
        self.make_families();
        for stage in 0..self.plan.pipeline {
            let template = self.stage(stage);
            self.program.templates.push(template);
        }
        self.program
    }

    fn family(&mut self, name: &str, dimension: Dimension, groups: Groups) -> Option<FamilyId> {
        if groups.iter().all(|group| group.len() < 2) {
            return None;
        }
        let id = FamilyId(self.program.families.len() as u32);
        self.program.families.push(Family { name: name.to_owned(), dimension, groups });
        Some(id)
    }

    fn make_families(&mut self) {
        let plan = self.plan;
        let mesh = &plan.mesh;
        let replicas = [Axis::Context, Axis::Data];
        let sharding = plan.sharding;
        let inner = |size| mesh.inner_groups(&replicas, size);
        let outer = |size| mesh.outer_groups(&replicas, size);
        self.families.tensor =
            self.family("tensor", Dimension::Tensor, mesh.groups(&[Axis::Tensor]));
        self.families.parameter_shard =
            self.family("parameter shard", Dimension::Data, inner(sharding.parameters));
        self.families.gradient_shard =
            self.family("gradient shard", Dimension::Data, inner(sharding.gradients));
        self.families.gradient_replicas =
            self.family("gradient replicas", Dimension::Data, outer(sharding.gradients));
        self.families.optimizer_shard =
            self.family("optimizer shard", Dimension::Data, inner(sharding.optimizer));
        self.families.optimizer_replicas =
            self.family("optimizer replicas", Dimension::Data, outer(sharding.optimizer));
        // After the optimizer step the ranks of an optimizer shard group that hold the same
        // parameter shard gather each other's updated parts.
        let step = sharding.parameters as usize;
        let refresh = Groups::new(
            inner(sharding.optimizer)
                .iter()
                .flat_map(|group| {
                    (0..step.min(group.len())).map(move |i| {
                        group.iter().copied().skip(i).step_by(step).collect::<Vec<_>>()
                    })
                })
                .collect::<Vec<_>>(),
        );
        self.families.refresh = self.family("parameter refresh", Dimension::Data, refresh);
        self.families.world = self.family(
            "world",
            Dimension::World,
            mesh.groups(&[Axis::Tensor, Axis::Context, Axis::Data, Axis::Pipeline]),
        );
        if plan.pipeline > 1 && self.model.tied_embeddings {
            let last = plan.pipeline - 1;
            let groups = Groups::new(
                (0..mesh.world_size())
                    .filter(|rank| mesh.coordinate(*rank, Axis::Pipeline) == 0)
                    .map(|rank| vec![rank, mesh.along(rank, Axis::Pipeline, last)])
                    .collect::<Vec<_>>(),
            );
            self.families.tied = self.family("tied embedding", Dimension::Data, groups);
        }
        for virtual_stage in 0..plan.pipeline * plan.chunks {
            let next = virtual_stage + 1;
            if next == plan.pipeline * plan.chunks || plan.pipeline == 1 {
                continue;
            }
            let (from, to) = (virtual_stage % plan.pipeline, next % plan.pipeline);
            for (source, target, forward) in [(from, to, true), (to, from, false)] {
                if self.families.pipeline.contains_key(&(source, target, forward)) {
                    continue;
                }
                let groups = Groups::new(
                    (0..mesh.world_size())
                        .filter(|rank| mesh.coordinate(*rank, Axis::Pipeline) == source)
                        .map(|rank| vec![rank, mesh.along(rank, Axis::Pipeline, target)])
                        .collect::<Vec<_>>(),
                );
                let way = if forward { "forward" } else { "backward" };
                let name = format!("pipeline {source}>{target} {way}");
                if let Some(id) = self.family(&name, Dimension::Pipeline, groups) {
                    self.families.pipeline.insert((source, target, forward), id);
                }
            }
        }
    }

    fn kernel(&mut self, name: &str, class: KernelClass, work: Work) -> KernelId {
        let kernel = Kernel { name: name.to_owned(), class, work };
        if let Some(id) = self.kernels.get(&kernel) {
            return *id;
        }
        let id = KernelId(self.program.kernels.len() as u32);
        self.program.kernels.push(kernel.clone());
        self.kernels.insert(kernel, id);
        id
    }

    fn call(&mut self, name: &str, collective: Collective, bytes: u64) -> CallId {
        let call = CollectiveCall { name: name.to_owned(), collective, bytes };
        if let Some(id) = self.calls.get(&call) {
            return *id;
        }
        let id = CallId(self.program.calls.len() as u32);
        self.program.calls.push(call.clone());
        self.calls.insert(call, id);
        id
    }

    fn intern(&mut self, items: &[Item]) -> Vec<Step> {
        items
            .iter()
            .map(|item| match item {
                Item::Kernel { name, class, work, recompute } => {
                    Step::Kernel { id: self.kernel(name, *class, *work), recompute: *recompute }
                }
                Item::Tensor { collective, bytes, recompute } => Step::Tensor {
                    call: self.call("tensor", *collective, *bytes),
                    recompute: *recompute,
                },
                Item::TensorAsync { collective, bytes } => {
                    Step::TensorAsync { call: self.call("tensor", *collective, *bytes) }
                }
                Item::TensorWait => Step::TensorWait,
            })
            .collect()
    }

    /// The template of a pipeline stage.
    fn stage(&mut self, stage: u32) -> Template {
        let plan = self.plan;
        let last_stage = plan.pipeline - 1;
        let passes = Passes {
            layer: [self.intern(&self.layer.forward()), self.intern(&self.layer.backward())],
            embedding: [
                self.intern(&self.layer.embedding_forward()),
                self.intern(&self.layer.embedding_backward()),
            ],
            head: [
                self.intern(&self.layer.head_forward()),
                self.intern(&self.layer.head_backward()),
            ],
        };
        let mut builder = StageBuilder {
            ops: TemplateBuilder::new(format!("stage {stage}"), lanes()),
            tensor_family: self.families.tensor,
            last_compute: None,
            pending: Vec::new(),
            asynchronous: None,
            unfinished_sends: Vec::new(),
            overdue_sends: Vec::new(),
            last_data: None,
            phase: Phase::Forward,
            micro_batch: Op::NO_MICRO_BATCH,
        };
        builder.host(HostWork::Step);
        let mut data = DataParallel::new(self, stage);
        data.refresh_at_start(&mut builder);

        let chunks = plan.chunks;
        let actions = plan.schedule.actions(stage, plan.pipeline, plan.micro_batches, chunks);
        for action in &actions {
            let (chunk, forward) = (action.chunk, action.pass == Pass::Forward);
            let virtual_stage = chunk * plan.pipeline + stage;
            let is_first = virtual_stage == 0;
            let is_last = virtual_stage == plan.pipeline * chunks - 1;
            builder.phase = if forward { Phase::Forward } else { Phase::Backward };
            builder.micro_batch = action.micro_batch;
            builder.host(HostWork::MicroBatch);
            // Interleaved 1F1B exchanges after a forward *and* a backward pass in one batch, so a
            // send has to be done by the second pass after it, not by the next.
            builder.pending.append(&mut builder.overdue_sends);
            builder.overdue_sends = std::mem::take(&mut builder.unfinished_sends);
            let previous = (stage + last_stage) % plan.pipeline;
            let following = (stage + 1) % plan.pipeline;
            // Receive what the pass needs.
            if forward && !is_first {
                self.receive(&mut builder, previous, stage, true);
            } else if !forward && !is_last {
                self.receive(&mut builder, following, stage, false);
            }
            let layers = plan.layers_of(stage, chunk);
            let final_backward = !forward && action.micro_batch == plan.micro_batches - 1;
            if forward {
                if is_first {
                    data.before_unit(&mut builder, Unit::Embedding, forward);
                    builder.steps(&passes.embedding[0]);
                    data.after_unit(&mut builder, Unit::Embedding, forward, false);
                }
                for layer in 0..layers {
                    data.before_unit(&mut builder, Unit::Layer(chunk, layer), forward);
                    builder.steps(&passes.layer[0]);
                    data.after_unit(&mut builder, Unit::Layer(chunk, layer), forward, false);
                }
                if is_last {
                    data.before_unit(&mut builder, Unit::Head, forward);
                    builder.steps(&passes.head[0]);
                    data.after_unit(&mut builder, Unit::Head, forward, false);
                }
            } else {
                if is_last {
                    data.before_unit(&mut builder, Unit::Head, forward);
                    builder.steps(&passes.head[1]);
                    data.after_unit(&mut builder, Unit::Head, forward, final_backward);
                }
                for layer in (0..layers).rev() {
                    data.before_unit(&mut builder, Unit::Layer(chunk, layer), forward);
                    builder.steps(&passes.layer[1]);
                    data.after_unit(
                        &mut builder,
                        Unit::Layer(chunk, layer),
                        forward,
                        final_backward,
                    );
                }
                if is_first {
                    data.before_unit(&mut builder, Unit::Embedding, forward);
                    builder.steps(&passes.embedding[1]);
                    data.after_unit(&mut builder, Unit::Embedding, forward, final_backward);
                }
            }
            // Hand the result on.
            if forward && !is_last {
                self.send(&mut builder, stage, following, true);
            } else if !forward && !is_first {
                self.send(&mut builder, stage, previous, false);
            }
        }
        builder.phase = Phase::Optimizer;
        builder.micro_batch = Op::NO_MICRO_BATCH;
        data.reduce_rest(&mut builder);
        self.optimizer(&mut builder, stage);
        builder.ops.finish()
    }

    fn pipeline_call(&mut self) -> CallId {
        // With tensor parallelism each rank sends its part; without sequence parallelism the parts
        // are gathered inside the tensor group (Narayanan et al. 2021, section 4.1).
        let bytes = self.layer.stream_bytes() / u64::from(self.plan.tensor);
        self.call("pipeline", Collective::SendRecv, bytes.max(1))
    }

    fn receive(&mut self, builder: &mut StageBuilder, from: u32, to: u32, forward: bool) {
        let call = self.pipeline_call();
        let Some(family) = self.families.pipeline.get(&(from, to, forward)).copied() else {
            return;
        };
        let lane = LaneId(if forward { 4 } else { 6 });
        // Where sends and receives are not overlapped, the receive waits for the compute stream.
        let deps: Vec<OpId> = if self.recipe.overlap.pipeline {
            Vec::new()
        } else {
            builder.last_compute.into_iter().collect()
        };
        let op = builder.push(Action::Meet { family, call }, lane, &deps);
        builder.pending.push(op);
        if self.plan.tensor > 1 && !self.plan.sequence_parallel {
            let bytes = self.layer.stream_bytes();
            let gather = self.call("pipeline gather", Collective::AllGather, bytes);
            builder.tensor(gather);
        }
    }

    fn send(&mut self, builder: &mut StageBuilder, from: u32, to: u32, forward: bool) {
        let call = self.pipeline_call();
        let Some(family) = self.families.pipeline.get(&(from, to, forward)).copied() else {
            return;
        };
        let lane = LaneId(if forward { 5 } else { 7 });
        let mut deps: Vec<OpId> = builder.last_compute.into_iter().collect();
        deps.extend(builder.pending.iter().copied());
        let op = builder.push(Action::Meet { family, call }, lane, &deps);
        if self.recipe.overlap.pipeline {
            return;
        }
        if self.plan.chunks == 1 {
            builder.pending.push(op);
        } else {
            builder.unfinished_sends.push(op);
        }
    }

    /// Gradient norm, optimizer, refresh of parameters.
    fn optimizer(&mut self, builder: &mut StageBuilder, stage: u32) {
        let plan = self.plan;
        let parameters = self.rank_parameters(stage);
        let layers = (0..plan.chunks).map(|chunk| plan.layers_of(stage, chunk)).sum::<u32>().max(1);
        if let Some(family) = self.families.tied
            && (stage == 0 || stage == plan.pipeline - 1)
        {
            let bytes = self.model.vocabulary_parameters().div_ceil(u64::from(plan.tensor))
                * self.recipe.gradient_reduce.bytes();
            let call = self.call("tied embedding", Collective::AllReduce, bytes);
            builder.data(family, call, true);
        }
        let owned = parameters.div_ceil(u64::from(plan.sharding.optimizer));
        let store = self.recipe.gradient_store.bytes();
        let launches = if self.recipe.fusion.optimizer { 2 } else { 2 * layers };
        let norm = self.kernel(
            "gradient norm",
            KernelClass::Optimizer,
            Work::Stream { bytes: owned * store, launches },
        );
        builder.compute(norm, Phase::Optimizer);
        if let Some(family) = self.families.world {
            let call = self.call("gradient norm", Collective::AllReduce, 8);
            builder.data(family, call, true);
        }
        builder.host_wait();
        // Adam: gradient read; fp32 master, two moments read and written; 16-bit copy written.
        // Without a fused kernel every term of the update is a pass of its own.
        let bytes = owned * (store + 24 + 2);
        let (bytes, launches) =
            if self.recipe.fusion.optimizer { (bytes, 4) } else { (bytes * 3, 12 * layers * 4) };
        let adam = self.kernel("adam", KernelClass::Optimizer, Work::Stream { bytes, launches });
        builder.compute(adam, Phase::Optimizer);
        if let Some(family) = self.families.refresh
            && !self.recipe.overlap.parameter_gather
        {
            let shard = parameters.div_ceil(u64::from(plan.sharding.parameters));
            let call = self.call("parameter refresh", Collective::AllGather, shard * 2);
            builder.data(family, call, true);
        }
        builder.host_wait();
    }

    fn rank_parameters(&self, stage: u32) -> u64 {
        let plan = self.plan;
        let layers = (0..plan.chunks).map(|chunk| plan.layers_of(stage, chunk)).sum();
        self.model.rank_parameters(layers, plan.tensor, stage == 0, stage == plan.pipeline - 1)
    }
}

struct Passes {
    layer: [Vec<Step>; 2],
    embedding: [Vec<Step>; 2],
    head: [Vec<Step>; 2],
}
