//! From a scenario to everything the simulator needs, with names looked up and checked.

use crate::error::{Error, InputError, PlanError, Result};
use crate::hardware::{
    Accelerator, AttentionKernel, Catalogue, Dispatch, Fabric, GradientType, Grid, Node,
    PriceSheet, Stack,
};
use crate::input::Document;
use crate::plan::{DEFAULT_ORDER, Plan, PlanRequest, Sharding};
use crate::program::Precision;
use crate::timing::MeasuredKernels;
use crate::units::Watts;
use crate::workload::{Model, Recipe};

use super::files::{Files, NamedFile};
use super::network::{self, Network};
use super::{DEFAULT_GRID, Scenario, ShardingScheme, kernels, limits};

/// A scenario whose names are looked up and whose plan multiplies out.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// The scenario as written.
    pub scenario: Scenario,
    /// Model shape.
    pub model: Model,
    /// Device.
    pub accelerator: &'a Accelerator,
    /// Server.
    pub node: &'a Node,
    /// Network between nodes.
    pub fabric: Option<&'a Fabric>,
    /// How messages travel, with names looked up.
    pub network: Network<'a>,
    /// Software.
    pub stack: &'a Stack,
    /// Devices used.
    pub devices: u32,
    /// Parallel plan.
    pub plan: Plan,
    /// Attention kernels.
    pub attention: AttentionKernel,
    /// Fusion, overlap and formats after the scenario's switches.
    pub recipe: Recipe,
    /// Measured kernels that come before the models.
    pub measured: Option<MeasuredKernels>,
    /// What of their tables is not used, in words.
    pub unused_rows: Vec<String>,
    /// Files that the scenario names.
    pub files: Vec<NamedFile>,
    /// Prices and grid.
    pub account: Account<'a>,
}

impl Setup<'_> {
    /// Power cap of a device, where the scenario sets one.
    #[must_use]
    pub fn power_cap(&self) -> Option<Watts> {
        self.scenario.cluster.power_cap_w.map(Watts)
    }
}

/// What costs and emissions are computed with.
#[derive(Clone, Copy, Debug)]
pub struct Account<'a> {
    /// Price sheet, if the catalogue has one.
    pub prices: Option<&'a PriceSheet>,
    /// Grid, if the catalogue has it.
    pub grid: Option<&'a Grid>,
    /// The scenario named the grid.
    pub grid_chosen: bool,
}

