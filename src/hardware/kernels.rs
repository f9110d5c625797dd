//! What kernels reach on an accelerator: the `[kernels]` table of its file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figure::{Curve, Figure};
use crate::program::FusedAttention;
use crate::units::{Count, Ratio, Seconds};

/// What kernels reach. The curves by size are what is left where no constants of the models in
/// `tiles` and `attention` are known.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KernelModel {
    /// Fraction of dense peak a bf16/fp16 GEMM reaches, by FLOP of the call.
    pub gemm: Curve,
    /// The same for fp8.
    pub gemm_fp8: Option<Curve>,
    /// The same for fp4.
    pub gemm_fp4: Option<Curve>,
    /// Fraction of peak of fused attention forward, by sequence length (causal work counted once,
    /// head size 128).
    pub attention_forward: Curve,
    /// The same for backward.
    pub attention_backward: Curve,
    /// Factor on both for head size 64.
    pub attention_head_64: Figure<Ratio>,
    /// Fraction of memory bandwidth that streaming kernels reach.
    pub memory: Figure<Ratio>,
    /// Shortest time any kernel takes on the device.
    pub floor: Figure<Seconds>,
    /// Constants of the tile model of GEMMs.
    pub tiles: Option<TileConstants>,
    /// Constants of the block model of fused attention, by implementation.
    #[serde(default)]
    pub attention: BTreeMap<FusedAttention, AttentionConstants>,
}

/// Which rows constants were fitted on, and how well they fit them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KernelFit {
    /// Command and method.
    pub method: String,
    /// Which rows of which source.
    pub rows: String,
    /// How many.
    pub count: u64,
    /// First 16 hexadecimal digits of the BLAKE3 hash of the rows, one `key=value` text per row.
    pub hash: String,
    /// Date of the fit.
    pub date: String,
    /// Median of the absolute error of a row's time.
    pub median_error_pct: f64,
    /// 90th percentile of it.
    pub p90_error_pct: f64,
}

/// A library's tiles: an output tile of `rows x columns` elements on `units` SMs or CUs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TileShape {
    /// Rows of the output tile.
    pub rows: u32,
    /// Columns.
    pub columns: u32,
    /// SMs that share it (a cluster of two on Hopper and Blackwell).
    pub units: u32,
}

/// Constants of the tile and wave model of GEMMs; what they mean in a time is stated in
/// [`crate::timing::TileModel`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TileConstants {
    /// Tiles that the library has kernels for.
    pub shapes: Vec<TileShape>,
    /// Fraction of dense 16-bit peak inside the main loop of a large tile, at the clock that long
    /// runs of GEMMs sustain.
    pub saturated: Figure<Ratio>,
    /// Time per tile outside of the main loop: filling the pipeline, writing the result.
    pub per_tile: Figure<Seconds>,
    /// Launch of a GEMM.
    pub floor: Figure<Seconds>,
    /// Added where the reduction is split over SMs and added up afterwards.
    pub split: Figure<Seconds>,
    /// Fraction of memory bandwidth that operands and results move at.
    pub memory: Figure<Ratio>,
    /// How much slower tiles smaller than 256 x 128 are per FLOP, for each doubling of their
    /// operand traffic.
    pub small_tile: Figure<Ratio>,
    /// Additional time, as a fraction, of calls that last much longer than 5 ms: the clock falls
    /// under the power limit.
    pub throttled: Figure<Ratio>,
    /// Factor on the rate by the largest power of two, in bytes, that divides the rows of operands
    /// and result; 1 from 16 bytes on.
    pub alignment: Curve,
    /// Fraction of the 8-bit peak over that of the 16-bit peak in the main loop.
    pub fp8: Option<Figure<Ratio>>,
    /// The same for 4 bits.
    pub fp4: Option<Figure<Ratio>>,
    /// What the constants were fitted on.
    pub fit: KernelFit,
}

/// Constants of one pass of a fused attention kernel; see [`crate::timing::FlashModel`].
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttentionPassConstants {
    /// Fraction of dense 16-bit peak in the inner loop, by head size.
    pub saturated: Curve,
    /// Start and end of a block of queries, in the time of so many keys.
    pub prologue: Figure<Count>,
    /// Time per computed pair with a causal mask over without one: masking, uneven blocks.
    pub causal: Figure<Ratio>,
}

/// Constants of a fused attention kernel.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttentionConstants {
    /// Forward.
    pub forward: AttentionPassConstants,
    /// Backward, the recomputed scores counted.
    pub backward: AttentionPassConstants,
    /// What the constants were fitted on.
    pub fit: KernelFit,
}
