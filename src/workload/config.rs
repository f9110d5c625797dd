//! Model shapes: what a model's configuration file says.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hardware::Sources;

use super::model::Model;

/// Feed-forward block of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mlp {
    /// Two matrices and GeLU.
    Gelu,
    /// Two matrices and squared ReLU.
    Relu2,
    /// Three matrices, SiLU gate.
    Swiglu,
    /// Three matrices, GeLU gate.
    Geglu,
}

impl Mlp {
    /// Whether the up-projection has a gate beside it (three matrices instead of two).
    #[must_use]
    pub fn gated(self) -> bool {
        matches!(self, Self::Swiglu | Self::Geglu)
    }
}

/// How positions enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// A learned vector per position is added to the embedding.
    Learned,
    /// Queries and keys are rotated in every layer.
    Rotary,
    /// A linear bias inside attention.
    Alibi,
}

/// Normalisation layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Mean and variance, weight and bias.
    Layernorm,
    /// Root mean square, weight only.
    Rmsnorm,
}

/// A model preset: one file of `hw-models/models/`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Catalogue name, such as `llama-3-8b`.
    pub name: String,
    /// Full name for people.
    pub title: String,
    /// Other names it is known by.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The shape.
    pub shape: ModelShape,
    /// Published number of parameters, which a test compares with the computed one.
    pub published_parameters: Option<f64>,
    /// Where the shape comes from.
    pub sources: Sources,
}

/// The shape of a decoder-only transformer. Every key is optional here, since a scenario may
/// state only what differs from its preset; [`ModelShape::complete`] says what is missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    /// Number of layers.
    pub layers: Option<u32>,
    /// Width of the residual stream.
    pub hidden: Option<u32>,
    /// Attention (query) heads.
    pub heads: Option<u32>,
    /// Key/value heads; as many as heads if absent.
    pub kv_heads: Option<u32>,
    /// Size of a head; hidden / heads if absent.
    pub head_dim: Option<u32>,
    /// Width of the feed-forward block; 4 x hidden if absent.
    pub ffn_hidden: Option<u32>,
    /// Vocabulary size as embedded (padded).
    pub vocab: Option<u32>,
    /// Feed-forward block.
    pub mlp: Option<Mlp>,
    /// Positions.
    pub positions: Option<Positions>,
    /// Longest sequence that learned positions cover; the training length if absent.
    pub max_positions: Option<u32>,
    /// Normalisation.
    pub norm: Option<Norm>,
    /// Input and output embedding are one matrix.
    pub tied_embeddings: Option<bool>,
    /// Linear layers have biases.
    pub bias: Option<bool>,
    /// Attention and feed-forward block work side by side on the same input.
    pub parallel_block: Option<bool>,
    /// Tokens that a query sees with sliding-window attention; all if absent.
    pub window: Option<u32>,
    /// The window holds in every n-th layer only (default 1: in all).
    pub window_every: Option<u32>,
    /// Multi-token-prediction modules after the last layer.
    pub mtp_modules: Option<u32>,
    /// Mixture of experts; dense if absent.
    pub moe: Option<MoeShape>,
    /// Multi-head latent attention; ordinary heads if absent.
    pub mla: Option<MlaShape>,
}

/// Mixture of experts in the feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MoeShape {
    /// Routed experts per layer.
    pub experts: u32,
    /// Experts that a token is sent to.
    pub top_k: u32,
    /// Nodes that a token's experts are on at most (node-limited routing); 0 for no limit.
    #[serde(default)]
    pub node_limit: u32,
    /// Width of one expert.
    pub expert_hidden: u32,
    /// Width of the expert that every token passes (all shared experts together); 0 for none.
    #[serde(default)]
    pub shared_hidden: u32,
    /// Leading layers that are dense.
    #[serde(default)]
    pub dense_layers: u32,
    /// Experts in every n-th layer only, the others dense (default 1: in all).
    #[serde(default = "one")]
    pub every: u32,
    /// Tokens an expert takes, over the mean; absent: dropless, every token is served and the host
    /// waits for the counts.
    #[serde(default)]
    pub capacity_factor: Option<f64>,
    /// Tokens of the busiest rank over the mean; 1 is balanced routing.
    #[serde(default = "balanced")]
    pub imbalance: f64,
}

