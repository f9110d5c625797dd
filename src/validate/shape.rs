//! Model shapes of rows: what the row states, over models.csv, over the catalogue's preset.

use std::collections::BTreeMap;

use crate::hardware::{Catalogue, Stack};
use crate::workload::{Mlp, ModelShape, Norm, Positions};

use super::Reject;
use super::row::RowSpec;

/// The committed models.csv.
const EMBEDDED: &str = include_str!("../../tests/validation/models.csv");

/// A line of models.csv.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct KeyedModel {
    shape: ModelShape,
    experts: Option<u32>,
    top_k: Option<u32>,
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
            ..ModelShape::default()
        };
        models.insert(
            cell("model_key").to_lowercase(),
            KeyedModel {
                shape,
                experts: number("moe_experts"),
                top_k: number("moe_topk"),
                latent_attention: cell("attention") == "mla",
            },
        );
    }
    models
}

/// What of a model the simulator does not have yet.
fn unsupported(spec: &RowSpec, keyed: Option<&KeyedModel>) -> Option<String> {
    let experts = spec.experts.or(keyed.and_then(|k| k.experts)).filter(|n| *n > 1);
    if let Some(experts) = experts {
        let top = spec.top_k.or(keyed.and_then(|k| k.top_k));
        let top = top.map_or_else(String::new, |k| format!(", {k} per token"));
        return Some(format!("mixture of experts ({experts} experts{top})"));
    }
    if keyed.is_some_and(|k| k.latent_attention) {
        return Some("multi-head latent attention".into());
    }
    let name = format!("{} {}", spec.model, spec.model_key).to_lowercase();
    ["mamba", "jamba", "nemotron_h", "nemotron-h", "nemotron_3_nano", "nemotron-3-nano", "rwkv"]
        .iter()
        .find(|part| name.contains(*part))
        .map(|_| "state-space layers".to_owned())
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
    if let Some(what) = unsupported(spec, keyed) {
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
    if let Some(keyed) = keyed {
        base = base.overlaid(&keyed.shape);
    }
    if !agrees(&base) {
        assumed.push(format!("the row's shape differs from {key}'s and is taken"));
        base.head_dim = None;
        if row.kv_heads.is_none() {
            base.kv_heads = None;
        }
    }
    let mut shape = base.overlaid(&row);
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
            "shape incomplete: {} in neither the row nor models.csv nor a preset for `{}`",
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
