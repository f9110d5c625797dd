//! Kernels and collective calls: shapes, never durations.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Nanos;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);
        impl $name {
            /// As an index into the vector it belongs to.
            #[must_use]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}
pub(crate) use index;

index!(
    /// Index into [`super::Program::kernels`].
    KernelId
);
index!(
    /// Index into [`super::Program::calls`].
    CallId
);

/// Number format of a kernel's operands.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floating point.
    Fp32,
    /// 16-bit brain floating point.
    Bf16,
    /// 16-bit IEEE floating point.
    Fp16,
    /// 8-bit floating point with scaling factors.
    Fp8,
    /// 4-bit floating point with block scaling factors.
    Fp4,
}

impl Precision {
    /// Bytes of one element as it is stored (two fp4 values share a byte).
    #[must_use]
    pub fn bytes(self) -> f64 {
        match self {
            Self::Fp32 => 4.0,
            Self::Bf16 | Self::Fp16 => 2.0,
            Self::Fp8 => 1.0,
            Self::Fp4 => 0.5,
        }
    }
}

/// Forward or backward of fused attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttentionPass {
    /// Computes the output: two GEMMs' worth of FLOPs.
    Forward,
    /// Computes the gradients of Q, K and V and recomputes the scores: five GEMMs' worth.
    Backward,
}

/// Which implementation of fused attention runs: generations differ by up to two in speed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum FusedAttention {
    /// `FlashAttention-2` and its counterparts on other accelerators.
    #[serde(rename = "flash_2")]
    Flash2,
    /// `FlashAttention-3`.
    #[serde(rename = "flash_3")]
    Flash3,
    /// cuDNN.
    Cudnn,
    /// The first generation, as a Triton kernel.
    Triton,
}

impl FusedAttention {
    /// The word used in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flash2 => "flash_2",
            Self::Flash3 => "flash_3",
            Self::Cudnn => "cudnn",
            Self::Triton => "triton",
        }
    }
}

/// What a kernel computes: enough to time it on any accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// `batch` products of an `m x k` and a `k x n` matrix.
    Gemm {
        /// Rows of the output.
        m: u64,
        /// Columns of the output.
        n: u64,
        /// Reduction length.
        k: u64,
        /// Independent products in one call.
        batch: u64,
        /// Operand format.
        precision: Precision,
    },
    /// Fused attention over `batch` sequences.
    Attention {
        /// Forward or backward.
        pass: AttentionPass,
        /// Implementation.
        implementation: FusedAttention,
        /// Sequences.
        batch: u64,
        /// Query heads on this rank.
        heads: u64,
        /// Key/value heads on this rank.
        kv_heads: u64,
        /// Queries per sequence.
        queries: u64,
        /// Keys per sequence.
        keys: u64,
        /// Query-key pairs computed per head and sequence (about half of `queries x keys` when
        /// causal, fewer with a window).
        pairs: u64,
        /// Size of a query/key head.
        head_dim: u64,
        /// Size of a value head.
        value_dim: u64,
        /// Operand format.
        precision: Precision,
    },
    /// Bound by memory traffic: element-wise operators, normalisation, softmax, optimizer.
    Stream {
        /// Bytes read and written.
        bytes: u64,
        /// Kernels this stands for when the stack does not fuse them (each pays its floor).
        launches: u32,
    },
    /// A kernel of a trace: carries its own duration until a what-if re-times it.
    Recorded {
        /// Measured duration in nanoseconds.
        ns: i64,
    },
}

/// What a kernel is for, for breakdowns and what-ifs by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelClass {
    /// Matrix multiplication.
    Gemm,
    /// Attention core: scores, softmax, weighted sum.
    Attention,
    /// Normalisation.
    Norm,
    /// Activation function, dropout, residual and other element-wise work.
    Elementwise,
    /// Embedding lookup and its gradient.
    Embedding,
    /// Softmax and loss over the vocabulary.
    Loss,
    /// Routing of tokens to experts and their permutation.
    Routing,
    /// Conversion to a narrower format and its scaling factors.
    Cast,
    /// Optimizer and gradient norm.
    Optimizer,
    /// Anything else (imported traces).
    Other,
}

impl KernelClass {
    /// Name in machine output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gemm => "gemm",
            Self::Attention => "attention",
            Self::Norm => "norm",
            Self::Elementwise => "elementwise",
            Self::Embedding => "embedding",
            Self::Loss => "loss",
            Self::Routing => "routing",
            Self::Cast => "cast",
            Self::Optimizer => "optimizer",
            Self::Other => "other",
        }
    }
}

/// A kernel: name, purpose and work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kernel {
    /// Name for people: `qkv`, `attention`, `fc1 dgrad`, ...
    pub name: String,
    /// Purpose.
    pub class: KernelClass,
    /// Shape.
    pub work: Work,
}

impl Kernel {
    /// Floating-point operations the kernel executes (a multiply-add is two); memory-bound work
    /// counts none, as in every published FLOP convention.
    #[must_use]
    pub fn flops(&self) -> f64 {
        match self.work {
            Work::Gemm { m, n, k, batch, .. } => {
                2.0 * m as f64 * n as f64 * k as f64 * batch as f64
            }
            Work::Attention { pass, batch, heads, pairs, head_dim, value_dim, .. } => {
                // Scores use the key size, the weighted sum the value size; backward repeats the
                // scores and has two products each for dQ/dK and for dP/dV (Dao 2023, 2.3.2).
                let (score, value) = match pass {
                    AttentionPass::Forward => (1.0, 1.0),
                    AttentionPass::Backward => (3.0, 2.0),
                };
                2.0 * batch as f64
                    * heads as f64
                    * pairs as f64
                    * (score * head_dim as f64 + value * value_dim as f64)
            }
            Work::Stream { .. } | Work::Recorded { .. } => 0.0,
        }
    }
}

/// Pattern of a collective call.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Collective {
    /// Every member ends with the sum.
    AllReduce,
    /// Every member ends with everybody's part.
    AllGather,
    /// Every member ends with its part of the sum.
    ReduceScatter,
    /// Every member sends a different part to every other.
    AllToAll,
    /// One member's data to all.
    Broadcast,
    /// First member of the pair to the second.
    SendRecv,
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllToAll => "all_to_all",
            Self::Broadcast => "broadcast",
            Self::SendRecv => "send_recv",
        })
    }
}

/// How items of an all-to-all spread, where an item for several members of a node crosses to that
/// node once and is copied there (`DeepEP`, Hybrid-EP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fanout {
    /// Members that each item goes to; the call's bytes count every copy.
    pub copies: u32,
    /// Most nodes that an item goes to (node-limited routing); 0 for no limit.
    pub nodes: u32,
}

/// A collective call: what and how much.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectiveCall {
    /// Name for people: `tp all-reduce`, `gradient reduce-scatter`, ...
    pub name: String,
    /// Pattern.
    pub collective: Collective,
    /// Size as nccl-tests counts it: the whole buffer (gathered output, scattered input).
    pub bytes: u64,
    /// Consecutive messages the bytes are cut into; the library pipelines them, but each takes a
    /// turn of its own.
    pub messages: u32,
    /// Pattern of an exchange that sends an item only once to each node.
    pub fanout: Option<Fanout>,
    /// Transfer time of a recorded call, until a what-if re-times it.
    pub recorded: Option<Nanos>,
}