fn one() -> u32 {
    1
}
fn balanced() -> f64 {
    1.0
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MlaShape {
    /// Width of the compressed queries; 0 where queries are not compressed.
    pub query_rank: u32,
    /// Width of the compressed keys and values.
    pub kv_rank: u32,
    /// Rotated part of a query/key head.
    pub rope_dim: u32,
    /// Unrotated part of a query/key head.
    pub nope_dim: u32,
    /// Size of a value head.
    pub value_dim: u32,
}

impl ModelShape {
    /// This shape with the keys of `over` put over it.
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        Self {
            layers: over.layers.or(self.layers),
            hidden: over.hidden.or(self.hidden),
            heads: over.heads.or(self.heads),
            kv_heads: over.kv_heads.or(self.kv_heads),
            head_dim: over.head_dim.or(self.head_dim),
            ffn_hidden: over.ffn_hidden.or(self.ffn_hidden),
            vocab: over.vocab.or(self.vocab),
            mlp: over.mlp.or(self.mlp),
            positions: over.positions.or(self.positions),
            max_positions: over.max_positions.or(self.max_positions),
            norm: over.norm.or(self.norm),
            tied_embeddings: over.tied_embeddings.or(self.tied_embeddings),
            bias: over.bias.or(self.bias),
            parallel_block: over.parallel_block.or(self.parallel_block),
            window: over.window.or(self.window),
            window_every: over.window_every.or(self.window_every),
            mtp_modules: over.mtp_modules.or(self.mtp_modules),
            moe: over.moe.or(self.moe),
            mla: over.mla.or(self.mla),
        }
    }

    /// The model, where everything that must be stated is.
    ///
    /// # Errors
    /// The key that is missing or makes no sense, and why.
    pub fn complete(&self, sequence: u32) -> Result<Model, (&'static str, String)> {
        let need = |value: Option<u32>, key: &'static str| match value {
            None => Err((key, "is missing: name a preset, or state the whole shape".to_owned())),
            Some(0) => Err((key, "must be at least 1".to_owned())),
            Some(value) => Ok(value),
        };
        let (layers, hidden, heads, vocab) = (
            need(self.layers, "layers")?,
            need(self.hidden, "hidden")?,
            need(self.heads, "heads")?,
            need(self.vocab, "vocab")?,
        );
        let head_dim = match self.head_dim {
            Some(0) => return Err(("head_dim", "must be at least 1".into())),
            Some(size) => size,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                return Err((
                    "heads",
                    format!("hidden {hidden} is not divisible by {heads} heads; state head_dim"),
                ));
            }
        };
        let kv_heads = need(Some(self.kv_heads.unwrap_or(heads)), "kv_heads")?;
        if heads % kv_heads != 0 {
            return Err((
                "kv_heads",
                format!("{heads} heads are not divisible by {kv_heads} key/value heads"),
            ));
        }
        if self.window == Some(0) {
            return Err(("window", "must be at least 1".into()));
        }
        if let Some(moe) = &self.moe {
            for (key, value) in [
                ("moe.experts", moe.experts),
                ("moe.top_k", moe.top_k),
                ("moe.expert_hidden", moe.expert_hidden),
                ("moe.every", moe.every),
            ] {
                need(Some(value), key)?;
            }
            if moe.top_k > moe.experts {
                return Err((
                    "moe.top_k",
                    format!("{} is more than the {} experts", moe.top_k, moe.experts),
                ));
            }
            if moe.imbalance < 1.0 {
                return Err(("moe.imbalance", "is the maximum over the mean: at least 1".into()));
            }
            if moe.capacity_factor.is_some_and(|factor| factor == 0.0) {
                return Err(("moe.capacity_factor", "must be above 0".into()));
            }
        }
        if let Some(mla) = &self.mla {
            for (key, value) in [
                ("mla.kv_rank", mla.kv_rank),
                ("mla.nope_dim", mla.nope_dim),
                ("mla.value_dim", mla.value_dim),
            ] {
                need(Some(value), key)?;
            }
        }
        let mlp = self.mlp.ok_or(("mlp", "is missing".to_owned()))?;
        let positions = self.positions.unwrap_or(Positions::Rotary);
        Ok(Model {
            layers,
            hidden,
            heads,
            kv_heads,
            head_dim,
            ffn_hidden: need(
                Some(self.ffn_hidden.unwrap_or(hidden.saturating_mul(4))),
                "ffn_hidden",
            )?,
            vocab,
            mlp,
            positions,
            max_positions: self.max_positions.unwrap_or(sequence),
            norm: self.norm.unwrap_or(Norm::Rmsnorm),
            tied_embeddings: self.tied_embeddings.unwrap_or(false),
            bias: self.bias.unwrap_or(false),
            parallel_block: self.parallel_block.unwrap_or(false),
            window: self.window,
            window_every: need(Some(self.window_every.unwrap_or(1)), "window_every")?,
            mtp_modules: self.mtp_modules.unwrap_or(0),
            moe: self.moe,
            mla: self.mla,
            adapter_rank: None,
        })
    }
}
