//! Fused attention by blocks of queries.
//!
//! A block of 128 queries of one head walks over the keys it may see, 64 at a time, at a rate that
//! depends on the head size (registers and the softmax unit limit small and large heads), after a
//! start and before an end that cost as much as a number of keys. Blocks go to the SMs as they
//! become free. A causal mask leaves half of the last keys of every block masked, and costs a
//! factor for masking and uneven blocks. Backward is the same with its own constants, by blocks of
//! keys.

use crate::hardware::{AttentionPassConstants, Curve};

/// Queries of a block.
const QUERIES: f64 = 128.0;
/// Keys that a block takes in at a time.
const KEYS: f64 = 64.0;
/// Head sizes that kernels are compiled for are multiples of this.
const HEAD_STEP: u64 = 32;

/// A call as the model sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Sequences times query heads.
    pub heads: f64,
    /// Queries per sequence.
    pub queries: f64,
    /// Keys per sequence.
    pub keys: f64,
    /// Query-key pairs that count, per head and sequence.
    pub pairs: f64,
    /// Size of a query/key head.
    pub head_dim: u64,
    /// Size of a value head.
    pub value_dim: u64,
    /// Products with the query/key size and with the value size: 1 and 1 forward, 3 and 2
    /// backward.
    pub products: (f64, f64),
}

/// The constants of one pass as plain numbers: what a fit moves.
#[derive(Clone, Debug, PartialEq)]
pub struct FlashModel {
    /// SMs or CUs.
    pub units: f64,
    /// Dense peak of the operands' format, FLOP/s.
    pub peak: f64,
    /// Fraction of it in the inner loop, by head size.
    pub saturated: Curve,
    /// Start and end of a block, in keys.
    pub prologue: f64,
    /// Factor of a causal mask.
    pub causal: f64,
}

impl FlashModel {
    /// The model of an accelerator's file.
    #[must_use]
    pub fn new(constants: &AttentionPassConstants, units: f64, peak: f64) -> Self {
        Self {
            units,
            peak,
            saturated: constants.saturated.clone(),
            prologue: constants.prologue.value.0,
            causal: constants.causal.value.0,
        }
    }

    /// Seconds of a call, without its launch.
    #[must_use]
    pub fn seconds(&self, shape: &AttentionShape) -> f64 {
        let padded = |size: u64| (size.div_ceil(HEAD_STEP) * HEAD_STEP) as f64;
        let (key, value) = (padded(shape.head_dim), padded(shape.value_dim));
        let per_pair = 2.0 * (shape.products.0 * key + shape.products.1 * value);
        let masked = shape.pairs < 0.999 * shape.queries * shape.keys;
        let seen = shape.pairs / shape.queries;
        let (walked, factor) = if masked {
            ((seen + 0.5 * (QUERIES + KEYS)).min(shape.keys + KEYS), self.causal)
        } else {
            ((shape.keys / KEYS).ceil() * KEYS, 1.0)
        };
        let rate = self.peak / self.units * self.saturated.at(key.max(value));
        let of_keys = |keys: f64| QUERIES * (keys * factor + self.prologue) * per_pair / rate;
        let blocks = shape.heads * (shape.queries / QUERIES).ceil();
        // Blocks are handed out longest first, so the SMs end together unless one block is longer
        // than everybody's share.
        (blocks * of_keys(walked) / self.units).max(of_keys(walked))
    }
}
