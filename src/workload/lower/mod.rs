//! From model and plan to a [`Program`]: one template per pipeline stage.

mod data_parallel;
mod passes;
mod stage;

use std::collections::{BTreeMap, BTreeSet};

use crate::hardware::{Fusion, GradientType, Graphs, Overlap};
use crate::plan::{Axis, Plan, Sharding};
use crate::program::{
    CallId, Collective, CollectiveCall, Dimension, Family, FamilyId, Fanout, Groups, HostWork,
    Kernel, KernelClass, KernelId, LaneId, LaneKind, Op, Phase, Program, Template, TemplateBuilder,
    TemplateId, Work,
};

use self::data_parallel::DataParallel;
pub(super) use self::data_parallel::Unit;
use self::passes::Passes;
use self::stage::{StageBuilder, Strand};
use super::layer::{Group, Item, LayerContext};
use super::model::{LayerKind, Model, Parameters, RankParameters};

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
    /// Gradients in compute precision stay allocated beside those between micro-batches.
    pub gradients_beside_store: bool,
    /// Bits of a parameter on the wire when sharded parameters are gathered.
    pub gather_bits: u32,
    /// Bits of a gradient on the wire, where it is quantised for the reduction.
    pub reduce_bits: Option<u32>,
    /// Every owner broadcasts its updated parameters, one after the other.
    pub refresh_by_broadcast: bool,
    /// Tokens for several experts of a node cross to it once.
    pub dispatch_per_node: bool,
    /// What CUDA graphs capture.
    pub graphs: Graphs,
}

/// Elements that share one fp32 scale in quantised messages (ZeRO++, arXiv 2306.10209, 3.1).
const QUANTISATION_BLOCK: u64 = 256;

impl Recipe {
    /// Bytes of `elements` gathered parameters on the wire.
    #[must_use]
    pub fn gather_bytes(&self, elements: u64) -> u64 {
        quantised_bytes(elements, self.gather_bits)
    }

    /// Bytes of `elements` reduced gradients on the wire.
    #[must_use]
    pub fn reduce_bytes(&self, elements: u64) -> u64 {
        match self.reduce_bits {
            Some(bits) => quantised_bytes(elements, bits),
            None => elements * self.gradient_reduce.bytes(),
        }
    }
}

/// Bytes of `elements` at `bits` each; below 16 bits with the scales of the blocks.
fn quantised_bytes(elements: u64, bits: u32) -> u64 {
    let plain = (elements * u64::from(bits)).div_ceil(8);
    if bits < 16 { plain + elements.div_ceil(QUANTISATION_BLOCK) * 4 } else { plain }
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
    Meet { group: Group, call: CallId, recompute: bool },
    MeetAsync { group: Group, call: CallId },
    Wait,
    HostWait,
}

/// Families of the ranks that replicate (and may shard) a set of parameters.
#[derive(Clone, Copy, Debug, Default)]
struct PoolFamilies {
    parameter_shard: Option<FamilyId>,
    gradient_shard: Option<FamilyId>,
    gradient_replicas: Option<FamilyId>,
    /// Ranks of an optimizer shard group that hold the same gradient shard.
    gradient_rest: Option<FamilyId>,
    optimizer_shard: Option<FamilyId>,
    optimizer_replicas: Option<FamilyId>,
    refresh: Option<FamilyId>,
}

/// Families of the plan, where they have more than one member.
#[derive(Debug, Default)]
struct Families {
    tensor: Option<FamilyId>,
    context: Option<FamilyId>,
    expert: Option<FamilyId>,
    /// Replicas of everything but routed experts.
    dense_pool: PoolFamilies,
    /// Replicas of routed experts.
    expert_pool: PoolFamilies,
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
const RECEIVE_FORWARD: LaneId = LaneId(4);
const SEND_FORWARD: LaneId = LaneId(5);
const RECEIVE_BACKWARD: LaneId = LaneId(6);
const SEND_BACKWARD: LaneId = LaneId(7);
const CONTEXT: LaneId = LaneId(8);
const EXPERT: LaneId = LaneId(9);

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
        ("context", LaneKind::Communication),
        ("expert", LaneKind::Communication),
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

    fn pool(
        &mut self,
        what: &str,
        dimension: Dimension,
        replicas: &Groups,
        sharding: Sharding,
    ) -> PoolFamilies {
        let mut family =
            |name: &str, groups: Groups| self.family(&format!("{what}{name}"), dimension, groups);
        // After the optimizer step the ranks of an optimizer shard group that hold the same
        // parameter shard gather each other's updated parts.
        let refresh = replicas.runs(sharding.optimizer).across_runs(sharding.parameters);
        PoolFamilies {
            parameter_shard: family("parameter shard", replicas.runs(sharding.parameters)),
            gradient_shard: family("gradient shard", replicas.runs(sharding.gradients)),
            gradient_replicas: family(
                "gradient replicas",
                replicas.across_runs(sharding.gradients),
            ),
            gradient_rest: family(
                "gradient rest",
                replicas
                    .across_runs(sharding.gradients)
                    .runs(sharding.optimizer / sharding.gradients),
            ),
            optimizer_shard: family("optimizer shard", replicas.runs(sharding.optimizer)),
            optimizer_replicas: family(
                "optimizer replicas",
                replicas.across_runs(sharding.optimizer),
            ),
            refresh: family("parameter refresh", refresh),
        }
    }

