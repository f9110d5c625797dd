//! From a row to a scenario. What the row does not say comes from the defaults of its stack and is
//! listed; what cannot be simulated is refused here, and only here, with its reason.

use crate::hardware::{Accelerator, Catalogue, Dispatch, Stack};
use crate::plan::{Recompute, Schedule};
use crate::program::Precision;
use crate::scenario::{
    AccountTable, ClusterTable, ModelTable, NetworkTable, PlanTable, RunTable, Scenario,
    ShardingScheme, SoftwareTable, TrainingTable,
};

use super::grammar::{self, Group};
use super::names;
use super::row::RowSpec;
use super::shape::{self, Models};
use super::table::cut;

/// Why a row is not predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reject {
    /// The row makes no sense.
    Invalid(String),
    /// It makes sense and is beyond the simulator, or does not say enough.
    Unsupported(String),
}

/// A row as a scenario.
#[derive(Clone, Debug)]
pub(super) struct Mapped {
    pub scenario: Scenario,
    pub accelerator: String,
    pub stack: String,
    /// Recomputation is not stated: the ladder to climb until the plan fits.
    pub recompute_ladder: Vec<Recompute>,
    /// What was filled in.
    pub assumed: Vec<String>,
    /// What lies outside of what the catalogue knows.
    pub extrapolated: Vec<String>,
    /// The row's batch over the scenario's, where it had to be rounded.
    pub batch_scale: f64,
}

/// Degrees of parallelism that multiply out to the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Degrees {
    devices: u32,
    tensor: u32,
    pipeline: u32,
    context: u32,
    data: u32,
}

/// Maps a row.
pub(super) fn map(
    spec: &RowSpec,
    catalogue: &Catalogue,
    models: &Models,
) -> Result<Mapped, Reject> {
    let mut assumed = spec.remarks.clone();
    let mut extrapolated = Vec::new();
    let accelerator = names::accelerator(catalogue, &spec.accelerator, &mut assumed)?;
    let mut stack = names::stack(catalogue, spec, accelerator, &mut assumed, &mut extrapolated)?;
    if spec.option("compile").is_some_and(is_on)
        && let Some(compiled) = &stack.defaults.compiled
    {
        stack = catalogue.stack(compiled).map_err(|e| Reject::Unsupported(e.to_string()))?;
    }
    let sequence =
        spec.sequence.ok_or_else(|| Reject::Unsupported("seq_len is not stated".into()))?;
    let mut model_shape = shape::shape(spec, catalogue, models, stack, &mut assumed)?;
    if stack.dispatch_on(&accelerator.name) != Dispatch::PerNode
        && let Some(moe) = &mut model_shape.moe
    {
        // Only exchanges by node know of it.
        moe.node_limit = 0;
    }
    let model = model_shape
        .complete(sequence)
        .map_err(|(key, message)| Reject::Invalid(format!("model: {key} {message}")))?;
    let precision = precision(spec, accelerator, &mut assumed)?;
    let degrees = degrees(spec, &mut assumed)?;
    let (node, fabric) = names::node_and_fabric(
        catalogue,
        spec,
        accelerator,
        degrees.devices,
        &mut assumed,
        &mut extrapolated,
    )?;
    let (micro_batch, global_batch, batch_scale) = batch(spec, degrees, stack, &mut assumed)?;
    let mut plan = PlanTable {
        tensor_parallel: degrees.tensor,
        pipeline_parallel: degrees.pipeline,
        context_parallel: degrees.context,
        data_parallel: Some(degrees.data),
        micro_batch,
        ..PlanTable::default()
    };
    if let Some(moe) = &model.moe {
        experts(spec, degrees, moe.experts, stack, &mut plan, &mut assumed);
    } else if spec.expert.is_some_and(|n| n > 1) {
        assumed.push("warning: ep without experts is not used".into());
    }
    let micro_batches = global_batch / (degrees.data * micro_batch);
    schedule(spec, degrees, micro_batches, model.layers, &mut plan, &mut assumed)?;
    plan.sequence_parallel = sequence_parallel(spec, degrees, stack, &mut assumed);
    sharding(spec, degrees, node.devices, stack, &mut plan, &mut assumed);
    let recompute_ladder = recompute(spec, stack, &mut plan, &mut assumed);

    let nodes = degrees.devices.div_ceil(node.devices);
    let scenario = Scenario {
        name: "row".into(),
        description: None,
        seed: 0,
        model: ModelTable { preset: None, shape: model_shape },
        training: TrainingTable {
            sequence_length: sequence,
            global_batch,
            precision,
            adapter_rank: adapters(spec, &mut assumed),
        },
        cluster: ClusterTable {
            node: node.name.clone(),
            nodes,
            devices: Some(degrees.devices),
            fabric: fabric.map(|f| f.name.clone()),
            power_cap_w: None,
        },
        network: NetworkTable::default(),
        software: software(spec, stack, &mut assumed),
        plan,
        run: RunTable::default(),
        account: AccountTable::default(),
    };
    Ok(Mapped {
        scenario,
        accelerator: accelerator.name.clone(),
        stack: stack.name.clone(),
        recompute_ladder,
        assumed,
        extrapolated,
        batch_scale,
    })
}

