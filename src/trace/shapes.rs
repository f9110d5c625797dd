//! What a recorded kernel computed, from the shapes of the operator that launched it.
//!
//! A kernel belongs to the innermost framework operator that was running on the thread of its
//! launch call when the call began. Operators that multiply matrices or compute attention say all
//! there is to know in their input shapes; most others are bound by the bytes they read and write:
//!
//! * **Matrix products**: `mm`, `addmm`, `bmm`, `baddbmm`, `linear`, `_scaled_mm`. Where the operator
//!   launched several kernels the longest one is the product.
//! * **Attention**: PyTorch's fused operators. The mask is not recorded; none is assumed.
//! * **Streams**: reads every input once and writes as much as the largest input holds, where the
//!   operator reduces nothing; look-ups read and write the rows that were asked for.
//!
//! An operator whose work depends on more than its input shapes (a convolution on its stride,
//! attention over packed sequences on their number) gives no shape.

use std::collections::BTreeMap;

use crate::program::{AttentionPass, FusedAttention, Precision, Work};

use super::collectives::element_bytes;
use super::launches::Launches;
use super::model::{Kind, NO_INDEX, RankTrace};

/// Operators that are looked through for the one that encloses a launch.
const LOOK_BACK: usize = 64;

/// What a kernel does, by its name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameClass {
    /// Multiplies matrices, or convolves.
    Matrix,
    /// Computes attention.
    Attention,
    /// Anything else; nearly always bound by memory.
    Memory,
}

/// What a kernel of this name does.
#[must_use]
pub fn name_class(name: &str) -> NameClass {
    let lower = name.to_ascii_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    if has(&["flash", "fmha", "attn_fwd", "attn_bwd", "attention", "sdpa"]) {
        NameClass::Attention
    } else if has(&[
        "gemm", "cijk_", "nvjet", "xmma", "wmma", "tensorop", "matmul", "fprop", "dgrad", "wgrad",
        "convolve", "conv2d", "winograd", "_mma_",
    ]) {
        NameClass::Matrix
    } else {
        NameClass::Memory
    }
}

/// The work of a kernel, and how much it takes in and gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What it computes.
    pub work: Work,
    /// Bytes of its largest input.
    pub input_bytes: u64,
    /// Bytes of its result, taken to be as large as the largest input where nothing says more.
    pub output_bytes: u64,
}

/// The shape of every event of a rank; `None` where it is unknown.
#[must_use]
pub fn shapes(rank: &RankTrace, launches: &Launches) -> Vec<Option<Shape>> {
    let mut works = vec![None; rank.events.len()];
    // Operators by thread, in order of their start.
    let mut by_thread: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (index, event) in rank.events.iter().enumerate() {
        if event.kind == Kind::Op {
            by_thread.entry(event.lane).or_default().push(index);
        }
    }
    if by_thread.is_empty() {
        return works;
    }
    // Kernels by the operator that launched them.
    let mut launched: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, event) in rank.events.iter().enumerate() {
        if event.kind != Kind::Kernel || event.communicates {
            continue;
        }
        let Some(call) = launches.call(index).map(|call| &rank.events[call]) else { continue };
        let Some(list) = by_thread.get(&call.lane) else { continue };
        let end = list.partition_point(|op| rank.events[*op].start_ns <= call.start_ns);
        let encloses = |op: &&usize| rank.events[**op].end_ns() >= call.start_ns;
        if let Some(op) = list[..end].iter().rev().take(LOOK_BACK).find(encloses) {
            launched.entry(*op).or_default().push(index);
        }
    }
    for (op, kernels) in launched {
        let event = &rank.events[op];
        let Some(detail) = rank.op(event) else { continue };
        let (dims, types) = (rank.names.get(detail.dims), rank.names.get(detail.types));
        let Some(work) = work_of(rank.name(event), dims, types) else { continue };
        let input_bytes = largest(dims, types).unwrap_or(0);
        let output_bytes = match work {
            Work::Gemm { m, n, batch, precision, .. } => {
                (m as f64 * n as f64 * batch as f64 * precision.bytes().max(2.0)) as u64
            }
            _ => input_bytes,
        };
        let shape = Some(Shape { work, input_bytes, output_bytes });
        if matches!(work, Work::Stream { .. }) {
            for kernel in kernels {
                works[kernel] = shape;
            }
        } else if let Some(longest) = kernels.iter().max_by_key(|k| rank.events[**k].dur_ns) {
            works[*longest] = shape;
        }
    }
    debug_assert!(rank.events.len() < NO_INDEX as usize);
    works
}

