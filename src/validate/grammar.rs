//! Small grammars for columns that sources fill in prose: sharding, recomputation, attention,
//! number formats.

use crate::hardware::AttentionKernel;
use crate::plan::Recompute;
use crate::program::Precision;
use crate::scenario::ShardingScheme;

/// Over how many replicas something is sharded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// All of them.
    All,
    /// As many as a node has devices.
    Node,
    /// This many.
    Ranks(u32),
    /// All over this many copies.
    Copies(u32),
}

/// What a text says about sharding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SaidSharding {
    /// What is sharded.
    pub scheme: ShardingScheme,
    /// Over what.
    pub group: Group,
}

/// Parses a description of sharding: a scheme (`FSDP`, `FSDP2`, `FULL_SHARD`, `SHARD_GRAD_OP`,
/// `HSDP`, `ZeRO-1`, `distributed optimizer`, `DDP`, ...) and a group (`group 8`, `degree 32`,
/// `ranks 16`, `shard 32 x replicate 21`, `in node`, `over all DP ranks`). Nothing where the text
/// does not say.
pub(super) fn sharding(text: &str) -> Option<SaidSharding> {
    let lower = text.to_lowercase();
    // `(FSDP=0)` says that it is off, `... not stated` says nothing.
    let mut parts: Vec<String> = Vec::new();
    for part in lower.split(['+', ';', ',', '(', ')']) {
        let part = part.trim();
        let off = ["=0", "=off", "=false", "= 0", " off", "=none"];
        if part.is_empty()
            || off.iter().any(|o| part.ends_with(o))
            || part.contains("not stated")
            || part.contains("unknown")
        {
            continue;
        }
        parts.push(part.replace(['_', '-', '=', ':', '/'], " "));
    }
    let said_nothing_of_optimizer = lower.contains("not stated") || lower.contains("unknown");
    let text = parts.join(" ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let has = |wanted: &[&str]| words.iter().any(|w| wanted.contains(w));
    let phrase = |wanted: &[&str]| wanted.iter().any(|p| text.contains(p));
    let stage = words.iter().enumerate().find_map(|(i, word)| {
        let rest = word.strip_prefix("zero").or_else(|| word.strip_prefix("stage"))?;
        let rest = if rest.is_empty() { words.get(i + 1).copied().unwrap_or("") } else { rest };
        rest.chars().next()?.to_digit(10)
    });
    let hybrid = has(&["hsdp", "hybrid", "mics"]) || phrase(&["hybrid shard", "zero++", "hpz"]);
    let fsdp = words.iter().any(|w| w.starts_with("fsdp") || w.starts_with("fully"));
    let scheme = match stage {
        Some(0) => Some(ShardingScheme::None),
        Some(1) => Some(ShardingScheme::Zero1),
        Some(2) => Some(ShardingScheme::Zero2),
        Some(3) => Some(ShardingScheme::Zero3),
        Some(_) => None,
        None if phrase(&["shard grad", "grad op", "no reshard"]) => Some(ShardingScheme::Zero2),
        None if phrase(&["no shard"]) => Some(ShardingScheme::None),
        None if phrase(&["full shard"]) || fsdp || hybrid => Some(ShardingScheme::Zero3),
        None if phrase(&[
            "distributed opt",
            "dist opt",
            "sharded optimizer",
            "optimizer shard",
        ]) =>
        {
            Some(ShardingScheme::Zero1)
        }
        None if has(&["ddp", "none", "no", "replicated", "dp"]) && !said_nothing_of_optimizer => {
            Some(ShardingScheme::None)
        }
        None => None,
    }?;
    let number_after = |keys: &[&str]| {
        words
            .windows(2)
            .find_map(|pair| keys.contains(&pair[0]).then(|| pair[1].parse::<u32>().ok()).flatten())
    };
    let in_node = phrase(&["in node", "intra node", "within node", "per node", "node local"]);
    let group =
        number_after(&["shard", "group", "degree", "ranks", "size", "over", "width", "across"])
            .or_else(|| number_after(&["fsdp", "fsdp2", "hsdp", "hpz"]))
            .filter(|n| *n > 0);
    let copies = number_after(&["replicate", "replicas", "copies", "replica"]).filter(|n| *n > 0);
    let group = match (group, copies) {
        (Some(group), _) => Group::Ranks(group),
        (None, Some(copies)) => Group::Copies(copies),
        (None, None) if in_node || (hybrid && !phrase(&["all"])) => Group::Node,
        (None, None) => Group::All,
    };
    Some(SaidSharding { scheme, group })
}

/// Parses a description of recomputation; nothing where the text is empty or says something else.
pub(super) fn recompute(text: &str) -> Option<Recompute> {
    let lower = text.to_lowercase().replace(['_', '-'], " ");
    let words: Vec<&str> = lower.split_whitespace().collect();
    let has = |wanted: &[&str]| words.iter().any(|w| wanted.contains(&w.trim_matches(',')));
    if has(&["none", "no", "off", "false", "without", "0", "disabled"]) {
        Some(Recompute::None)
    } else if lower.contains("selective") || has(&["sac", "selected"]) || lower.contains("op sac") {
        Some(Recompute::Selective)
    } else if has(&["full", "yes", "on", "true", "all", "layer", "block", "uniform", "1"])
        || lower.contains("checkpoint")
        || lower.contains("activation recomputation")
    {
        Some(Recompute::Full)
    } else {
        None
    }
}

/// Parses a description of attention kernels.
pub(super) fn attention(text: &str) -> Option<AttentionKernel> {
    let lower = text.to_lowercase();
    let has = |wanted: &[&str]| wanted.iter().any(|w| lower.contains(w));
    if has(&["unfused", "eager", "core attention", "naive", "math", "megatron softmax"]) {
        Some(AttentionKernel::Unfused)
    } else if has(&["flash_3", "flash3", "flashattention-3", "flash-attention-3", "fa3"]) {
        Some(AttentionKernel::Flash3)
    } else if has(&["cudnn"]) {
        Some(AttentionKernel::Cudnn)
    } else if has(&["triton"]) {
        Some(AttentionKernel::Triton)
    } else if has(&["flash", "fused", "sdpa", "efficient", "fa2", "splash"]) {
        Some(AttentionKernel::Flash)
    } else {
        None
    }
}

/// Parses a number format: the narrowest one the linear layers use.
pub(super) fn precision(text: &str) -> Option<Precision> {
    let lower = text.to_lowercase().replace([' ', '-', '_'], "");
    let has = |wanted: &[&str]| wanted.iter().any(|w| lower.contains(w));
    if has(&["fp4", "e2m1", "float4"]) {
        Some(Precision::Fp4)
    } else if has(&["fp8", "float8", "e4m3", "e5m2", "hybrid8"]) {
        Some(Precision::Fp8)
    } else if has(&["bf16", "bfloat16"]) {
        Some(Precision::Bf16)
    } else if has(&["fp16", "float16", "half", "f16"]) {
        Some(Precision::Fp16)
    } else if has(&["fp32", "float32", "f32"]) {
        Some(Precision::Fp32)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharding_as_sources_write_it() {
        use Group::{All, Copies, Node, Ranks};
        use ShardingScheme::{None as Plain, Zero1, Zero2, Zero3};
        for (text, scheme, group) in [
            ("fsdp FULL_SHARD", Zero3, All),
            ("fsdp SHARD_GRAD_OP", Zero2, All),
            ("FSDP", Zero3, All),
            ("FSDP full shard", Zero3, All),
            ("FSDP2", Zero3, All),
            ("FSDP2 degree 32", Zero3, Ranks(32)),
            ("FSDP2 ranks 16", Zero3, Ranks(16)),
            ("FSDP group 64", Zero3, Ranks(64)),
            ("FSDP group 64 (0)", Zero3, Ranks(64)),
            ("FSDP2 HSDP shard 32 x replicate 21", Zero3, Ranks(32)),
            ("HSDP", Zero3, Node),
            ("HSDP (shard in node)", Zero3, Node),
            ("HSDP replicate 4", Zero3, Copies(4)),
            ("hybrid_shard=8", Zero3, Ranks(8)),
            ("ZeRO-1 group 8", Zero1, Ranks(8)),
            ("ZeRO-1 group 8 (in node)", Zero1, Ranks(8)),
            ("ZeRO-1 over all DP ranks", Zero1, All),
            ("ZeRO 2", Zero2, All),
            ("DeepSpeed ZeRO stage 3", Zero3, All),
            ("zero3", Zero3, All),
            ("distributed optimizer", Zero1, All),
            ("DDP + distributed optimizer", Zero1, All),
            ("DDP", Plain, All),
            ("NO_SHARD", Plain, All),
            ("none", Plain, All),
            ("dp_shard=64, FSDP2", Zero3, Ranks(64)),
        ] {
            assert_eq!(sharding(text), Some(SaidSharding { scheme, group }), "{text}");
        }
        for text in ["", "DDP + distributed optimizer not stated (FSDP=0)", "unknown", "see paper"]
        {
            assert_eq!(sharding(text), None, "{text}");
        }
    }

    #[test]
    fn recomputation_attention_and_formats() {
        assert_eq!(recompute("full"), Some(Recompute::Full));
        assert_eq!(recompute("selective (op SAC)"), Some(Recompute::Selective));
        assert_eq!(recompute("no"), Some(Recompute::None));
        assert_eq!(recompute("activation checkpointing"), Some(Recompute::Full));
        assert_eq!(recompute(""), None);
        assert_eq!(attention("FlashAttention-2"), Some(AttentionKernel::Flash));
        assert_eq!(attention("cuDNN flash"), Some(AttentionKernel::Cudnn));
        assert_eq!(attention("FlashAttention-3"), Some(AttentionKernel::Flash3));
        assert_eq!(attention("unfused"), Some(AttentionKernel::Unfused));
        assert_eq!(attention("ring"), None);
        assert_eq!(precision("FP8-CS (FP8-MX)"), Some(Precision::Fp8));
        assert_eq!(precision("NVFP4"), Some(Precision::Fp4));
        assert_eq!(precision("bf16 mixed"), Some(Precision::Bf16));
        assert_eq!(precision("int8"), None);
    }
}
