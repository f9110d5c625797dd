//! What is not a layer: embedding, logits and loss, multi-token prediction.

use crate::program::{Collective, KernelClass};

use super::super::config::Positions;
use super::{Group, Item, LayerContext, drop_weight_gradients};

impl LayerContext<'_> {
    /// Embedding lookup, positions, dropout.
    #[must_use]
    pub fn embedding_forward(&self) -> Vec<Item> {
        let elements = self.tokens() * self.hidden();
        let mut items = vec![Self::stream(
            "embedding",
            KernelClass::Embedding,
            elements * self.element_bytes() * 2,
            1,
        )];
        self.leave(&mut items);
        let outer = self.outer_tokens() * self.hidden();
        if self.model.positions == Positions::Learned {
            items.push(Self::stream(
                "position embedding",
                KernelClass::Embedding,
                outer * self.element_bytes() * 3,
                1,
            ));
        }
        if self.fusion.dropout {
            items.push(Self::stream(
                "embedding dropout",
                KernelClass::Embedding,
                outer * (2 * self.element_bytes() + 1),
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
            elements * (self.element_bytes() + 2 * 4),
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
                items.push(Item::Meet {
                    group: Group::Tensor,
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
        let (t, v) = (self.tokens(), self.vocabulary());
        let bytes = if self.fusion.cross_entropy { 4 + 2 } else { 4 + 4 + 4 + 2 };
        let mut items = vec![Self::stream("loss backward", KernelClass::Loss, t * v * bytes, 2)];
        let wide = LayerContext { precision: self.wide_precision(), ..self.clone() };
        wide.column_backward(&mut items, ["logits dgrad", "logits wgrad"], v, true, true);
        items.push(self.norm(true));
        if self.model.adapter_rank.is_some() {
            drop_weight_gradients(&mut items);
        }
        items
    }

    /// Forward of one multi-token-prediction module: projection of hidden state and embedding, a
    /// layer, the head again.
    #[must_use]
    pub fn prediction_forward(&self) -> Vec<Item> {
        let (t, h) = (self.tokens(), self.hidden());
        let out = h.div_ceil(u64::from(self.tensor));
        let mut items = self.embedding_forward();
        items.extend([self.norm(false), self.norm(false)]);
        items.push(self.gemm("prediction projection", t, out, 2 * h));
        items.extend(self.forward(self.model.mtp_kind()));
        items.extend(self.head_forward());
        items
    }

    /// Its backward.
    #[must_use]
    pub fn prediction_backward(&self) -> Vec<Item> {
        let (t, h) = (self.tokens(), self.hidden());
        let out = h.div_ceil(u64::from(self.tensor));
        let mut items = self.head_backward();
        items.extend(self.backward(self.model.mtp_kind()));
        items.push(self.gemm("prediction projection dgrad", t, 2 * h, out));
        items.push(self.gemm("prediction projection wgrad", out, 2 * h, t));
        items.extend([self.norm(true), self.norm(true)]);
        items.extend(self.embedding_backward());
        items
    }
}
