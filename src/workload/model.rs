//! Complete models: kinds of layers, parameters, FLOPs.

use serde::Serialize;

use super::config::{MlaShape, Mlp, MoeShape, Norm, Positions};

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
    /// Attention and feed-forward block side by side.
    pub parallel_block: bool,
    /// Sliding window.
    pub window: Option<u32>,
    /// Every n-th layer has the window.
    pub window_every: u32,
    /// Multi-token-prediction modules.
    pub mtp_modules: u32,
    /// Experts.
    pub moe: Option<MoeShape>,
    /// Latent attention.
    pub mla: Option<MlaShape>,
    /// Rank of the adapters beside a frozen model (`LoRA`, Hu et al. 2021, arXiv 2106.09685); absent
    /// where the model itself is trained.
    pub adapter_rank: Option<u32>,
}

/// What distinguishes the layers of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerKind {
    /// Its feed-forward block is a mixture of experts.
    pub experts: bool,
    /// Its attention has the sliding window.
    pub windowed: bool,
}

impl LayerKind {
    /// A dense layer with full attention.
    pub const DENSE: Self = Self { experts: false, windowed: false };
}

/// Parameters by how they are divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Divided over the tensor group.
    pub tensor: u64,
    /// Replicated in the tensor group.
    pub replicated: u64,
    /// Routed experts: divided over the expert-parallel group.
    pub expert: u64,
}

impl Parameters {
    /// All of them.
    #[must_use]
    pub fn total(self) -> u64 {
        self.tensor + self.replicated + self.expert
    }

    /// What one rank of a tensor group of `tensor` and an expert group of `expert` ranks (with
    /// expert-tensor parallelism included) holds.
    #[must_use]
    pub fn on_rank(self, tensor: u32, expert: u32) -> RankParameters {
        RankParameters {
            dense: self.tensor.div_ceil(u64::from(tensor)) + self.replicated,
            expert: self.expert.div_ceil(u64::from(expert)),
        }
    }
}

/// Parameters on one rank before sharding over its replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RankParameters {
    /// Replicated over data x context ranks.
    pub dense: u64,
    /// Replicated over the ranks that hold the same experts.
    pub expert: u64,
}

impl std::ops::Add for RankParameters {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { dense: self.dense + other.dense, expert: self.expert + other.expert }
    }
}

impl std::iter::Sum for RankParameters {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), |a, b| a + b)
    }
}

impl Model {
    /// Kind of layer `index`.
    #[must_use]
    pub fn layer_kind(&self, index: u32) -> LayerKind {
        let experts = self
            .moe
            .is_some_and(|moe| index >= moe.dense_layers && (index + 1).is_multiple_of(moe.every));
        let windowed = self.window.is_some() && (index + 1).is_multiple_of(self.window_every);
        LayerKind { experts, windowed }
    }

    /// Size of a query/key head and of a value head.
    #[must_use]
    pub fn head_dims(&self) -> (u32, u32) {
        match self.mla {
            Some(mla) => (mla.nope_dim + mla.rope_dim, mla.value_dim),
            None => (self.head_dim, self.head_dim),
        }
    }

    /// Parameters of one norm.
    fn norm_parameters(&self) -> u64 {
        let h = u64::from(self.hidden);
        if self.norm == Norm::Layernorm { 2 * h } else { h }
    }

    /// Parameters of a feed-forward block of a width.
    fn mlp_parameters(&self, width: u64) -> u64 {
        let matrices = if self.mlp.gated() { 3 } else { 2 };
        matrices * u64::from(self.hidden) * width
    }

    /// Parameters of the attention block.
    fn attention_parameters(&self) -> Parameters {
        let h = u64::from(self.hidden);
        let heads = u64::from(self.heads);
        let bias = u64::from(self.bias);
        if let Some(mla) = self.mla {
            let (key, value) = self.head_dims();
            let (key, value) = (u64::from(key), u64::from(value));
            let (q, kv) = (u64::from(mla.query_rank), u64::from(mla.kv_rank));
            let rope = u64::from(mla.rope_dim);
            let query_input = if q > 0 { q } else { h };
            return Parameters {
                tensor: query_input * heads * key
                    + kv * heads * (u64::from(mla.nope_dim) + value)
                    + heads * value * h,
                // Down-projections and the norms of the compressed vectors are replicated.
                replicated: h * q + q + h * (kv + rope) + kv,
                expert: 0,
            };
        }
        let q = heads * u64::from(self.head_dim);
        let kv = u64::from(self.kv_heads) * u64::from(self.head_dim);
        Parameters {
            tensor: h * (q + 2 * kv) + q * h + bias * (q + 2 * kv),
            replicated: bias * h,
            expert: 0,
        }
    }

