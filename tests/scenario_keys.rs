//! Invariant 6: every key of a scenario moves a result, in the direction it should.
//!
//! The test walks the JSON Schema of scenarios. A key without a line in the table below fails it,
//! and so do a value of an enumeration, or one of true and false, that no line uses. One line says:
//! starting from `BASE` with these assignments, changing this key from one value to another moves
//! these results this way. Nothing is compared to a number, so there is no tolerance: a result that
//! should rise has to be strictly larger.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use support::simulate_with;
use trainyard::hardware::Catalogue;
use trainyard::outcome::Options;
use trainyard::scenario::Scenario;

/// Llama 3 8B on two servers with eight H100 each, plain data parallelism.
const BASE: &str = r#"
name = "base"

[model]
preset = "llama-3-8b"

[training]
sequence_length = 4096
global_batch = 64
precision = "bf16"

[cluster]
node = "dgx-h100"
nodes = 2
fabric = "ndr400-clos"

[software]
stack = "megatron-core"

[plan]
micro_batch = 1

[run]
tokens = 1e12

[account]
grid = "us"
"#;

const STEP: &str = "step.seconds";
const COMPUTE: &str = "step.breakdown.compute";
const PARAMETERS: &str = "plan.model_parameters";
const WEIGHTS: &str = "memory.by_class.weights";
const GRADIENTS: &str = "memory.by_class.gradients";
const OPTIMIZER: &str = "memory.by_class.optimizer";
const ACTIVATIONS: &str = "memory.by_class.activations";
const LOGITS: &str = "memory.by_class.logits";
const TENSOR: &str = "step.breakdown.exposed_tensor";
const CONTEXT: &str = "step.breakdown.exposed_context";
const EXPERT: &str = "step.breakdown.exposed_expert";
const DATA: &str = "step.breakdown.exposed_data";
const PIPELINE: &str = "step.breakdown.exposed_pipeline";
const CONTENTION: &str = "network.contention_seconds";
const HOST: &str = "step.breakdown.host";
const BUBBLE: &str = "step.breakdown.pipeline_bubble";

