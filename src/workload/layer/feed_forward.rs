//! The feed-forward block: dense, or a mixture of experts with its routing and all-to-alls.

use crate::plan::Recompute;
use crate::program::{Collective, KernelClass, Work};

use super::super::config::MoeShape;
use super::{Group, Item, LayerContext};

/// What a rank computes of a mixture of experts.
#[derive(Clone, Copy)]
struct Routed {
    /// Tokens this rank sends out, times the experts each goes to.
    sent: u64,
    /// The same on the busiest rank: what an exchange waits for.
    exchanged: u64,
    /// Experts on this rank.
    local: u64,
    /// Tokens per local expert on the busiest rank.
    per_expert: u64,
    /// Width of an expert on this rank.
    width: u64,
}

impl LayerContext<'_> {
    /// Width of the dense block on this rank.
    pub(super) fn ffn(&self) -> u64 {
        u64::from(self.model.ffn_hidden).div_ceil(u64::from(self.tensor))
    }

    fn gates(&self) -> u64 {
        if self.model.mlp.gated() { 2 } else { 1 }
    }

    fn activation(&self, elements: u64, backward: bool) -> Item {
        let passes = match (self.model.mlp.gated(), backward) {
            (false, false) => 2,
            (false, true) | (true, false) => 3,
            (true, true) => 5,
        };
        let fused = self.fusion.bias_activation;
        let launches = if fused { 1 } else { 2 + u32::from(self.model.bias) };
        let extra = if fused { 0 } else { 2 * u64::from(launches - 1) };
        Self::stream(
            if backward { "activation backward" } else { "activation" },
            KernelClass::Elementwise,
            elements * self.element_bytes() * (passes + extra),
            launches,
        )
    }

    /// A dense block of the given width on this rank, without communication.
    pub(super) fn mlp_forward(&self, items: &mut Vec<Item>, width: u64) {
        let (t, h) = (self.tokens(), self.hidden());
        self.casts(items, t * h);
        items.push(self.gemm("fc1", t, width * self.gates(), h));
        items.push(self.activation(t * width, false));
        self.casts(items, t * width);
        items.push(self.gemm("fc2", t, h, width));
    }

    /// Its backward; `enter` and `reduce` as for [`Self::column_backward`].
    pub(super) fn mlp_backward(
        &self,
        items: &mut Vec<Item>,
        width: u64,
        enter: bool,
        reduce: bool,
    ) {
        self.row_backward(items, ["fc2 dgrad", "fc2 wgrad"], width, enter);
        items.push(self.activation(self.tokens() * width, true));
        let names = ["fc1 dgrad", "fc1 wgrad"];
        self.column_backward(items, names, width * self.gates(), enter, reduce);
    }

    /// Tokens that this rank routes: sequence shards where the tensor group splits tokens.
    fn routed_tokens(&self) -> u64 {
        self.tokens().div_ceil(u64::from(self.tensor))
    }

    fn routed(&self, moe: &MoeShape) -> Routed {
        let tokens = self.routed_tokens();
        let load = moe.capacity_factor.unwrap_or(moe.imbalance);
        let experts = u64::from(moe.experts);
        let ranks = u64::from(self.expert);
        // With tensor parallelism inside experts the tensor group's tokens meet again in each.
        let gathered = tokens * u64::from(self.expert_tensor);
        let mean = (gathered * ranks * u64::from(moe.top_k)) as f64 / experts as f64;
        Routed {
            sent: tokens * u64::from(moe.top_k),
            exchanged: ((tokens * u64::from(moe.top_k)) as f64 * load).ceil() as u64,
            local: experts.div_ceil(ranks).max(1),
            per_expert: ((mean * load).ceil() as u64).max(1),
            width: u64::from(moe.expert_hidden).div_ceil(u64::from(self.expert_tensor)),
        }
    }

    /// Activation of routed experts, unless the product before it applies it.
    fn expert_activation(&self, items: &mut Vec<Item>, elements: u64, backward: bool) {
        if self.fusion.experts {
            return;
        }
        let mut item = self.activation(elements, backward);
        if let Item::Kernel { name, .. } = &mut item {
            *name = if backward { "expert activation backward" } else { "expert activation" };
        }
        items.push(item);
    }

    /// Casts of what routed experts multiply, unless the kernel before writes the narrow format.
    fn expert_casts(&self, items: &mut Vec<Item>, elements: u64) {
        if self.fusion.experts {
            return;
        }
        let before = items.len();
        self.casts(items, elements);
        for item in &mut items[before..] {
            if let Item::Kernel { name, .. } = item {
                *name = "expert cast";
            }
        }
    }

    /// Orders tokens by local expert where the exchange did not.
    fn sort(&self, items: &mut Vec<Item>, name: &'static str, r: &Routed) {
        if !self.dispatch_per_node && self.expert > 1 && r.local > 1 {
            items.push(self.permutation(name, r.per_expert * r.local));
        }
    }

    fn grouped(&self, name: &'static str, m: u64, n: u64, k: u64, experts: u64) -> Item {
        Item::Kernel {
            name,
            class: KernelClass::Gemm,
            work: Work::Gemm { m, n, k, batch: experts, precision: self.precision },
            recompute: false,
        }
    }

    /// Sends tokens to the ranks of their experts, or back.
    fn exchange(&self, items: &mut Vec<Item>, sent: u64) {
        if self.expert > 1 {
            items.push(Item::Meet {
                group: Group::Expert,
                collective: Collective::AllToAll,
                bytes: sent * self.hidden() * self.element_bytes(),
                recompute: false,
            });
        }
    }

    /// Gathers the tensor group's tokens for experts that it shares, or adds up their parts.
    fn share(&self, items: &mut Vec<Item>, sent: u64, gather: bool) {
        if self.expert_tensor > 1 {
            items.push(Item::Meet {
                group: Group::Tensor,
                collective: if gather { Collective::AllGather } else { Collective::ReduceScatter },
                bytes: sent * self.hidden() * self.element_bytes() * u64::from(self.expert_tensor),
                recompute: false,
            });
        }
    }

    /// Without sequence parallelism every rank of the tensor group needs all tokens again after
    /// each has routed its share of them.
    fn restore(&self, items: &mut Vec<Item>) {
        if self.tensor > 1 && !self.sequence_parallel {
            items.push(Item::Meet {
                group: Group::Tensor,
                collective: Collective::AllGather,
                bytes: self.stream_bytes(),
                recompute: false,
            });
        }
    }

    /// Kernels of the router beside its product: 72 in Megatron-Core of early 2025, 17 where they are
    /// fused (NVIDIA 2025, Optimizing DeepSeek-V3 Training Performance on NVIDIA GB200 NVL72,
    /// sections 2.1.4 and 2.2.1). Backward has about half as many.
    fn router_launches(&self) -> u32 {
        if self.fusion.router { 17 } else { 72 }
    }

    fn permutation(&self, name: &'static str, sent: u64) -> Item {
        // Read and write every token once per expert it goes to.
        let bytes = sent * self.hidden() * self.element_bytes() * 2;
        Self::stream(name, KernelClass::Routing, bytes, 2)
    }

    /// Width of the experts that every token passes, on this rank.
    fn shared_width(&self, moe: &MoeShape) -> u64 {
        u64::from(moe.shared_hidden).div_ceil(u64::from(self.tensor))
    }

    /// Router, dispatch, experts, combine; and the shared experts.
    pub(super) fn experts_forward(&self, items: &mut Vec<Item>) {
        let Some(moe) = self.model.moe else { return };
        let (tokens, h) = (self.routed_tokens(), self.hidden());
        let r = self.routed(&moe);
        let experts = u64::from(moe.experts);
        if moe.shared_hidden > 0 {
            self.enter(items);
            self.mlp_forward(items, self.shared_width(&moe));
            self.leave(items);
        }
        items.push(self.gemm_as("router", tokens, experts, h, self.wide_precision()));
        // Softmax or sigmoid, top-k, counts, maps: small kernels over tokens x experts in fp32.
        let bytes = tokens * experts * 4 * 4;
        items.push(Self::stream("top-k", KernelClass::Routing, bytes, self.router_launches()));
        if moe.capacity_factor.is_none() {
            items.push(Item::HostWait);
        }
        items.push(self.permutation("permute", r.sent));
        self.exchange(items, r.exchanged);
        self.share(items, r.exchanged, true);
        self.sort(items, "permute by expert", &r);
        let rows = r.per_expert * r.local;
        self.expert_casts(items, rows * h);
        items.push(self.grouped("expert fc1", r.per_expert, r.width * self.gates(), h, r.local));
        self.expert_activation(items, rows * r.width, false);
        self.expert_casts(items, rows * r.width);
        items.push(self.grouped("expert fc2", r.per_expert, h, r.width, r.local));
        self.sort(items, "unpermute by expert", &r);
        self.share(items, r.exchanged, false);
        self.exchange(items, r.exchanged);
        items.push(self.permutation("unpermute", r.sent));
        self.restore(items);
    }

    /// The same backwards.
    pub(super) fn experts_backward(&self, items: &mut Vec<Item>) {
        let Some(moe) = self.model.moe else { return };
        let (tokens, h) = (self.routed_tokens(), self.hidden());
        let r = self.routed(&moe);
        let experts = u64::from(moe.experts);
        let (up, rows) = (r.width * self.gates(), r.per_expert * r.local);
        items.push(self.permutation("unpermute backward", r.sent));
        self.exchange(items, r.exchanged);
        self.share(items, r.exchanged, true);
        self.sort(items, "unpermute by expert backward", &r);
        self.expert_casts(items, rows * h);
        items.push(self.grouped("expert fc2 dgrad", r.per_expert, r.width, h, r.local));
        items.push(self.grouped("expert fc2 wgrad", h, r.width, r.per_expert, r.local));
        self.expert_activation(items, rows * r.width, true);
        self.expert_casts(items, rows * up);
        items.push(self.grouped("expert fc1 dgrad", r.per_expert, h, up, r.local));
        items.push(self.grouped("expert fc1 wgrad", up, h, r.per_expert, r.local));
        self.sort(items, "permute by expert backward", &r);
        self.share(items, r.exchanged, false);
        self.exchange(items, r.exchanged);
        items.push(self.permutation("permute backward", r.sent));
        let bytes = tokens * experts * 4 * 3;
        let launches = self.router_launches().div_ceil(2);
        items.push(Self::stream("top-k backward", KernelClass::Routing, bytes, launches));
        items.push(self.gemm_as("router dgrad", tokens, h, experts, self.wide_precision()));
        items.push(self.gemm_as("router wgrad", experts, h, tokens, self.wide_precision()));
        self.restore(items);
        if moe.shared_hidden > 0 {
            self.enter(items);
            self.mlp_backward(items, self.shared_width(&moe), false, true);
        }
    }

    /// Bytes of a feed-forward block that are kept for backward.
    pub(super) fn feed_forward_saved(&self, experts: bool) -> u64 {
        // The activation function's output is not kept where it is made again.
        let kept = u64::from(self.recompute != Recompute::Modules);
        let per_width = (self.gates() + kept) * self.element_bytes();
        match self.model.moe.filter(|_| experts) {
            None => self.tokens() * self.ffn() * per_width,
            Some(moe) => {
                let r = self.routed(&moe);
                let rows = r.per_expert * r.local;
                // Dispatched tokens, expert activations, outputs before they are weighted.
                rows * (2 * self.hidden() * self.element_bytes() + r.width * per_width)
                    + self.tokens() * self.shared_width(&moe) * per_width
                    + self.routed_tokens() * u64::from(moe.experts) * 4
            }
        }
    }
}
