//! One layer (and embedding, head) as kernels and communication, with the shapes that one rank sees.
//!
//! Sequence parallelism follows Korthikanti et al. 2022: outside of the tensor-parallel blocks
//! every rank has `1/t` of the tokens; all-reduces become all-gather / reduce-scatter pairs, and
//! the backward pass gathers the inputs again.

mod attention;
mod ends;
mod feed_forward;
mod memory;

use crate::hardware::{AttentionKernel, Fusion};
use crate::plan::Recompute;
use crate::program::{Collective, KernelClass, Precision, Work};

use super::config::Norm;
use super::model::{LayerKind, Model};

/// Everything that decides the kernels of a layer on one rank.
#[derive(Clone, Debug)]
pub struct LayerContext<'a> {
    /// Model shape.
    pub model: &'a Model,
    /// Sequences per micro-batch.
    pub batch: u32,
    /// Tokens per sequence, all context-parallel ranks together.
    pub sequence: u32,
    /// Tensor-parallel size.
    pub tensor: u32,
    /// Context-parallel size.
    pub context: u32,
    /// Expert-parallel size.
    pub expert: u32,
    /// Tensor-parallel size inside an expert: 1 or `tensor`.
    pub expert_tensor: u32,
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
    /// Context-parallel keys and values travel beside the attention kernel (ring attention).
    pub overlap_context: bool,
    /// The exchange of experts sorts tokens by expert as it copies them.
    pub dispatch_per_node: bool,
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
    /// A collective that the next kernel needs.
    Meet {
        /// Inside which group.
        group: Group,
        /// Pattern.
        collective: Collective,
        /// Whole buffer.
        bytes: u64,
        /// It repeats forward communication in the backward pass.
        recompute: bool,
    },
    /// A collective that runs beside the next kernels, until [`Item::Wait`].
    MeetAsync {
        /// Inside which group.
        group: Group,
        /// Pattern.
        collective: Collective,
        /// Whole buffer.
        bytes: u64,
    },
    /// The next kernel needs the latest asynchronous collective.
    Wait,
    /// The host reads a result of the device before it goes on (token counts of dropless experts).
    HostWait,
}

/// Group of a layer's collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Tensor-parallel group.
    Tensor,
    /// Context-parallel group.
    Context,
    /// Expert-parallel group.
    Expert,
}

impl Group {
    /// Name of its calls.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Context => "context",
            Self::Expert => "expert",
        }
    }
}

