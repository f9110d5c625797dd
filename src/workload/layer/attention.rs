//! The attention block: projections, rotary positions, core, keys and values of other ranks.

use crate::plan::Recompute;
use crate::program::{AttentionPass, Collective, KernelClass, Work};

use super::super::config::Positions;
use super::super::model::LayerKind;
use super::{Group, Item, LayerContext, as_recompute};

impl LayerContext<'_> {
    /// Width of this rank's queries.
    pub(super) fn query_width(&self) -> u64 {
        self.heads() * u64::from(self.model.head_dims().0)
    }

    /// Width of this rank's attention output.
    pub(super) fn value_width(&self) -> u64 {
        self.heads() * u64::from(self.model.head_dims().1)
    }

    /// Width of this rank's keys and values together. Latent attention expands them per head.
    pub(super) fn key_value_width(&self) -> u64 {
        let (key, value) = self.model.head_dims();
        let heads = if self.model.mla.is_some() { self.heads() } else { self.kv_heads() };
        heads * u64::from(key + value)
    }

    fn rotary(&self, items: &mut Vec<Item>) {
        if self.model.positions != Positions::Rotary {
            return;
        }
        let keys = self.key_value_width() / 2;
        let elements = self.tokens() * (self.query_width() + keys);
        // Without a fused kernel: split, negate, concatenate, two products, a sum.
        let (passes, launches) = if self.fusion.rotary { (2, 1) } else { (8, 6) };
        let bytes = elements * self.element_bytes() * passes;
        items.push(Self::stream("rotary", KernelClass::Elementwise, bytes, launches));
    }

    /// Query-key pairs of one sequence that this rank computes: causal, within the window, and its
    /// share of the context group (which splits sequences so that shares are equal).
    fn pairs(&self, kind: LayerKind) -> u64 {
        let s = u64::from(self.sequence);
        let all = match self.model.window.filter(|_| kind.windowed) {
            Some(window) if u64::from(window) < s => {
                let w = u64::from(window);
                w * s - w * (w - 1) / 2
            }
            _ => s * (s + 1) / 2,
        };
        all / u64::from(self.context)
    }

    /// The attention core: from Q, K, V to its output, or back.
    pub(super) fn attention_core(&self, kind: LayerKind, backward: bool) -> Vec<Item> {
        let b = u64::from(self.batch);
        let keys = u64::from(self.sequence);
        let queries = keys / u64::from(self.context);
        let (head_dim, value_dim) = self.model.head_dims();
        let (head_dim, value_dim) = (u64::from(head_dim), u64::from(value_dim));
        // Attention stays in 16 bits in every published fp8 recipe.
        let precision = self.wide_precision();
        let class = KernelClass::Attention;
        if let Some(implementation) = self.attention.fused() {
            let pass = if backward { AttentionPass::Backward } else { AttentionPass::Forward };
            let latent = self.model.mla.is_some();
            return vec![Item::Kernel {
                name: if backward { "attention backward" } else { "attention" },
                class,
                work: Work::Attention {
                    pass,
                    implementation,
                    batch: b,
                    heads: self.heads(),
                    kv_heads: if latent { self.heads() } else { self.kv_heads() },
                    queries,
                    keys,
                    pairs: self.pairs(kind),
                    head_dim,
                    value_dim,
                    precision,
                },
                recompute: false,
            }];
        }
        // Batched GEMMs over the full score matrix: causality saves nothing here.
        let batch = b * self.heads();
        let scores = batch * queries * keys;
        let gemm = |name, m, n, k| Item::Kernel {
            name,
            class,
            work: Work::Gemm { m, n, k, batch, precision },
            recompute: false,
        };
        let mask = u64::from(self.fusion.dropout);
        // Softmax reads and writes the scores; without the fused kernel, scale, mask and the
        // conversion to fp32 and back are passes of their own.
        let (passes, launches) = if self.fusion.softmax { (2, 1) } else { (8, 4) };
        let dropout =
            |name| Self::stream(name, class, scores * (2 * self.element_bytes() + mask), 1);
        let mut items = Vec::new();
        if backward {
            items.push(gemm("attention dP", queries, keys, value_dim));
            items.push(gemm("attention dV", keys, value_dim, queries));
            if self.fusion.dropout {
                items.push(dropout("attention dropout backward"));
            }
            let bytes = scores * self.element_bytes() * (passes + 1);
            items.push(Self::stream("softmax backward", class, bytes, launches));
            items.push(gemm("attention dQ", queries, head_dim, keys));
            items.push(gemm("attention dK", keys, head_dim, queries));
        } else {
            items.push(gemm("attention scores", queries, keys, head_dim));
            let bytes = scores * self.element_bytes() * passes;
            items.push(Self::stream("softmax", class, bytes, launches));
            if self.fusion.dropout {
                items.push(dropout("attention dropout"));
            }
            items.push(gemm("attention values", queries, value_dim, keys));
        }
        items
    }

    /// Keys and values of the other context-parallel ranks (or their gradients) and the core.
    /// In a ring they travel beside the attention of the chunks that are already here; gathered,
    /// attention waits for all of them.
    fn core_in_context(&self, items: &mut Vec<Item>, kind: LayerKind, backward: bool) {
        let core = self.attention_core(kind, backward);
        if self.context <= 1 {
            items.extend(core);
            return;
        }
        let group = Group::Context;
        let bytes = u64::from(self.batch)
            * u64::from(self.sequence)
            * self.key_value_width()
            * self.element_bytes();
        let gather = Collective::AllGather;
        let scatter = Collective::ReduceScatter;
        if self.overlap_context {
            items.push(Item::MeetAsync { group, collective: gather, bytes });
            items.extend(core);
            items.push(Item::Wait);
        } else {
            items.push(Item::Meet { group, collective: gather, bytes, recompute: false });
            items.extend(core);
        }
        if backward {
            // Gradients of keys and values go back to the ranks they came from.
            items.push(Item::Meet { group, collective: scatter, bytes, recompute: false });
        }
    }

    /// From the (gathered) normalised stream to the output projection, without the sum over the
    /// tensor group.
    pub(super) fn attention_forward(&self, items: &mut Vec<Item>, kind: LayerKind) {
        let (t, h) = (self.tokens(), self.hidden());
        self.casts(items, t * h);
        match self.model.mla {
            None => {
                let out = self.query_width() + self.key_value_width();
                items.push(self.gemm("qkv", t, out, h));
            }
            Some(mla) => {
                let (q, kv) = (u64::from(mla.query_rank), u64::from(mla.kv_rank));
                let down = q + kv + u64::from(mla.rope_dim);
                items.push(self.gemm("latent down", t, down, h));
                let bytes = t * (q + kv) * self.element_bytes() * 2;
                items.push(Self::stream("latent norm", KernelClass::Norm, bytes, 2));
                let query_input = if q > 0 { q } else { h };
                items.push(self.gemm("query up", t, self.query_width(), query_input));
                let up = self.heads() * u64::from(mla.nope_dim + mla.value_dim);
                items.push(self.gemm("key-value up", t, up, kv));
            }
        }
        self.rotary(items);
        self.core_in_context(items, kind, false);
        self.casts(items, t * self.value_width());
        items.push(self.gemm("attention projection", t, h, self.value_width()));
    }

    /// Backward of the attention block. `enter`: the block takes in the gradient of the stream
    /// itself (a parallel block shares it with the feed-forward part).
    pub(super) fn attention_backward(&self, items: &mut Vec<Item>, kind: LayerKind, enter: bool) {
        let (t, h) = (self.tokens(), self.hidden());
        let names = ["attention projection dgrad", "attention projection wgrad"];
        self.row_backward(items, names, self.value_width(), enter);
        if self.recompute == Recompute::Selective {
            items.extend(self.attention_core(kind, false).into_iter().map(as_recompute));
        }
        self.core_in_context(items, kind, true);
        self.rotary(items);
        match self.model.mla {
            None => {
                let out = self.query_width() + self.key_value_width();
                self.column_backward(items, ["qkv dgrad", "qkv wgrad"], out, enter, true);
            }
            Some(mla) => {
                let (q, kv) = (u64::from(mla.query_rank), u64::from(mla.kv_rank));
                let query_input = if q > 0 { q } else { h };
                let up = self.heads() * u64::from(mla.nope_dim + mla.value_dim);
                items.push(self.gemm("key-value up dgrad", t, kv, up));
                items.push(self.gemm("key-value up wgrad", up, kv, t));
                items.push(self.gemm("query up dgrad", t, query_input, self.query_width()));
                items.push(self.gemm("query up wgrad", self.query_width(), query_input, t));
                let bytes = t * (q + kv) * self.element_bytes() * 4;
                items.push(Self::stream("latent norm backward", KernelClass::Norm, bytes, 2));
                let down = q + kv + u64::from(mla.rope_dim);
                let names = ["latent down dgrad", "latent down wgrad"];
                self.column_backward(items, names, down, enter, true);
            }
        }
    }
}