/// Bytes of the largest input of a known type.
fn largest(dims: &str, types: &str) -> Option<u64> {
    let types = split(types);
    let sizes = tensors(dims)?.into_iter().zip(types).filter(|(shape, _)| !shape.is_empty());
    let bytes = sizes.filter_map(|(shape, dtype)| {
        let elements = shape.iter().try_fold(1_u64, |all, size| all.checked_mul(*size))?;
        elements.checked_mul(u64::try_from(element_bytes(dtype)?).ok()?)
    });
    bytes.max()
}

/// The work of an operator from its name, input shapes and input types, as recorded.
#[must_use]
pub fn work_of(name: &str, dims: &str, types: &str) -> Option<Work> {
    let dims = tensors(dims)?;
    let types = split(types);
    let name = name.strip_prefix("aten::").unwrap_or(name);
    let precision = |input: usize| precision(types.get(input)?);
    let tensor = |input: usize| dims.get(input).map(Vec::as_slice);
    let product = |a: usize, b: usize| -> Option<Work> {
        let (left, right) = (tensor(a)?, tensor(b)?);
        let (batch, m, k, n) = match (left, right) {
            ([m, k], [inner, n]) if k == inner => (1, *m, *k, *n),
            ([b, m, k], [other, inner, n]) if k == inner && b == other => (*b, *m, *k, *n),
            _ => return None,
        };
        let precision = precision(a)?;
        ([batch, m, n, k].iter().all(|size| *size > 0)).then_some(Work::Gemm {
            m,
            n,
            k,
            batch,
            precision,
        })
    };
    match name {
        "mm" | "bmm" | "_scaled_mm" => product(0, 1),
        "addmm" | "baddbmm" | "_addmm_activation" | "addmm_" => product(1, 2),
        "linear" => {
            // The weight is stored as rows of outputs.
            let (input, weight) = (tensor(0)?, tensor(1)?);
            let (k, rows) = input.split_last()?;
            let [n, inner] = weight else { return None };
            let m = rows.iter().try_fold(1_u64, |all, size| all.checked_mul(*size))?;
            (k == inner && m > 0 && *n > 0 && *k > 0).then_some(Work::Gemm {
                m,
                n: *n,
                k: *k,
                batch: 1,
                precision: precision(0)?,
            })
        }
        "_flash_attention_forward" | "_efficient_attention_forward" => attention(
            AttentionPass::Forward,
            [tensor(0)?, tensor(1)?, tensor(2)?],
            false,
            precision(0)?,
        ),
        "_flash_attention_backward" | "_efficient_attention_backward" => attention(
            AttentionPass::Backward,
            [tensor(1)?, tensor(2)?, tensor(3)?],
            false,
            precision(1)?,
        ),
        "_scaled_dot_product_flash_attention"
        | "_scaled_dot_product_efficient_attention"
        | "_scaled_dot_product_cudnn_attention"
        | "_cudnn_attention_forward" => attention(
            AttentionPass::Forward,
            [tensor(0)?, tensor(1)?, tensor(2)?],
            true,
            precision(0)?,
        ),
        "_scaled_dot_product_flash_attention_backward"
        | "_scaled_dot_product_efficient_attention_backward"
        | "_scaled_dot_product_cudnn_attention_backward" => attention(
            AttentionPass::Backward,
            [tensor(1)?, tensor(2)?, tensor(3)?],
            true,
            precision(1)?,
        ),
        // Work that the input shapes do not determine.
        _ if [
            "conv",
            "attention",
            "matmul",
            "einsum",
            "sort",
            "topk",
            "cudnn",
            "miopen",
            "rnn",
        ]
        .iter()
        .any(|part| name.contains(part)) =>
        {
            None
        }
        _ => stream(name, &dims, &types),
    }
}

