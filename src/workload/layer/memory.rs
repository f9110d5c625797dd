//! Activation memory of a layer.

use crate::plan::Recompute;

use super::super::model::LayerKind;
use super::LayerContext;

impl LayerContext<'_> {
    /// Bytes kept per layer and micro-batch from forward to backward (Korthikanti et al. 2022,
    /// equations 1-4, generalised to grouped heads, gates, experts and fused attention).
    #[must_use]
    pub fn saved_bytes(&self, kind: LayerKind) -> u64 {
        let outer = self.outer_tokens() * self.hidden();
        let stream = outer * self.element_bytes();
        if self.recompute == Recompute::Full {
            return stream;
        }
        let t = self.tokens();
        if self.recompute == Recompute::Operators {
            // The layer's input, the attention output, and every second matrix product's output.
            let products = (self.query_width() + self.key_value_width()) * t * self.element_bytes()
                + stream
                + self.feed_forward_saved(kind.experts);
            return stream + t * self.value_width() * self.element_bytes() + products / 2;
        }
        let mask = u64::from(self.fusion.dropout);
        let modules = self.recompute == Recompute::Modules;
        let latent = self.model.mla.map_or(0, |mla| {
            // Compressed vectors before and after their norms.
            2 * t * u64::from(mla.query_rank + mla.kv_rank) * self.element_bytes()
        });
        let expanded = t * (self.query_width() + self.key_value_width()) * self.element_bytes();
        let qkv = if modules && self.model.mla.is_some() { latent } else { expanded + latent };
        let output = t * self.value_width() * self.element_bytes();
        let scores = if self.attention.fused().is_some() {
            // One fp32 log-sum-exp per query and head.
            t * self.heads() * 4
        } else if self.recompute == Recompute::Selective {
            0
        } else {
            let pairs = t * self.heads() * u64::from(self.sequence);
            // Softmax output; with dropout also its mask and its output.
            pairs * (self.element_bytes() + mask * (1 + self.element_bytes()))
        };
        // Norm inputs (2; one in a parallel block), inputs of the column-parallel layers (2; sharded
        // under sequence parallelism, gathered again in backward), dropout masks (2).
        let streams = if self.model.parallel_block { 2 } else { 4 };
        // The outputs of norms are made again from their inputs.
        let streams = if modules { streams / 2 } else { streams };
        streams * stream
            + 2 * mask * outer
            + qkv
            + output
            + scores
            + self.feed_forward_saved(kind.experts)
    }

    /// Bytes that exist while one layer runs backward beyond what is kept: what is recomputed.
    #[must_use]
    pub fn transient_bytes(&self, kind: LayerKind) -> u64 {
        let all = LayerContext { recompute: Recompute::None, ..self.clone() }.saved_bytes(kind);
        match self.recompute {
            Recompute::Full => all,
            Recompute::Selective | Recompute::Modules | Recompute::Operators => {
                all.saturating_sub(self.saved_bytes(kind))
            }
            Recompute::None => 0,
        }
    }

    /// Bytes of a micro-batch's logits that are kept for the backward pass (16-bit output, fp32 copy),
    /// and of the fp32 gradient that comes in it unless the loss is fused.
    #[must_use]
    pub fn logits_bytes(&self) -> (u64, u64) {
        let elements = self.tokens() * self.vocabulary();
        (elements * (2 + 4), if self.fusion.cross_entropy { 0 } else { elements * 4 })
    }
}
