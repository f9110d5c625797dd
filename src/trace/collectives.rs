//! What communication kernels are, and what they moved.
//!
//! A kernel communicates if its metadata says so, or else if its name is on a list. Not every
//! communication is NCCL: expert-parallel libraries and inference engines bring their own kernels.
//! What a kernel does not say of itself is taken from the operator it was launched in.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::model::{Collective, Event, Kind, NO_INDEX, RankTrace};
use super::names::NameId;

/// Parts of kernel names, in lower case, that mean communication.
const COMMUNICATION: [&str; 13] = [
    "nccl",
    "rccl",
    "hccl",
    "hcom_",
    "mscclpp",
    "msccl_",
    "ep::internode",
    "ep::intranode",
    "custom_all_reduce",
    "custom_allreduce",
    "customallreduce",
    "cross_device_reduce",
    "trtllm_allreduce",
];

/// Parts of kernel names that suggest communication inside a kernel that counts as compute: the
/// definition above is the one that published breakdowns use, and these kernels often compute too
/// (fused normalisation, reduction over multicast memory). Reports name them instead of guessing.
const SUSPICIOUS: [&str; 8] = [
    "multimem_",
    "one_shot_all_reduce",
    "two_shot_all_reduce",
    "oneshotallreduce",
    "twoshotallreduce",
    "allreduce_fusion",
    "nvshmem",
    "rocshmem",
];

/// Whether a kernel that counts as compute has a name that suggests communication.
#[must_use]
pub fn suspicious(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    SUSPICIOUS.iter().any(|part| lower.contains(part)) && !communicates(name)
}

/// Whether a kernel of this name communicates with other ranks.
#[must_use]
pub fn communicates(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    COMMUNICATION.iter().any(|part| lower.contains(part))
}

/// A communication operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommOp {
    /// Everybody gets the reduction of everybody's data.
    AllReduce,
    /// Everybody gets everybody's data.
    AllGather,
    /// Everybody gets a share of the reduction.
    ReduceScatter,
    /// Everybody sends a different part to everybody.
    AllToAll,
    /// One sends to all.
    Broadcast,
    /// One gets the reduction.
    Reduce,
    /// One gets from all.
    Gather,
    /// One sends parts to all.
    Scatter,
    /// Point to point.
    SendRecv,
    /// Synchronisation only.
    Barrier,
    /// Anything else.
    Other,
}

impl CommOp {
    /// The operation that a recorded name or kernel name means.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let text: String = text
            .chars()
            .filter(|c| !matches!(c, '_' | '-' | ' ' | ':'))
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let has = |part: &str| text.contains(part);
        if has("allreduce") || has("crossdevicereduce") {
            Self::AllReduce
        } else if has("reducescatter") {
            Self::ReduceScatter
        } else if has("allgather") {
            Self::AllGather
        } else if has("alltoall") || has("internode") || has("intranode") {
            Self::AllToAll
        } else if has("broadcast") {
            Self::Broadcast
        } else if has("barrier") {
            Self::Barrier
        } else if has("send") || has("recv") {
            Self::SendRecv
        } else if has("gather") {
            Self::Gather
        } else if has("scatter") {
            Self::Scatter
        } else if has("reduce") {
            Self::Reduce
        } else {
            Self::Other
        }
    }

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllToAll => "all_to_all",
            Self::Broadcast => "broadcast",
            Self::Reduce => "reduce",
            Self::Gather => "gather",
            Self::Scatter => "scatter",
            Self::SendRecv => "send_recv",
            Self::Barrier => "barrier",
            Self::Other => "other",
        }
    }

    /// Whether no member can finish before the last has arrived, so that ends agree across ranks.
    #[must_use]
    pub const fn ends_together(self) -> bool {
        matches!(
            self,
            Self::AllReduce
                | Self::AllGather
                | Self::ReduceScatter
                | Self::AllToAll
                | Self::Barrier
        )
    }

    /// Bus bandwidth over algorithm bandwidth for `n` ranks, as the NCCL tests define it.
    #[must_use]
    pub fn bus_factor(self, n: u32) -> f64 {
        let n = f64::from(n.max(1));
        match self {
            Self::AllReduce => 2.0 * (n - 1.0) / n,
            Self::AllGather
            | Self::ReduceScatter
            | Self::AllToAll
            | Self::Gather
            | Self::Scatter => (n - 1.0) / n,
            _ => 1.0,
        }
    }

    /// The size that bandwidth is quoted for, bytes, from what each rank puts in and gets out.
    #[must_use]
    pub fn message_bytes(
        self,
        in_bytes: Option<i64>,
        out_bytes: Option<i64>,
        n: u32,
    ) -> Option<i64> {
        let n = i64::from(n);
        match self {
            Self::AllGather => out_bytes.or_else(|| in_bytes?.checked_mul(n)),
            Self::ReduceScatter => in_bytes.or_else(|| out_bytes?.checked_mul(n)),
            _ => in_bytes.filter(|bytes| *bytes > 0).or(out_bytes),
        }
        .filter(|bytes| *bytes > 0)
    }
}