fn attention(
    pass: AttentionPass,
    [q, k, v]: [&[u64]; 3],
    heads_first: bool,
    precision: Precision,
) -> Option<Work> {
    let ([batch, a, b, head_dim], [_, c, d, _], [.., value_dim]) = (q, k, v) else { return None };
    let ((queries, heads), (keys, kv_heads)) =
        if heads_first { ((b, a), (d, c)) } else { ((a, b), (c, d)) };
    let all = [*batch, *queries, *heads, *keys, *kv_heads, *head_dim, *value_dim];
    all.iter().all(|size| *size > 0).then_some(Work::Attention {
        pass,
        implementation: FusedAttention::Flash2,
        batch: *batch,
        heads: *heads,
        kv_heads: *kv_heads,
        queries: *queries,
        keys: *keys,
        pairs: queries.checked_mul(*keys)?,
        head_dim: *head_dim,
        value_dim: *value_dim,
        precision,
    })
}

/// Bytes that a memory-bound operator reads and writes.
fn stream(name: &str, dims: &[Vec<u64>], types: &[&str]) -> Option<Work> {
    let size = |input: usize| -> Option<u64> {
        let shape = dims.get(input).filter(|shape| !shape.is_empty())?;
        let elements = shape.iter().try_fold(1_u64, |all, size| all.checked_mul(*size))?;
        let bytes = u64::try_from(element_bytes(types.get(input)?)?).ok()?;
        elements.checked_mul(bytes)
    };
    let sizes: Vec<u64> = (0..dims.len()).filter_map(size).collect();
    // A tensor of an unknown type makes the sum meaningless.
    if sizes.len() != dims.iter().filter(|shape| !shape.is_empty()).count() {
        return None;
    }
    let largest = *sizes.iter().max()?;
    let read = sizes.iter().try_fold(0_u64, |all, size| all.checked_add(*size))?;
    let base = name.trim_start_matches('_').trim_end_matches('_');
    let bytes = if ["index_select", "embedding", "gather", "index"].contains(&base) {
        // Rows of a table: the list of indices says how many, the table how wide.
        let table = dims.first()?;
        let indices = dims.iter().skip(1).filter(|shape| !shape.is_empty());
        let rows = indices.map(|shape| shape.iter().product::<u64>()).max()?;
        let element = u64::try_from(element_bytes(types.first()?)?).ok()?;
        let row = table.iter().skip(1).try_fold(element, |all, size| all.checked_mul(*size))?;
        rows.checked_mul(row)?.checked_mul(2)?
    } else if name.starts_with("copy") {
        // Target and source are both inputs.
        read
    } else if ["sum", "mean", "all", "any", "max", "min", "norm", "linalg_vector_norm", "amax"]
        .contains(&base)
    {
        read
    } else {
        read.checked_add(largest)?
    };
    (bytes > 0).then_some(Work::Stream { bytes, launches: 1 })
}

fn precision(text: &str) -> Option<Precision> {
    let name = text.rsplit("::").next().unwrap_or(text).to_ascii_lowercase();
    Some(match name.as_str() {
        "float" | "float32" => Precision::Fp32,
        "bfloat16" => Precision::Bf16,
        "half" | "float16" => Precision::Fp16,
        name if name.starts_with("float8") => Precision::Fp8,
        _ => return None,
    })
}

/// The shapes of a list such as `[[8,4],[],[4]]`; lists of tensors (`[[[2,2],[3]],[]]`) have none.
fn tensors(text: &str) -> Option<Vec<Vec<u64>>> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let mut shapes = Vec::new();
    let mut rest = inner.trim_start_matches([',', ' ']);
    while !rest.is_empty() {
        let body = rest.strip_prefix('[')?;
        if body.starts_with('[') {
            return None;
        }
        let (sizes, after) = body.split_once(']')?;
        let sizes: Result<Vec<u64>, _> =
            sizes.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::parse).collect();
        shapes.push(sizes.ok()?);
        rest = after.trim_start_matches([',', ' ']);
    }
    Some(shapes)
}