    fn make_families(&mut self) {
        let plan = self.plan;
        let mesh = &plan.mesh;
        self.families.tensor =
            self.family("tensor", Dimension::Tensor, mesh.groups(&[Axis::Tensor]));
        self.families.context =
            self.family("context", Dimension::Context, mesh.groups(&[Axis::Context]));
        let replicas = mesh.groups(&[Axis::Context, Axis::Data]);
        self.families.dense_pool = self.pool("", Dimension::Data, &replicas, plan.sharding);
        if self.model.moe.is_some() {
            let ranks = mesh.groups(plan.expert_axes());
            self.families.expert =
                self.family("expert", Dimension::Expert, ranks.runs(plan.expert));
            let holders = ranks.across_runs(plan.expert);
            self.families.expert_pool =
                self.pool("expert ", Dimension::Data, &holders, plan.expert_sharding());
        }
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
        self.call_in(name, collective, bytes, 1)
    }

    fn call_in(&mut self, name: &str, collective: Collective, bytes: u64, messages: u32) -> CallId {
        // The only all-to-all is the exchange between experts.
        let fanout = self
            .model
            .moe
            .filter(|_| collective == Collective::AllToAll && self.recipe.dispatch_per_node)
            .map(|moe| Fanout { copies: moe.top_k, nodes: moe.node_limit });
        let call = CollectiveCall {
            name: name.to_owned(),
            collective,
            bytes,
            messages,
            fanout,
            recorded: None,
        };
        if let Some(id) = self.calls.get(&call) {
            return *id;
        }
        let id = CallId(self.program.calls.len() as u32);
        self.program.calls.push(call.clone());
        self.calls.insert(call, id);
        id
    }

    fn intern(&mut self, items: &[Item]) -> Vec<Step> {
        // A captured step has no room for the host: the device goes on by itself.
        let waits = self.recipe.graphs != Graphs::Step;
        items
            .iter()
            .filter(|item| waits || !matches!(item, Item::HostWait))
            .map(|item| match item {
                Item::Kernel { name, class, work, recompute } => {
                    Step::Kernel { id: self.kernel(name, *class, *work), recompute: *recompute }
                }
                Item::Meet { group, collective, bytes, recompute } => Step::Meet {
                    group: *group,
                    call: self.call(group.name(), *collective, *bytes),
                    recompute: *recompute,
                },
                Item::MeetAsync { group, collective, bytes } => Step::MeetAsync {
                    group: *group,
                    call: self.call(group.name(), *collective, *bytes),
                },
                Item::Wait => Step::Wait,
                Item::HostWait => Step::HostWait,
            })
            .collect()
    }

    /// Adds the gradients of a layer and micro-batch to those of the micro-batches before, where the
    /// weight-gradient GEMM does not do so itself.
    fn accumulation(&mut self, kind: LayerKind) -> Option<Step> {
        if self.recipe.fusion.gradient_accumulation {
            return None;
        }
        let plan = self.plan;
        let parameters = self
            .model
            .trained_parameters(kind)
            .on_rank(plan.tensor, plan.expert * plan.expert_tensor);
        let elements = parameters.dense.div_ceil(u64::from(plan.sharding.gradients))
            + parameters.expert.div_ceil(u64::from(plan.expert_sharding().gradients));
        let (fresh, store) = (2, self.recipe.gradient_store.bytes());
        // Read the new gradient, read and write the sum; the first is only copied, and not even
        // that in the format it has.
        let bytes = match (plan.micro_batches, store > fresh) {
            (1, false) => return None,
            (1, true) => fresh + store,
            _ => fresh + 2 * store,
        };
        let work = Work::Stream { bytes: elements * bytes, launches: 1 };
        let id = self.kernel("gradient accumulation", KernelClass::Elementwise, work);
        Some(Step::Kernel { id, recompute: false })
    }

