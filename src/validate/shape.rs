//! Model shapes of rows: what the row states, over models.csv, over the catalogue's preset.

use std::collections::BTreeMap;

use crate::hardware::{Catalogue, Stack};
use crate::workload::{Mlp, ModelShape, MoeShape, Norm, Positions};

use super::Reject;
use super::map::is_on;
use super::row::RowSpec;

/// The committed models.csv.
const EMBEDDED: &str = include_str!("../../tests/validation/models.csv");

/// A line of models.csv.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct KeyedModel {
    shape: ModelShape,
    /// Its attention is latent: the sizes of that are in presets only.
    latent_attention: bool,
}

/// models.csv by `model_key`.
pub(super) type Models = BTreeMap<String, KeyedModel>;

/// The embedded models.csv.
pub(super) fn embedded_models() -> Models {
    let mut reader = csv::Reader::from_reader(EMBEDDED.as_bytes());
    let columns = reader.headers().cloned().unwrap_or_default();
    let mut models = Models::new();
    for record in reader.records().flatten() {
        let cell = |name: &str| {
            let index = columns.iter().position(|column| column == name);
            index.and_then(|i| record.get(i)).unwrap_or_default().trim()
        };
        let number = |name: &str| cell(name).parse::<u32>().ok();
        let mlp = match cell("mlp") {
            "gelu" => Some(Mlp::Gelu),
            "relu2" => Some(Mlp::Relu2),
            "swiglu" => Some(Mlp::Swiglu),
            "geglu" => Some(Mlp::Geglu),
            _ => None,
        };
        let moe = number("moe_experts").filter(|n| *n > 1).and_then(|experts| {
            let expert_hidden = number("moe_d_ff")?;
            Some(MoeShape {
                node_limit: 0,
                experts,
                top_k: number("moe_topk")?,
                expert_hidden,
                shared_hidden: number("shared_experts").unwrap_or(0) * expert_hidden,
                dense_layers: number("dense_layers").unwrap_or(0),
                every: if cell("dense_layers").contains("every second") { 2 } else { 1 },
                capacity_factor: None,
                imbalance: 1.0,
            })
        });
        let shape = ModelShape {
            layers: number("n_layers"),
            hidden: number("d_model"),
            heads: number("n_heads"),
            kv_heads: number("n_kv_heads"),
            head_dim: number("head_dim"),
            ffn_hidden: number("d_ff"),
            vocab: number("vocab"),
            mlp,
            tied_embeddings: Some(cell("tied_embeddings") == "yes"),
            moe,
            ..ModelShape::default()
        };
        let latent_attention = cell("attention") == "mla";
        models.insert(cell("model_key").to_lowercase(), KeyedModel { shape, latent_attention });
    }
    models
}

/// Models that are understood and not simulated.
fn unsupported(spec: &RowSpec) -> Option<String> {
    let name = bare(&format!("{} {}", spec.model, spec.model_key));
    const STATE_SPACE: [&str; 8] = [
        "mamba",
        "jamba",
        "nemotronh",
        "nemotron3nano",
        "nemotron3super",
        "nemotron3ultra",
        "rwkv",
        "qwen3next",
    ];
    STATE_SPACE
        .iter()
        .find(|part| name.contains(*part))
        .map(|_| "state-space or linear-attention layers".to_owned())
}

