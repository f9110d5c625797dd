//! The ablation of MegaScale (table 3): a stack of the Megatron-LM of its time that takes over
//! MegaScale's figures step by step.
//!
//! The table prints utilisation only. It is computed as the paper does: six FLOPs per parameter and
//! token plus attention, `12 x layers x width x tokens attended to`, over the dense peak of 312
//! Tflop/s. Table 2 shows that the paper counts the window where one slides: between its two systems
//! the printed MFU grows 1.4 % less than the speed, which is half of attention's share.

use crate::hardware::{Catalogue, Stack};

use super::row::{Row, RowSpec};
use super::{Predictor, Status};

/// What the table's steps are called, in its order.
pub const STEPS: [&str; 9] = [
    "Megatron-LM",
    "parallel transformer block",
    "sliding window attention",
    "tensor-parallel overlap",
    "pipeline overlap",
    "data-parallel overlap",
    "efficient operators",
    "other",
    "LAMB, three times the batch",
];

/// Dense bf16 peak of the device, flop/s.
const PEAK: f64 = 312e12;

/// A step of the ablation.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What was added.
    pub name: &'static str,
    /// Predicted utilisation in percent; none where the row is not predicted.
    pub predicted: Option<f64>,
    /// As printed.
    pub measured: f64,
}

/// MegaScale's stack as of a step: `from` with what the steps so far take over from `to`.
fn mixture(from: &Stack, to: &Stack, step: usize) -> Stack {
    if step >= 7 {
        return to.clone();
    }
    let mut stack = from.clone();
    (stack.name, stack.aliases) = (to.name.clone(), to.aliases.clone());
    stack.lineage = None;
    if step >= 3 {
        stack.overlap.tensor_backward = to.overlap.tensor_backward;
    }
    if step >= 4 {
        stack.overlap.pipeline = to.overlap.pipeline;
    }
    if step >= 5 {
        stack.overlap.gradient_reduce = to.overlap.gradient_reduce;
        stack.overlap.parameter_gather = to.overlap.parameter_gather;
        stack.bucket = to.bucket.clone();
        stack.defaults.sharding = to.defaults.sharding;
    }
    if step >= 6 {
        stack.fusion = to.fusion.clone();
        stack.attention = to.attention;
        stack.in_training = to.in_training.clone();
    }
    stack
}

/// Utilisation in percent as the paper counts it.
fn utilisation(spec: &RowSpec, parameters: f64, rate: f64, windowed: bool) -> Option<f64> {
    let sequence = f64::from(spec.sequence?);
    let attended = if windowed { sequence / 2.0 } else { sequence };
    let attention = 12.0 * f64::from(spec.layers?) * f64::from(spec.hidden?) * attended;
    Some(rate * (6.0 * parameters + attention) / PEAK * 100.0)
}

/// The table, predicted; empty where its rows, or the stacks, are not there.
#[must_use]
pub fn ablation(catalogue: &Catalogue, rows: &[Row]) -> Vec<Step> {
    let table: Vec<(&RowSpec, f64)> = rows
        .iter()
        .filter_map(|row| Some((row.spec.as_ref().ok()?, row.measured.mfu_percent?)))
        .filter(|(spec, _)| spec.framework == "MegaScale ablation")
        .collect();
    let (Some(from), Some(to)) =
        (catalogue.stacks.get("megatron-lm-2023"), catalogue.stacks.get("megascale"))
    else {
        return Vec::new();
    };
    if table.len() != STEPS.len() {
        return Vec::new();
    }
    table
        .into_iter()
        .enumerate()
        .map(|(step, (spec, measured))| {
            let mut trial = catalogue.clone();
            if let Some(entry) = trial.stacks.get_mut("megascale") {
                entry.item = mixture(&from.item, &to.item, step);
            }
            let mut spec = spec.clone();
            spec.precision = "bf16".to_owned();
            for (from, key) in [(1, "parallel_block"), (2, "sliding_window")] {
                if step >= from {
                    spec.options.push((key.to_owned(), "yes".to_owned()));
                }
            }
            if step >= 8 {
                spec.options.push(("optimizer".to_owned(), "lamb".to_owned()));
            }
            let prediction = Predictor::new(&trial).predict(&spec);
            let predicted = (prediction.status == Status::Ok)
                .then(|| {
                    let parameters = prediction.scale.as_ref()?.parameters;
                    utilisation(&spec, parameters, prediction.tokens_per_s_per_device?, step >= 2)
                })
                .flatten();
            Step { name: STEPS[step], predicted, measured }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_own_row_gives_its_own_utilisation() {
        // Table 2: 768 sequences of 2,048 in 40.0 s on 256 devices; 53.0 % printed.
        let spec = RowSpec {
            sequence: Some(2048),
            layers: Some(96),
            hidden: Some(12_288),
            ..RowSpec::default()
        };
        let rate = 768.0 * 2048.0 / 40.0 / 256.0;
        let full = utilisation(&spec, 175e9, rate, false).expect("a figure");
        assert!((full - 53.1).abs() < 0.1, "{full}");
        // MegaScale: 32.0 s, 65.3 % printed.
        let window = utilisation(&spec, 175e9, rate * 40.0 / 32.0, true).expect("a figure");
        assert!((window - 65.3).abs() < 0.4, "{window}");
    }
}
