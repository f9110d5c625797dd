//! One layer (and embedding, head) as kernels and tensor-parallel communication, with the shapes
//! that one rank sees.
//!
//! Sequence parallelism follows Korthikanti et al. 2022: outside of the tensor-parallel blocks
//! every rank has `1/t` of the tokens; all-reduces become all-gather / reduce-scatter pairs, and
//! the backward pass gathers the inputs again.

use crate::hardware::{AttentionKernel, Fusion};
use crate::plan::Recompute;
use crate::program::{AttentionPass, Collective, KernelClass, Precision, Work};

use super::config::{Model, Norm, Positions};

/// Everything that decides the kernels of a layer on one rank.
#[derive(Clone, Debug)]
pub struct LayerContext<'a> {
    /// Model shape.
    pub model: &'a Model,
    /// Sequences per micro-batch.
    pub batch: u32,
    /// Tokens per sequence on this rank.
    pub sequence: u32,
    /// Tensor-parallel size.
    pub tensor: u32,
    /// Sequence parallelism.
    pub sequence_parallel: bool,
    /// Format of the linear layers.
    pub precision: Precision,
    /// Attention kernels.
    pub attention: AttentionKernel,
    /// What is fused.
    pub fusion: &'a Fusion,
    /// What is recomputed.
    pub recompute: Recompute,
    /// Tensor-parallel backward communication runs beside the weight-gradient GEMM.
    pub overlap_tensor: bool,
}

/// An element of a pass.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A kernel.
    Kernel {
        /// Name for people.
        name: &'static str,
        /// Purpose.
        class: KernelClass,
        /// Shape.
        work: Work,
        /// It repeats forward work in the backward pass.
        recompute: bool,
    },
    /// A tensor-parallel collective that the next kernel needs.
    Tensor {
        /// Pattern.
        collective: Collective,
        /// Whole buffer.
        bytes: u64,
        /// It repeats forward communication in the backward pass.
        recompute: bool,
    },
    /// A tensor-parallel collective that runs beside the next kernels, until [`Item::TensorWait`].
    TensorAsync {
        /// Pattern.
        collective: Collective,
        /// Whole buffer.
        bytes: u64,
    },
    /// The next kernel needs the asynchronous collective.
    TensorWait,
}

/// Bytes of an activation element. Compute in 16 bits, also in fp8 recipes, which cast at GEMMs.
const ACTIVATION_BYTES: u64 = 2;