    /// Parameters of one layer.
    #[must_use]
    pub fn layer_parameters(&self, kind: LayerKind) -> Parameters {
        let h = u64::from(self.hidden);
        let attention = self.attention_parameters();
        let norms = if self.parallel_block { 1 } else { 2 } * self.norm_parameters();
        let mut sum = Parameters { replicated: attention.replicated + norms, ..attention };
        match self.moe.filter(|_| kind.experts) {
            Some(moe) => {
                sum.expert = u64::from(moe.experts) * self.mlp_parameters(moe.expert_hidden.into());
                sum.tensor += self.mlp_parameters(moe.shared_hidden.into());
                // The router.
                sum.replicated += h * u64::from(moe.experts);
            }
            None => {
                let f = u64::from(self.ffn_hidden);
                let up = if self.mlp.gated() { 2 * f } else { f };
                sum.tensor += self.mlp_parameters(f) + u64::from(self.bias) * up;
                sum.replicated += u64::from(self.bias) * h;
            }
        }
        sum
    }

    /// Inputs and outputs of the matrices that have adapters, over the tensor group.
    fn adapted(&self, kind: LayerKind) -> Vec<(u64, u64)> {
        let h = u64::from(self.hidden);
        let (key, value) = self.head_dims();
        let heads = u64::from(self.heads);
        let queries = heads * u64::from(key);
        let keys_values = u64::from(self.kv_heads) * u64::from(key + value);
        let mut matrices = vec![(h, queries + keys_values), (heads * u64::from(value), h)];
        if !kind.experts {
            let f = u64::from(self.ffn_hidden);
            matrices.push((h, if self.mlp.gated() { 2 * f } else { f }));
            matrices.push((f, h));
        }
        matrices
    }

    /// Matrices of a layer with adapters as (inputs, outputs), and the adapters' rank.
    #[must_use]
    pub fn adapters(&self, kind: LayerKind) -> Option<(Vec<(u64, u64)>, u64)> {
        self.adapter_rank.map(|rank| (self.adapted(kind), u64::from(rank)))
    }

    /// Parameters of one layer that are trained.
    #[must_use]
    pub fn trained_parameters(&self, kind: LayerKind) -> Parameters {
        let Some((matrices, rank)) = self.adapters(kind) else {
            return self.layer_parameters(kind);
        };
        let tensor = matrices.iter().map(|(inputs, outputs)| rank * (inputs + outputs)).sum();
        Parameters { tensor, replicated: 0, expert: 0 }
    }

    /// Kind of the layer inside a multi-token-prediction module: that of the last layer.
    #[must_use]
    pub fn mtp_kind(&self) -> LayerKind {
        self.layer_kind(self.layers.saturating_sub(1))
    }

    /// Parameters of a multi-token-prediction module: a layer, the projection of hidden state and
    /// embedding, two norms (DeepSeek-V3, arXiv 2412.19437, section 2.2; embedding and head are
    /// shared with the model).
    #[must_use]
    pub fn mtp_parameters(&self) -> Parameters {
        let h = u64::from(self.hidden);
        let mut sum = self.layer_parameters(self.mtp_kind());
        sum.tensor += 2 * h * h;
        sum.replicated += 2 * self.norm_parameters();
        sum
    }

    /// Parameters of the token embedding and a learned position table.
    #[must_use]
    pub fn embedding_parameters(&self) -> Parameters {
        let positions = if self.positions == Positions::Learned {
            u64::from(self.max_positions) * u64::from(self.hidden)
        } else {
            0
        };
        Parameters { tensor: self.vocabulary_parameters(), replicated: positions, expert: 0 }
    }