fn split(text: &str) -> Vec<&str> {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
    inner.split(',').map(|part| part.trim().trim_matches('"')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_read_from_their_operands() {
        let gemm = work_of(
            "aten::addmm",
            "[[768],[788,768],[768,3072],[],[]]",
            "[c10::BFloat16,c10::BFloat16,c10::BFloat16,Scalar,Scalar]",
        );
        let expected = Work::Gemm { m: 788, n: 3072, k: 768, batch: 1, precision: Precision::Bf16 };
        assert_eq!(gemm, Some(expected));
        let batched = work_of("aten::bmm", "[[12,64,32],[12,32,16]]", "[c10::Half,c10::Half]");
        let expected = Work::Gemm { m: 64, n: 16, k: 32, batch: 12, precision: Precision::Fp16 };
        assert_eq!(batched, Some(expected));
        let linear = work_of("aten::linear", "[[2,8,32],[16,32],[16]]", "[float,float,float]");
        let expected = Work::Gemm { m: 16, n: 16, k: 32, batch: 1, precision: Precision::Fp32 };
        assert_eq!(linear, Some(expected));
        assert_eq!(work_of("aten::mm", "[[2,3],[4,5]]", "[float,float]"), None);
    }

    #[test]
    fn attention_knows_where_its_heads_are() {
        let dims = "[[4,197,12,64],[4,197,6,64],[4,197,6,64],[]]";
        let types = "[c10::BFloat16,c10::BFloat16,c10::BFloat16,]";
        let Some(Work::Attention { queries, heads, kv_heads, .. }) =
            work_of("aten::_flash_attention_forward", dims, types)
        else {
            panic!("no attention");
        };
        assert_eq!((queries, heads, kv_heads), (197, 12, 6));
        let dims = "[[4,12,197,64],[4,6,200,64],[4,6,200,64],[]]";
        let Some(Work::Attention { queries, keys, heads, .. }) =
            work_of("aten::_scaled_dot_product_flash_attention", dims, types)
        else {
            panic!("no attention");
        };
        assert_eq!((queries, keys, heads), (197, 200, 12));
    }

    #[test]
    fn streams_count_what_is_read_and_written() {
        let bytes = |name: &str, dims: &str, types: &str| match work_of(name, dims, types) {
            Some(Work::Stream { bytes, .. }) => Some(bytes),
            _ => None,
        };
        // Two read, one written.
        assert_eq!(bytes("aten::add", "[[4,8],[4,8],[]]", "[float,float,Scalar]"), Some(384));
        assert_eq!(bytes("aten::copy_", "[[4,8],[4,8],[]]", "[float,c10::Half,]"), Some(192));
        assert_eq!(bytes("aten::sum", "[[4,8],[]]", "[float,]"), Some(128));
        // Ten rows of eight, read and written.
        let dims = "[[1000,8],[],[10]]";
        assert_eq!(bytes("aten::index_select", dims, "[float,Scalar,long int]"), Some(640));
        assert_eq!(bytes("aten::cat", "[[[4,8],[4,8]],[]]", "[TensorList,Scalar]"), None);
        assert_eq!(bytes("aten::convolution", "[[4,8],[4,8]]", "[float,float]"), None);
    }

    #[test]
    fn kernels_are_classed_by_name() {
        for (name, class) in [
            ("Cijk_Alik_Bljk_B_BS_BH_Bias", NameClass::Matrix),
            (
                "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816fprop>",
                NameClass::Matrix,
            ),
            ("void pytorch_flash::flash_fwd_kernel<...>", NameClass::Attention),
            ("attn_fwd", NameClass::Attention),
            ("void at::native::vectorized_elementwise_kernel<4>", NameClass::Memory),
        ] {
            assert_eq!(name_class(name), class, "{name}");
        }
    }
}