/// Bytes of an element of a recorded type.
#[must_use]
pub fn element_bytes(dtype: &str) -> Option<i64> {
    let name = dtype.rsplit("::").next().unwrap_or(dtype).to_ascii_lowercase();
    Some(match name.as_str() {
        "double" | "long" | "long int" | "int64" | "float64" => 8,
        "float" | "int" | "int32" | "float32" => 4,
        "bfloat16" | "half" | "short" | "short int" | "float16" => 2,
        "byte" | "char" | "signed char" | "unsigned char" | "bool" | "uint8" | "int8" => 1,
        name if name.starts_with("float8") => 1,
        _ => return None,
    })
}

/// The operation of a communication kernel.
#[must_use]
pub fn operation(trace: &RankTrace, event: &Event) -> CommOp {
    let recorded = trace.collective(event).map(|c| CommOp::of(trace.names.get(c.op)));
    match recorded {
        Some(op) if op != CommOp::Other => op,
        _ => CommOp::of(trace.name(event)),
    }
}

/// Bytes that a rank put in and got out, where recorded.
#[must_use]
pub fn bytes(trace: &RankTrace, event: &Event) -> (Option<i64>, Option<i64>) {
    let Some(collective) = trace.collective(event) else { return (None, None) };
    let element = element_bytes(trace.names.get(collective.dtype));
    let size = |elements: i64| element?.checked_mul(elements).filter(|bytes| *bytes >= 0);
    (size(collective.in_elements), size(collective.out_elements))
}

/// Marks communication kernels and completes their metadata from the operators around them.
pub(crate) fn resolve(trace: &mut RankTrace) {
    let by_name: Vec<bool> = trace.names.iter().map(communicates).collect();
    let mut pending = false;
    for event in &mut trace.events {
        if event.kind == Kind::Kernel {
            event.communicates = event.collective != NO_INDEX || by_name[event.name.index()];
            pending |= event.communicates && event.collective == NO_INDEX;
        }
    }
    if pending {
        complete(trace);
    }
}

/// An operator that says something about a collective.
struct Source {
    lane: i64,
    start_ns: i64,
    end_ns: i64,
    collective: u32,
    /// Whether it is a record of the communication library and not just a named range.
    record: bool,
}

fn complete(trace: &mut RankTrace) {
    let mut sources = Vec::new();
    let mut by_external: HashMap<i64, u32, FixedState> = HashMap::default();
    let mut launches: HashMap<i64, (i64, i64), FixedState> = HashMap::default();
    for index in 0..trace.events.len() {
        let event = trace.events[index];
        match event.kind {
            Kind::Runtime | Kind::Driver => {
                if let Some(correlation) = event.correlation() {
                    launches.insert(correlation, (event.lane, event.start_ns));
                }
            }
            Kind::Op | Kind::Annotation => {
                let record = event.collective != NO_INDEX;
                let collective = if record { event.collective } else { named(trace, &event) };
                if collective == NO_INDEX {
                    continue;
                }
                sources.push(Source {
                    lane: event.lane,
                    start_ns: event.start_ns,
                    end_ns: event.end_ns(),
                    collective,
                    record,
                });
                if let (true, Some(external)) = (record, event.external_id()) {
                    by_external.insert(external, collective);
                }
            }
            _ => {}
        }
    }
    sources.sort_by_key(|source| (source.lane, source.start_ns));
    for event in &mut trace.events {
        if !event.communicates || event.collective != NO_INDEX {
            continue;
        }
        if let Some(collective) = event.external_id().and_then(|id| by_external.get(&id)) {
            event.collective = *collective;
            continue;
        }
        let Some(&(lane, at)) = event.correlation().and_then(|id| launches.get(&id)) else {
            continue;
        };
        let end = sources.partition_point(|source| (source.lane, source.start_ns) <= (lane, at));
        // Records enclose the named range, which encloses the launch: a few steps suffice.
        let enclosing = || {
            sources[..end]
                .iter()
                .rev()
                .take(8)
                .filter(|source| source.lane == lane && source.end_ns >= at)
        };
        if let Some(source) = enclosing().find(|s| s.record).or_else(|| enclosing().next()) {
            event.collective = source.collective;
        }
    }
}