/// Resolves a scenario document.
///
/// # Errors
/// A key is wrong, a name is unknown, or the plan is impossible; with its place in the file.
pub fn resolve<'a>(document: &Document, catalogue: &'a Catalogue) -> Result<Setup<'a>> {
    let scenario: Scenario = document.decode()?;
    let at = |key: &str, message: &str, hint: Option<String>| document.error_at(key, message, hint);
    // Puts the place of a key under an error of a catalogue look-up.
    let place = |key: &str, error: Error| {
        let text = error.to_string();
        let (message, hint) = text.split_once("\n  help: ").unwrap_or((&text, ""));
        at(key, message, (!hint.is_empty()).then(|| hint.to_owned()))
    };

    let sequence = scenario.training.sequence_length;
    if sequence == 0 {
        return Err(at("training.sequence_length", "must be at least 1", None));
    }
    let shape = match &scenario.model.preset {
        None => scenario.model.shape.clone(),
        Some(preset) => catalogue
            .model(preset)
            .map_err(|e| place("model.preset", e))?
            .shape
            .overlaid(&scenario.model.shape),
    };
    let mut model = shape.complete(sequence).map_err(|(key, message)| {
        at(&format!("model.shape.{key}"), &format!("{key} {message}"), None)
    })?;
    if scenario.training.adapter_rank == Some(0) {
        return Err(at("training.adapter_rank", "must be at least 1, or absent", None));
    }
    if scenario.training.adapter_rank.is_some_and(|rank| rank > model.hidden) {
        let message = format!("must not be above the model's width of {}", model.hidden);
        return Err(at("training.adapter_rank", &message, None));
    }
    model.adapter_rank = scenario.training.adapter_rank;
    limits::check_model(&model)
        .map_err(|(key, message)| at(&format!("model.shape.{key}"), &message, None))?;

    let cluster = &scenario.cluster;
    let node = catalogue.node(&cluster.node).map_err(|e| place("cluster.node", e))?;
    let accelerator =
        catalogue.accelerator(&node.accelerator).map_err(|e| place("cluster.node", e))?;
    if cluster.nodes == 0 {
        return Err(at("cluster.nodes", "must be at least 1", None));
    }
    let all = cluster.nodes.saturating_mul(node.devices);
    let devices = cluster.devices.unwrap_or(all);
    if devices == 0 || devices > all {
        return Err(at(
            "cluster.devices",
            &format!(
                "{devices} devices, and {} nodes of {} have {all}",
                cluster.nodes, node.devices
            ),
            Some(format!("between 1 and {all}, or more nodes")),
        ));
    }
    if let Some(cap) = cluster.power_cap_w {
        let (idle, limit) = (accelerator.power.idle.value.0, accelerator.power.limit.value.0);
        if !(cap > idle && cap <= limit) {
            let message = format!(
                "must lie above the {idle} W that an idle {} draws, and not above its limit of \
                 {limit} W",
                accelerator.name
            );
            return Err(at("cluster.power_cap_w", &message, None));
        }
    }
    let fabric = match &cluster.fabric {
        Some(name) => Some(catalogue.fabric(name).map_err(|e| place("cluster.fabric", e))?),
        None if devices > node.scale_up.domain.max(node.devices) => {
            return Err(at(
                "cluster",
                &format!("{devices} devices span several nodes, and no fabric is named"),
                Some("add fabric = \"...\"; `trainyard hw list fabrics` shows them".into()),
            ));
        }
        None => None,
    };
    let software = &scenario.software;
    let stack = catalogue.stack(&software.stack).map_err(|e| place("software.stack", e))?;

    if software.dispatch.is_some() && model.moe.is_none() {
        return Err(at("software.dispatch", "has no effect, since the model has no experts", None));
    }
    if software.overlap_experts == Some(true) && model.moe.is_none() {
        let message = "has no effect, since the model has no experts";
        return Err(at("software.overlap_experts", message, None));
    }
    let usual = stack.recipe_for(&accelerator.name);
    let dispatch = software.dispatch.unwrap_or(stack.dispatch_on(&accelerator.name));
    // A preset says how its router was trained; who writes the key expects it to matter.
    if scenario.model.shape.moe.is_some_and(|moe| moe.node_limit > 0)
        && dispatch != Dispatch::PerNode
    {
        return Err(at(
            "model.shape.moe.node_limit",
            "has no effect, since every expert's copy of a token travels by itself",
            Some("add software.dispatch = \"per_node\", or leave node_limit out".into()),
        ));
    }
    let table = &scenario.plan;
    limits::check_work(&scenario, &model, devices)
        .map_err(|(key, message)| at(key, &message, None))?;
    let group = table.shard_group.unwrap_or(0);
    for (key, size) in [
        ("plan.shard_group", table.shard_group),
        ("plan.parameter_shard", table.parameter_shard),
        ("plan.gradient_shard", table.gradient_shard),
        ("plan.optimizer_shard", table.optimizer_shard),
    ] {
        if size == Some(0) {
            return Err(at(key, "must be at least 1", None));
        }
    }
    if table.shard_group.is_some() && table.sharding == ShardingScheme::None {
        return Err(at(
            "plan.shard_group",
            "has no effect, since nothing is sharded",
            Some("add plan.sharding, or leave shard_group out".into()),
        ));
    }
    let scheme = match table.sharding {
        ShardingScheme::None => (1, 1, 1),
        ShardingScheme::Zero1 => (1, 1, group),
        ShardingScheme::Zero2 => (1, group, group),
        ShardingScheme::Zero3 => (group, group, group),
    };
    let request = PlanRequest {
        devices,
        tensor: table.tensor_parallel,
        context: table.context_parallel,
        expert: table.expert_parallel,
        expert_tensor: table.expert_tensor_parallel,
        pipeline: table.pipeline_parallel,
        data: table.data_parallel,
        chunks: table.virtual_stages,
        schedule: table.schedule,
        micro_batch: table.micro_batch,
        global_batch: scenario.training.global_batch,
        sequence_parallel: table.sequence_parallel,
        sharding: Sharding {
            parameters: table.parameter_shard.unwrap_or(scheme.0),
            gradients: table.gradient_shard.unwrap_or(scheme.1),
            optimizer: table.optimizer_shard.unwrap_or(scheme.2),
        },
        recompute: table.recompute,
        layers_per_stage: table.layers_per_stage.clone(),
        order: table.rank_order.unwrap_or(DEFAULT_ORDER),
        layers: model.layers,
        heads: model.heads,
        kv_heads: model.kv_heads,
        experts: model.moe.map_or(0, |moe| moe.experts),
        sequence,
        embedding_as_layer: table.embedding_as_layer,
        head_as_layer: table.head_as_layer,
    };
    let mut axes = request.order.to_vec();
    axes.sort_unstable();
    axes.dedup();
    if axes.len() != request.order.len() {
        return Err(at("plan.rank_order", "every axis must appear once", None));
    }
    let mut plan = Plan::resolve(&request).map_err(|e| plan_error(document, &e))?;

    let mut fusion = stack.fusion.clone();
    fusion.dropout = software.dropout.unwrap_or(fusion.dropout);
    let mut overlap = stack.overlap.clone();
    // Megatron-Core takes turns under pipeline parallelism in interleaved schedules only.
    let takes_turns = plan.pipeline == 1 || plan.chunks > 1;
    overlap.experts |= takes_turns && usual.is_some_and(|recipe| recipe.overlap_experts);
    let graphs = software.graphs.or(usual.map(|recipe| recipe.graphs)).unwrap_or_default();
    for (switch, over) in [
        (&mut overlap.gradient_reduce, software.overlap_gradient_reduce),
        (&mut overlap.parameter_gather, software.overlap_parameter_gather),
        (&mut overlap.tensor_backward, software.overlap_tensor),
        (&mut overlap.pipeline, software.overlap_pipeline),
        (&mut overlap.context, software.overlap_context),
        (&mut overlap.experts, software.overlap_experts),
    ] {
        *switch = over.unwrap_or(*switch);
    }
    overlap.experts &= model.moe.is_some() && plan.expert > 1;
    plan.passes_take_turns = overlap.experts;
    let bucket = software.bucket_mb.map_or(stack.bucket.value.0, |mb| mb * 1e6);
    // In fp32 training there is no narrower copy of anything.
    let wide = scenario.training.precision == Precision::Fp32;
    let gradient = |of_stack| if wide { GradientType::Fp32 } else { of_stack };
    let bf16 = stack.bf16_gradients.filter(|_| scenario.training.precision == Precision::Bf16);
    let recipe = Recipe {
        fusion,
        overlap,
        bucket: bucket as u64,
        gradient_reduce: gradient(bf16.map_or(stack.gradient_reduce, |bf16| bf16.reduce)),
        gradient_store: gradient(bf16.map_or(stack.gradient_store, |bf16| bf16.store)),
        gradients_beside_store: bf16.is_some_and(|bf16| bf16.beside),
        gather_bits: table.gather_bits.unwrap_or(if wide { 32 } else { 16 }),
        reduce_bits: table.reduce_bits.filter(|bits| *bits < 16),
        refresh_by_broadcast: stack.broadcast_turn.is_some(),
        dispatch_per_node: dispatch == Dispatch::PerNode,
        graphs,
    };
    for (key, bits) in [("gather_bits", table.gather_bits), ("reduce_bits", table.reduce_bits)] {
        if bits.is_some_and(|bits| ![4, 8, 16].contains(&bits)) {
            return Err(at(&format!("plan.{key}"), "must be 16, 8 or 4", None));
        }
    }

    let mut files = Files::beside(document);
    let (measured, unused_rows) =
        kernels::resolve(&scenario.software, catalogue, accelerator, &mut files).map_err(
            |(key, error)| match error {
                Error::Input(_) => error,
                other => place(key, other),
            },
        )?;
    let hardware = (node, fabric, stack);
    let network = network::resolve(&scenario, catalogue, hardware, devices, &mut files).map_err(
        |(key, error)| match error {
            // Of a file that the scenario names, with its own place.
            Error::Input(_) => error,
            other => place(key, other),
        },
    )?;

    let accounts = &scenario.account;
    let prices = match &accounts.prices {
        Some(name) => Some(catalogue.prices(name).map_err(|e| place("account.prices", e))?),
        None => catalogue.prices.values().next_back().map(|entry| &entry.item),
    };
    let grid = match &accounts.grid {
        Some(name) => Some(catalogue.grid(name).map_err(|e| place("account.grid", e))?),
        None => catalogue.grid(DEFAULT_GRID).ok(),
    };
    limits::check_numbers(&scenario).map_err(|(key, message)| at(key, &message, None))?;
    Ok(Setup {
        attention: software.attention.unwrap_or(stack.attention),
        account: Account { prices, grid, grid_chosen: accounts.grid.is_some() },
        scenario,
        model,
        accelerator,
        node,
        fabric,
        network,
        stack,
        devices,
        plan,
        recipe,
        measured,
        unused_rows,
        files: files.into_read(),
    })
}

fn plan_error(document: &Document, error: &PlanError) -> Error {
    let key = match error.key.as_str() {
        "plan.global_batch" => "training.global_batch",
        "plan.devices" => "cluster.devices",
        key => key,
    };
    let message = format!("impossible plan: {}", error.constraint);
    let hint =
        error.nearest.as_ref().map(|nearest| format!("the nearest plan that works: {nearest}"));
    match document.error_at(key, &message, hint) {
        Error::Input(input) => {
            Error::Input(Box::new(InputError { key: Some(key.to_owned()), ..*input }))
        }
        other => other,
    }
}