/// Where a result goes when a key changes.
#[derive(Clone, Copy, Debug)]
enum Move {
    Up(&'static str),
    Down(&'static str),
    /// Becomes this text.
    Becomes(&'static str, &'static str),
    /// Stays as it was.
    Stays(&'static str),
    /// Nothing is simulated: the message says this.
    Refused(&'static str),
}
use Move::{Becomes, Down, Refused, Stays, Up};

/// A change of one key; `ABSENT` leaves the key out.
struct Change {
    key: &'static str,
    with: &'static [&'static str],
    from: &'static str,
    to: &'static str,
    moves: &'static [Move],
}
const ABSENT: &str = "";

const fn change(
    key: &'static str,
    with: &'static [&'static str],
    from: &'static str,
    to: &'static str,
    moves: &'static [Move],
) -> Change {
    Change { key, with, from, to, moves }
}

// What a change starts from, beside BASE.
const TP8: &[&str] = &["plan.tensor_parallel=8"];
const PP4: &[&str] = &["plan.pipeline_parallel=4"];
/// Pairs of stages on the two dies of a module.
const MI250X: &[&str] = &[
    "cluster.node=frontier",
    "cluster.fabric=slingshot-11",
    "cluster.nodes=4",
    "plan.pipeline_parallel=2",
    "plan.tensor_parallel=1",
    "plan.rank_order=[\"pipeline\", \"tensor\", \"context\", \"data\"]",
    "software.overlap_pipeline=false",
];
const PP4_VPP2: &[&str] = &["plan.pipeline_parallel=4", "plan.virtual_stages=2"];
const FSDP_BARE: &[&str] = &[
    "plan.sharding=zero3",
    "software.overlap_parameter_gather=false",
    "software.overlap_gradient_reduce=false",
];
const FSDP: &[&str] = &["plan.sharding=zero3", "software.stack=torch-fsdp"];
const LEARNED: &[&str] = &["model.shape.positions=learned"];
const B200: &[&str] = &["cluster.node=dgx-b200"];
const A100: &[&str] = &["cluster.node=dgx-a100"];
const UNFUSED: &[&str] = &["software.attention=unfused"];
const WINDOW: &[&str] = &["model.shape.window=1024"];
const MOE: &[&str] =
    &["model.shape.moe={experts = 8, top_k = 2, expert_hidden = 14336}", "plan.sharding=zero1"];
const MOE_EP: &[&str] = &[
    "model.shape.moe={experts = 8, top_k = 2, expert_hidden = 14336}",
    "plan.sharding=zero1",
    "plan.expert_parallel=8",
];
const MOE_TP: &[&str] = &[
    "model.shape.moe={experts = 8, top_k = 2, expert_hidden = 14336}",
    "plan.tensor_parallel=2",
    "plan.sequence_parallel=true",
];
const MLA: &[&str] =
    &["model.shape.mla={query_rank = 1536, kv_rank = 512, rope_dim = 64, nope_dim = 128, \
     value_dim = 128}"];
const CP: &[&str] = &["plan.context_parallel=8", "training.global_batch=64"];
const PP4_5: &[&str] = &["plan.pipeline_parallel=4", "model.shape.layers=31"];

/// Gradients are reduced where everybody sees it.
const BARE: &[&str] = &["software.overlap_gradient_reduce=false"];
const BARE_4: &[&str] = &["software.overlap_gradient_reduce=false", "cluster.nodes=4"];
/// Cards are what gradients wait for.
const SLOW_CARDS: &[&str] =
    &["software.overlap_gradient_reduce=false", "cluster.fabric=hdr200-clos"];
/// Two groups of leaf switches with few links between them.
const TAPERED: &[&str] = &[
    "software.overlap_gradient_reduce=false",
    "cluster.nodes=64",
    "cluster.fabric=hdr200-clos",
    "training.global_batch=512",
    "network.oversubscription=4",
];
/// Nodes in random order, so that neighbours of a ring hang below different leaves.
const SCATTERED: &[&str] = &[
    "software.overlap_gradient_reduce=false",
    "cluster.nodes=64",
    "cluster.fabric=hdr200-clos",
    "training.global_batch=512",
    "network.placement=random",
];
const SCATTERED_TAPERED: &[&str] = &[
    "software.overlap_gradient_reduce=false",
    "cluster.nodes=64",
    "cluster.fabric=hdr200-clos",
    "training.global_batch=512",
    "network.placement=random",
    "network.oversubscription=4",
];
/// Four nodes on a network from a file.
const WIRED: &[&str] = &[
    "software.overlap_gradient_reduce=false",
    "cluster.nodes=4",
    "network.topology=scenarios/networks/two-halls.toml",
];
const WIRED_FROM_FILE: &[&str] = &[
    "software.overlap_gradient_reduce=false",
    "cluster.nodes=4",
    "network.topology=scenarios/networks/two-halls.toml",
    "network.placement=from_file",
];
const PLACED: &[&str] = &[
    "network.placement_file=scenarios/networks/alternating.toml",
    "cluster.nodes=4",
    "network.topology=scenarios/networks/two-halls.toml",
];
/// Four of 48 nodes; 39 of them hang below a leaf with one link up.
const FOUR_OF_48: &[&str] = &[
    "software.overlap_gradient_reduce=false",
    "cluster.nodes=48",
    "cluster.devices=32",
    "cluster.fabric=hdr200-clos",
    "network.oversubscription=39",
];
const TP4_PP4: &[&str] = &["plan.tensor_parallel=4", "plan.pipeline_parallel=4"];
const TP8_RAIL: &[&str] = &["plan.tensor_parallel=8", "network.placement=rail_aware"];
// Small enough that the device waits for the host.
const HOST_BOUND: &[&str] = &[
    "model.shape.hidden=512",
    "model.shape.heads=8",
    "model.shape.kv_heads=8",
    "model.shape.head_dim=64",
    "model.shape.ffn_hidden=1024",
    "model.shape.vocab=8192",
    "model.shape.moe={experts = 8, top_k = 2, expert_hidden = 512}",
    "training.sequence_length=1024",
];
const MOE_EP32: &[&str] = &[
    "model.shape.moe={experts = 32, top_k = 4, expert_hidden = 3584}",
    "plan.sharding=zero1",
    "plan.expert_parallel=32",
    "cluster.nodes=4",
];
const MOE_PER_NODE: &[&str] = &[
    "model.shape.moe={experts = 32, top_k = 4, expert_hidden = 3584}",
    "plan.sharding=zero1",
    "plan.expert_parallel=32",
    "cluster.nodes=4",
    "software.dispatch=per_node",
];

const NO_GRID: &[&str] = &["account.pue=1.2"];

#[rustfmt::skip]
const CHANGES: &[Change] = &[
    change("name", &[], "base", "other", &[Becomes("scenario.name", "other"), Stays(STEP)]),
    change("description", &[], ABSENT, "a test", &[Becomes("scenario.description", "a test"), Stays(STEP)]),
    // Without anything random the seed is reported and moves no time.
    change("seed", &[], "0", "7", &[Up("seed"), Stays(STEP)]),
    change("seed", SCATTERED_TAPERED, "0", "3", &[Up("seed"), Down(DATA)]),

    change("model.preset", &[], "llama-3-8b", "llama-2-13b", &[Up(PARAMETERS), Up(STEP)]),
    change("model.shape.layers", &[], "32", "48", &[Up(PARAMETERS), Up(STEP), Up(ACTIVATIONS)]),
    change("model.shape.hidden", &[], "4096", "8192", &[Up(PARAMETERS), Up(STEP)]),
    change("model.shape.heads", &["model.shape.head_dim=128"], "32", "64", &[Up(PARAMETERS), Up(STEP)]),
    change("model.shape.kv_heads", &[], "8", "32", &[Up(PARAMETERS), Up(ACTIVATIONS)]),
    change("model.shape.head_dim", &[], "128", "256", &[Up(PARAMETERS), Up(STEP)]),
    change("model.shape.ffn_hidden", &[], "14336", "28672", &[Up(PARAMETERS), Up(STEP)]),
    change("model.shape.vocab", &[], "32000", "128256", &[Up(PARAMETERS), Up(LOGITS), Up(STEP)]),
    change("model.shape.mlp", &[], "gelu", "swiglu", &[Up(PARAMETERS), Up(STEP)]),
    change("model.shape.mlp", &[], "geglu", "relu2", &[Down(PARAMETERS), Down(STEP)]),
    change("model.shape.positions", &[], "alibi", "rotary", &[Up(STEP), Stays(PARAMETERS)]),
    change("model.shape.positions", &[], "alibi", "learned", &[Up(PARAMETERS)]),
    change("model.shape.max_positions", LEARNED, "4096", "8192", &[Up(PARAMETERS), Up(WEIGHTS)]),
    change("model.shape.norm", &[], "rmsnorm", "layernorm", &[Up(PARAMETERS)]),
    change("model.shape.tied_embeddings", &[], "false", "true", &[Down(PARAMETERS), Down(WEIGHTS)]),
    change("model.shape.bias", &[], "false", "true", &[Up(PARAMETERS), Up(STEP)]),

    change("model.shape.parallel_block", TP8, "false", "true", &[Down(PARAMETERS), Down(TENSOR), Down(STEP)]),
    change("model.shape.window", &[], "4096", "512", &[Down(STEP), Stays(PARAMETERS)]),
    change("model.shape.window_every", WINDOW, "1", "2", &[Up(STEP)]),
    change("model.shape.mtp_modules", &[], "0", "1", &[Up(PARAMETERS), Up(STEP)]),
    change("model.shape.moe.experts", MOE, "8", "16", &[Up(PARAMETERS), Up(WEIGHTS)]),
    change("model.shape.moe.top_k", MOE, "2", "4", &[Up(STEP), Up(ACTIVATIONS), Stays(PARAMETERS)]),
    change("model.shape.moe.node_limit", MOE_PER_NODE, "0", "2", &[Down(EXPERT), Down(STEP)]),
    change("model.shape.moe.expert_hidden", MOE, "14336", "28672", &[Up(PARAMETERS), Up(STEP)]),
    change("model.shape.moe.shared_hidden", MOE, "0", "14336", &[Up(PARAMETERS), Up(STEP)]),
    change("model.shape.moe.dense_layers", MOE, "0", "16", &[Down(PARAMETERS)]),
    change("model.shape.moe.every", MOE, "1", "2", &[Down(PARAMETERS)]),
    change("model.shape.moe.capacity_factor", MOE, "1", "2", &[Up(STEP), Up(ACTIVATIONS)]),
    change("model.shape.moe.imbalance", MOE, "1", "1.5", &[Up(STEP), Up(ACTIVATIONS)]),
    change("model.shape.mla.query_rank", MLA, "1536", "3072", &[Up(PARAMETERS), Up(STEP)]),
    change("model.shape.mla.kv_rank", MLA, "512", "1024", &[Up(PARAMETERS), Up(STEP)]),
    change("model.shape.mla.rope_dim", MLA, "64", "128", &[Up(PARAMETERS), Up(STEP)]),
    change("model.shape.mla.nope_dim", MLA, "128", "256", &[Up(PARAMETERS), Up(STEP)]),
    change("model.shape.mla.value_dim", MLA, "128", "256", &[Up(PARAMETERS), Up(STEP)]),

    change("training.sequence_length", &[], "4096", "8192", &[Up(STEP), Up(ACTIVATIONS), Up(LOGITS)]),
    change("training.global_batch", &[], "64", "128", &[Up(STEP), Down("run.steps")]),
    change("training.adapter_rank", &[], ABSENT, "32", &[Down(STEP), Down(OPTIMIZER), Down(DATA)]),
    change("training.adapter_rank", &[], "8", "64", &[Up(STEP), Up(OPTIMIZER)]),
    change("training.adapter_rank", &[], ABSENT, "0", &[Refused("at least 1")]),
    change("training.adapter_rank", &[], ABSENT, "100000", &[Refused("model's width")]),
    change("training.precision", &[], "fp32", "bf16", &[Down(STEP)]),
    change("training.precision", &[], "fp32", "fp16", &[Down(STEP)]),
    change("training.precision", &[], "bf16", "fp8", &[Down(STEP)]),
    change("training.precision", B200, "fp8", "fp4", &[Down(STEP)]),

    change("cluster.node", &[], "dgx-h100", "dgx-a100", &[Up(STEP)]),
    change("cluster.nodes", &[], "2", "4", &[Down(STEP), Up("plan.devices")]),
    change("cluster.devices", &[], ABSENT, "8", &[Up(STEP), Down("plan.devices")]),
    change("cluster.power_cap_w", &[], ABSENT, "450", &[Up(STEP), Down("energy.device_watts")]),
    change("cluster.power_cap_w", &[], ABSENT, "900", &[Refused("not above its limit")]),
    change("cluster.fabric", &[], "ndr400-clos", "hdr200-clos", &[Up(STEP), Up(DATA)]),

    change("network.model", BARE, "algorithms", "levels", &[Becomes("network.model", "levels"), Up(DATA)]),
    change("network.topology", BARE_4, ABSENT, "scenarios/networks/two-halls.toml", &[Up(DATA), Up(STEP), Up(CONTENTION)]),
    change("network.transport", BARE, "infiniband", "ethernet-sockets", &[Up(DATA), Up(STEP)]),
    change("network.placement", TP8, "block", "strided", &[Up(TENSOR), Up(STEP)]),
    change("network.placement", TP4_PP4, "block", "rail_aware", &[Up(PIPELINE), Up(STEP)]),
    change("network.placement", TAPERED, "block", "random", &[Up(DATA), Up(STEP), Up(CONTENTION)]),
    change("network.placement", PLACED, "from_file", "block", &[Refused("needs placement = \"from_file\"")]),
    change("network.placement_file", WIRED_FROM_FILE, "scenarios/networks/by-hall.toml",
        "scenarios/networks/alternating.toml", &[Up(DATA), Up(STEP), Up(CONTENTION)]),
    change("network.bandwidth_matrix", WIRED, ABSENT, "scenarios/networks/two-halls.csv", &[Up(DATA), Up(CONTENTION)]),
    change("network.placement_group", TP8_RAIL, "8", "2", &[Up(TENSOR), Up(STEP)]),
    change("network.placement_group", TP8_RAIL, "8", "3", &[Refused("do not fill nodes of 8")]),
    change("network.node_order", FOUR_OF_48, "[0, 1, 2, 3]", "[0, 40, 1, 41]", &[Up(DATA), Up(CONTENTION)]),
    change("network.all_reduce", BARE_4, "ring", "tree", &[Up(DATA)]),
    change("network.all_reduce", TP8, "ring", "in-switch", &[Down(TENSOR)]),
    change("network.all_reduce", BARE, "ring", "in-switch-tree", &[Down(DATA)]),
    change("network.all_reduce", BARE_4, "hierarchical", "hierarchical-overlapped", &[Down(DATA)]),
    change("network.all_reduce", &[], "ring", "direct", &[Refused("no algorithm of an all-reduce")]),
    change("network.all_reduce", &[], "ring", "two-hop", &[Refused("no algorithm of an all-reduce")]),
    change("network.gather_scatter", FSDP_BARE, "ring", "hierarchical", &[Up(DATA)]),
    change("network.gather_scatter", FSDP_BARE, "hierarchical", "hierarchical-overlapped", &[Down(DATA)]),
    change("network.gather_scatter", FSDP, "ring", "tree", &[Refused("no algorithm of an all-gather")]),
    change("network.gather_scatter", FSDP, "ring", "in-switch", &[Refused("no algorithm of an all-gather")]),
    change("network.gather_scatter", FSDP, "ring", "in-switch-tree", &[Refused("no algorithm of an all-gather")]),
    change("network.gather_scatter", FSDP, "ring", "direct", &[Refused("no algorithm of an all-gather")]),
    change("network.gather_scatter", FSDP, "ring", "two-hop", &[Refused("no algorithm of an all-gather")]),
    change("network.all_to_all", MOE_EP32, "direct", "two-hop", &[Up(EXPERT), Up(STEP)]),
    change("network.all_to_all", MOE_EP32, "direct", "ring", &[Refused("no algorithm of an all-to-all")]),
    change("network.all_to_all", MOE_EP32, "direct", "tree", &[Refused("no algorithm of an all-to-all")]),
    change("network.all_to_all", MOE_EP32, "direct", "in-switch", &[Refused("no algorithm of an all-to-all")]),
    change("network.all_to_all", MOE_EP32, "direct", "in-switch-tree", &[Refused("no algorithm of an all-to-all")]),
    change("network.all_to_all", MOE_EP32, "direct", "hierarchical", &[Refused("no algorithm of an all-to-all")]),
    change("network.all_to_all", MOE_EP32, "direct", "hierarchical-overlapped", &[Refused("no algorithm of an all-to-all")]),
    change("network.protocol", BARE, "simple", "ll128", &[Up(DATA)]),
    change("network.protocol", BARE, "ll128", "ll", &[Up(DATA), Up(STEP)]),
    change("network.transfer_engine", MI250X, "kernel", "copy", &[Up(PIPELINE), Up(STEP)]),
    change("network.transfer_engine", PP4, ABSENT, "copy", &[Refused("links between devices are alike")]),
    change("network.in_switch_reduction", TP8, "true", "false", &[Up(TENSOR), Up(STEP)]),
    change("network.oversubscription", SCATTERED, "1", "4", &[Up(DATA), Up(STEP), Up(CONTENTION)]),
    change("network.routing", SCATTERED, "spread", "hashed", &[Up(DATA), Up(STEP), Up(CONTENTION)]),
    change("network.variability", SLOW_CARDS, "none", "healthy", &[Up(DATA)]),
    change("network.variability", SLOW_CARDS, "healthy", "bimodal", &[Up(DATA)]),
    change("network.variability", SLOW_CARDS, "healthy", "shared_cluster", &[Up(DATA)]),

    change("software.stack", &[], "megatron-core", "megatron-lm-sc21", &[Up(STEP)]),
    change("software.attention", &[], "flash", "flash_3", &[Down(STEP)]),
    change("software.attention", &[], "flash", "cudnn", &[Down(STEP)]),
    change("software.attention", &[], "flash", "triton", &[Up(STEP)]),
    change("software.attention", &[], "flash", "unfused", &[Up(STEP), Up(ACTIVATIONS)]),
    change("software.dropout", &[], "false", "true", &[Up(STEP), Up(ACTIVATIONS)]),
    change("software.overlap_gradient_reduce", &[], "true", "false", &[Up(STEP), Up(DATA)]),
    change("software.overlap_parameter_gather", FSDP, "true", "false", &[Up(STEP), Up(DATA)]),
    change("software.overlap_tensor", TP8, "true", "false", &[Up(STEP), Up(TENSOR)]),
    change("software.overlap_pipeline", PP4, "true", "false", &[Up(STEP), Up(PIPELINE)]),
    change("software.overlap_context", CP, "true", "false", &[Up(STEP), Up(CONTEXT)]),
    change("software.dispatch", MOE_EP32, "per_expert", "per_node", &[Down(EXPERT), Down(STEP)]),
    change("software.overlap_experts", MOE_EP32, "false", "true", &[Down(EXPERT), Down(STEP), Up(ACTIVATIONS)]),
    change("software.overlap_experts", &[], ABSENT, "true", &[Refused("no experts")]),
    change("software.graphs", HOST_BOUND, "none", "layers", &[Down(STEP), Down(HOST)]),
    change("software.graphs", HOST_BOUND, "layers", "step", &[Down(STEP), Down(HOST)]),
    change("software.bucket_mb", &[], "200", "20000", &[Up(STEP), Up(DATA)]),
    // Measured at 450 TFLOP/s, which is slower than the models say.
    change("software.gemm_table", &[], ABSENT, "tests/data/kernels/gemms.csv", &[Up(STEP), Up(COMPUTE)]),
    change("software.gemm_table", A100, ABSENT, "tests/data/kernels/gemms.csv", &[Refused("no row of a100-80")]),
    change("software.attention_table", &[], ABSENT, "tests/data/kernels/attention.csv", &[Up(STEP), Up(COMPUTE)]),

    change("plan.tensor_parallel", &[], "1", "8", &[Down(WEIGHTS), Down(ACTIVATIONS), Up(TENSOR)]),
    change("plan.pipeline_parallel", &[], "1", "4", &[Down(WEIGHTS), Up(BUBBLE), Up(PIPELINE)]),
    change("plan.context_parallel", &[], "1", "8", &[Down(ACTIVATIONS), Up(CONTEXT)]),
    change("plan.expert_parallel", MOE, "1", "8", &[Down(WEIGHTS), Up(EXPERT)]),
    change("plan.expert_parallel", MOE_EP, "8", "3", &[Refused("experts are not divisible")]),
    change("plan.expert_tensor_parallel", MOE_TP, "2", "1", &[Up(WEIGHTS), Down(TENSOR)]),
    change("plan.embedding_as_layer", PP4_5, "true", "false", &[Refused("not divisible")]),
    change("plan.head_as_layer", PP4_5, "true", "false", &[Refused("not divisible")]),
    change("plan.gather_bits", FSDP_BARE, "16", "8", &[Down(DATA)]),
    change("plan.reduce_bits", FSDP_BARE, "16", "8", &[Down(DATA)]),
    // Follows from the devices and the other degrees, and is checked against them.
    change("plan.data_parallel", &[], "16", "8", &[Refused("data_parallel = 16")]),
    change("plan.virtual_stages", PP4, "1", "2", &[Down(BUBBLE), Up(ACTIVATIONS)]),
    change("plan.schedule", PP4, "1f1b", "gpipe", &[Up(ACTIVATIONS)]),
    change("plan.schedule", PP4_VPP2, "interleaved", "gpipe", &[Up(ACTIVATIONS)]),
    change("plan.micro_batch", &[], "1", "2", &[Up(ACTIVATIONS), Down("plan.micro_batches")]),
    change("plan.sequence_parallel", TP8, "false", "true", &[Down(ACTIVATIONS)]),
    change("plan.sharding", &[], "none", "zero1", &[Down(OPTIMIZER), Stays(GRADIENTS), Stays(WEIGHTS)]),
    change("plan.sharding", &[], "zero1", "zero2", &[Down(GRADIENTS), Stays(OPTIMIZER), Stays(WEIGHTS)]),
    change("plan.sharding", &[], "zero2", "zero3", &[Down(WEIGHTS), Stays(OPTIMIZER), Stays(GRADIENTS)]),
    change("plan.shard_group", FSDP, "16", "8", &[Up(WEIGHTS), Up(GRADIENTS), Up(OPTIMIZER)]),
    change("plan.parameter_shard", FSDP, ABSENT, "8", &[Up(WEIGHTS), Stays(GRADIENTS), Stays(OPTIMIZER)]),
    change("plan.gradient_shard", &["plan.sharding=zero2"], ABSENT, "8", &[Up(GRADIENTS), Stays(OPTIMIZER)]),
    change("plan.optimizer_shard", &[], ABSENT, "8", &[Down(OPTIMIZER), Stays(GRADIENTS)]),
    change("plan.recompute", &[], "none", "full", &[Up(STEP), Down(ACTIVATIONS), Up("throughput.hfu")]),
    change("plan.recompute", &[], "none", "modules", &[Up(STEP), Down(ACTIVATIONS)]),
    change("plan.recompute", &[], "none", "operators", &[Up(STEP), Down(ACTIVATIONS)]),
    change("plan.recompute", UNFUSED, "none", "selective", &[Up(STEP), Down(ACTIVATIONS)]),
    change("plan.layers_per_stage", PP4, ABSENT, "[5, 9, 9, 9]", &[Up(STEP), Up(BUBBLE)]),
    change("plan.rank_order", TP8, "[\"tensor\", \"context\", \"data\", \"pipeline\"]",
        "[\"data\", \"tensor\", \"context\", \"pipeline\"]", &[Up(TENSOR), Up(STEP)]),

    change("run.tokens", &[], "1e12", "2e12", &[Up("run.days"), Up("energy.kwh"), Up("cost.usd")]),

    change("account.prices", &[], ABSENT, "2000-01", &[Down("cost.usd"), Stays(STEP)]),
    change("account.usd_per_device_hour", &[], "2", "3", &[Up("cost.usd"), Stays(STEP)]),
    change("account.grid", NO_GRID, "us", "fr", &[Down("carbon.operational_kg_co2e"), Stays(STEP)]),
    change("account.grid_g_per_kwh", &[], "400", "100", &[Down("carbon.operational_kg_co2e")]),
    change("account.pue", &[], "1.1", "1.5", &[Up("energy.kwh"), Up("carbon.operational_kg_co2e")]),
    change("account.lifetime_years", &[], "4", "6", &[Down("carbon.embodied_kg_co2e")]),
];

/// A key of the schema: what values it can take, where they can be listed.
fn keys_of(schema: &Value) -> BTreeMap<String, BTreeSet<String>> {
    fn resolve<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
        let mut all = vec![schema];
        if let Some(path) = schema.get("$ref").and_then(Value::as_str) {
            let name = path.strip_prefix("#/$defs/").expect("a definition");
            all.extend(resolve(root, &root["$defs"][name]));
        }
        for word in ["anyOf", "allOf", "oneOf"] {
            for part in schema.get(word).and_then(Value::as_array).into_iter().flatten() {
                all.extend(resolve(root, part));
            }
        }
        all
    }
    fn walk(
        root: &Value,
        schema: &Value,
        path: &str,
        keys: &mut BTreeMap<String, BTreeSet<String>>,
    ) {
        let parts = resolve(root, schema);
        let tables: Vec<&Value> = parts.iter().filter_map(|part| part.get("properties")).collect();
        if !tables.is_empty() {
            for (key, inner) in tables.into_iter().filter_map(Value::as_object).flatten() {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(root, inner, &path, keys);
            }
            return;
        }
        let mut values = BTreeSet::new();
        let items: Vec<&Value> = parts.iter().filter_map(|part| part.get("items")).collect();
        let of_items = items.into_iter().flat_map(|items| resolve(root, items));
        for part in parts.iter().copied().chain(of_items) {
            let listed = part.get("enum").and_then(Value::as_array).into_iter().flatten();
            for value in listed.chain(part.get("const")) {
                values.extend(value.as_str().map(str::to_owned));
            }
            let is_bool = |kind: &Value| kind.as_str() == Some("boolean");
            if part.get("type").is_some_and(|kind| {
                is_bool(kind) || kind.as_array().is_some_and(|kinds| kinds.iter().any(is_bool))
            }) {
                values.extend(["true".to_owned(), "false".to_owned()]);
            }
        }
        keys.insert(path.to_owned(), values);
    }
    let mut keys = BTreeMap::new();
    walk(schema, schema, "", &mut keys);
    keys
}

/// The embedded catalogue and a second price sheet, at half the prices of the first.
fn catalogue() -> Catalogue {
    let folder = tempfile::tempdir().expect("a folder");
    let latest = support::catalogue().prices.values().next_back().expect("a price sheet");
    let mut table = latest.document.table().clone();
    table.insert("name".into(), "2000-01".into());
    for (_, rent) in table["rent"].as_table_mut().expect("rents") {
        for bound in ["value", "low", "high"] {
            if let Some(value) = rent.get_mut(bound) {
                let number = value.as_float().or(value.as_integer().map(|i| i as f64));
                *value = toml::Value::Float(number.expect("a number") / 2.0);
            }
        }
    }
    fs::create_dir(folder.path().join("prices")).expect("a folder");
    let text = toml::to_string(&table).expect("TOML");
    fs::write(folder.path().join("prices/2000-01.toml"), text).expect("a file");
    Catalogue::load(Some(folder.path())).unwrap_or_else(|e| panic!("{e}"))
}

fn at<'a>(result: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(result, |value, key| &value[key])
}