/// Whether a switch is on.
pub(super) fn is_on(value: &str) -> bool {
    !matches!(value, "no" | "off" | "false" | "0" | "none" | "")
}

fn precision(
    spec: &RowSpec,
    accelerator: &Accelerator,
    assumed: &mut Vec<String>,
) -> Result<Precision, Reject> {
    if spec.precision.is_empty() {
        let precision =
            if accelerator.peak.bf16.is_some() { Precision::Bf16 } else { Precision::Fp16 };
        let name = if precision == Precision::Bf16 { "bf16" } else { "fp16" };
        assumed.push(format!("precision {name}"));
        return Ok(precision);
    }
    grammar::precision(&spec.precision).ok_or_else(|| {
        Reject::Unsupported(format!(
            "precision `{}` (known: bf16, fp16, fp8, fp4, fp32)",
            cut(&spec.precision)
        ))
    })
}

/// Degrees of a row. Where they contradict the number of devices, that number wins.
fn degrees(spec: &RowSpec, assumed: &mut Vec<String>) -> Result<Degrees, Reject> {
    let (tensor, pipeline, context) =
        (spec.tensor.unwrap_or(1), spec.pipeline.unwrap_or(1), spec.context.unwrap_or(1));
    let devices = match (spec.devices, names::split_nodes(&spec.nodes), spec.data) {
        (Some(devices), _, _) => devices,
        (None, Some((nodes, size)), _) => {
            let devices = nodes.saturating_mul(size);
            assumed.push(format!("n_devices {devices} from {}", spec.nodes));
            devices
        }
        (None, None, Some(data)) => {
            let devices =
                data.saturating_mul(tensor).saturating_mul(pipeline).saturating_mul(context);
            assumed.push(format!("n_devices {devices} from the degrees"));
            devices
        }
        _ => return Err(Reject::Unsupported("n_devices is not stated".into())),
    };
    let mut degrees = Degrees { devices, tensor, pipeline, context, data: 1 };
    if spec.tensor.is_none() && spec.pipeline.is_none() && spec.data.is_none() {
        infer_tensor(spec, &mut degrees, assumed);
    }
    let model_ranks =
        |d: &Degrees| u64::from(d.tensor) * u64::from(d.context) * u64::from(d.pipeline);
    let divides = |d: &Degrees| u64::from(devices).is_multiple_of(model_ranks(d));
    if !divides(&degrees) {
        let stated = format!("tp {tensor} x pp {pipeline} x cp {context}");
        let inner = degrees.tensor.saturating_mul(degrees.context);
        if devices.is_multiple_of(inner) {
            degrees.pipeline = largest_divisor(devices / inner, degrees.pipeline);
        } else {
            degrees.tensor = largest_divisor(devices, degrees.tensor);
            degrees.context = 1;
            degrees.pipeline = largest_divisor(devices / degrees.tensor, degrees.pipeline);
        }
        assumed.push(format!(
            "warning: {stated} does not divide n_devices {devices}, which wins: tp {} pp {}",
            degrees.tensor, degrees.pipeline
        ));
    }
    degrees.data = (u64::from(devices) / model_ranks(&degrees)) as u32;
    if let Some(stated) = spec.data
        && stated != degrees.data
    {
        assumed.push(format!(
            "warning: dp {stated} contradicts n_devices {devices}, which wins: dp {}",
            degrees.data
        ));
    }
    Ok(degrees)
}

/// No degree is stated, and the batch is smaller than one micro-batch per device: the devices
/// beyond the replicas that the batch allows are tensor-parallel.
fn infer_tensor(spec: &RowSpec, degrees: &mut Degrees, assumed: &mut Vec<String>) {
    let (Some(micro), Some(global)) = (spec.micro_batch, spec.global_batch) else { return };
    let replicas = global / micro.max(1);
    let rest = degrees.devices / replicas.max(1);
    if replicas > 0 && replicas < degrees.devices && replicas * rest == degrees.devices {
        degrees.tensor = rest;
        assumed.push(format!(
            "tp {rest}: the batch of {global} in micro-batches of {micro} has {replicas} replicas"
        ));
    }
}