    /// The template of a pipeline stage.
    fn stage(&mut self, stage: u32) -> Template {
        let plan = self.plan;
        let chunks = plan.chunks;
        let kinds: BTreeSet<LayerKind> = (0..chunks)
            .flat_map(|chunk| {
                let first = plan.first_layer_of(stage, chunk);
                first..first + plan.layers_of(stage, chunk)
            })
            .map(|index| self.model.layer_kind(index))
            .collect();
        let passes = Passes {
            layer: kinds
                .into_iter()
                .map(|kind| {
                    let mut backward = self.intern(&self.layer.backward(kind));
                    backward.extend(self.accumulation(kind));
                    (kind, [self.intern(&self.layer.forward(kind)), backward])
                })
                .collect(),
            embedding: [
                self.intern(&self.layer.embedding_forward()),
                self.intern(&self.layer.embedding_backward()),
            ],
            head: [
                self.intern(&self.layer.head_forward()),
                self.intern(&self.layer.head_backward()),
            ],
            prediction: [
                self.intern(&self.layer.prediction_forward()),
                self.intern(&self.layer.prediction_backward()),
            ],
        };
        let mut builder = StageBuilder {
            ops: TemplateBuilder::new(format!("stage {stage}"), lanes()),
            tensor_family: self.families.tensor,
            context_family: self.families.context,
            expert_family: self.families.expert,
            strand: Strand { micro_batch: Op::NO_MICRO_BATCH, ..Strand::default() },
            unfinished_sends: Vec::new(),
            overdue_sends: Vec::new(),
            last_data: None,
        };
        builder.host(HostWork::Step);
        let mut data = DataParallel::new(self, stage);
        data.refresh_at_start(&mut builder);

        self.passes(&mut builder, &mut data, &passes, stage);
        builder.strand.phase = Phase::Optimizer;
        builder.strand.micro_batch = Op::NO_MICRO_BATCH;
        data.reduce_rest(&mut builder);
        self.optimizer(&mut builder, stage);
        builder.ops.finish()
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
        let owned = parameters.dense.div_ceil(u64::from(plan.sharding.optimizer))
            + parameters.expert.div_ceil(u64::from(plan.expert_sharding().optimizer));
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
        if !self.recipe.overlap.parameter_gather {
            let pools = [
                (self.families.dense_pool.refresh, parameters.dense, plan.sharding),
                (self.families.expert_pool.refresh, parameters.expert, plan.expert_sharding()),
            ];
            for (family, count, sharding) in pools {
                if let Some(family) = family {
                    let shard = count.div_ceil(u64::from(sharding.parameters));
                    let bytes = self.recipe.gather_bytes(shard);
                    let call = if self.recipe.refresh_by_broadcast {
                        let owners = (sharding.optimizer / sharding.parameters).max(1);
                        self.call_in("parameter refresh", Collective::Broadcast, bytes, owners)
                    } else {
                        self.call("parameter refresh", Collective::AllGather, bytes)
                    };
                    builder.data(family, call, true);
                }
            }
        }
        builder.host_wait();
    }

    fn rank_parameters(&self, stage: u32) -> RankParameters {
        trained_parameters(self.model, self.plan, stage).into_values().sum()
    }
}

/// Parameters of one rank of a stage by the units in which they are gathered and reduced, before
/// sharding over replicas.
pub(super) fn stage_parameters(
    model: &Model,
    plan: &Plan,
    stage: u32,
) -> BTreeMap<Unit, RankParameters> {
    units_of(model, plan, stage, |kind| model.layer_parameters(kind), false)
}

/// The same of the layers alone.
pub(super) fn stage_layers(
    model: &Model,
    plan: &Plan,
    stage: u32,
) -> BTreeMap<Unit, RankParameters> {
    units_of(model, plan, stage, |kind| model.layer_parameters(kind), true)
}

/// The same of the parameters that are trained: adapters where the model is frozen.
pub(super) fn trained_parameters(
    model: &Model,
    plan: &Plan,
    stage: u32,
) -> BTreeMap<Unit, RankParameters> {
    let frozen = model.adapter_rank.is_some();
    units_of(model, plan, stage, |kind| model.trained_parameters(kind), frozen)
}

fn units_of(
    model: &Model,
    plan: &Plan,
    stage: u32,
    of_layer: impl Fn(LayerKind) -> Parameters,
    layers_only: bool,
) -> BTreeMap<Unit, RankParameters> {
    let on_rank =
        |parameters: Parameters| parameters.on_rank(plan.tensor, plan.expert * plan.expert_tensor);
    let (first, last) = (stage == 0, stage == plan.pipeline - 1);
    let mut units = BTreeMap::new();
    for chunk in 0..plan.chunks {
        let first_layer = plan.first_layer_of(stage, chunk);
        for layer in 0..plan.layers_of(stage, chunk) {
            let kind = model.layer_kind(first_layer + layer);
            units.insert(Unit::Layer(chunk, layer), on_rank(of_layer(kind)));
        }
    }
    if layers_only {
        return units;
    }
    if first {
        units.insert(Unit::Embedding, on_rank(model.embedding_parameters()));
    }
    if last {
        // A tied matrix has a second copy where first and last stage are different ranks.
        let tied = model.tied_embeddings && first;
        units.insert(Unit::Head, on_rank(model.head_parameters(tied)));
        for module in 0..model.mtp_modules {
            units.insert(Unit::Prediction(module), on_rank(model.mtp_parameters()));
        }
    }
    units
}