impl LayerContext<'_> {
    fn tokens(&self) -> u64 {
        u64::from(self.batch) * u64::from(self.sequence)
    }
    /// Tokens outside of the tensor-parallel blocks.
    fn outer_tokens(&self) -> u64 {
        if self.sequence_parallel {
            self.tokens().div_ceil(u64::from(self.tensor))
        } else {
            self.tokens()
        }
    }
    fn hidden(&self) -> u64 {
        u64::from(self.model.hidden)
    }
    fn heads(&self) -> u64 {
        u64::from(self.model.heads / self.tensor)
    }
    /// Key/value heads are replicated where there are fewer than ranks.
    fn kv_heads(&self) -> u64 {
        u64::from(self.model.kv_heads.div_ceil(self.tensor))
    }
    fn query_width(&self) -> u64 {
        self.heads() * u64::from(self.model.head_dim)
    }
    fn kv_width(&self) -> u64 {
        self.kv_heads() * u64::from(self.model.head_dim)
    }
    fn ffn(&self) -> u64 {
        u64::from(self.model.ffn_hidden).div_ceil(u64::from(self.tensor))
    }
    fn up_width(&self) -> u64 {
        self.ffn() * if self.model.mlp.gated() { 2 } else { 1 }
    }
    fn vocabulary(&self) -> u64 {
        u64::from(self.model.vocab).div_ceil(u64::from(self.tensor))
    }
    /// Bytes of the residual stream of a micro-batch, all tokens.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.tokens() * self.hidden() * ACTIVATION_BYTES
    }

    fn gemm(&self, name: &'static str, m: u64, n: u64, k: u64) -> Item {
        self.gemm_as(name, m, n, k, self.precision)
    }
    fn gemm_as(&self, name: &'static str, m: u64, n: u64, k: u64, precision: Precision) -> Item {
        Item::Kernel {
            name,
            class: KernelClass::Gemm,
            work: Work::Gemm { m, n, k, batch: 1, precision },
            recompute: false,
        }
    }
    fn stream(name: &'static str, class: KernelClass, bytes: u64, launches: u32) -> Item {
        Item::Kernel { name, class, work: Work::Stream { bytes, launches }, recompute: false }
    }
    /// Casts of a GEMM's operands to a narrow format: read 16 bits, write the narrow copy, and its
    /// transpose where backward needs one.
    fn casts(&self, items: &mut Vec<Item>, elements: u64) {
        if matches!(self.precision, Precision::Fp8 | Precision::Fp4) {
            let narrow = self.precision.bytes();
            let bytes = elements as f64 * (ACTIVATION_BYTES as f64 + 2.0 * narrow);
            items.push(Self::stream("cast", KernelClass::Cast, bytes as u64, 1));
        }
    }

    fn norm(&self, backward: bool) -> Item {
        let elements = self.outer_tokens() * self.hidden();
        let launches = match (self.fusion.norm, self.model.norm) {
            (true, _) => 1,
            (false, Norm::Layernorm) => 5,
            (false, Norm::Rmsnorm) => 4,
        };
        // Forward reads and writes; backward reads input and gradient and writes a gradient, added
        // to the one of the residual path, which is read and written too.
        let passes = if backward { 5 } else { 2 };
        let unfused = if launches > 1 { u64::from(launches) } else { 1 };
        Self::stream(
            if backward { "norm backward" } else { "norm" },
            KernelClass::Norm,
            elements * ACTIVATION_BYTES * passes * unfused,
            launches,
        )
    }

    /// Bias, dropout and residual addition after a row-parallel layer.
    fn residual(&self, backward: bool) -> Option<Item> {
        let elements = self.outer_tokens() * self.hidden();
        let (dropout, bias) = (self.fusion.dropout, self.model.bias);
        let mask = u64::from(dropout);
        if backward {
            // Without dropout or bias the gradient passes unchanged.
            let bytes = elements * (if dropout { 2 * ACTIVATION_BYTES + mask } else { 0 })
                + elements * if bias { ACTIVATION_BYTES } else { 0 };
            return (bytes > 0).then(|| {
                Self::stream(
                    "bias-dropout backward",
                    KernelClass::Elementwise,
                    bytes,
                    u32::from(dropout) + u32::from(bias),
                )
            });
        }
        let fused = self.fusion.bias_dropout_add;
        let separate = 1 + u64::from(dropout) + u64::from(bias);
        let bytes = if fused {
            elements * (3 * ACTIVATION_BYTES + mask)
        } else {
            elements * (3 * ACTIVATION_BYTES + (separate - 1) * 2 * ACTIVATION_BYTES + mask)
        };
        let launches = if fused { 1 } else { separate as u32 };
        Some(Self::stream("bias-dropout-add", KernelClass::Elementwise, bytes, launches))
    }

    fn activation(&self, backward: bool) -> Item {
        let elements = self.tokens() * self.ffn();
        let gated = self.model.mlp.gated();
        let passes = match (gated, backward) {
            (false, false) => 2,
            (false, true) => 3,
            (true, false) => 3,
            (true, true) => 5,
        };
        let fused = self.fusion.bias_activation;
        let launches = if fused { 1 } else { 2 + u32::from(self.model.bias) };
        let extra = if fused { 0 } else { 2 * u64::from(launches - 1) };
        Self::stream(
            if backward { "activation backward" } else { "activation" },
            KernelClass::Elementwise,
            elements * ACTIVATION_BYTES * (passes + extra),
            launches,
        )
    }

    fn rotary(&self, items: &mut Vec<Item>) {
        if self.model.positions == Positions::Rotary {
            let elements = self.tokens() * (self.query_width() + self.kv_width());
            let launches = if self.fusion.rotary { 1 } else { 6 };
            let passes = if self.fusion.rotary { 2 } else { 8 };
            items.push(Self::stream(
                "rotary",
                KernelClass::Elementwise,
                elements * ACTIVATION_BYTES * passes,
                launches,
            ));
        }
    }

    /// Query-key pairs of one causal sequence.
    fn causal_pairs(&self) -> u64 {
        let s = u64::from(self.sequence);
        s * (s + 1) / 2
    }

    /// The attention core: from Q, K, V to its output, or back.
    fn attention_core(&self, backward: bool) -> Vec<Item> {
        let (b, s) = (u64::from(self.batch), u64::from(self.sequence));
        let dim = u64::from(self.model.head_dim);
        let mut items = Vec::new();
        match self.attention {
            AttentionKernel::Flash => {
                let pass = if backward { AttentionPass::Backward } else { AttentionPass::Forward };
                items.push(Item::Kernel {
                    name: if backward { "attention backward" } else { "attention" },
                    class: KernelClass::Attention,
                    work: Work::Attention {
                        pass,
                        batch: b,
                        heads: self.heads(),
                        kv_heads: self.kv_heads(),
                        queries: s,
                        keys: s,
                        pairs: self.causal_pairs(),
                        head_dim: dim,
                        value_dim: dim,
                        // Attention stays in 16 bits in every published fp8 recipe.
                        precision: self.wide_precision(),
                    },
                    recompute: false,
                });
            }
            AttentionKernel::Unfused => {
                // Batched GEMMs over the full score matrix: causality saves nothing here.
                let batch = b * self.heads();
                let scores = batch * s * s;
                let gemm = |name, m, n, k| Item::Kernel {
                    name,
                    class: KernelClass::Attention,
                    work: Work::Gemm { m, n, k, batch, precision: self.wide_precision() },
                    recompute: false,
                };
                let mask = u64::from(self.fusion.dropout);
                // Softmax reads and writes the scores; without the fused kernel, scale, mask and
                // the conversion to fp32 and back are passes of their own.
                let (softmax_passes, softmax_launches) =
                    if self.fusion.softmax { (2, 1) } else { (8, 4) };
                let dropout = Self::stream(
                    if backward { "attention dropout backward" } else { "attention dropout" },
                    KernelClass::Attention,
                    scores * (2 * ACTIVATION_BYTES + mask),
                    1,
                );
                if backward {
                    items.push(gemm("attention dP", s, s, dim));
                    items.push(gemm("attention dV", s, dim, s));
                    if self.fusion.dropout {
                        items.push(dropout);
                    }
                    items.push(Self::stream(
                        "softmax backward",
                        KernelClass::Attention,
                        scores * ACTIVATION_BYTES * (softmax_passes + 1),
                        softmax_launches,
                    ));
                    items.push(gemm("attention dQ", s, dim, s));
                    items.push(gemm("attention dK", s, dim, s));
                } else {
                    items.push(gemm("attention scores", s, s, dim));
                    items.push(Self::stream(
                        "softmax",
                        KernelClass::Attention,
                        scores * ACTIVATION_BYTES * softmax_passes,
                        softmax_launches,
                    ));
                    if self.fusion.dropout {
                        items.push(dropout);
                    }
                    items.push(gemm("attention values", s, dim, s));
                }
            }
        }
        items
    }

    fn wide_precision(&self) -> Precision {
        match self.precision {
            Precision::Fp8 | Precision::Fp4 => Precision::Bf16,
            wide => wide,
        }
    }

    /// Entering a tensor-parallel block forward: nothing, or a gather of the sequence shards.
    fn enter(&self, items: &mut Vec<Item>) {
        if self.tensor > 1 && self.sequence_parallel {
            items.push(Item::Tensor {
                collective: Collective::AllGather,
                bytes: self.stream_bytes(),
                recompute: false,
            });
        }
    }

    /// Leaving it: the sum over the tensor group.
    fn leave(&self, items: &mut Vec<Item>) {
        if self.tensor > 1 {
            items.push(Item::Tensor {
                collective: if self.sequence_parallel {
                    Collective::ReduceScatter
                } else {
                    Collective::AllReduce
                },
                bytes: self.stream_bytes(),
                recompute: false,
            });
        }
    }

    /// Forward pass of a layer.
    #[must_use]
    pub fn forward(&self) -> Vec<Item> {
        let (t, h) = (self.tokens(), self.hidden());
        let mut items = vec![self.norm(false)];
        self.enter(&mut items);
        self.casts(&mut items, t * h);
        items.push(self.gemm("qkv", t, self.query_width() + 2 * self.kv_width(), h));
        self.rotary(&mut items);
        items.extend(self.attention_core(false));
        self.casts(&mut items, t * self.query_width());
        items.push(self.gemm("attention projection", t, h, self.query_width()));
        self.leave(&mut items);
        items.extend(self.residual(false));
        items.push(self.norm(false));
        self.enter(&mut items);
        self.casts(&mut items, t * h);
        items.push(self.gemm("fc1", t, self.up_width(), h));
        items.push(self.activation(false));
        self.casts(&mut items, t * self.ffn());
        items.push(self.gemm("fc2", t, h, self.ffn()));
        self.leave(&mut items);
        items.extend(self.residual(false));
        items
    }

    /// Backward through a column-parallel layer (`in` wide input, `out` wide output on this rank):
    /// input gradient, its sum over the tensor group beside the weight gradient.
    fn column_backward(&self, items: &mut Vec<Item>, names: [&'static str; 2], out: u64) {
        let (t, h) = (self.tokens(), self.hidden());
        let parallel = self.tensor > 1;
        let gather_again = |items: &mut Vec<Item>| {
            if parallel && self.sequence_parallel {
                let bytes = self.stream_bytes();
                let collective = Collective::AllGather;
                items.push(if self.overlap_tensor {
                    Item::TensorAsync { collective, bytes }
                } else {
                    Item::Tensor { collective, bytes, recompute: false }
                });
            }
        };
        self.casts(items, t * out);
        gather_again(items);
        items.push(self.gemm(names[0], t, h, out));
        let reduce =
            if self.sequence_parallel { Collective::ReduceScatter } else { Collective::AllReduce };
        let bytes = self.stream_bytes();
        if parallel && self.overlap_tensor {
            if self.sequence_parallel {
                // The weight gradient needs the gathered input.
                items.push(Item::TensorWait);
            }
            items.push(Item::TensorAsync { collective: reduce, bytes });
            items.push(self.gemm(names[1], out, h, t));
            items.push(Item::TensorWait);
        } else {
            if parallel {
                items.push(Item::Tensor { collective: reduce, bytes, recompute: false });
            }
            items.push(self.gemm(names[1], out, h, t));
        }
    }

    /// Backward through a row-parallel layer with `input` columns on this rank.
    fn row_backward(&self, items: &mut Vec<Item>, names: [&'static str; 2], input: u64) {
        let (t, h) = (self.tokens(), self.hidden());
        items.extend(self.residual(true));
        self.enter(items);
        self.casts(items, t * h);
        items.push(self.gemm(names[0], t, input, h));
        items.push(self.gemm(names[1], h, input, t));
    }

    /// Backward pass of a layer, including what the plan recomputes.
    #[must_use]
    pub fn backward(&self) -> Vec<Item> {
        let mut items = Vec::new();
        if self.recompute == Recompute::Full {
            items.extend(self.forward().into_iter().map(as_recompute));
        }
        self.row_backward(&mut items, ["fc2 dgrad", "fc2 wgrad"], self.ffn());
        items.push(self.activation(true));
        self.column_backward(&mut items, ["fc1 dgrad", "fc1 wgrad"], self.up_width());
        items.push(self.norm(true));
        self.row_backward(
            &mut items,
            ["attention projection dgrad", "attention projection wgrad"],
            self.query_width(),
        );
        if self.recompute == Recompute::Selective {
            items.extend(self.attention_core(false).into_iter().map(as_recompute));
        }
        items.extend(self.attention_core(true));
        self.rotary(&mut items);
        self.column_backward(
            &mut items,
            ["qkv dgrad", "qkv wgrad"],
            self.query_width() + 2 * self.kv_width(),
        );
        items.push(self.norm(true));
        items
    }

    /// Embedding lookup, positions, dropout.
    #[must_use]
    pub fn embedding_forward(&self) -> Vec<Item> {
        let elements = self.tokens() * self.hidden();
        let mut items = vec![Self::stream(
            "embedding",
            KernelClass::Embedding,
            elements * ACTIVATION_BYTES * 2,
            1,
        )];
        self.leave(&mut items);
        let outer = self.outer_tokens() * self.hidden();
        if self.model.positions == Positions::Learned {
            items.push(Self::stream(
                "position embedding",
                KernelClass::Embedding,
                outer * ACTIVATION_BYTES * 3,
                1,
            ));
        }
        if self.fusion.dropout {
            items.push(Self::stream(
                "embedding dropout",
                KernelClass::Embedding,
                outer * (2 * ACTIVATION_BYTES + 1),
                1,
            ));
        }
        items
    }

    /// Gradient of the embedding table: rows of gradients added into an fp32 or 16-bit table.
    #[must_use]
    pub fn embedding_backward(&self) -> Vec<Item> {
        let mut items = Vec::new();
        self.enter(&mut items);
        let elements = self.tokens() * self.hidden();
        items.push(Self::stream(
            "embedding backward",
            KernelClass::Embedding,
            elements * (ACTIVATION_BYTES + 2 * 4),
            2,
        ));
        items
    }

    /// Final norm, logits and loss over a vocabulary split over the tensor group.
    #[must_use]
    pub fn head_forward(&self) -> Vec<Item> {
        let (t, v) = (self.tokens(), self.vocabulary());
        let mut items = vec![self.norm(false)];
        self.enter(&mut items);
        items.push(self.gemm_as("logits", t, v, self.hidden(), self.wide_precision()));
        // The loss is computed in fp32: conversion, maximum, exponential and sum.
        let (bytes, launches) =
            if self.fusion.cross_entropy { (2 + 4, 2) } else { (2 + 4 + 4 + 4 + 4 + 4, 6) };
        items.push(Self::stream("loss", KernelClass::Loss, t * v * bytes, launches));
        if self.tensor > 1 {
            // Maximum, target logit and sum of exponentials, one fp32 per token each.
            for _ in 0..3 {
                items.push(Item::Tensor {
                    collective: Collective::AllReduce,
                    bytes: t * 4,
                    recompute: false,
                });
            }
        }
        items
    }

    /// Backward of the head.
    #[must_use]
    pub fn head_backward(&self) -> Vec<Item> {
        let (t, v, h) = (self.tokens(), self.vocabulary(), self.hidden());
        let bytes = if self.fusion.cross_entropy { 4 + 2 } else { 4 + 4 + 4 + 2 };
        let mut items = vec![Self::stream("loss backward", KernelClass::Loss, t * v * bytes, 2)];
        let wide = LayerContext { precision: self.wide_precision(), ..self.clone() };
        wide.column_backward(&mut items, ["logits dgrad", "logits wgrad"], v);
        items.push(self.norm(true));
        debug_assert!(h > 0);
        items
    }

    /// Bytes kept per layer and micro-batch from forward to backward (Korthikanti et al. 2022,
    /// equations 1-4, generalised to grouped heads, gates and fused attention).
    #[must_use]
    pub fn saved_bytes(&self) -> u64 {
        let outer = self.outer_tokens() * self.hidden();
        let stream = outer * ACTIVATION_BYTES;
        if self.recompute == Recompute::Full {
            return stream;
        }
        let t = self.tokens();
        let mask = u64::from(self.fusion.dropout);
        let qkv = t * (self.query_width() + 2 * self.kv_width()) * ACTIVATION_BYTES;
        let context = t * self.query_width() * ACTIVATION_BYTES;
        let scores = match self.attention {
            // Output and one fp32 log-sum-exp per query and head.
            AttentionKernel::Flash => t * self.heads() * 4,
            AttentionKernel::Unfused if self.recompute == Recompute::Selective => 0,
            AttentionKernel::Unfused => {
                let pairs = u64::from(self.batch)
                    * self.heads()
                    * u64::from(self.sequence)
                    * u64::from(self.sequence);
                // Softmax output; with dropout also its mask and its output.
                pairs * (ACTIVATION_BYTES + mask * (1 + ACTIVATION_BYTES))
            }
        };
        let up = t * self.up_width() * ACTIVATION_BYTES;
        let down = t * self.ffn() * ACTIVATION_BYTES;
        // Norm inputs (2), inputs of the column-parallel layers (2; sharded under sequence
        // parallelism, gathered again in backward), dropout masks (2).
        4 * stream + 2 * mask * outer + qkv + context + scores + up + down
    }

    /// Bytes that exist while one layer runs backward beyond what is kept: with full
    /// recomputation, the layer's own activations.
    #[must_use]
    pub fn transient_bytes(&self) -> u64 {
        match self.recompute {
            Recompute::Full => {
                LayerContext { recompute: Recompute::None, ..self.clone() }.saved_bytes()
            }
            Recompute::Selective => {
                let all = LayerContext { recompute: Recompute::None, ..self.clone() };
                all.saved_bytes() - self.saved_bytes()
            }
            Recompute::None => 0,
        }
    }

    /// Bytes of the logits: 16-bit output, fp32 copy and fp32 gradient unless the loss is fused.
    #[must_use]
    pub fn logits_bytes(&self) -> u64 {
        let elements = self.tokens() * self.vocabulary();
        elements * if self.fusion.cross_entropy { 2 + 4 } else { 2 + 4 + 4 }
    }
}

fn as_recompute(item: Item) -> Item {
    match item {
        Item::Kernel { name, class, work, .. } => {
            Item::Kernel { name, class, work, recompute: true }
        }
        Item::Tensor { collective, bytes, .. } => {
            Item::Tensor { collective, bytes, recompute: true }
        }
        other => other,
    }
}