impl LayerContext<'_> {
    /// Bytes of an activation element: 16 bits, also in fp8 recipes, which cast at GEMMs; 4 bytes
    /// in fp32 training.
    fn element_bytes(&self) -> u64 {
        if self.precision == Precision::Fp32 { 4 } else { 2 }
    }

    fn tokens(&self) -> u64 {
        u64::from(self.batch) * u64::from(self.sequence) / u64::from(self.context)
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
    fn vocabulary(&self) -> u64 {
        u64::from(self.model.vocab).div_ceil(u64::from(self.tensor))
    }
    /// Bytes of the residual stream of a micro-batch, all tokens.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.tokens() * self.hidden() * self.element_bytes()
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
            let bytes = elements as f64 * (self.element_bytes() as f64 + 2.0 * narrow);
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
            elements * self.element_bytes() * passes * unfused,
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
            let bytes = elements * (if dropout { 2 * self.element_bytes() + mask } else { 0 })
                + elements * if bias { self.element_bytes() } else { 0 };
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
            elements * (3 * self.element_bytes() + mask)
        } else {
            elements * (3 * self.element_bytes() + (separate - 1) * 2 * self.element_bytes() + mask)
        };
        let launches = if fused { 1 } else { separate as u32 };
        Some(Self::stream("bias-dropout-add", KernelClass::Elementwise, bytes, launches))
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
            items.push(Item::Meet {
                group: Group::Tensor,
                collective: Collective::AllGather,
                bytes: self.stream_bytes(),
                recompute: false,
            });
        }
    }

    /// Leaving it: the sum over the tensor group.
    fn leave(&self, items: &mut Vec<Item>) {
        if self.tensor > 1 {
            items.push(Item::Meet {
                group: Group::Tensor,
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

    /// Backward through a column-parallel layer with `out` columns on this rank: input gradient,
    /// its sum over the tensor group beside the weight gradient. `input` is the layer's width;
    /// `gather` and `reduce` say whether this layer brings in the gathered input and takes out the
    /// sum, or shares them with a neighbour (parallel blocks).
    fn column_backward(
        &self,
        items: &mut Vec<Item>,
        names: [&'static str; 2],
        out: u64,
        gather: bool,
        reduce: bool,
    ) {
        let (t, h) = (self.tokens(), self.hidden());
        let parallel = self.tensor > 1;
        let bytes = self.stream_bytes();
        let group = Group::Tensor;
        self.casts(items, t * out);
        let gathers = parallel && self.sequence_parallel && gather;
        if gathers {
            let collective = Collective::AllGather;
            items.push(if self.overlap_tensor {
                Item::MeetAsync { group, collective, bytes }
            } else {
                Item::Meet { group, collective, bytes, recompute: false }
            });
        }
        items.push(self.gemm(names[0], t, h, out));
        let collective =
            if self.sequence_parallel { Collective::ReduceScatter } else { Collective::AllReduce };
        if gathers && self.overlap_tensor {
            // The weight gradient needs the gathered input.
            items.push(Item::Wait);
        }
        if parallel && reduce && self.overlap_tensor {
            items.push(Item::MeetAsync { group, collective, bytes });
            items.push(self.gemm(names[1], out, h, t));
            items.push(Item::Wait);
        } else {
            if parallel && reduce {
                items.push(Item::Meet { group, collective, bytes, recompute: false });
            }
            items.push(self.gemm(names[1], out, h, t));
        }
    }

    /// Backward through a row-parallel layer with `input` columns on this rank.
    fn row_backward(
        &self,
        items: &mut Vec<Item>,
        names: [&'static str; 2],
        input: u64,
        enter: bool,
    ) {
        let (t, h) = (self.tokens(), self.hidden());
        if enter {
            items.extend(self.residual(true));
            self.enter(items);
        }
        self.casts(items, t * h);
        items.push(self.gemm(names[0], t, input, h));
        items.push(self.gemm(names[1], h, input, t));
    }

    /// Forward pass of a layer.
    #[must_use]
    pub fn forward(&self, kind: LayerKind) -> Vec<Item> {
        let mut items = vec![self.norm(false)];
        self.enter(&mut items);
        self.attention_forward(&mut items, kind);
        if self.model.parallel_block && !kind.experts {
            self.mlp_forward(&mut items, self.ffn());
        } else {
            self.leave(&mut items);
            items.extend(self.residual(false));
            items.push(self.norm(false));
            if kind.experts {
                self.experts_forward(&mut items);
                items.extend(self.residual(false));
                self.adapters(&mut items, kind, false);
                return items;
            }
            self.enter(&mut items);
            self.mlp_forward(&mut items, self.ffn());
        }
        self.leave(&mut items);
        items.extend(self.residual(false));
        self.adapters(&mut items, kind, false);
        items
    }

    /// What a plan between nothing and everything repeats before the backward pass of a layer.
    fn repeated(&self, kind: LayerKind) -> Vec<Item> {
        let mut products = 0;
        let mut repeats = |item: &Item| match (self.recompute, item) {
            (Recompute::Modules, Item::Kernel { name, class, .. }) => {
                let up = matches!(*name, "query up" | "key-value up");
                up || *class == KernelClass::Norm || name.ends_with("activation")
            }
            (Recompute::Operators, Item::Kernel { class, .. }) => match class {
                KernelClass::Gemm => {
                    products += 1;
                    products % 2 == 0
                }
                KernelClass::Attention => false,
                _ => true,
            },
            (Recompute::Operators, Item::Meet { collective, .. }) => {
                *collective == Collective::AllGather
            }
            _ => false,
        };
        match self.recompute {
            Recompute::Modules | Recompute::Operators => {
                self.forward(kind).into_iter().filter(|item| repeats(item)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Backward pass of a layer, including what the plan recomputes.
    #[must_use]
    pub fn backward(&self, kind: LayerKind) -> Vec<Item> {
        let mut items = Vec::new();
        if self.recompute == Recompute::Full {
            items.extend(self.forward(kind).into_iter().map(as_recompute));
        }
        items.extend(self.repeated(kind).into_iter().map(as_recompute));
        let parallel = self.model.parallel_block && !kind.experts;
        if kind.experts {
            items.extend(self.residual(true));
            self.experts_backward(&mut items);
        } else {
            self.mlp_backward(&mut items, self.ffn(), true, !parallel);
        }
        if !parallel {
            items.push(self.norm(true));
        }
        self.attention_backward(&mut items, kind, !parallel);
        items.push(self.norm(true));
        self.freeze(&mut items, kind);
        items
    }

    /// A frozen model has no weight gradients, but its adapters have products of their own.
    fn freeze(&self, items: &mut Vec<Item>, kind: LayerKind) {
        if self.model.adapter_rank.is_none() {
            return;
        }
        drop_weight_gradients(items);
        self.adapters(items, kind, true);
    }

    /// Products of the adapters: down to their rank and up again; backward the gradients of both
    /// matrices and of their inputs.
    fn adapters(&self, items: &mut Vec<Item>, kind: LayerKind, backward: bool) {
        let Some((matrices, rank)) = self.model.adapters(kind) else { return };
        let t = self.tokens();
        let tensor = u64::from(self.tensor);
        for (inputs, outputs) in matrices {
            // Matrices into a block are divided by outputs, those out of it by inputs.
            let (inputs, outputs) = if inputs == self.hidden() {
                (inputs, outputs.div_ceil(tensor))
            } else {
                (inputs.div_ceil(tensor), outputs)
            };
            let wide = |m, n, k| self.gemm_as("adapter", m, n, k, self.wide_precision());
            items.push(wide(t, rank, inputs));
            items.push(wide(t, outputs, rank));
            if backward {
                items.push(wide(t, rank, outputs));
                items.push(wide(t, inputs, rank));
            }
            // Adding to what the frozen matrix gave.
            let bytes = t * if backward { inputs } else { outputs } * self.element_bytes() * 3;
            items.push(Self::stream("adapter add", KernelClass::Elementwise, bytes, 1));
        }
    }
}

/// Takes out the products that give gradients of weights.
pub(super) fn drop_weight_gradients(items: &mut Vec<Item>) {
    items.retain(|item| !matches!(item, Item::Kernel { name, .. } if name.ends_with("wgrad")));
}

fn as_recompute(item: Item) -> Item {
    match item {
        Item::Kernel { name, class, work, .. } => {
            Item::Kernel { name, class, work, recompute: true }
        }
        Item::Meet { group, collective, bytes, .. } => {
            Item::Meet { group, collective, bytes, recompute: true }
        }
        other => other,
    }
}