/// The largest divisor of `number` that is at most `most`.
fn largest_divisor(number: u32, most: u32) -> u32 {
    (1..=most.min(number).max(1)).rev().find(|d| number.is_multiple_of(*d)).unwrap_or(1)
}

/// Micro-batch, global batch, and the row's global batch over the one used.
fn batch(
    spec: &RowSpec,
    degrees: Degrees,
    stack: &Stack,
    assumed: &mut Vec<String>,
) -> Result<(u32, u32, f64), Reject> {
    let data = degrees.data;
    let steps: Option<u32> =
        spec.option("grad_accumulation").and_then(|v| v.parse().ok()).filter(|n| *n > 0);
    match (spec.micro_batch, spec.global_batch) {
        (None, None) => {
            Err(Reject::Unsupported("neither micro_batch nor global_batch is stated".into()))
        }
        (Some(micro), None) => {
            // A pipeline is fed a few times its depth, or its bubble would be most of the step.
            let steps = steps.unwrap_or_else(|| {
                let steps = if degrees.pipeline > 1 { 4 * degrees.pipeline } else { 1 };
                assumed.push(format!("{steps} micro-batches per step"));
                steps
            });
            let global = u64::from(micro) * u64::from(data) * u64::from(steps);
            let global = u32::try_from(global)
                .map_err(|_| Reject::Invalid("the global batch is too large".into()))?;
            Ok((micro, global, 1.0))
        }
        (micro, Some(global)) => {
            let used = if global.is_multiple_of(data) {
                global
            } else {
                let used = (f64::from(global) / f64::from(data)).round().max(1.0) as u32 * data;
                assumed.push(format!(
                    "warning: global_batch {global} is no multiple of dp {data}: {used} is \
                     simulated and scaled"
                ));
                used
            };
            let per_replica = used / data;
            let micro = micro.unwrap_or_else(|| {
                let micro = match (steps, stack.defaults.micro_batch) {
                    (Some(steps), _) => (per_replica / steps).max(1),
                    (None, Some(micro)) => micro,
                    (None, None) if degrees.pipeline > 1 => 1,
                    (None, None) => per_replica,
                };
                assumed.push(format!("micro_batch {micro}"));
                micro
            });
            let fitting = largest_divisor(per_replica, micro);
            if fitting != micro {
                assumed.push(format!(
                    "warning: micro_batch {micro} does not divide the {per_replica} sequences of \
                     a replica: {fitting}"
                ));
            }
            Ok((fitting, used, f64::from(global) / f64::from(used)))
        }
    }
}

/// Schedule, chunks and the split of layers.
fn schedule(
    spec: &RowSpec,
    degrees: Degrees,
    micro_batches: u32,
    layers: u32,
    plan: &mut PlanTable,
    assumed: &mut Vec<String>,
) -> Result<(), Reject> {
    let stages = degrees.pipeline;
    let named = spec.option("schedule").unwrap_or_default();
    plan.virtual_stages = spec.chunks.unwrap_or(1);
    match named {
        "" | "1f1b" | "interleaved" | "interleaved1f1b" | "interleaved_1f1b" => {}
        "gpipe" => plan.schedule = Some(Schedule::Gpipe),
        other => {
            return Err(Reject::Unsupported(format!("pipeline schedule `{}`", cut(other))));
        }
    }
    if stages == 1 {
        plan.virtual_stages = 1;
        plan.schedule = None;
        return Ok(());
    }
    if named.starts_with("interleaved") && spec.chunks.is_none_or(|v| v == 1) {
        plan.virtual_stages = 2;
        assumed.push("2 chunks per pipeline device".into());
    }
    if plan.virtual_stages > 1 && !micro_batches.is_multiple_of(stages) {
        assumed.push(format!(
            "warning: {micro_batches} micro-batches are no multiple of {stages} stages: 1F1B \
             without interleaving"
        ));
        plan.virtual_stages = 1;
    }
    let virtual_stages = stages.saturating_mul(plan.virtual_stages);
    if layers.is_multiple_of(virtual_stages) {
        return Ok(());
    }
    let split = uneven(layers, virtual_stages).ok_or_else(|| {
        Reject::Unsupported(format!("{layers} layers on {virtual_stages} virtual stages"))
    })?;
    assumed.push(format!("{layers} layers on {virtual_stages} stages: ends are shorter"));
    plan.layers_per_stage = Some(split);
    Ok(())
}