/// What is wrong with a change, if anything.
fn problems(catalogue: &Catalogue, change: &Change) -> Vec<String> {
    let run = |value: &str| {
        let assignment = format!("{}={value}", change.key);
        let mut assignments = change.with.to_vec();
        if value != ABSENT {
            assignments.push(&assignment);
        }
        simulate_with(catalogue, BASE, &assignments, Options::default())
            .map(|result| serde_json::to_value(result).expect("JSON"))
            .map_err(|error| error.to_string())
    };
    let before = match run(change.from) {
        Ok(before) => before,
        Err(error) => return vec![format!("before: {error}")],
    };
    let after = run(change.to);
    let mut wrong = Vec::new();
    for movement in change.moves {
        let fine = match (movement, &after) {
            (Refused(text), Err(error)) => error.contains(change.key) && error.contains(text),
            (Refused(_), Ok(_)) | (_, Err(_)) => false,
            (Up(path), Ok(after)) => at(after, path).as_f64() > at(&before, path).as_f64(),
            (Down(path), Ok(after)) => at(after, path).as_f64() < at(&before, path).as_f64(),
            (Becomes(path, text), Ok(after)) => {
                at(&before, path) != *text && at(after, path) == *text
            }
            (Stays(path), Ok(after)) => {
                !at(after, path).is_null() && at(after, path) == at(&before, path)
            }
        };
        if !fine {
            let values = match (movement, &after) {
                (_, Err(error)) => error.clone(),
                (Up(path) | Down(path) | Becomes(path, _) | Stays(path), Ok(after)) => {
                    format!("{} -> {}", at(&before, path), at(after, path))
                }
                (Refused(_), Ok(_)) => "accepted".to_owned(),
            };
            wrong.push(format!("not {movement:?}: {values}"));
        }
    }
    if let Ok(after) = &after
        && at(&before, "scenario.hash") == at(after, "scenario.hash")
    {
        wrong.push("the hash of the scenario stays".to_owned());
    }
    wrong
}

