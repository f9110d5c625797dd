//! Sizes up to which a scenario is simulated.
//!
//! The limits lie a factor of ten or more above anything that has been built, and keep arithmetic
//! on shapes inside 64 bits and memory in the gigabytes: a slip of the keyboard is a message, not
//! an overflow or an hour of swapping.

use crate::workload::Model;

use super::Scenario;

/// A key that is too large: key, message.
pub(super) type TooLarge = (&'static str, String);

const DEVICES: u64 = 1 << 20;
const STAGES: u64 = 1024;
const SEQUENCE: u64 = 1 << 26;
const TOKENS_PER_MICRO_BATCH: u64 = 1 << 30;
/// Passes of a layer (or an empty chunk) in one direction, over all stages of one pipeline.
const LAYER_PASSES: u64 = 1 << 20;

fn limit(key: &'static str, what: &str, value: u64, largest: u64) -> Result<(), TooLarge> {
    if value > largest {
        let message = format!("{value} {what}; at most {largest} can be simulated");
        return Err((key, message));
    }
    Ok(())
}

/// Checks the numbers that are no counts, so that no result is infinite.
pub(super) fn check_numbers(scenario: &Scenario) -> Result<(), TooLarge> {
    let account = &scenario.account;
    for (key, value, range) in [
        ("run.tokens", scenario.run.tokens, 1.0..=1e24),
        ("software.bucket_mb", scenario.software.bucket_mb, 0.0..=1e9),
        ("account.usd_per_device_hour", account.usd_per_device_hour, 0.0..=1e6),
        ("account.grid_g_per_kwh", account.grid_g_per_kwh, 0.0..=1e5),
        ("account.pue", account.pue, 1.0..=10.0),
        ("account.lifetime_years", Some(account.lifetime_years), 0.01..=1000.0),
    ] {
        if let Some(value) = value
            && !range.contains(&value)
        {
            let message = format!("{value} is not between {} and {}", range.start(), range.end());
            return Err((key, message));
        }
    }
    Ok(())
}

/// Checks the model's shape, on its own.
pub(super) fn check_model(model: &Model) -> Result<(), TooLarge> {
    if let Some(mla) = &model.mla {
        for (key, value) in [
            ("mla.query_rank", mla.query_rank),
            ("mla.kv_rank", mla.kv_rank),
            ("mla.rope_dim", mla.rope_dim),
            ("mla.nope_dim", mla.nope_dim),
            ("mla.value_dim", mla.value_dim),
        ] {
            limit(key, "elements", value.into(), 1 << 14)?;
        }
    }
    for (key, what, value, largest) in [
        ("layers", "layers", model.layers, 1 << 16),
        ("hidden", "elements", model.hidden, 1 << 18),
        ("heads", "heads", model.heads, 1 << 14),
        ("head_dim", "elements", model.head_dim, 1 << 14),
        ("window_every", "layers", model.window_every, 1 << 16),
        ("ffn_hidden", "elements", model.ffn_hidden, 1 << 22),
        ("vocab", "tokens", model.vocab, 1 << 24),
        ("max_positions", "positions", model.max_positions, 1 << 26),
    ] {
        limit(key, what, value.into(), largest)?;
    }
    let (key, value) = model.head_dims();
    let width = u64::from(model.heads) * u64::from(key.max(value));
    limit("heads", "elements in all heads together", width, 1 << 20)?;
    limit("mtp_modules", "modules", model.mtp_modules.into(), 64)?;
    if let Some(moe) = &model.moe {
        for (key, what, value, largest) in [
            ("moe.experts", "experts", moe.experts, 1 << 14),
            ("moe.expert_hidden", "elements", moe.expert_hidden, 1 << 20),
            ("moe.shared_hidden", "elements", moe.shared_hidden, 1 << 20),
        ] {
            limit(key, what, value.into(), largest)?;
        }
        for (key, factor) in
            [("moe.imbalance", Some(moe.imbalance)), ("moe.capacity_factor", moe.capacity_factor)]
        {
            if factor.is_some_and(|factor| factor > f64::from(moe.experts)) {
                return Err((key, format!("is more than the {} experts", moe.experts)));
            }
        }
    }
    Ok(())
}

/// Checks how much one rank has to do, before its operations are listed.
pub(super) fn check_work(scenario: &Scenario, model: &Model, devices: u32) -> Result<(), TooLarge> {
    let (plan, training) = (&scenario.plan, &scenario.training);
    limit("cluster.devices", "devices", devices.into(), DEVICES)?;
    limit("cluster.nodes", "nodes", scenario.cluster.nodes.into(), DEVICES)?;
    limit("plan.pipeline_parallel", "stages", plan.pipeline_parallel.into(), STAGES)?;
    let sequence = u64::from(training.sequence_length);
    limit("training.sequence_length", "tokens per sequence", sequence, SEQUENCE)?;
    let tokens = sequence * u64::from(plan.micro_batch);
    limit("plan.micro_batch", "tokens per micro-batch", tokens, TOKENS_PER_MICRO_BATCH)?;
    // The largest tensor that is ever counted: the score matrices of unfused attention.
    let heads = u64::from(model.heads);
    let scores = u128::from(tokens) * u128::from(sequence) * u128::from(heads);
    limit(
        "training.sequence_length",
        "attention scores per layer and micro-batch",
        scores.min(u128::from(u64::MAX)) as u64,
        1 << 58,
    )?;
    let ranks = [plan.tensor_parallel, plan.context_parallel, plan.pipeline_parallel]
        .iter()
        .fold(1_u64, |ranks, degree| ranks.saturating_mul(u64::from((*degree).max(1))));
    let replicas = (u64::from(devices) / ranks).max(1);
    let micro_batches =
        u64::from(training.global_batch) / (replicas * u64::from(plan.micro_batch.max(1)));
    let chunks = u64::from(plan.pipeline_parallel) * u64::from(plan.virtual_stages);
    let passes = micro_batches.saturating_mul(u64::from(model.layers).saturating_add(chunks));
    limit("training.global_batch", "passes through layers per replica", passes, LAYER_PASSES)
}