/// Layers per stage with embedding and head counted as layers where that makes it even, else as
/// even as possible with the longer stages in the middle.
fn uneven(layers: u32, stages: u32) -> Option<Vec<u32>> {
    for (first, last) in [(1, 1), (0, 1), (1, 0)] {
        if (layers + first + last).is_multiple_of(stages) {
            let each = (layers + first + last) / stages;
            let mut split = vec![each; stages as usize];
            split[0] -= first;
            let end = split.len() - 1;
            split[end] -= last;
            return Some(split);
        }
    }
    let (base, extra) = (layers / stages, layers % stages);
    (base > 0).then(|| {
        let first = (stages - extra) / 2;
        (0..stages).map(|i| base + u32::from(i >= first && i < first + extra)).collect()
    })
}

/// Expert parallelism: over data x context ranks, and over the tensor ranks too where experts are
/// not split over them.
fn experts(
    spec: &RowSpec,
    degrees: Degrees,
    experts: u32,
    stack: &Stack,
    plan: &mut PlanTable,
    assumed: &mut Vec<String>,
) {
    let wanted = spec.expert.unwrap_or(1);
    let room = degrees.data * degrees.context;
    let split = room.is_multiple_of(wanted) && stack.defaults.expert_tensor.is_none();
    if degrees.tensor > 1 && !split {
        plan.expert_tensor_parallel = Some(1);
        assumed.push("experts are not split over the tensor group".into());
    }
    let room = if split { room } else { room * degrees.tensor };
    let fitting = (1..=wanted.min(room))
        .rev()
        .find(|d| room.is_multiple_of(*d) && experts.is_multiple_of(*d));
    plan.expert_parallel = fitting.unwrap_or(1);
    if plan.expert_parallel != wanted {
        assumed.push(format!(
            "warning: ep {wanted} does not divide {room} ranks and {experts} experts: {}",
            plan.expert_parallel
        ));
    }
}

fn sequence_parallel(
    spec: &RowSpec,
    degrees: Degrees,
    stack: &Stack,
    assumed: &mut Vec<String>,
) -> bool {
    if degrees.tensor == 1 {
        return false;
    }
    spec.sequence_parallel.unwrap_or_else(|| {
        let on = stack.defaults.sequence_parallel;
        assumed.push(format!("sequence parallel {}", if on { "on" } else { "off" }));
        on
    })
}

fn sharding(
    spec: &RowSpec,
    degrees: Degrees,
    per_node: u32,
    stack: &Stack,
    plan: &mut PlanTable,
    assumed: &mut Vec<String>,
) {
    let replicas = degrees.data * degrees.context;
    let said = grammar::sharding(&spec.sharding);
    let (scheme, group) = match said {
        Some(said) => (said.scheme, said.group),
        None => {
            let scheme = stack.defaults.sharding.unwrap_or_default();
            if replicas > 1 {
                assumed.push(format!("sharding {}", scheme_name(scheme)));
            }
            (scheme, Group::All)
        }
    };
    plan.sharding = if replicas == 1 { ShardingScheme::None } else { scheme };
    if plan.pipeline_parallel > 1
        && plan.sharding == ShardingScheme::Zero3
        && let Some(scheme) = stack.defaults.sharding_with_pipeline
    {
        plan.sharding = scheme;
        assumed.push(format!("sharding {} under pipeline parallelism", scheme_name(scheme)));
    }
    let option = spec.option("fsdp_shard").and_then(|v| v.parse::<u32>().ok()).filter(|n| *n > 0);
    let wanted = match (group, option) {
        (Group::Ranks(n), _) | (Group::All, Some(n)) => n,
        (Group::All, None) => replicas,
        (Group::Copies(n), _) => (replicas / n).max(1),
        (Group::Node, _) => (per_node / degrees.tensor).max(1),
    };
    if plan.sharding == ShardingScheme::None || wanted >= replicas {
        return;
    }
    // A stated degree of all data-parallel ranks includes the context-parallel ones.
    let wanted = if wanted == degrees.data { replicas } else { wanted };
    let fitting = largest_divisor(replicas, wanted);
    if fitting != wanted {
        assumed.push(format!(
            "warning: a shard group of {wanted} does not divide {replicas} replicas: {fitting}"
        ));
    }
    plan.shard_group = Some(fitting).filter(|n| *n < replicas);
}

/// Rank of the adapters where only those are trained; sources do not print it.
fn adapters(spec: &RowSpec, assumed: &mut Vec<String>) -> Option<u32> {
    spec.adapters.then(|| {
        assumed.push(format!("rank of the adapters not stated: {ADAPTER_RANK}"));
        ADAPTER_RANK
    })
}

