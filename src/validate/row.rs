//! A row of a validation table, split by who may see which part.
//!
//! [`RowSpec`] is what the predictor sees: the configuration that was run. It has no field for a
//! measured value, a note or a source, so those cannot reach a prediction. [`Measured`] is what
//! scoring compares with, [`Labels`] what reports group by; the three meet again by row.

/// Every column a table may have, in the order of the committed files.
pub const COLUMNS: [&str; 48] = [
    "id",
    "source",
    "accelerator",
    "nodes_x_gpus_per_node",
    "n_devices",
    "interconnect_intra",
    "interconnect_inter",
    "model",
    "model_key",
    "n_layers",
    "d_model",
    "n_heads",
    "n_kv_heads",
    "d_ff",
    "vocab",
    "seq_len",
    "n_params",
    "moe_experts",
    "moe_topk",
    "precision",
    "tp",
    "pp",
    "vpp",
    "cp",
    "ep",
    "dp",
    "zero_stage_or_fsdp",
    "sequence_parallel",
    "recompute",
    "attention",
    "micro_batch",
    "global_batch",
    "framework",
    "options",
    "metric_name",
    "metric_value",
    "metric_unit",
    "memory_gb",
    "mfu",
    "hfu",
    "tflops_per_device",
    "step_time_s",
    "tokens_per_s_per_device",
    "family",
    "row_kind",
    "release_or_date",
    "source_group",
    "config_completeness",
];

/// Columns of [`COLUMNS`]' files beyond it that are read or passed over.
pub const MORE_COLUMNS: [&str; 3] = ["notes", "scoreable", "base"];

/// Columns without which nothing can be predicted; a table that lacks one is told so.
pub const NEEDED_COLUMNS: [&str; 9] = [
    "id",
    "accelerator",
    "n_devices",
    "model_key",
    "seq_len",
    "precision",
    "micro_batch",
    "global_batch",
    "framework",
];

/// The configuration of a row: all that a prediction may depend on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowSpec {
    /// Accelerator as the source names it.
    pub accelerator: String,
    /// Nodes times devices per node, as text.
    pub nodes: String,
    /// Number of devices.
    pub devices: Option<u32>,
    /// Links inside a node, as text.
    pub intra: String,
    /// Network between nodes, as text.
    pub inter: String,
    /// Name of the model.
    pub model: String,
    /// Key of the model in models.csv or the catalogue.
    pub model_key: String,
    /// Layers.
    pub layers: Option<u32>,
    /// Width.
    pub hidden: Option<u32>,
    /// Query heads.
    pub heads: Option<u32>,
    /// Key/value heads.
    pub kv_heads: Option<u32>,
    /// Width of the feed-forward block.
    pub ffn_hidden: Option<u32>,
    /// Vocabulary.
    pub vocab: Option<u32>,
    /// Tokens per sequence.
    pub sequence: Option<u32>,
    /// Parameters, as the source counts them.
    pub parameters: Option<f64>,
    /// Experts per layer.
    pub experts: Option<u32>,
    /// Experts per token.
    pub top_k: Option<u32>,
    /// Number format, as text.
    pub precision: String,
    /// Tensor-parallel size.
    pub tensor: Option<u32>,
    /// Pipeline stages.
    pub pipeline: Option<u32>,
    /// Chunks per pipeline device.
    pub chunks: Option<u32>,
    /// Context-parallel size.
    pub context: Option<u32>,
    /// Expert-parallel size.
    pub expert: Option<u32>,
    /// Replicas, expert-parallel ones included.
    pub data: Option<u32>,
    /// What is sharded over the replicas, as text.
    pub sharding: String,
    /// Sequence parallelism.
    pub sequence_parallel: Option<bool>,
    /// What is recomputed, as text.
    pub recompute: String,
    /// Attention kernels, as text.
    pub attention: String,
    /// Sequences per micro-batch and replica.
    pub micro_batch: Option<u32>,
    /// Sequences per step.
    pub global_batch: Option<u32>,
    /// Framework, as text.
    pub framework: String,
    /// Switches, `key=value`, in the order written.
    pub options: Vec<(String, String)>,
    /// Only adapters of low rank are trained (`LoRA`).
    pub adapters: bool,
    /// Release or date of the software, as text.
    pub date: String,
    /// What was done to read cells (thousand separators taken out, ...).
    pub remarks: Vec<String>,
}

impl RowSpec {
    /// Value of a switch.
    #[must_use]
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// What was measured. Accuracy is scored by seconds and tokens: sources count FLOPs differently.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Seconds per step.
    pub step_seconds: Option<f64>,
    /// Tokens per second and device.
    pub tokens_per_second_per_device: Option<f64>,
    /// Memory per device as a driver tool showed it, in GB.
    pub memory_gb: Option<f64>,
    /// Utilisation as printed, in percent, by the source's own count of FLOPs.
    pub mfu_percent: Option<f64>,
}

/// What rows are told apart and grouped by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labels {
    /// Identity.
    pub id: String,
    /// File it was read from.
    pub origin: String,
    /// Number of the row, the first one under the header being 1.
    pub row: u64,
    /// Line of the file it starts on.
    pub line: u64,
    /// Hardware family; from the accelerator where empty.
    pub family: String,
    /// Group of the source.
    pub source_group: String,
    /// Rows that are one configuration at several scales share a base.
    pub base: String,
    /// Its measured value, if it has one, counts as accuracy.
    pub scored: bool,
}

/// A row as read.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it is called.
    pub labels: Labels,
    /// The configuration, or what is wrong with its cells.
    pub spec: Result<RowSpec, String>,
    /// What was measured.
    pub measured: Measured,
}