    /// Parameters of final norm and output projection; `tied` where the embedding on the same rank
    /// serves as projection.
    #[must_use]
    pub fn head_parameters(&self, tied: bool) -> Parameters {
        Parameters {
            tensor: if tied { 0 } else { self.vocabulary_parameters() },
            replicated: self.norm_parameters(),
            expert: 0,
        }
    }

    /// Parameters of the vocabulary matrix.
    #[must_use]
    pub fn vocabulary_parameters(&self) -> u64 {
        u64::from(self.vocab) * u64::from(self.hidden)
    }

    /// All parameters.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let layers: u64 = (0..self.layers)
            .map(|index| self.layer_parameters(self.layer_kind(index)).total())
            .sum();
        layers
            + u64::from(self.mtp_modules) * self.mtp_parameters().total()
            + self.embedding_parameters().total()
            + self.head_parameters(self.tied_embeddings).total()
    }

    /// Forward FLOPs of one token in the given layer's matrices, and in its attention scores and
    /// values against `sequence` keys (not halved for causality; a window limits them).
    fn layer_flops(&self, kind: LayerKind, sequence: u32) -> (f64, f64) {
        let h = f64::from(self.hidden);
        let heads = f64::from(self.heads);
        let (key, value) = self.head_dims();
        let gates = if self.mlp.gated() { 3.0 } else { 2.0 };
        let attention_matrices = match self.mla {
            Some(mla) => {
                let (q, kv) = (f64::from(mla.query_rank), f64::from(mla.kv_rank));
                let down = h * q + h * (kv + f64::from(mla.rope_dim));
                let query = if q > 0.0 { q } else { h } * heads * f64::from(key);
                let up = kv * heads * (f64::from(mla.nope_dim) + f64::from(value));
                down + query + up + heads * f64::from(value) * h
            }
            None => {
                let dim = f64::from(self.head_dim);
                h * (heads + 2.0 * f64::from(self.kv_heads)) * dim + heads * dim * h
            }
        };
        let block = match self.moe.filter(|_| kind.experts) {
            Some(moe) => {
                let width = f64::from(moe.top_k) * f64::from(moe.expert_hidden)
                    + f64::from(moe.shared_hidden);
                gates * h * width + h * f64::from(moe.experts)
            }
            None => gates * h * f64::from(self.ffn_hidden),
        };
        let keys = match self.window.filter(|_| kind.windowed) {
            Some(window) => sequence.min(window),
            None => sequence,
        };
        let scores = heads * f64::from(keys) * (f64::from(key) + f64::from(value));
        (2.0 * (attention_matrices + block), 2.0 * scores)
    }

    /// Forward FLOPs of one token: (layers' matrices, attention, vocabulary projection).
    #[must_use]
    pub fn forward_flops(&self, sequence: u32) -> (f64, f64, f64) {
        let (mut matrices, mut attention) = (0.0, 0.0);
        for index in 0..self.layers {
            let (m, a) = self.layer_flops(self.layer_kind(index), sequence);
            matrices += m;
            attention += a;
        }
        let modules = f64::from(self.mtp_modules);
        if self.mtp_modules > 0 {
            let h = f64::from(self.hidden);
            let (m, a) = self.layer_flops(self.mtp_kind(), sequence);
            matrices += modules * (m + 4.0 * h * h);
            attention += modules * a;
        }
        let head = 2.0 * f64::from(self.hidden) * f64::from(self.vocab) * (1.0 + modules);
        (matrices, attention, head)
    }

    /// Model FLOPs of one training step on `tokens` tokens in sequences of `sequence`: three times
    /// the forward pass, attention counted without causal savings, recomputation not counted
    /// (Chowdhery et al. 2022, PaLM, appendix B). A frozen model has no weight gradients: the
    /// matrices count twice.
    #[must_use]
    pub fn step_flops(&self, tokens: f64, sequence: u32) -> f64 {
        let (matrices, attention, head) = self.forward_flops(sequence);
        let of_matrices = if self.adapter_rank.is_some() { 2.0 } else { 3.0 };
        (of_matrices * (matrices + head) + 3.0 * attention) * tokens
    }
}