/// What recipes of NeMo and Megatron-Bridge set (`LoRA.dim`).
const ADAPTER_RANK: u32 = 32;

fn scheme_name(scheme: ShardingScheme) -> &'static str {
    match scheme {
        ShardingScheme::None => "none",
        ShardingScheme::Zero1 => "zero1",
        ShardingScheme::Zero2 => "zero2",
        ShardingScheme::Zero3 => "zero3",
    }
}

/// What is recomputed; a ladder where it is not stated.
fn recompute(
    spec: &RowSpec,
    stack: &Stack,
    plan: &mut PlanTable,
    assumed: &mut Vec<String>,
) -> Vec<Recompute> {
    let selective = stack.defaults.selective.unwrap_or(Recompute::Selective);
    if let Some(stated) = grammar::recompute(&spec.recompute) {
        plan.recompute = if stated == Recompute::Selective { selective } else { stated };
        return Vec::new();
    }
    if !spec.recompute.is_empty() {
        assumed.push(format!("warning: recompute `{}` is not understood", cut(&spec.recompute)));
    }
    let default = stack.defaults.recompute.unwrap_or(Recompute::None);
    plan.recompute = default;
    let most = stack.defaults.recompute_at_most.unwrap_or(Recompute::Full);
    let mut ladder: Vec<Recompute> = [Recompute::None, selective, Recompute::Full]
        .into_iter()
        .skip_while(|step| *step != default)
        .collect();
    if let Some(end) = ladder.iter().position(|step| *step == most) {
        ladder.truncate(end + 1);
    }
    ladder
}

fn software(spec: &RowSpec, stack: &Stack, assumed: &mut Vec<String>) -> SoftwareTable {
    let mut software = SoftwareTable {
        overlap_experts: None,
        graphs: None,
        dispatch: None,
        stack: stack.name.clone(),
        attention: None,
        dropout: None,
        overlap_gradient_reduce: None,
        overlap_parameter_gather: None,
        overlap_tensor: None,
        overlap_pipeline: None,
        overlap_context: None,
        bucket_mb: None,
        gemm_table: None,
        attention_table: None,
    };
    // "flash" without a generation says that it is fused; which kernel that is, the stack knows.
    let generic = spec.attention.trim().eq_ignore_ascii_case("flash");
    software.attention = grammar::attention(&spec.attention)
        .filter(|_| !(generic && stack.attention.fused().is_some()));
    if software.attention.is_none() && !generic {
        assumed.push(format!("{:?} attention", stack.attention).to_lowercase());
    }
    if let Some(value) = spec.option("dp_overlap") {
        software.overlap_gradient_reduce = Some(is_on(value));
        if !is_on(value) {
            software.overlap_parameter_gather = Some(false);
        }
    }
    if spec.option("async_tp").is_some_and(is_on) {
        software.overlap_tensor = Some(true);
    }
    for (key, plain) in [("optimizer", "adam"), ("routing", "balanced")] {
        if let Some(value) = spec.option(key)
            && !value.contains(plain)
        {
            assumed.push(format!("{key} {} as {plain}", cut(value)));
        }
    }
    software
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_with_embedding_and_head_as_layers() {
        assert_eq!(uneven(126, 8), Some(vec![15, 16, 16, 16, 16, 16, 16, 15]));
        assert_eq!(uneven(61, 31).map(|v| v.len()), Some(31));
        assert_eq!(uneven(70, 12), Some(vec![5, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 5]));
        assert_eq!(uneven(10, 4), Some(vec![2, 3, 3, 2]));
        assert_eq!(uneven(3, 8), None);
    }

    #[test]
    fn devices_win_over_degrees() {
        let spec =
            RowSpec { devices: Some(16), tensor: Some(8), pipeline: Some(4), ..RowSpec::default() };
        let mut assumed = Vec::new();
        let degrees = degrees(&spec, &mut assumed).expect("maps");
        assert_eq!((degrees.tensor, degrees.pipeline, degrees.data), (8, 2, 1));
        assert!(assumed[0].contains("n_devices 16, which wins"), "{assumed:?}");
    }

    #[test]
    fn replicas_from_the_batch() {
        let spec = RowSpec {
            devices: Some(128),
            micro_batch: Some(2),
            global_batch: Some(32),
            ..RowSpec::default()
        };
        let degrees = degrees(&spec, &mut Vec::new()).expect("maps");
        assert_eq!((degrees.tensor, degrees.data), (8, 16));
    }
}