/// Older profilers leave only a range called `nccl:all_reduce` with the shape of its input.
fn named(trace: &mut RankTrace, event: &Event) -> u32 {
    let name = trace.name(event);
    let Some(op) = name.strip_prefix("nccl:").or_else(|| name.strip_prefix("rccl:")) else {
        return NO_INDEX;
    };
    let op = op.to_owned();
    let (dims, types) = trace
        .op(event)
        .map_or((NameId::EMPTY, NameId::EMPTY), |detail| (detail.dims, detail.types));
    let elements = elements(trace.names.get(dims)).unwrap_or(-1);
    let types = trace.names.get(types);
    let dtype = types.trim_start_matches('[').split([',', ']']).next().unwrap_or_default();
    let dtype = dtype.to_owned();
    let collective = Collective {
        op: trace.names.intern(&op),
        dtype: trace.names.intern(&dtype),
        in_elements: elements,
        ..Collective::default()
    };
    trace.add_collective(collective)
}

/// Elements of all tensors in a shape list such as `[[8,4],[16]]`.
fn elements(dims: &str) -> Option<i64> {
    let mut total: i64 = 0;
    let mut any = false;
    for part in dims.split('[').filter_map(|part| part.split(']').next()) {
        if part.is_empty() {
            continue;
        }
        let mut product: i64 = 1;
        for size in part.split(',').filter(|size| !size.is_empty()) {
            product = product.checked_mul(size.parse().ok()?)?;
        }
        total = total.checked_add(product)?;
        any = true;
    }
    any.then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communication_is_known_by_name() {
        for name in [
            "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
            "ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*, unsigned long, ncclWork*)",
            "void deep_ep::intranode::dispatch<8, 768>",
            "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 8>",
        ] {
            assert!(communicates(name), "{name}");
        }
        for name in [
            "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>",
            "ampere_sgemm_128x64_nn",
            "void cub::DeviceReduceKernel",
            "triton_red_fused_all_gather_like_0",
        ] {
            assert!(!communicates(name), "{name}");
        }
    }

    #[test]
    fn operations_are_known_by_any_of_their_names() {
        for (text, op) in [
            ("allreduce", CommOp::AllReduce),
            ("_allgather_base", CommOp::AllGather),
            ("all_to_allv", CommOp::AllToAll),
            ("reduce_scatter_tensor_coalesced", CommOp::ReduceScatter),
            ("ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t", CommOp::SendRecv),
            ("ncclDevKernel_Broadcast_RING_LL", CommOp::Broadcast),
            ("ncclDevKernel_Generic", CommOp::Other),
        ] {
            assert_eq!(CommOp::of(text), op, "{text}");
        }
    }

    #[test]
    fn bus_bandwidth_follows_the_nccl_tests() {
        assert!((CommOp::AllReduce.bus_factor(8) - 1.75).abs() < 1e-12);
        assert!((CommOp::AllGather.bus_factor(4) - 0.75).abs() < 1e-12);
        assert_eq!(CommOp::AllGather.message_bytes(Some(10), None, 8), Some(80));
        assert_eq!(CommOp::AllReduce.message_bytes(Some(10), Some(10), 8), Some(10));
        assert_eq!(CommOp::ReduceScatter.message_bytes(None, Some(10), 2), Some(20));
    }

    #[test]
    fn shapes_count_elements() {
        assert_eq!(elements("[[8,4],[16],[]]"), Some(48));
        assert_eq!(elements("[[[2,2],[3]]]"), Some(7));
        assert_eq!(elements("[[],[]]"), None);
        assert_eq!(elements("[[99999999999,99999999999]]"), None);
    }
}