#[test]
fn every_key_has_a_line() {
    let schema = serde_json::to_value(schemars::schema_for!(Scenario)).expect("JSON");
    let keys = keys_of(&schema);
    assert!(keys.len() > 50, "the walk over the schema found {keys:?}");
    let mut missing = Vec::new();
    for (key, values) in &keys {
        let lines: Vec<&Change> = CHANGES.iter().filter(|change| change.key == key).collect();
        if lines.is_empty() {
            missing.push(key.clone());
            continue;
        }
        for value in values {
            let uses = |text: &str| {
                text == value || (text.starts_with('[') && text.contains(&format!("\"{value}\"")))
            };
            if !lines.iter().any(|line| uses(line.from) || uses(line.to)) {
                missing.push(format!("{key} = {value}"));
            }
        }
    }
    assert!(missing.is_empty(), "keys or values without a line in CHANGES: {missing:#?}");
    for change in CHANGES {
        assert!(keys.contains_key(change.key), "{} is no key of a scenario", change.key);
        assert!(!change.moves.is_empty(), "{} moves nothing", change.key);
    }
}

#[test]
fn every_key_moves_what_it_should() {
    let catalogue = catalogue();
    let mut wrong = Vec::new();
    for change in CHANGES {
        for problem in problems(&catalogue, change) {
            wrong.push(format!("{}: {:?} -> {:?}: {problem}", change.key, change.from, change.to));
        }
    }
    assert!(wrong.is_empty(), "{} changes move otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn tokens_turn_a_step_into_a_run() {
    let catalogue = support::catalogue();
    let text = BASE.replace("tokens = 1e12", "");
    let run = |assignments: &[&str]| {
        let result = simulate_with(catalogue, &text, assignments, Options::default());
        serde_json::to_value(result.unwrap_or_else(|e| panic!("{e}"))).expect("JSON")
    };
    let (step, whole) = (run(&[]), run(&["run.tokens=1e12"]));
    for path in ["run.days", "run.steps", "run.device_hours", "run.tokens"] {
        assert!(at(&step, path).is_null() && at(&whole, path).is_f64(), "{path}");
    }
    assert_eq!(at(&step, "energy.scope"), "step");
    assert_eq!(at(&whole, "energy.scope"), "run");
}