/// Letters and digits of a name.
fn bare(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Shape of a row's model.
pub(super) fn shape(
    spec: &RowSpec,
    catalogue: &Catalogue,
    models: &Models,
    stack: &Stack,
    assumed: &mut Vec<String>,
) -> Result<ModelShape, Reject> {
    let key = spec.model_key.to_lowercase();
    let keyed = models.get(&key);
    if let Some(what) = unsupported(spec) {
        return Err(Reject::Unsupported(what));
    }
    let row = ModelShape {
        layers: spec.layers,
        hidden: spec.hidden,
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        ffn_hidden: spec.ffn_hidden,
        vocab: spec.vocab,
        ..ModelShape::default()
    };
    // The row's shape and a preset's are one model only if what both state is the same.
    let agrees = |shape: &ModelShape| {
        let same = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        same(row.layers, shape.layers)
            && same(row.hidden, shape.hidden)
            && same(row.heads, shape.heads)
            && same(row.ffn_hidden, shape.ffn_hidden)
    };
    let by_key = (!key.is_empty()).then(|| catalogue.model(&key).ok()).flatten();
    let by_name = || {
        let wanted = bare(&spec.model);
        let mut names = catalogue.models.values().filter(|e| {
            std::iter::once(&e.item.name).chain(&e.item.aliases).any(|name| bare(name) == wanted)
        });
        names.next().map(|e| &e.item).filter(|item| agrees(&item.shape))
    };
    let preset = by_key.or_else(|| if spec.model.is_empty() { None } else { by_name() });
    if by_key.is_none()
        && keyed.is_none()
        && let Some(preset) = preset
    {
        assumed.push(format!("rest of the shape from {}", preset.name));
    }
    let mut base = preset.map(|p| p.shape.clone()).unwrap_or_default();
    // A preset says more than models.csv (experts, latent attention, windows) and stands on its
    // own where there is one.
    if let Some(keyed) = keyed
        && preset.is_none()
    {
        if keyed.latent_attention {
            let what = "latent attention (its sizes are in no preset)";
            return Err(Reject::Unsupported(what.into()));
        }
        base = keyed.shape.clone();
    }
    if !agrees(&base) {
        assumed.push(format!("the row's shape differs from {key}'s and is taken"));
        base.head_dim = None;
        if row.kv_heads.is_none() {
            base.kv_heads = None;
        }
    }
    let mut shape = base.overlaid(&row);
    if shape.mla.is_some() {
        // Sources count key/value heads of latent attention in different ways.
        shape.kv_heads = base.kv_heads;
    }
    experts(spec, &mut shape, assumed)?;
    switches(spec, &mut shape, assumed);
    let missing: Vec<&str> = [
        (shape.layers, "n_layers"),
        (shape.hidden, "d_model"),
        (shape.heads, "n_heads"),
        (shape.ffn_hidden, "d_ff"),
        (shape.vocab, "vocab"),
    ]
    .iter()
    .filter(|(value, _)| value.is_none())
    .map(|(_, name)| *name)
    .collect();
    if !missing.is_empty() {
        let text = if key.is_empty() { &spec.model } else { &spec.model_key };
        return Err(Reject::Unsupported(format!(
            "shape incomplete ({} in neither the row nor models.csv nor a preset for `{}`)",
            missing.join(", "),
            super::table::cut(text)
        )));
    }
    if shape.kv_heads.is_none() {
        assumed.push("as many key/value heads as heads".into());
    }
    if shape.mlp.is_none() {
        let mlp = guess_mlp(spec, &shape);
        assumed.push(format!(
            "feed-forward block {} ({})",
            if mlp == Mlp::Gelu { "gelu" } else { "swiglu" },
            if spec.parameters.is_some() { "nearest to n_params" } else { "by d_ff / d_model" }
        ));
        shape.mlp = Some(mlp);
    }
    let gated = shape.mlp.is_some_and(Mlp::gated);
    if shape.norm.is_none() {
        shape.norm = Some(if gated { Norm::Rmsnorm } else { Norm::Layernorm });
    }
    if shape.positions.is_none() {
        shape.positions = Some(if gated { Positions::Rotary } else { Positions::Learned });
    }
    if shape.bias.is_none() {
        shape.bias = Some(!gated);
    }
    if shape.tied_embeddings.is_none() {
        // Megatron's GPT models share the input and output embedding; gated models do not.
        let tied = !gated && stack.name.starts_with("meg");
        shape.tied_embeddings = Some(tied);
    }
    Ok(shape)
}

/// Experts of a row: what it states over what its preset has.
fn experts(
    spec: &RowSpec,
    shape: &mut ModelShape,
    assumed: &mut Vec<String>,
) -> Result<(), Reject> {
    match (&mut shape.moe, spec.experts.filter(|n| *n > 1)) {
        (Some(moe), stated) => {
            moe.experts = stated.unwrap_or(moe.experts);
            moe.top_k = spec.top_k.unwrap_or(moe.top_k);
            if let Some(capacity) = spec.option("capacity") {
                // `dropless`, or a factor.
                moe.capacity_factor = capacity.parse().ok().filter(|factor| *factor > 0.0);
            } else {
                assumed.push("dropless experts".into());
            }
            if spec.option("routing").is_none_or(|routing| !routing.contains("balanced")) {
                assumed.push("balanced routing".into());
            }
            Ok(())
        }
        (None, Some(count)) => Err(Reject::Unsupported(format!(
            "mixture of experts whose width is not known ({count} experts, no preset)"
        ))),
        (None, None) => Ok(()),
    }
}

/// Variants of a model that a row switches on.
fn switches(spec: &RowSpec, shape: &mut ModelShape, assumed: &mut Vec<String>) {
    if let Some(value) = spec.option("parallel_block") {
        shape.parallel_block = Some(is_on(value));
    }
    if let Some(value) = spec.option("mtp") {
        shape.mtp_modules = match value.parse::<u32>() {
            Ok(modules) => Some(modules.min(16)),
            Err(_) => Some(u32::from(is_on(value))),
        };
    }
    if let Some(value) = spec.option("sliding_window").filter(|value| is_on(value)) {
        let stated = value.parse::<u32>().ok().filter(|window| *window > 1);
        let window = stated.or(shape.window).or_else(|| {
            let half = (spec.sequence? / 2).max(1);
            assumed.push(format!("window of {half} tokens (half a sequence)"));
            Some(half)
        });
        shape.window = window;
    }
}

/// Two matrices or three: whichever comes closer to the stated parameters; without those, two
/// where the block is four times as wide as the model, as GPT's is.
fn guess_mlp(spec: &RowSpec, shape: &ModelShape) -> Mlp {
    let with = |mlp| {
        let shape = ModelShape { mlp: Some(mlp), ..shape.clone() };
        shape.complete(spec.sequence.unwrap_or(1)).ok().map(|m| m.parameters() as f64)
    };
    if let Some(stated) = spec.parameters.filter(|n| *n > 0.0)
        && let (Some(two), Some(three)) = (with(Mlp::Gelu), with(Mlp::Swiglu))
    {
        return if (two / stated).ln().abs() <= (three / stated).ln().abs() {
            Mlp::Gelu
        } else {
            Mlp::Swiglu
        };
    }
    match (shape.ffn_hidden, shape.hidden) {
        (Some(ffn), Some(hidden)) if u64::from(ffn) == 4 * u64::from(hidden) => Mlp::Gelu,
        _ => Mlp::Swiglu,
    }
}
