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
const LAYER_PASSES: u64 = 4 << 20;

fn limit(key: &'static str, what: &str, value: u64, largest: u64) -> Result<(), TooLarge> {
    if value > largest {
        let message = format!("{value} {what}; at most {largest} can be simulated");
        return Err((key, message));
    }
    Ok(())
}

/// Checks the model's shape, on its own.
pub(super) fn check_model(model: &Model) -> Result<(), TooLarge> {
    for (key, what, value, largest) in [
        ("layers", "layers", model.layers, 1 << 16),
        ("hidden", "elements", model.hidden, 1 << 18),
        ("heads", "heads", model.heads, 1 << 14),
        ("head_dim", "elements", model.head_dim, 1 << 14),
        ("ffn_hidden", "elements", model.ffn_hidden, 1 << 22),
        ("vocab", "tokens", model.vocab, 1 << 24),
        ("max_positions", "positions", model.max_positions, 1 << 26),
    ] {
        limit(key, what, value.into(), largest)?;
    }
    let width = u64::from(model.heads) * u64::from(model.head_dim);
    limit("heads", "elements in all heads together", width, 1 << 20)
}

/// Checks how much one rank has to do, before its operations are listed.
pub(super) fn check_work(scenario: &Scenario, model: &Model, devices: u32) -> Result<(), TooLarge> {
    let (plan, training) = (&scenario.plan, &scenario.training);
    limit("cluster.devices", "devices", devices.into(), DEVICES)?;
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
    let ranks = u64::from(plan.tensor_parallel.max(1))
        .saturating_mul(u64::from(plan.pipeline_parallel.max(1)));
    let replicas = (u64::from(devices) / ranks).max(1);
    let micro_batches =
        u64::from(training.global_batch) / (replicas * u64::from(plan.micro_batch.max(1)));
    let chunks = u64::from(plan.pipeline_parallel) * u64::from(plan.virtual_stages);
    let passes = micro_batches.saturating_mul(u64::from(model.layers).saturating_add(chunks));
    limit("training.global_batch", "passes through layers per replica", passes, LAYER_PASSES)
}
