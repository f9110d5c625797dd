//! Model shapes: what a model's configuration file says.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hardware::Sources;

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
        let mlp = self.mlp.ok_or(("mlp", "is missing".to_owned()))?;
        let positions = self.positions.unwrap_or(Positions::Rotary);
        Ok(Model {
            layers,
            hidden,
            heads,
            kv_heads,
            head_dim,
            ffn_hidden: need(Some(self.ffn_hidden.unwrap_or(4 * hidden)), "ffn_hidden")?,
            vocab,
            mlp,
            positions,
            max_positions: self.max_positions.unwrap_or(sequence),
            norm: self.norm.unwrap_or(Norm::Rmsnorm),
            tied_embeddings: self.tied_embeddings.unwrap_or(false),
            bias: self.bias.unwrap_or(false),
        })
    }
}

/// A complete model shape.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Model {
    /// Number of layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Size of a head.
    pub head_dim: u32,
    /// Width of the feed-forward block.
    pub ffn_hidden: u32,
    /// Vocabulary size.
    pub vocab: u32,
    /// Feed-forward block.
    pub mlp: Mlp,
    /// Positions.
    pub positions: Positions,
    /// Rows of a learned position table.
    pub max_positions: u32,
    /// Normalisation.
    pub norm: Norm,
    /// Input and output embedding are one matrix.
    pub tied_embeddings: bool,
    /// Linear layers have biases.
    pub bias: bool,
}

impl Model {
    /// Parameters of one norm.
    fn norm_parameters(&self) -> u64 {
        let h = u64::from(self.hidden);
        if self.norm == Norm::Layernorm { 2 * h } else { h }
    }

    /// Parameters of one layer's matrices and biases that tensor parallelism divides, and of those
    /// it replicates (norms, biases of row-parallel layers).
    #[must_use]
    pub fn layer_parameters(&self) -> (u64, u64) {
        let h = u64::from(self.hidden);
        let q = u64::from(self.heads) * u64::from(self.head_dim);
        let kv = u64::from(self.kv_heads) * u64::from(self.head_dim);
        let f = u64::from(self.ffn_hidden);
        let up = if self.mlp.gated() { 2 * f } else { f };
        let bias = u64::from(self.bias);
        let divided = h * (q + 2 * kv) + q * h + h * up + f * h + bias * (q + 2 * kv + up);
        let replicated = 2 * self.norm_parameters() + bias * 2 * h;
        (divided, replicated)
    }

    /// Parameters of the token embedding (also of an untied output projection).
    #[must_use]
    pub fn vocabulary_parameters(&self) -> u64 {
        u64::from(self.vocab) * u64::from(self.hidden)
    }

    /// Parameters of a learned position table.
    #[must_use]
    pub fn position_parameters(&self) -> u64 {
        if self.positions == Positions::Learned {
            u64::from(self.max_positions) * u64::from(self.hidden)
        } else {
            0
        }
    }

    /// All parameters.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let (divided, replicated) = self.layer_parameters();
        u64::from(self.layers) * (divided + replicated)
            + self.vocabulary_parameters() * if self.tied_embeddings { 1 } else { 2 }
            + self.position_parameters()
            + self.norm_parameters()
    }

    /// Parameters that one rank of a pipeline stage holds, before sharding over data-parallel
    /// ranks: layers, and embedding and head where the stage has them.
    #[must_use]
    pub fn rank_parameters(&self, layers: u32, tensor: u32, first: bool, last: bool) -> u64 {
        let t = u64::from(tensor);
        let (divided, replicated) = self.layer_parameters();
        let vocabulary = self.vocabulary_parameters().div_ceil(t);
        let mut count = u64::from(layers) * (divided.div_ceil(t) + replicated);
        if first {
            count += vocabulary + self.position_parameters();
        }
        if last {
            count += self.norm_parameters();
            // A tied matrix has a second copy where first and last stage are different ranks.
            if !self.tied_embeddings || !first {
                count += vocabulary;
            }
        }
        count
    }

    /// Model FLOPs of one training step on `tokens` tokens in sequences of `sequence`: three times
    /// the forward pass, attention counted without causal savings, recomputation not counted
    /// (Chowdhery et al. 2022, PaLM, appendix B).
    #[must_use]
    pub fn step_flops(&self, tokens: f64, sequence: u32) -> f64 {
        let h = f64::from(self.hidden);
        let q = f64::from(self.heads) * f64::from(self.head_dim);
        let kv = f64::from(self.kv_heads) * f64::from(self.head_dim);
        let f = f64::from(self.ffn_hidden);
        let up = if self.mlp.gated() { 2.0 * f } else { f };
        let matrices = h * (q + 2.0 * kv) + q * h + h * up + f * h;
        let attention = 2.0 * q * f64::from(sequence);
        let forward =
            2.0 * (f64::from(self.layers) * (matrices + attention) + h * f64::from(self.vocab));
        3.0 * forward * tokens
    }
}
